"""Two losses on shared parameters: alpha against brute force, gradients by hand, ranks, mixed precision."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests import processes
from tests.training import joint_worker
from tests.training.joint_worker import Two, batches, train
from vidops.training.joint import JointLoss, ScaleSchedule, Separate, mgda_alpha

ZERO = torch.tensor(0.0)

RULES: dict[str, Any] = {
    "mgda": "mgda",
    "constant": 0.3,
    "nothing": 0,
    "all": 1.0,
    "schedule": ScaleSchedule(50, gamma=0.3, lam=0.4),
}


def brute_force(grad1: Tensor, grad2: Tensor) -> float:
    """Search the shortest combination by golden sections, in 80 bits."""
    first, second = (g.double().numpy().astype(np.longdouble) for g in (grad1, grad2))
    scale = max(np.abs(first).max(), np.abs(second).max()) or np.longdouble(1)
    first, second = first / scale, second / scale

    def length(alpha: np.longdouble) -> np.longdouble:
        return (np.square(alpha * first + (1 - alpha) * second)).sum()

    low, high, ratio = np.longdouble(0), np.longdouble(1), (np.sqrt(np.longdouble(5)) - 1) / 2
    for _ in range(90):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if length(a) <= length(b) else (a, high)
    return float((low + high) / 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_alpha_is_the_minimum(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    found = []
    for case in range(200):
        size = 1 + case % 40
        grad1, grad2 = torch.randn(2, size, generator=generator, dtype=dtype)
        ratio, scale = 10.0 ** torch.empty(2).uniform_(-3, 3, generator=generator)
        grad1, grad2 = grad1 * ratio * scale**6, grad2 * scale**6  # squares of the extremes leave fp32
        alpha = mgda_alpha(grad1, grad2).item()
        assert alpha == pytest.approx(brute_force(grad1, grad2), abs=1e-6), case
        found.append(alpha)
    assert min(found) == 0
    assert max(found) == 1
    assert sum(0 < alpha < 1 for alpha in found) > 50


def test_alpha_of_special_gradients() -> None:
    gradient = torch.randn(7, generator=torch.Generator().manual_seed(1))
    zero = torch.zeros(7)
    for first, second, alpha in (
        (gradient, gradient, 0.5),
        (zero, zero, 0.5),
        (gradient, -gradient, 0.5),
        (gradient, -3 * gradient, 0.75),
        (gradient, 2 * gradient, 1.0),
        (3 * gradient, gradient, 0.0),
        (zero, gradient, 1.0),
        (gradient, zero, 0.0),
    ):
        assert mgda_alpha(first, second).item() == pytest.approx(alpha, abs=1e-7)
    for bad in (math.nan, math.inf):
        assert mgda_alpha(gradient.index_fill(0, torch.tensor([3]), bad), gradient).isnan()
    with pytest.raises(ValueError, match=r"grad1 and grad2 must have one shape, got \(7,\) and \(6,\)"):
        mgda_alpha(gradient, gradient[1:])


def test_the_schedule_by_hand() -> None:
    schedule = ScaleSchedule(1000, gamma=0.1, lam=0.5)
    values = [schedule(m) for m in range(1, 1001)]
    assert values[0] == 1
    assert values[9] == pytest.approx((1 + math.cos(math.pi / 4)) / 2)  # ln 10 is half of ln 100
    assert values[99] == pytest.approx(0.5, abs=1e-12)
    assert values[129] == pytest.approx(0.25)  # ln 30 is half of ln 900
    assert values[999] == pytest.approx(0, abs=1e-12)
    assert all(a >= b for a, b in itertools.pairwise(values))
    assert schedule(5000) == schedule(1000)
    with pytest.raises(ValueError, match="step must be at least 1, got 0"):
        schedule(0)
    for gamma, lam in ((0.1, 0.1), (0.2, 0.3), (0.5, 0.3), (0.25, 0.0)):
        other = ScaleSchedule(400, gamma, lam)
        ends = [other(1), other(round(gamma * 400)), other(round(gamma * 400) + 1), other(400)]
        assert ends == pytest.approx([1, lam, lam, 0], abs=1e-9)
    for arguments, text in (
        ((0, 0.5, 0.5), "steps must be at least 1, got 0"),
        ((100, 1.0, 0.5), "gamma must be above 0 and below 1, got 1"),
        ((100, 0.5, 1.0), "lam must be at least 0 and below 1, got 1"),
        (
            (100, 0.01, 0.5),
            r"gamma must leave more than a step on both sides of gamma \* 100 steps, got 0.01",
        ),
        ((100, 0.995, 0.5), r"gamma must leave more than a step"),
    ):
        with pytest.raises(ValueError, match=text):
            ScaleSchedule(*arguments)


def by_hand(net: Two, x: Tensor, y: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Gradients of l1 and l2 for the shared parameters, and of l2 for the others."""
    l1, l2 = net.losses(x, y)
    shared, others = list(net.part.parameters()), list(net.rest.parameters())
    grads = torch.autograd.grad(l1, shared, retain_graph=True), torch.autograd.grad(l2, [*shared, *others])
    return list(grads[0]), list(grads[1][: len(shared)]), list(grads[1][len(shared) :])


