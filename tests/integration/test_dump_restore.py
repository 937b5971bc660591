"""pg_dump and pg_restore: protection survives, and a dump by an application's role holds its own rows only."""

import psycopg
import pytest
from support import APP, DATA, OWNER, Database, items, pg_program, refused, set_local, set_session, value

STATE = """SELECT relation::text, kind, tenant_column::text, row_security, forced, policies::text[], drift
           FROM tenancy.protected_tables ORDER BY 1"""

# What is used, and of which quota; the entries of the ledger are in two partitions, of which one is made while it runs.
USAGE = """SELECT tenant_id, resource, period, scope, used, reserved, "limit", (SELECT count(*) FROM tenancy.usage_records),
                  (SELECT count(*) FROM _tenancy.usage_settled), ARRAY(SELECT m::text FROM tenancy.meters m ORDER BY 1)
           FROM tenancy.quota_status ORDER BY 1, 2, 3"""

TENANTS = """SELECT id, name, subdomain, plan, status, status_reason, settings, created_at, status_changed_at
             FROM tenancy.tenants ORDER BY id"""


@pytest.fixture(scope="module")
def db(db):
    db.run(
        "CREATE TABLE currencies (code text PRIMARY KEY)",
        "INSERT INTO currencies VALUES ('EUR')",
        'CREATE TABLE "Price List" (tenant_id uuid, "Unit Price" numeric)',
        "CREATE TABLE trail (tenant_id text, what text) PARTITION BY LIST (what)",
        "CREATE TABLE trail_rest PARTITION OF trail DEFAULT",
        "CREATE TABLE plans (tenant_id text, plan text)",
        "CREATE SCHEMA other",
        "CREATE TABLE other.accounts (tenant_id bigint, name text)",
        f"GRANT TRUNCATE ON plans TO {DATA}",
        f"GRANT SELECT ON SEQUENCE orders_id_seq TO {DATA}",  # pg_dump reads where it stands
        "SELECT tenancy.protect('currencies', 'system')",
        "SELECT tenancy.protect('\"Price List\"')",
        "SELECT tenancy.protect('trail', 'audit')",
        "SELECT tenancy.protect('plans', 'shared')",
        role=OWNER,
    )
    db.run(
        "SELECT tenancy.create_tenant('77')",
        "SELECT tenancy.protect('other.accounts', reference => true)",  # a foreign key to the registry
        "INSERT INTO other.accounts VALUES (77, 'by number')",
        "SELECT tenancy.create_tenant('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'By UUID', 'uuid', 'gold', '{\"a\": 1}')",
        "SELECT tenancy.create_tenant('suspended')",
        "SELECT tenancy.suspend_tenant('suspended', 'invoice')",
        "INSERT INTO plans VALUES (NULL, 'for all'), ('acme', 'for acme')",
        """INSERT INTO "Price List" VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 9.99)""",
        "INSERT INTO trail VALUES ('acme', 'began')",
        "SELECT tenancy.create_usage_partitions(1)",
        "SELECT tenancy.meter('trail', 'trails'), tenancy.meter('plans', 'bytes', 'bytes')",
        "SELECT tenancy.set_default_quota('trails', 5, 'month'), tenancy.set_quota('acme', 'bytes', 1000)",
        "SELECT tenancy.set_quota('acme', 'trails', 6, '10 years')",
        "SELECT tenancy.settle_usage()",
        "INSERT INTO trail VALUES ('acme', 'went on')",
    )
    return db


def connection_options(db):
    return ["--host", db.server.host, "--port", db.server.port]


@pytest.fixture(scope="module")
def restored(db, tmp_path_factory):
    """A fresh database with what pg_dump -Fc and pg_restore made of the first."""
    file = str(tmp_path_factory.mktemp("dump") / "dump")
    pg_program("pg_dump", *connection_options(db), "-U", "postgres", "-Fc", "-f", file, db.name)
    copy = Database(db.server, "it_restored", extension=False)
    try:
        # The dump brings the default privileges along.
        pg_program("pg_restore", *connection_options(db), "-U", "postgres", "--exit-on-error", "-d", copy.name, file)
        yield copy
    finally:
        copy.drop()


def test_tenants_survive(db, restored):
    assert restored.run(TENANTS) == db.run(TENANTS)
    forms = "SELECT id, id_uuid, id_bigint FROM _tenancy.tenants ORDER BY id"
    assert restored.run(forms) == db.run(forms)


def test_protected_tables_survive_without_drift(db, restored):
    original, copy = db.run(STATE), restored.run(STATE)
    assert len(original) == 7
    assert copy == original
    assert [drift for *_, drift in copy] == [[]] * 7


