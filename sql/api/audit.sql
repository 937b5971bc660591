-- The audit trail: what has been changed, by whom, and whether the record is whole. Re-runnable.

CREATE FUNCTION _tenancy.audit_row() RETURNS trigger
    LANGUAGE c VOLATILE
    AS 'MODULE_PATHNAME', 'tenancy_audit_row';
COMMENT ON FUNCTION _tenancy.audit_row() IS 'trigger on audited tables: writes what has become of a row into the audit trail. Errors: 55000 RELATION_NOT_AUDITED on any other table. PUBLIC may call it';
COMMENT ON FUNCTION _tenancy.audit_start(text, bigint, bigint, bigint, bytea) IS
'what the first entry of a segment of the audit trail is chained to; for tenancy.verify_audit';
COMMENT ON FUNCTION _tenancy.audit_hash(bytea, bigint, bigint, text, timestamptz, text, text, text, text, text, text, text, text, text, bigint) IS
'the hash that an entry of the audit trail must have after the one before it; for tenancy.verify_audit';

-- Under the same policy as a table of kind audit. It cannot be put under tenancy.protect, which refuses the tables of the extension.
ALTER TABLE _tenancy.audit_entries ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenancy_isolation ON _tenancy.audit_entries AS RESTRICTIVE FOR SELECT TO PUBLIC
    USING (tenant_id = tenancy.current_tenant());
CREATE POLICY tenancy_access ON _tenancy.audit_entries AS PERMISSIVE FOR SELECT TO PUBLIC
    USING (tenant_id = tenancy.current_tenant());
CREATE TRIGGER tenancy_guard BEFORE UPDATE OR DELETE OR TRUNCATE ON _tenancy.audit_entries
    FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.deny_audit_change();
ALTER TABLE _tenancy.audit_entries ENABLE ALWAYS TRIGGER tenancy_guard;

-- A column of type json takes what jsonb does not: \u0000, half of a surrogate pair, numbers past numeric. One such row would keep everybody
-- from reading the trail; its JSON is shown as a text, in an object of its own.
COMMENT ON FUNCTION _tenancy.note_audit(text, jsonb) IS 'writes an entry of no tenant; for functions that change the trail itself';

CREATE VIEW tenancy.audit_log WITH (security_invoker = true) AS
    SELECT e.tenant_id, e.recorded_at, e.operation, e.relation,
           CASE WHEN e.key::text ~ u.pattern THEN jsonb_build_object('json', e.key::text) ELSE e.key::jsonb END AS key,
           CASE WHEN e.old::text ~ u.pattern THEN jsonb_build_object('json', e.old::text) ELSE e.old::jsonb END AS old,
           CASE WHEN e.new::text ~ u.pattern THEN jsonb_build_object('json', e.new::text) ELSE e.new::jsonb END AS new,
           e.detail::jsonb AS detail, e.actor, e.role, e.session, e.transaction, e.segment, e.number, e.hash
    FROM _tenancy.audit_entries e,
         (SELECT '\\u(0000|[dD][89a-fA-F])|[:,[]\s*-?[0-9]+(\.[0-9]+)?[eE][+-]?[0-9]{4}|[:,[]\s*-?[0-9]{255}[0-9]{255}') AS u(pattern);
COMMENT ON VIEW tenancy.audit_log IS
'The audit trail. operation: INSERT, UPDATE, DELETE or TRUNCATE of a row of relation, with its key and what the columns that changed held
before (old) and after (new). Who: actor (the user of the context), role (the database role), session (as %c of log_line_prefix),
transaction; recorded_at is when the statement began. segment, number, hash: its place in the chain, see verify_audit(). A tenant sees its
own; a superuser or a role with BYPASSRLS sees all. PUBLIC may read it.';

CREATE VIEW tenancy.audited_tables AS
    SELECT a.relation, a.excluded, a.masked, a.audited_at FROM _tenancy.audited a
    WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = a.relation);
COMMENT ON VIEW tenancy.audited_tables IS 'The tables whose changes are in the audit trail. PUBLIC may read it.';

