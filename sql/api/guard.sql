-- Event triggers: protection is not weakened by accident, and tables that come later are protected as they come. Re-runnable.
-- They look at what a command has done, when it has, and raise an error where it must not be: that takes the command back.
-- They run with the rights of whoever ran it.

CREATE FUNCTION _tenancy.altered(command pg_ddl_command) RETURNS text[]
    LANGUAGE c STABLE STRICT
    AS 'MODULE_PATHNAME', 'tenancy_altered';
COMMENT ON FUNCTION _tenancy.altered(pg_ddl_command) IS 'what an ALTER TABLE has done that touches protection';
COMMENT ON FUNCTION _tenancy.is_changing(oid) IS 'whether the extension itself changes a table''s protection';
COMMENT ON FUNCTION _tenancy.refuse_old_snapshot(oid[], oid) IS
'raises PROTECTION_CHANGED where the transaction''s snapshot is older than a change of what concerns the protection of these tables, or of that schema';
COMMENT ON FUNCTION _tenancy.is_restoring() IS 'whether tenancy.restoring is on, or a superuser has row_security off, as pg_restore has';

-- Whether the changes of a table are audited, or of what it is a partition or child of.
CREATE FUNCTION _tenancy.is_audited(relation regclass) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE up (relation) AS (
        SELECT is_audited.relation::oid
        UNION
        SELECT i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.relation
    )
    SELECT EXISTS (SELECT FROM up u JOIN _tenancy.audited a ON a.relation = u.relation)
$$;
COMMENT ON FUNCTION _tenancy.is_audited(regclass) IS 'whether a table is audited, or one that it is a partition or child of';

CREATE FUNCTION _tenancy.audit_triggers() RETURNS TABLE (name name, command text, level text, tgtype smallint)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- After them: 1 is of rows, 4 is INSERT, 8 DELETE, 16 UPDATE, 32 TRUNCATE.
    SELECT e.name::name, e.command, e.level, e.tgtype::smallint
    FROM (VALUES ('tenancy_audit', 'INSERT OR UPDATE OR DELETE', 'ROW', 29),
                 ('tenancy_audit_truncate', 'TRUNCATE', 'STATEMENT', 32)) AS e(name, command, level, tgtype)
$$;
COMMENT ON FUNCTION _tenancy.audit_triggers() IS 'the triggers of an audited table';

-- The triggers of a protected table as protect, meter and audit make them, and whether it must have each.
CREATE FUNCTION _tenancy.own_triggers(relation regclass, kind text)
    RETURNS TABLE (name name, function regproc, tgtype smallint, old_rows name, new_rows name, is_due boolean)
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT 'tenancy_guard'::name, g.function::regproc, g.tgtype, NULL::name, NULL::name, true FROM _tenancy.guard(kind) g
    UNION ALL
    SELECT m.name, '_tenancy.meter_rows'::regproc, m.tgtype, m.old_rows, m.new_rows, c.is_counted
    FROM _tenancy.meter_triggers() m, (SELECT _tenancy.is_counted(relation) AS is_counted) c
    UNION ALL
    SELECT a.name, '_tenancy.audit_row'::regproc, a.tgtype, NULL, NULL, c.is_audited
    FROM _tenancy.audit_triggers() a, (SELECT _tenancy.is_audited(relation) AS is_audited) c
$$;
COMMENT ON FUNCTION _tenancy.own_triggers(regclass, text) IS 'the triggers that a protected table may have of ours, and which it must';

CREATE FUNCTION _tenancy.present_triggers(relation regclass, kind text)
    RETURNS TABLE (trigger oid, name name, is_own boolean, is_always boolean)
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.oid, t.tgname, EXISTS (
               SELECT FROM _tenancy.own_triggers(relation, kind) o
               WHERE o.name = t.tgname AND o.function = t.tgfoid AND o.tgtype = t.tgtype AND t.tgqual IS NULL AND t.tgattr = ''::int2vector
                 AND o.old_rows IS NOT DISTINCT FROM t.tgoldtable AND o.new_rows IS NOT DISTINCT FROM t.tgnewtable),
           t.tgenabled = 'A'
    FROM pg_trigger t WHERE t.tgrelid = relation AND t.tgname ~ '^tenancy_' AND NOT t.tgisinternal
