from __future__ import annotations

import re
from pathlib import Path

import pytest

from vidops.data import AnnotationList, Sample, read_annotations


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a/1.mp4", "a/2.avi", "b/1.webm", "b, c.mp4"):
        (tmp_path / "clips" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "clips" / name).touch()
    return tmp_path / "clips"


def write(root: Path, text: str | bytes, name: str = "list.csv") -> Path:
    path = root / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def pairs(found: AnnotationList, root: Path) -> list[tuple[str, int]]:
    return [(str(Path(s.path).relative_to(root)), s.label) for s in found.samples]


@pytest.mark.parametrize(
    "text",
    [
        "a/1.mp4,0\nb/1.webm,2\n",
        "path,label\na/1.mp4,0\nb/1.webm,2",
        "\n\nPath , Label\n\na/1.mp4, 0\n  \n,\nb/1.webm ,2\n\n",
        "\ufeffpath,label\r\na/1.mp4,0\r\nb/1.webm,+2\r\n",
        '"a/1.mp4","0"\n"b/1.webm",2\n',
    ],
    ids=["plain", "header", "blank lines", "BOM and CRLF", "quotes"],
)
def test_csv_with_indices(root, text):
    found = read_annotations(write(root, text))
    assert pairs(found, root) == [("a/1.mp4", 0), ("b/1.webm", 2)]
    assert found.classes is None
    assert found.num_classes == 3
    assert len(found) == 2


def test_csv_paths_from_root_absolute_and_with_commas(root, tmp_path):
    text = f'a/1.mp4,1\n{root}/b/1.webm,0\n"b, c.mp4",0\n'
    found = read_annotations(write(tmp_path, text), root=root)
    assert pairs(found, root) == [("a/1.mp4", 1), ("b/1.webm", 0), ("b, c.mp4", 0)]


def test_csv_with_names_from_classes_txt(root):
    write(root, "zebra\napple\n\n", "classes.txt")
    found = read_annotations(write(root, "a/1.mp4,apple\na/2.avi,zebra\nb/1.webm,1\n"))
    assert [s.label for s in found.samples] == [1, 0, 1]
    assert found.classes == ["zebra", "apple"]


@pytest.mark.parametrize(
    "classes, label, named", [("1\n0\n", "1", "'0'"), ("1\n2\n3\n", "2", "'3'"), ("01\n02\n", "1", "'02'")]
)
@pytest.mark.parametrize("name", ["list.csv", "list.txt"])
def test_digits_that_are_an_index_and_another_class_are_refused(root, classes, label, named, name):
    write(root, classes, "classes.txt")
    path = write(root, f"a/1.mp4{',' if name.endswith('csv') else ' '}{label}\n", name)
    with pytest.raises(
        ValueError, match=rf"line 1: the label {label} may be {named}, the class of index {label}, or"
    ):
        read_annotations(path)


@pytest.mark.parametrize("heading, labels", [("class_index", [1, 2]), ("class_name", [0, 1])])
def test_a_heading_says_what_digits_are(root, heading, labels):
    write(root, "1\n2\n3\n", "classes.txt")
    found = read_annotations(write(root, f"path,{heading}\na/1.mp4,1\na/2.avi,2\n"))
    assert [s.label for s in found.samples] == labels


def test_a_heading_that_its_labels_belie(root):
    write(root, "up\ndown\n", "classes.txt")
    with pytest.raises(ValueError, match="line 2: the class index 'up' is not a whole number"):
        read_annotations(write(root, "path,class_index\na/1.mp4,up\n"))
    with pytest.raises(ValueError, match="line 2: '1' is not one of the 2 classes"):
        read_annotations(write(root, "path,class_name\na/1.mp4,1\n"))


def test_digits_as_names_that_are_their_own_index(root):
    write(root, "0\n1\n", "classes.txt")
    assert [s.label for s in read_annotations(write(root, "a/1.mp4,1\n")).samples] == [1]


def test_a_video_listed_twice_is_logged(root, caplog):
    path = write(root, "a/1.mp4,0\nb/1.webm,1\na/./1.mp4,0\na/1.mp4,0\n")
    assert len(read_annotations(path)) == 4
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: 2 of 4 lines name a video once more, which then counts twice: {path}, line 3: {root}/a/1.mp4, as in"
        f" {path}, line 1; {path}, line 4: {root}/a/1.mp4, as in {path}, line 1"
    ]


def test_classes_txt_of_root_and_argument(root, tmp_path):
    write(root, "x\ny\n", "classes.txt")
    file = write(tmp_path, "a/1.mp4,y\n")
    assert read_annotations(file, root=root).samples[0].label == 1
    assert read_annotations(file, root=root, classes=["x", "y"]).samples[0].label == 1


def test_a_file_called_path_is_not_a_header(root):
    (root / "path").touch()
    assert pairs(read_annotations(write(root, "path,1\n")), root) == [("path", 1)]


def test_folder(root):
    (root / "a" / "notes.txt").touch()
    (root / "a" / ".hidden.mp4").touch()
    (root / ".git").mkdir()
    (root / "a" / "UPPER.MP4").touch()
    found = read_annotations(root)
    assert pairs(found, root) == [("a/1.mp4", 0), ("a/2.avi", 0), ("a/UPPER.MP4", 0), ("b/1.webm", 1)]
    assert found.classes == ["a", "b"]


