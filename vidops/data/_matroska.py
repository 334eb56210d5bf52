"""How long a Matroska or WebM file says it is, which FFmpeg does not compare with how long it is."""

from __future__ import annotations

from typing import BinaryIO

_HEADER, _SEGMENT = 0x1A45DFA3, 0x18538067


def promised_bytes(path: str, start: int = 0) -> int | None:
    """Read where the one segment of a Matroska or WebM file ends.

    Args:
        path: any file.
        start: where in it the video begins.

    Returns:
        Bytes from the start of the video; None for other files and for those that were written as a stream,
        whose segment has no length.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     promised_bytes(file.name) is None
        True
    """
    with open(path, "rb") as file:
        file.seek(start)
        if _number(file, keep_marker=True) != _HEADER:
            return None
        length = _number(file)
        if length is None:
            return None
        file.seek(length, 1)
        if _number(file, keep_marker=True) != _SEGMENT:
            return None
        length = _number(file)
        return None if length is None else file.tell() - start + length


def _number(file: BinaryIO, keep_marker: bool = False) -> int | None:
    """Read a number of EBML, whose length is that of its leading zero bits; None if unknown or cut off."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    length = 9 - first[0].bit_length()
    rest = file.read(length - 1)
    if len(rest) != length - 1:
        return None
    value = int.from_bytes(first + rest, "big")
    if keep_marker:
        return value
    value -= 1 << 7 * length
    return None if value == (1 << 7 * length) - 1 else value  # all ones: not known when it was written
