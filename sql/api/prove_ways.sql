-- The ways round a table's policies that tenancy.prove tries: keys, references, views, partitions, COPY, TRUNCATE, privileges.
-- Re-runnable. Each returns findings; `stage` is described in prove_checks.sql.

-- Whether keys tell that a value is taken by another tenant, and whether an upsert reaches the row that has it.
CREATE FUNCTION _tenancy.prove_keys(stage jsonb) RETURNS SETOF jsonb
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relation regclass := (stage ->> 'relation')::oid;
    tenant text := stage -> 'own' ->> 'tenant';
    harmless name := _tenancy.harmless_column(relation, (stage ->> 'column')::name, (stage ->> 'role')::name);
    key record;
    index_name name;
    index_names text[];
    given jsonb;
    insertion text;
    outcome record;
    told text;
BEGIN
    FOR key IN SELECT * FROM _tenancy.keys_across_tenants(relation, (stage ->> 'column')::name) LOOP
        SELECT c.relname INTO index_name FROM pg_class c WHERE c.oid = key.index;
        -- An error names the index of the partition.
        SELECT array_agg(c.relname) INTO index_names FROM _tenancy.tree(key.index) t JOIN pg_class c ON c.oid = t.relation;
        IF key.columns IS NULL OR EXISTS (SELECT FROM unnest(key.columns) AS c(name) WHERE stage -> 'other' -> 'row' ->> c.name IS NULL) THEN
            RETURN NEXT _tenancy.finding('unique oracle: ' || index_name, 'could not be tested', 'the other tenant''s row has no value there');
            CONTINUE;
        END IF;
        SELECT stage -> 'new' || jsonb_object_agg(c.name, stage -> 'other' -> 'row' -> c.name) INTO given FROM unnest(key.columns) AS c(name);
        insertion := _tenancy.insert_of(relation, given, (stage ->> 'role')::name);
        told := CASE WHEN key.is_exclusion THEN 'exclusion constraint ' ELSE 'index ' END || index_name;

        outcome := _tenancy.try(stage, tenant, insertion, given, stage ->> 'harm');
        RETURN NEXT CASE
            WHEN outcome.harm IS NOT NULL THEN _tenancy.finding('unique oracle: ' || index_name, 'leaked', outcome.harm)
            WHEN outcome.state IN ('23505', '23P01') AND outcome.constraint_name = ANY (index_names) AND key.is_surrogate THEN
                _tenancy.finding('unique oracle: ' || index_name, 'held',
                    format('%s tells that a value is taken, but nobody chooses these values, so that they mean nothing', told))
            WHEN outcome.state IN ('23505', '23P01') AND outcome.constraint_name = ANY (index_names) THEN
                _tenancy.finding('unique oracle: ' || index_name, 'leaked',
                    format('%s tells that another tenant has a value: make it (%s)', told,
                        concat_ws(', ', quote_ident(stage ->> 'column'), (SELECT string_agg(quote_ident(c.name), ', ' ORDER BY c.place)
                                                                          FROM unnest(key.columns) WITH ORDINALITY AS c(name, place)))))
            WHEN outcome.state IS NULL THEN _tenancy.finding('unique oracle: ' || index_name, 'held')
            ELSE _tenancy.refused(stage, 'unique oracle: ' || index_name, outcome) END;
        CONTINUE WHEN NOT key.is_plain;

        outcome := _tenancy.try(stage, tenant, insertion || format(' ON CONFLICT (%s) DO UPDATE SET %I = t.%I',
            (SELECT string_agg(quote_ident(c.name), ', ') FROM unnest(key.columns) AS c(name)), harmless, harmless), given, stage ->> 'harm');
        RETURN NEXT CASE
            WHEN outcome.harm IS NOT NULL THEN _tenancy.finding('upsert: ' || index_name, 'leaked', outcome.harm)
            WHEN outcome.state IS NULL THEN _tenancy.finding('upsert: ' || index_name, 'held')
            ELSE _tenancy.refused(stage, 'upsert: ' || index_name, outcome) END;

        outcome := _tenancy.try(stage, tenant, insertion || ' ON CONFLICT DO NOTHING', given, stage ->> 'harm');
        RETURN NEXT CASE
            WHEN outcome.harm IS NOT NULL THEN _tenancy.finding('upsert oracle: ' || index_name, 'leaked', outcome.harm)
            WHEN outcome.state IS NULL AND outcome.affected = 0 AND key.is_surrogate THEN
                _tenancy.finding('upsert oracle: ' || index_name, 'held', 'as above: only that a made-up value is taken')
            WHEN outcome.state IS NULL AND outcome.affected = 0 THEN
                _tenancy.finding('upsert oracle: ' || index_name, 'leaked', 'ON CONFLICT DO NOTHING tells that another tenant has a value')
            WHEN outcome.state IS NULL THEN _tenancy.finding('upsert oracle: ' || index_name, 'held')
            ELSE _tenancy.refused(stage, 'upsert oracle: ' || index_name, outcome) END;
    END LOOP;
    IF NOT FOUND THEN
        RETURN NEXT _tenancy.finding('unique oracle', 'held', 'every unique key has the tenant column');
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.prove_keys(jsonb) IS 'plays unique keys and upserts; for tenancy.prove';

