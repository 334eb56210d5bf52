"""Recipes whose network sees flow, RGB differences, dynamic or squeezed images."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="scikit-image is not installed")
pytest.importorskip("av", reason="PyAV is not installed")

from vidops.data import DenseSampling, UniformSampling, VideoDataset, make_motion, read_frames
from vidops.data.flow import FlowSettings
from vidops.data.flow_store import FlowStore
from vidops.data.modalities import dynamic_image, rgb_difference, squeezed_image
from vidops.data.transforms import Normalize
from vidops.evaluation import evaluate, predict
from vidops.training import fit
from vidops.training.config import Config, validate
from vidops.training.loading import training_loader
from vidops.training.reading import build_dataset, read_list

pytestmark = pytest.mark.filterwarnings("ignore:.*lacks the flow of some videos")

FAST = FlowSettings(short_side=24, num_warp=1, num_iter=1)
CHANNELS = {"rgb": 3, "rgb_diff": 6, "flow": 4, "dynamic_image": 3, "squeezed_image": 3}


@pytest.fixture(scope="module")
def motion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, 8 training and 4 validation clips of 8 frames of 32 x 32, and an empty folder for flow."""
    folder = make_motion(
        tmp_path_factory.mktemp("data") / "motion", pairs=1, train=8, val=4, size=32, progress=False
    )
    FlowStore(folder.parent / "flow", videos=folder, settings=FAST)
    return folder


def recipe(
    motion: Path, modality: str, output: Path | str = "x", /, *, channels: int | None = None, **data: object
) -> Config:
    stack = {} if modality == "rgb" else {"stack": 2}
    root = {"flow_root": str(motion.parent / "flow")} if modality == "flow" else {}
    content = {
        "model": {
            "name": "tiny_tsm",
            "num_segments": 2,
            "options": {"in_channels": channels or CHANNELS[modality]},
        },
        "data": {
            "root": str(motion),
            "train": "train.csv",
            "val": "val.csv",
            "modality": modality,
            "size": 24,
            "short_side": 32,
            "flip": False,
            "batch_size": 4,
            **stack,
            **root,
            **data,
        },
        "optimizer": {"name": "sgd", "lr": 0.01},
        "schedule": {"name": "cosine"},
        "epochs": 1,
        "accelerator": "cpu",
        "log_every": 1,
        "output": str(output),
    }
    return validate(content, "test recipe")


def clips(config: Config, training: bool = False, views: bool = True) -> VideoDataset:
    return build_dataset(config, read_list(config, "val"), training=training, views=views)


@pytest.mark.parametrize("modality", CHANNELS)
def test_clips_have_the_channels_of_their_modality(motion, modality):
    for training in (False, True):
        dataset = clips(recipe(motion, modality), training)
        assert dataset[1]["clip"].shape == (CHANNELS[modality], 2, 24, 24)
        assert torch.equal(dataset[1]["clip"], dataset[1]["clip"])
        assert not training or not torch.equal(dataset[(1, 1)]["clip"], dataset[(0, 1)]["clip"])


def test_a_flow_clip_is_made_of_the_stored_fields(motion):
    config = recipe(motion, "flow", size=24, short_side=24)
    dataset = clips(config)
    path = dataset.samples[2].path
    store = FlowStore(motion.parent / "flow", videos=motion)
    wanted = UniformSampling(2, training=False, frames_per_segment=2)(7)  # 8 frames have 7 fields
    fields = store.read(path, wanted).astype(np.float32)
    clip = dataset[2]["clip"]
    for segment in range(2):
        for k in range(2):
            for axis in range(2):
                expected = (fields[2 * segment + k, ..., axis] - 128) / 255 / 0.226
                assert np.allclose(clip[2 * k + axis, segment].numpy(), expected, atol=1e-6)


