from django.db import migrations, models


def mark_demo(apps, schema_editor):
    """Until now the only simulated node was the one that `up` had made."""
    apps.get_model("fleet", "Node").objects.filter(is_simulated=True).update(is_demo=True)


class Migration(migrations.Migration):

    dependencies = [
        ("fleet", "0002_fleet"),
    ]

    operations = [
        migrations.AddField(
            model_name="command",
            name="cancel_wanted_at",
            field=models.DateTimeField(null=True),
        ),
        migrations.AddField(
            model_name="node",
            name="is_demo",
            field=models.BooleanField(default=False, editable=False),
        ),
        migrations.AddField(
            model_name="node",
            name="models_asked_at",
            field=models.DateTimeField(editable=False, null=True),
        ),
        migrations.RunPython(mark_demo, migrations.RunPython.noop),
    ]
