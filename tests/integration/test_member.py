"""Users and membership between sessions: what changes is seen at once, whoever races, on a standby, after a restore, among many."""

import threading
from contextlib import contextmanager

import psycopg
import pytest
from support import APP, GUEST, OWNER, column, eventually, refused, sqlstate, value
from test_function_call import Wire
from test_parallel import parallel, workers_launched
from test_standby import standby, wait_for_replay  # noqa: F401 — a fixture
from token_support import authenticate, use

# Each test takes users of its own; papers are of everybody.
MEMBERS = "SELECT tenant_id, user_id, role, status FROM tenancy.members WHERE user_id = %s ORDER BY 1"
TABLE = """
    CREATE TABLE papers (id integer, tenant_id text NOT NULL, owner text DEFAULT tenancy.current_user_id()) WITH (parallel_workers = 2);
    SELECT tenancy.protect('papers', create_index => false);
    CREATE POLICY mine ON papers AS RESTRICTIVE USING (owner = tenancy.current_user_id() OR tenancy.has_role('admin', 'owner'));
    """
COUNT = "SELECT count(*) FROM papers"
OWN, ALL = 100, 2000


@pytest.fixture(scope="module")
def db(db):
    db.run(*TABLE.split(";\n")[:-1], role=OWNER)
    db.run(
        f"INSERT INTO papers SELECT n, 'acme', 'user-' || n % {ALL // OWN} FROM generate_series(1, {ALL}) n",
        "ANALYZE papers",
        f"GRANT SET ON PARAMETER tenancy.user_id TO {APP}",
    )
    yield db
    db.run(f"REVOKE SET ON PARAMETER tenancy.user_id FROM {APP}")


@pytest.fixture
def member(db, request):
    """A member of acme that no other test knows."""
    return new_member(db, request.node.nodeid.partition("::")[2])


def new_member(db, user, role="viewer", tenant="acme"):
    with db.connect("postgres") as dba:
        dba.execute("SELECT tenancy.add_user(%s)", [user])
        if role:
            dba.execute("SELECT tenancy.add_member(%s, %s, %s)", [tenant, user, role])
    return user


def act(connection, user, tenant="acme", is_local=False):
    """For whom the session acts, with bound parameters."""
    setting = "SELECT set_config('tenancy.tenant_id', %s, %s), set_config('tenancy.user_id', %s, %s)"
    connection.execute(setting, [tenant, is_local, user, is_local])


@pytest.fixture
def strict(connect, make_role, server):
    """strict(): connections of a role for which tenancy.require_membership is on."""
    role = make_role("it_strict", may_set=True, require_membership="on")
    server.run(f"GRANT SET ON PARAMETER tenancy.user_id TO {role}")
    return lambda: connect(role)


# How a session may be in the middle of something, and what it asks next.
BEGUN = {
    "autocommit": None,
    "transaction": "BEGIN",
    "REPEATABLE READ": "BEGIN ISOLATION LEVEL REPEATABLE READ",
    "SERIALIZABLE": "BEGIN ISOLATION LEVEL SERIALIZABLE",
    "READ ONLY": "BEGIN READ ONLY",
}
ASKED = {
    "has_role": ("SELECT tenancy.has_role('admin')", True, False),
    "policy": (COUNT, ALL, OWN),
    "prepared": ("EXECUTE counts", ALL, OWN),
    "prepared has_role": ("EXECUTE asks", True, False),
    "function": ("SELECT is_admin()", True, False),
}


def sessions_of(connect, user):
    """Sessions of that user, which have asked before: each with its name and its question."""
    for begun, begin in BEGUN.items():
        for asked, (query, *answers) in ASKED.items():
            session = connect(APP)
            session.execute("PREPARE counts AS " + COUNT)
            session.execute("PREPARE asks AS " + ASKED["has_role"][0])
            if asked.startswith("prepared"):
                session.execute("SET plan_cache_mode = force_generic_plan")
            act(session, user)
            if begin:
                session.execute(begin)
            yield f"{begun}, {asked}", session, query, answers


