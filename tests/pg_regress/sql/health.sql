-- The health of a tenant, of all, and of the extension itself.
\set VERBOSITY default
\set SHOW_CONTEXT never
CREATE ROLE regress_monitor IN ROLE pg_monitor;
SELECT component, status FROM tenancy.extension_health() WHERE component <> 'server' ORDER BY component;
SELECT tenant_id, status, reasons, database, resources, services, integrations FROM tenancy.health() WHERE tenant_id IS NOT NULL;
SELECT tenancy.health('acme') - 'checked_at';

-- Components report for their tenant, and nobody for another.
SET ROLE regress_app;
SELECT tenancy.report_health('worker', 'healthy');             -- SHOULD FAIL: no tenant
SELECT tenancy.health('acme');                                 -- SHOULD FAIL: no tenant
SELECT * FROM tenancy.health();                                -- SHOULD FAIL
SELECT * FROM tenancy.extension_health();                      -- SHOULD FAIL
SET tenancy.missing_tenant = 'empty';
SELECT tenancy.report_health('worker', 'healthy');             -- SHOULD FAIL: no tenant
SELECT tenancy.health('acme');                                 -- SHOULD FAIL
RESET tenancy.missing_tenant;
SET tenancy.tenant_id = 'acme';
SELECT tenancy.report_health('worker', 'healthy');
SELECT tenancy.report_health('mail', 'integration', 'degraded', 'answers after 5 s');
SELECT tenancy.report_health('worker', 'unwell');              -- SHOULD FAIL
SELECT tenancy.report_health('worker', NULL);                  -- SHOULD FAIL
SELECT tenancy.report_health(NULL, 'healthy');                 -- SHOULD FAIL
SELECT tenancy.report_health('', 'healthy');                   -- SHOULD FAIL
SELECT tenancy.report_health('worker', 'robot', 'healthy', NULL);    -- SHOULD FAIL
SELECT tenancy.report_health('worker', 'healthy', repeat('x', 1025));    -- SHOULD FAIL
SELECT tenancy.health('acme') - 'checked_at' #- '{integrations,checks,0,reported_at}' #- '{services,checks,0,reported_at}';
SELECT tenancy.health('beta');                                 -- SHOULD FAIL: another's
SELECT tenancy.health('no such');                              -- SHOULD FAIL: not even whether there is one
SELECT tenancy.health(NULL);                                   -- SHOULD FAIL
SELECT * FROM tenancy.health_checks('beta');                   -- SHOULD FAIL
SELECT * FROM tenancy.health();                                -- SHOULD FAIL
SELECT * FROM _tenancy.tenant_checks(NULL);                    -- SHOULD FAIL
SELECT * FROM _tenancy.component_checks(NULL);                 -- SHOULD FAIL
SELECT * FROM _tenancy.health_reports;                         -- SHOULD FAIL
SELECT _tenancy.asked_for('beta');                             -- SHOULD FAIL
RESET tenancy.tenant_id;
SET tenancy.tenant_id = 'beta';
SELECT tenancy.report_health('worker', 'unhealthy', '');
SELECT tenancy.forget_health('mail');                          -- not acme's
SELECT tenancy.health('beta') -> 'status', tenancy.health('beta') -> 'reasons';
RESET tenancy.tenant_id;
RESET ROLE;

-- Whoever may monitor reports for what all share, and sees all of them.
SET ROLE regress_monitor;
SELECT tenancy.report_health('queue', 'degraded', '1,000 wait');
SELECT tenancy.health('acme') -> 'reasons';
SELECT tenancy.health('nobody');                               -- SHOULD FAIL
SELECT tenancy.health('');                                     -- SHOULD FAIL
SELECT tenant_id, status, reasons, database, resources, services, integrations FROM tenancy.health() WHERE tenant_id IS NOT NULL;
SELECT services, 'queue: 1,000 wait' = ANY (reasons) AS is_told FROM tenancy.health() WHERE tenant_id IS NULL;
SELECT tenancy.forget_health('queue'), tenancy.forget_health('queue');
RESET ROLE;
-- What a tenant's roles cannot do by a function of another's with more rights.
CREATE FUNCTION lent() RETURNS SETOF text LANGUAGE sql SECURITY DEFINER AS $$ SELECT tenancy.health('beta')::text $$;
SET ROLE regress_app;
SELECT lent();                                                 -- SHOULD FAIL: no tenant
SET tenancy.tenant_id = 'acme';
SELECT lent();                                                 -- SHOULD FAIL: another's
RESET tenancy.tenant_id;
RESET ROLE;
DROP FUNCTION lent();

