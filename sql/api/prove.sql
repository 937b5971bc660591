-- The self-test: plays two tenants against every protected table, and against a table that is broken on purpose. Re-runnable.
-- Rows and tenants are made up in subtransactions that always end by being undone. It runs with the rights of the caller, because
-- a SECURITY DEFINER function cannot go into a role.

-- The kind and tenant column of a table that prove plays with: a protected one, or its own control.
CREATE FUNCTION _tenancy.playground(relation regclass, OUT kind text, OUT tenant_column name)
    LANGUAGE sql STABLE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.kind, p.tenant_column FROM _tenancy.protected p WHERE p.relation = playground.relation
    UNION ALL
    SELECT 'tenant', a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'tenant_id'
    WHERE c.oid = playground.relation AND c.relnamespace = pg_my_temp_schema()
    LIMIT 1
$$;
COMMENT ON FUNCTION _tenancy.playground(regclass) IS 'the kind and tenant column of a table that tenancy.prove plays with';

-- Who plays: whether the role may set its tenant, or which it is bound to; whether it can be any tenant, in that way or by signing in;
-- what keeps it from being any; and the search_path that its statements see.
CREATE FUNCTION _tenancy.player(role name) RETURNS jsonb
    LANGUAGE sql STABLE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT jsonb_build_object('role', player.role, 'may_set', p.may_set, 'bound', p.bound, 'is_free', p.is_free,
        'path', coalesce((_tenancy.setting_of(player.role, 'search_path')).value,
                         (SELECT s.reset_val FROM pg_settings s WHERE s.name = 'search_path')),
        'obstacle', CASE
            WHEN p.is_free THEN NULL
            WHEN p.bound IS NULL THEN
                format('the role may be no tenant: GRANT SET ON PARAMETER tenancy.tenant_id TO %I; or trust an issuer of tokens: tenancy.set_issuer()', player.role)
            WHEN NOT EXISTS (SELECT FROM _tenancy.tenants n WHERE n.id = p.bound AND n.status = 'active') THEN
                format('the role is bound to tenant "%s", which is not active', p.bound) END)
    FROM (SELECT s.may_set, s.bound, s.may_set OR s.bound IS NULL AND _tenancy.signs_in(player.role) AS is_free
          FROM (SELECT has_parameter_privilege(player.role, 'tenancy.tenant_id', 'SET') AS may_set,
                       nullif((_tenancy.setting_of(player.role, 'tenancy.tenant_id')).value, '') AS bound) s) p
$$;
COMMENT ON FUNCTION _tenancy.player(name) IS 'which tenants a role may be; for tenancy.prove';

-- Sets the scene for a table of tenants' rows: two tenants and a row of each, made up where that is possible.
CREATE FUNCTION _tenancy.set_scene(player jsonb, relation regclass, kind text, tenant_column name, OUT stage jsonb, OUT obstacle text)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    own_tenant text := player ->> 'bound';
    other_tenant text;
    looks jsonb := '{}';
    own jsonb;
    other jsonb;
    everybody jsonb;
    scratch jsonb;
    own_rows bigint;
