"""A recipe's text: YAML with numbers as people write them, and keys set from the command line."""

from __future__ import annotations

import re
from typing import Any

import yaml

from .messages import kind


# YAML 1.1 reads 3e-3 as a string for want of a point; people write it all the same.
class _Loader(yaml.SafeLoader):
    pass


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse(text: str, origin: str) -> Any:
    """Read YAML.

    Args:
        text: the YAML.
        origin: where it comes from, for errors.

    Returns:
        What it holds.

    Raises:
        ValueError: it is no YAML; names ``origin`` and the line.

    Example:
        >>> parse("lr: 3e-3", "config x.yaml")
        {'lr': 0.003}
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise ValueError(
            f"{origin}{line}: is not YAML: {getattr(error, 'problem', None) or 'cannot parse'}"
        ) from None


def set_key(content: dict[str, Any], override: str) -> None:
    """Set a key of a recipe's mapping, in place.

    Args:
        content: keys and values as YAML gives them; sections on the way to the key are made where they lack.
        override: a text ``key.sub=value``, its value YAML.

    Raises:
        ValueError: the text is none such, or leads through a value that is no section.

    Example:
        >>> content = {"data": {"size": 112}}
        >>> set_key(content, "data.size=224")
        >>> content
        {'data': {'size': 224}}
    """
    key, equals, value = override.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise ValueError(f"override {override!r}: must read key=value or key.sub=value")
    section = content
    for i, part in enumerate(parts[:-1]):
        section = section.setdefault(part, {})
        if not isinstance(section, dict):
            raise ValueError(
                f"override {override!r}: {'.'.join(parts[: i + 1])} holds {kind(section)}, not keys"
            )
    section[parts[-1]] = parse(value, f"override {override!r}")
