"""What only a GPU shows: streams, graphs, and clips of more elements than 32 bits count."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.ops.common import device_for
from tests.ops.test_contract import call, inputs, laid_out, leaves, total
from vidops.bench import check, load_benchmarks
from vidops.bench.small import replay_small

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
BENCHMARKS = load_benchmarks()
every_operator = pytest.mark.parametrize("operator", BENCHMARKS)
kernels = pytest.mark.parametrize("backend", ["cuda", "triton"])


def results(operator: str, given: list[Tensor], backend: str) -> list[Tensor]:
    """Forward and gradients, of small case 0."""
    given = leaves(given)
    found = call(operator, 0, *given, backend=backend)
    return [*found, *torch.autograd.grad(total(found), [t for t in given if t.requires_grad])]


@every_operator
@kernels
@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
def test_streams_give_the_same_bits(operator: str, backend: str, layout: str) -> None:
    """Two at once, each behind work that keeps it waiting: a kernel on another stream would read what is not there."""
    device = device_for(backend, operator)
    given = laid_out(operator, inputs(operator, 0), layout, device)
    expected = results(operator, given, backend)
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    found = []
    for stream in streams:
        with torch.cuda.stream(stream):
            blank = [torch.full_like(t, 7) if t.is_floating_point() else t.clone() for t in given]
            torch.cuda._sleep(20_000_000)
            for late, t in zip(blank, given, strict=True):
                late.copy_(t)
            found.append(results(operator, blank, backend))
    torch.cuda.synchronize()
    for other in found:
        assert all(torch.equal(a, b) for a, b in zip(expected, other, strict=True))


@pytest.mark.slow
@every_operator
@kernels
def test_graphs_replay_the_same_bits(operator: str, backend: str) -> None:
    device = device_for(backend, operator)
    assert not [result for result in replay_small(operator, backend, device) if result.reason]


@every_operator
@kernels
def test_another_device_than_the_current_one(operator: str, backend: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one GPU")
    device_for(backend, operator)
    given = inputs(operator, 0)
    expected = results(operator, [t.to("cuda:0") for t in given], backend)
    with torch.cuda.device(0):
        found = results(operator, [t.to("cuda:1") for t in given], backend)
    assert {t.device.index for t in found} == {1}
    assert all(torch.equal(a.cpu(), b.cpu()) for a, b in zip(expected, found, strict=True))


@pytest.fixture
def alone() -> Iterator[None]:
    """One test at a time of those that need tens of GiB, in whatever process."""
    with open(Path(tempfile.gettempdir(), "vidops_large_tests.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        torch.cuda.empty_cache()


@every_operator
@kernels
@pytest.mark.parametrize("layout", ["NCTHW", "NTHWC"])
@pytest.mark.usefixtures("alone")
def test_more_elements_than_32_bits_count(operator: str, backend: str, layout: str) -> None:
    """Small case 0 so often that the first clip has over 2^31 elements: first and last clips are as a few alone."""
    device = device_for(backend, operator)
    batched = BENCHMARKS[operator].batched
    few = laid_out(operator, inputs(operator, 0, torch.bfloat16), layout, device)
    clips = len(few[batched[0]])
    times = 2**31 // min(t.numel() for i, t in enumerate(few) if i in BENCHMARKS[operator].clips) + 1
    needed = 5 * times * sum(t.nbytes for i, t in enumerate(few) if i in batched)
    if needed > torch.cuda.mem_get_info()[0]:
        pytest.skip(f"it may take {needed >> 30} GiB, and so much is not free")
    many = [t.expand(times, *t.shape).flatten(0, 1) if i in batched else t for i, t in enumerate(few)]
    many = laid_out(operator, many, layout)
    with torch.no_grad():
        exact = call(
            operator, 0, *(t.double() if t.is_floating_point() else t for t in few), backend="reference"
        )
        same = call(operator, 0, *few, backend="reference")
    wanted = [i for i, t in enumerate(few) if i in batched and t.is_floating_point()]
    small, large = leaves(few), [t.requires_grad_(i in wanted) for i, t in enumerate(many)]
    gradients = torch.autograd.grad(
        total(call(operator, 0, *small, backend=backend)), [small[i] for i in wanted]
    )
    found = call(operator, 0, *large, backend=backend)
    for piece in (slice(0, clips), slice(-clips, None)):
        verdict = check.compare([t.detach()[piece] for t in found], same, exact)
        assert not verdict.reason, f"clips {piece}: {verdict.reason}"
    through = [r for r in found if r.is_floating_point()]
    with torch.no_grad():
        given = [2 * r for r in through]  # the gradient of the sum of squares
    large_gradients = torch.autograd.grad(through, [large[i] for i in wanted], given)
    for ours, few_alone in zip(large_gradients, gradients, strict=True):
        for piece in (slice(0, clips), slice(-clips, None)):
            torch.testing.assert_close(
                ours[piece], few_alone, rtol=2**-6, atol=1e-2 * float(few_alone.abs().max())
            )
