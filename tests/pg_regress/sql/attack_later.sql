-- What is open because it came later, or because somebody was granted too much: partitions, children and new tables that default
-- privileges hand to the application, its own triggers and foreign keys, TRUNCATE, a table for everybody. By a role that may be acme
-- and wants beta's rows. The hand-made policy first: all of it works there.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE SCHEMA hands;
CREATE SCHEMA ours;
GRANT USAGE, CREATE ON SCHEMA hands, ours TO regress_app, regress_owner;
ALTER DEFAULT PRIVILEGES FOR ROLE regress_owner IN SCHEMA hands GRANT ALL ON TABLES TO regress_app;
ALTER DEFAULT PRIVILEGES FOR ROLE regress_owner IN SCHEMA ours GRANT ALL ON TABLES TO regress_app;
SELECT tenancy.protect_schema('ours');
SET ROLE regress_owner;
CREATE TABLE hands.event (id integer, tenant_id text NOT NULL, body text) PARTITION BY RANGE (id);
CREATE TABLE hands.base (id integer, tenant_id text NOT NULL, body text);
CREATE TABLE hands.doc (id integer PRIMARY KEY, tenant_id text NOT NULL DEFAULT current_setting('app.tenant_id'), body text);
CREATE TABLE ours.event (id integer, tenant_id text NOT NULL, body text) PARTITION BY RANGE (id);
CREATE TABLE ours.base (id integer, tenant_id text NOT NULL, body text);
CREATE TABLE ours.doc (id integer PRIMARY KEY, tenant_id text NOT NULL, body text);
DO $$
DECLARE t regclass;
BEGIN
    FOREACH t IN ARRAY '{hands.event,hands.base,hands.doc}'::regclass[] LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', t);
        EXECUTE format('CREATE POLICY isolation ON %s USING (tenant_id = current_setting(''app.tenant_id''))', t);
    END LOOP;
END$$;
-- Later: a partition, an attached one, a child, a table that becomes one, a table of its own, one made of a query.
CREATE TABLE hands.event_new PARTITION OF hands.event FOR VALUES FROM (0) TO (10);
CREATE TABLE hands.event_attached (LIKE hands.event);
ALTER TABLE hands.event ATTACH PARTITION hands.event_attached FOR VALUES FROM (10) TO (20);
CREATE TABLE hands.child () INHERITS (hands.base);
CREATE TABLE hands.adopted (LIKE hands.base);
ALTER TABLE hands.adopted INHERIT hands.base;
CREATE TABLE hands.note (id integer, tenant_id text, body text);
CREATE TABLE hands.made AS SELECT 0 AS id, 'acme'::text AS tenant_id, 'of acme'::text AS body;
CREATE TABLE ours.event_new PARTITION OF ours.event FOR VALUES FROM (0) TO (10);
CREATE TABLE ours.event_attached (LIKE ours.event);
ALTER TABLE ours.event ATTACH PARTITION ours.event_attached FOR VALUES FROM (10) TO (20);
CREATE TABLE ours.child () INHERITS (ours.base);
CREATE TABLE ours.adopted (LIKE ours.base);
ALTER TABLE ours.adopted INHERIT ours.base;
CREATE TABLE ours.note (id integer, tenant_id text, body text);
CREATE TABLE ours.made AS SELECT 0 AS id, 'acme'::text AS tenant_id, 'of acme'::text AS body;
-- Where only the parent is protected, and the schema is not: the same.
RESET ROLE;
CREATE SCHEMA parents;
GRANT USAGE, CREATE ON SCHEMA parents TO regress_app, regress_owner;
ALTER DEFAULT PRIVILEGES FOR ROLE regress_owner IN SCHEMA parents GRANT ALL ON TABLES TO regress_app;
SET ROLE regress_owner;
CREATE TABLE parents.event (id integer, tenant_id text NOT NULL, body text) PARTITION BY RANGE (id);
CREATE TABLE parents.base (id integer, tenant_id text NOT NULL, body text);
SELECT tenancy.protect('parents.event'), tenancy.protect('parents.base');
CREATE TABLE parents.event_new PARTITION OF parents.event FOR VALUES FROM (0) TO (10);
CREATE TABLE parents.event_attached (LIKE parents.event);
ALTER TABLE parents.event ATTACH PARTITION parents.event_attached FOR VALUES FROM (10) TO (20);
CREATE TABLE parents.child () INHERITS (parents.base);
CREATE TABLE parents.adopted (LIKE parents.base);
ALTER TABLE parents.adopted INHERIT parents.base;
RESET ROLE;
DO $$
DECLARE t regclass;
BEGIN
    FOR t IN SELECT oid FROM pg_class WHERE relnamespace IN ('hands'::regnamespace, 'ours'::regnamespace, 'parents'::regnamespace) AND relkind = 'r' LOOP
        EXECUTE format('INSERT INTO %s VALUES (%s, ''acme'', ''of acme''), (%2$s + 1, ''beta'', ''of beta'')', t, CASE WHEN t::text LIKE '%attached' THEN 11 ELSE 1 END);
    END LOOP;
