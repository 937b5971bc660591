-- "Why do I see no rows?" Re-runnable. What it tells is in catalogs that all can read, and in the caller's own context; rows are counted
-- for superusers, and for who bypasses row-level security outside of any tenant.

-- The policies that apply to a role, as row-level security chooses them.
CREATE FUNCTION _tenancy.policies_for(relation regclass, role name)
    RETURNS TABLE (name name, permissive boolean, command text, condition text)
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.polname, p.polpermissive,
           CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
           concat_ws(' ', 'USING ' || pg_get_expr(p.polqual, p.polrelid), 'WITH CHECK ' || pg_get_expr(p.polwithcheck, p.polrelid))
    FROM pg_policy p
    WHERE p.polrelid = policies_for.relation
      AND EXISTS (SELECT FROM unnest(p.polroles) AS r(oid)
                  WHERE r.oid = 0 OR CASE WHEN r.oid <> 0 THEN pg_has_role(policies_for.role, r.oid, 'USAGE') END)
    ORDER BY p.polpermissive, p.polname
$$;
COMMENT ON FUNCTION _tenancy.policies_for(regclass, name) IS 'the policies of a table that apply to a role';

-- Who is under no policy of a table, and why; null for who is.
CREATE FUNCTION _tenancy.bypass_of(relation regclass, role name) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN r.rolsuper THEN 'it is a superuser'
                WHEN r.rolbypassrls THEN 'it has BYPASSRLS'
                WHEN NOT c.relforcerowsecurity AND pg_has_role(r.oid, c.relowner, 'USAGE') THEN 'it owns the table, and row-level security is not forced' END
    FROM pg_class c, pg_roles r WHERE c.oid = bypass_of.relation AND r.rolname = bypass_of.role
$$;
COMMENT ON FUNCTION _tenancy.bypass_of(regclass, name) IS 'why a role is under no policy of a table; null where it is under them';

-- What a parameter is for a role: for another than the caller, as ALTER ROLE or ALTER DATABASE has it; else as this session has it.
CREATE FUNCTION _tenancy.setting_for(role name, parameter text) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(CASE WHEN setting_for.role <> current_user THEN (_tenancy.setting_of(setting_for.role, parameter)).value END, current_setting(parameter))
$$;
COMMENT ON FUNCTION _tenancy.setting_for(name, text) IS 'what a parameter is for a role, as far as this session can tell';

-- The code that entering a tenant would raise: empty where it is active, null where the caller may not know.
CREATE FUNCTION _tenancy.obstacle_of(tenant text) RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF tenant IS NULL OR NOT has_table_privilege('tenancy.tenants', 'SELECT') THEN
        RETURN NULL;
    END IF;
    RETURN coalesce((SELECT CASE WHEN n.status = 'active' THEN '' ELSE 'TENANT_SUSPENDED' END FROM tenancy.tenants n WHERE n.id = tenant),
                    'TENANT_NOT_FOUND');
END
$$;
COMMENT ON FUNCTION _tenancy.obstacle_of(text) IS
'the code of the error that entering a tenant raises: empty where none, null where the caller may not know';

-- The rows of a table that a role sees in a tenant, and all there are; null where the caller is not to know.
CREATE FUNCTION _tenancy.count_visible(relation regclass, role name, tenant text, OUT visible text, OUT total bigint)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    -- All rows are meant; who plays the role has it on again.
    SET row_security = off
AS $$
DECLARE
    caller record;
    outcome record;
BEGIN
    SELECT r.rolsuper, r.rolbypassrls INTO caller FROM pg_roles r WHERE r.rolname = current_user;
    IF NOT caller.rolsuper AND (NOT caller.rolbypassrls OR tenancy.context() ->> 'tenant_id' IS NOT NULL
                                OR NOT has_table_privilege(relation, 'SELECT')) THEN
        RETURN;
    END IF;
    EXECUTE format('SELECT count(*) FROM %s', relation) INTO total;
    IF caller.rolsuper THEN
        outcome := _tenancy.try(jsonb_build_object('role', role, 'may_set', false, 'path', 'pg_catalog, pg_temp'),
                                coalesce(tenant, ''), format('SELECT count(*) FROM %s', relation));
        visible := coalesce(outcome.answer, 'error: ' || outcome.message);
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.count_visible(regclass, name, text) IS
'the rows that a role sees in a tenant, and all; null where the caller is not to know';

