-- Plans that run once compare with the tenant itself: what a client sends by itself. What is kept asks for the tenant.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE TABLE parts (id integer NOT NULL, tenant_id text NOT NULL, body text) PARTITION BY LIST (tenant_id);
CREATE TABLE parts_acme PARTITION OF parts FOR VALUES IN ('acme');
CREATE TABLE parts_beta PARTITION OF parts FOR VALUES IN ('beta');
CREATE TABLE parts_other PARTITION OF parts DEFAULT;
INSERT INTO parts SELECT n, (ARRAY['acme', 'beta'])[1 + n % 2], 'row ' || n FROM generate_series(1, 20) n;
CREATE TABLE plain (id integer PRIMARY KEY, tenant_id text NOT NULL, body text, UNIQUE (tenant_id, id));
INSERT INTO plain SELECT n, (ARRAY['acme', 'beta'])[1 + n % 2], 'row ' || n FROM generate_series(1, 20) n;
SELECT tenancy.protect('parts'), tenancy.protect('plain');
GRANT SELECT, INSERT, UPDATE, DELETE ON parts, plain TO regress_app;
CREATE VIEW locked AS
    SELECT DISTINCT c.relname COLLATE "C" AS relname FROM pg_locks l JOIN pg_class c ON c.oid = l.relation WHERE l.pid = pg_backend_pid() AND c.relname ~ '^parts' ORDER BY 1;
GRANT SELECT ON locked TO regress_app;
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
-- The partitions of others are left out before they are planned for, or locked.
BEGIN; SELECT count(*) FROM parts; TABLE locked; ROLLBACK;
BEGIN; WITH w AS (SELECT * FROM parts) SELECT count(*) FROM w JOIN (SELECT * FROM parts OFFSET 0) s USING (id); TABLE locked; ROLLBACK;
BEGIN; UPDATE parts SET body = body; TABLE locked; ROLLBACK;
BEGIN; SELECT count(*) FROM parts WHERE tenant_id = tenancy.current_tenant() AND id > 10; TABLE locked; ROLLBACK;
-- As of old: what is kept, or runs more than once, or for whoever comes next.
BEGIN; PREPARE kept AS SELECT count(*), min(tenant_id) FROM parts; EXECUTE kept; TABLE locked; ROLLBACK;
SET tenancy.tenant_id = 'beta';
EXECUTE kept;
SET tenancy.tenant_id = 'acme';
EXECUTE kept;
BEGIN; DECLARE c CURSOR FOR SELECT count(*), min(tenant_id) FROM parts; TABLE locked; FETCH c; ROLLBACK;
BEGIN; DO $$BEGIN PERFORM count(*) FROM parts; END$$; TABLE locked; ROLLBACK;
EXPLAIN (COSTS OFF) SELECT * FROM plain WHERE id = 4;
DO $$
DECLARE
    found text;
BEGIN
    FOREACH found IN ARRAY ARRAY['acme', 'beta', 'acme'] LOOP
        PERFORM set_config('tenancy.tenant_id', found, false);
        RAISE WARNING '%', (SELECT string_agg(DISTINCT tenant_id, ',') FROM plain);
    END LOOP;
