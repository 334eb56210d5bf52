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
    slack = DIFFERENCE_TOLERANCE if figure.over else params * (figure.params or 0)
    if figure.params is not None and abs(comparison.params - figure.params) > slack:
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


def test_what_the_thesis_counts_of_region_based_blocks() -> None:
    """Its release keeps each channel-wise kernel dense in groups of 32, beside a mask of that size, and counts both."""
    card = model_card("rnl_tsm_resnet50")
    kernels = 2 * 256 * 147 + 3 * 512 * 27
    assert card.num_params == 28_128_720
    assert round((card.num_params + 63 * kernels) / 1e6, 2) == 35.48
    chain = next(f for f in card.figures if f.params == 35.95)
    assert round((card.measure(chain)[0] + 63 * kernels) / 1e6, 2) == 35.95
    assert round(card.gmacs, 1) == 89.3
    assert round(model_card("nl_tsm_resnet50").gmacs, 1) == 97.0
