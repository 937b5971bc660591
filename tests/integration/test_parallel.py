"""Parallel query: workers see the same tenant as their leader."""

import threading

import pytest
from support import APP, MAJOR, OWNER, eventually, refused, set_local, set_session, value

SIZES = {"acme": 12000, "globex": 6000, "initech": 0}
COUNT = "SELECT count(*) FROM events"


@pytest.fixture(scope="module")
def db(db):
    db.run("CREATE TABLE events (tenant_id text NOT NULL, n integer) WITH (parallel_workers = 2)", role=OWNER)
    for tenant, size in SIZES.items():
        db.run(f"INSERT INTO events SELECT '{tenant}', n FROM generate_series(1, {size}) n")
    db.run("CREATE TABLE handmade WITH (parallel_workers = 2) AS TABLE events", role=OWNER)
    db.run("ANALYZE events, handmade")
    db.run("SELECT tenancy.protect('events', create_index => false)", role=OWNER)
    return db


def parallel(connection):
    """Makes every plan a parallel one, with all the work in the workers."""
    force = "debug_parallel_query" if MAJOR >= 16 else "force_parallel_mode"
    for setting in (
        f"{force} = on",
        "min_parallel_table_scan_size = 0",
        "parallel_setup_cost = 0",
        "parallel_tuple_cost = 0",
        "parallel_leader_participation = off",
        "max_parallel_workers_per_gather = 2",
    ):
        connection.execute(f"SET {setting}")
    return connection


def workers_launched(connection, query=COUNT):
    """How many workers a query really had."""
    plan = value(connection, f"EXPLAIN (ANALYZE, FORMAT JSON) {query}")
    launched = []

    def walk(node):
        launched.append(node.get("Workers Launched", 0))
        for child in node.get("Plans", []):
            walk(child)

    walk(plan[0]["Plan"])
    return sum(launched)


def test_set_local(connect):
    app = parallel(connect())
    for tenant, size in SIZES.items():
        with app.transaction():
            set_local(app, tenant)
            assert workers_launched(app) >= 1
            assert value(app, COUNT) == size
            assert value(app, "SELECT count(DISTINCT tenant_id) FROM events") == min(size, 1)
            app.execute("SET LOCAL max_parallel_workers_per_gather = 0")
            assert value(app, COUNT) == size


def test_plain_set(connect):
    app = parallel(connect())
    for tenant, size in SIZES.items():
        set_session(app, tenant)
        assert workers_launched(app) >= 1
        assert value(app, COUNT) == size


def test_startup_option(connect):
    app = parallel(connect(settings={"tenancy.tenant_id": "globex"}))
    assert workers_launched(app) >= 1
    assert value(app, COUNT) == SIZES["globex"]


def test_bound_role(connect, make_role):
    bound = parallel(connect(make_role("it_parallel_bound", tenant_id="acme")))
    assert workers_launched(bound) >= 1
    assert value(bound, COUNT) == SIZES["acme"]


def test_the_function_in_a_worker(connect):
    app = parallel(connect())
    set_session(app, "acme")
    assert value(app, "SELECT tenancy.current_tenant()") == "acme"
    assert value(app, "SELECT min(tenancy.current_tenant()) FROM events") == "acme"


def test_sealed_role(connect, make_role):
    sealed = parallel(connect(make_role("it_parallel_sealed", may_set=True, seal="transaction")))
    for tenant in ("acme", "globex"):
        with sealed.transaction():
            set_local(sealed, tenant)
            assert workers_launched(sealed) >= 1
            assert value(sealed, COUNT) == SIZES[tenant]


