-- Runs once. The registry of tenants.
-- UPGRADE-SCRIPT-NEEDED: what changes here must also be in sql/updates/A--B.sql.

-- The library reads columns 1 (id), 2 (status), 5 (plan) and 12 (sso_required), and the index tenants_pkey, directly (src/registry.rs).
-- The two generated columns are what a foreign key of a uuid, bigint or integer column refers to; they hold
-- the forms of src/tenant.rs.
CREATE TABLE _tenancy.tenants (
    id text COLLATE "C" NOT NULL,
    status text COLLATE "C" NOT NULL DEFAULT 'active'
        CHECK (status IN ('active', 'suspended', 'archived')),
    name text,
    subdomain text COLLATE "C"
        CHECK (subdomain ~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$'),
    plan text,
    settings jsonb NOT NULL DEFAULT '{}'
        CHECK (jsonb_typeof(settings) = 'object'),
    status_reason text,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    status_changed_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    id_uuid uuid GENERATED ALWAYS AS (
        CASE WHEN id ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
             THEN id::uuid END) STORED,
    id_bigint bigint GENERATED ALWAYS AS (
        CASE WHEN id ~ '^(0|-?[1-9][0-9]{0,18})$'
             THEN CASE WHEN id::numeric BETWEEN (-9223372036854775808)::numeric AND 9223372036854775807::numeric
                       THEN id::bigint END END) STORED,
    -- It takes tokens of its own issuers only.
    sso_required boolean NOT NULL DEFAULT false,
    CONSTRAINT tenants_pkey PRIMARY KEY (id),
    CONSTRAINT tenants_subdomain_key UNIQUE (subdomain),
    CONSTRAINT tenants_id_uuid_key UNIQUE (id_uuid),
    CONSTRAINT tenants_id_bigint_key UNIQUE (id_bigint)
);
COMMENT ON TABLE _tenancy.tenants IS 'the registry of tenants; read it through tenancy.tenants';
SELECT pg_catalog.pg_extension_config_dump('_tenancy.tenants', '');

-- How far tenancy.delete_tenant_in_batches has come. Not in the registry, whose changes every backend hears of. Not dumped: it is only told.
CREATE TABLE _tenancy.deletions (
    tenant_id text COLLATE "C" NOT NULL,
    deleted bigint NOT NULL,
    CONSTRAINT deletions_pkey PRIMARY KEY (tenant_id)
);
COMMENT ON TABLE _tenancy.deletions IS 'how many rows tenancy.delete_tenant_in_batches() has deleted of tenants that are being deleted';