def wrong(sessions, is_admin):
    """Which sessions do not answer as they should."""
    found = {name: value(session, query) for name, session, query, _ in sessions}
    return {name: found[name] for name, _, _, answers in sessions if found[name] != answers[0 if is_admin else 1]}


class TestChanges:
    @pytest.fixture(autouse=True)
    def is_admin(self, dba):
        dba.execute("CREATE OR REPLACE FUNCTION is_admin() RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RETURN tenancy.has_role('admin'); END$$")

    def test_role_in_open_sessions(self, db, connect, dba):
        user = new_member(db, "user-1", "admin")
        sessions = list(sessions_of(connect, user))
        assert wrong(sessions, True) == {}
        changes = {
            "set_member_role('acme', 'user-1', 'viewer')": "set_member_role('acme', 'user-1', 'admin')",
            "suspend_member('acme', 'user-1')": "resume_member('acme', 'user-1')",
            "remove_member('acme', 'user-1')": "add_member('acme', 'user-1', 'admin')",
            "remove_user('user-1')": "add_user('user-1'), tenancy.add_member('acme', 'user-1', 'admin')",
        }
        for there, back in changes.items():
            dba.execute(f"SELECT tenancy.{there}")
            assert wrong(sessions, False) == {}, there
            dba.execute(f"SELECT tenancy.{back}")
            assert wrong(sessions, True) == {}, back
        # By hand, as logical replication does.
        with dba.transaction():
            dba.execute("SET LOCAL session_replication_role = replica")
            dba.execute("UPDATE _tenancy.members SET role = 'viewer' WHERE user_id = 'user-1'")
        assert wrong(sessions, False) == {}

    def test_what_is_rolled_back_is_neither_seen_nor_remembered(self, db, connect, dba):
        user = new_member(db, "user-2", "admin")
        sessions = list(sessions_of(connect, user))
        assert wrong(sessions, True) == {}
        with dba.transaction(force_rollback=True):
            dba.execute("SELECT tenancy.set_member_role('acme', %s, 'viewer')", [user])
            assert value(dba, "SELECT role FROM tenancy.members WHERE user_id = %s", [user]) == "viewer"
            assert wrong(sessions, True) == {}
            with dba.transaction(force_rollback=True):
                dba.execute("SELECT tenancy.remove_member('acme', %s)", [user])
                assert value(dba, "SELECT tenancy.is_member(%s, 'acme')", [user]) is False
            assert value(dba, "SELECT tenancy.is_member(%s, 'acme')", [user]) is True
        assert wrong(sessions, True) == {}
        act(dba, user, is_local=False)
        assert value(dba, "SELECT tenancy.has_role('admin')")

    def test_prepared_transaction(self, db, app, dba):
        user = new_member(db, "user-3", "admin")
        act(app, user)
        for ending, is_member in (("ROLLBACK", True), ("COMMIT", False)):
            dba.execute("BEGIN")
            dba.execute("SELECT tenancy.remove_member('acme', %s)", [user])
            assert value(dba, "SELECT tenancy.is_member(%s, 'acme')", [user]) is False
            dba.execute("PREPARE TRANSACTION 'it_member'")
            for session in (app, dba):
                assert value(session, "SELECT tenancy.is_member(%s, 'acme')", [user]) is True
            assert value(app, "SELECT tenancy.has_role('admin')") is True
            dba.execute(f"{ending} PREPARED 'it_member'")
            for session in (app, dba):
                assert value(session, "SELECT tenancy.is_member(%s, 'acme')", [user]) is is_member
            assert value(app, "SELECT tenancy.has_role('admin')") is is_member

    def test_within_a_statement_of_many(self, db, app, dba):
        """A block that runs for long asks anew with each of its statements."""
        user = new_member(db, "user-4", "admin")
        act(app, user)
        done = []

        def wait():
            app.execute("""DO $$BEGIN
                PERFORM pg_advisory_lock(4711);
                FOR i IN 1..1500 LOOP
                    EXIT WHEN NOT tenancy.has_role('admin');
                    PERFORM pg_sleep(0.02);
                END LOOP;
                ASSERT NOT tenancy.has_role('admin');
            END$$""")
            done.append(True)

        thread = threading.Thread(target=wait)
        thread.start()
        locked = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND granted"
        eventually(lambda: value(dba, locked))
        dba.execute("SELECT tenancy.suspend_member('acme', %s)", [user])
        thread.join(60)
        assert done

    def test_membership_that_is_required(self, db, strict, dba, member):
        opened = []
        for begun, begin in BEGUN.items():
            session = strict()
            act(session, member)
            if begin:
                session.execute(begin)
            session.execute("PREPARE counts AS " + COUNT)
            assert value(session, "EXECUTE counts") == 0
            opened.append((begun, session))
        for there, back in (("suspend", "resume"), ("remove", "add")):
            for name, session in opened:
                if name != "autocommit":
                    session.execute("DECLARE c CURSOR FOR SELECT id FROM papers")
                    session.execute("FETCH c")
            dba.execute(f"SELECT tenancy.{there}_member('acme', %s)", [member])
            for name, session in opened:
                asked = ["EXECUTE counts", "TABLE papers", "SELECT tenancy.current_tenant()", "FETCH c"]
                for query in asked[: 3 if name == "autocommit" else 4]:
                    with refused("TENANT_ACCESS_DENIED") as caught, session.transaction():
                        session.execute(query)
                    assert member not in str(caught.error), name
            dba.execute(f"SELECT tenancy.{back}_member('acme', %s)", [member])
            for name, session in opened:
                assert value(session, "EXECUTE counts") == 0
                if name != "autocommit":
                    session.execute("CLOSE c")

    def test_function_call(self, db, dba, member):
        """PQfn: a statement without the executor. In a transaction of its own it is up to date."""
        function = value(dba, "SELECT 'is_admin()'::regprocedure::oid::int4")
        wire = Wire(db.name, APP)
        assert not wire.query(f"SET tenancy.tenant_id = 'acme'; SET tenancy.user_id = '{member}'")
        assert wire.call(function) == "f"
        dba.execute("SELECT tenancy.set_member_role('acme', %s, 'admin')", [member])
        assert wire.call(function) == "t"
        dba.execute("SELECT tenancy.suspend_member('acme', %s)", [member])
        assert wire.call(function) == "f"

    @pytest.mark.parametrize("way", ["DO", "CALL", "PQfn"])
    def test_without_the_executor(self, db, dba, way):
        """In an open transaction, an IF of PL/pgSQL or a call by the protocol takes no new lock, and so hears of nothing."""
        user = new_member(db, f"without-{way}", "admin")
        dba.execute("""CREATE OR REPLACE PROCEDURE tell(admin boolean) LANGUAGE plpgsql AS $$BEGIN IF admin THEN RAISE 'admin'; END IF; END$$""")
        function = value(dba, "SELECT 'is_admin()'::regprocedure::oid::int4")
        wire = Wire(db.name, APP)
        ask = {
            "DO": lambda: wire.query("DO $$BEGIN IF tenancy.has_role('admin') THEN RAISE 'admin'; END IF; END$$") != [],
            "CALL": lambda: wire.query("CALL tell(tenancy.has_role('admin'))") != [],
            "PQfn": lambda: wire.call(function) == "t",
        }[way]
        assert not wire.query(f"BEGIN; SET LOCAL tenancy.tenant_id = 'acme'; SET LOCAL tenancy.user_id = '{user}'; SAVEPOINT s")
        for _ in range(3):
            assert ask()
            assert not wire.query("ROLLBACK TO s")
        dba.execute("SELECT tenancy.suspend_member('acme', %s)", [user])
        assert not ask()

    def test_a_change_that_is_undone_before_its_triggers_fire(self, db, dba, member):
        dba.execute("SELECT tenancy.suspend_member('acme', %s)", [member])
        dba.execute("""CREATE FUNCTION asks(who text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RETURN tenancy.is_member(who, 'acme'); END$$""")
        with sqlstate("22012"):
            dba.execute("UPDATE _tenancy.members SET status = 'active' WHERE user_id = %s RETURNING 1 / (NOT asks(user_id))::integer", [member])
        assert value(dba, "SELECT tenancy.is_member(%s, 'acme')", [member]) is False


