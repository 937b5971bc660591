-- Protection: the four kinds, and what protect does and says.
\set VERBOSITY default
CREATE TABLE plain (id integer PRIMARY KEY, tenant_id text, body text);
GRANT ALL ON plain TO regress_app;
GRANT REFERENCES (id), SELECT ON plain TO PUBLIC;

-- Kind tenant, on an empty table. It says what it did; a second call has nothing to do.
SELECT tenancy.protect('plain');
\d plain
SELECT unnest(relacl)::text ~ '[Dxt].*/' AS unsafe, count(*) FROM pg_class WHERE oid = 'plain'::regclass GROUP BY 1 ORDER BY 1;   -- the owner's only
SELECT tenancy.protect('plain');
SELECT relation, kind, tenant_column, row_security, forced, policies, drift FROM tenancy.protected_tables;

-- Kind shared: NULL is for everybody, and nobody's to change.
CREATE TABLE plane (id integer PRIMARY KEY, tenant_id text, seats integer);
INSERT INTO plane VALUES (1, NULL, 100), (2, NULL, 200), (3, 'acme', 101), (4, 'beta', 202);
GRANT SELECT, INSERT, UPDATE, DELETE ON plane TO regress_app;
SELECT tenancy.protect('plane', 'shared');
SET ROLE regress_app;
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SELECT id, seats FROM plane ORDER BY id;
INSERT INTO plane (id, seats) VALUES (5, 500) RETURNING tenant_id;
UPDATE plane SET seats = seats + 1 RETURNING id;               -- its own only
DELETE FROM plane WHERE id IN (1, 4);
SELECT id, seats FROM plane ORDER BY id;
SAVEPOINT s;
INSERT INTO plane VALUES (6, NULL, 1);                         -- SHOULD FAIL
ROLLBACK TO s;
INSERT INTO plane VALUES (6, 'beta', 1);                       -- SHOULD FAIL
ROLLBACK TO s;
UPDATE plane SET tenant_id = NULL WHERE id = 3;                -- SHOULD FAIL
ROLLBACK TO s;
UPDATE plane SET tenant_id = 'beta' WHERE id = 3;              -- SHOULD FAIL
ROLLBACK TO s;
INSERT INTO plane (id, seats) VALUES (1, 0) ON CONFLICT (id) DO UPDATE SET seats = 0;   -- SHOULD FAIL
ROLLBACK TO s;
INSERT INTO plane (id, seats) VALUES (1, 0) ON CONFLICT (id) DO NOTHING;
ROLLBACK;
SELECT count(*) FROM plane;                                    -- SHOULD FAIL
SET tenancy.missing_tenant = 'empty';
SELECT id FROM plane ORDER BY id;                              -- what is everybody's
UPDATE plane SET seats = 0;                                    -- SHOULD FAIL
RESET tenancy.missing_tenant;
RESET ROLE;

-- Kind audit: insert and select only, whoever comes.
CREATE TABLE journal (tenant_id text, what text);
INSERT INTO journal VALUES ('acme', 'old'), ('beta', 'old');
GRANT ALL ON journal TO regress_app;
SELECT tenancy.protect('journal', 'audit');
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
INSERT INTO journal (what) VALUES ('new');
INSERT INTO journal VALUES ('beta', 'forged');                 -- SHOULD FAIL
SELECT * FROM journal ORDER BY what;
UPDATE journal SET what = 'rewritten';                         -- SHOULD FAIL
DELETE FROM journal;                                           -- SHOULD FAIL
TRUNCATE journal;                                              -- SHOULD FAIL
RESET tenancy.tenant_id;
RESET ROLE;
UPDATE journal SET what = 'rewritten';                         -- SHOULD FAIL, also for a superuser
SET session_replication_role = replica;
DELETE FROM journal;                                           -- SHOULD FAIL
RESET session_replication_role;
TRUNCATE journal;                                              -- SHOULD FAIL

