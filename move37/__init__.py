"""Move37: discovers neural-network architectures by itself.

This package ties the others together: configuration, the campaign loop, selection, budgets, replay, the command line.
Importing it puts the repository root first on `sys.path`, because the five packages beside it (`agents`, `sandbox`,
`evaluator`, `memory`, `prompts`) carry plain names: if one of them resolves to somebody else's package, every later
import would be wrong in a confusing way, so that is an error here, with the remedy.
"""

import importlib.machinery
import sys
from pathlib import Path

__version__ = "0.1.0"

ROOT = Path(__file__).resolve().parent.parent
SIBLINGS = ("agents", "sandbox", "evaluator", "memory", "prompts")


def _claim_siblings() -> None:
    """Makes the five sibling names resolve inside this repository, or raises ImportError saying what is in the way."""
    root = str(ROOT)
    if root in sys.path:
        sys.path.remove(root)
    sys.path.insert(0, root)
    for name in SIBLINGS:
        loaded = sys.modules.get(name)
        if loaded is not None:
            origin = loaded.__file__
        else:
            spec = importlib.machinery.PathFinder.find_spec(name, [root])
            origin = spec.origin if spec else None
        if origin is None or not Path(origin).resolve().is_relative_to(ROOT):
            raise ImportError(
                f"the package name {name!r} resolves to {origin or 'nothing'}, not to {ROOT / name}. "
                "Another installed package uses that name (openai-agents installs one called 'agents'): "
                "use a virtual environment of its own for Move37 (`make demo` creates one)."
            )


_claim_siblings()
