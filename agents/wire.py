"""Chat Completions as servers really answer: reading bodies, naming failures, shaping schemas.

Notable: pure functions over decoded JSON, so that every odd shape is a table row in a test. The text is looked for in
`content`, then in `reasoning_content` and `reasoning`, where reasoning parsers of some servers put it.

Not covered: transport, retries, deadlines (see `agents.gateway`).
"""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel

from agents.errors import RefusalKind
from agents.redaction import REDACTED, scrubber
from agents.truncation import tokens_read

MESSAGE_CAP_CHARS = 500
ACCOUNT_CAP_CHARS = 200
TOKENS_CAP = 2**40  # a larger count is nonsense, and would not fit a database's integer
# Rule of thumb for English and code with byte-pair vocabularies, by which the embedded model counts, and says so.
CHARS_PER_TOKEN = 4

_KEY_LIKE = re.compile(r"\b(?:sk|key|gsk|xai|hf)[-_][A-Za-z0-9_\-*]{6,}|(?i:bearer)\s+[\w.\-~+/=]+")
_QUOTA = re.compile(
    r"insufficient_quota|exceeded your current quota|billing|credit balance|insufficient (?:funds|balance)"
)
# A 429 that passes by itself although it speaks of billing ("add a payment method to increase your rate limit"), or of
# the plan's quota of this minute.
_PASSING = re.compile(r"rate[ _-]?limit|(?:try again|retry) in \d|per[ _](?:minute|min|second|day)\b")
_WAIT_IN_WORDS = re.compile(r"(?:try again|retry) in (?:(\d{1,4})m)?(\d{1,6}(?:\.\d{1,9})?)(ms|s)\b")
_OUT_OF_RANGE = re.compile(
    r"too (?:large|high|big|small|low)|at (?:most|least)|(?:less|greater|more) than|out of range"
)
_AMOUNTS = frozenset({"max_tokens", "max_completion_tokens", "temperature"})
_CONTEXT = re.compile(
    r"context_length_exceeded|context length|context window|maximum context|too many tokens|prompt is too long"
)
_UNSUPPORTED = re.compile(
    r"unsupported|not supported|does not support|unknown|unrecognized|not permitted|extra inputs|invalid"
)
_USAGE = re.compile(r'(?<!\\)"usage"\s*:\s*\{')
_RETRYABLE_STATUS = frozenset({408, 409, 425, 429})
_SCHEMA_LIMITS = frozenset(
    {"title", "maxLength", "minLength", "minimum", "maximum", "minItems", "maxItems", "description", "default"}
)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one call. `estimated`: the endpoint reported none, and they were estimated (`memory.tokens`)."""

    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False

    def __add__(self, other: Usage) -> Usage:
        """Both together; estimated if either is."""
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.estimated or other.estimated,
        )

    @property
    def total(self) -> int:
        """Prompt and completion."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that gave no reply.

    Attributes:
        refusal: Set when a retry cannot change it.
        slow_down: The endpoint asks for fewer requests, by status 429 or by naming a wait.
        usage: What the endpoint said it used nevertheless.
    """

    message: str
    refusal: RefusalKind | None = None
    retry_after_s: float | None = None
    parameter: str | None = None
    slow_down: bool = False
    usage: Usage | None = None


class NoReply(Exception):  # a signal within this package, not an error a caller sees
    """A 200 without a usable choice."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(frozen=True, slots=True)
class Reading:
    """What a response body says. `tokens_read`: of the prompt, cached ones included; 0 if it does not say."""

    text: str
    model: str
    finish_reason: str
    usage: Usage | None
    account: dict[str, Any]
    tokens_read: int = 0


def estimated_tokens(text: str) -> int:
    return math.ceil(len(text) / CHARS_PER_TOKEN)


def redactor(api_key: str | None) -> Callable[[str], str]:
    """A function that removes the key in all its spellings, and anything that looks like one, from text to be shown;
    it also caps it."""
    scrub = scrubber(api_key, at_least=4)

    def redact(text: str) -> str:
        text = _KEY_LIKE.sub(REDACTED, scrub(text))
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
    usage = usage_of(body.get("usage"))
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], Mapping):
        raise NoReply(Failure("the endpoint's reply holds no choices", usage=usage))
    message = choices[0].get("message")
    if not isinstance(message, Mapping):
        raise NoReply(Failure("the endpoint's reply holds no message", usage=usage))
    account = _scalars({key: body.get(key) for key in ("id", "system_fingerprint", "created")})
    text, source = _text_of(message)
    account["text_from"] = source
    reported = body.get("usage")
    if isinstance(reported, Mapping):
        nested = {key: _scalars(value) for key, value in reported.items() if isinstance(value, Mapping)}
        account["usage"] = {**_scalars(reported), **nested}
    return Reading(
        text=text,
        model=body["model"][:ACCOUNT_CAP_CHARS] if isinstance(body.get("model"), str) else "",
        finish_reason=str(choices[0].get("finish_reason") or "stop")[:ACCOUNT_CAP_CHARS],
        usage=usage,
        account=account,
        tokens_read=tokens_read(reported) if isinstance(reported, Mapping) else 0,
    )


