"""`knowledge`: reading the knowledge base by symptom, by word or by id. Needs no store and no campaign."""

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from move37.cli.guard import guarded
from move37.cli.inspecting import write_json
from move37.cli.options import AsJson

if TYPE_CHECKING:
    from memory.knowledge_base.query import Match


class KnowledgeTrack(StrEnum):
    """What `--track` takes; `both` means whichever."""

    SEQUENCE = "sequence"
    VISION = "vision"
    BOTH = "both"


@guarded
def knowledge(
    symptom: Annotated[
        list[str] | None,
        typer.Option("--symptom", "-s", help="Entries that treat this; may be repeated.", show_default=False),
    ] = None,
    search: Annotated[
        str | None, typer.Option("--search", help="Words in title, idea or tags.", show_default=False)
    ] = None,
    show: Annotated[
        str | None, typer.Option("--show", metavar="ID", help="Everything about one entry.", show_default=False)
    ] = None,
    symptoms: Annotated[bool, typer.Option("--symptoms", help="The vocabulary of symptoms.")] = False,
    track: Annotated[
        KnowledgeTrack, typer.Option("--track", "-t", help="sequence, vision or both.")
    ] = KnowledgeTrack.BOTH,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="At most so many entries.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show what is published on building blocks, by symptom or by word."""
    from move37.errors import ConfigError
    from move37.report import knowledge as report

    asked = [name for name, given in _given(symptom, search, show, symptoms) if given]
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked)} are different questions: ask one at a time")
    if symptoms:
        vocabulary = report.vocabulary()
        _answer(vocabulary, report.vocabulary_text(vocabulary), as_json=as_json)
        return
    if show is not None:
        from memory.knowledge_base.entries import entry

        one = entry(show)
        _answer(report.as_dict(one), report.entry_text(one), as_json=as_json)
        return
    found = _found(symptom, search, track.value, limit)
    _answer([report.match_dict(match) for match in found], report.list_text(found), as_json=as_json)


def _given(symptom: list[str] | None, search: str | None, show: str | None, symptoms: bool) -> list[tuple[str, bool]]:
    return [
        ("--symptom", bool(symptom)),
        ("--search", search is not None),
        ("--show", show is not None),
        ("--symptoms", symptoms),
    ]


def _found(symptom: list[str] | None, search: str | None, track: Any, limit: int | None) -> "tuple[Match, ...]":
    from memory.knowledge_base import query

    if symptom:
        return query.for_symptoms(symptom, track=track, limit=limit)
    if search is not None:
        return query.search(search, limit, track=track)
    return tuple(query.Match(one, 0.0, ()) for one in query.on_track(track)[:limit])


def _answer(data: Any, text: str, *, as_json: bool) -> None:
    if as_json:
        write_json(data)
    else:
        sys.stdout.write(text)
