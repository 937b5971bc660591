"""The server's log, and all that a client is told: nothing of another tenant, whatever a tenant provokes.

Another's ids, names and values are words that occur nowhere else. They go to the server as parameters only, because the text
of a statement, which PostgreSQL may log or quote, is the client's own.
"""

import os
from functools import cache

import psycopg
import pytest
from support import APP, DATA, MAJOR, OWNER, SQLSTATE, Database, detail_of, server_of, server_tool, set_session, value

NAME = f"it-log-{os.getpid()}"
OURS, THEIRS = "kestrel", "Wombat"
# All of theirs, in lower case: `wombat` is in the id and in each text, the others have no words in them.
CANARIES = ["wombat", "908172635", "2087-06-05"]
NUMBER, DAY = 908172635, "2087-06-05"
FIELDS = [name for name in dir(psycopg.errors.Diagnostic) if not name.startswith("_") and not name.startswith("source")]
TABLES = """
    CREATE TABLE item (id bigint PRIMARY KEY, tenant_id text, body text NOT NULL, email text UNIQUE,
                       amount bigint CHECK (amount > 0), day date, span int8range, EXCLUDE USING gist (span WITH &&), CHECK (body <> email));
    CREATE TABLE part_of (tenant_id text, item bigint CONSTRAINT part_of_item REFERENCES item, note text);
    CREATE TABLE late (tenant_id text, item bigint REFERENCES item DEFERRABLE INITIALLY DEFERRED);
    CREATE TABLE note (tenant_id text, body text) PARTITION BY LIST (body);
    CREATE TABLE note_some PARTITION OF note FOR VALUES IN ('a', 'b');
    CREATE TABLE trail (tenant_id text, body text);
    CREATE TABLE price (tenant_id text, body text UNIQUE);
    CREATE TABLE currency (code text);
    CREATE TABLE by_uuid (tenant_id uuid);
    CREATE TABLE job (id bigserial, tenant_id text, size integer);
    CREATE TABLE plain (tenant_id text, body text);
    SELECT tenancy.protect('item'), tenancy.protect('part_of', foreign_keys => 'keep'),
           tenancy.protect('late', foreign_keys => 'keep'), tenancy.protect('note'), tenancy.protect('trail', 'audit'),
           tenancy.protect('price', 'shared'), tenancy.protect('currency', 'system'), tenancy.protect('by_uuid'),
           tenancy.protect('job')"""
# What reaches all rows with the rights of a superuser, as an application's own mistakes do; and what an attacker makes himself.
READERS = """
    CREATE VIEW everything AS TABLE item;
    GRANT SELECT ON everything TO it_data;
    CREATE FUNCTION work_for_others(amount integer) RETURNS void LANGUAGE sql SECURITY DEFINER AS
        $$INSERT INTO job (tenant_id, size) SELECT id, 1 FROM tenancy.tenants, generate_series(1, amount) WHERE plan = 'other'$$;
    CREATE FUNCTION leak(value anyelement) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
        $$BEGIN RAISE NOTICE 'saw %', value; RAISE LOG 'saw %', value; RETURN true; END$$;
    CREATE FUNCTION leak_and_fail(value anyelement) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS
        $$BEGIN RAISE EXCEPTION 'saw %', value; END$$"""


@pytest.fixture(scope="module", params=["--preload", "--no-preload"])
def server(request):
    """A server of its own, whose log is ours alone and says more than usual, though no text of statements."""
    options = ["log_min_messages=debug1", "log_min_error_statement=panic", "log_error_verbosity=verbose"]
    # With prepared transactions, soft limits do not notify.
    options += ["max_prepared_transactions=0", "autovacuum=off", "log_lock_waits=on", "deadlock_timeout=100ms"]
    server = server_of(server_tool("start", str(MAJOR), NAME, request.param, *options))
    try:
        server.create_roles()
        yield server
    finally:
        log_file.cache_clear()
        server_tool("stop", NAME)


