"""Predictions in a file that a killed run continues, and predictions of many videos."""

from __future__ import annotations

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
import torch

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")
pytest.importorskip("PIL", reason="frame folders need Pillow")

import PIL.Image

from vidops.cli import main
from vidops.data import read_frames
from vidops.evaluation import Prediction, Predictor, ResultFile, evaluate, predict
from vidops.training import load_config
from vidops.training.loading import read_list


def lines_of(path: Path) -> list[dict[str, object]]:
    text = path.read_text()
    assert text.endswith("\n") or not text
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def many(motion: Path, tmp_path: Path) -> Path:
    """A folder with 120 names for the clips of the motion dataset."""
    clips = sorted((motion / "videos").glob("*/*.mp4"))
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(120):
        (folder / f"{i:03d}.mp4").symlink_to(clips[i % len(clips)])
    return folder


def test_a_run_killed_at_any_moment_goes_on(run: Path, many: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.jsonl", tmp_path / "killed.jsonl"
    arguments = ["predict", str(many), "--weights", str(run / "best.ckpt"), "--batch-size", "2"]
    assert main([*arguments, "--out", str(whole)]) == 0
    command = [sys.executable, "-m", "vidops", *arguments, "--out", str(killed), "--workers", "2"]
    stopped = []
    for least in (3, 40):
        process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True)
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if killed.exists() and killed.read_bytes().count(b"\n") >= least:
                break
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)  # the workers are left to find out for themselves
        assert process.wait() == -signal.SIGKILL
        stopped.append(len(lines_of(killed)))
    assert 3 <= stopped[0] < stopped[1] < 120
    with open(killed, "ab") as file:
        file.write(b'{"path": "many/119.mp4", "predic')
    assert main([*arguments, "--out", str(killed)]) == 0
    expected, found = lines_of(whole), lines_of(killed)
    assert [line["path"] for line in found] == [line["path"] for line in expected]
    assert len({str(line["path"]) for line in found}) == 120
    for one, other in zip(found, expected, strict=True):
        assert one["run"] == other["run"]
        probabilities = [{p["class"]: p["probability"] for p in line["predictions"]} for line in (one, other)]  # type: ignore[attr-defined]
        assert probabilities[0] == pytest.approx(probabilities[1], abs=1e-6)


