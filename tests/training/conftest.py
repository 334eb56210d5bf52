"""Fixtures of the training tests; the test modules say themselves what they cannot run without."""

from importlib.util import find_spec

NEEDED = ("lightning", "pydantic", "yaml", "tqdm", "av", "PIL", "skimage")

if all(find_spec(name) is not None for name in NEEDED):
    from tests.training.fixtures import make_config, motion, one_thread  # noqa: F401
