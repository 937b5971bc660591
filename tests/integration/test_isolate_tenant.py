"""A tenant gets a partition of its own while others, and it, go on; and nothing is done where that cannot be."""

import os
import time

import psycopg
import pytest
from isolate_support import InThread, Traffic, isolate, leftovers, make_accounts, partitions, places, waiting
from support import APP, DATA, GUEST, MAJOR, OWNER, Database, column, eventually, pg_program, refused, server_of, server_tool, set_local, sqlstate, value
from test_standby import standby, wait_for_replay  # noqa: F401 — a fixture

ROWS = 1000
BEFORE = [("account_rest", "acme", ROWS, 100 * ROWS), ("account_rest", "globex", ROWS, 100 * ROWS)]
AFTER = [("account_acme", "acme", ROWS, 100 * ROWS), ("account_rest", "globex", ROWS, 100 * ROWS)]


@pytest.fixture
def accounts(db):
    make_accounts(db, ROWS)
    yield
    db.run("DROP TABLE IF EXISTS account CASCADE", role=OWNER)


@pytest.fixture
def owner(connect):
    return connect(OWNER)


class Held:
    """A move that stops in the middle of copying, until it is released."""

    def __init__(self, connect, dba, tenant="acme"):
        self.dba, mover = dba, connect(OWNER)
        dba.execute("SELECT pg_advisory_lock(7)")
        mover.execute("SET test.pause = on")
        self.move = InThread(mover, "SELECT tenancy.isolate_tenant('account', %s)::text", [tenant])
        eventually(lambda: waiting(dba, self.move.pid, "advisory"))

    def release(self):
        self.dba.execute("SELECT pg_advisory_unlock(7)")
        return self.move.result()


@pytest.fixture
def held(connect, accounts):
    """held(): such a move; it is released when the test ends, however that is."""
    made = []

    def hold(tenant="acme"):
        made.append(Held(connect, connect("postgres"), tenant))
        return made[-1]

    yield hold
    for one in made:
        one.dba.execute("SELECT pg_advisory_unlock_all()")
        one.move.thread.join(60)


@pytest.mark.parametrize("is_metered", [False, True], ids=["plain", "metered and audited"])
def test_in_traffic(db, accounts, dba, owner, is_metered):
    """Each transaction sees each row once, at every level, or is told to try again; nothing that was committed is lost."""
    if is_metered:
        db.run("SELECT tenancy.meter('account', 'accounts'), tenancy.meter('account', 'amounts', 'sum(amount)'), tenancy.audit('account')")
    traffic = Traffic(db, ROWS)
    for seed, tenant in enumerate(("acme", "acme", "globex")):
        traffic.writer(tenant, seed)
    for level in ("READ COMMITTED", "REPEATABLE READ"):
        for tenant, role in (("acme", APP), ("globex", APP), (None, "postgres")):
            traffic.reader(tenant, level, role)
    with traffic:
        time.sleep(0.7)
        assert isolate(owner) == "account_acme"
        time.sleep(0.7)
    assert traffic.wrong == []
    assert len(traffic.done) == 8 and min(traffic.done.values()) > 0
    # Those that had a snapshot from before, at most once each; and writers that met each other.
    assert sum(times for label, times in traffic.retried.items() if label.startswith("READ COMMITTED")) == 0
    assert places(dba) == AFTER
    assert column(dba, "SELECT drift FROM tenancy.protected_tables WHERE drift <> '{}'") == []
    if is_metered:
        assert dba.execute("SELECT * FROM tenancy.reconcile('account')").fetchall() == []
        db.run("SELECT tenancy.unaudit('account'), tenancy.unmeter('account', 'accounts'), tenancy.unmeter('account', 'amounts')")


