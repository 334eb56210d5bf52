"""Drawing the scenes of the motion dataset: a patch of one photograph that moves over another."""

from __future__ import annotations

import importlib.util
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
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "motorcycle_left.png",
    "rocket.jpg",
)
_DIRECTIONS = {"horizontal": (1, 0), "vertical": (0, 1), "diagonal": (1, 1), "antidiagonal": (-1, 1)}


@dataclass(frozen=True)
class Scene:
    """What is drawn: the object's pose at every frame over a still background. Lengths in output pixels."""

    background: torch.Tensor  # float (3, size, size), 0 to 255
    texture: torch.Tensor  # float (3, side, side)
    x: np.ndarray[Any, Any]  # centre of the object, (frames,)
    y: np.ndarray[Any, Any]
    side: np.ndarray[Any, Any]  # longer side of the object
    ratio: float  # of its shorter side to the longer
    angle: np.ndarray[Any, Any]  # radians, clockwise as seen
    alpha: np.ndarray[Any, Any]  # opacity
    wraps: bool  # what leaves on one side comes in on the other


@lru_cache(maxsize=1)
def load_photos() -> list[torch.Tensor]:
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


def crop_photo(
    photo: torch.Tensor, side: int, mean: float, std: float, generator: np.random.Generator
) -> torch.Tensor:
    """Cut a square of random size and place from a photograph, resize it, set its brightness and contrast."""
    height, width = photo.shape[1:]
    smallest = min(side, height, width)
    for _ in range(8):
        cut = int(generator.integers(smallest // 2, min(3 * side // 2, height, width) + 1))
        top, left = int(generator.integers(height - cut + 1)), int(generator.integers(width - cut + 1))
        patch = photo[:, top : top + cut, left : left + cut].float()
        if patch.std() > 25:  # visible texture
            break
    patch = (mean + (patch - patch.mean()) * (std / patch.std().clamp(min=10))).clamp(0, 255)
    out = F.interpolate(patch[None], size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    return out[0]


def draw_scene(pair: str, generator: np.random.Generator, frames: int, size: int) -> Scene:
    """Draw the scene of a pair's first class."""
    photos = load_photos()
    first, second = generator.choice(len(photos), size=2, replace=False)
    # A light object on a dimmed background, so that its outline is seen to move as well as its texture.
    background = crop_photo(photos[first], size, 70, 25, generator)
    texture = crop_photo(photos[second], max(8, size // 2), 170, 45, generator)
    side = generator.uniform(0.35, 0.6) * size
    x, y = generator.uniform(0.71 * side, size - 0.71 * side, size=2)  # inside, however it is turned
    angle = generator.uniform(-0.2, 0.2)
    phase, speed = generator.uniform(size=2)
    still = np.ones(frames)
    ratio = generator.uniform(0.7, 1)
    pose = {"x": x * still, "y": y * still, "side": side * still, "angle": angle * still, "alpha": still}

    def cycle(slow: float, fast: float) -> np.ndarray[Any, Any]:
        """Phase 0 to 1 of every frame, at a speed of ``slow`` to ``fast`` cycles a frame."""
        return np.asarray((phase + (slow + (fast - slow) * speed) * np.arange(frames)) % 1.0)

    if pair in _DIRECTIONS:
        phases = cycle(0.045, 0.085)
        for axis, sign in zip("xy", _DIRECTIONS[pair], strict=True):
            if sign:
                # From a place of its own on each axis, or a diagonal would always be the picture's diagonal.
                pose[axis] = (sign * phases * size + pose[axis]) % size
    elif pair == "zoom":
        pose["side"] = 0.22 * size * (0.8 / 0.22) ** cycle(0.06, 0.12)
    elif pair == "rotation":
        # A bar, whose turning shows far from its centre; a square would look the same after a quarter turn.
        ratio = 0.5 * ratio
        pose["side"] = 0.36 * size + 0.8 * pose["side"]
        pose["angle"] = 2 * np.pi * cycle(0.035, 0.065)
    elif pair == "fade":
        pose["alpha"] = cycle(0.06, 0.12)
    else:
        raise ValueError(f"pair: no pair {pair!r}")
    return Scene(background, texture, **pose, ratio=ratio, wraps=pair in _DIRECTIONS)


def render(scene: Scene, size: int) -> Frames:
    """Draw all frames: each output pixel looks up the texture through the inverse of the object's pose."""
    x, y, side, angle, alpha = (
        torch.from_numpy(np.ascontiguousarray(v, dtype=np.float32)).view(-1, 1, 1)
        for v in (scene.x, scene.y, scene.side, scene.angle, scene.alpha)
    )
    axis = torch.arange(size, dtype=torch.float32) + 0.5
    dx, dy = axis.view(1, 1, size) - x, axis.view(1, size, 1) - y
    if scene.wraps:
        dx, dy = ((d + size / 2) % size - size / 2 for d in (dx, dy))
    cos, sin = torch.cos(angle), torch.sin(angle)
    # In the object's own axes. With y down, a growing angle turns it clockwise.
    u, v = cos * dx + sin * dy, cos * dy - sin * dx
    width, height = side, side * scene.ratio
    # Pixels from the edge, which gives a soft outline.
    inside = torch.minimum(width / 2 - u.abs(), height / 2 - v.abs()) + 0.5
    mask = (inside.clamp(0, 1) * alpha)[:, None]
    texture = scene.texture.expand(len(x), -1, -1, -1)
    grid = torch.stack([u * (2 / width), v * (2 / height)], dim=-1)
    patch = F.grid_sample(texture, grid, mode="bilinear", padding_mode="border", align_corners=False)
    out = scene.background + mask * (patch - scene.background)
    return out.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