@pytest.fixture(scope="module")
def db(server):
    database = Database(server, "it_log_lines")
    database.run(
        f"ALTER DATABASE {database.name} SET session_preload_libraries = 'tenancy'",
        f"GRANT SET ON PARAMETER tenancy.tenant_id TO {OWNER}",
        f"SELECT tenancy.create_tenant('{OURS}'), tenancy.create_tenant('{OURS}-out'), tenancy.create_tenant('{OURS}-old')",
        f"SELECT tenancy.suspend_tenant('{OURS}-out', 'unpaid'), tenancy.archive_tenant('{OURS}-old')",
    )
    database.run(TABLES, role=OWNER)
    database.run(READERS, "SELECT tenancy.meter('job', 'jobs'), tenancy.set_default_quota('jobs', 6, soft_limit => 2)")
    with database.connect("postgres") as dba:
        dba.execute(
            """SELECT tenancy.create_tenant(%s, %s, lower(%s), 'other', jsonb_build_object('key', %s::text)),
                      tenancy.create_tenant(%s || '-out', plan => 'out'),
                      tenancy.suspend_tenant(%s || '-out', %s || ' owes')""",
            [THEIRS] * 7,
        )
        for tenant, number, day, span in ((OURS, 1, "2020-01-01", 10), (THEIRS, NUMBER, DAY, NUMBER)):
            row = {"tenant": tenant, "n": number, "day": day, "span": span}
            dba.execute(
                """INSERT INTO item VALUES (%(n)s, %(tenant)s, %(tenant)s || ' body', lower(%(tenant)s) || '@example.com',
                                            %(n)s, %(day)s, int8range(%(span)s - 2, %(span)s + 2))""",
                row,
            )
            for table, columns in (("trail", "tenant_id, body"), ("price", "tenant_id, body"), ("plain", "tenant_id, body")):
                dba.execute(f"INSERT INTO {table} ({columns}) VALUES (%(tenant)s, %(tenant)s || ' row')", row)
            dba.execute("INSERT INTO part_of VALUES (%(tenant)s, %(n)s, %(tenant)s)", row)
            dba.execute("INSERT INTO note VALUES (%(tenant)s, 'a')", row)
        # Theirs refers to a row of ours, which a key that was kept allows; and theirs is one below its soft limit.
        dba.execute("INSERT INTO part_of VALUES (%s, 1, %s)", [THEIRS, THEIRS])
        dba.execute("INSERT INTO job (tenant_id, size) VALUES (%s, 1)", [THEIRS])
    try:
        yield database
    finally:
        database.drop()


@cache
def log_file():
    return server_tool("log", NAME)


class Log:
    """What the server has logged since this was made."""

    def __init__(self):
        self.path = log_file()
        self.begin = os.path.getsize(self.path)

    def text(self):
        with open(self.path, "rb") as file:
            file.seek(self.begin)
            return file.read().decode()


class Client:
    """A connection that keeps all that it is told: every field of errors and notices, and what it hears as a listener."""

    def __init__(self, db, role=APP, tenant=OURS, **parameters):
        self.connection = db.connect(role, **parameters)
        self.told, self.messages = [], []
        self.connection.add_notice_handler(self.note)
        self.connection.add_notify_handler(lambda notify: self.told.append(notify.payload))
        if tenant:
            set_session(self.connection, tenant)
        self.connection.execute("LISTEN tenancy_quota")

    def note(self, diagnostic):
        self.messages.append(diagnostic.message_primary)
        self.told.append("\n".join(str(getattr(diagnostic, field)) for field in FIELDS))

    def run(self, *statements, **parameters):
        """Runs statements; returns what was said, an error's SQLSTATE or code last."""
        said = len(self.told)
        try:
            for statement in statements:
                self.connection.execute(statement, parameters if "%(" in statement else None)
            outcome = None
        except psycopg.Error as error:
            self.note(error.diag)
            outcome = error.sqlstate
            if error.diag.message_detail and error.diag.message_detail.startswith('{"code"'):
                outcome = detail_of(error)["code"]
                assert SQLSTATE[outcome] == error.sqlstate
        self.connection.rollback()
        return outcome, self.told[said:]

    def close(self):
        if not self.connection.closed:
            self.connection.execute("SELECT")  # notifications that have arrived are read with its answer
        self.connection.close()


def found(text):
    """Which of theirs are in a text."""
    text = text.lower()
    return [canary for canary in CANARIES if canary in text]


@pytest.fixture
def client(db):
    """client(role, tenant): each is looked through when the test ends, and so is the log."""
    log, clients = Log(), []

    def make(*arguments, **parameters):
        clients.append(Client(db, *arguments, **parameters))
        return clients[-1]

    yield make
    for made in clients:
        made.close()
        assert found("\n".join(made.told)) == [], made.told
    text = log.text()
    leaks = [line for line in text.splitlines() if found(line)]
    assert leaks == []
    # The control: what clients were told has been logged.
    assert [message for made in clients for message in made.messages if message not in text] == []


