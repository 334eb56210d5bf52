"""Lists of actors at key frames, read from AVA's files."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ._search import video_files
from .actors import ActorList, KeyFrame
from .boxes import overlaps
from .formats._format import report_missing
from .formats.ava import Box, Row, read_boxes, read_excluded, read_label_map, real
from .samples import VIDEO_SUFFIXES, FrameFolder, Sample

log = logging.getLogger("vidops.data")

AVA_ACTIONS = 80
AVA_TIMESTAMPS = (902.0, 1798.0)

Key = tuple[str, float]
# The boxes of one key frame: (box, person) -> actions, and the score of a proposal.
_Found = dict[tuple[Box, str], tuple[list[int], float]]


def read_actors(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    *,
    labels: str | os.PathLike[str] | None = None,
    scored: str | os.PathLike[str] | None = None,
    excluded: str | os.PathLike[str] | None = None,
    proposals: str | os.PathLike[str] | None = None,
    min_score: float = 0.0,
    match_iou: float = 0.5,
    keep_truth: bool = False,
    start_time: float = 900.0,
    timestamps: tuple[float, float] | None = AVA_TIMESTAMPS,
    missing: str = "error",
    frames: FrameFolder | None = None,
) -> ActorList:
    """Read key frames with boxes and actions in AVA's formats, v2.1 and v2.2.

    A line is ``video,timestamp,x1,y1,x2,y2,action,person``, edges as shares of width and height, actions counted
    from 1, an actor on as many lines as it does things; lines are joined that have video, timestamp, box and person in
    common. Without box and action a line is a key frame that shows nobody. A video is the file with this name, or
    it with any suffix of videos, in ``root``, else the folder of its frames, else a file below ``root``.

    With ``proposals``, lines ``video,timestamp,x1,y1,x2,y2,action,score`` whose action is mostly empty, their boxes
    take the place of the list's. A proposal has the actions of its lines, or where there are none those of all boxes
    that it overlaps by ``match_iou`` or more, maybe none. Proposals for videos that the list does not name, or
    outside ``timestamps``, are left out; at key frames that the list does not name they stay, and whatever is
    detected there is wrong, as in the official evaluation.

    Args:
        source: the csv list, such as ``ava_train_v2.2.csv``.
        root: folder of the videos; by default the list's own.
        labels: label map (pbtxt) that names the actions; without it there are AVA's 80, called action 1 to 80.
        scored: label map of the actions that are evaluated, such as AVA's 60; by default all.
        excluded: csv of lines ``video,timestamp`` of key frames to leave out.
        proposals: csv of a detector's boxes.
        min_score: of the proposals that are taken.
        match_iou: share of intersection in union from which on a proposal has a box's actions; our choice, as
            the detectors' usual bound.
        keep_truth: keep the list's boxes beside the proposals, with score 1, for training.
        start_time: timestamp of a file's first frame: 900 for AVA's usual cuts, 0 for whole films.
        timestamps: the first and the last allowed; None allows any.
        missing: what to do about videos that are not there: ``"error"``, ``"skip"`` (left out and logged) or
            ``"keep"``.
        frames: names of the pictures in frame folders, maybe after the video's name and a line (``x_000001.jpg``);
            by default 00001.jpg, 00002.jpg, ...

    Returns:
        One sample a key frame, in the order of the list, then those of proposals alone; class index = action - 1.

    Raises:
        FileNotFoundError: a file, ``root`` or a listed video does not exist.
        ValueError: the list is empty or a line is wrong; the text names the file and the line.

    Source: Gu et al., AVA, CVPR 2018, and the files' own description.

    Example:
        >>> read_actors("no/such/list.csv")
        Traceback (most recent call last):
        FileNotFoundError: source: no/such/list.csv is not a file
    """
    _check_files(root, source=source, labels=labels, scored=scored, excluded=excluded, proposals=proposals)
    if missing not in ("error", "skip", "keep"):
        raise ValueError(f"missing must be one of error, skip, keep, got {missing!r}")
    for name, share in (("min_score", min_score), ("match_iou", match_iou)):
        if not 0 <= share <= 1:
            raise ValueError(f"{name} must be in 0 to 1, got {share!r}")
    source = Path(source)
    classes, evaluated = _classes(labels, scored)
    rules = _Rules(len(classes), start_time, timestamps)
    listed: dict[str, str] = {}  # video -> the first line that names it
    truth = _joined(_annotated(source, rules, listed))
    if not truth:
        raise ValueError(f"{source}: the list is empty")
    out: set[Key] = set()
    if excluded is not None:
        out = {(video, timestamp) for _, video, timestamp in read_excluded(Path(excluded))}
    paths, lost = _find(listed, Path(root) if root is not None else source.parent, frames or FrameFolder())
    report_missing(source, list(lost.values()), len(paths) - len(lost), missing)
    if missing == "skip":
        paths = {video: place for video, place in paths.items() if video not in lost}

    def records(found: dict[Key, _Found], scores: bool) -> list[KeyFrame]:
        keys = [key for key in found if key not in out and key[0] in paths]
        return [_record(key, found[key], paths[key[0]], start_time, scores) for key in keys]

    known = records(truth, False)
    samples = known
    if proposals is not None:
        given: dict[Key, _Found] = {key: {} for key in truth}
        given.update(_joined(_proposed(Path(proposals), set(listed), rules, min_score)))
        of_key = {(record.video, record.timestamp): record for record in known}
        samples = [
            _labelled(record, of_key.get((record.video, record.timestamp)), match_iou, keep_truth)
            for record in records(given, True)
        ]
    return ActorList(samples, classes, evaluated, known, frozenset(out))


def list_videos(
    source: str | os.PathLike[str],
    root: str | os.PathLike[str] | None = None,
    frames: FrameFolder | None = None,
) -> list[Sample]:
    """Find the videos that an AVA list names, whatever is to be seen in them.

    Args:
        source: the csv list.
        root: folder of the videos; by default the list's own.
        frames: names of the pictures in frame folders, as in `read_actors`.

    Returns:
        One sample a video, those that are missing included; their labels mean nothing.

    Raises:
        FileNotFoundError: the list or ``root`` does not exist.
        ValueError: a line is wrong; the text names the file and the line.

    Example:
        >>> list_videos("no/such/list.csv")
        Traceback (most recent call last):
        FileNotFoundError: source: no/such/list.csv is not a file
    """
    source = Path(source)
    _check_files(root, source=source)
    where: dict[str, str] = {}
    for row in read_boxes(source):
        where.setdefault(row.video, row.where)
    paths, _ = _find(where, Path(root) if root is not None else source.parent, frames or FrameFolder())
    return [Sample(path, 0, folder) for path, folder in paths.values()]


def _check_files(root: str | os.PathLike[str] | None, **files: str | os.PathLike[str] | None) -> None:
    for name, file in files.items():
        if file is not None and not Path(file).is_file():
            raise FileNotFoundError(f"{name}: {file} is not a file")
    if root is not None and not Path(root).is_dir():
        raise FileNotFoundError(f"root: {root} is not a folder")


def _classes(
    labels: str | os.PathLike[str] | None, scored: str | os.PathLike[str] | None
) -> tuple[list[str], tuple[int, ...]]:
    """Return the names of all actions and the class indices of those that are evaluated."""
    names = read_label_map(Path(labels)) if labels is not None else {}
    count = max(names, default=AVA_ACTIONS)
    classes = [names.get(action, f"action {action}") for action in range(1, count + 1)]
    if scored is None:
        return classes, tuple(sorted(action - 1 for action in names) or range(count))
    chosen = read_label_map(Path(scored))
    for action, name in chosen.items():
        if action > count:
            raise ValueError(f"{scored}: action {action} is past the last of {count}")
        if action in names and names[action] != name:
            raise ValueError(f"{scored}: action {action} is {name!r}, in {labels} it is {names[action]!r}")
        classes[action - 1] = name
    return classes, tuple(sorted(action - 1 for action in chosen))


@dataclass(frozen=True)
class _Rules:
    """Which actions and moments a list may name."""

    actions: int
    start_time: float
    timestamps: tuple[float, float] | None

    def check(self, row: Row) -> None:
        """Raise ValueError for a row that breaks them."""
        if row.action is not None and row.action > self.actions:
            raise ValueError(f"{row.where}: action {row.action} is past the last of {self.actions}")
        if not self.covers(row):
            low, high = self.timestamps or (0, 0)
            raise ValueError(
                f"{row.where}: timestamp {row.timestamp:g} is not in {low:g} to {high:g} (timestamps= says which are)"
            )
        if row.timestamp < self.start_time:
            raise ValueError(
                f"{row.where}: timestamp {row.timestamp:g} is before start_time={self.start_time:g}, where files begin"
            )

    def covers(self, row: Row) -> bool:
        """Say whether a row's moment is one of those that are allowed."""
        return self.timestamps is None or self.timestamps[0] <= row.timestamp <= self.timestamps[1]


