from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from vidops.data import AnnotationList, Sample, UniformSampling, VideoDataset, VideoError, read_frames
from vidops.data import dataset as dataset_module
from vidops.data.transforms import Compose, Normalize, TrainCrops
from vidops.data.views import SpatialCrops, Views

from ._videos import write_video

TRAIN = Compose([TrainCrops(24, flip=True), Normalize([0.5] * 3, [0.25] * 3)])


@pytest.fixture(scope="module")
def annotations(tmp_path_factory) -> AnnotationList:
    folder = tmp_path_factory.mktemp("clips")
    samples = []
    for i in range(6):
        clip = np.random.default_rng(i).integers(0, 256, (10 + i, 36, 48, 3), dtype=np.uint8)
        path = write_video(folder / f"{i}.mkv", codec="ffv1", pix_fmt="bgr0", clip=clip)
        samples.append(Sample(str(path), i % 3))
    return AnnotationList(samples, ["x", "y", "z"])


def make(annotations: AnnotationList, **kwargs) -> VideoDataset:
    kwargs = {"sampling": UniformSampling(4, training=True), "transform": TRAIN, "seed": 7} | kwargs
    return VideoDataset(annotations, **kwargs)


def epochs_of(dataset: VideoDataset, workers: int, **kwargs) -> list[dict]:
    """All batches of epochs 0 and 1 from one loader."""
    loader = DataLoader(dataset, batch_size=2, num_workers=workers, persistent_workers=workers > 0, **kwargs)
    batches = []
    for epoch in range(2):
        dataset.set_epoch(epoch)
        batches += list(loader)
    return batches


def assert_equal(a: list[dict], b: list[dict]) -> None:
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x["clip"], y["clip"])
        assert torch.equal(x["label"], y["label"])
        assert torch.equal(x["index"], y["index"])
        assert x["path"] == y["path"]


def test_item(annotations):
    item = make(annotations)[4]
    assert item["clip"].shape == (3, 4, 24, 24)
    assert item["clip"].dtype == torch.float32
    assert (item["label"], item["index"], item["path"]) == (1, 4, annotations.samples[4].path)


def test_test_clip_is_the_named_frames(annotations):
    transform = Views(SpatialCrops(36, 36), 1, Normalize([0.0] * 3, [1.0] * 3))
    dataset = make(annotations, sampling=UniformSampling(5, training=False), transform=transform)
    frames = read_frames(annotations.samples[0].path, [1, 3, 5, 7, 9])[:, :, 6:42]
    expected = torch.from_numpy(frames).permute(3, 0, 1, 2).float() / 255
    assert torch.equal(dataset[0]["clip"], expected)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes")
@pytest.mark.parametrize(
    "workers, context, cache",
    [(1, "fork", None), (4, "fork", None), (4, "fork", "memory"), (2, "forkserver", "memory")],
)
def test_batches_are_the_same_with_any_number_of_workers(annotations, workers, context, cache):
    torch.manual_seed(0)
    alone = epochs_of(make(annotations), 0)
    torch.manual_seed(1)
    np.random.seed(5)  # noqa: NPY002 - a global state that must not matter
    helped = epochs_of(make(annotations, cache=cache), workers, multiprocessing_context=context)
    assert_equal(alone, helped)


def test_epoch_and_seed_change_the_clip_and_position_does_not(annotations):
    dataset = make(annotations)
    first = dataset[3]["clip"]
    dataset[5]
    assert torch.equal(dataset[3]["clip"], first)
    dataset.set_epoch(1)
    assert not torch.equal(dataset[3]["clip"], first)
    assert torch.equal(dataset[(0, 3)]["clip"], first)  # the epoch said by a sampler
    assert torch.equal(dataset[3]["clip"], dataset[(1, 3)]["clip"])
    dataset.set_epoch(0)
    assert torch.equal(dataset[3]["clip"], first)
    assert not torch.equal(make(annotations, seed=8)[3]["clip"], first)


def test_samples_do_not_share_random_numbers(annotations):
    twice = AnnotationList([annotations.samples[0]] * 8, None)
    clips = [make(twice)[i]["clip"] for i in range(8)]
    assert len({clip.numpy().tobytes() for clip in clips}) > 4


def count_decodes(monkeypatch) -> list[str]:
    calls = []
    real = dataset_module._sample
    monkeypatch.setattr(dataset_module, "_sample", lambda path, *a: calls.append(path) or real(path, *a))
    return calls


def test_cache_gives_the_same_clips_and_decodes_once(annotations, monkeypatch):
    calls = count_decodes(monkeypatch)
    assert_equal(epochs_of(make(annotations), 0), epochs_of(make(annotations, cache="memory"), 0))
    assert len(calls) == 2 * 6 + 6


def test_cache_keeps_to_its_limit(annotations, monkeypatch):
    calls = count_decodes(monkeypatch)
    limit = (10 + 11) * 36 * 48 * 3  # the first two videos
    dataset = make(annotations, cache="memory", cache_bytes=limit)
    epochs_of(dataset, 0)
    assert sorted(dataset._cache) == [s.path for s in annotations.samples[:2]]
    assert sum(frames.nbytes for frames in dataset._cache.values()) == limit
    assert len(calls) == 6 + 4


def test_short_side(annotations):
    dataset = make(annotations, short_side=24, cache="memory")
    assert dataset[0]["clip"].shape == (3, 4, 24, 24)
    assert next(iter(dataset._cache.values())).shape == (10, 24, 32, 3)


def test_pickling_leaves_the_cache_behind(annotations):
    dataset = make(annotations, cache="memory")
    clip = dataset[0]["clip"]
    copy = pickle.loads(pickle.dumps(dataset))
    assert dataset._cache
    assert not copy._cache
    assert torch.equal(copy[0]["clip"], clip)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_video_is_named_in_one_line(annotations, tmp_path, workers):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    listed = AnnotationList([annotations.samples[0], Sample(str(broken), 0)], None)
    with pytest.raises(VideoError) as info:
        list(DataLoader(make(listed), batch_size=2, num_workers=workers))
    assert str(info.value).startswith(f"{broken}: ")
    assert "\n" not in str(info.value)


def test_a_video_that_cannot_be_sampled_is_named(annotations):
    dataset = make(annotations, sampling=UniformSampling(3, training=False, symmetric=True))
    with pytest.raises(VideoError, match=r"0\.mkv: num_segments: symmetric sampling of 10 frames"):
        dataset[0]


@pytest.mark.parametrize("index", [6, -1])
def test_index_out_of_range(annotations, index):
    with pytest.raises(IndexError, match=f"index {index} is outside the 6 samples"):
        make(annotations)[index]


@pytest.mark.parametrize(
    "kwargs, match",
    [
        ({"seed": -1}, "seed must be at least 0"),
        ({"cache": "disk"}, 'cache must be None or "memory"'),
        ({"cache_bytes": -1}, "cache_bytes must be at least 0"),
        ({"short_side": 0}, "short_side must be at least 1"),
    ],
)
def test_wrong_arguments(annotations, kwargs, match):
    with pytest.raises(ValueError, match=match):
        make(annotations, **kwargs)
    with pytest.raises(ValueError, match="epoch must be at least 0"):
        make(annotations).set_epoch(-1)
