"""The bodies of the REST API, in and out."""

from copy import copy
from datetime import datetime
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import transaction
from django.utils import timezone
from rest_framework import serializers
from rest_framework.exceptions import ValidationError
from rest_framework.validators import UniqueValidator

from guard.api.fields import (
    Choice,
    Day,
    DayOrInstant,
    Instant,
    Share,
    StrictSerializer,
    Text,
    Usd,
    UsdPerMillion,
    WholeNumber,
    YesNo,
    camel,
)
from spend.budgets.usage import Use
from spend.capabilities import LessonKind
from spend.models import (
    AUTO,
    AUTO_IS_TAKEN,
    PROVIDER_NAME_LENGTH,
    CatalogueModel,
    provider_names,
)
from spend.pricing.catalogue import Rates
from spend.pricing.operator_prices import PricedModel
from spend.summaries.reports import GroupBy
from tenants.configured import DEFAULT_HARD_CAP, DEFAULT_SOFT_CAP
from tenants.handoff import MOST_WORDS, validate_words
from tenants.ladder import FEWEST_DOWNGRADES, MOST_FURTHER_STEPS, MOST_TOKENS, FurtherStep, check, steps_of, text_of
from tenants.ladder import MOST_DOWNGRADES as MOST_DOWNGRADES_OF_A_STEP
from tenants.models import (
    ANY_MODEL,
    LANGUAGE_VALIDATOR,
    MOST_CONTENT_DAYS,
    MOST_REQUESTS_PER_MINUTE,
    Budget,
    HardStop,
    Scope,
    Tenant,
    validate_time_zone,
)
from tenants.periods import Period
from tenants.routes import set_route
from tenants.translations import set_translations

BUDGET_STATES = ["active", "warned", "degraded", "stopped"]
MOST_ROUTE_STEPS = 50
MOST_DOWNGRADES = 200
MOST_LANGUAGES = 100
HANDOFF_FIELDS = {"hard_stop", "handoff_words", "handoff_link"}
TENANT_SCOPES = [choice for choice in Scope.choices if choice[0] != Scope.INSTALLATION]


class BudgetNameSerializer(StrictSerializer):
    """What names a budget of a tenant."""

    scope = Choice(choices=TENANT_SCOPES, help_text="A budget of a key, customer or conversation binds each of them.")
    period = Choice(choices=Period.choices)


