"""Opening a model: from a base URL, a model's name and a key to a `ChatModel` over the `openai` client.

Notable: a local server is never sent the environment's key or reached through a proxy; credentials in a URL are
refused.

Not covered: which model a configuration names (`move37.models`), and which one an endpoint serves (`agents.discovery`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agents.embedded.notice import EMBEDDED_MODEL, NOTICES
from agents.errors import EndpointInvalid, MissingKey
from agents.gateway import FREE, OpenAIChatModel, Prices
from agents.limits import UNLIMITED, Limits
from agents.parameters import Settings

if TYPE_CHECKING:
    import openai

EMBEDDED_URL = "http://move37.embedded/v1"
DEFAULT_BASE_URL = "https://api.openai.com/v1"
KEY_ENV_NAMES = ("MOVE37_API_KEY", "OPENAI_API_KEY")
CONNECT_TIMEOUT_S = 10.0


def open_model(
    *,
    model: str | None = None,
    base_url: str | None = None,
    api_key: str | None = None,
    prices: Prices | None = None,
    settings: Settings | None = None,
    limits: Limits = UNLIMITED,
    key_variables: Sequence[str] = KEY_ENV_NAMES,
) -> OpenAIChatModel:
    """A model for the campaign: the embedded one when neither a model nor a base URL is named.

    `key_variables` are named where the key is missing.

    Raises:
        EndpointInvalid: base URL or model name cannot be used.
        MissingKey: the endpoint is not on this machine and `api_key` is empty.
    """
    import httpx2
    import openai

    if base_url is None and model in {None, *NOTICES}:
        from agents.embedded.server import app

        return OpenAIChatModel(
            openai.AsyncOpenAI(
                api_key="embedded",
                base_url=EMBEDDED_URL,
                max_retries=0,
                http_client=httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app()), trust_env=False),
            ),
            name=model or EMBEDDED_MODEL,
            kind="grammar",
            base_url=EMBEDDED_URL,
            api_key=None,
            prices=FREE,
            settings=Settings(check_truncation=False),
        )
    if not model:
        raise EndpointInvalid(f"no model is named for {base_url}: set the model beside the base URL")
    url = base_url or DEFAULT_BASE_URL
    local = check_base_url(url)
    if not api_key and not local:
        raise MissingKey(url, key_variables)
    return OpenAIChatModel(
        client_for(url, api_key, local=local),
        name=model,
        kind="language-model",
        base_url=url,
        api_key=api_key,
        prices=prices,
        settings=settings,
        limits=limits,
    )


def client_for(url: str, api_key: str | None, *, local: bool) -> openai.AsyncOpenAI:
    """A client without retries and limits of its own (`agents.attempts`, `agents.limits`); a `local` server is reached
    without a proxy."""
    import httpx2
    import openai

    return openai.AsyncOpenAI(
        api_key=api_key or "none",  # never None: the client would send the environment's key to any server
        base_url=url,
        max_retries=0,
        http_client=httpx2.AsyncClient(
            timeout=httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            trust_env=not local,
            follow_redirects=False,
        ),
    )


def check_base_url(url: str) -> bool:
    """Whether the URL points at this machine.

    Raises:
        EndpointInvalid: not http(s), no host, or holding credentials, a query or a fragment. The message does not
            repeat the URL's credentials.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise EndpointInvalid(
            f"the base URL does not parse ({error}): use a form like http://127.0.0.1:8000/v1"
        ) from None
    if parts.username or parts.password:
        raise EndpointInvalid(f"the base URL for {host} holds credentials: give the key as the API key instead")
    if parts.scheme not in {"http", "https"} or not host:
        raise EndpointInvalid(f"base URL {url!r} is not of the form http(s)://host[:port]/v1")
    if parts.query or parts.fragment:
        raise EndpointInvalid(f"the base URL for {host} holds a query or fragment: remove it")
    if any(character.isspace() for character in url):
        raise EndpointInvalid(f"base URL {url!r} holds white space: remove it")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