def test_usage_and_quotas_survive(db, restored):
    # Of seven tenants for trails, of one of them over another period as well, and of one for bytes.
    assert len(db.run(USAGE)) == 9
    assert restored.run(USAGE) == db.run(USAGE)
    assert restored.run("SELECT * FROM tenancy.reconcile('trail')") == []
    assert restored.run("SELECT * FROM tenancy.reconcile('plans')") == []
    with restored.connect() as app:
        set_session(app, "acme")
        app.execute("INSERT INTO trail (what) VALUES ('again'), ('and again'), ('again'), ('at last')")
        with refused("QUOTA_EXCEEDED") as caught:
            app.execute("INSERT INTO trail (what) VALUES ('too much')")
        assert caught.detail["current"] == 5


def test_isolation_holds_after_the_restore(restored):
    with restored.connect() as app:
        with refused("TENANT_CONTEXT_MISSING"):
            items(app)
        for tenant, rows in (("acme", ["a1", "a2", "a3"]), ("globex", ["g1", "g2"])):
            with app.transaction():
                set_local(app, tenant)
                assert items(app) == rows
                with refused("TENANT_ACCESS_DENIED"), app.transaction():
                    app.execute("INSERT INTO orders (tenant_id, item) VALUES ('initech', 'x')")
                with refused("TENANT_ACCESS_DENIED"), app.transaction():
                    app.execute("INSERT INTO currencies VALUES ('USD')")
        set_session(app, "suspended")
        with refused("TENANT_SUSPENDED"):
            items(app)
        set_session(app, "acme")
        assert app.execute("SELECT plan FROM plans ORDER BY plan").fetchall() == [("for acme",), ("for all",)]
        with refused("TENANT_ACCESS_DENIED"):
            app.execute("DELETE FROM trail")
        set_session(app, "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11")
        assert value(app, 'SELECT count(*) FROM "Price List"') == 1


def test_suspension_reaches_a_restored_database(restored):
    with restored.connect() as app, restored.connect("postgres") as dba:
        set_session(app, "initech")
        assert items(app) == ["i1"]
        dba.execute("SELECT tenancy.suspend_tenant('initech')")
        with refused("TENANT_SUSPENDED"):
            items(app)
        dba.execute("SELECT tenancy.resume_tenant('initech')")


def test_protect_again_changes_nothing(restored):
    notices = []
    with restored.connect(OWNER) as owner:
        owner.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        owner.execute("SELECT tenancy.protect('orders')")
    assert len(notices) == 1 and "already protected as kind tenant" in notices[0]


def test_unprotect_puts_back_what_protect_changed(restored):
    shape = """
        SELECT c.relrowsecurity, c.relforcerowsecurity, a.attnotnull, a.atthasdef,
               (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid),
               (SELECT count(*) FROM pg_index i WHERE i.indrelid = c.oid),
               has_table_privilege('it_data', c.oid, 'TRUNCATE')
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
        WHERE c.oid = 'plans'::regclass"""
    assert restored.run(shape) == [(True, True, False, True, 5, 1, False)]
    restored.run("SELECT tenancy.unmeter('plans', 'bytes')")
    restored.run("SELECT tenancy.unprotect('plans')", role=OWNER)
    assert restored.run(shape) == [(False, False, False, False, 0, 0, True)]
    restored.run("SELECT tenancy.unmeter('trail', 'trails')")
    for table in ("orders", "currencies", "trail", '"Price List"'):
        restored.run(f"SELECT tenancy.unprotect('{table}')", role=OWNER)
    restored.run("SELECT tenancy.unprotect('other.accounts')")
    assert restored.run(STATE) == []
    with restored.connect() as app:
        assert len(items(app)) == 6  # unprotected: everybody's rows, for nobody's tenant


# How to dump, how to restore, and whether the target has the extension already.
WAYS = {
    "plain": (["-Fp"], ["psql", "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-f"], False),
    "parallel": (["-Fd", "-j2"], ["pg_restore", "--exit-on-error", "-j2"], False),
    "extension-is-there": (["-Fc"], ["pg_restore", "--exit-on-error"], True),
    "clean": (["-Fc"], ["pg_restore", "--exit-on-error", "--clean", "--if-exists"], True),
}


