from __future__ import annotations

import os
import pickle
from pathlib import Path

import av
import numpy as np
import pytest

from vidops.data import VideoError, num_frames, read_frames, sample_frames
from vidops.data import video as video_module
from vidops.data.video import scaled_size

from ._videos import write_video

REAL = Path(__file__).parents[2].parent / "shared" / "videos"
REAL_FRAMES = {"demo.mp4": 280, "demo_spatiotemporal_det.mp4": 57, "part_0.mp4": 32, "test.avi": 164}

# name -> how it is made: containers, codecs with and without B frames, invisible frames, sparse key frames
KINDS = {
    "x264.mp4": {},
    "x264_b.mkv": {"options": {"bf": "3", "g": "12"}},
    "x264_intra.mp4": {"options": {"g": "1"}},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "mjpeg.mov": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "vp9_altref.webm": {
        "codec": "libvpx-vp9",
        "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"},
    },
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"}},
    "av1.webm": {"codec": "libsvtav1", "frames": 12, "options": {"preset": "12"}},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "x264.ts": {},
    "odd.mp4": {"width": 63, "height": 47, "pix_fmt": "yuv444p"},
    "odd_gray.mkv": {"codec": "ffv1", "width": 33, "height": 21, "pix_fmt": "gray"},
    "gray10.mkv": {"codec": "ffv1", "pix_fmt": "gray10le"},
    "yuv422p10.mkv": {"codec": "ffv1", "pix_fmt": "yuv422p10le"},
    "bgr.avi": {"codec": "rawvideo", "pix_fmt": "bgr24"},
    "bgra.mkv": {"codec": "ffv1", "pix_fmt": "bgra"},
    "palette.gif": {"codec": "gif", "pix_fmt": "bgr8"},
    "one_frame.mp4": {"frames": 1},
}


