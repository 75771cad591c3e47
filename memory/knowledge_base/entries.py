"""The entries: TOML files beside this module, one per topic, read once and checked strictly.

Nothing is read before it is asked for. A file that breaks a rule is an error with the file's and the entry's name, and
then no entry is handed out: a knowledge base with holes would answer differently without saying so.

Not covered: whether a claim is true. Claims are their authors', never measurements of Move37. `basis` says how an
entry's claims came to be known: "abstract" was read in the paper's abstract, "recalled" is from memory and unchecked.
"""

import difflib
import functools
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from memory.errors import MemoryStoreError, NotFound
from memory.symptoms import SYMPTOMS

Track = Literal["sequence", "vision", "both"]
Basis = Literal["abstract", "recalled"]

FIRST_YEAR, LAST_YEAR = 1980, 2100

_FOLDER = Path(__file__).parent
_TEXTS = ("id", "title", "source", "idea", "when", "pitfalls", "claims", "basis", "track")
_LISTS = ("tags", "symptoms")
_OPTIONAL = {"arxiv", "year_recalled"}
_SLUG = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_ARXIV = re.compile(r"\d{4}\.\d{4,5}")


class KnowledgeBroken(MemoryStoreError):
    """A file of the knowledge base breaks a rule."""

    def __init__(self, file: str, entry: str | None, why: str) -> None:
        where = f"entry {entry!r} of {file}" if entry else file
        super().__init__(f"the knowledge base cannot be used: {where}: {why}. docs/knowledge.md has the rules")
        self.file = file
        self.entry = entry
        self.why = why


@dataclass(frozen=True)
class Entry:
    """A published building block or finding, in our own words.

    Attributes:
        year: of the first publication; `year_recalled` where it was not looked up.
        arxiv: the identifier of the preprint, where known for certain.
        claims: what the authors say they found. Not a measurement of ours.
        when, pitfalls: our judgement.
        topic: the name of the file it stands in.
    """

    id: str
    title: str
    year: int
    source: str
    idea: str
    when: str
    pitfalls: str
    claims: str
    basis: Basis
    tags: tuple[str, ...]
    symptoms: tuple[str, ...]
    track: Track
    topic: str
    arxiv: str | None = None
    year_recalled: bool = False


_KNOWN = {field.name for field in fields(Entry)} - {"topic"}
_REQUIRED = _KNOWN - _OPTIONAL


@functools.cache
def entries() -> tuple[Entry, ...]:
    """All entries, ordered by id. Read at the first call, kept afterwards.

    Raises:
        KnowledgeBroken: a file of the package breaks a rule.
    """
    return load(sorted(_FOLDER.glob("*.toml")))


def load(files: Iterable[Path]) -> tuple[Entry, ...]:
    """The entries of these files, ordered by id.

    Raises:
        KnowledgeBroken: a file cannot be read or breaks a rule.
    """
    found: dict[str, Entry] = {}
    for path in files:
        for number, raw in enumerate(_tables(path), start=1):
            one = _entry(path, number, raw)
            if one.id in found:
                raise KnowledgeBroken(path.name, one.id, f"its id is also in {found[one.id].topic}.toml")
            found[one.id] = one
    return tuple(found[key] for key in sorted(found))


def entry(entry_id: str) -> Entry:
    """The entry with this id.

    Raises:
        NotFound: there is none; the message names what is spelt alike.
    """
    known = {one.id: one for one in entries()}
    if entry_id not in known:
        raise NotFound("knowledge entry", entry_id, near(entry_id, known) or "`move37 knowledge` lists them")
    return known[entry_id]


def near(word: str, known: Iterable[str]) -> str:
    """A question that names up to three known words spelt alike; "" where there are none."""
    alike = difflib.get_close_matches(word, sorted(known), n=3, cutoff=0.5)
    return f"Did you mean {' or '.join(map(repr, alike))}?" if alike else ""


def _tables(path: Path) -> list[Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise KnowledgeBroken(path.name, None, f"it cannot be read: {error}") from error
    tables = document.get("entry")
    if set(document) != {"entry"} or not isinstance(tables, list):
        raise KnowledgeBroken(path.name, None, f"it holds {sorted(document)}, expected tables [[entry]] only")
    return tables


def _entry(path: Path, number: int, raw: Any) -> Entry:
    name = raw.get("id") if isinstance(raw, Mapping) else None
    shown = name if isinstance(name, str) and name else f"number {number}"
    why = _fault(raw) if isinstance(raw, Mapping) else "it is no table"
    if why:
        raise KnowledgeBroken(path.name, shown, why)
    values: dict[str, Any] = dict(raw)
    values |= {key: " ".join(raw[key].split()) for key in _TEXTS}
    values |= {key: tuple(raw[key]) for key in _LISTS}
    return Entry(**values, topic=path.stem)


def _fault(raw: Mapping[str, Any]) -> str:
    """What is wrong with an entry, "" if nothing is."""
    missing, unknown = sorted(_REQUIRED - raw.keys()), sorted(raw.keys() - _KNOWN)
    if missing or unknown:
        return f"missing fields {missing}, unknown fields {unknown}"
    for key in _TEXTS:
        if not isinstance(raw[key], str) or not raw[key].strip():
            return f"{key} is not a text with words in it"
    for key in _LISTS:
        if not _distinct_texts(raw[key]):
            return f"{key} is not a list of at least one text, each once"
    if type(raw["year"]) is not int or not FIRST_YEAR <= raw["year"] <= LAST_YEAR:
        return f"year is {raw['year']!r}, expected a whole number from {FIRST_YEAR} to {LAST_YEAR}"
    if not isinstance(raw.get("year_recalled", False), bool):
        return "year_recalled is neither true nor false"
    arxiv = raw.get("arxiv", "0000.0000")
    if not isinstance(arxiv, str) or not _ARXIV.fullmatch(arxiv):
        return f"arxiv is {arxiv!r}, expected four digits, a dot and four or five digits"
    return _fault_of_words(raw)


def _fault_of_words(raw: Mapping[str, Any]) -> str:
    for slug in (raw["id"], *raw["tags"]):
        if not _SLUG.fullmatch(slug):
            return f"{slug!r} is not of the form small-letters-and-digits"
    for symptom in raw["symptoms"]:
        if symptom not in SYMPTOMS:
            return f"there is no symptom {symptom!r}. {near(symptom, SYMPTOMS)}".rstrip(". ")
    for key, allowed in (("track", get_args(Track)), ("basis", get_args(Basis))):
        if raw[key] not in allowed:
            return f"{key} is {raw[key]!r}, expected one of {', '.join(allowed)}"
    return ""


def _distinct_texts(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(x, str) for x in value)
        and len({*value}) == len(value)
    )
