"""The sweep over scales and sizes of the motion band-pass: what it trains, writes and goes on with."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("matplotlib", reason="pictures need matplotlib")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from vidops.cli import main
from vidops.layers.motion_band_pass import laplacian_of_gaussian
from vidops.training.sweep import Trial, read_trials, sweep
from vidops.visualize import sweep_plot

SMALL = [
    "data.size=24",
    "data.short_side=32",
    "data.batch_size=8",
    "epochs=1",
    "accelerator=cpu",
]


def spatial(output: Path, name: str) -> torch.Tensor:
    state = torch.load(output / "runs" / name / "last.ckpt", map_location="cpu", weights_only=True)[
        "state_dict"
    ]
    key = next(key for key in state if key.endswith("band_pass.spatial"))
    return state[key]


def test_two_scales_by_two_sizes(motion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sweep"
    command = ["sweep", "-o", str(out), "--data", str(motion), "--kinds", "trained"]
    assert main([*command, "--sigmas", "0.7", "--kernels", "3,5", *SMALL]) == 0
    shown = capsys.readouterr().out
    assert "[2/2] sigma 0.7, 5 x 5, trained, seed 0" in shown
    first = read_trials(out / "sweep.csv")
    assert [(t.sigma, t.kernel_size, t.kind) for t in first] == [(0.7, 3, "trained"), (0.7, 5, "trained")]
    assert all(0 <= t.top1 <= 1 for t in first)
    assert (out / "sweep.png").stat().st_size > 10_000

    # More scales: what is there is not trained again.
    times = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/last.ckpt")}
    assert main([*command, "--sigmas", "0.7,1.3", "--kernels", "3,5", *SMALL]) == 0
    both = read_trials(out / "sweep.csv")
    assert [(t.kernel_size, t.sigma) for t in both] == [(3, 0.7), (3, 1.3), (5, 0.7), (5, 1.3)]
    assert [t for t in both if t.sigma == 0.7] == first
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert "highest top-1" in capsys.readouterr().out

    # The filters started from those of the setting, and learned.
    for sigma in (0.7, 1.3):
        start = laplacian_of_gaussian(5, sigma).float().expand(3, 5, 5)
        learned = spatial(out, f"sigma{sigma:g}_k5_trained_0")
        assert 0 < float((learned - start).abs().max()) < 0.05

    with pytest.raises(ValueError, match="epochs"):  # the runs that are there were of another recipe
        sweep(
            out,
            data=motion,
            sigmas=[0.7],
            kernel_sizes=[3],
            overrides=[*SMALL, "epochs=2"],
            out=io.StringIO(),
        )


def test_several_runs_of_a_setting_have_seeds_of_their_own(motion: Path, tmp_path: Path) -> None:
    trials = sweep(
        tmp_path, data=motion, sigmas=[1.1], kernel_sizes=[3], kinds=["fixed"], runs=2, overrides=SMALL
    )
    assert [t.seed for t in trials] == [0, 1]
    assert trials[0].loss != trials[1].loss
    start = laplacian_of_gaussian(3, 1.1).float().expand(3, 3, 3)
    assert all(torch.equal(spatial(tmp_path, f"sigma1.1_k3_fixed_{seed}"), start) for seed in (0, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kinds", "fixed,new"], "kinds must be some of trained, fixed, got fixed, new"),
        (["--kinds", "both", "epochs=0"], "epochs"),
        (["--kernels", "4"], "kernel_sizes must be odd and at least 1, got 4"),
        (["--sigmas", "0"], "sigmas must be above 0, got 0"),
        (["--sigmas", "1,1"], "sigmas must be given, each once, got 1.0, 1.0"),
        (["--kinds", "new"], "kinds must be some of trained, fixed, got new"),
        (["--runs", "0"], "runs must be at least 1, got 0"),
        (["--kernels", "3", "epochs=0"], "epochs"),
        (["--kernels", "3", "model.options.norm=l3"], "norm must be one of l1, sum"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_made(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "-o", str(tmp_path / "new"), *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "new").exists()


def test_the_picture_has_a_line_each_size_and_kind() -> None:
    trials = [
        Trial(sigma, size, kind, seed, 0.01 * size + 0.1 * sigma + 0.02 * seed, 1.0)
        for size in (9, 3)
        for kind in ("trained", "fixed")
        for sigma in (1.1, 0.5)
        for seed in (0, 1)
    ]
    figure = sweep_plot(trials)
    axes = figure.axes[0]
    assert [c.get_label() for c in axes.containers] == [
        "3 x 3, trained",
        "3 x 3, fixed",
        "9 x 9, trained",
        "9 x 9, fixed",
    ]
    line = axes.containers[2].lines[0]
    assert line.get_xdata().tolist() == [0.5, 1.1]
    assert line.get_ydata().tolist() == pytest.approx([15.0, 21.0])  # means of two runs, in per cent
    assert [axes.containers[i].lines[0].get_linestyle() for i in (0, 1)] == ["-", "--"]
    assert axes.containers[0].has_yerr
    assert axes.get_xticks().tolist() == [0.5, 1.1]
    with pytest.raises(ValueError, match="sizes must be 1 to 6"):
        sweep_plot([])


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "sweep.csv").write_text("sigma,top1\n1.1,0.5\n")
    with pytest.raises(ValueError, match=r"is not the sweep.csv of vidops sweep"):
        read_trials(tmp_path / "sweep.csv")
