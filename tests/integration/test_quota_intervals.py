"""Quotas over an interval of any length: counted for all from the moment that one is asked for, and exact from there.

On a server with the counters in shared memory and on one without, with the same answers.
"""

import random
import threading
import time

import psycopg
import pytest
from quota_support import assert_exact, db, run_workers, server, set_quota
from support import APP, eventually, refused, set_local, set_session, value

__all__ = ["db", "server"]  # fixtures

TRACK = "SELECT tenancy.track_usage('calls', %s)"
# The first Monday of 2000, from which intervals follow one another.
ORIGIN = "'2000-01-03 00:00+00'::timestamptz"


def used(db, period="7 days", tenant="acme", resource="calls"):
    with db.connect("postgres") as dba:
        query = "SELECT used, reserved FROM _tenancy.usage_of(%s, %s) WHERE period = %s"
        return dba.execute(query, [tenant, resource, period]).fetchone()


@pytest.fixture
def app(db):
    with db.connect(APP) as connection:
        set_session(connection, "acme")
        yield connection


def test_a_limit_opens_again_and_is_never_passed(db):
    """Many connections, interval after interval: none holds more than the limit, and one that was whole holds just that."""
    limit = 40
    set_quota(db, "acme", limit, "calls", "2 seconds")

    def track(worker, connection):
        amount = worker.random.randint(1, 3)
        try:
            with connection.transaction():
                set_local(connection, "acme")
                connection.execute(TRACK, [amount])
                if worker.random.random() < 0.1:
                    raise psycopg.Rollback
        except psycopg.errors.ConfigurationLimitExceeded:
            worker.refused += 1

    run_workers(db, track, lambda workers: time.sleep(7), seed=4)
    sums = f"""SELECT sum(amount)::integer FROM tenancy.usage_records WHERE resource = 'calls'
               GROUP BY date_bin('2 seconds', recorded_at, {ORIGIN}) ORDER BY 1"""
    found = [amount for (amount,) in db.run(sums)]
    assert len(found) >= 3
    assert found[-1] == limit, found


def test_what_was_in_flight_is_counted(db, app):
    with db.connect(APP) as other:
        set_session(other, "acme")
        app.execute("BEGIN")
        app.execute(TRACK, [4])
        app.execute("SAVEPOINT s")
        app.execute(TRACK, [100])
        set_quota(db, "acme", 10, "calls", "7 days")
        app.execute("ROLLBACK TO s")
        other.execute(TRACK, [1])
        assert used(db)[0] == 1
        app.execute("COMMIT")
        assert used(db) == (5, 0)
        with refused("QUOTA_EXCEEDED") as caught:
            other.execute(TRACK, [6])
        assert (caught.detail["period"], caught.detail["current"], caught.detail["limit"]) == ("7 days", 5, 10)
        other.execute(TRACK, [5])


def test_a_transaction_that_learns_of_it_counts_all_it_charged(db, app):
    app.execute("BEGIN")
    app.execute(TRACK, [4])
    set_quota(db, "acme", 10, "calls", "7 days")
    app.execute("SAVEPOINT s")
    app.execute(TRACK, [2])
    assert value(app, "SELECT tenancy.check_quota('calls', 4)")
    assert not value(app, "SELECT tenancy.check_quota('calls', 5)")
    app.execute("ROLLBACK TO s")
    assert value(app, "SELECT tenancy.check_quota('calls', 6)")
    assert not value(app, "SELECT tenancy.check_quota('calls', 7)")
    with pytest.raises(psycopg.errors.ConfigurationLimitExceeded):
        app.execute(TRACK, [7])
    app.execute("ROLLBACK TO s")
    app.execute("SELECT tenancy.enforce_quota('calls', 6)")
    app.execute(TRACK, [6])
    app.execute("COMMIT")
    assert used(db) == (10, 0)


@pytest.mark.parametrize("end", ["COMMIT", "ROLLBACK"])
def test_who_commits_meanwhile_waits_for_the_quota(db, app, end):
    """A new interval that is not committed yet: who writes to the ledger waits, and then counts over it, if it is there."""
    app.execute("BEGIN")
    app.execute(TRACK, [4])
    with db.connect("postgres") as dba:
        dba.execute("BEGIN")
        dba.execute("SELECT tenancy.set_quota('acme', 'calls', 10, '7 days')")
        committing = threading.Thread(target=app.execute, args=["COMMIT"])
        committing.start()
        waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND relation = '_tenancy.usage_open'::regclass)"
        eventually(lambda: db.run(waits) == [(True,)])
        dba.execute(end)
        committing.join()
    if end == "ROLLBACK":
        assert used(db) is None
        set_quota(db, "acme", 10, "calls", "7 days")
    assert used(db) == (4, 0)


def expect_busy(connection, command):
    with refused("LEDGER_BUSY"):
        connection.execute(command)


