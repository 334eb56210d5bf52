"""Frames with their numbers and times."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("av", reason="video files need av")

import av
from PIL import Image

from tests.data._videos import write_video
from tests.visualize.boxes import lies_in
from vidops.data import FrameFolder, UniformSampling
from vidops.data.video import VideoError
from vidops.visualize import ShownFrames, clip_grid, frame_times, read_shown, save

REAL = Path(__file__).parents[2].parent / "shared" / "videos"
KINDS = {
    "x264.mp4": {},
    "x264_b.mkv": {"options": {"bf": "3", "g": "12"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "vp9_altref.webm": {"codec": "libvpx-vp9", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "x264.ts": {},
    "one_frame.mp4": {"frames": 1},
}


def ramp(frames: int, height: int = 6, width: int = 8) -> torch.Tensor:
    """Frame i has the value i everywhere."""
    return torch.arange(frames, dtype=torch.uint8).view(-1, 1, 1, 1).expand(frames, height, width, 3)


@pytest.mark.parametrize("name", KINDS)
def test_times_are_those_of_a_steady_video(name: str, tmp_path: Path) -> None:
    path = write_video(tmp_path / name, **KINDS[name])
    count = KINDS[name].get("frames", 24)
    times = frame_times(path, np.arange(count))
    assert times == pytest.approx(np.arange(count) / 25, abs=1.01e-3)  # Matroska counts milliseconds


def test_times_of_an_unsteady_video_are_its_stamps(tmp_path: Path) -> None:
    stamps = [40, 41, 47, 60, 61, 90, 91, 92, 140, 141]
    path = tmp_path / "unsteady.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"bf": "2"})
        stream.height, stream.width, stream.pix_fmt = 32, 32, "yuv420p"
        for stamp in stamps:
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), stamp, np.uint8), format="rgb24")
            frame.pts, frame.time_base = stamp, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    times = frame_times(path, np.array([0, 3, 9, 5]))
    assert times == pytest.approx([0, 2.0, 10.1, 5.0], abs=2e-3)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"{REAL} is not there")
def test_times_of_real_videos() -> None:
    for name in ("demo.mp4", "part_0.mp4", "demo_spatiotemporal_det.mp4"):
        with av.open(str(REAL / name)) as container:
            stamps = [frame.time for frame in container.decode(video=0)]
        assert frame_times(REAL / name, np.arange(len(stamps))) == pytest.approx(np.array(stamps) - stamps[0])
    # Its stamps are in another order than its frames: 0.04, 0.08, 0.16, 0.12.
    assert frame_times(REAL / "test.avi", np.arange(164)) == pytest.approx(np.arange(164) / 25)


def test_frames_of_a_folder_have_no_times(tmp_path: Path) -> None:
    for i in range(5):
        Image.new("RGB", (8, 6), (10 * i, 0, 0)).save(tmp_path / f"img_{i}.png")
    shown = read_shown(tmp_path, UniformSampling(2, False), folder=FrameFolder("img_{}.png", 0))
    assert shown.times is None
    assert shown.labels == ["frame 1", "frame 3"]
    assert shown.frames[:, 0, 0, 0].tolist() == [10, 30]
    with pytest.raises(VideoError, match="holds no frames named"):
        read_shown(tmp_path, UniformSampling(2, False))


def test_shown_frames_are_the_files_frames(tmp_path: Path) -> None:
    path = write_video(tmp_path / "noise.mkv", codec="ffv1", pix_fmt="bgr0")
    shown = read_shown(path, lambda count: [count - 1, 0])
    base = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    assert torch.equal(shown.frames[1], torch.from_numpy(base))
    assert torch.equal(shown.frames[0], torch.from_numpy(np.roll(base, 46, axis=1)))
    assert shown.labels == ["frame 23, 0.92 s", "frame 0, 0.00 s"]


def test_the_grid_shows_every_frame_in_order() -> None:
    times = np.arange(7) / 4
    figure = clip_grid(ShownFrames(ramp(7), np.arange(7) * 5, times), title="a clip", columns=3)
    assert [axes.get_title() for axes in figure.axes] == [f"frame {5 * i}, {i / 4:.2f} s" for i in range(7)]
    shown = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    assert [picture.shape for picture in shown] == [(6, 8, 3)] * 7
    assert [round(float(picture.mean()) * 255) for picture in shown] == list(range(7))
    assert figure.get_suptitle() == "a clip"
    places = [axes.get_subplotspec() for axes in figure.axes]
    assert [(p.rowspan.start, p.colspan.start) for p in places] == [(i // 3, i % 3) for i in range(7)]


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (3, 3), (8, 4), (16, 4), (17, 5), (64, 8)])
def test_the_grid_is_about_square(count: int, columns: int) -> None:
    figure = clip_grid(ShownFrames(ramp(count), np.arange(count)))
    assert len(figure.axes) == count
    assert figure.axes[0].get_subplotspec().get_gridspec().ncols == columns


@pytest.mark.parametrize(("height", "width"), [(40, 40), (20, 200), (200, 20)])
def test_nothing_is_clipped_and_pixels_are_square(height: int, width: int) -> None:
    title = "a_file_with_a_long_name.mp4 as mstnet_resnet50, best.ckpt after 50 epochs sees it"
    shown = ShownFrames(torch.zeros(5, height, width, 3), np.arange(5) * 1000, np.arange(5) * 100.0)
    figure = clip_grid(shown, title=title, columns=2)
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    texts = [figure._suptitle, *(axes.title for axes in figure.axes)]
    boxes = [text.get_window_extent(renderer) for text in texts]
    assert all(lies_in(box, figure.bbox) for box in boxes)
    for i, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:i])
    for axes in figure.axes:
        area = axes.get_window_extent()
        assert area.width / area.height == pytest.approx(width / height, rel=0.05)


def test_bad_frames() -> None:
    for shape in ((0, 4, 4, 3), (4, 4, 3), (2, 4, 4, 1)):
        with pytest.raises(ValueError, match=r"frames must have shape \(T, H, W, 3\)"):
            ShownFrames(torch.zeros(shape), np.arange(shape[0]))
    with pytest.raises(ValueError, match="indices must be one a frame"):
        ShownFrames(torch.zeros(2, 4, 4, 3), np.arange(3))
    with pytest.raises(ValueError, match="times must be one a frame"):
        ShownFrames(torch.zeros(2, 4, 4, 3), np.arange(2), np.zeros(1))
    with pytest.raises(ValueError, match="columns must be at least 1"):
        clip_grid(ShownFrames(ramp(2), np.arange(2)), columns=0)


def test_a_picture_is_written_whole(tmp_path: Path) -> None:
    save(clip_grid(ShownFrames(ramp(3), np.arange(3))), tmp_path / "frames.png")
    with Image.open(tmp_path / "frames.png") as picture:
        picture.load()
        assert picture.width > picture.height > 50
