-- The registry: tenants and their life. Re-runnable.
-- The functions run with the rights of the extension's owner and are granted to nobody: a DBA grants EXECUTE to the
-- role that provisions tenants.

CREATE VIEW tenancy.tenants AS
    SELECT id, name, subdomain, plan, status, status_reason, settings, created_at, status_changed_at, sso_required
    FROM _tenancy.tenants;
COMMENT ON VIEW tenancy.tenants IS
'The registered tenants. status is active, suspended or archived. sso_required: it takes tokens of its own
issuers only. Granted to nobody.';

CREATE FUNCTION _tenancy.announce_change() RETURNS trigger
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'announce_change_wrapper';
COMMENT ON FUNCTION _tenancy.announce_change() IS 'trigger on tenants, issuers, members, passwords, quotas and their periods, migrations: tells every backend, at commit, that the table changed';
-- For each row, because logical replication fires no others; always, because a cache that is not told is an open door.
-- On INSERT as well: a tenant whose registration is rolled back must be forgotten.
DO $$
DECLARE
    cached regclass;
BEGIN
    FOREACH cached IN ARRAY '{_tenancy.tenants,_tenancy.issuers,_tenancy.members,_tenancy.passwords,_tenancy.quotas,_tenancy.quota_periods,_tenancy.migrations}'::regclass[] LOOP
        EXECUTE format('CREATE TRIGGER tenancy_changed AFTER INSERT OR UPDATE OR DELETE ON %s
                        FOR EACH ROW EXECUTE FUNCTION _tenancy.announce_change()', cached);
        EXECUTE format('CREATE TRIGGER tenancy_truncated AFTER TRUNCATE ON %s
                        FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.announce_change()', cached);
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER tenancy_changed, ENABLE ALWAYS TRIGGER tenancy_truncated', cached);
    END LOOP;
END
$$;

-- Names that belong to the service itself, so no tenant has them as its subdomain.
CREATE FUNCTION _tenancy.is_reserved_subdomain(subdomain text) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT subdomain = ANY (ARRAY[
        'admin', 'api', 'app', 'assets', 'auth', 'cdn', 'dashboard', 'docs', 'ftp', 'help', 'imap', 'localhost', 'login',
        'mail', 'mx', 'ns', 'ns1', 'ns2', 'pop', 'root', 'smtp', 'sso', 'static', 'status', 'support', 'webmail', 'www'])
$$;
COMMENT ON FUNCTION _tenancy.is_reserved_subdomain(text) IS 'whether a subdomain belongs to the service itself';

CREATE FUNCTION tenancy.create_tenant(
    id text, name text DEFAULT NULL, subdomain text DEFAULT NULL, plan text DEFAULT NULL, settings jsonb DEFAULT '{}')
    RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    new_id text := tenancy.normalize_tenant_id(create_tenant.id);
    new_subdomain text := lower(create_tenant.subdomain);
    violated text;
BEGIN
    PERFORM _tenancy.refuse_in_context('create_tenant');
    IF new_id IS NULL THEN
        PERFORM _tenancy.raise('TENANT_ID_INVALID', 'tenant id must not be null');
    END IF;
    IF create_tenant.settings IS NULL OR jsonb_typeof(create_tenant.settings) <> 'object' THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'settings must be a JSON object');
    END IF;
    IF new_subdomain !~ '^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$' THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('malformed subdomain "%s"', create_tenant.subdomain), '{}',
            'A subdomain is one label of a host name: 1 to 63 letters, digits or hyphens, such as acme.');
    END IF;
    IF _tenancy.is_reserved_subdomain(new_subdomain) THEN
        PERFORM _tenancy.raise('SUBDOMAIN_UNAVAILABLE', format('subdomain "%s" is reserved', new_subdomain));
    END IF;
    INSERT INTO _tenancy.tenants (id, name, subdomain, plan, settings)
    VALUES (new_id, create_tenant.name, new_subdomain, create_tenant.plan, create_tenant.settings);
    RETURN new_id;
