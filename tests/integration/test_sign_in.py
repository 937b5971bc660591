"""Signing in with a password: no guess goes uncounted, nobody waits for another's transaction, and no answer tells what was wrong."""

import random
import re
import threading
import time
from collections import Counter
from contextlib import suppress

import psycopg
import pytest
from sign_in_support import ANSWER, FAILURES, PASSWORD, answer, credentials, new_user, sign_in
from support import GUEST, eventually, items, refused, sqlstate, value
from test_parallel import parallel
from token_support import ROWS, Issuer, authenticate, told, use

# Those that take turns for a user: src/pg/lock.rs.
TURNS = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = x'7E4A'::integer AND pid = %s"
WAITS = "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = %s"


@pytest.fixture
def user(db):
    return new_user(db)


@pytest.fixture
def forgotten(db):
    """Without failures of an earlier test."""
    db.run("DELETE FROM _tenancy.failed_sign_ins")


@pytest.fixture
def amcheck(db):
    """amcheck(): what is wrong with the table of failures and its indexes."""
    if not db.run("SELECT FROM pg_available_extensions WHERE name = 'amcheck'"):
        return lambda: []
    db.run("CREATE EXTENSION IF NOT EXISTS amcheck")

    def check():
        found = db.run("SELECT * FROM verify_heapam('_tenancy.failed_sign_ins', check_toast => true)")
        db.run("SELECT bt_index_parent_check(indexrelid, true, true) FROM pg_index WHERE indrelid = '_tenancy.failed_sign_ins'::regclass")
        return found

    return check


def together(works):
    """Runs each in a thread of its own, all at once; what they returned."""
    results, barrier = [None] * len(works), threading.Barrier(len(works))

    def run(number, work):
        barrier.wait(30)
        results[number] = work()

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    return results


