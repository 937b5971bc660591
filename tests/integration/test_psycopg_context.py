"""psycopg: how a session comes to its tenant, keeps it, and loses it."""

import itertools

import psycopg
import pytest
from support import APP, GUEST, items, refused, set_local, set_session, sqlstate, value

ACME, GLOBEX = ["a1", "a2", "a3"], ["g1", "g2"]


def test_without_a_tenant_there_are_no_rows(app):
    with refused("TENANT_CONTEXT_MISSING") as caught:
        items(app)
    assert "SET LOCAL tenancy.tenant_id" in caught.error.diag.message_hint
    with refused("TENANT_CONTEXT_MISSING"):
        app.execute("INSERT INTO orders (item) VALUES ('x')")
    app.execute("SET tenancy.missing_tenant = 'empty'")
    assert items(app) == []
    for write in ("INSERT INTO orders (item) VALUES ('x')", "UPDATE orders SET amount = 2", "DELETE FROM orders"):
        with refused("TENANT_CONTEXT_MISSING"):
            app.execute(write)


def test_set_local_lasts_for_the_transaction(app):
    for tenant, rows in (("acme", ACME), ("globex", GLOBEX), ("umbrella", [])):
        with app.transaction():
            app.execute(f"SET LOCAL tenancy.tenant_id = '{tenant}'")
            assert items(app) == rows
            assert value(app, "SELECT count(*) FROM orders WHERE tenant_id <> %s", [tenant]) == 0
        with refused("TENANT_CONTEXT_MISSING"):
            items(app)


def test_plain_set_lasts_for_the_session(app):
    app.execute("SET tenancy.tenant_id = 'acme'")
    assert items(app) == ACME
    with app.transaction():
        set_local(app, "globex")
        assert items(app) == GLOBEX
    assert items(app) == ACME
    app.execute("RESET tenancy.tenant_id")
    with refused("TENANT_CONTEXT_MISSING"):
        items(app)


def test_set_tenant_takes_a_bound_parameter(app):
    with app.transaction():
        assert value(app, "SELECT tenancy.set_tenant(%s)", ["acme"]) == "acme"
        assert items(app) == ACME
    assert value(app, "SELECT tenancy.set_tenant(%s, false)", ["globex"]) == "globex"
    assert items(app) == GLOBEX
    app.execute("SELECT tenancy.clear_tenant()")
    with refused("TENANT_CONTEXT_MISSING"):
        items(app)
    with refused("TENANT_ID_INVALID"):
        app.execute("SELECT tenancy.set_tenant(%s)", ["acme' OR true --"])
    with refused("TENANT_NOT_FOUND"):
        app.execute("SELECT tenancy.set_tenant(%s)", ["nobody"])


def test_startup_option(connect):
    app = connect(settings={"tenancy.tenant_id": "acme"})
    assert items(app) == ACME
    assert value(app, "SELECT tenancy.context() ->> 'source'") == "client"
    app.execute("SET tenancy.tenant_id = 'globex'")
    assert items(app) == GLOBEX
    app.execute("DISCARD ALL")
    assert items(app) == ACME


def test_startup_option_is_refused(db):
    with pytest.raises(psycopg.OperationalError, match='permission denied to set parameter "tenancy.tenant_id"'):
        db.connect(GUEST, settings={"tenancy.tenant_id": "acme"})
    with pytest.raises(psycopg.OperationalError, match="malformed tenant id"):
        db.connect(APP, settings={"tenancy.tenant_id": "no/tenant"})


def test_startup_option_cannot_take_off_what_a_role_was_given(db, make_role):
    role = make_role("it_strict", may_set=True, seal="transaction", session_context="refuse")
    for name, value_ in (("seal", "off"), ("session_context", "allow"), ("mode", "single"), ("default_tenant", "acme")):
        with pytest.raises(psycopg.OperationalError, match=f'permission denied to set parameter "tenancy.{name}"'):
            db.connect(role, settings={f"tenancy.{name}": value_})
    bound = make_role("it_bound", tenant_id="acme")
    with pytest.raises(psycopg.OperationalError, match="permission denied"):
        db.connect(bound, settings={"tenancy.tenant_id": "globex"})


def test_a_role_without_the_privilege_cannot_set_the_tenant(connect):
    guest = connect(GUEST)
    for attempt in (
        "SET tenancy.tenant_id = 'acme'",
        "SELECT set_config('tenancy.tenant_id', 'acme', true)",
        "SELECT tenancy.set_tenant('acme')",
        "ALTER ROLE CURRENT_USER SET tenancy.tenant_id = 'acme'",
        "CREATE FUNCTION pg_temp.f() RETURNS bigint LANGUAGE sql SET tenancy.tenant_id = 'acme' AS 'SELECT 1::bigint'",
    ):
        with sqlstate("42501"):
            guest.execute(attempt)
    with refused("TENANT_CONTEXT_MISSING"):
        items(guest)


