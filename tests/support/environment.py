"""The environment of tests: every setting is given, so nothing of the machine's or of a .env file gets in."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def environment_of_tests(database_url: str, provider_url: str) -> dict[str, str]:
    """The settings under which Django is loaded in the tests and in the servers they start."""
    return {
        "DJANGO_SETTINGS_MODULE": "guard.settings",
        "DEBUG": "false",
        "SECRET_KEY": "a-key-of-the-tests-that-is-long-and-random-enough-for-the-checks",
        "PUBLIC_URL": "",
        "TRUSTED_PROXIES": "127.0.0.1,::1",
        "ALLOWED_HOSTS": "localhost,127.0.0.1,testserver",
        "HSTS_SECONDS": "3600",
        "DATABASE_URL": database_url,
        "PORT": "8000",
        "WORKERS": "1",
        "STOP_DELAY_SECONDS": "0",
        "BACKGROUND": "false",
        "EMAIL_URL": "consolemail://",
        "EMAIL_FROM": "guard@localhost",
        "ALLOW_PRIVATE_TARGETS": "127.0.0.1",
        "TASKS_BACKEND": "django_tasks_db.DatabaseBackend",
        "RESERVATION_LEASE_SECONDS": "900",
        "HOLD_WAIT_SECONDS": "2",
        "XAI_API_KEY": "xai-key-of-the-tests",
        "XAI_BASE_URL": provider_url,
        "XAI_DIALECT": "chat",
        "OPENAI_API_KEY": "openai-key-of-the-tests",
        "OPENAI_BASE_URL": provider_url,
        "OPENAI_DIALECT": "chat",
        "OPENAI_ADMIN_KEY": "",
        "OPENAI_PROJECT_IDS": "",
        "OPENAI_COSTS_URL": provider_url,
        "XAI_MANAGEMENT_KEY": "",
        "XAI_TEAM_ID": "",
        "XAI_MANAGEMENT_URL": provider_url,
        "INVOICE_ALERT_PERCENT": "5",
        "PROVIDER_TIMEOUT_SECONDS": "5",
        "STREAM_IDLE_SECONDS": "5",
        "HELICONE_API_KEY": "",
        "METRICS_TOKEN": "",
        "CONTENT_KEYS": "",
        "LOG_LEVEL": "INFO",
        "HELICONE_BASE_URL": provider_url,
        "DEFAULT_DAILY_BUDGET": "5.00",
        "TENANT_BUDGETS": "{}",
        "ENTRIES_KEPT_DAYS": "",
        "MAX_BODY_BYTES": "4194304",
        "BODY_SECONDS": "60",
        "OPERATOR_TOKEN_DAYS": "90",
        "OTEL_SDK_DISABLED": "true",
    }
