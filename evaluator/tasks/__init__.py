"""Synthetic tasks in NumPy: seeded generators that the sandbox trains on and the host scores with."""
