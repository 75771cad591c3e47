"""Chat Completions bodies as servers send them, row by row."""

from __future__ import annotations

import json
from typing import Any

import pytest

from agents.parameters import Parameters, Settings
from agents.replies import Analysis, Hypothesis
from agents.wire import (
    Failure,
    NoReply,
    Usage,
    classify,
    estimated_tokens,
    read_completion,
    redactor,
    retry_after_s,
    salvaged_usage,
    schema_format,
    unsupported_parameter,
)


def body(**message: Any) -> dict[str, Any]:
    return {"model": "m", "choices": [{"message": {"role": "assistant", **message}, "finish_reason": "stop"}]}


@pytest.mark.parametrize(
    ("message", "text", "source"),
    [
        ({"content": "hello"}, "hello", "content"),
        ({"content": None, "reasoning_content": "thought"}, "thought", "reasoning_content"),
        ({"content": "", "reasoning": "thought"}, "thought", "reasoning"),
        ({"content": None, "refusal": "no"}, "no", "refusal"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab", "content"),
        ({"content": None}, "", "none"),
    ],
)
def test_text_is_looked_for_where_servers_put_it(message: dict[str, Any], text: str, source: str) -> None:
    reading = read_completion(body(**message))
    assert (reading.text, reading.account["text_from"]) == (text, source)
    assert reading.usage is None


@pytest.mark.parametrize(
    "bad",
    [None, [], "text", {}, {"choices": []}, {"choices": None}, {"choices": [None]}, {"choices": [{"message": None}]}],
)
def test_no_usable_choice_is_a_failure_that_may_pass(bad: Any) -> None:
    with pytest.raises(NoReply) as caught:
        read_completion(bad)
    assert caught.value.failure.refusal is None


def test_error_inside_a_success() -> None:
    with pytest.raises(NoReply) as caught:
        read_completion({"error": {"message": "out of credit", "code": "insufficient_quota"}})
    assert caught.value.failure.refusal == "quota"
    with pytest.raises(NoReply) as caught:
        read_completion({"error": {"message": "upstream overloaded", "code": 503}})
    assert caught.value.failure.refusal is None


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        ({"prompt_tokens": 3, "completion_tokens": 4}, Usage(3, 4)),
        ({"prompt_tokens": 3}, None),
        ({"prompt_tokens": "3", "completion_tokens": 4}, None),
        ({"prompt_tokens": -1, "completion_tokens": 4}, None),
        ({"prompt_tokens": True, "completion_tokens": 4}, None),
        ("many", None),
    ],
)
def test_usage_is_believed_only_if_it_is_two_counts(usage: Any, expected: Usage | None) -> None:
    assert read_completion({**body(content="x"), "usage": usage}).usage == expected


# As two large providers word a limit that is gone in seconds.
PAYING_HELPS = (
    "Rate limit reached for m in organization o on requests per min. Limit: 3 / min. Please try again in 20s. Please "
    "add a payment method to your account to increase your rate limit. Visit https://api.example.org/account/billing"
)
QUOTA_OF_THE_MINUTE = (
    "You exceeded your current quota, please check your plan and billing details. For more information head to: "
    "https://example.org/docs/rate-limits. * Quota exceeded for metric: free_tier_requests, limit: 15. Please retry in "
    "32.918s."
)


@pytest.mark.parametrize(
    ("status", "error", "refusal"),
    [
        (401, {"message": "bad key"}, "auth"),
        (403, {"message": "no access"}, "auth"),
        (404, {"message": "no such model"}, "not_found"),
        (429, {"message": "slow down", "code": "rate_limit_exceeded"}, None),
        (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}, "quota"),
        (429, {"message": "You exceeded your current quota, please check your plan and billing details"}, "quota"),
        (429, {"message": PAYING_HELPS, "code": "rate_limit_exceeded"}, None),
        (429, {"message": QUOTA_OF_THE_MINUTE, "code": 429}, None),
        (429, {"message": PAYING_HELPS, "code": "insufficient_quota"}, "quota"),
        (402, {"message": "pay"}, "quota"),
        (400, {"message": "This model's maximum context length is 4096 tokens"}, "context_length"),
        (413, {"message": "prompt is too long"}, "context_length"),
        (400, {"message": "bad field"}, "bad_request"),
        (422, {"message": "bad field"}, "bad_request"),
        (400, {"message": "vision", "code": "unsupported_track"}, "unsupported"),
        (408, {"message": "timeout"}, None),
        (500, {"message": "oops"}, None),
        (503, "plain text", None),
    ],
)
def test_what_a_retry_cannot_change(status: int, error: Any, refusal: str | None) -> None:
    assert classify(status, {"error": error}, {}, "fallback").refusal == refusal


