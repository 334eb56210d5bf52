"""From a recipe to clips: lists, sampling, crops and views, the same with any number of workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")

from PIL import Image

from vidops.data import AnnotationList, DenseSampling, Sample, UniformSampling, make_shards, read_frames
from vidops.models import model_card
from vidops.training import load_config
from vidops.training.loading import build_dataset, collate, evaluation_loader, read_list, training_loader
from vidops.training.reading import refuse_common

REAL = Path(__file__).parents[2].parent / "shared" / "videos"


def mixed(folder: Path) -> Path:
    """A TSM list of 4 frame folders and 4 real videos, copied."""
    if not (REAL / "part_0.mp4").is_file():
        pytest.skip(f"{REAL / 'part_0.mp4'} is not there")
    lines = []
    for i in range(4):
        (folder / f"f{i}").mkdir()
        pictures = np.random.default_rng(i).integers(0, 256, (9 + 30 * i, 36, 48, 3), dtype=np.uint8)
        for j, picture in enumerate(pictures):
            Image.fromarray(picture).save(folder / f"f{i}" / f"{j:03d}.png", compress_level=1)
        (folder / f"v{i}.mp4").write_bytes((REAL / "part_0.mp4").read_bytes())
        lines += [f"f{i} {len(pictures)} {i % 2}", f"v{i}.mp4 1 {i % 2}"]
    (folder / "list.txt").write_text("\n".join(lines) + "\n")
    (folder / "classes.txt").write_text("jump\nrun\n")
    return folder


CHANGES: dict[str, Any] = {
    "data__train": "list.txt",
    "data__val": "list.txt",
    "data__template": "{:03d}.png",
    "data__first_frame": 0,
    "data__symmetric": False,
    "data__batch_size": 4,
    "data__eval_batch_size": 3,
}
KINDS: dict[str, dict[str, Any]] = {
    "uniform": {"data__flip": True},
    "runs, random size": {
        "data__frames_per_segment": 3,
        "data__train_crop": "random_resize",
        "data__short_side_range": [24, 40],
    },
    "dense, cached": {"data__sampling": "dense", "data__cache": "memory", "data__window": 16},
}


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("kind", KINDS)
def test_batches_are_the_same_with_0_1_and_4_workers(make_config: Any, tmp_path: Path, kind: str) -> None:
    root = str(mixed(tmp_path))
    runs = []
    for workers in (0, 1, 4):
        config = make_config(data__root=root, data__workers=workers, **CHANGES, **KINDS[kind])
        loader = training_loader(config, build_dataset(config, read_list(config, "train"), training=True))
        batches = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
            batches += list(loader)
        runs.append(batches)
    first = runs[0]
    assert len(first) == 4
    assert first[0]["clip"].shape == (4, 3, 8 * KINDS[kind].get("data__frames_per_segment", 1), 24, 24)
    assert not torch.equal(first[0]["clip"], first[2]["clip"])
    for other in runs[1:]:
        for a, b in zip(first, other, strict=True):
            assert a["path"] == b["path"]
            assert torch.equal(a["clip"], b["clip"])
            assert torch.equal(a["label"], b["label"])


@pytest.mark.parametrize("cache", [None, "memory"])
@pytest.mark.parametrize("training", [False, True])
def test_shuffled_frames(make_config: Any, training: bool, cache: str | None) -> None:
    """The same frames in another order, a function of seed, epoch and index as all that is random."""
    sets = []
    for shuffle in (False, True, True):
        config = make_config(
            data__shuffle_frames=shuffle, data__cache=cache, data__scales=[1.0], data__short_side=24
        )
        annotations = read_list(config, "train" if training else "val")
        sets.append(build_dataset(config, annotations, training=training))
    moved = 0
    for index in range(8):
        plain, mixed, again = (each[index]["clip"] for each in sets)
        assert torch.equal(mixed, again)
        moved += not torch.equal(mixed, plain)
        if not training:  # whose crops are drawn after the order
            frames = [mixed[:, t] for t in range(mixed.shape[1])]
            assert all(any(torch.equal(plain[:, t], f) for f in frames) for t in range(plain.shape[1]))
    assert moved >= 7


@pytest.mark.parametrize("workers", [0, 2])
def test_views_of_a_test(make_config: Any, tmp_path: Path, workers: int) -> None:
    root = str(mixed(tmp_path))
    changes = {"data__root": root, "data__workers": workers, "data__flip": True, **CHANGES}
    config = make_config(data__crops=3, data__clips=2, data__test_size=32, **changes)
    annotations = read_list(config, "val")
    dataset = build_dataset(config, annotations, training=False)
    batches = list(evaluation_loader(config, dataset))
    assert [tuple(b["clip"].shape) for b in batches] == [(n, 6, 3, 8, 32, 32) for n in (3, 3, 2)]
    # one view of it by hand: the right crop of the second clip of a video of 32 frames
    item = dataset[1]["clip"]
    frames = read_frames(annotations.samples[1].path, [4 * i for i in range(8)], short_side=32)
    mean, std = dataset.transform.then.mean, dataset.transform.then.std  # type: ignore[attr-defined]
    right = torch.from_numpy(np.ascontiguousarray(frames[:, :, -32:])).permute(3, 0, 1, 2).float()
    torch.testing.assert_close(item[5], (right / 255 - mean) / std)
    single = build_dataset(config, annotations, training=False, views=False)[1]["clip"]
    assert single.shape == (3, 8, 32, 32)
    assert torch.equal(single, item[1])  # the middle crop of the first clip


def test_ten_crops_and_ten_dense_clips(make_config: Any, tmp_path: Path) -> None:
    root = str(mixed(tmp_path))
    config = make_config(
        data__root=root, data__crops=10, data__clips=10, data__flip=True, data__sampling="dense", **CHANGES
    )
    dataset = build_dataset(config, read_list(config, "val"), training=False)
    assert dataset[6]["clip"].shape == (100, 3, 8, 24, 24)
    items = [{**dataset[i], "broken": []} for i in (0, 1)]
    assert collate(items)["clip"].shape == (2, 100, 3, 8, 24, 24)


@pytest.mark.parametrize("training", [True, False])
def test_the_keys_of_sampling_are_the_samplings_arguments(make_config: Any, training: bool) -> None:
    """As DAN's recipes on Kinetics have them: runs of frames, dense over a window of their own length."""
    changes = {"data__symmetric": False, "data__frames_per_segment": 3, "data__clips": 2}
    clips = 1 if training else 2
    for keys, expected in (
        ({"data__sampling": "dense", "data__window": 40}, DenseSampling(8, training, 3, clips, 40)),
        ({"data__sampling": "uniform"}, UniformSampling(8, training, False, 3, clips)),
    ):
        config = make_config(**changes, **keys)
        assert config.model.num_segments == 8
        assert build_dataset(config, read_list(config, "val"), training=training).sampling == expected


