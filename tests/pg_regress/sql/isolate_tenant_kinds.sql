-- Partitions of one tenant in tables of every kind: other types and names, lists that tenants share, tables without a key, what cannot be done.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
SELECT tenancy.create_tenant('7'), tenancy.create_tenant('-8'), tenancy.create_tenant('5000000000'), tenancy.create_tenant('delta'),
       tenancy.create_tenant('0a0a0a0a-0000-0000-0000-000000000001'), tenancy.create_tenant('a.b:c@d+e-' || repeat('x', 100));
RESET client_min_messages;
CREATE FUNCTION held(root regclass) RETURNS TABLE (partition regclass, bound text, tenant text, n bigint) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT p.oid::regclass, pg_get_expr(p.relpartbound, p.oid), d.tenant, count(d.tenant)
        FROM pg_inherits i JOIN pg_class p ON p.oid = i.inhrelid LEFT JOIN (SELECT tableoid, %I::text AS tenant FROM %s) d ON d.tableoid = p.oid
        WHERE i.inhparent = %L::regclass GROUP BY p.oid, 2, 3 ORDER BY p.oid::regclass::text, 3',
        (SELECT tenant_column FROM tenancy.protected_tables t WHERE t.relation = root), root, root);
END
$$;
CREATE FUNCTION drifts() RETURNS TABLE (relation regclass, drift text[]) LANGUAGE sql AS $$ SELECT relation, drift FROM tenancy.protected_tables WHERE drift <> '{}' $$;

-- The column is of each type that a tenant column may have, and pruned by its policy.
DO $$
DECLARE
    type text;
    tenant text;
    plan text;
    line text;
BEGIN
    FOR type, tenant IN VALUES ('text', 'acme'), ('varchar(50)', 'acme'), ('text COLLATE "POSIX"', 'acme'), ('bigint', '7'), ('bigint', '5000000000'), ('integer', '-8'),
                               ('uuid', '0a0a0a0a-0000-0000-0000-000000000001') LOOP
        SET LOCAL client_min_messages = warning;
        EXECUTE format('CREATE TABLE typed ("The Tenant" %s, n integer) PARTITION BY LIST ("The Tenant")', type);
        CREATE TABLE "typed Rest" PARTITION OF typed DEFAULT;
        EXECUTE format('INSERT INTO typed SELECT %L, g FROM generate_series(1, 10) AS g', tenant);
        PERFORM tenancy.protect('typed', tenant_column => 'The Tenant');
        GRANT SELECT ON typed TO regress_app;
        RESET client_min_messages;
        PERFORM tenancy.isolate_tenant('typed', tenant, 'typed One');
        SET LOCAL ROLE regress_app;
        PERFORM tenancy.set_tenant(tenant);
        plan := '';
        FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) SELECT * FROM typed' LOOP
            plan := plan || line;
        END LOOP;
        RAISE INFO '%: % %', type, regexp_replace(plan, '\s+', ' ', 'g'), (SELECT count(*) FROM typed);
        PERFORM tenancy.clear_tenant();
        RESET ROLE;
        RAISE INFO '%', (SELECT string_agg(h::text, ' ') FROM held('typed') h);
        DROP TABLE typed;
    END LOOP;
END
$$;
CREATE TABLE typed (tenant_id integer, n integer) PARTITION BY LIST (tenant_id);
CREATE TABLE typed_rest PARTITION OF typed DEFAULT;
SET client_min_messages = warning;
SELECT tenancy.protect('typed');
RESET client_min_messages;
SELECT tenancy.isolate_tenant('typed', 'acme');                -- SHOULD FAIL: no number
SELECT tenancy.isolate_tenant('typed', '5000000000');          -- SHOULD FAIL: too large a number
DROP TABLE typed;

