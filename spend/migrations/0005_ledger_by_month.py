"""On Postgres the ledger becomes a table partitioned by month; `spend.retention.partitions` makes the months.

The table as it was becomes the default partition, so no row is copied here: rows move into their month later.
"""

from typing import Any

from django.db import migrations


class OnPostgres(migrations.RunSQL):
    def database_forwards(self, app_label: str, schema_editor: Any, *states: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            super().database_forwards(app_label, schema_editor, *states)

    def database_backwards(self, app_label: str, schema_editor: Any, *states: Any) -> None:
        if schema_editor.connection.vendor == "postgresql":
            super().database_backwards(app_label, schema_editor, *states)


INDEXES = """
CREATE INDEX entry_by_tenant ON spend_ledgerentry (tenant_id, at);
CREATE INDEX entry_by_customer ON spend_ledgerentry (tenant_id, customer, at) WHERE NOT (customer = '');
CREATE INDEX entry_by_conversation ON spend_ledgerentry (tenant_id, conversation, at) WHERE NOT (conversation = '');
CREATE INDEX entry_by_call ON spend_ledgerentry (call_id);
CREATE INDEX entry_to_review ON spend_ledgerentry (at) WHERE is_overrun OR is_expired;
"""

FORWARDS = f"""
ALTER TABLE spend_ledgerentry RENAME TO spend_ledgerentry_default;
ALTER INDEX entry_by_tenant RENAME TO entry_by_tenant_default;
ALTER INDEX entry_by_customer RENAME TO entry_by_customer_default;
ALTER INDEX entry_by_conversation RENAME TO entry_by_conversation_default;
ALTER INDEX entry_by_call RENAME TO entry_by_call_default;
ALTER INDEX entry_to_review RENAME TO entry_to_review_default;
ALTER TABLE spend_ledgerentry_default DROP CONSTRAINT spend_ledgerentry_pkey;
ALTER TABLE spend_ledgerentry_default ADD PRIMARY KEY (reservation_id, at);
CREATE TABLE spend_ledgerentry (LIKE spend_ledgerentry_default INCLUDING CONSTRAINTS) PARTITION BY RANGE (at);
ALTER TABLE spend_ledgerentry ADD PRIMARY KEY (reservation_id, at);
{INDEXES}
ALTER TABLE spend_ledgerentry ATTACH PARTITION spend_ledgerentry_default DEFAULT;
"""

BACKWARDS = f"""
ALTER TABLE spend_ledgerentry RENAME TO spend_ledgerentry_by_month;
CREATE TABLE spend_ledgerentry (LIKE spend_ledgerentry_by_month INCLUDING CONSTRAINTS);
INSERT INTO spend_ledgerentry SELECT * FROM spend_ledgerentry_by_month;
DROP TABLE spend_ledgerentry_by_month;
ALTER TABLE spend_ledgerentry ADD PRIMARY KEY (reservation_id);
{INDEXES}
"""


class Migration(migrations.Migration):
    dependencies = [("spend", "0004_price_ends_at")]

    operations = [OnPostgres(FORWARDS, BACKWARDS)]
