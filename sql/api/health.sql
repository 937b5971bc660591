-- Health: of a tenant, of all, and of the extension itself. Re-runnable.
-- Statuses are healthy, degraded and unhealthy; the worst of what a whole consists of is that of the whole.

CREATE FUNCTION _tenancy.severity_of(status text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_position('{healthy,degraded,unhealthy}', status)
$$;
COMMENT ON FUNCTION _tenancy.severity_of(text) IS 'how bad a status is: 1 to 3';

CREATE FUNCTION _tenancy.worst(statuses text[]) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN 'unhealthy' = ANY (statuses) THEN 'unhealthy' WHEN 'degraded' = ANY (statuses) THEN 'degraded' ELSE 'healthy' END
$$;
COMMENT ON FUNCTION _tenancy.worst(text[]) IS 'the worst of statuses';

-- For whom the caller reports: the current tenant, or what all share.
CREATE FUNCTION _tenancy.reporting_for() RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    tenant text;
BEGIN
    IF _tenancy.client_sees_all_tenants() THEN
        RETURN '';
    END IF;
    tenant := tenancy.current_tenant();
    IF tenant IS NULL THEN
        PERFORM _tenancy.raise('TENANT_CONTEXT_MISSING', 'no tenant is set');
    END IF;
    RETURN tenant;
END
$$;
COMMENT ON FUNCTION _tenancy.reporting_for() IS 'the current tenant; empty for those who see all, where none is set';

-- With the rights of the owner, so nothing in it is of the caller's choice but the arguments.
CREATE FUNCTION tenancy.report_health(component text, kind text, status text, detail text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    tenant constant text := _tenancy.reporting_for();
BEGIN
    IF report_health.component IS NULL OR report_health.component !~ '^[A-Za-z0-9._:/ -]{1,63}$' THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'malformed component', '{"argument": "component"}',
            'A component has 1 to 63 letters, digits, blanks or characters of . _ : / -, such as billing-worker.');
    ELSIF report_health.kind IS NULL OR report_health.kind NOT IN ('service', 'integration') THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'unknown kind of component', '{"argument": "kind"}', 'The kinds are service and integration.');
    ELSIF report_health.status IS NULL OR report_health.status NOT IN ('healthy', 'degraded', 'unhealthy') THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'unknown status of a component', '{"argument": "status"}', 'The statuses are healthy, degraded and unhealthy.');
    ELSIF octet_length(report_health.detail) > 1024 THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'detail must have at most 1024 bytes', '{"argument": "detail"}');
    END IF;
    UPDATE _tenancy.health_reports h
    SET kind = report_health.kind, status = report_health.status, detail = report_health.detail, reported_at = clock_timestamp()
    WHERE h.tenant_id = tenant AND h.component = report_health.component;
    IF FOUND THEN
        RETURN;
    END IF;
    -- Whoever makes up components without end fills the disk.
    IF (SELECT count(*) FROM _tenancy.health_reports h WHERE h.tenant_id = tenant) >= 100 THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'a tenant has at most 100 components', '{"argument": "component"}',
            'Remove those that are gone: SELECT tenancy.forget_health(''<component>'');');
    END IF;
    INSERT INTO _tenancy.health_reports AS h (tenant_id, component, kind, status, detail, reported_at)
    VALUES (tenant, report_health.component, report_health.kind, report_health.status, report_health.detail, clock_timestamp())
    ON CONFLICT ON CONSTRAINT health_reports_pkey DO UPDATE
        SET kind = excluded.kind, status = excluded.status, detail = excluded.detail, reported_at = excluded.reported_at;
END
$$;
COMMENT ON FUNCTION tenancy.report_health(text, text, text, text) IS
'Tells that a component of the current tenant is healthy, degraded or unhealthy; of one that all tenants share, for superusers, roles with BYPASSRLS and members of
pg_monitor where no tenant is set. To be called again and again: what was reported longer than tenancy.health_stale_after ago is unhealthy. component: 1 to 63 letters, digits, blanks or
characters of . _ : / -, at most 100 of a tenant; kind: service or integration; detail: at most 1024 bytes, or null. Errors: those of current_tenant(),
PARAMETER_INVALID 22023. Volatile. PUBLIC may call it.';

CREATE FUNCTION tenancy.report_health(component text, status text, detail text DEFAULT NULL) RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT tenancy.report_health(component, 'service', status, detail)
$$;
COMMENT ON FUNCTION tenancy.report_health(text, text, text) IS 'The same for a component of kind service. PUBLIC may call it.';

