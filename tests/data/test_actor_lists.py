from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from vidops.data import (
    ActorList,
    FrameFolder,
    read_actors,
)

from ._lists import touch, write
from .test_actors import NORMALIZE, dataset
from .test_formats_ava import OF_2018

ROWS = """a,0902,0.1,0.2,0.3,0.4,12,0
a,0902,0.1,0.2,0.3,0.4,80,0
a,0902,0.1,0.2,0.3,0.4,80,1
a,0902,0.5,0.2,0.9,1.000,1,2
a,0903,,,,,,
b,1798,0,0,1,1,,7
a,0902,0.1,0.2,0.3,0.4,3,0
"""


@pytest.fixture
def ava(tmp_path) -> Path:
    touch(tmp_path, "a.mp4", "b.mkv")
    write(tmp_path / "val.csv", ROWS)
    return tmp_path


def told(found: ActorList) -> list[tuple]:
    return [
        (
            s.video,
            s.timestamp,
            s.boxes.round(3).tolist(),
            [tuple(i + 1 for i in labels) for labels in s.labels],
        )
        for s in found.samples
    ]


def test_lines_are_joined_that_have_key_frame_box_and_person_in_common(ava):
    found = read_actors(ava / "val.csv")
    small, large = [0.1, 0.2, 0.3, 0.4], [0.5, 0.2, 0.9, 1.0]
    assert [(v, t, labels) for v, t, _, labels in told(found)] == [
        ("a", 902, [(3, 12, 80), (80,), (1,)]),
        ("a", 903, []),
        ("b", 1798, [()]),
    ]
    first = found.samples[0]
    np.testing.assert_allclose(first.boxes, [small, small, large], rtol=1e-6)
    assert first.boxes.dtype == np.float32
    assert found.samples[1].boxes.shape == (0, 4)
    assert [s.time for s in found.samples] == [2, 3, 898]
    assert [Path(s.path).name for s in found.samples] == ["a.mp4", "a.mp4", "b.mkv"]
    assert all(s.scores is None and s.frames is None for s in found.samples)
    assert found.truth is found.samples
    assert found.num_classes == 80
    assert found.classes[79] == "action 80"
    assert found.scored == tuple(range(80))
    assert len(found) == 3
    assert len(found.occupied()) == 2


def test_a_line_that_is_there_twice_counts_twice(ava):
    """As in the official evaluation; what a network learns of the actor is the same."""
    write(ava / "val.csv", "a,0902,0.1,0.2,0.3,0.4,12,0\n" * 2)
    found = read_actors(ava / "val.csv")
    assert found.samples[0].labels == ((11, 11),)
    labels = dataset(ava, NORMALIZE, actors=found)._labels(found.samples[0])
    assert labels.sum() == labels[0, 11] == 1


def test_names_and_scored_actions(ava):
    labels, scored = write(ava / "all.pbtxt", OF_2018), ava / "scored.pbtxt"
    write(ava / "val.csv", "a,0902,0.1,0.2,0.3,0.4,79,0\n")
    found = read_actors(ava / "val.csv", labels=labels)
    assert found.num_classes == 79
    assert found.classes[:2] == ["bend/bow (at the waist)", "action 2"]
    assert found.scored == (0, 78)
    write(scored, 'item { name: "talk to (e.g., self, a person, a group)" id: 79 }')
    assert read_actors(ava / "val.csv", labels=labels, scored=scored).scored == (78,)
    alone = read_actors(ava / "val.csv", scored=scored)
    assert alone.scored == (78,)
    assert alone.num_classes == 80
    assert alone.classes[78] == "talk to (e.g., self, a person, a group)"
    write(scored, 'item { name: "sing" id: 79 }')
    with pytest.raises(ValueError, match=r"scored.pbtxt: action 79 is 'sing', in .*all.pbtxt it is 'talk to"):
        read_actors(ava / "val.csv", labels=labels, scored=scored)
    write(scored, 'item { name: "sing" id: 81 }')
    with pytest.raises(ValueError, match="action 81 is past the last of 80"):
        read_actors(ava / "val.csv", scored=scored)


