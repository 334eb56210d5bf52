"""Weights from a file into a model: checked whole, then loaded whole."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._extras import require
from ..layers import FoldTime
from ..layers.placement import OnClips, inserted_keys

PARTS = ("all", "features", "backbone")
CONTAINERS = ("state_dict", "model", "model_state")
PREFIXES = ("module.", "model.", "base_model.", "_orig_mod.")
# TSM's release wraps conv1 and replaces the classifier.
RENAMES = ((".conv1.net.", ".conv1."), ("new_fc.", "fc."))
SHOWN = 3


class LoadResult(NamedTuple):
    """State-dict keys that were loaded, that the file lacked, and that the model has no place for."""

    loaded: list[str]
    missing: list[str]
    unexpected: list[str]


def load_weights(
    model: nn.Module, path: str | os.PathLike[str], strict: bool = True, *, part: str = "all"
) -> LoadResult:
    """Load a model's weights from a file.

    The file is a ``.safetensors`` file, or what `torch.save` wrote of a state dict or of a checkpoint that
    holds one under ``"state_dict"``, ``"model"`` or ``"model_state"`` (PyTorchVideo's); it is read with
    ``weights_only=True``. The prefixes that DataParallel, Lightning, `torch.compile` and the releases of TSN
    and TSM put before the keys are taken off. Kernels of 2-D convolutions load into kernels flat in time (R3D's).

    Args:
        model: the network.
        path: the file.
        strict: whether both sides must have the same keys; otherwise the keys that both have are loaded and
            the others reported. A tensor of another shape is an error in either case, and so is a file that
            shares no key with the model.
        part: ``"all"``; ``"features"``: all but the classifier, to fine-tune on other classes;
            ``"backbone"``: neither the classifier nor the temporal layers inside the 2-D backbone, nor what
            stands beside it, to start from ImageNet weights; a network of several pathways takes weights of one
            for each of them. What is left out keeps its values. With these two parts, RGB weights also
            load into a network of other input channels, see `cross_modality`.

    Returns:
        The keys loaded, missing in the file, and unexpected by the model.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no weights, or weights of another network; the text names the file and the
            first keys. The model is as it was.
        ImportError: the file is a safetensors file and safetensors is not installed.

    Example:
        >>> import tempfile, vidops
        >>> net, path = vidops.models.create_model("tiny_tsn"), tempfile.mkdtemp() + "/tiny.pt"
        >>> torch.save(net.state_dict(), path)
        >>> load_weights(net, path).missing
        []
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    return load_state(model, read_weights(path), path, strict, part=part)


def load_state(
    model: nn.Module,
    state: Mapping[str, Tensor],
    path: str | os.PathLike[str],
    strict: bool = True,
    *,
    part: str = "all",
    advise: bool = True,
) -> LoadResult:
    """Load a state dict that has been read from a file, as :func:`load_weights` does.

    Args:
        model: the network.
        state: tensors by key, as they stand in the file.
        path: the file, for the error text.
        strict: as for `load_weights`.
        part: as for `load_weights`.
        advise: whether an error names the part that would load.

    Returns:
        The keys loaded, missing and unexpected.

    Raises:
        ValueError: these are weights of another network. The model is as it was.

    Example:
        >>> from torch import nn
        >>> load_state(nn.Linear(2, 2), {}, "nothing.pt")
        Traceback (most recent call last):
        ValueError: nothing.pt: not weights of this Linear: missing weight, bias
    """
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    check_tensors(state, path)
    own = model.state_dict()
    found = {model_key(key, own): value for key, value in state.items()}
    found = {key: flat_kernel(value, own[key]) if key in own else value for key, value in found.items()}
    pathways = getattr(model, "pathways", ())
    if part == "backbone" and not any(key.startswith(tuple(f"{p}." for p in pathways)) for key in found):
        found = {f"{p}.{key}": value for p in pathways for key, value in found.items()} or found
    left_out = outside(model, part)
    wanted = {key: value for key, value in own.items() if not left_out(key)}
    given = {key: value for key, value in found.items() if not left_out(key)}
    stem = f"{getattr(model, 'stem_name', None)}.weight"
    if part != "all" and stem in given and stem in wanted:
        given[stem] = cross_modality(given[stem], wanted[stem].shape[1])

    loaded = [key for key in wanted if key in given]
    # Weights older than batch norm's counter lack it; it only matters to a momentum of None.
    missing = [key for key in wanted if key not in given and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in given if key not in wanted]
    reshaped = [
        f"{key} is {tuple(given[key].shape)} there, {tuple(wanted[key].shape)} here"
        for key in loaded
        if given[key].shape != wanted[key].shape
    ]
    problems = [
        first(kind, keys) for kind, keys in (("missing", missing), ("unexpected", unexpected)) if keys
    ]
    if not strict and loaded:
        problems = []
    if reshaped:
        problems.append(first("of another shape", reshaped))
    if problems:
        text = f"{path}: not weights of this {type(model).__name__}: {'; '.join(problems)}"
        raise ValueError(text + (advice(model, part, missing, unexpected, reshaped) if advise else ""))
    model.load_state_dict({**own, **{key: given[key] for key in loaded}})
    return LoadResult(loaded, missing, unexpected)


def flat_kernel(weight: Tensor, own: Tensor) -> Tensor:
    """Give the weight of a 2-D convolution an axis of time where the network's own kernel has one of length 1.

    Args:
        weight: of the file, (out, in, h, w).
        own: of the network, (out, in, 1, h, w).

    Returns:
        The weight, as a kernel flat in time, which computes the same; any other weight itself.

    Example:
        >>> flat_kernel(torch.zeros(4, 2, 3, 3), torch.zeros(4, 2, 1, 3, 3)).shape
        torch.Size([4, 2, 1, 3, 3])
    """
    return weight.unsqueeze(2) if weight.ndim == 4 and own.ndim == 5 and own.shape[2] == 1 else weight


def cross_modality(weight: Tensor, in_channels: int) -> Tensor:
    """Turn the first convolution of an RGB network into that of another input: its mean over R, G and B.

    Args:
        weight: (out, C, ...), of a convolution.
        in_channels: channels of the other input, such as 10 for five stacked flow fields.

    Returns:
        (out, in_channels, ...), the mean repeated; the weight itself where C is not 3 or is in_channels
        already.

    Source: Wang et al., Temporal Segment Networks, ECCV 2016, section 3.2 (cross modality pre-training).

    Example:
        >>> cross_modality(torch.tensor([[1.0, 2.0, 6.0]]), 2)
        tensor([[3., 3.]])
    """
    if weight.ndim < 2 or weight.shape[1] != 3 or in_channels == 3:
        return weight
    repeats = [1, in_channels] + [1] * (weight.ndim - 2)
    return weight.mean(1, keepdim=True).repeat(repeats)


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the state dict of a weights file, keys as they stand there.

    Args:
        path: a ``.safetensors`` file, or one of `torch.save`.

    Returns:
        The tensors by key, on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file cannot be read, or holds anything but tensors by name.
        ImportError: the file is a safetensors file and safetensors is not installed.

    Example:
        >>> read_weights("missing.pt")
        Traceback (most recent call last):
        FileNotFoundError: missing.pt: no such weights file
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such weights file")
    content: Any
    if path.suffix == ".safetensors":
        safetensors = require("safetensors.torch", extra="weights")
        failure: type[Exception] = require("safetensors", extra="weights").SafetensorError
        try:
            content = safetensors.load_file(path)
        except failure as error:
            raise ValueError(f"{path}: not a whole safetensors file ({one_line(error)})") from error
    else:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{path}: not a weights file, or it holds objects other than tensors, which are not loaded"
            ) from error
        except Exception as error:  # torch.load answers a foreign file with any kind of exception
            raise ValueError(f"{path}: not a whole weights file ({one_line(error)})") from error
    for container in CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(container), Mapping):
            content = content[container]
            break
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"{path}: holds no state dict")
    check_tensors(content, path)
    return dict(content)


