"""Runs generated programs where they can do no harm: the `Sandbox` protocol, its backends, the image they need."""
