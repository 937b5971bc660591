-- The rules of lint that look at keys: PostgreSQL checks them without regard to policies. Re-runnable.

-- Unique and exclusion constraints, and unique indexes, that hold across tenants: who inserts learns that a value is taken, and a
-- tenant can take the values of others.
-- Not reported but as info: surrogate keys, which is how nearly every table is made (_tenancy.is_surrogate_key). Nobody chooses a generated
-- number or a UUID, so nobody is kept from it. Any other key is natural, and a warning.
CREATE VIEW _tenancy.lint_unique AS
    WITH p AS MATERIALIZED (
        SELECT * FROM _tenancy.lint_protected WHERE kind <> 'system' AND attnum IS NOT NULL
    ), r AS MATERIALIZED (
        -- What refers to a key holds on to it.
        SELECT f.conindid, string_agg(format('%I of %s', f.conname, f.conrelid::regclass), ', ' ORDER BY f.conrelid::regclass::text, f.conname) AS referrers
        FROM pg_constraint f WHERE f.contype = 'f' AND f.conparentid = 0 GROUP BY f.conindid
    ), k AS MATERIALIZED (
        SELECT p.relation, p.oid, p.tenant_column, p.relkind, p.relname, i.indexrelid, x.relname AS index_name, i.indisprimary, i.indkey, i.indnkeyatts,
               c.conname, c.contype, pg_get_indexdef(i.indexrelid) AS definition,
               CASE WHEN c.condeferred THEN ' DEFERRABLE INITIALLY DEFERRED' WHEN c.condeferrable THEN ' DEFERRABLE' END AS deferrable,
               r.referrers,
               -- As the replacement of an expression.
               replace(quote_ident(p.tenant_column), '\', '\\') AS column_text
        FROM p JOIN pg_index i ON i.indrelid = p.oid AND (i.indisunique OR i.indisexclusion)
        JOIN pg_class x ON x.oid = i.indexrelid
        LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid AND c.conrelid = p.oid AND c.contype IN ('p', 'u', 'x')
        LEFT JOIN r ON r.conindid = i.indexrelid
        WHERE NOT p.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
          -- That of a partition comes from its parent.
          AND NOT EXISTS (SELECT FROM pg_inherits h WHERE h.inhrelid = i.indexrelid)
    ), judged AS (
        SELECT k.*,
               _tenancy.is_surrogate_key(k.indexrelid) AS surrogate,
               format('CREATE UNIQUE INDEX %I ON %s%s USING btree (', k.index_name, CASE WHEN k.relkind = 'p' THEN 'ONLY ' END, k.relation) AS head,
               CASE WHEN octet_length(k.index_name) + octet_length(k.tenant_column) < 63 THEN format('%s_%s', k.index_name, k.tenant_column)
                    ELSE format('%s_%s', left(k.index_name, 50), left(md5(k.index_name), 8)) END AS new_name
        FROM k
    )
    SELECT 'unique_across_tenants' AS rule, CASE WHEN j.surrogate THEN 'info' ELSE 'warning' END AS severity, j.relation::text AS object,
           format(CASE WHEN j.contype = 'x' THEN 'exclusion constraint %I spans tenants: one is kept out by rows of another that it cannot see'
                       WHEN j.surrogate THEN 'key %I spans tenants: an insertion tells that a number is taken'
                       ELSE 'key %I spans tenants: a value that one has is refused to the others, which tells them of it' END,
                  coalesce(j.conname, j.index_name)) AS problem,
           CASE WHEN j.referrers IS NOT NULL THEN format(E'-- First let %s refer to another key.\n', _tenancy.one_line(j.referrers)) ELSE '' END || CASE
               WHEN j.contype = 'x' THEN
                   -- = on the tenant column in a GiST index asks for btree_gist.
                   format(E'CREATE EXTENSION IF NOT EXISTS btree_gist;\nALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %I %s;', j.relation, j.conname, j.conname,
                          regexp_replace((SELECT pg_get_constraintdef(c.oid) FROM pg_constraint c WHERE c.conindid = j.indexrelid AND c.contype = 'x'),
                                         '\(', '(' || j.column_text || ' WITH =, '))
               WHEN j.relkind = 'p' AND j.conname IS NOT NULL THEN
                   -- Not CONCURRENTLY on a partitioned table.
                   format('ALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %I %s;', j.relation, j.conname, j.conname,
                          regexp_replace((SELECT pg_get_constraintdef(c.oid) FROM pg_constraint c WHERE c.conindid = j.indexrelid AND c.conrelid = j.oid AND c.contype IN ('p', 'u')),
                                         '\(', '(' || j.column_text || ', '))
               WHEN starts_with(j.definition, j.head) THEN
                   format('CREATE UNIQUE INDEX%s %I ON %s USING btree (%I, %s;', CASE WHEN j.relkind <> 'p' THEN ' CONCURRENTLY' END, j.new_name, j.relation,
                          j.tenant_column, substr(j.definition, length(j.head) + 1))
                   || CASE
                       WHEN j.conname IS NULL THEN format(E'\nDROP INDEX%s %I.%I;', CASE WHEN j.relkind <> 'p' THEN ' CONCURRENTLY' END,
                           (SELECT n.nspname FROM pg_class x JOIN pg_namespace n ON n.oid = x.relnamespace WHERE x.oid = j.indexrelid), j.index_name)
                       ELSE format(E'\nALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %I %s USING INDEX %I%s;', j.relation, j.conname, j.conname,
                           CASE j.contype WHEN 'p' THEN 'PRIMARY KEY' ELSE 'UNIQUE' END, j.new_name, j.deferrable)
                      END
               ELSE format('-- Make an index like %s that begins with %s, and drop this one.', _tenancy.one_line(quote_ident(j.index_name)), _tenancy.one_line(quote_ident(j.tenant_column)))
           END AS remedy,
           coalesce(j.conname, j.index_name)::text AS detail
    FROM judged j;
COMMENT ON VIEW _tenancy.lint_unique IS 'findings: unique and exclusion constraints that span tenants';

-- Foreign keys between rows of tenants that do not hold the two to be of one tenant: a row can point at another tenant's, and an insertion tells
-- whether that exists. And tables that point at rows of tenants, have no tenant column, and are granted: they hold what belongs to tenants.
CREATE VIEW _tenancy.lint_references AS
    WITH p AS MATERIALIZED (
        SELECT * FROM _tenancy.lint_protected
    ), f AS MATERIALIZED (
        SELECT k.conname, k.conrelid, k.confrelid, k.conkey, k.confkey, parent.relation AS parent, parent.tenant_column AS parent_column,
               parent.attnum AS parent_attnum
        FROM pg_constraint k JOIN p AS parent ON parent.oid = k.confrelid AND parent.kind <> 'system'
        WHERE k.contype = 'f' AND k.conparentid = 0
    )
    -- A row for everybody has no tenant, so no key with a tenant can point at it: only a recommendation.
    SELECT 'foreign_key_across_tenants' AS rule, CASE WHEN b.obstacle ~ '^rows' THEN 'info' ELSE 'warning' END AS severity, b.relation::text AS object,
           format('foreign key %I to %s does not hold the tenant: a row can point at another tenant''s, and an insertion tells whether that exists', b.name, b.parent) AS problem,
           CASE WHEN b.obstacle IS NULL THEN _tenancy.key_remedy(b.relation, b.name, b.statements)
                ELSE format('-- It cannot be extended, because %s. Change that, check the reference in a trigger, or accept this.', b.obstacle) END AS remedy,
           b.name::text AS detail
    FROM _tenancy.foreign_keys(NULL) b WHERE NOT b.is_scoped
    UNION ALL
    SELECT 'table_refers_to_tenants', 'warning', r.oid::regclass::text,
           format('is granted, has no tenant column, and refers to the protected table %s: whose are its rows?', f.parent),
           format(E'ALTER TABLE %s ADD COLUMN %I %s;\nUPDATE %s AS c SET %I = p.%I FROM %s AS p WHERE %s;\nSELECT tenancy.protect(%L%s);', r.oid::regclass, f.parent_column,
                  (SELECT format_type(a.atttypid, a.atttypmod) FROM pg_attribute a WHERE a.attrelid = f.confrelid AND a.attnum = f.parent_attnum),
                  r.oid::regclass, f.parent_column, f.parent_column, f.parent,
                  (SELECT string_agg(format('p.%I = c.%I', b.attname, a.attname), ' AND ' ORDER BY n.place)
                   FROM unnest(f.conkey, f.confkey) WITH ORDINALITY AS n(c, r, place)
                   JOIN pg_attribute a ON a.attrelid = f.conrelid AND a.attnum = n.c JOIN pg_attribute b ON b.attrelid = f.confrelid AND b.attnum = n.r),
                  r.oid::regclass, CASE WHEN f.parent_column <> 'tenant_id' THEN format(', tenant_column => %L', f.parent_column) END),
           f.conname::text
    FROM f JOIN _tenancy.lint_relations r ON r.oid = f.conrelid
    WHERE r.granted AND NOT EXISTS (SELECT FROM p WHERE p.oid = f.conrelid)
      -- With a tenant column it is named as an unprotected table.
      AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = f.conrelid AND a.attname IN ('tenant_id', f.parent_column) AND a.attnum > 0 AND NOT a.attisdropped);
COMMENT ON VIEW _tenancy.lint_references IS 'findings: foreign keys that do not hold the tenant';
