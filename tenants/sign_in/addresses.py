"""Under which address tries to sign in are counted."""

from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from django.http import HttpRequest

PREFIX = 64
"""Of an IPv6 address: who has one has all that begin alike."""


def counted_address(request: HttpRequest) -> str | None:
    """The client's, as `guard.http.proxies` found it; of IPv6 its network. None where it has none."""
    with suppress(ValueError):
        return str(_network(ip_address(request.META.get("REMOTE_ADDR", ""))))
    return None


def _network(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or ip_network((address, PREFIX), strict=False).network_address
