-- Attacks that change the tenant within a statement, but outside of its query's run: while it is planned, started or finished, in the
-- arguments and defaults of commands, between the commands of a rule; and rows that PostgreSQL keeps for a later FETCH. By a role that
-- may be both acme and beta. The hand-made policy first: it returns or stores rows of both.
\set VERBOSITY default
\set SHOW_CONTEXT never
CREATE SCHEMA outside;
GRANT USAGE ON SCHEMA outside TO regress_app;
SET search_path = outside;
CREATE TABLE hand (id integer PRIMARY KEY, tenant_id text NOT NULL, body text);
INSERT INTO hand SELECT n, (ARRAY['acme', 'beta'])[1 + n % 2], (ARRAY['of acme', 'of beta'])[1 + n % 2] FROM generate_series(1, 4) AS n;
CREATE TABLE ours (LIKE hand INCLUDING ALL);
INSERT INTO ours TABLE hand;
ALTER TABLE hand ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY isolation ON hand USING (tenant_id = current_setting('app.tenant_id'));
SET client_min_messages = warning;
SELECT tenancy.protect('ours');
GRANT SELECT, INSERT, UPDATE, DELETE ON hand, ours TO regress_app;

-- The attacker's functions: a reader of either table, one that changes the tenant and reads.
CREATE FUNCTION read_hand() RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN string_agg(body, ',' ORDER BY id) FROM hand; END$$;
CREATE FUNCTION read_ours() RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN string_agg(body, ',' ORDER BY id) FROM ours; END$$;
CREATE FUNCTION beta_hand() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('app.tenant_id', 'beta', true);
    RETURN read_hand();
END$$;
CREATE FUNCTION beta_ours() RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('tenancy.tenant_id', 'beta', true);
    RETURN read_ours();
END$$;
SET ROLE regress_app;
SET app.tenant_id = 'acme';
SET tenancy.tenant_id = 'acme';

-- The arguments of EXECUTE.
PREPARE show_both AS SELECT $1::text AS a, $2::text AS b;
BEGIN; EXECUTE show_both(read_hand(), beta_hand()); ROLLBACK;
BEGIN; EXECUTE show_both(read_ours(), beta_ours()); ROLLBACK;                             -- SHOULD FAIL
-- One of them and the query itself.
PREPARE and_read AS SELECT body, $1::text AS argument FROM ours ORDER BY id;
BEGIN; EXECUTE and_read(beta_ours()); ROLLBACK;                                           -- all of beta
PREPARE change_after(text) AS SELECT $1, beta_ours();
BEGIN; EXECUTE change_after(read_ours()); ROLLBACK;                                       -- SHOULD FAIL
DEALLOCATE ALL;

-- The defaults of COPY FROM.
RESET ROLE;
CREATE TABLE log_hand (n integer, a text DEFAULT read_hand(), b text DEFAULT beta_hand());
CREATE TABLE log_ours (n integer, a text DEFAULT read_ours(), b text DEFAULT beta_ours());
GRANT SELECT, INSERT, UPDATE, DELETE ON log_hand, log_ours TO regress_app;
SET ROLE regress_app;
BEGIN;
COPY log_hand (n) FROM stdin;
1
\.
TABLE log_hand;
ROLLBACK;
BEGIN;
COPY log_ours (n) FROM stdin;
1
\.
ROLLBACK;

-- AFTER triggers: of an unprotected table, of a protected one; deferred ones.
RESET ROLE;
CREATE FUNCTION log_hand() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO log_hand VALUES (2, read_hand(), beta_hand()); RETURN NULL; END$$;
CREATE FUNCTION log_ours() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN INSERT INTO log_ours VALUES (2, read_ours(), beta_ours()); RETURN NULL; END$$;
CREATE FUNCTION to_beta() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('tenancy.tenant_id', 'beta', true);
    INSERT INTO ours (id, body) VALUES (100 + NEW.id, 'by ' || NEW.body);
    RETURN NULL;
