"""Whole runs: files left behind, resume to the same bits, what is kept."""

from __future__ import annotations

import csv
import functools
import io
import random
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from tests.training.runs import Killed, kill_at, rows
from vidops.models import create_model, load_weights
from vidops.training import callbacks, fit, read_checkpoint
from vidops.training.callbacks import BestAndLast
from vidops.training.metrics_log import MetricsLog
from vidops.training.module import Recognizer

COLUMNS = ["epoch", "step", "lr", "train_loss"]


def weights(path: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(path).weights


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    for key, tensor in first.items():
        assert torch.equal(tensor, second[key]), key


@pytest.mark.parametrize(
    ("killed", "schedule"),
    [
        ((0, 1), {"name": "one_cycle"}),
        ((1, 0), {"name": "cosine", "warmup_epochs": 1.0}),
        ((2, 2), {"name": "one_cycle"}),
        ((2, 0), {"name": "steps", "milestones": [1, 2]}),
    ],
    ids=["first-epoch", "epoch-start", "last-batch", "steps"],
)
def test_killed_and_resumed_ends_with_the_same_weights(
    make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schedule: Any, killed: tuple[int, int]
) -> None:
    unbroken = make_config(output=str(tmp_path / "unbroken"), schedule=schedule)
    whole = fit(unbroken)
    config = make_config(schedule=schedule)
    with monkeypatch.context() as patch:
        kill_at(patch, *killed)
        with pytest.raises(Killed):
            fit(config)
    random.seed(1)
    torch.manual_seed(1)  # a new process has another global generator
    resumed = fit(config, resume=True)
    assert_same(weights(whole.last), weights(resumed.last))
    assert_same(weights(whole.best), weights(resumed.best))
    first, second = (torch.load(r.last, weights_only=True)["optimizer_states"] for r in (whole, resumed))
    for key, state in first[0]["state"].items():
        assert_same(state, second[0]["state"][key])
    assert resumed.metrics == whole.metrics
    assert resumed.best_score == whole.best_score
    assert rows(whole.output) == rows(resumed.output)


def test_weights_do_not_depend_on_the_workers(make_config: Any, tmp_path: Path) -> None:
    alone = fit(make_config(output=str(tmp_path / "alone"), epochs=2))
    helped = fit(make_config(output=str(tmp_path / "helped"), epochs=2, data__workers=2))
    assert_same(weights(alone.last), weights(helped.last))


def test_resume_with_workers(make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fit(make_config(output=str(tmp_path / "whole")))
    with monkeypatch.context() as patch:
        kill_at(patch, 1, 1)
        with pytest.raises(Killed):
            fit(make_config(data__workers=1))
    resumed = fit(make_config(data__workers=1), resume=True)
    assert_same(weights(whole.last), weights(resumed.last))


def test_every_epoch_sees_other_crops_in_another_order(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, list[int], torch.Tensor]] = []
    step = Recognizer.training_step

    def training_step(self: Recognizer, data: Any, batch_idx: int) -> torch.Tensor:
        seen.append((self.current_epoch, data["index"].tolist(), data["clip"].sum((1, 2, 3, 4))))
        return step(self, data, batch_idx)

    monkeypatch.setattr(Recognizer, "training_step", training_step)
    fit(make_config(epochs=2))
    orders = [[i for epoch, order, _ in seen if epoch == e for i in order] for e in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(24))
    assert orders[0] != orders[1]
    sums = [
        dict(zip(orders[e], torch.cat([s for epoch, _, s in seen if epoch == e]).tolist(), strict=True))
        for e in (0, 1)
    ]
    assert sum(sums[0][i] != sums[1][i] for i in range(24)) > 12


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_bar_on_a_terminal_leaves_the_lines_whole(make_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # tqdm redraws ten times a second, which a fast machine's epoch may not last
    monkeypatch.setattr(callbacks, "tqdm", functools.partial(callbacks.tqdm, mininterval=0))
    out = Tty()
    fit(make_config(epochs=2), out=out)
    pieces = out.getvalue().replace("\n", "\r").split("\r")
    assert any(piece.startswith("epoch 2/2") and "loss" in piece for piece in pieces)
    assert any(piece.startswith("validation") for piece in pieces)
    lines = [piece for piece in pieces if piece.strip().startswith(("1/2", "2/2"))]
    assert len(lines) == 2
    assert all(len(line.split()) == 8 for line in lines)
    assert out.getvalue().endswith(lines[1] + "\n")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_on_a_gpu(make_config: Any, precision: str) -> None:
    from vidops.evaluation import evaluate

    result = fit(make_config(accelerator="cuda", precision=precision, data__workers=2))
    report = evaluate(result.last)
    assert report.samples == 12
    assert report.loss == pytest.approx(result.metrics["val_loss"], rel=1e-5 if precision == "fp32" else 1e-2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_fp16_resumed_on_a_gpu(make_config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        **{"accelerator": "cuda", "precision": "fp16", "data__batch_size": 4, "accumulate": 2},
        **{"clip_norm": 1.0, "ema": 0.9, "checkpoint_every": 1},
    }
    whole = fit(make_config(output=str(tmp_path / "whole"), **settings))
    with monkeypatch.context() as patch:
        kill_at(patch, 1, 3)
        with pytest.raises(Killed):
            fit(make_config(**settings))
    resumed = fit(make_config(**settings), resume=True)
    ours, theirs = (torch.load(r.last, weights_only=True) for r in (whole, resumed))
    assert ours["MixedPrecision"]["scale"] == theirs["MixedPrecision"]["scale"]
    # cuDNN may choose another algorithm in the resumed run: half precision's unit, over the 4 steps that are left.
    for key in ("state_dict", "trained_state_dict"):
        for name, tensor in ours[key].items():
            torch.testing.assert_close(theirs[key][name], tensor, rtol=1e-2, atol=4e-3, msg=f"{key}: {name}")


@pytest.mark.parametrize("tf32", [False, True])
def test_fp32_means_fp32_unless_tf32_is_asked_for(
    make_config: Any, monkeypatch: pytest.MonkeyPatch, tf32: bool
) -> None:
    places = (torch.backends.cuda.matmul, torch.backends.cudnn.conv)
    before = [place.fp32_precision for place in places]
    seen: set[tuple[str, bool]] = set()
    step = Recognizer.training_step

    def training_step(self: Recognizer, data: Any, batch_idx: int) -> torch.Tensor:
        seen.add((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
        with torch.backends.cudnn.flags(enabled=True):  # raises where torch's older settings have no answer
            pass
        return step(self, data, batch_idx)

    monkeypatch.setattr(Recognizer, "training_step", training_step)
    fit(make_config(epochs=1, tf32=tf32))
    assert seen == {("high", True) if tf32 else ("highest", False)}
    assert [place.fp32_precision for place in places] == before


def test_a_run_that_has_trained_nothing_is_begun_anew(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(epochs=1)
    with monkeypatch.context() as patch:
        kill_at(patch, 0, 0)
        with pytest.raises(Killed):
            fit(config)
    assert (Path(config.output) / "metrics.csv").is_file()
    assert fit(config).epochs == 1


def test_files_output_and_silence(
    make_config: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    state = torch.get_rng_state()
    out = io.StringIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = fit(make_config(epochs=2), out=out)
    assert [str(w.message) for w in caught] == []
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    assert torch.equal(state, torch.get_rng_state())
    assert list(elsewhere.iterdir()) == []
    names = {p.name for p in result.output.iterdir()} - {"tensorboard", ".lock"}
    assert names == {"config.yaml", "metrics.csv", "best.ckpt", "last.ckpt"}
    lines = out.getvalue().splitlines()
    assert lines[0].startswith("tiny_tsm: ")
    assert lines[0].endswith("4 classes, 24 training and 12 validation videos")
    assert [line.split()[0] for line in lines[1:]] == ["epoch", "1/2", "2/2"]
    assert len({len(line) for line in lines[1:]}) == 1
    assert "\r" not in out.getvalue()
    steps = [int(row["step"]) for row in rows(result.output)]
    assert steps == [1, 2, 3, 3, 4, 5, 6, 6]


def noting_dtypes(seen: set[torch.dtype]) -> Any:
    """Make networks that note what their last convolution puts out."""

    def build(*args: Any, **options: Any) -> torch.nn.Module:
        net = create_model(*args, **options)
        net.layer4[0].conv2.register_forward_hook(lambda module, inputs, out: seen.add(out.dtype))
        return net

    return build


@pytest.mark.parametrize(
    "changes",
    [{"precision": "bf16"}, {"optimizer": {"name": "sgd", "lr": 0.01, "weight_decay": 5e-4}}],
    ids=["bf16", "sgd"],
)
def test_other_precision_and_optimizer(
    make_config: Any, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[torch.dtype] = set()
    monkeypatch.setattr("vidops.training.start.create_model", noting_dtypes(seen))
    result = fit(make_config(epochs=1, **changes))
    assert seen == {torch.bfloat16 if "precision" in changes else torch.float32}
    first = weights(result.last)
    assert all(t.dtype != torch.bfloat16 for t in first.values())
    assert 0 < result.metrics["val_loss"] < 10


def test_checkpoint_carries_recipe_classes_and_figures(make_config: Any) -> None:
    config = make_config(epochs=2)
    result = fit(config)
    last = read_checkpoint(result.last)
    assert last.config == config
    assert last.classes == ["right", "left", "down", "up"]
    assert last.epochs == 2
    assert last.metrics == result.metrics
    assert read_checkpoint(result.best).metrics["val_top1"] == result.best_score >= last.metrics["val_top1"]


def test_training_starts_from_given_weights(make_config: Any, tmp_path: Path) -> None:
    first = fit(make_config(epochs=1))
    net = create_model("tiny_tsm", num_classes=4)
    load_weights(net, first.best)  # a checkpoint is a file of weights too
    assert_same(net.state_dict(), weights(first.best))
    changes = {"model__weights": str(first.best), "optimizer__lr": 1e-30, "epochs": 1}
    for part, same in (("all", True), ("features", False)):
        tuned = fit(make_config(output=str(tmp_path / part), model__part=part, **changes))
        parameters = dict(net.named_parameters())
        kept = {k: torch.equal(v, weights(tuned.last)[k]) for k, v in parameters.items()}
        assert kept.pop("fc.weight") is same
        assert kept.pop("fc.bias") or not same
        assert all(kept.values())
    with pytest.raises(FileNotFoundError, match=r"none.pt: no such"):
        fit(make_config(output=str(tmp_path / "x"), model__weights="none.pt"))
    assert not (tmp_path / "x").exists()


def test_best_has_the_highest_top1_and_then_the_lowest_loss(
    make_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = iter([(0.5, 0.1), (0.75, 0.8), (0.75, 0.6), (0.75, 0.6), (0.75, 0.7), (0.25, 0.1)])
    end = Recognizer.on_validation_epoch_end

    def on_validation_epoch_end(self: Recognizer) -> None:
        end(self)
        self.metrics["val_top1"], self.metrics["val_loss"] = next(measured)

    monkeypatch.setattr(Recognizer, "on_validation_epoch_end", on_validation_epoch_end)
    config = make_config(epochs=6)
    with monkeypatch.context() as patch:
        kill_at(patch, 4, 0)
        with pytest.raises(Killed):
            fit(config)
    result = fit(config, resume=True)
    assert result.best_score == 0.75
    assert read_checkpoint(result.best).epochs == 3
    assert read_checkpoint(result.last).epochs == 6


def test_best_survives_a_moved_folder(make_config: Any, tmp_path: Path) -> None:
    fit(make_config(epochs=1))
    (tmp_path / "run").rename(tmp_path / "moved")
    state = torch.load(tmp_path / "moved" / "last.ckpt", weights_only=True)
    assert state["callbacks"][BestAndLast.__qualname__]["best"] >= 0
    assert str(tmp_path) not in str(state["callbacks"])


def test_killed_while_a_checkpoint_is_written(make_config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    save, config = torch.save, make_config()
    saves = 0

    def die_in_the_middle(content: Any, path: Path) -> None:
        nonlocal saves
        saves += 1
        save(content, path)
        if saves == 4 or (saves == 3 and content["vidops"]["epochs"] == 2):
            path.write_bytes(path.read_bytes()[:5000])
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", die_in_the_middle)
        with pytest.raises(Killed):
            fit(config)
    assert read_checkpoint(Path(config.output) / "last.ckpt").epochs == 1
    part = Path(config.output) / ".last.ckpt.4711.tmp"  # what SIGKILL leaves
    part.write_bytes(b"half")
    assert fit(config, resume=True).epochs == 3
    assert not part.exists()


def test_log_of_a_resumed_run_drops_half_a_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log = MetricsLog(path, columns=COLUMNS)
    for step in (1, 2, 3):
        log.add(1, step, {"train_loss": 0.5 / step})
    with path.open("a") as file:
        file.write("1,2")  # what was to be step 20
    MetricsLog(path, step=2, columns=COLUMNS).add(2, 3, {"train_loss": 0.1})
    assert [(r["step"], r["train_loss"]) for r in csv.DictReader(path.open())] == [
        ("1", "0.5"),
        ("2", "0.25"),
        ("3", "0.1"),
    ]


@pytest.mark.parametrize(
    "content",
    [
        b"epoch,step\n1,two\n1,3\n",
        b"epoch,step,lr\n1,1,0.1,9,9\n1,2,0.1\n",
        b"epoch,step,foo\n1,1,2\n1,2,3\n",
        b"epoch,step\n1,1\n\xff\n",
    ],
    ids=["word", "columns", "foreign", "bytes"],
)
def test_a_damaged_log_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"metrics.csv: is damaged .*move it away"):
        MetricsLog(path, step=2, columns=COLUMNS)
    assert path.read_bytes() == content