class FurtherStepSerializer(StrictSerializer):
    """A step of a budget's ladder after its soft cap: either downgrades, or shorter answers."""

    from_ = Share(source="share", help_text="Share of the limit from which it holds.")
    downgrades = WholeNumber(
        required=False, min_value=FEWEST_DOWNGRADES, max_value=MOST_DOWNGRADES_OF_A_STEP,
        help_text="How many downgrades down the tenant's rules calls are moved; the soft cap moves them one down.",
    )  # fmt: skip
    max_tokens = WholeNumber(
        required=False, min_value=1, max_value=MOST_TOKENS, help_text="The most output tokens of an answer."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Of a budget that is changed in part, steps are given whole."""
        if "share" not in attrs:
            raise ValidationError({"from": ["This field is required."]})
        return attrs

    def to_representation(self, instance: FurtherStep) -> dict[str, Any]:
        return {name: value for name, value in super().to_representation(instance).items() if value}


class FurtherStepsField(serializers.ListField):
    """A ladder's further steps: a list outside, a text inside."""

    child = FurtherStepSerializer()

    def to_internal_value(self, data: Any) -> str:  # type: ignore[override]
        try:
            return text_of(FurtherStep(**given) for given in super().to_internal_value(data))
        except ValueError as error:
            raise ValidationError(str(error)) from None

    def to_representation(self, value: str) -> list[Any]:  # type: ignore[override]
        return super().to_representation(list(steps_of(value)))


class BudgetSerializer(BudgetNameSerializer):
    """A budget of a tenant. Given a row, what is left out stays as it is there; else it is the default's."""

    limit_usd = Usd(source="limit_ticks")
    soft_cap = Share(required=False, help_text="Share of the limit from which calls are downgraded; default 0.8.")
    hard_cap = Share(required=False, help_text="Share of the limit at which calls are refused; default 1.")

    reserve = Share(
        required=False,
        least=0,
        help_text="Share of the limit, below the hard cap, that is kept for conversations that have begun; default 0.",
    )
    further_steps = FurtherStepsField(
        required=False,
        help_text=f"The steps of its ladder after the soft cap, at most {MOST_FURTHER_STEPS}; default none.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        row: Budget | None = self.instance
        hard_cap = attrs.setdefault("hard_cap", row.hard_cap if row else DEFAULT_HARD_CAP)
        soft_cap = attrs.setdefault("soft_cap", row.soft_cap if row else min(DEFAULT_SOFT_CAP, hard_cap))
        if soft_cap > hard_cap:
            raise ValidationError({"softCap": ["must not be above hardCap."]})
        if attrs.setdefault("reserve", row.reserve if row else Decimal(0)) >= hard_cap:
            raise ValidationError({"reserve": ["must be below hardCap."]})
        self._check_ladder(attrs, row)
        return {"limit_ticks": row.limit_ticks if row else None, **attrs}

    def _check_ladder(self, attrs: dict[str, Any], row: Budget | None) -> None:
        steps = attrs.setdefault("further_steps", row.further_steps if row else "")
        try:
            check(steps_of(steps), attrs["soft_cap"], attrs["hard_cap"])
        except ValueError as error:
            raise ValidationError({"furtherSteps": [str(error)]}) from None


class BudgetsSerializer(StrictSerializer):
    """All budgets of a tenant, at most one of each scope and period."""

    budgets = BudgetSerializer(many=True)

    def validate_budgets(self, budgets: list[dict[str, Any]]) -> list[dict[str, Any]]:
        names = [(budget["scope"], budget["period"]) for budget in budgets]
        for position, name in enumerate(names):
            if name in names[:position]:
                raise ValidationError(f"has two of scope {name[0]} and period {name[1]}.")
        return budgets


class ModelId(Text):
    """The id of a model in the catalogue."""

    def run_validators(self, value: Any) -> None:
        super().run_validators(value)  # first: Postgres cannot even be asked for some strings
        if not CatalogueModel.objects.filter(pk=value).exists():
            raise ValidationError("is no model of the catalogue.")


class AnyOrModelId(ModelId):
    def run_validators(self, value: Any) -> None:
        if value != ANY_MODEL:
            super().run_validators(value)


class DowngradeSerializer(StrictSerializer):
    """Past a soft cap, calls of `from` (`*` for any model) move to the cheaper `to`."""

    from_ = AnyOrModelId()
    to = ModelId()

    def to_representation(self, instance: tuple[str, str]) -> dict[str, str]:
        from_model, to_model = instance
        return {"from": from_model, "to": to_model}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        for name in {"from_", "to"} - attrs.keys():  # a PATCH of the tenant lets a rule in that is not whole
            raise ValidationError({camel(name): ["This field is required."]})
        if attrs["from_"] == attrs["to"]:
            raise ValidationError({"to": ["must be another model than from."]})
        return attrs


class RequestsPerMinute(WholeNumber):
    def __init__(self) -> None:
        super().__init__(
            min_value=1,
            max_value=MOST_REQUESTS_PER_MINUTE,
            required=False,
            allow_null=True,
            help_text="More calls than this within a minute are refused; null for as many as come.",
        )


class CallsInFlight(WholeNumber):
    def __init__(self) -> None:
        super().__init__(
            min_value=1,
            required=False,
            allow_null=True,
            help_text="More calls than this at once are refused; null for as many as come.",
        )


class Words(Text):
    """A tenant's words to its customers."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=MOST_WORDS, validators=[validate_words], **kwargs)


def validate_languages(words: dict[str, str]) -> None:
    if len(words) > MOST_LANGUAGES:
        raise ValidationError(f"has more than {MOST_LANGUAGES} languages.")
    for language in words:
        LANGUAGE_VALIDATOR(language)


class TenantSerializer(StrictSerializer):
    """A tenant.

    `route` and `downgrades` are those in force. A tenant without a route of its own has the installation's, and
    an empty `route` brings it back to that; a tenant with one has no downgrades but its own.
    """

    tenant_id = Text(
        source="id",
        max_length=64,
        validators=[*Tenant._meta.get_field("id").validators[:1], UniqueValidator(Tenant.objects.all())],
    )
    name = Text(max_length=200, allow_blank=True, required=False)
    is_active = YesNo(required=False, help_text="Calls of an inactive tenant are refused.")
    time_zone = Text(
        max_length=64,
        required=False,
        validators=[validate_time_zone],
        help_text="IANA name; budgets start at midnight there.",
    )
    route = serializers.ListField(
        child=ModelId(),
        required=False,
        max_length=MOST_ROUTE_STEPS,
        source="effective_route",
        help_text="The primary first, then the fallbacks in order.",
    )
    downgrades = DowngradeSerializer(  # type: ignore[call-arg]
        many=True, required=False, source="effective_downgrades", max_length=MOST_DOWNGRADES
    )
    default_max_tokens = WholeNumber(
        min_value=1, required=False, help_text="Output tokens of a call that names no maximum."
    )
    hide_money = YesNo(required=False, help_text="No dollar figure appears in the agent API.")
    content_days = WholeNumber(
        min_value=0,
        max_value=MOST_CONTENT_DAYS,
        required=False,
        help_text="How many days prompts and answers are kept, encrypted, where the installation has a key for it; "
        "0 for not at all.",
    )
    requests_per_minute = RequestsPerMinute()
    calls_in_flight = CallsInFlight()
    hard_stop = Choice(
        choices=HardStop.choices,
        required=False,
        help_text="What a call gets that no model fits any more: 429 budget_exceeded, or the words as its answer.",
    )
    handoff_words = Words(
        allow_blank=True,
        required=False,
        help_text="With {resets_at}, in the tenant's time zone, and {link}; a sentence that names what there is not is "
        "left out.",
    )
    handoff_language = Text(
        max_length=20, required=False, validators=[LANGUAGE_VALIDATOR], help_text="The code of the words' language."
    )
    handoff_link = serializers.URLField(max_length=500, allow_blank=True, required=False, help_text="{link}.")
    handoff_translations = serializers.DictField(
        child=Words(),
        required=False,
        source="translations",
        validators=[validate_languages],
        help_text="The words in other languages, by code; chosen by a call's Accept-Language. Replaced as a whole.",
    )

    def validate_route(self, route: list[str]) -> list[str]:
        if len(set(route)) < len(route):
            raise ValidationError("names a model twice.")
        return route

    def validate_downgrades(self, downgrades: list[dict[str, str]]) -> list[tuple[str, str]]:
        pairs = [(downgrade["from_"], downgrade["to"]) for downgrade in downgrades]
        if len(set(pairs)) < len(pairs):
            raise ValidationError("has one rule twice.")
        return pairs

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        if self.instance and attrs.get("id", self.instance.id) != self.instance.id:
            raise ValidationError({"tenantId": ["cannot be changed."]})
        wanted = copy(self.instance) if self.instance else Tenant()
        for name in HANDOFF_FIELDS & attrs.keys():
            setattr(wanted, name, attrs[name])
        try:
            wanted.clean()
        except DjangoValidationError as error:
            raise ValidationError({camel(name): why for name, why in error.message_dict.items()}) from error
        return attrs

    @transaction.atomic
    def create(self, validated_data: dict[str, Any]) -> Tenant:
        route, downgrades = _take_route(validated_data)
        translations = validated_data.pop("translations", {})
        tenant = Tenant.objects.create(**validated_data)
        set_translations(tenant, translations)
        set_route(tenant, route, downgrades)
        return tenant

    @transaction.atomic
    def update(self, instance: Tenant, validated_data: dict[str, Any]) -> Tenant:
        """What was read and is sent back unchanged changes nothing: it does not pin the default route."""
        route, downgrades = _take_route(validated_data)
        translations = validated_data.pop("translations", None)
        for name, value in validated_data.items():
            setattr(instance, name, value)
        instance.save()
        if translations is not None:
            set_translations(instance, translations)
        route = None if route == instance.effective_route() else route
        if route is not None or downgrades != instance.effective_downgrades():
            set_route(instance, route, downgrades)
        return instance


def _take_route(validated_data: dict[str, Any]) -> tuple[list[str] | None, list[tuple[str, str]] | None]:
    return validated_data.pop("effective_route", None), validated_data.pop("effective_downgrades", None)


class TenantsSerializer(StrictSerializer):
    tenants = TenantSerializer(many=True)


class KeySerializer(StrictSerializer):
    """An API key, without its secret."""

    id = serializers.IntegerField(read_only=True)
    name = Text(max_length=100)
    hint = Text(read_only=True, help_text="The key's first characters.")
    created_at = Instant(read_only=True)
    expires_at = Instant(required=False, allow_null=True)
    requests_per_minute = RequestsPerMinute()
    calls_in_flight = CallsInFlight()
    revoked_at = Instant(read_only=True, allow_null=True)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        expires_at: datetime | None = attrs.get("expires_at")
        if expires_at and expires_at <= timezone.now():
            raise ValidationError({"expiresAt": ["must be in the future."]})
        return attrs


class IssuedKeySerializer(KeySerializer):
    """A key that was just issued: the only time its secret is seen."""

    key = Text(read_only=True)


class KeysSerializer(StrictSerializer):
    keys = KeySerializer(many=True)


class ModelSerializer(StrictSerializer):
    """A model of the catalogue and the base price in force; without a price it cannot be called.

    A price that is changed starts a new one from now on; its higher tiers stay, raised to the new base where
    they would fall below it. What is left out stays as it is, or is the default's.
    """

    id = Text(source="model.id", required=False, help_text="As in the address.")
    provider = Text(source="model.provider", max_length=PROVIDER_NAME_LENGTH, help_text="One of the providers.")
    upstream_name = Text(
        source="model.upstream_name",
        max_length=100,
        required=False,
        help_text="The provider's own name; default the id.",
    )
    input_usd_per_million = UsdPerMillion(source="rates.input_ticks", required=False, allow_null=True)
    cached_input_usd_per_million = UsdPerMillion(
        source="rates.cached_input_ticks", required=False, allow_null=True, help_text="Default as input."
    )
    output_usd_per_million = UsdPerMillion(source="rates.output_ticks", required=False, allow_null=True)
    context_tokens = WholeNumber(source="model.context_tokens", min_value=1, required=False)
    max_output_tokens = WholeNumber(source="model.max_output_tokens", min_value=1, required=False)
    reasoning_allowance_tokens = WholeNumber(source="model.reasoning_allowance_tokens", required=False)
    is_enabled = YesNo(source="model.is_enabled", required=False)
    shutdown_on = Day(
        source="model.shutdown_on",
        required=False,
        allow_null=True,
        help_text="The day on which the provider ends the model; after it, in UTC, no call is sent there.",
    )

    def validate_provider(self, name: str) -> str:
        if name not in (names := provider_names()):
            raise ValidationError(f"must be one of {', '.join(names)}.")
        return name

    def validate_id(self, model_id: str) -> str:
        if model_id != self.context["model_id"]:
            raise ValidationError("must be the id in the address.")
        return model_id

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        standing: PricedModel | None = self.instance
        if standing is None and self.context["model_id"] == AUTO:
            raise ValidationError({"id": [AUTO_IS_TAKEN]})
        given = {name: ticks for name, ticks in attrs.pop("rates", {}).items() if ticks is not None}
        return {**attrs, "rates": _rates(standing.rates if standing else None, given)}


def _rates(standing: Rates | None, given: dict[str, int]) -> Rates | None:
    """The base rates that are wanted; None where there is no price, and none is given."""
    if standing:
        return standing._replace(**given)
    if not given:
        return None
    for field, name in (("inputUsdPerMillion", "input_ticks"), ("outputUsdPerMillion", "output_ticks")):
        if name not in given:
            raise ValidationError({field: ["is needed for a first price."]})
    input_ticks = given["input_ticks"]
    return Rates(input_ticks, given.get("cached_input_ticks", input_ticks), None, given["output_ticks"])


class ModelsSerializer(StrictSerializer):
    models = ModelSerializer(many=True)


class Names(serializers.ListField):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(child=Text(max_length=100), required=False, max_length=100, **kwargs)


class LearnedCapabilitySerializer(StrictSerializer):
    """What a refusal taught of a model: of which kind, its name, and for a limit its figure."""

    id = serializers.IntegerField()
    kind = Choice(choices=[kind.value for kind in LessonKind])
    name = Text()
    figure = serializers.IntegerField()
    learned_at = Instant()
    words = Text(help_text="How the provider put it.")


class CapabilitiesSerializer(StrictSerializer):
    """What a model takes and refuses. What is left out of a change stays as it is."""

    model_id = Text(source="id", read_only=True)
    refused_parameters = Names(help_text="Parameters that it refuses; json_schema and images for those.")
    refused_while_reasoning = Names(help_text="The same, unless reasoning_effort is none.")
    reasoning_efforts = Names(help_text="The values that it takes; none: nobody knows.")
    default_reasoning_effort = Text(max_length=20, allow_blank=True, required=False)
    message_fields = Names(
        allow_null=True, help_text="Fields of messages that it takes beyond the standard ones; null: any."
    )
    id_characters = serializers.DictField(
        child=WholeNumber(min_value=1),
        required=False,
        help_text="The most characters of ids by their names, and of tool_call_id; longer ones are sent as a digest.",
    )
    thinks_within_maximum = YesNo(
        required=False, help_text="Whether its reasoning counts against the maximum of output tokens."
    )
    makes_embeddings = YesNo(required=False, help_text="Whether it serves /v1/embeddings, for any tenant, and no chat.")
    learned = LearnedCapabilitySerializer(many=True, read_only=True)


class MoneySerializer(StrictSerializer):
    """Leaves its dollar figures out where `hide_money` is in the context."""

    def get_fields(self) -> dict[str, serializers.Field[Any, Any, Any, Any]]:
        hidden = self.context.get("hide_money")
        return {name: field for name, field in super().get_fields().items() if not (hidden and isinstance(field, Usd))}


class WindowSerializer(MoneySerializer):
    """A budget in its current period. Dollar figures are left out for a tenant that hides money."""

    scope = Choice(source="budget.scope", choices=TENANT_SCOPES)
    scope_id = Text(help_text="The tenant, key, customer or conversation.")
    period = Choice(source="budget.period", choices=Period.choices)
    starts_at = Instant(source="window.starts_at")
    resets_at = Instant(source="window.ends_at", allow_null=True, help_text="Null for a budget in total.")
    limit_usd = Usd(source="budget.limit_ticks", required=False)
    spent_usd = Usd(source="window.spent_ticks", required=False)
    held_usd = Usd(source="window.held_ticks", required=False)
    remaining_usd = Usd(source="remaining_ticks", required=False, help_text="Up to the hard cap, less spent and held.")
    state = Choice(choices=BUDGET_STATES)
    step = serializers.IntegerField(required=False, help_text="On which step of its ladder, where it has one.")
    steps = serializers.IntegerField(required=False, help_text="How many steps its ladder has, where it has one.")

    def to_representation(self, instance: Use) -> dict[str, Any]:
        shown = super().to_representation(instance)
        return shown if instance.steps else {name: shown[name] for name in shown if name not in ("step", "steps")}


class OwnBudgetSerializer(StrictSerializer):
    """The windows that bind the caller's tenant now, the tenant's own first, then the most used.

    Those of keys, customers and conversations are there once a call made them. The installation's are not shown.
    """

    tenant_id = Text()
    windows = WindowSerializer(many=True)
    windows_omitted = WholeNumber(help_text="Windows of keys, customers and conversations past the first 200.")


class SpendQuerySerializer(StrictSerializer):
    """What is empty counts as absent."""

    tenant_id = Text(required=False, allow_blank=True, help_text="An agent's own; for an operator default all.")
    from_ = DayOrInstant(required=False, help_text="A date in the tenant's time zone, or a time as in RFC 3339.")
    to = DayOrInstant(required=False, help_text="A date counts whole; a time is where the span ends.")
    group_by = Choice(choices=GroupBy.choices, required=False, allow_blank=True)


class SumsSerializer(MoneySerializer):
    """What was billed, and the calls that were answered. Costs are left out for a tenant that hides money."""

    total_cost = Usd(source="cost_ticks", required=False)
    total_input_tokens = serializers.IntegerField(source="input_tokens")
    total_output_tokens = serializers.IntegerField(source="output_tokens")
    total_calls = serializers.IntegerField(source="calls")


class SpendGroupSerializer(SumsSerializer):
    group = Text(allow_null=True, help_text="The day, model, customer or conversation; null for calls that named none.")
    tenant_id = Text(required=False, help_text="Whose customer or conversation.")


class SpendSerializer(SumsSerializer):
    """Days are in order, other groups by falling cost. Without groupBy there are none."""

    models_used = serializers.DictField(child=serializers.IntegerField(), help_text="Answered calls by model.")
    groups = SpendGroupSerializer(many=True)
    groups_omitted = serializers.IntegerField(help_text="Groups past the first 1,000.")


class LiveSerializer(StrictSerializer):
    status = Choice(choices=["ok", "unavailable"])
    uptime = serializers.IntegerField(help_text="Seconds.")
    version = Text()


class HealthSerializer(LiveSerializer):
    database = Choice(choices=["ok", "unavailable"])


class ReadySerializer(LiveSerializer):
    missing = serializers.ListField(
        child=Choice(choices=["stopping", "database", "migrations", "policy"]), help_text="What stands in the way."
    )


class ErrorDetailSerializer(StrictSerializer):
    message = Text()
    type = Text()
    code = Text()
    param = Text(allow_null=True, help_text="The field that is at fault.")
    request_id = Text()


class ErrorSerializer(StrictSerializer):
    """The one envelope of every error."""

    error = ErrorDetailSerializer()


class OpenAIErrorDetailSerializer(serializers.Serializer[Any]):
    message = serializers.CharField()
    type = serializers.CharField()
    code = serializers.CharField()
    param = serializers.CharField(allow_null=True, help_text="The field that is at fault.")
    request_id = serializers.CharField()


class OpenAIErrorSerializer(serializers.Serializer[Any]):
    """The envelope under /v1: the same, but for the snake_case of its names."""

    error = OpenAIErrorDetailSerializer()


class OpenAIModelSerializer(serializers.Serializer[Any]):
    id = serializers.CharField()
    object = serializers.CharField(default="model")
    created = serializers.IntegerField()
    owned_by = serializers.CharField()


class OpenAIModelsSerializer(serializers.Serializer[Any]):
    object = serializers.CharField(default="list")
    data = OpenAIModelSerializer(many=True)  # type: ignore[assignment]