-- Whether the role's own row can be made to refer to another tenant's. Foreign keys are checked without regard to policies.
CREATE FUNCTION _tenancy.prove_references(stage jsonb) RETURNS SETOF jsonb
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relation regclass := (stage ->> 'relation')::oid;
    role name := stage ->> 'role';
    own jsonb := stage -> 'own';
    reference record;
    parent record;
    planted record;
    given jsonb;
    condition text;
    kindred text[];
    statement text;
    outcome record;
    finding jsonb;
BEGIN
    FOR reference IN SELECT * FROM _tenancy.references_of(relation) LOOP
        SELECT * INTO parent FROM _tenancy.playground(reference.parent);
        CONTINUE WHEN parent.tenant_column IS NULL;
        BEGIN
            -- A key that the role's own tenant does not have: it would be no other's row then.
            SELECT jsonb_object_agg(a.attname, _tenancy.fresh_value(a.atttypid, a.atttypmod, NULL, 1)) INTO given
            FROM pg_attribute a WHERE a.attrelid = reference.parent AND a.attname = ANY (reference.parent_columns) AND a.attname <> parent.tenant_column;
            SELECT p.sample, p.obstacle INTO planted
            FROM _tenancy.plant_row(reference.parent, parent.tenant_column, stage -> 'other' ->> 'tenant', coalesce(jsonb_strip_nulls(given), '{}')) p;
            IF planted.sample IS NULL THEN
                planted.sample := _tenancy.find_row(reference.parent, format('t.%I = %L', parent.tenant_column, stage -> 'other' ->> 'tenant'),
                                                    stage -> 'other' ->> 'tenant');
            END IF;
            SELECT jsonb_object_agg(p.child, planted.sample -> 'row' -> p.parent), string_agg(format('t.%I = %L', p.parent, planted.sample -> 'row' ->> p.parent), ' AND ')
                INTO given, condition
            FROM unnest(reference.columns, reference.parent_columns) AS p(child, parent) WHERE p.child <> stage ->> 'column';
            IF planted.sample IS NULL OR given IS NULL
               OR _tenancy.find_row(reference.parent, format('t.%I = %L AND %s', parent.tenant_column, own ->> 'tenant', condition), NULL) IS NOT NULL THEN
                finding := _tenancy.finding('foreign key oracle: ' || reference.name, 'could not be tested',
                    CASE WHEN given IS NULL AND planted.sample IS NOT NULL THEN 'it refers to the tenant only'
                         ELSE format('no row could be made in %s: %s', reference.parent, coalesce(planted.obstacle, 'both tenants have its key')) END);
                RAISE EXCEPTION 'undo' USING ERRCODE = 'TNPRV';
            END IF;
            -- A foreign key with the tenant, of the same columns, stands in for one without it.
            SELECT array_agg(n.name) INTO kindred FROM _tenancy.references_of(relation) r, unnest(r.names) AS n(name)
            WHERE EXISTS (SELECT FROM unnest(r.columns) AS c(name) WHERE given ? c.name);
            IF (SELECT bool_and(has_column_privilege(role, relation::oid, c.name::text, 'UPDATE')) FROM unnest(reference.columns) AS c(name) WHERE given ? c.name) THEN
                statement := format('UPDATE %s AS t SET %s FROM pg_catalog.jsonb_populate_record(NULL::%s, $1) AS r WHERE t.tableoid = %s AND t.ctid = %L',
                    relation, (SELECT string_agg(format('%I = r.%I', c.name, c.name), ', ') FROM unnest(reference.columns) AS c(name) WHERE given ? c.name),
                    relation, own ->> 'relation', own ->> 'ctid');
            ELSE
                given := stage -> 'new' || given;
                statement := _tenancy.insert_of(relation, given, role);
            END IF;
            outcome := _tenancy.try(stage, own ->> 'tenant', statement, given);
            finding := CASE
                WHEN outcome.affected > 0 THEN _tenancy.finding('foreign key oracle: ' || reference.name, 'leaked',
                    format('a row can refer to, and find out about, another tenant''s row of %s: make the key (%I, %s) on both sides',
                           reference.parent, stage ->> 'column', array_to_string(reference.columns, ', ')))
                WHEN outcome.state = '23503' AND outcome.constraint_name = ANY (kindred) THEN
                    _tenancy.finding('foreign key oracle: ' || reference.name, 'held')
                ELSE _tenancy.refused(stage, 'foreign key oracle: ' || reference.name, outcome, 'the role''s own row could not be changed') END;
            RAISE EXCEPTION 'undo' USING ERRCODE = 'TNPRV';
        EXCEPTION WHEN SQLSTATE 'TNPRV' THEN
            RETURN NEXT finding;
        END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _tenancy.prove_references(jsonb) IS 'plays foreign keys; for tenancy.prove';