def test_excluded_key_frames_are_left_out_of_samples_and_truth(ava):
    write(ava / "excluded.csv", "a,902\nother,0902\n")
    found = read_actors(ava / "val.csv", excluded=ava / "excluded.csv")
    assert [(s.video, s.timestamp) for s in found.samples] == [("a", 903), ("b", 1798)]
    assert ("a", 902.0) in found.excluded
    assert len(found.truth) == 2


PROPOSALS = """a,0902,0.11,0.21,0.3,0.4,,0.9
a,0902,0.5,0.7,0.9,1,,0.8
a,0902,0.5,0.25,0.9,1,7,0.75
a,0902,0.5,0.25,0.9,1,9,0.7
a,0903,0.2,0.2,0.3,0.3,,0.6
a,0904,0.2,0.2,0.3,0.3,,0.99
a,0900,0.2,0.2,0.3,0.3,,0.99
c,0902,0.2,0.2,0.3,0.3,,0.99
b,1798,0,0,1,1,,0.2
"""


def test_proposals_take_the_place_of_the_boxes_and_the_actions_of_those_they_overlap(ava):
    write(ava / "proposals.csv", PROPOSALS)
    found = read_actors(ava / "val.csv", proposals=ava / "proposals.csv", min_score=0.6)
    assert [(v, t, labels) for v, t, _, labels in told(found)] == [
        ("a", 902, [(3, 12, 80), (), (7, 9)]),  # overlaps of two persons, of 0.375, actions of its own
        ("a", 903, [()]),
        ("b", 1798, []),  # its proposal is too uncertain
        ("a", 904, [()]),  # not in the list: whatever is found there is wrong
    ]
    scores = [score for s in found.samples for score in s.scores.tolist()]
    assert scores == pytest.approx([0.9, 0.8, 0.75, 0.6, 0.99])
    assert [(s.video, s.timestamp, len(s.boxes)) for s in found.truth] == [
        ("a", 902, 3),
        ("a", 903, 0),
        ("b", 1798, 1),
    ]
    assert read_actors(ava / "val.csv", proposals=ava / "proposals.csv", match_iou=0.3).samples[0].labels[
        1
    ] == (0,)


def test_a_proposal_that_overlaps_by_just_as_much_has_the_actions(ava):
    write(ava / "val.csv", "a,0902,0,0,1,1,5,0\na,0902,0,0,1,0.9,6,1\n")
    write(ava / "proposals.csv", "a,0902,0,0,1,0.5,,0.9\na,0902,0,0,1,0.499,,0.9\na,0902,0,0,1,0.4,,0.9\n")
    found = read_actors(ava / "val.csv", proposals=ava / "proposals.csv")
    assert found.samples[0].labels == ((4, 5), (5,), ())


def test_annotated_boxes_may_stay_beside_the_proposals(ava):
    write(ava / "proposals.csv", PROPOSALS)
    found = read_actors(ava / "val.csv", proposals=ava / "proposals.csv", min_score=0.5, keep_truth=True)
    first = found.samples[0]
    assert [tuple(i + 1 for i in labels) for labels in first.labels] == [
        (3, 12, 80), (80,), (1,), (3, 12, 80), (), (7, 9),
    ]  # fmt: skip
    assert first.boxes.shape == (6, 4)
    np.testing.assert_array_equal(first.boxes[:3], found.truth[0].boxes)
    assert first.scores.tolist() == pytest.approx([1, 1, 1, 0.9, 0.8, 0.75])


