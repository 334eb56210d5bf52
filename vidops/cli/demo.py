"""``vidops demo``: from nothing to a trained network, a prediction and speeds, with a report to look at."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vidops.bench.judge import Record
    from vidops.visualize.demo_report import Run

HELP = "make a motion dataset, train a network without and one with MixTConv, predict, bench, write a report"

NETWORKS = ("tiny_tsn", "tiny_mstnet")
PAIRS, TRAIN, VAL = 4, 2400, 400
NEEDED = {"av": "video", "skimage": "motion", "lightning": "train", "matplotlib": "viz"}
GAP = 0.5  # what MixTConv must add to the accuracy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.description = (
        f"{HELP}. Takes minutes on two cores. Started again on the same folder it goes on where it stopped."
    )
    parser.add_argument("out", metavar="OUT", help="folder for the dataset, the runs and the report")
    parser.add_argument(
        "--video", action="append", default=[], metavar="FILE", help="predict this one too (may be repeated)"
    )
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="epochs of each network (default: the recipe's)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the steps; every figure printed and reported has been measured in this folder."""
    out = Path(args.out)
    _check(out, args.video, args.epochs)
    from vidops.cli import info
    from vidops.visualize.demo_report import Facts, write_report

    started = time.perf_counter()
    _step(1, "What is installed")
    report = info.collect()
    facts = Facts(info=info.format_report(report))
    print(facts.info)
    if report["broken"]:
        raise RuntimeError("this installation is broken (see above); reinstall vidops")

    classes = PAIRS * 2
    _step(2, f"A dataset of motion: {TRAIN:,} training and {VAL} validation clips, {classes} classes")
    print(
        "Photographs moving over photographs, written as mp4 files. Each class is another one played\n"
        "backwards: no single frame, and no average of frames, can tell them apart."
    )
    data = _dataset(out)
    facts.data = data

    _step(3, "Two networks, alike but for one layer")
    print(
        "tiny_tsn averages what it sees in each frame. tiny_mstnet is the same network with MixTConv, our\n"
        "fused temporal_conv, before each block."
    )
    facts.runs = {name: _train(name, out, data, args.epochs) for name in NETWORKS}

    _step(4, f"Accuracy on the {VAL} validation clips")
    print("\n".join(accuracy_lines(facts.runs, classes)))

    _step(5, "Predictions for single files")
    clips = {folder / "val_00000.mp4": folder.name for folder in sorted((data / "videos").iterdir())}
    print(f"The first validation clip of each class{', and your own' if args.video else ''}.")
    if args.video:
        print(
            f"The networks know the {classes} made motions and nothing else: of any video they name one of these."
        )
    facts.predictions = _predict({**clips, **{Path(video): None for video in args.video}}, facts.runs)

    _step(6, "Speed of the operators")
    facts.bench = _bench()

    page = write_report(out / "report", facts)
    print(f"\nDone in {time.perf_counter() - started:.0f} s. The report, with pictures: {page}")
    gap = facts.runs["tiny_mstnet"].top1 - facts.runs["tiny_tsn"].top1
    if args.epochs is None and gap < GAP:
        raise RuntimeError(
            f"tiny_mstnet is {100 * gap:.1f} points above tiny_tsn, it should be {100 * GAP:.0f}"
        )
    return 0


def _check(out: Path, videos: list[str], epochs: int | None) -> None:
    """Everything that can be wrong with the arguments, before anything is written."""
    from vidops._extras import require_all
    from vidops.data import read_frames

    for video in videos:
        if not Path(video).is_file():
            raise FileNotFoundError(f"--video {video}: no such file")
    require_all(NEEDED)
    for video in videos:
        read_frames(video, [0])  # raises what is wrong with it
    if epochs is not None and epochs < 1:
        raise ValueError(f"--epochs must be at least 1, got {epochs}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; the demo needs a folder")
    known = {"motion", "runs", "report"}
    foreign = (
        [p.name for p in out.iterdir() if p.name not in known and not p.name.startswith(".")]
        if out.exists()
        else []
    )
    if foreign:
        raise ValueError(
            f"{out} holds other things ({', '.join(sorted(foreign)[:3])}); choose an empty folder"
        )


def _step(number: int, title: str) -> None:
    print(f"\n[{number}/6] {title}\n{'-' * (len(title) + 6)}", flush=True)


