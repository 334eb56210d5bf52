"""Files of boxes for predictions."""

from __future__ import annotations

import numpy as np
import pytest

from vidops.evaluation.given_boxes import read_given_boxes


def write(tmp_path, *lines):
    file = tmp_path / "boxes.csv"
    file.write_text("".join(f"{line}\n" for line in lines))
    return file


def plain(moments):
    return {time: boxes.tolist() for time, boxes in moments.items()}


def test_boxes_of_any_video(tmp_path):
    file = write(tmp_path, "timestamp,x1,y1,x2,y2", "2.5,0.25,0,0.5,1", "0.5,0,0,1,0.75", "2.5,0.5,0,1,1,0.5")
    found = read_given_boxes(file).of("anything.mp4")
    assert list(found) == [0.5, 2.5]
    assert plain(found) == {0.5: [[0, 0, 1, 0.75]], 2.5: [[0.25, 0, 0.5, 1], [0.5, 0, 1, 1]]}
    assert found[2.5].dtype == np.float32
    assert plain(read_given_boxes(file, min_score=0.5).of("a")) == plain(found)
    assert plain(read_given_boxes(file, min_score=0.6).of("a")) == {
        0.5: [[0, 0, 1, 0.75]],
        2.5: [[0.25, 0, 0.5, 1]],
    }


def test_boxes_of_named_videos(tmp_path):
    file = write(tmp_path, "a,1,0,0,0.5,1", "b.mp4,1,0,0,0.25,1", "sub/c.mp4,2,0.5,0,1,1")
    found = read_given_boxes(file)
    assert plain(found.of("x/a.mp4")) == {1: [[0, 0, 0.5, 1]]}
    assert plain(found.of("x/b.mp4")) == {1: [[0, 0, 0.25, 1]]}
    assert plain(found.of("sub/c.mp4")) == {2: [[0.5, 0, 1, 1]]}
    with pytest.raises(ValueError, match=r"^d\.mp4: .*boxes\.csv has no boxes for it$"):
        found.of("d.mp4")


def test_a_box_of_several_actions_is_one_box(tmp_path):
    annotated = write(
        tmp_path,
        *("v,0902,0.1,0.2,0.3,0.4,12,7", "v,0902,0.1,0.2,0.3,0.4,80,7", "v,0902,0,0,1,1,5,8"),
        *("v,0902,0,0,0.5,1,5,0", "v,0903,,,,,,", "w,0902"),  # person 0; nobody
    )
    found = read_given_boxes(annotated, 0.9)
    assert [len(boxes) for boxes in found.of("v.mp4").values()] == [3]
    with pytest.raises(ValueError, match="has no boxes for it"):
        found.of("w.mp4")
    proposed = write(tmp_path, "v,0902,0.1,0.2,0.3,0.4,,0.95", "v,0902,0,0,1,1,,0.5")
    assert [len(boxes) for boxes in read_given_boxes(proposed, 0.9).of("v.mp4").values()] == [1]


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([], "holds no box"),
        (["timestamp,x1,y1,x2,y2"], "holds no box"),
        (["1,0,0,1"], r"line 1: must read timestamp.*found 4 columns"),
        (["1,0,0,1,1", "a,2,0,0,1,1"], "line 1: must read .*found 5 columns"),
        (["1,0,0,1,2"], "line 1: y2 2 is not in 0 to 1"),
        (["1,0.5,0,0.25,1"], "line 1: the box 0.5,0,0.25,1 ends before it begins"),
        (["a,x,0,0,1,1"], "line 1: the timestamp 'x' is not a number"),
        (["1,0,0,1,1,high"], "line 1: the score 'high' is not a number"),
    ],
)
def test_what_is_no_box_is_named(lines, reason, tmp_path):
    with pytest.raises(ValueError, match=reason):
        read_given_boxes(write(tmp_path, *lines))


def test_a_bound_that_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match=r"holds no box of score 0\.9"):
        read_given_boxes(write(tmp_path, "1,0,0,1,1,0.5"), 0.9)
