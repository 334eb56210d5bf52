"""Videos that the tests write: whole ones, ones without frames, sound alone."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def write_video(
    path: Path,
    *,
    codec: str = "libx264",
    frames: int = 24,
    width: int = 64,
    height: int = 48,
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    rotation: tuple[float, bool, bool] | None = None,
    clip: np.ndarray | None = None,
    times: list[int] | None = None,
) -> Path:
    """Write a video of noise that drifts by two pixels a frame, or the given RGB clip.

    ``times`` are the milliseconds at which the frames are shown; else there are 25 a second.
    """
    if clip is None:
        base = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        clip = np.stack([np.roll(base, 2 * i, axis=1) for i in range(frames)])
    with av.open(str(path), "w", options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=25, options=options or {})
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = pix_fmt
        if rotation is not None:
            stream.set_display_rotation(*rotation)
        if times is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for i, array in enumerate(clip):
            frame = av.VideoFrame.from_ndarray(array, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = times[i], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_without_frames(path: Path) -> Path:
    """Write a video stream that holds no frame."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        container.start_encoding()
        container.mux(stream.encode(None))
    return path


def write_sound(path: Path) -> Path:
    """Write a second of silence, whatever the file is called."""
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    return path
