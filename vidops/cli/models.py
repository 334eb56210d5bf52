"""``vidops models``: what can be built, and its figures beside the published ones."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..models import Figure

HELP = "list the models; with --stats, their parameters and multiply-adds beside the published ones"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("pattern", nargs="?", default="*", help="shell-style wildcard, such as '*mstnet*'")
    parser.add_argument(
        "--stats", action="store_true", help="count parameters and multiply-adds and compare with the sources"
    )


def run(args: argparse.Namespace) -> int:
    """Print the table."""
    from ..models import list_models, model_card
    from ..models.registry import hint

    names = list_models(args.pattern)
    if not names:
        raise ValueError(f"no model matches {args.pattern!r}; {hint(args.pattern)}")
    if not args.stats:
        rows: list[tuple[str, ...]] = [
            (name, "x".join(map(str, model_card(name).input_size[1:])), model_card(name).paper)
            for name in names
        ]
        print_table(("model", "input", "paper"), rows)
        return 0
    stats: list[tuple[str, ...]] = []
    notes: list[str] = []
    for name in names:
        stats += figures(name, notes)
    print_table(STATS, stats)
    if notes:
        print("\n" + "\n".join(f"[{number}] {note}" for number, note in enumerate(notes, 1)))
    return 0


STATS = (
    "model",
    "options",
    "input",
    "classes",
    "params M",
    "published",
    "GMACs",
    "published",
    "off by",
    "source",
)


def figures(name: str, notes: list[str]) -> list[tuple[str, ...]]:
    """Measure a model in every published configuration, a table row each; new notes are put behind ``notes``."""
    from ..models import Figure, model_card

    card = model_card(name)
    rows: list[tuple[str, ...]] = []
    for figure in card.figures or (Figure("-", clip=card.input_size, num_classes=card.num_classes),):
        comparison = card.compare(figure)
        published = "-"
        if comparison.published_gmacs:
            published = "-".join(f"{g:g}" for g in dict.fromkeys(comparison.published_gmacs))
        sign = "+" if figure.over else ""
        off = [f"{100 * d:+.1f} %" for d in (comparison.params_off, comparison.gmacs_off) if d is not None]
        source = figure.source
        if figure.over:
            source += f" (over {figure.over})"
        for note in notes_on(figure):
            if note not in notes:
                notes.append(note)
            source += f" [{notes.index(note) + 1}]"
        rows.append(
            (
                name,
                " ".join(f"{k}={str(v).replace(' ', '')}" for k, v in figure.options.items()) or "-",
                "x".join(map(str, figure.clip[1:])),
                str(figure.num_classes),
                f"{sign}{comparison.params:.3f}",
                "-" if figure.params is None else f"{sign}{figure.params:g}",
                f"{sign}{comparison.gmacs:.3f}",
                published if published == "-" else f"{sign}{published}",
                ", ".join(off) or "-",
                source,
            )
        )
    return rows


def notes_on(figure: Figure) -> list[str]:
    """Say what a row does not show."""
    notes = [figure.contradiction] if figure.contradiction else []
    if figure.unaccounted:
        notes.append(
            f"the published figure holds {figure.unaccounted} multiply-adds for each pixel of each input frame more"
            " than the network that its source describes; GMACs has them, too"
        )
    if figure.left_out:
        notes.append(
            f"the published figure leaves out {figure.left_out:.2f} G of the network, and so does GMACs here: the"
            " attention's products of queries and keys and of weights and values, and the aggregation of regions"
        )
    return notes


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows under a head, columns padded to their widest cell; numbers to the right."""
    lines = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    numeric = [
        all(row[i].lstrip("+-")[:1].isdigit() or row[i] == "-" for row in rows) for i in range(len(head))
    ]
    for line in lines:
        cells = [c.rjust(w) if n else c.ljust(w) for c, w, n in zip(line, widths, numeric, strict=True)]
        print("  ".join(cells).rstrip())
