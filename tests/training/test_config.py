"""Recipes: overrides, and one line for every mistake."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("pydantic", reason="recipes need pydantic")

from vidops.models import model_card
from vidops.training import load_config
from vidops.training.config import differences, dump

RECIPE = """
model: {name: tiny_tsn}
data: {train: train.csv, val: val.csv}
optimizer: {name: sgd, lr: 1e-2}
schedule: {name: cosine, warmup_epochs: 1}
epochs: 5
output: runs/x
"""

CONFIGS = sorted((Path(__file__).parents[2] / "configs" / "demo").glob("*.yaml"))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_reads_defaults_and_overrides(recipe: Path) -> None:
    config = load_config(recipe, ["epochs=7", "data.scales=[1, 0.5]", "backend=reference", "seed=3"])
    assert (config.epochs, config.data.scales, config.backend, config.seed) == (7, [1.0, 0.5], "reference", 3)
    assert config.optimizer.name == "sgd"
    assert config.optimizer.momentum == 0.9
    assert config.optimizer.lr == 0.01  # 1e-2 is a number, though YAML 1.1 calls it text
    assert config.model.num_classes is None


def test_an_override_may_make_a_section(recipe: Path) -> None:
    assert load_config(recipe, ["model.options.dropout=0.1"]).model.options == {"dropout": 0.1}


def test_dump_reads_back(recipe: Path, tmp_path: Path) -> None:
    config = load_config(recipe, ["optimizer.lr=1e-7"])
    (tmp_path / "again.yaml").write_text(dump(config))
    assert load_config(tmp_path / "again.yaml") == config


def test_differences_name_the_keys(recipe: Path) -> None:
    first, second = (
        load_config(recipe),
        load_config(recipe, ["epochs=6", "data.root=x", "optimizer.name=adamw"]),
    )
    assert differences(first, second, ignore=["data.root"]) == [
        ("optimizer.name", "sgd", "adamw"),
        ("optimizer.momentum", 0.9, None),
        ("optimizer.nesterov", False, None),
        ("optimizer.weight_decay", 0.0, 0.01),
        ("epochs", 5, 6),
    ]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_demo_recipe_is_valid(path: Path) -> None:
    config = load_config(path)
    name = model_card(config.model.name).name
    assert path.stem == name or path.stem.startswith(f"{name}_")  # with options of its own
    assert config.output == f"runs/{path.stem}"
    assert path.stem in path.read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs=0", "epochs: must be greater than or equal to 1, got 0"),
        ("epochs=2.5", "epochs: must be a whole number, got 2.5"),
        ("epochs=true", "epochs: must be a whole number, got True"),
        ("epochs=null", "epochs: must be a whole number, got nothing"),
        ("epoch=3", "epoch: is no known key (did you mean epochs?)"),
        ("data.sise=3", "data.sise: is no known key (did you mean size?)"),
        ("optimizer.momentun=0.5", "optimizer.momentun: is no known key (did you mean momentum?)"),
        ("optimizer.lr=fast", "optimizer.lr: must be a number, got 'fast'"),
        ("optimizer.lr=.nan", "optimizer.lr: must be a finite number, got nan"),
        ("optimizer.name=adam", "optimizer.name: must be one of 'sgd', 'adamw', got 'adam'"),
        ("optimizer={}", "optimizer.name: is missing"),
        ("schedule.warmup_epochs=5", "schedule.warmup_epochs: must be below epochs=5, got 5"),
        (
            "schedule={name: steps, milestones: [3, 2]}",
            "schedule.milestones: must rise and stay below epochs=5",
        ),
        (
            "schedule={name: steps, milestones: [2, 3], warmup_epochs: 2.5}",
            "schedule.warmup_epochs: must end by the first milestone, 2, got 2.5",
        ),
        (
            "optimizer={name: sgd, lr: 1, momentum: 0.0, nesterov: true}",
            "optimizer.nesterov: needs optimizer.momentum above 0, got 0",
        ),
        (
            "optimizer.groups.biass.lr=2",
            "optimizer.groups.biass: is no known key (did you mean bias?)",
        ),
        (
            "optimizer.groups.bias.decai=0",
            "optimizer.groups.bias.decai: is no known key (did you mean decay?)",
        ),
        ("optimizer.groups.norm.lr=0", "optimizer.groups.norm.lr: must be greater than 0, got 0"),
        ("optimizer.groups.norm=1", "optimizer.groups.norm: must be keys, got 1"),
        ("optimizer.lr_batch=1.5", "optimizer.lr_batch: must be a whole number, got 1.5"),
        ("accumulate=0", "accumulate: must be greater than or equal to 1, got 0"),
        ("clip_norm=0", "clip_norm: must be greater than 0, got 0"),
        ("ema=1", "ema: must be less than 1, got 1"),
        ("freeze_norms=some", "freeze_norms: must be 'none', 'all' or 'all_but_first', got 'some'"),
        ("checkpoint_every=0", "checkpoint_every: must be greater than or equal to 1, got 0"),
        ("data=3", "data: must be keys, got 3"),
        ("data.scales=[]", "data.scales: must hold at least 1 values, got []"),
        ("data.mean=[0, 0, 0, 0]", "data.mean: must hold at most 3 values, got [0, 0, 0, 0]"),
        ("data.flip=1", "data.flip: must be true or false, got 1"),
        (
            "data={train: a, val: b, size: 64, short_side: 48}",
            "data.short_side: must be at least data.size=64, got 48",
        ),
        ("model.name=3", "model.name: must be text, got 3"),
        ("joint={name: mgda, alpha: 0.3}", "joint.alpha: is not used by mgda, only by constant"),
        ("joint={name: mgda, gamma: 0.3}", "joint.gamma: is not used by mgda, only by schedule"),
        ("joint={name: mgda, apha: 0.3}", "joint.apha: is no known key"),
        ("precision=fp8", "precision: must be 'fp32', 'bf16' or 'fp16', got 'fp8'"),
    ],
)
def test_mistakes_name_file_and_key(recipe: Path, override: str, message: str) -> None:
    expected = f"config {recipe} with {override}: {message}"
    with pytest.raises(ValueError, match=re.escape(expected)) as caught:
        load_config(recipe, [override])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epochs", "override 'epochs': must read key=value or key.sub=value"),
        ("data..root=x", "override 'data..root=x': must read key=value"),
        ("epochs.x=3", "override 'epochs.x=3': epochs holds a number, not keys"),
        ("epochs=[1", "override 'epochs=[1', line 1: is not YAML"),
    ],
)
def test_bad_overrides(recipe: Path, override: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        load_config(recipe, [override])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: [", "line 1: is not YAML"),
        ("- 1", "must hold keys such as `model:` and `data:`, not a list"),
        ("", "not nothing"),
        ("epochs: 3", "model: is missing; data: is missing; optimizer: is missing"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"config {re.escape(str(path))}.*{re.escape(message)}"):
        load_config(path)


def test_missing_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config .*none.yaml: no such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ValueError, match=r"is not a text file"):
        load_config(tmp_path)
    (tmp_path / "weights.ckpt").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ValueError, match=r"weights.ckpt: is not a text file"):
        load_config(tmp_path / "weights.ckpt")
