-- The end of a tenant: its rows, and what the extension has of it. Re-runnable.

COMMENT ON FUNCTION _tenancy.move_tenant_rows(oid, text, text, text) IS 'removes or inserts rows of a tenant as the owner of their table, in the context of the tenant; for tenancy.delete_tenant and tenancy.import_tenant';
COMMENT ON FUNCTION _tenancy.change_rows(oid, text) IS 'changes rows of a table that is not protected yet as its owner; for tenancy.migrate_table';
COMMENT ON FUNCTION _tenancy.read_as_owner(oid, text) IS 'reads a table with the rights of its owner, without its policies';
COMMENT ON FUNCTION _tenancy.check_constraints_now() IS 'checks all deferred constraints now, with the rights of the client';
COMMENT ON FUNCTION _tenancy.settle_accounts(text) IS 'takes off what a tenant uses of what is tracked; for tenancy.delete_tenant';

CREATE FUNCTION _tenancy.roots() RETURNS TABLE (relation regclass, root regclass)
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE down (oid, root) AS (
        SELECT c.oid, c.oid FROM pg_class c JOIN _tenancy.protected p ON p.relation = c.oid AND p.kind <> 'system' WHERE NOT c.relispartition
        UNION
        SELECT i.inhrelid, d.root FROM down d JOIN pg_inherits i ON i.inhparent = d.oid JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition
    )
    SELECT d.oid::regclass, d.root::regclass FROM down d
$$;
COMMENT ON FUNCTION _tenancy.roots() IS 'the tables that hold rows of tenants, and their partitions, each with the table that it is a partition of';

-- place: a table has a greater one than those that its foreign keys lead to, unless they lead back to it: by the number of those. Where they do, circle is the same for all of
-- them; else it is null. A key of a partition counts as one of its table.
CREATE FUNCTION _tenancy.tables_by_keys() RETURNS TABLE (relation regclass, kind text, tenant_column name, place bigint, circle oid)
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
    WITH RECURSIVE root AS MATERIALIZED (
        SELECT * FROM _tenancy.roots()
    ), edge AS MATERIALIZED (
        SELECT DISTINCT f.root::oid AS a, t.root::oid AS b
        FROM pg_constraint k JOIN root f ON f.relation = k.conrelid JOIN root t ON t.relation = k.confrelid WHERE k.contype = 'f'
    ), reach (a, b) AS (
        SELECT e.a, e.b FROM edge e UNION SELECT r.a, e.b FROM reach r JOIN edge e ON e.a = r.b
    ), found AS MATERIALIZED (
        SELECT r.a, r.b, EXISTS (SELECT FROM reach back WHERE back.a = r.b AND back.b = r.a) AS leads_back FROM reach r
    )
    SELECT p.relation, p.kind, p.tenant_column, count(f.b) FILTER (WHERE NOT f.leads_back), min(f.b) FILTER (WHERE f.leads_back)
    FROM _tenancy.protected p JOIN root r ON r.root = p.relation AND r.relation = p.relation LEFT JOIN found f ON f.a = p.relation
    GROUP BY p.relation, p.kind, p.tenant_column
$$;
COMMENT ON FUNCTION _tenancy.tables_by_keys() IS 'the tables that hold rows of tenants, a partitioned one whole, in the order of their foreign keys';

-- Raises unless tables have one owner: what a statement about all of them calls, has his rights.
CREATE FUNCTION _tenancy.check_owner(relations regclass[]) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF (SELECT count(DISTINCT c.relowner) FROM pg_class c WHERE c.oid = ANY (relations::oid[])) > 1 THEN
        PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('tables %s refer to each other, and have several owners', (SELECT string_agg(DISTINCT r::text, ', ') FROM unnest(relations) AS r)),
            jsonb_build_object('relation', relations[1]::text), 'Give them, and their partitions, one owner: ALTER TABLE ... OWNER TO ...;');
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.check_owner(regclass[]) IS 'raises unless tables have one owner';

-- Waits for transactions that have written to tables and still run: for whom the tenant may have been there yet.
CREATE FUNCTION _tenancy.wait_for_writers(relations regclass[]) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    writers text[];
    is_told boolean := false;
    begun constant timestamptz := clock_timestamp();