@pytest.mark.parametrize("way", WAYS)
def test_other_ways_to_dump_and_restore(db, tmp_path, way):
    dump, restore, extension = WAYS[way]
    if way == "clean" and 160000 <= int(db.run("SHOW server_version_num")[0][0]) < 160003:
        # Seen with 16.2 on a partitioned table of its own, in a database without this extension.
        pytest.xfail("pg_restore --clean of this PostgreSQL drops an attached index before the index it is attached to")
    file = str(tmp_path / "dump")
    options = [*connection_options(db), "-U", "postgres"]
    pg_program("pg_dump", *options, *dump, "-f", file, db.name)
    copy = Database(db.server, "it_restored_too", extension=extension)
    try:
        program, *arguments = restore
        for _ in range(2 if way == "clean" else 1):  # over an empty database, then over itself
            pg_program(program, *options, "-d", copy.name, *arguments, file)
        assert copy.run(STATE) == db.run(STATE)
        assert copy.run(TENANTS) == db.run(TENANTS)
        assert copy.run(USAGE) == db.run(USAGE)
        with copy.connect() as app:
            set_session(app, "globex")
            assert items(app) == ["g1", "g2"]
    finally:
        copy.drop()


def test_data_only_into_tables_that_are_protected(db, tmp_path):
    """The rows of some tables, into a database that has the tables, their protection and the tenants."""
    whole, rows = str(tmp_path / "whole"), str(tmp_path / "rows")
    options = [*connection_options(db), "-U", "postgres"]
    tables = ["--table=orders", '--table="Price List"', "--table=plans", "--table=other.accounts"]
    pg_program("pg_dump", *options, "-Fc", "-f", whole, db.name)
    pg_program("pg_dump", *options, "-Fc", "--data-only", *tables, "-f", rows, db.name)
    everything = """SELECT (SELECT array_agg(t::text ORDER BY t::text) FROM orders t), (SELECT array_agg(t::text) FROM "Price List" t),
                           (SELECT array_agg(t::text ORDER BY t::text) FROM plans t), (SELECT array_agg(t::text) FROM other.accounts t)"""
    copy = Database(db.server, "it_restored_rows", extension=False)
    try:
        pg_program("pg_restore", *options, "--exit-on-error", "-d", copy.name, whole)
        copy.run("DELETE FROM orders", 'DELETE FROM "Price List"', "DELETE FROM plans", "DELETE FROM other.accounts")
        assert copy.run(everything) == [(None, None, None, None)]
        pg_program("pg_restore", *options, "--exit-on-error", "-d", copy.name, rows)
        assert copy.run(everything) == db.run(everything)
        assert copy.run(STATE) == db.run(STATE)
        # What is loaded into a metered table is counted, as what was deleted from it was.
        assert copy.run(USAGE.replace("(SELECT count(*) FROM tenancy.usage_records)", "0")) == db.run(USAGE.replace("(SELECT count(*) FROM tenancy.usage_records)", "0"))
        with copy.connect() as app:
            set_session(app, "globex")
            assert items(app) == ["g1", "g2"]
    finally:
        copy.drop()


def test_dump_by_an_application_role(db):
    """--enable-row-security is what a tenant's own export uses; without it pg_dump refuses to be partial."""

    def dump(*options):
        return pg_program(
            "pg_dump", *connection_options(db), "-U", APP, "--data-only", "--table=orders", *options, check=False
        )

    def in_tenant(tenant):
        return ["-d", f"dbname={db.name} options='-c tenancy.tenant_id={tenant}'"]

    refusal = dump(*in_tenant("acme"))
    assert refusal.returncode != 0
    assert "row-level security" in refusal.stderr
    partial = dump("--enable-row-security", *in_tenant("acme"))
    assert partial.returncode == 0, partial.stderr
    # pg_dump brackets its script with \\restrict and a random key, in which anything can be found.
    script = "\n".join(line for line in partial.stdout.splitlines() if "restrict" not in line)
    assert all(item in script for item in ("a1", "a2", "a3"))
    assert not any(item in script for item in ("g1", "g2", "i1", "globex", "initech"))
    without = dump("--enable-row-security", "-d", f"dbname={db.name}")
    assert without.returncode != 0
    assert "no tenant is set" in without.stderr


def test_restore_of_a_tenants_own_rows(db):
    """What a tenant exported, its role puts back as INSERTs, into its own rows only."""
    dumped = pg_program(
        "pg_dump", *connection_options(db), "-U", APP, "--data-only", "--table=orders", "--enable-row-security",
        "--column-inserts", "-d", f"dbname={db.name} options='-c tenancy.tenant_id=globex'",
    ).stdout  # fmt: skip
    inserts = [line for line in dumped.splitlines() if line.startswith("INSERT INTO public.orders")]
    assert len(inserts) == 2
    with db.connect() as app:
        with app.transaction():
            set_local(app, "globex")
            app.execute("DELETE FROM orders")
            for insert in inserts:
                app.execute(insert)
            assert items(app) == ["g1", "g2"]
        with pytest.raises(psycopg.errors.InsufficientPrivilege), app.transaction():
            set_local(app, "acme")
            app.execute(inserts[0].replace("'g1'", "'other'"))
