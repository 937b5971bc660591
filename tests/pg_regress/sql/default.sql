-- The default of the tenant column is what the table says, however a statement leaves the column out, and however often it was changed.
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE TABLE plain (id integer PRIMARY KEY, tenant_id text, body text DEFAULT 'b');
CREATE TABLE numbered (id integer GENERATED ALWAYS AS IDENTITY, tenant_id bigint, body text);
CREATE TABLE small (id integer, tenant_id integer);
CREATE TABLE short (id integer, tenant_id varchar(20));
CREATE TABLE known (id integer, tenant_id uuid);
CREATE TABLE "Weird Table" ("Weird Tenant" text, id integer);
CREATE TABLE parted (id integer, tenant_id text) PARTITION BY LIST (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 (tenant_id text, id integer);
ALTER TABLE parted ATTACH PARTITION parted_2 FOR VALUES IN (2);
SELECT count(tenancy.create_tenant(id)) FROM unnest(ARRAY['7', '00000000-0000-0000-0000-000000000007']) AS id;
SELECT count(tenancy.protect(name::regclass))
FROM unnest(ARRAY['plain', 'numbered', 'small', 'short', 'known', 'parted']) AS name;
SELECT count(tenancy.protect('"Weird Table"', tenant_column => 'Weird Tenant'));
CREATE VIEW seen WITH (security_invoker) AS SELECT id, tenant_id, body FROM plain;
CREATE VIEW set_by_view WITH (security_invoker) AS SELECT id, tenant_id, body FROM plain;
ALTER VIEW set_by_view ALTER COLUMN tenant_id SET DEFAULT 'beta';
GRANT SELECT, INSERT, UPDATE ON plain, numbered, small, short, known, "Weird Table", parted, parted_1, parted_2, seen, set_by_view TO regress_app;
CREATE TABLE source (id integer, body text);
INSERT INTO source VALUES (21, 'x'), (22, 'y');
GRANT SELECT ON source TO regress_app;

SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
-- Columns named and not named, some rows, none named at all, a query, the word DEFAULT, in WITH, by a view.
INSERT INTO plain (id) VALUES (1) RETURNING *;
INSERT INTO plain (body, id) VALUES ('c', 2), (DEFAULT, 3) RETURNING *;
INSERT INTO plain VALUES (4) RETURNING *;
INSERT INTO plain VALUES (5, DEFAULT, 'd'), (6, 'acme', 'e') RETURNING *;
INSERT INTO plain (id, body) SELECT id, body FROM source ORDER BY id RETURNING *;
INSERT INTO plain (id, tenant_id) VALUES (7, DEFAULT) RETURNING *;
WITH written AS (INSERT INTO plain (id) VALUES (8) RETURNING *) SELECT * FROM written;
WITH written AS (SELECT 9 AS id) INSERT INTO plain (id) SELECT id FROM written RETURNING *;
INSERT INTO seen (id) VALUES (10) RETURNING *;
INSERT INTO set_by_view (id) VALUES (11) RETURNING *;          -- SHOULD FAIL: the view's own default is another tenant
ROLLBACK;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
INSERT INTO plain (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET body = 'again' RETURNING *;
INSERT INTO plain (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET body = 'again' RETURNING *;
PREPARE add(integer) AS INSERT INTO plain (id) VALUES ($1) RETURNING *;
EXECUTE add(12);
SET LOCAL tenancy.tenant_id = 'beta';
EXECUTE add(13);
INSERT INTO "Weird Table" (id) VALUES (1) RETURNING *;
INSERT INTO short (id) VALUES (1) RETURNING *;
INSERT INTO parted (id) VALUES (1), (2) RETURNING tableoid::regclass, *;
INSERT INTO parted_2 (id) VALUES (2) RETURNING *;
EXPLAIN (COSTS OFF, VERBOSE) INSERT INTO plain (id) VALUES (14);
SET LOCAL tenancy.tenant_id = '7';
INSERT INTO numbered DEFAULT VALUES RETURNING *;
INSERT INTO numbered (body) VALUES ('n') RETURNING *;
INSERT INTO numbered OVERRIDING SYSTEM VALUE VALUES (99) RETURNING *;
INSERT INTO small (id) VALUES (1) RETURNING *;
SET LOCAL tenancy.tenant_id = '00000000-0000-0000-0000-000000000007';
INSERT INTO known (id) VALUES (1) RETURNING *;
ROLLBACK;
-- No tenant, no row.
INSERT INTO plain (id) VALUES (15);                            -- SHOULD FAIL

-- What the table says is asked for when it changes, in prepared statements too; of a role that may not name the column.
RESET ROLE;
REVOKE INSERT ON plain FROM regress_app;
GRANT INSERT (id, body) ON plain TO regress_app;
SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
EXECUTE add(15);
INSERT INTO plain (id) VALUES (16) RETURNING *;
SAVEPOINT s;
INSERT INTO plain (id, tenant_id) VALUES (17, 'acme');         -- SHOULD FAIL
ROLLBACK;
RESET ROLE;
ALTER TABLE plain ALTER COLUMN tenant_id SET DEFAULT 'beta';
SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'beta';
INSERT INTO plain (id) VALUES (18) RETURNING *;
SET LOCAL tenancy.tenant_id = 'acme';
SAVEPOINT s;
INSERT INTO plain (id) VALUES (19);                            -- SHOULD FAIL
ROLLBACK TO s;
EXECUTE add(19);                                               -- SHOULD FAIL
ROLLBACK;
RESET ROLE;
ALTER TABLE plain ALTER COLUMN tenant_id DROP DEFAULT;
SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
INSERT INTO plain (id) VALUES (19);                            -- SHOULD FAIL
ROLLBACK;
RESET ROLE;
SELECT count(tenancy.protect('plain'));
SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
INSERT INTO plain (id) VALUES (20) RETURNING *;
EXECUTE add(21);
ROLLBACK;
RESET ROLE;
-- Another column of that number, once the tenant column has another.
SELECT count(tenancy.unprotect('small'));
ALTER TABLE small DROP COLUMN tenant_id;
ALTER TABLE small ADD COLUMN other integer, ADD COLUMN tenant_id text;
SELECT count(tenancy.protect('small'));
SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
INSERT INTO small (id) VALUES (1) RETURNING *;
ROLLBACK;
DEALLOCATE add;
RESET ROLE;
DROP VIEW seen, set_by_view;
DROP TABLE plain, numbered, small, short, known, "Weird Table", parted, source;
DELETE FROM _tenancy.tenants WHERE id IN ('7', '00000000-0000-0000-0000-000000000007');
