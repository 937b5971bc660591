"""Not preloaded: the library arrives with the first use in a session, and isolation does not depend on when."""

import os

import psycopg
import pytest
from support import APP, GUEST, Database, items, own_server, refused, set_local, set_session
from support import sqlstate, value

NAME = f"it-late-{os.getpid()}"
ACME, GLOBEX = ["a1", "a2", "a3"], ["g1", "g2"]


@pytest.fixture(scope="module")
def server():
    """A server of its own, in place of the one that the other files share."""
    with own_server(NAME, "--no-preload") as server:
        yield server


def loaded(connection):
    """Whether the library has been loaded: then the parameter has a description."""
    described = "SELECT count(*) FROM pg_settings WHERE name = 'tenancy.tenant_id' AND short_desc <> ''"
    return value(connection, described) == 1


def test_create_extension_says_what_preloading_adds(server):
    database = Database(server, "it_notice", extension=False)
    notices = []

    def note(notice):  # its fields are gone when the handler returns
        notices.append(
            (notice.severity_nonlocalized, notice.message_primary, notice.message_detail, notice.message_hint)
        )

    try:
        with database.connect("postgres") as dba:
            dba.add_notice_handler(note)
            dba.execute("CREATE EXTENSION tenancy")
    finally:
        database.drop()
    ((severity, message, detail, hint),) = notices
    assert severity == "NOTICE"
    assert "shared_preload_libraries" in message
    assert detail
    assert "session_preload_libraries" in hint


def test_set_before_the_library_is_loaded(app):
    assert not loaded(app)
    app.execute("SET tenancy.tenant_id = 'acme'")
    assert not loaded(app)
    assert items(app) == ACME
    assert loaded(app)
    set_session(app, "globex")
    assert items(app) == GLOBEX


def test_set_local_before_the_library_is_loaded(app):
    with app.transaction():
        app.execute("SET LOCAL tenancy.tenant_id = 'acme'")
        assert not loaded(app)
        assert items(app) == ACME
    with refused("TENANT_CONTEXT_MISSING"):
        items(app)
    for tenant, rows in (("globex", GLOBEX), ("acme", ACME)):
        with app.transaction():
            set_local(app, tenant)
            assert items(app) == rows


def test_savepoint_across_the_load(app):
    with app.transaction():
        app.execute("SET LOCAL tenancy.tenant_id = 'acme'")
        app.execute("SAVEPOINT s")
        app.execute("SET LOCAL tenancy.tenant_id = 'globex'")
        assert items(app) == GLOBEX
        app.execute("ROLLBACK TO SAVEPOINT s")
        assert items(app) == ACME


def test_set_by_a_role_without_the_privilege_has_no_effect(connect):
    for attempt in ("SET tenancy.tenant_id = 'acme'", "SELECT set_config('tenancy.tenant_id', 'acme', false)"):
        guest = connect(GUEST)
        assert not loaded(guest)
        try:
            guest.execute(attempt)
        except psycopg.errors.InsufficientPrivilege:
            pass  # may be refused at once, too
        with refused("TENANT_CONTEXT_MISSING"):
            items(guest)
        with refused("TENANT_CONTEXT_MISSING"):
            guest.execute("INSERT INTO orders (item) VALUES ('x')")
        with sqlstate("42501"):
            guest.execute(attempt)


def test_set_local_by_a_role_without_the_privilege_has_no_effect(connect):
    guest = connect(GUEST)
    guest.execute("BEGIN")
    try:
        guest.execute("SET LOCAL tenancy.tenant_id = 'acme'")
    except psycopg.errors.InsufficientPrivilege:
        guest.execute("ROLLBACK")
        guest.execute("BEGIN")
    with refused("TENANT_CONTEXT_MISSING"):
        items(guest)
    guest.execute("ROLLBACK")
    with refused("TENANT_CONTEXT_MISSING"):
        items(guest)


def test_parameters_that_only_a_superuser_sets(connect):
    # Each of these would widen what a guest sees.
    for parameter, setting in (("mode", "single"), ("default_tenant", "acme"), ("tenant_id", "acme")):
        guest = connect(GUEST)
        for name, chosen in ((parameter, setting), ("default_tenant", "acme")):
            try:
                guest.execute(f"SET tenancy.{name} = '{chosen}'")
            except psycopg.errors.InsufficientPrivilege:
                pass
        with refused("TENANT_CONTEXT_MISSING"):
            items(guest)


