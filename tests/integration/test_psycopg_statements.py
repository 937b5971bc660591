"""psycopg: prepared statements, cursors, COPY and pipelines, shared by tenants of one connection."""

import asyncio

import psycopg
import pytest
from support import OWNER, SQLSTATE, detail_of, items, refused, set_local, set_session, sqlstate, value

ROWS = {"acme": ["a1", "a2", "a3"], "globex": ["g1", "g2"], "initech": ["i1"], "umbrella": []}


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan", "auto"])
def test_a_prepared_statement_serves_every_tenant(app, mode):
    app.prepare_threshold = 0  # prepare on the server at the first use
    app.execute(f"SET plan_cache_mode = {mode}")
    query = "SELECT item FROM orders WHERE amount >= %s ORDER BY item"
    for _ in range(8):  # a generic plan becomes an option after five
        for tenant, rows in ROWS.items():
            with app.transaction():
                set_local(app, tenant)
                assert [item for (item,) in app.execute(query, [1])] == rows
    generic, custom = app.execute(
        "SELECT sum(generic_plans), sum(custom_plans) FROM pg_prepared_statements"
        " WHERE statement LIKE 'SELECT item FROM orders%'"
    ).fetchone()
    assert generic + custom == 8 * len(ROWS)  # or the statements were not prepared at all
    assert mode != "force_generic_plan" or custom == 0
    with refused("TENANT_CONTEXT_MISSING"):
        app.execute(query, [1])


@pytest.mark.parametrize("mode", ["force_generic_plan", "auto"])
def test_prepared_writes_stay_in_their_tenant(app, mode):
    app.prepare_threshold = 0
    app.execute(f"SET plan_cache_mode = {mode}")
    for turn in range(7):
        for tenant, rows in ROWS.items():
            app.execute("BEGIN")
            set_local(app, tenant)
            assert app.execute("UPDATE orders SET amount = %s", [turn + 2]).rowcount == len(rows)
            app.execute("INSERT INTO orders (item) VALUES (%s)", ["new"])
            assert items(app) == sorted([*rows, "new"])
            assert app.execute("DELETE FROM orders").rowcount == len(rows) + 1
            app.execute("ROLLBACK")


def test_prepared_by_name_in_sql(app):
    app.execute("SET tenancy.tenant_id = 'acme'")
    app.execute("PREPARE mine(integer) AS SELECT count(*) FROM orders WHERE amount >= $1")
    app.execute("SET plan_cache_mode = force_generic_plan")
    for tenant, rows in ROWS.items():
        set_session(app, tenant)
        assert value(app, "EXECUTE mine(1)") == len(rows)


def test_server_side_cursor(app):
    for tenant, rows in ROWS.items():
        with app.transaction():
            set_local(app, tenant)
            with app.cursor("named") as cursor:
                cursor.itersize = 1
                cursor.execute("SELECT item FROM orders ORDER BY item")
                assert [item for (item,) in cursor] == rows


@pytest.mark.parametrize("off", ["seqscan", "indexscan, bitmapscan, indexonlyscan"])
def test_a_cursor_never_shows_rows_of_a_tenant_that_was_set_later(app, off):
    for kind in off.split(", "):
        app.execute(f"SET enable_{kind} = off")
    with app.transaction():
        set_local(app, "acme")
        with app.cursor("first", scrollable=True) as cursor:
            cursor.execute("SELECT item, tenant_id FROM orders")
            seen = cursor.fetchmany(1)
            set_local(app, "globex")
            try:
                with app.transaction():
                    seen += cursor.fetchall()
            except psycopg.Error as error:
                assert detail_of(error)["code"] in SQLSTATE  # no answer is a good answer, too
        assert {tenant for _, tenant in seen} == {"acme"}
        assert items(app) == ROWS["globex"]


def test_a_holdable_cursor_would_outlive_its_tenant(app):
    with app.transaction(), refused("TENANT_ACCESS_DENIED"), app.transaction():
        set_local(app, "acme")
        app.execute("DECLARE kept CURSOR WITH HOLD FOR SELECT item FROM orders ORDER BY item")
    with app.transaction():
        set_local(app, "globex")
        assert items(app) == ROWS["globex"]
    with pytest.raises(psycopg.errors.InvalidCursorName):
        app.execute("FETCH ALL FROM kept")


def copy_out(connection, command):
    with connection.cursor() as cursor, cursor.copy(command) as copy:
        return sorted(row[0] for row in copy.rows())


def test_copy_out_has_own_rows_only(app):
    for tenant, rows in ROWS.items():
        set_session(app, tenant)
        assert copy_out(app, "COPY orders (item) TO STDOUT") == rows
        assert copy_out(app, "COPY (SELECT item FROM orders) TO STDOUT") == rows
    app.execute("RESET tenancy.tenant_id")
    with refused("TENANT_CONTEXT_MISSING"):
        copy_out(app, "COPY orders (item) TO STDOUT")


def test_core_refuses_copy_from_under_row_level_security(app):
    with app.transaction():
        set_local(app, "acme")
        with sqlstate("0A000"), app.transaction(), app.cursor() as cursor, cursor.copy("COPY orders (item) FROM STDIN"):
            pass


