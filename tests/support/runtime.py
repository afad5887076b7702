"""A worker's moving parts, without its server."""

import asyncio
from collections.abc import Awaitable, Callable

from guard.worker.runtime import Runtime


def with_runtime(story: Callable[[Runtime], Awaitable[None]]) -> None:
    """Tell `story` with a worker's moving parts, and stop them: what is in flight ends first."""

    async def tell() -> None:
        runtime = Runtime()
        await runtime.start()
        try:
            await story(runtime)
        finally:
            await asyncio.wait_for(runtime.stop(), 10)

    asyncio.run(tell())
