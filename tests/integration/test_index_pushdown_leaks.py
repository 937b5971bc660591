"""Index pushdown: no operator of the list tells a tenant anything of rows that it must not see.

Each operator that is trusted is asked for with many constants, through every kind of index that has it, in two worlds: one has rows of
another tenant with extreme, empty and odd values, the other has none. Whatever the session receives must be the same in both. Each is
asked twice: alone; and with an alternative that every row fulfils, so that the bitmap forgets its rows, and PostgreSQL looks at all of them.
"""

import pytest
from pushdown_support import Worlds

EXTENSIONS = ["pg_trgm", "citext", "hstore", "ltree", "btree_gin", "btree_gist", "isn"]
ROWS = 2500
LONG = "xy " * 800

# For each column: its type, and values as text. The first three are plain, and those of the visible rows.
COLUMNS = {
    "c_numeric": ("numeric", "5.50 0 -1 NaN Infinity -Infinity 1e-300 -1e300".split()),
    "c_date": ("date", "2026-01-01|1999-12-31|2000-02-29|infinity|-infinity|5874897-12-31|4714-11-24 BC|294277-01-01".split("|")),
    "c_timestamp": (
        "timestamp without time zone",
        "2026-01-01 00:00|1999-12-31 23:59:59.999999|2000-02-29|infinity|-infinity|294276-12-31 23:59:59.999999|4714-11-24 00:00 BC".split("|"),
    ),
    "c_timestamptz": (
        "timestamp with time zone",
        "2026-01-01 00:00+00|1999-12-31 12:00+14|2000-02-29 00:00+00|infinity|-infinity|294276-12-31 23:59:59.999999+00|4714-11-24 00:00+00 BC".split("|"),
    ),
    "c_mood": ("mood", ["sad", "ok", "happy", "added", "first"]),
    "c_inet": ("inet", "10.0.0.1 10.1.0.0/16 ::1 0.0.0.0/0 ::/0 255.255.255.255 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/1".split()),
    "c_box": ("box", ["((0,0),(1,1))", "((2,2),(3,3))", "((-1,-1),(9,9))", "((-1e150,-1e150),(1e150,1e150))", "((1e-30,0),(0,1e-30))"]),
    "c_point": ("point", ["(0,0)", "(1,2)", "(-3,0.5)", "(1e300,-1e300)", "(1e-7,1e-7)", "(-0,0)"]),
    "c_text": ("text", ["body 5", "Mine", "a%b_c\\d", "", LONG, "\u00fcn\u00efc\u00f6d\u00e9 \u00df \u0130", "\U0001f600\u0301", "\x01\n\t", "100\\"]),
    "c_name": ("name", ["body 5", "Mine", "a%b", "", "x" * 63, "\u00fc\u00df"]),
    "c_bytea": ("bytea", ["\\x626f6479", "\\x25", "\\x5c", "\\x", "\\x00ff5c", "\\x" + "00" * 2000]),
    "c_jsonb": (
        "jsonb",
        ['{"k": 5}', '{"a": [1, "x"]}', '["k"]', "{}", "[]", "null", '"k"', "1e1000", '{"k": {"k": [[[[]]]], "b": null}}', "[" * 500 + "]" * 500],
    ),
    "c_tsvector": ("tsvector", ["w5", "'a':1A 'b':2", "body", "", "'w5':" + ",".join(map(str, range(1, 250))), " ".join(f"'w{n}':16383D" for n in range(200))]),
    "c_ints": ("integer[]", ["{1,2}", "{}", "{5}", "{NULL}", "{{1,2},{3,4}}", "[5:7]={1,2,3}", "{2147483647,-2147483648,NULL}", "{" + ",".join(["7"] * 500) + "}"]),
    "c_texts": ("text[]", ["{a,k}", "{}", "{body}", "{NULL,k}", '{""}', "{{a,b},{c,NULL}}"]),
    "c_numerics": ("numeric[]", ["{5.50}", "{}", "{0,1}", "{NaN,Infinity}", "{1e-1000,NULL}"]),
    "c_int4range": ("int4range", ["[1,5)", "empty", "[3,9)", "(,)", "(,0)", "[2147483646,2147483647)", "[-2147483648,)"]),
    "c_numrange": ("numrange", ["[1,5)", "empty", "(3,9]", "(,)", "[NaN,NaN]", "[-Infinity,1e300)"]),
    "c_int4multirange": ("int4multirange", ["{[1,5)}", "{}", "{[1,3),[5,9)}", "{(,)}", "{(,-2147483647),[2147483646,)}"]),
    "c_citext": ("citext", ["Body 5", "mine", "MINE", "", LONG, "\u00dcN\u0130 \u00df"]),
    "c_hstore": ("hstore", ["k=>5", "a=>x, k=>NULL", "body=>1", "", '""=>""', ", ".join(f"k{n}=>{n}" for n in range(100))]),
    "c_ltree": ("ltree", ["a.b.c", "Top.Science", "a.b", "", ".".join(["x"] * 60), "A_b.c_D"]),
    "c_ean13": ("ean13", ["9780306406157", "9780393040029", "9790060115615"]),
    "c_isbn": ("isbn", ["0306406152", "039304002X", "043942089X"]),
}  # fmt: skip

