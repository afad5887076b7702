"""`manage.py create_operator_token USER`: a token for the operator API; also lists and revokes them."""

from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import transaction
from django.utils import timezone

from tenants.access.roles import role
from tenants.models import OperatorToken
from tenants.trail import changed_by


class Command(BaseCommand):
    help = (
        "Print a new API token of an operator, alone on standard output; only its hash is kept. A user of that name "
        "who does not exist yet is created without a password; either way the user gets the operator role."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("user", help="the user's name")
        parser.add_argument("--name", default="create_operator_token", help="what will use the token")
        parser.add_argument(
            "--days", type=int, default=settings.OPERATOR_TOKEN_DAYS, help="how long it is valid (OPERATOR_TOKEN_DAYS)"
        )
        parser.add_argument("--list", action="store_true", help="list the user's tokens instead")
        parser.add_argument("--revoke", type=int, metavar="ID", help="revoke that token of the user instead")

    def handle(self, *args: Any, **options: Any) -> None:
        with changed_by("create_operator_token"), transaction.atomic():
            if options["list"]:
                self.stdout.writelines(map(line_of, OperatorToken.objects.filter(user__username=options["user"])))
            elif options["revoke"] is not None:
                revoke(options["user"], options["revoke"])
            else:
                self.stdout.write(issue(options["user"], options["name"], options["days"]))


def line_of(token: OperatorToken) -> str:
    ends = f"until {token.expires_at:%Y-%m-%d}" if token.expires_at else "without end"
    used = f"used {token.last_used_at:%Y-%m-%d %H:%M}" if token.last_used_at else "never used"
    state = f"revoked: {token.revoked_because}" if token.revoked_at else ends
    return f"{token.pk}\t{token}\t{state}\t{used}\n"


def revoke(user_name: str, token_id: int) -> None:
    token = OperatorToken.objects.filter(pk=token_id, user__username=user_name).first()
    if token is None:
        raise CommandError(f"--revoke: {user_name} has no token {token_id}; --list shows them.")
    token.revoke(timezone.now(), "revoked by hand")


def issue(user_name: str, token_name: str, days: int) -> str:
    if not 1 <= days <= 3650:
        raise CommandError("--days: must be from 1 to 3650.")
    user = User.objects.filter(username=user_name).first() or User.objects.create_user(username=user_name)
    if not user.is_active:
        raise CommandError(f"{user_name} is not active; its token would not be accepted.")
    user.groups.add(role("operator"))
    return OperatorToken.objects.issue(user, token_name, timezone.now() + timedelta(days=days))[1]
