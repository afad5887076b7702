"""A call's request, made fit for the model that it is sent to, and whose a refusal of it is."""

from dataclasses import replace

from guard.chat.types import CallProgress
from guard.policy.adapt import Adapted, adapt
from guard.policy.snapshot import ModelPolicy
from guard.providers import affinity
from spend.capabilities import Capabilities, Lesson, with_lessons
from spend.models import AUTO


def made_fit(progress: CallProgress, model: ModelPolicy, kind: str, *, chosen: bool) -> Adapted:
    """The request as it goes to this model of this kind of provider, by what is known and what it has just refused."""
    call, known = progress.call, capabilities_of(model, progress)
    adapted = adapt(call.body, call.ask.needs, known, chosen=chosen)
    added = affinity.parameters_for(kind, call.caller, call.body)
    takes = {name: value for name, value in added.items() if not known.refuses(name, call.ask.effort)}
    return replace(adapted, body={**adapted.body, **takes}) if takes else adapted


def capabilities_of(model: ModelPolicy, progress: CallProgress) -> Capabilities:
    """What is known of the model, and what it has just refused in this call."""
    return with_lessons(model.capabilities, progress.learned.get(model.id, ()))


def is_callers(model_id: str, lessons: tuple[Lesson, ...], progress: CallProgress) -> bool:
    """Whether a refusal that teaches this goes to the caller: not where it is of something that the guard added."""
    call, sent = progress.call, progress.adapted
    assert sent  # noqa: S101
    if any(lesson.name in sent.body and lesson.name not in call.body for lesson in lessons):
        return False
    return model_id == call.ask.model or (
        call.ask.model == AUTO and model_id == call.caller.requested_model and not lessons
    )
