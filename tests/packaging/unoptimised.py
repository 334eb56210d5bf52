"""A compiler that optimises nothing and keeps its objects: ``python unoptimised.py FOLDER COMPILER OPTIONS...``.

The builds of these tests compile the same sources in one checkout after another. An object depends on the
preprocessed text and on the options that are no paths; where both are known, the object made before is taken again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

PATHS = ("-I", "-isystem", "-MF", "-MT", "-MQ", "-o", "-c")  # options that name one


def key(options: list[str], text: bytes) -> str:
    """What an object is made of, wherever its sources lie."""
    kept = [
        option
        for before, option in zip(["", *options], options, strict=False)
        if before not in PATHS and not option.startswith(PATHS)
    ]
    return hashlib.sha256("\0".join(kept).encode() + text).hexdigest()


def main(folder: Path, compiler: str, options: list[str]) -> int:
    options = [*options, "-O0"]
    if "-c" not in options:
        return subprocess.run([compiler, *options]).returncode
    source, target = (options[options.index(name) + 1] for name in ("-c", "-o"))
    root = source.partition("/csrc/")[0]
    options.append(f"-ffile-prefix-map={root}=.")  # __FILE__ is the same in every checkout
    preprocess = ["-E" if option == "-c" else option for option in options]
    preprocess[preprocess.index("-o") + 1] = f"{target}.ii"
    done = subprocess.run([compiler, *preprocess, "-P"])  # writes the dependencies too
    if done.returncode:
        return done.returncode
    named = [option for option in options if not option.startswith("-ffile-prefix-map")]
    made = folder / key([compiler, *named], Path(f"{target}.ii").read_bytes())
    with open(f"{made}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # whoever needs the same object waits for it
        if not made.exists():
            done = subprocess.run([compiler, *options])
            if done.returncode:
                return done.returncode
            shutil.copy(target, f"{made}.part")
            os.replace(f"{made}.part", made)
    shutil.copy(made, target)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3:]))