def test_pixels_are_normalised_as_the_recipe_says_else_as_the_card(make_config: Any) -> None:
    card = model_card(make_config().model.name)
    own: dict[str, list[float]] = {"data__mean": [0.1, 0.2, 0.3], "data__std": [0.5, 0.6, 0.7]}
    for keys, values in (({}, (card.mean, card.std)), (own, own.values())):
        config = make_config(**keys)
        annotations = read_list(config, "val")
        frames = read_frames(annotations.samples[0].path, range(8))[:, 4:28, 4:28]  # 24 of 32 pixels
        mean, std = (np.array(value) for value in values)
        clip = build_dataset(config, annotations, training=False)[0]["clip"].permute(1, 2, 3, 0)
        np.testing.assert_allclose(clip, (frames / 255 - mean) / std, atol=1e-5)


def test_mirrors_are_refused_where_left_and_right_are_classes(make_config: Any) -> None:
    config = make_config(data__flip=True)
    annotations = read_list(config, "train")
    with pytest.raises(
        ValueError, match=r"data\.flip: a mirrored video of 'right' shows 'left'; write data\.fl"
    ):
        build_dataset(config, annotations, training=True)
    build_dataset(config, annotations, training=False)  # nothing is mirrored
    ten = make_config(data__flip=True, data__symmetric=False, data__crops=10)
    with pytest.raises(ValueError, match=r"data\.flip: a mirrored video"):
        build_dataset(ten, annotations, training=False)


def test_a_link_to_a_training_video_is_no_validation_video(tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "videos" / f"{name}.mp4").write_bytes(b"")
    (tmp_path / "linked").symlink_to(tmp_path / "videos", target_is_directory=True)
    (tmp_path / "b.mp4").symlink_to(tmp_path / "videos" / "b.mp4")

    def listed(*names: str) -> AnnotationList:
        return AnnotationList([Sample(str(tmp_path / name), 0) for name in names], ["one"])

    train = listed("videos/a.mp4", "b.mp4")
    refuse_common(train, listed("videos/c.mp4", "linked/c.mp4", "gone.mp4"))
    for name in ("linked/a.mp4", "videos/b.mp4", "linked/b.mp4"):
        with pytest.raises(ValueError, match=f"1 of 2 videos are in data.train too, first .*{name}"):
            refuse_common(train, listed("videos/c.mp4", name))


