from __future__ import annotations

import warnings
from pathlib import Path

import pytest

import vidops
from vidops.cli import main
from vidops.training.config import shipped_recipes


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "tiny_ts[mn]"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines] == [
        ["model", "input"],
        ["tiny_tsm", "8x64x64"],
        ["tiny_tsn", "8x64x64"],
    ]


def test_stats(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "mstnet_resnet50", "--stats"]) == 0
    out = capsys.readouterr().out
    table, _, notes = out.partition("\n\n")
    rows = [line.split() for line in table.splitlines()[1:]]
    assert len(rows) == 11
    assert rows[0][:9] == [
        "mstnet_resnet50",
        "-",
        "8x224x224",
        "400",
        "24.380",
        "24.38",
        "32.883",
        "32.88",
        "+0.0",
    ]
    assert [row[6:8] for row in rows if row[1] == "kernel_sizes=(1,3,5,7)"] == [["+0.180", "+0.18"]]
    assert notes.startswith("[1] ")
    assert len({line.index("x224x224") for line in table.splitlines()[1:]}) == 1


def test_what_is_unaccounted_for_is_noted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "dan_x3d_m", "--stats"]) == 0
    table, _, notes = capsys.readouterr().out.partition("\n\n")
    assert notes.count("156 multiply-adds for each pixel") == 1
    assert [line.endswith("table 3.6 [1]") for line in table.splitlines()] == [False, True, False]


def test_unknown_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "zz*"]) == 2
    assert "no model matches 'zz*'; known are bqn_tsm_mobilenetv2" in capsys.readouterr().err
    assert main(["models", "x3dm"]) == 2
    assert "no model matches 'x3dm'; did you mean x3d_m" in capsys.readouterr().err


def test_warnings_of_vidops_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []

    def run(args: object) -> int:
        for file in (vidops.__file__, "/elsewhere/torch/a.py"):
            found.append(warnings.formatwarning("flow takes minutes", UserWarning, file, 3, "x = 1"))
        return 0

    monkeypatch.setattr("vidops.cli.models.run", run)
    before = warnings.formatwarning
    assert main(["models"]) == 0
    assert found[0] == "vidops models: warning: flow takes minutes\n"
    assert found[1].startswith("/elsewhere/torch/a.py:3: UserWarning: flow takes minutes")
    assert warnings.formatwarning is before


@pytest.mark.parametrize(
    "words",
    [
        ["--resume", "epochz=9"],
        ["epochs=1", "--resume", "epochz=9"],
        ["seed=1", "--resume", "epochs=2", "--resume", "epochz=9"],
    ],
)
def test_keys_may_follow_any_option(words: list[str]) -> None:
    recipe = str(shipped_recipes() / "demo" / "tiny_tsm.yaml")
    with pytest.raises(ValueError, match="epochz: is no known key"):
        main(["train", "--traceback", "--config", recipe, *words])


def test_what_is_no_key_is_unknown_still(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--config", "a.yaml", "epochs=1", "--resume", "epochs", "--lr=1"])
    assert "error: unrecognized arguments: epochs --lr=1" in capsys.readouterr().err


def test_an_interrupted_training_says_what_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vidops.training.trainer.fit", interrupted)
    command = ["train", "--config", str(shipped_recipes() / "demo" / "tiny_tsm.yaml"), f"output={tmp_path}"]
    assert main(command) == 130
    assert capsys.readouterr().err == "vidops train: interrupted\n"
    (tmp_path / "last.ckpt").touch()
    assert main(command) == 130
    assert (
        capsys.readouterr().err
        == f"vidops train: interrupted: --resume goes on from {tmp_path / 'last.ckpt'}\n"
    )
