"""Callers of the REST API."""

import json
from typing import Any

from django.contrib.auth.models import Permission, User
from rest_framework.test import APIClient

from tenants.models import OperatorToken, Tenant
from tests.factories import ApiKeyFactory, UserFactory


class Api(APIClient):
    """A caller that sends JSON: a value, or text as it stands. `user` is the operator, if it is one."""

    user: User | None = None
    secret = ""

    def request(self, **request: Any) -> Any:
        answer = super().request(**request)
        answer.text = answer.content.decode()
        return answer

    def _encode_data(self, data: Any, format: str | None = None, content_type: str | None = None) -> Any:  # noqa: A002
        if content_type is None and format is None:
            text = data if isinstance(data, str) else json.dumps(data)
            data, content_type = text.encode(), "application/json"
        return super()._encode_data(data, format, content_type)  # type: ignore[misc]


def operator(*permissions: str) -> Api:
    """An operator with a token; with these permissions on configuration, or all of them."""
    user = UserFactory.create(password=None)  # a token needs none, and hashing one is slow
    granted = Permission.objects.filter(content_type__app_label__in=["tenants", "spend"])
    granted = granted.filter(codename__in=permissions) if permissions else granted
    # Past the trail, which would ask for the name of each.
    grants = User.user_permissions.through.objects
    grants.bulk_create(grants.model(user=user, permission=permission) for permission in granted)
    _, secret = OperatorToken.objects.issue(user, "tests", None)
    api = caller(f"Token {secret}")
    api.user, api.secret = user, secret
    return api


def agent(tenant: Tenant, **key: Any) -> Api:
    return caller(f"Bearer {ApiKeyFactory.create(tenant=tenant, **key).secret}")


def caller(authorization: str | None = None) -> Api:
    api = Api()
    api.credentials(**({"HTTP_AUTHORIZATION": authorization} if authorization else {}))
    return api
