"""Copies of programs that mean the same, for the catch rates of the text levels of the identity ladder.

`layout_copies`: the same tokens laid out anew, made with Python's own tokenizer. `renamed_copies`: other names for
locals and parameters, other docstrings, other annotations, imports shuffled, retyped by `ast.unparse`; made with
`symtable` and `ast`, sharing no code with the levels that are measured.
Not covered: rewrites that compute the same by other operations. Those are for the levels that run a program.
"""

import ast
import io
import random
import symtable
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_SKIPPED = (tokenize.COMMENT, tokenize.NL, tokenize.ENDMARKER, tokenize.ENCODING)


@dataclass(frozen=True)
class Layout:
    """How a program is laid out: indentation, blanks between tokens, ends of lines, breaks within brackets."""

    indent: str = "    "
    gap: str = " "
    line_end: str = ""
    newline: str = "\n"
    between_lines: str = ""
    break_brackets: bool = False
    beginning: str = ""


LAYOUTS = {
    "two blanks of indentation": Layout(indent="  "),
    "eight blanks of indentation": Layout(indent=" " * 8),
    "tabs": Layout(indent="\t"),
    "wide spacing": Layout(gap="   "),
    "tabs between tokens": Layout(gap="\t"),
    "comments on every line": Layout(line_end='  # it\'s a (note) with "quotes"'),
    "comments between lines": Layout(between_lines="# return x\n"),
    "blank lines": Layout(between_lines="\n   \n"),
    "trailing blanks": Layout(line_end="   "),
    "Windows line ends": Layout(newline="\r\n"),
    "old line ends": Layout(newline="\r"),
    "broken within brackets": Layout(break_brackets=True),
    "continued lines": Layout(gap=" \\\n"),
    "byte order mark": Layout(beginning="\ufeff"),
    "everything at once": Layout("\t", "  ", " # end", "\r\n", "\n# between\n", True),
}


@dataclass(frozen=True)
class Copy:
    """A program, a copy of it, and how the copy was made."""

    kind: str
    name: str
    source: str
    copy: str


def layout_copies(programs: dict[str, str]) -> list[Copy]:
    return [
        Copy(kind, name, source, relaid(source, layout))
        for name, source in programs.items()
        for kind, layout in LAYOUTS.items()
    ]


def relaid(source: str, layout: Layout) -> str:
    """The program's tokens in another layout. Line ends within strings follow `newline`, as Python reads them."""
    pieces = [layout.beginning]
    depth, pending, fresh = 0, 0, True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in _SKIPPED:
            continue
        if token.type == tokenize.INDENT:
            depth += 1
        elif token.type == tokenize.DEDENT:
            depth -= 1
        elif token.type == tokenize.NEWLINE:
            pieces.append(f"{layout.line_end}\n{layout.between_lines}")
            fresh = True
        else:
            closes = token.type == tokenize.OP and token.string in ")]}"
            pending += (token.type == tokenize.OP and token.string in "([{") - closes
            broken = layout.break_brackets and token.type == tokenize.OP and token.string in "([{,"
            pieces.append((layout.indent * depth if fresh else layout.gap) + token.string)
            if broken and pending:
                pieces.append(f"{layout.line_end}\n\n")
            fresh = False
    return "".join(pieces).replace("\n", layout.newline)


def renamed_copies(programs: dict[str, str], *, seed: int = 0) -> list[Copy]:
    """Every kind of rewrite of every program that it changes."""
    return list(_renamed(programs, random.Random(seed)))


def _renamed(programs: dict[str, str], rng: random.Random) -> Iterator[Copy]:
    for name, source in programs.items():
        for kind, rewrite in REWRITES.items():
            copy = rewrite(source, rng)
            if kind == "retyped" or ast.dump(ast.parse(copy)) != ast.dump(ast.parse(source)):
                yield Copy(kind, name, source, copy)


def _locals(source: str, rng: random.Random) -> str:
    return _with_names(source, _fresh(_candidates(source, parameters=False), rng))


def _parameters(source: str, rng: random.Random) -> str:
    return _with_names(source, _fresh(_candidates(source, parameters=True), rng))