def test_sealed_role(connect, make_role):
    # What a transaction set before the load cannot be known, so nothing of it is accepted.
    role = make_role("it_sealed", may_set=True, seal="transaction")
    for before in ("SET LOCAL tenancy.tenant_id = 'acme'", "SET LOCAL tenancy.seal = 'off'"):
        sealed = connect(role)
        sealed.execute("BEGIN")
        try:
            with sealed.transaction():
                sealed.execute(before)
        except psycopg.errors.InsufficientPrivilege:
            pass
        sealed.execute("SAVEPOINT s")
        sealed.execute("SET LOCAL tenancy.tenant_id = 'globex'")
        with refused("TENANT_ACCESS_DENIED") as caught:
            items(sealed)
        assert caught.error.diag.message_hint
        sealed.execute("ROLLBACK")
        for tenant, other, rows in (("acme", "globex", ACME), ("globex", "acme", GLOBEX)):
            with sealed.transaction():
                set_local(sealed, tenant)
                assert items(sealed) == rows
                with refused("TENANT_ACCESS_DENIED"), sealed.transaction():
                    set_local(sealed, other)
                    items(sealed)
                assert items(sealed) == rows


def test_start_up_option(connect):
    app = connect(APP, settings={"tenancy.tenant_id": "acme"})
    assert items(app) == ACME
    try:
        guest = connect(GUEST, settings={"tenancy.tenant_id": "acme"})
    except psycopg.OperationalError:
        return  # refused at once is as good
    with refused("TENANT_ACCESS_DENIED"):
        items(guest)


@pytest.mark.parametrize(
    "statements",
    [
        ["SET tenancy.seal = 'off'", "SET tenancy.session_context = 'allow'"],
        ["BEGIN", "SET LOCAL tenancy.seal = 'off'", "SET LOCAL tenancy.session_context = 'allow'"],
        ["BEGIN", "SAVEPOINT s", "SET tenancy.seal = 'off'", "RELEASE s", "SET tenancy.session_context = 'allow'"],
        ["RESET tenancy.seal", "SET tenancy.session_context TO DEFAULT"],
        ["SET tenancy.seal = 'nonsense'"],
        ["ALTER ROLE CURRENT_USER SET tenancy.seal = 'off'"],
        ["ALTER ROLE CURRENT_USER RESET ALL"],
        ["DISCARD ALL"],
    ],
    ids=lambda statements: statements[-1],
)
def test_nothing_before_the_load_takes_off_what_a_role_was_given(connect, make_role, statements):
    role = make_role("it_strict", may_set=True, seal="transaction", session_context="refuse")
    strict = connect(role)
    for statement in statements:
        try:
            strict.execute(statement)
        except psycopg.errors.InsufficientPrivilege:
            pass
    settings = "SELECT current_setting('tenancy.seal'), current_setting('tenancy.session_context')"
    assert not loaded(strict)
    strict.execute("SELECT tenancy.normalize_tenant_id('x')")
    assert strict.execute(settings).fetchall() == [("transaction", "refuse")]
    strict.execute("ROLLBACK")
    assert strict.execute(settings).fetchall() == [("transaction", "refuse")]
    other = connect(role)
    other.execute("SELECT tenancy.normalize_tenant_id('x')")
    assert other.execute(settings).fetchall() == [("transaction", "refuse")]


def connected(connect, role, **settings):
    """A connection with start-up options, or none where the server refuses them at once, which is as good."""
    try:
        return connect(role, settings=settings)
    except psycopg.OperationalError as error:
        assert "permission denied to set parameter" in str(error)
        return None


def test_start_up_option_does_not_unseal(connect, make_role):
    sealed = connected(connect, make_role("it_sealed", may_set=True, seal="transaction"), **{"tenancy.seal": "off"})
    if sealed is None:
        return
    for _ in range(2):  # the library is loaded in the first transaction, and there from the start in the second
        with pytest.raises(psycopg.errors.InsufficientPrivilege), sealed.transaction():
            set_local(sealed, "acme")
            items(sealed)
            set_local(sealed, "globex")
            items(sealed)


def test_start_up_option_does_not_allow_what_is_refused(connect, make_role):
    role = make_role("it_refuse", may_set=True, session_context="refuse")
    app = connected(connect, role, **{"tenancy.session_context": "allow"})
    if app is None:
        return
    for _ in range(2):
        app.execute("SET tenancy.tenant_id = 'acme'")
        with pytest.raises(psycopg.Error):
            items(app)


def test_start_up_option_does_not_unbind(connect, make_role):
    bound = connected(connect, make_role("it_bound", tenant_id="acme"), **{"tenancy.tenant_id": "globex"})
    if bound is None:
        return
    try:
        assert items(bound) == ACME
    except psycopg.Error as error:
        assert error.sqlstate == "42501"


