"""Finding broken videos, and lists for one's own."""

from __future__ import annotations

import io
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
from vidops.data import FrameFolder, Sample, read_annotations
from vidops.data import check as check_module
from vidops.data.check import BrokenVideo, check_videos
from vidops.data.lists import make_lists

from .conftest import write_video


@pytest.fixture(scope="module")
def video(tmp_path_factory) -> bytes:
    path = write_video(
        tmp_path_factory.mktemp("source") / "a.mp4", container_options={"movflags": "faststart"}
    )
    return path.read_bytes()


def classes(root: Path, video: bytes, **counts: int) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for i in range(count):
            (root / name / f"{i}.mp4").write_bytes(video)
    return root


@pytest.fixture
def listed(tmp_path: Path, video: bytes) -> list[Sample]:
    """Whole, cut at the end, headless, missing, whole folder, folder with a broken second frame."""
    for name, data in {"whole": video, "cut": video[:-500], "headless": video[200:]}.items():
        (tmp_path / f"{name}.mp4").write_bytes(data)
    for name in ("frames", "broken"):
        (tmp_path / name).mkdir()
        for i in (1, 2, 3):
            Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / name / f"{i}.png")
    (tmp_path / "broken" / "2.png").write_bytes(b"")
    names = ["whole.mp4", "cut.mp4", "headless.mp4", "none.mp4", "frames", "broken", "cut.mp4"]
    frames = FrameFolder("{}.png")
    return [Sample(str(tmp_path / n), 0, None if n.endswith("mp4") else frames) for n in names]


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_every_broken_video_is_named_once_in_order(listed, workers):
    found = check_videos(listed, workers)
    assert [Path(b.path).name for b in found] == ["cut.mp4", "headless.mp4", "none.mp4", "broken"]
    assert found[2] == BrokenVideo(listed[3].path, f"{listed[3].path}: no such file")
    assert found[3].reason.startswith(f"{listed[5].path}/2.png: cannot be read")
    assert all(b.reason.startswith(b.path) and "\n" not in b.reason for b in found)
    quick = check_videos(listed, workers, quick=True)
    assert [Path(b.path).name for b in quick] == ["headless.mp4", "none.mp4"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal_and_nowhere_else(listed):
    terminal, file = Terminal(), io.StringIO()
    assert check_videos(listed, 0, out=terminal) == check_videos(listed, 0, out=file)
    assert "check:   0%|" in terminal.getvalue()
    assert "0/6 [" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r")  # taken away at the end
    assert file.getvalue() == ""


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
def test_a_decoder_that_crashes_is_one_broken_video(tmp_path, video, monkeypatch):
    monkeypatch.setattr(check_module, "_check_one", crash_or_check)
    names = ["a", "crash1", "b", "c", "crash2", "d", "e", "f"]
    for name in names:
        (tmp_path / f"{name}.mp4").write_bytes(video)
    samples = [Sample(str(tmp_path / f"{name}.mp4"), 0) for name in names]
    found = check_videos(samples, 2)
    assert [b.reason for b in found] == [f"{samples[i].path}: crashes the decoder" for i in (1, 4)]


PARENT = """
import multiprocessing, sys, threading, time
from vidops.data import Sample
from vidops.data.check import check_videos
def say():
    while len(multiprocessing.active_children()) < 2:
        time.sleep(0.05)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
GUARD
    threading.Thread(target=say, daemon=True).start()
    check_videos([Sample(f"{sys.argv[1]}/{i}.mp4", 0) for i in range(10**6)], 2)
"""


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path, how):
    (tmp_path / "parent.py").write_text(PARENT.replace("GUARD", 'if __name__ == "__main__":'))
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py"), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    time.sleep(5)  # both have begun
    if how == signal.SIGINT:
        os.killpg(parent.pid, how)  # as Ctrl-C in a terminal
    else:
        parent.kill()
    _, err = parent.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in workers)
    assert err.count("Traceback") <= (how == signal.SIGINT), err  # of the parent alone


@pytest.mark.slow
def test_a_script_without_a_guard_is_told(tmp_path):
    (tmp_path / "parent.py").write_text(PARENT.replace("GUARD", "if True:"))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "parent.py"), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert "RuntimeError: workers: the processes do not start; a script needs" in done.stderr
    assert "crashes the decoder" not in done.stderr


def test_an_unforeseen_error_is_a_finding(tmp_path, video, monkeypatch):
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


