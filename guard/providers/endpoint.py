"""One address that requests are posted to, and what its HTTP errors mean for the call and for the bill.

A call's body is bytes and its answer is read as bytes: nothing here knows of chat.  Nothing is sent twice, since each
retry would be a second bill that no hold covers.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from django.utils import timezone
from yarl import URL

from guard.providers.failures import Failed, ProviderError, meaning_of_status
from spend.codes import FailureCode

CONNECTIONS = 4096
CONNECT_TIMEOUT_S = 10.0
KEEP_ALIVE_S = 5.0
"""Well below what providers keep: a connection that they close in use is a failed call."""
CLIENT_ERRORS = (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError, ValueError)
"""What aiohttp raises, or the reading of an answer."""
NEVER_SENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError, aiohttp.ClientHttpProxyError)
CUT_OFF = (aiohttp.ClientConnectionError, aiohttp.ClientHttpProxyError, OSError)


class Endpoint:
    def __init__(self, url: str, api_key: str) -> None:
        self.url = URL(url)
        self.headers = {
            "Authorization": f"Bearer {api_key}",
            "Content-Type": "application/json",
            "User-Agent": "guard",
        }
        self._session: aiohttp.ClientSession | None = None

    async def fetch(self, body: bytes, headers: Mapping[str, str], wait_s: float) -> tuple[Mapping[str, str], bytes]:
        """The whole of an answer, its headers and its body, within `wait_s`. Raises Rejected or Failed."""
        with failures_told():
            async with asyncio.timeout(CONNECT_TIMEOUT_S + wait_s), await self._post(body, headers, wait_s) as response:
                return response.headers, await response.read()

    async def open(
        self, body: bytes, headers: Mapping[str, str], wait_s: float, pause_s: float
    ) -> aiohttp.ClientResponse:
        """An answer that begins within `wait_s`, its pieces `pause_s` apart at most; who reads it releases it.

        Raises Rejected or Failed.
        """
        with failures_told():
            async with asyncio.timeout(CONNECT_TIMEOUT_S + wait_s):
                return await self._post(body, headers, pause_s)

    async def _post(self, body: bytes, headers: Mapping[str, str], pause_s: float) -> aiohttp.ClientResponse:
        """Raises Rejected or Failed for a status other than 2xx, and else what `failures_told` tells."""
        response = await self.session.post(
            self.url,
            data=body,
            headers=headers,
            allow_redirects=False,  # a prompt goes to the address that was configured, and to no other
            timeout=aiohttp.ClientTimeout(sock_connect=CONNECT_TIMEOUT_S, sock_read=pause_s),
        )
        if 200 <= response.status < 300:
            return response
        async with response:
            content = await response.read()
        raise meaning_of_status(response.status, response.headers, content, timezone.now())

    @property
    def session(self) -> aiohttp.ClientSession:
        """Begun with the first request, since it belongs to the event loop that it is begun in."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=KEEP_ALIVE_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self.headers,
                proxy=_proxy_for(self.url),
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()


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
    if isinstance(error, TimeoutError):
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
