"""A tenant leaves: saved by psql, loaded into another database, compared row by row, and deleted while others work."""

import os
import subprocess
import threading

import psycopg
import pytest
from support import APP, DATA, OWNER, Database, column, eventually, refused, set_local, set_session, value

TABLES, ROWS = 10, 2000
SCHEMA = [
    """CREATE TABLE t0 (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id text NOT NULL, body text, at timestamptz DEFAULT now(), more jsonb, UNIQUE (tenant_id, id))""",
    *(
        f"""CREATE TABLE t{n} (id bigserial PRIMARY KEY, tenant_id text NOT NULL, parent bigint, amount numeric, UNIQUE (tenant_id, id),
            FOREIGN KEY (tenant_id, parent) REFERENCES t{n - 1} (tenant_id, id))"""
        for n in range(1, TABLES)
    ),
    *(f"SELECT tenancy.protect('t{n}', create_index => false)" for n in range(TABLES)),
]


@pytest.fixture
def source(server):
    database = Database(server, "it_export_from")
    database.run("SELECT tenancy.create_tenant(id) FROM unnest('{acme,globex}'::text[]) AS id")
    database.run(*SCHEMA, role=OWNER)
    for tenant in ("acme", "globex"):
        database.run(
            rf"INSERT INTO t0 (tenant_id, body, more) SELECT '{tenant}', E'line\n\t\\.' || g || chr(8364), jsonb_build_object('g', g) FROM generate_series(1, {ROWS}) AS g",
            *(f"INSERT INTO t{n} (tenant_id, parent, amount) SELECT tenant_id, id, id / 3.0 FROM t{n - 1} WHERE tenant_id = '{tenant}'" for n in range(1, TABLES)),
        )
    yield database
    database.drop()


@pytest.fixture
def target(server):
    """Another database with the same tables, whose own tenant has rows under other keys."""
    database = Database(server, "it_export_to")
    database.run("SELECT tenancy.create_tenant('umbrella')")
    database.run(*SCHEMA, role=OWNER)
    yield database
    database.drop()


