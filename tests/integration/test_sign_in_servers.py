"""Signing in, and the server: its log, a standby, a crash, a dump."""

import os

import psycopg
import pytest
from sign_in_support import FAILURES, answer, credentials, new_user, sign_in
from support import APP, GUEST, MAJOR, Database, eventually, items, pg_program, refused, server_of, server_tool, sqlstate, value
from token_support import ROWS, authenticate, got, told

OWN = f"it-sign-in-{os.getpid()}"


class Place:
    """A server of this file's own, with a database."""

    def __init__(self, server):
        self.server = server
        server.create_roles()
        self.db = Database(server, "it_sign_in_own")
        self.db.create_shop()


@pytest.fixture(scope="module")
def place():
    options = ["log_statement=none", "log_min_error_statement=panic", "log_min_messages=debug1", "log_error_verbosity=verbose"]
    try:
        yield Place(server_of(server_tool("start", str(MAJOR), OWN, "--preload", "--durable", *options)))
    finally:
        server_tool("stop", OWN)


def test_no_secret_is_told(place):
    """Neither in the log, nor in errors and notices, nor in what others see of a session, nor in a plan."""
    db, log = place.db, server_tool("log", OWN)
    password = "wombat-4711"
    user = new_user(db, password=password)
    key, hash_of = db.run(
        f"SELECT (SELECT key ->> 'k' FROM _tenancy.signing_keys), (SELECT hash FROM _tenancy.passwords WHERE user_id = '{user}')"
    )[0]
    begin, seen, notices = os.path.getsize(log), "", []
    with db.connect(GUEST) as guest, db.connect("postgres") as dba:
        guest.add_notice_handler(lambda notice: notices.append("\n".join(str(getattr(notice, field)) for field in dir(notice))))
        guest.execute("SET client_min_messages = debug1")
        token = sign_in(guest, user, password=password, is_local=False)["token"]
        seen += value(dba, "SELECT query FROM pg_stat_activity WHERE pid = %s", [guest.info.backend_pid])
        for statement in ("SHOW ALL", "TABLE pg_settings", "TABLE pg_stat_activity", "TABLE pg_prepared_statements", "SELECT tenancy.context()",
                          "EXPLAIN (ANALYZE, VERBOSE, SETTINGS) TABLE orders", "SELECT 1 / 0"):  # fmt: skip
            seen += got(guest, statement)
        for who in ({"password": password + "!"}, {"tenant": "globex"}, {"tenant": "a b"}, {"user": "nobody"}):
            with pytest.raises(psycopg.Error) as info:
                sign_in(guest, **{"user": user, "password": password} | who)
            seen += told(info.value)
        for broken in ('{"password": "%s"}', '{"password": "%s", "user_id": 1}', '{"password": "%s"', '["%s"]'):
            seen += got(guest, "SELECT tenancy.authenticate(%s::text::jsonb)", [broken % "no-secret"])
        for call, arguments in (
            ("SELECT tenancy.set_password(%s, %s)", ["nobody", password]), ("SELECT tenancy.set_password(%s, %s)", [user, password * 100]),
        ):  # fmt: skip
            with pytest.raises(psycopg.Error) as info:
                dba.execute(call, arguments)
            seen += told(info.value)
        # A plan shows its reader the arguments that were given to it, and nothing else.
        guest.execute("PREPARE p(jsonb) AS SELECT tenancy.authenticate($1)")
        guest.execute("SET plan_cache_mode = force_generic_plan")
        plan = "\n".join(row[0] for row in guest.execute("EXPLAIN (ANALYZE, VERBOSE) EXECUTE p('%s')" % credentials(user, password)))
        assert "authenticate" in plan
        seen += plan
    with open(log, "rb") as file:
        file.seek(begin)
        logged = file.read().decode()
    assert "credentials are not accepted" in logged, "the control: what was refused is logged"
    secrets = [password, key, hash_of, hash_of.split("$")[-1], *token.split(".")[1:]]
    assert not [secret for secret in secrets for text in (logged, seen, "".join(notices)) if secret in text]


