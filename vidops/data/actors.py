"""Actors at key frames: samples with boxes and several labels each, their dataset, and their batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from .boxes import areas, clip_boxes, frame_size, transform_boxes
from .dataset import Drawn
from .samples import FrameFolder
from .transforms import Transform
from .video import Frames
from .windows import read_window


@dataclass(frozen=True, eq=False, slots=True)
class KeyFrame:
    """One moment of a video with the actors that are to be classified.

    Args:
        path: the video file, or the folder of its frames.
        video: the video's name in the list.
        timestamp: seconds, as listed.
        time: seconds from the first frame of the file.
        boxes: float32 (K, 4), x1, y1, x2, y2 as shares of width and height, 0 to 1.
        labels: class indices of each of the K actors; one that the list repeats is here as often.
        scores: float32 (K,) of a detector's boxes; None for annotated ones.
        frames: how the frames of a folder are named; None for a video file.

    Example:
        >>> KeyFrame("a.mp4", "a", 902.0, 2.0, np.zeros((1, 4), np.float32), ((3, 5),)).labels
        ((3, 5),)
    """

    path: str
    video: str
    timestamp: float
    time: float
    boxes: npt.NDArray[np.float32]
    labels: tuple[tuple[int, ...], ...]
    scores: npt.NDArray[np.float32] | None = None
    frames: FrameFolder | None = None


@dataclass(frozen=True, eq=False)
class ActorList:
    """The key frames of a dataset.

    Args:
        samples: the key frames with the boxes that are classified.
        classes: name of class 0, 1, ...
        scored: indices of the classes that are evaluated, rising.
        truth: the annotated key frames, which are the samples unless these have a detector's boxes.
        excluded: (video, timestamp) of key frames that were left out of both and are not evaluated.

    Example:
        >>> ActorList([], ["sit", "stand"], (0,), []).num_classes
        2
    """

    samples: list[KeyFrame]
    classes: list[str]
    scored: tuple[int, ...]
    truth: list[KeyFrame]
    excluded: frozenset[tuple[str, float]] = frozenset()

    def __len__(self) -> int:
        """Return the number of key frames."""
        return len(self.samples)

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.classes)

    def occupied(self) -> ActorList:
        """Return the list without the key frames that show no actor, from which nothing is learned."""
        samples = [sample for sample in self.samples if len(sample.boxes)]
        return ActorList(samples, self.classes, self.scored, self.truth, self.excluded)


class ActorDataset(Drawn[KeyFrame]):
    """Clips about key frames with the boxes of their actors, each a function of (seed, epoch, index) alone.

    The random numbers of a sample come from a generator of its own, as in `VideoDataset`.

    Args:
        actors: the key frames.
        num_frames: frames of a clip, of which number ``num_frames // 2`` is the key frame.
        transform: turns uint8 frames (T, H, W, 3) into a clip (3, T, H, W), or into V views (V, 3, T, H, W); boxes
            follow as `boxes.transform_boxes` says.
        training: leave out boxes of which a crop keeps too little.
        frame_step: frames of the file from one frame of a clip to the next.
        min_visible: share of a box's area that must be left in training; 0 leaves out what is wholly outside.
        frame_rate: frames a second of frame folders.
        seed: start of all random numbers, at least 0.
        short_side: resize the frames so while decoding, before the transform; None keeps the file's size.
        cache: ``"memory"`` keeps the decoded, resized frames of a clip once it has been read.
        cache_bytes: limit of that cache, in each process that reads.

    Raises:
        ValueError: the list is empty, or an argument is out of range.

    Example:
        >>> nothing = ActorList([], ["sit"], (0,), [])
        >>> ActorDataset(nothing, num_frames=8, transform=lambda frames, g: frames, training=False)
        Traceback (most recent call last):
        ValueError: actors: the list is empty
    """

    def __init__(
        self,
        actors: ActorList,
        *,
        num_frames: int,
        transform: Transform,
        training: bool,
        frame_step: int = 1,
        min_visible: float = 0.25,
        frame_rate: float = 30.0,
        seed: int = 0,
        short_side: int | None = None,
        cache: str | None = None,
        cache_bytes: int = 1 << 30,
    ) -> None:
        if not actors.samples:
            raise ValueError("actors: the list is empty")
        for name, count in (("num_frames", num_frames), ("frame_step", frame_step)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {count!r}")
        if not 0 <= min_visible <= 1:
            raise ValueError(f"min_visible must be in 0 to 1, got {min_visible!r}")
        if not frame_rate > 0:
            raise ValueError(f"frame_rate must be above 0, got {frame_rate!r}")
        super().__init__(actors.samples, transform, seed, short_side, cache, cache_bytes)
        self.actors = actors
        self.num_frames, self.frame_step = num_frames, frame_step
        self.training, self.min_visible, self.frame_rate = training, min_visible, frame_rate
        self._cache: dict[int, Frames] = {}

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        """Return one key frame.

        Args:
            item: its index, or (epoch, index) from a sampler that says the epoch itself.

        Returns:
            ``clip`` float tensor (3, T, H, W) or (V, 3, T, H, W); ``boxes`` float32 (K, 4), or (V, K, 4), x1, y1, x2,
            y2 in pixels of the clip; ``labels`` float32 (K, classes) of zeros and ones; ``shares`` float32 (K, 4), the
            boxes as listed; ``scores`` float32 (K,), ones for annotated boxes; ``index``, ``path``, ``video`` and
            ``timestamp``.

        Raises:
            VideoError: the file, or a picture of the folder, is missing or damaged, or ends before the key frame.
            IndexError: there is no such sample.
        """
        index, generator = self._open(item)
        sample = self.samples[index]
        frames = self._read(index, sample)
        height, width = frames.shape[1:3]
        shares = torch.from_numpy(np.asarray(sample.boxes, np.float32).reshape(-1, 4))
        clip, boxes = transform_boxes(
            self.transform, frames, shares * torch.tensor([width, height] * 2), generator
        )
        whole, boxes = boxes, clip_boxes(boxes, frame_size(clip))
        kept = torch.ones(len(shares), dtype=torch.bool)
        if self.training:
            left = areas(boxes)
            kept = (left > 0) & (left >= self.min_visible * areas(whole))
            kept = kept.all(0) if kept.ndim > 1 else kept  # in all views
        scores = np.ones(len(shares), np.float32) if sample.scores is None else sample.scores
        return {
            "clip": clip,
            "boxes": boxes[..., kept, :],
            "labels": self._labels(sample)[kept],
            "shares": shares[kept],
            "scores": torch.from_numpy(np.asarray(scores, np.float32))[kept],
            "index": index,
            "path": sample.path,
            "video": sample.video,
            "timestamp": sample.timestamp,
        }

    def _labels(self, sample: KeyFrame) -> torch.Tensor:
        labels = torch.zeros(len(sample.labels), self.actors.num_classes)
        for row, indices in zip(labels, sample.labels, strict=True):
            row[list(indices)] = 1
        return labels

    def _read(self, index: int, sample: KeyFrame) -> Frames:
        frames = self._cache.get(index)
        if frames is None:
            frames = read_window(
                sample.path,
                sample.time,
                self.num_frames,
                self.frame_step,
                frames=sample.frames,
                frame_rate=self.frame_rate,
                short_side=self.short_side,
            )
            if self._cached + frames.nbytes <= self.cache_bytes:
                self._cache[index] = frames
                self._cached += frames.nbytes
        return frames


def collate_actors(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join key frames to a batch: clips are stacked, the boxes of all of them put one after the other.

    Args:
        items: samples of `ActorDataset`, maybe with ``broken``, a list; one without a clip is left out.

    Returns:
        ``clip`` (N, 3, T, H, W); ``boxes`` (R, 5), the clip's number in the batch, then x1, y1, x2, y2 in its pixels;
        ``labels`` (R, classes), ``shares`` (R, 4) and ``scores`` (R,); ``index`` (N,); lists ``path``, ``video``,
        ``timestamp`` and ``broken``. Of V views ``clip`` is (N, V, 3, T, H, W) and ``boxes`` (R, V, 5), with the view's
        number in ``clip.flatten(0, 1)``. Without clips the lists are empty and the tensors missing.

    Example:
        >>> item = {"clip": torch.zeros(3, 8, 6, 6), "boxes": torch.ones(2, 4), "labels": torch.ones(2, 5)}
        >>> item |= {"shares": torch.ones(2, 4), "scores": torch.ones(2), "index": 0, "path": "", "video": ""}
        >>> collate_actors([item | {"timestamp": 902.0}] * 3)["boxes"][:, 0].tolist()
        [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
    """
    whole = [item for item in items if "clip" in item]
    batch: dict[str, Any] = {key: [item[key] for item in whole] for key in ("path", "video", "timestamp")}
    batch["broken"] = [entry for item in items for entry in item.get("broken", [])]
    if not whole:
        return batch
    views = [item["boxes"].shape[0] if item["boxes"].ndim == 3 else None for item in whole]
    boxes = []
    for number, (item, count) in enumerate(zip(whole, views, strict=True)):
        rows = item["boxes"] if count is None else item["boxes"].transpose(0, 1)  # (K, 4) or (K, V, 4)
        first = number * (count or 1) + torch.arange(count or 1, dtype=rows.dtype)
        place = first.view(1, -1, 1) if count is not None else first.view(1, 1)
        boxes.append(torch.cat([place.expand(*rows.shape[:-1], 1), rows], -1))
    return batch | {
        "clip": torch.stack([item["clip"] for item in whole]),
        "boxes": torch.cat(boxes),
        **{key: torch.cat([item[key] for item in whole]) for key in ("labels", "shares", "scores")},
        "index": torch.tensor([item["index"] for item in whole]),
    }
