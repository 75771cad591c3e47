"""Which programs are the same but for names and types: level L1 of the identity ladder.

The key is a hash of a canonical syntax tree:
- layout, comments, quote style, spelling of numbers, redundant parentheses vanish, as they do for Python;
- docstrings, other bare constants and `pass` are dropped, and annotations that are certain to load without an effect;
- local variables are numbered in the order in which they occur: of functions, lambdas, comprehensions, handlers;
- parameters too, where no keyword can reach them (see `Writer._renamable`);
- imports in a row are split into one per name, sorted and made unique, where their order cannot matter, and those of
  types that only dropped annotations used are dropped.
Never renamed: attributes, methods, functions, classes, whatever is global, names with two underscores in a row.
Kept whole: annotations of variables in class bodies (dataclasses), everything in a program that can look at itself
(`locals`, `eval`, `inspect`, `__doc__`, `torch.jit`, ...).
Not covered: reordered definitions, renamed classes and attributes, other ways to compute the same; comments that a
library reads from the source.
Notable: where it is not certain that a rewrite keeps the meaning, the programs stay different. A level that merges too
little costs a training run; one that merges too much loses a program. Messages of errors are not meaning.
"""

import ast
import warnings
from dataclasses import dataclass
from hashlib import blake2b

from memory.syntax_survey import MAX_DEPTH, Survey
from memory.syntax_writer import Writer

SYNTAX_PREFIX = "s1-"  # a change of the algorithm changes the prefix: keys of different algorithms never meet
MAX_CHARACTERS = 200_000


@dataclass(frozen=True)
class SyntaxKey:
    """Identity at level L1: `key`, or None with the reason why the level does not apply."""

    key: str | None
    reason: str = ""


class NotApplicable(Exception):
    """This program has no canonical syntax tree; the message says why."""


def l1(source: str) -> SyntaxKey:
    """The identity of a program up to layout, local names, annotations, docstrings and the order of imports.

    Never raises for any text: what has no identity at this level gets a null key with a reason. Costs milliseconds;
    the program is compiled, not run.
    """
    try:
        canonical = canonical_syntax(source)
    except NotApplicable as error:
        return SyntaxKey(None, str(error))
    digest = blake2b(canonical.encode("utf-8", "surrogatepass"), digest_size=20).hexdigest()
    return SyntaxKey(SYNTAX_PREFIX + digest)


def canonical_syntax(source: str) -> str:
    """What `l1` hashes: the canonical tree, written out.

    Raises:
        NotApplicable: too long, does not compile, or too deeply nested.
    """
    if len(source) > MAX_CHARACTERS:
        raise NotApplicable(f"{len(source):,} characters long; the limit is {MAX_CHARACTERS:,}")
    try:
        tree = _parsed(source.removeprefix("\ufeff"))
        survey = Survey(tree)
        if survey.depth > MAX_DEPTH:
            raise NotApplicable(f"nested more than {MAX_DEPTH} levels deep")
        return Writer(survey).write(tree)
    except (RecursionError, MemoryError):  # the parser's stack is bounded by memory it counts itself
        raise NotApplicable("too deeply nested for the parser") from None


def _parsed(source: str) -> ast.Module:
    if "\x00" in source:
        raise NotApplicable("holds a NUL")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
            compile(tree, "<program>", "exec", dont_inherit=True)  # `return` outside a function parses, for one
    except SyntaxError as error:
        where = "" if error.lineno is None else f" (line {error.lineno})"
        raise NotApplicable(f"does not compile: {error.msg}{where}") from None
    except UnicodeEncodeError:
        raise NotApplicable("holds a lone surrogate") from None
    except (ValueError, OverflowError) as error:
        raise NotApplicable(f"does not compile: {error}") from None
    return tree
