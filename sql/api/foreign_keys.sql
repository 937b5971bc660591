-- Foreign keys between protected tables. PostgreSQL's checks of foreign keys see all rows, so a key without the tenant column lets a row
-- point at one of another tenant, and tells whether that exists. One that has it on both sides cannot. Re-runnable.

-- A name for the unique index of a table, or partition, that a foreign key is to reference: by numbers where it would be too long, or is taken.
CREATE FUNCTION _tenancy.key_name(relation regclass, columns text, key oid) RETURNS text
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE WHEN octet_length(n.name) <= 63 AND NOT EXISTS (SELECT FROM pg_class t WHERE t.relnamespace = c.relnamespace AND t.relname = n.name)
                THEN n.name ELSE format('tenancy_%s_%s_key', relation::oid, key) END
    FROM pg_class c, LATERAL (SELECT format('tenancy_%s_%s_key', c.relname, columns) AS name) n WHERE c.oid = relation
$$;
COMMENT ON FUNCTION _tenancy.key_name(regclass, text, oid) IS 'a name for a unique index that a foreign key is to reference';

-- Makes what a foreign key is to reference. A partitioned table gets an index of its partitions' indexes, each of which can be built
-- while rows are written; no constraint, which PostgreSQL could only make with all of them at once.
CREATE FUNCTION _tenancy.key_statements(relation regclass, columns text, names text, key oid) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT array_agg(s.statement ORDER BY t.depth, t.relation::text COLLATE "C", s.place)
    FROM (SELECT m.relation, m.depth, c.relkind, quote_ident(n.nspname) AS schema, quote_ident(_tenancy.key_name(m.relation, names, key)) AS name,
                 quote_ident(pn.nspname) || '.' || quote_ident(_tenancy.key_name(i.inhparent, names, key)) AS above
          FROM _tenancy.tree(key_statements.relation) m JOIN pg_class c ON c.oid = m.relation JOIN pg_namespace n ON n.oid = c.relnamespace
          LEFT JOIN (pg_inherits i JOIN pg_class p ON p.oid = i.inhparent JOIN pg_namespace pn ON pn.oid = p.relnamespace)
              ON i.inhrelid = m.relation AND p.relkind = 'p' AND m.depth > 0
          -- The index of a table that is inherited from is its own.
          WHERE m.depth = 0 OR p.relkind = 'p') t,
        LATERAL (VALUES
            (1, CASE t.relkind WHEN 'p' THEN format('CREATE UNIQUE INDEX %s ON ONLY %s (%s);', t.name, t.relation, columns)
                    ELSE format('CREATE UNIQUE INDEX CONCURRENTLY %s ON %s (%s);', t.name, t.relation, columns) END),
            (2, CASE WHEN t.depth > 0 THEN format('ALTER INDEX %s ATTACH PARTITION %s.%s;', t.above, t.schema, t.name)
                    WHEN t.relkind <> 'p' THEN format('ALTER TABLE %s ADD CONSTRAINT %s UNIQUE USING INDEX %s;', t.relation, t.name, t.name) END)) AS s(place, statement)
    WHERE s.statement IS NOT NULL
$$;
COMMENT ON FUNCTION _tenancy.key_statements(regclass, text, text, oid) IS
'the statements that make what a foreign key is to reference, none of which holds writers up for long';

