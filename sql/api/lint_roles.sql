-- The rules of lint that look at roles and what they may set. Re-runnable. Which roles are an application's: _tenancy.lint_applications.
-- Superusers, owners and roles with BYPASSRLS are no findings as such: somebody must administer, back up and operate. A finding is an
-- application's role that is one of them, or can become one.

CREATE VIEW _tenancy.lint_roles AS
    WITH app AS MATERIALIZED (
        SELECT * FROM _tenancy.lint_applications
    ), member AS MATERIALIZED (
        SELECT m.* FROM _tenancy.lint_memberships m JOIN app ON app.oid = m.member WHERE m.role <> m.member
    ), plain AS MATERIALIZED (
        SELECT * FROM app WHERE NOT (app.rolsuper OR app.rolbypassrls)
    ), owner AS MATERIALIZED (
        SELECT p.relowner, count(*) AS tables, min(p.relation::text) AS one FROM _tenancy.lint_protected p WHERE p.kind <> 'system' GROUP BY p.relowner
    ), edge AS MATERIALIZED (
        -- The memberships by which a role gets to another: to be revoked is the last one.
        SELECT m.member, g.roleid AS role, string_agg(format('REVOKE %I FROM %I;', pg_get_userbyid(g.roleid), pg_get_userbyid(g.member)), E'\n'
               ORDER BY pg_get_userbyid(g.member)) AS remedy
        FROM (SELECT member.member, member.role FROM member UNION SELECT app.oid, app.oid FROM app) m
        JOIN (SELECT DISTINCT a.roleid, a.member FROM pg_auth_members a) g ON g.member = m.role
        GROUP BY m.member, g.roleid
    )
    -- Whoever writes rows, or acts for a tenant, is no backup.
    SELECT 'role_bypasses' AS rule, CASE WHEN a.may_set OR a.bound OR a.writes THEN 'error' ELSE 'warning' END AS severity, quote_ident(a.name) AS object,
           format('%s, so no policy applies to it, and it %s', CASE WHEN a.rolsuper THEN 'is a superuser' ELSE 'has BYPASSRLS' END,
                  CASE WHEN a.bound THEN 'is bound to a tenant' WHEN a.may_set THEN 'may set tenancy.tenant_id'
                       WHEN a.writes THEN 'is granted to write protected tables' ELSE 'is granted to read protected tables' END) AS problem,
           format('ALTER ROLE %I%s%s;', a.name, CASE WHEN a.rolsuper THEN ' NOSUPERUSER' END, CASE WHEN a.rolbypassrls THEN ' NOBYPASSRLS' END) AS remedy,
           NULL::text AS detail
    FROM app a WHERE a.rolsuper OR a.rolbypassrls
    UNION ALL
    SELECT 'role_reaches_bypass', 'error', quote_ident(a.name),
           format('can SET ROLE %I, who %s', o.rolname,
                  CASE WHEN o.rolsuper THEN 'is a superuser, so that no policy applies'
                       WHEN o.rolbypassrls THEN 'has BYPASSRLS, so that no policy applies'
                       ELSE 'has REPLICATION, and so can stream the changes of all tenants' END),
           e.remedy, o.rolname::text
    FROM plain a JOIN member m ON m.member = a.oid AND m.settable
    JOIN pg_roles o ON o.oid = m.role AND (o.rolsuper OR o.rolbypassrls OR o.rolreplication)
    JOIN edge e ON e.member = a.oid AND e.role = o.oid
    UNION ALL
    -- Who owns a table can give its protection up.
    SELECT 'role_owns_tables', 'warning', quote_ident(a.name),
           format('owns %s, and so can give its protection up', CASE WHEN o.tables = 1 THEN o.one ELSE format('%s protected tables such as %s', o.tables, o.one) END),
           format(E'CREATE ROLE %I;\nREASSIGN OWNED BY %I TO %I;', left('owner_of_' || a.name, 63), a.name, left('owner_of_' || a.name, 63)), NULL
    FROM plain a JOIN owner o ON o.relowner = a.oid
    UNION ALL
    SELECT 'role_reaches_owner', 'warning', quote_ident(a.name),
           format('is a member of %I, who owns %s, and so can give its protection up', pg_get_userbyid(o.relowner),
                  CASE WHEN o.tables = 1 THEN o.one ELSE format('%s protected tables such as %s', o.tables, o.one) END),
           e.remedy, pg_get_userbyid(o.relowner)::text
    FROM plain a JOIN member m ON m.member = a.oid JOIN owner o ON o.relowner = m.role
    JOIN pg_roles r ON r.oid = o.relowner AND NOT (r.rolsuper OR r.rolbypassrls)
    JOIN edge e ON e.member = a.oid AND e.role = o.relowner
    UNION ALL
    SELECT 'role_replicates', 'error', quote_ident(a.name), 'has REPLICATION, and so can stream the changes of all tenants',
           format('ALTER ROLE %I NOREPLICATION;', a.name), NULL
    FROM plain a WHERE a.rolreplication
    UNION ALL
    SELECT 'role_makes_roles', 'warning', quote_ident(a.name), 'has CREATEROLE, and so can make itself a member of other roles',
           format('ALTER ROLE %I NOCREATEROLE;', a.name), NULL
    FROM plain a WHERE a.rolcreaterole
    UNION ALL
    SELECT 'role_makes_roles', 'warning', quote_ident(a.name), format('can SET ROLE %I, who has CREATEROLE, and so can make itself a member of other roles', o.rolname),
           e.remedy, o.rolname::text
    FROM plain a JOIN member m ON m.member = a.oid AND m.settable
    JOIN pg_roles o ON o.oid = m.role AND o.rolcreaterole AND NOT (o.rolsuper OR o.rolbypassrls OR o.rolreplication)
    JOIN edge e ON e.member = a.oid AND e.role = o.oid
    UNION ALL
    SELECT 'role_predefined', k.severity, quote_ident(a.name), format('is a member of %s: %s', o.rolname, k.problem), e.remedy, o.rolname::text
    FROM plain a JOIN member m ON m.member = a.oid JOIN pg_roles o ON o.oid = m.role
    JOIN (VALUES ('pg_read_server_files', 'error', 'it can read the files of all tables'),
                 ('pg_write_server_files', 'error', 'it can write files of the server'),
                 ('pg_execute_server_program', 'error', 'it can run programs as the server does'),
                 ('pg_write_all_data', 'error', 'policies hold, but it can write the registry and the quotas'),
                 ('pg_read_all_data', 'warning', 'policies hold, but it can read the registry of tenants'),
                 ('pg_create_subscription', 'warning', 'it can make a subscription, which applies rows'),
                 ('pg_monitor', 'info', 'it sees the statements of all sessions, and the usage of all tenants'),
                 ('pg_read_all_stats', 'info', 'it sees the statements of all sessions'),
                 ('pg_signal_backend', 'info', 'it can end the sessions of others'),
                 ('pg_maintain', 'info', 'it can lock every table')) AS k(name, severity, problem) ON k.name = o.rolname
    JOIN edge e ON e.member = a.oid AND e.role = o.oid
    UNION ALL
    -- Bound to a tenant, and allowed to set another: mostly by a grant to a role that it is a member of.
    SELECT 'bound_role_may_set', 'warning', quote_ident(a.name), 'is bound to a tenant by ALTER ROLE, and may set any other',
           (SELECT string_agg(DISTINCT format('REVOKE SET ON PARAMETER tenancy.tenant_id FROM %s;', g.grantee_name), E'\n')
            FROM _tenancy.lint_parameters g
            WHERE g.parameter = 'tenancy.tenant_id' AND g.privilege = 'SET'
              AND (g.grantee = a.oid OR g.grantee IN (SELECT m.role FROM member m WHERE m.member = a.oid))), NULL
    FROM plain a WHERE a.bound AND a.may_set
    UNION ALL
    SELECT 'role_may_set_tenant', 'info', quote_ident(a.name), 'may be any tenant; where statements can be injected, so may whoever injects them',
           format('-- Seal its transactions: ALTER ROLE %I SET tenancy.seal = ''transaction'';', a.name), NULL
    FROM plain a
    WHERE a.may_set AND NOT EXISTS (SELECT FROM _tenancy.lint_settings s
                                    WHERE s.parameter = 'tenancy.seal' AND s.value = 'transaction' AND s.setrole IN (0, a.oid))
    UNION ALL
    SELECT 'statements_visible', 'info', quote_ident(a.name),
           'serves all tenants under one name, and sessions of one name see each other''s statements in pg_stat_activity',
           format('ALTER ROLE %I SET track_activities = off;', a.name), NULL
    FROM plain a
    WHERE a.may_set AND a.rolcanlogin AND NOT EXISTS (SELECT FROM _tenancy.lint_settings s
                                    WHERE s.parameter = 'track_activities' AND s.value = 'off' AND s.setrole IN (0, a.oid))
    UNION ALL
    SELECT 'temporary_tables', 'info', quote_ident(a.name),
           'may create temporary tables, which keep rows, and stand in for others'' tables, when a pooled session goes to another tenant',
           format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC, %I;', current_database(), a.name), NULL
    FROM plain a WHERE a.may_set AND a.rolcanlogin AND has_database_privilege(a.oid, current_database(), 'TEMPORARY')
    UNION ALL
    SELECT 'schema_create', 'info', quote_ident(a.name), format('may create objects in schema %I, beside protected tables', n.nspname),
           format('REVOKE CREATE ON SCHEMA %I FROM PUBLIC, %I;', n.nspname, a.name), n.nspname::text
    FROM plain a, pg_namespace n
    WHERE n.oid IN (SELECT p.relnamespace FROM _tenancy.lint_protected p) AND has_schema_privilege(a.oid, n.oid, 'CREATE');