-- Silence is a bad sign.
UPDATE _tenancy.health_reports SET reported_at = now() - interval '4 minutes' WHERE tenant_id = 'acme' AND component = 'worker';
SELECT area, component, status FROM tenancy.health_checks('acme') WHERE component = 'worker';
SET tenancy.health_stale_after = '3min';
SELECT area, component, status, reason ~ '^worker: not heard of for 00:04:0\d$' AS is_told, detail -> 'stale' AS stale FROM tenancy.health_checks('acme') WHERE component = 'worker';
RESET tenancy.health_stale_after;

-- Quotas: above the soft limit, and used up.
SET client_min_messages = warning;
SELECT tenancy.set_quota('acme', 'health_calls', 10, 'hour', 5), tenancy.set_quota('acme', 'health_nothing', 0), tenancy.set_quota('acme', 'health_free', NULL), tenancy.set_quota('beta', 'health_calls', NULL, NULL, 1);
RESET client_min_messages;
SET tenancy.tenant_id = 'acme';
SELECT tenancy.track_usage('health_calls', 5), tenancy.track_usage('health_free', 100);
SELECT area, component, status, reason, detail FROM tenancy.health_checks('acme') WHERE area = 'resources';
SELECT tenancy.track_usage('health_calls', 1);
SELECT area, component, status, reason FROM tenancy.health_checks('acme') WHERE area = 'resources';
SELECT tenancy.track_usage('health_calls', 4);
SELECT area, component, status, reason, detail -> 'percentage' AS percentage FROM tenancy.health_checks('acme') WHERE area = 'resources';
RESET tenancy.tenant_id;
SELECT tenant_id, status, reasons, resources FROM tenancy.health() WHERE tenant_id IS NOT NULL;
-- For all at once it is worked out another way: to the same end, settled or not, over each period.
SET client_min_messages = warning;
SELECT count(*) FROM (SELECT tenancy.set_default_quota('health_tokens', 1, p, 1) FROM unnest('{hour,day,month,15 minutes,3 months,NULL}'::text[]) AS p) AS s;
INSERT INTO _tenancy.usage_open
    SELECT t, 'health_tokens', amount, now() - age, NULL, NULL, is_correction, 0, false
    FROM unnest('{acme,beta,gone}'::text[]) AS t, unnest('{0,20 minutes,2 hours,3 days,40 days,2 years}'::interval[]) AS age, unnest('{true,false}'::bool[]) AS is_correction,
         unnest('{7,-3}'::int[]) AS amount;
SELECT tenancy.settle_usage() > 0 AS was_settled;
SELECT tenancy.set_quota('acme', 'health_tokens', NULL), tenancy.set_quota('beta', 'health_tokens', 1000000, NULL, 10);
SELECT tenancy.set_quota('beta', 'health_tokens', 1000000, p, 10) FROM unnest('{hour,day,month,15 minutes,3 months}'::text[]) AS p;
SET tenancy.tenant_id = 'beta';
SELECT tenancy.track_usage('health_tokens', 20);
RESET tenancy.tenant_id;
SELECT count(*) > 10 AS are_many, count(*) FILTER (WHERE (one.used, one.percentage) IS DISTINCT FROM (l.used, l.percentage)) AS differ
FROM (SELECT * FROM _tenancy.quota_states q WHERE q.used >= q."limit" OR q.used > q.soft_limit) AS one
FULL JOIN _tenancy.quota_levels(NULL) l ON l.tenant_id = one.tenant_id AND l.resource = one.resource AND l.period IS NOT DISTINCT FROM one.period AND l.scope = one.scope;
SELECT count(tenancy.remove_quota(q.scope, q.name, q.resource, q.period)) FROM tenancy.quotas q WHERE q.resource = 'health_tokens';
RESET client_min_messages;

-- Tenants that are not there to be entered.
SET client_min_messages = error;
SELECT tenancy.suspend_tenant('beta', 'did not pay');
RESET client_min_messages;
SELECT tenancy.health('beta') #> '{database,checks}';
SELECT tenancy.archive_tenant('beta');
SELECT tenancy.health('beta') -> 'status';
SELECT count(*) FROM tenancy.health() WHERE tenant_id = 'beta';
SELECT tenancy.resume_tenant('beta');

