"""Videos in WebDataset's shards: the same frames, batches and errors as of files."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from vidops.cli import main
from vidops.data import (
    FlowSettings,
    FlowStore,
    Sample,
    UniformSampling,
    VideoDataset,
    VideoError,
    check_videos,
    make_shards,
    num_frames,
    read_annotations,
    read_frames,
)
from vidops.data import shards as shards_module
from vidops.data.formats import find_format
from vidops.data.transforms import Compose, Normalize, TrainCrops

from ._lists import class_videos, touch
from ._videos import write_video

KINDS = {
    "a.mp4": {"options": {"bf": "2"}},
    "a.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8"}},
    "a.mkv": {},
    "a.avi": {"codec": "mpeg4"},
    "a.ts": {"codec": "mpeg2video"},
}


def shard(path: Path, **files: bytes) -> Path:
    """Write a shard; ``__`` stands for a dot in a name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", KINDS)
def test_frames_are_those_of_the_file(tmp_path: Path, name: str) -> None:
    file = write_video(tmp_path / name, **KINDS[name])
    other = write_video(tmp_path / f"other{file.suffix}", frames=5, **KINDS[name])
    path = tmp_path / "shards" / "one.tar" / f"b{file.suffix}"
    shard(
        path.parent,
        **{f"a__{file.suffix[1:]}": other.read_bytes(), f"b__{file.suffix[1:]}": file.read_bytes()},
        b__cls=b"1",
    )
    assert num_frames(path) == num_frames(file) == 24
    np.testing.assert_array_equal(read_frames(path, range(24)), read_frames(file, range(24)))
    assert num_frames(path.with_name(f"a{file.suffix}")) == 5


