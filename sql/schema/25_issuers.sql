-- Runs once. Whose tokens are trusted, and what was used up of them.
-- UPGRADE-SCRIPT-NEEDED: what changes here must also be in sql/updates/A--B.sql.

-- The library reads columns 1 to 7 and the index issuers_pkey directly (src/token/issuers.rs).
CREATE TABLE _tenancy.issuers (
    issuer text COLLATE "C" NOT NULL CHECK (issuer <> ''),
    -- The only tenant that it is trusted for; empty: for whichever a token names.
    tenant_id text COLLATE "C" NOT NULL DEFAULT '',
    jwks jsonb NOT NULL,
    -- An array of texts; null: only tokens that are meant for nobody in particular.
    audience jsonb CHECK (jsonb_typeof(audience) = 'array'),
    tenant_claim text,
    user_claim text,
    single_use boolean NOT NULL DEFAULT false,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    changed_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT issuers_pkey PRIMARY KEY (issuer, tenant_id)
);
COMMENT ON TABLE _tenancy.issuers IS 'the issuers of tokens, with their keys; read it through tenancy.issuers';

CREATE TABLE _tenancy.signing_keys (
    issuer text COLLATE "C" NOT NULL PRIMARY KEY CHECK (issuer <> ''),
    key jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE _tenancy.signing_keys IS 'the private keys with which tenancy.sign_token() signs';

-- Tokens that are good for one use, until they expire.
CREATE TABLE _tenancy.used_tokens (
    issuer text COLLATE "C" NOT NULL,
    tenant_id text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    expires_at timestamptz NOT NULL,
    CONSTRAINT used_tokens_pkey PRIMARY KEY (issuer, tenant_id, id)
);
COMMENT ON TABLE _tenancy.used_tokens IS 'tokens that were good for one use, and have been used';
CREATE INDEX used_tokens_expires_at ON _tenancy.used_tokens (expires_at);

-- Without a policy, for superusers only, as the owner of the extension is one: roles such as pg_read_all_data could sign for every tenant, or pg_write_all_data
-- make a key of its own good.
ALTER TABLE _tenancy.issuers ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE _tenancy.signing_keys ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE _tenancy.used_tokens ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;

SELECT pg_catalog.pg_extension_config_dump('_tenancy.issuers', '');
SELECT pg_catalog.pg_extension_config_dump('_tenancy.signing_keys', '');
SELECT pg_catalog.pg_extension_config_dump('_tenancy.used_tokens', '');
