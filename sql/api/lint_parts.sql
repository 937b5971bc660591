-- What the rules of lint ask again and again, one question a view. Re-runnable. Nobody but the owner of the extension may
-- read them: tenancy.lint runs with his rights, and sees what a caller who is no superuser would not.
-- Everything is answered for all tables at once: lint is to take seconds on thousands of them.

-- A name in a comment of a remedy, which ends with its line: a name that does not would have whoever copies the remedy run the rest of it.
CREATE FUNCTION _tenancy.one_line(words text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT regexp_replace(words, '[[:cntrl:]]+', ' ', 'g')
$$;
COMMENT ON FUNCTION _tenancy.one_line(text) IS 'words without ends of lines';

-- The protected tables that exist, each with the top of its tree, and with the call that mends it. Partitions are mended with their parent.
CREATE VIEW _tenancy.lint_protected AS
    WITH RECURSIVE p AS MATERIALIZED (
        SELECT p.relation, p.relation::oid AS oid, p.kind, p.tenant_column, p.options, p.undo FROM _tenancy.protected p
    ), down(oid, root) AS (
        SELECT p.oid, p.oid FROM p
        WHERE NOT EXISTS (SELECT FROM pg_inherits i JOIN p AS parent ON parent.oid = i.inhparent WHERE i.inhrelid = p.oid)
        UNION
        SELECT i.inhrelid, d.root FROM down d JOIN pg_inherits i ON i.inhparent = d.oid
    ), tree AS MATERIALIZED (
        SELECT d.oid, min(d.root) AS root FROM down d GROUP BY d.oid
    )
    SELECT p.relation, p.oid, p.kind, p.tenant_column, p.options, p.undo, t.root::regclass AS root,
           c.relname, c.relnamespace, c.relkind, c.relowner, c.relacl, c.relrowsecurity, c.relforcerowsecurity,
           o.rolsuper OR o.rolbypassrls AS owner_bypasses,
           a.attnum, a.atttypid, a.attnotnull,
           format('SELECT tenancy.protect(%L%s%s%s);', t.root::regclass,
               CASE WHEN r.kind <> 'tenant' THEN format(', %L', r.kind) END,
               CASE WHEN r.tenant_column <> 'tenant_id' THEN format(', tenant_column => %L', r.tenant_column) END, m.options) AS mend,
           m.options AS mend_options
    FROM p JOIN tree t ON t.oid = p.oid JOIN p AS r ON r.oid = t.root
    CROSS JOIN LATERAL (SELECT concat(CASE WHEN (r.options ->> 'reference')::boolean THEN ', reference => true' END,
                                      CASE WHEN NOT (r.options ->> 'create_index')::boolean THEN ', create_index => false' END,
                                      ', access_policy => ' || (r.options ->> 'access_policy')) AS options) m
    JOIN pg_class c ON c.oid = p.oid
    JOIN pg_roles o ON o.oid = c.relowner
    LEFT JOIN pg_attribute a ON a.attrelid = p.oid AND a.attname = p.tenant_column AND a.attnum > 0 AND NOT a.attisdropped;
COMMENT ON VIEW _tenancy.lint_protected IS 'the protected tables, as the rules of lint look at them';

-- What is looked at besides: neither PostgreSQL's own, nor ours, nor an extension's, nor temporary.
CREATE VIEW _tenancy.lint_relations AS
    SELECT c.oid, c.relname, c.relnamespace, n.nspname, c.relkind, c.relowner, c.relacl, c.reloptions, c.relrowsecurity,
           o.rolsuper OR o.rolbypassrls AS owner_bypasses,
           EXISTS (SELECT FROM pg_options_to_table(c.reloptions) x
                   WHERE x.option_name = 'security_invoker' AND lower(x.option_value) IN ('true', 'on', 'yes', '1', 't', 'y', 'tr', 'tru', 'ye')) AS invoker,
           -- Granted to anybody but the owner, whole or in part.
           EXISTS (SELECT FROM aclexplode(c.relacl) x WHERE x.grantee <> c.relowner)
           OR EXISTS (SELECT FROM pg_attribute a, aclexplode(a.attacl) x
                      WHERE a.attrelid = c.oid AND a.attacl IS NOT NULL AND x.grantee <> c.relowner) AS granted
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_roles o ON o.oid = c.relowner
    WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'
      AND n.nspname !~ '^pg_' AND n.nspname NOT IN ('information_schema', 'tenancy', '_tenancy')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e');
COMMENT ON VIEW _tenancy.lint_relations IS 'the relations of users, as the rules of lint look at them';

-- Is a policy's or a publication's condition true of all rows? Not judged, but known by its form: true, a constant or a column that is NOT NULL
-- compared with itself or asked whether it is null, and an OR with one of them, at any depth of ORs. PostgreSQL writes each expression in parentheses:
-- from the innermost outwards, those of what is true become true, those of a name or a constant (a varchar is compared as text) go, others become ?.
CREATE FUNCTION _tenancy.lint_always_true(condition pg_node_tree, relation oid) RETURNS boolean
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    words text := pg_get_expr(condition, lint_always_true.relation);
    place integer;
    rest text;
    inside text;
    is_true boolean;
    part text;
    side text;
BEGIN
    -- Literals and quoted names by their md5, as no parenthesis and no OR in them is the condition's.
    IF words ~ '["'']' THEN
        SELECT string_agg(CASE WHEN l.first IN ('"', '''') THEN concat(l.first, md5(q.found[1]), l.first) ELSE q.found[1] END, '' ORDER BY q.place) INTO words
        FROM regexp_matches(words, '"(?:[^"]|"")*"|''(?:[^'']|'''')*''|[^"'']+', 'g') WITH ORDINALITY AS q(found, place), left(q.found[1], 1) AS l(first);
    END IF;
    LOOP
        -- The last that opens has no other in it.
        place := strpos(reverse(words), '(');
        EXIT WHEN place = 0 OR words IS NULL;
        rest := right(words, place - 1);
        inside := split_part(rest, ')', 1);
        words := left(words, -place);
        is_true := false;
        -- Not the arguments of a function.
        IF words !~ '[\w"]$' THEN
            FOREACH part IN ARRAY string_to_array(replace(inside, E' OR\n', ' OR '), ' OR ') LOOP
                side := split_part(part, ' = ', 1);
                IF part LIKE '% IS NOT NULL' THEN
                    side := left(part, -12);
                ELSIF part <> concat(side, ' = ', side) THEN
                    is_true := is_true OR part = 'true';
                    CONTINUE;
                END IF;
                is_true := is_true OR side ~ '^(''\w+''(::[\w ".\[\]:]+)?|[\d.]+|true|false)$' OR EXISTS (
                    SELECT FROM pg_attribute a
                    WHERE a.attrelid = lint_always_true.relation AND a.attnotnull
                      AND CASE WHEN quote_ident(a.attname) ~ '^"' THEN concat('"', md5(quote_ident(a.attname)), '"') ELSE a.attname END = regexp_replace(side, '::text$', ''));
            END LOOP;
            IF NOT is_true AND inside ~ '^(\w+|"\w+"|''\w+''(::[\w ".\[\]]+)?)$' THEN
                words := words || inside || substr(rest, length(inside) + 2);
                CONTINUE;
            END IF;
        END IF;
        words := words || CASE WHEN is_true THEN 'true' ELSE '?' END || substr(rest, length(inside) + 2);
    END LOOP;
    RETURN coalesce(words = 'true', false);
END
$$;
COMMENT ON FUNCTION _tenancy.lint_always_true(pg_node_tree, oid) IS 'whether a condition has one of the forms that are true of every row of the relation; false for null';

-- Where rows of tenants can be read: the protected tables, and all views on them, and on those.
CREATE VIEW _tenancy.lint_holders AS
    WITH RECURSIVE reads AS MATERIALIZED (
        SELECT DISTINCT w.ev_class AS reader, d.refobjid AS source, c.relkind = 'm' AS keeps
        FROM pg_rewrite w
        JOIN pg_class c ON c.oid = w.ev_class AND c.relkind IN ('v', 'm')
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
                        AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> w.ev_class
        WHERE w.oid >= 16384
    ), holder(oid, source, kept) AS (
        SELECT p.relation::oid, p.relation::oid, false FROM _tenancy.protected p WHERE p.kind <> 'system'
        UNION
        SELECT r.reader, h.source, h.kept OR r.keeps FROM holder h JOIN reads r ON r.source = h.oid
    )
    SELECT h.oid, min(h.source)::regclass AS source, count(DISTINCT h.source) AS sources, bool_or(h.kept) AS kept FROM holder h GROUP BY h.oid;
COMMENT ON VIEW _tenancy.lint_holders IS
'the protected tables and what reads them, with one of the tables; kept: from a materialized view, whom no policy applies to';

-- Who is a member of what, at any distance; settable: with SET ROLE. Before PostgreSQL 16 every membership allows that. A
-- membership that only lets its holder hand it on (ADMIN, as CREATE ROLE makes it) gives neither rights nor SET ROLE.
CREATE VIEW _tenancy.lint_memberships AS
    WITH RECURSIVE edge AS MATERIALIZED (
        SELECT m.member, m.roleid, coalesce((to_jsonb(m) ->> 'set_option')::boolean, true) AS settable,
               coalesce((to_jsonb(m) ->> 'inherit_option')::boolean, true) AS inherited
        FROM pg_auth_members m
    ), reach(member, role, settable) AS (
        SELECT e.member, e.roleid, e.settable FROM edge e WHERE e.settable OR e.inherited
        UNION
        SELECT r.member, e.roleid, r.settable AND e.settable
        FROM reach r JOIN edge e ON e.member = r.role AND (e.settable OR e.inherited)
    )
    SELECT r.member, r.role, bool_or(r.settable) AS settable FROM reach r WHERE r.member <> r.role GROUP BY r.member, r.role
    UNION ALL
    SELECT o.oid, o.oid, true FROM pg_roles o;
COMMENT ON VIEW _tenancy.lint_memberships IS 'every role with each role that it is or can be';

-- What is granted on protected tables to others than their owners.
CREATE VIEW _tenancy.lint_grants AS
    SELECT p.relation, p.kind, x.grantee, x.privilege_type AS privilege, NULL::name AS column_name
    FROM _tenancy.lint_protected p, aclexplode(p.relacl) x
    WHERE x.grantee <> p.relowner
    UNION ALL
    SELECT p.relation, p.kind, x.grantee, x.privilege_type, a.attname
    FROM pg_attribute a JOIN _tenancy.lint_protected p ON p.oid = a.attrelid, aclexplode(a.attacl) x
    WHERE a.attacl IS NOT NULL AND NOT a.attisdropped AND x.grantee <> p.relowner;
COMMENT ON VIEW _tenancy.lint_grants IS 'what is granted on protected tables to others than their owners';

-- The privileges on parameters that somebody has granted. PostgreSQL writes down those of its first superuser along with them.
CREATE VIEW _tenancy.lint_parameters AS
    SELECT p.parname AS parameter, x.privilege_type AS privilege, x.grantee,
           CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS grantee_name
    FROM pg_parameter_acl p, aclexplode(p.paracl) x
    WHERE x.grantee <> 10;
COMMENT ON VIEW _tenancy.lint_parameters IS 'the privileges on parameters that were granted';

-- The settings of roles and databases that reach sessions in this database.
CREATE VIEW _tenancy.lint_settings AS
    SELECT s.setrole, s.setdatabase, split_part(c.config, '=', 1) AS parameter, substr(c.config, strpos(c.config, '=') + 1) AS value
    FROM pg_db_role_setting s, unnest(s.setconfig) AS c(config)
    WHERE s.setdatabase IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()));
