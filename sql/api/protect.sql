-- Protecting tables, and putting back what that changed. Re-runnable. Both run with the rights of the caller, so
-- PostgreSQL itself checks every step.

-- Raises an error unless the relation is one that can be protected by its caller.
CREATE FUNCTION _tenancy.check_relation(relation regclass) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT t.relation, t.depth, c.relkind, c.relpersistence, n.nspname,
               pg_has_role(c.relowner, 'USAGE') AS owned,
               (SELECT i.inhparent::regclass FROM pg_inherits i WHERE i.inhrelid = c.oid ORDER BY i.inhseqno LIMIT 1) AS parent
        FROM _tenancy.tree(check_relation.relation) t
        JOIN pg_class c ON c.oid = t.relation JOIN pg_namespace n ON n.oid = c.relnamespace
        ORDER BY t.depth
    LOOP
        IF item.relkind NOT IN ('r', 'p') THEN
            PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('%s is not a table', item.relation),
                jsonb_build_object('relation', item.relation::text, 'relkind', item.relkind),
                CASE item.relkind
                    WHEN 'v' THEN format('Protect the tables that the view reads, and let it read them as its caller: '
                                         'ALTER VIEW %s SET (security_invoker = true);', item.relation)
                    WHEN 'm' THEN 'A materialized view holds the rows of all tenants: grant it to no application role.'
                    WHEN 'f' THEN 'Row-level security does not reach a foreign table: protect the table on the remote server.'
                    ELSE 'Only tables and partitioned tables can be protected.' END);
        ELSIF item.nspname IN ('_tenancy', 'tenancy', 'pg_catalog', 'information_schema', 'pg_toast') THEN
            PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('%s is a table of the system', item.relation),
                jsonb_build_object('relation', item.relation::text));
        ELSIF item.relpersistence = 't' THEN
            PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('%s is a temporary table', item.relation),
                jsonb_build_object('relation', item.relation::text), 'No other session reaches a temporary table.');
        ELSIF NOT item.owned THEN
            PERFORM _tenancy.raise('RELATION_NOT_OWNED', format('must be owner of table %s', item.relation),
                jsonb_build_object('relation', item.relation::text),
                'Call it as the owner of the table, or as a superuser.');
        ELSIF item.depth = 0 AND item.parent IS NOT NULL THEN
            PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED',
                format('%s is a partition or child of %s', item.relation, item.parent),
                jsonb_build_object('relation', item.relation::text, 'parent', item.parent::text),
                'A query on the parent does not use the policies of its children: name the parent, and its tree follows.');
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _tenancy.check_relation(regclass) IS 'raises an error unless the caller can protect the relation';

-- Raises an error unless the column can hold the tenant of a row.
CREATE FUNCTION _tenancy.check_column(relation regclass, tenant_column name) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    col record;
    where_ jsonb := jsonb_build_object('relation', relation::text, 'column', tenant_column);
BEGIN
    SELECT a.attgenerated, a.attidentity, format_type(a.atttypid, a.atttypmod) AS type, l.collisdeterministic INTO col
    FROM pg_attribute a LEFT JOIN pg_collation l ON l.oid = a.attcollation
    WHERE a.attrelid = relation AND a.attname = tenant_column AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND THEN
        PERFORM _tenancy.raise('TENANT_COLUMN_NOT_FOUND',
            format('column "%s" of table %s does not exist', tenant_column, relation), where_,
            format('Name it: SELECT tenancy.protect(%L, tenant_column => ''...''); or add it: ALTER TABLE %s ADD COLUMN %I text;',
                   relation, relation, tenant_column));
    ELSIF col.attgenerated <> '' OR col.attidentity <> '' THEN
        PERFORM _tenancy.raise('TENANT_COLUMN_NOT_SUPPORTED',
            format('column "%s" of table %s is generated', tenant_column, relation), where_,
            'The tenant column must be an ordinary column, whose default is the current tenant.');
    ELSIF _tenancy.isolation(relation, tenant_column) IS NULL THEN
        PERFORM _tenancy.raise('TENANT_COLUMN_NOT_SUPPORTED',
            format('column "%s" of table %s is of type %s', tenant_column, relation, col.type),
            where_ || jsonb_build_object('type', col.type),
            'A tenant column is of type text, varchar, uuid, bigint or integer.');
    ELSIF NOT col.collisdeterministic THEN
        PERFORM _tenancy.raise('TENANT_COLUMN_NOT_SUPPORTED',
            format('column "%s" of table %s has a nondeterministic collation', tenant_column, relation), where_,
            'Under it the ids of two tenants can be equal. Use a deterministic one, such as COLLATE "C".');
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.check_column(regclass, name) IS 'raises an error unless the column can hold the tenant of a row';

