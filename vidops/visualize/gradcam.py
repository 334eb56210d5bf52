"""Grad-CAM: which places of a clip speak for a class."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .._extras import require
from ..models.backbone import Backbone

__all__ = ["ClassMap", "default_layer", "grad_cam", "layer_energy"]


@dataclass(frozen=True)
class ClassMap:
    """A map of a class over one clip.

    Attributes:
        heat: (T', h, w), not below 0, as large in space and time as the layer's output.
        target: number of the class.
        probability: of that class, after softmax.
        predicted: whether the class is the likeliest.
        layer: name of the layer.
    """

    heat: Tensor
    target: int
    probability: float
    predicted: bool
    layer: str


def grad_cam(
    net: nn.Module, clip: Tensor, *, target: int | None = None, layer: str | None = None
) -> ClassMap:
    """Compute the Grad-CAM map of a class: the layer's channels, weighted by their mean gradient.

    With A the layer's output for the clip and y the logit of the class, the map is ReLU(sum_c a_c A_c). A
    layer that works on frames folded into the batch has one map a frame, and a_c is the mean of dy/dA_c over
    that frame; a layer over clips (N, C, T', h, w) has one a_c, the mean over the clip. The map is not
    normalised. Computed by captum.

    Args:
        net: from clips (N, 3, T, H, W) to logits (N, K); taken as it is, evaluation mode is the caller's.
        clip: one clip, (1, 3, T, H, W).
        target: number of the class; None for the likeliest.
        layer: name of the layer, as ``net.named_modules()`` has it; None for :func:`default_layer`'s.

    Returns:
        The map and what it is of.

    Raises:
        ValueError: there is no such layer or class, the clip is not one, or the layer's output is no map of
            the clip, is made several times, or has no influence on the logits.
        ImportError: captum is not installed.

    Source: Selvaraju et al., Grad-CAM, ICCV 2017, equations 1 and 2.

    Example:
        >>> from vidops.models import create_model
        >>> found = grad_cam(create_model("tiny_tsn").eval(), torch.rand(1, 3, 8, 64, 64), target=3)
        >>> found.heat.shape, found.layer
        (torch.Size([8, 2, 2]), 'layer4')
    """
    attr = require("captum.attr", extra="viz")
    layer = default_layer(net) if layer is None else layer
    logits, _ = layer_output(net, clip, layer)
    if target is None:
        target = int(logits.argmax())
    if not 0 <= target < len(logits):
        raise ValueError(f"target must be a class from 0 to {len(logits) - 1}, got {target}")
    explain = attr.LayerGradCam(net, net.get_submodule(layer))
    leaf = clip.detach().clone().requires_grad_()  # so that a frozen network has gradients too
    with torch.enable_grad():
        try:
            heat = explain.attribute(leaf, target, relu_attributions=True)
        except RuntimeError as error:
            if "not have been used in the graph" not in str(error):
                raise
            raise ValueError(f"layer {layer}: has no influence on the logits") from error
    return ClassMap(
        _over_time(heat.detach())[0],
        target,
        float(logits.softmax(0)[target]),
        target == int(logits.argmax()),
        layer,
    )


def layer_energy(net: nn.Module, clip: Tensor, *, layer: str | None = None) -> tuple[Tensor, str]:
    """Compute where a layer is active: the mean of its squared output over the channels.

    Args:
        net: from clips (N, 3, T, H, W) to logits (N, K).
        clip: one clip, (1, 3, T, H, W).
        layer: name of the layer; None for :func:`default_layer`'s.

    Returns:
        The map (T', h, w) and the layer's name.

    Raises:
        ValueError: there is no such layer, or its output is no map of the clip or made several times.

    Source: Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017, section 3.1, with the
        mean for the sum.

    Example:
        >>> from vidops.models import create_model
        >>> layer_energy(create_model("tiny_tsn").eval(), torch.rand(1, 3, 8, 64, 64), layer="layer1")[0].shape
        torch.Size([8, 16, 16])
    """
    layer = default_layer(net) if layer is None else layer
    _, output = layer_output(net, clip, layer)
    return _over_time(output.float().square().mean(1, keepdim=True))[0], layer


def default_layer(net: nn.Module) -> str:
    """Name the layer that Grad-CAM looks at: the last residual stage or block, else the last convolution.

    Args:
        net: a network; residual stages are its modules called ``layer1``, ``layer2``, ..., residual blocks
            those that a `vidops.models.Backbone` lists.

    Returns:
        The name.

    Raises:
        ValueError: the network has neither.

    Example:
        >>> from vidops.models import create_model
        >>> default_layer(create_model("tiny_mstnet"))
        'layer4'
    """
    names = [name for name, _ in net.named_modules() if re.fullmatch(r"(.*\.)?layer\d+", name)]
    if not names and isinstance(net, Backbone):
        names = [block.name for block in net.residual_blocks()]
    names = names or [name for name, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Conv3d))]
    if not names:
        raise ValueError(
            f"layer must be named: {type(net).__name__} has no residual stage and no convolution"
        )
    return names[-1]


def layer_output(net: nn.Module, clip: Tensor, layer: str) -> tuple[Tensor, Tensor]:
    """Run one clip; return its logits (K,) and the layer's output, checked to be one map."""
    if clip.dim() != 5 or clip.shape[0] != 1:
        raise ValueError(f"clip must be one, (1, 3, T, H, W), got {tuple(clip.shape)}")
    modules = {name: module for name, module in net.named_modules() if name}
    if layer not in modules:
        children = ", ".join(name for name, _ in net.named_children())
        near = difflib.get_close_matches(layer, modules, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"its children are {children}"
        raise ValueError(f"layer {layer!r}: {type(net).__name__} has no such module; {hint}")
    outputs: list[Any] = []
    handle = modules[layer].register_forward_hook(
        lambda *call: outputs.append(call[2].clone() if isinstance(call[2], Tensor) else call[2])
    )
    try:
        with torch.no_grad():
            logits = net(clip)
    finally:
        handle.remove()
    if len(outputs) != 1:
        raise ValueError(f"layer {layer}: must run once a clip, runs {len(outputs)} times")
    output = outputs[0]
    if not isinstance(output, Tensor) or output.dim() not in (4, 5):
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"layer {layer}: must put out maps (T, C, h, w) or (1, C, T, h, w), puts out {shape}"
        )
    if output.dim() == 5 and len(output) != 1:
        raise ValueError(f"layer {layer}: must put out one map a clip, puts out {tuple(output.shape)}")
    if not logits.isfinite().all():
        raise ValueError("net: its logits for this clip are not finite")
    return logits[0].float(), output


def _over_time(maps: Tensor) -> Tensor:
    """Maps (T, 1, h, w) of frames in the batch, or (1, 1, T, h, w) of a clip, as (1, T, h, w)."""
    return maps[:, 0][None] if maps.dim() == 4 else maps[:, 0]
