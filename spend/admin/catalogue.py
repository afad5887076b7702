"""The operators' pages for models and their prices."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar

from django import forms
from django.contrib import admin
from django.contrib.messages import info, success
from django.core.validators import MinValueValidator
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.utils import timezone
from unfold.admin import TabularInline
from unfold.dataclasses import UnfoldAction
from unfold.decorators import action, display
from unfold.forms import BaseDialogForm
from unfold.widgets import UnfoldAdminTextInputWidget

from spend.breakers import state_of
from spend.models import CatalogueModel, LearnedCapability, Price, PriceSource, PriceTier, is_shut_down
from spend.pricing.catalogue import Rates, tiers_of
from spend.pricing.operator_prices import back_to_catalogue, catalogue_price, change_price
from spend.pricing.rates import price_in_force, prices_in_force
from tenants.admin import ReadOnly, Row, ShowsUsd, back_to
from tenants.admin.declared_filters import ModelAdmin
from tenants.admin.forms import ConfirmForm, UsdInput
from tenants.admin.rows import RowForm, RowSet
from tenants.fields import NamesField, UsdFormField
from tenants.money import TICKS_PER_TOKEN_AT_ONE_USD_PER_MILLION as PER_MILLION
from tenants.money import usd_string
from tenants.periods import BEGINNING


def price_field(label: str, **kwargs: Any) -> UsdFormField:
    return UsdFormField(
        label=f"{label} (USD per million tokens)",
        ticks_per_unit=PER_MILLION,
        widget=UsdInput,
        validators=[MinValueValidator(0)],
        **kwargs,
    )


class PriceForm(BaseDialogForm):
    input_ticks = price_field("Input")
    cached_input_ticks = price_field("Cached input")
    cache_write_ticks = price_field("Cache write", required=False, help_text="Empty: as input.")
    output_ticks = price_field("Output")

    def __init__(self, request: HttpRequest, object_id: str | None = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(request, object_id, *args, **kwargs)
        price = prices_in_force(timezone.now()).get(str(object_id))
        if price:
            for name, ticks in tiers_of(price)[0]._asdict().items():
                self.fields[name].initial = ticks


class PriceInline(ReadOnly, TabularInline):
    """Every price the model had, has and will have; a new one is set by the action above."""

    model = Price
    fields = readonly_fields = ["starts", "ends", "source", "rates"]
    tab = hide_title = True

    def get_queryset(self, request: HttpRequest) -> QuerySet[Price]:
        return super().get_queryset(request).prefetch_related("tiers")

    @display(description="From")
    def starts(self, price: Price) -> str:
        return starts_text(price)

    @display(description="Until", empty_value="")
    def ends(self, price: Price) -> str:
        return ends_text(price)

    @display(description="USD per million: input, cached, output")
    def rates(self, price: Price) -> str:
        return rates_text(price)


class LearnedCapabilityInline(ReadOnly, TabularInline):
    """What refusals taught; to delete one unlearns it."""

    model = LearnedCapability
    fields = readonly_fields = ["what", "learned_at", "words"]
    tab = hide_title = True

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return bool(request.user.has_perm("spend.delete_learnedcapability"))

    @display(description="It refuses, or is limited to")
    def what(self, learned: LearnedCapability) -> str:
        return str(learned)


def starts_text(price: Price) -> str:
    return "the beginning" if price.starts_at == BEGINNING else minute_of(price.starts_at)


def ends_text(price: Price) -> str:
    return minute_of(price.ends_at) if price.ends_at else ""


def minute_of(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M} UTC"


def rates_text(price: Price) -> str:
    """ "1.25 / 0.20 / 2.50; above 199,999 input tokens 2.50 / 0.40 / 5.00"."""
    return "; ".join(
        (f"above {above:,} input tokens " if above else "") + _figures(rates)
        for above, rates in sorted(tiers_of(price).items())
    )


def _figures(rates: Rates) -> str:
    figures = (rates.input_ticks, rates.cached_input_ticks, rates.output_ticks)
    return " / ".join(usd_string(ticks, PER_MILLION) for ticks in figures)


@admin.register(CatalogueModel)
class CatalogueModelAdmin(ModelAdmin):
    list_display = ("id", "provider", "price_now", "circuit", "availability", "ends")
    list_filter: ClassVar = ["is_enabled", "provider"]
    list_select_related = ("breaker",)
    search_fields = ("id",)
    actions = None
    fieldsets: ClassVar = [
        (
            None,
            {
                "fields": [
                    ("id", "provider"),
                    ("upstream_name", "is_enabled"),
                    ("shutdown_on", "answer_timeout_s"),
                    "makes_embeddings",
                ]
            },
        ),
        (
            "What bounds a call's worst case",
            {
                "fields": [
                    ("context_tokens", "max_output_tokens"),
                    ("input_allowance_percent", "input_surplus_tokens"),
                    ("reasoning_allowance_tokens", "image_allowance_tokens"),
                ]
            },
        ),
        (
            "What it takes and refuses",
            {
                "fields": [
                    "refused_parameters",
                    "refused_while_reasoning",
                    ("reasoning_efforts", "default_reasoning_effort"),
                    "thinks_within_maximum",
                    "message_fields",
                    "id_characters",
                ]
            },
        ),
    ]
    formfield_overrides: ClassVar = {NamesField: {"widget": UnfoldAdminTextInputWidget}}
    inlines: Sequence[Any] = [LearnedCapabilityInline, PriceInline]
    actions_detail: Sequence[Any] = ["set_price", "catalogue_price"]

    def useful_actions(self, actions: list[UnfoldAction], object_id: str) -> list[UnfoldAction]:
        """The way back is there only where an operator's price stands before one of the catalogue."""
        model = CatalogueModel.objects.filter(pk=object_id).first()
        has_way_back = model and catalogue_price(model, timezone.now())
        return actions if has_way_back else self.without(actions, "catalogue_price")

    def get_queryset(self, request: HttpRequest) -> QuerySet[CatalogueModel]:
        return super().get_queryset(request).prefetch_related("prices__tiers")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Sequence[str]:
        return ["id"] if obj else []

    @display(description="USD per million: input / cached / output")
    def price_now(self, model: CatalogueModel) -> str:
        price = price_in_force(model.prices.all(), timezone.now())
        return _figures(tiers_of(price)[0]) if price else "no price: calls are refused"

    @display(description="Circuit", label={"closed": "success", "half-open": "warning", "open": "danger"})
    def circuit(self, model: CatalogueModel) -> str:
        return state_of(getattr(model, "breaker", None), timezone.now()).value

    @display(description="Calls", label={"enabled": "success", "shut down": "danger"})
    def availability(self, model: CatalogueModel) -> str:
        if is_shut_down(model.shutdown_on, timezone.now()):
            return "shut down"
        return "enabled" if model.is_enabled else "disabled"

    @display(description="Ends", empty_value="")
    def ends(self, model: CatalogueModel) -> str:
        return f"{model.shutdown_on}" if model.shutdown_on else ""

    def has_price_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return bool(request.user.has_perms(["spend.change_cataloguemodel", "spend.add_price"]))

    @action(
        description="Set price",
        url_path="set-price",
        permissions=["price"],
        icon="payments",
        dialog={
            "title": "Set a price from now on",
            "description": "It wins over the price catalogue from now on; calls already made keep theirs. "
            "Prices of long prompts stay, raised where they would be lower than this.",
            "form_class": PriceForm,
            "form_submit_text": "Set price",
        },
    )
    def set_price(self, request: HttpRequest, form: PriceForm, object_id: str) -> HttpResponse:
        model = CatalogueModel.objects.get(pk=object_id)
        rates = Rates(**{name: form.cleaned_data[name] for name in Rates._fields})
        if price := change_price(model, rates, timezone.now()):
            success(request, f"{model} costs {rates_text(price)} USD per million from now on.")
        else:
            info(request, f"{model} costs that already; nothing was changed.")
        return back_to(CatalogueModel, object_id)

    @action(
        description="Back to the catalogue's price",
        url_path="catalogue-price",
        permissions=["price"],
        icon="undo",
        dialog={
            "title": "Back to the catalogue's price?",
            "description": "The operator's price ends now, and the price catalogue's holds again and follows its "
            "changes. Calls already made keep the price that they were billed at. A price set for later still begins.",
            "form_class": ConfirmForm,
            "form_submit_text": "Back to the catalogue's",
        },
    )
    def catalogue_price(self, request: HttpRequest, form: ConfirmForm, object_id: str) -> HttpResponse:
        model = CatalogueModel.objects.get(pk=object_id)
        if price := back_to_catalogue(model, timezone.now()):
            success(request, f"{model} costs {rates_text(price)} USD per million again, as the catalogue says.")
        else:
            info(request, f"{model} has no operator's price to end, or none in the catalogue; nothing was changed.")
        return back_to(CatalogueModel, object_id)


