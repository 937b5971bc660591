-- Foreign keys between protected tables. PostgreSQL's checks of foreign keys see all rows, so a key without the tenant column lets a row
-- point at one of another tenant, and tells whether that exists. One that has it on both sides cannot. Re-runnable.

-- The unique index of a table, or partition, that a foreign key is to reference: one that is there already, of whatever name, so that a
-- list that was interrupted goes on where it was left; a name for it otherwise, by numbers where it would be too long, or is taken.
--   above     the index of the parent that it belongs, or is to belong, to
--   index     null where it is to be made
--   dropped   one of ours that will never be valid: its building was interrupted, or it has all its partitions' indexes and is not valid
--   doomed    what is dropped, here and above: its names are free
CREATE FUNCTION _tenancy.key_index(relation regclass, columns name[], above oid, doomed oid[])
    RETURNS TABLE (index oid, name text, dropped text, is_attached boolean, doomed oid[])
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN NOT x.is_broken THEN x.oid END,
           CASE WHEN NOT x.is_broken THEN x.relname ELSE coalesce((
               SELECT n.name
               FROM generate_series(0, 9) AS g, LATERAL (SELECT CASE
                   WHEN g = 0 THEN format('tenancy_%s_%s_key', c.relname, array_to_string(columns[2:], '_'))
                   ELSE format('tenancy_%s_%s_key%s', c.oid, left(a.numbers, 32), nullif(g, 1)) END AS name) n
               WHERE octet_length(n.name) <= 63
                 AND NOT EXISTS (SELECT FROM pg_class t WHERE t.relnamespace = c.relnamespace AND t.relname = n.name AND t.oid <> ALL (d.doomed))
                 AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.conname = n.name AND k.conindid <> ALL (d.doomed))
               ORDER BY g LIMIT 1), format('tenancy_%s_key', c.oid)) END,
           CASE WHEN x.is_broken THEN x.relname END, coalesce(x.is_attached, false), d.doomed
    FROM pg_class c
    CROSS JOIN LATERAL (SELECT string_agg(a.attnum::text, '_' ORDER BY n.place) AS numbers FROM unnest(columns) WITH ORDINALITY AS n(name, place)
                        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = n.name) a
    LEFT JOIN LATERAL (
        SELECT i.indexrelid AS oid, x.relname, h.inhparent IS NOT NULL AS is_attached, b.is_broken
        FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid LEFT JOIN pg_inherits h ON h.inhrelid = i.indexrelid
        -- PostgreSQL looks whether an index of a partitioned table is valid when another is attached to it, and only then.
        CROSS JOIN LATERAL (SELECT NOT i.indisvalid AND EXISTS (
            SELECT FROM _tenancy.tree(i.indexrelid) t JOIN pg_index j ON j.indexrelid = t.relation JOIN pg_class jc ON jc.oid = j.indexrelid
            WHERE NOT j.indisvalid AND (jc.relkind = 'i' OR NOT EXISTS (
                SELECT FROM pg_inherits p WHERE p.inhparent = j.indrelid AND NOT p.inhdetachpending AND NOT EXISTS (
                    SELECT FROM pg_inherits v JOIN pg_index o ON o.indexrelid = v.inhrelid
                    WHERE v.inhparent = j.indexrelid AND o.indrelid = p.inhrelid AND o.indisvalid)))) AS is_broken) b
        WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate AND NOT i.indnullsnotdistinct AND i.indpred IS NULL AND i.indexprs IS NULL
          AND array_to_string(i.indkey::smallint[], '_') = a.numbers AND i.indnkeyatts = i.indnatts
          AND NOT EXISTS (SELECT FROM unnest(i.indkey::smallint[], i.indclass::oid[], i.indcollation::oid[]) AS n(attnum, class, sorting)
                          JOIN pg_attribute t ON t.attrelid = c.oid AND t.attnum = n.attnum JOIN pg_opclass o ON o.oid = n.class
                          WHERE NOT o.opcdefault OR o.opcmethod <> 403 OR t.attcollation <> n.sorting)
          AND (h.inhparent IS NULL OR h.inhparent = above)
          -- To the index of a constraint only those of constraints can be attached.
          AND (i.indisvalid OR NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid AND k.contype IN ('p', 'u')))
          AND (NOT b.is_broken OR starts_with(x.relname, 'tenancy_'))
        ORDER BY h.inhparent IS NULL, b.is_broken, i.indisvalid DESC, i.indexrelid LIMIT 1) x ON true
    CROSS JOIN LATERAL (SELECT key_index.doomed || CASE WHEN x.is_broken THEN ARRAY(SELECT t.relation::oid FROM _tenancy.tree(x.oid) t) ELSE '{}' END AS doomed) d
    WHERE c.oid = key_index.relation