COMMENT ON VIEW _tenancy.lint_settings IS 'the settings of roles and databases that reach this database';

-- Through which roles do applications work? Through those that
--   * may set tenancy.tenant_id, because they or a role of theirs were granted it: nobody else needs that; or
--   * are bound to a tenant by ALTER ROLE ... SET tenancy.tenant_id; or
--   * can log in, and they or a role of theirs were granted something on a protected table that holds tenants' rows.
-- Not: owners as such, the roles that PostgreSQL comes with, and what PUBLIC was granted, which says nothing of anybody.
-- Where nothing is protected there are none.
CREATE VIEW _tenancy.lint_applications AS
    WITH member AS MATERIALIZED (
        SELECT * FROM _tenancy.lint_memberships
    ), setter AS (
        SELECT DISTINCT m.member FROM _tenancy.lint_parameters g JOIN member m ON m.role = g.grantee
        WHERE g.parameter = 'tenancy.tenant_id' AND g.privilege = 'SET'
    ), bound AS (
        SELECT DISTINCT s.setrole FROM _tenancy.lint_settings s WHERE s.parameter = 'tenancy.tenant_id' AND s.value <> '' AND s.setrole <> 0
    ), granted AS (
        SELECT m.member, bool_or(g.privilege IN ('INSERT', 'UPDATE', 'DELETE')) AS writes
        FROM (SELECT DISTINCT l.grantee, l.privilege FROM _tenancy.lint_grants l WHERE l.kind <> 'system') g
        JOIN member m ON m.role = g.grantee GROUP BY m.member
    )
    SELECT o.oid, o.rolname AS name, o.rolsuper, o.rolbypassrls, o.rolcanlogin, o.rolcreaterole, o.rolreplication,
           s.member IS NOT NULL AS may_set, b.setrole IS NOT NULL AS bound, g.member IS NOT NULL AS granted, coalesce(g.writes, false) AS writes
    FROM pg_roles o
    LEFT JOIN setter s ON s.member = o.oid
    LEFT JOIN bound b ON b.setrole = o.oid
    LEFT JOIN granted g ON g.member = o.oid
    WHERE o.oid >= 16384
      AND (s.member IS NOT NULL OR b.setrole IS NOT NULL OR g.member IS NOT NULL AND o.rolcanlogin)
      AND EXISTS (SELECT FROM _tenancy.protected p WHERE p.kind <> 'system');
