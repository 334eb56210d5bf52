"""A pytest plugin of `gpu_check.sh`: a session ends in time, says what is left, and outlives a broken GPU context.

VIDOPS_GPU_CHECK_END is the time, in seconds since 1970, after which no test is started; into the folder of
VIDOPS_GPU_CHECK_NOTES go `left`, the test functions that have not run in full, and `broken`, errors after which the
GPU ran nothing more.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    end = float(os.environ["VIDOPS_GPU_CHECK_END"])
    notes = Path(os.environ["VIDOPS_GPU_CHECK_NOTES"])
    worker = hasattr(config, "workerinput")
    config.pluginmanager.register(_Deadline(end))
    config.pluginmanager.register(_Context(notes, worker))
    if not worker:
        config.pluginmanager.register(_Left(notes))


class _Deadline:
    """Starts no test after the end; under pytest-xdist in each worker."""

    def __init__(self, end: float) -> None:
        self.end = end

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, None, None]:
        yield
        if time.time() > self.end:
            item.session.shouldstop = "the time is over"


class _Context:
    """Gives up a process in which CUDA has failed: after an illegal access it fails every later test too."""

    def __init__(self, notes: Path, worker: bool) -> None:
        self.notes = notes
        self.worker = worker

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, None, None]:
        yield
        if call.excinfo is None or not torch.cuda.is_initialized():
            return
        try:
            torch.cuda.synchronize()
        except RuntimeError as error:
            text = f"{item.nodeid}: {str(error).strip()}\n{call.excinfo.getrepr(style='short')}\n\n"
            with open(self.notes / "broken", "a", encoding="utf-8") as file:
                file.write(text)
            if self.worker:  # pytest-xdist reports the test as one that crashed, and starts another worker
                sys.stderr.write(text)
                sys.stderr.flush()
                os._exit(70)
            pytest.exit(f"the GPU's context is broken after {item.nodeid}", returncode=70)


class _Left:
    """Writes down which of the chosen tests have not run."""

    def __init__(self, notes: Path) -> None:
        self.notes = notes
        self.chosen: dict[str, None] = {}
        self.done: set[str] = set()

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.chosen |= dict.fromkeys(item.nodeid for item in session.items)

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: object, ids: Sequence[str]) -> None:
        self.chosen |= dict.fromkeys(ids)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when not in ("setup", "call"):  # also what stands for a test whose worker was lost
            self.done.add(report.nodeid)

    def pytest_unconfigure(self) -> None:
        functions: dict[str, dict[str, bool]] = {}
        for name in self.chosen:
            file, _, rest = name.partition("::")
            function = functions.setdefault(file, {})
            key = rest.split("[")[0]
            function[key] = function.get(key, False) or name not in self.done
        lines = []
        for file, wanted in functions.items():
            left = [key for key, is_left in wanted.items() if is_left]
            lines += [file] if len(left) == len(wanted) else [f"{file}::{key}" for key in left]
        (self.notes / "left").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
