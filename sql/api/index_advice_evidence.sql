-- What index_advice knows of statements: those that pg_stat_statements has recorded, and what hypopg says of an index that is not there. Neither
-- need be installed. Re-runnable.

-- The statements recorded in this database, and what each call took, on average: those that took the longest in all, and so much of each as leaves
-- nobody who fills the record with long ones a way to keep us busy. None where pg_stat_statements is not installed or not loaded.
CREATE FUNCTION _tenancy.recorded_statements()
    RETURNS TABLE (queryid bigint, calls bigint, mean_ms numeric, blocks numeric, rows numeric, query text)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    source regclass;
BEGIN
    -- Of the extension itself, whatever else has that name.
    SELECT c.oid INTO source
    FROM pg_extension e
    JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e'
    JOIN pg_class c ON c.oid = d.objid AND c.relname = 'pg_stat_statements'
    WHERE e.extname = 'pg_stat_statements';
    IF source IS NOT NULL AND EXISTS (SELECT FROM pg_settings s WHERE s.name = 'pg_stat_statements.max' AND s.context = 'postmaster') THEN
        RETURN QUERY EXECUTE format($query$
            SELECT s.queryid, sum(s.calls)::bigint, round((sum(s.total_exec_time) / sum(s.calls))::numeric, 3),
                   round(sum(s.shared_blks_hit + s.shared_blks_read) / sum(s.calls), 1), round(sum(s.rows) / sum(s.calls), 1), left(min(s.query), 5000)
            FROM %s s
            WHERE s.dbid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()) AND s.calls > 0
              -- What reads; not how PostgreSQL validates a foreign key.
              AND s.query ~* '^[[:space:](]*(select|with|update|delete|merge)\M' AND s.query !~ '^SELECT fk\..* FROM ONLY .* fk LEFT OUTER JOIN ONLY'
            GROUP BY s.queryid ORDER BY sum(s.total_exec_time) DESC LIMIT 1000$query$, source);
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.recorded_statements() IS 'what pg_stat_statements has recorded in this database';

