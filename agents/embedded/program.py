"""Reads the design of a shown program: what does `build_mixer` return for which layer?

Understood: assignments of known compositions to local names, one `if` on `layer_index` (with else, or an early
return), and the same as a conditional expression. Everything else is opaque, and then the grammar proposes from the
exemplars or afresh. The program is parsed and never run.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

from agents.embedded.genome import Mixer, Names, Rule, canonical_mixer, tree_of

# Conditions on the layer, as `ast.unparse` writes them: the rule, and whether the rule's tree is in the else branch.
_CONDITIONS: dict[str, tuple[Rule, bool]] = {
    "layer_index % 2 == 0": ("alternate", False),
    "layer_index % 2 == 1": ("alternate", True),
    "layer_index % 2": ("alternate", True),
    "layer_index % 2 != 0": ("alternate", True),
    "layer_index == 0": ("first", False),
    "not layer_index": ("first", False),
    "layer_index > 0": ("first", True),
    "layer_index": ("first", True),
    "layer_index == n_layers - 1": ("last", False),
    "layer_index < n_layers - 1": ("last", True),
    "layer_index != n_layers - 1": ("last", True),
}


def read_program(source: str, d_model: int) -> Mixer | None:
    """The design of a program at a width, or None where it is not made of the grammar's classes."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    builders = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "build_mixer"]
    return _block(builders[-1].body, {"d_model": ast.Constant(d_model)}) if builders else None


def _block(body: Sequence[ast.stmt], names: Names) -> Mixer | None:
    local = dict(names)
    for position, statement in enumerate(body):
        match statement:
            case ast.Expr(ast.Constant()):
                continue
            case ast.Assign([ast.Name(name)], value) | ast.AnnAssign(ast.Name(name), _, ast.expr() as value):
                local[name] = value
            case ast.Return(ast.IfExp(test, yes, no)):
                return _chosen(test, _single(yes, local), _single(no, local))
            case ast.Return(ast.Name(name)) if isinstance(local.get(name), ast.IfExp):
                chosen = local[name]
                assert isinstance(chosen, ast.IfExp)
                return _chosen(chosen.test, _single(chosen.body, local), _single(chosen.orelse, local))
            case ast.Return(ast.expr() as value):
                return _single(value, local)
            case ast.If(test, yes_body, no_body):
                rest = body[position + 1 :]
                return _chosen(test, _block([*yes_body, *rest], local), _block([*no_body, *rest], local))
            case _:
                return None
    return None


def _single(value: ast.expr, names: Names) -> Mixer | None:
    tree = tree_of(value, names)
    return None if tree is None else canonical_mixer(Mixer(tree))


def _chosen(test: ast.expr, yes: Mixer | None, no: Mixer | None) -> Mixer | None:
    condition = _CONDITIONS.get(ast.unparse(test))
    if condition is None or yes is None or no is None or yes.other is not None or no.other is not None:
        return None
    rule, negated = condition
    selected, remaining = (no, yes) if negated else (yes, no)
    return canonical_mixer(Mixer(selected.tree, rule, remaining.tree))
