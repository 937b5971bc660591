-- lint(): what weakens isolation is found, each next to a twin that is not; what mends it is executed, and the finding is gone.
\set VERBOSITY default
SET client_min_messages = warning;
CREATE SCHEMA lint;
SET search_path = lint, public;
CREATE FUNCTION pg_temp.findings() RETURNS TABLE (rule text, severity text, object text, problem text) LANGUAGE sql AS $$
    SELECT l.rule, l.severity, l.object, l.problem FROM tenancy.lint('info') l
    WHERE l.key ~ 'lint\.|regress_lint' ORDER BY l.rule COLLATE "C", l.object COLLATE "C", l.problem COLLATE "C" $$;
-- Executes the remedy of each finding of a rule, and tells what is left of it.
CREATE FUNCTION pg_temp.mend(the_rule text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    item record;
    line text;
BEGIN
    FOR item IN SELECT * FROM tenancy.lint('info') l WHERE l.rule = the_rule AND l.key ~ 'lint\.|regress_lint' LOOP
        FOREACH line IN ARRAY string_to_array(item.remedy, E';\n') LOOP
            line := regexp_replace(replace(line, 'CONCURRENTLY ', ''), '^--[^\n]*\n?', '');
            IF line <> '' THEN
                EXECUTE line;
            END IF;
        END LOOP;
    END LOOP;
    RETURN QUERY SELECT l.object || ': ' || l.problem FROM tenancy.lint('info') l WHERE l.rule = the_rule AND l.key ~ 'lint\.|regress_lint';
END $$;

-- An empty schema, and one under nothing but protect, partitions, foreign keys, views and functions as they should be.
SELECT * FROM pg_temp.findings();
CREATE TABLE good (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id text, code text, UNIQUE (tenant_id, code));
CREATE TABLE good_child (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), tenant_id text, good_id bigint REFERENCES good);
CREATE TABLE good_parts (id integer, tenant_id uuid) PARTITION BY RANGE (id);
CREATE TABLE good_part PARTITION OF good_parts FOR VALUES FROM (0) TO (10);
CREATE TABLE good_shared (id serial PRIMARY KEY, org bigint);
CREATE TABLE good_audit (tenant_id text, what text);
CREATE TABLE good_system (code text PRIMARY KEY);
CREATE TABLE "Good Name" ("The Tenant" integer);
SELECT tenancy.protect('good'), tenancy.protect('good_child'), tenancy.protect('good_parts'), tenancy.protect('good_shared', 'shared', 'org'),
       tenancy.protect('good_audit', 'audit'), tenancy.protect('good_system', 'system'), tenancy.protect('"Good Name"', tenant_column => 'The Tenant');
CREATE ROLE regress_lint_app LOGIN;
CREATE ROLE regress_lint_owner;
GRANT USAGE ON SCHEMA lint TO regress_lint_app, regress_lint_owner;
GRANT SELECT, INSERT, UPDATE, DELETE ON good, good_child, good_parts, good_shared, good_audit, "Good Name" TO regress_lint_app, regress_lint_owner;
GRANT SELECT ON good_system TO regress_lint_app;
GRANT USAGE ON SEQUENCE good_shared_id_seq TO regress_lint_app;
CREATE VIEW good_view WITH (security_invoker = true) AS SELECT * FROM good;
CREATE VIEW good_owned AS SELECT * FROM good;
ALTER VIEW good_owned OWNER TO regress_lint_owner;
GRANT SELECT ON good_view, good_owned TO regress_lint_app;
CREATE FUNCTION good_definer() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT count(*) FROM lint.good';
ALTER FUNCTION good_definer() OWNER TO regress_lint_owner;
CREATE FUNCTION good_kept() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT count(*) FROM lint.good';
REVOKE EXECUTE ON FUNCTION good_kept() FROM PUBLIC;
SELECT rule, severity, object FROM pg_temp.findings() WHERE severity <> 'info';

