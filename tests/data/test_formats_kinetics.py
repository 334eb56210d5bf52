"""Lists of Kinetics, and what is asked of every list: its videos are there, each with one label."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from vidops.data import read_annotations

from ._lists import pairs, touch, write

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


def test_kinetics_splits_in_other_letters_and_none_that_nobody_knows(tmp_path):
    text = "label,youtube_id,time_start,time_end,split\na,v1,0,10,train\na,v2,0,10,Train\na,v3,0,10,Val\n"
    root = touch(tmp_path / "videos", "v1.mp4", "v2.mp4", "v3.mp4", "v4.mp4")
    counts = [len(read_annotations(kinetics(tmp_path, text), root=root, subset=s)) for s in ("train", "val")]
    assert counts == [2, 1]
    for other in ("trian", ""):
        path = kinetics(tmp_path, f"{text}a,v4,0,10,{other}\n")
        with pytest.raises(ValueError, match=f"line 5: the split '{other}' is none of train, val and test"):
            read_annotations(path, root=root, subset="train")


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
    text = KINETICS.replace(",val", ",dev")
    with pytest.raises(ValueError, match="line 4: the split 'dev' is none of train, val and test"):
        read_annotations(kinetics(tmp_path, text), root=root, subset="val")


def test_kinetics_validates_on_the_test_split_where_there_is_no_other(tmp_path):
    rows = {"train": "a,v1,0,10,train\n", "val": "a,v2,0,10,val\n", "test": "a,v3,0,10,test\n"}
    root = touch(tmp_path / "videos", "v1.mp4", "v2.mp4", "v3.mp4")
    for splits, subset, expected in (
        (["test"], "val", ["v3.mp4"]),
        (["train", "test"], "val", ["v3.mp4"]),
        (["train", "val", "test"], "val", ["v2.mp4"]),
        (["train", "val", "test"], "train", ["v1.mp4"]),
        (["train", "val", "test"], "all", ["v1.mp4", "v2.mp4", "v3.mp4"]),
    ):
        text = "label,youtube_id,time_start,time_end,split\n" + "".join(rows[split] for split in splits)
        found = read_annotations(kinetics(tmp_path, text), root=root, subset=subset)
        assert [Path(s.path).name for s in found.samples] == expected
    path = kinetics(tmp_path, "label,youtube_id,time_start,time_end,split\n" + rows["test"])
    with pytest.raises(ValueError, match="holds no train split, only test"):
        read_annotations(path, root=root, subset="train")