CREATE FUNCTION _tenancy.unquoted(name text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN name LIKE '"%' THEN replace(substr(name, 2, length(name) - 2), '""', '"') ELSE lower(name) END
$$;
COMMENT ON FUNCTION _tenancy.unquoted(text) IS 'a name in a statement, as catalogs have it';

-- The same, one row a table that a statement names; order_column is the first that it orders by, where it has a LIMIT; compared, what it compares
-- with =. This looks at words and knows no grammar: a statement that it does not understand gives no advice (is_only is false, order_column null).
CREATE VIEW _tenancy.advice_workload AS
    WITH s AS MATERIALIZED (
        SELECT s.*, regexp_replace(regexp_replace(s.query, '/\*.*?\*/', ' ', 'g'), '--[^\n]*', ' ', 'g') AS words,
               '(?:"(?:[^"]|"")+"|[[:alpha:]_][[:alnum:]_$]*)' AS name
        FROM _tenancy.recorded_statements() s
    ), named AS MATERIALIZED (
        SELECT DISTINCT s.queryid, _tenancy.unquoted(t.part[1]) AS schema_name, _tenancy.unquoted(t.part[2]) AS table_name, count(*) OVER (PARTITION BY s.queryid) AS tables
        FROM s, regexp_matches(s.words, format('\m(?:from|join|update|into)\s+(?:only\s+)?(?:(%s)\s*\.\s*)?(%s)', s.name, s.name), 'gi') AS t(part)
    ), ordered AS MATERIALIZED (
        SELECT s.queryid, s.words, s.name, _tenancy.unquoted(o.part[1]) AS order_column,
               CASE WHEN o.part[2] ~* '\mdesc\s+nulls\s+last\M' THEN ' DESC NULLS LAST'
                    WHEN o.part[2] ~* '\mnulls\s+first\M' AND o.part[2] !~* '\mdesc\M' THEN ' NULLS FIRST' END AS order_by
        FROM s, regexp_match(s.words, format(
            'order\s+by\s+(?:%s\s*\.\s*)*(%s)((?:\s+(?:asc|desc)\M)?(?:\s+nulls\s+(?:first|last)\M)?)\s*(?:,[^()]*)?\m(?:limit|offset|fetch)\M',
            s.name, s.name), 'i') AS o(part)
        WHERE o.part IS NOT NULL
          -- A comma after the table is a join as well.
          AND s.words !~* format('\mfrom\s+(?:only\s+)?(?:%s\s*\.\s*)?%s(?:\s+(?:as\s+)?%s)?\s*,', s.name, s.name, s.name)
    ), understood AS MATERIALIZED (
        SELECT o.queryid, o.order_column, o.order_by,
               ARRAY(SELECT _tenancy.unquoted(c.part[1]) FROM regexp_matches(o.words, format('(%s)\s*(?:=|\min\M\s*\()', o.name), 'gi') AS c(part)) AS compared
        FROM ordered o
        -- The name of a result is not that of the column.
        WHERE o.order_column NOT IN (SELECT _tenancy.unquoted(a.part[1]) FROM regexp_matches(o.words, format('\mas\s+(%s)', o.name), 'gi') AS a(part))
    )
    SELECT s.queryid, s.calls, s.mean_ms, s.blocks, s.rows, s.query, n.schema_name, n.table_name, n.tables = 1 AS is_only, u.order_column, u.order_by, u.compared
    FROM s JOIN named n ON n.queryid = s.queryid LEFT JOIN understood u ON u.queryid = s.queryid;
COMMENT ON VIEW _tenancy.advice_workload IS 'the recorded statements, with the tables that they name';

-- What hypopg says an index would be good for: its size, and the cost of a statement of the largest tenant without and with it. Null where hypopg is not
-- installed, and for tables on which planning could call a function of a user's.
CREATE FUNCTION _tenancy.hypothetical(relation regclass, tenant_column name, columns name[], body text, advice text) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    -- The cost is that of all rows, as the owner of the extension sees them; tenancy.bypass_guard is told that this is meant.
    SET row_security = off
AS $$
DECLARE
    schema name;
    statement text;
    plan jsonb;
    index oid;
    answer jsonb;
BEGIN
    SELECT n.nspname INTO schema FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'hypopg';
    IF schema IS NULL OR body !~ '^btree' OR NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = relation AND c.relkind = 'r' AND NOT c.relispartition)
       OR EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = ANY (columns) AND a.atttypid >= 16384)
       OR EXISTS (SELECT FROM pg_depend d
                  WHERE d.refclassid IN ('pg_proc'::regclass, 'pg_operator'::regclass, 'pg_type'::regclass, 'pg_opclass'::regclass) AND d.refobjid >= 16384
                    AND (d.classid = 'pg_class'::regclass AND d.objid IN (SELECT i.indexrelid FROM pg_index i WHERE i.indrelid = relation)
                         OR d.classid = 'pg_constraint'::regclass AND d.objid IN (SELECT k.oid FROM pg_constraint k WHERE k.conrelid = relation)
                         OR d.classid = 'pg_statistic_ext'::regclass AND d.objid IN (SELECT x.oid FROM pg_statistic_ext x WHERE x.stxrelid = relation)))
    THEN
        RETURN NULL;
    END IF;
    -- Each column with a value that it has often.
    SELECT format('EXPLAIN (FORMAT JSON) SELECT ctid FROM ONLY %s WHERE %s%s', relation,
                  string_agg(format('%I = %L::%s', a.attname, coalesce((s.most_common_vals::text::text[])[1], (s.histogram_bounds::text::text[])[1]),
                                    format_type(a.atttypid, NULL)), ' AND ') FILTER (WHERE a.attname = tenant_column OR advice <> 'sort_index_missing'),
                  string_agg(format(' ORDER BY %I LIMIT 20', a.attname), '') FILTER (WHERE a.attname <> tenant_column AND advice = 'sort_index_missing'))
    INTO statement
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = ANY (columns)
    LEFT JOIN pg_stats s ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = a.attname AND NOT s.inherited
    WHERE c.oid = relation;
    EXECUTE statement INTO plan;
    answer := jsonb_build_object('cost', plan -> 0 -> 'Plan' -> 'Total Cost');
    EXECUTE format('SELECT h.indexrelid FROM %I.hypopg_create_index(%L) h', schema, format('CREATE INDEX ON %s USING %s', relation, body)) INTO index;
    EXECUTE statement INTO plan;
    EXECUTE format('SELECT $1 || jsonb_build_object(''cost_with_index'', $2, ''bytes'', %I.hypopg_relation_size($3))', schema)
        INTO answer USING answer, plan -> 0 -> 'Plan' -> 'Total Cost', index;
    EXECUTE format('SELECT %I.hypopg_drop_index($1)', schema) USING index;
    RETURN answer;
EXCEPTION WHEN OTHERS THEN
    -- Evidence that cannot be had is none: what the advice rests on is known without. What hypopg keeps, no subtransaction takes back.
    IF index IS NOT NULL THEN
        EXECUTE format('SELECT %I.hypopg_drop_index($1)', schema) USING index;
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _tenancy.hypothetical(regclass, name, name[], text, text) IS 'what hypopg says an index would be good for';
