from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vidops.models import create_model, load_weights, read_weights
from vidops.models.weights import load_state


def snapshot(net: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for key in a:
        assert torch.equal(a[key], b[key]), key


def trained(name: str, **options: object) -> nn.Module:
    """A network whose every value, counters too, differs from a fresh one's."""
    torch.manual_seed(7)
    net = create_model(name, **options)
    for value in net.state_dict().values():
        value.add_(1)
    return net


def prefixed(prefix: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    return lambda state: {prefix + key: value for key, value in state.items()}


def tsm_release(state: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {k.replace(".conv1.", ".conv1.net."): v for k, v in state.items()}
    return {
        "module." + (k.replace("fc.", "new_fc.") if k[:3] == "fc." else "base_model." + k): v
        for k, v in state.items()
    }


WRAPPINGS: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "plain": lambda state: state,
    "DataParallel": prefixed("module."),
    "TSN release": prefixed("module.base_model."),
    "TSM release": tsm_release,
    "compiled": prefixed("_orig_mod."),
    "Lightning": lambda state: {
        "state_dict": prefixed("model.")(state),
        "epoch": 3,
        "hyper_parameters": {"lr": 0.1},
    },
    "vidops train": lambda state: {"state_dict": prefixed("model.")(state), "vidops": {"classes": ["a"]}},
    "model entry": lambda state: {"model": state, "optimizer": {"state": {}}},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("name", ["tiny_tsm", "tiny_mstnet"])
def test_every_wrapping(tmp_path: Path, name: str, wrapping: str) -> None:
    source, net = trained(name), create_model(name)
    torch.save(WRAPPINGS[wrapping](source.state_dict()), tmp_path / "w.pt")
    result = load_weights(net, tmp_path / "w.pt")
    assert_same(net.state_dict(), source.state_dict())
    assert result == (list(net.state_dict()), [], [])


def test_safetensors(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    source, net = trained("tiny_mstnet"), create_model("tiny_mstnet")
    safetensors.save_file(source.state_dict(), tmp_path / "w.safetensors")
    load_weights(net, str(tmp_path / "w.safetensors"))
    assert_same(net.state_dict(), source.state_dict())
    whole = (tmp_path / "w.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.safetensors: not a whole safetensors file"):
        load_weights(net, tmp_path / "cut.safetensors")


def test_backends_share_checkpoints(tmp_path: Path) -> None:
    source = trained("tiny_mstnet", backend="reference")
    torch.save(source.state_dict(), tmp_path / "w.pt")
    net = create_model("tiny_mstnet", backend="cpu")
    load_weights(net, tmp_path / "w.pt")
    assert_same(net.state_dict(), source.state_dict())


def imagenet(tmp_path: Path, name: str = "tiny_tsn") -> Path:
    """A file as torchvision's first ImageNet weights are: 1000 classes, no counters in the batch norms."""
    state = trained(name, num_classes=1000).state_dict()
    path = tmp_path / "imagenet.pth"
    torch.save({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, path)
    return path


def refused(net: nn.Module, path: Path, match: str, **options: object) -> str:
    """Check that loading fails with one line and leaves the network alone."""
    before = snapshot(net)
    with pytest.raises(ValueError, match=match) as caught:
        load_weights(net, path, **options)
    assert_same(net.state_dict(), before)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert "\n" not in text
    return text


def test_imagenet_weights_into_tsn(tmp_path: Path) -> None:
    path, net = imagenet(tmp_path), create_model("tiny_tsn")
    refused(net, path, r"fc\.weight is \(1000, 128\) there, \(8, 128\) here.*part='features'")
    before = snapshot(net)
    load_weights(net, path, part="features")
    source = read_weights(path)
    for key, value in net.state_dict().items():
        kept = key.startswith("fc.") or key.endswith("num_batches_tracked")
        assert torch.equal(value, before[key] if kept else source[key]), key


def test_imagenet_weights_into_mstnet(tmp_path: Path) -> None:
    path, net = imagenet(tmp_path), create_model("tiny_mstnet")
    refused(net, path, r"missing layer1\.0\.temporal\.layer\.weight.*and 1 more.*part='backbone'")
    refused(net, path, r"part='backbone'", part="features")
    before = snapshot(net)
    result = load_weights(net, path, part="backbone")
    source = read_weights(path)
    for key, value in net.state_dict().items():
        kept = key.startswith("fc.") or ".temporal." in key or key.endswith("num_batches_tracked")
        assert torch.equal(value, before[key] if kept else source[key]), key
    assert not any("temporal" in key for key in result.missing)


def test_another_network(tmp_path: Path) -> None:
    torch.save(trained("tiny_mstnet").state_dict(), tmp_path / "mst.pt")
    refused(
        create_model("tiny_tsm"),
        tmp_path / "mst.pt",
        r"not weights of this TSM: unexpected layer1\.0\.temporal",
    )
    net = nn.Sequential(nn.Linear(3, 4))
    refused(
        net,
        tmp_path / "mst.pt",
        r"missing 0\.weight, 0\.bias; unexpected conv1\.weight, bn1\.weight, .* and \d+ more$",
    )
    refused(net, tmp_path / "mst.pt", "missing", strict=False)


def test_other_shapes(tmp_path: Path) -> None:
    torch.save(trained("tiny_mstnet", kernel_sizes=(3,)).state_dict(), tmp_path / "k3.pt")
    text = refused(
        create_model("tiny_mstnet"),
        tmp_path / "k3.pt",
        r"layer1\.0\.temporal\.layer\.weight is \(48,\) there",
    )
    assert "and 1 more" in text
    refused(create_model("tiny_mstnet"), tmp_path / "k3.pt", "of another shape", strict=False)


def test_not_strict_loads_what_fits(tmp_path: Path) -> None:
    source = trained("tiny_tsn").state_dict()
    lacking = {k: v for k, v in source.items() if not k.startswith("layer4")}
    torch.save({**lacking, "extra": torch.zeros(1)}, tmp_path / "part.pt")
    net = create_model("tiny_tsn")
    refused(net, tmp_path / "part.pt", r"missing layer4\.0\.conv1\.weight.*unexpected extra")
    before = snapshot(net)
    result = load_weights(net, tmp_path / "part.pt", strict=False)
    assert result.unexpected == ["extra"]
    assert all(key.startswith("layer4") for key in result.missing)
    assert_same(net.state_dict(), {k: source[k] if k in lacking else before[k] for k in source})


def test_files_that_are_no_weights(tmp_path: Path) -> None:
    net = create_model("tiny_tsn")
    with pytest.raises(FileNotFoundError, match=r"nowhere\.pt: no such weights file"):
        load_weights(net, tmp_path / "nowhere.pt")
    torch.save(net, tmp_path / "module.pt")
    refused(net, tmp_path / "module.pt", "objects other than tensors")
    (tmp_path / "text.pt").write_text("hello")
    refused(net, tmp_path / "text.pt", "not a")
    (tmp_path / "empty.pt").touch()
    refused(net, tmp_path / "empty.pt", "not a")
    torch.save(net.state_dict(), tmp_path / "whole.pt")
    whole = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    refused(net, tmp_path / "cut.pt", "not a whole weights file")
    torch.save([1, 2], tmp_path / "list.pt")
    refused(net, tmp_path / "list.pt", "holds no state dict")
    torch.save({"epoch": 3}, tmp_path / "numbers.pt")
    refused(net, tmp_path / "numbers.pt", "'epoch' is no tensor")


def test_part_is_checked(tmp_path: Path) -> None:
    path = imagenet(tmp_path)
    with pytest.raises(ValueError, match="part must be one of all, features, backbone, got 'body'"):
        load_weights(create_model("tiny_tsn"), path, part="body")
    with pytest.raises(ValueError, match="names its classifier; Linear does not"):
        load_weights(nn.Linear(2, 2), path, part="features")


@pytest.mark.parametrize("part", ["backbone", "features"])
def test_rgb_weights_start_a_network_of_other_channels(tmp_path: Path, part: str) -> None:
    source, net = trained("tiny_tsn"), create_model("tiny_tsn", num_classes=5, in_channels=10)
    torch.save(source.state_dict(), tmp_path / "w.pt")
    load_weights(net, tmp_path / "w.pt", part=part)
    found, given = net.conv1.weight, source.conv1.weight
    assert found.shape == (16, 10, 3, 3)
    for channel in range(10):
        by_hand = (given[:, 0] + given[:, 1] + given[:, 2]) / 3
        assert torch.allclose(found[:, channel], by_hand, atol=1e-6)
    assert torch.equal(net.layer1[0].conv1.weight, source.layer1[0].conv1.weight)


def test_averaging_is_not_for_whole_networks_nor_for_other_channels(tmp_path: Path) -> None:
    torch.save(trained("tiny_tsn").state_dict(), tmp_path / "rgb.pt")
    torch.save(trained("tiny_tsn", in_channels=4).state_dict(), tmp_path / "four.pt")
    flow = create_model("tiny_tsn", in_channels=10)
    before = snapshot(flow)
    for file, part in (("rgb.pt", "all"), ("four.pt", "backbone")):
        with pytest.raises(ValueError, match=r"of another shape conv1\.weight is \(16, ., 3, 3\) there"):
            load_weights(flow, tmp_path / file, part=part)
    assert_same(flow.state_dict(), before)
    load_weights(create_model("tiny_tsn", in_channels=4), tmp_path / "four.pt")


@pytest.mark.parametrize("name", ["tiny_tsn", "tiny_tsm", "tiny_mstnet"])
def test_networks_of_other_channels(name: str) -> None:
    net = create_model(name, in_channels=10).eval()
    assert net(torch.rand(2, 10, 8, 32, 32)).shape == (2, 8)
    with pytest.raises(ValueError, match=r"clip must have 10 channels, \(N, 10, T, H, W\), got 3"):
        net(torch.rand(2, 3, 8, 32, 32))
    for wrong in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="in_channels must be a whole number of at least 1"):
            create_model(name, in_channels=wrong)


@pytest.mark.parametrize(
    "value",
    [3, torch.zeros(2, dtype=torch.complex64), torch.zeros(2, device="meta")],
    ids=["int", "complex", "meta"],
)
def test_what_is_no_weight_is_named(value: Any) -> None:
    model = torch.nn.Linear(2, 2)
    before = model.bias.detach().clone()
    with pytest.raises(ValueError, match=r"x\.pt: holds no .* 'bias' is "):
        load_state(model, {"weight": torch.zeros(2, 2), "bias": value}, "x.pt")
    assert torch.equal(model.bias, before)