@pytest.mark.parametrize(
    "line, kwargs, match",
    [
        ("a,0902,0,0,1,1,81,0", {}, "val.csv, line 2: action 81 is past the last of 80"),
        ("a,0901,0,0,1,1,1,0", {}, r"val.csv, line 2: timestamp 901 is not in 902 to 1798 \(timestamps="),
        ("a,1799,0,0,1,1,1,0", {}, r"val.csv, line 2: timestamp 1799 is not in 902 to 1798"),
        ("a,30,0,0,1,1,1,0", {"timestamps": None}, "line 2: timestamp 30 is before start_time=900"),
        ("a,0902,0,0,1,1,1", {"root": "no"}, "root: no is not a folder"),
        ("a,0902,0,0,1,1,1", {"labels": "no"}, "labels: no is not a file"),
        ("a,0902,0,0,1,1,1", {"proposals": "no"}, "proposals: no is not a file"),
        ("a,0902,0,0,1,1,1", {"missing": "maybe"}, "missing must be one of error, skip, keep, got 'maybe'"),
        ("a,0902,0,0,1,1,1", {"min_score": 2}, "min_score must be in 0 to 1, got 2"),
        ("a,0902,0,0,1,1,1", {"match_iou": -1}, "match_iou must be in 0 to 1, got -1"),
    ],
)
def test_what_is_wrong_is_named(ava, line, kwargs, match):
    write(ava / "val.csv", f"a,0902,0,0,1,1,1,0\n{line}\n")
    with pytest.raises((ValueError, FileNotFoundError), match=match):
        read_actors(ava / "val.csv", **kwargs)


def test_proposals_with_persons_in_place_of_scores(ava):
    write(ava / "proposals.csv", "a,0902,0,0,1,1,,0.5\na,0902,0,0,1,1,,17\n")
    with pytest.raises(ValueError, match=r"proposals\.csv, line 2: score 17 is not in 0 to 1"):
        read_actors(ava / "val.csv", proposals=ava / "proposals.csv")


def test_own_lists_may_have_other_times(ava):
    write(ava / "val.csv", "a,1.5,0,0,1,1,1,0\n")
    found = read_actors(ava / "val.csv", start_time=0, timestamps=None)
    assert (found.samples[0].timestamp, found.samples[0].time) == (1.5, 1.5)


def test_missing_videos(ava, caplog):
    write(ava / "val.csv", ROWS + "c,0902,0,0,1,1,1,0\nc,0903,0,0,1,1,1,0\n")
    with pytest.raises(FileNotFoundError, match=r"val.csv, line 8: no video c in "):
        read_actors(ava / "val.csv")
    with caplog.at_level(logging.WARNING, "vidops.data"):
        found = read_actors(ava / "val.csv", missing="skip")
    assert {s.video for s in found.samples} == {s.video for s in found.truth} == {"a", "b"}
    assert "1 of 3 videos are missing" in caplog.text
    assert len(read_actors(ava / "val.csv", missing="keep")) == 5
    write(ava / "val.csv", "")
    with pytest.raises(ValueError, match=r"val\.csv: the list is empty"):
        read_actors(ava / "val.csv")


def test_where_videos_are_found(tmp_path):
    root = touch(
        tmp_path / "videos", "part/a.mp4", "b/b_000001.jpg", "b/b_000002.jpg", "c/00001.jpg", "c.txt"
    )
    write(tmp_path / "val.csv", "".join(f"{v},0902,0,0,1,1,1,0\n" for v in "abc"))
    found = read_actors(tmp_path / "val.csv", root, frames=FrameFolder("{:06d}.jpg"))
    assert [s.path for s in found.samples] == [str(root / "part" / "a.mp4"), str(root / "b"), str(root / "c")]
    assert [s.frames and s.frames.template for s in found.samples] == [None, "b_{:06d}.jpg", "{:06d}.jpg"]
    write(tmp_path / "files.csv", "part/a.mp4,0902,0,0,1,1,1,0\n")
    assert read_actors(tmp_path / "files.csv", root).samples[0].path == str(root / "part" / "a.mp4")
    touch(root, "other/a.webm")
    with pytest.raises(ValueError, match=r"line 1: both .*a.webm and .*a.mp4 have the video's name"):
        read_actors(tmp_path / "val.csv", root)
    touch(root, "a.mov", "a.mkv")
    with pytest.raises(ValueError, match=r"line 1: both .*a.mkv and .*a.mov have the video's name"):
        read_actors(tmp_path / "val.csv", root)