-- Raises an error that counts and names the rows that belong to no registered tenant.
CREATE FUNCTION _tenancy.check_rows(relation regclass, tenant_column name, null_allowed boolean) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    -- All rows are meant; where a policy would hide some, this is an error.
    SET row_security = off
AS $$
DECLARE
    ids text[];
    counts bigint[];
    unknown text[];
    null_rows bigint;
    unknown_rows bigint;
    worst jsonb;
BEGIN
    EXECUTE format('SELECT array_agg(id), array_agg(n), coalesce(sum(n) FILTER (WHERE id IS NULL), 0)
                    FROM (SELECT %I::text AS id, count(*) AS n FROM %s GROUP BY 1) AS g', tenant_column, relation)
        INTO ids, counts, null_rows;
    unknown := _tenancy.unregistered(ids);
    IF null_allowed THEN
        null_rows := 0;
    END IF;
    IF null_rows = 0 AND cardinality(unknown) = 0 THEN
        RETURN;
    END IF;
    SELECT coalesce(sum(o.rows), 0),
           coalesce(jsonb_agg(jsonb_build_object('tenant_id', o.id, 'rows', o.rows) ORDER BY o.rows DESC, o.id)
                    FILTER (WHERE o.place <= 10), '[]')
        INTO unknown_rows, worst
    FROM (SELECT a.id, a.n AS rows, row_number() OVER (ORDER BY a.n DESC, a.id) AS place
          FROM unnest(ids, counts) AS a(id, n) WHERE a.id = ANY (unknown)) AS o;
    PERFORM _tenancy.raise('ROWS_WITHOUT_TENANT',
        format('table %s has %s to no registered tenant', relation,
            CASE null_rows + unknown_rows WHEN 1 THEN '1 row that belongs'
                ELSE null_rows + unknown_rows || ' rows that belong' END),
        jsonb_build_object('relation', relation::text, 'column', tenant_column, 'null_rows', null_rows,
            'unregistered_tenants', cardinality(unknown), 'unregistered', worst),
        CASE WHEN null_rows > 0
            THEN format('Give them a tenant: UPDATE %s SET %I = ''...'' WHERE %I IS NULL;', relation, tenant_column, tenant_column)
            ELSE format('Register their tenants: SELECT tenancy.create_tenant(id) FROM (SELECT DISTINCT %I::text FROM %s) AS t(id) '
                        'WHERE id NOT IN (SELECT t.id FROM tenancy.tenants t);', tenant_column, relation) END);
END
$$;
COMMENT ON FUNCTION _tenancy.check_rows(regclass, name, boolean) IS
'raises an error that counts and names rows that belong to no registered tenant';

-- Brings one relation to the state of its kind; returns what it did, and what to put back.
CREATE FUNCTION _tenancy.apply(
    relation regclass, kind text, tenant_column name, options jsonb, inherits_default boolean,
    INOUT undo jsonb, OUT done text[])
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    class pg_class;
    isolation text := _tenancy.isolation(relation, tenant_column);
    index_name name;
    revoked jsonb := '[]';
    item record;
BEGIN
    done := '{}';
    SELECT * INTO STRICT class FROM pg_class c WHERE c.oid = relation;
    FOR item IN
        SELECT p.name FROM _tenancy.present_triggers(relation, kind) p
        WHERE p.name NOT IN (SELECT o.name FROM _tenancy.own_triggers(relation, kind) o)
    LOOP
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('trigger "%s" of table %s has a name that is kept for the extension', item.name, relation),
            jsonb_build_object('relation', relation::text, 'trigger', item.name), format('Give it another: ALTER TRIGGER %I ON %s RENAME TO ...;', item.name, relation));
    END LOOP;
    -- The first protection knows what there was before; a later one only adds what it had to do again.
    undo := coalesce(undo, jsonb_build_object(
        'row_security', class.relrowsecurity, 'forced', class.relforcerowsecurity,
        'not_null', false, 'own_not_null', false, 'index', NULL, 'own_index', NULL, 'reference', false, 'revoked', '[]'::jsonb,
        -- A partition that was made after its parent was protected has its default from there.
        'default', inherits_default AND EXISTS (
            SELECT FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
            WHERE d.adrelid = relation AND a.attname = tenant_column
              AND strpos(pg_get_expr(d.adbin, d.adrelid), _tenancy.column_default(relation, tenant_column)) > 0),
        'access', coalesce((options ->> 'access_policy')::boolean,
            -- Ours are not counted, whatever somebody has made of them.
            NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = relation AND p.polpermissive
                        AND p.polname NOT IN ('tenancy_isolation', 'tenancy_insert', 'tenancy_update', 'tenancy_delete', 'tenancy_access')))));
    IF options ->> 'access_policy' IS NOT NULL THEN
        undo := undo || jsonb_build_object('access', (options ->> 'access_policy')::boolean);
    END IF;

    IF kind IN ('tenant', 'audit') AND EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = tenant_column AND NOT a.attnotnull) THEN
        EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL', relation, tenant_column);
        done := done || format('column %I set NOT NULL', tenant_column);
    END IF;
    IF kind <> 'system' AND NOT EXISTS (
        SELECT FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = tenant_column AND a.atthasdef) THEN
        EXECUTE format('ALTER TABLE ONLY %s ALTER COLUMN %I SET DEFAULT %s',
                       relation, tenant_column, _tenancy.column_default(relation, tenant_column));
        undo := undo || '{"default": true}';
        done := done || format('column %I given the current tenant as its default', tenant_column);
    END IF;
    IF kind <> 'system' AND (options ->> 'create_index')::boolean
       AND NOT _tenancy.has_leading_index(relation, tenant_column) THEN
        index_name := left(format('tenancy_%s_tenant', class.relname), 60);
        -- Too long in bytes, or taken: the table's number is neither.
        IF octet_length(format('tenancy_%s_tenant', class.relname)) > 63
           OR EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = class.relnamespace AND c.relname = index_name) THEN
            index_name := format('tenancy_%s_tenant', class.oid);
        END IF;
        EXECUTE format('CREATE INDEX %I ON %s (%I)', index_name, relation, tenant_column);
        undo := undo || jsonb_build_object('index', index_name);
        done := done || format('index %I created', index_name);
    END IF;
    IF (options ->> 'reference')::boolean AND kind <> 'system' AND NOT EXISTS (
        SELECT FROM pg_constraint k
        WHERE k.conrelid = relation AND k.contype = 'f' AND k.confrelid = '_tenancy.tenants'::regclass) THEN
        IF NOT has_table_privilege('_tenancy.tenants', 'REFERENCES') THEN
            PERFORM _tenancy.raise('RELATION_NOT_OWNED', 'must be granted REFERENCES on the registry', '{}',
                format('GRANT REFERENCES ON _tenancy.tenants TO %I;', current_user));
        END IF;
        EXECUTE format('ALTER TABLE %s ADD CONSTRAINT tenancy_reference FOREIGN KEY (%I) REFERENCES _tenancy.tenants (%I)',
            relation, tenant_column,
            CASE _tenancy.column_default(relation, tenant_column)
                WHEN 'tenancy.current_tenant_uuid()' THEN 'id_uuid'
                WHEN 'tenancy.current_tenant_bigint()' THEN 'id_bigint' ELSE 'id' END);
        undo := undo || '{"reference": true}';
        done := done || 'foreign key tenancy_reference added'::text;
    END IF;

    -- Replace a policy of ours that was altered, drop one of another kind, create what is missing.
    FOR item IN
        SELECT coalesce(w.name, p.name) AS name, w.name IS NOT NULL AS wanted, p.name IS NOT NULL AS present,
               w.permissive, w.command, w.using_expr, w.check_expr,
               p.altered OR (w.permissive, w.command, w.using_expr, w.check_expr)
                   IS DISTINCT FROM (p.permissive, p.command, p.using_expr, p.check_expr) AS differs
        FROM (SELECT * FROM _tenancy.policies(kind, isolation, tenant_column) k
              WHERE k.name <> 'tenancy_access' OR (undo ->> 'access')::boolean) w
        FULL JOIN _tenancy.present_policies(relation) p ON p.name = w.name
        ORDER BY 1
    LOOP
        CONTINUE WHEN NOT item.differs;
        IF item.present THEN
            EXECUTE format('DROP POLICY %I ON %s', item.name, relation);
        END IF;
        IF item.wanted THEN
            EXECUTE format('CREATE POLICY %I ON %s AS %s FOR %s TO PUBLIC%s%s', item.name, relation,
                CASE WHEN item.permissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END, item.command,
                ' USING (' || item.using_expr || ')',
                -- A partition of a table that is distributed will be so, too.
                ' WITH CHECK (' || CASE WHEN item.check_expr = 'true' AND _tenancy.is_distributed(relation)
                                        THEN format('%s OR tenancy.deny_write()', isolation) ELSE item.check_expr END || ')');
        END IF;
        done := done || format('policy %I %s', item.name,
            CASE WHEN NOT item.wanted THEN 'dropped' WHEN item.present THEN 'restored' ELSE 'created' END);
    END LOOP;
    IF kind <> 'system' AND NOT (class.relrowsecurity AND class.relforcerowsecurity) THEN
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', relation);
        done := done || 'row-level security enabled and forced'::text;
    END IF;

    FOR item IN SELECT * FROM _tenancy.guard(kind) LOOP
        CONTINUE WHEN _tenancy.is_guarded(relation, kind);
        EXECUTE format('CREATE OR REPLACE TRIGGER tenancy_guard BEFORE %s ON %s FOR EACH STATEMENT EXECUTE FUNCTION %s()',
                       item.events, relation, item.function);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER tenancy_guard', relation);
        done := done || 'trigger tenancy_guard created'::text;
    END LOOP;

    FOR item IN SELECT * FROM _tenancy.unsafe_grants(relation, kind) LOOP
        EXECUTE format('REVOKE %s%s ON %s FROM %s CASCADE', item.privilege,
                       ' (' || quote_ident(item.column_name) || ')', relation, item.grantee);
        revoked := revoked || jsonb_build_object('grantee', item.grantee, 'privilege', item.privilege,
            'grantable', item.grantable, 'column', item.column_name);
        done := done || format('%s revoked from %s', item.privilege, item.grantee);
    END LOOP;
    undo := undo || jsonb_build_object('revoked', undo -> 'revoked' || revoked);