$$;
COMMENT ON FUNCTION _tenancy.key_index(regclass, name[], oid, oid[]) IS 'the unique index that a foreign key is to reference, or a name for it';

-- Makes what a foreign key is to reference. A partitioned table gets an index of its partitions' indexes, each of which can be built
-- while rows are written; no constraint, which PostgreSQL could only make with all of them at once. Where there is a target, only what
-- is left to do of an index of ours: the constraint.
CREATE FUNCTION _tenancy.key_statements(relation regclass, columns name[], has_target boolean) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE t AS (
        SELECT x.*, c.oid AS relation, c.relkind, c.relnamespace, 0 AS depth, NULL::text AS above
        FROM pg_class c CROSS JOIN LATERAL _tenancy.key_index(c.oid, columns, NULL, '{}') x WHERE c.oid = key_statements.relation
        UNION ALL
        -- No partition that is being detached, to whose index none can be attached; the index of a table that is inherited from is its own.
        SELECT x.*, c.oid, c.relkind, c.relnamespace, t.depth + 1, format('%I.%I', n.nspname, t.name) COLLATE "default"
        FROM t JOIN pg_namespace n ON n.oid = t.relnamespace JOIN pg_inherits i ON i.inhparent = t.relation AND NOT i.inhdetachpending
        JOIN pg_class c ON c.oid = i.inhrelid AND c.relispartition CROSS JOIN LATERAL _tenancy.key_index(c.oid, columns, t.index, t.doomed) x
        WHERE NOT has_target
    )
    SELECT array_agg(s.statement ORDER BY t.depth, t.relation::regclass::text COLLATE "C", s.place)
    FROM t JOIN pg_namespace n ON n.oid = t.relnamespace,
        LATERAL (SELECT string_agg(quote_ident(u.name), ', ' ORDER BY u.place) AS list FROM unnest(columns) WITH ORDINALITY AS u(name, place)) l,
        LATERAL (VALUES
            (0, CASE WHEN NOT has_target AND t.dropped IS NOT NULL THEN format('DROP INDEX%s %I.%I;', CASE WHEN t.relkind <> 'p' THEN ' CONCURRENTLY' END, n.nspname, t.dropped) END),
            (1, CASE WHEN NOT has_target AND t.index IS NULL THEN format(
                CASE t.relkind WHEN 'p' THEN 'CREATE UNIQUE INDEX %I ON ONLY %s (%s);' ELSE 'CREATE UNIQUE INDEX CONCURRENTLY %I ON %s (%s);' END,
                t.name, t.relation::regclass, l.list) END),
            (2, CASE WHEN t.depth > 0 THEN CASE WHEN NOT t.is_attached THEN format('ALTER INDEX %s ATTACH PARTITION %I.%I;', t.above, n.nspname, t.name) END
                WHEN t.relkind <> 'p' AND CASE WHEN t.index IS NULL THEN NOT has_target ELSE starts_with(t.name, 'tenancy_')
                    AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = t.index AND k.contype IN ('p', 'u')) END
                THEN format('ALTER TABLE %s ADD CONSTRAINT %I UNIQUE USING INDEX %I;', t.relation::regclass, t.name, t.name) END)) AS s(place, statement)
    WHERE s.statement IS NOT NULL
$$;
COMMENT ON FUNCTION _tenancy.key_statements(regclass, name[], boolean) IS
'the statements that make what a foreign key is to reference, none of which holds writers up for long';