@pytest.mark.parametrize("name", [name for name in KINDS if name != "a.ts"])  # which has no index to tell
def test_a_video_cut_short_in_a_shard_is_named(tmp_path: Path, name: str) -> None:
    """What stands behind it in the shard is not taken for its end."""
    file = write_video(tmp_path / name, **KINDS[name])
    data, suffix = file.read_bytes(), file.suffix[1:]
    cut = data[: len(data) * 2 // 3]
    shard(tmp_path / "one.tar", **{f"a__{suffix}": cut, f"b__{suffix}": data})
    path = tmp_path / "one.tar" / f"a.{suffix}"
    with pytest.raises(VideoError, match=f"^{path}: "):
        num_frames(path)
    (found,) = check_videos([Sample(str(path), 0), Sample(str(path.with_name(f"b.{suffix}")), 0)])
    assert found.path == str(path)


@pytest.mark.parametrize(
    "name", ["a,,:b.tar", "%03d.tar", "spa ce.tar", "Grün 視頻.tar", "x.tar.tar", "concat:a|b.tar"]
)
def test_names_are_only_names(
    tmp_path: Path, video_bytes: bytes, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    inside = name.removesuffix(".tar").replace(".", "") + ".mp4"
    shard(tmp_path / "s,end,0,,:" / name, **{inside.replace(".", "__"): video_bytes})
    monkeypatch.chdir(tmp_path / "s,end,0,,:")
    assert num_frames(f"{name}/{inside}") == 24
    assert list(shards_module.members(name)) == [inside]


def test_what_is_not_there(tmp_path: Path, video_bytes: bytes) -> None:
    path = shard(tmp_path / "one.tar", a__mp4=video_bytes, b__mp4=b"")
    for name, text in (
        ("c.mp4", "no such file"),
        ("a.mp4/x", "no such file"),
        ("b.mp4", "the file is empty"),
    ):
        with pytest.raises(VideoError, match=f"^{path / name}: {text}$"):
            num_frames(path / name)
    with pytest.raises(VideoError, match=r"a\.txt/a\.mp4: .*Not a directory"):
        num_frames(touch(tmp_path, "a.txt") / "a.txt" / "a.mp4")


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_shard_that_is_cut_short_is_named(tmp_path: Path, video_bytes: bytes, share: float) -> None:
    path = shard(tmp_path / "s" / "one.tar", a__mp4=video_bytes, a__cls=b"0", b__mp4=video_bytes, b__cls=b"1")
    data = path.read_bytes()
    used = sum(shards_module.members(path)["b.cls"])  # zeros follow
    for end in (int(used * share), int(used * share) // 512 * 512):
        path.write_bytes(data[:end])
        with pytest.raises(ValueError, match=rf"^{path}: is no whole tar file \("):
            read_annotations(path.parent)
        with pytest.raises(VideoError, match=rf"^{path}/a\.mp4: {path}: is no whole tar file \("):
            num_frames(path / "a.mp4")


def test_a_shard_cut_between_its_files_is_named(tmp_path: Path, video_bytes: bytes) -> None:
    path = shard(tmp_path / "one.tar", a__mp4=video_bytes, a__cls=b"0", b__mp4=video_bytes)
    start, _ = shards_module.members(path)["b.mp4"]
    path.write_bytes(path.read_bytes()[: start - 512])
    with pytest.raises(ValueError, match=r"\(cut short or damaged after 2 files\)"):
        shards_module.members(path)


def test_compressed_shards_are_refused(tmp_path: Path, video_bytes: bytes) -> None:
    import gzip

    path = shard(tmp_path / "one.tar", a__mp4=video_bytes)
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(ValueError, match=r"is no whole tar file .*; shards are not compressed"):
        read_annotations(tmp_path)


def test_a_changed_shard_is_read_anew(tmp_path: Path, video_bytes: bytes) -> None:
    path = shard(tmp_path / "one.tar", a__mp4=video_bytes)
    assert list(shards_module.members(path)) == ["a.mp4"]
    shard(path, b__mp4=video_bytes, c__mp4=video_bytes)
    assert list(shards_module.members(path)) == ["b.mp4", "c.mp4"]


def test_labels(tmp_path: Path) -> None:
    shard(tmp_path / "s" / "b.tar", z__mp4=b"", z__json=b'{"label": 1, "fps": 25}')
    shard(
        tmp_path / "s" / "a.tar",
        **{"x/1__WEBM": b"", "x/1__cls": b" 2\n", "x/2__left__avi": b"", "x/2__cls": b"0", "__DS_Store": b""},
    )
    found = read_annotations(tmp_path / "s")
    assert find_format(tmp_path / "s").name == "webdataset"
    names = [Path(s.path).relative_to(tmp_path / "s").as_posix() for s in found.samples]
    assert names == ["a.tar/x/1.WEBM", "a.tar/x/2.left.avi", "b.tar/z.mp4"]
    assert [s.label for s in found.samples] == [2, 0, 1]
    assert found.classes is None
    (tmp_path / "s" / "classes.txt").write_text("up\ndown\nleft\n")
    shard(tmp_path / "s" / "b.tar", z__mp4=b"", z__json=b'{"label": "down"}')
    found = read_annotations(tmp_path / "s")
    assert ([s.label for s in found.samples], found.classes) == ([2, 0, 1], ["up", "down", "left"])


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"a__cls": b"0"}, "sample a: has no video"),
        ({"a__mp4": b"", "a__avi": b"", "a__cls": b"0"}, "sample a: has 2 videos"),
        ({"a__mp4": b""}, "sample a: has no label, neither .cls nor .json"),
        ({"a__mp4": b"", "a__cls": b"-1"}, "sample a: label -1 is negative"),
        ({"a__mp4": b"", "a__cls": b""}, "sample a: its label is '', not"),
        ({"a__mp4": b"", "a__cls": b"\xff"}, "sample a: its label cannot be read"),
        ({"a__mp4": b"", "a__cls": b"up"}, "sample a: label 'up' is a name, but no classes.txt"),
        ({"a__mp4": b"", "a__json": b"{"}, "sample a: its label cannot be read"),
        ({"a__mp4": b"", "a__json": b"[0]"}, "sample a: its label is None, not"),
        ({"a__mp4": b"", "a__json": b'{"label": true}'}, "sample a: its label is True, not"),
        ({"README": b""}, "the list is empty"),
    ],
)
def test_wrong_samples(tmp_path: Path, files: dict[str, bytes], text: str) -> None:
    path = shard(tmp_path / "one.tar", **files)
    with pytest.raises(ValueError, match=text) as caught:
        read_annotations(tmp_path)
    assert str(caught.value).startswith(str(path if "sample" in text else tmp_path))


def test_a_tar_file_beside_class_folders_is_no_shard(tmp_path: Path, video_bytes: bytes) -> None:
    class_videos(tmp_path, video_bytes, a=1, b=1)
    shard(tmp_path / "everything.tar", a__mp4=video_bytes)
    assert find_format(tmp_path).name == "folder"
    assert len(read_annotations(tmp_path)) == 2


