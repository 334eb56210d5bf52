"""Lists, and the files that they name."""

from __future__ import annotations

import struct
from pathlib import Path

from vidops.data import AnnotationList


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def pairs(found: AnnotationList, root: Path) -> list[tuple[str, int]]:
    return [(Path(s.path).relative_to(root).as_posix(), s.label) for s in found.samples]


def class_videos(root: Path, video: bytes, **counts: int) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            write_mp4(root / name / f"{i}.mp4", video)
    return root


def write_mp4(path: Path, video: bytes) -> None:
    """Write an mp4 whose bytes no other path has: with a box at the end that players skip."""
    text = str(path).encode(errors="surrogateescape")
    path.write_bytes(video + struct.pack(">I4s", 8 + len(text), b"free") + text)