-- Makes a foreign key, or what is left to do of it. Before 18, one of a partitioned table cannot be NOT VALID at first, but takes over
-- those of its partitions without a look at their rows. Each of these has a constraint for each partition of the other table: too many
-- where both have many; and some of them, with their triggers, were left over before 15.9, 16.5 and 17.1.
CREATE FUNCTION _tenancy.reference_statements(relation regclass, parent regclass, name text, definition text) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE server AS (SELECT current_setting('server_version_num')::integer AS version), part AS (
        SELECT reference_statements.relation::oid AS relation
        UNION ALL
        SELECT i.inhrelid FROM part JOIN pg_inherits i ON i.inhparent = part.relation AND NOT i.inhdetachpending
    ), member AS (
        SELECT c.oid AS relation, c.relkind, c.oid = reference_statements.relation AS is_root, k.convalidated
        FROM server s, part JOIN pg_class c ON c.oid = part.relation
        LEFT JOIN pg_constraint k ON k.conrelid = c.oid AND k.conname = reference_statements.name AND k.contype = 'f' AND k.conparentid = 0
            AND replace(regexp_replace(pg_get_constraintdef(k.oid), ' NOT VALID$', ''), ' (', '(') = replace(definition, ' (', '(')
        WHERE c.oid = reference_statements.relation OR s.version < 180000 AND c.relkind <> 'p' AND c.relispartition
    ), whole AS (
        SELECT (SELECT m.convalidated FROM member m WHERE m.is_root) IS NULL AS is_missing,
               (SELECT count(*) FROM member) * (SELECT count(*) FROM _tenancy.tree(reference_statements.parent)) <= 1000
               AND ((SELECT c.relkind <> 'p' FROM pg_class c WHERE c.oid = reference_statements.parent)
                    OR s.version NOT BETWEEN 150000 AND 150008 AND s.version NOT BETWEEN 160000 AND 160004 AND s.version <> 170000) AS is_by_parts
        FROM server s
    )
    SELECT array_agg(s.statement ORDER BY t.is_root, t.relation::regclass::text COLLATE "C", s.place)
    FROM (SELECT m.*, m.relkind <> 'p' OR v.version >= 180000 AS is_validated FROM member m, server v, whole w
          -- One that is not valid would not be taken over.
          WHERE m.is_root OR w.is_missing AND (w.is_by_parts OR NOT m.convalidated)) t,
        LATERAL (VALUES
            (1, CASE WHEN t.convalidated IS NULL
                THEN format('ALTER TABLE %s ADD CONSTRAINT %I %s', t.relation::regclass, name, definition) || CASE WHEN t.is_validated THEN ' NOT VALID;' ELSE ';' END END),
            (2, CASE WHEN t.is_validated AND t.convalidated IS NOT TRUE
                THEN format('ALTER TABLE %s VALIDATE CONSTRAINT %I;', t.relation::regclass, name) END)) AS s(place, statement)
    WHERE s.statement IS NOT NULL
$$;
COMMENT ON FUNCTION _tenancy.reference_statements(regclass, regclass, text, text) IS
'the statements that make a foreign key, none of which holds writers up for long but where, before 18, both tables have many partitions';

-- What to tell of the statements of a foreign key: where they are found, when a parent has a thousand partitions and they are thousands.
CREATE FUNCTION _tenancy.key_remedy(relation regclass, name name, statements text[]) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN cardinality(statements) <= 20 THEN array_to_string(statements, E'\n')
        ELSE format('SELECT unnest(statements) FROM tenancy.foreign_keys WHERE name = %L AND relation = %L::regclass;', name, relation) END
$$;
COMMENT ON FUNCTION _tenancy.key_remedy(regclass, name, text[]) IS 'the statements of a foreign key, or the query for them where they are many';