BEGIN
    writers := ARRAY(SELECT DISTINCT l.virtualtransaction FROM pg_locks l
                     WHERE l.locktype = 'relation' AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
                       AND l.relation = ANY (relations::oid[]) AND l.granted AND l.mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
                       AND l.pid IS DISTINCT FROM pg_backend_pid());
    LOOP
        writers := ARRAY(SELECT DISTINCT l.virtualtransaction FROM pg_locks l WHERE l.virtualtransaction = ANY (writers) AND l.locktype = 'relation');
        EXIT WHEN cardinality(writers) = 0;
        IF NOT is_told AND clock_timestamp() > begun + interval '5 seconds' THEN
            RAISE NOTICE 'waiting for % that have written to tables of tenants', CASE cardinality(writers) WHEN 1 THEN '1 transaction' ELSE cardinality(writers) || ' transactions' END
                USING HINT = 'Prepared ones: SELECT * FROM pg_prepared_xacts;';
            is_told := true;
        END IF;
        PERFORM pg_sleep(0.05);
    END LOOP;
END
$$;
COMMENT ON FUNCTION _tenancy.wait_for_writers(regclass[]) IS 'waits for transactions that have written to tables';

-- Removes rows of a tenant, max_rows at most or (null) all; says how many, and whether there are no more. Children first, each partition for itself.
-- A constraint that is deferred would be checked with the rights of whoever is there then, so all are checked at once.
CREATE FUNCTION _tenancy.delete_rows(the_id text, max_rows bigint, OUT deleted bigint, OUT is_done boolean)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    item record;
    part record;
    step bigint;
BEGIN
    deleted := 0;
    PERFORM _tenancy.check_constraints_now();
    FOR item IN
        SELECT min(t.place) AS place, t.circle, string_agg(DISTINCT t.relation::text, ', ') AS names, 0::bigint AS deleted,
               array_agg(p.part ORDER BY p.part::text) AS parts, array_agg(format('d.%I = %L', t.tenant_column, the_id) ORDER BY p.part::text) AS conditions
        FROM _tenancy.tables_by_keys() t JOIN LATERAL (SELECT r.relation AS part FROM _tenancy.roots() r JOIN pg_class c ON c.oid = r.relation AND c.relkind = 'r' WHERE r.root = t.relation) p ON true
        WHERE _tenancy.has_form(t.relation, t.tenant_column, the_id)
        GROUP BY coalesce(t.circle, t.relation), t.circle ORDER BY 1 DESC, 3
    LOOP
        IF item.circle IS NOT NULL THEN
            -- Rows that refer to others of the same table, or round a circle, go in one statement: one after the other, they would be left without what they refer to.
            SELECT format('WITH %s %s', string_agg(format('d%s AS (DELETE FROM ONLY %s d WHERE %s RETURNING 1)', n, item.parts[n], item.conditions[n]), ', '),
                          string_agg(format('SELECT FROM d%s', n), ' UNION ALL ')) AS statement
                INTO part FROM generate_subscripts(item.parts, 1) AS n;
            IF EXISTS (SELECT FROM unnest(item.parts, item.conditions) AS u (part, condition) WHERE _tenancy.has_rows(u.part, u.condition)) THEN
                PERFORM _tenancy.check_owner(item.parts);
                item.deleted := _tenancy.move_tenant_rows(item.parts[1], the_id, part.statement, NULL);
            END IF;
            deleted := deleted + item.deleted;
        END IF;
        FOR part IN SELECT item.parts[n] AS relation, item.conditions[n] AS condition FROM generate_subscripts(item.parts, 1) AS n LOOP
            IF item.circle IS NULL THEN
                step := _tenancy.move_tenant_rows(part.relation, the_id,
                    format('DELETE FROM ONLY %s d WHERE %s', part.relation, CASE WHEN max_rows IS NULL THEN part.condition ELSE
                        format('d.ctid = ANY (ARRAY(SELECT d.ctid FROM ONLY %s d WHERE %s LIMIT %s))', part.relation, part.condition, greatest(max_rows - deleted, 1)) END), NULL);
                deleted := deleted + step;
                item.deleted := item.deleted + step;
                IF deleted >= max_rows THEN
                    is_done := false;
                    RETURN;
                END IF;
            END IF;
            -- Where there are fewer than were asked for, there are no more: but for a trigger that keeps them, or one that makes new ones.
            IF _tenancy.has_rows(part.relation, part.condition) THEN
                PERFORM _tenancy.raise('ROWS_REMAIN', format('rows of table %s were not deleted', part.relation), jsonb_build_object('relation', part.relation::text, 'tenant_id', the_id),
                    'Look for a trigger or rule of the table that keeps rows, or makes new ones, or a policy that hides them from its owner.');
            END IF;
        END LOOP;
        IF item.deleted > 0 AND max_rows IS NULL THEN
            RAISE NOTICE '%: % rows deleted', item.names, item.deleted;
        END IF;
    END LOOP;
    -- Triggers may have made rows in tables that were done before.
    SELECT r.relation, t.tenant_column INTO part
    FROM _tenancy.tables_by_keys() t JOIN _tenancy.roots() r ON r.root = t.relation JOIN pg_class c ON c.oid = r.relation AND c.relkind = 'r'
    WHERE _tenancy.has_form(t.relation, t.tenant_column, the_id) AND _tenancy.has_rows(r.relation, format('d.%I = %L', t.tenant_column, the_id)) LIMIT 1;
    is_done := NOT FOUND;
    IF NOT is_done AND deleted = 0 THEN
        PERFORM _tenancy.raise('ROWS_REMAIN', format('rows of table %s were not deleted', part.relation), jsonb_build_object('relation', part.relation::text, 'tenant_id', the_id));
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.delete_rows(text, bigint) IS 'removes rows of a tenant from all tables';

