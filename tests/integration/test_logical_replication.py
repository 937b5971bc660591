"""Logical replication, both ways: from protected tables to a database that knows nothing of tenants, and into protected tables. See docs/replication.md."""

import os

import psycopg
import pytest
from support import APP, MAJOR, OWNER, Database, eventually, items, refused, server_of, server_tool, set_session

NAMES = [f"it-publisher-{os.getpid()}", f"it-subscriber-{os.getpid()}"]
ORDERS = "SELECT tenant_id, item FROM orders ORDER BY item"
TABLE = "CREATE TABLE orders (id bigint PRIMARY KEY, tenant_id text, item text NOT NULL, amount integer NOT NULL)"


@pytest.fixture(scope="module")
def servers():
    started = []
    try:
        for name in NAMES:
            started.append(server_of(server_tool("start", str(MAJOR), name, "--preload", "wal_level=logical")))
            started[-1].create_roles()
        yield started
    finally:
        for name in NAMES:
            server_tool("stop", name)


@pytest.fixture(scope="module")
def publisher(servers):
    database = Database(servers[0], "it_publisher")
    database.create_shop()
    yield database


@pytest.fixture
def subscribe(servers, publisher):
    """subscribe(name, publication, *tables, extension=…, options=…): a database that is subscribed to a publication of the shop."""
    made = []

    def subscribe(name, publication, *tables, extension=False, options=""):
        publisher.run(f"CREATE PUBLICATION {name} {publication}")
        database = Database(servers[1], name, extension=extension)
        made.append(database)
        database.run(*tables)
        server = publisher.server
        database.run(f"CREATE SUBSCRIPTION {name} CONNECTION 'host={server.host} port={server.port} user=postgres dbname={publisher.name}' PUBLICATION {name} {options}")
        return database

    yield subscribe
    for database in made:
        database.run(f"DROP SUBSCRIPTION {database.name}")
        publisher.run(f"DROP PUBLICATION {database.name}")
        database.drop()


def test_to_a_database_without_the_extension(publisher, subscribe):
    copy = subscribe("it_plain", "FOR TABLE orders", TABLE)
    eventually(lambda: copy.run(ORDERS) == publisher.run(ORDERS))
    with publisher.connect(APP) as app:
        set_session(app, "acme")
        app.execute("INSERT INTO orders (item) VALUES ('new')")
        app.execute("UPDATE orders SET amount = 7 WHERE item = 'new'")
    # All tenants' rows, whoever has written them; what reads them there is not isolated.
    eventually(lambda: copy.run("SELECT tenant_id, amount FROM orders WHERE item = 'new'") == [("acme", 7)])
    assert copy.run("SELECT count(DISTINCT tenant_id) FROM orders") == [(3,)]
    assert ("publication", "it_plain") in publisher.run("SELECT rule, object FROM tenancy.lint()")
    publisher.run("DELETE FROM orders WHERE item = 'new'")


def test_the_rows_of_one_tenant(publisher, subscribe):
    """A row filter on the tenant column, which is part of the replica identity."""
    publisher.run("ALTER TABLE orders REPLICA IDENTITY FULL", role=OWNER)
    copy = subscribe("it_acme", "FOR TABLE orders WHERE (tenant_id = 'acme')", TABLE)
    eventually(lambda: copy.run(ORDERS) == [("acme", "a1"), ("acme", "a2"), ("acme", "a3")])
    publisher.run("INSERT INTO orders (tenant_id, item) VALUES ('globex', 'hers'), ('acme', 'his')", "UPDATE orders SET amount = 2 WHERE item IN ('hers', 'his')")
    eventually(lambda: ("acme", "his") in copy.run(ORDERS))
    assert {tenant for tenant, _ in copy.run(ORDERS)} == {"acme"}
    assert publisher.run("SELECT object FROM tenancy.lint() WHERE rule = 'publication' AND object = 'it_acme'") == []
    publisher.run("DELETE FROM orders WHERE item IN ('hers', 'his')", "ALTER TABLE orders REPLICA IDENTITY DEFAULT")


def test_into_protected_tables(publisher, subscribe):
    """With the registry, so that tenants are known and suspended there as well."""
    tables = [TABLE, "TRUNCATE _tenancy.tenants", "SELECT tenancy.protect('orders', reference => false)", "GRANT SELECT, INSERT ON orders TO it_app", "SELECT tenancy.meter('orders', 'orders')"]
    copy = subscribe("it_protected", "FOR TABLE orders, _tenancy.tenants", *tables, extension=True)
    eventually(lambda: len(copy.run(ORDERS)) == 6 and len(copy.run("SELECT id FROM tenancy.tenants")) == 4)
    with copy.connect(APP) as app:
        with refused("TENANT_CONTEXT_MISSING"):
            items(app)
        set_session(app, "acme")
        assert items(app) == ["a1", "a2", "a3"]
        with refused("TENANT_ACCESS_DENIED"):
            app.execute("INSERT INTO orders VALUES (100, 'globex', 'x', 1)")
        publisher.run("INSERT INTO orders (tenant_id, item) VALUES ('acme', 'new'), ('globex', 'not his')")
        eventually(lambda: items(app) == ["a1", "a2", "a3", "new"])
        # The first copy is a statement, which fires triggers; for what is applied later, PostgreSQL fires none of statements: it is counted when it is asked for.
        assert [(row[0], row[1]) for row in copy.run("SELECT tenant_id, difference FROM tenancy.reconcile('orders') ORDER BY 1")][:1] == [("acme", 1)]
        publisher.run("SELECT tenancy.suspend_tenant('acme', 'not paid')")

        def is_suspended():
            try:
                items(app)
            except psycopg.Error as error:
                return "TENANT_SUSPENDED" in (error.diag.message_detail or "")

        eventually(is_suspended)
    publisher.run("SELECT tenancy.resume_tenant('acme')", "DELETE FROM orders WHERE item IN ('new', 'not his')")


@pytest.mark.skipif(MAJOR < 16, reason="run_as_owner came with PostgreSQL 16; before, a subscription's owner is who applies")
def test_as_whom_changes_are_applied(publisher, subscribe):
    """From 16 on PostgreSQL applies as the owner of the table, who is under its row-level security, and refuses."""
    tables = [f"CREATE TABLE orders (id bigint PRIMARY KEY, tenant_id text, item text NOT NULL, amount integer NOT NULL); ALTER TABLE orders OWNER TO {OWNER}",
              "SELECT tenancy.create_tenant(id) FROM unnest('{acme,globex,initech,umbrella}'::text[]) AS id", "SELECT tenancy.protect('orders')"]
    copy = subscribe("it_as_owner", "FOR TABLE orders", *tables, extension=True, options="WITH (run_as_owner = true)")
    eventually(lambda: copy.run(ORDERS) == publisher.run(ORDERS))
    copy.run("ALTER SUBSCRIPTION it_as_owner SET (run_as_owner = false)")
    publisher.run("INSERT INTO orders (tenant_id, item) VALUES ('acme', 'waits')")
    eventually(lambda: copy.run("SELECT apply_error_count > 0 FROM pg_stat_subscription_stats WHERE subname = 'it_as_owner'") == [(True,)])
    assert ("acme", "waits") not in copy.run(ORDERS)
    copy.run("ALTER SUBSCRIPTION it_as_owner SET (run_as_owner = true)")
    eventually(lambda: ("acme", "waits") in copy.run(ORDERS))
    publisher.run("DELETE FROM orders WHERE item = 'waits'")
