"""Launch choices of the CUDA kernels, in the library that the tests build of them for the host."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from tests import host_cuda
from tests.ops.common import assert_close, device_for, in_layout
from vidops import _build, ops
from vidops.bench import check
from vidops.tuning import native


@pytest.fixture
def library() -> Iterator[native.Library]:
    """The host's library, its choices back at their defaults in the end."""
    device_for("cuda_host", "temporal_shift")
    made = native.Library(host_cuda.library())
    yield made
    for knob in made.knobs:
        made.set(knob.operator, knob.name, knob.default)


class Launches(ctypes.Structure):
    """A launch as the emulation tells it."""

    _fields_ = [("numbers", ctypes.c_int64 * 6)]  # kernel, grid, threads, shared bytes


def launches() -> tuple[tuple[int, ...], ...]:
    """Kernels, grids, threads and shared memory of the launches since the last call: of all that are remembered."""
    heard = (Launches * 256)()
    count = ctypes.CDLL(str(host_cuda.library())).vidops_host_launches(heard, len(heard))
    return tuple(tuple(launch.numbers) for launch in heard[:count])


@dataclass(frozen=True)
class Case:
    """A call whose launches follow from the value of a choice; ``also``: what other choices have to be for that."""

    function: Callable[..., Any]
    shapes: Sequence[Sequence[int]]
    layout: str = "NCTHW"
    dtype: torch.dtype = torch.float32
    also: dict[str, int] = field(default_factory=dict)

    def inputs(self) -> list[Tensor]:
        g = torch.Generator().manual_seed(3)
        made = [torch.randn(shape, generator=g, dtype=torch.float64) for shape in self.shapes]
        return [in_layout(x, self.layout).to(self.dtype) if x.dim() == 5 else x.to(self.dtype) for x in made]

    def run(self, backend: str, dtype: torch.dtype) -> list[Tensor]:
        """Results and gradients; scratch starts as NaN, so that what is read before it is written shows."""
        leaves = [x.to(dtype).requires_grad_() for x in self.inputs()]
        torch.use_deterministic_algorithms(backend == "cuda_host")
        try:
            outs = [y for y in check.tensors_of(self.function(*leaves, backend=backend)) if y.requires_grad]
            g = torch.Generator().manual_seed(4)
            slopes = [
                torch.randn(y.shape, generator=g, dtype=torch.float64).to(self.dtype).to(y) for y in outs
            ]
            return [*(y.detach() for y in outs), *torch.autograd.grad(outs, leaves, slopes)]
        finally:
            torch.use_deterministic_algorithms(False)


def select(*tensors: Tensor, backend: str) -> Tensor:
    return ops.pathway_select(tensors[:-1], tensors[-1], backend=backend)


shift = functools.partial(ops.temporal_shift, fold_div=2)
conv = functools.partial(ops.temporal_conv, groups=((2, 3, 1),))
one_tap = functools.partial(ops.temporal_conv, groups=((2, 1, 1),))
depthwise = functools.partial(ops.depthwise_conv3d, padding="same")
band = functools.partial(ops.motion_band_pass, stride=1)
resize = functools.partial(ops.resize, size=(16, 16))
project = functools.partial(ops.temporal_projection, outputs=("residual", "energy"))
attend = ops.nonlocal_attention

HALF = torch.bfloat16
# So many columns that a grid can be larger than the number of blocks which is thought to fill a GPU. In channels last
# two channels leave half of a block's threads idle, so that half as many elements do.
MANY = [(1, 2, 1, 256, 512)]
MORE = [(1, 2, 1, 512, 512)]
PACKS = [(1, 2, 2, 4, 4), (6,), (2,)]
TWO_CLIPS = [(1, 2, 2, 4, 4), (1, 2, 2, 4, 4), (1, 2, 2)]
TWO_LONG = [(1, 2, 1, 513, 512), (1, 2, 1, 513, 512), (1, 2, 2)]
BLOCKS_OF_PAIRS = [(1, 3, 4, 8, 16)]
ROWS = [(1, 2, 8, 4, 128), (1, 8, 1, 2, 3)]
SHORT_ROWS = [(1, 2, 8, 2, 8), (1, 8, 1, 2, 3)]
# Query, key and value as clips: rows for several warps, of two warps' width, in blocks enough.
TOKENS = [(32, 8, 1, 1, 128), (32, 8, 1, 1, 8), (32, 72, 1, 1, 8)]
LINES = [(1, 2, 9, 4, 5), (1, 4, 9, 2, 1)]
FEW_TOKENS = [(1, 8, 1, 2, 3), (1, 8, 1, 1, 40), (1, 136, 1, 1, 40)]

