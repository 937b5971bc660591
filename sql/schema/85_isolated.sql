-- Runs once. The tenants that have got partitions of their own.
-- UPGRADE-SCRIPT-NEEDED: what changes here must also be in sql/updates/A--B.sql.

-- The library reads columns 1 and 2 and the index isolated_pkey directly (src/isolate.rs). Not dumped: the rows are where they are, and a
-- transaction of another database's means nothing.
CREATE TABLE _tenancy.isolated (
    partition regclass NOT NULL,
    -- The transaction that has moved the rows, as a number that never comes again.
    moved_by bigint NOT NULL,
    relation regclass NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    moved_rows bigint NOT NULL,
    isolated_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT isolated_pkey PRIMARY KEY (partition)
);
COMMENT ON TABLE _tenancy.isolated IS 'the partitions that tenancy.isolate_tenant() has made';
