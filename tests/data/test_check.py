"""Finding broken videos."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vidops.cli import main
from vidops.data import FrameFolder, Sample
from vidops.data import check as check_module
from vidops.data.check import BrokenVideo, check_videos
from vidops.data.lists import make_lists

from ._lists import class_videos
from ._processes import gone, start_parent


@pytest.fixture
def listed(tmp_path: Path, video_bytes: bytes) -> list[Sample]:
    """Whole, cut at the end, headless, missing, whole folder, folder with a broken second frame."""
    for name, data in {
        "whole": video_bytes,
        "cut": video_bytes[:-500],
        "headless": video_bytes[200:],
    }.items():
        (tmp_path / f"{name}.mp4").write_bytes(data)
    for name in ("frames", "broken"):
        (tmp_path / name).mkdir()
        for i in (1, 2, 3):
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "broken" / "2.png").write_bytes(b"")
    names = ["whole.mp4", "cut.mp4", "headless.mp4", "none.mp4", "frames", "broken", "cut.mp4"]
    frames = FrameFolder("{}.png")
    return [Sample(str(tmp_path / n), 0, None if n.endswith("mp4") else frames) for n in names]


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_broken_video_is_named_once_in_order(listed, workers, threads, monkeypatch):
    if threads:
        monkeypatch.setattr(check_module, "start_pool", None)
    found = check_videos(listed, workers, threads=threads)
    assert [Path(b.path).name for b in found] == ["cut.mp4", "headless.mp4", "none.mp4", "broken"]
    assert found[2] == BrokenVideo(listed[3].path, f"{listed[3].path}: no such file")
    assert found[3].reason.startswith(f"{listed[5].path}/2.png: cannot be read")
    assert all(b.reason.startswith(b.path) and "\n" not in b.reason for b in found)
    quick = check_videos(listed, workers, quick=True, threads=threads)
    assert [Path(b.path).name for b in quick] == ["headless.mp4", "none.mp4"]


def test_nothing_to_check_and_wrong_workers():
    assert check_videos([], 2) == []
    with pytest.raises(ValueError, match="workers must be at least 0, got -1"):
        check_videos([], -1)


check_one = check_module._check_one


def crash_or_check(video: Sample, quick: bool) -> str | None:
    if Path(video.path).name.startswith("crash"):
        os.kill(os.getpid(), signal.SIGKILL)  # what a crash looks like from outside, without its dump
    return check_one(video, quick)


@pytest.mark.slow
def test_a_decoder_that_crashes_is_one_broken_video(tmp_path, video_bytes, monkeypatch):
    monkeypatch.setattr(check_module, "_check_one", crash_or_check)
    names = ["a", "crash1", "b", "c", "crash2", "d", "e", "f"]
    for name in names:
        (tmp_path / f"{name}.mp4").write_bytes(video_bytes)
    samples = [Sample(str(tmp_path / f"{name}.mp4"), 0) for name in names]
    found = check_videos(samples, 2)
    assert [b.reason for b in found] == [f"{samples[i].path}: crashes the decoder" for i in (1, 4)]


PARENT = """
    from vidops.data import Sample, check_videos
    check_videos([Sample(f"{sys.argv[1]}/{i}.mp4", 0) for i in range(NUMBER)], 2)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_workers_end_with_an_interrupted_parent(tmp_path):
    """As on Ctrl-C in a terminal; the tests of flow kill a parent."""
    parent, workers = start_parent(tmp_path, PARENT.replace("NUMBER", "3 * 10**5"), tmp_path)
    time.sleep(2)  # both have begun
    os.killpg(parent.pid, signal.SIGINT)
    _, err = parent.communicate(timeout=60)
    assert gone(workers)
    assert err.count("Traceback") <= 1, err  # of the parent alone


@pytest.mark.slow
def test_a_script_without_a_guard_is_told(tmp_path):
    (tmp_path / "parent.py").write_text("import sys\nif True:" + PARENT.replace("NUMBER", "2"))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "parent.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "RuntimeError: workers: the processes do not start; a script needs" in done.stderr
    assert "crashes the decoder" not in done.stderr


TRAIN = """
import sys
from vidops.training import fit
from vidops.training.config import validate
root, output = sys.argv[1:]
fit(validate({
    "model": {"name": "tiny_tsn", "num_segments": 2},
    "data": {"root": root, "train": "train.csv", "val": "val.csv", "size": 16, "batch_size": 2, "workers": 2},
    "optimizer": {"name": "sgd", "lr": 0.1}, "schedule": {"name": "cosine"},
    "epochs": 1, "accelerator": "cpu", "output": output,
}, "script"))
"""


@pytest.mark.slow
def test_a_script_that_trains_with_workers_needs_no_guard(tmp_path, video_bytes):
    pytest.importorskip("lightning", reason="training needs lightning")
    make_lists(class_videos(tmp_path / "v", video_bytes, a=3, b=3))
    (tmp_path / "train.py").write_text(TRAIN)
    arguments = [sys.executable, str(tmp_path / "train.py"), str(tmp_path / "v"), str(tmp_path / "run")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "best.ckpt").is_file()


def test_an_unforeseen_error_is_a_finding(tmp_path, video_bytes, monkeypatch):
    def fail(path: str) -> int:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(check_module, "num_frames", fail)
    (found,) = check_videos([Sample("a.mp4", 0)])
    assert found.reason == "a.mp4: RuntimeError: two lines"