def _candidates(source: str, *, parameters: bool) -> list[str]:
    """Names that the program uses for local variables alone: no keyword, attribute, text, global or class variable."""
    tree = ast.parse(source)
    elsewhere = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    elsewhere |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg}
    elsewhere |= {str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    local: set[str] = set()
    stack = [(symtable.symtable(source, "<program>", "exec"), "")]
    while stack:
        table, around = stack.pop()
        stack.extend((child, table.get_type()) for child in table.get_children())
        kept_parameters = table.get_name().startswith("build_") or (
            around == "class" and table.get_name() not in ("forward", "__init__")
        )
        for symbol in table.get_symbols():
            plain = table.get_type() == "function" and (symbol.is_local() or symbol.is_free())
            fixed = symbol.is_namespace() or symbol.is_imported() or symbol.get_name().startswith((".", "__"))
            parameter = symbol.is_parameter() and table.get_name() not in ("listcomp", "genexpr", "setcomp", "dictcomp")
            if not plain or fixed or (parameter and (kept_parameters or not parameters)):
                elsewhere.add(symbol.get_name())
            else:
                local.add(symbol.get_name())
    return sorted(local - elsewhere)


def _fresh(names: list[str], rng: random.Random) -> dict[str, str]:
    """New names, made of the old names of others."""
    shuffled = list(names)
    rng.shuffle(shuffled)
    return {old: f"{new.strip('_') or 'blank'}_{rng.randrange(1000)}" for old, new in zip(names, shuffled, strict=True)}


def _with_names(source: str, names: dict[str, str]) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            node.id = names.get(node.id, node.id)
        elif isinstance(node, ast.arg):
            node.arg = names.get(node.arg, node.arg)
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            node.name = names.get(node.name, node.name)
        elif isinstance(node, ast.Nonlocal):
            node.names = [names.get(name, name) for name in node.names]
    return ast.unparse(tree) + "\n"


def _without_annotations(source: str, _: random.Random) -> str:
    return ast.unparse(ast.fix_missing_locations(_Untyped().visit(ast.parse(source)))) + "\n"


class _Untyped(ast.NodeTransformer):
    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        for statement in node.body:
            if isinstance(statement, ast.FunctionDef):
                self.visit(statement)
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        return node if node.value is None else ast.Assign([node.target], node.value)


def _typed(source: str, rng: random.Random) -> str:
    """Annotations where there were none, or others, and the imports that they need."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.arg != "self":
            node.annotation = ast.Name(rng.choice(["int", "float", "Any", "Sequence"]), ast.Load())
    tree = ast.fix_missing_locations(_NoLambdaTypes().visit(tree))
    first = 1 if ast.get_docstring(tree) is not None else 0
    tree.body[first:first] = ast.parse("from typing import Any, Sequence\n").body
    return ast.unparse(tree) + "\n"


class _NoLambdaTypes(ast.NodeTransformer):
    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        for arg in ast.walk(node.args):
            if isinstance(arg, ast.arg):
                arg.annotation = None
        return self.generic_visit(node)


def _other_docstrings(source: str, rng: random.Random) -> str:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
            if ast.get_docstring(node) is not None:
                node.body.pop(0)
            if rng.random() < 0.5 or not node.body:
                node.body.insert(0, ast.Expr(ast.Constant(f"Text {rng.randrange(1000)}.")))
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def _shuffled_imports(source: str, rng: random.Random) -> str:
    tree = ast.parse(source)
    leading = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    if not leading:
        return source
    split: list[ast.stmt] = []
    for node in leading:
        for alias in node.names:
            split.append(
                ast.Import([alias])
                if isinstance(node, ast.Import)
                else ast.ImportFrom(node.module, [alias], node.level)
            )
    rng.shuffle(split)
    at = min(tree.body.index(node) for node in leading)
    rest = [node for node in tree.body if node not in leading]
    tree.body = [*rest[:at], *split, *rest[at:]]
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def _retyped(source: str, _: random.Random) -> str:
    return ast.unparse(ast.parse(source)) + "\n"


def _everything(source: str, rng: random.Random) -> str:
    for rewrite in (_parameters, _typed, _other_docstrings, _shuffled_imports):
        source = rewrite(source, rng)
    return source


REWRITES: dict[str, Callable[[str, random.Random], str]] = {
    "locals renamed": _locals,
    "locals and parameters renamed": _parameters,
    "annotations removed": _without_annotations,
    "annotations added": _typed,
    "other docstrings": _other_docstrings,
    "imports shuffled and split": _shuffled_imports,
    "retyped": _retyped,
    "everything at once": _everything,
}
