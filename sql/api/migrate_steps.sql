-- The steps of a migration, each one transaction at most. Re-runnable. What each returns is the outcome that _tenancy.migration_step tells of.

-- Notes how far a migration is; returns what comes next.
CREATE FUNCTION _tenancy.migration_goes_on(the_relation regclass, next_phase text, outcome text DEFAULT 'again', the_to_do text DEFAULT NULL) RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE _tenancy.migrations m SET phase = next_phase, to_do = the_to_do, changed_at = clock_timestamp() WHERE m.relation = the_relation;
    RETURN outcome;
END
$$;
COMMENT ON FUNCTION _tenancy.migration_goes_on(regclass, text, text, text) IS 'notes how far a migration is';

CREATE FUNCTION _tenancy.migrate_column(m _tenancy.migrations) RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    has_column constant boolean := EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = m.relation AND a.attname = m.tenant_column AND a.attnum > 0 AND NOT a.attisdropped);
    map record;
    member regclass;
BEGIN
    IF m.mapping IS NULL THEN
        -- A default that is the same for all rows that there are is kept beside them: not one is written.
        IF NOT _tenancy.try_command(m.relation, format(CASE WHEN has_column THEN 'ALTER TABLE %s ALTER COLUMN %I SET DEFAULT %4$s' ELSE 'ALTER TABLE %s ADD COLUMN %I %s DEFAULT %s' END,
                                                       m.relation, m.tenant_column, m.column_type, _tenancy.migration_default(m))) THEN
            RETURN 'wait';
        END IF;
        RAISE NOTICE 'table %: column % is there', m.relation, m.tenant_column;
        RETURN _tenancy.migration_goes_on(m.relation, CASE WHEN has_column THEN 'backfill' ELSE 'check' END);
    END IF;
    IF NOT has_column AND NOT _tenancy.try_command(m.relation, format('ALTER TABLE %s ADD COLUMN %I %s', m.relation, m.tenant_column, m.column_type)) THEN
        RETURN 'wait';
    END IF;
    -- With the rights of the table's owner, as the backfill has: whoever writes to the table need not be able to read what the mapping reads.
    map := _tenancy.mapping_name(m.relation);
    EXECUTE format('CREATE OR REPLACE FUNCTION %s() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS %L', map.function,
                   format('BEGIN SELECT %s INTO NEW.%I FROM (SELECT NEW.*) AS d; RETURN NEW; END', _tenancy.mapped(m), m.tenant_column));
    -- A function that PUBLIC may call would run for a trigger of anybody's, with the rights of the owner.
    EXECUTE format('REVOKE ALL ON FUNCTION %s() FROM PUBLIC', map.function);
    EXECUTE format('ALTER FUNCTION %s() OWNER TO %I', map.function, (SELECT pg_get_userbyid(c.relowner) FROM pg_class c WHERE c.oid = m.relation));
    -- A partition has it from its table; a child that inherits has none.
    FOR member IN SELECT t.relation FROM _tenancy.tree(m.relation) t JOIN pg_class c ON c.oid = t.relation WHERE NOT c.relispartition LOOP
        IF NOT EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = member AND t.tgname = 'tenancy_map')
           AND NOT _tenancy.try_command(member, format('CREATE TRIGGER tenancy_map BEFORE INSERT OR UPDATE ON %s FOR EACH ROW WHEN (NEW.%I IS NULL) EXECUTE FUNCTION %s()',
                                                       member, m.tenant_column, map.function)) THEN
            RETURN 'wait';
        END IF;
    END LOOP;
    RAISE NOTICE 'table %: column % is there', m.relation, m.tenant_column;
    RETURN _tenancy.migration_goes_on(m.relation, 'backfill');
END
$$;
COMMENT ON FUNCTION _tenancy.migrate_column(_tenancy.migrations) IS 'the tenant column, and who fills it in new rows';

-- Gives rows their tenant, some blocks of a partition at a time. As a replica does, without the triggers of users: a row that gets its tenant has not been changed.
CREATE FUNCTION _tenancy.migrate_rows(m _tenancy.migrations, batch integer) RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET session_replication_role = replica SET lock_timeout = '200ms'
AS $$
DECLARE
    begun constant timestamptz := clock_timestamp();
    the_part record;
    blocks bigint;
    step bigint;
    changed bigint := 0;
    all_blocks constant bigint := 9223372036854775807;
    to_change text;
    the_rows text;
    left_over bigint;
