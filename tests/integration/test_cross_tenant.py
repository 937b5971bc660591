"""Crossing tenants between sessions: a scope ends when it should in every open connection, and its statements are about its tenants alone."""

import time
from contextlib import contextmanager

import psycopg
import pytest
from cross_support import ACME, BOTH, CREW, GLOBEX, OPERATOR, begin, end, grant, operator, revoke, scope_of, trail  # noqa: F401 — a fixture
from support import OWNER, column, items, refused, set_local, set_session, value
from test_parallel import parallel, workers_launched

# How a session may be in the middle of a scope.
BEGUN = {
    "a scope of a time": (None, "5 minutes"),
    "of a time, in a transaction": ("BEGIN", "5 minutes"),
    "of a transaction": ("BEGIN", None),
    "of a transaction, REPEATABLE READ": ("BEGIN ISOLATION LEVEL REPEATABLE READ", None),
    "of a transaction, SERIALIZABLE": ("BEGIN ISOLATION LEVEL SERIALIZABLE", None),
    "of a transaction, READ ONLY": ("BEGIN READ ONLY", None),
}
ASKED = {
    "query": "SELECT item FROM orders ORDER BY item",
    "prepared": "EXECUTE asks",
    "cursor": "FETCH ALL FROM reads",
    "function": "SELECT * FROM it_items()",
    "block": "SELECT item FROM it_block() AS item",
}


@contextmanager
def in_scopes(db, connect, duration=None):
    """Sessions in the middle of a scope each, which have read all that they may: (name, connection, query)."""
    db.run(
        "CREATE OR REPLACE FUNCTION it_items() RETURNS SETOF text LANGUAGE sql STABLE AS 'SELECT item FROM public.orders ORDER BY item'",
        """CREATE OR REPLACE FUNCTION it_block() RETURNS SETOF text LANGUAGE plpgsql AS
           $$BEGIN RETURN QUERY SELECT o.item FROM public.orders o ORDER BY 1; END$$""",
    )
    sessions = []
    for begun, (how, of_a_time) in BEGUN.items():
        for asked, query in ASKED.items():
            if asked == "cursor" and not how:
                continue
            session = connect(OPERATOR)
            session.execute("SET plan_cache_mode = force_generic_plan")
            session.execute("PREPARE asks AS " + ASKED["query"])
            if how:
                session.execute(how)
            begin(session, duration=of_a_time and (duration or of_a_time))
            if asked == "cursor":
                session.execute("DECLARE reads SCROLL CURSOR FOR " + ASKED["query"])
                assert column(session, "FETCH 1 FROM reads") == BOTH[:1]
                session.execute("MOVE ABSOLUTE 0 FROM reads")
            else:
                assert column(session, query) == BOTH, begun
            sessions.append((f"{begun}, {asked}", session, query))
    yield sessions


def not_refused(sessions, why):
    """Which of them read on."""
    found = {}
    for name, session, query in sessions:
        try:
            found[name] = column(session, query)
        except psycopg.Error as error:
            if error.sqlstate != "42501" or f'"cross_tenant":"{why}"' not in str(error.diag.message_detail):
                found[name] = str(error)
    return found