def _joined(rows: Iterable[tuple[Row, float]]) -> dict[Key, _Found]:
    """Join the lines of each box at each key frame."""
    found: dict[Key, _Found] = {}
    for row, score in rows:
        boxes = found.setdefault((row.video, row.timestamp), {})
        if row.box is None:
            continue
        actions, best = boxes.get((row.box, row.last), ([], 0.0))
        if row.action is not None:
            actions.append(row.action - 1)  # also a second time: the official evaluation counts lines
        boxes[(row.box, row.last)] = (actions, max(score, best))
    return found


def _annotated(source: Path, rules: _Rules, listed: dict[str, str]) -> Iterator[tuple[Row, float]]:
    """Yield the rows of a list with score 1, and note where each video is first named."""
    for row in read_boxes(source):
        rules.check(row)
        listed.setdefault(row.video, row.where)
        yield row, 1.0


def _proposed(source: Path, videos: set[str], rules: _Rules, min_score: float) -> Iterator[tuple[Row, float]]:
    """Yield the proposals that are taken, without persons, and their scores."""
    for row in read_boxes(source):
        score = real(row.last, "score", row.where, 0.0, 1.0) if row.last else 1.0
        if row.video in videos and rules.covers(row) and score >= min_score:
            rules.check(row)
            yield replace(row, last=""), score


