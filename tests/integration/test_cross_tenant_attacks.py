"""Attacks on cross-tenant scopes that take several connections, or the protocol: what was granted is taken away, what is on no record."""

import struct
import threading
import time

import psycopg
import pytest
from audit_support import problems
from support import MAJOR, column, eventually, refused, sqlstate, value
from test_function_call import Wire

OPERATOR, TEAM = "it_operator", "it_team"
READ = "SELECT string_agg(item, ',' ORDER BY item) FROM orders"


@pytest.fixture(scope="module")
def db(db):
    db.run(
        "CREATE TABLE plain (body text)",
        "CREATE FUNCTION read_orders() RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN string_agg(item, '','' ORDER BY item) FROM orders; END'",
        """CREATE FUNCTION enter_and_read() RETURNS text LANGUAGE plpgsql AS
           $$BEGIN PERFORM tenancy.begin_cross_tenant('{acme,globex}', 'by one call'); RETURN read_orders(); END$$""",
    )
    return db


@pytest.fixture
def operator(db, dba, make_role):
    """A role that may read the orders of acme and globex together."""
    role = make_role(OPERATOR)
    db.run(f"GRANT SELECT, INSERT ON plain TO {role}", f"GRANT CREATE ON SCHEMA public TO {role}")
    grant(dba)
    yield role
    # What a failed test leaves open would keep its locks.
    db.run(
        f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = '{role}'",
        f"SELECT tenancy.revoke_cross_tenant('{role}')",
        f"DROP OWNED BY {role} CASCADE",
        "DELETE FROM plain",
        "SELECT lo_unlink(oid) FROM pg_largeobject_metadata",
    )


@pytest.fixture
def works(operator, connect):
    """A connection of the operator's."""
    return connect(operator)


def grant(dba, role=OPERATOR, tenants="{acme,globex}", lasts="1 hour", read_only=True):
    query = "SELECT tenancy.grant_cross_tenant(%s, %s, clock_timestamp() + %s::interval, %s)"
    dba.execute(query, [role, tenants, lasts, read_only])


def begin(connection, reason="test", tenants="{acme,globex}", lasts=None):
    connection.execute("SELECT tenancy.begin_cross_tenant(%s, %s, %s)", [tenants, reason, lasts])


def told(dba, reason):
    """What is on record of the scopes with that reason: statements, and rows."""
    return dba.execute(
        """SELECT e.detail ->> 'statement', (e.detail ->> 'rows')::int FROM tenancy.audit_log e
           WHERE e.tenant_id IS NULL AND e.operation = 'CROSS_TENANT' AND e.detail ->> 'scope' IN (
               SELECT b.detail ->> 'scope' FROM tenancy.audit_log b WHERE b.operation = 'BEGIN_CROSS_TENANT' AND b.detail ->> 'reason' = %s)
           ORDER BY e.recorded_at, e.number""",
        [reason],
    ).fetchall()


class Portals(Wire):
    """Portals that are run in parts; the extended protocol by hand."""

    @staticmethod
    def parse(name, text):
        return b"P", name + b"\0" + text.encode() + b"\0" + struct.pack("!h", 0)

    @staticmethod
    def bind(portal, name):
        return b"B", portal + b"\0" + name + b"\0" + struct.pack("!hhh", 0, 0, 0)

    @staticmethod
    def execute(portal, rows=0):
        return b"E", portal + b"\0" + struct.pack("!i", rows)

    def extended(self, *messages):
        """The values of the first column; or the text of the error."""
        for kind, body in messages:
            self.send(kind, body)
        self.send(b"S", b"")
        values = []
        for kind, body in self.wait():
            if kind == b"E":
                return {field[:1]: field[1:].decode() for field in body.split(b"\0") if field}[b"M"]
            if kind == b"D":
                values.append(body[6:].decode())
        return values

    def begin(self, reason, lasts="NULL"):
        assert not self.query(f"SELECT tenancy.begin_cross_tenant('{{acme,globex}}', '{reason}', {lasts})")

    def call_with(self, function, argument):
        """A function with one argument; what is sent back of its result, or the text of the error."""
        body = struct.pack("!ihhhi", function, 1, 0, 1, len(argument)) + argument + struct.pack("!h", 0)
        self.send(b"F", body)
        (answer,) = [message for message in self.wait() if message[0] in (b"V", b"E")]
        if answer[0] == b"E":
            return {field[:1]: field[1:].decode() for field in answer[1].split(b"\0") if field}[b"M"]
        return answer[1][4:].decode()


