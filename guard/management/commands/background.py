"""Run jobs and deliver alerts; `manage.py serve` starts this by itself unless BACKGROUND is off."""

import signal
from typing import Any

from django.core.checks import Tags
from django.core.management.base import BaseCommand
from django.db import connections

from guard.worker.background import Background


class Command(BaseCommand):
    help = "Run the background: jobs, alerts and their deliveries. Any number may run on one database."

    requires_system_checks = [Tags.models, Tags.security]  # it answers no address, and has no need of what does

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("--parent", type=int, help="The process to end with, by its id.")

    def handle(self, *args: Any, **options: Any) -> None:
        # Its few threads live as long as it does, and ask the queue twice a second: to connect costs more than that.
        connections["default"].settings_dict["CONN_MAX_AGE"] = None
        background = Background(options["parent"])
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: background.stopping.set())
        background.run()
