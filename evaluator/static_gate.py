"""Static gates: what can be said of a program on the host without running any of it.

Only `ast.parse` and, in an interpreter of its own, `compile` touch the text. In order, stopping at the first failure:
text (size, NUL bytes, UTF-8), syntax (parses, compiles), contract (`build_mixer` or `build_block` with three positional
parameters), imports.
Not covered: safety. The import list keeps honest programs within the contract and gives their authors an early, precise
message; a determined program is held by the sandbox, not by this lint.
"""

import ast
import warnings
from collections.abc import Callable, Iterator

from evaluator.compiling import Complaint, complaint
from evaluator.errors import UnknownTrack
from evaluator.verdict import Verdict, failed, passed

MAX_PROGRAM_BYTES = 64 * 1024
ENTRY_POINTS = {"sequence": ("build_mixer", "build_block")}
ALLOWED_IMPORTS = frozenset(
    {
        "__future__", "abc", "bisect", "cmath", "collections", "contextlib", "copy", "dataclasses", "decimal", "einops",
        "enum", "fractions", "functools", "heapq", "itertools", "math", "numbers", "operator", "random", "re",
        "statistics", "string", "textwrap", "torch", "types", "typing", "warnings",
    }
)  # fmt: skip
# Parts of torch that reach files, networks, compilers or other processes.
FORBIDDEN_IMPORTS = frozenset(
    {
        "torch.cuda", "torch.distributed", "torch.hub", "torch.jit", "torch.multiprocessing", "torch.onnx",
        "torch.package", "torch.utils.cpp_extension", "torch.utils.data",
    }
)  # fmt: skip
_DYNAMIC_IMPORTS = frozenset({"__import__", "import_module", "importlib"})

Compiles = Callable[[str], Complaint | None]
STATIC_GATES = ("text", "syntax", "contract", "imports")


def static_gates(
    source: str | bytes,
    *,
    track: str = "sequence",
    extra_imports: frozenset[str] = frozenset(),
    compiles: Compiles = complaint,
) -> tuple[Verdict, ...]:
    """Verdicts of the static gates, up to and including the first failure.

    Not for several threads at once: CPython up to 3.12 counts the depth of syntax trees per interpreter and fails with
    a SystemError where two threads parse.

    Args:
        compiles: what the compiler has against a text that parses; it is asked in a process of its own.
        extra_imports: top-level modules that a campaign allows beyond `ALLOWED_IMPORTS`.

    Raises:
        UnknownTrack: there is no such track.
        CompilerUnavailable: no interpreter starts to compile the program in.
    """
    if track not in ENTRY_POINTS:
        raise UnknownTrack(track, ENTRY_POINTS)
    text = read_text(source)
    if isinstance(text, Verdict):
        return (text,)
    verdicts = [passed("text")]
    tree = _parse(text, compiles)
    if isinstance(tree, Verdict):
        return (*verdicts, tree)
    verdicts.append(passed("syntax"))
    steps: tuple[Callable[[], Verdict], ...] = (
        lambda: _contract(tree, track),
        lambda: _imports(tree, ALLOWED_IMPORTS | extra_imports),
    )
    for step in steps:
        verdicts.append(step())
        if not verdicts[-1].passed:
            break
    return tuple(verdicts)


def read_text(source: str | bytes) -> str | Verdict:
    """The text of a program, or why it has none that can be looked at."""
    try:
        data = source if isinstance(source, bytes) else source.encode("utf-8")
    except UnicodeEncodeError as error:
        line = source[: error.start].count("\n") + 1 if isinstance(source, str) else None
        said = f"The program is not Unicode: {error.reason} on line {line}; remove that character."
        return failed("text", "not_utf8", said, line=line)
    if len(data) > MAX_PROGRAM_BYTES:
        return failed(
            "text",
            "too_large",
            f"The program has {len(data)} bytes; at most {MAX_PROGRAM_BYTES} are accepted: shorten it.",
            line=data[:MAX_PROGRAM_BYTES].count(b"\n") + 1,
        )
    if b"\0" in data:
        line = data[: data.index(b"\0")].count(b"\n") + 1
        return failed("text", "nul_byte", f"The program holds a NUL byte on line {line}: remove it.", line=line)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        said = f"The program is not UTF-8: {error.reason} on line {line}; save it as UTF-8."
        return failed("text", "not_utf8", said, line=line)


