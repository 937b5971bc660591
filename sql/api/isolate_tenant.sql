-- A tenant of a partitioned table gets a partition of its own, while the table is in use. Re-runnable.

CREATE TRIGGER tenancy_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _tenancy.isolated
    FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.announce_change();
-- One entry of the audit trail, of the tenant, instead of two for each row: nothing becomes of the rows.
CREATE TRIGGER tenancy_audit AFTER INSERT OR UPDATE OR DELETE ON _tenancy.isolated
    FOR EACH ROW EXECUTE FUNCTION _tenancy.audit_row('tenant_id', 'moved_by');
CREATE TRIGGER tenancy_audit_truncate AFTER TRUNCATE ON _tenancy.isolated
    FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.audit_row('');
ALTER TABLE _tenancy.isolated ENABLE ALWAYS TRIGGER tenancy_changed, ENABLE ALWAYS TRIGGER tenancy_audit,
    ENABLE ALWAYS TRIGGER tenancy_audit_truncate;

COMMENT ON FUNCTION _tenancy.isolate(oid, text, text, text) IS
'gives a tenant of a partitioned table a partition of its own; the caller must own the table';
COMMENT ON FUNCTION _tenancy.carry_rows(oid, oid, text, text, text) IS
'copies rows to a table that nobody uses yet, and when called again brings the copies up to what there is now';
COMMENT ON FUNCTION _tenancy.move_rows(oid, oid, text, text, text) IS
'does so for the last time, and removes the rows where they came from';
COMMENT ON FUNCTION _tenancy.add_known_check(oid, text) IS 'adds a CHECK that is known to hold, without reading the table';
COMMENT ON FUNCTION _tenancy.run_as_owner(oid, text, boolean) IS 'runs a command as the owner of a table, with or without the policies of its tables';

-- Keeps everybody from a table, the partition that rows leave, and whoever writes from what PostgreSQL locks to attach another; or gives up after
-- a while: whoever comes meanwhile waits behind us.
CREATE FUNCTION _tenancy.lock_to_attach(relation regclass, source regclass, is_last boolean) RETURNS boolean
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    one regclass;
BEGIN
    EXECUTE format('LOCK TABLE ONLY %s IN ACCESS EXCLUSIVE MODE', relation);
    FOR one IN SELECT DISTINCT l.part FROM pg_partitioned_table p, unnest(ARRAY[source, nullif(p.partdefid, 0)]) AS l(part)
               WHERE p.partrelid = relation AND l.part IS NOT NULL ORDER BY l.part LOOP
        EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', one);
    END LOOP;
    -- PostgreSQL clones the foreign keys from and to the table.
    FOR one IN
        SELECT DISTINCT o.other::regclass FROM pg_constraint k, unnest(ARRAY[k.conrelid, k.confrelid]) AS o(other)
        WHERE k.contype = 'f' AND k.conparentid = 0 AND lock_to_attach.relation IN (k.conrelid, k.confrelid) AND o.other <> lock_to_attach.relation ORDER BY 1
    LOOP
        EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', one);
    END LOOP;
    RETURN true;
EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
    IF is_last THEN
        RAISE;
    END IF;
    RETURN false;
END
$$;
COMMENT ON FUNCTION _tenancy.lock_to_attach(regclass, regclass, boolean) IS
'locks what must be locked to attach a partition; false where that takes too long, or an error at the last attempt';

-- Moves rows that have been copied to a table that will be a partition, and gives that the foreign keys of its parent; returns how many rows it was. The
-- locks are held.
CREATE FUNCTION _tenancy.move_to_partition(relation regclass, source regclass, part regclass, condition text, columns text, same_key text) RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    identity text;
    moved bigint := 0;
BEGIN
    -- What references rows of its own table is asked while they are still there.
    IF EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = relation AND k.confrelid = relation AND k.contype = 'f') THEN
        IF source IS NOT NULL THEN
            PERFORM _tenancy.carry_rows(source, part, condition, columns, same_key);
        END IF;
        PERFORM _tenancy.add_foreign_keys(relation, part, true);
    END IF;
    IF source IS NOT NULL THEN
        IF _tenancy.is_published_by_root(relation, source) THEN
            -- A removal that does not tell which row it was is not sent.
            identity := _tenancy.replica_identity(source);
            EXECUTE format('ALTER TABLE ONLY %s REPLICA IDENTITY NOTHING', source);
        END IF;
        moved := _tenancy.move_rows(source, part, condition, columns, same_key);
        IF identity IS NOT NULL THEN
            EXECUTE format('ALTER TABLE ONLY %s REPLICA IDENTITY %s', source, identity);
        END IF;
    END IF;
    PERFORM _tenancy.add_foreign_keys(relation, part, false);
    RETURN moved;
