"""Quotas are exact: whatever many connections do at a time, and whatever becomes of them.

Everything runs on a server with the counters in shared memory and on one without, and must give the same answers.
TENANCY_ROUNDS says how often the server is killed.
"""

import os
import random
import threading
import time
from contextlib import contextmanager

import psycopg
import pytest
from support import APP, MAJOR, Database, eventually, refused, server_of, server_tool, set_local, set_session, value

NAME = f"it-quota-{os.getpid()}"
ROUNDS = int(os.environ.get("TENANCY_ROUNDS", "3"))
CONNECTIONS = 32
# Where charges wait for one another, a tenth of the rows takes as long.
LIMIT = {True: 10_000, False: 1_000}


@pytest.fixture(scope="module", params=["--preload", "--no-preload"])
def server(request):
    """A server of its own, because it is killed. Its eight counters are fewer than its tenants, so they come and go."""
    options = ["max_prepared_transactions=20", "deadlock_timeout=100ms"]
    if request.param == "--preload":
        options.append("tenancy.usage_counters=8")
    server = server_of(server_tool("start", str(MAJOR), NAME, request.param, "--durable", *options))
    server.is_preloaded = request.param == "--preload"
    try:
        server.create_roles()
        yield server
    finally:
        server_tool("stop", NAME)


@pytest.fixture
def db(server, request):
    """`job` is metered by rows for `jobs`, and by the sum of its sizes for `sizes`."""
    database = Database(server, "it_quota")
    database.run(
        "CREATE TABLE job (id bigserial PRIMARY KEY, tenant_id text, n integer UNIQUE, size integer DEFAULT 1)",
        "SELECT tenancy.create_tenant(id) FROM unnest('{acme,globex,initech}'::text[]) AS id",
        "SELECT tenancy.protect('job')",
        "SELECT tenancy.meter('job', 'jobs'), tenancy.meter('job', 'sizes', 'sum(size)')",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON job TO it_data",
        "GRANT USAGE ON SEQUENCE job_id_seq TO it_data",
    )
    try:
        yield database
    finally:
        database.drop()


def set_quota(db, tenant, amount, resource="jobs", period=None):
    with db.connect("postgres") as dba:
        dba.execute("SELECT tenancy.set_quota(%s, %s, %s, %s)", [tenant, resource, amount, period])


def status(db, tenant, resource="jobs"):
    """Used and reserved."""
    with db.connect("postgres") as dba:
        query = "SELECT used, reserved FROM _tenancy.usage_of(%s, %s) WHERE period = ''"
        return dba.execute(query, [tenant, resource]).fetchone()


def count(db, tenant):
    with db.connect("postgres") as dba:
        return value(dba, "SELECT count(*) FROM job WHERE tenant_id = %s", [tenant])


def assert_exact(db):
    """Nothing in flight: what is used is what is there, by the counters, by the ledger, and by counting anew."""
    with db.connect("postgres") as dba:
        assert dba.execute("SELECT * FROM tenancy.reconcile('job')").fetchall() == []
        query = """SELECT t.id, u.used, u.reserved, (SELECT count(*) FROM job WHERE tenant_id = t.id)
                   FROM tenancy.tenants t, _tenancy.usage_of(t.id, 'jobs') u WHERE u.period = ''"""
        for tenant, used, reserved, there in dba.execute(query):
            assert (used, reserved) == (there, 0), tenant


class Worker(threading.Thread):
    """A connection that does what it is told, until it is told to stop or its connection is gone."""

    def __init__(self, db, work, seed):
        super().__init__()
        self.db, self.work, self.random = db, work, random.Random(seed)
        self.refused, self.failure = 0, None
        self.stopping = threading.Event()

    def run(self):
        try:
            with self.db.connect(APP) as connection:
                while not self.stopping.is_set():
                    self.work(self, connection)
        except psycopg.OperationalError as error:
            if not getattr(self, "may_be_killed", False):
                self.failure = error
        except Exception as error:
            self.failure = error


def run_workers(db, work, until, seed, may_be_killed=False):
    workers = [Worker(db, work, seed + n) for n in range(CONNECTIONS)]
    for worker in workers:
        worker.may_be_killed = may_be_killed
        worker.start()
    try:
        until(workers)
    finally:
        for worker in workers:
            worker.stopping.set()
        for worker in workers:
            worker.join()
    failures = [worker.failure for worker in workers if worker.failure]
    assert not failures, failures[0]
    return workers


class Rollback(Exception):
    """Ends a transaction or a savepoint on purpose."""


@contextmanager
def transaction(worker, connection):
    """A transaction of acme. Without shared memory, charges wait for one another, and with the unique keys of the table that
    can be a deadlock, as with any counter in a row; in shared memory nobody waits."""
    expected = (Rollback,) if worker.db.server.is_preloaded else (Rollback, psycopg.errors.DeadlockDetected)
    try:
        with connection.transaction():
            set_local(connection, "acme")
            yield
    except expected:
        pass


def attempt(worker, connection, statements, roll_back=False):
    """A transaction or a savepoint; returns whether its statements were let through."""
    try:
        with connection.transaction():
            for statement in statements:
                connection.execute(statement)
            if roll_back:
                raise Rollback
        return True
    except psycopg.errors.ConfigurationLimitExceeded:
        worker.refused += 1
    except (Rollback, psycopg.errors.UniqueViolation, psycopg.errors.DivisionByZero):
        pass
    return False


ONE = "INSERT INTO job DEFAULT VALUES"


def one_at_a_time(worker, connection):
    """Single rows, with savepoints, rollbacks and errors between."""
    dice = worker.random.random
    with transaction(worker, connection):
        if dice() < 0.2:
            attempt(worker, connection, [ONE, ONE], roll_back=dice() < 0.7)
        if dice() < 0.1:
            attempt(worker, connection, [ONE, "SELECT 1 / 0"])
        if dice() < 0.1:
            attempt(worker, connection, ["INSERT INTO job (n) VALUES (1) ON CONFLICT (n) DO UPDATE SET n = 1"])
        attempt(worker, connection, [ONE])
        if dice() < 0.15:
            raise Rollback


def in_bulk(worker, connection):
    """Many rows, COPY, MERGE and deletions."""
    dice = worker.random.random
    many = worker.random.randint(2, 60)
    with transaction(worker, connection):
        kind = dice()
        if kind < 0.35:
            attempt(worker, connection, [f"INSERT INTO job SELECT FROM generate_series(1, {many})"])
        elif kind < 0.5:
            connection.execute("CREATE TEMP TABLE incoming (size integer) ON COMMIT DROP")
            with connection.cursor().copy("COPY incoming FROM STDIN") as copy:
                for n in range(many):
                    copy.write_row((n,))
            attempt(worker, connection, ["INSERT INTO job (size) SELECT size FROM incoming"])
        elif kind < 0.65:
            merge = """MERGE INTO job USING (SELECT g AS g FROM generate_series(1, 5) AS g) v ON job.n = v.g
                       WHEN NOT MATCHED THEN INSERT (size) VALUES (v.g)"""
            attempt(worker, connection, [merge])
        elif kind < 0.8:
            delete = f"""DELETE FROM job WHERE id IN
                         (SELECT id FROM job ORDER BY random() LIMIT {many} FOR UPDATE SKIP LOCKED)"""
            attempt(worker, connection, [delete, f"INSERT INTO job SELECT FROM generate_series(1, {many // 2})"])
        else:
            attempt(worker, connection, [ONE])
        if dice() < 0.15:
            raise Rollback


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
