from datetime import UTC, datetime
from hashlib import sha256

from django.db import migrations

TABLE = "authtoken_token"


def hash_tokens(apps, schema_editor):
    """DRF's tokens, which were kept as they are sent. Each goes on working, without an end, and can be revoked."""
    connection = schema_editor.connection
    tokens = apps.get_model("tenants", "OperatorToken").objects.using(connection.alias)
    with connection.cursor() as cursor:
        if TABLE not in connection.introspection.table_names(cursor):
            return
        cursor.execute(f"SELECT key, user_id, created FROM {TABLE}")
        for key, user_id, created in cursor.fetchall():
            at = created if isinstance(created, datetime) else datetime.fromisoformat(str(created))
            digest = sha256(key.encode()).hexdigest()
            token = tokens.create(user_id=user_id, name="issued before tokens had names", hint=key[:4], digest=digest)
            tokens.filter(pk=token.pk).update(created_at=at if at.tzinfo else at.replace(tzinfo=UTC))
        cursor.execute(f"DROP TABLE {TABLE}")


class Migration(migrations.Migration):
    dependencies = [("tenants", "0004_operator_token")]

    operations = [migrations.RunPython(hash_tokens, migrations.RunPython.noop)]
