-- The rules of lint that look at what reads or copies protected tables with other rights than its caller's. Re-runnable.
-- What runs with the rights of an owner whom policies bind is filtered, because row-level security is forced; so only owners that bypass matter.

-- The functions of users, with their texts; without comments.
CREATE VIEW _tenancy.lint_routines AS
    SELECT f.oid, f.oid::regprocedure::text AS name, f.proowner, l.lanname AS language, f.prosecdef, f.prosqlbody IS NOT NULL AS parsed, f.proconfig,
           o.rolsuper OR o.rolbypassrls AS owner_bypasses, o.rolsuper AS owner_superuser,
           f.prosecdef AND (o.rolsuper OR o.rolbypassrls) AS bypasses,
           f.proacl IS NULL OR EXISTS (SELECT FROM aclexplode(f.proacl) x WHERE x.grantee <> f.proowner) AS executable,
           CASE WHEN l.lanname NOT IN ('c', 'internal') THEN
               regexp_replace(regexp_replace(coalesce(pg_get_function_sqlbody(f.oid), f.prosrc), '/\*.*?\*/', ' ', 'g'), '--[^\n]*', ' ', 'g') END AS body,
           left(md5(coalesce(pg_get_function_sqlbody(f.oid), f.prosrc)), 8) AS print
    FROM pg_proc f JOIN pg_language l ON l.oid = f.prolang JOIN pg_roles o ON o.oid = f.proowner
    JOIN pg_namespace n ON n.oid = f.pronamespace
    WHERE f.oid >= 16384 AND n.nspname NOT IN ('tenancy', '_tenancy', 'pg_catalog', 'information_schema')
      AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.deptype = 'e');
COMMENT ON VIEW _tenancy.lint_routines IS 'the functions of users';

-- Those that run with the rights of an owner who bypasses policies, or that a table fires.
CREATE VIEW _tenancy.lint_functions AS
    SELECT f.* FROM _tenancy.lint_routines f
    WHERE f.prosecdef OR f.oid IN (SELECT t.tgfoid FROM pg_trigger t WHERE NOT t.tgisinternal);
COMMENT ON VIEW _tenancy.lint_functions IS 'the functions of users that may go round policies';

-- The functions that materialized views read through.
CREATE VIEW _tenancy.lint_kept_functions AS
    SELECT r.oid AS relation, d.refobjid AS function
    FROM _tenancy.lint_relations r JOIN pg_rewrite w ON w.ev_class = r.oid
    JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_proc'::regclass
    WHERE r.relkind = 'm' AND d.refobjid >= 16384;
COMMENT ON VIEW _tenancy.lint_kept_functions IS 'the functions that materialized views read through';

