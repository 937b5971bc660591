-- The context: who may set the tenant, how long it lasts, and what a protected table does with it.
\set VERBOSITY default
CREATE TABLE note (id integer PRIMARY KEY, tenant_id text, body text);
INSERT INTO note VALUES (1, 'acme', 'a1'), (2, 'acme', 'a2'), (3, 'beta', 'b1');
GRANT SELECT, INSERT, UPDATE, DELETE ON note TO regress_app, regress_bound, regress_outsider;
SET client_min_messages = warning;
SELECT tenancy.protect('note');
RESET client_min_messages;

-- A role with the privilege: SET LOCAL, SET, set_config, set_tenant.
SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SELECT id, body FROM note ORDER BY id;
COMMIT;
SELECT id, body FROM note;                                     -- SHOULD FAIL: the context ended with the transaction
SET tenancy.tenant_id = 'beta';
SELECT id, body FROM note;
DISCARD ALL;
SET ROLE regress_app;
SELECT id, body FROM note;                                     -- SHOULD FAIL
BEGIN;
SELECT tenancy.set_tenant('acme');
SELECT tenancy.current_tenant(), count(*) FROM note;
SELECT tenancy.clear_tenant();
SELECT count(*) FROM note;                                     -- SHOULD FAIL
ROLLBACK;
-- SET LOCAL outside of a transaction does nothing: PostgreSQL warns, and the query says what is missing.
SET LOCAL tenancy.tenant_id = 'acme';
SELECT id, body FROM note;                                     -- SHOULD FAIL
SELECT tenancy.set_tenant('acme');
SELECT id, body FROM note;                                     -- SHOULD FAIL
SELECT tenancy.set_tenant('beta', is_local => false);
SELECT tenancy.current_tenant();
SELECT tenancy.clear_tenant();
SELECT tenancy.set_tenant(NULL);                               -- SHOULD FAIL
SELECT tenancy.set_tenant('acme', NULL);                       -- SHOULD FAIL
SELECT tenancy.set_tenant('');                                 -- SHOULD FAIL
SELECT tenancy.set_tenant('nobody');                           -- SHOULD FAIL
SELECT tenancy.set_tenant('gone');                             -- SHOULD FAIL

-- A write fills in the tenant, and may name no other.
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
INSERT INTO note (id, body) VALUES (4, 'new') RETURNING *;
SAVEPOINT s;
INSERT INTO note VALUES (5, 'beta', 'not mine');               -- SHOULD FAIL
ROLLBACK TO s;
INSERT INTO note VALUES (5, NULL, 'nobody''s');                -- SHOULD FAIL
ROLLBACK TO s;
UPDATE note SET tenant_id = 'beta' WHERE id = 4;               -- SHOULD FAIL
ROLLBACK TO s;
UPDATE note SET body = 'x' WHERE id = 3;                       -- another tenant's row: there is none
DELETE FROM note WHERE id = 3;
ROLLBACK;

-- Savepoints restore the context, and a statement sees the one in force.
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SELECT count(*) FROM note;
SAVEPOINT s;
SET LOCAL tenancy.tenant_id = 'beta';
SELECT count(*) FROM note;
ROLLBACK TO s;
SELECT count(*), tenancy.current_tenant() FROM note;
SAVEPOINT s2;
SET LOCAL tenancy.tenant_id = 'beta';
RELEASE s2;
SELECT count(*), tenancy.current_tenant() FROM note;
ROLLBACK;

-- A prepared statement runs for the tenant of each execution.
PREPARE q AS SELECT count(*) FROM note;
SET plan_cache_mode = force_generic_plan;
BEGIN; SET LOCAL tenancy.tenant_id = 'acme'; EXECUTE q; COMMIT;
BEGIN; SET LOCAL tenancy.tenant_id = 'beta'; EXECUTE q; COMMIT;
EXECUTE q;                                                     -- SHOULD FAIL
RESET plan_cache_mode;

