from __future__ import annotations

import pytest
import torch

from tests.ops.common import EVERY_BACKEND, device_for
from vidops.layers import TemporalShift


@pytest.mark.parametrize("backend", EVERY_BACKEND)
def test_directions(backend: str) -> None:
    device = device_for(backend, "temporal_shift")
    x = torch.arange(1.0, 5.0, device=device).view(1, 1, 4, 1, 1).expand(1, 8, 4, 1, 1)
    y = TemporalShift(4, backend=backend)(x)[0, :, :, 0, 0].tolist()
    assert y == [[2, 3, 4, 0]] * 2 + [[0, 1, 2, 3]] * 2 + [[1, 2, 3, 4]] * 4


@pytest.mark.parametrize("backend", ["reference", "cpu", "cuda"])
def test_gradients(backend: str) -> None:
    device = device_for(backend, "temporal_shift")
    x = torch.randn(2, 9, 3, 1, 2, dtype=torch.float64, device=device, requires_grad=True)
    assert torch.autograd.gradcheck(TemporalShift(4, backend=backend), (x,))


def test_has_no_state() -> None:
    assert not TemporalShift().state_dict()


@pytest.mark.parametrize("fold_div", [1, 0, -8])
def test_bad_fold_is_named(fold_div: int) -> None:
    with pytest.raises(ValueError, match=r"^fold_div must"):
        TemporalShift(fold_div)
