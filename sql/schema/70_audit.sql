-- Runs once. The audit trail.
-- UPGRADE-SCRIPT-NEEDED: what changes here must also be in sql/updates/A--B.sql.

-- The library inserts directly, with every column in this order (src/audit/mod.rs). What is hashed is the text of the JSON, so that is
-- kept as it was written.
CREATE TABLE _tenancy.audit_entries (
    -- Null: of no tenant.
    tenant_id text COLLATE "C",
    recorded_at timestamptz NOT NULL,
    operation text COLLATE "C" NOT NULL,
    relation text COLLATE "C",
    key json,
    old json,
    new json,
    detail json,
    actor text COLLATE "C",
    role text COLLATE "C" NOT NULL,
    session text COLLATE "C" NOT NULL,
    transaction bigint NOT NULL,
    -- A segment has the entries that one session has written for one tenant, with the numbers from 1 on, each chained to the one before.
    segment bigint NOT NULL,
    number bigint NOT NULL,
    hash bytea NOT NULL
) PARTITION BY RANGE (recorded_at);
COMMENT ON TABLE _tenancy.audit_entries IS 'the audit trail; read it through tenancy.audit_log. A partition for each month';
-- The index is each partition's own: pg_dump would make one that comes from a parent it does not dump a second time.
CREATE TABLE _tenancy.audit_entries_default PARTITION OF _tenancy.audit_entries DEFAULT;
CREATE INDEX audit_entries_default_tenant ON _tenancy.audit_entries_default (tenant_id, recorded_at);
COMMENT ON TABLE _tenancy.audit_entries_default IS 'entries of the audit trail of months without a partition';

-- How far each segment goes, so that its last entries cannot go unnoticed, and what it was begun after. The session that writes a
-- segment updates its row with each transaction.
CREATE TABLE _tenancy.audit_heads (
    tenant_id text COLLATE "C",
    segment bigint NOT NULL,
    number bigint NOT NULL,
    hash bytea NOT NULL,
    opened_at timestamptz NOT NULL,
    after_segment bigint,
    after_number bigint,
    after_hash bytea
) WITH (fillfactor = 50);
COMMENT ON TABLE _tenancy.audit_heads IS 'the last entry of each segment of the audit trail';
CREATE INDEX audit_heads_tenant ON _tenancy.audit_heads (tenant_id, opened_at);

-- The last entry of each segment that was dropped because it was too old.
CREATE TABLE _tenancy.audit_cuts (
    tenant_id text COLLATE "C",
    segment bigint NOT NULL,
    number bigint NOT NULL,
    hash bytea NOT NULL,
    CONSTRAINT audit_cuts_pkey PRIMARY KEY (segment)
);
COMMENT ON TABLE _tenancy.audit_cuts IS 'up to where segments of the audit trail were dropped';

-- The tables that are audited.
CREATE TABLE _tenancy.audited (
    relation regclass NOT NULL,
    excluded name[] NOT NULL,
    masked name[] NOT NULL,
    audited_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT audited_pkey PRIMARY KEY (relation)
);
COMMENT ON TABLE _tenancy.audited IS 'the tables whose changes are in the audit trail; read it through tenancy.audited_tables';

-- Where all tables are published, a row that has no key could not be removed.
ALTER TABLE _tenancy.audit_entries_default REPLICA IDENTITY FULL;
ALTER TABLE _tenancy.audit_heads REPLICA IDENTITY FULL;

SELECT pg_catalog.pg_extension_config_dump('_tenancy.audit_entries_default', '');
SELECT pg_catalog.pg_extension_config_dump('_tenancy.audit_heads', '');
SELECT pg_catalog.pg_extension_config_dump('_tenancy.audit_cuts', '');
SELECT pg_catalog.pg_extension_config_dump(
    '_tenancy.audited',
    'WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = relation)');
