"""What pgrls knows of tenants, ours knows too: a database with every such shape that both can see, looked at by either.

test_pgrls.py is the other half: what pgrls says of a database that is as it should be.
"""

import os

import pytest
import support
from support import APP, DATA, OWNER
from test_pgrls import reported

MADE = ("lint_bypass",)

# (pgrls's rule, ours, the object that ours names, what makes the shape); t0, t1, ... are protected tables.
SHAPES = [
    ("SEC001", "table_unprotected", "public.open", f"CREATE TABLE open (tenant_id text); GRANT SELECT ON open TO {APP}"),
    ("SEC002", "row_security_not_forced", "public.t0", "ALTER TABLE t0 NO FORCE ROW LEVEL SECURITY"),
    ("SEC032", "row_security_disabled", "public.t1", "ALTER TABLE t1 DISABLE ROW LEVEL SECURITY"),
    ("SEC008", "policy_open", "public.t2", "CREATE POLICY wide ON t2 USING (true)"),
    ("SEC011", "policy_open", "public.t3", "CREATE POLICY wide ON t3 USING (id > 0 OR true)"),
    ("SEC031", "policy_idle", "public.t4", "CREATE POLICY idle ON t4 AS RESTRICTIVE USING (true)"),
    ("SEC003", "policy_missing", "public.t5", "DROP POLICY tenancy_isolation ON t5"),
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
    ("SEC017", "leakproof_function", "public.leaky(text)", "CREATE FUNCTION leaky(text) RETURNS boolean LEAKPROOF LANGUAGE plpgsql AS 'BEGIN RETURN true; END'"),
    ("SEC014", "definer_function", "public.reads()", "CREATE FUNCTION reads() RETURNS bigint SECURITY DEFINER LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM t11); END'"),
    ("SEC015", "definer_search_path", "public.temp_first()",
     "CREATE FUNCTION temp_first() RETURNS bigint SECURITY DEFINER SET search_path = public LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM t11); END'"),
    ("SEC013", "trigger_writes_elsewhere", "public.t11",
     "CREATE TABLE copies (code text); CREATE FUNCTION copies() RETURNS trigger SECURITY DEFINER LANGUAGE plpgsql AS"
     " 'BEGIN INSERT INTO copies VALUES (NEW.code); RETURN NULL; END';"
     " CREATE TRIGGER copies AFTER INSERT ON t11 FOR EACH ROW EXECUTE FUNCTION copies()"),
    ("VIEW001", "view_bypasses", "public.seen", f"CREATE VIEW seen AS SELECT * FROM t11; GRANT SELECT ON seen TO {APP}"),
    ("VIEW003", "materialized_view", "public.kept", f"CREATE MATERIALIZED VIEW kept AS SELECT * FROM t11; GRANT SELECT ON kept TO {APP}"),
]  # fmt: skip


@pytest.fixture(scope="module")
def found(db):
    server = db.server
    server.drop_roles(*MADE)
    db.run(f"GRANT CREATE ON SCHEMA public TO {OWNER}")
    for number in range(12):
        db.run(f"CREATE TABLE t{number} (id bigint, tenant_id text, code text)", f"SELECT tenancy.protect('t{number}')")
    db.run(
        "CREATE TABLE target (id bigint PRIMARY KEY, tenant_id text)", "SELECT tenancy.protect('target')",
        "CREATE TABLE parts (id bigint, tenant_id text) PARTITION BY LIST (id)", "SELECT tenancy.protect('parts')",
        f"GRANT SELECT, INSERT ON ALL TABLES IN SCHEMA public TO {DATA}",
    )  # fmt: skip
    before = {rule for rule, _ in reported(db)}, set(db.run("SELECT rule, object FROM tenancy.lint()"))
    try:
        with db.connect("postgres") as connection:
            connection.execute("SET tenancy.restoring = on")
            for *_, statements in SHAPES:
                connection.execute(statements)
        theirs = {rule for rule, _ in reported(db)}
        ours = set(db.run("SELECT rule, object FROM tenancy.lint('info')"))
    finally:
        db.run(f"ALTER DEFAULT PRIVILEGES FOR ROLE {OWNER} IN SCHEMA public REVOKE SELECT ON TABLES FROM PUBLIC")
        server.drop_roles(*MADE)
    return before, theirs, ours


def test_empty_database_is_clean(server):
    database = support.Database(server, "it_lint_empty")
    try:
        assert database.run("SELECT * FROM tenancy.lint('info')") == []
    finally:
        database.drop()


def test_there_was_nothing_before(found):
    assert found[0][1] == set()


@pytest.mark.parametrize("theirs, ours, at, made", SHAPES, ids=[f"{shape[0]}-{shape[1]}" for shape in SHAPES])
def test_found_by_both(found, theirs, ours, at, made):
    assert theirs in found[1], "pgrls does not report the shape that is to be compared"
    assert (ours, at) in found[2]


def test_rules_are_documented_and_tested():
    # Every rule of the documentation is in what the tests expect, and every rule that they expect is documented.
    root = os.path.join(os.path.dirname(__file__), "..", "..")
    with open(os.path.join(root, "docs", "lint.md")) as page:
        cells = [line.split("|")[1] for line in page.read().split("## Other linters")[0].splitlines() if line.startswith("| ")]
    documented = {rule.strip() for cell in cells for rule in cell.split(",")} - {"rule"}
    seen = ""
    for name in ("lint", "lint_roles", "lint_remedies"):
        with open(os.path.join(root, "tests", "pg_regress", "expected", f"{name}.out")) as expected:
            seen += expected.read()
    assert documented
    assert {rule for rule in documented if rule not in seen} == set()
