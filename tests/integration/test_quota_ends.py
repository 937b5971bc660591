"""What becomes of a charge: rolled back, cancelled, terminated, prepared, promoted, and what stands in its way.

On a server with the counters in shared memory and on one without, with the same answers.
"""

import threading

import psycopg
import pytest
from quota_support import NAME, ONE, assert_exact, count, db, server, set_quota, status
from support import APP, MAJOR, Database, eventually, refused, server_of, server_tool, set_session, value

__all__ = ["db", "server"]  # fixtures


def test_what_is_in_flight_is_reserved(db):
    set_quota(db, "acme", 3)
    with db.connect(APP) as one, db.connect(APP) as two:
        for connection in (one, two):
            set_session(connection, "acme")
        two.execute("SET lock_timeout = '300ms'")
        one.execute("BEGIN")
        one.execute("INSERT INTO job SELECT FROM generate_series(1, 2)")
        refusal = psycopg.errors.ConfigurationLimitExceeded, psycopg.errors.LockNotAvailable
        if db.server.is_preloaded:
            two.execute(ONE)  # nobody waits
            assert status(db, "acme") == (1, 2)
        with pytest.raises(refusal):
            two.execute("INSERT INTO job SELECT FROM generate_series(1, 2)")
        one.execute("ROLLBACK")
        two.execute("INSERT INTO job SELECT FROM generate_series(1, 2)")
        # Another tenant is not concerned.
        one.execute("BEGIN")
        one.execute("DELETE FROM job")
        set_session(two, "globex")
        two.execute(ONE)
        one.execute("COMMIT")
    assert_exact(db)


@pytest.mark.parametrize("end", ["cancel", "terminate", "statement_timeout"])
def test_an_end_in_the_middle(db, end):
    set_quota(db, "acme", 5)
    with db.connect(APP) as app, db.connect("postgres") as dba:
        set_session(app, "acme")
        app.execute("BEGIN")
        app.execute("INSERT INTO job SELECT FROM generate_series(1, 5)")
        if end == "statement_timeout":
            app.execute("SET statement_timeout = '100ms'")
        pid = app.info.backend_pid
        ending = {"cancel": "pg_cancel_backend", "terminate": "pg_terminate_backend"}.get(end)
        if ending:
            threading.Timer(0.2, lambda: dba.execute(f"SELECT {ending}({pid})")).start()
        with pytest.raises(psycopg.OperationalError):
            app.execute("SELECT pg_sleep(30)")
        if end != "terminate":
            app.execute("ROLLBACK")
        eventually(lambda: status(db, "acme") == (0, 0))
    assert_exact(db)


