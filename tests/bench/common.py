"""Options and records that the tests of the harness share."""

from __future__ import annotations

from typing import Any

from vidops.bench import Options

TINY = "temporal_shift/cpu/tiny"  # the group of the fixture `tiny`


def options(**more: Any) -> Options:
    return Options(**{"pattern": TINY, "backends": ("reference",), "threads": (1,), **more})


def kernel(**more: Any) -> dict[str, Any]:
    return {
        "status": "ok",
        "operator": "temporal_conv",
        "workload": "tiny",
        "dtype": "float32",
        "kind": "kernel",
        "variant": "cpu",
        "device": "cpu",
        "direction": "forward",
        "layout": "NCTHW",
        "threads": 1,
        "foreign_load": 0.0,
        "seconds": 1.0,
        "floor_multiple": 1.05,
        "copy_multiple": 1.5,
        **more,
    }
