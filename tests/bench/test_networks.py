"""Networks in the harness: which are measured, what must be right before a speed is told, and what a report says."""

from __future__ import annotations

import dataclasses
import functools
import json
from typing import Any

import pytest
import torch
from torch import nn

from vidops.bench import Options, load_benchmarks, network_cases, network_timing, run
from vidops.bench import machine as machine_module
from vidops.bench.against import compare
from vidops.bench.case import Workload
from vidops.bench.damage import damage
from vidops.bench.harness import plan
from vidops.bench.network_timing import NetworkVariant, network_variants
from vidops.bench.networks import NetworkData, awake, compare_networks
from vidops.bench.plan import Group
from vidops.bench.report import group_lines, grouped
from vidops.bench.small_networks import DIRECTIONS, replay_small, run_small_network, small_network
from vidops.bench.timing import Effort, Timing, interleave
from vidops.models import TSN, create_model, list_models, model_card
from vidops.ops.backends import BACKENDS
from vidops.visualize import benchmark_bars

SIZE = Workload(
    "tiny",
    "cpu",
    {"network": "tiny_tsm", "clip": (4, 3, 8, 32, 32), "distinct": 2},
    directions=DIRECTIONS,
    targets=network_cases.TARGETS,
)
# Networks that hold none, beside TSN.
NO_OPERATOR = {"I3D", "I3DActors", "InceptionResNetV2", "MFNet", "R3D", "TSNInceptionResNetV2"}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """One small network that is timed in no time."""
    if BACKENDS["cpu"].missing:
        pytest.skip(f"no CPU kernels: {BACKENDS['cpu'].missing}")
    networks = dataclasses.replace(network_cases.NETWORKS, workloads=(SIZE,))
    monkeypatch.setattr(network_cases, "NETWORKS", networks)
    monkeypatch.setattr(
        "vidops.bench.network_timing._effort", lambda options, device: Effort(3, 3, budget=0.01, sample=1e-5)
    )
    monkeypatch.setattr(Options, "effort", lambda self: Effort(rounds=1, least=1, budget=0.01, sample=1e-5))
    monkeypatch.setattr(machine_module.LoadMeter, "_between", staticmethod(lambda start, end: 0.0))


def test_every_network_with_an_operator_is_measured_in_one_depth() -> None:
    def kind(name: str) -> str:
        return model_card(name).build.__annotations__["return"]

    published = {name for name in list_models() if not name.startswith("tiny_")}
    measured = {case.name for case in network_cases.CASES}
    assert measured <= published
    assert {kind(name) for name in measured} == {kind(name) for name in published} - NO_OPERATOR


def test_targets_are_those_of_the_five_on_a_gpu() -> None:
    found = {(w.params["network"], w.device) for w in network_cases.NETWORKS.workloads if w.targets}
    names = ("mstnet_resnet50", "bqn_x3d_m", "dan_x3d_xs", "rnl_tsm_resnet50", "mf_kpsem")
    assert found == {(name, "cuda") for name in names}
    assert [t.text() for t in network_cases.TARGETS] == [
        "inference >= 1.5 x reference",
        "training >= 1.3 x reference",
    ]


def test_the_clips_fit_the_networks() -> None:
    products = network_cases.NETWORKS.products
    for workload in network_cases.NETWORKS.workloads:
        n, _, frames, height, width = workload.params["clip"]
        card = model_card(workload.params["network"])
        assert n % workload.params["distinct"] == 0
        assert frames % card.frames_per_segment == 0
        if workload.device == "cuda":
            assert (frames, height, width) == card.input_size[1:]
        elif card.name == "mstnet_resnet50":
            assert products(workload.params, "training") == 3 * products(workload.params, "inference")
            assert products(workload.params, "inference") == pytest.approx(32.88e9 / 4, rel=0.1)


@pytest.mark.parametrize("name", ["btsnet26", "se_tsm_resnet50"])
def test_there_are_clips_enough_to_train_on(name: str) -> None:
    (clip,) = (
        w.params["clip"]
        for w in network_cases.NETWORKS.workloads
        if w.device == "cpu" and w.params["network"] == name
    )
    with torch.device("meta"):
        create_model(name, num_segments=clip[2], backend="reference").train()(torch.empty(clip))


