"""A network of two losses, and what each rank of tests/training/test_joint.py does with it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vidops.training.joint import JointLoss, Rule, Separate

RATE = 0.05
CASES: list[tuple[Rule, int]] = [("mgda", 1), ("mgda", 2), (0.3, 1), (Separate(2), 2)]  # and batches a step


class Two(nn.Module):
    """A part with a loss of its own, and the rest, which sees what the part makes; fp64, always the same weights."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.part = nn.Sequential(nn.Linear(6, 12), nn.Tanh(), nn.Linear(12, 6)).double()
            self.rest = nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 3)).double()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the part leaves of x, and the rest's logits of it."""
        left = x - self.part(x)
        return left, self.rest(left)

    def losses(self, x: Tensor, y: Tensor, net: nn.Module | None = None) -> tuple[Tensor, Tensor]:
        """Return the energy of what is left, and the cross entropy."""
        left, logits = (net or self)(x)
        return left.square().mean(), F.cross_entropy(logits, y)


def batches(count: int) -> list[tuple[Tensor, Tensor]]:
    """Batches of 8 random points of 3 classes, the same at each call."""
    generator = torch.Generator().manual_seed(3)
    return [
        (
            torch.randn(8, 6, generator=generator, dtype=torch.float64),
            torch.randint(3, (8,), generator=generator),
        )
        for _ in range(count)
    ]


def train(
    net: Two,
    joint: JointLoss,
    data: Sequence[tuple[Tensor, Tensor]],
    accumulate: int,
    ddp: DistributedDataParallel | None = None,
) -> list[float]:
    """Train on the batches and return alpha of each step."""
    optimizer = torch.optim.SGD(net.parameters(), RATE)
    alphas = []
    for i, (x, y) in enumerate(data):
        last = (i + 1) % accumulate == 0 or i + 1 == len(data)  # an epoch's last step may be short
        with nullcontext() if last or ddp is None else ddp.no_sync():
            l1, l2 = net.losses(x, y, ddp)
            (joint(l1, l2, step=i // accumulate, last=last) / accumulate).backward()
        if last:
            optimizer.step()
            optimizer.zero_grad()
            assert joint.alpha is not None
            alphas.append(joint.alpha.item())
    return alphas


def main(folder: Path) -> None:
    """Train on this rank's half of every batch."""
    dist.init_process_group("gloo")
    for rule, accumulate in CASES:
        found = train_as_a_rank(rule, accumulate)
        (folder / f"{rule}.{accumulate}.{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()  # nothing that holds the group may outlive it: it would wait for ever


def train_as_a_rank(rule: Rule, accumulate: int) -> dict[str, list[Any]]:
    """Train on this rank's half of every batch; alphas and weights."""
    net, rank = Two(), dist.get_rank()
    mine = [(x[4 * rank :][:4], y[4 * rank :][:4]) for x, y in batches(6)]
    alphas = train(net, JointLoss(net.part, rule), mine, accumulate, DistributedDataParallel(net))
    return {"alphas": alphas, "weights": [p.tolist() for p in net.parameters()]}