-- A list that tenants share, beside a default partition; with a statement trigger of its own, and what others have in it referenced by nothing.
CREATE TABLE shared (tenant_id text, id integer, n integer CHECK (n > 0), PRIMARY KEY (tenant_id, id)) PARTITION BY LIST (tenant_id);
CREATE TABLE shared_some PARTITION OF shared FOR VALUES IN ('acme', 'beta', 'not, acme', 'gone');
CREATE TABLE shared_rest PARTITION OF shared DEFAULT;
INSERT INTO shared SELECT t, g, g FROM unnest('{acme,beta,7}'::text[]) AS t, generate_series(1, 5) AS g;
SET client_min_messages = warning;
SELECT tenancy.protect('shared'), tenancy.meter('shared', 'shared'), tenancy.audit('shared');
RESET client_min_messages;
CREATE INDEX of_its_own ON shared_some (n);
SELECT tenancy.isolate_tenant('shared', 'acme');
SELECT * FROM held('shared');
SELECT tenancy.isolate_tenant('shared', 'gone');
SELECT tenancy.isolate_tenant('shared', '7');
SELECT tenancy.isolate_tenant('shared', 'delta', 'shared_acme');       -- SHOULD FAIL: taken
SET client_min_messages = warning;
SELECT tenancy.isolate_tenant('shared', 'a.b:c@d+e-' || repeat('x', 100)) <> 0 AS is_made;
RESET client_min_messages;
SELECT * FROM held('shared') WHERE partition::text !~ 'tenancy_';
SELECT regexp_replace(partition::text, '\d+_', '..._') AS partition, left(bound, 40) AS bound FROM held('shared') WHERE partition::text ~ 'tenancy_';
SELECT * FROM drifts();
SELECT * FROM tenancy.reconcile('shared');
SELECT drift FROM tenancy.meters WHERE relation = 'shared'::regclass;
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'shared_some'::regclass AND NOT tgisinternal ORDER BY 1;
SELECT conname FROM pg_constraint WHERE conname ~ '^tenancy_(left|isolated)';
SELECT tenancy.create_tenant('zeta');
SELECT tenancy.isolate_tenant('shared', 'zeta'), tenancy.isolate_tenant('shared', 'beta');             -- two at once
SELECT * FROM held('shared') WHERE partition::text !~ 'tenancy_';
CREATE TABLE refers (tenant_id text, id integer, FOREIGN KEY (tenant_id, id) REFERENCES shared);
ALTER TABLE shared DETACH PARTITION shared_some;
ALTER TABLE shared_some RENAME TO shared_other;
CREATE TABLE shared_some PARTITION OF shared FOR VALUES IN ('delta', 'not, acme');
SELECT tenancy.isolate_tenant('shared', 'delta');              -- SHOULD FAIL: referenced
-- In no partition: one is made.
DROP TABLE refers, shared_rest, shared_some;
SELECT tenancy.isolate_tenant('shared', 'delta');
SELECT * FROM held('shared') WHERE partition::text ~ 'delta';
DROP TABLE shared, shared_other;

