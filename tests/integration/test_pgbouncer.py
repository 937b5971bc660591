"""PgBouncer in transaction mode, one server connection, many clients that interleave their tenants."""

import os
import pwd
import random
import re
import shutil
import socket
import subprocess
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from sign_in_support import answer, new_user, sign_in
from support import APP, GUEST, Server, eventually, items, refused, set_local, sqlstate, value
from token_support import authenticate

ROWS = {"acme": ["a1", "a2", "a3"], "globex": ["g1", "g2"], "initech": ["i1"], "umbrella": []}
CLIENTS, TRANSACTIONS = 8, 100
# PgBouncer puts back, at each turn, what a client has set of these. IntervalStyle is its own default.
TRACKED = "IntervalStyle, tenancy.tenant_id"


def version():
    shown = subprocess.run([os.environ["TENANCY_PGBOUNCER"], "--version"], capture_output=True, text=True, check=True)
    return tuple(int(part) for part in re.search(r"PgBouncer (\d+)\.(\d+)", shown.stdout).groups())


@pytest.fixture(scope="module", autouse=True)
def new_enough():
    assert version() >= (1, 20), "track_extra_parameters came with PgBouncer 1.20"


class Pooler(Server):
    """A running PgBouncer. Clients must not prepare statements on the server: it may be another one next time."""

    def connect(self, role=APP, dbname="pooled", **parameters):
        return super().connect(role, dbname, prepare_threshold=None, **parameters)


