"""Every shipped recipe of a published result runs two steps on made data in its own layout."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="scikit-image is not installed")
pytest.importorskip("av", reason="PyAV is not installed")

from tests.data._videos import write_video
from tests.training.published_ava import AVA
from tests.training.published_btsnet import BTSNET
from tests.training.published_recipes import ATTENTION, KPSEM, options
from tests.training.test_recipes import CONFIGS, NAMES, RECIPES
from vidops.data import make_actors
from vidops.data.flow import FlowSettings
from vidops.data.flow_store import FlowStore
from vidops.evaluation import evaluate
from vidops.models import create_model, load_weights
from vidops.training import fit, load_config
from vidops.training.config import Config

CLASSES = ["falling", "turning"]

pytestmark = pytest.mark.filterwarnings("ignore:.*lacks the flow of some videos")


def clip(seed: int, frames: int = 18) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(0, 256, (32, 40, 3), dtype=np.uint8)
    return np.stack([np.roll(noise, i, axis=1) for i in range(frames)])


def frame_folders(root: Path, prefix: str) -> None:
    from PIL import Image

    for video in range(4):
        (root / str(video)).mkdir(parents=True)
        for number, frame in enumerate(clip(video), 1):
            Image.fromarray(frame).save(root / str(video) / f"{number:05d}.jpg")
    (root / f"{prefix}-labels.csv").write_text("\n".join(CLASSES) + "\n")
    for split, first in (("train", 0), ("validation", 2)):
        lines = [f"{first + i};{name}" for i, name in enumerate(CLASSES)]
        (root / f"{prefix}-{split}.csv").write_text("\n".join(lines) + "\n")


def something_v2(root: Path) -> None:
    root.mkdir(parents=True)
    for video in range(4):
        write_video(root / f"{video}.webm", codec="libvpx", clip=clip(video))
    (root / "something-something-v2-labels.json").write_text(
        json.dumps({name: str(i) for i, name in enumerate(CLASSES)})
    )
    for split, first in (("train", 0), ("validation", 2)):
        entries = [{"id": str(first + i), "template": name} for i, name in enumerate(CLASSES)]
        (root / f"something-something-v2-{split}.json").write_text(json.dumps(entries))


def kinetics(root: Path) -> None:
    for split, first in (("train", 0), ("val", 2)):
        lines = ["label,youtube_id,time_start,time_end,split"]
        for i, name in enumerate(CLASSES):
            stem = f"video{first + i:06d}_000001_000011"
            (root / split / name).mkdir(parents=True)
            write_video(root / split / name / f"{stem}.mp4", clip=clip(first + i))
            lines.append(f"{name},video{first + i:06d},1,11,{split}")
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")


def class_folders(root: Path) -> None:
    for name in CLASSES:
        (root / name).mkdir(parents=True)
        for i in range(2):
            write_video(root / name / f"v_{name}_g0{i}_c01.avi", codec="mpeg4", clip=clip(i))


def ucf101(root: Path) -> None:
    class_folders(root)
    lists = root / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("".join(f"{i} {name}\n" for i, name in enumerate(CLASSES, 1)))
    train = [f"{name}/v_{name}_g00_c01.avi {i}" for i, name in enumerate(CLASSES, 1)]
    (lists / "trainlist01.txt").write_text("\n".join(train) + "\n")
    (lists / "testlist01.txt").write_text("\n".join(f"{n}/v_{n}_g01_c01.avi" for n in CLASSES) + "\n")


def hmdb51(root: Path) -> None:
    class_folders(root)
    lists = root / "testTrainMulti_7030_splits"
    lists.mkdir()
    for name in CLASSES:
        lines = [f"v_{name}_g00_c01.avi 1", f"v_{name}_g01_c01.avi 2"]
        (lists / f"{name}_test_split1.txt").write_text("\n".join(lines) + "\n")


def ava(root: Path) -> None:
    """Two training and two validation key frames of two or three actors, some of whose classes are evaluated."""
    made = make_actors(root, train=2, val=2, excluded=0, frames=4, size=32, progress=False)
    names = {"labels.pbtxt": "action_list_v2.1", "scored.pbtxt": "action_list_v2.1_for_activitynet_2018"}
    for file, name in names.items():
        text = re.sub(r'name: "[^"]+"(\s+id: (\d+))', r'name: "action \2"\1', (made / file).read_text())
        (root / f"ava_{name}.pbtxt").write_text(text)
    for split in ("train", "val"):
        (made / f"{split}.csv").rename(root / f"ava_{split}_v2.1.csv")
        (made / f"{split}_proposals.csv").rename(root / f"ava_{split}_predicted_boxes.csv")
        (root / f"ava_{split}_excluded_timestamps_v2.1.csv").touch()


MAKERS: dict[str, Callable[[Path], None]] = {
    "something_v1": lambda root: frame_folders(root, "something-something-v1"),
    "jester": lambda root: frame_folders(root, "jester-v1"),
    "something_v2": something_v2,
    "kinetics": kinetics,
    "ucf101": ucf101,
    "hmdb51": hmdb51,
    "ava": ava,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Two training and two validation videos in the layout of a format, made when first asked for."""
    folder = tmp_path_factory.mktemp("made")

    def make(format: str) -> Path:
        if not (folder / format).exists():
            MAKERS[format](folder / format)
            FlowStore(
                folder / f"{format}-flow",
                videos=folder / format,
                settings=FlowSettings(short_side=32, num_warp=1, num_iter=1),
            )
        return folder / format

    return make


