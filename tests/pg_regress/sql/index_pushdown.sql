-- Index pushdown: conditions of a query reach indexes behind the policies of a protected table.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_pushdown;
GRANT SET ON PARAMETER tenancy.tenant_id TO regress_pushdown;
SELECT tenancy.create_tenant('push-' || n) AS id INTO TEMP created FROM generate_series(0, 3) AS n;
CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
CREATE TABLE "Weird Doc" (
    id bigint PRIMARY KEY, tenant_id text NOT NULL, body text, tsv tsvector, doc jsonb, tags text[], price numeric, span int4range, spans int4multirange,
    mood mood, at timestamp, area box, address inet
);
INSERT INTO "Weird Doc"
    SELECT n, 'push-' || n % 4, 'Body ' || n, to_tsvector('simple', 'w' || n % 100), jsonb_build_object('k', n % 100), ARRAY['t' || n % 100], n % 100,
           int4range(n, n + 2), int4multirange(int4range(n, n + 2)), (ARRAY['sad', 'ok', 'happy'])[1 + n % 3]::mood, '2026-01-01'::timestamp + n * interval '1 hour', box(point(n, n), point(n, n)),
           '10.0.0.0'::inet + n
    FROM generate_series(1, 2000) AS n;
CREATE INDEX by_tsv ON "Weird Doc" USING gin (tsv);
CREATE INDEX by_doc ON "Weird Doc" USING gin (doc);
CREATE INDEX by_tags ON "Weird Doc" USING gin (tags);
CREATE INDEX by_price ON "Weird Doc" (price);
CREATE INDEX by_span ON "Weird Doc" USING gist (span);
CREATE INDEX by_spans ON "Weird Doc" USING gist (spans);
CREATE INDEX by_mood ON "Weird Doc" (tenant_id, mood);
CREATE INDEX by_at ON "Weird Doc" (at);
CREATE INDEX by_area ON "Weird Doc" USING gist (area);
CREATE INDEX by_address ON "Weird Doc" USING gist (address inet_ops);
CREATE INDEX by_lower ON "Weird Doc" (lower(body) text_pattern_ops);
CREATE INDEX by_words ON "Weird Doc" USING gin (to_tsvector('simple', body));
CREATE INDEX by_key ON "Weird Doc" ((doc ->> 'k')) WHERE price > 50;
CREATE INDEX by_tenant_price ON "Weird Doc" (tenant_id, price);
SELECT tenancy.protect('"Weird Doc"');
GRANT SELECT, INSERT, UPDATE, DELETE ON "Weird Doc" TO regress_pushdown;
ANALYZE "Weird Doc";

