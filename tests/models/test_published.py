from __future__ import annotations

import dataclasses

from tests.models.published import (
    CONTRADICTIONS,
    DIFFERENCE_TOLERANCE,
    GMACS_TOLERANCE,
    PARAMS_TOLERANCE,
    ROWS,
    WIDER,
)
from vidops.models import Comparison, Figure, list_models, model_card


def misses(figure: Figure, comparison: Comparison, name: str = "") -> list[str]:
    """Name what of a row is not reproduced."""
    missed = []
    params, gmacs = WIDER.get((name, figure.source), (PARAMS_TOLERANCE, GMACS_TOLERANCE))
    if comparison.params_off is not None and abs(comparison.params_off) > params:
        missed.append(f"{comparison.params:.3f} M parameters, published {figure.params} M")
    if comparison.published_gmacs is not None:
        low, high = comparison.published_gmacs
        slack = DIFFERENCE_TOLERANCE if figure.over else gmacs * low
        if not low - slack <= comparison.gmacs <= high + slack:
            missed.append(f"{comparison.gmacs:.3f} GMACs, published {figure.gmacs} over {figure.over_gmacs}")
    return missed


def test_the_cards_show_the_published_rows_and_no_others() -> None:
    shown = [
        (name, dataclasses.replace(figure, contradiction=None))
        for name in list_models()
        for figure in model_card(name).figures
    ]
    assert sorted(shown, key=repr) == sorted(ROWS, key=repr)


def test_published_figures() -> None:
    contradictions = {
        (name, repr(dataclasses.replace(f, contradiction=None)))
        for name in list_models()
        for f in model_card(name).figures
        if f.contradiction
    }
    wrong = []
    for name, figure in ROWS:
        assert figure.gmacs is not None or figure.params is not None, f"{name}: a row without figures"
        missed = misses(figure, model_card(name).compare(figure), name)
        if bool(missed) != ((name, repr(figure)) in contradictions):
            what = "; ".join(missed) or "is reproduced, but its card says that it cannot be"
            wrong.append(f"{name} {dict(figure.options)} {figure.source}: {what}")
    assert not wrong, "\n".join(wrong)
    assert len(contradictions) == CONTRADICTIONS


def test_a_wrong_figure_is_seen() -> None:
    card = model_card("mstnet_resnet50")
    tsn = next(f for f in card.figures if f.over)
    measured = card.compare(card.figures[0])
    assert not misses(card.figures[0], measured)
    off = Comparison(measured.params * 1.006, measured.gmacs * 1.016, measured.published_gmacs, 0.006, 0.016)
    assert len(misses(card.figures[0], off)) == 2
    assert len(misses(tsn, Comparison(24.0, 10.02, (10.0, 10.0), None, 0.002))) == 1