def test_wait_is_read_as_seconds_or_date() -> None:
    assert retry_after_s({"retry-after": "2.5"}) == 2.5
    assert retry_after_s({"retry-after": "-3"}) == 0.0
    assert retry_after_s({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    for nonsense in ("soon", "nan", "inf", ""):
        assert retry_after_s({"retry-after": nonsense}) is None


@pytest.mark.parametrize(
    ("message", "wait_s"),
    [
        (PAYING_HELPS, 20.0),
        (QUOTA_OF_THE_MINUTE, 32.918),
        ("Please try again in 1m20.5s.", 80.5),
        ("try again in 320ms", 0.32),
        ("try again in 99999999999s", None),
        ("try again in a while", None),
    ],
)
def test_a_wait_that_only_the_message_names_is_kept(message: str, wait_s: float | None) -> None:
    body = {"error": {"message": message}}
    assert classify(429, body, {}, "").retry_after_s == wait_s
    assert classify(429, body, {"retry-after": "3"}, "").retry_after_s == 3.0
    assert classify(500, body, {}, "").retry_after_s is None


def test_a_parameter_whose_value_is_out_of_range_is_known() -> None:
    large = "max_tokens is too large: 100000. This model supports at most 16384 completion tokens."
    error = {"message": large, "param": "max_tokens", "code": "invalid_value"}
    assert unsupported_parameter(classify(400, {"error": error}, {}, ""), {"max_tokens": 100_000}) is None
    high = Failure("HTTP 400: Invalid 'temperature': must be less than or equal to 2", refusal="bad_request")
    assert unsupported_parameter(high, {"temperature": 9.0}) is None
    default_only = (
        "Unsupported value: 'temperature' does not support 0.2 with this model. Only the default is supported."
    )
    assert unsupported_parameter(Failure(default_only, refusal="bad_request"), {"temperature": 0.2}) == "temperature"
    schema = Failure("HTTP 400: Invalid schema for response_format: maxItems is at least 1", refusal="bad_request")
    assert unsupported_parameter(schema, {"response_format": {}, "max_tokens": 1}) == "response_format"


def test_unsupported_parameter_is_named_by_field_or_message() -> None:
    sent = {"temperature": 0.5, "seed": 1, "response_format": {}}
    by_field = Failure("HTTP 400: no", refusal="bad_request", parameter="temperature")
    by_message = Failure("HTTP 400: Unsupported parameter: 'seed'", refusal="bad_request")
    by_schema = Failure("HTTP 400: json_schema is not available", refusal="bad_request")
    assert unsupported_parameter(by_field, sent) == "temperature"
    assert unsupported_parameter(by_message, sent) == "seed"
    assert unsupported_parameter(by_schema, sent) == "response_format"
    assert unsupported_parameter(by_field, {}) is None
    assert unsupported_parameter(Failure("HTTP 400: messages are wrong", refusal="bad_request"), sent) is None
    assert unsupported_parameter(Failure("HTTP 500: seed unsupported"), sent) is None


def test_nothing_like_a_key_is_shown() -> None:
    redact = redactor("my-own-secret")
    shown = redact("key my-own-secret, sk-proj-abcdef123456, Bearer abc.def, \x1b[31mred")
    assert "secret" not in shown
    assert "abcdef" not in shown
    assert "abc.def" not in shown
    assert "\x1b" not in shown
    assert len(redact("x" * 10_000)) < 600


@pytest.mark.parametrize("model", [Hypothesis, Analysis])
def test_schema_is_flat_and_closed(model: type[Any]) -> None:
    text = json.dumps(schema_format(model))
    assert "$ref" not in text
    assert "$defs" not in text
    assert "maxLength" not in text
    schema = schema_format(model)["json_schema"]["schema"]
    assert set(schema["required"]) == set(schema["properties"]) == set(model.model_fields)
    assert schema["additionalProperties"] is False


def test_estimate_rounds_up() -> None:
    assert [estimated_tokens("x" * length) for length in (0, 1, 4, 5)] == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("received", "expected"),
    [
        (b'{"id": "x", "usage": {"prompt_tokens": 3, "completion_tokens": 4}, "choices": [{"mess', Usage(3, 4)),
        (b'{"usage": {"prompt_tokens": 3, "completion_tokens": 4, "details": {"a": {"b": 1}}}, \xff\xfe', Usage(3, 4)),
        (b'{"usage": {"prompt_tokens": 3, "compl', None),
        (b'{"usage": null}', None),
        (b"<html>", None),
        (b"", None),
        (json.dumps({"content": '"usage": {"prompt_tokens": 9, "completion_tokens": 9}'}).encode()[:-1], None),
        (b'"usage": {"prompt_tokens": 1, "completion_tokens": 1} "usage": {"a": 1}', Usage(1, 1)),
        (b'"usage": ' + b'{"a": ' * 100_000, None),
    ],
    ids=[
        "cut off",
        "not UTF-8",
        "cut within",
        "null",
        "html",
        "nothing",
        "in the text",
        "the last that counts",
        "deep",
    ],
)
def test_usage_is_read_from_what_arrived(received: bytes, expected: Usage | None) -> None:
    assert salvaged_usage(received) == expected


def test_usage_of_replies_that_cannot_be_used_is_kept() -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 4}
    for bad in ({"choices": []}, {"choices": [{"message": None}]}, {"error": {"message": "upstream failed"}}):
        with pytest.raises(NoReply) as caught:
            read_completion({**bad, "usage": usage})
        assert caught.value.failure.usage == Usage(3, 4)