END
$$;
COMMENT ON FUNCTION _tenancy.move_to_partition(regclass, regclass, regclass, text, text, text) IS
'moves rows to a table that will be a partition, and gives that the foreign keys of its parent; returns how many';

-- Attaches a partition to which the rows have been moved. PostgreSQL simplifies what CHECKs and indexes are made of then, and so calls functions of the
-- owner's: with the owner's rights.
CREATE FUNCTION _tenancy.attach_partition(relation regclass, source regclass, others text, part regclass, tenant_column name, constant text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    default_part regclass := (SELECT p.partdefid FROM pg_partitioned_table p JOIN pg_class c ON c.oid = p.partdefid AND c.relkind = 'r'
                              WHERE p.partrelid = relation);
    checked regclass[] := '{}';
    item record;
BEGIN
    PERFORM _tenancy.begin_change(m.relation) FROM unnest(ARRAY[source, part]) AS m(relation) WHERE m.relation IS NOT NULL;
    -- PostgreSQL would read tables that may be large while everybody waits. An index that the column leads tells whether a row is left, as it
    -- does for unique constraints and foreign keys; and the default partition never had one of another's list.
    IF source IS NOT NULL AND _tenancy.has_leading_index(source, tenant_column) AND others !~ '(^|, )NULL(,|$)' THEN
        FOR item IN
            SELECT * FROM (VALUES (source, CASE others WHEN 'DEFAULT' THEN format('%I IS NULL OR %1$I <> %s', tenant_column, constant)
                                           ELSE format('%I IS NOT NULL AND %1$I IN (%s)', tenant_column, others) END),
                                  (nullif(default_part, source), format('%I IS NULL OR %1$I NOT IN (%s, %s)', tenant_column, constant, others)))
                AS m(relation, expression) WHERE m.relation IS NOT NULL
        LOOP
            PERFORM _tenancy.add_known_check(item.relation, format('ALTER TABLE %s ADD CONSTRAINT tenancy_left CHECK (%s)', item.relation, item.expression));
            checked := checked || item.relation;
        END LOOP;
    END IF;
    IF others <> 'DEFAULT' THEN
        PERFORM _tenancy.run_as_owner(relation, format('ALTER TABLE %s DETACH PARTITION %s', relation, source), false);
        -- PostgreSQL before 18 attaches no table that has any with transition tables.
        FOR item IN SELECT t.tgname AS name FROM pg_trigger t WHERE t.tgrelid = source AND t.tgfoid = '_tenancy.meter_rows()'::regprocedure LOOP
            PERFORM _tenancy.run_as_owner(source, format('DROP TRIGGER %I ON %s', item.name, source), false);
        END LOOP;
        PERFORM _tenancy.run_as_owner(relation, format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES IN (%s)', relation, source, others), false);
    END IF;
    PERFORM _tenancy.run_as_owner(relation, format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES IN (%s)', relation, part, constant), false);
    PERFORM _tenancy.run_as_owner(part, format('ALTER TABLE %s DROP CONSTRAINT tenancy_isolated', part), false);
    FOR item IN SELECT c AS relation FROM unnest(checked) AS c LOOP
        PERFORM _tenancy.run_as_owner(item.relation, format('ALTER TABLE %s DROP CONSTRAINT tenancy_left', item.relation), false);
    END LOOP;
    IF source IS NOT NULL AND _tenancy.replica_identity(source) <> 'DEFAULT' THEN
        PERFORM _tenancy.run_as_owner(part, format('ALTER TABLE %s REPLICA IDENTITY %s', part, _tenancy.replica_identity(source, part)), false);
    END IF;
    FOR item IN
        SELECT m.relation FROM unnest(ARRAY[source, part]) AS m(relation), _tenancy.protection(m.relation) p
        WHERE EXISTS (SELECT FROM _tenancy.own_triggers(m.relation, p.kind) o
                      WHERE o.is_due AND o.name NOT IN (SELECT t.name FROM _tenancy.present_triggers(m.relation, p.kind) t))
    LOOP
        PERFORM _tenancy.fit_meters(item.relation);
    END LOOP;
    PERFORM _tenancy.end_change(m.relation) FROM unnest(ARRAY[source, part]) AS m(relation) WHERE m.relation IS NOT NULL;
END
$$;
COMMENT ON FUNCTION _tenancy.attach_partition(regclass, regclass, text, regclass, name, text) IS 'attaches a partition to which rows have been moved';

-- The steps of tenancy.isolate_tenant, with the rights of the extension's owner; role is who has called it. What reads or checks rows runs as the owner of the table.
CREATE FUNCTION _tenancy.isolate_as(relation regclass, tenant_id text, partition_name text, tablespace text, role oid) RETURNS regclass
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    tenant_column name;
    class pg_class;
    constant text;
    condition text;
    columns text;
    same_key text;
    source regclass;
    others text;
    part regclass;
    part_name text := partition_name;
    moved bigint;
    patience text := current_setting('lock_timeout');
    is_locked boolean := false;
    done text[];
    item record;
BEGIN
    PERFORM _tenancy.check_partitioned(relation);
    -- One tenant at a time; the table stays as it is, and everybody reads and writes.
    EXECUTE format('LOCK TABLE ONLY %s IN SHARE UPDATE EXCLUSIVE MODE', relation);
    PERFORM _tenancy.refuse_old_snapshot(ARRAY[relation], NULL);
    PERFORM _tenancy.check_relation(relation);
    PERFORM _tenancy.check_partitioned(relation);
    SELECT * INTO STRICT class FROM pg_class c WHERE c.oid = relation;
    -- It may have been given to another while this waited.
    IF NOT pg_has_role(role, class.relowner, 'USAGE') THEN
        PERFORM _tenancy.raise('RELATION_NOT_OWNED', format('must be owner of table %s', relation), jsonb_build_object('relation', relation::text));
    END IF;
    SELECT p.tenant_column INTO STRICT tenant_column FROM _tenancy.protection(relation) p;
    constant := _tenancy.tenant_constant(relation, tenant_column, tenant_id);
    IF cardinality(_tenancy.unregistered(ARRAY[tenant_id])) > 0 THEN
        PERFORM _tenancy.raise('TENANT_NOT_FOUND', format('tenant "%s" does not exist', tenant_id), jsonb_build_object('tenant_id', tenant_id));
    END IF;
    SELECT f.partition, f.others INTO source, others FROM _tenancy.partition_for(relation, tenant_column, tenant_id) f;
    IF source IS NOT NULL AND others IS NULL THEN
        RAISE NOTICE 'tenant "%" of table % already has a partition of its own', tenant_id, relation USING DETAIL = source::text;
        RETURN source;
    END IF;
    FOR item IN SELECT r.role FROM unnest(ARRAY[role, class.relowner]) AS r(role) WHERE NOT has_schema_privilege(r.role, class.relnamespace, 'CREATE') LOOP
        PERFORM _tenancy.raise('RELATION_NOT_OWNED', format('permission denied for schema %s', class.relnamespace::regnamespace),
            jsonb_build_object('relation', relation::text), format('GRANT CREATE ON SCHEMA %s TO %s;', class.relnamespace::regnamespace, item.role::regrole));
    END LOOP;
    IF tablespace IS NOT NULL AND NOT has_tablespace_privilege(role, tablespace, 'CREATE') THEN
        PERFORM _tenancy.raise('RELATION_NOT_OWNED', format('permission denied for tablespace %s', tablespace),
            jsonb_build_object('relation', relation::text), format('GRANT CREATE ON TABLESPACE %I TO %s;', tablespace, role::regrole));
    END IF;
    IF source IS NOT NULL THEN
        PERFORM _tenancy.check_source(relation, source, others), _tenancy.is_published_by_root(relation, source);
    END IF;

    IF part_name IS NULL THEN
        part_name := class.relname || '_' || tenant_id;
        -- Too long, or taken: numbers are neither.
        IF octet_length(part_name) > 63 OR EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = class.relnamespace AND c.relname = part_name)
           OR EXISTS (SELECT FROM pg_type t WHERE t.typnamespace = class.relnamespace AND t.typname = part_name) THEN
            part_name := format('tenancy_%s_%s', relation::oid, left(md5(tenant_id), 12));
        END IF;
    END IF;
    part := _tenancy.make_partition(relation, source, part_name, tablespace, format('%I IS NOT NULL AND %1$I = %s', tenant_column, constant));
    condition := format('d.%I = %s', tenant_column, constant);
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) INTO columns
    FROM pg_attribute a WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '';
    -- Rows of a journal are not changed, and its guard would refuse the statement.
    same_key := (SELECT _tenancy.same_key(relation) FROM _tenancy.protection(relation) p WHERE p.kind <> 'audit');
    IF source IS NOT NULL THEN
        RAISE NOTICE 'copying the rows of tenant "%" from % to %', tenant_id, source, part;
        PERFORM _tenancy.carry_rows(source, part, condition, columns, same_key);
    END IF;
    PERFORM _tenancy.make_indexes(relation, part);
    IF source IS NOT NULL THEN
        EXECUTE format('ANALYZE %s', part);
        -- What has been changed meanwhile, until it is so little that it does not matter under the lock.
        FOR round IN 1..5 LOOP
            EXIT WHEN _tenancy.carry_rows(source, part, condition, columns, same_key) < 1000;
        END LOOP;
    END IF;

    FOR attempt IN 1..10 LOOP
        PERFORM set_config('lock_timeout', CASE patience WHEN '0' THEN '2s' ELSE patience END, true);
        is_locked := _tenancy.lock_to_attach(relation, source, attempt = 10);
        -- Until the partition is attached: whatever else is waited for, everybody waits for.
        EXIT WHEN is_locked;
        PERFORM set_config('lock_timeout', patience, true);
        PERFORM pg_sleep(least(attempt, 5) * 0.2 + random() * 0.2);
        IF source IS NOT NULL THEN
            PERFORM _tenancy.carry_rows(source, part, condition, columns, same_key);
        END IF;
    END LOOP;
    IF source IS NOT NULL THEN
        -- What may have come meanwhile.
        PERFORM _tenancy.check_source(relation, source, others);
    END IF;
    moved := _tenancy.move_to_partition(relation, source, part, condition, columns, same_key);
    PERFORM _tenancy.attach_partition(relation, source, others, part, tenant_column, constant);
    PERFORM set_config('lock_timeout', patience, true);
    FOR item IN
        SELECT m.relation, w.problem FROM unnest(ARRAY[source, part]) AS m(relation), _tenancy.protection(m.relation) p,
            LATERAL (SELECT _tenancy.weakness(m.relation, p.kind, p.tenant_column, p.undo, '{ROW SECURITY,NOT NULL,POLICY,TRIGGERS,TRIGGER *}')
                     UNION ALL SELECT _tenancy.family_problems(m.relation)) AS w(problem)
        WHERE w.problem IS NOT NULL
    LOOP
        PERFORM _tenancy.raise('PROTECTION_WEAKENED', format('protected table %s would lose its isolation', item.relation),
            jsonb_build_object('relation', item.relation::text, 'problem', item.problem));
    END LOOP;
    INSERT INTO _tenancy.isolated (partition, moved_by, relation, tenant_id, moved_rows)
        VALUES (part, pg_current_xact_id()::text::bigint, isolate_as.relation, isolate_as.tenant_id, moved);
    done := CASE WHEN source IS NULL THEN ARRAY['no partition had rows of it']
                 ELSE ARRAY[format('%s %s moved from %s', moved, CASE moved WHEN 1 THEN 'row' ELSE 'rows' END, source)] END
        || ARRAY(SELECT format('index %s, which is not of the table, was not made', i.indexrelid::regclass) FROM pg_index i
                 WHERE i.indrelid = source AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid) ORDER BY 1);
    RAISE NOTICE 'tenant "%" of table % has partition %', tenant_id, relation, part USING DETAIL = array_to_string(done, E'\n');
    RETURN part;
