"""Drawing the actors of the synthetic detection set: patches of photographs that move over another one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from ._scenes import crop_photo, load_photos
from .video import Frames

ACTOR_PAIRS: dict[str, tuple[str, str]] = {
    "horizontal": ("move right", "move left"),
    "vertical": ("move down", "move up"),
    "size": ("grow", "shrink"),
}
"""What the order of the frames tells: name of a pair -> its labels; the second is the first played backwards."""

ACTOR_LOOKS: dict[str, tuple[str, str]] = {"shape": ("round", "square"), "light": ("bright", "dark")}
"""What any one frame tells."""

_BRIGHTNESS = (195.0, 40.0)  # mean of a bright and of a dark actor; the background's is between


@dataclass(frozen=True)
class Actor:
    """One actor at the key frame, and how it moves about it. Lengths in pixels.

    Args:
        texture: float (3, side, side), 0 to 255.
        place: x and y of the centre.
        side: of its box.
        ways: of each of `ACTOR_PAIRS`, 1 for its first label, -1 for its second, 0 for neither.
        reach: pixels from the key frame to either end along x and along y, and the logarithm of the growth.
        looks: of each of `ACTOR_LOOKS`, 0 for its first label, 1 for its second.
    """

    texture: torch.Tensor
    place: tuple[float, float]
    side: float
    ways: tuple[int, ...]
    reach: tuple[float, float, float]
    looks: tuple[int, ...]

    def labels(self, backwards: bool = False) -> list[str]:
        """Name what it does and how it looks, in the clip or in the clip played backwards."""
        turn = -1 if backwards else 1
        moves = [
            pair[way * turn < 0] for pair, way in zip(ACTOR_PAIRS.values(), self.ways, strict=True) if way
        ]
        return moves + [pair[look] for pair, look in zip(ACTOR_LOOKS.values(), self.looks, strict=True)]

    def box(self) -> tuple[float, float, float, float]:
        """Return x1, y1, x2, y2 at the key frame, pixels."""
        (x, y), half = self.place, self.side / 2
        return x - half, y - half, x + half, y + half


@dataclass(frozen=True)
class ActorScene:
    """A still background, float (3, size, size), and the actors before it, the nearest last."""

    background: torch.Tensor
    actors: list[Actor]


def draw_actors(generator: np.random.Generator, size: int) -> ActorScene:
    """Draw a scene of two or three actors, each in a quarter of the picture of its own.

    How an actor stands at the key frame is drawn apart from the ways it moves, so that no key frame tells these.
    """
    photos = load_photos()
    background = crop_photo(photos[int(generator.integers(len(photos)))], size, 115, 22, generator)
    quarters = generator.permutation(4)[: int(generator.integers(2, 4))]
    return ActorScene(background, [_draw_actor(generator, size, divmod(int(q), 2)) for q in quarters])


def _draw_actor(generator: np.random.Generator, size: int, quarter: tuple[int, int]) -> Actor:
    photos = load_photos()
    looks = tuple(int(look) for look in generator.integers(2, size=len(ACTOR_LOOKS)))
    photo = photos[int(generator.integers(len(photos)))]
    texture = crop_photo(photo, max(8, size // 2), _BRIGHTNESS[looks[1]], 30, generator)
    x, y = ((0.27 + 0.46 * q + generator.uniform(-0.05, 0.05)) * size for q in quarter)
    side = generator.uniform(0.22, 0.3) * size
    reach = (*(generator.uniform(0.11, 0.15, size=2) * size).tolist(), generator.uniform(0.3, 0.4))
    active = generator.permutation(len(ACTOR_PAIRS))[: int(generator.integers(1, 3))]
    signs = 2 * generator.integers(2, size=len(ACTOR_PAIRS)) - 1
    ways = tuple(int(sign) if i in active else 0 for i, sign in enumerate(signs))
    return Actor(texture, (x, y), side, ways, reach, looks)


def times(frames: int) -> np.ndarray[Any, Any]:
    """Return the place of each frame between the clip's ends, -1 to 1; the two in the middle both stand at 0.

    The key frame lies between these two. As they show the same, it is the key frame of the clip played backwards
    too, and stands in its boxes exactly.
    """
    after = np.arange(frames // 2) / (frames // 2 - 1)
    return np.concatenate([-after[::-1], after])


def render_actors(scene: ActorScene, frames: int) -> Frames:
    """Draw all frames, uint8 (frames, size, size, 3)."""
    size = scene.background.shape[-1]
    out = scene.background.expand(frames, -1, -1, -1)
    for actor in scene.actors:
        mask, patch = _draw(actor, frames, size)
        out = out + mask * (patch - out)
    return out.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def _draw(actor: Actor, frames: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return where an actor is, (T, 1, size, size) from 0 to 1, and what it shows, (T, 3, size, size)."""
    moved = [way * reach * times(frames) for way, reach in zip(actor.ways, actor.reach, strict=True)]
    poses = (actor.place[0] + moved[0], actor.place[1] + moved[1], actor.side * np.exp(moved[2]))
    x, y, side = (torch.from_numpy(pose.astype(np.float32)).view(-1, 1, 1) for pose in poses)
    axis = torch.arange(size, dtype=torch.float32) + 0.5
    dx, dy = (
        (axis.view(1, 1, size) - x).expand(-1, size, -1),
        (axis.view(1, size, 1) - y).expand(-1, -1, size),
    )
    # Pixels from the edge, which gives a soft outline.
    distance = torch.hypot(dx, dy) if actor.looks[0] == 0 else torch.maximum(dx.abs(), dy.abs())
    mask = (side / 2 - distance + 0.5).clamp(0, 1)[:, None]
    grid = torch.stack([dx * (2 / side), dy * (2 / side)], dim=-1)
    texture = actor.texture.expand(frames, -1, -1, -1)
    return mask, F.grid_sample(texture, grid, mode="bilinear", padding_mode="border", align_corners=False)
