-- The end of a tenant: its rows, and what the extension has of it.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT tenancy.create_tenant('doomed', 'Doomed', 'doomed'), tenancy.create_tenant('7'), tenancy.create_tenant('9f1c1a6e-0000-4000-8000-00000000000a');
SET ROLE regress_owner;
-- What refers to what; a table that refers to itself, two that refer to each other, one of partitions, an audit table, a shared one, numbers and uuids.
CREATE TABLE customer (tenant_id text, id int, PRIMARY KEY (tenant_id, id));
CREATE TABLE "Weird Order" (tenant_id text, id int, customer int, PRIMARY KEY (tenant_id, id), FOREIGN KEY (tenant_id, customer) REFERENCES customer);
CREATE TABLE a_line (tenant_id text, "order" int, n int, PRIMARY KEY (tenant_id, "order", n), FOREIGN KEY (tenant_id, "order") REFERENCES "Weird Order") PARTITION BY HASH (tenant_id);
CREATE TABLE a_line_0 PARTITION OF a_line FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE a_line_1 PARTITION OF a_line FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE employee (tenant_id text, id int, boss int, PRIMARY KEY (tenant_id, id), FOREIGN KEY (tenant_id, boss) REFERENCES employee);
CREATE TABLE hen (tenant_id text, id int, egg int, PRIMARY KEY (tenant_id, id));
CREATE TABLE egg (tenant_id text, id int, hen int, PRIMARY KEY (tenant_id, id), FOREIGN KEY (tenant_id, hen) REFERENCES hen DEFERRABLE);
ALTER TABLE hen ADD FOREIGN KEY (tenant_id, egg) REFERENCES egg DEFERRABLE;
CREATE TABLE feather (tenant_id text, hen int, FOREIGN KEY (tenant_id, hen) REFERENCES hen);
CREATE TABLE journal (tenant_id text, line text);
CREATE TABLE template (tenant_id text, name text);
CREATE TABLE numbered (tenant_id bigint, x int);
CREATE TABLE unique_ones (tenant_id uuid, x int);
RESET ROLE;
SELECT tenancy.protect(r) FROM unnest('{customer,"\"Weird Order\"",a_line,employee,hen,egg,feather,numbered,unique_ones}'::regclass[]) AS r;
SELECT tenancy.protect('journal', 'audit'), tenancy.protect('template', 'shared');
SELECT tenancy.meter('a_line', 'lines'), tenancy.audit('customer');
SELECT relation, kind, place, circle IS NOT NULL AS is_circular FROM _tenancy.tables_by_keys() WHERE relation::text ~ 'customer|Weird|a_line|employee|hen|egg|feather|journal|template|numbered|unique' ORDER BY place, relation::text;
INSERT INTO customer SELECT t, g FROM unnest('{acme,beta,doomed}'::text[]) t, generate_series(1, 10) g;
INSERT INTO "Weird Order" SELECT tenant_id, id, id FROM customer;
INSERT INTO a_line SELECT tenant_id, id, n FROM "Weird Order", generate_series(1, 10) n;
INSERT INTO employee SELECT tenant_id, id, nullif(id - 1, 0) FROM customer;
BEGIN;
SET CONSTRAINTS ALL DEFERRED;
INSERT INTO hen SELECT tenant_id, id, id FROM customer;
INSERT INTO egg SELECT tenant_id, id, id FROM customer;
COMMIT;
INSERT INTO feather SELECT tenant_id, id FROM hen;
INSERT INTO journal SELECT tenant_id, 'line' FROM customer;
INSERT INTO template SELECT tenant_id, 'mine' FROM customer;
INSERT INTO template VALUES (NULL, 'for everybody');
INSERT INTO numbered VALUES (7, 1);
INSERT INTO unique_ones VALUES ('9f1c1a6e-0000-4000-8000-00000000000a', 1);
SELECT tenancy.set_quota('doomed', 'lines', 1000), tenancy.set_quota('doomed', 'calls', 10, '15 minutes'), tenancy.add_user('mia', 'mia@doomed.test'), tenancy.add_member('doomed', 'mia', 'admin');
SELECT tenancy.cache_watch('customer', 'customers');
SELECT tenancy.grant_cross_tenant('regress_app', '{doomed}', 'infinity');
GRANT SELECT, INSERT, UPDATE, DELETE ON customer TO regress_app;
SET tenancy.tenant_id = 'doomed';
SELECT tenancy.track_usage('calls', 3, '{}', 'request 1'), tenancy.cache_set('k', '1'), tenancy.record_metric('x_total'), tenancy.report_health('worker', 'healthy');
SELECT tenancy.delete_tenant('doomed');                        -- SHOULD FAIL: in its context
RESET tenancy.tenant_id;
RESET client_min_messages;
SELECT tenancy.delete_tenant('nobody');                        -- SHOULD FAIL
SELECT tenancy.delete_tenant(NULL);                            -- SHOULD FAIL
SET ROLE regress_app;
SELECT tenancy.delete_tenant('doomed');                        -- SHOULD FAIL
CALL tenancy.delete_tenant_in_batches('doomed');               -- SHOULD FAIL
RESET ROLE;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT tenancy.delete_tenant('doomed');                        -- SHOULD FAIL
ROLLBACK;
BEGIN;
CALL tenancy.delete_tenant_in_batches('doomed');               -- SHOULD FAIL: it commits
ROLLBACK;
CALL tenancy.delete_tenant_in_batches('doomed', 0);            -- SHOULD FAIL
SELECT status FROM tenancy.tenants WHERE id = 'doomed';

