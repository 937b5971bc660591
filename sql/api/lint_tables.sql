-- The rules of lint that look at tables: is each protected that should be, and as protect left it? Re-runnable.
-- A view of findings has: rule, severity, object, problem, remedy, and what tells two findings on one object apart.

-- Tables that have the tenant column and are not protected. The column is known by its name: tenant_id, or the name and type that the
-- column of a protected table has. A partition is named by its parent.
CREATE VIEW _tenancy.lint_unprotected AS
    WITH known AS MATERIALIZED (
        SELECT 'tenant_id'::name AS name, NULL::oid AS type, NULL::oid AS schema
        UNION
        SELECT s.tenant_column, NULL, n.oid FROM _tenancy.protected_schemas s JOIN pg_namespace n ON n.nspname = s.schema
        UNION
        SELECT p.tenant_column, p.atttypid, NULL FROM _tenancy.lint_protected p WHERE p.tenant_column NOT IN ('id', 'name')
    ), candidate AS MATERIALIZED (
        SELECT DISTINCT ON (r.oid) r.oid::regclass AS relation, r.relkind, r.granted, r.relrowsecurity, a.attname, a.atttypid, a.atttypmod,
               EXISTS (SELECT FROM pg_policy y WHERE y.polrelid = r.oid) AS policies,
               EXISTS (SELECT FROM pg_policy y WHERE y.polrelid = r.oid AND y.polpermissive AND _tenancy.lint_always_true(y.polqual, y.polrelid))
               AND NOT EXISTS (SELECT FROM pg_policy y WHERE y.polrelid = r.oid AND NOT y.polpermissive) AS open
        FROM known k
        JOIN pg_attribute a ON a.attname = k.name AND (k.type IS NULL OR k.type = a.atttypid) AND a.attnum > 0 AND NOT a.attisdropped
        JOIN _tenancy.lint_relations r ON r.oid = a.attrelid AND (k.schema IS NULL OR k.schema = r.relnamespace)
        WHERE NOT EXISTS (SELECT FROM _tenancy.protected p WHERE p.relation = r.oid)
        ORDER BY r.oid, a.attname <> 'tenant_id', a.attnum
    ), found AS MATERIALIZED (
        -- What is named with its parent is not named again. A foreign table is no part of what protects its parent.
        SELECT * FROM candidate f
        WHERE NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = f.relation AND (
                  i.inhparent IN (SELECT c.relation FROM candidate c)
                  OR f.relkind <> 'f' AND i.inhparent IN (SELECT p.relation FROM _tenancy.protected p)))
    )
    SELECT 'tenant_column_type' AS rule, CASE WHEN f.granted THEN 'error' ELSE 'warning' END AS severity, f.relation::text AS object,
           format('column %I is of type %s, which cannot be a tenant column: its = is not leakproof, or cannot be compared with a tenant id',
                  f.attname, format_type(f.atttypid, f.atttypmod)) AS problem,
           format(E'ALTER TABLE %s ALTER COLUMN %I TYPE %s;\nSELECT tenancy.protect(%L%s);', f.relation, f.attname,
                  CASE WHEN f.atttypid IN ('numeric'::regtype, 'smallint'::regtype) THEN 'bigint'
                       WHEN f.atttypid IN ('json'::regtype, 'jsonb'::regtype) THEN format('text USING %I #>> ''{}''', f.attname)
                       ELSE format('text USING %I::text', f.attname) END,
                  f.relation, CASE WHEN f.attname <> 'tenant_id' THEN format(', tenant_column => %L', f.attname) END) AS remedy,
           NULL::text AS detail
    FROM found f
    WHERE f.relkind IN ('r', 'p')
      AND f.atttypid NOT IN ('text'::regtype, 'varchar'::regtype, 'uuid'::regtype, 'bigint'::regtype, 'integer'::regtype)
    UNION ALL
    -- Granted to nobody yet, it is a hole as soon as it is. With policies of its own, it is not watched.
    SELECT 'table_unprotected', CASE WHEN f.granted AND (f.open OR NOT f.relrowsecurity) THEN 'error' ELSE 'warning' END, f.relation::text,
           format('has the tenant column %I and is not protected%s', f.attname,
                  CASE WHEN f.relrowsecurity AND f.policies AND NOT f.open THEN ': it has policies of its own, which nothing watches'
                       WHEN f.relrowsecurity AND NOT f.policies THEN ': it has no policy either, so it shows nothing but to its owner'
                       WHEN f.granted THEN ': whoever it is granted to reads all tenants'' rows'
                       ELSE '; it is granted to nobody yet' END),
           format('SELECT tenancy.protect(%L%s);', top.oid::regclass,
                  CASE WHEN f.attname <> 'tenant_id' THEN format(', tenant_column => %L', f.attname) END),
           NULL
    FROM found f,
         -- With its parents, or not at all.
         LATERAL (WITH RECURSIVE up(oid) AS (SELECT f.relation::oid UNION SELECT i.inhparent FROM up u JOIN pg_inherits i ON i.inhrelid = u.oid)
                  SELECT min(u.oid) AS oid FROM up u WHERE NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = u.oid)) top
    WHERE f.relkind IN ('r', 'p')
      AND f.atttypid IN ('text'::regtype, 'varchar'::regtype, 'uuid'::regtype, 'bigint'::regtype, 'integer'::regtype)
    UNION ALL
    SELECT 'foreign_table', CASE WHEN f.granted THEN 'warning' ELSE 'info' END, f.relation::text,
           format('has the tenant column %I, and row-level security does not reach a foreign table%s', f.attname,
                  CASE WHEN f.granted THEN '' ELSE '; it is granted to nobody yet' END),
           format(E'-- Protect the table on the remote server, or keep this one from applications:\nREVOKE ALL ON %s FROM PUBLIC%s;', f.relation,
                  (SELECT string_agg(DISTINCT ', ' || quote_ident(pg_get_userbyid(x.grantee)), '')
                   FROM pg_class c, aclexplode(c.relacl) x WHERE c.oid = f.relation AND x.grantee NOT IN (0, c.relowner))),
           NULL
    FROM found f
    WHERE f.relkind = 'f'
    UNION ALL
    -- Tables without the column: either for everybody, or forgotten. Only a recommendation, because lint cannot know.
    SELECT 'table_uncategorised', 'info', r.oid::regclass::text,
           'is granted, has no tenant column and is of no kind: is it the same for all tenants?',
           format('SELECT tenancy.protect(%L, ''system'');', r.oid::regclass), NULL
    FROM _tenancy.lint_relations r
    WHERE r.relkind IN ('r', 'p') AND r.granted
      AND NOT EXISTS (SELECT FROM _tenancy.protected p WHERE p.relation = r.oid)
      AND NOT EXISTS (SELECT FROM found f WHERE f.relation = r.oid)
      AND NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = r.oid)
      AND EXISTS (SELECT FROM _tenancy.protected p WHERE p.kind <> 'system');
