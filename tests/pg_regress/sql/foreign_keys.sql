-- Foreign keys between protected tables. Without the tenant column a row of one tenant can reference one of another, which tells
-- that it exists, and a deletion cascades to rows of another.
\set VERBOSITY default
CREATE TABLE project (id integer PRIMARY KEY, tenant_id text NOT NULL);
CREATE TABLE task (id integer PRIMARY KEY, tenant_id text NOT NULL, project_id integer REFERENCES project ON DELETE CASCADE);
INSERT INTO project VALUES (1, 'acme'), (2, 'beta');
GRANT SELECT, INSERT, UPDATE, DELETE ON project, task TO regress_app;
SET client_min_messages = warning;
SELECT tenancy.protect('project', foreign_keys => 'keep'), tenancy.protect('task', foreign_keys => 'keep');
RESET client_min_messages;
SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
INSERT INTO task (id, project_id) VALUES (1, 2);               -- references a row of beta, and so learns of it
INSERT INTO task (id, project_id) VALUES (2, 3);               -- SHOULD FAIL: there is no such row
ROLLBACK;
RESET ROLE;
SELECT relation, name, parent, is_scoped, obstacle, array_to_string(statements, E'\n') FROM tenancy.foreign_keys;
SELECT tenancy.protect('task', foreign_keys => 'maybe');       -- SHOULD FAIL
SELECT tenancy.protect('task');
\d task
SELECT relation, name, is_scoped, statements FROM tenancy.foreign_keys;
SELECT tenancy.protect('task');
SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SAVEPOINT s;
INSERT INTO task (id, project_id) VALUES (1, 2);               -- SHOULD FAIL
ROLLBACK TO s;
INSERT INTO task (id, project_id) VALUES (2, 3);               -- SHOULD FAIL: in the same words
ROLLBACK TO s;
INSERT INTO task (id, project_id) VALUES (3, 1), (4, NULL);
UPDATE task SET project_id = 2 WHERE id = 3;                   -- SHOULD FAIL
ROLLBACK TO s;
INSERT INTO task (id, project_id) VALUES (3, 1);
DELETE FROM project;
SELECT * FROM task;
ROLLBACK;
RESET ROLE;
DROP TABLE task, project;

-- Every kind of action keeps its meaning; names, other columns and deferral as well. Protected in either order, by an owner.
SET ROLE regress_owner;
CREATE TABLE "Par ent" ("Key A" integer, b integer, "Tenant" uuid NOT NULL, PRIMARY KEY ("Key A", b), UNIQUE (b));
CREATE TABLE child (
    id integer, "Tenant" uuid NOT NULL, a integer, b integer, c integer, d integer, e integer DEFAULT 0, f integer, g integer,
    CONSTRAINT twofold FOREIGN KEY (a, b) REFERENCES "Par ent" DEFERRABLE INITIALLY DEFERRED,
    CONSTRAINT nulls FOREIGN KEY (c) REFERENCES "Par ent" (b) ON DELETE SET NULL ON UPDATE CASCADE,
    CONSTRAINT defaults FOREIGN KEY (e) REFERENCES "Par ent" (b) ON DELETE SET DEFAULT,
    CONSTRAINT partly FOREIGN KEY (a, b) REFERENCES "Par ent" ON DELETE SET NULL (a),
    CONSTRAINT strict FOREIGN KEY (f) REFERENCES "Par ent" (b) MATCH FULL ON DELETE RESTRICT,
    CONSTRAINT full_match FOREIGN KEY (a, b) REFERENCES "Par ent" MATCH FULL,
    CONSTRAINT updated FOREIGN KEY (g) REFERENCES "Par ent" (b) ON UPDATE SET NULL,
    CONSTRAINT scoped FOREIGN KEY (d) REFERENCES "Par ent" (b));
