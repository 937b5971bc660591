-- Runs once. What tenancy.protect has put under its protection, and how to undo it.
-- UPGRADE-SCRIPT-NEEDED: what changes here must also be in sql/updates/A--B.sql.

CREATE TABLE _tenancy.protected (
    relation regclass PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('tenant', 'shared', 'audit', 'system')),
    tenant_column name CHECK ((tenant_column IS NULL) = (kind = 'system')),
    -- The other arguments of the last protect: what drift is measured by.
    options jsonb NOT NULL CHECK (
        jsonb_typeof(options) = 'object' AND options ?& '{reference,create_index,access_policy}' AND jsonb_typeof(options -> 'reference') = 'boolean' AND jsonb_typeof(options -> 'create_index') = 'boolean'
        AND jsonb_typeof(options -> 'access_policy') IN ('boolean', 'null')),
    -- What protect changed: unprotect puts back this and nothing else.
    undo jsonb NOT NULL CHECK (
        jsonb_typeof(undo) = 'object' AND undo ?& '{row_security,forced,not_null,own_not_null,default,reference,access,index,own_index,revoked}'
        AND jsonb_typeof(undo -> 'row_security') = 'boolean' AND jsonb_typeof(undo -> 'forced') = 'boolean'
        AND jsonb_typeof(undo -> 'not_null') = 'boolean' AND jsonb_typeof(undo -> 'own_not_null') = 'boolean'
        AND jsonb_typeof(undo -> 'default') = 'boolean' AND jsonb_typeof(undo -> 'reference') = 'boolean'
        AND jsonb_typeof(undo -> 'access') = 'boolean' AND jsonb_typeof(undo -> 'index') IN ('string', 'null')
        AND jsonb_typeof(undo -> 'own_index') IN ('string', 'null') AND undo ->> 'own_index' IS DISTINCT FROM ''
        AND jsonb_typeof(undo -> 'revoked') = 'array' AND NOT jsonb_path_exists(undo, 'strict $.revoked[*] ? (@.type() <> "object" || @.grantable.type() <> "boolean")')),
    protected_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE _tenancy.protected IS 'the protected tables; read it through tenancy.protected_tables';
-- A row whose table is gone would be restored as a bare number, and one that cannot be restored fails them all.
SELECT pg_catalog.pg_extension_config_dump(
    '_tenancy.protected',
    'WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation)');
