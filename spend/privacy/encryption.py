"""What was said, encrypted: with Fernet, by the keys in CONTENT_KEYS.

The first key encrypts and all of them decrypt, so that a key can be replaced while the guard runs.
"""

from functools import cache
from typing import TYPE_CHECKING

from django.conf import settings

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet


CIPHERTEXT_BEGINS = "gAAAA"
"""As every Fernet token does, by its version and the first bytes of its time; JSON never does."""


class UnreadableError(Exception):
    """None of the keys opens it: its key is no longer set, or it was changed."""


def can_encrypt() -> bool:
    """Whether there is a key. Without one nothing that was said is stored."""
    return bool(settings.CONTENT_KEYS)


def encrypt(plain: bytes) -> str:
    return _cipher(settings.CONTENT_KEYS).encrypt(plain).decode()


def decrypt(sealed: str) -> bytes:
    """Raises UnreadableError."""
    if not can_encrypt():
        raise UnreadableError
    from cryptography.fernet import InvalidToken

    try:
        return _cipher(settings.CONTENT_KEYS).decrypt(sealed)
    except InvalidToken:
        raise UnreadableError from None


def reencrypted(sealed: str) -> str:
    """The same, encrypted with the first key. Raises UnreadableError."""
    return encrypt(decrypt(sealed))


# Where no key is set, the library is never loaded.
@cache
def _cipher(keys: tuple[str, ...]) -> "MultiFernet":
    from cryptography.fernet import Fernet, MultiFernet

    return MultiFernet(list(map(Fernet, keys)))
