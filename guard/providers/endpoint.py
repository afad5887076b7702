"""A provider's connections: what is posted by them, and what its HTTP errors mean for the call and for the bill.

A call's body is bytes and its answer is read as bytes: nothing here knows of chat.  Nothing is sent twice, since each
retry would be a second bill that no hold covers.
"""

import asyncio
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.abc import ResolveResult
from aiohttp.http_exceptions import HttpProcessingError
from django.conf import settings
from django.utils import timezone
from yarl import URL

from guard.providers.failures import Failed, ProviderError, meaning_of_status
from spend.codes import FailureCode
from tenants.targets import TargetError, may_reach

CONNECTIONS = 4096
CONNECT_TIMEOUT_S = 10.0
KEEP_ALIVE_S = 5.0
"""Well below what providers keep: a connection that they close in use is a failed call."""
CLIENT_ERRORS = (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError, ValueError)
"""What aiohttp raises, or the reading of an answer."""
NEVER_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
CUT_OFF = (aiohttp.ClientConnectionError, aiohttp.ClientHttpProxyError, OSError)


class CheckedResolver(aiohttp.ThreadedResolver):
    """For addresses that people entered: what was checked is what is connected to, since it is looked up here only."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises OSError, for a host that leads nowhere that it may a TargetError."""
        found = {ip_address(each["host"]): each for each in await super().resolve(host, port, family)}
        return [found[address] for address in may_reach(host, list(found), settings.ALLOW_PRIVATE_TARGETS)]


class Connections:
    """To one provider, whatever of its row changes: what differs by its account goes with each request."""

    def __init__(self, *, is_checked: bool = False) -> None:
        self.is_checked = is_checked
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """Begun with the first request, since it belongs to the event loop that it is begun in."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=CONNECTIONS,
                    keepalive_timeout=KEEP_ALIVE_S,
                    resolver=CheckedResolver() if self.is_checked else None,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


class Endpoint:
    """An account at a provider: where it is, and the headers that go with every request."""

    def __init__(self, base_url: str, headers: Mapping[str, str], connections: Connections) -> None:
        self.headers = {"User-Agent": "guard", **headers, "Content-Type": "application/json"}
        self.connections = connections
        # Of an address that people entered, a proxy would look the name up anew.
        self.proxy = None if connections.is_checked else _proxy_for(URL(base_url))

    async def fetch(
        self, url: URL, body: bytes, headers: Mapping[str, str], wait_s: float
    ) -> tuple[Mapping[str, str], bytes]:
        """The whole of an answer, its headers and its body, within `wait_s`. Raises Rejected or Failed."""
        with failures_told():
            async with asyncio.timeout(CONNECT_TIMEOUT_S + wait_s):
                async with await self._post(url, body, headers, wait_s) as response:
                    return response.headers, await response.read()

    async def open(
        self, url: URL, body: bytes, headers: Mapping[str, str], wait_s: float, pause_s: float
    ) -> aiohttp.ClientResponse:
        """An answer that begins within `wait_s`, its pieces `pause_s` apart at most; who reads it releases it.

        Raises Rejected or Failed.
        """
        with failures_told():
            async with asyncio.timeout(CONNECT_TIMEOUT_S + wait_s):
                return await self._post(url, body, headers, pause_s)

    async def _post(self, url: URL, body: bytes, headers: Mapping[str, str], pause_s: float) -> aiohttp.ClientResponse:
        """Raises Rejected or Failed for a status other than 2xx, and else what `failures_told` tells."""
        response = await self.connections.session.post(
            url,
            data=body,
            headers={**self.headers, **headers},
            proxy=self.proxy,
            allow_redirects=False,  # a prompt goes to the address that was configured, and to no other
            timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT_S, sock_read=pause_s),
        )
        if 200 <= response.status < 300:
            return response
        async with response:
            content = await response.read()
        raise meaning_of_status(response.status, response.headers, content, timezone.now())


def _proxy_for(url: URL) -> str | None:
    """What the environment names (HTTPS_PROXY, NO_PROXY and the like). aiohttp would look anew at each request."""
    proxies = getproxies()
    if not proxies or proxy_bypass(url.host or ""):
        return None
    return proxies.get(url.scheme) or proxies.get("all")


@contextmanager
def failures_told() -> Iterator[None]:
    """Whatever aiohttp raises within, told as Rejected or Failed."""
    try:
        yield
    except CLIENT_ERRORS as error:
        raise _meaning_of(error) from None


def _meaning_of(error: BaseException) -> ProviderError:
    """A request that never reached the provider billed nothing; of one cut off later nobody knows."""
    if isinstance(error, aiohttp.ClientConnectorError) and isinstance(error.os_error, TargetError):
        code = FailureCode.ADDRESS_NOT_ALLOWED
    elif isinstance(error, TimeoutError):
        code = FailureCode.TIMEOUT
    elif isinstance(error, CUT_OFF) or _broke_off(error):
        code = FailureCode.CONNECTION_FAILED
    else:
        code = FailureCode.BAD_ANSWER
    return Failed(code, billed=False if isinstance(error, NEVER_SENT) else None)


def _broke_off(error: BaseException) -> bool:
    """A body that ended too early, and not one that can't be unpacked."""
    return isinstance(error, aiohttp.ClientPayloadError) and not isinstance(
        error.__cause__, aiohttp.http_exceptions.ContentEncodingError
    )
