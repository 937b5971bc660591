-- What a partition of one tenant consists of, one question a function. Re-runnable.

-- Raises an error unless tenants of the table can have partitions of their own.
CREATE FUNCTION _tenancy.check_partitioned(relation regclass) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kind text;
    tenant_column name;
    part pg_partitioned_table;
    where_ jsonb := jsonb_build_object('relation', relation::text);
BEGIN
    SELECT p.kind, p.tenant_column INTO kind, tenant_column FROM _tenancy.protection(check_partitioned.relation) p;
    IF NOT FOUND THEN
        PERFORM _tenancy.raise('RELATION_NOT_PROTECTED', format('table %s is not protected', relation), where_,
            format('Say first whose its rows are: SELECT tenancy.protect(%L);', relation));
    ELSIF kind = 'system' THEN
        PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('table %s of kind system holds no tenant''s rows', relation), where_);
    END IF;
    SELECT * INTO part FROM pg_partitioned_table p WHERE p.partrelid = check_partitioned.relation;
    IF NOT FOUND THEN
        PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('table %s is not partitioned', relation), where_,
            format('Make it the default partition of a new table, PARTITION BY LIST (%I): see the README, A partition of its own.', tenant_column));
    ELSIF part.partstrat <> 'l' OR part.partattrs[0] <> (
        SELECT a.attnum FROM pg_attribute a WHERE a.attrelid = part.partrelid AND a.attname = tenant_column AND NOT a.attisdropped) THEN
        PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED',
            format('table %s is partitioned %s', relation, 'BY ' || pg_get_partkeydef(relation)), where_ || jsonb_build_object('column', tenant_column),
            CASE WHEN part.partstrat = 'h' THEN 'Each of its partitions has the rows of many tenants, chosen by a hash. ' ELSE '' END
            || format('Tenants can have partitions of their own where it is PARTITION BY LIST (%I).', tenant_column));
    ELSIF part.partcollation[0] <> (SELECT a.attcollation FROM pg_attribute a WHERE a.attrelid = part.partrelid AND a.attname = tenant_column) THEN
        PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('table %s is partitioned by another collation than that of column %I', relation, tenant_column),
            where_ || jsonb_build_object('column', tenant_column));
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.check_partitioned(regclass) IS 'raises an error unless tenants of a table can have partitions of their own';

-- A tenant id as a constant of the type of the tenant column; raises an error where it has no form of that type.
CREATE FUNCTION _tenancy.tenant_constant(relation regclass, tenant_column name, tenant_id text) RETURNS text
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    type regtype := (SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = tenant_column);
    has_form boolean := true;
BEGIN
    -- As the registry keeps them: see _tenancy.tenants.
    IF type = 'uuid'::regtype THEN
        has_form := tenant_id ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$';
    ELSIF type IN ('bigint'::regtype, 'integer'::regtype) THEN
        has_form := tenant_id ~ '^(0|-?[1-9][0-9]{0,18})$' AND tenant_id::numeric BETWEEN
            CASE type WHEN 'bigint'::regtype THEN -9223372036854775808 ELSE -2147483648 END
            AND CASE type WHEN 'bigint'::regtype THEN 9223372036854775807 ELSE 2147483647 END;
    END IF;
    IF NOT has_form THEN
        PERFORM _tenancy.raise('TENANT_ID_INVALID', format('tenant id "%s" is not %s %s', tenant_id, CASE type WHEN 'integer'::regtype THEN 'an' ELSE 'a' END, type),
            jsonb_build_object('tenant_id', tenant_id, 'type', type::text), 'The table''s tenant column and the tenant''s id must be of the same form.');
    END IF;
    RETURN format('%L::%s', tenant_id, type);
END
$$;
COMMENT ON FUNCTION _tenancy.tenant_constant(regclass, name, text) IS 'a tenant id as a constant of the type of a tenant column';

-- The partition that rows of a tenant are in, or would be, and the other values of its list; none of the default partition.
CREATE FUNCTION _tenancy.partition_for(relation regclass, tenant_column name, tenant_id text, OUT partition regclass, OUT others text)
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    type regtype := (SELECT a.atttypid FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = tenant_column);
    item record;
    is_found boolean;