END
$$;
COMMENT ON FUNCTION _tenancy.isolate_as(regclass, text, text, text, oid) IS
'gives a tenant of a table a partition of its own, for a role that owns the table; for the library';

CREATE FUNCTION tenancy.isolate_tenant(relation regclass, tenant_id text, partition_name name DEFAULT NULL, tablespace name DEFAULT NULL)
    RETURNS regclass
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('isolate_tenant');
    IF isolate_tenant.relation IS NULL OR isolate_tenant.tenant_id IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'relation and tenant_id must not be null');
    END IF;
    PERFORM _tenancy.check_relation(isolate_tenant.relation);
    RETURN _tenancy.isolate(isolate_tenant.relation, tenancy.normalize_tenant_id(isolate_tenant.tenant_id),
                            isolate_tenant.partition_name::text, isolate_tenant.tablespace::text);
END
$$;
COMMENT ON FUNCTION tenancy.isolate_tenant(regclass, text, name, name) IS
'Gives a tenant of a protected table, PARTITION BY LIST of its tenant column, a partition of its own, moves its rows there out of the
default partition or one that it shares, and returns the partition; that which it has already, if so. partition_name: null for the
table''s name and the tenant''s id. tablespace: null for that of the partition that the rows come from. Everybody reads and writes while
rows are copied; what is changed meanwhile is copied at the end, under an ACCESS EXCLUSIVE lock on the table, for which it waits up
to lock_timeout (where that is 0, two seconds) ten times. That lock is held until the transaction ends, so call it in one of its own. Errors: RELATION_NOT_PROTECTED 55000,
RELATION_NOT_SUPPORTED 42809, RELATION_NOT_OWNED 42501, TENANT_NOT_FOUND 42704, TENANT_ID_INVALID 22023, PARAMETER_INVALID 22023,
PROTECTION_CHANGED 40001; lock_not_available 55P03. Volatile. PUBLIC may call it, with the rights of the caller, who must own the
table; refused in the context of a tenant.';
