"""Attacks on index pushdown: what else than an operator could tell that there is a row which a policy hides.

Each is first seen to succeed on a policy by hand, where a superuser marks functions as LEAKPROOF and tenancy.index_pushdown is off, which is how else a condition
gets behind a policy; and then to fail with it. There are two worlds with the same rows of the
tenant, and others of another.
"""

import pytest
from pushdown_support import Worlds
from support import APP, MAJOR, OWNER

HIDDEN = 9000
QUERY = "SELECT count(*) FROM docs WHERE "
PARALLEL = {
    "max_parallel_workers_per_gather": "2",
    "parallel_leader_participation": "off",
    "parallel_setup_cost": "0",
    "parallel_tuple_cost": "0",
    "min_parallel_table_scan_size": "0",
    "min_parallel_index_scan_size": "0",
}
# Depths of calls, from which on the stack is too small for what is asked.
DEPTHS = range(60, 700, 10)


def deep(condition):
    return [f"SELECT down({depth}, $${QUERY}{condition}$$)" for depth in DEPTHS]


# Name: the functions that are marked, what a session of the tenant says, indexes, and its parameters.
ATTACKS = {
    # The key of a partial index is computed for rows that are not in it, where a bitmap has forgotten the rows of a page.
    "partial index": (
        ["int4div(int, int)"],
        [QUERY + "100 / qty > 10 AND qty <> 0"],
        ["((100 / qty)) WHERE qty <> 0"],
        {},
    ),
    # An index has the first column of a row only, and the others are looked at with its pages.
    "row comparison": (
        ["int4div(int, int)", "numeric_gt", "numeric_lt", "range_overlaps"],
        [QUERY + "((price, 100 / qty) > (10, 3) AND price < 80) OR span && int4range(1, 2)"],
        ["(price)", "USING gist (span)"],
        {},
    ),
    # What a second index is asked for is computed where the first has found something.
    "initplan": (["numeric_eq"], [QUERY + "price = 7 AND qty = (SELECT shout('once', 5))"], ["(price)", "(qty)"], {}),
    "parameter": (
        ["numeric_eq"],
        [
            f"PREPARE asked(int) AS {QUERY} price = 7 AND qty = 10 / $1",
            "EXECUTE asked(2)",
            "EXECUTE asked(0)",
        ],
        ["(price)", "(qty)"],
        {"plan_cache_mode": "force_generic_plan"},
    ),
    "nested loop": (
        ["numeric_eq", "int4div(int, int)"],
        ["SELECT count(*) FROM (VALUES (700, 1), (7, 0)) AS o (a, b) JOIN docs ON price = o.a AND qty = 10 / o.b"],
        ["(price)", "(qty)"],
        {"enable_hashjoin": "off", "enable_mergejoin": "off", "enable_material": "off"},
    ),
    # A function of the tenant's own, beside a condition that leads to rows of others.
    "own function": (["numeric_eq"], [QUERY + "price = 7 AND qty = shout('once', 5)"], ["(price)", "(qty)"], {}),
    "own function in an alternative": (
        ["numeric_lt"],
        [
            QUERY + "price < 80 OR qty = shout('each', 50)",
            QUERY + "price < 80 OR qty = shout('each', 50) OR qty = shout('each', 60)",
        ],
        ["(price)", "(qty)"],
        {},
    ),
    "own function that is cheap": (["numeric_eq"], [QUERY + "price = 7 AND qty = cheap('each', 5)"], ["(price)"], {}),
    "initplan of a filter": (["numeric_eq"], [QUERY + "price = 7 AND qty = (SELECT shout('once', 5))"], ["(price)"], {}),
    # A condition that PostgreSQL makes of what columns are equal to, where a path asks for it.
    "equality of a join": (
        ["numeric_lt"],
        [
            """SELECT count(*) FROM (VALUES (50, NULL::int), (60, NULL)) AS o (x, b)
               JOIN docs ON price < o.x AND qty = CASE WHEN o.b IS NULL THEN cheap('each', 5) ELSE o.b END"""
        ],
        ["(price)"],
        {"enable_hashjoin": "off", "enable_mergejoin": "off", "enable_material": "off"},
    ),
    # Functions of PostgreSQL's own that report, read tables, or call casts.
    "notices of a query": (
        ["numeric_lt", "ts_match_vq"],
        [QUERY + "tsv @@ to_tsquery('the') OR price < 80"],
        ["(price)", "USING gin (tsv)"],
        {"default_text_search_config": "english"},
    ),
    "cast": (
        ["numeric_lt", "jsonb_eq"],
        [QUERY + "doc = to_jsonb('told'::told) OR price < 80"],
        ["(price)", "(doc)"],
        {},
    ),
    "view": (
        ["numeric_lt"],
        [QUERY + "body = table_to_xml('teller', true, true, '')::text OR price < 80"],
        ["(price)", "(body)"],
        {},
    ),
    # What is said of a value, at the levels that a session chooses.
    "notices of a word": (
        ["numeric_lt", "ts_match_vq", "to_tsvector(regconfig, text)"],
        [QUERY + "to_tsvector('simple', body) @@ 'mine' OR price < 80"],
        ["(price)", "USING gin (to_tsvector('simple', body))"],
        {},
    ),
    "notices of a word in a worker": (
        ["numeric_lt", "ts_match_vq", "to_tsvector(regconfig, text)"],
        [QUERY + "to_tsvector('simple', body) @@ 'mine' OR price < 80"],
        ["(price)", "USING gin (to_tsvector('simple', body))"],
        PARALLEL,
    ),
    "debugging": (["ts_match_vq"], [QUERY + "tsv @@ 'common & last'"], ["USING gin (tsv)"], {"client_min_messages": "debug2"}),
    "collation": (["textlike"], [QUERY + "other LIKE '%needle%'"], ["USING gin (other gin_trgm_ops)"], {}),
    # A limit on what an index returns takes rows of the tenant, too.
    "limit": (["ts_match_vq"], [QUERY + "tsv @@ 'common | mine'"] * 8, ["USING gin (tsv)"], {"gin_fuzzy_search_limit": "5"}),
    "limit in a worker": (
        ["ts_match_vq"],
        [QUERY + "tsv @@ 'common | mine'"] * 8,
        ["USING gin (tsv)"],
        PARALLEL | {"gin_fuzzy_search_limit": "5"},
    ),
    # The plan is being made while another one fails, in a function that PostgreSQL calls for an estimate.
    "limit after an error": (
        ["ts_match_vq"],
        [f"SELECT ({QUERY} tsv @@ 'common | mine'), (SELECT count(*) FROM pg_class WHERE oid = stumble())"] * 8,
        ["USING gin (tsv)"],
        {"gin_fuzzy_search_limit": "5"},
    ),
    # Errors of a constant, where there is something to compare it with.
    "pattern": (["textlike"], [QUERY + "body LIKE 'secr_t\\'"], ["(body text_pattern_ops)", "USING gin (body gin_trgm_ops)"], {}),
    "array": (
        ["numeric_eq", "lt_q_regex"],
        [QUERY + "price = 7 AND path ? '{{a},{b}}'::lquery[]"],
        ["USING gist (price, path)"],
        {},
    ),
    # The stack is too small for a value, or for a pattern.
    "stack of a pattern": (["textlike"], deep(f"body LIKE '{'%a' * 450}'"), ["USING gin (body gin_trgm_ops)"], {}),
    "stack of a value": (["jsonb_path_exists_opr"], deep("""deep @? '$.deep.** ? (@.type() == "number")'"""), ["USING gin (deep)"], {}),
    "stack of a key": (
        ["numeric_lt", "json_object_field_text"],
        deep("js ->> 'k' = '5' OR price < 80"),
        ["((js ->> 'k'))", "(price)"],
        {},
    ),
    # What others come before the policy that asks for the tenant, or in an index.
    "policy": (["numeric_eq"], [QUERY + "price = 7"], ["(price)"], {"app.policy": "on"}),
    "operator class": (["numeric_eq"], [QUERY + "price = 7"], ["(price noisy_ops)"], {}),
    # An estimate calls the operator on the most common values; those are lent to trusted conditions only.
    "estimate": (
        ["numeric_eq", "shadow.same(numeric, numeric)"],
        [
            "EXPLAIN (COSTS OFF) SELECT FROM docs WHERE worth = 7 AND worth OPERATOR(shadow.==) 8",
            "EXPLAIN (COSTS OFF) SELECT FROM docs WHERE worth = 7 OR worth OPERATOR(shadow.==) 8",
            "EXPLAIN (COSTS OFF) SELECT worth FROM docs WHERE worth = 7 GROUP BY worth HAVING worth OPERATOR(shadow.==) 8 OR count(*) > 1",
        ],
        ["(worth)"],
        {},
    ),
    # It calls the negator or the commutator of an operator, which whoever makes the operator chooses.
    "estimate by a negator": (
        ["numeric_ne", "shadow.same(numeric, numeric)"],
        ["EXPLAIN (COSTS OFF) SELECT FROM docs WHERE worth OPERATOR(shadow.<<>>) 8::numeric"],
        ["(worth)"],
        {},
    ),
    "estimate by a commutator": (
        ["numeric_gt", "shadow.same(numeric, numeric)"],
        ["EXPLAIN (COSTS OFF) SELECT FROM docs WHERE 8::numeric OPERATOR(shadow.>>>) worth"],
        ["(worth)"],
        {},
    ),
    "shadows": (
        ["numeric_lt", "shadow.lower(text)", "shadow.same(numeric, numeric)"],
        [QUERY + "price OPERATOR(shadow.=) 7", QUERY + "price = 7", QUERY + "lower(body) = 'mine 1' OR price < 80"],
        ["(price)", "(shadow.lower(body))"],
        {"search_path": "shadow, public, pg_catalog"},
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def worlds(server):
    worlds = Worlds(server, "it_pushdown_attacks")
    try:
        worlds.run(
            *(f"CREATE EXTENSION {name}" for name in ("pg_trgm", "ltree", "btree_gist")),
            f"CREATE SCHEMA shadow AUTHORIZATION {APP}",
            # Where PostgreSQL is built without ICU, the attack by its version cannot be made.
            """DO $$ BEGIN CREATE COLLATION aged (provider = icu, locale = 'en'); EXCEPTION WHEN feature_not_supported THEN CREATE COLLATION aged FROM "C"; END $$""",
        )
        worlds.create(
            "docs",
            """id int, price numeric, qty int, body text, other text COLLATE aged, tsv tsvector, doc jsonb, deep jsonb, js json, path ltree,
               span int4range, round circle, worth numeric""",
            """SELECT n, 1000.0 + n, 1 + n % 5, 'mine ' || n, 'mine ' || n, to_tsvector('simple', 'mine m' || n), jsonb_build_object('m', n), '{}'::jsonb,
                      '{"m": 1}'::json, 'm.b'::ltree, int4range(1000 + n, 1001 + n), circle '<(0,0),1>', 1 FROM generate_series(1, 60) AS n""",
            f"""SELECT n, n % 100, n % 10, CASE WHEN n % 50 = 1 THEN repeat('q', 2500) WHEN n = 3000 THEN repeat('a', 600) WHEN n = 3002 THEN 'secrets' ELSE 'hidden ' || n END,
                      'needle ' || n, to_tsvector('simple', 'common' || CASE n WHEN {HIDDEN} THEN ' last' ELSE '' END), jsonb_build_object('k', n),
                      CASE n WHEN 3000 THEN ('{{"deep": ' || repeat('[', 6000) || repeat(']', 6000) || '}}')::jsonb ELSE '{{}}' END,
                      CASE n % 500 WHEN 0 THEN (repeat('[', 6000) || repeat(']', 6000))::json ELSE '{{"k": 5}}' END,
                      'a.b'::ltree, int4range(n, n + 1), circle '<(1e293,1),1>', n % 100 FROM generate_series(1, {HIDDEN}) AS n""",
            f"""SELECT n, 200 + n % 100, 1 + n % 9, 'hidden ' || n, 'others ' || n, to_tsvector('simple', 'usual'), jsonb_build_object('k', n), '{{}}'::jsonb,
                      '{{"k": 5}}'::json, 'x.b'::ltree, int4range(2000 + n, 2001 + n), circle '<(0,0),1>', 200 + n % 100 FROM generate_series(1, {HIDDEN}) AS n""",
            # With statistics, a function that is marked is called for estimates.
            indexes=["ALTER TABLE docs ALTER other SET STATISTICS 0, ALTER path SET STATISTICS 0"],
        )
        worlds.run(
            """CREATE FUNCTION down(depth int, query text) RETURNS text LANGUAGE plpgsql AS $$
               DECLARE answer text;
               BEGIN
                   IF depth > 0 THEN RETURN down(depth - 1, query); END IF;
                   EXECUTE query INTO answer;
                   RETURN answer;
               EXCEPTION WHEN OTHERS THEN RETURN SQLERRM;
               END $$""",
            "CREATE FUNCTION shout(what text, anyelement) RETURNS anyelement LANGUAGE plpgsql STABLE AS $$BEGIN RAISE NOTICE '%', what; RETURN $2; END$$",
            "CREATE FUNCTION cheap(text, int) RETURNS int LANGUAGE plpgsql STABLE COST 0.0001 AS $$BEGIN RETURN shout($1, $2); END$$",
            "CREATE FUNCTION stumble() RETURNS oid LANGUAGE plpgsql STABLE AS $$BEGIN EXECUTE 'SELECT 1 / 0'; EXCEPTION WHEN division_by_zero THEN RETURN 1; END$$",
            "CREATE TYPE told AS ENUM ('told')",
            "CREATE FUNCTION told_json(told) RETURNS json LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE NOTICE 'cast'; RETURN '1'; END$$",
            "CREATE CAST (told AS json) WITH FUNCTION told_json(told)",
            "CREATE FUNCTION tell() RETURNS int LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE 'read'; RETURN 1; END$$",
            "CREATE VIEW teller AS SELECT tell()",
            "CREATE FUNCTION shadow.lower(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE NOTICE 'lower'; RETURN pg_catalog.lower($1); END$$",
            "CREATE FUNCTION shadow.same(numeric, numeric) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE NOTICE 'same %', $1; RETURN $1 OPERATOR(pg_catalog.=) $2; END$$",
            "CREATE OPERATOR shadow.= (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = shadow.same)",
            "CREATE OPERATOR shadow.=== (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = shadow.same)",
            "CREATE OPERATOR shadow.<<>> (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = numeric_ne, NEGATOR = OPERATOR(shadow.===), RESTRICT = neqsel)",
            "CREATE OPERATOR shadow.<<< (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = shadow.same)",
            "CREATE OPERATOR shadow.>>> (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = numeric_gt, COMMUTATOR = OPERATOR(shadow.<<<), RESTRICT = scalargtsel)",
            "CREATE OPERATOR shadow.== (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = shadow.same, RESTRICT = eqsel)",
            role=APP,
        )
        worlds.run(
            "CREATE FUNCTION noisy_cmp(numeric, numeric) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RAISE NOTICE 'cmp % %', $1, $2; RETURN numeric_cmp($1, $2); END$$",
            """CREATE OPERATOR CLASS noisy_ops FOR TYPE numeric USING btree AS OPERATOR 1 <, OPERATOR 2 <=, OPERATOR 3 =, OPERATOR 4 >=, OPERATOR 5 >,
               FUNCTION 1 noisy_cmp(numeric, numeric)""",
            "UPDATE pg_collation SET collversion = '0' WHERE collname = 'aged'",
        )
        yield worlds
    finally:
        worlds.drop()


@pytest.fixture
def indexed(worlds, request):
    """With the indexes of an attack, and nothing else of it."""
    _, _, indexes, parameters = ATTACKS[request.param]
    names = [f"attacked_{number}" for number, _ in enumerate(indexes)]
    worlds.run(
        "SET client_min_messages = error",
        *(
            f"CREATE INDEX {name} ON docs {index if index.startswith('USING') else 'USING btree ' + index}"
            for name, index in zip(names, indexes, strict=True)
        ),
        "ANALYZE docs",
    )
    if "app.policy" in parameters:
        worlds.run("CREATE POLICY a_first ON docs AS RESTRICTIVE USING (qty >= cheap('policy', 0))", role=OWNER)
    yield request.param
    worlds.run(f"DROP INDEX {', '.join(names)}", "DROP POLICY IF EXISTS a_first ON docs")


@pytest.mark.parametrize("indexed", ATTACKS, indirect=True)
def test_attack(worlds, indexed):
    functions, statements, _, parameters = ATTACKS[indexed]
    if indexed == "collation" and worlds.one.run("SELECT collprovider FROM pg_collation WHERE collname = 'aged'") != [("i",)]:
        pytest.skip("PostgreSQL is built without ICU")
    # By hand: under another name, the policy is none of ours.
    rename = "ALTER POLICY {} ON docs RENAME TO {}"
    worlds.run(
        *(f"ALTER FUNCTION {function} LEAKPROOF" for function in functions),
        "SET tenancy.restoring = on",
        rename.format("tenancy_isolation", "by_hand"),
    )
    worlds.set("index_pushdown", "off")
    try:
        one, other = worlds.hear(*statements, **parameters)
        if "'0A000'" in str(one):
            pytest.skip("PostgreSQL is built without XML")
        assert one != other, "the attack does not work, so its failure shows nothing"
    finally:
        worlds.run(
            *(f"ALTER FUNCTION {function} NOT LEAKPROOF" for function in functions),
            "SET tenancy.restoring = on",
            rename.format("by_hand", "tenancy_isolation"),
        )
        worlds.set("index_pushdown", "on")
    # They are lent to a condition that is pushed, so that the plan may be another in the other world.
    worlds.run(
        """DELETE FROM pg_statistic s USING pg_attribute a
           WHERE s.starelid = 'docs'::regclass AND a.attrelid = s.starelid AND a.attnum = s.staattnum AND a.attname IN ('price', 'tsv')"""
    )
    one, other = worlds.hear(*statements, **parameters)
    assert one == other
