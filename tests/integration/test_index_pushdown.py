"""Index pushdown in what one session of pg_regress cannot show: several sessions, protocols, parallel workers, dumps, a library that comes late."""

import os

import psycopg
import pytest
from support import APP, OWNER, Database, column, own_server, pg_program, refused, set_session, value

ROWS = 4000
CIRCLES = "&&(circle,circle)"
BY_WORD = "SELECT count(*) FROM docs WHERE words @@ %s::tsquery"


def create_docs(database):
    """`docs`: each word in a hundredth of the rows, of acme and globex by turns."""
    database.run(
        """CREATE TABLE docs (id bigint PRIMARY KEY, tenant_id text, words tsvector, price numeric, round circle)""",
        f"""INSERT INTO docs SELECT n, CASE n % 2 WHEN 0 THEN 'acme' ELSE 'globex' END, to_tsvector('simple', 'w' || n / 2 % 100), n / 2 % 100,
            circle(point(n, n), 1) FROM generate_series(1, {ROWS}) AS n""",
        "CREATE INDEX docs_words ON docs USING gin (words)",
        "CREATE INDEX docs_price ON docs (price)",
        "CREATE INDEX docs_round ON docs USING gist (round)",
        "SELECT tenancy.protect('docs')",
        "ANALYZE docs",
        role=OWNER,
    )


@pytest.fixture(scope="module")
def db(db):
    create_docs(db)
    return db


@pytest.fixture
def acme(app):
    set_session(app, "acme")
    return app


def nodes(plan):
    yield plan
    for inner in plan.get("Plans", []):
        yield from nodes(inner)


def plan_of(connection, query, arguments=None):
    return list(nodes(value(connection, f"EXPLAIN (FORMAT json) {query}", arguments)[0]["Plan"]))


def indexes(connection, query, arguments=None):
    return {node["Index Name"] for node in plan_of(connection, query, arguments) if "Index Name" in node}


def test_a_statement_that_the_client_prepares(acme):
    """PostgreSQL makes plans for the values, as long as they are the better ones."""
    acme.execute("SET enable_seqscan = off")
    acme.execute("PREPARE by_word (tsquery) AS SELECT count(*) FROM docs WHERE words @@ $1")
    for n in range(12):
        assert value(acme, f"EXECUTE by_word('w{n}')") == 20
    assert "docs_words" in indexes(acme, "EXECUTE by_word('w5')")
    for n in range(12):
        assert acme.execute(BY_WORD, [f"w{n}"], prepare=True).fetchone() == (20,)
    assert acme.execute("SELECT custom_plans >= 7 FROM pg_prepared_statements WHERE name = 'by_word'").fetchone() == (True,)


def test_parallel_workers(db, acme):
    db.run(
        f"CREATE TABLE prices AS SELECT n AS id, CASE n % 2 WHEN 0 THEN 'acme' ELSE 'globex' END AS tenant_id, (n / 2 % 100)::numeric AS price FROM generate_series(1, {ROWS}) AS n",
        "CREATE INDEX prices_price ON prices (price)",
        "SELECT tenancy.protect('prices', create_index => false)",
        "ANALYZE prices",
        role=OWNER,
    )
    for name, to in {"parallel_setup_cost": 0, "parallel_tuple_cost": 0, "min_parallel_table_scan_size": 0, "min_parallel_index_scan_size": 0,
                     "enable_seqscan": "off", "enable_indexscan": "off"}.items():  # fmt: skip
        acme.execute(f"SET {name} = {to}")
    acme.execute("SET max_parallel_workers_per_gather = 2")
    query = "SELECT count(*) FROM prices WHERE price < 50"
    plan = plan_of(acme, query)
    assert any(node["Node Type"].startswith("Gather") for node in plan), plan
    assert any(node.get("Index Name") == "prices_price" and "Index Cond" in node for node in plan), plan
    assert value(acme, query) == ROWS // 4


