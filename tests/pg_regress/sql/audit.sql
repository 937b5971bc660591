-- The audit trail: what changes rows of audited tables is in it, with who did it, and nobody changes it without being found out.
\set SHOW_CONTEXT never
SET timezone = 'UTC';
-- What has come to the trail since it was last asked for, without what differs from run to run.
CREATE FUNCTION entries() RETURNS TABLE (tenant text, op text, relation text, key jsonb, old jsonb, new jsonb, role text, actor text) LANGUAGE plpgsql AS $$
DECLARE
    since timestamptz := nullif(current_setting('regress.since', true), '');
    hidden text[] := '{created_at,status_changed_at,changed_at,protected_at,audited_at,invited_until,undo,options}';
BEGIN
    RETURN QUERY SELECT a.tenant_id, a.operation, replace(a.relation, 'public.', ''), a.key, a.old - hidden, a.new - hidden, a.role, a.actor
                 FROM tenancy.audit_log a WHERE since IS NULL OR a.recorded_at > since
                 ORDER BY a.recorded_at, a.tenant_id, a.operation = 'REFUSED', a.number;
    PERFORM set_config('regress.since', statement_timestamp()::text, false);
END
$$;
-- What verify_audit says of all tenants, without numbers of segments.
CREATE VIEW problems AS
    SELECT t.id AS tenant, v.number, regexp_replace(v.problem, '\d{6,}', '...') AS problem
    FROM (SELECT id FROM _tenancy.tenants UNION ALL SELECT NULL) AS t(id), tenancy.verify_audit(t.id) AS v ORDER BY 1, 2, 3;
SELECT count(*) > 0 AS something FROM entries();
TABLE problems;

CREATE TABLE item (id int PRIMARY KEY, tenant_id text, name text UNIQUE, amount numeric, note text, secret text, twice numeric GENERATED ALWAYS AS (amount * 2) STORED);
ALTER TABLE item OWNER TO regress_owner;
INSERT INTO item VALUES (1, 'acme', 'a', 1), (2, 'beta', 'b', 2);
-- What cannot be.
SELECT tenancy.audit('item');                                  -- SHOULD FAIL: not protected
SET client_min_messages = warning;
SELECT tenancy.protect('item');
RESET client_min_messages;
SELECT tenancy.audit(NULL);                                    -- SHOULD FAIL
SELECT tenancy.audit('item', NULL);                            -- SHOULD FAIL
SELECT tenancy.audit('item', '{nothing}');                     -- SHOULD FAIL
SELECT tenancy.audit('item', '{}', '{nothing}');               -- SHOULD FAIL
SELECT tenancy.audit('item', '{xmin}');                        -- SHOULD FAIL
SELECT tenancy.audit('problems');                              -- SHOULD FAIL: a view
SELECT tenancy.audit('pg_class');                              -- SHOULD FAIL
SELECT tenancy.audit('_tenancy.tenants');                      -- SHOULD FAIL
SELECT tenancy.unaudit('item');                                -- SHOULD FAIL: it is not
SELECT tenancy.unaudit(NULL);                                  -- SHOULD FAIL
SET tenancy.tenant_id = 'acme';
SELECT tenancy.audit('item');                                  -- SHOULD FAIL: in a context
SELECT tenancy.unaudit('item');                                -- SHOULD FAIL
SELECT tenancy.verify_audit('acme');                           -- SHOULD FAIL
SELECT tenancy.create_audit_partitions();                      -- SHOULD FAIL
SELECT tenancy.drop_audit(now());                              -- SHOULD FAIL
RESET tenancy.tenant_id;
SELECT tenancy.verify_audit('no id');                          -- SHOULD FAIL
SELECT tenancy.create_audit_partitions(-1);                    -- SHOULD FAIL
SELECT tenancy.create_audit_partitions(NULL);                  -- SHOULD FAIL
SELECT tenancy.drop_audit(NULL);                               -- SHOULD FAIL
SELECT tenancy.drop_audit(now() + '40 days');                  -- SHOULD FAIL
SET ROLE regress_owner;
SELECT tenancy.audit('item');                                  -- SHOULD FAIL: granted to nobody
SELECT tenancy.unaudit('item');                                -- SHOULD FAIL
SELECT tenancy.verify_audit('acme');                           -- SHOULD FAIL
TABLE tenancy.audit_heads;                                     -- SHOULD FAIL
RESET ROLE;

SELECT tenancy.audit('item', '{note}', '{secret}');
SELECT relation, excluded, masked FROM tenancy.audited_tables;
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'item'::regclass AND tgname ~ 'audit' ORDER BY 1;
GRANT SELECT, INSERT, UPDATE, DELETE ON item TO regress_app, regress_bound;
GRANT TRUNCATE ON item TO regress_app;
SELECT * FROM entries();

