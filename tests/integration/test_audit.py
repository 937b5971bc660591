"""The audit trail while many write, while sessions and servers are killed, and while its tables are looked after."""

import subprocess
import threading
import time
from collections import Counter

import psycopg
import pytest
from audit_support import NAME, Writer, assert_whole, db, problems, running, server, trail
from support import APP, DATA, MAJOR, Database, column, eventually, pg_program, refused, server_of, server_tool, set_local, set_session, sqlstate, value

__all__ = ["db", "server"]  # fixtures


def options(db):
    return ["--host", db.server.host, "--port", db.server.port, "-U", "postgres"]


def test_what_was_committed_is_on_record(db):
    writers = running(db, 16, 6)
    assert [writer.failure for writer in writers] == [None] * 16
    committed = sum((writer.committed for writer in writers), Counter())
    assert committed.total() > 300
    assert trail(db) == committed
    assert_whole(db)


def test_verifying_beside_writers_raises_no_alarm(db):
    """Neither what is in flight, nor what stays whatever becomes of its transaction."""
    stopping, failures = threading.Event(), []
    db.run("SELECT tenancy.set_quota(t, 'calls', 0) FROM unnest('{acme,globex}'::text[]) AS t")

    def refuse():
        while not stopping.is_set():
            with db.connect(APP) as app:  # begins a segment
                set_session(app, "acme")
                for _ in range(30):
                    try:
                        app.execute("SELECT tenancy.enforce_quota('calls')")
                    except psycopg.errors.ConfigurationLimitExceeded:
                        pass

    refusing = [threading.Thread(target=refuse) for _ in range(3)]
    writers = [Writer(db, seed) for seed in range(3)]
    for thread in refusing + writers:
        thread.start()
    try:
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            failures += problems(db, "acme", "globex")
    finally:
        stopping.set()
        for writer in writers:
            writer.stopping.set()
        for thread in refusing + writers:
            thread.join()
    assert failures == []
    assert_whole(db)


@pytest.mark.parametrize("what", ["backend", "server"])
def test_killed_in_the_middle(db, what):
    for round in range(2):
        writers = [Writer(db, seed + 100 * round, prepares=False) for seed in range(8)]
        for writer in writers:
            writer.start()
        time.sleep(1.5)
        if what == "server":
            server_tool("crash", NAME)
        else:
            ((pid,),) = db.run("SELECT pid FROM pg_stat_activity WHERE usename = 'it_app' LIMIT 1")
            subprocess.run(["kill", "-KILL", str(pid)], check=True)
        for writer in writers:
            writer.stopping.set()
        for writer in writers:
            writer.join()

        def is_up():
            try:
                return db.run("SELECT 1") == [(1,)]
            except psycopg.OperationalError:
                return False

        eventually(is_up)
        assert_whole(db)
    assert trail(db).total() > 100


def test_prepared_transactions_survive_a_restart(db):
    with db.connect(APP) as app:
        for name in ("one", "two"):
            app.execute("BEGIN")
            set_local(app, "acme")
            app.execute("INSERT INTO item (note) VALUES (%s)", [name])
            app.execute(f"PREPARE TRANSACTION '{name}'")
        # The session goes on elsewhere, whatever becomes of them.
        with app.transaction():
            set_local(app, "acme")
            app.execute("INSERT INTO item (note) VALUES ('three')")
    assert problems(db) == []
    server_tool("crash", NAME)
    db.run("COMMIT PREPARED 'one'")
    db.run("ROLLBACK PREPARED 'two'")
    assert_whole(db)
    assert trail(db).total() == 2


MAINTENANCE = [
    "VACUUM FULL _tenancy.audit_heads", "CLUSTER _tenancy.audit_heads USING audit_heads_tenant", "REINDEX TABLE _tenancy.audit_heads",
    "REINDEX TABLE CONCURRENTLY _tenancy.audit_heads", "VACUUM FULL _tenancy.audit_entries_default", "REINDEX TABLE _tenancy.audit_entries_default",
    "ANALYZE", "VACUUM", "SELECT tenancy.create_audit_partitions(1)", "SELECT tenancy.drop_audit(now())", "SELECT tenancy.audit('item')",
    "CREATE INDEX CONCURRENTLY audit_note ON item (note)", "ALTER TABLE item ADD COLUMN more text", "ALTER TABLE item DROP COLUMN more",
    "ALTER TABLE item ADD COLUMN more text DEFAULT 'm'",
]  # fmt: skip


