"""The manifest of an archive: what is in it, of which versions, and the checksum of everything.

`as_of` is the newest moment that any row of the campaigns holds, not the clock of the export: the same store gives
the same bytes, whenever it is asked.
"""

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

FORMAT = "move37-archive"
VERSION = 1
NAME = "manifest.json"
MAX_BYTES = 8 * 2**20


class BadManifest(ValueError):
    """The text is no manifest; the message says why."""


@dataclass(frozen=True)
class FileEntry:
    """One file of the archive: SHA-256 of its bytes, how many, and how many rows."""

    sha256: str
    bytes: int
    rows: int


@dataclass(frozen=True)
class CampaignEntry:
    """A campaign in the archive."""

    id: str
    name: str


@dataclass(frozen=True)
class Requirement:
    """What the archive's campaigns point at in a campaign that is not in it: keys by table."""

    id: str
    name: str
    rows: dict[str, list[str]]


@dataclass(frozen=True)
class Manifest:
    """Everything that the manifest says. `campaign` was asked for; `campaigns` has it and its origins, if included."""

    schema_revision: str
    written_by: str
    campaign: CampaignEntry
    campaigns: list[CampaignEntry]
    requires: list[Requirement]
    as_of: str | None
    files: dict[str, FileEntry]
    programs: int
    format: str = FORMAT
    version: int = field(default=VERSION)

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


def header(data: bytes) -> dict[str, Any]:
    """The manifest's object, of whatever version; raises `BadManifest`."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadManifest(f"{NAME} is not JSON ({error})") from error
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise BadManifest(f"{NAME} is not one of Move37's")
    return value


def parse(value: dict[str, Any]) -> Manifest:
    """The manifest of this version; raises `BadManifest`."""
    try:
        manifest = Manifest(
            schema_revision=value["schema_revision"],
            written_by=value["written_by"],
            campaign=CampaignEntry(**value["campaign"]),
            campaigns=[CampaignEntry(**one) for one in value["campaigns"]],
            requires=[Requirement(**one) for one in value["requires"]],
            as_of=value["as_of"],
            files={name: FileEntry(**entry) for name, entry in value["files"].items()},
            programs=value["programs"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise BadManifest(f"{NAME} is incomplete or of another shape ({error!r})") from error
    if set(value) != {one.name for one in fields(Manifest)}:
        raise BadManifest(f"{NAME} has other fields than version {VERSION} of the format")
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    texts: list[Any] = [manifest.schema_revision, manifest.written_by, *(e.sha256 for e in manifest.files.values())]
    for one in [manifest.campaign, *manifest.campaigns]:
        texts += [one.id, one.name]
    numbers: list[Any] = [manifest.programs]
    for entry in manifest.files.values():
        numbers += [entry.bytes, entry.rows]
    for requirement in manifest.requires:
        if not isinstance(requirement.rows, dict) or not all(isinstance(k, list) for k in requirement.rows.values()):
            raise BadManifest(f"{NAME}: the rows of a requirement are lists of keys by table")
        texts += [requirement.id, requirement.name]
        texts += [key for keys in requirement.rows.values() for key in keys]
    if not all(isinstance(text, str) for text in texts):
        raise BadManifest(f"{NAME} holds something else where a text has to be")
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise BadManifest(f"{NAME} holds something else where a count has to be")
    if manifest.campaign not in manifest.campaigns:
        raise BadManifest(f"{NAME} does not list its own campaign")
