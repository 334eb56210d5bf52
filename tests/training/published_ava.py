"""Frame mAP and options of the recipes on AVA, typed from table 4.2 of the slides; the baseline has no figure."""

from __future__ import annotations

SMALL: dict[str, object] = {"num_layers": 1, "attention_dim": 512, "layer_norm": False}
AVA: dict[str, tuple[str | None, dict[str, object]]] = {
    "st_slowfast/ava_32f": ("23.0", {}),
    "st_slowfast/ava_32f_no_norm": ("21.7", {"layer_norm": False}),
    "st_slowfast/ava_32f_1layer": ("21.3", {"num_layers": 1, "layer_norm": False}),
    "st_slowfast/ava_32f_ssfa_gmp": ("20.8", {"tsfa": False, "pooling": "gmp", **SMALL}),
    "st_slowfast/ava_32f_tsfa_gmp": ("19.2", {"ssfa": False, "pooling": "gmp", **SMALL}),
    "st_slowfast/ava_32f_tsfa_gap": ("18.5", {"ssfa": False, **SMALL}),
    "st_slowfast/ava_32f_baseline": (None, {}),
}