-- The views that read a table, directly or through others, and that the role may read.
CREATE FUNCTION _tenancy.views_over(relation regclass, role name) RETURNS TABLE (view regclass, relkind "char", tenant_column name)
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE v(oid) AS (
        SELECT t.relation::oid FROM _tenancy.tree(views_over.relation) t
        UNION
        SELECT w.ev_class FROM v
        JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = v.oid AND d.classid = 'pg_rewrite'::regclass
        JOIN pg_rewrite w ON w.oid = d.objid AND w.ev_class <> v.oid
    )
    SELECT c.oid::regclass, c.relkind,
           (SELECT a.attname FROM pg_attribute a JOIN _tenancy.playground(views_over.relation) p ON p.tenant_column = a.attname
            WHERE a.attrelid = c.oid AND NOT a.attisdropped)
    FROM v JOIN pg_class c ON c.oid = v.oid
    WHERE c.relkind IN ('v', 'm') AND has_any_column_privilege(role, c.oid, 'SELECT')
    ORDER BY c.oid::regclass::text
$$;
COMMENT ON FUNCTION _tenancy.views_over(regclass, name) IS 'the views over a table that a role may read';

-- What the role sees of each view, as one number: the views of a tenant must not change with another tenant's rows.
CREATE FUNCTION _tenancy.look(stage jsonb, tenant text) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    seen jsonb := '{}';
    looked record;
    outcome record;
BEGIN
    FOR looked IN SELECT * FROM _tenancy.views_over((stage ->> 'relation')::oid, (stage ->> 'role')::name) v WHERE v.relkind = 'v' LOOP
        outcome := _tenancy.try(stage, tenant, format(
            'SELECT count(*) || '' '' || coalesce(sum(pg_catalog.hashtextextended((v.*)::text, 0)), 0) FROM %s AS v', looked.view));
        seen := seen || jsonb_build_object(looked.view::oid::text, coalesce(outcome.answer, outcome.message));
    END LOOP;
    RETURN seen;
END
$$;
COMMENT ON FUNCTION _tenancy.look(jsonb, text) IS 'what a role sees of the views over a table, as one number each; for tenancy.prove';

CREATE FUNCTION _tenancy.prove_views(stage jsonb) RETURNS SETOF jsonb
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    looks jsonb := stage -> 'looks';
    tenant text := stage -> 'own' ->> 'tenant';
    looked record;
    outcome record;
    check_name text;
    condition text;
    others boolean;
    key text;
