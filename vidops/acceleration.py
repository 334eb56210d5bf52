"""Fused operators in networks that know nothing of vidops: modules are exchanged in place, and back.

A module is exchanged by giving it another class: the object, its parameters, buffers, hooks and mode stay, and so
do optimizers, state-dict keys, and modules that stand at several places.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.fx
from torch import Tensor, nn
from torch.nn.utils import parametrize

from . import ops, reference
from .layers import DepthwiseConv3d
from .layers.fold_time import as_clips, as_frames
from .ops.backends import BACKENDS, PREFERENCE
from .ops.checks import FLOATS
from .ops.depthwise_conv3d import MAX_KERNEL

__all__ = ["AccelerationReport", "Entry", "accelerate", "restore"]

# In an exchanged module's __dict__: its class now; its class before; attributes that had other values; those that
# it had not.
BEFORE = "_vidops_before"
DENSE = "not depthwise: one group"


@dataclass(frozen=True)
class Entry:
    """One module that `accelerate` looked at.

    Args:
        name: where it stands, as in ``named_modules``; "" is the model itself.
        module: the module.
        was: what it was.
        now: what it is now; None where it was left alone.
        reason: why it was left alone; "" where it was not.
        also: further places where the same module stands.
    """

    name: str
    module: nn.Module = field(repr=False)
    was: str
    now: str | None = None
    reason: str = ""
    also: tuple[str, ...] = ()


class AccelerationReport:
    """What `accelerate` did; printed, it is a table.

    Args:
        entries: one a module that was looked at, in the network's order.
        notes: what else is to be known.
    """

    def __init__(self, entries: list[Entry], notes: list[str]) -> None:
        self.entries = entries
        self.notes = notes

    @property
    def swapped(self) -> list[Entry]:
        """The modules that were exchanged."""
        return [entry for entry in self.entries if entry.now is not None]

    @property
    def skipped(self) -> list[Entry]:
        """The modules that were left alone."""
        return [entry for entry in self.entries if entry.now is None]

    def undo(self) -> None:
        """Make the modules that this call exchanged what they were; a second time it does nothing.

        Raises:
            RuntimeError: something else has changed a module's class since; none is changed then.
        """
        undo((entry.name, entry.module) for entry in self.swapped)

    def __str__(self) -> str:
        """Make the table."""
        lines = [("module", "was", "now")]
        for entry in self.entries:
            where = ", ".join(name or "(the model)" for name in (entry.name, *entry.also))
            if entry.reason != DENSE:
                lines.append((where, entry.was, entry.now or f"left alone: {entry.reason}"))
        dense = sum(entry.reason == DENSE for entry in self.entries)
        if dense:
            lines.append((f"{dense} more", "Conv3d", f"left alone: {DENSE}"))
        widths = [max(len(line[i]) for line in lines) for i in range(2)]
        table = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in lines]
        count = f"{len(self.swapped)} exchanged, {len(self.skipped)} left alone"
        return "\n".join([*table, count, *self.notes])


@dataclass(frozen=True)
class Exchange:
    """What makes a module the fast one: another class, and attributes of it."""

    to: type[nn.Module]
    attributes: dict[str, Any]


def accelerate(model: nn.Module, *, backend: str | None = None) -> AccelerationReport:
    """Exchange the modules of a network, in place, for vidops' fused ones of the same function.

    Exchanged are depthwise ``nn.Conv3d`` of odd kernel sizes up to 9, temporal (k, 1, 1) ones among them, for
    `vidops.layers.DepthwiseConv3d`; the shift modules of TSM's release, where trying a copy shows that they do what
    `vidops.ops.temporal_shift` does (what else they do, counting for example, rests until `restore`); and layers of
    vidops that were built with ``backend="reference"``. Each stays the same object with the same parameters under the
    same names: optimizers, hooks, checkpoints and modules that stand at several places keep working. Convolutions that
    a ``forward`` calls as functions are not seen.

    What compiled kernels do not have (double backward, torch.func) is gone until `restore`, and so is
    ``torch.jit.script``, which cannot read the operators. ``torch.jit.trace``, ``torch.compile`` and ``torch.fx`` go
    on, in torch.fx with one function call where a convolution was a leaf module.

    Args:
        model: any network; it is changed.
        backend: backend of the exchanged modules, not ``"reference"``; None leaves the choice to vidops, call by
            call.

    Returns:
        The report: what was exchanged for what, and what was left alone and why. ``print`` shows it as a table;
        ``report.undo()`` takes this call back, `restore` all of them.

    Raises:
        TypeError: ``model`` is no module, is scripted, or is compiled (accelerate it, then compile it).
        ValueError: there is no such backend.
        RuntimeError: the backend cannot run here; the text says why.

    Example:
        >>> net = nn.Sequential(nn.Conv3d(8, 8, 3, padding=1, groups=8), nn.ReLU())
        >>> accelerate(net).swapped[0].now
        'DepthwiseConv3d'
    """
    check_backend(backend)
    places: dict[nn.Module, list[str]] = {}
    for name, module in visible(model):
        places.setdefault(module, []).append(name)
    check_model(model, places)
    # Every verdict before the first exchange: a failure changes nothing.
    verdicts = {module: verdict for module in places if (verdict := judge(module)) is not None}
    entries = []
    for module, verdict in verdicts.items():
        name, *also = places[module]
        was, now, reason = describe(module), None, ""
        if isinstance(verdict, Exchange):
            exchange(module, verdict, backend)
            now = f"{verdict.to.__name__}{f' on {backend}' if backend else ''}"
        else:
            reason = verdict
        entries.append(Entry(name, module, was, now, reason, tuple(also)))
    return AccelerationReport(entries, notes_on(model, backend))


def restore(model: nn.Module) -> list[str]:
    """Make every module of a network that `accelerate` exchanged what it was, also in a copy of the network.

    Args:
        model: the network; it is changed.

    Returns:
        The names of the modules that were changed back.

    Raises:
        RuntimeError: something else has changed a module's class since; none is changed then.

    Example:
        >>> net = nn.Sequential(nn.Conv3d(8, 8, 3, padding=1, groups=8), nn.ReLU())
        >>> report = accelerate(net)
        >>> restore(net), type(net[0]).__name__
        (['0'], 'Conv3d')
    """
    return undo(model.named_modules())


def exchange(module: nn.Module, verdict: Exchange, backend: str | None) -> None:
    """Give a module another class, and write down what it was."""
    attributes = {**verdict.attributes, "backend": backend}
    old = {name: module.__dict__[name] for name in attributes if name in module.__dict__}
    new = [name for name in attributes if name not in module.__dict__]
    was = type(module)
    module.__class__ = verdict.to
    module.__dict__.update({**attributes, BEFORE: (verdict.to, was, old, new)})


def undo(modules: Iterable[tuple[str, nn.Module]]) -> list[str]:
    """Change modules back that `exchange` changed; return their names."""
    changed = [(name, module) for name, module in modules if BEFORE in module.__dict__]
    for name, module in changed:
        now = module.__dict__[BEFORE][0]
        if type(module) is not now:
            raise RuntimeError(
                f"{name or 'the model'} was exchanged for {now.__name__} and is {type(module).__name__} now:"
                " take back what changed it since (parametrizations, for example) first"
            )
    for _, module in changed:
        _, was, old, new = module.__dict__.pop(BEFORE)
        module.__class__ = was
        module.__dict__.update(old)
        for name in new:
            del module.__dict__[name]
    return [name for name, _ in changed]


def visible(module: nn.Module, name: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Go through the modules with each of their places, those inside scripted ones left out."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"model must be an nn.Module, got {type(module).__name__}")
    yield name, module
    if not isinstance(module, torch.jit.ScriptModule):
        for key, child in module._modules.items():
            if child is not None:
                yield from visible(child, f"{name}.{key}" if name else key)


def check_model(model: nn.Module, places: dict[nn.Module, list[str]]) -> None:
    """Refuse a network whose code is fixed already."""
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError(
            "model is scripted, its code is fixed: accelerate what it was made of, and use torch.jit.trace or"
            " torch.compile on that"
        )
    for module, names in places.items():
        # Named, not imported: torch._dynamo takes a second to import.
        if type(module).__name__ == "OptimizedModule" or module._compiled_call_impl is not None:
            raise TypeError(
                f"{names[0] or 'model'} is compiled: accelerate it before torch.compile"
                " (what was compiled is its _orig_mod)"
            )


def check_backend(backend: str | None) -> None:
    """Refuse a backend that does not exist or cannot run."""
    if backend is None:
        return
    fast = [name for name in BACKENDS if name != "reference"]
    if backend not in fast:
        raise ValueError(f"backend must be one of {', '.join(fast)}, got {backend!r}")
    if BACKENDS[backend].missing:
        raise RuntimeError(f"backend {backend!r} cannot run here: {BACKENDS[backend].missing}")


def notes_on(model: nn.Module, backend: str | None) -> list[str]:
    """Say for which of a network's devices there is nothing faster."""
    notes = []
    for device in sorted({parameter.device.type for parameter in model.parameters()}):
        fast = [name for name in PREFERENCE.get(device, ()) if name != "reference"]
        if backend is None and fast and all(BACKENDS[name].missing for name in fast):
            reasons = "; ".join(f"{name}: {BACKENDS[name].missing}" for name in fast)
            notes.append(f"nothing gets faster on {device} here ({reasons})")
    return notes


