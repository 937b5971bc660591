"""Django: its migrations on a protected schema, its ORM for several tenants (the project is django_project/)."""

import os
import sys
from pathlib import Path

import pytest
from support import APP, OWNER, Database

PROJECT = Path(__file__).parent / "django_project"


@pytest.fixture(scope="module")
def db(server):
    """The database of the project, migrated to just before the last migration."""
    database = Database(server, "it_django")
    database.run("SELECT tenancy.create_tenant(id) FROM unnest('{acme,globex,closed}'::text[]) AS id")
    database.run("SELECT tenancy.suspend_tenant('closed')")
    os.environ.update(
        DJANGO_SETTINGS_MODULE="settings", DJANGO_DATABASE=database.name, DJANGO_APP_ROLE=APP, DJANGO_OWNER_ROLE=OWNER
    )
    sys.path.insert(0, str(PROJECT))
    import django
    from django.db import connections

    django.setup()
    try:
        migrate("0002")
        yield database
    finally:
        connections.close_all()
        sys.path.remove(str(PROJECT))
        database.drop()


def migrate(target=None):
    from django.core.management import call_command

    call_command("migrate", "shop", *([target] if target else []), database="owner", verbosity=0)


def protected(database):
    return database.run("SELECT relation::text, kind, drift FROM tenancy.protected_tables ORDER BY 1")


PROTECTED = [("shop_currency", "system", []), ("shop_customer", "tenant", []), ("shop_order", "tenant", [])]


@pytest.fixture
def shop(db):
    """The models, each tenant with a few rows; emptied after the test."""
    migrate()
    from shop import models
    from shop.tenancy import tenant

    for name, amounts in (("acme", [1, 2, 3]), ("globex", [10, 20])):
        with tenant(name):
            customer = models.Customer.objects.create(name="first")
            for amount in amounts:
                models.Order.objects.create(customer=customer, item=f"{name} {amount}", amount=amount)
    yield models
    for name in ("acme", "globex"):
        with tenant(name):
            models.Customer.objects.all().delete()


@pytest.fixture
def tenant(shop):
    from shop.tenancy import tenant

    return tenant


def code(caught):
    """The code in DETAIL of Django's error."""
    from shop.tenancy import error_detail

    return error_detail(caught.value)["code"]


def test_migrations_by_an_owner_that_is_no_superuser(db):
    assert db.run(f"SELECT rolsuper, rolbypassrls FROM pg_roles WHERE rolname = '{OWNER}'") == [(False, False)]
    assert protected(db) == PROTECTED
    # The model's own default of the tenant column was there first, so protect added none.
    assert db.run("SELECT count(*) FROM _tenancy.protected WHERE (undo ->> 'default')::boolean") == [(0,)]


def test_migrating_back_and_forth(db):
    migrate("0001")
    assert protected(db) == []
    assert db.run("SELECT relname FROM pg_class WHERE relrowsecurity AND relname LIKE 'shop%'") == []
    migrate("0002")
    assert protected(db) == PROTECTED
    migrate()
    assert protected(db) == PROTECTED


def test_no_migration_is_missing(db):
    from django.core.management import call_command

    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


def test_a_column_is_added_to_a_protected_table_with_rows(db, shop, tenant):
    migrate("0002")
    assert db.run("SELECT count(*) FROM shop_order") == [(5,)]
    migrate()
    assert protected(db) == PROTECTED
    with tenant("acme"):
        assert set(shop.Order.objects.values_list("note", flat=True)) == {""}
        assert shop.Order.objects.count() == 3


def test_migrate_again_does_nothing(db, shop):
    migrate()
    assert protected(db) == PROTECTED


def test_no_context(shop):
    from django.db import Error, OperationalError, transaction

    for statement in (
        lambda: list(shop.Order.objects.all()),
        lambda: shop.Customer.objects.create(name="x"),
        lambda: shop.Order.objects.update(amount=0),
        lambda: shop.Order.objects.all().delete(),
    ):
        with pytest.raises(Error) as caught, transaction.atomic():
            statement()
        assert code(caught) == "TENANT_CONTEXT_MISSING"
        assert isinstance(caught.value, OperationalError)  # Django's class for 55000
        assert caught.value.__cause__.sqlstate == "55000"