BEGIN
    FOR item IN
        SELECT i.inhrelid::regclass AS part, b.bound
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid, LATERAL pg_get_expr(c.relpartbound, c.oid) AS b(bound)
        WHERE i.inhparent = relation AND NOT i.inhdetachpending AND (b.bound = 'DEFAULT' OR strpos(b.bound, tenant_id) > 0)
        ORDER BY b.bound = 'DEFAULT'
    LOOP
        partition := item.part;
        EXIT WHEN item.bound = 'DEFAULT';
        EXECUTE format('SELECT coalesce(bool_or(v = %1$L), false), string_agg(quote_nullable(v), '', '' ORDER BY v) FILTER (WHERE v IS DISTINCT FROM %1$L)
                        FROM unnest(ARRAY[%2$s]::%3$s[]) AS l(v)', tenant_id, substring(item.bound FROM '^FOR VALUES IN \((.*)\)$'), type)
            INTO is_found, others;
        IF is_found THEN
            RETURN;
        END IF;
        partition := NULL;
    END LOOP;
    others := CASE WHEN partition IS NOT NULL THEN 'DEFAULT' END;
END
$$;
COMMENT ON FUNCTION _tenancy.partition_for(regclass, name, text) IS
'the partition that rows of a tenant are in, and the other values of its list; DEFAULT for those of the default partition';

-- Raises an error where rows cannot be moved out of a partition.
CREATE FUNCTION _tenancy.check_source(relation regclass, source regclass, others text) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    class pg_class := (SELECT c FROM pg_class c WHERE c.oid = source);
    where_ jsonb := jsonb_build_object('relation', relation::text, 'partition', source::text);
    referenced_by regclass;
BEGIN
    IF class.relkind <> 'r' THEN
        PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED',
            format('partition %s %s', source, CASE class.relkind WHEN 'p' THEN 'is partitioned itself' ELSE 'is a foreign table' END), where_,
            CASE class.relkind WHEN 'p' THEN 'Nothing tells how a partition of one tenant should be partitioned: make it, and move the rows, by hand.' END);
    ELSIF class.relam <> (SELECT m.oid FROM pg_am m WHERE m.amname = 'heap') THEN
        PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('partition %s is of another access method than heap', source), where_);
    ELSIF class.relowner <> (SELECT c.relowner FROM pg_class c WHERE c.oid = check_source.relation) THEN
        PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('partition %s is of another owner than its table', source), where_,
            format('ALTER TABLE %s OWNER TO %s;', source, (SELECT c.relowner::regrole FROM pg_class c WHERE c.oid = check_source.relation)));
    END IF;
    -- PostgreSQL would look for the rows there, and not find them.
    SELECT k.conrelid INTO referenced_by FROM pg_constraint k WHERE k.confrelid = source AND k.contype = 'f' AND k.conparentid = 0 LIMIT 1;
    IF FOUND THEN
        PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('partition %s is referenced by %s, which knows no other', source, referenced_by), where_,
            format('Let the foreign key reference the table instead: ALTER TABLE %s ADD FOREIGN KEY (...) REFERENCES %s;', referenced_by, relation));
    END IF;
    SELECT k.conrelid INTO referenced_by FROM pg_constraint k WHERE k.confrelid = check_source.relation AND k.contype = 'f' LIMIT 1;
    IF FOUND AND others <> 'DEFAULT' THEN
        -- PostgreSQL does not detach a partition while its rows are referenced.
        PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('partition %s is of other tenants as well, and referenced by %s', source, referenced_by), where_,
            'Out of the default partition, rows can be moved.');
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.check_source(regclass, regclass, text) IS 'raises an error where rows cannot be moved out of a partition';

-- How a move of rows out of a partition is published: by its root, where nothing of it must be; by the partitions, where it must be; or not at
-- all. Raises an error where it can be neither.
CREATE FUNCTION _tenancy.is_published_by_root(relation regclass, source regclass) RETURNS boolean
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    item record;
    by_root name;
    by_partition name;
BEGIN
    IF current_setting('wal_level') <> 'logical' THEN
        RETURN false;
    END IF;
    FOR item IN
        SELECT p.pubname, p.pubviaroot,
               EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = relation) AS has_root,
               EXISTS (SELECT FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid = source) AS has_partition,
               p.puballtables OR EXISTS (SELECT FROM pg_publication_namespace n JOIN pg_class c ON c.relnamespace = n.pnnspid
                                         WHERE n.pnpubid = p.oid AND c.oid IN (relation, source)) AS is_wide
        FROM pg_publication p ORDER BY p.pubname
    LOOP
        IF item.pubviaroot AND item.is_wide THEN
            PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('table %s is published by publication "%s" through its root, with tables that are not named', relation, item.pubname),
                jsonb_build_object('relation', relation::text, 'publication', item.pubname),
                'The copies of the rows would be published. Name the tables of such a publication: FOR TABLE ...');
        ELSIF item.pubviaroot AND item.has_root THEN
            by_root := item.pubname;
        ELSIF item.has_root OR item.has_partition OR item.is_wide THEN
            by_partition := item.pubname;
        END IF;
    END LOOP;
    IF by_root IS NOT NULL AND by_partition IS NOT NULL THEN
        PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('table %s is published by "%s" through its root, and by "%s" through its partitions', relation, by_root, by_partition),
            jsonb_build_object('relation', relation::text, 'publication', by_root),
            'To the one nothing has changed, to the other rows have moved: make publish_via_partition_root the same for both.');
    END IF;
    RETURN by_root IS NOT NULL;
