"""Settings, all from the environment (or a .env file); .env.example explains each.

A bad value stops the start with a message that names its setting.
"""

import logging
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from csp.constants import NONE, SELF, UNSAFE_EVAL, UNSAFE_INLINE
from django.core.exceptions import ImproperlyConfigured
from environ import Env

from guard.config.admin_site import UNFOLD  # noqa: F401
from guard.config.databases import database, replica
from guard.config.environment import (
    INSECURE_KEY,
    LAST_PORT,
    dialect,
    email_address,
    email_server,
    fernet_keys,
    host_names,
    host_of,
    http_url,
    ids,
    issuer,
    networks,
    one_id,
    public_url,
    read,
    scopes,
    seconds,
    secret,
    secret_key,
    short_name,
    task_backend,
    whole_number,
    yes_or_no,
)
from guard.config.log_format import log_config, log_level
from tenants.configured import read_daily_budget, read_tenant_budgets
from tenants.sign_in.sso.configured import read_roles
from tenants.targets import read_allowed_targets

BASE_DIR = Path(__file__).resolve().parent.parent
Env.read_env(BASE_DIR / ".env")


def workers(text: str) -> int:
    """One a core; on SQLite, which has one writer at a time, just one."""
    if not text.strip():
        return 1 if IS_SQLITE else os.cpu_count() or 1
    return whole_number(1, 1000)(text)


def kept_days(text: str) -> int | None:
    """Three months at least: no window that can still open, and no span of a page, begins before that."""
    return whole_number(93, 36_500)(text) if text.strip() else None


# Django

DEBUG = read("DEBUG", "false", yes_or_no)
SECRET_KEY = read("SECRET_KEY", "", str if DEBUG else secret_key) or INSECURE_KEY
# Where people reach the guard: links lead there, its host is served, its forms may be sent from there.
PUBLIC_URL = read("PUBLIC_URL", "", public_url)
ALLOWED_HOSTS = read("ALLOWED_HOSTS", "localhost,127.0.0.1,[::1]", host_names)
if PUBLIC_URL and host_of(PUBLIC_URL) not in ALLOWED_HOSTS:
    ALLOWED_HOSTS.append(host_of(PUBLIC_URL))
CSRF_TRUSTED_ORIGINS = [PUBLIC_URL] if PUBLIC_URL else []
# `guard.http.proxies` alone reads X-Forwarded headers; Django takes the scheme and the address that it finds.
TRUSTED_PROXIES = read("TRUSTED_PROXIES", "", networks)

INSTALLED_APPS = [
    "unfold",
    "guard.apps.AdminConfig",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "auditlog",
    "django_tasks",
    "django_tasks_db",
    "axes",
    "csp",
    "django_otp",
    "django_otp.plugins.otp_totp",
    "django_otp.plugins.otp_static",
    "tenants",
    "spend",
    "guard",
    "dashboard",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "csp.middleware.CSPMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "tenants.trail.trail_middleware",
    "axes.middleware.AxesMiddleware",
    "guard.http.error_pages.password_middleware",
]

ROOT_URLCONF = "guard.urls"
ASGI_APPLICATION = "guard.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "guard" / "templates"],  # before unfold's, two of which are replaced
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
        },
    },
]

DATABASES: dict[str, dict[str, Any]] = {
    "default": read("DATABASE_URL", f"sqlite:///{BASE_DIR / 'guard.sqlite3'}", database)
}
IS_SQLITE = DATABASES["default"]["ENGINE"].endswith("sqlite3")
if REPORTS_DATABASE := read("REPORTS_DATABASE_URL", "", replica):
    if IS_SQLITE:
        raise ImproperlyConfigured("REPORTS_DATABASE_URL: is for a replica of a Postgres, which DATABASE_URL is not")
    DATABASES["reports"] = REPORTS_DATABASE
