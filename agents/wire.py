"""Chat Completions as servers really answer: reading bodies, naming failures, shaping schemas.

Notable: pure functions over decoded JSON, so that every odd shape is a table row in a test. The text is looked for in
`content`, then in `reasoning_content` and `reasoning`, where reasoning parsers of some servers put it.

Not covered: transport, retries, deadlines (see `agents.gateway`).
"""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from agents.errors import RefusalKind

MESSAGE_CAP_CHARS = 500
# Rule of thumb for English and code with byte-pair vocabularies; used only where a server reports no usage, and marked.
CHARS_PER_TOKEN = 4

_KEY_LIKE = re.compile(r"\b(?:sk|key|gsk|xai|hf)[-_][A-Za-z0-9_\-*]{6,}|(?i:bearer)\s+[\w.\-~+/=]+")
_QUOTA = re.compile(
    r"insufficient_quota|exceeded your current quota|billing|credit balance|insufficient (?:funds|balance)"
)
_CONTEXT = re.compile(
    r"context_length_exceeded|context length|context window|maximum context|too many tokens|prompt is too long"
)
_UNSUPPORTED = re.compile(
    r"unsupported|not supported|does not support|unknown|unrecognized|not permitted|extra inputs|invalid"
)
_RETRYABLE_STATUS = frozenset({408, 409, 425, 429})
_SCHEMA_LIMITS = frozenset(
    {"title", "maxLength", "minLength", "minimum", "maximum", "minItems", "maxItems", "description", "default"}
)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call. `estimated`: the endpoint reported none, and 4 characters were counted as one token."""

    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that gave no reply. `refusal` is set when a retry cannot change it."""

    message: str
    refusal: RefusalKind | None = None
    retry_after_s: float | None = None
    parameter: str | None = None