def test_a_difference_clip_is_made_of_consecutive_frames(motion):
    dataset = clips(recipe(motion, "rgb_diff", size=32))
    path = dataset.samples[0].path
    indices = UniformSampling(2, training=False, frames_per_segment=3)(8)
    assert indices.tolist()[1] == indices.tolist()[0] + 1
    expected = rgb_difference(read_frames(path, indices), 2).permute(3, 0, 1, 2) / 255 / 0.452
    assert torch.allclose(dataset[0]["clip"], expected, atol=1e-6)


def test_runs_of_flow_fields_are_a_time_step_each(motion):
    """What TeSNet squeezes: consecutive fields of two channels."""
    config = recipe(motion, "flow", short_side=24, stack=1, frames_per_segment=3, channels=2)
    dataset = clips(config)
    wanted = UniformSampling(2, training=False, frames_per_segment=3)(7)
    store = FlowStore(motion.parent / "flow", videos=motion)
    fields = torch.from_numpy(store.read(dataset.samples[1].path, wanted)[..., :2].astype(np.float32))
    clip = dataset[1]["clip"]
    assert clip.shape == (2, 6, 24, 24)
    torch.testing.assert_close(clip, (fields.permute(3, 0, 1, 2) - 128) / 255 / 0.226, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("modality", "made"), [("dynamic_image", dynamic_image), ("squeezed_image", squeezed_image)]
)
def test_pictures_are_of_whole_frames(motion, modality, made):
    """The rescaling sees the whole picture, then the crop is cut."""
    dataset = clips(recipe(motion, modality))
    path = dataset.samples[0].path
    frames = read_frames(path, UniformSampling(2, training=False, frames_per_segment=2)(8))
    whole = made(frames, 2)[:, 4:28, 4:28]
    normalize = Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert torch.equal(dataset[0]["clip"], normalize(whole, np.random.default_rng(0)))


@pytest.mark.parametrize("modality", ["flow", "rgb_diff", "dynamic_image"])
def test_views_are_clips_times_crops(motion, modality):
    config = recipe(motion, modality, crops=3, clips=2)
    views = clips(config)[0]["clip"]
    assert views.shape == (6, CHANNELS[modality], 2, 24, 24)
    assert torch.equal(views[1], clips(config, views=False)[0]["clip"])  # the centre of the first clip


def test_ten_crops_of_flow_are_negated_where_mirrored(motion):
    config = recipe(motion, "flow", crops=10, flip=True)
    listed = read_list(config, "val")
    listed = type(listed)(listed.samples, ["one", "two"])  # names that a mirror does not swap
    views = build_dataset(config, listed, training=False)[0]["clip"]
    assert views.shape[0] == 10
    assert torch.allclose(views[5:, 0::2], -views[:5, 0::2].flip(-1), atol=1e-6)
    assert torch.allclose(views[5:, 1::2], views[:5, 1::2].flip(-1), atol=1e-6)


@pytest.mark.parametrize("crop", ["multi_scale", "random_resize"])
def test_mirrored_training_clips_of_flow_are_negated(motion, crop):
    listed = read_list(recipe(motion, "flow"), "val")
    listed = type(listed)(listed.samples, ["one", "two"])
    mirrored = 0
    for epoch in range(12):
        plain, out = (
            build_dataset(
                recipe(motion, "flow", flip=flip, train_crop=crop, short_side_range=[24, 32]),
                listed,
                training=True,
            )[(epoch, 0)]["clip"]
            for flip in (False, True)
        )
        if not torch.equal(plain, out):
            mirrored += 1
            assert torch.allclose(out[0::2], -plain[0::2].flip(-1), atol=1e-6)
            assert torch.allclose(out[1::2], plain[1::2].flip(-1), atol=1e-6)
    assert 1 <= mirrored <= 11