BEGIN
    IF EXISTS (SELECT FROM pg_constraint k WHERE k.contype = 'f' AND k.conrelid = m.relation AND _tenancy.has_column(k, m)) THEN
        -- What checks the key is a trigger as well.
        PERFORM set_config('session_replication_role', 'origin', true);
    END IF;
    SELECT c.oid::regclass AS relation, c.relpages, c.reltuples INTO the_part
    FROM _tenancy.tree(m.relation) t JOIN pg_class c ON c.oid = t.relation AND c.relkind = 'r'
    WHERE m.part IS NULL OR c.oid >= m.part::oid ORDER BY c.oid LIMIT 1;
    IF FOUND THEN
        IF the_part.relation IS DISTINCT FROM m.part THEN
            m.next_block := 0;
        END IF;
        blocks := pg_relation_size(the_part.relation) / current_setting('block_size')::bigint;
        step := greatest(1, ceil(batch * CASE WHEN the_part.relpages > 0 AND the_part.reltuples > 0 THEN the_part.relpages / the_part.reltuples ELSE 0.02 END))::bigint;
        -- Where there is nobody to stand in, rows that have no tenant stay as they are.
        to_change := format('d.%I IS NULL', m.tenant_column) || CASE WHEN m.tenant_id IS NULL THEN format(' AND (%s) IS NOT NULL', m.mapping) ELSE '' END;
        -- What somebody else has locked is left for later: nobody waits, and nobody waits for the others.
        the_rows := format('SELECT d.ctid FROM ONLY %s d WHERE %s%s FOR %s SKIP LOCKED%s', the_part.relation, to_change,
                           CASE WHEN m.next_block < blocks THEN format(' AND d.ctid >= ''(%s,0)'' AND d.ctid < ''(%s,0)''', m.next_block, least(m.next_block + step, blocks)) END,
                           -- Whoever changes a key waits for those who refer to the row.
                           CASE WHEN EXISTS (SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::int2[]) AND a.attname = m.tenant_column
                                             WHERE i.indrelid = the_part.relation AND i.indisunique) THEN 'UPDATE' ELSE 'NO KEY UPDATE' END,
                           CASE WHEN m.next_block >= blocks THEN format(' LIMIT %s', batch) END);
        BEGIN
            changed := _tenancy.change_rows(the_part.relation, format('UPDATE ONLY %s d SET %I = %s WHERE %s', the_part.relation, m.tenant_column, _tenancy.mapped(m),
                CASE WHEN m.next_block < all_blocks THEN format('d.ctid = ANY (ARRAY(%s))', the_rows) ELSE to_change END));
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            RETURN 'wait';
        END;
        IF m.next_block < all_blocks THEN
            -- When all blocks are done, what was left and what others have written meanwhile is tried for as often again; then it is waited for, a moment each.
            UPDATE _tenancy.migrations g SET part = the_part.relation,
                next_block = CASE WHEN m.next_block < blocks OR changed > 0 AND m.next_block < 2 * blocks THEN m.next_block + step ELSE all_blocks END,
                rows_done = g.rows_done + changed, seconds = g.seconds + extract(epoch FROM clock_timestamp() - begun), changed_at = clock_timestamp()
            WHERE g.relation = m.relation;
            RETURN 'again';
        END IF;
        UPDATE _tenancy.migrations g SET rows_done = g.rows_done + changed, changed_at = clock_timestamp(), next_block = 0,
            -- The next one, by its number.
            part = coalesce((SELECT min(c.oid) FROM _tenancy.tree(m.relation) t JOIN pg_class c ON c.oid = t.relation AND c.relkind = 'r' WHERE c.oid > the_part.relation::oid),
                            4294967295::oid)::regclass
        WHERE g.relation = m.relation;
        RETURN 'again';
    END IF;
    IF m.kind <> 'shared' THEN
        SELECT r.line::bigint INTO left_over FROM _tenancy.read_as_owner(m.relation, format('SELECT count(*)::text FROM %s d WHERE d.%I IS NULL', m.relation, m.tenant_column)) r;
        IF left_over > 0 THEN
            PERFORM _tenancy.raise('ROWS_WITHOUT_TENANT', format('table %s has rows that the mapping gives to no tenant: %s', m.relation, left_over),
                jsonb_build_object('relation', m.relation::text, 'column', m.tenant_column, 'null_rows', left_over),
                format('Give them one, and call it again: UPDATE %s SET %I = ''...'' WHERE %I IS NULL;', m.relation, m.tenant_column, m.tenant_column));
        END IF;
    END IF;
    RAISE NOTICE 'table %: % rows have got their tenant', m.relation, m.rows_done;
    RETURN _tenancy.migration_goes_on(m.relation, 'check');