# What weights networks start from where it is not a TSN's.
OWN_WEIGHTS = ("tiny_tsm_mobilenetv2", "tiny_tesnet", "tiny_mfnet", "tiny_r3d")
BACKBONES = {"tiny_mf_kpsem": "tiny_mfnet", "tiny_r3d_kpsem": "tiny_r3d"}
BACKBONES |= dict.fromkeys(("tiny_st_slowfast", "tiny_i3d_actors"), "tiny_i3d_actors")


@pytest.fixture(scope="module")
def first_weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Config], Path]:
    """Weights of a tiny network of other classes: a TSN's or the backbone's for `part: backbone`, else its own."""
    folder = tmp_path_factory.mktemp("weights")

    def find(recipe: Config) -> Path:
        name = tiny_name(recipe)
        if name in BACKBONES:
            name = BACKBONES[name]
        elif recipe.model.part == "backbone" and name not in OWN_WEIGHTS:
            name = "tiny_tsn"
        frames = recipe.model.options.get("frames_per_segment") if name == "tiny_dan" else None
        file = folder / f"{name}{frames or ''}.pt"
        if not file.exists():
            torch.manual_seed(7)
            options = {"frames_per_segment": frames} if frames else {}
            state = create_model(name, num_classes=5, **options).state_dict()
            for key in state:
                if key.endswith("norm_c.weight"):  # zero at first, in trained weights no longer
                    state[key].fill_(1)
            torch.save(state, file)
        return file

    return find


WHOLE_NAMES = ("tsm_mobilenetv2", "mf_kpsem", "r3d_kpsem")


def tiny_name(recipe: Config) -> str:
    name = recipe.model.name
    if name == "inception_resnet_v2":
        return "tiny_tsn"
    if name.startswith("btsnet"):
        return "tiny_btsnet"
    if recipe.data.format == "ava":
        return "tiny_st_slowfast" if name.startswith("st_") else "tiny_i3d_actors"
    return f"tiny_{name}" if name in WHOLE_NAMES else f"tiny_{name.partition('_')[0]}"


