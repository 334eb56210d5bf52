from __future__ import annotations

from pathlib import Path

import pytest

from vidops.data import read_annotations
from vidops.data.formats import find_format
from vidops.data.formats.ava import read_boxes, read_excluded, read_label_map

from ._lists import write

LINE = "-5KQ66BBWC4,0902,0.077,0.151,0.283,0.811,80,1"

OF_2018 = """item {
  name: "bend/bow (at the waist)"
  id: 1
}
item {
  name: "talk to (e.g., self, a person, a group)"
  id: 79
}
"""
OF_2019 = """label {
  name: "bend/bow (at the waist)"
  label_id: 1
  label_type: PERSON_MOVEMENT
}
label {
  name: "talk to (e.g., self, a person, a group)"
  label_id: 79
  label_type: PERSON_INTERACTION
}
"""
ONE_LINE = """# actions
item { id: 1 name: 'bend/bow (at the waist)' }  item: {name:"talk to (e.g., self, a person, a group)" id:79}"""


@pytest.mark.parametrize("text", [OF_2018, OF_2019, ONE_LINE, OF_2018.replace("\n", "\r\n")])
def test_label_maps_of_all_years(tmp_path, text):
    names = read_label_map(write(tmp_path / "a.pbtxt", text))
    assert names == {1: "bend/bow (at the waist)", 79: "talk to (e.g., self, a person, a group)"}


def test_names_with_quotes(tmp_path):
    text = r'item { name: "say \"no\" to x\\y" id: 3 }'
    assert read_label_map(write(tmp_path / "a.pbtxt", text)) == {3: 'say "no" to x\\y'}


@pytest.mark.parametrize(
    "text, match",
    [
        ("", "a.pbtxt: holds no actions"),
        ("bend\nsit\n", r"a.pbtxt, line 1: cannot be read as a label map \('bend'\)"),
        ('item {\n name: "a\n id: 1 }', r"line 2: cannot be read as a label map"),
        ('item {\n name: "a"\n}', "line 3: the item that ends here has no id"),
        ("item { id: 1 }", "line 1: the item that ends here has no name"),
        ('item { name: "a" id: 0 }', "line 1: id 0 is below 1"),
        ('item { name: "a" id: x }', "line 1: the id 'x' is not a whole number"),
        (
            'item { name: "a" id: 1 }\nitem { name: "b" id: 1 }',
            "line 2: action 1, 'b', is in the label map twice",
        ),
        (
            'item { name: "a" id: 1 }\nitem { name: "a" id: 2 }',
            "line 2: action 2, 'a', is in the label map twice",
        ),
        ('item { name: "a" id: 1', "the last item has no end"),
        ('item { item { name: "a" id: 1 } }', "line 1: an item within an item"),
        ('name: "a"', "line 1: name stands outside an item"),
        ("}", "line 1: a bracket closes no item"),
    ],
)
def test_label_maps_that_are_wrong(tmp_path, text, match):
    with pytest.raises(ValueError, match=match):
        read_label_map(write(tmp_path / "a.pbtxt", text))


def test_rows(tmp_path):
    text = f"{LINE}\n\n-5KQ66BBWC4,903\nx y.z,0902.0,,,,,,\nb,1798,0,0,1,1,,0.93\nb,902,0,0,1,1,\n"
    rows = list(read_boxes(write(tmp_path / "a.csv", text)))
    assert [(r.video, r.timestamp, r.box, r.action, r.last) for r in rows] == [
        ("-5KQ66BBWC4", 902.0, (0.077, 0.151, 0.283, 0.811), 80, "1"),
        ("-5KQ66BBWC4", 903.0, None, None, ""),
        ("x y.z", 902.0, None, None, ""),
        ("b", 1798.0, (0, 0, 1, 1), None, "0.93"),
        ("b", 902.0, (0, 0, 1, 1), None, ""),
    ]
    assert rows[1].where == f"{tmp_path / 'a.csv'}, line 3"


