"""Optical flow kept on disk, one file a video.

A flow file is an npz: an uint8 array (2, H, W), x then y, for every pair of neighbouring frames under ``000000``,
``000001``, ..., and what it was made from under ``meta``. What other formats come to was measured on 30 fields of
256 x 340 of a real clip (one core; computing a field takes 460 ms there, so that writing never matters):

| a field | KB | write ms | read ms | largest error, of 255 |
|---|---|---|---|---|
| npz, an array a pair (chosen) | 18.0 | 5.5 | 0.4 | 0 |
| npz, one array for all | 19.5 | - | 0.4, but all fields must be read | 0 |
| PNG | 20.9 | 8.4 | 0.7 | 0 |
| WebP without loss | 14.9 | 42 | 1.0 | 0 |
| JPEG, quality 95 (the field's habit) | 6.4 | 0.4 | 0.3 | 5, that is 0.8 pixels |

The npz is exact, the fastest to read of the exact ones, opens any field without its neighbours, and its zip
container has a checksum for each, by which a damaged file is known. 40 fields of a file of 279 (5.2 MB) are read in
29 ms, where decoding as many frames of the video itself takes 103 ms; a resumed run checks the whole file in 117 ms.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .._files import replacing, write_text
from .flow import FlowSettings, video_flow
from .folders import count_frames, sample_folder
from .modalities import FLOW_ZERO
from .samples import FrameFolder
from .video import Frames, VideoError, _check_indices, _Converter, _decode, _find, _Info

SETTINGS = "flow.json"
META = "meta"
STALE_SECONDS = 3600.0

Indices = Sequence[int] | npt.NDArray[np.int64]


class DamagedFlowError(ValueError):
    """A flow file that cannot be read; the text is one line that names it.

    Args:
        message: one line, ``path: what is wrong``.
    """


class FlowStore:
    """A folder of flow files, filled by ``vidops dataset flow`` or as videos are first asked for.

    A file's name is a digest of the video's path relative to ``videos``, its size, its time of change and the
    settings: a changed video is computed anew. Files are whole or absent whatever happens to a writer, so any
    number of processes may read and fill the folder. A file that is missing when it is asked for is computed,
    with a warning; one that turns out damaged is named in a warning and computed again.

    Args:
        root: the folder.
        videos: folder that the videos' paths are taken relative to.
        settings: makes the folder if need be and refuses flow of another kind; None takes the folder as it is.

    Raises:
        FileNotFoundError: there is no such folder of flow and no settings are given.
        ValueError: its settings are others, or damaged.

    Example:
        >>> FlowStore("no/flow")
        Traceback (most recent call last):
        FileNotFoundError: no/flow: holds no flow; make it with: vidops dataset flow LIST --out no/flow
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        videos: str | os.PathLike[str] = ".",
        settings: FlowSettings | None = None,
    ) -> None:
        self.root, self.videos = Path(root), Path(videos)
        file = self.root / SETTINGS
        if file.is_file():
            self.settings = _read_settings(file)
            if settings not in (None, self.settings):
                raise ValueError(f"{file}: flow of other settings, {self.settings}; choose another folder")
        elif settings is None:
            raise FileNotFoundError(
                f"{self.root}: holds no flow; make it with: vidops dataset flow LIST --out {self.root}"
            )
        else:
            self.settings = settings
            write_text(file, json.dumps(asdict(settings), indent=1) + "\n")

    def path(self, video: str | os.PathLike[str], folder: FrameFolder | None = None) -> Path:
        """Return where the flow of a video is kept, whether it is there or not.

        Args:
            video: a video file or a folder of frames.
            folder: how a folder's frames are named and how many they are; others have flow of their own.

        Returns:
            A path inside the folder.

        Raises:
            VideoError: there is no such video.
        """
        key = [os.path.relpath(video, self.videos), *_stamp(video), asdict(self.settings)]
        if folder is not None:
            key.append(asdict(folder))
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
        return self.root / digest[:2] / f"{digest}.npz"

    def add(self, video: str | os.PathLike[str], folder: FrameFolder | None = None) -> bool:
        """Compute the flow of a video, unless it is there and whole.

        Args:
            video: a video file or a folder of frames.
            folder: how a folder's frames are named.

        Returns:
            Whether it had to be computed.

        Raises:
            VideoError: the video is missing or damaged.
            OSError: the folder cannot be written.
        """
        file = self.path(video, folder)
        if file.is_file():
            try:
                with _open(file) as archive:
                    for index in range(_meta(file, archive)["fields"]):
                        _field(file, archive, index)
                return False
            except DamagedFlowError as error:
                _warn(error, video)
        self._write(file, os.fspath(video), folder)
        return True

    def read(
        self, video: str | os.PathLike[str], indices: Indices, folder: FrameFolder | None = None
    ) -> Frames:
        """Read fields of a video; computes all of them if need be.

        Args:
            video: a video file or a folder of frames.
            indices: numbers of the fields; field i leads from frame i to frame i + 1. A video of one frame has
                one field, without motion.
            folder: how a folder's frames are named.

        Returns:
            uint8 (len(indices), H, W, 2), x and y; `decode_flow` turns them into pixels.

        Raises:
            VideoError: the video is missing or damaged.
            ValueError: an index is negative or past the last field.
        """
        wanted = _check_indices(indices)
        return self.sample(os.fspath(video), lambda info: wanted, folder=folder)[0][..., :2]

    def sample(
        self, path: str, choose: Callable[[_Info], Indices], *, folder: FrameFolder | None = None
    ) -> tuple[Frames, npt.NDArray[np.int64]]:
        """Read the fields that ``choose`` picks, in the way `VideoDataset` reads frames.

        Args:
            path: a video file or a folder of frames.
            choose: given the number of fields and their size, returns the wanted ones.
            folder: how a folder's frames are named.

        Returns:
            uint8 (n, H, W, 3), x, y and a blank channel, and the fields' numbers, int64 (n,).

        Raises:
            VideoError: the video is missing or damaged.
            ValueError: ``choose`` returned a number that is no field's.
        """
        file = self.path(path, folder)
        chosen: list[Indices] = []

        def once(info: _Info) -> Indices:  # choosing again would draw other random numbers
            if not chosen:
                chosen.append(choose(info))
            return chosen[0]

        if file.is_file():
            try:
                return _load(file, path, once)
            except DamagedFlowError as error:
                _warn(error, path)
        else:
            # One text for all videos, so that Python shows it once a process.
            warnings.warn(
                f"{self.root}: lacks the flow of some videos, which takes minutes each and is computed as they are"
                " asked for; vidops dataset flow computes it beforehand",
                stacklevel=2,
            )
        self._write(file, path, folder)
        return _load(file, path, once)

    def sweep(self) -> None:
        """Remove what killed writers left behind more than an hour ago."""
        for part in self.root.glob("*/.*.tmp"):
            try:
                if time.time() - part.stat().st_mtime > STALE_SECONDS:
                    part.unlink()
            except FileNotFoundError:  # its writer was alive
                continue

    def _write(self, file: Path, video: str, folder: FrameFolder | None) -> None:
        with replacing(file) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            count, shape = 0, (0, 0)
            for field in video_flow(_frames(video, folder, self.settings.short_side), self.settings):
                _add(archive, _name(count), field)
                count, shape = count + 1, field.shape[1:]
            meta = {"video": os.path.relpath(video, self.videos), "fields": count, "shape": shape}
            _add(archive, META, np.frombuffer(json.dumps(meta).encode(), np.uint8))


