"""Optional dependencies, imported where they are used."""

from __future__ import annotations

import importlib
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
        raise ImportError(
            f"{module.split('.')[0]} is not installed; install it with: pip install 'vidops[{extra}]'"
        ) from error