class TestWhatIsTakenAway:
    """A scope lasts as long as what was granted: in connections that are open, at every level of isolation, in every kind of statement."""

    @pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
    def test_revoked_in_the_middle_of_a_transaction(self, works, dba, level):
        works.execute(f"BEGIN ISOLATION LEVEL {level}")
        begin(works)
        works.execute("PREPARE p AS SELECT count(*) FROM orders")
        assert value(works, "EXECUTE p") == 5
        works.execute("DECLARE c CURSOR FOR SELECT item FROM orders ORDER BY item")
        assert column(works, "FETCH 1 FROM c") == ["a1"]
        dba.execute(f"SELECT tenancy.revoke_cross_tenant('{OPERATOR}', '{{globex}}')")
        works.execute("SAVEPOINT s")
        for statement in ("EXECUTE p", "FETCH 1 FROM c", "SELECT read_orders()", "SELECT item FROM orders WHERE tenant_id = 'acme'",
                          "EXPLAIN ANALYZE SELECT * FROM orders", "DO 'BEGIN PERFORM item FROM orders; END'"):  # fmt: skip
            with refused("TENANT_ACCESS_DENIED") as caught:
                works.execute(statement)
            assert caught.detail["cross_tenant"] == "revoked"
            works.execute("ROLLBACK TO s")
        works.execute("ROLLBACK")
        works.execute("DEALLOCATE ALL")

    def test_a_rollback_brings_nothing_back(self, works, dba):
        begin(works, lasts="1 hour")
        works.execute("BEGIN")
        works.execute("SAVEPOINT s")
        works.execute("SELECT tenancy.end_cross_tenant()")
        dba.execute(f"SELECT tenancy.revoke_cross_tenant('{OPERATOR}')")
        works.execute("ROLLBACK TO s")
        with refused("TENANT_ACCESS_DENIED"):
            works.execute(READ)
        works.execute("ROLLBACK")

    def test_revoked_by_who_rolls_back(self, works, dba):
        begin(works, lasts="1 hour")
        assert value(works, READ) == "a1,a2,a3,g1,g2"
        dba.execute("BEGIN")
        dba.execute(f"SELECT tenancy.revoke_cross_tenant('{OPERATOR}')")
        assert value(works, READ) == "a1,a2,a3,g1,g2"
        dba.execute("ROLLBACK")
        assert value(works, READ) == "a1,a2,a3,g1,g2"

    def test_shortened(self, works, dba):
        begin(works, lasts="1 hour")
        grant(dba, lasts="500 milliseconds")
        assert value(works, READ) == "a1,a2,a3,g1,g2"
        time.sleep(0.6)
        with refused("TENANT_ACCESS_DENIED") as caught:
            works.execute(READ)
        assert caught.detail["cross_tenant"] in ("expired", "revoked")

    def test_its_own_time_is_over(self, works):
        works.execute("BEGIN")
        begin(works, lasts="400 milliseconds")
        works.execute("DECLARE c CURSOR FOR SELECT item FROM orders ORDER BY item")
        assert column(works, "FETCH 1 FROM c") == ["a1"]
        time.sleep(0.5)
        with refused("TENANT_ACCESS_DENIED") as caught:
            works.execute("FETCH 1 FROM c")
        assert caught.detail["cross_tenant"] == "expired"

    def test_made_read_only(self, works, dba):
        grant(dba, read_only=False)
        dba.execute(f"GRANT UPDATE ON orders TO {OPERATOR}")
        begin(works, lasts="1 hour")
        assert works.execute("UPDATE orders SET amount = 2").rowcount == 5
        grant(dba, read_only=True)
        with refused("TENANT_ACCESS_DENIED"):
            works.execute("UPDATE orders SET amount = 3")
        with refused("TENANT_ACCESS_DENIED"):
            works.execute(READ)
        grant(dba, tenants="{acme}", read_only=False)
        with refused("TENANT_ACCESS_DENIED"):
            works.execute("UPDATE orders SET amount = 3 WHERE tenant_id = 'acme'")

    @pytest.mark.parametrize("taken", ["member", "inherit", "team"])
    def test_what_a_team_was_granted(self, works, dba, server, make_role, taken):
        dba.execute(f"SELECT tenancy.revoke_cross_tenant('{OPERATOR}')")
        grant(dba, make_role(TEAM))
        dba.execute(f"GRANT {TEAM} TO {OPERATOR}")
        begin(works, lasts="1 hour")
        assert value(works, READ) == "a1,a2,a3,g1,g2"
        if taken == "member":
            dba.execute(f"REVOKE {TEAM} FROM {OPERATOR}")
        elif taken == "team":
            server.drop_roles(TEAM)
        elif MAJOR < 16:
            dba.execute(f"ALTER ROLE {OPERATOR} NOINHERIT; GRANT SELECT ON orders TO {OPERATOR}")
        else:
            dba.execute(f"GRANT {TEAM} TO {OPERATOR} WITH INHERIT FALSE")
        for query in (READ, "SELECT read_orders()"):
            with refused("TENANT_ACCESS_DENIED") as caught:
                works.execute(query)
            assert caught.detail["cross_tenant"] == "revoked"
        works.execute("SELECT tenancy.end_cross_tenant()")
        with refused("TENANT_ACCESS_DENIED"):
            begin(works)
        dba.execute("DELETE FROM _tenancy.cross_tenant_grants g WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = g.role)")

    def test_a_role_that_is_gone(self, dba, server, make_role, connect):
        """Its connection stays open, and what PUBLIC may read it may read."""
        ghost = make_role("it_ghost")
        grant(dba, ghost)
        connection = connect(ghost)
        begin(connection, lasts="1 hour")
        dba.execute("GRANT SELECT ON orders TO PUBLIC")
        try:
            assert value(connection, READ) == "a1,a2,a3,g1,g2"
            server.drop_roles(ghost)
            with refused("TENANT_ACCESS_DENIED"):
                connection.execute(READ)
            connection.execute("SELECT tenancy.end_cross_tenant()")
            with refused("TENANT_ACCESS_DENIED"):
                begin(connection)
        finally:
            dba.execute("REVOKE SELECT ON orders FROM PUBLIC")
            dba.execute("DELETE FROM _tenancy.cross_tenant_grants g WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = g.role)")

    def test_a_portal_that_is_read_on(self, db, dba, operator):
        wire = Portals(db.name, operator)
        assert not wire.query("BEGIN")
        wire.begin("portal")
        run = wire.parse(b"s", "SELECT item FROM orders ORDER BY item"), wire.bind(b"p", b"s"), wire.execute(b"p", 2)
        assert wire.extended(*run) == ["a1", "a2"]
        dba.execute(f"SELECT tenancy.revoke_cross_tenant('{OPERATOR}')")
        assert wire.extended(wire.execute(b"p", 2)) == "cross-tenant scope is no longer granted"


