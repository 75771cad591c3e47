"""What can go wrong in a campaign, and the exit code each has at the command line.

    Move37Error (4)
    ├── ConfigError (2)          the user's configuration or flags
    │   └── TemplatesDiffer      prompt templates are not those that a campaign began with
    ├── NotThere (2)             a campaign or experiment that was asked for does not exist, or has no result yet
    ├── CampaignBusy (2)         another process is running this campaign
    ├── ReplayDiverged (1)       a replay did not reproduce what is stored
    ├── BudgetExhausted (3)      carries kind, used, limit
    ├── CampaignPaused (4)       infrastructure failed; the campaign can be resumed
    └── Interrupted (130)        Ctrl-C

A candidate failing is a value, never one of these.
"""

from collections.abc import Sequence


class Move37Error(Exception):
    """An error of ours with a message for the user."""

    exit_code = 4


class ConfigError(Move37Error):
    """The configuration or a flag cannot be honoured."""

    exit_code = 2


class TemplatesDiffer(ConfigError):
    """The prompt templates are not those that the campaign began with.

    Attributes:
        templates: Those that changed, by name.
    """

    def __init__(self, campaign: str, templates: Sequence[str]) -> None:
        self.templates = tuple(templates)
        super().__init__(
            f"'{campaign}' began with other prompt templates: {', '.join(self.templates)} changed since. It can be "
            "neither continued nor replayed as it began. Give the directory it began with (--prompts), or use the "
            "version of Move37 that launched it; `move37 fork` goes on from any of its experiments with the new ones."
        )


class NotThere(Move37Error):
    """The named campaign or experiment is not in the store, or what is asked of it is not: nothing to work on."""

    exit_code = 2


class CampaignBusy(Move37Error):
    """A live process holds this campaign."""

    exit_code = 2


class ReplayDiverged(Move37Error):
    """A replay asked for something that is not stored, or reached another result."""

    exit_code = 1


class BudgetExhausted(Move37Error):
    """A budget is spent, or what is left of it is less than the next call may use (`needed`); no new work starts."""

    exit_code = 3

    def __init__(self, kind: str, used: float, limit: float, *, needed: float | None = None) -> None:
        more = "" if needed is None else f", and the next call may use {needed:.6g}"
        super().__init__(f"the {kind} budget is spent: {used:.6g} of {limit:.6g}{more}")
        self.kind = kind
        self.used = used
        self.limit = limit


class CampaignPaused(Move37Error):
    """The machinery (engine, endpoint, disk) failed; nothing is lost and `move37 resume` continues."""

    exit_code = 4


class Interrupted(Move37Error):
    """The user interrupted the campaign."""

    exit_code = 130
