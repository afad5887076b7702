"""A real OpenID provider as a process: oidc-provider-mock, with what it leaves out, and what a test has it get wrong.

It leaves out PKCE and its clients' secrets; both are checked here as a provider does. ID tokens are signed anew by a
key of this process, so that a test can have them wrong: `POST /control` with any of Wrong's fields; `DELETE` ends it.
"""

import base64
import hashlib
import hmac
import json
import os
import socket
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from joserfc import jwk, jwt
from oidc_provider_mock import app
from werkzeug.serving import make_server
from werkzeug.wrappers import Request, Response

CLIENT_ID, CLIENT_SECRET = "guard", "secret-of-the-client"
Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass
class Wrong:
    """What the provider gets wrong: parts of the ID token, who signs it, answers."""

    claims: dict[str, Any] = field(default_factory=dict)
    without: list[str] = field(default_factory=list)
    alg: str = "RS256"
    signed_by: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    userinfo: dict[str, Any] = field(default_factory=dict)
    is_down: bool = False
    is_nonsense: bool = False


class Provider:
    def __init__(self, behind: Wsgi) -> None:
        self.behind = behind
        self.wrong = Wrong()
        self.key = jwk.RSAKey.generate_key(2048, {"kid": "first"})
        self.foreign_key = jwk.RSAKey.generate_key(2048, {"kid": "first"})
        self.challenges: dict[str, str] = {}
        self.codes: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = Request(environ)
        request.get_data(cache=True, parse_form_data=False)
        return self.answer(request)(environ, start_response)

    def answer(self, request: Request) -> Response:
        if request.path == "/control":
            return self.controlled(request)
        if self.wrong.is_down:
            return Response("down", 503)
        if self.wrong.is_nonsense:
            return Response("<html>not what was asked for</html>", 200)
        special = {
            "/jwks": self.jwks,
            "/oauth2/authorize": self.authorize,
            "/oauth2/token": self.token,
            "/userinfo": self.userinfo,
            "/.well-known/openid-configuration": self.metadata,
        }
        return special.get(request.path, self.passed_on)(request)

    def controlled(self, request: Request) -> Response:
        if request.method == "DELETE":
            self.wrong = Wrong()
        elif request.path == "/control" and request.method == "POST":
            told = request.get_json()
            if told.pop("rotate", False):
                self.key = jwk.RSAKey.generate_key(2048, {"kid": f"key-{len(self.codes)}"})
            self.wrong = Wrong(**told)
        return Response(json.dumps({"codes": self.codes}), mimetype="application/json")

    def passed_on(self, request: Request) -> Response:
        request.environ["wsgi.input"] = request.stream if not request.get_data() else _again(request)
        return Response.from_app(self.behind, request.environ, buffered=True)

    def jwks(self, _request: Request) -> Response:
        return Response(json.dumps(jwk.KeySet([self.key]).as_dict(private=False)), mimetype="application/json")

    def metadata(self, request: Request) -> Response:
        told = json.loads(self.passed_on(request).get_data())
        return Response(json.dumps({**told, **self.wrong.metadata}), mimetype="application/json")

    def authorize(self, request: Request) -> Response:
        """Refuses who asks without PKCE by S256; remembers the challenge of each code."""
        if request.args.get("code_challenge_method") != "S256" or not request.args.get("nonce"):
            return Response("PKCE by S256 and a nonce are wanted", 400)
        answer = self.passed_on(request)
        back = answer.headers.get("Location", "")
        if "error=" in back:  # the provider behind leaves the state out of it
            answer.headers["Location"] = f"{back}&state={request.args['state']}"
        if code := Request.from_values(back).args.get("code"):
            self.challenges[code] = request.args["code_challenge"]
        return answer

    def token(self, request: Request) -> Response:
        given = request.authorization
        if given is None or (given.username, given.password) != (CLIENT_ID, CLIENT_SECRET):
            return _error("invalid_client", 401)
        form = Request.from_values(data=request.get_data(), content_type=request.content_type, method="POST").form
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        if self.challenges.pop(form.get("code", ""), None) != _encoded(digest):
            return _error("invalid_grant", 400)
        self.codes.append(form["code"])
        answer = self.passed_on(request)
        told = json.loads(answer.get_data())
        if "id_token" in told:
            told["id_token"] = self.signed(told["id_token"])
        return Response(json.dumps(told), answer.status_code, mimetype="application/json")

    def signed(self, token: str) -> str:
        """The provider's own claims, changed as a test wants, signed anew."""
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        claims = {**claims, **self.wrong.claims}
        for name in ["at_hash", *self.wrong.without]:
            claims.pop(name, None)
        header = {"alg": self.wrong.alg, "kid": self.key.kid}
        if self.wrong.alg == "RS256":
            key = self.foreign_key if self.wrong.signed_by == "somebody else" else self.key
            return jwt.encode(header, claims, key)
        return self.signed_by_what_others_know(header, claims)

    def signed_by_what_others_know(self, header: dict[str, Any], claims: dict[str, Any]) -> str:
        """By nothing, by the client's secret, or by the text of the public key: no library of ours would."""
        text = ".".join(_encoded(json.dumps(part).encode()) for part in (header, claims))
        if self.wrong.alg == "none":
            return f"{text}."
        secret = CLIENT_SECRET.encode() if self.wrong.signed_by == "the client" else self.key.as_pem(private=False)
        return f"{text}.{_encoded(hmac.digest(secret, text.encode(), 'sha256'))}"

    def userinfo(self, request: Request) -> Response:
        answer = self.passed_on(request)
        told = {**json.loads(answer.get_data()), **self.wrong.userinfo}
        return Response(json.dumps(told), answer.status_code, mimetype="application/json")


def _encoded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _again(request: Request) -> Any:
    """The body once more, for who stands behind."""
    return BytesIO(request.get_data())


def _error(code: str, status: int) -> Response:
    return Response(
        json.dumps({"error": code, "error_description": CLIENT_SECRET}), status, mimetype="application/json"
    )


if __name__ == "__main__":
    os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"
    listener = socket.socket(fileno=int(sys.argv[1]))
    host, port = listener.getsockname()
    make_server(host, port, Provider(app().wsgi_app), threaded=True, fd=listener.fileno()).serve_forever()