@pytest.mark.parametrize("key", ["PRIMARY KEY (tenant_id, id), UNIQUE (tenant_id, note)", "UNIQUE (tenant_id, note)"])
def test_values_that_come_back_under_another_key(db, dba, connect, key):
    """A row is deleted and its value inserted with another key, values are swapped: the rows of two moments together have some twice."""
    make_accounts(db, 40, key="CHECK (true)")
    db.run("UPDATE account SET note = 'n' || id", f"ALTER TABLE account ADD {key.replace('), ', '), ADD ')}")
    move = Held(connect, dba)
    session = connect(APP)
    with session.transaction():
        set_local(session, "acme")
        session.execute("DELETE FROM account WHERE id = 2")
        session.execute("INSERT INTO account (id, amount, note) VALUES (102, 100, 'n2')")
        for note, id in (("x", 3), ("n3", 4), ("n4", 3)):
            session.execute("UPDATE account SET note = %s WHERE id = %s", [note, id])
    move.release()
    assert places(dba) == [("account_acme", "acme", 40, 4000), ("account_rest", "globex", 40, 4000)]
    notes = dba.execute("SELECT id, note FROM account WHERE tenant_id = 'acme' AND (id < 5 OR id > 100) ORDER BY 1").fetchall()
    assert notes == [(1, "n1"), (3, "n4"), (4, "n3"), (102, "n2")]


def test_nobody_waits_for_the_copying(held, connect, dba):
    """Whoever reads or writes then would rather fail than wait; not even its own rows are locked."""
    move = held()
    for tenant in ("acme", "globex"):
        session = connect(APP)
        session.execute("SET lock_timeout = '1s'")
        with session.transaction():
            set_local(session, tenant)
            assert value(session, "SELECT count(*) FROM account") == ROWS
            session.execute("INSERT INTO account (id, amount) VALUES (0, 0), (-1, 1)")
            session.execute("UPDATE account SET amount = amount + 1 WHERE id = 1")
            session.execute("DELETE FROM account WHERE id = 2")
            session.execute("UPDATE account SET id = -2 WHERE id = 3")
            assert value(session, "SELECT count(*) FROM account") == ROWS + 1
    assert partitions(dba) == ["account_rest"]
    assert move.release() == [("account_acme",)]
    assert [place[:3] for place in places(dba)] == [("account_acme", "acme", ROWS + 1), ("account_rest", "globex", ROWS + 1)]
    found = "SELECT array_agg(id ORDER BY id) FROM account WHERE tenant_id = %s AND (id < 5 OR amount <> 100)"
    assert [value(dba, found, [tenant]) for tenant in ("acme", "globex")] == [[-2, -1, 0, 1, 4]] * 2


@pytest.mark.parametrize("key", ["", "UNIQUE (tenant_id, id)"])
def test_without_a_primary_key(db, dba, connect, key):
    """Rows that are the same are as many as before, whatever was changed meanwhile."""
    make_accounts(db, 50, key=key)
    move = Held(connect, dba)
    session = connect(APP)
    with session.transaction():
        set_local(session, "acme")
        session.execute("UPDATE account SET note = 'new' WHERE id <= 10")
        session.execute("DELETE FROM account WHERE id > 40")
        session.execute("INSERT INTO account (id, amount) SELECT 100 + g, 100 FROM generate_series(1, 10) AS g")
        if not key:
            session.execute("UPDATE account SET id = 1, note = 'same'")
    move.release()
    assert places(dba) == [("account_acme", "acme", 50, 5000), ("account_rest", "globex", 50, 5000)]
    notes = dba.execute("SELECT note, count(*) FROM account WHERE tenant_id = 'acme' GROUP BY 1 ORDER BY 2").fetchall()
    assert notes == ([("same", 50)] if not key else [("new", 10), (None, 10), ("x" * 40, 30)])


