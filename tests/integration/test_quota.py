"""Quotas are exact, whatever many connections do at a time, and whatever becomes of the server.

Everything runs on a server with the counters in shared memory and on one without, and must give the same answers.
TENANCY_ROUNDS says how often the server is killed.
"""

import os
import threading
import time

import psycopg
import pytest
from quota_support import CONNECTIONS, NAME, ONE, assert_exact, count, db, in_bulk, one_at_a_time, run_workers, server
from quota_support import set_quota, status
from support import APP, eventually, refused, server_tool, set_local, set_session, value

__all__ = ["db", "server"]  # fixtures

ROUNDS = int(os.environ.get("TENANCY_ROUNDS", "3"))
# Where charges wait for one another, a tenth of the rows takes as long.
LIMIT = {True: 10_000, False: 1_000}


@pytest.mark.parametrize("work", [one_at_a_time, in_bulk], ids=lambda work: work.__name__)
def test_a_limit_is_reached_and_never_passed(db, work):
    limit = LIMIT[db.server.is_preloaded]
    set_quota(db, "acme", limit)
    highest = 0

    def until_full(workers):
        nonlocal highest
        enough = 2 * CONNECTIONS
        deadline = time.monotonic() + 240
        while sum(worker.refused for worker in workers) < enough and any(w.is_alive() for w in workers):
            assert time.monotonic() < deadline, "not full after four minutes"
            highest = max(highest, count(db, "acme"))
            time.sleep(0.1)

    workers = run_workers(db, work, until_full, seed=len(work.__name__))
    assert sum(worker.refused for worker in workers) > 0
    assert highest <= limit
    # Nothing is in flight, so there is no refusal while there is room, and one as soon as there is none.
    with db.connect(APP) as app:
        set_session(app, "acme")
        room = limit - count(db, "acme")
        assert room >= 0
        app.execute("INSERT INTO job SELECT FROM generate_series(1, %s)", [room])
        with refused("QUOTA_EXCEEDED") as caught:
            app.execute(ONE)
        assert caught.detail["current"] == limit
    assert count(db, "acme") == limit
    assert status(db, "acme") == (limit, 0)
    assert_exact(db)


def test_kill(db, server):
    """kill -9 of a backend, which takes all others along, and of the whole server, under load."""
    set_quota(db, "acme", 1_000_000)
    for number in range(ROUNDS):
        started = threading.Event()

        def until_killed(workers):
            time.sleep(1 + 0.1 * (number % 5))
            if number % 2 == 0:
                server_tool("crash", NAME)
            else:
                with db.connect("postgres") as dba:
                    query = f"SELECT pid FROM pg_stat_activity WHERE usename = '{APP}' ORDER BY random() LIMIT 1"
                    (pid,) = dba.execute(query).fetchone()
                os.kill(pid, 9)
            started.set()
            eventually(lambda: all(not worker.is_alive() for worker in workers), timeout=60)

        run_workers(db, one_at_a_time if number % 4 < 2 else in_bulk, until_killed, seed=number, may_be_killed=True)
        eventually(lambda: is_up(db), timeout=60)
        assert_exact(db)
    assert count(db, "acme") > 0


def is_up(db):
    try:
        return db.run("SELECT 1") == [(1,)]
    except psycopg.OperationalError:
        return False


def test_settling_while_others_write(db):
    """The ledger is settled all the time, and no figure changes by it."""
    set_quota(db, "acme", 10_000)

    def until_settled(workers):
        with db.connect("postgres") as dba:
            for _ in range(40):
                value(dba, "SELECT tenancy.settle_usage()")
                used, there = dba.execute(
                    """SELECT t.amount + coalesce(o.amount, 0), (SELECT count(*) FROM job WHERE tenant_id = 'acme')
                       FROM _tenancy.usage_totals t,
                            (SELECT sum(amount) AS amount FROM _tenancy.usage_open
                             WHERE (tenant_id, resource) = ('acme', 'jobs')) o
                       WHERE (t.tenant_id, t.resource) = ('acme', 'jobs')"""
                ).fetchone() or (0, 0)
                assert used == there
                time.sleep(0.05)

    run_workers(db, in_bulk, until_settled, seed=7)
    assert_exact(db)


def test_metering_while_others_write(db):
    """What is there is counted while others write: nobody waits for it, and nothing is counted twice or not at all."""
    db.run("SELECT tenancy.unmeter('job', 'jobs')", "SELECT tenancy.unmeter('job', 'sizes')")
    db.run("INSERT INTO job (tenant_id) SELECT 'globex' FROM generate_series(1, 300000)")
    written = 0

    def write(worker, connection):
        nonlocal written
        connection.execute("SET lock_timeout = '5s'")
        one_at_a_time(worker, connection)
        written += 1

    def until_metered(workers):
        nonlocal written
        with db.connect("postgres") as dba:
            dba.execute("CALL tenancy.meter_concurrently('job', 'jobs')")
            # It counts for as long as others write: they have written while it did.
            before, started = written, time.monotonic()
            assert dba.execute("SELECT * FROM tenancy.reconcile('job')").fetchall() == []
            assert written > before or time.monotonic() - started < 0.01

    run_workers(db, write, until_metered, seed=11)
    assert status(db, "globex") == (300_000, 0)
    assert_exact(db)


def test_two_who_settle_do_not_stop_each_other(db):
    """Each takes entries of many tenants, in any order, and adds them to sums that the other adds to as well."""
    db.run("SELECT tenancy.create_tenant('t' || n) FROM generate_series(1, 300) AS n")
    every = "INSERT INTO job (tenant_id) SELECT 't' || n FROM generate_series(1, 300) AS n ORDER BY random()"
    failures = []

    def settle():
        try:
            with db.connect("postgres") as dba:
                for _ in range(20):
                    dba.execute(every)
                    dba.execute("SELECT tenancy.settle_usage(150)")
                    with dba.transaction():
                        for _ in range(4):
                            dba.execute("SELECT tenancy.settle_usage(100)")
        except psycopg.Error as error:
            failures.append(error)

    threads = [threading.Thread(target=settle) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    db.run("SELECT tenancy.settle_usage()")
    assert_exact(db)


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_a_counter_is_loaded_as_of_now(db, level):
    """Whatever the transaction sees, and has written: its snapshot is older than what it must not pass."""
    set_quota(db, "acme", 1)
    with db.connect(APP) as one, db.connect(APP) as other:
        one.execute(f"BEGIN ISOLATION LEVEL {level}")
        set_local(one, "acme")
        assert value(one, "SELECT count(*) FROM job, pg_current_xact_id()") == 0
        with other.transaction():
            set_local(other, "acme")
            other.execute("INSERT INTO job (n) VALUES (1)")
        # Others take the place of its counter in shared memory.
        for n in range(40):
            with other.transaction():
                set_local(other, "globex")
                other.execute("SELECT tenancy.track_usage(%s)", [f"other-{n}"])
        with pytest.raises(psycopg.Error) as refusal:
            one.execute("INSERT INTO job (n) VALUES (2)")
        assert refusal.value.sqlstate in ("53400", "40001")
        one.execute("ROLLBACK")
    assert db.run("SELECT count(*) FROM job") == [(1,)]
    assert status(db, "acme") == (1, 0)