-- Each command.
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
INSERT INTO item (id, name, amount, note, secret) VALUES (3, 'c', 1.50, 'n', 's'), (4, 'd', NULL, NULL, NULL);
UPDATE item SET amount = 2 WHERE id = 3;
UPDATE item SET amount = amount, name = name WHERE id = 3;     -- nothing changes
UPDATE item SET note = 'other' WHERE id = 3;                   -- nothing that is shown
UPDATE item SET secret = 'other' WHERE id = 3;
UPDATE item SET secret = NULL WHERE id = 3;
UPDATE item SET amount = 2.00 WHERE id = 3;                    -- the same number, otherwise written
UPDATE item SET id = 30 WHERE id = 3;
INSERT INTO item (id, name, amount) VALUES (6, 'e', 6) ON CONFLICT (name) DO NOTHING;
INSERT INTO item (id, name, amount) VALUES (6, 'e', 6) ON CONFLICT (name) DO UPDATE SET amount = excluded.amount;
MERGE INTO item USING (VALUES ('e', 7), ('h', 8)) AS v(name, amount) ON item.name = v.name
    WHEN MATCHED THEN UPDATE SET amount = v.amount
    WHEN NOT MATCHED THEN INSERT (id, name, amount) VALUES (8, v.name, v.amount);
WITH gone AS (DELETE FROM item WHERE name = 'h' RETURNING id, name) INSERT INTO item (id, name) SELECT id + 1, name || '2' FROM gone;
DELETE FROM item WHERE id = 4;
UPDATE item SET amount = 1 WHERE id = 2;                       -- of another tenant: nothing
SELECT tenancy.context() ->> 'tenant_id' AS tenant;
RESET tenancy.tenant_id;
RESET ROLE;
SELECT * FROM entries();
COPY item (id, tenant_id, name, amount) FROM stdin;
5	acme	copied	5
50	beta	copied for beta	5
\.
SELECT * FROM entries();
-- Who it was.
SET tenancy.user_id = 'ann';
SET SESSION AUTHORIZATION regress_bound;
SET tenancy.tenant_id = 'acme';                                -- SHOULD FAIL: it is bound, and may not
RESET SESSION AUTHORIZATION;
SET tenancy.tenant_id = 'acme';
SET ROLE regress_bound;
UPDATE item SET amount = 3 WHERE id = 30;
CREATE FUNCTION pg_temp.as_another() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'UPDATE public.item SET amount = 4 WHERE id = 30';
SELECT pg_temp.as_another();
RESET ROLE;
RESET tenancy.user_id;
RESET tenancy.tenant_id;
SELECT * FROM entries() WHERE op <> 'REFUSED';
-- What the statement of a transaction and its session say.
SELECT count(DISTINCT session) AS sessions, bool_and(session ~ '^[0-9a-f]+\.[0-9a-f]+$') AS written_as, bool_and(transaction > 0) AS has_transaction,
       bool_and(recorded_at < now()) AS is_past, bool_and(octet_length(hash) = 32) AS is_hashed
FROM tenancy.audit_log WHERE relation = 'public.item';

-- What is rolled back was not done; what has no transaction is not written.
BEGIN;
INSERT INTO item VALUES (10, 'acme', 'x', 1);
ROLLBACK;
BEGIN;
INSERT INTO item VALUES (10, 'acme', 'first', 1);
SAVEPOINT one;
UPDATE item SET amount = 99 WHERE id = 10;
SAVEPOINT two;
DELETE FROM item WHERE id = 10;
ROLLBACK TO two;
UPDATE item SET amount = 98 WHERE id = 10;
RELEASE two;
ROLLBACK TO one;
UPDATE item SET amount = 2 WHERE id = 10;
INSERT INTO item VALUES (11, 'beta', 'of beta', 1);
COMMIT;
DO $$
BEGIN
    UPDATE item SET amount = 3 WHERE id = 10;
    BEGIN
        UPDATE item SET amount = 4 WHERE id = 10;
        RAISE division_by_zero;
    EXCEPTION WHEN division_by_zero THEN
        UPDATE item SET amount = 5 WHERE id = 10;
    END;
END
$$;
BEGIN;
SAVEPOINT one;
INSERT INTO item VALUES (12, 'gone', 'of gone', 1);
ROLLBACK TO one;
INSERT INTO item VALUES (12, 'gone', 'again', 1);
COMMIT;
UPDATE item SET amount = 1 / (amount - 5) WHERE id IN (1, 10); -- SHOULD FAIL
SELECT * FROM entries();
TABLE problems;
-- A row that is given to another tenant: each is told its own.
UPDATE item SET tenant_id = 'beta' WHERE id = 10;
SELECT * FROM entries();

-- TRUNCATE is of all tenants, and on record as of none.
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
TRUNCATE item;                                                 -- SHOULD FAIL
RESET ROLE;
RESET tenancy.tenant_id;
BEGIN;
TRUNCATE item;
SELECT * FROM entries() WHERE op <> 'REFUSED';
ROLLBACK;
SELECT set_config('regress.since', statement_timestamp()::text, false) IS NOT NULL AS seen;