-- What is called, at any distance, with the rights of an owner who bypasses policies, for a materialized view, or by a trigger: by a parsed body
-- or by a text, where a name before a parenthesis is a call. A function that runs as an owner whom policies bind ends it.
CREATE VIEW _tenancy.lint_reach AS
    WITH RECURSIVE reach(root, oid, parsed) AS (
        SELECT f.oid, f.oid, true FROM _tenancy.lint_functions f WHERE f.bypasses AND f.executable
        UNION
        SELECT k.function, k.function, true FROM _tenancy.lint_kept_functions k
        UNION
        SELECT t.tgfoid, t.tgfoid, true
        FROM pg_trigger t JOIN _tenancy.protected p ON p.relation = t.tgrelid AND p.kind <> 'system'
        JOIN _tenancy.lint_functions f ON f.oid = t.tgfoid
        WHERE NOT t.tgisinternal
        UNION
        -- Only the texts of what is reached are looked through: a database may have many functions.
        SELECT r.root, c.callee, r.parsed AND c.parsed
        FROM reach r
        CROSS JOIN LATERAL (
            SELECT p.oid AS callee, false AS parsed
            FROM _tenancy.lint_routines f
            CROSS JOIN LATERAL (
                SELECT DISTINCT CASE WHEN m[2] IS NOT NULL THEN replace(m[2], '""', '"') ELSE lower(m[3]) END AS qualifier,
                       CASE WHEN m[4] IS NOT NULL THEN replace(m[4], '""', '"') ELSE lower(m[5]) END AS word
                FROM regexp_matches(f.body, '((?:"((?:[^"]|"")+)"|([[:alpha:]_][[:alnum:]_$]*))\s*\.\s*)?(?:"((?:[^"]|"")+)"|([[:alpha:]_][[:alnum:]_$]*))\s*\(', 'g') AS m) w
            JOIN pg_proc p ON p.proname = w.word AND p.oid >= 16384 JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE f.oid = r.oid AND f.body IS NOT NULL AND NOT f.parsed AND (w.qualifier IS NULL OR w.qualifier = n.nspname)
            UNION
            SELECT d.refobjid, true
            FROM _tenancy.lint_routines f
            JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_proc'::regclass AND d.refobjid >= 16384
            WHERE f.oid = r.oid AND f.parsed) c
        JOIN _tenancy.lint_routines f ON f.oid = c.callee AND (NOT f.prosecdef OR f.owner_bypasses)
    )
    SELECT r.root, r.oid, bool_or(r.parsed) AS parsed FROM reach r GROUP BY r.root, r.oid;
COMMENT ON VIEW _tenancy.lint_reach IS 'the functions that are called, at any distance, by those that may go round policies';

-- Which relations these functions name, in a parsed body or in a text; schema-qualified or not. A name in the text of a
-- dynamic statement is found, one that is put together is not: lint_coverage counts those.
CREATE VIEW _tenancy.lint_names AS
    WITH inside AS MATERIALIZED (
        SELECT f.oid, f.body, f.parsed FROM _tenancy.lint_functions f
        UNION
        SELECT f.oid, f.body, f.parsed FROM _tenancy.lint_routines f WHERE f.oid IN (SELECT r.oid FROM _tenancy.lint_reach r)
    ), word AS MATERIALIZED (
        SELECT DISTINCT f.oid,
               CASE WHEN m[2] IS NOT NULL THEN replace(m[2], '""', '"') ELSE lower(m[3]) END AS qualifier,
               CASE WHEN m[4] IS NOT NULL THEN replace(m[4], '""', '"') ELSE lower(m[5]) END AS word
        FROM inside f,
             LATERAL regexp_matches(f.body, '((?:"((?:[^"]|"")+)"|([[:alpha:]_][[:alnum:]_$]*))\s*\.\s*)?(?:"((?:[^"]|"")+)"|([[:alpha:]_][[:alnum:]_$]*))', 'g') AS m
        WHERE f.body IS NOT NULL AND NOT f.parsed
    )
    SELECT w.oid, c.oid AS relation, false AS parsed
    FROM word w JOIN pg_class c ON c.relname = w.word AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE (w.qualifier IS NULL OR w.qualifier = n.nspname) AND n.nspname !~ '^pg_'
    UNION
    SELECT f.oid, d.refobjid, true
    FROM inside f
    JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.refclassid = 'pg_class'::regclass
    WHERE f.parsed;
COMMENT ON VIEW _tenancy.lint_names IS 'the relations that these functions name, and those that they call';

