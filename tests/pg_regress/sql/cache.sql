-- Caches outside of the database: a key for each resource, and a version that changes with the rows. And a cache in the database.
\set VERBOSITY default
\set SHOW_CONTEXT never
-- Whose version of which type has changed since it was asked for last.
CREATE TABLE seen (tenant text, kind text, version text, PRIMARY KEY (tenant, kind));
CREATE FUNCTION changed() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    was record;
    now text;
    found text := '';
BEGIN
    FOR was IN SELECT * FROM seen ORDER BY kind, tenant LOOP
        PERFORM set_config('tenancy.tenant_id', was.tenant, true);
        now := tenancy.cache_version(was.kind);
        IF now IS DISTINCT FROM was.version THEN
            UPDATE seen SET version = now WHERE tenant = was.tenant AND kind = was.kind;
            found := concat_ws(' ', nullif(found, ''), was.kind || ':' || was.tenant);
        END IF;
    END LOOP;
    RETURN found;
END
$$;
CREATE FUNCTION entries() RETURNS TABLE (tenant_id text, kind text, entries bigint, changes numeric) LANGUAGE sql AS $$
    SELECT c.tenant_id, c.resource_type, count(*), sum(c.changes) FROM _tenancy.cache_changes c WHERE c.resource_type ~ '^(item|report)$' GROUP BY 1, 2 ORDER BY 1, 2
$$;
CREATE TABLE item (id int, tenant_id text, note text, PRIMARY KEY (tenant_id, id));
CREATE TABLE part (id int, tenant_id text, item int, PRIMARY KEY (tenant_id, id), FOREIGN KEY (tenant_id, item) REFERENCES item ON DELETE CASCADE);
CREATE TABLE "Odd Plan" (id int PRIMARY KEY, tenant_id text);
CREATE TABLE currency (code text PRIMARY KEY);
ALTER TABLE item OWNER TO regress_owner;
SET client_min_messages = warning;
SELECT tenancy.cache_watch('item', 'item');                    -- SHOULD FAIL: not protected
SELECT tenancy.protect('item'), tenancy.protect('part'), tenancy.protect('"Odd Plan"', 'shared'), tenancy.protect('currency', 'system');
RESET client_min_messages;
GRANT SELECT, INSERT, UPDATE, DELETE ON item, part, "Odd Plan" TO regress_app;

-- Keys.
SELECT tenancy.cache_key('item', '42');                        -- SHOULD FAIL: no tenant
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
SELECT tenancy.cache_key('item', '42'), tenancy.cache_key('item', 42), tenancy.cache_key('item', '00000000-0000-0000-0000-00000000000a'::uuid);
SELECT tenancy.cache_key('a:b', 'c'), tenancy.cache_key('a', 'b:c'), tenancy.cache_key('a%3Ab', '*'), tenancy.cache_key('', ''), tenancy.cache_key('item', NULL::text);
RESET tenancy.tenant_id;

-- Who may say what is watched.
SELECT tenancy.cache_watch('item', 'item');                    -- SHOULD FAIL
SELECT tenancy.cache_channel();                                -- SHOULD FAIL
SELECT tenancy.sweep_cache();                                  -- SHOULD FAIL
SELECT * FROM _tenancy.cache_changes;                          -- SHOULD FAIL
SELECT * FROM _tenancy.cache_channel;                          -- SHOULD FAIL
SELECT * FROM _tenancy.cache_entries;                          -- SHOULD FAIL
SELECT _tenancy.note_cache_change('beta', 'item', false);      -- SHOULD FAIL
RESET ROLE;
SET tenancy.tenant_id = 'acme';
SELECT tenancy.cache_watch('item', 'item');                    -- SHOULD FAIL: in the context of a tenant
SELECT tenancy.cache_version('item');                          -- SHOULD FAIL: nothing is watched for it
RESET tenancy.tenant_id;
SELECT tenancy.cache_watch('item', NULL);                      -- SHOULD FAIL
SELECT tenancy.cache_watch('item', 'no good');                 -- SHOULD FAIL
SELECT tenancy.cache_watch('item', 'item'), tenancy.cache_watch('part', 'item'), tenancy.cache_watch('part', 'report');
SELECT tenancy.cache_watch('"Odd Plan"', 'plan'), tenancy.cache_watch('currency', 'plan');
SELECT relation, resource_type, notify FROM tenancy.cache_watches ORDER BY 1, 2;
SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'item'::regclass AND tgname ~ 'meter' ORDER BY 1;
SELECT _tenancy.note_altered();                                -- SHOULD FAIL: in an event trigger only
SELECT tenancy.unprotect('item');                              -- SHOULD FAIL: it is watched
DROP TRIGGER tenancy_meter_insert ON item;                     -- SHOULD FAIL: so its triggers stay
SELECT relation, drift FROM tenancy.protected_tables WHERE drift <> '{}';
INSERT INTO seen SELECT t, k FROM unnest('{acme,beta}'::text[]) AS t, unnest('{item,report,plan}'::text[]) AS k;
SELECT changed();
SELECT changed();