CREATE FUNCTION tenancy.forget_health(component text) RETURNS boolean
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    tenant constant text := _tenancy.reporting_for();
BEGIN
    DELETE FROM _tenancy.health_reports h WHERE h.tenant_id = tenant AND h.component = forget_health.component;
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION tenancy.forget_health(text) IS
'Removes a component that report_health() was told of and that is gone for good; whose, as there. Returns whether there was one. Errors: those of current_tenant(). Volatile. PUBLIC
may call it.';

-- How much of its quotas each tenant that is not archived uses, from what is committed. One after the other, counters of ten thousand tenants would take seconds: here the sums are
-- made for all at once, by the same rules (src/usage/ledger.rs).
CREATE FUNCTION _tenancy.quota_sums() RETURNS SETOF _tenancy.quota_states
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off SET timezone = 'UTC'
AS $$
BEGIN
    RETURN QUERY
    WITH open AS MATERIALIZED (
        SELECT o.tenant_id, o.resource, sum(o.amount) AS amount,
               sum(o.amount) FILTER (WHERE o.amount > 0 AND NOT o.is_correction AND o.recorded_at >= date_trunc('hour', now())) AS hour,
               sum(o.amount) FILTER (WHERE o.amount > 0 AND NOT o.is_correction AND o.recorded_at >= date_trunc('day', now())) AS day,
               sum(o.amount) FILTER (WHERE o.amount > 0 AND NOT o.is_correction AND o.recorded_at >= date_trunc('month', now())) AS month
        FROM _tenancy.usage_open o GROUP BY o.tenant_id, o.resource
    ), quota AS MATERIALIZED (
        SELECT e.* FROM _tenancy.effective_quotas e JOIN _tenancy.tenants t ON t.id = e.tenant_id AND t.status <> 'archived'
        WHERE e.max_amount IS NOT NULL OR e.soft_limit IS NOT NULL
    ), level AS (
        SELECT q.*, coalesce(t.amount, 0) + coalesce(o.amount, 0) AS used
        FROM quota q
        LEFT JOIN _tenancy.usage_totals t ON t.tenant_id = q.tenant_id AND t.resource = q.resource
        LEFT JOIN open o ON o.tenant_id = q.tenant_id AND o.resource = q.resource
        WHERE q.period = ''
        UNION ALL
        SELECT q.*, coalesce((SELECT sum(h.added) FROM _tenancy.usage_hourly h
                              WHERE h.tenant_id = q.tenant_id AND h.resource = q.resource AND h.hour >= date_trunc(q.period, now())), 0)
                    + coalesce(CASE q.period WHEN 'hour' THEN o.hour WHEN 'day' THEN o.day ELSE o.month END, 0)
        FROM quota q
        LEFT JOIN open o ON o.tenant_id = q.tenant_id AND o.resource = q.resource
        WHERE q.period IN ('hour', 'day', 'month')
        UNION ALL
        SELECT q.*, u.used FROM quota q JOIN LATERAL _tenancy.usage_of(q.tenant_id, q.resource) u ON u.period = q.period
        WHERE q.period NOT IN ('', 'hour', 'day', 'month')
    )
    SELECT l.tenant_id, l.resource, nullif(l.period, ''), l.scope, _tenancy.to_bigint(l.used), 0::bigint, l.max_amount, l.soft_limit,
           NULL::bigint, CASE WHEN l.max_amount > 0 THEN round(100.0 * l.used / l.max_amount, 1) END
    FROM level l;
END
$$;
COMMENT ON FUNCTION _tenancy.quota_sums() IS 'how much of its quotas each tenant that is not archived uses';

-- The same of one tenant, with what is reserved; of all (null), those quotas that are used up or above their soft limit.
CREATE FUNCTION _tenancy.quota_levels(only_tenant text) RETURNS SETOF _tenancy.quota_states
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off SET timezone = 'UTC'
AS $$
BEGIN
    IF only_tenant IS NOT NULL THEN
        RETURN QUERY SELECT q.* FROM _tenancy.quota_states q WHERE q.tenant_id = only_tenant;
        RETURN;
    END IF;
    RETURN QUERY SELECT q.* FROM _tenancy.quota_sums() q WHERE q.used >= q."limit" OR q.used > q.soft_limit;
END
$$;
COMMENT ON FUNCTION _tenancy.quota_levels(text) IS 'the quotas of a tenant, or (null) those of all tenants that are used up or above their soft limit';