CREATE FUNCTION _tenancy.fits_type(tenant_id text, column_type regtype) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE column_type WHEN 'uuid'::regtype THEN t.id_uuid IS NOT NULL WHEN 'bigint'::regtype THEN t.id_bigint IS NOT NULL
                            WHEN 'integer'::regtype THEN t.id_bigint BETWEEN -2147483648 AND 2147483647 ELSE true END
    FROM _tenancy.tenants t WHERE t.id = fits_type.tenant_id
$$;
COMMENT ON FUNCTION _tenancy.fits_type(text, regtype) IS 'whether a tenant has a form of a type';

-- Whether a column can hold the id: a uuid column holds no rows of "acme".
CREATE FUNCTION _tenancy.has_form(relation regclass, tenant_column name, the_id text) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT _tenancy.fits_type(the_id, a.atttypid::regtype) FROM pg_attribute a WHERE a.attrelid = has_form.relation AND a.attname = has_form.tenant_column
$$;
COMMENT ON FUNCTION _tenancy.has_form(regclass, name, text) IS 'whether a tenant column can hold the id of a tenant';

CREATE FUNCTION _tenancy.has_rows(part regclass, condition text) RETURNS boolean
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM _tenancy.read_as_owner(part, format('SELECT ''x''::text FROM ONLY %s d WHERE %s LIMIT 1', part, condition)))
$$;
COMMENT ON FUNCTION _tenancy.has_rows(regclass, text) IS 'whether a table has rows that meet a condition of ours';