def test_create_and_get(shop, tenant):
    with tenant("acme"):
        customer = shop.Customer.objects.create(name="new")
        customer.refresh_from_db()
        assert customer.tenant_id == "acme"
        customer.name = "renamed"
        customer.save()
        assert shop.Customer.objects.get(name="renamed").pk == customer.pk
    with tenant("globex"):
        assert not shop.Customer.objects.filter(pk=customer.pk).exists()
        with pytest.raises(shop.Customer.DoesNotExist):
            shop.Customer.objects.get(pk=customer.pk)


def test_save_right_after_create(shop, tenant):
    with tenant("acme"):
        customer = shop.Customer(name="draft")
        customer.save()
        customer.name = "final"
        customer.save()  # writes the tenant column again: its own value, or DEFAULT
        customer.refresh_from_db()
        assert (customer.name, customer.tenant_id) == ("final", "acme")


def test_filter_aggregate_and_joins(shop, tenant):
    from django.db.models import Count, Sum

    for name, amounts in (("acme", [1, 2, 3]), ("globex", [10, 20])):
        with tenant(name):
            orders = shop.Order.objects
            assert orders.count() == len(amounts)
            assert orders.aggregate(total=Sum("amount"))["total"] == sum(amounts)
            assert orders.filter(amount__gte=2).count() == sum(amount >= 2 for amount in amounts)
            assert list(orders.filter(tenant_id="globex" if name == "acme" else "acme")) == []
            joined = list(orders.select_related("customer").order_by("amount"))
            assert [order.amount for order in joined] == amounts
            assert {order.customer.tenant_id for order in joined} == {name}
            (customer,) = shop.Customer.objects.prefetch_related("order_set").annotate(n=Count("order"))
            assert customer.n == len(customer.order_set.all()) == len(amounts)
            assert list(orders.values_list("tenant_id", flat=True).distinct()) == [name]
            assert len(list(orders.iterator(chunk_size=1))) == len(amounts)  # a server-side cursor
            assert orders.raw("SELECT * FROM shop_order")[0].tenant_id == name


def test_update(shop, tenant):
    from django.db.models import F

    with tenant("acme"):
        assert shop.Order.objects.update(amount=F("amount") + 100) == 3
    with tenant("globex"):
        assert shop.Order.objects.filter(amount__gt=100).count() == 0


def test_bulk_create_and_bulk_update(shop, tenant):
    with tenant("acme"):
        customer = shop.Customer.objects.get()
        made = shop.Order.objects.bulk_create(
            shop.Order(customer=customer, item=f"bulk {n}", amount=n) for n in range(500)
        )
        assert len({order.pk for order in made}) == 500
        assert shop.Order.objects.filter(tenant_id="acme", item__startswith="bulk").count() == 500
        for order in made:
            order.amount = -1
        shop.Order.objects.bulk_update(made, ["amount"], batch_size=100)
        assert shop.Order.objects.filter(amount=-1).count() == 500
    with tenant("globex"):
        assert shop.Order.objects.filter(item__startswith="bulk").count() == 0


def test_get_or_create_and_update_or_create(shop, tenant):
    keys = set()
    for name in ("acme", "globex"):
        with tenant(name):
            one, created = shop.Customer.objects.get_or_create(name="same name")
            assert created
            two, created = shop.Customer.objects.get_or_create(name="same name")
            assert not created and two.pk == one.pk
            _, created = shop.Customer.objects.update_or_create(name="same name", defaults={"name": "other"})
            assert not created
            keys.add(one.pk)
    assert len(keys) == 2


def test_upsert(shop, tenant):
    for name in ("acme", "globex"):
        with tenant(name):
            both = [shop.Customer(name="first"), shop.Customer(name="b")]
            shop.Customer.objects.bulk_create(both, ignore_conflicts=True)
            assert shop.Customer.objects.count() == 2


