from __future__ import annotations

from collections import Counter

from tests.models.published import DIFFERENCE_TOLERANCE, GMACS_TOLERANCE, PARAMS_TOLERANCE, ROWS
from vidops.models import Comparison, Figure, model_card


def misses(figure: Figure, comparison: Comparison) -> list[str]:
    """Name what of a row is not reproduced."""
    missed = []
    if comparison.params_off is not None and abs(comparison.params_off) > PARAMS_TOLERANCE:
        missed.append(f"{comparison.params:.3f} M parameters, published {figure.params} M")
    if comparison.published_gmacs is not None:
        low, high = comparison.published_gmacs
        slack = DIFFERENCE_TOLERANCE if figure.over else GMACS_TOLERANCE * low
        if not low - slack <= comparison.gmacs <= high + slack:
            missed.append(f"{comparison.gmacs:.3f} GMACs, published {figure.gmacs} over {figure.over_gmacs}")
    return missed


def test_published_figures() -> None:
    wrong = []
    for name, figure in ROWS:
        assert figure.gmacs is not None or figure.params is not None, f"{name}: a row without figures"
        missed = misses(figure, model_card(name).compare(figure))
        if bool(missed) != bool(figure.contradiction):
            what = "; ".join(missed) or "is reproduced, but its card says that it cannot be"
            wrong.append(f"{name} {dict(figure.options)} {figure.source}: {what}")
    assert not wrong, "\n".join(wrong)


def test_rows_are_there() -> None:
    assert Counter(name for name, _ in ROWS) == {"tsn_resnet50": 1, "tsm_resnet50": 5, "mstnet_resnet50": 11}
    assert sum(figure.contradiction is not None for _, figure in ROWS) == 1


def test_a_wrong_figure_is_seen() -> None:
    card = model_card("mstnet_resnet50")
    tsn = next(f for f in card.figures if f.over)
    measured = card.compare(card.figures[0])
    assert not misses(card.figures[0], measured)
    off = Comparison(measured.params * 1.006, measured.gmacs * 1.016, measured.published_gmacs, 0.006, 0.016)
    assert len(misses(card.figures[0], off)) == 2
    assert len(misses(tsn, Comparison(24.0, 10.02, (10.0, 10.0), None, 0.002))) == 1
