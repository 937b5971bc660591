-- Rows for tenancy.prove to play with: how one is made for a table that nobody told us anything about. Re-runnable.
-- A row is a jsonb object of its columns; what it leaves out takes its default.

-- A value that no row is likely to have, of the type of a column; null where none can be made up.
-- Each attempt tries another kind of value, because a CHECK constraint or a partition may refuse the first.
CREATE FUNCTION _tenancy.fresh_value(type oid, typmod integer, present text, attempt integer) RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    base oid := type;
    modifier integer := typmod;
    domain record;
    word text := replace(gen_random_uuid()::text, '-', '');
    digits integer;
BEGIN
    LOOP
        SELECT t.typtype, t.typbasetype, t.typtypmod, t.typcategory, t.typname INTO domain FROM pg_type t WHERE t.oid = base;
        EXIT WHEN domain.typtype <> 'd';
        modifier := domain.typtypmod;
        base := domain.typbasetype;
    END LOOP;
    IF base IN ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype) AND attempt = 2 THEN
        RETURN coalesce(present, '0')::numeric + 1 + floor(random() * 1000);
    END IF;
    CASE base
    WHEN 'smallint'::regtype THEN
        RETURN CASE attempt WHEN 1 THEN 30000 + floor(random() * 2700) ELSE -floor(random() * 32000) END;
    WHEN 'integer'::regtype THEN
        RETURN CASE attempt WHEN 1 THEN 2000000000 + floor(random() * 147000000) ELSE -floor(random() * 2147000000) END::bigint;
    WHEN 'bigint'::regtype THEN
        RETURN CASE attempt WHEN 1 THEN 9000000000000000000 + floor(random() * 200000000000000000)::bigint
                    ELSE -floor(random() * 9000000000000000000)::bigint END;
    WHEN 'numeric'::regtype THEN
        digits := CASE WHEN modifier < 0 THEN 15 ELSE ((modifier - 4) >> 16) - ((modifier - 4) & 2047) END;
        RETURN CASE attempt WHEN 2 THEN coalesce(present, '0')::numeric + 1
                    ELSE floor(random()::numeric * 10::numeric ^ least(greatest(digits, 0), 15)) END;
    WHEN 'double precision'::regtype, 'real'::regtype THEN
        RETURN floor(random() * 1000000);
    WHEN 'uuid'::regtype THEN
        RETURN gen_random_uuid();
    WHEN 'bytea'::regtype THEN
        RETURN '\x' || word;
    WHEN 'date'::regtype THEN
        RETURN CASE attempt WHEN 2 THEN coalesce(present::date, current_date) + 1 ELSE date '2900-01-01' + floor(random() * 30000)::integer END;
    WHEN 'timestamp'::regtype, 'timestamptz'::regtype THEN
        RETURN CASE attempt WHEN 1 THEN coalesce(present::timestamp, localtimestamp) + random() * interval '1 second'
                    ELSE timestamp '2900-01-01' + random() * interval '30000 days' END;
    WHEN 'inet'::regtype THEN
        RETURN format('fd00::%s:%s', left(word, 4), right(word, 4));
    ELSE
        IF domain.typcategory = 'S' AND domain.typname <> 'char' THEN
            RETURN left(CASE attempt WHEN 1 THEN word WHEN 2 THEN left(word, 12) || '@example.com' ELSE upper(word) END,
                        CASE WHEN modifier > 4 THEN modifier - 4 ELSE 32 END);
        END IF;
        RETURN NULL;
    END CASE;
END
$$;
COMMENT ON FUNCTION _tenancy.fresh_value(oid, integer, text, integer) IS
'a value of a type that no row is likely to have, or null';

