from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("shop", "0002_protect")]
    operations = [
        migrations.AddField(
            model_name="order", name="note", field=models.CharField(default="", max_length=100)
        ),
    ]