-- Does a view ask who reads it, where it says which rows it shows? By its text from the first FROM on (from its beginning, if that is a WITH), without
-- literals: for the tenant, the user, the role or a setting, or a function of the user's own, which may. What it selects says nothing of that.
CREATE FUNCTION _tenancy.lint_asks(relation oid) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT coalesce(c.words ~ '\mtenancy\.(current_tenant|current_tenant_uuid|current_tenant_bigint|current_user_id|context|is_member|has_role)\(|\m(current_setting|pg_has_role)\(|\m(CURRENT_USER|CURRENT_ROLE|SESSION_USER|USER)\M'
        OR EXISTS (SELECT FROM pg_rewrite w
                   JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_proc'::regclass
                   JOIN _tenancy.lint_routines f ON f.oid = d.refobjid
                   WHERE w.ev_class = lint_asks.relation AND strpos(c.words, f.oid::regproc || '(') > 0), false)
    FROM regexp_replace(pg_get_viewdef(lint_asks.relation), '("(?:[^"]|"")*")|''(?:[^'']|'''')*''', '\1', 'g') AS v(words),
         LATERAL (SELECT substring(v.words FROM '(?:^\s*WITH|\mFROM|\mWHERE)\M.*$')) AS c(words)
$$;
COMMENT ON FUNCTION _tenancy.lint_asks(oid) IS 'whether a view asks who reads it, where it says which rows it shows';

-- What shows, to whoever may read it, what the extension keeps of all tenants: our relations that not everybody may read, or of which everybody reads
-- his own rows, read with the rights of owners who may, each of what it reads itself.
CREATE VIEW _tenancy.lint_shown AS
    WITH RECURSIVE reader AS MATERIALIZED (
        SELECT r.oid, r.relkind, r.relowner, r.owner_bypasses, r.invoker AND r.relkind = 'v' AS invoker
        FROM _tenancy.lint_relations r WHERE r.relkind IN ('v', 'm')
        UNION ALL
        -- A view of ours that everybody may read asks whose the rows are, unless it has its caller's rights.
        SELECT c.oid, c.relkind, c.relowner, true, true FROM pg_class c
        WHERE c.relnamespace IN ('tenancy'::regnamespace, '_tenancy'::regnamespace) AND 'security_invoker=true' = ANY (c.reloptions)
    ), reads AS MATERIALIZED (
        SELECT DISTINCT d.refobjid AS source, r.*
        FROM reader r JOIN pg_rewrite w ON w.ev_class = r.oid
        JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid <> r.oid
    ), filtered(oid, in_table) AS (
        -- What is joined with a protected table shows what its policies let through: those for its owner, or its caller.
        SELECT p.relation::oid, true FROM _tenancy.protected p JOIN pg_class c ON c.oid = p.relation
        WHERE p.kind <> 'system' AND c.relrowsecurity AND c.relforcerowsecurity
        UNION
        SELECT r.oid, false FROM filtered f JOIN reads r ON r.source = f.oid
        WHERE r.relkind = 'v' AND (r.invoker OR NOT f.in_table OR NOT r.owner_bypasses)
    ), shown(oid, source, asks, by_policy, caller_needs) AS (
        SELECT c.oid, c.oid, false, c.relrowsecurity AND x.public, '{}'::oid[]
        FROM pg_class c, LATERAL (SELECT EXISTS (SELECT FROM aclexplode(c.relacl) a WHERE a.grantee = 0 AND a.privilege_type = 'SELECT')) x(public)
        WHERE c.relnamespace IN ('tenancy'::regnamespace, '_tenancy'::regnamespace) AND c.relkind IN ('r', 'p', 'v') AND (NOT x.public OR c.relrowsecurity)
        UNION
        -- What a view with security_invoker reads is read with the rights of the session's role, under whichever view; or of the owner who refreshes.
        SELECT r.oid, s.source, r.relkind = 'v' AND (s.asks OR r.oid IN (SELECT f.oid FROM filtered f) OR _tenancy.lint_asks(r.oid)),
               s.by_policy AND (r.invoker OR r.relkind = 'v' AND s.caller_needs <> '{}'),
               CASE WHEN r.invoker THEN s.caller_needs || s.oid WHEN r.relkind = 'v' THEN s.caller_needs ELSE '{}' END
        FROM shown s JOIN reads r ON r.source = s.oid
        WHERE r.invoker
           OR has_any_column_privilege(r.relowner, s.oid, 'SELECT')
              AND (r.relkind = 'v' OR NOT EXISTS (SELECT FROM unnest(s.caller_needs) n WHERE NOT has_any_column_privilege(r.relowner, n, 'SELECT')))
              AND (r.owner_bypasses OR NOT s.by_policy OR r.relkind = 'v' AND s.caller_needs <> '{}')
    )
    SELECT DISTINCT s.oid, s.source FROM shown s WHERE s.oid <> s.source AND s.caller_needs = '{}' AND NOT s.asks;