-- All of it, or nothing.
CREATE VIEW what_is_there AS
    SELECT * FROM (
        SELECT 'customer', tenant_id, count(*) FROM customer GROUP BY 2 UNION ALL SELECT 'order', tenant_id, count(*) FROM "Weird Order" GROUP BY 2
        UNION ALL SELECT 'a_line', tenant_id, count(*) FROM a_line GROUP BY 2 UNION ALL SELECT 'employee', tenant_id, count(*) FROM employee GROUP BY 2
        UNION ALL SELECT 'hen', tenant_id, count(*) FROM hen GROUP BY 2 UNION ALL SELECT 'egg', tenant_id, count(*) FROM egg GROUP BY 2
        UNION ALL SELECT 'feather', tenant_id, count(*) FROM feather GROUP BY 2 UNION ALL SELECT 'journal', tenant_id, count(*) FROM journal GROUP BY 2
        UNION ALL SELECT 'template', tenant_id, count(*) FROM template GROUP BY 2) AS t(what, tenant_id, rows);
BEGIN;
SELECT tenancy.delete_tenant('doomed');
SELECT tenant_id, count(*), sum(rows) FROM what_is_there GROUP BY 1 ORDER BY 1;
ROLLBACK;
SELECT tenant_id, count(*), sum(rows) FROM what_is_there GROUP BY 1 ORDER BY 1;
SELECT used FROM tenancy.quota_status WHERE tenant_id = 'doomed' AND resource = 'lines';

-- A trigger that keeps rows is told, and nothing is deleted.
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN CASE WHEN old.id = 3 THEN NULL ELSE old END; END $$;
CREATE TRIGGER keeps BEFORE DELETE ON "Weird Order" FOR EACH ROW EXECUTE FUNCTION keep();
SET client_min_messages = warning;
SELECT tenancy.delete_tenant('doomed');                        -- SHOULD FAIL
CALL tenancy.delete_tenant_in_batches('doomed');               -- SHOULD FAIL
RESET client_min_messages;
DROP TRIGGER keeps ON "Weird Order";
-- What triggers do is done with the rights of the owner of the table, and of no tenant.
CREATE TABLE by_whom (who name, tenant text);
GRANT INSERT ON by_whom TO regress_owner;
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.by_whom SELECT current_user, current_setting('tenancy.tenant_id'); RETURN old; END $$;
CREATE TRIGGER tells AFTER DELETE ON customer FOR EACH ROW EXECUTE FUNCTION tell();
-- The procedure has locked it out already, and it stays so.
SELECT status, status_reason FROM tenancy.tenants WHERE id = 'doomed';
SELECT tenant_id, count(*), sum(rows) FROM what_is_there GROUP BY 1 ORDER BY 1;
-- What it goes on with.
CALL tenancy.delete_tenant_in_batches('doomed', 50);
SELECT tenant_id, count(*), sum(rows) FROM what_is_there GROUP BY 1 ORDER BY 1;
SELECT DISTINCT who, tenant FROM by_whom;
SELECT count(*) FROM tenancy.tenants WHERE id = 'doomed';
DO $$
DECLARE relation regclass; found boolean;
BEGIN
    FOR relation IN SELECT c.oid FROM pg_class c WHERE c.relnamespace = '_tenancy'::regnamespace AND c.relkind = 'r' ORDER BY c.relname LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %s t WHERE t::text ~ ''doomed'')', relation) INTO found;
        IF found THEN RAISE NOTICE 'named in %', relation; END IF;
    END LOOP;
END $$;
-- The trail says it, in the end; and what was on record stays so.
SELECT tenant_id, operation, detail FROM tenancy.audit_log WHERE operation = 'DELETE_TENANT' AND detail ->> 'tenant_id' = 'doomed';
SELECT count(*) FROM tenancy.audit_log WHERE tenant_id = 'doomed' AND relation ~ 'customer' AND operation = 'DELETE';
SELECT resource, sum(amount) FROM _tenancy.usage WHERE tenant_id = 'doomed' GROUP BY 1 ORDER BY 1;
SELECT bool_and(is_intact) FROM (SELECT count(*) = 0 AS is_intact FROM tenancy.verify_audit('doomed')) AS v;
-- Whoever comes under its id begins with nothing.
SET client_min_messages = warning;
SELECT tenancy.create_tenant('doomed'), tenancy.set_quota('doomed', 'calls', 10), tenancy.set_quota('doomed', 'lines', 10);
SELECT resource, used FROM tenancy.quota_status WHERE tenant_id = 'doomed' ORDER BY 1;
SET ROLE regress_app;
BEGIN;
SELECT tenancy.begin_cross_tenant('{doomed}', 'it was granted for another');    -- SHOULD FAIL
ROLLBACK;
RESET ROLE;
-- Ids that only some of the tables can hold.
SELECT tenancy.archive_tenant('7'), tenancy.archive_tenant('9f1c1a6e-0000-4000-8000-00000000000a');
SELECT tenancy.delete_tenant('7'), tenancy.delete_tenant('9f1c1a6e-0000-4000-8000-00000000000a'), tenancy.delete_tenant('doomed');
SELECT (SELECT count(*) FROM numbered) AS numbered, (SELECT count(*) FROM unique_ones) AS unique_ones;
-- Where statements that go round isolation are refused, this one is meant.
SELECT tenancy.create_tenant('doomed');
INSERT INTO customer VALUES ('doomed', 1);
SET tenancy.bypass_guard = 'refuse';
SELECT tenancy.delete_tenant('doomed');
RESET tenancy.bypass_guard;
SELECT tenancy.cache_unwatch('customer', 'customers'), tenancy.unaudit('customer'), tenancy.remove_user('mia');
DROP VIEW what_is_there;
DROP TABLE by_whom, feather, hen, egg, a_line, "Weird Order", customer, employee, journal, template, numbered, unique_ones CASCADE;
DROP FUNCTION keep, tell;
