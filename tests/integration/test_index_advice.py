"""tenancy.index_advice() with what may be installed beside it: pg_stat_statements, btree_gin, pg_trgm, hypopg; and while indexes are built."""

import os
import threading

import psycopg
import pytest
from support import APP, DATA, MAJOR, OWNER, Database, column, eventually, server_of, server_tool, value

NAME = f"it-index-advice-{os.getpid()}"
TENANTS = 10


@pytest.fixture(scope="module")
def server():
    options = ["shared_preload_libraries=tenancy,pg_stat_statements", "pg_stat_statements.track=all", "autovacuum=off"]
    try:
        server = server_of(server_tool("start", str(MAJOR), NAME, "--preload", *options))
    except AssertionError as why:
        if "pg_stat_statements" in str(why):
            pytest.skip("this PostgreSQL has no pg_stat_statements")
        raise
    try:
        server.create_roles()
        yield server
    finally:
        server_tool("stop", NAME)


class Shop(Database):
    """Tenants t0 to t9, or numbers of them, and tables that are large enough to be advised on."""

    def create(self, name, columns, select, type="text", protect="", rows=20000):
        tenant = {
            "text": f"'t' || n % {TENANTS}",
            "varchar": f"'t' || n % {TENANTS}",
            "bigint": f"n % {TENANTS} + 1",
            "integer": f"n % {TENANTS} + 1",
            "uuid": f"('00000000-0000-4000-8000-00000000000' || n % {TENANTS})::uuid",
        }[type]
        self.run(
            f"CREATE TABLE {name} (tenant_id {type}, id bigint, {columns}, body text)",
            f"INSERT INTO {name} SELECT {tenant}, n, {select}, repeat('x', 60) FROM generate_series(1, {rows}) AS n",
            f"SELECT tenancy.protect('{name}'{protect})",
            role=OWNER,
        )
        self.run(f"VACUUM ANALYZE {name}")

    def advice(self, where="true", role="postgres"):
        return self.run(f"SELECT relation::text, advice, priority, reason, statement, evidence FROM tenancy.index_advice(unused_for => '0') WHERE {where}", role=role)

    def names(self, where="true"):
        return sorted((relation, advice) for relation, advice, *_ in self.advice(where))

    def follow(self, where="true"):
        """Types the lines, each by itself, as psql does."""
        lines = [line for *_, statement, _ in self.advice(where) for line in statement.split("\n")]
        for line in lines:
            self.run(line)
        return lines

    def scan(self, *queries):
        """Runs queries over all tenants, as their jobs do, by index."""
        with self.connect("postgres") as dba:
            dba.execute("SET enable_seqscan = off")
            for query in queries * 12:
                dba.execute(query)
            dba.execute("SELECT pg_stat_force_next_flush()")

    def as_tenant(self, query, tenant="t3", times=1, **settings):
        """Runs a query as a tenant, each time in a transaction of its own; returns the rows of the last time."""
        with self.connect(APP) as app:
            for name, setting in settings.items():
                app.execute(f"SET {name} = {setting}")
            for _ in range(times):
                with app.transaction():
                    app.execute("SELECT set_config('tenancy.tenant_id', %s, true)", [tenant])
                    rows = app.execute(query).fetchall()
            app.execute("SELECT pg_stat_force_next_flush()")
        return rows

    def plan(self, query, tenant="t3", **settings):
        return "\n".join(line for (line,) in self.as_tenant(f"EXPLAIN (COSTS OFF) {query}", tenant, **settings))


@pytest.fixture(scope="module")
def shop(server):
    shop = Shop(server, "it_index_advice")
    shop.run(
        "CREATE EXTENSION pg_stat_statements",
        "SELECT tenancy.create_tenant(id) FROM (SELECT 't' || n AS id FROM generate_series(0, 9) AS n"
        " UNION SELECT n::text FROM generate_series(1, 10) AS n"
        " UNION SELECT '00000000-0000-4000-8000-00000000000' || n FROM generate_series(0, 9) AS n) t",
    )
    return shop