BEGIN
    stage := player || jsonb_build_object('relation', relation::oid, 'kind', kind, 'column', tenant_column, 'names',
        (SELECT jsonb_agg(DISTINCT n.name) FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace, unnest(ARRAY[c.relname, s.nspname]) AS n(name)
         WHERE c.oid IN (SELECT t.relation FROM _tenancy.tree(set_scene.relation) t
                         UNION SELECT v.view FROM _tenancy.views_over(set_scene.relation, (player ->> 'role')::name) v)));
    IF (player ->> 'is_free')::boolean THEN
        own_tenant := _tenancy.fresh_tenant(relation, tenant_column);
    END IF;
    other_tenant := _tenancy.fresh_tenant(relation, tenant_column);
    looks := looks || jsonb_build_object('none', _tenancy.look(stage, own_tenant));
    SELECT p.sample, p.obstacle INTO own, obstacle FROM _tenancy.plant_row(relation, tenant_column, own_tenant) p;
    IF own IS NOT NULL THEN
        looks := looks || jsonb_build_object('own', _tenancy.look(stage, own_tenant), 'again', _tenancy.look(stage, own_tenant));
        SELECT p.sample, p.obstacle INTO other, obstacle FROM _tenancy.plant_row(relation, tenant_column, other_tenant) p;
        looks := looks || jsonb_build_object('both', _tenancy.look(stage, own_tenant));
    END IF;
    IF other IS NULL THEN
        -- Rows of two tenants that are there: in order of their ids, so that an index on the tenant column finds them at once.
        looks := '{}';
        own := CASE WHEN (player ->> 'is_free')::boolean THEN _tenancy.find_tenant_row(relation, tenant_column, NULL)
                    ELSE _tenancy.find_row(relation, format('t.%I = %L', tenant_column, own_tenant), own_tenant) END;
        other := _tenancy.find_tenant_row(relation, tenant_column, own ->> 'tenant');
        IF own IS NULL OR other IS NULL THEN
            obstacle := 'no row could be made (' || obstacle || '), and there are not two tenants that have one';
            RETURN;
        END IF;
    END IF;
    obstacle := NULL;
    IF kind = 'shared' THEN
        SELECT p.sample INTO everybody FROM _tenancy.plant_row(relation, tenant_column, NULL) p;
        everybody := coalesce(everybody, _tenancy.find_row(relation, format('t.%I IS NULL', tenant_column), NULL));
    END IF;
    EXECUTE format('SELECT count(*) FROM %s AS t WHERE t.%I = %L', relation, tenant_column, own ->> 'tenant')
        || CASE WHEN kind = 'shared' THEN format(' OR t.%I IS NULL', tenant_column) ELSE '' END INTO own_rows;
    EXECUTE format('SELECT to_jsonb(t.*) FROM %s AS t LIMIT 1', relation) INTO scratch;
    stage := stage || jsonb_build_object('own', own, 'other', other, 'own_rows', own_rows, 'looks', looks,
        'new', _tenancy.make_row(relation, tenant_column, own ->> 'tenant', scratch, 1));
    IF everybody IS NOT NULL THEN
        stage := stage || jsonb_build_object('everybody', everybody);
    END IF;
    stage := stage || jsonb_build_object('harm', _tenancy.harm_of(stage));
    -- What cries before anything has happened proves nothing.
    EXECUTE stage ->> 'harm' INTO obstacle;
END
$$;
COMMENT ON FUNCTION _tenancy.set_scene(jsonb, regclass, text, name) IS
'two tenants and a row of each in a table, for tenancy.prove; or why there are none';

-- A row of an active tenant, and of another one than the first.
CREATE FUNCTION _tenancy.find_tenant_row(relation regclass, tenant_column name, than text) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    last text;
    candidate text;
    -- Tenants that are suspended cannot be played; nobody has more of them in a row than this.
    most constant integer := 100;
BEGIN
    FOR attempt IN 1..most LOOP
        EXECUTE format('SELECT t.%1$I::text FROM %2$s AS t WHERE t.%1$I IS NOT NULL%3$s ORDER BY t.%1$I LIMIT 1', tenant_column, relation,
            CASE WHEN last IS NULL THEN '' ELSE format(' AND t.%I > %L', tenant_column, last) END) INTO candidate;
        EXIT WHEN candidate IS NULL;
        IF candidate IS DISTINCT FROM than AND EXISTS (SELECT FROM _tenancy.tenants n WHERE n.id = candidate AND n.status = 'active') THEN
            RETURN _tenancy.find_row(relation, format('t.%I = %L', tenant_column, candidate), candidate);
        END IF;
        last := candidate;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _tenancy.find_tenant_row(regclass, name, text) IS 'a row of an active tenant, other than one; for tenancy.prove';

-- Everything about one table: a list of findings.
CREATE FUNCTION _tenancy.prove_table(player jsonb, relation regclass, kind text, tenant_column name) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    findings jsonb := '[]';
    scene record;
    item record;
    own_rows text;
    outcome record;
    problem text;
