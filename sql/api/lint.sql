-- lint: what weakens the isolation of tenants in this database, found in the catalogs. Re-runnable.
-- The rules are views, a file each: lint_tables, lint_keys, lint_readers, lint_roles, lint_database; docs/lint.md lists them.
-- It runs with the rights of the extension's owner, so that the owner of a database who is no superuser sees as much. It reads
-- catalogs and private tables, and calls no function of a user's.

CREATE FUNCTION _tenancy.lint_all() RETURNS TABLE (rule text, severity text, object text, problem text, remedy text, key text)
    LANGUAGE sql STABLE PARALLEL RESTRICTED
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT f.rule, f.severity, f.object, f.problem, f.remedy, concat_ws(':', f.rule, f.object, f.detail)
    FROM (
        SELECT * FROM _tenancy.lint_unprotected
        UNION ALL SELECT * FROM _tenancy.lint_drift
        UNION ALL SELECT * FROM _tenancy.lint_policies
        UNION ALL SELECT * FROM _tenancy.lint_privileges
        UNION ALL SELECT * FROM _tenancy.lint_unique
        UNION ALL SELECT * FROM _tenancy.lint_references
        UNION ALL SELECT * FROM _tenancy.lint_readers
        UNION ALL SELECT * FROM _tenancy.lint_copiers
        UNION ALL SELECT * FROM _tenancy.lint_roles
        UNION ALL SELECT * FROM _tenancy.lint_grants_on_parameters
        UNION ALL SELECT * FROM _tenancy.lint_publications
        UNION ALL SELECT * FROM _tenancy.lint_database
    ) f
$$;
COMMENT ON FUNCTION _tenancy.lint_all() IS 'all findings, accepted ones too';

CREATE FUNCTION tenancy.lint(min_severity text DEFAULT 'warning')
    RETURNS TABLE (rule text, severity text, object text, problem text, remedy text, key text)
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    -- Compilation costs more than it gains in queries of this form.
    SET jit = off
AS $$
DECLARE
    severities text[] := '{error,warning,info}';
BEGIN
    PERFORM _tenancy.refuse_in_context('lint');
    IF array_position(severities, lint.min_severity) IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('unknown severity "%s"', lint.min_severity), '{}',
            'The severities are error, warning and info.');
    END IF;
    RETURN QUERY
        WITH found AS MATERIALIZED (
            SELECT * FROM _tenancy.lint_all()
        )
        SELECT f.*
        FROM (SELECT * FROM found l
              -- Who accepted a warning has not accepted the error that it has become.
              WHERE NOT EXISTS (SELECT FROM _tenancy.accepted_findings a WHERE a.key = l.key COLLATE "C"
                                AND array_position(severities, a.severity) <= array_position(severities, l.severity))
              UNION ALL
              SELECT 'accepted_and_gone', 'info', a.key, 'was accepted, and is not found any more',
                     format('SELECT tenancy.unaccept_finding(%L);', a.key), 'accepted_and_gone:' || a.key
              FROM _tenancy.accepted_findings a WHERE NOT EXISTS (SELECT FROM found l WHERE l.key COLLATE "C" = a.key)) f
        WHERE array_position(severities, f.severity) <= array_position(severities, lint.min_severity)
        ORDER BY array_position(severities, f.severity), f.rule COLLATE "C", f.key COLLATE "C";
END
$$;
COMMENT ON FUNCTION tenancy.lint(text) IS
'Returns what weakens the isolation of tenants in this database, one row a finding, the worst first: rule, severity (error: a hole
now; warning: a hole under a condition; info: a recommendation, only if asked for with lint(''info'')), object, problem, remedy (SQL
to copy), and key, by which accept_finding accepts it. Accepted findings are left out. It reads catalogs only, takes seconds on thousands of
tables, and changes nothing. lint_coverage() says what it examined and what it could not.
Errors: PARAMETER_INVALID 22023, TENANT_ACCESS_DENIED 42501 in the context of a tenant. Stable. Superusers, the owner of the database
and members of pg_monitor may call it; grant EXECUTE to others.';

