"""A registered operator with its autograd rule, for eager calls and for compilation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["Kernel", "no_context"]


class Kernel:
    """One registered operator with its autograd rule, called with little overhead in eager mode.

    ``torch.library.register_autograd`` costs about 15 us a call without and 40 us with gradients, several times the
    operator itself, so eager calls go below the Autograd key through a plain ``autograd.Function`` with the same
    rule. Compilation, export and torch.jit.trace see the registered
    operator.

    Such a function takes tensors alone, so where an operator has a list of them, its rule is given, and gives, what the
    registered one would be: the list is taken apart and put together here. An operator that returns a list stays as it
    is registered.
    """

    def __init__(self, name: str, setup_context: Callable[..., None], backward: Callable[..., Any]) -> None:
        namespace, op = name.split("::")
        self.op = getattr(getattr(torch.ops, namespace), op).default
        torch.library.register_autograd(name, backward, setup_context=setup_context)
        target = self.op
        schema = target._schema
        self.listed = next((i for i, a in enumerate(schema.arguments) if _is_list(a)), None)
        self.lists_results = any(_is_list(r) for r in schema.returns)
        together = _together(self.listed, len(schema.arguments))
        below = torch._C._AutoDispatchBelowAutograd

        def forward(ctx: Any, *args: Any) -> Any:
            args = together(args)
            with below():
                result = target(*args)
            setup_context(ctx, args, result)
            return result

        def taken_apart(ctx: Any, *grads: Any) -> Any:
            return self._apart(backward(ctx, *grads))

        self.below = below
        self.function: Any = type(
            op,
            (torch.autograd.Function,),
            {
                "forward": staticmethod(forward),
                "backward": staticmethod(backward if self.listed is None else taken_apart),
            },
        )

    def _apart(self, args: Any) -> Any:
        """Arguments, or their gradients, without the list: its tensors stand in its place."""
        at = self.listed
        return args if at is None else (*args[:at], *args[at], *args[at + 1 :])

    def __call__(self, *args: Any) -> Any:
        """Run the operator."""
        if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
            return self.op(*args)
        tensors = self._apart(args)
        if forward_ad._current_level >= 0:
            self._refuse_tangents(tensors)
        if torch.is_grad_enabled():
            for arg in tensors:
                if isinstance(arg, Tensor) and arg.requires_grad:
                    if torch._C._are_functorch_transforms_active():
                        raise RuntimeError(
                            f'{self.op.name()} has no torch.func gradient; use backend="reference" for it'
                        )
                    return self.op(*args) if self.lists_results else self.function.apply(*tensors)
        with self.below():
            return self.op(*args)

    def _refuse_tangents(self, args: tuple[Any, ...]) -> None:
        if any(isinstance(a, Tensor) and forward_ad.unpack_dual(a).tangent is not None for a in args):
            raise RuntimeError(
                f'{self.op.name()} has no forward-mode derivative; use backend="reference" for it'
            )


def _is_list(value: torch.Argument) -> bool:
    return str(value.type) == "List[Tensor]"


def _together(at: int | None, count: int) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    """What makes ``count`` arguments of those that were taken apart; argument ``at`` is a list."""
    if at is None:
        return lambda args: args
    behind = count - at - 1

    def together(args: tuple[Any, ...]) -> tuple[Any, ...]:
        end = len(args) - behind
        return (*args[:at], list(args[at:end]), *args[end:])

    return together


def no_context(ctx: Any, inputs: Any, output: Any) -> None:
    """Save nothing for the gradient."""
