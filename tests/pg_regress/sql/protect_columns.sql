-- Tenant columns: every type, any name, any schema; and what cannot be one.
\set VERBOSITY default
SELECT tenancy.create_tenant('7'), tenancy.create_tenant('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
CREATE SCHEMA "Odd Schema";
GRANT USAGE ON SCHEMA "Odd Schema" TO regress_app;

-- The same story for each type: fill, protect, read, write, refuse; the foreign key; the index is used; no drift.
CREATE FUNCTION pg_temp.story(type text, own text, other text) RETURNS TABLE (step text, result text) LANGUAGE plpgsql AS $$
DECLARE
    target text := format('"Odd Schema".%I', 'Weird "' || type || '" Name');
    message text;
    detail text;
BEGIN
    EXECUTE format('CREATE TABLE %s (n integer, "Tenant ""Id""" %s)', target, type);
    EXECUTE format('INSERT INTO %s SELECT i, %L FROM generate_series(1, 500) i', target, own);
    EXECUTE format('INSERT INTO %s SELECT i, %L FROM generate_series(501, 510) i', target, other);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON %s TO regress_app', target);
    PERFORM tenancy.protect(target::regclass, tenant_column => 'Tenant "Id"', reference => true);
    EXECUTE format('ANALYZE %s', target);
    PERFORM set_config('tenancy.tenant_id', other, true);
    SET LOCAL ROLE regress_app;
    step := 'rows'; EXECUTE format('SELECT count(*) FROM %s', target) INTO result; RETURN NEXT;
    step := 'plan';
    FOR message IN EXECUTE format('EXPLAIN (COSTS OFF) SELECT * FROM %s', target) LOOP
        result := trim(message); CONTINUE WHEN result !~ 'Cond'; EXIT;
    END LOOP;
    RETURN NEXT;
    step := 'default';
    EXECUTE format('INSERT INTO %s (n) VALUES (0) RETURNING "Tenant ""Id"""', target) INTO result; RETURN NEXT;
    step := 'other';
    BEGIN
        EXECUTE format('INSERT INTO %s VALUES (0, %L)', target, own); result := 'WRITTEN';
    EXCEPTION WHEN insufficient_privilege THEN
        GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL; result := detail::jsonb ->> 'code';
    END;
    RETURN NEXT;
    RESET ROLE;
    PERFORM set_config('tenancy.tenant_id', '', true);
    step := 'foreign key';
    SELECT pg_get_constraintdef(k.oid) INTO result FROM pg_constraint k WHERE k.conrelid = target::regclass AND k.contype = 'f';
    RETURN NEXT;
    step := 'drift'; SELECT p.drift::text INTO result FROM tenancy.protected_tables p WHERE p.relation = target::regclass; RETURN NEXT;
    PERFORM tenancy.unprotect(target::regclass);
END $$;
SET client_min_messages = warning;
SELECT * FROM pg_temp.story('text', 'acme', 'beta');
SELECT * FROM pg_temp.story('varchar(40)', 'acme', 'beta');
SELECT * FROM pg_temp.story('text COLLATE "C"', 'acme', 'beta');
SELECT * FROM pg_temp.story('uuid', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');   -- SHOULD FAIL: unregistered
SELECT tenancy.create_tenant('B0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'), tenancy.create_tenant('8');
SELECT * FROM pg_temp.story('uuid', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'b0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
SELECT * FROM pg_temp.story('bigint', '7', '8');
SELECT * FROM pg_temp.story('integer', '7', '8');
RESET client_min_messages;

-- A tenant whose id has no such form cannot enter such a table. By hand, one whose id is another spelling of another's is that one.
CREATE TABLE by_hand (tenant_id bigint, short char(4), exact numeric);
INSERT INTO by_hand VALUES (7, 'acme', 7);
GRANT SELECT ON by_hand TO regress_app;
ALTER TABLE by_hand ENABLE ROW LEVEL SECURITY;
CREATE TABLE numbered (tenant_id bigint);
INSERT INTO numbered VALUES (7);
SELECT tenancy.protect('numbered');
GRANT SELECT ON numbered TO regress_app;
SELECT tenancy.create_tenant('007');
CREATE FUNCTION pg_temp.seen_by(t text, relation text, own text DEFAULT NULL) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE seen bigint;
BEGIN
    IF own IS NOT NULL THEN
        EXECUTE format('CREATE POLICY own ON %s USING (%s)', relation, own);
    END IF;
    PERFORM set_config('app.tenant_id', t, true), set_config('tenancy.tenant_id', t, true);
    SET LOCAL ROLE regress_app;
    EXECUTE format('SELECT count(*) FROM %s', relation) INTO seen;
    RESET ROLE;
    RETURN seen;
END$$;
\set SHOW_CONTEXT never
BEGIN; SELECT pg_temp.seen_by('007', 'by_hand', 'tenant_id = current_setting(''app.tenant_id'')::bigint'); ROLLBACK;
BEGIN; SELECT pg_temp.seen_by('7.0', 'by_hand', 'exact = current_setting(''app.tenant_id'')::numeric'); ROLLBACK;
BEGIN; SELECT pg_temp.seen_by('acme-two', 'by_hand', 'short = current_setting(''app.tenant_id'')::char(4)'); ROLLBACK;
BEGIN; SELECT pg_temp.seen_by('7', 'numbered'); ROLLBACK;
BEGIN; SELECT pg_temp.seen_by('007', 'numbered'); ROLLBACK;    -- SHOULD FAIL
BEGIN; SELECT pg_temp.seen_by('acme', 'numbered'); ROLLBACK;   -- SHOULD FAIL
\set SHOW_CONTEXT errors
SELECT tenancy.protect('by_hand', tenant_column => 'short');   -- SHOULD FAIL
SELECT tenancy.protect('by_hand', tenant_column => 'exact');   -- SHOULD FAIL
DROP TABLE by_hand;

-- What cannot be a tenant column.
CREATE TABLE bad (n numeric, s smallint, c char(4), j jsonb, g text GENERATED ALWAYS AS ('acme') STORED,
                  i bigint GENERATED ALWAYS AS IDENTITY);
SELECT tenancy.protect('bad');                                 -- SHOULD FAIL: no such column
SELECT tenancy.protect('bad', tenant_column => 'n');           -- SHOULD FAIL
SELECT tenancy.protect('bad', tenant_column => 's');           -- SHOULD FAIL
SELECT tenancy.protect('bad', tenant_column => 'c');           -- SHOULD FAIL
SELECT tenancy.protect('bad', tenant_column => 'j');           -- SHOULD FAIL
SELECT tenancy.protect('bad', tenant_column => 'g');           -- SHOULD FAIL
SELECT tenancy.protect('bad', tenant_column => 'i');           -- SHOULD FAIL
SELECT tenancy.protect('bad', tenant_column => 'ctid');        -- SHOULD FAIL
ALTER TABLE bad DROP COLUMN n;
SELECT tenancy.protect('bad', tenant_column => 'n');           -- SHOULD FAIL
SELECT tenancy.protect('bad', tenant_column => '........pg.dropped.1........');   -- SHOULD FAIL

-- What cannot be protected.
CREATE VIEW a_view AS SELECT 'acme'::text AS tenant_id;
CREATE MATERIALIZED VIEW a_matview AS SELECT 'acme'::text AS tenant_id;
CREATE SEQUENCE a_sequence;
CREATE FOREIGN DATA WRAPPER a_wrapper;
CREATE SERVER a_server FOREIGN DATA WRAPPER a_wrapper;
CREATE FOREIGN TABLE a_foreign_table (tenant_id text) SERVER a_server;
SELECT tenancy.protect('a_view');                              -- SHOULD FAIL
SELECT tenancy.protect('a_matview');                           -- SHOULD FAIL
SELECT tenancy.protect('a_sequence');                          -- SHOULD FAIL
SELECT tenancy.protect('a_foreign_table');                     -- SHOULD FAIL
SELECT tenancy.protect('numbered_pkey'::text::regclass);       -- SHOULD FAIL
SELECT tenancy.protect('_tenancy.tenants', tenant_column => 'id');   -- SHOULD FAIL
SELECT tenancy.protect('pg_class', tenant_column => 'relname');      -- SHOULD FAIL

-- Whose table it is.
SET ROLE regress_owner;
CREATE TABLE owned (tenant_id text);
SELECT tenancy.protect('owned');
INSERT INTO owned VALUES ('acme');                             -- SHOULD FAIL: the owner is no exception
SELECT tenancy.protect('owned');
SELECT tenancy.protect('numbered');                            -- SHOULD FAIL
SELECT tenancy.unprotect('numbered');                          -- SHOULD FAIL
SELECT _tenancy.save_protection('numbered', 'system', NULL, '{}', '{}');   -- SHOULD FAIL
SELECT _tenancy.forget_protection('numbered');                 -- SHOULD FAIL
SELECT tenancy.unprotect('owned');
ALTER TABLE owned ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
SELECT tenancy.protect('owned');                               -- SHOULD FAIL: its rows cannot be seen
ALTER TABLE owned NO FORCE ROW LEVEL SECURITY;
SELECT tenancy.protect('owned');
RESET ROLE;
SELECT relation, drift FROM tenancy.protected_tables ORDER BY 1;

SET client_min_messages = warning;
DROP SCHEMA "Odd Schema" CASCADE;
DROP TABLE numbered, bad, owned;
DROP VIEW a_view; DROP MATERIALIZED VIEW a_matview; DROP SEQUENCE a_sequence; DROP FOREIGN DATA WRAPPER a_wrapper CASCADE;
DELETE FROM _tenancy.tenants WHERE id NOT IN ('acme', 'beta', 'gone');
