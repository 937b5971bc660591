-- Metrics: what applications count, and everything as Prometheus reads it. Re-runnable.

-- Adds entries of a series up that nobody else adds up.
CREATE FUNCTION _tenancy.put_metrics_together(tenant_id text, name text, labels text) RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET enable_seqscan = off
AS $$
    WITH gone AS (
        DELETE FROM _tenancy.metric_entries e WHERE e.ctid = ANY (ARRAY(
            SELECT o.ctid FROM _tenancy.metric_entries o
            WHERE o.tenant_id = put_metrics_together.tenant_id AND o.name = put_metrics_together.name AND o.labels = put_metrics_together.labels
            LIMIT 1000 FOR UPDATE SKIP LOCKED))
        RETURNING e.value)
    INSERT INTO _tenancy.metric_entries
        SELECT put_metrics_together.tenant_id, put_metrics_together.name, put_metrics_together.labels, sum(g.value) FROM gone g HAVING count(*) > 0
$$;
COMMENT ON FUNCTION _tenancy.put_metrics_together(text, text, text) IS 'makes one entry of those of a counter';

-- The labels as they are kept: an object of texts.
CREATE FUNCTION _tenancy.metric_labels(labels jsonb) RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    label record;
    kept jsonb := '{}';
BEGIN
    IF jsonb_typeof(labels) <> 'object' THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'labels must be an object', '{"argument": "labels"}');
    END IF;
    -- Before any label is looked at: an object may have a hundred thousand.
    IF octet_length(labels::text) > 1024 THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'labels must have at most 1024 bytes', '{"argument": "labels"}');
    END IF;
    FOR label IN SELECT l.key, l.value FROM jsonb_each(labels) l LOOP
        IF label.key !~ '^[a-zA-Z_][a-zA-Z0-9_]{0,62}$' OR label.key ~ '^__' OR label.key IN ('tenant_id', 'overflow') THEN
            PERFORM _tenancy.raise('PARAMETER_INVALID', 'the name of a label must have 1 to 63 letters, digits or underscores, begin with no digit, and be none that is taken',
                '{"argument": "labels"}', 'Taken are tenant_id and overflow, and all that begins with two underscores.');
        END IF;
        IF jsonb_typeof(label.value) NOT IN ('string', 'number', 'boolean') OR octet_length(label.value #>> '{}') > 128 THEN
            PERFORM _tenancy.raise('PARAMETER_INVALID', 'the value of a label must be a text, number or boolean of at most 128 bytes', '{"argument": "labels"}');
        END IF;
        kept := kept || jsonb_build_object(label.key, label.value #>> '{}');
    END LOOP;
    RETURN kept::text;
END
$$;
COMMENT ON FUNCTION _tenancy.metric_labels(jsonb) IS 'the labels of a metric as they are kept';

-- With the rights of the owner, so nothing in it is of the caller's choice but the arguments.
CREATE FUNCTION tenancy.record_metric(name text, labels jsonb DEFAULT '{}', value double precision DEFAULT 1) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    tenant constant text := tenancy.current_tenant();
    is_counter boolean;
    the_name text := record_metric.name;
    the_labels text;
    the_value double precision := record_metric.value;
BEGIN
    IF record_metric.name IS NULL OR record_metric.labels IS NULL OR record_metric.value IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'arguments of record_metric must not be null');
    END IF;
    IF tenant IS NULL THEN
        PERFORM _tenancy.raise('TENANT_CONTEXT_MISSING', 'no tenant is set');
    END IF;
    IF record_metric.name !~ '^[a-zA-Z_][a-zA-Z0-9_]{0,62}$' OR record_metric.name ~* '^tenancy_' THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'the name of a metric must have 1 to 63 letters, digits or underscores, and begin with neither a digit nor tenancy_',
            '{"argument": "name"}');
    END IF;
    is_counter := record_metric.name ~ '_total$';
    -- So that no sum of them is more than a number can be, which would be an error for whoever reads it.
    IF is_counter AND NOT (record_metric.value >= 0 AND record_metric.value <= 1e200) THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'what is added to a counter must be neither negative nor more than 1e200', '{"argument": "value"}');
    END IF;
    the_labels := _tenancy.metric_labels(record_metric.labels);
    IF NOT EXISTS (SELECT FROM _tenancy.metric_series s WHERE s.tenant_id = tenant AND s.name = record_metric.name AND s.labels = the_labels) THEN
        -- Whoever makes up labels or names without end fills a series of the name, or one of all of them, and not the disk.
        IF (SELECT count(*) FROM _tenancy.metric_series s WHERE s.tenant_id = tenant) >= current_setting('tenancy.metric_series')::bigint THEN
            the_labels := '{"overflow": "true"}';
            IF NOT EXISTS (SELECT FROM _tenancy.metric_series s WHERE s.tenant_id = tenant AND s.name = record_metric.name) THEN
                the_name := 'overflow_total';
                the_value := 1;
                is_counter := true;
            END IF;
        END IF;
        INSERT INTO _tenancy.metric_series (tenant_id, name, labels) VALUES (tenant, the_name, the_labels) ON CONFLICT DO NOTHING;
    END IF;
    IF NOT is_counter THEN
        UPDATE _tenancy.metric_series s SET value = the_value, changed_at = clock_timestamp()
        WHERE s.tenant_id = tenant AND s.name = the_name AND s.labels = the_labels;
        RETURN;
    END IF;
    INSERT INTO _tenancy.metric_entries VALUES (tenant, the_name, the_labels, the_value);
    -- Elsewhere a row that another has added up is an error.
    IF random() < 1.0 / 16 AND current_setting('transaction_isolation') = 'read committed' THEN
        PERFORM _tenancy.put_metrics_together(tenant, the_name, the_labels);
    END IF;