# (what is expected: a code of the catalogue, an SQLSTATE, or None; statements, of which the last is meant to fail)
OWN = {
    "insert for another": ("TENANT_ACCESS_DENIED", "INSERT INTO item VALUES (2, %(theirs)s, 'x')"),
    "update to another": ("TENANT_ACCESS_DENIED", "UPDATE item SET tenant_id = %(theirs)s"),
    "merge into another": (
        "TENANT_ACCESS_DENIED",
        "MERGE INTO item USING (SELECT 2) AS v (id) ON item.id = v.id WHEN NOT MATCHED THEN INSERT VALUES (2, %(theirs)s, 'x')",
    ),
    "insert into a partition": ("TENANT_ACCESS_DENIED", "INSERT INTO note VALUES (%(theirs)s, 'b')"),
    "upsert onto another's": ("42501", "INSERT INTO item VALUES (%(n)s, DEFAULT, 'x') ON CONFLICT (id) DO UPDATE SET body = 'y'"),
    "upsert onto another's email": (
        "42501",
        "INSERT INTO item (id, body, email) VALUES (2, 'x', %(email)s) ON CONFLICT (email) DO UPDATE SET body = 'y'",
    ),
    "another's, and a check that fails": ("TENANT_ACCESS_DENIED", "INSERT INTO item VALUES (2, %(theirs)s, 'x', 'x', -1)"),
    "another's, and a null": ("TENANT_ACCESS_DENIED", "INSERT INTO item VALUES (2, %(theirs)s, NULL)"),
    "a null tenant": ("TENANT_ACCESS_DENIED", "INSERT INTO item VALUES (2, NULL, 'x')"),
    "key of another": ("23505", "INSERT INTO item (id, body) VALUES (%(n)s, 'x')"),
    "email of another": ("23505", "INSERT INTO item (id, body, email) VALUES (2, 'x', %(email)s)"),
    "email of another, by update": ("23505", "UPDATE item SET email = %(email)s"),
    "price of another": ("23505", "INSERT INTO price (body) VALUES (%(theirs)s || ' row')"),
    "range of another": ("23P01", "INSERT INTO item (id, body, span) VALUES (2, 'x', int8range(%(n)s - 100, %(n)s + 100))"),
    "a range over all": ("23P01", "INSERT INTO item (id, body, span) VALUES (2, 'x', int8range(100, NULL))"),
    "no such parent": ("23503", "INSERT INTO part_of (item) VALUES (77)"),
    "another's child": ("23503", "DELETE FROM item WHERE id = 1"),
    "another's child, by update": ("23503", "UPDATE item SET id = 5 WHERE id = 1"),
    "a deferred check": ("23503", "BEGIN", "INSERT INTO late (item) VALUES (77)", "COMMIT"),
    "a check of its own": ("23514", "INSERT INTO item (id, body, amount) VALUES (2, 'x', 0)"),
    "no such partition": ("23514", "INSERT INTO note (body) VALUES ('z')"),
    "cast": ("22P02", "SELECT body::integer FROM item"),
    "cast of a notice": ("22P02", "SELECT * FROM item WHERE leak(body) AND body::integer > 0"),
    "division": ("22012", "SELECT 1 / (amount - 1) FROM item"),
    "division by what another has": (None, "SELECT 1 / (amount - %(n)s) FROM item"),
    "leaky filter": (None, "SELECT * FROM item WHERE leak(body) AND leak(email) AND leak(tenant_id) AND leak(day)"),
    "leaky join": (None, "SELECT * FROM item JOIN part_of ON leak(item.body) AND leak(part_of.note)"),
    "leaky write": (None, "BEGIN", "UPDATE part_of SET note = 'x' WHERE leak(note) AND leak(tenant_id)", "ROLLBACK"),
    "leaky error": (
        "P0001",
        "SELECT * FROM item WHERE tenant_id = %(theirs)s AND leak_and_fail(body) OR leak_and_fail(tenant_id)",
    ),
    "leaky having": ("P0001", "SELECT body FROM item GROUP BY body HAVING leak_and_fail(max(body))"),
    "leaky statistics": ("42501", "SELECT * FROM pg_statistic WHERE leak(stavalues1::text)"),
    "leaky public statistics": (None, "SELECT * FROM pg_stats WHERE tablename = 'item' AND leak(most_common_vals::text)"),
    "copy from": ("0A000", "COPY item FROM STDIN"),
    "system table": ("TENANT_ACCESS_DENIED", "INSERT INTO currency VALUES ('x')"),
    "audit update": ("TENANT_ACCESS_DENIED", "UPDATE trail SET body = 'x'"),
    "audit delete": ("TENANT_ACCESS_DENIED", "DELETE FROM trail"),
    "truncate": ("42501", "TRUNCATE item"),
    "no form": ("TENANT_ID_INVALID", "SELECT * FROM by_uuid"),
    "no such tenant": ("TENANT_NOT_FOUND", f"SELECT tenancy.set_tenant('{OURS}-none')"),
    "nor in a statement": ("TENANT_NOT_FOUND", f"SET tenancy.tenant_id = '{OURS}-none'", "SELECT * FROM item"),
    "suspended": ("TENANT_SUSPENDED", f"SELECT tenancy.set_tenant('{OURS}-out')"),
    "archived": ("TENANT_SUSPENDED", f"SET tenancy.tenant_id = '{OURS}-old'", "SELECT * FROM item"),
    "malformed": ("TENANT_ID_INVALID", "SELECT tenancy.set_tenant(%(theirs)s || '/' || %(theirs)s)"),
    "malformed parameter": ("TENANT_ID_INVALID", "SELECT set_config('tenancy.tenant_id', %(theirs)s || ' ', false)"),
    "malformed claim": ("TENANT_ID_INVALID", "SELECT tenancy.resolve_tenant(jsonb_build_object('tenant_id', %(theirs)s || '?'))"),
    "two headers": (
        "TENANT_ID_INVALID",
        "SELECT tenancy.resolve_tenant('{}', jsonb_build_object('x-tenant-id', %(theirs)s::text, 'X-Tenant-ID', 'x'))",
    ),
    "a host of nobody": (
        "TENANT_CONTEXT_MISSING",
        "SELECT tenancy.resolve_tenant('{}', '{}', 'x' || lower(%(theirs)s) || '.example.com')",
    ),
    "no tenant": ("TENANT_CONTEXT_MISSING", "RESET tenancy.tenant_id", "SELECT * FROM item"),
    "no tenant to write for": (
        "TENANT_CONTEXT_MISSING", "RESET tenancy.tenant_id", "INSERT INTO item VALUES (2, %(theirs)s, 'x')",
    ),
    "sealed": (
        "TENANT_ACCESS_DENIED", "BEGIN", "SELECT * FROM item", "SELECT tenancy.seal()",
        "SELECT set_config('tenancy.tenant_id', %(theirs)s, true)", "SELECT * FROM item",
    ),
    "switch in a statement": ("TENANT_ACCESS_DENIED", "SELECT set_config('tenancy.tenant_id', %(theirs)s, true), body FROM item"),
    "switch by set_tenant": ("TENANT_ACCESS_DENIED", "SELECT tenancy.set_tenant(%(theirs)s), body FROM item"),
    "switch in a filter": (
        "TENANT_ACCESS_DENIED",
        "SELECT * FROM item WHERE set_config('tenancy.tenant_id', %(theirs)s, true) <> body",
    ),
    "cursor of another": (
        "TENANT_ACCESS_DENIED", "BEGIN", "SELECT set_config('tenancy.tenant_id', %(theirs)s, true)",
        "DECLARE c CURSOR FOR SELECT * FROM item", "FETCH c", f"SET tenancy.tenant_id = '{OURS}'", "FETCH c",
    ),
    "kept cursor": ("TENANT_ACCESS_DENIED", "DECLARE c CURSOR WITH HOLD FOR SELECT * FROM item"),
    "usage of another": ("TENANT_ACCESS_DENIED", "SELECT * FROM _tenancy.usage_of(%(theirs)s, 'jobs')"),
    "the registry": ("42501", "SELECT * FROM tenancy.tenants WHERE leak(id)"),
    "the registry itself": ("42501", "SELECT * FROM _tenancy.tenants WHERE leak(id)"),
    "the ledger": (None, "SELECT * FROM tenancy.usage_records WHERE leak(tenant_id)"),
    "the quotas": (None, "SELECT * FROM tenancy.quota_status WHERE leak(tenant_id)"),
    "the sums": (None, "SELECT * FROM tenancy.usage_hourly WHERE leak(tenant_id)"),
    "a function that is not granted": ("42501", "SELECT tenancy.suspend_tenant(%(theirs)s, %(theirs)s)"),
    "protection that is not its own": ("TENANT_ACCESS_DENIED", "SELECT tenancy.unprotect('item')"),
    "lint": ("42501", "SELECT tenancy.lint()"),
    "soft limit": (None, "BEGIN", "INSERT INTO job (size) SELECT 1 FROM generate_series(1, 3)", "ROLLBACK"),
    "quota": ("QUOTA_EXCEEDED", "INSERT INTO job (size) SELECT 1 FROM generate_series(1, 7)"),
    "quota that is asked for": ("QUOTA_EXCEEDED", "SELECT tenancy.enforce_quota('jobs', 7)"),
    "room that is kept": (None, "BEGIN", "SELECT tenancy.enforce_quota('jobs', 4)", "ROLLBACK"),
    "tracked and metered": ("PARAMETER_INVALID", "SELECT tenancy.track_usage('jobs')"),
    "malformed resource": ("PARAMETER_INVALID", "SELECT tenancy.check_quota(%(theirs)s || ' /')"),
    "soft limit of another": (None, "BEGIN", "SELECT work_for_others(2)", "ROLLBACK"),
    "quota of another": ("QUOTA_EXCEEDED", "SELECT work_for_others(7)"),
    "another's by a superuser's view": (None, "SELECT count(*) FROM everything"),
}  # fmt: skip