-- Any value of a type, for a column that must have one where there is no row to copy from.
CREATE FUNCTION _tenancy.any_value(type oid, typmod integer) RETURNS text
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE base(oid, typtype, parent, name, category) AS (
        SELECT t.oid, t.typtype, t.typbasetype, t.typname, t.typcategory FROM pg_type t WHERE t.oid = type
        UNION ALL
        SELECT t.oid, t.typtype, t.typbasetype, t.typname, t.typcategory
        FROM base b JOIN pg_type t ON t.oid = b.parent WHERE b.typtype = 'd'
    )
    SELECT CASE
        WHEN b.typtype = 'e' THEN (SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = b.oid ORDER BY e.enumsortorder LIMIT 1)
        WHEN b.category = 'B' THEN 'false'
        WHEN b.category = 'A' THEN '{}'
        WHEN b.typtype = 'r' THEN 'empty'
        WHEN b.typtype = 'm' THEN '{}'
        WHEN b.category = 'N' THEN '1'
        WHEN b.oid IN ('json'::regtype, 'jsonb'::regtype) THEN '{}'
        WHEN b.oid = 'interval'::regtype THEN '1 day'
        WHEN b.oid = 'point'::regtype THEN '(0,0)'
        WHEN b.oid = 'cidr'::regtype THEN 'fd00::/8'
        WHEN b.oid IN ('macaddr'::regtype, 'macaddr8'::regtype) THEN '02:00:00:00:00:00'
        WHEN b.oid IN ('bit'::regtype, 'varbit'::regtype) THEN repeat('0', greatest(typmod, 1))
        WHEN b.oid = 'tsvector'::regtype THEN ''
        WHEN b.name IN ('geometry', 'geography') THEN 'POINT(0 0)'
        WHEN b.typtype = 'c' THEN (SELECT '(' || repeat(',', count(*)::integer - 1) || ')' FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid
                                   WHERE t.oid = b.oid AND a.attnum > 0 AND NOT a.attisdropped)
        WHEN b.oid IN ('time'::regtype, 'timetz'::regtype) THEN '12:00'
        ELSE _tenancy.fresh_value(type, typmod, NULL, 1) END
    FROM base b WHERE b.typtype <> 'd'
$$;
COMMENT ON FUNCTION _tenancy.any_value(oid, integer) IS 'a value of a type, or null where none is known';

-- A key whose values mean nothing: that one is taken tells what a counter tells anyway. One of its columns is an identity, takes its default from
-- a sequence or is a uuid, or it is the primary key on one integer column (frameworks draw its numbers themselves). For lint and prove alike.
CREATE FUNCTION _tenancy.is_surrogate_key(index oid) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT NOT i.indisexclusion AND EXISTS (
        SELECT FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) AS n(attnum)
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = n.attnum
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        WHERE a.attidentity <> '' OR a.atttypid = 'uuid'::regtype OR pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval(%'
           OR i.indisprimary AND i.indnkeyatts = 1 AND a.atttypid IN ('bigint'::regtype, 'integer'::regtype, 'smallint'::regtype))
    FROM pg_index i WHERE i.indexrelid = index
$$;
COMMENT ON FUNCTION _tenancy.is_surrogate_key(oid) IS 'whether the values of a unique index mean nothing to anybody';

-- The unique indexes (and exclusion constraints) that do not have the tenant column among their columns: they compare the rows of all tenants.
CREATE FUNCTION _tenancy.keys_across_tenants(relation regclass, tenant_column name)
    RETURNS TABLE (index regclass, columns name[], is_plain boolean, is_exclusion boolean, is_surrogate boolean)
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT i.indexrelid::regclass, c.columns,
           i.indpred IS NULL AND i.indexprs IS NULL AND i.indisunique,
           i.indisexclusion,
           _tenancy.is_surrogate_key(i.indexrelid)
    FROM pg_index i
    CROSS JOIN LATERAL (
        SELECT array_agg(a.attname ORDER BY array_position(i.indkey::int2[], a.attnum), a.attnum) AS columns
        FROM pg_attribute a
        WHERE a.attrelid = i.indrelid
          AND (a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
               OR (i.indexprs IS NOT NULL OR i.indpred IS NOT NULL) AND EXISTS (
                   SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = i.indexrelid
                     AND d.refclassid = 'pg_class'::regclass AND d.refobjid = i.indrelid AND d.refobjsubid = a.attnum))
    ) c
    WHERE i.indrelid = relation AND (i.indisunique OR i.indisexclusion) AND i.indislive
      AND NOT coalesce(tenant_column = ANY (c.columns), false)
    ORDER BY i.indisprimary DESC, i.indexrelid::regclass::text
$$;
COMMENT ON FUNCTION _tenancy.keys_across_tenants(regclass, name) IS
'the unique indexes and exclusion constraints that compare the rows of all tenants';

