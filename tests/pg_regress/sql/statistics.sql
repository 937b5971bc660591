-- Plans for tenants of very different sizes: what is estimated of a tenant's rows, and which plans are kept.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE ROLE regress_planner;
GRANT SET ON PARAMETER tenancy.tenant_id TO regress_planner;
SELECT count(tenancy.create_tenant(t)) FROM unnest('{size-large,size-new,size-few,size-none,8000000001,8000000002,f0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,f0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12}'::text[]) AS t;
SELECT count(tenancy.create_tenant('size-' || n)) FROM generate_series(1, 50) AS n;
CREATE TABLE event (id bigint, tenant_id text, value int) WITH (autovacuum_enabled = off);
INSERT INTO event SELECT n, CASE WHEN n % 10 <> 0 THEN 'size-large' ELSE 'size-' || 1 + n / 10 % 50 END, n % 1000 FROM generate_series(1, 40000) AS n;
SELECT tenancy.protect('event');
CREATE INDEX event_value ON event (value);
GRANT SELECT, INSERT ON event TO regress_planner;
ANALYZE event;

CREATE FUNCTION estimate(query text) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    plan jsonb;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT json) ' || query INTO plan;
    RETURN plan -> 0 -> 'Plan' -> 'Plan Rows';
END
$$;
-- How much is estimated of a tenant, what a query that names it gets, and what there is: in orders of magnitude.
CREATE FUNCTION estimates(query text, VARIADIC tenants text[]) RETURNS TABLE (tenant text, named numeric, ours numeric, rows numeric) LANGUAGE plpgsql AS $$
BEGIN
    FOREACH tenant IN ARRAY tenants LOOP
        PERFORM set_config('tenancy.tenant_id', '', false);
        named := round(log(greatest(1, estimate(format('%s WHERE tenant_id = %L', query, tenant)))));
        PERFORM set_config('tenancy.tenant_id', tenant, false);
        SET ROLE regress_planner;
        ours := round(log(greatest(1, estimate(query))));
        RESET ROLE;
        PERFORM set_config('tenancy.tenant_id', '', false);
        EXECUTE format('SELECT round(log(greatest(1, count(*)))) FROM (%s WHERE tenant_id = %L) AS q', query, tenant) INTO rows;
        RETURN NEXT;
    END LOOP;
END
$$;
-- A tenant with nine tenths of the rows, one with eighty, one without any.
SELECT * FROM estimates('SELECT * FROM event', 'size-large', 'size-7', 'size-none');
-- Tenants that came after ANALYZE.
INSERT INTO event SELECT n, 'size-new', n % 1000 FROM generate_series(1, 20000) AS n;
INSERT INTO event SELECT n, 'size-few', n % 1000 FROM generate_series(1, 40) AS n;
SELECT pg_stat_force_next_flush();
SELECT pg_stat_get_mod_since_analyze('event'::regclass) > 20000 AS known;
SELECT * FROM estimates('SELECT * FROM event', 'size-new', 'size-few', 'size-none', 'size-large');
-- ANALYZE knows better.
ANALYZE event;
SELECT * FROM estimates('SELECT * FROM event', 'size-new');

-- The other types of column, a name to be quoted, a partition, a table without statistics.
CREATE TABLE "Weird Event" ("Tenant Id" uuid, id bigint) WITH (autovacuum_enabled = off);
INSERT INTO "Weird Event" SELECT 'f0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', n FROM generate_series(1, 5000) AS n;
CREATE TABLE numbered (tenant_id bigint, id bigint) WITH (autovacuum_enabled = off);
INSERT INTO numbered SELECT 8000000001, n FROM generate_series(1, 5000) AS n;
CREATE TABLE parted (tenant_id text NOT NULL, id bigint) PARTITION BY RANGE (id);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (3000) WITH (autovacuum_enabled = off);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (3000) TO (100000) WITH (autovacuum_enabled = off);
INSERT INTO parted SELECT 'size-1', n FROM generate_series(1, 5000) AS n;
CREATE TABLE empty (tenant_id text, id bigint) WITH (autovacuum_enabled = off);
SELECT tenancy.protect('"Weird Event"', 'tenant', 'Tenant Id');
SELECT tenancy.protect(t) FROM unnest('{numbered,parted,empty}'::regclass[]) AS t;
GRANT SELECT ON "Weird Event", numbered, parted, empty TO regress_planner;
ANALYZE "Weird Event", numbered, parted;
INSERT INTO "Weird Event" SELECT 'f0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12', n FROM generate_series(1, 3000) AS n;
INSERT INTO numbered SELECT 8000000002, n FROM generate_series(1, 3000) AS n;
INSERT INTO parted SELECT 'size-2', n FROM generate_series(3000, 8000) AS n;
SELECT pg_stat_force_next_flush();
CREATE FUNCTION estimate_as(tenant text, query text) RETURNS numeric LANGUAGE plpgsql AS $$
DECLARE
    found numeric;
BEGIN
    PERFORM set_config('tenancy.tenant_id', tenant, false);
    SET ROLE regress_planner;
    found := round(log(greatest(1, estimate(query))), 1);
    RESET ROLE;
    PERFORM set_config('tenancy.tenant_id', '', false);
    RETURN found;
END
$$;
SELECT estimate_as('f0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12', 'SELECT * FROM "Weird Event"') AS uuid, estimate_as('8000000002', 'SELECT * FROM numbered') AS bigint,
       estimate_as('size-2', 'SELECT * FROM parted') AS partitions, estimate_as('size-2', 'SELECT * FROM empty') > 0 AS empty;

