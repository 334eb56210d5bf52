"""Fifty and more damaged or odd videos: an error that names the file, or a plain decoding's frames; no crash, no hang.

A plain decoding's frames may be wrong where the damage lies inside coded pictures: decoders conceal it, or do not
notice. What is tested is that no way of reading adds faults of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ._videos import write_sound, write_video, write_without_frames

ROOT = Path(__file__).parents[2]
REAL = ROOT.parent / "shared" / "videos"
FRAMES = 16

SOURCES: dict[str, dict[str, Any]] = {
    "x264.mp4": {"options": {"bf": "2", "g": "8"}},
    "front.mp4": {"container_options": {"movflags": "faststart"}, "options": {"g": "4"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "vp9.webm": {
        "codec": "libvpx-vp9",
        "options": {"cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "8"},
    },
    "x264.mkv": {"options": {"bf": "2"}},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "mpeg2.ts": {"codec": "mpeg2video"},
}
SAME = "the source's frames"  # whole in spite of its looks
ERROR = "an error"
EITHER = "an error, or what a plain decoding gives"

Job = tuple[Path, str, Path | None]


def flipped(data: bytes, seed: int) -> bytes:
    """Change a run of bytes somewhere, longer with every seed."""
    rng = np.random.default_rng(seed)
    damaged = np.frombuffer(data, np.uint8).copy()
    length = (1, 8, 64, 512)[seed % 4]
    start = int(rng.integers(len(data) - length))
    damaged[start : start + length] ^= rng.integers(1, 256, length, dtype=np.uint8)
    return damaged.tobytes()


def zeroed(data: bytes) -> bytes:
    """A block of zeros in the middle, as a broken download leaves it."""
    third = len(data) // 3
    return data[:third] + bytes(third) + data[2 * third :]


def damage(folder: Path) -> list[Job]:
    """Make the videos: path, what must come of it, the file whose frames it must have."""
    sources = {name: write_video(folder / name, frames=FRAMES, **kwargs) for name, kwargs in SOURCES.items()}
    if (REAL / "part_0.mp4").is_file():
        sources["real.mp4"] = folder / "real.mp4"
        sources["real.mp4"].write_bytes((REAL / "part_0.mp4").read_bytes())
    jobs: list[Job] = []

    def add(name: str, data: bytes, expected: str, source: Path | None = None) -> None:
        (folder / name).write_bytes(data)
        jobs.append((folder / name, expected, source))

    for name, path in sources.items():
        data, (stem, suffix) = path.read_bytes(), name.split(".")
        jobs.append((path, SAME, path))
        for share in (0.03, 0.5, 0.95):
            # A transport stream has no index: one that ends on a packet is a shorter video.
            expected = EITHER if suffix == "ts" else ERROR
            add(f"cut-{share}-{stem}.{suffix}", data[: int(len(data) * share)], expected)
        for seed in range(4):
            add(f"flipped-{seed}-{stem}.{suffix}", flipped(data, seed), EITHER)
        add(f"zeroed-{stem}.{suffix}", zeroed(data), EITHER)
    for name, other in (("x264.mp4", "avi"), ("mpeg4.avi", "mp4"), ("vp9.webm", "mp4"), ("x264.mkv", "txt")):
        add(f"named-{name}.{other}", sources[name].read_bytes(), SAME, sources[name])
    for turns in (1, 2, 3):
        path = write_video(
            folder / f"turned-{turns}-x264.mp4", frames=FRAMES, rotation=(90 * turns, False, False)
        )
        jobs.append((path, SAME, path))
    times = [1000 * (i // 5) + 30 * i + 7 * (i % 3) for i in range(FRAMES)]
    for name in ("x264.mp4", "x264.mkv", "vp9.webm"):
        path = write_video(folder / f"uneven-{name}", frames=FRAMES, times=times, **SOURCES[name])
        jobs.append((path, SAME, path))
        add(f"uneven-cut-{name}", path.read_bytes()[: path.stat().st_size * 4 // 5], ERROR)
    for suffix in ("mp4", "mkv", "avi"):
        write_without_frames(folder / f"no-frames.{suffix}")
        jobs.append((folder / f"no-frames.{suffix}", ERROR, None))
        add(f"empty.{suffix}", b"", ERROR)
    add("text.mp4", b"this is no video\n" * 100, ERROR)
    write_sound(folder / "sound.mp4")
    jobs.append((folder / "sound.mp4", ERROR, None))
    add("tail.mkv", sources["x264.mkv"].read_bytes() + bytes(1000), EITHER)
    add("two.ts", sources["mpeg2.ts"].read_bytes() * 2, EITHER)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / "picture.png")
    (folder / "picture.png").rename(folder / "picture.mp4")
    jobs.append((folder / "picture.mp4", EITHER, None))
    return jobs


def read_all(
    paths: list[Path], script: Path = ROOT / "tests" / "data" / "_read_damaged.py"
) -> dict[str, Any]:
    """Read the files, each in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(script), *map(str, paths)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    found = {line["path"]: line for line in map(json.loads, done.stdout.splitlines())}
    for result in found.values():
        if "died" in result:
            result["stderr"] = done.stderr[-2000:]
    return found


