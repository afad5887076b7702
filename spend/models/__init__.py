"""What happened: the model catalogue and its prices, windows, reservations and the ledger, and their sums."""

from spend.models.alerts import Alert, Delivery
from spend.models.catalogue import (
    AUTO,
    AUTO_IS_TAKEN,
    CatalogueModel,
    LearnedCapability,
    Price,
    PriceTier,
    is_shut_down,
    validate_id_characters,
)
from spend.models.content import CallContent, IdempotentCall
from spend.models.invoices import InvoicedDay, InvoiceSource, LedgerDay
from spend.models.ledger import WINDOW_KEY, AppendOnly, Attempted, Call, LedgerEntry, Reservation, Review, Window
from spend.models.operations import Breaker, CacheEntry, Schedule
from spend.models.summaries import (
    ArchivedSpend,
    ConversationTotal,
    DailyCustomer,
    DailyDowngrade,
    DailyKey,
    DailyRollup,
    Rollup,
    RollupMark,
)
from spend.models.vocabulary import AlertKind, DeliveryState, Outcome, PriceSource, Provider, ReservationState, Route

__all__ = [
    "AUTO",
    "AUTO_IS_TAKEN",
    "WINDOW_KEY",
    "Alert",
    "AlertKind",
    "AppendOnly",
    "ArchivedSpend",
    "Attempted",
    "Breaker",
    "CacheEntry",
    "Call",
    "CallContent",
    "CatalogueModel",
    "ConversationTotal",
    "DailyCustomer",
    "DailyDowngrade",
    "DailyKey",
    "DailyRollup",
    "Delivery",
    "DeliveryState",
    "IdempotentCall",
    "InvoiceSource",
    "InvoicedDay",
    "LearnedCapability",
    "LedgerDay",
    "LedgerEntry",
    "Outcome",
    "Price",
    "PriceSource",
    "PriceTier",
    "Provider",
    "Reservation",
    "ReservationState",
    "Review",
    "Rollup",
    "RollupMark",
    "Route",
    "Schedule",
    "Window",
    "is_shut_down",
    "validate_id_characters",
]
