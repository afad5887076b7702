"""The model catalogue out of the genai-prices package."""

import threading
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any

import pytest
from auditlog.models import LogEntry
from django.core.management import CommandError, call_command
from django.utils import timezone
from genai_prices import data_snapshot
from genai_prices.types import (
    ClauseEquals,
    ConditionalPrice,
    ModelInfo,
    ModelPrice,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)

from guard.policy.loader import load_models
from spend.models import OPENAI, XAI, CatalogueModel, Price, PriceSource
from spend.pricing.catalogue import ListedModel, Rates, SyncReport, sync, tiers_of
from spend.pricing.operator_prices import (
    PricedModel,
    back_to_catalogue,
    callable_models,
    catalogue_price,
    change_price,
)
from spend.pricing.price_list_sync import is_chat_model, listed_models, read_model
from spend.pricing.rates import load_history, price_in_force, prices_in_force
from tenants.models import Revision
from tenants.periods import BEGINNING
from tests.factories import PriceFactory
from tests.support.books import at_once

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


def listed(prices: Any, **fields: Any) -> ListedModel:
    return read_model(ModelInfo(id="m", match=ClauseEquals("m"), prices=prices, **fields), XAI)


def price(**usd: str) -> ModelPrice:
    return ModelPrice(**{name: Decimal(figure) for name, figure in usd.items()})


def simple(input_usd: str = "1.25", output_usd: str = "2.5") -> ListedModel:
    return listed(price(input_mtok=input_usd, output_mtok=output_usd))


# What is listed


@pytest.mark.parametrize(
    "name",
    ["grok-4.3", "grok-4.20", "grok-10", "gpt-5", "gpt-5-mini", "gpt-5.4-nano", "gpt-6-luna", "gpt-6.1-sol", "gpt-12"],
)
def test_current_chat_models_are_listed(name: str) -> None:
    assert is_chat_model(name)


@pytest.mark.parametrize(
    "name",
    [
        "grok-3", "grok-voice-latest", "grok-4.20-multi-agent-0309", "gpt-4o", "gpt-4.1", "gpt-5-pro", "gpt-5-image",
        "gpt-5-search-api", "gpt-5.3-codex", "gpt-realtime", "gpt-6-cyber", "gpt-6-rosalind", "text-embedding-3-small",
        "whisper-1", "grok-4.3x", "o3",
        # Retired: xAI bills these names as grok-4.3, whatever the list says.
        "grok-4-fast-reasoning", "grok-4-1-fast-non-reasoning", "grok-4-0709",
    ],
)  # fmt: skip
def test_others_are_not(name: str) -> None:
    assert not is_chat_model(name)


def test_the_installed_package_can_be_read_whole() -> None:
    models, refused = listed_models()
    by_id = {model.id: model for model in models}
    assert refused == {}
    assert by_id["grok-4.3"].provider == XAI
    assert by_id["grok-4.3"].tiers_at(NOW) == {
        0: Rates(12_500, 2_000, None, 25_000),
        199_999: Rates(25_000, 4_000, None, 50_000),
    }
    assert by_id["gpt-6-luna"].provider == OPENAI
    assert by_id["gpt-6-luna"].tiers_at(NOW)[0] == Rates(1_000, 100, 1_250, 5_000)


def test_every_price_agrees_with_the_package_itself() -> None:
    """Our tiers, priced by hand, against the package's own calculation, on both sides of every threshold."""
    sources = {model.id: model for provider in data_snapshot.get_snapshot().providers for model in provider.models
               if provider.id in ("x-ai", "openai")}  # fmt: skip
    for model in listed_models()[0]:
        for start, tiers in model.prices.items():
            source = sources[model.id].get_prices(max(start, datetime(2000, 1, 1, tzinfo=UTC)))
            for tokens in {1_000, *tiers, *(above + 1 for above in tiers)} - {0}:
                rates = tiers[max(above for above in tiers if above == 0 or tokens > above)]
                theirs = source.calc_price({"input_tokens": tokens, "output_tokens": 10})["total_price"]
                assert theirs * 10**10 == tokens * rates.input_ticks + 10 * rates.output_ticks, (model.id, tokens)


# Reading prices