def test_check_command(tmp_path, video, capsys):
    root = classes(tmp_path / "v", video, a=2, b=1)
    assert main(["dataset", "check", str(root), "--workers", "0"]) == 0
    assert capsys.readouterr().out.startswith(f"{root}: 0 of 3 videos are broken (")
    (root / "b" / "0.mp4").write_bytes(video[:-300])
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


def test_check_of_a_recipe(tmp_path, video, capsys):
    pytest.importorskip("lightning", reason="training needs lightning")
    root = classes(tmp_path / "v", video, a=2, b=2)
    make_lists(root)
    (root / "a" / "1.mp4").unlink()
    recipe = ["configs/demo/tiny_tsm.yaml", f"data.root={root}", "data.batch_size=1"]
    recipe[0] = str(Path(__file__).parents[2] / recipe[0])
    assert main(["dataset", "check", *recipe, "--workers", "0"]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0] == f"{root}/a/1.mp4: no such file"
    assert "1 of 4 videos are broken" in out[1]


@pytest.mark.parametrize(
    "arguments, match",
    [
        (["none.csv"], "no such annotation file"),
        (["LIST", "a=3"], "keys are those of a recipe"),
        (["LIST", "--workers", "-1"], "workers must be at least 0"),
        (["LIST", "--format", "ucf"], "no format 'ucf'"),
        (["x.yaml", "--root", "."], "--root and --format are for lists"),
    ],
)
def test_wrong_calls_of_check(tmp_path, video, capsys, arguments, match):
    path = csv_of(classes(tmp_path / "v", video, a=1))
    assert main(["dataset", "check", *[str(path) if a == "LIST" else a for a in arguments]]) == 2
    assert match in capsys.readouterr().err


# --- make-list


def read(root: Path, name: str) -> list[tuple[str, int]]:
    found = read_annotations(root / name)
    return [(str(Path(s.path).resolve()), s.label) for s in found.samples]


def test_lists_split_every_class(tmp_path, video):
    root = classes(tmp_path / "v", video, few=2, ten=10, some=7)
    (root / "ten" / "notes.txt").touch()
    lists = make_lists(root, share=0.3, seed=1, workers=2)
    assert (lists.folder, lists.classes) == (root, ["few", "some", "ten"])
    assert (lists.train, lists.val) == ([1, 5, 7], [1, 2, 3])
    train, val = read(root, "train.csv"), read(root, "val.csv")
    every = sorted((str(p), lists.classes.index(p.parent.name)) for p in root.resolve().rglob("*.mp4"))
    assert sorted(train + val) == every
    assert [sum(label == i for _, label in val) for i in range(3)] == [1, 2, 3]
    assert (root / "classes.txt").read_text() == "few\nsome\nten\n"
    assert read_annotations(root / "val.csv").classes == lists.classes


def test_the_split_is_a_function_of_seed_and_names(tmp_path, video):
    root = classes(tmp_path / "v", video, a=10, b=10)
    splits = []
    for seed, out in ((0, "x"), (0, "y"), (1, "z")):
        make_lists(root, seed=seed, out_dir=tmp_path / out)
        splits.append(read(tmp_path / out, "val.csv"))
    assert splits[0] == splits[1] != splits[2]
    names = [{Path(p).stem for p, label in splits[0] if label == i} for i in (0, 1)]
    assert names[0] != names[1]  # of equal file names, so that it is the class's name that tells them apart


@pytest.mark.parametrize(
    "name, match",
    [
        (" c/0.mp4", "outer blanks"),
        ("c /0.mp4", "outer blanks"),
        ("c\n/0.mp4", "line breaks"),
        ("c/\udcff.mp4", "not in UTF-8"),
        ("c/x\ny.mp4", "line breaks"),
    ],
)
def test_names_that_no_list_can_hold_are_refused(tmp_path, video, name, match):
    root = classes(tmp_path / "v", video, a=2)
    (root / name).parent.mkdir()
    (root / name).write_bytes(video)
    with pytest.raises(ValueError, match=match):
        make_lists(root)
    assert not list(root.glob("*.*"))