COMMENT ON VIEW _tenancy.lint_roles IS 'findings: roles of applications that can get round policies';

-- What may be set by whom, and what is set for everybody.
CREATE VIEW _tenancy.lint_grants_on_parameters AS
    SELECT 'parameter_granted' AS rule, CASE WHEN g.parameter = 'tenancy.tenant_id' AND g.privilege = 'SET' THEN 'error' ELSE 'warning' END AS severity,
           g.parameter AS object,
           CASE WHEN g.parameter = 'session_replication_role' THEN format('%s may switch off foreign keys and triggers', g.grantee_name)
                WHEN g.parameter = 'event_triggers' THEN format('%s may switch off the event triggers that guard protected tables', g.grantee_name)
                WHEN g.parameter = 'lo_compat_privileges' THEN format('%s may read all large objects', g.grantee_name)
                WHEN g.privilege = 'ALTER SYSTEM' THEN format('%s may set it for the whole server', g.grantee_name)
                WHEN g.parameter = 'tenancy.tenant_id' THEN 'everybody may be any tenant'
                WHEN g.parameter = 'tenancy.restoring' THEN format('%s may weaken the protection of what it owns', g.grantee_name)
                ELSE format('%s may take off what it was given', g.grantee_name) END AS problem,
           format('REVOKE %s ON PARAMETER %s FROM %s;', g.privilege, g.parameter, g.grantee_name) AS remedy,
           concat_ws(' ', g.privilege, g.grantee_name) AS detail
    FROM _tenancy.lint_parameters g
    WHERE (g.parameter = 'tenancy.tenant_id' AND (g.grantee = 0 OR g.privilege = 'ALTER SYSTEM')
           -- tenant_id and user_id are granted to be set; the others are for administrators.
           OR g.parameter LIKE 'tenancy.%' AND g.parameter NOT IN ('tenancy.tenant_id', 'tenancy.user_id', 'tenancy.token', 'tenancy.missing_tenant')
           OR g.parameter IN ('session_replication_role', 'event_triggers', 'lo_compat_privileges'))
      AND EXISTS (SELECT FROM _tenancy.protected p WHERE p.kind <> 'system')
    UNION ALL
    SELECT 'tenant_for_all', 'warning', CASE WHEN s.setdatabase = 0 THEN 'all databases' ELSE quote_ident(current_database()) END,
           format('everybody who sets no tenant is %L', s.value),
           CASE WHEN s.setdatabase = 0 THEN 'ALTER ROLE ALL RESET tenancy.tenant_id;'
                ELSE format('ALTER DATABASE %I RESET tenancy.tenant_id;', current_database()) END, NULL
    FROM _tenancy.lint_settings s WHERE s.parameter = 'tenancy.tenant_id' AND s.setrole = 0 AND s.value <> '';
COMMENT ON VIEW _tenancy.lint_grants_on_parameters IS 'findings: parameters that may be set by those who should not';