-- The conditions that reach an index, besides that of the policy.
CREATE FUNCTION reaches(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    plan jsonb;
    line jsonb;
    found text[] := '{}';
BEGIN
    EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
    FOR line IN SELECT jsonb_path_query(plan, 'strict $.**.Plan') UNION ALL SELECT jsonb_path_query(plan, 'strict $.**.Plans[*]') LOOP
        IF line ? 'Index Name' AND line ->> 'Index Cond' IS NOT NULL AND line ->> 'Index Cond' <> '(tenant_id = tenancy.current_tenant())' THEN
            found := found || format('%s: %s', line ->> 'Index Name', replace(line ->> 'Index Cond', '(tenant_id = tenancy.current_tenant()) AND ', '… AND '));
        END IF;
    END LOOP;
    RETURN coalesce((SELECT string_agg(DISTINCT f, '; ' ORDER BY f) FROM unnest(found) AS f), '-');
END
$$;
-- With what core does, and with pushdown.
CREATE FUNCTION compare(condition text, OUT "off" text, OUT "on" text) LANGUAGE plpgsql AS $$
DECLARE
    query text := 'SELECT * FROM "Weird Doc" d WHERE ' || condition;
BEGIN
    PERFORM set_config('tenancy.index_pushdown', 'off', true);
    SET ROLE regress_pushdown;
    "off" := reaches(query);
    RESET ROLE;
    PERFORM set_config('tenancy.index_pushdown', 'on', true);
    SET ROLE regress_pushdown;
    "on" := reaches(query);
    RESET ROLE;
END
$$;
SET tenancy.tenant_id = 'push-1';
SET enable_seqscan = off;
SELECT condition, (compare(condition)).* FROM (VALUES
    ($$tsv @@ 'w5'$$), ($$tsv @@ to_tsquery('simple', 'w5 & w6')$$), ($$tsv @@ plainto_tsquery('w5')$$), ($$'w5' @@ tsv$$),
    ($$to_tsvector('simple', body) @@ '5'$$),
    ($$doc @> '{"k": 5}'$$), ($$doc ? 'x'$$), ($$doc @? '$.k ? (@ == 5)'$$), ($$doc @@ '$.k == 5'$$),
    ($$tags && '{t5}'$$), ($$tags @> ARRAY['t5']$$),
    ($$price = 5$$), ($$price BETWEEN 5 AND 6$$), ($$price = ANY ('{5,6}')$$), ($$price IN (SELECT 5)$$),
    ($$span && int4range(5, 7)$$), ($$span @> 5$$), ($$spans @> 5$$),
    ($$mood = 'sad'$$), ($$at < '2026-01-02'::timestamptz$$), ($$at = date '2026-01-02'$$), ($$area && box '((1,1),(2,2))'$$), ($$address << '10.0.0.0/30'$$),
    ($$lower(body) LIKE 'body 5%'$$), ($$lower(body) ~ '^body 5'$$), ($$lower(body) ^@ 'body 5'$$),
    ($$doc ->> 'k' = '77' AND price > 60$$),
    ($$tsv @@ 'w5' OR price = 6$$), ($$(tsv @@ 'w5' AND price = 5) OR tags && '{t6}'$$), ($$tsv @@ 'w5' AND price = 5$$)
) AS c(condition);

-- Their estimates are by the statistics, as those of a superuser: PostgreSQL shows these to LEAKPROOF operators only.
CREATE FUNCTION expected(query text) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    plan jsonb;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
    RETURN plan -> 0 -> 'Plan' ->> 'Plan Rows';
END
$$;
CREATE TABLE estimated (condition text, way text, rows numeric);
DO $$
DECLARE
    condition text;
    rows numeric;
BEGIN
    FOREACH condition IN ARRAY ARRAY[$a$price < 50$a$, $a$doc @> '{"k": 9}'$a$, $a$span && int4range(5, 50)$a$, $a$tags && '{t5,t6,t7}'$a$] LOOP
        INSERT INTO estimated VALUES (condition, 'superuser', expected(format('SELECT FROM "Weird Doc" WHERE %s AND tenant_id = %L', condition, 'push-1')));
        SET ROLE regress_pushdown;
        rows := expected(format('SELECT FROM "Weird Doc" WHERE %s', condition));
        RESET ROLE;
        INSERT INTO estimated VALUES (condition, 'tenant', rows);
    END LOOP;
END
$$;
SELECT condition, max(rows) FILTER (WHERE way = 'tenant') BETWEEN 0.9 * max(rows) FILTER (WHERE way = 'superuser') AND 1.1 * max(rows) FILTER (WHERE way = 'superuser') AS right
FROM estimated GROUP BY 1 ORDER BY 1;
DROP TABLE estimated;

-- What must not: patterns and paths that can raise errors, values that are not known, functions of a user's own.
CREATE FUNCTION own(text) RETURNS tsquery LANGUAGE plpgsql STABLE AS $$ BEGIN RAISE NOTICE 'called'; RETURN $1::tsquery; END $$;
CREATE FUNCTION own_lower(text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN lower($1); END $$;
CREATE INDEX by_own ON "Weird Doc" (own_lower(body));
CREATE INDEX by_rest ON "Weird Doc" USING gin ((doc - 'noise'));
CREATE FUNCTION own_match(tsvector, tsquery) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RETURN $1 @@ $2; END $$;
SELECT condition, (compare(condition)).* FROM (VALUES
    ($$lower(body) LIKE 'body\'$$), ($$lower(body) LIKE 'body 5%\\\'$$), ($$lower(body) LIKE current_setting('search_path')$$),
    ($$lower(body) ~ '^body (.)\1'$$), ($$lower(body) ~ '^body(?=x)'$$), ($$lower(body) LIKE repeat('a', 1001)$$),
    ($$doc @? '$.k ? (@ == $x)'$$), ($$doc @? '$.k.double() ? (@ == 5)'$$), ($$doc @? '$.k ? (@ like_regex "5")'$$),
    ($$doc @> (('{"k": "' || repeat('x', 1000) || '"}')::jsonb)$$), ($$tsv @@ plainto_tsquery(current_setting('search_path'))$$), ($$tsv @@ own('w5')$$),
    ($$(doc - 'noise') @> '{"k": 5}'$$), ($$lower(body) ~ ('^body' || repeat('(', 60) || '5' || repeat(')', 60))$$),
    ($$own_lower(body) = 'body 5'$$), ($$own_match(tsv, 'w5')$$)
) AS c(condition);

-- The tenant's own rows and no others, whichever way.
CREATE TABLE result (way text, condition text, rows bigint, sum numeric);
DO $$
DECLARE
    way text;
    condition text;
BEGIN
    FOREACH way IN ARRAY '{off,tenant_indexes,on}'::text[] LOOP
        PERFORM set_config('tenancy.index_pushdown', way, true);
        FOREACH condition IN ARRAY ARRAY['price < 50', 'tsv @@ ''w5 | w6''', 'tags && ''{t5,t6,t7}''', 'doc @> ''{"k": 9}'' OR price = 1', 'lower(body) LIKE ''body 1%'''] LOOP
            SET ROLE regress_pushdown;
            EXECUTE format('CREATE TEMP TABLE one AS SELECT count(*) AS rows, sum(id) AS sum FROM "Weird Doc" WHERE %s', condition);
            RESET ROLE;
            INSERT INTO result SELECT way, condition, one.* FROM one;
            SET ROLE regress_pushdown;
            DROP TABLE one;
            RESET ROLE;
        END LOOP;
    END LOOP;
END
$$;
SELECT condition, count(*) AS ways, count(DISTINCT (rows, sum)) AS answers, min(rows) AS rows FROM result GROUP BY 1 ORDER BY 1;

-- Where PostgreSQL has found that there can be no row, it has left out what a path by an index needs: none is made, however much it would be wanted.
SET enable_sort = off;
SET enable_hashagg = off;
SET ROLE regress_pushdown;
SELECT count(*) FROM (SELECT DISTINCT price FROM "Weird Doc" WHERE price < 50 AND id = 1 AND id = 2) AS d;
SELECT count(*) FROM (SELECT DISTINCT price FROM "Weird Doc" WHERE price < 50 AND id = 1 AND id = 2 OFFSET 0) AS d WHERE price >= 0;
RESET ROLE;
RESET enable_sort;
RESET enable_hashagg;

-- Only indexes with the tenant column.
SET tenancy.index_pushdown = tenant_indexes;
SET ROLE regress_pushdown;
SELECT reaches('SELECT * FROM "Weird Doc" WHERE price = 5') AS "with the tenant", reaches('SELECT * FROM "Weird Doc" WHERE tsv @@ ''w5''') AS without;
RESET ROLE;
RESET tenancy.index_pushdown;

-- Joins, partitions, a view, DML, prepared statements; a table that is not protected stays as it is.
CREATE TABLE part (id bigint, tenant_id text NOT NULL, price numeric) PARTITION BY RANGE (id);
CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM (0) TO (1000);
CREATE TABLE part_2 PARTITION OF part FOR VALUES FROM (1000) TO (3000);
INSERT INTO part SELECT id, tenant_id, price FROM "Weird Doc";
CREATE INDEX part_price ON part (price);
RESET tenancy.tenant_id;
SELECT tenancy.protect('part');
SET tenancy.tenant_id = 'push-1';
CREATE TABLE other (id bigint, owner text, price numeric);
INSERT INTO other SELECT id, 'regress_pushdown', price FROM "Weird Doc";
CREATE INDEX other_price ON other (price);
ALTER TABLE other ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON other USING (owner = current_user);
CREATE VIEW seen WITH (security_invoker) AS SELECT * FROM "Weird Doc";
GRANT SELECT, UPDATE, DELETE ON part, part_1, other, seen TO regress_pushdown;
ANALYZE part, other;
SET ROLE regress_pushdown;
SELECT reaches('SELECT * FROM "Weird Doc" a JOIN part b ON b.price = a.price + 1 WHERE a.id = 5') AS "join";
SELECT reaches('SELECT * FROM part WHERE price = 5') AS partitions, reaches('SELECT * FROM part_1 WHERE price = 5') AS partition;
SELECT reaches('SELECT * FROM other WHERE price = 5') AS "of another's policy";
SELECT reaches('UPDATE "Weird Doc" SET price = 0 WHERE tsv @@ ''w5''') AS "update", reaches('DELETE FROM part WHERE price = 5') AS "delete";
SET enable_sort = off;
SELECT reaches('SELECT * FROM "Weird Doc" WHERE area && box ''((1,1),(900,900))'' ORDER BY area <-> point ''(5,5)'' LIMIT 3') AS nearest;
RESET enable_sort;
SELECT reaches('SELECT * FROM seen WHERE price = 5') AS "view";
SELECT reaches('SELECT * FROM "Weird Doc" TABLESAMPLE bernoulli (0) WHERE tsv @@ ''w5''') AS sample, count(*) AS rows FROM "Weird Doc" TABLESAMPLE bernoulli (0) WHERE tsv @@ 'w5';
PREPARE by_word(tsquery) AS SELECT count(*) FROM "Weird Doc" WHERE tsv @@ $1;
EXECUTE by_word('w5'); EXECUTE by_word('w5'); EXECUTE by_word('w5'); EXECUTE by_word('w5'); EXECUTE by_word('w5'); EXECUTE by_word('w5'); EXECUTE by_word('w5');
SELECT reaches('EXECUTE by_word(''w5'')') AS prepared;
PREPARE by_price(numeric) AS SELECT count(*) FROM "Weird Doc" WHERE price = $1;
SET plan_cache_mode = force_generic_plan;
EXECUTE by_price(5);
SELECT reaches('EXECUTE by_price(5)') AS generic;
RESET ROLE;
SET tenancy.index_pushdown = off;
SET ROLE regress_pushdown;
SELECT reaches('EXECUTE by_price(5)') AS "generic, off";
RESET ROLE;
SET tenancy.index_pushdown = no;
SHOW tenancy.index_pushdown;
SET tenancy.index_pushdown = maybe;
RESET tenancy.index_pushdown;
SHOW tenancy.index_pushdown;
RESET plan_cache_mode;
SET ROLE regress_pushdown;
SET tenancy.index_pushdown = off;
RESET ROLE;

-- Operators that a superuser adds.
RESET tenancy.tenant_id;
CREATE FUNCTION by_hand(numeric, numeric) RETURNS boolean LANGUAGE sql IMMUTABLE AS 'SELECT $1 = $2';
CREATE OPERATOR === (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = by_hand);
SELECT tenancy.trust_operator('===(numeric,numeric)');
SELECT tenancy.trust_operator(0);
SET client_min_messages = notice;
SELECT tenancy.trust_operator('&&(circle,circle)');
SET client_min_messages = error;
SELECT tenancy.trust_operator('&&(circle,circle)');
SELECT operator, kind, condition, trusted_by IS NOT NULL AS added FROM tenancy.trusted_operators
WHERE operator IN ('&&(circle,circle)'::regoperator, '@@(tsvector,tsquery)'::regoperator, '=(numeric,numeric)'::regoperator, '=(text,text)'::regoperator) ORDER BY 1;
SELECT operation, new ->> 'operator' AS operator FROM tenancy.audit_log WHERE relation = '_tenancy.leakproof_operators' ORDER BY recorded_at, number;
ALTER TABLE "Weird Doc" ADD COLUMN round circle DEFAULT '<(0,0),1>';
CREATE INDEX by_round ON "Weird Doc" USING gist (round);
SET tenancy.tenant_id = 'push-1';
SELECT tenancy.trust_operator('&&(circle,circle)');
SET ROLE regress_pushdown;
PREPARE by_circle(circle) AS SELECT count(*) FROM "Weird Doc" WHERE round && $1;
SET plan_cache_mode = force_generic_plan;
SELECT reaches('EXECUTE by_circle(''<(1,1),1>'')') AS added;
RESET ROLE;
RESET tenancy.tenant_id;
SELECT tenancy.distrust_operator('&&(circle,circle)'), tenancy.distrust_operator('&&(circle,circle)') AS again;
SET tenancy.tenant_id = 'push-1';
SET ROLE regress_pushdown;
SELECT reaches('EXECUTE by_circle(''<(1,1),1>'')') AS distrusted;
SELECT tenancy.trust_operator('&&(circle,circle)');
RESET ROLE;
RESET tenancy.tenant_id;
CREATE ROLE regress_owner_of_db;
GRANT EXECUTE ON FUNCTION tenancy.trust_operator(regoperator) TO regress_owner_of_db;
SET ROLE regress_owner_of_db;
SELECT tenancy.trust_operator('&&(circle,circle)');
RESET ROLE;

-- The values of others make no estimate fail: the distance between bounds of such ranges is no double.
CREATE TABLE wide (tenant_id text, span numrange);
SELECT tenancy.protect('wide');
INSERT INTO wide SELECT 'push-1', numrange(g, g + 1) FROM generate_series(1, 200) AS g;
INSERT INTO wide SELECT 'push-2', numrange(('1e' || 390 + g / 10)::numeric + g, ('1e' || 390 + g / 10)::numeric + g + 1) FROM generate_series(1, 200) AS g;
CREATE INDEX ON wide (span);
ANALYZE wide;
GRANT SELECT ON wide TO regress_pushdown;
SET tenancy.tenant_id = 'push-1';
SET ROLE regress_pushdown;
SELECT count(*) FROM wide WHERE span && numrange(150, 1e390);
SELECT count(*) FROM wide WHERE span && numrange(199.5, 1e395);
RESET ROLE;
RESET tenancy.tenant_id;
DROP TABLE wide;

RESET plan_cache_mode;
RESET enable_seqscan;
RESET client_min_messages;

DROP VIEW seen;
DROP TABLE "Weird Doc", part, other, result;
DROP OPERATOR === (numeric, numeric);
DROP FUNCTION own(text), own_lower(text), own_match(tsvector, tsquery), reaches(text), compare(text), by_hand(numeric, numeric);
DROP TYPE mood;
DELETE FROM _tenancy.tenants WHERE id LIKE 'push-%';
