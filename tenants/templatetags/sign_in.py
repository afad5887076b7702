"""What the login pages show of single sign-on."""

from typing import Any

from django import template
from django.conf import settings

from tenants.sign_in.sso.configured import is_on
from tenants.sign_in.sso.views import sign_in_url

register = template.Library()


@register.simple_tag(takes_context=True)
def single_sign_on(context: dict[str, Any]) -> dict[str, Any]:
    """Empty where it is not set up; else its `name`, its `url`, and whether passwords are asked for (`?local` does)."""
    if not is_on():
        return {}
    request = context["request"]
    is_asked = "local" in request.GET or request.method == "POST"
    return {
        "name": settings.SSO_NAME,
        "url": sign_in_url(context.get("next", "")),
        "hides_passwords": settings.SSO_HIDES_PASSWORDS and not is_asked,
        "is_signed_out": "signed_out" in request.GET,
    }
