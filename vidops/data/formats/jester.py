"""Jester: ``id;label`` and frame folders."""

from __future__ import annotations

from ._format import Format
from ._id_label import matches, read

FORMAT = Format(
    "jester",
    "jester-v1-train.csv with lines id;label, frame folders",
    lambda source: matches(source, "jester"),
    read,
)
