-- Quotas: setting them, and seeing how much of them is used. Re-runnable.

COMMENT ON FUNCTION tenancy.check_quota(text, bigint) IS
'Returns whether the current tenant could use an amount of a resource now; what others have reserved counts as used. Another
transaction may take the room: enforce_quota keeps it. resource: 1 to 63 letters, digits or . _ : / -; amount: 0 or more.
Errors: 22023 PARAMETER_INVALID, those of current_tenant(). Volatile. PUBLIC may call it.';
COMMENT ON FUNCTION tenancy.enforce_quota(text, bigint) IS
'Raises 53400 QUOTA_EXCEEDED unless the current tenant can use an amount of a resource, and keeps the room for this transaction: what
it charges up to that amount is not refused. Charges nothing: track_usage and meters do. Other errors: those of check_quota.
Volatile. PUBLIC may call it.';
COMMENT ON FUNCTION _tenancy.usage_of(text, text) IS
'used and reserved amounts of a tenant and resource, for good and in the current hour, day and month (UTC)';

CREATE FUNCTION _tenancy.set_quota(
    scope text, name text, resource text, max_amount bigint, period text, soft_limit bigint) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF resource IS NULL OR resource !~ '^[A-Za-z0-9._:/-]{1,63}$' THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'malformed resource', '{"argument": "resource"}',
            'A resource has 1 to 63 letters, digits or characters of . _ : / -, such as orders.');
    ELSIF max_amount < 0 OR soft_limit < 0 THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'limits must not be negative', '{"argument": "max_amount"}');
    ELSIF soft_limit > max_amount THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'soft_limit must not be greater than max_amount', '{"argument": "soft_limit"}');
    ELSIF coalesce(period, '') NOT IN ('', 'hour', 'day', 'month') THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('unknown period "%s"', period), '{"argument": "period"}',
            'A period is hour, day or month (UTC), or null: for good.');
    END IF;
    INSERT INTO _tenancy.quotas AS q (scope, name, resource, period, max_amount, soft_limit)
    VALUES (set_quota.scope, set_quota.name, set_quota.resource, coalesce(set_quota.period, ''), set_quota.max_amount, set_quota.soft_limit)
    ON CONFLICT ON CONSTRAINT quotas_pkey DO UPDATE SET max_amount = excluded.max_amount, soft_limit = excluded.soft_limit;
END
$$;
COMMENT ON FUNCTION _tenancy.set_quota(text, text, text, bigint, text, bigint) IS 'writes a quota';

CREATE FUNCTION _tenancy.registered(tenant_id text) RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_id text := tenancy.normalize_tenant_id(tenant_id);
BEGIN
    IF the_id IS NULL THEN
        PERFORM _tenancy.raise('TENANT_ID_INVALID', 'tenant id must not be null');
    ELSIF NOT EXISTS (SELECT FROM _tenancy.tenants t WHERE t.id = the_id) THEN
        PERFORM _tenancy.raise('TENANT_NOT_FOUND', format('tenant "%s" does not exist', the_id), jsonb_build_object('tenant_id', the_id));
    END IF;
    RETURN the_id;
END
$$;
COMMENT ON FUNCTION _tenancy.registered(text) IS 'the one spelling of a tenant id; raises an error unless it is registered';

CREATE FUNCTION tenancy.set_quota(
    tenant_id text, resource text, max_amount bigint, period text DEFAULT NULL, soft_limit bigint DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('set_quota');
    PERFORM _tenancy.set_quota('tenant', _tenancy.registered(tenant_id), resource, max_amount, period, soft_limit);
END
$$;
COMMENT ON FUNCTION tenancy.set_quota(text, text, bigint, text, bigint) IS
'Sets how much of a resource a tenant may use: max_amount, or without a limit where it is null; per period (hour, day or month,
in UTC) or, where that is null, for good. soft_limit warns and refuses nothing. It goes before the quotas of the tenant''s plan and the
default ones, for this period. In force at the next statement of every connection. Errors: 22023 PARAMETER_INVALID, TENANT_ID_INVALID, 42704
TENANT_NOT_FOUND. Volatile. Granted to nobody; refused in the context of a tenant.';

CREATE FUNCTION tenancy.set_plan_quota(
    plan text, resource text, max_amount bigint, period text DEFAULT NULL, soft_limit bigint DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('set_plan_quota');
    IF plan IS NULL OR plan = '' THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'plan must not be empty', '{"argument": "plan"}');
    END IF;
    PERFORM _tenancy.set_quota('plan', plan, resource, max_amount, period, soft_limit);