END$$;
CREATE TABLE plain_hand (n integer);
CREATE TABLE plain_ours (n integer);
CREATE TRIGGER log AFTER INSERT ON plain_hand FOR EACH ROW EXECUTE FUNCTION log_hand();
CREATE TRIGGER log AFTER INSERT ON plain_ours FOR EACH ROW EXECUTE FUNCTION log_ours();
CREATE TRIGGER to_beta AFTER INSERT ON ours FOR EACH ROW EXECUTE FUNCTION to_beta();
GRANT SELECT, INSERT ON plain_hand, plain_ours TO regress_app;
SET ROLE regress_app;
BEGIN; INSERT INTO plain_hand VALUES (1); SELECT a, b FROM log_hand; ROLLBACK;
BEGIN; INSERT INTO plain_ours VALUES (1); ROLLBACK;                                       -- SHOULD FAIL
BEGIN; INSERT INTO ours (id, body) VALUES (9, 'acme'); ROLLBACK;                          -- SHOULD FAIL
RESET ROLE;
DROP TRIGGER to_beta ON ours;
CREATE TABLE later_hand (n integer);
CREATE TABLE later_ours (n integer);
CREATE CONSTRAINT TRIGGER log AFTER INSERT ON later_hand DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION log_hand();
CREATE CONSTRAINT TRIGGER log AFTER INSERT ON later_ours DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION log_ours();
GRANT SELECT, INSERT ON later_hand, later_ours TO regress_app;
SET ROLE regress_app;
BEGIN; INSERT INTO later_hand VALUES (1); COMMIT; SELECT a, b FROM log_hand;
SET app.tenant_id = 'acme'; DELETE FROM log_hand;
BEGIN; INSERT INTO later_ours VALUES (1); COMMIT;                                         -- SHOULD FAIL
INSERT INTO later_ours VALUES (1);                                                        -- SHOULD FAIL
RESET ROLE;

-- The commands of a rule.
CREATE VIEW rule_hand AS SELECT 1 AS n;
CREATE RULE two AS ON INSERT TO rule_hand DO INSTEAD (INSERT INTO log_hand SELECT 3, read_hand(), ''; INSERT INTO log_hand SELECT 4, '', beta_hand());
CREATE VIEW rule_ours AS SELECT 1 AS n;
CREATE RULE two AS ON INSERT TO rule_ours DO INSTEAD (INSERT INTO log_ours SELECT 3, read_ours(), ''; INSERT INTO log_ours SELECT 4, '', beta_ours());
GRANT INSERT ON rule_hand, rule_ours TO regress_app;
SET ROLE regress_app;
BEGIN; INSERT INTO rule_hand VALUES (1); SELECT n, a, b FROM log_hand; ROLLBACK;
BEGIN; INSERT INTO rule_ours VALUES (1); ROLLBACK;                                        -- SHOULD FAIL
RESET ROLE;
CREATE RULE own_table AS ON UPDATE TO rule_ours DO INSTEAD (INSERT INTO log_ours SELECT 3, body, '' FROM ours; INSERT INTO log_ours SELECT 4, '', beta_ours());
CREATE RULE command_between AS ON DELETE TO rule_ours DO INSTEAD (INSERT INTO log_ours SELECT 3, read_ours(), ''; NOTIFY between; INSERT INTO log_ours SELECT 4, '', beta_ours());
ALTER VIEW rule_ours OWNER TO regress_app;                                                -- with whose rights its rules read
SET ROLE regress_app;
BEGIN; UPDATE rule_ours SET n = 2; ROLLBACK;                                              -- SHOULD FAIL
BEGIN; DELETE FROM rule_ours; ROLLBACK;                                                   -- SHOULD FAIL
-- Two statements of the client's are two statements, in one message as well.
BEGIN\; INSERT INTO log_ours VALUES (5, read_ours(), '')\; INSERT INTO log_ours VALUES (6, '', beta_ours())\; SELECT n, a, b FROM log_ours\; ROLLBACK;

-- While partitions are pruned, before the query runs.
RESET ROLE;
CREATE FUNCTION acme_rows() RETURNS integer LANGUAGE plpgsql STABLE AS $$BEGIN RETURN count(*) FROM ours; END$$;
CREATE FUNCTION beta_rows() RETURNS integer LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM set_config('tenancy.tenant_id', 'beta', true);
    RETURN count(*) FROM ours;
END$$;
CREATE FUNCTION acme_rows_hand() RETURNS integer LANGUAGE plpgsql STABLE AS $$BEGIN RETURN count(*) FROM hand; END$$;
CREATE FUNCTION beta_rows_hand() RETURNS integer LANGUAGE plpgsql STABLE AS $$
BEGIN
    PERFORM set_config('app.tenant_id', 'beta', true);
    RETURN count(*) FROM hand;
