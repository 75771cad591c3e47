"""Renders prompt templates; a template is known by its content hash.

Notable:
* a hole without a value and a value without a hole are both errors: a prompt that silently lacks its evidence is
  the costliest kind of bug here;
* rendering is byte-stable: no clock, no environment, no locale; mappings render in the order they are given;
* text that a model or a candidate wrote enters through `inline` (one line, capped) or `fence` (inside a fence longer
  than any fence in it, capped), so that it cannot end its own quotation; characters that cannot be seen (controls,
  direction marks, tags) are dropped from both, and the marks that chat servers put around roles are defused;
* templates run in Jinja's sandbox, since people pass directories of them on.

Not covered: deciding what to show (the campaign's), and whether a model obeys what it is told.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jinja2
import jinja2.meta
import jinja2.sandbox

from prompts.errors import HoleMismatch, TemplateBroken, TemplateMissing, TemplatesChanged

PACKAGED = Path(__file__).parent / "templates"
SUFFIX = ".md.j2"
FENCED_CAP_CHARS = 24_000
INLINE_CAP_CHARS = 300

_RUN_OF_MARKS = re.compile(r"`{3,}|~{3,}")
_LONG_RUN = re.compile(r"`{17,}|~{17,}")
_PLAIN = re.compile(r"[\n\t\x20-\x7e]*")
_UNSEEN = frozenset({"Cc", "Cf", "Cs"})
_READ_PER_SHOWN = 16  # of a text much longer than its cap, only so much is looked at


@dataclass(frozen=True, slots=True)
class Rendered:
    """A rendered template. `template_hash` covers the template and everything it includes."""

    text: str
    template_hash: str
    name: str


@dataclass(frozen=True, slots=True)
class _Analysed:
    holes: frozenset[str]
    content_hash: str


class Prompts:
    """The packaged templates; those of `directory`, where given, come first.

    Raises:
        HoleMismatch: from `render`, when context and holes differ.
        TemplateMissing: from `render`, when there is no such template.
        TemplateBroken: from `render` and `hashes`, when a template cannot be read or rendered.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directories = [path for path in (directory, PACKAGED) if path is not None]
        self._environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            loader=jinja2.FileSystemLoader(self._directories, encoding="utf-8"),
            undefined=jinja2.StrictUndefined,
            autoescape=False,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            auto_reload=False,
        )
        self._environment.filters.update(
            inline=inline, fence=fence, number=number, signed=signed, values=values, interval=interval
        )
        self._analysed: dict[str, _Analysed] = {}

    def render(self, name: str, /, **context: Any) -> Rendered:
        """Render one template with exactly the values it asks for."""
        analysed = self._analyse(name)
        missing = sorted(analysed.holes - context.keys())
        unused = sorted(context.keys() - analysed.holes)
        if missing or unused:
            raise HoleMismatch(name, missing=missing, unused=unused)
        try:
            text = self._environment.get_template(name).render(context)
        except jinja2.UndefinedError as error:
            raise HoleMismatch(name, missing=[str(error.message)]) from error
        except (jinja2.TemplateError, ArithmeticError, TypeError, ValueError, LookupError) as error:
            raise TemplateBroken(name, str(error)) from error
        return Rendered(text=text.strip() + "\n", template_hash=analysed.content_hash, name=name)

    @property
    def names(self) -> tuple[str, ...]:
        """The templates there are."""
        return tuple(name for name in sorted(self._environment.list_templates()) if name.endswith(SUFFIX))

    def hashes(self) -> dict[str, str]:
        """The content hash of every template, each with what it includes."""
        return {name: self._analyse(name).content_hash for name in self.names}

    def require(self, recorded: Mapping[str, str]) -> None:
        """Says nothing where the templates are those of `recorded` hashes.

        Raises:
            TemplatesChanged: names those that are not.
        """
        now = self.hashes()
        changed = sorted(name for name in now.keys() | recorded.keys() if now.get(name) != recorded.get(name))
        if changed:
            raise TemplatesChanged(changed)

    def _analyse(self, name: str) -> _Analysed:
        if name not in self._analysed:
            sources: dict[str, str] = {}
            holes = self._collect(name, sources)
            digest = hashlib.sha256()
            for included in sorted(sources):
                digest.update(f"{included}\0{len(sources[included].encode())}\0{sources[included]}".encode())
            self._analysed[name] = _Analysed(frozenset(holes), digest.hexdigest())
        return self._analysed[name]

    def _collect(self, name: str, sources: dict[str, str]) -> set[str]:
        loader = self._environment.loader
        assert loader is not None
        try:
            source, _, _ = loader.get_source(self._environment, name)
        except jinja2.TemplateNotFound:
            raise TemplateMissing(name, [str(path) for path in self._directories]) from None
        except (OSError, UnicodeDecodeError) as error:
            raise TemplateBroken(name, str(error)) from error
        sources[name] = source
        try:
            tree = self._environment.parse(source)
            holes = jinja2.meta.find_undeclared_variables(tree)
        except jinja2.TemplateSyntaxError as error:  # an unknown filter is one too
            raise TemplateBroken(name, str(error.message), error.lineno) from error
        for included in jinja2.meta.find_referenced_templates(tree):
            if included is not None and included not in sources:
                holes |= self._collect(included, sources)
        return holes


