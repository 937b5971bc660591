-- Advice on indexes: which ones isolation asks for, and which it makes useless, with the lines to type. Re-runnable.
-- The rules are functions, in index_advice_missing and index_advice_spare. As those of lint, they run with the rights of the extension's owner, read
-- catalogs and statistics, and call no function of a user's.

-- The lines that make indexes, one line a statement. On a table, without holding up its writers. Of a partitioned table, on it and on partitioned
-- partitions first (ONLY, which makes nothing but a name), then on each partition, which is attached to its parent's when it is done; an index
-- that is there already, and like it, is attached. Foreign partitions have no indexes, so the parent's would never be complete: there, it is made last, and takes the
-- partitions' for its own.
CREATE FUNCTION _tenancy.index_statements(scene _tenancy.advice_scene, wanted jsonb) RETURNS TABLE (n bigint, statement text)
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH f AS MATERIALIZED (
        SELECT f.n, f.top, f.columns, f.index, f.body || coalesce(' TABLESPACE ' || quote_ident(f.tablespace), '') || p.clause AS definition, f.body || p.clause AS alike
        FROM jsonb_to_recordset(wanted) AS f(n bigint, top oid, columns name[], body text, predicate text, tablespace name, index oid)
        CROSS JOIN LATERAL (SELECT coalesce(' WHERE ' || f.predicate, '') AS clause) p
    ), m AS MATERIALIZED (
        SELECT m.*, bool_or(m.relkind = 'f') OVER (PARTITION BY m.top) AS has_foreign
        FROM unnest(scene.members) m WHERE m.top IN (SELECT f.top FROM f)
    ), x AS MATERIALIZED (
        SELECT x.oid, x.relation, x.top_index, x.is_valid, x.name, _tenancy.index_body(x.oid) || coalesce(' WHERE ' || x.predicate, '') AS alike
        FROM unnest(scene.indexes) x JOIN m ON m.oid = x.relation AND m.depth > 0
        WHERE x.top_index = x.oid AND NOT x.is_leftover OR x.top_index IN (SELECT f.index FROM f)
    ), placed AS MATERIALIZED (
        SELECT f.n, m.oid, m.parent, m.depth, m.relkind, m.relname, m.relnamespace, m.nspname, m.qualified, m.has_foreign, f.definition, f.columns,
               coalesce(r.relname, a.name, l.name) AS present, r.oid IS NOT NULL OR a.oid IS NOT NULL AS is_attached,
               m.relkind = 'r' AND NOT coalesce(a.is_valid, l.is_valid) AS is_broken
        FROM f JOIN m ON m.top = f.top AND m.relkind <> 'f'
        LEFT JOIN pg_class r ON r.oid = f.index AND m.depth = 0
        LEFT JOIN x AS a ON a.relation = m.oid AND a.top_index = f.index
        LEFT JOIN (SELECT DISTINCT ON (x.relation, x.alike) x.relation, x.alike, x.name, x.is_valid FROM x WHERE x.top_index = x.oid
                   ORDER BY x.relation, x.alike, x.is_valid DESC, x.oid) l ON l.relation = m.oid AND l.alike = f.alike
    ), named AS MATERIALIZED (
        SELECT p.*, w.name, count(*) OVER (PARTITION BY p.relnamespace, w.name) > 1 OR octet_length(w.name) > 63 OR c.oid IS NOT NULL AS is_taken
        FROM placed p
        CROSS JOIN LATERAL (SELECT format('tenancy_%s_%s', p.relname, array_to_string(p.columns, '_')) AS name) w
        LEFT JOIN pg_class c ON c.relnamespace = p.relnamespace AND c.relname = w.name
    ), chosen AS MATERIALIZED (
        SELECT d.*, coalesce(d.present, CASE WHEN NOT d.is_taken THEN d.name ELSE (
                   -- By the number of the table, and by what the index is.
                   SELECT min(t.name) FROM (SELECT format('tenancy_%s_%s', d.oid, left(md5(d.definition || g), 8)) AS name FROM generate_series(1, 4) AS g) t
                   WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = d.relnamespace AND c.relname = t.name)) END) AS final
        FROM named d
    ), line AS (
        SELECT c.n, c.depth, c.qualified, format('CREATE INDEX CONCURRENTLY %I ON %s USING %s;', c.final, c.qualified, c.definition) AS line
        FROM chosen c WHERE c.relkind = 'r' AND c.present IS NULL
        UNION ALL
        SELECT c.n, c.depth, c.qualified, format('CREATE INDEX %I ON ONLY %s USING %s;', c.final, c.qualified, c.definition)
        FROM chosen c WHERE c.relkind = 'p' AND c.present IS NULL AND NOT c.has_foreign
        UNION ALL
        SELECT c.n, 1000000, c.qualified, format('CREATE INDEX %I ON %s USING %s;', c.final, c.qualified, c.definition)
        FROM chosen c WHERE c.relkind = 'p' AND c.present IS NULL AND c.has_foreign AND c.depth = 0
        UNION ALL
        SELECT c.n, c.depth, c.qualified, format('REINDEX INDEX CONCURRENTLY %I.%I;', c.nspname, c.final)
        FROM chosen c WHERE c.is_broken
        UNION ALL
        SELECT c.n, c.depth, c.qualified, format('ALTER INDEX %I.%I ATTACH PARTITION %I.%I;', p.nspname, p.final, c.nspname, c.final)
        FROM chosen c JOIN chosen p ON p.n = c.n AND p.oid = c.parent
        WHERE NOT c.has_foreign AND (NOT c.is_attached OR c.is_broken)
    )
    -- Who runs the lines one by one must not run a part of a name that has lines itself: then they are comments.
    SELECT l.n, string_agg(concat(CASE WHEN n.has_lines THEN '-- ' END, _tenancy.one_line(l.line)), E'\n' ORDER BY l.depth, l.qualified, starts_with(l.line, 'ALTER'), l.line)
    FROM line l JOIN (SELECT l.n, bool_or(l.line ~ '[[:cntrl:]]') AS has_lines FROM line l GROUP BY l.n) n ON n.n = l.n
    GROUP BY l.n
