"""A tenant's words to its customers in further languages: one value, taken as a whole."""

from django.core.exceptions import ValidationError

from spend.configuration.changes import Plan
from spend.configuration.places import Place, Problems
from tenants.models import HandoffTranslation, Tenant
from tenants.translations import set_translations


def shown(tenant: Tenant) -> list[dict[str, str]]:
    return [{"language": language, "words": words} for language, words in sorted(tenant.translations().items())]


def plan_translations(plan: Plan, place: Place, tenant: Tenant, is_new: bool) -> None:
    before, wanted = {} if is_new else tenant.translations(), _read(place)
    if wanted != before:
        line = f"words in other languages {', '.join(sorted(before)) or 'none'} → {', '.join(sorted(wanted)) or 'none'}"
        plan.change(f"tenant {tenant.pk}: {line}", lambda: set_translations(tenant, wanted))


def _read(place: Place) -> dict[str, str]:
    words, problems = dict[str, str](), Problems()
    for each in place.elements():
        with problems.gathered():
            given = each.fields(["language", "words"], ["language", "words"])
            language = _valid(given["language"], "language")
            if language in words:
                raise given["language"].refused(f"names {language} a second time")
            words[language] = _valid(given["words"], "words")
    problems.tell()
    return words


def _valid(place: Place, name: str) -> str:
    field = HandoffTranslation._meta.get_field(name)
    try:
        return str(field.clean(place.text(), None))  # type: ignore[union-attr]
    except ValidationError as error:
        raise place.refused(f"is not valid: {' '.join(error.messages)}") from error
