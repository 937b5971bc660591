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
\set options '{"reference": false, "create_index": true, "access_policy": null}'
\set undo '{"row_security": false, "forced": false, "not_null": false, "own_not_null": false, "default": false, "reference": false, "access": true, "index": null, "own_index": null, "revoked": []}'
SELECT _tenancy.save_protection('own', 'tenant', 'tenant_id', :'options', :'undo');
SELECT _tenancy.forget_protection('own');
SET search_path = pg_catalog, mallory;
SELECT _tenancy.save_protection('mallory.own', 'tenant', 'tenant_id', :'options', :'undo');
SELECT _tenancy.forget_protection('mallory.own');
SET client_min_messages = warning;
SELECT tenancy.protect('mallory.own');
SELECT relation, drift FROM tenancy.protected_tables WHERE relation OPERATOR(pg_catalog.=) 'mallory.own'::regclass;
SELECT tenancy.unprotect('mallory.own');
RESET search_path;
RESET client_min_messages;
SELECT _tenancy.save_protection('_tenancy.protected', 'system', NULL, :'options', :'undo');   -- SHOULD FAIL: not his
SELECT _tenancy.forget_protection('pg_class');                 -- SHOULD FAIL
RESET ROLE;
SELECT rolsuper FROM pg_roles WHERE rolname = 'regress_mallory';
SELECT count(*) FROM _tenancy.protected;
SET client_min_messages = warning;
DROP SCHEMA mallory CASCADE;
DROP ROLE regress_mallory;

-- What the owner of a table saves by hand turns a superuser's unprotect against nobody else's index.
CREATE ROLE regress_mallory;
CREATE SCHEMA shared_place;
GRANT CREATE, USAGE ON SCHEMA shared_place TO regress_mallory;
CREATE TABLE shared_place.victim (email text CONSTRAINT victim_email UNIQUE);
CREATE INDEX victim_index ON shared_place.victim (email);
SET ROLE regress_mallory;
CREATE TABLE shared_place.trap (tenant_id text);
SELECT tenancy.protect('shared_place.trap');
RESET ROLE;
UPDATE _tenancy.protected SET undo = undo || '{"index": "victim_index"}' WHERE relation = 'shared_place.trap'::regclass;
SELECT tenancy.unprotect('shared_place.trap');
SELECT to_regclass('shared_place.victim_index');
-- Nonsense is not saved, so the view that shows drift stays readable; nothing is saved for what dies with a session.
SET ROLE regress_mallory;
\set VERBOSITY terse
SELECT _tenancy.save_protection('shared_place.trap', 'tenant', 'tenant_id', '{"create_index": "boom"}', '{}');   -- SHOULD FAIL
SELECT _tenancy.save_protection('shared_place.trap', 'tenant', 'tenant_id', '["reference", "create_index", "access_policy"]', :'undo');   -- SHOULD FAIL: the names alone
SELECT _tenancy.save_protection('shared_place.trap', 'tenant', 'tenant_id', :'options',
    '["row_security", "forced", "not_null", "own_not_null", "default", "reference", "access", "index", "own_index", "revoked"]');   -- SHOULD FAIL: the names alone
SELECT _tenancy.save_protection('shared_place.trap', 'tenant', 'tenant_id', :'options', jsonb_set(:'undo', '{revoked}', '["GRANT"]'));   -- SHOULD FAIL
SELECT _tenancy.save_protection('shared_place.trap', 'tenant', 'tenant_id',
    '{"create_index": true, "reference": false, "access_policy": null}', '{"index": 7}');   -- SHOULD FAIL
\set VERBOSITY default
CREATE TEMP TABLE passing (tenant_id text);
SELECT _tenancy.save_protection('passing', 'tenant', 'tenant_id', '{}', '{}');   -- SHOULD FAIL
SELECT tenancy.protect('passing');                             -- SHOULD FAIL
RESET ROLE;
SET tenancy.tenant_id = 'acme';
SET ROLE regress_mallory;
SELECT _tenancy.forget_protection('shared_place.trap');        -- SHOULD FAIL
RESET ROLE;
RESET tenancy.tenant_id;
SELECT count(*) FROM tenancy.protected_tables;
DROP TABLE passing;
DROP SCHEMA shared_place CASCADE;
DROP ROLE regress_mallory;

-- Operators that wait in a schema of the installer's path are not taken into the extension.
CREATE DATABASE regress_install;
\c regress_install
-- A role that may create in the database makes extensions that are trusted, and so not this one, whose code is the server's.
GRANT CREATE ON DATABASE regress_install TO regress_outsider;
SET ROLE regress_outsider;
CREATE EXTENSION btree_gist;
DROP EXTENSION btree_gist;
CREATE EXTENSION tenancy;                                      -- SHOULD FAIL
CREATE EXTENSION tenancy SCHEMA public;                        -- SHOULD FAIL
RESET ROLE;
CREATE EXTENSION tenancy SCHEMA public;                        -- SHOULD FAIL: a superuser does not choose where either
REVOKE CREATE ON DATABASE regress_install FROM regress_outsider;
SELECT extname FROM pg_extension WHERE extname <> 'plpgsql';
-- A schema of the extension's name, made by somebody who waits for it: taken over by nobody.
\set SHOW_CONTEXT never
CREATE SCHEMA tenancy AUTHORIZATION regress_outsider;
CREATE EXTENSION tenancy;                                      -- SHOULD FAIL
DROP SCHEMA tenancy;
CREATE SCHEMA _tenancy AUTHORIZATION regress_outsider;
CREATE EXTENSION tenancy;                                      -- SHOULD FAIL
SELECT nspname FROM pg_namespace WHERE nspname LIKE '%tenancy';
DROP SCHEMA _tenancy;
CREATE FUNCTION public.spring(oid, regclass) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN RAISE WARNING ''sprung as %'', current_user; RETURN $1::bigint = $2::oid::bigint; END';
CREATE OPERATOR public.= (FUNCTION = public.spring, LEFTARG = oid, RIGHTARG = regclass);
CREATE FUNCTION public.spring(numeric, bigint) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN RAISE WARNING ''sprung as %'', current_user; RETURN true; END';
CREATE OPERATOR public.<= (FUNCTION = public.spring, LEFTARG = numeric, RIGHTARG = bigint);
SET client_min_messages = warning;
CREATE EXTENSION tenancy;
SELECT tenancy.create_tenant('12');
CREATE TABLE t (tenant_id text);
SELECT tenancy.protect('t');
SELECT relation, drift FROM tenancy.protected_tables;
SELECT count(*) AS captured FROM pg_depend d
WHERE d.refobjid IN ('public.spring(oid, regclass)'::regprocedure, 'public.spring(numeric, bigint)'::regprocedure)
  AND d.classid <> 'pg_operator'::regclass;

-- Without the extension, a protected table shows nothing to those under policies; it does not open.
INSERT INTO t VALUES ('12');
GRANT SELECT ON t TO regress_app;
DROP EXTENSION tenancy CASCADE;
SELECT polname FROM pg_policy;
SET ROLE regress_app;
SELECT count(*) FROM t;
RESET ROLE;
\c regress
DROP DATABASE regress_install;
