-- A large tenant gets a partition of its own: its rows, and nothing else, are moved there, and nobody is told that they were changed.
\set VERBOSITY default
\set SHOW_CONTEXT never
-- What a statement reads, as the role and tenant in force: the tables in its plan, and how many partitions were left out when it began.
CREATE FUNCTION read_by(statement text) RETURNS TABLE (tables text, left_out text) LANGUAGE plpgsql AS $$
DECLARE
    plan jsonb;
BEGIN
    EXECUTE 'EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, SUMMARY OFF, FORMAT JSON) ' || statement INTO plan;
    RETURN QUERY SELECT string_agg(DISTINCT r #>> '{}', ', '), (jsonb_path_query_first(plan, '$.**."Subplans Removed"') #>> '{}')
                 FROM jsonb_path_query(plan, '$.** ? (@."Node Type" like_regex "Scan")."Relation Name"') AS r;
END
$$;
CREATE VIEW places AS
    SELECT c.relname::text AS partition, pg_get_expr(c.relpartbound, c.oid) AS bound FROM pg_class c WHERE c.relispartition AND c.relkind = 'r' AND c.relname !~ '^(audit|usage)_' ORDER BY c.relname COLLATE "C";

GRANT SELECT ON places TO PUBLIC;
-- Which kind of scan is not the question.
SET enable_bitmapscan = off;
SET enable_indexscan = off;
SET enable_indexonlyscan = off;

CREATE TABLE customer (tenant_id text, id integer, name text, PRIMARY KEY (tenant_id, id));
CREATE TABLE purchase (
    note text, gone integer, tenant_id text, id bigint GENERATED ALWAYS AS IDENTITY, customer integer, earlier bigint, item text, n integer DEFAULT 1 CHECK (n > 0),
    twice integer GENERATED ALWAYS AS (n * 2) STORED, PRIMARY KEY (tenant_id, id) INCLUDE (n), UNIQUE (tenant_id, item),
    FOREIGN KEY (tenant_id, customer) REFERENCES customer, FOREIGN KEY (tenant_id, earlier) REFERENCES purchase
) PARTITION BY LIST (tenant_id);
ALTER TABLE purchase DROP gone, ALTER item SET STORAGE EXTERNAL;
-- With its columns in another order, and what is its own.
CREATE TABLE purchase_rest (dropped text, item text, tenant_id text NOT NULL, n integer CONSTRAINT purchase_n_check CHECK (n > 0), twice integer GENERATED ALWAYS AS (n * 2) STORED,
                            id bigint NOT NULL, earlier bigint, customer integer, note text) WITH (fillfactor = 90, autovacuum_enabled = false, toast.autovacuum_enabled = false);
ALTER TABLE purchase_rest DROP dropped;
ALTER TABLE purchase ATTACH PARTITION purchase_rest DEFAULT;
CREATE INDEX ON purchase USING hash (item) WITH (fillfactor = 80);
CREATE INDEX "odd ON ONLY index" ON purchase (lower(note) COLLATE "C" DESC) INCLUDE (n) WHERE n > 1;
CREATE TABLE line (tenant_id text, purchase bigint, n integer, FOREIGN KEY (tenant_id, purchase) REFERENCES purchase ON DELETE CASCADE);
CREATE TABLE fired (what text);
CREATE FUNCTION note_fired() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO fired VALUES (concat(TG_OP, ' ', TG_TABLE_NAME)); RETURN coalesce(NEW, OLD); END $$;
CREATE TRIGGER mine BEFORE INSERT OR UPDATE OR DELETE ON purchase FOR EACH ROW EXECUTE FUNCTION note_fired();
ALTER TABLE purchase ENABLE ALWAYS TRIGGER mine;
CREATE TRIGGER statement AFTER INSERT OR DELETE ON purchase_rest FOR EACH STATEMENT EXECUTE FUNCTION note_fired();
INSERT INTO customer SELECT t, g, t || g FROM unnest('{acme,beta,gone}'::text[]) AS t, generate_series(1, 3) AS g;
INSERT INTO purchase (tenant_id, customer, item, note, n) SELECT t, 1 + g % 3, 'item ' || g, 'Note', g FROM unnest('{acme,beta}'::text[]) AS t, generate_series(1, 1000) AS g;
UPDATE purchase p SET earlier = (SELECT min(id) FROM purchase e WHERE e.tenant_id = p.tenant_id);
INSERT INTO line SELECT tenant_id, id, 1 FROM purchase;
SET client_min_messages = warning;
SELECT tenancy.isolate_tenant('purchase', 'acme');             -- SHOULD FAIL: not protected
SELECT tenancy.protect('customer'), tenancy.protect('purchase'), tenancy.protect('line');
ALTER TABLE customer OWNER TO regress_owner;
ALTER TABLE purchase OWNER TO regress_owner;
ALTER TABLE purchase_rest OWNER TO regress_owner;
SELECT tenancy.meter('purchase', 'purchases'), tenancy.meter('purchase', 'numbers', 'sum(n)');
SELECT tenancy.audit('purchase');
RESET client_min_messages;
GRANT SELECT, INSERT, UPDATE, DELETE ON customer, purchase, line TO regress_app;
GRANT SELECT ON purchase_rest TO regress_app;
GRANT INSERT, SELECT ON fired TO PUBLIC;
TRUNCATE fired;

-- Who may, and what cannot be.
SET ROLE regress_app;
SELECT tenancy.isolate_tenant('purchase', 'acme');             -- SHOULD FAIL: not its owner
SELECT _tenancy.isolate('purchase'::regclass, 'acme', NULL, NULL);     -- SHOULD FAIL: likewise
SET tenancy.tenant_id = 'acme';
SELECT tenancy.isolate_tenant('purchase', 'acme');             -- SHOULD FAIL: in the context of a tenant
RESET tenancy.tenant_id;
RESET ROLE;
SET tenancy.tenant_id = 'acme';
SELECT tenancy.isolate_tenant('purchase', 'acme');             -- SHOULD FAIL: likewise
RESET tenancy.tenant_id;
SET ROLE regress_owner;
SELECT _tenancy.isolate_as('purchase', 'acme', NULL, NULL, 10);        -- SHOULD FAIL: granted to nobody
SELECT _tenancy.carry_rows('purchase_rest'::regclass, 'purchase_rest'::regclass, 'true', 'n', NULL);     -- SHOULD FAIL
SELECT _tenancy.move_rows('purchase_rest'::regclass, 'purchase_rest'::regclass, 'true', 'n', NULL);      -- SHOULD FAIL
SELECT _tenancy.run_as_owner('purchase'::regclass, 'TABLE purchase', true);  -- SHOULD FAIL
SELECT _tenancy.add_known_check('purchase'::regclass, 'ALTER TABLE purchase ADD CHECK (false)');         -- SHOULD FAIL
SELECT tenancy.isolate_tenant('purchase', NULL);               -- SHOULD FAIL
SELECT tenancy.isolate_tenant(NULL, 'acme');                   -- SHOULD FAIL
SELECT tenancy.isolate_tenant('purchase', 'no body');          -- SHOULD FAIL
SELECT tenancy.isolate_tenant('purchase', 'nobody');           -- SHOULD FAIL
SELECT tenancy.isolate_tenant('purchase_rest', 'acme');        -- SHOULD FAIL: a partition
SELECT tenancy.isolate_tenant('customer', 'acme');             -- SHOULD FAIL: not partitioned
SELECT tenancy.isolate_tenant('purchase', 'acme', 'customer'); -- SHOULD FAIL: a name that is taken
SELECT tenancy.isolate_tenant('purchase', 'acme', tablespace => 'pg_global');     -- SHOULD FAIL
RESET ROLE;
SELECT tenancy.isolate_tenant('places', 'acme');               -- SHOULD FAIL: a view
TABLE places;
TABLE fired;

-- By the owner, who sees no row of it, being under the policies. What was rolled back is as it was.
SET ROLE regress_owner;
BEGIN;
SELECT tenancy.isolate_tenant('purchase', 'acme');
TABLE places;
ROLLBACK;
TABLE places;
SELECT tenancy.isolate_tenant('purchase', 'acme');
SELECT tenancy.isolate_tenant('purchase', 'acme');             -- it has one
RESET ROLE;
SELECT tableoid::regclass AS partition, tenant_id, count(*), sum(n) AS n, sum(twice) AS twice, count(DISTINCT earlier) AS earlier FROM purchase GROUP BY 1, 2 ORDER BY 1, 2;
-- No trigger of a user's was called, no meter moved, and nothing is on record of the rows.
TABLE fired;
SELECT * FROM tenancy.reconcile('purchase');
SELECT tenant_id, operation, relation, new - 'isolated_at' AS new, role FROM tenancy.audit_log WHERE relation ~ 'purchase' OR new ->> 'relation' = 'public.purchase' AND relation = '_tenancy.isolated';
-- The partition is what PostgreSQL makes of one, in the place of the one before, protected and granted to nobody.
SELECT c.relname, c.reloptions, (SELECT t.reloptions FROM pg_class t WHERE t.oid = c.reltoastrelid) AS toast, c.relowner::regrole, c.relacl IS NULL AS is_ungranted
FROM pg_class c WHERE c.relname IN ('purchase_rest', 'purchase_acme') ORDER BY 1;
SELECT a.attname, a.attstorage, a.attgenerated, pg_get_expr(d.adbin, d.adrelid) AS expression
FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attrelid = 'purchase_acme'::regclass AND a.attnum > 0 ORDER BY a.attnum;
SELECT replace(pg_get_indexdef(i.indexrelid), 'public.', '') AS index, h.inhparent::regclass AS of FROM pg_index i JOIN pg_inherits h ON h.inhrelid = i.indexrelid WHERE i.indrelid = 'purchase_acme'::regclass ORDER BY 2;
SELECT k.conrelid::regclass AS relation, k.conname, k.contype, k.convalidated, k.conparentid <> 0 AS is_inherited FROM pg_constraint k
WHERE k.conrelid IN ('purchase_rest'::regclass, 'purchase_acme'::regclass) AND k.contype IN ('c', 'f', 'p', 'u') AND k.confrelid IN (0, 'customer'::regclass, 'purchase'::regclass) ORDER BY 1, 2;
SELECT tgname, tgenabled, tgparentid <> 0 AS is_inherited FROM pg_trigger WHERE tgrelid = 'purchase_acme'::regclass AND NOT tgisinternal ORDER BY 1;
SELECT relation, kind, drift FROM tenancy.protected_tables WHERE relation::text ~ 'purchase' ORDER BY 1;
SELECT drift FROM tenancy.meters WHERE relation = 'purchase'::regclass;

-- Only its partition is read for it, and not for others.
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
EXPLAIN (COSTS OFF) SELECT * FROM purchase;
SELECT * FROM read_by('SELECT count(*) FROM purchase');
SELECT * FROM read_by('UPDATE purchase SET note = note WHERE id < 10');
SELECT count(*), min(id) = min(earlier) AS is_own FROM purchase;
SET tenancy.tenant_id = 'beta';
EXPLAIN (COSTS OFF) SELECT count(*) FROM purchase;
SELECT * FROM read_by('SELECT count(*) FROM purchase');
SELECT * FROM read_by('DELETE FROM purchase WHERE id < 0');
SELECT count(*) FROM purchase;
-- A generic plan is one for all tenants.
SET plan_cache_mode = force_generic_plan;
PREPARE counted AS SELECT count(*) FROM purchase;
SELECT * FROM read_by('EXECUTE counted');
EXECUTE counted;
SET tenancy.tenant_id = 'acme';
SELECT * FROM read_by('EXECUTE counted');
EXECUTE counted;
SET tenancy.tenant_id = 'gone';
EXECUTE counted;                                               -- SHOULD FAIL: suspended
RESET plan_cache_mode;
-- Named directly, it is nobody's, and no other tenant's.
SELECT count(*) FROM purchase_acme;                            -- SHOULD FAIL: granted to nobody
RESET tenancy.tenant_id;
RESET ROLE;
SET ROLE regress_owner;
SET tenancy.missing_tenant = 'empty';
SELECT count(*) FROM purchase_acme;
RESET tenancy.missing_tenant;
RESET ROLE;
-- Where a superuser names it, the plan has it alone.
EXPLAIN (COSTS OFF) SELECT * FROM purchase WHERE tenant_id = 'acme' AND n = 1;

-- All goes on: identity, constraints, foreign keys, triggers, meters, the trail.
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
INSERT INTO purchase (customer, item) VALUES (1, 'new') RETURNING tableoid::regclass, tenant_id, id > 2000 AS is_next, twice;
INSERT INTO purchase (customer, item) VALUES (1, 'new');       -- SHOULD FAIL
INSERT INTO purchase (customer, item) VALUES (9, 'newer');     -- SHOULD FAIL
INSERT INTO purchase (customer, item, n) VALUES (1, 'newer', 0);       -- SHOULD FAIL
INSERT INTO line (purchase) VALUES (1), (-1);                  -- SHOULD FAIL
DELETE FROM customer WHERE id = 1;                             -- SHOULD FAIL
UPDATE purchase SET tenant_id = 'beta' WHERE item = 'new';     -- SHOULD FAIL
SELECT count(*) FROM line;
DELETE FROM purchase WHERE item IN ('item 1000', 'new');
SELECT count(*) FROM line;
RESET tenancy.tenant_id;
RESET ROLE;
SELECT * FROM fired ORDER BY what;
SELECT * FROM tenancy.reconcile('purchase');
SELECT operation, count(*) FROM tenancy.audit_log WHERE relation ~ 'purchase' GROUP BY 1 ORDER BY 1;

-- Another one, by a superuser who does not see past his guard; one that has no rows yet; with a name, and a place.
SET allow_in_place_tablespaces = on;
CREATE TABLESPACE regress_place LOCATION '';
SET tenancy.bypass_guard = 'refuse';
SELECT tenancy.isolate_tenant('purchase', 'beta', 'B E "T" A', 'regress_place');
SET row_security = off;
SELECT tenancy.isolate_tenant('purchase', 'gone');
RESET row_security;
RESET tenancy.bypass_guard;
TABLE places;
SELECT tablespace FROM pg_tables WHERE tablename = 'B E "T" A';
SELECT tableoid::regclass, tenant_id, count(*) FROM purchase GROUP BY 1, 2 ORDER BY 2;
SELECT relation, drift FROM tenancy.protected_tables WHERE drift <> '{}';
SELECT drift FROM tenancy.meters WHERE relation = 'purchase'::regclass;
SELECT * FROM tenancy.reconcile('purchase');
SELECT relation, check_name, result, detail FROM tenancy.prove('regress_app', 'purchase') WHERE result = 'leaked';
SELECT rule, object, problem FROM tenancy.lint() WHERE object ~ 'purchase|B E' ORDER BY 1, 2;

-- The way back, by hand: see the README.
BEGIN;
LOCK TABLE purchase IN ACCESS EXCLUSIVE MODE;
CREATE TEMP TABLE line_kept ON COMMIT DROP AS SELECT * FROM line;
ALTER TABLE line DROP CONSTRAINT line_tenant_id_purchase_fkey;
ALTER TABLE purchase DROP CONSTRAINT purchase_tenant_id_earlier_fkey;
ALTER TABLE purchase DETACH PARTITION "B E ""T"" A";
SELECT count(*) FROM tenancy.reconcile('purchase', true);
INSERT INTO purchase (note, tenant_id, id, customer, earlier, item, n) OVERRIDING SYSTEM VALUE
    SELECT note, tenant_id, id, customer, earlier, item, n FROM "B E ""T"" A";
DROP TABLE "B E ""T"" A";
ALTER TABLE purchase ADD FOREIGN KEY (tenant_id, earlier) REFERENCES purchase;
ALTER TABLE line ADD FOREIGN KEY (tenant_id, purchase) REFERENCES purchase ON DELETE CASCADE;
COMMIT;
SELECT tableoid::regclass, tenant_id, count(*) FROM purchase GROUP BY 1, 2 ORDER BY 2;
SELECT * FROM tenancy.reconcile('purchase');
SELECT count(*) FROM _tenancy.isolated WHERE relation = 'purchase'::regclass;
SET client_min_messages = warning;
SELECT tenancy.unaudit('purchase'), tenancy.unmeter('purchase', 'purchases'), tenancy.unmeter('purchase', 'numbers');
SELECT tenancy.unprotect('purchase');
SELECT tgname FROM pg_trigger WHERE tgrelid = 'purchase_acme'::regclass AND NOT tgisinternal;
DROP TABLE line, purchase, customer;
DROP TABLESPACE regress_place;
RESET client_min_messages;
