"""The static gates side by side: what is parsed, is parsed in one thread."""

import ast
import asyncio
import threading

import pytest

from evaluator import catalogue
from move37.ladder import static


async def test_side_by_side_nothing_is_parsed_in_two_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """CPython fails with "AST constructor recursion depth mismatch" where two threads parse at a time."""
    seen: set[int] = set()
    parse = ast.parse

    def watched(*arguments: object, **settings: object) -> ast.Module:
        seen.add(threading.get_ident())
        return parse(*arguments, **settings)  # type: ignore[arg-type,no-any-return]

    monkeypatch.setattr(ast, "parse", watched)
    source = catalogue.source("gated_delta_net")
    found = await asyncio.gather(*(static(source) for _ in range(4)), static("def (\n"), static(b"\xff"))
    assert all(verdict.passed for verdicts in found[:4] for verdict in verdicts)
    assert [verdicts[-1].reason for verdicts in found[4:]] == ["does_not_parse", "not_utf8"]
    assert seen == {threading.get_ident()}