END
$$;
COMMENT ON FUNCTION _tenancy.is_published_by_root(regclass, regclass) IS 'whether changes of a partition are published as those of its root';

-- Makes a table that will be a partition: as PostgreSQL makes one, but for its indexes and what comes when it is attached; in the place of the
-- partition that the rows come from, and with its parameters; protected as its parent; granted to nobody.
CREATE FUNCTION _tenancy.make_partition(relation regclass, source regclass, name text, tablespace text, contents text) RETURNS regclass
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    -- What protection says of each step is nothing that the caller has asked for.
    SET search_path = pg_catalog, pg_temp SET default_tablespace = '' SET client_min_messages = warning
AS $$
DECLARE
    class pg_class := (SELECT c FROM pg_class c WHERE c.oid = make_partition.relation);
    -- The partition, or the table itself where there is none.
    model pg_class := (SELECT c FROM pg_class c WHERE c.oid = coalesce(make_partition.source, make_partition.relation));
    settings text := (
        SELECT string_agg(o.prefix || split_part(e, '=', 1) || ' = ' || quote_literal(substr(e, strpos(e, '=') + 1)), ', ')
        FROM (VALUES ('', model.reloptions),
                     ('toast.', (SELECT t.reloptions FROM pg_class t WHERE t.oid = model.reltoastrelid))) AS o(prefix, reloptions), unnest(o.reloptions) AS e
        WHERE model.relkind = 'r');
    place text := coalesce(make_partition.tablespace, (SELECT s.spcname FROM pg_tablespace s WHERE s.oid = model.reltablespace));
    part regclass;
    grantee text;
    own record;
    step record;
BEGIN
    EXECUTE format('CREATE %sTABLE %s.%I (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION) USING heap%s%s',
        CASE model.relpersistence WHEN 'u' THEN 'UNLOGGED ' ELSE '' END, class.relnamespace::regnamespace, make_partition.name, make_partition.relation,
        ' WITH (' || settings || ')', ' TABLESPACE ' || quote_ident(place));
    part := format('%s.%I', class.relnamespace::regnamespace, make_partition.name);
    -- A schema whose tables are protected has done so, perhaps as another kind, and with an index.
    IF _tenancy.is_protected(part) THEN
        PERFORM tenancy.unprotect(part);
    END IF;
    PERFORM _tenancy.begin_change(part);
    IF class.relowner <> (SELECT c.relowner FROM pg_class c WHERE c.oid = part) THEN
        EXECUTE format('ALTER TABLE %s OWNER TO %s', part, class.relowner::regrole);
    END IF;
    FOR grantee IN SELECT DISTINCT CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE x.grantee::regrole::text END
                   FROM pg_class c, aclexplode(c.relacl) x WHERE c.oid = part AND x.grantee <> c.relowner LOOP
        EXECUTE format('REVOKE ALL ON %s FROM %s CASCADE', part, grantee);
    END LOOP;
    SELECT p.* INTO STRICT own FROM _tenancy.protection(make_partition.relation) p;
    -- The index and the reference come with the table's own.
    SELECT * INTO step FROM _tenancy.apply(part, own.kind, own.tenant_column, own.options || '{"create_index": false, "reference": false}',
                                           (own.undo ->> 'default')::boolean, NULL);
    IF own.kind IN ('tenant', 'audit') AND NOT (own.undo ->> 'not_null')::boolean THEN
        step.undo := step.undo || '{"own_not_null": true}';
    END IF;
    PERFORM _tenancy.add_protection(part, own.kind, own.tenant_column::text, own.options, step.undo);
    PERFORM _tenancy.end_change(part);
    -- PostgreSQL need not read the rows to attach it.
    EXECUTE format('ALTER TABLE %s ADD CONSTRAINT tenancy_isolated CHECK (%s)', part, contents);
    RETURN part;
END
$$;
COMMENT ON FUNCTION _tenancy.make_partition(regclass, regclass, text, text, text) IS 'makes a table that will be a partition, protected as its parent';

