"""What a list of videos comes to: samples, each a file or a folder of pictures with the index of its class."""

from __future__ import annotations

from dataclasses import dataclass

VIDEO_SUFFIXES = frozenset(
    [".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".wmv", ".flv", ".3gp", ".ogv"]
)


@dataclass(frozen=True)
class FrameFolder:
    """How the pictures of a folder are named and how many there are.

    Args:
        template: file name of frame i, made with ``template.format(first + i)``.
        first: number of the first picture, 0 or 1.
        count: number of frames; None counts the pictures of the folder.

    Raises:
        ValueError: the template names no picture of its own for each number, or a number is out of range.

    Example:
        >>> FrameFolder("{:05d}.jpg", 1, None).name(0)
        '00001.jpg'
    """

    template: str = "{:05d}.jpg"
    first: int = 1
    count: int | None = None

    def __post_init__(self) -> None:
        """Check the arguments."""
        try:
            names = {self.template.format(i) for i in (0, 1, 10)}
        except (ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(
                f"template: {self.template!r} cannot be filled with a number ({error})"
            ) from None
        if len(names) != 3 or any("/" in name or "\\" in name for name in names):
            raise ValueError(
                f"template must be a file name with one number in it, such as {{:05d}}.jpg, got {self.template!r}"
            )
        if self.first not in (0, 1):
            raise ValueError(f"first must be 0 or 1, got {self.first!r}")
        if self.count is not None and self.count < 1:
            raise ValueError(f"count must be at least 1 or None, got {self.count}")

    def name(self, frame: int) -> str:
        """Name the picture of a frame.

        Args:
            frame: from 0.

        Returns:
            The file name.
        """
        return self.template.format(self.first + frame)


@dataclass(frozen=True)
class Sample:
    """One video and the index of its class.

    Args:
        path: the video file, or the folder of its frames.
        label: class index, from 0.
        frames: how the frames of a folder are named; None for a video file.

    Example:
        >>> Sample("clips/a.mp4", 3).label
        3
    """

    path: str
    label: int
    frames: FrameFolder | None = None


@dataclass(frozen=True)
class AnnotationList:
    """The samples of a dataset and, where they are known, the names of its classes.

    Args:
        samples: the samples in the order of the list.
        classes: name of class 0, 1, ...; None where labels are bare numbers.

    Example:
        >>> AnnotationList([Sample("a.mp4", 2)], None).num_classes
        3
    """

    samples: list[Sample]
    classes: list[str] | None

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.samples)

    @property
    def num_classes(self) -> int:
        """The number of class names, or where there are none the highest label plus one."""
        return len(self.classes) if self.classes is not None else 1 + max(s.label for s in self.samples)
