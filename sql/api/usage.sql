-- Usage: recording it, reading it, and keeping the ledger small. Re-runnable.

-- The ledger is under the same policy as a table of kind audit. It cannot be put under tenancy.protect, which refuses the tables of
-- the extension.
ALTER TABLE _tenancy.usage ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenancy_isolation ON _tenancy.usage AS RESTRICTIVE FOR SELECT TO PUBLIC
    USING (tenant_id = tenancy.current_tenant());
CREATE POLICY tenancy_access ON _tenancy.usage AS PERMISSIVE FOR SELECT TO PUBLIC
    USING (tenant_id = tenancy.current_tenant());
CREATE TRIGGER tenancy_guard BEFORE UPDATE OR DELETE OR TRUNCATE ON _tenancy.usage
    FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.deny_audit_change();
ALTER TABLE _tenancy.usage ENABLE ALWAYS TRIGGER tenancy_guard;

CREATE VIEW tenancy.usage_records WITH (security_invoker = true) AS
    SELECT tenant_id, resource, amount, recorded_at, actor, coalesce(metadata, '{}'::jsonb) AS metadata, is_correction
    FROM _tenancy.usage;
COMMENT ON VIEW tenancy.usage_records IS
'The ledger of usage: each entry once, as its transaction committed it. amount is negative where something was given back.
is_correction: counting anew (meter, unmeter, reconcile, TRUNCATE, DROP TABLE) found a difference. A tenant sees its own; a superuser or a role with BYPASSRLS sees all. PUBLIC may read it.';

CREATE FUNCTION _tenancy.to_bigint(amount numeric) RETURNS bigint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT greatest(least(amount, 9223372036854775807), -9223372036854775808)::bigint
$$;
COMMENT ON FUNCTION _tenancy.to_bigint(numeric) IS 'an amount as bigint: the nearest one there is';

COMMENT ON FUNCTION _tenancy.sees_all_tenants() IS
'whether the caller sees the figures of all tenants: a superuser, a role with BYPASSRLS or one that inherits pg_monitor, where no tenant is
set';

-- What is settled and what is open, by hour.
CREATE VIEW _tenancy.usage_by_hour WITH (security_barrier) AS
    SELECT s.tenant_id, s.resource, s.hour, sum(s.added) AS added, sum(s.removed) AS removed, sum(s.corrected) AS corrected
    FROM (SELECT h.tenant_id, h.resource, h.hour, h.added, h.removed, h.corrected FROM _tenancy.usage_hourly h
          UNION ALL
          SELECT o.tenant_id, o.resource, date_trunc('hour', o.recorded_at, 'UTC'),
                 CASE WHEN NOT o.is_correction THEN greatest(o.amount, 0) ELSE 0 END,
                 CASE WHEN NOT o.is_correction THEN greatest(-o.amount, 0) ELSE 0 END,
                 CASE WHEN o.is_correction THEN o.amount ELSE 0 END
          FROM _tenancy.usage_open o) AS s
    GROUP BY s.tenant_id, s.resource, s.hour;
COMMENT ON VIEW _tenancy.usage_by_hour IS 'usage of all tenants by hour, settled or not';

-- A view for each case, because PostgreSQL takes a UNION ALL apart, and then the conditions of whoever asks stand beside its own. OFFSET 0 keeps them
-- out of that of a tenant: PostgreSQL would compare with what they say the tenant is equal to, or ask first what is cheap. The current
-- tenant in a sub-SELECT, so that the planner does not ask for it.
CREATE VIEW _tenancy.all_usage_by_hour WITH (security_barrier) AS
    SELECT * FROM _tenancy.usage_by_hour WHERE _tenancy.sees_all_tenants();
COMMENT ON VIEW _tenancy.all_usage_by_hour IS 'the usage of all tenants, for those who see it';
CREATE VIEW _tenancy.own_usage_by_hour WITH (security_barrier) AS
    SELECT * FROM _tenancy.usage_by_hour WHERE NOT _tenancy.sees_all_tenants() AND tenant_id = (SELECT tenancy.current_tenant()) OFFSET 0;
COMMENT ON VIEW _tenancy.own_usage_by_hour IS 'the usage of the current tenant, for everybody else';
CREATE VIEW tenancy.usage_hourly AS
    SELECT * FROM _tenancy.all_usage_by_hour UNION ALL SELECT * FROM _tenancy.own_usage_by_hour;
COMMENT ON VIEW tenancy.usage_hourly IS
'Usage by hour (UTC): added, removed, and corrected by counting anew. A tenant sees its own; superusers, roles with BYPASSRLS and members of pg_monitor see
all where no tenant is set. PUBLIC may read it.';