COMMENT ON VIEW _tenancy.lint_applications IS 'the roles through which applications work';

-- The minor version that this server should at least be of; null where it is. Ways round row-level security or right beside it that were mended
-- in 2026: CVE-2026-14666 (cached plans after a change of role), -116311 (DROP OWNED and policies), -116312 (transition tables), -116327, -120154
-- and -16237 (ON CONFLICT), -116303.
CREATE FUNCTION _tenancy.lint_minor(version integer DEFAULT current_setting('server_version_num')::integer, OUT fixed text)
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT (SELECT format('%s.%s', f.major, f.minor) FROM (VALUES (15, 20), (16, 16), (17, 12), (18, 7)) AS f(major, minor)
            WHERE f.major = version / 10000 AND version % 10000 < f.minor)
$$;
COMMENT ON FUNCTION _tenancy.lint_minor(integer) IS 'the minor version with the fixes that a server of this version (server_version_num) lacks';

-- To whom EXECUTE of a function was granted by somebody: not to its owner, a superuser, or as it was made. What has no initial privileges
-- was made for PUBLIC.
CREATE FUNCTION _tenancy.lint_granted(function oid) RETURNS TABLE (to_whom text)
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
    FROM pg_proc f CROSS JOIN LATERAL aclexplode(f.proacl) a LEFT JOIN pg_roles o ON o.oid = a.grantee
    WHERE f.oid = lint_granted.function AND a.grantee <> f.proowner AND NOT coalesce(o.rolsuper, false)
      AND (a.grantee >= 16384 OR EXISTS (
          SELECT FROM pg_init_privs i
          WHERE i.classoid = 'pg_proc'::regclass AND i.objoid = f.oid
            AND NOT EXISTS (SELECT FROM aclexplode(i.initprivs) z WHERE (z.grantee, z.privilege_type) = (a.grantee, a.privilege_type))))
$$;
COMMENT ON FUNCTION _tenancy.lint_granted(oid) IS 'to whom a function was granted, beyond what it was made with';

-- As the library has it (src/pg/leakproof.rs).
CREATE FUNCTION _tenancy.library_of(function pg_proc) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE function.prolang WHEN 12 THEN '' WHEN 13 THEN regexp_replace(function.probin, '^\$libdir/', '') END
$$;
COMMENT ON FUNCTION _tenancy.library_of(pg_proc) IS 'the library that a function in C is in: empty for the server, null for other functions';
