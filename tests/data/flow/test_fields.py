"""Flow fields: which way they point, how they are stored and found again."""

from __future__ import annotations

import os
import pickle
import warnings

import numpy as np
import pytest

from vidops.data import flow_store as store_module
from vidops.data import read_frames
from vidops.data.flow import FlowSettings, decode_flow, encode_flow, tvl1_flow, video_flow
from vidops.data.flow_store import FlowStore
from vidops.data.modalities import flip_flow
from vidops.data.samples import FrameFolder

from .._videos import write_video
from ._moving import FAST, moving, texture

# Most tests ask for flow that is not there yet; one says that this warns.
pytestmark = pytest.mark.filterwarnings("ignore:.*lacks the flow of some videos")


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


def test_a_long_video_is_read_as_it_goes(video, monkeypatch):
    converted = []
    real = store_module._Converter.__call__
    monkeypatch.setattr(
        store_module._Converter, "__call__", lambda self, frame: converted.append(1) or real(self, frame)
    )
    fields = video_flow(store_module._frames(str(video), None, 24), FAST)
    next(fields)
    assert len(converted) == 2