-- What is malformed or misspelt is refused at once.
SET tenancy.tenant_id = 'a b';                                 -- SHOULD FAIL
SET tenancy.tenant_id = '*';                                   -- SHOULD FAIL
SELECT set_config('tenancy.tenant_id', repeat('x', 129), false);   -- SHOULD FAIL
SET tenancy.tennant_id = 'acme';                               -- SHOULD FAIL
SET tenancy.tenant_id = 'nobody';
SELECT count(*) FROM note;                                     -- SHOULD FAIL
SET tenancy.tenant_id = 'gone';
SELECT count(*) FROM note;                                     -- SHOULD FAIL
SELECT tenancy.context();
RESET tenancy.tenant_id;
SELECT tenancy.context();

-- Without a tenant: an error, or nothing to see; never a write.
SET tenancy.missing_tenant = 'empty';
SELECT count(*) FROM note;
SELECT tenancy.current_tenant() IS NULL AS none;
INSERT INTO note (id, body) VALUES (9, 'x');                   -- SHOULD FAIL
UPDATE note SET body = 'x';                                    -- SHOULD FAIL
UPDATE note SET body = 'x' WHERE id = 12345;                   -- SHOULD FAIL
DELETE FROM note;                                              -- SHOULD FAIL
WITH d AS (DELETE FROM note RETURNING 1) SELECT count(*) FROM d;   -- SHOULD FAIL
RESET tenancy.missing_tenant;
UPDATE note SET body = 'x';                                    -- SHOULD FAIL
EXPLAIN (COSTS OFF) SELECT * FROM note WHERE id = 1;           -- SHOULD FAIL
RESET ROLE;

-- Not even where no row would be looked at: a generic plan asks nothing while it is planned, and an empty table nothing
-- while it is read.
CREATE TABLE empty (id integer PRIMARY KEY, tenant_id text);
CREATE TABLE for_all (id integer PRIMARY KEY, tenant_id text);
INSERT INTO for_all VALUES (1, NULL);
GRANT SELECT, UPDATE ON empty, for_all TO regress_app;
SET client_min_messages = warning;
SELECT tenancy.protect('empty'), tenancy.protect('for_all', 'shared');
RESET client_min_messages;
SET plan_cache_mode = force_generic_plan;
SET ROLE regress_app;
PREPARE e AS SELECT * FROM empty;
PREPARE u AS UPDATE empty SET id = 1 WHERE id = 2;
PREPARE f AS SELECT id FROM for_all WHERE id = 1;
BEGIN; SET LOCAL tenancy.tenant_id = 'acme'; EXECUTE e; EXECUTE u; EXECUTE f; COMMIT;
EXECUTE e;                                                     -- SHOULD FAIL
EXECUTE u;                                                     -- SHOULD FAIL
EXECUTE f;                                                     -- SHOULD FAIL
BEGIN; SET LOCAL tenancy.tenant_id = 'gone'; EXECUTE e;        -- SHOULD FAIL
ROLLBACK;
RESET plan_cache_mode;
-- Nor by what a cursor has left, once the tenant is out.
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
DECLARE c CURSOR FOR SELECT id FROM note ORDER BY id;
FETCH 1 FROM c;
SAVEPOINT s;
RESET ROLE;
UPDATE _tenancy.tenants SET status = 'suspended' WHERE id = 'acme';
SET LOCAL ROLE regress_app;
FETCH 1 FROM c;                                                -- SHOULD FAIL
ROLLBACK TO s;
FETCH 1 FROM c;                                                -- SHOULD FAIL: a cursor that failed is gone
ROLLBACK;
SET ROLE regress_app;
-- A cursor belongs to the tenant that it was opened for: one that evaluates the policy row by row would go on with another's.
BEGIN;
SET LOCAL enable_indexscan = off;
SET LOCAL enable_bitmapscan = off;
SET LOCAL tenancy.tenant_id = 'acme';
DECLARE c SCROLL CURSOR FOR SELECT id, tenant_id FROM note;
DECLARE d CURSOR FOR SELECT count(*) FROM generate_series(1, 3);
FETCH 1 FROM c;
SAVEPOINT s;
SET LOCAL tenancy.tenant_id = 'beta';
SELECT count(*) FROM note;
FETCH ALL FROM c;                                              -- SHOULD FAIL
ROLLBACK;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
DECLARE c CURSOR FOR SELECT id, tenant_id FROM note ORDER BY id;
DECLARE d CURSOR FOR SELECT count(*) FROM generate_series(1, 3);
FETCH 1 FROM c;
FETCH 0 FROM d;
SAVEPOINT s;
SET LOCAL tenancy.tenant_id = 'beta';
FETCH 1 FROM d;                                                -- touches no protected table
ROLLBACK TO s;
FETCH 1 FROM c;                                                -- acme again
COMMIT;
RESET ROLE;
DROP TABLE empty, for_all;

