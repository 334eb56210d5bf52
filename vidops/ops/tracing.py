"""A mark that torch.compile reads, set without importing torch.compile's own code, which takes over a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])


def assume_constant_result(function: F) -> F:
    """Mark a function that Dynamo calls while it traces, and whose result it makes a constant of the graph.

    It is `torch.compiler.assume_constant_result`, which imports torch._dynamo to set this one attribute.

    Args:
        function: any function.

    Returns:
        The same function.

    Example:
        >>> @assume_constant_result
        ... def whether_installed() -> bool:
        ...     return True
        >>> whether_installed()
        True
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
