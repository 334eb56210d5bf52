"""Error texts about recipes: which key, what is wrong with it, what was given."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel


def kind(value: Any) -> str:
    """Name what YAML gave, for an error text.

    Args:
        value: what was read.

    Returns:
        A noun.

    Example:
        >>> kind([1]), kind(None)
        ('a list', 'nothing')
    """
    names = {
        dict: "keys",
        list: "a list",
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def explain(problem: Any, recipe: type[BaseModel]) -> str:
    """Say one of pydantic's problems as ``key: what is wrong, what was given``.

    Args:
        problem: one of ``ValidationError.errors()``.
        recipe: the class of the whole recipe, whose keys are offered for a misspelled one.

    Returns:
        The text.
    """
    loc = list(problem["loc"])
    if len(loc) > 1 and loc[0] in ("optimizer", "schedule", "joint"):
        del loc[1]  # the discriminator's value, which is no key
    key = ".".join(str(part) for part in loc)
    what, given = problem["type"], problem["input"]
    if what == "missing":
        return f"{key}: is missing"
    if what == "extra_forbidden":
        if others := _kinds_that_know(recipe, problem["loc"]):
            return f"{key}: is not used by {problem['loc'][1]}, only by {' and '.join(others)}"
        near = difflib.get_close_matches(str(loc[-1]), _known_keys(recipe, problem["loc"][:-1]), n=1)
        return f"{key}: is no known key" + (f" (did you mean {near[0]}?)" if near else "")
    if what == "value_error":
        return str(problem["ctx"]["error"])
    if what == "union_tag_not_found":
        return f"{key}.name: is missing"
    if what == "union_tag_invalid":
        return f"{key}.name: must be one of {problem['ctx']['expected_tags']}, got {problem['ctx']['tag']!r}"
    if what in ("too_short", "too_long"):
        limit = problem["ctx"].get("min_length", problem["ctx"].get("max_length"))
        bound = "at least" if what == "too_short" else "at most"
        return f"{key}: must hold {bound} {limit} values, got {_show(given)}"
    if what in _WORDS:
        return f"{key}: must be {_WORDS[what]}, got {_show(given)}"
    message = problem["msg"].removeprefix("Input should be ")
    return f"{key}: must be {message}, got {_show(given)}"


_WORDS = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "keys",
    "model_type": "keys",
    "model_attributes_type": "keys",
}


def _show(value: Any) -> str:
    return repr(value) if isinstance(value, (int, float, str, list)) else kind(value)


def _known_keys(recipe: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    """List the keys of the section at ``loc``, in which a section's kind follows its name."""
    found = [recipe]
    for part in loc:
        if len(found) > 1:  # sections told apart by their key `name`
            found = [s for s in found if part in get_args(s.model_fields["name"].annotation)]
        elif found and part in found[0].model_fields:
            found = _sections(found[0].model_fields[part].annotation)
        else:
            return []
    return list(found[0].model_fields) if len(found) == 1 else []


def _kinds_that_know(recipe: type[BaseModel], loc: Sequence[Any]) -> list[str]:
    """Name the kinds of a section that have the key at ``loc``, where a kind has its name, as (joint, mgda, alpha)."""
    if len(loc) != 3 or loc[0] not in recipe.model_fields:
        return []
    kinds = _sections(recipe.model_fields[loc[0]].annotation)
    known = [kind.model_fields for kind in kinds if loc[2] in kind.model_fields]
    return [get_args(fields["name"].annotation)[0] for fields in known] if len(kinds) > 1 else []


def _sections(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]