END
$$;
COMMENT ON FUNCTION tenancy.set_plan_quota(text, text, bigint, text, bigint) IS
'Sets how much of a resource each tenant on a plan may use, where it has no quota of its own for that period; the rest as set_quota.
Error: 22023 PARAMETER_INVALID. Volatile. Granted to nobody; refused in the context of a tenant.';

CREATE FUNCTION tenancy.set_default_quota(
    resource text, max_amount bigint, period text DEFAULT NULL, soft_limit bigint DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('set_default_quota');
    PERFORM _tenancy.set_quota('default', '', resource, max_amount, period, soft_limit);
END
$$;
COMMENT ON FUNCTION tenancy.set_default_quota(text, bigint, text, bigint) IS
'Sets how much of a resource each tenant may use, where neither it nor its plan has a quota for that period; the rest as set_quota.
Error: 22023 PARAMETER_INVALID. Volatile. Granted to nobody; refused in the context of a tenant.';

CREATE FUNCTION tenancy.remove_quota(scope text, name text, resource text, period text DEFAULT NULL) RETURNS boolean
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('remove_quota');
    IF scope IS NULL OR scope NOT IN ('tenant', 'plan', 'default') THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'scope must be tenant, plan or default', '{"argument": "scope"}');
    END IF;
    DELETE FROM _tenancy.quotas q
    WHERE q.scope = remove_quota.scope AND q.name = coalesce(remove_quota.name, '')
      AND q.resource = remove_quota.resource AND q.period = coalesce(remove_quota.period, '');
    RETURN FOUND;
END
$$;
COMMENT ON FUNCTION tenancy.remove_quota(text, text, text, text) IS
'Removes a quota, so that the next one applies: scope is tenant, plan or default, name the tenant''s id or the plan, or null. Returns
whether there was one. Error: 22023 PARAMETER_INVALID. Volatile. Granted to nobody; refused in the context of a tenant.';

CREATE VIEW tenancy.quotas AS
    SELECT q.scope, nullif(q.name, '') AS name, q.resource, nullif(q.period, '') AS period, q.max_amount, q.soft_limit
    FROM _tenancy.quotas q;
COMMENT ON VIEW tenancy.quotas IS
'The quotas as they were set: of tenants, of plans, and the default ones. max_amount is null where nothing is limited. Granted to
nobody.';

-- The quota of each tenant, resource and period: its own, else its plan's, else the default.
CREATE VIEW _tenancy.effective_quotas AS
    SELECT DISTINCT ON (t.id, q.resource, q.period) t.id AS tenant_id, q.resource, q.period, q.scope, q.max_amount, q.soft_limit
    FROM _tenancy.tenants t
    JOIN _tenancy.quotas q ON (q.scope, q.name) IN (('tenant', t.id), ('plan', t.plan), ('default', ''))
    ORDER BY t.id, q.resource, q.period, array_position(ARRAY['tenant', 'plan', 'default'], q.scope::text);
COMMENT ON VIEW _tenancy.effective_quotas IS 'the quota that applies to each tenant, resource and period';

CREATE VIEW _tenancy.quota_states AS
    SELECT e.tenant_id, e.resource, nullif(e.period, '') AS period, e.scope, u.used, u.reserved, e.max_amount AS "limit", e.soft_limit,
           CASE WHEN e.max_amount IS NOT NULL THEN greatest(e.max_amount::numeric - u.used - u.reserved, 0)::bigint END AS remaining,
           CASE WHEN e.max_amount > 0 THEN round(100.0 * (u.used::numeric + u.reserved) / e.max_amount, 1) END AS percentage
    FROM _tenancy.effective_quotas e
    JOIN LATERAL _tenancy.usage_of(e.tenant_id, e.resource) u ON u.period = e.period;
COMMENT ON VIEW _tenancy.quota_states IS 'how much of its quotas each tenant uses';

CREATE VIEW tenancy.quota_status WITH (security_barrier) AS
    SELECT s.* FROM _tenancy.quota_states s WHERE _tenancy.sees_all_tenants()
    UNION ALL
    SELECT s.* FROM _tenancy.quota_states s WHERE NOT _tenancy.sees_all_tenants() AND s.tenant_id = (SELECT tenancy.current_tenant());
COMMENT ON VIEW tenancy.quota_status IS
'How much of its quotas each tenant uses: used (committed), reserved (by transactions that run), limit (null: none), soft_limit,
remaining, percentage of the limit; scope tells where the quota comes from. Over the current period (UTC), or for good where period is
null. Who sees what: as tenancy.usage_hourly. PUBLIC may read it.';