def test_models_that_make_embeddings_are_listed_and_have_no_output() -> None:
    models = {model.id: model for model in listed_models()[0]}
    assert {"text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002"} <= models.keys()
    assert models["text-embedding-3-small"].tiers_at(NOW) == {0: Rates(200, 200, None, 0)}


@pytest.mark.django_db
def test_embedding_models_are_marked_and_the_present_ones_enabled() -> None:
    sync([model for model in listed_models()[0] if "embedding" in model.id], NOW)
    enabled = set(CatalogueModel.objects.filter(makes_embeddings=True, is_enabled=True).values_list("id", flat=True))
    assert enabled == {"text-embedding-3-small", "text-embedding-3-large"}
    assert not CatalogueModel.objects.filter(makes_embeddings=False).exists()


def test_missing_cached_price_is_the_inputs() -> None:
    assert simple().tiers_at(NOW) == {0: Rates(12_500, 12_500, None, 25_000)}


def test_each_figure_takes_its_own_tier() -> None:
    tiered = TieredPrices(Decimal("2"), [Tier(200_000, Decimal("4")), Tier(500_000, Decimal("5"))])
    model = listed(ModelPrice(input_mtok=tiered, output_mtok=Decimal("6")))
    assert {above: (rates.input_ticks, rates.output_ticks) for above, rates in model.tiers_at(NOW).items()} == {
        0: (20_000, 60_000),
        200_000: (40_000, 60_000),
        500_000: (50_000, 60_000),
    }


def test_a_price_history_starts_at_utc_midnight() -> None:
    model = listed(
        [
            ConditionalPrice(prices=price(input_mtok="2", output_mtok="6")),
            ConditionalPrice(
                StartDateConstraint(date(2026, 4, 30)), prices=price(input_mtok="1.25", output_mtok="2.5")
            ),
        ]
    )
    midnight = datetime(2026, 4, 30, tzinfo=UTC)
    assert list(model.prices) == [BEGINNING, midnight]
    assert model.tiers_at(midnight - timedelta(seconds=1))[0].input_ticks == 20_000
    assert model.tiers_at(midnight)[0].input_ticks == 12_500


def test_of_prices_by_the_hour_the_dearest_counts() -> None:
    night = TimeOfDateConstraint(start_time=datetime(2026, 1, 1, 16, tzinfo=UTC).timetz(),
                                 end_time=datetime(2026, 1, 1, 20, tzinfo=UTC).timetz())  # fmt: skip
    model = listed(
        [
            ConditionalPrice(prices=price(input_mtok="1", output_mtok="6")),
            ConditionalPrice(night, prices=price(input_mtok="3", output_mtok="2")),
        ]
    )
    assert model.prices == {BEGINNING: {0: Rates(30_000, 30_000, None, 60_000)}}


