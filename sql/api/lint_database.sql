-- The rules of lint that look at the database as a whole, and at the server. Re-runnable.

CREATE VIEW _tenancy.lint_publications AS
    -- A filter of rows is what tells tenants apart here: policies do not. Which tenants it lets through is not judged, but that it asks for the tenant:
    -- by the filter itself, as pg_depend does not tell its columns from those of the publication's list of columns.
    WITH sent AS MATERIALIZED (
        SELECT r.prpubid AS pub, p.relation, p.relation AS listed, NULL::regnamespace AS schema,
               CASE WHEN r.prqual IS NOT NULL THEN format(': its row filter does not tell tenants apart by %I', p.tenant_column) COLLATE "default" END AS filter
        FROM pg_publication_rel r JOIN _tenancy.lint_protected p ON p.oid = r.prrelid
        WHERE p.kind <> 'system'
          AND (r.prqual IS NULL OR strpos(r.prqual::text, format(':varattno %s ', p.attnum)) = 0 OR _tenancy.lint_always_true(r.prqual, r.prrelid))
        UNION
        SELECT n.pnpubid, p.relation, NULL, n.pnnspid::regnamespace, NULL FROM pg_publication_namespace n JOIN _tenancy.lint_protected p ON p.relnamespace = n.pnnspid WHERE p.kind <> 'system'
        UNION
        SELECT b.oid, p.relation, NULL, NULL, NULL FROM pg_publication b, _tenancy.lint_protected p WHERE b.puballtables AND p.kind <> 'system'
    )
    -- One of listed tables names each, so that one that is accepted says nothing of those that are added.
    SELECT 'publication' AS rule, 'warning' AS severity, quote_ident(b.pubname) AS object,
           format('publishes the rows of all tenants of %s%s%s', min(s.relation::text), CASE WHEN count(*) > 1 THEN format(' and %s more protected tables', count(*) - 1) END,
                  min(s.filter)) AS problem,
           CASE WHEN s.listed IS NOT NULL THEN
                    format(E'ALTER PUBLICATION %I DROP TABLE %s;\n-- or publish the rows of one tenant: ALTER PUBLICATION ... ADD TABLE ... WHERE (... = ''<tenant>'');', b.pubname, s.listed)
                WHEN s.schema IS NOT NULL THEN format('ALTER PUBLICATION %I DROP TABLES IN SCHEMA %s;', b.pubname, s.schema)
                ELSE format('DROP PUBLICATION %I;', b.pubname) END AS remedy,
           coalesce(s.listed::text, 'schema ' || s.schema) AS detail
    FROM sent s JOIN pg_publication b ON b.oid = s.pub
    GROUP BY b.oid, b.pubname, s.listed, s.schema;
COMMENT ON VIEW _tenancy.lint_publications IS 'findings: publications of all tenants'' rows';

-- PostgreSQL checks who may execute them for each of them whenever a statement starts, and is quicker where there is no list to look up. Born without one, they are for PUBLIC.
CREATE FUNCTION _tenancy.called_by_policies() RETURNS regprocedure[]
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT '{tenancy.current_tenant(), tenancy.current_tenant_uuid(), tenancy.current_tenant_bigint(), tenancy.deny_write(), _tenancy.is_own(text), _tenancy.is_own(uuid),
             _tenancy.is_own(bigint), _tenancy.is_own(integer), tenancy.current_user_id(), tenancy.has_role(text[])}'::regprocedure[]
$$;
COMMENT ON FUNCTION _tenancy.called_by_policies() IS 'the functions that policies and defaults call, which PUBLIC may execute without a list of privileges';