-- A row of a tenant, like the template, but with keys of its own.
CREATE FUNCTION _tenancy.make_row(relation regclass, tenant_column name, tenant text, template jsonb, attempt integer)
    RETURNS jsonb
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH partition_columns AS (
        SELECT a.attname
        FROM _tenancy.tree(make_row.relation) t JOIN pg_partitioned_table p ON p.partrelid = t.relation
        JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = ANY (p.partattrs::int2[])
    ), varied AS (
        SELECT DISTINCT k.column_name
        FROM (SELECT u.column_name, EXISTS (SELECT FROM partition_columns p WHERE p.attname = u.column_name) AS partitions,
                     bool_and(EXISTS (SELECT FROM partition_columns p WHERE p.attname = u.column_name)) OVER (PARTITION BY u.index) AS all_partition
              FROM (SELECT x.index, unnest(x.columns) AS column_name
                    FROM _tenancy.keys_across_tenants(make_row.relation, make_row.tenant_column) x) u) k
        WHERE k.all_partition OR NOT k.partitions
    ), columns AS (
        SELECT a.attname, a.attnotnull OR t.typnotnull AS required, a.attname = make_row.tenant_column AS is_tenant,
               v.column_name IS NOT NULL AS is_varied,
               a.attidentity <> '' OR coalesce(pg_get_expr(d.adbin, d.adrelid) LIKE 'nextval(%', false) AS is_counted,
               d.adbin IS NOT NULL AS has_default, a.atttypid, a.atttypmod,
               make_row.template ->> a.attname AS present
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
        LEFT JOIN varied v ON v.column_name = a.attname
        WHERE a.attrelid = make_row.relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
    )
    SELECT coalesce(jsonb_object_agg(c.attname, c.value), '{}')
    FROM (SELECT x.attname,
                 CASE WHEN x.is_tenant THEN coalesce(to_jsonb(make_row.tenant), 'null')
                      WHEN x.is_varied OR make_row.template IS NULL AND x.is_counted
                          THEN coalesce(to_jsonb(_tenancy.fresh_value(x.atttypid, x.atttypmod, x.present, make_row.attempt)),
                                        make_row.template -> x.attname, to_jsonb(_tenancy.any_value(x.atttypid, x.atttypmod)))
                      WHEN make_row.template IS NOT NULL THEN make_row.template -> x.attname
                      WHEN x.required AND NOT x.has_default THEN to_jsonb(_tenancy.any_value(x.atttypid, x.atttypmod)) END AS value
          FROM columns x) c
    WHERE c.value IS NOT NULL OR make_row.template IS NOT NULL
$$;
COMMENT ON FUNCTION _tenancy.make_row(regclass, name, text, jsonb, integer) IS
'a row of a tenant, like the template, but with keys of its own';

-- INSERT of the row that is its parameter, naming those of its columns that the role may insert.
CREATE FUNCTION _tenancy.insert_of(relation regclass, given jsonb, role name DEFAULT NULL) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('INSERT INTO %s AS t (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM pg_catalog.jsonb_populate_record(NULL::%s, $1) AS r',
                  insert_of.relation, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum),
                  string_agg('r.' || quote_ident(a.attname), ', ' ORDER BY a.attnum), insert_of.relation)
    FROM pg_attribute a
    WHERE a.attrelid = insert_of.relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
      AND insert_of.given ? a.attname
      AND (insert_of.role IS NULL OR has_column_privilege(insert_of.role, a.attrelid, a.attnum, 'INSERT')
           -- Without any, let the attempt be refused by PostgreSQL.
           OR NOT has_any_column_privilege(insert_of.role, a.attrelid, 'INSERT'))
$$;
COMMENT ON FUNCTION _tenancy.insert_of(regclass, jsonb, name) IS 'the INSERT of a row, of the columns that a role may insert';

-- Puts a row of a tenant into a table, as the caller: without its triggers and foreign keys, which concern nobody here. What the row
-- refers to is put there as well, so that the foreign keys are in order when the role touches the row.
CREATE FUNCTION _tenancy.plant_row(
    relation regclass, tenant_column name, tenant text, forced jsonb DEFAULT NULL, OUT sample jsonb, OUT obstacle text)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    template jsonb;
    given jsonb;
    replication_role text := current_setting('session_replication_role');
    reference record;
    is_there boolean;