def test_delete(shop, tenant):
    with tenant("acme"):
        count, per_model = shop.Customer.objects.all().delete()  # with its orders: on_delete=CASCADE
        assert (count, per_model) == (4, {"shop.Customer": 1, "shop.Order": 3})
    with tenant("globex"):
        assert shop.Order.objects.count() == 2


def test_unique_violation_keeps_its_constraint(shop, tenant):
    from django.db import IntegrityError, transaction

    with tenant("acme"):
        with pytest.raises(IntegrityError) as caught, transaction.atomic():
            shop.Customer.objects.create(name="first")
        assert caught.value.__cause__.diag.constraint_name == "customer_name_key"
        assert shop.Customer.objects.count() == 1  # the savepoint restored the context with the rest


def test_writes_across_tenants_are_refused(shop, tenant):
    from django.db import ProgrammingError, transaction

    mine, theirs = shop.Customer(name="y"), shop.Customer(name="z", tenant_id="globex")
    with tenant("acme"):
        for write in (
            lambda: shop.Customer.objects.create(name="x", tenant_id="globex"),
            lambda: shop.Order.objects.update(tenant_id="globex"),
            lambda: shop.Customer.objects.bulk_create([mine, theirs]),
            lambda: shop.Currency.objects.create(code="EUR"),
        ):
            with pytest.raises(ProgrammingError) as caught, transaction.atomic():
                write()
            assert code(caught) == "TENANT_ACCESS_DENIED"
        assert shop.Order.objects.count() == 3


def test_other_errors_of_a_context(shop, tenant):
    from django.db import Error

    for name, expected in (("closed", "TENANT_SUSPENDED"), ("nobody", "TENANT_NOT_FOUND"), ("a b", "TENANT_ID_INVALID")):
        with pytest.raises(Error) as caught, tenant(name):
            shop.Order.objects.count()
        assert code(caught) == expected


def test_the_context_ends_with_the_transaction(shop, tenant):
    from django.db import Error, transaction

    with tenant("acme"):
        assert shop.Order.objects.count() == 3
    with pytest.raises(Error) as caught, transaction.atomic():
        shop.Order.objects.count()
    assert code(caught) == "TENANT_CONTEXT_MISSING"
    with pytest.raises(ZeroDivisionError), tenant("acme"):
        shop.Order.objects.all().delete()
        raise ZeroDivisionError
    with tenant("acme"):
        assert shop.Order.objects.count() == 3


class TestMiddleware:
    @pytest.fixture
    def client(self, shop):
        from django.test import Client

        return Client()

    def test_each_request_has_its_tenant(self, client):
        for name, rows in (("acme", ["acme 1", "acme 2", "acme 3"]), ("globex", ["globex 10", "globex 20"])):
            response = client.get("/orders", headers={"X-Tenant-ID": name})
            assert response.json() == {"orders": rows}

    def test_a_request_commits(self, client):
        client.get("/orders?add=web", headers={"X-Tenant-ID": "acme"})
        assert "web" in client.get("/orders", headers={"X-Tenant-ID": "acme"}).json()["orders"]
        assert "web" not in client.get("/orders", headers={"X-Tenant-ID": "globex"}).json()["orders"]

    def test_errors_become_answers(self, client):
        for name, path, status, expected in (
            ("", "/orders", 400, "TENANT_ID_INVALID"),
            ("nobody", "/orders", 404, "TENANT_NOT_FOUND"),
            ("closed", "/orders", 403, "TENANT_SUSPENDED"),
            ("acme", "/orders?move_to=globex", 403, "TENANT_ACCESS_DENIED"),
        ):
            response = client.get(path, headers={"X-Tenant-ID": name})
            assert (response.status_code, response.json()["code"]) == (status, expected)
        assert len(client.get("/orders", headers={"X-Tenant-ID": "acme"}).json()["orders"]) == 3
