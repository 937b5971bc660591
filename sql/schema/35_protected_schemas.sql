-- Runs once. The schemas in which tables are protected as they are created.
-- UPGRADE-SCRIPT-NEEDED: what changes here must also be in sql/updates/A--B.sql.

-- By name: pg_upgrade takes no column of type regnamespace, as the numbers of schemas are others afterwards. The number tells which schema was renamed;
-- _tenancy.follow_schemas() keeps both.
CREATE TABLE _tenancy.protected_schemas (
    schema name PRIMARY KEY,
    number oid NOT NULL,
    tenant_column name NOT NULL,
    protected_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE _tenancy.protected_schemas IS 'schemas in which new tables are protected; read it through tenancy.protected_schemas';
SELECT pg_catalog.pg_extension_config_dump('_tenancy.protected_schemas', '');