BEGIN
    EXECUTE format('SELECT to_jsonb(t.*) FROM %s AS t LIMIT 1', relation) INTO template;
    FOR attempt IN 1..3 LOOP
        BEGIN
            given := _tenancy.make_row(relation, tenant_column, tenant, template, attempt) || coalesce(forced, '{}');
            PERFORM set_config('session_replication_role', 'replica', true);
            EXECUTE _tenancy.insert_of(relation, given)
                || ' RETURNING jsonb_build_object(''tenant'', $2, ''relation'', t.tableoid, ''ctid'', t.ctid::text, ''row'', to_jsonb(t.*))'
                INTO sample USING given, tenant;
            PERFORM set_config('session_replication_role', replication_role, true);
            obstacle := CASE WHEN sample IS NULL THEN 'a trigger or rule kept the row out' END;
        EXCEPTION WHEN OTHERS THEN
            obstacle := coalesce(obstacle, SQLERRM);
        END;
        EXIT WHEN sample IS NOT NULL;
    END LOOP;
    IF sample IS NULL OR forced IS NOT NULL THEN
        RETURN;
    END IF;
    FOR reference IN SELECT * FROM _tenancy.references_of(relation) LOOP
        SELECT jsonb_object_agg(c.parent, sample -> 'row' -> c.child) INTO given
        FROM unnest(reference.columns, reference.parent_columns) AS c(child, parent);
        CONTINUE WHEN EXISTS (SELECT FROM jsonb_each(given) AS v WHERE v.value = 'null');
        EXECUTE format('SELECT EXISTS (SELECT FROM %s AS t WHERE %s)', reference.parent,
            (SELECT string_agg(format('t.%I = %L', v.key, v.value), ' AND ') FROM jsonb_each_text(given) AS v)) INTO is_there;
        IF NOT is_there THEN
            PERFORM _tenancy.plant_row(reference.parent, (_tenancy.playground(reference.parent)).tenant_column, tenant, given);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _tenancy.plant_row(regclass, name, text, jsonb) IS
'puts a made-up row of a tenant, with forced values, into a table; returns it and where it is, or why it cannot be';

-- The foreign keys of a table.
CREATE FUNCTION _tenancy.references_of(relation regclass)
    RETURNS TABLE (name name, parent regclass, columns name[], parent_columns name[], names text[])
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT k.conname, k.confrelid::regclass, c.columns, c.parent_columns,
           -- An error names the constraint of the partition.
           ARRAY(SELECT p.conname::text FROM pg_constraint p JOIN _tenancy.tree(k.conrelid) t ON t.relation = p.conrelid
                 WHERE p.contype = 'f' AND p.conkey = k.conkey AND p.confrelid IN (SELECT x.relation FROM _tenancy.tree(k.confrelid) x))
    FROM pg_constraint k
    CROSS JOIN LATERAL (
        SELECT array_agg(a.attname ORDER BY p.place) AS columns, array_agg(b.attname ORDER BY p.place) AS parent_columns
        FROM unnest(k.conkey, k.confkey) WITH ORDINALITY AS p(child, parent, place)
        JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = p.child
        JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = p.parent) c
    -- A key to a partitioned table has one more for each of its partitions.
    WHERE k.contype = 'f' AND k.conrelid = references_of.relation
      AND NOT EXISTS (SELECT FROM pg_constraint u WHERE u.oid = k.conparentid AND u.conrelid = k.conrelid)
    ORDER BY k.conname
$$;
COMMENT ON FUNCTION _tenancy.references_of(regclass) IS 'the foreign keys of a table';

