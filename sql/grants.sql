-- Runs last: who may call what. Nothing is PUBLIC by accident: everything is revoked, then granted by name; but for what policies call.
REVOKE ALL ON ALL TABLES IN SCHEMA tenancy, _tenancy FROM PUBLIC;
DO $$
DECLARE
    often constant regprocedure[] := _tenancy.called_by_policies();
    routine regprocedure;
    list aclitem[];
BEGIN
    FOR routine, list IN SELECT p.oid, p.proacl FROM pg_proc p WHERE p.pronamespace IN ('tenancy'::regnamespace, '_tenancy'::regnamespace) LOOP
        IF routine <> ALL (often) THEN
            EXECUTE format('REVOKE ALL ON ROUTINE %s FROM PUBLIC', routine);
        ELSIF list IS NOT NULL THEN
            -- By default privileges of the owner's, for one.
            EXECUTE format('GRANT EXECUTE ON ROUTINE %s TO PUBLIC', routine);
        END IF;
    END LOOP;
END
$$;

-- The views show a tenant its own figures, and all to those who may monitor; the ledger is under a policy.
GRANT SELECT ON tenancy.protected_tables, tenancy.protected_schemas, tenancy.foreign_keys, tenancy.meters, tenancy.usage_records, tenancy.usage_hourly, tenancy.usage_daily, tenancy.quota_status,
    tenancy.members, tenancy.cache_watches, tenancy.stat_tenants, tenancy.stat_busiest_tenants, tenancy.stat_busiest_quotas, tenancy.stat_busiest_metrics, tenancy.metric_values, tenancy.audit_log, tenancy.audited_tables, tenancy.trusted_operators, _tenancy.usage, _tenancy.audit_entries TO PUBLIC;
GRANT EXECUTE ON FUNCTION
    -- The caller's own context; setting it asks for SET ON PARAMETER.
    tenancy.set_tenant(text, boolean), tenancy.clear_tenant(), tenancy.context(), tenancy.seal(),
    tenancy.resolve_tenant(jsonb, jsonb, text), tenancy.pre_request(),
    tenancy.authenticate(jsonb, boolean), _tenancy.use_token(text, boolean), _tenancy.sign_in(jsonb),
    tenancy.normalize_tenant_id(text), tenancy.error_codes(),
    -- What a view calls that all may read.
    _tenancy.library_of(pg_proc),
    -- It asks for a grant of its own, and what runs in a scope asks whether it is that scope.
    tenancy.begin_cross_tenant(text[], text, interval), tenancy.end_cross_tenant(), _tenancy.in_scope(bigint),
    -- The current user, and who is a member of the current tenant; of another one, whoever may set it.
    tenancy.export_audit(text, timestamptz, timestamptz),
    tenancy.is_member(text, text),
    -- The current tenant's own usage.
    tenancy.check_quota(text, bigint), tenancy.enforce_quota(text, bigint), tenancy.track_usage(text, bigint, jsonb, text),
    _tenancy.measured(), _tenancy.sees_all_tenants(), _tenancy.usage_of(text, text), _tenancy.to_bigint(numeric),
    -- The current tenant's own cache, and the tenant that these ask for.
    tenancy.cache_key(text, text), tenancy.cache_key(text, bigint), tenancy.cache_key(text, uuid), tenancy.cache_version(text), tenancy.cache_set(text, jsonb, interval), tenancy.cache_get(text),
    tenancy.cache_delete(text), tenancy.invalidate_cache(text), _tenancy.keep_entry(text, jsonb, timestamptz),
    tenancy.record_metric(text, jsonb, double precision), tenancy.metrics(), _tenancy.metric_line(text, jsonb, double precision),
    -- What the current tenant's components say of themselves, and its own health.
    tenancy.report_health(text, text, text), tenancy.report_health(text, text, text, text), tenancy.forget_health(text), tenancy.health(text), tenancy.health_checks(text), _tenancy.worst(text[]),
    -- They run with the rights of the caller, who must own the table.
    tenancy.protect(regclass, text, name, boolean, boolean, boolean, text), tenancy.unprotect(regclass),
    tenancy.isolate_tenant(regclass, text, name, name), _tenancy.isolate(oid, text, text, text),
    tenancy.distribute(regclass, text, integer), _tenancy.distributed_tables(), _tenancy.is_distributed(regclass), _tenancy.distribution_problem(regclass, text, name), _tenancy.check_nodes(),
    -- What these call on the caller's behalf; each checks for itself, or reads what pg_catalog shows to all.
    _tenancy.raise(text, text, jsonb, text), _tenancy.refuse_in_context(text),
    _tenancy.is_reserved_subdomain(text), _tenancy.tenant_of_subdomain(text),
    _tenancy.tree(regclass), _tenancy.isolation(regclass, name), _tenancy.column_default(regclass, name),
    _tenancy.policies(text, text, name), _tenancy.check_as_made(name, text, text), _tenancy.present_policies(regclass), _tenancy.guard(text), _tenancy.is_guarded(regclass, text),
    _tenancy.unsafe_grants(regclass, text), _tenancy.has_leading_index(regclass, name), _tenancy.unregistered(text[]),
    _tenancy.drift(regclass, text, name, jsonb, jsonb), _tenancy.is_protected(regclass), _tenancy.is_migrated(regclass), _tenancy.protection(regclass),
    _tenancy.check_relation(regclass), _tenancy.check_column(regclass, name), _tenancy.check_rows(regclass, name, boolean),
    _tenancy.apply(regclass, text, name, jsonb, boolean, jsonb),
    _tenancy.foreign_keys(regclass), _tenancy.key_index(regclass, name[], oid, oid[]), _tenancy.key_statements(regclass, name[], boolean), _tenancy.key_remedy(regclass, name, text[]),
    _tenancy.reference_statements(regclass, regclass, text, text), _tenancy.scope_foreign_keys(regclass, text),
    _tenancy.save_protection(regclass, text, text, jsonb, jsonb), _tenancy.forget_protection(regclass),
    _tenancy.meters_of(regclass), _tenancy.is_watched(regclass), _tenancy.is_counted(regclass), _tenancy.meter_triggers(), _tenancy.is_audited(regclass), _tenancy.audit_triggers(),
    _tenancy.own_triggers(regclass, text), _tenancy.present_triggers(regclass, text), _tenancy.family_problems(regclass), _tenancy.refuse_old_snapshot(oid[], oid),
    -- What event triggers call, with the rights of whoever changes a table.
    _tenancy.is_restoring(), _tenancy.is_changing(oid), _tenancy.begin_change(regclass), _tenancy.end_change(oid),
    _tenancy.altered(pg_ddl_command), _tenancy.weakness(regclass, text, name, jsonb, text[]), _tenancy.refuse_weakness(regclass, text[]),
    _tenancy.policy_differences(regclass, text, name, boolean), _tenancy.protect_new(regclass), _tenancy.schema_column(regnamespace),
    _tenancy.add_protection(regclass, text, text, jsonb, jsonb), _tenancy.follow_column(regclass), _tenancy.note_altered(), _tenancy.isolated_column(regclass), _tenancy.fit_meters(oid),
    _tenancy.deny_system_write(), _tenancy.deny_audit_change(), _tenancy.deny_truncate(), _tenancy.begin_anew(),
    -- PostgreSQL asks for it where the owner of an audited table attaches a partition. It refuses a table that is not audited.
    _tenancy.audit_row(),
    -- It tells what catalogs show to all, and counts for those who see everything.
    tenancy.explain_access(regclass, name, boolean), _tenancy.policies_for(regclass, name), _tenancy.bypass_of(regclass, name),
    _tenancy.count_visible(regclass, name, text), _tenancy.setting_of(name, text), _tenancy.setting_for(name, text), _tenancy.signs_in(name), _tenancy.obstacle_of(text)
    TO PUBLIC;

