-- Metering: counting what tables hold. Re-runnable. Granted to nobody: a resource is the whole database's, and whoever meters a table
-- decides what all tenants are charged for it.

CREATE FUNCTION _tenancy.meter_rows() RETURNS trigger
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'tenancy_meter_rows';
COMMENT ON FUNCTION _tenancy.meter_rows() IS
'trigger on metered and watched tables: charges each tenant for what a statement did to its rows, and notes for caches that they have changed';

COMMENT ON FUNCTION _tenancy.recount(regclass, text, boolean) IS
'counts a resource anew, and records the difference if asked for; the caller must own the table';
COMMENT ON FUNCTION _tenancy.recount_after_drop(text) IS 'counts a resource anew after a table that was metered for it is gone';
COMMENT ON FUNCTION _tenancy.start_meter(regclass, text, text) IS
'meters a table for a resource; the caller must own it';
COMMENT ON FUNCTION _tenancy.fit_meters(oid) IS
'gives a table the triggers that its meters and those of its parents ask for; the caller must own it';
COMMENT ON FUNCTION _tenancy.stop_meter(regclass, text) IS
'no longer meters a table for a resource, and counts the resource anew; the caller must own the table';

CREATE FUNCTION _tenancy.is_metered(resource text) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM _tenancy.meters m WHERE m.resource = is_metered.resource)
$$;
COMMENT ON FUNCTION _tenancy.is_metered(text) IS 'whether a table is metered for the resource';

CREATE FUNCTION _tenancy.is_used(resource text) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (
        SELECT FROM (SELECT t.tenant_id, t.amount FROM _tenancy.usage_totals t WHERE t.resource = is_used.resource
                     UNION ALL
                     SELECT o.tenant_id, o.amount FROM _tenancy.usage_open o WHERE o.resource = is_used.resource) AS u
        GROUP BY u.tenant_id HAVING sum(u.amount) <> 0)
$$;
COMMENT ON FUNCTION _tenancy.is_used(text) IS 'whether any tenant uses the resource';

CREATE FUNCTION _tenancy.meters_of(relation regclass) RETURNS TABLE (resource text, tenant_column name, measure text)
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT m.resource, m.tenant_column, m.measure FROM _tenancy.meters m WHERE m.relation = meters_of.relation ORDER BY m.resource
$$;
COMMENT ON FUNCTION _tenancy.meters_of(regclass) IS 'the meters of a table';

CREATE FUNCTION _tenancy.is_watched(relation regclass) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM _tenancy.cache_watches w WHERE w.relation = is_watched.relation)
$$;
COMMENT ON FUNCTION _tenancy.is_watched(regclass) IS 'whether a table is watched for a cache';

-- Whether the statements of a table are counted: it is metered, or watched for a cache, or what it is a partition or child of.
CREATE FUNCTION _tenancy.is_counted(relation regclass) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE up (relation) AS (
        SELECT is_counted.relation::oid
        UNION
        SELECT i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.relation
    )
    SELECT EXISTS (SELECT FROM up u, _tenancy.meters_of(u.relation)) OR EXISTS (SELECT FROM up u WHERE _tenancy.is_watched(u.relation))
$$;
COMMENT ON FUNCTION _tenancy.is_counted(regclass) IS 'whether a table is metered or watched for a cache, or one that it is a partition or child of';

CREATE FUNCTION _tenancy.meter_triggers() RETURNS TABLE (name name, command text, tgtype smallint, old_rows name, new_rows name)
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Of statements, after them: 4 is INSERT, 8 DELETE, 16 UPDATE, 32 TRUNCATE.
    SELECT e.name::name, e.command, e.tgtype::smallint, e.old_rows::name, e.new_rows::name
    FROM (VALUES ('tenancy_meter_insert', 'INSERT', 4, NULL, 'new_rows'),
                 ('tenancy_meter_update', 'UPDATE', 16, 'old_rows', 'new_rows'),
                 ('tenancy_meter_delete', 'DELETE', 8, 'old_rows', NULL),
                 ('tenancy_meter_truncate', 'TRUNCATE', 32, NULL, NULL)) AS e(name, command, tgtype, old_rows, new_rows)
$$;
COMMENT ON FUNCTION _tenancy.meter_triggers() IS 'the statement triggers of a metered table';

