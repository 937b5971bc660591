"""A database of one tenant becomes one of many while its clients go on; what stops on the way goes on when it is called again."""

import random
import threading
import time

import psycopg
import pytest
from support import APP, DATA, GUEST, OWNER, column, eventually, refused, set_local, set_session, sqlstate, value

ROWS = 60_000
TENANTS = ("acme", "globex", "initech")
MAPPING = "(SELECT c.company FROM public.customer c WHERE c.id = d.customer)"


@pytest.fixture
def visits(db):
    """Visits of customers, each of whom is of a company, and no tenant anywhere."""
    db.run(
        "CREATE TABLE customer (id int PRIMARY KEY, company text NOT NULL)",
        f"INSERT INTO customer SELECT g, (ARRAY{list(TENANTS)})[g % 3 + 1] FROM generate_series(0, 99) AS g",
        "CREATE TABLE visit (id bigserial PRIMARY KEY, customer int NOT NULL REFERENCES customer, note text, changes int NOT NULL DEFAULT 0)",
        f"INSERT INTO visit (customer, note) SELECT g % 100, repeat('x', 100) FROM generate_series(1, {ROWS}) AS g",
        "ANALYZE visit",
        role=OWNER,
    )
    yield
    db.run("DROP TABLE IF EXISTS visit, customer CASCADE", role=OWNER)


class Clients:
    """Clients that insert, update, delete and read; what they know must be there in the end. `tenant` is what they set, if anything."""

    def __init__(self, db):
        self.db, self.wrong, self.longest, self.done = db, [], 0.0, 0
        self.inserted, self.deleted, self.changes = 0, 0, 0
        self.stopped, self.lock, self.threads = threading.Event(), threading.Lock(), []

    def start(self, role=GUEST, tenant=None):
        thread = threading.Thread(target=self.run, args=(role, tenant, len(self.threads)))
        self.threads.append(thread)
        thread.start()

    def run(self, role, tenant, number):
        chance = random.Random(number)
        with self.db.connect(role) as connection:
            mine = []
            while not self.stopped.is_set():
                begun = time.monotonic()
                try:
                    with connection.transaction():
                        if tenant:
                            set_local(connection, tenant)
                        customer = chance.randrange(100)
                        new = value(connection, "INSERT INTO visit (customer) VALUES (%s) RETURNING id", [customer])
                        at = chance.randrange(1, ROWS)
                        changed = connection.execute("UPDATE visit SET changes = changes + 1 WHERE id = %s", [at]).rowcount
                        gone = connection.execute("DELETE FROM visit WHERE id = %s", [mine.pop()]).rowcount if len(mine) > 20 else 0
                        value(connection, "SELECT count(*) FROM visit WHERE id BETWEEN %s AND %s", [at, at + 10])
                    mine.append(new)
                    with self.lock:
                        self.inserted += 1
                        self.changes += changed
                        self.deleted += gone
                        self.done += 1
                        self.longest = max(self.longest, time.monotonic() - begun)
                except psycopg.Error as error:
                    self.wrong.append(str(error))

    def stop(self):
        self.stopped.set()
        for thread in self.threads:
            thread.join(60)
        assert not self.wrong, self.wrong[:3]


def call(db, sql, *arguments):
    with db.connect("postgres") as dba:
        dba.execute(sql, arguments)


def stopped_at_random(db, sql, arguments, times, chance):
    """Runs a command, and ends its connection `times` times on the way."""
    for _ in range(times):
        with db.connect("postgres") as dba:
            pid = value(dba, "SELECT pg_backend_pid()")
            killer = threading.Timer(chance.uniform(0.02, 0.4), lambda pid=pid: db.run(f"SELECT pg_terminate_backend({pid})"))
            killer.start()
            try:
                dba.execute(sql, arguments)
            except psycopg.OperationalError:
                pass
            killer.join()


