"""Videos with boxes and classes drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("av", reason="video files need av")
pytest.importorskip("PIL", reason="words need Pillow")

from matplotlib.colors import to_rgb

from vidops.data import FrameFolder, num_frames, read_frames
from vidops.data._writing import encode
from vidops.data.whole import all_frames, mean_rate, seconds_long
from vidops.evaluation.actor_predictor import Actor
from vidops.visualize import check_actor_video, draw_actors, save_actor_video
from vidops.visualize.actors import shown_at
from vidops.visualize.figures import COLORS

FIRST, SECOND = (np.array([255 * c for c in to_rgb(color)]) for color in COLORS[:2])


def actor(time, *box, scores=(("sit", 0.9),)):
    return Actor(time, time, box, list(scores))


def colored(picture, color):
    return (np.abs(picture.astype(float) - color) < 2).all(-1)


def test_a_box_is_drawn_where_it_is():
    frame = np.full((300, 400, 3), 128, np.uint8)
    drawn = draw_actors(frame, [actor(0, 0.25, 0.5, 0.75, 0.9, scores=())])
    rows, columns = np.nonzero(colored(drawn, FIRST))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (150, 270, 100, 300)
    assert drawn[200, 200].tolist() == [128] * 3  # nothing within
    assert (frame == 128).all()
    assert np.array_equal(draw_actors(frame, []), frame)


@pytest.mark.parametrize("box", [(1, 0, 1, 1), (0.5, 1, 0.7, 1), (0.999, 0.999, 1, 1), (0, 0, 0, 0)])
def test_a_box_at_the_edge_is_a_line_there(box):
    drawn = draw_actors(np.full((300, 400, 3), 128, np.uint8), [actor(0, *box, scores=())])
    rows, columns = np.nonzero(colored(drawn, FIRST))
    expected = [min(round(edge * side), side - 1) for edge, side in zip(box, (400, 300) * 2, strict=True)]
    assert [columns.min(), rows.min(), columns.max(), rows.max()] == pytest.approx(expected, abs=2)


@pytest.mark.parametrize(
    "box", [(0.4, 0.5, 0.6, 0.9), (0.4, 0.0, 0.6, 1.0), (0.9, 0.0, 1.0, 0.1), (0, 0, 1, 1)]
)
def test_words_stay_in_the_picture(box):
    frame = np.full((300, 400, 3), 128, np.uint8)
    scores = [("sit", 0.9), ("talk to (e.g., self, a person, a group)", 0.4)]
    bare, drawn = (draw_actors(frame, [actor(0, *box, scores=s)]) for s in ((), scores))
    rows, columns = np.nonzero((bare != drawn).any(-1))
    ground = colored(drawn, FIRST) & ~colored(bare, FIRST)
    assert ground.sum() > 1500
    # Two lines of words and their ground lie wholly within: nothing is cut at an edge.
    assert rows.max() - rows.min() > 20
    assert columns.max() - columns.min() > 150


def test_words_of_two_actors_do_not_cover_each_other():
    frame = np.full((300, 400, 3), 128, np.uint8)
    actors = [actor(0, 0.3, 0.4, 0.6, 0.8), actor(0, 0.32, 0.4, 0.62, 0.8)]
    alone, both = draw_actors(frame, actors[:1]), draw_actors(frame, actors)
    assert colored(both, FIRST)[:118].sum() == colored(alone, FIRST)[:118].sum() > 300  # above its box
    assert colored(both, SECOND).sum() > 300


def test_small_pictures_are_enlarged_by_a_whole_number():
    frame = np.arange(64 * 48 * 3, dtype=np.uint8).reshape(64, 48, 3)
    drawn = draw_actors(frame, [])
    assert drawn.shape == (320, 240, 3)
    assert np.array_equal(drawn[2::5, 2::5], frame)


def test_the_nearest_moment_is_shown():
    actors = [
        actor(1.0, 0, 0, 1, 1),
        actor(1.0, 0, 0, 0.5, 1),
        actor(3.0, 0, 0, 1, 0.5),
        actor(3.5, 0, 0, 1, 1),
    ]
    assert shown_at([], 1.0) == []
    assert shown_at(actors, 1.9) == actors[:2]
    assert shown_at(actors, 2.1) == actors[2:3]
    assert shown_at(actors, 3.3) == actors[3:]
    assert shown_at(actors, 0.0) == actors[:2]  # no farther than half the widest gap, 1 s
    assert shown_at(actors, 4.6) == []
    assert shown_at(actors[:2], 1.5) == actors[:2]
    assert shown_at(actors[:2], 1.6) == []


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Ten grey frames, five a second."""
    encode(tmp_path / "v.mp4", np.full((10, 250, 330, 3), 128, np.uint8), 5)
    return tmp_path / "v.mp4"


def test_a_video_is_written_again(video: Path, tmp_path: Path):
    out = tmp_path / "new" / "out.mp4"
    save_actor_video(video, [actor(0.5, 0, 0, 0.5, 1), actor(1.5, 0.5, 0, 1, 1)], out)
    assert [p.name for p in out.parent.iterdir()] == ["out.mp4"]
    assert num_frames(out) == 10
    assert mean_rate(out) == 5
    assert seconds_long(out) == 2.0
    pictures = read_frames(out, range(10)).astype(int)
    blue = (pictures[..., 2] - pictures[..., 0] > 60).sum(1)  # of each column, over the rows
    left, right = blue[:, :150].sum(1), blue[:, 180:].sum(1)
    assert (left > 500).tolist()[:5] == [True] * 5
    assert left[6:].tolist() == [0] * 4
    assert (right > 500).tolist()[6:] == [True] * 4
    assert right[:5].tolist() == [0] * 5


def test_a_folder_of_frames(tmp_path: Path):
    from PIL import Image

    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(4):
        Image.fromarray(np.full((240, 320, 3), 40 * i, np.uint8)).save(
            folder / f"{i + 1:05d}.jpg", quality=95
        )
    frames = FrameFolder()
    assert [int(f.mean()) for f in all_frames(folder, frames=frames)] == [0, 40, 80, 120]
    assert seconds_long(folder, frames=frames, frame_rate=8) == 0.5
    save_actor_video(folder, [], tmp_path / "out.mp4", frames=frames, frame_rate=8)
    assert num_frames(tmp_path / "out.mp4") == 4
    assert mean_rate(tmp_path / "out.mp4") == 8


def test_a_broken_video_leaves_nothing(video: Path, tmp_path: Path):
    (tmp_path / "cut.mp4").write_bytes(video.read_bytes()[:400])
    with pytest.raises(ValueError, match=r"cut\.mp4: "):
        save_actor_video(tmp_path / "cut.mp4", [], tmp_path / "out" / "x.mp4")
    assert not list(tmp_path.glob("out/*"))
    with pytest.raises(ValueError, match=r"video out\.avi: the name must end in \.mp4"):
        check_actor_video("out.avi")
