-- Runs once. Tables on their way from one tenant to many.
-- UPGRADE-SCRIPT-NEEDED: what changes here must also be in sql/updates/A--B.sql.

-- The library reads column 7 (phase) and the index migrations_pkey directly (src/migrate.rs).
CREATE TABLE _tenancy.migrations (
    relation regclass NOT NULL,
    tenant_column name NOT NULL,
    column_type regtype NOT NULL,
    kind text NOT NULL CHECK (kind IN ('tenant', 'shared', 'audit')),
    -- Whose rows are those that no mapping gives to a tenant.
    tenant_id text COLLATE "C",
    -- An expression on a row d.
    mapping text,
    phase text NOT NULL DEFAULT 'column' CHECK (phase IN ('column', 'backfill', 'check', 'index', 'observe', 'protect', 'done')),
    -- What is to be taken away again on the way back.
    added_column boolean NOT NULL DEFAULT false,
    -- Of a column that was there: its default, and whether it was NOT NULL.
    old_default text,
    was_not_null boolean NOT NULL DEFAULT false,
    -- Foreign keys that protect() may have extended by the column, as they were: of which table, name, definition.
    keys jsonb NOT NULL DEFAULT '[]',
    -- Where the backfill is: the partition, and the next block of it.
    part regclass,
    next_block bigint NOT NULL DEFAULT 0,
    rows_done bigint NOT NULL DEFAULT 0,
    rows_total bigint NOT NULL DEFAULT 0,
    -- How long it has worked.
    seconds double precision NOT NULL DEFAULT 0,
    to_do text,
    started_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    changed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    CONSTRAINT migrations_pkey PRIMARY KEY (relation),
    CHECK (tenant_id IS NOT NULL OR mapping IS NOT NULL)
);
COMMENT ON TABLE _tenancy.migrations IS 'tables that are given a tenant column; read it through tenancy.migration_progress';
SELECT pg_catalog.pg_extension_config_dump(
    '_tenancy.migrations',
    'WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation)');
