-- What statements take, for each tenant: counted once, when their transaction has ended.
\set VERBOSITY default
\set SHOW_CONTEXT never
CREATE TABLE work (id int, tenant_id text, PRIMARY KEY (tenant_id, id));
CREATE FUNCTION nested(n int) RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN PERFORM count(*) FROM work; RETURN (SELECT count(*) FROM work); END $$;
SET client_min_messages = warning;
SELECT tenancy.protect('work'), tenancy.meter('work', 'works');
SELECT tenancy.set_quota('beta', 'works', 3);
RESET client_min_messages;
GRANT SELECT, INSERT, UPDATE, DELETE ON work TO regress_app, regress_bound;
-- What there is of the tenants, besides what differs from run to run.
CREATE VIEW taken AS
    SELECT tenant_id, kind, statements, rows, transactions_committed AS committed, transactions_rolled_back AS rolled_back, errors, errors_by_class AS classes, quota_refusals AS quota,
           refused_contexts AS contexts
    FROM tenancy.stat_tenants WHERE kind = 'tenant';

SET ROLE regress_app;
SELECT tenancy.stat_tenants_reset();                           -- SHOULD FAIL
SELECT count(*) FROM tenancy.stat_tenants;                     -- SHOULD FAIL: no tenant
RESET ROLE;
SELECT tenancy.stat_tenants_reset('no/good');                  -- SHOULD FAIL
SET tenancy.tenant_id = 'acme';
SELECT tenancy.stat_tenants_reset();                           -- SHOULD FAIL: in the context of a tenant
RESET tenancy.tenant_id;
SELECT tenancy.stat_tenants_reset();
SELECT * FROM taken;

SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
INSERT INTO work SELECT g FROM generate_series(1, 10) AS g;
SELECT count(*) FROM work;
UPDATE work SET id = id + 100 WHERE id > 5;
COMMIT;
RESET ROLE;
SELECT * FROM taken;
-- What is inside a statement is part of it; what DO and CALL run are statements, and so is what EXECUTE and COPY do.
SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'beta';
SELECT nested(1), nested(2);
DO $$ BEGIN PERFORM 1 FROM work; PERFORM 1 FROM work; END $$;
PREPARE p AS SELECT g FROM generate_series(1, 7) AS g;
EXECUTE p;
COPY (SELECT g FROM generate_series(1, 3) AS g) TO stdout;
DECLARE c CURSOR FOR SELECT g FROM generate_series(1, 100) AS g;
FETCH 5 FROM c;
COMMIT;
RESET ROLE;
SELECT * FROM taken WHERE tenant_id = 'beta';
-- Errors, by class, and what was refused.
SELECT tenancy.stat_tenants_reset('beta');
SET ROLE regress_app;
SET tenancy.tenant_id = 'beta';
SELECT 1 / 0;                                                  -- SHOULD FAIL
SELECT 1 / 0;                                                  -- SHOULD FAIL
INSERT INTO work VALUES (1), (1);                              -- SHOULD FAIL
INSERT INTO work SELECT g FROM generate_series(1, 4) AS g;     -- SHOULD FAIL: over its quota
SELECT nonsense;                                               -- SHOULD FAIL
DO $$ BEGIN PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN NULL; END $$;
BEGIN;
INSERT INTO work VALUES (1);
ROLLBACK;
SET tenancy.tenant_id = 'gone';
SELECT count(*) FROM work;                                     -- SHOULD FAIL: suspended
RESET tenancy.tenant_id;
SELECT count(*) FROM work;                                     -- SHOULD FAIL: no tenant
SET tenancy.tenant_id = 'unheard-of';
SELECT count(*) FROM work;                                     -- SHOULD FAIL: not registered
RESET tenancy.tenant_id;
RESET ROLE;
SELECT * FROM taken WHERE tenant_id = 'beta';
SELECT bool_or(tenant_id = 'unheard-of') AS has_a_place, sum(refused_contexts) AS refused FROM tenancy.stat_tenants;
-- Each transaction of several tenants is told to each.
SELECT tenancy.stat_tenants_reset();
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SELECT count(*) FROM work;
SET LOCAL tenancy.tenant_id = 'beta';
SELECT count(*) FROM work;
SELECT count(*) FROM work;
COMMIT;
SELECT tenant_id, statements, rows, committed FROM taken ORDER BY 1;
-- WAL and blocks.
SET tenancy.tenant_id = 'acme';
INSERT INTO work SELECT g FROM generate_series(1000, 2000) AS g;
RESET tenancy.tenant_id;
SELECT tenant_id, wal_bytes > 50000 AS has_wal, shared_blks_hit > 100 AS has_blocks, total_exec_time > 0 AS has_time, stats_since <= now() AS has_begun FROM tenancy.stat_tenants WHERE tenant_id = 'acme';
-- A tenant sees its own; whoever may monitor, all.
SET ROLE regress_app;
SET tenancy.tenant_id = 'beta';
SELECT DISTINCT tenant_id, kind FROM tenancy.stat_tenants;
RESET tenancy.tenant_id;
RESET ROLE;
CREATE ROLE regress_watcher IN ROLE pg_monitor;
SET ROLE regress_watcher;
SELECT tenant_id, kind FROM tenancy.stat_tenants WHERE kind IN ('tenant', 'none') ORDER BY kind, tenant_id;
RESET ROLE;
DROP ROLE regress_watcher;
SELECT tenancy.stat_tenants_reset('acme');
SELECT count(*) FROM taken WHERE tenant_id = 'acme';
SET client_min_messages = warning;
SELECT tenancy.unmeter('work', 'works'), tenancy.remove_quota('tenant', 'beta', 'works');
DROP VIEW taken;
DROP FUNCTION nested;
DROP TABLE work;
RESET client_min_messages;