-- A plan that is kept for a large tenant is not used for a small one; small ones share theirs.
CREATE FUNCTION scan(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    plan jsonb;
BEGIN
    EXECUTE 'EXPLAIN (FORMAT json) EXECUTE ' || statement INTO plan;
    RETURN jsonb_path_query_array(plan, 'strict $.**."Index Name"');
END
$$;
INSERT INTO event SELECT n, 'size-large', n % 1000 FROM generate_series(1, 40000) AS n;
ANALYZE event;
SET ROLE regress_planner;
SET tenancy.tenant_id = 'size-large';
PREPARE recent AS SELECT count(*) FROM event WHERE value < 20;
EXECUTE recent;
SELECT scan('recent') AS "for the large one";
SELECT generic_plans, custom_plans FROM pg_prepared_statements WHERE name = 'recent';
SET tenancy.tenant_id = 'size-7';
EXECUTE recent;
SELECT scan('recent') AS "for a small one";
SET tenancy.tenant_id = 'size-8';
EXECUTE recent;
SELECT scan('recent') AS "for another";
SET tenancy.tenant_id = 'size-large';
EXECUTE recent;
SELECT scan('recent') AS "for the large one again";
-- Who asks for generic plans keeps them.
SET plan_cache_mode = force_generic_plan;
SET tenancy.tenant_id = 'size-7';
EXECUTE recent;
SELECT scan('recent') AS kept;
RESET plan_cache_mode;
RESET tenancy.tenant_id;
RESET ROLE;

-- One that is less than ten times as large, or as small, shares its plan: the estimate in it is that of whom it was made for.
INSERT INTO event SELECT n, 'size-9', n % 1000 FROM generate_series(1, 8000) AS n;
ANALYZE event;
CREATE FUNCTION planned_for(tenant text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    plan jsonb;
    rows numeric;
BEGIN
    PERFORM set_config('tenancy.tenant_id', tenant, false);
    EXECUTE 'EXPLAIN (FORMAT json) EXECUTE everything' INTO plan;
    rows := plan -> 0 -> 'Plan' -> 'Plan Rows';
    RETURN CASE WHEN rows > 50000 THEN 'size-large' WHEN rows > 15000 THEN 'size-new' WHEN rows > 5000 THEN 'size-9' ELSE 'a small one' END;
END
$$;
SET ROLE regress_planner;
PREPARE everything AS SELECT * FROM event;
SELECT tenant, planned_for(tenant) FROM unnest('{size-large,size-new,size-9,size-new,size-7,size-8,size-9,size-large}'::text[]) WITH ORDINALITY AS t (tenant, n) ORDER BY n;
-- What was planned for a large and for a middle one is not for one that is near to one of them only.
DISCARD PLANS;
SELECT planned_for('size-9');
PREPARE more AS SELECT id FROM event;
SET tenancy.tenant_id = 'size-new';
EXPLAIN (COSTS OFF) EXECUTE more;
SELECT planned_for('size-7');
RESET tenancy.tenant_id;
RESET ROLE;

-- Of what is joined each table counts: a plan that begins with the four gadgets of one is not for another that has hundreds, and as many events.
CREATE TABLE gadget (tenant_id text NOT NULL, event int);
INSERT INTO gadget SELECT 'size-new', n FROM generate_series(1, 4) AS n;
INSERT INTO gadget SELECT 'size-large', n FROM generate_series(1, 800) AS n;
SELECT tenancy.protect('gadget');
GRANT SELECT ON gadget TO regress_planner;
ANALYZE gadget;
CREATE FUNCTION gadgets_planned_for(tenant text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    plan jsonb;
BEGIN
    PERFORM set_config('tenancy.tenant_id', tenant, false);
    EXECUTE 'EXPLAIN (FORMAT json) EXECUTE with_gadgets' INTO plan;
    RETURN jsonb_path_query_first(plan, '$.** ? (@."Relation Name" == "gadget")."Plan Rows"');
END
$$;
SET ROLE regress_planner;
DISCARD PLANS;
PREPARE with_gadgets AS SELECT * FROM gadget g JOIN event e ON e.id = g.event;
SELECT tenant, gadgets_planned_for(tenant) FROM unnest('{size-new,size-large,size-new}'::text[]) WITH ORDINALITY AS t (tenant, n) ORDER BY n;
RESET tenancy.tenant_id;
RESET ROLE;
DEALLOCATE with_gadgets;
DROP FUNCTION gadgets_planned_for(text);
SELECT tenancy.unprotect('gadget');
DROP TABLE gadget;

-- A BRIN index, of whose costs PostgreSQL asks without saying for which table.
CREATE INDEX event_brin ON event USING brin (tenant_id, value);
SET ROLE regress_planner;
SET tenancy.tenant_id = 'size-7';
SET enable_seqscan = off;
SET enable_indexscan = off;
SELECT count(*) > 0 AS is_there FROM event WHERE value >= 0;
SELECT count(*) > 0 AS is_there FROM event e JOIN event f ON e.value = f.value;
RESET enable_seqscan;
RESET enable_indexscan;
RESET tenancy.tenant_id;
RESET ROLE;

DEALLOCATE recent;
DEALLOCATE everything;
DEALLOCATE more;
DROP TABLE event, "Weird Event", numbered, parted, empty;
DROP FUNCTION estimate(text), estimates(text, text[]), estimate_as(text, text), scan(text), planned_for(text);
DELETE FROM _tenancy.tenants WHERE id LIKE 'size-%' OR id ~ '^(800000000[12]|f0eebc99-.*)$';
REVOKE SET ON PARAMETER tenancy.tenant_id FROM regress_planner;
DROP ROLE regress_planner;
RESET client_min_messages;