$$;
COMMENT ON FUNCTION _tenancy.present_triggers(regclass, text) IS
'the triggers tenancy_... of a table: whether they are as protect and meter make them, and fire always';

-- What a table has lost that was asked about; null where it has all of it. A change of a trigger that stays is `TRIGGER <name>`, or
-- `TRIGGER *`; where one may be gone, or another be in its place, it is TRIGGERS.
CREATE FUNCTION _tenancy.weakness(relation regclass, kind text, tenant_column name, undo jsonb, changes text[]) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN kind <> 'system' AND 'ROW SECURITY' = ANY (changes) AND NOT c.relrowsecurity THEN 'row-level security is disabled'
        WHEN kind <> 'system' AND 'ROW SECURITY' = ANY (changes) AND NOT c.relforcerowsecurity THEN 'row-level security is not forced'
        WHEN kind IN ('tenant', 'audit') AND 'NOT NULL' = ANY (changes) AND EXISTS (
            SELECT FROM pg_attribute a WHERE a.attrelid = relation AND a.attname = tenant_column AND NOT a.attnotnull)
            THEN format('column %I may be null', tenant_column)
        WHEN 'OWNER' = ANY (changes) AND EXISTS (
            SELECT FROM pg_roles r WHERE r.oid = c.relowner AND (r.rolsuper OR r.rolbypassrls))
            THEN format('owner %I is exempt from row-level security', pg_get_userbyid(c.relowner))
        WHEN EXISTS (SELECT FROM unnest(changes) AS h(change) WHERE h.change ~ '^TRIGGER(S| \*| tenancy_)') AND (
            NOT _tenancy.is_guarded(relation, kind) OR EXISTS (
                SELECT FROM _tenancy.present_triggers(relation, kind) p WHERE NOT (p.is_own AND p.is_always)))
            THEN 'a trigger tenancy_... is disabled or altered'
        WHEN 'TRIGGERS' = ANY (changes) AND EXISTS (
            SELECT FROM _tenancy.own_triggers(relation, kind) o
            WHERE o.is_due AND NOT EXISTS (SELECT FROM _tenancy.present_triggers(relation, kind) p WHERE p.name = o.name))
            THEN 'a trigger tenancy_... is missing'
        WHEN 'POLICY' = ANY (changes) THEN coalesce((
            SELECT format('policy %I is missing or altered', d.name)
            FROM _tenancy.policy_differences(relation, kind, tenant_column, (undo ->> 'access')::boolean) d ORDER BY d.name LIMIT 1),
            CASE WHEN _tenancy.is_distributed(relation) THEN _tenancy.distribution_problem(relation, kind, tenant_column) END)
        END
    FROM pg_class c WHERE c.oid = relation
$$;
COMMENT ON FUNCTION _tenancy.weakness(regclass, text, name, jsonb, text[]) IS
'what a protected table has lost, of what a command may have taken from it';

CREATE FUNCTION _tenancy.refuse_weakness(relation regclass, changes text[]) RETURNS void
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    lost text;
BEGIN
    SELECT _tenancy.weakness(refuse_weakness.relation, p.kind, p.tenant_column, p.undo, refuse_weakness.changes) INTO lost
    FROM _tenancy.protection(refuse_weakness.relation) p;
    IF lost IS NOT NULL AND NOT _tenancy.is_changing(refuse_weakness.relation) THEN
        PERFORM _tenancy.raise('PROTECTION_WEAKENED', format('protected table %s would lose its isolation', refuse_weakness.relation),
            jsonb_build_object('relation', refuse_weakness.relation::text, 'problem', lost),
            format('To give its protection up: SELECT tenancy.unprotect(%L); a superuser can repair it under SET tenancy.restoring = on;',
                   refuse_weakness.relation));
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.refuse_weakness(regclass, text[]) IS 'raises an error where a protected table has lost something';

