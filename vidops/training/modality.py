"""The keys of a recipe that say what the network sees: RGB frames or something made from them, clips or actors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from vidops.data.actor_lists import AVA_TIMESTAMPS
from vidops.data.modalities import STACKS, input_channels

from .sections import Bool, Count, NonNegative, Positive, Section, UpTo1


class ModalityConfig(Section):
    """The input of the network, see ``vidops.data.modalities``.

    Args:
        modality: what is made from the frames of a segment.
        stack: differences, flow fields or frames that one input is made from; None: 5, 5 or 6. Flow of ``stack`` 1
            may have ``frames_per_segment``, fields that are a time step each, as TeSNet squeezes them.
        flow_root: folder of ``vidops dataset flow``; flow that it lacks is computed when it is asked for.
    """

    modality: Literal["rgb", "rgb_diff", "flow", "dynamic_image", "squeezed_image"] = "rgb"
    stack: Count | None = None
    flow_root: str | None = None

    @property
    def stacked(self) -> int:
        """``stack``, or the modality's default."""
        return self.stack or STACKS[self.modality]

    def check_modality(self, frames_per_segment: int, coloured: bool) -> None:
        """Raise unless the keys fit the modality.

        Args:
            frames_per_segment: of the recipe.
            coloured: whether it gives a mean or std of colours.

        Raises:
            ValueError: names the first key that does not.
        """
        if self.modality == "rgb" and self.stack is not None:
            raise ValueError("data.stack: is for another data.modality than rgb")
        if self.modality == "flow" and self.flow_root is None:
            raise ValueError("data.flow_root: is missing, a folder of vidops dataset flow")
        if self.modality != "flow" and self.flow_root is not None:
            raise ValueError(f"data.flow_root: is for data.modality=flow, not {self.modality}")
        try:
            input_channels(self.modality, self.stacked)
        except ValueError as error:
            raise ValueError("data." + str(error).replace(" ", ": ", 1)) from None
        single = self.modality == "rgb" or (self.modality == "flow" and self.stacked == 1)
        if not single and frames_per_segment > 1:
            raise ValueError(
                "data.frames_per_segment: is for data.modality=rgb, or flow of data.stack=1; data.stack says it for"
                f" {self.modality}"
            )
        if self.modality in ("flow", "rgb_diff") and coloured:
            raise ValueError(f"data.mean, data.std: are of colours, not for data.modality={self.modality}")

    def check_channels(self, options: Mapping[str, Any]) -> None:
        """Raise unless a network takes the modality's channels.

        Args:
            options: ``model.options`` of the recipe.

        Raises:
            ValueError: ``in_channels`` is another number.
        """
        channels, given = input_channels(self.modality, self.stacked), options.get("in_channels", 3)
        if given != channels:
            stack = "" if self.modality == "rgb" else f" with data.stack={self.stacked}"
            raise ValueError(
                f"model.options.in_channels: must be {channels} for data.modality={self.modality}{stack},"
                f" got {given!r}"
            )


Timestamps = Annotated[list[NonNegative], Field(min_length=2, max_length=2)]


class ActorsConfig(Section):
    """Boxes with several labels each, in AVA's lists (``data.format: ava``), see `vidops.data.read_actors`.

    Paths are relative to ``data.root``. A clip is ``model.num_segments`` frames about a key frame, every
    ``frame_step``-th one.

    Args:
        labels: label map (pbtxt) of the classes; None: AVA's 80, by number.
        scored: label map of those that the frame mAP is the mean of; None: all.
        train_excluded: csv of key frames that are left out of training.
        val_excluded: csv of those that are left out of the validation.
        train_proposals: csv of a detector's boxes to train on beside those of the list; None: none.
        val_proposals: csv of a detector's boxes, classified in place of those of the list; None: the list's own are,
            which measures the labels alone.
        train_min_score: of the detector's boxes that are trained on.
        val_min_score: of those that are classified.
        match_iou: intersection over union from which on a detector's box has a listed box's labels.
        start_time: timestamp of a file's first frame, seconds: 900 for AVA's usual cuts, 0 for whole films.
        timestamps: first and last that a list may have; None: any.
        frame_step: frames of the file from one frame of a clip to the next.
        frame_rate: frames a second of frame folders.
        min_visible: share of a box that a training crop must hold, else it is left out.
        squash: resize whole frames to squares, in training and tests. False: training cuts squares as
            ``data.train_crop`` says, and tests keep the frames' shape, ``data.test_size`` or ``data.size`` being the
            short side; the frames of a batch must then have one shape, as with ``data.eval_batch_size: 1``.
    """

    labels: str | None = None
    scored: str | None = None
    train_excluded: str | None = None
    val_excluded: str | None = None
    train_proposals: str | None = None
    val_proposals: str | None = None
    train_min_score: UpTo1 = 0.0
    val_min_score: UpTo1 = 0.0
    match_iou: UpTo1 = 0.5
    start_time: NonNegative = 900.0
    timestamps: Timestamps | None = Field(list(AVA_TIMESTAMPS))
    frame_step: Count = 1
    frame_rate: Positive = 30.0
    min_visible: UpTo1 = 0.25
    squash: Bool = False

    @model_validator(mode="after")
    def _timestamps_rise(self) -> ActorsConfig:
        if self.timestamps is not None and not self.start_time <= self.timestamps[0] <= self.timestamps[1]:
            raise ValueError(
                f"data.actors.timestamps: must rise from at least data.actors.start_time={self.start_time:g}, got"
                f" {self.timestamps}"
            )
        return self


# Keys of `data` that say which frames and views of a whole video are taken, or what is made of them.
_OF_CLIPS = {
    **{"sampling": "uniform", "frames_per_segment": 1, "symmetric": False, "shuffle_frames": False},
    **{"modality": "rgb", "crops": 1, "clips": 1},
}


def check_actors(data: Any) -> None:
    """Raise unless the section ``data`` is of actors wholly, or not at all.

    Args:
        data: the section.

    Raises:
        ValueError: names the first key that does not fit.
    """
    if data.format != "ava":
        if data.actors is not None:
            raise ValueError(f"data.actors: is for data.format=ava, not {data.format}")
        return
    if data.actors is None:
        raise ValueError("data.actors: is missing, which data.format=ava needs ({} takes every default)")
    for key, only in _OF_CLIPS.items():
        if getattr(data, key) != only:
            raise ValueError(
                f"data.{key}: is {only!r} alone for data.format=ava, whose clips are of the frames about a key frame,"
                f" got {getattr(data, key)!r}"
            )