def inline(text: object, cap: int = INLINE_CAP_CHARS) -> str:
    """Foreign text on one line: white space collapsed, unprintable characters dropped, code marks defused, capped."""
    whole = str(text)
    read = whole[: _READ_PER_SHOWN * cap]
    kept = read if _PLAIN.fullmatch(read) else _seen(read)
    line = _RUN_OF_MARKS.sub("''", " ".join(kept.split())).replace("|", "¦")
    return line if len(line) <= cap and len(read) == len(whole) else f"{line[: cap - 1]}…"


def _seen(text: str) -> str:
    return "".join(
        " " if character.isspace() else character
        for character in text
        if character.isspace() or unicodedata.category(character) not in _UNSEEN
    )


def fence(text: object, info: str = "text", cap: int = FENCED_CAP_CHARS) -> str:
    """Foreign text in a fence that is longer than any run of marks inside it.

    What is over the cap is cut out of the middle, with a line that says how much: beginnings hold definitions and
    endings hold the error.
    """
    body = str(text).replace("\r\n", "\n").replace("\r", "\n")
    if len(body) > cap:
        half = cap // 2
        body = f"{body[:half]}\n[... {len(body) - 2 * half} characters cut ...]\n{body[-half:]}"
    body = body.replace("\u2028", "\n").replace("\u2029", "\n")
    if not _PLAIN.fullmatch(body):
        body = "".join(c for c in body if c in "\n\t" or unicodedata.category(c) not in _UNSEEN)
    body = body.replace("<|", "<¦").replace("|>", "¦>")
    body = _LONG_RUN.sub(lambda run: run[0][:16], body)
    longest = max((len(marks) for marks in _RUN_OF_MARKS.findall(body)), default=2)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{info}\n{body.rstrip()}\n{marks}"


def number(value: float | None, digits: int = 3) -> str:
    """A fixed-point number, or what its absence means."""
    return "not measured" if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """A difference with its sign."""
    return "not measured" if value is None else f"{value:+.{digits}f}"


class _Difference(Protocol):
    @property
    def estimate(self) -> float: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...
    @property
    def seeds(self) -> int: ...


def interval(difference: _Difference, digits: int = 3) -> str:
    """A difference with its confidence interval, or why there is none."""
    low, high = difference.low, difference.high
    if low is None or high is None:
        return f"{difference.estimate:+.{digits}f} (one seed: no interval)"
    return f"{difference.estimate:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}] over {difference.seeds} seeds"


def values(per_seed: Mapping[str, list[float]], key: str, digits: int = 3) -> str:
    """The values of one row seed by seed; a dash where there are none."""
    return ", ".join(f"{value:.{digits}f}" for value in per_seed.get(key, ())) or "-"