-- What report_health() was told of a tenant, or of what all share (empty); of all but the archived tenants (null), what is not well.
CREATE FUNCTION _tenancy.component_checks(only_tenant text)
    RETURNS TABLE (tenant_id text, area text, component text, status text, reason text, detail jsonb)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off SET intervalstyle = 'postgres'
AS $$
DECLARE
    heard_since constant timestamptz := clock_timestamp() - current_setting('tenancy.health_stale_after')::interval;
BEGIN
    RETURN QUERY
    SELECT h.tenant_id, h.kind || 's', h.component, CASE WHEN a.is_stale THEN 'unhealthy' ELSE h.status END,
           CASE WHEN a.is_stale THEN format('%s: not heard of for %s', h.component, date_trunc('second', clock_timestamp() - h.reported_at))
                WHEN h.status <> 'healthy' THEN concat(h.component, ': ', coalesce(nullif(h.detail, ''), h.status)) END,
           jsonb_build_object('reported', h.status, 'detail', h.detail, 'reported_at', h.reported_at, 'stale', a.is_stale)
    FROM _tenancy.health_reports h CROSS JOIN LATERAL (SELECT h.reported_at < heard_since AS is_stale) a
    WHERE h.tenant_id = only_tenant
       OR only_tenant IS NULL AND (h.status <> 'healthy' OR a.is_stale) AND h.tenant_id IN (SELECT t.id FROM _tenancy.tenants t WHERE t.status <> 'archived');
END
$$;
COMMENT ON FUNCTION _tenancy.component_checks(text) IS 'the checks of the components of a tenant, of those that all share (empty), or (null) of those of all tenants that are not well';

-- What is asked of one tenant, a row each; of all but the archived ones (null), what is not well, and one row at least. reason is null where all is well.
CREATE FUNCTION _tenancy.tenant_checks(only_tenant text)
    RETURNS TABLE (tenant_id text, area text, component text, status text, reason text, detail jsonb)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT t.id, 'database', 'tenant', CASE t.status WHEN 'active' THEN 'healthy' ELSE 'unhealthy' END,
           CASE WHEN t.status <> 'active' THEN concat('the tenant is ', t.status, ': ' || t.status_reason) END,
           jsonb_build_object('tenant_status', t.status)
    FROM _tenancy.tenants t WHERE t.id = only_tenant OR only_tenant IS NULL AND t.status <> 'archived';
    RETURN QUERY
    SELECT q.tenant_id, 'resources', n.name, s.status,
           CASE s.status WHEN 'unhealthy' THEN format('%s: %s of %s are used', n.name, n.taken, q."limit")
                         WHEN 'degraded' THEN format('%s: %s are used, more than the soft limit of %s', n.name, n.taken, q.soft_limit) END,
           jsonb_build_object('resource', q.resource, 'period', q.period, 'used', q.used, 'reserved', q.reserved, 'limit', q."limit", 'soft_limit', q.soft_limit,
                              'percentage', q.percentage)
    FROM _tenancy.quota_levels(only_tenant) q
    CROSS JOIN LATERAL (SELECT q.used::numeric + q.reserved AS taken, concat_ws(' per ', q.resource, q.period) AS name) n
    -- What a tenant may not have at all, and has not, is no trouble.
    CROSS JOIN LATERAL (SELECT CASE WHEN n.taken >= q."limit" AND n.taken > 0 THEN 'unhealthy' WHEN n.taken > q.soft_limit THEN 'degraded' ELSE 'healthy' END AS status) s
    WHERE q."limit" IS NOT NULL OR q.soft_limit IS NOT NULL;
    RETURN QUERY SELECT * FROM _tenancy.component_checks(only_tenant);
END
$$;
COMMENT ON FUNCTION _tenancy.tenant_checks(text) IS 'the checks of a tenant, or (null) of all that are not archived';

-- What concerns every tenant: findings of lint that are about protection itself, and are not accepted. In PL/pgSQL, which keeps the plan: that takes longer to make than
-- to run.
CREATE FUNCTION _tenancy.protection_checks() RETURNS TABLE (component text, status text, reason text, remedy text)
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    RETURN QUERY
    SELECT 'protection', CASE f.severity WHEN 'error' THEN 'unhealthy' ELSE 'degraded' END, f.object || ': ' || f.problem, f.remedy
    FROM (SELECT * FROM _tenancy.lint_unprotected
          UNION ALL SELECT * FROM _tenancy.lint_drift
          UNION ALL SELECT d.* FROM _tenancy.lint_database d WHERE d.severity = 'error') f
    WHERE f.severity IN ('error', 'warning')
      AND NOT EXISTS (SELECT FROM _tenancy.accepted_findings a WHERE a.key = concat_ws(':', f.rule, f.object, f.detail) COLLATE "C" AND (a.severity = 'error' OR f.severity <> 'error'));