class TestGivingUp:
    """All is as it was, and whoever waited behind goes on."""

    def unchanged(self, dba):
        assert places(dba) == BEFORE
        assert leftovers(dba) == []

    def test_lock_timeout(self, accounts, connect, owner, dba):
        reader = connect("postgres", autocommit=False)
        reader.execute("SELECT count(*) FROM account")
        owner.execute("SET lock_timeout = '20ms'")
        begun = time.monotonic()
        with sqlstate("55P03"):
            isolate(owner)
        assert time.monotonic() - begun > 1, "it tries more than once"
        assert value(owner, "SHOW lock_timeout") == "20ms"
        self.unchanged(dba)
        reader.rollback()
        assert isolate(owner) == "account_acme"
        assert value(owner, "SHOW lock_timeout") == "20ms"
        assert places(dba) == AFTER

    def test_waits_for_a_moment_at_a_time(self, accounts, connect, owner, dba):
        """Between its attempts, others get through."""
        reader = connect("postgres", autocommit=False)
        reader.execute("SELECT count(*) FROM account")
        move = InThread(owner, "SELECT tenancy.isolate_tenant('account', 'acme')")
        eventually(lambda: waiting(dba, move.pid, "relation"))
        other = connect(APP)
        with other.transaction():
            set_local(other, "acme")
            other.execute("UPDATE account SET amount = amount WHERE id = 1")
        assert move.thread.is_alive()
        reader.rollback()
        move.result()
        assert places(dba) == AFTER

    @pytest.mark.parametrize("function", ["pg_cancel_backend", "pg_terminate_backend"])
    def test_interrupted_while_copying(self, held, dba, function):
        move = held()
        dba.execute(f"SELECT {function}(%s)", [move.move.pid])
        with pytest.raises(psycopg.OperationalError):
            move.move.result()
        self.unchanged(dba)

    def test_cancelled_while_it_waits(self, accounts, connect, owner, dba):
        reader = connect("postgres", autocommit=False)
        reader.execute("SELECT count(*) FROM account")
        move = InThread(owner, "SELECT tenancy.isolate_tenant('account', 'acme')")
        eventually(lambda: waiting(dba, move.pid, "relation"))
        owner.cancel()
        with sqlstate("57014"):
            move.result()
        reader.rollback()
        self.unchanged(dba)
        assert isolate(owner) == "account_acme"

    def test_savepoint(self, accounts, owner, dba):
        with owner.transaction():
            with pytest.raises(psycopg.errors.DivisionByZero), owner.transaction():
                isolate(owner)
                owner.execute("SELECT 1 / 0")
            assert partitions(owner) == ["account_rest"]
            with owner.transaction():
                assert isolate(owner) == "account_acme"
            assert partitions(owner) == ["account_acme", "account_rest"]
        assert places(dba) == AFTER


def test_a_deadlock_is_ours_to_avoid(db, accounts, connect, owner, dba):
    """Who holds what we wait for, and waits for what we hold, goes on; and so do we, later."""
    db.run(
        "CREATE TABLE customer (tenant_id text, id integer, name text, PRIMARY KEY (tenant_id, id))",
        "INSERT INTO customer SELECT tenant_id, id FROM account",
        "ALTER TABLE account ADD FOREIGN KEY (tenant_id, id) REFERENCES customer",
        f"ALTER TABLE customer OWNER TO {OWNER}",
    )
    try:
        writer = connect("postgres", autocommit=False)
        # Whoever looks for a deadlock first is who ends it, and a busy machine may wake this one first.
        writer.execute("SET deadlock_timeout = '30s'")
        writer.execute("UPDATE customer SET name = 'x' WHERE id = 1")
        move = InThread(owner, "SELECT tenancy.isolate_tenant('account', 'acme')")
        held = "SELECT count(*) FROM pg_locks WHERE pid = %s AND relation = 'account'::regclass AND mode = 'AccessExclusiveLock' AND granted"
        eventually(lambda: value(dba, held, [move.pid]) == 1)
        # Waits for us, who wait for it.
        writer.execute("UPDATE account SET note = 'x' WHERE id = 2")
        writer.commit()
        move.result()
        assert places(dba) == AFTER
        assert value(dba, "SELECT count(*) FROM account WHERE note = 'x'") == 2
    finally:
        db.run("DROP TABLE account, customer")


def test_a_foreign_key_that_references_the_partition(db, accounts, owner, dba):
    """PostgreSQL would look for the rows there."""
    db.run(
        "CREATE TABLE line (tenant_id text, account integer, FOREIGN KEY (tenant_id, account) REFERENCES account_rest ON DELETE CASCADE)",
        "INSERT INTO line VALUES ('acme', 1)",
    )
    try:
        with refused("RELATION_NOT_SUPPORTED"):
            isolate(owner)
        assert places(dba) == BEFORE
    finally:
        db.run("DROP TABLE line")