def test_a_standby(place):
    """A token is good there, a password is not; failures arrive, and count once the standby is the primary."""
    db, name = place.db, f"{OWN}-standby"
    user = new_user(db)
    with db.connect(GUEST) as guest:
        token = sign_in(guest, user)["token"]
        replica = object.__new__(Database)
        replica.server, replica.name = server_of(server_tool("standby", str(MAJOR), name, OWN)), db.name
        try:
            assert [answer(guest, user, password="x") for _ in range(10)][-1] == "CREDENTIALS_INVALID"
            ((position,),) = db.run("SELECT pg_current_wal_insert_lsn()")
            eventually(lambda: replica.run(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") == [(True,)])
            assert replica.run(FAILURES) == db.run(FAILURES)
            with replica.connect(GUEST) as there:
                for who in ({"user": user}, {"user": user, "password": "x"}, {"user": "nobody"}):
                    with sqlstate("25006"):
                        sign_in(there, **who)
                with there.transaction():
                    authenticate(there, token)
                    assert items(there) == ROWS["acme"]
            server_tool("promote", name)
            eventually(lambda: replica.run("SELECT pg_is_in_recovery()") == [(False,)])
            with replica.connect(GUEST) as there:
                assert answer(there, user) == "TOO_MANY_FAILURES"
                with there.transaction():
                    authenticate(there, token)
                    assert items(there) == ROWS["acme"]
        finally:
            server_tool("stop", name)


def test_a_crash(place):
    db = place.db
    user = new_user(db)
    guest = db.connect(GUEST)
    # The last of them in a transaction that the crash ends.
    assert [answer(guest, user, password="x") for _ in range(9)][-1] == "CREDENTIALS_INVALID"
    guest.execute("BEGIN")
    guest.execute("SAVEPOINT s")
    with refused("CREDENTIALS_INVALID"):
        sign_in(guest, user, password="x")
    # What is rolled back is on disk within three times wal_writer_delay.
    ((position,),) = db.run("SELECT pg_current_wal_insert_lsn()")
    eventually(lambda: db.run(f"SELECT pg_current_wal_flush_lsn() >= '{position}'") == [(True,)])
    server_tool("crash", OWN)
    guest.close()
    with db.connect(GUEST) as guest:
        assert answer(guest, user) == "TOO_MANY_FAILURES"


def test_a_dump_brings_passwords_along(place, tmp_path):
    """Passwords, the flag of single sign-on, and the key by which tokens from before go on; no failures."""
    db, file = place.db, str(tmp_path / "dump")
    user = new_user(db)
    with db.connect(GUEST) as guest:
        token = sign_in(guest, user)["token"]
        assert answer(guest, user, password="x") == "CREDENTIALS_INVALID"
    options = ["--host", db.server.host, "--port", db.server.port, "-U", "postgres"]
    db.run("UPDATE _tenancy.tenants SET sso_required = true WHERE id = 'initech'")
    try:
        pg_program("pg_dump", *options, "-Fc", "-f", file, db.name)
    finally:
        db.run("UPDATE _tenancy.tenants SET sso_required = false")
    copy = Database(db.server, "it_sign_in_restored", extension=False)
    try:
        pg_program("pg_restore", *options, "--exit-on-error", "-d", copy.name, file)
        assert copy.run(FAILURES) == [(0,)]
        assert copy.run("SELECT id FROM tenancy.tenants WHERE sso_required") == [("initech",)]
        with copy.connect(GUEST) as there:
            assert answer(there, user) == "accepted"
            assert answer(there, user, password="x") == "CREDENTIALS_INVALID"
            with there.transaction():
                authenticate(there, token)
                assert items(there) == ROWS["acme"]
        # An application's role dumps none of it.
        refusal = pg_program("pg_dump", *options[:-1], APP, "--data-only", "-t", "_tenancy.passwords", db.name, check=False)
        assert refusal.returncode != 0 and "$argon2id$" not in refusal.stdout
    finally:
        copy.drop()