class TestItsEnd:
    def test_of_its_time(self, db, connect, operator):
        until = begin(operator, duration="0.4 seconds")
        assert value(operator, "SELECT %s::timestamptz - clock_timestamp() BETWEEN '0' AND '0.4 seconds'", [until])
        assert items(operator) == BOTH
        time.sleep(0.5)
        for _ in range(2):
            with refused("TENANT_ACCESS_DENIED") as caught:
                items(operator)
            assert caught.detail["cross_tenant"] == "expired"
        assert value(operator, "SELECT tenancy.context() ->> 'error'") == "TENANT_ACCESS_DENIED"
        # What is no tenant's goes on; and so does the session, when it has left the scope.
        assert value(operator, "SELECT 1") == 1
        assert end(operator) is True
        with refused("TENANT_CONTEXT_MISSING"):
            items(operator)
        begin(operator, duration="5 minutes")
        assert items(operator) == BOTH

    def test_who_comes_after_it(self, operator, dba):
        """Behind a pooler, who gets the connection next begins a scope, or sets its tenant, as if nothing had been."""
        begin(operator, duration="0.2 seconds")
        with refused("TENANT_ACCESS_DENIED"):
            begin(operator)
        time.sleep(0.3)
        begin(operator, duration="0.2 seconds")
        assert items(operator) == BOTH
        time.sleep(0.3)
        dba.execute(f"GRANT SET ON PARAMETER tenancy.tenant_id TO {OPERATOR}")
        with operator.transaction():
            operator.execute("SET LOCAL tenancy.tenant_id = 'acme'")
            assert set(value(operator, "SELECT array_agg(DISTINCT tenant_id) FROM orders")) == {"acme"}
            operator.execute("SET LOCAL max_parallel_workers_per_gather = 2; SET LOCAL parallel_setup_cost = 0; SET LOCAL parallel_tuple_cost = 0; SET LOCAL min_parallel_table_scan_size = 0")
            assert set(value(operator, "SELECT array_agg(DISTINCT tenant_id) FROM orders")) == {"acme"}
        dba.execute(f"REVOKE SET ON PARAMETER tenancy.tenant_id FROM {OPERATOR}")
        assert end(operator) is False

    def test_of_its_time_in_the_middle_of_whatever(self, db, connect, operator):
        timed = {name: how for name, how in BEGUN.items() if how[1]}
        with in_scopes(db, connect, duration="3 seconds") as sessions:
            sessions = [session for session in sessions if any(session[0].startswith(name + ",") for name in timed)]
            time.sleep(3.1)
            assert not_refused(sessions, "expired") == {}

    def test_of_what_was_granted(self, db, connect, operator, dba):
        grant(dba, until="3 seconds")
        with in_scopes(db, connect) as sessions:
            time.sleep(3.1)
            # Whether it is over or was taken away is the same to who reads on.
            found = not_refused(sessions, "revoked")
            assert {name: told for name, told in found.items() if "expired" not in told} == {}
        with refused("TENANT_ACCESS_DENIED") as caught:
            begin(operator)
        assert caught.detail["tenant_id"] == "acme"

    @pytest.mark.parametrize("tenants", [None, "{globex}"])
    def test_by_revocation(self, db, connect, operator, dba, tenants):
        with in_scopes(db, connect) as sessions:
            assert revoke(dba, tenants) == (2 if tenants is None else 1)
            assert not_refused(sessions, "revoked") == {}
            # Given back, the scope is as good as it was.
            grant(dba)
            again = next(session for name, session, _ in sessions if name == "a scope of a time, query")
            assert items(again) == BOTH

    def test_by_a_shorter_grant(self, db, connect, operator, dba):
        with in_scopes(db, connect) as sessions:
            grant(dba, until="0.5 seconds")
            assert not_refused(sessions[:1], "revoked") == {sessions[0][0]: BOTH}
            time.sleep(0.6)
            found = not_refused(sessions, "revoked")
            assert {name: told for name, told in found.items() if "expired" not in told} == {}

    def test_a_longer_grant_lengthens_no_scope(self, operator, dba):
        grant(dba, until="0.4 seconds")
        begin(operator, duration="5 minutes")
        grant(dba)
        time.sleep(0.5)
        with refused("TENANT_ACCESS_DENIED") as caught:
            items(operator)
        assert caught.detail["cross_tenant"] == "expired"

    def test_by_the_end_of_membership(self, db, connect, operator, dba):
        revoke(dba)
        grant(dba, role=CREW)
        with in_scopes(db, connect) as sessions:
            dba.execute(f"REVOKE {CREW} FROM {OPERATOR}")
            assert not_refused(sessions, "revoked") == {}
            dba.execute(f"GRANT {CREW} TO {OPERATOR}")

    def test_what_is_granted_twice_is_there_until_both_are_gone(self, operator, dba):
        grant(dba, role=CREW)
        begin(operator, duration="5 minutes")
        revoke(dba)
        assert items(operator) == BOTH
        revoke(dba, role=CREW)
        with refused("TENANT_ACCESS_DENIED"):
            items(operator)

    def test_a_revocation_that_is_rolled_back(self, operator, dba):
        begin(operator, duration="5 minutes")
        dba.execute("BEGIN")
        revoke(dba)
        assert items(operator) == BOTH
        dba.execute("ROLLBACK")
        assert items(operator) == BOTH

    @pytest.mark.parametrize("how", ["BEGIN", "BEGIN ISOLATION LEVEL REPEATABLE READ", None])
    def test_writing_is_taken_away(self, operator, dba, how):
        grant(dba, read_only=False)
        if how:
            operator.execute(how)
        begin(operator, duration=None if how else "5 minutes")
        assert operator.execute("UPDATE orders SET amount = amount").rowcount == 5
        grant(dba, "{globex}", read_only=True)
        for statement in ("UPDATE orders SET amount = 2", "TABLE orders"):
            with refused("TENANT_ACCESS_DENIED") as caught:
                operator.execute(statement)
            assert caught.detail["cross_tenant"] == "revoked"
            operator.execute("ROLLBACK") if how else None
            if how:
                break
        assert value(dba, "SELECT max(amount) FROM orders") == 1

    def test_tenants_that_come_later_are_in_no_scope_that_was_begun(self, db, operator, dba):
        grant(dba, "{*}")
        begin(operator, "{*}", duration="5 minutes")
        before = items(operator)
        tenant = db.new_tenant("later")
        try:
            assert items(operator) == before
            end(operator)
            begin(operator, "{*}", duration="5 minutes")
            assert items(operator) == sorted([*before, "later"])
        finally:
            end(operator)
            dba.execute("DELETE FROM orders WHERE tenant_id = %s", [tenant])
            dba.execute("DELETE FROM _tenancy.tenants WHERE id = %s", [tenant])


