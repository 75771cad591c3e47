"""`python -m evaluator`: the worker that runs inside the sandbox."""

from evaluator.worker import main

main()
