"""Reads model settings from the environment, else from a `.env` in the working directory.

The key is handed to the gateway and to nothing else. It is never written into this process's environment, and what a
user put there is taken out of it before anything is started (`withdraw`), so that no child can inherit it; sandboxes
start with an environment of their own in any case.

NOT covered: what the kernel remembers of this process's start. /proc/PID/environ shows the key, if it was passed that
way, to whoever may read this process: the user and root. A `.env` avoids that.
"""

import os
from collections.abc import Sequence
from pathlib import Path

from dotenv import dotenv_values

from agents.embeddings import EMBEDDINGS_KEY_ENV_NAMES
from agents.opening import KEY_ENV_NAMES
from move37.errors import ConfigError

_withdrawn: dict[str, str] = {}


def withdraw(further: Sequence[str] = ()) -> None:
    """Takes the keys out of this process's environment and remembers them, those in `further` variables too.
    Idempotent."""
    for name in (*KEY_ENV_NAMES, *EMBEDDINGS_KEY_ENV_NAMES, *further):
        if value := os.environ.pop(name, None):
            _withdrawn[name] = value


def setting(name: str) -> str | None:
    """A variable from the environment or, failing that, from `.env`; empty counts as absent.

    Raises:
        ConfigError: there is a `.env` that cannot be read.
    """
    return os.environ.get(name) or _withdrawn.get(name) or _dot_env().get(name) or None


def _dot_env() -> dict[str, str | None]:
    path = Path.cwd() / ".env"
    try:
        return dotenv_values(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}. Mend or remove it.") from error


def api_key() -> str | None:
    """The first key that is set, in the order of `KEY_ENV_NAMES`."""
    return next((key for key in map(setting, KEY_ENV_NAMES) if key), None)


def embeddings_key() -> str | None:
    """The key that is for an embeddings endpoint only."""
    return next((key for key in map(setting, EMBEDDINGS_KEY_ENV_NAMES) if key), None)
