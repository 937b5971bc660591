#!/usr/bin/env python3
"""Prints the script by which ALTER EXTENSION tenancy UPDATE comes from an earlier version to this one.

    python3 sql/update_script.py INSTALLED [BY_HAND]    prints one: INSTALLED is the file that CREATE EXTENSION runs, tenancy--0.2.0.sql
    python3 sql/update_script.py --all DIRECTORY        writes those from all earlier versions to where `make install` has put that file

What is by hand, in `sql/updates/A--B.sql`: what changes in `sql/schema`, which runs once, and what of `sql/api` is gone or cannot be replaced (another
type of result, columns of a view that are not the last). All the rest, which is re-runnable, is taken from the installed file and replaces what is there: policies and
triggers of users' tables, which need its functions, are not touched. A script from A to C has what is by hand of A to B and of B to C, which finds the functions of A and so says IF EXISTS, and the rest once.
"""

import re
import sys
from pathlib import Path

SCHEMA = Path(__file__).resolve().parent / "schema"
UPDATES = Path(__file__).resolve().parent / "updates"
HEAD = r"""\echo Use "ALTER EXTENSION tenancy UPDATE" to load this file. \quit
SELECT pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
-- Who may do what from the beginning, of what is there: what is made from here on is not.
SELECT set_config('tenancy_update.initial', ARRAY(
    SELECT format(E'%s ON %s\t%s', x.privilege_type, o.name, CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END)
    FROM (SELECT 'ROUTINE ' || p.oid::regprocedure AS name, p.pronamespace AS schema, coalesce(i.initprivs, acldefault('f', p.proowner)) AS acl
          FROM pg_proc p LEFT JOIN pg_init_privs i ON (i.objoid, i.classoid, i.objsubid) = (p.oid, 'pg_proc'::regclass, 0)
          UNION ALL
          SELECT 'TABLE ' || c.oid::regclass, c.relnamespace, coalesce(i.initprivs, acldefault('r', c.relowner))
          FROM pg_class c LEFT JOIN pg_init_privs i ON (i.objoid, i.classoid, i.objsubid) = (c.oid, 'pg_class'::regclass, 0) WHERE c.relkind IN ('r', 'p', 'v')) o
    CROSS JOIN LATERAL aclexplode(o.acl) x WHERE o.schema IN ('tenancy'::regnamespace, '_tenancy'::regnamespace))::text, true);
"""
# Whatever an extension's script grants or revokes makes all privileges of the object its initial ones, which pg_dump leaves out: those that users have granted as well. So only what
# differs is granted or revoked: the statements are tried, and rolled back. What an earlier version had granted and somebody has revoked since stays revoked.
PRIVILEGES = """DO $do$
DECLARE
    had text[];
    wanted text[];
    initial text[];
    listed text[];
    was_listed text[];
    difference record;
BEGIN
    initial := current_setting('tenancy_update.initial');
    FOR attempt IN 1..2 LOOP
        BEGIN
            IF attempt = 2 THEN
                {statements}
            END IF;
            wanted := ARRAY(
                SELECT format(E'%s ON %s\\t%s', x.privilege_type, o.name, CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END)
                FROM (SELECT 'ROUTINE ' || p.oid::regprocedure AS name, p.pronamespace AS schema, coalesce(p.proacl, acldefault('f', p.proowner)) AS acl FROM pg_proc p
                      UNION ALL
                      SELECT 'TABLE ' || c.oid::regclass, c.relnamespace, coalesce(c.relacl, acldefault('r', c.relowner)) FROM pg_class c WHERE c.relkind IN ('r', 'p', 'v')) o
                CROSS JOIN LATERAL aclexplode(o.acl) x WHERE o.schema IN ('tenancy'::regnamespace, '_tenancy'::regnamespace));
            listed := ARRAY(SELECT p.oid::regprocedure::text FROM pg_proc p
                            WHERE p.proacl IS NOT NULL AND p.pronamespace IN ('tenancy'::regnamespace, '_tenancy'::regnamespace));
            RAISE EXCEPTION USING ERRCODE = 'TN000', MESSAGE = 'tried';
        EXCEPTION WHEN SQLSTATE 'TN000' THEN
            had := coalesce(had, wanted);
            was_listed := coalesce(was_listed, listed);
        END;
    END LOOP;
    FOR difference IN
        SELECT 'GRANT ' AS what, w.privilege, ' TO ' AS whom FROM unnest(wanted) AS w (privilege) WHERE w.privilege <> ALL (had) AND w.privilege <> ALL (initial)
        UNION ALL
        SELECT 'REVOKE ', h.privilege, ' FROM ' FROM unnest(had) AS h (privilege) WHERE h.privilege <> ALL (wanted)
    LOOP
        EXECUTE difference.what || replace(difference.privilege, E'\\t', difference.whom);
    END LOOP;
    -- What is new and everybody's has a list that says so, as in a fresh installation.
    FOR difference IN
        SELECT l.name FROM unnest(listed) AS l (name)
        WHERE l.name <> ALL (was_listed) AND format(E'EXECUTE ON ROUTINE %s\\tPUBLIC', l.name) = ANY (wanted)
    LOOP
        EXECUTE format('REVOKE EXECUTE ON ROUTINE %1$s FROM PUBLIC; GRANT EXECUTE ON ROUTINE %1$s TO PUBLIC', difference.name);
    END LOOP;
    -- And so has what is new and nobody's.
    FOR difference IN
        SELECT c.oid::regclass AS name FROM pg_class c
        WHERE c.relnamespace IN ('tenancy'::regnamespace, '_tenancy'::regnamespace) AND c.relkind IN ('r', 'p', 'v') AND c.relacl IS NULL
          AND NOT EXISTS (SELECT FROM unnest(initial) AS i (privilege) WHERE starts_with(i.privilege, format(E'SELECT ON TABLE %s\\t', c.oid::regclass)))
    LOOP
        EXECUTE format('REVOKE ALL ON TABLE %s FROM PUBLIC', difference.name);
    END LOOP;
END
$do$;"""
# What a statement may be made of, so that a semicolon in it does not end it.
TOKEN = re.compile(r"--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$(\w*)\$.*?\$\1\$|;|[^;'\"$/-]+|.", re.DOTALL)
REPLACED = re.compile(r"CREATE\s+(FUNCTION|PROCEDURE|VIEW|TRIGGER)\b")


