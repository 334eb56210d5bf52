"""Optional dependencies, imported where they are used."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from types import ModuleType


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional dependency or say how to install it.

    Args:
        module: import name, for example ``"av"``.
        extra: the extra of vidops that brings it, for example ``"video"``.

    Returns:
        The imported module.

    Raises:
        ImportError: the module is not installed; the text holds the command that installs it.

    Example:
        >>> require("math", extra="video").sqrt(4.0)
        2.0
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise ImportError(_advice({module.split(".")[0]: extra})) from error


def require_all(modules: Mapping[str, str]) -> None:
    """Say how to install all that is missing of what a command is going to need, rather than one after the other.

    Args:
        modules: the extra of vidops that brings it, by import name.

    Raises:
        ImportError: some are not installed; the text holds the one command that installs them all.

    Example:
        >>> require_all({"math": "video", "json": "train"})
    """
    missing = {name: extra for name, extra in modules.items() if importlib.util.find_spec(name) is None}
    if missing:
        raise ImportError(_advice(missing))


def _advice(missing: Mapping[str, str]) -> str:
    """Name what is missing, and the command that installs it."""
    *others, last = missing
    extras = ",".join(dict.fromkeys(missing.values()))
    what = f"{', '.join(others)} and {last} are" if others else f"{last} is"
    pronoun = "them" if others else "it"
    return f"{what} not installed; install {pronoun} with: pip install 'vidops[{extras}]'"
