"""Every published row of parameters and multiply-adds, and how close a reproduction must come.

The rows stand on the cards of the models (`vidops.models.ModelCard.figures`), where ``vidops models --stats``
finds them too; here they are gathered, with the tolerances that `test_published` holds them to.
"""

from __future__ import annotations

from vidops.models import Figure, list_models, model_card

PARAMS_TOLERANCE = 0.005
GMACS_TOLERANCE = 0.015
# A difference of two figures that are each printed to 0.01 G (the slides' 33 G stands for 33.00).
DIFFERENCE_TOLERANCE = 0.01

ROWS: list[tuple[str, Figure]] = [
    (name, figure) for name in list_models() for figure in model_card(name).figures
]