def test_missing_videos_and_splits_of_a_recipe(make_config: Any, motion: Path, tmp_path: Path) -> None:
    lines = (motion / "train.csv").read_text().splitlines()
    (tmp_path / "train.csv").write_text("\n".join([*lines, "none.mp4,0"]) + "\n")
    listed = str(tmp_path / "train.csv")
    (tmp_path / "classes.txt").write_text((motion / "classes.txt").read_text())
    with pytest.raises(FileNotFoundError, match=r"none\.mp4"):
        read_list(make_config(data__train=listed), "train")
    assert len(read_list(make_config(data__train=listed, data__missing="skip"), "train")) == 24
    assert len(read_list(make_config(data__train=listed), "train", missing="keep")) == 25


def test_hmdb51_by_recipe(make_config: Any, tmp_path: Path) -> None:
    for name in ("wave", "brush"):
        (tmp_path / "videos" / name).mkdir(parents=True)
        for i in (1, 2):
            (tmp_path / "videos" / name / f"{i}.avi").touch()
        (tmp_path / "videos" / "splits").mkdir(exist_ok=True)
        (tmp_path / "videos" / "splits" / f"{name}_test_split2.txt").write_text("1.avi 1\n2.avi 2\n")
    changes = {"data__root": str(tmp_path / "videos"), "data__train": "splits", "data__val": "splits"}
    config = make_config(data__split=2, **changes)
    train, val = read_list(config, "train"), read_list(config, "val")
    assert [Path(s.path).name for s in train.samples] == ["1.avi", "1.avi"]
    assert [(Path(s.path).parent.name, s.label) for s in val.samples] == [("brush", 0), ("wave", 1)]
    with pytest.raises(ValueError, match="holds no files <class>_test_split1"):
        read_list(make_config(**changes), "train")


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"data__format": "ucf"}, r"data\.format: must be auto, ava, csv, .*, got 'ucf'"),
        ({"data__template": "x.jpg"}, r"data\.template must be a file name with one number"),
        ({"data__crops": 10}, r"data\.crops: five of 10 crops are mirrored, which data\.flip=false forbids"),
        ({"data__crops": 5}, r"data\.crops: must be "),
        ({"data__clips": 2}, r"data\.symmetric: is for uniform sampling of one clip, not data\.clips=2"),
        ({"data__sampling": "dense"}, r"data\.symmetric: is for uniform .* not data\.sampling=dense"),
        ({"data__test_size": 33}, r"data\.short_side: must be at least data\.test_size=33, got 32"),
        ({"data__size": 33}, r"data\.short_side: must be at least data\.size=33, got 32"),
        (
            {"data__train_crop": "random_resize", "data__short_side_range": [20, 30]},
            r"data\.short_side_range: must rise from at least data\.size=24, got 20 to 30",
        ),
        (
            {"data__sampling": "dense", "data__symmetric": False, "data__window": 4},
            r"data\.window: must be at least model\.num_segments=8, got 4",
        ),
        ({"data__average": "votes"}, r"data\.average: must be"),
        ({"data__first_frame": 2}, r"data\.first_frame: must be"),
    ],
)
def test_keys_that_do_not_fit(make_config: Any, changes: dict[str, Any], match: str) -> None:
    with pytest.raises(ValueError, match=match) as info:
        make_config(**changes)
    assert "\n" not in str(info.value)


def test_keys_from_the_command_line() -> None:
    keys = ["data.crops=3", "data.clips=1", "data.template='img_{:05d}.jpg'", "data.split=3"]
    section = load_config("configs/demo/tiny_tsm.yaml", keys).data
    assert (section.crops, section.template, section.split) == (3, "img_{:05d}.jpg", 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_train_as_their_files_do(make_config: Any, motion: Path, tmp_path: Path, workers: int) -> None:
    files = make_config()
    for part in ("train", "val"):
        make_shards(read_list(files, part), tmp_path / "shards" / part, megabytes=0.02)
    assert len(list((tmp_path / "shards" / "train").glob("*.tar"))) > 2
    changes = {"data__root": str(tmp_path / "shards"), "data__train": "train", "data__val": "val"}
    batches = []
    for config in (files, make_config(**changes, data__workers=workers)):
        train, val = (read_list(config, part) for part in ("train", "val"))
        assert train.classes == val.classes == read_list(files, "val").classes
        refuse_common(train, val)
        loaders = (
            training_loader(config, build_dataset(config, train, training=True), epoch=1),
            evaluation_loader(config, build_dataset(config, val, training=False)),
        )
        batches.append([(batch["clip"], batch["label"]) for loader in loaders for batch in loader])
    for ours, theirs in zip(*batches, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
