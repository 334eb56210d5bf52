"""Training recipes: one YAML file, checked key by key before anything else happens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, Strict, ValidationError, model_validator

from vidops.data import FrameFolder
from vidops.data.formats import FORMATS

from .messages import explain, kind
from .modality import ActorsConfig, ModalityConfig, check_actors
from .sections import (
    Below1,
    Bool,
    CosineConfig,
    Count,
    JointConfig,
    Natural,
    OptimizerConfig,
    Positive,
    ScheduleConfig,
    Section,
    SeparateConfig,
    Share,
    StepsConfig,
)
from .yaml_text import parse, set_key


class ModelConfig(Section):
    """The network: its registered name, its options and the weights it starts from."""

    name: str
    num_classes: Count | None = Field(None, description="None: as many as the lists have class names")
    num_segments: Count = 8
    options: dict[str, Any] = Field(default_factory=dict, description="further arguments of create_model")
    weights: str | None = Field(None, description="initial weights, a file that load_weights reads")
    part: Literal["all", "features", "backbone"] = Field("all", description="which of these weights to load")


class DataConfig(ModalityConfig):
    """Lists of videos, sampling, crops and loading.

    A list is a file or folder in one of the formats of ``vidops.data.formats``, its path and the videos'
    relative to ``root``.
    """

    root: str = "."
    train: str
    val: str
    format: str = Field("auto", description="of both lists; auto tells by name and first line, or asks")
    actors: ActorsConfig | None = Field(None, description="boxes with labels, for format: ava alone")
    split: Literal[1, 2, 3] = Field(1, description="which of HMDB51's splits")
    missing: Literal["error", "skip"] = Field(
        "error", description="skip: leave out videos that are not there"
    )
    template: str = Field("{:05d}.jpg", description="names of the pictures in frame folders")
    first_frame: Literal[0, 1] = Field(1, description="number of the first picture")
    sampling: Literal["uniform", "dense"] = "uniform"
    frames_per_segment: Count = Field(1, description="consecutive frames of each segment")
    window: Count = Field(64, description="frames that dense sampling takes a clip from")
    symmetric: Bool = Field(False, description="segments symmetric in time, for the motion dataset")
    shuffle_frames: Bool = Field(
        False, description="frames of each clip in random order, to see what a network makes of their order"
    )
    size: Count | None = Field(None, description="crop side in pixels; None: the model card's")
    short_side: Count | None = Field(
        None, description="short side that videos are decoded to; None: size * 8/7"
    )
    train_crop: Literal["multi_scale", "random_resize"] = "multi_scale"
    scales: list[Share] = Field(
        [1.0, 0.875, 0.75, 0.66], min_length=1, description="multi_scale: shares of the short side"
    )
    short_side_range: Annotated[list[Count], Field(min_length=2, max_length=2)] = Field(
        [256, 320], description="random_resize: smallest and largest short side"
    )
    flip: Bool = Field(
        True, description="mirror half of the training clips; not where left and right are classes"
    )
    test_size: Count | None = Field(None, description="side of the test crops; None: size")
    crops: Literal[1, 3, 10] = Field(1, description="spatial crops of a test clip")
    clips: Count = Field(1, description="clips of a test video")
    average: Literal["logits", "softmax"] = Field("logits", description="what is averaged over the views")
    mean: Annotated[list[float], Field(min_length=3, max_length=3)] | None = None
    std: Annotated[list[Positive], Field(min_length=3, max_length=3)] | None = None
    batch_size: Count = 32
    eval_batch_size: Count | None = Field(None, description="of a rank; None: its share of batch_size")
    workers: Natural = 0
    cache: Literal["memory"] | None = Field(None, description="keep decoded videos in memory, in each worker")
    max_broken: Annotated[float, Strict(), Field(ge=0, le=1)] = Field(
        0.01, description="share of the training videos that may be broken before training stops"
    )

    @model_validator(mode="after")
    def _keys_fit(self) -> DataConfig:
        self.check_modality(self.frames_per_segment, self.mean is not None or self.std is not None)
        if self.format != "auto" and self.format not in FORMATS:
            raise ValueError(f"data.format: must be auto, {', '.join(FORMATS)}, got {self.format!r}")
        check_actors(self)
        try:
            FrameFolder(self.template, self.first_frame)
        except ValueError as error:
            raise ValueError(f"data.{error}") from None
        for key in ("size", "test_size"):
            side = getattr(self, key)
            if side and self.short_side and self.short_side < side:
                raise ValueError(
                    f"data.short_side: must be at least data.{key}={side}, got {self.short_side}"
                )
        low, high = self.short_side_range
        if self.train_crop == "random_resize" and not (self.size or 1) <= low <= high:
            raise ValueError(
                f"data.short_side_range: must rise from at least data.size={self.size}, got {low} to {high}"
            )
        if self.symmetric and (self.sampling == "dense" or self.clips > 1):
            key = "sampling" if self.sampling == "dense" else "clips"
            raise ValueError(
                f"data.symmetric: is for uniform sampling of one clip, not data.{key}={getattr(self, key)}"
            )
        if self.crops == 10 and not self.flip:
            raise ValueError(
                "data.crops: five of 10 crops are mirrored, which data.flip=false forbids; take 1 or 3"
            )
        return self


class Config(Section):
    """A whole recipe: what ``vidops train`` runs and what a checkpoint carries.

    Args:
        model: the network, see :class:`ModelConfig`.
        data: lists, sampling and crops, see :class:`DataConfig`. A batch is that of all ranks together.
        optimizer: see :class:`SGDConfig` and :class:`AdamWConfig`.
        schedule: see :class:`OneCycleConfig`, :class:`CosineConfig` and :class:`StepsConfig`; the rate
            changes with every optimizer step.
        joint: how a network's own losses (TeSNet's, DAN's) are trained beside the cross entropy: ``sum``, or for one
            with a projection ``separate``, ``constant``, ``schedule`` or ``mgda``, see :class:`SumConfig` and those
            after it; None: they are not. ``train_loss`` in the log is the cross entropy alone, ``l1`` the network's
            own losses added up, ``alpha`` the share of these.
        epochs: passes over the training list.
        precision: ``fp32``, or mixed ``bf16`` or ``fp16`` (on a GPU) with fp32 weights.
        tf32: on a GPU, round what fp32 multiplies and convolves to the 10 bits of TF32, some times as fast.
        accumulate: batches whose gradients are averaged for one optimizer step. What does not fill a step is
            left out of the epoch.
        clip_norm: largest norm of a step's gradient over all parameters; a longer one is scaled down.
        freeze_norms: batch norms that keep their statistics, weight and bias: ``none``, ``all``, or
            ``all_but_first`` as TSN's partial batch norm has it, the first of each pathway of a network of two.
        ema: decay of an exponential moving average of the weights, updated every step. Validation and the
            checkpoints' ``state_dict`` have the averaged weights.
        seed: start of all random numbers.
        accelerator: ``auto`` takes a GPU where there is one.
        backend: backend of the operators; None: chosen automatically.
        log_every: steps between two rows of the training loss in metrics.csv.
        checkpoint_every: steps between two writes of last.ckpt within an epoch; None: at its end alone.
        output: folder of the run.

    Example:
        >>> config = Config.model_validate(
        ...     {
        ...         "model": {"name": "tiny_mstnet"},
        ...         "data": {"train": "train.csv", "val": "val.csv"},
        ...         "optimizer": {"name": "adamw", "lr": 0.003},
        ...         "schedule": {"name": "one_cycle"},
        ...         "epochs": 3,
        ...         "output": "runs/tiny",
        ...     }
        ... )
        >>> config.data.batch_size, config.precision
        (32, 'fp32')
    """

    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    joint: JointConfig | None = None
    epochs: Count
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    tf32: Bool = False
    accumulate: Count = 1
    clip_norm: Positive | None = None
    freeze_norms: Literal["none", "all", "all_but_first"] = "none"
    ema: Below1 | None = None
    seed: Annotated[int, Strict(), Field(ge=0, lt=2**32)] = 0
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    backend: Literal["reference", "cpu", "cuda", "triton"] | None = None
    log_every: Count = 10
    checkpoint_every: Count | None = None
    output: str

    @model_validator(mode="after")
    def _parts_fit(self) -> Config:
        schedule, window = self.schedule, self.data.window
        self.data.check_channels(self.model.options)
        if self.data.sampling == "dense" and self.model.num_segments > window:
            raise ValueError(
                f"data.window: must be at least model.num_segments={self.model.num_segments}, got {window}"
            )
        if isinstance(schedule, CosineConfig) and schedule.warmup_epochs >= self.epochs:
            raise ValueError(
                f"schedule.warmup_epochs: must be below epochs={self.epochs}, got {schedule.warmup_epochs:g}"
            )
        if isinstance(self.joint, SeparateConfig) and self.joint.epochs >= self.epochs:
            raise ValueError(f"joint.epochs: must be below epochs={self.epochs}, got {self.joint.epochs}")
        if isinstance(schedule, StepsConfig):
            milestones = schedule.milestones
            if milestones != sorted(set(milestones)) or milestones[-1] >= self.epochs:
                raise ValueError(
                    f"schedule.milestones: must rise and stay below epochs={self.epochs}, got {milestones}"
                )
            if schedule.warmup_epochs > milestones[0]:
                raise ValueError(
                    f"schedule.warmup_epochs: must end by the first milestone, {milestones[0]},"
                    f" got {schedule.warmup_epochs:g}"
                )
        return self


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a recipe and check it.

    Args:
        path: the YAML file.
        overrides: ``"key.sub=value"`` texts; each value is read as YAML, so ``epochs=3`` is a number,
            ``data.scales=[1.0]`` a list and ``model.weights=null`` nothing.

    Returns:
        The checked recipe.

    Raises:
        FileNotFoundError: ``path`` does not exist.
        ValueError: the file is no YAML mapping, or a key is unknown, missing, of the wrong type or out of
            range; one line that names the file and each such key.

    Example:
        >>> load_config("configs/demo/tiny_mstnet.yaml", ["epochs=1", "optimizer.lr=1e-3"]).optimizer.lr
        0.001
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise FileNotFoundError(f"config {path}: no such file") from None
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise ValueError(f"config {path}: is not a text file") from error
    content = parse(text, f"config {path}")
    if not isinstance(content, dict):
        raise ValueError(f"config {path}: must hold keys such as `model:` and `data:`, not {kind(content)}")
    for override in overrides:
        set_key(content, override)
    origin = f"config {path}" + (f" with {' '.join(overrides)}" if overrides else "")
    return validate(content, origin)


def override(config: Config, overrides: Sequence[str], origin: str) -> Config:
    """Change keys of a recipe and check it again.

    Args:
        config: the recipe.
        overrides: as `load_config` takes them.
        origin: where the recipe comes from, for errors.

    Returns:
        Another recipe.

    Raises:
        ValueError: a key is unknown, of the wrong type or out of range.

    Example:
        >>> override(load_config("configs/demo/tiny_tsn.yaml"), ["epochs=3"], "tiny_tsn").epochs
        3
    """
    content = config.model_dump()
    for text in overrides:
        set_key(content, text)
    return validate(content, f"{origin} with {' '.join(overrides)}")


def shipped_recipes() -> Path:
    """Find the folder of recipes that come with vidops: inside an installed package, beside it in a checkout.

    Returns:
        The folder ``configs``.

    Raises:
        FileNotFoundError: there is none.

    Example:
        >>> (shipped_recipes() / "demo" / "tiny_mstnet.yaml").is_file()
        True
    """
    package = Path(__file__).parents[1]
    for folder in (package / "configs", package.parent / "configs"):
        if (folder / "demo").is_dir():
            return folder
    raise FileNotFoundError(f"recipes: no folder configs in {package} or beside it")


def validate(content: dict[str, Any], origin: str) -> Config:
    """Check a recipe given as a mapping.

    Args:
        content: keys and values as YAML gives them.
        origin: where they come from, for the error text.

    Returns:
        The checked recipe.

    Raises:
        ValueError: names ``origin`` and each bad key, in one line.

    Example:
        >>> validate({"epochs": 0}, "config x.yaml")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: config x.yaml: model: is missing; data: is missing; ...
    """
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        problems = "; ".join(explain(problem, Config) for problem in error.errors())
        raise ValueError(f"{origin}: {problems}") from None


def differences(first: Config, second: Config, *, ignore: Sequence[str] = ()) -> list[tuple[str, Any, Any]]:
    """List the keys in which two recipes differ.

    Args:
        first: one recipe.
        second: the other.
        ignore: dotted keys left out of the comparison.

    Returns:
        ``(key, value in first, value in second)`` for each differing key, in the order of the recipe.

    Example:
        >>> config = load_config("configs/demo/tiny_mstnet.yaml")
        >>> differences(config, config.model_copy(update={"epochs": 99}))[0][0]
        'epochs'
    """
    ours, theirs = (dict(_flatten(config.model_dump(mode="json"))) for config in (first, second))
    keys = list(dict.fromkeys([*ours, *theirs]))
    return [(k, ours.get(k), theirs.get(k)) for k in keys if k not in ignore and ours.get(k) != theirs.get(k)]


def dump(config: Config) -> str:
    """Write a recipe as YAML that :func:`load_config` reads back to the same recipe.

    Args:
        config: the recipe.

    Returns:
        YAML text.

    Example:
        >>> config = load_config("configs/demo/tiny_mstnet.yaml")
        >>> validate(yaml.safe_load(dump(config)), "text") == config
        True
    """
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _flatten(value: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield from _flatten(item, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", item
