-- From one tenant to many: a running database gets the tenant column, table by table, while others read and write. Re-runnable.
-- The procedures commit after each step, so they have no SET clause, and every name in them has its schema; a step is a function that does one transaction's work. What it
-- does to a table, it does with the rights of the table's owner (src/delete_tenant.rs, change_rows; src/isolate.rs, run_as_owner).

CREATE FUNCTION _tenancy.migration_default(m _tenancy.migrations) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- Of whoever sets a tenant, that; of all others, the one that there was.
    SELECT format('coalesce(nullif(pg_catalog.current_setting(''tenancy.tenant_id'', true), ''''), %L)::%s', m.tenant_id, m.column_type)
$$;
COMMENT ON FUNCTION _tenancy.migration_default(_tenancy.migrations) IS 'the default of the tenant column until the table is protected';

-- Runs a command on the table as its owner, and takes its lock only if it can be had at once: who waits for a lock has all others wait behind it.
CREATE FUNCTION _tenancy.try_command(relation regclass, command text) RETURNS boolean
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms'
AS $$
BEGIN
    PERFORM _tenancy.run_as_owner(relation, command, false);
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    RETURN false;
END
$$;
COMMENT ON FUNCTION _tenancy.try_command(regclass, text) IS 'whether a command on a table could have its lock';

CREATE FUNCTION _tenancy.mapping_name(relation regclass, OUT function text, OUT schema text)
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT format('%I.%I', n.nspname, 'tenancy_map_' || c.oid), quote_ident(n.nspname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = mapping_name.relation
$$;
COMMENT ON FUNCTION _tenancy.mapping_name(regclass) IS 'the function that gives new rows their tenant while a table is migrated by a mapping';

-- Gives the tenant of a row d.
CREATE FUNCTION _tenancy.mapped(m _tenancy.migrations) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN m.mapping IS NULL THEN format('%L::%s', m.tenant_id, m.column_type) ELSE format('coalesce((%s)::text, %L)::%s', m.mapping, m.tenant_id, m.column_type) END
$$;
COMMENT ON FUNCTION _tenancy.mapped(_tenancy.migrations) IS 'the expression that gives a row its tenant';

-- The plan of a migration: what it does, in words that can be typed.
CREATE FUNCTION _tenancy.migration_plan(m _tenancy.migrations) RETURNS SETOF text
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = m.relation AND a.attname = m.tenant_column AND NOT a.attisdropped) THEN
        RETURN NEXT CASE WHEN m.mapping IS NULL THEN format('ALTER TABLE %s ADD COLUMN %I %s DEFAULT %s;  -- not a row is written', m.relation, m.tenant_column, m.column_type, _tenancy.migration_default(m))
                         ELSE format('ALTER TABLE %s ADD COLUMN %I %s;', m.relation, m.tenant_column, m.column_type) END;
    END IF;
    IF m.mapping IS NOT NULL THEN
        RETURN NEXT format('CREATE TRIGGER tenancy_map BEFORE INSERT OR UPDATE ON %s FOR EACH ROW ...;  -- gives new rows their tenant until the table is protected', m.relation);
    END IF;
    RETURN NEXT format('UPDATE %s d SET %I = %s WHERE %I IS NULL;  -- in batches, without triggers', m.relation, m.tenant_column, _tenancy.mapped(m), m.tenant_column);
    IF m.kind <> 'shared' THEN
        RETURN NEXT format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL;  -- by a CHECK that is validated while others write', m.relation, m.tenant_column);
    END IF;
    IF NOT _tenancy.has_leading_index(m.relation, m.tenant_column) THEN
        RETURN NEXT _tenancy.index_line(m);
    END IF;
    RETURN NEXT format('SELECT * FROM tenancy.migration_observations;  -- who reads and writes %s without a tenant', m.relation);
    RETURN NEXT format('SELECT tenancy.protect(%L, %L, %L);', m.relation, m.kind, m.tenant_column);
END
$$;
COMMENT ON FUNCTION _tenancy.migration_plan(_tenancy.migrations) IS 'what a migration does';

CREATE FUNCTION _tenancy.index_line(m _tenancy.migrations) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    -- That of a partitioned table takes over those that its partitions have, in a moment.
    SELECT CASE c.relkind WHEN 'p' THEN concat_ws(E'\n', (SELECT string_agg(format('CREATE INDEX CONCURRENTLY ON %s (%I);', t.relation, m.tenant_column), E'\n' ORDER BY t.relation::text)
                                                        FROM _tenancy.tree(m.relation) t JOIN pg_class p ON p.oid = t.relation AND p.relkind = 'r'
                                                        WHERE NOT EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] AND a.attname = m.tenant_column
                                                                          JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_am y ON y.oid = x.relam AND y.amname = 'btree'
                                                                          WHERE i.indrelid = t.relation AND i.indnatts = 1 AND i.indisvalid AND NOT i.indisunique AND i.indpred IS NULL)),
                                                       format('CREATE INDEX ON %s (%I);', m.relation, m.tenant_column))
                          ELSE format('CREATE INDEX CONCURRENTLY ON %s (%I);', m.relation, m.tenant_column) END
    FROM pg_class c WHERE c.oid = m.relation
$$;
COMMENT ON FUNCTION _tenancy.index_line(_tenancy.migrations) IS 'the commands that make the index of the tenant column while others write';

-- Begins a migration, or finds the one that was begun.
CREATE FUNCTION _tenancy.begin_migration(relation regclass, tenant_id text, mapping text, tenant_column name, column_type regtype, kind text, batch integer, dry_run boolean) RETURNS boolean
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    m _tenancy.migrations;
    step text;
    has_column boolean;
BEGIN
    PERFORM _tenancy.refuse_in_context('migrate_table');
    IF relation IS NULL OR tenant_column IS NULL OR column_type IS NULL OR kind IS NULL OR dry_run IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'relation, tenant_column, column_type, kind and dry_run must not be null');
    ELSIF tenant_id IS NULL AND mapping IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'a tenant or a mapping must be given', '{"argument": "tenant_id"}');
    ELSIF batch IS NULL OR batch < 1 THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'batch must be at least 1', '{"argument": "batch"}');
    ELSIF kind NOT IN ('tenant', 'shared', 'audit') THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('unknown kind "%s"', kind), '{"argument": "kind"}', 'The kinds are tenant, shared and audit; a system table needs no column: SELECT tenancy.protect(..., ''system'');');
    ELSIF column_type NOT IN ('text'::regtype, 'varchar'::regtype, 'uuid'::regtype, 'bigint'::regtype, 'integer'::regtype) THEN
        PERFORM _tenancy.raise('TENANT_COLUMN_NOT_SUPPORTED', format('a tenant column cannot be of type %s', column_type), '{}', 'A tenant column is of type text, varchar, uuid, bigint or integer.');
    END IF;
    PERFORM _tenancy.check_relation(relation);
    IF _tenancy.is_protected(relation) THEN
        RAISE NOTICE 'table % is already protected', relation;
        RETURN false;
    END IF;
    SELECT * INTO m FROM _tenancy.migrations g WHERE g.relation = begin_migration.relation;
    IF NOT FOUND THEN
        SELECT begin_migration.relation, begin_migration.tenant_column, coalesce(a.atttypid::regtype, begin_migration.column_type), begin_migration.kind,
               CASE WHEN dry_run THEN tenancy.normalize_tenant_id(begin_migration.tenant_id) WHEN begin_migration.tenant_id IS NOT NULL THEN _tenancy.registered(begin_migration.tenant_id) END, begin_migration.mapping
            INTO m.relation, m.tenant_column, m.column_type, m.kind, m.tenant_id, m.mapping
            FROM (SELECT) AS one LEFT JOIN pg_attribute a ON a.attrelid = begin_migration.relation AND a.attname = begin_migration.tenant_column AND NOT a.attisdropped;
        IF m.tenant_id IS NOT NULL AND NOT _tenancy.fits_type(m.tenant_id, m.column_type) THEN
            PERFORM _tenancy.raise('TENANT_ID_INVALID', format('tenant "%s" has no form of type %s', m.tenant_id, m.column_type), jsonb_build_object('tenant_id', m.tenant_id, 'type', m.column_type));
        END IF;
    ELSIF (m.tenant_column, m.kind, m.mapping, m.tenant_id) IS DISTINCT FROM (begin_migration.tenant_column, begin_migration.kind, begin_migration.mapping, tenancy.normalize_tenant_id(begin_migration.tenant_id)) THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('table %s is being migrated otherwise', relation), jsonb_build_object('relation', relation::text),
            format('Go on with it as it was begun, or take it back: CALL tenancy.undo_migration(%L);', relation));
    END IF;
    IF m.mapping IS NOT NULL THEN
        -- What it is wrong in would fail whoever writes to the table, by the trigger.
        PERFORM _tenancy.run_as_owner(m.relation, format('SELECT %s FROM %s d LIMIT 1', _tenancy.mapped(m), m.relation), false);
    END IF;
    IF dry_run THEN
        FOR step IN SELECT * FROM _tenancy.migration_plan(m) LOOP
            RAISE NOTICE '%', step;
        END LOOP;
        RETURN false;
    END IF;
    has_column := EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = m.relation AND a.attname = m.tenant_column AND a.attnum > 0 AND NOT a.attisdropped);
    IF has_column THEN
        PERFORM _tenancy.check_column(m.relation, m.tenant_column);
    END IF;
    INSERT INTO _tenancy.migrations (relation, tenant_column, column_type, kind, tenant_id, mapping, added_column, old_default, was_not_null, rows_total)
    SELECT m.relation, m.tenant_column, m.column_type, m.kind, m.tenant_id, m.mapping, NOT has_column,
           (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum
            WHERE a.attrelid = m.relation AND a.attname = m.tenant_column),
           coalesce((SELECT a.attnotnull FROM pg_attribute a WHERE a.attrelid = m.relation AND a.attname = m.tenant_column AND NOT a.attisdropped), false),
           (SELECT coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint FROM _tenancy.tree(m.relation) t JOIN pg_class c ON c.oid = t.relation AND c.relkind = 'r')
    ON CONFLICT ON CONSTRAINT migrations_pkey DO NOTHING;
    -- Rows that had no tenant may have one now, by the mapping.
    UPDATE _tenancy.migrations g SET part = NULL, next_block = 0 WHERE g.relation = m.relation AND g.phase = 'backfill' AND g.part::oid = 4294967295;
    RETURN true;
END
$$;
COMMENT ON FUNCTION _tenancy.begin_migration(regclass, text, text, name, regtype, text, integer, boolean) IS 'begins a migration, or finds the one that was begun';

-- One transaction of a migration. Returns what to do next: 'again' at once, 'wait' a moment for a lock, 'stop'.
CREATE FUNCTION _tenancy.migration_step(relation regclass, batch integer, observe boolean) RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    m _tenancy.migrations;
    outcome text;
BEGIN
    PERFORM _tenancy.refuse_in_context('migrate_table');
    -- Two that migrate one table take turns.
    SELECT * INTO m FROM _tenancy.migrations g WHERE g.relation = migration_step.relation FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 'stop';
    END IF;
    -- It is what it was when it was begun: its owner may have made something else of it.
    EXECUTE format('LOCK TABLE %s IN ACCESS SHARE MODE', m.relation);
    PERFORM _tenancy.check_relation(m.relation);
    IF m.phase <> 'column' THEN
        PERFORM _tenancy.check_column(m.relation, m.tenant_column);
    END IF;
    outcome := CASE m.phase
        WHEN 'column' THEN _tenancy.migrate_column(m)
        WHEN 'backfill' THEN _tenancy.migrate_rows(m, batch)
        WHEN 'check' THEN _tenancy.migrate_check(m)
        WHEN 'index' THEN _tenancy.migrate_index(m)
        WHEN 'observe' THEN _tenancy.migrate_observe(m, observe)
        WHEN 'protect' THEN _tenancy.migrate_protect(m)
        ELSE 'stop' END;
    RETURN outcome;
END
$$;
COMMENT ON FUNCTION _tenancy.migration_step(regclass, integer, boolean) IS 'one transaction of a migration';

-- How often in a row a step had to wait, which it does now for a moment. After some seconds it is said, once.
CREATE FUNCTION _tenancy.migration_waits(relation regclass, outcome text, waits integer) RETURNS integer
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF outcome <> 'wait' THEN
        RETURN 0;
    END IF;
    IF waits = 9 THEN
        RAISE NOTICE 'table % is tried again and again, because another session has locked it or rows of it', relation
            USING HINT = format('See who has: SELECT * FROM pg_stat_activity WHERE pid IN (SELECT l.pid FROM pg_locks l WHERE l.relation = %L::regclass);', relation);
    END IF;
    PERFORM pg_sleep(0.3);
    RETURN waits + 1;
END
$$;
COMMENT ON FUNCTION _tenancy.migration_waits(regclass, text, integer) IS 'waits before a step of a migration is tried again, and says so when that takes long';

CREATE PROCEDURE tenancy.migrate_table(
    relation regclass, tenant_id text, mapping text DEFAULT NULL, tenant_column name DEFAULT 'tenant_id', column_type regtype DEFAULT 'pg_catalog.text',
    kind text DEFAULT 'tenant', observe boolean DEFAULT true, batch integer DEFAULT 10000, dry_run boolean DEFAULT false)
    LANGUAGE plpgsql
AS $$
DECLARE
    is_begun boolean;
    outcome text;
    waits integer := 0;
BEGIN
    is_begun := _tenancy.begin_migration(relation, tenant_id, mapping, tenant_column, column_type, kind, batch, dry_run);
    COMMIT;
    WHILE is_begun LOOP
        outcome := _tenancy.migration_step(relation, batch, observe);
        COMMIT;
        EXIT WHEN outcome OPERATOR(pg_catalog.=) 'stop';
        waits := _tenancy.migration_waits(relation, outcome, waits);
    END LOOP;
END
$$;
COMMENT ON PROCEDURE tenancy.migrate_table(regclass, text, text, name, regtype, text, boolean, integer, boolean) IS
'Gives a table that others use the tenant column, fills it, and protects the table, without a long lock. tenant_id: whose its rows are; mapping: an expression on a row d that gives the
tenant of each, for example (SELECT c.tenant_id FROM public.customers c WHERE c.id = d.customer_id), for which tenant_id stands in where it is null; its names have their schemas. kind, tenant_column: as protect();
column_type: of the column, where there is none yet. With one tenant, the column comes with a default, and not a row is written. Commits after each step, rows in batches; interrupted, it goes on where it was when it is
called again; tenancy.migration_progress shows how far it is. Stops for an index that is to be made CONCURRENTLY, with the line to type. With observe, it stops before anything is enforced: tenancy.migration_observations shows
who reads and writes the table without a tenant; CALL tenancy.finish_migration() ends it. dry_run tells what it would do, and does nothing. To be called outside a
transaction block, or error 2D000. Other errors: those of protect(), PARAMETER_INVALID 22023, TENANT_NOT_FOUND 42704, ROWS_WITHOUT_TENANT 23514. Granted to nobody; refused in the context of a tenant.';

CREATE PROCEDURE tenancy.finish_migration(relation regclass DEFAULT NULL)
    LANGUAGE plpgsql
AS $$
DECLARE
    one regclass;
    outcome text;
    waits integer := 0;
BEGIN
    FOR one IN SELECT g FROM _tenancy.migrations_to_finish(relation) AS g LOOP
        LOOP
            outcome := _tenancy.migration_step(one, 10000, false);
            COMMIT;
            EXIT WHEN outcome OPERATOR(pg_catalog.=) 'stop';
            waits := _tenancy.migration_waits(one, outcome, waits);
        END LOOP;
    END LOOP;
    PERFORM _tenancy.leave_single_mode();
    COMMIT;
END
$$;
COMMENT ON PROCEDURE tenancy.finish_migration(regclass) IS
'Ends the observation of a table, or (null) of all that are observed, and protects it. When none is left, tenancy.mode of this database is set to multi, where it was set to single. To be called outside a transaction block, or error
2D000. Errors: those of migrate_table(). Granted to nobody; refused in the context of a tenant.';

CREATE PROCEDURE tenancy.migrate_to_multi_tenant(
    default_tenant text, relations regclass[], tenant_column name DEFAULT 'tenant_id', column_type regtype DEFAULT 'pg_catalog.text', observe boolean DEFAULT true,
    batch integer DEFAULT 10000, dry_run boolean DEFAULT false)
    LANGUAGE plpgsql
AS $$
DECLARE
    one regclass;
BEGIN
    PERFORM _tenancy.make_default_tenant(default_tenant, relations, dry_run);
    COMMIT;
    FOREACH one IN ARRAY relations LOOP
        CALL tenancy.migrate_table(one, default_tenant, NULL, tenant_column, column_type, 'tenant', observe, batch, dry_run);
    END LOOP;
    IF NOT observe AND NOT dry_run THEN
        PERFORM _tenancy.leave_single_mode();
    END IF;
END
$$;
COMMENT ON PROCEDURE tenancy.migrate_to_multi_tenant(text, regclass[], name, regtype, boolean, integer, boolean) IS
'Turns a database of one tenant into one of many: registers default_tenant, where it is not, gives it all rows of the tables, one table after the other, as migrate_table() does, and in the end sets tenancy.mode of this database to
multi, where it was set to single. With observe, it stops before anything is enforced; CALL tenancy.finish_migration() ends it. Called again, it goes on where it was. To be called outside a transaction block, or error
2D000. Errors: those of migrate_table(). Granted to nobody; refused in the context of a tenant.';

CREATE PROCEDURE tenancy.undo_migration(relation regclass)
    LANGUAGE plpgsql
AS $$
DECLARE
    outcome text;
    waits integer := 0;
BEGIN
    LOOP
        outcome := _tenancy.take_back(relation);
        COMMIT;
        EXIT WHEN outcome OPERATOR(pg_catalog.=) 'stop';
        waits := _tenancy.migration_waits(relation, outcome, waits);
    END LOOP;
END
$$;
COMMENT ON PROCEDURE tenancy.undo_migration(regclass) IS
'The way back, at any time: takes the protection of a table that was migrated, and the tenant column if the migration has added it, with what it holds. To be called outside a transaction block, or error 2D000. Errors:
PARAMETER_INVALID 22023 (it was not migrated), those of unprotect(). Granted to nobody; refused in the context of a tenant.';

CREATE VIEW tenancy.migration_progress AS
    SELECT m.relation, m.phase, m.tenant_id, m.mapping, m.rows_done, m.rows_total,
           CASE WHEN m.phase IN ('column', 'backfill') THEN CASE WHEN m.rows_total > 0 THEN least(round(100.0 * m.rows_done / m.rows_total, 1), 99.9) END ELSE 100.0 END AS percentage,
           CASE WHEN m.seconds > 0 AND m.rows_done > 0 THEN round((m.rows_done / m.seconds)::numeric) END AS rows_per_second,
           CASE WHEN m.phase = 'backfill' AND m.rows_done > 0 THEN date_trunc('second', greatest(m.rows_total - m.rows_done, 0) * m.seconds / m.rows_done * interval '1 second') END AS time_left,
           m.to_do, m.started_at, m.changed_at
    FROM _tenancy.migrations m WHERE EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = m.relation);
COMMENT ON VIEW tenancy.migration_progress IS
'The tables that are migrated, or were: phase (column, backfill, check, index, observe, protect, done), rows that were given a tenant and, by statistics, how many there are, rate, time left, and what is to be typed
before it goes on. Granted to nobody.';

CREATE VIEW tenancy.migration_observations AS
    SELECT e.relation, e.role, e.detail ->> 'application' AS application, sum((e.detail ->> 'accesses')::bigint)::bigint AS accesses, min(e.recorded_at) AS first_seen, max(e.recorded_at) AS last_seen
    FROM _tenancy.audit_entries e WHERE e.operation = 'OBSERVED' AND e.tenant_id IS NULL AND e.recorded_at >= (SELECT min(m.started_at) FROM _tenancy.migrations m)
    GROUP BY 1, 2, 3;
COMMENT ON VIEW tenancy.migration_observations IS
'Who has read or written tables under observation without a tenant, and would have been refused had they been protected: by relation, role and application_name, how many statements, and when. What a session has
counted in its last ten seconds may be missing. Granted to nobody.';