COMMENT ON VIEW _tenancy.lint_shown IS 'the views and materialized views that show what the extension keeps of all tenants, with what of it';

-- Functions, views and materialized views over protected tables.
CREATE VIEW _tenancy.lint_readers AS
    WITH holder AS MATERIALIZED (
        SELECT * FROM _tenancy.lint_holders
    ), reached AS MATERIALIZED (
        SELECT r.root, r.oid, r.oid::regprocedure::text AS name, n.relation, r.parsed AND n.parsed AS parsed, i.print
        FROM _tenancy.lint_reach r JOIN _tenancy.lint_names n ON n.oid = r.oid JOIN holder h ON h.oid = n.relation
        JOIN _tenancy.lint_routines i ON i.oid = r.oid
    )
    SELECT 'view_bypasses' AS rule, 'error' AS severity, r.oid::regclass::text AS object,
           format('reads %s%s with the rights of %I%s, and is granted to others', h.source,
                  CASE WHEN h.sources > 1 THEN format(' and %s more protected', h.sources - 1) END, pg_get_userbyid(r.relowner),
                  CASE WHEN r.owner_bypasses THEN ', who bypasses row-level security'
                       ELSE ' from a materialized view, which no policy applies to' END) AS problem,
           format('ALTER VIEW %s SET (security_invoker = true);', r.oid::regclass) AS remedy, NULL::text AS detail
    FROM holder h JOIN _tenancy.lint_relations r ON r.oid = h.oid
    WHERE r.relkind = 'v' AND (r.owner_bypasses OR h.kept) AND r.granted AND NOT r.invoker
    UNION ALL
    -- Granted to nobody, it is for its owner to read.
    SELECT 'materialized_view', CASE WHEN r.granted THEN 'error' ELSE 'info' END, r.oid::regclass::text,
           format('keeps the rows of %s that its owner saw at the last refresh, and no policy applies to it%s', h.source,
                  CASE WHEN r.granted THEN '' ELSE '; it is granted to nobody' END),
           coalesce((SELECT string_agg(DISTINCT format('REVOKE ALL ON %s FROM %s;', r.oid::regclass,
                       CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END), E'\n')
            FROM aclexplode(r.relacl) x WHERE x.grantee <> r.relowner), format('REVOKE ALL ON %s FROM PUBLIC;', r.oid::regclass)), NULL
    FROM holder h JOIN _tenancy.lint_relations r ON r.oid = h.oid
    WHERE r.relkind = 'm'
    UNION ALL
    -- The same of our own tables: what they say of all tenants, shown with the rights of somebody who may read it. Not to administrators.
    SELECT 'private_shown', 'warning', r.oid::regclass::text,
           format('shows %s what is of all tenants, with the rights of %I: %s%s', g.to_whom, pg_get_userbyid(r.relowner), min(s.source::regclass::text),
                  CASE WHEN count(DISTINCT s.source) > 1 THEN format(' and %s more', count(DISTINCT s.source) - 1) END),
           format('REVOKE ALL ON %s FROM %s;', r.oid::regclass, g.to_whom), g.to_whom
    FROM _tenancy.lint_shown s JOIN _tenancy.lint_relations r ON r.oid = s.oid
    CROSS JOIN LATERAL (
        SELECT x.grantee FROM pg_class c, aclexplode(c.relacl) x WHERE c.oid = r.oid AND x.privilege_type = 'SELECT'
        UNION
        SELECT x.grantee FROM pg_attribute a, aclexplode(a.attacl) x WHERE a.attrelid = r.oid AND x.privilege_type = 'SELECT') x
    CROSS JOIN LATERAL (SELECT CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END) g(to_whom)
    WHERE x.grantee <> r.relowner
      AND (x.grantee = 0 OR x.grantee IN (
          SELECT m.role FROM _tenancy.lint_applications a JOIN _tenancy.lint_memberships m ON m.member = a.oid
          WHERE NOT a.rolsuper AND NOT a.rolbypassrls
            AND NOT EXISTS (SELECT FROM _tenancy.lint_memberships n WHERE n.member = a.oid AND pg_get_userbyid(n.role) IN ('pg_monitor', 'pg_read_all_data'))))
    GROUP BY r.oid, r.relowner, g.to_whom
    UNION ALL
    -- The same through a function: proof in a parsed body, or a name in a text.
    SELECT 'materialized_view', CASE WHEN NOT r.granted THEN 'info' WHEN bool_or(n.parsed) THEN 'error' ELSE 'warning' END, r.oid::regclass::text,
           format('keeps what %s, which names %s, gave to its owner at the last refresh, and no policy applies to it%s',
                  string_agg(DISTINCT n.root::regprocedure::text, ', '), string_agg(DISTINCT n.relation::regclass::text, ', '),
                  CASE WHEN r.granted THEN '' ELSE '; it is granted to nobody' END),
           coalesce((SELECT string_agg(DISTINCT format('REVOKE ALL ON %s FROM %s;', r.oid::regclass,
                       CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END), E'\n')
            FROM aclexplode(r.relacl) x WHERE x.grantee <> r.relowner), format('REVOKE ALL ON %s FROM PUBLIC;', r.oid::regclass)),
           'function ' || left(md5(string_agg(DISTINCT n.print, ' ')), 8)
    FROM _tenancy.lint_relations r JOIN _tenancy.lint_kept_functions k ON k.relation = r.oid JOIN reached n ON n.root = k.function
    WHERE NOT EXISTS (SELECT FROM holder h WHERE h.oid = r.oid)
    GROUP BY r.oid, r.granted, r.relacl, r.relowner
    UNION ALL
    -- Proof in a parsed body is an error; a name in a text is a warning, as it may be another's of the same name.
    SELECT 'definer_function', CASE WHEN bool_or(n.parsed) THEN 'error' ELSE 'warning' END, f.name,
           format('SECURITY DEFINER: %s %s%s with the rights of %I, who bypasses row-level security, and others may execute it',
                  CASE WHEN bool_or(n.parsed) THEN 'reaches' ELSE 'names' END, string_agg(DISTINCT n.relation::regclass::text, ', '),
                  ' through ' || string_agg(DISTINCT n.name, ', ') FILTER (WHERE n.oid <> f.oid), pg_get_userbyid(f.proowner)),
           format(E'ALTER ROUTINE %s SECURITY INVOKER;\n-- or let it be of an owner whom policies bind: ALTER ROUTINE ... OWNER TO ...;', f.name),
           -- A text that was accepted and has changed since is another finding; so is that of what it calls.
           CASE WHEN bool_and(n.oid = f.oid) THEN f.print ELSE f.print || left(md5(string_agg(DISTINCT n.print, ' ')), 8) END
    FROM _tenancy.lint_functions f JOIN reached n ON n.root = f.oid
    WHERE f.bypasses AND f.executable
    GROUP BY f.oid, f.name, f.proowner, f.print
    UNION ALL
    -- A caller who puts objects of his own in front of those that such a function means is as good as its owner.
    SELECT 'definer_search_path', 'warning', f.name,
           format('SECURITY DEFINER with the rights of %I, who bypasses row-level security, and with the search_path of its caller', pg_get_userbyid(f.proowner)),
           format(E'ALTER ROUTINE %s SET search_path = pg_catalog, pg_temp;\n-- after qualifying the names in it', f.name), NULL
    FROM _tenancy.lint_functions f
    WHERE f.bypasses AND f.executable AND NOT f.parsed AND f.body IS NOT NULL
      AND NOT EXISTS (SELECT FROM unnest(f.proconfig) c WHERE c LIKE 'search_path=%')
      AND EXISTS (SELECT FROM _tenancy.protected p WHERE p.kind <> 'system')
    UNION ALL
    -- Temporary tables come first unless pg_temp is named, so a caller's own stands in for the one that is meant. An empty path, and PostgreSQL's
    -- own schema alone, are of those who qualify all names.
    SELECT 'definer_search_path', 'warning', f.name,
           format('SECURITY DEFINER with the rights of %I, who bypasses row-level security, and takes temporary tables of its caller for those of its search_path',
                  pg_get_userbyid(f.proowner)),
           format('ALTER ROUTINE %s SET search_path = %s, pg_temp;', f.name, regexp_replace(s.path, '"?\mpg_temp\M"?,\s*', '', 'g')), 'pg_temp'
    FROM _tenancy.lint_functions f, unnest(f.proconfig) c, LATERAL (SELECT substr(c, length('search_path=') + 1)) s(path)
    WHERE f.bypasses AND f.executable AND NOT f.parsed AND f.body IS NOT NULL AND c LIKE 'search_path=%'
      AND s.path NOT IN ('', '""', 'pg_catalog') AND s.path !~ '(^|, )"?pg_temp"?$'
      AND EXISTS (SELECT FROM _tenancy.protected p WHERE p.kind <> 'system')
    UNION ALL
    -- Its owner may set the tenant, and so may whoever may call it: right for a function that asks for a proof first, which lint cannot tell.
    SELECT 'definer_sets_tenant', 'warning', f.name,
           format('SECURITY DEFINER, and sets the tenant with the rights of %I: does it make sure that its caller is of that tenant?', pg_get_userbyid(f.proowner)),
           CASE WHEN c.fixed THEN format('ALTER ROUTINE %s RESET tenancy.tenant_id;', f.name)
                ELSE format('ALTER ROUTINE %s SECURITY INVOKER;', f.name) END,
           concat_ws(' ', f.print, CASE WHEN c.fixed THEN 'set' END)
    FROM _tenancy.lint_functions f,
         LATERAL (SELECT EXISTS (SELECT FROM unnest(f.proconfig) o WHERE o LIKE 'tenancy.tenant\_id=%')) c(fixed)
    WHERE f.prosecdef AND f.executable
      AND (c.fixed OR f.body ~* '\mset_tenant\s*\(|\mset_config\s*\(\s*''tenancy\.tenant_id''|\mset\s+(local\s+|session\s+)?tenancy\.tenant_id\M|\mtenancy\.pre_request\M')
      AND (f.owner_superuser OR EXISTS (
          SELECT FROM _tenancy.lint_memberships m JOIN _tenancy.lint_parameters g ON g.grantee IN (0, m.role)
          WHERE m.member = f.proowner AND g.parameter = 'tenancy.tenant_id' AND g.privilege = 'SET'))
      AND EXISTS (SELECT FROM _tenancy.protected p WHERE p.kind <> 'system');
