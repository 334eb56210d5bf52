"""Each dataset's list as its makers give it."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest

from vidops.data import AnnotationList, FrameFolder, read_annotations
from vidops.data.formats import FORMATS, find_format


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def pairs(found: AnnotationList, root: Path) -> list[tuple[str, int]]:
    return [(Path(s.path).relative_to(root).as_posix(), s.label) for s in found.samples]


# --- Kinetics

KINETICS = (
    "label,youtube_id,time_start,time_end,split\n"
    "zumba,-abc_DEF123,4,14,train\n"
    '"arm wrestling",x00000000y1,123,133,train\n'
    "zumba,0123456789a,0,10,val\n"
)


def kinetics(tmp_path: Path, text: str = KINETICS) -> Path:
    return write(tmp_path / "lists" / "kinetics.csv", text)


@pytest.mark.parametrize(
    "files",
    [
        ("zumba/-abc_DEF123_000004_000014.mp4", "arm wrestling/x00000000y1_000123_000133.mp4"),
        ("-abc_DEF123_000004_000014.mp4", "x00000000y1_000123_000133.mp4"),
        ("train/zumba/-abc_DEF123_000004_000014.mkv", "train/arm_wrestling/x00000000y1_000123_000133.webm"),
        ("zumba/-abc_DEF123.mp4", "arm_wrestling/x00000000y1_123_133.avi"),
        ("zumba/-abc_DEF123_000004_000014.MP4", "x00000000y1.mp4"),
    ],
    ids=["class folders", "flat", "underscores and suffixes", "other names", "mixed"],
)
def test_kinetics_finds_the_clips_however_they_lie(tmp_path, files):
    root = touch(tmp_path / "videos", *files, "zumba/.hidden.mp4", ".git/x00000000y1_000123_000133.mp4")
    found = read_annotations(kinetics(tmp_path), root=root, subset="train")
    assert pairs(found, root) == [(files[0], 1), (files[1], 0)]
    assert found.classes == ["arm wrestling", "zumba"]


def test_kinetics_classes_are_those_of_the_whole_list_or_as_given(tmp_path):
    root = touch(tmp_path / "videos", "0123456789a_000000_000010.mp4")
    path = kinetics(tmp_path)
    found = read_annotations(path, root=root, subset="val")
    assert (pairs(found, root), found.classes) == (
        [("0123456789a_000000_000010.mp4", 1)],
        ["arm wrestling", "zumba"],
    )
    given = ["zumba", "other", "arm wrestling"]
    assert read_annotations(path, root=root, subset="val", classes=given).samples[0].label == 0
    with pytest.raises(ValueError, match=r"line 4: 'zumba' is not one of the 1 classes"):
        read_annotations(path, root=root, subset="val", classes=["arm wrestling"])


def test_kinetics_takes_a_list_of_one_split_whole(tmp_path):
    text = "label,youtube_id,time_start,time_end,split,is_cc\na,v1,0.0,10.0,validate,1\n"
    root = touch(tmp_path / "videos", "v1_000000_000010.mp4")
    for subset in (None, "val"):
        assert len(read_annotations(kinetics(tmp_path, text), root=root, subset=subset)) == 1
    with pytest.raises(ValueError, match="holds no train split, only validate"):
        read_annotations(kinetics(tmp_path, text), root=root, subset="train")
    bare = "label,youtube_id,time_start,time_end\na,v1,0.0,10.0\n"
    for subset in (None, "train", "val"):
        assert len(read_annotations(kinetics(tmp_path, bare), root=root, subset=subset)) == 1


def test_kinetics_takes_no_file_of_another_classs_folder(tmp_path):
    text = "label,youtube_id,time_start,time_end,split\na b,v,0,10,train\nc d,w,0,10,train\n"
    path = kinetics(tmp_path, text)
    for folder in ("c d", "c_d", "train/c_d", "a_b/c d"):
        root = touch(tmp_path / folder.replace("/", "-"), f"{folder}/v_000000_000010.mp4", "w.mp4")
        with pytest.raises(FileNotFoundError, match=r"line 2: no such file .*a b/v_000000_000010\.mp4"):
            read_annotations(path, root=root)
    # The folder that the root itself is called says nothing.
    root = touch(tmp_path / "c d", "v.mp4", "train/c_d/parts/w.mp4")
    (root / "c d").rename(tmp_path / "away")
    assert pairs(read_annotations(path, root=root), root) == [("v.mp4", 0), ("train/c_d/parts/w.mp4", 1)]


@pytest.mark.parametrize("again", ["a.mp4", "./a.mp4", "x/../a.mp4"])
def test_a_video_with_two_labels_is_refused(tmp_path, again):
    touch(tmp_path, "a.mp4", "b.mp4", "x/c.mp4")
    path = write(tmp_path / "list.csv", f"a.mp4,0\nb.mp4,1\n{again},1\n")
    with pytest.raises(
        ValueError, match=r"list\.csv, line 3: label 1 for .*, which has label 0 in .*line 1$"
    ):
        read_annotations(path)
    write(path, f"a.mp4,0\nb.mp4,1\n{again},0\n")
    assert [s.label for s in read_annotations(path).samples] == [0, 1, 0]


def test_a_kinetics_video_of_two_labels_is_refused(tmp_path):
    text = "label,youtube_id,time_start,time_end,split\na,v,0,10,train\nb,v,20,30,train\n"
    root = touch(tmp_path / "videos", "v.mp4")
    with pytest.raises(ValueError, match=r"line 3: label 1 for .*v\.mp4, which has label 0 in .*line 2"):
        read_annotations(kinetics(tmp_path, text), root=root)


def test_kinetics_missing_videos(tmp_path, caplog):
    lines = [f"a,v{i},0,10,train" for i in range(7)]
    path = kinetics(tmp_path, "\n".join(["label,youtube_id,time_start,time_end,split", *lines]))
    root = touch(tmp_path / "videos", "v3_000000_000010.mp4")
    with pytest.raises(FileNotFoundError) as info:
        read_annotations(path, root=root)
    text = str(info.value)
    assert text.startswith(f"{path}: 6 of 7 videos are missing: ")
    assert text.count("no such file") == 3
    assert f"line 2: no such file {root}/a/v0_000000_000010.mp4" in text
    assert text.endswith("; ...")
    with caplog.at_level(logging.WARNING, "vidops.data"):
        found = read_annotations(path, root=root, missing="skip")
    assert pairs(found, root) == [("v3_000000_000010.mp4", 0)]
    assert "6 of 7 videos are missing" in caplog.text
    assert len(read_annotations(path, root=root, missing="keep")) == 7
    (root / "v3_000000_000010.mp4").unlink()
    with pytest.raises(FileNotFoundError, match="7 of 7 videos are missing"):
        read_annotations(path, root=root, missing="skip")


def test_kinetics_of_two_files_with_one_name_the_classs_own_is_meant(tmp_path):
    text = "label,youtube_id,time_start,time_end,split\na b,v,0,10,train\n"
    name = "v_000000_000010.mp4"
    root = touch(tmp_path / "videos", f"a_b/{name}", f"other/{name}")
    assert pairs(read_annotations(kinetics(tmp_path, text), root=root), root) == [(f"a_b/{name}", 0)]
    (root / "a_b" / name).rename(touch(root, "third/x") / "third" / name)
    with pytest.raises(ValueError, match=r"line 2: both .*other.* and .*third.* have the clip's name"):
        read_annotations(kinetics(tmp_path, text), root=root)


def test_kinetics_folders_that_link_to_themselves(tmp_path):
    text = "label,youtube_id,time_start,time_end,split\na b,v,0,10,train\n"
    root = touch(tmp_path / "videos", "a b/v_000000_000010.mp4")
    (root / "a b" / "loop").symlink_to(root, target_is_directory=True)
    found = read_annotations(kinetics(tmp_path, text), root=root)
    assert pairs(found, root) == [("a b/v_000000_000010.mp4", 0)]


@pytest.mark.parametrize(
    "text, match",
    [
        ("label,youtube_id,time_start,time_end\n", "the list is empty"),
        (KINETICS.replace(",4,", ",4s,"), r"line 2: the time_start '4s' is not a whole number"),
        (KINETICS.replace(",4,", ",-4,"), r"line 2: time_start -4 is negative"),
        (KINETICS.replace(",4,", ",4.5,"), r"line 2: the time_start '4.5' is not a whole number"),
        (KINETICS.replace("zumba,-", ",-"), r"line 2: the label is empty"),
        (KINETICS.replace(",133,train", ",133"), r"line 3: expected 5 columns, found 4"),
    ],
)
def test_wrong_kinetics_lines(tmp_path, text, match):
    root = touch(tmp_path / "videos", "a.mp4")
    with pytest.raises(ValueError, match=match):
        read_annotations(kinetics(tmp_path, text), root=root, subset="train", missing="keep")


def test_kinetics_with_several_splits_asks_which(tmp_path):
    root = touch(tmp_path / "videos", "a.mp4")
    with pytest.raises(ValueError, match="holds the splits train, val; say which one is meant"):
        read_annotations(kinetics(tmp_path), root=root)
    text = KINETICS.replace(",val", ",test")
    with pytest.raises(ValueError, match="holds no val split, only test, train"):
        read_annotations(kinetics(tmp_path, text), root=root, subset="val")


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
        ValueError, match=r"format: no format 'ucf'; there are auto, csv, folder, hmdb51, jester"
    ):
        read_annotations(write(tmp_path / "a.csv", "x"), format="ucf")
    assert sorted(FORMATS) == list(FORMATS)


@pytest.mark.parametrize("name", list(FORMATS))
def test_a_folder_for_a_file_and_a_file_for_a_folder(tmp_path, name):
    of_folder = name in ("folder", "hmdb51")
    path = write(tmp_path / "list.csv", "x") if of_folder else tmp_path
    kind = "file" if of_folder else "folder"
    with pytest.raises(ValueError, match=rf"{path}: is a {kind}, the format {name} is "):
        read_annotations(path, format=name, subset="train")


@pytest.mark.parametrize("key, value", [("subset", "test"), ("split", 4), ("missing", "ignore")])
def test_wrong_arguments(tmp_path, key, value):
    with pytest.raises(ValueError, match=f"{key} must be one of"):
        read_annotations(write(tmp_path / "a.csv", "x"), **{key: value})
