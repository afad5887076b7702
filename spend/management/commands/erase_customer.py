"""`manage.py erase_customer TENANT CUSTOMER`: the customer's identity goes, the amounts stay."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from spend.privacy.customers import Customer, InFlightError, erase, is_known


class Command(BaseCommand):
    help = "Replace a customer by a random pseudonym wherever it is named. There is no way back."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("tenant")
        parser.add_argument("customer")
        parser.add_argument("--yes", action="store_true", help="Do not ask.")

    def handle(self, *args: Any, **options: Any) -> None:
        customer = Customer.named(options["tenant"], options["customer"])
        if not is_known(customer):
            raise CommandError(f"Nothing is kept of {customer.name!r} of tenant {customer.tenant_id!r}.")
        if not options["yes"] and input(f"Erase {customer.name!r} for good? Type yes: ") != "yes":
            raise CommandError("Nothing was erased.")
        try:
            counts = erase(customer)
        except InFlightError as error:
            raise CommandError(f"{error} Try again when they have ended.") from None
        if is_known(customer):
            raise CommandError("The customer was named anew meanwhile, by a call or a day's sum: run this again.")
        self.stdout.write(", ".join(f"{count:,} {name}" for name, count in counts.items()))
