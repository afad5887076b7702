"""What stops the server from starting; `test_settings` has each bad setting, `test_serving` the empty database."""

from collections.abc import Callable

import pytest
from django.db import connection

from tests.support.server import GuardServer

StartServer = Callable[..., GuardServer]
NEWEST = "SELECT max(name) FROM django_migrations WHERE app = 'spend'"


def test_a_database_that_lacks_one_migration_stops_it_and_nothing_is_migrated(guard_server: StartServer) -> None:
    server = guard_server(start=False)
    with server.database(), connection.cursor() as cursor:
        cursor.execute(NEWEST)
        (newest,) = cursor.fetchone()
        cursor.execute("DELETE FROM django_migrations WHERE app = 'spend' AND name = %s", [newest])
    with pytest.raises(RuntimeError, match="did not start") as raised:
        server.start()
    assert f"The database lacks migrations (spend.{newest}" in str(raised.value)
    assert "Run: manage.py migrate" in str(raised.value)
    with server.database(), connection.cursor() as cursor:
        cursor.execute(NEWEST)
        assert cursor.fetchone() != (newest,)


def test_a_tenants_bad_budget_stops_it_naming_setting_and_tenant(guard_server: StartServer) -> None:
    server = guard_server(start=False, TENANT_BUDGETS='{"fine": {}, "acme-corp": {"dailyLimit": 10, "softCap": 1.5}}')
    with pytest.raises(RuntimeError, match=r"TENANT_BUDGETS: acme-corp: softCap 1\.5 and hardCap 1"):
        server.start()