-- Gives a table and its children the triggers of an audited one, or takes them. A partition has that for rows from its parent.
CREATE FUNCTION _tenancy.make_audit_triggers(relation regclass, is_audited boolean) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    member regclass;
    trigger record;
BEGIN
    FOR member IN SELECT t.relation FROM _tenancy.tree(make_audit_triggers.relation) t ORDER BY t.depth, t.relation::text LOOP
        PERFORM _tenancy.begin_change(member);
        FOR trigger IN
            SELECT g.tgname AS name FROM pg_trigger g
            WHERE g.tgrelid = member AND g.tgfoid = '_tenancy.audit_row()'::regprocedure AND g.tgparentid = 0
        LOOP
            EXECUTE format('DROP TRIGGER %I ON %s', trigger.name, member);
        END LOOP;
        FOR trigger IN SELECT * FROM _tenancy.audit_triggers() WHERE is_audited LOOP
            CONTINUE WHEN EXISTS (SELECT FROM pg_trigger g WHERE g.tgrelid = member AND g.tgname = trigger.name);
            EXECUTE format('CREATE TRIGGER %I AFTER %s ON %s FOR EACH %s EXECUTE FUNCTION _tenancy.audit_row()',
                           trigger.name, trigger.command, member, trigger.level);
        END LOOP;
        FOR trigger IN SELECT g.tgname AS name FROM pg_trigger g
                       WHERE g.tgrelid = member AND g.tgfoid = '_tenancy.audit_row()'::regprocedure AND g.tgenabled <> 'A' LOOP
            EXECUTE format('ALTER TABLE ONLY %s ENABLE ALWAYS TRIGGER %I', member, trigger.name);
        END LOOP;
        PERFORM _tenancy.end_change(member);
    END LOOP;
END
$$;
COMMENT ON FUNCTION _tenancy.make_audit_triggers(regclass, boolean) IS 'gives a table the triggers of an audited one, or takes them';

CREATE FUNCTION tenancy.audit(relation regclass, exclude name[] DEFAULT '{}', mask name[] DEFAULT '{}') RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    unknown name;
BEGIN
    PERFORM _tenancy.refuse_in_context('audit');
    IF audit.relation IS NULL OR audit.exclude IS NULL OR audit.mask IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'arguments of audit must not be null');
    END IF;
    PERFORM _tenancy.check_relation(audit.relation);
    IF NOT _tenancy.is_protected(audit.relation) THEN
        PERFORM _tenancy.raise('RELATION_NOT_PROTECTED', format('table %s is not protected', audit.relation),
            jsonb_build_object('relation', audit.relation::text),
            format('Say first whose its rows are: SELECT tenancy.protect(%L);', audit.relation));
    END IF;
    SELECT c INTO unknown FROM unnest(audit.exclude || audit.mask) AS c
    WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = audit.relation AND a.attname = c AND a.attnum > 0 AND NOT a.attisdropped);
    IF FOUND THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('table %s has no column "%s"', audit.relation, unknown),
            jsonb_build_object('relation', audit.relation::text, 'column', unknown));
    END IF;
    EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', audit.relation);
    INSERT INTO _tenancy.audited AS a (relation, excluded, masked) VALUES (audit.relation, audit.exclude, audit.mask)
    ON CONFLICT ON CONSTRAINT audited_pkey DO UPDATE SET excluded = excluded.excluded, masked = excluded.masked;
    -- Made anew each time, which tells every backend to read the columns anew.
    PERFORM _tenancy.make_audit_triggers(audit.relation, true);
    RAISE NOTICE 'table % is audited', audit.relation;
END
$$;
COMMENT ON FUNCTION tenancy.audit(regclass, name[], name[]) IS
'Writes each change of a row of a protected table, and of its partitions and children, into the audit trail, in the transaction that
makes it. exclude: columns that are left out; mask: columns of which is told that they have changed, and not what they hold. Call it again to
change either. Errors: 55000 RELATION_NOT_PROTECTED, 22023 PARAMETER_INVALID. Volatile. Granted to nobody; refused in the context of a tenant.';