def psql(database, *arguments, **options):
    command = [os.path.join(os.environ["TENANCY_PG_BIN"], "psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", database.server.host, "-p", str(database.server.port), "-U", "postgres", "-d", database.name, *arguments]
    return subprocess.run(command, check=True, text=True, encoding="utf-8", timeout=120, **options)


def rows_of(database, table, tenant):
    return database.run(f"SELECT x::text FROM {table} x WHERE tenant_id = '{tenant}' ORDER BY id")


LOAD = """
    CREATE TEMPORARY TABLE lines (line text);
    \\copy lines FROM '{file}' WITH (FORMAT csv, QUOTE E'\\x01', DELIMITER E'\\x02')
    SELECT tenancy.import_tenant('lines');
"""


def test_to_another_database(source, target, tmp_path):
    """As the documentation says: psql saves it, psql loads it."""
    file = tmp_path / "acme.jsonl"
    with open(file, "w", encoding="utf-8") as out:
        psql(source, "-v", "FETCH_COUNT=1000", "-c", "SELECT tenancy.export_tenant('acme')", stdout=out)
    assert "globex" not in file.read_text(encoding="utf-8")
    loaded = psql(target, input=LOAD.format(file=file), stdout=subprocess.PIPE)
    assert int(loaded.stdout) == TABLES * ROWS
    for n in range(TABLES):
        assert rows_of(source, f"t{n}", "acme") == rows_of(target, f"t{n}", "acme") != []
    # Its next row has the next number.
    with target.connect(APP) as app:
        set_session(app, "acme")
        assert value(app, "INSERT INTO t0 (body) VALUES ('new') RETURNING id") == ROWS + 1
        assert value(app, "INSERT INTO t5 (parent) SELECT min(id) FROM t4 RETURNING id") == ROWS + 1
    # Keys that others have are an error, and nothing of it stays.
    target.run("SELECT tenancy.delete_tenant('acme')", "INSERT INTO t3 (id, tenant_id) VALUES (17, 'umbrella')")
    with pytest.raises(subprocess.CalledProcessError):
        psql(target, input=LOAD.format(file=file), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert target.run("SELECT count(*) FROM t0") == [(0,)]
    assert target.run("SELECT id FROM tenancy.tenants") == [("umbrella",)]


def test_one_snapshot(source):
    """What others commit between one of its tables and the next is in none of them."""
    lines = []
    with source.connect("postgres") as dba, source.connect("postgres") as writer:
        writer.execute("BEGIN")
        writer.execute("LOCK TABLE t1")
        reader = threading.Thread(target=lambda: lines.extend(column(dba, "SELECT tenancy.export_tenant('acme')")))
        reader.start()
        eventually(lambda: source.run("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 't1'::regclass") == [(1,)])
        writer.execute("INSERT INTO t0 (tenant_id, body) VALUES ('acme', 'too late')")
        writer.execute("INSERT INTO t1 (tenant_id, amount) VALUES ('acme', 777777)")
        writer.execute("DELETE FROM t9 WHERE tenant_id = 'acme'")
        writer.execute("COMMIT")
        reader.join(60)
    assert lines[-1] == f'{{"end" : {TABLES * ROWS}}}'
    assert not any("too late" in line or "777777" in line for line in lines)


def test_deleted_while_others_work(source):
    """In batches, ended twice on the way, while another tenant reads and writes all the same tables."""
    wrong, done, stopped = [], [0], threading.Event()

    def work():
        with source.connect(APP) as app:
            while not stopped.is_set():
                try:
                    with app.transaction():
                        set_local(app, "globex")
                        app.execute("INSERT INTO t1 (parent) SELECT min(id) FROM t0")
                        app.execute("UPDATE t1 SET amount = 1 WHERE id = (SELECT max(id) FROM t1)")
                        app.execute("DELETE FROM t1 WHERE id = (SELECT max(id) FROM t1)")
                    done[0] += 1
                except psycopg.Error as error:
                    wrong.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for after in (1, 7):
            with source.connect("postgres") as dba:
                batches = [0]

                def count(notice, batches=batches, dba=dba, after=after):
                    batches[0] += 1
                    if batches[0] == after:
                        dba.cancel()

                dba.add_notice_handler(count)
                with pytest.raises(psycopg.errors.QueryCanceled):
                    dba.execute("CALL tenancy.delete_tenant_in_batches('acme', 500)")
        with source.connect(APP) as app, refused("TENANT_SUSPENDED"):
            set_session(app, "acme")
            app.execute("SELECT count(*) FROM t0")
        source.run("CALL tenancy.delete_tenant_in_batches('acme', 3000)")
        before = done[0]
        eventually(lambda: done[0] > before + 5)
    finally:
        stopped.set()
        for thread in threads:
            thread.join(60)
    assert not wrong, wrong[:3]
    for n in range(TABLES):
        assert source.run(f"SELECT count(*) FILTER (WHERE tenant_id = 'acme'), count(*) FROM t{n}") == [(0, ROWS)]
    assert source.run("SELECT id FROM tenancy.tenants") == [("globex",)]
    # With what was deleted before it was ended.
    assert source.run("SELECT detail ->> 'tenant_id', (detail ->> 'rows')::int FROM tenancy.audit_log WHERE operation = 'DELETE_TENANT'") == [("acme", TABLES * ROWS)]


def test_waits_for_writers_that_came_before(source):
    """A transaction of the tenant that has written and not committed yet: its rows are deleted as well."""
    with source.connect(APP) as app, source.connect("postgres") as dba:
        app.execute("BEGIN")
        set_local(app, "acme")
        app.execute("INSERT INTO t0 (body) VALUES ('in time')")
        dba.execute("SELECT tenancy.archive_tenant('acme')")
        deleted = []
        thread = threading.Thread(target=lambda: deleted.append(value(dba, "SELECT tenancy.delete_tenant('acme')")))
        thread.start()
        eventually(lambda: source.run("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == [(1,)])
        # Another tenant's writers do not wait behind it.
        with source.connect(APP) as other:
            set_session(other, "globex")
            other.execute("INSERT INTO t0 (body) VALUES ('free')")
        app.execute("COMMIT")
        thread.join(60)
    assert deleted == [TABLES * ROWS + 1]
    assert source.run("SELECT count(*) FROM t0 WHERE tenant_id = 'acme'") == [(0,)]


def test_of_an_active_tenant(source):
    """It is there for others until the deletion is committed: who writes waits, and is refused then."""
    with source.connect(APP) as app, source.connect("postgres") as dba:
        set_session(app, "acme")
        app.execute("SELECT count(*) FROM t0")
        dba.execute("BEGIN")
        assert value(dba, "SELECT tenancy.delete_tenant('acme')") == TABLES * ROWS
        errors = []

        def insert():
            try:
                app.execute("INSERT INTO t0 (body) VALUES ('too late')")
            except psycopg.Error as error:
                errors.append(error.sqlstate)

        thread = threading.Thread(target=insert)
        thread.start()
        eventually(lambda: source.run("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'") == [(1,)])
        dba.execute("COMMIT")
        thread.join(60)
    assert errors == ["42704"]
    assert source.run("SELECT count(*) FROM t0 WHERE tenant_id = 'acme'") == [(0,)]
