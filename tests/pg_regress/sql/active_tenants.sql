-- docs/active_tenants.md, line by line: what PostgreSQL refuses, what it cannot use behind a policy, and the two layouts that keep rows of suspended
-- tenants out of indexes.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE SCHEMA active_tenants;
GRANT USAGE ON SCHEMA active_tenants TO regress_app;
SET search_path = active_tenants, public;
DO $$ BEGIN PERFORM tenancy.create_tenant('tenant-' || n) FROM generate_series(0, 9) AS n WHERE NOT EXISTS (SELECT FROM tenancy.tenants t WHERE t.id = 'tenant-' || n); END $$;
CREATE TABLE agents (tenant_id text, id bigint GENERATED ALWAYS AS IDENTITY, created_at timestamptz NOT NULL DEFAULT now(), body text, PRIMARY KEY (tenant_id, id));
SELECT tenancy.protect('agents');
GRANT SELECT, INSERT, UPDATE, DELETE ON agents TO regress_app;
INSERT INTO agents (tenant_id, created_at, body) SELECT 'tenant-' || n % 10, '2026-01-01'::timestamptz + n * interval '1 minute', repeat('x', 50) FROM generate_series(1, 5000) AS n;
CREATE FUNCTION pg_temp.plan(the_query text) RETURNS SETOF text LANGUAGE plpgsql SET role = regress_app SET tenancy.tenant_id = 'tenant-3' AS $$
BEGIN
    RETURN QUERY EXECUTE 'EXPLAIN (COSTS OFF) ' || the_query;
END $$;

-- As the guidelines write it.
CREATE INDEX ON agents (tenant_id, id) WHERE tenant_id IN (SELECT id FROM tenancy.tenants WHERE status = 'active');   -- SHOULD FAIL
CREATE FUNCTION is_active(text) RETURNS boolean STABLE LANGUAGE sql AS 'SELECT EXISTS (SELECT FROM tenancy.tenants WHERE id = $1 AND status = ''active'')';
CREATE INDEX ON agents (tenant_id, id) WHERE is_active(tenant_id);   -- SHOULD FAIL
-- A list of names can be made, and is not used: which tenant it is is not known when a statement is planned.
CREATE INDEX agents_listed ON agents (tenant_id, created_at) WHERE tenant_id NOT IN ('tenant-8', 'tenant-9');
VACUUM ANALYZE agents;
SELECT count(*) FROM pg_temp.plan('SELECT * FROM agents ORDER BY created_at DESC LIMIT 20') AS plan WHERE plan ~ 'agents_listed';
DROP INDEX agents_listed;

-- A flag.
ALTER TABLE agents ADD COLUMN active boolean NOT NULL DEFAULT true;
CREATE INDEX CONCURRENTLY agents_active ON agents (tenant_id, created_at) WHERE active;
VACUUM ANALYZE agents;
SELECT count(*) FROM pg_temp.plan('SELECT * FROM agents ORDER BY created_at DESC LIMIT 20') AS plan WHERE plan ~ 'agents_active';
CREATE POLICY active_only ON agents AS RESTRICTIVE FOR SELECT USING (active);
SELECT pg_temp.plan('SELECT * FROM agents ORDER BY created_at DESC LIMIT 20');
SELECT rule, severity, problem FROM tenancy.lint() WHERE object = 'active_tenants.agents';

-- Suspending and resuming, some rows at a time; a tenant that is let in again before its rows are would not see all of them.
CREATE PROCEDURE suspend(tenant text, reason text) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM tenancy.suspend_tenant(tenant, reason);
    LOOP
        COMMIT;
        UPDATE agents SET active = false WHERE ctid = ANY (ARRAY(SELECT ctid FROM agents WHERE tenant_id = tenant AND active LIMIT 100));
        EXIT WHEN NOT FOUND;
    END LOOP;
END $$;
CREATE PROCEDURE resume(tenant text) LANGUAGE plpgsql AS $$
BEGIN
    LOOP
        UPDATE agents SET active = true WHERE ctid = ANY (ARRAY(SELECT ctid FROM agents WHERE tenant_id = tenant AND NOT active LIMIT 100));
        EXIT WHEN NOT FOUND;
        COMMIT;
    END LOOP;
    PERFORM tenancy.resume_tenant(tenant);
END $$;
CALL suspend('tenant-3', 'did not pay');
SELECT active, count(*) FROM agents WHERE tenant_id = 'tenant-3' GROUP BY active;
BEGIN;
SET LOCAL ROLE regress_app;
SET LOCAL tenancy.tenant_id = 'tenant-3';
SELECT count(*) FROM agents;                                   -- SHOULD FAIL
ROLLBACK;
CALL resume('tenant-3');
BEGIN;
SET LOCAL ROLE regress_app;
SET LOCAL tenancy.tenant_id = 'tenant-3';
SELECT count(*) FROM agents;
-- A tenant cannot hide a row from itself.
UPDATE agents SET active = false WHERE id = (SELECT min(id) FROM agents);   -- SHOULD FAIL
ROLLBACK;

-- An archive partition.
CREATE TABLE runs (tenant_id text, id bigint GENERATED ALWAYS AS IDENTITY, created_at timestamptz NOT NULL DEFAULT now(), body text, active boolean NOT NULL DEFAULT true,
    PRIMARY KEY (tenant_id, id, active)) PARTITION BY LIST (active);
CREATE TABLE runs_active PARTITION OF runs FOR VALUES IN (true);
CREATE TABLE runs_archive PARTITION OF runs FOR VALUES IN (false);
CREATE INDEX ON runs_active (tenant_id, created_at);
SELECT tenancy.protect('runs');
CREATE POLICY active_only ON runs AS RESTRICTIVE FOR SELECT USING (active);
GRANT SELECT, INSERT, UPDATE, DELETE ON runs TO regress_app;
INSERT INTO runs (tenant_id, created_at, body) SELECT tenant_id, created_at, body FROM agents;
UPDATE runs SET active = false WHERE tenant_id IN ('tenant-8', 'tenant-9');
VACUUM ANALYZE runs;
SELECT tableoid::regclass, count(*) FROM runs GROUP BY 1 ORDER BY 1;
SELECT pg_temp.plan('SELECT * FROM runs ORDER BY created_at DESC LIMIT 20');
SELECT rule, severity, problem FROM tenancy.lint() WHERE object ~ 'active_tenants.runs';
SET client_min_messages = error;
DROP SCHEMA active_tenants CASCADE;
DELETE FROM _tenancy.tenants WHERE id LIKE 'tenant-_';
