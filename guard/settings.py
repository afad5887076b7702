"""Settings, all from the environment (or a .env file); .env.example explains each.

A bad value stops the start with a message that names its setting.
"""

import logging
import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import environ
from csp.constants import NONE, SELF, UNSAFE_EVAL, UNSAFE_INLINE
from django.core.exceptions import ImproperlyConfigured

from guard.logs import log_config, log_level
from guard.operators import UNFOLD  # noqa: F401
from tenants.configured import read_daily_budget, read_tenant_budgets

BASE_DIR = Path(__file__).resolve().parent.parent
env = environ.Env()
env.read_env(BASE_DIR / ".env")

Value = TypeVar("Value")


def read(name: str, default: str, parse: Callable[[str], Value]) -> Value:
    try:
        return parse(env.str(name, default))
    except ValueError as error:
        raise ImproperlyConfigured(f"{name}: {error}") from error


def whole_number(at_least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.strip().isascii() or not text.strip().isdigit() or int(text) < at_least:
            raise ValueError(f"must be a whole number of at least {at_least}, not {text!r}")
        return int(text)

    return parse


def workers(text: str) -> int:
    """One a core; on SQLite, which has one writer at a time, just one."""
    if not text.strip():
        return 1 if IS_SQLITE else os.cpu_count() or 1
    return whole_number(1)(text)


def kept_days(text: str) -> int | None:
    """Three months at least: no window that can still open, and no span of a page, begins before that."""
    if not text.strip():
        return None
    if (days := whole_number(93)(text)) > 36_500:
        raise ValueError(f"must be a whole number of at least 93 and at most 36500, or empty, not {text!r}")
    return days


def seconds(text: str) -> float:
    if not 0 <= (value := float(text)) < float("inf"):
        raise ValueError(f"must be a number of seconds, not {text!r}")
    return value


def yes_or_no(text: str) -> bool:
    if text.lower() not in (*env.BOOLEAN_TRUE_STRINGS, "false", "off", "no", "n", "0", ""):
        raise ValueError(f"must be true or false, not {text!r}")
    return text.lower() in env.BOOLEAN_TRUE_STRINGS


def http_url(text: str) -> str:
    if not text.startswith(("http://", "https://")):
        raise ValueError(f"must be an http or https URL, not {text!r}")
    return text.rstrip("/")


def fernet_keys(text: str) -> tuple[str, ...]:
    """The keys, none of which a message may show."""
    keys = tuple(filter(None, map(str.strip, text.split(","))))
    for number, key in enumerate(keys, 1):
        if not re.fullmatch(r"[A-Za-z0-9_-]{43}=", key):
            raise ValueError(
                f"must be Fernet keys (32 bytes in URL-safe base64) separated by commas; number {number} is none"
            )
    return keys


def email_server(text: str) -> dict[str, Any]:
    """Django's EMAIL_ settings, from smtp+tls://user:password@host:587 for example."""
    scheme, separator, _ = text.partition("://")
    if not separator or scheme not in env.EMAIL_SCHEMES:
        raise ValueError(f"must be an email URL, such as smtp://host:25, not {text!r}")
    config: dict[str, Any] = env.email_url_config(text)
    return {name: value for name, value in config.items() if name != "OPTIONS"}


# Django

INSECURE_KEY = "insecure-key-for-development-only"

DEBUG = read("DEBUG", "false", yes_or_no)
SECRET_KEY = env.str("SECRET_KEY", "") or (INSECURE_KEY if DEBUG else "")
if not SECRET_KEY:
    raise ImproperlyConfigured("SECRET_KEY: must be set where DEBUG is off; any long random string will do")
ALLOWED_HOSTS: list[str] = env.list("ALLOWED_HOSTS", default=["localhost", "127.0.0.1", "[::1]"])

INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django.contrib.humanize",
    "rest_framework",
    "rest_framework.authtoken",
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
]

ROOT_URLCONF = "guard.urls"
ASGI_APPLICATION = "guard.asgi.application"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
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
    "default": env.db_url("DATABASE_URL", default=f"sqlite:///{BASE_DIR / 'guard.sqlite3'}")
}
IS_SQLITE = DATABASES["default"]["ENGINE"].endswith("sqlite3")
if IS_SQLITE:
    DATABASES["default"]["OPTIONS"] = {
        "transaction_mode": "IMMEDIATE",
        "timeout": 20,
        # The first is for a file that is just being made: see spend.room.
        "init_command": "PRAGMA auto_vacuum=INCREMENTAL; "
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON",
    }
