-- Runs once. What services and integrations have reported of themselves.
-- UPGRADE-SCRIPT-NEEDED: what changes here must also be in sql/updates/A--B.sql.

-- Not dumped: in a restored database, whoever reports is heard of anew, and what does not run there is not missed.
CREATE TABLE _tenancy.health_reports (
    -- Empty: of something that all tenants share.
    tenant_id text COLLATE "C" NOT NULL,
    component text COLLATE "C" NOT NULL,
    kind text COLLATE "C" NOT NULL CHECK (kind IN ('service', 'integration')),
    status text COLLATE "C" NOT NULL CHECK (status IN ('healthy', 'degraded', 'unhealthy')),
    detail text,
    reported_at timestamptz NOT NULL,
    CONSTRAINT health_reports_pkey PRIMARY KEY (tenant_id, component)
) WITH (fillfactor = 50);
COMMENT ON TABLE _tenancy.health_reports IS 'what tenancy.report_health() was told last of each component';
