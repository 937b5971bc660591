-- Runs once. How much tenants may use.
-- UPGRADE-SCRIPT-NEEDED: what changes here must also be in sql/updates/A--B.sql.

-- The library reads the columns of both tables at these places, and their primary keys, directly (src/quota/limits.rs).

-- The periods of other lengths over which a resource is counted, for all tenants, because some quota asks for them.
CREATE TABLE _tenancy.quota_periods (
    resource text COLLATE "C" NOT NULL,
    period text COLLATE "C" NOT NULL,
    -- In microseconds, or in months where it is negative.
    span bigint NOT NULL CHECK (span NOT IN (0, -9223372036854775808)),
    -- Names the counters in shared memory. Another one each time that the period is asked for, in this or in any other database that
    -- the tables are restored to, so it is drawn by lot.
    id bigint NOT NULL DEFAULT pg_catalog.hashtextextended(pg_catalog.gen_random_uuid()::text, 0),
    CONSTRAINT quota_periods_pkey PRIMARY KEY (resource, period)
);
COMMENT ON TABLE _tenancy.quota_periods IS 'the periods other than hour, day and month over which resources are counted';

CREATE TABLE _tenancy.quotas (
    -- Whose quota: of a tenant, of the tenants on a plan, or of all (with an empty name).
    scope text COLLATE "C" NOT NULL CHECK (scope IN ('tenant', 'plan', 'default')),
    name text COLLATE "C" NOT NULL CHECK ((name = '') = (scope = 'default')),
    resource text COLLATE "C" NOT NULL,
    -- Empty: for good. hour, day, month, or one of quota_periods.
    period text COLLATE "C" NOT NULL,
    -- Null: not limited.
    max_amount bigint CHECK (max_amount >= 0),
    soft_limit bigint CHECK (soft_limit >= 0),
    -- The id of the period among quota_periods. No foreign key: a parallel pg_restore does not load the two in order.
    interval_id bigint CHECK ((interval_id IS NULL) = (period IN ('', 'hour', 'day', 'month'))),
    CONSTRAINT quotas_pkey PRIMARY KEY (scope, name, resource, period)
);
COMMENT ON TABLE _tenancy.quotas IS 'the quotas; read them through tenancy.quotas';
CREATE INDEX quotas_resource ON _tenancy.quotas (resource, period);

SELECT pg_catalog.pg_extension_config_dump('_tenancy.quotas', '');
SELECT pg_catalog.pg_extension_config_dump('_tenancy.quota_periods', '');
