"""What pgrls knows of tenants, ours knows too: a database with every such shape that both can see, looked at by either.

test_pgrls.py is the other half: what pgrls says of a database that is as it should be.
"""

import os
import re

import pytest
import support
from pgrls.rules import all_rules
from support import APP, DATA, GUEST, OWNER
from test_pgrls import reported

ROOT = os.path.join(os.path.dirname(__file__), "..", "..")
LINT_MD = os.path.join(ROOT, "docs", "lint.md")
MADE = ("lint_bypass", "lint_heir")

# (pgrls's rule, ours, the object that ours names, what makes the shape); t0, t1, ... are protected tables.
SHAPES = [
    ("SEC001", "table_unprotected", "public.open", f"CREATE TABLE open (tenant_id text); GRANT SELECT ON open TO {APP}"),
    ("SEC009", "table_unprotected", "public.closed",
     f"CREATE TABLE closed (tenant_id text); ALTER TABLE closed ENABLE ROW LEVEL SECURITY; GRANT SELECT ON closed TO {APP}"),
    ("SEC049", "table_unprotected", "public.posted",
     "CREATE TABLE posted (tenant_id text); ALTER TABLE posted ENABLE ROW LEVEL SECURITY;"
     " CREATE POLICY wide ON posted USING (true); GRANT SELECT ON posted TO PUBLIC"),
    ("SEC025", "table_uncategorised", "public.members",
     f"CREATE TABLE members (code text); GRANT SELECT, INSERT ON members TO {DATA};"
     " CREATE POLICY members ON t12 AS RESTRICTIVE USING (code IN (SELECT code FROM members))"),
    ("SEC002", "row_security_not_forced", "public.t0", "ALTER TABLE t0 NO FORCE ROW LEVEL SECURITY"),
    ("SEC032", "row_security_disabled", "public.t1", "ALTER TABLE t1 DISABLE ROW LEVEL SECURITY"),
    ("SEC008", "policy_open", "public.t2", "CREATE POLICY wide ON t2 USING (true)"),
    ("SEC005", "policy_open", "public.t23", "CREATE POLICY wide ON t23 USING (1 = 1)"),
    ("SEC011", "policy_open", "public.t3", "CREATE POLICY wide ON t3 USING (id > 0 OR true)"),
    ("SEC028", "policy_open", "public.t13", "CREATE POLICY written ON t13 FOR INSERT WITH CHECK (true)"),
    ("HYG003", "policy_idle", "public.t14", "CREATE POLICY once ON t14 USING (id > 0); CREATE POLICY twice ON t14 USING (id > 0)"),
    ("SEC010", "policy_idle", "public.t24", "CREATE POLICY none ON t24 USING (false)"),
    ("SEC031", "policy_idle", "public.t4", "CREATE POLICY idle ON t4 AS RESTRICTIVE USING (true)"),
    ("SEC003", "policy_missing", "public.t5", "DROP POLICY tenancy_isolation ON t5"),
    ("SEC007", "policy_missing", "public.t5", ""),  # by SEC003
    ("SEC012", "policy_missing", "public.t25", "DROP POLICY tenancy_access ON t25"),
    ("SEC006", "policy_altered", "public.t15",
     "DROP POLICY tenancy_isolation ON t15; CREATE POLICY tenancy_isolation ON t15 AS RESTRICTIVE FOR UPDATE"),
    ("SEC020", "policy_altered", "public.t16", "ALTER POLICY tenancy_isolation ON t16 WITH CHECK (true)"),
    ("SEC038", "policy_altered", "public.t17", "ALTER POLICY tenancy_access ON t17 USING (NOT current_setting('a.b', true) IS NOT NULL OR id > 0)"),
    ("SEC039", "policy_altered", "public.t18", f"ALTER POLICY tenancy_access ON t18 TO {GUEST}"),
    ("SEC040", "policy_altered", "public.t19", "ALTER POLICY tenancy_access ON t19 WITH CHECK (code <> '')"),
    ("SEC030", "tenant_column_nullable", "public.t6", "ALTER TABLE t6 ALTER tenant_id DROP NOT NULL"),
    ("PERF003", "index_missing", "public.t6", "DROP INDEX tenancy_t6_tenant"),
    ("SEC035", "unique_across_tenants", "public.t7", "ALTER TABLE t7 ADD UNIQUE (code)"),
    ("SEC041", "partition_unprotected", "public.parts", f"CREATE TABLE part PARTITION OF parts DEFAULT; GRANT SELECT ON part TO {DATA}"),
    ("SEC043", "partition_unprotected", "public.t8", f"CREATE TABLE heir () INHERITS (t8); GRANT SELECT ON heir TO {DATA}"),
    ("SEC044", "default_privileges", f"{OWNER} in public", f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} IN SCHEMA public GRANT SELECT ON TABLES TO PUBLIC"),
    ("SEC046", "immutable_context", "public.t9",
     "CREATE FUNCTION ctx() RETURNS text IMMUTABLE LANGUAGE sql AS $$SELECT current_setting('a.b', true)$$;"
     " CREATE POLICY folded ON t9 AS RESTRICTIVE USING (tenant_id = ctx())"),
    ("SEC047", "foreign_key_across_tenants", "public.t10", "ALTER TABLE t10 ADD FOREIGN KEY (id) REFERENCES target (id)"),
    ("SEC016", "role_bypasses", "lint_bypass", f"CREATE ROLE lint_bypass LOGIN BYPASSRLS IN ROLE {DATA}"),
    ("SEC029", "role_reaches_bypass", APP, f"GRANT lint_bypass TO {APP}"),
    ("SEC023", "role_bypasses", "lint_bypass", "CREATE POLICY named ON t20 AS RESTRICTIVE TO lint_bypass USING (id > 0)"),
    ("SEC048", "role_reaches_owner", "lint_heir",
     f"ALTER TABLE t21 OWNER TO {OWNER}; ALTER TABLE t21 NO FORCE ROW LEVEL SECURITY; CREATE ROLE lint_heir LOGIN IN ROLE {DATA}, {OWNER}"),
    ("SEC017", "leakproof_function", "public.leaky(text)", "CREATE FUNCTION leaky(text) RETURNS boolean LEAKPROOF LANGUAGE plpgsql AS 'BEGIN RETURN true; END'"),
    ("SEC014", "definer_function", "public.reads()", "CREATE FUNCTION reads() RETURNS bigint SECURITY DEFINER LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM t11); END'"),
    ("SEC042", "definer_function", "public.parsed()", "CREATE FUNCTION parsed() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER BEGIN ATOMIC SELECT code FROM t11; END"),
    ("VIEW004", "definer_function", "public.told()",
     "CREATE FUNCTION told() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS 'SELECT code FROM t11';"
     f" CREATE VIEW told AS SELECT * FROM told(); GRANT SELECT ON told TO {APP}"),
    ("SEC015", "definer_search_path", "public.temp_first()",
     "CREATE FUNCTION temp_first() RETURNS bigint SECURITY DEFINER SET search_path = public LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM t11); END'"),
    ("SEC013", "trigger_writes_elsewhere", "public.t11",
     "CREATE TABLE copies (code text); CREATE FUNCTION copies() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql AS"
     " 'BEGIN INSERT INTO copies VALUES (NEW.code); RETURN NULL; END';"
     " CREATE TRIGGER copies AFTER INSERT ON t11 FOR EACH ROW EXECUTE FUNCTION copies()"),
    ("VIEW001", "view_bypasses", "public.seen", f"CREATE VIEW seen AS SELECT * FROM t11; GRANT SELECT ON seen TO {APP}"),
    ("VIEW003", "materialized_view", "public.kept", f"CREATE MATERIALIZED VIEW kept AS SELECT * FROM t11; GRANT SELECT ON kept TO {APP}"),
    ("SEC054", "materialized_view", "public.shown", "CREATE MATERIALIZED VIEW shown AS SELECT * FROM t11; GRANT SELECT ON shown TO PUBLIC"),
    ("SEC052", "private_shown", "public.people", "CREATE VIEW people AS SELECT * FROM tenancy.users; GRANT SELECT ON people TO PUBLIC"),
    ("SEC053", "foreign_table", "public.afar",
     "CREATE FOREIGN DATA WRAPPER none; CREATE SERVER away FOREIGN DATA WRAPPER none;"
     " CREATE FOREIGN TABLE afar (tenant_id text) SERVER away; GRANT SELECT ON afar TO PUBLIC"),
    ("SEC051", "publication", "supabase_realtime", "ALTER TABLE t22 DISABLE ROW LEVEL SECURITY; CREATE PUBLICATION supabase_realtime FOR TABLE t22"),
]  # fmt: skip