BEGIN
    FOR looked IN SELECT * FROM _tenancy.views_over((stage ->> 'relation')::oid, (stage ->> 'role')::name) LOOP
        check_name := CASE looked.relkind WHEN 'm' THEN 'materialized view: ' ELSE 'view: ' END || looked.view;
        key := looked.view::oid;
        others := false;
        condition := replace(format('{} IS DISTINCT FROM %L AND {} IS NOT NULL', tenant), '{}', 'v.' || quote_ident(looked.tenant_column));
        outcome := _tenancy.try(stage, tenant, format('SELECT count(*) FROM (SELECT 1 FROM %s AS v WHERE %s LIMIT 1) s',
                                                      looked.view, coalesce(condition, 'false')));
        IF condition IS NOT NULL THEN
            EXECUTE format('SELECT EXISTS (SELECT FROM %s AS v WHERE %s)', looked.view, condition) INTO others;
        END IF;
        RETURN NEXT CASE
            WHEN outcome.answer::numeric > 0 THEN _tenancy.finding(check_name, 'leaked', 'it shows rows of other tenants')
            WHEN _tenancy.is_refusal(stage, outcome.state, outcome.message, outcome.detail) THEN
                _tenancy.finding(check_name, 'held', 'refused: ' || outcome.message)
            WHEN looked.relkind = 'm' THEN _tenancy.finding(check_name, 'could not be tested',
                'it keeps the rows that it was last refreshed with: grant it to no application role')
            -- Looked at with nothing planted, with a row of its own, again, and with the other tenant's row as well.
            WHEN looks -> 'own' ->> key IS DISTINCT FROM looks -> 'again' ->> key THEN
                _tenancy.finding(check_name, 'could not be tested', 'it shows something else each time')
            WHEN looks -> 'own' ->> key IS DISTINCT FROM looks -> 'both' ->> key THEN
                _tenancy.finding(check_name, 'leaked', 'it changes with a row of another tenant: it, or a view that it reads, should have security_invoker = true')
            WHEN looks -> 'none' ->> key IS DISTINCT FROM looks -> 'own' ->> key THEN _tenancy.finding(check_name, 'held')
            WHEN others AND outcome.answer = '0' THEN _tenancy.finding(check_name, 'held', 'it has rows of other tenants, and shows none of them')
            ELSE _tenancy.finding(check_name, 'could not be tested', 'it does not show a planted row of the role''s own tenant either'
                || CASE WHEN looks -> 'own' ->> key ~ '^[0-9]+ -?[0-9]+$' THEN '' ELSE coalesce(': ' || (looks -> 'own' ->> key), '') END) END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _tenancy.prove_views(jsonb) IS 'plays the views over a table; for tenancy.prove';

-- A statement that reads no column of its table is under its policies for UPDATE or DELETE only, not under those for SELECT. It is kept from
-- going further than one row too far by a counter. What names no column is evaluated before the policies where it is cheap, so it is not.
CREATE FUNCTION _tenancy.prove_blindly(stage jsonb) RETURNS SETOF jsonb
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- The rows of a tenant that is there are not all to be touched.
    most constant integer := 1000;
    relation regclass := (stage ->> 'relation')::oid;
    role name := stage ->> 'role';
    own jsonb := stage -> 'own';
    own_rows bigint;
    attempt record;
    outcome record;