def full_decode(path: Path) -> np.ndarray:
    """Every frame, decoded the plainest way there is."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


@pytest.fixture(autouse=True)
def _forget_counts():
    video_module._COUNTS.clear()


def check_exact(path: Path, frames: int) -> None:
    everything = full_decode(path)
    assert len(everything) == frames
    last = frames - 1
    wanted = [last, 0, frames // 2, last, frames // 3]
    # before the count is known, in one decoding; then with it, stopping early
    got, indices = sample_frames(path, lambda n: [n - 1, 0, n // 2, n - 1, n // 3])
    assert indices.tolist() == wanted
    np.testing.assert_array_equal(got, everything[wanted])
    assert num_frames(path) == frames
    np.testing.assert_array_equal(sample_frames(path, lambda n: wanted)[0], everything[wanted])
    np.testing.assert_array_equal(read_frames(path, wanted), everything[wanted])
    np.testing.assert_array_equal(read_frames(path, np.array([frames // 2])), everything[[frames // 2]])


@pytest.mark.parametrize("name", KINDS)
def test_frames_equal_a_full_decode(name, make_video):
    check_exact(make_video(name, **KINDS[name]), KINDS[name].get("frames", 24))


@pytest.mark.parametrize("name", REAL_FRAMES)
def test_real_clips_equal_a_full_decode(name):
    if not (REAL / name).is_file():
        pytest.skip(f"{REAL / name} is not there")
    check_exact(REAL / name, REAL_FRAMES[name])


# Milliseconds between frames as telephones and screen recorders leave them.
TIMES = {
    "jitter": [0, 31, 70, 99, 140, 160, 215, 230, 271, 300, 333, 380],
    "pause": [0, 40, 80, 120, 5000, 5040, 5080, 60000, 60040, 60080, 60120, 60160],
    "slowing": [10 * i * i for i in range(12)],
    "late start": [7000 + 33 * i + i % 3 for i in range(12)],
}


@pytest.mark.parametrize("times", TIMES)
@pytest.mark.parametrize(
    "name, codec, options",
    [
        ("a.mp4", "libx264", {"bf": "2", "g": "6"}),
        ("a.mkv", "libx264", {"bf": "2"}),
        ("a.webm", "libvpx-vp9", {"cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "8"}),
        ("a.mov", "mpeg4", {"bf": "0"}),
    ],
)
def test_variable_frame_rate(tmp_path, name, codec, options, times):
    """Every coded frame is one frame, whatever its time; its brightness says which it is."""
    clip = np.stack([np.full((32, 48, 3), 20 + 18 * i, np.uint8) for i in range(12)])
    path = write_video(tmp_path / name, codec=codec, options=options, clip=clip, times=TIMES[times])
    with av.open(str(path)) as container:
        gaps = np.diff(
            [packet.pts for packet in container.demux(video=0) if packet.size and packet.pts is not None]
        )
    assert len(set(np.abs(gaps).tolist())) > 1  # the trap is set
    check_exact(path, 12)
    found = read_frames(path, range(12)).mean((1, 2, 3))
    assert np.abs(found - (20 + 18 * np.arange(12))).max() < 8


def test_lossless_frames_come_back_bit_for_bit(tmp_path):
    clip = np.random.default_rng(1).integers(0, 256, (9, 20, 30, 3), dtype=np.uint8)
    path = write_video(tmp_path / "a.mkv", codec="ffv1", pix_fmt="bgr0", clip=clip)
    np.testing.assert_array_equal(read_frames(path, [8, 3, 3]), clip[[8, 3, 3]])


def test_files_past_the_held_bytes_are_read_in_two_passes(make_video, monkeypatch):
    path = make_video()
    whole = full_decode(path)
    monkeypatch.setattr(video_module, "_HOLD_BYTES", 10_000)
    frames, indices = sample_frames(path, lambda n: range(n))
    assert indices.tolist() == list(range(24))
    np.testing.assert_array_equal(frames, whole)


def test_edit_list_frames_are_those_of_the_decoder(tmp_path):
    """A file trimmed by its edit list has coded frames that are never shown."""
    path = tmp_path / "trimmed.mp4"
    source = write_video(tmp_path / "source.mp4", options={"bf": "0", "g": "24"})
    with av.open(str(source)) as before, av.open(str(path), "w", options={"use_editlist": "1"}) as after:
        stream = after.add_stream_from_template(before.streams.video[0])
        shift = 10 * before.streams.video[0].duration // 24
        for packet in before.demux(video=0):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                after.mux(packet)
    shown = full_decode(path)
    assert num_frames(path) == len(shown)
    np.testing.assert_array_equal(read_frames(path, range(len(shown))), shown)


CORNERS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}


def corners(picture: np.ndarray) -> list[str]:
    """Colours of the corners: top left, top right, bottom left, bottom right."""
    points = picture[4, 4], picture[4, -5], picture[-5, 4], picture[-5, -5]
    names = [min(CORNERS, key=lambda n: np.abs(np.array(CORNERS[n]) - p.astype(int)).sum()) for p in points]
    return names


@pytest.mark.parametrize(
    "rotation, expected",
    [
        (None, ["red", "green", "blue", "white"]),
        ((90, False, False), ["green", "white", "red", "blue"]),  # counter-clockwise: the right side comes up
        ((-90, False, False), ["blue", "red", "white", "green"]),
        ((180, False, False), ["white", "blue", "green", "red"]),
        ((0, True, False), ["green", "red", "white", "blue"]),
        ((0, False, True), ["blue", "white", "red", "green"]),
        ((30, False, False), ["red", "green", "blue", "white"]),  # not a quarter turn: as stored
    ],
)
def test_orientation(tmp_path, rotation, expected):
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:16, :32], picture[:16, 32:], picture[16:, :32], picture[16:, 32:] = CORNERS.values()
    path = write_video(
        tmp_path / "a.mp4",
        clip=np.stack([picture] * 3),
        pix_fmt="yuv444p",
        options={"qp": "1"},
        rotation=rotation,
    )
    frame = read_frames(path, [1])[0]
    turned = rotation is not None and abs(rotation[0]) == 90
    assert frame.shape == ((64, 32, 3) if turned else (32, 64, 3))
    assert corners(frame) == expected
    assert read_frames(path, [1], short_side=16)[0].shape == ((32, 16, 3) if turned else (16, 32, 3))


def test_short_side(make_video):
    path = make_video(width=96, height=60)
    assert read_frames(path, [0, 5], short_side=30).shape == (2, 30, 48, 3)
    flat = write_video(path.with_name("flat.mp4"), clip=np.full((4, 60, 96, 3), 128, np.uint8))
    assert np.abs(read_frames(flat, [2], short_side=17).astype(int) - 128).max() <= 2


@pytest.mark.parametrize(
    "size, short, expected",
    [
        ((240, 320), 120, (120, 160)),
        ((320, 240), 120, (160, 120)),
        ((100, 100), 7, (7, 7)),
        ((256, 341), 128, (128, 171)),
    ],
)
def test_scaled_size(size, short, expected):
    assert scaled_size(*size, short) == expected


def test_strips_are_refused(make_video):
    assert scaled_size(2, 32, 256) == (256, 4096)
    for size in ((2, 34), (2048, 2)):
        with pytest.raises(VideoError, match="the longer side is more than 16 times the shorter"):
            scaled_size(*size, 256)
    strip = make_video(width=512, height=16)
    assert read_frames(strip, [0]).shape == (1, 16, 512, 3)
    with pytest.raises(VideoError, match=r"clip\.mp4: has frames of 512 x 16 pixels, the longer"):
        read_frames(strip, [0], short_side=256)


# --- arguments


@pytest.mark.parametrize("indices", [[], [[0]], [0.5], ["0"]])
def test_indices_must_be_whole_numbers(make_video, indices):
    with pytest.raises(ValueError, match="indices must be a non-empty list of whole numbers"):
        read_frames(make_video(), indices)


def test_indices_out_of_range(make_video):
    path = make_video()
    with pytest.raises(ValueError, match="indices must not be negative, got -1"):
        read_frames(path, [0, -1])
    with pytest.raises(ValueError, match=r"frame 24 is past the end of .*clip\.mp4, which has 24 frames"):
        read_frames(path, [3, 24])
    with pytest.raises(ValueError, match="frame 24 is past the end"):
        sample_frames(path, lambda n: [n])


@pytest.mark.parametrize("short_side", [0, -3, 1.5])
def test_short_side_must_be_positive(make_video, short_side):
    with pytest.raises(ValueError, match="short_side"):
        read_frames(make_video(), [0], short_side=short_side)


@pytest.mark.parametrize(
    "name", ["data:1.mp4", "concat:x|y.mp4", "-i.mp4", "spa ce.mp4", "Grün 視頻.mp4", "%03d.mp4"]
)
def test_names_are_only_names(tmp_path, monkeypatch, name):
    write_video(tmp_path / "plain.mp4")
    os.rename(tmp_path / "plain.mp4", tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert num_frames(name) == 24


def test_error_survives_pickling_and_a_workers_traceback():
    error = VideoError("a.mp4: no such file")
    assert str(pickle.loads(pickle.dumps(error))) == "a.mp4: no such file"
    told = "Caught VideoError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
    told += '  File "x.py", line 3\nvidops.data.video.VideoError: a.mp4: no such file\n'
    assert str(VideoError(told)) == "a.mp4: no such file"
