-- lint(): roles of applications, parameters, and the database as a whole; each next to one that is as it should be.
\set VERBOSITY default
SET client_min_messages = warning;
CREATE SCHEMA lint;
SET search_path = lint, public;
CREATE FUNCTION pg_temp.findings(pattern text DEFAULT 'lint') RETURNS TABLE (rule text, severity text, object text, problem text) LANGUAGE sql AS $$
    SELECT l.rule, l.severity, l.object, l.problem FROM tenancy.lint() l
    WHERE l.key ~ pattern ORDER BY l.rule COLLATE "C", l.object COLLATE "C", l.problem COLLATE "C" $$;
CREATE FUNCTION pg_temp.mend(pattern text DEFAULT 'lint') RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    item record;
    line text;
BEGIN
    FOR item IN SELECT * FROM tenancy.lint() l WHERE l.key ~ pattern LOOP
        FOREACH line IN ARRAY string_to_array(item.remedy, E';\n') LOOP
            line := regexp_replace(line, '^--[^\n]*\n?', '');
            IF line <> '' THEN
                EXECUTE line;
            END IF;
        END LOOP;
    END LOOP;
    RETURN QUERY SELECT l.rule || ' ' || l.object || ': ' || l.problem FROM tenancy.lint() l WHERE l.key ~ pattern;
END $$;
CREATE TABLE doc (id integer, tenant_id text, PRIMARY KEY (tenant_id, id));
CREATE TABLE own (id integer, tenant_id text, PRIMARY KEY (tenant_id, id));
SELECT tenancy.protect('doc'), tenancy.protect('own');

-- As it should be: an application that may be any tenant, one that is bound, an owner, an administrator, a backup that reads nothing of it.
CREATE ROLE regress_lint_app LOGIN;
GRANT SET ON PARAMETER tenancy.tenant_id TO regress_lint_app;
CREATE ROLE regress_lint_bound LOGIN;
ALTER ROLE regress_lint_bound SET tenancy.tenant_id = 'acme';
CREATE ROLE regress_lint_data;
GRANT regress_lint_data TO regress_lint_app, regress_lint_bound;
GRANT SELECT, INSERT ON doc TO regress_lint_data;
CREATE ROLE regress_lint_owner;
ALTER TABLE doc OWNER TO regress_lint_owner;
CREATE ROLE regress_lint_dba LOGIN SUPERUSER;
CREATE ROLE regress_lint_backup LOGIN BYPASSRLS;
SELECT * FROM pg_temp.findings();
-- What injected SQL, other sessions and those of a pooler can reach is a recommendation, where it is asked for: of who may be any tenant, and not of
-- who is bound to one, but for objects beside the tables.
BEGIN;
GRANT CREATE ON SCHEMA lint TO regress_lint_app, regress_lint_bound;
GRANT TEMPORARY ON DATABASE regress TO regress_lint_app;
SELECT count(*) FROM pg_temp.findings();
SELECT rule, severity, object FROM tenancy.lint('info')
WHERE rule IN ('role_may_set_tenant', 'statements_visible', 'temporary_tables', 'schema_create') AND object ~ 'regress_lint' ORDER BY rule, object;
ALTER ROLE regress_lint_app SET tenancy.seal = 'transaction';
ALTER ROLE regress_lint_app SET track_activities = off;
REVOKE TEMPORARY ON DATABASE regress FROM PUBLIC, regress_lint_app;
REVOKE CREATE ON SCHEMA lint FROM regress_lint_app, regress_lint_bound;
SELECT count(*) FROM tenancy.lint('info')
WHERE rule IN ('role_may_set_tenant', 'statements_visible', 'temporary_tables', 'schema_create') AND object ~ 'regress_lint';
ROLLBACK;

-- Roles that bypass, or can.
CREATE ROLE regress_lint_super LOGIN SUPERUSER;
GRANT SET ON PARAMETER tenancy.tenant_id TO regress_lint_super;
CREATE ROLE regress_lint_writer LOGIN BYPASSRLS;
GRANT regress_lint_data TO regress_lint_writer;
CREATE ROLE regress_lint_climber LOGIN;
GRANT regress_lint_data, regress_lint_backup TO regress_lint_climber;
CREATE ROLE regress_lint_far LOGIN;
CREATE ROLE regress_lint_between;
GRANT regress_lint_owner TO regress_lint_between;
GRANT regress_lint_data, regress_lint_between TO regress_lint_far;
CREATE ROLE regress_lint_has LOGIN;
GRANT regress_lint_data TO regress_lint_has;
ALTER TABLE own OWNER TO regress_lint_has;
CREATE ROLE regress_lint_stream LOGIN REPLICATION CREATEROLE;
GRANT regress_lint_data, pg_read_server_files, pg_read_all_data TO regress_lint_stream;
GRANT regress_lint_app TO regress_lint_bound;
SELECT * FROM pg_temp.findings();
\pset format unaligned
SELECT rule, object, remedy FROM tenancy.lint() WHERE key ~ 'lint' ORDER BY key COLLATE "C";
\pset format aligned
SELECT * FROM pg_temp.mend();