END$$;
-- So that the application can address each of them.
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA hands, ours, parents TO regress_app;
RESET client_min_messages;

-- Each addressed by itself.
CREATE FUNCTION pg_temp.seen(schema text) RETURNS TABLE (relation regclass, of_beta bigint, changed bigint) LANGUAGE plpgsql AS $$
BEGIN
    FOR relation IN SELECT c.oid FROM pg_class c WHERE c.relnamespace = schema::regnamespace AND c.relkind IN ('r', 'p') ORDER BY c.relname LOOP
        EXECUTE format('SELECT count(*) FROM %s WHERE tenant_id = ''beta''', relation) INTO of_beta;
        EXECUTE format('UPDATE %s SET body = ''stolen'' WHERE body = ''of beta''', relation);
        GET DIAGNOSTICS changed = ROW_COUNT;
        RETURN NEXT;
    END LOOP;
END$$;
SET ROLE regress_app;
SET app.tenant_id = 'acme';
SET tenancy.tenant_id = 'acme';
BEGIN; SELECT * FROM pg_temp.seen('hands'); ROLLBACK;
BEGIN; SELECT * FROM pg_temp.seen('ours'); ROLLBACK;
BEGIN; SELECT * FROM pg_temp.seen('parents'); ROLLBACK;
BEGIN; INSERT INTO hands.event_new VALUES (3, 'beta', 'planted'); SELECT body FROM hands.event_new WHERE id = 3; ROLLBACK;
INSERT INTO ours.event_new VALUES (3, 'beta', 'planted');      -- SHOULD FAIL
INSERT INTO ours.event_attached VALUES (13, 'beta', 'planted');   -- SHOULD FAIL
INSERT INTO ours.child VALUES (3, 'beta', 'planted');          -- SHOULD FAIL
INSERT INTO ours.adopted VALUES (3, 'beta', 'planted');        -- SHOULD FAIL
INSERT INTO ours.note VALUES (3, 'beta', 'planted');           -- SHOULD FAIL
INSERT INTO parents.event_new VALUES (3, 'beta', 'planted');   -- SHOULD FAIL
INSERT INTO parents.child VALUES (3, 'beta', 'planted');       -- SHOULD FAIL
COPY hands.event_new TO STDOUT;
COPY parents.event_new TO STDOUT;
COPY ours.note TO STDOUT;

-- TRUNCATE, which no policy is asked about.
BEGIN; TRUNCATE hands.event; SET LOCAL app.tenant_id = 'beta'; SELECT count(*) FROM hands.event; ROLLBACK;
BEGIN; TRUNCATE hands.event_new; SET LOCAL app.tenant_id = 'beta'; SELECT count(*) FROM hands.event; ROLLBACK;
TRUNCATE ours.event;                                           -- SHOULD FAIL
TRUNCATE ours.event_new;                                       -- SHOULD FAIL
TRUNCATE ours.event_attached;                                  -- SHOULD FAIL
TRUNCATE ours.child;                                           -- SHOULD FAIL
TRUNCATE ours.note;                                            -- SHOULD FAIL
TRUNCATE parents.event_attached;                               -- SHOULD FAIL
TRUNCATE parents.adopted;                                      -- SHOULD FAIL
-- A trigger of the attacker's that runs in the sessions of others.
CREATE TABLE hands.loot (body text);
CREATE FUNCTION hands.steal() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO hands.loot VALUES (NEW.body); RETURN NEW; END$$;
CREATE TRIGGER steal AFTER INSERT ON hands.doc FOR EACH ROW EXECUTE FUNCTION hands.steal();
CREATE TRIGGER steal AFTER INSERT ON ours.doc FOR EACH ROW EXECUTE FUNCTION hands.steal();   -- SHOULD FAIL
CREATE TRIGGER steal AFTER INSERT ON ours.note FOR EACH ROW EXECUTE FUNCTION hands.steal();   -- SHOULD FAIL
CREATE TRIGGER steal AFTER INSERT ON ours.event_new FOR EACH ROW EXECUTE FUNCTION hands.steal();   -- SHOULD FAIL
CREATE TRIGGER steal AFTER INSERT ON parents.child FOR EACH ROW EXECUTE FUNCTION hands.steal();   -- SHOULD FAIL
CREATE RULE steal AS ON INSERT TO ours.doc DO ALSO INSERT INTO hands.loot VALUES (NEW.body);   -- SHOULD FAIL
SET app.tenant_id = 'beta';
SET tenancy.tenant_id = 'beta';
INSERT INTO hands.doc (id, body) VALUES (7, 'by hand');
INSERT INTO ours.doc (id, body) VALUES (7, 'ours');
SET app.tenant_id = 'acme';
SET tenancy.tenant_id = 'acme';
TABLE hands.loot;
-- A foreign key of the attacker's asks about rows of others, and keeps them from being deleted.
CREATE TABLE hands.probe (id integer REFERENCES hands.doc (id));
INSERT INTO hands.probe VALUES (2);                            -- beta has it
INSERT INTO hands.probe VALUES (3);                            -- nobody has
SET app.tenant_id = 'beta';
DELETE FROM hands.doc WHERE id = 2;
SET app.tenant_id = 'acme';
CREATE TABLE ours.probe (id integer REFERENCES ours.doc (id));   -- SHOULD FAIL
CREATE TABLE ours.probe (id integer, tenant_id text NOT NULL, FOREIGN KEY (id) REFERENCES ours.doc (id));   -- SHOULD FAIL
CREATE TABLE hands.probe_ours (id integer);
ALTER TABLE hands.probe_ours ADD FOREIGN KEY (id) REFERENCES ours.doc (id);   -- SHOULD FAIL
RESET tenancy.tenant_id;
RESET ROLE;
SELECT c.oid::regclass AS relation, p.privilege FROM pg_class c, unnest('{TRUNCATE,TRIGGER,REFERENCES}'::text[]) AS p(privilege)
WHERE c.relnamespace IN ('ours'::regnamespace, 'parents'::regnamespace) AND c.relkind IN ('r', 'p') AND has_table_privilege('regress_app', c.oid, p.privilege);

