"""Each dataset's list as its makers give it; Kinetics has a file of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from vidops.data import FrameFolder, read_annotations
from vidops.data.formats import FORMATS, find_format

from ._lists import pairs, touch, write

# --- UCF101 and HMDB51


def ucf(tmp_path: Path, name: str, text: str, classes: str = "1 Apply Eye\n2 Yo\n") -> Path:
    write(tmp_path / "splits" / "classInd.txt", classes)
    return write(tmp_path / "splits" / name, text)


def test_ucf101(tmp_path):
    root = touch(tmp_path / "UCF-101", "Yo/v_Yo_g01_c01.avi", "v_Yo_g02_c01.avi")
    train = ucf(tmp_path, "trainlist01.txt", "Yo/v_Yo_g01_c01.avi 2\r\nYo/v_Yo_g02_c01.avi 2\r\n")
    found = read_annotations(train, root=root)
    assert pairs(found, root) == [("Yo/v_Yo_g01_c01.avi", 1), ("v_Yo_g02_c01.avi", 1)]
    assert found.classes == ["Apply Eye", "Yo"]
    test = ucf(tmp_path, "testlist03.txt", "Yo/v_Yo_g01_c01.avi\n")
    assert pairs(read_annotations(test, root=root), root) == [("Yo/v_Yo_g01_c01.avi", 1)]


@pytest.mark.parametrize(
    "line, classes, match",
    [
        ("Yo/v.avi 1", "1 No\n2 Yo\n", "line 1: label 1 is not that of 'Yo', which is 2"),
        ("Yo/v.avi two", "1 No\n2 Yo\n", "line 1: the label 'two' is not a whole number"),
        ("v.avi 1", "1 No\n2 Yo\n", "line 1: expected Class/video.avi"),
        ("Up/v.avi 1", "1 No\n2 Yo\n", "line 1: 'Up' is not one of the 2 classes"),
        ("Yo/v.avi 1", "1 No\n3 Yo\n", r"classInd\.txt, line 2: expected `2 Name`"),
        ("Yo/v.avi 1", "1 Yo\n2 Yo\n", r"classInd\.txt: class 'Yo' is named twice"),
        ("Yo/v.avi 1", "", r"classInd\.txt: no class names"),
    ],
)
def test_wrong_ucf101_lists(tmp_path, line, classes, match):
    with pytest.raises(ValueError, match=match):
        read_annotations(ucf(tmp_path, "trainlist01.txt", line, classes), root=tmp_path)


def test_ucf101_without_its_classes(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"classInd\.txt: no such file; it numbers the classes of trainl"
    ):
        read_annotations(write(tmp_path / "trainlist02.txt", "Yo/v.avi 1\n"))
    path = ucf(tmp_path, "trainlist01.txt", "Yo/v.avi 2\n")
    with pytest.raises(ValueError, match="its 2 classes are not the 2 that are given"):
        read_annotations(path, classes=["Yo", "Apply Eye"])


def test_hmdb51(tmp_path):
    splits = tmp_path / "splits"
    write(splits / "wave_test_split1.txt", "w1.avi 1 \nw2.avi 2 \nw3.avi 0 \n")
    write(splits / "brush_hair_test_split1.txt", "b1 (x).avi 1 \nb2.avi 2 \n")
    write(splits / "wave_test_split2.txt", "w3.avi 1\nw1.avi 2\n")
    names = ("wave/w1.avi", "wave/w2.avi", "wave/w3.avi", "brush_hair/b1 (x).avi", "b2.avi")
    root = touch(tmp_path / "hmdb51", *names)
    train = read_annotations(splits, root=root, subset="train")
    assert pairs(train, root) == [("brush_hair/b1 (x).avi", 0), ("wave/w1.avi", 1)]
    assert train.classes == ["brush_hair", "wave"]
    assert pairs(read_annotations(splits, root=root, subset="val"), root) == [
        ("b2.avi", 0),
        ("wave/w2.avi", 1),
    ]
    assert len(read_annotations(splits, root=root, subset="all")) == 4  # w3 is of neither
    second = read_annotations(splits, root=root, subset="train", split=2, classes=train.classes)
    assert pairs(second, root) == [("wave/w3.avi", 1)]
    with pytest.raises(ValueError, match="both subsets; say train or val"):
        read_annotations(splits, root=root)
    with pytest.raises(ValueError, match=r"holds no files <class>_test_split3\.txt"):
        read_annotations(splits, root=root, subset="val", split=3)
    write(splits / "wave_test_split1.txt", "w1.avi 3\n")
    with pytest.raises(
        ValueError, match=r"wave_test_split1\.txt, line 1: expected `video\.avi` and 0, 1 or 2"
    ):
        read_annotations(splits, root=root, subset="train")


# --- Something-Something and Jester


@pytest.mark.parametrize("name", ["something-something-v1-train.csv", "jester-v1-train.csv"])
def test_something_v1_and_jester(tmp_path, name):
    labels = name.replace("train", "labels")
    write(tmp_path / labels, "Folding something\nPutting something, with care\n")
    path = write(tmp_path / name, "100218;Putting something, with care\n7;Folding [something]\n")
    root = touch(tmp_path / "frames", "100218/00001.jpg", "7/00001.jpg")
    found = read_annotations(path, root=root)
    assert pairs(found, root) == [("100218", 1), ("7", 0)]
    assert found.samples[0].frames == FrameFolder("{:05d}.jpg", 1, None)
    assert found.classes == ["Folding something", "Putting something, with care"]
    assert find_format(path).name == ("jester" if "jester" in name else "something_v1")


def test_something_v1_errors(tmp_path):
    path = write(tmp_path / "something-train.csv", "1;Folding\n")
    with pytest.raises(FileNotFoundError, match=r"holds no \*labels\.csv, which numbers the classes"):
        read_annotations(path)
    write(tmp_path / "something-labels.csv", "Folding\n")
    with pytest.raises(FileNotFoundError, match=rf"line 1: no such folder {re.escape(str(tmp_path))}/1$"):
        read_annotations(path)
    write(tmp_path / "jester-labels.csv", "Folding\n")
    with pytest.raises(ValueError, match=r"several \*labels\.csv: jester-labels\.csv, something-labels\.csv"):
        read_annotations(path)
    (tmp_path / "jester-labels.csv").unlink()
    for text, match in (
        ("1;Waving\n", "'Waving' is not one of the 1 classes"),
        ("1\n", "test lists hold no lab"),
    ):
        with pytest.raises(ValueError, match=match):
            read_annotations(write(path, text), format="something_v1")


def v2(tmp_path: Path, entries: object, labels: object = None) -> Path:
    labels = {"Moving something down": "0", "Moving something up": "1"} if labels is None else labels
    write(tmp_path / "labels.json", json.dumps(labels))
    return write(tmp_path / "train.json", json.dumps(entries))


def test_something_v2(tmp_path):
    entry = {
        "id": "78687",
        "label": "moving cup up",
        "template": "Moving [something] up",
        "placeholders": ["cup"],
    }
    root = touch(tmp_path / "videos", "78687.webm", "3.webm")
    found = read_annotations(
        v2(tmp_path, [entry, {"id": 3, "template": "Moving something down"}]), root=root, subset="train"
    )
    assert pairs(found, root) == [("78687.webm", 1), ("3.webm", 0)]
    assert found.samples[0].frames is None
    assert found.classes == ["Moving something down", "Moving something up"]
    (root / "3.webm").unlink()
    touch(root, "3/00001.jpg")
    found = read_annotations(tmp_path / "train.json", root=root)
    assert pairs(found, root) == [("78687.webm", 1), ("3", 0)]
    assert [s.frames for s in found.samples] == [None, FrameFolder()]


@pytest.mark.parametrize(
    "entries, labels, match",
    [
        ([{"id": "3"}], None, "entry 0: has no template; test lists hold no labels"),
        ([{"template": "x"}], None, "entry 0: expected an id and a template"),
        (["3"], None, "entry 0: expected an id"),
        ({"id": "3"}, None, "expected a list of videos"),
        ([], None, "the list is empty"),
        (
            [{"id": "3", "template": "Eating [x]"}],
            None,
            r"entry 0: 'Eating x' is not one of the 2 classes of l",
        ),
        ([], {"a": "0", "b": "2"}, "its numbers are not 0 to 1, each once"),
        ([], {"a": "x"}, "the number 'x' is not a whole number"),
        ([], ["a"], "expected a number for each label"),
    ],
)
def test_wrong_something_v2_lists(tmp_path, entries, labels, match):
    path = v2(tmp_path, entries, labels)
    with pytest.raises(ValueError, match=match):
        read_annotations(path)


def test_something_v2_that_is_no_json(tmp_path):
    path = v2(tmp_path, [])
    write(path, "[\n{]")
    with pytest.raises(ValueError, match=r"train\.json, line 2: is not JSON"):
        read_annotations(path)


# --- lists of the TSM code, csv with folders


def test_tsm_lists_of_folders(tmp_path):
    root = touch(tmp_path, "f/a b/img_00000.jpg", "f/c/img_00000.jpg", "f/d.mp4") / "f"
    path = write(tmp_path / "train_videofolder.txt", "a b 12 0\nc 40 2\nd.mp4 9 1\n")
    found = read_annotations(path, root=root, frames=FrameFolder("img_{:05d}.jpg", 0))
    assert pairs(found, root) == [("a b", 0), ("c", 2), ("d.mp4", 1)]
    assert [s.frames and s.frames.count for s in found.samples] == [12, 40, None]
    assert found.samples[0].frames == FrameFolder("img_{:05d}.jpg", 0, 12)
    assert found.classes is None


def test_tsm_lists_of_videos(tmp_path):
    root = touch(tmp_path, "x y.mp4", "z.mp4", "folder/00001.jpg")
    path = write(tmp_path / "val.txt", "x y.mp4 3\nz.mp4 0\nfolder 1\n")
    found = read_annotations(path, root=root)
    assert pairs(found, root) == [("x y.mp4", 3), ("z.mp4", 0), ("folder", 1)]
    assert [s.frames for s in found.samples] == [None, None, FrameFolder()]


@pytest.mark.parametrize(
    "text, match",
    [
        ("a 0 1\n", "line 1: number of frames 0 is below 1"),
        ("a 3 1\nb 2\n", "line 2: expected path num_frames label, found 'b 2'"),
        ("a 3 -1\n", "line 1: label -1 is negative"),
        ("a 3 5\n", "line 1: label 5 is past the last of 4 classes"),
    ],
)
def test_wrong_tsm_lists(tmp_path, text, match):
    touch(tmp_path, "a/00001.jpg", "b/00001.jpg")
    with pytest.raises(ValueError, match=match):
        read_annotations(write(tmp_path / "list.txt", text), num_classes=4)


def test_tsm_names_what_is_missing(tmp_path):
    path = write(tmp_path / "list.txt", "a 3 1\n")
    with pytest.raises(FileNotFoundError, match=r"line 1: no such folder .*/a$"):
        read_annotations(path)


def test_a_csv_may_name_folders(tmp_path):
    touch(tmp_path, "v/0.png")
    frames = FrameFolder("{}.png", 0)
    found = read_annotations(write(tmp_path / "l.csv", "v,1\n"), frames=frames)
    assert found.samples[0].frames == frames


# --- the guess


@pytest.mark.parametrize(
    "name, text, expected",
    [
        ("train.csv", "a;b.mp4,3\n", "csv"),
        ("train.csv", "label,youtube_id,time_start,time_end\n", "kinetics"),
        ("something-something-v1-validation.csv", "\n12;Doing\n", "something_v1"),
        ("Jester-v1-train.csv", "12;Doing\n", "jester"),
        ("something-something-v2-train.json", "[]", "something_v2"),
        ("trainlist01.txt", "A/b.avi 1\n", "ucf101"),
        ("rgb.txt", "a 12 3\n", "tsm"),
        ("rgb.txt", "a.mp4 3\n", "tsm"),
        ("empty.csv", "", "csv"),
    ],
)
def test_guess(tmp_path, name, text, expected):
    assert find_format(write(tmp_path / name, text)).name == expected


@pytest.mark.parametrize(
    "name, text",
    [
        ("train.csv", "12;Doing\n"),  # of Jester or of Something-Something
        ("list.txt", "a.mp4,3\n"),
        ("list.txt", ""),
        ("list", "a.mp4 3\n"),
        ("labels.json", "{}"),
        ("a.xml", "<x/>"),
    ],
)
def test_no_guess_where_it_is_not_sure(tmp_path, name, text):
    path = write(tmp_path / name, text)
    with pytest.raises(ValueError, match="cannot tell its format, give format: one of") as info:
        read_annotations(path)
    assert "something_v1 (" in str(info.value)
    assert "\n" not in str(info.value)


def test_a_format_that_is_none(tmp_path):
    with pytest.raises(
        ValueError, match=r"format: no format 'ucf'; there are auto, ava, csv, folder, hmdb51, jester"
    ):
        read_annotations(write(tmp_path / "a.csv", "x"), format="ucf")
    assert sorted(FORMATS) == list(FORMATS)


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_folder_for_a_file_and_a_file_for_a_folder(tmp_path, name):
    of_folder = name in ("folder", "hmdb51", "webdataset")
    path = write(tmp_path / "list.csv", "x") if of_folder else tmp_path
    kind = "file" if of_folder else "folder"
    with pytest.raises(ValueError, match=rf"{path}: is a {kind}, the format {name} is "):
        read_annotations(path, format=name, subset="train")


@pytest.mark.parametrize("key, value", [("subset", "test"), ("split", 4), ("missing", "ignore")])
def test_wrong_arguments(tmp_path, key, value):
    with pytest.raises(ValueError, match=f"{key} must be one of"):
        read_annotations(write(tmp_path / "a.csv", "x"), **{key: value})