-- Makes a foreign key. Before 18, one of a partitioned table cannot be NOT VALID at first, but takes over those of its partitions without
-- a look at their rows. Each of these has a constraint for each partition of the other table: too many where both have many.
CREATE FUNCTION _tenancy.reference_statements(relation regclass, parent regclass, name text, definition text) RETURNS text[]
    LANGUAGE sql STABLE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH server AS (SELECT current_setting('server_version_num')::integer AS version), member AS (
        SELECT m.relation, c.relkind, m.relation = reference_statements.relation AS is_root
        FROM server s, _tenancy.tree(reference_statements.relation) m JOIN pg_class c ON c.oid = m.relation
        WHERE m.relation = reference_statements.relation OR s.version < 180000 AND c.relkind <> 'p' AND c.relispartition
    )
    SELECT array_agg(s.statement ORDER BY t.is_root, t.relation::text COLLATE "C", s.place)
    FROM (SELECT m.relation, m.is_root, m.relkind <> 'p' OR v.version >= 180000 AS is_validated FROM member m, server v
          WHERE m.is_root OR (SELECT count(*) FROM member) * (SELECT count(*) FROM _tenancy.tree(reference_statements.parent)) <= 1000) t,
        LATERAL (VALUES
            (1, format('ALTER TABLE %s ADD CONSTRAINT %I %s', t.relation, name, definition) || CASE WHEN t.is_validated THEN ' NOT VALID;' ELSE ';' END),
            (2, CASE WHEN t.is_validated THEN format('ALTER TABLE %s VALIDATE CONSTRAINT %I;', t.relation, name) END)) AS s(place, statement)
    WHERE s.statement IS NOT NULL
$$;
COMMENT ON FUNCTION _tenancy.reference_statements(regclass, regclass, text, text) IS
'the statements that make a foreign key, none of which holds writers up for long but where, before 18, both tables have many partitions';

-- The foreign keys between protected tables whose rows have tenants, from or to a table (null for all), and how to give those that lack
-- it the tenant column. obstacle says why that cannot be done; statements are to be run one by one, each in a transaction of its own, and
-- none of them holds writers up for long, but for those that wait for open transactions and let writers wait behind them; by a role that is exempt from row-level security, or PostgreSQL checks only the rows that
-- it sees.
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
               (SELECT string_agg(a.attname, '_' ORDER BY u.place)
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
               format('%I, %s', k.parent_column, c.parent_columns) AS target_columns,
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
               WHEN NOT n.is_plain THEN 'its columns are of different types, or of types that are not PostgreSQL''s own'
               WHEN n.confmatchtype = 'f' AND cardinality(n.conkey) > 1 THEN 'it is MATCH FULL'
               WHEN n.confupdtype IN ('n', 'd') THEN 'it is ON UPDATE SET NULL or SET DEFAULT' END,
           n.is_owned,
           (SELECT sum(pg_relation_size(t.relation)) FROM _tenancy.tree(n.conrelid) t)::bigint
               + (SELECT sum(pg_relation_size(t.relation)) FROM _tenancy.tree(n.confrelid) t)::bigint,
           CASE WHEN n.is_scoped OR n.has_tenant_column OR NOT n.is_plain THEN '{}' ELSE
               CASE WHEN n.has_target THEN '{}' ELSE _tenancy.key_statements(n.confrelid, n.target_columns, n.names, n.oid) END
               || _tenancy.reference_statements(n.conrelid, n.confrelid, n.new_name, n.definition)
               || ARRAY[format('ALTER TABLE %s DROP CONSTRAINT %I;', n.conrelid::regclass, n.conname),
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
                -- Read anew: the key before this one may have made the index that this one needs.
                FOR statement IN SELECT unnest(f.statements) FROM _tenancy.foreign_keys(scope_foreign_keys.relation) f
                                 WHERE f.relation = item.relation AND f.name = item.name LOOP
                    -- Nobody is spared by taking partition by partition in one transaction.
                    CONTINUE WHEN statement ~ '(ADD CONSTRAINT .* FOREIGN KEY|VALIDATE CONSTRAINT) ' AND NOT starts_with(statement, format('ALTER TABLE %s ', item.relation));
                    EXECUTE regexp_replace(statement, '^CREATE UNIQUE INDEX CONCURRENTLY', 'CREATE UNIQUE INDEX');
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
                          THEN E'To extend it, one by one, as a role that is exempt from row-level security:\n' || array_to_string(item.statements, E'\n')
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
by a role that is exempt from row-level security; or the obstacle. PUBLIC may read it.';
