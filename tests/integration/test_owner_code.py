"""What owners of tables leave behind for whoever exports, deletes, imports or migrates: their code has their rights, and nothing is lost by it."""

import threading
import time

import psycopg
import pytest
from support import APP, OWNER, Database, eventually, refused, set_session, sqlstate, value

# Planning a query on the table calls the function, as whoever plans.
TRAP = [
    """CREATE FUNCTION trap_inner() RETURNS int LANGUAGE plpgsql AS $$
       BEGIN IF (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) THEN RAISE 'sprung as %', current_user; END IF; RETURN 1; END $$""",
    "CREATE FUNCTION trap(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN public.trap_inner(); END'",
    "CREATE STATISTICS trap ON (trap(1)), id FROM t",
]
HELPER = "it_helper"


@pytest.fixture
def base(server):
    database = Database(server, "it_owner_code")
    database.run(f"GRANT CREATE ON SCHEMA public TO {OWNER}", "SELECT tenancy.create_tenant(id) FROM unnest('{acme,globex}'::text[]) AS id")
    yield database
    database.drop()
    server.drop_roles(HELPER)


def make(base, protected=True, options=""):
    base.run("CREATE TABLE t (id bigserial PRIMARY KEY, tenant_id text, note text)", "INSERT INTO t (tenant_id) SELECT 'acme' FROM generate_series(1, 20)", role=OWNER)
    if protected:
        base.run(f"SELECT tenancy.protect('t'{options})", role=OWNER)


def test_the_trap_springs(base):
    # The control: by a superuser's own query.
    make(base)
    base.run(*TRAP, role=OWNER)
    with pytest.raises(psycopg.Error, match="sprung"):
        base.run("SELECT count(*) FROM t")


def test_export_and_delete(base):
    make(base)
    base.run(*TRAP, role=OWNER)
    with base.connect("postgres") as dba:
        dba.execute("CREATE TEMPORARY TABLE lines AS SELECT tenancy.export_tenant('acme') AS line")
        dba.execute("SELECT tenancy.archive_tenant('acme')")
        assert value(dba, "SELECT tenancy.delete_tenant('acme')") == 20
        assert value(dba, "SELECT tenancy.import_tenant('lines')") == 20
        dba.execute("CALL tenancy.delete_tenant_in_batches('acme', 7)")


@pytest.mark.parametrize("mapping", [None, "public.who(d.note)"], ids=["one tenant", "a mapping"])
def test_migrate(base, mapping):
    base.run("CREATE TABLE t (id bigserial PRIMARY KEY, note text)", "INSERT INTO t SELECT FROM generate_series(1, 20)", role=OWNER)
    base.run("CREATE FUNCTION who(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM public.trap_inner(); RETURN 'acme'; END $$", *TRAP, role=OWNER)
    with base.connect("postgres") as dba:
        dba.execute("CALL tenancy.migrate_table('t', %s, %s)", [None if mapping else "acme", mapping])
        if mapping:
            # Whoever could call it would have it run for a trigger of a table of his own.
            assert dba.execute("SELECT has_function_privilege(%s, oid, 'EXECUTE') FROM pg_proc WHERE proname ~ '^tenancy_map'", [APP]).fetchall() == [(False,)]
        dba.execute("CALL tenancy.finish_migration()")
        dba.execute("CALL tenancy.undo_migration('t')")


def test_a_column_that_becomes_another(base):
    make(base, protected=False)
    base.run("CALL tenancy.migrate_table('t', 'acme')")
    base.run(
        "CREATE TYPE which AS ENUM ('acme')",
        "CREATE FUNCTION cast_it(which) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'sprung as %', current_user; END $$",
        "CREATE CAST (which AS text) WITH FUNCTION cast_it(which)",
        "ALTER TABLE t ALTER tenant_id DROP DEFAULT, ALTER tenant_id TYPE which USING 'acme'",
        role=OWNER,
    )
    with refused("TENANT_COLUMN_NOT_SUPPORTED"):
        base.run("CALL tenancy.finish_migration()")