@pytest.fixture(scope="module")
def found(db):
    server = db.server
    server.drop_roles(*MADE)
    db.run(f"GRANT CREATE ON SCHEMA public TO {OWNER}")
    for number in range(26):
        db.run(f"CREATE TABLE t{number} (id bigint, tenant_id text, code text)", f"SELECT tenancy.protect('t{number}')")
    db.run(
        "CREATE TABLE target (id bigint PRIMARY KEY, tenant_id text)", "SELECT tenancy.protect('target')",
        "CREATE TABLE parts (id bigint, tenant_id text) PARTITION BY LIST (id)", "SELECT tenancy.protect('parts')",
        f"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {DATA}",
    )  # fmt: skip
    before = set(db.run("SELECT rule, object FROM tenancy.lint()"))
    try:
        with db.connect("postgres") as connection:
            connection.execute("SET tenancy.restoring = on")
            for *_, statements in SHAPES:
                connection.execute(statements)
        theirs = reported(db)
        ours = set(db.run("SELECT rule, object FROM tenancy.lint('info')"))
    finally:
        db.run(
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} IN SCHEMA public REVOKE SELECT ON TABLES FROM PUBLIC",
            "DROP POLICY IF EXISTS named ON t20",
        )
        server.drop_roles(*MADE)
    return before, theirs, ours


