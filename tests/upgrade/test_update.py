"""ALTER EXTENSION tenancy UPDATE: what `sql/update_script.py` makes brings an earlier version to what CREATE EXTENSION makes, with tables of users in between."""

import lzma
import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb
from support import APP, Database, pg_program, set_session
from test_pg_upgrade import SEEN, fill, isolation_holds

REPOSITORY = Path(__file__).resolve().parents[2]

# Everything about the members of the extension, as it is in catalogs, but for numbers.
MEMBERS = """
    WITH member AS (
        SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid WHERE e.extname = 'tenancy' AND d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass
    ), acl AS (
        SELECT 'pg_proc'::regclass AS class, p.oid, p.proacl AS acl FROM pg_proc p UNION ALL SELECT 'pg_class'::regclass, c.oid, c.relacl FROM pg_class c
    )
    SELECT pg_describe_object(m.classid, m.objid, 0) AS object, coalesce(obj_description(m.objid, m.classid::regclass::name), '') AS comment,
           coalesce((SELECT string_agg(concat_ws(' ', x.grantee::regrole, x.privilege_type, x.is_grantable), ', ' ORDER BY 1)
                     FROM acl a, aclexplode(a.acl) x WHERE (a.class, a.oid) = (m.classid, m.objid)), '') AS privileges,
           coalesce((SELECT string_agg(concat_ws(' ', x.grantee::regrole, x.privilege_type), ', ' ORDER BY 1)
                     FROM pg_init_privs i, aclexplode(i.initprivs) x WHERE (i.classoid, i.objoid, i.objsubid) = (m.classid, m.objid, 0)), '') AS initial_privileges,
           CASE m.classid::regclass::text
               WHEN 'pg_proc' THEN pg_get_functiondef(m.objid)
               WHEN 'pg_event_trigger' THEN (SELECT concat_ws(' ', e.evtname, e.evtevent, e.evtenabled, e.evttags, e.evtfoid::regproc) FROM pg_event_trigger e WHERE e.oid = m.objid)
               WHEN 'pg_class' THEN concat_ws(E'\\n',
                   (SELECT concat_ws(' ', c.relkind, c.relpersistence, c.relrowsecurity, c.relforcerowsecurity, c.relreplident, c.reloptions) FROM pg_class c WHERE c.oid = m.objid),
                   (SELECT string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attcollation::regcollation, pg_get_expr(d.adbin, d.adrelid)), E'\\n' ORDER BY a.attnum)
                    FROM pg_attribute a LEFT JOIN pg_attrdef d ON (d.adrelid, d.adnum) = (a.attrelid, a.attnum) WHERE a.attrelid = m.objid AND a.attnum > 0),
                   (SELECT pg_get_viewdef(c.oid) FROM pg_class c WHERE c.oid = m.objid AND c.relkind = 'v'),
                   (SELECT string_agg(pg_get_constraintdef(k.oid), E'\\n' ORDER BY k.conname) FROM pg_constraint k WHERE k.conrelid = m.objid),
                   (SELECT string_agg(pg_get_indexdef(i.indexrelid), E'\\n' ORDER BY 1) FROM pg_index i WHERE i.indrelid = m.objid),
                   (SELECT string_agg(concat_ws(' ', pg_get_triggerdef(t.oid), t.tgenabled), E'\\n' ORDER BY t.tgname) FROM pg_trigger t WHERE t.tgrelid = m.objid AND NOT t.tgisinternal),
                   (SELECT string_agg(concat_ws(' ', p.polname, p.polcmd, p.polpermissive, p.polroles, pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)), E'\\n' ORDER BY p.polname) FROM pg_policy p WHERE p.polrelid = m.objid))
           END AS definition
    FROM member m WHERE pg_describe_object(m.classid, m.objid, 0) !~ '^(index|sequence|toast table)' ORDER BY 1"""
# Which tables are dumped, and with which rows.
CONFIGURATION = "SELECT c.oid::regclass::text, e.extcondition[c.n] FROM pg_extension e, unnest(e.extconfig) WITH ORDINALITY AS c(oid, n) WHERE e.extname = 'tenancy' ORDER BY 1"

