"""Every shipped recipe of a published result loads and says what its sources say; test_recipe_runs.py runs them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="training needs lightning")

from tests.training.published_btsnet import BTSNET
from tests.training.published_recipes import DENSE, JOINT, KPSEM, PUBLISHED, SETTINGS, VIEWS, options
from vidops.models import create_model, model_card
from vidops.training import load_config
from vidops.training.sections import GroupsConfig

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted(path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "demo")
NAMES = [str(path.relative_to(CONFIGS).with_suffix("")) for path in RECIPES]

SOURCES = "slides|thesis|TSM|MixTConv|TSN|X3D|KPSEM|MFNet|BTSNet|3D-ResNets|LFB"
each = pytest.mark.parametrize("path", RECIPES, ids=NAMES)


def test_there_are_recipes_of_every_family() -> None:
    families = {"bqn", "dan", "mbpm", "mstnet", "tesnet", "tsm", "tsn", "x3d"}
    families |= {"btsnet", "cbam", "cpa", "gc", "nl", "rnl", "se", "kpsem", "mfnet", "r3d", "st_slowfast"}
    assert {path.parent.name for path in RECIPES} == families


@each
def test_it_loads_and_names_itself(path: Path) -> None:
    config = load_config(path)
    family = path.parent.name
    backbone = "((tsn|tesnet)_)?inception_resnet_v2" if family in ("tsn", "tesnet") else "(x3d_x|dan_x3d_x)?s"
    own = {"kpsem": "(mf|r3d)_kpsem", "mfnet": "mfnet", "btsnet": r"btsnet\d+"}
    own["st_slowfast"] = "i3d_resnet50_actors|st_slowfast_i3d_resnet50"
    backbone = own.get(family, backbone)
    assert re.fullmatch(
        rf"{family}(_tsm)?_(resnet(50|101)|mobilenetv2)|(x3d|{family}_x3d)_m|{backbone}", config.model.name
    )
    assert config.output == f"runs/{family}/{path.stem}"
    frames = config.model.num_segments * config.data.frames_per_segment
    assert str(frames) in re.findall(r"_(\d+)f", path.stem)
    assert config.data.frames_per_segment == model_card(config.model.name).frames_of(config.model.options)
    assert config.data.format == {"kinetics400": "kinetics", "minikinetics": "kinetics"}.get(
        dataset := re.sub(r"_\d+f.*", "", path.stem), dataset
    )
    assert config.data.flip == (config.data.format in ("kinetics", "ucf101", "hmdb51", "ava"))
    assert config.optimizer.lr_batch == config.data.batch_size  # as shipped, the rate is the one written
    head = path.read_text().split("model:")[0]
    name = str(path.relative_to(CONFIGS).with_suffix(""))
    assert (re.search(r"\d\d\.\d", head.split("Sources")[0]) is None) == (PUBLISHED[name][1] is None), (
        "the figure"
    )
    assert "Sources:" in head
    with torch.device("meta"):
        create_model(config.model.name, num_segments=config.model.num_segments, **config.model.options)


@each
def test_every_number_names_a_source_of_its_recipe(path: Path) -> None:
    ours = {"root", "train", "val", "format", "name", "workers", "seed", "output", "flow_root", "split"}
    ours |= {"train_excluded", "val_excluded", "eval_batch_size"}
    checked_elsewhere = {"weights", "lr_batch", "in_channels"}
    of_groups = set(GroupsConfig.model_fields)
    head, _, body = path.read_text().partition("model:")
    declared = re.findall(rf"^#   ({SOURCES})\b", head.split("Sources:")[1], re.MULTILINE)
    assert declared
    for line in body.splitlines():
        key, _, rest = line.strip().partition(":")
        value, _, comment = rest.partition("#")
        if key in ours | checked_elsewhere | of_groups or not (key == "groups" or re.search(r"\d", value)):
            continue
        assert set(re.findall(SOURCES, comment)) & set(declared), line


@each
def test_settings_figures_and_views_are_those_of_the_sources(path: Path) -> None:
    name = str(path.relative_to(CONFIGS).with_suffix(""))
    settings, top1, top5 = PUBLISHED[name]
    config = load_config(path)
    schedule = config.schedule
    assert SETTINGS[settings] == (
        config.optimizer.lr,
        config.data.batch_size,
        config.epochs,
        config.optimizer.weight_decay,
        config.model.options["dropout"],
        schedule.milestones if schedule.name == "steps" else schedule.warmup_epochs,
    )
    assert config.data.sampling == ("dense" if name in DENSE else "uniform")
    size, kind = 224, config.model.name
    if path.parent.name not in ("mstnet", "tsm", "tsn"):
        given = {k: v for k, v in config.model.options.items() if k not in ("dropout", "in_channels")}
        assert given == options(name)
        size = 160 if kind.endswith("xs") else config.model.options.get("busy_size", 224)
    if kind.endswith("inception_resnet_v2"):
        size = 299
    if name in BTSNET:
        size = 112
    if config.data.format == "ava":
        size = 256
    assert config.data.size == size
    views = (3, 20) if size == 299 else VIEWS.get(name, (1, 1))
    assert (config.data.crops, config.data.clips) == views
    whole = name in VIEWS and size not in (112, 160) and name not in KPSEM
    assert (config.data.test_size == 256) == (whole or config.data.format == "ava")
    joint = config.joint.model_dump() if config.joint is not None else None
    usual = {"dan": {"name": "mgda"}, "tesnet": {"name": "sum", "weight": 10.0}}
    assert joint == JOINT.get(name, usual.get(kind.partition("_")[0]))
    head = path.read_text().partition("model:")[0].replace("\n# ", " ")
    row = next(line for line in (CONFIGS / "README.md").read_text().splitlines() if f"]({name}.yaml)" in line)
    for text in (head.partition("frames:" if "frames:" in head else ":")[2], row.split("|")[2]):
        figure = re.search(r"(\d\d\.\d+)(?: / (\d\d\.\d+))?", text.partition("Sources")[0])
        assert (figure.groups() if figure is not None else (None, None)) == (top1, top5), text


def test_the_table_of_published_figures_has_every_recipe() -> None:
    assert set(PUBLISHED) == set(NAMES)


@each
def test_weights_come_from_imagenet_or_from_another_recipe(path: Path) -> None:
    model = load_config(path).model
    backbone = "inception_resnet_v2" if "inception" in model.name else model.name.rpartition("_")[2]
    backbone = {"mfnet": "mfnet3d", "mf_kpsem": "mfnet3d", "r3d_kpsem": "resnet50"}.get(model.name, backbone)
    backbone = "i3d_8x8_r50" if "i3d" in model.name else backbone
    if model.weights is None:  # the thesis trains X3D from scratch, and BTSNet has no pretraining
        assert model.name.endswith("x3d_m") or model.name.startswith("btsnet")
        return
    source = Path(str(model.weights))
    if source.parent.name == "weights":
        known = r"weights/(resnet50|resnet101|mobilenet_v2|inception_resnet_v2)-[0-9a-f]{8}\.pth|weights/X3D_XS\.pyth"
        known += r"|weights/MFNet3D_Kinetics-400_72\.8\.pth|weights/I3D_8x8_R50\.pyth"
        assert re.fullmatch(known, str(source))
        assert backbone.replace("_", "") in str(source).lower().replace("_", "")
        assert model.part == ("features" if model.name == "x3d_xs" else "backbone")
        return
    assert source.name == "best.ckpt"
    before = load_config(CONFIGS / source.parent.relative_to("runs").with_suffix(".yaml"))
    assert before.output == str(source.parent)
    assert before.data.format == "kinetics"
    if model.part == "backbone":  # of a network fed with frames
        assert model.name == f"dan_{before.model.name}"
        return
    assert before.model.name == model.name
    assert model.part == "features"


def test_the_readme_has_every_recipe_and_no_other() -> None:
    linked = re.findall(r"\]\(([^)]+)\.yaml\)", (CONFIGS / "README.md").read_text())
    assert sorted(name for name in linked if not name.startswith("demo/")) == sorted(NAMES)
    for name in linked:
        assert (CONFIGS / f"{name}.yaml").is_file(), name
