"""Whole networks in the harness: the same weights on vidops' kernels and on the reference, and what both must equal.

What is timed is what users run. Inference: evaluation mode, in 16 bits with converted weights. Training: forward, loss
(the networks' own losses with it) and gradients of all parameters, in 16 bits under autocast with fp32 weights, as
``precision: bf16`` of `vidops.training` does; no optimizer, whose time depends on the parameters alone. Dropout is off.

A batch is a few distinct clips again and again. Its batch statistics, mean loss and gradients are those of the distinct
ones, so that the results of a batch that fills a GPU are held against fp64 of a few clips.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..layers import channels_last
from ..models import create_model, model_card
from .case import Workload, in_layout
from .check import Verdict

__all__ = ["NetworkData", "awake", "compare_networks", "graphed"]

Results = dict[str, Tensor]
Step = Callable[[], Any]

# A kernel's rule is twice the reference's largest error. A network's error is what the roundings of all its layers
# became on their way through it: of fused and reference two draws of one distribution. Here the error of a tensor is
# that of its norm, which no single element makes. In 16 bits every layer's rounding counts: three times the reference's
# is allowed, 1.6 times was seen. In fp32 few ReLUs that flip make most of it, for all gradients at once (DAN on X3D:
# 0.6 to 2.7 times in the median, as weights are drawn, where fp64 agrees to 3e-13); `same_function` is the sharp check.
SLACK, SLACK_FP32 = 3.0, 8.0
# What fp64's 1e-16 may become on its way through a network; the ones seen stay below 1e-11.
SAME = 1e-6
# Inductor fuses and reorders more than a kernel of ours; leaving it out for that would flatter ours.
COMPILED_SLACK = 12.0
LOGITS = "logits"
_ZERO = (
    1e-9  # a gradient of less than this share of the usual one is none, as that of a bias before a batch norm
)


class NetworkData:
    """One network, clip and dtype: its weights, its batch, and what the reference makes of them.

    Args:
        workload: ``params`` holds ``network``, a name of `vidops.list_models`; ``clip``, (N, C, T, H, W); ``distinct``,
            how many of the N clips differ, and ``boxes`` of a clip, for networks that take them. The first of its
            layouts is that of clip and weights.
        dtype: what is timed: ``torch.float32``, or a 16-bit one, see above.

    Example:
        >>> size = Workload("tiny", "cpu", {"network": "tiny_tsn", "clip": (2, 3, 8, 32, 32), "distinct": 1})
        >>> data = NetworkData(size, torch.float32)
        >>> data.judge(data.results(data.network(None, "training"), "training"), "training").reason
        ''
    """

    def __init__(self, workload: Workload, dtype: torch.dtype) -> None:
        self.workload, self.dtype = workload, dtype
        self.device, self.layout = workload.device, workload.layouts[0]
        params = workload.params
        self.card = model_card(params["network"])
        self.clip: tuple[int, ...] = params["clip"]
        self.distinct = params.get("distinct", self.clip[0])
        if self.clip[0] % self.distinct:
            raise ValueError(f"{self.distinct} distinct clips do not fill a batch of {self.clip[0]}")
        self._nets: dict[tuple[Any, ...], nn.Module] = {}
        self._truth: dict[tuple[str, torch.dtype], Results] = {}
        self._same: dict[str, Results] = {}
        self._few = self._draw(params.get("boxes", 4))
        self._state = self._weights()

    def _draw(self, boxes: int) -> dict[str, Tensor]:
        """The distinct clips, their labels, and boxes where the network takes them."""
        generator = torch.Generator().manual_seed(11)
        n, height, width = self.distinct, self.clip[3], self.clip[4]
        classes = self.card.num_classes
        drawn = {"clip": torch.randn(n, *self.clip[1:], generator=generator)}
        if self.card.detects:
            corners = torch.rand(n * boxes, 2, generator=generator) * torch.tensor([width, height]) / 2
            sides = (0.2 + 0.3 * torch.rand(n * boxes, 2, generator=generator)) * torch.tensor(
                [width, height]
            )
            index = torch.arange(n).repeat_interleave(boxes)[:, None]
            drawn["boxes"] = torch.cat([index, corners, corners + sides], 1)
            drawn["labels"] = torch.rand(n * boxes, classes, generator=generator).lt(0.1).float()
        else:
            drawn["labels"] = torch.randint(classes, (n,), generator=generator)
        return {name: tensor.to(self.device) for name, tensor in drawn.items()}

    def _weights(self) -> dict[str, Tensor]:
        """Weights all of whose branches count, and batch norms that know these clips' statistics."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(11)
            net = awake(self._create("reference")).train().to(self.device)
        momenta = {m: m.momentum for m in net.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
        for norm in momenta:
            norm.momentum = 1.0
        batch = self._batch(torch.float32, self.distinct)
        with torch.no_grad():
            net(*self._inputs(batch))
        for norm, momentum in momenta.items():
            norm.momentum = momentum
        return {name: tensor.clone() for name, tensor in net.state_dict().items()}

    def _create(self, backend: str | None) -> nn.Module:
        segments = self.clip[2] // self.card.frames_per_segment
        net = create_model(self.card.name, num_segments=segments, backend=backend)
        for module in net.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        return net

    def _inputs(self, batch: dict[str, Tensor]) -> tuple[Tensor, ...]:
        return (batch["clip"], batch["boxes"]) if self.card.detects else (batch["clip"],)

    def _batch(
        self, dtype: torch.dtype, clips: int, rounded: torch.dtype = torch.float32
    ) -> dict[str, Tensor]:
        """The distinct clips repeated to that many, rounded, in the workload's layout."""
        turns = clips // self.distinct
        few, rows = self._few, len(self._few["labels"])
        clip = in_layout(few["clip"].to(rounded).repeat(turns, 1, 1, 1, 1).to(dtype), self.layout)
        batch = {"clip": clip, "labels": torch.cat([few["labels"]] * turns)}
        if "boxes" in few:
            boxes = few["boxes"].repeat(turns, 1)
            boxes[:, 0] += self.distinct * torch.arange(turns, device=boxes.device).repeat_interleave(rows)
            batch["boxes"] = boxes.to(torch.promote_types(dtype, torch.float32))
        return batch

    def _low(self) -> bool:
        return self.dtype in (torch.float16, torch.bfloat16)

    def weight_dtype(self, direction: str) -> torch.dtype:
        """Dtype of weights and clip: converted for inference, fp32 for training under autocast."""
        return torch.float32 if direction == "training" and self._low() else self.dtype

    def network(self, backend: str | None, direction: str, dtype: torch.dtype | None = None) -> nn.Module:
        """A network with this workload's weights as they were at the start, in the mode of the direction.

        Args:
            backend: of its operators; None for the automatic choice.
            direction: ``"inference"`` or ``"training"``.
            dtype: of the weights; None for that of what is timed.

        Returns:
            The network; the same object for the same arguments, its weights set back.
        """
        dtype = self.weight_dtype(direction) if dtype is None else dtype
        key = backend, dtype
        if key not in self._nets:
            net = self._create(backend).to(self.device, dtype)
            self._nets[key] = channels_last(net) if self.layout == "NTHWC" else net
        net = self._nets[key]
        net.load_state_dict(self._state)
        net.zero_grad(set_to_none=True)
        return net.train(direction == "training")

    def step(
        self,
        net: nn.Module,
        direction: str,
        *,
        clips: int | None = None,
        rounded: torch.dtype = torch.float32,
    ) -> Step:
        """What is timed: logits of the batch, or the loss and its gradients.

        Args:
            net: one of `network`, or what `torch.compile` makes of it.
            direction: ``"inference"`` or ``"training"``.
            clips: of the batch; None for the workload's.
            rounded: dtype that the clips are rounded to before they come to that of the weights.

        Returns:
            A function that returns the logits. After training the gradients are those of the parameters.
        """
        dtype = next(net.parameters()).dtype
        batch = self._batch(dtype, self.clip[0] if clips is None else clips, rounded)
        inputs = self._inputs(batch)
        if direction == "inference":
            return lambda: net(*inputs)
        parameters = list(net.parameters())
        own = bool(getattr(net, "own_losses", ()))
        low = self._low() and dtype == torch.float32
        lowered = torch.autocast(self.device, self.dtype if low else None, enabled=low)

        def step() -> Tensor:
            for parameter in parameters:
                parameter.grad = None
            with lowered:
                logits, losses = net(*inputs, return_losses=True) if own else (net(*inputs), {})
            loss = self._loss(logits, batch["labels"])
            for more in losses.values():
                loss = loss + more
            loss.backward()
            return logits

        return step

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.card.detects:
            return F.binary_cross_entropy_with_logits(wide, labels.to(wide.dtype))
        return F.cross_entropy(wide, labels)

    def results(self, net: nn.Module, direction: str, step: Step | None = None) -> Results:
        """Run a step and return its logits, and in training the gradients by their parameters' names.

        Args:
            net: as for `step`.
            direction: likewise.
            step: one of `step`; None for the usual one.
        """
        step = self.step(net, direction) if step is None else step
        with torch.inference_mode(direction == "inference"):
            found = {LOGITS: step().detach().clone()}
        if direction == "training":
            for name, parameter in net.named_parameters():
                if parameter.grad is not None:
                    found[name.removeprefix("_orig_mod.")] = parameter.grad.detach().clone()
        return found

    def truth(self, direction: str, dtype: torch.dtype | None = None) -> Results:
        """What the reference makes in fp64 of the distinct clips, with weights and clip rounded to ``dtype``."""
        dtype = self.weight_dtype(direction) if dtype is None else dtype
        key = direction, dtype
        if key not in self._truth:
            net = self._create("reference").to(self.device)
            net.load_state_dict(self._state)
            net = net.to(dtype).double().train(direction == "training")
            step = self.step(net, direction, clips=self.distinct, rounded=dtype)
            with every_core(self.device):
                self._truth[key] = self.results(net, direction, step)
        return self._truth[key]

    def judge(self, ours: Results, direction: str, slack: float | None = None) -> Verdict:
        """Hold results of the workload's batch in what is timed against fp64 and the reference's own error.

        Args:
            ours: of `results`.
            direction: ``"inference"`` or ``"training"``.
            slack: how many times the reference's error is allowed; None for what is usual in the dtype.

        Returns:
            The verdict on what is worst in terms of what is allowed.
        """
        if direction not in self._same:
            net = self.network("reference", direction)
            self._same[direction] = self.results(net, direction)
        turns = self.clip[0] // self.distinct
        exact = dict(self.truth(direction))
        exact[LOGITS] = exact[LOGITS].repeat(turns, 1)
        slack = (SLACK if self._low() else SLACK_FP32) if slack is None else slack
        return compare_networks(ours, self._same[direction], exact, slack, torch.finfo(self.dtype).eps)

    def same_function(self, backend: str | None, direction: str) -> Verdict:
        """Hold a network in fp64 on the distinct clips against the reference, where a wrong gradient cannot hide.

        In 16 bits gradients are off by a fifth and more at the end of a network: what is right there may be wrong.

        Args:
            backend: of the network's operators.
            direction: ``"inference"`` or ``"training"``.
        """
        exact = self.truth(direction, torch.float32)
        net = self.network(backend, direction, torch.float64)
        with every_core(self.device):
            found = self.results(net, direction, self.step(net, direction, clips=self.distinct))
        del self._nets[backend, torch.float64]
        return compare_networks(found, exact, exact, 1.0, SAME)


def compare_networks(ours: Results, same: Results, exact: Results, slack: float, unit: float) -> Verdict:
    """Hold a network's logits and gradients against fp64, each as a whole.

    A tensor's error is the norm of its difference from fp64 over the norm in fp64. A gradient that is zero in fp64 is
    set against the usual gradient. ``slack`` times the error of the reference is allowed, that of the tensor or the
    one that nine in ten of its gradients keep to, whichever is more, and ``unit``: where gradients cancel, as of a
    batch norm's weight before another batch norm, the reference is less off in one tensor than in the next by luck.

    Args:
        ours: results by name.
        same: of the reference in the same dtypes.
        exact: of the reference in fp64.
        slack: how many times the reference's error is allowed.
        unit: one unit in the last place of what is computed with.

    Returns:
        The verdict on the tensor that is worst in terms of what is allowed.

    Example:
        >>> one = {"logits": torch.ones(2, 2)}
        >>> compare_networks(one, one, {"logits": torch.ones(2, 2).double()}, 3, 1e-7).reason
        ''
    """
    if ours.keys() != exact.keys():
        missing = ", ".join(sorted(ours.keys() ^ exact.keys())[:3])
        return Verdict(float("inf"), 0.0, f"gradients of other parameters than the reference's: {missing}")
    norms = {name: float(tensor.norm()) for name, tensor in exact.items()}
    gradients = [norm for name, norm in norms.items() if name != LOGITS]
    usual = _quantile(gradients, 0.5)
    scales = {n: v if v > _ZERO * usual else usual for n, v in norms.items()}
    errors = {name: _off(same[name], exact[name], scales[name]) for name in exact}
    typical = _quantile([error for name, error in errors.items() if name != LOGITS], 0.9)
    worst, share = Verdict(0.0, 0.0), -1.0
    for name, true in exact.items():
        result = ours[name]
        what = name if name == LOGITS else f"gradient of {name}"
        if result.shape != true.shape or result.dtype != same[name].dtype:
            given, wanted = f"{tuple(result.shape)} {result.dtype}", f"{tuple(true.shape)} {same[name].dtype}"
            return Verdict(float("inf"), 0.0, f"{what} is {given}, not {wanted}")
        error = _off(result, true, scales[name])
        allowed = slack * (errors[name] if name == LOGITS else max(errors[name], typical)) + unit
        if not error <= allowed:  # also where it is no number
            return Verdict(error, allowed, f"{what} is off by {error:.2e}, {allowed:.2e} is allowed")
        if error / allowed > share:
            worst, share = Verdict(error, allowed), error / allowed
    return worst


def _off(result: Tensor, true: Tensor, scale: float) -> float:
    return float((result.double() - true).norm()) / (scale or 1.0)


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * len(values))] if values else 0.0