-- It tells where the isolation of tenants is weak.
GRANT EXECUTE ON FUNCTION tenancy.lint(text), tenancy.lint_coverage() TO pg_monitor, pg_database_owner;
GRANT SELECT ON tenancy.accepted_findings TO pg_monitor, pg_database_owner;
GRANT EXECUTE ON FUNCTION tenancy.accept_finding(text, text), tenancy.unaccept_finding(text) TO pg_database_owner;

-- It tells of all tenants, and of the extension.
GRANT EXECUTE ON FUNCTION tenancy.health(), tenancy.extension_health(), tenancy.report(integer, integer) TO pg_monitor, pg_database_owner;

-- It reads statistics, which tell of the size of tenants, and what statements are run.
GRANT EXECUTE ON FUNCTION tenancy.index_advice(regclass, interval) TO pg_monitor, pg_database_owner;

DO $$
BEGIN
    -- CREATE EXTENSION silences what is less than a WARNING, which this is.
    PERFORM set_config('client_min_messages', 'notice', true);
    IF NOT 'tenancy' = ANY (regexp_split_to_array(current_setting('shared_preload_libraries'), '\s*,\s*')) THEN
        RAISE NOTICE 'tenancy is not in shared_preload_libraries'
            USING DETAIL = 'Isolation does not depend on it. Preloaded, the server also refuses misspelt tenancy parameters '
                           'from the first statement of a connection, reports tenancy.tenant_id to poolers from its start, and counts '
                           'usage in shared memory, so that quotas make nobody wait.',
                  HINT = 'Add tenancy to shared_preload_libraries and restart the server, or, without a restart and without that memory: '
                         'ALTER DATABASE ' || quote_ident(current_database()) || ' SET session_preload_libraries = ''tenancy'';';
    END IF;
END
$$;