# What a column is compared with, where it is no value of the column's own type.
QUERIES = {
    "tsquery": ["w5", "!w5", "'w5' & 'a':A | b:*", "a <-> b", "'w5' <16384> 'w5'", "!(a <-> !b)", ""],
    "jsonpath": ["$.k == 5", "$.k ? (@ >= 5)", "strict $.a[*]", "$[last]", "$.* ? (exists (@.k))", "$.k / 0 == 1", '$.k == "x" || $[*] starts with "k"', "$.k.double()"],
    "lquery": ["a.*", "*.b{1,2}.*", "Top@.*", "!a.*", "*{3}", "b_%@|x*", "*"],
    "ltxtquery": ["a & b", "!a", "Sci*@ | x", "!(a_b% & c)"],
    "text[]": ["{k,a}", "{}", "{NULL}", "{{k,body}}"],
    "text": ["k", "", "x", "body 5"],
    "LIKE": ["%", "body%", "%5", "b_d%", "%\\%%", "%\u00dc%", "100\\\\", "%b%d%y%", "\\\\%"],
    "regular expressions": ["^body", "5$", "[[:digit:]]+", "(a|b)*c{0,3}", "\u00fc", "^(?:mine|x)", "\\mbody\\M", "[^\\w]"],
    "trigrams": ["body", "mine 5", "", "\u00fcn\u00efc\u00f6d\u00e9"],
    "int4range": ["empty", "(,)", "[1,5)", "(,3)"],
    "numrange": ["empty", "(,)", "[1,5)", "(,3)"],
    "int4multirange": ["{}", "{(,)}", "{[1,5)}", "{[1,3),[5,9)}"],
    "nummultirange": ["{}", "{(,)}", "{[1,5)}", "{[1,3),[5,NaN)}"],
    "integer": ["3", "2147483647", "-2147483648"],
    "numeric": ["3", "5.50", "NaN", "Infinity"],
    "isbn13": ["9780306406157"],
    "ismn": ["9790230671187"],
    "ismn13": ["9790230671187"],
    "issn": ["14364522"],
    "issn13": ["9771436452008"],
    "upc": ["220356483481"],
}  # fmt: skip
# Kinds of operators whose argument is no plain text, and types that stand for several.
PATTERNS = {"LIKE": "LIKE", "regular expressions": "regular expressions", "trigrams": "trigrams"}
MEMBERS = {"anyarray": ["c_ints", "c_texts", "c_numerics"], "anyrange": ["c_int4range", "c_numrange"], "anymultirange": ["c_int4multirange"], "anyenum": ["c_mood"]}  # fmt: skip

# Operators that PostgreSQL turns into those of an index: no operator class has them.
DERIVED = [
    ("c_text", "btree", "text_pattern_ops", "LIKE", "~~"),
    ("c_text", "btree", "text_pattern_ops", "LIKE", "^@"),
    ("c_text", "btree", "text_pattern_ops", "regular expressions", "~"),
    ("c_name", "btree", "name_ops", "LIKE", "~~"),
    ("c_name", "btree", "name_ops", "regular expressions", "~"),
    ("c_bytea", "btree", "bytea_ops", "LIKE", "~~"),
    ("c_inet", "btree", "inet_ops", "network addresses", "<<"),
    ("c_inet", "btree", "inet_ops", "network addresses", "<<="),
]

INDEXED = """
    SELECT DISTINCT o.oprname, t.kind, r.oprname, o.oprright::regtype::text, m.amname, c.opcname, c.opcintype::regtype::text
    FROM tenancy.trusted_operators t
    JOIN pg_operator o ON o.oid = t.operator
    JOIN pg_amop a ON a.amopopr = o.oid AND a.amoppurpose = 's'
    JOIN pg_am m ON m.oid = a.amopmethod
    JOIN pg_opclass c ON c.opcfamily = a.amopfamily AND c.opcmethod = m.oid AND c.opcintype = a.amoplefttype
    LEFT JOIN tenancy.trusted_operators tr ON tr.operator = o.oprcom
    LEFT JOIN pg_operator r ON r.oid = tr.operator
    ORDER BY 5, 6, 1, 4"""


def literal(text):
    return "'" + text.replace("'", "''") + "'"


def picked(name, texts):
    """An expression that goes through the values, by the number of the row."""
    choices = " ".join(f"WHEN {place} THEN {literal(text)}" for place, text in enumerate(texts))
    return f"(CASE n % {len(texts)} {choices} END)::{COLUMNS[name][0]} AS {name}"