else:
    DATABASES["default"].setdefault("CONN_HEALTH_CHECKS", True)
    DATABASES["default"]["OPTIONS"] = {
        "connect_timeout": 5,
        "prepare_threshold": 5,  # the ledger's few statements: planning one costs more than running it
        **DATABASES["default"].get("OPTIONS", {}),
    }
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
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "django.contrib.auth.backends.ModelBackend"]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "/"
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = not DEBUG
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

# Five wrong passwords for one name from one address lock that pair out for a quarter of an hour: not the
# name alone, or anybody could lock an operator out.
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_RESET_ON_SUCCESS = True
AXES_DISABLE_ACCESS_LOG = True
AXES_ENABLE_ADMIN = False
AXES_LOCKOUT_TEMPLATE = "dashboard/locked_out.html"
AXES_VERBOSE = False
OTP_TOTP_ISSUER = "Guard"

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
DEFAULT_FROM_EMAIL = SERVER_EMAIL = env.str("EMAIL_FROM", "guard@localhost")

# Celery, RQ or another engine can be set instead of the database; then its own workers run the tasks.
TASKS = {"default": {"BACKEND": env.str("TASKS_BACKEND", "django_tasks_db.DatabaseBackend"), "QUEUES": []}}

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_TZ = True
FORMAT_MODULE_PATH = "guard.formats"

STATIC_URL = "static/"
STATIC_ROOT = BASE_DIR / "staticfiles"
WHITENOISE_USE_FINDERS = True

REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["guard.parsers.StrictJSONParser"],
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "guard.authentication.ApiKeyAuthentication",
        "rest_framework.authentication.TokenAuthentication",
        "guard.authentication.OperatorSession",
    ],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "guard.negotiation.AnswerAnyway",
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "EXCEPTION_HANDLER": "guard.errors.answer_to",
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

PORT = read("PORT", "8000", whole_number(1))
WORKERS = read("WORKERS", "", workers)
BACKGROUND = read("BACKGROUND", "true", yes_or_no)
RESERVATION_LEASE_SECONDS = read("RESERVATION_LEASE_SECONDS", "900", whole_number(1))
HOLD_WAIT_SECONDS = read("HOLD_WAIT_SECONDS", "2", seconds)

XAI_API_KEY = env.str("XAI_API_KEY", "")
XAI_BASE_URL = read("XAI_BASE_URL", "https://api.x.ai/v1", http_url)
OPENAI_API_KEY = env.str("OPENAI_API_KEY", "")
OPENAI_BASE_URL = read("OPENAI_BASE_URL", "https://api.openai.com/v1", http_url)
HELICONE_API_KEY = env.str("HELICONE_API_KEY", "")
HELICONE_BASE_URL = read("HELICONE_BASE_URL", "https://api.worker.helicone.ai", http_url)
CONTENT_KEYS = read("CONTENT_KEYS", "", fernet_keys)
METRICS_TOKEN = env.str("METRICS_TOKEN", "")
PROVIDER_TIMEOUT_SECONDS = read("PROVIDER_TIMEOUT_SECONDS", "120", seconds)
STREAM_IDLE_SECONDS = read("STREAM_IDLE_SECONDS", "60", seconds)

DEFAULT_DAILY_BUDGET_TICKS = read("DEFAULT_DAILY_BUDGET", "5.00", read_daily_budget)
TENANT_BUDGETS = read("TENANT_BUDGETS", "{}", read_tenant_budgets)

ENTRIES_KEPT_DAYS = read("ENTRIES_KEPT_DAYS", "", kept_days)

# The route of a tenant that has none of its own.
DEFAULT_ROUTE = ["grok-4.3", "gpt-6-luna"]
DEFAULT_DOWNGRADES = [("*", "gpt-6-luna")]

MAX_BODY_BYTES = read("MAX_BODY_BYTES", str(4 * 1024 * 1024), whole_number(1024))
DATA_UPLOAD_MAX_MEMORY_SIZE = MAX_BODY_BYTES
