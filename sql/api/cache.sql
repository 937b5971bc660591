-- Caches: keys and versions for those outside of the database, and one in it. Re-runnable.

CREATE TRIGGER tenancy_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _tenancy.cache_watches
    FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.announce_change();
ALTER TABLE _tenancy.cache_watches ENABLE ALWAYS TRIGGER tenancy_changed;
CREATE TRIGGER tenancy_audit AFTER INSERT OR UPDATE OR DELETE ON _tenancy.cache_watches
    FOR EACH ROW EXECUTE FUNCTION _tenancy.audit_row('');
CREATE TRIGGER tenancy_audit_truncate AFTER TRUNCATE ON _tenancy.cache_watches
    FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.audit_row('');
ALTER TABLE _tenancy.cache_watches ENABLE ALWAYS TRIGGER tenancy_audit, ENABLE ALWAYS TRIGGER tenancy_audit_truncate;

COMMENT ON FUNCTION tenancy.cache_key(text, text) IS
'The key of a resource of the current tenant in a cache outside of the database: tenant:{id}:{type}:{id}, each part as RFC 3986 writes it in a
URI: letters, digits and -._~ as they are, every other byte as % and two hexadecimal digits, so that no two tenants or resources share one.
resource_type, resource_id: any text; NULL where one of them is. Errors: those of current_tenant(). Stable. PUBLIC may call it.';
COMMENT ON FUNCTION tenancy.cache_key(text, bigint) IS 'The same of a resource that has a number.';
COMMENT ON FUNCTION tenancy.cache_key(text, uuid) IS 'The same of a resource that has a UUID.';
COMMENT ON FUNCTION tenancy.cache_version(text) IS
'The version of all that the current tenant has in the tables that are watched for resource_type (see cache_watch), as the current query sees them:
another one after each transaction that has changed any of it, and the same one otherwise. What was read in the statement that returned it, or in
a later one, may be kept under it. In a statement that writes, and in a transaction that has changed some of it, a version that nobody else sees. The same
version means the same rows on standbys, after a crash or a failover, and in copies of the database. Errors: those of current_tenant(), PARAMETER_INVALID 22023 (no table is watched
for it). Stable. PUBLIC may call it.';
COMMENT ON FUNCTION _tenancy.note_cache_change(text, text, boolean) IS 'notes a change of a type (null: of every) for a tenant (null: for all)';

CREATE FUNCTION tenancy.cache_watch(relation regclass, resource_type text, notify boolean DEFAULT false) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('cache_watch');
    IF cache_watch.relation IS NULL OR cache_watch.resource_type IS NULL OR cache_watch.notify IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'arguments of cache_watch must not be null');
    END IF;
    PERFORM _tenancy.check_relation(cache_watch.relation);
    IF NOT _tenancy.is_protected(cache_watch.relation) THEN
        PERFORM _tenancy.raise('RELATION_NOT_PROTECTED', format('table %s is not protected', cache_watch.relation),
            jsonb_build_object('relation', cache_watch.relation::text), format('Protect it first: SELECT tenancy.protect(%L);', cache_watch.relation));
    END IF;
    -- Writers that are in the middle end first; those that come after are noticed by the triggers.
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', cache_watch.relation);
    PERFORM _tenancy.refuse_unlogged(cache_watch.relation);
    -- What was kept while the table was not watched may be outdated.
    PERFORM _tenancy.note_cache_change(NULL, cache_watch.resource_type, cache_watch.notify);
    INSERT INTO _tenancy.cache_watches AS w (resource_type, relation, notify)
        VALUES (cache_watch.resource_type, cache_watch.relation, cache_watch.notify)
        ON CONFLICT ON CONSTRAINT cache_watches_pkey DO UPDATE SET notify = excluded.notify;
    PERFORM _tenancy.make_meter_triggers(cache_watch.relation);
END
$$;
COMMENT ON FUNCTION tenancy.cache_watch(regclass, text, boolean) IS
'From now on, cache_version(resource_type) changes for a tenant when a transaction commits that has changed rows of the tenant in a protected
table, its partitions and children; for all tenants after a change of rows that have none, or TRUNCATE. Several tables may be watched for one
type, and one table for several. resource_type: 1 to 63 letters, digits or characters of . _ : / -. notify: such a commit also
sends a NOTIFY on cache_channel() for each tenant and type, which lets PostgreSQL commit such transactions one after the other only. Called again it changes notify.
Locks the table in SHARE ROW EXCLUSIVE mode. Errors: RELATION_NOT_PROTECTED 55000, PARAMETER_INVALID 22023, TENANT_ACCESS_DENIED 42501 in the context of a tenant.
Volatile. Granted to nobody.';

