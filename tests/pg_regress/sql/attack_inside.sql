-- Attacks from inside: by functions, casts and triggers that run within a statement of somebody with more rights, or of another tenant.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_mallory;
CREATE SCHEMA appdata;
GRANT CREATE, USAGE ON SCHEMA appdata TO regress_mallory;
GRANT USAGE ON SCHEMA appdata TO regress_app;
CREATE TABLE ours (id integer PRIMARY KEY, tenant_id text NOT NULL, body text);
INSERT INTO ours SELECT n, (ARRAY['acme', 'beta'])[1 + n % 2], (ARRAY['of acme', 'of beta'])[1 + n % 2] FROM generate_series(1, 6) AS n;
ALTER TABLE ours OWNER TO regress_mallory;
CREATE TABLE hand AS TABLE ours;
ALTER TABLE hand ALTER COLUMN id SET NOT NULL, ALTER COLUMN tenant_id SET NOT NULL, OWNER TO regress_mallory;
ALTER TABLE hand ENABLE ROW LEVEL SECURITY;
ALTER TABLE hand FORCE ROW LEVEL SECURITY;
CREATE POLICY isolation ON hand USING (tenant_id = current_setting('tenancy.tenant_id'));
SELECT tenancy.protect('ours');
GRANT SELECT, INSERT, UPDATE, DELETE ON ours, hand TO regress_app, regress_outsider;

-- A cast of the owner's would be called, as whoever protects, when a foreign key is extended and its rows are compared.
SET ROLE regress_mallory;
CREATE TYPE appdata.e AS ENUM ('1', '2');
CREATE FUNCTION appdata.e2i(appdata.e) RETURNS integer LANGUAGE plpgsql AS $$
BEGIN
    RAISE WARNING 'running as %', current_user;
    RETURN $1::text::integer;
END$$;
CREATE CAST (appdata.e AS integer) WITH FUNCTION appdata.e2i(appdata.e) AS IMPLICIT;
CREATE TABLE appdata.p (id integer PRIMARY KEY, tenant_id text);
CREATE TABLE appdata.c (id appdata.e REFERENCES appdata.p, tenant_id text);
INSERT INTO appdata.p VALUES (1, 'acme');
SET client_min_messages = error;
INSERT INTO appdata.c VALUES ('1', 'acme');
RESET ROLE;
BEGIN; SET LOCAL client_min_messages = warning; ALTER TABLE appdata.c ADD FOREIGN KEY (id) REFERENCES appdata.p; ROLLBACK;   -- by hand, it is
SET client_min_messages = notice;
SELECT tenancy.protect('appdata.p'); 
SELECT tenancy.protect('appdata.c', foreign_keys => 'upgrade');
SELECT is_scoped, obstacle, statements FROM tenancy.foreign_keys WHERE relation = 'appdata.c'::regclass;
SET client_min_messages = warning;

-- In the action of a foreign key PostgreSQL leaves out the owner's policies, for its triggers as well.
SET ROLE regress_mallory;
CREATE TABLE appdata.par (id integer PRIMARY KEY, tenant_id text NOT NULL);
CREATE TABLE appdata.chi (id integer REFERENCES appdata.par ON DELETE CASCADE, tenant_id text NOT NULL);
INSERT INTO appdata.par VALUES (1, 'acme'), (2, 'acme');
INSERT INTO appdata.chi VALUES (1, 'acme'), (2, 'acme');
SELECT tenancy.protect('appdata.par'), tenancy.protect('appdata.chi');
GRANT SELECT, DELETE ON appdata.par TO regress_app;
CREATE FUNCTION appdata.touch_hand() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN UPDATE public.hand SET body = 'touched'; RETURN OLD; END$$;
CREATE TRIGGER touch_hand BEFORE DELETE ON appdata.chi FOR EACH ROW EXECUTE FUNCTION appdata.touch_hand();
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
BEGIN;
DELETE FROM appdata.par WHERE id = 1;
RESET ROLE;
SELECT tenant_id, body, count(*) FROM hand GROUP BY 1, 2 ORDER BY 1, 2;   -- by hand, beta's rows are rewritten
ROLLBACK;
RESET tenancy.tenant_id;
SET ROLE regress_mallory;
DROP TRIGGER touch_hand ON appdata.chi;
CREATE FUNCTION appdata.touch() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN UPDATE public.ours SET body = 'touched'; RETURN OLD; END$$;
CREATE TRIGGER touch BEFORE DELETE ON appdata.chi FOR EACH ROW EXECUTE FUNCTION appdata.touch();
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
DELETE FROM appdata.par WHERE id = 1;                          -- SHOULD FAIL: would rewrite beta's rows
RESET ROLE;
RESET tenancy.tenant_id;
SELECT body, count(*) FROM ours GROUP BY body ORDER BY 1;
DROP TRIGGER touch ON appdata.chi;
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
DELETE FROM appdata.par WHERE id = 1;
RESET ROLE;
SELECT * FROM appdata.chi;