def statements(sql):
    """The statements of a script, without comments around them."""
    statement = ""
    for token in TOKEN.finditer(sql):
        text = token.group()
        if text.startswith(("--", "/*")) and not statement.strip():
            continue
        statement += text
        if text == ";":
            yield statement.strip()
            statement = ""
    if statement.strip():
        raise SystemExit(f"a statement has no end: {statement.strip()[:200]}")


def rerun(statement):
    """A statement, such that it may have been run before."""
    if REPLACED.match(statement):
        return REPLACED.sub(r"CREATE OR REPLACE \1", statement, count=1)
    if dropped := re.match(r"CREATE (POLICY \S+ ON \S+|EVENT TRIGGER \S+)", statement):
        return f"DROP {dropped[1].replace('POLICY ', 'POLICY IF EXISTS ').replace('EVENT TRIGGER ', 'EVENT TRIGGER IF EXISTS ')};\n{statement}"
    if of_type := re.match(r"CREATE TYPE (\S+)", statement):
        return f"DO $do$ BEGIN IF to_regtype('{of_type[1]}') IS NULL THEN\n{statement}\nEND IF; END $do$;"
    if re.match(r"DO\b", statement):
        if re.search(r"\b(GRANT|REVOKE) \w+ ON ", statement):
            raise SystemExit(f"privileges are tried and rolled back, and with them what else a block does: {statement[:200]}")
        return re.sub(r"CREATE TRIGGER\b", "CREATE OR REPLACE TRIGGER", statement)
    if re.match(r"(COMMENT|CREATE SCHEMA IF NOT EXISTS|ALTER TABLE \S+ (ENABLE|FORCE)|ALTER EVENT TRIGGER|ALTER FUNCTION)\b", statement):
        return statement
    raise SystemExit(f"nobody knows whether this can be run again: {statement[:200]}")


def script(installed, by_hand=""):
    for file in sorted(SCHEMA.glob("*.sql")):
        text = file.read_text().strip()
        if text not in installed:
            raise SystemExit(f"{file.name} is not part of what was installed: build and install first")
        installed = installed.replace(text, "")
    found = list(statements(installed))
    is_privilege = re.compile(r"(GRANT|REVOKE)\b|DO\b(?!.*\b(CREATE|ALTER|DROP|INSERT|UPDATE|DELETE)\b).*\b(GRANT|REVOKE) \w+ ON ", re.DOTALL).match
    privileges = PRIVILEGES.replace("{statements}", "\n".join(filter(is_privilege, found)))
    again = [rerun(statement) for statement in found if not is_privilege(statement)]
    return "\n\n".join([HEAD + by_hand.strip(), *again, privileges]) + "\n"


def ways(current):
    """Earlier versions, each with what is by hand on the way to the current one."""
    steps = {tuple(file.stem.split("--")): file.read_text() for file in UPDATES.glob("*--*.sql")}
    found, reached = {}, {current: ""}
    while reached:
        to, after = reached.popitem()
        for (earlier, later), by_hand in steps.items():
            if later == to:
                found[earlier] = reached[earlier] = by_hand + "\n" + after
    return found


def write_all(directory):
    (current,) = re.findall(r"^default_version = '(.*)'$", (directory / "tenancy.control").read_text(), re.MULTILINE)
    installed = (directory / f"tenancy--{current}.sql").read_text()
    for earlier, by_hand in ways(current).items():
        file = directory / f"tenancy--{earlier}--{current}.sql"
        # Half a script would be one as well.
        written = file.with_suffix(".new")
        written.write_text(script(installed, by_hand))
        written.chmod(0o644)
        written.replace(file)
        print(file.name)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[1] == "--all":
        write_all(Path(sys.argv[2]))
    elif len(sys.argv) in (2, 3):
        sys.stdout.write(script(*(Path(name).read_text() for name in sys.argv[1:])))
    else:
        raise SystemExit(__doc__)