@pytest.mark.parametrize("end", ["COMMIT PREPARED", "ROLLBACK PREPARED"])
def test_it_waits_for_prepared_transactions(db, app, end):
    app.execute("BEGIN")
    app.execute(TRACK, [4])
    app.execute("PREPARE TRANSACTION 'it_interval'")
    # Whoever prepares can hold up nobody else: a quota that waits gives way to those who commit, and then gives up.
    with db.connect("postgres") as dba, db.connect(APP) as other:
        set_session(other, "globex")
        setting = threading.Thread(target=expect_busy, args=[dba, "SELECT tenancy.set_quota('acme', 'calls', 10, '7 days')"])
        setting.start()
        charged = 0
        while setting.is_alive():
            began = time.monotonic()
            other.execute(TRACK, [1])
            assert time.monotonic() - began < 2
            charged += 1
        setting.join()
        assert charged > 5
        assert dba.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    db.run(f"{end} 'it_interval'")
    set_quota(db, "acme", 10, "calls", "7 days")
    there = 4 if end == "COMMIT PREPARED" else 0
    assert used(db) == (there, 0)
    # And afterwards, prepared ones keep what they took.
    app.execute("BEGIN")
    app.execute(TRACK, [3])
    app.execute("PREPARE TRANSACTION 'it_interval'")
    app.execute("SET lock_timeout = '200ms'")
    with pytest.raises((psycopg.errors.ConfigurationLimitExceeded, psycopg.errors.LockNotAvailable)):
        app.execute(TRACK, [10 - there - 2])
    db.run(f"{end} 'it_interval'")
    assert used(db) == (7 if end == "COMMIT PREPARED" else 0, 0)


def test_one_that_was_given_up_is_counted_anew(db, app):
    set_quota(db, "acme", 100, "calls", "7 days")
    app.execute(TRACK, [5])
    db.run("SELECT tenancy.remove_quota('tenant', 'acme', 'calls', '1 week')")
    assert db.run("SELECT * FROM _tenancy.quota_periods") == []
    app.execute(TRACK, [3])
    assert used(db) is None
    set_quota(db, "acme", 100, "calls", "7 days")
    assert used(db) == (8, 0)
    app.execute(TRACK, [1])
    assert used(db) == (9, 0)


def test_metered_rows_count_when_they_come_and_not_when_they_go(db, app):
    set_quota(db, "acme", 5, period="7 days")
    app.execute("INSERT INTO job SELECT FROM generate_series(1, 4)")
    app.execute("DELETE FROM job")
    with refused("QUOTA_EXCEEDED"):
        app.execute("INSERT INTO job SELECT FROM generate_series(1, 2)")
    app.execute("INSERT INTO job DEFAULT VALUES")
    assert used(db, resource="jobs") == (5, 0)
    # What counting anew mends is no use of any period.
    db.run("SET tenancy.restoring = on", "ALTER TABLE job DISABLE TRIGGER USER", "INSERT INTO job (tenant_id) VALUES ('acme')")
    ours = [name for (name,) in db.run("SELECT tgname FROM pg_trigger WHERE tgrelid = 'job'::regclass AND tgname ~ '^tenancy_'")]
    db.run("SET tenancy.restoring = on", *(f"ALTER TABLE job ENABLE ALWAYS TRIGGER {name}" for name in ours))
    db.run("SELECT tenancy.reconcile('job', true)")
    assert used(db, resource="jobs") == (5, 0)
    assert_exact(db)


def test_more_keys_than_counters(db):
    """Counters of tenants and intervals come and go, and are loaded as they were."""
    db.run("SELECT tenancy.create_tenant('t' || n) FROM generate_series(1, 40) AS n")
    for period in ("15 minutes", "7 days", "3 months"):
        db.run(f"SELECT tenancy.set_default_quota('jobs', 5, '{period}')")
    with db.connect("postgres") as dba:
        every = "INSERT INTO job (tenant_id) SELECT 't' || n FROM generate_series(1, 40) AS n"
        for n in range(5):
            dba.execute(every)
            if n == 2:
                value(dba, "SELECT tenancy.settle_usage()")
        with refused("QUOTA_EXCEEDED"):
            dba.execute(every)
    for period in ("15 minutes", "7 days", "3 months"):
        for tenant in ("t1", "t20", "t40"):
            assert used(db, period, tenant, "jobs") == (5, 0)