class TestSessions:
    def test_each_has_its_own(self, operator, connect, dba):
        others = [connect(OPERATOR) for _ in range(3)]
        begin(others[0], "{acme}", duration="5 minutes")
        begin(others[1], "{globex}", duration="5 minutes")
        begin(operator, duration="5 minutes")
        for _ in range(2):
            assert items(others[0]) == ACME
            assert items(others[1]) == GLOBEX
            assert items(operator) == BOTH
            with refused("TENANT_CONTEXT_MISSING"):
                items(others[2])
        assert len({scope_of(session)["scope"] for session in (operator, *others[:2])}) == 3
        end(others[0])
        assert items(operator) == BOTH

    def test_in_repeatable_read_what_is_there_is_what_was(self, operator, dba):
        operator.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        begin(operator)
        assert items(operator) == BOTH
        dba.execute("INSERT INTO orders (tenant_id, item) VALUES ('acme', 'a4'), ('initech', 'i2')")
        try:
            assert items(operator) == BOTH
            operator.execute("COMMIT")
            operator.execute("BEGIN")
            begin(operator)
            assert items(operator) == sorted([*BOTH, "a4"])
            operator.execute("ROLLBACK")
        finally:
            dba.execute("DELETE FROM orders WHERE item IN ('a4', 'i2')")

    def test_in_parallel(self, db, operator, dba):
        db.run("CREATE TABLE events (tenant_id text NOT NULL, n integer) WITH (parallel_workers = 2)", role=OWNER)
        sizes = {"acme": 3000, "globex": 2000, "initech": 1000}
        for tenant, size in sizes.items():
            dba.execute("INSERT INTO events SELECT %s, n FROM generate_series(1, %s) n", [tenant, size])
        db.run("SELECT tenancy.protect('events', create_index => false)", role=OWNER)
        dba.execute("ANALYZE events")
        count = "SELECT count(*) FROM events"
        parallel(operator)
        for is_local in (False, True):
            if is_local:
                operator.execute("BEGIN")
            begin(operator, duration=None if is_local else "5 minutes")
            scope = scope_of(operator)["scope"]
            assert workers_launched(operator, count) >= 1
            assert value(operator, count) == 5000
            assert column(operator, "SELECT DISTINCT tenant_id FROM events ORDER BY 1") == ["acme", "globex"]
            assert value(operator, "SELECT sum(e.n) FROM events e JOIN orders o USING (tenant_id)") == 3 * 3000 * 3001 // 2 + 2 * 2000 * 2001 // 2
            if is_local:
                operator.execute("COMMIT")
            else:
                end(operator)
            # A worker tells nothing: each statement is on record once, with the rows of all.
            told = [said for _, operation, said in trail(dba, scope) if operation == "CROSS_TENANT"]
            counted = [said["statement_number"] for said in told if said.get("statement") == count]
            assert [said["rows"] for said in told if "rows" in said and said["statement_number"] in counted] == [1]
            with refused("TENANT_CONTEXT_MISSING"):
                value(operator, count)
        begin(operator, duration="5 minutes")
        operator.execute("SET plan_cache_mode = force_generic_plan")
        operator.execute("PREPARE counts AS " + count)
        assert value(operator, "EXECUTE counts") == 5000
        revoke(dba, "{globex}")
        with refused("TENANT_ACCESS_DENIED"):
            value(operator, "EXECUTE counts")