BEGIN
    EXECUTE format('SELECT count(*) FROM (SELECT FROM %s AS t WHERE t.%I = %L LIMIT %s) s', relation, stage ->> 'column', own ->> 'tenant', most + 1) INTO own_rows;
    FOR attempt IN
        SELECT a.check_name, format(a.statement, relation, _tenancy.harmless_column(relation, (stage ->> 'column')::name, role)) AS statement
        FROM (VALUES (1, 'update without reading', 'UPDATE %1$s SET %2$I = r.%2$I FROM pg_catalog.jsonb_populate_record(NULL::%1$s, $1) AS r'),
                     (2, 'delete without reading', 'DELETE FROM %1$s')) AS a(place, check_name, statement)
        ORDER BY a.place
    LOOP
        IF own_rows > most THEN
            RETURN NEXT _tenancy.finding(attempt.check_name, 'could not be tested', 'the tenant has too many rows to touch them all');
            CONTINUE;
        END IF;
        outcome := _tenancy.try(stage, own ->> 'tenant',
            attempt.statement || format(' WHERE pg_catalog.nextval(''pg_temp.tenancy_prove_counter'')%s <= %s', repeat(' + 0 * pg_catalog.random()', 12), own_rows + 1),
            own -> 'row', NULL,
            format('CREATE TEMP SEQUENCE tenancy_prove_counter; GRANT ALL ON SEQUENCE pg_temp.tenancy_prove_counter TO %I', role));
        RETURN NEXT CASE
            WHEN outcome.affected > own_rows THEN _tenancy.finding(attempt.check_name, 'leaked', 'a row that is not its own was changed or deleted')
            WHEN outcome.affected > 0 AND stage ->> 'kind' = 'audit' THEN _tenancy.finding(attempt.check_name, 'leaked', 'history was rewritten')
            WHEN outcome.affected > 0 THEN _tenancy.finding(attempt.check_name, 'held')
            ELSE _tenancy.refused(stage, attempt.check_name, outcome, 'nor does it work on a row of the role''s own tenant') END;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _tenancy.prove_blindly(jsonb) IS 'plays statements that read no column; for tenancy.prove';

-- Partitions and children, which do not use their parent's policies.
CREATE FUNCTION _tenancy.prove_partitions(stage jsonb) RETURNS SETOF jsonb
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    role name := stage ->> 'role';
    tenant text := stage -> 'own' ->> 'tenant';
    leaf regclass := (stage -> 'other' ->> 'relation')::oid;
    condition text := format('t.ctid = %L', stage -> 'other' ->> 'ctid');
    open_ text;
    reachable bigint;
    outcome record;
    member record;
    theirs boolean;
    weakness text;
BEGIN
    -- row_security_active() answers for the role in force, so it is asked in the role.
    outcome := _tenancy.try(stage, tenant, format(
        'SELECT pg_catalog.string_agg(c.oid::pg_catalog.regclass::text, '', '' ORDER BY c.oid::pg_catalog.regclass::text) FROM pg_catalog.pg_class c
         WHERE c.oid = ANY (%L::oid[]) AND NOT pg_catalog.row_security_active(c.oid)
           AND (pg_catalog.has_any_column_privilege(c.oid, ''SELECT, INSERT, UPDATE'') OR pg_catalog.has_table_privilege(c.oid, ''DELETE''))',
        (SELECT array_agg(t.relation::oid) FROM _tenancy.tree((stage ->> 'relation')::oid) t WHERE t.depth > 0)));
    open_ := outcome.answer;
    IF open_ IS NOT NULL OR outcome.state IS NOT NULL THEN
        RETURN NEXT _tenancy.finding('partitions', CASE WHEN open_ IS NULL THEN 'could not be tested' ELSE 'leaked' END,
            coalesce('no policies where it is addressed directly: ' || open_, outcome.message));
        RETURN;
    END IF;
    -- Each by itself: the policies of one say nothing of another. Where none of its rows is another tenant's, so that nothing
    -- could be seen, they are compared with what they should be.
    FOR member IN
        SELECT t.relation, p.kind, p.tenant_column, p.undo
        FROM _tenancy.tree((stage ->> 'relation')::oid) t JOIN pg_class c ON c.oid = t.relation LEFT JOIN LATERAL _tenancy.protection(t.relation) p ON true
        WHERE t.depth > 0 AND c.relkind IN ('r', 'p')
          AND (has_any_column_privilege(role, t.relation, 'SELECT, INSERT, UPDATE') OR has_table_privilege(role, t.relation, 'DELETE'))
        ORDER BY t.relation::text COLLATE "C"
    LOOP
        EXECUTE format('SELECT EXISTS (SELECT FROM %s AS t WHERE t.%I IS DISTINCT FROM %L LIMIT 1)', member.relation, stage ->> 'column', tenant) INTO theirs;
        IF theirs AND has_any_column_privilege(role, member.relation, 'SELECT') THEN
            outcome := _tenancy.try(stage, tenant, format('SELECT count(*) FROM (SELECT FROM %s AS t WHERE t.%I IS DISTINCT FROM %L%s LIMIT 1) s',
                member.relation, stage ->> 'column', tenant, CASE stage ->> 'kind' WHEN 'shared' THEN format(' AND t.%I IS NOT NULL', stage ->> 'column') END));
            IF outcome.answer <> '0' THEN
                RETURN NEXT _tenancy.finding('partitions', 'leaked', format('a row of another tenant was read from %s', member.relation));
                RETURN;
            END IF;
        END IF;
        -- What keeps history from being rewritten is a trigger.
        weakness := _tenancy.weakness(member.relation, stage ->> 'kind', coalesce(member.tenant_column, stage ->> 'column'), member.undo,
            CASE stage ->> 'kind' WHEN 'audit' THEN '{ROW SECURITY,POLICY,TRIGGERS}' ELSE '{ROW SECURITY,POLICY}' END::text[]);
        IF weakness IS NOT NULL THEN
            RETURN NEXT _tenancy.finding('partitions', 'leaked', format('%s, where it is addressed directly: %s', member.relation, weakness));
            RETURN;
        END IF;
    END LOOP;
    SELECT count(*) INTO reachable FROM _tenancy.tree((stage ->> 'relation')::oid) t
    WHERE t.depth > 0 AND (has_any_column_privilege(role, t.relation, 'SELECT, INSERT, UPDATE, REFERENCES') OR has_table_privilege(role, t.relation, 'DELETE'));
    IF leaf = (stage ->> 'relation')::oid OR reachable = 0 THEN
        RETURN NEXT _tenancy.finding('partitions', 'held', CASE WHEN reachable = 0 THEN 'the role has no privilege on any of them' END);
        RETURN;
    END IF;
    outcome := _tenancy.try(stage, tenant, format('SELECT count(*) FROM %s AS t WHERE %s', leaf, condition));
    IF outcome.answer = '0' OR outcome.state = '42501' THEN
        outcome := _tenancy.try(stage, tenant, format('DELETE FROM %s AS t WHERE %s', leaf, condition), NULL, stage ->> 'harm');
    END IF;
    RETURN NEXT CASE
        WHEN outcome.harm IS NOT NULL THEN _tenancy.finding('partitions', 'leaked', outcome.harm || ' through ' || leaf)
        WHEN outcome.answer::numeric > 0 THEN _tenancy.finding('partitions', 'leaked', 'a row of another tenant was read from ' || leaf)
        WHEN outcome.state IS NULL OR outcome.state = '42501' THEN _tenancy.finding('partitions', 'held')
        ELSE _tenancy.finding('partitions', 'could not be tested', outcome.message) END;
