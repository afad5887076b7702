"""Where addresses that are entered in the admin may lead: into the internet, or where ALLOW_PRIVATE_TARGETS says. Pure.

The guard stands inside a network and sends where it is told to: without this, whoever may enter an address could make
it speak to what only this network reaches.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

WHERE_TO_ALLOW = "nothing is sent there unless ALLOW_PRIVATE_TARGETS lists it."
MOST_ADDRESSES = 4

HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")

# IANA's registries of special addresses, and where clouds tell a machine its secrets. The first that fits names it.
NOT_PUBLIC: dict[str, list[Network]] = {
    kind: [ip_network(each) for each in networks.split()]
    for kind, networks in {
        "a cloud's metadata service": "169.254.169.254 169.254.170.2 168.63.129.16 100.100.100.200 192.0.0.192 "
        "fd00:ec2::254 fd20:ce::254",
        "unspecified": "0.0.0.0/8 ::/128",
        "loopback": "127.0.0.0/8 ::1/128",
        "link-local": "169.254.0.0/16 fe80::/10",
        "private": "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 fc00::/7 fec0::/10",
        "multicast": "224.0.0.0/4 ff00::/8",
        "reserved": "192.0.0.0/24 192.0.2.0/24 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.175.48.0/24 "
        "198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 240.0.0.0/4 "
        "2001::/23 2001:db8::/32 2002::/16 2620:4f:8000::/48 3fff::/20 5f00::/16",
    }.items()
}
PUBLIC_IPV6 = IPv6Network("2000::/3")
NAT64 = IPv6Network("64:ff9b::/96")
"""How networks of IPv6 alone reach the IPv4 address in its last 32 bits."""


@dataclass(frozen=True)
class AllowedTargets:
    """ALLOW_PRIVATE_TARGETS: networks, and hosts wherever they lead."""

    networks: tuple[Network, ...] = ()
    hosts: frozenset[str] = frozenset()


def read_allowed_targets(text: str) -> AllowedTargets:
    """Addresses, networks and host names, separated by commas. Raises ValueError."""
    networks, hosts = [], set()
    for each in filter(None, map(str.strip, text.split(","))):
        if (network := _network(each)) is not None:
            networks.append(network)
        elif HOST.fullmatch(host := _plain(each)) and not re.fullmatch(r"[0-9.]+", host):
            hosts.add(host)
        else:
            raise ValueError(f"must be addresses, networks such as 10.0.0.0/8, or host names, not {each!r}")
    return AllowedTargets(tuple(networks), frozenset(hosts))


def _network(text: str) -> Network | None:
    try:
        return ip_network(text.strip("[]"))
    except ValueError:
        return None


def _plain(host: str) -> str:
    return host.lower().removesuffix(".")


def refusal_of(host: str, address: Address, allowed: AllowedTargets) -> str | None:
    """What kind of address keeps a connection for `host` from going there; None where it may go."""
    reached = _reached(address)
    if _plain(host) in allowed.hosts or _is_in(address, allowed.networks) or _is_in(reached, allowed.networks):
        return None
    for kind, networks in NOT_PUBLIC.items():
        if _is_in(reached, networks):
            return kind
    return None if isinstance(reached, IPv4Address) or reached in PUBLIC_IPV6 else "reserved"


class TargetError(OSError):
    """A host that leads nowhere, or nowhere that may be connected to, as the message says."""


def may_reach(host: str, addresses: list[Address], allowed: AllowedTargets) -> list[Address]:
    """Those that may be connected to, in their order, at least one and MOST_ADDRESSES at most. Raises TargetError."""
    kinds = {address: refusal_of(host, address, allowed) for address in addresses}
    if reachable := [address for address, kind in kinds.items() if kind is None]:
        return reachable[:MOST_ADDRESSES]
    address, kind = next(iter(kinds.items()))
    raise TargetError(f"{host} leads to {address}, which is {kind}: {WHERE_TO_ALLOW}")


def _is_in(address: Address, networks: Collection[Network]) -> bool:
    return any(address in network for network in networks)


def _reached(address: Address) -> Address:
    """The IPv4 address that an IPv6 address only wraps, else the address, without its zone."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    plain = IPv6Address(int(address))
    return IPv4Address(int(plain) & 0xFFFF_FFFF) if plain in NAT64 else plain


def literal_address(host: str) -> Address | None:
    """The address that a host is rather than has; None for a name that is to be looked up."""
    if _plain(host) == "localhost" or _plain(host).endswith(".localhost"):
        return IPv4Address("127.0.0.1")
    try:
        return ip_address(host)
    except ValueError:
        return None