def test_malformed_value_before_the_load(app):
    app.execute("SET tenancy.tenant_id = 'a/b'")
    with pytest.raises(psycopg.Error) as info:
        items(app)
    assert info.value.sqlstate in ("55000", "22023")


def test_bound_role(connect, make_role):
    bound = connect(make_role("it_bound", tenant_id="acme"))
    assert items(bound) == ACME
    with sqlstate("42501"):
        bound.execute("SET tenancy.tenant_id = 'globex'")
    bound.execute("DISCARD ALL")
    assert items(bound) == ACME


def test_bound_role_that_sets_before_the_load(connect, make_role):
    bound = connect(make_role("it_bound", tenant_id="acme"))
    try:
        bound.execute("SET tenancy.tenant_id = 'globex'")
    except psycopg.errors.InsufficientPrivilege:
        pass
    try:
        seen = items(bound)
    except psycopg.Error as error:
        assert error.sqlstate == "55000"
    else:
        assert seen == ACME


class TestSessionContextRefuse:
    @pytest.fixture
    def role(self, make_role):
        return make_role("it_refuse", may_set=True, session_context="refuse")

    def test_plain_set_that_was_left_over_at_the_load(self, connect, role):
        app = connect(role)
        app.execute("SET tenancy.tenant_id = 'acme'")
        assert not loaded(app)
        with refused("TENANT_CONTEXT_MISSING"):
            items(app)
        with app.transaction():
            set_local(app, "globex")
            assert items(app) == GLOBEX
        with refused("TENANT_CONTEXT_MISSING"):
            items(app)

    def test_what_goes_on_working(self, connect, role):
        app = connect(role)
        with app.transaction():
            app.execute("SET LOCAL tenancy.tenant_id = 'acme'")
            assert not loaded(app)
            assert items(app) == ACME
        app = connect(role)
        with app.transaction():
            app.execute("SET tenancy.tenant_id = 'acme'")
            assert items(app) == ACME
        with refused("TENANT_CONTEXT_MISSING"):
            items(app)
        app = connect(role, settings={"tenancy.tenant_id": "acme"})
        assert items(app) == ACME


def test_suspension(db, app, dba):
    tenant = db.new_tenant("one")
    set_session(app, tenant)
    assert items(app) == ["one"]
    dba.execute("SELECT tenancy.suspend_tenant(%s)", [tenant])
    with refused("TENANT_SUSPENDED"):
        items(app)
    dba.execute("SELECT tenancy.resume_tenant(%s)", [tenant])
    assert items(app) == ["one"]


def test_suspension_in_a_session_that_loads_later(db, app, connect):
    tenant = db.new_tenant("one")
    app.execute(f"SET tenancy.tenant_id = '{tenant}'")
    assert not loaded(app)
    db.run(f"SELECT tenancy.suspend_tenant('{tenant}')")
    with refused("TENANT_SUSPENDED"):
        items(app)


def test_session_preload_libraries(db, connect):
    # What the hint of CREATE EXTENSION offers: the library from the first statement on, without a restart.
    db.run(f"ALTER DATABASE {db.name} SET session_preload_libraries = 'tenancy'")
    try:
        app = connect()
        assert loaded(app)
        with sqlstate("42602"):
            app.execute("SET tenancy.tennant_id = 'acme'")
        with sqlstate("42501"):
            connect(GUEST).execute("SET tenancy.tenant_id = 'acme'")
        with app.transaction():
            set_local(app, "acme")
            assert items(app) == ACME
        assert items(connect(settings={"tenancy.tenant_id": "globex"})) == GLOBEX
    finally:
        db.run(f"ALTER DATABASE {db.name} RESET session_preload_libraries")


@pytest.fixture
def members(db):
    """ada is a member of acme, bea of globex."""
    db.run("SELECT tenancy.add_user('ada'), tenancy.add_user('bea')",
           "SELECT tenancy.add_member('acme', 'ada', 'admin'), tenancy.add_member('globex', 'bea', 'admin')")  # fmt: skip
    yield
    db.run("SELECT tenancy.remove_user('ada'), tenancy.remove_user('bea')")


@pytest.mark.usefixtures("members")
@pytest.mark.parametrize("user, code", [("ada", None), ("bea", "TENANT_ACCESS_DENIED")])
@pytest.mark.parametrize("attempt", ["SELECT 1", "SET tenancy.require_membership = off", "SET tenancy.user_id = 'ada'", "SET tenancy.user_id = ''",
                                     "RESET ALL", "DISCARD ALL", "ALTER ROLE CURRENT_USER SET tenancy.user_id = 'ada'"])  # fmt: skip
