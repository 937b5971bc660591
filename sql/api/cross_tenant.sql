-- Crossing tenants: an operator's scope, and a statement for each tenant. Re-runnable.

CREATE TRIGGER tenancy_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON _tenancy.cross_tenant_grants
    FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.announce_change();
ALTER TABLE _tenancy.cross_tenant_grants ENABLE ALWAYS TRIGGER tenancy_changed;

CREATE VIEW tenancy.cross_tenant_grants WITH (security_barrier) AS
    SELECT coalesce(r.rolname, g.role::oid::text::name) AS role, g.tenant_id, g.until, g.read_only, g.granted_by, g.granted_at
    FROM _tenancy.cross_tenant_grants g LEFT JOIN pg_roles r ON r.oid = g.role;
COMMENT ON VIEW tenancy.cross_tenant_grants IS
'Who may cross to which tenants, and until when. A grant whose time is over is shown until it is revoked or another takes its place. The tenant *
stands for all. Granted to nobody.';

-- The number of a role; raises where there is none.
CREATE FUNCTION _tenancy.role_named(role name) RETURNS regrole
    LANGUAGE plpgsql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_role oid := (SELECT r.oid FROM pg_roles r WHERE r.rolname = role_named.role);
BEGIN
    IF role_named.role IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'role must not be null', '{"argument": "role"}');
    ELSIF found_role IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('role "%s" does not exist', role_named.role), '{"argument": "role"}');
    END IF;
    RETURN found_role;
END
$$;
COMMENT ON FUNCTION _tenancy.role_named(name) IS 'the role of that name; raises an error where there is none';

CREATE FUNCTION tenancy.grant_cross_tenant(role name, tenants text[], until timestamptz, read_only boolean DEFAULT true) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_role regrole;
    missing text;
BEGIN
    PERFORM _tenancy.refuse_in_context('grant_cross_tenant');
    the_role := _tenancy.role_named(grant_cross_tenant.role);
    IF cardinality(tenants) IS NOT DISTINCT FROM 0 OR tenants IS NULL OR EXISTS (SELECT FROM unnest(tenants) AS t WHERE t IS NULL) THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'tenants must be an array of tenant ids', '{"argument": "tenants"}',
            'To grant all tenants, of today and later, use ''{*}''.');
    ELSIF until IS NULL OR until <= clock_timestamp() THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'until must be in the future', '{"argument": "until"}', 'For a grant without an end, use ''infinity''.');
    ELSIF read_only IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'read_only must not be null', '{"argument": "read_only"}');
    END IF;
    SELECT t INTO missing FROM unnest(tenants) AS t
    WHERE t <> '*' AND NOT EXISTS (SELECT FROM _tenancy.tenants r WHERE r.id = tenancy.normalize_tenant_id(t)) LIMIT 1;
    IF FOUND THEN
        PERFORM _tenancy.raise('TENANT_NOT_FOUND', format('tenant "%s" does not exist', missing), jsonb_build_object('tenant_id', missing));
    END IF;
    INSERT INTO _tenancy.cross_tenant_grants AS g (tenant_id, role, until, read_only)
        SELECT DISTINCT CASE t WHEN '*' THEN t ELSE tenancy.normalize_tenant_id(t) END, the_role, grant_cross_tenant.until, grant_cross_tenant.read_only
        FROM unnest(tenants) AS t
    ON CONFLICT ON CONSTRAINT cross_tenant_grants_pkey DO UPDATE
        SET until = excluded.until, read_only = excluded.read_only, granted_by = excluded.granted_by, granted_at = excluded.granted_at;
END
$$;
COMMENT ON FUNCTION tenancy.grant_cross_tenant(name, text[], timestamptz, boolean) IS
'Lets a role, and those that inherit it, cross to tenants with tenancy.begin_cross_tenant() until that time. tenants: ids, or * for all, of
today and later. read_only: whether a scope with one of them is for reading only. A grant for the same role and tenant takes the place of the
earlier one. It gives no privilege on any table. Errors: 42704 TENANT_NOT_FOUND, 22023 TENANT_ID_INVALID, PARAMETER_INVALID. Volatile.
Granted to nobody; refused in the context of a tenant, and in a scope.';

