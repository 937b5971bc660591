-- Runs once. What tenancy.protect has put under its protection, and how to undo it.
-- UPGRADE-SCRIPT-NEEDED: what changes here must also be in sql/tenancy--A--B.sql.

CREATE TABLE _tenancy.protected (
    relation regclass PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('tenant', 'shared', 'audit', 'system')),
    tenant_column name CHECK ((tenant_column IS NULL) = (kind = 'system')),
    -- The arguments of protect that a later call on the same table keeps.
    options jsonb NOT NULL,
    -- What protect changed: unprotect puts back this and nothing else.
    undo jsonb NOT NULL,
    protected_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE _tenancy.protected IS 'the protected tables; read it through tenancy.protected_tables';
-- A row whose table is gone would be restored as a bare number.
SELECT pg_catalog.pg_extension_config_dump(
    '_tenancy.protected',
    'WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation)');