END
$$;
-- Several statements of one message, each for the tenant that it finds.
SELECT tenant_id, count(*) FROM parts GROUP BY 1\; SET tenancy.tenant_id = 'beta'\; SELECT tenant_id, count(*) FROM parts GROUP BY 1\; SET tenancy.tenant_id = 'acme';
-- The tenant changes while the plan is made, or while it runs.
CREATE FUNCTION pg_temp.to_beta() RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM set_config('tenancy.tenant_id', 'beta', false); RETURN 4; END$$;
CREATE FUNCTION pg_temp.to_beta_later(integer) RETURNS integer LANGUAGE plpgsql AS $$BEGIN PERFORM set_config('tenancy.tenant_id', 'beta', false); RETURN $1; END$$;
BEGIN; SELECT * FROM plain WHERE id = pg_temp.to_beta(); ROLLBACK;                              -- SHOULD FAIL
BEGIN; SELECT * FROM plain WHERE id = pg_temp.to_beta_later(id); ROLLBACK;                      -- SHOULD FAIL
BEGIN; INSERT INTO plain VALUES (pg_temp.to_beta_later(100), 'acme', 'x'); ROLLBACK;            -- SHOULD FAIL
BEGIN; INSERT INTO plain (id, body) VALUES (pg_temp.to_beta() + 100, 'x'); ROLLBACK;            -- SHOULD FAIL
-- No tenant, one that is not there, one that is suspended: as everywhere.
RESET tenancy.tenant_id;
SELECT count(*) FROM plain;                                                                     -- SHOULD FAIL
INSERT INTO plain (id) VALUES (100);                                                            -- SHOULD FAIL
SET tenancy.tenant_id = 'gone';
SELECT count(*) FROM plain;                                                                     -- SHOULD FAIL
INSERT INTO plain VALUES (100, 'gone');                                                         -- SHOULD FAIL
SET tenancy.missing_tenant = 'empty';
RESET tenancy.tenant_id;
SELECT count(*) FROM plain;
INSERT INTO plain VALUES (100, NULL);                                                           -- SHOULD FAIL
RESET tenancy.missing_tenant;

-- A row that is written with the tenant that the statement itself says is not checked once more; any other is.
SET tenancy.tenant_id = 'acme';
BEGIN; INSERT INTO plain (id) VALUES (101) RETURNING tenant_id; INSERT INTO plain VALUES (102, 'acme') RETURNING tenant_id;
       INSERT INTO plain VALUES (103, DEFAULT), (104, 'acme') RETURNING tenant_id; INSERT INTO plain SELECT 106 RETURNING tenant_id; ROLLBACK;
INSERT INTO plain VALUES (100, 'beta');                                                         -- SHOULD FAIL
INSERT INTO plain VALUES (100, 'ACME');                                                         -- SHOULD FAIL
INSERT INTO plain VALUES (100, 'acme '), (101, 'acme');                                         -- SHOULD FAIL
INSERT INTO plain VALUES (100, 'acme'), (101, 'beta');                                          -- SHOULD FAIL
INSERT INTO plain SELECT 100, 'beta';                                                           -- SHOULD FAIL
INSERT INTO plain VALUES (100, NULL);                                                           -- SHOULD FAIL
INSERT INTO plain VALUES (100, (SELECT 'beta'));                                                -- SHOULD FAIL
INSERT INTO plain VALUES (100, left('beta', length('four'))) ;                                           -- SHOULD FAIL
WITH w AS (INSERT INTO plain VALUES (100, 'beta') RETURNING id) SELECT id FROM w;               -- SHOULD FAIL
UPDATE plain SET tenant_id = 'beta' WHERE id = 4;                                               -- SHOULD FAIL
UPDATE plain SET body = 'x' WHERE id IN (4, 5) RETURNING id, tenant_id;
INSERT INTO plain AS p VALUES (4, 'acme', 'once more') ON CONFLICT (id) DO UPDATE SET body = excluded.body || p.body RETURNING *;
INSERT INTO plain AS p VALUES (5, 'acme', 'of beta') ON CONFLICT (id) DO UPDATE SET body = excluded.body || p.body RETURNING *;   -- SHOULD FAIL
INSERT INTO plain AS p VALUES (4, 'acme') ON CONFLICT (id) DO UPDATE SET tenant_id = 'beta';   -- SHOULD FAIL
MERGE INTO plain p USING (VALUES (4), (200)) v (id) ON p.id = v.id WHEN MATCHED THEN UPDATE SET tenant_id = 'beta' WHEN NOT MATCHED THEN INSERT VALUES (v.id, 'acme');   -- SHOULD FAIL
MERGE INTO plain p USING (VALUES (200)) v (id) ON p.id = v.id WHEN NOT MATCHED THEN INSERT VALUES (v.id, 'beta');   -- SHOULD FAIL
-- Where a trigger has the last word on what is written, it is checked.
RESET ROLE;
CREATE FUNCTION give_away() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.tenant_id := 'beta'; RETURN NEW; END$$;
CREATE TRIGGER give_away BEFORE INSERT ON plain FOR EACH ROW EXECUTE FUNCTION give_away();
SET ROLE regress_app;
INSERT INTO plain (id) VALUES (100);                                                            -- SHOULD FAIL
INSERT INTO plain VALUES (100, 'acme');                                                         -- SHOULD FAIL
INSERT INTO plain VALUES (100, 'acme') ON CONFLICT (id) DO UPDATE SET body = 'x';               -- SHOULD FAIL
RESET ROLE;
DROP TRIGGER give_away ON plain;
CREATE TRIGGER give_away BEFORE UPDATE ON plain FOR EACH ROW EXECUTE FUNCTION give_away();
SET ROLE regress_app;
UPDATE plain SET body = 'x' WHERE id = 4;                                                       -- SHOULD FAIL
INSERT INTO plain VALUES (4, 'acme') ON CONFLICT (id) DO UPDATE SET body = 'x';                 -- SHOULD FAIL
RESET ROLE;
DROP TRIGGER give_away ON plain;
-- That of a child, or of a partition.
CREATE TABLE child () INHERITS (plain);
CREATE TRIGGER give_away BEFORE UPDATE ON child FOR EACH ROW EXECUTE FUNCTION give_away();
INSERT INTO child VALUES (300, 'acme', 'of the child');
CREATE FUNCTION give_part_away() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN NEW.body := 'changed'; RETURN NEW; END$$;
CREATE TRIGGER give_away BEFORE INSERT ON parts_acme FOR EACH ROW EXECUTE FUNCTION give_part_away();
SET ROLE regress_app;
UPDATE plain SET body = 'x' WHERE id = 300;                                                     -- SHOULD FAIL
INSERT INTO parts (id) VALUES (100) RETURNING *;
INSERT INTO parts VALUES (100, 'beta');                                                         -- SHOULD FAIL
SELECT id, tenant_id FROM plain WHERE id > 99;
RESET ROLE;
SELECT count(*) FILTER (WHERE tenant_id = 'beta') AS of_beta, count(*) FILTER (WHERE id > 99) AS strays FROM ONLY plain;
DROP TABLE child;
RESET tenancy.tenant_id;