def test_deferred_triggers_of_the_caller(base):
    """They run with its rights, and not with those of the function that checks what was deferred."""
    make(base)
    base.run(f"CREATE ROLE {HELPER} LOGIN", f"GRANT CREATE ON SCHEMA public TO {HELPER}", f"GRANT EXECUTE ON FUNCTION tenancy.delete_tenant TO {HELPER}")
    base.run(
        "CREATE TABLE mine (x int)",
        "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'sprung as %', current_user; END $$",
        "CREATE CONSTRAINT TRIGGER tell AFTER INSERT ON mine DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION tell()",
        role=HELPER,
    )
    with base.connect(HELPER) as helper:
        helper.execute("BEGIN")
        helper.execute("INSERT INTO mine VALUES (1)")
        with pytest.raises(psycopg.Error, match=f"sprung as {HELPER}"):
            helper.execute("SELECT tenancy.delete_tenant('acme')")
        helper.execute("ROLLBACK")
        # Under the guard as well, which asks who the client is.
        base.run(f"ALTER ROLE {HELPER} SET tenancy.bypass_guard = 'refuse'")
    with base.connect(HELPER) as helper:
        assert value(helper, "SELECT tenancy.delete_tenant('acme')") == 20


def test_rows_that_triggers_make(base):
    """In a table that was done before: they go too. Where they come back for ever, that is an error."""
    make(base)
    base.run(
        "CREATE TABLE a_history (tenant_id text, note text)",
        "SELECT tenancy.protect('a_history')",
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.a_history VALUES (old.tenant_id, 'gone'); RETURN old; END $$",
        "CREATE TRIGGER keep AFTER DELETE ON t FOR EACH ROW EXECUTE FUNCTION keep()",
        role=OWNER,
    )
    with base.connect("postgres") as dba:
        dba.execute("BEGIN")
        assert value(dba, "SELECT tenancy.delete_tenant('acme')") == 40
        assert value(dba, "SELECT count(*) FROM a_history") == 0
        dba.execute("ROLLBACK")
        dba.execute("CALL tenancy.delete_tenant_in_batches('acme', 15)")
        assert value(dba, "SELECT count(*) FROM a_history") == 0
        dba.execute("INSERT INTO t (tenant_id) VALUES ('globex')")
    base.run(
        "CREATE FUNCTION bring_back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.t (tenant_id) VALUES (old.tenant_id); RETURN old; END $$",
        "CREATE TRIGGER bring_back AFTER DELETE ON a_history FOR EACH ROW EXECUTE FUNCTION bring_back()",
        role=OWNER,
    )
    with refused("ROWS_REMAIN"):
        base.run("SELECT tenancy.delete_tenant('globex')")


def test_audit_tables_that_others_refer_to(base):
    base.run(
        "CREATE TABLE journal (tenant_id text, id int, PRIMARY KEY (tenant_id, id))",
        "CREATE TABLE line (tenant_id text, journal int, FOREIGN KEY (tenant_id, journal) REFERENCES journal)",
        "INSERT INTO journal VALUES ('acme', 1), ('globex', 1)",
        "INSERT INTO line VALUES ('acme', 1), ('globex', 1)",
        "SELECT tenancy.protect('journal', 'audit'), tenancy.protect('line', 'audit')",
        role=OWNER,
    )
    assert base.run("SELECT tenancy.delete_tenant('acme')") == [(2,)]
    assert base.run("SELECT count(*) FROM journal") == [(1,)]