-- Cascades, rules and triggers of the table's own.
CREATE TABLE part (id int PRIMARY KEY, tenant_id text, item int REFERENCES item ON DELETE CASCADE ON UPDATE CASCADE);
INSERT INTO part VALUES (1, 'acme', 30), (2, 'acme', 30);
SET client_min_messages = warning;
SELECT tenancy.protect('part'), tenancy.audit('part');
RESET client_min_messages;
CREATE FUNCTION amended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.amount = 0 THEN
        RETURN NULL;
    END IF;
    NEW.name := upper(NEW.name);
    RETURN NEW;
END
$$;
CREATE TRIGGER amended BEFORE INSERT OR UPDATE ON item FOR EACH ROW EXECUTE FUNCTION amended();
UPDATE item SET amount = 0 WHERE id = 30;                      -- the trigger prevents it
UPDATE item SET id = 31, name = 'q' WHERE id = 30;
DELETE FROM item WHERE id = 31;
DROP TRIGGER amended ON item;
SELECT * FROM entries() WHERE relation !~ '_tenancy';
DROP TABLE part;

-- Columns that come, go and change.
ALTER TABLE item DROP COLUMN note;                             -- which was left out
ALTER TABLE item ADD COLUMN later int DEFAULT 7, ADD COLUMN "Größe ""x"" \ y" text;
UPDATE item SET amount = 20 WHERE id = 1;
UPDATE item SET later = 8, "Größe ""x"" \ y" = 'z' WHERE id = 1;
ALTER TABLE item ALTER COLUMN later TYPE text USING 'number ' || later;
UPDATE item SET later = 'nine' WHERE id = 1;
ALTER TABLE item DROP COLUMN later;
DELETE FROM item WHERE id = 1;
SELECT * FROM entries() WHERE relation = 'item';
PREPARE change AS UPDATE item SET amount = amount + 1 WHERE id = 2;
EXECUTE change;
ALTER TABLE item ADD COLUMN last int;
EXECUTE change;
-- Audited again, with other columns.
SELECT tenancy.audit('item', mask => '{amount,id}');
EXECUTE change;
SELECT tenancy.audit('item', '{id,tenant_id}');
EXECUTE change;
SELECT relation, excluded, masked FROM tenancy.audited_tables;
SELECT * FROM entries();
DEALLOCATE change;

-- Each family of types.
CREATE TYPE mood AS ENUM ('sad', 'it''s "ok"');
CREATE TYPE pair AS (one int, "Two words" text);
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TABLE "Weird ""Name""" (
    "tenant id" text, n numeric, t text, j json, b jsonb, a text[], c pair, d positive, e mood, r int4range, x bytea, at timestamptz, day date, f float8,
    yes boolean, u uuid, i interval, ip inet, bits bit varying, m pair[], fixed char(5), nm name);
SET client_min_messages = warning;
SELECT tenancy.protect('"Weird ""Name"""', tenant_column => 'tenant id'), tenancy.audit('"Weird ""Name"""');
RESET client_min_messages;
INSERT INTO "Weird ""Name""" VALUES (
    'acme', 12345678901234567890.1234567890, E'quote '' and ", back\\slash, line\nfeed, tab\t, \x01, ü€😀', '{ "b" : 1, "a" : [1.10] }', '{"b": 1, "a": null}',
    '{"x y",NULL,"{"}', ROW(1, 'a "b", c'), 3, 'it''s "ok"', '[1,5)', '\x00ff', '2024-02-29 12:00:00.123456+02', '2024-02-29', 'NaN',
    true, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '1 day 2:03', '10.0.0.1/8', '101', ARRAY[ROW(1, NULL)::pair, NULL], 'ab', 'a name');
SELECT f.key, f.value FROM entries() AS e, jsonb_each(e.new) AS f WHERE e.relation ~ 'Weird' ORDER BY f.key COLLATE "C";
SET datestyle = 'SQL, DMY';
SET timezone = 'Asia/Tokyo';
UPDATE "Weird ""Name""" SET n = 'NaN', j = NULL, a = '{}', at = 'infinity', f = 0.1, day = '29/02/2024', i = NULL, x = '\x', e = 'sad';
RESET datestyle;
SET timezone = 'UTC';
SELECT tenant, relation, key, old, new FROM entries();
-- A table without a key: what has changed, of a row that nothing names. Any row may go.
DELETE FROM "Weird ""Name""";
SELECT tenant, relation, key, old ->> 'n' AS n, new FROM entries();
-- What json takes and jsonb does not: it keeps nobody from reading.
INSERT INTO "Weird ""Name""" ("tenant id", n, j) VALUES ('acme', 1, '{"a": "\u0000"}'), ('acme', 2, '"\ud800"'), ('acme', 3, '[1e999999]'), ('acme', 4, '"1e9999"');
SELECT new ->> 'n' AS n, new ->> 'json' AS as_text FROM tenancy.audit_log WHERE relation ~ 'Weird' AND operation = 'INSERT' AND number > 0
AND recorded_at > current_setting('regress.since')::timestamptz ORDER BY number;
DROP TABLE "Weird ""Name""";
DROP TYPE mood, pair;
DROP DOMAIN positive;
-- Out of line, changed and not.
CREATE TABLE big (id int PRIMARY KEY, tenant_id text, body text, n int);
ALTER TABLE big ALTER COLUMN body SET STORAGE EXTERNAL;
SET client_min_messages = warning;
SELECT tenancy.protect('big'), tenancy.audit('big');
RESET client_min_messages;
INSERT INTO big VALUES (1, 'acme', repeat('x', 1000000), 1);
UPDATE big SET n = 2;
UPDATE big SET body = repeat('x', 999999) || 'y';
UPDATE big SET body = body || '';                              -- the same
UPDATE big SET id = 2, body = NULL;
SELECT op, key, length(old ->> 'body') AS old, length(new ->> 'body') AS new, old - 'body' AS other_old, new - 'body' AS other_new
FROM entries() WHERE relation = 'big';
DROP TABLE big;
TABLE problems;

