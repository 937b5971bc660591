-- Crossing tenants: an administrator grants it, an operator begins a scope with a reason, and all that is done in it is on record.
\set SHOW_CONTEXT never
SET timezone = 'UTC';
CREATE ROLE regress_operator;
CREATE ROLE regress_crew;                                      -- a group that it is in
CREATE ROLE "Regress ""Weird"" Role";
CREATE ROLE regress_exempt BYPASSRLS;
GRANT regress_crew TO regress_operator;
SELECT tenancy.create_tenant(t) FROM unnest('{1001,1002,1003,a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,e7eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}'::text[]) AS t;
-- What is on record of crossing since it was last asked for, without what differs from run to run.
CREATE FUNCTION told() RETURNS TABLE (tenant text, op text, role text, detail jsonb) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT a.tenant_id, a.operation, a.role, a.detail - '{scope,until}'::text[]
                 FROM tenancy.audit_log a WHERE a.recorded_at > current_setting('regress.since', true)::timestamptz AND (a.operation ~ 'CROSS' OR a.operation = 'REFUSED')
                 ORDER BY a.recorded_at, a.tenant_id, a.number;
    PERFORM set_config('regress.since', statement_timestamp()::text, false);
END
$$;
SELECT * FROM told();
-- Of what is written here: other tests have tampered with what they wrote.
CREATE TABLE begun AS SELECT clock_timestamp() AS at;
CREATE VIEW problems AS
    SELECT t.id AS tenant, v.number, v.problem FROM (SELECT id FROM _tenancy.tenants UNION ALL SELECT NULL) AS t(id), tenancy.verify_audit(t.id) AS v
    WHERE v.segment IN (SELECT h.segment FROM tenancy.audit_heads h WHERE h.opened_at >= (SELECT b.at FROM begun b));
-- In which scope the session is, without its number.
CREATE FUNCTION scope() RETURNS jsonb LANGUAGE sql AS $$ SELECT tenancy.context() -> 'cross_tenant' #- '{scope}' #- '{until}' $$;

-- A table of each kind, and columns of each type.
SET client_min_messages = warning;
CREATE TABLE item (id int PRIMARY KEY, tenant_id text, name text, amount int, CONSTRAINT item_amount_check CHECK (amount < 1000));
CREATE TABLE by_varchar (tenant_id varchar(40), id int);
CREATE TABLE by_uuid (tenant_id uuid, id int);
CREATE TABLE by_bigint (tenant_id bigint, id int);
CREATE TABLE by_integer (tenant_id integer, id int);
CREATE TABLE price (tenant_id text, name text, cents int);
CREATE TABLE trail (tenant_id text, what text);
CREATE TABLE currency (code text);
CREATE TABLE month (tenant_id text, month int, amount int) PARTITION BY LIST (tenant_id);
CREATE TABLE month_acme PARTITION OF month FOR VALUES IN ('acme');
CREATE TABLE month_beta PARTITION OF month FOR VALUES IN ('beta');
CREATE TABLE month_rest PARTITION OF month DEFAULT;
INSERT INTO item VALUES (1, 'acme', 'a1', 10), (2, 'acme', 'a2', 20), (3, 'beta', 'b1', 30), (4, 'gone', 'g1', 40), (5, '1001', 'one', 50);
INSERT INTO by_varchar SELECT tenant_id, id FROM item;
INSERT INTO by_uuid VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 1), ('b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 2), ('e7eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 3);
INSERT INTO by_bigint VALUES (1001, 1), (1002, 2), (1003, 3);
INSERT INTO by_integer VALUES (1001, 1), (1002, 2), (1003, 3);
INSERT INTO price VALUES (NULL, 'for all', 1), ('acme', 'of acme', 2), ('beta', 'of beta', 3), ('gone', 'of gone', 4);
INSERT INTO trail VALUES ('acme', 'a'), ('beta', 'b'), ('gone', 'g');
INSERT INTO currency VALUES ('EUR');
INSERT INTO month SELECT t, m, m FROM unnest('{acme,beta,gone,1001}'::text[]) AS t, generate_series(1, 3) AS m;
SELECT tenancy.protect(t) FROM unnest('{item,by_varchar,by_uuid,by_bigint,by_integer,month}'::regclass[]) AS t;
SELECT tenancy.protect('price', 'shared'), tenancy.protect('trail', 'audit'), tenancy.protect('currency', 'system');
RESET client_min_messages;
GRANT TRUNCATE ON item TO regress_operator;
GRANT SELECT, INSERT, UPDATE, DELETE ON item, by_varchar, by_uuid, by_bigint, by_integer, price, trail, currency, month TO regress_operator, regress_crew, regress_app, regress_exempt;
CREATE VIEW of_items WITH (security_barrier) AS SELECT tenant_id, name FROM item;
ALTER VIEW of_items OWNER TO regress_operator;

