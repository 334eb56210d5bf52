"""Knobs, and the files of their measured values."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vidops.tuning import KNOBS, Knob, Tuning, choose, in_use, native, read_tuning, trial, write_tuning
from vidops.tuning.file import MACHINE
from vidops.tuning.knob import adopt


def tuning(gpu: str = "A GPU", capability: str = "9.0", date: str = "2026-01-02", **more: Any) -> Tuning:
    machine = dict.fromkeys(MACHINE) | {"gpu": gpu, "capability": capability}
    return replace(Tuning(date, machine, {}, {}), **more)


def test_a_knob_takes_its_candidates_and_nothing_else(knob: Knob[int]) -> None:
    assert (knob.value, KNOBS["temporal_shift/triton/spare"]) == (8, knob)
    knob.set(16)
    assert knob.value == 16
    for value in (5, "8", 8.0, True, None):
        with pytest.raises(ValueError, match=r"temporal_shift/triton/spare must be one of 4, 8, 16, got"):
            knob.set(value)  # type: ignore[arg-type]
    assert knob.value == 16


def test_a_knob_has_a_name_of_its_own_and_a_default_among_its_candidates(knob: Knob[int]) -> None:
    with pytest.raises(RuntimeError, match=r"spare is made twice"):
        Knob("temporal_shift", "triton", "spare", 8, (8,))
    with pytest.raises(ValueError, match=r"default 3 is none of the candidates"):
        Knob("temporal_shift", "triton", "other", 3, (4, 8))


def test_a_trial_ends_as_it_began(knob: Knob[int]) -> None:
    knob.set(4)
    with trial({knob.key: 16}):
        assert knob.value == 16
    assert knob.value == 4
    with pytest.raises(ZeroDivisionError), trial({knob.key: 16}):
        knob.value = 1 // 0
    assert knob.value == 4
    with pytest.raises(ValueError, match="must be one of"), trial({knob.key: 5}):
        pass
    with pytest.raises(KeyError), trial({"temporal_shift/triton/none": 5}):
        pass
    assert knob.value == 4


class Library:
    """A native library with one knob."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, int]] = []

    def knobs(self) -> list[native.NativeKnob]:
        return [native.NativeKnob("temporal_shift", "native_spare", 4, (2, 4))]

    def get(self, operator: str, name: str) -> int:
        return self.told[-1][2] if self.told else 4

    def set(self, operator: str, name: str, value: int) -> None:
        self.told.append((operator, name, value))


def test_a_native_library_is_told_of_its_values() -> None:
    library = Library()
    adopt(library)
    key = "temporal_shift/cuda/native_spare"
    with trial({key: 2}):
        assert (KNOBS[key].value, library.told) == (2, [("temporal_shift", "native_spare", 2)])
    assert library.told[-1] == ("temporal_shift", "native_spare", 4)
    KNOBS[key].set(4)
    with pytest.raises(ValueError, match=r"native_spare must be one of 2, 4, got 3"):
        KNOBS[key].set(3)
    assert len(library.told) == 2


def test_a_file_comes_back_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "gpu.json"
    written = tuning(
        values={"a/triton/b": 16, "a/cuda/c": "64x32"}, orders={"a": ("triton", "cuda")},
        measured=({"what": 1.5},), not_reached=("d",),
    )  # fmt: skip
    write_tuning(path, written)
    assert read_tuning(path) == written
    assert read_tuning(path).path == path


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"kind": "something"}, "holds no measured values"),
        ({"format": 99}, "has format 99, this vidops reads 1"),
        ({"machine": {"gpu": "X"}}, "machine has no capability"),
        ({"machine": {"gpu": 1}}, "machine is no table of texts"),
        ({"machine": []}, "machine is no table"),
        ({"values": {"a/triton/b": 1.5}}, "values is no table of whole numbers"),
        ({"values": {"a/triton/b": True}}, "values is no table of whole numbers"),
        ({"orders": {"a": "cuda"}}, "orders is no table"),
        ({"orders": {"a": []}}, "orders is no table"),
        ({"measured": 3}, "is no list"),
        ({"rehearsal": 1}, "of another type"),
        ({"rehearsal": True}, "is of a rehearsal, whose figures mean nothing"),
    ],
)
def test_a_damaged_or_foreign_file_is_one_clear_error(
    change: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "gpu.json"
    write_tuning(path, tuning())
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=rf"gpu\.json.*{reason}") as error:
        read_tuning(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"3", b"\xff\xfe", b'{"kind": "vidops tuning"}'])
def test_a_file_of_something_else_is_an_error(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"gpu\.json"):
        read_tuning(path)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    write_tuning(path, tuning())
    content = json.loads(path.read_text())
    del content["orders"]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"damaged: it has no orders"):
        read_tuning(path)


def test_the_gpu_by_name_comes_before_its_capability_and_the_latest_before_others() -> None:
    h100 = tuning("NVIDIA H100", date="2026-05-01")
    old, new = tuning("NVIDIA H200", date="2026-03-01"), tuning("NVIDIA H200", date="2026-04-01")
    a100 = tuning("NVIDIA A100", "8.0")
    found = [h100, old, new, a100]
    assert choose(found, "NVIDIA H200", "9.0") is new
    assert choose(found, "NVIDIA GH200", "9.0") is h100
    assert choose(found, "NVIDIA A100", "8.0") is a100
    assert choose(found, "NVIDIA L4", "8.9") is None
    assert choose([], "NVIDIA H200", "9.0") is None


def test_what_is_shipped_can_be_used() -> None:
    for shipped in in_use.shipped():
        assert in_use.apply(shipped).told == []
