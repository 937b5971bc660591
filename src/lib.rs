//! `tenancy`: multi-tenancy enforced inside PostgreSQL.
//!
//! Modules, in dependency order (each uses only those above it):
//!
//! | module | question it answers |
//! |---|---|
//! | [`tenant`] | what is a tenant id, and which forms does it have? |
//! | [`resource`] | what is the name of something that is counted? |
//! | [`period`] | in which hour, day and month does a moment fall? |
//! | [`pg`] | how is PostgreSQL called? The only home of `unsafe`, `pg_sys` and version differences |
//! | [`error`] | what do users see when something is refused? |
//! | [`guc`] | which parameters exist, who may set them, and why? |
//! | [`guard`] | may the protection of a table be changed now? |
//! | [`registry`] | does this tenant exist, and is it active? |
//! | [`scope`] | to which tenants may the session cross, and until when? |
//! | [`token`] | whose token is this, and is it good now? |
//! | [`member`] | is this user a member of that tenant? |
//! | [`context`] | for which tenant does the current statement run? |
//! | [`sign_in`] | may this user sign in to that tenant with that password? |
//! | [`audit`] | what has been done, by whom, and is the record whole? |
//! | [`cross_tenant`] | who works for several tenants at once, why, and what was done? |
//! | [`usage`] | how much of a resource is used? |
//! | [`quota`] | how much may be used, and is that respected? |
//! | [`meter`] | how much does a table hold? |
//! | [`health`] | may the client see how all tenants are? |
//! | [`report`] | how are all tenants, on one page? |
//! | [`delete_tenant`] | how do a tenant's rows leave, and come? |
//! | [`migrate`] | who reads a table without a tenant that will be protected? |
//! | [`drop_extension`] | what does DROP EXTENSION leave? |
//! | [`isolate`] | does a tenant have a partition of its own, and who still reads it elsewhere? |
//!
//! What is DDL or reads catalogs is SQL, in `sql/`: `sql/schema` runs once, `sql/api` is re-runnable.

use pgrx::prelude::*;

mod audit;
mod cache;
mod context;
mod cross_tenant;
mod delete_tenant;
mod drop_extension;
mod error;
mod guard;
mod guc;
mod health;
mod index_pushdown;
mod isolate;
mod member;
mod meter;
mod migrate;
mod period;
mod pg;
mod quota;
mod registry;
mod report;
mod resource;
mod scope;
mod sign_in;
mod stat_tenants;
mod statistics;
mod tenant;
#[cfg(any(test, feature = "pg_test"))]
mod tests;
mod token;
mod usage;

pgrx::pg_module_magic!(name, version);

// pgrx wants to know the schemas that functions name. What it prints for them changes nothing, because
// `10_schemas.sql` has created both by then, and would have failed had anybody else done so before.
#[pg_schema]
mod _tenancy {}
#[pg_schema]
mod tenancy {}

