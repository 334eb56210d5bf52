"""The ablation study of BTSNet's poster, typed from it: depth, pathways, receptive fields, attention and top-1."""

from __future__ import annotations

ROWS: list[tuple[int, int, str, str, str]] = [
    # row 1, the fuse layer
    (26, 3, "O2", "C", "57.507"),
    (26, 4, "O2", "C", "59.913"),
    (26, 3, "O1", "C", "58.974"),
    (50, 3, "O1", "C", "58.459"),
    (101, 3, "O1", "C", "58.565"),
    (26, 3, "O2", "TC", "60.283"),
    (26, 4, "O2", "TC", "60.058"),
    (26, 3, "O1", "TC", "61.829"),
    (50, 3, "O1", "TC", "59.120"),
    (101, 3, "O1", "TC", "60.005"),
    # row 2, the number of pathways, where row 1 has none
    (50, 2, "O2", "TC", "55.855"),
    (50, 3, "O2", "TC", "58.895"),
    (50, 4, "O2", "TC", "58.274"),
    (50, 7, "O2", "TC", "58.551"),
    (26, 2, "O1", "TC", "60.019"),
    (50, 2, "O1", "TC", "58.842"),
    (101, 2, "O1", "TC", "56.133"),
    (50, 3, "O2", "C", "57.454"),
    (50, 4, "O2", "C", "58.261"),
    (26, 4, "O1", "C", "59.252"),
    # row 3, the receptive fields, likewise; its second "C-M4-50" is TC's, as 58.274 of row 2 tells
    (50, 4, "O1", "C", "48.678"),
    (50, 4, "O1", "TC", "58.961"),
]
USUAL = {"num_pathways": 3, "receptive_fields": "O1", "attention": "TC"}
# Of recipes: the top-1, and what is not as usual.
BTSNET: dict[str, tuple[str, dict[str, object]]] = {
    f"btsnet/ucf101_30f_btsnet{depth}_m{m}_{fields.lower()}_{attention.lower()}": (
        top1,
        {
            key: value
            for key, value in {"num_pathways": m, "receptive_fields": fields, "attention": attention}.items()
            if value != USUAL[key]
        },
    )
    for depth, m, fields, attention, top1 in ROWS
}
