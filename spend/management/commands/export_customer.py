"""`manage.py export_customer TENANT CUSTOMER`: everything kept of a customer, as JSON lines."""

from typing import Any

import orjson
from django.core.management.base import BaseCommand, CommandError, CommandParser

from spend.privacy.customers import Customer, export, is_known


class Command(BaseCommand):
    help = "Print everything that is kept of a customer, a JSON object a line. Amounts are in ticks of 1e-10 USD."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("tenant")
        parser.add_argument("customer")

    def handle(self, *args: Any, **options: Any) -> None:
        customer = Customer.named(options["tenant"], options["customer"])
        if not is_known(customer):
            raise CommandError(f"Nothing is kept of {customer.name!r} of tenant {customer.tenant_id!r}.")
        for table, row in export(customer):
            self.stdout.write(orjson.dumps({"table": table, **row}).decode())
