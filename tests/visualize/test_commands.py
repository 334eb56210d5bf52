"""``vidops visualize``: pictures from videos, checkpoints and names; errors of one line; no part of a file."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="checkpoints need lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")
pytest.importorskip("captum", reason="Grad-CAM needs captum")
pytest.importorskip("sklearn", reason="t-SNE needs scikit-learn")

from PIL import Image

from tests.training.fixtures import recipe
from vidops import visualize
from vidops.cli import main
from vidops.data import AnnotationList, Sample, read_frames
from vidops.data.flow import FlowSettings
from vidops.data.flow_store import FlowStore
from vidops.training import fit
from vidops.training.checkpoint import read_checkpoint, restore
from vidops.training.config import validate
from vidops.training.reading import build_dataset
from vidops.visualize import features_of_videos, grad_cam, load_subject

REAL = Path(__file__).parents[2].parent / "shared" / "videos"


def call(*arguments: object) -> int:
    return main(["visualize", *map(str, arguments)])


def is_picture(path: Path) -> bool:
    with Image.open(path) as picture:
        picture.load()
        return min(picture.size) > 50


def test_frames(video: Path, tmp_path: Path, drawn: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "frames.png"
    assert call("frames", video, "--frames", 3, "-o", out) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert is_picture(out)
    axes = drawn[0].axes
    assert [a.get_title() for a in axes] == ["frame 1, 0.10 s", "frame 4, 0.40 s", "frame 6, 0.60 s"]
    frames = read_frames(video, [1, 4, 6]) / np.float32(255)
    assert all(np.array_equal(a.images[0].get_array(), frame) for a, frame in zip(axes, frames, strict=True))
    assert drawn[0].get_suptitle() == "val_00000.mp4"


def test_frames_as_a_checkpoint_sees_them(
    video: Path, checkpoint: Path, tmp_path: Path, drawn: list[Any]
) -> None:
    assert call("frames", video, "--weights", checkpoint, "-o", tmp_path / "a.png") == 0
    assert drawn[0].get_suptitle() == "val_00000.mp4 as tiny_tsm, last.ckpt after 2 epochs sees it"
    centre = read_frames(video, range(8))[:, 4:28, 4:28] / np.float32(255)  # 24 of 32 pixels
    shown = [np.asarray(a.images[0].get_array()) for a in drawn[0].axes]
    assert np.array_equal(shown, centre)


def test_gradcam_of_a_checkpoint(video: Path, checkpoint: Path, tmp_path: Path, drawn: list[Any]) -> None:
    options = ("--class", "left", "--layer", "layer2", "-o", tmp_path / "cam.png")
    assert call("gradcam", video, "--weights", checkpoint, *options) == 0
    loaded = read_checkpoint(checkpoint)
    videos = AnnotationList([Sample(str(video), 0)], loaded.classes)
    clip = build_dataset(loaded.config, videos, training=False)[0]["clip"][None]
    found = grad_cam(restore(loaded), clip, target=loaded.classes.index("left"), layer="layer2")
    over = visualize.stretch_map(found.heat, 8, 24, 24)
    laid = [np.asarray(a.images[1].get_array()) for a in drawn[0].axes[:8]]
    assert np.array_equal(laid, over.numpy())
    likeliest = "the likeliest, " if found.predicted else ""
    assert drawn[0].get_suptitle().replace("\n", " ") == (
        f"val_00000.mp4: Grad-CAM of left ({likeliest}{found.probability:.1%}) at layer2 of tiny_tsm, last.ckpt"
        " after 2 epochs"
    )
    assert is_picture(tmp_path / "cam.png")


def test_random_weights_are_seeded_and_named(video: Path, tmp_path: Path, drawn: list[Any]) -> None:
    torch.manual_seed(11)
    state = torch.get_rng_state()
    for seed in (0, 0, 1):
        arguments = ("--model", "tiny_mstnet", "--seed", seed, "--class", 2, "-o", tmp_path / "cam.png")
        assert call("gradcam", video, *arguments) == 0
    assert torch.equal(torch.get_rng_state(), state)
    first, second, third = (np.asarray(f.axes[3].images[1].get_array()) for f in drawn)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, third)
    title = drawn[0].get_suptitle().replace("\n", " ")
    assert "Grad-CAM of class 2 (" in title
    assert title.endswith("at layer4 of tiny_mstnet with random weights")


def test_a_map_without_evidence_says_so(
    video: Path, tmp_path: Path, drawn: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = load_subject(model="tiny_tsn")
    torch.nn.init.constant_(subject.net.fc.weight, -1.0)  # features after ReLU: every class is spoken against
    monkeypatch.setattr(visualize, "load_subject", lambda **_: subject)
    assert call("gradcam", video, "--model", "tiny_tsn", "-o", tmp_path / "cam.png") == 0
    assert drawn[0].get_suptitle().replace("\n", " ").endswith("; nothing speaks for the class")
    assert drawn[0].axes[0].images[1].get_clim() == (0, 1)


def test_animations(video: Path, tmp_path: Path) -> None:
    for out in (tmp_path / "a.gif", tmp_path / "a.png"):
        options = ("--animate", "--fps", 8, "--layer", "layer1", "-o", out)
        assert call("heatmap", video, "--model", "tiny_tsn", *options) == 0
        with Image.open(out) as picture:
            assert picture.n_frames == 8


def test_a_map_of_ones_own(video: Path, tmp_path: Path, drawn: list[Any]) -> None:
    heat = np.random.default_rng(0).integers(-3, 9, (4, 3, 5))
    np.save(tmp_path / "map.npy", heat)
    limits = ("--limits", 0, 5, "--columns", 2)
    assert call("heatmap", video, "--map", tmp_path / "map.npy", *limits, "-o", tmp_path / "a.svg") == 0
    over = visualize.stretch_map(torch.from_numpy(heat), 4, 32, 32)
    laid = [a.images[1] for a in drawn[0].axes[:4]]
    assert np.array_equal([np.asarray(a.get_array()) for a in laid], over)
    assert {a.get_clim() for a in laid} == {(0, 5)}
    assert [a.get_title() for a in drawn[0].axes[:4]] == [f"frame {i}, {i / 10:.2f} s" for i in (1, 3, 5, 7)]


def test_tsne_of_a_list(motion: Path, checkpoint: Path, tmp_path: Path, drawn: list[Any]) -> None:
    arguments = ("tsne", motion / "val.csv", "--weights", checkpoint, "--batch-size", 5, "-o")
    assert call(*arguments, tmp_path / "a.png") == 0
    assert call(*arguments, tmp_path / "b.png", "--classes", "up, left") == 0
    loaded = read_checkpoint(checkpoint)
    legends = [[t.get_text() for t in f.axes[0].get_legend().get_texts()] for f in drawn]
    assert legends == [loaded.classes, [name for name in loaded.classes if name in ("up", "left")]]
    titles = [f.axes[0].get_title().replace("\n", " ") for f in drawn]
    assert titles == [
        "t-SNE of tiny_tsm, last.ckpt after 2 epochs: 12 videos, perplexity 3.67",
        "t-SNE of tiny_tsm, last.ckpt after 2 epochs: 6 videos, perplexity 1.67",
    ]
    assert sum(len(c.get_offsets()) for c in drawn[0].axes[0].collections) == 12


def test_tsne_reads_a_list_as_a_recipe_does(
    motion: Path, tmp_path: Path, drawn: list[Any], capsys: Any
) -> None:
    listed = tmp_path / "clips.list"
    listed.write_text((motion / "val.csv").read_text())
    arguments = ("tsne", listed, "--root", motion, "--model", "tiny_tsn", "-o", tmp_path / "a.png")
    assert call(*arguments) == 2
    assert "cannot tell its format" in capsys.readouterr().err
    assert call(*arguments, "--format", "csv") == 0
    assert len(drawn) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_features_give_the_networks_logits(motion: Path, checkpoint: Path, workers: int) -> None:
    subject = load_subject(weights=checkpoint)
    features, labels, classes = features_of_videos(subject, motion / "val.csv", batch_size=5, workers=workers)
    loaded = read_checkpoint(checkpoint)
    videos = visualize.networks.read_annotations(motion / "val.csv")
    dataset = build_dataset(loaded.config, videos, training=False)
    clips = torch.stack([dataset[i]["clip"] for i in range(len(dataset))])
    with torch.no_grad():
        torch.testing.assert_close(subject.net.fc(features), restore(loaded)(clips))
    assert labels == [sample.label for sample in videos.samples]
    assert classes == loaded.classes


@pytest.mark.filterwarnings("ignore:.*lacks the flow of some videos")
@pytest.mark.parametrize(
    ("channels", "changes", "shown"),
    [
        (15, {"data__modality": "rgb_diff"}, [3, 5]),
        (4, {"data__modality": "flow", "data__stack": 2, "data__flow_root": "flow"}, [2, 5]),
        (3, {"data__crops": 3, "data__clips": 2}, [2, 6]),
    ],
    ids=["rgb_diff", "flow", "views"],
)
def test_networks_that_see_more_than_a_clip_of_frames(
    channels: int, changes: dict[str, Any], shown: list[int], motion: Path, tmp_path: Path, drawn: list[Any]
) -> None:
    if "data__flow_root" in changes:
        FlowStore(tmp_path / "flow", videos=motion, settings=FlowSettings(24, num_warp=1, num_iter=1))
        changes = {**changes, "data__flow_root": str(tmp_path / "flow")}
    changes |= {"epochs": 1, "data__symmetric": False, "data__batch_size": 12, "model__num_segments": 2}
    options = {"in_channels": channels}
    config = validate(recipe(motion, tmp_path / "run", model__options=options, **changes), "test recipe")
    fit(config)
    video = motion / "videos" / "left" / "val_00000.mp4"
    weights = tmp_path / "run" / "last.ckpt"
    assert call("gradcam", video, "--weights", weights, "-o", tmp_path / "a.png") == 0
    axes = drawn[0].axes[:-1]
    assert [a.get_title() for a in axes] == [f"frame {i}, {i / 10:.2f} s" for i in shown]
    frames = read_frames(video, shown)[:, 4:28, 4:28] / np.float32(255)
    assert np.array_equal([np.asarray(a.images[0].get_array()) for a in axes], frames)


def test_curves_and_gains(run: Path, tmp_path: Path, drawn: list[Any]) -> None:
    again = tmp_path / "again"
    shutil.copytree(run, again)
    assert call("curves", run, f"MSTNet={again / 'metrics.csv'}", "-o", tmp_path / "curves.png") == 0
    labels = [line.get_label() for line in drawn[0].axes[1].lines]
    assert labels == ["run, training", "run, validation", "MSTNet, training", "MSTNet, validation"]
    assert [len(line.get_xdata()) for line in drawn[0].axes[0].lines] == [2] * 4
    entries = [{"name": n, "samples": 4, "accuracy": a} for n, a in (("a", 0.5), ("b", 0.25))]
    for name, report in (("x", {"model": "tsn", "classes": entries}), ("y", {"classes": entries})):
        (tmp_path / f"{name}.json").write_text(json.dumps(report))
    files = (tmp_path / "x.json", f"KPSEM={tmp_path / 'y.json'}")
    assert call("gains", *files, "-o", tmp_path / "gains.pdf") == 0
    assert drawn[1].axes[0].get_title() == "gain of KPSEM over tsn, points"
    assert call("gains", tmp_path / "x.json", tmp_path / "x.json", "-o", tmp_path / "gains.pdf") == 0
    assert drawn[2].axes[0].get_title() == "gain of tsn (2) over tsn (1), points"


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not there")
@pytest.mark.parametrize("name", ["demo.mp4", "test.avi"])
def test_real_videos(name: str, tmp_path: Path, drawn: list[Any]) -> None:
    out = tmp_path / "a.png"
    assert call("frames", REAL / name, "-o", out) == 0
    assert call("gradcam", REAL / name, "--model", "tiny_tsm", "-o", out) == 0
    frames, cam = drawn
    assert [a.get_title() for a in frames.axes] == [a.get_title() for a in cam.axes[:-1]]
    assert is_picture(out)


BAD = [
    ("frames {none} -o {out}", "none.mp4: no such file"),
    ("frames {text} -o {out}", "text.mp4: "),
    ("frames {video} -o {folder}/a.jpg", "a.jpg: the name must end in .png, .svg or .pdf"),
    ("frames {video} --frames 0 -o {out}", "--frames must be at least 1, got 0"),
    ("frames {video} --columns 0 -o {out}", "error: --columns must be at least 1, got 0"),
    ("frames {video} --frames 3 --model tiny_tsn -o {out}", "--frames: the network says how many"),
    ("gradcam {video} --model tiny_tns -o {out}", "no model is named 'tiny_tns'; did you mean tiny_tsn"),
    ("gradcam {video} --weights {text} -o {out}", "text.mp4: is no checkpoint"),
    ("gradcam {video} --weights {none} -o {out}", "none.mp4: no such file"),
    ("gradcam {none} --model tiny_tsn -o {out}", "none.mp4: no such file"),
    (
        "gradcam {video} --model tiny_tsn --class 8 -o {out}",
        "error: --class '8': is not one of the 8 classes class 0,",
    ),
    ("gradcam {video} --model tiny_tsn --class -1 -o {out}", "class '-1': is not one of"),
    ("gradcam {video} --weights {checkpoint} --class rigth -o {out}", "class 'rigth': is not one of the 4"),
    (
        "gradcam {video} --model tiny_tsn --layer layer5 -o {out}",
        "error: --layer 'layer5': TSN has no such module",
    ),
    ("gradcam {video} --model tiny_tsn --animate -o {folder}/a.svg", "must end in .png or .gif"),
    ("gradcam {video} --model tiny_tsn --animate --fps 0 -o {folder}/a.gif", "error: --fps must be above 0"),
    ("gradcam {video} --model tiny_tsn -o {folder}/a.gif", "the name must end in .png, .svg or .pdf"),
    ("heatmap {video} -o {out}", "give either --map or a network"),
    ("heatmap {video} --map {none} --model tiny_tsn -o {out}", "give either --map or a network"),
    ("heatmap {video} --map {none} -o {out}", "error: --map {none}: no such file"),
    ("heatmap {video} --map {text} -o {out}", "text.mp4: is no .npy file of numbers"),
    ("heatmap {video} --map {flat} -o {out}", "must be numbers of shape (T, h, w), holds (3, 4)"),
    ("heatmap {video} --map {flat} --layer layer1 -o {out}", "--layer is for a network"),
    ("heatmap {video} --model tiny_tsn --limits 2 1 -o {out}", "error: --limits must be two finite numbers"),
    ("tsne {val} --model tiny_tsn --perplexity 4 -o {out}", "t-SNE of perplexity 4 needs at least 13 videos"),
    ("tsne {val} --model tiny_tsn --classes left,nope -o {out}", "'nope' is not a class of"),
    ("tsne {val} --model tiny_tsn --classes left -o {out}", "t-SNE needs at least 4 videos, got 3"),
    ("tsne {none} --model tiny_tsn -o {out}", "no such annotation file or folder"),
    ("curves {folder} -o {out}", "metrics.csv: no such file"),
    ("curves {text} -o {out}", "has no column named step"),
    ("gains {text} {text} -o {out}", "text.mp4: is no JSON"),
]


@pytest.mark.parametrize(("line", "text"), BAD, ids=[line for line, _ in BAD])
def test_errors_are_one_line_and_leave_nothing(
    line: str, text: str, motion: Path, video: Path, checkpoint: Path, tmp_path: Path, capsys: Any
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "text.mp4").write_text("no video\n")
    np.save(tmp_path / "flat.npy", np.zeros((3, 4)))
    names = {
        "video": video,
        "checkpoint": checkpoint,
        "val": motion / "val.csv",
        "none": tmp_path / "none.mp4",
        "text": tmp_path / "text.mp4",
        "flat": tmp_path / "flat.npy",
        "folder": work,
        "out": work / "a.png",
    }
    assert call(*(part.format(**names) for part in line.split())) == 2
    printed = capsys.readouterr()
    assert text.format(**names) in printed.err
    assert printed.err.startswith("vidops visualize: error: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""
    assert not list(work.iterdir())


def test_what_is_no_option_is_told_with_those_there_are(capsys: Any) -> None:
    for line, usage in (
        ("bench --operator resize", "usage: vidops bench [-h]"),
        ("visualize frames a.mp4 --number 3 -o a.png", "usage: vidops visualize frames [-h]"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(line.split())
        printed = capsys.readouterr().err
        assert printed.startswith(usage)
        assert "error: unrecognized arguments: --" in printed


@pytest.mark.parametrize("workers", [0, 1])
def test_a_list_with_a_broken_video_names_it(workers: int, motion: Path, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "videos"
    shutil.copytree(motion / "videos", folder)
    broken = folder / "left" / "val_00000.mp4"
    broken.write_bytes(broken.read_bytes()[:300])
    arguments = ("tsne", folder, "--model", "tiny_tsn", "--workers", workers)
    assert call(*arguments, "-o", tmp_path / "a.png") == 2
    printed = capsys.readouterr().err
    assert str(broken) in printed
    assert printed.count("\n") == 1
    assert not (tmp_path / "a.png").exists()


def test_two_runs_of_one_name_are_refused(run: Path, tmp_path: Path, capsys: Any) -> None:
    assert call("curves", run, run, "-o", tmp_path / "a.png") == 2
    assert "two runs are named 'run'" in capsys.readouterr().err


def test_one_network_must_be_named() -> None:
    for arguments in ({}, {"weights": "a.ckpt", "model": "tiny_tsn"}):
        with pytest.raises(ValueError, match="give either weights"):
            load_subject(**arguments)


@pytest.mark.parametrize(
    ("package", "line"),
    [
        ("captum", "gradcam {video} --model tiny_tsn"),
        ("sklearn", "tsne {val} --model tiny_tsn"),
        ("matplotlib", "frames {video}"),
    ],
)
def test_a_package_that_is_not_there_is_named(
    package: str,
    line: str,
    motion: Path,
    video: Path,
    tmp_path: Path,
    capsys: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    command = line.format(video=video, val=motion / "val.csv").split()
    assert call(*command, "-o", tmp_path / "a.png") == 2
    assert capsys.readouterr().err == (
        f"vidops visualize: error: {package} is not installed; install it with: pip install 'vidops[viz]'\n"
    )
    assert not (tmp_path / "a.png").exists()