END
$$;
COMMENT ON FUNCTION _tenancy.apply(regclass, text, name, jsonb, boolean, jsonb) IS
'brings one relation to the state of its kind; returns what it did, and what unprotect puts back';

CREATE FUNCTION tenancy.protect(
    relation regclass, kind text DEFAULT 'tenant', tenant_column name DEFAULT 'tenant_id',
    reference boolean DEFAULT false, create_index boolean DEFAULT true, access_policy boolean DEFAULT NULL,
    foreign_keys text DEFAULT 'auto')
    RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    the_column name := CASE WHEN protect.kind <> 'system' THEN protect.tenant_column END;
    options jsonb := jsonb_build_object('reference', protect.reference, 'create_index', protect.create_index,
                                        'access_policy', protect.access_policy);
    -- NOT NULL recurses to children, so what each had before is noted before any is touched.
    nullable regclass[];
    -- An index of a partition's own that fits is attached to the parent's new one, and would go with it.
    own_indexes oid[];
    own_index name;
    saved_kind text;
    saved_column name;
    root_undo jsonb;
    done text[] := '{}';
    item record;
    step record;
BEGIN
    PERFORM _tenancy.refuse_in_context('protect');
    IF protect.relation IS NULL OR protect.kind IS NULL OR protect.tenant_column IS NULL
       OR protect.reference IS NULL OR protect.create_index IS NULL OR protect.foreign_keys IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'arguments of protect must not be null');
    END IF;
    IF protect.kind NOT IN ('tenant', 'shared', 'audit', 'system') THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('unknown kind "%s"', protect.kind), '{}',
            'The kinds are tenant, shared, audit and system.');
    END IF;
    IF protect.foreign_keys NOT IN ('auto', 'upgrade', 'keep') THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('unknown foreign_keys "%s"', protect.foreign_keys), '{}',
            'It is one of auto, upgrade and keep.');
    END IF;
    PERFORM _tenancy.check_relation(protect.relation);
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', protect.relation);
    PERFORM _tenancy.refuse_old_snapshot(ARRAY[protect.relation], NULL);
    -- Again under the lock: the tree may have grown while we waited.
    PERFORM _tenancy.check_relation(protect.relation);
    IF current_setting('citus.enable_ddl_propagation', true) = 'off' AND _tenancy.is_distributed(protect.relation) THEN
        PERFORM _tenancy.raise('NODE_NOT_READY', 'the nodes would not have the same policies', jsonb_build_object('parameter', 'citus.enable_ddl_propagation'),
            'SET citus.enable_ddl_propagation = on;');
    END IF;
    IF protect.kind = 'system' THEN
        IF EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = protect.relation AND a.attname = protect.tenant_column
                   AND a.attnum > 0 AND NOT a.attisdropped) THEN
            PERFORM _tenancy.raise('PARAMETER_INVALID',
                format('table %s has a tenant column "%s" and cannot be of kind system', protect.relation, protect.tenant_column),
                jsonb_build_object('relation', protect.relation::text, 'column', protect.tenant_column),
                'A system table holds no tenant''s rows. Use kind tenant or shared.');
        END IF;
    ELSE
        PERFORM _tenancy.check_column(protect.relation, the_column);
    END IF;

    SELECT p.kind, p.tenant_column, p.undo INTO saved_kind, saved_column, root_undo FROM _tenancy.protection(protect.relation) p;
    -- A column of the usual name that came later must not take the place of the one that isolates, because nobody named that.
    IF saved_column <> the_column THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('table %s is isolated by its column "%s"', protect.relation, saved_column),
            jsonb_build_object('relation', protect.relation::text, 'column', saved_column),
            format('Name it: SELECT tenancy.protect(%L, tenant_column => %L); to isolate by another: SELECT tenancy.unprotect(%L);',
                   protect.relation, saved_column, protect.relation));
    END IF;
    IF (saved_kind, saved_column) IS DISTINCT FROM (protect.kind, the_column) AND saved_kind IS NOT NULL THEN
        PERFORM tenancy.unprotect(protect.relation);
        root_undo := NULL;
    END IF;
    root_undo := coalesce(root_undo, '{"default": false, "not_null": false}');

    IF protect.kind <> 'system' THEN
        IF _tenancy.is_migrated(protect.relation) THEN
            NULL;  -- Its rows were checked before the table was locked.
        ELSIF NOT row_security_active(protect.relation) THEN
            PERFORM _tenancy.check_rows(protect.relation, the_column, protect.kind = 'shared');
        ELSIF NOT _tenancy.is_protected(protect.relation) THEN
            -- The rows that policies hide from their owner would go unchecked.
            PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED',
                format('existing rows of table %s cannot be checked under its row-level security', protect.relation),
                jsonb_build_object('relation', protect.relation::text),
                format('Call protect as a superuser, or first: ALTER TABLE %s NO FORCE ROW LEVEL SECURITY;', protect.relation));
        END IF;
    END IF;

    nullable := ARRAY(SELECT t.relation FROM _tenancy.tree(protect.relation) t
                      JOIN pg_attribute a ON a.attrelid = t.relation AND a.attname = the_column AND NOT a.attnotnull);
    own_indexes := ARRAY(SELECT i.indexrelid FROM _tenancy.tree(protect.relation) t JOIN pg_index i ON i.indrelid = t.relation
                         WHERE NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid));
    FOR item IN
        SELECT t.relation, t.depth, p.undo
        FROM _tenancy.tree(protect.relation) t LEFT JOIN LATERAL _tenancy.protection(t.relation) p ON true
        ORDER BY t.depth, t.relation::text
    LOOP
        PERFORM _tenancy.begin_change(item.relation);
        SELECT * INTO step FROM _tenancy.apply(item.relation, protect.kind, the_column, options,
                                               (root_undo ->> 'default')::boolean, item.undo);
        IF protect.kind IN ('tenant', 'audit') THEN
            IF item.relation = ANY (nullable) THEN
                step.undo := step.undo || '{"not_null": true}';
            ELSIF item.undo IS NULL AND NOT (root_undo ->> 'not_null')::boolean THEN
                step.undo := step.undo || '{"own_not_null": true}';
            END IF;
        END IF;
        SELECT c.relname INTO own_index
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_inherits h ON h.inhrelid = i.indexrelid
        WHERE i.indrelid = item.relation AND i.indexrelid = ANY (own_indexes);
        IF own_index IS NOT NULL THEN
            step.undo := step.undo || jsonb_build_object('own_index', own_index);
        END IF;
        PERFORM _tenancy.save_protection(item.relation, protect.kind, the_column::text, options, step.undo);
        PERFORM _tenancy.end_change(item.relation);
        done := done || ARRAY(SELECT CASE WHEN item.depth = 0 THEN d ELSE item.relation || ': ' || d END FROM unnest(step.done) d);
    END LOOP;

    done := done || _tenancy.scope_foreign_keys(protect.relation, protect.foreign_keys);

    IF cardinality(done) = 0 THEN
        RAISE NOTICE 'table % is already protected as kind %', protect.relation, protect.kind;
    ELSE
        RAISE NOTICE 'table % is protected as kind %', protect.relation, protect.kind
            USING DETAIL = array_to_string(done, E'\n');
    END IF;
