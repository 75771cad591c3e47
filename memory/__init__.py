"""The experiment memory: every attempt, exchange, trial and verdict of every campaign, kept for good."""