-- Each kind, without a key, in a schema that protects its tables by itself, and as an owner who may not make tables there.
CREATE SCHEMA app AUTHORIZATION regress_owner;
SELECT tenancy.protect_schema('app');
SET client_min_messages = warning;
CREATE TABLE app.journal (tenant_id text, body text) PARTITION BY LIST (tenant_id);
CREATE TABLE app.journal_rest PARTITION OF app.journal DEFAULT;
INSERT INTO app.journal SELECT t, 'same' FROM unnest('{acme,acme,beta}'::text[]) AS t;
SELECT tenancy.protect('app.journal', 'audit');
CREATE TABLE app.plan (tenant_id text, body text, details json) PARTITION BY LIST (tenant_id);
CREATE UNLOGGED TABLE app.plan_rest PARTITION OF app.plan DEFAULT;
SELECT tenancy.unprotect('app.plan');
INSERT INTO app.plan SELECT t, 'same', '{}' FROM unnest('{acme,acme,beta,NULL}'::text[]) AS t;
SELECT tenancy.protect('app.plan', 'shared', create_index => false);
CREATE TABLE app.setting (name text) PARTITION BY LIST (name);
SELECT tenancy.protect('app.setting', 'system', 'tenant_id');
RESET client_min_messages;
SELECT tenancy.isolate_tenant('app.journal', 'acme');
SELECT tenancy.isolate_tenant('app.plan', 'acme');
SELECT * FROM held('app.journal');
SELECT * FROM held('app.plan');
SELECT relation, kind, policies FROM tenancy.protected_tables WHERE relation::text ~ '_acme' ORDER BY 1;
SELECT relname, relpersistence FROM pg_class WHERE relname = 'plan_acme';
SELECT indexrelid::regclass FROM pg_index WHERE indrelid IN ('app.plan_acme'::regclass, 'app.journal_acme'::regclass) ORDER BY 1;
SELECT * FROM drifts();
SELECT tenancy.isolate_tenant('app.setting', 'acme');          -- SHOULD FAIL: of no tenant
GRANT USAGE ON SCHEMA app TO regress_app;
GRANT SELECT, INSERT ON app.journal, app.plan TO regress_app;
SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
INSERT INTO app.journal (body) VALUES ('new') RETURNING tableoid::regclass;
SELECT count(*) FROM app.journal;
SELECT tableoid::regclass, tenant_id FROM app.plan ORDER BY 2;
EXPLAIN (COSTS OFF) SELECT * FROM app.plan;
SET LOCAL tenancy.tenant_id = 'beta';
SELECT tableoid::regclass, tenant_id FROM app.plan ORDER BY 2;
EXPLAIN (COSTS OFF) SELECT * FROM app.plan;
ROLLBACK;
RESET ROLE;
-- Where NULL is in a list, it stays in that.
SET client_min_messages = warning;
CREATE TABLE app.free (tenant_id text, n integer) PARTITION BY LIST (tenant_id);
CREATE TABLE app.free_some PARTITION OF app.free FOR VALUES IN (NULL, 'acme', 'beta');
SELECT tenancy.unprotect('app.free');
INSERT INTO app.free VALUES ('acme', 1), (NULL, 2);
SELECT tenancy.protect('app.free', 'shared');
RESET client_min_messages;
SELECT tenancy.isolate_tenant('app.free', 'acme');
SELECT * FROM held('app.free');
GRANT USAGE ON SCHEMA app TO regress_outsider;
ALTER TABLE app.journal OWNER TO regress_outsider;
SET ROLE regress_outsider;
SELECT tenancy.isolate_tenant('app.journal', 'beta');          -- SHOULD FAIL: a partition is not its own
RESET ROLE;
ALTER TABLE app.journal_rest OWNER TO regress_outsider;
ALTER TABLE app.journal_acme OWNER TO regress_outsider;
SET ROLE regress_outsider;
SELECT tenancy.isolate_tenant('app.journal', 'beta');          -- SHOULD FAIL: not its schema
RESET ROLE;
ALTER TABLE app.journal_rest OWNER TO regress_owner;
GRANT CREATE ON SCHEMA app TO regress_outsider;
SELECT tenancy.isolate_tenant('app.journal', 'beta');          -- SHOULD FAIL: of another owner
ALTER TABLE app.journal_rest OWNER TO regress_outsider;
ALTER SCHEMA app OWNER TO regress_outsider;
SELECT tenancy.isolate_tenant('app.journal', 'beta');          -- by a superuser, for whose it is
SELECT relowner::regrole FROM pg_class WHERE oid = 'app.journal_beta'::regclass;
SELECT * FROM drifts();

