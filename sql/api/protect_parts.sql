-- What protection consists of, one question a function. Re-runnable.
-- Expressions are written exactly as pg_get_expr prints them under the search_path that every function here pins, so
-- one text serves to create a policy and to tell whether it has been altered.

-- The tree of a table: itself, then its partitions or inheritance children, parents before children.
CREATE FUNCTION _tenancy.tree(root regclass) RETURNS TABLE (relation regclass, depth integer)
    LANGUAGE sql STABLE PARALLEL SAFE ROWS 10
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE t(relation, depth) AS (
        SELECT root, 0
        UNION ALL
        SELECT i.inhrelid::regclass, t.depth + 1 FROM t JOIN pg_inherits i ON i.inhparent = t.relation
        JOIN pg_class c ON c.oid = i.inhrelid JOIN pg_class p ON p.oid = t.relation
        -- A temporary child of a table that is not is its session's own, which nobody else reads.
        WHERE c.relpersistence <> 't' OR p.relpersistence = 't'
    )
    SELECT t.relation, min(t.depth) FROM t GROUP BY t.relation ORDER BY min(t.depth), t.relation::text
$$;
COMMENT ON FUNCTION _tenancy.tree(regclass) IS 'a table and all its partitions or inheritance children';

-- The condition that a row is the current tenant's; null where the column's type cannot hold a tenant id.
CREATE FUNCTION _tenancy.isolation(relation regclass, tenant_column name) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE a.atttypid
        WHEN 'text'::regtype THEN format('(%I = tenancy.current_tenant())', a.attname)
        WHEN 'varchar'::regtype THEN format('((%I)::text = tenancy.current_tenant())', a.attname)
        WHEN 'uuid'::regtype THEN format('(%I = tenancy.current_tenant_uuid())', a.attname)
        WHEN 'bigint'::regtype THEN format('(%I = tenancy.current_tenant_bigint())', a.attname)
        WHEN 'integer'::regtype THEN format('(%I = tenancy.current_tenant_bigint())', a.attname)
        END
    FROM pg_attribute a
    WHERE a.attrelid = relation AND a.attname = tenant_column AND a.attnum > 0 AND NOT a.attisdropped
$$;
COMMENT ON FUNCTION _tenancy.isolation(regclass, name) IS 'the condition that a row is the current tenant''s';

-- The default of the tenant column, as pg_get_expr prints it.
CREATE FUNCTION _tenancy.column_default(relation regclass, tenant_column name) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE a.atttypid
        WHEN 'uuid'::regtype THEN 'tenancy.current_tenant_uuid()'
        WHEN 'bigint'::regtype THEN 'tenancy.current_tenant_bigint()'
        WHEN 'integer'::regtype THEN 'tenancy.current_tenant_bigint()'
        ELSE 'tenancy.current_tenant()' END
    FROM pg_attribute a
    WHERE a.attrelid = relation AND a.attname = tenant_column
$$;
COMMENT ON FUNCTION _tenancy.column_default(regclass, name) IS 'the default of a tenant column';

-- The policies of each kind, always TO PUBLIC. A restrictive policy can only narrow what others allow, so a policy that
-- a user adds later opens nothing. tenancy_access repeats the condition (PostgreSQL evaluates equal ones once): with USING (true) it would
-- outlive DROP EXTENSION ... CASCADE, and be all that is left. The library knows a protected table by its policy tenancy_isolation (src/context.rs).
CREATE FUNCTION _tenancy.policies(kind text, isolation text, tenant_column name)
    RETURNS TABLE (name name, permissive boolean, command text, using_expr text, check_expr text)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.name, p.permissive, p.command, p.using_expr, p.check_expr
    FROM (VALUES
        ('{tenant,audit}'::text[], 'tenancy_isolation'::name, false, 'ALL',
            isolation, format('(%s OR tenancy.deny_write())', isolation)),
        ('{shared}', 'tenancy_isolation', false, 'SELECT',
            '((' || quote_ident(tenant_column) || ' IS NULL) OR ' || isolation || ')', NULL),
        ('{shared}', 'tenancy_insert', false, 'INSERT',
            NULL, format('(%s OR tenancy.deny_write())', isolation)),
        ('{shared}', 'tenancy_update', false, 'UPDATE',
            isolation, format('(%s OR tenancy.deny_write())', isolation)),
        ('{shared}', 'tenancy_delete', false, 'DELETE',
            isolation, NULL),
        ('{tenant,audit}', 'tenancy_access', true, 'ALL', isolation, 'true'),
        ('{shared}', 'tenancy_access', true, 'ALL',
            '((' || quote_ident(tenant_column) || ' IS NULL) OR ' || isolation || ')', 'true')
    ) AS p(kinds, name, permissive, command, using_expr, check_expr)
    WHERE policies.kind = ANY (p.kinds)
