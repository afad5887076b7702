"""What is allowed: tenants, their members, credentials, budgets, routes and channels."""

from tenants.models.budgets import (
    MOST_PERCENT,
    SMALLEST_CAP,
    Budget,
    Scope,
    TopUp,
    percents_of,
    validate_percents,
)
from tenants.models.channels import AlertChannel, ChannelKind, new_secret
from tenants.models.keys import (
    KEY_PREFIX,
    TOKEN_PREFIX,
    USE_NOTED_EVERY,
    ApiKey,
    ApiKeyManager,
    OperatorToken,
    OperatorTokenManager,
    digest_of,
)
from tenants.models.people import SsoIdentity
from tenants.models.profile import Profile, profile_of, zone_of
from tenants.models.revision import Change, Revision
from tenants.models.routes import ANY_MODEL, DowngradeRule, RouteStep
from tenants.models.tenant import (
    LANGUAGE_VALIDATOR,
    MOST_CONTENT_DAYS,
    MOST_REQUESTS_PER_MINUTE,
    HandoffTranslation,
    HardStop,
    Limited,
    Tenant,
    time_zones,
    validate_time_zone,
)

__all__ = [
    "ANY_MODEL",
    "KEY_PREFIX",
    "LANGUAGE_VALIDATOR",
    "MOST_CONTENT_DAYS",
    "MOST_PERCENT",
    "MOST_REQUESTS_PER_MINUTE",
    "SMALLEST_CAP",
    "TOKEN_PREFIX",
    "USE_NOTED_EVERY",
    "AlertChannel",
    "ApiKey",
    "ApiKeyManager",
    "Budget",
    "Change",
    "ChannelKind",
    "DowngradeRule",
    "HandoffTranslation",
    "HardStop",
    "Limited",
    "OperatorToken",
    "OperatorTokenManager",
    "Profile",
    "Revision",
    "RouteStep",
    "Scope",
    "SsoIdentity",
    "Tenant",
    "TopUp",
    "digest_of",
    "new_secret",
    "percents_of",
    "profile_of",
    "time_zones",
    "validate_percents",
    "validate_time_zone",
    "zone_of",
]