END
$$;
COMMENT ON FUNCTION tenancy.protect(regclass, text, name, boolean, boolean, boolean, text) IS
'Puts a table, with its partitions and children, under one of four kinds: tenant (rows of one tenant each), shared (a NULL
tenant means for everybody, read-only to all), audit (insert and select only), system (no tenant; not writable in the
context of a tenant). Enables and forces row-level security, creates the policies tenancy_..., sets NOT NULL, a DEFAULT and
a leading index where they are missing, and revokes TRUNCATE, REFERENCES and TRIGGER (of kind system, TRIGGER) from all but the owner. reference adds
a foreign key to the registry; create_index false leaves the index to you; access_policy says whether to add the permissive
policy tenancy_access (default: where the table has no permissive policy). foreign_keys says what to do with foreign keys between
protected tables that lack the tenant column: auto adds it where both tables are small, and else says what to type; upgrade adds
it always; keep never. Says what it did in a NOTICE; calling it again
mends drift. Locks the table ACCESS EXCLUSIVE until the transaction ends, and reads all its rows.
Errors: RELATION_NOT_SUPPORTED 42809, RELATION_NOT_OWNED 42501, TENANT_COLUMN_NOT_FOUND 42703, TENANT_COLUMN_NOT_SUPPORTED
0A000, ROWS_WITHOUT_TENANT 23514, PARAMETER_INVALID 22023. Volatile. PUBLIC may call it, with the rights of the caller, who must own
the table; refused in the context of a tenant.';

