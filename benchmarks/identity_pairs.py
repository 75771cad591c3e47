"""Pairs of programs that differ in meaning by as little as possible, for the text levels of the identity ladder.

Each difference is written once, as an expression or as a body, and set into several surroundings: a function, a method,
a closure, a long program, another layout. Whole programs (scoping, defaults, imports) stand as they are. `observe`
runs a program on a grid of inputs, so that every pair is shown to differ and not only said to.
Not covered: differences that no input of the grid shows; differences in speed or in the text of messages.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.identity_differences import BODIES, EXPRESSIONS
from benchmarks.identity_programs import PROGRAMS

GRID = ((3, 2, 1), (-2, 5, 0), (7, 0, 4), (2, 2, 2), (10, 3, -3), (0, 1, 2), ([5, 6], [1], [2, 3, 4]))
_PREAMBLE = """\
nota = 11
returna = 12
ainb = aorb = aandb = aisb = anotinb = notb = 13
aifbelsec = lambdaa = 14
dela = raisea = asserta = yielda = passa = 15


def first(*values):
    return values[0]


def pair(x=0, y=0):
    return (x, y)


"""
_CALL = "\n\ndef probe(a, b, c):\n    return {call}\n"


@dataclass(frozen=True)
class Pair:
    """Two programs, what sets them apart, and where the difference stands."""

    kind: str
    name: str
    surrounding: str
    left: str
    right: str


def different_pairs() -> list[Pair]:
    """Every difference in every surrounding that fits it."""
    return list(_pairs())


def _pairs() -> Iterator[Pair]:
    for kind, differences in EXPRESSIONS.items():
        for left, right in differences:
            bodies = f"return {left}", f"return {right}"
            for surrounding, programs in _set_into(*bodies):
                yield Pair(kind, f"{left!r} / {right!r}", surrounding, *programs)
    for kind, bodies_of_kind in BODIES.items():
        for name, (left, right) in bodies_of_kind.items():
            for surrounding, programs in _set_into(left, right):
                yield Pair(kind, name, surrounding, *programs)
    for kind, programs_of_kind in PROGRAMS.items():
        for name, (left, right) in programs_of_kind.items():
            yield Pair(kind, name, "as it stands", left, right)


def _set_into(left: str, right: str) -> Iterator[tuple[str, tuple[str, str]]]:
    for surrounding, place in _SURROUNDINGS.items():
        yield surrounding, (place(left), place(right))


def _function(body: str) -> str:
    return _PREAMBLE + "def probe(a, b, c):\n" + _indented(body, 1)


def _method(body: str) -> str:
    step = "class Net:\n    scale = 2\n\n    def forward(self, a, b, c):\n" + _indented(body, 2)
    return _PREAMBLE + step + _CALL.format(call="Net().forward(a, b, c)")


def _closure(body: str) -> str:
    step = "def build(width):\n    def step(a, b, c):\n" + _indented(body, 2) + "\n    return step\n"
    return _PREAMBLE + step + _CALL.format(call="build(4)(a, b, c)")


def _long(body: str) -> str:
    filler = "".join(
        f"def helper_{i}(x, y={i}):\n    total = 0\n    for item in range(y):\n        total += item * x\n"
        f"    return total\n\n\n"
        for i in range(12)
    )
    return filler + _function(body) + "\n\n" + filler.replace("helper_", "aid_")


_SURROUNDINGS = {"function": _function, "method": _method, "closure": _closure, "long program": _long}


def _indented(body: str, levels: int) -> str:
    """Every line moved, but for those within a string: a body marks them with `|` at their beginning."""
    lines = body.strip("\n").split("\n")
    return "\n".join(line[1:] if line.startswith("|") else " " * 4 * levels + line for line in lines) + "\n"


def observe(program: str) -> tuple[str, ...]:
    """What `probe` of this program gives on every input of the grid: a value with its type, or the kind of error.

    Only for programs of this module: it runs them.
    """
    names: dict[str, object] = {"__name__": "program"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            exec(compile(program, "<program>", "exec", dont_inherit=True), names)
        except Exception as error:  # noqa: BLE001 - a program may fail in any way; how it fails is what is observed
            return (f"does not load: {type(error).__name__}",)
    seen = []
    for values in GRID:
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                answer = names["probe"](*values)  # type: ignore[operator]
                answer = list(answer) if type(answer).__name__ == "generator" else answer
            seen.append(f"{type(answer).__name__} {answer!r} {printed.getvalue()}")
        except Exception as error:  # noqa: BLE001 - as above
            seen.append(f"{type(error).__name__} {printed.getvalue()}")
    return tuple(seen)