def test_its_tables_are_looked_after_meanwhile(db):
    def meanwhile():
        for command in MAINTENANCE:
            for _ in range(20):
                try:
                    db.run(command)
                    break
                except (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable):
                    time.sleep(0.05)
            else:
                raise AssertionError(f"{command}: deadlocks only")
            time.sleep(0.1)

    writers = running(db, 6, 0.5, meanwhile, prepares=False)
    assert [writer.failure for writer in writers] == [None] * 6
    assert trail(db) == sum((writer.committed for writer in writers), Counter())
    assert_whole(db)


def test_dropping_and_writing_do_not_wait_for_each_other(db):
    """One that writes to the default partition, one that drops an old one, and one that comes to write meanwhile."""
    db.run("CREATE TABLE _tenancy.audit_entries_2020_01 (LIKE _tenancy.audit_entries_default)",
           "ALTER TABLE _tenancy.audit_entries ATTACH PARTITION _tenancy.audit_entries_2020_01 FOR VALUES FROM ('2020-01-01') TO ('2020-02-01')")  # fmt: skip
    failures = []

    def run(work):
        try:
            work()
        except psycopg.Error as error:
            failures.append(error)

    def waiting(count):
        eventually(lambda: db.run("SELECT count(DISTINCT pid) FROM pg_locks WHERE NOT granted") == [(count,)])

    with db.connect(APP) as first, db.connect(APP) as second:
        for app in (first, second):
            set_session(app, "acme")
        first.execute("BEGIN")
        first.execute("INSERT INTO item (note) VALUES ('first')")
        dropping = threading.Thread(target=run, args=[lambda: db.run("SELECT tenancy.drop_audit(now())")])
        dropping.start()
        waiting(1)
        writing = threading.Thread(target=run, args=[lambda: second.execute("INSERT INTO item (note) VALUES ('second')")])
        writing.start()
        waiting(2)
        first.execute("COMMIT")
        dropping.join()
        writing.join()
    assert failures == []
    assert db.run("SELECT to_regclass('_tenancy.audit_entries_2020_01')") == [(None,)]
    assert_whole(db)


def test_months(db):
    """Entries of old months, as a server whose clock was behind would have written them, are dropped; the rest can be verified."""
    fields = ("segment, number, tenant_id, recorded_at, operation, relation, key::text, old::text, new::text, detail::text, actor, role, session, "
              "transaction")  # fmt: skip
    with db.connect(APP) as app:
        set_session(app, "acme")
        app.execute("INSERT INTO item (note) SELECT 'x' FROM generate_series(1, 20)")
        with db.connect("postgres") as dba:
            # Half of a segment is of 2020, hashed anew from there on.
            dba.execute(f"""DO $do$
                DECLARE e _tenancy.audit_entries; h record; before bytea;
                BEGIN
                    SELECT s.* INTO h FROM _tenancy.audit_heads s WHERE s.tenant_id = 'acme' ORDER BY s.number DESC LIMIT 1;
                    before := _tenancy.audit_start('acme', h.segment, h.after_segment, h.after_number, h.after_hash);
                    FOR e IN SELECT * FROM _tenancy.audit_entries_default d WHERE d.segment = h.segment ORDER BY d.number LOOP
                        IF e.number <= 10 THEN e.recorded_at := '2020-01-15'; END IF;
                        SELECT _tenancy.audit_hash(before, {fields}) INTO before FROM (SELECT e.*) AS e;
                        UPDATE _tenancy.audit_entries_default d SET recorded_at = e.recorded_at, hash = before
                        WHERE d.segment = e.segment AND d.number = e.number;
                    END LOOP;
                    UPDATE _tenancy.audit_heads s SET hash = before WHERE s.segment = h.segment;
                END $do$""")
            assert problems(db) == []
            dba.execute("CREATE TABLE _tenancy.audit_entries_2020_01 (LIKE _tenancy.audit_entries_default)")
            dba.execute("""WITH moved AS (DELETE FROM _tenancy.audit_entries_default WHERE recorded_at < '2020-02-01' RETURNING *)
                           INSERT INTO _tenancy.audit_entries_2020_01 SELECT * FROM moved""")
            dba.execute("""ALTER TABLE _tenancy.audit_entries ATTACH PARTITION _tenancy.audit_entries_2020_01
                           FOR VALUES FROM ('2020-01-01') TO ('2020-02-01')""")
            assert problems(db) == []
            app.execute("UPDATE item SET n = n + 1 WHERE id = (SELECT min(id) FROM item)")
            assert problems(db) == []
            assert value(dba, "SELECT tenancy.drop_audit('2020-01-20')") == 0
            assert value(dba, "SELECT tenancy.drop_audit('2020-02-01')") == 1
            assert value(dba, "SELECT count(*) FROM _tenancy.audit_cuts") == 1
            assert problems(db) == []
            # What is left is as tight as before.
            dba.execute("BEGIN")
            dba.execute("DELETE FROM _tenancy.audit_entries_default WHERE number = 11 AND tenant_id = 'acme'")
            assert dba.execute("SELECT count(*) FROM tenancy.verify_audit('acme')").fetchone() != (0,)
            dba.execute("ROLLBACK")
            app.execute("UPDATE item SET n = n + 1 WHERE id = (SELECT min(id) FROM item)")
            assert problems(db) == []