$$;
COMMENT ON FUNCTION _tenancy.policies(text, text, name) IS 'the policies of a kind of protected table';

-- The check of a policy as protect has made it: where a table is distributed, tenancy_access asks once more (distribute.sql).
CREATE FUNCTION _tenancy.check_as_made(name name, using_expr text, check_expr text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
    SELECT CASE WHEN name OPERATOR(pg_catalog.=) 'tenancy_access' AND check_expr OPERATOR(pg_catalog.=) pg_catalog.format('(%s OR tenancy.deny_write())', using_expr)
                THEN 'true' ELSE check_expr END
$$;
COMMENT ON FUNCTION _tenancy.check_as_made(name, text, text) IS 'the check of a policy as protect has made it, which distribute may have made stricter';

-- The policies that a table has under our names, in the same form; altered is true for one TO a role.
CREATE FUNCTION _tenancy.present_policies(relation regclass)
    RETURNS TABLE (name name, permissive boolean, command text, using_expr text, check_expr text, altered boolean)
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.polname, p.polpermissive,
           CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
           pg_get_expr(p.polqual, p.polrelid),
           _tenancy.check_as_made(p.polname, pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)),
           p.polroles <> '{0}'
    FROM pg_policy p
    WHERE p.polrelid = relation
      AND p.polname IN ('tenancy_isolation', 'tenancy_insert', 'tenancy_update', 'tenancy_delete', 'tenancy_access')
$$;
COMMENT ON FUNCTION _tenancy.present_policies(regclass) IS 'the policies of ours that a table has';

-- The policies of its kind that a table has not, or not as they should be.
CREATE FUNCTION _tenancy.policy_differences(relation regclass, kind text, tenant_column name, access boolean)
    RETURNS TABLE (name name, is_present boolean)
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT w.name, p.name IS NOT NULL
    FROM _tenancy.policies(kind, _tenancy.isolation(relation, tenant_column), tenant_column) w
    LEFT JOIN _tenancy.present_policies(relation) p ON p.name = w.name
    WHERE (w.name <> 'tenancy_access' OR access)
      AND (p.name IS NULL OR p.altered OR (w.permissive, w.command, w.using_expr, w.check_expr)
               IS DISTINCT FROM (p.permissive, p.command, p.using_expr, p.check_expr))
$$;
COMMENT ON FUNCTION _tenancy.policy_differences(regclass, text, name, boolean) IS
'the policies of its kind that a table has not, or not as they should be';

-- The statement trigger of a kind: its events, its function, and how pg_trigger encodes it.
CREATE FUNCTION _tenancy.guard(kind text) RETURNS TABLE (events text, function text, tgtype smallint)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- 2 is BEFORE, 4 INSERT, 8 DELETE, 16 UPDATE, 32 TRUNCATE; each row would be 1.
    SELECT g.events, g.function, g.tgtype::smallint
    FROM (VALUES ('system', 'INSERT OR UPDATE OR DELETE OR TRUNCATE', '_tenancy.deny_system_write', 62),
                 ('audit', 'UPDATE OR DELETE OR TRUNCATE', '_tenancy.deny_audit_change', 58),
                 ('tenant', 'TRUNCATE', '_tenancy.deny_truncate', 34),
                 ('shared', 'TRUNCATE', '_tenancy.deny_truncate', 34)) AS g(kind, events, function, tgtype)
    WHERE g.kind = guard.kind
$$;
COMMENT ON FUNCTION _tenancy.guard(text) IS 'the statement trigger of a kind of protected table';

-- Whether a table has the trigger that its kind asks for, as protect made it; true where the kind asks for none.
CREATE FUNCTION _tenancy.is_guarded(relation regclass, kind text) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT NOT EXISTS (SELECT FROM _tenancy.guard(kind) g WHERE NOT EXISTS (
        SELECT FROM pg_trigger t
        WHERE t.tgrelid = relation AND t.tgname = 'tenancy_guard' AND t.tgenabled = 'A' AND t.tgtype = g.tgtype
          AND t.tgqual IS NULL AND t.tgattr = ''::int2vector AND t.tgfoid = g.function::regproc))
$$;
COMMENT ON FUNCTION _tenancy.is_guarded(regclass, text) IS 'whether a table has the trigger that its kind asks for';

