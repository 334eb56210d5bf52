"""What is particular to the Triton kernels of nonlocal_attention: tiles of GPUs that are not here."""

from __future__ import annotations

import itertools

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed")

from tests.ops.common import compare, device_for
from vidops import ops

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@pytest.mark.parametrize(
    ("gpu", "dtype", "kind", "sizes"),
    [
        (
            "HOPPER",
            BF16,
            "gaussian",
            (5, 35, 600, 530),
        ),  # queries stay, keys by 16; two programs share the results
        ("BLACKWELL", FP16, "gaussian", (35, 5, 270, 600)),  # gradients of tokens by slices
        ("GEFORCE", BF16, "gaussian", (5, 70, 300, 270)),  # all by slices, in two parts
        ("AMPERE", FP32, "gaussian", (35, 33, 40, 130)),
        ("HOPPER", FP32, "concatenation", (33, 17, 3, 70)),
    ],
)
def test_tiles_of_every_gpu(
    gpu: str,
    dtype: torch.dtype,
    kind: str,
    sizes: tuple[int, int, int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = device_for("triton", "nonlocal_attention")
    if device != "cpu":
        pytest.skip("the GPU has tiles of its own")
    from vidops.triton_kernels import nonlocal_attention as kernels

    monkeypatch.setattr(kernels, "_device", lambda _: getattr(kernels, gpu))
    length, keys, d, e = sizes
    generator = torch.Generator().manual_seed(5)
    shapes = ((1, d, 1, 1, length), (1, d, 1, 1, keys), (1, e, 1, 1, keys))
    query, key, value = (torch.randn(s, generator=generator) for s in shapes)
    weights = [torch.randn(d, generator=generator).to(dtype) for _ in range(2 * (kind == "concatenation"))]

    def attend(*x: torch.Tensor, backend: str) -> torch.Tensor:
        named = dict(zip(("query_weight", "key_weight"), x[3:], strict=False))
        return ops.nonlocal_attention(*x[:3], kind=kind, **named, backend=backend)

    clips = [(query / d**0.25).to(dtype), (key / d**0.25).to(dtype), value.to(dtype)]
    compare(attend, [*clips, *weights], "triton", device)


def test_tiles_fit_their_gpu() -> None:
    """Shared memory of two stages, and sums of at most 128 numbers a thread."""
    from vidops.triton_kernels import nonlocal_attention as kernels

    for gpu in (kernels.AMPERE, kernels.HOPPER, kernels.BLACKWELL, kernels.GEFORCE):
        for d, e, size in itertools.product((1, 64, 200, 256, 512, 1024), (1, 64, 256, 512, 1024), (2, 4, 8)):
            for tile in (kernels._results_tile(d, e, size, gpu), kernels._tokens_tile(d, e, size, gpu)):
                assert tile.m * tile.columns <= 128 * 32 * tile.warps
                assert min(tile.m, tile.n, tile.d_slice, tile.columns) >= 16
                if tile.whole:
                    assert tile.d_slice >= d
                    assert 2 * (tile.m + 2 * tile.n) * tile.d_slice <= gpu.room