-- How a table and its parents and children disagree: a query on a parent uses no policy of its children, so they must be the same.
CREATE FUNCTION _tenancy.family_problems(relation regclass) RETURNS SETOF text
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH own AS (
        SELECT p.kind, p.tenant_column FROM (SELECT) AS one LEFT JOIN LATERAL _tenancy.protection(relation) p ON true
    ), kin AS (
        SELECT i.inhparent::regclass AS other, 'parent' AS is FROM pg_inherits i WHERE i.inhrelid = relation
        UNION ALL
        SELECT i.inhrelid, 'child' FROM pg_inherits i WHERE i.inhparent = relation
    )
    SELECT CASE WHEN o.kind IS NULL THEN format('its child %s is protected, and it is not', k.other)
                ELSE format('its %s %s is of kind %s%s', k.is, k.other, p.kind, format(', by column %I', p.tenant_column)) END
    FROM own o, kin k, LATERAL _tenancy.protection(k.other) p
    WHERE CASE WHEN o.kind IS NULL THEN k.is = 'child' ELSE (o.kind, o.tenant_column) IS DISTINCT FROM (p.kind, p.tenant_column) END
    ORDER BY k.other::text
$$;
COMMENT ON FUNCTION _tenancy.family_problems(regclass) IS 'how a table and its parents and children disagree, if they do';

-- Protects a table that comes to be a partition or child of a protected one, as that is, or comes to a schema whose tables are
-- protected. Also in the context of a tenant: it only adds, and whoever makes a table owns it.
CREATE FUNCTION _tenancy.protect_new(relation regclass) RETURNS void
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    class pg_class;
    model record;
    is_child boolean := true;
    was_nullable boolean;
    has_rows boolean;
    step record;
BEGIN
    SELECT * INTO class FROM pg_class c WHERE c.oid = protect_new.relation;
    -- Rows of tenants in a table that was said to have none.
    IF EXISTS (SELECT FROM _tenancy.protection(protect_new.relation) s, _tenancy.schema_column(class.relnamespace) n(name), pg_attribute a
               WHERE s.kind = 'system' AND a.attrelid = protect_new.relation AND a.attname = n.name AND NOT a.attisdropped) THEN
        PERFORM _tenancy.raise('PROTECTION_WEAKENED', format('table %s of kind system cannot have the tenant column of its schema', protect_new.relation),
            jsonb_build_object('relation', protect_new.relation::text, 'kind', 'system'),
            format('Give up its protection first, and it is protected as a tenant''s then: SELECT tenancy.unprotect(%L);', protect_new.relation));
    END IF;
    IF NOT FOUND OR class.relkind NOT IN ('r', 'p') OR class.relpersistence = 't' OR _tenancy.is_protected(protect_new.relation)
       OR class.relnamespace IN ('tenancy'::regnamespace, '_tenancy'::regnamespace) OR _tenancy.is_changing(protect_new.relation) THEN
        RETURN;
    END IF;
    SELECT p.kind, p.tenant_column, p.options, p.undo INTO model
    FROM pg_inherits i, _tenancy.protection(i.inhparent) p WHERE i.inhrelid = protect_new.relation ORDER BY i.inhseqno LIMIT 1;
    IF NOT FOUND THEN
        is_child := false;
        SELECT 'tenant' AS kind, s.tenant_column, '{"reference": false, "create_index": true, "access_policy": null}'::jsonb AS options,
               '{"default": false, "not_null": false}'::jsonb AS undo INTO model
        FROM _tenancy.schema_column(class.relnamespace) AS s(tenant_column)
        WHERE EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = protect_new.relation AND a.attname = s.tenant_column
                      AND a.attnum > 0 AND NOT a.attisdropped)
          -- With its parent, or not at all.
          AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = protect_new.relation);
        IF NOT FOUND THEN
            RETURN;
        ELSIF EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = protect_new.relation) THEN
            PERFORM tenancy.protect(protect_new.relation, 'tenant', model.tenant_column);
            RETURN;
        END IF;
    END IF;
    IF model.kind <> 'system' THEN
        PERFORM _tenancy.check_column(protect_new.relation, model.tenant_column);
        -- Rows that policies hide from their owner would go unchecked: PostgreSQL refuses to look at them then.
        IF row_security_active(protect_new.relation) THEN
            has_rows := true;
        ELSE
            EXECUTE format('SELECT EXISTS (SELECT FROM ONLY %s)', protect_new.relation) INTO has_rows;
        END IF;
        IF has_rows THEN
            PERFORM _tenancy.check_rows(protect_new.relation, model.tenant_column, model.kind = 'shared');
        END IF;
    END IF;
    was_nullable := EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = protect_new.relation
                            AND a.attname = model.tenant_column AND NOT a.attnotnull);
    PERFORM _tenancy.begin_change(protect_new.relation);
    SELECT * INTO step FROM _tenancy.apply(protect_new.relation, model.kind, model.tenant_column, model.options,
                                           (model.undo ->> 'default')::boolean, NULL);
    IF model.kind IN ('tenant', 'audit') THEN
        IF was_nullable THEN
            step.undo := step.undo || '{"not_null": true}';
        ELSIF NOT (model.undo ->> 'not_null')::boolean THEN
            step.undo := step.undo || '{"own_not_null": true}';
        END IF;
    END IF;
    PERFORM _tenancy.add_protection(protect_new.relation, model.kind, model.tenant_column::text, model.options, step.undo);
    IF is_child THEN
        PERFORM _tenancy.fit_meters(protect_new.relation);
    END IF;
    PERFORM _tenancy.end_change(protect_new.relation);
    IF NOT is_child THEN
        step.done := step.done || _tenancy.scope_foreign_keys(protect_new.relation, 'auto');
        RAISE NOTICE 'table % is protected as kind %', protect_new.relation, model.kind
            USING DETAIL = array_to_string(step.done, E'\n');
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.protect_new(regclass) IS
'protects a table that has become a partition or child of a protected one, or is in a schema whose tables are protected';

