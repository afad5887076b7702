"""What refusals taught of models: kept with their date, shown to operators, unlearned when a call proves them wrong.

Learned once, it holds for every tenant: it is the provider's word on a parameter, not on anybody's prompt. After
FORGOTTEN_AFTER it is tried anew, which costs nothing: a refused request is not billed.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta

from spend.capabilities import Lesson
from spend.models import CatalogueModel, LearnedCapability
from tenants.trail import changed_by

FORGOTTEN_AFTER = timedelta(days=90)
MOST_LESSONS = 100
"""Of one model: a provider that makes up names must not fill the table."""
LEARNED = "a provider's refusal"
DISPROVED = "a call that was served"
FORGOTTEN = f"learned {FORGOTTEN_AFTER.days} days ago"


def learn(model_id: str, lessons: Iterable[Lesson], words: str, now: datetime) -> None:
    """Keep the lessons of a refusal in these words. Raises django.db.Error."""
    if CatalogueModel.objects.filter(pk=model_id).exists():
        with changed_by(LEARNED):
            for lesson in lessons:
                _keep(model_id, lesson, words, now)


def _keep(model_id: str, lesson: Lesson, words: str, now: datetime) -> None:
    kind, name, figure = lesson
    learned = LearnedCapability.objects.filter(model_id=model_id)
    if learned.count() >= MOST_LESSONS:
        return
    row, is_new = learned.get_or_create(
        kind=kind,
        name=name[:100],
        defaults={"model_id": model_id, "figure": figure, "learned_at": now, "words": words[:300]},
    )
    if not is_new and figure < row.figure:
        row.figure, row.learned_at, row.words = figure, now, words[:300]
        row.save()


def unlearn(model_id: str, lessons: Iterable[Lesson]) -> None:
    """A request with what these lessons forbid was served. Raises django.db.Error."""
    with changed_by(DISPROVED):
        for lesson in lessons:
            for row in LearnedCapability.objects.filter(model_id=model_id, kind=lesson.kind, name=lesson.name):
                row.delete()


def forget(now: datetime) -> list[str]:
    """Forget what was learned long ago: of which models."""
    old = list(LearnedCapability.objects.filter(learned_at__lte=now - FORGOTTEN_AFTER))
    with changed_by(FORGOTTEN):
        for row in old:
            row.delete()
    return sorted({row.model_id for row in old})