@pytest.mark.parametrize("rule", RULES)
def test_gradients_and_value(rule: str) -> None:
    net = Two()
    (x, y), step = batches(1)[0], 7
    first, second, others = by_hand(net, x, y)
    joint = JointLoss(net.part, RULES[rule])
    l1, l2 = net.losses(x, y)
    loss = joint(l1, l2, step=step)
    loss.backward()
    alpha = joint.alpha.double() if joint.alpha is not None else None
    expected = {
        "mgda": brute_force(*(torch.cat([g.flatten() for g in grads]) for grads in (first, second))),
        "schedule": RULES["schedule"](step + 1),
    }.get(rule, RULES[rule])
    assert alpha is not None
    assert alpha.item() == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(loss, alpha * l1 + (1 - alpha) * l2, rtol=1e-6, atol=0)
    for parameter, a, b in zip(net.part.parameters(), first, second, strict=True):
        torch.testing.assert_close(parameter.grad, alpha * a + (1 - alpha) * b, rtol=1e-9, atol=1e-12)
    assert all(torch.equal(p.grad, g) for p, g in zip(net.rest.parameters(), others, strict=True))


@pytest.mark.parametrize("rule", ["mgda", "constant"])
def test_several_batches_are_one_of_all_their_clips(rule: str) -> None:
    (x, y), net = batches(1)[0], Two()
    whole = train(net, JointLoss(net.part, RULES[rule]), [(x, y)], 1)
    parts = Two()
    joint = JointLoss(parts.part, RULES[rule])
    pieces = list(zip(x.chunk(4), y.chunk(4), strict=True))
    assert train(parts, joint, pieces, 4) == pytest.approx(whole, abs=1e-12)
    for ours, theirs in zip(net.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def test_two_ranks_are_one_process(tmp_path: Path) -> None:
    ended = processes.run_ranks(2, joint_worker.main, tmp_path, folder=tmp_path)
    assert [status for status, _, _ in ended] == [0, 0], ended
    for rule, accumulate in joint_worker.CASES:
        net = Two()
        alphas = train(net, JointLoss(net.part, rule), batches(6), accumulate)
        assert len(set(alphas)) > 1 or rule != "mgda"
        for rank in (0, 1):
            found = json.loads((tmp_path / f"{rule}.{accumulate}.{rank}.json").read_text())
            assert found["alphas"] == pytest.approx(alphas, abs=1e-9)
            for ours, theirs in zip(net.parameters(), found["weights"], strict=True):
                torch.testing.assert_close(ours, torch.tensor(theirs, dtype=torch.float64), rtol=0, atol=1e-9)


def test_bf16_leaves_the_other_gradients_as_they_are() -> None:
    net, (x, y) = Two().float(), batches(1)[0]
    x = x.float()
    with torch.autocast("cpu", torch.bfloat16):
        plain = torch.autograd.grad(net.losses(x, y)[1], list(net.rest.parameters()))
        joint = JointLoss(net.part, "mgda")
        joint(*net.losses(x, y)).backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(net.rest.parameters(), plain, strict=True))
    first, second, _ = by_hand(Two(), *batches(1)[0])
    exact = mgda_alpha(*(torch.cat([g.flatten() for g in grads]) for grads in (first, second)))
    assert joint.alpha is not None
    assert joint.alpha.item() == pytest.approx(exact.item(), abs=0.02)
    for parameter, a, b in zip(net.part.parameters(), first, second, strict=True):
        wanted = exact * a + (1 - exact) * b
        assert (parameter.grad - wanted).norm() < 0.05 * wanted.norm()