-- Parameters.
GRANT SET ON PARAMETER tenancy.restoring, tenancy.bypass_guard, tenancy.mode, tenancy.seal TO regress_lint_app;
GRANT ALTER SYSTEM ON PARAMETER tenancy.tenant_id TO regress_lint_app;
GRANT SET ON PARAMETER session_replication_role TO regress_lint_app;
GRANT SET ON PARAMETER tenancy.user_id TO regress_lint_app;    -- as it should be
ALTER ROLE regress_lint_owner SET tenancy.restoring = on;
SELECT * FROM pg_temp.findings();
SELECT * FROM pg_temp.mend();
GRANT SET ON PARAMETER tenancy.tenant_id TO PUBLIC;
ALTER DATABASE regress SET tenancy.tenant_id = 'acme';
SELECT * FROM pg_temp.findings('PUBLIC|tenant_for_all');
SELECT * FROM pg_temp.mend('PUBLIC|tenant_for_all');

-- The database.
ALTER DEFAULT PRIVILEGES FOR ROLE regress_lint_owner IN SCHEMA lint GRANT SELECT, TRUNCATE, TRIGGER ON TABLES TO regress_lint_data;
ALTER DEFAULT PRIVILEGES FOR ROLE regress_lint_owner GRANT SELECT ON TABLES TO regress_lint_data;   -- a recommendation only
CREATE FUNCTION leak(text) RETURNS boolean LANGUAGE plpgsql LEAKPROOF AS 'BEGIN RAISE NOTICE ''%'', $1; RETURN true; END';
SET client_min_messages = error;
CREATE PUBLICATION lint_all FOR TABLE doc;
CREATE PUBLICATION lint_one FOR TABLE own WHERE (tenant_id = 'acme');
SET client_min_messages = warning;
GRANT SELECT ON _tenancy.tenants TO regress_lint_app;
GRANT UPDATE ON _tenancy.quotas TO regress_lint_app;
GRANT EXECUTE ON FUNCTION tenancy.suspend_tenant(text, text) TO PUBLIC;
ALTER EVENT TRIGGER tenancy_guard_ddl DISABLE;
-- The wrapper's name is what tells; nothing is to be connected to.
CREATE FOREIGN DATA WRAPPER postgres_fdw;
CREATE SERVER lint_back FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'localhost');
CREATE SERVER lint_away FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'db.example.com');
CREATE USER MAPPING FOR regress_lint_app SERVER lint_back OPTIONS (user 'postgres');
CREATE USER MAPPING FOR regress_lint_bound SERVER lint_back OPTIONS (user 'regress_lint_bound');
CREATE USER MAPPING FOR regress_lint_app SERVER lint_away OPTIONS (user 'postgres');
CREATE EXTENSION pageinspect SCHEMA lint;
GRANT EXECUTE ON FUNCTION lint.get_raw_page(text, bigint) TO regress_lint_app;
GRANT EXECUTE ON FUNCTION pg_read_binary_file(text) TO regress_lint_app;
GRANT EXECUTE ON FUNCTION pg_stat_file(text) TO PUBLIC;
SELECT * FROM pg_temp.findings('lint|tenancy|pageinspect|pg_read|pg_stat_file');
\pset format unaligned
SELECT rule, object, remedy FROM tenancy.lint() WHERE key ~ 'lint|tenancy|pageinspect|pg_read|pg_stat_file' ORDER BY key COLLATE "C";
\pset format aligned
SELECT * FROM pg_temp.mend('lint|tenancy|pageinspect|pg_read|pg_stat_file');
SELECT evtenabled FROM pg_event_trigger WHERE evtname ~ '^tenancy_guard';
DROP PUBLICATION lint_all, lint_one;
DROP FOREIGN DATA WRAPPER postgres_fdw CASCADE;
DROP SCHEMA lint CASCADE;
SET client_min_messages = error;
DROP OWNED BY regress_lint_app, regress_lint_bound, regress_lint_data, regress_lint_owner, regress_lint_super, regress_lint_writer,
    regress_lint_climber, regress_lint_far, regress_lint_between, regress_lint_has, regress_lint_stream, regress_lint_dba, regress_lint_backup,
    owner_of_regress_lint_has CASCADE;
DROP ROLE regress_lint_app, regress_lint_bound, regress_lint_data, regress_lint_owner, regress_lint_super, regress_lint_writer,
    regress_lint_climber, regress_lint_far, regress_lint_between, regress_lint_has, regress_lint_stream, regress_lint_dba, regress_lint_backup,
    owner_of_regress_lint_has;
