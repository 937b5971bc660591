-- A tenant as text, and back. Re-runnable.
-- A line is a JSON object that says what follows, or a JSON array: a row, the number of its table first, each column as PostgreSQL writes it.

-- The columns of a table that are written and read: what is generated is made anew.
CREATE FUNCTION _tenancy.columns_of(relation regclass) RETURNS TABLE (name name, type text, is_sequence boolean, number integer)
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT a.attname, format_type(a.atttypid, -1), pg_get_serial_sequence(columns_of.relation::text, a.attname) IS NOT NULL, row_number() OVER (ORDER BY a.attnum)::integer
    FROM pg_attribute a WHERE a.attrelid = columns_of.relation AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
$$;
COMMENT ON FUNCTION _tenancy.columns_of(regclass) IS 'the columns of a table that are exported';

-- STABLE, so that all of it is of the snapshot of the statement that calls it.
CREATE FUNCTION tenancy.export_tenant(tenant_id text) RETURNS SETOF text
    LANGUAGE plpgsql STABLE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
    -- As pg_dump has them.
    SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET extra_float_digits = 3 SET bytea_output = 'hex' SET xmloption = 'content'
AS $$
DECLARE
    the_id constant text := _tenancy.registered(export_tenant.tenant_id);
    item record;
    number integer := 0;
    rows bigint := 0;
    step bigint;
BEGIN
    PERFORM _tenancy.refuse_in_context('export_tenant');
    RETURN QUERY SELECT json_build_object('tenancy_export', 1, 'extension', _tenancy.library_version(), 'server', current_setting('server_version'), 'exported_at', now(),
        'tenant', (SELECT json_build_object('id', t.id, 'name', t.name, 'subdomain', t.subdomain, 'plan', t.plan, 'settings', t.settings, 'sso_required', t.sso_required)
                   FROM _tenancy.tenants t WHERE t.id = the_id))::text;
    RETURN QUERY SELECT json_build_object('member', json_build_object('user_id', m.user_id, 'email', u.email, 'name', u.name, 'role', m.role, 'status', m.status))::text
        FROM _tenancy.members m JOIN _tenancy.users u ON u.id = m.user_id WHERE m.tenant_id = the_id AND m.status <> 'invited' ORDER BY m.user_id;
    RETURN QUERY SELECT json_build_object('quota', json_build_object('resource', q.resource, 'period', nullif(q.period, ''), 'max_amount', q.max_amount, 'soft_limit', q.soft_limit))::text
        FROM _tenancy.quotas q WHERE q.scope = 'tenant' AND q.name = the_id ORDER BY q.resource, q.period;
    FOR item IN
        SELECT t.relation, t.kind, t.tenant_column, n.nspname, c.relname, c.relkind, o.columns, o.line
        FROM _tenancy.tables_by_keys() t JOIN pg_class c ON c.oid = t.relation JOIN pg_namespace n ON n.oid = c.relnamespace
        -- By format(), which calls the output function of the type, and nothing else: a cast could be a user's.
        CROSS JOIN LATERAL (SELECT json_agg(k.name ORDER BY k.number) AS columns,
                                   string_agg(format('CASE WHEN num_nulls(d.%I) = 0 THEN format(''%%s'', d.%1$I) END', k.name), ', ' ORDER BY k.number) AS line
                            FROM _tenancy.columns_of(t.relation) k) o
        -- Those of a circle one after the other.
        ORDER BY t.place, coalesce(t.circle, t.relation)::regclass::text, t.relation::text
    LOOP
        CONTINUE WHEN NOT _tenancy.has_form(item.relation, item.tenant_column, the_id);
        number := number + 1;
        RETURN NEXT json_build_object('table', number::text, 'schema', item.nspname, 'name', item.relname, 'kind', item.kind, 'tenant_column', item.tenant_column, 'columns', item.columns)::text;
        RETURN QUERY SELECT r.line FROM _tenancy.read_as_owner(item.relation, format('SELECT array_to_json(ARRAY[%L, %s])::text FROM %s%s d WHERE d.%I = %L', number, item.line,
                                    CASE item.relkind WHEN 'r' THEN 'ONLY ' END, item.relation, item.tenant_column, the_id)) r;
        GET DIAGNOSTICS step = ROW_COUNT;
        rows := rows + step;
    END LOOP;
    RETURN NEXT json_build_object('end', rows)::text;
