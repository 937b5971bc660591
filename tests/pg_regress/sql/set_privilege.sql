-- The privilege to set the tenant is looked up once for a role. Whatever takes it away takes it away at once: each way here, after it was used.
\set VERBOSITY terse
CREATE FUNCTION pg_temp.enter(role_name name) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('SET LOCAL ROLE %I', role_name);
    SET LOCAL tenancy.tenant_id = 'acme';
    RETURN current_setting('tenancy.tenant_id');
END $$;
GRANT USAGE ON SCHEMA public TO regress_outsider;

-- REVOKE, GRANT, and both of them rolled back.
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
RESET ROLE;
REVOKE SET ON PARAMETER tenancy.tenant_id FROM regress_app;
SET ROLE regress_app;
SET tenancy.tenant_id = 'beta';                                -- SHOULD FAIL
BEGIN;
SET LOCAL tenancy.tenant_id = 'beta';                          -- SHOULD FAIL
ROLLBACK;
SHOW tenancy.tenant_id;
RESET ROLE;
BEGIN;
GRANT SET ON PARAMETER tenancy.tenant_id TO regress_app;
SET LOCAL ROLE regress_app;
SET LOCAL tenancy.tenant_id = 'beta';
ROLLBACK;
SET ROLE regress_app;
SET tenancy.tenant_id = 'beta';                                -- SHOULD FAIL
RESET ROLE;
GRANT SET ON PARAMETER tenancy.tenant_id TO regress_app;
BEGIN;
SET LOCAL ROLE regress_app;
SET LOCAL tenancy.tenant_id = 'beta';
RESET ROLE;
SAVEPOINT s;
REVOKE SET ON PARAMETER tenancy.tenant_id FROM regress_app;
SET LOCAL ROLE regress_app;
SET LOCAL tenancy.tenant_id = 'acme';                          -- SHOULD FAIL
ROLLBACK TO s;
SET LOCAL ROLE regress_app;
SET LOCAL tenancy.tenant_id = 'acme';
SHOW tenancy.tenant_id;
ROLLBACK;

-- Another role in the same session, after one that may.
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
SET ROLE regress_outsider;
SET tenancy.tenant_id = 'beta';                                -- SHOULD FAIL
SET ROLE regress_app;
SET tenancy.tenant_id = 'beta';
RESET ROLE;
RESET tenancy.tenant_id;

-- By membership.
GRANT regress_app TO regress_outsider;
SET ROLE regress_outsider;
SET tenancy.tenant_id = 'acme';
RESET ROLE;
REVOKE regress_app FROM regress_outsider;
SET ROLE regress_outsider;
SET tenancy.tenant_id = 'beta';                                -- SHOULD FAIL
RESET ROLE;
RESET tenancy.tenant_id;

-- As a superuser; as the owner of the database; to PUBLIC; and of a role that is dropped, whose place another takes.
ALTER ROLE regress_outsider SUPERUSER;
SET ROLE regress_outsider;
SET tenancy.tenant_id = 'acme';
ALTER ROLE regress_outsider NOSUPERUSER;
SET tenancy.tenant_id = 'beta';                                -- SHOULD FAIL
RESET ROLE;
RESET tenancy.tenant_id;
GRANT SET ON PARAMETER tenancy.tenant_id TO pg_database_owner;
SELECT format('ALTER DATABASE %I OWNER TO regress_outsider', current_database()) AS give,
       format('ALTER DATABASE %I OWNER TO %I', current_database(), current_user) AS take
\gset
:give;
SET ROLE regress_outsider;
SET tenancy.tenant_id = 'acme';
RESET ROLE;
:take;
SET ROLE regress_outsider;
SET tenancy.tenant_id = 'beta';                                -- SHOULD FAIL
RESET ROLE;
RESET tenancy.tenant_id;
REVOKE SET ON PARAMETER tenancy.tenant_id FROM pg_database_owner;
GRANT SET ON PARAMETER tenancy.tenant_id TO PUBLIC;
SET ROLE regress_outsider;
SET tenancy.tenant_id = 'acme';
RESET ROLE;
REVOKE SET ON PARAMETER tenancy.tenant_id FROM PUBLIC;
SET ROLE regress_outsider;
SET tenancy.tenant_id = 'beta';                                -- SHOULD FAIL
RESET ROLE;
RESET tenancy.tenant_id;
CREATE ROLE regress_gone;
GRANT SET ON PARAMETER tenancy.tenant_id TO regress_gone;
SELECT pg_temp.enter('regress_gone');
DROP OWNED BY regress_gone;
DROP ROLE regress_gone;
CREATE ROLE regress_gone;
SELECT pg_temp.enter('regress_gone');                          -- SHOULD FAIL
DROP ROLE regress_gone;

-- What is no plain SET is as PostgreSQL has it, and what is has its errors and warnings.
SET ROLE regress_app;
SET LOCAL tenancy.tenant_id = 'acme';
SET "tenancy.tenant_id" = 'acme';
SET Tenancy.Tenant_ID TO beta;
SHOW tenancy.tenant_id;
SET tenancy.tenant_id = acme, beta;                            -- SHOULD FAIL
SET tenancy.tenant_id = 12;
SHOW tenancy.tenant_id;
SET tenancy.tenant_id = 'a b';                                 -- SHOULD FAIL
SET tenancy.tenant_id = DEFAULT;
SHOW tenancy.tenant_id;
SET tenancy.tenant_id = 'acme';
RESET tenancy.tenant_id;
SHOW tenancy.tenant_id;
BEGIN READ ONLY;
SET LOCAL tenancy.tenant_id = 'acme';
SAVEPOINT s;
SET LOCAL tenancy.tenant_id = 'beta';
ROLLBACK TO s;
SHOW tenancy.tenant_id;
COMMIT;
SHOW tenancy.tenant_id;
SELECT context, source FROM pg_settings WHERE name = 'tenancy.tenant_id';
RESET ROLE;
REVOKE USAGE ON SCHEMA public FROM regress_outsider;
