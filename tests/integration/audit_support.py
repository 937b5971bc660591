"""What the tests of the audit trail share: a server of their own, audited tables, and what must hold of the trail."""

import os
import random
import threading
from collections import Counter

import psycopg
import pytest
from support import APP, MAJOR, Database, server_of, server_tool, set_local

NAME = f"it-audit-{os.getpid()}"
TENANTS = ["acme", "globex", "initech"]


@pytest.fixture(scope="module")
def server():
    """A server of its own, because it is killed."""
    options = ["max_prepared_transactions=50", "deadlock_timeout=100ms", "wal_level=logical"]
    server = server_of(server_tool("start", str(MAJOR), NAME, "--preload", "--durable", *options))
    try:
        server.create_roles()
        yield server
    finally:
        server_tool("stop", NAME)


@pytest.fixture
def db(server):
    """`item` is audited; each UPDATE adds one to its n, so that the trail of a row has an order."""
    database = Database(server, "it_audit")
    database.run(
        "CREATE TABLE item (id bigserial PRIMARY KEY, tenant_id text, n integer NOT NULL DEFAULT 0, note text)",
        f"SELECT tenancy.create_tenant(id) FROM unnest('{{{','.join(TENANTS)}}}'::text[]) AS id",
        "SELECT tenancy.protect('item'), tenancy.audit('item')",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON item TO it_data",
        "GRANT USAGE ON SEQUENCE item_id_seq TO it_data",
    )
    try:
        yield database
    finally:
        database.drop()


def problems(db, *tenants):
    """What verify_audit says of these tenants, or of all, and of what is of none."""
    query = """SELECT t.id, v.number, v.problem
               FROM (SELECT id FROM _tenancy.tenants UNION SELECT DISTINCT tenant_id FROM _tenancy.audit_entries UNION SELECT NULL) AS t(id),
                    tenancy.verify_audit(t.id) AS v
               WHERE t.id = ANY (%s) OR cardinality(%s::text[]) = 0"""
    with db.connect("postgres") as dba:
        return dba.execute(query, [list(tenants), list(tenants)]).fetchall()


TRAIL = """SELECT operation, (key ->> 'id')::bigint, (old ->> 'n')::int, (new ->> 'n')::int, tenant_id
           FROM tenancy.audit_log WHERE relation = 'public.item'"""

# A row is there as often as it was inserted and not deleted, and has been updated as often as it says.
STATE = """SELECT coalesce(a.id, i.id), a.*, i.* FROM (
               SELECT (key ->> 'id')::bigint AS id, count(*) FILTER (WHERE operation = 'INSERT') - count(*) FILTER (WHERE operation = 'DELETE') AS there,
                      count(*) FILTER (WHERE operation = 'UPDATE') AS updates
               FROM tenancy.audit_log WHERE relation = 'public.item' GROUP BY 1) a
           FULL JOIN item i ON i.id = a.id
           WHERE a.id IS NULL OR a.there <> (i.id IS NOT NULL)::int OR i.id IS NOT NULL AND a.updates <> i.n"""


def assert_whole(db):
    """Nothing is wrong with the chains, and what the trail tells is what has become of the rows."""
    assert problems(db) == []
    assert db.run(STATE) == []


def trail(db):
    return Counter(db.run(TRAIL))


class Writer(threading.Thread):
    """Writes for several tenants, with savepoints, errors and prepared transactions; keeps what was committed for good."""

    def __init__(self, db, seed, prepares=True):
        super().__init__()
        self.db, self.random, self.prepares, self.seed = db, random.Random(seed), prepares, seed
        self.committed, self.failure, self.transactions = Counter(), None, 0
        self.stopping = threading.Event()

    def run(self):
        try:
            with self.db.connect(APP) as connection:
                while not self.stopping.is_set():
                    self.transaction(connection)
                    self.transactions += 1
        except psycopg.Error as error:
            self.failure = error

    def transaction(self, connection):
        written = []
        connection.execute("BEGIN ISOLATION LEVEL " + self.random.choice(["READ COMMITTED"] * 4 + ["REPEATABLE READ", "SERIALIZABLE"]))
        try:
            self.steps(connection, written, 0)
            if self.prepares and self.random.random() < 0.15:
                self.transactions += 1
                name = f"t{self.seed}_{self.transactions}"
                connection.execute(f"PREPARE TRANSACTION '{name}'")
                end = self.random.choice(["COMMIT", "ROLLBACK"])
                connection.execute(f"{end} PREPARED '{name}'")
            else:
                end = self.random.choice(["COMMIT", "COMMIT", "ROLLBACK"])
                connection.execute(end)
            if end == "COMMIT":
                self.committed.update(written)
        except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure, psycopg.errors.DivisionByZero):
            connection.execute("ROLLBACK")

    def steps(self, connection, written, depth):
        for _ in range(self.random.randint(1, 4)):
            if depth < 3 and self.random.random() < 0.3:
                inner = []
                connection.execute(f"SAVEPOINT s{depth}")
                try:
                    self.steps(connection, inner, depth + 1)
                    if self.random.random() < 0.3:
                        set_local(connection, "acme")
                        connection.execute("INSERT INTO item (n) VALUES (1 / (random() * 0)::int)")
                except psycopg.errors.DivisionByZero:
                    connection.execute(f"ROLLBACK TO s{depth}")
                    continue
                if self.random.random() < 0.4:
                    connection.execute(f"ROLLBACK TO s{depth}")
                else:
                    written.extend(inner)
                    if self.random.random() < 0.5:
                        connection.execute(f"RELEASE s{depth}")
            else:
                written.extend(self.write(connection))

    def write(self, connection):
        tenant = self.random.choice(TENANTS)
        set_local(connection, tenant)
        choice = self.random.random()
        if choice < 0.5:
            rows = connection.execute("INSERT INTO item (note) SELECT 'x' FROM generate_series(1, %s) RETURNING id", [self.random.randint(1, 3)])
            return [("INSERT", id, None, 0, tenant) for (id,) in rows.fetchall()]
        if choice < 0.8:
            rows = connection.execute("""UPDATE item SET n = n + 1 WHERE id IN (SELECT id FROM item ORDER BY random() LIMIT 2) RETURNING id, n""")
            return [("UPDATE", id, n - 1, n, tenant) for id, n in rows.fetchall()]
        rows = connection.execute("DELETE FROM item WHERE id IN (SELECT id FROM item ORDER BY random() LIMIT 1) RETURNING id, n")
        return [("DELETE", id, n, None, tenant) for id, n in rows.fetchall()]


def running(db, count, seconds, meanwhile=lambda: None, **options):
    """Writers for so long; returns them, ended."""
    writers = [Writer(db, seed, **options) for seed in range(count)]
    for writer in writers:
        writer.start()
    try:
        threading.Event().wait(seconds)
        meanwhile()
    finally:
        for writer in writers:
            writer.stopping.set()
        for writer in writers:
            writer.join()
    return writers