END
$$;
COMMENT ON FUNCTION tenancy.export_tenant(text) IS
'A tenant as lines of text, of one snapshot: its registration, members, quotas, and rows of all protected tables, those that others refer to first; generated columns, passwords, keys, the audit trail and records of
usage are not in it. psql saves them: psql -XAtq -c "SELECT tenancy.export_tenant(''acme'')" > acme.jsonl; import_tenant reads them. Errors: TENANT_NOT_FOUND 42704,
TENANT_ID_INVALID 22023, TENANT_ACCESS_DENIED 42501 in the context of a tenant. Stable. Granted to nobody.';

-- What inserts rows of a table of an export, up to where they come from, which is to be called r, with a column row: a JSON array each. The tenant is that of the import, whatever a row says.
-- Rows may refer to others that come later: refers_to_itself; is_circular, where those are of other tables, which have the same circle. Of those, foreign keys lead to tables of smaller places.
CREATE FUNCTION _tenancy.import_statement(
    header json, the_id text, OUT relation regclass, OUT insertion text, OUT place bigint, OUT circle oid, OUT refers_to_itself boolean, OUT is_circular boolean)
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    full_name constant text := format('%I.%I', header ->> 'schema', header ->> 'name');
    the_column name := header ->> 'tenant_column';
    missing text;
BEGIN
    relation := to_regclass(full_name);
    SELECT t.place, t.circle, t.circle IS NOT NULL AND t.tables = 1, t.circle IS NOT NULL AND t.tables > 1 INTO place, circle, refers_to_itself, is_circular
    FROM (SELECT k.*, count(*) OVER (PARTITION BY k.circle) AS tables FROM _tenancy.tables_by_keys() k) t
    WHERE t.relation = import_statement.relation AND t.tenant_column = the_column;
    IF NOT FOUND THEN
        PERFORM _tenancy.raise('IMPORT_INVALID', format('table %s is not here, or not protected by column "%s"', full_name, the_column), jsonb_build_object('relation', full_name),
            'Give this database the tables that the other one has, and protect them as there.');
    END IF;
    IF NOT _tenancy.has_form(relation, the_column, the_id) THEN
        PERFORM _tenancy.raise('IMPORT_INVALID', format('table %s cannot hold rows of tenant "%s"', full_name, the_id), jsonb_build_object('relation', full_name, 'tenant_id', the_id));
    END IF;
    SELECT string_agg(quote_ident(c.name), ', ') INTO missing
    FROM json_array_elements_text(header -> 'columns') AS c(name)
    WHERE NOT EXISTS (SELECT FROM _tenancy.columns_of(relation) k WHERE k.name = c.name);
    IF missing IS NOT NULL THEN
        PERFORM _tenancy.raise('IMPORT_INVALID', format('table %s has no column %s', full_name, missing), jsonb_build_object('relation', full_name));
    END IF;
    SELECT format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM', relation, string_agg(quote_ident(k.name), ', ' ORDER BY c.number),
                  string_agg(CASE WHEN k.name = the_column THEN quote_literal(the_id) ELSE format('(r.row ->> %s)', c.number) END || '::' || k.type, ', ' ORDER BY c.number))
        INTO insertion
    FROM json_array_elements_text(header -> 'columns') WITH ORDINALITY AS c(name, number) JOIN _tenancy.columns_of(relation) k ON k.name = c.name;
END
$$;
COMMENT ON FUNCTION _tenancy.import_statement(json, text) IS 'what inserts rows of a table of an export';

-- Fills tables that refer to each other by one statement: foreign keys are checked at its end. Triggers of all of them run as the owner of the first, so it must be the one of all. batches are JSON arrays of rows.
CREATE FUNCTION _tenancy.fill_circle(relations regclass[], the_id text, insertions text[], batches text[]) RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    statement text;
    rows text;
