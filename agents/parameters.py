"""What an endpoint is sent beside the messages, and what becomes of that when it refuses a parameter.

A feature has forms, the best first: a reply's schema is asked for as `json_schema`, else as `json_object`, else in the
prompt alone; the limit of the output as `max_tokens`, which local servers know, else as `max_completion_tokens`, which
reasoning models ask for. An endpoint that refuses a form gets the next one from then on.

Not covered: endpoints that accept a parameter and ignore it; replies are validated all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from agents.wire import schema_format


@dataclass(frozen=True, slots=True)
class Settings:
    """How an endpoint is asked. None: the parameter is not sent.

    Attributes:
        max_output_tokens: What the endpoint is asked to stop at, reasoning included.
        check_truncation: Refuse replies to prompts that the server must have cut.
    """

    temperature: float | None = None
    max_output_tokens: int | None = None
    check_truncation: bool = True


@dataclass(frozen=True, slots=True)
class Form:
    """One way to ask for a feature: the parameter, its value, and what the form is called where it was refused."""

    parameter: str
    value: Any
    label: str


class Parameters:
    """The parameters of one endpoint, which remembers what it refused."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._refused: set[str] = set()

    @property
    def refused(self) -> list[str]:
        """Labels of the forms that the endpoint did not take."""
        return sorted(self._refused)

    def chosen(self, schema: type[BaseModel] | None, seed: int | None) -> list[Form]:
        """Of each feature that is wanted the first form that was not refused."""
        limit = self._settings.max_output_tokens
        features = [
            [Form("seed", seed, "seed")],
            [Form("temperature", self._settings.temperature, "temperature")],
            [Form(name, limit, name) for name in ("max_tokens", "max_completion_tokens")],
        ]
        if schema is not None:
            asked = {"response_format.json_schema": schema_format(schema), "response_format": {"type": "json_object"}}
            features.append([Form("response_format", value, label) for label, value in asked.items()])
        left = [[form for form in forms if form.label not in self._refused] for forms in features]
        return [forms[0] for forms in left if forms and forms[0].value is not None]

    def refuse(self, form: Form) -> None:
        """The endpoint did not take this form."""
        self._refused.add(form.label)