-- The foreign keys between protected tables whose rows have tenants, from or to a table (null for all), and how to give those that lack
-- it the tenant column. obstacle says why that cannot be done; statements are to be run one by one, each in a transaction of its own, and
-- none of them holds writers up for long, but for those that wait for open transactions and let writers wait behind them; by a role that is
-- exempt from row-level security, or PostgreSQL checks only the rows that it sees.
CREATE FUNCTION _tenancy.foreign_keys(relation regclass)
    RETURNS TABLE (relation regclass, name name, parent regclass, is_scoped boolean, obstacle text, is_owned boolean, bytes bigint,
                   statements text[])
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
    WITH keys AS (
        SELECT k.*, c.tenant_column AS child_column, p.tenant_column AS parent_column, c.kind AS child_kind, p.kind AS parent_kind,
               ca.attnum AS child_attnum, pa.attnum AS parent_attnum, ca.atttypid AS child_type, pa.atttypid AS parent_type,
               pg_has_role(cc.relowner, 'USAGE') AND pg_has_role(pc.relowner, 'USAGE') AS is_owned
        FROM pg_constraint k
        JOIN pg_class cc ON cc.oid = k.conrelid JOIN pg_class pc ON pc.oid = k.confrelid
        JOIN LATERAL _tenancy.protection(k.conrelid) c ON c.kind <> 'system'
        JOIN LATERAL _tenancy.protection(k.confrelid) p ON p.kind <> 'system'
        JOIN pg_attribute ca ON ca.attrelid = k.conrelid AND ca.attname = c.tenant_column
        JOIN pg_attribute pa ON pa.attrelid = k.confrelid AND pa.attname = p.tenant_column
        WHERE k.contype = 'f' AND k.conparentid = 0
          AND (foreign_keys.relation IS NULL OR EXISTS (SELECT FROM _tenancy.tree(foreign_keys.relation) t WHERE t.relation IN (k.conrelid, k.confrelid)))
    ), columns AS (
        SELECT k.oid,
               EXISTS (SELECT FROM unnest(k.conkey, k.confkey) AS p(child, parent)
                       WHERE p.child = k.child_attnum AND p.parent = k.parent_attnum) AS is_scoped,
               -- Whoever extends the key, perhaps a superuser, compares its columns: nothing of the owner's choice may run for that.
               NOT EXISTS (SELECT FROM unnest(k.conkey, k.confkey, k.conpfeqop) AS p(child, parent, operator)
                           JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = p.child
                           JOIN pg_attribute b ON b.attrelid = k.confrelid AND b.attnum = p.parent
                           WHERE a.atttypid <> b.atttypid OR a.atttypid >= 16384 OR p.operator >= 16384) AS is_plain,
               (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.place) FROM unnest(k.conkey) WITH ORDINALITY AS u(attnum, place)
                JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum) AS child_columns,
               (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.place) FROM unnest(k.confkey) WITH ORDINALITY AS u(attnum, place)
                JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum) AS parent_columns,
               (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY u.place)
                FROM unnest(coalesce(nullif(k.confdelsetcols, '{}'), k.conkey)) WITH ORDINALITY AS u(attnum, place)
                JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.attnum) AS set_columns,
               (SELECT array_agg(a.attname ORDER BY u.place)
                FROM unnest(k.confkey) WITH ORDINALITY AS u(attnum, place)
                JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.attnum) AS names,
               -- An index that PostgreSQL accepts as the target of the new key.
               EXISTS (SELECT FROM pg_index i WHERE i.indrelid = k.confrelid AND i.indisunique AND i.indisvalid AND i.indimmediate
                       AND i.indpred IS NULL AND i.indexprs IS NULL AND i.indnkeyatts = cardinality(k.confkey) + 1
                       AND (SELECT array_agg(n.attnum ORDER BY n.attnum) FROM unnest(i.indkey::smallint[]) WITH ORDINALITY AS n(attnum, place)
                            WHERE n.place <= i.indnkeyatts)
                           = (SELECT array_agg(n ORDER BY n) FROM unnest(k.confkey || k.parent_attnum) AS n)) AS has_target
        FROM keys k
    ), named AS (
        SELECT k.*, c.is_scoped, c.is_plain, c.has_target, k.child_attnum = ANY (k.conkey) OR k.parent_attnum = ANY (k.confkey) AS has_tenant_column, c.names,
               -- 18 has both.
               to_jsonb(k) ->> 'conperiod' = 'true' AS is_period, to_jsonb(k) ->> 'conenforced' = 'false' AS is_unenforced,
               CASE WHEN octet_length(k.conname) <= 55 THEN 'tenancy_' || k.conname ELSE format('tenancy_%s', k.oid) END AS new_name,
               format('FOREIGN KEY (%I, %s) REFERENCES %s (%I, %s)%s%s%s', k.child_column, c.child_columns, k.confrelid::regclass,
                      k.parent_column, c.parent_columns,
                      CASE k.confupdtype WHEN 'r' THEN ' ON UPDATE RESTRICT' WHEN 'c' THEN ' ON UPDATE CASCADE' END,
                      -- Not the tenant column as well, which is NOT NULL.
                      CASE k.confdeltype WHEN 'r' THEN ' ON DELETE RESTRICT' WHEN 'c' THEN ' ON DELETE CASCADE'
                          WHEN 'n' THEN format(' ON DELETE SET NULL (%s)', c.set_columns)
                          WHEN 'd' THEN format(' ON DELETE SET DEFAULT (%s)', c.set_columns) END,
                      CASE WHEN k.condeferred THEN ' DEFERRABLE INITIALLY DEFERRED' WHEN k.condeferrable THEN ' DEFERRABLE' END) AS definition
        FROM keys k JOIN columns c ON c.oid = k.oid
    )
    SELECT n.conrelid::regclass, n.conname, n.confrelid::regclass, n.is_scoped,
           CASE WHEN n.is_scoped THEN NULL
               WHEN n.parent_kind = 'shared' THEN 'rows of the referenced table may be everybody''s'
               WHEN n.child_kind = 'shared' THEN 'rows of the table may be everybody''s'
               WHEN n.child_type <> n.parent_type THEN 'the tenant columns are of different types'
               WHEN n.has_tenant_column THEN 'it has the tenant column of one of the tables in place of another column'
               WHEN n.is_period THEN 'it is a key of periods'
               WHEN n.is_unenforced THEN 'it is NOT ENFORCED'
               WHEN NOT n.is_plain THEN 'its columns are of different types, or of types that are not PostgreSQL''s own'
               WHEN n.confmatchtype = 'f' AND cardinality(n.conkey) > 1 THEN 'it is MATCH FULL'
               WHEN n.confupdtype IN ('n', 'd') THEN 'it is ON UPDATE SET NULL or SET DEFAULT' END,
           n.is_owned,
           (SELECT sum(pg_relation_size(t.relation)) FROM _tenancy.tree(n.conrelid) t)::bigint
               + (SELECT sum(pg_relation_size(t.relation)) FROM _tenancy.tree(n.confrelid) t)::bigint,
           CASE WHEN n.is_scoped OR n.has_tenant_column OR n.is_period OR n.is_unenforced OR NOT n.is_plain THEN '{}' ELSE
               _tenancy.key_statements(n.confrelid, n.parent_column || n.names, n.has_target)
               || _tenancy.reference_statements(n.conrelid, n.confrelid, n.new_name, n.definition)
               -- VALIDATE does nothing any more; it fails, and the key stays, where one of the statements before it failed.
               || ARRAY[format('ALTER TABLE %s VALIDATE CONSTRAINT %I, DROP CONSTRAINT %I;', n.conrelid::regclass, n.new_name, n.conname),
                        format('ALTER TABLE %s RENAME CONSTRAINT %I TO %I;', n.conrelid::regclass, n.new_name, n.conname)] END
    FROM named n
