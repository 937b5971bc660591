-- Runs once. Caches.
-- UPGRADE-SCRIPT-NEEDED: what changes here must also be in sql/updates/A--B.sql.

-- The tables that are watched. The library reads columns 2 and 3 and the index cache_watches_pkey directly (src/cache.rs).
CREATE TABLE _tenancy.cache_watches (
    resource_type text COLLATE "C" NOT NULL,
    relation regclass NOT NULL,
    notify boolean NOT NULL,
    watched_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT cache_watches_pkey PRIMARY KEY (resource_type, relation)
);
COMMENT ON TABLE _tenancy.cache_watches IS 'the tables that are watched for caches; read it through tenancy.cache_watches';
SELECT pg_catalog.pg_extension_config_dump(
    '_tenancy.cache_watches',
    'WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation)');

-- A random number for each transaction that has changed what a tenant ('': all) has of a type ('': of every), in entries that are added up. The
-- library changes it and reads it by its index directly (src/cache/changes.rs). Not dumped: in another database versions begin anew.
CREATE TABLE _tenancy.cache_changes (
    tenant_id text COLLATE "C" NOT NULL,
    resource_type text COLLATE "C" NOT NULL,
    changes bigint NOT NULL
) WITH (fillfactor = 50);
COMMENT ON TABLE _tenancy.cache_changes IS 'random numbers of the transactions that have changed something, added up; see tenancy.cache_version()';
CREATE INDEX cache_changes_key ON _tenancy.cache_changes (tenant_id, resource_type);
-- Where the extension is dropped and made again, versions are others.
INSERT INTO _tenancy.cache_changes SELECT '', '', ('x' || left(replace(pg_catalog.gen_random_uuid()::text, '-', ''), 12))::bit(48)::bigint;

-- On which channel changes are told: whoever could guess it would hear of all tenants. Column 1 is read by the library.
CREATE TABLE _tenancy.cache_channel (
    name text COLLATE "C" NOT NULL,
    CONSTRAINT cache_channel_pkey PRIMARY KEY (name)
);
COMMENT ON TABLE _tenancy.cache_channel IS 'the channel on which changes are told; see tenancy.cache_channel()';
INSERT INTO _tenancy.cache_channel VALUES ('tenancy_cache_' || replace(pg_catalog.gen_random_uuid()::text, '-', ''));

-- Empty after a crash, and on a standby not to be read. The library reads columns 3 and 4 and the index cache_entries_pkey directly (src/cache/entries.rs).
CREATE UNLOGGED TABLE _tenancy.cache_entries (
    tenant_id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    value jsonb NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT cache_entries_pkey PRIMARY KEY (tenant_id, key)
);
COMMENT ON TABLE _tenancy.cache_entries IS 'what tenancy.cache_set() has kept';
CREATE INDEX cache_entries_age ON _tenancy.cache_entries (tenant_id, expires_at);
