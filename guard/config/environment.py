"""Reading the environment: each reader gives a setting's value, or raises a ValueError that says what it must be.

What can hold a password or a key is never shown in one.
"""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from email.utils import parseaddr
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any, TypeVar
from urllib.parse import urlsplit

from django.core.exceptions import AppRegistryNotReady, ImproperlyConfigured
from django.utils.module_loading import import_string
from environ import Env

Value = TypeVar("Value")

PLAIN_ID = re.compile(r"[A-Za-z0-9_-]+")
HOST = re.compile(r"\*|\.?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*|\[[0-9A-Fa-f:.]+\]")
LAST_PORT = 65_535
INSECURE_KEY = "insecure-key-for-development-only"
DJANGOS_EXAMPLE = "django-insecure-"
SHORTEST_KEY = 32
FEWEST_CHARACTERS = 8
LONGEST_S = 86_400


def read(name: str, default: str, parse: Callable[[str], Value]) -> Value:
    """Not through `Env`, to which a value that begins with a dollar sign is another variable's name."""
    try:
        return parse(os.environ.get(name, default))
    except ValueError as error:
        raise ImproperlyConfigured(f"{name}: {error}") from None


def whole_number(at_least: int, at_most: int | None = None) -> Callable[[str], int]:
    bounds = f"at least {at_least}" + (f" and at most {at_most}" if at_most else "")

    def parse(text: str) -> int:
        digits = text.strip()
        # The length first: Python reads no more than 4,300 digits.
        if re.fullmatch(r"[0-9]{1,18}", digits) and at_least <= int(digits) <= (at_most or int(digits)):
            return int(digits)
        raise ValueError(f"must be a whole number of {bounds}, not {text!r}")

    return parse