-- A change of tenant that nobody is asked about: RESET of a role's own setting, by NULL.
GRANT SET ON PARAMETER tenancy.tenant_id TO regress_bound;
GRANT SELECT ON ours, hand TO regress_bound;
\c - regress_bound
\set VERBOSITY default
SET tenancy.tenant_id = 'beta';
SELECT id, body, CASE id WHEN 3 THEN set_config('tenancy.tenant_id', NULL, false) END FROM hand;   -- by hand, rows of both
SET tenancy.tenant_id = 'beta';
SELECT id, body, CASE id WHEN 3 THEN set_config('tenancy.tenant_id', NULL, false) END FROM ours;   -- SHOULD FAIL
SET tenancy.tenant_id = 'beta';
SELECT body FROM ours UNION ALL SELECT set_config('tenancy.tenant_id', NULL, false) UNION ALL SELECT body FROM ours;   -- SHOULD FAIL
\c - postgres
SET client_min_messages = warning;
REVOKE SET ON PARAMETER tenancy.tenant_id FROM regress_bound;
REVOKE SELECT ON ours, hand FROM regress_bound;

-- A function of a superuser that sets the tenant for roles that may not: the rights in force while it runs are not those of the query.
CREATE FUNCTION login(t text) RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$SELECT set_config('tenancy.tenant_id', t, true)$$;
CREATE FUNCTION whoami() RETURNS text LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$SELECT tenancy.current_tenant()$$;
CREATE FUNCTION read_with() RETURNS text LANGUAGE plpgsql AS $$
BEGIN RETURN (SELECT string_agg(o.body, ',') FROM (SELECT whoami() AS w OFFSET 0) x, ours o WHERE x.w IS NOT NULL); END$$;
CREATE FUNCTION read_hand_with() RETURNS text LANGUAGE plpgsql AS $$
BEGIN RETURN (SELECT string_agg(h.body, ',') FROM (SELECT whoami() AS w OFFSET 0) x, hand h WHERE x.w IS NOT NULL); END$$;
SET ROLE regress_outsider;
BEGIN; SELECT login('acme'); SELECT id, body, CASE id WHEN 4 THEN login('beta') END FROM hand; ROLLBACK;   -- by hand, rows of both
BEGIN; SELECT login('acme'), read_hand_with(), login('beta'), read_hand_with(); ROLLBACK;
BEGIN; SELECT login('acme'); SELECT id, body, CASE id WHEN 4 THEN login('beta') END FROM ours; ROLLBACK;   -- SHOULD FAIL
BEGIN; SELECT login('acme'); DELETE FROM ours WHERE CASE id WHEN 4 THEN login('beta') ELSE 'x' END <> '' RETURNING *; ROLLBACK;   -- SHOULD FAIL
BEGIN; SELECT login('acme'), read_with(), login('beta'), read_with(); ROLLBACK;   -- SHOULD FAIL
BEGIN; SELECT login('acme'); SELECT read_with(); SELECT login('beta'); SELECT read_with(); ROLLBACK;
RESET ROLE;

-- Parallel workers choose the rows, and their leader asks nothing.
CREATE FUNCTION read_ours() RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$BEGIN RETURN (SELECT string_agg(body, ',') FROM ours); END$$;
CREATE FUNCTION read_parallel() RETURNS text LANGUAGE plpgsql AS $$DECLARE b text; BEGIN SELECT string_agg(body, ',') INTO b FROM ours; RETURN b; END$$;
CREATE FUNCTION read_hand_parallel() RETURNS text LANGUAGE plpgsql AS $$DECLARE b text; BEGIN SELECT string_agg(body, ',') INTO b FROM hand; RETURN b; END$$;
CREATE FUNCTION be(t text) RETURNS text LANGUAGE sql AS $$SELECT set_config('tenancy.tenant_id', t, true)$$;
ALTER TABLE ours SET (parallel_workers = 2);
ALTER TABLE hand SET (parallel_workers = 2);
SET ROLE regress_app;
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET parallel_leader_participation = off;
BEGIN; SELECT be('acme'), read_hand_parallel(), be('beta'), read_hand_parallel(); ROLLBACK;   -- by hand, rows of both
BEGIN; SELECT be('acme'), read_parallel(), be('beta'), read_parallel(); ROLLBACK;   -- SHOULD FAIL
RESET parallel_setup_cost; RESET parallel_tuple_cost; RESET min_parallel_table_scan_size; RESET parallel_leader_participation;