END
$$;
COMMENT ON FUNCTION _tenancy.migrate_rows(_tenancy.migrations, integer) IS 'gives rows their tenant, a batch at a time';

-- Raises an error where rows are of no registered tenant. With the rights of the owner: a cast of the column may be the owner's.
CREATE FUNCTION _tenancy.check_migrated(m _tenancy.migrations) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.run_as_owner(m.relation, format('SELECT _tenancy.check_rows(%s::oid, %L, %L)', m.relation::oid, m.tenant_column, m.kind = 'shared'), true);
END
$$;
COMMENT ON FUNCTION _tenancy.check_migrated(_tenancy.migrations) IS 'raises an error where rows of a table that is migrated are of no registered tenant';

-- NOT NULL, by a CHECK that is validated while others write; and whether all tenants are registered.
CREATE FUNCTION _tenancy.migrate_check(m _tenancy.migrations) RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    is_not_null constant boolean := (SELECT a.attnotnull FROM pg_attribute a WHERE a.attrelid = m.relation AND a.attname = m.tenant_column);
    is_valid boolean := (SELECT k.convalidated FROM pg_constraint k WHERE k.conrelid = m.relation AND k.conname = 'tenancy_not_null');
BEGIN
    IF m.kind <> 'shared' AND NOT is_not_null THEN
        IF is_valid IS NULL THEN
            RETURN CASE WHEN _tenancy.try_command(m.relation, format('ALTER TABLE %s ADD CONSTRAINT tenancy_not_null CHECK (%I IS NOT NULL) NOT VALID', m.relation, m.tenant_column))
                        THEN 'again' ELSE 'wait' END;
        ELSIF NOT is_valid THEN
            BEGIN
                PERFORM _tenancy.run_as_owner(m.relation, format('ALTER TABLE %s VALIDATE CONSTRAINT tenancy_not_null', m.relation), true);
                RETURN 'again';
            EXCEPTION WHEN check_violation THEN
                -- Somebody has written a null by name, before there was the constraint.
                UPDATE _tenancy.migrations g SET part = NULL, next_block = 0 WHERE g.relation = m.relation;
                RETURN _tenancy.migration_goes_on(m.relation, 'backfill');
            END;
        END IF;
        -- With the constraint, PostgreSQL need not look at the rows.
        RETURN CASE WHEN _tenancy.try_command(m.relation, format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL', m.relation, m.tenant_column)) THEN 'again' ELSE 'wait' END;
    ELSIF is_valid IS NOT NULL THEN
        RETURN CASE WHEN _tenancy.try_command(m.relation, format('ALTER TABLE %s DROP CONSTRAINT tenancy_not_null', m.relation)) THEN 'again' ELSE 'wait' END;
    END IF;
    PERFORM _tenancy.check_migrated(m);
    RETURN _tenancy.migration_goes_on(m.relation, 'index');
END
$$;
COMMENT ON FUNCTION _tenancy.migrate_check(_tenancy.migrations) IS 'NOT NULL, and whether all tenants are registered';

CREATE FUNCTION _tenancy.migrate_index(m _tenancy.migrations) RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- As much as an index is made of in a moment.
    small constant bigint := 16 * 1024 * 1024;
    line constant text := _tenancy.index_line(m);
BEGIN
    IF _tenancy.has_leading_index(m.relation, m.tenant_column) THEN
        IF (SELECT g.phase FROM _tenancy.migrations g WHERE g.relation = m.relation) <> 'observe' THEN
            RAISE NOTICE 'table % has all that its protection needs', m.relation;
        END IF;
        RETURN _tenancy.migration_goes_on(m.relation, 'observe');
    ELSIF (SELECT coalesce(sum(pg_relation_size(t.relation)), 0) <= small FROM _tenancy.tree(m.relation) t) THEN
        RETURN CASE WHEN _tenancy.try_command(m.relation, format('CREATE INDEX %I ON %s (%I)', format('tenancy_%s_tenant', m.relation::oid), m.relation, m.tenant_column)) THEN 'again' ELSE 'wait' END;
    END IF;
    -- PostgreSQL makes none CONCURRENTLY inside a procedure.
    RAISE NOTICE 'table % needs an index, which is yours to make while others write', m.relation USING HINT = line || ' Then call it again.';
    RETURN _tenancy.migration_goes_on(m.relation, 'index', 'stop', line);
END
$$;
COMMENT ON FUNCTION _tenancy.migrate_index(_tenancy.migrations) IS 'the index that leads with the tenant column';

CREATE FUNCTION _tenancy.migrate_observe(m _tenancy.migrations, observe boolean) RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    line constant text := format('CALL tenancy.finish_migration(%L);', m.relation);
BEGIN
    IF NOT observe THEN
        -- What has come since: of tenants that are not registered, perhaps.
        PERFORM _tenancy.check_migrated(m);
        RETURN _tenancy.migration_goes_on(m.relation, 'protect');
    END IF;
    IF NOT _tenancy.is_preloaded() THEN
        RAISE NOTICE 'accesses are counted in sessions only that have loaded the library' USING HINT = 'Add tenancy to shared_preload_libraries and restart the server.';
    END IF;
    RAISE NOTICE 'table % is observed: nothing is enforced yet', m.relation
        USING HINT = format('See who comes without a tenant: SELECT * FROM tenancy.migration_observations; when nobody does: %s', line);
    RETURN _tenancy.migration_goes_on(m.relation, 'observe', 'stop', line);
END
$$;
COMMENT ON FUNCTION _tenancy.migrate_observe(_tenancy.migrations, boolean) IS 'the time in which accesses without a tenant are counted';

-- Takes away what has filled the column.
CREATE FUNCTION _tenancy.drop_mapping(m _tenancy.migrations) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    member regclass;
BEGIN
    IF m.mapping IS NOT NULL THEN
        FOR member IN SELECT g.tgrelid FROM pg_trigger g JOIN _tenancy.tree(m.relation) t ON t.relation = g.tgrelid WHERE g.tgname = 'tenancy_map' AND g.tgparentid = 0 LOOP
            PERFORM _tenancy.run_as_owner(member, format('DROP TRIGGER tenancy_map ON %s', member), false);
        END LOOP;
        IF to_regprocedure((_tenancy.mapping_name(m.relation)).function || '()') IS NOT NULL THEN
            EXECUTE format('DROP FUNCTION %s()', (_tenancy.mapping_name(m.relation)).function);
        END IF;
    ELSIF EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = m.relation AND a.attname = m.tenant_column AND a.attnum > 0 AND NOT a.attisdropped) THEN
        PERFORM _tenancy.run_as_owner(m.relation, format('ALTER TABLE %s ALTER COLUMN %I DROP DEFAULT', m.relation, m.tenant_column), false);
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.drop_mapping(_tenancy.migrations) IS 'takes away what has filled the tenant column of new rows';

