"""DATABASE_URL and REPORTS_DATABASE_URL, read into Django's settings of a database."""

import re
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from environ import Env

from guard.config.environment import yes_or_no

IN_MEMORY = "sqlite://:memory:"
POSTGRES = ("postgres", "postgresql", "psql", "pgsql")
POSTGRES_PORT = 5432

SQLITE_OPTIONS = {
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON",
}
CONNECT_TIMEOUT_S = 5
PREPARE_THRESHOLD = 5
"""The ledger's few statements: planning one costs more than running it."""


def database(text: str) -> dict[str, Any]:
    """A SQLite file, or one or more hosts of a Postgres; of several, the one that takes writes."""
    if text == IN_MEMORY or re.match("sqlite:///.", text):
        return {**Env.db_url_config(text), "OPTIONS": SQLITE_OPTIONS}
    with suppress(ValueError):
        return _postgres(text, "read-write")
    raise ValueError(
        "must be sqlite:///path/to/file or postgres://user:password@host:5432/name, with %-codes for special "
        "characters; of several hosts each has its port, with commas between them"
    )


def replica(text: str) -> dict[str, Any] | None:
    """A Postgres that is only read from, or none. Of several hosts a standby is asked first."""
    if not text.strip():
        return None
    with suppress(ValueError):
        return _postgres(text, "prefer-standby")
    raise ValueError("must be postgres://user:password@host:5432/name, with %-codes for special characters, or empty")


def _postgres(text: str, session: str) -> dict[str, Any]:
    """`session` is libpq's target_session_attrs where there are several hosts and the URL says nothing of it."""
    if text.partition("://")[0] not in POSTGRES:
        raise ValueError
    config: dict[str, Any] = Env.db_url_config(text)
    options = config.pop("OPTIONS", {})
    if not config["NAME"] and "service" not in options:
        raise ValueError
    is_pooled = yes_or_no(str(options.pop("pgbouncer", "")))
    places = unquote(urlsplit(text).netloc.rpartition("@")[2]).split(",")
    if len(places) > 1:
        config |= _places(places)
        options.setdefault("target_session_attrs", session)
    return {
        "CONN_HEALTH_CHECKS": True,
        "DISABLE_SERVER_SIDE_CURSORS": is_pooled,
        **config,
        "OPTIONS": {
            "connect_timeout": CONNECT_TIMEOUT_S,
            "prepare_threshold": None if is_pooled else PREPARE_THRESHOLD,
            **options,
        },
    }


def _places(places: list[str]) -> dict[str, str]:
    """As libpq takes several hosts: as many ports, and no brackets around an address."""
    parts = [urlsplit(f"//{place}") for place in places]
    if not all(part.hostname and part.port != 0 for part in parts):
        raise ValueError
    return {
        "HOST": ",".join(part.hostname or "" for part in parts),
        "PORT": ",".join(str(part.port or POSTGRES_PORT) for part in parts),
    }
