"""How far long work has come: on a terminal, in a log."""

from __future__ import annotations

import io
import sys

import pytest

from vidops.cli import main
from vidops.data import Sample, _progress, check_videos
from vidops.data._progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    """A clock that the test moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_a_bar_on_a_terminal_and_nowhere_else():
    missing = [Sample(f"no/such/{i}.mp4", 0) for i in range(6)]
    terminal, file = Terminal(), io.StringIO()
    assert check_videos(missing, 0, out=terminal) == check_videos(missing, 0, out=file)
    assert "check:   0%|" in terminal.getvalue()
    assert "0/6 [" in terminal.getvalue()
    assert terminal.getvalue().endswith("\r")  # taken away at the end
    assert file.getvalue() == ""


def test_a_line_a_minute_in_a_log(monkeypatch, capsys):
    clock, log = Clock(), io.StringIO()
    monkeypatch.setattr(_progress, "time", clock)
    with Progress(3000, "flow", "video", log) as progress:
        for i in range(1, 301):
            clock.now += 1
            progress.update(10, note=f"{i // 70} broken" if i >= 70 else "")
        progress.write("a.mp4: damaged")
    assert log.getvalue().splitlines() == [
        "flow: 600 of 3,000 videos",
        "flow: 1,200 of 3,000 videos, 1 broken",
        "flow: 1,800 of 3,000 videos, 2 broken",
        "flow: 2,400 of 3,000 videos, 3 broken",
        "flow: 3,000 of 3,000 videos, 4 broken",
    ]
    assert capsys.readouterr().err == "a.mp4: damaged\n"


def test_nothing_is_shown_to_nobody(capsys):
    with Progress(2, "check", "video") as progress:
        progress.update(2)
    assert progress.done == 2
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("terminal", [False, True])
def test_make_motion_shows_a_bar_on_a_terminal_alone(tmp_path, monkeypatch, capsys, terminal):
    pytest.importorskip("skimage", reason="scikit-image is not installed")
    err = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", err)
    size = ["--pairs", "1", "--train", "4", "--val", "2", "--frames", "2", "--size", "16"]
    assert main(["dataset", "make-motion", str(tmp_path / "a"), *size]) == 0
    assert ("0/6 [" in err.getvalue()) == terminal
    assert terminal or err.getvalue() == ""
    err.truncate(0)
    assert main(["dataset", "make-motion", str(tmp_path / "b"), *size, "--quiet"]) == 0
    assert err.getvalue() == ""
