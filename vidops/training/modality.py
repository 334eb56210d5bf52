"""The keys of a recipe that say what the network sees: RGB frames, or something made from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from vidops.data.modalities import STACKS, input_channels

from .sections import Count, Section


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
