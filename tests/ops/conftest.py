"""Keeps the runs short: Triton's interpreter takes a second where a compiled kernel takes a millisecond."""

from __future__ import annotations

import zlib

import pytest
import torch

# Without a GPU one Triton case in so many is quick; the others are marked slow.
_SHARE = 8
_SLOW = ("test_random_calls", "test_opcheck")


def _repeats(item: pytest.Item) -> bool:
    """Whether a case of Triton's interpreter runs no line that another one does not run.

    A kernel's dtype decides how it loads, sums and stores, its layout where: what the two have in common, such as the
    width of a load, is a compiler's affair, and the interpreter has none. On a GPU all of them run.
    """
    params = item.callspec.params  # type: ignore[attr-defined]
    if not item.name.startswith("test_every_dtype_and_layout"):
        return False
    return params["dtype"] != torch.float32 and params["layout"] not in ("NCTHW", "NTHWC")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    left_out: set[pytest.Item] = set()
    for item in items:
        callspec = getattr(item, "callspec", None)
        if not callspec or callspec.params.get("backend") != "triton":
            continue
        if _repeats(item):
            left_out.add(item)
        elif item.name.startswith(_SLOW) or zlib.crc32(item.name.encode()) % _SHARE:
            item.add_marker(pytest.mark.slow)
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]
