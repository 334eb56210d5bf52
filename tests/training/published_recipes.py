"""Settings and figures of the recipes' results, typed from the sources."""

from __future__ import annotations

# Learning rate, batch, epochs, weight decay, dropout, and milestones or epochs of warm-up, typed from the sources;
# those of "dense Kinetics" from the recipes themselves, since no source at hand states them.
SETTINGS: dict[str, tuple[float, int, int, float, float, list[int] | int]] = {
    "MixTConv run.sh": (0.01, 64, 50, 5e-4, 0.8, [30, 40, 45]),
    "MixTConv run.sh, 16 segments": (0.01, 64, 50, 1e-4, 0.5, [31, 40, 45]),
    "TSM Kinetics": (0.02, 128, 50, 1e-4, 0.5, [20, 40]),
    "dense Kinetics": (0.01, 64, 100, 1e-4, 0.5, [40, 80]),
    "TSM Something": (0.01, 64, 50, 5e-4, 0.5, [20, 40]),
    "TSM UCF101": (0.001, 64, 25, 5e-4, 0.8, [10, 20]),
    "thesis Something": (0.12, 256, 50, 8e-4, 0.8, 7),
    "thesis Kinetics": (0.08, 512, 100, 2e-4, 0.5, 7),
    "thesis UCF101": (0.01, 64, 80, 1e-4, 0.5, 7),
    "thesis tuning": (0.001, 64, 10, 1e-4, 0.8, 0),
    "thesis X3D Something": (0.2, 256, 100, 5e-5, 0.5, 7),
    "thesis X3D Kinetics": (0.4, 256, 256, 5e-5, 0.5, 7),
    "thesis X3D tuning": (0.12, 256, 60, 4e-4, 0.8, 7),
}
# Settings, and top-1 and top-5 as published: in their order, typed from the sources.
PUBLISHED = {
    "mstnet/something_v1_8f": ("MixTConv run.sh", "46.7", "75.4"),
    "mstnet/something_v1_16f": ("MixTConv run.sh, 16 segments", "48.4", "78.8"),
    "mstnet/something_v2_8f": ("MixTConv run.sh", "59.5", "86.0"),
    "mstnet/something_v2_16f": ("MixTConv run.sh, 16 segments", "61.8", "87.3"),
    "mstnet/something_v1_8f_ordinary": ("MixTConv run.sh", "41.0", None),
    "mstnet/something_v1_8f_ks3": ("MixTConv run.sh", "45.9", None),
    "mstnet/something_v1_8f_ks5": ("MixTConv run.sh", "46.3", None),
    "mstnet/something_v1_8f_ks7": ("MixTConv run.sh", "45.8", None),
    "mstnet/something_v1_8f_ks13": ("MixTConv run.sh", "45.8", None),
    "mstnet/something_v1_8f_ks135": ("MixTConv run.sh", "46.4", None),
    "mstnet/something_v1_8f_dilated": ("MixTConv run.sh", "46.4", None),
    "mstnet/kinetics400_8f": ("TSM Kinetics", "71.3", "89.5"),
    "mstnet/ucf101_8f": ("TSM UCF101", "94.8", "99.6"),
    "mstnet/jester_8f": ("TSM Something", "96.9", "99.9"),
    "tsm/kinetics400_8f": ("TSM Kinetics", "71.2", None),
    "tsm/kinetics400_16f": ("TSM Kinetics", "72.6", None),
    "tsm/kinetics400_8f_dense": ("dense Kinetics", "74.1", "91.2"),
    "tsm/kinetics400_16f_dense": ("dense Kinetics", "74.7", None),
    "tsm/kinetics400_8f_flow": ("TSM Kinetics", "55.7", "79.5"),
    "tsm/something_v1_8f": ("TSM Something", "45.6", "74.2"),
    "tsm/something_v1_16f": ("TSM Something", "47.2", "77.1"),
    "tsm/something_v1_8f_resnet101": ("TSM Something", "46.9", None),
    "tsm/something_v2_8f": ("TSM Something", "58.7", "85.4"),
    "tsm/something_v2_16f": ("TSM Something", "61.0", "86.8"),
    "tsm/something_v2_8f_resnet101": ("TSM Something", "63.3", None),
    "tsm/ucf101_8f": ("TSM UCF101", "95.9", None),
    "tsm/hmdb51_8f": ("TSM UCF101", "73.5", None),
    "tsm/something_v1_8f_thesis_rgb": ("thesis Something", "46.5", None),
    "tsm/something_v1_8f_thesis_rgb_diff": ("thesis Something", "46.6", None),
    "tsm/something_v1_8f_thesis_flow": ("thesis Something", "37.4", None),
    "tsm/something_v1_8f_thesis_dynamic_image": ("thesis Something", "43.3", None),
    "tsm/ucf101_8f_thesis_rgb": ("thesis UCF101", "87.1", None),
    "tsm/ucf101_8f_thesis_rgb_diff": ("thesis UCF101", "87.0", None),
    "tsm/ucf101_8f_thesis_flow": ("thesis UCF101", "88.5", None),
    "tsm/ucf101_8f_thesis_dynamic_image": ("thesis UCF101", "86.2", None),
    "tsm/kinetics400_8f_thesis_rgb": ("thesis Kinetics", "71.2", None),
    "tsm/kinetics400_8f_thesis_rgb_diff": ("thesis Kinetics", "71.4", None),
    "tsm/kinetics400_8f_thesis_flow": ("thesis Kinetics", "55.7", None),
    "tsm/kinetics400_8f_thesis_dynamic_image": ("thesis Kinetics", "68.3", None),
    "tsn/something_v1_8f": ("MixTConv run.sh", "19.7", "46.6"),
    "tsn/something_v2_8f": ("MixTConv run.sh", "27.8", "57.6"),
    "tsn/kinetics400_5f": ("TSM Kinetics", "68.8", "88.3"),
    "tsn/ucf101_8f": ("TSM UCF101", "91.5", "99.2"),
    "tsn/jester_8f": ("TSM Something", "83.9", "99.6"),
    "tsm/something_v1_8f_mobilenetv2_thesis_rgb": ("thesis Something", "38.7", None),
    "x3d/something_v1_16f": ("thesis X3D Something", "45.5", None),
    "x3d/kinetics400_16f": ("thesis X3D Kinetics", "75.1", "92.2"),
    "mbpm/something_v1_24f": ("thesis Something", "48.0", "76.8"),
    "mbpm/something_v1_24f_quiet": ("thesis Something", "46.5", "75.3"),
    "mbpm/something_v1_24f_mobilenetv2": ("thesis Something", "39.8", None),
    "mbpm/something_v1_48f_x3d_m": ("thesis X3D Something", "46.9", None),
    "mbpm/kinetics400_24f": ("thesis Kinetics", "72.3", None),
    "mbpm/ucf101_24f": ("thesis UCF101", "90.3", None),
    "bqn/something_v1_24f_224_224": ("thesis Something", "51.6", "80.5"),
    "bqn/something_v1_24f_average_before_fc": ("thesis Something", "50.9", "79.8"),
    "bqn/something_v1_24f_max": ("thesis Something", "50.1", "78.7"),
    "bqn/something_v1_24f_concatenate": ("thesis Something", "51.3", "80.2"),
    "bqn/something_v1_24f_1lc": ("thesis Something", "49.8", "79.1"),
    "bqn/something_v1_24f_2lc": ("thesis Something", "50.1", "78.7"),
    "bqn/something_v1_24f_3lc": ("thesis Something", "50.2", "79.0"),
    "bqn/something_v1_24f_4lc": ("thesis Something", "50.2", "79.2"),
    "bqn/something_v1_24f_0lc": ("thesis Something", "49.6", "78.9"),
    "bqn/something_v1_24f_8lc": ("thesis Something", "50.7", "79.7"),
    "bqn/something_v1_24f_lc1": ("thesis Something", "50.9", "79.8"),
    "bqn/something_v1_24f_lc2": ("thesis Something", "50.9", "79.7"),
    "bqn/something_v1_24f_lc3": ("thesis Something", "51.5", "80.2"),
    "bqn/something_v1_24f_lc5": ("thesis Something", "51.3", "79.9"),
    "bqn/something_v1_24f_192_224": ("thesis Something", "51.5", "79.9"),
    "bqn/something_v1_24f_160_224": ("thesis Something", "51.3", "80.1"),
    "bqn/something_v1_24f_128_224": ("thesis Something", "50.7", "79.2"),
    "bqn/something_v1_24f_224_256": ("thesis Something", "51.8", "80.5"),
    "bqn/something_v1_24f_192_256": ("thesis Something", "51.7", "80.2"),
    "bqn/something_v1_24f_128_256": ("thesis Something", "51.3", "79.4"),
    "bqn/something_v1_24f_160x6_256": ("thesis Something", "49.6", "78.3"),
    "bqn/something_v1_24f_224x4_224": ("thesis Something", "48.7", "77.1"),
    "bqn/something_v1_24f": ("thesis Something", "51.7", "80.5"),
    "bqn/something_v1_48f": ("thesis Something", "54.3", "82.0"),
    "bqn/something_v1_48f_resnet101": ("thesis Something", "54.9", "81.7"),
    "bqn/something_v1_48f_x3d_m": ("thesis X3D Something", "50.6", "79.2"),
    "bqn/something_v1_48f_x3d_m_k400": ("thesis X3D tuning", "53.7", "81.8"),
    "bqn/kinetics400_48f": ("thesis Kinetics", "76.8", "92.4"),
    "bqn/kinetics400_72f": ("thesis Kinetics", "77.3", "93.2"),
    "bqn/kinetics400_48f_x3d_m": ("thesis X3D Kinetics", "77.1", "92.5"),
    "bqn/ucf101_48f": ("thesis tuning", "97.6", None),
    "bqn/hmdb51_48f": ("thesis tuning", "77.6", None),
}
VIEWS = {
    "tsm/kinetics400_8f_dense": (3, 10),
    "tsm/kinetics400_16f_dense": (3, 10),
    "tsm/something_v2_8f_resnet101": (3, 2),
    "tsm/ucf101_8f": (3, 2),
    "tsm/hmdb51_8f": (3, 2),
    "x3d/kinetics400_16f": (3, 10),
    "bqn/something_v1_48f": (3, 2),
    "bqn/something_v1_48f_resnet101": (3, 2),
    "bqn/something_v1_48f_x3d_m": (3, 2),
    "bqn/something_v1_48f_x3d_m_k400": (3, 2),
    "bqn/kinetics400_48f": (1, 10),
    "bqn/kinetics400_72f": (1, 10),
    "bqn/kinetics400_48f_x3d_m": (3, 10),
    "bqn/ucf101_48f": (3, 2),
    "bqn/hmdb51_48f": (3, 2),
}
DENSE = {
    "tsm/kinetics400_8f_dense",
    "tsm/kinetics400_16f_dense",
    "x3d/kinetics400_16f",
    "bqn/kinetics400_48f",
    "bqn/kinetics400_72f",
    "bqn/kinetics400_48f_x3d_m",
}
# Options of the networks but dropout and input channels: sides of the busy and the quiet frames, then the others.
SIDES = {
    "24f_224_224": (224, 224),
    "24f_192_224": (224, 192),
    "24f_160_224": (224, 160),
    "24f_128_224": (224, 128),
    "24f_224_256": (256, 224),
    "24f_192_256": (256, 192),
    "24f_128_256": (256, 128),
    "24f_160x6_256": (256, 160),
    "24f_224x4_224": (224, 224),
}
OTHERS: dict[str, dict[str, object]] = {
    "mbpm/something_v1_24f_quiet": {"component": "quiet"},
    "bqn/something_v1_24f_average_before_fc": {"fusion": "average_before_fc"},
    "bqn/something_v1_24f_max": {"fusion": "max"},
    "bqn/something_v1_24f_concatenate": {"fusion": "concatenate"},
    "bqn/something_v1_24f_0lc": {"num_lateral": 0},
    "bqn/something_v1_24f_1lc": {"num_lateral": 1},
    "bqn/something_v1_24f_2lc": {"num_lateral": 2},
    "bqn/something_v1_24f_3lc": {"num_lateral": 3},
    "bqn/something_v1_24f_4lc": {"num_lateral": 4},
    "bqn/something_v1_24f_8lc": {"num_lateral": 8},
    "bqn/something_v1_24f_lc1": {"lateral": "lc1"},
    "bqn/something_v1_24f_lc2": {"lateral": "lc2"},
    "bqn/something_v1_24f_lc3": {"lateral": "lc3"},
    "bqn/something_v1_24f_lc5": {"lateral": "lc5"},
    "bqn/something_v1_24f_160x6_256": {"quiet_frames": 6},
    "bqn/something_v1_24f_224x4_224": {"quiet_frames": 4},
}


def options(name: str) -> dict[str, object]:
    """Options of a network fed with busy frames: tables 5.4 to 5.7 have 224 x 224 for both pathways.

    Example:
        >>> options("bqn/something_v1_24f_max")
        {'busy_size': 224, 'quiet_size': 224, 'fusion': 'max'}
    """
    family, _, stem = name.partition("/")
    others = OTHERS.get(name, {})
    if family != "bqn":
        return others
    ablation = any(key in others for key in ("fusion", "num_lateral", "lateral"))
    busy, quiet = SIDES.get(stem.removeprefix("something_v1_"), (224, 224) if ablation else (256, 160))
    return {"busy_size": busy, "quiet_size": quiet, **others}