CREATE FUNCTION tenancy.explain_access(relation regclass, role name DEFAULT current_user, count_rows boolean DEFAULT true)
    RETURNS TABLE (item text, value text)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    class record;
    protected record;
    context jsonb := tenancy.context();
    crossing jsonb;
    crossed text;
    bypass text;
    bound record;
    may_set boolean;
    signs_in boolean;
    way text;
    is_mine boolean;
    tenant text;
    error text;
    missing_tenant text;
    visible text;
    total bigint;
    privileges text;
    policy record;
    permissive integer := 0;
    narrowing text[] := '{}';
BEGIN
    SELECT c.relname, c.relkind, c.relrowsecurity, c.relforcerowsecurity, c.relnamespace, c.relowner, n.nspname,
           EXISTS (SELECT FROM pg_options_to_table(c.reloptions) x
                   WHERE x.option_name = 'security_invoker' AND x.option_value::boolean) AS as_caller
        INTO class
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = explain_access.relation;
    IF NOT FOUND THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'relation must name a table or view');
    END IF;
    IF role IS NULL OR NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = role) THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', coalesce('role "' || role || '" does not exist', 'role must not be null'));
    END IF;
    SELECT p.kind, p.tenant_column, p.drift INTO protected FROM tenancy.protected_tables p WHERE p.relation = explain_access.relation;
    bypass := _tenancy.bypass_of(relation, role);
    SELECT nullif(b.value, '') AS value, b.origin INTO bound FROM _tenancy.setting_of(role, 'tenancy.tenant_id') b;
    may_set := has_parameter_privilege(role, 'tenancy.tenant_id', 'SET');
    signs_in := _tenancy.signs_in(role);
    way := 'BEGIN; ' || CASE WHEN may_set THEN 'SET LOCAL tenancy.tenant_id = ''...'';' ELSE 'SELECT tenancy.authenticate(''{"token": "..."}'');' END;
    -- Which tenant another role is bound to is not for a tenant to be told.
    is_mine := pg_has_role(role, 'MEMBER');
    -- The context of this session, else the one that the role's own sessions begin with.
    tenant := coalesce(context ->> 'tenant_id', CASE WHEN is_mine THEN bound.value END);
    crossing := CASE WHEN is_mine THEN context -> 'cross_tenant' END;
    error := CASE WHEN crossing IS NOT NULL OR context ->> 'tenant_id' IS NOT NULL THEN context ->> 'error'
                  WHEN coalesce(bound.value, '') = '' THEN 'TENANT_CONTEXT_MISSING'
                  ELSE nullif(_tenancy.obstacle_of(tenant), '') END;
    missing_tenant := _tenancy.setting_for(role, 'tenancy.missing_tenant');

    item := 'relation';
    value := relation::text || CASE class.relkind WHEN 'r' THEN '' WHEN 'p' THEN ' (partitioned table)' WHEN 'v' THEN ' (view)'
        WHEN 'm' THEN ' (materialized view)' ELSE ' (not a table)' END;
    RETURN NEXT;
    item := 'role';
    value := role || coalesce(': ' || bypass, '');
    RETURN NEXT;
    SELECT string_agg(p.privilege, ', ' ORDER BY p.place) INTO privileges
    FROM unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']) WITH ORDINALITY AS p(privilege, place)
    WHERE CASE p.privilege WHEN 'DELETE' THEN has_table_privilege(role, relation, p.privilege) ELSE has_any_column_privilege(role, relation, p.privilege) END;
    item := 'privileges';
    value := coalesce(privileges, 'none')
        || CASE WHEN has_schema_privilege(role, class.relnamespace, 'USAGE') THEN '' ELSE format(', but not USAGE of schema %I', class.nspname) END;
    RETURN NEXT;
    IF class.relkind IN ('r', 'p') THEN
        item := 'protection';
        value := CASE WHEN protected.kind IS NULL THEN 'not protected' WHEN protected.kind = 'system' THEN 'kind system'
                      ELSE format('kind %s, by column %I', protected.kind, protected.tenant_column) END
            || CASE WHEN cardinality(protected.drift) > 0 THEN '; differs: ' || array_to_string(protected.drift, '; ') ELSE '' END;
        RETURN NEXT;
        item := 'row-level security';
        value := CASE WHEN NOT class.relrowsecurity THEN 'disabled' WHEN class.relforcerowsecurity THEN 'enabled and forced' ELSE 'enabled, not forced' END;
        RETURN NEXT;
        FOR policy IN SELECT * FROM _tenancy.policies_for(relation, role) LOOP
            item := 'policy ' || quote_ident(policy.name);
            value := format('%s for %s: %s', CASE WHEN policy.permissive THEN 'permissive' ELSE 'restrictive' END, policy.command, policy.condition);
            RETURN NEXT;
            IF policy.command IN ('ALL', 'SELECT') THEN
                permissive := permissive + policy.permissive::integer;
                IF policy.name NOT IN ('tenancy_isolation', 'tenancy_access') THEN
                    narrowing := narrowing || quote_ident(policy.name);
                END IF;
            END IF;
        END LOOP;
    END IF;
    crossed := CASE WHEN jsonb_array_length(crossing -> 'tenants') > 5 THEN format('%s tenants', jsonb_array_length(crossing -> 'tenants'))
                    ELSE (SELECT 'tenants ' || string_agg(quote_ident(t), ', ') FROM jsonb_array_elements_text(crossing -> 'tenants') AS t) END;
    item := 'may be';
    value := CASE WHEN may_set THEN 'any tenant'
                  WHEN bound.value IS NULL THEN CASE WHEN signs_in THEN 'the tenant that it signs in to' WHEN signs_in IS NULL THEN 'no tenant, unless it signs in' ELSE 'no tenant' END
                  ELSE coalesce('tenant ' || CASE WHEN is_mine THEN quote_ident(bound.value) END, 'one tenant') || ', by ' || bound.origin END;
    RETURN NEXT;
    item := 'context';
    value := CASE WHEN crossing IS NOT NULL THEN format('this session is in a cross-tenant scope of %s%s', crossed, coalesce(', until ' || (crossing ->> 'until'), ''))
                       || coalesce('; error ' || (context ->> 'error'), '')
                  WHEN context ->> 'tenant_id' IS NULL THEN 'this session has no tenant (tenancy.missing_tenant is ' || current_setting('tenancy.missing_tenant') || ')'
                  ELSE format('this session is in tenant %s, from %s', quote_ident(context ->> 'tenant_id'), replace(context ->> 'source', '_', ' '))
                       || CASE WHEN (context ->> 'sealed')::boolean THEN ', sealed' ELSE '' END || coalesce('; error ' || (context ->> 'error'), '') END;
    RETURN NEXT;
    IF count_rows AND class.relkind IN ('r', 'p') THEN
        SELECT c.visible, c.total INTO visible, total FROM _tenancy.count_visible(relation, role, tenant) c;
        item := 'rows';
        value := CASE WHEN total IS NULL THEN 'counted for superusers only'
            WHEN visible IS NULL THEN format('%s in all', total)
            WHEN visible LIKE 'error%' THEN format('%s in all, all hidden; %s', total, visible)
            ELSE format('%s in all, %s visible%s, %s hidden', total, visible,
                        coalesce(' in tenant ' || quote_ident(tenant), ''), total - visible::bigint) END;
        RETURN NEXT;
    END IF;

    item := 'verdict';
    value := CASE
        WHEN NOT has_schema_privilege(role, class.relnamespace, 'USAGE') THEN
            format('Reads are refused: GRANT USAGE ON SCHEMA %I TO %I;', class.nspname, role)
        WHEN NOT has_any_column_privilege(role, relation, 'SELECT') THEN format('Reads are refused: GRANT SELECT ON %s TO %I;', relation, role)
        WHEN class.relkind = 'm' THEN 'It sees the rows that the view was last refreshed with, whoever''s they are.'
        WHEN class.relkind = 'v' AND NOT class.as_caller THEN format('It sees what %I, who owns the view, may see: ALTER VIEW %s SET (security_invoker = true);',
            pg_get_userbyid(class.relowner), relation)
        WHEN class.relkind = 'v' THEN 'It sees what it may see of the tables that the view reads: ask about those.'
        WHEN class.relkind NOT IN ('r', 'p') THEN 'No policy applies to it.'
        WHEN protected.kind = 'system' THEN 'It sees all rows, and changes none in the context of a tenant.'
        WHEN bypass IS NOT NULL AND class.relrowsecurity AND protected.kind IS NOT NULL
            AND _tenancy.setting_for(role, 'tenancy.bypass_guard') = 'refuse' THEN
            format('Reads raise TENANT_ACCESS_DENIED, because %s, and tenancy.bypass_guard is refuse: SET LOCAL row_security = off;', bypass)
        WHEN bypass IS NOT NULL AND class.relrowsecurity THEN format('It sees all rows of all tenants, because %s.', bypass)
        WHEN NOT class.relrowsecurity THEN 'It sees all rows, because row-level security is disabled: SELECT tenancy.protect('
            || quote_literal(relation::text) || ');'
        WHEN permissive = 0 THEN 'It sees no rows, because no permissive policy lets any through'
            || CASE WHEN protected.kind IS NULL THEN '.' ELSE format(': SELECT tenancy.protect(%L, %L, %L, access_policy => true);', relation, protected.kind, protected.tenant_column) END
        WHEN protected.kind IS NULL THEN 'It sees what its policies let through; the table is not protected by tenancy.'
        WHEN error = 'TENANT_CONTEXT_MISSING' AND NOT may_set AND signs_in IS NOT TRUE THEN
            format('It can be no tenant: %sGRANT SET ON PARAMETER tenancy.tenant_id TO %I; or ALTER ROLE %I SET tenancy.tenant_id = ''...'';',
                CASE WHEN signs_in IS NULL THEN way || ' or ' ELSE '' END, role, role)
        WHEN error = 'TENANT_CONTEXT_MISSING' AND missing_tenant = 'empty' THEN
            CASE protected.kind WHEN 'shared' THEN 'It sees everybody''s rows and no tenant''s' ELSE 'It sees no rows' END
            || ', because no tenant is set: ' || way
        WHEN error = 'TENANT_CONTEXT_MISSING' THEN 'Reads raise TENANT_CONTEXT_MISSING: ' || way
        WHEN error IS NOT NULL THEN format('Reads raise %s.', error)
        ELSE 'It sees the rows of ' || coalesce(crossed, 'tenant ' || quote_ident(tenant), 'its tenant')
            || CASE WHEN protected.kind = 'shared' THEN ' and everybody''s' ELSE '' END
            || CASE WHEN crossing IS NULL AND context ->> 'tenant_id' IS NULL AND _tenancy.obstacle_of(tenant) IS NULL THEN ', where that tenant is active' ELSE '' END
            || CASE WHEN cardinality(narrowing) > 0 THEN format(', as far as %s lets them through', array_to_string(narrowing, ', ')) ELSE '' END
            || CASE WHEN visible = '0' THEN ': there are none' ELSE '' END || '.' END;
    RETURN NEXT;
END
$$;
COMMENT ON FUNCTION tenancy.explain_access(regclass, name, boolean) IS
'Answers "why do I see no rows?": for a table or view and a role, its privileges, protection, the policies that apply, which tenants the role may be, the
context of this session, how many rows are hidden (for superusers; who has BYPASSRLS is told the total outside of a tenant; count_rows => false
does not count), and a verdict with what to type. It plays the role to count, and changes nothing.
Error: 22023 PARAMETER_INVALID. Volatile. PUBLIC may call it, with the rights of the caller.';