-- Each command, for the tenant of the rows that it has changed and no other.
INSERT INTO item SELECT g, 'acme' FROM generate_series(1, 5) AS g;
SELECT changed();
INSERT INTO part VALUES (1, 'beta', NULL);
SELECT changed();
UPDATE item SET note = 'x' WHERE id = 1;
SELECT changed();
UPDATE item SET note = 'x' WHERE false;
DELETE FROM item WHERE id = 99;
INSERT INTO item VALUES (1, 'acme') ON CONFLICT DO NOTHING;
SELECT changed();
INSERT INTO item VALUES (1, 'acme') ON CONFLICT (tenant_id, id) DO UPDATE SET note = 'y';
SELECT changed();
MERGE INTO item USING (VALUES (7, 'beta')) AS v(id, tenant) ON item.id = v.id AND tenant_id = tenant WHEN NOT MATCHED THEN INSERT VALUES (v.id, v.tenant);
SELECT changed();
COPY item (id, tenant_id) FROM stdin;
8	acme
8	beta
\.
SELECT changed();
UPDATE item SET tenant_id = 'beta' WHERE id = 5;               -- it leaves one, and comes to another
SELECT changed();
INSERT INTO part VALUES (2, 'acme', 1);
SELECT changed();
DELETE FROM item WHERE id = 1;                                 -- with its part
SELECT changed();
WITH gone AS (DELETE FROM item WHERE id = 8 AND tenant_id = 'acme' RETURNING id) INSERT INTO part SELECT 9, 'beta' FROM gone;
SELECT changed();
TRUNCATE part;
SELECT changed();
INSERT INTO "Odd Plan" VALUES (1, NULL);                       -- for all
SELECT changed();
INSERT INTO "Odd Plan" VALUES (2, 'acme'), (3, NULL), (4, 'acme');
SELECT changed();
UPDATE "Odd Plan" SET tenant_id = 'beta' WHERE id = 2;
SELECT changed();
INSERT INTO currency VALUES ('EUR');
SELECT changed();
DELETE FROM currency WHERE code = 'USD';
SELECT changed();
SET session_replication_role = replica;
UPDATE item SET note = 'z' WHERE id = 2;
RESET session_replication_role;
SELECT changed();
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
UPDATE item SET note = 'mine';
RESET tenancy.tenant_id;
RESET ROLE;
SELECT changed();