class TestStatements:
    @pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan", "auto"])
    def test_prepared_ones_are_of_whom_they_run_for(self, connect, dba, make_role, mode):
        make_role(OPERATOR, may_set=True)
        grant(dba)
        session = connect(OPERATOR)
        session.prepare_threshold = 0
        session.execute(f"SET plan_cache_mode = {mode}")
        query = "SELECT item FROM orders WHERE amount >= %s ORDER BY item"

        def asked():
            return [item for (item,) in session.execute(query, [1])]

        for _ in range(8):  # a generic plan becomes an option after five
            with session.transaction():
                set_local(session, "initech")
                assert asked() == ["i1"]
            with session.transaction():
                begin(session)
                assert asked() == BOTH
                end(session)
                begin(session, "{globex}")
                assert asked() == GLOBEX
            with refused("TENANT_CONTEXT_MISSING"):
                asked()
            begin(session, "{acme}", duration="5 minutes")
            assert asked() == ACME
            end(session)
            with session.transaction():
                set_local(session, "acme")
                assert asked() == ACME
        known = session.execute("SELECT count(*) FROM pg_prepared_statements WHERE statement LIKE 'SELECT item FROM orders%'").fetchone()[0]
        assert known == 1  # or they were not prepared at all
        revoke(dba)

    def test_prepared_writes(self, operator, dba):
        grant(dba, read_only=False)
        operator.prepare_threshold = 0
        for turn in range(7):
            operator.execute("BEGIN")
            begin(operator)
            assert operator.execute("UPDATE orders SET amount = %s", [turn + 2]).rowcount == 5
            operator.execute("INSERT INTO orders (tenant_id, item) VALUES (%s, %s)", ["globex", "new"])
            with pytest.raises(psycopg.Error), operator.transaction():
                operator.execute("INSERT INTO orders (tenant_id, item) VALUES (%s, %s)", ["initech", "new"])
            assert operator.execute("DELETE FROM orders").rowcount == 6
            operator.execute("ROLLBACK")
        assert value(dba, "SELECT count(*) FROM orders") == 6

    def test_server_side_cursor(self, operator, dba):
        with operator.transaction():
            begin(operator)
            scope = scope_of(operator)["scope"]
            with operator.cursor("named") as cursor:
                cursor.execute("SELECT item FROM orders ORDER BY item")
                assert cursor.fetchmany(2) == [("a1",), ("a2",)]
                assert [item for (item,) in cursor] == BOTH[2:]
        told = trail(dba, scope)
        assert sum(said.get("rows", 0) for _, _, said in told if any(
            other.get("statement_number") == said.get("statement_number") and "orders" in other.get("statement", "") for _, _, other in told
        )) == len(BOTH)  # fmt: skip

    def test_a_cursor_is_of_the_scope_that_it_was_opened_in(self, connect, dba, make_role):
        make_role(OPERATOR, may_set=True)
        grant(dba)
        session = connect(OPERATOR)
        reads = "DECLARE reads CURSOR FOR SELECT item FROM orders ORDER BY item"

        def other_scope():
            end(session)
            begin(session, "{acme}")

        def other_tenant():
            end(session)
            set_local(session, "acme")

        for leave in (lambda: end(session), other_scope, other_tenant):
            session.execute("BEGIN")
            begin(session)
            session.execute(reads)
            assert column(session, "FETCH 1 FROM reads") == ["a1"]
            leave()
            with refused("TENANT_ACCESS_DENIED"):
                column(session, "FETCH ALL FROM reads")
            session.execute("ROLLBACK")
        # And the other way round.
        session.execute("BEGIN")
        set_local(session, "initech")
        session.execute(reads)
        begin(session)
        with pytest.raises(psycopg.Error) as caught:
            column(session, "FETCH ALL FROM reads")
        assert caught.value.sqlstate in ("42501", "55000")
        session.execute("ROLLBACK")
        # None outlives its transaction.
        begin(session, duration="5 minutes")
        with pytest.raises(psycopg.Error):
            session.execute("DECLARE kept CURSOR WITH HOLD FOR SELECT item FROM orders ORDER BY item")
            column(session, "FETCH ALL FROM kept")
        revoke(dba)

    def test_parameters_and_binary_results(self, operator, dba):
        with operator.transaction():
            begin(operator)
            scope = scope_of(operator)["scope"]
            cursor = operator.cursor(binary=True)
            assert cursor.execute("SELECT amount FROM orders WHERE tenant_id = %s AND item = ANY (%s)", ["acme", ["a1", "g1"]]).fetchall() == [(1,)]
        # As the server was given it: with numbers in place of what is bound.
        assert {"statement": "SELECT amount FROM orders WHERE tenant_id = $1 AND item = ANY ($2)", "statement_number": 2} in [said for _, _, said in trail(dba, scope)]

    def test_pipelines_and_copy(self, operator, dba):
        if psycopg.Pipeline.is_supported():
            with operator.transaction(), operator.pipeline():
                operator.execute("SELECT tenancy.begin_cross_tenant('{acme,globex}', 'a pipeline')")
                cursors = [operator.execute("SELECT item FROM orders ORDER BY item") for _ in range(3)]
            assert [[item for (item,) in cursor] for cursor in cursors] == [BOTH] * 3
            with refused("TENANT_CONTEXT_MISSING"):
                items(operator)
        with operator.transaction():
            begin(operator)
            for copied in ("COPY orders (item) TO STDOUT", "COPY (SELECT item FROM orders) TO STDOUT"):
                with operator.cursor().copy(copied) as copy:
                    assert sorted(item for (item,) in copy.rows()) == BOTH


def test_in_a_session_that_has_a_tenant(connect, dba, make_role):
    """The scope goes before the tenant, and gives it back."""
    make_role(OPERATOR, may_set=True)
    make_role(CREW, tenant_id="acme")  # bound to one
    grant(dba)
    grant(dba, role=CREW)
    session, bound = connect(OPERATOR), connect(CREW)
    set_session(session, "initech")
    assert items(session) == ["i1"] and items(bound) == ACME
    for connection, rows in ((session, ["i1"]), (bound, ACME)):
        begin(connection, duration="5 minutes")
        assert items(connection) == BOTH
        end(connection)
        assert items(connection) == rows
        begin(connection, duration="5 minutes")
        connection.execute("DISCARD ALL")
        assert scope_of(connection) is None
    assert items(bound) == ACME
    for role in (OPERATOR, CREW):
        revoke(dba, role=role)
