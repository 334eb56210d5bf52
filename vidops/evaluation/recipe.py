"""What a caller may change of a recipe when measuring or predicting: views, their average, clips at a time."""

from __future__ import annotations

from typing import Any

from vidops.training.config import Config, DataConfig, validate

from .views import AVERAGES, parse_views


def with_views(
    config: Config, *, views: str | None = None, average: str | None = None, batch_size: int | None = None
) -> Config:
    """Change how a recipe looks at test videos.

    Args:
        config: the recipe.
        views: crops x clips, such as ``"3x10"``; None keeps the recipe's.
        average: ``"logits"`` or ``"softmax"``; None keeps the recipe's.
        batch_size: clips that run through the network at a time; None keeps the recipe's.

    Returns:
        The changed recipe, checked anew.

    Raises:
        ValueError: a value is out of range, or does not go with the rest of the recipe.

    Example:
        >>> from vidops.training import load_config
        >>> recipe = load_config("configs/demo/tiny_tsn.yaml")
        >>> with_views(recipe, views="3x1", average="softmax").data.crops
        3
    """
    changes: dict[str, Any] = {}
    if views is not None:
        changes["crops"], changes["clips"] = parse_views(views)
    if average is not None:
        if average not in AVERAGES:
            raise ValueError(f'average must be "logits" or "softmax", got {average!r}')
        changes["average"] = average
    if batch_size is not None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        changes["eval_batch_size"] = batch_size
    return with_data(config, **changes)


def with_data(config: Config, **changes: Any) -> Config:
    """Change keys of a recipe's data.

    Args:
        config: the recipe.
        changes: keys of its section ``data``.

    Returns:
        The changed recipe, checked anew; the recipe itself if there are no changes.

    Raises:
        ValueError: a value is out of range, or does not go with the rest of the recipe.
    """
    if not changes:
        return config
    told = ", ".join(f"data.{key}={value}" for key, value in changes.items())
    content = {**config.model_dump(), "data": {**config.data.model_dump(), **changes}}
    return validate(content, f"recipe with {told}")


def classifies_actors(config: Config) -> bool:
    """Tell whether a recipe is of actors at key frames, with boxes and several classes each.

    Args:
        config: the recipe.

    Returns:
        True for lists in AVA's format.
    """
    return config.data.format == "ava"


def describe_views(data: DataConfig) -> str:
    """Say which views a recipe takes.

    Args:
        data: the recipe's section.

    Returns:
        Crops x clips, of several views what is averaged, and whether the frames are shuffled.
    """
    text = f"{data.crops}x{data.clips}"
    averaged = "" if text == "1x1" else f", mean of {data.average}"
    return text + averaged + (", frames shuffled" if data.shuffle_frames else "")


def clips_at_a_time(data: DataConfig) -> tuple[int, int]:
    """Say how many clips run through the network at a time, and of how many videos they are loaded.

    Args:
        data: the recipe's section.

    Returns:
        Clips, and videos: as many as their views make one batch of clips, so that memory does not grow with
        the views, and at least one.
    """
    clips = data.eval_batch_size or data.batch_size
    return clips, max(1, clips // (data.crops * data.clips))
