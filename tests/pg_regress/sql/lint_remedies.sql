-- lint(): shapes with names that need quotes; every remedy that is SQL is executed as it is printed, and the finding is gone.
\set VERBOSITY default
SET client_min_messages = error;
CREATE SCHEMA "Lint Too";
SET search_path = "Lint Too", public;
CREATE FUNCTION pg_temp.findings(the_rules text DEFAULT '') RETURNS TABLE (rule text, severity text, object text, problem text) LANGUAGE sql AS $$
    SELECT l.rule, l.severity, l.object, l.problem FROM tenancy.lint('info') l
    WHERE l.key ~ 'Lint Too|lint_too|Weird' AND l.rule ~ the_rules ORDER BY l.rule COLLATE "C", l.key COLLATE "C" $$;
-- One line a statement: psql sends each by itself, so that CONCURRENTLY works.
CREATE FUNCTION pg_temp.remedies(the_rules text, the_keys text DEFAULT 'Lint Too|lint_too|Weird') RETURNS SETOF text LANGUAGE sql AS $$
    SELECT s.line FROM tenancy.lint('info') l, string_to_table(l.remedy, E'\n') WITH ORDINALITY AS s(line, place)
    WHERE l.rule ~ the_rules AND l.key ~ the_keys AND s.line !~ '^--' ORDER BY l.key COLLATE "C", s.place $$;
CREATE ROLE regress_lint_too LOGIN;
CREATE ROLE "Weird Role" LOGIN;
GRANT SET ON PARAMETER tenancy.tenant_id TO "Weird Role";
GRANT USAGE ON SCHEMA "Lint Too" TO regress_lint_too, "Weird Role";
CREATE TABLE "Weird Table" (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, "The Tenant" text, "A Code" text);
SELECT tenancy.protect('"Weird Table"', tenant_column => 'The Tenant');
SELECT tenancy.meter('"Weird Table"', 'lint_too');
GRANT SELECT, INSERT, UPDATE, DELETE ON "Weird Table" TO regress_lint_too, "Weird Role";
SELECT * FROM pg_temp.findings() WHERE severity <> 'info';

-- Keys.
CREATE TABLE keys ("The Tenant" text, a text PRIMARY KEY, b text, c text, during tstzrange,
    CONSTRAINT late UNIQUE (b) DEFERRABLE INITIALLY DEFERRED, EXCLUDE USING gist (during WITH &&));
CREATE UNIQUE INDEX "Weird Index" ON keys (lower(c)) WHERE c <> '';
CREATE UNIQUE INDEX a_name_of_an_index_that_is_so_long_that_no_more_can_be_added_ ON keys (c DESC) INCLUDE (b);
CREATE TABLE parts ("The Tenant" text, n integer, code text, CONSTRAINT whole UNIQUE (n, code)) PARTITION BY RANGE (n);
CREATE TABLE part PARTITION OF parts FOR VALUES FROM (0) TO (10);
SELECT tenancy.protect('keys', tenant_column => 'The Tenant'), tenancy.protect('parts', tenant_column => 'The Tenant');
SELECT * FROM pg_temp.findings('unique') WHERE severity <> 'info';
SELECT pg_temp.remedies('unique', 'keys|parts') \gexec
SELECT * FROM pg_temp.findings('unique') WHERE severity <> 'info';
SELECT pg_get_indexdef(x.indexrelid), c.condeferred FROM pg_index x LEFT JOIN pg_constraint c ON c.conindid = x.indexrelid AND c.contype <> 'f'
WHERE x.indrelid IN ('keys'::regclass, 'parts'::regclass) ORDER BY x.indexrelid::regclass::text COLLATE "C";
-- A key that is referred to is held on to: it is said by whom.
CREATE TABLE mails (mail text PRIMARY KEY, tenant_id text);
CREATE TABLE refers (mail text REFERENCES mails);
SELECT tenancy.protect('mails');
\pset format unaligned
SELECT remedy FROM tenancy.lint() WHERE key ~ 'mails';
\pset format aligned
DROP TABLE refers, mails, keys, parts;
DROP EXTENSION btree_gist;
-- A table that refers to tenants' rows.
CREATE TABLE notes (parent bigint REFERENCES "Weird Table");
GRANT SELECT ON notes TO regress_lint_too;
SELECT * FROM pg_temp.findings('refers');
SELECT pg_temp.remedies('refers') \gexec
SELECT * FROM pg_temp.findings('refers|foreign_key');

