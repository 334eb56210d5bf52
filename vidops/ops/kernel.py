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
    """

    def __init__(self, name: str, setup_context: Callable[..., None], backward: Callable[..., Any]) -> None:
        namespace, op = name.split("::")
        self.op = getattr(getattr(torch.ops, namespace), op).default
        torch.library.register_autograd(name, backward, setup_context=setup_context)
        target = self.op
        below = torch._C._AutoDispatchBelowAutograd

        def forward(ctx: Any, *args: Any) -> Any:
            with below():
                result = target(*args)
            setup_context(ctx, args, result)
            return result

        self.below = below
        self.function: Any = type(
            op,
            (torch.autograd.Function,),
            {"forward": staticmethod(forward), "backward": staticmethod(backward)},
        )

    def __call__(self, *args: Any) -> Any:
        """Run the operator."""
        if torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
            return self.op(*args)
        if forward_ad._current_level >= 0:
            self._refuse_tangents(args)
        if torch.is_grad_enabled():
            for arg in args:
                if isinstance(arg, Tensor) and arg.requires_grad:
                    if torch._C._are_functorch_transforms_active():
                        raise RuntimeError(
                            f'{self.op.name()} has no torch.func gradient; use backend="reference" for it'
                        )
                    return self.function.apply(*args)
        with self.below():
            return self.op(*args)

    def _refuse_tangents(self, args: tuple[Any, ...]) -> None:
        if any(isinstance(a, Tensor) and forward_ad.unpack_dual(a).tangent is not None for a in args):
            raise RuntimeError(
                f'{self.op.name()} has no forward-mode derivative; use backend="reference" for it'
            )


def no_context(ctx: Any, inputs: Any, output: Any) -> None:
    """Save nothing for the gradient."""