CASES = {
    "temporal_shift/word_bytes": Case(shift, [(1, 2, 2, 4, 4)], dtype=HALF),
    "temporal_shift/trips": Case(shift, MANY, "NTHWC", also={"word_bytes": 4, "fill_blocks": 1024}),
    "temporal_shift/fill_blocks": Case(shift, MANY, "NTHWC", also={"word_bytes": 4, "trips": 4}),
    "temporal_conv/planar_pack": Case(conv, PACKS, dtype=HALF),
    "temporal_conv/channel_pack": Case(conv, PACKS, "NTHWC"),
    "temporal_conv/backward_planar_pack": Case(conv, PACKS, dtype=HALF),
    "temporal_conv/backward_channel_pack": Case(conv, PACKS, "NTHWC"),
    "temporal_conv/trips": Case(
        one_tap, [*MANY, (2,), (2,)], "NTHWC", also={"channel_pack": 1, "fill_blocks": 1024}
    ),
    "temporal_conv/fill_blocks": Case(
        one_tap, [*MANY, (2,), (2,)], "NTHWC", also={"channel_pack": 1, "trips": 4}
    ),
    "temporal_conv/backward_trips": Case(
        one_tap,
        [*MORE, (2,), (2,)],
        "NTHWC",
        also={"backward_channel_pack": 1, "backward_fill_blocks": 512},
    ),
    "temporal_conv/backward_fill_blocks": Case(
        one_tap, [*MANY, (2,), (2,)], "NTHWC", also={"backward_channel_pack": 1}
    ),
    "depthwise_conv3d/channel_lanes": Case(depthwise, [(1, 64, 2, 3, 3), (64, 1, 3, 3, 3)], "NTHWC"),
    "depthwise_conv3d/clips": Case(depthwise, [(4, 2, 3, 5, 4), (2, 1, 3, 3, 3)]),
    "depthwise_conv3d/frames": Case(depthwise, [(2, 2, 4, 5, 4), (2, 1, 1, 3, 1)]),
    "depthwise_conv3d/products": Case(depthwise, [(1, 1, 2, 128, 256), (1, 1, 3, 3, 3)]),
    "motion_band_pass/lanes": Case(band, [(1, 32, 3, 9, 8), (32, 3, 3), (32, 3)], "NTHWC"),
    "motion_band_pass/row_groups": Case(band, [(1, 2, 3, 30, 9), (2, 3, 3), (2, 3)]),
    "motion_band_pass/fold_rounds": Case(band, [(1, 1, 3, 64, 64), (1, 3, 3), (1, 3)]),
    "motion_band_pass/taps_lanes": Case(band, [(1, 16, 3, 5, 9), (16, 3, 3), (16, 3)], "NTHWC"),
    "motion_band_pass/taps_rows": Case(band, [(1, 1, 3, 31, 9), (1, 3, 3), (1, 3)]),
    "motion_band_pass/taps_blocks": Case(band, [(1, 1, 4096, 2, 2), (1, 3, 3), (1, 3)]),
    "resize/threads": Case(resize, [(1, 2, 2, 5, 6)]),
    "resize/frames": Case(resize, [(1, 2, 4, 5, 6)]),
    "temporal_descriptor/threads": Case(ops.temporal_descriptor, BLOCKS_OF_PAIRS),
    "temporal_descriptor/backward_threads": Case(ops.temporal_descriptor, BLOCKS_OF_PAIRS),
    "pathway_select/pack_bytes": Case(select, TWO_CLIPS, dtype=HALF),
    "pathway_select/backward_pack_bytes": Case(select, TWO_CLIPS, dtype=HALF),
    "pathway_select/fill_blocks": Case(select, TWO_LONG, "NTHWC", also={"pack_bytes": 4}),
    "pathway_select/backward_fill_blocks": Case(select, TWO_LONG, "NTHWC", also={"backward_pack_bytes": 4}),
    "pathway_select/summed": Case(
        select,
        [(1, 512, 1, 5, 205), (1, 512, 1, 5, 205), (1, 2, 512)],
        also={"backward_pack_bytes": 4, "backward_fill_blocks": 512},
    ),
    "temporal_projection/threads": Case(project, ROWS),
    "temporal_projection/backward_threads": Case(project, ROWS),
    "temporal_projection/pixels": Case(project, SHORT_ROWS),
    "temporal_projection/backward_pixels": Case(project, SHORT_ROWS),
    "temporal_projection/few_blocks": Case(project, [(128, 64, 3, 1, 1), (128, 3, 1, 1, 1)]),
    "keypoint_shifts/quarters": Case(ops.keypoint_shifts, LINES),
    "keypoint_shifts/walk_sets": Case(ops.keypoint_shifts, LINES),
    "keypoint_shifts/walk_frames": Case(ops.keypoint_shifts, LINES),
    "keypoint_shifts/few_blocks": Case(ops.keypoint_shifts, [(256, 1, 17, 2, 2), (256, 1, 17, 2, 1)]),
    "nonlocal_attention/warps": Case(attend, TOKENS, dtype=torch.float64, also={"few_blocks": 64}),
    "nonlocal_attention/backward_warps": Case(attend, TOKENS, dtype=torch.float64, also={"few_blocks": 64}),
    "nonlocal_attention/few_blocks": Case(attend, TOKENS, dtype=torch.float64),
    "nonlocal_attention/stages": Case(attend, FEW_TOKENS),
    "nonlocal_attention/backward_stages": Case(attend, FEW_TOKENS),
    "nonlocal_attention/chunk_bytes": Case(attend, FEW_TOKENS, dtype=HALF),
}


