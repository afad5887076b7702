"""What a machine lacks that some tests need."""

import os
from typing import NoReturn

import pytest


def lacking(what: str) -> NoReturn:
    """Here that is a reason to skip; in CI it is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and CI must have it.")
    pytest.skip(f"{what} is not on this machine.")
