from __future__ import annotations

from pathlib import Path

import pytest
import torch

from vidops.models import ResNet, create_model, load_weights


def test_keys_are_torchvisions() -> None:
    with torch.device("meta"):
        state, flat = create_model("r3d_resnet50").state_dict(), ResNet((3, 4, 6, 3), 400).state_dict()
    assert set(state) == set(flat)
    for key, value in state.items():
        there = flat[key].shape
        assert value.shape == (there if len(there) < 4 else (*there[:2], 1, *there[2:])), key


def test_frames_meet_in_two_pools() -> None:
    with torch.device("meta"):
        net = create_model("r3d_resnet50")
        x = net.forward_stem(torch.empty(1, 3, 16, 224, 224))
        shapes = [tuple(x.shape[1:])]
        for name in net.stages:
            x = getattr(net, name)(x)
            shapes.append(tuple(x.shape[1:]))
    assert shapes == [(64, 8, 56, 56), (256, 8, 56, 56), (512, 4, 28, 28), (1024, 4, 14, 14), (2048, 4, 7, 7)]


def test_is_the_resnet_on_a_clip_of_one_frame_repeated(tmp_path: Path) -> None:
    """With the 2-D network's weights from a file, as torchvision's would be."""
    torch.manual_seed(0)
    flat = ResNet((1, 1, 1, 1), 8, width=8).double().eval()
    for name, buffer in flat.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 1.5)
    torch.save(flat.state_dict(), tmp_path / "resnet.pt")
    net = create_model("tiny_r3d").double().eval()
    assert load_weights(net, tmp_path / "resnet.pt").missing == []
    frame = torch.randn(2, 3, 40, 56, dtype=torch.float64)
    clip = frame.unsqueeze(2).repeat(1, 1, 8, 1, 1)
    torch.testing.assert_close(net(clip), flat(frame), rtol=1e-10, atol=1e-10)


def test_kernels_with_another_extent_in_time_are_refused(tmp_path: Path) -> None:
    torch.save(create_model("tiny_tsn").state_dict(), tmp_path / "tsn.pt")
    with pytest.raises(ValueError, match="not weights of this X3D"):
        load_weights(create_model("tiny_x3d"), tmp_path / "tsn.pt")


def test_the_order_of_frames_within_a_pool_does_not_count() -> None:
    """Two frames have one maximum."""
    net = create_model("tiny_r3d", num_segments=2).double().eval()
    torch.nn.init.normal_(net.fc.weight)
    clip = torch.randn(1, 3, 2, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(net(clip), net(clip.flip(2)), rtol=1e-12, atol=1e-12)
