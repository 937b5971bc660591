"""Crossing tenants on servers of every kind: a standby, after a crash, not preloaded, restored from a dump, in other encodings."""

import os
from contextlib import contextmanager

import psycopg
import pytest
from cross_support import ACME, BOTH, CREW, OPERATOR, TRAIL, begin, end, grant, operator, problems, revoke, scope_of, trail  # noqa: F401 — a fixture
from support import DATA, MAJOR, Database, items, pg_program, refused, server_of, server_tool, set_local, sqlstate, value
from test_standby import standby, wait_for_replay  # noqa: F401 — a fixture


class TestStandby:
    def test_a_scope_is_refused_and_reading_goes_on(self, db, standby, operator, dba, make_role, server):  # noqa: F811
        server.run(f"GRANT SET ON PARAMETER tenancy.tenant_id TO {OPERATOR}")
        wait_for_replay(db, standby)
        replica = standby.connect(OPERATOR)
        try:
            for arguments in ("'{acme}', 'on a standby'", "'{acme}', 'on a standby', '5 minutes'", "'{*}', 'on a standby'"):
                with sqlstate("25006"):
                    replica.execute(f"SELECT tenancy.begin_cross_tenant({arguments})")
            assert scope_of(replica) is None
            assert end(replica) is False
            with replica.transaction():
                set_local(replica, "acme")
                assert items(replica) == ACME
            with sqlstate("25006"):
                replica.execute("SELECT tenancy.begin_cross_tenant('{acme}', 'again')")
        finally:
            replica.close()
        with standby.connect("postgres") as replica:
            with sqlstate("25006"):
                replica.execute("SELECT * FROM tenancy.for_each_tenant('SELECT 1', role => %s)", [OPERATOR])
            shown = "SELECT tenant_id, until::text, read_only FROM tenancy.cross_tenant_grants WHERE role = %s ORDER BY 1"
            assert replica.execute(shown, [OPERATOR]).fetchall() == [("acme", "infinity", True), ("globex", "infinity", True)]


@contextmanager
def server_of_its_own(name, *options):
    """With the shop and an operator who may cross to acme and globex."""
    name = f"it-cross-{name}-{os.getpid()}"
    server = server_of(server_tool("start", str(MAJOR), name, *options))
    try:
        server.create_roles()
        server.run(f"CREATE ROLE {OPERATOR} LOGIN IN ROLE {DATA}")
        database = Database(server, "it_cross_own")
        database.create_shop()
        with database.connect("postgres") as dba:
            grant(dba)
        yield name, database
    finally:
        server_tool("stop", name)


def test_a_crash():
    """What was read in a scope is on record, although nothing was committed, and the server was killed at once."""
    with server_of_its_own("crash", "--preload", "--durable") as (name, db):
        scopes, before = [], []
        for duration in (None, "5 minutes"):
            with db.connect(OPERATOR) as operator, db.connect("postgres") as dba:
                operator.execute("BEGIN")
                begin(operator, reason="before the crash", duration=duration)
                scopes.append(scope_of(operator)["scope"])
                assert items(operator) == BOTH
                if duration:
                    operator.execute("COMMIT")
                before.append(trail(dba, scopes[-1]))
                server_tool("crash", name)
                with pytest.raises(psycopg.OperationalError):
                    items(operator)
        with db.connect("postgres") as dba, db.connect(OPERATOR) as operator:
            for scope, expected in zip(scopes, before, strict=True):
                told = trail(dba, scope)
                assert [(tenant, operation) for tenant, operation, _ in told[:3]] == [(tenant, "BEGIN_CROSS_TENANT") for tenant in ("acme", "globex", None)]
                # Of each statement whose rows the client has had; how many they were may be lost.
                assert [said["statement"] for _, _, said in told if "statement" in said] == [said["statement"] for _, _, said in expected if "statement" in said]
            assert problems(dba) == []
            with refused("TENANT_CONTEXT_MISSING"):
                items(operator)
            begin(operator, duration="5 minutes")
            assert items(operator) == BOTH


def test_loaded_late():
    with server_of_its_own("late", "--no-preload") as (_, db), db.connect(OPERATOR) as operator, db.connect("postgres") as dba:
        begin(operator, duration="5 minutes")
        scope = scope_of(operator)["scope"]
        assert items(operator) == BOTH
        assert trail(dba, scope)[-1] == (None, "CROSS_TENANT", {"rows": 5, "statement_number": 2})
        revoke(dba, "{globex}")
        with refused("TENANT_ACCESS_DENIED"):
            items(operator)
        # What was set before the library came is no scope.
        with db.connect(OPERATOR) as late:
            try:
                late.execute("SET tenancy.cross_tenant = '7 10 9223372036854775807 w acme globex'")
            except psycopg.Error as error:
                assert error.sqlstate == "42501"
            with pytest.raises(psycopg.Error):
                items(late)
            assert scope_of(late) is None
        for start_up in ({"tenancy.cross_tenant": "7"},):
            try:
                with db.connect(OPERATOR, settings=start_up) as late, pytest.raises(psycopg.Error):
                    items(late)
            except psycopg.OperationalError:
                pass


