"""The motion dataset: classes in mirrored pairs that only the order of the frames tells apart.

Every motion is a cycle run through at a steady speed from a random phase: a patch of a photograph crosses the
picture and comes in again on the other side, turns, or grows to its largest size and starts small again. A
phase that is uniform at the start is uniform in every frame, so a single frame has the same distribution in
both classes of a pair, wherever in the clip it stands. A clip of the second class is a clip of the first played
backwards, frame for frame, so an average over time has the same distribution too. The files keep this: every
frame is coded alone, as a key frame, at the same quality.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .._extras import require
from .video import Frames

MOTION_PAIRS: dict[str, tuple[str, str]] = {
    "horizontal": ("right", "left"),
    "vertical": ("down", "up"),
    "zoom": ("zoom_in", "zoom_out"),
    "rotation": ("clockwise", "counterclockwise"),
    "diagonal": ("down_right", "up_left"),
    "antidiagonal": ("down_left", "up_right"),
    "fade": ("appear", "vanish"),
}
"""Name of a pair -> its two classes; the second is the first played backwards."""

# Photographs inside scikit-image's wheel, fine enough in texture to be seen moving.
_PHOTOS = (
    "astronaut.png brick.png camera.png chelsea.png coffee.png coins.png grass.png gravel.png "
    "hubble_deep_field.jpg ihc.png motorcycle_left.png rocket.jpg"
).split()
_DIRECTIONS = {"horizontal": (1, 0), "vertical": (0, 1), "diagonal": (1, 1), "antidiagonal": (-1, 1)}
_SPLITS = ("train", "val")
_RATE = 10  # frames a second of the files


@dataclass(frozen=True)
class _Scene:
    """What is drawn: the object's pose at every frame over a still background. Lengths in output pixels."""

    background: torch.Tensor  # float (3, size, size), 0 to 255
    texture: torch.Tensor  # float (3, side, side)
    x: np.ndarray[Any, Any]  # centre of the object, (frames,)
    y: np.ndarray[Any, Any]
    side: np.ndarray[Any, Any]  # side of the square object
    angle: np.ndarray[Any, Any]  # radians, clockwise as seen
    alpha: np.ndarray[Any, Any]  # opacity


def motion_clip(
    class_name: str, generator: np.random.Generator, *, frames: int = 8, size: int = 48
) -> Frames:
    """Draw one clip of the motion dataset.

    With generators in the same state, the clips of the two classes of a pair are each other's reversal.

    Args:
        class_name: one of the classes of ``MOTION_PAIRS``.
        generator: source of all randomness: textures, place, size, speed, phase.
        frames: number of frames.
        size: height and width, pixels.

    Returns:
        uint8 array (frames, size, size, 3), RGB.

    Raises:
        ValueError: there is no such class, or frames or size is too small.
        ImportError: scikit-image or Pillow is not installed.

    Example:
        >>> "left" in MOTION_PAIRS["horizontal"]
        True
    """
    _check_shape(frames, size)
    for pair, (first, second) in MOTION_PAIRS.items():
        if class_name in (first, second):
            clip = _render(_scene(pair, generator, frames, size), size)
            return clip if class_name == first else np.ascontiguousarray(clip[::-1])
    known = ", ".join(name for names in MOTION_PAIRS.values() for name in names)
    raise ValueError(f"class_name: no motion class {class_name!r}; there are {known}")