@pytest.mark.parametrize("name", OWN)
def test_what_a_tenant_provokes(client, name):
    expected, *statements = OWN[name]
    email = f"{THEIRS.lower()}@example.com"
    outcome, told = client().run(*statements, theirs=THEIRS, n=NUMBER, email=email)
    assert outcome == expected, told
    assert told or expected is None


def test_notices_and_log_lines_are_there(client):
    """The control of the above: a tenant's own are told, and logged."""
    log = Log()
    app = client()
    for name in ("insert for another", "soft limit", "quota", "leaky filter", "suspended"):
        app.run(*OWN[name][1:], theirs=THEIRS)
    for text in ("\n".join(app.told), log.text()):
        assert f'row does not belong to tenant "{OURS}"' in text
        assert f'soft limit of tenant "{OURS}" for "jobs" passed' in text
        assert f'quota of tenant "{OURS}" for "jobs" exceeded' in text
        assert f"saw {OURS} body" in text
        assert f'tenant "{OURS}-out" is suspended' in text
        assert found(text) == []


def test_what_is_said_of_another_names_nobody(client):
    """A function with a superuser's rights uses the quota of another: that it was used up is known, and not whose."""
    log = Log()
    app = client()
    app.run("BEGIN", "SELECT work_for_others(3)", "ROLLBACK")
    app.run("SELECT work_for_others(7)")
    app.run("SELECT work_for_others(2)")
    app.run("SELECT")
    assert app.told[-1] == '{"code":"QUOTA_SOFT_LIMIT"}'
    for text in ("\n".join(app.told), log.text()):
        assert 'soft limit for "jobs" passed' in text
        assert 'quota for "jobs" exceeded' in text


