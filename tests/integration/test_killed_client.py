"""A client that is gone in the middle of a transaction leaves no tenant to the next one on the same server connection."""

import os
import signal
import subprocess
import sys

import psycopg
import pytest
from support import APP, eventually, items, refused, set_local, set_session, sqlstate, value
from test_pgbouncer import backend_of, pgbouncer

ROWS = {"acme": ["a1", "a2", "a3"], "globex": ["g1", "g2"]}
UNFINISHED = "INSERT INTO orders (item) VALUES ('unfinished')"
# A process of its own, so that it can be killed: it says who serves it, and waits.
CLIENT = """
import psycopg, sys
with psycopg.connect(sys.argv[1], autocommit=True, prepare_threshold=None) as connection:
    connection.execute("BEGIN")
    connection.execute("SELECT set_config('tenancy.tenant_id', 'acme', %s)", [sys.argv[2] == "local"])
    connection.execute("INSERT INTO orders (item) VALUES ('unfinished')")
    print(connection.execute("SELECT pg_backend_pid()").fetchone()[0], flush=True)
    sys.stdin.read() if sys.argv[3] == "idle" else connection.execute("SELECT pg_sleep(600) FROM orders")
"""


def leave(connection, scope):
    """Begins what will not be ended."""
    connection.execute("BEGIN")
    (set_local if scope == "local" else set_session)(connection, "acme")
    connection.execute(UNFINISHED)
    assert "unfinished" in items(connection)


def nothing_is_left(connection):
    with refused("TENANT_CONTEXT_MISSING"):
        items(connection)
    with refused("TENANT_CONTEXT_MISSING"):
        connection.execute("INSERT INTO orders (item) VALUES ('x')")
    for tenant, rows in ROWS.items():
        with connection.transaction():
            set_local(connection, tenant)
            assert items(connection) == rows
    with refused("TENANT_CONTEXT_MISSING"):
        items(connection)


@pytest.fixture(params=["transaction", "session"])
def pooler(db, request):
    """With one server connection, so that the next client is given what this one had."""
    with pgbouncer(db, [APP], pool_mode=request.param) as pooler:
        yield pooler


@pytest.mark.parametrize("scope", ["local", "session"])
def test_the_socket_is_closed(pooler, scope):
    gone = pooler.connect()
    leave(gone, scope)
    with open(os.devnull, "rb+", buffering=0) as nothing:
        os.dup2(nothing.fileno(), gone.fileno())  # which closes it, without a word of farewell
    with pooler.connect() as following:
        nothing_is_left(following)
    gone.close()


@pytest.mark.parametrize("doing", ["idle", "busy"])
@pytest.mark.parametrize("scope", ["local", "session"])
def test_the_process_is_killed(pooler, dba, scope, doing):
    conninfo = psycopg.conninfo.make_conninfo(host=pooler.host, port=pooler.port, user=APP, dbname="pooled")
    command = [sys.executable, "-c", CLIENT, conninfo, scope, doing]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        backend = int(process.stdout.readline())
        running = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND query LIKE 'SELECT pg_sleep%%'"
        eventually(lambda: doing == "idle" or value(dba, running, [backend]) == 1)
        process.send_signal(signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    with pooler.connect() as following:
        nothing_is_left(following)
    if doing == "busy":  # it does not notice before its statement ends
        dba.execute("SELECT pg_terminate_backend(%s)", [backend])


@pytest.mark.parametrize("scope", ["local", "session"])
@pytest.mark.parametrize("way", ["terminated", "timeout"])
def test_the_server_ends_it(pooler, dba, scope, way):
    with pooler.connect() as connection:
        leave(connection, scope)
        backend = backend_of(connection)
        if way == "timeout":
            connection.execute("SET LOCAL statement_timeout = '50ms'")
            with sqlstate("57014"):
                connection.execute("SELECT pg_sleep(600)")
            connection.execute("ROLLBACK")
            assert backend_of(connection) == backend
            nothing_is_left(connection)
        else:
            dba.execute("SELECT pg_terminate_backend(%s)", [backend])
            with pytest.raises(psycopg.OperationalError):
                items(connection)
        connection.close()
    with pooler.connect() as following:
        nothing_is_left(following)


def test_a_connection_that_is_used_again_without_a_pooler(connect, dba):
    """As the pool of a driver does: ROLLBACK, and the next request has the connection."""
    app = connect()
    for scope in ("local", "session"):
        backend = backend_of(app)
        leave(app, scope)
        app.rollback()
        assert backend_of(app) == backend
        nothing_is_left(app)
        leave(app, scope)
        with sqlstate("22012"):
            app.execute("SELECT 1 / 0")
        app.execute("COMMIT")  # which rolls back
        nothing_is_left(app)
    leave(app, "session")
    dba.execute("SELECT pg_terminate_backend(%s)", [backend_of(app)])
    with pytest.raises(psycopg.OperationalError):
        items(app)
    nothing_is_left(connect())