def test_alter_role_binds_a_role_to_one_tenant(connect, make_role):
    bound = connect(make_role("it_bound", tenant_id="acme"))
    assert items(bound) == ACME
    assert value(bound, "SELECT tenancy.context() ->> 'source'") == "role"
    for attempt in ("SET tenancy.tenant_id = 'globex'", "SET LOCAL tenancy.tenant_id = 'globex'"):
        with sqlstate("42501"):
            bound.execute(attempt)
    with sqlstate("42501"):
        bound.execute("SELECT tenancy.set_tenant('globex')")
    for statement in ("RESET tenancy.tenant_id", "SET tenancy.tenant_id TO DEFAULT", "RESET ALL", "DISCARD ALL"):
        try:
            bound.execute(statement)
        except psycopg.errors.InsufficientPrivilege:
            pass  # refused is as good as without effect
        assert items(bound) == ACME, statement
    with refused("TENANT_ACCESS_DENIED"):
        bound.execute("INSERT INTO orders (tenant_id, item) VALUES ('globex', 'x')")


def test_discard_all_brings_a_bound_role_back(connect, make_role):
    bound = connect(make_role("it_bound_may_set", may_set=True, tenant_id="acme"))
    for back in ("RESET tenancy.tenant_id", "RESET ALL", "DISCARD ALL"):
        bound.execute("SET tenancy.tenant_id = 'globex'")
        assert items(bound) == GLOBEX
        bound.execute(back)
        assert items(bound) == ACME, back


def reported(connection, parameter=b"tenancy.tenant_id"):
    """What the server told the client of a parameter; a pooler restores it on another connection."""
    return connection.pgconn.parameter_status(parameter).decode()


def test_the_client_is_told_of_what_lasts(app):
    assert reported(app) == ""
    set_session(app, "globex")
    assert reported(app) == "globex"
    with app.transaction():
        app.execute("SET tenancy.tenant_id = 'acme'")
        assert reported(app) == "acme"
        raise psycopg.Rollback
    assert reported(app) == "globex"
    app.execute("DISCARD ALL")
    assert reported(app) == ""


def test_the_client_is_not_told_of_what_ends_with_the_transaction(app):
    set_session(app, "globex")
    with app.transaction():
        set_local(app, "acme")
        assert items(app) == ACME
        assert reported(app) == "globex"
        with app.transaction():
            set_local(app, "globex")
            app.execute("SET tenancy.tenant_id = 'acme'")
            set_local(app, "globex")
            # What would last if the transaction committed now.
            assert reported(app) == "acme"
            # SHOW and current_setting() say what is in force.
            assert app.execute("SHOW tenancy.tenant_id").fetchone() == ("globex",)
            assert app.execute("SELECT current_setting('tenancy.tenant_id')").fetchone() == ("globex",)
        assert reported(app) == "acme"
        assert items(app) == GLOBEX
    assert reported(app) == "acme"
    assert items(app) == ACME


def test_the_user_is_reported_in_the_same_way(dba):
    user = b"tenancy.user_id"
    dba.execute("SET tenancy.user_id = 'ada'")
    assert reported(dba, user) == "ada"
    with dba.transaction():
        dba.execute("SET LOCAL tenancy.user_id = 'grace'")
        assert reported(dba, user) == "ada"
        assert dba.execute("SHOW tenancy.user_id").fetchone() == ("grace",)
    dba.execute("RESET ALL")
    assert reported(dba, user) == ""


@pytest.mark.parametrize("at_once", [False, True], ids=["one by one", "at once"])
def test_savepoints_in_every_order_are_reported_as_they_end(app, at_once):
    """After each command the client knows what a commit would leave, whatever was set at whatever depth.

    Where commands are sent at once, the client is told of the last value only."""
    commands = ["SET tenancy.tenant_id = 'acme'", "SET LOCAL tenancy.tenant_id = 'globex'",
                "SET tenancy.tenant_id = 'globex'", "SET LOCAL tenancy.tenant_id = 'acme'", "SAVEPOINT s",
                "RELEASE s", "ROLLBACK TO s", "COMMIT AND CHAIN"]
    compared = 0
    for history in itertools.product(commands, repeat=4):
        sent = ["SET tenancy.tenant_id = 'tenant-before'", "BEGIN"]
        depth = 0
        for command in history:
            if command == "SAVEPOINT s":
                depth += 1
            elif command == "RELEASE s" and depth > 0:
                depth -= 1
            elif command in ("RELEASE s", "ROLLBACK TO s") and depth == 0:
                continue
            elif command == "COMMIT AND CHAIN":
                depth = 0
            sent.append(command)
        for commands_sent in ["; ".join(sent)] if at_once else sent:
            app.execute(commands_sent)
        told = reported(app)
        app.execute("COMMIT")
        left = app.execute("SHOW tenancy.tenant_id").fetchone()[0]
        assert (told, reported(app)) == (left, left), history
        compared += told != "tenant-before"
    assert compared > 1000


