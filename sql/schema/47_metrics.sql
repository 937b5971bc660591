-- Runs once. What applications count and measure.
-- UPGRADE-SCRIPT-NEEDED: what changes here must also be in sql/updates/A--B.sql.

CREATE TABLE _tenancy.metric_series (
    tenant_id text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    -- As jsonb writes them, so that each has one spelling.
    labels text COLLATE "C" NOT NULL,
    -- That of a gauge; a counter is the sum of its entries.
    value double precision,
    changed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    CONSTRAINT metric_series_pkey PRIMARY KEY (tenant_id, name, labels)
) WITH (fillfactor = 70);
COMMENT ON TABLE _tenancy.metric_series IS 'the series of tenancy.record_metric(), and the values of gauges';

-- What was counted, in entries that are added up, so that nobody waits for another who counts the same.
CREATE TABLE _tenancy.metric_entries (
    tenant_id text COLLATE "C" NOT NULL,
    name text COLLATE "C" NOT NULL,
    labels text COLLATE "C" NOT NULL,
    value double precision NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
COMMENT ON TABLE _tenancy.metric_entries IS 'what tenancy.record_metric() has counted, in entries that are added up';
CREATE INDEX metric_entries_key ON _tenancy.metric_entries (tenant_id, name, labels);
SELECT pg_catalog.pg_extension_config_dump('_tenancy.metric_series', '');
SELECT pg_catalog.pg_extension_config_dump('_tenancy.metric_entries', '');