class TestThrottle:
    @pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
    @pytest.mark.parametrize("way", ["a transaction each", "one transaction", "one statement"])
    def test_many_guess_at_once(self, db, connect, user, way, level):
        """Ten guesses are answered, whoever asks; then the right password is refused too."""
        names = [{"email": f"{user}@example.com"}, {"email": f"{user}@EXAMPLE.com".upper()}]

        def guess(session, number):
            named = names[number % 2]
            if way == "a transaction each":
                session.execute(f"SET default_transaction_isolation = '{level}'")
                return [answer(session, password=f"guess {number}", **named)]
            session.execute(ANSWER)
            session.execute(f"BEGIN ISOLATION LEVEL {level}")
            session.execute("SELECT count(*) FROM pg_class")
            guesses = [credentials(password=f"guess {number}.{n}", **named) for n in range(2)]
            if way == "one statement":
                answers = session.execute("SELECT pg_temp.answer(g::jsonb) FROM unnest(%s::text[]) AS g", [guesses]).fetchall()
            else:
                answers = [session.execute("SELECT pg_temp.answer(%s)", [g]).fetchone() for g in guesses]
            session.execute("ROLLBACK")
            return [only for (only,) in answers]

        sessions = [connect(GUEST) for _ in range(16)]
        answers = together([lambda s=s, n=n: guess(s, n) for n, s in enumerate(sessions)])
        counted = Counter(one for some in answers for one in some)
        assert counted.pop("CREDENTIALS_INVALID") == 10
        assert counted.pop("TOO_MANY_FAILURES") == (6 if way == "a transaction each" else 22)
        assert not counted
        assert answer(sessions[0], **names[0]) == "TOO_MANY_FAILURES"

    def test_who_waits_and_is_ended_leaves_no_lock(self, db, connect, dba, user):
        blocker = connect("postgres")
        blocker.execute("BEGIN")
        blocker.execute("LOCK TABLE _tenancy.failed_sign_ins")
        for end in ("pg_cancel_backend", "pg_terminate_backend"):
            # One has the turn and waits for the table; another waits for its turn.
            sessions, threads = [connect(GUEST) for _ in range(2)], []
            for session in sessions:
                threads.append(threading.Thread(target=lambda s=session: suppress_all(answer, s, user)))
                threads[-1].start()
                eventually(lambda s=session: value(dba, WAITS, [s.info.backend_pid]))
            pids = [session.info.backend_pid for session in sessions]
            assert [value(dba, TURNS, [pid]) for pid in pids] == [1, 1]
            for pid in reversed(pids):
                dba.execute(f"SELECT {end}(%s)", [pid])
            for thread in threads:
                thread.join(30)
            assert [value(dba, TURNS, [pid]) for pid in pids] == [0, 0]
        blocker.execute("ROLLBACK")
        guest = connect(GUEST)
        assert answer(guest, user) == "accepted"
        guest.execute("SET lock_timeout = '10s'")
        assert answer(guest, user, password="x") == "CREDENTIALS_INVALID"
        assert value(dba, TURNS, [guest.info.backend_pid]) == 0

    @pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ"])
    def test_transactions_that_go_on_keep_nobody_waiting(self, db, connect, dba, user, level):
        other = connect(GUEST)
        assert [answer(other, user, password="x") for _ in range(3)] == ["CREDENTIALS_INVALID"] * 3
        sessions = [connect(GUEST) for _ in range(3)]
        for session in sessions:
            session.execute("SET lock_timeout = '5s'")
            session.execute(f"BEGIN ISOLATION LEVEL {level}")
            assert items_of(session, user) == ROWS["acme"]
            session.execute("SAVEPOINT s")
            assert answer(session, user, password="y") == "CREDENTIALS_INVALID"
            session.execute("ROLLBACK TO s")
            assert items_of(session, user) == ROWS["acme"]
        assert answer(other, user, password="x") == "CREDENTIALS_INVALID"
        assert answer(other, user) == "accepted"
        for session in sessions:
            session.execute("COMMIT")
        with other.transaction():
            assert items_of(other, user) == ROWS["acme"]

    def test_success_forgets(self, db, connect, dba, user, forgotten):
        guest = connect(GUEST)
        for _ in range(3):
            assert [answer(guest, user, password="x") for _ in range(9)] == ["CREDENTIALS_INVALID"] * 9
            assert answer(guest, user) == "accepted"
            assert value(dba, FAILURES) == 0

    def test_what_counts_no_more_is_removed_by_those_who_sign_in(self, db, connect, dba, user, forgotten):
        dba.execute("INSERT INTO _tenancy.failed_sign_ins SELECT '\\x00', now() - interval '1 hour' FROM generate_series(1, 250)")
        guest, left = connect(GUEST), []
        for _ in range(3):
            assert answer(guest, user) == "accepted"
            left.append(value(dba, FAILURES))
        assert left == [150, 50, 0]

    def test_not_to_be_loosened(self, db, connect, user):
        guest = connect(GUEST)
        for attempt in ("SET tenancy.max_failed_sign_ins = 1000000", "SELECT set_config('tenancy.max_failed_sign_ins', '9', true)"):
            with sqlstate("42501"):
                guest.execute(attempt)
        with suppress(psycopg.OperationalError), db.connect(GUEST, settings={"tenancy.max_failed_sign_ins": 100}) as other:
            assert [answer(other, user, password="x") for _ in range(11)][-1] == "TOO_MANY_FAILURES"

    def test_not_by_a_parallel_worker(self, connect, user, dba, forgotten):
        """By a function that says of itself, wrongly, that workers may call it."""
        guest = parallel(connect(GUEST))
        guest.execute("""CREATE FUNCTION pg_temp.tried(credentials jsonb) RETURNS text LANGUAGE sql PARALLEL SAFE
                         AS 'SELECT tenancy.authenticate(credentials)::text'""")
        for password in ("x", PASSWORD):
            with sqlstate("25000"):
                guest.execute("SELECT pg_temp.tried(%s) FROM pg_class", [credentials(user, password)])
        assert value(dba, FAILURES) == 0

    def test_a_prepared_transaction_keeps_the_failures(self, connect, dba, user, forgotten):
        guest = connect(GUEST)
        guest.execute(ANSWER)
        for end in ("ROLLBACK", "COMMIT"):
            guest.execute("DISCARD TEMP")
            guest.execute("BEGIN")
            with suppress(psycopg.Error), guest.transaction():
                sign_in(guest, user, password="x")
            guest.execute("PREPARE TRANSACTION 'it_sign_in'")
            guest.execute(f"{end} PREPARED 'it_sign_in'")
        assert value(dba, FAILURES) == 2

    def test_not_round_it_by_serialization_failures(self, connect, dba, user, forgotten):
        """Two sessions doom the transaction of a third while it compares: a wrong password fails to be counted, with an error of its own."""
        dba.execute("CREATE TABLE scratch AS SELECT g AS k, 0 AS v FROM generate_series(1, 20000) AS g")
        dba.execute("ALTER TABLE scratch ADD PRIMARY KEY (k)")
        dba.execute(f"GRANT ALL ON scratch TO {GUEST}; ANALYZE scratch")
        pivot, first, last = sessions = [connect(GUEST) for _ in range(3)]
        assert answer(pivot, user) == "accepted"  # it knows the member from here on
        told_of = {}

        def guess(password):
            try:
                sign_in(pivot, user, password=password)
            except psycopg.Error as error:
                told_of[password] = told(error)

        for password in ("a", "b", "c", PASSWORD):
            for session in sessions:
                session.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
            pivot.execute("SELECT v FROM scratch WHERE k = 1")
            pivot.execute("UPDATE scratch SET v = v + 1 WHERE k = 20000")
            last.execute("SELECT v FROM scratch WHERE k = 20000")
            first.execute("UPDATE scratch SET v = v + 1 WHERE k = 1")
            thread = threading.Thread(target=guess, args=[password])
            thread.start()
            deadline = time.monotonic() + 10
            while thread.is_alive() and not value(dba, TURNS, [pivot.info.backend_pid]) and time.monotonic() < deadline:
                pass
            time.sleep(0.003)
            first.execute("COMMIT")
            thread.join(30)
            for session in sessions:
                session.execute("ROLLBACK")
        # Either each refusal was counted, or nothing tells the right password from a wrong one.
        assert len(told_of) <= value(dba, FAILURES) or told_of.get("a") == told_of.get(PASSWORD), told_of