def test_a_scaler_keeps_what_underflows_in_fp16() -> None:
    net, (x, y) = Two().float(), batches(1)[0]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    alphas = {}
    for given in (None, scaler):
        net.zero_grad()
        with torch.autocast("cpu", torch.float16):
            l1, l2 = net.losses(x.float(), y)
            joint = JointLoss(net.part, "mgda")
            loss = joint(
                l1 * 1e-7, l2 * 1e-7, scaler=given
            )  # gradients inside are below fp16's smallest number
        scaler.scale(loss).backward()
        alphas[given is not None] = joint.alpha.item() if joint.alpha is not None else None
    first, second, _ = by_hand(Two(), *batches(1)[0])
    exact = mgda_alpha(*(torch.cat([g.flatten() for g in grads]) for grads in (first, second))).item()
    assert alphas[True] == pytest.approx(exact, abs=0.02)
    assert alphas[False] != pytest.approx(exact, abs=0.02), "the case must be one that needs the scaler"
    for parameter, a, b in zip(net.part.parameters(), first, second, strict=True):
        wanted = 1e-7 * 2**16 * (exact * a + (1 - exact) * b)
        assert (parameter.grad - wanted).norm() < 0.05 * wanted.norm()


def test_an_overflow_reaches_the_scaler() -> None:
    net, (x, y) = Two().float(), batches(1)[0]
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)
    with torch.autocast("cpu", torch.float16):
        joint = JointLoss(net.part, "mgda")
        loss = joint(*net.losses(x.float(), y), scaler=scaler)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert joint.alpha is not None
    assert joint.alpha.isnan()
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
    assert scaler.get_scale() < 2.0**60


def test_separate_phases_move_nothing_else() -> None:
    net = Two()
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    joint = JointLoss(net.part, Separate(3))
    for step, (x, y) in enumerate(batches(6)):
        before = [p.detach().clone() for p in net.parameters()]
        optimizer.zero_grad()
        joint(*net.losses(x, y), step=step).backward()
        joint.drop_gradients(net.parameters())
        optimizer.step()
        moved = [not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True)]
        count = len(list(net.part.parameters()))
        assert moved == [step < 3] * count + [step >= 3] * (len(moved) - count)
        assert joint.alpha is not None
        assert joint.alpha.item() == (step < 3)


def test_separate_gives_zeros_to_what_must_not_move() -> None:
    net, (x, y) = Two(), batches(1)[0]
    joint = JointLoss(net.part, Separate(1))
    first, second, others = by_hand(net, x, y)
    for step, shared, rest in ((0, first, [0 * g for g in others]), (1, [0 * g for g in second], others)):
        net.zero_grad()
        (joint(*net.losses(x, y), step=step) / 4).backward()
        for parameter, wanted in zip(net.parameters(), [*shared, *rest], strict=True):
            assert torch.equal(parameter.grad, wanted / 4)
    net.zero_grad()
    joint(*net.losses(x, y), step=1)  # without its backward pass
    net.losses(x, y)[1].backward()
    for parameter, wanted in zip(net.parameters(), [*second, *others], strict=True):
        assert torch.equal(parameter.grad, wanted), "other backward passes are as ever"


def test_a_step_without_its_last_batch_is_forgotten() -> None:
    net, data = Two(), batches(2)
    joint = JointLoss(net.part, "mgda")
    joint(*net.losses(*data[0]), step=0, last=False)
    with pytest.warns(UserWarning, match="step 0 had no batch with last=True: MGDA left it to l2 alone"):
        joint(*net.losses(*data[1]), step=1)
    fresh = JointLoss(net.part, "mgda")
    fresh(*net.losses(*data[1]), step=1)
    assert joint.alpha == fresh.alpha


