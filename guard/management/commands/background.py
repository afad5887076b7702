"""Run jobs and deliver alerts; `manage.py serve` starts this by itself unless BACKGROUND is off."""

import signal
from typing import Any

from django.core.management.base import BaseCommand

from guard.background import Background


class Command(BaseCommand):
    help = "Run the background: jobs, alerts and their deliveries. Any number may run on one database."

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("--parent", type=int, help="The process to end with, by its id.")

    def handle(self, *args: Any, **options: Any) -> None:
        background = Background(options["parent"])
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: background.stopping.set())
        background.run()