@pytest.mark.parametrize(
    ("prices", "why"),
    [
        (price(input_mtok="0.00001", output_mtok="1"), "has a input_mtok of 0.00001 USD, which must be a multiple"),
        (price(input_mtok="1", output_mtok="1", input_audio_mtok="4"), "is priced by input_audio_mtok"),
        (price(input_mtok="1"), "has no output_mtok"),
        (price(input_mtok="-1", output_mtok="1"), "negative"),
    ],
)
def test_a_price_that_is_not_exact_is_refused(prices: ModelPrice, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        listed(prices)


# Filling the database

pytestmark = pytest.mark.django_db


def rates_now(now: datetime = NOW) -> Rates:
    return tiers_of(prices_in_force(now)["m"])[0]


def test_a_sync_done_twice_changes_nothing() -> None:
    first = sync(listed_models()[0], NOW)
    trail = LogEntry.objects.count()
    second = sync(listed_models()[0], NOW)
    assert first.added == first.models
    assert (second.added, second.prices) == ([], [])
    assert LogEntry.objects.count() == trail


def test_new_models_wait_for_an_operator_but_those_of_the_default_route() -> None:
    sync(listed_models()[0], NOW)
    enabled = set(CatalogueModel.objects.filter(is_enabled=True).values_list("id", flat=True))
    assert {"grok-4.3", "gpt-6-luna"} < enabled
    assert "gpt-6-astra" not in enabled
    assert CatalogueModel.objects.get(id="gpt-5-mini").shutdown_on == date(2026, 12, 11)
    assert CatalogueModel.objects.get(id="gpt-6-luna").max_output_tokens == 128_000


def test_what_an_operator_set_stays() -> None:
    sync([simple()], NOW)
    edited = {
        "is_enabled": True,
        "shutdown_on": date(2030, 1, 1),
        "reasoning_allowance_tokens": 9,
        "max_output_tokens": 7,
    }
    CatalogueModel.objects.filter(pk="m").update(**edited)
    sync([simple()], NOW + timedelta(days=1))
    assert CatalogueModel.objects.filter(pk="m", **edited).exists()


def test_an_operators_price_wins_over_a_later_one_of_the_catalogue() -> None:
    sync([simple()], NOW)
    PriceFactory.create(model_id="m", starts_at=NOW, source=PriceSource.OPERATOR, tier__input_ticks=7)
    sync([simple(input_usd="2")], NOW + timedelta(days=1))
    assert rates_now(NOW + timedelta(days=2)).input_ticks == 7


def test_a_price_that_has_begun_is_never_rewritten() -> None:
    sync([simple()], NOW)
    billed = prices_in_force(NOW)["m"]
    later = NOW + timedelta(days=1)
    report = sync([simple(input_usd="2")], later)
    assert [each.starts_at for each in report.prices] == [later]
    assert tiers_of(billed)[0].input_ticks == 12_500
    assert rates_now(later - timedelta(seconds=1)).input_ticks == 12_500
    assert rates_now(later).input_ticks == 20_000
    assert sync([simple(input_usd="2")], later + timedelta(days=1)).prices == []


def test_a_price_that_has_not_begun_is_corrected_in_place() -> None:
    def announced(usd: str) -> ListedModel:
        return listed(
            [
                ConditionalPrice(prices=price(input_mtok="1", output_mtok="1")),
                ConditionalPrice(StartDateConstraint(date(2027, 1, 1)), prices=price(input_mtok=usd, output_mtok="1")),
            ]
        )

    sync([announced("2")], NOW)
    sync([announced("3")], NOW)
    assert Price.objects.count() == 2
    assert rates_now(datetime(2027, 1, 1, tzinfo=UTC)).input_ticks == 30_000


# Back to the catalogue's price


def operators_price(starts_at: datetime, input_ticks: int) -> Price:
    return PriceFactory.create(
        model_id="m", starts_at=starts_at, source=PriceSource.OPERATOR, tier__input_ticks=input_ticks
    )


def input_ticks_at(at: datetime) -> list[int]:
    """As the pages, the calls and the rollups each find it."""
    found = price_in_force(Price.objects.filter(model="m"), at)
    histories = [load_history(["m"]).price_at("m", at), load_models()["m"].price_at(at)]
    assert found
    assert all(histories)
    return [
        rates_now(at).input_ticks,
        tiers_of(found)[0].input_ticks,
        *(each.tiers[0].input_ticks for each in histories if each),
    ]


def test_back_to_the_catalogue_ends_every_price_of_the_operator_that_has_begun() -> None:
    sync([simple(input_usd="1")], NOW)
    for days_ago, ticks in ((3, 7), (1, 8), (-5, 9)):
        operators_price(NOW - timedelta(days=days_ago), ticks)
    revision = Revision.current()
    assert back_to_catalogue(CatalogueModel.objects.get(), NOW) == prices_in_force(NOW)["m"]
    assert Revision.current() > revision, "the servers would not know"
    before = NOW - timedelta(microseconds=1)
    assert [set(input_ticks_at(at)) for at in (before, NOW, NOW + timedelta(days=5))] == [{8}, {10_000}, {9}]
    sync([simple(input_usd="2")], NOW + timedelta(days=1))
    assert set(input_ticks_at(NOW + timedelta(days=2))) == {20_000}, "the catalogue's changes are followed again"


def test_without_an_operators_price_or_one_of_the_catalogue_nothing_ends() -> None:
    sync([simple()], NOW)
    model = CatalogueModel.objects.get()
    assert back_to_catalogue(model, NOW) is None
    Price.objects.all().delete()
    price = operators_price(NOW, 7)
    assert back_to_catalogue(model, NOW) is None
    price.refresh_from_db()
    assert price.ends_at is None


def test_after_going_back_the_operator_may_set_the_same_price_again() -> None:
    sync([simple()], NOW)
    model, mine = CatalogueModel.objects.get(), Rates(7, 7, None, 7)
    for hour in range(3):
        assert change_price(model, mine, NOW + timedelta(hours=hour))
        assert set(input_ticks_at(NOW + timedelta(hours=hour))) == {7}
        assert change_price(model, mine, NOW + timedelta(hours=hour, minutes=1)) is None
        assert back_to_catalogue(model, NOW + timedelta(hours=hour, minutes=2))


def end_without_the_lock(model: CatalogueModel, has_read: threading.Barrier) -> bool:
    """Read, decide, write; the barrier is the scheduler on a bad day."""
    price = catalogue_price(model, NOW)
    has_read.wait(10)
    Price.objects.filter(source=PriceSource.OPERATOR).update(ends_at=timezone.now())
    return price is not None


@pytest.mark.django_db(transaction=True)
def test_of_operators_who_go_back_at_once_only_one_ends_the_price() -> None:
    """Without the lock each believes to be the one, and the last of them moves the price's end."""
    sync([simple()], NOW)
    model, price = CatalogueModel.objects.get(), operators_price(NOW - timedelta(days=1), 7)
    has_read = threading.Barrier(4)
    assert sum(at_once([partial(end_without_the_lock, model, has_read)] * 4)) == 4
    Price.objects.filter(pk=price.pk).update(ends_at=None)
    instants = [NOW + timedelta(seconds=second) for second in range(4)]
    ended = at_once([partial(back_to_catalogue, model, at) for at in instants])
    (winner,) = (at for at, found in zip(instants, ended, strict=True) if found)
    price.refresh_from_db()
    assert price.ends_at == winner
    assert (
        LogEntry.objects.get_for_object(price).filter(changes__has_key="ends_at", action=LogEntry.Action.UPDATE).count()
        == 1
    )


@pytest.mark.parametrize("tiers", [{"tier__above_tokens": 200_000}, {"tier": None}])
def test_a_price_without_a_base_tier_is_none(tiers: dict[str, Any]) -> None:
    """Neither for the pages and the API, nor for calls, nor for the rollups: nothing would be free by it."""
    model, now = CatalogueModel.objects.create(id="m", provider=XAI, upstream_name="m"), timezone.now()
    PriceFactory.create(model=model, **tiers)
    assert prices_in_force(now) == {}
    assert PricedModel.of(model, now).rates is None
    assert callable_models(["m"], now) == []
    assert load_models()["m"].price_at(now) is None
    assert load_history(["m"]).price_at("m", now) is None


def test_a_price_without_a_base_tier_leaves_the_catalogues_in_force() -> None:
    sync([simple(input_usd="1")], NOW)
    PriceFactory.create(model_id="m", starts_at=NOW, source=PriceSource.OPERATOR, tier__above_tokens=200_000)
    assert set(input_ticks_at(NOW)) == {10_000}


def test_the_command_says_what_it_did_and_who_did_it(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("sync_prices")
    count = CatalogueModel.objects.count()
    assert f"{count} models in the price list: {count} new" in capsys.readouterr().out
    entry = LogEntry.objects.get_for_model(CatalogueModel).first()
    assert entry is not None
    assert entry.additional_data == {"by": "sync_prices"}


def test_the_command_refuses_aloud(settings: Any) -> None:
    broken = ModelInfo(id="grok-99", match=ClauseEquals("grok-99"), prices=price(input_mtok="0.00001", output_mtok="1"))
    providers = data_snapshot.get_snapshot().providers
    xai = next(provider for provider in providers if provider.id == "x-ai")
    xai.models.append(broken)
    try:
        with pytest.raises(CommandError, match="grok-99 was refused"):
            call_command("sync_prices")
    finally:
        xai.models.remove(broken)
    assert CatalogueModel.objects.filter(pk="grok-4.3").exists()
    assert not CatalogueModel.objects.filter(pk="grok-99").exists()


def test_an_empty_list_empties_nothing() -> None:
    sync([simple()], NOW)
    assert sync([], NOW) == SyncReport()
    assert CatalogueModel.objects.filter(pk="m").exists()