CREATE FUNCTION tenancy.unaudit(relation regclass) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('unaudit');
    IF unaudit.relation IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'relation must not be null');
    END IF;
    DELETE FROM _tenancy.audited a WHERE a.relation = unaudit.relation;
    IF NOT FOUND THEN
        PERFORM _tenancy.raise('RELATION_NOT_AUDITED', format('table %s is not audited', unaudit.relation),
            jsonb_build_object('relation', unaudit.relation::text));
    END IF;
    PERFORM _tenancy.make_audit_triggers(unaudit.relation, false);
END
$$;
COMMENT ON FUNCTION tenancy.unaudit(regclass) IS
'No longer writes changes of a table into the audit trail; what is there stays. Errors: 55000 RELATION_NOT_AUDITED, 22023
PARAMETER_INVALID. Volatile. Granted to nobody; refused in the context of a tenant.';

CREATE FUNCTION tenancy.verify_audit(tenant_id text, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL)
    RETURNS TABLE (segment bigint, number bigint, recorded_at timestamptz, problem text)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    the_tenant text := tenancy.normalize_tenant_id(verify_audit.tenant_id);
    known _tenancy.audit_heads[];
    may_be_late text;
    begun_after bytea;
BEGIN
    PERFORM _tenancy.refuse_in_context('verify_audit');
    -- Before the entries, each query with a snapshot of its own: an entry that stays whatever becomes of its transaction is seen at once, and is there
    -- before its head is. Of a segment of such entries there is a head for each.
    known := ARRAY(SELECT DISTINCT ON (h.segment) h FROM _tenancy.audit_heads h
                   WHERE h.tenant_id = the_tenant OR h.tenant_id IS NULL AND the_tenant IS NULL
                   ORDER BY h.segment, h.number DESC);
    FOR segment, number, recorded_at, problem, may_be_late, begun_after IN
        WITH entries AS (
            SELECT e.*, lag(e.number) OVER w AS previous_number, lag(e.hash) OVER w AS previous_hash
            FROM _tenancy.audit_entries e
            WHERE e.tenant_id = the_tenant OR e.tenant_id IS NULL AND the_tenant IS NULL
            WINDOW w AS (PARTITION BY e.segment ORDER BY e.number)
        ), heads AS (
            SELECT h.* FROM unnest(known) AS h
        ), cuts AS (
            SELECT c.segment, c.number, c.hash FROM _tenancy.audit_cuts c WHERE c.tenant_id IS NOT DISTINCT FROM the_tenant
        ), checked AS (
            SELECT e.segment, e.number, e.recorded_at,
                CASE
                    WHEN h.segment IS NULL THEN NULL
                    WHEN e.number = e.previous_number THEN 'there are two entries of this number'
                    WHEN e.number <> coalesce(e.previous_number, c.number, 0) + 1
                        THEN format('entries from number %s on are missing before it', coalesce(e.previous_number, c.number, 0) + 1)
                    WHEN (e.recorded_at >= since) IS NOT FALSE AND (e.recorded_at < until) IS NOT FALSE
                         AND e.hash IS DISTINCT FROM _tenancy.audit_hash(
                             CASE WHEN e.number = 1 THEN _tenancy.audit_start(the_tenant, e.segment, h.after_segment, h.after_number, h.after_hash)
                                  ELSE coalesce(e.previous_hash, c.hash) END,
                             e.segment, e.number, e.tenant_id, e.recorded_at, e.operation, e.relation, e.key::text, e.old::text, e.new::text,
                             e.detail::text, e.actor, e.role, e.session, e.transaction)
                        THEN 'it was changed, or does not follow the one before it'
                END AS problem
            FROM entries e LEFT JOIN heads h ON h.segment = e.segment LEFT JOIN cuts c ON c.segment = e.segment
        ), ends AS (
            SELECT DISTINCT ON (e.segment) e.segment, e.number, e.recorded_at, e.operation FROM entries e ORDER BY e.segment, e.number DESC
        ), found AS (
            SELECT k.segment, k.number, k.recorded_at, k.problem, NULL AS may_be_late, NULL::bytea AS hash FROM checked k
            UNION ALL
            SELECT coalesce(h.segment, d.segment), coalesce(d.number, h.number), d.recorded_at,
                CASE
                    WHEN h.segment IS NULL THEN 'nothing tells how far its segment goes'
                    WHEN coalesce(d.number, c.number, 0) < h.number THEN format('entries up to number %s are missing after it', h.number)
                    WHEN d.number > h.number THEN format('entries after number %s were added to its segment', h.number)
                END, CASE WHEN h.segment IS NULL OR d.number > h.number THEN 'head' END, NULL
            FROM heads h FULL JOIN ends d ON d.segment = h.segment LEFT JOIN cuts c ON c.segment = h.segment
            UNION ALL
            SELECT e.segment, e.number, e.recorded_at, 'it is not the last entry of its segment as that was written', NULL, NULL
            FROM heads h JOIN entries e ON e.segment = h.segment AND e.number = h.number AND e.hash <> h.hash
            UNION ALL
            SELECT h.after_segment, h.after_number, NULL, format('it is gone, and segment %s was begun after it', h.segment), 'entry', h.after_hash
            FROM heads h
            WHERE h.after_segment IS NOT NULL
              AND NOT EXISTS (SELECT FROM entries e WHERE e.segment = h.after_segment AND e.number = h.after_number AND e.hash = h.after_hash)
              AND NOT EXISTS (SELECT FROM cuts c WHERE c.segment = h.after_segment AND c.number >= h.after_number)
        )
        SELECT f.segment, f.number, f.recorded_at, f.problem, f.may_be_late, f.hash FROM found f WHERE f.problem IS NOT NULL ORDER BY 1, 2, 4
    LOOP
        -- Written while we looked: what was missing has come meanwhile. The head of an entry that stays is there a moment after the entry.
        CONTINUE WHEN may_be_late = 'head' AND EXISTS (
            SELECT FROM _tenancy.audit_heads h
            WHERE h.segment = verify_audit.segment AND h.tenant_id IS NOT DISTINCT FROM the_tenant AND (h.number >= verify_audit.number
                OR h.number = verify_audit.number - 1 AND EXISTS (
                    SELECT FROM _tenancy.audit_entries e WHERE e.segment = verify_audit.segment AND e.number = verify_audit.number AND e.operation = 'REFUSED')));
        CONTINUE WHEN may_be_late = 'entry' AND EXISTS (
            SELECT FROM _tenancy.audit_entries e
            WHERE e.segment = verify_audit.segment AND e.number = verify_audit.number AND e.hash = begun_after AND e.tenant_id IS NOT DISTINCT FROM the_tenant);
        RETURN NEXT;
    END LOOP;