def test_networks_are_measured_when_they_are_named() -> None:
    everything = plan(Options(threads=(1,), backends=("reference",)))
    assert {g.benchmark.operator for g in everything} == set(load_benchmarks())
    given = Options("network/cpu/mstnet", ("reference",), (1,))
    assert [g.name for g in plan(given)] == [
        f"network/cpu/mstnet_resnet50 1x8x112x112/float32/{direction}/1-thread" for direction in DIRECTIONS
    ]
    quick = {g.workload.params["network"] for g in plan(Options("network", ("reference",), quick=True))}
    assert quick == {"mstnet_resnet50", "dan_x3d_xs"}
    with pytest.raises(
        ValueError, match=r"called like 'mstnet'; networks are asked for by 'network/\*mstnet'"
    ):
        plan(Options("mstnet"))


@pytest.mark.usefixtures("tiny")
def test_a_report_holds_every_figure() -> None:
    report = json.loads(json.dumps(run(Options("network", threads=(1,))), allow_nan=False))
    assert damage(report) == ""
    assert [records[0]["direction"] for records in grouped(report)] == list(DIRECTIONS)
    for records in grouped(report):
        fused, reference = records
        assert [(r["variant"], r["kind"], r["status"]) for r in records] == [
            ("fused", "kernel", "ok"),
            ("reference", "eager", "ok"),
        ]
        assert fused["group"] == f"network/cpu/tiny/float32/{fused['direction']}/1-thread"
        assert fused["clips_per_second"] == pytest.approx(4 / fused["seconds"])
        assert fused["floor_multiple"] == pytest.approx(fused["seconds"] / fused["floor_seconds"])
        assert fused["ratios"] == {"reference": pytest.approx(reference["seconds"] / fused["seconds"])}
        assert [t["text"].split()[0] for t in fused["targets"]] == [fused["direction"]]
        assert 0 < fused["error"] <= fused["allowed_error"]
        lines = group_lines(records)
        assert "clips/s" in lines[2]
        assert "GB/s" not in lines[2]
    assert report["results"][2]["products"] == 3 * report["results"][0]["products"]
    assert {change.verdict for change in compare(report, report).changes} == {"same"}
    assert compare({**report, "results": [], "options": {"pattern": ""}}, report).left_out == 2
    assert len(benchmark_bars(report).axes) == 2


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("what", ["logits", "gradient"])
def test_a_wrong_network_gets_no_speed(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    right = NetworkData._create

    def create(self: NetworkData, backend: str | None) -> nn.Module:
        net = right(self, backend)
        if backend is None and what == "logits":
            net.fc.register_forward_hook(lambda module, inputs, output: output * 1.001)  # type: ignore[operator]
        elif backend is None:
            net.layer3[0].conv1.weight.register_hook(lambda grad: grad * 1.001)  # type: ignore[index]
        return net

    monkeypatch.setattr(NetworkData, "_create", create)
    records = {(r["direction"], r["variant"]): r for r in run(Options("network", threads=(1,)))["results"]}
    wrong = records["training", "fused"]
    assert wrong["status"] == "wrong"
    assert "seconds" not in wrong
    assert [t["verdict"] for t in wrong["targets"]] == ["missed"]
    named = "logits" if what == "logits" else "gradient of layer3.0.conv1.weight"
    assert wrong["reason"].startswith(f"{named} is off by")
    assert records["inference", "fused"]["status"] == ("wrong" if what == "logits" else "ok")
    assert records["training", "reference"]["status"] == "ok"


@pytest.mark.slow
@pytest.mark.usefixtures("tiny")
def test_compiled_networks_are_variants(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    records = run(Options("network*training", threads=(1,), compile=True))["results"]
    assert [(r["variant"], r["kind"], r["status"]) for r in records] == [
        ("fused", "kernel", "ok"),
        ("reference", "eager", "ok"),
        ("compiled fused", "compile", "ok"),
        ("torch.compile", "compile", "ok"),
    ]
    assert set(records[0]["ratios"]) == {"reference", "compiled fused", "torch.compile"}


def test_each_of_the_checks_refuses_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    for dtype, factor in ((torch.bfloat16, 1.1), (torch.float32, 1.0001)):
        data = NetworkData(SIZE, dtype)
        found = data.results(data.network(None, "inference"), "inference")
        assert not data.judge(found, "inference").reason
        assert data.judge({"logits": found["logits"] * factor}, "inference").reason
    right = NetworkData._create

    def create(self: NetworkData, backend: str | None) -> nn.Module:
        net = right(self, backend)
        if backend is None:
            net.fc.register_forward_hook(lambda module, inputs, output: output * 1.00001)  # type: ignore[operator]
        return net

    monkeypatch.setattr(NetworkData, "_create", create)
    assert NetworkData(SIZE, torch.bfloat16).same_function(None, "inference").reason


def test_batch_norms_know_the_clips() -> None:
    """Or inference would be of statistics that no trained network has."""
    data = NetworkData(
        dataclasses.replace(SIZE, params={**SIZE.params, "clip": (2, 3, 8, 32, 32)}), torch.float32
    )
    net = data.network("reference", "training")
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    known = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    assert len(known) == len(norms) > 0
    for norm in norms:
        assert norm.momentum == 0.1
        norm.momentum = 1.0
    data.step(net, "training")()
    for norm, mean in zip(norms, known, strict=True):
        torch.testing.assert_close(norm.running_mean, mean)


def test_a_training_step_takes_the_networks_own_losses() -> None:
    class Own(nn.Module):
        own_losses = ("size",)

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

        def forward(self, clip: torch.Tensor, return_losses: bool = False) -> Any:
            assert return_losses
            return torch.zeros(len(clip), 5, requires_grad=True), {"size": 2 * self.weight.sum()}

    net = Own()
    NetworkData(SIZE, torch.float32).step(net, "training")()
    assert net.weight.grad is not None
    assert net.weight.grad.tolist() == [2.0] * 3


def test_cudnn_tries_its_algorithms() -> None:
    before = torch.backends.cudnn.benchmark
    for device in ("cuda", "cpu"):
        with network_timing._usual_mode(device):
            assert torch.backends.cudnn.benchmark == (before or device == "cuda")
        assert torch.backends.cudnn.benchmark == before


def test_graphs_are_variants_on_a_gpu() -> None:
    group = plan(Options("network/cpu/mstnet", ("reference",), (1,)))[0]
    workload = dataclasses.replace(group.workload, device="cuda")
    on_gpu = dataclasses.replace(group, workload=workload, backends=("fused",))
    assert [(v.name, v.kind, v.backend) for v in network_variants(on_gpu)] == [
        ("fused", "kernel", None),
        ("reference", "eager", "reference"),
        ("fused graph", "graph", None),
        ("graph", "graph", "reference"),
    ]


@pytest.mark.usefixtures("tiny")
def test_graphs_make_room_for_what_has_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph keeps its memory while others are timed; where that is too much, it is left out, not the group."""

    def variants(group: Group, *, compiled: bool = False) -> list[NetworkVariant]:
        return [*network_variants(group), NetworkVariant("graph", "graph", "NCTHW", "reference")]

    def full(steps: dict[str, Any], *args: Any) -> dict[str, Timing]:
        if "graph" in steps:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return interleave(steps, *args)

    monkeypatch.setattr(network_timing, "network_variants", variants)
    monkeypatch.setattr(network_timing, "graphed", lambda step, pool: step)
    monkeypatch.setattr(network_timing, "interleave", full)
    records = run(Options("network*inference", threads=(1,)))["results"]
    assert [(r["variant"], r["status"]) for r in records] == [
        ("graph", "unavailable"),
        ("fused", "ok"),
        ("reference", "ok"),
    ]
    assert records[0]["reason"] == (
        "other variants need its memory: CUDA out of memory. Tried to allocate 1 GiB"
    )


def results(**more: float) -> dict[str, torch.Tensor]:
    """Logits of one, and gradients that are one or what is given."""
    values = {"logits": 1.0, "a": 1.0, "b": 1.0, **more}
    return {name: torch.full((2, 2), value, dtype=torch.float64) for name, value in values.items()}


@pytest.mark.parametrize(
    ("ours", "reason"),
    [
        ({"a": 1.0003}, ""),
        ({"a": 1.0004}, "gradient of a is off by 4.00e-04, 3.01e-04 is allowed"),
        ({"logits": 1.0001}, "logits is off by 1.00e-04, 1.00e-06 is allowed"),
        ({"b": float("nan")}, "gradient of b is off by nan"),
        ({"c": 1.0}, "gradients of other parameters than the reference's: c"),
    ],
)
def test_three_times_the_references_error_is_allowed(ours: dict[str, float], reason: str) -> None:
    verdict = compare_networks(results(**ours), results(a=1.0001, b=1.0001), results(), 3, 1e-6)
    assert verdict.reason.startswith(reason)
    assert bool(verdict.reason) == bool(reason)


def test_a_gradient_that_is_zero_is_set_against_the_usual_one() -> None:
    exact, same = results(z=1e-17), results(z=2e-17)
    assert not compare_networks(results(z=1e-12), same, exact, 3, 1e-7).reason
    assert "gradient of z" in compare_networks(results(z=1e-5), same, exact, 3, 1e-7).reason


def test_a_batch_is_its_distinct_clips_again_and_again() -> None:
    many = NetworkData(SIZE, torch.float64)
    few = NetworkData(
        dataclasses.replace(SIZE, params={**SIZE.params, "clip": (2, 3, 8, 32, 32)}), many.dtype
    )
    for direction in DIRECTIONS:
        a, b = (d.results(d.network("reference", direction), direction) for d in (many, few))
        b["logits"] = b["logits"].repeat(2, 1)
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    with pytest.raises(ValueError, match="3 distinct clips do not fill a batch of 4"):
        NetworkData(dataclasses.replace(SIZE, params={**SIZE.params, "distinct": 3}), torch.float32)


def test_boxes_follow_their_clips() -> None:
    size = {"network": "tiny_st_slowfast", "clip": (4, 3, 8, 32, 32), "distinct": 2, "boxes": 3}
    batch = NetworkData(dataclasses.replace(SIZE, params=size), torch.float32)._batch(torch.float32, 4)
    assert batch["boxes"][:, 0].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert torch.equal(batch["boxes"][:6, 1:], batch["boxes"][6:, 1:])
    assert batch["labels"].shape == (12, 8)
    assert bool((batch["boxes"][:, 3:] <= 32).all())


def test_16_bits_are_autocast_in_training_and_converted_in_inference() -> None:
    data = small_network("tiny_tsn", "cpu", torch.bfloat16)
    dtypes = {d: next(data.network(None, d).parameters()).dtype for d in DIRECTIONS}
    assert dtypes == {"inference": torch.bfloat16, "training": torch.float32}
    logits = data.results(data.network(None, "training"), "training")["logits"]
    assert logits.dtype == torch.bfloat16
    assert not any(m.p for m in data.network(None, "training").modules() if isinstance(m, nn.Dropout))
    assert not data.same_function(None, "training").reason


@pytest.mark.parametrize(
    "name",
    ["tiny_mstnet", pytest.param("tiny_tesnet", marks=pytest.mark.slow)],  # the second with a loss of its own
)
def test_small_networks_are_right(name: str) -> None:
    found = list(run_small_network(name, "cpu"))
    assert [result.name for result in found] == [
        f"{name} fused {dtype} {direction}" for dtype in ("float32", "bfloat16") for direction in DIRECTIONS
    ]
    assert not [result for result in found if result.reason]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("name", ["tiny_mstnet", "tiny_mf_kpsem"])
def test_replays_of_a_graph_are_the_same_bits(name: str) -> None:
    assert [result.reason for result in replay_small(name)] == ["", ""]


def test_awake_raises_what_starts_at_zero() -> None:
    net = TSN(3, blocks=(1,), width=8)
    nn.init.zeros_(net.layer1[0].bn3.weight)  # type: ignore[index]
    nn.init.zeros_(net.fc.weight)
    awake(net)
    assert all(bool(parameter.any()) for parameter in net.parameters() if parameter.ndim > 1)
    assert net.layer1[0].bn3.weight.tolist() == [1.0] * 32  # type: ignore[index]
