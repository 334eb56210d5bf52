"""Scores of videos that are seen in several views: spatial crops times temporal clips."""

from __future__ import annotations

import math
import re

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vidops.data.views import CROPS

AVERAGES = ("logits", "softmax")


def parse_views(text: str) -> tuple[int, int]:
    """Read a number of views as written on the command line.

    Args:
        text: ``CROPSxCLIPS``, such as ``"3x10"`` for 3 spatial crops of each of 10 clips.

    Returns:
        Crops and clips.

    Raises:
        ValueError: the text reads otherwise, the crops are not 1, 3 or 10, or there are no clips.

    Example:
        >>> parse_views("3x10")
        (3, 10)
    """
    found = re.fullmatch(r"([0-9]+)[x×]([0-9]+)", text.strip())
    if found is None:
        raise ValueError(f"views: must read CROPSxCLIPS, such as 3x10, got {text!r}")
    crops, clips = int(found[1]), int(found[2])
    if crops not in CROPS or clips < 1:
        raise ValueError(f"views: 1, 3 or 10 crops times at least one clip, got {text!r}")
    return crops, clips


def video_scores(
    net: nn.Module, clip: Tensor, *, average: str = "logits", chunk: int | None = None
) -> Tensor:
    """Run a network on a batch of videos and average over each video's views.

    The averages are taken in float32 whatever the network's precision. One view is not averaged: its logits
    are the network's, bit for bit.

    Args:
        net: from clips (N, 3, T, H, W) to logits (N, K).
        clip: one view a video (N, 3, T, H, W), or several (N, V, 3, T, H, W).
        average: ``"logits"``, or ``"softmax"`` for probabilities.
        chunk: clips that run through the network at a time, so that memory stays bounded; None runs all.

    Returns:
        float32 (N, K): mean logits, or logarithms of the mean probabilities, whose softmax these are.

    Raises:
        ValueError: the average has another name, the chunk is below 1, or the clip has other dimensions.

    Example:
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(24, 5))
        >>> video_scores(net, torch.zeros(2, 6, 3, 2, 2, 2), chunk=4).shape
        torch.Size([2, 5])
    """
    if average not in AVERAGES:
        raise ValueError(f'average must be "logits" or "softmax", got {average!r}')
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    if clip.ndim not in (5, 6):
        raise ValueError(f"clip: must be (N, 3, T, H, W) or (N, V, 3, T, H, W), got {tuple(clip.shape)}")
    videos, views = len(clip), clip.shape[1] if clip.ndim == 6 else 1
    flat = clip.flatten(0, 1) if clip.ndim == 6 else clip
    parts = flat.split(chunk or max(1, len(flat)))
    scores = torch.cat([net(part).float() for part in parts]).unflatten(0, (videos, views))
    if views == 1:
        return scores[:, 0]
    if average == "logits":
        return scores.mean(1)
    return scores.log_softmax(2).logsumexp(1) - math.log(views)


def actor_scores(
    net: nn.Module,
    clip: Tensor,
    boxes: Tensor,
    num_classes: int,
    *,
    average: str = "logits",
    chunk: int | None = None,
) -> Tensor:
    """Run a network that classifies actors on a batch of key frames and average over each one's views.

    The averages are taken in float32 at least. One view is not averaged: its logits are the network's, bit for bit.

    Args:
        net: from clips (N, 3, T, H, W) and boxes (R, 5) to logits (R, K).
        clip: one view a key frame (N, 3, T, H, W), or several (N, V, 3, T, H, W).
        boxes: clip, x1, y1, x2, y2 of R boxes (R, 5), or of each in V views (R, V, 5), clips counted in
            ``clip.flatten(0, 1)``.
        num_classes: K.
        average: ``"logits"``, or ``"softmax"`` for the probabilities of the classes, each a sigmoid's.
        chunk: clips that run through the network at a time; None runs all.

    Returns:
        float32 (R, K): mean logits, or those whose sigmoids are the mean probabilities.

    Raises:
        ValueError: the average has another name, or the chunk is below 1.

    Example:
        >>> class Net(nn.Module):
        ...     def forward(self, clip, boxes):
        ...         return clip.mean((1, 2, 3, 4))[boxes[:, 0].long(), None] + boxes[:, 1:3]
        >>> boxes = torch.tensor([[0.0, 1, 2, 5, 5], [1.0, 3, 4, 5, 5]])
        >>> actor_scores(Net(), torch.ones(2, 3, 2, 2, 2), boxes, 2, chunk=1).tolist()
        [[2.0, 3.0], [4.0, 5.0]]
    """
    if average not in AVERAGES:
        raise ValueError(f'average must be "logits" or "softmax", got {average!r}')
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    views = clip.shape[1] if clip.ndim == 6 else 1
    flat = clip.flatten(0, 1) if clip.ndim == 6 else clip
    rows = boxes.reshape(-1, 5)
    scores = torch.zeros(len(rows), num_classes, device=rows.device)
    step = chunk or max(1, len(flat))
    for start in range(0, len(flat), step):
        own = ((rows[:, 0] >= start) & (rows[:, 0] < start + step)).nonzero()[:, 0]
        if len(own):
            part = rows[own] - rows.new_tensor([start, 0, 0, 0, 0])
            scores[own] = net(flat[start : start + step], part).float()
    scores = scores.unflatten(0, (len(boxes), views))
    if views == 1:
        return scores[:, 0]
    if average == "logits":
        return scores.mean(1)
    # The logarithms of mean p and mean 1 - p, so that a probability near 1 keeps its digits.
    return F.logsigmoid(scores).logsumexp(1) - F.logsigmoid(-scores).logsumexp(1)