def test_a_deadlock_gives_back_what_its_victim_took(db):
    set_quota(db, "acme", 100)
    with db.connect("postgres") as dba:
        dba.execute("INSERT INTO job (tenant_id, n) VALUES ('acme', 1), ('acme', 2)")
    outcomes, barrier = [], threading.Barrier(2)

    def update(first, second):
        with db.connect("postgres") as connection:
            try:
                with connection.transaction():
                    connection.execute("INSERT INTO job (tenant_id) VALUES (%s)", [("globex", "initech")[first - 1]])
                    connection.execute("UPDATE job SET size = 2 WHERE n = %s", [first])
                    barrier.wait()
                    connection.execute("UPDATE job SET size = 3 WHERE n = %s", [second])
                outcomes.append("committed")
            except psycopg.errors.DeadlockDetected:
                outcomes.append("deadlock")

    threads = [threading.Thread(target=update, args=order) for order in ((1, 2), (2, 1))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["committed", "deadlock"]
    assert_exact(db)


@pytest.mark.parametrize("outcome", ["COMMIT PREPARED", "ROLLBACK PREPARED"])
@pytest.mark.parametrize("restart", [False, True], ids=["", "restarted"])
def test_prepared_transactions_keep_what_they_took(db, outcome, restart):
    set_quota(db, "acme", 3)
    with db.connect(APP) as app:
        set_session(app, "acme")
        app.execute("BEGIN")
        app.execute("SAVEPOINT s")
        app.execute("INSERT INTO job SELECT FROM generate_series(1, 3)")
        app.execute("ROLLBACK TO s")
        app.execute("INSERT INTO job SELECT FROM generate_series(1, 2)")
        app.execute("PREPARE TRANSACTION 'it_quota'")
    if restart:
        server_tool("restart", NAME)
    with db.connect(APP) as app:
        set_session(app, "acme")
        app.execute("SET lock_timeout = '300ms'")
        with pytest.raises((psycopg.errors.ConfigurationLimitExceeded, psycopg.errors.LockNotAvailable)):
            app.execute("INSERT INTO job SELECT FROM generate_series(1, 2)")
        db.run(f"{outcome} 'it_quota'")
        there = 2 if outcome == "COMMIT PREPARED" else 0
        assert count(db, "acme") == there
        app.execute("INSERT INTO job SELECT FROM generate_series(1, %s)", [3 - there])
        with refused("QUOTA_EXCEEDED"):
            app.execute(ONE)
    assert_exact(db)


def test_too_many_prepared_transactions(db):
    with db.connect(APP) as app:
        set_session(app, "acme")
        for n in range(9):
            app.execute("BEGIN")
            app.execute(ONE)
            if n == 8 and db.server.is_preloaded:
                with refused("TOO_MANY_PREPARED"):
                    app.execute(f"PREPARE TRANSACTION 'it_{n}'")
            else:
                app.execute(f"PREPARE TRANSACTION 'it_{n}'")
        for (gid,) in db.run("SELECT gid FROM pg_prepared_xacts"):
            db.run(f"COMMIT PREPARED '{gid}'")
    assert count(db, "acme") == (8 if db.server.is_preloaded else 9)
    assert_exact(db)


def test_more_tenants_than_counters(db):
    """Counters come and go, and one statement may need more than there are."""
    db.run("SELECT tenancy.create_tenant('t' || n) FROM generate_series(1, 200) AS n")
    db.run("SELECT tenancy.set_default_quota('jobs', 3)")
    with db.connect("postgres") as dba:
        every = "INSERT INTO job (tenant_id) SELECT 't' || n FROM generate_series(1, 200) AS n"
        dba.execute(every)
        with dba.transaction():
            dba.execute(every)
            dba.execute("SAVEPOINT s")
            dba.execute("DELETE FROM job WHERE tenant_id IN ('t7', 't77')")
            dba.execute("ROLLBACK TO s")
            dba.execute("DELETE FROM job WHERE tenant_id = 't8'")
        dba.execute(every)
        with refused("QUOTA_EXCEEDED"):
            dba.execute("INSERT INTO job (tenant_id) VALUES ('t7')")
        dba.execute("INSERT INTO job (tenant_id) VALUES ('t8'), ('t8')")
        with refused("QUOTA_EXCEEDED"):
            dba.execute(every)
    assert_exact(db)


def test_two_databases_count_apart(db, server):
    set_quota(db, "acme", 1)
    with db.connect(APP) as app:
        set_session(app, "acme")
        app.execute(ONE)
    other = Database(server, "it_quota_other")
    try:
        other.run(
            "SELECT tenancy.create_tenant('acme')", "SELECT tenancy.set_quota('acme', 'jobs', 1)",
        )  # fmt: skip
        assert status(other, "acme") == (0, 0)
        with other.connect(APP) as app:
            set_session(app, "acme")
            assert value(app, "SELECT tenancy.track_usage('jobs', 1)")
            with refused("QUOTA_EXCEEDED"):
                app.execute("SELECT tenancy.track_usage('jobs', 1)")
    finally:
        other.drop()
    assert_exact(db)


def test_extension_is_dropped_and_made_again(db):
    set_quota(db, "acme", 1)
    with db.connect("postgres") as dba:
        dba.execute("INSERT INTO job (tenant_id) VALUES ('acme')")
        with dba.transaction():  # what was charged in the transaction goes with the ledger
            dba.execute("DELETE FROM job")
            dba.execute("INSERT INTO job (tenant_id) VALUES ('acme')")
            dba.execute("DROP EXTENSION tenancy CASCADE")
        dba.execute("CREATE EXTENSION tenancy")
        dba.execute("SELECT tenancy.create_tenant(id) FROM unnest('{acme,globex,initech}'::text[]) AS id")
        dba.execute("SELECT tenancy.protect('job'), tenancy.meter('job', 'jobs')")
    assert status(db, "acme") == (1, 0)
    assert_exact(db)


def test_promotion(db, server):
    """What is used on a standby that is promoted is what was used on the primary."""
    set_quota(db, "acme", 3)
    with db.connect("postgres") as dba:
        dba.execute("INSERT INTO job (tenant_id) SELECT 'acme' FROM generate_series(1, 2)")
    replica = f"{NAME}-replica"
    standby = object.__new__(Database)
    standby.server, standby.name = server_of(server_tool("standby", str(MAJOR), replica, NAME)), db.name
    try:
        eventually(lambda: status(standby, "acme") == (2, 0))
        with standby.connect(APP) as app:
            set_session(app, "acme")
            assert value(app, "SELECT tenancy.check_quota('jobs')")
            assert not value(app, "SELECT tenancy.check_quota('jobs', 2)")
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
                app.execute("SELECT tenancy.track_usage('calls')")
        with db.connect("postgres") as dba:  # a counter of the standby would not have heard of this
            dba.execute("INSERT INTO job (tenant_id) VALUES ('acme')")
        eventually(lambda: count(standby, "acme") == 3)
        server_tool("promote", replica)
        with standby.connect(APP) as app:
            set_session(app, "acme")
            with refused("QUOTA_EXCEEDED"):
                app.execute(ONE)
            app.execute("DELETE FROM job WHERE id = (SELECT min(id) FROM job)")
            app.execute(ONE)
        assert_exact(standby)
    finally:
        server_tool("stop", replica)


def test_a_change_of_quota_is_in_force_at_once(db):
    with db.connect(APP) as app:
        set_session(app, "acme")
        app.execute("BEGIN")
        app.execute(ONE)
        set_quota(db, "acme", 1)
        with refused("QUOTA_EXCEEDED"):
            app.execute(ONE)
        app.execute("ROLLBACK")
        app.execute(ONE)
        set_quota(db, "acme", None)
        app.execute(ONE)
    assert_exact(db)


def test_a_soft_limit_refuses_nothing(db):
    """PostgreSQL prepares no transaction that notifies, so this one does not."""
    with db.connect("postgres") as dba:
        dba.execute("SELECT tenancy.set_quota('acme', 'jobs', 100, soft_limit => 0)")
    with db.connect(APP) as app:
        set_session(app, "acme")
        app.execute("BEGIN")
        app.execute(ONE)
        app.execute("PREPARE TRANSACTION 'it_soft'")
        app.execute("COMMIT PREPARED 'it_soft'")
    assert_exact(db)


def test_a_terminated_backend_leaves_nothing_behind(db):
    """Terminated while its entries wait to be written: a FATAL error does not unwind."""
    set_quota(db, "acme", 100)
    with db.connect("postgres") as holder, db.connect("postgres") as dba, db.connect(APP) as app:
        set_session(app, "acme")
        pid = app.info.backend_pid
        app.execute("BEGIN")
        app.execute("INSERT INTO job SELECT FROM generate_series(1, 7)")
        holder.execute("BEGIN")
        holder.execute("LOCK TABLE _tenancy.usage_open IN SHARE MODE")
        commit = threading.Thread(target=lambda: pytest.raises(psycopg.OperationalError, app.execute, "COMMIT"))
        commit.start()
        waits = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'"
        eventually(lambda: value(dba, waits, [pid]) == 1)
        dba.execute("SELECT pg_terminate_backend(%s)", [pid])
        commit.join()
        eventually(lambda: value(dba, "SELECT count(*) FROM pg_locks WHERE pid = %s", [pid]) == 0)
        holder.execute("ROLLBACK")
    assert status(db, "acme") == (0, 0)
    assert_exact(db)


def test_a_lock_that_a_savepoint_took_is_not_relied_on(db):
    """Where no counter is free, and the subtransaction that found so is rolled back."""
    set_quota(db, "globex", 10, "k")
    names = [f"p{n}" for n in range(1, 9)]
    with db.connect(APP) as p, db.connect(APP) as a, db.connect(APP) as b:
        for connection, tenant in ((p, "acme"), (a, "globex"), (b, "globex")):
            set_session(connection, tenant)
        p.execute("BEGIN")
        for name in names:
            p.execute("SELECT tenancy.track_usage(%s)", [name])
        a.execute("BEGIN")
        a.execute("SAVEPOINT s")
        a.execute("SELECT tenancy.track_usage('k', 1)")
        a.execute("ROLLBACK TO s")
        p.execute("COMMIT")
        a.execute("SELECT tenancy.track_usage('k', 6)")
        b.execute("SET lock_timeout = '300ms'")
        with pytest.raises((psycopg.errors.ConfigurationLimitExceeded, psycopg.errors.LockNotAvailable)):
            b.execute("SELECT tenancy.track_usage('k', 6)")
        a.execute("COMMIT")
    assert status(db, "globex", "k") == (6, 0)


def test_many_resources_of_one_tenant_do_not_stop_another(db):
    with db.connect(APP) as one, db.connect(APP) as other:
        set_session(one, "acme")
        set_session(other, "globex")
        other.execute("SET lock_timeout = '2s'")
        one.execute("BEGIN")
        one.execute("SELECT count(tenancy.track_usage('r' || n)) FROM generate_series(1, 30) AS n")
        assert value(other, "SELECT tenancy.track_usage('innocent')")
        one.execute("ROLLBACK")


def test_asking_gives_no_counter_to_who_counts_without(db):
    """A transaction that found no counter locks the key; check_quota must not load one that does not know its charges."""
    set_quota(db, "acme", 5, "calls")
    with db.connect(APP) as one, db.connect(APP) as two, db.connect(APP) as other:
        for connection, tenant in ((one, "acme"), (two, "acme"), (other, "globex")):
            set_session(connection, tenant)
        other.execute("BEGIN")
        for n in range(64):
            other.execute("SELECT tenancy.track_usage(%s)", [f"r{n}"])
        one.execute("BEGIN")
        one.execute("SELECT tenancy.track_usage('calls', 3)")
        assert value(one, "SELECT tenancy.check_quota('calls', 2)")
        other.execute("COMMIT")
        assert value(one, "SELECT tenancy.check_quota('calls', 2)")
        assert not value(one, "SELECT tenancy.check_quota('calls', 3)")
        two.execute("SET lock_timeout = '200ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            two.execute("SELECT tenancy.track_usage('calls', 3)")
        one.execute("COMMIT")
        with refused("QUOTA_EXCEEDED"):
            two.execute("SELECT tenancy.track_usage('calls', 3)")
        two.execute("SELECT tenancy.track_usage('calls', 2)")


def test_overlapping_charges_do_not_overflow(db):
    big = 2**61 - 1
    with db.connect(APP) as one, db.connect(APP) as two:
        for connection in (one, two):
            set_session(connection, "acme")
            connection.execute("BEGIN")
        one.execute("SELECT tenancy.track_usage('big', %s)", [big])
        if db.server.is_preloaded:
            with refused("QUOTA_EXCEEDED"):
                two.execute("SELECT tenancy.track_usage('big', %s)", [big])
        one.execute("ROLLBACK")
        two.execute("ROLLBACK")
    set_quota(db, "acme", 10, "big")
    assert status(db, "acme", "big") == (0, 0)
    with db.connect(APP) as app:
        set_session(app, "acme")
        with refused("QUOTA_EXCEEDED"):
            app.execute("SELECT tenancy.track_usage('big', 1000)")


def test_a_soft_limit_is_notified_when_it_is_crossed(server):
    """Once, and without a word of whose it is: anybody can listen. On a server without prepared transactions."""
    name = f"{NAME}-notify"
    quiet = server_of(server_tool("start", str(MAJOR), name, "--preload", "max_prepared_transactions=0"))
    try:
        quiet.create_roles()
        database = Database(quiet, "it_quota")
        database.run(
            "SELECT tenancy.create_tenant('acme')",
            "SELECT tenancy.set_quota('acme', 'calls', 100, soft_limit => 2)",
        )
        with database.connect("postgres") as listener, database.connect(APP) as app:
            listener.execute("LISTEN tenancy_quota")
            set_session(app, "acme")
            for _ in range(5):
                app.execute("SELECT tenancy.track_usage('calls')")
            heard = list(listener.notifies(timeout=1, stop_after=2))
        assert [notice.payload for notice in heard] == ['{"code":"QUOTA_SOFT_LIMIT"}']
    finally:
        server_tool("stop", name)