def check_tensors(state: Mapping[Any, Any], path: str | os.PathLike[str]) -> None:
    """Refuse what is no state dict of values that a network could take."""
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"{path}: holds no state dict, {key!r} is no tensor")
        if value.is_complex() or value.is_meta:
            kind = "complex" if value.is_complex() else "without values"
            raise ValueError(f"{path}: holds no weights of a network, {key!r} is {kind}")


def model_key(key: str, own: Mapping[str, Tensor]) -> str:
    """Take off prefixes that are not the model's own, and undo the renames of other releases."""
    while key not in own:
        prefix = next((p for p in PREFIXES if key.startswith(p)), None)
        if prefix is None:
            break
        key = key[len(prefix) :]
    if key not in own:
        renamed = key
        for old, new in RENAMES:
            renamed = renamed.replace(old, new)
        key = renamed if renamed in own else key
    return key


def outside(model: nn.Module, part: str) -> Callable[[str], bool]:
    """Make the test whether a key is left out of a part."""
    prefixes: list[str] = []
    if part != "all":
        classifier = getattr(model, "classifier_name", None)
        if not isinstance(classifier, str):
            raise ValueError(
                f"part={part!r} needs a model that names its classifier; {type(model).__name__} does not"
            )
        pathways = getattr(model, "pathways", ())
        names = [f"{p}.{model.get_submodule(p).classifier_name}" for p in pathways] or [classifier]
        prefixes += [f"{name}." for name in names]
    if part == "backbone":
        prefixes += [f"{name}." for name in getattr(model, "beside", ())]
        prefixes += [
            f"{name}." for name, module in model.named_modules() if isinstance(module, (FoldTime, OnClips))
        ]
    return lambda key: key.startswith(tuple(prefixes))


def first(kind: str, keys: list[str]) -> str:
    """Show the first of some keys and count the rest."""
    more = f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else ""
    return f"{kind} {', '.join(keys[:SHOWN])}{more}"


def advice(
    model: nn.Module, part: str, missing: list[str], unexpected: list[str], reshaped: list[str]
) -> str:
    """Name the part that would load, where one would."""
    classifier = f"{getattr(model, 'classifier_name', None)}."
    if (
        part == "all"
        and not missing
        and not unexpected
        and all(line.startswith(classifier) for line in reshaped)
    ):
        return "; its classes are others: part='features' leaves out the classifier"
    own = model.state_dict()
    for pathway in getattr(model, "pathways", ()):
        if part != "backbone" and unexpected and all(f"{pathway}.{key}" in own for key in unexpected):
            return "; it is of one pathway: part='backbone' loads it into each"
    inserted = inserted_keys(model)
    lacking = missing and not unexpected and not reshaped
    if lacking and all(key.startswith(inserted) for key in missing):
        return "; it has no layers behind those blocks: strict=False leaves them as they are"
    away = outside(model, "backbone") if hasattr(model, "classifier_name") else None
    if away and part != "backbone" and not unexpected and all(away(key) for key in missing + reshaped):
        return "; it has no temporal layers: part='backbone' leaves them and the classifier as they are"
    return ""


def one_line(error: Exception) -> str:
    """Give an error's first line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