CREATE FUNCTION tenancy.revoke_cross_tenant(role name, tenants text[] DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_role regrole;
    ids text[];
    revoked bigint;
BEGIN
    PERFORM _tenancy.refuse_in_context('revoke_cross_tenant');
    -- Of one that was dropped meanwhile there is the number, by which the view shows it.
    SELECT g.role INTO the_role FROM _tenancy.cross_tenant_grants g
    WHERE g.role::oid::text = revoke_cross_tenant.role AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = g.role);
    the_role := coalesce(the_role, _tenancy.role_named(revoke_cross_tenant.role));
    ids := ARRAY(SELECT CASE t WHEN '*' THEN t ELSE tenancy.normalize_tenant_id(t) END FROM unnest(tenants) AS t);
    DELETE FROM _tenancy.cross_tenant_grants g WHERE g.role = the_role AND (tenants IS NULL OR g.tenant_id = ANY (ids));
    GET DIAGNOSTICS revoked = ROW_COUNT;
    RETURN revoked;
END
$$;
COMMENT ON FUNCTION tenancy.revoke_cross_tenant(name, text[]) IS
'Takes from a role what tenancy.grant_cross_tenant() gave it; returns for how many tenants. tenants: ids or *, as they were granted; null for all of
them. Scopes that depend on it end with their next statement, in any session. Revoke before the role is dropped. Errors: 22023 TENANT_ID_INVALID,
PARAMETER_INVALID. Volatile. Granted to nobody; refused in the context of a tenant, and in a scope.';

CREATE FUNCTION tenancy.begin_cross_tenant(tenants text[], reason text, duration interval DEFAULT NULL) RETURNS timestamptz
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'begin_cross_tenant_wrapper';
COMMENT ON FUNCTION tenancy.begin_cross_tenant(text[], text, interval) IS
'Begins a scope: statements are about the rows of all of these tenants, and of no other. tenants: ids, or * for all that were granted. reason: why, 1 to
255 bytes, for the audit trail. duration: null for the rest of the transaction. Returns when the scope ends at the latest, as it was granted. The transaction
is read-only from then on, unless writing was granted for each of them. That it was begun is in the audit trail of each of the tenants, and each
statement in that of no tenant. Errors: 42501 TENANT_ACCESS_DENIED where the role was not granted one of the tenants, is exempt from row-level
security, or is in a scope, in a statement that does more than read, or in a SECURITY DEFINER function; 42704 TENANT_NOT_FOUND, 22023
TENANT_ID_INVALID, PARAMETER_INVALID, 25006 on a standby. Volatile. PUBLIC may call it.';

CREATE FUNCTION tenancy.end_cross_tenant() RETURNS boolean
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'end_cross_tenant_wrapper';
COMMENT ON FUNCTION tenancy.end_cross_tenant() IS
'Ends the scope that the session is in; returns whether it was in one. A transaction that was read-only in it stays so until it ends. Volatile.
PUBLIC may call it.';

CREATE FUNCTION _tenancy.in_scope(number bigint) RETURNS boolean
    -- Not LEAKPROOF: its error would tell of rows that a policy hides, to whoever passes it a column of theirs.
    LANGUAGE c STABLE STRICT PARALLEL SAFE
    AS 'MODULE_PATHNAME', 'tenancy_in_scope';
COMMENT ON FUNCTION _tenancy.in_scope(bigint) IS
'whether the session is in the scope of that number; raises an error where it is not. It is in the plans of what runs in a scope';

CREATE FUNCTION tenancy.for_each_tenant(sql text, tenants text[] DEFAULT NULL, role name DEFAULT NULL)
    RETURNS TABLE (tenant_id text, rows bigint, result jsonb)
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'tenancy_for_each_tenant';
COMMENT ON FUNCTION tenancy.for_each_tenant(text, text[], name) IS
'Runs a statement in the context of each tenant, one after another, in one transaction; returns for each how many rows it has returned or written, and
what it has returned, as an array of objects: null for a statement that returns nothing. tenants: ids; null or * for all that are
active. role: as which role, of which the caller is a member; null: as the caller. Neither may be exempt from row-level security. The caller needs SET ON
PARAMETER tenancy.tenant_id. Errors: 42501 TENANT_ACCESS_DENIED, 42704 TENANT_NOT_FOUND, 55000 TENANT_SUSPENDED, 22023 TENANT_ID_INVALID,
PARAMETER_INVALID, 25006 on a standby, and those of the statement. Volatile. Granted to nobody; refused in the context of a tenant, and in a
scope.';
