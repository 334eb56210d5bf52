"""From a recipe to the list of videos and the dataset that samples, crops and normalises them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vidops import data
from vidops.data import modalities, transforms
from vidops.data.flow_store import FlowStore
from vidops.data.formats import find_format
from vidops.data.views import usual_short_side
from vidops.models import model_card

from .config import Config


def build_dataset(
    config: Config, annotations: data.AnnotationList, *, training: bool, views: bool = True
) -> data.VideoDataset:
    """Build the dataset of a list of videos as a recipe samples, crops and normalises it.

    Args:
        config: the recipe; size, mean and std default to the model card's.
        annotations: the videos.
        training: random segment frames and crops, else those of a test.
        views: give all ``data.crops * data.clips`` views of a test video; False gives the centre crop of one
            clip, as is enough to follow a training.

    Returns:
        The dataset; its clips are (C, T, H, W), or (V, C, T, H, W) where a test has several views, with the
        C of `modalities.input_channels`.

    Raises:
        FileNotFoundError: ``data.flow_root`` holds no flow.
        ValueError: no model has the recipe's name, the crop is larger than the frames, or clips would be
            mirrored though that turns one class into another.
    """
    section = config.data
    mirror = modalities.flip_flow if section.modality == "flow" else transforms.flip_frames
    clips, crops = (section.clips, section.crops) if views and not training else (1, 1)
    if section.flip and (training or crops == 10):
        refuse_mirrors(annotations.classes or [])
    transform: transforms.Transform
    if training:
        crop, short_side = training_crop(config, mirror)
        transform = transforms.Compose([crop, network_input(config)])
    else:
        size = input_size(config)
        short_side = section.short_side or usual_short_side(size)
        cuts = data.SpatialCrops(section.test_size or size, short_side, crops, mirror=mirror)
        transform = data.Views(cuts, clips, network_input(config))
    if section.modality == "dynamic_image":  # of whole frames, as in the sources
        transform = transforms.Compose([modalities.DynamicImages(section.stacked), transform])
    if section.modality == "squeezed_image":
        transform = transforms.Compose([modalities.SqueezedImages(section.stacked), transform])
    return data.VideoDataset(
        annotations,
        sampling=_sampling(config, training, clips),
        transform=transform,
        seed=config.seed,
        short_side=short_side,
        cache=section.cache,
        flow=FlowStore(section.flow_root, videos=section.root) if section.flow_root else None,
    )


def input_size(config: Config) -> int:
    """Give the side of the squares that a recipe's network is trained on.

    Args:
        config: the recipe; the size defaults to the model card's.

    Returns:
        Pixels.
    """
    return config.data.size or model_card(config.model.name).input_size[-1]


def training_crop(
    config: Config, mirror: transforms.Mirror = transforms.flip_frames
) -> tuple[transforms.TrainCrops | transforms.RandomResizeCrop, int]:
    """Make the random crop of a recipe.

    Args:
        config: the recipe.
        mirror: how frames are flipped.

    Returns:
        The crop, and the short side that frames are decoded to for it.
    """
    section, size = config.data, input_size(config)
    if section.train_crop == "random_resize":
        low, high = section.short_side_range  # decoded to the largest: never enlarged afterwards
        return transforms.RandomResizeCrop(size, (low, high), flip=section.flip, mirror=mirror), high
    short_side = section.short_side or usual_short_side(size)
    return transforms.TrainCrops(size, section.flip, section.scales, mirror), short_side


def network_input(config: Config) -> transforms.Transform:
    """Make what turns the cropped frames of one view into a clip.

    Args:
        config: the recipe; mean and std default to the model card's.

    Returns:
        The last transform.
    """
    section, card = config.data, model_card(config.model.name)
    if section.modality == "flow":
        return modalities.StackFlow(section.stacked)
    if section.modality == "rgb_diff":
        return modalities.StackDifferences(section.stacked)
    return transforms.Normalize(section.mean or card.mean, section.std or card.std)


def _sampling(
    config: Config, training: bool, clips: int
) -> data.UniformSampling | data.DenseSampling | data.ShuffledSampling:
    section, segments = config.data, config.model.num_segments
    run = section.frames_per_segment
    if section.modality != "rgb":
        run *= modalities.frames_per_segment(section.modality, section.stacked)
    made: data.UniformSampling | data.DenseSampling
    if section.sampling == "dense":
        made = data.DenseSampling(segments, training, run, clips, section.window)
    else:
        made = data.UniformSampling(segments, training, section.symmetric, run, clips)
    return data.ShuffledSampling(made) if section.shuffle_frames else made


def refuse_mirrors(classes: Sequence[str]) -> None:
    """Refuse to mirror clips where that turns one class into another.

    Args:
        classes: class names.

    Raises:
        ValueError: names two such classes.

    Example:
        >>> refuse_mirrors(["swipe left", "swipe right"])
        Traceback (most recent call last):
        ValueError: data.flip: a mirrored video of 'swipe left' shows 'swipe right'; write data.flip: false
    """
    pair = data.mirrored_classes(classes)
    if pair is not None:
        raise ValueError(
            f"data.flip: a mirrored video of {pair[0]!r} shows {pair[1]!r}; write data.flip: false"
        )


def refuse_common(train: Any, val: Any, noun: str = "videos") -> None:
    """Refuse lists that share videos: what is measured on trained videos says nothing about others.

    Args:
        train: the training videos.
        val: the validation videos; a link to a training video is seen, a copy of it is not.
        noun: what the samples of the lists are called.

    Raises:
        ValueError: gives the number of samples of common videos and the first of the validation list.

    Example:
        >>> refuse_common(
        ...     data.AnnotationList([data.Sample("a.mp4", 0), data.Sample("b.mp4", 0)], ["one"]),
        ...     data.AnnotationList([data.Sample("x/../b.mp4", 0)], ["one"]),
        ... )
        Traceback (most recent call last):
        ValueError: data.val: 1 of 1 videos are in data.train too, first x/../b.mp4
    """
    folders: dict[str, str] = {}
    trained = {_real_path(sample.path, folders) for sample in train.samples}
    common = [sample.path for sample in val.samples if _real_path(sample.path, folders) in trained]
    if common:
        are = "are" if noun == "videos" else "are of videos"
        raise ValueError(
            f"data.val: {len(common)} of {len(val)} {noun} {are} in data.train too, first {common[0]}"
        )


def _real_path(path: str, folders: dict[str, str]) -> str:
    """Resolve links; of each folder once, as lists name hundreds of thousands of files."""
    folder, name = os.path.split(os.path.abspath(path))
    if folder not in folders:
        folders[folder] = os.path.realpath(folder)
    path = os.path.join(folders[folder], name)
    return os.path.realpath(path) if os.path.islink(path) else path


def read_list(
    config: Config, split: str, classes: Sequence[str] | None = None, *, missing: str | None = None
) -> data.AnnotationList:
    """Read one list of a recipe.

    Args:
        config: the recipe.
        split: ``"train"`` or ``"val"``.
        classes: class names in the order of the labels; None takes those that the list or its classes.txt
            gives.
        missing: ``"keep"`` for videos that are not there; None does as the recipe says.

    Returns:
        Videos, labels and class names. Where there are no names the numbers serve as names.

    Raises:
        FileNotFoundError: the list or a video of it is missing.
        ValueError: the list is empty or malformed, a label is past the classes, or their number is not known.
    """
    section, count = config.data, config.model.num_classes
    root = Path(section.root)
    source = root / getattr(section, split)
    # A folder of classes holds its videos itself; of every other list they start from the recipe's root.
    in_itself = source.is_dir() and find_format(source, section.format).name == "folder"
    found = data.read_annotations(
        source,
        root=None if in_itself or not source.exists() else root,
        format=section.format,
        num_classes=count,
        classes=classes,
        subset=split,
        split=section.split,
        missing=missing or section.missing,
        frames=data.FrameFolder(section.template, section.first_frame),
    )
    if found.classes is None and count is None:
        raise ValueError(f"{source}: no classes.txt names the classes; write one, or give model.num_classes")
    return data.AnnotationList(found.samples, found.classes or [str(i) for i in range(count or 0)])