END
$$;
COMMENT ON FUNCTION _tenancy.protection_checks() IS 'what is wrong with the protection of tables';

-- Whether a table of the extension that has a partition for each month lacks one. Whoever has never made one need not.
CREATE FUNCTION _tenancy.lacks_month_partition(parent text) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH month AS (
        SELECT to_date(right(c.relname, 7), 'YYYY_MM') AS first FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = ('_tenancy.' || parent)::regclass AND c.relname ~ '_\d{4}_\d{2}$'
    )
    -- A day before it begins, it is late.
    SELECT EXISTS (SELECT FROM month) AND NOT EXISTS (SELECT FROM month m WHERE m.first = date_trunc('month', now() AT TIME ZONE 'UTC' + interval '1 day')::date)
$$;
COMMENT ON FUNCTION _tenancy.lacks_month_partition(text) IS 'whether the partition of this month, or of tomorrow''s, is missing where others are there';

CREATE FUNCTION tenancy.extension_health() RETURNS TABLE (component text, status text, reason text, remedy text)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    many constant bigint := 100000;
    -- Of the pages of the cache, so many percent are looked at: 16 MB.
    looked_at constant double precision := least(100, 100.0 * 16 * 1024 * 1024 / greatest(pg_relation_size('_tenancy.cache_entries'), 1));
    open_entries bigint;
    oldest timestamptz;
    expired bigint := 0;
BEGIN
    PERFORM _tenancy.refuse_in_context('extension_health');
    SELECT count(*), min(o.recorded_at) INTO open_entries, oldest FROM (SELECT u.recorded_at FROM _tenancy.usage_open u LIMIT many) o;
    -- An unlogged table cannot be read on a standby.
    IF NOT pg_is_in_recovery() THEN
        SELECT count(*) * 100 / looked_at INTO expired FROM _tenancy.cache_entries c TABLESAMPLE SYSTEM (looked_at) WHERE c.expires_at < now() - interval '1 day';
    END IF;
    RETURN QUERY
    WITH found (component, status, reason, remedy) AS (
        SELECT 'preload', 'degraded', 'the library is not in shared_preload_libraries: quotas lock rows, and there are no statistics of tenants',
               '-- Add tenancy to shared_preload_libraries and restart the server.'
        WHERE NOT _tenancy.is_preloaded()
        UNION ALL
        SELECT 'version', 'unhealthy', format('the library is of version %s, the extension of %s', _tenancy.library_version(), x.extversion),
               CASE WHEN string_to_array(_tenancy.library_version(), '.')::integer[] < string_to_array(x.extversion, '.')::integer[]
                    THEN '-- Restart the server, which has loaded the library of before.' ELSE 'ALTER EXTENSION tenancy UPDATE;' END
        FROM pg_extension x WHERE x.extname = 'tenancy' AND x.extversion <> _tenancy.library_version()
        UNION ALL
        SELECT 'server', 'degraded', format('PostgreSQL %s lacks fixes of row-level security that came with %s', current_setting('server_version'), v.fixed),
               format('-- Update the server to %s or later.', v.fixed)
        FROM _tenancy.lint_minor() v WHERE v.fixed IS NOT NULL
        UNION ALL
        SELECT 'parameters', CASE l.severity WHEN 'error' THEN 'unhealthy' ELSE 'degraded' END, l.object || ': ' || l.problem, l.remedy
        FROM _tenancy.lint_grants_on_parameters l
        WHERE l.severity IN ('error', 'warning')
          AND NOT EXISTS (SELECT FROM _tenancy.accepted_findings a WHERE a.key = concat_ws(':', l.rule, l.object, l.detail) COLLATE "C" AND (a.severity = 'error' OR l.severity <> 'error'))
        UNION ALL
        SELECT p.component, p.status, p.reason, p.remedy FROM _tenancy.protection_checks() p
        UNION ALL
        SELECT 'usage', 'degraded', CASE WHEN open_entries = many THEN format('%s entries of the ledger or more are not settled', many)
                                         ELSE format('entries of the ledger are not settled since %s', date_trunc('second', oldest)) END,
               'SELECT tenancy.settle_usage();'
        WHERE open_entries = many OR oldest < now() - interval '1 day'
        UNION ALL
        SELECT 'usage', 'degraded', 'the partition of the ledger for this month, or the one that begins tomorrow, is missing', 'SELECT tenancy.create_usage_partitions();'
        WHERE _tenancy.lacks_month_partition('usage_settled')
        UNION ALL
        SELECT 'audit', 'degraded', 'the partition of the audit trail for this month, or the one that begins tomorrow, is missing', 'SELECT tenancy.create_audit_partitions();'
        WHERE _tenancy.lacks_month_partition('audit_entries')
        UNION ALL
        SELECT 'cache', 'degraded', format('some %s entries of the cache have expired more than a day ago', expired), 'SELECT tenancy.sweep_cache();'
        WHERE expired >= 10000
    ), area (name, place) AS (
        VALUES ('preload', 1), ('version', 2), ('server', 3), ('parameters', 4), ('protection', 5), ('usage', 6), ('audit', 7), ('cache', 8)
    )
    SELECT a.name, coalesce(f.status, 'healthy'), f.reason, f.remedy
    FROM area a LEFT JOIN found f ON f.component = a.name
    ORDER BY _tenancy.severity_of(coalesce(f.status, 'healthy')) DESC, a.place, f.reason COLLATE "C";