-- Tables that should be protected, and are not, or not any more.
CREATE TABLE forgotten (id int, tenant_id text);
GRANT SELECT ON forgotten TO regress_app;
CREATE TABLE kept (id int, tenant_id text);
SET client_min_messages = warning;
SELECT tenancy.protect('kept');
SET tenancy.restoring = on;
ALTER TABLE kept NO FORCE ROW LEVEL SECURITY;
RESET tenancy.restoring;
RESET client_min_messages;
SELECT component, status, reason, remedy FROM tenancy.extension_health() WHERE component = 'protection';
SELECT component, status, reason, detail FROM tenancy.health_checks('beta') WHERE component = 'protection';
SET ROLE regress_app;
SET tenancy.tenant_id = 'beta';
SELECT component, status, reason, detail FROM tenancy.health_checks('beta') WHERE component = 'protection';
RESET tenancy.tenant_id;
RESET ROLE;
SELECT tenancy.accept_finding(key, 'of all') FROM tenancy.lint() WHERE object = 'public.forgotten';
SELECT component, status, reason, remedy FROM tenancy.extension_health() WHERE component = 'protection';
SELECT tenancy.unaccept_finding(key) FROM tenancy.accepted_findings;
SET client_min_messages = warning;
DROP TABLE forgotten, kept;

-- Upkeep that is overdue.
RESET client_min_messages;
SELECT tenancy.settle_usage() > 0 AS was_settled;
INSERT INTO _tenancy.usage_open SELECT 'acme', 'old', 1, now() - interval '2 days', NULL, NULL, false, 0, false;
CREATE TABLE _tenancy.audit_entries_2001_01 PARTITION OF _tenancy.audit_entries FOR VALUES FROM ('2001-01-01') TO ('2001-02-01');
SELECT component, status, regexp_replace(reason, 'since .*', 'since ...') AS reason, remedy FROM tenancy.extension_health() WHERE component IN ('usage', 'audit', 'cache');
SELECT tenancy.settle_usage() > 0 AS was_settled;
DROP TABLE _tenancy.audit_entries_2001_01;
SELECT component, status, reason FROM tenancy.extension_health() WHERE component IN ('usage', 'audit', 'cache');
-- A tenant has so many components and no more.
SET tenancy.tenant_id = 'acme';
SELECT count(*) FROM (SELECT tenancy.report_health('c' || g, 'healthy') FROM generate_series(1, 98) AS g OFFSET 0) AS s;
SELECT tenancy.report_health('c0', 'healthy');                 -- SHOULD FAIL
SELECT tenancy.report_health('c1', 'degraded');
RESET tenancy.tenant_id;
DELETE FROM _tenancy.health_reports;
SELECT tenancy.settle_usage() > 0 AS was_settled;
-- The cache: what has expired long ago and was not swept, of a sample of its pages where it has many.
INSERT INTO _tenancy.cache_entries SELECT 'acme', 'kept ' || g, to_jsonb(repeat('x', 500)), now() + interval '1 day' FROM generate_series(1, 40000) AS g;
SELECT status FROM tenancy.extension_health() WHERE component = 'cache';
INSERT INTO _tenancy.cache_entries SELECT 'acme', 'gone ' || g, to_jsonb(repeat('x', 500)), now() - interval '2 days' FROM generate_series(1, 40000) AS g;
SELECT pg_relation_size('_tenancy.cache_entries') > 16 * 1024 * 1024 AS is_sampled;
SELECT status, substring(reason FROM 'some (\d+) entries')::int BETWEEN 20000 AND 60000 AS is_about_right, remedy FROM tenancy.extension_health() WHERE component = 'cache';
SELECT sum(tenancy.sweep_cache()) AS swept FROM generate_series(1, 5);
SELECT status FROM tenancy.extension_health() WHERE component = 'cache';
DELETE FROM _tenancy.cache_entries;
-- A library and an extension that are not of one version, either way.
BEGIN;
UPDATE pg_extension SET extversion = '99.0' WHERE extname = 'tenancy';
SELECT status, remedy FROM tenancy.extension_health() WHERE component = 'version';
UPDATE pg_extension SET extversion = '0.0.1' WHERE extname = 'tenancy';
SELECT status, remedy FROM tenancy.extension_health() WHERE component = 'version';
ROLLBACK;
DELETE FROM _tenancy.usage_settled_default;
DELETE FROM _tenancy.usage_totals;
DELETE FROM _tenancy.usage_hourly;
SELECT count(tenancy.remove_quota(q.scope, q.name, q.resource, q.period)) FROM tenancy.quotas q;
DROP ROLE regress_monitor;
