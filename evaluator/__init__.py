"""Measures architecture programs: tasks, training, gates, cost, scoring. See `evaluator.trial` and `evaluator.gating`.

Two faces. The host face (wire, phases, verdict, static_gate, tasks, tiers, trial, gating, scoring, objective, tracks,
catalogue) imports no torch and never runs a program. The inner face (worker, channel, program, skeleton, trainer,
warmup, gates, cost) runs inside the sandbox as `python -m evaluator`.
"""
