"""Keeps the runs short: Triton's interpreter takes a second where a compiled kernel takes a millisecond."""

from __future__ import annotations

import zlib

import pytest
import torch

# Without a GPU one Triton case in so many is quick; the others are marked slow.
_SHARE = 8
# And of each test's cases of an operator so many run at all: a case takes seconds, on a GPU milliseconds.
_CASES = 3
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


def _sample(items: list[pytest.Item]) -> list[pytest.Item]:
    """Of each test's cases of an operator, the first, the last and some between them."""
    cases: dict[tuple[str, object], list[pytest.Item]] = {}
    for item in items:
        operator = item.callspec.params.get("operator")  # type: ignore[attr-defined]
        cases.setdefault((item.nodeid.split("[")[0], operator), []).append(item)
    chosen = []
    for found in cases.values():
        last, some = len(found) - 1, min(_CASES, len(found))
        chosen += [found[last * i // max(some - 1, 1)] for i in range(some)]
    return chosen


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    interpreted = [
        i for i in items if hasattr(i, "callspec") and i.callspec.params.get("backend") == "triton"
    ]
    left_out = set(interpreted) - set(_sample([item for item in interpreted if not _repeats(item)]))
    for item in interpreted:
        if item in left_out:
            continue
        if item.name.startswith(_SLOW) or zlib.crc32(item.name.encode()) % _SHARE:
            item.add_marker(pytest.mark.slow)
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]
