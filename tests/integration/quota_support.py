"""What the tests of quotas share: a server of their own, a metered table, and connections that load it."""

import os
import random
import threading
from contextlib import contextmanager

import psycopg
import pytest
from support import APP, MAJOR, Database, server_of, server_tool, set_local, value

NAME = f"it-quota-{os.getpid()}"
CONNECTIONS = 32


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