def items_of(session, user):
    sign_in(session, user)
    return items(session)


def set_timeout(connection, milliseconds):
    """As often as it takes: on a slow machine the timeout before ends this statement too."""
    for _ in range(1000):
        with suppress(psycopg.errors.QueryCanceled):
            return connection.execute(f"SET statement_timeout = {milliseconds}")
    return pytest.fail("it is cancelled each time")


def suppress_all(work, *arguments, **more):
    with suppress(Exception):
        work(*arguments, **more)


class TestOracles:
    def test_time(self, db, connect):
        """Whatever is wrong takes about as long: compared in one run, one after the other."""
        user, stranger = new_user(db), new_user(db, "globex")
        wrong = {
            "unknown tenant": {"user": user, "tenant": "nobody"},
            "unknown user": {"user": "nobody"},
            "unknown email": {"email": "nobody@example.com"},
            "wrong password": {"user": user, "password": "x"},
            "long password": {"user": user, "password": "x" * 5000},
            "not a member": {"user": stranger},
        }
        db.run(f"ALTER DATABASE {db.name} SET tenancy.max_failed_sign_ins = 1000000")
        try:
            guest = connect(GUEST)
            took = {name: [] for name in wrong}
            for _ in range(6):  # until each has been met undisturbed
                for _ in range(20):
                    # In another order each time: what disturbs in regular intervals would always meet the same one.
                    for name, who in random.sample(list(wrong.items()), len(wrong)):
                        begun = time.perf_counter()
                        assert answer(guest, **who) == "CREDENTIALS_INVALID"
                        took[name].append(time.perf_counter() - begun)
                # As somebody who listens would: noise only ever makes an answer later.
                quickest = {name: min(all_of_it) for name, all_of_it in took.items()}
                if max(quickest.values()) < 1.25 * min(quickest.values()):
                    break
            else:
                pytest.fail(f"{quickest}")
            assert min(quickest.values()) > 0.002, "the hash is a slow one"
        finally:
            db.run(f"ALTER DATABASE {db.name} RESET tenancy.max_failed_sign_ins")

    def test_the_throttle_tells_nobody_who_is_there(self, db, connect):
        """What is refused after ten failures by another name does not depend on whether the first name is of anybody."""
        guest, seen = connect(GUEST), []
        new_user(db, user="number-7", email="seven@example.com")
        new_user(db, user="UPPER-7")
        for known, unknown, others in (
            ({"email": "seven@example.com"}, {"email": "eight@example.com"}, lambda name: {"user": name["email"]}),
            ({"user": "UPPER-7"}, {"user": "UPPER-8"}, lambda name: {"user": name["user"].lower()}),
        ):
            for name in (known, unknown):
                assert [answer(guest, password="x", **name) for _ in range(11)][-1] == "TOO_MANY_FAILURES"
            seen.append([answer(guest, password="x", **others(name)) for name in (known, unknown)])
        assert [known for known, _ in seen] == [unknown for _, unknown in seen]

    def test_no_lock_tells_whose_an_email_is(self, db, connect):
        """Anybody sees locks: the number of one must not depend on whether the name is of anybody."""
        new_user(db, user="number-9", email="nine@example.com")
        blocker, watcher = connect("postgres"), connect(GUEST)
        blocker.execute("BEGIN")
        blocker.execute("LOCK TABLE _tenancy.failed_sign_ins")
        numbers = []
        for name in ({"email": "nine@example.com"}, {"user": "number-9"}):
            session = connect(GUEST)
            thread = threading.Thread(target=lambda s=session, n=name: suppress_all(answer, s, **n))
            thread.start()
            seen = "SELECT classid, objid FROM pg_locks WHERE pid = %s AND objsubid = x'7E4A'::integer"
            eventually(lambda s=session: watcher.execute(seen, [s.info.backend_pid]).fetchall())
            numbers += watcher.execute(seen, [session.info.backend_pid]).fetchall()
            watcher.execute("SELECT pg_sleep(0.1)")
            blocker.execute("SELECT pg_cancel_backend(%s)", [session.info.backend_pid])
            thread.join(30)
        blocker.execute("ROLLBACK")
        assert numbers[0] != numbers[1]

    def test_no_plan_tells_the_key_of_tokens(self, db, make_role):
        """To a role that may set passwords, or make a new key, and asks PostgreSQL to print plans of nested statements too."""
        role, seen = make_role("it_sign_in_manager"), []
        calls = ("set_password(text, text)", "renew_password_key()")
        db.run(*(f"GRANT EXECUTE ON FUNCTION tenancy.{call} TO {role}" for call in calls), "DELETE FROM _tenancy.issuers")
        try:
            user = new_user(db)
            db.run("DELETE FROM _tenancy.issuers")
            with db.connect(role) as manager:
                manager.add_notice_handler(lambda notice: seen.append(f"{notice.message_detail}"))
                manager.execute("SET client_min_messages = log")
                for show in ("debug_print_parse", "debug_print_rewritten", "debug_print_plan"):
                    manager.execute(f"SET {show} = on")
                for call in (f"set_password('{user}', 'its own words')", "renew_password_key()"):
                    manager.execute(f"SELECT tenancy.{call}")
                    shown = b"\n".join(
                        bytes(int(byte) % 256 for byte in constant.split())
                        for text in seen for constant in re.findall(r":constvalue\s+\d+\s+\[([-0-9\s]+)\]", text)
                    )  # fmt: skip
                    ((key,),) = db.run("SELECT key ->> 'k' FROM _tenancy.signing_keys WHERE issuer = 'tenancy:password'")
                    assert key.encode() not in shown
                assert b"its own words" in shown, "the control: what is in a plan is found"
        finally:
            db.run(*(f"REVOKE ALL ON FUNCTION tenancy.{call} FROM {role}" for call in calls))

    def test_errors_are_whole_and_the_same(self, connect, user, forgotten):
        guest = connect(GUEST)
        seen = set()
        for who in ({"user": user, "password": "x"}, {"user": "nobody"}, {"email": "nobody@example.com"}, {"user": user, "tenant": "nobody"},
                    {"user": user, "tenant": "a b"}, {"user": user, "tenant": "globex"}):  # fmt: skip
            with refused("CREDENTIALS_INVALID") as caught:
                sign_in(guest, **who)
            assert caught.detail == {"code": "CREDENTIALS_INVALID"}
            assert caught.error.diag.context is None
            seen.add(told(caught.error))
        assert len(seen) == 1


