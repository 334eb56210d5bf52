from __future__ import annotations

import csv
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("skimage", reason="scikit-image is not installed")

from vidops.cli import main
from vidops.data import MOTION_PAIRS, make_motion, motion_clip, read_annotations, read_frames
from vidops.data import _scenes as scenes_module
from vidops.data import motion as motion_module

CLASSES = [name for pair in MOTION_PAIRS.values() for name in pair]


def clip_of(name: str, seed: int, **kwargs) -> np.ndarray:
    return motion_clip(name, np.random.default_rng(seed), **kwargs)


@pytest.mark.parametrize("pair", MOTION_PAIRS)
def test_the_partner_with_the_same_random_state_is_the_reversal(pair):
    first, second = MOTION_PAIRS[pair]
    for seed in range(5):
        forward = clip_of(first, seed)
        assert forward.shape == (8, 48, 48, 3)
        assert forward.dtype == np.uint8
        np.testing.assert_array_equal(forward[::-1], clip_of(second, seed))
        assert not np.array_equal(forward[::-1], forward)


def centre_of_change(clip: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Centre (x, y) of what differs from the background, as angles on the torus, of every frame."""
    weight = np.abs(clip.astype(float) - background).sum(-1)
    size = clip.shape[1]
    circle = np.exp(2j * np.pi * (np.arange(size) + 0.5) / size)
    return np.stack(
        [np.angle((weight * circle).sum((1, 2))), np.angle((weight * circle[:, None]).sum((1, 2)))], 1
    )


@pytest.mark.parametrize(
    "name, direction",
    [("right", (1, 0)), ("left", (-1, 0)), ("down", (0, 1)), ("up", (0, -1)), ("down_left", (-1, 1))],
)
def test_translations_go_where_they_say_at_several_pixels_a_frame(name, direction):
    for seed in range(6):
        clip = clip_of(name, seed, size=64, frames=8)
        rng = np.random.default_rng(seed)
        pair = next(pair for pair, names in MOTION_PAIRS.items() if name in names)
        background = scenes_module.draw_scene(pair, rng, 8, 64).background.permute(1, 2, 0).numpy().round()
        steps = np.diff(centre_of_change(clip, background), axis=0)
        pixels = ((steps + np.pi) % (2 * np.pi) - np.pi).mean(0) * 64 / (2 * np.pi)
        for moved, way in zip(pixels, direction, strict=True):
            if way == 0:
                assert abs(moved) < 1
            else:
                assert 2.2 < moved * way < 7.5


def poses(pair: str, count: int = 4000, frames: int = 8) -> dict[str, np.ndarray]:
    scenes = [scenes_module.draw_scene(pair, np.random.default_rng(i), frames, 16) for i in range(count)]
    return {key: np.stack([getattr(s, key) for s in scenes]) for key in ("x", "y", "side", "angle", "alpha")}


@pytest.mark.parametrize("pair", MOTION_PAIRS)
def test_every_frame_has_the_same_distribution_wherever_it_stands(pair):
    """What one frame shows, the pose, is distributed alike in all frames: no frame tells the direction."""
    for values in poses(pair, count=1500).values():
        first = np.sort(values[:, 0])
        for k in range(1, values.shape[1]):
            other = np.sort(values[:, k])
            both = np.concatenate([first, other])
            below = [np.searchsorted(v, both, side="right") / len(v) for v in (first, other)]
            assert np.abs(below[0] - below[1]).max() < 1.95 * (2 / 1500) ** 0.5  # Kolmogorov-Smirnov, 0.1 %


# --- the files


def test_files(motion_set):
    assert sorted(p.name for p in motion_set.iterdir()) == ["classes.txt", "train.csv", "val.csv", "videos"]
    classes = (motion_set / "classes.txt").read_text().split()
    assert classes == CLASSES[:8]
    for split, count in (("train", 320), ("val", 400)):
        found = read_annotations(motion_set / f"{split}.csv", num_classes=8)
        assert found.classes == classes
        assert np.bincount([s.label for s in found.samples]).tolist() == [count // 8] * 8
        assert all(Path(s.path).parent.name == classes[s.label] for s in found.samples)
        assert len({s.path for s in found.samples}) == count
    with open(motion_set / "val.csv", newline="") as file:
        assert next(csv.reader(file)) == ["path", "label"]
    assert len(list(motion_set.glob("videos/*/*.mp4"))) == 720
    assert not [p for p in motion_set.parent.iterdir() if "partial" in p.name]


def test_decoded_files_of_a_pair_are_each_others_reversal(motion_set):
    for first, second in list(MOTION_PAIRS.values())[:4]:
        for number in range(6):
            a, b = (
                read_frames(motion_set / f"videos/{c}/val_{number:05d}.mp4", range(8))
                for c in (first, second)
            )
            np.testing.assert_array_equal(a, b[::-1])


def test_every_frame_is_a_key_frame_and_close_to_what_was_drawn(motion_set):
    for name in CLASSES[:8]:
        path = motion_set / f"videos/{name}/train_00003.mp4"
        with av.open(str(path)) as container:
            packets = [p for p in container.demux(video=0) if p.size]
            assert [p.is_keyframe for p in packets] == [True] * 8
        pair = next(i for i, names in enumerate(MOTION_PAIRS.values()) if name in names)
        drawn = clip_of_key(name, (0, 0, pair, 3))
        assert np.abs(read_frames(path, range(8)).astype(int) - drawn).mean() < 6  # colour at half resolution


def clip_of_key(name: str, key: tuple[int, ...]) -> np.ndarray:
    return motion_clip(name, np.random.default_rng(key), size=32)


def test_same_seed_same_frames_whatever_the_workers_and_the_counts(tmp_path):
    a = make_motion(tmp_path / "a", pairs=2, train=8, val=4, size=16, seed=3, workers=1, progress=False)
    b = make_motion(
        tmp_path / "b", pairs=["vertical"], train=4, val=2, size=16, seed=3, workers=3, progress=False
    )
    c = make_motion(
        tmp_path / "c", pairs=["vertical"], train=4, val=2, size=16, seed=4, workers=1, progress=False
    )
    for name in ("down/train_00001.mp4", "up/val_00000.mp4"):
        frames = [read_frames(folder / "videos" / name, range(8)) for folder in (a, b, c)]
        np.testing.assert_array_equal(frames[0], frames[1])
        assert not np.array_equal(frames[0], frames[2])
    train, val = (read_frames(a / f"videos/up/{split}_00000.mp4", [0]) for split in ("train", "val"))
    assert not np.array_equal(train, val)


@pytest.fixture
def _one_thread():
    """Threads that wait for each other over tensors this small cost a busy machine minutes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def decoded(motion_set) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Of both splits: frames (N, T, 3, 8, 8) at a quarter of the resolution, and labels."""
    found = {}
    for split in ("train", "val"):
        samples = read_annotations(motion_set / f"{split}.csv").samples
        frames = np.stack([read_frames(s.path, range(8)) for s in samples])
        small = F.avg_pool2d(torch.from_numpy(frames).flatten(0, 1).permute(0, 3, 1, 2).float(), 4)
        found[split] = small.view(len(samples), 8, 3, 8, 8), torch.tensor([s.label for s in samples])
    return found


@pytest.mark.usefixtures("_one_thread")
@pytest.mark.parametrize(
    "indices", [list(range(8)), [4], [0]], ids=["average", "centre frame", "first frame"]
)
def test_frames_without_their_order_stay_at_chance_within_pairs(decoded, indices):
    """A classifier on the time average, or on one frame, is right in half of the cases, within 3 sigma."""
    means = {split: frames[:, indices].mean(1).flatten(1) for split, (frames, _) in decoded.items()}
    centre, spread = means["train"].mean(0), means["train"].std(0)
    x, test_x = ((means[split] - centre) / spread for split in ("train", "val"))
    y, test_y = decoded["train"][1], decoded["val"][1]
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(x.shape[1], 32), torch.nn.ReLU(), torch.nn.Linear(32, 8))
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3, weight_decay=1e-3)
    for _ in range(150):
        loss = F.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    logits = net(test_x).view(-1, 4, 2)
    within = logits[torch.arange(len(test_y)), test_y // 2].argmax(1)  # the choice within the clip's own pair
    accuracy = (within == test_y % 2).float().mean().item()
    assert len(test_y) >= 400
    assert abs(accuracy - 0.5) <= 3 * (0.25 / len(test_y)) ** 0.5


# --- errors


@pytest.mark.parametrize(
    "kwargs, match",
    [
        ({"pairs": 0}, "pairs must be 1 to 7 or a list of names, got 0"),
        ({"pairs": 8}, "pairs must be 1 to 7"),
        ({"pairs": True}, "pairs must be 1 to 7"),
        ({"pairs": []}, "pairs must name each pair once"),
        ({"pairs": ["zoom", "zoom"]}, "pairs must name each pair once"),
        ({"pairs": ["sideways"]}, "no pair 'sideways'; there are horizontal"),
        ({"train": 100}, r"train must be a multiple of the number of classes \(8\) above 0, got 100"),
        ({"train": 0}, "train must be a multiple"),
        ({"val": -8}, "val must be a multiple"),
        ({"val": 8.0}, "val must be a multiple"),
        ({"frames": 1}, "frames must be a whole number of at least 2, got 1"),
        ({"size": 8}, "size must be a whole number from 16"),
        ({"size": 33}, "size must be even, got 33"),
        ({"seed": -1}, "seed must be a whole number of at least 0"),
        ({"workers": 0}, "workers must be a whole number of at least 1"),
    ],
)
def test_wrong_arguments_leave_nothing_behind(tmp_path, kwargs, match):
    with pytest.raises(ValueError, match=match):
        make_motion(tmp_path / "deep" / "out", **({"train": 8, "val": 8, "progress": False} | kwargs))
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_not_touched(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").touch()
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        make_motion(tmp_path / "out", train=8, val=8, progress=False)
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        make_motion(tmp_path / "out" / "precious", train=8, val=8, progress=False)
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == ["out", "out/precious"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    make_motion(tmp_path / "out", pairs=1, train=2, val=2, size=16, progress=False)
    assert (tmp_path / "out" / "train.csv").is_file()


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_an_interrupted_run_leaves_nothing_behind(tmp_path, monkeypatch, error):
    calls = []

    def encode(path, clip, rate):
        calls.append(path)
        if len(calls) == 5:
            raise error
        path.touch()

    monkeypatch.setattr(motion_module, "encode", encode)
    with pytest.raises(type(error)):
        make_motion(tmp_path / "out", pairs=1, train=40, val=2, size=16, workers=2, progress=False)
    assert list(tmp_path.iterdir()) == []
    assert len(calls) < 42


def test_without_scikit_image(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes_module.importlib.util, "find_spec", lambda name: None)
    scenes_module.load_photos.cache_clear()
    with pytest.raises(
        ImportError, match=r"scikit-image is not installed; .* pip install 'vidops\[motion\]'"
    ):
        make_motion(tmp_path / "out", train=8, val=8, progress=False)
    assert list(tmp_path.iterdir()) == []


def test_unknown_class():
    with pytest.raises(ValueError, match="no motion class 'sideways'; there are right, left"):
        clip_of("sideways", 0)


# --- the command


def test_command(tmp_path, capsys):
    out = tmp_path / "set"
    words = [
        "dataset",
        "make-motion",
        str(out),
        "--pairs",
        "zoom, fade",
        "--train",
        "8",
        "--val",
        "4",
        "--size",
        "16",
    ]
    assert main(words) == 0
    told = capsys.readouterr()
    assert "8 training and 4 validation clips" in told.out
    assert "classes: zoom_in, zoom_out, appear, vanish" in told.out
    assert told.err == ""  # no bar in a log
    assert main(words) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err == f"vidops dataset: error: out_dir: {out} exists and is not an empty folder\n"


def test_command_with_wrong_arguments(tmp_path, capsys):
    assert main(["dataset", "make-motion", str(tmp_path / "x"), "--pairs", "9"]) == 2
    assert "pairs must be 1 to 7" in capsys.readouterr().err
    assert main(["dataset", "make-motion", str(tmp_path / "x"), "--train", "9"]) == 2
    assert "train must be a multiple of the number of classes (8)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