-- Gives a metered table its triggers, and takes those of others: one for each event, on the table and each partition or child, because a
-- statement fires the triggers of the table that it names and no others. Made anew each time, which tells every backend to read
-- the meters anew. Without arguments, because PostgreSQL copies them for each statement.
-- The meters may be those of a parent.
CREATE FUNCTION _tenancy.make_meter_triggers(relation regclass) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    is_metered constant boolean := _tenancy.is_counted(make_meter_triggers.relation);
    member regclass;
    event record;
BEGIN
    FOR member IN SELECT t.relation FROM _tenancy.tree(make_meter_triggers.relation) t ORDER BY t.depth, t.relation::text LOOP
        PERFORM _tenancy.begin_change(member);
        -- Known by what they call: one that was renamed would count twice.
        FOR event IN SELECT g.tgname AS name FROM pg_trigger g WHERE g.tgrelid = member AND g.tgfoid = '_tenancy.meter_rows()'::regprocedure LOOP
            EXECUTE format('DROP TRIGGER %I ON %s', event.name, member);
        END LOOP;
        FOR event IN SELECT * FROM _tenancy.meter_triggers() WHERE is_metered LOOP
            EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s%s FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.meter_rows()',
                           event.name, event.command, member,
                           ' REFERENCING' || nullif(concat(' OLD TABLE AS ' || event.old_rows, ' NEW TABLE AS ' || event.new_rows), ''));
            EXECUTE format('ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER %I', member, event.name);
        END LOOP;
        PERFORM _tenancy.end_change(member);
    END LOOP;
    PERFORM _tenancy.make_audit_triggers(make_meter_triggers.relation, _tenancy.is_audited(make_meter_triggers.relation));
END
$$;
COMMENT ON FUNCTION _tenancy.make_meter_triggers(regclass) IS 'makes the triggers of a table fit its meters';

CREATE FUNCTION _tenancy.meter_obstacle(relation regclass, resource text) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN EXISTS (SELECT FROM _tenancy.meters_of(relation) m WHERE m.resource = meter_obstacle.resource) THEN 'metered'
        WHEN NOT EXISTS (SELECT FROM _tenancy.protected p WHERE p.relation = meter_obstacle.relation AND p.tenant_column IS NOT NULL)
            THEN 'unprotected'
        WHEN NOT _tenancy.is_metered(resource) AND _tenancy.is_used(resource) THEN 'tracked'
        END
$$;
COMMENT ON FUNCTION _tenancy.meter_obstacle(regclass, text) IS
'why a table cannot be metered for a resource: metered, unprotected, tracked; null where it can; for the library';

CREATE FUNCTION _tenancy.add_meter(relation regclass, resource text, measure text) RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    INSERT INTO _tenancy.meters (relation, resource, tenant_column, measure)
        SELECT p.relation, add_meter.resource, p.tenant_column, add_meter.measure
        FROM _tenancy.protected p WHERE p.relation = add_meter.relation;
    SELECT _tenancy.make_meter_triggers(add_meter.relation)
$$;
COMMENT ON FUNCTION _tenancy.add_meter(regclass, text, text) IS 'records a meter and makes its triggers; for the library';

CREATE FUNCTION _tenancy.take_meter(relation regclass, resource text) RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM _tenancy.meters m WHERE m.relation = take_meter.relation AND m.resource = take_meter.resource;
    SELECT _tenancy.make_meter_triggers(take_meter.relation)
$$;
COMMENT ON FUNCTION _tenancy.take_meter(regclass, text) IS 'forgets a meter and its triggers; for the library';

CREATE FUNCTION tenancy.meter(relation regclass, resource text, measure text DEFAULT 'rows', count_existing boolean DEFAULT true)
    RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    summed text;
    stored_measure text;
    counted bigint := 0;