def copy_in(connection, columns, rows):
    """The documented way to COPY into a protected table: by way of a temporary one."""
    connection.execute("CREATE TEMP TABLE staging (LIKE orders INCLUDING DEFAULTS) ON COMMIT DROP")
    with connection.cursor() as cursor, cursor.copy(f"COPY staging ({columns}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
    return connection.execute("INSERT INTO orders SELECT * FROM staging").rowcount


def test_copy_in_by_way_of_a_temporary_table(db, app):
    tenant = db.new_tenant("old")
    with app.transaction():
        set_local(app, tenant)
        assert copy_in(app, "item, amount", [(f"item {n:04}", n) for n in range(1, 1001)]) == 1000
        assert value(app, "SELECT sum(amount) FROM orders") == 1 + 1000 * 1001 // 2
    with app.transaction():
        set_local(app, tenant)
        copy_in(app, "tenant_id, item", [(tenant, "named its tenant")])
    assert db.run(f"SELECT count(*) FROM orders WHERE tenant_id = '{tenant}'") == [(1002,)]
    assert db.run("SELECT count(*) FROM orders WHERE item LIKE 'item %'") == [(1000,)]


def test_copy_in_of_another_tenants_rows_is_refused(db, app):
    with refused("TENANT_ACCESS_DENIED") as caught, app.transaction():
        set_local(app, "acme")
        copy_in(app, "tenant_id, item", [("acme", "mine"), ("globex", "smuggled")])
    text = f"{caught.error.diag.message_primary} {caught.error.diag.message_detail} {caught.error.diag.message_hint}"
    assert "globex" not in text and "smuggled" not in text
    assert db.run("SELECT count(*) FROM orders WHERE item IN ('mine', 'smuggled')") == [(0,)]


def test_copy_in_with_an_identity_column(db, app):
    # LIKE takes an identity column's NOT NULL along but not its values: the staging table names its columns.
    db.run(
        "CREATE TABLE visits (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id text, page text NOT NULL)",
        "SELECT tenancy.protect('visits')",
        role=OWNER,
    )
    for tenant in ("acme", "globex"):
        with app.transaction():
            set_local(app, tenant)
            app.execute("CREATE TEMP TABLE staging ON COMMIT DROP AS SELECT page FROM visits WITH NO DATA")
            with app.cursor() as cursor, cursor.copy("COPY staging (page) FROM STDIN") as copy:
                copy.write_row([f"page of {tenant}"])
            app.execute("INSERT INTO visits (page) SELECT page FROM staging")
            assert app.execute("SELECT tenant_id, page FROM visits").fetchall() == [(tenant, f"page of {tenant}")]


def test_pipeline_mode(app):
    with app.pipeline() as pipeline:
        results = {}
        for tenant in ROWS:
            with app.transaction():
                set_local(app, tenant)
                results[tenant] = app.execute("SELECT item FROM orders ORDER BY item")
        pipeline.sync()
        assert {tenant: [item for (item,) in cursor.fetchall()] for tenant, cursor in results.items()} == ROWS


def test_pipeline_without_a_tenant_is_refused(app):
    # The implicit transaction of a pipeline ends at its sync, and SET LOCAL with it.
    with app.pipeline() as pipeline:
        set_local(app, "acme")
        cursor = app.execute("SELECT item FROM orders ORDER BY item")
        pipeline.sync()
        assert [item for (item,) in cursor.fetchall()] == ROWS["acme"]
    with refused("TENANT_CONTEXT_MISSING"), app.pipeline() as pipeline:
        app.execute("SELECT item FROM orders")
        pipeline.sync()
    assert app.info.transaction_status.name == "IDLE"


def test_binary_results(app):
    set_session(app, "acme")
    rows = app.cursor(binary=True).execute("SELECT item, tenancy.current_tenant() FROM orders ORDER BY 1").fetchall()
    assert rows == [(item, "acme") for item in ROWS["acme"]]


def test_executemany_and_returning(db, app):
    tenant = db.new_tenant()
    with app.transaction():
        set_local(app, tenant)
        cursor = app.cursor()
        cursor.executemany(
            "INSERT INTO orders (item) VALUES (%s) RETURNING tenant_id", [(f"x{n}",) for n in range(3)], returning=True
        )
        seen = [cursor.fetchone()[0]]
        while cursor.nextset():
            seen.append(cursor.fetchone()[0])
    assert seen == [tenant] * 3


def test_two_phase_commit(db, app):
    tenant = db.new_tenant("old")
    for number, finish in enumerate(("commit", "rollback")):
        xid = app.xid(1, f"tenancy {number}", "branch")
        app.autocommit = False
        app.tpc_begin(xid)
        set_local(app, tenant)
        app.execute("INSERT INTO orders (item) VALUES (%s)", [f"by {finish}"])
        app.tpc_prepare()
        app.tpc_commit() if finish == "commit" else app.tpc_rollback()
        app.autocommit = True
        with refused("TENANT_CONTEXT_MISSING"):
            items(app)
    with app.transaction():
        set_local(app, tenant)
        assert items(app) == ["by commit", "old"]


def test_async_connections_at_once(db):
    async def work(number):
        tenant = list(ROWS)[number % len(ROWS)]
        async with await db.connect_async() as connection:
            for _ in range(25):
                async with connection.transaction():
                    await connection.execute("SELECT tenancy.set_tenant(%s)", [tenant])
                    cursor = await connection.execute("SELECT item FROM orders ORDER BY item")
                    assert [item for (item,) in await cursor.fetchall()] == ROWS[tenant]

    async def everything():
        await asyncio.gather(*(work(number) for number in range(12)))

    asyncio.run(everything())