def test_folder_keeps_the_given_order_and_missing_classes(root):
    found = read_annotations(root, classes=["b", "none", "a"])
    assert pairs(found, root) == [("b/1.webm", 0), ("a/1.mp4", 2), ("a/2.avi", 2)]
    assert found.num_classes == 3


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "the list is empty"),
        ("\n\n,\n", "the list is empty"),
        ("path,label\n", "the list is empty"),
        ("a/1.mp4,0\n\na/2.avi,4\n", "line 3: label 4 is past the last of 4 classes (0 to 3)"),
        ("a/1.mp4,-1\n", "line 1: label -1 is negative"),
        ("a/1.mp4,0\na/1.mp4 0\n", "line 2: expected 2 columns (path,label), found 1"),
        ("a/1.mp4,0,1\n", "line 1: expected 2 columns (path,label), found 3"),
        ("a/1.mp4,\n", "line 1: the label is empty"),
        (",3\n", "line 1: the path is empty"),
        (
            "a/1.mp4,apple\n",
            "line 1: label 'apple' is a name, but no classes.txt beside the list (nor classes=) numbers the names",
        ),
        ("a/1.mp4,1.5\n", "line 1: label '1.5' is a name"),
        ("a/1.mp4,0\npath,label\n", "line 2: label 'label' is a name"),
        ('a/1.mp4,0\n"a/2.avi,0\n', "line 2: unexpected end of data"),
        (b"a/1.mp4,0\n\xff\xfe,1\n", "not a text file in UTF-8"),
        (b"\x00\x01\x02", "line"),
    ],
)
def test_wrong_lists_are_named_with_file_and_line(root, text, message):
    path = write(root, text)
    with pytest.raises(ValueError, match=re.escape(message)) as info:
        read_annotations(path, num_classes=4)
    assert str(info.value).startswith(str(path))
    assert "\n" not in str(info.value)


def test_missing_video_is_named_with_file_and_line(root):
    path = write(root, "path,label\na/1.mp4,0\nnone.mp4,0\n")
    with pytest.raises(FileNotFoundError, match=re.escape(f"{path}, line 3: no such file {root}/none.mp4")):
        read_annotations(path)


def test_missing_sources(root):
    with pytest.raises(FileNotFoundError, match=r"none\.csv: no such annotation file or folder"):
        read_annotations(root / "none.csv")
    with pytest.raises(FileNotFoundError, match=r"root: .* is not a folder"):
        read_annotations(write(root, "a/1.mp4,0\n"), root=root / "nowhere")


def test_labels_beyond_the_names(root):
    path = write(root, "a/1.mp4,2\n")
    with pytest.raises(ValueError, match="line 1: label 2 is past the last of 2 classes"):
        read_annotations(path, classes=["x", "y"])
    with pytest.raises(ValueError, match="line 1: 'z' is not one of the 2 classes"):
        read_annotations(write(root, "a/1.mp4,z\n"), classes=["x", "y"])


def test_numbers_of_classes_must_agree(root):
    path = write(root, "a/1.mp4,0\n")
    with pytest.raises(ValueError, match="num_classes is 5 but 2 classes are named"):
        read_annotations(path, num_classes=5, classes=["x", "y"])
    with pytest.raises(ValueError, match="holds 2 class folders, num_classes is 3"):
        read_annotations(root, num_classes=3)
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        read_annotations(path, num_classes=0)


@pytest.mark.parametrize("text, message", [("x\nx\n", "class 'x' is named twice"), ("\n", "no class names")])
def test_wrong_classes_txt(root, text, message):
    write(root, text, "classes.txt")
    with pytest.raises(ValueError, match=rf"classes\.txt: {message}"):
        read_annotations(write(root, "a/1.mp4,0\n"))


def test_wrong_folders(root, tmp_path):
    with pytest.raises(ValueError, match="'b' is not one of the 1 classes"):
        read_annotations(root, classes=["a"])
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ValueError, match="holds no class folders"):
        read_annotations(empty)
    (empty / "a").mkdir()
    with pytest.raises(ValueError, match="hold no video files"):
        read_annotations(empty)
    with pytest.raises(ValueError, match="root is for lists"):
        read_annotations(root, root=root)
    with pytest.raises(TypeError, match="classes must be a list of names"):
        read_annotations(root, classes="ab")


def test_num_classes_without_names():
    assert AnnotationList([Sample("a", 0), Sample("b", 6)], None).num_classes == 7


def test_other_class_names_than_the_lists_own_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    (tmp_path / "val.csv").write_text("a.mp4,0\n")
    (tmp_path / "classes.txt").write_text("up\ndown\n")
    assert read_annotations(tmp_path / "val.csv", classes=["up", "down"]).classes == ["up", "down"]
    with pytest.raises(ValueError, match=r"classes\.txt: names up, down; expected right, up, in this order"):
        read_annotations(tmp_path / "val.csv", classes=["right", "up"])
