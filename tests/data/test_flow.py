from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("skimage", reason="scikit-image is not installed")
pytest.importorskip("av", reason="PyAV is not installed")

from vidops.cli import main
from vidops.data import Sample, VideoError, read_frames
from vidops.data import flow_store as store_module
from vidops.data.flow import FlowSettings, decode_flow, encode_flow, tvl1_flow, video_flow
from vidops.data.flow_jobs import compute_flow, find_videos
from vidops.data.flow_store import FlowStore
from vidops.data.modalities import flip_flow
from vidops.data.samples import FrameFolder

from .conftest import write_video

# Most tests ask for flow that is not there yet; one says that this warns.
pytestmark = pytest.mark.filterwarnings("ignore:.*lacks the flow of some videos")

FAST = FlowSettings(short_side=24, num_warp=1, num_iter=2)


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth random texture."""
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(seed).random((height, width, 3))
    smooth = gaussian_filter(noise, (2, 2, 0))
    return ((smooth - smooth.min()) / np.ptp(smooth) * 255).astype(np.uint8)


def moving(count: int, seed: int = 0, height: int = 24, width: int = 32) -> np.ndarray:
    picture = texture(height + 2 * count, width + 2 * count, seed)
    return np.stack([picture[i : i + height, 2 * i : 2 * i + width] for i in range(count)])


@pytest.fixture
def video(tmp_path: Path) -> Path:
    (tmp_path / "videos").mkdir()
    return write_video(tmp_path / "videos" / "a.mkv", codec="ffv1", pix_fmt="bgr0", clip=moving(6))


@pytest.fixture
def store(tmp_path: Path) -> FlowStore:
    return FlowStore(tmp_path / "flow", videos=tmp_path / "videos", settings=FAST)


@pytest.mark.parametrize("right, down", [(2, 0), (0, -2), (-1, 2)])
def test_flow_points_where_the_picture_moves(right, down):
    picture = texture(76, 88)
    first = picture[6:-6, 6:-6]
    second = picture[6 - down : 70 - down, 6 - right : 82 - right]
    flow = tvl1_flow(first, second)
    assert flow.shape == (64, 76, 2)
    assert flow.dtype == np.float32
    inside = flow[8:-8, 8:-8]
    assert np.abs(inside - (right, down)).mean() < 0.1


def test_flow_of_mirrored_frames_is_the_flipped_flow():
    """Mirroring the input negates x: what `flip_flow` does to the stored fields."""
    picture = texture(60, 80)
    first, second = picture[4:-4, 6:-4], picture[3:-5, 4:-6]
    field, mirrored = (
        encode_flow(tvl1_flow(a, b)) for a, b in ((first, second), (first[:, ::-1], second[:, ::-1]))
    )
    pad = np.full((*field.shape[:2], 1), 128, np.uint8)
    flipped = flip_flow(np.concatenate([field, pad], -1)[None])[0, ..., :2].numpy()
    inside = np.s_[8:-8, 8:-8]
    assert np.abs(flipped[inside].astype(int) - mirrored[inside]).mean() < 0.5
    assert (
        np.abs(field[:, ::-1][inside].astype(int) - mirrored[inside]).mean() > 5
    )  # not without the negation


def test_bytes_hold_the_bound_zero_and_half_a_step():
    flow = np.linspace(-30, 30, 1001, dtype=np.float32)
    stored = encode_flow(flow)
    assert stored.dtype == np.uint8
    assert (int(stored.min()), int(stored.max())) == (1, 255)
    assert np.abs(decode_flow(stored) - np.clip(flow, -20, 20)).max() <= 20 / 254 + 1e-5
    assert np.array_equal(encode_flow(-flow), 256 - stored.astype(int))
    assert decode_flow(encode_flow(np.zeros(3, np.float32))).tolist() == [0, 0, 0]
    assert np.array_equal(encode_flow(decode_flow(stored, 5.0), 5.0), stored)


def test_fields_are_those_of_the_neighbouring_frames(store, video):
    frames = read_frames(video, range(6), short_side=24)
    assert store.add(video)
    found = store.read(video, [4, 0, 0])
    assert found.shape == (3, 24, 32, 2)
    expected = [encode_flow(tvl1_flow(frames[i], frames[i + 1], FAST)) for i in (4, 0, 0)]
    assert np.array_equal(found, np.stack(expected))
    with pytest.raises(ValueError, match=r"field 5 is past the end of .*a\.mkv, which has 5"):
        store.read(video, [5])


def test_flow_that_is_missing_is_computed_with_a_warning(store, video):
    with pytest.warns(UserWarning, match="lacks the flow of some videos, .*vidops dataset flow computes it"):
        store.read(video, [0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.read(video, [0])


def test_sample_gives_pictures_with_a_blank_channel(store, video):
    frames, indices = store.sample(str(video), lambda info: [info.num_frames - 1, info.height % 5])
    assert indices.tolist() == [4, 4]
    assert np.array_equal(frames[..., :2], store.read(video, [4, 4]))
    assert (frames[..., 2] == 128).all()
    assert frames.flags.writeable


def test_a_file_is_an_npz_that_numpy_reads(store, video):
    store.add(video)
    with np.load(store.path(video)) as archive:
        assert sorted(archive.files) == [f"{i:06d}" for i in range(5)] + ["meta"]
        assert np.array_equal(archive["000003"].transpose(1, 2, 0), store.read(video, [3])[0])


def test_a_single_frame_has_one_field_without_motion(store, tmp_path):
    (tmp_path / "videos").mkdir()
    still = write_video(tmp_path / "videos" / "still.mkv", codec="ffv1", pix_fmt="bgr0", clip=moving(1))
    assert (store.read(still, [0, 0]) == 128).all()
    assert list(video_flow([], FAST)) == []


def test_frame_folders(store, tmp_path, video):
    from PIL import Image

    folder = tmp_path / "videos" / "7"
    folder.mkdir()
    clip = moving(20)
    for number, frame in enumerate(clip, 1):
        Image.fromarray(frame).save(folder / f"{number:05d}.png")
    names = FrameFolder("{:05d}.png")
    assert store.add(folder, names)
    assert not store.add(folder, names)
    expected = [encode_flow(tvl1_flow(clip[i], clip[i + 1], FAST)) for i in (15, 18)]
    assert np.array_equal(store.read(folder, [15, 18], names), np.stack(expected))
    (folder / "00001.png").touch()
    assert store.add(folder, names)  # a picture has changed


def test_frames_counted_or_named_otherwise_have_flow_of_their_own(store, tmp_path):
    from PIL import Image

    clip = moving(5)
    folder = tmp_path / "videos" / "vid"
    folder.mkdir(parents=True, exist_ok=True)
    for number, frame in enumerate(clip):
        Image.fromarray(frame).save(folder / f"{number:05d}.png")
        Image.fromarray(frame[:, ::-1].copy()).save(folder / f"m{number:05d}.png")
    for names, fields in (
        (FrameFolder("{:05d}.png", 0, 3), 2),
        (FrameFolder("{:05d}.png", 0, 5), 4),
        (FrameFolder("{:05d}.png", 1, 3), 2),
        (FrameFolder("m{:05d}.png", 0, 3), 2),
    ):
        assert store.add(folder, names), names
        with np.load(store.path(folder, names)) as archive:
            assert f"{fields - 1:06d}" in archive
            assert f"{fields:06d}" not in archive
    (folder / "empty").touch()
    os.utime(folder / "empty", (1, 1))  # neither the bytes nor the latest change
    assert not store.path(folder, names).exists()


def test_a_changed_video_and_other_settings_have_files_of_their_own(store, video, tmp_path):
    before = store.path(video)
    os.utime(video, ns=(1, 1))
    assert store.path(video) != before
    assert FlowStore(tmp_path / "flow", videos=tmp_path).path(video) != store.path(video)
    with pytest.raises(ValueError, match=r"flow\.json: flow of other settings"):
        FlowStore(tmp_path / "flow", settings=FlowSettings())
    (tmp_path / "flow" / "flow.json").write_text('{"bound": 0}')
    with pytest.raises(ValueError, match=r"flow\.json: not the settings of a folder of flow"):
        FlowStore(tmp_path / "flow")
    with pytest.raises(FileNotFoundError, match="holds no flow; make it with: vidops dataset flow"):
        FlowStore(tmp_path / "none")


def test_a_moved_data_set_is_found_again(store, video, tmp_path):
    store.add(video)
    moved = (tmp_path / "videos").rename(tmp_path / "elsewhere")
    assert not FlowStore(tmp_path / "flow", videos=moved).add(moved / "a.mkv")


def damage(file: Path, kind: str) -> None:
    content = file.read_bytes()
    if kind == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif kind == "empty":
        file.write_bytes(b"")
    elif kind == "noise":
        file.write_bytes(np.random.default_rng(0).bytes(len(content)))
    elif kind == "flipped bytes":
        spoilt = bytearray(content)
        for at in range(100, len(content) // 2, 50):
            spoilt[at] ^= 0xFF
        file.write_bytes(bytes(spoilt))
    else:  # another writer's npz
        np.savez(file, a=np.zeros(3))


@pytest.mark.parametrize("kind", ["truncated", "empty", "noise", "flipped bytes", "foreign"])
@pytest.mark.parametrize("by", ["add", "sample"])
def test_a_damaged_file_is_named_and_made_anew(store, video, kind, by):
    good = store.read(video, range(5))
    file = store.path(video)
    damage(file, kind)
    draws = []

    def choose(info):
        draws.append(1)
        return range(5)

    mend = {"add": lambda: store.add(video), "sample": lambda: store.sample(str(video), choose)}[by]
    with pytest.warns(UserWarning, match=rf"{file.name}: damaged.* the flow of .*a\.mkv is computed again"):
        mended = mend()
    if by == "add":
        assert mended
    else:
        assert np.array_equal(mended[0][..., :2], good)
        assert len(draws) == 1  # random numbers are not drawn twice
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(store.read(video, range(5)), good)
        assert not store.add(video)


def test_fields_of_another_size_are_damage(store, video):
    store.add(video)
    file = store.path(video)
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            if name == "000002.npy":
                archive.writestr(name, members["meta.npy"])
            else:
                archive.writestr(name, content)
    with pytest.warns(UserWarning, match="damaged, field 2 is uint8"):
        store.read(video, [2])


@pytest.mark.parametrize("content", [None, b"", b"no video"])
def test_a_broken_video_is_named_and_leaves_nothing(store, tmp_path, content):
    broken = tmp_path / "videos" / "broken.mp4"
    broken.parent.mkdir(exist_ok=True)
    if content is not None:
        broken.write_bytes(content)
    for call in (lambda: store.add(broken), lambda: store.read(broken, [0])):
        with pytest.raises(VideoError, match=r"broken\.mp4: "):
            call()
    assert [p.name for p in (tmp_path / "flow").rglob("*") if p.is_file()] == ["flow.json"]


WRITER = """
import sys
from vidops.data import flow_store
from vidops.data.flow_store import FlowStore
add, slow = flow_store._add, []
def hang(archive, name, array):
    add(archive, name, array)
    if name == "000002":
        print("writing", flush=True)
        __import__("time").sleep(60)