@pytest.fixture(scope="module")
def worlds(server):
    worlds = Worlds(server, "it_pushdown_leaks")
    try:
        offered = {name for (name,) in worlds.one.run("SELECT name FROM pg_available_extensions")}
        worlds.run(*(f"CREATE EXTENSION {name}" for name in EXTENSIONS if name in offered))
        worlds.run(
            "CREATE TYPE mood AS ENUM ('sad', 'happy')",
            "ALTER TYPE mood ADD VALUE 'ok' AFTER 'sad'",
            "ALTER TYPE mood ADD VALUE 'added' BEFORE 'happy'",
            "ALTER TYPE mood ADD VALUE 'first' BEFORE 'sad'",
        )
        known = {name: of for name, of in COLUMNS.items() if worlds.one.run(f"SELECT to_regtype('{of[0]}')") != [(None,)]}
        defined = ", ".join(f"{name} {kind}" for name, (kind, _) in known.items())
        plain = ", ".join(picked(name, texts[:3]) for name, (_, texts) in known.items())
        odd = ", ".join(picked(name, texts) for name, (_, texts) in known.items())
        worlds.create(
            "everything",
            f"id int, every numeric, {defined}",
            f"SELECT n, 1.0, {plain} FROM generate_series(1, 40) AS n",
            f"SELECT n, 1.0, {odd} FROM generate_series(1001, {1000 + ROWS}) AS n",
            indexes=["CREATE INDEX every ON everything (every)"],
        )
        worlds.known = known
        worlds.indexed = worlds.one.run(INDEXED)
        yield worlds
    finally:
        worlds.drop()


def constants(kind, own, other):
    """Type and texts of what a column is compared with. `own`: the column's type."""
    subtype = own.removesuffix("multirange").removesuffix("range")
    stands_for = {
        "anyarray": own,
        "anyenum": own,
        "anyrange": f"{subtype}range",
        "anymultirange": f"{subtype}multirange",
        "anyelement": {"int4": "integer", "num": "numeric"}.get(subtype),
    }
    kind_of_text = PATTERNS.get(kind, "text")
    other = stands_for.get(other, other)
    if other == "text":
        return other, QUERIES[kind_of_text]
    of_columns = next((texts for of, texts in COLUMNS.values() if of == other and other == own), None)
    of_columns = of_columns or QUERIES.get(other) or next((texts for of, texts in COLUMNS.values() if of == other), None)
    return other, of_columns or []


def conditions(worlds, name):
    """By index: the conditions of a column, by operator."""
    own = COLUMNS[name][0]
    found = {}
    for operator, kind, reverse, right, method, opclass, of in worlds.indexed:
        if of == own or name in MEMBERS.get(of, []):
            compared, texts = constants(kind, own, right)
            asked = found.setdefault((method, opclass), {}).setdefault((operator, compared), [])
            for text in texts:
                asked.append(f"{name} {operator} {literal(text)}::{compared}")
                if reverse:
                    asked.append(f"{literal(text)}::{compared} {reverse} {name}")
    for of, method, opclass, kind, operator in DERIVED:
        if of == name:
            other = {"LIKE": "bytea" if own == "bytea" else "text", "network addresses": "inet"}.get(kind, "text")
            texts = COLUMNS[name][1] if other in ("bytea", "inet") else QUERIES[kind]
            found.setdefault((method, opclass), {})[operator, other] = [f"{name} {operator} {literal(text)}::{other}" for text in texts]
    return found


@pytest.mark.parametrize("name", COLUMNS)
def test_operators_of_a_type(worlds, name):
    if name not in worlds.known:
        pytest.skip("the server has no such type")
    found = conditions(worlds, name)
    assert found
    problems = []
    for (method, opclass), asked in found.items():
        worlds.run("DROP INDEX IF EXISTS tried", f"CREATE INDEX tried ON everything USING {method} ({name} {opclass})")
        one, other = worlds.pair(TimeZone="America/Los_Angeles", default_text_search_config="simple")
        for operator, each in asked.items():
            reached = set()
            for condition in each:
                for statement in (
                    f"SELECT id, {name}::text FROM everything WHERE {condition} ORDER BY id",
                    f"SELECT count(*) FROM everything WHERE {condition} OR every = 1",
                ):
                    heard = one.hear(statement)
                    if heard != other.hear(statement):
                        problems.append(f"{method} {opclass}: {statement} tells of hidden rows")
                    if "tried" not in reached:
                        reached.update(index for index, _ in one.conditions(statement))
            if each and "tried" not in reached and (method, opclass) != ("spgist", "inet_ops"):
                problems.append(f"{operator} reaches no index {method} {opclass}")
        one.close()
        other.close()
    assert not problems, "\n".join(problems)
