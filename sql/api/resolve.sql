-- Where the tenant comes from, for an HTTP layer: claims of a verified token, then the X-Tenant-ID header, then the
-- subdomain. Re-runnable.

CREATE FUNCTION _tenancy.tenant_of_subdomain(subdomain text) RETURNS text
    LANGUAGE sql STABLE STRICT PARALLEL SAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT t.id FROM _tenancy.tenants t
    WHERE t.subdomain = tenant_of_subdomain.subdomain AND NOT _tenancy.is_reserved_subdomain(t.subdomain)
$$;
COMMENT ON FUNCTION _tenancy.tenant_of_subdomain(text) IS
'the tenant that a subdomain is registered for; a host name is public, so PUBLIC may ask';

CREATE FUNCTION tenancy.resolve_tenant(claims jsonb, headers jsonb DEFAULT NULL, host text DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found text[];
    host_name text;
BEGIN
    IF jsonb_typeof(claims) NOT IN ('object', 'null') OR jsonb_typeof(headers) NOT IN ('object', 'null') THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'claims and headers must be JSON objects');
    END IF;
    -- 1. The claims of a verified token.
    IF jsonb_typeof(claims -> 'tenant_id') NOT IN ('string', 'number', 'null') THEN
        PERFORM _tenancy.raise('TENANT_ID_INVALID', 'claim tenant_id must be a string');
    END IF;
    IF claims ->> 'tenant_id' <> '' THEN
        RETURN tenancy.normalize_tenant_id(claims ->> 'tenant_id');
    END IF;
    -- 2. The header, in any case. Two that differ are an attempt at confusion.
    IF jsonb_typeof(headers) = 'object' THEN
        SELECT array_agg(DISTINCT h.value) INTO found
        FROM jsonb_each_text(headers) h WHERE lower(h.key) = 'x-tenant-id' AND h.value <> '';
        IF cardinality(found) > 1 THEN
            PERFORM _tenancy.raise('TENANT_ID_INVALID', 'header X-Tenant-ID is given more than once');
        ELSIF cardinality(found) = 1 THEN
            RETURN tenancy.normalize_tenant_id(found[1]);
        END IF;
    END IF;
    -- 3. The subdomain: the first label of a host name that has more than one and is not an address.
    host_name := lower(regexp_replace(host, ':[0-9]*$', ''));
    IF host_name ~ '^[a-z0-9-]+(\.[a-z0-9-]+)+\.?$' AND host_name !~ '^[0-9.]+$' THEN
        found := ARRAY[_tenancy.tenant_of_subdomain(split_part(host_name, '.', 1))];
        IF found[1] IS NOT NULL THEN
            RETURN found[1];
        END IF;
    END IF;
    PERFORM _tenancy.raise('TENANT_CONTEXT_MISSING', 'request names no tenant', '{}',
        'Send a token with the claim tenant_id, the header X-Tenant-ID, or use the subdomain of a tenant.');
END
$$;
COMMENT ON FUNCTION tenancy.resolve_tenant(jsonb, jsonb, text) IS
'Returns the tenant that a request names: the claim tenant_id of a verified token, else the header X-Tenant-ID in any
case, else the tenant whose subdomain is the first label of host (reserved names such as www are none). It only names the
tenant: setting the context confirms that it exists, is active, and may be set by the role. Trust the header and the
host only from a proxy that sets them. Errors: 55000 TENANT_CONTEXT_MISSING, 22023 TENANT_ID_INVALID, PARAMETER_INVALID. Stable.
PUBLIC may call it.';

CREATE FUNCTION tenancy.pre_request() RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    claims jsonb := nullif(current_setting('request.jwt.claims', true), '')::jsonb;
    headers jsonb := nullif(current_setting('request.headers', true), '')::jsonb;
    response jsonb := coalesce(nullif(current_setting('response.headers', true), '')::jsonb, '[]');
    host text;
    tenant text;
BEGIN
    IF jsonb_typeof(headers) = 'object' THEN
        SELECT h.value INTO host FROM jsonb_each_text(headers) h WHERE lower(h.key) = 'host';
    END IF;
    tenant := tenancy.set_tenant(tenancy.resolve_tenant(claims, headers, host));
    IF claims ->> 'sub' <> '' AND has_parameter_privilege('tenancy.user_id', 'SET') THEN
        PERFORM set_config('tenancy.user_id', claims ->> 'sub', true);
    END IF;
    PERFORM set_config('response.headers',
                       (response || jsonb_build_array(jsonb_build_object('X-Tenant-ID', tenant)))::text, true);
END
$$;
COMMENT ON FUNCTION tenancy.pre_request() IS
'For PostgREST''s db-pre-request: reads request.jwt.claims and request.headers, sets the tenant for the transaction (and
the user from the claim sub, where the role was granted SET ON PARAMETER tenancy.user_id), and adds X-Tenant-ID to
response.headers. It runs with the rights of the caller, who needs SET ON PARAMETER tenancy.tenant_id. Errors: those of
resolve_tenant and set_tenant. Volatile. PUBLIC may call it.';
