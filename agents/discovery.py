"""Asks an endpoint which models it serves, and how long their context windows are, where it tells."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from agents.errors import EndpointInvalid, MissingKey, ModelUnavailable
from agents.opening import KEY_ENV_NAMES, check_base_url

DEADLINE_S = 15.0
WINDOW_DEADLINE_S = 5.0
# vLLM and SGLang; OpenRouter and Together; Groq; Mistral; LM Studio; llama.cpp. What is really loaded comes first.
WINDOW_NAMES = (
    "loaded_context_length",
    "max_model_len",
    "n_ctx",
    "context_length",
    "context_window",
    "max_context_length",
    "n_ctx_train",
)


async def only_model(base_url: str, api_key: str | None) -> str:
    """The one model that the endpoint lists.

    Raises:
        EndpointInvalid: it lists none or several (the message names them), or cannot list.
        MissingKey: the endpoint is remote and there is no key.
        ModelUnavailable: it cannot be reached.
    """
    import openai

    if not check_base_url(base_url) and not api_key:
        raise MissingKey(base_url, KEY_ENV_NAMES)
    try:
        listed = await _listing(base_url, api_key, DEADLINE_S)
    except (TimeoutError, openai.APIConnectionError):
        raise ModelUnavailable(f"{base_url} cannot be reached: is the server running?") from None
    except openai.OpenAIError as error:
        raise EndpointInvalid(f"{base_url} does not list its models ({type(error).__name__}): name one") from None
    if listed is None:
        raise EndpointInvalid(
            f"{base_url} does not list its models: is the URL complete (most end in /v1)? Or name one"
        )
    names = sorted(listed)
    if len(names) != 1:
        raise EndpointInvalid(f"{base_url} serves {len(names)} models ({', '.join(names[:8])}): name the one to use")
    return names[0]


async def context_tokens(base_url: str, api_key: str | None, model: str) -> int | None:
    """The context window of a model as its endpoint lists it; None where it says nothing, or nothing credible.

    Asked for convenience: that an endpoint does not answer is for the first call to find out.
    """
    import openai

    try:
        listed = await _listing(base_url, api_key, WINDOW_DEADLINE_S)
    except (TimeoutError, openai.OpenAIError):
        return None
    windows = [window for entry in (listed or {}).get(model, ()) if (window := _window(entry)) is not None]
    return min(windows, default=None)


def _window(entry: Mapping[str, Any]) -> int | None:
    """From the entry of `/v1/models`, or from the details that llama.cpp hangs into it."""
    details = entry.get("meta")
    for place in (entry, details if isinstance(details, Mapping) else {}):
        for name in WINDOW_NAMES:
            value = place.get(name)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


async def _listing(base_url: str, api_key: str | None, deadline_s: float) -> dict[str, list[Mapping[str, Any]]] | None:
    """The entries of `/v1/models` by the model's name; None where what answers is no listing (a page, half a body).

    Raises:
        TimeoutError: it took too long.
        openai.OpenAIError: there is none.
    """
    import httpx2
    import openai

    client = openai.AsyncOpenAI(
        api_key=api_key or "none",
        base_url=base_url,
        max_retries=0,
        http_client=httpx2.AsyncClient(trust_env=not check_base_url(base_url), follow_redirects=False),
    )
    try:
        async with asyncio.timeout(deadline_s):
            response = await client.models.with_raw_response.list()
    finally:
        await client.close()
    try:
        body = response.http_response.json()
    except (ValueError, RecursionError):
        return None
    listed = body.get("data") if isinstance(body, Mapping) else None
    if not isinstance(listed, list):
        return None
    found: dict[str, list[Mapping[str, Any]]] = {}
    for entry in listed:
        if isinstance(entry, Mapping) and isinstance(entry.get("id"), str):
            found.setdefault(entry["id"], []).append(entry)
    return found
