-- One page about all tenants. Re-runnable. How it looks: src/report.rs.

-- The tables that hold rows of tenants, partitions and children each for itself, with rows and bytes as ANALYZE or VACUUM found them (null: neither has).
CREATE VIEW _tenancy.tenant_rows AS
    WITH RECURSIVE tree (relation, tenant_column) AS (
        SELECT p.relation::oid, p.tenant_column FROM _tenancy.protected p WHERE p.tenant_column IS NOT NULL
        UNION
        SELECT i.inhrelid, t.tenant_column FROM tree t JOIN pg_catalog.pg_inherits i ON i.inhparent = t.relation
    )
    SELECT DISTINCT ON (c.oid) c.oid AS relation, n.nspname AS schema, c.relname AS name, t.tenant_column, CASE WHEN c.reltuples BETWEEN 0 AND 1e18 THEN c.reltuples END::double precision AS rows,
           (c.relpages + coalesce((SELECT x.relpages FROM pg_catalog.pg_class x WHERE x.oid = c.reltoastrelid), 0)
            + coalesce((SELECT sum(x.relpages) FROM pg_catalog.pg_index d JOIN pg_catalog.pg_class x ON x.oid = d.indexrelid WHERE d.indrelid = c.oid), 0))
           * pg_catalog.current_setting('block_size')::double precision AS bytes
    FROM tree t JOIN pg_catalog.pg_class c ON c.oid = t.relation AND c.relkind = 'r' JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace;
COMMENT ON VIEW _tenancy.tenant_rows IS 'how many rows and bytes the tables of tenants have, by the statistics of the server';

-- By the statistics of ANALYZE, which takes no lock and calls nothing of the tables' owners. is_named: whether they name the tenant for any table; where they do not, it has
-- as many rows as the others that they do not name have on average.
CREATE FUNCTION _tenancy.estimated_rows() RETURNS TABLE (tenant_id text, rows double precision, bytes double precision, is_named boolean)
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    RETURN QUERY
    WITH part AS MATERIALIZED (
        SELECT l.relation, l.rows, l.bytes / l.rows AS width, s.most_common_vals::text::text[] AS ids, s.most_common_freqs AS frequencies,
               l.rows * greatest(0, 1 - s.null_frac - coalesce((SELECT sum(f) FROM unnest(s.most_common_freqs) f), 0)) AS other_rows,
               CASE WHEN s.n_distinct < 0 THEN -s.n_distinct * l.rows ELSE s.n_distinct END - coalesce(cardinality(s.most_common_freqs), 0) AS other_tenants
        FROM _tenancy.tenant_rows l
        JOIN pg_stats s ON s.schemaname = l.schema AND s.tablename = l.name AND s.attname = l.tenant_column AND NOT s.inherited
        -- Since 18, the owner of a table may write what he likes into its statistics.
        WHERE l.rows > 0 AND s.null_frac BETWEEN 0 AND 1 AND s.n_distinct BETWEEN -1 AND 2e9
          AND NOT EXISTS (SELECT FROM unnest(s.most_common_freqs) f WHERE NOT f BETWEEN 0 AND 1)
    ), other AS MATERIALIZED (
        SELECT p.relation, p.width, CASE WHEN p.other_tenants >= 1 THEN p.other_rows / p.other_tenants ELSE 0 END AS rows FROM part p
    ), everywhere AS (
        SELECT coalesce(sum(o.rows), 0) AS rows, coalesce(sum(o.rows * o.width), 0) AS bytes FROM other o
    ), own AS (
        SELECT m.id COLLATE "C" AS id, sum(p.rows * m.frequency - o.rows) AS rows, sum((p.rows * m.frequency - o.rows) * p.width) AS bytes
        FROM part p JOIN other o USING (relation) CROSS JOIN LATERAL unnest(p.ids, p.frequencies) AS m (id, frequency)
        GROUP BY 1
    )
    SELECT t.id, round(greatest(0, e.rows + coalesce(o.rows, 0))), round(greatest(0, e.bytes + coalesce(o.bytes, 0))), o.id IS NOT NULL OR e.rows = 0
    FROM _tenancy.tenants t CROSS JOIN everywhere e LEFT JOIN own o ON o.id = t.id;
END
$$;
COMMENT ON FUNCTION _tenancy.estimated_rows() IS 'how many rows and bytes each tenant has, by the statistics of the server';

