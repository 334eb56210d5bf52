"""A network to look into: from a checkpoint or a name, with the clips it sees."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..data import (
    AnnotationList,
    FrameFolder,
    Sample,
    SpatialCrops,
    UniformSampling,
    VideoDataset,
    Views,
    read_annotations,
    transforms,
)
from ..data.dataset import Sampling
from ..data.views import usual_short_side
from ..models import create_model, model_card
from .clips import ShownFrames, read_shown
from .hooks import inputs_of

__all__ = ["Subject", "features_of_videos", "load_subject"]


@dataclass(frozen=True)
class Subject:
    """A network with all that is needed to show it videos.

    Attributes:
        net: from clips (N, C, T, H, W) to logits (N, K), in evaluation mode.
        classes: K names.
        title: what it is, such as "tiny_tsm, best.ckpt after 3 epochs".
        dataset: from a list of videos to the dataset that samples, crops and normalises them for a test, one
            clip each.
        crop: the part of the frames that the network sees.
        folder: how the pictures of a folder of frames are named.
    """

    net: nn.Module
    classes: list[str]
    title: str
    dataset: Callable[[AnnotationList], VideoDataset]
    crop: SpatialCrops
    folder: FrameFolder

    def read(self, video: str | os.PathLike[str]) -> tuple[Tensor, ShownFrames]:
        """Read a video as the network is tested on it.

        Args:
            video: a video file, or a folder of frames.

        Returns:
            The clip (1, C, T, H, W), and T frames as cropped for the network, to be shown. Where the network
            sees several frames at a time (stacked flow, differences, dynamic images), the middle one is shown.

        Raises:
            VideoError: the file is missing, damaged, or too short for the sampling.
        """
        path = os.fspath(video)
        folder = self.folder if os.path.isdir(path) else None
        dataset = self.dataset(AnnotationList([Sample(path, 0, folder)], self.classes))
        asked = _Asked(dataset.sampling)
        dataset.sampling = asked
        clip = dataset[0]["clip"]
        each = asked.indices.reshape(clip.shape[1], -1)
        indices = each[:, each.shape[1] // 2]
        shown = read_shown(path, lambda _: indices, short_side=dataset.short_side, folder=self.folder)
        return clip[None], ShownFrames(self.crop(shown.frames)[0], shown.indices, shown.times)

    def find_class(self, target: str | int) -> int:
        """Find a class by its name or its number.

        Args:
            target: a name, or a number from 0 (as text, too, where no class has that name).

        Returns:
            Its number.

        Raises:
            ValueError: there is no such class.
        """
        if isinstance(target, str) and target in self.classes:
            return self.classes.index(target)
        try:
            number = int(target)
        except ValueError:
            number = -1
        if not 0 <= number < len(self.classes):
            shown = ", ".join(self.classes[:8]) + (", ..." if len(self.classes) > 8 else "")
            raise ValueError(f"class {target!r}: is not one of the {len(self.classes)} classes {shown}")
        return number


def load_subject(
    *, weights: str | os.PathLike[str] | None = None, model: str | None = None, seed: int = 0
) -> Subject:
    """Load a checkpoint of ``vidops train``, or build a network with random weights.

    Args:
        weights: the checkpoint; videos are sampled and cropped as its recipe does in a test.
        model: registry name; videos are sampled at segment centres and cropped to the card's input size.
        seed: of the random weights; the global random numbers stay as they are.

    Returns:
        The network, on the CPU; its title says where the weights come from.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: both or neither are given, the file is no checkpoint, or no model has that name.

    Example:
        >>> load_subject(model="tiny_tsn").title
        'tiny_tsn with random weights'
    """
    if (weights is None) == (model is None):
        raise ValueError("give either weights (a checkpoint) or model (a name, for random weights)")
    if model is not None:
        return _random(model, seed)
    from ..training.checkpoint import read_checkpoint, restore
    from ..training.reading import build_dataset

    checkpoint = read_checkpoint(Path(str(weights)))
    config = checkpoint.config
    section, card = config.data, model_card(config.model.name)
    size = section.size or card.input_size[-1]
    epochs = f"{checkpoint.epochs} epoch{'s' if checkpoint.epochs != 1 else ''}"
    return Subject(
        restore(checkpoint),
        checkpoint.classes,
        f"{card.name}, {Path(str(weights)).name} after {epochs}",
        lambda videos: build_dataset(config, videos, training=False, views=False),
        SpatialCrops(section.test_size or size, section.short_side or usual_short_side(size)),
        FrameFolder(section.template, section.first_frame),
    )


def _random(name: str, seed: int) -> Subject:
    card = model_card(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = create_model(name).eval()
    crop = SpatialCrops(card.input_size[-1], usual_short_side(card.input_size[-1]))
    return Subject(
        net,
        [f"class {i}" for i in range(card.num_classes)],
        f"{name} with random weights",
        lambda videos: VideoDataset(
            videos,
            sampling=UniformSampling(
                card.num_segments, training=False, frames_per_segment=card.frames_per_segment
            ),
            transform=Views(crop, 1, transforms.Normalize(card.mean, card.std)),
            short_side=crop.short_side,
        ),
        crop,
        FrameFolder(),
    )


class _Asked:
    """A sampling that keeps the indices it gave last."""

    def __init__(self, sampling: Sampling) -> None:
        self.sampling = sampling
        self.indices: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def __call__(self, num_frames: int, generator: np.random.Generator) -> npt.NDArray[np.int64]:
        self.indices = self.sampling(num_frames, generator)
        return self.indices


def features_of_videos(
    subject: Subject,
    source: str | os.PathLike[str] | AnnotationList,
    *,
    root: str | os.PathLike[str] | None = None,
    classes: Sequence[str] | None = None,
    batch_size: int = 8,
    workers: int = 0,
    device: str | torch.device = "cpu",
    check: Callable[[list[int]], object] | None = None,
) -> tuple[Tensor, list[int], list[str]]:
    """Compute the features before the classifier of every video of a list.

    Features of frames, or of other parts of a clip, are averaged over the clip, as the logits are.

    Args:
        subject: the network; its class ``net.classifier_name`` names the classifier.
        source: the videos, or an annotation list, or a folder with a sub-folder a class.
        root: folder that relative paths of a list start from.
        classes: names of the classes whose videos are taken; None takes all.
        batch_size: videos computed at a time.
        workers: processes that decode.
        device: where the network runs, and stays.
        check: called with the labels before the first video is read; what it raises is raised.

    Returns:
        Features, float32 (N, C); the N labels; the names of the classes of the list, numbers where it has
        none.

    Raises:
        FileNotFoundError: the list or a video is missing.
        VideoError: a video cannot be read.
        ValueError: the list is empty or malformed, the device is not there, or the network does not
            name its classifier.

    Example:
        >>> features_of_videos(load_subject(model="tiny_tsn"), "no/such/list.csv")
        Traceback (most recent call last):
        FileNotFoundError: no/such/list.csv: no such annotation file or folder
    """
    from ..evaluation.evaluator import fp32_of_gpus
    from ..training.loading import worker_processes

    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: is {device}, but torch finds no GPU")
    found = (
        source
        if isinstance(source, AnnotationList)
        else read_annotations(source, root=root, frames=subject.folder)
    )
    names = found.classes or [str(i) for i in range(found.num_classes)]
    if classes is not None:
        for name in classes:
            if name not in names:
                raise ValueError(f"classes: {name!r} is not a class of the list")
        chosen = {names.index(name) for name in classes}
        found = AnnotationList([sample for sample in found.samples if sample.label in chosen], names)
    if check is not None:
        check([sample.label for sample in found.samples])
    dataset = subject.dataset(found)
    net = subject.net.to(device)
    parts, labels = [], []
    with fp32_of_gpus(tf32=False):
        for batch in torch.utils.data.DataLoader(dataset, batch_size, **worker_processes(workers)):
            parts.append(clip_features(net, batch["clip"].to(device)).cpu())
            labels += batch["label"].tolist()
    return torch.cat(parts), labels, names


def clip_features(net: nn.Module, clips: Tensor) -> Tensor:
    """Compute what a network's classifier is given.

    Args:
        net: from clips (N, 3, T, H, W) to logits; ``net.classifier_name`` is the name of its classifier.
        clips: (N, 3, T, H, W).

    Returns:
        float32 (N, C): the classifier's input, averaged over a clip's rows where it has several.

    Raises:
        ValueError: the network does not name its classifier, or it is given rows of no whole clips.

    Example:
        >>> from vidops.models import create_model
        >>> clip_features(create_model("tiny_tsn").eval(), torch.rand(2, 3, 8, 32, 32)).shape
        torch.Size([2, 128])
    """
    name = getattr(net, "classifier_name", None)
    if not isinstance(name, str):
        raise ValueError(f"net must name its classifier, {type(net).__name__} does not")
    given = inputs_of(net.get_submodule(name), net, clips)
    if len(given) != 1 or given[0].dim() < 2 or given[0].shape[0] % len(clips):
        shapes = [tuple(each.shape) for each in given]
        raise ValueError(f"net: its classifier {name} must be given rows of {len(clips)} clips, got {shapes}")
    features = given[0].flatten(1, -2) if given[0].dim() > 2 else given[0]
    return features.float().reshape(len(clips), -1, features.shape[-1]).mean(1)