BEGIN
    IF player ->> 'obstacle' IS NOT NULL THEN
        RETURN jsonb_build_array(_tenancy.finding('rows', 'could not be tested', player ->> 'obstacle'));
    ELSIF kind = 'system' THEN
        RETURN _tenancy.prove_system(player, relation);
    ELSIF _tenancy.is_distributed(relation) THEN
        problem := _tenancy.distribution_problem(relation, kind, tenant_column);
        RETURN jsonb_build_array(CASE
            WHEN problem IS NULL THEN _tenancy.finding('rows', 'could not be tested', 'its rows are on other servers, which the tenants that are played here do not reach')
            ELSE _tenancy.finding('rows', 'leaked', 'on the servers that have its rows: ' || problem) END);
    END IF;
    SELECT * INTO scene FROM _tenancy.set_scene(player, relation, kind, tenant_column);
    IF scene.obstacle IS NOT NULL THEN
        RETURN jsonb_build_array(_tenancy.finding('rows', 'could not be tested', scene.obstacle));
    END IF;
    own_rows := scene.stage ->> 'own_rows';
    outcome := _tenancy.try(scene.stage, scene.stage -> 'own' ->> 'tenant',
        format('SELECT count(*) FROM (SELECT 1 FROM %s LIMIT %s) s', relation, own_rows::bigint + 1));
    findings := findings || CASE
        WHEN outcome.answer::bigint > own_rows::bigint THEN _tenancy.finding('count', 'leaked', 'rows of another tenant were counted')
        WHEN outcome.answer::bigint > 0 THEN _tenancy.finding('count', 'held')
        ELSE _tenancy.refused(scene.stage, 'count', outcome, 'nor does it count rows of the role''s own tenant') END;
    FOR item IN SELECT * FROM _tenancy.attacks(scene.stage) LOOP
        findings := findings || CASE
            WHEN item.check_name LIKE 'no tenant%' AND current_setting('tenancy.mode') = 'single' THEN
                _tenancy.finding(item.check_name, 'could not be tested', 'in single-tenant mode there is always one')
            ELSE _tenancy.attack(scene.stage, item.check_name, item.statement, item.own_statement, item.given, item.writes_elsewhere) END;
    END LOOP;
    SELECT findings || coalesce(jsonb_agg(f.finding), '[]') INTO findings
    FROM (SELECT * FROM _tenancy.prove_blindly(scene.stage)
          UNION ALL SELECT * FROM _tenancy.prove_keys(scene.stage)
          UNION ALL SELECT * FROM _tenancy.prove_references(scene.stage)
          UNION ALL SELECT * FROM _tenancy.prove_views(scene.stage)) AS f(finding);
    IF EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = relation) THEN
        findings := findings || (SELECT jsonb_agg(f.finding) FROM _tenancy.prove_partitions(scene.stage) AS f(finding));
    END IF;
    RETURN findings || (SELECT jsonb_agg(f.finding) FROM _tenancy.prove_whole(scene.stage) AS f(finding));
END
$$;
COMMENT ON FUNCTION _tenancy.prove_table(jsonb, regclass, text, name) IS 'plays every attack on a table; for tenancy.prove';

-- A table without tenants: nothing is written from within one.
CREATE FUNCTION _tenancy.prove_system(player jsonb, relation regclass) RETURNS jsonb
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    findings jsonb := '[]';
    tenant text := player ->> 'bound';
    stage jsonb := player || jsonb_build_object('relation', relation::oid, 'kind', 'system');
    planted record;
    given jsonb;
    item record;
    harmless text := quote_ident(_tenancy.harmless_column(relation, NULL, (player ->> 'role')::name));
BEGIN
    SELECT * INTO planted FROM _tenancy.plant_row(relation, NULL, NULL);
    planted.sample := coalesce(planted.sample, _tenancy.find_row(relation, 'true', NULL));
    IF (player ->> 'is_free')::boolean THEN
        tenant := tenancy.create_tenant(gen_random_uuid()::text, 'throw-away tenant of prove()');
    END IF;
    IF planted.sample IS NULL THEN
        RETURN jsonb_build_array(_tenancy.finding('rows', 'could not be tested', 'no row could be made: ' || planted.obstacle));
    END IF;
    stage := stage || jsonb_build_object('system', planted.sample, 'own', jsonb_build_object('tenant', tenant), 'names',
        (SELECT jsonb_agg(n.name) FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace, unnest(ARRAY[c.relname, s.nspname]) AS n(name)
         WHERE c.oid = prove_system.relation));
    stage := stage || jsonb_build_object('harm', _tenancy.harm_of(stage));
    given := _tenancy.make_row(relation, NULL, NULL, planted.sample -> 'row', 1);
    FOR item IN
        SELECT a.check_name, a.statement, a.given
        FROM (VALUES
            (1, 'system: insert', _tenancy.insert_of(relation, given, (player ->> 'role')::name), given),
            (2, 'system: update', format('UPDATE %s AS t SET %s = t.%s WHERE ', relation, harmless, harmless), NULL),
            (3, 'system: delete', format('DELETE FROM %s AS t WHERE ', relation), NULL)) AS a(place, check_name, statement, given)
        ORDER BY a.place
    LOOP
        findings := findings || _tenancy.attack(stage, item.check_name, item.statement || CASE WHEN item.given IS NOT NULL THEN '' ELSE
            format('t.tableoid = %s AND t.ctid = %L', planted.sample ->> 'relation', planted.sample ->> 'ctid') END,
            'SELECT 0', item.given, item.given IS NOT NULL);
    END LOOP;
    RETURN findings || (SELECT jsonb_agg(f.finding) FROM _tenancy.prove_whole(stage) AS f(finding));