-- What is taken back has not been. Several changes are one.
BEGIN;
UPDATE item SET note = 'a';
ROLLBACK;
SELECT changed();
BEGIN;
SAVEPOINT s;
UPDATE item SET note = 'a' WHERE tenant_id = 'beta';
ROLLBACK TO s;
UPDATE item SET note = 'b' WHERE id = 2;
SAVEPOINT s;
UPDATE item SET note = 'c' WHERE id = 2;
ROLLBACK TO s;
RELEASE s;
SAVEPOINT s;
SAVEPOINT t;
INSERT INTO part VALUES (3, 'acme');
RELEASE t;
ROLLBACK TO s;
COMMIT;
SELECT changed();
DO $$ BEGIN BEGIN UPDATE item SET note = 'd' WHERE tenant_id = 'beta'; RAISE 'no'; EXCEPTION WHEN OTHERS THEN NULL; END; UPDATE item SET note = 'e' WHERE id = 2; END $$;
SELECT changed();
SELECT tenant_id, kind, entries < 4 AS are_few FROM entries();
BEGIN;
UPDATE item SET note = 'f';
UPDATE item SET note = 'g';
COMMIT;
SELECT changed();
SELECT tenant_id, kind, entries < 4 AS are_few FROM entries();
-- Prepared: when it is committed.
BEGIN;
UPDATE item SET note = 'p' WHERE id = 2;
PREPARE TRANSACTION 'regress_cache';
SELECT changed();
COMMIT PREPARED 'regress_cache';
SELECT changed();
-- In the transaction that has changed it, a version of its own, another one after each change.
SELECT set_config('tenancy.tenant_id', 'acme', false);
SELECT tenancy.cache_version('item') AS before \gset
BEGIN;
SELECT tenancy.cache_version('item') = :'before' AS is_same;
UPDATE item SET note = 'own' WHERE id = 2;
SELECT tenancy.cache_version('item') AS own \gset
UPDATE item SET note = 'own again' WHERE id = 2;
SELECT tenancy.cache_version('item') AS again \gset
SAVEPOINT s;
UPDATE item SET note = 'and again' WHERE id = 2;
ROLLBACK TO s;
SELECT tenancy.cache_version('item') AS back \gset
SELECT split_part(:'own', '+', 1) = :'before' AS is_made_of_it, :'own' ~ '\+' AS is_marked,
       (SELECT count(DISTINCT v) FROM unnest(ARRAY[:'before', :'own', :'again', :'back']) AS v) AS versions, tenancy.cache_version('report') ~ '\+' AS is_other_marked;
COMMIT;
-- A statement that writes sees what is not committed, before it has ended.
WITH now AS (UPDATE item SET note = 'returned' WHERE id = 2 RETURNING tenancy.cache_version('item') AS version) SELECT version ~ '\+' AS is_marked FROM now;
SELECT tenancy.cache_version('item') NOT IN (:'before', :'own', :'again', :'back') AS is_new;
SELECT tenancy.cache_version(NULL);                            -- SHOULD FAIL
SELECT tenancy.cache_version('nothing');                       -- SHOULD FAIL
RESET tenancy.tenant_id;
SELECT tenancy.cache_version('item');                          -- SHOULD FAIL: no tenant
SELECT changed();

