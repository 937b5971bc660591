-- The rules of index_advice that ask for an index. Re-runnable. Tables, or what of them lacks the index, of less than 1 MB are read as quickly without one.

-- Tables, or partitions, without an index that leads with the tenant column.
CREATE FUNCTION _tenancy.advice_leading(scene _tenancy.advice_scene) RETURNS SETOF _tenancy.advice
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH serving AS MATERIALIZED (
        SELECT DISTINCT s.leaf FROM _tenancy.advice_serving(scene) s WHERE s.is_leading
    ), lacking AS MATERIALIZED (
        SELECT m.top, sum(m.bytes)::bigint AS bytes, count(*) AS leaves
        FROM unnest(scene.members) m LEFT JOIN serving s ON s.leaf = m.oid
        WHERE m.relkind = 'r' AND NOT m.is_single AND s.leaf IS NULL
        GROUP BY m.top HAVING sum(m.bytes) >= 1048576
    )
    SELECT t.oid, 'index_missing', CASE WHEN t.tenants = 1 THEN 'low' ELSE 'high' END,
           format('no btree or hash index%s leads with column %I, by which each statement finds the rows of its tenant: %s%s%s',
                  CASE WHEN t.relkind = 'p' THEN CASE l.leaves WHEN 1 THEN ' of one of its partitions' ELSE format(' of %s of its partitions', l.leaves) END END,
                  t.tenant_column, pg_size_pretty(l.bytes),
                  CASE WHEN t.rows > 0 THEN format(', %s rows', t.rows) END,
                  CASE WHEN t.tenants = 1 THEN ' of one tenant' WHEN t.tenants > 1 THEN format(' of %s tenants', t.tenants) END),
           ARRAY[t.tenant_column], format('btree (%I)', t.tenant_column), NULL::text, NULL::name, NULL::text, NULL::text,
           jsonb_build_object('sequential_scans', t.seq_scans, 'rows_read', t.seq_rows), NULL::oid, NULL::timestamptz
    FROM unnest(scene.tables) t JOIN lacking l ON l.top = t.oid
$$;
COMMENT ON FUNCTION _tenancy.advice_leading(_tenancy.advice_scene) IS 'advice: tables without an index that leads with the tenant column';