def test_other_lists_may_lead_into_shards(tmp_path: Path, video_bytes: bytes) -> None:
    shard(tmp_path / "one.tar", a__mp4=video_bytes)
    (tmp_path / "list.csv").write_text("one.tar/a.mp4,1\n")
    assert [s.label for s in read_annotations(tmp_path / "list.csv").samples] == [1]
    (tmp_path / "list.csv").write_text("one.tar/b.mp4,1\n")
    with pytest.raises(FileNotFoundError, match=r"line 1: no such file .*one\.tar/b\.mp4"):
        read_annotations(tmp_path / "list.csv")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of classes, and the shards of its videos."""
    root = tmp_path_factory.mktemp("packed")
    for name, first in (("a", 0), ("b.c", 4)):
        (root / "v" / name).mkdir(parents=True)
        for i in range(first, first + 4):
            clip = np.random.default_rng(i).integers(0, 256, (6 + i, 36, 48, 3), dtype=np.uint8)
            write_video(root / "v" / name / f"{i}.x.mkv", codec="ffv1", pix_fmt="bgr0", clip=clip)
    size = sum(path.stat().st_size for path in (root / "v").rglob("*.mkv"))
    written = make_shards(read_annotations(root / "v"), root / "s", megabytes=size / 3e6)
    assert [path.name for path in written] == ["000000.tar", "000001.tar", "000002.tar"]
    return root / "v", root / "s"


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_files(packed: tuple[Path, Path], workers: int) -> None:
    batches = []
    for folder in packed:
        annotations = read_annotations(folder)
        assert (annotations.classes, len(annotations)) == (["a", "b.c"], 8)
        dataset = VideoDataset(
            annotations,
            sampling=UniformSampling(4, training=True),
            transform=Compose([TrainCrops(24, flip=True), Normalize([0.5] * 3, [0.25] * 3)]),
            seed=3,
        )
        batches.append(list(DataLoader(dataset, batch_size=2, num_workers=workers)))
    for ours, theirs in zip(*batches, strict=True):
        assert torch.equal(ours["clip"], theirs["clip"])
        assert torch.equal(ours["label"], theirs["label"])


def test_shards_say_where_their_videos_come_from(packed: tuple[Path, Path]) -> None:
    videos, folder = packed
    annotations = read_annotations(videos)
    places = [(path, name) for path in sorted(folder.glob("*.tar")) for name in shards_module.members(path)]
    infos = []
    for path, name in places:
        if name.endswith(".json"):
            with tarfile.open(path) as tar:
                member = tar.extractfile(name)
                assert member is not None
                infos.append(json.load(member))
    assert infos == [
        {"label": s.label, "class": annotations.classes[s.label], "path": s.path}  # type: ignore[index]
        for s in annotations.samples
    ]
    again = folder.with_name("again")
    make_shards(read_annotations(folder), again)  # one large one, of what lies in several
    assert (again / "classes.txt").read_text() == "a\nb.c\n"
    (one,) = again.glob("*.tar")
    for old, new in zip(read_annotations(folder).samples, read_annotations(again).samples, strict=True):
        np.testing.assert_array_equal(read_frames(old.path, [0, 5]), read_frames(new.path, [0, 5]))
    before = one.read_bytes()
    with pytest.raises(ValueError, match=f"^{again}: holds shards already, such as 000000.tar"):
        make_shards(annotations, again)
    assert one.read_bytes() == before


def test_what_cannot_be_packed(tmp_path: Path, packed: tuple[Path, Path]) -> None:
    annotations = read_annotations(packed[0])
    with pytest.raises(ValueError, match=r"^megabytes must be above 0, got 0$"):
        make_shards(annotations, tmp_path / "s", megabytes=0)
    touch(tmp_path, "frames/v/00001.jpg")
    (tmp_path / "frames" / "list.csv").write_text("v,0\n")
    with pytest.raises(ValueError, match=r"/v: is a folder of frames; shards hold video files"):
        make_shards(read_annotations(tmp_path / "frames" / "list.csv"), tmp_path / "s")
    assert not (tmp_path / "s").exists()
    annotations.samples.append(Sample(str(tmp_path / "none.mp4"), 0))
    with pytest.raises(VideoError, match=r"none\.mp4: no such file"):
        make_shards(annotations, tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_flow_of_videos_in_shards(tmp_path: Path, packed: tuple[Path, Path]) -> None:
    pytest.importorskip("skimage", reason="flow needs scikit-image")
    settings = FlowSettings(short_side=24, num_warp=1, num_iter=1)
    fields = []
    for i, folder in enumerate(packed):
        store = FlowStore(tmp_path / str(i), videos=folder, settings=settings)
        video = read_annotations(folder).samples[0].path
        assert store.add(video)
        assert not store.add(video)
        fields.append(store.read(video, [0, 4]))
    np.testing.assert_array_equal(*fields)


def test_commands(tmp_path: Path, packed: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "shards"
    assert main(["dataset", "make-shards", str(packed[0]), "--out", str(out)]) == 0
    size = (out / "000000.tar").stat().st_size / 1e6
    assert capsys.readouterr().out == f"{out}: 8 videos of 2 classes in 1 shard, {size:.1f} MB\n"
    assert main(["dataset", "check", str(out), "--workers", "0"]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: 0 of 8 videos are broken (")
    assert main(["dataset", "make-shards", str(packed[0]), "--out", str(out)]) == 2
    assert "holds shards already" in capsys.readouterr().err
    pytest.importorskip("matplotlib", reason="pictures need matplotlib")
    video = f"{out}/000000.tar/000000000.mkv"
    assert main(["visualize", "frames", video, "--frames", "2", "-o", str(tmp_path / "a.png")]) == 0