def test_dense_sampling_and_memory_cache_of_flow(motion):
    config = recipe(motion, "flow", sampling="dense", window=6)
    cached = recipe(motion, "flow", sampling="dense", window=6, cache="memory")
    dataset = clips(cached)
    assert torch.equal(clips(config)[0]["clip"], dataset[0]["clip"])
    assert torch.equal(clips(config)[0]["clip"], dataset[0]["clip"])
    assert next(iter(dataset._cache.values())).shape == (7, 24, 24, 3)
    assert isinstance(dataset.sampling, DenseSampling)


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_fill_the_store_and_give_the_same_batches(motion, tmp_path, workers):
    FlowStore(tmp_path / "flow", videos=motion, settings=FAST)
    config = recipe(motion, "flow", flow_root=str(tmp_path / "flow"), workers=workers)
    known = recipe(motion, "flow")
    for one, other in zip(
        training_loader(config, build_dataset(config, read_list(config, "train"), training=True)),
        training_loader(known, build_dataset(known, read_list(known, "train"), training=True)),
        strict=True,
    ):
        assert torch.equal(one["clip"], other["clip"])
        assert one["broken"] == []
    assert len(list((tmp_path / "flow").glob("*/*.npz"))) == 8


@pytest.mark.parametrize("modality", ["flow", "rgb_diff", "dynamic_image"])
def test_training_evaluation_and_prediction(motion, tmp_path, modality):
    result = fit(recipe(motion, modality, tmp_path / "run"))
    assert np.isfinite(result.metrics["val_loss"])
    report = evaluate(result.last)
    assert report.samples == 4
    path = clips(recipe(motion, modality)).samples[0].path
    (prediction,) = predict([path], result.last, top=2)
    assert prediction.error is None
    assert len(prediction.scores) == 2


def test_a_video_without_flow_that_is_broken_is_named(motion, tmp_path):
    config = recipe(motion, "flow")
    dataset = clips(config)
    (tmp_path / "bad.mp4").write_bytes(b"nothing")
    listed = type(dataset.annotations)([type(dataset.samples[0])(str(tmp_path / "bad.mp4"), 0)], ["a"])
    with pytest.raises(ValueError, match=r"bad\.mp4: "):
        build_dataset(config, listed, training=False)[0]


@pytest.mark.parametrize(
    "modality, data, message",
    [
        ("rgb", {"stack": 2}, "data.stack: is for another data.modality than rgb"),
        ("rgb", {"flow_root": "x"}, "data.flow_root: is for data.modality=flow, not rgb"),
        ("rgb_diff", {"flow_root": "x"}, "data.flow_root: is for data.modality=flow, not rgb_diff"),
        ("flow", {"flow_root": None}, "data.flow_root: is missing, a folder of vidops dataset flow"),
        ("dynamic_image", {"stack": 1}, "data.stack: must be a whole number of at least 2 for dynamic_image"),
        (
            "rgb_diff",
            {"frames_per_segment": 3},
            "data.frames_per_segment: is for data.modality=rgb, or flow of data.stack=1; data.stack says it",
        ),
        ("flow", {"mean": [0, 0, 0]}, "data.mean, data.std: are of colours, not for data.modality=flow"),
        (
            "flow",
            {"stack": 5},
            "model.options.in_channels: must be 10 for data.modality=flow with data.stack=5",
        ),
        (
            "flow",
            {"modality": "depth"},
            "data.modality: must be 'rgb', 'rgb_diff', 'flow', 'dynamic_image' or 'squeezed_image'",
        ),
        ("flow", {"modality": "rgb", "stack": None, "flow_root": None}, "in_channels: must be 3 for"),
    ],
)
def test_keys_that_do_not_fit(motion, modality, data, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        recipe(motion, modality, **data)


def test_a_folder_without_flow_is_said_before_anything_is_written(motion, tmp_path):
    with pytest.raises(FileNotFoundError, match="none: holds no flow; make it with: vidops dataset flow"):
        fit(recipe(motion, "flow", tmp_path / "run", flow_root=str(tmp_path / "none")))
    assert not (tmp_path / "run").exists()