-- A trigger that the table's owner adds while the plan is made.
RESET tenancy.tenant_id;
CREATE TABLE mine (id integer PRIMARY KEY, tenant_id text NOT NULL, body text);
INSERT INTO mine VALUES (4, 'acme'), (5, 'beta');
ALTER TABLE mine OWNER TO regress_owner;
SELECT tenancy.protect('mine');
CREATE FUNCTION arm() RETURNS integer LANGUAGE plpgsql SET search_path = public AS $$
BEGIN CREATE TRIGGER give_away BEFORE INSERT OR UPDATE ON mine FOR EACH ROW EXECUTE FUNCTION give_away(); RETURN 400; END$$;
CREATE FUNCTION armed() RETURNS integer LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN arm(); END$$;
GRANT SET ON PARAMETER tenancy.tenant_id TO regress_owner;
SET ROLE regress_owner;
SET tenancy.tenant_id = 'acme';
INSERT INTO mine (id) VALUES (armed());                                                         -- SHOULD FAIL
UPDATE mine SET body = 'x' WHERE id = 4 AND armed() > 0;                                        -- SHOULD FAIL
RESET tenancy.tenant_id;
RESET ROLE;
REVOKE SET ON PARAMETER tenancy.tenant_id FROM regress_owner;
SELECT id, tenant_id FROM mine ORDER BY id;
-- Policies of one's own are asked, whatever ours says.
CREATE FUNCTION tells(integer) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE WARNING 'asked %', $1; RETURN false; END$$;
CREATE POLICY either ON plain AS RESTRICTIVE FOR INSERT WITH CHECK (tells(id) OR tenant_id = tenancy.current_tenant());
CREATE POLICY other ON plain AS RESTRICTIVE FOR UPDATE USING (true) WITH CHECK (body <> 'forbidden');
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
INSERT INTO plain (id) VALUES (500);
UPDATE plain SET body = 'forbidden' WHERE id = 500;                                             -- SHOULD FAIL
UPDATE plain SET body = 'allowed' WHERE id = 500 RETURNING *;
RESET ROLE;
DROP POLICY either ON plain;
DROP POLICY other ON plain;
ALTER TABLE mine ADD shared_to text, ADD holder text GENERATED ALWAYS AS (coalesce(shared_to, tenant_id)) STORED;
GRANT SELECT, INSERT, UPDATE ON mine TO regress_app;
CREATE POLICY visible ON mine AS RESTRICTIVE USING (holder = tenancy.current_tenant());
SET ROLE regress_app;
UPDATE mine SET shared_to = 'beta' WHERE id = 4;                                                -- SHOULD FAIL
INSERT INTO mine VALUES (4, 'acme') ON CONFLICT (id) DO UPDATE SET shared_to = 'beta';          -- SHOULD FAIL
UPDATE mine SET body = 'x' WHERE id = 4 RETURNING *;
RESET ROLE;
-- Policies of tables that are not protected ask for the tenant, and seal nothing that does not ask.
RESET tenancy.tenant_id;
CREATE TABLE computed (id integer PRIMARY KEY, owner text, tenant_id text NOT NULL GENERATED ALWAYS AS (lower(owner)) STORED);
INSERT INTO computed VALUES (1, 'acme');
ALTER TABLE computed ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY by_hand ON computed USING (tenant_id = tenancy.current_tenant());
CREATE TABLE elsewhere (id integer);
ALTER TABLE elsewhere ENABLE ROW LEVEL SECURITY;
CREATE POLICY all_rows ON elsewhere USING (true);
GRANT SELECT, INSERT, UPDATE ON computed, elsewhere TO regress_app;
SET tenancy.seal = 'transaction';
SET tenancy.tenant_id = 'acme';
SET ROLE regress_app;
UPDATE computed SET owner = 'beta';                                                             -- SHOULD FAIL
INSERT INTO computed VALUES (1, 'acme') ON CONFLICT (id) DO UPDATE SET owner = 'beta';          -- SHOULD FAIL
BEGIN; SELECT count(*) FROM elsewhere; SET LOCAL tenancy.tenant_id = 'beta'; SELECT count(*) FROM plain WHERE tenant_id = 'beta'; ROLLBACK;
BEGIN; SELECT count(*) FROM plain; SET LOCAL tenancy.tenant_id = 'beta'; ROLLBACK;               -- SHOULD FAIL
BEGIN; INSERT INTO plain (id) VALUES (600); SET LOCAL tenancy.tenant_id = 'beta'; ROLLBACK;      -- SHOULD FAIL
RESET ROLE;
RESET tenancy.seal;
RESET tenancy.tenant_id;
DROP TABLE computed, elsewhere;

