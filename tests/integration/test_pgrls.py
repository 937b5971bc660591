"""What pgrls, a linter of row-level security that is not ours, says of all that the extension installs and generates.

It knows one policy at a time, and takes a function's name for what it does; so some of what it reports is not true here. EXCUSES says
why, rule by rule, and asks the catalogs whether that still holds for the object that is reported. Everything else fails the test.
"""

import json
import os
import subprocess
import sys

import pytest
from support import APP, GUEST, OWNER, value

TABLES = """
    CREATE TABLE by_text (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id text, code text);
    CREATE TABLE by_uuid (id uuid DEFAULT gen_random_uuid() PRIMARY KEY, tenant_id uuid, code text);
    CREATE TABLE by_bigint (id bigint, tenant_id bigint, code text, PRIMARY KEY (tenant_id, id));
    CREATE TABLE child (id bigint PRIMARY KEY, tenant_id text, parent bigint REFERENCES by_text);
    CREATE TABLE parts (id bigint, org text) PARTITION BY RANGE (id);
    CREATE TABLE part PARTITION OF parts FOR VALUES FROM (1) TO (100);
    CREATE TABLE ancestor (id bigint, tenant_id text);
    CREATE TABLE heir () INHERITS (ancestor);
    CREATE TABLE "Odd Name" (id bigint, tenant_id text);
    CREATE TABLE for_all (id bigint, tenant_id text);
    CREATE TABLE journal (id bigint, tenant_id text);
    CREATE TABLE currency (code text PRIMARY KEY);
    SELECT tenancy.protect(t) FROM unnest('{by_text,by_uuid,by_bigint,child,ancestor}'::regclass[]) t;
    SELECT tenancy.protect('"Odd Name"');
    SELECT tenancy.protect('parts', tenant_column => 'org');
    SELECT tenancy.protect('for_all', 'shared'), tenancy.protect('journal', 'audit'), tenancy.protect('currency', 'system');
    CREATE TABLE later PARTITION OF parts FOR VALUES FROM (100) TO (200);
"""

# What a reported function, policy or trigger is in the catalogs; pgrls leaves a function's arguments out.
FUNCTION = "FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname || '.' || p.proname = %(at)s"
POLICY = "FROM pg_policy y JOIN pg_class c ON c.oid = y.polrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
POLICY += " WHERE concat_ws('.', n.nspname, c.relname, y.polname) = %(at)s"
TRIGGER = "FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid JOIN pg_namespace n ON n.oid = c.relnamespace"
TRIGGER += " JOIN pg_proc p ON p.oid = t.tgfoid WHERE concat_ws('.', n.nspname, c.relname, t.tgname) = %(at)s"
TABLE = "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname || '.' || c.relname = %(at)s"

# Another policy, restrictive and TO PUBLIC, holds for every command whatever the permissive one says.
BEHIND_THE_WALL = f"""
    SELECT bool_and(y.polname = 'tenancy_access' AND EXISTS (
        SELECT FROM pg_policy w WHERE w.polrelid = y.polrelid AND w.polname = 'tenancy_isolation' AND NOT w.polpermissive AND w.polroles = '{{0}}'
          AND (w.polcmd = '*' AND w.polwithcheck IS NOT NULL
               OR w.polcmd = 'r' AND (c.relname IN ('usage', 'audit_entries') OR 2 = (
                   SELECT count(*) FROM pg_policy v WHERE v.polrelid = y.polrelid AND NOT v.polpermissive AND v.polroles = '{{0}}'
                     AND v.polname IN ('tenancy_insert', 'tenancy_update') AND v.polwithcheck IS NOT NULL))))) {POLICY}"""

# The views of members: nobody reads those that the one that everybody reads is made of, of which each is a barrier.
MEMBERS = """(%(at)s IN ('_tenancy.shown_members', '_tenancy.all_members', '_tenancy.own_members') AND NOT has_table_privilege(%(guest)s, c.oid, 'SELECT')
              OR %(at)s = 'tenancy.members' AND (
                 SELECT bool_and('security_barrier=true' = ANY (b.reloptions)) FROM pg_class b
                 WHERE b.oid IN ('_tenancy.all_members'::regclass, '_tenancy.own_members'::regclass)))"""