def tiny_options(recipe: Config) -> list[str]:
    """Options for four blocks and frames of 24 x 24, and those where a tiny network's defaults are others."""
    given, made = recipe.model.options, {}
    if recipe.model.name.startswith("tesnet"):
        made = {"setting": given.get("setting", 1), "num_frames": given.get("num_frames", 10)}
    if "busy_size" in given:
        made = {"busy_size": 24, "quiet_size": round(24 * given["quiet_size"] / given["busy_size"])}
    if given.get("num_lateral") == 8:
        made["num_lateral"] = 2
    if recipe.model.name.startswith("st_slowfast"):
        made = {"attention_dim": 16}
    return [f"model.options.{key}={value}" for key, value in made.items()]


def small(path: Path, root: Path, output: Path, *more: str) -> Config:
    """A recipe with a tiny network of its family, small crops, and two epochs of one step."""
    recipe = load_config(path)
    overrides = [
        f"model.name={tiny_name(recipe)}",
        *tiny_options(recipe),
        "model.weights=null",
        f"data.root={root}",
        "data.size=24",
        "data.short_side=32",
        "data.short_side_range=[28, 32]",
        "data.batch_size=2",
        "data.workers=0",
        "epochs=2",
        "accelerator=cpu",
        "log_every=1",
        f"output={output}",
    ]
    if recipe.data.test_size:
        overrides.append("data.test_size=32")
    if recipe.joint is not None and recipe.joint.name == "separate":
        overrides.append("joint.epochs=1")
    if recipe.joint is not None and recipe.joint.name == "schedule":
        overrides += ["joint.gamma=0.5", "epochs=3"]  # of three steps
    if recipe.data.flow_root:
        overrides.append(f"data.flow_root={root}-flow")
    schedule = recipe.schedule.name
    overrides.append("schedule.milestones=[1]" if schedule == "steps" else "schedule.warmup_epochs=0.5")
    return load_config(path, [*overrides, *more])


def alike(names: list[str]) -> set[str]:
    """Name recipes whose small network differs from an earlier one's in numbers alone: kernels, blocks, rates."""
    numbers = {"kernel_size", "kernel_sizes", "num_blocks", "num_sets", "num_layers", "attention_dim"}
    numbers |= {"num_pathways", "receptive_fields"}
    seen, found = [], set()
    for name in sorted(names, key=lambda name: bool(numbers & set(options(name)))):
        recipe = load_config(CONFIGS / f"{name}.yaml")
        what = tiny_name(recipe), {key: value for key, value in options(name).items() if key not in numbers}
        if what in seen:
            found.add(name)
        seen.append(what)
    return found


# The recipes of attention and key points are many; those whose networks run the same code train in the slow tests.
MANY = {*ATTENTION, *AVA, *BTSNET, *KPSEM}
ALIKE = alike([name for name in NAMES if name in MANY and not name.startswith("tsm/")])
WITH_SLOW = [
    pytest.param(path, marks=pytest.mark.slow) if name in ALIKE else path
    for path, name in zip(RECIPES, NAMES, strict=True)
]


@pytest.mark.parametrize("path", WITH_SLOW, ids=NAMES)
def test_two_steps_from_other_weights(
    path: Path, made: Callable[[str], Path], first_weights: Callable[[Config], Path], tmp_path: Path
) -> None:
    recipe = load_config(path)
    start = first_weights(recipe) if recipe.model.weights else None
    config = small(path, made(recipe.data.format), tmp_path / "run", f"model.weights={start or 'null'}")
    assert config.model.part == recipe.model.part
    result = fit(config)
    assert result.epochs == config.epochs
    assert result.broken == []
    last = torch.load(result.last, map_location="cpu", weights_only=True)
    assert last["global_step"] == config.epochs
    assert np.isfinite(result.metrics["val_loss"])
    trained = create_model(
        config.model.name,
        num_classes=10 if config.data.format == "ava" else 2,
        num_segments=config.model.num_segments,
        **config.model.options,
    )
    load_weights(trained, result.last)  # what was trained is the recipe's network
    if start is not None:
        check_moved(torch.load(start, weights_only=True), trained.state_dict(), config)


