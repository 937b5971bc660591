-- Runs once. Who uses the service, and who is a member of which tenant.
-- UPGRADE-SCRIPT-NEEDED: what changes here must also be in sql/updates/A--B.sql.

-- Of no tenant: a person may be a member of several. The id is what tokens and tenancy.user_id say.
CREATE TABLE _tenancy.users (
    id text COLLATE "C" NOT NULL CHECK (pg_catalog.octet_length(id) BETWEEN 1 AND 255),
    email text,
    name text,
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT users_pkey PRIMARY KEY (id)
);
COMMENT ON TABLE _tenancy.users IS 'the users of all tenants; read them through tenancy.users';
CREATE UNIQUE INDEX users_email_key ON _tenancy.users (pg_catalog.lower(email));

-- The library reads columns 2 to 4 and the index members_pkey directly (src/member.rs). No foreign keys: a parallel pg_restore does
-- not load tables in order.
CREATE TABLE _tenancy.members (
    tenant_id text COLLATE "C" NOT NULL,
    user_id text COLLATE "C" NOT NULL,
    role text COLLATE "C" NOT NULL CHECK (pg_catalog.octet_length(role) BETWEEN 1 AND 63),
    status text COLLATE "C" NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'invited', 'suspended')),
    -- The SHA-256 hash of the code by which an invitation is accepted.
    invitation bytea CHECK ((invitation IS NULL) = (status <> 'invited')),
    invited_until timestamptz CHECK ((invited_until IS NULL) = (status <> 'invited')),
    created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    changed_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
    CONSTRAINT members_pkey PRIMARY KEY (tenant_id, user_id)
);
COMMENT ON TABLE _tenancy.members IS 'who is a member of which tenant; read it through tenancy.members';
CREATE INDEX members_user_id_idx ON _tenancy.members (user_id);
CREATE UNIQUE INDEX members_invitation_key ON _tenancy.members (invitation) WHERE invitation IS NOT NULL;

-- What a tenant is told of its own plans would tell of other tenants' members.
ALTER TABLE _tenancy.members
    ALTER tenant_id SET STATISTICS 0, ALTER user_id SET STATISTICS 0, ALTER role SET STATISTICS 0, ALTER status SET STATISTICS 0,
    ALTER invitation SET STATISTICS 0, ALTER invited_until SET STATISTICS 0, ALTER created_at SET STATISTICS 0, ALTER changed_at SET STATISTICS 0;
-- As the keys of tokens are: see 25_issuers.sql.
ALTER TABLE _tenancy.users ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE _tenancy.members ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;

SELECT pg_catalog.pg_extension_config_dump('_tenancy.users', '');
SELECT pg_catalog.pg_extension_config_dump('_tenancy.members', '');
