"""Rows for tests, made with `TenantFactory.create()`, which is typed where `TenantFactory()` is not.

Prices are those of DESIGN.md's example: 1.25, 0.20 and 2.50 USD per million tokens.
"""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import factory
from django.contrib.auth.models import User
from factory.django import DjangoModelFactory

from spend.models import CatalogueModel, Price, PriceTier
from tenants.models import ApiKey, Budget, DowngradeRule, RouteStep, Tenant
from tenants.money import TICKS_PER_USD

PASSWORD = "correct horse battery staple"


class UserFactory(DjangoModelFactory[User]):
    """Signs in with PASSWORD."""

    class Meta:
        model = User
        skip_postgeneration_save = True

    username = factory.Sequence(lambda number: f"user-{number}")
    password = factory.django.Password(PASSWORD)


class TenantFactory(DjangoModelFactory[Tenant]):
    class Meta:
        model = Tenant

    id = factory.Sequence(lambda number: f"tenant-{number}")


if TYPE_CHECKING:

    class IssuedKey(ApiKey):
        """A key of which its secret is still known."""

        secret: str


class ApiKeyFactory(DjangoModelFactory["IssuedKey"]):
    """A key whose `secret` an agent can send."""

    class Meta:
        model = ApiKey

    tenant = factory.SubFactory(TenantFactory)

    @classmethod
    def _create(cls, model_class: type[ApiKey], *args: Any, **kwargs: Any) -> "IssuedKey":
        issued = {name: kwargs.pop(name) for name in ("tenant", "name", "expires_at") if name in kwargs}
        plain_key, secret = model_class.objects.issue(**issued)
        key = cast("IssuedKey", plain_key)
        key.secret = secret
        for name, value in kwargs.items():
            setattr(key, name, value)
        if kwargs:
            key.save()
        return key


class BudgetFactory(DjangoModelFactory[Budget]):
    """1 USD a day for a tenant, soft cap 0.8, hard cap 1."""

    class Meta:
        model = Budget

    tenant = factory.SubFactory(TenantFactory)
    limit_ticks = TICKS_PER_USD


class PriceTierFactory(DjangoModelFactory[PriceTier]):
    class Meta:
        model = PriceTier

    input_ticks = 12_500
    cached_input_ticks = 2_000
    output_ticks = 25_000


class PriceFactory(DjangoModelFactory[Price]):
    """A price with its base tier; `PriceFactory(model=…, tier__input_ticks=…)`."""

    class Meta:
        model = Price
        skip_postgeneration_save = True

    starts_at = datetime(2020, 1, 1, tzinfo=UTC)
    tier = factory.RelatedFactory(PriceTierFactory, factory_related_name="price")


class CatalogueModelFactory(DjangoModelFactory[CatalogueModel]):
    """A model with a price; `CatalogueModelFactory(price__tier__output_ticks=…)`, or `price=None` for none."""

    class Meta:
        model = CatalogueModel
        skip_postgeneration_save = True

    id = factory.Sequence(lambda number: f"model-{number}")
    provider = "xai"
    upstream_name = factory.SelfAttribute("id")
    price = factory.RelatedFactory(PriceFactory, factory_related_name="model")


class RouteStepFactory(DjangoModelFactory[RouteStep]):
    class Meta:
        model = RouteStep

    tenant = factory.SubFactory(TenantFactory)
    position = factory.LazyAttribute(lambda step: step.tenant.route_steps.count())
    model = factory.SubFactory(CatalogueModelFactory)


class DowngradeRuleFactory(DjangoModelFactory[DowngradeRule]):
    """From any model to a new one."""

    class Meta:
        model = DowngradeRule

    tenant = factory.SubFactory(TenantFactory)
    to_model = factory.SubFactory(CatalogueModelFactory)