-- Tables.
CREATE TABLE open (id integer, tenant_id text);
GRANT SELECT ON open TO regress_lint_app;
CREATE TABLE open_ungranted (tenant_id text);
CREATE TABLE open_policy (tenant_id text);
ALTER TABLE open_policy ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON open_policy USING (tenant_id = current_user);
CREATE TABLE open_wide (id integer NOT NULL, tenant_id text);
ALTER TABLE open_wide ENABLE ROW LEVEL SECURITY;
CREATE POLICY wide ON open_wide USING (id IS NOT NULL);        -- hides nothing
GRANT SELECT ON open_policy, open_wide TO regress_lint_app;
CREATE TABLE open_org (org bigint);
CREATE TABLE not_that_org (org text);                          -- of another type than the column of that name that is known
CREATE TABLE open_type (tenant_id numeric);
CREATE TABLE forgotten (code text);
GRANT SELECT ON forgotten TO regress_lint_app;
CREATE FOREIGN DATA WRAPPER regress_lint_fdw;
CREATE SERVER regress_lint_server FOREIGN DATA WRAPPER regress_lint_fdw;
CREATE FOREIGN TABLE far (tenant_id text) SERVER regress_lint_server;
GRANT SELECT ON far TO regress_lint_app;
SELECT * FROM pg_temp.findings() WHERE object ~ 'open|org|forgotten|far';
DROP TABLE open_wide;
SELECT * FROM pg_temp.mend('table_unprotected');
SELECT * FROM pg_temp.mend('tenant_column_type');
SELECT * FROM pg_temp.mend('table_uncategorised');
SELECT * FROM pg_temp.mend('foreign_table');
SELECT * FROM pg_temp.findings() WHERE object ~ 'open|org|forgotten|far' AND severity <> 'info';

-- Drift, policies, privileges.
SET tenancy.restoring = on;
ALTER TABLE good NO FORCE ROW LEVEL SECURITY;
ALTER POLICY tenancy_isolation ON good_child USING (true);
ALTER TABLE good_part DISABLE ROW LEVEL SECURITY;
ALTER TABLE good_audit DISABLE TRIGGER tenancy_guard;
ALTER TABLE "Good Name" ALTER COLUMN "The Tenant" DROP NOT NULL, ALTER COLUMN "The Tenant" DROP DEFAULT;
DROP INDEX "tenancy_Good Name_tenant";
CREATE TABLE later PARTITION OF good_parts FOR VALUES FROM (10) TO (20);
CREATE TABLE later_granted PARTITION OF good_parts FOR VALUES FROM (20) TO (30);
GRANT SELECT (id) ON later_granted TO regress_lint_app;
RESET tenancy.restoring;
CREATE POLICY oops ON good USING (true);
CREATE POLICY narrow ON good AS RESTRICTIVE USING (code <> '');   -- narrows: no finding
CREATE FUNCTION ctx() RETURNS text LANGUAGE sql IMMUTABLE AS $$SELECT current_setting('app.tenant')$$;
CREATE POLICY folded ON good_audit AS RESTRICTIVE USING (tenant_id = lint.ctx());
GRANT TRUNCATE ON good TO regress_lint_app;
GRANT REFERENCES (code) ON good TO PUBLIC;
GRANT TRIGGER ON good_system TO regress_lint_app;
GRANT UPDATE ON SEQUENCE good_shared_id_seq TO regress_lint_app;
SELECT * FROM pg_temp.findings() WHERE rule ~ 'drift|policy|immutable|grant|sequence|partition|forced|disabled|missing|altered|nullable|index|default|parent' AND rule <> 'parameter_granted';
-- lint looks for drift at all tables at once; one by one, protected_tables says the same. Grants and partitions are worded otherwise.
SET search_path = pg_catalog;                                  -- as lint has it, which decides how a table is named
CREATE TEMP VIEW at_once AS SELECT d.object, d.problem FROM _tenancy.lint_drift d
    WHERE d.rule NOT IN ('partition_unprotected', 'parent_unprotected', 'meter_missing', 'table_gone');