def test_membership_that_a_role_was_given(connect, make_role, user, code, attempt):
    role = make_role("it_late_member", tenant_id="acme", user_id=user, require_membership="on")
    for _ in range(2):
        member = connect(role)
        try:
            member.execute(attempt)
        except psycopg.errors.InsufficientPrivilege:
            pass
        assert not loaded(member)
        for _ in range(2):
            if code:
                with refused(code):
                    items(member)
            else:
                assert items(member) == ACME
                assert value(member, "SELECT tenancy.current_user_id()") == "ada"
                assert value(member, "SELECT tenancy.has_role('admin')")


@pytest.mark.usefixtures("members")
@pytest.mark.parametrize("option", [{"tenancy.require_membership": "off"}, {"tenancy.user_id": "ada"}, {"tenancy.user_id": "''"}])
def test_start_up_option_does_not_make_a_member(connect, make_role, option):
    member = connected(connect, make_role("it_late_member", tenant_id="acme", user_id="bea", require_membership="on"), **option)
    if member is None:
        return
    for query in ("TABLE orders", "SELECT tenancy.has_role('admin')", "SELECT tenancy.is_member('ada', 'acme')", "SELECT tenancy.current_user_id()"):
        with refused("TENANT_ACCESS_DENIED"):
            member.execute(query)


@pytest.mark.usefixtures("members")
@pytest.mark.parametrize("query", ["SELECT tenancy.is_member('bea', 'globex')", "TABLE tenancy.members", "TABLE tenancy.usage_daily"])
def test_start_up_option_does_not_unbind_who_may_monitor(server, connect, make_role, query):
    role = make_role("it_late_monitor", tenant_id="acme")
    server.run(f"GRANT pg_monitor TO {role}")
    bound = connected(connect, role, **{"tenancy.tenant_id": "globex"})
    if bound is None:
        pytest.skip("refused at once, which is as good")
    with refused("TENANT_ACCESS_DENIED"):
        bound.execute(query)


# Conditions by which PostgreSQL compares the tenant column with a value of the query's, and that value with the tenant once, at the start
# (pg_regress attack_planner): a session's first statement is planned before the library can see to it.
FLIP = """SELECT item FROM {} WHERE tenant_id = current_setting('my.tenant') AND set_config('my.tenant', 'globex', false) IS NOT NULL"""
ORACLE = "SELECT item FROM {} WHERE tenant_id = 'acme' AND item >= 'g1' AND item <= 'g1' AND pg_try_advisory_lock(4711)"


def attacker(connect):
    session = connect(APP)
    session.execute("SELECT set_config('tenancy.tenant_id', 'acme', false), set_config('my.tenant', 'acme', false)")
    assert not loaded(session)
    return session


def test_first_statement_that_is_planned_without_the_library(db, connect):
    db.run(
        "CREATE TABLE by_hand AS TABLE orders",
        "ALTER TABLE by_hand ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY isolation ON by_hand USING (tenant_id = current_setting('tenancy.tenant_id'))",
        f"GRANT SELECT ON by_hand TO {APP}",
    )
    assert set(items_of(attacker(connect), FLIP.format("by_hand"))) & set(GLOBEX)
    for attack in (FLIP, ORACLE):
        session = attacker(connect)
        with refused("TENANT_ACCESS_DENIED"):
            session.execute(attack.format("orders"))
        assert loaded(session)
        session.execute("SELECT set_config('my.tenant', 'acme', false)")
        # Again, and it is planned with the library.
        assert set(items_of(session, attack.format("orders"))) <= set(ACME)
        assert locks(session) == 0


EARLY = {
    # One table is planned without the library, which the other one brings.
    "two tables": f"WITH x AS MATERIALIZED ({FLIP.format('orders')}) SELECT item FROM x UNION ALL SELECT item FROM orders WHERE item = ''",
    # Of an index alone: what it is looked up by is computed again each time.
    "index only": """SELECT o.tenant_id, set_config('my.tenant', 'globex', false) FROM generate_series(1, 2) g, orders o
                     WHERE o.tenant_id = current_setting('my.tenant')""",
    "a function's value": "SELECT item FROM orders WHERE tenant_id = pg_temp.lie()",
    "explained": "EXPLAIN ANALYZE " + FLIP.format("orders"),
    "a copy": f"COPY ({FLIP.format('orders')}) TO STDOUT",
    "a table": f"CREATE TEMP TABLE kept AS {FLIP.format('orders')}",
    "a write": "DELETE FROM orders WHERE tenant_id = current_setting('my.tenant') AND set_config('my.tenant', 'globex', false) IS NOT NULL",
    "a block": f"DO $$BEGIN PERFORM * FROM ({FLIP.format('orders')}) q; END$$",
    "a function in SQL": "SELECT * FROM pg_temp.both()",
}


