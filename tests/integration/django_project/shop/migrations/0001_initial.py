import django.db.models.deletion
from django.db import migrations, models

import shop.tenancy


def tenant_column():
    return models.CharField(db_default=shop.tenancy.CurrentTenant(), editable=False, max_length=128)


def key():
    return models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel(
            name="Currency",
            fields=[("code", models.CharField(max_length=3, primary_key=True, serialize=False))],
        ),
        migrations.CreateModel(
            name="Customer",
            fields=[("id", key()), ("tenant_id", tenant_column()), ("name", models.CharField(max_length=100))],
        ),
        migrations.CreateModel(
            name="Order",
            fields=[
                ("id", key()),
                ("tenant_id", tenant_column()),
                ("item", models.CharField(max_length=100)),
                ("amount", models.IntegerField(default=1)),
                ("customer", models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="shop.customer")),
            ],
        ),
        migrations.AddConstraint(
            model_name="customer",
            constraint=models.UniqueConstraint("tenant_id", "name", name="customer_name_key"),
        ),
        migrations.AddIndex(
            model_name="order",
            index=models.Index("tenant_id", "customer", name="order_tenant_customer"),
        ),
    ]
