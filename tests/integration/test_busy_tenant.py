"""A tenant with open transactions, many locks and a full quota: no other waits for it, in one metered table.

On a server with the counters in shared memory and on one without. Each test has its control: what does wait, so that the
other's `lock_timeout` is known to tell.
"""

import threading
from contextlib import ExitStack, contextmanager

import psycopg
import pytest
from quota_support import ONE, assert_exact, count, db, server, set_quota, status
from support import APP, eventually, refused, set_session, value

__all__ = ["db", "server"]  # fixtures

MANY = "INSERT INTO job SELECT FROM generate_series(1, 50)"
WAITING = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"


@pytest.fixture
def quotas(db):
    """Both resources are limited for everybody by the default; the busy tenant has a quota of its own as well."""
    db.run(
        "SELECT tenancy.set_default_quota('jobs', 100, soft_limit => 90), tenancy.set_default_quota('sizes', 1000)",
        "SELECT tenancy.set_default_quota('calls', 1000, 'day'), tenancy.set_default_quota('calls', 1000, '7 days')",
    )
    set_quota(db, "acme", 50)
    return db


@contextmanager
def connections(db, *tenants):
    """Connections that are in these tenants; those of globex wait for no lock."""
    with ExitStack() as stack:
        opened = []
        for tenant in tenants:
            connection = stack.enter_context(db.connect(APP))
            stack.callback(connection.close)  # without a last COMMIT
            set_session(connection, tenant)
            if tenant == "globex":
                impatient(connection)
            opened.append(connection)
        yield opened


def impatient(connection):
    connection.execute("SET lock_timeout = '300ms'")
    connection.execute("SET statement_timeout = '5s'")


def works_as_ever(other):
    """All that a tenant does with a metered table, in transactions and savepoints; leaves no rows."""
    for _ in range(3):
        other.execute(ONE)
        with other.transaction():
            other.execute("INSERT INTO job SELECT FROM generate_series(1, 20)")
            with other.transaction(force_rollback=True):
                other.execute("UPDATE job SET size = size + 1")
                other.execute("DELETE FROM job")
            other.execute("UPDATE job SET size = 2")
            assert value(other, "SELECT count(*) FROM (SELECT FROM job FOR UPDATE) AS locked") == 21
            other.execute("SELECT tenancy.track_usage('calls', 3)")
            assert value(other, "SELECT tenancy.check_quota('jobs', 1)")
            other.execute("SELECT tenancy.enforce_quota('jobs', 1)")
        assert value(other, "SELECT used FROM tenancy.quota_status WHERE resource = 'jobs'") == 21
        with refused("QUOTA_EXCEEDED"):
            other.execute("INSERT INTO job SELECT FROM generate_series(1, 80)")
        other.execute("DELETE FROM job")


def waits_for(connection, statement):
    """The control: this does wait, as far as its `lock_timeout`."""
    with pytest.raises(psycopg.errors.LockNotAvailable):
        connection.execute(statement)


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_a_full_quota_in_an_open_transaction(quotas, isolation):
    with connections(quotas, "acme", "acme", "globex") as (busy, same, other):
        busy.execute(f"BEGIN ISOLATION LEVEL {isolation}")
        busy.execute(MANY)
        busy.execute("UPDATE job SET size = 3, n = 7 WHERE id = (SELECT min(id) FROM job)")
        busy.execute("SELECT tenancy.track_usage('calls', 10), tenancy.enforce_quota('sizes', 100)")
        assert value(busy, "SELECT count(*) FROM (SELECT FROM job FOR UPDATE) AS locked") == 50
        works_as_ever(other)
        # Controls: its quota is taken, and a lock of the application's own is waited for.
        impatient(same)
        if quotas.server.is_preloaded:
            with refused("QUOTA_EXCEEDED"):
                same.execute(ONE)
        else:
            waits_for(same, ONE)
        waits_for(other, "INSERT INTO job (n) VALUES (7)")
        busy.execute("COMMIT")
        with refused("QUOTA_EXCEEDED"):
            same.execute(ONE)
        works_as_ever(other)
    assert status(quotas, "acme") == (50, 0)
    assert_exact(quotas)