-- Partitions, whichever way they come, and children.
CREATE TABLE event (id int, tenant_id text, kind int, body text) PARTITION BY LIST (kind);
CREATE TABLE event_1 PARTITION OF event FOR VALUES IN (1);
-- Columns in another order.
CREATE TABLE event_2 (body text, gone int, kind int, tenant_id text, id int);
ALTER TABLE event_2 DROP COLUMN gone;
ALTER TABLE event ATTACH PARTITION event_2 FOR VALUES IN (2);
CREATE TABLE event_3 PARTITION OF event FOR VALUES IN (3) PARTITION BY RANGE (id);
CREATE TABLE event_3_1 PARTITION OF event_3 DEFAULT;
SET client_min_messages = warning;
SELECT tenancy.protect('event'), tenancy.audit('event', '{}', '{body}');
RESET client_min_messages;
SELECT count(*) AS seen FROM entries();
INSERT INTO event VALUES (1, 'acme', 1, 'one'), (2, 'acme', 2, 'two'), (3, 'beta', 3, 'three');
UPDATE event SET kind = 2 WHERE id = 1;                        -- moves the row
UPDATE event SET id = 20 WHERE id = 2;
UPDATE event_2 SET id = 10, body = 'new' WHERE id = 1;         -- addressed directly
INSERT INTO event_3_1 VALUES (4, 'beta', 3, 'four');
UPDATE event SET tenant_id = 'acme', kind = 1 WHERE id = 4;    -- to another tenant and partition at once
SELECT * FROM entries();
TRUNCATE event_2;
SELECT op, relation FROM entries();
CREATE TABLE parent (id int PRIMARY KEY, tenant_id text);
CREATE TABLE child (more text) INHERITS (parent);
SET client_min_messages = warning;
SELECT tenancy.protect('parent'), tenancy.audit('parent', mask => '{id}');
RESET client_min_messages;
SELECT count(*) AS seen FROM entries();
INSERT INTO child VALUES (1, 'acme', 'm');
INSERT INTO parent VALUES (2, 'acme');
UPDATE parent SET id = id + 1;
SELECT * FROM entries();
SELECT tenancy.unaudit('parent');
UPDATE parent SET id = id + 1;
SELECT count(*) FROM entries() WHERE relation !~ '_tenancy';
SELECT count(*) FROM pg_trigger WHERE tgname ~ 'tenancy_audit' AND tgrelid IN ('parent'::regclass, 'child'::regclass);
SET client_min_messages = warning;
DROP TABLE parent, child;
DROP TABLE event;
RESET client_min_messages;

-- The other kinds of tables.
CREATE TABLE plan (name text PRIMARY KEY, tenant_id text);
CREATE TABLE history (id int PRIMARY KEY, tenant_id text);
CREATE TABLE currency (code text PRIMARY KEY);
SET client_min_messages = warning;
SELECT tenancy.protect('plan', 'shared'), tenancy.protect('history', 'audit'), tenancy.protect('currency', 'system');
SELECT tenancy.audit(t) FROM unnest('{plan,history,currency}'::regclass[]) AS t;
RESET client_min_messages;
SELECT count(*) AS seen FROM entries();
INSERT INTO plan VALUES ('for all', NULL), ('for acme', 'acme');
UPDATE plan SET tenant_id = 'acme' WHERE tenant_id IS NULL;
INSERT INTO history VALUES (1, 'acme');
INSERT INTO currency VALUES ('EUR');
DELETE FROM currency;
SELECT * FROM entries();
DROP TABLE plan, history, currency;

-- The triggers stay.
SET ROLE regress_owner;
ALTER TABLE item DISABLE TRIGGER tenancy_audit;                -- SHOULD FAIL
ALTER TABLE item DISABLE TRIGGER ALL;                          -- SHOULD FAIL
ALTER TABLE item DISABLE TRIGGER USER;                         -- SHOULD FAIL
ALTER TABLE item ENABLE TRIGGER tenancy_audit;                 -- SHOULD FAIL: no longer always
ALTER TABLE item ENABLE REPLICA TRIGGER tenancy_audit_truncate;   -- SHOULD FAIL
DROP TRIGGER tenancy_audit ON item;                            -- SHOULD FAIL
DROP TRIGGER tenancy_audit_truncate ON item;                   -- SHOULD FAIL
ALTER TRIGGER tenancy_audit ON item RENAME TO mine;            -- SHOULD FAIL
CREATE OR REPLACE TRIGGER tenancy_audit AFTER INSERT ON item FOR EACH ROW EXECUTE FUNCTION amended();   -- SHOULD FAIL
RESET ROLE;
ALTER TABLE item DISABLE TRIGGER tenancy_audit;                -- SHOULD FAIL: for a superuser as well
CREATE TRIGGER forged AFTER INSERT ON pg_am FOR EACH ROW EXECUTE FUNCTION _tenancy.audit_row();   -- SHOULD FAIL
-- What fires for replicated rows as well.
SET session_replication_role = replica;
UPDATE item SET amount = 77 WHERE id = 2;
RESET session_replication_role;
SELECT op, old, new FROM entries() WHERE relation = 'item';