def _frames(video: str, folder: FrameFolder | None, short_side: int | None) -> Iterator[Frames]:
    """Read a video from start to end, few frames in memory at a time."""
    if folder is not None:
        count = count_frames(video, folder)
        for start in range(0, count, 16):
            run = range(start, min(start + 16, count))
            yield from sample_folder(video, folder, partial(_chosen, run), short_side)[0]
        return
    convert = _Converter(short_side)
    for frame in _decode(video, whole=True):
        convert.see(frame, video)
        yield convert(frame)


def _chosen(indices: Sequence[int], info: _Info) -> Sequence[int]:
    return indices


def _stamp(video: str | os.PathLike[str]) -> tuple[int, ...]:
    """Return size in bytes and time of change of a file; of a folder's files their sum, the latest, and how many."""
    try:
        if os.path.isdir(video):
            with os.scandir(video) as entries:
                stats = [entry.stat() for entry in entries if entry.is_file()]
            return sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0), len(stats)
    except (OSError, ValueError) as error:
        raise VideoError(f"{os.fspath(video)}: {error}") from error
    place = _find(os.fspath(video))
    return place.size, place.changed


def _read_settings(file: Path) -> FlowSettings:
    try:
        return FlowSettings(**json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: not the settings of a folder of flow ({error})") from error


def _name(index: int) -> str:
    return f"{index:06d}"


def _add(archive: zipfile.ZipFile, name: str, array: npt.NDArray[np.uint8]) -> None:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, allow_pickle=False)
    archive.writestr(f"{name}.npy", buffer.getvalue())


