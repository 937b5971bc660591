-- Runs once. The operators that a superuser trusts besides those that the extension knows.
-- UPGRADE-SCRIPT-NEEDED: what changes here must also be in sql/tenancy--A--B.sql.

-- The library reads column 1 and the index leakproof_operators_pkey directly (src/index_pushdown.rs).
CREATE TABLE _tenancy.leakproof_operators (
    operator regoperator,
    trusted_by text NOT NULL DEFAULT session_user,
    trusted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT leakproof_operators_pkey PRIMARY KEY (operator)
);
COMMENT ON TABLE _tenancy.leakproof_operators IS 'operators that a superuser trusts; read it through tenancy.trusted_operators';

-- An operator that was dropped meanwhile has no name to be restored by.
SELECT pg_catalog.pg_extension_config_dump(
    '_tenancy.leakproof_operators',
    'WHERE EXISTS (SELECT FROM pg_catalog.pg_operator o WHERE o.oid = operator)');