def describe(module: nn.Module) -> str:
    """Say what a module is, in a few words."""
    text = type(module).__name__
    if isinstance(module, nn.Conv3d) and not isinstance(module, nn.LazyConv3d):
        text += f" {'x'.join(map(str, module.kernel_size))}, {module.out_channels} channels"
    return f"{text} on reference" if getattr(module, "backend", None) == "reference" else text


def judge(module: nn.Module) -> Exchange | str | None:
    """Say what to exchange a module for, or why it stays; None where it is nothing that vidops knows."""
    if BEFORE in module.__dict__:
        return "accelerated already"
    if any(base.__module__.startswith("vidops.layers.") for base in type(module).__mro__):
        return Exchange(type(module), {}) if getattr(module, "backend", None) == "reference" else None
    if isinstance(module, nn.Conv3d):
        return of_class(module, nn.Conv3d) or of_convolution(module)
    if type(module).__name__ == "TemporalShift":
        return of_shift(module)
    if isinstance(module, torch.jit.ScriptModule):
        return "scripted, its code is fixed: accelerate what it was made of"
    return None


def of_class(module: nn.Module, plain: type[nn.Module]) -> str:
    """Say why a module is not to be taken for a plain one of its kind; "" where it is."""
    if "forward" in module.__dict__ or "_conv_forward" in module.__dict__:
        return "its forward was replaced"
    if isinstance(module, nn.LazyConv3d):
        return "it has no weights yet: run a clip first"
    if parametrize.is_parametrized(module):
        return "it is parametrized: accelerate first, then parametrize"
    kind = type(module)
    if kind is plain:
        return ""
    own = any(
        name in base.__dict__ for base in kind.__mro__[: kind.__mro__.index(plain)] for name in FORWARDS
    )
    return f"a class of its own{', with its own forward' if own else ''}"