# rule: (why what it reports is not true, the query that says whether that is so)
EXCUSES = {
    "SEC001": (
        "A table of kind system is the same for all tenants. The extension's own tables are granted to nobody.",
        f"""SELECT (SELECT bool_or(s.kind = 'system') FROM tenancy.protected_tables s WHERE s.relation = c.oid)
                OR n.nspname = '_tenancy' AND NOT has_any_column_privilege(%(guest)s, c.oid, 'SELECT, INSERT, UPDATE')
               AND NOT has_table_privilege(%(guest)s, c.oid, 'DELETE, TRUNCATE') {TABLE}""",
    ),
    "SEC003": (
        "It looks at the permissive policy alone: the restrictive tenancy_isolation holds for PUBLIC too.",
        BEHIND_THE_WALL,
    ),
    "SEC020": ("As SEC003: the restrictive policies check what is written.", BEHIND_THE_WALL),
    "SEC009": (
        "Keys, passwords and members are nobody's to read but superusers', as the extension's owner is one, whatever else was granted.",
        f"""SELECT %(at)s IN ('_tenancy.issuers', '_tenancy.signing_keys', '_tenancy.used_tokens', '_tenancy.passwords',
                             '_tenancy.failed_sign_ins', '_tenancy.users', '_tenancy.members') AND c.relforcerowsecurity
                AND (SELECT r.rolsuper FROM pg_roles r WHERE r.oid = c.relowner) {TABLE}""",
    ),
    "VIEW001": (
        "They show administrators what is nobody else's, with the rights of their owner, and are granted to nobody; or a tenant its own members.",
        f"SELECT {MEMBERS} OR %(at)s IN ('tenancy.issuers', 'tenancy.users', 'tenancy.migration_observations') AND c.relacl::text NOT LIKE '%%,%%' {TABLE}",
    ),
    "SEC013": (
        "Triggers of ours run with the rights of the caller, and are functions of the library: they refuse, or count.",
        f"SELECT bool_and(NOT p.prosecdef AND p.prolang = (SELECT l.oid FROM pg_language l WHERE l.lanname = 'c')"
        f" AND p.pronamespace = '_tenancy'::regnamespace) {TRIGGER}",
    ),
    "SEC014": (
        "Administration, which PUBLIC may not call, or a function that SEC042 is answered for.",
        f"SELECT bool_and(n.nspname IN ('tenancy', '_tenancy') AND 'search_path=pg_catalog, pg_temp' = ANY (p.proconfig)"
        f" AND (NOT has_function_privilege(%(guest)s, p.oid, 'EXECUTE') OR %(at)s = ANY (%(public)s))) {FUNCTION} AND p.prosecdef",
    ),
    "SEC017": (
        "A function without arguments cannot leak them; has_role compares its own with a role, and its errors are of the context.",
        f"SELECT bool_and((p.pronargs = 0 OR p.proname = 'has_role') AND n.nspname = 'tenancy') {FUNCTION}",
    ),
    "SEC022": (
        "The ledger and the audit trail are written by the library, and by nobody else.",
        f"SELECT %(at)s IN ('_tenancy.usage', '_tenancy.audit_entries') AND NOT has_table_privilege(%(guest)s, c.oid, 'INSERT, UPDATE, DELETE') {TABLE}",
    ),
    "SEC030": (
        "Of kind shared, NULL is for everybody to read, and the restrictive policies let no tenant write it. Entries of the audit trail that are of no "
        "tenant are equal to none.",
        f"""SELECT coalesce((SELECT bool_and(s.kind = 'shared' AND s.drift = '{{}}') FROM tenancy.protected_tables s WHERE s.relation = c.oid),
                %(at)s = '_tenancy.audit_entries' AND (SELECT bool_and(pg_get_expr(y.polqual, y.polrelid) = '(tenant_id = tenancy.current_tenant())')
                                                       FROM pg_policy y WHERE y.polrelid = c.oid)) {TABLE}""",
    ),
    "SEC047": (
        "The tenant is part of the key on both sides, so it tells of the tenant's own rows only, and the restrictive policy says which those are.",
        """SELECT f.is_scoped FROM tenancy.foreign_keys f JOIN pg_class c ON c.oid = f.relation JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE format('%%s.%%s (%%s)', n.nspname, c.relname, f.name) = %(at)s""",
    ),
    "SEC042": (
        "Those that PUBLIC may call are named below, each with its reason.",
        f"SELECT bool_and(%(at)s = ANY (%(public)s) AND 'search_path=pg_catalog, pg_temp' = ANY (p.proconfig)) {FUNCTION}",
    ),
    "PERF003": (
        "The partitions of the ledger and of the audit trail have their own index of the tenant; the open part of the ledger is kept short, and found "
        "by its hash.",
        """SELECT bool_and(EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
                                   WHERE i.indrelid = h.inhrelid AND a.attname = 'tenant_id'))
           FROM pg_inherits h
           WHERE h.inhparent = CASE WHEN %(at)s IN ('_tenancy.usage.tenancy_access', '_tenancy.usage.tenancy_isolation') THEN '_tenancy.usage_settled'::regclass
                                    WHEN %(at)s IN ('_tenancy.audit_entries.tenancy_access', '_tenancy.audit_entries.tenancy_isolation')
                                    THEN '_tenancy.audit_entries'::regclass END""",
    ),
    "VIEW002": (
        "The view has no condition of its own that could be evaluated too late; what is below it, policies or views, are barriers. Or it is granted to nobody.",
        f"""SELECT (%(at)s IN ('tenancy.usage_records', 'tenancy.audit_log') OR {MEMBERS}) AND pg_get_viewdef(c.oid) !~* 'where'
                OR %(at)s = 'tenancy.migration_observations' AND c.relacl::text NOT LIKE '%%,%%' {TABLE}""",
    ),
}

