"""A dataset of video files for ``torch.utils.data.DataLoader``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from .flow_store import FlowStore
from .folders import sample_folder
from .samples import AnnotationList, Sample
from .transforms import Transform
from .video import Frames, VideoError, _Info, _sample


class Sampling(Protocol):
    """Which frames of a video make a clip: called with the number of frames and a random generator."""

    def __call__(self, num_frames: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        """Return frame indices, int64."""
        ...


Listed = TypeVar("Listed")


class Drawn(Dataset[dict[str, Any]], Generic[Listed]):
    """What datasets of videos share: samples whose random numbers are a function of (seed, epoch, index).

    Args:
        samples: what is listed.
        transform: turns frames into a clip.
        seed: start of all random numbers, at least 0.
        short_side: of the frames while decoding, or None.
        cache: ``"memory"`` or None.
        cache_bytes: limit of that cache.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        samples: list[Listed],
        transform: Transform,
        seed: int,
        short_side: int | None,
        cache: str | None,
        cache_bytes: int,
    ) -> None:
        if seed < 0:
            raise ValueError(f"seed must be at least 0, got {seed}")
        if cache not in (None, "memory"):
            raise ValueError(f'cache must be None or "memory", got {cache!r}')
        if cache_bytes < 0:
            raise ValueError(f"cache_bytes must be at least 0, got {cache_bytes}")
        if short_side is not None and short_side < 1:
            raise ValueError(f"short_side must be at least 1 or None, got {short_side}")
        self._samples = samples
        self.transform = transform
        self.seed = seed
        self.short_side = short_side
        self.cache_bytes = cache_bytes if cache == "memory" else 0
        # Shared memory: workers that outlive an epoch see the new number.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._cache: dict[Any, Frames] = {}
        self._cached = 0

    @property
    def samples(self) -> list[Listed]:
        """The samples in the order of their indices."""
        return self._samples

    @property
    def epoch(self) -> int:
        """The epoch whose random numbers are in use."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose random numbers are used from now on, in this process and in its workers.

        Args:
            epoch: at least 0. Call it before the loader's iterator is made: that starts to read ahead.

        Raises:
            ValueError: the epoch is negative.
        """
        if epoch < 0:
            raise ValueError(f"epoch must be at least 0, got {epoch}")
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    def _open(self, item: int | tuple[int, int]) -> tuple[int, np.random.Generator]:
        """Return a sample's index and the generator of its random numbers."""
        epoch, index = item if isinstance(item, tuple) else (self.epoch, item)
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(f"index {index} is outside the {len(self)} samples")
        return index, np.random.default_rng((self.seed, int(epoch), index))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the cached frames behind when the dataset is sent to a worker."""
        return self.__dict__ | {"_cache": {}, "_cached": 0}


class VideoDataset(Drawn[Sample]):
    """Clips of video files and frame folders, each a function of (seed, epoch, index) alone.

    The random numbers of a sample come from a generator of its own, seeded with (seed, epoch, index), so that
    batches are the same with any number of workers and in any order of reading. ``set_epoch`` reaches workers
    that live on between epochs.

    Args:
        annotations: the list of samples.
        sampling: picks the frames, for example ``UniformSampling(8, training=True)``.
        transform: turns uint8 frames (T, H, W, 3) into a clip (3, T, H, W), given a generator; `views.Views`
            gives several, (V, 3, T, H, W).
        seed: start of all random numbers, at least 0.
        short_side: resize the frames so while decoding, before the transform; None keeps the file's size.
        cache: ``"memory"`` keeps the decoded, resized frames of a whole video once it has been read.
        cache_bytes: limit of that cache, in each process that reads; videos that no longer fit are decoded
            anew every time.
        flow: read the flow fields of the videos from there instead of frames, uint8 (T, H, W, 3) with a blank
            channel; ``short_side`` does not touch them.

    Raises:
        ValueError: the list is empty, or an argument is out of range.

    Example:
        >>> from vidops.data import AnnotationList, UniformSampling
        >>> nothing = AnnotationList([], None)
        >>> VideoDataset(nothing, sampling=UniformSampling(8, True), transform=lambda frames, g: frames)
        Traceback (most recent call last):
        ValueError: annotations: the list is empty
    """

    def __init__(
        self,
        annotations: AnnotationList,
        *,
        sampling: Sampling,
        transform: Transform,
        seed: int = 0,
        short_side: int | None = None,
        cache: str | None = None,
        cache_bytes: int = 1 << 30,
        flow: FlowStore | None = None,
    ) -> None:
        if not annotations.samples:
            raise ValueError("annotations: the list is empty")
        super().__init__(annotations.samples, transform, seed, short_side, cache, cache_bytes)
        self.annotations = annotations
        self.sampling = sampling
        self.flow = flow

    def __getitem__(self, item: int | tuple[int, int]) -> dict[str, Any]:
        """Return one sample.

        Args:
            item: its index, or (epoch, index) from a sampler that says the epoch itself.

        Returns:
            ``clip`` float tensor, what the transform gives: (3, T, H, W) or (V, 3, T, H, W); ``label``,
            ``index`` and ``path``.

        Raises:
            VideoError: the file, or a picture of the folder, is missing or damaged.
            IndexError: there is no such sample.
        """
        index, generator = self._open(item)
        sample = self.samples[index]
        frames = self._read(sample, generator)
        clip = self.transform(frames, generator)
        return {"clip": clip, "label": sample.label, "index": index, "path": sample.path}

    def _read(self, sample: Sample, generator: np.random.Generator) -> Frames:
        path = sample.path
        video = self._cache.get(path)
        if video is not None:
            return video[self._indices(path, len(video), generator)]
        whole = False

        def choose(info: _Info) -> Sequence[int] | npt.NDArray[np.int64]:
            nonlocal whole
            whole = self._cached + info.num_frames * info.height * info.width * 3 <= self.cache_bytes
            return range(info.num_frames) if whole else self._indices(path, info.num_frames, generator)

        if self.flow is not None:
            frames, _ = self.flow.sample(path, choose, folder=sample.frames)
        elif sample.frames is not None:
            frames, _ = sample_folder(path, sample.frames, choose, self.short_side)
        else:
            frames, _ = _sample(path, choose, self.short_side)
        if not whole:
            return frames
        indices = self._indices(path, len(frames), generator)
        self._cache[path] = frames
        self._cached += frames.nbytes
        return frames[indices]

    def _indices(self, path: str, num_frames: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        try:
            return self.sampling(num_frames, generator)
        except ValueError as error:
            raise VideoError(f"{path}: {error}") from error