-- What is partitioned otherwise.
SET client_min_messages = warning;
CREATE TABLE app.by_range (tenant_id text, id integer) PARTITION BY RANGE (tenant_id);
CREATE TABLE app.by_hash (tenant_id text, id integer) PARTITION BY HASH (tenant_id);
CREATE TABLE app.by_other (tenant_id text, id integer) PARTITION BY LIST (id);
CREATE TABLE app.by_expression (tenant_id text, id integer) PARTITION BY LIST (lower(tenant_id));
CREATE TABLE app.of_parts (tenant_id text, id integer) PARTITION BY LIST (tenant_id);
CREATE TABLE app.of_parts_rest PARTITION OF app.of_parts DEFAULT PARTITION BY RANGE (id);
CREATE TABLE app.of_parts_rest_1 PARTITION OF app.of_parts_rest DEFAULT;
RESET client_min_messages;
SELECT tenancy.isolate_tenant('app.by_range', 'acme');         -- SHOULD FAIL
SELECT tenancy.isolate_tenant('app.by_hash', 'acme');          -- SHOULD FAIL
SELECT tenancy.isolate_tenant('app.by_other', 'acme');         -- SHOULD FAIL
SELECT tenancy.isolate_tenant('app.by_expression', 'acme');    -- SHOULD FAIL
SELECT tenancy.isolate_tenant('app.of_parts', 'acme');         -- SHOULD FAIL
CREATE TABLE app.of_parts_acme PARTITION OF app.of_parts FOR VALUES IN ('acme') PARTITION BY RANGE (id);
SELECT tenancy.isolate_tenant('app.of_parts', 'acme');         -- it has one

-- A CHECK that is not valid holds for what is moved, or nothing is.
SET client_min_messages = warning;
CREATE TABLE app.checked (tenant_id text, n integer) PARTITION BY LIST (tenant_id);
CREATE TABLE app.checked_rest PARTITION OF app.checked DEFAULT;
INSERT INTO app.checked VALUES ('acme', -1), ('beta', 1);
ALTER TABLE app.checked ADD CONSTRAINT positive CHECK (n > 0) NOT VALID;
RESET client_min_messages;
SELECT tenancy.isolate_tenant('app.checked', 'acme');          -- SHOULD FAIL
SELECT tenancy.isolate_tenant('app.checked', 'beta');
SELECT * FROM held('app.checked');

-- Identity of replication goes along.
ALTER TABLE app.checked_rest REPLICA IDENTITY FULL;
SELECT tenancy.isolate_tenant('app.checked', 'delta');
SELECT relreplident FROM pg_class WHERE oid = 'app.checked_delta'::regclass;
CREATE TABLE app.keyed (tenant_id text NOT NULL, a integer NOT NULL, b integer NOT NULL, UNIQUE (tenant_id, a), UNIQUE (tenant_id, b)) PARTITION BY LIST (tenant_id);
CREATE TABLE app.keyed_rest PARTITION OF app.keyed DEFAULT;
ALTER TABLE app.keyed_rest REPLICA IDENTITY USING INDEX keyed_rest_tenant_id_b_key;
SELECT tenancy.isolate_tenant('app.keyed', 'acme');
SELECT c.relreplident, i.indexrelid::regclass FROM pg_class c JOIN pg_index i ON i.indrelid = c.oid AND i.indisreplident WHERE c.oid = 'app.keyed_acme'::regclass;

-- A table that is not partitioned becomes the default partition of one that is.
CREATE TABLE app.flat (id integer, tenant_id text, PRIMARY KEY (tenant_id, id));
INSERT INTO app.flat SELECT g, t FROM unnest('{acme,beta}'::text[]) AS t, generate_series(1, 3) AS g;
SELECT tenancy.isolate_tenant('app.flat', 'acme');             -- SHOULD FAIL
BEGIN;
ALTER TABLE app.flat RENAME TO flat_rest;
CREATE TABLE app.flat (LIKE app.flat_rest INCLUDING ALL) PARTITION BY LIST (tenant_id);
SELECT tenancy.protect('app.flat');
ALTER TABLE app.flat ATTACH PARTITION app.flat_rest DEFAULT;
COMMIT;
SELECT tenancy.isolate_tenant('app.flat', 'acme');
SELECT * FROM held('app.flat');
SELECT * FROM drifts();

-- At REPEATABLE READ as well: what is moved is what there is.
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT tenancy.isolate_tenant('app.flat', 'beta');
SELECT * FROM held('app.flat');
COMMIT;
SELECT * FROM held('app.flat');

SET client_min_messages = warning;
SELECT tenancy.unprotect_schema('app');
DROP SCHEMA app CASCADE;
DROP FUNCTION drifts, held;
DELETE FROM _tenancy.tenants WHERE id NOT IN ('acme', 'beta', 'gone');