-- Conditions reach indexes behind such a policy, and are estimated, as behind one that asks.
CREATE TABLE documents (id integer PRIMARY KEY, tenant_id text NOT NULL, words tsvector, name varchar(60), created numeric);
INSERT INTO documents SELECT n, (ARRAY['acme', 'beta'])[1 + n % 2], to_tsvector('simple', 'word' || n), 'Name ' || n, n FROM generate_series(1, 20000) n;
CREATE INDEX documents_words ON documents USING gin (words);
CREATE INDEX documents_lower ON documents (lower(name));
CREATE INDEX documents_created ON documents (created);
CREATE TABLE bundles (id integer NOT NULL, tenant_id varchar(40), words tsvector) PARTITION BY HASH (id);
CREATE TABLE bundles_0 PARTITION OF bundles FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE bundles_1 PARTITION OF bundles FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO bundles SELECT id, CASE WHEN id % 10 > 0 THEN tenant_id END, words FROM documents;
CREATE INDEX bundles_words ON bundles USING gin (words);
SELECT tenancy.protect('documents'), tenancy.protect('bundles', 'shared');
VACUUM ANALYZE documents, bundles;
GRANT SELECT ON documents, bundles TO regress_app;
CREATE FUNCTION scans() RETURNS jsonb LANGUAGE sql AS $$
    SELECT jsonb_object_agg(indexrelid::regclass, pg_stat_get_xact_numscans(indexrelid)) FROM pg_index WHERE indrelid::regclass::text ~ '^(documents|bundles)' $$;
