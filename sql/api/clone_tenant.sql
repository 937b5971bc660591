-- A second tenant with the rows of a first one. Re-runnable. What is written is what export_tenant and import_tenant write; between them, keys are made anew.

-- Unique keys and exclusion constraints of tables of tenants that do not have the tenant column, by which two tenants cannot have the same values.
CREATE FUNCTION _tenancy.keys_across_tenants() RETURNS TABLE (relation regclass, index regclass, columns smallint[])
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
    SELECT t.relation, i.indexrelid::regclass, c.columns
    FROM _tenancy.tables_by_keys() t JOIN pg_index i ON i.indrelid = t.relation AND (i.indisunique OR i.indisexclusion)
    CROSS JOIN LATERAL (SELECT array_agg(k.number) AS columns FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (number, place) WHERE k.place <= i.indnkeyatts) c
    JOIN pg_attribute a ON a.attrelid = t.relation AND a.attname = t.tenant_column
    WHERE a.attnum <> ALL (c.columns)
$$;
COMMENT ON FUNCTION _tenancy.keys_across_tenants() IS 'unique keys of tables of tenants without the tenant column';

-- Columns whose values must be others in a clone: those of unique keys without the tenant column, where new values can be made, and what refers to them. A value becomes that of
-- the column origin_name of the table origin; maker makes one.
CREATE FUNCTION _tenancy.renumbered() RETURNS TABLE (relation regclass, name name, origin regclass, origin_name name, maker text)
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
    WITH RECURSIVE part AS MATERIALIZED (
        SELECT t.relation, t.tenant_column FROM _tenancy.tables_by_keys() t
    ), referring AS MATERIALIZED (
        SELECT k.conrelid::regclass AS relation, a.attname AS name, k.confrelid::regclass AS parent, b.attname AS parent_name
        FROM pg_constraint k JOIN part f ON f.relation = k.conrelid JOIN part t ON t.relation = k.confrelid
        CROSS JOIN LATERAL unnest(k.conkey, k.confkey) AS c (child, parent)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = c.child JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = c.parent
        WHERE k.contype = 'f' AND a.attname <> f.tenant_column
    ), own AS (
        SELECT DISTINCT u.relation, a.attname AS name, m.maker
        FROM _tenancy.keys_across_tenants() u CROSS JOIN LATERAL unnest(u.columns) AS c (number)
        JOIN pg_attribute a ON a.attrelid = u.relation AND a.attnum = c.number
        CROSS JOIN LATERAL (SELECT CASE WHEN a.atttypid = 'uuid'::regtype THEN 'gen_random_uuid()'
                                        ELSE format('nextval(%L)', pg_get_serial_sequence(u.relation::text, a.attname)::regclass) END AS maker) m
        WHERE (a.atttypid = 'uuid'::regtype OR pg_get_serial_sequence(u.relation::text, a.attname) IS NOT NULL)
          AND NOT EXISTS (SELECT FROM referring r WHERE r.relation = u.relation AND r.name = a.attname AND r.parent <> r.relation)
    ), found (relation, name, origin, origin_name, maker) AS (
        SELECT o.relation, o.name, o.relation, o.name, o.maker FROM own o
        UNION
        SELECT r.relation, r.name, f.origin, f.origin_name, f.maker FROM found f JOIN referring r ON r.parent = f.relation AND r.parent_name = f.name
    )
    SELECT f.relation, f.name, f.origin, f.origin_name, f.maker FROM found f
$$;
COMMENT ON FUNCTION _tenancy.renumbered() IS 'the columns whose values are others in a clone of a tenant';

CREATE FUNCTION tenancy.clone_tenant(source text, target text, name text DEFAULT NULL, members boolean DEFAULT false) RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    source_id constant text := _tenancy.registered(clone_tenant.source);
    target_id constant text := tenancy.normalize_tenant_id(clone_tenant.target);
    item record;
    rows bigint;