-- Partitions and children, addressed as such or by their parent; those that come later.
SET client_min_messages = warning;
CREATE TABLE visit (id int, tenant_id text) PARTITION BY RANGE (id);
CREATE TABLE visit_1 PARTITION OF visit FOR VALUES FROM (1) TO (10);
SELECT tenancy.protect('visit'), tenancy.cache_watch('visit', 'report');
CREATE TABLE visit_2 PARTITION OF visit FOR VALUES FROM (10) TO (20);
RESET client_min_messages;
SELECT changed();
INSERT INTO visit VALUES (1, 'acme');
SELECT changed();
INSERT INTO visit_2 VALUES (11, 'beta');
SELECT changed();
UPDATE visit SET id = id + 10 WHERE tenant_id = 'acme';
SELECT changed();
ALTER TABLE visit DETACH PARTITION visit_2;                    -- it takes its rows with it
SELECT changed();
INSERT INTO visit_2 VALUES (12, 'beta');
SELECT changed();
ALTER TABLE visit ATTACH PARTITION visit_2 FOR VALUES FROM (10) TO (20);
SELECT changed();
ALTER TABLE visit ADD COLUMN n int DEFAULT 1;
SELECT changed();
ALTER TABLE visit DETACH PARTITION visit_2;
SELECT changed();
ALTER TABLE visit ATTACH PARTITION visit_2 FOR VALUES FROM (10) TO (20);
SELECT changed();
DROP TABLE visit_2;                                            -- nothing tells whose partition it was
SELECT changed();
SET row_security = off;
ALTER TABLE visit DETACH PARTITION visit_1;
RESET row_security;
SELECT changed();
DROP TABLE visit;                                              -- what it held is no longer there
SELECT changed();
SELECT count(*) FROM tenancy.cache_watches WHERE resource_type = 'report';
DROP TABLE visit_1;
SELECT changed();
CREATE TABLE kin (id int, tenant_id text);
CREATE TABLE kid () INHERITS (kin);
SET client_min_messages = warning;
SELECT tenancy.protect('kin'), tenancy.cache_watch('kin', 'report');
INSERT INTO kid VALUES (1, 'acme');
SELECT changed();
ALTER TABLE kid NO INHERIT kin;
SELECT changed();
DROP TABLE kid, kin;
SELECT changed();
-- What a crash would empty.
CREATE UNLOGGED TABLE fleeting (id int, tenant_id text);
CREATE TABLE lasting (id int, tenant_id text);
SELECT tenancy.protect('fleeting'), tenancy.protect('lasting');
SELECT tenancy.cache_watch('fleeting', 'report');              -- SHOULD FAIL
SELECT tenancy.cache_watch('lasting', 'report');
ALTER TABLE lasting SET UNLOGGED;                              -- SHOULD FAIL
DROP TABLE fleeting, lasting;
SELECT changed();
RESET client_min_messages;

-- A table that is metered as well keeps its triggers.
SET client_min_messages = warning;
SELECT tenancy.meter('item', 'items'), tenancy.cache_unwatch('item', 'item');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'item'::regclass AND tgname ~ 'meter';
SELECT changed();
UPDATE item SET note = 'metered';
SELECT changed();
SELECT tenancy.cache_watch('item', 'item');
SELECT changed();
UPDATE item SET note = 'both';
SELECT changed();
SELECT tenancy.unmeter('item', 'items');
UPDATE item SET note = 'watched';
SELECT changed();
RESET client_min_messages;
SELECT * FROM tenancy.reconcile('item');                       -- SHOULD FAIL: no longer metered
SELECT tenancy.cache_unwatch('item', 'item'), tenancy.cache_unwatch('item', 'item');   -- SHOULD FAIL
SELECT tenancy.cache_unwatch('item', 'item');
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'item'::regclass AND tgname ~ 'meter';
SELECT tenancy.cache_watch('item', 'item');
SELECT changed();

-- Notifications: those who may know the channel hear of each tenant and type once a transaction.
SET client_min_messages = warning;
SELECT tenancy.cache_watch('item', 'item', true);
RESET client_min_messages;
SELECT tenancy.cache_channel() AS channel \gset
SELECT :'channel' ~ '^tenancy_cache_[0-9a-f]{32}$' AS is_good;
SELECT changed();
-- Transactions that follow one another are counted in one entry.
DO $$ BEGIN FOR n IN 1..100 LOOP UPDATE item SET note = n WHERE tenant_id = 'acme'; COMMIT; END LOOP; END $$;
SELECT entries < 4 AS are_few FROM entries() WHERE tenant_id = 'acme' AND kind = 'item';
SELECT changed();
SELECT tenancy.sweep_cache(0);                                 -- SHOULD FAIL