def _find(
    videos: dict[str, str], root: Path, frames: FrameFolder
) -> tuple[dict[str, tuple[str, FrameFolder | None]], dict[str, str]]:
    """Return file or folder of each video, and of those that are not there a line that says so."""
    with os.scandir(root) as entries:
        beside = {entry.name for entry in entries}
    found: dict[str, tuple[str, FrameFolder | None]] = {}
    for video, where in videos.items():
        files = [root / name for name in (video + s for s in sorted(VIDEO_SUFFIXES)) if name in beside]
        if Path(video).suffix.lower() in VIDEO_SUFFIXES and (root / video).is_file():
            files.append(root / video)  # a list that names files
        if len(files) > 1:
            raise ValueError(f"{where}: both {files[0]} and {files[1]} have the video's name")
        if files:
            found[video] = str(files[0]), None
        elif video in beside and (root / video).is_dir():
            found[video] = str(root / video), _naming(root / video, video, frames)
    missing = [video for video in videos if video not in found]
    below: dict[str, list[Path]] = {}
    for path in (
        video_files(root) if missing else []
    ):  # not before: a folder of frames holds a hundred thousand
        below.setdefault(path.stem, []).append(path)
    lost = {}
    for video in missing:
        files = below.get(video, [])
        if len(files) > 1:
            raise ValueError(f"{videos[video]}: both {files[0]} and {files[1]} have the video's name")
        if not files:
            lost[video] = f"{videos[video]}: no video {video} in {root}"
        found[video] = str(files[0] if files else root / f"{video}.mp4"), None
    return found, lost


def _naming(folder: Path, video: str, frames: FrameFolder) -> FrameFolder:
    """Return how a folder's pictures are named: as said, or so after the video's name."""
    named = FrameFolder(f"{video}_{frames.template}", frames.first, frames.count)
    return named if not (folder / frames.name(0)).exists() and (folder / named.name(0)).exists() else frames


def _record(
    key: Key, found: _Found, place: tuple[str, FrameFolder | None], start_time: float, scores: bool
) -> KeyFrame:
    video, timestamp = key
    boxes = np.array([box for box, _ in found], np.float32).reshape(-1, 4)
    return KeyFrame(
        path=place[0],
        video=video,
        timestamp=timestamp,
        time=timestamp - start_time,
        boxes=boxes,
        labels=tuple(tuple(sorted(actions)) for actions, _ in found.values()),
        scores=np.array([score for _, score in found.values()], np.float32) if scores else None,
        frames=place[1],
    )


def _labelled(record: KeyFrame, truth: KeyFrame | None, match_iou: float, keep_truth: bool) -> KeyFrame:
    """Give proposals without actions those of the boxes that they overlap; maybe put these boxes beside them."""
    if truth is None or not len(truth.boxes):
        return record
    shares = overlaps(torch.from_numpy(record.boxes), torch.from_numpy(truth.boxes)).numpy()
    labels = [
        own or tuple(sorted({label for j in np.flatnonzero(row >= match_iou) for label in truth.labels[j]}))
        for own, row in zip(record.labels, shares, strict=True)
    ]
    record = replace(record, labels=tuple(labels))
    if not keep_truth:
        return record
    assert record.scores is not None
    return replace(
        record,
        boxes=np.concatenate([truth.boxes, record.boxes]),
        labels=truth.labels + record.labels,
        scores=np.concatenate([np.ones(len(truth.boxes), np.float32), record.scores]),
    )