BEGIN
    PERFORM _tenancy.refuse_in_context('clone_tenant');
    IF target_id IS NULL OR members IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'source, target and members must not be null');
    END IF;
    SELECT k.relation, k.index INTO item FROM _tenancy.keys_across_tenants() k
    WHERE NOT EXISTS (SELECT FROM _tenancy.renumbered() r JOIN pg_attribute a ON a.attrelid = r.relation AND a.attname = r.name WHERE r.relation = k.relation AND a.attnum = ANY (k.columns))
    ORDER BY k.index::text LIMIT 1;
    IF FOUND THEN
        PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('index %s of table %s spans tenants, and has no column for which new values can be made', item.index, item.relation),
            jsonb_build_object('relation', item.relation::text, 'index', item.index::text),
            'Make it one that has the tenant column: two tenants cannot have the same values.');
    END IF;
    SELECT r.relation, r.name INTO item FROM _tenancy.renumbered() r GROUP BY r.relation, r.name HAVING count(*) > 1 ORDER BY r.relation::text, r.name LIMIT 1;
    IF FOUND THEN
        PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('column %I of table %s refers to columns that get different values', item.name, item.relation),
            jsonb_build_object('relation', item.relation::text));
    END IF;
    -- One statement, so one snapshot.
    CREATE TEMPORARY TABLE tenancy_clone_lines AS SELECT l AS line, _tenancy.place_of_line(l) AS place FROM tenancy.export_tenant(source_id) l WHERE members OR l NOT LIKE '{"member"%';
    CREATE TEMPORARY TABLE tenancy_clone_keys (origin oid, name name, old text COLLATE "C", new text, PRIMARY KEY (origin, name, old));
    -- Which place in the lines of which table is which column.
    CREATE TEMPORARY TABLE tenancy_clone_columns AS
        SELECT l.place, 1 + c.place AS position, r.origin::oid AS origin, r.origin_name, r.maker, (r.relation, r.name) = (r.origin, r.origin_name) AS is_origin
        FROM pg_temp.tenancy_clone_lines l CROSS JOIN LATERAL json_array_elements_text(l.line::json -> 'columns') WITH ORDINALITY AS c (name, place)
        JOIN _tenancy.renumbered() r ON r.relation = to_regclass(format('%I.%I', l.line::json ->> 'schema', l.line::json ->> 'name')) AND r.name = c.name
        WHERE l.line LIKE '{"table"%';
    FOR item IN SELECT c.* FROM pg_temp.tenancy_clone_columns c WHERE c.is_origin LOOP
        EXECUTE format('INSERT INTO pg_temp.tenancy_clone_keys SELECT %L, %L, k.old, (%s)::text
                        FROM (SELECT DISTINCT l.line::json ->> %s AS old FROM pg_temp.tenancy_clone_lines l WHERE l.place = %s AND l.line LIKE ''[%%'') k WHERE k.old IS NOT NULL',
            item.origin, item.origin_name, item.maker, item.position - 1, item.place);
    END LOOP;
    ANALYZE pg_temp.tenancy_clone_keys;
    UPDATE pg_temp.tenancy_clone_lines l SET line = (
        SELECT json_agg(coalesce(k.new, e.value) ORDER BY e.position)::text
        FROM json_array_elements_text(l.line::json) WITH ORDINALITY AS e (value, position)
        LEFT JOIN pg_temp.tenancy_clone_columns c ON c.place = l.place AND c.position = e.position
        LEFT JOIN pg_temp.tenancy_clone_keys k ON k.origin = c.origin AND k.name = c.origin_name AND k.old = e.value)
    WHERE l.line LIKE '[%' AND l.place IN (SELECT c.place FROM pg_temp.tenancy_clone_columns c);
    -- A subdomain is of one tenant.
    UPDATE pg_temp.tenancy_clone_lines l
    SET line = '{"tenancy_export": 1, ' || substr(jsonb_set(l.line::jsonb - 'tenancy_export', '{tenant}', l.line::jsonb -> 'tenant' || jsonb_build_object(
                   'subdomain', NULL, 'name', coalesce(clone_tenant.name, l.line::jsonb #>> '{tenant,name}')))::text, 2)
    WHERE l.place = -1;
    rows := tenancy.import_tenant('pg_temp.tenancy_clone_lines', target_id);
    DROP TABLE pg_temp.tenancy_clone_lines, pg_temp.tenancy_clone_keys, pg_temp.tenancy_clone_columns;
    PERFORM _tenancy.note_audit('CLONE_TENANT', jsonb_build_object('source', source_id, 'target', target_id, 'rows', rows));
    RETURN rows;
END
$$;
COMMENT ON FUNCTION tenancy.clone_tenant(text, text, text, boolean) IS
'Makes a tenant that has what another has, from one snapshot: name (unless another is given), plan, settings, quotas, rows of all protected tables, and, where members is true, members; not its subdomain, passwords, records of
usage and audit trail. target: an id that is not registered. Where a unique key does not have the tenant column, its values are made anew (of a column with a sequence, or of type uuid), and foreign keys between tables of tenants
follow; what refers to a row without a foreign key does not. Returns how many rows it was. All or nothing. Rows are inserted as import_tenant does it. Errors: RELATION_NOT_SUPPORTED 42809 where a unique key spans tenants and no column of it can be made
anew, TENANT_NOT_FOUND 42704, TENANT_ALREADY_EXISTS 42710, PARAMETER_INVALID 22023, those of import_tenant; TENANT_ACCESS_DENIED 42501 in the context of a tenant. Volatile. Granted to nobody.';