RESET ROLE;
SELECT tenancy.create_tenant('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
SET ROLE regress_owner;
INSERT INTO "Par ent" VALUES (1, 1, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'), (2, 0, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
INSERT INTO child VALUES (1, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 1, 1, 1, 1, 1, 1, 1);
SELECT tenancy.protect('child', tenant_column => 'Tenant');
SELECT tenancy.protect('"Par ent"', tenant_column => 'Tenant');
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f' AND conrelid = 'child'::regclass ORDER BY 1;
RESET ROLE;
ALTER TABLE child DROP CONSTRAINT strict, DROP CONSTRAINT full_match, DROP CONSTRAINT updated, DROP CONSTRAINT twofold, DROP CONSTRAINT scoped,
    DROP CONSTRAINT partly;
BEGIN;
DELETE FROM "Par ent" WHERE b = 1;
SELECT * FROM child;
ROLLBACK;
DROP TABLE child, "Par ent";

-- More than 64 MB: it would hold writers up, so the lines are told, and none of them holds for long.
CREATE TABLE large (id integer PRIMARY KEY, tenant_id text NOT NULL, body text);
ALTER TABLE large ALTER body SET STORAGE PLAIN;
INSERT INTO large SELECT n, 'acme', repeat('x', 7000) FROM generate_series(1, 8500) AS n;
CREATE TABLE small (id integer, tenant_id text NOT NULL, large_id integer REFERENCES large);
INSERT INTO small VALUES (1, 'acme', 1);
SELECT tenancy.protect('large'), tenancy.protect('small');
SELECT name, is_scoped, unnest(statements) FROM tenancy.foreign_keys WHERE relation = 'small'::regclass;
SELECT unnest(statements) FROM tenancy.foreign_keys WHERE relation = 'small'::regclass \gexec
SELECT conname, convalidated, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f' AND conrelid = 'small'::regclass;
DROP TABLE small, large;

-- Partitions, and partitions of partitions, on both sides: index by index, and key by key.
CREATE TABLE place (region text, id integer, tenant_id text NOT NULL, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE place_eu PARTITION OF place FOR VALUES IN ('eu') PARTITION BY RANGE (id);
CREATE TABLE place_eu_1 PARTITION OF place_eu FOR VALUES FROM (0) TO (10);
CREATE TABLE "place_eu_Two" PARTITION OF place_eu FOR VALUES FROM (10) TO (20);
CREATE TABLE place_us PARTITION OF place FOR VALUES IN ('us');
CREATE TABLE visit (id integer, tenant_id text NOT NULL, region text, place_id integer,
                    CONSTRAINT at FOREIGN KEY (region, place_id) REFERENCES place ON DELETE SET NULL) PARTITION BY RANGE (id);
CREATE TABLE visit_1 PARTITION OF visit FOR VALUES FROM (0) TO (10);
CREATE TABLE visit_2 PARTITION OF visit FOR VALUES FROM (10) TO (20) PARTITION BY LIST (id);
CREATE TABLE visit_2_1 PARTITION OF visit_2 DEFAULT;
INSERT INTO place VALUES ('eu', 1, 'acme'), ('eu', 11, 'beta'), ('us', 1, 'acme');
INSERT INTO visit VALUES (1, 'acme', 'eu', 1), (11, 'beta', 'eu', 11), (12, 'acme', 'us', 1);
SET client_min_messages = warning;
SELECT tenancy.protect('place'), tenancy.protect('visit', foreign_keys => 'keep');
RESET client_min_messages;
SELECT s.statement FROM tenancy.foreign_keys f, unnest(f.statements) WITH ORDINALITY AS s(statement, place)
WHERE f.relation = 'visit'::regclass AND s.statement !~ '(ADD CONSTRAINT .*|VALIDATE CONSTRAINT tenancy_at);$' ORDER BY s.place;
-- The key of a partitioned table is only made where its rows are known to be good: NOT VALID, or with those of all partitions.
SELECT count(*) FILTER (WHERE s.statement ~ 'NOT VALID;$') = count(*) FILTER (WHERE s.statement ~ 'VALIDATE CONSTRAINT tenancy_at;$') AS all_validated,
       bool_and(s.statement ~ 'NOT VALID;$' OR s.place > v.last) FILTER (WHERE s.statement ~ 'ADD CONSTRAINT') AS none_is_scanned_for
FROM tenancy.foreign_keys f, unnest(f.statements) WITH ORDINALITY AS s(statement, place),
     LATERAL (SELECT max(x.place) AS last FROM unnest(f.statements) WITH ORDINALITY AS x(statement, place) WHERE x.statement ~ 'VALIDATE CONSTRAINT tenancy_at;$') v
WHERE f.relation = 'visit'::regclass;
-- 18 has others than those before it.
\set ECHO none
SELECT unnest(statements) FROM tenancy.foreign_keys WHERE relation = 'visit'::regclass \gexec
\set ECHO all
SELECT relation, name, parent, is_scoped, obstacle FROM tenancy.foreign_keys;
SELECT c.conrelid::regclass, bool_and(c.convalidated) AS valid, count(*), min(pg_get_constraintdef(c.oid)) AS definition
FROM pg_constraint c WHERE c.contype = 'f' AND c.conrelid::regclass::text ~ '^visit' AND c.confrelid = 'place'::regclass GROUP BY 1 ORDER BY 1;
SELECT i.indrelid::regclass, i.indexrelid::regclass, i.indisvalid FROM pg_index i
WHERE i.indrelid::regclass::text ~ '^"?place' AND i.indisunique AND NOT i.indisprimary ORDER BY i.indrelid::regclass::text COLLATE "C";
INSERT INTO visit VALUES (2, 'acme', 'eu', 11);                -- SHOULD FAIL: of beta
INSERT INTO visit VALUES (13, 'beta', 'us', 1);                -- SHOULD FAIL: of acme
CREATE TABLE visit_3 PARTITION OF visit FOR VALUES FROM (20) TO (30);
INSERT INTO visit VALUES (21, 'beta', 'eu', 1);                -- SHOULD FAIL: of acme
INSERT INTO visit VALUES (21, 'beta', 'eu', 11);
DELETE FROM place WHERE tenant_id = 'beta';
SELECT * FROM visit ORDER BY id;
DROP TABLE visit, place;

-- Rows that reference those of another tenant already; shared tables; a key to itself; another's table; partitions.
CREATE TABLE project (id integer PRIMARY KEY, tenant_id text NOT NULL, parent_id integer REFERENCES project);
CREATE TABLE task (id integer, tenant_id text NOT NULL, project_id integer REFERENCES project);
CREATE TABLE price (id integer PRIMARY KEY, tenant_id text);
CREATE TABLE line (id integer, tenant_id text NOT NULL, price_id integer REFERENCES price);
CREATE TABLE event (id integer, tenant_id text NOT NULL, project_id integer REFERENCES project) PARTITION BY RANGE (id);
CREATE TABLE event_1 PARTITION OF event FOR VALUES FROM (0) TO (10);
CREATE TABLE log (day date, id integer, tenant_id text NOT NULL, PRIMARY KEY (day, id)) PARTITION BY RANGE (day);
CREATE TABLE log_1 PARTITION OF log FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE note (day date, log_id integer, tenant_id text NOT NULL, FOREIGN KEY (day, log_id) REFERENCES log);
INSERT INTO project VALUES (1, 'acme', NULL), (2, 'beta', NULL), (3, 'acme', 1);
INSERT INTO task VALUES (1, 'acme', 2);
INSERT INTO event VALUES (1, 'acme', 1);
INSERT INTO log VALUES ('2026-02-02', 1, 'acme');
INSERT INTO note VALUES ('2026-02-02', 1, 'acme');
SET client_min_messages = warning;
SELECT tenancy.protect('price', 'shared'), tenancy.protect('project'), tenancy.protect('log');
RESET client_min_messages;
SELECT tenancy.protect('line');
SELECT tenancy.protect('task');
SELECT tenancy.protect('event');
SELECT tenancy.protect('note');
SELECT relation, name, parent, is_scoped, obstacle FROM tenancy.foreign_keys ORDER BY 1, 2;
ALTER TABLE project OWNER TO regress_owner;
DELETE FROM task;
SET ROLE regress_owner;
SELECT tenancy.protect('project');                             -- task is not his
RESET ROLE;
SELECT tenancy.protect('project');
-- Statements to be typed do what protect would.
ALTER TABLE note DROP CONSTRAINT note_day_log_id_fkey, ADD CONSTRAINT again FOREIGN KEY (day, log_id) REFERENCES log;
SELECT unnest(statements) AS statement FROM tenancy.foreign_keys WHERE name = 'again' \gexec
SELECT relation, name, parent, is_scoped FROM tenancy.foreign_keys ORDER BY 1, 2;
-- They stay when the protection is given up.
SET client_min_messages = warning;
SELECT tenancy.unprotect('note');
SELECT conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype = 'f' AND conrelid = 'note'::regclass AND conparentid = 0;
DROP TABLE note, log, event, line, price, task, project;
DELETE FROM _tenancy.tenants WHERE id LIKE 'a0eebc99%';

-- Interrupted, a list goes on where it was left: read anew after some of its statements, from the beginning or before the end, where 18
-- has others than those before it. It ends with one index and one key for each table, and no name but the first is taken. Nobody can
-- tell that RENAME is all that is missing.
CREATE PROCEDURE pg_temp.anew() LANGUAGE plpgsql AS $$
BEGIN
    SET LOCAL client_min_messages = warning;
    DROP TABLE IF EXISTS visit, place;
    CREATE TABLE place (region text, id integer, tenant_id text NOT NULL, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
    CREATE TABLE place_eu PARTITION OF place FOR VALUES IN ('eu') PARTITION BY RANGE (id);
    CREATE TABLE place_eu_1 PARTITION OF place_eu FOR VALUES FROM (0) TO (10);
    -- As after DROP COLUMN, its columns have other numbers.
    CREATE TABLE place_us (gone integer, id integer NOT NULL, tenant_id text NOT NULL, region text NOT NULL);
    ALTER TABLE place_us DROP COLUMN gone;
    ALTER TABLE place ATTACH PARTITION place_us FOR VALUES IN ('us');
    CREATE TABLE visit (id integer, tenant_id text NOT NULL, region text, place_id integer,
                        CONSTRAINT at FOREIGN KEY (region, place_id) REFERENCES place ON DELETE SET NULL) PARTITION BY RANGE (id);
    CREATE TABLE visit_1 PARTITION OF visit FOR VALUES FROM (0) TO (10);
    CREATE TABLE visit_2 PARTITION OF visit FOR VALUES FROM (10) TO (20);
    INSERT INTO place VALUES ('eu', 1, 'acme'), ('us', 1, 'acme');
    INSERT INTO visit VALUES (1, 'acme', 'eu', 1), (12, 'acme', 'us', 1);
    PERFORM tenancy.protect('place'), tenancy.protect('visit', foreign_keys => 'keep');
END $$;
CREATE PROCEDURE pg_temp.go_on(statements text[]) LANGUAGE plpgsql AS $$
DECLARE
    statement text;
    failed integer := 0;
BEGIN
    FOREACH statement IN ARRAY statements LOOP
        BEGIN
            EXECUTE replace(statement, 'CONCURRENTLY', '');
        EXCEPTION WHEN OTHERS THEN
            failed := failed + 1;
        END;
    END LOOP;
    RAISE NOTICE '% failed', CASE failed WHEN 0 THEN 'none' ELSE 'some' END;
END $$;
CREATE VIEW pg_temp.list AS SELECT s.statement, s.place, cardinality(f.statements) AS statements
FROM tenancy.foreign_keys f, unnest(f.statements) WITH ORDINALITY AS s(statement, place) WHERE f.relation = to_regclass('visit') AND f.name = 'at' ORDER BY s.place;
CREATE VIEW pg_temp.made AS
SELECT (SELECT string_agg(f.name || CASE WHEN f.is_scoped THEN ' scoped' ELSE '' END, ', ') FROM tenancy.foreign_keys f WHERE f.relation = to_regclass('visit')) AS name,
       (SELECT string_agg(x.relname || CASE WHEN i.indisvalid THEN '' ELSE ' invalid' END, E'\n' ORDER BY x.relname COLLATE "C")
        FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
        WHERE i.indrelid IN (SELECT relid FROM pg_partition_tree(to_regclass('place'))) AND i.indisunique AND NOT i.indisprimary) AS indexes,
       (SELECT string_agg(concat_ws(' ', count, valid), ', ')
        FROM (SELECT count(*), bool_and(k.convalidated) AS valid FROM pg_partition_tree(to_regclass('visit')) t JOIN pg_constraint k ON k.conrelid = t.relid
              WHERE k.contype = 'f' AND k.confrelid = to_regclass('place') GROUP BY t.relid ORDER BY t.relid) k) AS keys;
\pset format unaligned
\pset tuples_only on
\set ECHO none
CALL pg_temp.anew(); SELECT statement FROM pg_temp.list LIMIT 0 \gexec
SELECT statement FROM pg_temp.list \gexec
SELECT 'after none', * FROM pg_temp.made;
CALL pg_temp.anew(); SELECT statement FROM pg_temp.list LIMIT 1 \gexec
SELECT statement FROM pg_temp.list \gexec
SELECT 'after 1', * FROM pg_temp.made;
CALL pg_temp.anew(); SELECT statement FROM pg_temp.list LIMIT 2 \gexec
SELECT statement FROM pg_temp.list \gexec
SELECT 'after 2', * FROM pg_temp.made;
-- Three times.
CALL pg_temp.anew(); SELECT statement FROM pg_temp.list LIMIT 3 \gexec
SELECT statement FROM pg_temp.list LIMIT 1 \gexec
SELECT statement FROM pg_temp.list LIMIT 1 \gexec
SELECT statement FROM pg_temp.list \gexec
SELECT 'after 3, 1 and 1', * FROM pg_temp.made;
CALL pg_temp.anew(); SELECT statement FROM pg_temp.list LIMIT 6 \gexec
SELECT statement FROM pg_temp.list \gexec
SELECT 'after 6', * FROM pg_temp.made;
CALL pg_temp.anew(); SELECT statement FROM pg_temp.list WHERE place <= statements - 6 \gexec
SELECT statement FROM pg_temp.list \gexec
SELECT 'before the last 6', * FROM pg_temp.made;
CALL pg_temp.anew(); SELECT statement FROM pg_temp.list WHERE place <= statements - 5 \gexec
SELECT statement FROM pg_temp.list \gexec
SELECT 'before the last 5', * FROM pg_temp.made;
CALL pg_temp.anew(); SELECT statement FROM pg_temp.list WHERE place <= statements - 4 \gexec
SELECT statement FROM pg_temp.list \gexec
SELECT 'before the last 4', * FROM pg_temp.made;
CALL pg_temp.anew(); SELECT statement FROM pg_temp.list WHERE place <= statements - 3 \gexec
SELECT statement FROM pg_temp.list \gexec
SELECT 'before the last 3', * FROM pg_temp.made;
CALL pg_temp.anew(); SELECT statement FROM pg_temp.list WHERE place <= statements - 2 \gexec
SELECT statement FROM pg_temp.list \gexec
SELECT 'before the last 2', * FROM pg_temp.made;
CALL pg_temp.anew(); SELECT statement FROM pg_temp.list WHERE place <= statements - 1 \gexec
SELECT statement FROM pg_temp.list \gexec
SELECT 'before the last', * FROM pg_temp.made;
-- protect goes on as well, with keys of partitions that are not valid yet.
CALL pg_temp.anew(); SELECT statement FROM pg_temp.list WHERE place <= statements - 4 \gexec
SET client_min_messages = warning;
SELECT tenancy.protect('visit', foreign_keys => 'upgrade');
RESET client_min_messages;
SELECT 'by protect', * FROM pg_temp.made;
\set ECHO all
-- An index that could not be built is built anew; one that is under way to nowhere is dropped, with what is attached to it: there,
-- PostgreSQL never finds that it is valid. Attached though it is not valid, as psql goes on after an error:
CALL pg_temp.anew();
SELECT statement FROM pg_temp.list LIMIT 4 \gexec
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'tenancy_place_us_region_id_key'::regclass;
SELECT statement FROM pg_temp.list WHERE statement ~ 'INDEX';
SELECT statement FROM pg_temp.list WHERE statement ~ 'ATTACH' LIMIT 1 \gexec
SELECT statement FROM pg_temp.list WHERE statement ~ 'INDEX';
\set ECHO none
SELECT statement FROM pg_temp.list \gexec
\set ECHO all
SELECT * FROM pg_temp.made;
-- The last partition without an index is gone:
CALL pg_temp.anew();
SELECT statement FROM pg_temp.list LIMIT 5 \gexec
DELETE FROM visit WHERE id = 1;
ALTER TABLE place_eu DETACH PARTITION place_eu_1;
DROP TABLE place_eu_1;
SELECT statement FROM pg_temp.list WHERE statement ~ 'INDEX';
SET client_min_messages = warning;
SELECT tenancy.protect('visit', foreign_keys => 'upgrade');
RESET client_min_messages;
SELECT * FROM pg_temp.made;
-- A partition is made after the list was read: its last statements fail, the key stays, and the list is read anew.
CALL pg_temp.anew();
CREATE TEMPORARY TABLE read AS SELECT * FROM pg_temp.list;
CREATE TABLE place_as PARTITION OF place FOR VALUES IN ('as');
SELECT array_agg(statement ORDER BY place) AS read FROM pg_temp.read \gset
CALL pg_temp.go_on(:'read');
SELECT * FROM pg_temp.made;
SELECT statement FROM pg_temp.list WHERE statement ~ 'INDEX';
\set ECHO none
SELECT statement FROM pg_temp.list \gexec
\set ECHO all
SELECT * FROM pg_temp.made;
-- Others' indexes of the same columns are taken; not of some rows, or in another order. Names that are taken are told apart.
CALL pg_temp.anew();
CREATE UNIQUE INDEX of_others ON place_eu_1 (tenant_id, region, id);
CREATE UNIQUE INDEX too_many ON place_us (tenant_id, region, id) WHERE id > 0;
CREATE UNIQUE INDEX other_order ON place_us (region, tenant_id, id);
CREATE TABLE tenancy_place_us_region_id_key ();
\set ECHO none
SELECT format('CREATE TABLE tenancy_%s_3_4_2_key ()', 'place_us'::regclass::oid) AS statement \gexec
\set ECHO all
SELECT replace(statement, 'place_us'::regclass::oid::text, '<oid>') FROM pg_temp.list WHERE statement ~ 'INDEX';
\set ECHO none
SELECT statement FROM pg_temp.list LIMIT 4 \gexec
\set ECHO all
SELECT replace(statement, 'place_us'::regclass::oid::text, '<oid>') FROM pg_temp.list WHERE statement ~ 'INDEX';
DROP TABLE tenancy_place_us_region_id_key;
\set ECHO none
SELECT format('DROP TABLE tenancy_%s_3_4_2_key', 'place_us'::regclass::oid) AS statement \gexec
\set ECHO all
DROP TABLE visit, place;
\pset tuples_only off
\pset format aligned

-- Two keys to one table, whose lists are read at once; its name leaves no room for one of an index.
CREATE TABLE a_table_with_a_name_that_is_as_long_as_names_of_tables_can_be_ (id integer PRIMARY KEY, tenant_id text NOT NULL);
CREATE TABLE pair (tenant_id text NOT NULL, a integer, b integer,
                   CONSTRAINT one FOREIGN KEY (a) REFERENCES a_table_with_a_name_that_is_as_long_as_names_of_tables_can_be_,
                   CONSTRAINT two FOREIGN KEY (b) REFERENCES a_table_with_a_name_that_is_as_long_as_names_of_tables_can_be_);
SET client_min_messages = warning;
SELECT tenancy.protect('a_table_with_a_name_that_is_as_long_as_names_of_tables_can_be_'), tenancy.protect('pair', foreign_keys => 'keep');
RESET client_min_messages;
CREATE TEMPORARY TABLE both_read AS SELECT f.name, s.* FROM tenancy.foreign_keys f, unnest(f.statements) WITH ORDINALITY AS s(statement, place) WHERE f.relation = 'pair'::regclass;
SELECT count(DISTINCT statement), count(*) FROM both_read WHERE statement ~ 'INDEX';
\set ECHO none
SELECT statement FROM both_read WHERE statement ~ 'CREATE' AND name = 'one' \gexec
\set ECHO all
SELECT name, regexp_replace(u.statement, '\d{4,}', '<oid>', 'g') FROM tenancy.foreign_keys f, unnest(f.statements) AS u(statement) WHERE f.relation = 'pair'::regclass;
SELECT array_agg(statement ORDER BY name, place) AS read FROM both_read \gset
CALL pg_temp.go_on(:'read');
SELECT name, is_scoped FROM tenancy.foreign_keys;
SELECT count(*), count(k.oid) AS constraints FROM pg_index i LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND k.contype = 'u'
WHERE i.indrelid = 'a_table_with_a_name_that_is_as_long_as_names_of_tables_can_be_'::regclass AND i.indisunique AND NOT i.indisprimary;
DROP TABLE pair, a_table_with_a_name_that_is_as_long_as_names_of_tables_can_be_;

-- More statements than somebody reads: where they are found.
CREATE TABLE "Wide" (id integer PRIMARY KEY, tenant_id text NOT NULL) PARTITION BY RANGE (id);
SELECT format('CREATE TABLE wide_%s PARTITION OF "Wide" FOR VALUES FROM (%s) TO (%s)', n, n, n + 1) AS statement FROM generate_series(1, 10) AS n \gexec
CREATE TABLE narrow (tenant_id text NOT NULL, wide_id integer, CONSTRAINT "it's" FOREIGN KEY (wide_id) REFERENCES "Wide");
SET client_min_messages = warning;
SELECT tenancy.protect('"Wide"');
RESET client_min_messages;
SELECT tenancy.protect('narrow', foreign_keys => 'keep');
SELECT remedy FROM tenancy.lint() WHERE rule = 'foreign_key_across_tenants' AND object = 'public.narrow';
SELECT rtrim(remedy, ';') AS remedy FROM tenancy.lint() WHERE rule = 'foreign_key_across_tenants' AND object = 'public.narrow' \gset
\set ECHO none
:remedy \gexec
\set ECHO all
SELECT name, is_scoped FROM tenancy.foreign_keys;
DROP TABLE narrow, "Wide";

-- Keys that only 18 has.
CREATE PROCEDURE pg_temp.of_18(definition text, reason text) LANGUAGE plpgsql AS $$
DECLARE
    found record;
BEGIN
    IF current_setting('server_version_num')::integer < 180000 THEN
        RETURN;
    END IF;
    SET LOCAL client_min_messages = warning;
    EXECUTE definition;
    PERFORM tenancy.protect('above'), tenancy.protect('below', foreign_keys => 'upgrade');
    SELECT f.is_scoped, f.obstacle, f.statements INTO STRICT found FROM tenancy.foreign_keys f WHERE f.relation = 'below'::regclass;
    IF found IS DISTINCT FROM (false, reason, '{}'::text[]) THEN
        RAISE EXCEPTION '%', found;
    END IF;
    DROP TABLE below, above;
END $$;
CALL pg_temp.of_18($$CREATE TABLE above (id integer PRIMARY KEY, tenant_id text NOT NULL);
    CREATE TABLE below (id integer, tenant_id text NOT NULL, FOREIGN KEY (id) REFERENCES above NOT ENFORCED)$$, 'it is NOT ENFORCED');
CALL pg_temp.of_18($$CREATE TABLE above (id int4range, during daterange, tenant_id text NOT NULL, PRIMARY KEY (id, during WITHOUT OVERLAPS));
    CREATE TABLE below (id int4range, during daterange, tenant_id text NOT NULL, FOREIGN KEY (id, PERIOD during) REFERENCES above (id, PERIOD during))$$,
    'it is a key of periods');
