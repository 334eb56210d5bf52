"""Folders of frames."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vidops.data import AnnotationList, FrameFolder, Sample, UniformSampling, VideoDataset, VideoError
from vidops.data.folders import check_folder, count_frames, sample_folder
from vidops.data.transforms import Compose, Normalize, TrainCrops

PNG = FrameFolder("{:05d}.png", 1)


def clip(frames: int = 6, height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def write(folder: Path, pictures: np.ndarray, frames: FrameFolder = PNG) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for i, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / frames.name(i))
    return folder


@pytest.mark.parametrize("count", [None, 6])
@pytest.mark.parametrize(
    "template, first", [("{:05d}.png", 1), ("{:05d}.png", 0), ("img_{}.png", 0), ("{:03}_a2.png", 1)]
)
def test_frames_come_back_bit_for_bit(tmp_path, template, first, count):
    frames, pictures = FrameFolder(template, first, count), clip(12)[:6]
    write(tmp_path / "v", pictures, frames)
    (tmp_path / "v" / "notes.txt").touch()
    (tmp_path / "v" / "Thumbs7.png").touch()
    assert count_frames(tmp_path / "v", frames) == 6
    seen = []
    got, indices = sample_folder(tmp_path / "v", frames, lambda info: seen.append(info) or [5, 0, 3, 3])
    assert (seen[0].num_frames, seen[0].height, seen[0].width) == (6, 20, 30)
    assert indices.tolist() == [5, 0, 3, 3]
    np.testing.assert_array_equal(got, pictures[[5, 0, 3, 3]])
    check_folder(tmp_path / "v", frames)


def test_more_than_ten_frames_are_in_the_order_of_their_numbers(tmp_path):
    pictures, frames = clip(12), FrameFolder("{}.png", 1)
    write(tmp_path / "v", pictures, frames)
    got, _ = sample_folder(tmp_path / "v", frames, lambda info: range(info.num_frames))
    np.testing.assert_array_equal(got, pictures)


def test_a_count_below_the_pictures_there_are_holds(tmp_path):
    write(tmp_path / "v", clip(6))
    assert count_frames(tmp_path / "v", FrameFolder(PNG.template, 1, 4)) == 4
    with pytest.raises(ValueError, match=r"frame 4 is past the end of .*/v, which has 4 frames"):
        sample_folder(tmp_path / "v", FrameFolder(PNG.template, 1, 4), lambda info: [4])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1", "CMYK"])
def test_every_kind_of_picture_is_read_as_rgb(tmp_path, mode):
    (tmp_path / "v").mkdir()
    picture = Image.fromarray(clip(1)[0]).convert(mode)
    frames = FrameFolder("{:05d}.tif" if mode == "CMYK" else "{:05d}.png")
    picture.save(tmp_path / "v" / frames.name(0))
    got, _ = sample_folder(tmp_path / "v", frames, lambda info: [0])
    np.testing.assert_array_equal(got[0], np.array(picture.convert("RGB")))


@pytest.mark.parametrize("dtype, mode", [(np.uint16, "I;16"), (np.float32, "F"), (np.int32, "I")])
def test_pictures_of_more_bits_are_refused(tmp_path, dtype, mode):
    (tmp_path / "v").mkdir()
    Image.fromarray(np.full((4, 4), 1000, dtype)).save(tmp_path / "v" / "1.tif")
    both(
        tmp_path / "v",
        FrameFolder("{}.tif"),
        rf"/1\.tif: cannot be read \(its pixels .* 8 bits, mode {mode}\)$",
    )


def test_short_side_and_orientation(tmp_path):
    write(tmp_path / "v", clip(2, 40, 60))
    got, _ = sample_folder(tmp_path / "v", PNG, lambda info: [1], 20)
    assert got.shape == (1, 20, 30, 3)
    flat = np.full((2, 40, 60, 3), 77, np.uint8)
    got, _ = sample_folder(write(tmp_path / "flat", flat), PNG, lambda info: [1], 17)
    assert (got == 77).all()
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side: turn it by 90 degrees clockwise
    (tmp_path / "turned").mkdir()
    picture = clip(1)[0]
    Image.fromarray(picture).save(tmp_path / "turned" / "00001.png", exif=exif)
    got, _ = sample_folder(tmp_path / "turned", PNG, lambda info: [0])
    np.testing.assert_array_equal(got[0], np.rot90(picture, -1))


def both(folder: Path, frames: FrameFolder, match: str) -> None:
    for read in (
        lambda: sample_folder(folder, frames, lambda info: range(info.num_frames)),
        lambda: check_folder(folder, frames),
    ):
        with pytest.raises(VideoError, match=match) as info:
            read()
        assert str(info.value).startswith(str(folder))
        assert "\n" not in str(info.value)


def test_missing_frames(tmp_path):
    folder = write(tmp_path / "v", clip(6))
    (folder / "00003.png").unlink()
    both(folder, PNG, r"/00003\.png: the frame is missing$")
    both(folder, FrameFolder(PNG.template, 1, 6), r"/00003\.png: the frame is missing$")
    write(folder, clip(6))
    both(folder, FrameFolder(PNG.template, 1, 7), r"/00007\.png: the frame is missing$")
    (folder / "00001.png").unlink()
    both(folder, PNG, r"/00001\.png: the frame is missing$")


def test_wrong_first_number(tmp_path):
    both(write(tmp_path / "a", clip(3)), FrameFolder(PNG.template, 0), r"/00000\.png: the frame is missing$")
    zero = FrameFolder(PNG.template, 0)
    both(write(tmp_path / "b", clip(3), zero), PNG, r"holds 00000\.png, but frames are numbered from 1$")


def test_no_folder_and_no_frames(tmp_path):
    both(tmp_path / "none", PNG, "no such folder$")
    (tmp_path / "file").touch()
    both(tmp_path / "file", PNG, "is not a folder$")
    both(write(tmp_path / "v", clip(2)), FrameFolder("{:05d}.jpg"), r"holds no frames named \{:05d\}\.jpg$")


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "flipped", "folder", "other size", "bomb"])
def test_broken_frames(tmp_path, damage, monkeypatch):
    folder = write(tmp_path / "v", clip(5, 64, 64))
    file = folder / "00004.png"
    data = file.read_bytes()
    if damage == "folder":
        file.unlink()
        file.mkdir()
    elif damage == "other size":
        Image.fromarray(clip(1, 10, 12)[0]).save(file)
    elif damage == "bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4000 * 4000)
        Image.new("1", (9000, 9000)).save(file)
    else:
        flipped = data[:100] + bytes(255 - b for b in data[100:]) if damage == "flipped" else b""
        file.write_bytes(
            {"cut": data[:500], "empty": b"", "text": b"no picture\n" * 20, "flipped": flipped}[damage]
        )
    both(folder, PNG, r"/00004\.png: (cannot be read \(.+\)|is 12x10, the first frame 64x64)$")
    check_folder(folder, PNG, quick=True)
    assert len(sample_folder(folder, PNG, lambda info: [0, 4])[0]) == 2  # what is not asked for is not read


def test_cut_jpeg_is_no_grey_picture(tmp_path):
    frames = FrameFolder()
    folder = write(tmp_path / "v", clip(2, 64, 64), frames)
    data = (folder / "00002.jpg").read_bytes()
    (folder / "00002.jpg").write_bytes(data[: len(data) // 2])
    both(folder, frames, r"/00002\.jpg: cannot be read \(image file is truncated")


@pytest.mark.parametrize(
    "template", ["frame.jpg", "{}/{}.jpg", "{0}/a.jpg", "{x}.jpg", "{:q}.jpg", "{", "{:.1}.jpg"]
)
def test_wrong_templates(template):
    with pytest.raises(ValueError, match="template"):
        FrameFolder(template)


def test_wrong_numbers():
    with pytest.raises(ValueError, match="first must be 0 or 1, got 2"):
        FrameFolder(first=2)
    with pytest.raises(ValueError, match="count must be at least 1 or None, got 0"):
        FrameFolder(count=0)


@pytest.mark.parametrize("cache", [None, "memory"])
def test_a_dataset_of_folders(tmp_path, cache):
    samples = [Sample(str(write(tmp_path / str(i), clip(8 + i))), i, PNG) for i in range(3)]
    transform = Compose([TrainCrops(16, flip=True), Normalize([0.0] * 3, [1.0] * 3)])
    dataset = VideoDataset(
        AnnotationList(samples, None),
        sampling=UniformSampling(4, training=False),
        transform=lambda frames, g: torch.from_numpy(frames),
        cache=cache,
    )
    for _ in range(2):
        assert torch.equal(dataset[2]["clip"], torch.from_numpy(clip(10)[[1, 3, 6, 8]]))
    dataset.transform = transform
    assert dataset[0]["clip"].shape == (3, 4, 16, 16)
    assert dataset[0]["path"] == str(tmp_path / "0")
    (tmp_path / "1" / "00002.png").write_bytes(b"")
    with pytest.raises(VideoError, match=re.escape(f"{tmp_path}/1/00002.png: cannot be read")):
        dataset[1]