-- Gives it the indexes of its parent, with the constraints that they belong to, before it is attached: PostgreSQL would make them then. As the owner: what they
-- are made of is read anew, and called.
CREATE FUNCTION _tenancy.make_indexes(relation regclass, part regclass) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET default_tablespace = ''
AS $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT pg_get_constraintdef(k.oid) AS definition, pg_get_indexdef(c.oid) AS command, i.indisunique,
               format('CREATE %sINDEX %I ON ONLY %s ', CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, c.relname, make_indexes.relation) AS head,
               coalesce((SELECT s.spcname FROM pg_tablespace s WHERE s.oid = c.reltablespace), '') AS place
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
        LEFT JOIN pg_constraint k ON k.conindid = c.oid AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x')
        WHERE i.indrelid = make_indexes.relation ORDER BY i.indisprimary DESC, c.oid
    LOOP
        PERFORM set_config('default_tablespace', item.place, true);
        IF item.definition IS NOT NULL THEN
            PERFORM _tenancy.run_as_owner(part, format('ALTER TABLE %s ADD %s', part, item.definition), false);
        ELSIF starts_with(item.command, item.head) THEN
            PERFORM _tenancy.run_as_owner(part, format('CREATE %sINDEX ON %s %s', CASE WHEN item.indisunique THEN 'UNIQUE ' ELSE '' END, part,
                                                       substr(item.command, length(item.head) + 1)), false);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _tenancy.make_indexes(regclass, regclass) IS 'gives a table that will be a partition the indexes of its parent';

-- That a row n and a row d of the table have the same key, by an index that every row has a place of its own in; null where there is none.
CREATE FUNCTION _tenancy.same_key(relation regclass) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT string_agg(format('n.%1$I OPERATOR(%2$s.%3$s) d.%1$I', a.attname, o.oprnamespace::regnamespace, o.oprname), ' AND ' ORDER BY k.place)
    FROM pg_index i
    CROSS JOIN LATERAL unnest(i.indkey::smallint[], i.indclass::oid[], i.indcollation::oid[]) WITH ORDINALITY AS k(attnum, class, collated, place)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    JOIN pg_opclass c ON c.oid = k.class
    JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amopstrategy = 3 AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
    JOIN pg_operator o ON o.oid = m.amopopr
    WHERE i.indrelid = relation AND k.place <= i.indnkeyatts
      AND i.indisunique AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
    GROUP BY i.indexrelid, i.indisprimary, i.indnkeyatts
    HAVING count(*) = i.indnkeyatts AND bool_and(a.attnotnull) AND bool_and(k.collated = a.attcollation)
    ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1
$$;
COMMENT ON FUNCTION _tenancy.same_key(regclass) IS 'the condition that two rows n and d of a table have the same key';

-- The replica identity of a table, as ALTER TABLE takes it; or that of another partition that is like it.
CREATE FUNCTION _tenancy.replica_identity(relation regclass, other regclass DEFAULT NULL) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE c.relreplident WHEN 'd' THEN 'DEFAULT' WHEN 'n' THEN 'NOTHING' WHEN 'f' THEN 'FULL'
        ELSE coalesce((
            SELECT format('USING INDEX %I', x.relname) FROM pg_index i LEFT JOIN pg_inherits h ON h.inhrelid = i.indexrelid
            JOIN pg_index n ON n.indrelid = coalesce(other, relation)
            JOIN pg_class x ON x.oid = n.indexrelid
            WHERE i.indrelid = relation AND i.indisreplident AND (n.indexrelid = i.indexrelid OR EXISTS (
                SELECT FROM pg_inherits o WHERE o.inhrelid = n.indexrelid AND o.inhparent = h.inhparent))), 'FULL') END
    FROM pg_class c WHERE c.oid = relation
$$;
COMMENT ON FUNCTION _tenancy.replica_identity(regclass, regclass) IS 'the replica identity of a table, or that of another partition that is like it';

-- Gives a table that will be a partition the foreign keys of its parent, to other tables or to itself. PostgreSQL would make them, and validate them
-- with our rights: casts of the owner's are called for that.
CREATE FUNCTION _tenancy.add_foreign_keys(relation regclass, part regclass, to_itself boolean) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT k.conname AS name, pg_get_constraintdef(k.oid) AS definition FROM pg_constraint k
        WHERE k.conrelid = add_foreign_keys.relation AND k.contype = 'f' AND k.conparentid = 0 AND k.convalidated
          AND (k.confrelid = k.conrelid) = to_itself ORDER BY k.oid
    LOOP
        EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s NOT VALID', part, item.name, item.definition);
        PERFORM _tenancy.run_as_owner(part, format('ALTER TABLE %s VALIDATE CONSTRAINT %I', part, item.name), true);
    END LOOP;
END
$$;
COMMENT ON FUNCTION _tenancy.add_foreign_keys(regclass, regclass, boolean) IS
'gives a table that will be a partition the foreign keys of its parent, to itself or to other tables';
