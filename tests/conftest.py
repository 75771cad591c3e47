"""For all tests: examples of property-based tests have no time limit, since a busy machine is no bug."""

from hypothesis import settings

settings.register_profile("move37", deadline=None)
settings.load_profile("move37")