def make_motion(
    out_dir: str | os.PathLike[str],
    *,
    pairs: Sequence[str] | int = 4,
    train: int = 2400,
    val: int = 400,
    frames: int = 8,
    size: int = 48,
    seed: int = 0,
    workers: int | None = None,
    progress: bool = True,
) -> Path:
    """Write the motion dataset as real mp4 files with annotation lists.

    ``out_dir`` receives ``train.csv``, ``val.csv`` (``path,label``), ``classes.txt`` and
    ``videos/<class>/<split>_<number>.mp4``. The classes are equally frequent, and the clips of a pair's two
    classes that have the same number are each other's reversal, so an average over time learns nothing within a
    pair. Sample them with ``UniformSampling(..., symmetric=True)`` and do not flip them. All is written to a
    temporary folder beside ``out_dir`` that is renamed at the end.

    Args:
        out_dir: folder to make; it must not exist or be empty.
        pairs: names from ``MOTION_PAIRS``, or how many of them from the first on.
        train: number of training clips, a multiple of the number of classes.
        val: number of validation clips, likewise.
        frames: frames of a clip.
        size: height and width, pixels, even.
        seed: the same seed gives the same frames, whatever the other counts and the workers.
        workers: threads; by default one a core.
        progress: show a progress bar.

    Returns:
        The folder.

    Raises:
        ValueError: an argument is out of range or ``out_dir`` is not empty; nothing has been written.
        ImportError: scikit-image, PyAV, Pillow or tqdm is not installed.

    Example:
        >>> make_motion("motion", pairs=["sideways"])
        Traceback (most recent call last):
        ValueError: pairs: no pair 'sideways'; there are horizontal, vertical, zoom, rotation, diagonal, \
antidiagonal, fade
    """
    names = _check_pairs(pairs)
    classes = [name for pair in names for name in MOTION_PAIRS[pair]]
    for name, count in (("train", train), ("val", val)):
        if not _is_count(count) or count < 1 or count % len(classes):
            raise ValueError(
                f"{name} must be a multiple of the number of classes ({len(classes)}) above 0, got {count!r}"
            )
    _check_shape(frames, size)
    if size % 2:
        raise ValueError(f"size must be even, got {size}")
    if not _is_count(seed) or seed < 0:
        raise ValueError(f"seed must be a whole number of at least 0, got {seed!r}")
    if workers is None:
        workers = _cores()
    elif not _is_count(workers) or workers < 1:
        raise ValueError(f"workers must be a whole number of at least 1, got {workers!r}")
    out = Path(os.path.abspath(out_dir))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"out_dir: {out_dir} exists and is not an empty folder")
    _photos()
    require("av", extra="video")
    bar = _progress_bar(train + val) if progress else None

    out.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    try:
        jobs = _prepare(partial, names, {"train": train, "val": val}, classes)
        _write_clips(partial, jobs, frames, size, seed, workers, bar)
        partial.chmod(0o777 & ~_umask())
        if out.exists():
            out.rmdir()
        partial.rename(out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    finally:
        if bar is not None:
            bar.close()
    return Path(out_dir)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_pairs(pairs: Sequence[str] | int) -> list[str]:
    if isinstance(pairs, int):
        if not _is_count(pairs) or not 1 <= pairs <= len(MOTION_PAIRS):
            raise ValueError(f"pairs must be 1 to {len(MOTION_PAIRS)} or a list of names, got {pairs!r}")
        return list(MOTION_PAIRS)[:pairs]
    names = [pairs] if isinstance(pairs, str) else list(pairs)
    for name in names:
        if name not in MOTION_PAIRS:
            raise ValueError(f"pairs: no pair {name!r}; there are {', '.join(MOTION_PAIRS)}")
    if not names or len(set(names)) != len(names):
        raise ValueError(f"pairs must name each pair once, got {names!r}")
    return names


def _check_shape(frames: int, size: int) -> None:
    if not _is_count(frames) or frames < 2:
        raise ValueError(f"frames must be a whole number of at least 2, got {frames!r}")
    if not _is_count(size) or not 16 <= size <= 1024:
        raise ValueError(f"size must be a whole number from 16 to 1024, got {size!r}")


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _progress_bar(total: int) -> Any:
    return require("tqdm", extra="train").tqdm(total=total, desc="make-motion", unit="clip")


@lru_cache(maxsize=1)
def _photos() -> list[torch.Tensor]:
    """Load the photographs, uint8 (3, H, W), short side at most 300 pixels."""
    found = importlib.util.find_spec("skimage")
    if found is None or not found.submodule_search_locations:
        raise ImportError("scikit-image is not installed; install it with: pip install 'vidops[motion]'")
    image = require("PIL.Image", extra="video")
    folder = Path(found.submodule_search_locations[0]) / "data"
    photos = []
    for name in _PHOTOS:
        if not (folder / name).is_file():
            raise ImportError(
                f"scikit-image lacks {name}; mend it with: pip install --force-reinstall scikit-image"
            )
        with image.open(folder / name) as picture:
            rgb = picture.convert("RGB")
            rgb.thumbnail((400, 400), image.Resampling.LANCZOS)
            photos.append(torch.from_numpy(np.array(rgb)).permute(2, 0, 1).contiguous())
    return photos


def _crop(photo: torch.Tensor, side: int, generator: np.random.Generator) -> torch.Tensor:
    """Cut a square of random size and place, with visible texture, from a photograph and resize it."""
    height, width = photo.shape[1:]
    for _ in range(8):
        cut = int(generator.integers(min(height, width) // 4, min(height, width) // 2 + 1))
        top, left = int(generator.integers(height - cut + 1)), int(generator.integers(width - cut + 1))
        patch = photo[:, top : top + cut, left : left + cut].float()
        if patch.std() > 25:
            break
    out = F.interpolate(patch[None], size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    return out[0]


def _scene(pair: str, generator: np.random.Generator, frames: int, size: int) -> _Scene:
    """Draw the scene of a pair's first class."""
    photos = _photos()
    first, second = generator.choice(len(photos), size=2, replace=False)
    background = _crop(photos[first], size, generator)
    texture = _crop(photos[second], max(8, size // 2), generator)
    side = generator.uniform(0.35, 0.6) * size
    x, y = generator.uniform(side / 2, size - side / 2, size=2)
    angle = generator.uniform(0, 2 * np.pi)
    phase, speed = generator.uniform(size=2)
    still = np.ones(frames)
    pose = {"x": x * still, "y": y * still, "side": side * still, "angle": angle * still, "alpha": still}

    def cycle(slow: float, fast: float) -> np.ndarray[Any, Any]:
        """Phase 0 to 1 of every frame, at a speed of ``slow`` to ``fast`` cycles a frame."""
        return np.asarray((phase + (slow + (fast - slow) * speed) * np.arange(frames)) % 1.0)

    if pair in _DIRECTIONS:
        # One cycle takes the object from wholly outside on one side to wholly outside on the other.
        reach = side * (abs(np.cos(angle)) + abs(np.sin(angle)))
        period = size + reach
        phases = cycle(0.05 * size / period, 0.11 * size / period)
        for axis, sign in zip("xy", _DIRECTIONS[pair], strict=True):
            if sign:
                pose[axis] = (phases if sign > 0 else 1 - phases) * period - reach / 2
    elif pair == "zoom":
        pose["side"] = 0.22 * size * (0.95 / 0.22) ** cycle(0.06, 0.12)
    elif pair == "rotation":
        pose["angle"] = 2 * np.pi * cycle(0.03, 0.09)
    elif pair == "fade":
        pose["alpha"] = cycle(0.06, 0.12)
    else:
        raise ValueError(f"pair: no pair {pair!r}")
    return _Scene(background, texture, **pose)


def _render(scene: _Scene, size: int) -> Frames:
    """Draw all frames: each output pixel looks up the texture through the inverse of the object's pose."""
    x, y, side, angle, alpha = (
        torch.from_numpy(np.ascontiguousarray(v, dtype=np.float32)).view(-1, 1, 1)
        for v in (scene.x, scene.y, scene.side, scene.angle, scene.alpha)
    )
    axis = torch.arange(size, dtype=torch.float32) + 0.5
    dx, dy = axis.view(1, 1, size) - x, axis.view(1, size, 1) - y
    cos, sin = torch.cos(angle), torch.sin(angle)
    # In the object's own axes, where it spans -1 to 1. With y down, a growing angle turns it clockwise.
    u = (cos * dx + sin * dy) * (2 / side)
    v = (cos * dy - sin * dx) * (2 / side)
    inside = (1 - torch.maximum(u.abs(), v.abs())) * (side / 2) + 0.5  # pixels from the edge: a soft outline
    mask = (inside.clamp(0, 1) * alpha)[:, None]
    texture = scene.texture.expand(len(x), -1, -1, -1)
    grid = torch.stack([u, v], dim=-1)
    patch = F.grid_sample(texture, grid, mode="bilinear", padding_mode="border", align_corners=False)
    out = scene.background + mask * (patch - scene.background)
    return out.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


@dataclass(frozen=True)
class _Job:
    """One scene and the two files it becomes, relative to the dataset's folder."""

    pair: str
    key: tuple[int, int, int]  # split, pair, number
    files: tuple[str, str]


def _prepare(folder: Path, pairs: list[str], counts: dict[str, int], classes: list[str]) -> list[_Job]:
    """Make the folders and the lists, and return what is to be drawn."""
    for name in classes:
        (folder / "videos" / name).mkdir(parents=True)
    (folder / "classes.txt").write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    jobs = []
    for split, count in counts.items():
        each = count // len(classes)
        lines = ["path,label"]
        for label, name in enumerate(classes):
            lines += [f"videos/{name}/{split}_{number:05d}.mp4,{label}" for number in range(each)]
        (folder / f"{split}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for pair in pairs:
            first, second = (f"videos/{name}/{split}_" for name in MOTION_PAIRS[pair])
            for number in range(each):
                key = (_SPLITS.index(split), list(MOTION_PAIRS).index(pair), number)
                jobs.append(_Job(pair, key, (f"{first}{number:05d}.mp4", f"{second}{number:05d}.mp4")))
    return jobs


def _write_clips(
    folder: Path, jobs: list[_Job], frames: int, size: int, seed: int, workers: int, bar: Any
) -> None:
    """Draw and encode all clips in threads: PyAV and torch release the interpreter while they work."""

    def work(job: _Job) -> None:
        generator = np.random.default_rng((seed, *job.key))
        clip = _render(_scene(job.pair, generator, frames, size), size)
        for file, ordered in zip(job.files, (clip, clip[::-1]), strict=True):
            _encode(folder / file, ordered)

    # Pictures this small are not worth several torch threads each; the setting reaches new threads, so put it back.
    torch_threads = torch.get_num_threads()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        futures = [pool.submit(work, job) for job in jobs]
        try:
            for future in futures:
                future.result()
                if bar is not None:
                    bar.update(2)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
        finally:
            torch.set_num_threads(torch_threads)


def _encode(path: Path, clip: Frames) -> None:
    """Write frames as H.264 in mp4, every frame a key frame with the same quantiser."""
    av = require("av", extra="video")
    reformatter = av.video.reformatter.VideoReformatter()
    # Opening the encoder is most of the work; a small mvrange spares it tables that key frames never use.
    x264 = "keyint=1:scenecut=0:mvrange=32:threads=1:lookahead-threads=1"
    options = {"preset": "ultrafast", "tune": "zerolatency", "qp": "14", "x264-params": x264}
    with av.open(str(path), "w") as container:
        try:
            stream = container.add_stream("libx264", rate=_RATE, options=options)
        except av.FFmpegError as error:
            raise RuntimeError(
                "PyAV was built without libx264; its wheels have it: pip install av"
            ) from error
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = 1
        stream.codec_context.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        for array in clip:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")
            container.mux(stream.encode(reformatter.reformat(frame, format="yuv420p", threads=1)))
        container.mux(stream.encode(None))