CREATE FUNCTION tenancy.cache_unwatch(relation regclass, resource_type text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('cache_unwatch');
    IF cache_unwatch.relation IS NULL OR cache_unwatch.resource_type IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'arguments of cache_unwatch must not be null');
    END IF;
    PERFORM _tenancy.check_relation(cache_unwatch.relation);
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', cache_unwatch.relation);
    DELETE FROM _tenancy.cache_watches w WHERE w.relation = cache_unwatch.relation AND w.resource_type = cache_unwatch.resource_type;
    IF NOT FOUND THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('table %s is not watched for "%s"', cache_unwatch.relation, cache_unwatch.resource_type),
            jsonb_build_object('argument', 'resource_type', 'relation', cache_unwatch.relation::text));
    END IF;
    PERFORM _tenancy.note_cache_change(NULL, cache_unwatch.resource_type, false);
    PERFORM _tenancy.make_meter_triggers(cache_unwatch.relation);
END
$$;
COMMENT ON FUNCTION tenancy.cache_unwatch(regclass, text) IS
'No longer watches a table for a resource type. Where it was the last one, cache_version(resource_type) is an error from then on. Errors:
PARAMETER_INVALID 22023, TENANT_ACCESS_DENIED 42501 in the context of a tenant. Volatile. Granted to nobody.';

CREATE VIEW tenancy.cache_watches AS
    SELECT w.relation, w.resource_type, w.notify, w.watched_at FROM _tenancy.cache_watches w
    WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = w.relation);
COMMENT ON VIEW tenancy.cache_watches IS 'The tables that are watched for caches, and for which resource types. PUBLIC may read it.';

CREATE FUNCTION tenancy.cache_channel() RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT c.name FROM _tenancy.cache_channel c
$$;
COMMENT ON FUNCTION tenancy.cache_channel() IS
'The channel to LISTEN on for changes of tables that are watched with notify, of all tenants: {"tenant_id": ..., "resource_type": ...}, null for all of
them. Its name cannot be guessed: grant this function to whoever may hear of all tenants. Stable. Granted to nobody.';

COMMENT ON FUNCTION tenancy.invalidate_cache(text) IS
'Makes everything void that caches have of a tenant (null: the current one), when the transaction commits: cache_version() of every type changes, and what cache_set()
has kept is removed. Where a table is watched with notify, this is told too, with "resource_type": null. Errors: those of current_tenant(); TENANT_ACCESS_DENIED 42501
(in the context of another tenant), TENANT_ID_INVALID 22023. Volatile. PUBLIC may call it; for another tenant, a role that may set any.';

CREATE FUNCTION tenancy.cache_set(key text, value jsonb, ttl interval DEFAULT '1 hour') RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    until constant timestamptz := clock_timestamp() + cache_set.ttl;
BEGIN
    IF cache_set.ttl IS NULL OR until <= clock_timestamp() THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'ttl must be positive', '{"argument": "ttl"}');
    END IF;
    PERFORM _tenancy.keep_entry(cache_set.key, cache_set.value, until);
END
$$;
COMMENT ON FUNCTION tenancy.cache_set(text, jsonb, interval) IS
'Keeps a value for the current tenant under a key of 1 to 1024 bytes, for ttl; what was kept under it is replaced. A crash of the server empties the cache; a
standby has none. Errors: those of current_tenant(), PARAMETER_INVALID 22023 (null, the length of the key, or a ttl that is not positive). Volatile. PUBLIC may call it.';
COMMENT ON FUNCTION _tenancy.keep_entry(text, jsonb, timestamptz) IS 'keeps a value for the current tenant until then; for tenancy.cache_set';
COMMENT ON FUNCTION tenancy.cache_get(text) IS
'What the current tenant has kept under a key; NULL where there is nothing, or it has expired, and on a standby. Errors: those of current_tenant(). Stable.
PUBLIC may call it.';
COMMENT ON FUNCTION tenancy.cache_delete(text) IS
'Removes what the current tenant has kept under a key; returns whether there was anything. Errors: those of current_tenant(). Volatile. PUBLIC may call it.';
COMMENT ON FUNCTION tenancy.sweep_cache(integer) IS
'Upkeep, which cache_set() mostly does itself: removes up to batch entries of all tenants that have expired, but for those that another removes; returns how many. Errors:
PARAMETER_INVALID 22023. Volatile. Granted to nobody.';