CREATE FUNCTION tenancy.accept_finding(key text, reason text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    finding record;
BEGIN
    PERFORM _tenancy.refuse_in_context('accept_finding');
    IF accept_finding.key IS NULL OR btrim(coalesce(accept_finding.reason, '')) = '' THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'a finding is accepted by its key, for a reason');
    END IF;
    SELECT l.severity, l.problem INTO finding FROM _tenancy.lint_all() l WHERE l.key = accept_finding.key LIMIT 1;
    IF NOT FOUND THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('there is no finding "%s"', accept_finding.key), jsonb_build_object('key', accept_finding.key),
            'The keys are those that SELECT * FROM tenancy.lint(''info'') shows.');
    END IF;
    INSERT INTO _tenancy.accepted_findings AS a (key, reason, severity, problem, accepted_by)
    VALUES (accept_finding.key, accept_finding.reason, finding.severity, finding.problem, session_user)
    ON CONFLICT ON CONSTRAINT accepted_findings_pkey DO UPDATE
        SET reason = excluded.reason, severity = excluded.severity, problem = excluded.problem, accepted_by = excluded.accepted_by, accepted_at = now();
END
$$;
COMMENT ON FUNCTION tenancy.accept_finding(text, text) IS
'Accepts a finding of lint, by its key, for a reason: lint names it no more, and accepted_findings shows it with who accepted it and
when. Calling it again changes the reason. A finding that is not there cannot be accepted, and one that has become more severe since is
named again.
Errors: PARAMETER_INVALID 22023, TENANT_ACCESS_DENIED 42501 in the context of a tenant. Volatile. Superusers and the owner of the
database may call it; grant EXECUTE to others.';

CREATE FUNCTION tenancy.unaccept_finding(key text) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('unaccept_finding');
    DELETE FROM _tenancy.accepted_findings a WHERE a.key = unaccept_finding.key COLLATE "C";
    IF NOT FOUND THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('finding "%s" was not accepted', unaccept_finding.key),
            jsonb_build_object('key', unaccept_finding.key));
    END IF;
END
$$;
COMMENT ON FUNCTION tenancy.unaccept_finding(text) IS
'Takes an acceptance back: lint names the finding again. Errors: PARAMETER_INVALID 22023 (it was not accepted), TENANT_ACCESS_DENIED
42501 in the context of a tenant. Volatile. Superusers and the owner of the database may call it; grant EXECUTE to others.';

CREATE VIEW tenancy.accepted_findings AS
    SELECT a.key, a.reason, a.severity, a.problem, a.accepted_by, a.accepted_at FROM _tenancy.accepted_findings a;
COMMENT ON VIEW tenancy.accepted_findings IS
'The findings of lint that were accepted: key, reason, severity and problem as they were then, by whom and when. The owner of the database and
members of pg_monitor may read it.';

-- The examination itself: how much of each was looked at, and what cannot be.
CREATE FUNCTION tenancy.lint_coverage() RETURNS TABLE (subject text, examined bigint, not_examined bigint, note text)
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
    SET jit = off