END
$$;
COMMENT ON FUNCTION _tenancy.prove_system(jsonb, regclass) IS 'plays every attack on a table of kind system; for tenancy.prove';

-- The control: a table of the same kind with no protection at all, of which every check must be reported as leaked. Returns how many
-- checks there are; raises an error where one is not, because then nothing that it says of other tables is worth anything.
CREATE FUNCTION _tenancy.prove_control(player jsonb, kind text) RETURNS integer
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    name text := 'tenancy_prove_' || left(replace(gen_random_uuid()::text, '-', ''), 8);
    role name := player ->> 'role';
    findings jsonb;
    silent jsonb;
BEGIN
    EXECUTE format('CREATE TEMP TABLE %1$I (code text PRIMARY KEY, tenant_id text);
                    CREATE TEMP TABLE %2$I (code text PRIMARY KEY, tenant_id text, number serial, parent text REFERENCES %1$I) PARTITION BY RANGE (code);
                    CREATE TEMP TABLE %3$I PARTITION OF %2$I DEFAULT;
                    CREATE TEMP VIEW %4$I AS SELECT code, number FROM %2$I;
                    GRANT ALL ON %1$I, %2$I, %3$I, %4$I TO %5$I;
                    GRANT ALL ON SEQUENCE %6$s TO %5$I',
        name || '_parent', name, name || '_part', name || '_view', role, 'pg_temp.' || quote_ident(name || '_number_seq'));
    findings := _tenancy.prove_table(player, ('pg_temp.' || quote_ident(name))::regclass, kind, CASE WHEN kind <> 'system' THEN 'tenant_id' END);
    SELECT f.finding INTO silent FROM jsonb_array_elements(findings) AS f(finding) WHERE f.finding ->> 'result' <> 'leaked' LIMIT 1;
    IF FOUND OR jsonb_array_length(findings) < 4 THEN
        PERFORM _tenancy.raise('INTERNAL_ERROR', 'prove() did not catch its own control', jsonb_build_object('kind', kind, 'finding', silent),
            'The control is a table without any protection. What prove() says of other tables is worth nothing until this is understood.');
    END IF;
    RETURN jsonb_array_length(findings);
END
$$;
COMMENT ON FUNCTION _tenancy.prove_control(jsonb, text) IS 'the deliberately broken table that tenancy.prove must catch';

-- The role that is played where none is named: that of the application, if there is one and no other.
CREATE FUNCTION _tenancy.only_application() RETURNS name
    LANGUAGE plpgsql STABLE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    names name[] := (SELECT array_agg(a.name ORDER BY a.name) FROM _tenancy.lint_applications a);
BEGIN
    IF names IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'there is no role of an application to be played', '{}',
            'None may set a tenant, is bound to one, or was granted a protected table. Name one: SELECT * FROM tenancy.prove(''app'');');
    ELSIF cardinality(names) > 1 THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'there are several roles of applications to be played', jsonb_build_object('roles', names),
            format('Name one: SELECT * FROM tenancy.prove(%L);', names[1]));
    END IF;
    RETURN names[1];
END
$$;
COMMENT ON FUNCTION _tenancy.only_application() IS 'the one role of an application that there is; for tenancy.prove without a role';