END
$$;
COMMENT ON FUNCTION _tenancy.prove_partitions(jsonb) IS 'plays the partitions of a table; for tenancy.prove';

-- What is not a row's: COPY, TRUNCATE, privileges, sequences.
CREATE FUNCTION _tenancy.prove_whole(stage jsonb) RETURNS SETOF jsonb
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    relation regclass := (stage ->> 'relation')::oid;
    role name := stage ->> 'role';
    kind text := stage ->> 'kind';
    tenant text := stage -> 'own' ->> 'tenant';
    own_rows bigint := (stage ->> 'own_rows')::bigint;
    relkind "char" := (SELECT c.relkind FROM pg_class c WHERE c.oid = relation);
    outcome record;
    member record;
    attempt jsonb;
    truncated jsonb;
    names text;
BEGIN
    IF kind <> 'system' THEN
        -- COPY to and from a file of the server asks for a privilege, which the role has until this is undone.
        outcome := _tenancy.try(stage, tenant, format(CASE relkind WHEN 'p' THEN 'COPY (SELECT * FROM %s) TO ''/dev/null''' ELSE 'COPY %s TO ''/dev/null''' END, relation),
            NULL, NULL, format('GRANT pg_write_server_files TO %I', role));
        RETURN NEXT CASE
            WHEN outcome.affected > own_rows THEN _tenancy.finding('copy to', 'leaked', 'rows of other tenants were copied')
            WHEN outcome.affected = own_rows THEN _tenancy.finding('copy to', 'held')
            WHEN _tenancy.is_refusal(stage, outcome.state, outcome.message, outcome.detail) THEN
                _tenancy.finding('copy to', 'held', 'refused: ' || outcome.message)
            ELSE _tenancy.finding('copy to', 'could not be tested',
                coalesce(outcome.message || format(': try \copy %s to stdout in psql', relation), 'the role''s own rows were not copied either')) END;
        outcome := _tenancy.try(stage, tenant, format('COPY %s FROM ''/dev/null''', relation), NULL, NULL, format('GRANT pg_read_server_files TO %I', role));
        RETURN NEXT CASE
            WHEN outcome.state IS NULL THEN _tenancy.finding('copy from', 'leaked', 'COPY FROM writes rows that no policy checks')
            WHEN outcome.state = '0A000' THEN _tenancy.finding('copy from', 'held', 'refused: ' || outcome.message)
            ELSE _tenancy.refused(stage, 'copy from', outcome) END;
    END IF;
    -- Each by itself: partitions and children have triggers and privileges of their own.
    FOR member IN
        SELECT t.relation, t.depth FROM _tenancy.tree(relation) t JOIN pg_class c ON c.oid = t.relation
        -- What a foreign server has done may not be undone.
        WHERE t.depth = 0 OR c.relkind <> 'f' AND has_table_privilege(role, t.relation, 'TRUNCATE')
        ORDER BY t.depth, t.relation::text COLLATE "C"
    LOOP
        outcome := _tenancy.try(stage, tenant, format('TRUNCATE %s', member.relation), NULL, stage ->> 'harm',
            -- Whoever uses the table should not wait behind it.
            'SET LOCAL lock_timeout = ''100ms''');
        attempt := CASE
            WHEN outcome.harm IS NOT NULL OR member.depth > 0 AND outcome.state IS NULL THEN
                _tenancy.finding('truncate', 'leaked', format('REVOKE TRUNCATE ON %s FROM %I;', member.relation, role))
            -- Foreign keys are asked before triggers.
            WHEN outcome.state = '0A000' AND _tenancy.is_guarded(member.relation, kind) THEN _tenancy.finding('truncate', 'held', 'refused: ' || outcome.message)
            WHEN outcome.state = '0A000' THEN _tenancy.finding('truncate', 'leaked', 'only a foreign key stood in its way: ' || outcome.message)
            ELSE _tenancy.refused(stage, 'truncate', outcome) END;
        IF truncated IS NULL OR attempt ->> 'result' <> 'held' THEN
            truncated := attempt;
        END IF;
        EXIT WHEN attempt ->> 'result' = 'leaked';
    END LOOP;
    RETURN NEXT truncated;
    IF kind = 'system' THEN
        RETURN;
    END IF;
    SELECT t.relation, string_agg(p.privilege, ', ') AS names INTO member
    FROM _tenancy.tree(relation) t, unnest(ARRAY['TRIGGER', 'REFERENCES']) AS p(privilege)
    WHERE has_table_privilege(role, t.relation, p.privilege) OR p.privilege = 'REFERENCES' AND has_any_column_privilege(role, t.relation, p.privilege)
    GROUP BY t.relation, t.depth ORDER BY t.depth, t.relation::text COLLATE "C" LIMIT 1;
    RETURN NEXT CASE WHEN NOT FOUND THEN _tenancy.finding('privileges', 'held')
        ELSE _tenancy.finding('privileges', 'leaked', format('%s read rows of all tenants: REVOKE %s ON %s FROM %I;',
            member.names, member.names, member.relation, role)) END;
    SELECT string_agg(d.objid::regclass::text, ', ') INTO names
    FROM pg_depend d JOIN pg_class c ON c.oid = d.objid
    WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.refobjid = relation AND d.deptype IN ('a', 'i')
      AND CASE c.relkind WHEN 'S' THEN has_sequence_privilege(role, d.objid, 'UPDATE') ELSE false END;
    RETURN NEXT CASE WHEN names IS NULL THEN _tenancy.finding('sequences', 'held')
        ELSE _tenancy.finding('sequences', 'leaked', format('setval() breaks every tenant''s inserts: REVOKE UPDATE ON SEQUENCE %s FROM %I;', names, role)) END;
END
$$;
COMMENT ON FUNCTION _tenancy.prove_whole(jsonb) IS 'plays COPY, TRUNCATE, privileges and sequences; for tenancy.prove';