def test_an_account_holds_only_what_can_be_stored() -> None:
    account = read_completion(
        {
            **body(content="x"),
            "id": "i" * 10_000,
            "created": float("nan"),
            "system_fingerprint": 10**400,
            "usage": {"prompt_tokens": 10**30, "completion_tokens": 1, "completion_tokens_details": {"reasoning": 5}},
        }
    ).account
    assert len(account["id"]) == 200
    assert set(account) == {"id", "text_from", "usage"}
    assert account["usage"] == {"completion_tokens": 1, "completion_tokens_details": {"reasoning": 5}}


def test_who_asks_to_slow_down() -> None:
    assert classify(429, {"error": {"message": "slow"}}, {}, "").slow_down
    assert classify(503, {"error": {"message": "busy"}}, {"retry-after": "2"}, "").slow_down
    assert not classify(500, {"error": {"message": "oops"}}, {}, "").slow_down


def test_parameters_have_forms_that_are_given_up_one_by_one() -> None:
    parameters = Parameters(Settings(temperature=0.5, max_output_tokens=9))

    def sent() -> dict[str, Any]:
        return {form.parameter: form.value for form in parameters.chosen(Hypothesis, 1)}

    def refuse(name: str) -> None:
        parameters.refuse(next(form for form in parameters.chosen(Hypothesis, 1) if form.parameter == name))

    assert sent() == {"seed": 1, "temperature": 0.5, "max_tokens": 9, "response_format": schema_format(Hypothesis)}
    for name in ("temperature", "max_tokens", "response_format"):
        refuse(name)
    assert sent() == {"seed": 1, "max_completion_tokens": 9, "response_format": {"type": "json_object"}}
    for name in ("max_completion_tokens", "response_format", "seed"):
        refuse(name)
    assert sent() == {}
    assert parameters.refused == [
        "max_completion_tokens",
        "max_tokens",
        "response_format",
        "response_format.json_schema",
        "seed",
        "temperature",
    ]