END$$;
CREATE TABLE parted_hand (n integer, tenant_id text NOT NULL) PARTITION BY LIST (n);
CREATE TABLE parted_hand_1 PARTITION OF parted_hand FOR VALUES IN (1);
CREATE TABLE parted_hand_2 PARTITION OF parted_hand FOR VALUES IN (2);
ALTER TABLE parted_hand ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY isolation ON parted_hand USING (tenant_id = current_setting('app.tenant_id'));
INSERT INTO parted_hand VALUES (2, 'acme'), (2, 'beta');
CREATE TABLE parted (n integer, tenant_id text NOT NULL) PARTITION BY LIST (n);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES IN (1);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES IN (2);
RESET tenancy.tenant_id;
SELECT tenancy.protect('parted');
INSERT INTO parted VALUES (2, 'acme'), (2, 'beta');
GRANT SELECT ON parted, parted_hand TO regress_app;
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
BEGIN; SELECT n, tenant_id FROM parted_hand WHERE n IN (acme_rows_hand(), beta_rows_hand()); ROLLBACK;   -- by what acme has, beta's
BEGIN; SELECT n, tenant_id FROM parted WHERE n = acme_rows(); ROLLBACK;
BEGIN; SELECT n, tenant_id FROM parted WHERE n = beta_rows(); ROLLBACK;                   -- SHOULD FAIL, or all of beta
BEGIN; SELECT n, tenant_id FROM parted WHERE n IN (acme_rows(), beta_rows()); ROLLBACK;   -- SHOULD FAIL