def _parse(text: str, compiles: Compiles) -> ast.Module | Verdict:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd escape in a docstring is not worth a word
        try:
            tree = ast.parse(text, filename="<program>")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            line = error.lineno if isinstance(error, SyntaxError) else None
            said = error.msg if isinstance(error, SyntaxError) else (str(error) or type(error).__name__)
            return _syntax_failure("does_not_parse", "parse", said, line)
    found = compiles(text)
    return tree if found is None else _syntax_failure("does_not_compile", "compile", found.said, found.line)


def _syntax_failure(reason: str, verb: str, said: str, line: int | None) -> Verdict:
    where = f" on line {line}" if line else ""
    return failed("syntax", reason, f"The program does not {verb}: {said}{where}.", line=line)


def _contract(tree: ast.Module, track: str) -> Verdict:
    entry_points = ENTRY_POINTS[track]
    wanted = " or ".join(f"{name}(d_model, layer_index, n_layers)" for name in entry_points)
    found = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in entry_points]
    if not found:
        line = _misplaced(tree, entry_points)
        where = "" if line is None else f"; line {line} only comes close: a def at the top level is needed"
        said = f"The program must define a top-level function {wanted}{where}."
        return failed("contract", "contract_missing", said, line=line)
    if len({node.name for node in found}) > 1:
        return failed(
            "contract",
            "contract_signature",
            f"The program defines {' and '.join(sorted({node.name for node in found}))}: keep exactly one of them.",
            line=found[-1].lineno,
        )
    entry = found[-1]
    arguments = entry.args
    positional = len(arguments.posonlyargs) + len(arguments.args)
    required = positional - len(arguments.defaults)
    keywords_required = sum(default is None for default in arguments.kw_defaults)
    takes_three = required <= 3 and (positional >= 3 or arguments.vararg is not None)
    if not takes_three or keywords_required:
        return failed(
            "contract",
            "contract_signature",
            f"{entry.name} on line {entry.lineno} must be callable with three positional arguments: "
            f"{entry.name}(d_model, layer_index, n_layers).",
            line=entry.lineno,
        )
    return passed("contract", _device_warning(tree), entry_point=entry.name)


def _misplaced(tree: ast.Module, names: tuple[str, ...]) -> int | None:
    """The line that defines an entry point in another way: nested, async, assigned, as a class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name in names:
            return node.lineno
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in names:
            return node.lineno
    return None


def _device_warning(tree: ast.Module) -> str:
    """A word on naming a device, which works on no machine but the author's. The dynamic gates judge it."""
    for node in ast.walk(tree):
        named = isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("cuda")
        if named or (isinstance(node, ast.Attribute) and node.attr == "cuda"):
            line = getattr(node, "lineno", 0)
            return f"Line {line} names a device: create tensors with device=x.device, or register them as buffers."
    return ""


def _imports(tree: ast.Module, allowed: frozenset[str]) -> Verdict:
    for module, line in _imported(tree):
        if module.startswith("."):
            return _import_failure("The program uses a relative import", line, allowed)
        if module in _DYNAMIC_IMPORTS:
            return _import_failure(f"The program imports dynamically through {module}", line, allowed)
        if module.split(".")[0] not in allowed or _forbidden(module):
            return _import_failure(f"The program imports {module}", line, allowed)
    return passed("imports")


def _forbidden(module: str) -> bool:
    return any(module == name or module.startswith(name + ".") for name in FORBIDDEN_IMPORTS)


def _import_failure(what: str, line: int, allowed: frozenset[str]) -> Verdict:
    message = f"{what} on line {line}; allowed are: {', '.join(sorted(allowed))}."
    return failed("imports", "import_not_allowed", message, line=line)


def _imported(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every module named by an import, `from torch import hub` as `torch.hub` too, and dynamic imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield "." * node.level + (node.module or ""), node.lineno
            else:
                module = node.module or ""
                yield module, node.lineno
                yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)
        elif isinstance(node, ast.Name) and node.id in _DYNAMIC_IMPORTS:
            yield node.id, node.lineno
        elif isinstance(node, ast.Attribute) and node.attr in _DYNAMIC_IMPORTS:
            yield node.attr, node.lineno