FORWARDS = ("forward", "_conv_forward", "__call__")


def of_convolution(conv: nn.Conv3d) -> Exchange | str:
    """Judge a plain convolution."""
    sizes = "x".join(map(str, conv.kernel_size))
    if conv.groups != conv.in_channels:
        if conv.groups == 1:
            return DENSE
        return f"not depthwise: {conv.groups} groups of {conv.in_channels // conv.groups} channels"
    if conv.out_channels != conv.in_channels:
        return f"{conv.out_channels // conv.in_channels} outputs a channel, the operator has one"
    if any(k % 2 == 0 or k > MAX_KERNEL for k in conv.kernel_size):
        return f"kernel {sizes}, the operator takes odd sizes up to {MAX_KERNEL}"
    if conv.padding_mode != "zeros":
        return f"padding_mode {conv.padding_mode!r}, the operator pads with zeros"
    if conv.weight.dtype not in FLOATS:
        return f"weights of {conv.weight.dtype}, the operator takes float32, float16, bfloat16 and float64"
    return Exchange(DepthwiseConv3d, {})


@torch.fx.wrap
def shifted(x: Tensor, segments: int, fold_div: int, backend: str | None) -> Tensor:
    """Shift the frames ``(N*T, C, H, W)`` of clips along T, see `vidops.ops.temporal_shift`."""
    return as_frames(ops.temporal_shift(as_clips(x, segments), fold_div, backend=backend))


class ShiftedModule(nn.Module):
    """A module behind a temporal shift of its 2-D activations, as TSM's release has it."""

    net: nn.Module
    backend: str | None
    _names: tuple[str, str]

    def forward(self, x: Tensor) -> Tensor:
        """Shift ``(N*T, C, H, W)`` along T and apply the module."""
        segments, fold_div = self._names
        return self.net(shifted(x, getattr(self, segments), getattr(self, fold_div), self.backend))


# What TSM's release and MMAction2 call the number of segments and the divisor.
SHIFT_NAMES = (("n_segment", "fold_div"), ("num_segments", "shift_div"))


def of_shift(module: nn.Module) -> Exchange | str:
    """Judge a module that is called TemporalShift: by its attributes' names, then by what it does."""
    if "forward" in module.__dict__:
        return "its forward was replaced"
    for names in SHIFT_NAMES:
        segments, fold_div = (getattr(module, name, None) for name in names)
        if isinstance(segments, int) and isinstance(fold_div, int) and "net" in module._modules:
            break
    else:
        return "named as TSM's, but without its attributes"
    try:
        same = shifts_alike(module, segments, fold_div)
    except Exception as error:  # it is somebody else's code that runs
        return f"named as TSM's, but trying it failed: {type(error).__name__}: {error}"
    return Exchange(ShiftedModule, {"_names": names}) if same else "named as TSM's, but shifts otherwise"


def shifts_alike(module: nn.Module, segments: int, fold_div: int) -> bool:
    """Try a shift module on numbered activations, with nothing behind it, in both modes."""
    copy.copy(module).__class__ = ShiftedModule  # an error where Python cannot exchange the two classes
    probe = copy.deepcopy(module, {id(module.net): nn.Identity()})  # what it counts, it counts there
    for training in (False, True):
        probe.__dict__["training"] = training
        for channels in (2 * fold_div + 3, fold_div - 1):
            x = torch.arange(2.0 * segments * channels * 6).view(2 * segments, channels, 2, 3)
            expected = as_frames(reference.temporal_shift(as_clips(x, segments), fold_div))
            given = x.clone()
            with torch.no_grad():
                y = probe.forward(given)
            if not torch.equal(y, expected) or not torch.equal(given, x):
                return False
    return True
