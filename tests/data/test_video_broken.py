"""Files that cannot be read: one line that names the file, however it is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from vidops.data import VideoError, num_frames, read_frames, sample_frames
from vidops.data import video as video_module

from ._videos import write_sound, write_without_frames


def errors_of(path: Path) -> list[str]:
    """What each way of reading says."""
    texts = []
    for read in (num_frames, lambda p: sample_frames(p, range)):
        video_module._COUNTS.clear()
        with pytest.raises(VideoError) as info:
            read(path)
        texts.append(str(info.value))
    return texts


def check_error(path: Path, match: str = "") -> None:
    for text in errors_of(path):
        assert text.startswith(f"{path}: ")
        assert match in text
        assert "\n" not in text


def test_missing(tmp_path):
    check_error(tmp_path / "none.mp4", "no such file")


def test_folder(tmp_path):
    (tmp_path / "a.mp4").mkdir()
    check_error(tmp_path / "a.mp4", "not a file")


def test_name_too_long(tmp_path):
    check_error(tmp_path / ("a" * 300 + ".mp4"))


@pytest.mark.parametrize(
    "content",
    [
        b"this is no video, it is a text\n" * 50,
        b"#EXTM3U\n#EXT-X-VERSION:3\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n",
        b"1\n00:00:00,000 --> 00:00:01,000\nsubtitles\n\n",
        bytes(5000),
        b"\x00",
        bytes(range(256)) * 40,
    ],
    ids=["text", "playlist", "subtitles", "zeros", "one byte", "ramp"],
)
def test_not_a_video(tmp_path, content):
    (tmp_path / "a.mp4").write_bytes(content)
    check_error(tmp_path / "a.mp4")


def test_empty(tmp_path):
    (tmp_path / "a.mp4").touch()
    check_error(tmp_path / "a.mp4", "the file is empty")


@pytest.mark.parametrize("name", ["a.wav", "a.mp4"])
def test_sound_only(tmp_path, name):
    write_sound(tmp_path / name)
    check_error(tmp_path / name, "holds no video")


def test_cover_picture_is_not_a_video(tmp_path):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 32, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        container.mux(
            cover.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24"))
        )
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))
    with av.open(str(path)) as container:
        assert len(container.streams.video) == 1  # the trap is set
    check_error(path, "holds no video")


def test_zero_frames(tmp_path):
    check_error(write_without_frames(tmp_path / "a.mkv"))


CUTTABLE = {
    "plain.mp4": {},
    "faststart.mp4": {"container_options": {"movflags": "faststart"}},
    "intra_faststart.mp4": {"container_options": {"movflags": "faststart"}, "options": {"g": "1"}},
    "fragmented.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
    "a.mkv": {},
    "a.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("name", CUTTABLE)
def test_cut_short(name, share, make_video):
    path = make_video(name, **CUTTABLE[name])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    check_error(path)


@pytest.mark.parametrize("place", [1, 12, 23])
@pytest.mark.parametrize("name", [name for name in CUTTABLE if name not in ("plain.mp4", "fragmented.mp4")])
def test_cut_between_coded_frames(name, place, make_video):
    """Every frame that is left is whole: only the index, or the length that the file says it has, can tell."""
    path = make_video(name, **CUTTABLE[name])
    with av.open(str(path)) as container:
        ends = [packet.pos for packet in container.demux(video=0) if packet.size]
    assert len(ends) == 24
    path.write_bytes(path.read_bytes()[: ends[place]])
    check_error(path, "cut short")


def test_every_frame_of_a_whole_file_is_read_though_its_twin_is_cut(make_video):
    """The count is kept per state of the file, not per name."""
    path = make_video()
    assert num_frames(path) == 24
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match=r"clip\.mp4"):
        num_frames(path)


def test_flipped_bytes_never_end_in_anything_but_frames_or_a_video_error(make_video):
    path = make_video("a.mp4", frames=12)
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    texts = []
    for _ in range(60):
        damaged = np.frombuffer(data, np.uint8).copy()
        start = int(rng.integers(len(data) - 64))
        damaged[start : start + 64] ^= rng.integers(1, 256, 64, dtype=np.uint8)
        path.write_bytes(damaged.tobytes())
        video_module._COUNTS.clear()
        try:
            assert len(sample_frames(path, lambda n: [0, n - 1])[0]) == 2
        except VideoError as error:
            texts.append(str(error))
    assert len(texts) > 20
    assert all(text.startswith(f"{path}: ") and "\n" not in text for text in texts)


def test_damage_past_the_wanted_frames_of_a_counted_file_is_found_by_counting(make_video):
    path = make_video("a.avi", codec="mjpeg", pix_fmt="yuvj420p")
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 9 // 10])
    assert read_frames(path, [0, 1]).shape[0] == 2  # asks for nothing that is missing
    with pytest.raises(VideoError):
        num_frames(path)


def test_nothing_is_printed(make_video):
    path = make_video("a.avi", codec="mpeg4")
    data = path.read_bytes()
    path.write_bytes(data[:200] + bytes(255 - b for b in data[200:900]) + data[900 : len(data) // 2])
    code = (
        "from vidops.data import num_frames\n"
        "for path in __import__('sys').argv[1:]:\n"
        "    try: num_frames(path)\n"
        "    except ValueError: pass\n"
    )
    (path.parent / "text.mp4").write_bytes(b"text" * 99)
    done = subprocess.run(
        [sys.executable, "-c", code, str(path), str(path.parent / "text.mp4")],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("", "")