-- A cursor that reads as one tenant, and goes on as another.
CREATE FUNCTION pg_temp.nth(n integer) RETURNS text LANGUAGE plpgsql AS $$
BEGIN PERFORM set_config('tenancy.tenant_id', (ARRAY['acme', 'beta'])[n], true); RETURN (SELECT min(body) FROM public.ours); END$$;
CREATE FUNCTION pg_temp.nth_of_hand(n integer) RETURNS text LANGUAGE plpgsql AS $$
BEGIN PERFORM set_config('tenancy.tenant_id', (ARRAY['acme', 'beta'])[n], true); RETURN (SELECT min(body) FROM public.hand); END$$;
BEGIN; SELECT be('acme'); DECLARE c CURSOR FOR SELECT pg_temp.nth_of_hand(n) FROM generate_series(1, 2) n; FETCH 1 FROM c;
FETCH 1 FROM c;                                                -- by hand, it goes on
ROLLBACK;
BEGIN; SELECT be('acme'); DECLARE c CURSOR FOR SELECT pg_temp.nth(n) FROM generate_series(1, 2) n; FETCH 1 FROM c;
FETCH 1 FROM c;                                                -- SHOULD FAIL
ROLLBACK;
RESET ROLE;

CREATE TABLE parts (id integer, tenant_id text NOT NULL) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
ALTER TABLE parts OWNER TO regress_mallory; ALTER TABLE parts_1 OWNER TO regress_mallory;
SELECT tenancy.protect('parts');
-- The owner, in the context of a tenant: an unprotected parent, another column, a change by the private functions.
GRANT SET ON PARAMETER tenancy.tenant_id TO regress_mallory;
GRANT CREATE ON SCHEMA public TO regress_mallory;
SET ROLE regress_mallory;
SET tenancy.tenant_id = 'acme';
CREATE TABLE up (LIKE ours);
GRANT SELECT ON up TO regress_app;
BEGIN;
ALTER TABLE hand INHERIT up;
SET LOCAL ROLE regress_app;
SELECT tenant_id, count(*) FROM up GROUP BY 1 ORDER BY 1;      -- by hand, everybody's rows
ROLLBACK;
ALTER TABLE ours INHERIT up;                                   -- SHOULD FAIL
CREATE TABLE upp (LIKE ours) PARTITION BY LIST (tenant_id);
ALTER TABLE upp ATTACH PARTITION ours DEFAULT;                 -- SHOULD FAIL
CREATE TABLE both_of () INHERITS (ours, up);                   -- SHOULD FAIL
SELECT _tenancy.begin_change('ours');                          -- SHOULD FAIL
-- A partition without protection, by saying that it is being protected, or that it is.
CREATE TABLE next (LIKE parts);
BEGIN;
SELECT _tenancy.begin_change('next');
ALTER TABLE parts ATTACH PARTITION next DEFAULT;
SELECT _tenancy.end_change('next'::regclass);                  -- SHOULD FAIL
ROLLBACK;
BEGIN;
SELECT _tenancy.begin_change('next');
SELECT _tenancy.begin_change('next');
ALTER TABLE parts ATTACH PARTITION next DEFAULT;
SELECT _tenancy.end_change('next'::regclass);
COMMIT;                                                        -- SHOULD FAIL
SELECT _tenancy.add_protection('next', 'tenant', 'tenant_id', '{}', '{}');   -- SHOULD FAIL
BEGIN;
SELECT _tenancy.begin_change('next');
SELECT _tenancy.add_protection('next', p.kind, p.tenant_column::text, p.options, p.undo) FROM _tenancy.protection('parts') p;
ALTER TABLE parts ATTACH PARTITION next DEFAULT;
SELECT _tenancy.end_change('next'::regclass);                  -- SHOULD FAIL
ROLLBACK;
ALTER TABLE parts ATTACH PARTITION next DEFAULT;               -- as it should be
SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = 'next'::regclass;
ALTER TABLE ours ADD COLUMN victim text;
SELECT _tenancy.follow_column('ours');
SELECT tenant_column FROM tenancy.protected_tables WHERE relation = 'ours'::regclass;
ALTER VIEW ours RENAME COLUMN tenant_id TO org;                -- PostgreSQL lets it be said of a table
SELECT tenant_column, drift FROM tenancy.protected_tables WHERE relation = 'ours'::regclass;
RESET ROLE;
RESET tenancy.tenant_id;
DROP FUNCTION login, whoami, read_with, read_hand_with, read_ours, read_parallel, read_hand_parallel, be;
DROP SCHEMA appdata CASCADE;
DROP TABLE ours, hand, up, upp, parts;
REVOKE SET ON PARAMETER tenancy.tenant_id FROM regress_mallory;
REVOKE CREATE ON SCHEMA public FROM regress_mallory;
DROP ROLE regress_mallory;
