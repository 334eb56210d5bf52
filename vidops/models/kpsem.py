"""Networks over clips with key point shifts: KPSEM after one of their stages, beside the later ones.

| model | backbone | input | published |
|---|---|---|---|
| mf_kpsem | MFNet, after "Conv4" | 16x224x224 | 11.21 G, 8.11 M (200 classes) |
| r3d_kpsem | R3D ResNet-50, after res3 | 16x224x224 | - |
| tiny_mf_kpsem, tiny_r3d_kpsem | tiny_mfnet, tiny_r3d, after an earlier stage | 8x64x64 | ours, for tests and demos |
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..layers import KeyPointShiftEmbedding
from .backbone import StagedBackbone, refuse_losses
from .cards import Figure, Score
from .mfnet import TINY as TINY_MFNET
from .mfnet import MFNet
from .r3d import R3D
from .r3d import TINY as TINY_R3D
from .registry import register_model

PAPER = "Effective Action Recognition with Embedded Key Point Shifts (Cao et al., Pattern Recognition 2021)"
SOURCE = "KPSEM, sections 3 and 4.2"
TINY: dict[str, Any] = {"num_sets": 2, "embed_dim": 8}


class KeyPointNetwork(StagedBackbone):
    """Puts KPSEM after a stage of a network over clips; a network inherits it before its backbone.

    The later stages see nothing of it: its features stand beside the pooled ones, before the classifier, whose width
    depends on the number of frames. So the network is no chain of its blocks alone, as other backbones are::

        last, features = net.feature_maps(clip)
        logits = net.classify(torch.cat([net.forward_pool(last), net.kpsem(features)], 1))

    State-dict keys are the backbone's, and ``kpsem.*``.

    Args:
        num_classes: classes of the head.
        num_segments: T, frames a clip.
        position: name of the stage, one of ``stages``.
        num_regions: K of KPSEM, see `KeyPointShiftEmbedding`, as are the following; 1 for a single key point.
        num_sets: G.
        embed_dim: d_e.
        regions: ``"adaptive"`` or ``"fixed"``.
        seed: of fixed regions.
        backend: backend of the operators.
        network: further arguments of the network.

    Raises:
        ValueError: an argument is out of range: there is no such stage, or it leaves a single frame, which has no
            shifts.

    Source: Cao et al., KPSEM, section 3.1 and figure 2.
    """

    beside = ("kpsem",)  # for `load_weights`: what is not the backbone's
    num_segments: int

    def __init__(
        self,
        num_classes: int,
        num_segments: int = 16,
        *,
        position: str,
        num_regions: int = 4,
        num_sets: int = 8,
        embed_dim: int = 24,
        regions: str = "adaptive",
        seed: int = 0,
        backend: str | None = None,
        **network: Any,
    ) -> None:
        super().__init__(num_classes, num_segments, **network)
        if position not in self.stages:
            raise ValueError(f"position must be one of {', '.join(self.stages)}, got {position!r}")
        frames = self.frames_after(self.stages.index(position) + 1)
        if frames < 2:
            raise ValueError(
                f"num_segments must leave at least 2 frames after {position}, for their shifts; {num_segments} leave"
                f" {frames}"
            )
        self.position = position
        width = [block.width for block in self.residual_blocks() if block.name.startswith(f"{position}.")][-1]
        self.kpsem = KeyPointShiftEmbedding(
            width, num_regions, num_sets, embed_dim, regions=regions, seed=seed, backend=backend
        )
        narrow = self.get_submodule(self.classifier_name)
        assert isinstance(narrow, nn.Linear)
        wide = nn.Linear(narrow.in_features + self.kpsem.num_features(frames), num_classes)
        self.set_submodule(self.classifier_name, wide)

    def frames_after(self, stage: int) -> int:
        """Count the frames of a clip that are left after a stage, counted from 1."""
        raise NotImplementedError

    def feature_maps(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Compute what the last stage puts out, and what the one at ``position`` does, from a clip."""
        x = features = self.forward_stem(self.enter(clip))
        for name in self.stages:
            x = getattr(self, name)(x)
            if name == self.position:
                features = x
        return x, features

    def forward(self, clip: Tensor, return_losses: bool = False) -> Tensor:
        """Compute logits ``(N, num_classes)``."""
        refuse_losses(self, return_losses)
        last, features = self.feature_maps(clip)
        return self.leave(self.classify(torch.cat([self.forward_pool(last), self.kpsem(features)], 1)))