-- While the query is planned: what an IMMUTABLE function has read stays in the plan, for whoever runs it next.
RESET ROLE;
CREATE FUNCTION folded_hand() RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN string_agg(body, ',' ORDER BY id) FROM hand; END$$;
CREATE FUNCTION folded_ours() RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN string_agg(body, ',' ORDER BY id) FROM ours; END$$;
CREATE FUNCTION folded_of(t text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN (SELECT max(body) FROM ours WHERE tenant_id = t); END$$;
CREATE FUNCTION "Weird Length"(t text) RETURNS integer LANGUAGE sql IMMUTABLE AS $$SELECT length(t)$$;
CREATE FUNCTION wrapped() RETURNS text LANGUAGE sql STABLE AS $$SELECT folded_ours()$$;
CREATE FUNCTION defaulted(a text DEFAULT folded_ours()) RETURNS text LANGUAGE plpgsql STABLE AS $$BEGIN RETURN a; END$$;
CREATE FUNCTION in_expression() RETURNS text LANGUAGE plpgsql AS $$BEGIN RETURN wrapped(); END$$;
CREATE FUNCTION folded_beta() RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN beta_ours(); END$$;
CREATE FUNCTION folded_set_beta() RETURNS text LANGUAGE plpgsql IMMUTABLE SET tenancy.tenant_id = 'beta' AS $$BEGIN RETURN read_ours(); END$$;
CREATE FUNCTION folded_by(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$BEGIN RETURN x || '>' || read_ours(); END$$;
CREATE FUNCTION wrapped_beta() RETURNS text LANGUAGE sql STABLE AS $$SELECT folded_beta()$$;
CREATE OPERATOR @@> (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_catalog.textcat);
SET ROLE regress_app;
PREPARE of_hand AS SELECT folded_hand() AS folded;
EXECUTE of_hand;
SET app.tenant_id = 'beta';
EXECUTE of_hand;
SET app.tenant_id = 'acme';
-- A plan with rows in it is not used a second time, and its statement is about their tenant.
PREPARE of_ours AS SELECT folded_ours() AS folded;
PREPARE of_wrapped AS SELECT wrapped() AS folded, defaulted() AS default, body FROM ours ORDER BY id LIMIT 1;
EXECUTE of_ours; EXECUTE of_wrapped;
SET tenancy.tenant_id = 'beta';
EXECUTE of_ours; EXECUTE of_wrapped;
SELECT in_expression();
SET tenancy.tenant_id = 'acme';
SELECT in_expression();
BEGIN; SELECT folded_ours(), beta_ours(); ROLLBACK;                                       -- SHOULD FAIL
BEGIN; EXECUTE of_ours; SELECT beta_ours(); EXECUTE of_ours; ROLLBACK;
BEGIN; SELECT wrapped_beta(), read_ours(); ROLLBACK;                                      -- all of beta
-- Nor does a cursor go on with it, nor do the commands of a rule with two of them.
BEGIN; DECLARE c CURSOR FOR SELECT folded_ours(), body FROM ours; SET LOCAL tenancy.tenant_id = 'beta';
FETCH ALL FROM c; ROLLBACK;                                                               -- SHOULD FAIL
BEGIN; DECLARE c CURSOR FOR SELECT folded_ours(); SET LOCAL tenancy.tenant_id = 'beta'; SELECT count(*) FROM ours;
FETCH ALL FROM c; ROLLBACK;                                                               -- SHOULD FAIL
BEGIN; DECLARE c CURSOR WITH HOLD FOR SELECT folded_ours();
COMMIT;                                                                                   -- SHOULD FAIL
RESET ROLE;
CREATE VIEW rule_folded AS SELECT 1 AS n;
CREATE RULE two AS ON INSERT TO rule_folded DO INSTEAD (INSERT INTO log_ours SELECT 1, folded_ours(), ''; INSERT INTO log_ours SELECT 2, '', folded_set_beta());
GRANT INSERT ON rule_folded TO regress_app;
SET ROLE regress_app;
BEGIN; INSERT INTO rule_folded VALUES (1); ROLLBACK;                                      -- SHOULD FAIL
-- A constant that comes to light only while the query is planned.
PREPARE pulled_up AS SELECT (SELECT folded_by(x) FROM (SELECT 'q'::text AS x) AS s);
EXECUTE pulled_up; SET tenancy.tenant_id = 'beta'; EXECUTE pulled_up; SET tenancy.tenant_id = 'acme';
BEGIN; SELECT (SELECT folded_by(x) FROM (SELECT 'q'::text AS x) AS s), beta_ours(); ROLLBACK;   -- SHOULD FAIL
-- An expression that is planned is no part of the next statement.
DO $$DECLARE x text; BEGIN x := folded_ours(); PERFORM set_config('tenancy.tenant_id', 'beta', true); RAISE WARNING '% then %', x, read_ours(); END$$;
BEGIN\; SELECT read_ours()\; SELECT folded_set_beta()\; ROLLBACK;
PREPARE wrapped_then_beta AS SELECT wrapped(), beta_ours();
BEGIN; EXECUTE wrapped_then_beta; ROLLBACK;                                               -- SHOULD FAIL
BEGIN; EXECUTE wrapped_then_beta; ROLLBACK;                                               -- SHOULD FAIL
-- With a column for an argument it is called for each row.
SELECT id, folded_of(tenant_id) FROM ours ORDER BY id;
-- An estimate is no part of the plan, and other functions may be IMMUTABLE beside it.
PREPARE estimated(text) AS SELECT id FROM ours WHERE id < 3 * acme_rows() AND "Weird Length"($1) = 4;
EXECUTE estimated('four'); EXECUTE estimated('four'); EXECUTE estimated('four'); EXECUTE estimated('four'); EXECUTE estimated('four'); EXECUTE estimated('four');
SELECT id FROM ours WHERE id < 3 * acme_rows() AND "Weird Length"('four') = 4 AND body @@> '' = body ORDER BY id;
DEALLOCATE ALL;

-- Rows that are kept: of a command that writes, of WITH that writes, of EXECUTE.
RESET ROLE;
CREATE FUNCTION open_cursor(query text) RETURNS refcursor LANGUAGE plpgsql AS $$
DECLARE c refcursor := 'kept';
BEGIN
    OPEN c FOR EXECUTE query;
    RETURN c;
END$$;
SET ROLE regress_app;
BEGIN; SELECT open_cursor('UPDATE hand SET body = body RETURNING id, body'); FETCH 1 FROM kept; SET LOCAL app.tenant_id = 'beta'; FETCH ALL FROM kept; ROLLBACK;
BEGIN; SELECT open_cursor('UPDATE ours SET body = body RETURNING id, body'); FETCH 1 FROM kept; SET LOCAL tenancy.tenant_id = 'beta';
FETCH ALL FROM kept; ROLLBACK;                                                            -- SHOULD FAIL
BEGIN; SELECT open_cursor('WITH w AS (DELETE FROM ours RETURNING id, body) SELECT * FROM w'); FETCH 1 FROM kept; SET LOCAL tenancy.tenant_id = 'beta';
FETCH ALL FROM kept; ROLLBACK;                                                            -- SHOULD FAIL
PREPARE p AS SELECT id, body FROM ours;
PREPARE p_hand AS SELECT id, body FROM hand;
BEGIN; SELECT open_cursor('EXECUTE p'); FETCH 1 FROM kept; SET LOCAL tenancy.tenant_id = 'beta';
FETCH ALL FROM kept; ROLLBACK;                                                            -- SHOULD FAIL
BEGIN; SELECT open_cursor('EXECUTE p_hand'); FETCH 1 FROM kept; SET LOCAL app.tenant_id = 'beta'; FETCH ALL FROM kept; ROLLBACK;   -- by hand it goes on
-- Back in the first tenant it stays closed: nobody is asked when it is read.
BEGIN; SELECT open_cursor('EXECUTE p'); FETCH 1 FROM kept; SET LOCAL tenancy.tenant_id = 'beta'; SET LOCAL tenancy.tenant_id = 'acme';
FETCH ALL FROM kept; ROLLBACK;                                                            -- SHOULD FAIL
-- Unasked: a function's SET clause ends, a RESET, a rollback to a savepoint.
RESET ROLE;
CREATE FUNCTION open_as_beta(query text) RETURNS refcursor LANGUAGE plpgsql SET tenancy.tenant_id = 'beta' AS $$
DECLARE c refcursor := 'kept'; one record;
BEGIN
    OPEN c FOR EXECUTE query;
    FETCH c INTO one;
    RETURN c;
END$$;
SET ROLE regress_app;
BEGIN; SELECT open_as_beta('UPDATE ours SET body = body RETURNING id, body');
FETCH ALL FROM kept; ROLLBACK;                                                            -- SHOULD FAIL
BEGIN; SELECT open_cursor('UPDATE ours SET body = body RETURNING id, body'); FETCH 1 FROM kept; SAVEPOINT s; RESET tenancy.tenant_id;
FETCH ALL FROM kept; ROLLBACK;                                                            -- SHOULD FAIL
-- What is of no tenant goes on, and so does what is of this one.
BEGIN; SELECT open_cursor('INSERT INTO log_ours VALUES (7, '''', ''''), (8, '''', '''') RETURNING n'); FETCH 1 FROM kept; SET LOCAL tenancy.tenant_id = 'beta'; FETCH ALL FROM kept; ROLLBACK;
BEGIN; SELECT open_cursor('EXECUTE p'); FETCH 1 FROM kept; SELECT count(*) FROM ours; SET LOCAL tenancy.tenant_id = 'acme'; FETCH ALL FROM kept; CLOSE kept; ROLLBACK;
-- Read inside of a statement that changes the tenant: what a cursor keeps, and what it goes on with.
RESET ROLE;
CREATE FUNCTION fetch_then(t text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE c refcursor := 'kept'; r record;
BEGIN
    FETCH c INTO r;
    IF t <> '' THEN
        PERFORM set_config('tenancy.tenant_id', t, true);
    END IF;
    RETURN r::text || ' then ' || read_ours();
END$$;
CREATE FUNCTION fetch_hand_then(t text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE c refcursor := 'kept'; r record;
BEGIN
    FETCH c INTO r;
    PERFORM set_config('app.tenant_id', t, true);
    RETURN r::text || ' then ' || read_hand();
END$$;
CREATE FUNCTION rows_hand() RETURNS SETOF text LANGUAGE plpgsql AS $$BEGIN RETURN QUERY SELECT body FROM hand; END$$;
CREATE FUNCTION rows_ours() RETURNS SETOF text LANGUAGE plpgsql AS $$BEGIN RETURN QUERY SELECT body FROM ours; END$$;
CREATE FUNCTION rows_beta() RETURNS SETOF text LANGUAGE plpgsql AS $$BEGIN PERFORM set_config('tenancy.tenant_id', 'beta', true); RETURN QUERY SELECT body FROM ours; END$$;
CREATE FUNCTION rows_set_beta() RETURNS SETOF text LANGUAGE plpgsql SET tenancy.tenant_id = 'beta' AS $$BEGIN RETURN QUERY SELECT body FROM ours; END$$;
SET ROLE regress_app;
BEGIN; SELECT open_cursor('UPDATE hand SET body = body RETURNING body'); FETCH 1 FROM kept; SELECT fetch_hand_then('beta'); ROLLBACK;   -- by hand, rows of both
BEGIN; SELECT open_cursor('UPDATE ours SET body = body RETURNING body'); FETCH 1 FROM kept; SELECT fetch_then(''); ROLLBACK;
BEGIN; SELECT open_cursor('UPDATE ours SET body = body RETURNING body'); FETCH 1 FROM kept; SELECT fetch_then('beta'); ROLLBACK;   -- SHOULD FAIL
BEGIN; SELECT open_cursor('SELECT body FROM ours ORDER BY body');
DO $$DECLARE c refcursor := 'kept'; r record; BEGIN FETCH c INTO r; END$$;
SELECT fetch_then('beta'); ROLLBACK;                                                      -- SHOULD FAIL
RESET ROLE;
CREATE FUNCTION fetch_one() RETURNS text LANGUAGE plpgsql AS $$DECLARE c refcursor := 'kept'; r record; BEGIN FETCH c INTO r; RETURN r::text; END$$;
CREATE FUNCTION fetch_all() RETURNS SETOF text LANGUAGE plpgsql AS $$DECLARE c refcursor := 'kept'; r record; BEGIN LOOP FETCH c INTO r; EXIT WHEN NOT FOUND; RETURN NEXT r::text; END LOOP; END$$;
CREATE FUNCTION fetch_close_then(t text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE c refcursor := 'kept'; r record;
BEGIN
    FETCH c INTO r;
    CLOSE c;
    PERFORM set_config('tenancy.tenant_id', t, true);
    RETURN r::text || ' then ' || read_ours();
END$$;
CREATE FUNCTION set_beta() RETURNS text LANGUAGE plpgsql SET tenancy.tenant_id = 'beta' AS $$BEGIN RETURN read_ours(); END$$;
CREATE TABLE log_kept (n integer, a text DEFAULT fetch_one(), b text DEFAULT set_beta());
GRANT SELECT, INSERT ON log_kept TO regress_app;
SET ROLE regress_app;
PREPARE two(text, text) AS SELECT $1, $2;
BEGIN; SELECT open_cursor('UPDATE ours SET body = body RETURNING body'); MOVE 0 IN kept; SELECT fetch_close_then('beta'); ROLLBACK;   -- SHOULD FAIL
BEGIN; SELECT open_cursor('UPDATE ours SET body = body RETURNING body'); MOVE 0 IN kept; EXECUTE two(fetch_one(), set_beta()); ROLLBACK;   -- SHOULD FAIL
BEGIN; SELECT open_cursor('UPDATE ours SET body = body RETURNING body'); MOVE 0 IN kept;
COPY log_kept (n) FROM stdin;
1
\.
ROLLBACK;
-- A cursor that reads what another keeps.
BEGIN; SELECT open_cursor('UPDATE ours SET body = body RETURNING body'); MOVE 0 IN kept;
DECLARE c CURSOR FOR SELECT * FROM fetch_all(); FETCH 1 FROM c; SET LOCAL tenancy.tenant_id = 'beta';
FETCH ALL FROM c; ROLLBACK;                                                               -- SHOULD FAIL
-- What CALL returns is kept as well; its commands are statements of their own.
RESET ROLE;
CREATE PROCEDURE called(INOUT x text) LANGUAGE plpgsql AS $$
BEGIN
    x := read_ours();
    PERFORM set_config('tenancy.tenant_id', 'beta', true);
    x := x || ' then ' || read_ours();
END$$;
SET ROLE regress_app;
BEGIN; CALL called(NULL); ROLLBACK;
RESET ROLE;
CREATE PROCEDURE called_once(INOUT x text) LANGUAGE plpgsql AS 'BEGIN x := read_ours(); END';
SET ROLE regress_app;
BEGIN; SELECT open_cursor('CALL called_once(NULL)'); MOVE 0 IN kept; SET LOCAL tenancy.tenant_id = 'beta';
FETCH ALL FROM kept; ROLLBACK;                                                            -- SHOULD FAIL
-- What a cursor returns is of the tenant that a function went to.
BEGIN; SELECT open_cursor('SELECT * FROM rows_beta()'); FETCH 1 FROM kept; SET LOCAL tenancy.tenant_id = 'acme'; SELECT fetch_then(''); ROLLBACK;   -- SHOULD FAIL
BEGIN; SELECT open_cursor('SELECT * FROM rows_set_beta()'); FETCH 1 FROM kept; SELECT fetch_then(''); ROLLBACK;   -- SHOULD FAIL
BEGIN; SELECT open_cursor('INSERT INTO log_ours SELECT 1, x, '''' FROM rows_set_beta() AS x RETURNING a'); FETCH 1 FROM kept; SELECT fetch_then(''); ROLLBACK;   -- SHOULD FAIL
-- A cursor that reads a cursor that keeps its rows.
BEGIN; SELECT open_cursor('UPDATE ours SET body = body RETURNING body'); FETCH 1 FROM kept;
DO $$DECLARE c refcursor := 'second'; r record; BEGIN OPEN c FOR EXECUTE 'FETCH ALL FROM kept'; FETCH c INTO r; END$$;
SET LOCAL tenancy.tenant_id = 'beta'; FETCH ALL FROM second; ROLLBACK;                    -- SHOULD FAIL
-- What is closed keeps its locks until the transaction ends.
BEGIN; SELECT open_cursor('UPDATE ours SET body = body RETURNING body, pg_advisory_xact_lock(4711)'); FETCH 1 FROM kept; SET LOCAL tenancy.tenant_id = 'beta'; CLOSE kept;
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objid = 4711; ROLLBACK;
-- A loop over rows that are kept: of a command that writes, and over a procedure's own COMMIT. By hand it goes on.
DO $$
DECLARE item record;
BEGIN
    FOR item IN UPDATE hand SET body = body RETURNING body LOOP
        PERFORM set_config('app.tenant_id', 'beta', true);
        RAISE WARNING '% while beta reads %', item.body, read_hand();
    END LOOP;
END$$;
DO $$
DECLARE item record;
BEGIN
    FOR item IN SELECT body FROM hand ORDER BY id LOOP
        COMMIT;
        PERFORM set_config('app.tenant_id', 'beta', false);
        RAISE WARNING '% while beta reads %', item.body, read_hand();
    END LOOP;
END$$;
SET app.tenant_id = 'acme';
DO $$
DECLARE item record;
BEGIN
    FOR item IN INSERT INTO ours (id, body) SELECT n, 'new' FROM generate_series(10, 30) AS n RETURNING id LOOP
        PERFORM set_config('tenancy.tenant_id', 'beta', true);                            -- SHOULD FAIL
    END LOOP;
END$$;
DO $$
DECLARE item record;
BEGIN
    FOR item IN SELECT body FROM ours ORDER BY id LOOP
        COMMIT;
        PERFORM set_config('tenancy.tenant_id', 'beta', false);                           -- SHOULD FAIL
    END LOOP;
END$$;
-- A cursor WITH HOLD over a function that was read before COMMIT.
BEGIN; DECLARE h CURSOR WITH HOLD FOR SELECT * FROM rows_hand(); FETCH 1 FROM h; COMMIT; SET app.tenant_id = 'beta'; FETCH ALL FROM h; CLOSE h; SET app.tenant_id = 'acme';
BEGIN; DECLARE h CURSOR WITH HOLD FOR SELECT * FROM rows_ours(); FETCH 1 FROM h;
COMMIT;                                                                                   -- SHOULD FAIL
-- Another cursor WITH HOLD leaves nothing behind.
BEGIN; DECLARE h CURSOR WITH HOLD FOR SELECT n FROM log_ours; COMMIT; EXECUTE p; CLOSE h;

-- Back to the tenant whose rows were read: allowed.
RESET ROLE;
CREATE FUNCTION count_acme() RETURNS bigint LANGUAGE plpgsql SET tenancy.tenant_id = 'acme' AS 'BEGIN RETURN count(*) FROM ours; END';
SET ROLE regress_app;
RESET tenancy.tenant_id;
SELECT n, count_acme() FROM generate_series(1, 2) AS n;
SELECT count_acme(), read_ours();                                                         -- SHOULD FAIL
-- A visit to another tenant that reads nothing binds nothing.
RESET ROLE;
CREATE FUNCTION read_nothing() RETURNS void LANGUAGE plpgsql SET tenancy.tenant_id = 'beta' AS 'BEGIN END';
CREATE FUNCTION visit_then_read() RETURNS text LANGUAGE plpgsql AS 'BEGIN PERFORM read_nothing() FROM generate_series(1, 2); RETURN read_ours(); END';
SET ROLE regress_app;
SET tenancy.tenant_id = 'acme';
SELECT visit_then_read();
SET tenancy.tenant_id = 'acme';

-- In a parallel query: workers do not tell their leader what they have read, nor one another.
RESET ROLE;
CREATE TABLE many AS SELECT n, repeat('x', 1000) AS body FROM generate_series(1, 200) AS n;
GRANT SELECT ON many TO regress_app;
CREATE FUNCTION safe_read(n integer) RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$BEGIN RETURN string_agg(body, ',') FROM ours WHERE id > 0 * n; END$$;
CREATE FUNCTION restricted_beta(t text) RETURNS text LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SET tenancy.tenant_id = 'beta' AS 'BEGIN RETURN safe_read(1); END';
CREATE FUNCTION safe_read_hand(n integer) RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$BEGIN RETURN string_agg(body, ',') FROM hand WHERE id > 0 * n; END$$;
CREATE FUNCTION restricted_beta_hand(t text) RETURNS text LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SET app.tenant_id = 'beta' AS 'BEGIN RETURN safe_read_hand(1); END';
CREATE FUNCTION safe_either(n integer) RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE SET tenancy.tenant_id = 'beta' AS 'BEGIN RETURN safe_read(1); END';
SET ROLE regress_app;
SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0; SET parallel_leader_participation = off;
SELECT m, restricted_beta_hand(m) FROM (SELECT max(safe_read_hand(n)) AS m FROM many WHERE n < 4) AS s;   -- by hand, rows of both
SELECT m FROM (SELECT max(safe_read(n)) AS m FROM many WHERE n < 4) AS s;
SELECT m, restricted_beta(m) FROM (SELECT max(safe_read(n)) AS m FROM many WHERE n < 4) AS s;   -- SHOULD FAIL
\set SHOW_CONTEXT never
SELECT max(CASE WHEN n = 1 THEN safe_read(n) ELSE safe_either(n) END) FROM many WHERE n < 4;   -- SHOULD FAIL
RESET parallel_setup_cost; RESET parallel_tuple_cost; RESET min_parallel_table_scan_size; RESET parallel_leader_participation;

-- Commands that commit on their way.
RESET ROLE;
CREATE FUNCTION both_ours(n integer) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = outside AS $$BEGIN RETURN read_ours() || beta_ours(); END$$;
CREATE FUNCTION both_hand(n integer) RETURNS text LANGUAGE plpgsql IMMUTABLE SET search_path = outside AS $$
DECLARE seen text := read_hand() || ' and ' || beta_hand();
BEGIN
    PERFORM set_config('app.tenant_id', 'acme', true);
    RETURN seen;
END$$;
CREATE TABLE mine (n integer);
INSERT INTO mine VALUES (1), (1);
ALTER TABLE mine OWNER TO regress_app;
GRANT CREATE ON SCHEMA outside TO regress_app;
SET ROLE regress_app;
CREATE INDEX CONCURRENTLY ON mine (both_hand(n));
CREATE STATISTICS s_hand ON both_hand(n), n FROM mine;
VACUUM ANALYZE mine;
SELECT most_common_vals::text FROM pg_stats_ext_exprs WHERE statistics_name = 's_hand' UNION ALL SELECT most_common_vals::text FROM pg_stats WHERE tablename = 'mine_both_hand_idx';
DROP INDEX mine_both_hand_idx;
DROP STATISTICS s_hand;
CREATE UNIQUE INDEX CONCURRENTLY ON mine (both_ours(n));                                  -- SHOULD FAIL
CREATE STATISTICS s ON both_ours(n), n FROM mine;
VACUUM ANALYZE mine;                                                                      -- SHOULD FAIL

-- The first statement of a session, in which the library may be loaded.
\c -
SET search_path = outside;
SET ROLE regress_app;
BEGIN; SELECT set_config('app.tenant_id', 'acme', true) AS hand, read_hand(), beta_hand(); ROLLBACK;
\c -
SET search_path = outside;
SET ROLE regress_app;
BEGIN; SELECT set_config('tenancy.tenant_id', 'acme', true) AS ours, read_ours(), beta_ours(); ROLLBACK;   -- SHOULD FAIL
\c -
SET search_path = outside;
SET ROLE regress_app;
BEGIN; INSERT INTO log_ours SELECT 1, read_ours(), beta_ours() FROM set_config('tenancy.tenant_id', 'acme', true); ROLLBACK;   -- SHOULD FAIL
\c -
SET search_path = outside;
SET ROLE regress_app;
-- Statements of a DO block are statements of their own, in the first one as well.
DO $$
BEGIN
    PERFORM tenancy.set_tenant('acme');
    RAISE NOTICE '%', read_ours();
    RAISE NOTICE '%', beta_ours();
END$$;
RESET ROLE;
SET client_min_messages = warning;
DROP SCHEMA outside CASCADE;
