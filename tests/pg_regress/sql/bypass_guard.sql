-- tenancy.bypass_guard: statements that read or write a protected table without its isolation.
\set VERBOSITY default
CREATE TABLE parent (id integer PRIMARY KEY, tenant_id text NOT NULL, body text);
CREATE TABLE child (id integer, tenant_id text NOT NULL, parent_id integer REFERENCES parent ON DELETE CASCADE);
CREATE TABLE part (id integer, tenant_id text NOT NULL) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (10);
CREATE TABLE free (id integer, tenant_id text);
INSERT INTO parent VALUES (1, 'acme', 'of acme'), (2, 'beta', 'of beta');
INSERT INTO child VALUES (1, 'acme', 1), (2, 'beta', 2);
INSERT INTO part VALUES (1, 'acme'), (2, 'beta');
SET client_min_messages = warning;
SELECT tenancy.protect(t) FROM unnest('{parent,child,part}'::regclass[]) AS t;
RESET client_min_messages;
GRANT SELECT, INSERT, UPDATE, DELETE ON parent, child, part, free TO regress_app;
CREATE VIEW by_superuser AS SELECT * FROM parent;
CREATE VIEW by_invoker WITH (security_invoker = true) AS SELECT * FROM parent;
CREATE MATERIALIZED VIEW kept AS SELECT * FROM parent WITH NO DATA;
CREATE FUNCTION as_superuser() RETURNS SETOF parent LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RETURN QUERY TABLE parent; END';
GRANT SELECT ON by_superuser, by_invoker TO regress_app;

-- The leak: a view and a function of a superuser.
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
SELECT id FROM by_superuser ORDER BY id;
SELECT id FROM as_superuser() ORDER BY id;
SET tenancy.bypass_guard = 'refuse';                           -- SHOULD FAIL: nor may the application turn it off
RESET ROLE;
SET tenancy.bypass_guard = 'refuse';
SET ROLE regress_app;
SET tenancy.bypass_guard = 'off';                              -- SHOULD FAIL
SELECT id FROM by_superuser ORDER BY id;                       -- SHOULD FAIL
SELECT id FROM as_superuser() ORDER BY id;                     -- SHOULD FAIL
SET row_security = off;                                        -- says nothing in the mouth of who is no superuser
SELECT id FROM by_superuser ORDER BY id;                       -- SHOULD FAIL
SELECT id FROM as_superuser() ORDER BY id;                     -- SHOULD FAIL
SELECT id FROM parent;                                         -- SHOULD FAIL: PostgreSQL's own
RESET row_security;
SELECT id FROM by_invoker ORDER BY id;
SELECT p.id, c.id, r.id FROM parent p, child c, part r ORDER BY 1, 2, 3;
SELECT * FROM part_1;                                          -- SHOULD FAIL: no privilege
-- Checks of foreign keys, and what they delete, see all rows by design.
BEGIN; INSERT INTO child (id, parent_id) VALUES (3, 1); DELETE FROM parent; SELECT count(*) FROM child; ROLLBACK;
-- The application's own error arrives whole.
INSERT INTO parent (id) VALUES (1);                            -- SHOULD FAIL: 23505
INSERT INTO free VALUES (1, 'acme'); TABLE free;
COPY parent TO STDOUT;
RESET ROLE;

