-- The way out: giving every table back. What DROP EXTENSION does then, or else, is in src/drop_extension.rs. Re-runnable.

CREATE FUNCTION tenancy.unprotect_all() RETURNS integer
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    item record;
    tables integer := 0;
BEGIN
    PERFORM _tenancy.refuse_in_context('unprotect_all');
    SELECT m.relation INTO item FROM _tenancy.migrations m JOIN pg_class c ON c.oid = m.relation WHERE m.phase <> 'done' ORDER BY 1 LIMIT 1;
    IF FOUND THEN
        PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('table %s is being migrated', item.relation), jsonb_build_object('relation', item.relation::text),
            'Take it to its end, CALL tenancy.finish_migration(''<table>''); or take it back: CALL tenancy.undo_migration(''<table>'');');
    END IF;
    -- In this order: what is audited, metered or watched cannot be unprotected.
    FOR item IN SELECT a.relation FROM _tenancy.audited a JOIN pg_class c ON c.oid = a.relation ORDER BY 1 LOOP
        PERFORM tenancy.unaudit(item.relation);
    END LOOP;
    FOR item IN SELECT m.relation, m.resource FROM _tenancy.meters m JOIN pg_class c ON c.oid = m.relation ORDER BY 1, 2 LOOP
        PERFORM tenancy.unmeter(item.relation, item.resource);
    END LOOP;
    FOR item IN SELECT w.relation, w.resource_type FROM _tenancy.cache_watches w JOIN pg_class c ON c.oid = w.relation ORDER BY 1, 2 LOOP
        PERFORM tenancy.cache_unwatch(item.relation, item.resource_type);
    END LOOP;
    FOR item IN SELECT s.schema FROM tenancy.protected_schemas s ORDER BY 1 LOOP
        PERFORM tenancy.unprotect_schema(item.schema);
    END LOOP;
    -- Partitions and children go with their parent.
    FOR item IN
        SELECT p.relation FROM _tenancy.protected p JOIN pg_class c ON c.oid = p.relation
        WHERE NOT EXISTS (SELECT FROM pg_inherits i JOIN _tenancy.protected q ON q.relation = i.inhparent WHERE i.inhrelid = p.relation) ORDER BY 1
    LOOP
        PERFORM tenancy.unprotect(item.relation);
        tables := tables + 1;
    END LOOP;
    RETURN tables;
END
$$;
COMMENT ON FUNCTION tenancy.unprotect_all() IS
'Gives every table back as unprotect(), unmeter(), unaudit() and cache_unwatch() do (foreign keys that were extended by the tenant column stay so), and protects none as they are created any more; returns how many were protected. Then DROP
EXTENSION tenancy goes without CASCADE, unless policies, views or functions of your own call its functions. Rows are then visible to whoever has privileges on the tables. Takes the locks of unprotect() on all of
them until the transaction ends: where max_locks_per_transaction does not suffice, call unprotect() table by table. Errors: RELATION_NOT_SUPPORTED 42809 while a table is being migrated, those of unaudit(), unmeter(), cache_unwatch() and unprotect(). Volatile. Granted to nobody; refused in the context of a tenant.';