-- Tables: of a schema that is protected under another column, children of a parent elsewhere, foreign partitions.
CREATE SCHEMA lint_too;
CREATE TABLE parent (org uuid);
SELECT tenancy.protect_schema('lint_too', 'org');
CREATE TABLE lint_too.child () INHERITS (parent);
SET tenancy.restoring = on;
CREATE TABLE lint_too.late (org uuid);
RESET tenancy.restoring;
CREATE TABLE not_there (org uuid);                             -- elsewhere, so it may be something else
CREATE FOREIGN DATA WRAPPER lint_too;
CREATE SERVER lint_too FOREIGN DATA WRAPPER lint_too;
CREATE TABLE tree (n integer, tenant_id text) PARTITION BY LIST (n);
SELECT tenancy.protect('tree');
CREATE FOREIGN TABLE tree_far PARTITION OF tree FOR VALUES IN (1) SERVER lint_too;
SELECT * FROM pg_temp.findings('^(table|foreign|partition)_');
GRANT SELECT ON tree_far TO regress_lint_too;
SELECT * FROM pg_temp.findings('foreign_table');
SELECT pg_temp.remedies('unprotected|foreign_table') \gexec
-- The column is known by a protected table now.
SELECT * FROM pg_temp.findings('^(table|foreign|partition|parent)_');
DROP TABLE tree, parent, not_there CASCADE;
DROP FOREIGN DATA WRAPPER lint_too CASCADE;
DROP SCHEMA lint_too CASCADE;

-- Drift that lint.sql does not seed.
CREATE TABLE drifting (id integer, tenant_id text);
CREATE TABLE renamed (id integer, tenant_id text);
CREATE TABLE above (id integer, tenant_id text);
CREATE TABLE below (id integer, tenant_id text);
SELECT tenancy.protect('drifting', reference => true), tenancy.protect('renamed', create_index => false), tenancy.protect('below');
SET tenancy.restoring = on;
ALTER TABLE drifting DROP CONSTRAINT tenancy_reference;
DROP POLICY tenancy_isolation ON drifting;
ALTER TABLE renamed RENAME tenant_id TO "New Name";
ALTER TABLE below INHERIT above;
ALTER TABLE "Weird Table" DISABLE TRIGGER tenancy_meter_delete;
RESET tenancy.restoring;
SELECT * FROM pg_temp.findings('missing|parent');
SELECT pg_temp.remedies('missing|parent') \gexec
SELECT * FROM pg_temp.findings('missing|altered|parent');
-- A table that was dropped while nothing looked.
CREATE TABLE gone (id integer, tenant_id text);
SELECT tenancy.protect('gone');
ALTER EVENT TRIGGER tenancy_forget_dropped DISABLE;
DROP TABLE gone;
SELECT rule, severity, problem FROM tenancy.lint('info') WHERE rule IN ('table_gone', 'guard_disabled');
-- The remedy names the table by its number.
DO $$ DECLARE line text; BEGIN FOR line IN SELECT pg_temp.remedies('table_gone|guard_disabled', '') LOOP EXECUTE line; END LOOP; END $$;
SELECT count(*) FROM tenancy.lint('info') WHERE rule IN ('table_gone', 'guard_disabled');

-- Policies.
CREATE FUNCTION ctx() RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT current_setting('app.tenant', true)$$;
CREATE POLICY "Weird Folded" ON drifting AS RESTRICTIVE USING (tenant_id = ctx());
CREATE POLICY idle ON drifting USING (id > 0);
CREATE POLICY idle_too ON drifting AS RESTRICTIVE USING (true);
CREATE POLICY broad ON drifting USING (id > 0 OR true);
CREATE POLICY narrow ON drifting AS RESTRICTIVE FOR SELECT USING (id > 0);   -- as it should be
SELECT * FROM pg_temp.findings('policy|immutable');
SELECT pg_temp.remedies('policy|immutable') \gexec
SELECT * FROM pg_temp.findings('policy|immutable');

