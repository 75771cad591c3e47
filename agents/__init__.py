"""Researcher, coder and analyst, and the gateway through which they reach a language model."""