CREATE FUNCTION _tenancy.refuse_unlogged(relation regclass) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    unlogged regclass;
BEGIN
    SELECT t.relation INTO unlogged FROM _tenancy.tree(refuse_unlogged.relation) t JOIN pg_class c ON c.oid = t.relation WHERE c.relpersistence <> 'p' LIMIT 1;
    IF FOUND THEN
        PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('unlogged table %s cannot be watched for a cache', unlogged),
            jsonb_build_object('relation', unlogged::text), 'A crash of the server empties it, and no version would tell.');
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.refuse_unlogged(regclass) IS 'refuses a table that a crash would empty';

-- Notes for caches that watched tables have been altered: what their columns hold, or which partitions they have. In an event trigger only.
CREATE FUNCTION _tenancy.note_altered() RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    item record;
    watch record;
BEGIN
    IF NOT _tenancy.has_cache_watches() THEN
        RETURN;
    END IF;
    FOR item IN
        SELECT c.objid, _tenancy.altered(c.command) AS changes FROM pg_event_trigger_ddl_commands() c
        WHERE c.classid = 'pg_class'::regclass AND c.command_tag = 'ALTER TABLE'
    LOOP
        IF 'ORPHAN' = ANY (item.changes) THEN
            -- Of one that is no longer a child, nothing tells whose it was.
            PERFORM _tenancy.note_cache_change(NULL, NULL, (SELECT bool_or(w.notify) FROM _tenancy.cache_watches w));
        END IF;
        FOR watch IN
            WITH RECURSIVE up (relation) AS (
                SELECT item.objid
                UNION
                SELECT i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.relation
            )
            SELECT w.resource_type, bool_or(w.notify) AS notify FROM up u JOIN _tenancy.cache_watches w ON w.relation = u.relation GROUP BY 1
        LOOP
            PERFORM _tenancy.note_cache_change(NULL, watch.resource_type, watch.notify), _tenancy.refuse_unlogged(item.objid);
        END LOOP;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _tenancy.has_cache_watches() IS 'whether any table is watched; for the event trigger at the end of a command';
COMMENT ON FUNCTION _tenancy.note_altered() IS 'notes for caches that watched tables were altered; for the event trigger at the end of a command';

-- The event trigger at the end of a command.
CREATE FUNCTION _tenancy.guard_ddl() RETURNS event_trigger
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    item record;
    the_table regclass;
    member regclass;
    parent regclass;
    problem text;
    is_ours boolean;
