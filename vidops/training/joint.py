"""Joint training of two losses: an auxiliary one of a part of a network, and the one that the whole of it is for.

The part's parameters are shared by both losses and get ``alpha * grad l1 + (1 - alpha) * grad l2``; all others get the
unscaled gradient of l2. Where alpha comes from is the rule: a constant, a schedule, or MGDA.

How: the loss handed out is ``l2 + <alpha * (g1 - g2), shared>`` with the second term's value taken off again, g1 and g2
being the gradients of both losses for the shared parameters, computed beforehand and held constant. One ordinary
backward pass of it gives exactly the gradients above, whatever happens to it on the way: a scaler's factor, a
division by the number of accumulated batches, DDP's mean over ranks. It costs a second way back from l2 to the shared
parameters, without the gradients of the weights in between.
"""

from __future__ import annotations

import math
import numbers
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

__all__ = ["JointLoss", "ScaleSchedule", "Separate", "mgda_alpha"]


def mgda_alpha(grad1: Tensor, grad2: Tensor) -> Tensor:
    """Find the alpha in 0 ... 1 for which ``alpha * grad1 + (1 - alpha) * grad2`` is shortest.

    Args:
        grad1: gradient of the first loss, of any shape.
        grad2: gradient of the second loss, of the same shape.

    Returns:
        alpha, fp64, without dimensions, on the gradients' device; 0.5 if they are equal, NaN if one of them is
        not finite.

    Raises:
        ValueError: the shapes differ.

    Source: Huang's thesis, eq. 3.18 (Desideri's multiple-gradient descent algorithm for two losses).

    Example:
        >>> mgda_alpha(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 1.0])).item()
        0.2
    """
    if grad1.shape != grad2.shape:
        raise ValueError(
            f"grad1 and grad2 must have one shape, got {tuple(grad1.shape)} and {tuple(grad2.shape)}"
        )
    # In fp64 no square of a fp32 number over- or underflows, and gradients that nearly cancel do no harm.
    first, second = grad1.detach().double().flatten(), grad2.detach().double().flatten()
    difference = second - first
    square = difference.dot(difference)
    return torch.where(square == 0, 0.5, difference.dot(second) / square).clamp(0, 1)


@dataclass(frozen=True)
class ScaleSchedule:
    """An alpha that falls from 1 to ``lam`` over a share ``gamma`` of a run's steps, and to 0 over the rest.

    With m counted from 1 to M steps, and the logarithm's curve of eq. 3.19 as its figure 3.12 shows it:
    (1 + cos(acos(2 lam - 1) ln m / ln(gamma M))) / 2 up to gamma M, then
    lam (1 + cos(pi ln(max(m - gamma M, 1)) / ln((1 - gamma) M))) / 2.

    Args:
        steps: M, optimizer steps of the run.
        gamma: above 0, below 1, so that gamma M and (1 - gamma) M are above 1.
        lam: the thesis' lambda, at least 0, below 1.

    Raises:
        ValueError: an argument is out of range.

    Source: Huang's thesis, eq. 3.19; as printed, its base of the logarithm and gamma >= 1 do not give figure 3.12.

    Example:
        >>> schedule = ScaleSchedule(1000, gamma=0.2, lam=0.3)
        >>> [round(schedule(m), 6) for m in (1, 200, 201, 1000)]
        [1.0, 0.3, 0.3, 0.0]
    """

    steps: int
    gamma: float
    lam: float

    def __post_init__(self) -> None:
        """Check the arguments."""
        _check_steps(self.steps)
        if not 0 < self.gamma < 1:
            raise ValueError(f"gamma must be above 0 and below 1, got {self.gamma:g}")
        if not 0 <= self.lam < 1:
            raise ValueError(f"lam must be at least 0 and below 1, got {self.lam:g}")
        if min(self.gamma, 1 - self.gamma) * self.steps <= 1:
            raise ValueError(
                f"gamma must leave more than a step on both sides of gamma * {self.steps} steps, got {self.gamma:g}"
            )

    def __call__(self, step: int) -> float:
        """Return alpha at step m, counted from 1; past the run's end that of its last step."""
        if step < 1:
            raise ValueError(f"step must be at least 1, got {step}")
        step = min(step, self.steps)
        turn = self.gamma * self.steps
        if step <= turn:
            angle = math.acos(2 * self.lam - 1) * math.log(step) / math.log(turn)
            return (1 + math.cos(angle)) / 2
        angle = math.pi * math.log(max(step - turn, 1)) / math.log(self.steps - turn)
        return self.lam * (1 + math.cos(angle)) / 2


