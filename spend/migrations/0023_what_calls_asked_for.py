from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("spend", "0022_invoices")]

    operations = [
        migrations.AddField(
            model_name="call",
            name="asked",
            field=models.JSONField(
                help_text="How much was asked for, so that the call can be planned again under other settings.",
                null=True,
            ),
        ),
    ]
