-- Runs once. How much tenants may use.
-- UPGRADE-SCRIPT-NEEDED: what changes here must also be in sql/tenancy--A--B.sql.

-- The library reads all columns at these places, and the index quotas_pkey, directly (src/quota.rs).
CREATE TABLE _tenancy.quotas (
    -- Whose quota: of a tenant, of the tenants on a plan, or of all (with an empty name).
    scope text COLLATE "C" NOT NULL CHECK (scope IN ('tenant', 'plan', 'default')),
    name text COLLATE "C" NOT NULL CHECK ((name = '') = (scope = 'default')),
    resource text COLLATE "C" NOT NULL,
    -- Empty: for good.
    period text COLLATE "C" NOT NULL CHECK (period IN ('', 'hour', 'day', 'month')),
    -- Null: not limited.
    max_amount bigint CHECK (max_amount >= 0),
    soft_limit bigint CHECK (soft_limit >= 0),
    CONSTRAINT quotas_pkey PRIMARY KEY (scope, name, resource, period)
);
COMMENT ON TABLE _tenancy.quotas IS 'the quotas; read them through tenancy.quotas';
CREATE INDEX quotas_resource ON _tenancy.quotas (resource, period);
SELECT pg_catalog.pg_extension_config_dump('_tenancy.quotas', '');