BEGIN
    PERFORM _tenancy.refuse_in_context('meter');
    IF meter.relation IS NULL OR meter.resource IS NULL OR meter.measure IS NULL OR meter.count_existing IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'arguments of meter must not be null');
    END IF;
    PERFORM _tenancy.check_relation(meter.relation);
    summed := (regexp_match(meter.measure, '^\s*sum\s*\(\s*(.+?)\s*\)\s*$', 'i'))[1];
    IF summed IS NOT NULL THEN
        -- As it is written in SQL: folded, or quoted.
        summed := (parse_ident(summed))[1];
        IF NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = meter.relation AND a.attname = summed AND a.attnum > 0
                       AND NOT a.attisdropped AND a.atttypid IN ('smallint'::regtype, 'integer'::regtype, 'bigint'::regtype)) THEN
            PERFORM _tenancy.raise('PARAMETER_INVALID', format('table %s has no integer column "%s" to sum up', meter.relation, summed),
                jsonb_build_object('relation', meter.relation::text, 'column', summed),
                'Amounts are whole numbers: a column of type smallint, integer or bigint.');
        END IF;
        stored_measure := 'sum:' || summed;
    ELSIF meter.measure IN ('rows', 'bytes') THEN
        stored_measure := meter.measure;
    ELSE
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('unknown measure "%s"', meter.measure), '{"argument": "measure"}',
            'The measures are rows, bytes and sum(column).');
    END IF;
    -- Writers that are in the middle end first; those that come after are counted by the triggers.
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', meter.relation);
    PERFORM _tenancy.start_meter(meter.relation, meter.resource, stored_measure);
    IF meter.count_existing THEN
        SELECT coalesce(sum(r.counted), 0) INTO counted FROM _tenancy.recount(meter.relation, meter.resource, true) r;
    END IF;
    RAISE NOTICE 'table % is metered for "%"', meter.relation, meter.resource
        USING DETAIL = CASE WHEN meter.count_existing THEN format('measure %s; %s counted', meter.measure, counted)
                            ELSE format('measure %s; what is there is not counted yet', meter.measure) END;
END
$$;
COMMENT ON FUNCTION tenancy.meter(regclass, text, text, boolean) IS
'Counts what a protected table holds for each tenant, with its partitions and children, under the name of a resource; several tables may
count for one resource, and one table for several. measure: rows; bytes (of the header and the values of each row, uncompressed); or
sum(column) of an integer column. count_existing counts what is there at once, while writers wait and readers do not; with false nobody
waits, and tenancy.reconcile(relation, true) counts it later; tenancy.meter_concurrently does both. Quotas of the resource are enforced from then on, for every role.
Errors: RELATION_NOT_PROTECTED 55000, RELATION_NOT_OWNED 42501, PARAMETER_INVALID 22023. Volatile. Granted to nobody; refused in the
context of a tenant.';

-- Without a SET clause, with which PostgreSQL would not let it commit in the middle; so every name has its schema.
CREATE PROCEDURE tenancy.meter_concurrently(relation regclass, resource text, measure text DEFAULT 'rows')
    LANGUAGE plpgsql
AS $$
DECLARE
    counted bigint;
BEGIN
    PERFORM tenancy.meter(meter_concurrently.relation, meter_concurrently.resource, meter_concurrently.measure, false);
    COMMIT;
    SELECT pg_catalog.sum(r.counted) INTO counted
    FROM _tenancy.recount(meter_concurrently.relation, meter_concurrently.resource, true) r;
    RAISE NOTICE '% counted', coalesce(counted, 0);
END
$$;
COMMENT ON PROCEDURE tenancy.meter_concurrently(regclass, text, text) IS
'Does what tenancy.meter does, in two transactions: writers wait for the first one only, which makes the triggers; the second one counts what
is there in a snapshot while others write. Until it is done, what is there is not held against any quota. If it does not come to its end,
SELECT tenancy.reconcile(relation, true) counts. To be called outside a transaction block, or error 2D000. Other errors: those of
tenancy.meter. Granted to nobody; refused in the context of a tenant.';

CREATE FUNCTION tenancy.unmeter(relation regclass, resource text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('unmeter');
    PERFORM _tenancy.check_relation(unmeter.relation);
    IF unmeter.resource IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'arguments of unmeter must not be null');
    END IF;
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', unmeter.relation);
    PERFORM _tenancy.stop_meter(unmeter.relation, unmeter.resource);
    RAISE NOTICE 'table % is no longer metered for "%"', unmeter.relation, unmeter.resource;
END
$$;
COMMENT ON FUNCTION tenancy.unmeter(regclass, text) IS
'No longer counts a table for a resource: what it holds is taken off what its tenants use; the entries of the ledger stay.
Errors: RELATION_NOT_METERED 55000, RELATION_NOT_OWNED 42501. Volatile. Granted to nobody; refused in
the context of a tenant.';