-- Grants: what cannot be.
SELECT tenancy.grant_cross_tenant(NULL, '{acme}', 'infinity'); -- SHOULD FAIL
SELECT tenancy.grant_cross_tenant('nobody', '{acme}', 'infinity');                    -- SHOULD FAIL
SELECT tenancy.grant_cross_tenant('regress_operator', NULL, 'infinity');              -- SHOULD FAIL
SELECT tenancy.grant_cross_tenant('regress_operator', '{}', 'infinity');              -- SHOULD FAIL
SELECT tenancy.grant_cross_tenant('regress_operator', '{acme,NULL}', 'infinity');     -- SHOULD FAIL
SELECT tenancy.grant_cross_tenant('regress_operator', '{acme,nobody}', 'infinity');   -- SHOULD FAIL
SELECT tenancy.grant_cross_tenant('regress_operator', '{acme,"no such"}', 'infinity');-- SHOULD FAIL
SELECT tenancy.grant_cross_tenant('regress_operator', '{acme}', NULL);                -- SHOULD FAIL
SELECT tenancy.grant_cross_tenant('regress_operator', '{acme}', now());               -- SHOULD FAIL
SELECT tenancy.grant_cross_tenant('regress_operator', '{acme}', '-infinity');         -- SHOULD FAIL
SELECT tenancy.grant_cross_tenant('regress_operator', '{acme}', 'infinity', NULL);    -- SHOULD FAIL
SELECT tenancy.revoke_cross_tenant(NULL);                      -- SHOULD FAIL
SELECT tenancy.revoke_cross_tenant('nobody');                  -- SHOULD FAIL
SELECT tenancy.revoke_cross_tenant('regress_operator', '{"no such"}');                -- SHOULD FAIL
TABLE tenancy.cross_tenant_grants;
SET ROLE regress_operator;
SELECT tenancy.grant_cross_tenant('regress_operator', '{acme}', 'infinity');          -- SHOULD FAIL: granted to nobody
SELECT tenancy.revoke_cross_tenant('regress_operator');        -- SHOULD FAIL
TABLE tenancy.cross_tenant_grants;                             -- SHOULD FAIL
RESET ROLE;
SET tenancy.tenant_id = 'acme';
SELECT tenancy.grant_cross_tenant('regress_operator', '{acme}', 'infinity');          -- SHOULD FAIL: in a context
SELECT tenancy.revoke_cross_tenant('regress_operator');        -- SHOULD FAIL
RESET tenancy.tenant_id;
-- For some tenants, whatever their status; for all; the same again takes the place of the earlier.
SELECT tenancy.grant_cross_tenant('regress_operator', '{acme,beta,acme,gone}', '2100-01-01');
SELECT tenancy.grant_cross_tenant('regress_operator', '{A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11}', 'infinity', false);
SELECT tenancy.grant_cross_tenant('Regress "Weird" Role', '{*,acme}', 'infinity');
SELECT tenancy.grant_cross_tenant('regress_operator', '{beta}', '2090-01-01', false);
SELECT role, tenant_id, until, read_only, granted_by, granted_at BETWEEN now() - interval '1 minute' AND now() AS is_now FROM tenancy.cross_tenant_grants ORDER BY role, tenant_id;
-- What the view calls a role is what the functions call it.
SELECT tenancy.revoke_cross_tenant(role) FROM (SELECT DISTINCT role FROM tenancy.cross_tenant_grants) AS g WHERE role ~ 'Weird';
SELECT tenancy.revoke_cross_tenant('regress_operator', '{beta,1001}');
SELECT tenancy.revoke_cross_tenant('regress_operator', '{A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11}');
SELECT tenancy.revoke_cross_tenant('regress_operator', '{}'), tenancy.revoke_cross_tenant('regress_operator', '{*}');
SELECT tenant_id FROM tenancy.cross_tenant_grants WHERE role = 'regress_operator' ORDER BY 1;
SELECT tenancy.revoke_cross_tenant('regress_operator'), tenancy.revoke_cross_tenant('regress_operator');
TABLE tenancy.cross_tenant_grants;
SELECT tenancy.grant_cross_tenant('Regress "Weird" Role', '{*}', 'infinity');
-- Each is a change that is on record, of the tenants of nobody.
SELECT a.tenant_id, a.operation, count(*) FROM tenancy.audit_log a WHERE a.relation = '_tenancy.cross_tenant_grants' AND a.recorded_at >= (SELECT b.at FROM begun b) GROUP BY 1, 2 ORDER BY 2;