-- Foreign keys whose check finds no index: it looks for the rows that refer to one that is deleted. With the tenant in the key, it asks for that as
-- well, so the index leads with it. Without, the check looks in the rows of all tenants, and the tenant comes last.
-- That one column of the key is found is enough: how many rows it leaves nobody knows from catalogs.
CREATE FUNCTION _tenancy.advice_foreign_keys(scene _tenancy.advice_scene) RETURNS SETOF _tenancy.advice
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH t AS MATERIALIZED (
        SELECT t.oid, t.kind, t.tenant_column, t.qualified, t.deleted, t.tenant_rows FROM unnest(scene.tables) t
    ), serving AS MATERIALIZED (
        SELECT s.leaf, s.method, s.keys, s.predicate, s.is_leading FROM _tenancy.advice_serving(scene) s WHERE s.method <> 'brin'
    ), k AS MATERIALIZED (
        SELECT k.oid, k.conname, k.confrelid::regclass AS parent, t.oid AS top, t.qualified, t.tenant_column, t.tenant_rows, t.tenant_column = ANY (n.names) AS is_scoped,
               array_remove(n.names, t.tenant_column) AS rest,
               -- What is wrong with a key that could hold the tenant, and does not, is for lint to say.
               t.tenant_column = ANY (n.names) OR coalesce(p.kind <> 'shared', false) AND t.kind <> 'shared' AS may_be_scoped,
               p.kind AS parent_kind, coalesce(p.deleted, pg_stat_get_tuples_deleted(k.confrelid)) AS deleted
        FROM pg_constraint k
        JOIN t ON t.oid = k.conrelid
        LEFT JOIN t AS p ON p.oid = k.confrelid
        CROSS JOIN LATERAL (SELECT array_agg(a.attname ORDER BY u.place) AS names FROM unnest(k.conkey) WITH ORDINALITY AS u(attnum, place)
                            JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum) n
        WHERE k.contype = 'f' AND k.conparentid = 0
    ), lacking AS MATERIALIZED (
        SELECT k.oid, sum(m.bytes)::bigint AS bytes, bool_and(m.oid IN (SELECT s.leaf FROM serving s WHERE s.is_leading)) AS is_led
        FROM k JOIN unnest(scene.members) m ON m.top = k.top AND m.relkind = 'r'
        WHERE cardinality(k.rest) > 0
          -- Rows that nobody deletes ask for no check: those of an audit trail, or of a table that is no tenant's, which are few and stay.
          AND (k.parent_kind IN ('tenant', 'shared') OR k.deleted > 0)
          AND NOT EXISTS (
              SELECT FROM serving s
              WHERE s.leaf = m.oid
                -- Nothing refers by a NULL.
                AND (s.predicate IS NULL OR s.predicate IN (SELECT format('(%I IS NOT NULL)', r.name) FROM unnest(k.rest) AS r(name)))
                AND CASE WHEN s.method IN ('btree', 'hash')
                         THEN s.keys[1] = ANY (k.rest) OR k.may_be_scoped AND s.keys[1] = k.tenant_column AND s.keys[2] = ANY (k.rest)
                         ELSE s.keys && k.rest END)
        GROUP BY k.oid HAVING sum(m.bytes) >= 1048576
    ), wanted AS MATERIALIZED (
        SELECT k.*, l.bytes, k.is_scoped AND l.is_led AS is_led, CASE WHEN k.is_scoped THEN k.tenant_column || k.rest ELSE k.rest || k.tenant_column END AS columns
        FROM k JOIN lacking l ON l.oid = k.oid
        -- By the tenant alone, the check finds few rows.
        WHERE NOT (k.is_scoped AND l.is_led) OR coalesce(k.tenant_rows >= 1000, true)
    )
    SELECT w.top, 'foreign_key_index_missing', CASE WHEN w.deleted > 0 THEN 'medium' ELSE 'low' END,
           format('no index serves the check of foreign key %I: a deletion from %s reads all of %s; deletions seen so far: %s%s', w.conname, w.parent,
                  CASE WHEN w.is_led THEN format('the tenant''s rows of %s%s', w.qualified, ', some ' || w.tenant_rows || ' of the largest')
                       ELSE format('%s (%s)', w.qualified, pg_size_pretty(w.bytes)) END, w.deleted, CASE WHEN NOT w.is_scoped THEN '; the key does not hold the tenant, so the check looks in the rows of all' END),
           w.columns, format('btree (%s)', (SELECT string_agg(quote_ident(c.name), ', ' ORDER BY c.place) FROM unnest(w.columns) WITH ORDINALITY AS c(name, place))),
           NULL::text, NULL::name, NULL::text, NULL::text, jsonb_build_object('rows_deleted', w.deleted), NULL::oid, NULL::timestamptz
    FROM wanted w
    -- One index serves the longer key and the shorter; and one that leads with the key serves it with the tenant and without.
    WHERE NOT EXISTS (SELECT FROM wanted o WHERE o.top = w.top AND w.is_scoped AND CASE
        WHEN o.is_scoped THEN cardinality(o.columns) > cardinality(w.columns) AND o.columns[1:cardinality(w.columns)] = w.columns
        ELSE o.rest[1] = ANY (w.rest) END)
$$;
COMMENT ON FUNCTION _tenancy.advice_foreign_keys(_tenancy.advice_scene) IS 'advice: foreign keys whose check finds no index';