def test_empty_database_is_clean(server):
    database = support.Database(server, "it_lint_empty")
    try:
        assert database.run("SELECT * FROM tenancy.lint('info')") == []
    finally:
        database.drop()


def test_there_was_nothing_before(found):
    assert found[0] == set()


@pytest.mark.parametrize("theirs, ours, at, made", SHAPES, ids=[f"{shape[0]}-{shape[1]}" for shape in SHAPES])
def test_found_by_both(found, theirs, ours, at, made):
    # A place is schema.relation[.policy], or a role; it is one that the shape names.
    places = [re.split(r"[. ]", place + ".")[1] or place for rule, place in found[1] if rule == theirs]
    assert any(re.search(rf"\b{place}\b", f"{at} {made}") for place in places), "pgrls does not report the shape that is to be compared"
    assert (ours, at) in found[2]


def tables_of_pgrls():
    """The two tables of docs/lint.md: by what of ours a rule of pgrls is matched, and why it is not; rows of its rules and the other cell."""
    with open(LINT_MD) as page:
        section = page.read().split("## Other linters")[1]
    tables = {}
    for line in section.splitlines():
        if line.startswith("| "):
            theirs, cell = (part.strip() for part in line.split("|")[1:3])
            if theirs == "pgrls":
                rows = tables[cell] = []
            else:
                rows.append((theirs.split(", "), cell))
    return tables["here"], tables["why"]


def documented_rules():
    with open(LINT_MD) as page:
        cells = [line.split("|")[1] for line in page.read().split("## Other linters")[0].splitlines() if line.startswith("| ")]
    return {rule.strip() for cell in cells for rule in cell.split(",")} - {"rule"}


def test_the_table_is_of_these_shapes():
    table, _ = tables_of_pgrls()
    assert {rule for rules, _ in table for rule in rules} == {shape[0] for shape in SHAPES}
    assert [shape[:2] for shape in SHAPES if not any(shape[0] in rules and shape[1] in ours for rules, ours in table)] == []


def test_every_rule_of_pgrls_is_in_one_of_the_tables():
    # By its own list, so that a rule of its next version is looked at.
    matched, left_out = tables_of_pgrls()
    assert sorted(rule for rules, _ in matched + left_out for rule in rules) == sorted(rule.id for rule in all_rules())
    documented = documented_rules()
    assert [rules for rules, ours in matched if not set(re.findall(r"\w+", ours.split(":")[0])) <= documented] == []
    assert [rules for rules, why in left_out if len(why.split()) < 5] == []


def test_rules_are_documented_and_tested():
    # Every rule of the documentation is in what the tests expect, and every rule that they expect is documented.
    documented = documented_rules()
    seen = ""
    for name in ("lint", "lint_roles", "lint_remedies", "guard_family", "distribute"):
        with open(os.path.join(ROOT, "tests", "pg_regress", "expected", f"{name}.out")) as expected:
            seen += expected.read()
    assert documented
    assert {rule for rule in documented if rule not in seen} == set()
    expected = set(re.findall(r"^ (\w+) +\| (?:error|warning|info) +\|", seen, re.MULTILINE))
    assert len(expected) > 30
    assert expected - documented == set()