def refuse_error(body: Mapping[str, Any]) -> None:
    """Raises NoReply for an error inside a 200."""
    if body.get("error"):
        raise NoReply(classify(_status_of(body["error"]), body, {}, "an error inside a successful response"))


def _scalars(fields: Mapping[Any, Any]) -> dict[str, Any]:
    """What can be kept of an endpoint's account: short texts and finite numbers."""
    kept: dict[str, Any] = {}
    for key, value in fields.items():
        if isinstance(value, str):
            kept[str(key)] = value[:ACCOUNT_CAP_CHARS]
        elif isinstance(value, int | float) and abs(value) <= TOKENS_CAP:  # NaN compares false
            kept[str(key)] = value
    return kept


def _text_of(message: Mapping[str, Any]) -> tuple[str, str]:
    for source in ("content", "reasoning_content", "reasoning", "refusal"):
        value = message.get(source)
        if isinstance(value, list):  # content parts
            value = "".join(str(part.get("text", "")) for part in value if isinstance(part, Mapping))
        if isinstance(value, str) and value.strip():
            return value, source
    return "", "none"


def usage_of(usage: Any) -> Usage | None:
    """The two counts of a body's `usage`; None unless both are counts."""
    if not isinstance(usage, Mapping):
        return None
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    if not all(isinstance(count, int) and not isinstance(count, bool) and 0 <= count <= TOKENS_CAP for count in counts):
        return None
    return Usage(prompt_tokens=int(usage["prompt_tokens"]), completion_tokens=int(usage["completion_tokens"]))


def salvaged_usage(received: bytes) -> Usage | None:
    """The `usage` in a body that does not parse or did not arrive whole: what it says was used all the same.

    A reply's text cannot be taken for it: within a JSON string the quotes would be escaped.
    """
    text = received.decode("utf-8", "replace")
    decoder = json.JSONDecoder()
    for match in reversed(list(_USAGE.finditer(text))):
        try:
            value, _ = decoder.raw_decode(text, match.end() - 1)
        except (ValueError, RecursionError):
            continue
        usage = usage_of(value)
        if usage is not None:
            return usage
    return None


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
    wait_s = retry_after_s(headers)
    if wait_s is None and status == 429:
        wait_s = _wait_in_words(haystack)
    return Failure(
        message=f"HTTP {status}: {message}",
        refusal=_refusal(status, haystack),
        retry_after_s=wait_s,
        parameter=parameter if isinstance(parameter, str) else None,
        slow_down=status == 429 or wait_s is not None,
        usage=usage_of(body.get("usage")) if isinstance(body, Mapping) else None,
    )


def _refusal(status: int, haystack: str) -> RefusalKind | None:
    if status == 402 or (_QUOTA.search(haystack) and not _passes(status, haystack)):
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


def _passes(status: int, haystack: str) -> bool:
    """Whether what reads like spent credit is a rate limit, which is gone in a moment."""
    return status == 429 and "insufficient_quota" not in haystack and _PASSING.search(haystack) is not None


def _wait_in_words(haystack: str) -> float | None:
    """The wait that a message asks for, where no header does: "try again in 1m20.5s", "retry in 320ms"."""
    found = _WAIT_IN_WORDS.search(haystack)
    if found is None:
        return None
    minutes, amount, unit = found.groups()
    return 60.0 * int(minutes or 0) + float(amount) / (1000.0 if unit == "ms" else 1.0)


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
        except (ValueError, OverflowError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


def unsupported_parameter(failure: Failure, sent: Mapping[str, Any]) -> str | None:
    """Which of the optional parameters that were sent the endpoint does not know, if it complains of one.

    An amount that is out of its range it does know: to leave it out would drop what the user asked for, and with the
    limit of a reply the bound that budgets count on.
    """
    if failure.refusal != "bad_request":
        return None
    message = failure.message.lower()
    for name in sent:
        if name in _AMOUNTS and _OUT_OF_RANGE.search(message):
            continue
        if failure.parameter == name or (failure.parameter or "").startswith(f"{name}."):
            return name
        if name in message and _UNSUPPORTED.search(message):
            return name
    if "response_format" in sent and "json_schema" in message:
        return "response_format"
    return None


@cache
def schema_format(model: type[BaseModel]) -> dict[str, Any]:
    """`response_format` for a reply model: no `$ref`, no limits and patterns, which servers read differently.

    Made once per model; not to be changed by who gets it.
    """
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