END
$$;
COMMENT ON FUNCTION tenancy.extension_health() IS
'Whether the extension itself is well in this database, the worst first: component (preload, version, server, parameters, protection: findings of lint about tables that should be
protected and are not, or not as protect() left them; usage, audit and cache: upkeep that is overdue), status (healthy, degraded or unhealthy), reason, and remedy (SQL to
copy). Works on a standby. Error: TENANT_ACCESS_DENIED 42501 in the context of a tenant. Volatile. Superusers, the owner of the database and members of pg_monitor may call
it; grant EXECUTE to others.';

-- Whose health the caller asks for; an error unless it may.
CREATE FUNCTION _tenancy.asked_for(tenant_id text) RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    tenant constant text := tenancy.normalize_tenant_id(asked_for.tenant_id);
BEGIN
    IF _tenancy.client_sees_all_tenants() OR tenant IS NULL THEN
        RETURN _tenancy.registered(asked_for.tenant_id);
    END IF;
    IF tenancy.current_tenant() IS DISTINCT FROM tenant THEN
        PERFORM _tenancy.raise('TENANT_ACCESS_DENIED', 'health of another tenant is not shown');
    END IF;
    RETURN tenant;
END
$$;
COMMENT ON FUNCTION _tenancy.asked_for(text) IS 'the one spelling of a tenant id; an error where the caller may not see that tenant''s health';

CREATE FUNCTION tenancy.health_checks(tenant_id text) RETURNS TABLE (area text, component text, status text, reason text, detail jsonb)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    tenant constant text := _tenancy.asked_for(health_checks.tenant_id);
    sees_all constant boolean := _tenancy.client_sees_all_tenants();
BEGIN
    RETURN QUERY
    WITH own AS MATERIALIZED (
        SELECT c.area, c.component, c.status, c.reason, c.detail FROM _tenancy.tenant_checks(tenant) c
        UNION ALL
        -- A tenant hears that something is wrong, and not what of it is another's.
        SELECT 'database', 'protection', _tenancy.worst(array_agg(p.status)),
               CASE WHEN count(*) > 0 THEN format('findings on the protection of tables: %s', count(*)) END,
               jsonb_build_object('findings', count(*)) || CASE WHEN sees_all THEN jsonb_build_object('reasons', coalesce(jsonb_agg(p.reason), '[]')) ELSE '{}' END
        FROM _tenancy.protection_checks() p
        UNION ALL
        SELECT c.area, c.component, c.status, c.reason, c.detail || '{"shared": true}' FROM _tenancy.component_checks('') c
    )
    SELECT o.* FROM own o ORDER BY _tenancy.severity_of(o.status) DESC, array_position('{database,resources,services,integrations}', o.area), o.component COLLATE "C";
