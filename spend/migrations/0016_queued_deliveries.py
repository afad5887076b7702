from django.db import migrations

OLD, NEW = "spend.deliveries.deliver", "spend.alerts.deliveries.deliver"


def rename(apps, before, after):
    apps.get_model("django_tasks_database", "DBTaskResult").objects.filter(task_path=before).update(task_path=after)


def to_new(apps, schema_editor):
    """A delivery that was queued by a version before finds its task where it is now."""
    rename(apps, OLD, NEW)


def to_old(apps, schema_editor):
    rename(apps, NEW, OLD)


class Migration(migrations.Migration):
    dependencies = [("spend", "0015_whose_breaker"), ("django_tasks_database", "0001_initial")]

    operations = [migrations.RunPython(to_new, to_old, elidable=True)]