def check_moved(old: dict[str, torch.Tensor], new: dict[str, torch.Tensor], config: Config) -> None:
    """Whether weights are two steps away from those that were loaded, in each pathway."""
    keys = ["conv1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight"]
    if config.model.name == "tiny_tsm_mobilenetv2":
        keys = ["features.0.0.weight", "features.3.conv.0.0.weight"]
    if config.data.format == "ava":
        keys = ["blocks.0.conv.weight", "blocks.4.res_blocks.0.branch2.conv_a.weight"]
    if config.model.name == "tiny_tesnet":
        keys = ["conv2d_1a.conv.weight", "conv2d_7b.conv.weight"]
    if config.model.name in ("tiny_mfnet", "tiny_mf_kpsem"):
        keys = ["conv1.conv.weight", "conv5.B01.conv_m2.conv.weight"]
    if config.model.name == "tiny_x3d":
        keys = ["blocks.0.conv.conv_t.weight", "blocks.1.res_blocks.0.branch2.conv_a.weight"]
    pathways = ["busy.", "quiet."] if config.model.name == "tiny_bqn" else [""]
    for pathway, key in itertools.product(pathways, keys):
        start = old[key] if key in old else old[pathway + key]
        if key == keys[0] and (channels := config.model.options.get("in_channels", 3)) != 3:
            start = start.mean(1, keepdim=True).expand(-1, channels, -1, -1)
        moved = (new[pathway + key] - start).norm() / start.norm()
        assert 0 < moved < 0.2, (pathway + key, moved)


def test_fine_tuning_takes_the_features_of_the_first_run(made: Callable[[str], Path], tmp_path: Path) -> None:
    for family, first, second in (
        ("mstnet", "kinetics400_8f", "ucf101_8f"),
        ("tsn", "kinetics400_5f", "ucf101_8f"),
        ("bqn", "kinetics400_48f", "ucf101_48f"),
    ):
        before = fit(
            small(CONFIGS / family / f"{first}.yaml", made("kinetics"), tmp_path / family / "before")
        )
        tuned = small(
            CONFIGS / family / f"{second}.yaml",
            made("ucf101"),
            tmp_path / family / "after",
            f"model.weights={before.best}",
        )
        assert tuned.freeze_norms == "all_but_first"
        after = fit(tuned)
        old, new = (
            torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
            for file in (before.best, after.last)
        )
        frozen = [key for key in new if re.search(r"layer\d\.0\.bn1\.(weight|running_mean)", key)]
        assert frozen
        assert all(torch.equal(old[key], new[key]) for key in frozen)
        changed = [key for key in new if key.endswith("layer4.0.conv1.weight")]
        assert changed
        assert not any(torch.equal(old[key], new[key]) for key in changed)


def test_tsn_trained_with_5_segments_is_tested_with_8(made: Callable[[str], Path], tmp_path: Path) -> None:
    """What the folder's README says of TSN on Kinetics-400."""
    path = CONFIGS / "tsn" / "kinetics400_5f.yaml"
    trained = fit(small(path, made("kinetics"), tmp_path / "run"))
    net = create_model("tiny_tsn", num_classes=2, num_segments=8)
    load_weights(net, trained.best)
    torch.save(net.state_dict(), tmp_path / "tsn8.pt")
    config = small(path, made("kinetics"), tmp_path / "run", "model.num_segments=8")
    assert evaluate(tmp_path / "tsn8.pt", config).samples == 2
    views = ("data.sampling=dense", "data.test_size=32", "data.crops=3", "data.clips=10")
    dense = small(path, made("kinetics"), tmp_path / "run", "model.num_segments=8", *views)
    assert evaluate(tmp_path / "tsn8.pt", dense).samples == 2
    assert evaluate(trained.best).samples == 2