-- Who may begin a scope.
SELECT tenancy.begin_cross_tenant('{acme}', 'a reason');       -- SHOULD FAIL: a superuser sees what it wants to
SELECT tenancy.grant_cross_tenant('regress_exempt', '{acme}', 'infinity');
SET ROLE regress_exempt;
SELECT tenancy.begin_cross_tenant('{acme}', 'a reason');       -- SHOULD FAIL: as does a role with BYPASSRLS
SET ROLE regress_operator;
SELECT tenancy.begin_cross_tenant('{acme}', 'a reason');       -- SHOULD FAIL: it was not granted
SELECT tenancy.begin_cross_tenant('{nobody}', 'a reason');     -- SHOULD FAIL, with the same words
SELECT tenancy.begin_cross_tenant('{*}', 'a reason');          -- SHOULD FAIL, and not tell who else there is
RESET ROLE;
SELECT tenancy.grant_cross_tenant('regress_operator', '{acme,beta}', 'infinity');
SELECT tenancy.grant_cross_tenant('regress_crew', '{1001}', '2100-01-01');
SET ROLE regress_operator;
SELECT tenancy.begin_cross_tenant('{acme,gone}', 'a reason');  -- SHOULD FAIL: one of them was not
BEGIN;
SELECT tenancy.begin_cross_tenant('{*}', 'all that were granted') AS until;
SELECT tenancy.context() #> '{cross_tenant,tenants}' AS tenants;
ROLLBACK;
SELECT tenancy.begin_cross_tenant('{acme,"no such"}', 'a reason');                    -- SHOULD FAIL
SELECT tenancy.begin_cross_tenant(NULL, 'a reason');           -- SHOULD FAIL
SELECT tenancy.begin_cross_tenant('{}', 'a reason');           -- SHOULD FAIL
SELECT tenancy.begin_cross_tenant('{acme,NULL}', 'a reason');  -- SHOULD FAIL
SELECT tenancy.begin_cross_tenant('{acme}', NULL);             -- SHOULD FAIL
SELECT tenancy.begin_cross_tenant('{acme}', E' \n\t ');        -- SHOULD FAIL
SELECT tenancy.begin_cross_tenant('{acme}', repeat('r', 256)); -- SHOULD FAIL
SELECT tenancy.begin_cross_tenant('{acme}', 'a reason', '0');  -- SHOULD FAIL
SELECT tenancy.begin_cross_tenant('{acme}', 'a reason', '-1 minute');                 -- SHOULD FAIL
SELECT tenancy.end_cross_tenant() AS was_in_one;
SELECT tenancy.context() ->> 'source' AS source;
SELECT count(*) FROM item;                                     -- SHOULD FAIL
RESET ROLE;
SELECT op, role, detail FROM told();

-- A scope of a transaction.
SET ROLE regress_operator;
BEGIN;
SELECT tenancy.begin_cross_tenant('{beta,acme,beta}', '  Ticket 4711  ') AS until;
SELECT id, tenant_id, name FROM item ORDER BY id;
SELECT tenancy.context() - 'cross_tenant' AS context, scope();
SELECT (tenancy.context() -> 'cross_tenant' ->> 'scope')::bigint > 0 AS has_number, tenancy.context() -> 'cross_tenant' ->> 'until' AS until;
COMMIT;
SELECT count(*) FROM item;                                     -- SHOULD FAIL
BEGIN;
-- The earliest end of what it was granted, directly or as one of a group.
SELECT tenancy.begin_cross_tenant('{acme,1001}', 'Ticket 4712') AS until;
SELECT tenant_id, count(*), sum(amount) FROM item GROUP BY 1 ORDER BY 1;
ROLLBACK;
SELECT tenancy.context() ->> 'source' AS source;
RESET ROLE;
SELECT * FROM told();

