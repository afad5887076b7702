"""The OpenID provider as a process of its own, and what a test does with it."""

import html
import re
import socket
import subprocess
import sys
from typing import Any

import requests

from tests.support.environment import ROOT

CLIENT_ID, CLIENT_SECRET = "guard", "secret-of-the-client"
ROLES = '{"watchers": "auditor", "steerers": "operator", "owners": "superuser", "shop": "manager"}'


class OpenIdProvider:
    """`tests.support.openid_process`, whose people are made here."""

    def __init__(self) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(64)
            self.issuer = f"http://127.0.0.1:{listener.getsockname()[1]}"
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "tests.support.openid_process", str(listener.fileno())],
                cwd=ROOT,
                pass_fds=[listener.fileno()],
                stderr=subprocess.DEVNULL,
            )
        self.session = requests.Session()
        assert self.session.delete(f"{self.issuer}/control", timeout=30).ok  # its socket listens before it does

    def settings(self, public_url: str) -> dict[str, str]:
        """The guard's, for this provider."""
        return {
            "SSO_ISSUER": self.issuer,
            "SSO_CLIENT_ID": CLIENT_ID,
            "SSO_CLIENT_SECRET": CLIENT_SECRET,
            "SSO_NAME": "Shop ID",
            "SSO_ROLES": ROLES,
            "PUBLIC_URL": public_url,
        }

    def person(self, subject: str, *groups: str, **claims: Any) -> str:
        """There is somebody, in these groups. Returns the subject."""
        told = {"preferred_username": subject, "groups": list(groups), **claims}
        assert self.session.put(f"{self.issuer}/users/{subject}", json=told, timeout=30).ok
        return subject

    def get_wrong(self, **what: Any) -> None:
        """From now on, until it is reset; see `openid_process.Wrong`."""
        assert self.session.post(f"{self.issuer}/control", json=what, timeout=30).ok

    def reset(self) -> None:
        assert self.session.delete(f"{self.issuer}/control", timeout=30).ok

    def agree(self, url: str, subject: str) -> str:
        """Sign in there, as a person does in the form at `url`. Returns where the browser is sent back to."""
        page = self.session.get(url, timeout=30)
        assert page.ok, page.text
        assert re.search(r'name="sub"', html.unescape(page.text)), page.text
        answer = self.session.post(url, data={"sub": subject}, allow_redirects=False, timeout=30)
        return answer.headers["Location"]

    def refuse(self, url: str) -> str:
        answer = self.session.post(url, data={"action": "deny"}, allow_redirects=False, timeout=30)
        return answer.headers["Location"]

    def stop(self) -> None:
        self.session.close()
        self.process.terminate()
        self.process.wait(timeout=30)