-- A tenant sees its own; nobody writes.
SET ROLE regress_app;
SELECT count(*) FROM tenancy.audit_log;                        -- SHOULD FAIL: no tenant
SELECT count(*) FROM tenancy.export_audit();                   -- SHOULD FAIL
SET tenancy.tenant_id = 'acme';
SELECT DISTINCT tenant_id FROM tenancy.audit_log;
SELECT DISTINCT tenant_id FROM _tenancy.audit_entries;
SELECT DISTINCT substring(line FROM '^{"tenant_id" : "([a-z]*)"') AS tenant_id FROM tenancy.export_audit() AS line;
SELECT count(*) FROM tenancy.export_audit('beta');
SET tenancy.tenant_id = 'beta';
SELECT DISTINCT tenant_id FROM tenancy.audit_log;
INSERT INTO tenancy.audit_log (tenant_id) VALUES ('beta');     -- SHOULD FAIL
INSERT INTO _tenancy.audit_entries (tenant_id) VALUES ('beta');   -- SHOULD FAIL
UPDATE _tenancy.audit_entries SET role = 'x';                  -- SHOULD FAIL
DELETE FROM _tenancy.audit_entries;                            -- SHOULD FAIL
TRUNCATE _tenancy.audit_entries;                               -- SHOULD FAIL
SELECT count(*) FROM _tenancy.audit_entries_default;           -- SHOULD FAIL
SELECT count(*) FROM _tenancy.audit_heads;                     -- SHOULD FAIL
DELETE FROM _tenancy.audit_heads;                              -- SHOULD FAIL
SELECT count(*) FROM _tenancy.audit_cuts;                      -- SHOULD FAIL
SELECT count(*) FROM _tenancy.audited;                         -- SHOULD FAIL
SELECT _tenancy.audit_hash(NULL, 1, 1, NULL, now(), '', NULL, NULL, NULL, NULL, NULL, NULL, '', '', 1);   -- SHOULD FAIL
SELECT _tenancy.make_audit_triggers('item', false);            -- SHOULD FAIL
-- Who it is granted to writes nothing either.
RESET ROLE;
RESET tenancy.tenant_id;
GRANT ALL ON _tenancy.audit_entries TO regress_app;
SET ROLE regress_app;
SET tenancy.tenant_id = 'beta';
INSERT INTO _tenancy.audit_entries VALUES ('beta', now(), 'INSERT', NULL, NULL, NULL, NULL, NULL, NULL, 'r', 's', 1, 1, 1, '');   -- SHOULD FAIL
UPDATE _tenancy.audit_entries SET role = 'x';                  -- SHOULD FAIL
DELETE FROM _tenancy.audit_entries;                            -- SHOULD FAIL
TRUNCATE _tenancy.audit_entries;                               -- SHOULD FAIL
RESET ROLE;
RESET tenancy.tenant_id;
REVOKE ALL ON _tenancy.audit_entries FROM regress_app;
UPDATE _tenancy.audit_entries SET role = 'x';                  -- SHOULD FAIL: for a superuser as well

-- One line for each, the oldest first.
SELECT count(*) = (SELECT count(*) FROM tenancy.audit_log) AS all_of_them, bool_and(line !~ E'[\n\r]') AS are_lines, bool_and(json_typeof(line::json) = 'object') AS are_json
FROM tenancy.export_audit() AS line;
SELECT count(*) FROM tenancy.export_audit('acme', now());
SELECT count(*) = (SELECT count(*) FROM tenancy.audit_log WHERE tenant_id = 'acme') AS all_of_them FROM tenancy.export_audit('acme', until => now());