# What an earlier version had otherwise: a text of this one, and what it was then.
EARLIER = [
    ("SELECT greatest(least(amount, 9223372036854775807), -9223372036854775808)::bigint", "SELECT 0::bigint"),
    ("SELECT w.relation, w.resource_type, w.notify, w.watched_at FROM _tenancy.cache_watches w", "SELECT w.relation, w.resource_type, w.notify FROM _tenancy.cache_watches w"),
    ("CREATE EVENT TRIGGER tenancy_after_schema ON ddl_command_end WHEN TAG IN ('ALTER SCHEMA') EXECUTE FUNCTION _tenancy.follow_schemas();", ""),
    ("ALTER EVENT TRIGGER tenancy_after_schema ENABLE ALWAYS;", ""),
    ("COMMENT ON VIEW tenancy.meters IS\n'The metered tables", "COMMENT ON VIEW tenancy.meters IS\n'Metered tables"),
    ("CREATE POLICY tenancy_access ON _tenancy.usage AS PERMISSIVE FOR SELECT TO PUBLIC\n    USING (tenant_id = tenancy.current_tenant());",
     "CREATE POLICY tenancy_access ON _tenancy.usage AS PERMISSIVE FOR SELECT TO PUBLIC\n    USING (tenant_id <= tenancy.current_tenant());"),
    (" tenancy.cache_get(text),", ""),
    ("EXECUTE format('CREATE TRIGGER tenancy_truncated AFTER TRUNCATE ON %s", "EXECUTE format('CREATE TRIGGER tenancy_truncated BEFORE TRUNCATE ON %s"),
    ("CREATE INDEX cache_entries_age ON _tenancy.cache_entries (tenant_id, expires_at);", "CREATE FUNCTION tenancy.was_there() RETURNS integer LANGUAGE sql AS 'SELECT 1';"),
]
BY_HAND = """
CREATE INDEX cache_entries_age ON _tenancy.cache_entries (tenant_id, expires_at);
DROP FUNCTION tenancy.was_there();
"""


# Versions that were released, as `make install` of them has installed them.
RELEASED = sorted(file.name.removeprefix("tenancy--").removesuffix(".sql.xz") for file in Path(__file__).parent.glob("tenancy--*.sql.xz"))


@pytest.fixture(scope="module")
def place():
    """Where the server finds extensions."""
    config = os.path.join(os.environ["TENANCY_PG_BIN"], "pg_config")
    return Path(subprocess.run([config, "--sharedir"], capture_output=True, text=True, check=True).stdout.strip()) / "extension"


@pytest.fixture(scope="module")
def now(place):
    """This version."""
    (version,) = re.findall(r"^default_version = '(.*)'$", (place / "tenancy.control").read_text(), re.MULTILINE)
    return version


@pytest.fixture(scope="module", params=["0.0.9", *RELEASED])
def earlier(request, place, now):
    """An earlier version, where the server finds it: one that was released, to which `make install` has made the way, or one made up, with another way."""
    made = {}
    if request.param in RELEASED:
        assert (place / f"tenancy--{request.param}--{now}.sql").exists()
        made[place / f"tenancy--{request.param}.sql"] = lzma.open(Path(__file__).parent / f"tenancy--{request.param}.sql.xz", "rt").read()
    else:
        text = (place / f"tenancy--{now}.sql").read_text()
        for is_now, was in EARLIER:
            assert text.count(is_now) == 1, is_now
            text = text.replace(is_now, was)
        made = {place / "tenancy--0.0.9.sql": text, place / f"tenancy--0.0.9--{now}.sql": update_script(place / f"tenancy--{now}.sql", BY_HAND)}
    for file, text in made.items():
        file.write_text(text)
        file.chmod(0o644)
    yield request.param
    for file in made:
        file.unlink()


def test_each_released_version_is_tried():
    assert "0.1.0" in RELEASED
    assert set(RELEASED) == {file.stem.split("--")[0] for file in (REPOSITORY / "sql" / "updates").glob("*--*.sql")}