BEGIN
    PERFORM _tenancy.check_owner(relations);
    SELECT format('WITH e AS MATERIALIZED (SELECT j.key, j.value FROM json_each($1::json) AS j), %s %s',
                  string_agg(format('i%s AS (%s json_array_elements((SELECT e.value FROM e WHERE e.key = ''%1$s'')) AS r (row) RETURNING 1)', n, insertions[n]), ', '),
                  string_agg(format('SELECT FROM i%s', n), ' UNION ALL ')),
           '{' || string_agg(format('"%s":%s', n, batches[n]), ',') || '}'
        INTO statement, rows FROM generate_subscripts(relations, 1) AS n;
    RETURN _tenancy.move_tenant_rows(relations[1], the_id, statement, rows);
END
$$;
COMMENT ON FUNCTION _tenancy.fill_circle(regclass[], text, text[], text[]) IS 'inserts rows of a tenant into tables that refer to each other';

-- What is numbered by a sequence goes on after the rows that were imported.
CREATE FUNCTION _tenancy.follow_sequences(relation regclass, the_id text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    item record;
    greatest_one bigint;
    last bigint;
BEGIN
    FOR item IN SELECT k.name, pg_get_serial_sequence(follow_sequences.relation::text, k.name) AS sequence, p.tenant_column
                FROM _tenancy.columns_of(follow_sequences.relation) k JOIN _tenancy.protected p ON p.relation = follow_sequences.relation
                WHERE k.is_sequence AND k.type IN ('smallint', 'integer', 'bigint')
                  AND (SELECT s.seqincrement > 0 FROM pg_sequence s WHERE s.seqrelid = pg_get_serial_sequence(follow_sequences.relation::text, k.name)::regclass)
    LOOP
        SELECT r.line::bigint INTO greatest_one
        FROM _tenancy.read_as_owner(relation, format('SELECT max(d.%I)::bigint::text FROM %s d WHERE d.%I = %L', item.name, relation, item.tenant_column, the_id)) r;
        EXECUTE format('SELECT CASE WHEN s.is_called THEN s.last_value ELSE s.last_value - 1 END FROM %s s', item.sequence) INTO last;
        IF greatest_one > last THEN
            PERFORM setval(item.sequence, greatest_one);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _tenancy.follow_sequences(regclass, text) IS 'has the sequences of a table go on after the rows of a tenant';

CREATE FUNCTION _tenancy.import_member(member json, the_id text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    known text;
BEGIN
    SELECT coalesce(u.email, '') INTO known FROM _tenancy.users u WHERE u.id = member ->> 'user_id';
    IF NOT FOUND THEN
        INSERT INTO _tenancy.users (id, email, name) VALUES (member ->> 'user_id', member ->> 'email', member ->> 'name');
    ELSIF lower(known) <> lower(coalesce(member ->> 'email', '')) THEN
        -- Who that is here would be let in to a tenant of somebody else's.
        PERFORM _tenancy.raise('IMPORT_INVALID', 'a user of that id is another one here', jsonb_build_object('user_id', member ->> 'user_id'));
    END IF;
    INSERT INTO _tenancy.members (tenant_id, user_id, role, status) VALUES (the_id, member ->> 'user_id', member ->> 'role', member ->> 'status');
END
$$;
COMMENT ON FUNCTION _tenancy.import_member(json, text) IS 'makes a user a member of a tenant that is imported';

-- Where in an export a line is: COPY does not keep their order, nor does a table. Of a table, what it is comes before its rows.
CREATE FUNCTION _tenancy.place_of_line(line text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN line ~ '^\["[0-9]{1,9}"' THEN split_part(line, '"', 2)::integer
                WHEN line ~ '^{"table" : "[0-9]{1,9}"' THEN split_part(line, '"', 4)::integer
                WHEN line ~ '^{"tenancy_export"' THEN -1
                WHEN line ~ '^{"end"' THEN 2147483647
                ELSE 0 END
$$;
COMMENT ON FUNCTION _tenancy.place_of_line(text) IS 'where in an export of a tenant a line is';

CREATE FUNCTION tenancy.import_tenant(lines regclass, tenant_id text DEFAULT NULL) RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
    SET datestyle = 'ISO' SET intervalstyle = 'postgres' SET xmloption = 'content'
AS $$
DECLARE
    the_id text;
    source text;
    line record;
    header json;
    is_row boolean;
    is_table boolean;
    quotas json[] := '{}';
    tables regclass[] := '{}';
    number text;
    batch text[] := '{}';
    size bigint := 0;
    the_table record;
    next_table record;
    -- What is held of tables of circles until all of their place may have come.
    held_place bigint;
    held_size bigint := 0;
    circles oid[] := '{}';
    places bigint[] := '{}';
    sizes bigint[] := '{}';
    relations regclass[] := '{}';
    insertions text[] := '{}';
    batches text[] := '{}';
    rows bigint := 0;
    said bigint;
BEGIN
    PERFORM _tenancy.refuse_in_context('import_tenant');
    SELECT a.attname INTO source FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.oid = lines AND c.relkind = 'r' AND a.atttypid = 'text'::regtype AND a.attgenerated = '' ORDER BY a.attnum LIMIT 1;
    IF source IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'lines must be a table with a column of type text', '{"argument": "lines"}',
            'CREATE TEMPORARY TABLE lines (line text); \copy lines FROM ''acme.jsonl'' WITH (FORMAT csv, QUOTE E''\x01'', DELIMITER E''\x02'')');
    END IF;
    SELECT NULL::regclass AS relation, NULL AS insertion, NULL::bigint AS place, NULL::oid AS circle, false AS refers_to_itself, false AS is_circular INTO the_table;
    next_table := the_table;
    -- With the rights of the tables' owners, and not of whoever is there at the end.
    PERFORM _tenancy.check_constraints_now();
    FOR line IN EXECUTE format('SELECT l.%I AS text FROM %s l ORDER BY _tenancy.place_of_line(l.%1$I), l.%1$I !~ ''^{''', source, lines) LOOP
        IF said IS NOT NULL THEN
            PERFORM _tenancy.raise('IMPORT_INVALID', 'there is something after the end');
        END IF;
        BEGIN
            header := line.text::json;
        EXCEPTION WHEN data_exception THEN
            PERFORM _tenancy.raise('IMPORT_INVALID', 'a line is not JSON', '{}', 'Load the file line by line, without escapes: \copy lines FROM ''acme.jsonl'' WITH (FORMAT csv, QUOTE E''\x01'', DELIMITER E''\x02'')');
        END;
        is_row := json_typeof(header) = 'array' AND number IS NOT NULL;
        IF is_row THEN
            IF header ->> 0 IS DISTINCT FROM number THEN
                PERFORM _tenancy.raise('IMPORT_INVALID', 'a row is of another table than it follows');
            END IF;
            batch := batch || line.text;
            size := size + octet_length(line.text);
            IF the_table.is_circular AND held_size + size > 500000000 THEN
                PERFORM _tenancy.raise('IMPORT_INVALID', format('rows of table %s and of those that it refers to in a circle take more than 500 MB', the_table.relation),
                    jsonb_build_object('relation', the_table.relation::text));
            END IF;
            CONTINUE WHEN the_table.is_circular
                          OR CASE WHEN the_table.refers_to_itself THEN cardinality(batch) < 1000000 AND size < 500000000 ELSE cardinality(batch) < 1000 AND size < 50000000 END;
        END IF;
        IF cardinality(batch) > 0 AND the_table.is_circular THEN
            held_place := least(held_place, the_table.place);
            circles := circles || the_table.circle;
            places := places || the_table.place;
            sizes := sizes || size;
            relations := relations || the_table.relation;
            insertions := insertions || the_table.insertion;
            batches := batches || ('[' || array_to_string(batch, ',') || ']');
        ELSIF cardinality(batch) > 0 THEN
            rows := rows + _tenancy.move_tenant_rows(the_table.relation, the_id, the_table.insertion || ' json_array_elements($1::json) AS r (row)', '[' || array_to_string(batch, ',') || ']');
        END IF;
        batch := '{}';
        size := 0;
        is_table := json_typeof(header) = 'object' AND the_id IS NOT NULL AND header ->> 'table' IS NOT NULL;
        IF is_table THEN
            IF header ->> 'table' = number THEN
                PERFORM _tenancy.raise('IMPORT_INVALID', 'two tables have one number');
            END IF;
            SELECT s.* INTO next_table FROM _tenancy.import_statement(header, the_id) s;
        END IF;
        IF held_place IS NOT NULL AND NOT is_row AND (NOT is_table OR next_table.place > held_place) THEN
            rows := rows + (SELECT sum(_tenancy.fill_circle(c.relations, the_id, c.insertions, c.batches))
                            FROM (SELECT array_agg(h.relation ORDER BY h.number) AS relations, array_agg(h.insertion ORDER BY h.number) AS insertions, array_agg(h.batch ORDER BY h.number) AS batches
                                  FROM unnest(circles, places, relations, insertions, batches) WITH ORDINALITY AS h (circle, place, relation, insertion, batch, number)
                                  GROUP BY h.circle ORDER BY min(h.place), min(h.number)) c);
            held_place := NULL;
            circles := '{}';
            places := '{}';
            sizes := '{}';
            relations := '{}';
            insertions := '{}';
            batches := '{}';
        END IF;
        CONTINUE WHEN is_row;
        IF json_typeof(header) <> 'object' OR (header ->> 'tenancy_export' IS NULL) = (the_id IS NULL) THEN
            PERFORM _tenancy.raise('IMPORT_INVALID', 'it does not begin as an export of a tenant');
        ELSIF header ->> 'tenancy_export' = '1' THEN
            the_id := tenancy.create_tenant(coalesce(import_tenant.tenant_id, header #>> '{tenant,id}'), header #>> '{tenant,name}', header #>> '{tenant,subdomain}', header #>> '{tenant,plan}',
                                            (header #> '{tenant,settings}')::jsonb);
            UPDATE _tenancy.tenants t SET sso_required = true WHERE t.id = the_id AND (header #>> '{tenant,sso_required}')::boolean;
        ELSIF header -> 'member' IS NOT NULL THEN
            PERFORM _tenancy.import_member(header -> 'member', the_id);
        ELSIF header -> 'quota' IS NOT NULL THEN
            -- Not before there are the rows.
            quotas := quotas || (header -> 'quota');
        ELSIF is_table THEN
            number := header ->> 'table';
            the_table := next_table;
            held_size := coalesce((SELECT sum(h.size) FROM unnest(circles, sizes) AS h (circle, size) WHERE h.circle = the_table.circle), 0);
            tables := tables || the_table.relation;
        ELSIF header ->> 'end' IS NOT NULL THEN
            said := header ->> 'end';
        ELSE
            PERFORM _tenancy.raise('IMPORT_INVALID', 'it is of a version that is not known here');
        END IF;
    END LOOP;
    IF said IS DISTINCT FROM rows THEN
        PERFORM _tenancy.raise('IMPORT_INVALID', CASE WHEN said IS NULL THEN 'its end is missing' ELSE 'not all of its rows were inserted' END, jsonb_build_object('rows', rows, 'said', said));
    END IF;
    PERFORM _tenancy.follow_sequences(t, the_id) FROM unnest(tables) AS t;
    PERFORM tenancy.set_quota(the_id, q ->> 'resource', (q ->> 'max_amount')::bigint, q ->> 'period', (q ->> 'soft_limit')::bigint) FROM unnest(quotas) AS q;
    PERFORM _tenancy.note_audit('IMPORT_TENANT', jsonb_build_object('tenant_id', the_id, 'rows', rows));
    RETURN rows;
END
$$;
COMMENT ON FUNCTION tenancy.import_tenant(regclass, text) IS
'Reads a tenant that export_tenant has written, here or elsewhere, from a table with a column of type text, a line a row, as COPY has loaded it; returns how many rows it was. All or nothing. The
tenant, registered anew, is active; tenant_id gives it another id. Tables and their protection must be there; rows whose keys are taken are an error, sequences of columns go on after them. What the tables''
triggers and foreign keys do is done, with the rights of the tables'' owners, and in the context of the tenant; rows of tables that refer to each other in a circle go in one statement, 500 MB at most, and their owner is to be the same; those of a table that refers to itself, in pieces of a million rows or 500 MB. Errors: IMPORT_INVALID 22023 (not a whole export, or tables, columns or users differ), RELATION_NOT_SUPPORTED 42809 (a circle of several owners), TENANT_ALREADY_EXISTS,
SUBDOMAIN_UNAVAILABLE 42710, QUOTA_EXCEEDED 53400, PARAMETER_INVALID 22023, violations of constraints 23505, 23503; TENANT_ACCESS_DENIED 42501 in the context of a tenant. Volatile. Granted to nobody.';