def test_a_parameter_given_twice_counts_once() -> None:
    net, (x, y) = Two(), batches(1)[0]
    parameters = list(net.part.parameters())
    gradients = []
    for shared in (parameters, [*parameters, parameters[0]]):
        net.zero_grad()
        JointLoss(shared, 0.3)(*net.losses(x, y)).backward()
        gradients.append([p.grad.clone() for p in parameters if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(("count", "limit"), [(6, None), (3, None), (5, 3)])
def test_a_lightning_module_of_somebody_else(tmp_path: Path, count: int, limit: int | None) -> None:
    pl = pytest.importorskip("lightning.pytorch")

    class Other(pl.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net, self.alphas = Two(), []
            self.joint = JointLoss(self.net.part, "mgda")

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            l1, l2 = self.net.losses(*batch)
            last = (batch_idx + 1) % 2 == 0 or self.trainer.is_last_batch
            loss = self.joint(l1, l2, step=self.global_step, last=last)
            if last:
                self.alphas.append(self.joint.alpha.item())
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), joint_worker.RATE)

    module = Other()
    trainer = pl.Trainer(
        max_epochs=2,
        limit_train_batches=limit,
        accumulate_grad_batches=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    data: list[tuple[Tensor, Tensor]] = batches(count)
    trainer.fit(module, torch.utils.data.DataLoader(data, batch_size=None))  # type: ignore[arg-type]
    net, epoch = Two(), data[:limit]
    alphas = [alpha for _ in range(2) for alpha in train(net, JointLoss(net.part, "mgda"), epoch, 2)]
    assert module.alphas == pytest.approx(alphas, abs=1e-12)
    for ours, theirs in zip(module.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


def frozen() -> nn.Module:
    return nn.Linear(1, 1).requires_grad_(False)


def alone(net: Two) -> tuple[Tensor, Tensor]:
    (x, y) = batches(1)[0]
    return net.losses(x, y)[0], F.cross_entropy(net.rest(x), y)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda net: JointLoss(frozen()), "shared must hold parameters that require a gradient"),
        (lambda net: JointLoss(net.part, "mdga"), "rule must be 'mgda', an alpha, .* got 'mdga'"),
        (lambda net: JointLoss(net.part, 1.5), r"alpha must be in 0 \.\.\. 1, got 1.5"),
        (lambda net: Separate(0), "steps must be at least 1, got 0"),
        (
            lambda net: JointLoss(net.part, lambda m: 2.0)(*net.losses(*batches(1)[0]), step=0),
            r"alpha must be in 0 \.\.\. 1, got 2.0",
        ),
        (
            lambda net: JointLoss(net.part)(torch.zeros(2), torch.tensor(0.0)),
            r"l1 must be without dimensions, got shape \(2,\)",
        ),
        (lambda net: JointLoss(net.part)(*alone(net)), "l2 must depend on the shared parameters"),
        (lambda net: JointLoss(net.part)(ZERO, ZERO), "l1 must depend on the shared parameters"),
        (lambda net: JointLoss(net.part)({"energy": ZERO}, ZERO), "l1 must be a Tensor, got dict"),
        (
            lambda net: JointLoss(net.part, Separate(3))(ZERO, ZERO),
            "step must be given: the rule's alpha changes",
        ),
        (lambda net: JointLoss(net.part, lambda m: 0.5)(ZERO, ZERO), "step must be given"),
        (lambda net: JointLoss(net.part)(ZERO, ZERO, step=-1), "step must be at least 0, got -1"),
        (lambda net: JointLoss(net.part)(ZERO, ZERO, step="3"), "step must be an int, got str"),
        (
            lambda net: JointLoss(net.part, Separate),
            "rule must be 'mgda', an alpha, .* or Separate, got <class",
        ),
        (lambda net: JointLoss(None), "shared must be a module or parameters, got NoneType"),
        (lambda net: Separate("3"), "steps must be an int, got str"),
    ],
)
def test_errors_name_the_argument(call: Callable[[Two], object], text: str) -> None:
    with pytest.raises((ValueError, TypeError), match=text):
        call(Two())
