-- The attacks that tenancy.prove plays, and how each is judged. Re-runnable.
-- `stage` is one object: relation, kind, column (the tenant column), role, may_set, path (the role's search_path), and the rows in play:
-- own, other and everybody, each with tenant, relation, ctid and row. In a statement, {} stands for the condition on t.

-- Goes into the role and the tenant. The only place where prove changes the tenant: it does so many times within one statement of
-- its caller's, which a rule of "one statement, one tenant" would have to allow here, and for nobody else.
CREATE FUNCTION _tenancy.play(role name, tenant text, may_set boolean) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('row_security', 'on', true), set_config('lc_messages', 'C', true),
            set_config('session_replication_role', 'origin', true),
            -- What is refused here is no attack, and is to leave no trace in a tenant's trail.
            set_config('tenancy.audit_refusals', 'off', true);
    -- All tenants are played in the one statement that calls prove.
    IF (SELECT r.rolsuper OR r.rolbypassrls FROM pg_roles r WHERE r.rolname = current_user) THEN
        PERFORM _tenancy.begin_anew();
    END IF;
    -- A role that is bound to its tenant, or has signed in, is there already; one that may set it does so itself.
    IF NOT may_set THEN
        PERFORM set_config('tenancy.tenant_id', tenant, true);
    END IF;
    PERFORM set_config('role', role, true);
    IF may_set THEN
        PERFORM set_config('tenancy.tenant_id', tenant, true);
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.play(name, text, boolean) IS 'goes into a role and a tenant until the subtransaction ends; for tenancy.prove';

-- Runs a statement as the role in the tenant, judges it by the data as the caller, and undoes it all.
CREATE FUNCTION _tenancy.try(
    stage jsonb, tenant text, statement text, given jsonb DEFAULT NULL, judge text DEFAULT NULL, before text DEFAULT NULL,
    OUT answer text, OUT affected bigint, OUT harm text,
    OUT state text, OUT message text, OUT detail text, OUT constraint_name text, OUT is_domain boolean)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    caller text := current_setting('role');
    reads boolean := statement ~ '^(SELECT|WITH)';
    path text := stage ->> 'path';
    type text;
BEGIN
    IF before IS NOT NULL THEN
        EXECUTE before;
    END IF;
    PERFORM _tenancy.play((stage ->> 'role')::name, tenant, (stage ->> 'may_set')::boolean);
    BEGIN
        PERFORM pg_catalog.set_config('search_path', path, true);
        IF reads THEN
            EXECUTE statement INTO answer USING given;
        ELSE
            EXECUTE statement USING given;
            GET DIAGNOSTICS affected = ROW_COUNT;
        END IF;
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', true);
    EXCEPTION WHEN OTHERS THEN
        GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL,
            constraint_name = CONSTRAINT_NAME, type = PG_DATATYPE_NAME;
        is_domain := type <> '';
        -- Ids that are made up mean nothing to the reader.
        message := replace(replace(message, coalesce('"' || (stage -> 'own' ->> 'tenant') || '"', ''), '"<own>"'),
                           coalesce('"' || (stage -> 'other' ->> 'tenant') || '"', ''), '"<other>"');
    END;
    PERFORM set_config('role', caller, true), set_config('row_security', 'off', true);
    IF judge IS NOT NULL THEN
        EXECUTE judge INTO harm;
    END IF;
    RAISE EXCEPTION 'undo' USING ERRCODE = 'TNPRV';
EXCEPTION WHEN SQLSTATE 'TNPRV' THEN
    RETURN;
END
$$;
COMMENT ON FUNCTION _tenancy.try(jsonb, text, text, jsonb, text, text) IS
'runs a statement as a role in a tenant, judges it by the data, and undoes it; for tenancy.prove';

-- Whether an error is a refusal by isolation or by privileges, and not an accident that proves nothing.
CREATE FUNCTION _tenancy.is_refusal(stage jsonb, state text, message text, detail text) RETURNS boolean
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT state = '42501' AND (detail LIKE '{"code":"TENANT_ACCESS_DENIED"%' OR message LIKE '%row-level security policy%'
                                OR message ~ '^permission denied for (table|view|materialized view|schema) '
                                   AND stage -> 'names' ? regexp_replace(message, '^permission denied for (table|view|materialized view|schema) ', ''))
        OR state = '55000' AND detail LIKE '{"code":"TENANT_CONTEXT_MISSING"%'
$$;
COMMENT ON FUNCTION _tenancy.is_refusal(jsonb, text, text, text) IS 'whether an error is a refusal by isolation or by privileges';

-- One finding, in the form that prove collects.
CREATE FUNCTION _tenancy.finding(check_name text, result text, detail text DEFAULT NULL) RETURNS jsonb
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object('check', check_name, 'result', result, 'detail', detail)
$$;
COMMENT ON FUNCTION _tenancy.finding(text, text, text) IS 'one finding of tenancy.prove';

-- The finding of an attempt that did no harm and did not succeed: held where it was refused. What else stood in its way proves nothing;
-- `otherwise` says what that is where there was no error.
CREATE FUNCTION _tenancy.refused(stage jsonb, check_name text, outcome record, otherwise text DEFAULT NULL) RETURNS jsonb
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF _tenancy.is_refusal(stage, outcome.state, outcome.message, outcome.detail) THEN
        RETURN _tenancy.finding(check_name, 'held', 'refused: ' || outcome.message);
    END IF;
    RETURN _tenancy.finding(check_name, 'could not be tested', coalesce(outcome.message, otherwise));
END
$$;
COMMENT ON FUNCTION _tenancy.refused(jsonb, text, record, text) IS 'the finding of an attempt that did not succeed; for tenancy.prove';

-- The query that tells, as a caller who sees everything, what an attack has done to rows that are not its own; null: nothing.
CREATE FUNCTION _tenancy.harm_of(stage jsonb) RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- A tenant that has more rows than this is not counted, only looked at.
    many constant integer := 10000;
    whole text := 'SELECT CASE';
    watched record;
    rows bigint;
    relation regclass := (stage ->> 'relation')::oid;
BEGIN
    FOR watched IN
        SELECT w.sample, w.changed, w.added, w.condition
        FROM (VALUES
            (stage -> 'other', 'a row of another tenant was changed or deleted', 'a row was written for another tenant',
             't.' || quote_ident(stage ->> 'column') || ' = ' || quote_literal(stage -> 'other' ->> 'tenant')),
            (stage -> 'everybody', 'a row that is everybody''s was changed or deleted', 'a row was written for everybody',
             't.' || quote_ident(stage ->> 'column') || ' IS NULL'),
            (CASE WHEN stage ->> 'kind' = 'audit' THEN stage -> 'own' END, 'history was rewritten', NULL, NULL),
            (stage -> 'system', 'a row was changed or deleted', NULL, NULL)
        ) AS w(sample, changed, added, condition)
        WHERE w.sample IS NOT NULL
    LOOP
        whole := whole || format(' WHEN NOT EXISTS (SELECT FROM ONLY %s AS t WHERE t.ctid = %L AND to_jsonb(t.*) @> %L) THEN %L',
            (watched.sample ->> 'relation')::oid::regclass, watched.sample ->> 'ctid', watched.sample -> 'row', watched.changed);
        IF watched.added IS NOT NULL THEN
            EXECUTE format('SELECT count(*) FROM (SELECT FROM %s AS t WHERE %s LIMIT %s) s', relation, watched.condition, many + 1) INTO rows;
            IF rows <= many THEN
                whole := whole || format(' WHEN (SELECT count(*) FROM (SELECT FROM %s AS t WHERE %s LIMIT %s) s) > %s THEN %L',
                    relation, watched.condition, rows + 1, rows, watched.added);
            END IF;
        END IF;
    END LOOP;
    RETURN whole || ' END';
END
$$;
COMMENT ON FUNCTION _tenancy.harm_of(jsonb) IS 'the query that tells what an attack has done to the rows of others';

-- Plays one attack and judges it: by what it read, by what it did, or by a refusal; where nothing happened, by whether the
-- same works on a row of the role's own tenant. Anything else proves nothing, and says so.
CREATE FUNCTION _tenancy.attack(
    stage jsonb, check_name text, statement text, own_statement text, given jsonb, writes_elsewhere boolean,
    OUT finding jsonb)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    tenant text := CASE WHEN check_name LIKE 'no tenant%' THEN '' ELSE stage -> 'own' ->> 'tenant' END;
    outcome record;
    own record;
BEGIN
    outcome := _tenancy.try(stage, tenant, statement, given, stage ->> 'harm');
    IF outcome.harm IS NOT NULL THEN
        finding := _tenancy.finding(check_name, 'leaked', outcome.harm);
    ELSIF outcome.answer::numeric > 0 THEN
        finding := _tenancy.finding(check_name, 'leaked', 'a row of another tenant was read');
    ELSIF writes_elsewhere AND outcome.affected > 0 AND stage ->> 'kind' = 'system' THEN
        finding := _tenancy.finding(check_name, 'leaked', 'a row was written in the context of a tenant');
    ELSIF _tenancy.is_refusal(stage, outcome.state, outcome.message, outcome.detail) THEN
        finding := _tenancy.finding(check_name, 'held', 'refused: ' || outcome.message);
    -- PostgreSQL checks constraints after policies.
    ELSIF outcome.state LIKE '23%' AND outcome.constraint_name <> '' AND NOT outcome.is_domain THEN
        finding := _tenancy.finding(check_name, 'leaked', format('no policy refused it, only constraint %s', outcome.constraint_name));
    ELSIF outcome.state IS NOT NULL THEN
        finding := _tenancy.finding(check_name, 'could not be tested', outcome.message);
    ELSIF own_statement IS NULL THEN
        finding := _tenancy.finding(check_name, 'held');
    ELSE
        own := _tenancy.try(stage, tenant, own_statement, given);
        IF own.answer::numeric > 0 OR own.affected > 0 OR own.state LIKE '23%' AND own.constraint_name <> '' THEN
            finding := _tenancy.finding(check_name, 'held');
        ELSE
            finding := _tenancy.finding(check_name, 'could not be tested',
                'nor does it work on a row of the role''s own tenant' || coalesce(': ' || own.message, ''));
        END IF;
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.attack(jsonb, text, text, text, jsonb, boolean) IS 'plays one attack of tenancy.prove and judges it';

-- A column that the role can update without changing its value; null where there is none.
CREATE FUNCTION _tenancy.harmless_column(relation regclass, tenant_column name, role name) RETURNS name
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.attname FROM pg_attribute a
    WHERE a.attrelid = relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' AND a.attidentity <> 'a'
    ORDER BY has_column_privilege(role, relation, a.attnum, 'UPDATE') DESC, has_column_privilege(role, relation, a.attnum, 'SELECT') DESC,
             a.attname = tenant_column, EXISTS (SELECT FROM pg_index i WHERE i.indrelid = relation AND a.attnum = ANY (i.indkey::int2[])),
             a.attnum
    LIMIT 1
$$;
COMMENT ON FUNCTION _tenancy.harmless_column(regclass, name, name) IS 'a column that a role can set to its own value';

-- The attacks on a table of tenants' rows, in the order in which they are reported. own_statement is the same on the role's own row.
CREATE FUNCTION _tenancy.attacks(stage jsonb)
    RETURNS TABLE (check_name text, statement text, own_statement text, given jsonb, writes_elsewhere boolean)
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH s AS (
        SELECT (stage ->> 'relation')::oid::regclass AS relation, quote_ident(stage ->> 'column') AS tenant_column,
               quote_literal(stage -> 'own' ->> 'tenant') AS own, quote_literal(stage -> 'other' ->> 'tenant') AS other,
               stage ->> 'role' AS role, stage ->> 'kind' AS kind,
               quote_ident(_tenancy.harmless_column((stage ->> 'relation')::oid, (stage ->> 'column')::name, (stage ->> 'role')::name)) AS harmless,
               stage -> 'new' || jsonb_build_object(stage ->> 'column', stage -> 'other' ->> 'tenant') AS planted,
               stage -> 'new' || jsonb_build_object(stage ->> 'column', NULL) AS of_everybody
    ), conditions AS (
        SELECT w.who, coalesce(_tenancy.is_row(s.relation, w.sample -> 'row'),
                               format('t.%s = %L', s.tenant_column, w.sample ->> 'tenant')) AS by_key,
               format('t.tableoid = %s AND t.ctid = %L', w.sample ->> 'relation', w.sample ->> 'ctid') AS by_place
        FROM s, (VALUES ('own', stage -> 'own'), ('other', stage -> 'other'), ('everybody', stage -> 'everybody')) AS w(who, sample)
        WHERE w.sample IS NOT NULL
    ), templates AS (
        SELECT t.place, t.check_name, t.statement, t.attacked, t.condition, t.given, t.elsewhere
        FROM s, LATERAL (VALUES
        (1, 'select', 'SELECT count(*) FROM (SELECT 1 FROM %1$s AS t WHERE {} LIMIT 1) s', 'other', 'tenant', NULL::jsonb, false),
        (2, 'select by key', 'SELECT count(*) FROM %1$s AS t WHERE {}', 'other', 'key', NULL, false),
        (3, 'select by ctid', 'SELECT count(*) FROM %1$s AS t WHERE {}', 'other', 'place', NULL, false),
        (5, 'join', 'SELECT count(*) FROM %1$s AS t JOIN %1$s AS u ON u.ctid = t.ctid AND u.tableoid = t.tableoid WHERE {}', 'other', 'place', NULL, false),
        (6, 'sub-select', 'SELECT count(*) FROM (VALUES (1)) AS v WHERE EXISTS (SELECT FROM %1$s AS t WHERE {})', 'other', 'key', NULL, false),
        (7, 'with', 'WITH w AS MATERIALIZED (SELECT t.* FROM %1$s AS t WHERE {}) SELECT count(*) FROM w', 'other', 'place', NULL, false),
        (8, 'select for update', 'SELECT count(*) FROM (SELECT FROM %1$s AS t WHERE {} FOR UPDATE) s', 'other', 'place', NULL, false),
        (10, 'insert', _tenancy.insert_of(s.relation, s.planted, s.role), NULL, NULL, s.planted, true),
        (11, 'update', 'UPDATE %1$s AS t SET %3$s = t.%3$s WHERE {}', 'other', 'place', NULL, false),
        (12, 'update by key', 'UPDATE %1$s AS t SET %3$s = t.%3$s WHERE {}', 'other', 'key', NULL, false),
        (13, 'delete', 'DELETE FROM %1$s AS t WHERE {}', 'other', 'place', NULL, false),
        (14, 'delete by key', 'DELETE FROM %1$s AS t WHERE {}', 'other', 'key', NULL, false),
        (15, 'move own row away', 'UPDATE %1$s AS t SET %2$s = %5$s WHERE {}', 'own', 'place', NULL, true),
        (16, 'move a row here', 'UPDATE %1$s AS t SET %2$s = %4$s WHERE {}', 'other', 'place', NULL, false),
        (17, 'merge update', 'MERGE INTO %1$s AS t USING (VALUES (1)) AS v ON {} WHEN MATCHED THEN UPDATE SET %3$s = t.%3$s', 'other', 'key', NULL, false),
        (18, 'merge delete', 'MERGE INTO %1$s AS t USING (VALUES (1)) AS v ON {} WHEN MATCHED THEN DELETE', 'other', 'key', NULL, false),
        (19, 'merge insert', regexp_replace(_tenancy.insert_of(s.relation, s.planted, s.role),
            '^INSERT INTO (.*) AS t (\(.*\)) OVERRIDING SYSTEM VALUE SELECT (.*) FROM (pg_catalog.jsonb_populate_record\(.*\)) AS r$',
            'MERGE INTO \1 AS t USING \4 AS r ON false WHEN NOT MATCHED THEN INSERT \2 OVERRIDING SYSTEM VALUE VALUES (\3)'),
            NULL, NULL, s.planted, true),
        (30, 'no tenant: select', 'SELECT count(*) FROM (SELECT 1 FROM %1$s AS t WHERE t.%2$s IS NOT NULL LIMIT 1) s', NULL, NULL, NULL, false),
        (31, 'no tenant: insert', _tenancy.insert_of(s.relation, s.planted, s.role), NULL, NULL, s.planted, true),
        (32, 'no tenant: update', 'UPDATE %1$s AS t SET %3$s = t.%3$s WHERE {}', 'other', 'place', NULL, false),
        (33, 'no tenant: delete', 'DELETE FROM %1$s AS t WHERE {}', 'other', 'place', NULL, false),
        (40, 'shared: insert', _tenancy.insert_of(s.relation, s.of_everybody, s.role), NULL, NULL, s.of_everybody, true),
        (41, 'shared: update', 'UPDATE %1$s AS t SET %3$s = t.%3$s WHERE {}', 'everybody', 'place', NULL, false),
        (42, 'shared: delete', 'DELETE FROM %1$s AS t WHERE {}', 'everybody', 'place', NULL, false),
        (43, 'shared: move own row there', 'UPDATE %1$s AS t SET %2$s = NULL WHERE {}', 'own', 'place', NULL, true),
        (44, 'shared: move a row here', 'UPDATE %1$s AS t SET %2$s = %4$s WHERE {}', 'everybody', 'place', NULL, false),
        (50, 'audit: update', 'UPDATE %1$s AS t SET %3$s = t.%3$s WHERE {}', 'own', 'place', NULL, false),
        (51, 'audit: delete', 'DELETE FROM %1$s AS t WHERE {}', 'own', 'place', NULL, false)
        ) AS t(place, check_name, statement, attacked, condition, given, elsewhere)
        WHERE (t.place NOT BETWEEN 40 AND 49 OR s.kind = 'shared' AND stage ? 'everybody') AND (t.place NOT BETWEEN 50 AND 59 OR s.kind = 'audit')
    ), filled AS (
        SELECT t.*, CASE WHEN t.given IS NULL THEN format(replace(t.statement, '{}', chr(1)), s.relation, s.tenant_column, s.harmless, s.own, s.other) ELSE t.statement END AS text,
               CASE t.condition
                   WHEN 'tenant' THEN format('t.%s IS DISTINCT FROM %s', s.tenant_column, s.own)
                       || CASE WHEN s.kind = 'shared' THEN format(' AND t.%s IS NOT NULL', s.tenant_column) ELSE '' END
                   WHEN 'key' THEN attacked.by_key
                   WHEN 'place' THEN attacked.by_place END AS on_attacked,
               CASE t.condition WHEN 'tenant' THEN format('t.%s = %s', s.tenant_column, s.own)
                   WHEN 'key' THEN own.by_key WHEN 'place' THEN own.by_place END AS on_own,
               -- There is none for what moves a row, for the tenant that none is, and for what nobody may do.
               t.condition IS NOT NULL AND t.place < 15 OR t.place IN (17, 18, 41, 42) AS has_own
        FROM s CROSS JOIN templates t JOIN conditions own ON own.who = 'own' LEFT JOIN conditions attacked ON attacked.who = t.attacked
    )
    SELECT f.check_name, replace(f.text, chr(1), coalesce(f.on_attacked, '')),
           CASE WHEN f.has_own THEN replace(f.text, chr(1), f.on_own) END,
           f.given, f.elsewhere
    FROM filled f
    ORDER BY f.place
$$;
COMMENT ON FUNCTION _tenancy.attacks(jsonb) IS 'the attacks on a table of tenants'' rows that tenancy.prove plays';