CREATE FUNCTION tenancy.prove(role name DEFAULT NULL, target regclass DEFAULT NULL)
    RETURNS TABLE (relation regclass, check_name text, result text, detail text)
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    -- Their names are those of columns below.
    played_role name := $1;
    only_relation regclass := $2;
    player jsonb;
    targets jsonb;
    item record;
    findings jsonb;
    checks jsonb := '{}';
    other_roles text;
BEGIN
    PERFORM _tenancy.refuse_in_context('prove');
    IF NOT (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
        PERFORM _tenancy.raise('TENANT_ACCESS_DENIED', 'must be superuser to call prove()', '{}',
            'It makes tenants and rows, and looks at what became of them, as nobody else can.');
    END IF;
    played_role := coalesce(played_role, _tenancy.only_application());
    IF NOT EXISTS (SELECT FROM pg_roles r WHERE r.rolname = played_role) THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', format('role "%s" does not exist', played_role), '{}',
            'Name the role that the application runs its statements as: SELECT * FROM tenancy.prove(''app'');');
    END IF;
    SELECT jsonb_agg(jsonb_build_object('relation', p.relation::oid, 'kind', p.kind, 'column', p.tenant_column) ORDER BY p.relation::text COLLATE "C")
        INTO targets
    FROM _tenancy.protected p JOIN pg_class c ON c.oid = p.relation
    WHERE CASE WHEN only_relation IS NOT NULL THEN p.relation = only_relation
               -- Partitions and children are played with their parents.
               ELSE NOT EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = p.relation AND _tenancy.is_protected(i.inhparent)) END;
    IF targets IS NULL AND only_relation IS NOT NULL THEN
        PERFORM _tenancy.raise('RELATION_NOT_PROTECTED', format('table %s is not protected', only_relation),
            jsonb_build_object('relation', only_relation::text), format('Protect it first: SELECT tenancy.protect(%L);', only_relation));
    END IF;
    player := _tenancy.player(played_role);
    IF targets IS NULL THEN
        RETURN QUERY SELECT NULL::regclass, 'tables'::text, 'could not be tested'::text, 'no table is protected'::text;
    END IF;

    -- The control comes first: where it goes unnoticed, nothing else is said. 'tenant' is the kind that is always tried.
    FOR item IN
        SELECT k.kind FROM (SELECT 'tenant' AS kind UNION SELECT t.item ->> 'kind' FROM jsonb_array_elements(targets) AS t(item)) k ORDER BY k.kind
    LOOP
        CONTINUE WHEN player ->> 'obstacle' IS NOT NULL;
        BEGIN
            PERFORM _tenancy.enter();
            checks := checks || jsonb_build_object(item.kind, _tenancy.prove_control(player, item.kind));
            RAISE EXCEPTION 'undo' USING ERRCODE = 'TNPRV';
        EXCEPTION WHEN SQLSTATE 'TNPRV' THEN
            NULL;
        END;
    END LOOP;
    SELECT string_agg(format('of kind %s %s of %s', k.key, k.value, k.value), ', ' ORDER BY k.key) INTO check_name FROM jsonb_each_text(checks) k;
    RETURN QUERY SELECT NULL::regclass, 'control'::text,
        CASE WHEN check_name IS NULL THEN 'could not be tested' ELSE 'held' END,
        coalesce('of tables without protection every check was reported as leaked: ' || check_name, player ->> 'obstacle');

    SELECT string_agg(quote_ident(r.rolname), ', ' ORDER BY r.rolname) INTO other_roles
    FROM pg_roles r WHERE (r.rolsuper OR r.rolbypassrls) AND pg_has_role(played_role, r.oid,
        -- Since 16, a member may be kept from SET ROLE.
        CASE WHEN current_setting('server_version_num')::integer < 160000 THEN 'MEMBER' ELSE 'SET' END);
    RETURN QUERY SELECT NULL::regclass, 'role'::text, CASE WHEN other_roles IS NULL THEN 'held' ELSE 'leaked' END,
        'is, or may SET ROLE to, one that row-level security does not apply to: ' || other_roles;

    FOR item IN SELECT (t.item ->> 'relation')::oid::regclass AS relation, t.item ->> 'kind' AS kind, (t.item ->> 'column')::name AS tenant_column
                  FROM jsonb_array_elements(targets) WITH ORDINALITY AS t(item, place) ORDER BY t.place
    LOOP
        BEGIN
            PERFORM _tenancy.enter();
            findings := _tenancy.prove_table(player, item.relation, item.kind, item.tenant_column);
            RAISE EXCEPTION 'undo' USING ERRCODE = 'TNPRV';
        EXCEPTION
            WHEN SQLSTATE 'TNPRV' THEN
                NULL;
            WHEN lock_not_available OR deadlock_detected THEN
                findings := jsonb_build_array(_tenancy.finding('rows', 'could not be tested', SQLERRM));
        END;
        RETURN QUERY SELECT item.relation, f.finding ->> 'check', f.finding ->> 'result', f.finding ->> 'detail'
                     FROM jsonb_array_elements(findings) WITH ORDINALITY AS f(finding, place) ORDER BY f.place;
    END LOOP;