class TestRecord:
    """Every statement that runs in a scope is on record, with its rows, however it is sent."""

    def test_a_portal_in_parts(self, db, dba, operator):
        wire = Portals(db.name, operator)
        assert not wire.query("BEGIN")
        wire.begin("in parts")
        assert wire.extended(wire.parse(b"s", "SELECT item FROM orders ORDER BY item"), wire.bind(b"p", b"s"), wire.execute(b"p", 2)) == ["a1", "a2"]
        assert wire.extended(wire.execute(b"p", 2)) == ["a3", "g1"]
        assert wire.extended(wire.execute(b"p")) == ["g2"]
        assert not wire.query("ROLLBACK")
        record = told(dba, "in parts")
        assert {text for text, _ in record if text} == {"SELECT item FROM orders ORDER BY item"}
        assert sum(rows for _, rows in record if rows) == 5

    def test_a_portal_that_was_bound_before(self, db, dba, operator):
        wire = Portals(db.name, operator)
        assert not wire.query("BEGIN")
        assert wire.extended(wire.parse(b"s", "SELECT read_orders()"), wire.bind(b"p", b"s")) == []
        wire.begin("bound before")
        assert wire.extended(wire.execute(b"p")) == ["a1,a2,a3,g1,g2"]
        assert ("SELECT read_orders()", None) in told(dba, "bound before")

    def test_messages_of_one_transaction(self, db, dba, operator):
        wire = Portals(db.name, operator)
        sent = []
        for text in ("SELECT tenancy.begin_cross_tenant('{acme,globex}', 'pipeline')", "SELECT read_orders()", READ):
            sent += [wire.parse(b"", text), wire.bind(b"", b""), wire.execute(b"")]
        assert wire.extended(*sent)[1:] == ["a1,a2,a3,g1,g2"] * 2
        assert [text for text, _ in told(dba, "pipeline") if text] == ["SELECT read_orders()", READ]
        assert not wire.query(f"SELECT tenancy.begin_cross_tenant('{{acme,globex}}', 'one message'); SELECT read_orders(); {READ}")
        assert [text for text, _ in told(dba, "one message") if text] == ["SELECT read_orders()", READ]

    def test_function_calls_of_the_protocol(self, db, dba, operator):
        wire = Portals(db.name, operator)
        numbers = {name: value(dba, f"SELECT 'public.{name}()'::regprocedure::oid::int4") for name in ("read_orders", "enter_and_read")}
        wire.begin("called", "'1 hour'")
        assert wire.call(numbers["read_orders"]) == "a1,a2,a3,g1,g2"
        assert any("FROM orders" in text for text, _ in told(dba, "called") if text)
        assert not wire.query("SELECT tenancy.end_cross_tenant()")
        assert wire.call(numbers["enter_and_read"]) == "a1,a2,a3,g1,g2"
        assert any("FROM orders" in text for text, _ in told(dba, "by one call") if text)

    def test_one_statement_that_begins_and_reads(self, works, dba):
        before = len(told(dba, "by one call"))
        assert value(works, "SELECT enter_and_read()") == "a1,a2,a3,g1,g2"
        assert any("FROM orders" in text for text, _ in told(dba, "by one call")[before:] if text)

    def test_a_trigger_at_the_commit(self, works, dba):
        works.execute("CREATE TABLE later (n integer)")
        works.execute("""CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM tenancy.begin_cross_tenant('{acme,globex}', 'at the commit');
                INSERT INTO plain VALUES (read_orders());
                RETURN NULL;
            END$$""")
        works.execute("""CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON later DEFERRABLE INITIALLY DEFERRED
                         FOR EACH ROW EXECUTE FUNCTION at_commit()""")
        with sqlstate("25006"):
            works.execute("INSERT INTO later VALUES (1)")
        assert any("read_orders()" in text for text, _ in told(dba, "at the commit") if text)
        assert column(dba, "TABLE plain") == []

    def test_who_is_cut_off(self, db, dba, operator, connect):
        """What was sent before the client went is on record, though nobody knows how much of it arrived."""
        works = connect(operator)
        begin(works, "cut off", lasts="1 hour")
        pid = works.info.backend_pid

        def run():
            with pytest.raises(psycopg.Error):
                works.execute("SELECT item, pg_sleep(10) FROM orders")

        runs = threading.Thread(target=run)
        runs.start()
        eventually(lambda: value(dba, "SELECT state FROM pg_stat_activity WHERE pid = %s", [pid]) == "active")
        dba.execute("SELECT pg_terminate_backend(%s)", [pid])
        runs.join()
        assert ("SELECT item, pg_sleep(10) FROM orders", None) in told(dba, "cut off")

    def test_odd_texts(self, works, dba):
        reason = "why: \u00e4\u20ac\U0001f600 \"quoted\" 'and' \\ back\n\tslash"
        begin(works, reason, lasts="1 hour")
        statement = "SELECT '\u00e4\U0001f600 \\ \" ' || $q$'$q$ || count(*) /* " + "\u00e4" * 400 + " */ FROM orders"
        works.execute(statement)
        assert "".join(text for text, _ in told(dba, reason) if text) == statement
        for bad in ("x" * 256, "\u00e4" * 128, " \n"):
            works.execute("SELECT tenancy.end_cross_tenant()")
            with refused("PARAMETER_INVALID"):
                begin(works, bad)