WAYS = {
    "plain": (["-Fp"], ["psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]),
    "parallel": (["-Fd", "-j2"], ["pg_restore", "--exit-on-error", "-j2"]),
    "schema": (["-Fc", "--schema-only"], ["pg_restore", "--exit-on-error"]),
}


@pytest.mark.parametrize("way", WAYS)
def test_dump_and_restore(db, tmp_path, way):
    with db.connect(APP) as app:
        for round in range(2):
            set_session(app, "acme")
            app.execute("INSERT INTO item (note) VALUES ('x'), ('\u00e4 \u20ac')")
            with refused("TENANT_ACCESS_DENIED"):
                app.execute("INSERT INTO item (tenant_id) VALUES ('globex')")
            with refused("TENANT_NOT_FOUND"):
                app.execute("SET tenancy.tenant_id = 'nobody'")
                app.execute("SELECT * FROM item")
            if round == 0:
                db.run("SELECT tenancy.create_audit_partitions(1)")
    assert_whole(db)
    dump, (program, *arguments) = WAYS[way]
    file = str(tmp_path / "dump")
    pg_program("pg_dump", *options(db), *dump, "-f", file, db.name)
    copy = Database(db.server, "it_audit_copy", extension=False)
    try:
        pg_program(program, *options(db), "-d", copy.name, *arguments, file)
        entries = "SELECT tenant_id, segment, number, hash FROM _tenancy.audit_entries ORDER BY 2, 3"
        assert copy.run(entries) == (db.run(entries) if way != "schema" else [])
        assert problems(copy) == []
        triggers = "SELECT tgname FROM pg_trigger WHERE tgrelid = 'item'::regclass AND tgname ~ 'audit' AND tgenabled = 'A' ORDER BY 1"
        assert copy.run(triggers) == [("tenancy_audit",), ("tenancy_audit_truncate",)]
        if way != "schema":
            with copy.connect(APP) as app:
                set_session(app, "acme")
                app.execute("UPDATE item SET n = n + 1")
            assert_whole(copy)
            assert trail(copy).total() == trail(db).total() + 4
    finally:
        copy.drop()


def test_data_only_restores_are_on_record(db, tmp_path):
    """Into tables that are audited: what comes is a change like another."""
    with db.connect(APP) as app:
        set_session(app, "acme")
        app.execute("INSERT INTO item (note) VALUES ('x'), ('y')")
    file, other = str(tmp_path / "data"), str(tmp_path / "other")
    pg_program("pg_dump", *options(db), "--data-only", "--disable-triggers", "--table=item", "-f", file, db.name)
    pg_program("pg_dump", *options(db), "--data-only", "--table=item", "-f", other, db.name)
    db.run("DELETE FROM item")
    pg_program("psql", *options(db), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", db.name, "-f", other)
    assert trail(db).total() == 6
    assert_whole(db)
    # A superuser's, with the triggers disabled, as it asked for: it is told what was lost.
    db.run("DELETE FROM item")
    pg_program("psql", *options(db), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", db.name, "-f", file)
    assert problems(db) == []
    assert trail(db).total() == 8
    assert db.run("SELECT count(*) FROM item") == [(2,)]
    assert db.run("SELECT drift <> '{}' FROM tenancy.protected_tables WHERE relation = 'item'::regclass") == [(True,)]


def test_logical_replication(db):
    """What a subscription applies is on record where it arrives, as of its role."""
    other = Database(db.server, "it_audit_sub")
    try:
        other.run("CREATE TABLE item (id bigint PRIMARY KEY, tenant_id text, n integer NOT NULL DEFAULT 0, note text)",
                  "SELECT tenancy.create_tenant('acme'), tenancy.protect('item'), tenancy.audit('item')")  # fmt: skip
        db.run("CREATE PUBLICATION items FOR TABLE item", "SELECT pg_create_logical_replication_slot('it_audit_slot', 'pgoutput')")
        where = f"host={db.server.host} port={db.server.port} user=postgres dbname={db.name}"
        other.run(f"CREATE SUBSCRIPTION items CONNECTION '{where}' PUBLICATION items WITH (create_slot = false, slot_name = 'it_audit_slot', copy_data = false)")
        with db.connect(APP) as app:
            set_session(app, "acme")
            app.execute("INSERT INTO item (note) VALUES ('x'), ('y')")
            app.execute("UPDATE item SET n = n + 1")
            app.execute("DELETE FROM item WHERE note = 'x'")
        eventually(lambda: trail(other).total() == 5)
        assert_whole(other)
    finally:
        other.run("ALTER SUBSCRIPTION items DISABLE", "ALTER SUBSCRIPTION items SET (slot_name = NONE)", "DROP SUBSCRIPTION items")
        eventually(lambda: db.run("SELECT count(*) FROM pg_replication_slots WHERE active") == [(0,)])
        db.run("SELECT pg_drop_replication_slot('it_audit_slot')")
        other.drop()


def test_on_a_standby(db):
    with db.connect(APP) as app:
        set_session(app, "acme")
        app.execute("INSERT INTO item (note) VALUES ('x')")
    name = f"{NAME}-standby"
    standby = object.__new__(Database)
    standby.server, standby.name = server_of(server_tool("standby", str(MAJOR), name, NAME)), db.name
    try:
        ((position,),) = db.run("SELECT pg_current_wal_lsn()")
        eventually(lambda: standby.run(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") == [(True,)])
        with standby.connect(APP) as app:
            set_session(app, "nobody")
            with refused("TENANT_NOT_FOUND"):
                app.execute("SELECT * FROM item")
            set_session(app, "acme")
            assert value(app, "SELECT count(*) FROM tenancy.audit_log WHERE relation = 'public.item'") == 1
            assert len(column(app, "SELECT tenancy.export_audit()")) == 2
        assert problems(standby) == []
        # Promoted, it goes on.
        server_tool("promote", name)
        with standby.connect(APP) as app:
            set_session(app, "acme")
            app.execute("INSERT INTO item (note) VALUES ('y')")
            with refused("TENANT_NOT_FOUND"):
                app.execute("SET tenancy.tenant_id = 'nobody'")
                app.execute("SELECT * FROM item")
        assert_whole(standby)
    finally:
        server_tool("stop", name)


def test_parallel_workers_refuse_and_read(db):
    with db.connect("postgres") as dba:
        dba.execute("INSERT INTO item (tenant_id, note) SELECT 'acme', 'x' FROM generate_series(1, 3000)")
        dba.execute("ANALYZE item")
    with db.connect(APP, settings={"tenancy.tenant_id": "acme"}) as app:
        app.execute("SET debug_parallel_query = on" if value(app, "SELECT current_setting('server_version_num')::int") >= 160000 else "SET force_parallel_mode = on")
        for name, setting in (("parallel_setup_cost", "0"), ("parallel_tuple_cost", "0"), ("min_parallel_table_scan_size", "0")):
            app.execute(f"SET {name} = {setting}")
        assert value(app, "SELECT count(*) FROM item") == 3000
        assert value(app, "SELECT count(*) FROM tenancy.audit_log WHERE relation = 'public.item'") == 3000
        app.execute("UPDATE item SET n = n + 1")
        # Refused while a worker runs: the error counts, whoever writes it down.
        app.execute("SET tenancy.tenant_id = 'nobody'")
        with refused("TENANT_NOT_FOUND"):
            app.execute("SELECT count(*) FROM item")
    assert_whole(db)


def test_transactions_of_each_kind(db):
    with db.connect(APP) as app:
        set_session(app, "acme")
        for level in ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"):
            app.execute(f"BEGIN ISOLATION LEVEL {level}")
            app.execute("INSERT INTO item (note) VALUES ('x')")
            app.execute("UPDATE item SET n = n + 1")
            assert value(app, "SELECT count(*) FROM tenancy.audit_log WHERE relation = 'public.item'") > 0
            app.execute("COMMIT")
        app.execute("BEGIN READ ONLY")
        with sqlstate("25006"):
            app.execute("INSERT INTO item (note) VALUES ('x')")
        app.execute("ROLLBACK")
        app.execute("BEGIN READ ONLY")
        with refused("TENANT_ACCESS_DENIED"):
            app.execute("SELECT tenancy.seal()")
            app.execute("SET LOCAL tenancy.tenant_id = 'globex'")
        app.execute("ROLLBACK")
    assert_whole(db)
    refusals = "SELECT count(*) FROM tenancy.audit_log WHERE operation = 'REFUSED' AND tenant_id = 'acme'"
    assert db.run(refusals) == [(1,)]


def test_so_many_refusals_and_no_more(db):
    db.run("SELECT tenancy.set_quota('acme', 'calls', 0)")
    with db.connect(APP) as app:
        set_session(app, "acme")
        app.execute("""DO $$
            BEGIN
                FOR n IN 1..10000 LOOP
                    BEGIN
                        PERFORM tenancy.enforce_quota('calls');
                    EXCEPTION WHEN configuration_limit_exceeded THEN NULL;
                    END;
                END LOOP;
            END $$""")
    ((entries,),) = db.run("SELECT count(*) FROM tenancy.audit_log WHERE operation = 'REFUSED'")
    # A minute may end in the middle.
    assert 100 <= entries <= 200
    assert_whole(db)


def test_one_session_for_thousands_of_tenants(db):
    db.run("SELECT tenancy.create_tenant('t' || n) FROM generate_series(1, 5000) AS n")
    assert db.run("SELECT count(*) FROM tenancy.audit_heads WHERE tenant_id ~ '^t[0-9]'") == [(5000,)]
    with db.connect("postgres") as dba:
        dba.execute("INSERT INTO item (tenant_id) SELECT 't' || n FROM generate_series(1, 5000) AS n")
        memory = "SELECT sum(total_bytes) FROM pg_backend_memory_contexts"
        before = value(dba, memory)
        for _ in range(2):
            dba.execute("UPDATE item SET n = n + 1")
        assert value(dba, memory) - before < 20_000_000
    assert_whole(db)


def test_deferred_triggers_and_triggers_that_write(db):
    """A deferred trigger writes to an audited table as the transaction commits; a BEFORE trigger, and a cast to json that does."""
    db.run(
        "CREATE TABLE other (id bigserial PRIMARY KEY, tenant_id text, what text)",
        "SELECT tenancy.protect('other'), tenancy.audit('other')",
        f"GRANT SELECT, INSERT ON other TO {DATA}", f"GRANT USAGE ON SEQUENCE other_id_seq TO {DATA}",
        "CREATE FUNCTION also() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO other (what) VALUES (TG_NAME); RETURN NEW; END $$",
        "CREATE CONSTRAINT TRIGGER deferred AFTER INSERT ON item DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION also()",
        "CREATE TRIGGER before BEFORE INSERT ON item FOR EACH ROW EXECUTE FUNCTION also()",
        "CREATE TRIGGER after AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION also()",
        "CREATE TYPE odd AS ENUM ('five', 'six')",
        """CREATE FUNCTION odd_json(odd) RETURNS json LANGUAGE plpgsql AS $$
           BEGIN INSERT INTO other (what) VALUES ('cast'); RETURN to_json(5); END $$""",
        "CREATE CAST (odd AS json) WITH FUNCTION odd_json(odd)",
        "ALTER TABLE item ADD COLUMN o odd",
    )
    with db.connect(APP) as app:
        set_session(app, "acme")
        with app.transaction():
            app.execute("INSERT INTO item (note, o) VALUES ('x', 'five')")
            with pytest.raises(psycopg.errors.DivisionByZero), app.transaction():
                app.execute("INSERT INTO item (note, o) VALUES ('y', 'five')")
                app.execute("SELECT 1 / 0")
        with pytest.raises(psycopg.errors.RaiseException):
            app.execute("DO $$ BEGIN INSERT INTO item (note, o) VALUES ('z', 'six'); RAISE 'no'; END $$")
    whats = "SELECT new ->> 'what' FROM tenancy.audit_log WHERE relation = 'public.other' ORDER BY 1"
    assert [what for (what,) in db.run(whats)] == ["after", "before", "cast", "deferred"]
    assert db.run("SELECT new -> 'o' FROM tenancy.audit_log WHERE relation = 'public.item'") == [(5,)]
    assert_whole(db)


def test_a_cast_that_fails_fails_the_change(db):
    db.run("CREATE TYPE odd AS ENUM ('five', 'six')",
           "CREATE FUNCTION odd_json(odd) RETURNS json LANGUAGE plpgsql AS $$ BEGIN RAISE 'no json'; END $$",
           "CREATE CAST (odd AS json) WITH FUNCTION odd_json(odd)", "ALTER TABLE item ADD COLUMN o odd")  # fmt: skip
    with db.connect(APP) as app:
        set_session(app, "acme")
        app.execute("INSERT INTO item (note) VALUES ('x')")
        with pytest.raises(psycopg.errors.RaiseException):
            app.execute("INSERT INTO item (note, o) VALUES ('y', 'six')")
        app.execute("INSERT INTO item (note) VALUES ('z')")
    assert_whole(db)


@pytest.mark.parametrize("encoding", ["LATIN1", "EUC_JP", "SQL_ASCII"])
def test_encodings(server, encoding):
    x = "\u8868" if encoding == "EUC_JP" else "\u00e4"
    database = Database(server, "it_audit_enc", options=f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    client = {"client_encoding": "latin1"} if encoding == "SQL_ASCII" else {}
    try:
        database.run("SELECT tenancy.create_tenant('acme')", f"GRANT SET ON PARAMETER tenancy.user_id TO {APP}")
        with database.connect("postgres", **client) as dba:
            dba.execute(f'CREATE TABLE "t{x}" (id int PRIMARY KEY, tenant_id text, "c{x}" text, j json)')
            dba.execute(f"""SELECT tenancy.protect('"t{x}"'), tenancy.audit('"t{x}"', mask => '{{j}}')""")
            dba.execute(f'GRANT ALL ON "t{x}" TO {DATA}')
            with database.connect(APP, **client) as app:
                set_session(app, "acme")
                app.execute(f"SET tenancy.user_id = 'J{x}rg'")
                app.execute(f"""INSERT INTO "t{x}" VALUES (1, 'acme', '{x}{x}', '"{x}"')""")
                app.execute(f"""UPDATE "t{x}" SET "c{x}" = '{x}'""")
                row = app.execute("SELECT relation, new::text, actor FROM tenancy.audit_log WHERE operation = 'UPDATE'").fetchone()
                assert row == (f'public."t{x}"', f'{{"c{x}": "{x}"}}', f"J{x}rg")
        assert problems(database) == []
    finally:
        database.drop()


def test_drop_extension(db):
    with db.connect(APP) as app:
        set_session(app, "acme")
        app.execute("INSERT INTO item (note) VALUES ('x')")
        db.run("SELECT tenancy.create_audit_partitions(1)", "DROP EXTENSION tenancy CASCADE")
        app.execute("RESET tenancy.tenant_id")
        assert db.run("SELECT count(*) FROM pg_trigger WHERE tgname ~ '^tenancy_' AND NOT tgisinternal") == [(0,)]
        db.run("INSERT INTO item (tenant_id) VALUES ('acme')", "CREATE EXTENSION tenancy", "SELECT tenancy.create_tenant('acme')")
        assert problems(db) == []


def test_pages_are_sound(db):
    """After rows that stay when their transaction does not, and heads that are updated in their place."""
    if not db.run("SELECT FROM pg_available_extensions WHERE name = 'amcheck'"):
        pytest.skip("no amcheck here")
    db.run("CREATE EXTENSION amcheck", "SELECT tenancy.set_quota('acme', 'calls', 0)")
    running(db, 6, 2)
    with db.connect(APP) as app:
        set_session(app, "acme")
        for _ in range(50):
            with refused("QUOTA_EXCEEDED"):
                app.execute("SELECT tenancy.enforce_quota('calls')")
    db.run("VACUUM (FREEZE) _tenancy.audit_heads", "VACUUM (FREEZE) _tenancy.audit_entries_default")
    for table in ("audit_heads", "audit_entries_default", "audited", "audit_cuts"):
        assert db.run(f"SELECT * FROM verify_heapam('_tenancy.{table}')") == []
    db.run("SELECT bt_index_check('_tenancy.audit_heads_tenant', true), bt_index_check('_tenancy.audit_entries_default_tenant', true)")