def test_a_finished_file_is_left_alone(
    run: Path, many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out.jsonl"
    first = [str(many / f"{i:03d}.mp4") for i in range(3)]
    arguments = ["--weights", str(run / "best.ckpt"), "--out", str(out)]
    assert main(["predict", *first, *arguments]) == 0
    assert capsys.readouterr().out == f"{out}: 3 videos\n"
    before = out.read_bytes()
    assert main(["predict", *first, *arguments]) == 0
    assert capsys.readouterr().out == f"{out}: 3 videos, 3 of them earlier\n"
    assert out.read_bytes() == before
    missing = str(many / "none.mp4")
    assert main(["predict", missing, str(many / "050.mp4"), first[0], *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.out == f"{out}: 3 videos, 1 of them earlier, 1 could not be read\n"
    assert captured.err == f"vidops predict: error: {missing}: no such file\n"
    assert out.read_bytes().startswith(before)
    assert [line["path"] for line in lines_of(out)] == [*first, missing, str(many / "050.mp4")]
    assert main(["predict", missing, *arguments]) == 1  # done, but not well
    assert capsys.readouterr().err == f"vidops predict: error: {missing}: no such file (as before)\n"


def test_other_weights_or_options_are_refused(
    run: Path, many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, video = tmp_path / "out.jsonl", str(many / "000.mp4")
    assert main(["predict", video, "--weights", str(run / "best.ckpt"), "--out", str(out)]) == 0
    before = out.read_bytes()
    last = ["--weights", str(run / "last.ckpt")]
    same = ["--weights", str(run / "best.ckpt")]
    for arguments in ([*last], [*same, "--top", "2"], [*same, "--views", "3x1"]):
        capsys.readouterr()
        assert main(["predict", video, *arguments, "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"vidops predict: error: {out}, line 1: was made with other weights, views")
    assert out.read_bytes() == before
    copy = tmp_path / "copy.ckpt"
    copy.write_bytes((run / "best.ckpt").read_bytes())
    assert main(["predict", video, "--weights", str(copy), "--out", str(out)]) == 0  # content counts


@pytest.mark.parametrize(
    "content, message",
    [
        (b"hello\n", "line 1: is no prediction"),
        (b"precious notes without an end", "its last line is no prediction"),
        (b'{"path": "a"}\n', "line 1: is no prediction"),
        (b"[1]\n", "line 1: is no prediction"),
        (b"\n", "line 1: is no prediction"),
        (b"\xff\xfe\n", "line 1: is no prediction"),
    ],
)
def test_files_that_hold_something_else_stay_as_they_are(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        ResultFile(path, "k")
    assert path.read_bytes() == content


@pytest.mark.parametrize("cut", range(0, 60, 7))
def test_a_line_cut_anywhere_is_written_anew(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "out.jsonl"
    with ResultFile(path, "k") as results:
        results.write(Prediction("a\n.mp4", [("left", 0.5)]))  # a name may hold a line break
        results.write(Prediction("b.mp4", error="b.mp4: no such file"))
    whole = path.read_bytes()
    assert whole.count(b"\n") == 2
    first = whole.index(b"\n") + 1
    path.write_bytes(whole[: first + cut])
    with ResultFile(path, "k") as results:
        assert results.done == {"a\n.mp4": True}
        results.write(Prediction("b.mp4", error="b.mp4: no such file"))
        with pytest.raises(ValueError, match=r"b.mp4 has a line already"):
            results.write(Prediction("b.mp4"))
    assert path.read_bytes() == whole


def test_changed_videos_are_left(tmp_path: Path) -> None:
    out, video, frames = tmp_path / "out.jsonl", tmp_path / "a.mp4", tmp_path / "frames"
    video.write_bytes(b"one")
    frames.mkdir()
    (frames / "00001.jpg").write_bytes(b"one")
    paths = [str(video), str(frames), str(tmp_path / "none.mp4")]

    def left() -> list[str]:
        with ResultFile(out, "k") as results:
            found = results.left(paths)
            for path in found:
                error = None if Path(path).exists() else f"{path}: no such file"
                results.write(Prediction(path, [("left", 0.5)] if error is None else [], error))
        return found

    assert left() == paths
    assert left() == []
    os.utime(video, ns=(0, 10**9))  # another video of the same size
    assert left() == paths[:1]
    (frames / "00001.jpg").write_bytes(b"three")  # leaves the folder's own time as it was
    assert left() == paths[1:2]
    (tmp_path / "none.mp4").touch()
    assert left() == paths[2:]
    assert left() == []
    video.unlink()
    assert left() == paths[:1]
    assert [line["path"] for line in lines_of(out)] == [*paths, *paths, paths[0]]
    with ResultFile(out, "k") as results:
        assert results.done == {paths[0]: False, paths[1]: True, paths[2]: True}  # the last lines count


def test_a_video_of_a_changed_shard_is_left(tmp_path: Path) -> None:
    out, shard = tmp_path / "out.jsonl", tmp_path / "s.tar"

    def left() -> list[str]:
        with ResultFile(out, "k") as results:
            found = results.left([str(shard / "b.mp4")])
            for path in found:
                results.write(Prediction(path, [("left", 0.5)]))
        return found

    with tarfile.open(shard, "w") as tar:
        tar.addfile(tarfile.TarInfo("b.mp4"))
    assert left() == [str(shard / "b.mp4")]
    assert left() == []
    os.utime(shard, ns=(0, 10**9))
    assert left() == [str(shard / "b.mp4")]
    assert left() == []
    shard.write_bytes(b"no shard any more")
    assert left() == [str(shard / "b.mp4")]


def test_a_disk_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    out, disk, video = tmp_path / "out.jsonl", tmp_path / "disk", tmp_path / "disk" / "a.mp4"
    disk.mkdir()
    video.touch()
    with ResultFile(out, "k") as results:
        assert results.left([str(video)]) == [str(video)]
        disk.rename(tmp_path / "away")
        results.write(Prediction(str(video), error=f"{video}: no such file"))
    (tmp_path / "away").rename(disk)
    with ResultFile(out, "k") as results:
        assert results.left([str(video)]) == [str(video)]
        os.utime(video, ns=(0, 10**9))  # rewritten while it was read
        results.write(Prediction(str(video), [("left", 0.5)]))
    with ResultFile(out, "k") as results:
        assert results.left([str(video)]) == [str(video)]


def test_a_video_put_in_another_ones_place_is_predicted(
    run: Path, many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, video, late = tmp_path / "out.jsonl", tmp_path / "clip.mp4", tmp_path / "late.mp4"
    arguments = ["predict", str(video), str(late), "--weights", str(run / "best.ckpt"), "--out", str(out)]
    video.write_bytes((many / "000.mp4").read_bytes())
    assert main(arguments) == 1
    video.write_bytes((many / "007.mp4").read_bytes())
    os.utime(video, ns=(0, 10**9))
    late.write_bytes((many / "000.mp4").read_bytes())
    capsys.readouterr()
    assert main(arguments) == 0
    assert capsys.readouterr().out == f"{out}: 2 videos, 2 again since they changed\n"
    lines = lines_of(out)
    assert [line["path"] for line in lines] == [str(video), str(late)] * 2
    assert lines[2]["predictions"] != lines[0]["predictions"]
    assert lines[3]["predictions"] == lines[0]["predictions"]


def _status_of_opening(path: Path) -> int:
    """Open the file in another process: 0 if that could, 3 if it was told that the file is in use."""

    def open_it() -> None:
        try:
            ResultFile(path, "k")
        except ValueError as error:
            os._exit(3 if str(error) == f"{path}: another process is writing to it" else 4)
        os._exit(0)

    child = multiprocessing.get_context("fork").Process(target=open_it)
    child.start()
    child.join(60)
    assert child.exitcode is not None
    return child.exitcode


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with ResultFile(path, "k") as results:
        assert _status_of_opening(path) == 3
        results.write(Prediction("a.mp4", [("left", 0.5)]))
        assert _status_of_opening(path) == 3
        results.write(Prediction("b.mp4", [("left", 0.5)]))
    assert len(lines_of(path)) == 2
    with ResultFile(path, "k"):  # reading what is there does not give the lock up
        assert _status_of_opening(path) == 3
    assert _status_of_opening(path) == 0


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"

    def fill() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150, 150))  # bytes: two lines and a part of a third
        try:
            with ResultFile(path, "k") as results:
                for i in range(9):
                    results.write(Prediction(f"{i}.mp4", error="x" * 20))
        except OSError:
            os._exit(3)
        os._exit(0)

    child = multiprocessing.get_context("fork").Process(target=fill)
    child.start()
    child.join(60)
    assert child.exitcode == 3
    assert [line["path"] for line in lines_of(path)] == ["0.mp4", "1.mp4"]


def test_nothing_is_made_for_weights_that_are_none(
    many: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.jsonl"
    assert main(["predict", str(many), "--weights", str(many / "000.mp4"), "--out", str(out)]) == 2
    assert main(["predict", "--weights", "w.ckpt"]) == 2
    assert capsys.readouterr().err.endswith("vidops predict: error: VIDEO: no video is given\n")
    assert not out.exists()


def test_many_videos_get_a_line_each(run: Path, many: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["predict", str(many / "0[0-2]*.mp4"), "--weights", str(run / "best.ckpt"), "--top", "2"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(many / f"{i:03d}.mp4") for i in range(30)]
    assert all(line.count("%") == 2 for line in lines)


def test_a_frame_folder_is_predicted_like_its_video(run: Path, many: Path, tmp_path: Path) -> None:
    video = many / "005.mp4"
    frames = read_frames(video, range(8))
    folder = tmp_path / "frames"
    folder.mkdir()
    for i, frame in enumerate(frames, 1):
        PIL.Image.fromarray(frame).save(folder / f"{i:05d}.jpg", quality=100, subsampling=0)
    one, other = predict([folder, video], run / "best.ckpt", top=4)
    assert one.error is None
    assert dict(one.scores) == pytest.approx(dict(other.scores), abs=0.02)
    (folder / "00004.jpg").unlink()
    assert (
        next(iter(predict([folder], run / "best.ckpt"))).error
        == f"{folder / '00004.jpg'}: the frame is missing"
    )


def test_views_of_a_prediction_are_those_of_the_evaluation(run: Path) -> None:
    config = load_config(run / "config.yaml")
    plain, crops = Predictor(run / "best.ckpt"), Predictor(run / "best.ckpt", views="3x1", batch_size=2)
    assert plain.key != crops.key
    videos = [sample.path for sample in read_list(config, "val").samples]
    for predictor, views in ((plain, "1x1"), (crops, "3x1")):
        report = evaluate(run / "best.ckpt", views=views)
        assert report.logits is not None
        expected = torch.tensor(report.logits).softmax(1).tolist()
        for prediction, shares in zip(predictor.run(videos), expected, strict=True):
            named = dict(zip(report.classes, shares, strict=True))
            assert dict(prediction.scores) == pytest.approx(named, abs=1e-5)
    with pytest.raises(ValueError, match="views: must read CROPSxCLIPS"):
        Predictor(run / "best.ckpt", views="many")