CREATE TEMP VIEW one_by_one AS SELECT t.relation::text, d.problem FROM tenancy.protected_tables t, unnest(t.drift) AS d(problem)
    WHERE d.problem !~ ' (is granted to .*|is not protected)$';
SELECT count(*) FROM at_once;
TABLE at_once EXCEPT TABLE one_by_one;
TABLE one_by_one EXCEPT TABLE at_once;
DROP VIEW at_once, one_by_one;
SET search_path = lint, public;
\pset format unaligned
SELECT rule, remedy FROM tenancy.lint('info') WHERE key ~ 'lint\.' AND rule ~ 'drift|policy|immutable|grant|sequence|partition|forced|disabled|missing|altered|nullable|index|default' ORDER BY key COLLATE "C";
\pset format aligned
SELECT DISTINCT pg_temp.mend(rule) FROM tenancy.lint('info') WHERE key ~ 'lint\.' AND rule ~ 'drift|policy|grant|sequence|partition|forced|disabled|missing|altered|nullable|index|default';
SELECT * FROM pg_temp.findings() WHERE severity <> 'info';
DROP POLICY folded ON good_audit;
DROP FUNCTION ctx();

-- Keys.
CREATE TABLE natural_key (email text PRIMARY KEY, tenant_id text, during tstzrange, EXCLUDE USING gist (during WITH &&));
CREATE UNIQUE INDEX natural_index ON natural_key (lower(email));
CREATE TABLE loose (id integer, tenant_id text, good_id bigint);
CREATE TABLE outside (good_id bigint REFERENCES good);
GRANT SELECT ON outside TO regress_lint_app;
SELECT tenancy.protect('natural_key'), tenancy.protect('loose');
ALTER TABLE loose ADD CONSTRAINT loose_good FOREIGN KEY (good_id) REFERENCES good;
SELECT * FROM pg_temp.findings() WHERE object ~ 'natural|loose|outside' AND severity <> 'info';
SELECT * FROM pg_temp.mend('foreign_key_across_tenants');
\d loose
\pset format unaligned
SELECT problem, remedy FROM tenancy.lint() WHERE key ~ 'lint\.(natural|outside)' ORDER BY key COLLATE "C";
\pset format aligned
DROP TABLE natural_key, outside;