def test_a_box_may_be_a_line_or_a_point(tmp_path):
    rows = read_boxes(write(tmp_path / "a.csv", "a,902,0.5,0,0.5,1,3,0\na,902,0.5,1,0.5,1,3,0\n"))
    assert [row.box for row in rows] == [(0.5, 0, 0.5, 1), (0.5, 1, 0.5, 1)]


def test_a_header_is_passed_over(tmp_path):
    heading = "video_id,middle_frame_timestamp,x1,y1,x2,y2,action_id,person_id"
    assert len(list(read_boxes(write(tmp_path / "a.csv", f"\ufeff{heading}\n{LINE}\n")))) == 1


def test_an_action_of_nobody(tmp_path):
    path = write(tmp_path / "a.csv", "a,902,,,,,,\na,902,,,,,3,\n")
    with pytest.raises(ValueError, match=r"a\.csv, line 2: the x1 '' is not a number"):
        list(read_boxes(path))


@pytest.mark.parametrize(
    "line, match",
    [
        (
            "a,902,0,0,1,1",
            r"expected 2, 7 or 8 columns \(video,timestamp,x1,y1,x2,y2,action,person or score\), found 6",
        ),
        (",902,0,0,1,1,3,0", "the video's name is empty"),
        ("a,,0,0,1,1,3,0", "the timestamp '' is not a number"),
        ("a,nan,0,0,1,1,3,0", "timestamp nan is not at least 0"),
        ("a,-3,0,0,1,1,3,0", "timestamp -3 is not at least 0"),
        ("a,902,0,,1,1,3,0", "the y1 '' is not a number"),
        ("a,902,,,,,3,0", "the x1 '' is not a number"),
        ("a,902,0,0,320,240,3,0", "x2 320 is not in 0 to 1"),
        ("a,902,-0.1,0,1,1,3,0", "x1 -0.1 is not in 0 to 1"),
        ("a,902,0,0,1,inf,3,0", "y2 inf is not in 0 to 1"),
        ("a,902,0.5,0,0.4,1,3,0", r"the box 0.5,0,0.4,1 ends before it begins \(x1,y1,x2,y2 are expected\)"),
        ("a,902,0,0.5,1,0.4,3,0", "the box 0,0.5,1,0.4 ends before it begins"),
        ("a,902,0,0,1,1,0,0", "action id 0 is below 1"),
        ("a,902,0,0,1,1,sit,0", "the action id 'sit' is not a whole number"),
    ],
)
def test_rows_that_are_wrong(tmp_path, line, match):
    path = write(tmp_path / "a.csv", f"{LINE}\n{line}\n")
    with pytest.raises(ValueError, match=match) as caught:
        list(read_boxes(path))
    assert str(caught.value).startswith(f"{path}, line 2: ")


def test_excluded(tmp_path):
    found = list(read_excluded(write(tmp_path / "a.csv", "a,0902\nb,1000\n")))
    assert [entry[1:] for entry in found] == [("a", 902.0), ("b", 1000.0)]
    assert list(read_excluded(write(tmp_path / "b.csv", ""))) == []
    with pytest.raises(ValueError, match=r"c.csv, line 1: expected 2 columns \(video,timestamp\), found 8"):
        list(read_excluded(write(tmp_path / "c.csv", LINE)))


@pytest.mark.parametrize(
    "line, name",
    [
        (LINE, "ava"),
        ("a,0902,0.1,0.2,0.3,0.4,,0.99", "ava"),
        ("a,902.5,0,0,1,1e-1,3", "ava"),
        ("a,0902,,,,,,", "ava"),
        ("a.mp4,0", "csv"),
        ("path,label", "csv"),
        ("label,youtube_id,time_start,time_end,split", "kinetics"),
    ],
)
def test_the_format_is_seen_from_the_first_line(tmp_path, line, name):
    assert find_format(write(tmp_path / "list.csv", line + "\n")).name == name


def test_read_annotations_says_what_reads_it(tmp_path):
    path: Path = write(tmp_path / "list.csv", LINE)
    with pytest.raises(
        ValueError, match=r"list.csv: lists boxes of actors .* vidops.data.read_actors reads it"
    ):
        read_annotations(path)