-- Privileges that go round policies: TRUNCATE empties the table for all tenants, REFERENCES reads its rows, and with TRIGGER a tenant's
-- function runs with the rights of whoever writes to it. The rows of a system table are everybody's to read, and its guard stops TRUNCATE.
CREATE FUNCTION _tenancy.unsafe_grants(relation regclass, kind text)
    RETURNS TABLE (grantee text, privilege text, grantable boolean, column_name name)
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END,
           x.privilege_type, bool_or(x.is_grantable), g.attname
    FROM (SELECT c.relowner, c.relacl AS acl, NULL::name AS attname FROM pg_class c WHERE c.oid = relation
          UNION ALL
          SELECT c.relowner, a.attacl, a.attname
          FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND NOT a.attisdropped WHERE c.oid = relation) g,
         aclexplode(g.acl) x
    WHERE x.grantee <> g.relowner AND (x.privilege_type = 'TRIGGER' OR kind <> 'system' AND x.privilege_type IN ('TRUNCATE', 'REFERENCES'))
    GROUP BY x.grantee, x.privilege_type, g.attname
    ORDER BY 1, 2
$$;
COMMENT ON FUNCTION _tenancy.unsafe_grants(regclass, text) IS 'grants to others than the owner that go round policies';

-- Whether an index leads with the column: valid, of all rows, and able to find a value.
CREATE FUNCTION _tenancy.has_leading_index(relation regclass, tenant_column name) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM pg_index i
        JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] AND a.attname = tenant_column
        JOIN pg_class c ON c.oid = i.indexrelid
        JOIN pg_am m ON m.oid = c.relam AND m.amname IN ('btree', 'hash')
        WHERE i.indrelid = relation AND i.indisvalid AND i.indpred IS NULL)
$$;
COMMENT ON FUNCTION _tenancy.has_leading_index(regclass, name) IS 'whether an index leads with the tenant column';

-- Which of these ids are not registered. Never answers in the context of a tenant; a role without one can learn from it, as
-- from protect itself, whether an id is registered.
CREATE FUNCTION _tenancy.unregistered(ids text[]) RETURNS text[]
    LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A tenant knows that it exists.
    IF ids <@ ARRAY[tenancy.context() ->> 'tenant_id'] THEN
        RETURN '{}';
    END IF;
    PERFORM _tenancy.refuse_in_context('protect');
    RETURN ARRAY(SELECT u.id FROM unnest(ids) AS u(id)
                 WHERE u.id IS NOT NULL AND NOT EXISTS (SELECT FROM _tenancy.tenants t WHERE t.id = u.id));
END
$$;
COMMENT ON FUNCTION _tenancy.unregistered(text[]) IS 'which of these tenant ids are not registered';

-- How a table differs from what protect made of it; empty where it does not.
CREATE FUNCTION _tenancy.drift(relation regclass, kind text, tenant_column name, options jsonb, undo jsonb) RETURNS text[]
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    differences text[] := '{}';
    class pg_class;
    isolation text := _tenancy.isolation(relation, tenant_column);
    item record;
BEGIN
    SELECT * INTO class FROM pg_class c WHERE c.oid = relation;
    IF NOT FOUND THEN
        RETURN ARRAY['table does not exist'];
    END IF;
    IF kind <> 'system' THEN
        IF isolation IS NULL THEN
            differences := differences || format('column %I is missing or of another type', tenant_column);
        END IF;
        IF NOT class.relrowsecurity THEN
            differences := differences || 'row-level security is disabled'::text;
        END IF;
        IF NOT class.relforcerowsecurity THEN
            differences := differences || 'row-level security is not forced'::text;
        END IF;
        IF kind <> 'shared' AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = relation
                                        AND a.attname = tenant_column AND NOT a.attnotnull) THEN
            differences := differences || format('column %I may be null', tenant_column);
        END IF;
        IF (undo ->> 'default')::boolean AND NOT EXISTS (
            SELECT FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
            WHERE d.adrelid = relation AND a.attname = tenant_column
              AND strpos(pg_get_expr(d.adbin, d.adrelid), _tenancy.column_default(relation, tenant_column)) > 0) THEN
            differences := differences || format('column %I lost its default', tenant_column);
        END IF;
        IF (options ->> 'create_index')::boolean AND NOT _tenancy.has_leading_index(relation, tenant_column) THEN
            differences := differences || format('no index leads with column %I', tenant_column);
        END IF;
        IF (options ->> 'reference')::boolean AND NOT EXISTS (
            SELECT FROM pg_constraint k WHERE k.conrelid = relation AND k.contype = 'f'
              AND k.confrelid = '_tenancy.tenants'::regclass) THEN
            differences := differences || 'foreign key to the registry is missing'::text;
        END IF;
        FOR item IN SELECT * FROM _tenancy.policy_differences(relation, kind, tenant_column, (undo ->> 'access')::boolean) d ORDER BY d.name LOOP
            differences := differences || format(CASE WHEN item.is_present THEN 'policy %I was altered' ELSE 'policy %I is missing' END, item.name);
        END LOOP;
    END IF;
    FOR item IN SELECT * FROM _tenancy.unsafe_grants(relation, kind) LOOP
        differences := differences || format('%s is granted to %s', item.privilege, item.grantee);
    END LOOP;
    IF NOT _tenancy.is_guarded(relation, kind) THEN
        differences := differences || 'trigger tenancy_guard is missing, disabled or altered'::text;
    END IF;
    differences := differences || ARRAY(SELECT _tenancy.family_problems(relation));
    FOR item IN
        SELECT i.inhrelid::regclass AS child FROM pg_inherits i
        WHERE i.inhparent = relation AND NOT _tenancy.is_protected(i.inhrelid::regclass)
        ORDER BY i.inhrelid::regclass::text
    LOOP
        differences := differences || format('%s is not protected', item.child);
    END LOOP;
    RETURN differences;