@pytest.mark.parametrize(
    ("statement", "is_pushed"),
    [
        ("SELECT (SELECT count(*) FROM docs i WHERE i.words @@ 'w5' AND i.id > d.id) FROM docs d WHERE price = 7", True),
        ("UPDATE docs SET round = round WHERE words @@ 'w5'", True),
        ("UPDATE docs d SET round = round WHERE (SELECT count(*) FROM docs i WHERE i.words @@ 'w5' AND i.id > d.id) > 0", False),
        ("SELECT FROM docs d WHERE (SELECT count(*) FROM docs i WHERE i.words @@ 'w5' AND i.id > d.id) > 0 FOR UPDATE", False),
        ("WITH gone AS (DELETE FROM docs d WHERE EXISTS (SELECT FROM docs i WHERE i.words @@ 'w5' OFFSET d.price) RETURNING 1) TABLE gone", False),
    ],
)
def test_a_query_that_is_run_again(acme, statement, is_pushed):
    """Where a row that is locked has changed, PostgreSQL runs what is in the statement once more, and tells nobody that it begins."""
    acme.execute("SET enable_seqscan = off")
    assert ("docs_words" in indexes(acme, statement)) is is_pushed


def test_similarity_to_a_long_text(db, acme):
    """Of words, it takes room for the trigrams of both sides: an error would tell how many a row has."""
    db.run("CREATE EXTENSION IF NOT EXISTS pg_trgm")
    db.run(
        "CREATE TABLE texts (tenant_id text, body text)",
        "INSERT INTO texts SELECT CASE n % 2 WHEN 0 THEN 'acme' ELSE 'globex' END, 'body ' || n FROM generate_series(1, 1000) AS n",
        "CREATE INDEX texts_body ON texts USING gin (body gin_trgm_ops)",
        "SELECT tenancy.protect('texts', create_index => false)",
        role=OWNER,
    )
    acme.execute("SET enable_seqscan = off")
    for operator, is_limited in (("%", False), ("%>", True), ("%>>", True)):
        for length in (4, 1001):
            pushed = indexes(acme, f"SELECT FROM texts WHERE body {operator} repeat('a', {length})".replace("%", "%%"), []) == {"texts_body"}
            assert pushed is not (is_limited and length > 1000)
    db.run("DROP TABLE texts", role=OWNER)


def test_in_a_scope_of_several_tenants(db, dba, make_role, connect):
    role = make_role("it_pushing_operator")
    dba.execute("SELECT tenancy.grant_cross_tenant(%s, '{acme,globex}', 'infinity')", [role])
    operator = connect(role)
    operator.execute("SET enable_seqscan = off")
    with operator.transaction():
        operator.execute("SELECT tenancy.begin_cross_tenant('{acme,globex}', 'both')")
        # There, conditions wait for the policies.
        assert "docs_words" not in indexes(operator, "SELECT count(*) FROM docs WHERE words @@ 'w5'")
        assert value(operator, "SELECT count(*) FROM docs WHERE words @@ 'w5'") == 40
    dba.execute("SELECT tenancy.revoke_cross_tenant(%s)", [role])


def test_what_is_trusted_no_more_leaves_the_plans_of_other_sessions(db, dba, acme):
    acme.execute("SET enable_seqscan = off")
    acme.execute("SET plan_cache_mode = force_generic_plan")
    acme.execute("PREPARE by_round (circle) AS SELECT count(*) FROM docs WHERE round && $1")
    explain = "EXECUTE by_round('<(100,100),1>')"
    assert "docs_round" not in indexes(acme, explain)
    dba.execute(f"SELECT tenancy.trust_operator('{CIRCLES}')")
    # Plans that are kept stay; it is for the next.
    acme.execute("DEALLOCATE by_round")
    acme.execute("PREPARE by_round (circle) AS SELECT count(*) FROM docs WHERE round && $1")
    assert "docs_round" in indexes(acme, explain)
    dba.execute("BEGIN")
    dba.execute(f"SELECT tenancy.distrust_operator('{CIRCLES}')")
    assert "docs_round" in indexes(acme, explain), "not before the commit"
    dba.execute("COMMIT")
    assert "docs_round" not in indexes(acme, explain)
    dba.execute("BEGIN")
    dba.execute(f"SELECT tenancy.trust_operator('{CIRCLES}')")
    set_session(dba, "acme")
    with refused("TENANT_ACCESS_DENIED"):
        dba.execute(f"SELECT tenancy.distrust_operator('{CIRCLES}')")
    dba.execute("ROLLBACK")
    assert "docs_round" not in indexes(acme, "SELECT count(*) FROM docs WHERE round && '<(100,100),1>'")