-- For all, of which one is new; whatever their status.
GRANT SELECT ON item TO "Regress ""Weird"" Role";
SELECT tenancy.create_tenant('new');
INSERT INTO item VALUES (6, 'new', 'n1', 60);
SELECT count(*) AS registered FROM tenancy.tenants \gset
SET ROLE "Regress ""Weird"" Role";
BEGIN;
SELECT tenancy.begin_cross_tenant('{*}', 'Ticket 4710') AS until;
SELECT tenant_id, count(*) FROM item GROUP BY 1 ORDER BY 1;
SELECT jsonb_array_length(scope() -> 'tenants') = :registered AS is_all;
COMMIT;
BEGIN;
SELECT tenancy.begin_cross_tenant('{gone,new}', 'Ticket 4710') AS until;
SELECT tenant_id, count(*) FROM item GROUP BY 1 ORDER BY 1;
COMMIT;
BEGIN;
SELECT tenancy.begin_cross_tenant('{new,nobody}', 'Ticket 4710');                     -- SHOULD FAIL
ROLLBACK;
RESET ROLE;
DELETE FROM item WHERE tenant_id = 'new';
DELETE FROM _tenancy.tenants WHERE id = 'new';
SELECT count(DISTINCT tenant) = :registered AS each_is_told FROM told() WHERE op = 'BEGIN_CROSS_TENANT';

-- A scope of a time, over several transactions.
SET ROLE regress_operator;
SELECT b.until BETWEEN now() + interval '4 minutes' AND now() + interval '6 minutes' AS is_so FROM (SELECT tenancy.begin_cross_tenant('{acme,beta}', 'Ticket 4713', '5 minutes') AS until OFFSET 0) AS b;
SELECT count(*) FROM item;
SELECT scope();
BEGIN;
SELECT count(*) FROM item;
SELECT tenancy.end_cross_tenant() AS was_in_one;
ROLLBACK;
SELECT count(*) AS still FROM item;
BEGIN;
SELECT tenancy.end_cross_tenant() AS was_in_one;
SELECT count(*) FROM item;                                     -- SHOULD FAIL
ROLLBACK;
SELECT tenancy.end_cross_tenant() AS was_in_one;
SELECT tenancy.end_cross_tenant() AS was_in_one;
SELECT count(*) FROM item;                                     -- SHOULD FAIL
-- It comes with the transaction that begins it, or does not.
BEGIN;
SELECT tenancy.begin_cross_tenant('{acme}', 'Ticket 4714', '5 minutes') > now() AS begun;
SELECT count(*) FROM item;
ROLLBACK;
SELECT scope();
BEGIN;
SELECT tenancy.begin_cross_tenant('{acme}', 'Ticket 4715', '5 minutes') > now() AS begun;
COMMIT;
SELECT scope();
DISCARD ALL;
SET timezone = 'UTC';
SELECT tenancy.context() ->> 'source' AS source;
-- No longer than was granted.
SELECT tenancy.grant_cross_tenant('regress_operator', '{acme,beta}', '2100-01-01');
SET ROLE regress_operator;
SELECT tenancy.begin_cross_tenant('{acme}', 'Ticket 4716', '1000 years') AS until;
SELECT tenancy.end_cross_tenant() AS was_in_one;
RESET ROLE;
SELECT tenancy.grant_cross_tenant('regress_operator', '{acme,beta}', 'infinity');
-- In order: begun, each statement before it runs and its rows after, ended; rolled back or not.
SELECT a.tenant_id AS tenant, a.operation, a.detail - '{scope,until}'::text[] AS detail FROM tenancy.audit_log a
WHERE a.detail ->> 'scope' = (SELECT b.detail ->> 'scope' FROM tenancy.audit_log b WHERE b.detail ->> 'reason' = 'Ticket 4713' LIMIT 1) ORDER BY a.recorded_at, a.tenant_id, a.number;
SELECT a.tenant_id AS tenant, a.operation, a.detail - '{scope,until}'::text[] AS detail FROM tenancy.audit_log a
WHERE a.detail ->> 'scope' = (SELECT b.detail ->> 'scope' FROM tenancy.audit_log b WHERE b.detail ->> 'reason' = 'Ticket 4714' LIMIT 1) ORDER BY a.recorded_at, a.tenant_id, a.number;
SELECT count(DISTINCT detail ->> 'scope') AS scopes, count(DISTINCT detail ->> 'reason') AS reasons FROM tenancy.audit_log WHERE operation = 'BEGIN_CROSS_TENANT' AND detail ->> 'reason' ~ '^Ticket 471[1-6]';
SELECT set_config('regress.since', statement_timestamp()::text, false) IS NOT NULL AS noted;