def has(shop, extension):
    return bool(shop.run(f"SELECT 1 FROM pg_available_extensions WHERE name = '{extension}'"))


# Statements ------------------------------------------------------------------------------------------------------


@pytest.fixture
def orders(shop):
    """A table that is read much, and others by the side of it; nothing is recorded yet."""
    shop.run("DROP SCHEMA IF EXISTS other CASCADE", "DROP TABLE IF EXISTS orders, lines, \"Weird ;Orders\"")
    placed = "'2026-01-01'::timestamptz + n * 7919 % 20000 * interval '1 minute'"
    shop.create("orders", "at timestamptz, state integer, word text", f"{placed}, n % 50, 'w' || n")
    shop.create("lines", "at timestamptz, order_id bigint", f"{placed}, n")
    shop.create('"Weird ;Orders"', '"Placed At" timestamptz', placed)
    shop.run("SELECT pg_stat_statements_reset()")
    return shop


SORTED = "SELECT id FROM orders ORDER BY at DESC LIMIT 20"


def test_statement_that_orders(orders):
    assert orders.names("advice = 'sort_index_missing'") == []
    assert "tenancy_orders_tenant_id_at" not in orders.plan(SORTED)
    orders.as_tenant(SORTED, times=12)
    orders.as_tenant('SELECT id FROM public."Weird ;Orders" AS o ORDER BY o."Placed At" ASC NULLS FIRST, id LIMIT 5 OFFSET 3', times=12)
    found = {relation: row for relation, *row in orders.advice("advice = 'sort_index_missing'")}
    assert {relation: row[1] for relation, row in found.items()} == {"orders": "medium", '"Weird ;Orders"': "medium"}
    reason, statement, evidence = found["orders"][2:]
    assert statement == "CREATE INDEX CONCURRENTLY tenancy_orders_tenant_id_at ON public.orders USING btree (tenant_id, at);"
    assert "one statement orders by column at, and read" in reason and "in each of 12 calls" in reason
    (seen,) = evidence["statements"]
    assert seen["calls"] == 12 and seen["rows"] == 20 and seen["blocks"] >= 100 and seen["mean_ms"] > 0
    assert "ORDER BY at DESC" in seen["query"]
    lines = orders.follow("advice = 'sort_index_missing'")
    assert any(line.endswith('USING btree (tenant_id, "Placed At" NULLS FIRST);') for line in lines), lines
    assert orders.names("advice = 'sort_index_missing'") == []
    plan = orders.plan(SORTED)
    assert "tenancy_orders_tenant_id_at" in plan and "Index Cond: (tenant_id = tenancy.current_tenant())" in plan, plan
    assert "Sort" not in plan
    # What the new index does: it reads a tenth of the blocks.
    orders.run("SELECT pg_stat_statements_reset()")
    orders.as_tenant(SORTED, times=12)
    (after,) = orders.run("SELECT (shared_blks_hit + shared_blks_read) / calls FROM pg_stat_statements WHERE query LIKE '%FROM orders ORDER BY%'")
    assert after[0] * 5 < seen["blocks"]