BEGIN
    PERFORM _tenancy.note_altered();
    IF _tenancy.is_restoring() THEN
        RETURN;
    END IF;
    PERFORM _tenancy.refuse_old_snapshot(array_agg(coalesce(p.polrelid, t.tgrelid, c.objid)), NULL)
    FROM pg_event_trigger_ddl_commands() c
    LEFT JOIN pg_policy p ON c.classid = 'pg_policy'::regclass AND p.oid = c.objid
    LEFT JOIN pg_trigger t ON c.classid = 'pg_trigger'::regclass AND t.oid = c.objid
    WHERE c.classid IN ('pg_class'::regclass, 'pg_policy'::regclass, 'pg_trigger'::regclass)
    HAVING count(*) > 0;
    FOR item IN
        SELECT c.classid, c.objid, c.objsubid, c.command_tag, c.object_type, c.in_extension, _tenancy.altered(c.command) AS changes
        FROM pg_event_trigger_ddl_commands() c
        WHERE c.classid IN ('pg_class'::regclass, 'pg_policy'::regclass, 'pg_trigger'::regclass)
    LOOP
        IF item.classid = 'pg_policy'::regclass THEN
            SELECT p.polrelid INTO the_table FROM pg_policy p WHERE p.oid = item.objid;
            -- pg_restore makes one after the other: what is not there yet is not lost.
            IF item.command_tag <> 'CREATE POLICY' OR _tenancy.is_distributed(the_table) OR EXISTS (
                SELECT FROM pg_policy p, _tenancy.protection(the_table) s,
                    _tenancy.policy_differences(the_table, s.kind, s.tenant_column, (s.undo ->> 'access')::boolean) d
                WHERE p.oid = item.objid AND d.name = p.polname) THEN
                PERFORM _tenancy.refuse_weakness(the_table, '{POLICY}');
            END IF;
        ELSIF item.classid = 'pg_trigger'::regclass THEN
            SELECT t.tgrelid, t.tgname ~ '^tenancy_' INTO the_table, is_ours FROM pg_trigger t WHERE t.oid = item.objid;
            -- pg_restore makes ours first, and makes them fire always then, one after the other.
            IF item.command_tag <> 'CREATE TRIGGER' OR is_ours AND ('REPLACE' = ANY (item.changes) OR EXISTS (
                SELECT FROM _tenancy.protection(the_table) s, _tenancy.present_triggers(the_table, s.kind) p
                WHERE p.trigger = item.objid AND NOT p.is_own)) THEN
                PERFORM _tenancy.refuse_weakness(the_table, '{TRIGGERS}');
            END IF;
        ELSIF item.object_type IN ('table column', 'composite type', 'composite type column') THEN
            -- A column that was renamed, here and in all children: the policies have followed by themselves. Or an attribute of a
            -- type, and with it a column of the tables of that type.
            FOR the_table IN
                SELECT item.objid WHERE item.object_type = 'table column'
                UNION ALL
                SELECT c.oid FROM pg_class y JOIN pg_class c ON c.reloftype = y.reltype WHERE y.oid = item.objid
            LOOP
                FOR member IN
                    SELECT t.relation FROM _tenancy.tree(the_table) t, _tenancy.protection(t.relation) s
                    WHERE s.kind <> 'system' AND _tenancy.isolated_column(t.relation) <> s.tenant_column
                LOOP
                    PERFORM _tenancy.follow_column(member);
                END LOOP;
                PERFORM _tenancy.protect_new(the_table);
                -- By their names, columns are left out of the audit trail or masked.
                SELECT c INTO problem FROM tenancy.audited_tables a, unnest(a.excluded || a.masked) AS c
                WHERE a.relation = the_table
                  AND NOT EXISTS (SELECT FROM pg_attribute t WHERE t.attrelid = the_table AND t.attname = c AND NOT t.attisdropped);
                IF FOUND THEN
                    PERFORM _tenancy.raise('PROTECTION_WEAKENED', format('audited table %s has no column "%s" any more', the_table, problem),
                        jsonb_build_object('relation', the_table::text, 'column', problem),
                        format('Have an administrator audit it without that column first: SELECT tenancy.audit(%L);', the_table));
                END IF;
            END LOOP;
        ELSIF item.object_type = 'table' THEN
            IF cardinality(item.changes) > 0 THEN
                PERFORM _tenancy.refuse_weakness(item.objid::regclass, item.changes);
            END IF;
            -- What an extension's script makes is the extension's.
            IF (item.changes IS NULL OR 'COLUMN' = ANY (item.changes)) AND NOT item.in_extension THEN
                PERFORM _tenancy.protect_new(item.objid::regclass);
            END IF;
            -- ATTACH PARTITION names the parent, and what comes may have partitions of its own.
            IF 'CHILD' = ANY (item.changes) THEN
                FOR member IN SELECT t.relation FROM _tenancy.tree(item.objid::regclass) t WHERE NOT _tenancy.is_protected(t.relation) LOOP
                    PERFORM _tenancy.protect_new(member);
                END LOOP;
                -- One that is protected already may have come to a table that is metered.
                FOR member IN
                    SELECT t.relation FROM _tenancy.tree(item.objid::regclass) t, _tenancy.protection(t.relation) s
                    WHERE EXISTS (SELECT FROM _tenancy.own_triggers(t.relation, s.kind) o
                                  WHERE o.is_due AND o.name NOT IN (SELECT p.name FROM _tenancy.present_triggers(t.relation, s.kind) p))
                LOOP
                    PERFORM _tenancy.fit_meters(member);
                END LOOP;
            END IF;
            -- A query that names a parent uses no policy of its children: one that is not protected would show them all.
            IF item.changes IS NULL OR 'CHILD' = ANY (item.changes) THEN
                SELECT t.relation, i.inhparent INTO member, parent
                FROM _tenancy.tree(item.objid::regclass) t JOIN pg_inherits i ON i.inhrelid = t.relation
                WHERE _tenancy.is_protected(t.relation) AND NOT _tenancy.is_protected(i.inhparent) AND NOT _tenancy.is_changing(i.inhparent)
                LIMIT 1;
                IF FOUND THEN
                    PERFORM _tenancy.raise('PROTECTION_WEAKENED', format('protected table %s would lose its isolation', member),
                        jsonb_build_object('relation', member::text, 'problem', format('its parent %s is not protected', parent)),
                        format('Protect the parent first: SELECT tenancy.protect(%L);', parent));
                END IF;
                SELECT t.relation, f.problem INTO member, problem
                FROM _tenancy.tree(item.objid::regclass) t, _tenancy.family_problems(t.relation) AS f(problem)
                WHERE _tenancy.is_protected(t.relation) LIMIT 1;
                IF FOUND THEN
                    PERFORM _tenancy.raise('PROTECTION_WEAKENED', format('protected table %s would lose its isolation', member),
                        jsonb_build_object('relation', member::text, 'problem', problem),
                        'Give up the protection of the child first, with tenancy.unprotect: it is protected as its parent then.');
                END IF;
            END IF;
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _tenancy.guard_ddl() IS
'event trigger: a command that weakens a protected table is refused, and what is to be protected is';
CREATE EVENT TRIGGER tenancy_guard_ddl ON ddl_command_end
    -- A column of a table can be renamed by the commands for what is like a table.
    WHEN TAG IN ('ALTER TABLE', 'CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'CREATE SCHEMA', 'ALTER VIEW',
                 'ALTER MATERIALIZED VIEW', 'ALTER FOREIGN TABLE', 'ALTER TYPE', 'CREATE POLICY', 'ALTER POLICY', 'CREATE TRIGGER', 'ALTER TRIGGER')
    EXECUTE FUNCTION _tenancy.guard_ddl();