extension_sql_file!("../sql/schema/10_schemas.sql", name = "schemas", bootstrap);
extension_sql_file!("../sql/schema/20_tenants.sql", name = "tenants_table", requires = ["schemas"]);
extension_sql_file!("../sql/schema/25_issuers.sql", name = "issuers_table", requires = ["tenants_table"]);
extension_sql_file!("../sql/schema/26_members.sql", name = "members_tables", requires = ["issuers_table"]);
extension_sql_file!("../sql/schema/27_sign_in.sql", name = "sign_in_tables", requires = ["members_tables"]);
extension_sql_file!(
    "../sql/schema/30_protected.sql",
    name = "protected_table",
    requires = ["sign_in_tables"]
);
extension_sql_file!(
    "../sql/schema/35_protected_schemas.sql",
    name = "protected_schemas_table",
    requires = ["protected_table"]
);
extension_sql_file!(
    "../sql/schema/40_usage.sql",
    name = "usage_tables",
    requires = ["protected_schemas_table"]
);
extension_sql_file!("../sql/schema/45_cache.sql", name = "cache_tables", requires = ["usage_tables"]);
extension_sql_file!("../sql/schema/47_metrics.sql", name = "metrics_tables", requires = ["cache_tables"]);
extension_sql_file!("../sql/schema/48_health.sql", name = "health_table", requires = ["metrics_tables"]);
extension_sql_file!(
    "../sql/schema/49_migrations.sql",
    name = "migrations_table",
    requires = ["health_table"]
);
extension_sql_file!("../sql/schema/50_quotas.sql", name = "quotas_table", requires = ["migrations_table"]);
extension_sql_file!(
    "../sql/api/context.sql",
    name = "context",
    requires = [
        "quotas_table",
        context::api::deny_write,
        context::api::context,
        context::api::seal,
        context::api::refuse_in_context_sql,
        context::api::begin_anew,
        error::raise,
        error::error_codes,
        registry::normalize_tenant_id
    ]
);
extension_sql_file!("../sql/api/registry.sql", name = "registry", requires = ["context"]);
extension_sql_file!(
    "../sql/api/token.sql",
    name = "token",
    requires = ["registry", token::api::check_keys, token::api::sign, token::api::use_token]
);
extension_sql_file!(
    "../sql/api/member.sql",
    name = "member",
    requires = ["token", member::api::is_member, quota::sees_all_tenants]
);
extension_sql_file!(
    "../sql/api/sign_in.sql",
    name = "sign_in",
    requires = ["member", sign_in::sign_in, sign_in::hash_password]
);
extension_sql_file!("../sql/api/resolve.sql", name = "resolve", requires = ["sign_in"]);
extension_sql_file!(
    "../sql/api/protect_parts.sql",
    name = "protect_parts",
    requires = [
        "resolve",
        registry::save_protection,
        registry::add_protection,
        registry::forget_protection,
        registry::follow_column
    ]
);
extension_sql_file!(
    "../sql/api/protect.sql",
    name = "protect",
    requires = ["protect_parts", guard::begin_change, guard::end_change, guard::refuse_old_snapshot]
);
extension_sql_file!("../sql/api/distribute.sql", name = "distribute", requires = ["protect"]);
extension_sql_file!("../sql/api/foreign_keys.sql", name = "foreign_keys", requires = ["distribute"]);
extension_sql_file!(
    "../sql/api/usage.sql",
    name = "usage",
    requires = ["foreign_keys", quota::track, quota::lock_settling, quota::sees_all_tenants]
);
extension_sql_file!(
    "../sql/api/quota.sql",
    name = "quota",
    requires = ["usage", quota::check_quota, quota::enforce_quota, quota::usage_of, quota::span_start]
);
extension_sql_file!(
    "../sql/api/meter.sql",
    name = "meter",
    requires = [
        "quota",
        cache::note_cache_change,
        meter::recount,
        meter::recount_after_drop,
        meter::fit_meters,
        meter::start_meter,
        meter::stop_meter
    ]
);
extension_sql_file!(
    "../sql/api/guard.sql",
    name = "guard",
    requires = [
        "meter",
        "audit_tables",
        cache::has_cache_watches,
        cache::note_cache_change,
        guard::is_changing,
        guard::is_restoring,
        meter::fit_meters
    ]
);
extension_sql_file!(
    "../sql/api/protect_schema.sql",
    name = "protect_schema",
    requires = ["guard", guard::lock_schema]
);
extension_sql_file!("../sql/api/prove_rows.sql", name = "prove_rows", requires = ["protect_schema"]);
extension_sql_file!("../sql/api/prove_checks.sql", name = "prove_checks", requires = ["prove_rows"]);
extension_sql_file!("../sql/api/prove.sql", name = "prove", requires = ["prove_checks"]);
extension_sql_file!("../sql/api/prove_ways.sql", name = "prove_ways", requires = ["prove"]);
extension_sql_file!("../sql/api/explain_access.sql", name = "explain_access", requires = ["prove_ways"]);
extension_sql_file!("../sql/schema/60_findings.sql", name = "findings_table", requires = ["quotas_table"]);
extension_sql_file!(
    "../sql/schema/65_index_pushdown.sql",
    name = "leakproof_operators_table",
    requires = ["findings_table"]
);
extension_sql_file!(
    "../sql/api/lint_parts.sql",
    name = "lint_parts",
    requires = ["explain_access", "leakproof_operators_table"]
);
extension_sql_file!("../sql/api/lint_tables.sql", name = "lint_tables", requires = ["lint_parts"]);
extension_sql_file!("../sql/api/lint_keys.sql", name = "lint_keys", requires = ["lint_tables"]);
extension_sql_file!("../sql/api/lint_readers.sql", name = "lint_readers", requires = ["lint_keys"]);
extension_sql_file!("../sql/api/lint_roles.sql", name = "lint_roles", requires = ["lint_readers"]);
extension_sql_file!("../sql/api/lint_database.sql", name = "lint_database", requires = ["lint_roles"]);
extension_sql_file!("../sql/api/lint.sql", name = "lint", requires = ["lint_database"]);
extension_sql_file!(
    "../sql/schema/70_audit.sql",
    name = "audit_tables",
    requires = ["leakproof_operators_table"]
);
extension_sql_file!(
    "../sql/schema/80_cross_tenant.sql",
    name = "cross_tenant_table",
    requires = ["audit_tables"]
);
extension_sql_file!(
    "../sql/schema/85_isolated.sql",
    name = "isolated_table",
    requires = ["cross_tenant_table"]
);
extension_sql_file!(
    "../sql/api/audit.sql",
    name = "audit",
    requires = [
        "cross_tenant_table",
        "guard",
        "lint",
        audit::api::audit_hash,
        audit::api::audit_start,
        audit::api::note_audit
    ]
);
extension_sql_file!(
    "../sql/api/cross_tenant.sql",
    name = "cross_tenant",
    requires = ["audit", "cross_tenant_table"]
);
extension_sql_file!(
    "../sql/api/index_pushdown.sql",
    name = "index_pushdown",
    requires = ["cross_tenant", index_pushdown::leakproof_functions]
);
extension_sql_file!(
    "../sql/api/index_advice_evidence.sql",
    name = "index_advice_evidence",
    requires = ["index_pushdown"]
);
extension_sql_file!(
    "../sql/api/index_advice_parts.sql",
    name = "index_advice_parts",
    requires = ["index_advice_evidence"]
);
extension_sql_file!(
    "../sql/api/index_advice_missing.sql",
    name = "index_advice_missing",
    requires = ["index_advice_parts"]
);
extension_sql_file!(
    "../sql/api/index_advice_spare.sql",
    name = "index_advice_spare",
    requires = ["index_advice_missing"]
);
extension_sql_file!("../sql/api/index_advice.sql", name = "index_advice", requires = ["index_advice_spare"]);
extension_sql_file!(
    "../sql/api/isolate_tenant_parts.sql",
    name = "isolate_tenant_parts",
    requires = ["index_advice", "isolated_table"]
);
extension_sql_file!(
    "../sql/api/isolate_tenant.sql",
    name = "isolate_tenant",
    requires = [
        "isolate_tenant_parts",
        isolate::isolate,
        isolate::carry_rows,
        isolate::move_rows,
        isolate::add_known_check,
        isolate::run_as_owner
    ]
);
extension_sql_file!(
    "../sql/api/cache.sql",
    name = "cache",
    requires = [
        "isolate_tenant",
        cache::cache_key,
        cache::cache_key_of_bigint,
        cache::cache_key_of_uuid,
        cache::cache_version,
        cache::invalidate_cache,
        cache::entries::cache_delete,
        cache::entries::cache_get,
        cache::entries::keep_entry,
        cache::entries::sweep_cache
    ]
);
extension_sql_file!(
    "../sql/api/stat_tenants.sql",
    name = "stat_tenants",
    requires = [
        "cache",
        stat_tenants::measured,
        stat_tenants::stat_tenants_forget,
        stat_tenants::stat_tenants_reset
    ]
);
extension_sql_file!("../sql/api/metrics.sql", name = "metrics", requires = ["stat_tenants"]);
extension_sql_file!(
    "../sql/api/health.sql",
    name = "health",
    requires = ["metrics", health::client_sees_all_tenants, health::is_preloaded, health::library_version]
);
extension_sql_file!(
    "../sql/api/delete_tenant.sql",
    name = "delete_tenant",
    requires = [
        "health",
        delete_tenant::change_rows,
        delete_tenant::check_constraints_now,
        delete_tenant::read_as_owner,
        delete_tenant::move_tenant_rows,
        delete_tenant::settle_accounts
    ]
);
extension_sql_file!("../sql/api/export_tenant.sql", name = "export_tenant", requires = ["delete_tenant"]);
extension_sql_file!("../sql/api/clone_tenant.sql", name = "clone_tenant", requires = ["export_tenant"]);
extension_sql_file!("../sql/api/migrate.sql", name = "migrate", requires = ["clone_tenant"]);
extension_sql_file!("../sql/api/migrate_steps.sql", name = "migrate_steps", requires = ["migrate"]);
extension_sql_file!(
    "../sql/api/report.sql",
    name = "report",
    requires = ["migrate_steps", report::report_page]
);
extension_sql_file!("../sql/api/drop_extension.sql", name = "drop_extension", requires = ["report"]);
extension_sql_file!("../sql/grants.sql", name = "grants", finalize);

/// Runs when the library is loaded: at server start when preloaded, else at the first use in a session.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::scan::init();
    registry::init();
    scope::init();
    token::init();
    member::init();
    member::api::init();
    guard::init();
    let named = context::init();
    guc::init();
    audit::init();
    audit::api::init();
    cross_tenant::init();
    index_pushdown::init();
    statistics::init();
    usage::init(guc::usage_counters, quota::INTERVALS);
    quota::init();
    meter::init();
    cache::init();
    stat_tenants::init(guc::stat_tenants);
    pg::transition::init(|trigger| {
        meter::count(trigger);
        cache::note(trigger);
    });
    isolate::init();
    migrate::init();
    drop_extension::init();
    context::ready(named);
}

#[cfg(test)]
pub mod pg_test {
    pub fn setup(_options: Vec<&str>) {}

    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec!["shared_preload_libraries='tenancy'"]
    }
}
