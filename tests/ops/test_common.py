"""The tests' own tools do what the operator tests rely on."""

from __future__ import annotations

import pytest
import torch

from tests.ops.common import LAYOUTS, assert_close, in_layout
from vidops.bench.check import poison


def test_poisoned_memory_is_what_an_allocation_of_that_size_gets() -> None:
    like = torch.zeros(3, 5, 7, 11, 13)
    poison([like])
    assert torch.empty_like(like).isnan().any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_keep_values(layout: str) -> None:
    x = torch.randn(2, 3, 4, 5, 6)
    y = in_layout(x, layout)
    assert torch.equal(y, x[:1].expand(x.shape) if layout == "expanded" else x)


def test_the_bound_refuses_a_wrong_element_and_nan() -> None:
    exact = torch.randn(100, dtype=torch.float64)
    same = exact.float()
    assert_close(same.clone(), same, exact, "equal")
    wrong = same.clone()
    wrong[3] += 1e-5
    with pytest.raises(AssertionError, match="is off by"):
        assert_close(wrong, same, exact, "wrong")
    wrong[3] = float("nan")
    with pytest.raises(AssertionError, match="is off by"):
        assert_close(wrong, same, exact, "NaN")