COMMENT ON VIEW _tenancy.lint_unprotected IS 'findings: tables with the tenant column that are not protected';

-- What _tenancy.drift says of each table, for all at once, with a rule for each kind of difference. The two are compared by a test.
CREATE VIEW _tenancy.lint_drift AS
    WITH p AS MATERIALIZED (
        SELECT * FROM _tenancy.lint_protected
    ), shape AS MATERIALIZED (
        -- What protect writes depends on the column's name and type alone.
        SELECT s.tenant_column, s.atttypid, _tenancy.isolation(s.one, s.tenant_column) AS isolation,
               _tenancy.column_default(s.one, s.tenant_column) AS column_default
        FROM (SELECT p.tenant_column, p.atttypid, min(p.oid)::regclass AS one FROM p WHERE p.attnum IS NOT NULL
              GROUP BY p.tenant_column, p.atttypid) s
    ), t AS MATERIALIZED (
        SELECT p.*, s.isolation, s.column_default FROM p
        LEFT JOIN shape s ON s.tenant_column = p.tenant_column AND s.atttypid = p.atttypid
        WHERE p.kind <> 'system'
    ), wanted AS MATERIALIZED (
        SELECT k.kind, k.tenant_column, k.isolation, w.*
        FROM (SELECT DISTINCT t.kind, t.tenant_column, t.isolation FROM t WHERE t.isolation IS NOT NULL) k,
             LATERAL _tenancy.policies(k.kind, k.isolation, k.tenant_column) w
    ), present AS MATERIALIZED (
        SELECT y.polrelid, y.polname, y.polpermissive,
               CASE y.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END AS command,
               pg_get_expr(y.polqual, y.polrelid) AS using_expr,
               _tenancy.check_as_made(y.polname, pg_get_expr(y.polqual, y.polrelid), pg_get_expr(y.polwithcheck, y.polrelid)) AS check_expr,
               y.polroles <> '{0}' AS altered
        FROM pg_policy y
        WHERE y.polname IN ('tenancy_isolation', 'tenancy_insert', 'tenancy_update', 'tenancy_delete', 'tenancy_access')
    ), lead_index AS MATERIALIZED (
        SELECT i.indrelid, i.indkey[0] AS attnum
        FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am m ON m.oid = c.relam AND m.amname IN ('btree', 'hash')
        WHERE i.indisvalid AND i.indpred IS NULL
    ), difference(oid, rule, severity, problem) AS (
        SELECT t.oid, 'tenant_column_missing', 'error', format('column %I is missing or of another type', t.tenant_column)
        FROM t WHERE t.isolation IS NULL
        UNION ALL
        SELECT t.oid, 'row_security_disabled', 'error', 'row-level security is disabled' FROM t WHERE NOT t.relrowsecurity
        UNION ALL
        SELECT t.oid, 'row_security_not_forced', 'error', 'row-level security is not forced' FROM t WHERE NOT t.relforcerowsecurity
        UNION ALL
        SELECT t.oid, 'tenant_column_nullable', 'warning', format('column %I may be null', t.tenant_column)
        FROM t WHERE t.kind <> 'shared' AND NOT t.attnotnull
        UNION ALL
        SELECT t.oid, 'default_missing', 'warning', format('column %I lost its default', t.tenant_column)
        FROM t WHERE (t.undo ->> 'default')::boolean AND t.isolation IS NOT NULL AND NOT EXISTS (
            SELECT FROM pg_attrdef d
            WHERE d.adrelid = t.oid AND d.adnum = t.attnum AND strpos(pg_get_expr(d.adbin, d.adrelid), t.column_default) > 0)
        UNION ALL
        SELECT t.oid, 'index_missing', 'warning', format('no index leads with column %I', t.tenant_column)
        FROM t WHERE (t.options ->> 'create_index')::boolean AND t.isolation IS NOT NULL
          AND NOT EXISTS (SELECT FROM lead_index l WHERE l.indrelid = t.oid AND l.attnum = t.attnum)
        UNION ALL
        SELECT t.oid, 'reference_missing', 'warning', 'foreign key to the registry is missing'
        FROM t WHERE (t.options ->> 'reference')::boolean AND NOT EXISTS (
            SELECT FROM pg_constraint k WHERE k.conrelid = t.oid AND k.contype = 'f' AND k.confrelid = '_tenancy.tenants'::regclass)
        UNION ALL
        SELECT t.oid, CASE WHEN n.polname IS NULL THEN 'policy_missing' ELSE 'policy_altered' END,
               -- tenancy_access only lets through what the others leave.
               CASE WHEN w.name = 'tenancy_access' THEN 'warning' ELSE 'error' END,
               format(CASE WHEN n.polname IS NULL THEN 'policy %I is missing' ELSE 'policy %I was altered' END, w.name)
        FROM t JOIN wanted w ON w.kind = t.kind AND w.tenant_column = t.tenant_column AND w.isolation = t.isolation
        LEFT JOIN present n ON n.polrelid = t.oid AND n.polname = w.name
        WHERE (w.name <> 'tenancy_access' OR (t.undo ->> 'access')::boolean)
          AND (n.polname IS NULL OR n.altered OR (w.permissive, w.command, w.using_expr, w.check_expr)
               IS DISTINCT FROM (n.polpermissive, n.command, n.using_expr, n.check_expr))
        UNION ALL
        SELECT p.oid, 'guard_missing', 'error', 'trigger tenancy_guard is missing, disabled or altered'
        FROM p JOIN (SELECT k.kind, g.tgtype, g.function::regproc::oid AS tgfoid FROM (VALUES ('tenant'), ('shared'), ('audit'), ('system')) k(kind), LATERAL _tenancy.guard(k.kind) g) g
          ON g.kind = p.kind
        WHERE NOT EXISTS (
            SELECT FROM pg_trigger r
            WHERE r.tgrelid = p.oid AND r.tgname = 'tenancy_guard' AND r.tgenabled = 'A' AND r.tgtype = g.tgtype
              AND r.tgqual IS NULL AND r.tgattr = ''::int2vector AND r.tgfoid = g.tgfoid)
        UNION ALL
        -- What is granted on the parent reaches its rows through the parent, under the parent's policies.
        SELECT p.oid, 'partition_unprotected', CASE WHEN r.granted THEN 'error' ELSE 'warning' END, format('%s is not protected: a query that names it knows no policy', i.inhrelid::regclass)
        FROM p JOIN pg_inherits i ON i.inhparent = p.oid LEFT JOIN _tenancy.lint_relations r ON r.oid = i.inhrelid
        WHERE NOT EXISTS (SELECT FROM p AS q WHERE q.oid = i.inhrelid)
          AND NOT EXISTS (SELECT FROM pg_foreign_table f WHERE f.ftrelid = i.inhrelid)
        UNION ALL
        SELECT f.oid, 'kind_differs', 'error', format('its %s %s is of kind %s%s', f.is, q.relation, q.kind, format(', by column %I', q.tenant_column))
        FROM (SELECT i.inhrelid AS oid, i.inhparent AS other, 'parent' AS is FROM pg_inherits i
              UNION ALL SELECT i.inhparent, i.inhrelid, 'child' FROM pg_inherits i) f JOIN p ON p.oid = f.oid JOIN p AS q ON q.oid = f.other
        WHERE (p.kind, p.tenant_column) IS DISTINCT FROM (q.kind, q.tenant_column)
        UNION ALL
        SELECT p.oid, 'meter_missing', 'warning', format('lacks triggers of the meter for %s', m.resource)
        FROM _tenancy.meters m JOIN p ON p.root = m.relation
        LEFT JOIN (SELECT g.tgrelid, count(*) AS triggers FROM pg_trigger g
                   WHERE g.tgfoid = '_tenancy.meter_rows()'::regprocedure AND g.tgenabled = 'A' GROUP BY g.tgrelid) g ON g.tgrelid = p.oid
        WHERE coalesce(g.triggers, 0) < 4
    )
    SELECT d.rule, d.severity, p.relation::text AS object, d.problem,
           CASE d.rule
               WHEN 'tenant_column_missing' THEN
                   -- By the column that its policy is on. In one statement, so that the table is never open.
                   format('%sSELECT tenancy.unprotect(%L), tenancy.protect(%L, %L, tenant_column => %L%s);',
                          CASE WHEN c.name IS NULL THEN E'-- Bring it back, or by its new column:\n-- ' END, p.root, p.root, p.kind, coalesce(c.name, '...'), p.mend_options)
               WHEN 'meter_missing' THEN
                   format('SELECT tenancy.unmeter(m.relation, m.resource), tenancy.meter(m.relation, m.resource, m.measure) FROM tenancy.meters m WHERE m.relation = %L::regclass;', p.root)
               ELSE p.mend END AS remedy,
           CASE WHEN d.rule IN ('policy_missing', 'policy_altered', 'partition_unprotected', 'kind_differs', 'meter_missing') THEN d.problem END AS detail
    FROM difference d JOIN p ON p.oid = d.oid
    LEFT JOIN LATERAL (SELECT _tenancy.isolated_column(p.root) AS name WHERE d.rule = 'tenant_column_missing') c ON true
    UNION ALL
    -- The other way round: a parent that is not protected shows what its protected child hides.
    SELECT 'parent_unprotected', 'error', i.inhparent::regclass::text,
           format('is a parent of the protected table %s, and is not protected: a query that names the parent uses no policy of its children', p.relation),
           format('SELECT tenancy.protect(%L, %L%s);', i.inhparent::regclass, p.kind, ', ' || quote_literal(p.tenant_column)), p.relation::text
    FROM p JOIN pg_inherits i ON i.inhrelid = p.oid
    WHERE NOT EXISTS (SELECT FROM p AS q WHERE q.oid = i.inhparent)
    UNION ALL
    SELECT 'table_gone', 'info', g.relation::text, 'was protected and does not exist any more',
           format('DELETE FROM _tenancy.protected WHERE relation::oid = %s;', g.relation::oid), NULL
    FROM _tenancy.protected g WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = g.relation);