@contextmanager
def pgbouncer(db, roles, **options):
    """Starts a PgBouncer before the database with one server connection; stops it at the end."""
    directory = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "listen_addr": "127.0.0.1",
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "trust",
        "auth_file": directory / "users",
        "logfile": directory / "log",
        "pool_mode": "transaction",
        "default_pool_size": 1,
        "max_client_conn": 100,
        "ignore_startup_parameters": "extra_float_digits",
    } | options
    (directory / "users").write_text("".join(f'"{role}" ""\n' for role in roles))
    (directory / "ini").write_text(
        f"[databases]\npooled = host={db.server.host} port={db.server.port} dbname={db.name}\n[pgbouncer]\n"
        + "".join(f"{name} = {option}\n" for name, option in settings.items())
    )
    command = [os.environ["TENANCY_PGBOUNCER"], str(directory / "ini")]
    if os.geteuid() == 0:  # it refuses to be root
        account = pwd.getpwnam("postgres")
        for path in (directory, *directory.iterdir()):
            os.chown(path, account.pw_uid, account.pw_gid)
        command[1:1] = ["-u", "postgres"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pooler = Pooler("127.0.0.1", str(port))

    def answers():
        assert process.poll() is None, (directory / "log").read_text()
        try:
            pooler.connect(roles[0]).close()
        except psycopg.OperationalError:
            return False
        return True

    try:
        eventually(answers)
        yield pooler
    finally:
        process.terminate()
        process.wait(20)
        shutil.rmtree(directory)


def many_clients(pooler, work, role=APP, clients=CLIENTS):
    """Runs work(connection, number, random) in many clients at once; returns what they returned."""
    results, failures = [None] * clients, []
    barrier = threading.Barrier(clients, timeout=30)

    def run(number):
        try:
            with pooler.connect(role) as connection:
                barrier.wait()
                results[number] = work(connection, number, random.Random(number))
        except BaseException as failure:  # noqa: BLE001 — whatever it was, the test has to see it
            failures.append(failure)
            barrier.abort()

    threads = [threading.Thread(target=run, args=[number]) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive()
    if failures:
        raise failures[0]
    return results


def backend_of(connection):
    return value(connection, "SELECT pg_backend_pid()")


def test_set_local(db):
    def work(connection, number, chance):
        pids = set()
        for _ in range(TRANSACTIONS):
            for tenant in chance.sample(list(ROWS), len(ROWS)):
                with connection.transaction():
                    set_local(connection, tenant)
                    assert items(connection) == ROWS[tenant]
                    pids.add(backend_of(connection))
            if chance.random() < 0.1:
                with refused("TENANT_CONTEXT_MISSING"):
                    items(connection)
        return pids

    with pgbouncer(db, [APP]) as pooler:
        pids = many_clients(pooler, work)
    assert len(set().union(*pids)) == 1  # all of them on one server connection


def test_set_local_with_server_side_statements(db):
    # PgBouncer 1.21 and later keep prepared statements apart themselves.
    assert version() >= (1, 21)

    def work(connection, number, chance):
        connection.prepare_threshold = 0
        for _ in range(20):
            for tenant in chance.sample(list(ROWS), len(ROWS)):
                with connection.transaction():
                    set_local(connection, tenant)
                    assert items(connection) == ROWS[tenant]

    with pgbouncer(db, [APP], max_prepared_statements=100) as pooler:
        many_clients(pooler, work)


def tenant_of(number):
    return list(ROWS)[number % len(ROWS)]


def test_plain_set_with_tracking(db):
    def work(connection, number, chance):
        tenant = tenant_of(number)
        if number == CLIENTS - 1:  # this one sets nothing
            for _ in range(TRANSACTIONS):
                with refused("TENANT_CONTEXT_MISSING"):
                    items(connection)
            return
        connection.execute(f"SET tenancy.tenant_id = '{tenant}'")
        for _ in range(TRANSACTIONS):
            assert items(connection) == ROWS[tenant]
            if chance.random() < 0.2:
                other = chance.choice(list(ROWS))
                with connection.transaction():
                    set_local(connection, other)
                    assert items(connection) == ROWS[other]
            if chance.random() < 0.2:
                tenant = chance.choice(list(ROWS))
                connection.execute(f"SET tenancy.tenant_id = '{tenant}'")

    with pgbouncer(db, [APP], track_extra_parameters=TRACKED) as pooler:
        many_clients(pooler, work)


def test_reset_with_tracking(db):
    with (
        pgbouncer(db, [APP], track_extra_parameters=TRACKED) as pooler,
        pooler.connect() as one,
        pooler.connect() as two,
    ):
        one.execute("SET tenancy.tenant_id = 'acme'")
        for _ in range(5):
            assert items(one) == ROWS["acme"]
            with refused("TENANT_CONTEXT_MISSING"):
                items(two)
        one.execute("RESET tenancy.tenant_id")
        with refused("TENANT_CONTEXT_MISSING"):
            items(one)


def test_start_up_option_with_tracking(db):
    with (
        pgbouncer(db, [APP], track_extra_parameters=TRACKED) as pooler,
        pooler.connect(settings={"tenancy.tenant_id": "acme"}) as one,
        pooler.connect(settings={"tenancy.tenant_id": "globex"}) as two,
        pooler.connect() as three,
    ):
        for _ in range(5):
            assert items(one) == ROWS["acme"]
            assert items(two) == ROWS["globex"]
            with refused("TENANT_CONTEXT_MISSING"):
                items(three)


def test_a_role_without_the_privilege_with_tracking(db):
    with pgbouncer(db, [GUEST], track_extra_parameters=TRACKED) as pooler, pooler.connect(GUEST) as guest:
        with sqlstate("42501"):
            guest.execute("SET tenancy.tenant_id = 'acme'")
        with refused("TENANT_CONTEXT_MISSING"):
            items(guest)
        with pytest.raises(psycopg.Error), pooler.connect(GUEST, settings={"tenancy.tenant_id": "acme"}) as other:
            items(other)


def test_bound_role_with_tracking(db, make_role):
    # It may not SET, so PgBouncer must have nothing to put back.
    role = make_role("it_pooled_bound", tenant_id="globex")
    with (
        pgbouncer(db, [role], track_extra_parameters=TRACKED) as pooler,
        pooler.connect(role) as one,
        pooler.connect(role) as two,
    ):
        for _ in range(5):
            for client in (one, two):
                assert items(client) == ROWS["globex"]
                with sqlstate("42501"):
                    client.execute("SET tenancy.tenant_id = 'acme'")


def test_session_mode_forgets_the_tenant_of_the_client_before(db):
    with pgbouncer(db, [APP], pool_mode="session") as pooler:  # server_reset_query is DISCARD ALL
        with pooler.connect() as one:
            one.execute("SET tenancy.tenant_id = 'acme'")
            assert items(one) == ROWS["acme"]
            backend = backend_of(one)
        with pooler.connect() as two:
            assert backend_of(two) == backend
            with refused("TENANT_CONTEXT_MISSING"):
                items(two)


def test_plain_set_without_tracking_leaks(db):
    # The negative control: what the tests above would see if nothing were right. Not a way to work.
    with pgbouncer(db, [APP]) as pooler, pooler.connect() as one, pooler.connect() as two:
        one.execute("SET tenancy.tenant_id = 'acme'")
        assert items(two) == ROWS["acme"]
        with pytest.raises(AssertionError):
            many_clients(pooler, plain_set)


def plain_set(connection, number, chance):
    tenant = tenant_of(number)
    connection.execute(f"SET tenancy.tenant_id = '{tenant}'")
    for _ in range(TRANSACTIONS):
        assert items(connection) == ROWS[tenant]


@pytest.mark.parametrize("options", [{}, {"track_extra_parameters": TRACKED}], ids=["untracked", "tracked"])
def test_plain_set_is_refused_where_the_role_says_so(db, make_role, options):
    role = make_role("it_pooled", may_set=True, session_context="refuse")

    def work(connection, number, chance):
        tenant = tenant_of(number)
        for _ in range(TRANSACTIONS // 2):
            connection.execute(f"SET tenancy.tenant_id = '{tenant}'")
            with refused("TENANT_CONTEXT_MISSING") as caught:
                items(connection)
            assert caught.error.diag.message_hint
            with connection.transaction():
                set_local(connection, tenant)
                assert items(connection) == ROWS[tenant]

    with pgbouncer(db, [role], **options) as pooler:
        many_clients(pooler, work, role)


def test_suspension_reaches_pooled_clients(db, dba):
    tenant = db.new_tenant("one")
    with pgbouncer(db, [APP]) as pooler, pooler.connect() as client:
        with client.transaction():
            set_local(client, tenant)
            assert items(client) == ["one"]
            dba.execute("SELECT tenancy.suspend_tenant(%s)", [tenant])
            with refused("TENANT_SUSPENDED"), client.transaction():
                items(client)


def test_signing_in(db):
    """Once with a password, then by the token that it gave, in each transaction."""
    users = [new_user(db, tenant_of(number)) for number in range(CLIENTS)]

    def work(connection, number, chance):
        tenant, pids = tenant_of(number), set()
        with connection.transaction():
            token = sign_in(connection, users[number], tenant=tenant)["token"]
            assert items(connection) == ROWS[tenant]
        for _ in range(TRANSACTIONS):
            with connection.transaction():
                assert authenticate(connection, token)["user_id"] == users[number]
                assert items(connection) == ROWS[tenant]
                pids.add(backend_of(connection))
            if chance.random() < 0.2:
                with refused("TENANT_CONTEXT_MISSING"):
                    items(connection)
            if chance.random() < 0.03:
                assert answer(connection, users[number], "x", tenant=tenant) == "CREDENTIALS_INVALID"
        return pids

    db.run(f"ALTER DATABASE {db.name} SET tenancy.max_failed_sign_ins = 1000")
    try:
        with pgbouncer(db, [GUEST]) as pooler:
            pids = many_clients(pooler, work, GUEST)
    finally:
        db.run(f"ALTER DATABASE {db.name} RESET tenancy.max_failed_sign_ins")
    assert len(set().union(*pids)) == 1  # all of them on one server connection