class TestTokens:
    def test_it_stands_for_the_password(self, connect, user):
        guest, other = connect(GUEST), connect(GUEST)
        told_of = sign_in(guest, user)
        assert {name: told_of[name] for name in ("tenant_id", "user_id", "role", "issuer")} == {
            "tenant_id": "acme", "user_id": user, "role": "member", "issuer": "tenancy:password",
        }  # fmt: skip
        for session in (guest, other):
            for _ in range(2):
                with session.transaction():
                    assert authenticate(session, told_of["token"])["user_id"] == user
                    assert items(session) == ROWS["acme"]
        with other.transaction():
            other.execute("SET TRANSACTION READ ONLY")
            use(other, told_of["token"])
            assert items(other) == ROWS["acme"]

    @pytest.mark.parametrize("withdraw, code", [
        ("SELECT tenancy.suspend_member('acme', '{user}')", "TENANT_ACCESS_DENIED"),
        ("SELECT tenancy.remove_member('acme', '{user}')", "TENANT_ACCESS_DENIED"),
        ("SELECT tenancy.remove_user('{user}')", "TOKEN_INVALID"),
        ("SELECT tenancy.renew_password_key()", "TOKEN_INVALID"),
        ("SELECT tenancy.set_identity_provider('acme', 'https://sso.example', NULL, '{jwks}')", "TOKEN_INVALID"),
    ], ids=["suspended", "removed", "user removed", "key", "SSO"])  # fmt: skip
    def test_withdrawal_in_open_transactions(self, db, connect, user, withdraw, code):
        """It counts from the next statement on, at any level of isolation, and when it is committed."""
        sessions = [connect(GUEST) for _ in range(4)]
        for session, level in zip(sessions, ("", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"), strict=True):
            if level:
                session.execute(f"BEGIN ISOLATION LEVEL {level}")
            sign_in(session, user, is_local=False)
            assert items(session) == ROWS["acme"]
        jwks = '{"keys": [{"kty": "oct", "k": "%s"}]}' % ("A" * 43)
        try:
            with db.connect("postgres") as dba:
                with dba.transaction(force_rollback=True):
                    dba.execute(withdraw.format(user=user, jwks=jwks))
                    assert items(sessions[0]) == ROWS["acme"]
                assert items(sessions[0]) == ROWS["acme"]
                dba.execute(withdraw.format(user=user, jwks=jwks))
            for session in sessions:
                with refused(code):
                    items(session)
        finally:
            db.run("UPDATE _tenancy.tenants SET sso_required = false")

    @pytest.mark.parametrize("password", ["another", "correct horse", None])
    def test_a_change_of_the_password_ends_it(self, db, connect, user, password):
        """In the middle of a transaction as well; also where the new one is the old one again."""
        guest = connect(GUEST)
        sign_in(guest, user, is_local=False)
        guest.execute("BEGIN")
        assert items(guest) == ROWS["acme"]
        with db.connect("postgres") as dba:
            dba.execute("SELECT tenancy.set_password(%s, %s)", [user, password])
        with refused("TOKEN_INVALID"):
            items(guest)

    def test_where_nothing_can_be_written(self, connect, user, forgotten):
        guest = connect(GUEST)
        with guest.transaction():
            token = sign_in(guest, user)["token"]
        for who in ({"user": user}, {"user": user, "password": "x"}, {"user": "nobody"}):
            with sqlstate("25006"), guest.transaction():
                guest.execute("SET TRANSACTION READ ONLY")
                sign_in(guest, **who)
        with guest.transaction():
            guest.execute("SET TRANSACTION READ ONLY")
            authenticate(guest, token)
            assert items(guest) == ROWS["acme"]

    def test_passwords_and_single_sign_on(self, db, connect):
        """Of two tenants of one user, one asks for its own provider."""
        user = new_user(db, "acme", "globex")
        own = Issuer(db)
        own.trust(tenant_id="acme")
        guest = connect(GUEST)
        db.run("UPDATE _tenancy.tenants SET sso_required = true WHERE id = 'acme'")
        try:
            assert answer(guest, user) == "CREDENTIALS_INVALID"
            assert answer(guest, user, tenant="globex") == "accepted"
            with guest.transaction():
                authenticate(guest, own.token("acme"))
                assert items(guest) == ROWS["acme"]
            with refused("TOKEN_INVALID"), guest.transaction():
                authenticate(guest, Issuer(db).trust().token("acme"))
            # What its own provider vouches for reaches no other tenant.
            with refused("TOKEN_INVALID"), guest.transaction():
                authenticate(guest, own.token("globex"))
        finally:
            db.run("UPDATE _tenancy.tenants SET sso_required = false")


class TestKeptFailures:
    """Rows that are visible from the moment on when they were inserted: PostgreSQL must find nothing odd about them."""

    def test_visible_to_whoever_looks(self, connect, dba, user, forgotten):
        guest, old = connect(GUEST), connect("postgres")
        old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        assert value(old, FAILURES) == 0
        old.execute("DECLARE c CURSOR FOR SELECT FROM _tenancy.failed_sign_ins")
        guest.execute("BEGIN")
        for seen in range(1, 4):
            guest.execute("SAVEPOINT s")
            with refused("CREDENTIALS_INVALID"):
                sign_in(guest, user, password="x")
            assert [value(session, FAILURES) for session in (dba, old)] == [seen, seen]
            guest.execute("ROLLBACK TO s")
        guest.execute("ROLLBACK")
        assert [value(session, FAILURES) for session in (dba, old)] == [3, 3]

    @pytest.mark.parametrize("keep", [
        "VACUUM", "VACUUM (FREEZE)", "VACUUM (FULL)", "ANALYZE", "REINDEX TABLE", "REINDEX TABLE CONCURRENTLY", "CLUSTER",
        "ALTER TABLE {} SET (fillfactor = 50)", "CREATE INDEX it_key ON {} (key)",
    ])  # fmt: skip
    def test_what_is_done_to_a_table(self, connect, dba, user, forgotten, amcheck, keep):
        table = "_tenancy.failed_sign_ins"
        using = " USING failed_sign_ins_key_idx" if keep == "CLUSTER" else ""
        guest = connect(GUEST)
        try:
            for turn in range(1, 4):
                assert answer(guest, user, password="x") == "CREDENTIALS_INVALID"
                assert amcheck() == []
                dba.execute(keep.format(table) if "{}" in keep and turn == 1 else f"VACUUM {table}" if "{}" in keep else f"{keep} {table}{using}")
                assert amcheck() == []
                assert value(dba, FAILURES) == turn
            assert [answer(guest, user, password="x") for _ in range(8)][-1] == "TOO_MANY_FAILURES"
            # They are ordinary rows for whoever changes or removes them.
            dba.execute(f"UPDATE {table} SET failed_at = failed_at - interval '1 minute'")
            dba.execute(f"DELETE FROM {table} WHERE ctid = (SELECT min(ctid) FROM {table})")
            assert answer(guest, user) == "accepted"
            dba.execute(f"VACUUM {table}")
            assert value(dba, FAILURES) == 0
            assert amcheck() == []
        finally:
            dba.execute("DROP INDEX IF EXISTS _tenancy.it_key")
            dba.execute(f"ALTER TABLE {table} RESET (fillfactor)")

    def test_statements_that_are_cancelled(self, db, connect, dba, user, forgotten, amcheck):
        """Whenever it is cancelled: a guess that was answered is counted, and no row is without its index entries."""
        db.run(f"ALTER DATABASE {db.name} SET tenancy.max_failed_sign_ins = 1000000")
        try:
            guest, answered = connect(GUEST), 0
            for number in range(120):
                set_timeout(guest, 1 + number % 40)
                given = answer(guest, user, password="x")
                assert given == "CREDENTIALS_INVALID" or given.startswith("57014")
                answered += given == "CREDENTIALS_INVALID"
            assert 0 < answered <= value(dba, FAILURES)
            assert amcheck() == []
        finally:
            db.run(f"ALTER DATABASE {db.name} RESET tenancy.max_failed_sign_ins")

    def test_where_all_tables_are_published(self, connect, dba, user, forgotten):
        dba.execute("CREATE PUBLICATION it_all FOR ALL TABLES")
        try:
            guest = connect(GUEST)
            assert answer(guest, user, password="x") == "CREDENTIALS_INVALID"
            assert answer(guest, user) == "accepted"
        finally:
            dba.execute("DROP PUBLICATION it_all")