COMMENT ON VIEW _tenancy.lint_drift IS 'findings: protected tables that are not as protect left them';

-- Policies of users on protected tables. Behind the restrictive one they open nothing; but some do not do what they look like.
CREATE VIEW _tenancy.lint_policies AS
    WITH p AS MATERIALIZED (
        SELECT * FROM _tenancy.lint_protected WHERE kind <> 'system'
    ), own AS MATERIALIZED (
        SELECT y.oid, y.polname, y.polpermissive, p.relation, p.tenant_column, p.mend,
               y.polqual IS NOT NULL AS has_using, _tenancy.lint_always_true(y.polqual, y.polrelid) AS using_open,
               y.polwithcheck IS NOT NULL AS has_check, _tenancy.lint_always_true(y.polwithcheck, y.polrelid) AS check_open,
               EXISTS (SELECT FROM pg_policy a WHERE a.polrelid = y.polrelid AND a.polname = 'tenancy_access') AS access
        FROM pg_policy y JOIN p ON p.oid = y.polrelid
        WHERE y.polname NOT IN ('tenancy_isolation', 'tenancy_insert', 'tenancy_update', 'tenancy_delete', 'tenancy_access')
    )
    SELECT 'policy_open' AS rule, 'warning' AS severity, o.relation::text AS object,
           format('permissive policy %I lets everything through: only tenancy_isolation keeps the tenants apart', o.polname) AS problem,
           format('DROP POLICY %I ON %s;', o.polname, o.relation) AS remedy, o.polname::text AS detail
    FROM own o
    WHERE o.polpermissive AND (o.using_open OR o.check_open)
    UNION ALL
    -- Permissive policies are OR-ed, so one beside tenancy_access narrows nothing, which is what its author meant it to do.
    SELECT 'policy_idle', 'warning', o.relation::text,
           format('permissive policy %I has no effect: policy tenancy_access lets through what it would hide', o.polname),
           regexp_replace(o.mend, '(, access_policy => \w+)?\);$', ', access_policy => false);'), o.polname::text
    FROM own o
    WHERE o.polpermissive AND o.access AND NOT (o.using_open OR o.check_open)
    UNION ALL
    SELECT 'policy_idle', 'warning', o.relation::text, format('restrictive policy %I is always true, and so narrows nothing', o.polname),
           format('DROP POLICY %I ON %s;', o.polname, o.relation), o.polname::text
    FROM own o
    WHERE NOT o.polpermissive AND (o.using_open OR NOT o.has_using) AND (o.check_open OR NOT o.has_check)
    UNION ALL
    -- On its nodes, Citus has no policy that narrows.
    SELECT 'distributed_open', 'error', d.relation::regclass::text, format('is distributed by Citus: %s', x.problem),
           CASE WHEN t.kind = 'tenant' THEN format('SELECT tenancy.distribute(%L);', d.relation::regclass)
                ELSE format('SELECT undistribute_table(%L);', d.relation::regclass) END, x.problem
    FROM _tenancy.distributed_tables() d JOIN _tenancy.lint_protected t ON t.oid = d.relation,
         LATERAL _tenancy.distribution_problem(t.relation, t.kind, t.tenant_column) AS x(problem)
    WHERE x.problem IS NOT NULL
    UNION ALL
    -- An IMMUTABLE function is evaluated when a statement is planned: a cached plan keeps the tenant that it was planned for.
    SELECT 'immutable_context', 'error', y.polrelid::regclass::text,
           format('policy %I calls %s, which is IMMUTABLE and reads the session: a cached plan keeps its first answer', y.polname, f.oid::regprocedure),
           format('ALTER FUNCTION %s STABLE;', f.oid::regprocedure), concat_ws(' ', quote_ident(y.polname), f.oid::regprocedure)
    FROM pg_policy y
    JOIN pg_depend d ON d.classid = 'pg_policy'::regclass AND d.objid = y.oid AND d.refclassid = 'pg_proc'::regclass
    JOIN pg_proc f ON f.oid = d.refobjid AND f.provolatile = 'i' AND f.oid >= 16384
    WHERE f.prosrc ~* '\m(current_setting|current_tenant|current_tenant_uuid|current_tenant_bigint|current_user_id|has_role)\M'
       OR EXISTS (SELECT FROM pg_depend e JOIN pg_proc g ON g.oid = e.refobjid
                  WHERE e.classid = 'pg_proc'::regclass AND e.objid = f.oid AND e.refclassid = 'pg_proc'::regclass
                    AND g.proname IN ('current_setting', 'current_tenant', 'current_tenant_uuid', 'current_tenant_bigint', 'current_user_id', 'has_role'));
