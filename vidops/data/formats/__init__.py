"""Annotation formats: each module of this package that has a ``FORMAT`` is one, read as its makers give it."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from ._format import Format, Request

__all__ = ["FORMATS", "Format", "Request", "find_format"]


def _discover() -> dict[str, Format]:
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    found = [getattr(importlib.import_module(f"{__name__}.{name}"), "FORMAT") for name in names]  # noqa: B009
    formats: dict[str, Format] = {format.name: format for format in found}
    assert len(formats) == len(names), "two formats have one name"
    return formats


FORMATS: dict[str, Format] = _discover()
"""Name -> format."""


def find_format(source: Path, name: str = "auto") -> Format:
    """Find the reader of an annotation file or folder.

    Args:
        source: the file or folder, which must exist.
        name: of a format, or ``"auto"``, which looks at the source's name and first line.

    Returns:
        The format.

    Raises:
        ValueError: there is no such format, or none or several would fit; the text says what to write.

    Example:
        >>> import tempfile
        >>> find_format(Path(tempfile.mkdtemp())).name
        'folder'
    """
    if name != "auto":
        if name not in FORMATS:
            raise ValueError(f"format: no format {name!r}; there are auto, {', '.join(FORMATS)}")
        return FORMATS[name]
    fitting = [format for format in FORMATS.values() if format.matches(source)]
    if len(fitting) != 1:
        choices = "; ".join(f"{format.name} ({format.about})" for format in fitting or FORMATS.values())
        raise ValueError(f"{source}: cannot tell its format, give format: one of {choices}")
    return fitting[0]