class PriceTiers(RowSet):
    def clean(self) -> None:
        super().clean()
        kept = [form.cleaned_data for form in self.forms if form.is_valid() and form not in self.deleted_forms]
        if not any(self.errors) and 0 not in {tier.get("above_tokens") for tier in kept}:
            raise forms.ValidationError("Above tokens: one tier must be 0, the base price, or short prompts have none.")


class PriceTierInline(Row, ShowsUsd, TabularInline):
    model = PriceTier
    form, formset = RowForm, PriceTiers
    fields: ClassVar = ["above_tokens", "input_ticks", "cached_input_ticks", "cache_write_ticks", "output_ticks"]
    extra = 0
    min_num = 1


class OperatorPriceForm(forms.ModelForm):  # type: ignore[type-arg]
    """A price that an operator sets ahead. One that has begun may have been billed by: it stays."""

    def clean_starts_at(self) -> datetime:
        starts_at: datetime = self.cleaned_data["starts_at"]
        if starts_at <= timezone.now():
            raise forms.ValidationError("A price starts in the future here; the model's page sets one from now on.")
        return starts_at


@admin.register(Price)
class PriceAdmin(ModelAdmin):
    """Prices with their tiers; those of operators can be edited until they begin."""

    form = OperatorPriceForm
    list_display = ("model", "starts", "ends", "source", "rates")
    list_filter: ClassVar = ["source"]
    list_select_related = ("model",)
    search_fields = ("model__id",)
    actions = None
    fields = ("model", "starts_at")
    inlines: Sequence[Any] = [PriceTierInline]

    def get_queryset(self, request: HttpRequest) -> QuerySet[Price]:
        return super().get_queryset(request).prefetch_related("tiers")

    @display(description="From", ordering="starts_at")
    def starts(self, price: Price) -> str:
        return starts_text(price)

    @display(description="Until", ordering="ends_at", empty_value="")
    def ends(self, price: Price) -> str:
        return ends_text(price)

    @display(description="USD per million: input / cached / output")
    def rates(self, price: Price) -> str:
        return rates_text(price)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_change_permission(request, obj) and is_editable(obj)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return super().has_delete_permission(request, obj) and is_editable(obj)


def is_editable(price: Price | None) -> bool:
    return price is None or (price.source == PriceSource.OPERATOR and price.starts_at > timezone.now())