class TestWriting:
    """In a scope for reading nothing is written, by no message of the protocol."""

    @pytest.mark.skipif(MAJOR < 16, reason="large objects are written in read-only transactions before PostgreSQL 16")
    @pytest.mark.xfail(strict=True, reason="nothing of ours is called before they are written")
    def test_large_objects_by_function_calls(self, db, dba, operator):
        wire = Portals(db.name, operator)
        wire.begin("large objects", "'1 hour'")
        create = value(dba, "SELECT 'lo_create(oid)'::regprocedure::oid::int4")
        assert wire.call_with(create, b"0") == "cannot execute lo_create() in a read-only transaction"
        assert column(dba, "SELECT oid FROM pg_largeobject_metadata") == []

    @pytest.mark.skipif(MAJOR < 16, reason="large objects are written in read-only transactions before PostgreSQL 16")
    @pytest.mark.xfail(strict=True, reason="nothing of ours is called before they are written")
    def test_large_objects_by_an_expression(self, works, dba):
        """An expression of PL/pgSQL is evaluated without the executor."""
        with sqlstate("25006"):
            works.execute("""DO $$
                DECLARE
                    loot text;
                    place oid;
                BEGIN
                    BEGIN
                        loot := enter_and_read();
                    EXCEPTION WHEN division_by_zero THEN NULL;
                    END;
                    place := lo_from_bytea(0, loot::bytea);
                END$$""")
        assert column(dba, "SELECT oid FROM pg_largeobject_metadata") == []

    def test_what_was_read_in_a_savepoint(self, works, dba):
        for end in ("RELEASE s", "ROLLBACK TO s"):
            works.execute("BEGIN")
            works.execute("SAVEPOINT s")
            begin(works)
            loot = value(works, READ)
            works.execute(end)
            works.execute("SELECT tenancy.end_cross_tenant()")
            with sqlstate("25006"):
                works.execute("INSERT INTO plain VALUES (%s)", [loot])
            works.execute("ROLLBACK")
        assert column(dba, "TABLE plain") == []


