"""Which networks are measured, and on what: published sizes in batches that fill an H200, smaller ones on a CPU.

Every published network that holds an operator is here in one of its depths, and TSN, which holds none: the plain
network that what the others add is seen against. On a GPU clips have the published size, in channels-last bf16, and the
five networks with targets are measured on one clip too. On a CPU it is one clip, or two, in fp32 as loaders give it
(NCTHW), its frames cut so that a training step takes about a second; the operators' share of a network's time does not
depend on the frames' size, but for attention's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..models import model_card
from ..models.cards import Figure
from .case import Case, Params, Target, Workload
from .plan import NETWORK

__all__ = ["NETWORKS", "NetworkCase"]

# The specification has none for a CPU.
TARGETS = (
    Target("inference", "speedup", 1.5, against="reference"),
    Target("training", "speedup", 1.3, against="reference"),
)


@dataclass(frozen=True)
class NetworkCase:
    """One network.

    Attributes:
        name: of `vidops.list_models`.
        batch: clips of the published size on a GPU; in training with the reference about 60 GB at most.
        side: height and width of the clip on a CPU.
        segments: of the clip on a CPU; None for the published number.
        clips: on a CPU; more than one where a batch norm's statistics are over clips.
        named: whether the specification has targets for it.
        quick: whether ``--quick`` keeps it.
    """

    name: str
    batch: int
    side: int
    segments: int | None = None
    clips: int = 1
    named: bool = False
    quick: bool = False

    def workloads(self) -> list[Workload]:
        """Its sizes: on a CPU, in a batch on a GPU and, if it is named, of one clip there."""
        card = model_card(self.name)
        channels, frames, height, width = card.input_size
        cut = frames if self.segments is None else self.segments * card.frames_per_segment
        targets = TARGETS if self.named else ()
        found = [
            self._workload("cpu", (self.clips, channels, cut, self.side, self.side), quick=self.quick),
            self._workload("cuda", (self.batch, channels, frames, height, width), targets, quick=self.quick),
        ]
        if self.named:
            found.append(self._workload("cuda", (1, channels, frames, height, width), inference=True))
        return found

    def _workload(
        self,
        device: str,
        clip: tuple[int, ...],
        targets: tuple[Target, ...] = (),
        *,
        quick: bool = False,
        inference: bool = False,
    ) -> Workload:
        n, _, t, h, w = clip
        on_gpu = device == "cuda"
        return Workload(
            f"{self.name} {n}x{t}x{h}x{w}",
            device,
            {"network": self.name, "clip": clip, "distinct": min(n, 4)},
            dtypes=("bfloat16",) if on_gpu else ("float32",),
            layouts=("NTHWC",) if on_gpu else ("NCTHW",),
            directions=("inference",) if inference else ("inference", "training"),
            quick=quick,
            targets=targets,
        )


CASES = (
    NetworkCase("tsn_resnet50", 64, 112),
    NetworkCase("tsm_resnet50", 64, 112),
    NetworkCase("tsm_mobilenetv2", 128, 112),
    NetworkCase("mstnet_resnet50", 64, 112, named=True, quick=True),
    NetworkCase("x3d_m", 32, 112),
    NetworkCase("mbpm_tsm_resnet50", 64, 112),
    NetworkCase("mbpm_tsm_mobilenetv2", 128, 112),
    NetworkCase("mbpm_x3d_m", 32, 112),
    NetworkCase("bqn_tsm_resnet50", 32, 128),
    NetworkCase("bqn_x3d_m", 16, 128, 8, named=True),
    NetworkCase("tesnet_inception_resnet_v2", 32, 139),
    NetworkCase("dan_tsm_resnet50", 32, 128),
    NetworkCase("dan_x3d_xs", 128, 160, named=True, quick=True),
    NetworkCase("se_tsm_resnet50", 64, 80, clips=2),
    NetworkCase("cbam_tsm_resnet50", 64, 112),
    NetworkCase("gc_tsm_resnet50", 64, 112),
    NetworkCase("nl_tsm_resnet50", 32, 112),
    NetworkCase("rnl_tsm_resnet50", 32, 112, named=True),
    NetworkCase("cpa_tsm_resnet50", 64, 112),
    NetworkCase("mf_kpsem", 64, 112, named=True),
    NetworkCase("r3d_kpsem", 32, 112),
    NetworkCase("btsnet26", 32, 80, 8, clips=2),
    NetworkCase("btsnet50", 32, 80, 8, clips=2),
    NetworkCase("st_slowfast_i3d_resnet50", 8, 64, 8),
)


def _products(params: Params, direction: str) -> int:
    """Multiply-adds of convolutions and matrix products; gradients of each take two more of the same size.

    The input's gradient, which is not needed, is counted: less than a hundredth.
    """
    card = model_card(params["network"])
    n, *clip = params["clip"]
    figure = Figure("bench", clip=_four(clip), num_classes=card.num_classes)
    forward = round(card.measure(figure)[1] * 1e9)
    return n * forward * (3 if direction == "training" else 1)


def _four(clip: list[Any]) -> tuple[int, int, int, int]:
    c, t, h, w = clip
    return c, t, h, w


NETWORKS = Case(
    operator=NETWORK,
    workloads=tuple(workload for case in CASES for workload in case.workloads()),
    products=_products,
    matrix=True,
)