def awake(net: nn.Module) -> nn.Module:
    """Raise what starts at zero, batch norms and weights, so that all branches of a new network count.

    Args:
        net: changed in place.

    Returns:
        The network.

    Example:
        >>> norm = nn.BatchNorm2d(2)
        >>> _ = nn.init.zeros_(norm.weight)
        >>> awake(norm).weight.sum().item()
        2.0
    """
    for module in net.modules():
        if not isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
            continue
        if not module.weight.any():
            nn.init.ones_(module.weight)
        # Of one clip in training the mean behind a batch norm is its bias: with zeros a squeeze-excitation's ReLU would
        # stand on its kink, and rounding alone would decide its gradient.
        if not module.bias.any():
            nn.init.normal_(module.bias, std=0.1)
    for parameter in net.parameters():
        if parameter.ndim != 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return net


def graphed(step: Step, pool: Any = None) -> Step:
    """Capture a step in a CUDA graph.

    Args:
        step: reads and writes the same tensors at every call, and does not synchronise.
        pool: of memory (``torch.cuda.graph_pool_handle()``), shared with graphs whose results nobody reads once
            another one has been replayed; None for one of its own.

    Returns:
        A function that replays it and returns what the captured call returned, whose memory each replay fills anew.

    Raises:
        RuntimeError: the step cannot be captured.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):  # Triton compiles, cuDNN chooses, workspaces come
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        result = step()

    def replay() -> Any:
        graph.replay()
        return result

    return replay


@contextlib.contextmanager
def every_core(device: str) -> Iterator[None]:
    """Give the CPU's truth all threads there are."""
    before = torch.get_num_threads()
    if device == "cpu":
        torch.set_num_threads(max(before, torch.get_num_interop_threads()))
    try:
        yield
    finally:
        torch.set_num_threads(before)