$$;
COMMENT ON FUNCTION _tenancy.foreign_keys(regclass) IS
'the foreign keys between protected tables, and how to give those that lack it the tenant column';

-- Gives the foreign keys from and to a table the tenant column, as protect asks for: auto does so where both tables are small, upgrade
-- always, keep never. Returns what it did; says what it did not, and what to type.
CREATE FUNCTION _tenancy.scope_foreign_keys(relation regclass, wish text) RETURNS text[]
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    item record;
    statement text;
    is_skipped boolean;
    was_skipped boolean;
    member regclass;
    forced regclass[];
    why text;
    done text[] := '{}';
BEGIN
    FOR item IN SELECT * FROM _tenancy.foreign_keys(scope_foreign_keys.relation) f WHERE NOT f.is_scoped ORDER BY f.relation::text, f.name LOOP
        why := CASE WHEN item.obstacle IS NOT NULL THEN item.obstacle
            WHEN wish = 'keep' THEN 'foreign_keys => ''keep'''
            WHEN NOT item.is_owned THEN format('only the owner of both %s and %s can change it', item.relation, item.parent)
            -- Two scans and a sort under the lock: a second or so.
            WHEN wish = 'auto' AND item.bytes > 64 * 1024 * 1024 THEN 'it would hold writers up for long' END;
        IF why IS NULL THEN
            BEGIN
                -- PostgreSQL checks the rows that are there under the policies of whoever asks, unless an owner is exempt from them.
                -- A table that has just been made has none, and nothing to fear from the policies of a tenant.
                forced := ARRAY(SELECT DISTINCT t.relation::regclass FROM unnest(ARRAY[item.relation, item.parent]) AS e(relation),
                                _tenancy.tree(e.relation) t WHERE row_security_active(t.relation) AND (
                                    tenancy.context() ->> 'error' IS NOT NULL OR EXISTS (
                                        SELECT FROM _tenancy.tree(item.relation) c WHERE pg_relation_size(c.relation) > 0)));
                FOREACH member IN ARRAY forced LOOP
                    PERFORM _tenancy.begin_change(member);
                    EXECUTE format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY', member);
                END LOOP;
                is_skipped := false;
                -- Read anew: the key before this one may have made the index that this one needs.
                FOR statement IN SELECT unnest(f.statements) FROM _tenancy.foreign_keys(item.relation) f
                                 WHERE f.relation = item.relation AND f.name = item.name LOOP
                    -- Nobody is spared by taking partition by partition in one transaction: no key of a partition, nor its VALIDATE, which is next.
                    was_skipped := is_skipped;
                    is_skipped := NOT was_skipped AND statement ~ ' NOT VALID;$' AND NOT starts_with(statement, format('ALTER TABLE %s ', item.relation));
                    CONTINUE WHEN was_skipped OR is_skipped;
                    EXECUTE regexp_replace(statement, '^(CREATE UNIQUE|DROP) INDEX CONCURRENTLY', '\1 INDEX');
                END LOOP;
                FOREACH member IN ARRAY forced LOOP
                    EXECUTE format('ALTER TABLE %s FORCE ROW LEVEL SECURITY', member);
                    PERFORM _tenancy.end_change(member);
                END LOOP;
                done := done || format('foreign key %I of %s extended by the tenant column', item.name, item.relation);
            EXCEPTION WHEN foreign_key_violation THEN
                why := 'rows reference nothing, or rows of other tenants: VALIDATE CONSTRAINT tells the first';
            END;
        END IF;
        IF why IS NOT NULL THEN
            RAISE NOTICE 'foreign key % of table % lets rows reference rows of another tenant', item.name, item.relation
                USING DETAIL = 'It is kept as it is: ' || why || '.',
                      HINT = CASE WHEN item.obstacle IS NULL
                          THEN E'To extend it, one by one, as a role that is exempt from row-level security:\n' || _tenancy.key_remedy(item.relation, item.name, item.statements)
                          WHEN item.obstacle !~ '^rows' THEN 'Change that first, then call protect again.'
                          ELSE 'No foreign key can tell these rows apart: check the reference in a trigger, or keep them in tables of their own.' END;
        END IF;
    END LOOP;
    RETURN done;
END
$$;
COMMENT ON FUNCTION _tenancy.scope_foreign_keys(regclass, text) IS
'gives the foreign keys from and to a table the tenant column';

CREATE VIEW tenancy.foreign_keys AS
    SELECT f.relation, f.name, f.parent, f.is_scoped, f.obstacle, f.statements FROM _tenancy.foreign_keys(NULL) f;
COMMENT ON VIEW tenancy.foreign_keys IS
'The foreign keys between protected tables whose rows have tenants: whether the tenant column is part of both sides (is_scoped), so that
no row can reference one of another tenant; if not, the statements that extend it, to be run one by one, each in a transaction of its own,
by a role that is exempt from row-level security; or the obstacle. Read it anew after each key, as two keys may need one index, and where a
statement failed or was interrupted: it lists what is left to do. ALTER INDEX ... ATTACH PARTITION waits for open transactions that use the
index of the partition, and readers and writers wait behind it. PUBLIC may read it.';
