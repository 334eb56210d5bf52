"""Read the videos named on the command line and print a line of JSON for each; run in a process of its own.

Each file is read by a forked child, so that a crash or a hang ends that alone and has a name.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import traceback
from typing import Any

import av
import numpy as np

from vidops.data import (
    AnnotationList,
    Sample,
    UniformSampling,
    VideoDataset,
    VideoError,
    num_frames,
    sample_frames,
)
from vidops.data import video as video_module

SECONDS = 20


def plain(path: str) -> list[np.ndarray] | None:
    """Every frame by the plainest decoding there is, None where that fails.

    A file named ``turned-K-...`` is to be shown turned by K quarters counter-clockwise.
    """
    name = os.path.basename(path)
    turns = int(name.split("-")[1]) if name.startswith("turned-") else 0
    try:
        with av.open(path) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return [np.rot90(frame, turns) for frame in frames]
    except (av.FFmpegError, IndexError, ValueError):
        return None


def digest(frames: Any) -> str:
    return hashlib.sha256(b"".join(np.ascontiguousarray(frame).tobytes() for frame in frames)).hexdigest()


def ways(path: str) -> list[tuple[str, Any]]:
    """What each way of reading gives: an error's text or a digest of all frames."""
    dataset = VideoDataset(
        AnnotationList([Sample(path, 0)], None),
        sampling=UniformSampling(4, training=False),
        transform=lambda frames, g: frames,
        short_side=24,
    )
    readers = {
        "count": lambda: num_frames(path),
        "sample": lambda: digest(sample_frames(path, range)[0]),
        "dataset": lambda: list(dataset[0]["clip"].shape),
    }
    found: list[tuple[str, Any]] = []
    for name, read in readers.items():
        video_module._COUNTS.clear()
        try:
            found.append((name, read()))
        except VideoError as error:
            found.append((name, {"error": str(error)}))
    return found


def report(path: str) -> None:
    """Print what comes of a file."""
    signal.alarm(SECONDS)  # ends the process: a decoder that hangs does not come back to Python
    frames = plain(path)
    result: dict[str, Any] = {"path": path, "ways": dict(ways(path))}
    result["plain"] = None if frames is None else [len(frames), digest(frames)]
    print(json.dumps(result), flush=True)


def main() -> None:
    for path in sys.argv[1:]:
        child = os.fork()
        if child == 0:
            try:
                report(path)
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code:
            print(json.dumps({"path": path, "died": code}), flush=True)


if __name__ == "__main__":
    main()