def test_no_wait_for_each_other(base):
    """A writer's foreign key to the registry and who deletes the tenant: neither waits for the other for ever."""
    base.run(f"GRANT REFERENCES ON _tenancy.tenants TO {OWNER}")
    make(base, options=", reference => true")
    base.run(f"GRANT INSERT ON t TO {APP}", f"GRANT USAGE ON SEQUENCE t_id_seq TO {APP}")
    with base.connect(APP) as app:
        set_session(app, "acme")
        writer = threading.Thread(target=lambda: app.execute("INSERT INTO t (note) SELECT CASE g WHEN 2 THEN pg_sleep(3)::text END FROM generate_series(1, 2) AS g"))
        writer.start()
        eventually(lambda: base.run("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == [(1,)])
        begun = time.monotonic()
        base.run("SELECT tenancy.archive_tenant('acme')")
        assert base.run("SELECT tenancy.delete_tenant('acme')") == [(22,)]
        writer.join(60)
    assert time.monotonic() - begun < 30


def test_health_by_code_that_others_run(base):
    """ANALYZE of an administrator's calls the function of an index of anybody's, as its owner; it sees no tenant's health."""
    base.run("SELECT tenancy.report_health('queue', 'degraded', 'secret')")
    base.run(
        "CREATE TABLE loot (reason text)",
        """CREATE FUNCTION look() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.loot SELECT coalesce(reason, 'nothing') FROM tenancy.health_checks('globex'); RETURN 1;
           EXCEPTION WHEN OTHERS THEN INSERT INTO public.loot VALUES ('refused: ' || sqlerrm); RETURN 0; END $$""",
        "CREATE FUNCTION looks(int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN public.look(); END'",
        "CREATE TABLE bait (x int)",
        "CREATE INDEX ON bait (looks(x))",
        "INSERT INTO bait SELECT generate_series(1, 3)",
        "TRUNCATE loot",
        role=OWNER,
    )
    base.run("ANALYZE bait")
    found = {reason for (reason,) in base.run("SELECT reason FROM loot")}
    assert found and all(reason.startswith("refused: ") for reason in found), found


def test_a_mapping_that_is_mended(base):
    base.run(
        "CREATE TABLE customer (id int PRIMARY KEY, company text)",
        "INSERT INTO customer VALUES (1, 'acme'), (2, NULL)",
        "CREATE TABLE visit (id serial PRIMARY KEY, customer int)",
        "CREATE TABLE old_visit () INHERITS (visit)",
        "INSERT INTO visit (customer) VALUES (1), (2)",
        role=OWNER,
    )
    call = "CALL tenancy.migrate_table('visit', NULL, '(SELECT c.company FROM public.customer c WHERE c.id = d.customer)')"
    with refused("ROWS_WITHOUT_TENANT"):
        base.run(call)
    base.run("UPDATE customer SET company = 'globex' WHERE id = 2")
    base.run(call)
    assert base.run("SELECT id, tenant_id FROM visit ORDER BY 1") == [(1, "acme"), (2, "globex")]
    # A child that inherits has its rows given theirs as well.
    assert base.run("INSERT INTO old_visit (customer) VALUES (2) RETURNING tenant_id", role=OWNER) == [("globex",)]
    # A mapping that reads what is protected already would fail whoever writes without a tenant.
    base.run("CALL tenancy.undo_migration('visit')")
    base.run("CALL tenancy.migrate_table('customer', 'acme', observe => false)")
    with refused("TENANT_CONTEXT_MISSING"):
        base.run(call)


def test_the_way_back_of_a_column_that_was_there(base):
    make(base, protected=False)
    base.run("ALTER TABLE t ALTER tenant_id SET DEFAULT 'mine'", "INSERT INTO t (tenant_id) VALUES (NULL)", role=OWNER)
    before = "SELECT attnotnull, pg_get_expr(adbin, adrelid) FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum WHERE attrelid = 't'::regclass AND attname = 'tenant_id'"
    was = base.run(before)
    base.run("CALL tenancy.migrate_table('t', 'acme', observe => false)")
    assert base.run("SELECT count(*) FROM t WHERE tenant_id = 'acme'") == [(21,)]
    base.run("CALL tenancy.undo_migration('t')")
    assert base.run(before) == was == [(False, "'mine'::text")]
    assert base.run("SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = 't'::regclass") == [("t_pkey",)]


def test_a_foreign_key_of_the_column(base):
    base.run("CREATE TABLE company (id text PRIMARY KEY)", "CREATE TABLE t (id int, tenant_id text REFERENCES company)", "INSERT INTO t VALUES (1, NULL)", role=OWNER)
    with sqlstate("23503"):
        base.run("CALL tenancy.migrate_table('t', 'acme')")
    base.run("INSERT INTO company VALUES ('acme')")
    base.run("CALL tenancy.migrate_table('t', 'acme')")
    assert base.run("SELECT tenant_id FROM t") == [("acme",)]
