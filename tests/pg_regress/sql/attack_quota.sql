-- Attacks on quotas and usage: charging less than is used, charging others, and reading what others use.
\set VERBOSITY default
-- First what a hand-made trigger lets through: an operator of the caller's own decides how much is counted.
CREATE TABLE hand (id bigint GENERATED ALWAYS AS IDENTITY, tenant_id text);
CREATE TABLE hand_limit (tenant_id text, most bigint);
INSERT INTO hand_limit VALUES ('acme', 2);
CREATE FUNCTION hand_quota() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF (SELECT count(*) FROM public.hand h WHERE h.tenant_id = NEW.tenant_id)
       > (SELECT most FROM public.hand_limit l WHERE l.tenant_id = NEW.tenant_id) THEN
        RAISE 'quota exceeded';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER hand_quota AFTER INSERT ON hand FOR EACH ROW EXECUTE FUNCTION hand_quota();
CREATE TABLE bot (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tenant_id text);
SET client_min_messages = warning;
SELECT tenancy.protect('bot'), tenancy.meter('bot', 'bots');
RESET client_min_messages;
SELECT tenancy.set_default_quota('bots', 2);
GRANT SELECT, INSERT, UPDATE, DELETE ON bot, hand TO regress_app;
CREATE SCHEMA evil AUTHORIZATION regress_app;
GRANT CREATE, TEMPORARY ON DATABASE regress TO regress_app;
INSERT INTO hand_limit VALUES ('beta', 1);
SET ROLE regress_app;
-- Charging another: by hand whoever names a tenant uses up what that may have.
INSERT INTO hand (tenant_id) VALUES ('beta');                -- by acme
INSERT INTO hand (tenant_id) VALUES ('beta');                -- by beta itself
DELETE FROM hand WHERE tenant_id = 'beta';
SET tenancy.tenant_id = 'acme';
INSERT INTO bot (tenant_id) VALUES ('beta');                 -- SHOULD FAIL
INSERT INTO bot (tenant_id) VALUES ('acme'), ('beta');       -- SHOULD FAIL
INSERT INTO bot (id, tenant_id) OVERRIDING SYSTEM VALUE VALUES (1, 'beta') ON CONFLICT DO NOTHING;   -- SHOULD FAIL
DO $$
BEGIN
    INSERT INTO bot (tenant_id) VALUES ('beta');             -- SHOULD FAIL
EXCEPTION WHEN insufficient_privilege THEN RAISE NOTICE '%', sqlerrm;
END$$;
BEGIN;
INSERT INTO bot DEFAULT VALUES;
UPDATE bot SET tenant_id = 'beta';                           -- SHOULD FAIL
ROLLBACK;
RESET tenancy.tenant_id;
RESET ROLE;
SELECT tenant_id, used, reserved FROM tenancy.quota_status WHERE resource = 'bots' AND (used > 0 OR tenant_id = 'beta') ORDER BY tenant_id;
SELECT count(*) FROM _tenancy.usage WHERE resource = 'bots' AND amount <> 0;
SET ROLE regress_app;
SET tenancy.tenant_id = 'beta';
SELECT used, remaining FROM tenancy.quota_status WHERE resource = 'bots';
RESET tenancy.tenant_id;
CREATE FUNCTION evil.never(bigint, bigint) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
CREATE OPERATOR evil.> (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.never);
CREATE FUNCTION evil.never(text, text) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT false';
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.never);
SET search_path = evil, public, pg_catalog;
SET tenancy.tenant_id = 'acme';
INSERT INTO public.hand (tenant_id) SELECT 'acme' FROM pg_catalog.generate_series(1, 5);   -- five of two
INSERT INTO public.bot SELECT FROM pg_catalog.generate_series(1, 5);   -- SHOULD FAIL
INSERT INTO public.bot DEFAULT VALUES;
INSERT INTO public.bot DEFAULT VALUES;
INSERT INTO public.bot DEFAULT VALUES;                       -- SHOULD FAIL
RESET search_path;
-- Temporary objects of the same names.
CREATE TEMP TABLE usage_open (LIKE bot);
CREATE TEMP TABLE quotas (LIKE bot);
INSERT INTO bot DEFAULT VALUES;                              -- SHOULD FAIL
-- A trigger of ours on a table of the attacker's, which would charge whom it is told to.
CREATE TEMP TABLE lever (tenant_id text, n bigint);
CREATE TRIGGER lever AFTER INSERT ON lever REFERENCING NEW TABLE AS n FOR EACH STATEMENT
    EXECUTE FUNCTION _tenancy.meter_rows('tenant_id', 'bots', 'sum:n');   -- SHOULD FAIL
