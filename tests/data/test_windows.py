from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import torch

from vidops.data import FrameFolder, VideoError
from vidops.data.windows import read_window, window

from ._videos import write_video, write_without_frames

REAL = Path(__file__).parents[3] / "shared" / "videos"
COUNT = 120

# What makes seeking hard: pictures that need later ones, long and uneven runs between key frames, few key frames.
KINDS = {
    "b.mp4": ("libx264", {"bf": "3", "g": "17"}, None),
    "open.mp4": ("libx264", {"x264-params": "open-gop=1:keyint=12:bframes=3:b-pyramid=normal"}, None),
    "open.mkv": ("libx264", {"x264-params": "open-gop=1:keyint=12:bframes=3"}, None),
    "one.mp4": ("libx264", {"g": "1000"}, None),
    "refresh.mp4": ("libx264", {"x264-params": "intra-refresh=1:keyint=20"}, None),
    "vp9.webm": ("libvpx-vp9", {"cpu-used": "8", "auto-alt-ref": "1", "lag-in-frames": "8", "g": "20"}, None),
    "mpeg4.mov": ("mpeg4", {"bf": "2", "g": "10"}, None),
    "jitter.mp4": ("libx264", {"bf": "2", "g": "9"}, [40 * i + i * i % 13 for i in range(COUNT)]),
    "late.mkv": ("libx264", {"bf": "2", "g": "9"}, [7000 + 33 * i + i % 3 for i in range(COUNT)]),
    "pause.mp4": ("libx264", {"bf": "2", "g": "9"}, [40 * i + 3000 * (i > 50) for i in range(COUNT)]),
    "mpeg4.avi": ("mpeg4", {"bf": "0", "g": "10"}, None),
    "xvid.avi": ("mpeg4", {"bf": "2", "g": "10"}, None),
}


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    """Frames that say their number in 7 bars, black or white."""
    out = np.full((COUNT, 32, 64, 3), 20, np.uint8)
    for i in range(COUNT):
        for bit in range(7):
            if i >> bit & 1:
                out[i, :, 2 + 8 * bit : 10 + 8 * bit] = 230
    return out


def numbers(frames: np.ndarray) -> list[int]:
    bars = frames[:, 16, [6 + 8 * bit for bit in range(7)]].mean(-1) > 125
    return (bars @ (1 << np.arange(7))).tolist()