def test_the_ledger_is_added_up_from_the_moment_that_the_interval_began(db):
    """Entries of the past year, some of them settled, against adding up all of them."""
    dice = random.Random(9)
    intervals = {
        "15 minutes": f"date_bin('15 minutes', now(), {ORIGIN})",
        "36 hours": f"date_bin('36 hours', now(), {ORIGIN})",
        "7 days": "date_trunc('week', now(), 'UTC')",
        "3 months": "date_trunc('quarter', now(), 'UTC')",
    }
    for period in intervals:
        set_quota(db, "acme", 1_000_000, "calls", period)
    with db.connect("postgres") as dba:
        for settled in (True, False):
            for _ in range(400):
                ago = 10 ** dice.uniform(0, 7.5)
                dba.execute(
                    f"""INSERT INTO _tenancy.usage_open
                        SELECT 'acme', 'calls', %s, now() - %s * '1 second'::interval, NULL, NULL, %s, {HASH}, false""",
                    [dice.randint(-3, 9), ago, dice.random() < 0.1],
                )
            if settled:
                value(dba, "SELECT tenancy.settle_usage()")
        for period, start in intervals.items():
            expected = value(
                dba,
                f"""SELECT coalesce(sum(amount), 0) FROM _tenancy.usage
                    WHERE resource = 'calls' AND recorded_at >= {start} AND amount > 0 AND NOT is_correction""",
            )
            assert used(db, period) == (expected, 0), period
            assert expected > 0 or period == "15 minutes"


# FNV-1a of tenant and resource, as the library puts it in the ledger, for the first of eight connections.
def fnv(*words):
    number = 0xCBF29CE484222325
    for byte in "\0".join(words).encode():
        number = (number ^ byte) * 0x100000001B3 % 2**64
    return (number - 2**64 if number >= 2**63 else number) & ~7


HASH = fnv("acme", "calls")


def test_what_a_quota_counts_is_not_dropped(db, app):
    app.execute(TRACK, [1])
    db.run("SELECT tenancy.drop_usage(now())")
    set_quota(db, "acme", 5, "calls", "10 years")
    with db.connect("postgres") as dba, refused("PARAMETER_INVALID") as caught:
        dba.execute("SELECT tenancy.drop_usage(now())")
    assert caught.detail["period"] == "10 years"


def test_removing_a_quota_in_an_old_snapshot_keeps_those_of_others(db, app):
    set_quota(db, "acme", 10, "calls", "7 days")
    with db.connect("postgres") as dba:
        dba.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        dba.execute("SELECT 1")
        set_quota(db, "globex", 10, "calls", "7 days")
        with refused("PARAMETER_INVALID"):
            dba.execute("SELECT tenancy.remove_quota('tenant', 'acme', 'calls', '7 days')")
        dba.execute("ROLLBACK")
    set_session(app, "globex")
    with refused("QUOTA_EXCEEDED"):
        app.execute(TRACK, [11])


def test_an_index_that_is_being_made_stops_nobody(db, app):
    """REINDEX CONCURRENTLY waits for who has written to the ledger; meanwhile, and if it is cancelled, charges go on."""
    # The holder is let go of first, whatever fails.
    with db.connect("postgres") as dba, db.connect("postgres") as holder:
        holder.execute("BEGIN")
        holder.execute("SELECT tenancy.settle_usage()")
        reindexing = threading.Thread(target=expect_cancelled, args=[dba], daemon=True)
        reindexing.start()
        exists = "SELECT count(*) FROM pg_class WHERE relname = 'usage_open_hash_ccnew'"
        eventually(lambda: db.run(exists) == [(1,)])
        app.execute(TRACK, [1])
        db.run(f"SELECT pg_cancel_backend({dba.info.backend_pid})")
        reindexing.join()
        app.execute(TRACK, [1])
        holder.execute("COMMIT")
        dba.execute("DROP INDEX _tenancy.usage_open_hash_ccnew")
        dba.execute("REINDEX INDEX CONCURRENTLY _tenancy.usage_open_hash")
        app.execute(TRACK, [1])
        dba.execute("SET enable_seqscan = off")
        assert value(dba, f"SELECT count(*) FROM _tenancy.usage_open WHERE hash BETWEEN {HASH} AND {HASH} + 7") == 3


def expect_cancelled(connection):
    with pytest.raises(psycopg.errors.QueryCanceled):
        connection.execute("REINDEX INDEX CONCURRENTLY _tenancy.usage_open_hash")


def test_a_statement_over_the_end_of_a_period_counts_in_one(db, app):
    """It began in one period and charges in the next. All counters must count it where the ledger does."""
    set_quota(db, "acme", 10, "calls", "4 seconds")
    with db.connect("postgres") as dba:
        seconds = f"SELECT mod(extract(epoch FROM clock_timestamp() - {ORIGIN}), 4)::float8"
        eventually(lambda: 1.5 < value(dba, seconds) < 2.5)
        app.execute(TRACK, [1])  # its counter is there, in the period that ends soon
        set_quota(db, "acme", 1_000, "calls", "1 second")  # its counter will be made in the next
        app.execute("SELECT pg_sleep(3), tenancy.track_usage('calls', 9)")
        for amount in (10, 5, 1):
            try:
                app.execute(TRACK, [amount])
            except psycopg.errors.ConfigurationLimitExceeded:
                pass
        sums = f"""SELECT sum(amount) FROM tenancy.usage_records WHERE resource = 'calls'
                   GROUP BY date_bin('4 seconds', recorded_at, {ORIGIN})"""
        assert max(amount for (amount,) in dba.execute(sums)) <= 10
