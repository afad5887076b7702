"""A provider's row made into what is called: its address, its key and its habits.

A key comes from the setting that the row names, or is kept encrypted. Whoever may edit a row may not thereby learn
its key: a kept one goes when the address gets another host (`keep_key`), and one from the environment goes nowhere
but to the host that the environment names beside it, where it names one.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from django.conf import settings

from spend.models import DEMO, CatalogueModel, Dialect, Provider
from spend.models.providers import is_base_url
from spend.privacy.encryption import UnreadableError, can_encrypt, decrypt, encrypt

NO_CONTENT_KEYS = (
    "can't be kept: CONTENT_KEYS has no key to encrypt it with. Set one, or name the setting that has the provider's."
)


@dataclass(frozen=True, slots=True)
class Account:
    """A provider as calls reach it now. Without `api_key`, or with a `fault`, none does."""

    name: str
    kind: str
    base_url: str
    api_key: str = field(default="", repr=False)
    dialect: str = Dialect.CHAT.value
    api_version: str = ""
    takes_max_tokens: bool = False
    answer_timeout_s: int | None = None
    stream_idle_s: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    is_enabled: bool = True
    is_checked: bool = False
    """Whether its address was entered by people, and so must lead where ALLOW_PRIVATE_TARGETS lets it."""
    fault: str = ""
    """Why no call can be sent to it, as half a sentence about it."""

    @property
    def is_usable(self) -> bool:
        return not self.fault


def setting(name: str) -> str:
    """A setting of the guard's, or a variable of its environment that only a provider's row names."""
    return str(getattr(settings, name) if hasattr(settings, name) else os.environ.get(name, "")).strip()


def account_of(row: Provider) -> Account:
    base_url = (row.base_url or setting(row.url_setting)).rstrip("/")
    api_key, fault = _key_of(row)
    fault = fault or (f"may not be connected to: {refused}" if (refused := row.refused_literal()) else "")
    fault = fault or _fault_of_address(row, base_url)
    return Account(
        name=row.name,
        kind=row.kind,
        base_url=base_url,
        api_key=api_key,
        dialect=row.dialect or (not row.base_url and setting(_dialect_setting(row))) or Dialect.CHAT.value,
        api_version=row.api_version,
        takes_max_tokens=row.takes_max_tokens,
        answer_timeout_s=row.answer_timeout_s,
        stream_idle_s=row.stream_idle_s,
        headers=tuple(row.headers.items()),
        is_enabled=row.is_enabled,
        is_checked=bool(row.base_url),
        fault=fault if row.is_enabled else "is switched off",
    )


def _fault_of_address(row: Provider, base_url: str) -> str:
    """A variable that only this row names was read by nobody when the guard started."""
    if not base_url:
        return f"has no address: {row.url_setting} is not set"
    is_read = row.base_url or hasattr(settings, row.url_setting)
    return "" if is_read or is_base_url(base_url) else f"has no address: {row.url_setting} is no http or https URL"


def _dialect_setting(row: Provider) -> str:
    return row.url_setting.replace("_BASE_URL", "_DIALECT")


def _key_of(row: Provider) -> tuple[str, str]:
    """The key, and what is wrong where there is none."""
    if row.sealed_key:
        try:
            return decrypt(row.sealed_key).decode(), ""
        except UnreadableError:
            return "", "has a key that no key of CONTENT_KEYS opens"
    if not row.key_setting:
        return "", "has no key"
    if not (api_key := setting(row.key_setting)):
        return "", f"has no key: {row.key_setting} is not set"
    if not is_sendable(api_key):
        return "", f"has no key: {row.key_setting} is not printable ASCII without spaces"
    if row.base_url and (pinned := setting(row.url_setting)) and _host(pinned) != _host(row.base_url):
        return "", f"has no key: that of {row.key_setting} goes to {_host(pinned)} only, as {row.url_setting} says"
    return api_key, ""


def is_sendable(api_key: str) -> bool:
    """Whether it can stand in a header."""
    return bool(api_key) and api_key.isascii() and api_key.isprintable() and " " not in api_key


def _host(url: str) -> str:
    parts = urlsplit(url)
    usual = {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{parts.hostname}" + ("" if parts.port in (None, usual) else f":{parts.port}")


def load_accounts() -> dict[str, Account]:
    """Every provider by its name."""
    return {row.name: account_of(row) for row in Provider.objects.all()}


def demo_stands_in(accounts: Mapping[str, Account]) -> bool:
    """Made-up answers are for trying the guard out; a production server without keys refuses instead."""
    return settings.DEBUG and not any(account.is_usable for account in accounts.values())


def names_with_key(accounts: Mapping[str, Account]) -> set[str]:
    """Whom a call can be sent to; where the demo provider stands in, it does so for all."""
    if demo_stands_in(accounts):
        return {*accounts, DEMO}
    return {name for name, account in accounts.items() if account.is_usable}


def set_key(row: Provider, api_key: str | None, address_before: str) -> None:
    """Keep this key, encrypted; an empty one is forgotten. With None the row keeps what it has, unless its address
    has another host now: who edits an address must not be sent a key that they don't know.

    Raises ValueError where there is nothing to encrypt with, or it is no key.
    """
    if api_key is None:
        if row.sealed_key and _host(address_before) != _host(row.base_url):
            row.sealed_key = ""
        return
    if api_key and not is_sendable(api_key):
        raise ValueError("must be printable ASCII without spaces.")
    if api_key and not can_encrypt():
        raise ValueError(NO_CONTENT_KEYS)
    row.sealed_key = encrypt(api_key.encode()) if api_key else ""


def models_of(row: Provider) -> list[str]:
    """The models that name it, by which it can't be deleted."""
    return list(CatalogueModel.objects.filter(provider=row.name).order_by("id").values_list("id", flat=True))


def why_not_deleted(row: Provider) -> str:
    """Empty where it can be."""
    if row.is_of_settings:
        return f"{row.name} is filled by settings: switch it off instead."
    if named := models_of(row):
        return f"{row.name} has models still: {', '.join(named[:3])}{' …' if len(named) > 3 else ''}."
    return ""