def decoded_times(path: Path) -> tuple[np.ndarray, float]:
    """The time of every frame of a full decode, from the first, and the mean rate."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [frame.pts * frame.time_base for frame in container.decode(stream)]
        return np.array([float(time - frames[0]) for time in frames]), float(stream.average_rate)


@pytest.mark.parametrize("name", KINDS)
def test_windows_hold_the_frames_nearest_to_their_times(name, tmp_path, clip):
    codec, options, times = KINDS[name]
    path = write_video(tmp_path / name, codec=codec, options=options, clip=clip, times=times)
    shown, rate = decoded_times(path)
    if name.endswith(".avi"):
        shown = np.arange(len(shown)) / rate  # counted: times of frames in AVI are not trusted
    rng = np.random.default_rng(0)
    for moment in [0.0, 1 / rate, float(shown[-1]), *rng.uniform(0, shown[-1], 12)]:
        wanted = np.clip(moment + (np.arange(6) - 3) * 2 / rate, 0, None)
        nearest = [
            int(np.flatnonzero(d <= d.min() + 1e-3 / rate)[-1]) for d in np.abs(shown[None] - wanted[:, None])
        ]
        assert numbers(read_window(path, moment, 6, 2)) == nearest, moment


@pytest.mark.parametrize(
    "name, rate", [("demo.mp4", 28), ("test.avi", 25), ("demo_spatiotemporal_det.mp4", 6)]
)
def test_windows_of_real_clips_equal_a_full_decode(name, rate):
    if not (REAL / name).is_file():
        pytest.skip(f"{REAL / name} is not there")
    with av.open(str(REAL / name)) as container:
        everything = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    for second in (0, 1, 3, 6):
        found = read_window(REAL / name, second, 8, 1)
        indices = window(second * rate, 8, 1, len(everything))
        np.testing.assert_array_equal(found, everything[indices])


def test_only_what_a_window_needs_is_decoded(tmp_path, clip, monkeypatch):
    from vidops.data.video import _Opened

    path = write_video(tmp_path / "a.mp4", codec="libx264", options={"bf": "2", "g": "10"}, clip=clip)
    decoded = []
    decode = _Opened.decode

    def count(self, packet, path):
        for frame in decode(self, packet, path):
            decoded.append(frame.pts)
            yield frame

    monkeypatch.setattr(_Opened, "decode", count)
    assert numbers(read_window(path, 100 / 25, 4)) == [98, 99, 100, 101]
    assert len(decoded) < 30


def test_at_the_ends_the_first_and_the_last_frame_are_repeated(tmp_path, clip):
    path = write_video(tmp_path / "a.mp4", codec="libx264", clip=clip[:20])
    assert numbers(read_window(path, 0, 6)) == [0, 0, 0, 0, 1, 2]
    assert numbers(read_window(path, 1 / 25, 6, 3)) == [0, 0, 0, 1, 4, 7]
    assert numbers(read_window(path, 18 / 25, 6, 1)) == [15, 16, 17, 18, 19, 19]
    assert numbers(read_window(path, 20 / 25, 6, 2)) == [14, 16, 18, 19, 19, 19]
    assert numbers(read_window(path, 10 / 25, 3, 100)) == [0, 10, 19]
    assert numbers(read_window(path, 10 / 25, 1)) == [10]
    with pytest.raises(VideoError, match=r"a\.mp4: ends at 0\.80 s, before the key frame at 5 s"):
        read_window(path, 5, 6)


@pytest.mark.parametrize("time", [-1.0, float("nan"), float("inf")])
def test_moments_that_are_none(time):
    with pytest.raises(ValueError, match=f"time must be at least 0 and finite, got {time}"):
        read_window("a.mp4", time, 6)


def test_at_the_ends_of_a_file_without_times(tmp_path, clip):
    path = write_video(tmp_path / "a.avi", codec="mpeg4", clip=clip[:20])
    assert numbers(read_window(path, 0, 6)) == [0, 0, 0, 0, 1, 2]
    assert numbers(read_window(path, 18 / 25, 6, 1)) == [15, 16, 17, 18, 19, 19]
    assert numbers(read_window(path, 20 / 25, 6, 2)) == [14, 16, 18, 19, 19, 19]
    with pytest.raises(VideoError, match=r"a\.avi: ends at 0\.80 s, before the key frame at 5 s"):
        read_window(path, 5, 6)


def test_sizes_are_those_asked_for_and_turned_upright(tmp_path):
    path = write_video(tmp_path / "a.mp4", frames=30, rotation=(90, False, False))
    assert read_window(path, 1, 4).shape == (4, 64, 48, 3)
    assert read_window(path, 1, 4, short_side=24).shape == (4, 32, 24, 3)


def frame_folder(folder: Path, clip: np.ndarray, template: str = "{:05d}.jpg") -> Path:
    image = pytest.importorskip("PIL.Image")
    folder.mkdir(parents=True)
    for i, frame in enumerate(clip, 1):
        image.fromarray(frame).save(folder / template.format(i), quality=95)
    return folder


def test_folders_of_frames(tmp_path, clip):
    folder = frame_folder(tmp_path / "a", clip[:40])
    settings = {"frames": FrameFolder(), "frame_rate": 10.0}
    assert numbers(read_window(folder, 2, 4, 3, **settings)) == [14, 17, 20, 23]
    assert numbers(read_window(folder, 0, 4, 3, **settings)) == [0, 0, 0, 3]
    assert numbers(read_window(folder, 3.9, 4, 1, **settings)) == [37, 38, 39, 39]
    with pytest.raises(VideoError, match=r"a: ends at 4\.00 s, before the key frame at 5 s"):
        read_window(folder, 5, 4, **settings)
    (folder / "00021.jpg").write_bytes(b"no picture")
    with pytest.raises(VideoError, match=r"00021\.jpg: cannot be read"):
        read_window(folder, 2, 4, **settings)
    with pytest.raises(VideoError, match="b: no such folder"):
        read_window(tmp_path / "b", 2, 4, **settings)


def test_broken_files(tmp_path, video_bytes):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "short.mp4").write_bytes(video_bytes[: len(video_bytes) * 2 // 3])
    write_without_frames(tmp_path / "none.mp4")
    for name, match in (
        ("empty.mp4", "the file is empty"),
        ("text.mp4", "cannot be decoded"),
        ("short.mp4", "damaged or cut short|cannot be decoded"),
        ("none.mp4", "holds no video|does not tell|cannot be decoded"),
        ("missing.mp4", "no such file"),
    ):
        with pytest.raises(VideoError, match=match) as caught:
            read_window(tmp_path / name, 0.9, 8)
        assert str(caught.value).startswith(str(tmp_path / name))
        assert "\n" not in str(caught.value)


def test_damage_after_the_window_does_not_matter(tmp_path, clip):
    path = write_video(tmp_path / "a.mp4", clip=clip, container_options={"movflags": "faststart"})
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 9 // 10])
    assert numbers(read_window(path, 1, 4)) == [23, 24, 25, 26]
    with pytest.raises(VideoError, match=r"a\.mp4: damaged or cut short after frame \d+ from 4\.\d\d s on"):
        read_window(path, 4.6, 4)


def test_windows_are_the_same_whatever_was_read_before(tmp_path, clip):
    path = write_video(tmp_path / "a.mkv", codec="libx264", options={"bf": "2", "g": "15"}, clip=clip)
    once = [read_window(path, second, 5) for second in (4.0, 1.0, 3.0)]
    again = [read_window(path, second, 5) for second in (3.0, 1.0, 4.0)][::-1]
    for first, second in zip(once, again, strict=True):
        torch.testing.assert_close(first, second, rtol=0, atol=0)