@pytest.mark.parametrize(
    "query, times",
    [
        pytest.param(SORTED, 9, id="seldom"),
        pytest.param("SELECT id FROM orders ORDER BY at DESC", 12, id="no LIMIT"),
        pytest.param("SELECT id FROM orders ORDER BY at DESC LIMIT 1000", 12, id="many rows"),
        pytest.param("SELECT o.id FROM orders o JOIN lines l ON l.order_id = o.id ORDER BY o.at LIMIT 20", 12, id="two tables"),
        pytest.param("SELECT o.id FROM orders o, lines l WHERE l.order_id = o.id ORDER BY o.at LIMIT 20", 12, id="two tables, comma"),
        pytest.param("SELECT upper(word) AS at FROM orders ORDER BY at LIMIT 20", 12, id="name of a result"),
        pytest.param("SELECT id FROM orders ORDER BY lower(word) LIMIT 20", 12, id="expression"),
        pytest.param("SELECT id FROM orders ORDER BY 1 LIMIT 20", 12, id="position"),
        pytest.param("SELECT id FROM orders /* ORDER BY at LIMIT 20 */ LIMIT 20", 12, id="comment"),
        pytest.param("SELECT id, row_number() OVER (ORDER BY at) FROM orders LIMIT 20", 12, id="window"),
        pytest.param("SELECT id FROM orders WHERE state = 7 ORDER BY at LIMIT 20", 12, id="found by another index"),
        pytest.param("SELECT id FROM orders WHERE id = 7 ORDER BY at LIMIT 20", 12, id="one row"),
        pytest.param("SELECT id FROM other.orders ORDER BY at LIMIT 20", 12, id="another table of that name"),
        pytest.param("SELECT id FROM orders ORDER BY tenant_id LIMIT 20", 12, id="tenant column"),
    ],
)
def test_statement_that_gives_no_advice(orders, query, times):
    orders.run("CREATE INDEX ON orders (tenant_id, state)", "CREATE INDEX ON orders (tenant_id, id)")
    orders.run(
        "CREATE SCHEMA other", "CREATE TABLE other.orders AS TABLE orders", "ALTER TABLE other.orders ENABLE ROW LEVEL SECURITY",
        f"GRANT USAGE ON SCHEMA other TO {DATA}", f"GRANT SELECT ON other.orders TO {DATA}", "CREATE POLICY p ON other.orders USING (tenant_id = tenancy.current_tenant())",
    )  # fmt: skip
    if "other." not in query:
        orders.run("DROP TABLE other.orders")
    orders.as_tenant(query, times=times)
    assert orders.names("advice = 'sort_index_missing'") == []


def test_unqualified_name_of_several_tables(orders):
    orders.run("CREATE SCHEMA other", "CREATE TABLE other.orders (at timestamptz)")
    orders.as_tenant(SORTED, times=12)
    assert orders.names("advice = 'sort_index_missing'") == []
    # One statement is the same as the other to pg_stat_statements, which keeps the first words.
    orders.run("SELECT pg_stat_statements_reset()")
    orders.as_tenant(SORTED.replace("orders", "public.orders"), times=12)
    assert orders.names("advice = 'sort_index_missing'") == [("orders", "sort_index_missing")]


def test_texts_of_statements_are_for_those_who_may_read_them(orders):
    """The owner of the database gets the figures; what others have typed he cannot read in pg_stat_statements either."""
    orders.as_tenant(SORTED, times=12)

    def seen(role, *first):
        with orders.connect(role) as connection:
            for statement in first:
                connection.execute(statement)
            (evidence,) = column(connection, "SELECT evidence FROM tenancy.index_advice() WHERE advice = 'sort_index_missing'")
        return evidence["statements"][0]

    orders.run("CREATE ROLE it_watcher LOGIN", "GRANT pg_monitor TO it_watcher", f"GRANT it_watcher TO {OWNER}")
    try:
        assert "query" in seen("postgres") and "query" in seen("it_watcher")
        assert "query" in seen(OWNER)  # as a member, who inherits
        orders.run(f"REVOKE it_watcher FROM {OWNER}")
        assert "query" not in seen(OWNER) and seen(OWNER)["calls"] == 12
        assert "query" not in seen("postgres", f"SET ROLE {OWNER}")
    finally:
        orders.run("DROP ROLE it_watcher")


def test_names_in_statements_are_no_patterns(orders):
    """What a tenant may type must not make the advice fail: names with what regular expressions are made of, and texts cut in the middle."""
    for text in (
        'SELECT id AS "(" FROM orders ORDER BY "(" LIMIT 20',
        'SELECT id AS "a\\)[*+?{" FROM orders ORDER BY "a\\)[*+?{" LIMIT 20',
        "SELECT id AS \"it's\" FROM orders ORDER BY \"it's\" LIMIT 20",
        f"SELECT id, {', '.join(['word'] * 1600)} FROM orders ORDER BY at LIMIT 20",
        "SELECT 1 FROM orders WHERE word = '\"' ORDER BY at LIMIT 20",
    ):
        orders.as_tenant(text, times=2)
    orders.advice()


