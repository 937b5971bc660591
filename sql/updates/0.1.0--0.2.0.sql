-- What ALTER EXTENSION tenancy UPDATE cannot take from the files of sql/api: see sql/update_script.py.

-- It returns more columns.
DROP FUNCTION IF EXISTS _tenancy.import_statement(json, text);

-- What policies call has no list of privileges any more (sql/grants.sql), unless somebody has changed it.
DO $$
DECLARE
    routine record;
BEGIN
    FOR routine IN
        SELECT p.oid FROM pg_proc p
        WHERE p.oid = ANY ('{tenancy.current_tenant(), tenancy.current_tenant_uuid(), tenancy.current_tenant_bigint(), tenancy.deny_write(), tenancy.current_user_id(), tenancy.has_role(text[])}'::regprocedure[])
          AND ARRAY(SELECT x::text FROM aclexplode(p.proacl) x ORDER BY 1) = ARRAY(SELECT x::text FROM aclexplode(acldefault('f', p.proowner)) x ORDER BY 1)
    LOOP
        UPDATE pg_proc SET proacl = NULL WHERE oid = routine.oid;
        DELETE FROM pg_init_privs WHERE (objoid, classoid) = (routine.oid, 'pg_proc'::regclass);
        -- Of the roles in it: since 17.
        DELETE FROM pg_shdepend
        WHERE (classid, objid, deptype) = ('pg_proc'::regclass, routine.oid, 'i') AND dbid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database());
    END LOOP;
END
$$;
