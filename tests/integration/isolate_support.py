"""A partitioned table of accounts, whose tenants are given partitions of their own while it is in use."""

import random
import threading
import time

import psycopg
from support import APP, DATA, OWNER, column, refused, set_local, value

# Stops a session that asks for it in the middle of copying, as the check of a row.
PAUSE = """
    CREATE OR REPLACE FUNCTION pause() RETURNS boolean LANGUAGE plpgsql AS $$
    BEGIN
        IF current_setting('test.pause', true) = 'on' THEN
            PERFORM pg_advisory_lock(7), pg_advisory_unlock(7);
        END IF;
        RETURN true;
    END $$"""


def make_accounts(db, rows=1000, name="account", key="PRIMARY KEY (tenant_id, id)", tenants=("acme", "globex")):
    """Each account has 100; `rows` of each tenant. The sum of a tenant's, and their number, are always the same."""
    db.run(
        PAUSE,
        f"DROP TABLE IF EXISTS {name} CASCADE",
        f"""CREATE TABLE {name} (tenant_id text NOT NULL, id integer NOT NULL, amount integer NOT NULL CHECK (pause()), note text{key and ", " + key})
            PARTITION BY LIST (tenant_id)""",
        f"CREATE TABLE {name}_rest PARTITION OF {name} DEFAULT",
        f"INSERT INTO {name} SELECT t, g, 100, repeat('x', 40) FROM unnest(ARRAY[{str(list(tenants))[1:-1]}]) AS t, generate_series(1, {rows}) AS g",
        f"SELECT tenancy.protect('{name}')",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON {name} TO {DATA}",
        f"ANALYZE {name}",
        role=OWNER,
    )


def isolate(connection, tenant="acme", name="account"):
    return value(connection, "SELECT tenancy.isolate_tenant(%s, %s)::text", [name, tenant])


def places(connection, name="account"):
    """How many rows of which tenant are in which partition, for whoever sees them all."""
    query = f"SELECT tableoid::regclass::text, tenant_id, count(*), sum(amount) FROM {name} GROUP BY 1, 2 ORDER BY 1, 2"
    return connection.execute(query).fetchall()


def partitions(connection, name="account"):
    return column(connection, "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = %s::regclass ORDER BY 1", [name])


def leftovers(connection):
    """What must not stay of a move that was not made."""
    query = """SELECT relname FROM pg_class WHERE relname ~ '_(acme|globex)' UNION ALL SELECT conname FROM pg_constraint WHERE conname ~ '^tenancy_(left|isolated)'
               UNION ALL SELECT tenant_id FROM _tenancy.isolated"""
    return column(connection, query)


class Traffic:
    """What goes on in the table: writers and readers, each in a thread and a connection of its own, until they are stopped."""

    # A transaction that fails so is tried again by its application.
    RETRIED = ("40001", "40P01")

    def __init__(self, db, rows, name="account"):
        self.db, self.rows, self.name = db, rows, name
        self.done, self.wrong, self.retried = {}, [], {}
        self.stopped = threading.Event()
        self.threads = []

    def add(self, work, label, role=APP, **settings):
        def run():
            with self.db.connect(role, settings=settings or None) as connection:
                while not self.stopped.is_set():
                    try:
                        with connection.transaction():
                            work(connection)
                        self.done[label] = self.done.get(label, 0) + 1
                    except psycopg.Error as error:
                        if error.sqlstate not in self.RETRIED:
                            self.wrong.append((label, error.sqlstate, str(error)))
                        self.retried[label] = self.retried.get(label, 0) + 1

        self.threads.append(threading.Thread(target=run))

    def writer(self, tenant, seed):
        """Moves amounts between accounts, replaces accounts, gives them other keys."""
        choice, numbers = random.Random(seed), iter(range(1_000_000 * (seed + 1), 1_000_000 * (seed + 2)))
        table = self.name

        def work(connection):
            set_local(connection, tenant)
            one, other = sorted(choice.sample(range(1, self.rows + 1), 2))
            kind = choice.random()
            if kind < 0.5:
                moved = [connection.execute(f"UPDATE {table} SET amount = amount + %s WHERE id = %s", [by, id]).rowcount for id, by in ((one, 1), (other, -1))]
                if moved != [1, 1]:
                    raise psycopg.Rollback
            elif kind < 0.75:
                gone = connection.execute(f"DELETE FROM {table} WHERE id = %s RETURNING amount", [one]).fetchall()
                for (amount,) in gone:
                    connection.execute(f"INSERT INTO {table} (id, amount) VALUES (%s, %s)", [one, amount])
            elif kind < 0.9:
                connection.execute(f"UPDATE {table} SET id = %s WHERE id = %s", [next(numbers), one])
            else:
                connection.execute(f"SELECT id FROM {table} WHERE id = %s FOR UPDATE", [one])

        self.add(work, f"writer of {tenant}")

    def reader(self, tenant, level="READ COMMITTED", role=APP):
        """Reads twice in a transaction; at another level, the first statement of which has read something else."""
        expected = (self.rows, 100 * self.rows) if tenant else (2 * self.rows, 200 * self.rows)

        def work(connection):
            connection.execute(f"SET TRANSACTION ISOLATION LEVEL {level}")
            if level != "READ COMMITTED":
                connection.execute("SELECT 1 FROM pg_database LIMIT 1")
                time.sleep(random.random() / 5)
            if tenant:
                set_local(connection, tenant)
            for _ in range(2):
                seen = connection.execute(f"SELECT count(*), sum(amount) FROM {self.name}").fetchone()
                if seen != expected:
                    self.wrong.append((level, tenant, seen))

        self.add(work, f"{level} of {tenant}", role)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        for thread in self.threads:
            thread.join(60)


def waiting(connection, pid, event=None):
    """Whether a session waits for a lock, of that kind if one is named."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock' AND (wait_event = %s OR %s::text IS NULL)"
    return value(connection, query, [pid, event, event]) == 1


class InThread:
    """A statement that is run in a thread, with what it comes to."""

    def __init__(self, connection, statement, arguments=None):
        self.connection, self.error, self.rows = connection, None, None
        self.pid = connection.info.backend_pid

        def run():
            try:
                cursor = connection.execute(statement, arguments)
                self.rows = cursor.fetchall() if cursor.description else []
            except psycopg.Error as error:
                self.error = error

        self.thread = threading.Thread(target=run)
        self.thread.start()

    def result(self):
        self.thread.join(60)
        assert not self.thread.is_alive(), "it does not come to an end"
        if self.error:
            raise self.error
        return self.rows


__all__ = ["InThread", "Traffic", "isolate", "leftovers", "make_accounts", "partitions", "places", "refused", "waiting"]