-- Where rows are wanted in an order, and the index that has them so has those of all tenants between them. Two things show it: an index on that
-- column that is read much of each time; and statements with ORDER BY and LIMIT that read many blocks for few rows.
-- Not of shared tables: a tenant's rows and everybody's come from two places of such an index, and so in no order.
CREATE FUNCTION _tenancy.advice_sorts(scene _tenancy.advice_scene) RETURNS SETOF _tenancy.advice
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH t AS MATERIALIZED (
        SELECT t.* FROM unnest(scene.tables) t WHERE t.kind <> 'shared' AND t.tenants > 1 AND t.tenant_rows >= 1000
    ), x AS MATERIALIZED (
        SELECT x.* FROM unnest(scene.indexes) x WHERE x.depth = 0
    ), from_index AS MATERIALIZED (
        SELECT DISTINCT ON (x.top, x.keys[1]) x.top, x.keys[1] AS name, x.oid, x.name AS index_name, x.scans, x.entries, x.bytes, x.is_unique, x.predicate,
               x.reltablespace
        FROM x JOIN t ON t.oid = x.top
        JOIN pg_attribute a ON a.attrelid = x.top AND a.attname = x.keys[1] AND a.attname <> t.tenant_column
        WHERE x.method = 'btree' AND x.is_valid AND cardinality(x.keys) = 1 AND x.scans >= 10 AND x.entries >= 100 * x.scans
          -- Texts are looked up more than they are sorted by.
          AND a.atttypid = ANY ('{date,time,timetz,timestamp,timestamptz,smallint,integer,bigint,numeric,real,double precision}'::regtype[])
          AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = x.top AND k.contype = 'f' AND a.attnum = ANY (k.conkey))
        ORDER BY x.top, x.keys[1], x.predicate NULLS FIRST, x.scans DESC, x.oid
    ), from_statement AS MATERIALIZED (
        SELECT t.oid AS top, a.attname AS name, min(w.order_by) AS order_by, count(*) AS statements, sum(w.calls)::bigint AS calls,
               (sum(w.blocks * w.calls) / sum(w.calls))::bigint AS blocks, (sum(w.rows * w.calls) / sum(w.calls))::bigint AS rows
        FROM unnest(scene.workload) w
        JOIN t ON t.relname = w.table_name AND coalesce(w.schema_name = t.nspname, true)
        JOIN pg_attribute a ON a.attrelid = t.oid AND a.attname = w.order_column AND a.attnum > 0 AND NOT a.attisdropped AND a.attname <> t.tenant_column
        WHERE w.is_only AND w.calls >= 10 AND w.blocks >= 100 AND w.rows * 4 <= w.blocks
          AND CASE a.atttypid WHEN 'varchar'::regtype THEN 'text'::regtype ELSE a.atttypid END IN (
              SELECT o.opcintype FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod AND m.amname = 'btree' WHERE o.opcdefault AND o.oid < 16384)
          -- Which table it means is not known where there are several of that name.
          AND (w.schema_name IS NOT NULL OR NOT EXISTS (
              SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
              WHERE c.relname = t.relname AND c.oid <> t.oid AND c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname !~ '^pg_'))
          -- What an index finds by another column may be so few that they are best sorted.
          AND NOT EXISTS (SELECT FROM x WHERE x.top = t.oid AND (x.keys[1] <> t.tenant_column AND x.keys[1] = ANY (w.compared)
                                                                 OR x.keys[1] = t.tenant_column AND x.keys[2] = ANY (w.compared)))
        GROUP BY t.oid, a.attname
    ), wanted AS MATERIALIZED (
        SELECT top, name, t.tenant_column, t.tenant_rows, i.oid, i.index_name, i.scans, i.entries, i.bytes, i.is_unique, i.predicate, i.reltablespace,
               s.order_by, s.statements, s.calls, s.blocks, s.rows
        FROM from_index i FULL JOIN from_statement s USING (top, name) JOIN t ON t.oid = top
    ), serving AS MATERIALIZED (
        SELECT s.leaf, s.keys, s.seen_predicate FROM _tenancy.advice_serving(scene) s WHERE s.method = 'btree'
    ), lacking AS MATERIALIZED (
        SELECT w.top, w.name
        FROM wanted w JOIN unnest(scene.members) m ON m.top = w.top AND m.relkind = 'r'
        WHERE NOT EXISTS (
            SELECT FROM serving s
            WHERE s.leaf = m.oid AND (s.keys[1] = w.tenant_column AND w.name = ANY (s.keys) OR m.is_single AND s.keys[1] = w.name)
              AND (s.seen_predicate IS NULL OR s.seen_predicate = w.predicate))
        GROUP BY w.top, w.name HAVING sum(m.bytes) >= 1048576
    )
    SELECT w.top, 'sort_index_missing', CASE WHEN w.statements > 0 THEN 'medium' ELSE 'low' END,
           concat_ws('; ',
               CASE WHEN w.scans > 0 THEN format('index %I holds the rows of all tenants: %s scans read %s entries each', w.index_name, w.scans, w.entries / w.scans) END,
               CASE WHEN w.statements > 0 THEN format('%s by column %I, and read %s blocks for %s rows in each of %s calls',
                   CASE w.statements WHEN 1 THEN 'one statement orders' ELSE w.statements || ' statements order' END, w.name, w.blocks, w.rows, w.calls) END,
               format('the largest tenant has some %s rows', w.tenant_rows)),
           ARRAY[w.tenant_column, w.name],
           -- As the index has it: direction, operator class, INCLUDE, storage parameters.
           CASE WHEN b.body LIKE 'btree (%' THEN format('btree (%I, %s', w.tenant_column, substr(b.body, 8))
                ELSE format('btree (%I, %I%s)', w.tenant_column, w.name, w.order_by) END,
           CASE WHEN b.body IS NOT NULL THEN w.predicate END, (SELECT s.spcname FROM pg_tablespace s WHERE s.oid = w.reltablespace), NULL::text, NULL::text,
           jsonb_strip_nulls(jsonb_build_object('index', w.index_name, 'bytes', w.bytes, 'scans', w.scans, 'entries_read', w.entries)), NULL::oid, NULL::timestamptz
    FROM wanted w JOIN lacking l ON l.top = w.top AND l.name = w.name
    LEFT JOIN LATERAL (SELECT CASE WHEN NOT w.is_unique THEN _tenancy.index_body(w.oid) END AS body) b ON true