def test_whoever_writes_a_referencing_table_is_waited_for_a_while(db, accounts, connect, owner, dba):
    """PostgreSQL locks it to clone its foreign key; before that, nothing has been moved and others get through."""
    db.run(
        "CREATE TABLE line (tenant_id text, account integer, note text, FOREIGN KEY (tenant_id, account) REFERENCES account)",
        "INSERT INTO line VALUES ('acme', 1)",
    )
    try:
        writer = connect("postgres", autocommit=False)
        writer.execute("UPDATE line SET note = 'x'")
        owner.execute("SET lock_timeout = '50ms'")
        with sqlstate("55P03"):
            isolate(owner)
        assert places(dba) == BEFORE
        writer.rollback()
        assert isolate(owner) == "account_acme"
        assert places(dba) == AFTER
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            dba.execute("INSERT INTO line VALUES ('acme', 100000)")
    finally:
        db.run("DROP TABLE account, line")


def test_no_large_table_is_read_under_the_lock(accounts, owner):
    """PostgreSQL says so itself."""
    said = []
    owner.add_notice_handler(lambda notice: said.append(notice.message_primary))
    owner.execute("SET client_min_messages = debug1")
    isolate(owner)
    owner.execute("RESET client_min_messages")
    assert 'partition constraint for table "account_acme" is implied by existing constraints' in said
    assert 'updated partition constraint for default partition "account_rest" is implied by existing constraints' in said
    assert any(line.startswith("verifying table") for line in said) is False


class TestOlderSnapshots:
    """Of a transaction that began before. Not to see rows is worse than an error."""

    @pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
    @pytest.mark.parametrize("tenant", ["acme", "globex"])
    def test_an_error(self, accounts, connect, owner, level, tenant):
        session = connect(APP)
        with refused("PROTECTION_CHANGED") as caught, session.transaction():
            session.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
            session.execute("SELECT 1")
            isolate(owner)
            set_local(session, tenant)
            value(session, "SELECT count(*) FROM account")
        assert caught.error.diag.message_primary == "could not serialize access: rows were moved to another partition"
        with session.transaction():
            session.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
            set_local(session, tenant)
            assert value(session, "SELECT count(*) FROM account") == ROWS

    def test_without_it_rows_are_missing(self, accounts, connect, owner, dba):
        """The control: this is what PostgreSQL answers, where nothing tells of the move."""
        session = connect(APP)
        with session.transaction():
            session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            session.execute("SELECT 1")
            isolate(owner)
            dba.execute("DELETE FROM _tenancy.isolated")
            set_local(session, "acme")
            assert value(session, "SELECT count(*) FROM account") == 0

    def test_insertion_and_what_reads_nothing_of_it_go_on(self, accounts, connect, owner, dba):
        session = connect(APP)
        with session.transaction():
            session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            session.execute("SELECT 1")
            isolate(owner)
            set_local(session, "acme")
            session.execute("INSERT INTO account (id, amount) VALUES (0, 0)")
            assert value(session, "SELECT count(*) FROM orders") == 3
        assert places(dba)[0][2] == ROWS + 1

    @pytest.mark.parametrize("statement", ["EXECUTE waited", "COPY (SELECT id FROM account) TO '/dev/null'"])
    def test_a_command_that_waited(self, accounts, connect, owner, dba, statement):
        """Its snapshot is from before it was given the lock."""
        session = connect("postgres" if "COPY" in statement else APP)
        session.execute("SET tenancy.tenant_id = 'acme'")
        session.execute("PREPARE waited AS SELECT count(*) FROM account")
        with owner.transaction():
            isolate(owner)
            waiter = InThread(session, statement)
            eventually(lambda: waiting(dba, waiter.pid, "relation"))
        with refused("PROTECTION_CHANGED"):
            waiter.result()
        session.execute(statement)

    def test_its_own_move(self, accounts, owner, dba):
        with dba.transaction():
            dba.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            dba.execute("SELECT 1")
            isolate(dba)
            assert places(dba) == AFTER

    def test_on_a_standby(self, db, accounts, standby, owner):  # noqa: F811
        wait_for_replay(db, standby)
        with standby.connect(APP) as session:
            with refused("PROTECTION_CHANGED"), session.transaction():
                session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                session.execute("SELECT 1")
                isolate(owner)
                wait_for_replay(db, standby)
                set_local(session, "acme")
                value(session, "SELECT count(*) FROM account")
            with session.transaction():
                set_local(session, "acme")
                assert value(session, "SELECT count(*) FROM account") == ROWS