-- A table for everybody, whose rows each tenant can change for the others.
CREATE TABLE hands.rate (code text, rate numeric);
CREATE TABLE ours.rate (code text, rate numeric);
INSERT INTO hands.rate VALUES ('EUR', 1);
INSERT INTO ours.rate VALUES ('EUR', 1);
GRANT ALL ON hands.rate, ours.rate TO regress_app;
SET client_min_messages = warning;
SELECT tenancy.protect('ours.rate', 'system');
RESET client_min_messages;
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
UPDATE hands.rate SET rate = 0 RETURNING *;
UPDATE ours.rate SET rate = 0;                                 -- SHOULD FAIL
INSERT INTO ours.rate VALUES ('USD', 1);                       -- SHOULD FAIL
DELETE FROM ours.rate;                                         -- SHOULD FAIL
TRUNCATE ours.rate;                                            -- SHOULD FAIL
MERGE INTO ours.rate r USING (VALUES ('EUR')) v(code) ON r.code = v.code WHEN MATCHED THEN UPDATE SET rate = 0;   -- SHOULD FAIL
-- Granted again, it is refused still.
RESET ROLE;
RESET tenancy.tenant_id;
GRANT INSERT, UPDATE, DELETE, TRUNCATE ON ours.rate TO regress_app;
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
UPDATE ours.rate SET rate = 0;                                 -- SHOULD FAIL
INSERT INTO ours.rate VALUES ('USD', 1);                       -- SHOULD FAIL
DELETE FROM ours.rate;                                         -- SHOULD FAIL
TRUNCATE ours.rate;                                            -- SHOULD FAIL
TABLE ours.rate;
-- A trigger of a tenant's on it would run as whoever changes the table, an administrator.
CREATE FUNCTION hands.who() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE NOTICE 'running as %', current_user; RETURN NEW; END$$;
CREATE TRIGGER spring BEFORE INSERT ON hands.rate FOR EACH ROW EXECUTE FUNCTION hands.who();
CREATE TRIGGER spring BEFORE INSERT ON ours.rate FOR EACH ROW EXECUTE FUNCTION hands.who();   -- SHOULD FAIL
RESET tenancy.tenant_id;
RESET ROLE;
INSERT INTO hands.rate VALUES ('USD', 1);
INSERT INTO ours.rate VALUES ('USD', 1);
GRANT TRIGGER ON ours.rate TO regress_app;
SELECT drift FROM tenancy.protected_tables WHERE relation = 'ours.rate'::regclass;
SELECT severity, object, problem FROM tenancy.lint() WHERE rule = 'unsafe_grant' AND key LIKE '%ours.rate%';
SELECT tenancy.protect('ours.rate', 'system');
SELECT drift FROM tenancy.protected_tables WHERE relation = 'ours.rate'::regclass;

-- TRUNCATE that is granted again: a finding of lint, and refused in the context of a tenant.
GRANT TRUNCATE ON ours.doc TO regress_app;
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
TRUNCATE ours.doc;                                             -- SHOULD FAIL
RESET tenancy.tenant_id;
RESET ROLE;
SELECT severity, object, problem FROM tenancy.lint() WHERE rule = 'unsafe_grant' AND key LIKE '%ours.doc%';
RESET app.tenant_id;
SET client_min_messages = warning;
SELECT tenancy.unprotect_schema('ours');
ALTER DEFAULT PRIVILEGES FOR ROLE regress_owner IN SCHEMA hands REVOKE ALL ON TABLES FROM regress_app;
ALTER DEFAULT PRIVILEGES FOR ROLE regress_owner IN SCHEMA ours REVOKE ALL ON TABLES FROM regress_app;
ALTER DEFAULT PRIVILEGES FOR ROLE regress_owner IN SCHEMA parents REVOKE ALL ON TABLES FROM regress_app;
DROP SCHEMA hands, ours, parents CASCADE;
