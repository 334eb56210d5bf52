"""A script whose worker processes are watched."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

SAY = """
import multiprocessing, sys, threading, time
def say():
    while len(multiprocessing.active_children()) < 2:
        time.sleep(0.05)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
if __name__ == "__main__":
    threading.Thread(target=say, daemon=True).start()
"""


def start_parent(folder: Path, work: str, *arguments: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """Run a script, whose indented lines ``work`` start two processes, and return it and their numbers."""
    script = folder / "parent.py"
    script.write_text(SAY + work)
    parent = subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert parent.stdout is not None
    workers = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(workers) == 2
    return parent, workers


def gone(pids: list[int], seconds: float = 30) -> bool:
    """Wait until the processes have ended."""
    deadline = time.monotonic() + seconds
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