CREATE FUNCTION tenancy.reconcile(relation regclass, mend boolean DEFAULT false)
    RETURNS TABLE (resource text, tenant_id text, recorded bigint, counted bigint, difference bigint)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('reconcile');
    IF reconcile.relation IS NULL OR reconcile.mend IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'arguments of reconcile must not be null');
    END IF;
    IF NOT EXISTS (SELECT FROM _tenancy.meters_of(reconcile.relation)) THEN
        PERFORM _tenancy.raise('RELATION_NOT_METERED', format('table %s is not metered', reconcile.relation),
            jsonb_build_object('relation', reconcile.relation::text),
            format('Meter it: SELECT tenancy.meter(%L, ''<resource>'');', reconcile.relation));
    END IF;
    RETURN QUERY
        SELECT m.resource, r.tenant_id, r.recorded, r.counted, r.counted - r.recorded
        FROM _tenancy.meters_of(reconcile.relation) m, _tenancy.recount(reconcile.relation, m.resource, reconcile.mend) r
        WHERE r.counted <> r.recorded
        ORDER BY m.resource, r.tenant_id;
END
$$;
COMMENT ON FUNCTION tenancy.reconcile(regclass, boolean) IS
'Counts the resources of a metered table anew, with all tables that count for them, compares that with what is on record, and returns
the tenants for whom it differs: none, normally. mend records the difference, as an entry of the ledger. Reads the tables in one snapshot
and holds nobody up. Errors: RELATION_NOT_METERED 55000, RELATION_NOT_OWNED 42501, PARAMETER_INVALID 22023. Volatile. Granted to nobody;
refused in the context of a tenant.';

CREATE VIEW tenancy.meters AS
    SELECT m.relation, m.resource, CASE WHEN m.measure LIKE 'sum:%' THEN format('sum(%I)', substr(m.measure, 5)) ELSE m.measure END AS measure,
           m.tenant_column, m.metered_at,
           -- A partition that was added later has no triggers of its own, which matter where it is named.
           ARRAY(SELECT t.relation FROM _tenancy.tree(m.relation) t
                 WHERE (SELECT count(*) FROM pg_catalog.pg_trigger g
                        WHERE g.tgrelid = t.relation AND g.tgfoid = '_tenancy.meter_rows()'::regprocedure AND g.tgenabled = 'A') < 4) AS drift
    FROM _tenancy.meters m;
COMMENT ON VIEW tenancy.meters IS
'The metered tables: resource, measure, and drift: the table or those of its partitions and children that lack a trigger, so that
statements that name them are not counted; empty normally. PUBLIC may read it.';

-- A table that is dropped takes its protection, its meters and watches with it, and what it held no longer counts.
CREATE FUNCTION _tenancy.forget_dropped() RETURNS event_trigger
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    gone oid[] := ARRAY(SELECT d.objid FROM pg_event_trigger_dropped_objects() d
                        WHERE d.classid = 'pg_class'::regclass AND d.objsubid = 0);
    the_resource text;
    watch record;
BEGIN
    DELETE FROM _tenancy.protected p WHERE p.relation = ANY (gone);
    -- It may have been a partition of one that is watched, and nothing tells of which.
    IF FOUND AND EXISTS (SELECT FROM _tenancy.cache_watches) THEN
        PERFORM _tenancy.note_cache_change(NULL, NULL, (SELECT bool_or(w.notify) FROM _tenancy.cache_watches w));
    END IF;
    DELETE FROM _tenancy.isolated i WHERE i.partition = ANY (gone);
    DELETE FROM _tenancy.migrations m WHERE m.relation = ANY (gone);
    FOR watch IN DELETE FROM _tenancy.cache_watches w WHERE w.relation = ANY (gone) RETURNING w.resource_type, w.notify LOOP
        PERFORM _tenancy.note_cache_change(NULL, watch.resource_type, watch.notify);
    END LOOP;
    DELETE FROM _tenancy.protected_schemas s
    WHERE s.schema IN (SELECT d.object_name FROM pg_event_trigger_dropped_objects() d WHERE d.classid = 'pg_namespace'::regclass);
    FOR the_resource IN
        WITH unmetered AS (DELETE FROM _tenancy.meters m WHERE m.relation = ANY (gone) RETURNING m.resource)
        SELECT DISTINCT u.resource FROM unmetered u
    LOOP
        PERFORM _tenancy.recount_after_drop(the_resource);
    END LOOP;
END
$$;
COMMENT ON FUNCTION _tenancy.forget_dropped() IS 'event trigger: a table that is dropped takes its protection and its meters with it';
-- Any command can drop a table on the way: a type of its rows, a function of its partition key.
CREATE EVENT TRIGGER tenancy_forget_dropped ON sql_drop
    EXECUTE FUNCTION _tenancy.forget_dropped();
ALTER EVENT TRIGGER tenancy_forget_dropped ENABLE ALWAYS;
