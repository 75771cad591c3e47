"""Turns our errors into one clear line on stderr and the right exit code.

0 done, 1 a check said no, 2 usage or configuration, 3 budget spent, 4 infrastructure, 130 interrupted.
"""

import functools
import gc
import sys
from collections.abc import Callable
from typing import NoReturn, ParamSpec, TypeVar

import typer

P = ParamSpec("P")
R = TypeVar("R")

_USAGE = 2
_INFRASTRUCTURE = 4
# Errors of the lower packages, by name: importing their classes here would slow every command down.
_BY_NAME = {
    "NotFound": _USAGE,
    "StoreMissing": _USAGE,
    "ValueRefused": _USAGE,
    "MissingKey": _USAGE,
    "EndpointInvalid": _USAGE,
    "CassetteInvalid": _USAGE,
    "IsolationRequired": _USAGE,
    "MemoryStoreError": _INFRASTRUCTURE,
    "SandboxError": _INFRASTRUCTURE,
    "AgentError": _INFRASTRUCTURE,
    "EvaluatorError": _INFRASTRUCTURE,
}


def exit_code(error: BaseException) -> int | None:
    """The exit code of an error of ours; None for anything else, which is a bug and deserves its traceback."""
    own = getattr(error, "exit_code", None)
    if isinstance(own, int):
        return own
    return next((_BY_NAME[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _BY_NAME), None)


def fail(message: str, code: int) -> NoReturn:
    """Says what went wrong and leaves."""
    sys.stderr.write(f"move37: {message}\n")
    raise typer.Exit(code)


def long_running() -> None:
    """For commands that work for more than a moment: the garbage collector, off while importing, goes on again."""
    gc.enable()


def guarded(command: Callable[P, R]) -> Callable[P, R]:
    """Wraps a command: the top of the CLI, the one place here where everything is caught."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except KeyboardInterrupt:
            fail("interrupted", 130)
        except BrokenPipeError:
            sys.stderr.close()
            raise typer.Exit(0) from None
        except Exception as error:  # a typed error of ours has a message for the user; a bug keeps its traceback
            code = exit_code(error)
            if code is None or isinstance(error, typer.Exit):
                raise
            fail(str(error), code)

    return run