def test_not_loaded(orders):
    """The extension is there, and the view is that of another; or there is none."""
    orders.as_tenant(SORTED, times=12)
    orders.run("DROP EXTENSION pg_stat_statements", "CREATE VIEW pg_stat_statements AS SELECT 1 / 0 AS calls")
    try:
        assert orders.names("advice = 'sort_index_missing'") == []
    finally:
        orders.run("DROP VIEW pg_stat_statements", "CREATE EXTENSION pg_stat_statements")


# GIN -------------------------------------------------------------------------------------------------------------

GIN = [
    pytest.param("text", "tsv tsvector", "to_tsvector('simple', 'all w' || n % 3)", "gin (tsv)", "tsv @@ 'w1'", id="tsvector"),
    pytest.param("uuid", "doc jsonb", "jsonb_build_object('k', n % 3)", "gin (doc jsonb_path_ops) WITH (fastupdate=off)", """doc @> '{"k": 1}'""", id="jsonb_path_ops, uuid"),
    pytest.param("bigint", "tags integer[]", "ARRAY[n % 3, n]", "gin (tags)", "tags @> '{1}'", id="array, bigint"),
    pytest.param("varchar", "word text", "'abcdef' || n", "gin (word trgm.gin_trgm_ops)", "word LIKE '%cdef33%'", id="trigram, varchar"),
]  # fmt: skip
TENANT = {"text": "t3", "varchar": "t3", "bigint": "3", "integer": "3", "uuid": "00000000-0000-4000-8000-000000000003"}


@pytest.mark.parametrize("type, columns, select, index, condition", GIN)
def test_gin(shop, type, columns, select, index, condition):
    if not has(shop, "btree_gin") or not has(shop, "pg_trgm"):
        pytest.skip("this PostgreSQL has no btree_gin or pg_trgm")
    shop.run("DROP TABLE IF EXISTS docs", "DROP EXTENSION IF EXISTS btree_gin", "CREATE SCHEMA IF NOT EXISTS trgm",
             "CREATE EXTENSION IF NOT EXISTS pg_trgm SCHEMA trgm", f"GRANT USAGE ON SCHEMA trgm TO {DATA}")  # fmt: skip
    shop.create("docs", columns, select, type)
    shop.run(f"CREATE INDEX docs_it ON docs USING {index}", "VACUUM ANALYZE docs")
    query, tenant = f"SELECT count(*) FROM docs WHERE {condition}", TENANT[type]
    ours = "advice = 'gin_index_without_tenant'"
    # Not scanned, it is not missed.
    assert shop.names(ours) == []
    shop.scan(query)
    ((_, _, priority, reason, statement, evidence),) = shop.advice(ours)
    assert priority == "medium" and "GIN index docs_it finds rows of all 10 tenants" in reason
    extension, create = statement.split("\n")
    assert extension == "CREATE EXTENSION IF NOT EXISTS btree_gin;"
    words = index.removeprefix("gin (").partition(")")[0]
    assert create.startswith(f"CREATE INDEX CONCURRENTLY tenancy_docs_tenant_id_{columns.split()[0]} ON public.docs USING gin (tenant_id, {words})"), create
    assert ("fastupdate" in index) == ("fastupdate" in create)
    assert evidence["scans"] >= 10
    before = shop.run(f"SELECT count(*) FROM docs WHERE tenant_id::text = '{tenant}' AND {condition}")
    shop.follow(ours)
    assert shop.names(ours) == []
    shop.run("ANALYZE docs")
    # As the tenant, both columns are found in it.
    plan = shop.plan(query, tenant, enable_seqscan="off")
    assert "Bitmap Index Scan on tenancy_docs" in plan, plan
    condition_line = next(line for line in plan.split("\n") if "Index Cond" in line)
    assert "current_tenant" in condition_line and columns.split()[0] in condition_line, plan
    assert shop.as_tenant(query, tenant) == before
    shop.run("DROP TABLE docs")


