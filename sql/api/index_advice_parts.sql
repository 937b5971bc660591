-- What the rules of index_advice ask, one question a view. Re-runnable. Nobody but the owner of the extension may read them:
-- tenancy.index_advice runs with his rights. Each is read once, for all tables, into an array that the rules work on; so it takes seconds on thousands
-- of tables.

-- The protected tables, and the partitions of each. A partitioned table is looked at as one, by its top, because its indexes are made there.
-- A partition of which the bound says that it holds one tenant needs no index to keep tenants apart (is_single).
CREATE VIEW _tenancy.advice_members AS
    WITH RECURSIVE p AS MATERIALIZED (
        SELECT p.relation::oid AS oid, p.kind, p.tenant_column FROM _tenancy.protected p WHERE p.kind <> 'system'
    ), down(oid, top, parent, depth, kind, tenant_column, is_single) AS (
        SELECT p.oid, p.oid, 0::oid, 0, p.kind, p.tenant_column, false
        FROM p JOIN pg_class c ON c.oid = p.oid AND c.relpersistence <> 't'
        WHERE NOT (c.relispartition AND EXISTS (SELECT FROM pg_inherits i JOIN p AS q ON q.oid = i.inhparent WHERE i.inhrelid = p.oid))
        UNION ALL
        SELECT c.oid, d.top, d.oid, d.depth + 1, d.kind, d.tenant_column,
               d.is_single OR CASE
                   WHEN t.partstrat = 'l' AND a.attnum IS NOT NULL THEN
                       pg_get_expr(c.relpartbound, c.oid) ~ '^FOR VALUES IN \((E?''([^'']|'''')*''|[^'',()]+)\)$'
                   ELSE false END
        FROM down d
        JOIN pg_inherits i ON i.inhparent = d.oid AND NOT i.inhdetachpending
        JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
        JOIN pg_partitioned_table t ON t.partrelid = d.oid
        LEFT JOIN pg_attribute a ON a.attrelid = d.oid AND a.attname = d.tenant_column AND a.attnum = t.partattrs[0]
    )
    SELECT d.*, c.relname, c.relnamespace, n.nspname, c.relkind, format('%I.%I', n.nspname, c.relname) AS qualified,
           a.attnum, a.atttypid, a.attcollation, CASE WHEN c.relkind = 'r' THEN greatest(c.reltuples, 0) ELSE 0 END AS rows,
           CASE WHEN c.relkind <> 'r' THEN 0
                -- Without a lock where it is known; it is not before the first VACUUM or ANALYZE.
                WHEN c.reltuples >= 0 THEN c.relpages::bigint * current_setting('block_size')::integer
                ELSE pg_relation_size(c.oid) END AS bytes
    FROM down d
    JOIN pg_class c ON c.oid = d.oid JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = d.oid AND a.attname = d.tenant_column AND a.attnum > 0 AND NOT a.attisdropped;
COMMENT ON VIEW _tenancy.advice_members IS 'the protected tables and their partitions, as the rules of index_advice look at them';

-- The same, one row a tree, with its figures. tenants and tenant_rows are estimates of the last ANALYZE: how many tenants
-- have rows, and how many rows the largest has; null where it was not analyzed.
CREATE VIEW _tenancy.advice_tables AS
    WITH stats AS MATERIALIZED (
        SELECT s.schemaname, s.tablename, s.attname, s.n_distinct, (s.most_common_freqs)[1] AS most
        FROM pg_stats s
        WHERE s.attname IN (SELECT p.tenant_column FROM _tenancy.protected p) AND NOT s.inherited AND s.n_distinct <> 0
    ), m AS MATERIALIZED (
        SELECT m.*, CASE WHEN s.n_distinct < 0 THEN -s.n_distinct * m.rows ELSE s.n_distinct END AS tenants,
               m.rows * greatest(s.most, CASE WHEN s.n_distinct > 0 THEN 1 / s.n_distinct ELSE 0 END) AS tenant_rows
        FROM _tenancy.advice_members m
        LEFT JOIN stats s ON s.schemaname = m.nspname AND s.tablename = m.relname AND s.attname = m.tenant_column
    ), building AS MATERIALIZED (
        SELECT DISTINCT m.top FROM pg_stat_progress_create_index b JOIN m ON m.oid = b.relid
    ), figures AS MATERIALIZED (
        SELECT m.top, sum(m.bytes)::bigint AS bytes, sum(m.rows)::bigint AS rows, max(m.tenants)::bigint AS tenants, sum(m.tenant_rows)::bigint AS tenant_rows,
               sum(pg_stat_get_numscans(m.oid))::bigint AS seq_scans, sum(pg_stat_get_tuples_returned(m.oid))::bigint AS seq_rows,
               sum(pg_stat_get_tuples_deleted(m.oid))::bigint AS deleted
        FROM m GROUP BY m.top
    )
    SELECT t.oid, t.kind, t.tenant_column, t.relkind, t.relname, t.nspname, t.qualified, t.atttypid,
           f.bytes, f.rows, f.tenants, f.tenant_rows, f.seq_scans, f.seq_rows, f.deleted, b.top IS NOT NULL AS is_building
    FROM m AS t JOIN figures f ON f.top = t.oid LEFT JOIN building b ON b.top = t.oid
    WHERE t.depth = 0 AND t.attnum IS NOT NULL;
COMMENT ON VIEW _tenancy.advice_tables IS 'the protected tables with their partitions, and what is known of their size and use';

-- The indexes on them. top_index is the one that an index of a partition belongs to: what is advised is about that.
--   keys, others    names of columns, in order; null for an expression; others are those of INCLUDE
--   seen_predicate  null too where a restrictive policy asks for the same, so that whoever is under policies finds all that it sees
--   is_leading      finds the rows of a tenant: of all that it sees, able to find a value, and with the collation in which policies compare
--   is_leftover     of a REINDEX CONCURRENTLY that did not end
--   bytes, scans, entries, blocks   of the index that it belongs to, with all its partitions
--   is_kept         holds a constraint or replication, or is an extension's: not to be dropped
CREATE VIEW _tenancy.advice_indexes AS
    WITH RECURSIVE m AS MATERIALIZED (
        SELECT m.oid, m.top, m.depth, m.attnum, m.attcollation, m.qualified FROM _tenancy.advice_members m
    ), i AS MATERIALIZED (
        SELECT i.*, m.top, m.depth, m.attnum, m.attcollation, m.qualified FROM m JOIN pg_index i ON i.indrelid = m.oid WHERE i.indislive
    ), up(oid, top_index) AS (
        SELECT i.indexrelid, i.indexrelid FROM i WHERE NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid)
        UNION ALL
        SELECT h.inhrelid, u.top_index FROM up u JOIN pg_inherits h ON h.inhparent = u.oid
    ), names AS MATERIALIZED (
        SELECT i.indexrelid, array_agg(a.attname ORDER BY k.place) AS names
        FROM i CROSS JOIN LATERAL unnest(i.indkey::smallint[]) WITH ORDINALITY AS k(attnum, place)
        LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        GROUP BY i.indexrelid
    ), asked AS MATERIALIZED (
        SELECT DISTINCT y.polrelid, pg_get_expr(y.polqual, y.polrelid) AS condition
        FROM pg_policy y WHERE NOT y.polpermissive AND y.polcmd IN ('*', 'r') AND y.polroles = '{0}' AND y.polqual IS NOT NULL
    ), predicates AS MATERIALIZED (
        SELECT i.indexrelid, p.predicate, CASE WHEN a.polrelid IS NULL THEN p.predicate END AS seen_predicate
        FROM i CROSS JOIN LATERAL (SELECT pg_get_expr(i.indpred, i.indrelid) AS predicate) p
        LEFT JOIN asked a ON a.polrelid = i.indrelid AND a.condition = p.predicate
    ), held AS MATERIALIZED (
        SELECT c.conindid AS oid FROM pg_constraint c WHERE c.conindid <> 0
        UNION
        SELECT d.objid FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e'
    )
    SELECT i.top, i.depth, i.indrelid AS relation, i.indexrelid AS oid, u.top_index, c.relname AS name, c.relnamespace, c.relkind, a.amname AS method,
           i.qualified, n.names[1:i.indnkeyatts] AS keys, n.names[i.indnkeyatts + 1:] AS others,
           i.indclass::oid[] AS classes, i.indcollation::oid[] AS collations, i.indoption::smallint[] AS options,
           i.indisunique AS is_unique, i.indisvalid AS is_valid, p.predicate, p.seen_predicate, i.indexprs IS NOT NULL AS has_expressions,
           a.amname IN ('btree', 'hash') AND p.seen_predicate IS NULL AND i.indkey[0] = i.attnum AND i.indcollation[0] = i.attcollation AS is_leading,
           NOT i.indisvalid AND c.relname ~ '_cc(new|old)[0-9]*$' AS is_leftover,
           i.indisunique OR i.indisexclusion OR i.indisreplident OR i.indisclustered OR h.oid IS NOT NULL AS is_kept,
           c.reltablespace,
           (sum(CASE WHEN c.relkind = 'i' THEN c.relpages::bigint * current_setting('block_size')::integer END) OVER whole)::bigint AS bytes,
           (sum(pg_stat_get_numscans(i.indexrelid)) OVER whole)::bigint AS scans,
           (sum(pg_stat_get_tuples_returned(i.indexrelid)) OVER whole)::bigint AS entries,
           (sum(pg_stat_get_blocks_fetched(i.indexrelid)) OVER whole)::bigint AS blocks
    FROM i
    JOIN up u ON u.oid = i.indexrelid
    JOIN names n ON n.indexrelid = i.indexrelid JOIN predicates p ON p.indexrelid = i.indexrelid
    JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
    LEFT JOIN held h ON h.oid = i.indexrelid
    WINDOW whole AS (PARTITION BY u.top_index);
COMMENT ON VIEW _tenancy.advice_indexes IS 'the indexes of protected tables and their partitions';

-- What the rules look at, and what one says.
--   columns                          of the index, for its name, and to find the statements that would profit
--   body, predicate, tablespace      of its definition: after USING, after WHERE
--   prelude                          what comes before it is made
--   statement                        the whole of what to type, where no index is made
--   index                            one of a partitioned table that is there, and is to be completed
--   unused_since                     from when on it is known that the index was not scanned
CREATE TYPE _tenancy.advice_scene AS (
    members _tenancy.advice_members[], tables _tenancy.advice_tables[], indexes _tenancy.advice_indexes[], workload _tenancy.advice_workload[]);
COMMENT ON TYPE _tenancy.advice_scene IS 'what the rules of index_advice look at';
CREATE TYPE _tenancy.advice AS (
    top oid, advice text, priority text, reason text, columns name[], body text, predicate text, tablespace name, prelude text, statement text,
    evidence jsonb, index oid, unused_since timestamptz);
COMMENT ON TYPE _tenancy.advice IS 'what a rule of index_advice says';

-- Each table or partition that holds rows, with each index that serves statements on it, or will: an invalid one is for another rule to speak of.
CREATE FUNCTION _tenancy.advice_serving(scene _tenancy.advice_scene) RETURNS TABLE (leaf oid, method name, keys name[], predicate text, seen_predicate text, is_leading boolean)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT x.relation, x.method, x.keys, x.predicate, x.seen_predicate, x.is_leading FROM unnest(scene.indexes) x WHERE x.relkind = 'i' AND NOT x.is_leftover
    UNION ALL
    -- Not yet on all partitions.
    SELECT m.oid, x.method, x.keys, x.predicate, x.seen_predicate, x.is_leading
    FROM unnest(scene.indexes) x JOIN unnest(scene.members) m ON m.top = x.top
    WHERE x.relkind = 'I' AND x.depth = 0 AND NOT x.is_valid AND m.relkind = 'r'
$$;
COMMENT ON FUNCTION _tenancy.advice_serving(_tenancy.advice_scene) IS 'each table or partition that holds rows, with each index on it';

-- The definition of an index after USING, without TABLESPACE and WHERE; null where it is not as pg_get_indexdef writes it.
CREATE FUNCTION _tenancy.index_body(index oid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN starts_with(d.definition, h.head) AND (p.tail = '' OR right(d.definition, length(p.tail)) = p.tail)
           THEN substr(d.definition, length(h.head) + 1, length(d.definition) - length(h.head) - length(p.tail)) END
    FROM pg_index i
    JOIN pg_class x ON x.oid = i.indexrelid
    JOIN pg_class c ON c.oid = i.indrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL (SELECT pg_get_indexdef(i.indexrelid) AS definition) d
    CROSS JOIN LATERAL (SELECT format('CREATE %sINDEX %I ON %s%I.%I USING ', CASE WHEN i.indisunique THEN 'UNIQUE ' END, x.relname,
                                      CASE WHEN x.relkind = 'I' THEN 'ONLY ' END, n.nspname, c.relname) AS head) h
    CROSS JOIN LATERAL (SELECT coalesce(' WHERE ' || pg_get_expr(i.indpred, i.indrelid), '') AS tail) p
    WHERE i.indexrelid = index_body.index
$$;
COMMENT ON FUNCTION _tenancy.index_body(oid) IS 'the definition of an index after USING, without TABLESPACE and WHERE';