COMMENT ON VIEW _tenancy.lint_readers IS 'findings: what reads protected tables with rights that bypass policies';

-- Triggers and rules of users on protected tables, which see every row that any tenant writes.
CREATE VIEW _tenancy.lint_copiers AS
    WITH reach AS MATERIALIZED (
        SELECT * FROM _tenancy.lint_reach
    ), writer AS MATERIALIZED (
        -- Those who bypass policies, and what they call that writes.
        SELECT h.oid, h.name, h.proowner, h.print, g.oid AS callee, g.name AS callee_name, g.print AS callee_print
        FROM _tenancy.lint_functions h JOIN reach r ON r.root = h.oid JOIN _tenancy.lint_routines g ON g.oid = r.oid
        WHERE h.bypasses AND g.body ~* '\m(insert\s+into|update|delete\s+from|merge\s+into|copy|execute)\M'
    )
    -- A trigger function that runs as its definer and writes: to protected tables, as an owner whom policies bind, is how it should be.
    SELECT 'trigger_writes_elsewhere' AS rule, 'warning' AS severity, p.relation::text AS object,
           format('trigger %I calls %s, which is SECURITY DEFINER and writes %s', t.tgname, f.name,
                  CASE WHEN w.names IS NOT NULL AND NOT f.owner_bypasses THEN 'to ' || w.names || ', not protected'
                       WHEN f.owner_bypasses THEN format('with the rights of %I, who bypasses row-level security', pg_get_userbyid(f.proowner))
                       ELSE 'where its text does not say' END) AS problem,
           format('ALTER ROUTINE %s SECURITY INVOKER;', f.name) AS remedy,
           concat_ws(' ', t.tgname, f.print) AS detail
    FROM pg_trigger t
    JOIN _tenancy.protected p ON p.relation = t.tgrelid AND p.kind <> 'system'
    JOIN _tenancy.lint_functions f ON f.oid = t.tgfoid
    LEFT JOIN LATERAL (
        SELECT string_agg(DISTINCT n.relation::regclass::text, ', ') AS names
        FROM _tenancy.lint_names n WHERE n.oid = f.oid AND NOT EXISTS (SELECT FROM _tenancy.protected q WHERE q.relation = n.relation)) w ON true
    WHERE NOT t.tgisinternal AND f.prosecdef AND t.tgparentid = 0
      AND f.body ~* '\m(insert\s+into|update|delete\s+from|merge\s+into|copy|execute)\M'
      AND (f.owner_bypasses OR w.names IS NOT NULL OR f.body ~* '\mexecute\M')
    UNION ALL
    -- The same at a distance: what the trigger's function calls is, or it is itself, of an owner who bypasses policies.
    SELECT 'trigger_writes_elsewhere', 'warning', p.relation::text,
           format('trigger %I calls %s, which writes%s with the rights of %I, who bypasses row-level security', t.tgname, w.name,
                  CASE WHEN bool_and(w.callee <> w.oid) THEN ' through ' || string_agg(DISTINCT w.callee_name, ', ') END, pg_get_userbyid(w.proowner)),
           format('ALTER ROUTINE %s SECURITY INVOKER;', w.name),
           concat_ws(' ', t.tgname, w.print || left(md5(string_agg(DISTINCT w.callee_print, ' ')), 8))
    FROM pg_trigger t
    JOIN _tenancy.protected p ON p.relation = t.tgrelid AND p.kind <> 'system'
    JOIN reach c ON c.root = t.tgfoid
    JOIN writer w ON w.oid = c.oid
    WHERE NOT t.tgisinternal AND t.tgparentid = 0 AND NOT (w.oid = t.tgfoid AND w.callee = t.tgfoid)
    GROUP BY t.tgname, p.relation, w.name, w.proowner, w.print
    UNION ALL
    -- What a rule does is done with the rights of the table's owner.
    SELECT 'rule_on_table', CASE WHEN p.owner_bypasses THEN 'error' ELSE 'warning' END, p.relation::text,
           format('rule %I rewrites statements on the table, with the rights of %I%s', r.rulename, pg_get_userbyid(p.relowner),
                  CASE WHEN p.owner_bypasses THEN ', who bypasses row-level security' END),
           format('DROP RULE %I ON %s;', r.rulename, p.relation), r.rulename::text
    FROM pg_rewrite r JOIN _tenancy.lint_protected p ON p.oid = r.ev_class
    WHERE p.kind <> 'system' AND r.rulename <> '_RETURN';
COMMENT ON VIEW _tenancy.lint_copiers IS 'findings: triggers and rules that see the rows of all tenants';
