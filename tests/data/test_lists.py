"""Lists for one's own videos."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidops.cli import main
from vidops.data import read_annotations
from vidops.data.lists import make_lists

from ._lists import class_videos, write_mp4


def read(root: Path, name: str) -> list[tuple[str, int]]:
    found = read_annotations(root / name)
    return [(str(Path(s.path).resolve()), s.label) for s in found.samples]


def test_lists_split_every_class(tmp_path, video_bytes):
    root = class_videos(tmp_path / "v", video_bytes, few=2, ten=10, some=7)
    (root / "ten" / "notes.txt").touch()
    lists = make_lists(root, share=0.3, seed=1, workers=2)
    assert (lists.folder, lists.classes) == (root, ["few", "some", "ten"])
    assert (lists.train, lists.val) == ([1, 5, 7], [1, 2, 3])
    train, val = read(root, "train.csv"), read(root, "val.csv")
    every = sorted((str(p), lists.classes.index(p.parent.name)) for p in root.resolve().rglob("*.mp4"))
    assert sorted(train + val) == every
    assert [sum(label == i for _, label in val) for i in range(3)] == [1, 2, 3]
    assert (root / "classes.txt").read_text() == "few\nsome\nten\n"
    assert read_annotations(root / "val.csv").classes == lists.classes


def test_the_split_is_a_function_of_seed_and_names(tmp_path, video_bytes):
    root = class_videos(tmp_path / "v", video_bytes, a=10, b=10)
    splits = []
    for seed, out in ((0, "x"), (0, "y"), (1, "z")):
        make_lists(root, seed=seed, out_dir=tmp_path / out)
        splits.append(read(tmp_path / out, "val.csv"))
    assert splits[0] == splits[1] != splits[2]
    names = [{Path(p).stem for p, label in splits[0] if label == i} for i in (0, 1)]
    assert names[0] != names[1]  # of equal file names, so that it is the class's name that tells them apart


@pytest.mark.parametrize(
    "name, match",
    [
        (" c/0.mp4", "outer blanks"),
        ("c /0.mp4", "outer blanks"),
        ("c\n/0.mp4", "line breaks"),
        ("c/\udcff.mp4", "not in UTF-8"),
        ("c/x\ny.mp4", "line breaks"),
    ],
)
def test_names_that_no_list_can_hold_are_refused(tmp_path, video_bytes, name, match):
    root = class_videos(tmp_path / "v", video_bytes, a=2)
    (root / name).parent.mkdir()
    (root / name).write_bytes(video_bytes)
    with pytest.raises(ValueError, match=match):
        make_lists(root)
    assert not list(root.glob("*.*"))


def test_a_class_holds_what_lies_in_folders_below_it(tmp_path, video_bytes):
    root = class_videos(tmp_path / "v", video_bytes, a=3, b=2)
    class_videos(root / "a", video_bytes, monday=2, tuesday=2)
    class_videos(root / "a" / "monday", video_bytes, early=1)
    class_videos(root / "a", video_bytes, **{".hidden": 2})
    (root / "b" / "to_a").symlink_to(root / "a", target_is_directory=True)
    (root / "b" / "up").symlink_to(root, target_is_directory=True)
    class_videos(tmp_path / "elsewhere", video_bytes, more=2)
    (root / "b" / "more").symlink_to(tmp_path / "elsewhere" / "more", target_is_directory=True)
    lists = make_lists(root, share=0.5)
    assert (lists.train, lists.val) == ([4, 2], [4, 2])
    rows = [row for name in ("train.csv", "val.csv") for row in (root / name).read_text().splitlines()[1:]]
    a = ["0", "1", "2", "monday/0", "monday/1", "monday/early/0", "tuesday/0", "tuesday/1"]
    b = ["0", "1", "more/0", "more/1"]
    assert sorted(rows) == [f"a/{n}.mp4,0" for n in a] + [f"b/{n}.mp4,1" for n in b]
    assert {s.path for s in read_annotations(root).samples} == {f"{root}/{row[:-2]}" for row in rows}


def test_equal_names_in_folders_below_are_told_apart(tmp_path, video_bytes):
    root = class_videos(tmp_path / "v", video_bytes, a=0)
    for i in range(20):
        class_videos(root / "a", video_bytes, **{f"take{i:02d}": 1})
    make_lists(root, share=0.5)
    folders = sorted(Path(p).parent.name for p, _ in read(root, "val.csv"))
    assert folders not in ([f"take{i:02d}" for i in range(10)], [f"take{i:02d}" for i in range(10, 20)])


def test_the_parts_of_a_split_are_no_classes(tmp_path, video_bytes):
    for part in ("train", "Val"):
        class_videos(tmp_path / "v" / part, video_bytes, a=2, b=2)
    for read_folder in (make_lists, read_annotations):
        with pytest.raises(
            ValueError, match="its folders are Val, train, the parts of a split; expected one"
        ):
            read_folder(tmp_path / "v")
    assert len(read_annotations(tmp_path / "v" / "train")) == 4


@pytest.mark.parametrize("name", [" v", "v\n", "\udcff"])
def test_a_path_to_the_videos_that_no_list_can_hold_is_refused(tmp_path, video_bytes, name):
    (tmp_path / "lists").mkdir()
    root = class_videos(tmp_path / "lists" / name, video_bytes, a=2)
    with pytest.raises(ValueError, match="rename it"):
        make_lists(root, out_dir=tmp_path / "lists")
    assert [p.name for p in (tmp_path / "lists").iterdir()] == [name]
    assert make_lists(root).train == [1]  # beside them the lists do not say that name


def test_lists_that_cannot_be_written_leave_nothing(tmp_path, video_bytes, monkeypatch):
    root = class_videos(tmp_path / "v", video_bytes, a=2, b=2)
    write = Path.write_text

    def full(self: Path, *args, **kwargs) -> int:
        if "val.csv" in self.name:
            raise OSError(28, "No space left on device")
        return write(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        with pytest.raises(OSError, match="No space left"):
            make_lists(root)
    assert sorted(p.name for p in root.iterdir()) == ["a", "b"]
    assert make_lists(root).val == [1, 1]


def test_other_classes_and_files_leave_the_split_as_it_was(tmp_path, video_bytes):
    root = class_videos(tmp_path / "v", video_bytes, b=10)
    (root / "c").mkdir()
    for name in ("x", "y"):
        write_mp4(root / "c" / f"{name}.mp4", video_bytes)
    make_lists(root, out_dir=tmp_path / "one")
    class_videos(root, video_bytes, a=10)
    for i in range(10, 12):  # 0.2 of 12 is 2 as well
        write_mp4(root / "b" / f"{i}.mp4", video_bytes)
    make_lists(root, out_dir=tmp_path / "two")
    first, second = (
        {
            name: {Path(p).name for p, _ in read(tmp_path / out, "val.csv") if Path(p).parent.name == name}
            for name in "bc"
        }
        for out in ("one", "two")
    )
    assert second["c"] == first["c"]
    assert len(first["b"]) == len(second["b"]) == 2
    assert first["b"] - second["b"] == set() or second["b"] & {"10.mp4", "11.mp4"}
    assert not (second["b"] - first["b"]) - {"10.mp4", "11.mp4"}


def test_classes_that_are_numbers(tmp_path, video_bytes):
    root = class_videos(tmp_path / "v", video_bytes, **{"1": 2, "2": 2, "3": 2})
    make_lists(root)
    for name in ("train.csv", "val.csv"):
        assert [(Path(path).parent.name, label) for path, label in read(root, name)] == [
            ("1", 0),
            ("2", 1),
            ("3", 2),
        ]


def test_of_files_with_the_same_bytes_one_is_listed(tmp_path, video_bytes, capsys):
    root = class_videos(tmp_path / "v", video_bytes, a=5, b=5)
    make_lists(root, share=0.5, out_dir=tmp_path / "before")
    for name in "ab":
        for i in range(5):
            (root / name / f"{i} (1).mp4").write_bytes((root / name / f"{i}.mp4").read_bytes())
    (root / "a" / "Link to 0.mp4").symlink_to(root / "a" / "0.mp4")
    lists = make_lists(root, share=0.5)
    assert (lists.train, lists.val) == ([3, 3], [2, 2])
    for name in ("train.csv", "val.csv"):
        assert read(root, name) == read(tmp_path / "before", name)
    originals = {copy.name: same.name for copy, same in lists.copies if same.parent == root / "a"}
    assert originals == {"Link to 0.mp4": "0.mp4", **{f"{i} (1).mp4": f"{i}.mp4" for i in range(5)}}
    command = ["dataset", "make-list", str(root), "--out", str(tmp_path / "c"), "--workers", "0"]
    assert main(command) == 0
    assert f"left out: {root}/a/0 (1).mp4: has the bytes of {root}/a/0.mp4\n" in capsys.readouterr().err


def test_copies_that_leave_no_split_are_refused(tmp_path, video_bytes):
    root = class_videos(tmp_path / "v", video_bytes, a=1, b=2)
    (root / "a" / "copy.mp4").write_bytes((root / "a" / "0.mp4").read_bytes())
    with pytest.raises(ValueError, match=r"read of a \(1\); 1 are copies, first .*copy\.mp4 of .*0\.mp4"):
        make_lists(root)
    write_mp4(root / "a" / "1.mp4", video_bytes)
    (root / "b" / "of_a.mp4").write_bytes((root / "a" / "1.mp4").read_bytes())
    with pytest.raises(ValueError, match=r"b/of_a\.mp4: has the bytes of .*/a/1\.mp4, which is of another"):
        make_lists(root)
    assert sorted(p.name for p in root.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("share, val", [(0.01, 1), (0.99, 4), (0.5, 2)])
def test_neither_list_lacks_a_class(tmp_path, video_bytes, share, val):
    lists = make_lists(class_videos(tmp_path / "v", video_bytes, a=5, b=5), share=share)
    assert lists.val == [val, val]


def test_lists_elsewhere_and_in_the_order_of_classes_txt(tmp_path, video_bytes):
    root = class_videos(tmp_path / "my videos, 1", video_bytes, a=2, b=2)
    (root / "classes.txt").write_text("b\na\n")
    lists = make_lists(root, out_dir=tmp_path / "new" / "lists")
    assert lists.classes == ["b", "a"]
    train = read(tmp_path / "new" / "lists", "train.csv")
    assert [(Path(p).parent.name, label) for p, label in train] == [("b", 0), ("a", 1)]
    assert not (root / "train.csv").exists()
    (root / "classes.txt").write_text("b\nc\n")
    with pytest.raises(ValueError, match=r"classes\.txt: does not name the class folders beside it: a, c"):
        make_lists(root)


@pytest.mark.parametrize("name", ["train.csv", "val.csv"])
def test_nothing_is_replaced(tmp_path, video_bytes, name):
    root = class_videos(tmp_path / "v", video_bytes, a=2)
    (root / name).write_text("mine")
    with pytest.raises(ValueError, match=rf"{name}: exists; move it away"):
        make_lists(root)
    assert sorted(p.name for p in root.iterdir()) == ["a", name]
    assert (root / name).read_text() == "mine"


def test_broken_and_empty_classes_are_named_and_nothing_written(tmp_path, video_bytes):
    root = class_videos(tmp_path / "v", video_bytes, a=3, b=2, empty=0, none=0)
    with pytest.raises(ValueError, match=r"no videos in the class folders empty, none$"):
        make_lists(root)
    (root / "empty").rmdir()
    (root / "none").rmdir()
    (root / "b" / "1.mp4").write_bytes(b"no video")
    with pytest.raises(ValueError, match=r"1 of 5 videos are broken: .*/b/1\.mp4: "):
        make_lists(root)
    with pytest.raises(
        ValueError, match=r"a split needs two videos a class; fewer can be read of b \(1\); brok"
    ):
        make_lists(root, skip_broken=True)
    assert sorted(p.name for p in root.iterdir()) == ["a", "b"]
    (root / "b" / "2.mp4").write_bytes(video_bytes)
    lists = make_lists(root, skip_broken=True)
    assert [Path(b.path).name for b in lists.broken] == ["1.mp4"]
    assert (sum(lists.train), sum(lists.val)) == (3, 2)


def test_videos_that_are_damaged_further_in_are_left_out(tmp_path, video_bytes, capsys):
    root = class_videos(tmp_path / "v", video_bytes, a=3, b=3)
    (root / "a" / "1.mp4").write_bytes(video_bytes[: len(video_bytes) * 4 // 5])
    assert make_lists(root, out_dir=tmp_path / "quick").broken == []  # its first frame is whole
    command = ["dataset", "make-list", str(root), "--out", str(tmp_path / "full"), "--workers", "0"]
    assert main([*command, "--full"]) == 2
    assert "1 of 6 videos are broken" in capsys.readouterr().err
    assert main([*command, "--full", "--skip-broken"]) == 0
    assert capsys.readouterr().out.splitlines()[0].split() == ["a", "1", "training", "1", "validation"]


@pytest.mark.parametrize(
    "key, value", [("share", 0.0), ("share", 1.0), ("seed", -1), ("seed", 1.5), ("workers", -1)]
)
def test_wrong_arguments(tmp_path, video_bytes, key, value):
    root = class_videos(tmp_path / "v", video_bytes, a=2)
    with pytest.raises(ValueError, match=f"{key} must be"):
        make_lists(root, **{key: value})
    assert [p.name for p in root.iterdir()] == ["a"]


def test_folders_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="none: no such folder"):
        make_lists(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match="file: is not a folder"):
        make_lists(tmp_path / "file")
    with pytest.raises(ValueError, match="holds no class folders"):
        make_lists(tmp_path)


def test_make_list_command(tmp_path, video_bytes, capsys):
    root = class_videos(tmp_path / "v", video_bytes, jump=5, run=5)
    assert main(["dataset", "make-list", str(root), "--workers", "0"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split() == ["jump", "4", "training", "1", "validation"]
    assert out[2] == f"{root}/train.csv: 8 videos, {root}/val.csv: 2 videos, 2 classes"
    assert main(["dataset", "make-list", str(root)]) == 2
    assert "train.csv: exists" in capsys.readouterr().err
