"""`manage.py create_operator_token USER`: a token for the operator API."""

from typing import Any

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from rest_framework.authtoken.models import Token

from tenants.roles import role
from tenants.trail import changed_by


class Command(BaseCommand):
    help = (
        "Print the API token of an operator, alone on standard output. A user of that name who does not exist yet is "
        "created without a password; either way the user gets the operator role."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user", help="the user's name")

    def handle(self, *args: Any, **options: Any) -> None:
        with changed_by("create_operator_token"), transaction.atomic():
            token = token_of(options["user"])
        self.stdout.write(token.key)


def token_of(name: str) -> Token:
    users = get_user_model().objects
    user = users.filter(username=name).first()
    if user is None:
        user = users.create_user(username=name)
    if not user.is_active:
        raise CommandError(f"{name} is not active; its token would not be accepted.")
    user.groups.add(role("operator"))
    return Token.objects.get_or_create(user=user)[0]
