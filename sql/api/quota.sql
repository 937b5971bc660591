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
'used and reserved amounts of a tenant and resource, for good, in the current hour, day and month (UTC), and in the other periods of its
quotas';

COMMENT ON FUNCTION _tenancy.span_start(bigint, bigint) IS
'when the period of a length began that holds a moment; in microseconds since 2000-01-01 UTC, the length in months where it is negative';

-- The one spelling of a period, and its length: zero for those that are always counted.
CREATE FUNCTION _tenancy.quota_period(period text, OUT name text, OUT span bigint)
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    length interval;
    months bigint;
    seconds numeric;
    unit record;
BEGIN
    IF period IS NULL OR period IN ('', 'hour', 'day', 'month') THEN
        name := coalesce(period, '');
        span := 0;
        RETURN;
    END IF;
    BEGIN
        length := period::interval;
        months := extract(year FROM length)::bigint * 12 + extract(month FROM length)::bigint;
    EXCEPTION WHEN data_exception OR feature_not_supported THEN  -- the latter of an infinite interval
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('unknown period "%s"', period), '{"argument": "period"}',
            'A period is hour, day, month, an interval such as 15 minutes or 7 days, or null: for good.');
    END;
    IF months BETWEEN 0 AND 1200 THEN
        seconds := extract(epoch FROM length - make_interval(months => months::integer));
    END IF;
    IF seconds IS NULL OR seconds NOT BETWEEN 0 AND 3153600000 OR seconds <> trunc(seconds) OR (months > 0) = (seconds > 0) THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('unsupported period "%s"', period), '{"argument": "period"}',
            'An interval is of whole seconds, minutes, hours and days, or of months and years: one second to 100 years.');
    END IF;
    FOR unit IN SELECT u.name, u.size, u.length FROM (VALUES
        ('year', 12, months), ('month', 1, months), ('day', 86400, seconds), ('hour', 3600, seconds), ('minute', 60, seconds), ('second', 1, seconds))
        AS u (name, size, length) WHERE u.length > 0 AND u.length % u.size = 0
    LOOP
        name := CASE unit.length / unit.size WHEN 1 THEN unit.name ELSE trunc(unit.length / unit.size) || ' ' || unit.name || 's' END;
        EXIT;
    END LOOP;
    -- As it is always counted.
    span := CASE WHEN name IN ('hour', 'day', 'month') THEN 0 WHEN months > 0 THEN -months ELSE seconds * 1000000 END;
END
$$;
COMMENT ON FUNCTION _tenancy.quota_period(text) IS 'the one spelling of a period of a quota, and its length';

-- Whether the ledger could be locked until the transaction ends, against all who write to it. They wait behind who waits, so not for
-- long: somebody may hold it for hours, as a prepared transaction does.
CREATE FUNCTION _tenancy.try_lock_ledger() RETURNS boolean
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms'
AS $$
BEGIN
    LOCK TABLE _tenancy.usage_open IN SHARE ROW EXCLUSIVE MODE;
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;
COMMENT ON FUNCTION _tenancy.try_lock_ledger() IS 'whether the ledger could be locked against all who write to it';

-- Has a resource counted over a period; returns the id of its counters.
CREATE FUNCTION _tenancy.count_over(resource text, period text, span bigint) RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_id bigint;
    attempt integer := 0;
BEGIN
    LOOP
        SELECT p.id INTO the_id FROM _tenancy.quota_periods p
        WHERE p.resource = count_over.resource AND p.period = count_over.period FOR SHARE;
        IF FOUND THEN
            RETURN the_id;
        END IF;
        -- Transactions that are committing have their charges in the ledger before this is committed; those that are not yet learn of
        -- the period when they come to write there (src/usage/mod.rs).
        WHILE NOT _tenancy.try_lock_ledger() LOOP
            attempt := attempt + 1;
            IF attempt = 10 THEN
                PERFORM _tenancy.raise('LEDGER_BUSY', 'ledger of usage could not be locked', jsonb_build_object('resource', resource),
                    'Some transaction has written to it and does not end; prepared ones: SELECT * FROM pg_prepared_xacts;');
            END IF;
            PERFORM pg_sleep(0.3);
        END LOOP;
        IF (SELECT count(*) >= 4 FROM _tenancy.quota_periods p WHERE p.resource = count_over.resource) THEN
            PERFORM _tenancy.raise('PARAMETER_INVALID', format('"%s" has quotas over four intervals already', resource),
                jsonb_build_object('resource', resource), 'Remove the quotas over one of them: SELECT * FROM tenancy.quotas;');
        END IF;
        INSERT INTO _tenancy.quota_periods (resource, period, span) VALUES (count_over.resource, count_over.period, count_over.span)
        ON CONFLICT ON CONSTRAINT quota_periods_pkey DO NOTHING;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _tenancy.count_over(text, text, bigint) IS 'has a resource counted over a period that is none of hour, day and month';