-- Whether the migration of a table has checked its rows, and protects it now.
CREATE FUNCTION _tenancy.is_migrated(relation regclass) RETURNS boolean
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM _tenancy.migrations m WHERE m.relation = is_migrated.relation AND m.phase = 'protect')
$$;
COMMENT ON FUNCTION _tenancy.is_migrated(regclass) IS 'whether the migration of a table has checked its rows';

-- The saved protection of a table, for its owner.
CREATE FUNCTION _tenancy.protection(relation regclass)
    RETURNS TABLE (kind text, tenant_column name, undo jsonb, options jsonb)
    LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.kind, p.tenant_column, p.undo, p.options FROM _tenancy.protected p WHERE p.relation = protection.relation
$$;
COMMENT ON FUNCTION _tenancy.protection(regclass) IS 'the saved protection of a table: kind, column, what to put back, options';
COMMENT ON FUNCTION _tenancy.begin_change(regclass) IS
'lets changes of a table''s protection through until end_change or an error; the caller must own the table';
COMMENT ON FUNCTION _tenancy.end_change(oid) IS 'ends what begin_change began';

CREATE FUNCTION tenancy.unprotect(relation regclass) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    was_not_null regclass[];
    members regclass[];
    item record;
    lost record;
BEGIN
    PERFORM _tenancy.refuse_in_context('unprotect');
    IF unprotect.relation IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'relation must not be null');
    END IF;
    PERFORM _tenancy.check_relation(unprotect.relation);
    IF NOT _tenancy.is_protected(unprotect.relation) THEN
        PERFORM _tenancy.raise('RELATION_NOT_PROTECTED', format('table %s is not protected', unprotect.relation),
            jsonb_build_object('relation', unprotect.relation::text));
    END IF;
    IF EXISTS (SELECT FROM _tenancy.meters_of(unprotect.relation)) THEN
        PERFORM _tenancy.raise('RELATION_METERED', format('table %s is metered', unprotect.relation),
            jsonb_build_object('relation', unprotect.relation::text,
                               'resources', (SELECT jsonb_agg(m.resource) FROM _tenancy.meters_of(unprotect.relation) m)),
            format('Take its meters away first: SELECT tenancy.unmeter(%L, ''<resource>'');', unprotect.relation));
    END IF;
    IF _tenancy.is_watched(unprotect.relation) THEN
        PERFORM _tenancy.raise('PROTECTION_WEAKENED', format('table %s is watched for a cache', unprotect.relation),
            jsonb_build_object('relation', unprotect.relation::text, 'problem', 'it is watched for a cache'),
            format('End that first: SELECT tenancy.cache_unwatch(w.relation, w.resource_type) FROM tenancy.cache_watches w WHERE w.relation = %L::regclass;', unprotect.relation));
    END IF;
    IF EXISTS (SELECT FROM _tenancy.tree(unprotect.relation) t WHERE _tenancy.is_audited(t.relation)) THEN
        PERFORM _tenancy.raise('PROTECTION_WEAKENED', format('table %s is audited', unprotect.relation),
            jsonb_build_object('relation', unprotect.relation::text, 'problem', 'it is audited'),
            format('Have an administrator end that first: SELECT tenancy.unaudit(%L);', unprotect.relation));
    END IF;
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', unprotect.relation);
    PERFORM _tenancy.refuse_old_snapshot(ARRAY[unprotect.relation], NULL);
    SELECT t.relation, i.inhparent::regclass AS parent INTO item
    FROM _tenancy.tree(unprotect.relation) t JOIN pg_inherits i ON i.inhrelid = t.relation
    WHERE i.inhparent NOT IN (SELECT u.relation FROM _tenancy.tree(unprotect.relation) u) AND _tenancy.is_protected(i.inhparent::regclass) LIMIT 1;
    IF FOUND THEN
        PERFORM _tenancy.raise('PROTECTION_WEAKENED', format('table %s is a child of the protected table %s as well', item.relation, item.parent),
            jsonb_build_object('relation', item.relation::text, 'parent', item.parent::text),
            format('Take it from one of its parents first: ALTER TABLE %s NO INHERIT %s;', item.relation, item.parent));
    END IF;
    -- Children that had NOT NULL of their own: dropping the parent's takes theirs along.
    was_not_null := ARRAY(
        SELECT t.relation FROM _tenancy.tree(unprotect.relation) t
        JOIN LATERAL _tenancy.protection(t.relation) p ON (p.undo ->> 'own_not_null')::boolean
        JOIN pg_attribute a ON a.attrelid = t.relation AND a.attname = p.tenant_column AND a.attnotnull);

    -- All of them at once: in between, a parent is not protected while its child is.
    members := ARRAY(SELECT t.relation FROM _tenancy.tree(unprotect.relation) t WHERE _tenancy.is_protected(t.relation));
    PERFORM _tenancy.begin_change(m) FROM unnest(members) AS m;
    FOR item IN
        SELECT t.relation, t.depth, p.kind, p.tenant_column, p.undo
        FROM _tenancy.tree(unprotect.relation) t
        JOIN LATERAL _tenancy.protection(t.relation) p ON true
        ORDER BY t.depth, t.relation::text
    LOOP
        FOR lost IN SELECT p.name FROM _tenancy.present_policies(item.relation) p LOOP
            EXECUTE format('DROP POLICY %I ON %s', lost.name, item.relation);
        END LOOP;
        IF EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = item.relation AND t.tgname = 'tenancy_guard') THEN
            EXECUTE format('DROP TRIGGER tenancy_guard ON %s', item.relation);
        END IF;
        IF item.kind <> 'system' THEN
            IF NOT (item.undo ->> 'row_security')::boolean THEN
                EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', item.relation);
            END IF;
            IF NOT (item.undo ->> 'forced')::boolean THEN
                EXECUTE format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', item.relation);
            END IF;
            IF (item.undo ->> 'reference')::boolean THEN
                EXECUTE format('ALTER TABLE %s DROP CONSTRAINT IF EXISTS tenancy_reference', item.relation);
            END IF;
            FOR lost IN SELECT i.indexrelid::regclass AS index FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                        WHERE i.indrelid = item.relation AND c.relname = item.undo ->> 'index' LOOP
                EXECUTE format('DROP INDEX %s', lost.index);
            END LOOP;
            IF EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = item.relation AND a.attname = item.tenant_column) THEN
                IF (item.undo ->> 'default')::boolean THEN
                    EXECUTE format('ALTER TABLE ONLY %s ALTER COLUMN %I DROP DEFAULT', item.relation, item.tenant_column);
                END IF;
                IF (item.undo ->> 'not_null')::boolean AND item.depth = 0 THEN
                    EXECUTE format('ALTER TABLE %s ALTER COLUMN %I DROP NOT NULL', item.relation, item.tenant_column);
                END IF;
            END IF;
        END IF;
        -- A role that is gone cannot be granted anything. Nothing is taken as it stands: the owner of the table could have saved
        -- other words.
        FOR lost IN SELECT * FROM jsonb_to_recordset(item.undo -> 'revoked')
                    AS r(grantee text, privilege text, grantable boolean, "column" name)
                    WHERE r.privilege IN ('TRUNCATE', 'REFERENCES', 'TRIGGER')
                      AND (r.grantee = 'PUBLIC' OR r.grantee IN (SELECT quote_ident(rolname) FROM pg_roles)) LOOP
            EXECUTE format('GRANT %s%s ON %s TO %s%s', lost.privilege, ' (' || quote_ident(lost."column") || ')',
                item.relation, lost.grantee, CASE WHEN lost.grantable THEN ' WITH GRANT OPTION' END);
        END LOOP;
        IF item.undo ->> 'own_index' IS NOT NULL AND NOT _tenancy.has_leading_index(item.relation, item.tenant_column) THEN
            -- Under another name where somebody has taken it.
            EXECUTE format('CREATE INDEX %s ON %s (%I)', (SELECT quote_ident(item.undo ->> 'own_index') FROM pg_class c WHERE c.oid = item.relation
                    AND NOT EXISTS (SELECT FROM pg_class o WHERE (o.relnamespace, o.relname) = (c.relnamespace, left(item.undo ->> 'own_index', 63)))),
                item.relation, item.tenant_column);
        END IF;
        PERFORM _tenancy.forget_protection(item.relation);
        IF item.relation = ANY (was_not_null) AND item.depth > 0 THEN
            EXECUTE format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL', item.relation, item.tenant_column);
        END IF;
    END LOOP;
    PERFORM _tenancy.end_change(m) FROM unnest(members) AS m;
    RAISE NOTICE 'table % is no longer protected', unprotect.relation;
END
$$;
COMMENT ON FUNCTION tenancy.unprotect(regclass) IS
'Takes a table, with its partitions and children, from its protection, and puts back what protect changed: policies, triggers,
row-level security, NOT NULL, default, index, foreign key and privileges, each only if protect did it.
Errors: RELATION_NOT_PROTECTED 55000, RELATION_METERED 55006, RELATION_NOT_SUPPORTED 42809, RELATION_NOT_OWNED 42501. Volatile. PUBLIC
may call it, with the rights of the caller, who must own the table; refused in the context of a tenant.';