-- Raises where rows of a tenant could not be deleted, before any is.
CREATE FUNCTION _tenancy.check_circles(the_id text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    PERFORM _tenancy.check_owner(k.parts)
    FROM (SELECT array_agg(r.relation ORDER BY r.relation::text) AS parts, array_agg(format('d.%I = %L', t.tenant_column, the_id) ORDER BY r.relation::text) AS conditions
          FROM _tenancy.tables_by_keys() t JOIN _tenancy.roots() r ON r.root = t.relation JOIN pg_class c ON c.oid = r.relation AND c.relkind = 'r'
          WHERE t.circle IS NOT NULL AND _tenancy.has_form(t.relation, t.tenant_column, the_id) GROUP BY t.circle HAVING count(DISTINCT c.relowner) > 1) k
    WHERE EXISTS (SELECT FROM unnest(k.parts, k.conditions) AS u (part, condition) WHERE _tenancy.has_rows(u.part, u.condition));
END
$$;
COMMENT ON FUNCTION _tenancy.check_circles(text) IS 'raises where tables of a circle have rows of a tenant and several owners';

-- What is left of a tenant when its rows are gone. The audit trail and the ledger of usage stay: they are records of what was.
CREATE FUNCTION _tenancy.forget_tenant(the_id text, deleted bigint) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    PERFORM _tenancy.settle_accounts(the_id);
    PERFORM tenancy.remove_quota(q.scope, q.name, q.resource, nullif(q.period, '')) FROM _tenancy.quotas q WHERE q.scope = 'tenant' AND q.name = the_id;
    DELETE FROM _tenancy.usage_keys k WHERE k.tenant_id = the_id;
    DELETE FROM _tenancy.members m WHERE m.tenant_id = the_id;
    DELETE FROM _tenancy.issuers i WHERE i.tenant_id = the_id;
    DELETE FROM _tenancy.used_tokens u WHERE u.tenant_id = the_id;
    PERFORM tenancy.invalidate_cache(the_id);
    DELETE FROM _tenancy.metric_entries e WHERE e.tenant_id = the_id;
    DELETE FROM _tenancy.metric_series s WHERE s.tenant_id = the_id;
    DELETE FROM _tenancy.health_reports h WHERE h.tenant_id = the_id;
    -- Another tenant may get the id one day, and must not get what this one was open to.
    DELETE FROM _tenancy.cross_tenant_grants g WHERE g.tenant_id = the_id;
    PERFORM _tenancy.stat_tenants_forget(the_id);
    DELETE FROM _tenancy.deletions d WHERE d.tenant_id = the_id;
    DELETE FROM _tenancy.tenants t WHERE t.id = the_id;
    PERFORM _tenancy.note_audit('DELETE_TENANT', jsonb_build_object('tenant_id', the_id, 'rows', deleted));
    RAISE NOTICE 'tenant "%" is deleted', the_id;
END
$$;
COMMENT ON FUNCTION _tenancy.forget_tenant(text, bigint) IS 'removes what the extension has of a tenant whose rows are gone';

-- The tenant is locked, so that nobody else deletes it, or lets it in again, meanwhile.
CREATE FUNCTION _tenancy.lock_tenant(tenant_id text, OUT the_id text, OUT was_active boolean)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    status text;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'a tenant must be deleted in a transaction at READ COMMITTED', '{}', 'BEGIN ISOLATION LEVEL READ COMMITTED;');
    END IF;
    the_id := _tenancy.registered(lock_tenant.tenant_id);
    SELECT t.status INTO status FROM _tenancy.tenants t WHERE t.id = the_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM _tenancy.registered(the_id);
    END IF;
    was_active := status = 'active';
END
$$;
COMMENT ON FUNCTION _tenancy.lock_tenant(text) IS 'locks a tenant that is to be deleted';

CREATE FUNCTION tenancy.delete_tenant(id text) RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    tenant record;
    relations regclass[];
    relation regclass;
    done record;
    deleted bigint := 0;
BEGIN
    PERFORM _tenancy.refuse_in_context('delete_tenant');
    tenant := _tenancy.lock_tenant(delete_tenant.id);
    relations := ARRAY(SELECT r.relation FROM _tenancy.roots() r ORDER BY r.relation::text);
    IF tenant.was_active THEN
        -- It is there for all others until this is committed.
        FOREACH relation IN ARRAY relations LOOP
            EXECUTE format('LOCK TABLE ONLY %s IN SHARE ROW EXCLUSIVE MODE', relation);
        END LOOP;
    ELSE
        PERFORM _tenancy.wait_for_writers(relations);
    END IF;
    FOR pass IN 1..10 LOOP
        done := _tenancy.delete_rows(tenant.the_id, NULL);
        deleted := deleted + done.deleted;
        EXIT WHEN done.is_done;
    END LOOP;
    IF NOT done.is_done THEN
        PERFORM _tenancy.raise('ROWS_REMAIN', 'rows of the tenant come back when they are deleted', jsonb_build_object('tenant_id', tenant.the_id),
            'Look for triggers that make rows in one table where those of another are deleted, and the other way round.');
    END IF;
    PERFORM _tenancy.forget_tenant(tenant.the_id, deleted);
    RETURN deleted;