def test_trust_that_is_rolled_back_before_anybody_is_told(dba):
    """What was read before the trigger that tells of a change has fired."""
    dba.execute(
        f"""CREATE FUNCTION pg_temp.plan_as_app(fails boolean DEFAULT false) RETURNS text LANGUAGE plpgsql AS $$
        DECLARE plan json;
        BEGIN
            PERFORM set_config('role', '{APP}', true), set_config('tenancy.tenant_id', 'acme', true), set_config('enable_seqscan', 'off', true);
            EXECUTE 'EXPLAIN (FORMAT json) SELECT count(*) FROM docs WHERE round && ''<(100,100),1>''' INTO plan;
            PERFORM set_config('role', 'postgres', true);
            IF fails THEN
                RAISE EXCEPTION '%', plan;
            END IF;
            RETURN plan;
        END $$"""
    )
    insert = "INSERT INTO _tenancy.leakproof_operators (operator, library, symbol) VALUES (%s, '', 'circle_overlap') RETURNING pg_temp.plan_as_app(true)"
    dba.execute("BEGIN")
    dba.execute("SAVEPOINT s")
    with pytest.raises(psycopg.errors.RaiseException, match="docs_round"):
        dba.execute(insert, [CIRCLES])
    dba.execute("ROLLBACK TO s")
    assert "docs_round" not in value(dba, "SELECT pg_temp.plan_as_app()")
    dba.execute("ROLLBACK")


def test_dump_and_restore(db, server, tmp_path):
    db.run(f"SELECT tenancy.trust_operator('{CIRCLES}')")
    restored = Database(server, "it_pushing_restored", extension=False)
    try:
        at = ["--host", server.host, "--port", server.port, "--username", "postgres"]
        pg_program("pg_dump", *at, "--format", "custom", "--file", str(tmp_path / "dump"), db.name)
        pg_program("pg_restore", *at, "--exit-on-error", "--dbname", restored.name, str(tmp_path / "dump"))
        added = "SELECT operator::text FROM tenancy.trusted_operators WHERE kind = 'added'"
        assert restored.run(added) == [(CIRCLES,)]
        with restored.connect(APP) as app:
            set_session(app, "acme")
            app.execute("SET enable_seqscan = off")
            assert "docs_round" in indexes(app, "SELECT count(*) FROM docs WHERE round && '<(100,100),1>'")
    finally:
        restored.drop()
        db.run(f"SELECT tenancy.distrust_operator('{CIRCLES}')")


def test_trust_is_of_the_function_and_not_of_the_name(dba):
    """Who makes an operator of the same name gains nothing, unless its function is the same one in C."""

    def added():
        return column(dba, "SELECT operator::text FROM tenancy.trusted_operators WHERE kind = 'added' ORDER BY 1")

    def make(function):
        dba.execute(f"CREATE FUNCTION same_circle(circle, circle) RETURNS boolean IMMUTABLE STRICT {function}")
        dba.execute("CREATE OPERATOR ~~~= (LEFTARG = circle, RIGHTARG = circle, FUNCTION = same_circle)")

    make("LANGUAGE internal AS 'circle_same'")
    dba.execute("SELECT tenancy.trust_operator('~~~=(circle,circle)')")
    assert added() == ["~=(circle,circle)", "~~~=(circle,circle)"]
    dba.execute("DROP FUNCTION same_circle CASCADE")
    assert added() == ["~=(circle,circle)"]
    for other in ("LANGUAGE plpgsql AS 'BEGIN RAISE NOTICE ''%'', $1; RETURN true; END'", "LANGUAGE internal AS 'circle_left'"):
        make(other)
        assert added() == ["~=(circle,circle)"]
        dba.execute("DROP FUNCTION same_circle CASCADE")
    assert value(dba, "SELECT tenancy.distrust_operator('~=(circle,circle)')")
    assert added() == []


def test_a_library_that_comes_late():
    """It is there from the first use of a function of the extension on, which the policy is."""
    with own_server(f"it-pushing-{os.getpid()}", "--no-preload") as server:
        database = Database(server, "it_pushing_late")
        database.create_shop()
        create_docs(database)
        with database.connect(APP) as app:
            app.execute("SET enable_seqscan = off")
            set_session(app, "acme")
            assert value(app, "SELECT count(*) FROM docs WHERE words @@ 'w5'") == 20
            assert "docs_words" in indexes(app, "SELECT count(*) FROM docs WHERE words @@ 'w5'")
            assert value(app, "SELECT count(*) FROM docs WHERE words @@ 'w5'") == 20
