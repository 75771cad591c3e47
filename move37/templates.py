"""A campaign's prompt templates: tried before it begins, recorded with it, required whenever it goes on.

The event `prompts` of a campaign has the directory that `--prompts` named, if any, and the content hash of every
template. A campaign from before there was such an event is not checked.

Not covered: rendering, and what a template is shown (`prompts.loader`, `agents`).
"""

import difflib
from pathlib import Path

from agents.rehearsal import rehearse
from memory.records import Campaign
from memory.store import Store
from move37.errors import ConfigError, TemplatesDiffer
from prompts.errors import PromptError, TemplatesChanged
from prompts.loader import SUFFIX, Prompts

_EVENT = "prompts"


def tried(directory: Path | None) -> Prompts:
    """The packaged templates, those of `directory` first, after each was rendered once.

    Raises:
        ConfigError: there is no such directory, a file in it replaces no template, or one cannot be used.
    """
    if directory is not None:
        _check_names(directory)
    prompts = Prompts(directory)
    try:
        rehearse(prompts)
        prompts.hashes()
    except PromptError as error:
        raise ConfigError(f"the prompts cannot be used: {error}") from error
    return prompts


def of_campaign(store: Store, campaign: Campaign, directory: Path | None = None) -> Prompts:
    """The campaign's templates, which are recorded when its first experiment is still to come.

    `directory` is where its own lie now; without it, where they lay when it began.

    Raises:
        ConfigError: they cannot be used.
        TemplatesDiffer: they are not those that it began with.
    """
    events = store.events(campaign.id, kind=_EVENT)
    if not events:
        prompts = tried(directory)
        if not sum(store.by_status(campaign.id).values()):
            place = None if directory is None else str(directory.resolve())
            store.put_event(campaign.id, _EVENT, {"directory": place, "hashes": prompts.hashes()})
        return prompts
    known = events[0].payload
    prompts = tried(directory or recorded_directory(store, campaign.id))
    try:
        prompts.require(known["hashes"])
    except TemplatesChanged as error:
        raise TemplatesDiffer(campaign.name, error.templates) from error
    return prompts


def recorded_directory(store: Store, campaign_id: str) -> Path | None:
    """The directory that a campaign was launched with."""
    events = store.events(campaign_id, kind=_EVENT)
    place = events[0].payload["directory"] if events else None
    return None if place is None else Path(str(place))


def _check_names(directory: Path) -> None:
    if not directory.is_dir():
        raise ConfigError(f"there is no directory of prompts {directory}")
    packaged = Prompts().names
    for path in sorted(directory.glob(f"*{SUFFIX}")):
        included = any(path.name in other.read_text(encoding="utf-8", errors="replace") for other in _others(path))
        if path.name not in packaged and not included:
            near = difflib.get_close_matches(path.name, packaged, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"{path} replaces no template and is included by none.{hint} There are: {', '.join(packaged)}."
            )


def _others(path: Path) -> list[Path]:
    return [other for other in path.parent.glob(f"*{SUFFIX}") if other != path]