class Step(threading.Thread):
    """A statement that another transaction holds up."""

    def __init__(self, connection, dba, statement, *arguments):
        super().__init__()
        self.connection, self.statement, self.arguments = connection, statement, arguments
        self.error = self.row = None
        self.start()
        blocked = "SELECT cardinality(pg_blocking_pids(%s)) > 0"
        eventually(lambda: not self.is_alive() or value(dba, blocked, [connection.info.backend_pid]))
        self.has_waited = self.is_alive()

    def run(self):
        try:
            self.row = self.connection.execute(self.statement, self.arguments).fetchone()
        except psycopg.Error as error:
            self.error = error

    def code(self):
        self.join(60)
        assert not self.is_alive()
        return self.error and self.error.sqlstate


LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]


class TestRaces:
    @pytest.fixture
    def one(self, connect):
        return connect("postgres")

    @pytest.fixture
    def two(self, connect):
        return connect("postgres")

    @pytest.fixture
    def user(self, db, request):
        return new_member(db, request.node.name, role=None)

    @contextmanager
    def no_orphan(self, dba, user):
        """In the end there is no membership of a user that is gone, and whoever comes next in its name is a member of nothing."""
        yield
        orphans = "SELECT m.user_id FROM tenancy.members m WHERE NOT EXISTS (SELECT FROM tenancy.users u WHERE u.id = m.user_id)"
        assert column(dba, orphans) == []
        if value(dba, "SELECT count(*) FROM tenancy.users WHERE id = %s", [user]) == 0:
            dba.execute("SELECT tenancy.add_user(%s)", [user])
            assert value(dba, "SELECT tenancy.is_member(%s, 'acme')", [user]) is False

    @pytest.mark.parametrize("level", LEVELS)
    @pytest.mark.parametrize("add", ["add_member('acme', %s)", "invite_member('acme', %s)"])
    def test_add_then_remove_user(self, one, two, dba, user, add, level):
        """The removal waits for who adds, and takes the new membership along or has to be tried again."""
        with self.no_orphan(dba, user):
            two.execute(f"BEGIN ISOLATION LEVEL {level}")
            two.execute("SELECT count(*) FROM tenancy.users")
            one.execute("BEGIN")
            one.execute(f"SELECT tenancy.{add}", [user])
            removal = Step(two, dba, "SELECT tenancy.remove_user(%s)", user)
            assert removal.has_waited
            one.execute("COMMIT")
            assert removal.code() == (None if level == "READ COMMITTED" else "40001")
            two.execute("COMMIT")

    @pytest.mark.parametrize("level", LEVELS[1:])
    def test_remove_user_with_an_older_snapshot(self, one, two, dba, user, level):
        with self.no_orphan(dba, user):
            two.execute(f"BEGIN ISOLATION LEVEL {level}")
            two.execute("SELECT count(*) FROM tenancy.users")
            one.execute("SELECT tenancy.add_member('acme', %s)", [user])
            with sqlstate("40001"):
                two.execute("SELECT tenancy.remove_user(%s)", [user])
            two.execute("ROLLBACK")
            two.execute("SELECT tenancy.remove_user(%s)", [user])

    @pytest.mark.parametrize("level", LEVELS)
    @pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
    def test_remove_user_then_add(self, one, two, dba, user, level, ending):
        with self.no_orphan(dba, user):
            one.execute("BEGIN")
            one.execute("SELECT tenancy.remove_user(%s)", [user])
            two.execute(f"BEGIN ISOLATION LEVEL {level}")
            two.execute("SELECT count(*) FROM tenancy.users")
            addition = Step(two, dba, "SELECT tenancy.add_member('acme', %s)", user)
            assert addition.has_waited
            one.execute(ending)
            gone = "42704" if level == "READ COMMITTED" else "40001"
            assert addition.code() == (gone if ending == "COMMIT" else None)
            two.execute("COMMIT")
            assert column(dba, MEMBERS, [user]) == ([] if ending == "COMMIT" else ["acme"])

    @pytest.mark.parametrize("level", LEVELS)
    def test_accept_then_remove_user(self, one, two, dba, user, level):
        code = value(dba, "SELECT tenancy.invite_member('acme', %s)", [user])
        with self.no_orphan(dba, user):
            two.execute(f"BEGIN ISOLATION LEVEL {level}")
            two.execute("SELECT count(*) FROM tenancy.users")
            one.execute("BEGIN")
            one.execute("SELECT tenancy.accept_invitation(%s)", [code])
            removal = Step(two, dba, "SELECT tenancy.remove_user(%s)", user)
            assert removal.has_waited
            one.execute("COMMIT")
            assert removal.code() == (None if level == "READ COMMITTED" else "40001")
            two.execute("COMMIT")

    def test_remove_user_then_accept(self, one, two, dba, user):
        code = value(dba, "SELECT tenancy.invite_member('acme', %s)", [user])
        with self.no_orphan(dba, user):
            one.execute("BEGIN")
            one.execute("SELECT tenancy.remove_user(%s)", [user])
            accepting = Step(two, dba, "SELECT tenancy.accept_invitation(%s)", code)
            assert accepting.has_waited
            one.execute("COMMIT")
            assert accepting.code() == "28000"

    @pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
    def test_one_code_is_good_for_one(self, one, two, dba, user, ending):
        code = value(dba, "SELECT tenancy.invite_member('acme', %s, 'editor')", [user])
        one.execute("BEGIN")
        first = value(one, "SELECT tenancy.accept_invitation(%s)", [code])
        second = Step(two, dba, "SELECT tenancy.accept_invitation(%s)", code)
        assert second.has_waited
        one.execute(ending)
        if ending == "COMMIT":
            assert second.code() == "28000"
        else:
            assert second.code() is None
            assert second.row == (first,)
        assert dba.execute(MEMBERS, [user]).fetchall() == [("acme", user, "editor", "active")]

    def test_one_code_among_many(self, db, dba, user):
        code = value(dba, "SELECT tenancy.invite_member('acme', %s)", [user])
        start, outcomes = threading.Barrier(8), []

        def accept():
            with db.connect("postgres") as connection:
                start.wait()
                try:
                    connection.execute("SELECT tenancy.accept_invitation(%s)", [code])
                    outcomes.append("accepted")
                except psycopg.Error as error:
                    outcomes.append(error.sqlstate)

        threads = [threading.Thread(target=accept) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert sorted(outcomes) == ["28000"] * 7 + ["accepted"]

    @pytest.mark.parametrize("level", LEVELS)
    def test_two_add_one_member(self, one, two, dba, user, level):
        for ending, code in (("ROLLBACK", None), ("COMMIT", "42710" if level == "READ COMMITTED" else "40001")):
            two.execute(f"BEGIN ISOLATION LEVEL {level}")
            two.execute("SELECT count(*) FROM tenancy.users")
            one.execute("BEGIN")
            one.execute("SELECT tenancy.add_member('acme', %s, 'admin')", [user])
            second = Step(two, dba, "SELECT tenancy.add_member('acme', %s, 'viewer')", user)
            assert second.has_waited
            one.execute(ending)
            assert second.code() == code
            two.execute("ROLLBACK")
        assert dba.execute(MEMBERS, [user]).fetchall() == [("acme", user, "admin", "active")]

    def test_an_invitation_is_replaced_while_it_is_accepted(self, one, two, dba, user):
        code = value(dba, "SELECT tenancy.invite_member('acme', %s)", [user])
        one.execute("BEGIN")
        other = value(one, "SELECT tenancy.invite_member('acme', %s)", [user])
        accepting = Step(two, dba, "SELECT tenancy.accept_invitation(%s)", code)
        assert accepting.has_waited
        one.execute("COMMIT")
        assert accepting.code() == "28000"
        two.execute("SELECT tenancy.accept_invitation(%s)", [other])

    def test_two_of_one_name(self, one, two, dba):
        one.execute("BEGIN")
        one.execute("SELECT tenancy.add_user('namesake', 'Same@example.com')")
        for arguments in (["namesake", None], ["another", "same@EXAMPLE.com"]):
            second = Step(two, dba, "SELECT tenancy.add_user(%s, %s)", *arguments)
            assert second.has_waited
            if arguments[1]:
                one.execute("COMMIT")
                assert second.code() == "42710"
            else:
                dba.execute("SELECT pg_cancel_backend(%s)", [two.info.backend_pid])
                assert second.code() == "57014"

    def test_a_context_in_use_does_not_hold_up_changes(self, strict, dba, member):
        session = strict()
        act(session, member)
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        assert value(session, COUNT) == 0
        dba.execute("SET lock_timeout = '2s'")
        dba.execute("SELECT tenancy.remove_user(%s)", [member])
        with refused("TENANT_ACCESS_DENIED"):
            value(session, COUNT)


class TestStandby:
    @pytest.mark.usefixtures("strict")
    def test_reads(self, db, standby, member):  # noqa: F811
        wait_for_replay(db, standby)
        with standby.connect("it_strict") as replica:
            act(replica, member)
            assert value(replica, "SELECT pg_is_in_recovery()")
            asked = "SELECT tenancy.current_user_id(), tenancy.has_role('viewer'), tenancy.has_role('admin'), tenancy.is_member(%s, 'acme')"
            assert replica.execute(asked, [member]).fetchone() == (member, True, False, True)
            assert value(replica, COUNT) == 0
            assert member in column(replica, "SELECT user_id FROM tenancy.members")
            assert value(replica, "SELECT txid_current_if_assigned() IS NULL")
            db.run(f"SELECT tenancy.set_member_role('acme', '{member}', 'admin')")
            wait_for_replay(db, standby)
            assert value(replica, COUNT) == ALL
            replica.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            assert value(replica, COUNT) == ALL
            db.run(f"SELECT tenancy.suspend_member('acme', '{member}')")
            wait_for_replay(db, standby)
            with refused("TENANT_ACCESS_DENIED"):
                value(replica, COUNT)
            replica.execute("ROLLBACK")
            with refused("TENANT_ACCESS_DENIED"):
                value(replica, "SELECT tenancy.has_role('admin')")
            db.run(f"SELECT tenancy.resume_member('acme', '{member}')")
            wait_for_replay(db, standby)
            assert value(replica, COUNT) == ALL
            act(replica, "nobody")
            with refused("TENANT_ACCESS_DENIED"):
                value(replica, COUNT)
        with standby.connect("postgres") as replica:
            for call in ("add_user('x')", f"suspend_member('acme', '{member}')", f"add_member('globex', '{member}')"):
                with sqlstate("25006"):
                    replica.execute(f"SELECT tenancy.{call}")


class TestParallel:
    def test_the_same_rows(self, db, connect):
        for user, role, rows in (("user-11", "admin", ALL), ("user-12", "viewer", OWN), ("user-13", None, OWN), ("ghost", None, 0)):
            new_member(db, user, role)
            app = connect(APP)
            for mode in ("SET", "SET LOCAL"):
                app.execute("BEGIN") if mode == "SET LOCAL" else None
                act(app, user, is_local=mode == "SET LOCAL")
                alone = column(app, "SELECT id FROM papers ORDER BY id")
                parallel(app)
                assert workers_launched(app, COUNT) >= 1
                assert value(app, COUNT) == len(alone) == rows
                assert column(app, "SELECT id FROM papers ORDER BY id") == alone
                assert value(app, "SELECT count(*) FILTER (WHERE tenancy.has_role('admin')) FROM papers") == (rows if role == "admin" else 0)
                assert column(app, "SELECT DISTINCT tenancy.current_user_id() FROM papers") == ([user] if rows else [])
                app.execute("COMMIT" if mode == "SET LOCAL" else "RESET ALL")

    def test_membership_that_is_required(self, db, strict, dba, member):
        session = parallel(strict())
        dba.execute("SELECT tenancy.set_member_role('acme', %s, 'owner')", [member])
        act(session, member)
        assert workers_launched(session, COUNT) >= 1
        assert value(session, COUNT) == ALL
        session.execute("SET plan_cache_mode = force_generic_plan")
        session.execute("PREPARE counts AS " + COUNT)
        assert value(session, "EXECUTE counts") == ALL
        dba.execute("SELECT tenancy.suspend_member('acme', %s)", [member])
        with refused("TENANT_ACCESS_DENIED"):
            value(session, "EXECUTE counts")

    def test_what_its_own_transaction_has_changed(self, db, dba, member):
        dba.execute("BEGIN")
        dba.execute("SELECT tenancy.set_member_role('acme', %s, 'admin')", [member])
        dba.execute(f"SET LOCAL ROLE {APP}")
        act(dba, member, is_local=True)
        parallel(dba)
        assert workers_launched(dba, COUNT) >= 1
        assert value(dba, COUNT) == ALL
        dba.execute("ROLLBACK")


class TestTokens:
    def test_the_user_of_a_token(self, db, strict, dba, issuer, member, make_role, connect):
        guest = connect(make_role("it_token_strict", require_membership="on"))
        token = issuer.token(sub=member)
        with guest.transaction():
            assert authenticate(guest, token)["user_id"] == member
            assert value(guest, "SELECT tenancy.current_user_id()") == member
            assert value(guest, COUNT) == 0
        for other in ("nobody", member.upper()):
            with refused("TENANT_ACCESS_DENIED"):
                authenticate(guest, issuer.token(sub=other))
            with refused("TENANT_ACCESS_DENIED"), guest.transaction():
                use(guest, issuer.token(sub=other))
                value(guest, COUNT)
        with refused("TENANT_ACCESS_DENIED"):
            authenticate(guest, issuer.token("globex", sub=member))
        # A token that names nobody is the tenant's alone.
        with guest.transaction():
            authenticate(guest, issuer.token())
            assert value(guest, "SELECT tenancy.current_user_id()") is None
            assert value(guest, COUNT) == 0
            assert value(guest, "SELECT tenancy.has_role('viewer')") is False
        guest.execute("BEGIN")
        authenticate(guest, token)
        assert value(guest, COUNT) == 0
        dba.execute("SELECT tenancy.suspend_member('acme', %s)", [member])
        with refused("TENANT_ACCESS_DENIED"):
            value(guest, COUNT)
        guest.execute("ROLLBACK")
        with refused("TENANT_ACCESS_DENIED"):
            authenticate(guest, token)

    def test_one_use_is_not_used_up_by_who_is_no_member(self, db, make_role, connect, once, dba, member):
        guest = connect(make_role("it_token_strict", require_membership="on"))
        token = once.token(sub=member, jti="once")
        dba.execute("SELECT tenancy.suspend_member('acme', %s)", [member])
        with refused("TENANT_ACCESS_DENIED"):
            authenticate(guest, token)
        dba.execute("SELECT tenancy.resume_member('acme', %s)", [member])
        assert authenticate(guest, token)["user_id"] == member

    def test_tokens_take_turns(self, db, connect, issuer):
        guest = connect(GUEST)
        for user, role in (("user-15", "admin"), ("user-16", "viewer"), ("user-17", None)):
            new_member(db, user, role)
        rows = {"user-15": ALL, "user-16": OWN, "user-17": OWN, None: 0}
        for _ in range(3):
            for user, count in rows.items():
                with guest.transaction():
                    authenticate(guest, issuer.token(sub=user))
                    assert value(guest, COUNT) == count
                    with guest.transaction(force_rollback=True):
                        use(guest, issuer.token(sub="user-15"))
                        assert value(guest, COUNT) == ALL
                    assert value(guest, COUNT) == count
                    assert value(guest, "SELECT tenancy.current_user_id()") == user

    def test_the_parameter_does_not_stand_in_for_the_token(self, db, connect, make_role, server, issuer, member):
        role = make_role("it_token_and_user", user_id=member)
        with connect(role) as session:
            with session.transaction():
                authenticate(session, issuer.token(sub="nobody"))
                assert value(session, "SELECT tenancy.has_role('viewer')") is False
            with session.transaction():
                authenticate(session, issuer.token())
                assert value(session, "SELECT tenancy.current_user_id()") is None
                assert value(session, "SELECT tenancy.has_role('viewer')") is False