CREATE VIEW tenancy.usage_daily WITH (security_barrier) AS
    SELECT tenant_id, resource, (hour AT TIME ZONE 'UTC')::date AS day, sum(added) AS added, sum(removed) AS removed,
           sum(corrected) AS corrected, sum(added) - sum(removed) + sum(corrected) AS amount
    FROM tenancy.usage_hourly
    GROUP BY tenant_id, resource, (hour AT TIME ZONE 'UTC')::date;
COMMENT ON VIEW tenancy.usage_daily IS
'Usage by day (UTC): added, removed, corrected by counting anew, and amount: what that comes to. Who sees what: as tenancy.usage_hourly. PUBLIC may read it.';

COMMENT ON FUNCTION _tenancy.track(text, bigint, text) IS
'records usage of the current tenant; for tenancy.track_usage';

-- Whether the key is new; remembers it. Another transaction that tracks under the same key waits for this one.
CREATE FUNCTION _tenancy.remember_usage_key(resource text, amount bigint, key text) RETURNS boolean
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known record;
    tenant text := tenancy.current_tenant();
BEGIN
    INSERT INTO _tenancy.usage_keys AS k (tenant_id, key, resource, amount)
    VALUES (tenant, remember_usage_key.key, remember_usage_key.resource, remember_usage_key.amount)
    ON CONFLICT ON CONSTRAINT usage_keys_pkey DO NOTHING;
    IF FOUND THEN
        RETURN true;
    END IF;
    SELECT k.resource, k.amount INTO known FROM _tenancy.usage_keys k
    WHERE k.tenant_id = tenant AND k.key = remember_usage_key.key;
    IF FOUND AND (known.resource, known.amount) IS DISTINCT FROM (remember_usage_key.resource, remember_usage_key.amount) THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'key was used for another resource or amount',
            jsonb_build_object('argument', 'key'), 'A key names one request: use another for another.');
    END IF;
    RETURN false;
END
$$;
COMMENT ON FUNCTION _tenancy.remember_usage_key(text, bigint, text) IS
'whether the current tenant uses the key for the first time; for tenancy.track_usage';

CREATE FUNCTION tenancy.track_usage(resource text, amount bigint DEFAULT 1, metadata jsonb DEFAULT '{}', key text DEFAULT NULL)
    RETURNS boolean
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF resource IS NULL OR amount IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'resource and amount must not be null');
    END IF;
    IF metadata IS NULL OR jsonb_typeof(metadata) <> 'object' THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'metadata must be a JSON object', '{"argument": "metadata"}');
    ELSIF octet_length(metadata::text) > 8192 THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'metadata must have at most 8192 bytes', '{"argument": "metadata"}');
    END IF;
    IF _tenancy.is_metered(resource) THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('resource "%s" is counted by a meter', resource),
            jsonb_build_object('resource', resource), 'Track another resource, so that what is counted and what is tracked stay apart.');
    END IF;
    IF key IS NOT NULL AND (key = '' OR octet_length(key) > 255) THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'key must have 1 to 255 bytes', '{"argument": "key"}');
    END IF;
    IF key IS NOT NULL AND NOT _tenancy.remember_usage_key(resource, amount, key) THEN
        RETURN false;
    END IF;
    PERFORM _tenancy.track(resource, amount, metadata::text);
    RETURN true;
END
$$;
COMMENT ON FUNCTION tenancy.track_usage(text, bigint, jsonb, text) IS
'Records that the current tenant uses an amount of a resource that is not the rows of a table: API calls, tokens, minutes. It
counts from now on, and is in tenancy.usage_records once the transaction commits. resource: 1 to 63 letters, digits or . _ : / -;
amount: 0 or more, in units of your own; metadata: a JSON object of at most 8192 bytes, which gives the entry a row of its own; key: names the
request, so that the same one is counted once. Returns false where the key was known, so that nothing was counted.
Errors: 53400 QUOTA_EXCEEDED, 22023 PARAMETER_INVALID, those of current_tenant(). Volatile. PUBLIC may call it.';

