-- Runs once. The operators that a superuser trusts besides those that the extension knows.
-- UPGRADE-SCRIPT-NEEDED: what changes here must also be in sql/updates/A--B.sql.

-- By their functions, and those by what nobody else can make: a symbol of a library in C (empty: the server). Numbers of operators and functions are
-- others after a restore or pg_upgrade, which takes no column of type regoperator; a name could be made again by somebody else.
-- The library reads columns 2 and 3 and the index leakproof_operators_pkey directly (src/index_pushdown.rs).
CREATE TABLE _tenancy.leakproof_operators (
    operator text COLLATE "C" NOT NULL,
    library text COLLATE "C" NOT NULL,
    symbol text COLLATE "C" NOT NULL,
    trusted_by text NOT NULL DEFAULT session_user,
    trusted_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT leakproof_operators_pkey PRIMARY KEY (library, symbol)
);
COMMENT ON TABLE _tenancy.leakproof_operators IS 'operators that a superuser trusts; read it through tenancy.trusted_operators';
SELECT pg_catalog.pg_extension_config_dump('_tenancy.leakproof_operators', '');
