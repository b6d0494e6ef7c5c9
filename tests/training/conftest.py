"""Gives torch one thread in these tests."""

from tests.made.fixtures import one_thread

__all__ = ["one_thread"]