-- What is on the page; the form is what src/report.rs reads.
CREATE FUNCTION _tenancy.report_data(max_tenants integer, days integer) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off SET timezone = 'UTC' SET datestyle = 'ISO'
AS $$
DECLARE
    first_day constant date := current_date - days + 1;
    most_findings constant integer := 200;
    trail_pages constant bigint := (SELECT sum(greatest(c.relpages, 0)) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = '_tenancy.audit_entries'::regclass);
    most_pages constant bigint := 20000;
    page record;
BEGIN
    WITH calendar AS (
        SELECT d.day::date AS day FROM generate_series(first_day::timestamp, current_date::timestamp, '1 day') d (day)
    ), used AS MATERIALIZED (
        SELECT h.tenant_id, h.resource, h.hour, h.hour::date AS day, h.added FROM _tenancy.usage_by_hour h WHERE h.hour >= first_day AND (h.added > 0 OR h.removed > 0)
    ), hours AS (
        SELECT d.tenant_id, jsonb_agg(jsonb_build_array(d.day - first_day, d.hours)) AS hours
        FROM (SELECT u.tenant_id, u.day, count(DISTINCT u.hour) AS hours FROM used u GROUP BY u.tenant_id, u.day) d
        GROUP BY d.tenant_id
    ), quotas AS (
        SELECT q.tenant_id, jsonb_agg(jsonb_build_object('name', concat_ws(' per ', q.resource, q.period), 'used', q.used::numeric + q.reserved, 'limit', q."limit", 'soft_limit', q.soft_limit)
                                      ORDER BY q.percentage DESC NULLS LAST, q.resource, q.period) AS quotas
        FROM _tenancy.quota_sums() q GROUP BY q.tenant_id
    ), health AS MATERIALIZED (
        SELECT h.* FROM tenancy.health() h
    ), measured AS (
        SELECT m.tenant_id, m.statements, m.exec_time / 1000 AS seconds FROM _tenancy.measured() m WHERE m.kind = 'tenant'
    ), tenant AS MATERIALIZED (
        SELECT t.*, h.status AS health, h.reasons, r.rows, r.bytes, r.is_named
        FROM _tenancy.tenants t LEFT JOIN health h ON h.tenant_id = t.id LEFT JOIN _tenancy.estimated_rows() r ON r.tenant_id = t.id
    ), shown AS (
        SELECT t.*, row_number() OVER (ORDER BY _tenancy.severity_of(t.health) DESC NULLS LAST, t.rows DESC, t.id) AS place FROM tenant t
        ORDER BY place LIMIT max_tenants
    ), series (place, title, day, number) AS (
        SELECT 1, 'Tenants that are registered', c.day, (SELECT count(*) FROM tenant t WHERE t.created_at::date <= c.day) FROM calendar c
        UNION ALL
        SELECT 2, 'Tenants that used something', u.day, count(DISTINCT u.tenant_id) FROM used u GROUP BY u.day
        UNION ALL
        SELECT 2 + k.place, k.resource || ', what was added', u.day, sum(u.added)
        FROM (SELECT u.resource, row_number() OVER (ORDER BY count(DISTINCT u.tenant_id) DESC, count(*) DESC, u.resource)::integer AS place FROM used u GROUP BY u.resource) k
        JOIN used u ON u.resource = k.resource WHERE k.place <= 6 GROUP BY k.place, k.resource, u.day
        UNION ALL
        -- A month of a busy server has many: then some of its pages tell enough.
        SELECT 9, 'Entries of the audit trail', a.recorded_at::date, count(*) FROM _tenancy.audit_entries a
        WHERE a.recorded_at >= first_day AND trail_pages <= most_pages GROUP BY 3
        UNION ALL
        SELECT 9, 'Entries of the audit trail, about', a.recorded_at::date, count(*) * trail_pages / most_pages
        FROM _tenancy.audit_entries a TABLESAMPLE SYSTEM (least(100, 100.0 * most_pages / nullif(trail_pages, 0)))
        WHERE a.recorded_at >= first_day AND trail_pages > most_pages GROUP BY 3
    ), plots AS (
        SELECT k.place, jsonb_build_object('title', k.title, 'days', (
                   SELECT jsonb_agg(jsonb_build_array(c.day, coalesce(s.number, 0)) ORDER BY c.day)
                   FROM calendar c LEFT JOIN series s ON s.place = k.place AND s.day = c.day)) AS plot
        FROM (SELECT DISTINCT s.place, s.title FROM series s) k
    ), findings AS MATERIALIZED (
        SELECT l.*, row_number() OVER () AS place FROM tenancy.lint() l
    ), checks AS (
        SELECT x.component, x.status, x.reason, x.remedy FROM tenancy.extension_health() x
        UNION ALL
        SELECT c.component, c.status, c.reason, NULL FROM _tenancy.component_checks('') c
    )
    SELECT INTO page
           (SELECT jsonb_build_object(
                'tenants', count(*), 'active', count(*) FILTER (WHERE t.status = 'active'), 'suspended', count(*) FILTER (WHERE t.status = 'suspended'),
                'archived', count(*) FILTER (WHERE t.status = 'archived'), 'unhealthy', count(*) FILTER (WHERE t.health = 'unhealthy'),
                'degraded', count(*) FILTER (WHERE t.health = 'degraded'), 'findings', (SELECT count(*) FROM findings)) FROM tenant t)
           || (SELECT jsonb_build_object('rows', coalesce(sum(r.rows), 0), 'bytes', coalesce(sum(r.bytes), 0), 'unknown_tables', count(*) FILTER (WHERE r.rows IS NULL),
                                         'tables', (SELECT count(*) FROM _tenancy.protected)) FROM _tenancy.tenant_rows r) AS totals,
           (SELECT jsonb_agg(to_jsonb(c) ORDER BY _tenancy.severity_of(c.status) DESC, c.component) FROM checks c) AS checks,
           (SELECT jsonb_agg(to_jsonb(f) - '{key,place}'::text[] ORDER BY f.place) FROM findings f WHERE f.place <= most_findings) AS findings,
           (SELECT jsonb_agg(p.plot ORDER BY p.place) FROM plots p) AS activity,
           (SELECT jsonb_agg(jsonb_build_object(
                'id', t.id, 'name', t.name, 'plan', t.plan, 'state', t.status, 'created', t.created_at::date, 'status', t.health, 'reasons', coalesce(to_jsonb(t.reasons), '[]'),
                'rows', t.rows, 'bytes', t.bytes, 'is_named', t.is_named, 'statements', m.statements, 'seconds', m.seconds, 'quotas', coalesce(q.quotas, '[]'), 'hours', coalesce(h.hours, '[]'))
                ORDER BY t.place)
            FROM shown t LEFT JOIN measured m ON m.tenant_id = t.id LEFT JOIN quotas q ON q.tenant_id = t.id LEFT JOIN hours h ON h.tenant_id = t.id) AS tenants;
    RETURN jsonb_build_object('database', current_database(), 'at', to_char(now(), 'YYYY-MM-DD HH24:MI') || ' UTC', 'server', current_setting('server_version'),
        'version', (SELECT x.extversion FROM pg_extension x WHERE x.extname = 'tenancy'), 'days', days, 'totals', page.totals, 'checks', coalesce(page.checks, '[]'),
        'findings', coalesce(page.findings, '[]'), 'activity', coalesce(page.activity, '[]'), 'tenants', coalesce(page.tenants, '[]'));