@pytest.mark.parametrize("guard", ["log", "refuse"])
def test_bypass_guard(client, db, guard):
    log = Log()
    db.run(f"ALTER ROLE {APP} IN DATABASE {db.name} SET tenancy.bypass_guard = '{guard}'")
    try:
        app = client()
        outcome, told = app.run("SELECT body FROM everything WHERE tenant_id = %(theirs)s", theirs=THEIRS)
        work, _ = app.run("SELECT work_for_others(1)")
    finally:
        db.run(f"ALTER ROLE {APP} IN DATABASE {db.name} RESET tenancy.bypass_guard")
    assert outcome == work == (None if guard == "log" else "TENANT_ACCESS_DENIED"), told
    assert 'isolation of table "item" is bypassed' in log.text()


# As an owner of tables, who is under the policies and may do more.
OWNERS = {
    "truncate": ("TENANT_ACCESS_DENIED", "TRUNCATE item, part_of, late"),
    "protect": ("TENANT_ACCESS_DENIED", "SELECT tenancy.protect('plain')"),
    "unprotect": ("TENANT_ACCESS_DENIED", "SELECT tenancy.unprotect('item')"),
    "disable": ("PROTECTION_WEAKENED", "ALTER TABLE item DISABLE ROW LEVEL SECURITY"),
    "drop policy": ("PROTECTION_WEAKENED", "DROP POLICY tenancy_isolation ON item"),
    "drop column": ("PROTECTION_WEAKENED", "ALTER TABLE item DROP COLUMN tenant_id CASCADE"),
    "create policy": (
        None, "BEGIN", "CREATE POLICY mine ON item USING (leak(body) AND leak(email))", "SELECT * FROM item", "ROLLBACK",
    ),
    "leaky constraint": ("P0001", "ALTER TABLE part_of ADD CHECK (note IS NULL OR leak_and_fail(item > 0))"),
}  # fmt: skip