def update_script(installed, by_hand):
    hand = Path(os.environ["TENANCY_RUN"]) / "by_hand.sql"
    hand.write_text(by_hand)
    done = subprocess.run([sys.executable, REPOSITORY / "sql" / "update_script.py", installed, hand], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def fresh(server):
    database = Database(server, "it_fresh")
    yield database
    database.drop()


@pytest.fixture(scope="module")
def updated(server, earlier, now, fresh):
    """A database that has been filled under the earlier version, what was seen of it, and that version's objects."""
    database = Database(server, "it_updated", extension=False)
    database.run(f"CREATE EXTENSION tenancy VERSION '{earlier}'")
    fill(database)
    database.run(
        "GRANT EXECUTE ON FUNCTION tenancy.report(integer, integer), tenancy.current_tenant() TO it_guest",
        "REVOKE EXECUTE ON FUNCTION tenancy.has_role(text[]), tenancy.explain_access(regclass, name, boolean) FROM PUBLIC",
    )
    before = {what: database.run(query) for what, query in SEEN.items() if what not in ("cache watches", "members of the extension", "findings", "event triggers", "privileges of PUBLIC", "quotas")}
    was = database.run(MEMBERS)
    database.run(f"ALTER EXTENSION tenancy UPDATE TO '{now}'")
    yield database, before, was
    database.drop()


def test_it_is_what_a_fresh_one_is(updated, fresh, earlier):
    database, _, was = updated
    # Otherwise nothing would have been compared.
    assert len(set(was) - set(fresh.run(MEMBERS))) >= (3 if earlier in RELEASED else len(EARLIER) - 1)
    now, expected = database.run(MEMBERS), fresh.run(MEMBERS)
    # What was granted to a role stays; what was granted to PUBLIC (by `fill`) does not.
    changed = ("report(integer,integer)", "current_tenant()", "has_role(text[])", "explain_access(regclass,name,boolean)")
    assert {row[0] for row in set(now) ^ set(expected)} == {f"function tenancy.{name}" for name in changed}
    assert set(fresh.run(CONFIGURATION)) <= set(database.run(CONFIGURATION))
    assert database.run("SELECT extversion FROM pg_extension WHERE extname = 'tenancy'") == fresh.run("SELECT extversion FROM pg_extension WHERE extname = 'tenancy'")


def test_what_was_granted_is_dumped(updated):
    """Privileges that an extension's script has made initial ones would be left out."""
    database, *_ = updated
    at = ["-h", database.server.host, "-p", database.server.port, "-U", "postgres"]
    dump = pg_program("pg_dump", *at, database.name, "--schema-only").stdout
    assert "GRANT ALL ON FUNCTION tenancy.report(max_tenants integer, days integer) TO it_guest;" in dump
    assert "GRANT ALL ON FUNCTION tenancy.current_tenant() TO it_guest;" in dump
    assert "REVOKE ALL ON FUNCTION tenancy.has_role(VARIADIC roles text[]) FROM PUBLIC;" in dump


def test_what_was_revoked_stays_so(updated):
    database, *_ = updated
    may = "SELECT has_function_privilege('public', %s, 'EXECUTE'), has_function_privilege('it_guest', %s, 'EXECUTE')"
    with database.connect("postgres") as dba:
        for function, expected in (("current_tenant()", (True, True)), ("has_role(text[])", (False, False)), ("explain_access(regclass, name, boolean)", (False, False)), ("is_member(text, text)", (True, True))):
            assert dba.execute(may, [f"tenancy.{function}"] * 2).fetchone() == expected, function


@pytest.mark.parametrize("earlier", ["0.1.0"], indirect=True)
def test_what_an_owner_saved_by_hand(server, earlier, now):
    """What 0.1.0 took for what protect saves, and is none, stops no update; it puts nothing back, as before."""
    database = Database(server, "it_updated_by_hand", extension=False)
    database.run(f"CREATE EXTENSION tenancy VERSION '{earlier}'")
    names = {"options": ["reference", "create_index", "access_policy"]}
    names["undo"] = ["row_security", "forced", "not_null", "own_not_null", "default", "reference", "access", "index", "own_index", "revoked"]
    with database.connect("postgres") as dba:
        for table in ("names", "parts", "good"):
            dba.execute(f"CREATE TABLE {table} (id integer, tenant_id text NOT NULL)")
            dba.execute("SELECT tenancy.protect(%s)", [table])
        saved = dba.execute("SELECT options, undo FROM _tenancy.protected WHERE relation = 'good'::regclass").fetchone()
        save = "SELECT _tenancy.save_protection(%s, 'tenant', 'tenant_id', %s, %s)"
        dba.execute(save, ["names", Jsonb(names["options"]), Jsonb(names["undo"])])
        odd = saved[1] | {"own_index": "", "revoked": ["GRANT", {"grantee": "PUBLIC", "privilege": "TRIGGER", "grantable": "maybe", "column": None}]}
        dba.execute(save, ["parts", Jsonb(saved[0]), Jsonb(odd)])
        dba.execute(f"ALTER EXTENSION tenancy UPDATE TO '{now}'")
        rows = dict(dba.execute("SELECT relation::text, undo FROM _tenancy.protected").fetchall())
        assert rows["good"] == saved[1]
        assert rows["parts"] == saved[1] | {"own_index": None, "revoked": []}
        assert rows["names"] == dict.fromkeys(names["undo"], False) | {"index": None, "own_index": None, "revoked": []}
        for table in rows:
            dba.execute("SELECT tenancy.unprotect(%s)", [table])
    database.drop()


def test_where_nothing_is_public_by_itself(server, earlier, now):
    """By default privileges of the installer's: what policies call is granted all the same."""
    database = Database(server, "it_updated_private", extension=False)
    database.run("ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC", f"CREATE EXTENSION tenancy VERSION '{earlier}'")
    database.create_shop()
    database.run(f"ALTER EXTENSION tenancy UPDATE TO '{now}'")
    with database.connect(APP) as app:
        set_session(app, "acme")
        app.execute("INSERT INTO orders (item) VALUES ('a4')")
        assert len(app.execute("SELECT item FROM orders").fetchall()) == 4
    may = "SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.oid = ANY (_tenancy.called_by_policies()) AND NOT has_function_privilege('public', p.oid, 'EXECUTE')"
    assert database.run(may) == []
    database.drop()


def test_an_owner_that_goes(server, earlier, now):
    """Nothing of an installer's stays behind by which the role could not be dropped."""
    database = Database(server, "it_updated_by_another", extension=False)
    server.run("DROP ROLE IF EXISTS it_installer", "CREATE ROLE it_installer SUPERUSER LOGIN")
    database.run(f"CREATE EXTENSION tenancy VERSION '{earlier}'", f"ALTER EXTENSION tenancy UPDATE TO '{now}'", role="it_installer")
    database.run("REASSIGN OWNED BY it_installer TO postgres", "DROP OWNED BY it_installer", "DROP ROLE it_installer")
    database.drop()


def test_what_was_there_is_there(updated):
    database, before, _ = updated
    for what, rows in before.items():
        assert rows and database.run(SEEN[what]) == rows, what
    assert database.run("SELECT component FROM tenancy.extension_health() WHERE component = 'version' AND status <> 'healthy'") == []


def test_isolation_holds(updated):
    database, *_ = updated
    with database.connect(APP) as app:
        isolation_holds(app)
    assert database.run("SELECT * FROM tenancy.verify_audit('acme')") == []


def test_a_session_that_was_connected_goes_on(server, earlier, now):
    """It has read the old version, and has a statement prepared."""
    database = Database(server, "it_updated_meanwhile", extension=False)
    database.run(f"CREATE EXTENSION tenancy VERSION '{earlier}'")
    database.create_shop()
    with database.connect(APP) as app:
        set_session(app, "acme")
        app.execute("PREPARE seen AS SELECT item FROM orders ORDER BY item")
        before = app.execute("EXECUTE seen").fetchall()
        database.run(f"ALTER EXTENSION tenancy UPDATE TO '{now}'")
        assert app.execute("EXECUTE seen").fetchall() == before == [("a1",), ("a2",), ("a3",)]
    database.drop()


def test_what_cannot_be_run_again_is_refused(tmp_path, place, now):
    for added in ("CREATE SEQUENCE tenancy.s;", "INSERT INTO _tenancy.tenants VALUES (1);"):
        file = tmp_path / "tenancy--9.sql"
        file.write_text((place / f"tenancy--{now}.sql").read_text() + added)
        done = subprocess.run([sys.executable, REPOSITORY / "sql" / "update_script.py", file], capture_output=True, text=True)
        assert done.returncode != 0 and "run again" in done.stderr, done.stderr


def test_not_for_others(updated):
    database, *_ = updated
    with database.connect(APP) as app, pytest.raises(psycopg.errors.InsufficientPrivilege):
        app.execute("ALTER EXTENSION tenancy UPDATE")
