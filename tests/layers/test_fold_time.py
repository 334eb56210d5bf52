from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.ops.common import device_for
from vidops.layers import FoldTime, MixTConv, TemporalShift


class Recorder(nn.Module):
    """Keeps what it is called with."""

    def forward(self, clip: Tensor) -> Tensor:
        self.clip = clip
        return clip


FORMATS = [torch.contiguous_format, torch.channels_last]


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_shows_clips_without_copying(memory_format: torch.memory_format) -> None:
    x = torch.rand(6, 4, 2, 5).to(memory_format=memory_format)
    fold = FoldTime(Recorder(), 3)
    y = fold(x)
    assert fold.layer.clip.data_ptr() == y.data_ptr() == x.data_ptr()
    assert y.stride() == x.stride()
    assert torch.equal(y, x)
    for n in range(2):
        for t in range(3):
            assert torch.equal(fold.layer.clip[n, :, t], x[3 * n + t])


@pytest.mark.parametrize("backend", ["cpu", "cuda", "triton"])
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("name", ["temporal_conv", "temporal_shift"])
def test_layers_keep_the_layout(name: str, memory_format: torch.memory_format, backend: str) -> None:
    device = device_for(backend, name)
    x = torch.rand(8, 16, 4, 5, device=device).to(memory_format=memory_format)
    layer = (
        TemporalShift(backend=backend)
        if name == "temporal_shift"
        else MixTConv(16, backend=backend).to(device)
    )
    outputs: list[Tensor] = []
    layer.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    y = FoldTime(layer, 4)(x)
    assert y.is_contiguous(memory_format=memory_format)
    assert y.data_ptr() == outputs[0].data_ptr(), "copied on the way out"


def test_is_the_layer_on_clips() -> None:
    clip = torch.rand(3, 6, 4, 2, 2)
    layer = MixTConv(6, init="kaiming")
    frames = clip.transpose(1, 2).reshape(12, 6, 2, 2)
    expected = layer(clip).transpose(1, 2).reshape(12, 6, 2, 2)
    torch.testing.assert_close(FoldTime(layer, 4)(frames), expected, rtol=1e-6, atol=1e-6)


def test_a_layer_may_change_channels_and_frames() -> None:
    layer = nn.Conv3d(6, 5, (3, 1, 1), stride=(2, 1, 1), padding=(1, 0, 0))
    assert FoldTime(layer, 8)(torch.rand(16, 6, 3, 3)).shape == (8, 5, 3, 3)


def test_gradients() -> None:
    fold = FoldTime(MixTConv(4, (1, 3), init="kaiming"), 3).double()
    x = torch.randn(6, 4, 1, 2, dtype=torch.float64, requires_grad=True)
    weight = fold.layer.weight.detach().clone().requires_grad_()
    call = lambda x, w: torch.func.functional_call(fold, {"layer.weight": w}, (x,))  # noqa: E731
    assert torch.autograd.gradcheck(call, (x, weight))


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"^num_segments must"):
        FoldTime(nn.Identity(), 0)
    fold = FoldTime(nn.Identity(), 4)
    with pytest.raises(ValueError, match=r"num_segments=4 frames, got a batch of 6"):
        fold(torch.rand(6, 1, 2, 2))
    with pytest.raises(ValueError, match=r"\(N\*T, C, H, W\), got shape \(1, 2, 4, 2, 2\)"):
        fold(torch.rand(1, 2, 4, 2, 2))