END
$$;
COMMENT ON FUNCTION tenancy.prove(name, regclass) IS
'Plays two tenants, as the role (null: the only one of an application, as tenancy.lint() tells them), against a protected table (null: every one): reads, writes, moves, deletes, keys, upserts, foreign
keys, views, partitions, COPY, TRUNCATE. Returns for each table and check held, leaked, or could not be tested and why; first, without a
table, whether a table without protection was caught, and whether the role goes round policies. Nothing is left behind: tenants and
rows are made up in subtransactions that are undone. It runs your triggers, policies and views as the role. Waits at most two seconds for a lock.
Errors: 42501 TENANT_ACCESS_DENIED (not a superuser), 22023 PARAMETER_INVALID, 55000 RELATION_NOT_PROTECTED, XX000 INTERNAL_ERROR (the
control was not caught). Volatile. Granted to nobody: superusers call it; refused in the context of a tenant.';

-- What a subtransaction of prove begins with.
CREATE FUNCTION _tenancy.enter() RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Two tenants are played, whatever seals the caller's own transactions. The caller judges by all rows, and says so to
    -- tenancy.bypass_guard; the role that plays has row_security on again.
    PERFORM set_config('tenancy.seal', 'off', true), set_config('row_security', 'off', true);
    -- What membership refuses is not what isolation holds.
    PERFORM set_config('tenancy.require_membership', 'off', true);
    IF current_setting('lock_timeout') = '0' OR current_setting('lock_timeout')::interval > interval '2 seconds' THEN
        PERFORM set_config('lock_timeout', '2s', true);
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.enter() IS 'the parameters of a subtransaction of tenancy.prove';

CREATE FUNCTION tenancy.prove_tap(role name DEFAULT NULL, target regclass DEFAULT NULL) RETURNS SETOF text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp SET jit = off
AS $$
DECLARE
    found record;
    number integer := 0;
    is_good boolean;
BEGIN
    FOR found IN SELECT * FROM tenancy.prove(prove_tap.role, prove_tap.target) LOOP
        number := number + 1;
        -- A hash would begin a directive.
        -- What is not of a table speaks for all of them: without the control, or a table, nothing is proved.
        is_good := found.result = 'held' OR found.result = 'could not be tested' AND found.relation IS NOT NULL;
        RETURN NEXT format('%s %s - %s%s%s', CASE WHEN is_good THEN 'ok' ELSE 'not ok' END, number,
            replace(coalesce(found.relation::text || ': ', ''), '#', '\#'), replace(found.check_name, '#', '\#'),
            CASE WHEN is_good AND found.result <> 'held' THEN ' # SKIP ' || regexp_replace(found.detail, '\s*\n\s*', ' ', 'g') ELSE '' END);
        IF NOT is_good THEN
            RETURN NEXT format('# %s: %s', found.result, regexp_replace(coalesce(found.detail, ''), '\s*\n\s*', ' ', 'g'));
        END IF;
    END LOOP;
    RETURN NEXT format('1..%s', number);
END
$$;
COMMENT ON FUNCTION tenancy.prove_tap(name, regclass) IS
'What tenancy.prove() returns, as lines of TAP, the protocol of pgTAP and pg_prove: held is ok, leaked is not ok, what could not be
tested of a table is skipped; where the control, or anything at all, could not be tested, that is not ok. Errors, volatility and rights are those of tenancy.prove().';
