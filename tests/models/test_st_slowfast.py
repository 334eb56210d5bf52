"""The networks of actors: what they make of boxes, what their options build, what sees time in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.models.test_networks import clips, tiny
from vidops.layers import roi_align
from vidops.models import create_model, list_models, load_weights, model_card

ACTORS = ["tiny_i3d_actors", "tiny_st_slowfast"]
each = pytest.mark.parametrize("name", ACTORS)
# In the order of no clip; within, across and beyond the frame.
BOXES = [
    [1, 3, 4, 40, 50],
    [0, 0, 0, 64, 64],
    [1, 10, 2, 30, 61],
    [0, 40, 40, 90, 70],
    [1, 20.5, 20.25, 21, 20.5],
]


def boxes(rows: slice | list[int] = slice(None), dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(BOXES, dtype=dtype)[rows]


def clip64(name: str = "tiny_st_slowfast", dtype: torch.dtype = torch.float64, n: int = 2) -> Tensor:
    return clips(n, size=64, dtype=dtype, name=name)


def test_cards_tell_which_networks_detect() -> None:
    assert [name for name in list_models() if model_card(name).detects] == [
        "i3d_resnet50_actors",
        "st_slowfast_i3d_resnet50",
        "tiny_i3d_actors",
        "tiny_st_slowfast",
    ]
    card = model_card("st_slowfast_i3d_resnet50")
    assert (card.num_classes, card.input_size) == (80, (3, 32, 256, 256))


@each
def test_no_boxes_are_the_whole_frames(name: str) -> None:
    net = tiny(name).eval()
    for h, w in ((64, 64), (40, 56)):
        clip = clip64(name)[..., :h, :w]
        frames = torch.tensor([[1, 0, 0, w, h], [0, 0, 0, w, h]], dtype=torch.float64)
        torch.testing.assert_close(net(clip, frames).flip(0), net(clip), rtol=1e-12, atol=1e-12)
        rows = net.forward_pool(net.forward_features(clip))
        torch.testing.assert_close(net.classify(rows), net(clip), rtol=1e-12, atol=1e-12)


@each
def test_boxes_in_any_order_see_their_own_clip(name: str) -> None:
    net, clip = tiny(name).eval(), clip64(name)
    logits = net(clip, boxes())
    assert logits.shape == (5, 8)
    order = [3, 0, 4, 1, 2]
    torch.testing.assert_close(net(clip, boxes(order)), logits[order], rtol=1e-12, atol=1e-12)
    other = torch.cat([clip[:1] + 1, clip[1:]])
    changed = (net(other, boxes()) - logits).abs().amax(1) > 1e-9
    assert changed.tolist() == [False, True, False, True, False]
    for row, box in enumerate(boxes()):
        torch.testing.assert_close(net(clip, box[None]), logits[row : row + 1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("train", [True, False])
@each
def test_no_actors_at_all(name: str, train: bool) -> None:
    """As of a key frame in which nobody was found: the step is one like any other, without gradients."""
    net = tiny(name, num_classes=6).train(train)
    logits = net(clip64(name), boxes([]))
    assert logits.shape == (0, 6)
    nn.functional.binary_cross_entropy_with_logits(
        logits, torch.zeros_like(logits), reduction="sum"
    ).backward()
    assert not any(p.grad is not None and p.grad.any() for p in net.parameters())


@pytest.mark.parametrize("pooling", ["gap", "gmp"])
@pytest.mark.parametrize("last_stride", [1, 2])
def test_logits_by_hand(pooling: str, last_stride: int) -> None:
    """Frame by frame, 7 x 7 bins of each; the baseline: of their mean."""
    clip = clip64()
    for name in ACTORS:
        net = tiny(name, pooling=pooling, last_stride=last_stride).eval()
        features = net.forward_features(clip)
        assert net.stride == 64 // features.shape[3] == (8 if last_stride == 1 else 16)
        frames = [features.mean(2)] if name == "tiny_i3d_actors" else list(features.unbind(2))
        cut = torch.stack([roi_align(f, boxes(), 7, 1 / net.stride) for f in frames], 2)
        rows = cut.mean((2, 3, 4)) if pooling == "gap" else cut.flatten(2).max(2).values
        expected = rows @ net.head.proj.weight.T + net.head.proj.bias
        torch.testing.assert_close(net(clip, boxes()), expected, rtol=1e-10, atol=1e-10)


def test_means_of_boxes_on_every_frame_are_those_on_the_mean_of_frames() -> None:
    """RoIAlign is linear: with GAP and no attention the network is its baseline; with GMP it is not."""
    clip, without = clip64(), {"ssfa": False, "tsfa": False}
    for pooling in ("gap", "gmp"):
        net, baseline = (
            tiny("tiny_st_slowfast", pooling=pooling, **without),
            tiny("tiny_i3d_actors", pooling=pooling),
        )
        baseline.load_state_dict(net.state_dict())
        same = torch.allclose(
            net.eval()(clip, boxes()), baseline.eval()(clip, boxes()), rtol=1e-10, atol=1e-10
        )
        assert same == (pooling == "gap")


@pytest.mark.parametrize("pooling", ["gap", "gmp"])
@pytest.mark.parametrize(
    ("options", "sees"),
    [
        ({}, True),
        ({"tsfa": False}, True),  # the slow module over space convolves along time
        ({"ssfa": False}, True),
        ({"ssfa": "fast", "tsfa": "slow"}, True),
        ({"ssfa": "fast", "tsfa": "fast"}, False),  # frames as a set
        ({"ssfa": "fast", "tsfa": False}, False),
        ({"ssfa": False, "tsfa": False}, False),
    ],
    ids=str,
)
def test_the_slow_modules_alone_see_the_order_of_frames(
    options: dict[str, Any], sees: bool, pooling: str
) -> None:
    net, clip = tiny("tiny_st_slowfast", pooling=pooling, **options).eval(), clip64()
    for branch in (branch for layer in net.attention for branch in layer.branches.values()):
        nn.init.ones_(branch.gamma)
    logits = net(clip, boxes())
    for other in (clip.flip(2), clip[:, :, [3, 1, 0, 2, 7, 6, 4, 5]]):
        difference = (net(other, boxes()) - logits).abs().max() / logits.abs().max()
        assert (difference > 1e-3) if sees else (difference < 1e-12)


def test_every_row_of_table_4_2() -> None:
    """SSFA, TSFA, pooling, layers, d and LN of each, as the slides print them, and what they build."""
    rows = {
        18.5: (False, True, "gap", 1, 512, False),
        19.2: (False, True, "gmp", 1, 512, False),
        20.8: (True, False, "gmp", 1, 512, False),
        21.3: (True, True, "gap", 1, 2048, False),
        21.7: (True, True, "gap", 2, 2048, False),
        23.0: (True, True, "gap", 2, 2048, True),
    }
    scores = model_card("st_slowfast_i3d_resnet50").scores
    assert {score.top1 for score in scores} == set(rows)
    assert {score.metric for score in scores} == {"frame mAP"}
    for score in scores:
        ssfa, tsfa, pooling, layers, dim, norm = rows[score.top1]
        with torch.device("meta"):
            net = create_model("st_slowfast_i3d_resnet50", **score.options)
        axes = ["space"] * (2 * ssfa) + ["time"] * (2 * tsfa)
        assert (net.pooling, len(net.attention), net.stride) == (pooling, layers, 16)
        for layer in net.attention:
            assert [branch.over for branch in layer.branches.values()] == axes
            assert (layer.norm is not None) == norm
            for branch in layer.branches.values():
                assert branch.query.weight.shape == (dim // 8, 2048, branch.frames, 1, 1)
                assert branch.value.weight.shape == (dim, 2048, branch.frames, 1, 1)


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        ([[0, 1, 1, 5, 5]], TypeError, r"boxes must be a Tensor \(R, 5\), got list"),
        (boxes()[:, 1:], ValueError, r"boxes must be \(R, 5\): index, x1, y1, x2, y2; got \(5, 4\)"),
        (boxes().long(), TypeError, r"boxes must be of a floating dtype, got torch\.int64"),
        (boxes().to("meta"), ValueError, "boxes must be on cpu, got meta"),
        (
            boxes() + 1,
            ValueError,
            r"boxes must have a whole index from 0 to 1 in front; row 0 is \[2\.0, 4\.0",
        ),
        (
            boxes().flip(1)[:, [4, 0, 1, 2, 3]],
            ValueError,
            "boxes must have finite x1 <= x2 and y1 <= y2; row 0",
        ),
    ],
)
@each
def test_bad_boxes_are_named_before_any_work(
    name: str, given: Any, kind: type[Exception], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = create_model(name).double()
    monkeypatch.setattr(type(net), "forward_features", None)
    with pytest.raises(kind, match=f"^{text}"):
        net(clip64(name), given)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"pooling": "max"}, "pooling must be one of gap, gmp, got 'max'"),
        ({"num_layers": 0}, "num_layers must be 1 or 2, got 0"),
        ({"num_layers": True}, "num_layers must be 1 or 2, got True"),
        ({"attention_dim": 0}, "attention_dim must be a whole number of at least 1, got 0"),
        ({"ssfa": "all"}, "ssfa must be True, False, 'slow' or 'fast', got 'all'"),
        ({"layer_norm": "yes", "ssfa": False, "tsfa": False}, "layer_norm must be True or False, got 'yes'"),
        ({"last_stride": 4}, "last_stride must be 1 or 2, got 4"),
        ({"backend": "gpu"}, "backend must be one of"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"^{text}"):
        create_model("tiny_st_slowfast", **options)


@torch.no_grad()
def test_compiles_and_exports_for_any_number_of_boxes() -> None:
    net, clip = tiny("tiny_st_slowfast").eval(), clip64()
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    marked = boxes()
    torch._dynamo.mark_dynamic(marked, 0)
    dynamic = {"clip": None, "boxes": {0: torch.export.Dim("rows", min=0, max=64)}}
    program = torch.export.export(net, (clip, boxes()), dynamic_shapes=dynamic).module()
    for given in (marked, boxes([2, 0, 1])):
        expected = net(clip, given)
        torch.testing.assert_close(compiled(clip, given), expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(program(clip, given), expected, rtol=1e-9, atol=1e-9)


@each
def test_autocast_keeps_places_exact(name: str) -> None:
    """Coordinates past 256 do not fit bf16; logits are no farther off than bf16 is."""
    net, clip = tiny(name).eval(), clip64(name)
    exact = net(clip, boxes())
    net.float()
    with torch.autocast("cpu", torch.bfloat16):
        found = net(clip.float(), boxes(dtype=torch.float32))
    assert (found - exact).abs().max() < 0.03 * exact.abs().max()
    wide = boxes(dtype=torch.float32) * torch.tensor([1, 8, 8, 8, 8]) + torch.tensor([0, 1, 1, 1, 1])
    maps = torch.rand(2, 4, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(roi_align(maps, wide, 7, 1 / 8), roi_align(maps.float(), wide, 7, 1 / 8))


@each
def test_published_i3d_weights_load_but_for_the_classifier(tmp_path: Path, name: str) -> None:
    torch.manual_seed(3)
    source = create_model("tiny_i3d_actors", num_classes=400).state_dict()  # tiny_i3d has kernels along time
    state = {key: value + 1 for key, value in source.items()}
    torch.save({"model_state": state}, tmp_path / "I3D.pyth")
    net = create_model(name, num_classes=7)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(ValueError, match=r"not weights of this .*part='(backbone|features)'"):
        load_weights(net, tmp_path / "I3D.pyth")
    result = load_weights(net, tmp_path / "I3D.pyth", part="backbone")
    assert result.missing == result.unexpected == []
    for key, value in net.state_dict().items():
        kept = key.startswith((net.classifier_name, "attention."))
        assert torch.equal(value, before[key] if kept else state[key]), key
    assert any(key.startswith("attention.") for key in before) == (name == "tiny_st_slowfast")


def test_the_backbone_is_i3d() -> None:
    with torch.device("meta"):
        plain = create_model("i3d_resnet50").state_dict()
        for name in ("i3d_resnet50_actors", "st_slowfast_i3d_resnet50"):
            state = create_model(name).state_dict()
            assert [key for key in state if not key.startswith("attention.")] == list(plain)
            for key, value in plain.items():
                assert key.startswith("blocks.6.proj.") or state[key].shape == value.shape, key


def test_names_of_the_attention_stay() -> None:
    """Checkpoints have them."""
    with torch.device("meta"):
        keys = [
            key
            for key in create_model("st_slowfast_i3d_resnet50").state_dict()
            if key.startswith("attention.")
        ]
    assert keys == [
        f"attention.{layer}.{key}"
        for layer in (0, 1)
        for key in (
            "norm.weight",
            "norm.bias",
            *(
                f"branches.{axis}_{speed}.{name}"
                for axis in ("space", "time")
                for speed in ("slow", "fast")
                for name in ("gamma", "query.weight", "key.weight", "value.weight", "out.weight", "out.bias")
            ),
        )
    ]
