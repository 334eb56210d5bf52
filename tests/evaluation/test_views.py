"""Scores averaged over views, against sums written out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from vidops.evaluation import evaluate, video_scores
from vidops.evaluation.recipe import clips_at_a_time, with_views
from vidops.evaluation.views import parse_views
from vidops.training import load_config, read_checkpoint, restore
from vidops.training.loading import build_dataset, read_list


class Counting(nn.Module):
    """A small network that remembers how many clips came at a time."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.fc = nn.Linear(3 * 4 * 5 * 6, 7).double()
        self.sizes: list[int] = []

    def forward(self, clip: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(clip))
        return self.fc(clip.flatten(1).double()) * 30


def clips(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, 3, 4, 5, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("videos, views", [(1, 1), (2, 3), (3, 30), (5, 2)])
@pytest.mark.parametrize("chunk", [1, 4, 7, None])
def test_averages_are_those_of_a_loop(videos: int, views: int, chunk: int | None) -> None:
    net, clip = Counting(), clips(videos, views)
    logits = video_scores(net, clip, average="logits", chunk=chunk)
    log_shares = video_scores(net, clip, average="softmax", chunk=chunk)
    with torch.no_grad():
        for n in range(videos):
            each = [net(clip[n, v][None])[0].numpy() for v in range(views)]
            mean = sum(each) / views
            np.testing.assert_allclose(logits[n].detach(), mean, rtol=1e-5, atol=1e-5)
            shares = [np.exp(e - e.max()) / np.exp(e - e.max()).sum() for e in each]
            expected = sum(shares) / views
            np.testing.assert_allclose(log_shares[n].detach().softmax(0), expected, rtol=1e-4, atol=1e-6)
            if views > 1:
                np.testing.assert_allclose(log_shares[n].detach(), np.log(expected), rtol=1e-4, atol=1e-4)


def test_no_more_clips_than_the_chunk_at_a_time() -> None:
    net = Counting()
    video_scores(net, clips(2, 15), chunk=8)
    assert net.sizes == [8, 8, 8, 6]
    net.sizes.clear()
    video_scores(net, clips(9), chunk=4)
    assert net.sizes == [4, 4, 1]
    net.sizes.clear()
    video_scores(net, clips(2, 3))
    assert net.sizes == [6]


@pytest.mark.parametrize("average", ["logits", "softmax"])
def test_one_view_is_the_networks_output_bit_for_bit(average: str) -> None:
    net, clip = Counting(), clips(6)
    expected = net(clip).float()
    assert torch.equal(video_scores(net, clip, average=average), expected)
    assert torch.equal(video_scores(net, clip[:, None], average=average), expected)


def test_no_view_outweighs_the_others_by_its_order() -> None:
    net, clip = Counting(), clips(2, 5)
    one, other = (
        video_scores(net, clip, average="softmax"),
        video_scores(net, clip.flip(1), average="softmax"),
    )
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


def test_bad_arguments() -> None:
    net = Counting()
    with pytest.raises(ValueError, match='average must be "logits" or "softmax", got \'mean\''):
        video_scores(net, clips(2, 3), average="mean")
    with pytest.raises(ValueError, match="chunk must be at least 1, got 0"):
        video_scores(net, clips(2, 3), chunk=0)
    with pytest.raises(ValueError, match=r"clip: must be .* got \(3, 4, 5, 6\)"):
        video_scores(net, clips())
    assert net.sizes == []


def test_parse_views() -> None:
    assert parse_views("3x10") == (3, 10)
    assert parse_views(" 10x1 ") == (10, 1)
    for text in ("", "3", "x10", "3x", "3x10x2", "3*10", "-3x1", "3.0x1", "threexten"):
        with pytest.raises(ValueError, match="views: must read CROPSxCLIPS"):
            parse_views(text)
    for text in ("2x1", "3x0", "0x1", "30x1"):
        with pytest.raises(ValueError, match="views: 1, 3 or 10 crops times at least one clip"):
            parse_views(text)


def test_clips_at_a_time_do_not_grow_with_the_views(run: Path) -> None:
    config = load_config(run / "config.yaml", ["data.eval_batch_size=8"])
    assert clips_at_a_time(config.data) == (8, 8)
    assert clips_at_a_time(with_views(config, views="3x1").data) == (8, 2)
    assert clips_at_a_time(with_views(config, views="3x1", batch_size=2).data) == (2, 1)


@pytest.mark.parametrize("average", ["logits", "softmax"])
def test_evaluate_with_views_is_the_loop_over_views(run: Path, average: str) -> None:
    config = load_config(run / "config.yaml", ["data.symmetric=false"])
    report = evaluate(run / "best.ckpt", config, views="3x2", average=average, batch_size=4)
    assert report.origin["views"] == f"3x2, mean of {average}"
    checkpoint = read_checkpoint(run / "best.ckpt")
    net = restore(checkpoint)
    viewed = with_views(config, views="3x2")
    dataset = build_dataset(viewed, read_list(viewed, "val", checkpoint.classes), training=False)
    assert report.logits is not None
    assert report.labels is not None
    with torch.no_grad():
        for i in range(len(dataset)):
            item = dataset[i]
            assert item["clip"].shape == (6, 3, 8, 24, 24)
            each = torch.stack([net(view[None])[0] for view in item["clip"]])
            shares = each.mean(0).softmax(0) if average == "logits" else each.softmax(1).mean(0)
            np.testing.assert_allclose(torch.tensor(report.logits[i]).softmax(0), shares, atol=1e-6)
            assert report.labels[i] == item["label"]


def test_one_view_by_name_is_the_recipes_one_view(run: Path) -> None:
    plain = evaluate(run / "best.ckpt")
    named = evaluate(run / "best.ckpt", views="1x1", average="softmax")
    assert plain.logits is not None
    assert named.logits is not None
    assert np.array_equal(plain.logits, named.logits)
    assert plain.as_dict() == named.as_dict()


def test_views_that_the_recipe_forbids(run: Path) -> None:
    with pytest.raises(ValueError, match=r"recipe with data.crops=10, data.clips=1: data.crops: .*mirrored"):
        evaluate(run / "best.ckpt", views="10x1")