DATABASE_ROUTERS = ["spend.replica.ReportsRouter"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Shared by all workers: what it counts, it counts for them together.
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.db.DatabaseCache",
        "LOCATION": "guard_cache",
        "OPTIONS": {"MAX_ENTRIES": 100_000},
    }
}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
PASSWORD_HASHERS = ["tenants.sign_in.hashing.BoundedHasher"]
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "/"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = PUBLIC_URL.startswith("https:") if PUBLIC_URL else not DEBUG
CSRF_FAILURE_VIEW = "guard.http.error_pages.csrf_failure"
HSTS_SECONDS = read("HSTS_SECONDS", "3600", whole_number(0, 2 * 31_536_000))
SECURE_HSTS_SECONDS = 0 if DEBUG else HSTS_SECONDS
# Other names under this host's, and whether plain HTTP is sent on to HTTPS, are the proxy's to say.
SILENCED_SYSTEM_CHECKS = ["security.W005", "security.W008", "security.W021"]

# Five wrong passwords for one name from one address lock that pair out for a quarter of an hour: not the
# name alone, or anybody could lock an operator out. Tries while it is locked out count no more.
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_CLIENT_IP_CALLABLE = "tenants.sign_in.addresses.counted_address"
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_RESET_ON_SUCCESS = True
AXES_DISABLE_ACCESS_LOG = True
AXES_ENABLE_ADMIN = False
AXES_LOCKOUT_TEMPLATE = "dashboard/locked_out.html"
AXES_VERBOSE = False
OTP_TOTP_ISSUER = "Guard"

# Single sign-on: all of issuer, client, roles and PUBLIC_URL, or none; `manage.py check` says what is missing.
SSO_ISSUER = read("SSO_ISSUER", "", issuer)
SSO_CLIENT_ID = read("SSO_CLIENT_ID", "", str.strip)
SSO_CLIENT_SECRET = read("SSO_CLIENT_SECRET", "", secret)
SSO_NAME = read("SSO_NAME", "single sign-on", short_name)
SSO_SCOPES = read("SSO_SCOPES", "openid email profile", scopes)
SSO_ROLES_CLAIM = read("SSO_ROLES_CLAIM", "groups", str.strip)
SSO_ROLES = read("SSO_ROLES", "{}", read_roles)
SSO_SESSION_HOURS = read("SSO_SESSION_HOURS", "12", whole_number(1, 24 * 14))
SSO_HIDES_PASSWORDS = read("SSO_HIDES_PASSWORDS", "false", yes_or_no)

# No page calls another host, and no script but a file of ours runs: no inline script, no handler in an
# attribute. unfold's Alpine evaluates the expressions in its templates, hence 'unsafe-eval' (its CSP build
# cannot read them), and unfold styles inline.
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": [NONE],
        "script-src": [SELF, UNSAFE_EVAL],
        "style-src": [SELF, UNSAFE_INLINE],
        "img-src": [SELF, "data:"],
        "font-src": [SELF],
        "connect-src": [SELF],
        "form-action": [SELF],
        "frame-ancestors": [NONE],
        "base-uri": [NONE],
    }
}

logging.captureWarnings(not DEBUG)
LOGGING = log_config(read("LOG_LEVEL", "INFO", log_level), is_json=not DEBUG)

vars().update(read("EMAIL_URL", "consolemail://", email_server))
EMAIL_TIMEOUT = 10
DEFAULT_FROM_EMAIL = SERVER_EMAIL = read("EMAIL_FROM", "guard@localhost", email_address)

# Celery, RQ or another engine can be set instead of the database; then its own workers run the tasks.
TASKS = {"default": {"BACKEND": read("TASKS_BACKEND", "django_tasks_db.DatabaseBackend", task_backend), "QUEUES": []}}

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
FORMAT_MODULE_PATH = "guard.formats"

# Served from where they are installed: there is nothing to collect, and so no STATIC_ROOT.
STATIC_URL = "static/"
WHITENOISE_USE_FINDERS = True

REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["guard.http.strict_json.StrictJSONParser"],
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "guard.http.authentication.ApiKeyAuthentication",
        "guard.http.authentication.OperatorTokenAuthentication",
        "guard.http.authentication.OperatorSession",
    ],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "guard.http.negotiation.AnswerAnyway",
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "EXCEPTION_HANDLER": "guard.http.errors.answer_to",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "COERCE_DECIMAL_TO_STRING": True,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Guard",
    "DESCRIPTION": "A layered budget guard between AI agents and their model providers.",
    "VERSION": "1.0.0",
    "SERVE_INCLUDE_SCHEMA": False,
    "POSTPROCESSING_HOOKS": ["drf_spectacular.hooks.postprocess_schema_enums", "guard.api.schema.require_bodies"],
    "ENUM_NAME_OVERRIDES": {"HealthEnum": ["ok", "unavailable"]},
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
}

# The guard

PORT = read("PORT", "8000", whole_number(1, LAST_PORT))
WORKERS = read("WORKERS", "", workers)
STOP_DELAY_SECONDS = read("STOP_DELAY_SECONDS", "5", seconds(0))
BACKGROUND = read("BACKGROUND", "true", yes_or_no)
RESERVATION_LEASE_SECONDS = read("RESERVATION_LEASE_SECONDS", "900", whole_number(1, 365 * 86_400))
HOLD_WAIT_SECONDS = read("HOLD_WAIT_SECONDS", "2", seconds(0))

XAI_API_KEY = read("XAI_API_KEY", "", secret)
XAI_BASE_URL = read("XAI_BASE_URL", "https://api.x.ai/v1", http_url)
XAI_DIALECT = read("XAI_DIALECT", "", dialect(XAI_BASE_URL))
OPENAI_API_KEY = read("OPENAI_API_KEY", "", secret)
OPENAI_BASE_URL = read("OPENAI_BASE_URL", "https://api.openai.com/v1", http_url)
OPENAI_DIALECT = read("OPENAI_DIALECT", "", dialect(OPENAI_BASE_URL))

# What providers bill, asked with keys that no call goes out on.
OPENAI_ADMIN_KEY = read("OPENAI_ADMIN_KEY", "", secret)
OPENAI_PROJECT_IDS = read("OPENAI_PROJECT_IDS", "", ids)
OPENAI_COSTS_URL = read("OPENAI_COSTS_URL", "https://api.openai.com/v1", http_url)
XAI_MANAGEMENT_KEY = read("XAI_MANAGEMENT_KEY", "", secret)
XAI_TEAM_ID = read("XAI_TEAM_ID", "", one_id)
XAI_MANAGEMENT_URL = read("XAI_MANAGEMENT_URL", "https://management-api.x.ai/v1", http_url)
INVOICE_ALERT_PERCENT = read("INVOICE_ALERT_PERCENT", "5", whole_number(1, 100))
HELICONE_API_KEY = read("HELICONE_API_KEY", "", secret)
HELICONE_BASE_URL = read("HELICONE_BASE_URL", "https://api.worker.helicone.ai", http_url)
CONTENT_KEYS = read("CONTENT_KEYS", "", fernet_keys)
OPERATOR_TOKEN_DAYS = read("OPERATOR_TOKEN_DAYS", "90", whole_number(1, 3_650))
METRICS_TOKEN = read("METRICS_TOKEN", "", secret)
PROVIDER_TIMEOUT_SECONDS = read("PROVIDER_TIMEOUT_SECONDS", "300", seconds(0.01))
STREAM_IDLE_SECONDS = read("STREAM_IDLE_SECONDS", "60", seconds(0.01))

DEFAULT_DAILY_BUDGET_TICKS = read("DEFAULT_DAILY_BUDGET", "5.00", read_daily_budget)
TENANT_BUDGETS = read("TENANT_BUDGETS", "{}", read_tenant_budgets)

ALLOW_PRIVATE_TARGETS = read("ALLOW_PRIVATE_TARGETS", "", read_allowed_targets)

ENTRIES_KEPT_DAYS = read("ENTRIES_KEPT_DAYS", "", kept_days)

# The route of a tenant that has none of its own.
DEFAULT_ROUTE = ["grok-4.3", "gpt-6-luna"]
DEFAULT_DOWNGRADES = [("*", "gpt-6-luna")]

MAX_BODY_BYTES = read("MAX_BODY_BYTES", str(4 * 1024 * 1024), whole_number(1024))
BODY_SECONDS = read("BODY_SECONDS", "60", seconds(0.01))
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES
