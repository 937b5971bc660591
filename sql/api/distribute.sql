-- Protected tables whose rows Citus has on other servers (nodes). Re-runnable.
--
-- Each shard is a table with policies of its own, under which the nodes read and write it; the tenant reaches them with SET LOCAL, which Citus sends
-- along (citus.propagate_set_commands = local). What Citus 14 does not do is done here: it makes every policy PERMISSIVE (src/backend/distributed/commands/policy.c
-- knows no other), so that what tenancy_access lets through nothing narrows; it copies neither the registry nor privileges of parameters to the nodes.

-- The tables that Citus has distributed, or knows otherwise; none where it is not installed.
CREATE FUNCTION _tenancy.distributed_tables() RETURNS TABLE (relation oid)
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Only superusers create in pg_catalog.
    IF to_regclass('pg_catalog.pg_dist_partition') IS NOT NULL THEN
        RETURN QUERY EXECUTE 'SELECT logicalrelid::oid FROM pg_catalog.pg_dist_partition';
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.distributed_tables() IS 'the tables that Citus has distributed, or knows otherwise; none where it is not installed';

-- Whether a table is distributed, or one that it is a partition or child of.
CREATE FUNCTION _tenancy.is_distributed(relation regclass) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    WITH RECURSIVE up(oid) AS (
        SELECT relation::oid
        UNION
        SELECT i.inhparent FROM up JOIN pg_inherits i ON i.inhrelid = up.oid
    )
    SELECT EXISTS (SELECT FROM _tenancy.distributed_tables() d JOIN up ON up.oid = d.relation)
$$;
COMMENT ON FUNCTION _tenancy.is_distributed(regclass) IS 'whether Citus has distributed a table, or one that it is a partition or child of';

-- Why the policies of a table do not isolate where all of them are PERMISSIVE; null where they do: there are two, and each asks of all rows, for everybody.
CREATE FUNCTION _tenancy.distribution_problem(relation regclass, kind text, tenant_column name) RETURNS text
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT CASE
        WHEN kind <> 'tenant' THEN format('it is of kind %s', kind)
        WHEN NOT c.relrowsecurity OR NOT c.relforcerowsecurity THEN 'row-level security is not forced'
        WHEN other.name IS NOT NULL THEN format('policy %I would be PERMISSIVE on the nodes', other.name)
        WHEN open.name IS NOT NULL THEN format('policy %I does not isolate by itself', open.name)
        WHEN found.number < 2 THEN 'a policy is missing'
        END
    FROM pg_class c
    CROSS JOIN LATERAL (SELECT _tenancy.isolation(relation, tenant_column) AS it) AS isolation
    CROSS JOIN LATERAL (SELECT min(y.polname) FROM pg_policy y
          WHERE y.polrelid = relation AND y.polname NOT IN ('tenancy_isolation', 'tenancy_access')) AS other(name)
    CROSS JOIN LATERAL (SELECT min(y.polname) FROM pg_policy y
          WHERE y.polrelid = relation AND NOT coalesce(
                y.polcmd = '*' AND y.polroles = '{0}' AND pg_get_expr(y.polqual, y.polrelid) = isolation.it
                AND pg_get_expr(y.polwithcheck, y.polrelid) = format('(%s OR tenancy.deny_write())', isolation.it), false)) AS open(name)
    CROSS JOIN LATERAL (SELECT count(*) FROM pg_policy y WHERE y.polrelid = relation) AS found(number)
    WHERE c.oid = relation
$$;
COMMENT ON FUNCTION _tenancy.distribution_problem(regclass, text, name) IS
'why the policies of a table do not isolate where all of them are PERMISSIVE, as Citus makes them on the nodes; null where they do';

-- What a node says of itself.
CREATE FUNCTION _tenancy.node_state() RETURNS text
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN CASE WHEN NOT _tenancy.is_preloaded() THEN 'tenancy is not in its shared_preload_libraries'
                WHEN strpos(current_setting('shared_preload_libraries'), 'citus') > strpos(current_setting('shared_preload_libraries'), 'tenancy')
                    THEN 'citus comes after tenancy in its shared_preload_libraries'
                -- It would be the tenant of whatever Citus does there by connections of its own. What is set for a role is set on all nodes, and refused where it runs.
                WHEN current_setting('tenancy.tenant_id') <> '' OR EXISTS (
                    SELECT FROM pg_db_role_setting s, unnest(s.setconfig) AS c
                    WHERE s.setrole = 0 AND s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database())) AND c ~ '^tenancy\.(tenant_id|token)=.')
                    THEN 'a tenant is set for the server or the database'
                ELSE 'version ' || (SELECT extversion FROM pg_extension WHERE extname = 'tenancy') END;
END
$$;
COMMENT ON FUNCTION _tenancy.node_state() IS 'the version of the extension on a node, or why it is not ready';

-- Runs a command on each other node, and raises where one fails.
CREATE FUNCTION _tenancy.run_on_nodes(command text) RETURNS SETOF text
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    node record;
BEGIN
    FOR node IN EXECUTE 'SELECT nodename, nodeport, success, result FROM pg_catalog.run_command_on_workers($1)' USING command LOOP
        IF NOT node.success THEN
            PERFORM _tenancy.raise('NODE_NOT_READY', format('node %s:%s is not ready', node.nodename, node.nodeport),
                jsonb_build_object('node', node.nodename, 'port', node.nodeport, 'error', split_part(node.result, E'\n', 1)),
                'When it is: SELECT tenancy.sync_nodes();');
        END IF;
        RETURN NEXT node.result;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _tenancy.run_on_nodes(text) IS 'runs a command on each other node of Citus, and raises an error where one fails';

-- On a node: takes tenants as they are elsewhere. Between two ids, those that are not among them are gone.
CREATE FUNCTION _tenancy.receive_tenants(tenants jsonb, after_id text DEFAULT NULL, last_id text DEFAULT NULL) RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    DELETE FROM _tenancy.tenants t
    WHERE t.id COLLATE "C" > after_id COLLATE "C" AND (last_id IS NULL OR t.id COLLATE "C" <= last_id COLLATE "C")
      AND NOT EXISTS (SELECT FROM jsonb_array_elements(receive_tenants.tenants) AS e WHERE e ->> 'id' = t.id);
    INSERT INTO _tenancy.tenants AS t (id, status, name, subdomain, plan, settings, status_reason, created_at, status_changed_at, sso_required)
    SELECT r.id, r.status, r.name, r.subdomain, r.plan, r.settings, r.status_reason, r.created_at, r.status_changed_at, r.sso_required
    FROM jsonb_populate_recordset(NULL::_tenancy.tenants, receive_tenants.tenants) AS r
    ON CONFLICT (id) DO UPDATE SET (status, name, subdomain, plan, settings, status_reason, created_at, status_changed_at, sso_required)
        = (excluded.status, excluded.name, excluded.subdomain, excluded.plan, excluded.settings, excluded.status_reason,
           excluded.created_at, excluded.status_changed_at, excluded.sso_required)
    WHERE t IS DISTINCT FROM excluded;
$$;
COMMENT ON FUNCTION _tenancy.receive_tenants(jsonb, text, text) IS 'on a node of Citus: takes tenants as they are on the coordinator';

-- The roles that hold SET on parameters of ours.
CREATE FUNCTION _tenancy.parameter_grants() RETURNS TABLE (parameter text, grantee text, grantable boolean)
    LANGUAGE sql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
    SELECT p.parname, CASE x.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(x.grantee)) END, bool_or(x.is_grantable)
    FROM pg_parameter_acl p, aclexplode(p.paracl) x
    WHERE p.parname LIKE 'tenancy.%' AND x.privilege_type = 'SET' AND x.grantee <> 10
    GROUP BY 1, 2
$$;
COMMENT ON FUNCTION _tenancy.parameter_grants() IS 'the roles that hold SET on parameters of the extension';

-- On a node: has the same roles hold SET.
CREATE FUNCTION _tenancy.receive_grants(grants jsonb) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    item record;
BEGIN
    FOR item IN
        SELECT coalesce(w.parameter, p.parameter) AS parameter, coalesce(w.grantee, p.grantee) AS grantee, w.grantable, w.parameter IS NULL AS is_spare
        FROM jsonb_to_recordset(grants) AS w(parameter text, grantee text, grantable boolean)
        FULL JOIN _tenancy.parameter_grants() p USING (parameter, grantee)
        WHERE w.grantable IS DISTINCT FROM p.grantable
    LOOP
        EXECUTE format('REVOKE SET ON PARAMETER %s FROM %s CASCADE', item.parameter, item.grantee);
        IF NOT item.is_spare THEN
            EXECUTE format('GRANT SET ON PARAMETER %s TO %s%s', item.parameter, item.grantee, CASE WHEN item.grantable THEN ' WITH GRANT OPTION' END);
        END IF;
    END LOOP;
END
$$;
COMMENT ON FUNCTION _tenancy.receive_grants(jsonb) IS 'on a node of Citus: has the same roles hold SET on parameters of the extension as on the coordinator';

-- Whether there are nodes that must know what is registered here.
CREATE FUNCTION _tenancy.has_nodes() RETURNS boolean
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found boolean := false;
BEGIN
    IF EXISTS (SELECT FROM _tenancy.distributed_tables()) THEN
        EXECUTE 'SELECT pg_catalog.citus_is_coordinator()' INTO found;
    END IF;
    RETURN found;
END
$$;
COMMENT ON FUNCTION _tenancy.has_nodes() IS 'whether this is the coordinator of a Citus cluster that has tables on other nodes';

-- The nodes first: what is registered there and not here lets nobody in, and a tenant that is suspended there is out at once. Where this transaction is
-- rolled back afterwards, sync_nodes() brings them back.
CREATE FUNCTION _tenancy.send_tenants() RETURNS trigger
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT _tenancy.has_nodes() THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'TRUNCATE' THEN
        PERFORM _tenancy.run_on_nodes('SELECT _tenancy.receive_tenants(''[]'', '''')');
    ELSIF NOT EXISTS (SELECT FROM changed) THEN
        NULL;
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM _tenancy.run_on_nodes(format('DELETE FROM _tenancy.tenants WHERE id = ANY (%L::text[])', (SELECT array_agg(c.id) FROM changed c)));
    ELSE
        PERFORM _tenancy.run_on_nodes(format('SELECT _tenancy.receive_tenants(%L)', (SELECT coalesce(jsonb_agg(c), '[]') FROM changed c)));
    END IF;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION _tenancy.send_tenants() IS 'trigger on the registry: tells the other nodes of Citus of tenants that change';
CREATE TRIGGER tenancy_sent_insert AFTER INSERT ON _tenancy.tenants REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.send_tenants();
CREATE TRIGGER tenancy_sent_update AFTER UPDATE ON _tenancy.tenants REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.send_tenants();
CREATE TRIGGER tenancy_sent_delete AFTER DELETE ON _tenancy.tenants REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.send_tenants();
CREATE TRIGGER tenancy_sent_truncate AFTER TRUNCATE ON _tenancy.tenants
    FOR EACH STATEMENT EXECUTE FUNCTION _tenancy.send_tenants();

-- Raises an error where nodes cannot be seen to from here and now.
CREATE FUNCTION _tenancy.check_nodes() RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    is_coordinator boolean;
BEGIN
    -- An older snapshot does not see what others have registered before the lock was given.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM _tenancy.raise('NODE_NOT_READY', 'nodes are seen to at READ COMMITTED only', jsonb_build_object('transaction_isolation', current_setting('transaction_isolation')),
            'BEGIN ISOLATION LEVEL READ COMMITTED;');
    END IF;
    IF to_regclass('pg_catalog.pg_dist_node') IS NULL THEN
        PERFORM _tenancy.raise('NODE_NOT_READY', 'Citus is not installed in this database', '{}',
            'Add citus, before tenancy, to shared_preload_libraries, restart the servers, and: CREATE EXTENSION citus;');
    END IF;
    EXECUTE 'SELECT pg_catalog.citus_is_coordinator()' INTO is_coordinator;
    IF NOT is_coordinator THEN
        PERFORM _tenancy.raise('NODE_NOT_READY', 'this is not the coordinator of the cluster', '{}', 'Do it there: SELECT * FROM citus_nodes;');
    END IF;
END
$$;
COMMENT ON FUNCTION _tenancy.check_nodes() IS 'raises an error where this is not the coordinator of a Citus cluster, or the transaction is not READ COMMITTED';

CREATE FUNCTION tenancy.sync_nodes() RETURNS integer
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SECURITY DEFINER
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    version constant text := 'version ' || (SELECT extversion FROM pg_extension WHERE extname = 'tenancy');
    size constant integer := 10000;
    sent integer := 0;
    state text;
    batch jsonb;
    after_id text := '';
    last_id text;
BEGIN
    PERFORM _tenancy.refuse_in_context('sync_nodes');
    PERFORM _tenancy.check_nodes();
    FOR state IN SELECT _tenancy.node_state() UNION ALL SELECT r FROM _tenancy.run_on_nodes('SELECT _tenancy.node_state()') r LOOP
        IF state <> version THEN
            PERFORM _tenancy.raise('NODE_NOT_READY', 'a node is not as this one is',
                jsonb_build_object('state', state, 'expected', version), 'See: SELECT * FROM run_command_on_all_nodes(''SELECT _tenancy.node_state()'');');
        END IF;
    END LOOP;
    -- What others are registering is on the nodes before it can be seen here, and would be removed there.
    LOCK TABLE _tenancy.tenants IN SHARE MODE;
    LOOP
        SELECT coalesce(jsonb_agg(b.t), '[]'), CASE WHEN count(*) = size THEN max(b.id) END INTO batch, last_id
        FROM (SELECT t, t.id COLLATE "C" AS id FROM _tenancy.tenants t WHERE t.id COLLATE "C" > after_id COLLATE "C" ORDER BY t.id COLLATE "C" LIMIT size) b;
        PERFORM _tenancy.run_on_nodes(format('SELECT _tenancy.receive_tenants(%L, %L, %L)', batch, after_id, last_id));
        sent := sent + jsonb_array_length(batch);
        EXIT WHEN last_id IS NULL;
        after_id := last_id;
    END LOOP;
    PERFORM _tenancy.run_on_nodes(format('SELECT _tenancy.receive_grants(%L)', (SELECT coalesce(jsonb_agg(g), '[]') FROM _tenancy.parameter_grants() g)));
    RETURN sent;
END
$$;
COMMENT ON FUNCTION tenancy.sync_nodes() IS
'Brings all nodes of a Citus cluster up to the registry of tenants, and to the grants of SET on parameters of the extension, of this one, the coordinator. To be
called when a node was added or has been away, and after a GRANT or REVOKE; distribute calls it, and the registry''s own changes are sent at once. Returns the
number of tenants. Errors: 42501 TENANT_ACCESS_DENIED, 55000 NODE_NOT_READY. Volatile. Granted to nobody.';

CREATE FUNCTION tenancy.distribute(relation regclass, colocate_with text DEFAULT 'default', shard_count integer DEFAULT NULL) RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    protection record;
    triggers_allowed text;
    propagates text;
    isolation text;
    problem text;
    key name;
    one regclass;
    done text[] := '{}';
BEGIN
    PERFORM _tenancy.refuse_in_context('distribute');
    IF distribute.relation IS NULL OR distribute.colocate_with IS NULL THEN
        PERFORM _tenancy.raise('PARAMETER_INVALID', 'arguments of distribute must not be null');
    END IF;
    PERFORM _tenancy.check_relation(distribute.relation);
    SELECT p.kind, p.tenant_column INTO protection FROM _tenancy.protection(distribute.relation) p;
    IF NOT FOUND THEN
        PERFORM _tenancy.raise('RELATION_NOT_PROTECTED', format('table %s is not protected', distribute.relation),
            jsonb_build_object('relation', distribute.relation::text), format('SELECT tenancy.protect(%L);', distribute.relation));
    END IF;
    PERFORM _tenancy.check_nodes();
    IF current_setting('citus.propagate_set_commands', true) IS DISTINCT FROM 'local' THEN
        PERFORM _tenancy.raise('NODE_NOT_READY', 'the tenant would not reach the nodes', jsonb_build_object('parameter', 'citus.propagate_set_commands'),
            format('ALTER DATABASE %I SET citus.propagate_set_commands = ''local''; and connect anew.', current_database()));
    END IF;
    EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', distribute.relation);
    PERFORM _tenancy.refuse_old_snapshot(ARRAY[distribute.relation], NULL);

    -- What is changed here is changed on the nodes.
    propagates := current_setting('citus.enable_ddl_propagation', true);
    PERFORM set_config('citus.enable_ddl_propagation', 'on', true);
    -- Where all policies are PERMISSIVE, each has to isolate.
    isolation := _tenancy.isolation(distribute.relation, protection.tenant_column);
    FOR one IN SELECT t.relation FROM _tenancy.tree(distribute.relation) t LOOP
        IF protection.kind = 'tenant' AND EXISTS (
            SELECT FROM pg_policy p WHERE p.polrelid = one AND p.polname = 'tenancy_access' AND pg_get_expr(p.polwithcheck, p.polrelid) = 'true') THEN
            EXECUTE format('ALTER POLICY tenancy_access ON %s WITH CHECK (%s OR tenancy.deny_write())', one, isolation);
            done := done || format('policy tenancy_access of %s checks what is written', one);
        END IF;
        problem := _tenancy.distribution_problem(one, protection.kind, protection.tenant_column);
        problem := coalesce(problem, (
            SELECT format('trigger %I would run on the nodes', t.tgname) FROM pg_trigger t
            WHERE t.tgrelid = one AND NOT t.tgisinternal AND t.tgname <> 'tenancy_guard' LIMIT 1));
        IF problem IS NOT NULL THEN
            PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('table %s cannot be distributed: %s', one, problem),
                jsonb_build_object('relation', one::text),
                CASE WHEN protection.kind = 'tenant' THEN 'Drop that, or keep the table on the coordinator.' ELSE 'Keep it on the coordinator.' END);
        END IF;
    END LOOP;
    PERFORM tenancy.sync_nodes();

    IF distribute.relation IN (SELECT d.relation FROM _tenancy.distributed_tables() d) THEN
        EXECUTE 'SELECT pg_catalog.column_to_column_name(p.logicalrelid, p.partkey) FROM pg_catalog.pg_dist_partition p WHERE p.logicalrelid = $1'
            INTO key USING distribute.relation;
        IF key IS DISTINCT FROM protection.tenant_column THEN
            PERFORM _tenancy.raise('RELATION_NOT_SUPPORTED', format('table %s is distributed by %s', distribute.relation, coalesce('column ' || quote_ident(key), 'no column')),
                jsonb_build_object('relation', distribute.relation::text, 'tenant_column', protection.tenant_column),
                format('SELECT undistribute_table(%L);', distribute.relation));
        END IF;
        -- Whatever was changed here only is changed there now.
        FOR one IN SELECT t.relation FROM _tenancy.tree(distribute.relation) t LOOP
            EXECUTE format('ALTER POLICY tenancy_isolation ON %1$s USING (%2$s) WITH CHECK (%2$s OR tenancy.deny_write())', one, isolation);
            EXECUTE format('ALTER POLICY tenancy_access ON %1$s USING (%2$s) WITH CHECK (%2$s OR tenancy.deny_write())', one, isolation);
            EXECUTE format('ALTER TABLE ONLY %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', one);
        END LOOP;
    ELSE
        -- The trigger against TRUNCATE does on a node what it does here. Rows are copied by their owner, who must see all of them; nobody else does anything
        -- with the table until that is over.
        triggers_allowed := current_setting('citus.enable_unsafe_triggers');
        PERFORM set_config('citus.enable_unsafe_triggers', 'on', true);
        FOR one IN SELECT t.relation FROM _tenancy.tree(distribute.relation) t LOOP
            PERFORM _tenancy.begin_change(one);
            EXECUTE format('ALTER TABLE ONLY %s NO FORCE ROW LEVEL SECURITY', one);
        END LOOP;
        EXECUTE 'SELECT pg_catalog.create_distributed_table($1, $2, colocate_with => $3, shard_count => $4)'
            USING distribute.relation, protection.tenant_column::text, distribute.colocate_with, distribute.shard_count;
        FOR one IN SELECT t.relation FROM _tenancy.tree(distribute.relation) t LOOP
            EXECUTE format('ALTER TABLE ONLY %s FORCE ROW LEVEL SECURITY', one);
            PERFORM _tenancy.end_change(one);
        END LOOP;
        PERFORM set_config('citus.enable_unsafe_triggers', triggers_allowed, true);
        done := done || format('distributed by column %I', protection.tenant_column);
    END IF;
    PERFORM set_config('citus.enable_ddl_propagation', coalesce(propagates, 'on'), true);
    IF done <> '{}' THEN
        RAISE NOTICE 'table % is distributed', distribute.relation USING DETAIL = array_to_string(done, E'\n');
    END IF;
END
$$;
COMMENT ON FUNCTION tenancy.distribute(regclass, text, integer) IS
'Distributes a protected table of kind tenant by Citus, by its tenant column, so that all rows of a tenant are on one node, under the same isolation there.
colocate_with: a table whose rows of a tenant are to be on the same node, default (those with a column of the same type and as many shards) or none; shard_count:
as of create_distributed_table. A table that is distributed already is brought to the state in which its isolation holds on the nodes. Locks the table until
the transaction ends. The caller must own the table, on the coordinator, and be granted EXECUTE on sync_nodes. Errors: 42501 RELATION_NOT_OWNED, TENANT_ACCESS_DENIED, 55000 RELATION_NOT_PROTECTED,
NODE_NOT_READY, 42809 RELATION_NOT_SUPPORTED (another kind; policies or triggers of one''s own), 22023 PARAMETER_INVALID; those of create_distributed_table. Volatile.';