def _dataset(out: Path) -> Path:
    from vidops.data import MOTION_PAIRS, make_motion, read_annotations

    data, start = out / "motion", time.perf_counter()
    if data.exists() and any(data.iterdir()):
        print(f"\n{data} is there already.")
    else:
        make_motion(data, pairs=PAIRS, train=TRAIN, val=VAL, progress=sys.stderr.isatty())
        print(f"\n{data}: written in {time.perf_counter() - start:.0f} s")
    lists = {split: read_annotations(data / f"{split}.csv") for split in ("train", "val")}
    expected = [name for pair in list(MOTION_PAIRS.values())[:PAIRS] for name in pair]
    sizes = {split: len(samples.samples) for split, samples in lists.items()}
    if lists["val"].classes != expected or sizes != {"train": TRAIN, "val": VAL}:
        raise ValueError(f"{data} is not the dataset that the demo makes; remove it to make it anew")
    return data


def _train(name: str, out: Path, data: Path, epochs: int | None) -> Run:
    from vidops.evaluation import evaluate
    from vidops.training import fit, load_config
    from vidops.training.config import shipped_recipes
    from vidops.training.learn import within_pairs
    from vidops.training.metrics_log import METRICS
    from vidops.visualize.demo_report import Run
    from vidops.visualize.training import read_epochs

    # JSON texts are YAML, whatever characters a path has.
    overrides = [f"data.root={json.dumps(str(data))}", f"output={json.dumps(str(out / 'runs' / name))}"]
    if epochs is not None:
        overrides.append(f"epochs={epochs}")
    print(f"\n{name}")
    result = fit(
        load_config(shipped_recipes() / "demo" / f"{name}.yaml", overrides), resume=True, out=sys.stdout
    )
    report = evaluate(result.last, out=sys.stderr)
    log = result.output / METRICS
    return Run(
        weights=result.last,
        log=log,
        epochs=result.epochs,
        samples=report.samples,
        top1=report.top1,
        within_pairs=within_pairs(report),
        classes=list(report.classes),
        class_accuracies=report.class_accuracies,
        seconds=sum(seconds for _, seconds in read_epochs(log)["seconds"]),
    )


def accuracy_lines(runs: dict[str, Run], classes: int) -> list[str]:
    """Lay the accuracies out for the terminal.

    Args:
        runs: what was measured, by network.
        classes: number of classes; guessing is right once in that many.

    Returns:
        Lines.
    """
    lines = [f"{'':14}{'all classes':>13}{'within mirrored pairs':>25}"]
    lines += [f"{name:14}{run.top1:>13.1%}{run.within_pairs:>25.1%}" for name, run in runs.items()]
    lines.append(f"{'guessing':14}{1 / classes:>13.1%}{0.5:>25.1%}")
    first, *_, last = runs
    gap = 100 * (runs[last].top1 - runs[first].top1)
    return [*lines, "", f"{last} is {abs(gap):.1f} points {'above' if gap >= 0 else 'below'} {first}."]


def _predict(videos: dict[Path, str | None], runs: dict[str, Run]) -> list[dict[str, Any]]:
    """Print and return the three likeliest classes of each file by each network, and whether it is right."""
    from vidops.evaluation import predict

    found = []
    for name, run_ in runs.items():
        for prediction in predict(list(videos), run_.weights, top=3):
            found.append({"network": name, **prediction.as_dict()})
    found.sort(key=lambda entry: [str(video) for video in videos].index(entry["path"]))
    for video, truth in videos.items():
        print(f"{video}: shows {truth}" if truth else video)
        for entry in (e for e in found if e["path"] == str(video)):
            if "error" in entry:
                print(f"  {entry['network']:12} error: {entry['error']}")
                continue
            mark = ""
            if truth is not None:
                entry["truth"] = truth
                entry["right"] = entry["predictions"][0]["class"] == truth
                mark = "right  " if entry["right"] else "wrong  "
            scores = ", ".join(f"{p['class']} {p['probability']:.1%}" for p in entry["predictions"])
            print(f"  {entry['network']:12} {mark}{scores}")
    return found


def _bench() -> dict[str, Any] | str:
    """Measure the operators; say why not where no kernel can run."""
    from vidops.bench import harness, report
    from vidops.bench.judge import FOREIGN_LOAD_LIMIT

    options = harness.Options(quick=True)
    try:
        harness.plan(options)
    except RuntimeError as error:
        print(f"not measured: {error}")
        return str(error)

    def finished(records: list[Record], so_far: dict[str, Any]) -> None:
        print("\n".join(report.group_lines(records, targets=False)), end="\n\n", flush=True)

    result = harness.run(options, finished=finished)
    loads = [record.get("foreign_load") or 0.0 for record in result["results"]]
    if max(loads, default=0.0) > FOREIGN_LOAD_LIMIT:
        print(
            f"Other processes kept up to {max(loads):.1f} cores busy meanwhile: these speeds are not judged."
        )
    return result