CREATE FUNCTION _tenancy.set_quota(
    scope text, name text, resource text, max_amount bigint, period text, soft_limit bigint) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_period record;
    the_id bigint;
BEGIN
    IF resource IS NULL OR resource !~ '^[A-Za-z0-9._:/-]{1,63}$' THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'malformed resource', '{"argument": "resource"}',
            'A resource has 1 to 63 letters, digits or characters of . _ : / -, such as orders.');
    ELSIF max_amount < 0 OR soft_limit < 0 THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'limits must not be negative', '{"argument": "max_amount"}');
    ELSIF soft_limit > max_amount THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'soft_limit must not be greater than max_amount', '{"argument": "soft_limit"}');
    END IF;
    the_period := _tenancy.quota_period(period);
    IF the_period.span <> 0 THEN
        the_id := _tenancy.count_over(resource, the_period.name, the_period.span);
    END IF;
    INSERT INTO _tenancy.quotas AS q (scope, name, resource, period, max_amount, soft_limit, interval_id)
    VALUES (set_quota.scope, set_quota.name, set_quota.resource, the_period.name, set_quota.max_amount, set_quota.soft_limit, the_id)
    ON CONFLICT ON CONSTRAINT quotas_pkey DO UPDATE SET max_amount = excluded.max_amount, soft_limit = excluded.soft_limit, interval_id = excluded.interval_id;
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
'Sets how much of a resource a tenant may use: max_amount, or without a limit where it is null; per period or, where
that is null, for good. period: hour, day or month (UTC), or an interval such as 15 minutes or 7 days. Intervals follow one another from
Monday, January 3, 2000, 00:00 UTC, those of months from January 2000; a resource has at most four. soft_limit warns and refuses nothing. It goes before the quotas of the tenant''s plan and the
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
DECLARE
    the_period text;
    removed boolean;
BEGIN
    PERFORM _tenancy.refuse_in_context('remove_quota');
    IF scope IS NULL OR scope NOT IN ('tenant', 'plan', 'default') THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'scope must be tenant, plan or default', '{"argument": "scope"}');
    END IF;
    -- In an older snapshot, quotas of others over the period would not be seen, and would be left without it.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'remove_quota must be called in a transaction at READ COMMITTED', '{}',
            'BEGIN ISOLATION LEVEL READ COMMITTED;');
    END IF;
    the_period := (_tenancy.quota_period(period)).name;
    -- Nobody sets a quota over the period meanwhile (_tenancy.count_over locks it as well).
    PERFORM FROM _tenancy.quota_periods p WHERE p.resource = remove_quota.resource AND p.period = the_period FOR UPDATE;
    DELETE FROM _tenancy.quotas q
    WHERE q.scope = remove_quota.scope AND q.name = coalesce(remove_quota.name, '')
      AND q.resource = remove_quota.resource AND q.period = the_period;
    removed := FOUND;
    DELETE FROM _tenancy.quota_periods p
    WHERE p.resource = remove_quota.resource AND p.period = the_period
      AND NOT EXISTS (SELECT FROM _tenancy.quotas q WHERE q.resource = p.resource AND q.period = p.period);
    RETURN removed;
END
$$;
COMMENT ON FUNCTION tenancy.remove_quota(text, text, text, text) IS
'Removes a quota, so that the next one applies: scope is tenant, plan or default, name the tenant''s id or the plan, or null. Returns
whether there was one. To be called at READ COMMITTED. Error: 22023 PARAMETER_INVALID. Volatile. Granted to nobody; refused in the context of a tenant.';

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

-- As with usage.
CREATE VIEW _tenancy.all_quota_states WITH (security_barrier) AS
    SELECT * FROM _tenancy.quota_states WHERE _tenancy.sees_all_tenants();
COMMENT ON VIEW _tenancy.all_quota_states IS 'how much of its quotas each tenant uses, for those who see it';
CREATE VIEW _tenancy.own_quota_states WITH (security_barrier) AS
    SELECT * FROM _tenancy.quota_states WHERE NOT _tenancy.sees_all_tenants() AND tenant_id = (SELECT tenancy.current_tenant()) OFFSET 0;
COMMENT ON VIEW _tenancy.own_quota_states IS 'how much of its quotas the current tenant uses, for everybody else';
CREATE VIEW tenancy.quota_status AS
    SELECT * FROM _tenancy.all_quota_states UNION ALL SELECT * FROM _tenancy.own_quota_states;
COMMENT ON VIEW tenancy.quota_status IS
'How much of its quotas each tenant uses: used (committed), reserved (by transactions that run), limit (null: none), soft_limit,
remaining, percentage of the limit; scope tells where the quota comes from. Over the current period (UTC), or for good where period is
null. Who sees what: as tenancy.usage_hourly. PUBLIC may read it.';