def test_many_transactions_that_wait_for_one_another(quotas):
    """Of the busy tenant: one holds a row, twenty wait for it with rows of their own in hand."""
    set_quota(quotas, "acme", 1000)
    waiting = 20
    with connections(quotas, *["acme"] * (waiting + 1), "globex") as (holder, *others, other):
        holder.execute("BEGIN")
        holder.execute("INSERT INTO job (n) VALUES (1)")

        def wait(connection):
            with pytest.raises(psycopg.errors.UniqueViolation), connection.transaction():
                connection.execute(ONE)
                connection.execute("INSERT INTO job (n) VALUES (1)")

        threads = [threading.Thread(target=wait, args=[connection]) for connection in others]
        for thread in threads:
            thread.start()
        with quotas.connect("postgres") as dba:
            eventually(lambda: value(dba, WAITING) == waiting)
            works_as_ever(other)
            assert value(dba, WAITING) == waiting
        waits_for(other, "INSERT INTO job (n) VALUES (1)")
        holder.execute("COMMIT")
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
    assert count(quotas, "acme") == 1
    assert_exact(quotas)


def test_a_prepared_transaction(quotas):
    with connections(quotas, "acme", "globex") as (busy, other):
        busy.execute("BEGIN")
        busy.execute(MANY)
        busy.execute("UPDATE job SET n = 7 WHERE id = (SELECT min(id) FROM job)")
        busy.execute("PREPARE TRANSACTION 'it_busy'")
        try:
            works_as_ever(other)
            waits_for(other, "INSERT INTO job (n) VALUES (7)")
        finally:
            quotas.run("COMMIT PREPARED 'it_busy'")
    assert status(quotas, "acme") == (50, 0)
    assert_exact(quotas)


def test_row_locks_of_all_of_its_rows(quotas):
    """Thousands of rows locked one by one, with advisory locks and savepoints, and a transaction id for each of these."""
    set_quota(quotas, "acme", 5000)
    quotas.run("SELECT tenancy.set_quota('acme', 'sizes', 10000)")
    with connections(quotas, "acme", "globex") as (busy, other):
        busy.execute("INSERT INTO job SELECT FROM generate_series(1, 2000)")
        busy.execute("BEGIN")
        busy.execute("SELECT id, pg_advisory_xact_lock(id) FROM job FOR UPDATE")
        busy.execute(
            """DO $$ BEGIN FOR n IN 1 .. 200 LOOP
                   BEGIN INSERT INTO job (size) VALUES (2); EXCEPTION WHEN division_by_zero THEN NULL; END;
               END LOOP; END $$"""
        )
        works_as_ever(other)
        waits_for(other, "SELECT pg_advisory_lock(id) FROM generate_series(1, 100000) AS id")
        busy.execute("ROLLBACK")
    assert_exact(quotas)


def test_upkeep_waits_for_nobody(quotas):
    """What is settled meanwhile stops neither tenant, and does not wait for the open transaction."""
    with connections(quotas, "acme", "globex") as (busy, other), quotas.connect("postgres") as dba:
        impatient(dba)
        busy.execute("BEGIN")
        busy.execute(MANY)
        works_as_ever(other)
        dba.execute("SELECT tenancy.settle_usage()")
        works_as_ever(other)
        dba.execute("SELECT tenancy.settle_usage()")
        busy.execute("COMMIT")
        dba.execute("SELECT tenancy.settle_usage()")
    assert status(quotas, "acme") == (50, 0)
    assert_exact(quotas)


def test_a_change_of_its_quota_that_is_not_committed(quotas):
    with connections(quotas, "globex", "acme") as (other, busy), quotas.connect("postgres") as dba:
        busy.execute("BEGIN")
        busy.execute(ONE)
        dba.execute("BEGIN")
        dba.execute("SELECT tenancy.set_quota('acme', 'jobs', 60), tenancy.suspend_tenant('acme')")
        works_as_ever(other)
        dba.execute("ROLLBACK")
        busy.execute("COMMIT")
    assert_exact(quotas)