END
$$;
COMMENT ON FUNCTION tenancy.verify_audit(text, timestamptz, timestamptz) IS
'Recomputes the hashes of a tenant''s entries (null: of those that are of no tenant) and returns a row for each that was changed, moved,
added or removed; none where the record is whole. since, until: of entries from when on, and up to when, the contents are checked; that none is
missing is always checked. Whoever can write to the tables of the extension and computes all later hashes anew is found only by what was
kept elsewhere: see tenancy.audit_heads. Call it at READ COMMITTED: an older snapshot does not show what others have just written. Error: 22023
TENANT_ID_INVALID. Volatile. Granted to nobody; refused in the context of a tenant.';

CREATE VIEW tenancy.audit_heads WITH (security_barrier) AS
    SELECT DISTINCT ON (h.tenant_id, h.segment) h.tenant_id, h.segment, h.number, h.hash, h.opened_at
    FROM _tenancy.audit_heads h ORDER BY h.tenant_id, h.segment, h.number DESC;
COMMENT ON VIEW tenancy.audit_heads IS
'The last entry of each segment of the audit trail. Copied to where no superuser of this server can write, it proves later that the entries up
to there are what they were: each is still in tenancy.audit_log, with the same hash. Granted to nobody.';

-- What administrators do is a change of a table of the extension. The arguments are the tenant column, or nothing, and what is left out:
-- secrets.
DO $$
DECLARE
    item record;
    event text;
    is_of_tenant boolean;
