"""Statistics of tenants: exact under concurrency, bounded, and nothing lost from the totals."""

import os
import threading

import pytest
from support import APP, MAJOR, Database, eventually, server_of, server_tool, set_local, set_session, value

SUM = "SELECT (sum(statements), sum(rows), sum(transactions_committed), sum(errors))::text FROM tenancy.stat_tenants"


def all_at_once(*works):
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)


def test_exact_under_concurrency(db, dba):
    """Eight connections of three tenants: each statement, row, transaction and error is counted once."""
    dba.execute("SELECT tenancy.stat_tenants_reset()")

    def work(number):
        def run():
            with db.connect(APP) as connection:
                for n in range(200):
                    with connection.transaction(force_rollback=n % 4 == 0):
                        set_local(connection, ("acme", "globex", "initech")[(number + n) % 3])
                        connection.execute("SELECT FROM generate_series(1, 3)")
                    if n % 10 == 0:
                        set_session(connection, "acme")
                        with pytest.raises(Exception, match="zero"):
                            connection.execute("SELECT 1 / 0")
                        connection.execute("RESET tenancy.tenant_id")

        return run

    all_at_once(*(work(number) for number in range(8)))
    statements, rows, committed, rolled_back, errors = dba.execute(
        """SELECT sum(statements), sum(rows), sum(transactions_committed), sum(transactions_rolled_back), sum((errors_by_class ->> '22')::int)
           FROM tenancy.stat_tenants"""
    ).fetchone()
    ours = 8 * 200
    assert errors == ours / 10
    assert rolled_back == ours / 4 + ours / 10
    # With set_config(), which is a statement of one row, and the reset of this session.
    assert committed == ours * 3 / 4 + ours / 10 + 1
    assert statements == ours * 2 + ours / 10 + 1
    assert rows == ours * 4 + ours / 10 + 1


def test_a_deleted_tenant_gives_way_when_that_is_committed(db, dba):
    tenant = db.new_tenant("one")
    with db.connect(APP) as app:
        set_session(app, tenant)
        app.execute("SELECT count(*) FROM orders")
    kept = f"SELECT count(*) FROM tenancy.stat_tenants WHERE tenant_id = '{tenant}' AND statements > 0"
    total = "SELECT sum(statements)::int FROM tenancy.stat_tenants WHERE kind <> 'none'"
    before = value(dba, total)
    with dba.transaction(force_rollback=True):
        dba.execute("SELECT tenancy.delete_tenant(%s)", [tenant])
        assert value(dba, kept) == 1
    with dba.transaction():
        with dba.transaction(force_rollback=True):
            dba.execute("SELECT tenancy.delete_tenant(%s)", [tenant])
    assert value(dba, kept) == 1
    with dba.transaction(), dba.transaction():
        dba.execute("SELECT tenancy.delete_tenant(%s)", [tenant])
    assert (value(dba, kept), value(dba, total)) == (0, before)


def test_bounded_and_nothing_lost():
    """More tenants than there is room for: some give way, and the totals are what they were."""
    name = f"it-stat-{os.getpid()}"
    env = server_tool("start", str(MAJOR), name, "--preload", "tenancy.stat_tenants=16")
    try:
        shop = object.__new__(Database)
        shop.server, shop.name = server_of(env), "postgres"
        shop.server.create_roles()
        shop.run(
            "CREATE EXTENSION tenancy",
            "CREATE TABLE note (tenant_id text, n int)",
            "SELECT tenancy.protect('note')",
            "SELECT count(tenancy.create_tenant('t' || n)) FROM generate_series(1, 200) AS n",
            "GRANT ALL ON note TO PUBLIC",
            "SELECT tenancy.stat_tenants_reset()",
        )
        with shop.connect("postgres") as dba:
            before = dba.execute("SELECT coalesce(sum(statements), 0), coalesce(sum(rows), 0) FROM tenancy.stat_tenants").fetchone()
            with shop.connect(APP) as connection:
                for n in range(1, 201):
                    connection.execute(f"SET tenancy.tenant_id = 't{n}'")
                    connection.execute("INSERT INTO note SELECT tenancy.current_tenant(), g FROM generate_series(1, 5) AS g")
                # One that is busy stays, whoever comes.
                connection.execute("SET tenancy.tenant_id = 't7'")
                connection.execute("SELECT pg_sleep(0.3)")
                for n in range(1, 201):
                    connection.execute(f"SET tenancy.tenant_id = 't{n}'")
                    connection.execute("SELECT FROM note")
            after = dba.execute("SELECT sum(statements), sum(rows) FROM tenancy.stat_tenants").fetchone()
            # With the first question for the figures, which is a statement as well.
            assert after[0] - before[0] == 401 + 1 and after[1] - before[1] == 200 * 10 + 1 + 1
            kinds = dict(dba.execute("SELECT kind, count(*) FROM tenancy.stat_tenants GROUP BY 1").fetchall())
            assert kinds["tenant"] <= 16 and kinds["rest"] == 1
            assert value(dba, "SELECT total_exec_time > 300 FROM tenancy.stat_tenants WHERE tenant_id = 't7'")
            assert value(dba, "SELECT statements > 200 FROM tenancy.stat_tenants WHERE kind = 'rest'")
            # Another database has its own.
            dba.execute("CREATE DATABASE other")
            with shop.server.connect("postgres", "other") as other:
                other.execute("CREATE EXTENSION tenancy")
                assert other.execute("SELECT kind, statements FROM tenancy.stat_tenants WHERE kind <> 'none'").fetchall() == []
        # A crash begins anew.
        server_tool("crash", name)
        assert shop.run("SELECT count(*) FROM tenancy.stat_tenants WHERE kind <> 'none'") == [(0,)]
        server_tool("restart", name, "tenancy.stat_tenants=0")
        assert shop.run("SELECT count(*) FROM tenancy.stat_tenants") == [(0,)]
    finally:
        server_tool("stop", name)


def test_terminated_backend(db, dba):
    """What it did is told when its transaction has ended, by whatever."""
    dba.execute("SELECT tenancy.stat_tenants_reset()")
    connection = db.connect(APP)
    set_session(connection, "initech")
    connection.execute("SELECT count(*) FROM orders")
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM orders")
    dba.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
    rolled_back = "SELECT transactions_rolled_back = 1 AND statements >= 2 FROM tenancy.stat_tenants WHERE tenant_id = 'initech'"
    eventually(lambda: dba.execute(rolled_back).fetchone() == (True,))


def test_parallel_workers_are_part_of_the_statement(db, dba):
    dba.execute("SELECT tenancy.stat_tenants_reset()")
    with db.connect(APP) as connection:
        set_session(connection, "acme")
        connection.execute("SELECT count(*) FROM orders")
        for name, setting in (("parallel_setup_cost", 0), ("parallel_tuple_cost", 0), ("min_parallel_table_scan_size", 0)):
            connection.execute(f"SET {name} = {setting}")
        connection.execute("SELECT count(*) FROM orders")
    statements, rows = dba.execute("SELECT statements, rows FROM tenancy.stat_tenants WHERE tenant_id = 'acme'").fetchone()
    assert (statements, rows) == (2, 2)