-- Moves entries from the open part of the ledger to the settled one, and adds them up. All in one statement, so that nobody sees
-- an entry twice or not at all. Takes rows that nobody else is settling, and waits for nobody.
CREATE FUNCTION _tenancy.settle(tids tid[]) RETURNS bigint
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH moved AS (
        DELETE FROM _tenancy.usage_open o WHERE o.ctid = ANY (tids) RETURNING o.*
    ), kept AS (
        INSERT INTO _tenancy.usage_settled (tenant_id, resource, amount, recorded_at, actor, metadata, is_correction, hash, is_settled)
        SELECT m.tenant_id, m.resource, m.amount, m.recorded_at, m.actor, m.metadata, m.is_correction, m.hash, true FROM moved m
    ), hours AS (
        INSERT INTO _tenancy.usage_hourly AS h (tenant_id, resource, hour, added, removed, corrected)
        SELECT m.tenant_id, m.resource, date_trunc('hour', m.recorded_at, 'UTC'),
               coalesce(sum(greatest(m.amount, 0)) FILTER (WHERE NOT m.is_correction), 0),
               coalesce(sum(greatest(-m.amount, 0)) FILTER (WHERE NOT m.is_correction), 0),
               coalesce(sum(m.amount) FILTER (WHERE m.is_correction), 0)
        FROM moved m GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT (tenant_id, resource, hour) DO UPDATE
            SET added = h.added + excluded.added, removed = h.removed + excluded.removed, corrected = h.corrected + excluded.corrected
    ), totals AS (
        INSERT INTO _tenancy.usage_totals AS t (tenant_id, resource, amount)
        SELECT m.tenant_id, m.resource, sum(m.amount) FROM moved m GROUP BY 1, 2 ORDER BY 1, 2
        ON CONFLICT (tenant_id, resource) DO UPDATE SET amount = t.amount + excluded.amount
    )
    SELECT count(*) FROM moved
$$;
COMMENT ON FUNCTION _tenancy.settle(tid[]) IS 'settles entries of the ledger; the caller has locked them';

COMMENT ON FUNCTION _tenancy.lock_settling() IS 'lets one transaction at a time settle the ledger';

CREATE FUNCTION tenancy.settle_usage(max_entries bigint DEFAULT 100000) RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    batch constant bigint := 10000;
    settled bigint := 0;
    moved bigint;
BEGIN
    PERFORM _tenancy.refuse_in_context('settle_usage');
    IF max_entries IS NULL OR max_entries < 1 THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'max_entries must be at least 1', '{"argument": "max_entries"}');
    END IF;
    PERFORM _tenancy.lock_settling();
    WHILE settled < max_entries LOOP
        moved := _tenancy.settle(ARRAY(
            SELECT o.ctid FROM _tenancy.usage_open o LIMIT least(batch, max_entries - settled) FOR UPDATE SKIP LOCKED));
        settled := settled + moved;
        EXIT WHEN moved = 0;
    END LOOP;
    RETURN settled;
END
$$;
COMMENT ON FUNCTION tenancy.settle_usage(bigint) IS
'Adds up to max_entries open entries of the ledger to the totals, and returns how many it was. Totals stay exact while others write;
nobody waits for it but another call, where the library is preloaded. Call it every minute or so. Error: 22023 PARAMETER_INVALID. Volatile. Granted to
nobody; refused in the context of a tenant.';

-- Without shared memory, a charge against a limit locks this row, so charges of a tenant and resource follow one another.
CREATE FUNCTION _tenancy.lock_usage(tenant text, resource text, hash bigint) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    LOOP
        PERFORM FROM _tenancy.usage_totals t WHERE t.tenant_id = tenant AND t.resource = lock_usage.resource FOR UPDATE;
        EXIT WHEN FOUND;
        INSERT INTO _tenancy.usage_totals (tenant_id, resource, amount) VALUES (tenant, lock_usage.resource, 0)
        ON CONFLICT DO NOTHING;
    END LOOP;
    -- Many open entries would have to be added up each time.
    IF (SELECT count(*) >= 50 FROM (SELECT FROM _tenancy.usage_open o WHERE o.hash BETWEEN lock_usage.hash AND lock_usage.hash + 7 LIMIT 50) AS s) THEN
        PERFORM _tenancy.settle(ARRAY(
            SELECT o.ctid FROM _tenancy.usage_open o
            WHERE o.hash BETWEEN lock_usage.hash AND lock_usage.hash + 7 AND o.tenant_id = tenant AND o.resource = lock_usage.resource
            LIMIT 10000 FOR UPDATE SKIP LOCKED));
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.lock_usage(text, text, bigint) IS
'locks the total of a tenant and resource until the transaction ends; for the library, where it has no shared memory';

-- The partitions of a table for this month and the next ones, where they are missing, with what its default partition has of them; how many
-- it was. Who writes to the default partition waits, and finds the new one then.
CREATE FUNCTION _tenancy.create_month_partitions(parent text, columns text, what text, months integer) RETURNS integer
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    created integer := 0;
    month timestamp;
    partition name;
