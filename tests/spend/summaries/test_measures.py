"""What is summed is what there are columns for, in one order."""

from dataclasses import fields

import pytest

from dashboard.queries.sums import ALL_SUMS, Figures
from spend.models import DailyDowngrade, DailyRollup, Rollup
from spend.summaries.measures import DOWNGRADE_MEASURES, MEASURES

pytestmark = pytest.mark.pure
KEYS = {"id", "tenant", "bucket", "day", "model", "route", "requested_model"}


@pytest.mark.parametrize(
    ("model", "measures"), [(Rollup, MEASURES), (DailyRollup, MEASURES), (DailyDowngrade, DOWNGRADE_MEASURES)]
)
def test_each_column_of_the_sums_is_summed(model: type[Rollup], measures: list[str]) -> None:
    assert [field.name for field in model._meta.fields if field.name not in KEYS] == measures


def test_the_pages_figures_are_in_the_sums_order() -> None:
    assert [f"sum_{field.name}" for field in fields(Figures)] == list(ALL_SUMS)