CREATE FUNCTION noted() RETURNS void LANGUAGE sql AS $$ SELECT set_config('my.scans', scans()::text, true) $$;
CREATE FUNCTION scanned() RETURNS TABLE (index text) LANGUAGE sql AS $$
    SELECT n.key COLLATE "C" FROM jsonb_each(scans()) n WHERE n.value <> (current_setting('my.scans')::jsonb) -> n.key ORDER BY 1 $$;
SET tenancy.tenant_id = 'acme';
SET ROLE regress_app;
BEGIN; SELECT noted(); SELECT count(*) FROM documents WHERE words @@ to_tsquery('simple', 'word4'); SELECT * FROM scanned(); ROLLBACK;
BEGIN; SELECT noted(); SELECT count(*) FROM documents WHERE words @@ to_tsquery('simple', 'word5'); SELECT * FROM scanned(); ROLLBACK;
BEGIN; SELECT noted(); SELECT count(*) FROM documents WHERE tenant_id = 'acme' AND words @@ to_tsquery('simple', 'word4'); SELECT * FROM scanned(); ROLLBACK;
BEGIN; SELECT noted(); SELECT count(*) FROM documents WHERE tenant_id = tenancy.current_tenant() AND words @@ to_tsquery('simple', 'word4'); SELECT * FROM scanned(); ROLLBACK;
BEGIN; SELECT noted(); SELECT count(*) FROM documents WHERE lower(name) = 'name 4'; SELECT * FROM scanned(); ROLLBACK;
BEGIN; SELECT noted(); SELECT count(*) FROM documents WHERE created < 9; SELECT * FROM scanned(); ROLLBACK;
BEGIN; SELECT noted(); SELECT count(*) FROM bundles WHERE words @@ to_tsquery('simple', 'word4 | word10 | word5'); SELECT * FROM scanned(); ROLLBACK;
BEGIN; SELECT noted(); SELECT count(*) FROM (SELECT words FROM bundles UNION ALL SELECT words FROM documents) u WHERE words @@ to_tsquery('simple', 'word4 | word10 | word5'); SELECT * FROM scanned(); ROLLBACK;
BEGIN; SELECT noted(); SELECT count(*) FROM documents a JOIN documents b ON b.name = a.name WHERE a.words @@ to_tsquery('simple', 'word4') AND b.words @@ to_tsquery('simple', 'word4'); SELECT * FROM scanned(); ROLLBACK;
-- A policy of the owner's that asks for the tenant as well, and lets others' rows through, does not stand for the one that isolates.
RESET ROLE;
CREATE POLICY a_first ON documents AS RESTRICTIVE USING (id > 19990 OR tenant_id = tenancy.current_tenant());
CREATE POLICY b_second ON documents AS RESTRICTIVE USING (CASE WHEN id > 19997 THEN NOT tells(id) ELSE true END);
SET ROLE regress_app;
SELECT count(*) FROM documents WHERE words @@ to_tsquery('simple', 'word19999');
PREPARE hidden AS SELECT count(*) FROM documents WHERE words @@ to_tsquery('simple', 'word19999');
EXECUTE hidden;
SELECT count(*) FROM documents WHERE words @@ to_tsquery('simple', 'word19998');
RESET ROLE;
DROP POLICY a_first ON documents;
DROP POLICY b_second ON documents;
SET tenancy.index_pushdown = off;
SET ROLE regress_app;
BEGIN; SELECT noted(); SELECT count(*) FROM documents WHERE words @@ to_tsquery('simple', 'word4'); SELECT * FROM scanned(); ROLLBACK;
RESET ROLE;
RESET tenancy.index_pushdown;
RESET tenancy.tenant_id;

-- Columns of the other types, and rows that are everybody's.
SELECT tenancy.create_tenant('00000000-0000-4000-8000-00000000000c'), tenancy.create_tenant('00000000-0000-4000-8000-00000000000d'),
       tenancy.create_tenant('1003'), tenancy.create_tenant('1004');
