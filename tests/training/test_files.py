"""Files that are whole or not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from vidops._files import replacing, write_text


def test_an_exception_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    target = tmp_path / "report.json"
    write_text(target, "old")

    def fail_halfway() -> None:
        with replacing(target) as temporary:
            temporary.write_text("ne")
            raise KeyError

    with pytest.raises(KeyError):
        fail_halfway()
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_the_name_appears_only_when_the_content_is_there(tmp_path: Path) -> None:
    target = tmp_path / "new" / "report.json"
    with replacing(target) as temporary:
        temporary.write_text("whole")
        assert temporary.parent == target.parent, "a rename across file systems is a copy"
        assert not target.exists()
    assert target.read_text() == "whole"


def test_two_writers_of_one_process_do_not_share_a_file(tmp_path: Path) -> None:
    target = tmp_path / "a.bin"
    with replacing(target) as first:
        first.write_bytes(b"first" * 100)
        with replacing(target) as second:
            second.write_bytes(b"second")
        assert target.read_bytes() == b"second"
    assert target.read_bytes() == b"first" * 100
    assert list(tmp_path.iterdir()) == [target]
