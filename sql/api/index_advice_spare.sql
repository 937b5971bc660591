-- The rules of index_advice that ask for an index to be dropped or mended. Re-runnable.
-- What holds a constraint, replication or the order of CLUSTER is never dropped (is_kept).

CREATE FUNCTION _tenancy.drop_index(index oid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Not CONCURRENTLY on a partitioned table.
    SELECT format('DROP INDEX %s%I.%I;', CASE WHEN c.relkind = 'i' THEN 'CONCURRENTLY ' END, n.nspname, c.relname)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = drop_index.index
$$;
COMMENT ON FUNCTION _tenancy.drop_index(oid) IS 'the statement that drops an index';

-- When an index was scanned last; null where it never was, and before PostgreSQL 16, which does not note it.
CREATE FUNCTION _tenancy.last_scan(index oid) RETURNS timestamptz
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_setting('server_version_num')::integer < 160000 THEN
        RETURN NULL;
    END IF;
    RETURN pg_stat_get_lastscan(index);
END
$$;
COMMENT ON FUNCTION _tenancy.last_scan(oid) IS 'when an index was scanned last, where PostgreSQL notes it';

-- An index that begins with the tenant and has nothing that a longer one has not. Of two alike, the older stays; and no two are dropped for one
-- another, because they are ranked.
CREATE FUNCTION _tenancy.advice_redundant(scene _tenancy.advice_scene) RETURNS SETOF _tenancy.advice
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH x AS MATERIALIZED (
        SELECT x.*, n.length, (x.method = 'btree', n.length, x.is_kept, cardinality(x.others), -x.oid::bigint) AS rank
        FROM unnest(scene.indexes) x CROSS JOIN LATERAL (SELECT cardinality(x.keys) AS length) n
        WHERE x.is_leading AND x.is_valid AND x.predicate IS NULL AND x.depth = 0
    ), pair AS (
        SELECT DISTINCT ON (x.oid) x.*, y.name AS instead, y.bytes AS instead_bytes
        FROM x JOIN x AS y ON y.top = x.top AND y.rank > x.rank AND y.method = 'btree'
        WHERE NOT x.is_kept AND NOT x.has_expressions
          AND x.keys = y.keys[1:x.length] AND x.collations[0:x.length - 1] = y.collations[0:x.length - 1] AND x.others <@ (y.keys || y.others)
          AND (x.method = 'hash' OR x.classes[0:x.length - 1] = y.classes[0:x.length - 1]
                                    -- It can be read either way, so the order of a single column is no difference.
                                    AND (x.length = 1 OR x.options[0:x.length - 1] = y.options[0:x.length - 1]))
        ORDER BY x.oid, y.is_kept DESC, y.bytes, y.oid
    )
    SELECT p.top, 'index_redundant', 'low',
           format('index %I (%s) has nothing that %I (%s), which begins with the same columns, does not have; it was scanned %s',
                  p.name, pg_size_pretty(p.bytes), p.instead, pg_size_pretty(p.instead_bytes), CASE p.scans WHEN 1 THEN 'once' ELSE p.scans || ' times' END),
           p.keys, NULL::text, NULL::text, NULL::name, NULL::text, _tenancy.drop_index(p.oid),
           jsonb_build_object('index', p.name, 'bytes', p.bytes, 'scans', p.scans, 'instead', p.instead, 'instead_bytes', p.instead_bytes), NULL::oid, NULL::timestamptz
    FROM pair p
$$;
COMMENT ON FUNCTION _tenancy.advice_redundant(_tenancy.advice_scene) IS 'advice: indexes that another one, which begins with the same columns, makes useless';

-- An index without the tenant that nothing has scanned, because isolation leads every statement of a tenant to another one:
--   * the same with the tenant before it, which is scanned; or
--   * indexes that lead with the tenant, a thousand times, while this one was written to.
-- unused_since is from when on this is known: PostgreSQL notes when an index was scanned, not when it was made, and a server that was
-- started later than its statistics were reset may have lost them in a crash.
CREATE FUNCTION _tenancy.advice_unused(scene _tenancy.advice_scene) RETURNS SETOF _tenancy.advice
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH t AS MATERIALIZED (
        SELECT t.oid, t.tenant_column FROM unnest(scene.tables) t
    ), x AS MATERIALIZED (
        SELECT x.*, cardinality(x.keys) AS length, t.tenant_column
        FROM unnest(scene.indexes) x JOIN t ON t.oid = x.top WHERE x.is_valid AND x.predicate IS NULL AND x.depth = 0
    ), used AS MATERIALIZED (
        SELECT x.top, sum(x.scans) AS scans FROM x WHERE x.is_leading GROUP BY x.top
    ), k AS MATERIALIZED (
        SELECT k.conrelid AS top, t.tenant_column, t.tenant_column = ANY (n.names) AS is_scoped, array_remove(n.names, t.tenant_column) AS rest
        FROM pg_constraint k JOIN t ON t.oid = k.conrelid
        CROSS JOIN LATERAL (SELECT array_agg(a.attname) AS names FROM unnest(k.conkey) AS u(attnum)
                            JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum) n
        WHERE k.contype = 'f'
    ), unserved AS MATERIALIZED (
        -- Keys whose check may scan an index that looks spare, when somebody deletes.
        SELECT k.top, k.rest FROM k WHERE NOT EXISTS (
            SELECT FROM x WHERE x.top = k.top AND x.method = 'btree'
            AND (x.is_kept AND x.keys[1] = ANY (k.rest) OR k.is_scoped AND x.keys[1] = k.tenant_column AND x.keys[2] = ANY (k.rest)))
    ), replaced AS MATERIALIZED (
        SELECT DISTINCT ON (x.oid) x.oid, y.name AS instead
        FROM x JOIN x AS y ON y.top = x.top AND y.method = x.method AND y.scans > 0 AND y.keys[1] = x.tenant_column
        WHERE y.keys[2:x.length + 1] = x.keys AND y.classes[1:x.length] = x.classes[0:x.length - 1] AND x.others <@ (y.keys || y.others)
        ORDER BY x.oid, y.scans DESC, y.oid
    ), spare AS MATERIALIZED (
        SELECT x.*, u.scans AS others_scans, r.instead,
               CASE WHEN x.scans = 0 THEN greatest(pg_postmaster_start_time(), d.stats_reset)
                    ELSE (SELECT max(_tenancy.last_scan(i.oid)) FROM unnest(scene.indexes) i WHERE i.top_index = x.oid) END AS unused_since
        FROM x LEFT JOIN used u ON u.top = x.top LEFT JOIN replaced r ON r.oid = x.oid
        CROSS JOIN (SELECT d.stats_reset FROM pg_stat_database d WHERE d.datname = current_database()) d
        WHERE x.method IN ('btree', 'hash', 'gin') AND NOT x.is_kept AND NOT x.has_expressions AND NOT x.tenant_column = ANY (x.keys)
          AND (r.instead IS NOT NULL
               OR x.length = 1 AND x.scans = 0 AND u.scans >= 1000
                  -- Building it, and a VACUUM or two, touch each of its blocks once.
                  AND x.blocks >= 1000 + 3 * x.bytes / current_setting('block_size')::integer)
          AND NOT EXISTS (SELECT FROM unserved k WHERE k.top = x.top AND x.keys[1] = ANY (k.rest))
    )
    SELECT s.top, 'index_unused', 'low',
           format('index %I (%s) was not scanned since %s: isolation leads tenants to %s', s.name, pg_size_pretty(s.bytes), to_char(s.unused_since, 'YYYY-MM-DD HH24:MI'),
                  coalesce(quote_ident(s.instead), format('indexes that lead with the tenant, which were scanned %s times', s.others_scans))),
           s.keys, NULL::text, NULL::text, NULL::name, NULL::text, _tenancy.drop_index(s.oid),
           jsonb_strip_nulls(jsonb_build_object('index', s.name, 'bytes', s.bytes, 'scans', s.scans, 'blocks', s.blocks, 'instead', s.instead,
                                                'unused_since', s.unused_since)), NULL::oid, s.unused_since
    FROM spare s WHERE s.unused_since IS NOT NULL
$$;
COMMENT ON FUNCTION _tenancy.advice_unused(_tenancy.advice_scene) IS 'advice: indexes without the tenant column that are not scanned';

-- What a CREATE INDEX CONCURRENTLY leaves that did not end, or one of a partitioned table that not all its partitions have: it is written to, and
-- no statement reads it.
CREATE FUNCTION _tenancy.advice_invalid(scene _tenancy.advice_scene) RETURNS SETOF _tenancy.advice
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH x AS (
        SELECT x.*, n.nspname, x.relkind = 'I' AS is_tree, f.top IS NOT NULL AS has_foreign,
               CASE WHEN x.relkind = 'I' OR x.depth > 0 THEN _tenancy.index_body(x.oid) END AS body
        FROM unnest(scene.indexes) x
        JOIN pg_namespace n ON n.oid = x.relnamespace
        LEFT JOIN (SELECT DISTINCT m.top FROM unnest(scene.members) m WHERE m.relkind = 'f') f ON f.top = x.top
        -- What begins at a part of a tree is somebody's own affair.
        WHERE NOT x.is_valid AND x.top_index = x.oid AND (x.relkind = 'i' OR x.depth = 0)
    )
    SELECT x.top, 'index_invalid', 'medium',
           CASE WHEN x.is_tree THEN format('index %I is invalid: %s', x.name, CASE WHEN x.has_foreign
                    THEN 'it was made with ONLY, and foreign partitions keep it from ever being complete' ELSE 'not all partitions have it' END)
                WHEN x.is_leftover THEN format('index %I is what an interrupted REINDEX CONCURRENTLY has left', x.name)
                ELSE format('index %I is invalid: it is written to and never read, as a CREATE INDEX CONCURRENTLY leaves it that did not end', x.name) END,
           x.keys, CASE WHEN x.is_tree AND NOT x.has_foreign THEN x.body END, x.predicate, NULL::name, NULL::text,
           CASE WHEN x.is_leftover OR x.is_tree AND x.has_foreign THEN _tenancy.drop_index(x.oid)
                WHEN NOT x.is_tree THEN format('REINDEX INDEX CONCURRENTLY %I.%I;', x.nspname, x.name) END,
           jsonb_build_object('index', x.name, 'bytes', x.bytes), CASE WHEN x.is_tree AND NOT x.has_foreign THEN x.oid END, NULL::timestamptz
    FROM x
    -- What completes the index of the parent mends that of the partition.
    WHERE NOT EXISTS (SELECT FROM x AS y WHERE y.top = x.top AND y.is_tree AND NOT x.is_tree AND NOT y.has_foreign AND y.body = x.body
                      AND y.predicate IS NOT DISTINCT FROM x.predicate)
$$;
COMMENT ON FUNCTION _tenancy.advice_invalid(_tenancy.advice_scene) IS 'advice: invalid indexes';
