"""Who the client is, where proxies stand between: what X-Forwarded headers say is believed only from ours.

The one place that reads them: what comes after `seen_through` finds the client's address and scheme in the scope.
"""

from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address
Scope = dict[str, Any]

MOST_REMEMBERED = 4096


class Proxies:
    """The proxies in TRUSTED_PROXIES; where none is, the same machine may say that it was reached by HTTPS."""

    def __init__(self, networks: Iterable[Network]) -> None:
        self.networks = tuple(networks)
        self.is_ours: Callable[[str], bool] = lru_cache(MOST_REMEMBERED)(self._is_ours)

    def seen_through(self, scope: Scope) -> Scope:
        """The scope with its client and scheme as our proxies tell them; as it is where none of ours is before us."""
        peer = (scope.get("client") or ("",))[0]
        if not (self.is_ours(peer) or (not self.networks and is_same_machine(peer))):
            return scope
        told = forwarded(scope)
        schemes = told[b"x-forwarded-proto"]
        scheme = schemes[-1].lower() if schemes and schemes[-1].lower() in ("http", "https") else scope["scheme"]
        if not self.networks:
            return {**scope, "scheme": scheme}
        return {**scope, "client": (self.client_of(peer, told[b"x-forwarded-for"]), 0), "scheme": scheme}

    def client_of(self, peer: str, addresses: list[str]) -> str:
        """The right-most address that is none of our proxies': what stands left of it is the client's own word.

        Where one of our proxies says what is no address, that proxy is as far as we see.
        """
        nearest = peer
        for text in reversed(addresses):
            if (address := parsed(text)) is None:
                return nearest
            nearest = str(address)
            if not self.is_ours(nearest):
                return nearest
        return nearest

    def _is_ours(self, text: str) -> bool:
        address = parsed(text)
        return address is not None and any(address in network for network in self.networks)


@lru_cache(MOST_REMEMBERED)
def is_same_machine(text: str) -> bool:
    address = parsed(text)
    return address is not None and address.is_loopback


def forwarded(scope: Scope) -> dict[bytes, list[str]]:
    """What the X-Forwarded headers list, each in order; a header that comes twice goes on with its list."""
    told: dict[bytes, list[str]] = {b"x-forwarded-for": [], b"x-forwarded-proto": []}
    for name, value in scope["headers"]:
        if name in told:
            told[name] += [part.strip() for part in value.decode("latin-1").split(",")]
    return told


def parsed(text: str) -> Address | None:
    """An address as proxies write it, with a port or in brackets too; an IPv4 address in IPv6's form is IPv4."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