@pytest.mark.parametrize("mapping", [None, MAPPING], ids=["one tenant", "a mapping"])
def test_in_traffic(db, visits, mapping):
    """Four clients all the while, stopped three times on the way: nobody fails, nothing is lost, every row is of its tenant."""
    arguments = ["visit", None if mapping else "acme", mapping]
    sql = "CALL tenancy.migrate_table(%s, %s, %s, batch => 2000)"
    clients = Clients(db)
    try:
        for _ in range(4):
            clients.start()
        eventually(lambda: clients.done > 20)
        stopped_at_random(db, sql, arguments, 3, random.Random(1))
        call(db, sql, *arguments)
        if not column(db.connect("postgres"), "SELECT phase FROM tenancy.migration_progress WHERE phase = 'observe'"):
            # As it has said.
            db.run("CREATE INDEX CONCURRENTLY ON visit (tenant_id)", role=OWNER)
            call(db, sql, *arguments)
        before = clients.done
        eventually(lambda: clients.done > before + 20)
    finally:
        clients.stop()
    with db.connect("postgres") as dba:
        assert column(dba, "SELECT phase FROM tenancy.migration_progress") == ["observe"]
        count, changes, wrong = dba.execute(
            """SELECT count(*), sum(changes), count(*) FILTER (WHERE v.tenant_id IS DISTINCT FROM CASE WHEN %s THEN c.company ELSE 'acme' END)
               FROM visit v JOIN customer c ON c.id = v.customer""",
            [mapping is not None],
        ).fetchone()
        assert (count, changes, wrong) == (ROWS + clients.inserted - clients.deleted, clients.changes, 0)
        assert value(dba, "SELECT sum(accesses) FROM tenancy.migration_observations WHERE relation = 'public.visit' AND role = %s", [GUEST]) > 0
        assert value(dba, "SELECT attnotnull FROM pg_attribute WHERE attrelid = 'visit'::regclass AND attname = 'tenant_id'")
        # Clients that know of tenants go on while it is enforced.
        knowing = Clients(db)
        try:
            for tenant in TENANTS:
                knowing.start(APP, tenant)
            eventually(lambda: knowing.done > 20)
            dba.execute("CALL tenancy.finish_migration('visit')")
            before = knowing.done
            eventually(lambda: knowing.done > before + 20)
        finally:
            knowing.stop()
        assert value(dba, "SELECT drift = '{}' FROM tenancy.protected_tables WHERE relation = 'visit'::regclass")
        assert value(dba, "SELECT count(*) FROM visit WHERE tenant_id IS NULL") == 0
    with db.connect(APP) as app, refused("TENANT_CONTEXT_MISSING"):
        app.execute("SELECT count(*) FROM visit")
    # Nobody has waited for long: what needs a strong lock tries for a moment, and tries again.
    assert max(clients.longest, knowing.longest) < 5


def test_waits_for_no_lock(db, visits):
    """While somebody reads the table for long, the migration waits, and others do not wait behind it."""
    with db.connect(GUEST) as reader, db.connect(GUEST) as other:
        with reader.transaction():
            reader.execute("SELECT count(*) FROM visit")
            thread = threading.Thread(target=call, args=(db, "CALL tenancy.migrate_table('visit', 'acme')"))
            thread.start()
            try:
                time.sleep(1)
                longest = 0.0
                for _ in range(20):
                    begun = time.monotonic()
                    value(other, "SELECT count(*) FROM visit WHERE id = 1")
                    longest = max(longest, time.monotonic() - begun)
                    time.sleep(0.05)
                assert not column(other, "SELECT attname FROM pg_attribute WHERE attrelid = 'visit'::regclass AND attname = 'tenant_id'")
            finally:
                reader.execute("SELECT 1")
        thread.join(60)
    assert longest < 2
    assert column(db.connect("postgres"), "SELECT phase FROM tenancy.migration_progress") in (["observe"], ["index"])


def test_large_tables_ask_for_an_index(db, visits):
    """PostgreSQL makes none CONCURRENTLY inside a procedure, so it says which, and goes on when it is there."""
    db.run("ALTER TABLE visit ALTER note SET STORAGE PLAIN", "INSERT INTO visit (customer, note) SELECT 1, repeat('y', 2000) FROM generate_series(1, 9000)", role=OWNER)
    with db.connect("postgres") as dba:
        dba.execute("CALL tenancy.migrate_table('visit', 'acme')")
        phase, line = dba.execute("SELECT phase, to_do FROM tenancy.migration_progress").fetchone()
        assert (phase, line) == ("index", "CREATE INDEX CONCURRENTLY ON public.visit (tenant_id);")
        dba.execute(line)
        dba.execute("CALL tenancy.migrate_table('visit', 'acme')")
        assert column(dba, "SELECT phase FROM tenancy.migration_progress") == ["observe"]
        # The way back.
        dba.execute("CALL tenancy.undo_migration('visit')")
        assert not column(dba, "SELECT attname FROM pg_attribute WHERE attrelid = 'visit'::regclass AND attname = 'tenant_id'")