-- Begun in the wrong place.
SET ROLE regress_operator;
SELECT tenancy.begin_cross_tenant('{acme}', 'Ticket 4717', '5 minutes') > now() AS begun;
SELECT tenancy.begin_cross_tenant('{beta}', 'Ticket 4718');    -- SHOULD FAIL: in a scope
SET tenancy.cross_tenant = '1 1 1 w acme beta';                -- SHOULD FAIL
SELECT scope();
RESET tenancy.cross_tenant;                                    -- as of a tenant
SELECT scope() IS NULL AS left_it;
CREATE FUNCTION pg_temp.as_owner() RETURNS timestamptz LANGUAGE sql SECURITY DEFINER AS $$ SELECT tenancy.begin_cross_tenant('{acme}', 'of the owner') $$;
RESET ROLE;
GRANT EXECUTE ON FUNCTION pg_temp.as_owner() TO regress_app;
SET ROLE regress_app;
SELECT pg_temp.as_owner();                                     -- SHOULD FAIL
SET ROLE regress_operator;
CREATE TEMP TABLE kept AS SELECT tenancy.begin_cross_tenant('{acme}', 'to keep');     -- SHOULD FAIL
-- In a procedure it can be.
DO $$
BEGIN
    PERFORM tenancy.begin_cross_tenant('{acme,beta}', 'in a procedure');
    RAISE NOTICE '% items', (SELECT count(*) FROM item);
    PERFORM tenancy.end_cross_tenant();
END
$$;
-- In a transaction that only reads anyway.
BEGIN READ ONLY;
SELECT tenancy.begin_cross_tenant('{acme,beta}', 'reads') AS until;
SELECT count(*) FROM item;
COMMIT;
-- In the context of a tenant, of which it is the end until the scope ends; but no tenant is set meanwhile.
RESET ROLE;
GRANT SET ON PARAMETER tenancy.tenant_id TO regress_operator;
SET ROLE regress_operator;
BEGIN;
SET LOCAL tenancy.tenant_id = '1001';
SELECT count(*) FROM item;
SELECT tenancy.begin_cross_tenant('{acme,beta}', 'from a tenant') AS until;
SELECT count(*) FROM item;
SAVEPOINT s;
SET LOCAL tenancy.tenant_id = 'acme';                          -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.set_tenant('acme');                             -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.end_cross_tenant();
SELECT count(*), tenancy.current_tenant() FROM item;
COMMIT;
RESET ROLE;
-- By another role it is not used.
SET ROLE regress_operator;
BEGIN;
SELECT tenancy.begin_cross_tenant('{acme,beta}', 'for another role') AS until;
RESET ROLE;
SET LOCAL ROLE regress_crew;
SELECT count(*) FROM item;                                     -- SHOULD FAIL
ROLLBACK;
SET ROLE regress_operator;
-- Savepoints bring a scope back, and take it.
BEGIN;
SAVEPOINT one;
SELECT tenancy.begin_cross_tenant('{acme,beta}', 'savepoints') AS until;
SELECT count(*) FROM item;
SAVEPOINT two;
SELECT tenancy.end_cross_tenant();
SELECT tenancy.begin_cross_tenant('{acme}', 'savepoints, again') AS until;
SELECT count(*) FROM item;
ROLLBACK TO two;
SELECT count(*) FROM item;
ROLLBACK TO one;
SELECT count(*) FROM item;                                     -- SHOULD FAIL
ROLLBACK;
RESET ROLE;
SELECT tenant, op, detail FROM told();