@pytest.mark.parametrize("what", EARLY)
def test_first_statement_in_every_form(db, connect, what):
    db.run(f"GRANT DELETE ON orders TO {APP}")
    session = attacker(connect)
    session.execute("CREATE SEQUENCE pg_temp.calls")
    session.execute(
        """CREATE FUNCTION pg_temp.lie() RETURNS text STABLE LANGUAGE plpgsql AS
           $$BEGIN RETURN CASE WHEN nextval('pg_temp.calls') <= 1 THEN 'acme' ELSE 'globex' END; END$$"""
    )
    session.execute("SET check_function_bodies = off")
    session.execute(
        f"""CREATE FUNCTION pg_temp.both() RETURNS SETOF text LANGUAGE sql AS
            $$SELECT tenancy.current_tenant(); {FLIP.format('orders')}$$"""
    )
    if what == "index only":
        for name in ("seqscan", "bitmapscan", "material"):
            session.execute(f"SET enable_{name} = off")
    assert not loaded(session)
    before = db.run("SELECT tenant_id, count(*) FROM orders GROUP BY 1 ORDER BY 1")
    try:
        cursor = session.cursor()
        if what == "a copy":
            with cursor.copy(EARLY[what]) as copy:
                rows = list(copy.rows())
        else:
            cursor.execute(EARLY[what])
            rows = cursor.fetchall() if cursor.description else []
    except psycopg.errors.InsufficientPrivilege:
        pass
    else:
        # 18 plans the statements of a function one by one.
        assert not any(value in ("globex", *GLOBEX) for row in rows for value in row), rows
        assert what == "a function in SQL"
    assert db.run("SELECT tenant_id, count(*) FROM orders GROUP BY 1 ORDER BY 1") == before


def test_first_statement_is_as_quiet_as_any(db, connect):
    # This one loads the library while it is planned, in time for what comes before the policies.
    query = "SELECT item FROM {} WHERE item >= 'g1' AND item <= 'g1' AND pg_try_advisory_lock(4711)"
    for relation, told in (("by_hand", 1), ("orders", 0)):
        session = attacker(connect)
        assert items_of(session, query.format(relation)) == []
        assert locks(session) == told
        session.close()


def test_prepared_before_the_library_is_loaded(connect):
    for mode in ("auto", "force_generic_plan"):
        session = attacker(connect)
        session.execute(f"SET plan_cache_mode = {mode}")
        session.execute("PREPARE attack AS " + FLIP.format("orders"))
        with refused("TENANT_ACCESS_DENIED"):
            session.execute("EXECUTE attack")
        session.execute("SELECT set_config('my.tenant', 'acme', false)")
        assert set(items_of(session, "EXECUTE attack")) <= set(ACME)


def test_cursor_that_is_opened_before_the_library_is_loaded(connect):
    session = attacker(connect)
    session.execute("BEGIN")
    session.execute("DECLARE c CURSOR FOR " + FLIP.format("orders"))
    session.execute("SELECT 1")
    with refused("TENANT_ACCESS_DENIED"):
        session.execute("FETCH ALL FROM c")


def test_first_statement_that_names_its_tenant(connect):
    for query in (
        "SELECT item FROM orders WHERE tenant_id = 'acme' ORDER BY item",
        "SELECT item FROM orders WHERE tenant_id = 'acme' AND item LIKE 'a%' AND now() > '2020-01-01' ORDER BY item",
        "SELECT o.item FROM orders o JOIN orders p ON p.item = o.item WHERE o.tenant_id = 'acme' ORDER BY 1",
        "SELECT item FROM orders ORDER BY item",
    ):
        assert items_of(attacker(connect), query) == ACME
    assert items_of(attacker(connect), "SELECT item FROM orders WHERE tenant_id = 'globex'") == []
    session = attacker(connect)
    assert session.execute("SELECT item FROM orders WHERE tenant_id = %s ORDER BY item", ["acme"]).fetchall()


def locks(session):
    return value(session, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")


def items_of(session, query):
    return [row[0] for row in session.execute(query).fetchall()]
