"""Textures that move, and damage to the files of their flow."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vidops.data.flow import FlowSettings

FAST = FlowSettings(short_side=24, num_warp=1, num_iter=2)


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random texture."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).random((height, width, 3))
    smooth = gaussian_filter(noise, (2, 2, 0))
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


def moving(count: int, seed: int = 0, height: int = 24, width: int = 32) -> np.ndarray:
    picture = texture(height + 2 * count, width + 2 * count, seed)
    return np.stack([picture[i : i + height, 2 * i : 2 * i + width] for i in range(count)])


def damage(file: Path, kind: str) -> None:
    content = file.read_bytes()
    if kind == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "noise":
        file.write_bytes(np.random.default_rng(0).bytes(len(content)))
    elif kind == "flipped bytes":
        spoilt = bytearray(content)
        for at in range(100, len(content) // 2, 50):
            spoilt[at] ^= 0xFF
        file.write_bytes(bytes(spoilt))
    else:  # another writer's npz
        np.savez(file, a=np.zeros(3))