END
$$;
COMMENT ON FUNCTION tenancy.delete_tenant(text) IS
'Deletes a tenant: its rows of all protected tables, those that refer to others first, and what the extension has of it (quotas, members, issuers, grants to cross to it, caches, metrics); returns how many rows
it was. What its tables'' triggers and foreign keys do is done, with the rights of the tables'' owners, and in the context of the tenant. Its audit trail, and its records of usage, stay until drop_audit and drop_usage, and the audit trail says that it was deleted.
A tenant that is active is there for others until this is committed, so all writers of protected tables wait meanwhile: archive it first, in a transaction of its own, and nobody does. In one
transaction: delete_tenant_in_batches takes many. Errors: TENANT_NOT_FOUND 42704, TENANT_ID_INVALID 22023, RELATION_NOT_SUPPORTED 42809 (tables with rows of the tenant that refer to each other in a circle have several owners), ROWS_REMAIN 55000 (a trigger keeps rows, or a policy hides them from the owner), PARAMETER_INVALID 22023 (not at READ COMMITTED),
TENANT_ACCESS_DENIED 42501 in the context of a tenant. Volatile. Granted to nobody.';

-- One transaction of delete_tenant_in_batches; whether that was the last. Step 0 locks the tenant out, and looks how far an earlier call has come.
CREATE FUNCTION _tenancy.delete_batch(id text, batch integer, step bigint, so_far bigint, OUT deleted bigint, OUT is_done boolean)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    tenant record;
BEGIN
    PERFORM _tenancy.refuse_in_context('delete_tenant_in_batches');
    IF batch IS NULL OR batch < 1 THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'batch must be at least 1', '{"argument": "batch"}');
    END IF;
    tenant := _tenancy.lock_tenant(delete_batch.id);
    is_done := false;
    deleted := so_far;
    IF step = 0 THEN
        PERFORM _tenancy.check_circles(tenant.the_id);
        IF tenant.was_active THEN
            PERFORM _tenancy.set_status(tenant.the_id, 'archived', 'is being deleted');
        END IF;
        deleted := coalesce((SELECT d.deleted FROM _tenancy.deletions d WHERE d.tenant_id = tenant.the_id), 0);
        RETURN;
    END IF;
    IF tenant.was_active THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('tenant "%s" was let in again', tenant.the_id), jsonb_build_object('tenant_id', tenant.the_id),
            'What is deleted so far stays so.');
    END IF;
    IF step = 1 THEN
        PERFORM _tenancy.wait_for_writers(ARRAY(SELECT r.relation FROM _tenancy.roots() r));
    END IF;
    SELECT so_far + d.deleted, d.is_done INTO deleted, is_done FROM _tenancy.delete_rows(tenant.the_id, batch) d;
    RAISE NOTICE '% rows deleted so far', deleted;
    IF is_done THEN
        PERFORM _tenancy.forget_tenant(tenant.the_id, deleted);
    ELSE
        INSERT INTO _tenancy.deletions AS d VALUES (tenant.the_id, delete_batch.deleted) ON CONFLICT ON CONSTRAINT deletions_pkey DO UPDATE SET deleted = excluded.deleted;
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.delete_batch(text, integer, bigint, bigint) IS 'one transaction of tenancy.delete_tenant_in_batches';

-- Without a SET clause, with which PostgreSQL would not let it commit in the middle; so every name has its schema, and there is no operator.
CREATE PROCEDURE tenancy.delete_tenant_in_batches(id text, batch integer DEFAULT 10000)
    LANGUAGE plpgsql
AS $$
DECLARE
    step record;
BEGIN
    step := _tenancy.delete_batch(delete_tenant_in_batches.id, delete_tenant_in_batches.batch, 0, 0);
    COMMIT;
    FOR number IN 1..2147483647 LOOP
        step := _tenancy.delete_batch(delete_tenant_in_batches.id, delete_tenant_in_batches.batch, number, step.deleted);
        COMMIT;
        EXIT WHEN step.is_done;
    END LOOP;
END
$$;
COMMENT ON PROCEDURE tenancy.delete_tenant_in_batches(text, integer) IS
'Does what delete_tenant does, in transactions of batch rows each: the first one archives the tenant, so that nobody waits, and the last one forgets it. Interrupted, it goes on where it was when it is
called again. Rows of tables that refer to themselves, or to each other in a circle, go at once. To be called outside a transaction block, or error 2D000. Other errors: those of
delete_tenant. Granted to nobody; refused in the context of a tenant.';
