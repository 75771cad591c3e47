"""The conformance suite of memory/testing.py over every kind of database."""

from memory.testing import StoreConformance


class TestStore(StoreConformance):
    """Parametrised by the fixture `store`."""