$$;
COMMENT ON FUNCTION _tenancy.index_statements(_tenancy.advice_scene, jsonb) IS 'the lines that make indexes on tables and on partitions';

CREATE FUNCTION tenancy.index_advice(target regclass DEFAULT NULL, unused_for interval DEFAULT '7 days')
    RETURNS TABLE (relation regclass, advice text, priority text, reason text, statement text, evidence jsonb)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    -- Compilation costs more than it gains in queries of this form.
    SET jit = off
    -- How many rows there are is known to no planner, and a join of all with all would be the worst guess.
    SET enable_nestloop = off
AS $$
DECLARE
    priorities text[] := '{high,medium,low}';
    caller name := CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role') END;
    scene _tenancy.advice_scene;
    the_top oid;
    -- A text may hold constants, where pg_stat_statements had no room: it is for those who may read it there.
    shows_text boolean;
BEGIN
    PERFORM _tenancy.refuse_in_context('index_advice');
    IF unused_for IS NULL OR unused_for < interval '0' THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'unused_for must be an interval of 0 or more');
    END IF;
    IF target IS NOT NULL THEN
        IF NOT _tenancy.is_protected(target) THEN
            PERFORM _tenancy.raise('RELATION_NOT_PROTECTED', format('table %s is not protected', target), jsonb_build_object('relation', target::text));
        END IF;
    END IF;
    scene.members := ARRAY(SELECT m FROM _tenancy.advice_members m);
    SELECT m.top INTO the_top FROM unnest(scene.members) m WHERE m.oid = target;
    IF target IS NOT NULL AND NOT FOUND THEN
        RETURN;
    END IF;
    scene.tables := ARRAY(SELECT t FROM _tenancy.advice_tables t);
    scene.indexes := ARRAY(SELECT x FROM _tenancy.advice_indexes x);
    scene.workload := ARRAY(SELECT w FROM _tenancy.advice_workload w);
    shows_text := EXISTS (SELECT FROM pg_roles r WHERE r.rolname = caller AND pg_has_role(r.oid, 'pg_read_all_stats', 'USAGE'));
    RETURN QUERY
        WITH t AS MATERIALIZED (
            SELECT t.* FROM unnest(scene.tables) t
        ), found AS MATERIALIZED (
            SELECT row_number() OVER () AS n, f.*, t.tenant_column, t.relname, t.nspname, t.bytes,
                   f.body ~ '^btree' AND f.predicate IS NULL AND f.columns[1] = t.tenant_column AND f.index IS NULL AS leads
            FROM (SELECT * FROM _tenancy.advice_leading(scene)
                  UNION ALL SELECT * FROM _tenancy.advice_foreign_keys(scene)
                  UNION ALL SELECT * FROM _tenancy.advice_sorts(scene)
                  UNION ALL SELECT * FROM _tenancy.advice_gin(scene)
                  UNION ALL SELECT * FROM _tenancy.advice_redundant(scene)
                  UNION ALL SELECT * FROM _tenancy.advice_unused(scene)
                  UNION ALL SELECT * FROM _tenancy.advice_invalid(scene)) f
            JOIN t ON t.oid = f.top
            WHERE (the_top IS NULL OR f.top = the_top) AND (f.unused_since IS NULL OR f.unused_since <= now() - unused_for)
              -- Of a small table it is not worth a word; and an index that is being built is not there yet.
              AND t.bytes >= 1048576 AND NOT t.is_building
        ), missing AS MATERIALIZED (
            SELECT f.top, f.priority, f.reason, f.top IN (SELECT o.top FROM found o WHERE o.leads AND o.advice <> 'index_missing') AS is_covered
            FROM found f WHERE f.advice = 'index_missing'
        ), kept AS MATERIALIZED (
            -- What leads with the tenant and more leads with the tenant: one index is enough, and is wanted as much.
            SELECT DISTINCT ON (f.top, f.body, f.predicate, f.statement) f.n, f.top, f.advice, f.columns, f.body, f.predicate, f.tablespace, f.prelude, f.statement, f.evidence,
                   f.index, f.tenant_column, f.relname, f.nspname, f.bytes,
                   least(array_position(priorities, f.priority), CASE WHEN f.leads THEN array_position(priorities, m.priority) END) AS place,
                   concat_ws('; ', f.reason, CASE WHEN f.leads AND f.advice <> 'index_missing' THEN m.reason END) AS reason
            FROM found f LEFT JOIN missing m ON m.top = f.top
            WHERE f.advice <> 'index_missing' OR NOT m.is_covered
            ORDER BY f.top, f.body, f.predicate, f.statement, place, f.n
        ), s AS MATERIALIZED (
            SELECT s.* FROM _tenancy.index_statements(scene, (SELECT coalesce(jsonb_agg(to_jsonb(k)), '[]') FROM (SELECT k.n, k.top, k.columns, k.body, k.predicate, k.tablespace, k.index FROM kept k WHERE k.statement IS NULL) k)) s
        ), example AS (
            SELECT e.n, jsonb_agg(jsonb_strip_nulls(jsonb_build_object('queryid', e.queryid, 'calls', e.calls, 'mean_ms', e.mean_ms, 'blocks', e.blocks, 'rows', e.rows,
                                                     'query', CASE WHEN shows_text THEN left(e.query, 500) END)) ORDER BY e.place) AS statements
            FROM (SELECT k.n, w.queryid, w.calls, w.mean_ms, w.blocks, w.rows, w.query, row_number() OVER (PARTITION BY k.n ORDER BY w.calls * w.mean_ms DESC, w.queryid) AS place
                  FROM kept k JOIN unnest(scene.workload) w ON w.table_name = k.relname AND coalesce(w.schema_name = k.nspname, true)
                  WHERE k.statement IS NULL
                    AND NOT EXISTS (SELECT FROM unnest(k.columns) AS c(name) WHERE c.name <> k.tenant_column AND strpos(w.query, c.name) = 0)
                    AND (k.advice <> 'sort_index_missing' OR w.order_column = ANY (k.columns))) e
            WHERE e.place <= 3 GROUP BY e.n
        )
        SELECT k.top::regclass, k.advice, priorities[k.place], k.reason, coalesce(CASE WHEN k.statement ~ '[[:cntrl:]]' THEN '-- ' || _tenancy.one_line(k.statement) ELSE k.statement END, concat_ws(E'\n', k.prelude, s.statement)),
               k.evidence || jsonb_strip_nulls(jsonb_build_object('statements', e.statements, 'hypopg', CASE
                   WHEN k.statement IS NULL AND row_number() OVER (ORDER BY k.statement IS NOT NULL, k.place, k.bytes DESC) <= 100
                   THEN _tenancy.hypothetical(k.top::regclass, k.tenant_column, k.columns, k.body, k.advice) END))
        FROM kept k LEFT JOIN s ON s.n = k.n LEFT JOIN example e ON e.n = k.n
        WHERE k.statement IS NOT NULL OR s.statement IS NOT NULL
        ORDER BY k.place, k.bytes DESC, k.top::regclass::text COLLATE "C", k.advice COLLATE "C", 5;
END
$$;
COMMENT ON FUNCTION tenancy.index_advice(regclass, interval) IS
'Returns advice on the indexes of protected tables, one row a piece, the most urgent first: relation, advice (index_missing,
foreign_key_index_missing, sort_index_missing, gin_index_without_tenant, index_invalid, index_redundant or index_unused), priority (high, medium or low), reason with the figures
that it rests on, statement (the lines to type, one a line, each in a transaction of its own), and evidence: counters, statements that
would profit where pg_stat_statements is loaded (their text for members of pg_read_all_stats), cost and size where hypopg is installed. target is a
table or partition (NULL: all); unused_for says for how long an index must not have been scanned to be called unused, as far as this server knows.
It says nothing of tables below 1 MB, nor of one on which an index is being built. It reads catalogs and statistics, and changes nothing.
Errors: RELATION_NOT_PROTECTED 55000, PARAMETER_INVALID 22023, TENANT_ACCESS_DENIED 42501 in the context of a tenant. Volatile. Superusers, the
owner of the database and members of pg_monitor may call it; grant EXECUTE to others.';