def judge(path: Path, expected: str, result: dict[str, Any], source: dict[str, Any] | None) -> str:
    """Return what is wrong with what came of a video, empty if nothing."""
    if "died" in result:
        return f"the process died with {result['died']}: {result['stderr']}"
    ways = result["ways"]
    errors = {name: way["error"] for name, way in ways.items() if isinstance(way, dict)}
    for name, text in errors.items():
        if not text.startswith(f"{path}: ") or "\n" in text or text.rstrip() != text:
            return f"{name}: the error is {text!r}"
    if errors and len(errors) < len(ways):
        return f"some ways of reading see an error, others do not: {ways}"
    if errors:
        return "" if expected != SAME else f"unreadable: {errors}"
    if expected == ERROR:
        return f"read without an error: {ways}"
    wanted = result["plain"] if source is None else source["plain"]
    got = [ways["count"], ways["sample"]]
    return "" if wanted == got else f"other frames than a plain decoding's: {got}, not {wanted}"


def test_damaged_videos_are_refused_or_read_as_by_a_plain_decoder(tmp_path: Path) -> None:
    jobs = damage(tmp_path)
    assert len(jobs) >= 50
    found = read_all([path for path, _, _ in jobs])
    wrong = {}
    for path, expected, source in jobs:
        reason = judge(path, expected, found[str(path)], found[str(source)] if source else None)
        if reason:
            wrong[path.name] = reason
    assert wrong == {}
    for path, expected, _ in jobs:
        if expected == SAME:
            count = 32 if "real" in path.name else FRAMES
            assert found[str(path)]["ways"]["count"] == count, path.name
    # The damage does something: of the files that may go either way a part is refused.
    either = [found[str(path)]["ways"]["count"] for path, expected, _ in jobs if expected == EITHER]
    refused = sum(isinstance(way, dict) for way in either)
    assert 10 <= refused < len(either)


def test_a_reader_that_hangs_or_crashes_would_be_seen(tmp_path: Path) -> None:
    """The test above sees what it looks for: a reader that misbehaves on two of four files."""
    script = (ROOT / "tests" / "data" / "_read_damaged.py").read_text()
    misbehave = """    if path.endswith("hang.mp4"):
        __import__("time").sleep(60)
    if path.endswith("crash.mp4"):
        os.abort()
    frames = plain(path)
"""
    changed = script.replace("SECONDS = 20", "SECONDS = 3").replace("    frames = plain(path)\n", misbehave)
    (tmp_path / "reader.py").write_text(changed)
    paths = [write_video(tmp_path / f"{name}.mp4", frames=3) for name in ("one", "hang", "crash", "two")]
    found = read_all(paths, tmp_path / "reader.py")
    said = [judge(path, SAME, found[str(path)], None) for path in paths]
    assert [text[:28] for text in said] == [
        "",
        "the process died with -14: ",
        "the process died with -6: ",
        "",
    ]
