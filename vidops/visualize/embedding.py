"""Features of many videos in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from torch import Tensor

from .._extras import require
from .clips import fill
from .figures import COLORS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["choose_perplexity", "tsne_plot", "tsne_points"]

MARKERS = ("o", "^", "s", "D", "v")
# Every class has a colour and a marker of its own up to this number.
MOST_CLASSES = len(COLORS) * len(MARKERS)


def choose_perplexity(samples: int, wanted: float | None = None) -> float:
    """Choose t-SNE's perplexity, or check a wanted one: three times it must be below the number of samples.

    Args:
        samples: N.
        wanted: perplexity; None for 30, or (N - 1) / 3 where that is less.

    Returns:
        The perplexity, at least 1.

    Raises:
        ValueError: there are too few samples for it.

    Source: van der Maaten and Hinton, Visualizing Data using t-SNE, JMLR 2008: 5 to 50 are typical; the
        bound is that of van der Maaten's own programs, which look at 3 x perplexity neighbours.

    Example:
        >>> choose_perplexity(400), choose_perplexity(31)
        (30.0, 10.0)
    """
    if wanted is not None and not 1 <= wanted < float("inf"):
        raise ValueError(f"perplexity must be at least 1, got {wanted:g}")
    least = 4 if wanted is None else int(np.ceil(3 * wanted)) + 1
    if samples < least:
        need = "" if wanted is None else f" of perplexity {wanted:g}"
        raise ValueError(f"t-SNE{need} needs at least {least} videos, got {samples}")
    return float(min(30.0, (samples - 1) / 3)) if wanted is None else float(wanted)


def check_labels(labels: Sequence[int], perplexity: float | None = None) -> None:
    """Check, before any feature is computed, that videos of these classes can be drawn.

    Args:
        labels: a class number each.
        perplexity: as wanted; None for a fitting one.

    Raises:
        ValueError: there are too few videos, or more than 30 classes.
        ImportError: scikit-learn is not installed.

    Example:
        >>> check_labels([0, 1])
        Traceback (most recent call last):
        ValueError: t-SNE needs at least 4 videos, got 2
    """
    require("sklearn.manifold", extra="viz")
    choose_perplexity(len(labels), perplexity)
    if len(set(labels)) > MOST_CLASSES:
        raise ValueError(
            f"classes: {len(set(labels))} are more than a legend can tell apart ({MOST_CLASSES}); choose some"
        )


def tsne_points(
    features: Tensor, *, perplexity: float | None = None, seed: int = 0
) -> tuple[npt.NDArray[np.float32], float]:
    """Lay features out in the plane by t-SNE, started from their principal components.

    Args:
        features: (N, C), finite, C at least 2.
        perplexity: effective number of neighbours; None lets :func:`choose_perplexity` choose.
        seed: of the little that is random.

    Returns:
        Points, float32 (N, 2), and the perplexity used.

    Raises:
        ValueError: there are too few features, or they are not finite or all the same.
        ImportError: scikit-learn is not installed.

    Example:
        >>> import torch
        >>> points, perplexity = tsne_points(torch.eye(10))
        >>> points.shape, perplexity
        ((10, 2), 3.0)
    """
    if features.dim() != 2 or features.shape[1] < 2:
        raise ValueError(f"features must have shape (N, C) with C at least 2, got {tuple(features.shape)}")
    used = choose_perplexity(len(features), perplexity)
    array = features.detach().float().cpu().numpy()
    if not np.isfinite(array).all():
        raise ValueError("features must be finite, got some that are not")
    if (array == array[0]).all():
        raise ValueError("features are the same for every video")
    manifold = require("sklearn.manifold", extra="viz")
    tsne = manifold.TSNE(2, perplexity=used, init="pca", learning_rate="auto", random_state=seed)
    return tsne.fit_transform(array).astype(np.float32), used


def tsne_plot(
    features: Tensor,
    labels: Sequence[int],
    classes: Sequence[str],
    *,
    title: str = "",
    perplexity: float | None = None,
    seed: int = 0,
) -> Figure:
    """Draw features of videos in the plane by t-SNE, coloured by class.

    Args:
        features: (N, C), as :func:`vidops.visualize.features_of_videos` gives them.
        labels: N class numbers.
        classes: names by number; those without a video are left out.
        title: what the features are of; the perplexity is added.
        perplexity: None lets :func:`choose_perplexity` choose.
        seed: of t-SNE.

    Returns:
        The figure: one collection of points a class, in the order of the legend.

    Raises:
        ValueError: labels and features do not belong together, there are more than 30 classes, or as
            :func:`tsne_points` says.

    Source: MixTConv slides, "Visualization".

    Example:
        >>> import torch
        >>> figure = tsne_plot(torch.eye(10), [0, 1] * 5, ["up", "down"], title="eye")
        >>> figure.axes[0].get_title()
        't-SNE of eye: 10 videos, perplexity 3'
    """
    if len(labels) != len(features) or any(not 0 <= i < len(classes) for i in labels):
        raise ValueError(
            f"labels must be {len(features)} numbers from 0 to {len(classes) - 1}, got {len(labels)} of them"
        )
    present = sorted(set(labels))
    check_labels(labels, perplexity)
    points, used = tsne_points(features, perplexity=perplexity, seed=seed)
    names = [classes[i] for i in present]
    columns = -(-len(names) // 20)
    legend = columns * (0.45 + 0.075 * max(map(len, names)))
    figure = new_figure(5.4 + legend, 5.2)
    axes = figure.subplots()
    own = np.asarray(labels)
    for place, (label, name) in enumerate(zip(present, names, strict=True)):
        x, y = points[own == label].T
        axes.scatter(
            x,
            y,
            s=22,
            color=COLORS[place % len(COLORS)],
            marker=MARKERS[place // len(COLORS)],
            label=name,
            alpha=0.8,
            linewidths=0,
        )
    axes.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
    of = f" of {title}" if title else ""
    text = f"t-SNE{of}: {len(labels):,} videos, perplexity {used:.3g}"
    axes.set_title(fill(text, 5.4), fontsize=9)
    axes.legend(
        loc="center left", bbox_to_anchor=(1.01, 0.5), ncols=columns, fontsize=8, frameon=False, borderpad=0
    )
    return figure
