-- Runs once. Who may cross to which tenants.
-- UPGRADE-SCRIPT-NEEDED: what changes here must also be in sql/updates/A--B.sql.

-- The library reads columns 1 to 4 and the index cross_tenant_grants_pkey directly (src/scope.rs).
CREATE TABLE _tenancy.cross_tenant_grants (
    -- '*': all tenants.
    tenant_id text COLLATE "C" NOT NULL,
    role regrole NOT NULL,
    until timestamptz NOT NULL,
    read_only boolean NOT NULL,
    granted_by text NOT NULL DEFAULT session_user,
    granted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT cross_tenant_grants_pkey PRIMARY KEY (tenant_id, role)
);
COMMENT ON TABLE _tenancy.cross_tenant_grants IS 'who may cross to which tenants; read it through tenancy.cross_tenant_grants';

-- A role that was dropped meanwhile has no name to be restored by.
SELECT pg_catalog.pg_extension_config_dump(
    '_tenancy.cross_tenant_grants',
    'WHERE EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = role)');