AS $$
BEGIN
    PERFORM _tenancy.refuse_in_context('lint_coverage');
    RETURN QUERY
        WITH f AS MATERIALIZED (
            SELECT * FROM _tenancy.lint_functions
        ), app AS MATERIALIZED (
            SELECT a.name FROM _tenancy.lint_applications a ORDER BY a.name
        ), r AS MATERIALIZED (
            SELECT l.relkind, l.oid, l.granted FROM _tenancy.lint_relations l
        ), p AS MATERIALIZED (
            SELECT g.relation, g.kind FROM _tenancy.protected g
        )
        SELECT 'protected tables', (SELECT count(*) FROM p), 0::bigint,
               coalesce((SELECT string_agg(k.kind || ' ' || k.n, ', ' ORDER BY k.kind) FROM (SELECT p.kind, count(*) AS n FROM p GROUP BY p.kind) k),
                        'nothing is protected, so rules on roles, keys and readers have nothing to look at')
        UNION ALL
        SELECT 'other tables', (SELECT count(*) FROM r WHERE r.relkind IN ('r', 'p') AND NOT EXISTS (SELECT FROM p WHERE p.relation = r.oid)), 0,
               'the tenant column is known by its name: tenant_id, or the name and type that a protected table has it by'
        UNION ALL
        SELECT 'tables of extensions', 0, (SELECT count(*) FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
                                           WHERE c.relkind IN ('r', 'p') AND c.relnamespace NOT IN ('tenancy'::regnamespace, '_tenancy'::regnamespace)),
               'theirs is to say who may read them'
        UNION ALL
        SELECT 'views, materialized views, foreign tables', (SELECT count(*) FROM r WHERE r.relkind IN ('v', 'm', 'f')), 0, 'by what they depend on, through other views as well'
        UNION ALL
        SELECT 'indexes, constraints, policies, triggers and rules of protected tables',
               (SELECT count(*) FROM pg_index i JOIN p ON p.relation = i.indrelid) + (SELECT count(*) FROM pg_constraint k JOIN p ON p.relation = k.conrelid WHERE k.contype = 'f')
               + (SELECT count(*) FROM pg_policy y JOIN p ON p.relation = y.polrelid) + (SELECT count(*) FROM pg_trigger t JOIN p ON p.relation = t.tgrelid WHERE NOT t.tgisinternal)
               + (SELECT count(*) FROM pg_rewrite w JOIN p ON p.relation = w.ev_class),
               0, 'conditions of your own policies are looked at for being always true, not for what they mean'
        UNION ALL
        SELECT 'SECURITY DEFINER and trigger functions', (SELECT count(*) FROM f WHERE f.body IS NOT NULL),
               (SELECT count(*) FROM f WHERE f.body IS NULL), 'a parsed body by what it depends on, a text by the names in it; not those in C'
        UNION ALL
        SELECT 'of these, functions of a bypassing owner with dynamic statements', 0, (SELECT count(*) FROM f WHERE f.bypasses AND f.body ~* '\mexecute\M'),
               'a name that is put together when it runs is not found' || coalesce(': ' || (
                   SELECT string_agg(d.name, ', ') FROM (SELECT f.name FROM f WHERE f.bypasses AND f.body ~* '\mexecute\M' ORDER BY f.name LIMIT 5) d), '')
        UNION ALL
        SELECT 'roles', (SELECT count(*) FROM pg_roles), 0, 'with their memberships, grants and settings'
        UNION ALL
        SELECT 'of these, roles of applications', (SELECT count(*) FROM app), 0,
               coalesce((SELECT string_agg(quote_ident(a.name), ', ') FROM (SELECT app.name FROM app LIMIT 5) a), 'none')
               || CASE WHEN (SELECT count(*) FROM app) > 5 THEN ', ...' ELSE '' END
        UNION ALL
        SELECT 'publications', (SELECT count(*) FROM pg_publication), 0, 'replication slots with other output plugins stream everything, and are not looked into'
        UNION ALL
        SELECT 'user mappings', (SELECT count(*) FROM pg_user_mapping), 0, 'those that lead back to this server; another name of this host is not recognized'
        UNION ALL
        SELECT 'server', 1, 0, 'PostgreSQL ' || current_setting('server_version')
               || coalesce((SELECT ', which lacks fixes of row-level security that came with ' || v.fixed FROM _tenancy.lint_minor() v), '')
        UNION ALL
        SELECT 'other databases of this server', 0, (SELECT count(*) FROM pg_database d WHERE d.datallowconn AND NOT d.datistemplate AND d.datname <> current_database()),
               'call lint in each that has the extension'
        UNION ALL
        SELECT 'outside the database', 0, NULL,
               'what a session leaves to the next behind a pooler, pg_hba.conf, backups, logs, temporary objects of other sessions, timing';
END
$$;
COMMENT ON FUNCTION tenancy.lint_coverage() IS
'Returns what lint examines in this database, and what it cannot: subject, how many were and were not examined (NULL where that cannot be
counted), note. Error: TENANT_ACCESS_DENIED 42501 in the context of a tenant. Stable. Superusers, the owner of the database and members of
pg_monitor may call it; grant EXECUTE to others.';