-- Each type of column and kind of table.
SELECT tenancy.grant_cross_tenant('regress_operator', '{acme,beta,1001,1002,a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}', 'infinity');
SET ROLE regress_operator;
BEGIN;
SELECT tenancy.begin_cross_tenant('{acme,beta,1001,1002,A0EEBC99-9c0b-4ef8-bb6d-6bb9bd380a11,b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}', 'all types') AS until;
SELECT 'text' AS type, array_agg(id ORDER BY id) FROM item UNION ALL SELECT 'varchar', array_agg(id ORDER BY id) FROM by_varchar
    UNION ALL SELECT 'uuid', array_agg(id ORDER BY id) FROM by_uuid UNION ALL SELECT 'bigint', array_agg(id ORDER BY id) FROM by_bigint
    UNION ALL SELECT 'integer', array_agg(id ORDER BY id) FROM by_integer;
SELECT name FROM price ORDER BY cents;
SELECT what FROM trail ORDER BY 1;
TABLE currency;
SELECT tenant_id, count(*) FROM month GROUP BY 1 ORDER BY 1;
-- Joins, aggregates, set operations, subqueries, views, functions, windows.
SELECT i.name, p.name AS price FROM item i LEFT JOIN price p ON p.tenant_id = i.tenant_id ORDER BY 1, 2;
SELECT i.tenant_id, sum(i.amount) FILTER (WHERE i.amount > 10), (SELECT max(m.month) FROM month m WHERE m.tenant_id = i.tenant_id) FROM item i GROUP BY ROLLUP (1) ORDER BY 1;
SELECT name FROM item WHERE tenant_id IN (SELECT tenant_id FROM trail) EXCEPT SELECT name FROM item WHERE amount > 25 ORDER BY 1;
SELECT name, rank() OVER (PARTITION BY tenant_id ORDER BY amount DESC) FROM item ORDER BY amount;
WITH RECURSIVE up AS (SELECT id, name FROM item WHERE id = 1 UNION ALL SELECT i.id, i.name FROM item i JOIN up ON i.id = up.id + 1) SELECT * FROM up ORDER BY id;
TABLE of_items ORDER BY name;
ROLLBACK;
CREATE FUNCTION pg_temp.items() RETURNS SETOF item LANGUAGE sql STABLE AS 'SELECT * FROM public.item';
CREATE FUNCTION pg_temp.plan_of(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
        RETURN NEXT regexp_replace(line, '\d{6,}', '...');
    END LOOP;
END
$$;
BEGIN;
SELECT tenancy.begin_cross_tenant('{acme,beta}', 'plans') AS until;
SELECT count(*) FROM pg_temp.items();
SET LOCAL enable_seqscan = off;
SELECT btrim(line) AS line FROM pg_temp.plan_of('SELECT * FROM item') AS line WHERE line ~ 'Index Cond';
SELECT btrim(line) AS line FROM pg_temp.plan_of('SELECT * FROM by_varchar') AS line WHERE line ~ 'Index Cond';
-- Those of the partitions that it is about, and no others.
SELECT DISTINCT (regexp_match(line, ' on (month_(acme|beta|rest))\M'))[1] AS part FROM pg_temp.plan_of('SELECT * FROM month') AS line WHERE line ~ ' on month_(acme|beta|rest)\M' ORDER BY 1;
ROLLBACK;
-- Where it is for reading only, nothing is written, and what was read in it is not written after its end either.
BEGIN;
SELECT tenancy.begin_cross_tenant('{acme,beta}', 'reads') AS until;
SAVEPOINT s;
INSERT INTO item VALUES (10, 'acme', 'new', 1);                -- SHOULD FAIL
ROLLBACK TO s;
UPDATE item SET amount = 0;                                    -- SHOULD FAIL
ROLLBACK TO s;
DELETE FROM item;                                              -- SHOULD FAIL
ROLLBACK TO s;
SELECT id FROM item FOR UPDATE;                                -- SHOULD FAIL
ROLLBACK TO s;
CREATE TABLE copied AS TABLE item;                             -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.end_cross_tenant();
SET LOCAL tenancy.tenant_id = 'acme';
INSERT INTO item VALUES (10, 'acme', 'new', 1);                -- SHOULD FAIL
ROLLBACK;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
INSERT INTO item VALUES (10, 'acme', 'new', 1);
ROLLBACK;
-- What plans ask in a scope, nobody asks of rows that are hidden: an error would tell of them.
BEGIN;
SET LOCAL enable_indexscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL tenancy.tenant_id = '1003';
SELECT count(*) FROM by_bigint WHERE id < 3 AND _tenancy.in_scope(tenant_id);
ROLLBACK;
-- What is asked of the one tenant has no answer in a scope of several; of one, neither.
BEGIN;
SELECT tenancy.begin_cross_tenant('{acme}', 'who is it') AS until;
SAVEPOINT s;
SELECT tenancy.current_tenant();                               -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.current_tenant_uuid();                          -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.current_tenant_bigint();                        -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.seal();                                         -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.track_usage('calls');                           -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.has_role('admin') AS has_role, tenancy.current_user_id() AS user_id;
SELECT tenancy.context() ->> 'error' AS error;
-- The trail of its tenants.
SELECT DISTINCT tenant_id FROM tenancy.audit_log;
ROLLBACK;
RESET ROLE;
SELECT count(*) > 20 AS many FROM told();

-- Writing: what was granted for each of the tenants.
SELECT tenancy.grant_cross_tenant('regress_operator', '{acme}', 'infinity', false);
SET ROLE regress_operator;
BEGIN;
SELECT tenancy.begin_cross_tenant('{acme,beta}', 'of one only') AS until;
SELECT scope();
DELETE FROM item;                                              -- SHOULD FAIL
ROLLBACK;
RESET ROLE;
SELECT tenancy.grant_cross_tenant('regress_operator', '{acme,beta}', 'infinity', false);
SET client_min_messages = warning;
SELECT tenancy.audit('item'), tenancy.meter('item', 'items');
RESET client_min_messages;
SELECT tenancy.set_quota('acme', 'items', 4), tenancy.set_quota('beta', 'items', 10);
SELECT set_config('regress.since', clock_timestamp()::text, false) IS NOT NULL AS noted;
SET ROLE regress_operator;
BEGIN;
SELECT tenancy.begin_cross_tenant('{acme,beta}', 'Ticket 4720') AS until;
SELECT scope();
INSERT INTO item VALUES (10, 'acme', 'new', 1), (11, 'beta', 'new', 1) RETURNING id;
SAVEPOINT s;
INSERT INTO item (id, name) VALUES (12, 'whose?');             -- SHOULD FAIL: the tenant column has no default in it
ROLLBACK TO s;
INSERT INTO item VALUES (12, 'gone', 'of another', 1);         -- SHOULD FAIL
ROLLBACK TO s;
INSERT INTO item VALUES (12, NULL, 'of none', 1);              -- SHOULD FAIL
ROLLBACK TO s;
INSERT INTO price VALUES (NULL, 'for all', 1);                 -- SHOULD FAIL
ROLLBACK TO s;
INSERT INTO currency VALUES ('USD');                           -- SHOULD FAIL
ROLLBACK TO s;
INSERT INTO trail VALUES ('beta', 'written in the scope');
DELETE FROM trail;                                             -- SHOULD FAIL
ROLLBACK TO s;
INSERT INTO by_varchar VALUES ('beta', 12);
INSERT INTO by_varchar VALUES ('gone', 12);                    -- SHOULD FAIL
ROLLBACK TO s;
UPDATE item SET amount = amount + 1;
UPDATE item SET tenant_id = 'beta' WHERE id = 10;
UPDATE item SET tenant_id = 'gone' WHERE id = 10;              -- SHOULD FAIL
ROLLBACK TO s;
DELETE FROM item WHERE name = 'a2' RETURNING tenant_id;
DELETE FROM item WHERE tenant_id = 'gone';
MERGE INTO item i USING (VALUES (11, 'beta', 5), (20, 'acme', 6)) AS v(id, tenant_id, amount) ON i.id = v.id AND i.tenant_id = v.tenant_id
    WHEN MATCHED THEN UPDATE SET amount = v.amount
    WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.tenant_id, 'merged', v.amount);