CREATE TABLE of_uuid (id integer PRIMARY KEY, tenant_id uuid NOT NULL);
CREATE TABLE of_bigint (id integer PRIMARY KEY, tenant_id bigint NOT NULL);
CREATE TABLE of_integer (id integer PRIMARY KEY, tenant_id integer NOT NULL);
CREATE TABLE of_varchar (id integer PRIMARY KEY, tenant_id varchar(40) NOT NULL);
CREATE TABLE of_all (id integer PRIMARY KEY, tenant_id text);
INSERT INTO of_all VALUES (1, NULL), (2, 'acme'), (3, 'beta');
SELECT tenancy.protect('of_uuid'), tenancy.protect('of_bigint'), tenancy.protect('of_integer'), tenancy.protect('of_varchar'), tenancy.protect('of_all', 'shared');
GRANT SELECT, INSERT, UPDATE, DELETE ON of_uuid, of_bigint, of_integer, of_varchar, of_all TO regress_app;
SET ROLE regress_app;
SET tenancy.tenant_id = '00000000-0000-4000-8000-00000000000c';
INSERT INTO of_uuid VALUES (1, DEFAULT), (2, '00000000-0000-4000-8000-00000000000c') RETURNING *;
INSERT INTO of_uuid VALUES (3) RETURNING *;
INSERT INTO of_uuid VALUES (4, '00000000-0000-4000-8000-00000000000C') RETURNING *;
INSERT INTO of_uuid VALUES (5, '00000000-0000-4000-8000-00000000000d');                         -- SHOULD FAIL
UPDATE of_uuid SET id = id + 10 RETURNING *;
SET tenancy.tenant_id = '1003';
INSERT INTO of_bigint VALUES (1) RETURNING *;
INSERT INTO of_bigint VALUES (2, 1003) RETURNING *;
INSERT INTO of_bigint VALUES (3, 1004);                                                         -- SHOULD FAIL
INSERT INTO of_integer VALUES (1) RETURNING *;
INSERT INTO of_integer VALUES (2, 1003) RETURNING *;
INSERT INTO of_integer VALUES (3, 1004);                                                        -- SHOULD FAIL
INSERT INTO of_bigint VALUES (3, 4294968299);                                                   -- SHOULD FAIL: 2 ^ 32 more
INSERT INTO of_varchar VALUES (1) RETURNING *;
INSERT INTO of_varchar VALUES (2, '1003') RETURNING *;
INSERT INTO of_varchar VALUES (3, '1004');                                                      -- SHOULD FAIL
SELECT (SELECT count(*) FROM of_bigint), (SELECT count(*) FROM of_integer), (SELECT count(*) FROM of_varchar);
SELECT count(*) FROM of_uuid;                                                                   -- SHOULD FAIL: no such id
SET tenancy.tenant_id = 'acme';
SELECT * FROM of_all ORDER BY id;
INSERT INTO of_all VALUES (4, NULL);                                                            -- SHOULD FAIL
INSERT INTO of_all VALUES (4, 'beta') RETURNING *;                                              -- SHOULD FAIL
INSERT INTO of_all VALUES (4, DEFAULT), (5, 'acme') RETURNING *;
INSERT INTO of_all (id) VALUES (6) RETURNING *;
UPDATE of_all SET id = id + 10 RETURNING *;
UPDATE of_all SET tenant_id = NULL;                                                             -- SHOULD FAIL
INSERT INTO of_all VALUES (1) ON CONFLICT (id) DO UPDATE SET id = 100;                          -- SHOULD FAIL
RESET ROLE;
RESET tenancy.tenant_id;
SELECT * FROM of_all ORDER BY id;
DEALLOCATE ALL;
DROP VIEW locked;
DROP TABLE parts, plain, mine, documents, bundles, of_uuid, of_bigint, of_integer, of_varchar, of_all;
DROP FUNCTION give_away(), give_part_away(), arm(), armed(), tells(integer), scanned(), noted(), scans();
DELETE FROM _tenancy.tenants WHERE id IN ('00000000-0000-4000-8000-00000000000c', '00000000-0000-4000-8000-00000000000d', '1003', '1004');