def test_misspelt_parameter_is_an_error(app):
    with sqlstate("42602"):
        app.execute("SET tenancy.tennant_id = 'acme'")


def test_savepoints_restore_the_context(app):
    with app.transaction():
        set_local(app, "acme")
        with pytest.raises(ZeroDivisionError), app.transaction():
            set_local(app, "globex")
            assert items(app) == GLOBEX
            raise ZeroDivisionError
        assert items(app) == ACME
        with app.transaction():
            set_local(app, "globex")
        assert items(app) == GLOBEX  # RELEASE keeps what was set, as with any parameter
        with sqlstate("22012"), app.transaction():
            set_local(app, "initech")
            app.execute("SELECT 1/0")
        assert items(app) == GLOBEX
    with refused("TENANT_CONTEXT_MISSING"):
        items(app)


def test_rollback_restores_the_session_context(app):
    set_session(app, "acme")
    with pytest.raises(ZeroDivisionError), app.transaction():
        set_session(app, "globex")
        assert items(app) == GLOBEX
        raise ZeroDivisionError
    assert items(app) == ACME


def test_sealed_role_stays_with_its_first_tenant(connect, make_role):
    sealed = connect(make_role("it_sealed", may_set=True, seal="transaction"))
    with sealed.transaction():
        set_local(sealed, "acme")
        assert items(sealed) == ACME
        for attempt in ("SET LOCAL tenancy.tenant_id = 'globex'", "SELECT tenancy.set_tenant('globex')"):
            with refused("TENANT_ACCESS_DENIED") as caught, sealed.transaction():
                sealed.execute(attempt)
            assert "globex" not in str(caught.error.diag.message_primary) + caught.error.diag.message_detail
        with sqlstate("42501"), sealed.transaction():
            sealed.execute("SET LOCAL tenancy.seal = 'off'")
        set_local(sealed, "acme")
        assert items(sealed) == ACME
    with sealed.transaction():
        set_local(sealed, "globex")
        assert items(sealed) == GLOBEX


def test_seal_survives_rollback_to_savepoint(connect, make_role):
    sealed = connect(make_role("it_sealed", may_set=True, seal="transaction"))
    with sealed.transaction():
        sealed.execute("SAVEPOINT s")
        set_local(sealed, "acme")
        assert items(sealed) == ACME
        sealed.execute("ROLLBACK TO SAVEPOINT s")
        with refused("TENANT_ACCESS_DENIED"), sealed.transaction():
            set_local(sealed, "globex")
            items(sealed)


def test_seal_of_one_transaction(app):
    with app.transaction():
        set_local(app, "acme")
        app.execute("SELECT tenancy.seal()")
        with refused("TENANT_ACCESS_DENIED"), app.transaction():
            set_local(app, "globex")
        assert items(app) == ACME
    with app.transaction():
        set_local(app, "globex")
        assert items(app) == GLOBEX


class TestSessionContextRefuse:
    """tenancy.session_context = 'refuse': nothing that an earlier transaction left behind is a context."""

    @pytest.fixture
    def role(self, make_role):
        return make_role("it_refuse", may_set=True, session_context="refuse")

    def test_plain_set_of_an_earlier_transaction(self, connect, role):
        app = connect(role)
        for left_over in (
            "SET tenancy.tenant_id = 'acme'",
            "SELECT set_config('tenancy.tenant_id', 'acme', false)",
        ):
            app.execute(left_over)
            for statement in ("SELECT * FROM orders", "INSERT INTO orders (item) VALUES ('x')", "DELETE FROM orders"):
                with refused("TENANT_CONTEXT_MISSING") as caught:
                    app.execute(statement)
                assert caught.error.diag.message_hint
        app.execute("SET tenancy.missing_tenant = 'empty'")
        with refused("TENANT_CONTEXT_MISSING"):
            items(app)
        with sqlstate("42501"):
            app.execute("SET tenancy.session_context = 'allow'")

    def test_a_rolled_back_set_local_does_not_renew_it(self, connect, role):
        app = connect(role)
        set_session(app, "acme")
        with pytest.raises(ZeroDivisionError), app.transaction():
            set_local(app, "globex")
            assert items(app) == GLOBEX
            raise ZeroDivisionError
        with refused("TENANT_CONTEXT_MISSING"):
            items(app)
        with app.transaction():
            app.execute("SAVEPOINT s")
            set_local(app, "globex")
            assert items(app) == GLOBEX
            app.execute("ROLLBACK TO SAVEPOINT s")
            with refused("TENANT_CONTEXT_MISSING"), app.transaction():
                items(app)

    def test_set_in_the_same_transaction_goes_on_working(self, connect, role):
        app = connect(role)
        for tenant, rows in (("acme", ACME), ("globex", GLOBEX)):
            with app.transaction():
                set_local(app, tenant)
                assert items(app) == rows
            with app.transaction():
                set_session(app, tenant)
                assert items(app) == rows
            with refused("TENANT_CONTEXT_MISSING"):
                items(app)

    def test_startup_option_goes_on_working(self, connect, role):
        app = connect(role, settings={"tenancy.tenant_id": "acme"})
        assert items(app) == ACME
        assert items(app) == ACME

    def test_bound_role_goes_on_working(self, connect, make_role):
        bound = connect(make_role("it_refuse_bound", tenant_id="acme", session_context="refuse"))
        assert items(bound) == ACME
        bound.execute("DISCARD ALL")
        assert items(bound) == ACME