def test_other_classes_and_files_leave_the_split_as_it_was(tmp_path, video):
    root = classes(tmp_path / "v", video, b=10)
    (root / "c").mkdir()
    for name in ("x", "y"):
        (root / "c" / f"{name}.mp4").write_bytes(video)
    make_lists(root, out_dir=tmp_path / "one")
    classes(root, video, a=10)
    for i in range(10, 12):  # 0.2 of 12 is 2 as well
        (root / "b" / f"{i}.mp4").write_bytes(video)
    make_lists(root, out_dir=tmp_path / "two")
    first, second = (
        {
            name: {Path(p).name for p, _ in read(tmp_path / out, "val.csv") if Path(p).parent.name == name}
            for name in "bc"
        }
        for out in ("one", "two")
    )
    assert second["c"] == first["c"]
    assert len(first["b"]) == len(second["b"]) == 2
    assert first["b"] - second["b"] == set() or second["b"] & {"10.mp4", "11.mp4"}
    assert not (second["b"] - first["b"]) - {"10.mp4", "11.mp4"}


@pytest.mark.parametrize("share, val", [(0.01, 1), (0.99, 4), (0.5, 2)])
def test_neither_list_lacks_a_class(tmp_path, video, share, val):
    lists = make_lists(classes(tmp_path / "v", video, a=5, b=5), share=share)
    assert lists.val == [val, val]


def test_lists_elsewhere_and_in_the_order_of_classes_txt(tmp_path, video):
    root = classes(tmp_path / "my videos, 1", video, a=2, b=2)
    (root / "classes.txt").write_text("b\na\n")
    lists = make_lists(root, out_dir=tmp_path / "new" / "lists")
    assert lists.classes == ["b", "a"]
    train = read(tmp_path / "new" / "lists", "train.csv")
    assert [(Path(p).parent.name, label) for p, label in train] == [("b", 0), ("a", 1)]
    assert not (root / "train.csv").exists()
    (root / "classes.txt").write_text("b\nc\n")
    with pytest.raises(ValueError, match=r"classes\.txt: does not name the class folders beside it: a, c"):
        make_lists(root)


@pytest.mark.parametrize("name", ["train.csv", "val.csv"])
def test_nothing_is_replaced(tmp_path, video, name):
    root = classes(tmp_path / "v", video, a=2)
    (root / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"{name}: exists; move it away"):
        make_lists(root)
    assert sorted(p.name for p in root.iterdir()) == ["a", name]
    assert (root / name).read_text() == "mine"


def test_broken_and_empty_classes_are_named_and_nothing_written(tmp_path, video):
    root = classes(tmp_path / "v", video, a=3, b=2, empty=0, none=0)
    with pytest.raises(ValueError, match=r"no videos in the class folders empty, none$"):
        make_lists(root)
    (root / "empty").rmdir()
    (root / "none").rmdir()
    (root / "b" / "1.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"1 of 5 videos are broken: .*/b/1\.mp4: "):
        make_lists(root)
    with pytest.raises(
        ValueError, match=r"a split needs two videos a class; fewer can be read of b \(1\); brok"
    ):
        make_lists(root, skip_broken=True)
    assert sorted(p.name for p in root.iterdir()) == ["a", "b"]
    (root / "b" / "2.mp4").write_bytes(video)
    lists = make_lists(root, skip_broken=True)
    assert [Path(b.path).name for b in lists.broken] == ["1.mp4"]
    assert (sum(lists.train), sum(lists.val)) == (3, 2)


@pytest.mark.parametrize(
    "key, value", [("share", 0.0), ("share", 1.0), ("seed", -1), ("seed", 1.5), ("workers", -1)]
)
def test_wrong_arguments(tmp_path, video, key, value):
    root = classes(tmp_path / "v", video, a=2)
    with pytest.raises(ValueError, match=f"{key} must be"):
        make_lists(root, **{key: value})
    assert [p.name for p in root.iterdir()] == ["a"]


def test_folders_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
        make_lists(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="file: is not a folder"):
        make_lists(tmp_path / "file")
    with pytest.raises(ValueError, match="holds no class folders"):
        make_lists(tmp_path)


def test_make_list_command(tmp_path, video, capsys):
    root = classes(tmp_path / "v", video, jump=5, run=5)
    assert main(["dataset", "make-list", str(root), "--workers", "0"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["jump", "4", "training", "1", "validation"]
    assert out[2] == f"{root}/train.csv: 8 videos, {root}/val.csv: 2 videos, 2 classes"
    assert main(["dataset", "make-list", str(root)]) == 2
    assert "train.csv: exists" in capsys.readouterr().err
