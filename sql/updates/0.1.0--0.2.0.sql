-- What ALTER EXTENSION tenancy UPDATE cannot take from the files of sql/api: see sql/update_script.py.

-- It returns more columns.
DROP FUNCTION IF EXISTS _tenancy.import_statement(json, text);

-- An array of the names passed for an object with them. An owner can have saved one by hand; it put nothing back.
UPDATE _tenancy.protected SET options = '{"reference": false, "create_index": true, "access_policy": null}' WHERE jsonb_typeof(options) <> 'object';
UPDATE _tenancy.protected
SET undo = '{"row_security": false, "forced": false, "not_null": false, "own_not_null": false, "default": false, "reference": false, "access": false,
             "index": null, "own_index": null, "revoked": []}'
WHERE jsonb_typeof(undo) <> 'object';
UPDATE _tenancy.protected
SET undo = undo || jsonb_build_object('own_index', nullif(undo ->> 'own_index', ''),
                                      'revoked', jsonb_path_query_array(undo, 'strict $.revoked[*] ? (@.type() == "object" && !(@.grantable.type() <> "boolean"))'))
WHERE undo ->> 'own_index' = '' OR jsonb_path_exists(undo, 'strict $.revoked[*] ? (@.type() <> "object" || @.grantable.type() <> "boolean")');
ALTER TABLE _tenancy.protected
    DROP CONSTRAINT protected_options_check, DROP CONSTRAINT protected_undo_check,
    ADD CONSTRAINT protected_options_check CHECK (
        jsonb_typeof(options) = 'object' AND options ?& '{reference,create_index,access_policy}' AND jsonb_typeof(options -> 'reference') = 'boolean' AND jsonb_typeof(options -> 'create_index') = 'boolean'
        AND jsonb_typeof(options -> 'access_policy') IN ('boolean', 'null')),
    ADD CONSTRAINT protected_undo_check CHECK (
        jsonb_typeof(undo) = 'object' AND undo ?& '{row_security,forced,not_null,own_not_null,default,reference,access,index,own_index,revoked}'
        AND jsonb_typeof(undo -> 'row_security') = 'boolean' AND jsonb_typeof(undo -> 'forced') = 'boolean'
        AND jsonb_typeof(undo -> 'not_null') = 'boolean' AND jsonb_typeof(undo -> 'own_not_null') = 'boolean'
        AND jsonb_typeof(undo -> 'default') = 'boolean' AND jsonb_typeof(undo -> 'reference') = 'boolean'
        AND jsonb_typeof(undo -> 'access') = 'boolean' AND jsonb_typeof(undo -> 'index') IN ('string', 'null')
        AND jsonb_typeof(undo -> 'own_index') IN ('string', 'null') AND undo ->> 'own_index' IS DISTINCT FROM ''
        AND jsonb_typeof(undo -> 'revoked') = 'array' AND NOT jsonb_path_exists(undo, 'strict $.revoked[*] ? (@.type() <> "object" || @.grantable.type() <> "boolean")'));

-- How far tenancy.delete_tenant_in_batches has come.
CREATE TABLE _tenancy.deletions (
    tenant_id text COLLATE "C" NOT NULL,
    deleted bigint NOT NULL,
    CONSTRAINT deletions_pkey PRIMARY KEY (tenant_id)
);
COMMENT ON TABLE _tenancy.deletions IS 'how many rows tenancy.delete_tenant_in_batches() has deleted of tenants that are being deleted';
DROP FUNCTION IF EXISTS _tenancy.delete_batch(text, integer, boolean, bigint);

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