class TestRights:
    def test_what_is_the_owners_runs_as_the_owner(self, db, dba, owner):
        """A superuser calls; a CHECK, an index, a generated column and a cast of a foreign key are the owner's to choose."""
        db.run("DROP SCHEMA IF EXISTS trap CASCADE", f"CREATE SCHEMA trap AUTHORIZATION {OWNER}")
        spy = "BEGIN PERFORM trap.note('{0}'); RETURN {1}; END"
        db.run(
            "CREATE TABLE trap.seen (who name, place text)",
            "CREATE FUNCTION trap.note(text) RETURNS void LANGUAGE sql AS 'INSERT INTO trap.seen VALUES (current_user, $1)'",
            f"CREATE FUNCTION trap.checked(integer) RETURNS boolean LANGUAGE plpgsql AS $${spy.format('check', 'true')}$$",
            f"CREATE FUNCTION trap.indexed(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $${spy.format('index', '$1')}$$",
            f"CREATE FUNCTION trap.generated(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $${spy.format('generated', '$1')}$$",
            "CREATE TYPE trap.number AS (n integer)",
            f"CREATE FUNCTION trap.cast(trap.number) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $${spy.format('cast', '$1.n')}$$",
            "CREATE CAST (trap.number AS integer) WITH FUNCTION trap.cast AS IMPLICIT",
            "CREATE TABLE trap.customer (tenant_id text, id integer, PRIMARY KEY (tenant_id, id))",
            """CREATE TABLE trap.account (tenant_id text, id integer CHECK (trap.checked(id)), twice integer GENERATED ALWAYS AS (trap.generated(id)) STORED, of trap.number,
                 FOREIGN KEY (tenant_id, of) REFERENCES trap.customer (tenant_id, id)) PARTITION BY LIST (tenant_id)""",
            "CREATE INDEX ON trap.account (trap.indexed(id))",
            "CREATE TABLE trap.account_rest PARTITION OF trap.account DEFAULT",
            "INSERT INTO trap.customer VALUES ('acme', 1), ('globex', 1)",
            "INSERT INTO trap.account (tenant_id, id, of) SELECT t, 1, ROW(1)::trap.number FROM unnest(ARRAY['acme', 'globex']) AS t",
            "SELECT tenancy.protect('trap.customer'), tenancy.protect('trap.account')",
            "TRUNCATE trap.seen",
            role=OWNER,
        )
        dba.execute("SELECT tenancy.isolate_tenant('trap.account', 'acme')")
        assert dba.execute("SELECT DISTINCT place, who FROM trap.seen ORDER BY 1").fetchall() == [
            (place, OWNER) for place in ("cast", "check", "generated", "index")
        ]
        # By the owner as well, who sees no row of either table.
        owner.execute("SELECT tenancy.isolate_tenant('trap.account', 'globex')")
        assert column(dba, "SELECT DISTINCT who FROM trap.seen") == [OWNER]
        db.run("DROP SCHEMA trap CASCADE")

    # What PostgreSQL calls where it simplifies or reads a definition anew, not for a row.
    TRAPS = {
        "a CHECK of constants": "ALTER TABLE trap.account ADD CHECK (trap.sprung(1) > 0)",
        "an index on an expression of constants": "CREATE INDEX ON trap.account ((id + trap.sprung(1)))",
        "the predicate of an index": "CREATE INDEX ON trap.account (id) WHERE id > trap.sprung(1)",
        "a constant of a domain": "CREATE INDEX ON trap.account ((id = ANY ('{1}'::trap.checked[])))",
    }

    @pytest.mark.parametrize("trap", TRAPS)
    @pytest.mark.parametrize("caller", [OWNER, "postgres"])
    def test_a_trap_springs_with_the_rights_of_its_owner(self, db, connect, dba, trap, caller):
        # The function is declared to be what it is not, and looks who has called it.
        db.run("DROP SCHEMA IF EXISTS trap CASCADE", f"CREATE SCHEMA trap AUTHORIZATION {OWNER}")
        db.run(
            "CREATE TABLE trap.seen (who name)",
            "CREATE FUNCTION trap.note() RETURNS void LANGUAGE sql AS 'INSERT INTO trap.seen VALUES (current_user)'",
            "CREATE FUNCTION trap.sprung(integer) RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM trap.note(); RETURN $1; END$$",
            "CREATE DOMAIN trap.checked AS integer CHECK (trap.sprung(VALUE) > 0)",
            "CREATE TABLE trap.account (tenant_id text, id integer) PARTITION BY LIST (tenant_id)",
            "CREATE TABLE trap.account_rest PARTITION OF trap.account DEFAULT",
            self.TRAPS[trap],
            "SELECT tenancy.protect('trap.account')",
            "TRUNCATE trap.seen",
            role=OWNER,
        )
        connect(caller).execute("SELECT tenancy.isolate_tenant('trap.account', 'acme')")
        assert column(dba, "SELECT DISTINCT who FROM trap.seen") == [OWNER]
        db.run("DROP SCHEMA trap CASCADE")

    def test_a_table_that_is_given_away_meanwhile(self, db, accounts, owner, dba):
        """Who may call is asked once more when the lock is there."""
        with dba.transaction():
            dba.execute(f"ALTER TABLE account OWNER TO {DATA}")
            dba.execute(f"ALTER TABLE account_rest OWNER TO {DATA}")
            waiter = InThread(owner, "SELECT tenancy.isolate_tenant('account', 'acme')")
            eventually(lambda: waiting(dba, waiter.pid, "relation"))
        with refused("RELATION_NOT_OWNED"):
            waiter.result()

    def test_it_is_no_way_past_the_policies(self, db, accounts, dba, owner):
        """What the owner's own code does meanwhile is refused the rows that he would not see, although the move sees them."""
        db.run(
            """CREATE OR REPLACE FUNCTION pause() RETURNS boolean LANGUAGE plpgsql AS $$
               BEGIN
                   IF current_setting('test.pause', true) = 'on' THEN
                       RAISE NOTICE 'seen %', (SELECT count(*) FROM public.account);
                   END IF;
                   RETURN true;
               END $$""",
            role=OWNER,
        )
        seen = []
        owner.add_notice_handler(lambda notice: seen.append(notice.message_primary))
        owner.execute("SET test.pause = on")
        with refused("TENANT_ACCESS_DENIED") as caught:
            isolate(owner)
        assert caught.error.diag.message_primary == 'isolation of table "account" is bypassed'
        assert not any(line.startswith("seen") for line in seen)

    def test_a_quota_that_is_used_up(self, db, accounts, dba, owner):
        db.run("SELECT tenancy.meter('account', 'accounts')", f"SELECT tenancy.set_quota('acme', 'accounts', {ROWS})")
        assert isolate(owner) == "account_acme"
        assert dba.execute("SELECT * FROM tenancy.reconcile('account')").fetchall() == []
        db.run("SELECT tenancy.unmeter('account', 'accounts')", "SELECT tenancy.remove_quota('tenant', 'acme', 'accounts')")

    def test_guest_and_application(self, accounts, connect):
        for role in (GUEST, APP):
            with refused("RELATION_NOT_OWNED"):
                isolate(connect(role))


