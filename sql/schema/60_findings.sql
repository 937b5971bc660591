-- Runs once. What somebody has looked at and taken the responsibility for, so that lint need not name it again.
-- UPGRADE-SCRIPT-NEEDED: what changes here must also be in sql/updates/A--B.sql.

CREATE TABLE _tenancy.accepted_findings (
    -- Made of names, not of numbers, so that it means the same in a restored database.
    key text COLLATE "C" PRIMARY KEY,
    reason text NOT NULL CHECK (btrim(reason) <> ''),
    -- As it was when it was accepted.
    severity text NOT NULL,
    problem text NOT NULL,
    accepted_by name NOT NULL,
    accepted_at timestamptz NOT NULL DEFAULT pg_catalog.now()
);
COMMENT ON TABLE _tenancy.accepted_findings IS 'the accepted findings; read them through tenancy.accepted_findings';
SELECT pg_catalog.pg_extension_config_dump('_tenancy.accepted_findings', '');
