"""A hot standby: reads under a context work, and what the primary decides arrives."""

import os

import pytest
from support import MAJOR, APP, Database, eventually, items, refused, server_of, server_tool, set_local, set_session
from support import sqlstate, value

REPLICA = f"it-replica-{os.getpid()}"


@pytest.fixture(scope="module")
def standby(db):
    """A standby of the server, as the same database there."""
    replica = object.__new__(Database)
    env_file = server_tool("standby", str(MAJOR), REPLICA, os.environ["TENANCY_SERVER"])
    replica.server, replica.name = server_of(env_file), db.name
    try:
        yield replica
    finally:
        server_tool("stop", REPLICA)


@pytest.fixture
def replica(standby):
    connection = standby.connect(APP)
    yield connection
    connection.close()


def wait_for_replay(db, standby):
    ((position,),) = db.run("SELECT pg_current_wal_lsn()")
    eventually(lambda: standby.run(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") == [(True,)])


def test_reads_under_a_context(replica):
    assert value(replica, "SELECT pg_is_in_recovery()")
    with refused("TENANT_CONTEXT_MISSING"):
        items(replica)
    for tenant, rows in (("acme", ["a1", "a2", "a3"]), ("globex", ["g1", "g2"])):
        with replica.transaction():
            set_local(replica, tenant)
            assert items(replica) == rows
        with replica.transaction():
            assert value(replica, "SELECT tenancy.set_tenant(%s)", [tenant]) == tenant
            assert items(replica) == rows
    set_session(replica, "acme")
    assert items(replica) == ["a1", "a2", "a3"]
    assert value(replica, "SELECT tenancy.context() ->> 'status'") == "active"
    replica.execute("SELECT tenancy.clear_tenant()")
    with refused("TENANT_CONTEXT_MISSING"):
        items(replica)


def test_start_up_option(standby):
    with standby.connect(APP, settings={"tenancy.tenant_id": "globex"}) as connection:
        assert items(connection) == ["g1", "g2"]


def test_writes_are_refused_by_core(replica):
    set_session(replica, "acme")
    with sqlstate("25006"):
        replica.execute("INSERT INTO orders (item) VALUES ('x')")


def test_suspension_arrives(db, standby, replica):
    tenant = db.new_tenant("one")
    wait_for_replay(db, standby)
    set_session(replica, tenant)
    assert items(replica) == ["one"]
    db.run(f"SELECT tenancy.suspend_tenant('{tenant}')")
    wait_for_replay(db, standby)
    with refused("TENANT_SUSPENDED"):
        items(replica)
    with refused("TENANT_SUSPENDED"):
        replica.execute("SELECT tenancy.set_tenant(%s)", [tenant])
    db.run(f"SELECT tenancy.resume_tenant('{tenant}')")
    wait_for_replay(db, standby)
    assert items(replica) == ["one"]


def test_suspension_arrives_in_the_middle_of_a_transaction(db, standby, replica):
    tenant = db.new_tenant("one")
    wait_for_replay(db, standby)
    replica.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
    set_local(replica, tenant)
    assert items(replica) == ["one"]
    db.run(f"SELECT tenancy.suspend_tenant('{tenant}')")
    wait_for_replay(db, standby)
    with refused("TENANT_SUSPENDED"):
        items(replica)
    replica.execute("ROLLBACK")


def test_protection_arrives(db, standby, replica):
    db.run(
        "CREATE TABLE later (tenant_id text)",
        "INSERT INTO later VALUES ('acme'), ('globex')",
        "SELECT tenancy.protect('later')",
        role="it_owner",
    )
    wait_for_replay(db, standby)
    with replica.transaction():
        set_local(replica, "acme")
        assert replica.execute("SELECT tenant_id FROM later").fetchall() == [("acme",)]


def test_promoted(db, standby):
    """It is isolated and writes; versions of the cache mean what they meant; and what was not logged is gone. The last one here."""
    tenant = db.new_tenant("one")
    db.run("SELECT tenancy.cache_watch('orders', 'orders')")
    with db.connect(APP) as app:
        set_session(app, tenant)
        app.execute("SELECT tenancy.cache_set('key', '1')")
        app.execute("INSERT INTO orders (item) VALUES ('two')")
        version = value(app, "SELECT tenancy.cache_version('orders')")
        assert value(app, "SELECT tenancy.cache_get('key')") == 1
    wait_for_replay(db, standby)
    server_tool("promote", REPLICA)
    with standby.connect(APP) as app:
        eventually(lambda: not value(app, "SELECT pg_is_in_recovery()"))
        with refused("TENANT_CONTEXT_MISSING"):
            items(app)
        set_session(app, tenant)
        assert value(app, "SELECT tenancy.cache_version('orders')") == version
        assert value(app, "SELECT tenancy.cache_get('key')") is None
        app.execute("INSERT INTO orders (item) VALUES ('three')")
        assert items(app) == ["one", "three", "two"]
        set_session(app, "globex")
        assert items(app) == ["g1", "g2"]
    db.run("SELECT tenancy.cache_unwatch('orders', 'orders')")
