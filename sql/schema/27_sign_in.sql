-- Runs once. Passwords, and how often signing in with one has failed.
-- UPGRADE-SCRIPT-NEEDED: what changes here must also be in sql/updates/A--B.sql.

-- The library reads column 2 and the primary key directly (src/member/mod.rs).
CREATE TABLE _tenancy.passwords (
    user_id text COLLATE "C" NOT NULL,
    -- In the PHC string format: $argon2id$v=19$m=...,t=...,p=...$salt$hash
    hash text COLLATE "C" NOT NULL CHECK (hash LIKE '$argon2id$%'),
    changed_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT passwords_pkey PRIMARY KEY (user_id)
);
COMMENT ON TABLE _tenancy.passwords IS 'the hashes of users'' passwords';

-- The library inserts directly, so that an entry stays when its transaction is rolled back (src/sign_in/mod.rs).
CREATE TABLE _tenancy.failed_sign_ins (
    -- The SHA-256 hash of tenant and user.
    key bytea NOT NULL,
    failed_at timestamptz NOT NULL
);
COMMENT ON TABLE _tenancy.failed_sign_ins IS 'when signing in with a password has failed, of the last minutes';
CREATE INDEX failed_sign_ins_key_idx ON _tenancy.failed_sign_ins (key, failed_at);
CREATE INDEX failed_sign_ins_failed_at_idx ON _tenancy.failed_sign_ins (failed_at);

-- As the keys of tokens are: see 25_issuers.sql.
ALTER TABLE _tenancy.passwords ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE _tenancy.failed_sign_ins ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;

-- Where all tables are published, a row that has no key could not be removed.
ALTER TABLE _tenancy.failed_sign_ins REPLICA IDENTITY FULL;

SELECT pg_catalog.pg_extension_config_dump('_tenancy.passwords', '');