-- What administrators do, and no secret of it.
SELECT count(*) > 0 AS seen FROM entries();
SELECT tenancy.create_tenant('new', settings => '{"a": 1}'), tenancy.suspend_tenant('new', 'why'), tenancy.resume_tenant('new'), tenancy.archive_tenant('new');
SELECT tenancy.set_quota('new', 'things', 5), tenancy.set_plan_quota('gold', 'things', 6), tenancy.set_quota('new', 'things', 7);
SELECT tenancy.remove_quota('tenant', 'new', 'things'), tenancy.remove_quota('plan', 'gold', 'things');
SELECT tenancy.add_user('ann', 'ann@example.com'), tenancy.add_member('acme', 'ann', 'admin'), tenancy.set_member_role('acme', 'ann', 'reader');
SELECT tenancy.set_password('ann', 'correct horse battery');
SELECT tenancy.create_tenant('inviting') IS NOT NULL AS made, tenancy.add_user('bob', 'bob@example.com') IS NOT NULL AS added;
SELECT tenancy.invite_member('inviting', 'bob', 'reader') AS code \gset
SELECT tenancy.set_issuer('https://id.example', '{"keys": [{"kty": "oct", "kid": "h1", "k": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}]}', '{app}');
SELECT tenancy.set_signing_key('https://id.example', '{"kty": "oct", "kid": "h1", "k": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}');
SELECT tenancy.sign_token('https://id.example', 'acme', 'ann') AS token \gset
SELECT tenant, op, relation, key, old, new FROM entries();
SELECT tenancy.authenticate('{"tenant_id": "acme", "user_id": "ann", "password": "correct horse battery"}') ->> 'user_id' AS who;
SELECT tenancy.authenticate('{"tenant_id": "acme", "user_id": "ann", "password": "wrong horse battery"}');   -- SHOULD FAIL
SELECT tenancy.authenticate('{"tenant_id": "acme", "user_id": "eve", "password": "wrong horse battery"}');   -- SHOULD FAIL
SELECT tenancy.authenticate('{"tenant_id": "nobody", "user_id": "eve", "password": "wrong horse battery"}');   -- SHOULD FAIL
SELECT a.tenant_id, a.operation, a.detail FROM tenancy.audit_log a WHERE a.recorded_at > current_setting('regress.since')::timestamptz
ORDER BY a.recorded_at, a.number;
SELECT count(*) FROM tenancy.export_audit() AS line
WHERE strpos(line, :'code') > 0 OR strpos(line, :'token') > 0 OR line ~ 'horse|argon2id|"k" *: *"|AAAAAAA|eyJ' OR strpos(line, encode(sha256(:'code'::bytea), 'hex')) > 0;
SELECT tenancy.remove_member('acme', 'ann'), tenancy.remove_user('ann'), tenancy.remove_user('bob');
SELECT tenancy.set_signing_key('https://id.example', NULL), tenancy.remove_issuer('https://id.example');
SELECT count(*) > 0 AS seen FROM entries();

-- What was refused stays on record when it is rolled back.
GRANT SELECT, INSERT ON item TO regress_outsider;
SELECT tenancy.set_quota('acme', 'calls', 1);
SELECT tenancy.audit('item');
SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'nobody';
SELECT count(*) FROM item;                                     -- SHOULD FAIL
ROLLBACK;
BEGIN;
SET LOCAL tenancy.tenant_id = 'gone';
SELECT count(*) FROM item;                                     -- SHOULD FAIL
ROLLBACK;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
INSERT INTO item (id, name) VALUES (100, 'not to stay');
SELECT tenancy.track_usage('calls', 2);                        -- SHOULD FAIL
ROLLBACK;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SELECT tenancy.seal();
SET LOCAL tenancy.tenant_id = 'beta';                          -- SHOULD FAIL
ROLLBACK;
SET tenancy.tenant_id = 'acme';
TRUNCATE item;                                                 -- SHOULD FAIL
RESET tenancy.tenant_id;
SET tenancy.token = 'no token';                                -- SHOULD FAIL
RESET ROLE;
-- One in a savepoint that is rolled back, in a block that catches it, and in a transaction that only reads.
SET tenancy.tenant_id = 'acme';
BEGIN;
SAVEPOINT one;
SELECT tenancy.track_usage('calls', 3);                        -- SHOULD FAIL
ROLLBACK TO one;
COMMIT;
DO $$
BEGIN
    PERFORM tenancy.enforce_quota('calls', 4);
EXCEPTION WHEN configuration_limit_exceeded THEN
    NULL;
END
$$;
BEGIN READ ONLY;
SET LOCAL tenancy.tenant_id = 'gone';
SELECT count(*) FROM tenancy.audit_log WHERE tenant_id = tenancy.current_tenant();   -- SHOULD FAIL
ROLLBACK;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT tenancy.enforce_quota('calls', 6);                      -- SHOULD FAIL
ROLLBACK;
RESET tenancy.tenant_id;
SELECT a.tenant_id, a.operation, a.relation, a.role, a.detail FROM tenancy.audit_log a WHERE a.recorded_at > current_setting('regress.since')::timestamptz
AND a.operation = 'REFUSED' ORDER BY a.recorded_at, a.number;
SELECT count(*) FROM item WHERE id = 100;
SELECT count(*) AS seen FROM entries() WHERE relation = 'item';
TABLE problems;

