"""pg_upgrade from PostgreSQL 15: everything that the extension keeps is there afterwards, and holds."""

import os

import pytest
from support import APP, OWNER, Database, items, refused, server_of, server_tool, set_session, value

OLD, NEW = f"upgrade-from-{os.getpid()}", f"upgrade-to-{os.getpid()}"
UUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"

# What somebody sees of it. Numbers of objects are others afterwards, and findings about the server's own minor version.
SEEN = {
    "tenants": "SELECT * FROM tenancy.tenants ORDER BY id",
    "protected tables": "SELECT relation::text, kind, tenant_column, row_security, forced, policies::text[], drift FROM tenancy.protected_tables ORDER BY 1",
    "protected schemas": "SELECT schema::text, tenant_column, protected_at FROM tenancy.protected_schemas",
    "foreign keys": "SELECT t::text FROM tenancy.foreign_keys t ORDER BY 1",
    "meters": "SELECT t::text FROM tenancy.meters t ORDER BY 1",
    "quotas": 'SELECT tenant_id, resource, period, scope, used, "limit", soft_limit, percentage FROM tenancy.quota_status ORDER BY 1, 2, 3',
    "usage": "SELECT * FROM tenancy.usage_records ORDER BY 1, 2, 4, 3",
    "audited tables": "SELECT t::text FROM tenancy.audited_tables t ORDER BY 1",
    "audit trail": "SELECT t::text FROM tenancy.audit_log t ORDER BY 1",
    "members": "SELECT * FROM tenancy.members ORDER BY 1, 2",
    "cache watches": "SELECT relation::text, resource_type, notify, watched_at FROM tenancy.cache_watches ORDER BY 1",
    "trusted operators": "SELECT operator::text, kind, trusted_by, trusted_at FROM tenancy.trusted_operators WHERE trusted_by IS NOT NULL ORDER BY 1",
    "metrics": "SELECT * FROM tenancy.metric_values ORDER BY 1, 2",
    "health reports": "SELECT * FROM _tenancy.health_reports ORDER BY 1, 2",
    "crossing": "SELECT t::text FROM _tenancy.cross_tenant_grants t ORDER BY 1",
    "findings": "SELECT rule, severity, object, problem FROM tenancy.lint('info') WHERE rule <> 'server_minor' ORDER BY 1, 3, 4",
    "privileges of PUBLIC": """SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.pronamespace IN ('tenancy'::regnamespace, '_tenancy'::regnamespace)
        AND has_function_privilege('it_guest', p.oid, 'EXECUTE') ORDER BY 1""",
    "event triggers": "SELECT evtname, evtevent, evtenabled, evttags FROM pg_event_trigger ORDER BY 1",
    "members of the extension": """SELECT pg_describe_object(d.classid, d.objid, 0) FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
        WHERE e.extname = 'tenancy' AND d.deptype = 'e' AND pg_describe_object(d.classid, d.objid, 0) !~ '^(type|toast)' ORDER BY 1""",
}


def fill(db):
    db.create_shop()
    db.run(
        'CREATE TABLE "Price List" (tenant_id uuid, "Unit Price" numeric)',
        "CREATE TABLE events (tenant_id text, id bigint, at date, PRIMARY KEY (tenant_id, id, at)) PARTITION BY RANGE (at)",
        "CREATE TABLE events_2026 PARTITION OF events FOR VALUES FROM ('2026-01-01') TO ('2027-01-01')",
        "CREATE TABLE lines (id bigserial PRIMARY KEY, order_id bigint REFERENCES orders, tenant_id text)",
        "CREATE TABLE currencies (code text PRIMARY KEY)",
        "SELECT tenancy.protect('\"Price List\"'), tenancy.protect('events'), tenancy.protect('currencies', 'system'), tenancy.protect('lines', foreign_keys => 'upgrade')",
        "CREATE SCHEMA later",
        role=OWNER,
    )
    db.run(
        f"SELECT tenancy.create_tenant('{UUID}', 'By UUID', 'uuid', 'gold', '{{\"a\": 1}}'), tenancy.create_tenant('gone')",
        "SELECT tenancy.suspend_tenant('gone', 'invoice'), tenancy.protect_schema('later')",
        f"""INSERT INTO "Price List" VALUES ('{UUID}', 9.99)""",
        "INSERT INTO events SELECT 'acme', n, date '2026-01-01' + n FROM generate_series(1, 100) n",
        "INSERT INTO lines (order_id, tenant_id) SELECT id, tenant_id FROM orders",
        "SELECT tenancy.create_usage_partitions(1), tenancy.create_audit_partitions(1)",
        "SELECT tenancy.meter('orders', 'orders'), tenancy.set_quota('acme', 'orders', 5), tenancy.set_default_quota('calls', 100, 'month', soft_limit => 50)",
        "SELECT tenancy.audit('orders'), tenancy.cache_watch('orders', 'order', true), tenancy.trust_operator('&&(circle,circle)')",
        "SELECT tenancy.add_user('ann'), tenancy.add_member('acme', 'ann', 'admin'), tenancy.grant_cross_tenant('it_app', '{acme}', now() + '1 day')",
        "SELECT tenancy.settle_usage()",
        # A finding that is not to be lost.
        "GRANT EXECUTE ON FUNCTION tenancy.create_tenant(text, text, text, text, jsonb) TO PUBLIC",
    )
    with db.connect(APP) as app:
        set_session(app, "acme")
        app.execute("INSERT INTO orders (item) VALUES ('a4')")
        app.execute("SELECT tenancy.track_usage('calls', 60), tenancy.record_metric('runs_total'), tenancy.report_health('mail', 'integration', 'degraded', 'slow')")
        app.execute("UPDATE orders SET amount = 2 WHERE item = 'a1'")


