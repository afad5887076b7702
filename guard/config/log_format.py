"""How log lines look: JSON in production, for machines; in development, for people."""

import logging
from typing import Any

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message", "request"}
"""What a record has by itself, and what uvicorn and Django add that the message says already."""


class ReadableFormatter(logging.Formatter):
    """A line, and after it whatever was told beside it."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  the base class's name
        told = {name: value for name, value in vars(record).items() if name not in STANDARD and value != ""}
        return " ".join([super().formatMessage(record), *(f"{name}={value}" for name, value in told.items())])


def log_config(level: str, *, is_json: bool) -> dict[str, Any]:
    """The LOGGING setting: everything to standard error, where whoever runs the process collects it."""
    readable = {
        "()": "guard.config.log_format.ReadableFormatter",
        "format": "%(asctime)s %(levelname)-7s %(name)s: %(message)s",
    }
    json = {
        "()": "pythonjsonlogger.orjson.OrjsonFormatter",
        "format": "%(levelname)s %(name)s %(message)s",
        "rename_fields": {"levelname": "level", "name": "logger"},
        "timestamp": "at",
        "reserved_attrs": sorted(STANDARD),  # Django's request among it: its query may hold what signs somebody in
    }
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": json if is_json else readable},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["stderr"], "level": level},
        "loggers": {
            # Django's own handlers would say everything twice; its and the queue's chatter says nothing new.
            "django": {"handlers": [], "level": level, "propagate": True},
            "django.server": {"handlers": [], "level": "WARNING", "propagate": True},
            "django_tasks": {"level": "WARNING"},
            "django_tasks_db": {"level": "WARNING"},
            "axes": {"level": "WARNING"},
            "authlib": {"level": "WARNING"},  # at DEBUG it tells verifiers
            "httpx": {"level": "WARNING"},
            "httpx2": {"level": "WARNING"},
        },
    }


def log_level(text: str) -> str:
    if text.upper() not in logging.getLevelNamesMapping():
        raise ValueError(f"must be DEBUG, INFO, WARNING or ERROR, not {text!r}")
    return text.upper()