# Functions with the rights of the extension's owner that PUBLIC may call, and why that shows nobody another tenant's rows.
PUBLIC = {
    "_tenancy.is_protected": "answers for a table what tenancy.protected_tables shows to all",
    "_tenancy.protection": "as is_protected",
    "_tenancy.is_watched": "answers for a table what tenancy.cache_watches shows to all",
    "_tenancy.note_altered": "makes versions of caches void, and only in an event trigger, which it asks PostgreSQL about",
    "_tenancy.is_migrated": "says of a table whether it is being protected at this moment",
    "tenancy.report_health": "writes for the tenant of the context alone, what it is told; for all, where the client may monitor",
    "tenancy.forget_health": "as report_health",
    "tenancy.health_checks": "shows the tenant of the context its own; others, where the client may monitor",
    "tenancy.record_metric": "writes for the tenant of the context alone, what it is told",
    "_tenancy.is_audited": "answers for a table what tenancy.audited_tables shows to all",
    "_tenancy.meters_of": "the names of a table's meters, which tenancy.meters shows to all",
    "_tenancy.schema_column": "the tenant column of a protected schema, which its tables show to all",
    "_tenancy.tenant_of_subdomain": "who a subdomain belongs to is what the public asks a service by opening it",
    "_tenancy.unregistered": "refuses in the context of a tenant; says no more than protect itself does of rows that the caller has",
    "tenancy.track_usage": "charges the tenant of the context, whom it checks, and reads nothing back",
}


@pytest.fixture(scope="module")
def protected(db):
    db.run(f"GRANT CREATE ON SCHEMA public TO {OWNER}")
    for statement in TABLES.split(";\n"):
        if statement.strip():
            db.run(statement, role=OWNER)
    db.run(
        "SELECT tenancy.meter('by_text', 'things')",
        f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {APP}",
    )
    return db


def reported(db):
    """What pgrls reports of our schemas and of the users': pairs of a rule and where it is broken."""
    url = f"host={db.server.host} port={db.server.port} dbname={db.name} user=postgres"
    done = subprocess.run(
        [sys.executable, "-m", "pgrls", "lint", "--config", "pgrls.toml", "--database-url", url, "--schemas", "public,tenancy,_tenancy", "--format", "json"],
        capture_output=True, text=True, timeout=300, env=os.environ | {"NO_COLOR": "1"}, cwd=os.path.dirname(__file__),
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    return [(item["rule_id"], item["location"]) for item in json.loads(done.stdout)["violations"]]


def excused(dba, rule, at):
    if rule not in EXCUSES:
        return False
    return value(dba, EXCUSES[rule][1], {"at": at, "guest": GUEST, "public": list(PUBLIC)}) is True


def unexcused(db, dba):
    return [(rule, at) for rule, at in reported(db) if not excused(dba, rule, at)]


def test_nothing_that_is_true(protected, dba):
    assert unexcused(protected, dba) == []


def test_ours_finds_nothing_either(protected, dba):
    assert dba.execute("SELECT * FROM tenancy.lint()").fetchall() == []


def test_every_excuse_is_needed(protected, dba):
    # One that no finding asks for any more could cover what comes later.
    found = reported(protected)
    assert {rule for rule, _ in found} == set(EXCUSES)
    assert {at for rule, at in found if rule == "SEC042"} == set(PUBLIC)


@pytest.mark.parametrize(
    "statement, rule, at",
    [
        ("CREATE TABLE forgotten (tenant_id text)", "SEC001", "public.forgotten"),
        ("ALTER POLICY tenancy_isolation ON by_uuid WITH CHECK (true)", "SEC020", "public.by_uuid.tenancy_isolation"),
        ("DROP POLICY tenancy_isolation ON by_uuid", "SEC003", "public.by_uuid.tenancy_access"),
        ("ALTER TABLE by_uuid NO FORCE ROW LEVEL SECURITY", "SEC002", "public.by_uuid"),
        ("ALTER TABLE by_uuid ALTER tenant_id DROP NOT NULL", "SEC030", "public.by_uuid"),
        ("ALTER TABLE by_bigint ADD CONSTRAINT loose FOREIGN KEY (id) REFERENCES by_text", "SEC047", "public.by_bigint (loose)"),
        ("GRANT SELECT ON _tenancy.quotas TO PUBLIC", "SEC001", "_tenancy.quotas"),
        ("GRANT EXECUTE ON FUNCTION tenancy.settle_usage TO PUBLIC", "SEC042", "tenancy.settle_usage"),
    ],
    ids=lambda given: given.split(" (")[0] if " " in given else "",
)
def test_what_is_true_is_not_excused(protected, dba, statement, rule, at):
    # The control: pgrls reads what is committed, so each is undone by the state it found.
    protected.run("SET tenancy.restoring = on", statement)
    try:
        assert (rule, at) in unexcused(protected, dba)
    finally:
        protected.run("DROP TABLE IF EXISTS forgotten", "ALTER TABLE by_bigint DROP CONSTRAINT IF EXISTS loose", "SELECT tenancy.protect('by_uuid')", "REVOKE ALL ON _tenancy.quotas FROM PUBLIC",
                      "REVOKE ALL ON FUNCTION tenancy.settle_usage FROM PUBLIC")  # fmt: skip
    assert unexcused(protected, dba) == []