-- A superuser is no tenant: policies do not apply, and no tenant is asked for.
SELECT count(*) FROM note;
UPDATE note SET body = body;

-- Single-tenant mode: the same schema, no SET.
BEGIN;
SET LOCAL tenancy.mode = 'single';
SET LOCAL tenancy.default_tenant = 'beta';
SET LOCAL ROLE regress_app;
SELECT id, tenancy.current_tenant() FROM note;
INSERT INTO note (id, body) VALUES (6, 'single') RETURNING tenant_id;
SELECT tenancy.context();
SET LOCAL tenancy.tenant_id = 'acme';
SELECT tenancy.current_tenant();                               -- a tenant that is set comes first
ROLLBACK;
BEGIN;
SET LOCAL tenancy.mode = 'single';
SET LOCAL ROLE regress_app;
SELECT count(*) FROM note;                                     -- SHOULD FAIL: nobody registered "default"
ROLLBACK;
SET tenancy.default_tenant = 'not valid';                      -- SHOULD FAIL
SET tenancy.mode = 'many';                                     -- SHOULD FAIL

-- The forms of an id.
SELECT tenancy.create_tenant('42'), tenancy.create_tenant('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11');
BEGIN;
SET LOCAL tenancy.tenant_id = '42';
SELECT tenancy.current_tenant(), tenancy.current_tenant_bigint();
SELECT tenancy.current_tenant_uuid();                          -- SHOULD FAIL
ROLLBACK;
BEGIN;
SET LOCAL tenancy.tenant_id = 'a0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11';
SELECT tenancy.current_tenant(), tenancy.current_tenant_uuid();
SELECT tenancy.current_tenant_bigint();                        -- SHOULD FAIL
ROLLBACK;
-- Rust's forms and the registry's are the same.
INSERT INTO _tenancy.tenants (id)
SELECT unnest(ARRAY['007', '-7', '-0', '9223372036854775807', '9223372036854775808', '-9223372036854775808', '+7',
                    'a0eebc999c0b4ef8bb6d6bb9bd380a11']);
CREATE FUNCTION pg_temp.forms(id text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    forms text := '';
BEGIN
    PERFORM set_config('tenancy.tenant_id', id, true);
    BEGIN forms := forms || tenancy.current_tenant_bigint(); EXCEPTION WHEN invalid_parameter_value THEN forms := forms || '-'; END;
    BEGIN forms := forms || ' ' || tenancy.current_tenant_uuid(); EXCEPTION WHEN invalid_parameter_value THEN forms := forms || ' -'; END;
    RETURN forms;
END $$;
SELECT id, pg_temp.forms(id), pg_temp.forms(id) = coalesce(id_bigint::text, '-') || ' ' || coalesce(id_uuid::text, '-') AS same
FROM _tenancy.tenants WHERE status = 'active' ORDER BY id;

DROP TABLE note;
DELETE FROM _tenancy.tenants WHERE id NOT IN ('acme', 'beta', 'gone');