ALTER EVENT TRIGGER tenancy_guard_ddl ENABLE ALWAYS;

-- The event trigger on what is dropped while its table stays.
CREATE FUNCTION _tenancy.guard_drop() RETURNS event_trigger
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    item record;
BEGIN
    IF _tenancy.is_restoring() THEN
        RETURN;
    END IF;
    FOR item IN
        -- By today's name: a transaction that keeps its snapshot would find none where the table has been renamed since.
        SELECT DISTINCT to_regclass(format('%I.%I', d.address_names[1], d.address_names[2])) AS relation,
               CASE d.object_type WHEN 'policy' THEN 'POLICY' ELSE 'TRIGGERS' END AS change
        FROM pg_event_trigger_dropped_objects() d
        WHERE d.object_type IN ('policy', 'trigger') AND d.address_names[3] ~ '^tenancy_'
          AND to_regclass(format('%I.%I', d.address_names[1], d.address_names[2])) IS NOT NULL
    LOOP
        PERFORM _tenancy.refuse_old_snapshot(ARRAY[item.relation], NULL);
        PERFORM _tenancy.refuse_weakness(item.relation, ARRAY[item.change]);
    END LOOP;
END
$$;
COMMENT ON FUNCTION _tenancy.guard_drop() IS 'event trigger: the policies and triggers of a protected table are not dropped';
CREATE EVENT TRIGGER tenancy_guard_drop ON sql_drop
    EXECUTE FUNCTION _tenancy.guard_drop();
ALTER EVENT TRIGGER tenancy_guard_drop ENABLE ALWAYS;