CREATE VIEW _tenancy.lint_database AS
    WITH guarded AS MATERIALIZED (
        SELECT EXISTS (SELECT FROM _tenancy.protected p WHERE p.kind <> 'system') AS there
    ), watch(event_trigger, event, function, problem, tags) AS (
        VALUES ('tenancy_guard_ddl', 'ddl_command_end', '_tenancy.guard_ddl', 'protection can be weakened, and new partitions are left open', NULL::text[]),
               ('tenancy_guard_drop', 'sql_drop', '_tenancy.guard_drop', 'policies and triggers of protected tables can be dropped', NULL),
               ('tenancy_forget_dropped', 'sql_drop', '_tenancy.forget_dropped', 'a new table can pass for a protected one that was dropped', NULL),
               ('tenancy_before_schema', 'ddl_command_start', '_tenancy.follow_schemas', 'new tables of a schema that was renamed are left open', '{ALTER SCHEMA}'),
               ('tenancy_after_schema', 'ddl_command_end', '_tenancy.follow_schemas', 'new tables of a schema that was renamed are left open', '{ALTER SCHEMA}')
    ), weak(parameter, pattern, rule, problem) AS (
        -- PostgreSQL takes any beginning of these words that is only theirs. event_triggers came with 17.
        VALUES ('tenancy.restoring', '^(on|1|t(r(ue?)?)?|y(es?)?)$', 'restoring_left_on',
                'tenancy.restoring is on: protection can be weakened, and new tables are left unprotected'),
               ('event_triggers', '^(off?|0|f(a(l(se?)?)?)?|no?)$', 'guard_disabled',
                'event_triggers is off: protection can be weakened, and new tables are left unprotected')
    )
    -- What a table is born with: it is open until somebody protects it, and new partitions keep what goes round policies.
    SELECT 'default_privileges' AS rule,
           CASE WHEN d.grantee = 0 OR d.unsafe <> '' THEN 'warning' ELSE 'info' END AS severity,
           d.owner || CASE WHEN d.schema IS NOT NULL THEN ' in ' || d.schema ELSE '' END AS object,
           format('new tables of %s%s are granted to %s: %s', d.owner, ' in schema ' || d.schema, d.to_whom, d.privileges) AS problem,
           format('ALTER DEFAULT PRIVILEGES FOR ROLE %s%s REVOKE %s ON TABLES FROM %s;', d.owner, ' IN SCHEMA ' || d.schema,
                  CASE WHEN d.grantee = 0 OR d.unsafe = '' THEN 'ALL' ELSE d.unsafe END, d.to_whom) AS remedy,
           d.to_whom AS detail
    FROM (SELECT quote_ident(pg_get_userbyid(a.defaclrole)) AS owner, quote_ident(n.nspname) AS schema, x.grantee,
                 CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END AS to_whom,
                 string_agg(x.privilege_type, ', ' ORDER BY x.privilege_type) AS privileges,
                 coalesce(string_agg(x.privilege_type, ', ' ORDER BY x.privilege_type) FILTER (WHERE x.privilege_type IN ('TRUNCATE', 'REFERENCES', 'TRIGGER')), '') AS unsafe
          FROM pg_default_acl a LEFT JOIN pg_namespace n ON n.oid = a.defaclnamespace, aclexplode(a.defaclacl) x
          WHERE a.defaclobjtype = 'r' AND x.grantee <> a.defaclrole
          GROUP BY a.defaclrole, n.nspname, x.grantee) d, guarded g
    WHERE g.there
    UNION ALL
    SELECT 'guard_disabled', 'error', w.event_trigger,
           CASE WHEN e.oid IS NULL THEN 'the event trigger is missing: '
                WHEN e.evtenabled = 'D' THEN 'the event trigger is disabled: ' ELSE 'the event trigger does not fire always: ' END || w.problem,
           CASE WHEN e.oid IS NULL THEN
                    format(E'CREATE EVENT TRIGGER %I ON %s%s EXECUTE FUNCTION %s();\n', w.event_trigger, w.event,
                           (SELECT format(' WHEN TAG IN (%s)', string_agg(quote_literal(t), ', ')) FROM unnest(w.tags) t HAVING count(*) > 0), w.function)
                    || format(E'ALTER EVENT TRIGGER %I ENABLE ALWAYS;\nALTER EXTENSION tenancy ADD EVENT TRIGGER %I;', w.event_trigger, w.event_trigger)
                ELSE format('ALTER EVENT TRIGGER %I ENABLE ALWAYS;', e.evtname) END, NULL
    FROM watch w LEFT JOIN pg_event_trigger e ON e.evtfoid = w.function::regproc AND e.evtevent = w.event
    WHERE e.oid IS NULL OR e.evtenabled <> 'A'
    UNION ALL
    SELECT k.rule, 'error', concat_ws(' in ', CASE WHEN s.setrole <> 0 THEN quote_ident(pg_get_userbyid(s.setrole)) END,
               CASE WHEN s.setdatabase <> 0 THEN quote_ident(current_database()) ELSE 'all databases' END), k.problem,
           CASE WHEN s.setrole = 0 AND s.setdatabase = 0 THEN 'ALTER ROLE ALL'
                WHEN s.setrole = 0 THEN format('ALTER DATABASE %I', current_database())
                ELSE format('ALTER ROLE %I%s', pg_get_userbyid(s.setrole), CASE WHEN s.setdatabase <> 0 THEN format(' IN DATABASE %I', current_database()) END) END
           || format(' RESET %s;', k.parameter), NULL
    FROM _tenancy.lint_settings s JOIN weak k ON k.parameter = s.parameter AND lower(s.value) ~ k.pattern
    UNION ALL
    -- What this session has from elsewhere than a role or database.
    SELECT k.rule, CASE WHEN v.everywhere THEN 'error' ELSE 'warning' END, CASE WHEN v.everywhere THEN 'the server' ELSE 'this session' END, k.problem,
           CASE WHEN v.everywhere THEN
                    format(E'ALTER SYSTEM RESET %s;\nSELECT pg_reload_conf();\n-- and take it out of postgresql.conf and the options of the server', k.parameter)
                WHEN s.source = 'session' THEN format('RESET %s;', k.parameter)
                ELSE format('-- Take %s out of the options of the connection.', k.parameter) END, NULL
    FROM weak k JOIN pg_settings s ON s.name = k.parameter AND s.setting ~ k.pattern,
         LATERAL (SELECT s.source IN ('configuration file', 'command line', 'environment variable')) v(everywhere)
    WHERE s.source NOT IN ('default', 'global', 'database', 'user', 'database user')
    UNION ALL
    -- Such a function may see rows before a policy has hidden them. Those of an extension are its authors' word.
    SELECT 'leakproof_function', CASE WHEN e.member THEN 'info' ELSE 'warning' END, f.oid::regprocedure::text,
           'is marked LEAKPROOF, so it is called on rows before policies have hidden them: a message or error of its own shows them',
           format('ALTER FUNCTION %s NOT LEAKPROOF;', f.oid::regprocedure), NULL
    FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace,
         LATERAL (SELECT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.deptype = 'e')) e(member)
    WHERE f.proleakproof AND f.oid >= 16384 AND NOT (e.member AND n.nspname IN ('tenancy', '_tenancy'))
    UNION ALL
    -- Their functions are for superusers, or check that they are; a finding is that somebody has granted one. PUBLIC is what some are made with.
    SELECT 'extension_reads_storage', CASE WHEN w.to_whom IS NULL THEN 'info' ELSE 'warning' END, x.extname::text,
           format('%s%s', k.problem, CASE WHEN w.to_whom IS NULL THEN ', for superusers' ELSE format('; %s granted to %s', w.functions, w.to_whom) END),
           coalesce(w.remedy, format('DROP EXTENSION %I;', x.extname)), NULL
    FROM pg_extension x
    JOIN (VALUES ('pageinspect', 'reads pages of tables as they are stored'), ('pg_surgery', 'changes rows as they are stored'),
                 ('pg_walinspect', 'reads the changes of all tables'), ('pg_logicalinspect', 'reads the state of logical decoding'),
                 ('pg_visibility', 'reads pages of tables as they are stored'), ('pg_dirtyread', 'reads dead rows'),
                 ('adminpack', 'reads and writes files of the server'), ('file_fdw', 'reads files of the server'),
                 ('pg_buffercache', 'shows which pages are in memory'), ('pgrowlocks', 'reads the locks of rows'),
                 ('dblink', 'opens connections of its own, whose roles are others'), ('pg_parquet', 'copies tables without regard to policies'),
                 ('plpython3u', 'lets a function read files of the server'), ('plperlu', 'lets a function read files of the server'),
                 ('pltclu', 'lets a function read files of the server')) AS k(name, problem) ON k.name = x.extname
    LEFT JOIN LATERAL (
        SELECT string_agg(DISTINCT f.proname, ', ') AS functions, string_agg(DISTINCT g.to_whom, ', ') AS to_whom,
               string_agg(DISTINCT format('REVOKE EXECUTE ON FUNCTION %s FROM %s;', f.oid::regprocedure, g.to_whom), E'\n') AS remedy
        FROM pg_depend d JOIN pg_proc f ON f.oid = d.objid, _tenancy.lint_granted(f.oid) g
        WHERE d.classid = 'pg_proc'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = x.oid AND d.deptype = 'e') w ON true,
    guarded g
    WHERE g.there
    UNION ALL
    -- PostgreSQL's own, which are for superusers until somebody grants them.
    SELECT 'file_function_granted', 'warning', f.oid::regprocedure::text,
           format('is granted to %s, and reads or writes files of the server, those of all tables among them', string_agg(w.to_whom, ', ' ORDER BY w.to_whom)),
           string_agg(format('REVOKE EXECUTE ON FUNCTION %s FROM %s;', f.oid::regprocedure, w.to_whom), E'\n' ORDER BY w.to_whom),
           string_agg(w.to_whom, ', ' ORDER BY w.to_whom)
    FROM pg_proc f, guarded g, _tenancy.lint_granted(f.oid) w
    WHERE g.there AND f.oid < 16384 AND f.proname IN ('pg_read_file', 'pg_read_binary_file', 'pg_stat_file', 'pg_ls_dir', 'lo_import', 'lo_export')
    GROUP BY f.oid
    UNION ALL
    -- A foreign server that leads back into this server, with a mapping to a role whom policies do not bind.
    SELECT 'loopback_mapping', 'error', quote_ident(s.srvname),
           format('leads back to this server, where %s is %s, who %s', CASE u.umuser WHEN 0 THEN 'everybody' ELSE quote_ident(pg_get_userbyid(u.umuser)) END, o.rolname,
                  CASE WHEN o.rolsuper THEN 'is a superuser' WHEN o.rolbypassrls THEN 'has BYPASSRLS' ELSE 'owns protected tables' END),
           format('DROP USER MAPPING FOR %s SERVER %I;', CASE u.umuser WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(u.umuser)) END, s.srvname),
           CASE u.umuser WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(u.umuser)::text END
    FROM pg_user_mapping u JOIN pg_foreign_server s ON s.oid = u.umserver JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw
    CROSS JOIN LATERAL (SELECT coalesce(max(o.option_value) FILTER (WHERE o.option_name = 'host'), '') AS host,
                               coalesce(max(o.option_value) FILTER (WHERE o.option_name = 'hostaddr'), '') AS hostaddr,
                               coalesce(max(o.option_value) FILTER (WHERE o.option_name = 'port'), current_setting('port')) AS port
                        FROM pg_options_to_table(s.srvoptions) o) c
    JOIN pg_roles o ON o.rolname = (SELECT m.option_value FROM pg_options_to_table(u.umoptions) m WHERE m.option_name = 'user')
    WHERE w.fdwname IN ('postgres_fdw', 'dblink_fdw') AND c.port = current_setting('port')
      AND (c.host IN ('', 'localhost') OR c.host LIKE '/%' OR c.host LIKE '127.%' OR c.host = '::1' OR c.hostaddr LIKE '127.%' OR c.hostaddr = '::1')
      AND (u.umuser = 0 OR NOT (SELECT m.rolsuper OR m.rolbypassrls FROM pg_roles m WHERE m.oid = u.umuser))
      AND (o.rolsuper OR o.rolbypassrls OR o.oid IN (SELECT p.relowner FROM _tenancy.lint_protected p WHERE p.kind <> 'system'))
    UNION ALL
    -- The private tables are granted to nobody but as the installation did, save REFERENCES for protect with a reference.
    SELECT 'private_granted', CASE WHEN x.privilege_type = 'SELECT' THEN 'warning' ELSE 'error' END, c.oid::regclass::text,
           format('%s is granted to %s: the table holds what is of all tenants', x.privilege_type, y.to_whom),
           format('REVOKE %s ON %s FROM %s;', x.privilege_type, c.oid::regclass, y.to_whom), concat_ws(' ', x.privilege_type, y.to_whom)
    FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) x
    CROSS JOIN LATERAL (SELECT CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END) y(to_whom)
    WHERE c.relnamespace = '_tenancy'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S') AND x.grantee <> c.relowner AND x.privilege_type <> 'REFERENCES'
      AND NOT EXISTS (SELECT FROM pg_init_privs i, aclexplode(i.initprivs) z
                      WHERE i.classoid = 'pg_class'::regclass AND i.objoid = c.oid AND i.objsubid = 0 AND (z.grantee, z.privilege_type) = (x.grantee, x.privilege_type))
    UNION ALL
    SELECT 'protected_schema', 'error', s.schema::text, 'its new tables are to be protected, and there is no schema of that name: it may have been renamed where the event trigger did not fire',
           format(E'DELETE FROM _tenancy.protected_schemas WHERE schema = %L;\nSELECT tenancy.protect_schema(''<its name now>'', %L);', s.schema, s.tenant_column), NULL
    FROM _tenancy.protected_schemas s WHERE NOT EXISTS (SELECT FROM pg_namespace n WHERE n.nspname = s.schema)
    UNION ALL
    SELECT 'trusted_operator', 'info', l.operator, 'is trusted, and there is no operator that has its function any more: who installs one has it trusted',
           format('DELETE FROM _tenancy.leakproof_operators WHERE (library, symbol) = (%L, %L);', l.library, l.symbol), NULL
    FROM _tenancy.leakproof_operators l
    WHERE NOT EXISTS (SELECT FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode WHERE p.prosrc = l.symbol AND _tenancy.library_of(p) = l.library)
    UNION ALL
    SELECT 'administration_public', 'error', f.oid::regprocedure::text, 'everybody may execute it, and it administers tenants',
           format('REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC;', f.oid::regprocedure), NULL
    -- After pg_upgrade, what everybody might execute from the beginning has neither an ACL nor initial privileges; what was granted since has both.
    FROM pg_proc f CROSS JOIN LATERAL aclexplode(f.proacl) x
    WHERE f.pronamespace = 'tenancy'::regnamespace AND x.grantee = 0
      AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.deptype = 'e')
      -- A grant to somebody makes a list of what was understood.
      AND f.oid <> ALL (_tenancy.called_by_policies()::oid[])
      AND NOT EXISTS (SELECT FROM pg_init_privs i, aclexplode(i.initprivs) z WHERE i.classoid = 'pg_proc'::regclass AND i.objoid = f.oid AND z.grantee = 0)
    UNION ALL
    SELECT 'large_objects', CASE WHEN current_setting('lo_compat_privileges')::boolean THEN 'warning' ELSE 'info' END, 'large objects',
           CASE WHEN current_setting('lo_compat_privileges')::boolean THEN 'everybody reads and writes them (lo_compat_privileges), and they belong to no tenant'
                ELSE 'some are granted to others than their owners, and they belong to no tenant' END,
           CASE WHEN current_setting('lo_compat_privileges')::boolean THEN 'ALTER SYSTEM SET lo_compat_privileges = off;'
                ELSE '-- Keep what is a tenant''s in a bytea column of a protected table.' END, NULL
    FROM guarded g
    WHERE g.there AND EXISTS (SELECT FROM pg_largeobject_metadata m
                  WHERE current_setting('lo_compat_privileges')::boolean OR EXISTS (SELECT FROM aclexplode(m.lomacl) x WHERE x.grantee <> m.lomowner))
    UNION ALL
    -- Ways round row-level security or beside it that were mended in 2026. A recommendation, as it is no fault of this database's.
    SELECT 'server_minor', 'info', 'PostgreSQL ' || current_setting('server_version'),
           format('lacks fixes of row-level security that came with %s', v.fixed), format('-- Update the server to %s or later.', v.fixed), NULL
    FROM _tenancy.lint_minor() v, guarded g WHERE g.there AND v.fixed IS NOT NULL
    UNION ALL
    -- CVE-2024-4317. New minor versions do not replace a view of pg_catalog.
    SELECT 'statistics_view', 'warning', format('view pg_catalog.%I', c.relname),
           'shows statistics, values of rows among them, of tables that others own: a cluster of before 14.12, 15.7 or 16.3',
           '-- Run fix-CVE-2024-4317.sql, which comes with PostgreSQL, as a superuser in each database.', NULL
    FROM guarded g, pg_class c
    WHERE g.there AND c.relnamespace = 'pg_catalog'::regnamespace AND c.relname IN ('pg_stats_ext', 'pg_stats_ext_exprs')
      AND pg_get_viewdef(c.oid) !~ 'pg_has_role\(c\.relowner';
COMMENT ON VIEW _tenancy.lint_database IS 'findings: the database as a whole, and the server';