@pytest.mark.parametrize("name", OWNERS)
def test_what_an_owner_provokes(client, name):
    expected, *statements = OWNERS[name]
    outcome, told = client(OWNER).run(*statements)
    assert outcome == expected, told


def test_locks_and_snapshots(client, db):
    """Waiting for a row of another, as long as the timeout; and an update that cannot be serialized."""
    app = client()
    with db.connect("postgres") as other:
        other.execute("BEGIN")
        other.execute("INSERT INTO item VALUES (3, %s, 'x', 'other@example.com')", [THEIRS])
        for key in ("id", "email"):
            values = {"id": "(3, 'x', NULL)", "email": "(4, 'x', 'other@example.com')"}[key]
            outcome, _ = app.run("SET lock_timeout = '300ms'", f"INSERT INTO item (id, body, email) VALUES {values}")
            assert outcome == "55P03"
        other.execute("ROLLBACK")
    outcome, _ = app.run("SET statement_timeout = '100ms'", "SELECT body, pg_sleep(1) FROM item")
    assert outcome == "57014"


def test_a_tenant_that_is_suspended_meanwhile(client, db):
    """Another is, in an open transaction of ours, and then ours."""
    app = client(tenant=None)
    with db.connect("postgres") as dba:
        try:
            app.connection.execute("BEGIN")
            set_session(app.connection, OURS)
            assert value(app.connection, "SELECT count(*) FROM item") == 1
            dba.execute("SELECT tenancy.suspend_tenant(%s, %s)", [THEIRS, THEIRS])
            assert value(app.connection, "SELECT count(*) FROM item") == 1
            dba.execute("SELECT tenancy.suspend_tenant(%s)", [OURS])
            outcome, _ = app.run("SELECT * FROM item")
            assert outcome == "TENANT_SUSPENDED"
        finally:
            dba.execute("SELECT tenancy.resume_tenant(%s), tenancy.resume_tenant(%s)", [OURS, THEIRS])


def test_start_up(client, db):
    for options in ("-c tenancy.tenant_id=a/b", "-c tenancy.bypass_guard=off", "-c tenancy.seal=off"):
        with pytest.raises(psycopg.Error) as info:
            with db.connect(APP, options=options) as app:
                app.execute("SELECT * FROM item")
        assert found(str(info.value)) == []
    client().run("SELECT * FROM item WHERE leak(body)")


def test_a_tenant_that_somebody_else_left_in_the_session(db, server):
    """A pooler's connection, as PgBouncer gives it to the next client, with tenancy.session_context = 'refuse'."""
    server.drop_roles("it_strict")
    server.run(f"CREATE ROLE it_strict LOGIN IN ROLE {DATA}", "GRANT SET ON PARAMETER tenancy.tenant_id TO it_strict")
    server.run("ALTER ROLE it_strict SET tenancy.session_context = 'refuse'")
    app = Client(db, "it_strict", THEIRS)
    try:
        outcome, told = app.run("SELECT * FROM item")
        assert outcome == "TENANT_CONTEXT_MISSING"
        assert found("\n".join(told)) == []
    finally:
        app.close()
        server.drop_roles("it_strict")


def test_what_is_planted_is_found(db):
    """The control of the search: the other tenant's own errors and notices do name it, to it and in the log."""
    log = Log()
    other = Client(db, APP, THEIRS)
    assert other.run("SELECT * FROM item WHERE leak(body) AND leak(day) AND leak(amount)")[0] is None
    other.close()
    assert found("\n".join(other.told)) == CANARIES
    assert found(log.text()) == CANARIES
    for code, statement in (
        ("TENANT_ACCESS_DENIED", "INSERT INTO item VALUES (2, 'x', 'x')"),
        ("QUOTA_EXCEEDED", "SELECT tenancy.enforce_quota('jobs', 70)"),
    ):
        log, other = Log(), Client(db, APP, THEIRS)
        assert other.run(statement)[0] == code
        other.close()
        assert found("\n".join(other.told)) == found(log.text()) == ["wombat"]
    log = Log()
    with pytest.raises(psycopg.Error), db.connect(APP) as app:
        app.execute("SELECT tenancy.set_tenant(%s || '-out')", [THEIRS])
    assert found(log.text()) == ["wombat"]