def test_mapping_runs_as_the_owner(db, visits):
    """What a mapping calls has the owner's rights, in the backfill and for whoever writes; and so has what it cannot read."""
    db.run(
        f"CREATE FUNCTION whose(customer int) RETURNS text LANGUAGE plpgsql AS $$ BEGIN IF current_user <> '{OWNER}' THEN RAISE 'as %', current_user; END IF; RETURN 'acme'; END $$",
        role=OWNER,
    )
    call(db, "CALL tenancy.migrate_table('visit', NULL, 'public.whose(d.customer)')")
    with db.connect(GUEST) as guest:
        assert value(guest, "INSERT INTO visit (customer) VALUES (1) RETURNING tenant_id") == "acme"
    call(db, "CALL tenancy.undo_migration('visit')")
    db.run("CREATE TABLE secret (tenant text)", "REVOKE ALL ON secret FROM PUBLIC")
    with sqlstate("42501"):
        call(db, "CALL tenancy.migrate_table('visit', NULL, '(SELECT s.tenant FROM public.secret s)')")
    db.run("DROP TABLE secret", "DROP FUNCTION whose CASCADE")


def test_observed_by_application(db, visits):
    """Who is counted, and who is not: superusers, checks of foreign keys, and who sets a tenant or has a token."""
    call(db, "CALL tenancy.migrate_to_multi_tenant('acme', '{visit,customer}')")
    with db.connect(GUEST, application_name="old batch job") as guest, db.connect(APP) as app, db.connect("postgres") as dba:
        guest.execute("INSERT INTO visit (customer) VALUES (1)")
        set_session(app, "globex")
        app.execute("UPDATE visit SET note = 'z' WHERE id < 10")
        dba.execute("SELECT count(*) FROM visit")
        observed = dba.execute("SELECT relation, role, application, accesses FROM tenancy.migration_observations").fetchall()
        # The check of the key reads `customer`, and is not the client's.
        assert observed == [("public.visit", GUEST, "old batch job", 1)]
        assert value(guest, "SELECT count(*) FROM customer") == 100
        assert value(dba, "SELECT count(*) FROM tenancy.migration_observations") == 2
        dba.execute("CALL tenancy.finish_migration()")
        assert sorted(column(dba, "SELECT phase FROM tenancy.migration_progress")) == ["done", "done"]
        with refused("TENANT_CONTEXT_MISSING"):
            guest.execute("SELECT count(*) FROM customer")


def test_observed_copy(db, visits):
    """COPY of a table reads and writes it without a query."""
    call(db, "CALL tenancy.migrate_to_multi_tenant('acme', '{visit,customer}')")
    for name, role, command in (
        ("unload", GUEST, "COPY visit TO STDOUT"),
        ("load", GUEST, "COPY visit (customer, note) FROM STDIN"),
        ("query", GUEST, "COPY (SELECT note FROM visit) TO STDOUT"),
        ("with a tenant", APP, "COPY visit TO STDOUT"),
        ("dump", GUEST, "COPY visit TO STDOUT"),
        ("superuser", "postgres", "COPY visit TO STDOUT"),
    ):
        with db.connect(role, application_name=name) as connection:
            if name == "with a tenant":
                set_session(connection, "globex")
            if name == "dump":
                connection.execute("SET row_security = off")
            with connection.cursor().copy(command) as copy:
                if name == "load":
                    copy.write_row((7, "loaded"))
                else:
                    assert sum(1 for _ in copy) >= ROWS
    # Whoever may not read the table has not had access.
    db.run("CREATE ROLE it_nobody LOGIN")
    with db.connect("it_nobody", application_name="refused") as connection, sqlstate("42501"), connection.cursor().copy("COPY visit TO STDOUT") as copy:
        list(copy)
    db.run("DROP ROLE it_nobody")
    with db.connect("postgres") as dba:
        observed = dba.execute("SELECT application, relation, accesses FROM tenancy.migration_observations ORDER BY 1").fetchall()
        # Whoever is subject to row-level security and asks for all rows would be refused as well.
        assert observed == [(name, "public.visit", 1) for name in ("dump", "load", "query", "unload")]
        dba.execute("CALL tenancy.finish_migration()")
    with db.connect(GUEST) as guest, refused("TENANT_CONTEXT_MISSING"), guest.cursor().copy("COPY visit TO STDOUT") as copy:
        list(copy)