def test_dump_and_restore(db, accounts, owner, server, tmp_path):
    isolate(owner)
    dump = tmp_path / "dump"
    pg_program("pg_dump", "-Fc", "-f", str(dump), "-d", db.name)
    copy = Database(server, "it_isolate_restored", extension=False)
    try:
        pg_program("pg_restore", "-d", copy.name, str(dump))
        with copy.connect("postgres") as dba:
            assert places(dba) == AFTER
            assert column(dba, "SELECT drift FROM tenancy.protected_tables WHERE drift <> '{}'") == []
            assert isolate(dba) == "account_acme"
            assert isolate(dba, "globex") == "account_globex"
        with copy.connect(APP) as session, session.transaction():
            set_local(session, "acme")
            assert value(session, "SELECT count(*) FROM account") == ROWS
    finally:
        copy.drop()


@pytest.fixture(scope="module")
def publisher():
    name = f"it-isolate-{os.getpid()}"
    server = server_of(server_tool("start", str(MAJOR), name, "--preload", "wal_level=logical"))
    try:
        server.create_roles()
        database = Database(server, "it_isolate_published")
        database.run("SELECT tenancy.create_tenant(id) FROM unnest(ARRAY['acme', 'globex']) AS id")
        yield database
    finally:
        server_tool("stop", name)


