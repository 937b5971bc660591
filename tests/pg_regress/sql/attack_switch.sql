-- Attacks that change the tenant while a statement runs, or read on after it has changed, by a role that may be both acme and
-- beta. The hand-made policy first: it returns rows of both.
\set VERBOSITY default
\set SHOW_CONTEXT never
CREATE TABLE hand (id integer PRIMARY KEY, tenant_id text NOT NULL, body text);
INSERT INTO hand SELECT n, (ARRAY['acme', 'beta'])[1 + n % 2], (ARRAY['of acme', 'of beta'])[1 + n % 2] FROM generate_series(1, 6) AS n;
CREATE TABLE ours (LIKE hand INCLUDING ALL);
INSERT INTO ours TABLE hand;
ALTER TABLE hand ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY isolation ON hand USING (tenant_id = current_setting('app.tenant_id'));
SET client_min_messages = warning;
SELECT tenancy.protect('ours');
RESET client_min_messages;
GRANT SELECT, INSERT, UPDATE, DELETE ON hand, ours TO regress_app;
CREATE TABLE plain (n integer);
INSERT INTO plain VALUES (1), (2);
GRANT SELECT ON plain TO regress_app;

-- What the attacker can call: a switch, readers of either table, a switch that is rolled back.
CREATE FUNCTION to_hand(t text) RETURNS text LANGUAGE sql VOLATILE AS $$SELECT set_config('app.tenant_id', t, true)$$;
CREATE FUNCTION to_ours(t text) RETURNS text LANGUAGE sql VOLATILE AS $$SELECT set_config('tenancy.tenant_id', t, true)$$;
CREATE FUNCTION read_hand() RETURNS text LANGUAGE plpgsql VOLATILE AS $$BEGIN RETURN string_agg(body, ',' ORDER BY id) FROM hand; END$$;
CREATE FUNCTION read_ours() RETURNS text LANGUAGE plpgsql VOLATILE AS $$BEGIN RETURN string_agg(body, ',' ORDER BY id) FROM ours; END$$;
CREATE FUNCTION rows_hand() RETURNS SETOF text LANGUAGE plpgsql AS $$BEGIN RETURN QUERY SELECT body FROM hand ORDER BY id; END$$;
CREATE FUNCTION rows_ours() RETURNS SETOF text LANGUAGE plpgsql AS $$BEGIN RETURN QUERY SELECT body FROM ours ORDER BY id; END$$;
CREATE FUNCTION peek_hand(t text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE seen text;
BEGIN
    BEGIN
        PERFORM set_config('app.tenant_id', t, true);
        seen := read_hand();
        RAISE 'back';
    EXCEPTION WHEN raise_exception THEN
        RETURN seen || ' then ' || read_hand();
    END;
END$$;
CREATE FUNCTION peek_ours(t text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE seen text;
BEGIN
    BEGIN
        PERFORM set_config('tenancy.tenant_id', t, true);
        seen := read_ours();
        RAISE 'back';
    EXCEPTION WHEN raise_exception THEN
        RETURN seen || ' then ' || read_ours();
    END;
END$$;
CREATE FUNCTION beta_hand() RETURNS text LANGUAGE plpgsql SET app.tenant_id = 'beta' AS 'BEGIN RETURN read_hand(); END';
CREATE FUNCTION beta_ours() RETURNS text LANGUAGE plpgsql SET tenancy.tenant_id = 'beta' AS 'BEGIN RETURN read_ours(); END';

SET ROLE regress_app;
SET app.tenant_id = 'acme';
SET tenancy.tenant_id = 'acme';

-- In the target list, for each row, before the scan, in a CTE, in LATERAL, in a LIMIT, in another arm of a UNION.
BEGIN; SELECT id, body, to_hand('beta') FROM hand; ROLLBACK;
BEGIN; SELECT id, body, to_ours('beta') FROM ours; ROLLBACK;                              -- SHOULD FAIL
BEGIN; SELECT id, body FROM hand WHERE to_hand('beta') = 'beta'; ROLLBACK;
BEGIN; SELECT id, body FROM ours WHERE to_ours('beta') = 'beta'; ROLLBACK;                -- SHOULD FAIL
BEGIN; SELECT id, body FROM hand WHERE (SELECT to_hand('beta')) IS NOT NULL ORDER BY id; ROLLBACK;
BEGIN; SELECT id, body FROM ours WHERE (SELECT to_ours('beta')) IS NOT NULL ORDER BY id; ROLLBACK;   -- SHOULD FAIL
BEGIN; WITH s AS MATERIALIZED (SELECT to_hand('beta')) SELECT id, body FROM s, hand ORDER BY id; ROLLBACK;
BEGIN; WITH s AS MATERIALIZED (SELECT to_ours('beta')) SELECT id, body FROM s, ours ORDER BY id; ROLLBACK;   -- SHOULD FAIL
BEGIN; SELECT n, id, body FROM plain, LATERAL (SELECT to_ours(CASE n WHEN 1 THEN 'acme' ELSE 'beta' END)) s, LATERAL (SELECT * FROM ours) o; ROLLBACK;   -- SHOULD FAIL
BEGIN; SELECT id, body FROM ours ORDER BY id LIMIT length(to_ours('beta')); ROLLBACK;     -- SHOULD FAIL
BEGIN; SELECT body FROM hand UNION ALL SELECT to_hand('beta') UNION ALL SELECT body FROM hand; ROLLBACK;
BEGIN; SELECT body FROM ours UNION ALL SELECT to_ours('beta') UNION ALL SELECT body FROM ours; ROLLBACK;   -- SHOULD FAIL
BEGIN; SELECT id, tenancy.set_tenant('beta') FROM ours; ROLLBACK;                         -- SHOULD FAIL
-- In what is written.
BEGIN; UPDATE ours SET body = to_ours('beta'); ROLLBACK;                                  -- SHOULD FAIL
BEGIN; DELETE FROM ours RETURNING id, to_ours('beta'); ROLLBACK;                          -- SHOULD FAIL
BEGIN; INSERT INTO ours (id, body) SELECT 7, to_ours('beta'); ROLLBACK;                   -- SHOULD FAIL
-- In functions: what the statement itself does not name.
BEGIN; SELECT read_hand(), to_hand('beta'), read_hand(); ROLLBACK;
BEGIN; SELECT read_ours(), to_ours('beta'), read_ours(); ROLLBACK;                        -- SHOULD FAIL
BEGIN; SELECT peek_hand('beta'); ROLLBACK;
BEGIN; SELECT peek_ours('beta'); ROLLBACK;                                                -- SHOULD FAIL
BEGIN; SELECT beta_hand(), read_hand(); ROLLBACK;
BEGIN; SELECT beta_ours(), read_ours(); ROLLBACK;                                         -- SHOULD FAIL
BEGIN; SELECT id, beta_ours() FROM ours; ROLLBACK;                                        -- SHOULD FAIL
-- Leaving the tenant, and coming back as another.
BEGIN; SELECT read_ours(), set_config('tenancy.tenant_id', '', true), to_ours('beta'), read_ours(); ROLLBACK;   -- SHOULD FAIL
SET tenancy.missing_tenant = 'empty';
BEGIN; SELECT id, set_config('tenancy.tenant_id', '', true) FROM ours; ROLLBACK;          -- one statement, one tenant
RESET tenancy.missing_tenant;
-- The same tenant again is no change; nor is a change before anything was read, or in the next statement.
BEGIN; SELECT id, to_ours('acme') FROM ours ORDER BY id; ROLLBACK;
BEGIN; SELECT to_ours('beta'), read_ours(); SELECT to_ours('acme'); SELECT read_ours(); ROLLBACK;
BEGIN; SELECT beta_ours(); SELECT read_ours(); ROLLBACK;
-- DO and procedures are many statements.
DO $$
BEGIN
    PERFORM to_ours('beta');
    RAISE NOTICE '%', read_ours();
    PERFORM to_ours('acme');
    RAISE NOTICE '%', read_ours();
END$$;

-- A cursor between two FETCHes: on the table, on a function that reads it, read again from its start.
BEGIN;
DECLARE c CURSOR FOR SELECT body FROM hand; FETCH 1 FROM c; SELECT to_hand('beta'); FETCH ALL FROM c;
ROLLBACK;
BEGIN;
DECLARE c CURSOR FOR SELECT body FROM ours; FETCH 1 FROM c; SELECT to_ours('beta');
FETCH ALL FROM c;                                                                         -- SHOULD FAIL
ROLLBACK;
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM rows_hand(); FETCH 1 FROM c; SELECT to_hand('beta'); FETCH ALL FROM c;
ROLLBACK;
BEGIN;
DECLARE c CURSOR FOR SELECT * FROM rows_ours(); FETCH 1 FROM c; SELECT to_ours('beta');
FETCH ALL FROM c;                                                                         -- SHOULD FAIL
ROLLBACK;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT body FROM hand ORDER BY body, id; FETCH ALL FROM c; SELECT to_hand('beta'); FETCH FIRST FROM c;
ROLLBACK;
BEGIN;
DECLARE c SCROLL CURSOR FOR SELECT body FROM ours ORDER BY body, id; FETCH ALL FROM c; SELECT to_ours('beta');
FETCH FIRST FROM c;                                                                       -- SHOULD FAIL
ROLLBACK;

-- A cursor that outlives its transaction, and so the tenant.
BEGIN;
DECLARE c CURSOR WITH HOLD FOR SELECT body FROM hand ORDER BY id;
COMMIT;
SET app.tenant_id = 'beta'; FETCH ALL FROM c; SET app.tenant_id = 'acme';
CLOSE c;
DECLARE c CURSOR WITH HOLD FOR SELECT body FROM ours;                                     -- SHOULD FAIL
BEGIN;
DECLARE c CURSOR WITH HOLD FOR SELECT * FROM rows_ours();
COMMIT;                                                                                   -- SHOULD FAIL
SELECT name FROM pg_cursors;
DECLARE c CURSOR WITH HOLD FOR SELECT n FROM plain; FETCH ALL FROM c; CLOSE c;            -- of no tenant
-- A loop that a procedure's COMMIT makes one.
RESET tenancy.tenant_id;
DO $$
DECLARE item record;
BEGIN
    PERFORM to_ours('acme');
    FOR item IN SELECT body FROM ours ORDER BY id LOOP
        COMMIT;                                                                           -- SHOULD FAIL: the tenant ends with it
        PERFORM to_ours('beta');
        RAISE NOTICE '%', item.body;
    END LOOP;
END$$;
SET tenancy.tenant_id = 'acme';
DO $$
DECLARE item record;
BEGIN
    FOR item IN SELECT body FROM ours ORDER BY id LOOP
        COMMIT;
        RAISE NOTICE '%', item.body;
    END LOOP;
END$$;

-- An error inside leaves nothing behind.
BEGIN;
SAVEPOINT s;
SELECT id, 1 / (id - id) FROM ours;                                                       -- SHOULD FAIL
ROLLBACK TO s;
SELECT to_ours('beta');
SELECT count(*) FROM ours;
COMMIT;
DO $$
BEGIN
    BEGIN
        PERFORM id, 1 / (id - id) FROM ours;
    EXCEPTION WHEN division_by_zero THEN NULL;
    END;
    PERFORM to_ours('beta');
    RAISE NOTICE '%', read_ours();
END$$;

-- TRUNCATE, also by the owner.
SELECT tenancy.begin_anew();                                                              -- SHOULD FAIL: no such function
SELECT _tenancy.begin_anew();                                                             -- SHOULD FAIL
RESET ROLE;
SET tenancy.tenant_id = 'acme';
BEGIN; TRUNCATE hand; SELECT count(*) FROM hand; ROLLBACK;
TRUNCATE ours;                                                                            -- SHOULD FAIL
RESET tenancy.tenant_id;
BEGIN; TRUNCATE ours; SELECT count(*) FROM ours; ROLLBACK;
DROP TABLE hand, ours, plain;
DROP FUNCTION to_hand, to_ours, read_hand, read_ours, rows_hand, rows_ours, peek_hand, peek_ours, beta_hand, beta_ours;
