"""What DATABASE_URL and REPORTS_DATABASE_URL become."""

from typing import Any

import pytest

from guard.config.databases import database, replica


@pytest.mark.parametrize(
    ("places", "host", "port"),
    [
        ("someone:secret@db-1:5433,db-2:6432", "db-1,db-2", "5433,6432"),
        ("someone:secret@db-1:5433,db-2", "db-1,db-2", "5433,5432"),
        ("someone:secret@[::1]:5433,[fd00::2]", "::1,fd00::2", "5433,5432"),
        ("db-1,db-2,db-3", "db-1,db-2,db-3", "5432,5432,5432"),
        ("someone:a%2Cb%40c@db-1,db-2", "db-1,db-2", "5432,5432"),
    ],
)
def test_of_several_hosts_the_one_that_takes_writes_is_used(places: str, host: str, port: str) -> None:
    read = database(f"postgres://{places}/guard?sslmode=require")
    assert (read["HOST"], read["PORT"], read["NAME"]) == (host, port, "guard")
    assert read["OPTIONS"]["target_session_attrs"] == "read-write"
    assert read["OPTIONS"]["sslmode"] == "require"


def test_a_password_may_have_a_comma_and_an_at_sign() -> None:
    assert database("postgres://someone:a%2Cb%40c@db-1:1,db-2:2/guard")["PASSWORD"] == "a,b@c"


def test_what_the_url_says_of_sessions_counts() -> None:
    url = "postgres://db-1,db-2/guard?target_session_attrs=any"
    assert database(url)["OPTIONS"]["target_session_attrs"] == "any"
    assert "target_session_attrs" not in database("postgres://db-1/guard")["OPTIONS"]


@pytest.mark.parametrize(
    ("query", "is_pooled", "threshold"),
    [
        ("", False, 5),
        ("?pgbouncer=false", False, 5),
        ("?pgbouncer=true", True, None),
        ("?pgbouncer=true&prepare_threshold=3", True, 3),  # PgBouncer from 1.21 on
    ],
)
def test_behind_pgbouncer_nothing_is_left_in_a_session(query: str, is_pooled: bool, threshold: int | None) -> None:
    read = database(f"postgres://someone:secret@pool:6432/guard{query}")
    assert read["DISABLE_SERVER_SIDE_CURSORS"] is is_pooled
    assert read["OPTIONS"] == {"connect_timeout": 5, "prepare_threshold": threshold}


@pytest.mark.parametrize(
    "url",
    [
        "postgres://a,,b/guard",
        "postgres://a:5432,b:port/guard",
        "postgres://a:0,b/guard",
        "postgres://a,b/",
        "postgres://a/guard?pgbouncer=perhaps",
    ],
)
def test_what_is_no_database(url: str) -> None:
    with pytest.raises(ValueError, match="must be sqlite"):
        database(url)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("postgres://standby/guard", {}),
        ("postgres://standby,primary/guard", {"target_session_attrs": "prefer-standby"}),
    ],
)
def test_a_replica(url: str, options: dict[str, Any]) -> None:
    read = replica(url)
    assert read
    assert read["OPTIONS"] == {"connect_timeout": 5, "prepare_threshold": 5, **options}


def test_no_replica() -> None:
    assert replica(" ") is None
    for url in ("sqlite:///guard.sqlite3", "standby", "postgres://standby"):
        with pytest.raises(ValueError, match="or empty"):
            replica(url)