-- Kind system: no tenant's rows, read by all, not to be changed from within a tenant.
CREATE TABLE airport (code text PRIMARY KEY, name text);
INSERT INTO airport VALUES ('JFK', 'Kennedy');
GRANT ALL ON airport TO regress_app;
SELECT tenancy.protect('airport', 'system');
SET ROLE regress_app;
SELECT count(*) FROM airport;
INSERT INTO airport VALUES ('EWR', 'Newark');
SET tenancy.tenant_id = 'acme';
SELECT count(*) FROM airport;
INSERT INTO airport VALUES ('LGA', 'LaGuardia');               -- SHOULD FAIL
UPDATE airport SET name = 'x';                                 -- SHOULD FAIL
DELETE FROM airport;                                           -- SHOULD FAIL
TRUNCATE airport;                                              -- SHOULD FAIL
RESET tenancy.tenant_id;
RESET ROLE;
SELECT relation, kind, tenant_column, row_security, forced, policies, drift FROM tenancy.protected_tables ORDER BY relation::text;

-- Rows that belong to no registered tenant are counted and named.
CREATE TABLE stray (tenant_id text);
INSERT INTO stray SELECT CASE WHEN i % 3 = 0 THEN 'acme' WHEN i % 3 = 1 THEN 'unknown ' || i % 4 END FROM generate_series(1, 30) i;
SELECT tenancy.protect('stray');                               -- SHOULD FAIL
UPDATE stray SET tenant_id = 'acme' WHERE tenant_id IS NULL;
SELECT tenancy.protect('stray');                               -- SHOULD FAIL
SELECT tenancy.protect('stray', 'shared');                     -- SHOULD FAIL
SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = 'stray'::regclass;
DELETE FROM stray WHERE tenant_id <> 'acme';
SELECT tenancy.protect('stray');

-- From one kind to another.
SELECT tenancy.protect('stray', 'shared');
SELECT kind, policies, drift FROM tenancy.protected_tables WHERE relation = 'stray'::regclass;
SELECT attnotnull FROM pg_attribute WHERE attrelid = 'stray'::regclass AND attname = 'tenant_id';

-- What is there already is left alone: default, index, NOT NULL, policies that let rows through.
CREATE TABLE prepared (id integer, tenant_id text NOT NULL DEFAULT 'acme', open boolean, PRIMARY KEY (tenant_id, id));
CREATE POLICY only_open ON prepared USING (open);
SELECT tenancy.protect('prepared');
INSERT INTO prepared VALUES (1, 'acme', true), (2, 'acme', false), (3, 'beta', true);
GRANT SELECT ON prepared TO regress_app;
SET ROLE regress_app;
BEGIN; SET LOCAL tenancy.tenant_id = 'acme'; SELECT id FROM prepared; COMMIT;
RESET ROLE;
SELECT tenancy.protect('prepared', access_policy => true);
CREATE TABLE closed (tenant_id text NOT NULL);
SELECT tenancy.protect('closed', access_policy => false, create_index => false);

-- A foreign key to the registry, on request.
CREATE TABLE referring (tenant_id text);
SELECT tenancy.protect('referring', reference => true);
INSERT INTO referring VALUES ('nobody');                       -- SHOULD FAIL, even for a superuser
SELECT tenancy.protect('referring', reference => true);

-- Arguments.
SELECT tenancy.protect('plain', 'private');                    -- SHOULD FAIL
SELECT tenancy.protect('plain', NULL);                         -- SHOULD FAIL
SELECT tenancy.protect(NULL);                                  -- SHOULD FAIL
SELECT tenancy.protect('plain', 'system');                     -- SHOULD FAIL: it has a tenant column
SELECT tenancy.protect('no_such_table');                       -- SHOULD FAIL
BEGIN;
SET LOCAL tenancy.tenant_id = 'acme';
SELECT tenancy.protect('plain');                               -- SHOULD FAIL
ROLLBACK;

-- A dropped table takes its protection with it.
DROP TABLE plain, plane, journal, airport, stray, prepared, closed, referring;
SELECT * FROM tenancy.protected_tables;
SELECT count(*) FROM _tenancy.protected;

-- A user's own objects with the prefix of ours are his.
CREATE TABLE his (tenant_id text, open boolean);
CREATE POLICY tenancy_mine ON his USING (open);
SELECT tenancy.protect('his');
SELECT polname FROM pg_policy WHERE polrelid = 'his'::regclass ORDER BY 1;
SELECT tenancy.unprotect('his');
SELECT polname FROM pg_policy WHERE polrelid = 'his'::regclass ORDER BY 1;
DROP TABLE his;
