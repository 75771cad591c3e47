"""Asks an endpoint which models it serves, for a user who named a base URL and no model."""

from __future__ import annotations

import asyncio

from agents.errors import EndpointInvalid, MissingKey, ModelUnavailable
from agents.opening import KEY_ENV_NAMES, check_base_url

DEADLINE_S = 15.0


async def only_model(base_url: str, api_key: str | None) -> str:
    """The one model that the endpoint lists.

    Raises:
        EndpointInvalid: it lists none or several (the message names them), or cannot list.
        MissingKey: the endpoint is remote and there is no key.
        ModelUnavailable: it cannot be reached.
    """
    import httpx2
    import openai

    local = check_base_url(base_url)
    if not api_key and not local:
        raise MissingKey(base_url, KEY_ENV_NAMES)
    client = openai.AsyncOpenAI(
        api_key=api_key or "none",
        base_url=base_url,
        max_retries=0,
        http_client=httpx2.AsyncClient(trust_env=not local, follow_redirects=False),
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            page = await client.models.list()
    except (TimeoutError, openai.APIConnectionError):
        raise ModelUnavailable(f"{base_url} cannot be reached: is the server running?") from None
    except openai.OpenAIError as error:
        raise EndpointInvalid(f"{base_url} does not list its models ({type(error).__name__}): name one") from None
    finally:
        await client.close()
    listed = getattr(page, "data", None)
    if not isinstance(listed, list):
        raise EndpointInvalid(
            f"{base_url} does not list its models: is the URL complete (most end in /v1)? Or name one"
        )
    names = sorted(str(model.id) for model in listed)
    if len(names) != 1:
        raise EndpointInvalid(f"{base_url} serves {len(names)} models ({', '.join(names[:8])}): name the one to use")
    return names[0]
