-- A second tenant with the rows of a first one. Re-runnable. What is written is what export_tenant and import_tenant write; between them, keys are made anew.

-- The columns of tables of tenants that refer to others, a partition's as those of its table, but for the tenant column; parent is null where that is no table of tenants.
CREATE VIEW _tenancy.tenant_references AS
    WITH root AS MATERIALIZED (
        SELECT r.relation, r.root FROM _tenancy.roots() r
    )
    SELECT DISTINCT f.root AS relation, a.attname AS name, t.root AS parent, b.attname AS parent_name
    FROM pg_catalog.pg_constraint k JOIN root f ON f.relation = k.conrelid LEFT JOIN root t ON t.relation = k.confrelid
    JOIN _tenancy.protected p ON p.relation = f.root
    CROSS JOIN LATERAL unnest(k.conkey, k.confkey) AS c (child, parent)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = c.child
    JOIN pg_catalog.pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = c.parent
    WHERE k.contype = 'f' AND a.attname <> p.tenant_column;
COMMENT ON VIEW _tenancy.tenant_references IS 'the columns of tables of tenants that refer to others';

-- By which two tenants cannot have the same values. maker makes a value of the column that is best for it, and has no foreign key: an integer with a sequence, or a uuid that is the key (or is with
-- what a table is partitioned by), or has a default that makes one.
CREATE FUNCTION _tenancy.keys_across_tenants() RETURNS TABLE (relation regclass, index regclass, place bigint, columns name[], best name, maker text)
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
    SELECT t.relation, i.indexrelid::regclass, t.place, c.columns, b.name, b.maker
    FROM _tenancy.tables_by_keys() t JOIN pg_index i ON i.indrelid = t.relation AND (i.indisunique OR i.indisexclusion)
    CROSS JOIN LATERAL (SELECT coalesce(array_agg(a.attname), '{}') AS columns FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS k (number, place)
                        JOIN pg_attribute a ON a.attrelid = t.relation AND a.attnum = k.number WHERE k.place <= i.indnkeyatts) c
    LEFT JOIN LATERAL (
        SELECT a.attname AS name, CASE WHEN a.atttypid = 'uuid'::regtype THEN 'gen_random_uuid()' ELSE format('nextval(%L)', s.sequence::regclass) END AS maker
        FROM pg_attribute a CROSS JOIN LATERAL (SELECT pg_get_serial_sequence(t.relation::text, a.attname) AS sequence) s
        WHERE a.attrelid = t.relation AND a.attname = ANY (c.columns)
          AND (s.sequence IS NOT NULL AND a.atttypid IN ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype)
               OR a.atttypid = 'uuid'::regtype AND a.attgenerated = '' AND (
                      NOT EXISTS (SELECT FROM pg_attribute o LEFT JOIN pg_partitioned_table b ON b.partrelid = t.relation
                                  WHERE o.attrelid = t.relation AND o.attname = ANY (c.columns) AND o.attname <> a.attname AND NOT coalesce(o.attnum = ANY (b.partattrs::smallint[]), false))
                      OR EXISTS (SELECT FROM pg_attrdef d WHERE d.adrelid = t.relation AND d.adnum = a.attnum AND pg_get_expr(d.adbin, d.adrelid) ~ '(gen_random_uuid|uuid_generate_v[0-9][a-z]*|uuidv[47])\(\)$')))
          AND NOT EXISTS (SELECT FROM _tenancy.tenant_references r WHERE r.relation = t.relation AND r.name = a.attname)
        ORDER BY s.sequence IS NULL, a.attnum LIMIT 1) b ON true
    WHERE t.tenant_column <> ALL (c.columns)
$$;
COMMENT ON FUNCTION _tenancy.keys_across_tenants() IS 'unique keys of tables of tenants without the tenant column, each with the column of which new values can be made';

-- A table of the owner of the extension may be born with privileges for others (ALTER DEFAULT PRIVILEGES), who would have a trigger on it, or read it.
CREATE FUNCTION _tenancy.make_private(relation regclass) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    grantee oid;
BEGIN
    FOR grantee IN SELECT DISTINCT x.grantee FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) x WHERE c.oid = relation AND x.grantee <> c.relowner LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s', relation, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END);
    END LOOP;
END
$$;
COMMENT ON FUNCTION _tenancy.make_private(regclass) IS 'takes all privileges on a table from everybody but its owner';