INSERT INTO item VALUES (20, 'acme', 'again', 7) ON CONFLICT (id) DO UPDATE SET amount = excluded.amount RETURNING *;
INSERT INTO item VALUES (4, 'acme', 'is another''s', 7) ON CONFLICT (id) DO NOTHING;
SAVEPOINT s;
INSERT INTO item VALUES (4, 'acme', 'is another''s', 7) ON CONFLICT (id) DO UPDATE SET amount = 0;   -- SHOULD FAIL
ROLLBACK TO s;
TRUNCATE item;                                                 -- SHOULD FAIL
ROLLBACK TO s;
-- Quotas are those of each tenant.
INSERT INTO item SELECT n, 'beta', 'many', 1 FROM generate_series(30, 34) AS n;
INSERT INTO item SELECT n, 'acme', 'many', 1 FROM generate_series(40, 44) AS n;       -- SHOULD FAIL
ROLLBACK TO s;
COMMIT;
RESET ROLE;
SELECT tenant_id, id, name, amount FROM item ORDER BY id;
SELECT tenant_id, used FROM tenancy.quota_status WHERE resource = 'items' ORDER BY 1;
SELECT * FROM tenancy.reconcile('item');
-- Each tenant sees in its trail who changed what.
SELECT a.tenant_id, a.operation, a.key, a.role FROM tenancy.audit_log a WHERE a.relation = 'public.item' AND a.recorded_at > current_setting('regress.since')::timestamptz
ORDER BY a.tenant_id, a.number;
SELECT op, detail FROM told() WHERE tenant IS NULL;
TABLE problems;