-- Whether a constraint has the tenant column of a table that is migrated.
CREATE FUNCTION _tenancy.has_column(k pg_constraint, m _tenancy.migrations) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = m.relation AND a.attname = m.tenant_column
                   AND (k.conrelid = m.relation AND a.attnum = ANY (k.conkey) OR k.confrelid = m.relation AND a.attnum = ANY (k.confkey)))
$$;
COMMENT ON FUNCTION _tenancy.has_column(pg_constraint, _tenancy.migrations) IS 'whether a constraint has the tenant column of a table';

-- Puts the foreign keys that protect() has extended back to what they were.
CREATE FUNCTION _tenancy.restore_keys(m _tenancy.migrations) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    key record;
    is_later boolean;
BEGIN
    FOR key IN
        SELECT k.conrelid::regclass AS relation, k.conname, s.definition, c.relkind
        FROM jsonb_to_recordset(m.keys) AS s(relation text, name name, definition text)
        JOIN pg_constraint k ON k.conrelid = to_regclass(s.relation) AND k.conname = s.name AND k.contype = 'f' JOIN pg_class c ON c.oid = k.conrelid
        WHERE _tenancy.has_column(k, m)
    LOOP
        -- As the owner, whose casts may be called for it. Where there is much to look at, that is for later: it held before as well.
        is_later := key.relkind = 'r' AND pg_relation_size(key.relation) > 16 * 1024 * 1024;
        PERFORM _tenancy.run_as_owner(key.relation, format('ALTER TABLE %1$s DROP CONSTRAINT %2$I, ADD CONSTRAINT %2$I %3$s%4$s', key.relation, key.conname,
                                                           regexp_replace(key.definition, ' NOT VALID$', ''), CASE WHEN is_later THEN ' NOT VALID' END), true);
        IF is_later THEN
            RAISE NOTICE 'foreign key % of table % is to be validated', key.conname, key.relation USING HINT = format('ALTER TABLE %s VALIDATE CONSTRAINT %I;', key.relation, key.conname);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _tenancy.restore_keys(_tenancy.migrations) IS 'puts foreign keys that were extended back to what they were';

