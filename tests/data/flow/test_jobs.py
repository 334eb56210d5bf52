"""The flow of many videos: by several processes, by the command."""

from __future__ import annotations

import multiprocessing
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from vidops.cli import main
from vidops.data import FrameFolder, Sample
from vidops.data.flow import FlowSettings
from vidops.data.flow_jobs import compute_flow, find_videos
from vidops.data.flow_store import FlowStore

from .._processes import gone, start_parent
from .._videos import write_video
from ._moving import FAST, damage, moving

# Most tests ask for flow that is not there yet; one says that this warns.
pytestmark = pytest.mark.filterwarnings("ignore:.*lacks the flow of some videos")


PARENT = """
    from vidops.data import FlowStore
    from vidops.data.flow_jobs import compute_flow, find_videos
    list(compute_flow(FlowStore(sys.argv[1], videos=sys.argv[2]), find_videos(sys.argv[2]), workers=2))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_workers_end_with_a_killed_parent(tmp_path):
    """A writer that is killed takes its workers with it, in the middle of a video or waiting for one."""
    (tmp_path / "videos").mkdir()
    for name in "ab":
        long = np.concatenate([moving(40, height=200, width=260)] * 4)
        write_video(tmp_path / "videos" / f"{name}.mkv", codec="ffv1", pix_fmt="bgr0", clip=long)
    FlowStore(tmp_path / "flow", settings=FlowSettings())
    parent, workers = start_parent(tmp_path, PARENT, tmp_path / "flow", tmp_path / "videos")
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "flow").glob("*/.*.tmp"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(list((tmp_path / "flow").glob("*/.*.tmp"))) == 2  # both are at work
    parent.kill()
    parent.communicate()
    assert gone(workers)
    assert not list((tmp_path / "flow").glob("*/*.npz"))


@pytest.mark.slow
def test_a_killed_worker_is_said(tmp_path):
    (tmp_path / "videos").mkdir()
    for name in "ab":
        write_video(
            tmp_path / "videos" / f"{name}.mkv",
            codec="ffv1",
            pix_fmt="bgr0",
            clip=moving(40, height=200, width=260),
        )
    store = FlowStore(tmp_path / "flow", settings=FlowSettings())

    def kill() -> None:
        while not list((tmp_path / "flow").glob("*/.*.tmp")):
            time.sleep(0.05)
        multiprocessing.active_children()[0].kill()

    threading.Thread(target=kill, daemon=True).start()
    with pytest.raises(RuntimeError, match=r"a worker was killed, .* start again to go on"):
        list(compute_flow(store, find_videos(tmp_path / "videos"), workers=2))


def test_several_processes_may_compute_the_same_video(store, video, tmp_path):
    found = list(compute_flow(store, [Sample(str(video), 0)] * 6, workers=2))
    assert all(result.error is None and not result.warnings for result in found)
    assert 1 <= sum(result.computed for result in found) <= 2
    alone = FlowStore(tmp_path / "alone", videos=tmp_path / "videos", settings=FAST)
    assert np.array_equal(store.read(video, range(5)), alone.read(video, range(5)))
    assert not list(store.root.glob("*/.*"))


def test_find_videos_and_arguments(tmp_path, video):
    assert [sample.path for sample in find_videos(tmp_path / "videos")] == [str(video)]
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        next(compute_flow(FlowStore(tmp_path / "f", settings=FAST), [Sample(str(video), 0)], workers=0))


def test_command_computes_resumes_and_lists_what_is_broken(video, tmp_path, capsys):
    videos = tmp_path / "videos"
    (videos / "deep" / ".hidden").mkdir(parents=True)
    write_video(videos / "deep" / "b.mkv", codec="ffv1", pix_fmt="bgr0", clip=moving(3, seed=1))
    (videos / "c.mp4").write_bytes(b"nothing")
    (videos / "notes.txt").write_text("no video")
    (videos / "deep" / ".hidden" / "d.mp4").write_bytes(b"nothing")
    arguments = [
        "dataset",
        "flow",
        str(videos),
        "--out",
        str(tmp_path / "out"),
        "--short-side",
        "16",
        "--quiet",
    ]

    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert "flow of 2 videos computed" in out
    assert f"broken: {videos / 'c.mp4'}: " in err
    assert "1 of 3 videos are broken" in err
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*/*.npz")}
    assert len(files) == 2

    (videos / "c.mp4").unlink()
    assert main(arguments) == 0
    out = capsys.readouterr().out
    assert "flow of 0 videos computed" in out
    assert "of 2 there already" in out
    damage(next(iter(files)), "truncated")
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert "flow of 1 videos computed" in out
    assert f"vidops dataset flow: {next(iter(files))}: damaged" in err


def test_command_takes_a_list_and_says_what_is_wrong(video, tmp_path, capsys):
    (tmp_path / "list.csv").write_text("videos/a.mkv,0\n")
    out = str(tmp_path / "out")
    fast = ["--short-side", "16", "--quiet"]
    assert main(["dataset", "flow", str(tmp_path / "list.csv"), "--out", out, *fast]) == 0
    assert not FlowStore(out, videos=tmp_path).add(video)  # found where training looks for it
    capsys.readouterr()
    for wrong, message in [
        (["--out", out, *fast, "--workers", "0"], "--workers must be at least 1"),
        (["--out", out, "--short-side", "0"], "short_side must be above 0"),
        (["--out", out, "--short-side", "20"], "flow of other settings"),
    ]:
        assert main(["dataset", "flow", str(tmp_path / "list.csv"), *wrong]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["dataset", "flow", str(tmp_path / "empty"), "--out", str(tmp_path / "new")]) == 2
    assert "empty: holds no video files" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_command_reads_a_list_as_a_recipe_does(video, tmp_path, capsys):
    """HMDB51's folder of split files is a list, not a folder of videos; frames have the names that are given."""
    from PIL import Image

    fast = ["--out", str(tmp_path / "out"), "--short-side", "16", "--quiet"]
    splits = tmp_path / "splits"
    splits.mkdir()
    (splits / "wave_test_split1.txt").write_text("a.mkv 1\n")
    (splits / "wave_test_split2.txt").write_text("b.mkv 1\na.mkv 2\n")
    root = ["--root", str(tmp_path / "videos")]
    assert main(["dataset", "flow", str(splits), *root, *fast]) == 0
    assert "flow of 1 videos computed" in capsys.readouterr().out
    assert not FlowStore(tmp_path / "out", videos=tmp_path / "videos").add(video)
    assert main(["dataset", "flow", str(splits), *root, *fast, "--split", "2"]) == 1
    assert "b.mkv: no such file" in capsys.readouterr().err
    assert main(["dataset", "flow", str(splits), *root, *fast, "--split", "2", "--subset", "val"]) == 0

    (tmp_path / "7").mkdir()
    for number, frame in enumerate(moving(3)):
        Image.fromarray(frame).save(tmp_path / "7" / f"{number}.png")
    (tmp_path / "list.txt").write_text("7 3 0\n")
    call = ["dataset", "flow", str(tmp_path / "list.txt"), *fast]
    assert main([*call, "--template", "{}.png", "--first-frame", "0"]) == 0
    folder = FrameFolder("{}.png", 0, 3)
    assert FlowStore(tmp_path / "out", videos=tmp_path).path(tmp_path / "7", folder).is_file()