@dataclass(frozen=True)
class Separate:
    """The shared parameters alone on the first loss, then frozen, and the others alone on the second.

    Args:
        steps: optimizer steps of the first phase, at least 1.

    Raises:
        ValueError: ``steps`` is below 1.

    Source: Huang's thesis, table 3.9, "separate training".

    Example:
        >>> Separate(100).steps
        100
    """

    steps: int

    def __post_init__(self) -> None:
        """Check the argument."""
        _check_steps(self.steps)


Rule = float | str | Callable[[int], float] | Separate


class JointLoss:
    """Joins two losses of a network, for any training loop: `backward` of what it returns gives all gradients.

    With `Separate` those of what must not move are zero, which weight decay and momentum move all the same: call
    `drop_gradients` before the optimizer's step, or have neither.

    It works under autocast, with a gradient scaler, with accumulated gradients and under DDP, where MGDA averages its
    gradients over the ranks by one all-reduce; all ranks have to call it alike. It does not under FSDP, whose ranks
    hold parts of the parameters.

    Args:
        shared: the module, or the parameters, that both losses train; frozen parameters are left out, and
            one given several times is one.
        rule: ``"mgda"``, a constant alpha in 0 ... 1, a function from the step, counted from 1, to alpha, such as
            `ScaleSchedule`, or `Separate`.

    Attributes:
        alpha: of the last step, a tensor without dimensions on the losses' device; None before it, and with
            `Separate` 1 in the first phase and 0 in the second.

    Raises:
        ValueError: nothing is shared, or the rule is none of these.

    Source: Huang's thesis, section 3.5.4, algorithm 1.

    Example:
        >>> part, rest = nn.Linear(4, 4), nn.Linear(4, 2)
        >>> joint = JointLoss(part, "mgda")
        >>> images = part(torch.randn(8, 4))
        >>> joint(images.square().mean(), rest(images).square().mean()).backward()
        >>> bool(0 <= joint.alpha <= 1), part.weight.grad.shape, rest.weight.grad.shape
        (True, torch.Size([4, 4]), torch.Size([2, 4]))

        In a LightningModule, with ``accumulate_grad_batches`` k and any precision::

            def training_step(self, batch, batch_idx):
                images, energy = self.projection(batch["clip"])
                loss = F.cross_entropy(self.net(images), batch["label"])
                scaler = getattr(self.trainer.precision_plugin, "scaler", None)
                last = (batch_idx + 1) % k == 0 or self.trainer.is_last_batch  # an epoch's last step may be short
                return self.joint(energy.mean(), loss, step=self.global_step, last=last, scaler=scaler)

            def on_before_optimizer_step(self, optimizer):
                self.joint.drop_gradients(self.parameters())
    """

    def __init__(self, shared: nn.Module | Iterable[nn.Parameter], rule: Rule = "mgda") -> None:
        if not isinstance(shared, (nn.Module, Iterable)):
            raise TypeError(f"shared must be a module or parameters, got {type(shared).__name__}")
        parameters = shared.parameters() if isinstance(shared, nn.Module) else shared
        self.shared = list({id(p): p for p in parameters if p.requires_grad}.values())
        if not self.shared:
            raise ValueError("shared must hold parameters that require a gradient")
        constant = isinstance(rule, (int, float)) and not isinstance(rule, bool)
        made = isinstance(rule, Separate) or (callable(rule) and not isinstance(rule, type))
        if not (rule == "mgda" or constant or made):
            raise ValueError(
                f"rule must be 'mgda', an alpha, a function of the step or Separate, got {rule!r}"
            )
        if constant:
            _check_alpha(float(rule))  # type: ignore[arg-type]
        self.rule = rule
        self.alpha: Tensor | None = None
        self._sums: Tensor | None = None  # of both gradients over the batches of the step under way
        self._step = 0  # the one under way
        self._first_phase = False

    def __call__(
        self,
        l1: Tensor,
        l2: Tensor,
        *,
        step: int | None = None,
        last: bool = True,
        scaler: torch.amp.GradScaler | None = None,
    ) -> Tensor:
        """Join the losses of a batch.

        Args:
            l1: the shared part's own loss, without dimensions.
            l2: the whole network's loss, likewise.
            step: optimizer steps done, from 0; may be left out where alpha does not change with it.
            last: whether this is the last batch that the step accumulates. MGDA sees the step's whole gradients there,
                so that several batches give what one of all their clips gives.
            scaler: of the mixed precision, if the backward pass uses one: what would underflow in fp16 without
                its factor does so in the gradients that MGDA compares, too.

        Returns:
            A loss of value alpha l1 + (1 - alpha) l2, eq. 3.15; before the last batch of MGDA's step, of value l2.

        Raises:
            TypeError: a loss is no tensor.
            ValueError: a loss has dimensions or does not depend on the shared parameters, the step is missing or
                negative, or alpha is not in 0 ... 1.
        """
        for name, loss in (("l1", l1), ("l2", l2)):
            if not isinstance(loss, Tensor):
                raise TypeError(f"{name} must be a Tensor, got {type(loss).__name__}")
            if loss.dim():
                raise ValueError(f"{name} must be without dimensions, got shape {tuple(loss.shape)}")
        step = self._checked(step)
        self._begin(step)
        if isinstance(self.rule, Separate):
            return self._one_alone(l1, l2, first=step < self.rule.steps)
        if self.rule == "mgda":
            return self._mgda(l1, l2, last, scaler)
        given = self.rule(step + 1) if callable(self.rule) else float(self.rule)
        self.alpha = torch.full((), _check_alpha(given), device=l2.device)
        if given == 0:
            return l2 + self._term(torch.zeros_like)
        return self._joined(l1, l2, *self._gradients(l1, l2, scaler))

    def _checked(self, step: int | None) -> int:
        if step is None and (callable(self.rule) or isinstance(self.rule, Separate)):
            raise ValueError("step must be given: the rule's alpha changes with it")
        if isinstance(step, bool) or not isinstance(step, (int, type(None))):
            raise TypeError(f"step must be an int, got {type(step).__name__}")
        if step is not None and step < 0:
            raise ValueError(f"step must be at least 0, got {step}")
        return step or 0

    def _begin(self, step: int) -> None:
        """Forget the sums of a step that ended before its last batch, lest they count in this one's alpha."""
        if self._sums is not None and step != self._step:
            self._sums = None
            warnings.warn(
                f"step {self._step} had no batch with last=True: MGDA left it to l2 alone", stacklevel=3
            )
        self._step = step

    def drop_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Take away what must not move in a phase of `Separate`, momentum and weight decay included.

        To be called between the backward pass and the optimizer's step; with other rules it does nothing.

        Args:
            parameters: all that the optimizer moves.

        Example:
            >>> part, rest = nn.Linear(1, 1), nn.Linear(1, 1)
            >>> joint = JointLoss(part, Separate(10))
            >>> y = part(torch.ones(1, 1))
            >>> joint(y.mean(), rest(y).mean(), step=0).backward()
            >>> joint.drop_gradients([*part.parameters(), *rest.parameters()])
            >>> part.weight.grad is None, rest.weight.grad is None
            (False, True)
        """
        if not isinstance(self.rule, Separate):
            return
        shared = set(map(id, self.shared))
        for parameter in parameters:
            if (id(parameter) in shared) != self._first_phase:
                parameter.grad = None

    def _one_alone(self, l1: Tensor, l2: Tensor, *, first: bool) -> Tensor:
        """Give one of the losses, and zeros to the others' parameters; DDP waits for gradients of all of them."""
        self._first_phase = first
        self.alpha = torch.full((), float(first), device=l2.device)
        if first:
            return l1 + 0 * l2
        loss = l2 + self._term(torch.zeros_like)
        if loss.requires_grad:
            loss.register_hook(self._zero_shared)
        return loss

    def _zero_shared(self, _: Tensor) -> None:
        """Make the gradients of the shared parameters zero in the backward pass that runs, and in no other.

        To subtract g2 would leave what sums in another order leave, and cost a second way back.
        """
        handles = [parameter.register_hook(torch.zeros_like) for parameter in self.shared]

        def end() -> None:
            for handle in handles:
                handle.remove()

        torch.autograd.Variable._execution_engine.queue_callback(end)

    def _mgda(self, l1: Tensor, l2: Tensor, last: bool, scaler: torch.amp.GradScaler | None) -> Tensor:
        sums = torch.stack(self._gradients(l1, l2, scaler))
        if self._sums is not None:
            sums += self._sums
        self._sums = None if last else sums
        if not last:
            return l2
        self.alpha = mgda_alpha(*_mean_over_ranks(sums))
        return self._joined(l1, l2, *sums)

    def _gradients(
        self, l1: Tensor, l2: Tensor, scaler: torch.amp.GradScaler | None
    ) -> tuple[Tensor, Tensor]:
        """Compute both flat gradients of the shared parameters, and leave the graph for the backward pass."""
        flat = []
        for name, loss in (("l1", l1), ("l2", l2)):
            if not loss.requires_grad:
                raise ValueError(f"{name} must depend on the shared parameters")
            with torch.autocast(loss.device.type, enabled=False):
                scaled = loss if scaler is None else scaler.scale(loss)
                found = torch.autograd.grad(scaled, self.shared, retain_graph=True, allow_unused=True)
            if all(grad is None for grad in found):
                raise ValueError(f"{name} must depend on the shared parameters")
            parts = [
                torch.zeros_like(p) if grad is None else grad
                for p, grad in zip(self.shared, found, strict=True)
            ]
            whole = torch.cat([part.flatten() for part in parts])
            whole = whole.to(torch.promote_types(whole.dtype, torch.float32))
            flat.append(whole if scaler is None else whole / scaler.scale(torch.ones_like(whole[0])))
        return flat[0], flat[1]

    def _joined(self, l1: Tensor, l2: Tensor, grad1: Tensor, grad2: Tensor) -> Tensor:
        assert self.alpha is not None
        change = (self.alpha * (grad1.double() - grad2.double())).to(grad1.dtype)
        parts = iter(change.split([p.numel() for p in self.shared]))
        term = self._term(lambda p: next(parts).view_as(p).to(p.dtype))
        value = torch.lerp(l2.detach().double(), l1.detach().double(), self.alpha.double()).to(l2.dtype)
        return l2 + term + (value - l2.detach())

    def _term(self, gradient: Callable[[Tensor], Tensor]) -> Tensor:
        """Make a term of value zero whose gradient for each shared parameter is the one given."""
        product = torch.stack([(p * gradient(p.detach())).sum() for p in self.shared]).sum()
        return product - product.detach()


def _check_steps(steps: int) -> None:
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise TypeError(f"steps must be an int, got {type(steps).__name__}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")


def _check_alpha(alpha: float) -> float:
    if not isinstance(alpha, numbers.Real) or not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in 0 ... 1, got {alpha!r}")
    return alpha


def _mean_over_ranks(tensor: Tensor) -> Tensor:
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return tensor
    total = tensor.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