EXCEPTION WHEN unique_violation THEN
    GET STACKED DIAGNOSTICS violated = CONSTRAINT_NAME;
    IF violated = 'tenants_subdomain_key' THEN
        PERFORM _tenancy.raise('SUBDOMAIN_UNAVAILABLE', format('subdomain "%s" belongs to another tenant', new_subdomain));
    END IF;
    PERFORM _tenancy.raise('TENANT_ALREADY_EXISTS', format('tenant "%s" already exists', new_id),
        jsonb_build_object('tenant_id', new_id));
END
$$;
COMMENT ON FUNCTION tenancy.create_tenant(text, text, text, text, jsonb) IS
'Registers a tenant, which is active at once, and returns its id in its one spelling. id: 1 to 128 letters, digits or
. _ : @ + -; a table holds it as text, or as uuid, bigint or integer where it has that form. subdomain: one label of a
host name, unique, not a reserved name. settings: a JSON object of the application''s own.
Errors: 22023 TENANT_ID_INVALID, PARAMETER_INVALID; 42710 TENANT_ALREADY_EXISTS, SUBDOMAIN_UNAVAILABLE. Volatile. Granted
to nobody; refused in the context of a tenant.';

CREATE FUNCTION _tenancy.set_status(tenant_id text, new_status text, reason text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_id text := tenancy.normalize_tenant_id(set_status.tenant_id);
    old_status text;
BEGIN
    IF the_id IS NULL THEN
        PERFORM _tenancy.raise('TENANT_ID_INVALID', 'tenant id must not be null');
    END IF;
    SELECT t.status INTO old_status FROM _tenancy.tenants t WHERE t.id = the_id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM _tenancy.raise('TENANT_NOT_FOUND', format('tenant "%s" does not exist', the_id),
            jsonb_build_object('tenant_id', the_id));
    END IF;
    IF old_status = new_status THEN
        RAISE NOTICE 'tenant "%" is already %', the_id, new_status;
    END IF;
    UPDATE _tenancy.tenants t
    SET status = new_status, status_reason = reason,
        status_changed_at = CASE WHEN old_status = new_status THEN t.status_changed_at ELSE now() END
    WHERE t.id = the_id;
END
$$;
COMMENT ON FUNCTION _tenancy.set_status(text, text, text) IS 'changes the status of a tenant';

CREATE FUNCTION tenancy.suspend_tenant(id text, reason text DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('suspend_tenant');
    PERFORM _tenancy.set_status(suspend_tenant.id, 'suspended', suspend_tenant.reason);
END
$$;
COMMENT ON FUNCTION tenancy.suspend_tenant(text, text) IS
'Locks a tenant out: after the commit, its next statement in every open connection raises TENANT_SUSPENDED. Its data
stays. reason is kept in tenancy.tenants. Errors: 42704 TENANT_NOT_FOUND, 22023 TENANT_ID_INVALID. Volatile. Granted to
nobody; refused in the context of a tenant.';

CREATE FUNCTION tenancy.resume_tenant(id text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('resume_tenant');
    PERFORM _tenancy.set_status(resume_tenant.id, 'active', NULL);
END
$$;
COMMENT ON FUNCTION tenancy.resume_tenant(text) IS
'Lets a suspended or archived tenant in again. Errors: 42704 TENANT_NOT_FOUND, 22023 TENANT_ID_INVALID. Volatile. Granted
to nobody; refused in the context of a tenant.';

CREATE FUNCTION tenancy.archive_tenant(id text, reason text DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('archive_tenant');
    PERFORM _tenancy.set_status(archive_tenant.id, 'archived', archive_tenant.reason);
END
$$;
COMMENT ON FUNCTION tenancy.archive_tenant(text, text) IS
'Closes a tenant for good: locked out as by suspend_tenant, its data kept. Errors: 42704 TENANT_NOT_FOUND, 22023
TENANT_ID_INVALID. Volatile. Granted to nobody; refused in the context of a tenant.';