-- Which conditions are known to be true of every row, and which are, of rows with every kind of null: none that hides one is found.
CREATE TABLE wide (id integer NOT NULL, tenant_id text, "The Code" varchar(9) NOT NULL, note text, flag boolean);
SELECT tenancy.protect('wide', access_policy => false);
CREATE TABLE forms (n integer GENERATED ALWAYS AS IDENTITY, condition text, found boolean, is_true boolean);
INSERT INTO forms (condition) VALUES ('true'), ('1 = 1'), ($$'a' = 'a'$$), ($$'it''s' = 'it''s'$$), ('id IS NOT NULL'), ('"The Code" IS NOT NULL'), ('"The Code" = "The Code"'),
    ('tenant_id = tenant_id'), ($$note = 'x' OR 1 = 1$$), ($$1 = 1 OR note = 'x' AND flag$$), ('flag OR true OR id = 2'), ($$(note = 'x' AND flag) OR id = id$$),
    -- With a parenthesis in a literal, at any depth of ORs, beside a CASE, and a literal that is compared as text.
    ($$note <> '(' OR true$$), ($$note = 'x' OR (flag OR true)$$), ($$(note = 'x' OR id = 2) OR (note = 'y' OR (flag OR "The Code" = "The Code"))$$),
    ($$true OR CASE WHEN flag THEN false ELSE flag END$$), ($$')'::varchar = ')'::varchar$$),
    -- As it should be.
    ('false'), ('1 = 0'), ($$'a' = 'b'$$), ('NULL = NULL'), ('NULL::boolean'), ('flag'), ('flag = true'), ('note IS NOT NULL'), ('note = note'), ('id IS NULL'), ('id = 1'),
    ('id = id AND flag'), ('(flag OR true) AND id = 1'), ('(flag OR true) = (id = 1)'), ('NOT (flag OR true)'), ('id = 1 OR (id = 2 AND (flag OR true OR id = 3))'),
    ($$note = 'a OR true'$$), ($$note = 'x' OR note = ' OR true OR '$$), ($$note = '1 = 1'$$), ($$note = ') OR true OR ('$$), ($$'(' = ')'$$),
    ($$coalesce(note = 'x' OR true, false) AND flag$$), ($$note = 'x' OR (flag AND (note = 'y' OR true))$$), ($$note = 'x' OR NOT (flag OR true)$$),
    ($$CASE WHEN flag OR true THEN false ELSE true END$$), ('id IN (SELECT 9 WHERE flag OR true)'), ($$current_setting('a.b', true) = 'x'$$), ($$tenant_id = current_setting('a.b', true)$$),
    ($$current_user = 'somebody'$$), ('EXISTS (SELECT FROM forms f WHERE f.n = wide.id + 100 OR false)'), ('(id = id) IS NULL'),
    -- True, and not known.
    ('2 > 1'), ('NOT false'), ('current_user = current_user'), ('id IS NOT NULL AND 1 = 1'), ('(SELECT true)');
DO $$ DECLARE f record; BEGIN
    FOR f IN SELECT * FROM forms LOOP
        EXECUTE format('CREATE POLICY %I ON wide FOR SELECT USING (%s)', f.n, f.condition);
        EXECUTE format('UPDATE forms SET is_true = (SELECT bool_and(coalesce(%s, false)) FROM (VALUES (1, ''acme'', ''a'', ''x'', true), (2, ''globex'', ''b'', NULL, NULL), (3, ''acme'', ''c'', ''y'', false))
                        AS wide(id, tenant_id, "The Code", note, flag)) WHERE n = $1', f.condition) USING f.n;
    END LOOP;
END $$;
UPDATE forms f SET found = EXISTS (SELECT FROM tenancy.lint() l WHERE l.key = format('policy_open:"Lint Too".wide:%s', f.n));
SELECT found, is_true, condition FROM forms ORDER BY n;
-- The same of WITH CHECK, and of restrictive policies, of which both have to be true.
CREATE POLICY written ON wide FOR INSERT WITH CHECK (note = 'x' OR 1 = 1);
CREATE POLICY written_not ON wide FOR INSERT WITH CHECK (note = 'x');
CREATE POLICY narrows ON wide AS RESTRICTIVE USING (1 = 1) WITH CHECK (note = 'x');
CREATE POLICY narrows_not ON wide AS RESTRICTIVE USING (1 = 1) WITH CHECK (id IS NOT NULL);
CREATE POLICY narrows_neither ON wide AS RESTRICTIVE;
SELECT rule, problem FROM pg_temp.findings('policy') WHERE object ~ 'wide' AND problem ~ 'policy (written|narrows)';
-- Beside tenancy_access, each that is not open is idle.
SELECT tenancy.protect('wide', access_policy => true);
SELECT rule, count(*) FROM pg_temp.findings('policy') WHERE object ~ 'wide' GROUP BY rule ORDER BY rule;
DROP TABLE wide, forms;