BEGIN
    IF months IS NULL OR months < 0 THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'months must not be negative', '{"argument": "months"}');
    END IF;
    FOR month IN SELECT generate_series(date_trunc('month', now() AT TIME ZONE 'UTC'),
                                        date_trunc('month', now() AT TIME ZONE 'UTC') + make_interval(months => months), '1 month') LOOP
        partition := concat(parent, '_', to_char(month, 'YYYY_MM'));
        CONTINUE WHEN to_regclass(format('_tenancy.%I', partition)) IS NOT NULL;
        EXECUTE format('CREATE TABLE _tenancy.%I (LIKE _tenancy.%I INCLUDING CONSTRAINTS)', partition, parent || '_default');
        EXECUTE format('CREATE INDEX %I ON _tenancy.%I (%s)', partition || '_tenant', partition, columns);
        EXECUTE format('LOCK TABLE _tenancy.%I IN ACCESS EXCLUSIVE MODE', parent || '_default');
        EXECUTE format('WITH moved AS (DELETE FROM _tenancy.%I WHERE recorded_at >= %L AND recorded_at < %L RETURNING *)
                        INSERT INTO _tenancy.%I SELECT * FROM moved', parent || '_default',
                       month AT TIME ZONE 'UTC', (month + '1 month') AT TIME ZONE 'UTC', partition);
        EXECUTE format('ALTER TABLE _tenancy.%I ATTACH PARTITION _tenancy.%I FOR VALUES FROM (%L) TO (%L)', parent,
                       partition, month AT TIME ZONE 'UTC', (month + '1 month') AT TIME ZONE 'UTC');
        EXECUTE format('COMMENT ON TABLE _tenancy.%I IS %L', partition, what || ' of ' || to_char(month, 'FMMonth YYYY'));
        created := created + 1;
    END LOOP;
    RETURN created;
END
$$;
COMMENT ON FUNCTION _tenancy.create_month_partitions(text, text, text, integer) IS
'creates the partitions of a table of the extension for this month and the next ones';

CREATE FUNCTION tenancy.create_usage_partitions(months integer DEFAULT 3) RETURNS integer
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('create_usage_partitions');
    RETURN _tenancy.create_month_partitions('usage_settled', 'tenant_id, resource, recorded_at', 'settled entries', months);
END
$$;
COMMENT ON FUNCTION tenancy.create_usage_partitions(integer) IS
'Creates the partitions of the ledger for this month and the next ones, where they are missing, and returns how many it was.
Call it once a month. Error: 22023 PARAMETER_INVALID. Volatile. Granted to nobody; refused in the context of a tenant.';

CREATE FUNCTION tenancy.drop_usage(before timestamptz) RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_end timestamp := date_trunc('month', before AT TIME ZONE 'UTC');
    dropped bigint := 0;
    partition regclass;
    current_moment constant bigint := extract(epoch FROM (now() AT TIME ZONE 'UTC') - '2000-01-01'::timestamp) * 1000000;
    reaching record;
BEGIN
    PERFORM _tenancy.refuse_in_context('drop_usage');
    IF before IS NULL OR the_end > date_trunc('month', now() AT TIME ZONE 'UTC') THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'before must not be later than this month', '{"argument": "before"}');
    END IF;
    -- Quotas that are set meanwhile wait, and those that were set before are seen.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'drop_usage must be called in a transaction at READ COMMITTED', '{}',
            'BEGIN ISOLATION LEVEL READ COMMITTED;');
    END IF;
    LOCK TABLE _tenancy.quota_periods IN SHARE MODE;
    SELECT q.period, q.resource, q.began INTO reaching
    FROM (SELECT p.period, p.resource, '2000-01-01'::timestamp + _tenancy.span_start(p.span, current_moment) * '1 microsecond'::interval AS began
          FROM _tenancy.quota_periods p) AS q
    WHERE q.began < the_end ORDER BY q.began LIMIT 1;
    IF FOUND THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('a quota for "%s" counts what was used since %s', reaching.resource, reaching.began),
            jsonb_build_object('argument', 'before', 'resource', reaching.resource, 'period', reaching.period),
            'Drop what is older than that, or remove the quota with tenancy.remove_quota.');
    END IF;
    -- Periods that run, and the totals, stay as they are: what is dropped is settled.
    PERFORM tenancy.settle_usage(9223372036854775807);
    FOR partition IN
        SELECT c.oid::regclass FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = '_tenancy.usage_settled'::regclass
          AND c.relname ~ '^usage_settled_\d{4}_\d{2}$' AND to_date(right(c.relname, 7), 'YYYY_MM') < the_end
    LOOP
        EXECUTE format('DROP TABLE %s', partition);
        dropped := dropped + 1;
    END LOOP;
    DELETE FROM _tenancy.usage_settled_default d WHERE d.recorded_at < the_end AT TIME ZONE 'UTC';
    DELETE FROM _tenancy.usage_hourly h WHERE h.hour < the_end AT TIME ZONE 'UTC';
    DELETE FROM _tenancy.usage_keys k WHERE k.recorded_at < the_end AT TIME ZONE 'UTC';
    RETURN dropped;
END
$$;
COMMENT ON FUNCTION tenancy.drop_usage(timestamptz) IS
'Drops the entries of the months that ended before the month of this time, with their sums by hour and their keys, and returns how many
monthly partitions that was. What tenants use, for good and in the current periods, stays as it is. Error: 22023
PARAMETER_INVALID. Volatile. Granted to nobody; refused in the context of a tenant.';