-- Readers.
CREATE VIEW leaky AS SELECT * FROM good;
CREATE VIEW leaky_over AS SELECT * FROM leaky;
CREATE VIEW leaky_ungranted AS SELECT * FROM good;
CREATE MATERIALIZED VIEW kept AS SELECT * FROM good;
GRANT SELECT ON leaky_over, kept TO regress_lint_app;
CREATE FUNCTION by_text() RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RETURN (SELECT count(*) FROM lint.good); END';
CREATE FUNCTION by_body() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp BEGIN ATOMIC SELECT count(*) FROM lint.good; END;
-- Through others: an invoker's, which runs as the definer there, in a text and in a body; one that only its owner may execute; one that runs as
-- an owner whom policies bind; for a materialized view.
CREATE FUNCTION inner_text() RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RETURN (SELECT count(*) FROM lint.good); END';
CREATE FUNCTION outer_text() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT lint . inner_text ()';
CREATE FUNCTION inner_body() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM lint.good; END;
CREATE FUNCTION middle_body() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT lint.inner_body(); END;
CREATE FUNCTION outer_body() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp BEGIN ATOMIC SELECT lint.middle_body(); END;
CREATE FUNCTION owners() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT tenant_id FROM lint.good';
REVOKE ALL ON FUNCTION owners() FROM PUBLIC;
CREATE FUNCTION outer_owners() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT * FROM lint.owners()';
CREATE FUNCTION outer_bound() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT lint.good_definer()';
CREATE FUNCTION outer_loop() RETURNS bigint LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'SELECT lint.outer_loop()';
CREATE MATERIALIZED VIEW kept_through AS SELECT * FROM owners();
CREATE MATERIALIZED VIEW kept_plain AS SELECT inner_body() AS n;
GRANT SELECT ON kept_through, kept_plain TO regress_lint_app;
CREATE FUNCTION by_comment() RETURNS integer LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'BEGIN /* not good */ RETURN 1; -- good
END';
CREATE TABLE elsewhere (body text);
CREATE FUNCTION copy_row() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'BEGIN INSERT INTO lint.elsewhere VALUES (NEW.code); RETURN NEW; END';
CREATE TRIGGER copier AFTER INSERT ON good FOR EACH ROW EXECUTE FUNCTION copy_row();
-- The same by what a trigger calls: of its own, and of another that is SECURITY DEFINER. As its caller it may write where that may.
CREATE FUNCTION write_elsewhere(text) RETURNS void LANGUAGE plpgsql AS 'BEGIN INSERT INTO lint.elsewhere VALUES ($1); END';
CREATE FUNCTION definer_elsewhere(text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'BEGIN PERFORM lint.write_elsewhere($1); END';
CREATE FUNCTION call_far() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'BEGIN PERFORM lint.write_elsewhere(NEW.code); RETURN NEW; END';
CREATE FUNCTION call_definer() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM lint.definer_elsewhere(NEW.code); RETURN NEW; END';
CREATE FUNCTION call_plain() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM lint.write_elsewhere(NEW.code); RETURN NEW; END';
CREATE TRIGGER far AFTER INSERT ON good FOR EACH ROW EXECUTE FUNCTION call_far();
CREATE TRIGGER far_definer AFTER INSERT ON good FOR EACH ROW EXECUTE FUNCTION call_definer();
CREATE TRIGGER plain AFTER INSERT ON good FOR EACH ROW EXECUTE FUNCTION call_plain();
CREATE RULE also AS ON INSERT TO good_child DO ALSO INSERT INTO lint.elsewhere VALUES ('x');
SELECT * FROM pg_temp.findings() WHERE rule ~ 'view|definer|trigger|rule' AND severity <> 'info';
SELECT * FROM pg_temp.mend('view_bypasses');
SELECT * FROM pg_temp.mend('materialized_view');
SELECT * FROM pg_temp.mend('definer_search_path');
SELECT * FROM pg_temp.mend('definer_function');
SELECT * FROM pg_temp.mend('trigger_writes_elsewhere');
SELECT * FROM pg_temp.mend('rule_on_table');
SELECT * FROM pg_temp.findings() WHERE severity <> 'info';

-- A finding that is accepted is named no more, until that is taken back; what is accepted and gone is named.
CREATE TABLE legacy (id integer, tenant_id text);
SELECT rule, key FROM tenancy.lint() WHERE key ~ 'lint\.legacy';
SELECT tenancy.accept_finding('table_unprotected:lint.legacy', 'goes next month');
SELECT rule, key FROM tenancy.lint() WHERE key ~ 'lint\.legacy';
SELECT key, reason, severity, accepted_by FROM tenancy.accepted_findings;
SELECT tenancy.accept_finding('table_unprotected:lint.legacy', 'goes next year');
SELECT reason FROM tenancy.accepted_findings;
SELECT tenancy.accept_finding('table_unprotected:lint.nothing', 'x');   -- SHOULD FAIL
SELECT tenancy.accept_finding('table_unprotected:lint.legacy', ' ');    -- SHOULD FAIL
SELECT tenancy.accept_finding(NULL, 'x');                      -- SHOULD FAIL
SELECT tenancy.unaccept_finding('table_unprotected:lint.legacy');
SELECT tenancy.unaccept_finding('table_unprotected:lint.legacy');       -- SHOULD FAIL
SELECT rule, key FROM tenancy.lint() WHERE key ~ 'lint\.legacy';
SELECT tenancy.accept_finding('table_unprotected:lint.legacy', 'again');
DROP TABLE legacy;
SELECT rule, severity, object, remedy FROM tenancy.lint('info') WHERE rule = 'accepted_and_gone';
SELECT tenancy.unaccept_finding('table_unprotected:lint.legacy');
SELECT * FROM tenancy.lint('fatal');                           -- SHOULD FAIL
SELECT * FROM tenancy.lint(NULL);                              -- SHOULD FAIL
-- What a server lacks; the rule says so of this one where it does.
SELECT version, _tenancy.lint_minor(version) FROM unnest('{140025,150007,150019,150020,160015,160016,170011,170012,180006,180007,190000}'::integer[]) AS version;
SELECT (SELECT count(*) FROM tenancy.lint('info') WHERE rule = 'server_minor') = (_tenancy.lint_minor() IS NOT NULL)::integer AS is_told;
BEGIN;
SET LOCAL allow_system_table_mods = on;
DO $$ BEGIN EXECUTE 'CREATE OR REPLACE VIEW pg_catalog.pg_stats_ext AS '
    || replace(pg_get_viewdef('pg_catalog.pg_stats_ext'::regclass), 'pg_has_role(c.relowner, ''USAGE''::text)', 'true'); END $$;
SELECT rule, severity, object, problem, remedy FROM tenancy.lint() WHERE rule = 'statistics_view';
ROLLBACK;
SELECT count(*) FROM tenancy.lint() WHERE rule = 'statistics_view';
-- Not in the context of a tenant, nor by anybody.
SET tenancy.tenant_id = 'acme';
SELECT * FROM tenancy.lint();                                  -- SHOULD FAIL
SELECT * FROM tenancy.lint_coverage();                         -- SHOULD FAIL
RESET tenancy.tenant_id;
SET ROLE regress_lint_app;
SELECT * FROM tenancy.lint();                                  -- SHOULD FAIL
SELECT * FROM tenancy.accepted_findings;                       -- SHOULD FAIL
RESET ROLE;
SELECT subject, not_examined IS NULL AS uncountable FROM tenancy.lint_coverage();
-- The counts, by what each of these adds. The protected table: three indexes (one is the foreign key's), a foreign key, three policies, two triggers and a rule.
BEGIN;
CREATE TEMP TABLE before AS SELECT * FROM tenancy.lint_coverage();
CREATE TABLE counted (id integer PRIMARY KEY, tenant_id text, parent integer REFERENCES counted);
SELECT tenancy.protect('counted');
CREATE POLICY own ON counted USING (id > 0);
CREATE RULE own AS ON INSERT TO counted DO ALSO NOTHING;
CREATE FUNCTION counted_trigger() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER own AFTER INSERT ON counted EXECUTE FUNCTION counted_trigger();
CREATE TABLE counted_too (id integer);
CREATE TABLE counted_theirs (id integer);
ALTER EXTENSION plpgsql ADD TABLE counted_theirs;
CREATE TEMP TABLE not_counted (id integer);
CREATE VIEW counted_view AS SELECT * FROM counted;
CREATE FUNCTION counted_dynamic() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN EXECUTE ''SELECT''; END';
CREATE FUNCTION counted_dynamic_bound() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN EXECUTE ''SELECT''; END';
ALTER FUNCTION counted_dynamic_bound() OWNER TO regress_lint_owner;
CREATE FUNCTION counted_not() RETURNS integer LANGUAGE internal SECURITY DEFINER AS 'pg_backend_pid';
CREATE FUNCTION not_counted() RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE ROLE regress_lint_counted LOGIN;
CREATE ROLE regress_lint_counted_too;
GRANT SELECT ON counted TO regress_lint_counted, regress_lint_counted_too;
SET LOCAL client_min_messages = error;                         -- wal_level
CREATE PUBLICATION regress_lint_counted FOR TABLE counted_too;
CREATE USER MAPPING FOR regress_lint_counted SERVER regress_lint_server;
ALTER DATABASE template1 IS_TEMPLATE false;
SELECT c.subject, c.examined - b.examined AS examined, c.not_examined - b.not_examined AS not_examined
FROM tenancy.lint_coverage() WITH ORDINALITY c(subject, examined, not_examined, note, place) FULL JOIN before b USING (subject) ORDER BY c.place;
ROLLBACK;
DROP FOREIGN DATA WRAPPER regress_lint_fdw CASCADE;
DROP SCHEMA lint CASCADE;
DROP ROLE regress_lint_app, regress_lint_owner;
