"""What is on record of crossing tenants, whatever becomes of the transaction; behind a pooler; among thousands; and a statement for each."""

import time

import psycopg
import pytest
from cross_support import ACME, BOTH, GLOBEX, OPERATOR, TRAIL, begin, end, grant, operator, problems, revoke, scope_of, trail  # noqa: F401 — a fixture
from support import APP, eventually, items, refused, set_local, sqlstate, value
from test_function_call import Wire
from test_pgbouncer import backend_of, pgbouncer


class TestTrail:
    STATEMENTS = ("SELECT count(*) FROM orders", "SELECT item FROM orders")

    def told(self, scope, first=1):
        """What must be on record of both statements."""
        found = []
        for number, (statement, rows) in enumerate(zip(self.STATEMENTS, (1, 5), strict=True), first):
            found += [(None, "CROSS_TENANT", {"statement": statement, "statement_number": number}), (None, "CROSS_TENANT", {"rows": rows, "statement_number": number})]
        return found

    def work(self, connection):
        """A scope of a transaction, in which both statements have run; returns its number."""
        connection.execute("BEGIN")
        begin(connection, reason="of the trail")
        scope = scope_of(connection)["scope"]
        for statement in self.STATEMENTS:
            connection.execute(statement)
        return scope

    @pytest.mark.parametrize("how", ["COMMIT", "ROLLBACK", "an error", "terminated", "closed"])
    def test_it_stays(self, operator, dba, how):
        scope = self.work(operator)
        if how == "an error":
            with sqlstate("22012"):
                operator.execute("SELECT 1 / (amount - 1) FROM orders")
        elif how == "terminated":
            dba.execute("SELECT pg_terminate_backend(%s)", [operator.info.backend_pid])
            eventually(lambda: value(dba, "SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [operator.info.backend_pid]) == 0)
        elif how == "closed":
            pid = operator.info.backend_pid
            operator.close()
            eventually(lambda: value(dba, "SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [pid]) == 0)
        else:
            operator.execute(how)
        told = trail(dba, scope)
        begun = {"read_only": True, "transaction": True}
        assert told[:3] == [("acme", "BEGIN_CROSS_TENANT", begun), ("globex", "BEGIN_CROSS_TENANT", begun), (None, "BEGIN_CROSS_TENANT", {**begun, "tenants": 2})]
        assert told[5:9] == self.told(scope, 2)
        assert told[9:] == ([(None, "CROSS_TENANT", {"statement": "SELECT 1 / (amount - 1) FROM orders", "statement_number": 4})] if how == "an error" else [])
        assert problems(dba) == []

    def test_it_is_there_while_the_transaction_runs(self, operator, dba):
        scope = self.work(operator)
        assert trail(dba, scope)[5:] == self.told(scope, 2)

    def test_a_statement_that_does_not_end(self, operator, dba):
        operator.execute("BEGIN")
        begin(operator)
        scope = scope_of(operator)["scope"]
        operator.execute("SET statement_timeout = '100ms'")
        with sqlstate("57014"):
            operator.execute("SELECT pg_sleep(10) FROM orders")
        operator.execute("ROLLBACK")
        assert trail(dba, scope)[-1] == (None, "CROSS_TENANT", {"statement": "SELECT pg_sleep(10) FROM orders", "statement_number": 2})

    def test_what_planning_reads(self, operator, dba):
        """A function that says that it is immutable is called while the statement is planned, which then may fail."""
        operator.execute("""CREATE FUNCTION pg_temp.reads() RETURNS text LANGUAGE plpgsql IMMUTABLE AS
                            $$BEGIN RAISE '%', (SELECT string_agg(item, ',' ORDER BY item) FROM public.orders); END$$""")
        begin(operator, duration="5 minutes")
        scope = scope_of(operator)["scope"]
        before = len(trail(dba, scope))
        with pytest.raises(psycopg.errors.RaiseException, match="a1,a2,a3,g1,g2"):
            operator.execute("SELECT pg_temp.reads()")
        assert "reads()" in str(trail(dba, scope)[before:]) or "orders" in str(trail(dba, scope)[before:])

    def test_what_is_too_long_for_it(self, operator, dba):
        """Its end would be on no record."""
        with operator.transaction():
            begin(operator)
            assert value(operator, "SELECT length('" + "x" * 1_000_000 + "')") == 1_000_000
            with refused("PARAMETER_INVALID"), operator.transaction():
                operator.execute("SELECT '" + "x" * (1 << 20) + "', item FROM orders")

    def test_what_the_statement_reads_that_begins(self, operator, dba):
        """In a function of its own, and in another column."""
        operator.execute("""CREATE FUNCTION pg_temp.reads(begins boolean) RETURNS text LANGUAGE plpgsql AS $$
                            BEGIN
                                IF begins THEN PERFORM tenancy.begin_cross_tenant('{acme,globex}', 'in a function'); END IF;
                                RETURN (SELECT string_agg(item, ',' ORDER BY item) FROM public.orders);
                            END$$""")
        for statement in ("SELECT pg_temp.reads(true)", "SELECT CASE WHEN (tenancy.begin_cross_tenant('{acme,globex}', 'beside') IS NULL) IS NOT NULL THEN pg_temp.reads(false) END"):
            with operator.transaction():
                assert value(operator, statement) == "a1,a2,a3,g1,g2"
                scope = scope_of(operator)["scope"]
            told = [said for _, operation, said in trail(dba, scope) if operation == "CROSS_TENANT"]
            texts = {said["statement_number"]: said["statement"] for said in told if "statement" in said and "context()" not in said["statement"]}
            assert "orders" in str(texts) or "reads(" in str(texts), statement
            assert any(said.get("rows") == 1 and said["statement_number"] in texts for said in told), statement

    def test_a_function_call_of_the_protocol(self, db, operator, dba):
        db.run("""CREATE OR REPLACE FUNCTION public.it_read_all() RETURNS text LANGUAGE plpgsql AS
                  $$BEGIN RETURN (SELECT string_agg(item, ',' ORDER BY item) FROM public.orders); END$$""")
        function = value(dba, "SELECT 'public.it_read_all()'::regprocedure::oid::int4")
        wire = Wire(db.name, OPERATOR)
        assert not wire.query("SELECT tenancy.begin_cross_tenant('{acme,globex}', 'by hand', '5 minutes')")
        scope = value(dba, "SELECT max(detail ->> 'scope') FROM tenancy.audit_log WHERE detail ->> 'reason' = 'by hand'")
        assert wire.call(function) == "a1,a2,a3,g1,g2"
        told = [said for _, operation, said in trail(dba, scope) if operation == "CROSS_TENANT"]
        assert "orders" in told[0]["statement"] and told[1]["rows"] == 1
        revoke(dba)
        assert wire.call(function)[b"C"] == "42501"
        wire.socket.close()

    def test_each_tenant_sees_that_somebody_was_there_and_no_more(self, operator, app, dba):
        scope = self.work(operator)
        operator.execute("COMMIT")
        for tenant in ("acme", "globex", "initech"):
            with app.transaction():
                set_local(app, tenant)
                seen = app.execute(TRAIL, [str(scope)]).fetchall()
            assert [operation for _, operation, _ in seen] == (["BEGIN_CROSS_TENANT"] if tenant != "initech" else [])
            assert "globex" not in str(seen) or tenant == "globex"
            assert all(detail["reason"] == "of the trail" for _, _, detail in seen)


class TestPooler:
    def test_a_scope_of_a_transaction_is_left_to_nobody(self, db, operator, dba):
        with pgbouncer(db, [OPERATOR]) as pooler, pooler.connect(OPERATOR) as one, pooler.connect(OPERATOR) as other:
            for finish in ("COMMIT", "ROLLBACK"):
                one.execute("BEGIN")
                begin(one)
                pid = backend_of(one)
                assert items(one) == BOTH
                one.execute(finish)
                assert backend_of(other) == pid
                for client in (other, one):
                    with refused("TENANT_CONTEXT_MISSING"):
                        items(client)
                    assert scope_of(client) is None
                    assert end(client) is False

    def test_a_scope_of_a_time_is_of_the_server_connection(self, db, operator, dba):
        """As a plain SET is: who has that connection next is in the scope, if it is of the same role. Behind a pooler a role refuses what was left over."""
        with pgbouncer(db, [OPERATOR]) as pooler, pooler.connect(OPERATOR) as one, pooler.connect(OPERATOR) as other:
            begin(one, duration="5 minutes")
            pid = backend_of(one)
            assert items(one) == BOTH
            assert backend_of(other) == pid
            assert items(other) == BOTH  # the same role, in the same scope: it is on record as such
            assert end(other) is True

    def test_what_was_left_over_is_refused(self, db, operator, dba):
        dba.execute(f"ALTER ROLE {OPERATOR} SET tenancy.session_context = 'refuse'")
        with pgbouncer(db, [OPERATOR]) as pooler, pooler.connect(OPERATOR) as one, pooler.connect(OPERATOR) as other:
            begin(one, duration="5 minutes")
            for client in (other, one):
                with refused("TENANT_CONTEXT_MISSING") as caught:
                    items(client)
                assert caught.detail["session_context"] == "refuse"
            with one.transaction():
                end(one)
                begin(one)
                assert items(one) == BOTH
            with refused("TENANT_CONTEXT_MISSING"):
                items(other)


def test_many_tenants(db, operator, dba):
    """Three thousand, at once: begun and read in seconds, each with its entry."""
    dba.execute("CREATE TABLE IF NOT EXISTS many (tenant_id text NOT NULL, n integer)")
    dba.execute("SELECT count(tenancy.create_tenant('many-' || n)) FROM generate_series(1, 3000) n")
    dba.execute("INSERT INTO many SELECT 'many-' || n, n FROM generate_series(1, 3000) n")
    dba.execute("INSERT INTO many VALUES ('acme', 0)")
    dba.execute("SELECT tenancy.protect('many')")
    dba.execute("GRANT SELECT ON many TO it_data")
    dba.execute("ANALYZE many")
    grant(dba, "{*}")
    try:
        before = time.monotonic()
        with operator.transaction():
            begin(operator, "{*}", "for all of them")
            scope = scope_of(operator)["scope"]
            assert value(operator, "SELECT count(*) FROM many") == 3001
            assert value(operator, "SELECT count(DISTINCT tenant_id) FROM many") == 3001
        assert time.monotonic() - before < 20
        begun = "SELECT count(DISTINCT tenant_id), count(*) FROM tenancy.audit_log WHERE operation = 'BEGIN_CROSS_TENANT' AND detail ->> 'scope' = %s"
        tenants = value(dba, "SELECT count(*) FROM tenancy.tenants")
        assert dba.execute(begun, [str(scope)]).fetchone() == (tenants, tenants + 1)
        assert value(dba, "SELECT count(*) FROM tenancy.verify_audit('many-17')") == 0
        # And one after another.
        before = time.monotonic()
        visits = "SELECT count(*), sum(rows), sum((result -> 0 ->> 'n')::int) FROM tenancy.for_each_tenant('SELECT n FROM many', role => %s)"
        assert dba.execute(visits, [OPERATOR]).fetchone() == (tenants, 3001, 3000 * 3001 // 2)
        assert time.monotonic() - before < 20
    finally:
        dba.execute("DROP TABLE many")
        dba.execute("DELETE FROM _tenancy.tenants WHERE id LIKE 'many-%'")


def test_for_each_tenant_in_an_application(db, dba, connect, app):
    """As a migration would use it: what fails for one is done for none, and says for which."""
    dba.execute(f"GRANT EXECUTE ON FUNCTION tenancy.for_each_tenant TO {APP}")
    visits = "SELECT tenant_id, rows, result FROM tenancy.for_each_tenant(%s, %s)"
    shops = ["acme", "globex", "initech", "umbrella"]
    try:
        rows = app.execute(visits, ["SELECT item FROM orders ORDER BY item", shops]).fetchall()
        assert [(tenant, count, [row["item"] for row in result]) for tenant, count, result in rows] == [
            ("acme", 3, ACME), ("globex", 2, GLOBEX), ("initech", 1, ["i1"]), ("umbrella", 0, [])
        ]  # fmt: skip
        with pytest.raises(psycopg.errors.UniqueViolation) as caught:
            app.execute(visits, ["INSERT INTO orders (item) VALUES ('g1')", shops])
        assert caught.value.diag.constraint_name == "orders_item_key"
        assert 'tenancy.for_each_tenant, tenant "globex"' in caught.value.diag.context
        with pytest.raises(psycopg.errors.CheckViolation) as caught:
            app.execute(visits, ["UPDATE orders SET amount = 0", shops])
        assert caught.value.diag.constraint_name == "orders_amount_positive"
        assert value(dba, "SELECT count(*) FROM orders WHERE amount = 1") == 6
        with app.transaction(force_rollback=True):
            assert [count for _, count, _ in app.execute(visits, ["DELETE FROM orders", shops])] == [3, 2, 1, 0]
        with refused("TENANT_CONTEXT_MISSING"):
            items(app)
        # An error that is caught leaves no tenant either.
        with app.transaction():
            with pytest.raises(psycopg.errors.DivisionByZero), app.transaction():
                app.execute(visits, ["SELECT 1 / 0", shops])
            with refused("TENANT_CONTEXT_MISSING"), app.transaction():
                items(app)
            set_local(app, "globex")
            assert items(app) == GLOBEX
        # Interrupted, it ends.
        app.execute("SET statement_timeout = '200ms'")
        with sqlstate("57014"):
            app.execute(visits, ["SELECT pg_sleep(0.15)", shops])
        app.execute("RESET statement_timeout")
        assert value(app, "SELECT tenancy.context() ->> 'source'") == "none"
    finally:
        dba.execute(f"REVOKE EXECUTE ON FUNCTION tenancy.for_each_tenant FROM {APP}")