def test_without_the_extension(server, make_role):
    make_role(OPERATOR)
    db = Database(server, "it_cross_dropped")
    try:
        db.create_shop()
        with db.connect("postgres") as dba, db.connect(OPERATOR) as operator:
            grant(dba)
            begin(operator, duration="5 minutes")
            assert items(operator) == BOTH
            dba.execute("SET tenancy.restoring = on")
            dba.execute("DROP EXTENSION tenancy CASCADE")
            # A scope of nothing: what is read is not to be told of, so it is not read.
            with pytest.raises(psycopg.Error):
                items(operator)
            operator.execute("RESET tenancy.cross_tenant")
            assert value(operator, "SELECT 1") == 1
            dba.execute("CREATE EXTENSION tenancy")
            assert dba.execute("TABLE tenancy.cross_tenant_grants").fetchall() == []
            db.run("SELECT tenancy.create_tenant(id) FROM unnest('{acme,globex}'::text[]) AS id")
            with refused("TENANT_ACCESS_DENIED"):
                begin(operator)
            grant(dba)
            begin(operator, duration="5 minutes")
            assert scope_of(operator)["tenants"] == ["acme", "globex"]
    finally:
        db.drop()


def test_dump_and_restore(db, operator, dba, tmp_path):
    """Grants come along; those of a role that is gone do not stand in the way."""
    grant(dba, "{*}", until="2100-01-01", read_only=False, role=CREW)
    dba.execute("CREATE ROLE it_leaver")
    grant(dba, role="it_leaver")
    dba.execute("DROP ROLE it_leaver")
    shown = "SELECT role, tenant_id, until::text, read_only, granted_by, granted_at FROM tenancy.cross_tenant_grants WHERE role ~ '^it_' ORDER BY 1, 2"
    options = ["--host", db.server.host, "--port", db.server.port, "-U", "postgres"]
    pg_program("pg_dump", *options, "-Fc", "-f", str(tmp_path / "dump"), db.name)
    copy = Database(db.server, "it_cross_restored", extension=False)
    try:
        pg_program("pg_restore", *options, "--exit-on-error", "-d", copy.name, str(tmp_path / "dump"))
        kept = dba.execute(shown).fetchall()
        assert [(role, tenant) for role, tenant, *_ in kept] == [(CREW, "*"), (OPERATOR, "acme"), (OPERATOR, "globex")]
        assert copy.run(shown) == kept
        with copy.connect(OPERATOR) as session, session.transaction():
            begin(session, "{acme,initech}")
            assert items(session) == [*ACME, "i1"]
    finally:
        copy.drop()


@pytest.mark.parametrize("encoding, letters", [("LATIN1", "\u00e4\u00df"), ("EUC_JP", "\u8868\u5217"), ("UTF8", "\u00e4\u8868\U0001f600"), ("SQL_ASCII", "a")])
def test_letters(server, make_role, encoding, letters):
    make_role(OPERATOR)
    name = f"it_cross_{encoding.lower()}"
    db = Database(server, name, options=f"ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    try:
        db.create_shop()
        with db.connect("postgres", client_encoding="utf8") as dba, db.connect(OPERATOR, client_encoding="utf8") as operator:
            grant(dba)
            dba.execute(f"GRANT EXECUTE ON FUNCTION tenancy.for_each_tenant TO {OPERATOR}; GRANT SET ON PARAMETER tenancy.tenant_id TO {OPERATOR}")
            # Longer than a piece; a letter is never cut.
            statement = f"SELECT '{letters * 700}' AS \"{letters}\", count(*) FROM orders"
            for reason in (f"Pr{letters}fung", letters * (250 // len(letters.encode()))):
                begin(operator, reason=reason, duration="5 minutes")
                scope = scope_of(operator)["scope"]
                assert operator.execute(statement).fetchone() == (letters * 700, 5)
                end(operator)
                told = dba.execute(TRAIL, [str(scope)]).fetchall()
                assert reason.startswith(told[0][2]["reason"]) and len(told[0][2]["reason"]) > 4
                assert "".join(said["statement"] for _, _, said in told if said.get("statement_number") == 2 and "statement" in said) == statement
            rows = operator.execute("SELECT result FROM tenancy.for_each_tenant(%s, '{acme}')", [f"SELECT '{letters}' AS \"{letters}\""]).fetchall()
            assert rows == [([{letters: letters}],)]
            assert problems(dba) == []
            begin(operator, reason="more than there is room for", duration="5 minutes")
            end(operator)
            with refused("PARAMETER_INVALID"):
                begin(operator, reason=letters * 256)
    finally:
        db.drop()