-- Fills tenancy_clone_columns: those whose values are others in a clone. A value becomes what the value of the column origin_name of the table origin becomes.
CREATE FUNCTION _tenancy.find_renumbered(source_id text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    item record;
BEGIN
    CREATE TEMPORARY TABLE tenancy_clone_references AS SELECT * FROM _tenancy.tenant_references WITH NO DATA;
    CREATE TEMPORARY TABLE tenancy_clone_spanning AS SELECT * FROM _tenancy.keys_across_tenants() WITH NO DATA;
    PERFORM _tenancy.make_private(t::regclass) FROM unnest('{pg_temp.tenancy_clone_references,pg_temp.tenancy_clone_spanning}'::text[]) t;
    INSERT INTO pg_temp.tenancy_clone_references SELECT * FROM _tenancy.tenant_references;
    INSERT INTO pg_temp.tenancy_clone_spanning SELECT * FROM _tenancy.keys_across_tenants();
    -- What holds the id of the tenant beside the tenant column: its origin is no table.
    INSERT INTO pg_temp.tenancy_clone_columns (relation, name, origin, origin_name)
        SELECT DISTINCT r.relation, r.name, 0::oid, 'tenant'::name
        FROM pg_temp.tenancy_clone_references r JOIN _tenancy.protected p ON p.relation = r.parent AND p.tenant_column = r.parent_name;
    LOOP
        LOOP
            INSERT INTO pg_temp.tenancy_clone_columns (relation, name, origin, origin_name)
                SELECT r.relation, r.name, c.origin, c.origin_name
                FROM pg_temp.tenancy_clone_references r JOIN pg_temp.tenancy_clone_columns c ON c.relation = r.parent AND c.name = r.parent_name
                ON CONFLICT DO NOTHING;
            EXIT WHEN NOT FOUND;
        END LOOP;
        SELECT k.* INTO item FROM pg_temp.tenancy_clone_spanning k
        -- What refers to rows that all tenants share stays the same, so it makes no key another; where nothing else can, it has to do.
        WHERE NOT EXISTS (SELECT FROM pg_temp.tenancy_clone_columns c LEFT JOIN _tenancy.protected p ON p.relation = c.origin
                          WHERE c.relation = k.relation AND c.name = ANY (k.columns) AND (k.maker IS NULL OR c.origin = k.relation OR p.kind IS DISTINCT FROM 'shared')) ORDER BY k.maker IS NULL, k.place, k.relation::text, k.index::text LIMIT 1;
        EXIT WHEN NOT FOUND;
        IF item.maker IS NULL AND NOT EXISTS (SELECT FROM _tenancy.protected p CROSS JOIN LATERAL _tenancy.read_as_owner(p.relation, format('SELECT ''x''::text FROM %s d WHERE d.%I = %L LIMIT 1',
                                                        p.relation, p.tenant_column, source_id)) WHERE p.relation = item.relation AND _tenancy.has_form(p.relation, p.tenant_column, source_id)) THEN
            DELETE FROM pg_temp.tenancy_clone_spanning k WHERE k.index = item.index;
            -- Whoever refers to it by this key refers to a row that all share, or to another tenant's.
            INSERT INTO pg_temp.tenancy_clone_columns (relation, name, origin, origin_name) SELECT item.relation, c.name, item.relation, c.name FROM unnest(item.columns) AS c (name)
                WHERE EXISTS (SELECT FROM pg_temp.tenancy_clone_references r WHERE r.parent = item.relation AND r.parent_name = c.name) ON CONFLICT DO NOTHING;
            CONTINUE;
        ELSIF item.maker IS NULL THEN
            PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('index %s of table %s spans tenants, and has no column for which new values can be made', item.index, item.relation),
                jsonb_build_object('relation', item.relation::text, 'index', item.index::text),
                'Make it one that has the tenant column: two tenants cannot have the same values.');
        END IF;
        INSERT INTO pg_temp.tenancy_clone_columns VALUES (item.relation, item.best, item.relation, item.best, item.maker);
    END LOOP;
    -- One that follows one key, and is part of another that stays or becomes something else.
    SELECT r.relation, r.name INTO item
    FROM pg_temp.tenancy_clone_references r JOIN pg_temp.tenancy_clone_columns c ON c.relation = r.relation AND c.name = r.name
    LEFT JOIN pg_temp.tenancy_clone_columns p ON p.relation = r.parent AND p.name = r.parent_name
    LEFT JOIN _tenancy.protected q ON q.relation = r.parent AND q.tenant_column = r.parent_name
    WHERE NOT ((p.origin, p.origin_name) IS NOT DISTINCT FROM (c.origin, c.origin_name) OR (r.parent::oid, r.parent_name) IS NOT DISTINCT FROM (c.origin, c.origin_name)
               OR c.origin = 0 AND q.relation IS NOT NULL) LIMIT 1;
    IF FOUND THEN
        PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('column %I of table %s is part of foreign keys that ask for different values in a clone', item.name, item.relation),
            jsonb_build_object('relation', item.relation::text));
    END IF;
    DROP TABLE pg_temp.tenancy_clone_references, pg_temp.tenancy_clone_spanning;
