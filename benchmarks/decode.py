"""Time the dataset's reading of clips against a plain PyAV decoding of the same files, in one process.

    python benchmarks/decode.py clips/*.mp4

For every file, the time of a sample of 8 uniform frames of 224 x 224 in its first epoch, where the number of
frames is not known yet, and in later ones; the time of decoding every frame with PyAV, with and without the
conversion to RGB arrays, all on one thread; and the ratios of the sample's times to these two. A sample ends
with its float clip, crops and normalisation included, which plain decoding does not do. Each time is processor
time, the least of all rounds, which other load on the machine disturbs least.

Measured on an AMD EPYC (Zen 5), PyAV 18.1, on h264 clips of 340 x 256 and one of mpeg4 of 320 x 240:

    frames  decode ms  to RGB ms  first ms  later ms  first/RGB  later/RGB  later/decode
       280       92.8      142.4      98.9      89.7       0.69       0.63          0.97
        57       36.5       46.4      41.1      40.2       0.89       0.87          1.10
        32       19.5       25.2      27.2      24.4       1.08       0.97          1.25
       164        8.9       32.5      19.8      17.1       0.61       0.53          1.93

What a sample takes beyond decoding is the scaling of 8 frames to 256 pixels, the crop and the normalisation.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import torch

from vidops.data import AnnotationList, Sample, UniformSampling, VideoDataset
from vidops.data import video as video_module
from vidops.data.transforms import Compose, Normalize, TrainCrops

HEAD = (
    "file",
    "frames",
    "decode ms",
    "to RGB ms",
    "first ms",
    "later ms",
    "first/RGB",
    "later/RGB",
    "later/decode",
)


def plain(path: str, convert: bool) -> int:
    """Decode every frame on one thread; return how many there are."""
    frames = 0
    with av.open(path) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_type, stream.codec_context.thread_count = "NONE", 1
        for frame in container.decode(stream):
            if convert:
                frame.to_ndarray(format="rgb24")
            frames += 1
    return frames


def seconds(call: Callable[[int], object], repeats: int) -> float:
    times = []
    for i in range(repeats):
        start = time.process_time()
        call(i)
        times.append(time.process_time() - start)
    return min(times)


def measure(path: str, repeats: int) -> tuple[str, ...]:
    dataset = VideoDataset(
        AnnotationList([Sample(path, 0)], None),
        sampling=UniformSampling(8, training=True),
        transform=Compose([TrainCrops(224, flip=True), Normalize([0.5] * 3, [0.25] * 3)]),
        short_side=256,
    )

    def first(epoch: int) -> None:
        video_module._COUNTS.clear()
        dataset[(epoch, 0)]

    frames = plain(path, convert=True)  # warm: the file is in memory
    # Interleaved in rounds, so that a change of the machine's speed meets all four.
    rounds = [
        [
            seconds(lambda i: plain(path, convert=False), 1),
            seconds(lambda i: plain(path, convert=True), 1),
            seconds(first, 1),
            seconds(lambda i, r=r: dataset[(r, 0)], 1),  # type: ignore[misc]
        ]
        for r in range(repeats)
    ]
    decode, rgb, unknown, known = (min(column) for column in zip(*rounds, strict=True))
    times = [f"{1e3 * t:.1f}" for t in (decode, rgb, unknown, known)]
    ratios = [f"{r:.2f}" for r in (unknown / rgb, known / rgb, known / decode)]
    return (Path(path).name, str(frames), *times, *ratios)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("videos", nargs="+")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = [HEAD, *(measure(path, args.repeats) for path in args.videos)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    for row in rows:
        print("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