BEGIN
    FOR item IN
        SELECT * FROM (VALUES ('_tenancy.tenants', '{id}'), ('_tenancy.users', '{""}'), ('_tenancy.members', '{tenant_id,invitation}'),
                              ('_tenancy.issuers', '{tenant_id,jwks}'), ('_tenancy.signing_keys', '{"",key}'), ('_tenancy.passwords', '{"",hash}'),
                              ('_tenancy.protected', '{""}'), ('_tenancy.protected_schemas', '{""}'), ('_tenancy.meters', '{""}'),
                              ('_tenancy.audited', '{""}'), ('_tenancy.cross_tenant_grants', '{""}')) AS t(relation, arguments)
    LOOP
        EXECUTE format('CREATE TRIGGER tenancy_audit AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION _tenancy.audit_row(%s)',
                       item.relation, (SELECT string_agg(quote_literal(a), ', ') FROM unnest(item.arguments::text[]) AS a));
        EXECUTE format('CREATE TRIGGER tenancy_audit_truncate AFTER TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.audit_row(%L)',
                       item.relation, '');
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER tenancy_audit, ENABLE ALWAYS TRIGGER tenancy_audit_truncate', item.relation);
    END LOOP;
    -- A quota has the name of a tenant, of a plan, or none.
    FOREACH event IN ARRAY '{INSERT,UPDATE,DELETE}'::text[] LOOP
        FOREACH is_of_tenant IN ARRAY '{true,false}'::boolean[] LOOP
            EXECUTE format('CREATE TRIGGER %I AFTER %s ON _tenancy.quotas FOR EACH ROW WHEN (%s.scope %s %L) EXECUTE FUNCTION _tenancy.audit_row(%L)',
                           concat('tenancy_audit_', lower(event), CASE WHEN NOT is_of_tenant THEN '_other' END), event,
                           CASE event WHEN 'DELETE' THEN 'OLD' ELSE 'NEW' END, CASE WHEN is_of_tenant THEN '=' ELSE '<>' END, 'tenant',
                           CASE WHEN is_of_tenant THEN 'name' ELSE '' END);
            EXECUTE format('ALTER TABLE _tenancy.quotas ENABLE ALWAYS TRIGGER %I',
                           concat('tenancy_audit_', lower(event), CASE WHEN NOT is_of_tenant THEN '_other' END));
        END LOOP;
    END LOOP;
    CREATE TRIGGER tenancy_audit_truncate AFTER TRUNCATE ON _tenancy.quotas FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.audit_row('');
    ALTER TABLE _tenancy.quotas ENABLE ALWAYS TRIGGER tenancy_audit_truncate;
END
$$;

-- Told to the sessions that write segments: the library itself changes heads without a query, which fires no trigger.
CREATE TRIGGER tenancy_changed AFTER UPDATE OR DELETE OR TRUNCATE ON _tenancy.audit_heads
    FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.announce_change();
ALTER TABLE _tenancy.audit_heads ENABLE ALWAYS TRIGGER tenancy_changed;

CREATE FUNCTION tenancy.create_audit_partitions(months integer DEFAULT 3) RETURNS integer
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('create_audit_partitions');
    RETURN _tenancy.create_month_partitions('audit_entries', 'tenant_id, recorded_at', 'the audit trail', months);
END
$$;
COMMENT ON FUNCTION tenancy.create_audit_partitions(integer) IS
'Creates the partitions of the audit trail for this month and the next ones, where they are missing, and returns how many it was.
Call it once a month. Error: 22023 PARAMETER_INVALID. Volatile. Granted to nobody; refused in the context of a tenant.';

CREATE FUNCTION tenancy.drop_audit(before timestamptz) RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    the_end timestamptz := date_trunc('month', before AT TIME ZONE 'UTC') AT TIME ZONE 'UTC';
    dropped bigint := 0;
    partition regclass;