$$;
COMMENT ON FUNCTION _tenancy.advice_sorts(_tenancy.advice_scene) IS 'advice: columns that rows are sorted by, after the tenant';

-- GIN indexes on what a tenant searches, without the tenant: what is found is of all of them, and all but its own is thrown away. btree_gin lets
-- one GIN index have both. Not for tenant columns of type integer, which policies compare with a bigint: btree_gin has no such operator. Nor of
-- shared tables, because GIN does not find NULL. Where conditions reach indexes with the tenant column only, the others need not be scanned to be missed;
-- where they reach none, no index helps.
CREATE FUNCTION _tenancy.advice_gin(scene _tenancy.advice_scene) RETURNS SETOF _tenancy.advice
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH t AS MATERIALIZED (
        SELECT t.oid, t.tenant_column, t.tenants FROM unnest(scene.tables) t
        WHERE t.kind <> 'shared' AND t.tenants > 1 AND t.atttypid = ANY ('{text,varchar,uuid,bigint}'::regtype[])
          AND t.oid IN (SELECT m.top FROM unnest(scene.members) m WHERE m.relkind = 'r' AND NOT m.is_single)
          AND current_setting('tenancy.index_pushdown') <> 'off'
    ), x AS MATERIALIZED (
        SELECT x.*, d.columns, coalesce(t.tenant_column = ANY (x.keys), false) AS has_tenant, t.tenant_column, t.tenants
        FROM unnest(scene.indexes) x JOIN t ON t.oid = x.top
        CROSS JOIN LATERAL (SELECT array_agg(concat_ws(' ', pg_get_indexdef(x.oid, u.place::integer, false), x.classes[u.place - 1])) AS columns
                            FROM unnest(x.keys) WITH ORDINALITY AS u(name, place)) d
        WHERE x.method = 'gin' AND x.depth = 0
    )
    SELECT x.top, 'gin_index_without_tenant', 'medium',
           CASE WHEN p.of_tenant_only THEN format('GIN index %I does not have column %I: with tenancy.index_pushdown = tenant_indexes, no condition of a tenant reaches it',
                                                  x.name, x.tenant_column)
                ELSE format('GIN index %I finds rows of all %s tenants: %s scans found %s rows each', x.name, x.tenants, x.scans, x.entries / x.scans) END,
           x.tenant_column || array_remove(x.keys, NULL), format('gin (%I, %s', x.tenant_column, substr(b.body, 6)), x.predicate,
           (SELECT s.spcname FROM pg_tablespace s WHERE s.oid = x.reltablespace),
           CASE WHEN e.installed_version IS NULL THEN 'CREATE EXTENSION IF NOT EXISTS btree_gin;' END, NULL::text,
           jsonb_build_object('index', x.name, 'bytes', x.bytes, 'scans', x.scans, 'entries_read', x.entries), NULL::oid, NULL::timestamptz
    FROM x
    JOIN pg_available_extensions e ON e.name = 'btree_gin'
    CROSS JOIN LATERAL (SELECT _tenancy.index_body(x.oid) AS body) b
    CROSS JOIN (SELECT current_setting('tenancy.index_pushdown') = 'tenant_indexes' AS of_tenant_only) p
    WHERE x.is_valid AND (p.of_tenant_only OR x.scans >= 10 AND x.entries >= 100 * x.scans) AND b.body LIKE 'gin (%' AND NOT x.has_tenant
      AND NOT EXISTS (SELECT FROM x AS y WHERE y.top = x.top AND y.has_tenant AND y.columns @> x.columns AND (y.seen_predicate IS NULL OR y.predicate = x.predicate))
$$;
COMMENT ON FUNCTION _tenancy.advice_gin(_tenancy.advice_scene) IS 'advice: GIN indexes without the tenant column';
