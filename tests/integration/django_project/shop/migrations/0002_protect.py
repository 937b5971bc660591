from django.db import migrations


def protect(table, kind="tenant"):
    return migrations.RunSQL(f"SELECT tenancy.protect('{table}', '{kind}')", f"SELECT tenancy.unprotect('{table}')")


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [protect("shop_customer"), protect("shop_order"), protect("shop_currency", "system")]