COMMENT ON VIEW _tenancy.lint_policies IS 'findings: policies of users that do not do what they look like';

-- Privileges that go round policies, and those on what belongs to a table.
CREATE VIEW _tenancy.lint_privileges AS
    SELECT 'unsafe_grant' AS rule,
           CASE WHEN g.privilege = 'MAINTAIN' THEN 'info' ELSE 'error' END AS severity,
           g.relation::text AS object,
           format('%s%s is granted to %s: %s', g.privilege, ' (' || quote_ident(g.column_name) || ')', x.grantee,
                  CASE g.privilege WHEN 'TRUNCATE' THEN 'no policy applies to it, and it empties the table for all tenants'
                      WHEN 'REFERENCES' THEN 'a foreign key of the grantee''s asks for values without regard to policies'
                      WHEN 'TRIGGER' THEN 'a trigger of the grantee''s runs in the sessions of others'
                      ELSE 'it locks the table for all tenants' END) AS problem,
           format('REVOKE %s%s ON %s FROM %s CASCADE;', g.privilege, ' (' || quote_ident(g.column_name) || ')', g.relation, x.grantee) AS remedy,
           concat_ws(' ', g.privilege, g.column_name, x.grantee) AS detail
    FROM _tenancy.lint_grants g, LATERAL (SELECT CASE g.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(g.grantee)) END) x(grantee)
    WHERE g.privilege IN ('TRUNCATE', 'REFERENCES', 'MAINTAIN') AND g.kind <> 'system' OR g.privilege = 'TRIGGER'
    UNION ALL
    -- USAGE is enough for nextval; with UPDATE, setval takes the numbers back, and the insertions of all tenants fail.
    SELECT 'sequence_update', 'warning', s.oid::regclass::text,
           format('UPDATE on a sequence of %s is granted to %s: setval breaks the insertions of all tenants', p.relation, y.grantee),
           format(E'REVOKE UPDATE ON SEQUENCE %s FROM %s;\nGRANT USAGE ON SEQUENCE %s TO %s;', s.oid::regclass, y.grantee, s.oid::regclass, y.grantee),
           y.grantee
    FROM pg_class s
    JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = s.oid AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
    JOIN _tenancy.protected p ON p.relation = d.refobjid AND p.kind <> 'system'
    CROSS JOIN LATERAL aclexplode(s.relacl) x
    CROSS JOIN LATERAL (SELECT CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END) y(grantee)
    WHERE s.relkind = 'S' AND x.privilege_type = 'UPDATE' AND x.grantee <> s.relowner;
COMMENT ON VIEW _tenancy.lint_privileges IS 'findings: privileges that go round policies';