-- What reads with other rights.
CREATE ROLE regress_lint_owner;
GRANT USAGE, CREATE ON SCHEMA "Lint Too" TO regress_lint_owner;
CREATE MATERIALIZED VIEW "Weird Kept" AS SELECT * FROM "Weird Table";
ALTER MATERIALIZED VIEW "Weird Kept" OWNER TO regress_lint_owner;
CREATE VIEW over_kept AS SELECT * FROM "Weird Kept";
ALTER VIEW over_kept OWNER TO regress_lint_owner;
GRANT SELECT ON over_kept TO regress_lint_too;
CREATE PROCEDURE by_procedure() LANGUAGE plpgsql SECURITY DEFINER SET search_path = "Lint Too", public AS 'BEGIN PERFORM FROM "Weird Table"; END';
CREATE FUNCTION pg_temp_first() RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_temp, public AS 'BEGIN RETURN 1; END';
CREATE FUNCTION no_path() RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path = '' AS 'BEGIN RETURN 1; END';   -- as it should be
CREATE FUNCTION enter(t text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$BEGIN PERFORM set_config('tenancy.tenant_id', t, true); END$$;
CREATE FUNCTION enter_parsed(t text) RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp BEGIN ATOMIC SELECT tenancy.set_tenant(t); END;
CREATE FUNCTION enter_fixed() RETURNS integer LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET tenancy.tenant_id = 'acme' AS 'SELECT 1';
CREATE FUNCTION enter_owned(t text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$BEGIN PERFORM tenancy.set_tenant(t); END$$;
ALTER FUNCTION enter_owned OWNER TO "Weird Role";
-- As it should be: of an owner who may set no tenant, that others may not call, that only reads it, and of its caller's rights.
CREATE FUNCTION enter_not(t text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$BEGIN PERFORM tenancy.set_tenant(t); END$$;
ALTER FUNCTION enter_not OWNER TO regress_lint_owner;
CREATE FUNCTION enter_kept(t text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$BEGIN PERFORM tenancy.set_tenant(t); END$$;
REVOKE EXECUTE ON FUNCTION enter_kept FROM PUBLIC;
CREATE FUNCTION enter_reads() RETURNS text LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$BEGIN RETURN current_setting('tenancy.tenant_id'); END$$;
CREATE FUNCTION enter_own(t text) RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM tenancy.set_tenant(t); END$$;
SELECT * FROM pg_temp.findings('view|definer');
SELECT pg_temp.remedies('view_bypasses|definer') \gexec
SELECT * FROM pg_temp.findings('view_bypasses|definer');
SELECT p.proname, p.prosecdef, p.proconfig FROM pg_proc p WHERE p.pronamespace = '"Lint Too"'::regnamespace AND p.proname ~ 'by_|pg_temp|fixed' ORDER BY 1;

-- Views that show what the extension keeps of all tenants.
CREATE VIEW "Weird Tenants" AS SELECT id, name FROM tenancy.tenants;
CREATE VIEW over_tenants AS SELECT * FROM "Weird Tenants";
CREATE MATERIALIZED VIEW kept_users AS SELECT * FROM _tenancy.users WHERE id <> current_user;
CREATE VIEW all_usage AS SELECT * FROM _tenancy.usage;
GRANT SELECT ON over_tenants, all_usage TO regress_lint_too;
GRANT SELECT (id) ON "Weird Tenants" TO "Weird Role";
GRANT SELECT ON kept_users TO PUBLIC;
-- The name of the reader beside every row, and in a literal; each owner may read what his view does, in part.
CREATE VIEW signed AS SELECT t.id, current_user AS by FROM tenancy.tenants t WHERE t.name <> 'CURRENT_USER';
CREATE VIEW lent AS SELECT id FROM "Weird Tenants";
CREATE VIEW over_lent AS SELECT id FROM lent;
CREATE VIEW lent_columns AS SELECT id FROM tenancy.tenants;
ALTER VIEW lent OWNER TO regress_lint_owner;
ALTER VIEW lent_columns OWNER TO regress_lint_owner;
GRANT SELECT (id) ON "Weird Tenants" TO regress_lint_owner;
GRANT SELECT (id) ON tenancy.tenants TO regress_lint_owner;
GRANT USAGE ON SCHEMA tenancy TO regress_lint_owner;
GRANT SELECT ON signed, over_lent, lent, lent_columns TO regress_lint_too;
-- As it should be: of the caller's tenant, with the caller's rights, over a view that everybody may read, of an owner whom policies bind, not for
-- applications, and without the right to read it.
CREATE VIEW own_tenant AS SELECT id, name FROM tenancy.tenants WHERE id = tenancy.current_tenant();
CREATE VIEW over_own_tenant AS SELECT * FROM own_tenant;
CREATE VIEW invoked WITH (security_invoker = true) AS SELECT id, name FROM tenancy.tenants;
CREATE VIEW own_members AS SELECT * FROM tenancy.members;
CREATE VIEW own_usage AS SELECT * FROM tenancy.usage_records;
CREATE VIEW for_administrators AS SELECT * FROM tenancy.tenants;
CREATE VIEW unreadable AS SELECT * FROM tenancy.users;
CREATE VIEW over_unreadable AS SELECT * FROM unreadable;
CREATE VIEW over_invoked AS SELECT * FROM invoked;
CREATE VIEW over_records AS SELECT * FROM tenancy.usage_records;
-- Beside a protected table of an owner whom policies bind, by what a function or a role says, and for those who administer.
CREATE FUNCTION mine(text) RETURNS boolean LANGUAGE sql STABLE AS $$SELECT $1 = tenancy.current_tenant()$$;
CREATE VIEW joined AS SELECT w.id, t.id AS tenant FROM "Weird Table" w JOIN tenancy.tenants t ON t.id = w."The Tenant";
CREATE VIEW over_joined AS SELECT * FROM joined;
CREATE VIEW by_context AS SELECT t.id FROM tenancy.tenants t, (SELECT tenancy.context() ->> 'tenant_id' AS id) c WHERE c.id = t.id;
CREATE VIEW by_membership AS SELECT id FROM tenancy.tenants WHERE tenancy.is_member(tenancy.current_user_id(), id) OR tenancy.has_role('admin');
CREATE VIEW by_role AS SELECT id FROM tenancy.tenants WHERE id = CURRENT_ROLE;
CREATE VIEW by_mine AS SELECT id FROM tenancy.tenants WHERE mine(id);
CREATE VIEW for_support AS SELECT id FROM tenancy.tenants;
CREATE ROLE regress_lint_support LOGIN;
CREATE ROLE regress_lint_bypass LOGIN BYPASSRLS;
GRANT SELECT ON "Weird Table" TO regress_lint_owner, regress_lint_support, regress_lint_bypass;
GRANT pg_read_all_data TO regress_lint_support;
GRANT SELECT ON for_support TO regress_lint_support, regress_lint_bypass;
ALTER VIEW joined OWNER TO regress_lint_owner;
ALTER VIEW own_usage OWNER TO regress_lint_owner;
ALTER VIEW unreadable OWNER TO regress_lint_owner;
GRANT SELECT ON own_tenant, over_own_tenant, invoked, own_members, own_usage, unreadable, over_unreadable, over_invoked, over_records,
    joined, over_joined, by_context, by_membership, by_role, by_mine TO PUBLIC;
GRANT SELECT ON for_administrators TO regress_lint_owner;
SELECT * FROM pg_temp.findings('private_shown');
BEGIN;
SELECT tenancy.create_tenant('lint_too', 'Seen'), tenancy.create_tenant('lint_mine', 'Mine');
SET LOCAL ROLE "Weird Role";
SELECT has_table_privilege('tenancy.tenants', 'SELECT') AS may_read;
SET LOCAL tenancy.tenant_id = 'lint_mine';
SELECT id FROM "Weird Tenants" WHERE id ~ '^lint_' ORDER BY id;
SELECT id FROM over_own_tenant WHERE id ~ '^lint_' ORDER BY id;
-- What is found shows both tenants, and what is not, no other.
SET LOCAL ROLE regress_lint_too;
SELECT (SELECT array_agg(id ORDER BY id) FROM signed WHERE id ~ '^lint_') AS signed, (SELECT array_agg(id ORDER BY id) FROM over_lent WHERE id ~ '^lint_') AS over_lent,
       (SELECT array_agg(id ORDER BY id) FROM lent_columns WHERE id ~ '^lint_') AS lent_columns;
SET LOCAL ROLE "Weird Role";
INSERT INTO "Weird Table" DEFAULT VALUES;
SET LOCAL tenancy.tenant_id = 'lint_too';
INSERT INTO "Weird Table" DEFAULT VALUES;
SELECT (SELECT array_agg(DISTINCT tenant) FROM over_joined) AS joined, (SELECT array_agg(id) FROM by_context) AS by_context, (SELECT array_agg(id) FROM by_membership) AS by_membership,
       (SELECT array_agg(id) FROM by_mine) AS by_mine;
SAVEPOINT denied;
SELECT * FROM over_invoked;      -- SHOULD FAIL
ROLLBACK TO denied;
SELECT * FROM over_unreadable;   -- SHOULD FAIL
ROLLBACK;
SELECT pg_temp.remedies('private_shown') \gexec
SELECT * FROM pg_temp.findings('private_shown');
-- What the owner of a view may read no more is shown by none of those over it; of an owner who bypasses policies, what is joined is.
GRANT SELECT ON over_lent TO regress_lint_too;
SELECT object FROM pg_temp.findings('private_shown');
REVOKE SELECT (id) ON "Weird Tenants" FROM regress_lint_owner;
ALTER VIEW joined OWNER TO CURRENT_USER;
SELECT object FROM pg_temp.findings('private_shown');
DROP OWNED BY regress_lint_support, regress_lint_bypass;
DROP ROLE regress_lint_support, regress_lint_bypass;
DROP VIEW joined, lent, lent_columns, for_support CASCADE;
REVOKE SELECT (id) ON tenancy.tenants FROM regress_lint_owner;
REVOKE USAGE ON SCHEMA tenancy FROM regress_lint_owner;
REVOKE SELECT ON "Weird Table" FROM regress_lint_owner;

-- A name that does not end with its line runs nothing of its own where a remedy is pasted.
CREATE FUNCTION "newline
ALTER ROLE regress_lint_too SUPERUSER; --"() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN (SELECT count(*) FROM "Lint Too"."Weird Table"); END';
CREATE TABLE "newline
ALTER ROLE regress_lint_too SUPERUSER; --" (x text PRIMARY KEY, tenant_id text, h text, p point, EXCLUDE USING gist (p WITH ~=));
CREATE TABLE "refers
ALTER ROLE regress_lint_too SUPERUSER; --" (x text REFERENCES "newline
ALTER ROLE regress_lint_too SUPERUSER; --");
SELECT tenancy.protect('"newline
ALTER ROLE regress_lint_too SUPERUSER; --"');
-- What is left outside of quotes and comments, whichever of them begins first; the control is a comment that does not hold.
SELECT l.rule, r.left_over ~ 'SUPERUSER' AS runs, l.remedy ~ 'First let' AS says_who_refers
FROM (SELECT * FROM tenancy.lint('info') UNION ALL SELECT 'control', 'info', '', '', E'-- See "a\nALTER ROLE x SUPERUSER; --".', 'refers') l,
     LATERAL (SELECT regexp_replace(l.remedy, '--[^\n]*|"[^"]*"|''[^'']*''', '?', 'g')) r(left_over)
WHERE l.key ~ 'newline|refers' ORDER BY l.key COLLATE "C", l.rule COLLATE "C";
DROP FUNCTION "newline
ALTER ROLE regress_lint_too SUPERUSER; --"();
DROP TABLE "refers
ALTER ROLE regress_lint_too SUPERUSER; --", "newline
ALTER ROLE regress_lint_too SUPERUSER; --";

-- Publications: each table that is listed, a schema, everything.
CREATE TABLE of_nobody (id integer);
CREATE PUBLICATION lint_too_listed FOR TABLE "Weird Table", drifting, of_nobody;
CREATE PUBLICATION lint_too_schema FOR TABLES IN SCHEMA "Lint Too";
CREATE PUBLICATION lint_too_all FOR ALL TABLES;
SELECT rule, severity, object, regexp_replace(problem, '(?<=of all tenants of ).* and \d+ more', '... and more') FROM pg_temp.findings('publication');
SELECT pg_temp.remedies('publication') \gexec
SELECT * FROM pg_temp.findings('publication');
SELECT pubname, tablename FROM pg_publication_tables WHERE pubname ~ 'lint_too';
DROP PUBLICATION lint_too_listed, lint_too_schema;
-- Row filters that do not tell tenants apart, a list of columns with the tenant's beside one of them; and those of one tenant.
CREATE PUBLICATION lint_too_true FOR TABLE "Weird Table" WHERE (true);
CREATE PUBLICATION lint_too_id FOR TABLE "Weird Table" WHERE (id > 0);
CREATE PUBLICATION lint_too_columns FOR TABLE "Weird Table" (id, "The Tenant") WHERE (id > 0);
CREATE PUBLICATION lint_too_any FOR TABLE "Weird Table" WHERE ("The Tenant" IS NOT NULL);
CREATE PUBLICATION lint_too_or FOR TABLE "Weird Table" WHERE ("The Tenant" = 'acme' OR 1 = 1);
CREATE PUBLICATION lint_too_acme FOR TABLE "Weird Table" WHERE ("The Tenant" = 'acme'), drifting (id, tenant_id) WHERE (id > 0 AND tenant_id IN ('acme', 'globex'));
SELECT * FROM pg_temp.findings('publication');
SELECT pg_temp.remedies('publication') \gexec
SELECT * FROM pg_temp.findings('publication');
DROP PUBLICATION lint_too_true, lint_too_id, lint_too_columns, lint_too_any, lint_too_or, lint_too_acme;

-- Parameters that are left on, and event triggers that do not fire; the last of them not even there.
SET tenancy.restoring = on;
ALTER DATABASE regress SET tenancy.restoring = 'yes';
ALTER ROLE "Weird Role" IN DATABASE regress SET tenancy.restoring = on;
ALTER ROLE regress_lint_owner SET tenancy.restoring = off;     -- as it should be
ALTER EVENT TRIGGER tenancy_guard_ddl ENABLE;
ALTER EVENT TRIGGER tenancy_guard_drop DISABLE;
SELECT rule, severity, object, problem FROM tenancy.lint() WHERE rule IN ('restoring_left_on', 'guard_disabled');
SELECT pg_temp.remedies('restoring_left_on|guard_disabled', '') \gexec
SELECT count(*) FROM tenancy.lint() WHERE rule IN ('restoring_left_on', 'guard_disabled');
SHOW tenancy.restoring;
BEGIN;
ALTER EXTENSION tenancy DROP EVENT TRIGGER tenancy_guard_drop;
DROP EVENT TRIGGER tenancy_guard_drop;
SELECT rule, severity, object, problem FROM tenancy.lint() WHERE rule IN ('restoring_left_on', 'guard_disabled');
SELECT pg_temp.remedies('guard_disabled', '') \gexec
SELECT count(*) FROM tenancy.lint() WHERE rule IN ('restoring_left_on', 'guard_disabled');
ROLLBACK;
GRANT SET ON PARAMETER lo_compat_privileges TO "Weird Role";
SELECT * FROM pg_temp.findings('parameter');
SELECT pg_temp.remedies('parameter') \gexec

-- Roles that can be another, who has what it has not.
CREATE ROLE regress_lint_stream REPLICATION;
CREATE ROLE regress_lint_maker CREATEROLE;
GRANT regress_lint_stream, regress_lint_maker TO "Weird Role";
SELECT * FROM pg_temp.findings('^role_') WHERE severity <> 'info';
SELECT pg_temp.remedies('role_reaches|role_makes') \gexec
SELECT * FROM pg_temp.findings('^role_') WHERE severity <> 'info';
-- Recommendations, whose remedies are for a whole database: undone.
BEGIN;
GRANT CREATE ON SCHEMA "Lint Too" TO "Weird Role";
SELECT * FROM pg_temp.findings('statements|temporary|schema_create|may_set_tenant') WHERE object ~ 'Weird';
SELECT pg_temp.remedies('statements|temporary|schema_create', 'Weird') \gexec
SELECT * FROM pg_temp.findings('statements|temporary|schema_create|may_set_tenant') WHERE object ~ 'Weird';
ROLLBACK;
SELECT lo_create(424242) \gset
GRANT SELECT ON LARGE OBJECT 424242 TO regress_lint_too;
SELECT rule, severity, problem, remedy FROM tenancy.lint('info') WHERE rule = 'large_objects';
SELECT lo_unlink(424242);

-- Who accepted a warning has not accepted the error that it has become.
CREATE TABLE legacy (tenant_id text);
SELECT tenancy.accept_finding('table_unprotected:"Lint Too".legacy', 'nobody reads it');
SELECT * FROM pg_temp.findings('table_unprotected');
GRANT SELECT ON legacy TO regress_lint_too;
SELECT * FROM pg_temp.findings('table_unprotected');
SELECT tenancy.accept_finding('table_unprotected:"Lint Too".legacy', 'it is empty');
SELECT * FROM pg_temp.findings('table_unprotected');
SET tenancy.tenant_id = 'acme';
SELECT tenancy.accept_finding('table_unprotected:"Lint Too".legacy', 'x');   -- SHOULD FAIL
SELECT tenancy.unaccept_finding('table_unprotected:"Lint Too".legacy');      -- SHOULD FAIL
RESET tenancy.tenant_id;
-- Members of pg_monitor see what a superuser sees, and accept nothing.
SELECT count(*) AS seen, count(DISTINCT key) = count(*) AS keys_differ FROM tenancy.lint('info') \gset
GRANT pg_monitor TO regress_lint_owner;
SET ROLE regress_lint_owner;
SELECT count(*) = :seen AS as_much, :'keys_differ' AS keys_differ FROM tenancy.lint('info') WHERE NOT (rule = 'role_predefined' AND object = 'regress_lint_owner');
SELECT tenancy.unaccept_finding('table_unprotected:"Lint Too".legacy');      -- SHOULD FAIL
RESET ROLE;
SELECT tenancy.unaccept_finding('table_unprotected:"Lint Too".legacy');
-- It changes nothing, and what is meant for all tenants is no bypass.
SET tenancy.bypass_guard = 'refuse';
BEGIN READ ONLY;
SELECT count(*) > 0 AS found FROM tenancy.lint('info');
COMMIT;
RESET tenancy.bypass_guard;

SELECT tenancy.unmeter('"Weird Table"', 'lint_too');
DROP SCHEMA "Lint Too" CASCADE;
DROP OWNED BY regress_lint_too, "Weird Role", regress_lint_owner, regress_lint_stream, regress_lint_maker CASCADE;
DROP ROLE regress_lint_too, "Weird Role", regress_lint_owner, regress_lint_stream, regress_lint_maker;

-- What was renamed where the event triggers did not fire; and an operator that is trusted and gone.
SET client_min_messages = warning;
CREATE SCHEMA was;
SELECT tenancy.protect_schema('was');
ALTER EVENT TRIGGER tenancy_after_schema DISABLE;
ALTER SCHEMA was RENAME TO is_now;
ALTER EXTENSION tenancy DROP EVENT TRIGGER tenancy_before_schema;
DROP EVENT TRIGGER tenancy_before_schema;
INSERT INTO _tenancy.leakproof_operators VALUES ('public.===(text,text)', 'gone', 'same');
RESET client_min_messages;
SELECT rule, severity, object, problem FROM tenancy.lint('info') WHERE rule IN ('guard_disabled', 'protected_schema', 'trusted_operator') ORDER BY rule, object;
SELECT replace(remedy, '<its name now>', 'is_now') FROM tenancy.lint('info') WHERE rule IN ('guard_disabled', 'protected_schema', 'trusted_operator') ORDER BY rule, object \gexec
SELECT count(*) FROM tenancy.lint('info') WHERE rule IN ('guard_disabled', 'protected_schema', 'trusted_operator');
SELECT evtname, evtevent, evtenabled, evttags FROM pg_event_trigger WHERE evtname ~ 'schema' ORDER BY 1;
SELECT schema FROM tenancy.protected_schemas;
SELECT tenancy.unprotect_schema('is_now');
DROP SCHEMA is_now;