END
$$;
COMMENT ON FUNCTION _tenancy.report_data(integer, integer) IS 'what is on the page of tenancy.report()';

CREATE FUNCTION tenancy.report(max_tenants integer DEFAULT 2000, days integer DEFAULT 30) RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('report');
    IF report.max_tenants IS NULL OR report.max_tenants < 0 THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'max_tenants must be 0 or more', '{"argument": "max_tenants"}');
    ELSIF report.days IS NULL OR report.days NOT BETWEEN 1 AND 366 THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'days must be from 1 to 366', '{"argument": "days"}');
    END IF;
    RETURN _tenancy.report_page(_tenancy.report_data(report.max_tenants, report.days));
END
$$;
COMMENT ON FUNCTION tenancy.report(integer, integer) IS
'A page about all tenants as one HTML file that asks for nothing from anywhere: psql -XAtc ''SELECT tenancy.report()'' > report.html. Their state and health, rows and sizes (by the
statistics of ANALYZE), statements, usage against quotas, in which hours they used anything; the activity of the last days (1 to 366) as plots; findings of lint(); and extension_health(). max_tenants: how many
are shown one by one, those that need attention first, then the largest. In ASCII, whatever the encoding of the database. Errors: PARAMETER_INVALID 22023, TENANT_ACCESS_DENIED 42501 in the context of a tenant. Volatile. Superusers, the
owner of the database and members of pg_monitor may call it; grant EXECUTE to others.';
COMMENT ON FUNCTION _tenancy.report_page(jsonb) IS 'the page of tenancy.report(), of what report_data() returns';
