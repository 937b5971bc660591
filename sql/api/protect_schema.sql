-- Schemas in which tables are protected as they are created. Re-runnable. Granted to nobody: it decides for all who make tables there.

CREATE FUNCTION _tenancy.schema_column(schema regnamespace) RETURNS name
    LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT s.tenant_column FROM _tenancy.protected_schemas s JOIN pg_namespace n ON n.nspname = s.schema WHERE n.oid = schema_column.schema
$$;
COMMENT ON FUNCTION _tenancy.schema_column(regnamespace) IS 'the tenant column of a schema whose tables are protected';

CREATE FUNCTION tenancy.protect_schema(schema regnamespace, tenant_column name DEFAULT 'tenant_id') RETURNS integer
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    item regclass;
    count integer := 0;
BEGIN
    PERFORM _tenancy.refuse_in_context('protect_schema');
    IF protect_schema.schema IS NULL OR protect_schema.tenant_column IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'arguments of protect_schema must not be null');
    END IF;
    IF protect_schema.schema::text IN ('tenancy', '_tenancy', 'pg_catalog', 'information_schema', 'pg_toast') THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('schema %s is one of the system', protect_schema.schema),
            jsonb_build_object('schema', protect_schema.schema::text));
    END IF;
    -- A table that another transaction is making would be seen by neither. Whoever is still to make one will find the schema listed.
    PERFORM _tenancy.lock_schema(protect_schema.schema);
    -- Nor must it be renamed meanwhile by somebody who does not see that it is listed: who renames it waits for this row.
    PERFORM FROM pg_namespace n WHERE n.oid = protect_schema.schema FOR SHARE;
    PERFORM _tenancy.refuse_old_snapshot('{}', protect_schema.schema);
    INSERT INTO _tenancy.protected_schemas (schema, number, tenant_column)
        SELECT n.nspname, n.oid, protect_schema.tenant_column FROM pg_namespace n WHERE n.oid = protect_schema.schema
        ON CONFLICT ON CONSTRAINT protected_schemas_pkey DO UPDATE SET number = excluded.number, tenant_column = excluded.tenant_column;
    FOR item IN
        SELECT c.oid::regclass FROM pg_class c
        WHERE c.relnamespace = protect_schema.schema AND c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
          AND EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = protect_schema.tenant_column
                      AND a.attnum > 0 AND NOT a.attisdropped)
          AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = c.oid)
          AND NOT _tenancy.is_protected(c.oid)
          AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
        ORDER BY c.relname
    LOOP
        PERFORM tenancy.protect(item, 'tenant', protect_schema.tenant_column);
        count := count + 1;
    END LOOP;
    RETURN count;
END
$$;
COMMENT ON FUNCTION _tenancy.lock_schema(oid) IS 'waits until nobody is making anything in a schema, and keeps it so';
COMMENT ON FUNCTION tenancy.protect_schema(regnamespace, name) IS
'Protects every table of a schema that has the tenant column and is not protected, as kind tenant, and from then on each table that is
created there or given that column, as it is created: CREATE TABLE (AS), SELECT INTO, ALTER TABLE ... ADD COLUMN, SET SCHEMA, ALTER TYPE
of a typed table. Its foreign keys are extended as by protect. Waits for transactions that are making tables in the schema. Returns how
many it has protected now. Does nothing for new tables while tenancy.restoring is on, nor for those of other extensions. Errors: those
of protect, PARAMETER_INVALID 22023, PROTECTION_CHANGED 40001 where tables have come since the transaction''s snapshot. Volatile. Granted
to nobody; refused in the context of a tenant.';

CREATE FUNCTION tenancy.unprotect_schema(schema regnamespace) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('unprotect_schema');
    DELETE FROM _tenancy.protected_schemas s USING pg_namespace n WHERE n.nspname = s.schema AND n.oid = unprotect_schema.schema;
    IF NOT FOUND THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('tables of schema %s are not protected as they are created', unprotect_schema.schema),
            jsonb_build_object('schema', unprotect_schema.schema::text));
    END IF;
END
$$;
COMMENT ON FUNCTION tenancy.unprotect_schema(regnamespace) IS
'No longer protects tables of a schema as they are created; those that are protected stay so. Error: PARAMETER_INVALID 22023. Volatile.
Granted to nobody; refused in the context of a tenant.';

CREATE VIEW tenancy.protected_schemas AS
    SELECT n.oid::regnamespace AS schema, s.tenant_column, s.protected_at
    FROM _tenancy.protected_schemas s JOIN pg_catalog.pg_namespace n ON n.nspname = s.schema;
COMMENT ON VIEW tenancy.protected_schemas IS 'The schemas whose tables are protected as they are created. PUBLIC may read it.';

-- What is renamed stays protected. Before ALTER SCHEMA, numbers are those of the names: after a restore or pg_upgrade they are not. After it, names are those of the numbers.
CREATE FUNCTION _tenancy.follow_schemas() RETURNS event_trigger
    LANGUAGE plpgsql VOLATILE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    IF TG_EVENT = 'ddl_command_start' THEN
        -- By an old snapshot, one that was listed since would not be found.
        IF current_setting('transaction_isolation') <> 'read committed' THEN
            PERFORM _tenancy.refuse_old_snapshot('{}', n.oid) FROM pg_namespace n WHERE n.nspname !~ '^pg_';
        END IF;
        UPDATE _tenancy.protected_schemas s SET number = coalesce((SELECT n.oid FROM pg_namespace n WHERE n.nspname = s.schema), 0)
        WHERE s.number <> coalesce((SELECT n.oid FROM pg_namespace n WHERE n.nspname = s.schema), 0);
    ELSE
        UPDATE _tenancy.protected_schemas s SET schema = n.nspname FROM pg_namespace n WHERE n.oid = s.number AND n.nspname <> s.schema;
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.follow_schemas() IS 'event trigger: a schema whose tables are protected was renamed';
CREATE EVENT TRIGGER tenancy_before_schema ON ddl_command_start WHEN TAG IN ('ALTER SCHEMA') EXECUTE FUNCTION _tenancy.follow_schemas();
CREATE EVENT TRIGGER tenancy_after_schema ON ddl_command_end WHEN TAG IN ('ALTER SCHEMA') EXECUTE FUNCTION _tenancy.follow_schemas();
ALTER EVENT TRIGGER tenancy_before_schema ENABLE ALWAYS;
ALTER EVENT TRIGGER tenancy_after_schema ENABLE ALWAYS;