class TestFigures:
    def test_mixed_use(self, db, dba, operator, connect):
        """Two operators write for several tenants while the application works: each tenant's usage, and every trail, is exact."""
        db.run(
            "CREATE TABLE parts (id bigserial PRIMARY KEY, tenant_id text, note text)",
            "SELECT tenancy.protect('parts'), tenancy.audit('parts'), tenancy.meter('parts', 'parts')",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON parts TO {operator}",
            f"GRANT USAGE ON SEQUENCE parts_id_seq TO {operator}",
        )
        grant(dba, read_only=False)
        failures = []

        def work(seed):
            try:
                with db.connect(operator) as connection:
                    for turn in range(40):
                        connection.execute("BEGIN")
                        begin(connection, f"turn {turn}")
                        connection.execute("INSERT INTO parts (tenant_id, note) SELECT t, 'x' FROM unnest('{acme,globex,acme}'::text[]) t")
                        connection.execute("SAVEPOINT s")
                        connection.execute("DELETE FROM parts WHERE id IN (SELECT id FROM parts ORDER BY random() LIMIT 1 FOR UPDATE SKIP LOCKED)")
                        with pytest.raises(psycopg.Error):
                            connection.execute("INSERT INTO parts (tenant_id) VALUES ('initech')")
                        connection.execute("ROLLBACK TO s")
                        query = """UPDATE parts SET tenant_id = CASE tenant_id WHEN 'acme' THEN 'globex' ELSE 'acme' END
                                   WHERE id IN (SELECT id FROM parts ORDER BY random() LIMIT 2 FOR UPDATE SKIP LOCKED)"""
                        connection.execute(query)
                        connection.execute(("COMMIT", "ROLLBACK")[(turn + seed) % 3 == 0])
            except Exception as failure:
                failures.append(failure)

        workers = [threading.Thread(target=work, args=[seed]) for seed in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert failures == []
        assert problems(db) == []
        assert column(dba, "SELECT tenant_id FROM tenancy.reconcile('parts')") == []
        counted = "SELECT tenant_id, count(*) FROM parts GROUP BY 1 ORDER BY 1"
        recorded = "SELECT tenant_id, sum(amount)::bigint FROM tenancy.usage_records WHERE resource = 'parts' GROUP BY 1 ORDER BY 1"
        assert dba.execute(counted).fetchall() == dba.execute(recorded).fetchall()
        trail = """SELECT tenant_id, count(*) FILTER (WHERE operation = 'INSERT') - count(*) FILTER (WHERE operation = 'DELETE')
                   FROM tenancy.audit_log WHERE relation = 'public.parts' GROUP BY 1 ORDER BY 1"""
        assert dba.execute(counted).fetchall() == dba.execute(trail).fetchall()
        # Each entry is in the trail of the tenant whose row it tells of.
        astray = "SELECT count(*) FROM tenancy.audit_log WHERE relation = 'public.parts' AND coalesce(new, old) ->> 'tenant_id' <> tenant_id"
        assert value(dba, astray) == 0
