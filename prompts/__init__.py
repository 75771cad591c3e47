"""Jinja2 templates of what the agents are told, and their loader."""