END
$$;
COMMENT ON FUNCTION tenancy.health_checks(text) IS
'What health() of a tenant is made of, a row a check, the worst first: area (database, resources, services, integrations), component (tenant: can it be entered; protection: are
tables protected, and without drift; a resource, per period; what report_health() was told of), status (healthy, degraded or unhealthy), reason, and detail. A quota that is used up
is unhealthy, one above its soft limit degraded. In the context of a tenant, its own only; without one, for superusers, roles with BYPASSRLS and members of pg_monitor.
Errors: those of current_tenant(), TENANT_ACCESS_DENIED 42501, TENANT_ID_INVALID 22023, TENANT_NOT_FOUND 42704. Volatile. PUBLIC may call it.';

CREATE FUNCTION tenancy.health(tenant_id text) RETURNS jsonb
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
    WITH found AS MATERIALIZED (
        SELECT c.*, row_number() OVER () AS place FROM tenancy.health_checks(tenant_id) c
    ), area AS (
        SELECT a.name, jsonb_build_object('status', _tenancy.worst(array_agg(f.status)),
                   'checks', coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object('component', f.component, 'status', f.status, 'reason', f.reason)) || f.detail ORDER BY f.place)
                                      FILTER (WHERE f.component IS NOT NULL), '[]')) AS checks
        FROM unnest('{database,resources,services,integrations}'::text[]) AS a(name) LEFT JOIN found f ON f.area = a.name GROUP BY a.name
    )
    SELECT jsonb_build_object('tenant_id', tenancy.normalize_tenant_id(tenant_id), 'checked_at', clock_timestamp(),
               'status', _tenancy.worst(ARRAY(SELECT f.status FROM found f)),
               'reasons', coalesce((SELECT jsonb_agg(f.reason ORDER BY f.place) FROM found f WHERE f.reason IS NOT NULL), '[]'))
           || (SELECT jsonb_object_agg(a.name, a.checks) FROM area a)
$$;
COMMENT ON FUNCTION tenancy.health(text) IS
'The health of a tenant: status (healthy, degraded or unhealthy: the worst of all checks), reasons, and for each of database, resources, services and integrations its status
and checks, as health_checks() has them; what concerns all tenants counts as well. Who sees whose, and errors: as health_checks(). Volatile. PUBLIC may call it.';

CREATE FUNCTION tenancy.health() RETURNS TABLE (tenant_id text, status text, reasons text[], database text, resources text, services text, integrations text)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('health');
    RETURN QUERY
    WITH found AS MATERIALIZED (
        SELECT c.tenant_id, c.area, c.component, c.status, c.reason FROM _tenancy.tenant_checks(NULL) c
        UNION ALL
        SELECT NULL, 'database', x.component, x.status, x.reason FROM tenancy.extension_health() x
        UNION ALL
        SELECT NULL, c.area, c.component, c.status, c.reason FROM _tenancy.component_checks('') c
    )
    SELECT f.tenant_id, _tenancy.worst(array_agg(f.status)),
           coalesce(array_agg(f.reason ORDER BY _tenancy.severity_of(f.status) DESC, f.reason COLLATE "C") FILTER (WHERE f.reason IS NOT NULL), '{}'),
           _tenancy.worst(array_agg(f.status) FILTER (WHERE f.area = 'database')), _tenancy.worst(array_agg(f.status) FILTER (WHERE f.area = 'resources')),
           _tenancy.worst(array_agg(f.status) FILTER (WHERE f.area = 'services')), _tenancy.worst(array_agg(f.status) FILTER (WHERE f.area = 'integrations'))
    FROM found f GROUP BY f.tenant_id
    ORDER BY _tenancy.severity_of(_tenancy.worst(array_agg(f.status))) DESC, f.tenant_id IS NOT NULL, count(f.reason) DESC, f.tenant_id COLLATE "C";
END
$$;
COMMENT ON FUNCTION tenancy.health() IS
'The health of all tenants that are not archived, the worst first: tenant_id, status (healthy, degraded or unhealthy), reasons, and the status of each of database, resources, services and
integrations. The row without a tenant has what concerns all: extension_health(), and components that tenants share; it is not repeated in the others. Error: TENANT_ACCESS_DENIED
42501 in the context of a tenant. Volatile. Superusers, the owner of the database and members of pg_monitor may call it; grant EXECUTE to others.';

COMMENT ON FUNCTION _tenancy.client_sees_all_tenants() IS 'whether the client may see all tenants, whatever function runs; for the health functions';
COMMENT ON FUNCTION _tenancy.is_preloaded() IS 'whether the library was loaded when the server started';
COMMENT ON FUNCTION _tenancy.library_version() IS 'the version of the library that is loaded';