def test_session_context_refuse(connect, make_role):
    app = parallel(connect(make_role("it_parallel_refuse", may_set=True, session_context="refuse")))
    with app.transaction():
        set_local(app, "acme")
        assert workers_launched(app) >= 1
        assert value(app, COUNT) == SIZES["acme"]
    set_session(app, "globex")
    with refused("TENANT_CONTEXT_MISSING"):
        value(app, COUNT)
    with refused("TENANT_CONTEXT_MISSING"):
        value(app, "SELECT min(tenancy.current_tenant()) FROM events")
    with refused("TENANT_CONTEXT_MISSING"):
        value(app, "SELECT tenancy.current_tenant()")
    # A view that somebody wrote by hand, with a plan that was kept: there is no policy to ask for.
    app.execute("SET plan_cache_mode = force_generic_plan")
    app.execute("PREPARE by_hand AS SELECT count(*) FROM handmade WHERE tenant_id = tenancy.current_tenant()")
    with app.transaction():
        set_local(app, "acme")
        assert workers_launched(app, "EXECUTE by_hand") >= 1
        assert value(app, "EXECUTE by_hand") == SIZES["acme"]
    with refused("TENANT_CONTEXT_MISSING"):
        value(app, "EXECUTE by_hand")


def test_session_context_refuse_allows_startup_option_and_bound_role(connect, make_role):
    refuse = make_role("it_parallel_refuse", may_set=True, session_context="refuse")
    bound = make_role("it_parallel_refuse_bound", tenant_id="globex", session_context="refuse")
    for connection, tenant in (
        (connect(refuse, settings={"tenancy.tenant_id": "acme"}), "acme"),
        (connect(bound), "globex"),
    ):
        parallel(connection)
        assert workers_launched(connection) >= 1
        assert value(connection, COUNT) == SIZES[tenant]


def test_errors_with_a_kept_plan(connect, dba):
    # Planning asks for the tenant itself; only a kept plan gets past it.
    app = parallel(connect())
    app.execute("SET plan_cache_mode = force_generic_plan")
    app.execute(f"PREPARE counted AS {COUNT}")
    set_session(app, "globex")
    assert workers_launched(app, "EXECUTE counted") >= 1
    dba.execute("SELECT tenancy.suspend_tenant('globex')")
    try:
        with refused("TENANT_SUSPENDED"):
            value(app, "EXECUTE counted")
    finally:
        dba.execute("SELECT tenancy.resume_tenant('globex')")
    assert value(app, "EXECUTE counted") == SIZES["globex"]
    set_session(app, "nobody")
    with refused("TENANT_NOT_FOUND"):
        value(app, "EXECUTE counted")
    app.execute("RESET tenancy.tenant_id")
    with refused("TENANT_CONTEXT_MISSING"):
        value(app, "EXECUTE counted")


def test_error_of_a_worker_arrives_whole(connect, dba):
    # The leader confirms the tenant and sleeps; the suspension comes before its workers start.
    app = parallel(connect())
    query = "SELECT count(*) FROM events WHERE (SELECT pg_sleep(1)) IS NOT NULL"
    asleep = "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = %s"
    pid = app.info.backend_pid
    set_session(app, "globex")
    assert workers_launched(app, query) >= 1
    # A plan that is kept asks for the tenant in each worker.
    app.execute(f"PREPARE kept AS {query}")

    def suspend():
        eventually(lambda: value(dba, asleep, [pid]))
        dba.execute("SELECT tenancy.suspend_tenant('globex')")

    thread = threading.Thread(target=suspend)
    thread.start()
    try:
        with refused("TENANT_SUSPENDED") as caught:
            value(app, "EXECUTE kept")
    finally:
        thread.join()
        dba.execute("SELECT tenancy.resume_tenant('globex')")
    assert "parallel worker" in caught.error.diag.context
    assert caught.error.diag.message_hint


def test_errors_of_a_parallel_query(connect, dba):
    app = parallel(connect())
    with refused("TENANT_CONTEXT_MISSING"):
        value(app, COUNT)
    set_session(app, "globex")
    assert value(app, COUNT) == SIZES["globex"]
    dba.execute("SELECT tenancy.suspend_tenant('globex')")
    try:
        with refused("TENANT_SUSPENDED"):
            value(app, COUNT)
    finally:
        dba.execute("SELECT tenancy.resume_tenant('globex')")


def test_missing_tenant_empty(connect):
    app = parallel(connect(APP))
    app.execute("SET tenancy.missing_tenant = 'empty'")
    assert workers_launched(app) >= 1
    assert value(app, COUNT) == 0