-- The one step that enforces anything: a moment's lock, and no row is read (_tenancy.is_migrated) but where foreign keys of small tables are extended.
CREATE FUNCTION _tenancy.migrate_protect(m _tenancy.migrations) RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms'
AS $$
BEGIN
    UPDATE _tenancy.migrations g
    SET keys = coalesce((SELECT jsonb_agg(jsonb_build_object('relation', k.conrelid::regclass::text, 'name', k.conname, 'definition', pg_get_constraintdef(k.oid)))
                         FROM pg_constraint k WHERE k.contype = 'f' AND k.conparentid = 0 AND m.relation IN (k.conrelid, k.confrelid) AND NOT _tenancy.has_column(k, m)), '[]')
    WHERE g.relation = m.relation;
    PERFORM _tenancy.drop_mapping(m);
    PERFORM tenancy.protect(m.relation, m.kind, m.tenant_column);
    RETURN _tenancy.migration_goes_on(m.relation, 'done', 'stop');
EXCEPTION WHEN lock_not_available THEN
    RETURN 'wait';
END
$$;
COMMENT ON FUNCTION _tenancy.migrate_protect(_tenancy.migrations) IS 'protects a table that has been migrated';

CREATE FUNCTION _tenancy.migrations_to_finish(the_relation regclass) RETURNS SETOF regclass
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    early regclass;
BEGIN
    PERFORM _tenancy.refuse_in_context('finish_migration');
    IF the_relation IS NOT NULL AND NOT EXISTS (SELECT FROM _tenancy.migrations m WHERE m.relation = the_relation) THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('table %s is not being migrated', the_relation), jsonb_build_object('argument', 'relation', 'relation', the_relation::text));
    END IF;
    -- All, or none: what the mapping of another table reads is protected after it.
    FOR early IN SELECT m.relation FROM _tenancy.migrations m WHERE the_relation IS NULL AND m.phase NOT IN ('observe', 'protect', 'done') ORDER BY m.started_at LOOP
        RAISE NOTICE 'nothing is enforced, because table % has not been observed yet', early
            USING HINT = format('Call tenancy.migrate_table for it once more, which goes on where it was; or enforce another table by its name: CALL tenancy.finish_migration(%L);', '<table>');
    END LOOP;
    RETURN QUERY
        SELECT m.relation FROM _tenancy.migrations m WHERE CASE WHEN the_relation IS NULL THEN early IS NULL ELSE m.relation = the_relation END AND m.phase <> 'done'
        ORDER BY m.mapping IS NULL, m.started_at DESC;
END
$$;
COMMENT ON FUNCTION _tenancy.migrations_to_finish(regclass) IS 'the tables whose migration is to be ended';

CREATE FUNCTION _tenancy.leave_single_mode() RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('finish_migration');
    IF EXISTS (SELECT FROM _tenancy.migrations m WHERE m.phase <> 'done') THEN
        RETURN;
    END IF;
    IF EXISTS (SELECT FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase, unnest(s.setconfig) AS c
               WHERE d.datname = current_database() AND s.setrole = 0 AND c = 'tenancy.mode=single') THEN
        EXECUTE format('ALTER DATABASE %I SET tenancy.mode = ''multi''', current_database());
        RAISE NOTICE 'tenancy.mode of database % is multi', current_database() USING HINT = 'Connections that are open keep theirs until they are opened anew.';
    ELSIF current_setting('tenancy.mode') = 'single' THEN
        RAISE NOTICE 'tenancy.mode is single, and not by a setting of this database'
            USING HINT = format('ALTER DATABASE %I SET tenancy.mode = ''multi'';', current_database());
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.leave_single_mode() IS 'sets tenancy.mode to multi when all tables are migrated';