class TestReplication:
    """What subscribers get of a move: through the root nothing, because nothing has changed; otherwise what has moved."""

    def changes(self, publisher, publication):
        """Of the move, with an insertion before and after it: the kinds of changes, and the tables that they are of."""
        make_accounts(publisher, 10)
        with publisher.connect("postgres") as dba:
            dba.execute(publication)
            dba.execute("SELECT pg_create_logical_replication_slot('it', 'pgoutput')")
            try:
                dba.execute("INSERT INTO account VALUES ('acme', 11, 1)")
                isolate(dba)
                dba.execute("INSERT INTO account VALUES ('acme', 12, 1)")
                query = "SELECT data FROM pg_logical_slot_get_binary_changes('it', NULL, NULL, 'proto_version', '1', 'publication_names', 'it')"
                messages = [bytes(data) for data in column(dba, query)]
            finally:
                dba.execute("SELECT pg_drop_replication_slot('it')")
                dba.execute("DROP PUBLICATION it")
        names = {message[1:5]: message[5:].split(b"\0")[1].decode() for message in messages if message[:1] == b"R"}
        return [(chr(message[0]), names[message[1:5]]) for message in messages if message[:1] in (b"I", b"D", b"U", b"T")]

    def test_through_the_root(self, publisher):
        changes = self.changes(publisher, "CREATE PUBLICATION it FOR TABLE account WITH (publish_via_partition_root = true)")
        assert changes == [("I", "account")] * 2

    def test_by_partition(self, publisher):
        changes = self.changes(publisher, "CREATE PUBLICATION it FOR TABLE account")
        # The copies are not, until a subscriber has refreshed its publications, which copies them.
        assert changes == [("I", "account_rest")] + [("D", "account_rest")] * 11 + [("I", "account_acme")]

    def test_the_identity_is_put_back(self, publisher):
        make_accounts(publisher, 10)
        with publisher.connect("postgres") as dba:
            dba.execute("CREATE PUBLICATION it FOR TABLE account WITH (publish_via_partition_root = true)")
            dba.execute("ALTER TABLE account_rest REPLICA IDENTITY FULL")
            isolate(dba)
            assert column(dba, "SELECT relreplident::text FROM pg_class WHERE relname IN ('account_rest', 'account_acme')") == ["f", "f"]
            dba.execute("DROP PUBLICATION it")

    @pytest.mark.parametrize(
        "publications",
        [
            ["CREATE PUBLICATION it FOR ALL TABLES WITH (publish_via_partition_root = true)"],
            ["CREATE PUBLICATION it FOR TABLES IN SCHEMA public WITH (publish_via_partition_root = true)"],
            ["CREATE PUBLICATION it FOR TABLE account WITH (publish_via_partition_root = true)", "CREATE PUBLICATION it_2 FOR ALL TABLES"],
        ],
    )
    def test_neither(self, publisher, publications):
        make_accounts(publisher, 10)
        with publisher.connect("postgres") as dba:
            for publication in publications:
                dba.execute(publication)
            with refused("RELATION_NOT_SUPPORTED"):
                isolate(dba)
            dba.execute("DROP PUBLICATION IF EXISTS it, it_2")
            assert isolate(dba) == "account_acme"


def test_many_in_a_statement(db, accounts, dba, owner):
    assert column(owner, "SELECT tenancy.isolate_tenant('account', t)::text FROM unnest(ARRAY['acme', 'globex', 'initech']) AS t") == [
        "account_acme", "account_globex", "account_initech",
    ]  # fmt: skip
    assert [place[0] for place in places(dba)] == ["account_acme", "account_globex"]


def test_not_while_it_is_read_by_the_same_statement(accounts, dba):
    with sqlstate("55006"):
        dba.execute("SELECT tenancy.isolate_tenant('account', 'acme') FROM account LIMIT 1")
    assert places(dba) == BEFORE
