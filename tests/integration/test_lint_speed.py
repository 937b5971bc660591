"""tenancy.lint() and tenancy.index_advice() of a large database: the time that they take grows with the tables, and not with their square.

Times are compared with one another, measured by turns on one server; none is compared with a number of seconds.
"""

import os
import time

import pytest
from support import OWNER, Database, own_server

NAME = f"it-lint-speed-{os.getpid()}"
FEW, MANY = 500, 5000
# Of these: every fifth is protected by itself, as many are partitions, and the others have no tenant column, but for ten.
PART, FORGOTTEN = 5, 10
# More in one transaction would ask for a larger table of locks.
BATCH = 250
# Of ten times the tables. Linear is ten at most, quadratic a hundred.
RATIO = 20


class Tables(Database):
    """A database with so many tables."""

    def __init__(self, server, count):
        super().__init__(server, f"it_lint_{count}")
        self.count, part = count, count // PART
        with self.connect(OWNER) as owner:
            owner.execute("SET client_min_messages = warning")
            # First what is protected, which takes longer the more tables there are.
            self.make(owner, "own", part, "(id bigint PRIMARY KEY, tenant_id text, body text)", protects=True)
            owner.execute("CREATE TABLE tree (id bigint, tenant_id text, body text) PARTITION BY LIST (id)")
            self.make(owner, "leaf", part, "PARTITION OF tree FOR VALUES IN (%s)")
            owner.execute("SELECT tenancy.protect('tree')")
            self.make(owner, "forgotten", FORGOTTEN, "(id bigint, tenant_id text)")
            self.make(owner, "other", count - 2 * part - FORGOTTEN, "(id bigint PRIMARY KEY, body text)")
        self.run("VACUUM ANALYZE")

    def make(self, owner, name, count, definition, protects=False):
        for begin in range(0, count, BATCH):
            with owner.transaction():
                for n in range(begin, min(begin + BATCH, count)):
                    owner.execute(f"CREATE TABLE {name}_{n} {definition.replace('%s', str(n))}")
                    if protects:
                        owner.execute(f"SELECT tenancy.protect('{name}_{n}')")

    def lint(self):
        """How many seconds it takes, and how many tables it finds that nobody protected."""
        with self.connect("postgres") as dba:
            begin = time.perf_counter()
            found = dba.execute("SELECT rule, object FROM tenancy.lint()").fetchall()
            seconds = time.perf_counter() - begin
        return seconds, [table for rule, table in found if rule == "table_unprotected"]

    def grow(self):
        """Has the tables look as if they had rows, and those that are protected by themselves lack what protect made."""
        self.run("UPDATE pg_class SET relpages = 1000, reltuples = 50000 WHERE relname ~ '^(own|leaf)_'")
        for begin in range(0, self.count // PART, BATCH):
            names = ", ".join(f"tenancy_own_{n}_tenant" for n in range(begin, min(begin + BATCH, self.count // PART)))
            self.run(f"DROP INDEX {names}")

    def index_advice(self):
        """How many seconds it takes, and how often it advises on what."""
        with self.connect("postgres") as dba:
            begin = time.perf_counter()
            found = dba.execute("SELECT advice, count(*), count(statement) FROM tenancy.index_advice() GROUP BY advice").fetchall()
            seconds = time.perf_counter() - begin
        return seconds, found


@pytest.fixture(scope="module")
def server():
    options = ["max_locks_per_transaction=256", "autovacuum=off", "synchronous_commit=off"]
    with own_server(NAME, "--preload", *options) as server:
        yield server


@pytest.fixture(scope="module")
def databases(server):
    begin = time.perf_counter()
    databases = [Tables(server, FEW), Tables(server, MANY)]
    print(f"\ntables made in {time.perf_counter() - begin:.1f} s")
    return databases


def assert_not_quadratic(times):
    ratio = min(times[MANY]) / min(times[FEW])
    print(f"ratio {ratio:.1f}")
    assert ratio < RATIO, times


def test_lint_is_not_quadratic(databases):
    times = {FEW: [], MANY: []}
    for _ in range(3):
        for database in databases:
            seconds, forgotten = database.lint()
            assert sorted(forgotten) == [f"public.forgotten_{n}" for n in range(FORGOTTEN)]
            times[database.count].append(seconds)
    for database in databases:
        protected = database.run("SELECT count(*), count(*) FILTER (WHERE drift = '{}') FROM tenancy.protected_tables")
        assert protected == [(2 * database.count // PART + 1,) * 2]
        shown = ", ".join(f"{seconds:.2f}" for seconds in times[database.count])
        print(f"{database.count} tables, {protected[0][0]} of them protected: {shown} s")
    assert_not_quadratic(times)


def test_index_advice_is_not_quadratic(databases):
    times = {FEW: [], MANY: []}
    for database in databases:
        database.grow()
    for _ in range(3):
        for database in databases:
            seconds, found = database.index_advice()
            part = database.count // PART
            assert found == [("index_missing", part, part)]
            times[database.count].append(seconds)
    for count, shown in times.items():
        print(f"{count} tables: {', '.join(f'{seconds:.2f}' for seconds in shown)} s")
    assert_not_quadratic(times)
