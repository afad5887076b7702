"""A conversation's key at its provider: calls with the same one reach the machine that has its prefix cached. Pure.

Derived from tenant and conversation, so that it tells the provider neither, and no tenant can name another's.
"""

from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from spend.ledger.rules import Caller
from spend.models import ProviderKind

KEY_CHARACTERS = 32
"""OpenAI takes 64 at most."""
CACHE_KEY = "prompt_cache_key"
XAI_HEADER = "x-grok-conv-id"


def conversation_key(caller: Caller) -> str:
    """Empty for a call that names no conversation."""
    if not caller.conversation:
        return ""
    named = f"{caller.tenant_id}\0{caller.conversation}".encode("utf-8", "surrogatepass")
    return sha256(named).hexdigest()[:KEY_CHARACTERS]


def parameters_for(kind: str, caller: Caller, body: Mapping[str, Any]) -> dict[str, Any]:
    """What to add to the body of a request that has messages, where the caller says nothing of it."""
    key = conversation_key(caller) if "messages" in body else ""
    return {CACHE_KEY: key} if key and kind == ProviderKind.OPENAI and CACHE_KEY not in body else {}


def headers_for(kind: str, caller: Caller, body: Mapping[str, Any]) -> dict[str, str]:
    """xAI's, by the caller's own key where there is one: within its tenant, like everything that callers name."""
    if kind != ProviderKind.XAI:
        return {}
    given = body.get(CACHE_KEY)
    key = sha256(f"{caller.tenant_id}\0\0{given}".encode()).hexdigest()[:KEY_CHARACTERS] if given else ""
    return {XAI_HEADER: key} if (key := key or conversation_key(caller)) else {}