def test_gin_that_would_not_help(shop):
    if not has(shop, "btree_gin"):
        pytest.skip("this PostgreSQL has no btree_gin")
    shop.run("DROP TABLE IF EXISTS number_docs, shared_docs, off_docs")
    # A tenant column of type integer is compared with a bigint, and NULL is not found.
    shop.create("number_docs", "tags integer[]", "ARRAY[n % 3]", "integer")
    shop.create("shared_docs", "tags integer[]", "ARRAY[n % 3]", protect=", 'shared'")
    shop.create("off_docs", "tags integer[]", "ARRAY[n % 3]")
    for table in ("number_docs", "shared_docs", "off_docs"):
        shop.run(f"CREATE INDEX ON {table} USING gin (tags)")
        shop.scan(f"SELECT count(*) FROM {table} WHERE tags @> '{{1}}'")
    assert shop.names("advice ~ 'gin'") == [("off_docs", "gin_index_without_tenant")]
    with shop.connect("postgres") as dba:
        dba.execute("SET tenancy.index_pushdown = off")
        assert column(dba, "SELECT relation::text FROM tenancy.index_advice() WHERE advice ~ 'gin'") == []
        # Where conditions reach indexes of the tenant only, nothing scans the others, and they are missed all the more.
        dba.execute("SELECT pg_stat_reset()")
        dba.execute("SET tenancy.index_pushdown = tenant_indexes")
        assert column(dba, "SELECT reason FROM tenancy.index_advice() WHERE advice ~ 'gin'") == [
            "GIN index off_docs_tags_idx does not have column tenant_id: with tenancy.index_pushdown = tenant_indexes, no condition of a tenant reaches it"
        ]
    shop.run("DROP TABLE number_docs, shared_docs, off_docs")


# Building --------------------------------------------------------------------------------------------------------


def test_while_an_index_is_built(shop):
    """CREATE INDEX CONCURRENTLY waits for a transaction: there is nothing to advise on; interrupted, it leaves what is to be mended."""
    shop.run("DROP TABLE IF EXISTS busy")
    shop.create("busy", "n integer", "n", protect=", create_index => false")
    assert shop.names("relation::text = 'busy'") == [("busy", "index_missing")]
    line = next(line for *_, line, _ in shop.advice("relation::text = 'busy'"))
    holder, builder = shop.connect("postgres", autocommit=False), shop.connect("postgres")
    holder.execute("INSERT INTO busy VALUES ('t1', 1)")
    failed = []

    def build():
        try:
            builder.execute(line)
        except psycopg.errors.QueryCanceled as why:
            failed.append(why)

    thread = threading.Thread(target=build)
    thread.start()
    try:
        eventually(lambda: shop.run("SELECT 1 FROM pg_stat_progress_create_index WHERE relid = 'busy'::regclass AND phase ~ 'waiting'"))
        assert shop.names("relation::text = 'busy'") == []
        builder.cancel()
        thread.join(60)
        assert failed
        # Not before the transaction ends, for it would wait as the other did.
        holder.rollback()
        ((_, advice, _, _, statement, _),) = shop.advice("relation::text = 'busy'")
        assert (advice, statement) == ("index_invalid", "REINDEX INDEX CONCURRENTLY public.tenancy_busy_tenant_id;")
        shop.follow("relation::text = 'busy'")
        assert shop.names("relation::text = 'busy'") == []
    finally:
        holder.rollback()
        thread.join(60)
        holder.close()
        builder.close()
        shop.run("DROP TABLE busy")


# hypopg ----------------------------------------------------------------------------------------------------------