class TestSuspension:
    """A suspended tenant is locked out of every open connection at its next statement."""

    def locked_out(self, connection):
        with refused("TENANT_SUSPENDED") as caught, connection.transaction():
            items(connection)
        assert caught.detail["status"] == "suspended"

    @pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
    def test_in_the_middle_of_a_transaction(self, db, app, dba, isolation):
        tenant = db.new_tenant("one", "two")
        app.execute("BEGIN ISOLATION LEVEL " + isolation)
        set_local(app, tenant)
        assert items(app) == ["one", "two"]
        dba.execute("SELECT tenancy.suspend_tenant(%s)", [tenant])
        self.locked_out(app)
        dba.execute("SELECT tenancy.resume_tenant(%s)", [tenant])
        assert items(app) == ["one", "two"]
        app.execute("ROLLBACK")

    def test_with_a_session_context(self, db, app, dba):
        tenant = db.new_tenant("one")
        set_session(app, tenant)
        for _ in range(3):
            assert items(app) == ["one"]
            dba.execute("SELECT tenancy.suspend_tenant(%s, 'invoice')", [tenant])
            self.locked_out(app)
            with refused("TENANT_SUSPENDED"):
                app.execute("INSERT INTO orders (item) VALUES ('two')")
            dba.execute("SELECT tenancy.resume_tenant(%s)", [tenant])
        dba.execute("SELECT tenancy.archive_tenant(%s)", [tenant])
        with refused("TENANT_SUSPENDED") as caught:
            items(app)
        assert caught.detail["status"] == "archived"

    def test_with_a_prepared_statement(self, db, app, dba):
        tenant = db.new_tenant("one")
        set_session(app, tenant)
        query = "SELECT item FROM orders WHERE amount > %s"
        for _ in range(8):
            assert app.execute(query, [0], prepare=True).fetchall() == [("one",)]
        dba.execute("SELECT tenancy.suspend_tenant(%s)", [tenant])
        with refused("TENANT_SUSPENDED"):
            app.execute(query, [0], prepare=True)

    def test_in_an_open_cursor(self, db, app, dba):
        tenant = db.new_tenant("one", "two", "three")
        with app.transaction():
            set_local(app, tenant)
            with app.cursor("open") as cursor:
                cursor.execute("SELECT item FROM orders")
                assert len(cursor.fetchmany(1)) == 1
                dba.execute("SELECT tenancy.suspend_tenant(%s)", [tenant])
                with refused("TENANT_SUSPENDED"), app.transaction():
                    cursor.fetchall()

    def test_takes_effect_at_commit(self, db, app, connect):
        tenant = db.new_tenant("one")
        set_session(app, tenant)
        dba = connect("postgres")
        dba.execute("BEGIN")
        dba.execute("SELECT tenancy.suspend_tenant(%s)", [tenant])
        assert items(app) == ["one"]
        dba.execute("ROLLBACK")
        assert items(app) == ["one"]

    def test_others_are_not_affected(self, db, app, dba):
        tenant = db.new_tenant("one")
        set_session(app, "acme")
        dba.execute("SELECT tenancy.suspend_tenant(%s)", [tenant])
        assert items(app) == ACME

    def test_a_tenant_that_is_created_is_found_at_once(self, app, dba):
        set_session(app, "newcomer")
        with refused("TENANT_NOT_FOUND"):
            items(app)
        dba.execute("SELECT tenancy.create_tenant('newcomer')")
        assert items(app) == []