# --- the command


def csv_of(root: Path) -> Path:
    lines = [f"{p.relative_to(root)},{i}" for i, p in enumerate(sorted(root.rglob("*.mp4")))]
    (root / "list.csv").write_text("\n".join([*lines, "gone.mp4,0"]) + "\n")
    return root / "list.csv"


def test_check_command(tmp_path, video_bytes, capsys):
    root = class_videos(tmp_path / "v", video_bytes, a=2, b=1)
    assert main(["dataset", "check", str(root), "--workers", "0"]) == 0
    assert capsys.readouterr().out.startswith(f"{root}: 0 of 3 videos are broken (")
    (root / "b" / "0.mp4").write_bytes(video_bytes[:-300])
    path = csv_of(root)
    assert main(["dataset", "check", str(path), "--workers", "2"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"{root}/b/0.mp4: ")
    assert out[1] == f"{root}/gone.mp4: no such file"
    assert out[2].startswith(f"{path}: 2 of 4 videos are broken (")
    assert len(out) == 3
    assert main(["dataset", "check", str(path), "--workers", "0", "--json", "--quick"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["videos"], found["quick"]) == (4, True)
    assert found["broken"] == [{"path": f"{root}/gone.mp4", "reason": f"{root}/gone.mp4: no such file"}]


def test_check_of_a_recipe(tmp_path, video_bytes, capsys):
    pytest.importorskip("lightning", reason="training needs lightning")
    root = class_videos(tmp_path / "v", video_bytes, a=2, b=2)
    make_lists(root)
    (root / "a" / "1.mp4").unlink()
    recipe = ["configs/demo/tiny_tsm.yaml", f"data.root={root}", "data.batch_size=1"]
    recipe[0] = str(Path(__file__).parents[2] / recipe[0])
    assert main(["dataset", "check", *recipe, "--workers", "0"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{root}/a/1.mp4: no such file"
    assert "1 of 4 videos are broken" in out[1]
    listed = "a/1.mp4" in (root / "val.csv").read_text()
    for subset, broken in (("train", not listed), ("val", listed)):
        assert main(["dataset", "check", *recipe, "--workers", "0", "--subset", subset]) == broken
        assert f"{broken:d} of 2 videos are broken" in capsys.readouterr().out


def frames(folder: Path, template: str, first: int, count: int) -> None:
    folder.mkdir(parents=True)
    for i in range(first, first + count):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / template.format(i))


def test_check_reads_a_list_as_a_recipe_does(tmp_path, capsys):
    """Named frames, HMDB51's split files, one part of a list that holds both."""
    frames(tmp_path / "a", "img_{:03d}.png", 0, 3)
    frames(tmp_path / "b", "img_{:03d}.png", 0, 2)
    path = tmp_path / "list.txt"
    path.write_text("a 3 0\nb 3 1\n")
    call = ["dataset", "check", str(path), "--workers", "0"]
    assert main([*call, "--template", "img_{:03d}.png", "--first-frame", "0"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{tmp_path}/b/img_002.png: the frame is missing"
    assert "1 of 2 videos are broken" in out[1]

    splits = tmp_path / "splits"
    splits.mkdir()
    for split, line in ((1, "u.avi 1\nv.avi 2\nw.avi 0\n"), (2, "w.avi 1\n")):
        (splits / f"wave_test_split{split}.txt").write_text(line)
    for options, names in (
        ([], ["u", "v"]),
        (["--subset", "train"], ["u"]),
        (["--subset", "val"], ["v"]),
        (["--split", "2"], ["w"]),
    ):
        call = ["dataset", "check", str(splits), "--root", str(tmp_path), "--workers", "0", *options]
        assert main(call) == 1
        out = capsys.readouterr().out.splitlines()
        assert out[:-1] == [f"{tmp_path}/wave/{name}.avi: no such file" for name in names]


def test_check_of_a_folder_reads_every_video_below_it(tmp_path, video_bytes, capsys):
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "top.mp4").write_bytes(video_bytes)
    (tmp_path / "x" / "y" / "deep.mp4").write_bytes(b"no video")
    assert main(["dataset", "check", str(tmp_path), "--workers", "0"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"{tmp_path}/x/y/deep.mp4: ")
    assert "1 of 2 videos are broken" in out[1]


@pytest.mark.parametrize(
    "arguments, match",
    [
        (["none.csv"], "no such annotation file"),
        (["LIST", "a=3"], "keys are those of a recipe"),
        (["LIST", "--workers", "-1"], "workers must be at least 0"),
        (["LIST", "--format", "ucf"], "no format 'ucf'"),
        (["x.yaml", "--root", "."], "--root: is for lists; of a recipe change data.root"),
        (
            ["x.yaml", "--first-frame", "0"],
            "--first-frame: is for lists; of a recipe change data.first_frame",
        ),
        (["LIST", "--template", "a.jpg"], "template must be a file name with one number in it"),
    ],
)
def test_wrong_calls_of_check(tmp_path, video_bytes, capsys, arguments, match):
    path = csv_of(class_videos(tmp_path / "v", video_bytes, a=1))
    assert main(["dataset", "check", *[str(path) if a == "LIST" else a for a in arguments]]) == 2
    assert match in capsys.readouterr().err