def seconds(at_least: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        with suppress(ValueError):
            if at_least <= (value := float(text)) <= LONGEST_S:
                return value
        raise ValueError(f"must be a number of seconds, at least {at_least:g} and at most {LONGEST_S}, not {text!r}")

    return parse


def yes_or_no(text: str) -> bool:
    if text.lower() not in (*Env.BOOLEAN_TRUE_STRINGS, "false", "off", "no", "n", "0", ""):
        raise ValueError(f"must be true or false, not {text!r}")
    return text.lower() in Env.BOOLEAN_TRUE_STRINGS


def secret_key(text: str) -> str:
    """What signs sessions and tokens. Of one that can be guessed nothing is shown but why it can."""
    if why := weakness_of(text):
        raise ValueError(f"{why}; make one by: python3 -c 'import secrets; print(secrets.token_urlsafe(50))'")
    return text


def weakness_of(key: str) -> str:
    """Why a signing key can be guessed; empty where it cannot."""
    if not key:
        return "must be set where DEBUG is off"
    if key.startswith(DJANGOS_EXAMPLE) or key == INSECURE_KEY:
        return "is a key that others have, too"
    if len(key) < SHORTEST_KEY or len(set(key)) < FEWEST_CHARACTERS:
        return f"must have at least {SHORTEST_KEY} characters, {FEWEST_CHARACTERS} different ones among them"
    return ""


def secret(text: str) -> str:
    """A key that is sent in a header; without the line's end that a file of secrets brings along."""
    key = text.strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError("must be printable ASCII without spaces")
    return key


def ids(text: str) -> list[str]:
    """Of things at a provider, separated by commas; none is allowed."""
    found = list(filter(None, map(str.strip, text.split(","))))
    if wrong := [each for each in found if not PLAIN_ID.fullmatch(each)]:
        raise ValueError(f"must be letters, digits, - and _, not {wrong[0]!r}")
    return found


def one_id(text: str) -> str:
    """Or none."""
    if len(found := ids(text)) > 1:
        raise ValueError("must be one")
    return found[0] if found else ""


def host_names(text: str) -> list[str]:
    names = list(filter(None, map(str.strip, text.split(","))))
    if wrong := [name for name in names if not HOST.fullmatch(name)]:
        raise ValueError(f"must be host names without scheme, port or path, not {wrong[0]!r}")
    if not names:
        raise ValueError("must be at least one host name")
    return names


def http_url(text: str) -> str:
    with suppress(ValueError):
        url = urlsplit(text)
        is_whole = url.scheme in ("http", "https") and _has_host_and_port(url) and not url.query and not url.fragment
        if is_whole and text.isprintable() and " " not in text:
            return text.rstrip("/")
    raise ValueError("must be an http or https URL with a host, such as https://api.example.com/v1")


def issuer(text: str) -> str:
    """Of an OpenID provider, without the slash that some end in. Or nothing."""
    if not text.strip():
        return ""
    with suppress(ValueError):
        if "@" not in urlsplit(url := http_url(text.strip())).netloc:
            return url.removesuffix("/.well-known/openid-configuration")
    raise ValueError(
        "must be the http or https URL of an OpenID provider, such as https://login.example.com/realms/shop"
    )


def scopes(text: str) -> str:
    words = text.split()
    if "openid" not in words or not text.isascii() or not text.isprintable():
        raise ValueError(f"must be scopes separated by spaces, openid among them, not {text!r}")
    return " ".join(words)


def short_name(text: str) -> str:
    name = text.strip()
    if not 1 <= len(name) <= 40 or not name.isprintable() or set(name) & set("{}"):
        raise ValueError(f"must be a name of at most 40 characters, not {text!r}")
    return name


def public_url(text: str) -> str:
    """As a browser names the origin: scheme, host and, unless it is the scheme's own, the port. Or nothing."""
    if not text.strip():
        return ""
    with suppress(ValueError):
        url = urlsplit(http_url(text.strip()))
        if not url.path and "@" not in url.netloc:
            is_usual_port = url.port in (None, {"http": 80, "https": 443}[url.scheme])
            return f"{url.scheme}://{host_of(url.geturl())}" + ("" if is_usual_port else f":{url.port}")
    raise ValueError("must be an http or https URL without a path, such as https://guard.example.com")


def host_of(url: str) -> str:
    """As ALLOWED_HOSTS has it: without the port, an IPv6 address in its brackets."""
    host = urlsplit(url).hostname or ""
    return f"[{host}]" if ":" in host else host


def networks(text: str) -> tuple[IPv4Network | IPv6Network, ...]:
    try:
        return tuple(ip_network(part) for part in filter(None, map(str.strip, text.split(","))))
    except ValueError as error:
        raise ValueError(f"must be addresses or networks such as 10.0.0.0/8, separated by commas: {error}") from None


DIALECTS = ("responses", "chat")
RESPONSES_FIRST = {"api.x.ai"}
"""Hosts that call chat completions deprecated; what else plays such a provider may know nothing newer."""


def dialect(base_url: str) -> Callable[[str], str]:
    """How the provider at this address is spoken to; where nothing is said, as its host wants to be."""

    def parse(text: str) -> str:
        unsaid = "responses" if urlsplit(base_url).hostname in RESPONSES_FIRST else "chat"
        given = text.strip() or unsaid
        if given not in DIALECTS:
            raise ValueError(f"must be responses or chat, not {text!r}")
        return given

    return parse


def _has_host_and_port(url: Any) -> bool:
    """Raises ValueError where there is a port that is none."""
    return bool(url.hostname and url.hostname.encode("idna")) and url.port != 0


def email_server(text: str) -> dict[str, Any]:
    """Django's EMAIL_ settings, from smtp+tls://user:password@host:587 for example."""
    with suppress(ValueError):
        url = urlsplit(text)
        if url.scheme in Env.EMAIL_SCHEMES and (not url.scheme.startswith("smtp") or _has_host_and_port(url)):
            config: dict[str, Any] = Env.email_url_config(text)
            return {name: value for name, value in config.items() if name != "OPTIONS"}
    raise ValueError(
        "must be an email URL, such as smtp+tls://user:password@host:587, with %-codes for special characters"
    )


def email_address(text: str) -> str:
    if not text.isprintable() or not re.fullmatch(r"[^@\s]+@[^@\s]+", parseaddr(text)[1]):
        raise ValueError(f"must be an email address, not {text!r}")
    return text


def task_backend(text: str) -> str:
    """Tried here: by the time that it is used, an error names no setting."""
    try:
        if not hasattr(import_string(text), "enqueue"):
            raise ValueError(f"must be the dotted path of a task backend, which {text!r} is not")
    except ImportError as error:
        raise ValueError(str(error)) from None
    except (ImproperlyConfigured, AppRegistryNotReady):
        pass  # it needs the other settings, or models, which load later
    return text


def fernet_keys(text: str) -> tuple[str, ...]:
    keys = tuple(filter(None, map(str.strip, text.split(","))))
    for number, key in enumerate(keys, 1):
        if not re.fullmatch(r"[A-Za-z0-9_-]{43}=", key):
            raise ValueError(
                f"must be Fernet keys (32 bytes in URL-safe base64) separated by commas; number {number} is none"
            )
    return keys