BEGIN
    PERFORM _tenancy.refuse_in_context('drop_audit');
    IF before IS NULL OR the_end > date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'before must not be later than this month', '{"argument": "before"}');
    END IF;
    -- What was committed since would be dropped uncounted.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'drop_audit must be called at READ COMMITTED', '{"argument": "transaction_isolation"}');
    END IF;
    -- Sessions that write go on when we have committed, in segments that are still there. In their order, or we would wait for each other.
    LOCK TABLE _tenancy.audit_entries IN ACCESS EXCLUSIVE MODE;
    LOCK TABLE _tenancy.audit_heads IN SHARE ROW EXCLUSIVE MODE;
    -- Up to where each segment goes that loses something, so that what stays can be verified.
    INSERT INTO _tenancy.audit_cuts AS c (tenant_id, segment, number, hash)
        SELECT DISTINCT ON (e.segment) e.tenant_id, e.segment, e.number, e.hash FROM _tenancy.audit_entries e
        WHERE e.recorded_at < the_end ORDER BY e.segment, e.number DESC
    ON CONFLICT ON CONSTRAINT audit_cuts_pkey DO UPDATE SET number = excluded.number, hash = excluded.hash WHERE c.number < excluded.number;
    FOR partition IN
        SELECT c.oid::regclass FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = '_tenancy.audit_entries'::regclass
          AND c.relname ~ '^audit_entries_\d{4}_\d{2}$' AND to_date(right(c.relname, 7), 'YYYY_MM') < the_end AT TIME ZONE 'UTC'
    LOOP
        EXECUTE format('DROP TABLE %s', partition);
        dropped := dropped + 1;
    END LOOP;
    DELETE FROM _tenancy.audit_entries_default e WHERE e.recorded_at < the_end;
    -- Segments of which nothing is left, and cuts that nothing refers to any more.
    DELETE FROM _tenancy.audit_heads h USING _tenancy.audit_cuts c WHERE c.segment = h.segment AND h.number <= c.number;
    DELETE FROM _tenancy.audit_cuts c
    WHERE NOT EXISTS (SELECT FROM _tenancy.audit_heads h WHERE h.segment = c.segment OR h.after_segment = c.segment);
    PERFORM _tenancy.note_audit('DROP_AUDIT', jsonb_build_object('before', the_end, 'partitions', dropped));
    RETURN dropped;
END
$$;
COMMENT ON FUNCTION tenancy.drop_audit(timestamptz) IS
'Drops the entries of the audit trail of the months before that of a moment, whole partitions at once; returns how many of those it was.
What stays can be verified as before. Error: 22023 PARAMETER_INVALID. Volatile. Granted to nobody; refused in the context of a tenant.';

CREATE FUNCTION tenancy.export_audit(tenant_id text DEFAULT NULL, since timestamptz DEFAULT NULL, until timestamptz DEFAULT NULL)
    RETURNS SETOF text
    LANGUAGE sql STABLE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Between two tokens of JSON that was inserted as such, a line may end.
    SELECT translate(json_build_object(
        'tenant_id', e.tenant_id, 'recorded_at', to_char(e.recorded_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), 'operation', e.operation, 'relation', e.relation,
        'key', e.key, 'old', e.old, 'new', e.new, 'detail', e.detail, 'actor', e.actor, 'role', e.role, 'session', e.session,
        'transaction', e.transaction, 'segment', e.segment, 'number', e.number, 'hash', encode(e.hash, 'hex'))::text, E'\n\r', '  ')
    FROM _tenancy.audit_entries e
    WHERE (e.tenant_id = export_audit.tenant_id OR export_audit.tenant_id IS NULL)
      AND (e.recorded_at >= export_audit.since OR export_audit.since IS NULL) AND (e.recorded_at < export_audit.until OR export_audit.until IS NULL)
    ORDER BY e.recorded_at, e.segment, e.number
$$;
COMMENT ON FUNCTION tenancy.export_audit(text, timestamptz, timestamptz) IS
'Returns the entries of the audit trail as lines of JSON (NDJSON), the oldest first: psql -XAt -c "SELECT tenancy.export_audit(''acme'')". tenant_id:
of one tenant; null: of all that the caller sees. since, until: from when on, and up to when; null: no bound. Who sees what: as tenancy.audit_log. Stable.
PUBLIC may call it.';