-- What of a statement is on record: all of it, in pieces; of a very long one, its length. Reasons and statements as they are written.
SELECT repeat('x', 1500) AS long, repeat('é', 10000) AS longer \gset
SET ROLE regress_operator;
BEGIN;
SELECT tenancy.begin_cross_tenant('{acme}', 'it''s a "reason" \ with letters: Prüfung 表') AS until;
SELECT 'it''s a "statement" \ with letters: Prüfung 表' AS text, count(*) FROM item;
SELECT length(:'long') AS long;
SELECT length(:'longer') AS longer;
-- Several at once, prepared ones, cursors, COPY, and what is in blocks.
SELECT 1 AS one \; SELECT 2 AS two;
PREPARE asks(int) AS SELECT id FROM item WHERE id > $1;
EXECUTE asks(1);
DECLARE reads CURSOR FOR SELECT id FROM item ORDER BY id;
FETCH 1 FROM reads;
FETCH ALL FROM reads;
CLOSE reads;
COPY item (id) TO stdout;
DO $$ BEGIN PERFORM FROM item; END $$;
SELECT 1 / count(*) FILTER (WHERE false) FROM item;            -- SHOULD FAIL
ROLLBACK;
DEALLOCATE asks;
RESET ROLE;
SELECT a.detail ->> 'statement_number' AS statement, count(*) AS entries, max((a.detail ->> 'part')::int) AS parts, max((a.detail ->> 'length')::int) AS length,
       string_agg(a.detail ->> 'statement', '' ORDER BY a.number) = format('SELECT length(%L) AS long', :'long') AS is_whole,
       starts_with(format('SELECT length(%L) AS longer', :'longer'), string_agg(a.detail ->> 'statement', '' ORDER BY a.number)) AS is_beginning
FROM tenancy.audit_log a WHERE a.operation = 'CROSS_TENANT' AND a.recorded_at > current_setting('regress.since')::timestamptz AND a.detail ->> 'statement_number' IN ('2', '3')
GROUP BY 1 ORDER BY 1;
SELECT tenant, op, detail FROM told() WHERE detail ->> 'statement_number' NOT IN ('2', '3') OR detail ->> 'statement_number' IS NULL;
TABLE problems;

-- Nothing is left.
SELECT tenancy.revoke_cross_tenant(role) > 0 AS revoked FROM (SELECT DISTINCT role FROM tenancy.cross_tenant_grants) AS g ORDER BY role;
TABLE tenancy.cross_tenant_grants;
DROP FUNCTION pg_temp.as_owner(), pg_temp.items(), pg_temp.plan_of(text);
DROP VIEW of_items, problems;
DROP TABLE begun;
DROP TABLE item, by_varchar, by_uuid, by_bigint, by_integer, price, trail, currency, month;
DROP FUNCTION told(), scope();
SELECT tenancy.remove_quota('tenant', 'acme', 'items'), tenancy.remove_quota('tenant', 'beta', 'items');
DELETE FROM _tenancy.tenants WHERE id ~ '^(100[123]|(a0|b0|e7)eebc99-.*)$';
REVOKE SET ON PARAMETER tenancy.tenant_id FROM regress_operator;
DROP ROLE regress_operator, regress_crew, regress_exempt, "Regress ""Weird"" Role";
