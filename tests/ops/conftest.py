"""Keeps the quick run quick: Triton's interpreter takes a second where a compiled kernel takes a millisecond."""

from __future__ import annotations

import zlib

import pytest
import torch

# Without a GPU one Triton case in so many is quick; the others are marked slow, none is left out.
_SHARE = 8
_SLOW = ("test_random_calls", "test_opcheck")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        callspec = getattr(item, "callspec", None)
        if not callspec or callspec.params.get("backend") != "triton":
            continue
        if item.name.startswith(_SLOW) or zlib.crc32(item.name.encode()) % _SHARE:
            item.add_marker(pytest.mark.slow)
