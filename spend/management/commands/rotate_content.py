"""`manage.py rotate_content`: encrypt what is stored with the first of CONTENT_KEYS."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from spend.privacy.encryption import can_encrypt
from spend.privacy.stored_content import rotate


class Command(BaseCommand):
    help = "Encrypt stored prompts and answers with the first of CONTENT_KEYS; then the others can be taken out."

    def handle(self, *args: Any, **options: Any) -> None:
        if not can_encrypt():
            raise CommandError("CONTENT_KEYS has no key.")
        found = unreadable = 0
        for of_step, unreadable_of_step in rotate():
            found, unreadable = found + of_step, unreadable + unreadable_of_step
        if unreadable:
            raise CommandError(f"{unreadable:,} of {found:,} cannot be read: their key is not in CONTENT_KEYS.")
        self.stdout.write(f"{found:,} encrypted with the first key")
