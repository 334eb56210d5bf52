"""Files of flow that are damaged or half written, videos that are broken."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
import zipfile

import numpy as np
import pytest

from vidops.data import VideoError

from ._moving import damage

# Most tests ask for flow that is not there yet; one says that this warns.
pytestmark = pytest.mark.filterwarnings("ignore:.*lacks the flow of some videos")


@pytest.mark.parametrize("kind", ["truncated", "empty", "noise", "flipped bytes", "foreign"])
@pytest.mark.parametrize("by", ["add", "sample"])
def test_a_damaged_file_is_named_and_made_anew(store, video, kind, by):
    good = store.read(video, range(5))
    file = store.path(video)
    damage(file, kind)
    draws = []

    def choose(info):
        draws.append(1)
        return range(5)

    mend = {"add": lambda: store.add(video), "sample": lambda: store.sample(str(video), choose)}[by]
    with pytest.warns(UserWarning, match=rf"{file.name}: damaged.* the flow of .*a\.mkv is computed again"):
        mended = mend()
    if by == "add":
        assert mended
    else:
        assert np.array_equal(mended[0][..., :2], good)
        assert len(draws) == 1  # random numbers are not drawn twice
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(store.read(video, range(5)), good)
        assert not store.add(video)


def test_fields_of_another_size_are_damage(store, video):
    store.add(video)
    file = store.path(video)
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            if name == "000002.npy":
                archive.writestr(name, members["meta.npy"])
            else:
                archive.writestr(name, content)
    with pytest.warns(UserWarning, match="damaged, field 2 is uint8"):
        store.read(video, [2])


@pytest.mark.parametrize("content", [None, b"", b"no video"])
def test_a_broken_video_is_named_and_leaves_nothing(store, tmp_path, content):
    broken = tmp_path / "videos" / "broken.mp4"
    broken.parent.mkdir(exist_ok=True)
    if content is not None:
        broken.write_bytes(content)
    for call in (lambda: store.add(broken), lambda: store.read(broken, [0])):
        with pytest.raises(VideoError, match=r"broken\.mp4: "):
            call()
    assert [p.name for p in (tmp_path / "flow").rglob("*") if p.is_file()] == ["flow.json"]


WRITER = """
import sys
from vidops.data import flow_store
from vidops.data.flow_store import FlowStore
add, slow = flow_store._add, []
def hang(archive, name, array):
    add(archive, name, array)
    if name == "000002":
        print("writing", flush=True)
        __import__("time").sleep(60)
flow_store._add = hang
FlowStore(sys.argv[1], videos=sys.argv[2]).add(sys.argv[3])
"""


def test_a_killed_writer_leaves_no_flow_and_is_swept_up(store, video, tmp_path):
    arguments = [sys.executable, "-c", WRITER, str(store.root), str(store.videos), str(video)]
    writer = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert writer.stdout.readline() == "writing\n"
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    left = list(store.root.glob("*/.*.tmp"))
    assert len(left) == 1
    assert not store.path(video).exists()
    store.sweep()
    assert left[0].exists()  # too young: its writer may be alive
    os.utime(left[0], (time.time() - 7200,) * 2)
    store.sweep()
    assert not left[0].exists()
    assert store.add(video)
    assert store.read(video, range(5)).shape == (5, 24, 32, 2)
