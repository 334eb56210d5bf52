"""Videos found in folders, patterns and lists."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("lightning", reason="training needs lightning")
pytest.importorskip("skimage", reason="the motion dataset needs scikit-image")
pytest.importorskip("av", reason="video files need av")
pytest.importorskip("PIL", reason="frame folders need Pillow")


from vidops.data import FrameFolder
from vidops.evaluation import find_videos


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (
        "b.mp4", "a.WEBM", "notes.txt", ".hidden.mp4", "sub/deep/c.avi", "sub/d.mkv", "sub/poster.jpg",
        "frames/x/00001.jpg", "frames/x/00002.jpg", "frames/y/00001.jpg", ".git/e.mp4", "empty/readme.md",
        "odd [1].mp4", "thumbs/f.mp4", "thumbs/f.jpg",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


ALL = [
    "a.WEBM",
    "b.mp4",
    "odd [1].mp4",
    "frames/x",
    "frames/y",
    "sub/d.mkv",
    "sub/deep/c.avi",
    "thumbs/f.mp4",
]


def test_a_folder_holds_its_videos_and_frame_folders(tree: Path) -> None:
    assert find_videos(["."]) == ALL
    assert find_videos([tree]) == [str(tree / name) for name in ALL]
    assert find_videos(["sub"]) == ["sub/d.mkv", "sub/deep/c.avi"]
    assert find_videos(["frames/x"]) == ["frames/x"]


def test_patterns(tree: Path) -> None:
    assert find_videos(["**/*.avi"]) == ["sub/deep/c.avi"]
    assert find_videos(["*"]) == sorted(ALL, key=lambda p: p.split("/")[0])
    assert find_videos(["frames/*"]) == ["frames/x", "frames/y"]
    assert find_videos(["odd [1].mp4"]) == ["odd [1].mp4"]  # a file, though it looks like a pattern
    for pattern in ("*.mov", "nowhere/*", "empty/*"):
        with pytest.raises(ValueError, match="matches no video"):
            find_videos([pattern])


def test_each_video_once_in_the_order_given(tree: Path) -> None:
    assert find_videos(["sub/d.mkv", "./b.mp4", "sub", "b.mp4", "missing.mp4"]) == [
        "sub/d.mkv", "b.mp4", "sub/deep/c.avi", "missing.mp4",
    ]  # fmt: skip


def test_lists(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("list.txt").write_bytes("\ufeffb.mp4\r\n\r\n  frames \r\nü b.mp4".encode())
    assert find_videos(["a.WEBM"], lists=["list.txt"]) == [
        "a.WEBM",
        "b.mp4",
        "frames/x",
        "frames/y",
        "ü b.mp4",
    ]
    monkeypatch.setattr(sys, "stdin", io.StringIO("b.mp4\nsub\n"))
    assert find_videos([], lists=["-"]) == ["b.mp4", "sub/d.mkv", "sub/deep/c.avi"]
    Path("none.txt").write_text("\n\n")
    Path("bytes.txt").write_bytes(b"a\xff\xfe")
    for name, message in (("none.txt", "names no video"), ("bytes.txt", "not a text file")):
        with pytest.raises(ValueError, match=message):
            find_videos([], lists=[name])
    with pytest.raises(FileNotFoundError, match=r"list gone.txt: no such file"):
        find_videos([], lists=["gone.txt"])
    with pytest.raises(ValueError, match="empty: the folder holds no video"):
        find_videos(["empty"])


def test_pictures_beside_folders_hide_no_video(tree: Path) -> None:
    for name in ("poster.jpg", "00001.jpg"):
        for folder in ("frames", "sub/deep", "outer/inner"):
            (tree / folder).mkdir(parents=True, exist_ok=True)
            (tree / folder / name).touch()
    (tree / "b.mp4").rename(tree / "outer" / "inner" / "more.mp4")
    (tree / "outer" / "00001.jpg").touch()
    assert find_videos(["frames", "outer", "sub/deep"]) == [
        "frames/x", "frames/y", "outer/inner/more.mp4", "sub/deep/c.avi",
    ]  # fmt: skip


def test_frames_are_named_as_asked(tree: Path) -> None:
    (tree / "stills" / "a").mkdir(parents=True)
    for i in (0, 1):
        (tree / "stills" / "a" / f"img_{i:03d}.png").touch()
    (tree / "stills" / "poster.jpg").touch()
    assert find_videos(["stills"], frames=FrameFolder("img_{:03d}.png", 0)) == ["stills/a"]
    assert find_videos(["*"], frames=FrameFolder("img_{:03d}.png", 0))[-3:] == [
        "sub/d.mkv", "sub/deep/c.avi", "thumbs/f.mp4",
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"^stills: the folder holds no video, nor frames named {:05d}.jpg$"):
        find_videos(["stills"])


def test_linked_folders_are_entered_once(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("disk")
    (elsewhere / "far.mp4").touch()
    (elsewhere / "back").symlink_to(tree / "sub")
    (tree / "sub" / "a_link").symlink_to(elsewhere)
    (tree / "sub" / "again").symlink_to(tree / "sub" / "deep")
    (tree / "sub" / "loop").symlink_to(tree / "sub")
    (tree / "sub" / "broken").symlink_to(tree / "nowhere")
    (tree / "sub" / "broken.mp4").symlink_to(tree / "nowhere.mp4")
    assert find_videos(["sub"]) == ["sub/d.mkv", "sub/deep/c.avi", "sub/a_link/far.mp4"]
    (tree / "frames" / "x" / "loop").symlink_to(tree / "frames" / "x")
    assert find_videos(["frames"]) == ["frames/x", "frames/y"]


def test_a_tar_file_is_its_videos(tree: Path) -> None:
    (tree / "s").mkdir()
    for shard, names in (("s/0.tar", ("k/1.mp4", "1.cls", "2.avi")), ("s/1.tar", ("3.mp4",))):
        with tarfile.open(shard, "w") as tar:
            for name in names:
                tar.addfile(tarfile.TarInfo(name))
    shown = ["s/0.tar/k/1.mp4", "s/0.tar/2.avi", "s/1.tar/3.mp4"]
    assert find_videos(["s/0.tar", "s/1.tar"]) == find_videos(["s/*.tar"]) == shown
    assert find_videos(["s/0.tar/2.avi", "b.mp4"]) == ["s/0.tar/2.avi", "b.mp4"]
    with tarfile.open("none.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("1.cls"))
    with pytest.raises(ValueError, match=r"^none\.tar: the shard holds no video$"):
        find_videos(["none.tar"])
    Path("bad.tar").write_bytes(b"no tar file" * 100)
    with pytest.raises(ValueError, match=r"^bad\.tar: is no whole tar file"):
        find_videos(["bad.tar"])
