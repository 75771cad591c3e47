"""Reference architecture programs as text: what a campaign starts from, and what its findings are measured against.

Notable: a program is read, never imported, so this is safe on the host and loads no torch. To add a reference, add a
file to `evaluator/references/`: its name is the file's, its title the first line of its docstring.
"""

import ast
from functools import cache
from importlib import resources

from evaluator.errors import EvaluatorError


class UnknownReference(EvaluatorError):
    """The catalogue has no such program."""

    def __init__(self, name: str, known: tuple[str, ...]) -> None:
        self.name = name
        self.known = known
        super().__init__(f"there is no reference architecture {name!r}; choose one of: {', '.join(known)}")


@cache
def names() -> tuple[str, ...]:
    """Names of all reference programs, in alphabetical order."""
    files = (resources.files("evaluator") / "references").iterdir()
    programs = (file.name.removesuffix(".py") for file in files if file.name.endswith(".py"))
    return tuple(sorted(name for name in programs if not name.startswith("_")))


@cache
def source(name: str) -> str:
    """The whole text of a program.

    Raises:
        UnknownReference: there is no such program (the message names those that exist).
    """
    if name not in names():
        raise UnknownReference(name, names())
    return (resources.files("evaluator") / "references" / f"{name}.py").read_text(encoding="utf-8")


@cache
def title(name: str) -> str:
    """The first line of the program's docstring, without the full stop.

    Raises:
        UnknownReference: there is no such program.
    """
    docstring = ast.get_docstring(ast.parse(source(name))) or name
    return docstring.splitlines()[0].rstrip(".")
