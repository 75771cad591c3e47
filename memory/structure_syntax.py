"""How `memory.structure` walks a syntax tree: what is assigned, what is computed and in which order, what is literal.

Notable: nothing here recurses, so that no depth of nesting exhausts the stack; conditions, indices and the numbers of
shapes are no computation. Not covered: meaning, which is the caller's.
"""

import ast
from collections.abc import Callable, Iterable, Iterator, Sequence

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef
PlainName = Callable[[ast.expr], str]

SHAPES = frozenset({"view", "reshape", "expand", "unsqueeze", "squeeze", "transpose", "permute", "contiguous", "to"})
_MAKERS = frozenset({"zeros", "ones", "empty", "full", "randn", "rand", "arange", "linspace", "eye"})
_UNSEEN = (ast.Raise, ast.Assert, ast.JoinedStr, ast.Lambda, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def imports(tree: ast.Module) -> dict[str, str]:
    """Local name -> dotted name of what was imported, wherever it stands."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def flat(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Statements of a body and of the branches in it, without those of functions and classes."""
    waiting = list(body)[::-1]
    while waiting:
        statement = waiting.pop()
        yield statement
        if not isinstance(statement, FunctionNode | ast.ClassDef):
            waiting.extend(reversed(_held(statement)))


def _held(statement: ast.stmt) -> list[ast.stmt]:
    """The statements directly inside a compound one, handlers and cases included."""
    found: list[ast.stmt] = []
    for child in ast.iter_child_nodes(statement):
        if isinstance(child, ast.stmt):
            found.append(child)
        elif isinstance(child, ast.ExceptHandler | ast.match_case):
            found += child.body
    return found


def nested(node: FunctionNode) -> Iterator[FunctionNode]:
    return (inner for inner in flat(node.body) if isinstance(inner, FunctionNode))


def assignments(statement: ast.stmt) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Target and value, `a, b = 1, 2` taken apart."""
    if isinstance(statement, ast.AnnAssign) and statement.value is not None:
        yield statement.target, statement.value
    elif isinstance(statement, ast.Assign):
        for target in statement.targets:
            value = statement.value
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
                yield from zip(target.elts, value.elts, strict=True)
            else:
                yield target, value


def stages_of(value: ast.expr) -> Sequence[ast.expr] | None:
    """The stages of `Sequential(a, b)`, `ModuleList([a, b])`; None when they are not written out."""
    if not isinstance(value, ast.Call) or value.keywords:
        return None
    stages = value.args
    if len(stages) == 1 and isinstance(stages[0], ast.List | ast.Tuple):
        stages = stages[0].elts
    return stages if stages and all(isinstance(stage, ast.Call) for stage in stages) else None


def evaluated(function: FunctionNode, plain_name: PlainName) -> Iterator[ast.AST]:
    """The nodes of a function's body, operands before what is done with them; loops before their bodies."""
    constructor = function.name == "__init__"
    waiting: list[tuple[ast.AST, bool]] = [(statement, False) for statement in reversed(function.body)]
    while waiting:
        node, ready = waiting.pop()
        if ready:
            yield node
            continue
        if isinstance(node, _UNSEEN) or (constructor and isinstance(node, ast.Assign | ast.AnnAssign)):
            continue
        if isinstance(node, ast.For | ast.While | ast.AsyncFor):
            yield node
        else:
            waiting.append((node, True))
        waiting.extend((child, False) for child in reversed(operands(node, plain_name)))


def operands(node: ast.AST, plain_name: PlainName) -> list[ast.AST]:
    """The children that compute something: no indices, no conditions, no numbers for shapes."""
    match node:
        case ast.Subscript(value=value) | ast.AugAssign(value=value) | ast.Assign(value=value):
            return [value]
        case ast.AnnAssign(value=value):
            return [value] if value is not None else []
        case ast.IfExp(body=body, orelse=orelse):
            return [body, orelse]
        case ast.If(body=statements, orelse=others) | ast.While(body=statements, orelse=others):
            return [*statements, *others]
        case ast.For(iter=source, body=statements, orelse=others):
            return [source, *statements, *others]
        case ast.Call(func=func, args=arguments, keywords=keywords):
            held = [func.value] if isinstance(func, ast.Attribute) and dotted_name(func) is None else []
            name = plain_name(func)
            if name in _MAKERS or name in SHAPES or name in {"range", "len", "int", "min", "max"}:
                return [*held]
            return [*held, *arguments, *(keyword.value for keyword in keywords)]
    return list(ast.iter_child_nodes(node))


def dotted_name(node: ast.expr) -> str | None:
    """`a.b.c` as text; None for anything but names and attributes."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([node.id, *reversed(parts)])


def literal(node: ast.expr) -> str | None:
    """A number, a string, a constant such as `torch.float32`, or a tuple of them, as text; None for anything else."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and isinstance(node.operand, ast.Constant):
        return f"-{node.operand.value!r}"
    if isinstance(node, ast.Constant) and node.value is not ...:
        return repr(node.value)
    if isinstance(node, ast.Attribute):
        dotted = dotted_name(node) or ""
        return dotted.rpartition(".")[2] if dotted.startswith("torch.") else None
    if isinstance(node, ast.Tuple | ast.List) and len(node.elts) <= 16:
        parts = [literal(element) for element in node.elts if not isinstance(element, ast.Tuple | ast.List)]
        texts = [part for part in parts if part is not None]
        return f"({', '.join(texts)})" if texts and len(texts) == len(node.elts) else None
    return None
