"""The one registry of backends: what can run where, why not, and which is preferred.

An operator is one :class:`Operator`; ``vidops/ops/<op>.py`` makes it from its fake, autograd and FLOP rules and
everything else (libraries, Triton modules, eager fast path, verdicts) follows from its name.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor

from .. import _build
from .kernel import Kernel, no_context

__all__ = ["BACKENDS", "OPERATORS", "Backend", "Operator", "use_backend"]

_log = logging.getLogger("vidops")


class Backend:
    """A way to run operators: a namespace of registered operators and the device it takes.

    Args:
        name: what ``backend=`` calls it.
        namespace: where its operators are registered, or ``None`` for plain Python.
        devices: device types its tensors may be on; empty for any.
        missing: why the backend as a whole cannot run here, or ``""``.
        key: dispatch key its kernels must be registered for, or ``None``.
        module: Python package with one module an operator that registers the kernels on import, or ``None``.
    """

    def __init__(
        self,
        name: str,
        namespace: str | None,
        devices: Sequence[str],
        missing: str = "",
        key: str | None = None,
        module: str | None = None,
    ) -> None:
        self.name = name
        self.namespace = namespace
        self.devices = tuple(devices)
        self.missing = missing
        self.key = key
        self.module = module


def _triton() -> Backend:
    interpreted = os.environ.get("TRITON_INTERPRET", "") in ("1", "true", "True")
    missing = ""
    installed = importlib.util.find_spec("triton") is not None
    if installed and not interpreted and torch.version.cuda is None:
        missing = "this PyTorch has no CUDA, and Triton's interpreter is off (TRITON_INTERPRET=1 turns it on)"
    else:
        try:
            importlib.import_module("triton")
        except ImportError as error:
            missing = f"triton does not import ({error}); install it with: pip install 'vidops[triton]'"
    devices = ("cpu", "cuda") if interpreted else ("cuda",)
    return Backend("triton", "vidops_triton", devices, missing, module="vidops.triton_kernels")


def _native(name: str, key: str) -> Backend:
    status = _build.status()[name]
    return Backend(name, "vidops", (name,), "" if status.loaded else status.reason, key)


BACKENDS: dict[str, Backend] = {
    "reference": Backend("reference", None, ()),
    "cpu": _native("cpu", "CPU"),
    "cuda": _native("cuda", "CUDA"),
    "triton": _triton(),
}

# The order in which an automatic choice tries backends, by the device of the first tensor, where no measurement gives
# an operator another one.
PREFERENCE: dict[str, tuple[str, ...]] = {
    "cpu": ("cpu", "reference"),
    "cuda": ("cuda", "triton", "reference"),
}

OPERATORS: dict[str, Operator] = {}


class _State(threading.local):
    def __init__(self) -> None:
        self.backend: str | Question | None = None


_state = _State()
_environment: str | None = os.environ.get("VIDOPS_BACKEND") or None


def check_backend(name: str | None) -> str | None:
    """Return a layer's ``backend``; raise ValueError unless it is None or the name of one.

    Example:
        >>> check_backend("reference")
        'reference'
    """
    return None if name is None else _known(name, "backend")


def _known(name: str | Question, source: str) -> str:
    if not isinstance(name, str) or name not in BACKENDS:
        raise ValueError(f"{source} must be one of {', '.join(BACKENDS)}, got {name!r}")
    return name


@contextmanager
def use_backend(name: str | None) -> Iterator[None]:
    """Run every operator of this thread on one backend inside a ``with`` block.

    Args:
        name: ``"reference"``, ``"cpu"``, ``"cuda"`` or ``"triton"``; ``None`` restores the automatic choice.

    Raises:
        ValueError: there is no backend of that name. An operator that cannot run on it raises when called.

    Example:
        >>> import torch, vidops
        >>> with vidops.use_backend("reference"):
        ...     y = vidops.ops.temporal_shift(torch.randn(1, 8, 4, 7, 7))
    """
    before = _state.backend
    _state.backend = None if name is None else _known(name, "backend")
    try:
        yield
    finally:
        _state.backend = before


class Operator:
    """One operator on every backend.

    Args:
        name: its name in every folder and namespace; ``<name>_backward`` is its gradient.
        reference: the definition in plain PyTorch.
        fake: shape, dtype and strides of the result, as ``torch.library.register_fake`` wants it.
        fake_backward: the same for ``<name>_backward``.
        setup_context: saves what the gradient needs.
        backward: ``backward(ctx, kernel, *grads)`` returns the gradients; ``kernel`` is ``<name>_backward``.
        flops: multiply-adds times two of a call, from shapes, for ``FlopCounterMode``.
        flops_backward: the same for ``<name>_backward``.
        autocast: ``"lower"`` runs in autocast's dtype, ``"float32"`` in fp32, ``"keep"`` in the dtype of x.
        limits: for a backend, a function of the call's arguments that says why it cannot run, or returns ``""``.
    """

    def __init__(
        self,
        name: str,
        *,
        reference: Callable[..., Any],
        fake: Callable[..., Any],
        fake_backward: Callable[..., Any],
        setup_context: Callable[..., None],
        backward: Callable[..., Any],
        flops: Callable[..., int],
        flops_backward: Callable[..., int],
        autocast: str = "lower",
        limits: dict[str, Callable[..., str]] | None = None,
    ) -> None:
        self.name = name
        self.reference = reference
        self.autocast = autocast
        self.limits = limits or {}
        self._fakes = {name: fake, f"{name}_backward": fake_backward}
        self._flops = {name: flops, f"{name}_backward": flops_backward}
        self._setup_context = setup_context
        self._backward = backward
        self._attached: dict[str, Kernel] = {}
        # backend -> why this operator cannot run on it whatever the tensors ("" when it can)
        self.missing: dict[str, str] = {}
        self.kernels: dict[str, Kernel] = {}
        self._orders = dict(PREFERENCE)
        self._automatic: dict[str, tuple[str, ...]] = {}
        # device -> on what GPU its order was measured, where it was
        self.ordered_by: dict[str, str] = {}
        self._told: set[tuple[str, str]] = set()
        if name in OPERATORS:
            raise RuntimeError(f"operator {name} is registered twice")
        OPERATORS[name] = self
        for backend in BACKENDS.values():
            self.add_backend(backend)

    def add_backend(self, backend: Backend) -> None:
        """Take a backend's kernels for this operator, or note why there are none."""
        self.missing[backend.name] = backend.missing or self._attach(backend)
        self._list_automatic()

    def _list_automatic(self) -> None:
        self._automatic = {
            device: tuple(b for b in order if not self.missing.get(b, "unknown"))
            for device, order in self._orders.items()
        }

    def order(self, device: str) -> tuple[str, ...]:
        """The backends that an automatic choice tries for tensors on a device, the first one first."""
        return self._orders.get(device, ("reference",))

    def prefer(self, device: str, order: Sequence[str] | None, by: str = "") -> None:
        """Have an automatic choice try backends in another order.

        Args:
            device: type of the device of the tensors.
            order: backends of the built-in order but the reference, which stays the last; None for that order itself.
            by: on what GPU it was measured.

        Raises:
            ValueError: it is no order of these backends.
        """
        built_in = PREFERENCE[device]
        if order is not None and sorted(order) != sorted(built_in[:-1]):
            names = ", ".join(built_in[:-1])
            raise ValueError(f"{self.name}: {', '.join(order)} is no order of {names}")
        self._orders[device] = built_in if order is None else (*order, built_in[-1])
        self.ordered_by.pop(device, None)
        if order is not None:
            self.ordered_by[device] = by
        self._list_automatic()

    def _attach(self, backend: Backend) -> str:
        if backend.namespace is None:
            return ""
        if backend.module is not None:
            module = f"{backend.module}.{self.name}"
            try:
                importlib.import_module(module)
            except ModuleNotFoundError as error:
                if error.name not in (module, backend.module):
                    raise
                return f"{module} does not exist"
        name = f"{backend.namespace}::{self.name}"
        for op in (name, f"{name}_backward"):
            if not torch._C._dispatch_has_kernel(op):
                return f"{op} is not registered"
            if backend.key and not torch._C._dispatch_has_kernel_for_dispatch_key(op, backend.key):
                return f"{op} has no {backend.key} kernel"
        if backend.namespace not in self._attached:
            self._attached[backend.namespace] = self._register(backend.namespace)
        self.kernels[backend.name] = self._attached[backend.namespace]
        return ""

    def _register(self, namespace: str) -> Kernel:
        for op, fake in self._fakes.items():
            torch.library.register_fake(f"{namespace}::{op}", fake, allow_override=True)

        def twice(ctx: Any, *grads: Any) -> Any:
            raise RuntimeError(
                f'{self.name} has no double backward on this backend; use backend="reference" for it'
            )

        gradient = Kernel(f"{namespace}::{self.name}_backward", no_context, twice)
        rule = self._backward

        def backward(ctx: Any, *grads: Any) -> Any:
            return rule(ctx, gradient, *grads)

        kernel = Kernel(f"{namespace}::{self.name}", self._setup_context, backward)
        self._register_flops(namespace)
        return kernel

    def _register_flops(self, namespace: str) -> None:
        from torch.utils.flop_counter import flop_registry, register_flop_formula

        for op, formula in self._flops.items():
            packet = getattr(getattr(torch.ops, namespace), op)
            if packet not in flop_registry:
                register_flop_formula(packet)(formula)

    def why_not(self, backend: str, device: str, *args: Any) -> str:
        """Why a call on ``device`` cannot run on ``backend``, or ``""``; without arguments, why no call can."""
        reason = self.missing[backend]
        if reason:
            return reason
        devices = BACKENDS[backend].devices
        if devices and device not in devices:
            return f"x is on {device}; it takes tensors on {' or '.join(devices)}"
        limit = self.limits.get(backend)
        return limit(*args) if limit and args else ""

    @staticmethod
    def automatic(requested: str | None) -> bool:
        """Whether nobody has named a backend: no argument, ``use_backend`` or ``VIDOPS_BACKEND``."""
        return requested is None and _state.backend is None and _environment is None

    def choose(self, requested: str | Question | None, device: str, *args: Any) -> str:
        """Name the backend for a call: argument, then ``use_backend``, then ``VIDOPS_BACKEND``, then automatic.

        Raises:
            ValueError: the requested backend does not exist.
            RuntimeError: the requested backend cannot run this call; the text says why.
        """
        source = "backend"
        if requested is None:
            requested = _state.backend
            if requested is None and _environment is not None:
                requested, source = _environment, "VIDOPS_BACKEND"
        if requested is not None:
            if isinstance(requested, Question):
                requested.take(self, device, args)
            reason = self.why_not(_known(requested, source), device, *args)
            if reason:
                raise RuntimeError(f"{self.name} cannot run on backend {requested!r}: {reason}")
            return requested
        order = self._orders.get(device, ("reference",))
        able = self._automatic.get(device, ("reference",))
        for name in able:
            limit = self.limits.get(name)
            if limit is None or not limit(*args):
                break
        if name != order[0] and (device, name) not in self._told and not torch.compiler.is_compiling():
            self._tell(name, device, order, args)
        return name

    def _tell(self, name: str, device: str, order: tuple[str, ...], args: tuple[Any, ...]) -> None:
        self._told.add((device, name))
        reasons = "; ".join(f"{b}: {self.why_not(b, device, *args)}" for b in order[: order.index(name)])
        _log.warning("%s falls back to backend %r for %s tensors (%s)", self.name, name, device, reasons)

    def cast(self, device: str, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
        """The tensors as autocast wants them for this operator; unchanged outside autocast and for fp64."""
        if self.autocast == "keep" or device == "meta" or not torch.is_autocast_enabled(device):
            return tensors
        dtype = torch.get_autocast_dtype(device) if self.autocast == "lower" else torch.float32
        return tuple(
            t.to(dtype) if isinstance(t, Tensor) and t.is_floating_point() and t.dtype != torch.float64 else t
            for t in tensors
        )


class Question:
    """What :func:`vidops.explain` puts in a backend's place: an operator that comes to its choice answers and stops.

    So every check of a call's arguments is the operator's own, and nothing is computed.
    """

    def __init__(self) -> None:
        self.answer: tuple[Operator, str, tuple[Any, ...]] | None = None

    def take(self, operator: Operator, device: str, args: tuple[Any, ...]) -> NoReturn:
        """Take the operator, its device and what its limits are asked with; the call ends here."""
        self.answer = operator, device, args
        raise Answered


class Answered(BaseException):  # no Exception: handlers of errors let it pass
    """The end of a call that was only asked about."""


def ask(call: Callable[[], Any]) -> tuple[Operator, str, tuple[Any, ...]] | None:
    """Run a public function up to its choice of a backend; None where it makes none."""
    question, before = Question(), _state.backend
    _state.backend = question
    try:
        with torch.no_grad():
            call()
    except Answered:
        pass
    finally:
        _state.backend = before
    return question.answer


def forced() -> str:
    """Who has named a backend for all calls of this thread, or nothing."""
    if _state.backend is not None:
        return "vidops.use_backend"
    return "VIDOPS_BACKEND" if _environment is not None else ""
