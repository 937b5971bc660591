"""A million changes of context in one connection: the memory of its backend does not grow."""

from pathlib import Path

import pytest
from support import items, set_local, value

DISTINCT = 5000
# Allowed growth between two samples, far less than one byte for each of the 900,000 switches in between.
BACKEND_MEMORY = 64 * 1024
RESIDENT = 512 * 1024
PAGE = 4096


@pytest.fixture(scope="module")
def db(db):
    db.run(f"SELECT count(tenancy.create_tenant('many-' || n)) FROM generate_series(1, {DISTINCT}) n")
    return db


class Memory:
    """What the backend of a connection uses: PostgreSQL's own contexts, and the process."""

    def __init__(self, app, dba):
        self.app, self.dba = app, dba
        self.process = Path(f"/proc/{value(app, 'SELECT pg_backend_pid()')}/statm")

    def sample(self):
        contexts = value(self.app, "SELECT sum(used_bytes) FROM pg_backend_memory_contexts")
        _, resident, shared, *_ = (int(pages) for pages in self.process.read_text().split())
        # Shared buffers count as they are touched, whatever we do.
        return int(contexts), (resident - shared) * PAGE

    def has_not_grown(self, before):
        after = self.sample()
        assert after[0] - before[0] < BACKEND_MEMORY, (before, after)
        assert after[1] - before[1] < RESIDENT, (before, after)


@pytest.fixture
def memory(db, app, dba):
    dba.execute("GRANT SELECT ON pg_backend_memory_contexts TO it_app")
    dba.execute("GRANT EXECUTE ON FUNCTION pg_get_backend_memory_contexts() TO it_app")
    return Memory(app, dba)


def switches(times, set_context, tenants=7):
    """A loop on the server that changes the context and uses it."""
    return f"""
    DO $$
    DECLARE tenant text;
    BEGIN
        FOR i IN 1..{times} LOOP
            tenant := 'many-' || (1 + i % {tenants});
            {set_context}
            IF tenancy.current_tenant() <> tenant THEN
                RAISE 'wrong tenant';
            END IF;
        END LOOP;
    END $$"""


LOCAL = "PERFORM set_config('tenancy.tenant_id', tenant, true);"


def test_a_million_switches(app, memory):
    app.execute(switches(100_000, LOCAL))
    before = memory.sample()
    app.execute(switches(900_000, LOCAL))
    memory.has_not_grown(before)


def test_switches_between_more_tenants_than_are_cached(app, memory):
    app.execute(switches(2 * DISTINCT, LOCAL, DISTINCT))
    before = memory.sample()
    app.execute(switches(100_000, LOCAL, DISTINCT))
    memory.has_not_grown(before)


def test_session_switches_and_transactions_on_the_server(app, memory):
    statement = f"PERFORM set_config('tenancy.tenant_id', tenant, i % 2 = 0); COMMIT; {LOCAL}"
    app.execute(switches(10_000, statement))
    before = memory.sample()
    app.execute(switches(100_000, statement))
    memory.has_not_grown(before)


def test_set_tenant_and_savepoints(app, memory):
    statement = """
        BEGIN
            PERFORM tenancy.set_tenant('many-1'), tenancy.context();
            RAISE division_by_zero;
        EXCEPTION WHEN division_by_zero THEN
            PERFORM tenancy.set_tenant(tenant);
        END;"""
    app.execute(switches(5_000, statement))
    before = memory.sample()
    app.execute(switches(30_000, statement))
    memory.has_not_grown(before)


def test_errors(app, memory):
    statement = """
        BEGIN
            PERFORM tenancy.set_tenant('nobody');
        EXCEPTION WHEN undefined_object THEN
            NULL;
        END;
        BEGIN
            PERFORM set_config('tenancy.tenant_id', 'a/b', true);
        EXCEPTION WHEN invalid_parameter_value THEN
            PERFORM set_config('tenancy.tenant_id', tenant, true);
        END;"""
    app.execute(switches(5_000, statement))
    before = memory.sample()
    app.execute(switches(30_000, statement))
    memory.has_not_grown(before)


def test_transactions_of_the_client(app, memory):
    rows = {"acme": 3, "globex": 2, "initech": 1, "umbrella": 0}

    def run(times):
        with app.pipeline():
            for _ in range(times // len(rows)):
                for tenant in rows:
                    with app.transaction():
                        set_local(app, tenant)
                        app.execute("SELECT item FROM orders WHERE amount > %s", [0])

    run(2_000)
    before = memory.sample()
    run(20_000)
    memory.has_not_grown(before)
    with app.transaction():
        set_local(app, "acme")
        assert len(items(app)) == 3


def test_a_leak_would_be_seen(app, memory):
    # The negative control: 900,000 bytes that stay behind.
    before = memory.sample()
    app.execute("SELECT set_config('my.leak', repeat('x', 900000), false)")
    app.execute("PREPARE kept AS SELECT '" + "x" * 900_000 + "'")
    with pytest.raises(AssertionError):
        memory.has_not_grown(before)
