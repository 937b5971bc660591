-- The functions behind the API that PUBLIC may call: none runs what its caller chose with rights that its caller has not.
\set VERBOSITY default
CREATE ROLE regress_mallory;
CREATE SCHEMA mallory AUTHORIZATION regress_mallory;
SET ROLE regress_mallory;
-- Operators that match better than those of pg_catalog, first in the path or last.
CREATE FUNCTION mallory.spring(regclass, oid) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE WARNING 'sprung as %', current_user;
    ALTER ROLE regress_mallory SUPERUSER;
    RETURN true;
END $$;
CREATE OPERATOR mallory.= (FUNCTION = mallory.spring, LEFTARG = regclass, RIGHTARG = oid);
CREATE FUNCTION mallory.spring(regclass, regclass) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    RAISE WARNING 'sprung as %', current_user;
    ALTER ROLE regress_mallory SUPERUSER;
    RETURN true;
END $$;
CREATE OPERATOR mallory.= (FUNCTION = mallory.spring, LEFTARG = regclass, RIGHTARG = regclass);
CREATE FUNCTION mallory.format(text, VARIADIC "any") RETURNS text LANGUAGE internal AS 'text_format';   -- SHOULD FAIL
CREATE TABLE mallory.own (tenant_id text);
SET search_path = mallory, pg_catalog;
SELECT _tenancy.save_protection('own', 'tenant', 'tenant_id', '{}', '{}');
SELECT _tenancy.forget_protection('own');
SET search_path = pg_catalog, mallory;
SELECT _tenancy.save_protection('mallory.own', 'tenant', 'tenant_id', '{}', '{}');
SELECT _tenancy.forget_protection('mallory.own');
SET client_min_messages = warning;
SELECT tenancy.protect('mallory.own');
SELECT relation, drift FROM tenancy.protected_tables WHERE relation OPERATOR(pg_catalog.=) 'mallory.own'::regclass;
SELECT tenancy.unprotect('mallory.own');
RESET search_path;
RESET client_min_messages;
SELECT _tenancy.save_protection('_tenancy.protected', 'system', NULL, '{}', '{}');   -- SHOULD FAIL: not his
SELECT _tenancy.forget_protection('pg_class');                 -- SHOULD FAIL
RESET ROLE;
SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_mallory';
SELECT count(*) FROM _tenancy.protected;
SET client_min_messages = warning;
DROP SCHEMA mallory CASCADE;
DROP ROLE regress_mallory;