-- What is found. A tenant with two segments: the second session goes on after the first.
SELECT tenancy.create_tenant('victim');
INSERT INTO item (id, tenant_id, name) VALUES (201, 'victim', 'v1'), (202, 'victim', 'v2'), (203, 'victim', 'v3');
\connect -
SET timezone = 'UTC';
UPDATE item SET amount = 5 WHERE tenant_id = 'victim';
CREATE VIEW found AS SELECT v.number, regexp_replace(v.problem, '\d{6,}', '...') AS problem FROM tenancy.verify_audit('victim') v ORDER BY 1, 2;
SELECT segment AS first FROM tenancy.audit_log WHERE tenant_id = 'victim' AND operation = 'INSERT' LIMIT 1 \gset
SELECT segment AS second FROM tenancy.audit_log WHERE tenant_id = 'victim' AND operation = 'UPDATE' LIMIT 1 \gset
TABLE found;
CREATE TABLE kept AS SELECT * FROM _tenancy.audit_entries_default WHERE tenant_id = 'victim';
CREATE TABLE kept_heads AS SELECT * FROM _tenancy.audit_heads WHERE tenant_id = 'victim';
-- What a change of the trail comes to; it is taken back.
CREATE FUNCTION after(VARIADIC commands text[]) RETURNS TABLE (number text, problem text) LANGUAGE plpgsql AS $$
DECLARE
    command text;
    said text[];
BEGIN
    BEGIN
        FOREACH command IN ARRAY commands LOOP
            EXECUTE regexp_replace(regexp_replace(command, '\mentries\M', '_tenancy.audit_entries_default', 'g'), '\mheads\M', '_tenancy.audit_heads', 'g');
        END LOOP;
        said := ARRAY(SELECT concat(f.number, '|', f.problem) FROM found f);
        RAISE EXCEPTION USING ERRCODE = 'TB000';
    EXCEPTION WHEN SQLSTATE 'TB000' THEN
        RETURN QUERY SELECT split_part(s, '|', 1), split_part(s, '|', 2) FROM unnest(said) AS s;
        IF NOT FOUND THEN
            RETURN QUERY SELECT '', 'NOTHING IS FOUND';
        END IF;
    END;
