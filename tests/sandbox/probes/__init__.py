"""Hostile probes: programs that try to break out, break down or lie, as data, and the bench that tries them."""
