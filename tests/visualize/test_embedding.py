"""t-SNE: the points, how many videos it takes, colours and legend."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

pytest.importorskip("sklearn", reason="t-SNE needs scikit-learn")

from matplotlib.colors import to_rgba

from tests.visualize.boxes import lies_in
from vidops.models import create_model
from vidops.visualize import tsne_plot, tsne_points
from vidops.visualize.embedding import choose_perplexity
from vidops.visualize.networks import clip_features


def clusters(each: int, count: int, channels: int = 16) -> tuple[torch.Tensor, list[int]]:
    generator = torch.Generator().manual_seed(0)
    centres = 20 * torch.randn(count, channels, generator=generator)
    noise = torch.randn(count * each, channels, generator=generator)
    return centres.repeat_interleave(each, 0) + noise, [i for i in range(count) for _ in range(each)]


def test_clusters_stay_clusters() -> None:
    features, labels = clusters(15, 3)
    points, perplexity = tsne_points(features)
    assert perplexity == pytest.approx(44 / 3)
    distances = torch.cdist(torch.from_numpy(points), torch.from_numpy(points)).fill_diagonal_(math.inf)
    assert all(labels[i] == labels[int(row.argmin())] for i, row in enumerate(distances))


def test_the_same_seed_gives_the_same_points() -> None:
    features, _ = clusters(8, 2)
    first, second = (tsne_points(features, seed=3)[0] for _ in range(2))
    assert np.array_equal(first, second)
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    assert np.array_equal(first, tsne_points(features, seed=3)[0])


@pytest.mark.parametrize(
    ("samples", "wanted", "perplexity"), [(4, None, 1.0), (91, None, 30.0), (90, None, 89 / 3), (16, 5, 5.0)]
)
def test_perplexity(samples: int, wanted: float | None, perplexity: float) -> None:
    assert choose_perplexity(samples, wanted) == pytest.approx(perplexity)


@pytest.mark.parametrize(
    ("samples", "wanted", "text"),
    [
        (3, None, "t-SNE needs at least 4 videos, got 3"),
        (15, 5, "t-SNE of perplexity 5 needs at least 16 videos, got 15"),
        (100, 0.5, "perplexity must be at least 1, got 0.5"),
        (100, float("nan"), "perplexity must be at least 1"),
        (100, float("inf"), "perplexity must be at least 1"),
    ],
)
def test_too_few_videos(samples: int, wanted: float | None, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        tsne_points(torch.rand(samples, 4), perplexity=wanted)


def test_the_smallest_set_has_a_picture() -> None:
    points, perplexity = tsne_points(torch.rand(4, 2, generator=torch.Generator().manual_seed(0)))
    assert perplexity == 1
    assert points.shape == (4, 2)
    assert np.isfinite(points).all()


@pytest.mark.parametrize(
    ("features", "text"),
    [
        (torch.ones(9, 4), "the same for every video"),
        (torch.full((9, 4), float("nan")), "finite"),
        (torch.rand(9, 1), "C at least 2"),
        (torch.rand(9), "shape"),
    ],
)
def test_bad_features(features: torch.Tensor, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        tsne_points(features)


def test_the_picture_shows_each_class_in_its_colour() -> None:
    features, labels = clusters(5, 3)
    classes = ["up", "never", "down", "left"]
    labels = [(0, 2, 3)[i] for i in labels]
    figure = tsne_plot(features, labels, classes, title="a network", perplexity=4, seed=1)
    axes = figure.axes[0]
    points, _ = tsne_points(features, perplexity=4, seed=1)
    assert axes.get_title() == "t-SNE of a network: 15 videos, perplexity 4"
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["up", "down", "left"]
    for collection, label in zip(axes.collections, (0, 2, 3), strict=True):
        assert np.array_equal(np.asarray(collection.get_offsets()), points[np.array(labels) == label])
    assert len({tuple(c.get_facecolor()[0]) for c in axes.collections}) == 3
    assert tuple(axes.collections[0].get_facecolor()[0][:3]) == to_rgba("#0072B2")[:3]


def test_thirty_classes_can_be_told_apart_and_more_are_refused() -> None:
    features, labels = clusters(2, 30)
    classes = [f"Pretending to put something {i}" for i in range(31)]
    figure = tsne_plot(features, labels, classes)
    looks = {
        (tuple(c.get_facecolor()[0]), c.get_paths()[0].vertices.tobytes()) for c in figure.axes[0].collections
    }
    assert len(looks) == 30
    figure.canvas.draw()
    box = figure.axes[0].get_legend().get_window_extent()
    assert lies_in(box, figure.bbox)
    with pytest.raises(ValueError, match=r"31 are more than a legend can tell apart \(30\)"):
        tsne_plot(torch.rand(62, 4), [*labels, 30, 30], classes)


def test_bad_labels() -> None:
    for labels in ([0] * 8, [0] * 8 + [2], [0] * 8 + [-1]):
        with pytest.raises(ValueError, match="labels must be 9 numbers from 0 to 1"):
            tsne_plot(torch.rand(9, 4), labels, ["a", "b"])


@pytest.mark.parametrize("name", ["tiny_tsn", "tiny_tsm", "tiny_mstnet", "tiny_tsm_mobilenetv2", "tiny_x3d"])
def test_features_are_what_the_classifier_gets(name: str) -> None:
    torch.manual_seed(0)
    net = create_model(name).eval()
    clips = torch.randn(3, 3, 8, 32, 32)
    features, last = clip_features(net, clips), net.get_submodule(net.classifier_name)
    assert features.shape == (3, 128)
    with torch.no_grad():
        torch.testing.assert_close(last(features), net(clips))
    assert not last._forward_pre_hooks
    torch.testing.assert_close(clip_features(net, clips[1:2])[0], features[1])


def test_a_network_without_a_classifier_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear does not"):
        clip_features(torch.nn.Linear(2, 2), torch.rand(1, 2))