def test_hypopg(shop):
    if not has(shop, "hypopg"):
        pytest.skip("this PostgreSQL has no hypopg")
    shop.run("DROP TABLE IF EXISTS guessed", "CREATE SCHEMA IF NOT EXISTS hypo", "CREATE EXTENSION IF NOT EXISTS hypopg SCHEMA hypo",
             "CREATE OR REPLACE FUNCTION planned(integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''planned as %'', current_user; END'")  # fmt: skip
    shop.create("guessed", "n integer", "n", protect=", create_index => false")
    with shop.connect("postgres") as dba:
        dba.execute("SET tenancy.bypass_guard = refuse")
        query = "SELECT evidence -> 'hypopg' FROM tenancy.index_advice('guessed')"
        guess = value(dba, query)
        assert guess["cost_with_index"] < guess["cost"] and guess["bytes"] > 8192
        assert column(dba, "SELECT indexrelid FROM hypo.hypopg_list_indexes") == []
        # What planning would call is not called.
        dba.execute("CREATE INDEX ON guessed (id) WHERE id < 0")
        assert value(dba, query)
        dba.execute("ALTER TABLE guessed ADD CHECK (planned(1) > 0) NOT VALID")
        assert value(dba, query) is None
    shop.run("DROP TABLE guessed", "DROP FUNCTION planned", "DROP EXTENSION hypopg")


# All of it -------------------------------------------------------------------------------------------------------


def test_it_comes_to_an_end(shop):
    """Whatever is advised on is done, again and again: soon nothing is left, and no index that was advised is dropped again."""
    shop.run("DROP TABLE IF EXISTS orders, lines, tree, \"Weird ;Orders\" CASCADE", "DROP SCHEMA IF EXISTS other CASCADE")
    for n, create_index in enumerate(("true", "false")):
        shop.create(f"parent_{n}", "n integer", "n", protect=f", create_index => {create_index}")
        shop.run(f"ALTER TABLE parent_{n} ADD UNIQUE (tenant_id, id), ADD PRIMARY KEY (id)", role=OWNER)
        shop.create(f"child_{n}", "parent bigint, at timestamptz, tags integer[]", "n, now() - n * interval '1 s', ARRAY[n % 3]", protect=f", create_index => {create_index}")
        shop.run(
            f"ALTER TABLE child_{n} ADD FOREIGN KEY (tenant_id, parent) REFERENCES parent_{n} (tenant_id, id)",
            f"CREATE INDEX ON child_{n} (at)",
            f"CREATE INDEX ON child_{n} USING gin (tags)",
        )
        shop.scan(f"SELECT count(body) FROM child_{n} WHERE at > now() - interval '10000 s'", f"SELECT count(*) FROM child_{n} WHERE tags @> '{{1}}'")
    shop.run(
        "CREATE TABLE tree (tenant_id text, id bigint, at timestamptz, body text) PARTITION BY RANGE (id)",
        "CREATE TABLE tree_1 PARTITION OF tree FOR VALUES FROM (0) TO (10000)",
        "CREATE TABLE tree_2 PARTITION OF tree FOR VALUES FROM (10000) TO (30000) PARTITION BY HASH (id)",
        "CREATE TABLE tree_3 PARTITION OF tree_2 FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        f"INSERT INTO tree SELECT 't' || n % {TENANTS}, n, now() - n * interval '1 s', repeat('x', 60) FROM generate_series(1, 20000) AS n",
        "CREATE INDEX ON tree (at)",
        "SELECT tenancy.protect('tree', create_index => false)",
        role=OWNER,
    )
    shop.run("VACUUM ANALYZE")
    shop.scan("SELECT count(body) FROM tree WHERE at > now() - interval '10000 s'")
    made, rounds = set(), []
    while advice := shop.advice():
        rounds.append([row[1] for row in advice])
        assert len(rounds) <= 3, rounds
        for *_, statement, _ in advice:
            for line in statement.split("\n"):
                words = line.replace("CONCURRENTLY ", "").replace("ONLY ", "").rstrip(";").split()
                if words[:2] == ["CREATE", "INDEX"]:
                    made.add(words[2])
                if words[:2] == ["DROP", "INDEX"]:
                    assert words[2].rpartition(".")[2] not in made, line
                shop.run(line)
    print(f"\n{rounds}")
    assert {"foreign_key_index_missing", "sort_index_missing"} <= set(rounds[0])
    assert shop.run("SELECT count(*) FROM pg_index WHERE NOT indisvalid") == [(0,)]
    assert shop.run("SELECT object, problem FROM tenancy.lint() WHERE rule = 'index_missing'") == []