END
$$;
COMMENT ON FUNCTION tenancy.record_metric(text, jsonb, double precision) IS
'Adds value to a counter of the current tenant, where the name ends with _total; sets a gauge to it otherwise. In the transaction: what is rolled back was not counted. name: 1 to 63 letters, digits or
underscores, not tenancy_*; labels: an object of texts, numbers and booleans. Of a tenant, tenancy.metric_series series are kept; what would make more goes to the series
of the name with the label overflow, and calls with names that are new then are counted in overflow_total. Nobody waits for others who add to the same counter; who sets a gauge does until they end. Errors: those of current_tenant(), PARAMETER_INVALID 22023. Volatile. PUBLIC may call it.';

CREATE VIEW _tenancy.metric_values AS
    SELECT s.tenant_id, s.name, s.labels::jsonb AS labels,
           CASE WHEN s.name ~ '_total$'
                THEN (SELECT coalesce(sum(e.value), 0) FROM _tenancy.metric_entries e WHERE e.tenant_id = s.tenant_id AND e.name = s.name AND e.labels = s.labels)
                ELSE s.value END AS value
    FROM _tenancy.metric_series s;
COMMENT ON VIEW _tenancy.metric_values IS 'what applications have counted and measured';

-- A view reads tables with the rights of its owner, so this is not for a caller's own conditions, which OFFSET 0 keeps out.
CREATE VIEW tenancy.metric_values WITH (security_barrier = true) AS
    SELECT m.tenant_id, m.name, m.labels, m.value FROM _tenancy.metric_values m
    WHERE CASE WHEN _tenancy.sees_all_tenants() THEN true ELSE m.tenant_id = tenancy.current_tenant() END OFFSET 0;
COMMENT ON VIEW tenancy.metric_values IS
'What record_metric() has counted and measured. A tenant sees its own; superusers, roles with BYPASSRLS and members of pg_monitor see all where no tenant is set. PUBLIC may read it.';