END
$$;
COMMENT ON FUNCTION _tenancy.drift(regclass, text, name, jsonb, jsonb) IS
'how a protected table differs from what tenancy.protect made of it';

CREATE FUNCTION _tenancy.is_protected(relation regclass) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM _tenancy.protected p WHERE p.relation = is_protected.relation)
$$;
COMMENT ON FUNCTION _tenancy.is_protected(regclass) IS 'whether tenancy.protect has put the table under its protection';

COMMENT ON FUNCTION _tenancy.save_protection(regclass, text, text, jsonb, jsonb) IS
'records that a table is protected; the caller must own it';
COMMENT ON FUNCTION _tenancy.add_protection(regclass, text, text, jsonb, jsonb) IS
'records that a new table is protected; the caller must own it';
COMMENT ON FUNCTION _tenancy.follow_column(regclass) IS
'records the new name of a tenant column; the caller must own the table';

-- The column by which a table is isolated, whatever it is called by now: the one that our policy depends on.
CREATE FUNCTION _tenancy.isolated_column(relation regclass) RETURNS name
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT min(a.attname)::name
    FROM pg_policy p
    JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = p.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid = p.polrelid
    JOIN pg_attribute a ON a.attrelid = p.polrelid AND a.attnum = d.refobjsubid AND a.attnum > 0
    WHERE p.polrelid = relation AND p.polname = 'tenancy_isolation'
    HAVING count(DISTINCT a.attnum) = 1
$$;
COMMENT ON FUNCTION _tenancy.isolated_column(regclass) IS 'the column that the policy of a protected table depends on';
COMMENT ON FUNCTION _tenancy.forget_protection(regclass) IS
'records that a table is no longer protected; the caller must own it';

CREATE FUNCTION _tenancy.deny_system_write() RETURNS trigger
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'deny_system_write_wrapper';
COMMENT ON FUNCTION _tenancy.deny_system_write() IS 'trigger on tables of kind system: no change in the context of a tenant';

CREATE FUNCTION _tenancy.deny_truncate() RETURNS trigger
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'deny_truncate_wrapper';
COMMENT ON FUNCTION _tenancy.deny_truncate() IS 'trigger on protected tables: no TRUNCATE in the context of a tenant';

CREATE FUNCTION _tenancy.deny_audit_change() RETURNS trigger
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'deny_audit_change_wrapper';
COMMENT ON FUNCTION _tenancy.deny_audit_change() IS 'trigger on tables of kind audit: no change but insertion';

-- The view reads _tenancy.protected with the rights of its owner; everything in it is in pg_catalog for all to see.
CREATE VIEW tenancy.protected_tables AS
    SELECT p.relation, p.kind, p.tenant_column,
           c.relrowsecurity AS row_security, c.relforcerowsecurity AS forced,
           ARRAY(SELECT n.name FROM _tenancy.present_policies(p.relation) n ORDER BY n.name) AS policies,
           _tenancy.drift(p.relation, p.kind, p.tenant_column, p.options, p.undo) AS drift,
           p.protected_at
    FROM _tenancy.protected p
    LEFT JOIN pg_catalog.pg_class c ON c.oid = p.relation::oid;
COMMENT ON VIEW tenancy.protected_tables IS
'The protected tables: kind, tenant column, state of row-level security, our policies, and drift: what differs from the
protection, empty where nothing does. Call tenancy.protect again to mend it. PUBLIC may read it.';