-- The cache in the database.
SET ROLE regress_app;
SELECT tenancy.cache_set('k', '1');                            -- SHOULD FAIL: no tenant
SELECT tenancy.cache_get('k');                                 -- SHOULD FAIL: likewise
SELECT _tenancy.keep_entry('k', '1', 'infinity');              -- SHOULD FAIL: likewise
SET tenancy.tenant_id = 'acme';
SELECT tenancy.cache_get('k');
SELECT tenancy.cache_set('k', '{"n": 1e400, "s": "\ud83d\ude00"}'), tenancy.cache_set('', '1');   -- SHOULD FAIL: an empty key
SELECT tenancy.cache_set('k', '{"n": 1e400, "s": "\ud83d\ude00"}');
SELECT tenancy.cache_get('k') = '{"n": 1e400, "s": "\ud83d\ude00"}' AS is_whole;
SELECT tenancy.cache_set('k', '"other"', '10 minutes'), tenancy.cache_set(tenancy.cache_key('item', 1), '{"id": 1}', '100 years'), tenancy.cache_set('null', 'null');
SELECT tenancy.cache_get('k'), tenancy.cache_get('tenant:acme:item:1'), tenancy.cache_get('null'), tenancy.cache_get(NULL);
SELECT tenancy.cache_set(NULL, '1');                           -- SHOULD FAIL
SELECT tenancy.cache_set('k', NULL);                           -- SHOULD FAIL
SELECT tenancy.cache_set('k', '1', NULL);                      -- SHOULD FAIL
SELECT tenancy.cache_set('k', '1', '0');                       -- SHOULD FAIL
SELECT tenancy.cache_set('k', '1', '-1 day');                  -- SHOULD FAIL
SELECT tenancy.cache_set(repeat('k', 1025), '1');              -- SHOULD FAIL
SELECT tenancy.cache_set(repeat('k', 1024), '1', '1 millisecond');
SELECT pg_sleep(0.01);
SELECT tenancy.cache_get(repeat('k', 1024));
SET tenancy.tenant_id = 'beta';
SELECT tenancy.cache_get('k'), tenancy.cache_get('tenant:acme:item:1');
SELECT tenancy.cache_set('k', '"of beta"');
SELECT tenancy.cache_delete('tenant:acme:item:1'), tenancy.cache_delete('none');
BEGIN;
SELECT tenancy.cache_set('k', '"taken back"');
ROLLBACK;
SELECT tenancy.cache_get('k'), tenancy.cache_delete('k'), tenancy.cache_get('k');
SELECT tenancy.cache_set('k', '"of beta"');
SELECT tenancy.invalidate_cache('acme');                       -- SHOULD FAIL: of another
SELECT tenancy.invalidate_cache('no/good');                    -- SHOULD FAIL
SELECT tenancy.invalidate_cache();
SELECT tenancy.cache_get('k');
SET tenancy.tenant_id = 'acme';
SELECT tenancy.cache_get('k');
RESET tenancy.tenant_id;
RESET ROLE;
SELECT changed();
-- Another tenant's: whoever may set any.
SET ROLE regress_app;
SELECT tenancy.invalidate_cache('acme');
RESET ROLE;
SET ROLE regress_outsider;
SELECT tenancy.invalidate_cache('acme');                       -- SHOULD FAIL: it has none
SELECT tenancy.invalidate_cache();                             -- SHOULD FAIL
RESET ROLE;
SELECT changed();
SELECT count(*) FROM _tenancy.cache_entries;
-- What has expired is swept: a little as others are kept, the rest as upkeep.
INSERT INTO _tenancy.cache_entries SELECT 'beta', 'old' || g, '1', now() - interval '1 day' FROM generate_series(1, 10) AS g;
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
SELECT tenancy.cache_set('k', '1');
RESET tenancy.tenant_id;
RESET ROLE;
SELECT count(*) FROM _tenancy.cache_entries;
SELECT tenancy.sweep_cache(5), tenancy.sweep_cache();
SELECT tenant_id, key FROM _tenancy.cache_entries;
-- It is on record what is watched.
SELECT operation, old ->> 'resource_type' AS old, new ->> 'resource_type' AS new FROM tenancy.audit_log WHERE relation = '_tenancy.cache_watches' ORDER BY recorded_at, number LIMIT 3;
DROP TABLE part, item, "Odd Plan", currency, seen;
SELECT count(*) FROM tenancy.cache_watches;
DROP FUNCTION changed(), entries();
DELETE FROM _tenancy.cache_entries;
DELETE FROM _tenancy.cache_changes WHERE resource_type <> '';
