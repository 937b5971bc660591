-- Runs once. What tenants have used: the ledger, and what is added up from it.
-- UPGRADE-SCRIPT-NEEDED: what changes here must also be in sql/updates/A--B.sql.

-- The ledger. Entries are appended and never changed; _tenancy.settle_usage moves them from the open part to the settled one.
-- The library appends to usage_open directly (src/usage/ledger.rs), with every column in this order.
CREATE TABLE _tenancy.usage (
    tenant_id text COLLATE "C" NOT NULL,
    resource text COLLATE "C" NOT NULL,
    amount bigint NOT NULL,
    recorded_at timestamptz NOT NULL,
    actor text,
    metadata jsonb,
    -- Counting anew found a difference: it counts for good, and is no use of any period.
    is_correction boolean NOT NULL,
    -- A hash of tenant and resource (src/usage/mod.rs, Key::hash): an index on it costs a transaction less than one on both. Its last
    -- three bits are the writing connection's, so that those of one tenant do not wait for one another's page of the index.
    hash bigint NOT NULL,
    is_settled boolean NOT NULL
) PARTITION BY LIST (is_settled);
COMMENT ON TABLE _tenancy.usage IS 'the ledger of usage; read it through tenancy.usage_records';
-- Entries come in at the rate of transactions and leave in bulk: what has left is worth a vacuum, what came is not.
CREATE TABLE _tenancy.usage_open PARTITION OF _tenancy.usage FOR VALUES IN (false)
    WITH (autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_scale_factor = 1);
COMMENT ON TABLE _tenancy.usage_open IS 'entries of the ledger that are not added up yet';
CREATE INDEX usage_open_hash ON _tenancy.usage_open (hash);
CREATE TABLE _tenancy.usage_settled PARTITION OF _tenancy.usage FOR VALUES IN (true) PARTITION BY RANGE (recorded_at);
COMMENT ON TABLE _tenancy.usage_settled IS 'entries of the ledger that are in usage_totals and usage_hourly; a partition for each month';
-- The index is each partition's own: pg_dump would make one that comes from a parent it does not dump a second time.
CREATE TABLE _tenancy.usage_settled_default PARTITION OF _tenancy.usage_settled DEFAULT;
CREATE INDEX usage_settled_default_tenant ON _tenancy.usage_settled_default (tenant_id, resource, recorded_at);
COMMENT ON TABLE _tenancy.usage_settled_default IS 'settled entries of months without a partition';

-- Where all tables are published, a row that has no key could not be moved.
ALTER TABLE _tenancy.usage_open REPLICA IDENTITY FULL;
ALTER TABLE _tenancy.usage_settled_default REPLICA IDENTITY FULL;

-- The settled entries, added up. As numeric, because a sum of bigints need not be one, and must not keep others from being settled.
-- In a snapshot, a total and the open entries of its tenant and resource are all there is.
CREATE TABLE _tenancy.usage_totals (
    tenant_id text COLLATE "C" NOT NULL,
    resource text COLLATE "C" NOT NULL,
    amount numeric NOT NULL,
    CONSTRAINT usage_totals_pkey PRIMARY KEY (tenant_id, resource)
);
COMMENT ON TABLE _tenancy.usage_totals IS 'the sum of all settled entries of a tenant and resource, for good';
CREATE TABLE _tenancy.usage_hourly (
    tenant_id text COLLATE "C" NOT NULL,
    resource text COLLATE "C" NOT NULL,
    hour timestamptz NOT NULL,
    added numeric NOT NULL,
    removed numeric NOT NULL,
    corrected numeric NOT NULL,
    CONSTRAINT usage_hourly_pkey PRIMARY KEY (tenant_id, resource, hour)
);
COMMENT ON TABLE _tenancy.usage_hourly IS 'the sums of settled entries of a tenant, resource and hour (UTC)';

-- What a request was charged under a key of its own, so that the same request is charged once.
CREATE TABLE _tenancy.usage_keys (
    tenant_id text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    resource text COLLATE "C" NOT NULL,
    amount bigint NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    CONSTRAINT usage_keys_pkey PRIMARY KEY (tenant_id, key)
);
COMMENT ON TABLE _tenancy.usage_keys IS 'the idempotency keys of tracked usage';
CREATE INDEX usage_keys_age ON _tenancy.usage_keys (recorded_at);

-- The tables whose rows are counted.
CREATE TABLE _tenancy.meters (
    relation regclass NOT NULL,
    resource text COLLATE "C" NOT NULL,
    tenant_column name NOT NULL,
    -- rows, bytes, or sum:<column>
    measure text NOT NULL CHECK (measure ~ '^(rows|bytes|sum:.+)$'),
    metered_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT meters_pkey PRIMARY KEY (relation, resource)
);
COMMENT ON TABLE _tenancy.meters IS 'the tables that are metered; read it through tenancy.meters';
CREATE INDEX meters_resource ON _tenancy.meters (resource);

SELECT pg_catalog.pg_extension_config_dump('_tenancy.usage_open', '');
SELECT pg_catalog.pg_extension_config_dump('_tenancy.usage_settled_default', '');
SELECT pg_catalog.pg_extension_config_dump('_tenancy.usage_totals', '');
SELECT pg_catalog.pg_extension_config_dump('_tenancy.usage_hourly', '');
SELECT pg_catalog.pg_extension_config_dump('_tenancy.usage_keys', '');
SELECT pg_catalog.pg_extension_config_dump(
    '_tenancy.meters',
    'WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation)');