END
$$;
COMMENT ON FUNCTION _tenancy.find_renumbered(text) IS 'which columns have other values in a clone; for tenancy.clone_tenant';

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
    -- Nothing is in them before nobody else may use them.
    CREATE TEMPORARY TABLE tenancy_clone_lines (line text, place integer, number bigint GENERATED ALWAYS AS IDENTITY);
    CREATE TEMPORARY TABLE tenancy_clone_keys (origin oid, name name, old text COLLATE "C", new text, PRIMARY KEY (origin, name, old));
    CREATE TEMPORARY TABLE tenancy_clone_columns (relation oid, name name, origin oid, origin_name name, maker text, place integer, position bigint, PRIMARY KEY (relation, name));
    -- By name, or the next call would have these tables in a plan that is kept.
    PERFORM _tenancy.make_private(t::regclass) FROM unnest('{pg_temp.tenancy_clone_lines,pg_temp.tenancy_clone_keys,pg_temp.tenancy_clone_columns}'::text[]) t;
    PERFORM _tenancy.find_renumbered(source_id);
    -- One statement, so one snapshot.
    INSERT INTO pg_temp.tenancy_clone_lines (line, place)
        SELECT l, _tenancy.place_of_line(l) FROM tenancy.export_tenant(source_id) l WHERE members OR l NOT LIKE '{"member"%';
    -- Which place in the lines of which table that is.
    UPDATE pg_temp.tenancy_clone_columns u SET place = l.place, position = 1 + c.place
    FROM pg_temp.tenancy_clone_lines l CROSS JOIN LATERAL json_array_elements_text(l.line::json -> 'columns') WITH ORDINALITY AS c (name, place)
    WHERE l.line LIKE '{"table"%' AND u.relation = to_regclass(format('%I.%I', l.line::json ->> 'schema', l.line::json ->> 'name')) AND u.name = c.name;
    FOR item IN SELECT c.* FROM pg_temp.tenancy_clone_columns c WHERE c.maker IS NOT NULL AND c.place IS NOT NULL LOOP
        EXECUTE format('INSERT INTO pg_temp.tenancy_clone_keys SELECT %L, %L, k.old, (%s)::text
                        FROM (SELECT l.line::json ->> %s AS old FROM pg_temp.tenancy_clone_lines l WHERE l.place = %s AND l.line LIKE ''[%%'' GROUP BY 1 ORDER BY min(l.number)) k WHERE k.old IS NOT NULL',
            item.origin, item.origin_name, item.maker, item.position - 1, item.place);
    END LOOP;
    INSERT INTO pg_temp.tenancy_clone_keys
        VALUES (0, 'tenant', source_id, target_id);
    -- Rows that all tenants share are the clone's as well.
    FOR item IN SELECT DISTINCT c.origin::regclass AS origin, c.origin_name, p.tenant_column FROM pg_temp.tenancy_clone_columns c JOIN _tenancy.protected p ON p.relation = c.origin AND p.kind = 'shared' LOOP
        INSERT INTO pg_temp.tenancy_clone_keys SELECT item.origin, item.origin_name, r.line, r.line
            FROM _tenancy.read_as_owner(item.origin, format('SELECT DISTINCT format(''%%s'', d.%I) FROM %s d WHERE d.%I IS NULL AND d.%1$I IS NOT NULL', item.origin_name, item.origin, item.tenant_column)) r
            ON CONFLICT DO NOTHING;
    END LOOP;
    ANALYZE pg_temp.tenancy_clone_keys;
    -- What would go on pointing at the row of the other tenant.
    SELECT c.relation::regclass AS relation, c.name INTO item FROM pg_temp.tenancy_clone_columns c JOIN pg_temp.tenancy_clone_lines l ON l.place = c.place AND l.line LIKE '[%'
    CROSS JOIN LATERAL (SELECT l.line::json ->> (c.position - 1)::integer AS value) v
    WHERE v.value IS NOT NULL AND NOT EXISTS (SELECT FROM pg_temp.tenancy_clone_keys k WHERE k.origin = c.origin AND k.name = c.origin_name AND k.old = v.value) LIMIT 1;
    IF FOUND THEN
        PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('column %I of table %s refers to a row that is not of the tenant, or by a value of another type', item.name, item.relation),
            jsonb_build_object('relation', item.relation::text));
    END IF;
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
'Makes a tenant that has what another has, from one snapshot: name (unless another is given), plan, settings, whether it takes single sign-on only, quotas, rows of all protected tables, and, where members is true, members; not its subdomain, issuers,
passwords, records of usage and audit trail. target: an id that is not registered. Where a unique key does not have the tenant column, its values are made anew (of an integer column with a sequence, or a uuid that is the key or has a default that makes one), and
foreign keys between tables of tenants follow; what refers to a row without a foreign key does not. Returns how many rows it was. All or nothing. Rows are inserted as import_tenant does it. Errors: RELATION_NOT_SUPPORTED 42809 where a unique key spans
tenants and no column of it can be made anew, where foreign keys ask for different values of a column, or lead to a row of another tenant; TENANT_NOT_FOUND 42704, TENANT_ALREADY_EXISTS 42710, PARAMETER_INVALID 22023, those of import_tenant; TENANT_ACCESS_DENIED 42501
in the context of a tenant. Volatile. Granted to nobody.';
