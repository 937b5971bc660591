"""Signed tokens on a hot standby, and behind PgBouncer in transaction mode with one server connection for all clients."""

import os

import psycopg
import pytest
from support import GUEST, MAJOR, Database, items, refused, server_of, server_tool, sqlstate
from test_pgbouncer import backend_of, many_clients, pgbouncer
from test_standby import wait_for_replay
from token_support import ROWS, authenticate, bad_tokens, reaches, use

REPLICA = f"it-token-replica-{os.getpid()}"


@pytest.fixture(scope="module")
def db(db):
    db.run(f"ALTER DATABASE {db.name} SET tenancy.token_clock_skew = 0")
    return db


@pytest.fixture(scope="module")
def standby(db):
    replica = object.__new__(Database)
    env_file = server_tool("standby", str(MAJOR), REPLICA, os.environ["TENANCY_SERVER"])
    replica.server, replica.name = server_of(env_file), db.name
    try:
        yield replica
    finally:
        server_tool("stop", REPLICA)


def test_reads(db, standby, issuer):
    wait_for_replay(db, standby)
    with standby.connect(GUEST) as replica:
        for tenant, rows in ROWS.items():
            assert reaches(replica, issuer.token(tenant), rows)
        for bad in bad_tokens(issuer).values():
            with pytest.raises(psycopg.errors.InvalidAuthorizationSpecification), replica.transaction():
                authenticate(replica, bad)
        use(replica, issuer.token(), is_local=False)
        assert items(replica) == ROWS["acme"]
        issuer.distrust()
        wait_for_replay(db, standby)
        with refused("TOKEN_INVALID"):
            items(replica)


def test_one_use_asks_for_a_write(db, standby, connect, once):
    wait_for_replay(db, standby)
    with standby.connect(GUEST) as replica, sqlstate("25006"):
        authenticate(replica, once.token(jti="standby"))
    with connect(GUEST) as guest, sqlstate("25006"):
        guest.execute("BEGIN READ ONLY")
        authenticate(guest, once.token(jti="read only"))


def test_for_the_transaction(db, issuer):
    def work(connection, number, chance):
        tokens = {tenant: issuer.token(tenant) for tenant in ROWS}
        for _ in range(25):
            for tenant in chance.sample(list(ROWS), len(ROWS)):
                with connection.transaction():
                    chance.choice([use, authenticate])(connection, tokens[tenant])
                    assert items(connection) == ROWS[tenant]
                if chance.random() < 0.2:
                    with refused("TENANT_CONTEXT_MISSING"):
                        items(connection)
        with connection.transaction():
            return backend_of(connection)

    with pgbouncer(db, [GUEST]) as pooler:
        assert len(set(many_clients(pooler, work, GUEST))) == 1


@pytest.mark.parametrize("give", [use, authenticate])
def test_plain_set(db, make_role, issuer, give):
    # The limit, and what takes care of it: without session_context = 'refuse' the next client has the context.
    role = make_role("it_token_pooled", session_context="refuse")
    with pgbouncer(db, [role]) as pooler, pooler.connect(role) as one, pooler.connect(role) as two:
        for _ in range(3):
            give(one, issuer.token(), is_local=False)
            for client in (two, one):
                with refused("TENANT_CONTEXT_MISSING"):
                    items(client)
            with two.transaction():
                authenticate(two, issuer.token("globex"))
                assert items(two) == ROWS["globex"]
    with pgbouncer(db, [GUEST]) as pooler, pooler.connect(GUEST) as one, pooler.connect(GUEST) as two:
        give(one, issuer.token(), is_local=False)
        assert items(two) == ROWS["acme"]


def test_plain_set_with_tracking(db, make_role, issuer):
    # PgBouncer (1.24) puts back no value of 126 bytes or more, and says nothing: no way to keep tokens apart.
    role = make_role("it_token_tracked", session_context="refuse")
    options = {"track_extra_parameters": "IntervalStyle, tenancy.token"}
    with pgbouncer(db, [role], **options) as pooler, pooler.connect(role) as one, pooler.connect(role) as two:
        for _ in range(3):
            use(one, issuer.token("acme"), is_local=False)
            authenticate(two, issuer.token("globex"), is_local=False)
            for client in (one, two):
                with refused("TENANT_CONTEXT_MISSING"):
                    items(client)
    with pgbouncer(db, [GUEST], **options) as pooler, pooler.connect(GUEST) as one, pooler.connect(GUEST) as two:
        use(one, issuer.token("acme"), is_local=False)
        authenticate(two, issuer.token("globex"), is_local=False)
        assert items(one) == ROWS["globex"]  # the limit