class MFKPSEM(KeyPointNetwork, MFNet):
    """MFNet with KPSEM; see `KeyPointNetwork` and `MFNet`.

    Args:
        num_classes: classes of the head.
        num_segments: T, frames a clip.
        position: ``"conv2"`` to ``"conv5"``.
        network: further arguments.

    Example:
        >>> import torch
        >>> net = MFKPSEM(5, 4, position="conv3", blocks=(1, 1), width=16, stem_width=8, groups=4)
        >>> net(torch.rand(2, 3, 4, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self, num_classes: int, num_segments: int = 16, *, position: str = "conv4", **network: Any
    ) -> None:
        super().__init__(num_classes, num_segments, position=position, **network)
        nn.init.xavier_uniform_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def frames_after(self, stage: int) -> int:
        """Count the frames left after a stage: the first halves them."""
        return (self.num_segments + 1) // 2


class R3DKPSEM(KeyPointNetwork, R3D):
    """R3D with KPSEM; see `KeyPointNetwork` and `R3D`.

    Args:
        num_classes: classes of the head.
        num_segments: T, frames a clip.
        position: ``"layer1"`` (res2) to ``"layer4"`` (res5).
        network: further arguments.

    Example:
        >>> import torch
        >>> R3DKPSEM(5, 8, blocks=(1, 1), width=8)(torch.rand(2, 3, 8, 32, 32)).shape
        torch.Size([2, 5])
    """

    def __init__(
        self, num_classes: int, num_segments: int = 16, *, position: str = "layer2", **network: Any
    ) -> None:
        super().__init__(num_classes, num_segments, position=position, **network)

    def frames_after(self, stage: int) -> int:
        """Count the frames left after a stage: the stem halves them, and so does the second stage."""
        frames = (self.num_segments + 1) // 2
        return frames if stage == 1 else (frames + 1) // 2


def in_hmdb51(top1: float, where: str, **options: Any) -> Score:
    """Make a row of the paper's ablations, all with a batch of 16."""
    return Score("HMDB51 split 1", 16, top1, options=options, source=f"KPSEM, {where}, batch size 16")


register = partial(register_model, paper=PAPER)
_TABLE = "KPSEM, table 1"


@register(
    MFKPSEM,
    source=SOURCE,
    input_size=(3, 16, 224, 224),
    scores=(
        Score("Mini-Kinetics", 16, 82.05, source=_TABLE),
        Score("UCF101", 16, 97.4, source=_TABLE),
        Score("Something-Something v1", 16, 48.1, source=_TABLE),
        Score("HMDB51", 16, 77.7, source=_TABLE),
        in_hmdb51(74.0, "table 2"),
        in_hmdb51(72.1, "table 2a", num_regions=1),
        in_hmdb51(72.5, "table 2b", regions="fixed"),
        in_hmdb51(72.4, "table 2c", num_sets=1),
        in_hmdb51(72.5, "section 4.4: 1.5 below Conv4", position="conv2"),
    ),
    figures=(Figure(_TABLE, (3, 16, 224, 224), 200, gmacs=11.21, params=8.11),),
)
def mf_kpsem(
    num_classes: int = 200, num_segments: int = 16, *, backend: str | None = None, **options: Any
) -> MFKPSEM:
    """MFNet with key point shifts; see `KeyPointNetwork`."""
    return MFKPSEM(num_classes, num_segments, backend=backend, **options)


@register(
    R3DKPSEM,
    source=SOURCE,
    input_size=(3, 16, 224, 224),
    scores=(in_hmdb51(65.8, "table 2d"),),
)
def r3d_kpsem(
    num_classes: int = 400, num_segments: int = 16, *, backend: str | None = None, **options: Any
) -> R3DKPSEM:
    """R3D ResNet-50 with key point shifts; see `KeyPointNetwork`."""
    return R3DKPSEM(num_classes, num_segments, backend=backend, **options)


@register(MFKPSEM, source="MFNet and KPSEM with channels and depth cut", input_size=(3, 8, 64, 64))
def tiny_mf_kpsem(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> MFKPSEM:
    """MFNet with key point shifts cut down for tests and demos; see `KeyPointNetwork`."""
    network = {**TINY_MFNET, **TINY, "position": "conv3", **options}
    return MFKPSEM(num_classes, num_segments, backend=backend, **network)


@register(R3DKPSEM, source="R3D and KPSEM with channels and depth cut", input_size=(3, 8, 64, 64))
def tiny_r3d_kpsem(
    num_classes: int = 8, num_segments: int = 8, *, backend: str | None = None, **options: Any
) -> R3DKPSEM:
    """R3D with key point shifts cut down for tests and demos; see `KeyPointNetwork`."""
    network = {**TINY_R3D, **TINY, "position": "layer1", **options}
    return R3DKPSEM(num_classes, num_segments, backend=backend, **network)