-- A superuser by himself.
RESET tenancy.tenant_id;
SELECT count(*) FROM parent;                                   -- SHOULD FAIL
SELECT count(*) FROM free, parent;                             -- SHOULD FAIL
WITH w AS (SELECT * FROM part) SELECT count(*) FROM w;         -- SHOULD FAIL
SELECT count(*) FROM part_1;                                   -- SHOULD FAIL
UPDATE parent SET body = 'x';                                  -- SHOULD FAIL
DELETE FROM free USING parent;                                 -- SHOULD FAIL
INSERT INTO parent VALUES (3, 'acme');                         -- SHOULD FAIL
MERGE INTO free USING parent ON free.id = parent.id WHEN MATCHED THEN DELETE;   -- SHOULD FAIL
COPY parent TO STDOUT;                                         -- SHOULD FAIL
COPY (SELECT * FROM parent) TO STDOUT;                         -- SHOULD FAIL
\copy parent FROM '/dev/null'
-- SHOULD FAIL
EXPLAIN (COSTS off) SELECT count(*) FROM parent;               -- reads nothing
EXPLAIN (COSTS off, ANALYZE, TIMING off, SUMMARY off) SELECT count(*) FROM parent;   -- SHOULD FAIL
REFRESH MATERIALIZED VIEW kept;                                -- SHOULD FAIL
CREATE TABLE copied AS SELECT * FROM parent;                   -- SHOULD FAIL
TRUNCATE child;                                                -- SHOULD FAIL
PREPARE p AS SELECT count(*) FROM parent;
EXECUTE p;                                                     -- SHOULD FAIL
DO $$BEGIN PERFORM count(*) FROM parent; END$$;                -- SHOULD FAIL
-- What reads no rows of tenants, what maintains, and what has said that it means all rows.
SELECT count(*) FROM tenancy.tenants;
SELECT count(*) FROM tenancy.protected_tables WHERE relation IN ('parent'::regclass, 'child'::regclass, 'part'::regclass);
ANALYZE parent; CREATE INDEX ON parent (body); REINDEX TABLE parent;
ALTER TABLE child ADD CONSTRAINT again FOREIGN KEY (parent_id) REFERENCES parent NOT VALID;
ALTER TABLE child VALIDATE CONSTRAINT again;
ALTER TABLE child DROP CONSTRAINT again;
SET row_security = off;
SELECT count(*) FROM parent;
COPY parent TO STDOUT;
BEGIN; TRUNCATE child; ROLLBACK;
RESET row_security;
-- Where row-level security has been switched off, nobody is under it, and PostgreSQL knows of no policy.
SET tenancy.restoring = on;
ALTER TABLE parent DISABLE ROW LEVEL SECURITY;
RESET tenancy.restoring;
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
SELECT count(*) FROM parent;                                   -- SHOULD FAIL
COPY parent TO STDOUT;                                         -- SHOULD FAIL
UPDATE parent SET body = body;                                 -- SHOULD FAIL
RESET ROLE;
RESET tenancy.tenant_id;
SELECT count(*) FROM parent;                                   -- SHOULD FAIL
SET tenancy.bypass_guard = 'off';
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
SELECT count(*) FROM parent;                                   -- the leak
RESET ROLE;
RESET tenancy.tenant_id;
SET tenancy.bypass_guard = 'refuse';
-- protect itself looks at the rows of a table that was protected before.
SELECT tenancy.protect('parent');
SELECT tenancy.unprotect('part');
SELECT count(*) FROM part;
-- A role with BYPASSRLS; an owner is under the policies.
CREATE ROLE regress_bypass BYPASSRLS;
GRANT SELECT ON parent TO regress_bypass;
SET ROLE regress_bypass;
SELECT count(*) FROM parent;                                   -- SHOULD FAIL
SET tenancy.bypass_guard = 'off';                              -- SHOULD FAIL
RESET ROLE;
-- An operator's scope of several tenants is under the policies. What is read outside of it, though in the midst of it, is not: by the rights of
-- a superuser, or of a role with BYPASSRLS, which can begin none of its own. The leak first.
CREATE ROLE regress_support;
GRANT regress_bypass TO regress_support;
GRANT SELECT ON parent, by_superuser TO regress_support;
SET row_security = off;
INSERT INTO parent VALUES (3, 'gone', 'of gone');
RESET row_security;
SELECT tenancy.grant_cross_tenant(r, '{acme,beta}', 'infinity') FROM unnest('{regress_support,regress_bypass}'::name[]) AS r;
SET tenancy.bypass_guard = 'off';
SET ROLE regress_support;
BEGIN;
SELECT tenancy.begin_cross_tenant('{acme,beta}', 'the leak') AS until;
SELECT id FROM parent ORDER BY id;
SELECT id FROM by_superuser ORDER BY id;
SELECT id FROM as_superuser() ORDER BY id;
SET LOCAL ROLE regress_bypass;
SELECT id FROM parent ORDER BY id;
ROLLBACK;
RESET ROLE;
SET tenancy.bypass_guard = 'refuse';
SET ROLE regress_support;
BEGIN;
SELECT tenancy.begin_cross_tenant('{acme,beta}', 'guarded') AS until;
SAVEPOINT s;
SELECT id FROM parent ORDER BY id;
COPY parent (id) TO STDOUT;
SELECT id FROM by_superuser ORDER BY id;                       -- SHOULD FAIL
ROLLBACK TO s;
SELECT id FROM as_superuser() ORDER BY id;                     -- SHOULD FAIL
ROLLBACK TO s;
SET LOCAL ROLE regress_bypass;
SELECT id FROM parent ORDER BY id;                             -- SHOULD FAIL
ROLLBACK TO s;
COPY parent (id) TO STDOUT;
SET LOCAL ROLE regress_bypass;
COPY parent (id) TO STDOUT;                                    -- SHOULD FAIL
ROLLBACK TO s;
SET LOCAL row_security = off;                                  -- says nothing in the mouth of an operator
SELECT id FROM by_superuser ORDER BY id;                       -- SHOULD FAIL
ROLLBACK TO s;
SELECT tenancy.end_cross_tenant();
SELECT id FROM by_superuser ORDER BY id;                       -- SHOULD FAIL
ROLLBACK;
SELECT id FROM by_superuser ORDER BY id;                       -- SHOULD FAIL
SELECT id FROM parent ORDER BY id;                             -- SHOULD FAIL: no tenant
-- One with BYPASSRLS is granted crossing in vain; what it may say is that all rows are meant.
SET ROLE regress_bypass;
SELECT tenancy.begin_cross_tenant('{acme,beta}', 'in vain');   -- SHOULD FAIL
BEGIN;
SET LOCAL row_security = off;
SELECT tenancy.begin_cross_tenant('{acme,beta}', 'in vain');   -- SHOULD FAIL
ROLLBACK;
BEGIN;
SET LOCAL row_security = off;
SELECT id FROM parent ORDER BY id;
ROLLBACK;
SELECT id FROM parent ORDER BY id;                             -- SHOULD FAIL
RESET ROLE;
SELECT tenancy.revoke_cross_tenant(r) FROM unnest('{regress_support,regress_bypass}'::name[]) AS r;
SET row_security = off;
DELETE FROM parent WHERE id = 3;
RESET row_security;
-- In the log only.
SET tenancy.bypass_guard = 'log';
SET client_min_messages = log;
SELECT count(*) FROM parent;
COPY parent TO STDOUT;
RESET client_min_messages;
RESET tenancy.bypass_guard;
SELECT count(*) FROM parent;
DROP MATERIALIZED VIEW kept; DROP VIEW by_superuser, by_invoker; DROP FUNCTION as_superuser(); DROP TABLE child, parent, part, free;
DROP ROLE regress_support, regress_bypass;
