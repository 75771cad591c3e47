"""Entries of the knowledge base, and its symptoms, as text and as data for JSON."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from memory.knowledge_base.entries import Entry, entries
from memory.knowledge_base.query import Match
from memory.symptoms import SYMPTOMS

_WIDTH = 100
_CLAIM = "the authors' claim; not measured by Move37"
_KNOWN_FROM = {"abstract": "read in the abstract", "recalled": "recalled, not looked up"}


def as_dict(entry: Entry) -> dict[str, Any]:
    """All fields of an entry."""
    return asdict(entry)


def match_dict(match: Match) -> dict[str, Any]:
    """All fields of an entry that was found, with its weight and what it was found by."""
    return as_dict(match.entry) | {"weight": round(match.weight, 6), "by": match.by}


def vocabulary() -> list[dict[str, Any]]:
    """Every symptom with its description and the number of entries that treat it, in the vocabulary's order."""
    counts = Counter(symptom for entry in entries() for symptom in entry.symptoms)
    return [{"symptom": name, "description": text, "entries": counts[name]} for name, text in SYMPTOMS.items()]


def vocabulary_text(rows: Sequence[dict[str, Any]]) -> str:
    """The vocabulary as a table."""
    width = max(len(row["symptom"]) for row in rows)
    return "".join(f"{row['symptom']:<{width}}  {row['entries']:>3}  {row['description']}\n" for row in rows)


def list_text(found: Sequence[Match]) -> str:
    """One line for each entry that was found: id, year, title, and what it was found by."""
    if not found:
        return "no entry fits. `move37 knowledge` without options lists them all.\n"
    width = max(len(match.entry.id) for match in found)
    lines = []
    for match in found:
        by = f"  [{', '.join(match.by)}]" if match.by else ""
        lines.append(f"{match.entry.id:<{width}}  {_year(match.entry)}  {match.entry.title}{by}\n")
    return "".join(lines)


def entry_text(entry: Entry) -> str:
    """Everything about an entry, for people."""
    arxiv = f", arXiv {entry.arxiv}" if entry.arxiv else ""
    claims = f"Claims ({_CLAIM}; {_KNOWN_FROM[entry.basis]})"
    parts = [f"{entry.title} ({_year(entry).strip()})", f"{entry.source}{arxiv}"]
    sections = (("Idea", entry.idea), ("When", entry.when), ("Pitfalls", entry.pitfalls), (claims, entry.claims))
    parts += [f"\n{name}\n{_wrapped(text)}" for name, text in sections]
    parts.append(f"\nsymptoms: {', '.join(entry.symptoms)}")
    parts.append(f"tags: {', '.join(entry.tags)}\ntrack: {entry.track}\nid: {entry.id}")
    return "\n".join(parts) + "\n"


def _year(entry: Entry) -> str:
    return f"{entry.year}{'?' if entry.year_recalled else ' '}"


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent="  ")