def isolation_holds(app):
    """What an application's role sees and may do in the database that `fill` has filled; leaves it in the context of acme."""
    with refused("TENANT_CONTEXT_MISSING"):
        items(app)
    set_session(app, "acme")
    assert items(app) == ["a1", "a2", "a3", "a4"]
    with refused("TENANT_ACCESS_DENIED"):
        app.execute("INSERT INTO orders (tenant_id, item) VALUES ('globex', 'x')")
    with refused("TENANT_ACCESS_DENIED"):
        app.execute("INSERT INTO currencies VALUES ('USD')")


@pytest.fixture(scope="module")
def both():
    """The database as it was, what was seen of it, and as it is on the new server."""
    server = server_of(server_tool("start", "15", OLD, "--preload"))
    try:
        server.create_roles()
        db = Database(server, "it_upgraded")
        fill(db)
        seen = {what: db.run(query) for what, query in SEEN.items()}
        upgraded = object.__new__(Database)
        upgraded.server, upgraded.name, upgraded.tenants = server_of(server_tool("upgrade", os.environ["TENANCY_PG_MAJOR"], NEW, OLD)), db.name, 0
        yield seen, upgraded
    finally:
        server_tool("stop", NEW)
        server_tool("stop", OLD)


@pytest.fixture
def seen(both):
    return both[0]


@pytest.fixture
def db(both):
    return both[1]


@pytest.mark.parametrize("what", list(SEEN))
def test_it_is_all_there(seen, db, what):
    assert seen[what]
    assert db.run(SEEN[what]) == seen[what]


def test_it_is_upgraded(db):
    assert db.run("SELECT current_setting('server_version_num')::int / 10000") == [(int(os.environ["TENANCY_PG_MAJOR"]),)]
    assert db.run("SELECT component FROM tenancy.extension_health() WHERE status = 'unhealthy'") == [("protection",)]
    db.run("REVOKE EXECUTE ON FUNCTION tenancy.create_tenant(text, text, text, text, jsonb) FROM PUBLIC")
    assert db.run("SELECT component FROM tenancy.extension_health() WHERE status = 'unhealthy'") == []


def test_isolation_holds(db):
    with db.connect(APP) as app:
        isolation_holds(app)
        with refused("QUOTA_EXCEEDED"):
            app.execute("INSERT INTO orders (item) VALUES ('a5'), ('a6')")
        set_session(app, "gone")
        with refused("TENANT_SUSPENDED"):
            items(app)
    proved = db.run(f"SELECT result, count(*) FROM tenancy.prove('{APP}') GROUP BY result")
    # Where nothing could be tested, nothing would have leaked.
    assert dict(proved).get("held", 0) > 20 and "leaked" not in dict(proved), proved


def test_it_goes_on(db):
    """What follows the old: the trail, usage, versions, schemas that are protected, operators that are trusted."""
    with db.connect(APP) as app:
        set_session(app, "acme")
        version = value(app, "SELECT tenancy.cache_version('order')")
        app.execute("UPDATE orders SET amount = 3 WHERE item = 'a1'")
        assert value(app, "SELECT tenancy.cache_version('order')") != version
    assert db.run("SELECT * FROM tenancy.verify_audit('acme')") == []
    assert db.run("SELECT * FROM tenancy.reconcile('orders')") == []
    db.run("ALTER SCHEMA later RENAME TO sooner")
    db.run("CREATE TABLE sooner.new (tenant_id text)", role=OWNER)
    assert db.run("SELECT relation::text FROM tenancy.protected_tables WHERE relation::text ~ 'sooner'") == [("sooner.new",)]
    with refused("PROTECTION_WEAKENED"):
        db.run("ALTER TABLE orders DISABLE ROW LEVEL SECURITY", role=OWNER)
    assert db.run("SELECT tenancy.distrust_operator('&&(circle,circle)')") == [(True,)]
    db.run("SELECT tenancy.unprotect_all()")
    db.run("DROP EXTENSION tenancy")
    assert db.run("SELECT count(*) FROM orders") == [(7,)]