def test_every_choice_has_a_case(library: native.Library) -> None:
    assert [f"{knob.operator}/{knob.name}" for knob in library.knobs] == sorted(CASES)
    for knob in library.knobs:
        assert knob.operator in ops.backends.OPERATORS
        assert knob.candidates == tuple(sorted({*knob.candidates, knob.default}))
        assert library.get(knob.operator, knob.name) == knob.default


# Seconds each.
LONG = [key for key in CASES if key.endswith(("_blocks", "conv/trips", "_trips", "warps", "summed"))]


@pytest.mark.parametrize(
    "key", [pytest.param(key, marks=pytest.mark.slow) if key in LONG else key for key in CASES]
)
def test_results_are_right_at_every_candidate(key: str, library: native.Library) -> None:
    """Each candidate gives launches of its own and results within the bound, and the first one the same bits again."""
    case = CASES[key]
    operator, name = key.split("/")
    (knob,) = (knob for knob in library.knobs if (knob.operator, knob.name) == (operator, name))
    for other, value in case.also.items():
        library.set(operator, other, value)
    exact, same = case.run("reference", torch.float64), case.run("reference", case.dtype)
    heard: dict[int, tuple[tuple[int, ...], ...]] = {}
    made: dict[int, list[Tensor]] = {}
    for value in (*knob.candidates, knob.candidates[0]):
        library.set(operator, name, value)
        assert library.get(operator, name) == value
        launches()  # of other tests
        found = case.run("cuda_host", case.dtype)
        heard_now = launches()
        assert 0 < len(heard_now) < 256
        if value in made:
            assert heard_now == heard[value]
            assert all(map(torch.equal, found, made[value]))
        for i, results in enumerate(zip(found, same, exact, strict=True)):
            assert_close(*results, f"{key}={value}, result {i}")
        heard[value], made[value] = heard_now, found
    assert len(set(heard.values())) == len(knob.candidates), heard


def test_what_is_not_to_choose_is_refused(library: native.Library) -> None:
    with pytest.raises(ValueError, match="have no 'speed'; they have fill_blocks, trips, word_bytes"):
        library.set("temporal_shift", "speed", 1)
    with pytest.raises(ValueError, match="'nothing' have no 'trips'; they have nothing to choose"):
        library.get("nothing", "trips")
    for value in (0, 3, -1, 2**32 + 2, 2**64 + 2):
        with pytest.raises(ValueError, match=rf"trips must be one of 1, 2, 4, got {value}$"):
            library.set("temporal_shift", "trips", value)
    wrong: list[Any] = [2.0, True, "2"]
    for kind in wrong:
        with pytest.raises(TypeError, match="must be an int"):
            library.set("temporal_shift", "trips", kind)
    assert library.get("temporal_shift", "trips") == 1


def test_a_library_without_choices_is_refused() -> None:
    with pytest.raises(AttributeError, match="vidops_tunables"):
        native.Library(_build.status()["cpu"].path or pytest.skip("no CPU library"))


def test_without_the_cuda_library_there_is_nothing_to_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = _build.LibraryStatus(False, "not built: no nvcc")
    monkeypatch.setattr(_build, "status", lambda: {"cuda": missing})
    native.library.cache_clear()
    try:
        assert native.knobs() == []
        for call in (
            lambda: native.get("temporal_shift", "trips"),
            lambda: native.set("temporal_shift", "trips", 1),
        ):
            with pytest.raises(RuntimeError, match="not loaded: not built: no nvcc"):
                call()
    finally:
        native.library.cache_clear()


def test_the_choices_are_those_of_the_loaded_library(
    library: native.Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = _build.LibraryStatus(True, "", path=host_cuda.library())
    monkeypatch.setattr(_build, "status", lambda: {"cuda": loaded})
    native.library.cache_clear()
    try:
        assert native.knobs() == list(library.knobs)
        native.set("temporal_shift", "trips", 4)
        assert native.get("temporal_shift", "trips") == library.get("temporal_shift", "trips") == 4
    finally:
        native.library.cache_clear()
