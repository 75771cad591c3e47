"""What can go wrong between a template and its context.

PromptError
├── HoleMismatch        the context does not fit the template's holes
├── TemplateMissing     there is no such template
├── TemplateBroken      a template cannot be read, parsed or rendered
└── TemplatesChanged    templates are not those that a campaign began with
"""

from __future__ import annotations

from collections.abc import Iterable


class PromptError(Exception):
    """Base of every error of this package."""


class HoleMismatch(PromptError):
    """The template asks for something that the context lacks, or the context holds something it does not use.

    Attributes:
        missing: Holes without a value, by name (`parent`, or the attribute that was asked of one).
        unused: Values without a hole: a caller that believes it shows something is wrong.
    """

    def __init__(self, template: str, *, missing: Iterable[str] = (), unused: Iterable[str] = ()) -> None:
        self.template = template
        self.missing = tuple(missing)
        self.unused = tuple(unused)
        parts = [
            f"{what} {', '.join(names)}"
            for what, names in (("lacks", self.missing), ("has no hole for", self.unused))
            if names
        ]
        super().__init__(f"template {template} {' and '.join(parts)}: change the template or what is passed to it")


class TemplateMissing(PromptError):
    """No template of that name in the directories that are looked at."""

    def __init__(self, template: str, directories: Iterable[str]) -> None:
        super().__init__(f"no template {template} in {', '.join(directories)}")
        self.template = template


class TemplateBroken(PromptError):
    """A template is not valid, or does something that a template may not."""

    def __init__(self, template: str, why: str, line: int | None = None) -> None:
        place = template if line is None else f"{template}, line {line}"
        super().__init__(f"template {place} cannot be used: {why}")
        self.template = template
        self.line = line


class TemplatesChanged(PromptError):
    """Templates differ from those that were recorded.

    Attributes:
        templates: The names of those that differ, are new or are gone.
    """

    def __init__(self, templates: Iterable[str]) -> None:
        self.templates = tuple(templates)
        super().__init__(f"these templates are not those that were recorded: {', '.join(self.templates)}")