-- A line of Prometheus'' text format.
CREATE FUNCTION _tenancy.metric_line(name text, labels jsonb, value double precision) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT name || coalesce('{' || (SELECT string_agg(format('%s="%s"', l.key, replace(replace(replace(l.value, '\', '\\'), '"', '\"'), E'\n', '\n')), ',' ORDER BY l.key <> 'tenant_id', l.key)
                                    FROM jsonb_each_text(labels) l) || '}', '') || ' '
           || CASE value WHEN 'infinity' THEN '+Inf' WHEN '-infinity' THEN '-Inf' WHEN 'nan' THEN 'NaN' ELSE value::text END
$$;
COMMENT ON FUNCTION _tenancy.metric_line(text, jsonb, double precision) IS 'a line of the text format of Prometheus';

-- As many tenants as tenancy.metric_tenants says: what metrics() tells, and what an exporter asks for (docs/monitoring/queries.yml).
CREATE VIEW tenancy.stat_busiest_tenants WITH (security_invoker = true) AS
    SELECT CASE WHEN m.place <= b.most THEN m.tenant ELSE '(rest)' END AS tenant_id, sum(m.statements)::bigint AS statements, sum(m.rows)::bigint AS rows, sum(m.exec_time) AS total_exec_time,
           sum(m.committed)::bigint AS transactions_committed, sum(m.rolled_back)::bigint AS transactions_rolled_back, sum(m.blocks_hit)::bigint AS shared_blks_hit,
           sum(m.blocks_read)::bigint AS shared_blks_read, sum(m.wal_bytes)::bigint AS wal_bytes, sum(m.quota_refusals)::bigint AS quota_refusals,
           sum(m.refused_contexts)::bigint AS refused_contexts, array_agg(m.errors_by_class) AS errors_by_class
    FROM (SELECT CASE s.kind WHEN 'tenant' THEN s.tenant_id ELSE '(' || s.kind || ')' END AS tenant, s.*,
                 row_number() OVER (PARTITION BY s.kind ORDER BY s.exec_time DESC, s.tenant_id) AS place
          FROM _tenancy.measured() s) m,
         (SELECT current_setting('tenancy.metric_tenants')::bigint AS most) b
    GROUP BY 1;
COMMENT ON VIEW tenancy.stat_busiest_tenants IS
'stat_tenants for the tenancy.metric_tenants tenants that took the most time; all others are added up as (rest), statements without a tenant are (none). errors_by_class has
those of each tenant that was added up. Who sees what: as stat_tenants. PUBLIC may read it.';

-- The quotas of those whom metrics tell of, one by one: their figures are looked up each for itself.
CREATE VIEW tenancy.stat_busiest_quotas WITH (security_invoker = true) AS
    SELECT q.tenant_id, q.resource, coalesce(q.period, 'standing') AS period, q.used, q."limit"
    FROM tenancy.quota_status q
    WHERE NOT _tenancy.sees_all_tenants() OR q.tenant_id IN (SELECT b.tenant_id FROM tenancy.stat_busiest_tenants b);
COMMENT ON VIEW tenancy.stat_busiest_quotas IS
'What the tenants of stat_busiest_tenants use of their quotas, in the current period or for good, and the most that they may (null: not limited). Who sees what: as quota_status. PUBLIC may read it.';

-- Tenants have a place, and their first series before the second ones of all, so that nobody's are put out by the many labels of another.
CREATE VIEW tenancy.stat_busiest_metrics WITH (security_invoker = true) AS
    SELECT CASE WHEN m.is_told THEN m.tenant_id ELSE '(rest)' END AS tenant_id, m.name, CASE WHEN m.is_told THEN m.labels ELSE '{}' END AS labels, sum(m.value) AS value
    FROM (SELECT p.*, p.place <= b.most AND row_number() OVER (ORDER BY p.place > b.most, p.nth, p.place) <= 20 * b.most AS is_told
          FROM (SELECT a.tenant_id, a.name, a.labels, a.value, dense_rank() OVER (ORDER BY s.total_exec_time DESC NULLS LAST, a.tenant_id) AS place,
                       row_number() OVER (PARTITION BY a.tenant_id ORDER BY a.name, a.labels) AS nth
                FROM tenancy.metric_values a LEFT JOIN tenancy.stat_busiest_tenants s ON s.tenant_id = a.tenant_id
                WHERE a.value IS NOT NULL) p,
               (SELECT current_setting('tenancy.metric_tenants')::bigint AS most) b) m
    -- Of a gauge there is no sum.
    WHERE m.is_told OR m.name ~ '_total$'
    GROUP BY 1, 2, 3;
COMMENT ON VIEW tenancy.stat_busiest_metrics IS
'What record_metric() has counted and measured for the tenancy.metric_tenants tenants that took the most time, of up to twenty times as many series; all other counters are added up as (rest). Who sees what: as metric_values. PUBLIC may read it.';

CREATE FUNCTION tenancy.metrics() RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off SET extra_float_digits = 1
AS $$
DECLARE
    exposition text;
BEGIN
    WITH busiest AS MATERIALIZED (
        SELECT b.tenant_id AS tenant, b.* FROM tenancy.stat_busiest_tenants b
    ), errors AS (
        SELECT b.tenant, e.key AS class, sum(e.value::bigint) AS errors
        FROM busiest b, unnest(b.errors_by_class) AS c(classes), jsonb_each_text(c.classes) e GROUP BY 1, 2
    ), quotas AS (
        SELECT q.tenant_id AS tenant, q.* FROM tenancy.stat_busiest_quotas q
    ), applications AS (
        SELECT a.tenant_id AS tenant, a.* FROM tenancy.stat_busiest_metrics a
    ), family (name, type, help) AS (VALUES
        ('tenancy_statements_total', 'counter', 'Statements of clients.'),
        ('tenancy_rows_total', 'counter', 'Rows that statements returned or changed.'),
        ('tenancy_execution_seconds_total', 'counter', 'Time that statements took.'),
        ('tenancy_transactions_total', 'counter', 'Transactions that ended, by outcome.'),
        ('tenancy_shared_blocks_total', 'counter', 'Shared blocks that were found in memory (hit) or read.'),
        ('tenancy_wal_bytes_total', 'counter', 'Bytes of write-ahead log.'),
        ('tenancy_errors_total', 'counter', 'Errors, by class of SQLSTATE.'),
        ('tenancy_quota_refusals_total', 'counter', 'Statements that a quota refused.'),
        ('tenancy_context_refusals_total', 'counter', 'Statements that were refused for their tenant, user or token.'),
        ('tenancy_resource_usage', 'gauge', 'What a tenant uses of a resource in the current period, or for good.'),
        ('tenancy_resource_limit', 'gauge', 'The most that it may use.')
    ), sample (name, tenant, labels, value) AS (
        SELECT 'tenancy_statements_total', b.tenant, '{}'::jsonb, b.statements::double precision FROM busiest b
        UNION ALL SELECT 'tenancy_rows_total', b.tenant, '{}', b.rows FROM busiest b
        UNION ALL SELECT 'tenancy_execution_seconds_total', b.tenant, '{}', b.total_exec_time / 1000 FROM busiest b
        UNION ALL SELECT 'tenancy_transactions_total', b.tenant, '{"outcome": "committed"}', b.transactions_committed FROM busiest b
        UNION ALL SELECT 'tenancy_transactions_total', b.tenant, '{"outcome": "rolled_back"}', b.transactions_rolled_back FROM busiest b
        UNION ALL SELECT 'tenancy_shared_blocks_total', b.tenant, '{"source": "hit"}', b.shared_blks_hit FROM busiest b
        UNION ALL SELECT 'tenancy_shared_blocks_total', b.tenant, '{"source": "read"}', b.shared_blks_read FROM busiest b
        UNION ALL SELECT 'tenancy_wal_bytes_total', b.tenant, '{}', b.wal_bytes FROM busiest b
        UNION ALL SELECT 'tenancy_errors_total', e.tenant, jsonb_build_object('class', e.class), e.errors FROM errors e
        UNION ALL SELECT 'tenancy_quota_refusals_total', b.tenant, '{}', b.quota_refusals FROM busiest b
        UNION ALL SELECT 'tenancy_context_refusals_total', b.tenant, '{}', b.refused_contexts FROM busiest b
        UNION ALL SELECT 'tenancy_resource_usage', q.tenant, jsonb_build_object('resource', q.resource, 'period', q.period), q.used FROM quotas q
        UNION ALL SELECT 'tenancy_resource_limit', q.tenant, jsonb_build_object('resource', q.resource, 'period', q.period), q."limit" FROM quotas q WHERE q."limit" IS NOT NULL
    ), lines (place, name, part, line) AS (
        SELECT 0, f.name, p.part, p.line
        FROM family f, LATERAL (VALUES (0, format('# HELP %s %s', f.name, f.help)), (1, format('# TYPE %s %s', f.name, f.type))) AS p(part, line)
        WHERE EXISTS (SELECT FROM sample s WHERE s.name = f.name)
        UNION ALL
        SELECT 0, s.name, 2, _tenancy.metric_line(s.name, s.labels || jsonb_build_object('tenant_id', s.tenant), s.value) FROM sample s
        UNION ALL
        SELECT DISTINCT 1, a.name, p.part, p.line
        FROM applications a, LATERAL (VALUES (0, format('# HELP %s Recorded by the application.', a.name)),
                                             (1, format('# TYPE %s %s', a.name, CASE WHEN a.name ~ '_total$' THEN 'counter' ELSE 'gauge' END))) AS p(part, line)
        UNION ALL
        SELECT 1, a.name, 2, _tenancy.metric_line(a.name, a.labels || jsonb_build_object('tenant_id', a.tenant), a.value)
        FROM applications a
    )
    SELECT string_agg(l.line || E'\n', '' ORDER BY l.place, l.name COLLATE "C", l.part, l.line COLLATE "C") INTO exposition FROM lines l;
    RETURN coalesce(exposition, '');
END
$$;
COMMENT ON FUNCTION tenancy.metrics() IS
'All figures in the text format of Prometheus, with the label tenant_id: those of stat_tenants, usage and limits of quotas, and what record_metric() has counted. Of the
tenancy.metric_tenants busiest tenants; counters of all others are added up as (rest), statements without a tenant are (none). In the context of a tenant, its own only;
without one, for superusers, roles with BYPASSRLS and members of pg_monitor. Errors: those of current_tenant(). Volatile. PUBLIC may call it.';
