from django.db import models

from shop.tenancy import CurrentTenant


class TenantModel(models.Model):
    """A model whose rows belong to tenants. The database fills the column in; nothing here ever names a tenant."""

    tenant_id = models.CharField(max_length=128, db_default=CurrentTenant(), editable=False)

    class Meta:
        abstract = True


class Customer(TenantModel):
    name = models.CharField(max_length=100)

    class Meta:
        constraints = [models.UniqueConstraint("tenant_id", "name", name="customer_name_key")]


class Order(TenantModel):
    customer = models.ForeignKey(Customer, on_delete=models.CASCADE)
    item = models.CharField(max_length=100)
    amount = models.IntegerField(default=1)
    note = models.CharField(max_length=100, default="")

    class Meta:
        indexes = [models.Index("tenant_id", "customer", name="order_tenant_customer")]


class Currency(models.Model):
    """Reference data for everybody."""

    code = models.CharField(max_length=3, primary_key=True)
