"""The way out for what is sent to addresses from the admin: looked up once, checked, and connected to as checked.

A name can lead elsewhere each time that it is looked up, so what was checked is what is connected to; its own name is
still what the server is asked for, and what its certificate must be for. No proxy of the environment stands between:
it would look the name up anew.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import ip_address

import httpx2
from django.conf import settings

from tenants.targets import Address, TargetError, may_reach

CONNECT_S = 3.0
"""For each: one that takes no connection leaves the deadline to the others."""


LookUp = Callable[[str, int], Awaitable[list[Address]]]


async def addresses_of(host: str, port: int) -> list[Address]:
    """What the system's resolver says. Raises TargetError."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise TargetError(f"the name {host} leads to no address") from None
    return list(dict.fromkeys(ip_address(socket_address[0]) for *_, socket_address in found))


class CheckedTransport(httpx2.AsyncHTTPTransport):
    def __init__(self, look_up: LookUp = addresses_of) -> None:
        super().__init__()
        self.look_up = look_up

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Raises TargetError where the host leads nowhere that it may."""
        url, host = request.url, request.url.raw_host.decode("ascii")
        addresses = may_reach(host, await self.look_up(host, url.port or 443), settings.ALLOW_PRIVATE_TARGETS)
        timeouts = {**request.extensions["timeout"], "connect": CONNECT_S}
        request.extensions = {**request.extensions, "timeout": timeouts, "sni_hostname": host}
        for address in addresses[:-1]:
            request.url = url.copy_with(host=str(address))
            with suppress(httpx2.ConnectError, httpx2.ConnectTimeout):  # nothing was sent: the next one
                return await super().handle_async_request(request)
        request.url = url.copy_with(host=str(addresses[-1]))
        return await super().handle_async_request(request)