CREATE FUNCTION _tenancy.make_default_tenant(default_tenant text, relations regclass[], dry_run boolean) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    the_id constant text := tenancy.normalize_tenant_id(default_tenant);
BEGIN
    PERFORM _tenancy.refuse_in_context('migrate_to_multi_tenant');
    IF relations IS NULL OR dry_run IS NULL OR array_position(relations, NULL) IS NOT NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'relations must not be null', '{"argument": "relations"}');
    ELSIF the_id IS NULL THEN
        PERFORM _tenancy.raise('TENANT_ID_INVALID', 'tenant id must not be null');
    ELSIF EXISTS (SELECT FROM _tenancy.tenants t WHERE t.id = the_id) THEN
        RETURN;
    ELSIF dry_run THEN
        RAISE NOTICE 'SELECT tenancy.create_tenant(%);', quote_literal(the_id);
    ELSE
        PERFORM tenancy.create_tenant(the_id);
        RAISE NOTICE 'tenant "%" is registered', the_id;
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.make_default_tenant(text, regclass[], boolean) IS 'registers the tenant that has all rows';

CREATE FUNCTION _tenancy.take_back(the_relation regclass) RETURNS text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp SET lock_timeout = '200ms'
AS $$
DECLARE
    m _tenancy.migrations;
    held_by text;
    made record;
BEGIN
    PERFORM _tenancy.refuse_in_context('undo_migration');
    SELECT * INTO m FROM _tenancy.migrations g WHERE g.relation = the_relation FOR UPDATE;
    IF NOT FOUND THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('table %s was not migrated', the_relation), jsonb_build_object('argument', 'relation', 'relation', the_relation::text));
    END IF;
    IF m.added_column THEN
        -- Not those that protect() has made.
        SELECT k.conname INTO held_by FROM pg_constraint k
        WHERE k.contype IN ('p', 'u', 'x', 'f') AND k.conparentid = 0 AND _tenancy.has_column(k, m) AND NOT (k.contype = 'u' AND k.conname LIKE 'tenancy\_%')
          AND NOT EXISTS (SELECT FROM jsonb_to_recordset(m.keys) AS s(relation text, name name) WHERE k.conrelid = to_regclass(s.relation) AND k.conname = s.name) LIMIT 1;
        IF held_by IS NOT NULL THEN
            PERFORM _tenancy.raise('PARAMETER_INVALID', format('constraint "%s" has column "%s" of table %s', held_by, m.tenant_column, m.relation),
                jsonb_build_object('relation', m.relation::text, 'constraint', held_by), 'Put another in its place first: it would go with the column.');
        END IF;
    END IF;
    PERFORM _tenancy.restore_keys(m);
    IF _tenancy.is_protected(m.relation) THEN
        PERFORM tenancy.unprotect(m.relation);
    END IF;
    PERFORM _tenancy.drop_mapping(m);
    IF EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = m.relation AND k.conname = 'tenancy_not_null') THEN
        PERFORM _tenancy.run_as_owner(m.relation, format('ALTER TABLE %s DROP CONSTRAINT tenancy_not_null', m.relation), false);
    END IF;
    IF NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = m.relation AND a.attname = m.tenant_column AND a.attnum > 0 AND NOT a.attisdropped) THEN
        NULL;
    ELSIF m.added_column THEN
        PERFORM _tenancy.run_as_owner(m.relation, format('ALTER TABLE %s DROP COLUMN %I', m.relation, m.tenant_column), false);
    ELSE
        PERFORM _tenancy.run_as_owner(m.relation, format('ALTER TABLE %1$s ALTER COLUMN %2$I %3$s%4$s', m.relation, m.tenant_column, coalesce('SET DEFAULT ' || m.old_default, 'DROP DEFAULT'),
                                                         CASE WHEN NOT m.was_not_null THEN format(', ALTER COLUMN %I DROP NOT NULL', m.tenant_column) END), false);
        FOR made IN SELECT i.indexrelid::regclass AS index FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
                    WHERE i.indrelid = m.relation AND c.relname = format('tenancy_%s_tenant', m.relation::oid) LOOP
            PERFORM _tenancy.run_as_owner(m.relation, format('DROP INDEX %s', made.index), false);
        END LOOP;
    END IF;
    DELETE FROM _tenancy.migrations g WHERE g.relation = m.relation;
    RAISE NOTICE 'table % is as it was before its migration', m.relation;
    RETURN 'stop';
EXCEPTION WHEN lock_not_available THEN
    RETURN 'wait';
END
$$;
COMMENT ON FUNCTION _tenancy.take_back(regclass) IS 'takes a migration back; wait where its lock could not be had';