RECIPE = """
model: {{name: tiny_tsm, num_segments: 2, options: {{in_channels: 10}}}}
data: {{root: {root}, train: a.csv, val: b.csv, modality: flow, flow_root: {flow}}}
optimizer: {{name: sgd, lr: 0.1}}
schedule: {{name: cosine}}
epochs: 1
output: x
"""


def test_command_takes_a_recipe(video, tmp_path, capsys):
    pytest.importorskip("pydantic", reason="recipes need pydantic")
    (tmp_path / "a.csv").write_text("videos/a.mkv,0\nvideos/none.mkv,0\n")
    (tmp_path / "b.csv").write_text("videos/a.mkv,0\n")
    (tmp_path / "classes.txt").write_text("one\n")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE.format(root=tmp_path, flow=tmp_path / "out"))
    assert main(["dataset", "flow", str(recipe), "--short-side", "16", "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert f"{tmp_path / 'out'}: flow of 1 videos computed" in out
    assert f"broken: {tmp_path / 'videos' / 'none.mkv'}: no such file" in err
    assert not FlowStore(tmp_path / "out", videos=tmp_path).add(video)
    other = str(tmp_path / "other")
    assert (
        main(["dataset", "flow", str(recipe), f"data.flow_root={other}", "--short-side", "16", "--quiet"])
        == 1
    )
    assert FlowStore(other, videos=tmp_path).path(video).is_file()
    capsys.readouterr()
    assert main(["dataset", "flow", str(tmp_path / "b.csv")]) == 2
    assert "--out: say which folder keeps the flow" in capsys.readouterr().err
