"""What is said with the provider. Authlib speaks the protocol; here is what it is told to insist on."""

import hmac
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from authlib.integrations.base_client import OAuthError
from authlib.integrations.django_client import DjangoOAuth2App
from joserfc.errors import JoseError

from tenants.sign_in.sso.configured import Configuration, configuration
from tenants.sign_in.sso.errors import ClientRefused, NotBelieved, ProviderAway

METADATA = "/.well-known/openid-configuration"
METADATA_KEPT_S = 3600
TIMEOUT_S = 10
LEEWAY_S = 60
"""By which the provider's clock may differ from ours."""
ENDPOINTS = ("authorization_endpoint", "token_endpoint", "jwks_uri")
ALGORITHMS = ("RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "PS256", "PS384", "PS512", "EdDSA", "Ed25519")
"""Signatures that only the provider can make: not `none`, and none by a secret that we have, too."""
UNKNOWN_CLIENT = frozenset({"invalid_client", "unauthorized_client", "redirect_uri_mismatch"})
ERROR_CODE = re.compile(r"[a-z_]{1,40}")

SUBJECT = re.compile(r"[ -~]{1,255}")
"""ASCII, by the standard."""

Claims = Mapping[str, Any]


@dataclass(frozen=True)
class Begun:
    """A sign-in on its way: what must come back, and what is asked with it."""

    state: str
    nonce: str
    code_verifier: str
    next: str


class Provider(DjangoOAuth2App):
    """One configuration's. What it read of the provider is checked each time that it is used."""

    def __init__(self, of: Configuration) -> None:
        self.issuer_url = of.issuer
        super().__init__(
            framework=None,
            name="sso",
            client_id=of.client_id,
            client_secret=of.client_secret,
            server_metadata_url=of.issuer + METADATA,
            client_kwargs={"scope": of.scopes, "code_challenge_method": "S256", "default_timeout": TIMEOUT_S},
        )

    def load_server_metadata(self) -> dict[str, Any]:
        """Raises NotBelieved where it is another issuer's, or something in it is missing."""
        metadata: dict[str, Any] = super().load_server_metadata()
        if str(metadata.get("issuer")).rstrip("/") != self.issuer_url:
            raise NotBelieved(f"the provider says that it is {metadata.get('issuer')!r}, and SSO_ISSUER another")
        if lacking := [name for name in ENDPOINTS if not isinstance(metadata.get(name), str)]:
            raise NotBelieved(f"the provider's metadata lacks {', '.join(lacking)}")
        offered = metadata.get("id_token_signing_alg_values_supported") or ()
        metadata["id_token_signing_alg_values_supported"] = [name for name in ALGORITHMS if name in offered] or [
            "RS256"
        ]
        methods = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        if "client_secret_basic" not in methods and "client_secret_post" in methods:
            metadata["token_endpoint_auth_method"] = "client_secret_post"  # noqa: S105
        return metadata


def provider() -> Provider:
    """Of the settings. What it says of itself is read anew each hour, and its keys whenever one is unknown."""
    return _provider(configuration(), int(time.monotonic() // METADATA_KEPT_S))


@lru_cache(2)
def _provider(of: Configuration, _hour: int) -> Provider:
    return Provider(of)


def way_there(redirect_uri: str, next_path: str) -> tuple[str, Begun]:
    """Where the browser is sent, and what it takes along until it is back. Raises SsoError."""
    with _understood():
        way = provider().create_authorization_url(redirect_uri)
    return way["url"], Begun(way["state"], way["nonce"], way["code_verifier"], next_path)


def way_out(back_to: str) -> str | None:
    """Where the browser is sent to sign out of the provider; None where there is no such place. Raises SsoError."""
    with _understood():
        if not provider().load_server_metadata().get("end_session_endpoint"):
            return None
        way = provider().create_logout_url(post_logout_redirect_uri=back_to, client_id=provider().client_id)
    return str(way["url"])


def claims_of(answer: Mapping[str, str], begun: Begun, redirect_uri: str, wanted: str) -> Claims:
    """What the provider says of who comes back with `answer`, the query of the callback. Raises SsoError.

    From the ID token; where it lacks the claim `wanted`, with what the userinfo endpoint adds.
    """
    with _understood():
        metadata = provider().load_server_metadata()
        if not hmac.compare_digest(answer.get("iss", metadata["issuer"]).encode(), metadata["issuer"].encode()):
            raise NotBelieved("the answer is another issuer's")
        token = provider().fetch_access_token(
            redirect_uri, code=answer.get("code", ""), code_verifier=begun.code_verifier
        )
        claims = _checked(token, begun.nonce)
        if wanted not in claims and metadata.get("userinfo_endpoint"):
            return _with_userinfo(claims, token)
    return claims


def _checked(token: dict[str, Any], nonce: str) -> Claims:
    if not token.get("id_token"):
        raise NotBelieved("there is no ID token: SSO_SCOPES must have openid")
    options = {
        "iss": {"essential": True, "value": provider().load_server_metadata()["issuer"]},
        "aud": {"essential": True, "value": provider().client_id},
        "sub": {"essential": True},
        "exp": {"essential": True},
        "iat": {"essential": True},
    }
    claims: Claims = provider().parse_id_token(token, nonce, claims_options=options, leeway=LEEWAY_S)
    if not SUBJECT.fullmatch(claims["sub"]):
        raise NotBelieved("the ID token's sub is none")
    return claims


def _with_userinfo(claims: Claims, token: dict[str, Any]) -> Claims:
    """Raises NotBelieved where it is about somebody else."""
    told = provider().userinfo(token=token)
    if told.get("sub") != claims["sub"]:
        raise NotBelieved("the userinfo is about another person")
    return {**told, **claims}


@contextmanager
def _understood() -> Iterator[None]:
    """Raises what the libraries raise as an SsoError, with what may stand in a log: no code, no token, no secret."""
    try:
        yield
    except OAuthError as error:
        code = said(str(error.error))
        raise (ClientRefused if code in UNKNOWN_CLIENT else NotBelieved)(f"the provider said {code}") from None
    except JoseError as error:
        raise NotBelieved(f"the ID token does not hold: {type(error).__name__} {_claim(error)}".rstrip()) from None
    except OSError as error:
        status = getattr(getattr(error, "response", None), "status_code", "")
        raise ProviderAway(f"the provider cannot be reached: {type(error).__name__} {status}".rstrip()) from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ProviderAway(f"the provider's answer is not in the protocol: {type(error).__name__}") from None


def _claim(error: JoseError) -> str:
    """Which claim, where it is about one."""
    return str(getattr(error, "claim", ""))


def said(code: str) -> str:
    """An error's code, if it is one: what else stands there may be anybody's words."""
    return code if ERROR_CODE.fullmatch(code) else "something else"
