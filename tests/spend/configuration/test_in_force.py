"""An import is in force within a second, on every worker."""

import time
from collections.abc import Callable
from pathlib import Path

from tests.factories import ApiKeyFactory, CatalogueModelFactory, RouteStepFactory, TenantFactory
from tests.support.provider import Provider
from tests.support.server import CONFIGURATION_IS_READ_WITHIN_S, GuardServer, manage

CALL = {"tenantId": "acme", "messages": [{"role": "user", "content": "Where is my order?"}]}


def test_an_import_binds_within_a_second(
    guard_server: Callable[..., GuardServer], provider: Provider, tmp_path: Path
) -> None:
    server = guard_server(start=False)
    with server.database():
        tenant = TenantFactory.create(id="acme")
        RouteStepFactory.create(tenant=tenant, model=CatalogueModelFactory.create(id="grok-4.3"))
        key = ApiKeyFactory.create(tenant=tenant)
    server.start()
    agent = server.client_of(key.secret)
    assert agent.post("/api/chat", json=CALL).status_code == 200

    (file := tmp_path / "guard.yaml").write_text("version: 1\ntenants: [{id: acme, is_active: false}]")
    environment = {"DATABASE_URL": server.database_url}
    answer = manage("import_config", str(file), environment=environment)
    assert (answer.returncode, answer.stdout) == (0, "tenant acme: is_active yes → no\n"), answer.stderr
    deadline = time.monotonic() + CONFIGURATION_IS_READ_WITHIN_S
    while agent.post("/api/chat", json=CALL).status_code == 200:
        assert time.monotonic() < deadline

    exported = manage("export_config", environment=environment)
    assert "is_active: false" in exported.stdout
