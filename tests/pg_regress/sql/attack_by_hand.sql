-- Attacks that have nothing to do with a setting that anybody may set: by what stands in front of the objects that a helper of a hand-made policy
-- names, and by commands of a table's owner. The hand-made way first: it falls each time.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA shop;
GRANT USAGE ON SCHEMA shop TO PUBLIC;
GRANT USAGE, CREATE ON SCHEMA shop TO regress_owner;
CREATE SCHEMA evil AUTHORIZATION regress_outsider;                 -- of the attacker's own
SET ROLE regress_owner;
SET search_path = shop;
-- Who has signed in; the application says its token, and knows no other. The helpers name everything as their author does, whose path is this one.
CREATE TABLE sessions (token text PRIMARY KEY, tenant text NOT NULL);
INSERT INTO sessions VALUES ('token of acme', 'acme'), ('token of beta', 'beta');
CREATE FUNCTION by_sql() RETURNS text LANGUAGE sql STABLE SECURITY DEFINER AS $$SELECT tenant FROM sessions WHERE token = current_setting('app.token')$$;
CREATE FUNCTION by_plpgsql() RETURNS text LANGUAGE plpgsql STABLE SECURITY DEFINER AS
    $$BEGIN RETURN (SELECT tenant FROM sessions WHERE token = current_setting('app.token')); END$$;
-- This one has a path of its own, and what calls it has none: it becomes part of the query.
CREATE FUNCTION pinned() RETURNS text LANGUAGE sql STABLE SECURITY DEFINER SET search_path = shop, pg_temp AS
    $$SELECT tenant FROM sessions WHERE token = current_setting('app.token')$$;
CREATE FUNCTION is_own(tenant text) RETURNS boolean LANGUAGE sql STABLE AS $$SELECT lower(tenant) = shop.pinned()$$;
CREATE TABLE hand_sql (id integer PRIMARY KEY, tenant_id text NOT NULL, body text);
INSERT INTO hand_sql SELECT n, (ARRAY['acme', 'beta'])[1 + n % 2], (ARRAY['of acme', 'of beta'])[1 + n % 2] FROM generate_series(1, 6) AS n;
CREATE TABLE hand_plpgsql AS TABLE hand_sql;
CREATE TABLE hand_part AS TABLE hand_sql;
CREATE TABLE hand AS TABLE hand_sql;
CREATE TABLE ours AS TABLE hand_sql;
ALTER TABLE hand ALTER tenant_id SET NOT NULL;
CREATE POLICY isolation ON hand_sql USING (tenant_id = by_sql());
CREATE POLICY isolation ON hand_plpgsql USING (tenant_id = by_plpgsql());
CREATE POLICY isolation ON hand_part USING (is_own(tenant_id));
-- What is for everybody has no tenant, as many write it.
CREATE POLICY access ON hand USING (true);
CREATE POLICY isolation ON hand AS RESTRICTIVE USING (tenant_id IS NULL OR tenant_id = current_setting('app.tenant_id'));
CREATE POLICY access ON ours USING (true);
DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY '{hand_sql,hand_plpgsql,hand_part,hand}'::text[] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', t);
    END LOOP;
END$$;
SELECT tenancy.protect('ours');
GRANT SELECT ON hand_sql, hand_plpgsql, hand_part, hand, ours TO regress_outsider, regress_app;
GRANT INSERT ON hand, ours TO regress_app;
RESET ROLE;