def _open(file: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, EOFError, ValueError, OSError, NotImplementedError) as error:
        raise DamagedFlowError(f"{file}: damaged ({error})") from error


def _array(file: Path, archive: zipfile.ZipFile, name: str) -> npt.NDArray[np.uint8]:
    try:
        array = np.lib.format.read_array(io.BytesIO(archive.read(f"{name}.npy")), allow_pickle=False)
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        KeyError,
        ValueError,
        OSError,
        NotImplementedError,
        RuntimeError,  # an entry that claims to be encrypted
    ) as error:
        raise DamagedFlowError(f"{file}: damaged at {name} ({error})") from error
    return array


def _field(file: Path, archive: zipfile.ZipFile, index: int) -> npt.NDArray[np.uint8]:
    array = _array(file, archive, _name(index))
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[0] != 2:
        raise DamagedFlowError(f"{file}: damaged, field {index} is {array.dtype} {array.shape}")
    return array


def _meta(file: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    try:
        meta = json.loads(_array(file, archive, META).tobytes())
        if meta["fields"] >= 1 and len(meta["shape"]) == 2:
            return dict(meta)
        reason = f"{meta['fields']} fields of {meta['shape']}"
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, DamagedFlowError):
            raise
        reason = str(error)
    raise DamagedFlowError(f"{file}: damaged at {META} ({reason})")


def _load(file: Path, video: str, choose: Callable[[_Info], Indices]) -> tuple[Frames, npt.NDArray[np.int64]]:
    with _open(file) as archive:
        meta = _meta(file, archive)
        count, (height, width) = meta["fields"], meta["shape"]
        indices = np.asarray(choose(_Info(count, height, width)), dtype=np.int64)
        wanted = _check_indices(indices)
        if max(wanted) >= count:
            raise ValueError(f"indices: field {max(wanted)} is past the end of {video}, which has {count}")
        fields = {index: _field(file, archive, index) for index in set(wanted)}
    out = np.full((len(wanted), height, width, 3), FLOW_ZERO, np.uint8)
    for place, index in enumerate(wanted):
        if fields[index].shape != (2, height, width):
            raise DamagedFlowError(f"{file}: damaged, field {index} is {fields[index].shape}")
        out[place, ..., :2] = fields[index].transpose(1, 2, 0)
    return out, indices


def _warn(error: DamagedFlowError, video: str | os.PathLike[str]) -> None:
    warnings.warn(f"{error}; the flow of {os.fspath(video)} is computed again", stacklevel=3)