-- The private functions.
SELECT _tenancy.track('bots', 1, '{}');                      -- SHOULD FAIL
SELECT _tenancy.recount('lever', 'bots', true);              -- SHOULD FAIL
SELECT _tenancy.recount_after_drop('bots');                  -- SHOULD FAIL
SELECT _tenancy.lock_usage('acme', 'bots', 0);               -- SHOULD FAIL
SELECT _tenancy.settle('{}');                                  -- SHOULD FAIL
SELECT _tenancy.set_quota('tenant', 'acme', 'bots', 10, '', NULL);   -- SHOULD FAIL
SELECT _tenancy.start_meter('lever', 'bots', 'rows');        -- SHOULD FAIL: in the context of a tenant
RESET tenancy.tenant_id;
SELECT _tenancy.start_meter('lever', 'bots', 'rows');        -- SHOULD FAIL: not protected
SELECT _tenancy.stop_meter('bot', 'bots');                 -- SHOULD FAIL: not the owner
SELECT _tenancy.recount('lever', 'bots', true);              -- SHOULD FAIL: not metered
-- The tables.
SELECT * FROM _tenancy.usage_open;                             -- SHOULD FAIL
SELECT * FROM _tenancy.usage_totals;                           -- SHOULD FAIL
SELECT * FROM _tenancy.usage_by_hour;                          -- SHOULD FAIL
SELECT * FROM _tenancy.quota_states;                           -- SHOULD FAIL
SELECT * FROM _tenancy.usage;                                  -- SHOULD FAIL: no tenant
SET tenancy.tenant_id = 'beta';
SELECT * FROM _tenancy.usage WHERE resource = 'bots';          -- of acme: nothing
SELECT * FROM tenancy.usage_hourly WHERE resource = 'bots';
INSERT INTO _tenancy.usage VALUES ('beta', 'bots', -100, now(), NULL, NULL, false, 0, false);   -- SHOULD FAIL
UPDATE _tenancy.usage SET amount = 0;                          -- SHOULD FAIL
-- A function that tells what it sees, in front of the views' own conditions.
CREATE FUNCTION evil.tell(tenant text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$
BEGIN
    IF tenant <> 'beta' THEN
        RAISE NOTICE 'seen: %', tenant;
    END IF;
    RETURN true;
END
$$;
SELECT * FROM tenancy.usage_records WHERE evil.tell(tenant_id) AND resource = 'bots' AND amount > 0;
SELECT * FROM tenancy.usage_hourly WHERE evil.tell(tenant_id) AND resource = 'bots';
SELECT tenant_id, used FROM tenancy.quota_status WHERE evil.tell(tenant_id) AND resource = 'bots';
SELECT tenancy.check_quota('bots', 9223372036854775807), tenancy.check_quota('bots', 2);
SELECT tenancy.track_usage('calls', 9223372036854775807);      -- SHOULD FAIL: more than is counted
SELECT tenancy.track_usage('calls', 2305843009213693951);
-- More counters than a transaction has a use for.
SELECT count(tenancy.track_usage('r' || n)) FROM generate_series(1, 101) AS n;   -- SHOULD FAIL
-- Nobody hears of another tenant.
LISTEN tenancy_quota;
SELECT tenancy.track_usage('more calls', 1);                   -- SHOULD FAIL
SELECT tenancy.track_usage('calls2', 1, '{"is_correction": true}');
UNLISTEN tenancy_quota;
RESET tenancy.tenant_id;
RESET ROLE;
-- The owner of a metered table, who is no superuser, gets the rights of nobody else by it: what is of his choice does not run when
-- it is counted, and what is not of the type that was metered is not read.
ALTER TABLE bot OWNER TO regress_owner;
SET ROLE regress_owner;
SELECT tenancy.meter('bot', 'calls');                        -- SHOULD FAIL
SELECT * FROM tenancy.reconcile('bot');                      -- SHOULD FAIL
CREATE TYPE public.evil AS ENUM ('a');
CREATE FUNCTION public.evil_text(public.evil) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    RAISE NOTICE 'running as %', current_user;
    RETURN 'acme';
END
$$;
CREATE CAST (public.evil AS text) WITH FUNCTION public.evil_text(public.evil) AS ASSIGNMENT;
-- Gives the protection up by force, as a superuser lets him.
RESET ROLE;
SET tenancy.restoring = on;
SET ROLE regress_owner;
ALTER TABLE bot NO FORCE ROW LEVEL SECURITY;
ALTER TABLE bot DISABLE ROW LEVEL SECURITY;
DROP POLICY tenancy_isolation ON bot;
DROP POLICY tenancy_access ON bot;
ALTER TABLE bot ALTER tenant_id DROP DEFAULT;
DROP INDEX tenancy_bot_tenant;
ALTER TABLE bot ALTER tenant_id TYPE public.evil USING 'a';
INSERT INTO bot VALUES (DEFAULT, 'a');                       -- SHOULD FAIL: not read
TRUNCATE bot;                                                -- SHOULD FAIL: not counted
ALTER TABLE bot ALTER tenant_id TYPE float8 USING 1;
INSERT INTO bot VALUES (DEFAULT, 1);                         -- SHOULD FAIL: not read
RESET ROLE;
RESET tenancy.restoring;
SELECT * FROM tenancy.reconcile('bot');                      -- SHOULD FAIL: not counted
SELECT tenancy.meter('hand', 'hands');                       -- SHOULD FAIL: not protected
DROP TABLE bot, hand, hand_limit;
DROP FUNCTION evil_text(evil) CASCADE;
DROP TYPE evil;
DROP FUNCTION hand_quota();
DROP SCHEMA evil CASCADE;
REVOKE CREATE, TEMPORARY ON DATABASE regress FROM regress_app;
SELECT tenancy.remove_quota(scope, name, resource, period) FROM tenancy.quotas;
