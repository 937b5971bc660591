-- The context: for which tenant does the current statement run? Re-runnable.
-- The accessors are in src/pg/accessor.rs. They take no argument, so that being LEAKPROOF is true by form:
-- there is nothing to leak, and an index on the tenant column stays usable in front of every other condition.

-- What these return is at hand: with this COST, plans cost what they would with a constant in their place.
CREATE FUNCTION tenancy.current_tenant() RETURNS text
    LANGUAGE c STABLE PARALLEL SAFE LEAKPROOF COST 0.01
    AS 'MODULE_PATHNAME', 'tenancy_current_tenant';
COMMENT ON FUNCTION tenancy.current_tenant() IS
'Returns the id of the tenant that the current statement runs for; NULL where none is set and
tenancy.missing_tenant is empty. The tenant is confirmed against the registry at its first use in a transaction.
Errors: 55000 TENANT_CONTEXT_MISSING, 42704 TENANT_NOT_FOUND, 55000 TENANT_SUSPENDED, 42501 TENANT_ACCESS_DENIED (the
transaction is sealed to another tenant). Stable. PUBLIC may call it.';

CREATE FUNCTION tenancy.current_tenant_uuid() RETURNS uuid
    LANGUAGE c STABLE PARALLEL SAFE LEAKPROOF COST 0.01
    AS 'MODULE_PATHNAME', 'tenancy_current_tenant_uuid';
COMMENT ON FUNCTION tenancy.current_tenant_uuid() IS
'Returns current_tenant() as uuid. Errors: those of current_tenant(), and 22023 TENANT_ID_INVALID where the id is
not a UUID. Stable. PUBLIC may call it.';

CREATE FUNCTION tenancy.current_tenant_bigint() RETURNS bigint
    LANGUAGE c STABLE PARALLEL SAFE LEAKPROOF COST 0.01
    AS 'MODULE_PATHNAME', 'tenancy_current_tenant_bigint';
COMMENT ON FUNCTION tenancy.current_tenant_bigint() IS
'Returns current_tenant() as bigint. Errors: those of current_tenant(), and 22023 TENANT_ID_INVALID where the id is
not a number in its usual spelling. Stable. PUBLIC may call it.';

CREATE FUNCTION _tenancy.is_own(text) RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE COST 0.01
    AS 'MODULE_PATHNAME', 'tenancy_is_own_text';
COMMENT ON FUNCTION _tenancy.is_own(text) IS
'Returns true where the value is the current tenant, and raises what deny_write() does where it is not. The planner has it in place of "column = current_tenant() OR deny_write()". Stable. PUBLIC may call it.';

CREATE FUNCTION _tenancy.is_own(uuid) RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE COST 0.01
    AS 'MODULE_PATHNAME', 'tenancy_is_own_uuid';
COMMENT ON FUNCTION _tenancy.is_own(uuid) IS
'Returns true where the value is the current tenant, and raises what deny_write() does where it is not. The planner has it in place of "column = current_tenant() OR deny_write()". Stable. PUBLIC may call it.';

CREATE FUNCTION _tenancy.is_own(bigint) RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE COST 0.01
    AS 'MODULE_PATHNAME', 'tenancy_is_own_bigint';
COMMENT ON FUNCTION _tenancy.is_own(bigint) IS
'Returns true where the value is the current tenant, and raises what deny_write() does where it is not. The planner has it in place of "column = current_tenant() OR deny_write()". Stable. PUBLIC may call it.';

CREATE FUNCTION _tenancy.is_own(integer) RETURNS boolean
    LANGUAGE c STABLE PARALLEL SAFE COST 0.01
    AS 'MODULE_PATHNAME', 'tenancy_is_own_integer';
COMMENT ON FUNCTION _tenancy.is_own(integer) IS
'Returns true where the value is the current tenant, and raises what deny_write() does where it is not. The planner has it in place of "column = current_tenant() OR deny_write()". Stable. PUBLIC may call it.';

COMMENT ON FUNCTION tenancy.deny_write() IS
'Never returns: raises 42501 TENANT_ACCESS_DENIED; policies call it for a row that is not the current tenant''s.
Volatile. PUBLIC may call it.';

COMMENT ON FUNCTION tenancy.seal() IS
'Seals the transaction: until it ends, no other tenant can be set or used. Errors: those of current_tenant().
Volatile. PUBLIC may call it.';

COMMENT ON FUNCTION tenancy.context() IS
'Describes the context as one jsonb object: tenant_id, status, user_id, source (cross_tenant, token, session, client, role, server,
default_tenant or none), mode, sealed, error: the code that a protected table would raise, or null, and, in a scope of several tenants,
cross_tenant: scope, tenants, until, read_only. Raises nothing itself. Stable. PUBLIC may call it.';

COMMENT ON FUNCTION tenancy.normalize_tenant_id(text) IS
'Returns a tenant id in its one spelling: a UUID in lower case, any other id unchanged.
Error: 22023 TENANT_ID_INVALID. Immutable. PUBLIC may call it.';

COMMENT ON FUNCTION tenancy.error_codes() IS
'Returns the catalogue of errors: the code in DETAIL, its SQLSTATE, the status that an HTTP layer answers with, and
when it is raised. Immutable. PUBLIC may call it.';

COMMENT ON FUNCTION _tenancy.refuse_in_context(text) IS
'Raises 42501 TENANT_ACCESS_DENIED where a tenant is set: what a tenant runs must not reach the registry or the protection,
whatever was granted. Stable. For the functions of the extension.';

COMMENT ON FUNCTION _tenancy.raise(text, text, jsonb, text) IS
'Raises an error of the catalogue: code (which decides the SQLSTATE), message, the fields of DETAIL besides the code,
hint. Volatile. For the functions of the extension.';

CREATE FUNCTION tenancy.set_tenant(tenant_id text, is_local boolean DEFAULT true) RETURNS text
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'tenancy_set_tenant';
COMMENT ON FUNCTION tenancy.set_tenant(text, boolean) IS
'Sets the tenant: for the transaction (is_local, the default) as SET LOCAL does, or for the session as SET does.
Confirms it at once and returns its id. Errors: 22023 TENANT_ID_INVALID, PARAMETER_INVALID, those of current_tenant(), and
42501 where the role was not granted SET ON PARAMETER tenancy.tenant_id. Volatile. PUBLIC may call it, with the rights of the
caller.';

CREATE FUNCTION tenancy.clear_tenant() RETURNS void
    LANGUAGE c VOLATILE PARALLEL UNSAFE
    AS 'MODULE_PATHNAME', 'tenancy_clear_tenant';
COMMENT ON FUNCTION tenancy.clear_tenant() IS
'Leaves the tenant, for the transaction and for the session. Error: 42501 where the role was not granted SET ON
PARAMETER tenancy.tenant_id. Volatile. PUBLIC may call it, with the rights of the caller.';

COMMENT ON FUNCTION _tenancy.begin_anew() IS
'lets the running statement go on for another tenant; the caller must be exempt from row-level security';
