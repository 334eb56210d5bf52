"""Reports of trained checkpoints, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from vidops.cli import main
from vidops.evaluation import evaluate
from vidops.evaluation.evaluator import describe_list, measure
from vidops.models import create_model
from vidops.training import NonFiniteLossError, load_config, read_checkpoint, restore
from vidops.training.loading import build_dataset, read_list


def test_counts_equal_a_hand_computation(run: Path) -> None:
    report = evaluate(run / "best.ckpt")
    checkpoint = read_checkpoint(run / "best.ckpt")
    net = restore(checkpoint)
    dataset = build_dataset(checkpoint.config, read_list(checkpoint.config, "val"), training=False)
    confusion, loss = np.zeros((4, 4), int), 0.0
    with torch.no_grad():
        for item in (dataset[i] for i in range(len(dataset))):
            logits = net(item["clip"][None])[0]
            confusion[item["label"], int(logits.argmax())] += 1
            loss -= float(logits.log_softmax(0)[item["label"]])
    assert (report.confusion == confusion).all()
    assert report.samples == len(dataset) == 12  # in batches of 5, 5 and 2
    assert report.loss == pytest.approx(loss / 12, rel=1e-5)
    assert report.top1 == np.trace(confusion) / 12 == checkpoint.metrics["val_top1"]
    assert report.loss == pytest.approx(checkpoint.metrics["val_loss"], rel=1e-6)


def test_batch_size_and_workers_change_nothing(run: Path, motion: Path) -> None:
    confusions = []
    for override in (["data.eval_batch_size=12"], ["data.eval_batch_size=1"], ["data.workers=2"]):
        config = load_config(run / "config.yaml", override)
        confusions.append(evaluate(run / "best.ckpt", config).confusion.tolist())
    assert confusions[0] == confusions[1] == confusions[2]


def test_splits_in_one_folder_are_told_apart(run: Path) -> None:
    lists = [describe_list(load_config(run / "config.yaml", [f"data.split={i}"]), "val") for i in (1, 2, 3)]
    assert len(set(lists)) == 3
    assert lists[1] == f"{lists[0]}, split 2"


def test_training_list_can_be_measured(run: Path) -> None:
    assert evaluate(run / "last.ckpt", split="train").samples == 24


def test_report_is_written_whole(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "reports" / "report.json"
    report = evaluate(run / "best.ckpt", json_path=target)
    written = json.loads(target.read_text())
    assert written == report.as_dict()
    assert written["model"] == "tiny_tsm"
    before = target.read_text()

    def fail(self: Path, text: str, encoding: str) -> int:
        with open(self, "w") as file:
            file.write(text[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="no space left"):
        evaluate(run / "best.ckpt", json_path=target)
    assert target.read_text() == before
    assert [p.name for p in target.parent.iterdir()] == ["report.json"]


def test_bare_weights_need_a_recipe(run: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(run / "best.ckpt")
    bare = tmp_path / "weights.pth"
    torch.save(restore(checkpoint).state_dict(), bare)
    assert (evaluate(bare, checkpoint.config).confusion == evaluate(run / "best.ckpt").confusion).all()
    with pytest.raises(ValueError, match=r"weights.pth: holds no recipe, so it is no checkpoint"):
        evaluate(bare)


def test_checkpoint_of_another_network(run: Path) -> None:
    config = load_config(run / "config.yaml", ["model.name=tiny_tsn"])
    with pytest.raises(
        ValueError, match=r"best.ckpt: is a checkpoint of another network: model.name is 'tiny_tsm'"
    ):
        evaluate(run / "best.ckpt", config)
    content = torch.load(run / "best.ckpt", weights_only=True)
    content["vidops"]["config"]["model"]["name"] = "tiny_mstnet"
    torch.save(content, run / "mixed.ckpt")
    with pytest.raises(ValueError, match=r"mixed.ckpt: not weights of this \w+: "):
        evaluate(run / "mixed.ckpt")


def test_no_checkpoint(run: Path, tmp_path: Path) -> None:
    for name, content in (("text.ckpt", b"hello"), ("empty.ckpt", b""), ("part.ckpt", None)):
        path = tmp_path / name
        path.write_bytes((run / "best.ckpt").read_bytes()[:-2000] if content is None else content)
        with pytest.raises(ValueError, match=rf"{name}: is no checkpoint") as caught:
            evaluate(path)
        assert "\n" not in str(caught.value)
    torch.save([1, 2], tmp_path / "list.ckpt")
    with pytest.raises(ValueError, match=r"list.ckpt: is no checkpoint \(it holds a list\)"):
        evaluate(tmp_path / "list.ckpt")
    torch.save(create_model("tiny_tsn", num_classes=3), tmp_path / "pickle.ckpt")
    with pytest.raises(ValueError, match=r"pickle.ckpt: is no checkpoint"):
        evaluate(tmp_path / "pickle.ckpt")
    content = torch.load(run / "best.ckpt", weights_only=True)
    del content["vidops"]["classes"]
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(ValueError, match=r"bad.ckpt: is a damaged checkpoint \(KeyError: 'classes'\)"):
        evaluate(tmp_path / "bad.ckpt")


def test_broken_video_is_an_error(run: Path, motion: Path, tmp_path: Path) -> None:
    good = motion / "videos" / "right" / "val_00000.mp4"
    (tmp_path / "cut.mp4").write_bytes(good.read_bytes()[:300])
    (tmp_path / "list.csv").write_text(f"{good},0\n{tmp_path / 'cut.mp4'},1\n")
    config = load_config(run / "config.yaml", [f"data.val={tmp_path / 'list.csv'}"])
    with pytest.raises(ValueError, match=rf"{tmp_path / 'cut.mp4'}: "):
        evaluate(run / "best.ckpt", config)


def test_numbers_that_are_none_are_not_counted(run: Path) -> None:
    checkpoint = read_checkpoint(run / "best.ckpt")
    net = restore(checkpoint)
    with torch.no_grad():
        net.fc.bias[0] = float("nan")
    with pytest.raises(NonFiniteLossError, match=r"not finite for: .*val_00000.mp4"):
        measure(net, checkpoint.config, read_list(checkpoint.config, "val"))


def test_command(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "r.json"
    arguments = ["evaluate", "--config", str(run / "config.yaml"), "--weights", str(run / "best.ckpt")]
    assert main([*arguments, "--json", str(report), "data.eval_batch_size=3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["class", "right", "left", "down", "up"]
    assert {line.split()[1] for line in lines[1:5]} == {"3"}
    top1 = json.loads(report.read_text())["top1"]
    assert f"tiny_tsm: top-1 {top1:.2%}, mean class" in lines[5]
    assert lines[6] == f"report: {report}"


def test_keys_change_the_checkpoints_own_recipe(
    run: Path, motion: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "two.csv").write_text(
        "".join((motion / "val.csv").read_text().splitlines(keepends=True)[1:3])
    )
    report = tmp_path / "r.json"
    command = ["evaluate", "--weights", str(run / "best.ckpt")]
    assert main([*command, "--json", str(report), f"data.val={tmp_path / 'two.csv'}"]) == 0
    assert json.loads(report.read_text())["samples"] == 2
    capsys.readouterr()
    assert main([*command, "data.vaal=two.csv"]) == 2
    assert f"recipe of {run / 'best.ckpt'} with data.vaal=two.csv: " in capsys.readouterr().err


def test_command_names_a_missing_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--weights", "none.ckpt"]) == 2
    assert capsys.readouterr().err == "vidops evaluate: error: none.ckpt: no such file\n"


@pytest.mark.parametrize("option", ["--report", "--json", "--confusion", "--scores"])
def test_files_that_cannot_be_are_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    name = {"--confusion": "c.png", "--scores": "s.npz"}.get(option, "r.json")
    (tmp_path / "file").touch()
    for folder, top in ((tmp_path / "file" / "new", tmp_path / "file"), (Path("/proc/nope"), Path("/proc"))):
        path = folder / name
        # The weights are missing too, but that is not what is said.
        assert main(["evaluate", "--weights", "none.ckpt", option, str(path)]) == 2
        assert f"error: {option} {path}: cannot write to {top} (" in capsys.readouterr().err
    assert main(["evaluate", "--weights", "none.ckpt", option, str(tmp_path / "a" / "b" / name)]) == 2
    assert capsys.readouterr().err == "vidops evaluate: error: none.ckpt: no such file\n"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_helpers_take_any_configuration(make_config: Any) -> None:
    config = make_config(data__short_side=None, data__size=None)
    assert build_dataset(config, read_list(config, "val"), training=False)[0]["clip"].shape == (3, 8, 64, 64)


def test_a_relative_root_that_is_not_here_says_what_to_do(
    motion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.training.fixtures import recipe
    from vidops.training import fit
    from vidops.training.config import validate

    monkeypatch.chdir(motion.parent)
    content = recipe(Path("motion"), tmp_path / "run", epochs=1)
    last = fit(validate(content, "test recipe")).last
    monkeypatch.chdir(tmp_path)
    text = (
        rf"^{tmp_path}/motion/val.csv: no such .* has data.root=motion, .*--config .*/config.yaml data.root="
    )
    with pytest.raises(FileNotFoundError, match=text):
        evaluate(last)
