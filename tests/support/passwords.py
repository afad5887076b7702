"""Passwords of tests: the product's own algorithm with a single round, so that its servers take them, too."""

from django.contrib.auth.hashers import PBKDF2PasswordHasher


class OneRound(PBKDF2PasswordHasher):
    """A million rounds cost a third of a second, for each user of a test and each time one signs in."""

    iterations = 1
