"""The controllable demo provider as a process of its own, and what a test does with it."""

import socket
import subprocess
import sys
import time
from typing import Any

import requests

from tests.support.environment import ROOT

START_TIMEOUT_S = 10


class Provider:
    """Plays xAI and OpenAI; `guard.demo.behaviours.Behaviour` says what it can be told."""

    def __init__(self, listener: socket.socket) -> None:
        """`listener` is bound but not listening: its address stands in the settings before anything is served."""
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.base_url = f"{self.url}/v1"
        self.session = requests.Session()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "guard.demo", "--fd", str(listener.fileno()), "--latency", "0", "--controllable"],
            cwd=ROOT,
            pass_fds=[listener.fileno()],
        )
        self._wait_until_it_answers()

    def behave(self, model: str = "*", **behaviour: Any) -> None:
        """From now on calls of `model` ("*": of any that has no behaviour of its own) meet this, and only this."""
        self._control("POST", "behaviours", json={model: behaviour})

    def calls(self, model: str | None = None) -> list[dict[str, Any]]:
        """The requests so far, in order: number, model, body, headers, state, started_at, ended_at."""
        calls: list[dict[str, Any]] = self._control("GET", "calls").json()["calls"]
        return [call for call in calls if model in (None, call["model"])]

    def reset(self) -> None:
        """Forget all behaviours and calls."""
        self._control("DELETE", "behaviours")
        self._control("DELETE", "calls")

    def stop(self) -> None:
        self.session.close()
        self.process.terminate()
        self.process.wait(timeout=30)

    def _control(self, method: str, what: str, **options: Any) -> requests.Response:
        answer = self.session.request(method, f"{self.url}/control/{what}", timeout=30, **options)
        assert answer.ok, answer.text
        return answer

    def _wait_until_it_answers(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self._control("GET", "calls")
            except requests.ConnectionError:
                assert self.process.poll() is None, "the demo provider ended at its start"
                assert time.monotonic() < deadline, "the demo provider did not start"
                time.sleep(0.02)
            else:
                return