flow_store._add = hang
FlowStore(sys.argv[1], videos=sys.argv[2]).add(sys.argv[3])
"""


def test_a_killed_writer_leaves_no_flow_and_is_swept_up(store, video, tmp_path):
    arguments = [sys.executable, "-c", WRITER, str(store.root), str(store.videos), str(video)]
    writer = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "writing\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    left = list(store.root.glob("*/.*.tmp"))
    assert len(left) == 1
    assert not store.path(video).exists()
    store.sweep()
    assert left[0].exists()  # too young: its writer may be alive
    os.utime(left[0], (time.time() - 7200,) * 2)
    store.sweep()
    assert not left[0].exists()
    assert store.add(video)
    assert store.read(video, range(5)).shape == (5, 24, 32, 2)


PARENT = """
import multiprocessing, sys, threading, time
from vidops.data import FlowStore
from vidops.data.flow_jobs import compute_flow, find_videos
def say():
    while len(multiprocessing.active_children()) < 2:
        time.sleep(0.05)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
if __name__ == "__main__":
    threading.Thread(target=say, daemon=True).start()
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
    (tmp_path / "parent.py").write_text(PARENT)
    arguments = [
        sys.executable,
        str(tmp_path / "parent.py"),
        str(tmp_path / "flow"),
        str(tmp_path / "videos"),
    ]
    parent = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 60
    while len(list((tmp_path / "flow").glob("*/.*.tmp"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert len(list((tmp_path / "flow").glob("*/.*.tmp"))) == 2  # both are at work
    parent.kill()
    parent.wait()

    def alive(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(alive(pid) for pid in workers)
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


def test_a_store_travels_to_workers(store, video):
    store.add(video)
    assert np.array_equal(pickle.loads(pickle.dumps(store)).read(video, [1]), store.read(video, [1]))


@pytest.mark.parametrize("name", ["short_side", "bound", "attachment", "num_warp", "tol"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), True, "2"])
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"{name} must be above 0"):
        FlowSettings(**{name: value})


def test_wrong_frames():
    frame = np.zeros((8, 9, 3), np.uint8)
    with pytest.raises(ValueError, match=r"must be uint8 \(H, W, 3\)"):
        tvl1_flow(frame[..., 0], frame)
    with pytest.raises(ValueError, match="second must have the shape of first"):
        tvl1_flow(frame, frame[1:])


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


def test_find_videos_and_arguments(tmp_path, video):
    assert [sample.path for sample in find_videos(tmp_path / "videos")] == [str(video)]
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        next(compute_flow(FlowStore(tmp_path / "f", settings=FAST), [Sample(str(video), 0)], workers=0))


def test_a_long_video_is_read_as_it_goes(video, monkeypatch):
    converted = []
    real = store_module._Converter.__call__
    monkeypatch.setattr(
        store_module._Converter, "__call__", lambda self, frame: converted.append(1) or real(self, frame)
    )
    fields = video_flow(store_module._frames(str(video), None, 24), FAST)
    next(fields)
    assert len(converted) == 2