END
$$;
\set at2 ' WHERE number = 2 AND segment = ' :second
-- Each field of an entry.
SELECT c.change, a.* FROM unnest(ARRAY[
    'tenant_id = ''acme''', 'tenant_id = NULL', 'recorded_at = recorded_at + ''1 us''', 'operation = ''DELETE''', 'operation = ''update''', 'relation = ''public.other''',
    'relation = NULL', 'key = ''{"id":9}''', 'key = NULL', 'key = ''{ "id":202}''', 'old = NULL', 'old = new, new = old', 'new = ''{"amount":6}''', 'detail = ''{}''', 'actor = ''''',
    'actor = ''eve''', 'role = ''eve''', 'role = ''post'', session = ''gres'' || session', 'session = ''1.1''', 'transaction = transaction + 1', 'segment = 1', 'number = 4',
    'number = 0', 'number = -1', 'hash = ''\x00''', 'hash = ''''', 'hash = sha256(hash)']) WITH ORDINALITY AS c(change, place),
    LATERAL after('UPDATE entries SET ' || c.change || :'at2') AS a ORDER BY c.place, a.number, a.problem;
-- With the hash that it would have had, computed anew: the one after it tells.
\set audit_hash 'segment, number, tenant_id, recorded_at, operation, relation, key::text, old::text, new::text, detail::text, actor, ''eve'', session, transaction)'
SELECT * FROM after('UPDATE entries e SET role = ''eve'', hash = _tenancy.audit_hash((SELECT p.hash FROM entries p WHERE p.segment = e.segment AND p.number = 1), ' || :'audit_hash' || :'at2');
SELECT * FROM after('UPDATE entries e SET hash = (SELECT p.hash FROM entries p WHERE p.segment = e.segment AND p.number = 1)' || :'at2');
-- The last one of its segment, likewise: the head tells.
SELECT * FROM after('UPDATE entries e SET role = ''eve'', hash = _tenancy.audit_hash((SELECT p.hash FROM entries p WHERE p.segment = e.segment AND p.number = 2), ' || :'audit_hash'
    || ' WHERE number = 3 AND segment = ' || :second);
-- Removed: in the middle, the first, the last, all of the first segment, with its head, all there is.
SELECT * FROM after('DELETE FROM entries' || :'at2');
SELECT * FROM after('DELETE FROM entries WHERE number = 1 AND segment = ' || :second);
SELECT * FROM after('DELETE FROM entries WHERE number = 3 AND segment = ' || :second);
SELECT * FROM after('DELETE FROM entries WHERE segment = ' || :first);
SELECT * FROM after('DELETE FROM entries WHERE segment = ' || :first, 'DELETE FROM heads WHERE segment = ' || :first);
SELECT * FROM after('DELETE FROM entries WHERE tenant_id = ''victim''');
-- Two that were exchanged, and one of another number, twice, in another segment.
SELECT * FROM after('UPDATE entries SET number = CASE number WHEN 2 THEN 3 ELSE 2 END WHERE number IN (2, 3) AND segment = ' || :second);
SELECT * FROM after('UPDATE entries SET number = number + 1 WHERE number >= 2 AND segment = ' || :second);
SELECT * FROM after('UPDATE entries SET number = number - 1 WHERE segment = ' || :second);
SELECT * FROM after('INSERT INTO entries SELECT * FROM entries' || :'at2');
SELECT * FROM after('INSERT INTO entries SELECT (json_populate_record(e, ''{"number": 4}'')).* FROM entries e' || :'at2');
SELECT * FROM after('INSERT INTO entries SELECT (json_populate_record(e, ''{"number": 5}'')).* FROM entries e' || :'at2');
SELECT * FROM after(format('UPDATE entries SET segment = %s, number = 5 WHERE number = 2 AND segment = %s', :first, :second));
SELECT * FROM after(format('UPDATE entries SET segment = CASE segment WHEN %s THEN %s ELSE %1$s END WHERE tenant_id = ''victim''', :first, :second));
SELECT * FROM after(format('INSERT INTO entries SELECT (json_populate_record(e, ''{"segment": 5}'')).* FROM entries e WHERE segment = %s', :second));
-- What was another tenant's.
SELECT problem, count(*) > 0 AS is_so FROM after('UPDATE entries SET tenant_id = ''victim'' WHERE tenant_id = ''acme''') GROUP BY problem ORDER BY 1;
SELECT * FROM after(format('UPDATE entries SET tenant_id = ''acme'' WHERE segment = %s', :first), format('UPDATE heads SET tenant_id = ''acme'' WHERE segment = %s', :first));
-- The heads.
SELECT c.change, a.* FROM unnest(ARRAY['number = 2', 'number = 5', 'hash = sha256(hash)', 'segment = 5', 'tenant_id = ''acme''', 'after_number = 1', 'after_segment = 7',
    'after_hash = sha256(hash)', 'after_segment = NULL, after_number = NULL, after_hash = NULL', 'after_hash = NULL']) WITH ORDINALITY AS c(change, place),
    LATERAL after(format('UPDATE heads SET %s WHERE segment = %s', c.change, :second)) AS a ORDER BY c.place, a.number, a.problem;
SELECT * FROM after('DELETE FROM heads WHERE segment = ' || :second);
SELECT * FROM after('DELETE FROM heads WHERE segment = ' || :first);
SELECT * FROM after('DELETE FROM heads');
-- Of a part of the time, contents are checked then; whether one is missing, always.
SELECT (SELECT count(*) FROM tenancy.verify_audit('victim', now())) AS later, (SELECT count(*) FROM tenancy.verify_audit('victim', until => '-infinity')) AS earlier;
BEGIN;
UPDATE _tenancy.audit_entries_default SET role = 'eve' WHERE segment = :second AND number = 2;
SELECT number, problem FROM tenancy.verify_audit('victim', now());
SELECT number, problem FROM tenancy.verify_audit('victim', '-infinity', now());
DELETE FROM _tenancy.audit_entries_default WHERE segment = :second AND number = 2;
SELECT number, problem FROM tenancy.verify_audit('victim', now());
ROLLBACK;
TABLE found;
-- A session that writes meanwhile goes on in another segment, and hides nothing.
UPDATE _tenancy.audit_heads SET number = 2 WHERE segment = :second;
TABLE found;
UPDATE item SET amount = 6 WHERE id = 201;
TABLE found;
UPDATE _tenancy.audit_heads SET number = 4 WHERE segment = :second;
TABLE found;

-- Partitions for months: what was written before they came is in them, and what comes.
SELECT tenancy.create_audit_partitions(1) AS created, tenancy.create_audit_partitions(1) AS again;
SELECT count(*) FROM _tenancy.audit_entries_default;
UPDATE item SET amount = 8 WHERE id = 201;
SELECT count(*) FROM _tenancy.audit_entries_default;
TABLE found;
SELECT tenancy.drop_audit(now()) AS dropped;
TABLE found;
SELECT count(*) FROM tenancy.audit_log WHERE tenant_id = 'victim';

-- No longer.
SELECT tenancy.unaudit('item');
SELECT tenancy.unaudit('item');                                -- SHOULD FAIL
UPDATE item SET amount = 9 WHERE id = 201;
SELECT count(*) FROM tenancy.audit_log WHERE tenant_id = 'victim';
SELECT count(*) FROM tenancy.audited_tables;
-- Or with the table.
SELECT tenancy.audit('item');
DROP TABLE item;
SELECT count(*) FROM tenancy.audited_tables;

DROP VIEW problems, found;
DROP TABLE kept, kept_heads;
DROP FUNCTION entries(), after(text[]), amended();
DO $$
BEGIN
    EXECUTE (SELECT string_agg(format('DROP TABLE %s;', inhrelid::regclass), ' ') FROM pg_inherits
             WHERE inhparent = '_tenancy.audit_entries'::regclass AND inhrelid <> '_tenancy.audit_entries_default'::regclass);
END
$$;
SELECT tenancy.remove_quota('tenant', 'acme', 'calls');
DELETE FROM _tenancy.tenants WHERE id IN ('new', 'inviting', 'victim');
DELETE FROM _tenancy.failed_sign_ins;
DELETE FROM _tenancy.signing_keys;
DELETE FROM _tenancy.issuers;
SELECT id, status FROM tenancy.tenants WHERE id IN ('acme', 'beta', 'gone') ORDER BY id;
