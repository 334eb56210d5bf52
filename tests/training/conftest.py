"""Fixtures of the training tests."""

from tests.training.fixtures import make_config, motion, one_thread  # noqa: F401