-- Whose rows are seen, whatever stands in front of what.
CREATE FUNCTION pg_temp.seen() RETURNS TABLE (relation text, of_acme bigint, of_others bigint) LANGUAGE plpgsql AS $$
BEGIN
    FOREACH relation IN ARRAY '{hand_sql,hand_plpgsql,hand_part,ours}'::pg_catalog.text[] LOOP
        EXECUTE pg_catalog.format('SELECT pg_catalog.count(*) FILTER (WHERE body OPERATOR(pg_catalog.=) ''of acme''),
            pg_catalog.count(*) FILTER (WHERE body OPERATOR(pg_catalog.<>) ''of acme'') FROM shop.%I', relation) INTO of_acme, of_others;
        RETURN NEXT;
    END LOOP;
END$$;
SET app.token = 'token of acme';
SET tenancy.tenant_id = 'acme';
SET ROLE regress_outsider;
SELECT * FROM pg_temp.seen();

-- Temporary tables, a temporary view. They come first without this as well, but for plans that are kept.
SET search_path = pg_temp, shop;
CREATE TEMP TABLE sessions AS SELECT 'token of acme'::text AS token, 'beta'::text AS tenant;
CREATE TEMP TABLE tenants AS SELECT 'acme'::text AS id, 'active'::text AS status;
CREATE TEMP TABLE members AS SELECT 'acme'::text AS tenant_id;
GRANT SELECT ON sessions, tenants, members TO PUBLIC;
SELECT * FROM pg_temp.seen();
DROP TABLE sessions, tenants, members;
CREATE TEMP VIEW sessions AS SELECT 'token of acme'::text AS token, 'beta'::text AS tenant;
GRANT SELECT ON sessions TO PUBLIC;
SELECT * FROM pg_temp.seen();
DROP VIEW sessions;

-- A table, a function and an operator in a schema of the attacker's own.
GRANT USAGE ON SCHEMA evil TO PUBLIC;
CREATE TABLE evil.sessions AS SELECT 'token of acme'::text AS token, 'beta'::text AS tenant;
CREATE TABLE evil.tenants AS SELECT 'acme'::text AS id, 'active'::text AS status;
GRANT SELECT ON ALL TABLES IN SCHEMA evil TO PUBLIC;
SET search_path = evil, shop;
SELECT * FROM pg_temp.seen();
DROP TABLE evil.sessions, evil.tenants;
CREATE FUNCTION evil.lower(text) RETURNS text LANGUAGE sql AS $$SELECT 'acme'::text$$;
CREATE FUNCTION evil.current_tenant() RETURNS text LANGUAGE sql AS $$SELECT 'beta'::text$$;
CREATE FUNCTION evil.current_setting(text) RETURNS text LANGUAGE sql AS $$SELECT 'token of beta'::text$$;
SET search_path = evil, pg_catalog, shop;
SELECT * FROM pg_temp.seen();
DROP FUNCTION evil.lower(text), evil.current_setting(text);
CREATE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE sql AS $$SELECT $1 OPERATOR(pg_catalog.~) 'beta'$$;
CREATE OPERATOR evil.= (FUNCTION = evil.same, LEFTARG = text, RIGHTARG = text);
SELECT * FROM pg_temp.seen();

-- Functions with the rights of their owner, which write for the tenant: by hand for all of them, and what stands in front has the owner's rights.
RESET search_path;
RESET ROLE;
CREATE TABLE shop.reports AS SELECT t AS tenant_id, 'healthy'::text AS status FROM unnest('{acme,beta}'::text[]) AS t;
ALTER TABLE shop.reports OWNER TO regress_owner;
CREATE FUNCTION shop.report(state text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$BEGIN UPDATE shop.reports SET status = state WHERE tenant_id = shop.pinned(); END$$;
ALTER FUNCTION shop.report(text) OWNER TO regress_owner;
CREATE OR REPLACE FUNCTION evil.same(text, text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    IF current_user OPERATOR(pg_catalog.<>) 'regress_outsider' THEN
        RAISE WARNING 'running as %', current_user;
    END IF;
    RETURN true;
END$$;
BEGIN;
SET LOCAL tenancy.tenant_id = 'beta';
SELECT tenancy.report_health('worker', 'healthy'), tenancy.track_usage('shadowed', 5), tenancy.record_metric('shadowed', '{}', 5);
SET LOCAL tenancy.tenant_id = 'acme';
SET LOCAL search_path = evil, pg_catalog, shop;
SET LOCAL ROLE regress_outsider;
SELECT shop.report('unhealthy');
SELECT tenancy.report_health('worker', 'unhealthy'), tenancy.track_usage('shadowed', 1), tenancy.record_metric('shadowed', '{}', 1);
SELECT pg_catalog.count(*) FROM tenancy.health_checks('acme') WHERE component OPERATOR(pg_catalog.=) 'worker';
SELECT tenancy.forget_health('worker');
RESET ROLE;
RESET search_path;
SELECT * FROM shop.reports ORDER BY 1;
SELECT tenant_id, status FROM _tenancy.health_reports WHERE component = 'worker' ORDER BY 1;   -- its own is forgotten
SELECT tenant_id, value FROM _tenancy.metric_values WHERE name = 'shadowed' ORDER BY 1;
ROLLBACK;

-- Commands of the owner, who is no superuser and under the policies like everybody. What is seen for beta after each: by hand, and of ours.
CREATE ROLE regress_exempt BYPASSRLS;
GRANT regress_exempt TO regress_owner;
GRANT USAGE, CREATE ON SCHEMA shop TO regress_exempt;
CREATE FUNCTION pg_temp.after(command text, relation regclass, isolation name) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    reader text;
    seen bigint;
    most bigint := 0;
    state text;
    detail text;
BEGIN
    BEGIN
        EXECUTE format(command, relation, isolation);
        FOREACH reader IN ARRAY '{regress_app,regress_owner,regress_exempt}'::text[] LOOP
            CONTINUE WHEN NOT has_table_privilege(reader, relation, 'SELECT');
            EXECUTE format('SET LOCAL ROLE %I', reader);
            EXECUTE format('SELECT count(*) FROM %s WHERE body <> ''of beta''', relation) INTO seen;
            most := greatest(most, seen);
        END LOOP;
        RAISE SQLSTATE 'ZZ999';
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, detail = PG_EXCEPTION_DETAIL;
    END;
    RETURN CASE WHEN state = 'ZZ999' THEN 'rows of others: ' || most WHEN detail LIKE '{"code":%' THEN detail::json ->> 'code' ELSE state END;
END$$;
SET app.tenant_id = 'beta';
SET tenancy.tenant_id = 'beta';
SET ROLE regress_owner;
SELECT c.command, pg_temp.after(c.command, 'shop.hand', 'isolation') AS by_hand, pg_temp.after(c.command, 'shop.ours', 'tenancy_isolation') AS ours
FROM (VALUES
    ('COMMENT ON TABLE %s IS ''as it is'''),
    ('ALTER TABLE %s OWNER TO regress_exempt'),
    ('ALTER TABLE %s DISABLE ROW LEVEL SECURITY'),
    ('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY'),
    ('DROP POLICY %2$I ON %1$s'),
    ('ALTER POLICY %2$I ON %1$s USING (true)'),
    ('ALTER POLICY %2$I ON %1$s TO regress_outsider'),
    ('ALTER TABLE %s DROP COLUMN tenant_id CASCADE'),
    ('ALTER TABLE %s ALTER tenant_id DROP NOT NULL; SET LOCAL app.tenant_id = ''acme''; INSERT INTO %1$s VALUES (9, NULL, ''of acme''); SET LOCAL app.tenant_id = ''beta''')
) AS c(command);
RESET ROLE;
SELECT relowner::regrole, relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = 'shop.ours'::regclass;
RESET app.tenant_id;
RESET app.token;
RESET tenancy.tenant_id;
DROP SCHEMA shop, evil CASCADE;
DROP ROLE regress_exempt;