class NoReply(Exception):  # a signal within this package, not an error a caller sees
    """A 200 without a usable choice."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Reading:
    """What a response body says."""

    text: str
    model: str
    finish_reason: str
    usage: Usage | None
    account: dict[str, Any]


def estimated_tokens(text: str) -> int:
    return math.ceil(len(text) / CHARS_PER_TOKEN)


def redactor(api_key: str | None) -> Callable[[str], str]:
    """A function that removes the key, and anything that looks like one, from text to be shown; it also caps it."""

    def redact(text: str) -> str:
        if api_key and len(api_key) > 3:
            text = text.replace(api_key, "[key]")
        text = _KEY_LIKE.sub("[key]", text)
        text = "".join(character if character.isprintable() else " " for character in text)
        return text if len(text) <= MESSAGE_CAP_CHARS else f"{text[:MESSAGE_CAP_CHARS]}…"

    return redact


def read_completion(body: Any) -> Reading:
    """The first choice of a decoded response body.

    Raises:
        NoReply: an error inside a 200, or no choice to read.
    """
    if not isinstance(body, Mapping):
        raise NoReply(Failure("the endpoint's reply is not a JSON object"))
    refuse_error(body)
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise NoReply(Failure("the endpoint's reply holds no choices"))
    message = choices[0].get("message")
    if not isinstance(message, Mapping):
        raise NoReply(Failure("the endpoint's reply holds no message"))
    account = {key: body[key] for key in ("id", "system_fingerprint", "created") if _is_scalar(body.get(key))}
    text, source = _text_of(message)
    account["text_from"] = source
    if isinstance(body.get("usage"), Mapping):
        account["usage"] = {key: value for key, value in body["usage"].items() if _is_scalar(value)}
    return Reading(
        text=text,
        model=body["model"] if isinstance(body.get("model"), str) else "",
        finish_reason=str(choices[0].get("finish_reason") or "stop"),
        usage=_usage_of(body.get("usage")),
        account=account,
    )


def refuse_error(body: Mapping[str, Any]) -> None:
    """Raises NoReply for an error inside a 200."""
    if body.get("error"):
        raise NoReply(classify(_status_of(body["error"]), body, {}, "an error inside a successful response"))


def _is_scalar(value: Any) -> bool:
    return isinstance(value, str | int | float)


def _text_of(message: Mapping[str, Any]) -> tuple[str, str]:
    for source in ("content", "reasoning_content", "reasoning", "refusal"):
        value = message.get(source)
        if isinstance(value, list):  # content parts
            value = "".join(str(part.get("text", "")) for part in value if isinstance(part, Mapping))
        if isinstance(value, str) and value.strip():
            return value, source
    return "", "none"


def _usage_of(usage: Any) -> Usage | None:
    if not isinstance(usage, Mapping):
        return None
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    if not all(isinstance(count, int) and not isinstance(count, bool) and count >= 0 for count in counts):
        return None
    return Usage(prompt_tokens=int(usage["prompt_tokens"]), completion_tokens=int(usage["completion_tokens"]))


def _status_of(error: Any) -> int:
    """The HTTP status a proxy put inside a 200, or 500 (which may pass)."""
    if isinstance(error, Mapping):
        for key in ("status", "code"):
            value = error.get(key)
            if isinstance(value, int) and 400 <= value < 600:
                return value
    return 500


def classify(status: int, body: Any, headers: Mapping[str, str], fallback: str) -> Failure:
    """Name what an error response means. The key may be echoed in the message: redact before showing it."""
    error = body.get("error", body) if isinstance(body, Mapping) else body
    fields = error if isinstance(error, Mapping) else {"message": error if isinstance(error, str) else ""}
    message = str(fields.get("message") or fallback)
    haystack = f"{message} {fields.get('code') or ''} {fields.get('type') or ''}".lower()
    parameter = fields.get("param")
    return Failure(
        message=f"HTTP {status}: {message}",
        refusal=_refusal(status, haystack),
        retry_after_s=retry_after_s(headers),
        parameter=parameter if isinstance(parameter, str) else None,
    )


def _refusal(status: int, haystack: str) -> RefusalKind | None:
    if _QUOTA.search(haystack) or status == 402:
        return "quota"
    if status < 500 and status != 429 and _CONTEXT.search(haystack):
        return "context_length"
    if status in {401, 403} or "invalid_api_key" in haystack:
        return "auth"
    if status == 404:
        return "not_found"
    if "unsupported_track" in haystack:
        return "unsupported"
    if status in _RETRYABLE_STATUS or status >= 500:
        return None
    return "bad_request"


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The wait a server asks for, as seconds or as an HTTP date; None if it asks for none or says nonsense."""
    value = headers.get("retry-after")
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def unsupported_parameter(failure: Failure, sent: Mapping[str, Any]) -> str | None:
    """Which of the optional parameters that were sent the endpoint complains about, if it does."""
    if failure.refusal != "bad_request":
        return None
    message = failure.message.lower()
    for name in sent:
        if failure.parameter == name or (failure.parameter or "").startswith(f"{name}."):
            return name
        if name in message and _UNSUPPORTED.search(message):
            return name
    if "response_format" in sent and "json_schema" in message:
        return "response_format"
    return None


def schema_format(model: type[BaseModel]) -> dict[str, Any]:
    """`response_format` for a reply model: no `$ref`, no limits and patterns, which servers read differently."""
    schema = model.model_json_schema()
    definitions = schema.pop("$defs", {})

    def flatten(node: Any) -> Any:
        if isinstance(node, list):
            return [flatten(item) for item in node]
        if not isinstance(node, dict):
            return node
        if "$ref" in node:
            return flatten(definitions[node["$ref"].rsplit("/", 1)[-1]])
        flat = {key: flatten(value) for key, value in node.items() if key not in _SCHEMA_LIMITS or key == "properties"}
        if "properties" in node:  # a property may be called "title": its name is no keyword
            flat["properties"] = {name: flatten(value) for name, value in node["properties"].items()}
            flat["additionalProperties"] = False
            flat["required"] = list(node["properties"])
        return flat

    return {
        "type": "json_schema",
        "json_schema": {"name": model.__name__.lower(), "strict": True, "schema": flatten(schema)},
    }