-- A row that a tenant has in a table.
CREATE FUNCTION _tenancy.find_row(relation regclass, condition text, tenant text) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    sample jsonb;
BEGIN
    EXECUTE format('SELECT jsonb_build_object(''tenant'', $1, ''relation'', t.tableoid, ''ctid'', t.ctid::text, ''row'', to_jsonb(t.*))
                    FROM %s AS t WHERE %s LIMIT 1', relation, condition) INTO sample USING tenant;
    RETURN sample;
END
$$;
COMMENT ON FUNCTION _tenancy.find_row(regclass, text, text) IS 'a row of a table that satisfies a condition';

-- The condition that t is the row, by its primary key or another unique key; null where it has none.
CREATE FUNCTION _tenancy.is_row(relation regclass, given jsonb) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (SELECT string_agg(format('t.%I = %L', a.attname, is_row.given ->> a.attname), ' AND ' ORDER BY a.attnum)
            FROM pg_attribute a
            WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]))
    FROM pg_index i
    WHERE i.indrelid = is_row.relation AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
      AND NOT EXISTS (SELECT FROM pg_attribute a
                      WHERE a.attrelid = i.indrelid AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                        AND is_row.given ->> a.attname IS NULL)
    ORDER BY i.indisprimary DESC, i.indexrelid
    LIMIT 1
$$;
COMMENT ON FUNCTION _tenancy.is_row(regclass, jsonb) IS 'the condition that t is the row, by a unique key';

-- The value of a parameter that is set for a role, for the database or for both, and where: the one that goes before the others.
CREATE FUNCTION _tenancy.setting_of(role name, parameter text, OUT value text, OUT origin text)
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT substr(c.setting, length(parameter) + 2),
           CASE WHEN s.setrole <> 0 THEN format('ALTER ROLE %I%s', setting_of.role,
                    CASE WHEN s.setdatabase <> 0 THEN ' IN DATABASE ' || quote_ident(current_database()) ELSE '' END)
                WHEN s.setdatabase <> 0 THEN 'ALTER DATABASE ' || quote_ident(current_database())
                ELSE 'ALTER ROLE ALL' END
    FROM pg_db_role_setting s, unnest(s.setconfig) AS c(setting)
    WHERE s.setdatabase IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
      AND s.setrole IN (0, (SELECT r.oid FROM pg_roles r WHERE r.rolname = setting_of.role))
      AND lower(c.setting) LIKE replace(lower(parameter), '_', '\_') || '=%'
    ORDER BY s.setrole <> 0 DESC, s.setdatabase <> 0 DESC
    LIMIT 1
$$;
COMMENT ON FUNCTION _tenancy.setting_of(name, text) IS 'the value that ALTER ROLE or ALTER DATABASE gives a parameter for a role, and which of them';

-- Whether a role can be a tenant by signing in: it may call authenticate, and somebody's tokens are trusted. Null where the caller may not know.
CREATE FUNCTION _tenancy.signs_in(role name) RETURNS boolean
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT has_function_privilege(role, 'tenancy.authenticate(jsonb, boolean)', 'EXECUTE') THEN
        RETURN false;
    ELSIF NOT has_table_privilege('tenancy.issuers', 'SELECT') THEN
        RETURN NULL;
    END IF;
    RETURN EXISTS (SELECT FROM tenancy.issuers);
END
$$;
COMMENT ON FUNCTION _tenancy.signs_in(name) IS
'whether a role can be a tenant by tenancy.authenticate(); null where the caller may not know whether any issuer is trusted';

-- A tenant id that is not in use, of a form that the column can hold.
CREATE FUNCTION _tenancy.fresh_tenant(relation regclass, tenant_column name) RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    type oid;
    width integer;
    id text;
    is_taken boolean;
BEGIN
    SELECT a.atttypid, CASE WHEN a.atttypid = 'varchar'::regtype AND a.atttypmod > 4 THEN a.atttypmod - 4 ELSE 32 END INTO type, width
    FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = tenant_column;
    FOR attempt IN 1..100 LOOP
        id := CASE WHEN type = 'uuid'::regtype THEN gen_random_uuid()::text
                   WHEN type IN ('bigint'::regtype, 'integer'::regtype) THEN (2000000000 + floor(random() * 147000000))::bigint::text
                   ELSE left(replace(gen_random_uuid()::text, '-', ''), width) END;
        EXECUTE format('SELECT EXISTS (SELECT FROM _tenancy.tenants n WHERE n.id = $1) OR EXISTS (SELECT FROM %s t WHERE t.%I = %L)',
                       relation, tenant_column, id) INTO is_taken USING id;
        IF NOT is_taken THEN
            RETURN tenancy.create_tenant(id, 'throw-away tenant of prove()');
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _tenancy.fresh_tenant(regclass, name) IS 'registers a tenant whose id nobody has and the column can hold';
