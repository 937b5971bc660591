//! Every `tenancy.*` parameter: who may set it, its default, and why.
//!
//! What could widen access is superuser-set (`PGC_SUSET`), so that trust is a `GRANT SET ON PARAMETER` and
//! PostgreSQL itself refuses everybody else. Alphabetical.

use std::ffi::{CStr, CString};

use pgrx::PostgresGucEnum;
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

use crate::pg::{self, index_pushdown::Indexes, text::Text};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum BypassGuard {
    #[name = c"off"]
    Off,
    #[name = c"log"]
    Log,
    #[name = c"refuse"]
    Refuse,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum MissingTenant {
    #[name = c"error"]
    Error,
    #[name = c"empty"]
    Empty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum Mode {
    #[name = c"multi"]
    Multi,
    #[name = c"single"]
    Single,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum Seal {
    #[name = c"off"]
    Off,
    #[name = c"transaction"]
    Transaction,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PostgresGucEnum)]
pub enum SessionContext {
    #[name = c"allow"]
    Allow,
    #[name = c"refuse"]
    Refuse,
}

/// `on`: who tries what is the first thing to be known of an attack.
static AUDIT_REFUSALS: GucSetting<bool> = GucSetting::<bool>::new(true);
/// `off`: superusers and roles with BYPASSRLS see all rows, as everywhere else.
static BYPASS_GUARD: GucSetting<BypassGuard> = GucSetting::<BypassGuard>::new(BypassGuard::Off);
/// Empty: the functions that begin and end a scope set it, and nothing else does.
static CROSS_TENANT: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
/// The tenant of a single-tenant deployment; `default`, as the same schema's first tenant is usually called.
static DEFAULT_TENANT: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c"default"));
/// Five minutes, in seconds.
static HEALTH_STALE_AFTER: GucSetting<i32> = GucSetting::<i32>::new(300);
/// `on`: without it most indexes are of no use behind a policy.
static INDEX_PUSHDOWN: GucSetting<Indexes> = GucSetting::<Indexes>::new(Indexes::All);
/// Ten: more than anybody needs who knows the password, and no more than about a thousand guesses a day.
static MAX_FAILED_SIGN_INS: GucSetting<i32> = GucSetting::<i32>::new(10);
/// A thousand: as many series a tenant as a dashboard can show, and more than an application has labels.
static METRIC_SERIES: GucSetting<i32> = GucSetting::<i32>::new(1000);
/// Five hundred: with some twenty series each, ten thousand in all.
static METRIC_TENANTS: GucSetting<i32> = GucSetting::<i32>::new(500);
/// `error`: an application that forgot its tenant should find out, not see an empty page.
static MISSING_TENANT: GucSetting<MissingTenant> = GucSetting::<MissingTenant>::new(MissingTenant::Error);
/// `multi`: isolation is what the extension was installed for.
static MODE: GucSetting<Mode> = GucSetting::<Mode>::new(Mode::Multi);
/// An hour: the password is asked for again so often, unless the application renews what it got.
static PASSWORD_TOKEN_LIFETIME: GucSetting<i32> = GucSetting::<i32>::new(3600);
/// `off`: who may act in a tenant is usually for the application to say, which knows its users.
static REQUIRE_MEMBERSHIP: GucSetting<bool> = GucSetting::<bool>::new(false);
/// `off`: what pg_restore and a superuser's repairs need is not what anybody else may do.
static RESTORING: GucSetting<bool> = GucSetting::<bool>::new(false);
/// `off`: a test or a console may visit several tenants in a transaction; an application's role should not.
static SEAL: GucSetting<Seal> = GucSetting::<Seal>::new(Seal::Off);
/// `allow`: plain `SET` is what a simple client wants; behind a pooler that does not restore it, use `refuse`.
static SESSION_CONTEXT: GucSetting<SessionContext> = GucSetting::<SessionContext>::new(SessionContext::Allow);
/// 4,096 tenants, in about two megabytes: as many as are likely to keep a server busy.
static STAT_TENANTS: GucSetting<i32> = GucSetting::<i32>::new(4096);
/// 16,384 counters, in about 10 MB: as many tenants and resources as are likely to be in use at a time.
static USAGE_COUNTERS: GucSetting<i32> = GucSetting::<i32>::new(16_384);
static TENANT_ID: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
static TOKEN: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
/// Half a minute: clocks that are kept by NTP are off by less.
static TOKEN_CLOCK_SKEW: GucSetting<i32> = GucSetting::<i32>::new(30);
/// No limit: how long a token is good is for its issuer to say.
static TOKEN_MAX_LIFETIME: GucSetting<i32> = GucSetting::<i32>::new(0);
static USER_ID: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));

/// Every parameter that asks for a privilege.
pub const PRIVILEGED: [&CStr; 18] = [
    c"tenancy.audit_refusals",
    c"tenancy.bypass_guard",
    c"tenancy.default_tenant",
    c"tenancy.health_stale_after",
    c"tenancy.index_pushdown",
    c"tenancy.max_failed_sign_ins",
    c"tenancy.metric_series",
    c"tenancy.metric_tenants",
    c"tenancy.mode",
    c"tenancy.password_token_lifetime",
    c"tenancy.require_membership",
    c"tenancy.restoring",
    c"tenancy.seal",
    c"tenancy.session_context",
    c"tenancy.tenant_id",
    c"tenancy.token_clock_skew",
    c"tenancy.token_max_lifetime",
    c"tenancy.user_id",
];

pub fn init() {
    GucRegistry::define_bool_guc(
        c"tenancy.audit_refusals",
        c"Whether what is refused is put on record in the audit trail.",
        c"tenancy.prove() and tenancy.explain_access(), which try what is refused, turn it off while they do.",
        &AUDIT_REFUSALS,
        GucContext::Suset,
        GucFlags::default(),
    );
    pg::guc::define_enum(
        c"tenancy.bypass_guard",
        c"What is done with a statement that reads or writes a protected table without its isolation.",
        c"log writes to the server's log, refuse raises an error; SET row_security = off says that all rows are meant.",
        &BYPASS_GUARD,
        GucContext::Suset,
    );
    pg::scope::define(
        c"tenancy.cross_tenant",
        c"Scope of several tenants for which the session runs its statements.",
        c"Set by tenancy.begin_cross_tenant() and tenancy.end_cross_tenant() only.",
        &CROSS_TENANT,
    );
    pg::guc::define_tenant_id(
        c"tenancy.default_tenant",
        c"Tenant of a single-tenant deployment.",
        c"Used where tenancy.mode is single and no tenant is set.",
        &DEFAULT_TENANT,
        GucFlags::default(),
        false,
    );
    GucRegistry::define_int_guc(
        c"tenancy.health_stale_after",
        c"For how long what tenancy.report_health() was told holds.",
        c"A component that was not heard of since counts as unhealthy.",
        &HEALTH_STALE_AFTER,
        1,
        31_536_000,
        GucContext::Suset,
        GucFlags::UNIT_S,
    );
    pg::guc::define_plan_enum(
        c"tenancy.index_pushdown",
        c"Whether conditions of a query reach indexes of protected tables where their operators tell nothing of a row.",
        c"tenant_indexes gives them to indexes with the tenant column only; off leaves plans as PostgreSQL makes them.",
        &INDEX_PUSHDOWN,
    );
    GucRegistry::define_int_guc(
        c"tenancy.max_failed_sign_ins",
        c"How often a user may give a wrong password for a tenant in a quarter of an hour.",
        c"After that even the right one is refused, until fewer failures are so young.",
        &MAX_FAILED_SIGN_INS,
        1,
        1_000_000,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"tenancy.metric_series",
        c"Series of tenancy.record_metric() that are kept of a tenant.",
        c"What would make more is counted in one with the label overflow.",
        &METRIC_SERIES,
        1,
        1_000_000,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"tenancy.metric_tenants",
        c"Tenants that tenancy.metrics() tells of one by one.",
        c"The busiest; the others are added up.",
        &METRIC_TENANTS,
        1,
        1_000_000,
        GucContext::Suset,
        GucFlags::default(),
    );
    pg::guc::define_enum(
        c"tenancy.missing_tenant",
        c"What a query on a protected table does where no tenant is set.",
        c"error raises an error; empty shows no rows. Writes always raise an error.",
        &MISSING_TENANT,
        GucContext::Userset,
    );
    pg::guc::define_enum(
        c"tenancy.mode",
        c"Whether the database serves many tenants or a single one.",
        c"single uses tenancy.default_tenant where no tenant is set.",
        &MODE,
        GucContext::Suset,
    );
    GucRegistry::define_int_guc(
        c"tenancy.password_token_lifetime",
        c"How long the token is good that signing in with a password gives.",
        c"As long as the user is an active member of the tenant.",
        &PASSWORD_TOKEN_LIFETIME,
        1,
        31_536_000,
        GucContext::Suset,
        GucFlags::UNIT_S,
    );
    pg::guc::define_bool(
        c"tenancy.require_membership",
        c"Whether a user who is known must be an active member of the tenant.",
        c"See tenancy.add_member(). Where no user is known, the tenant alone decides.",
        &REQUIRE_MEMBERSHIP,
        GucContext::Suset,
    );
    GucRegistry::define_bool_guc(
        c"tenancy.restoring",
        c"Whether protection may be weakened, and new tables be left unprotected.",
        c"For pg_restore into a database that is in use, and for repairs.",
        &RESTORING,
        GucContext::Suset,
        GucFlags::default(),
    );
    pg::guc::define_enum(
        c"tenancy.seal",
        c"Whether the first tenant of a transaction is its last.",
        c"transaction refuses any other tenant until the transaction ends, ROLLBACK TO SAVEPOINT included.",
        &SEAL,
        GucContext::Suset,
    );
    pg::guc::define_enum(
        c"tenancy.session_context",
        c"Whether a tenant set with SET in an earlier transaction is accepted.",
        c"refuse accepts SET LOCAL, role settings and start-up options only.",
        &SESSION_CONTEXT,
        GucContext::Suset,
    );
    pg::guc::define_tenant_id(
        c"tenancy.tenant_id",
        c"Tenant for which the session runs its statements.",
        c"Empty means none. A role may set it after GRANT SET ON PARAMETER tenancy.tenant_id.",
        &TENANT_ID,
        GucFlags::REPORT,
        true,
    );
    pg::token::define(
        c"tenancy.token",
        c"Signed token that says for which tenant and user the session runs its statements.",
        c"A JSON Web Token of an issuer that tenancy.set_issuer() has made known. Its value is not shown.",
        &TOKEN,
    );
    GucRegistry::define_int_guc(
        c"tenancy.token_clock_skew",
        c"How far the clocks of those who issue tokens may be off.",
        c"A token is good for so much longer than it says, and before.",
        &TOKEN_CLOCK_SKEW,
        0,
        600,
        GucContext::Suset,
        GucFlags::UNIT_S,
    );
    GucRegistry::define_int_guc(
        c"tenancy.token_max_lifetime",
        c"For how long from now a token may be good at most.",
        c"One that says that it is good for longer is refused. Zero sets no limit.",
        &TOKEN_MAX_LIFETIME,
        0,
        i32::MAX,
        GucContext::Suset,
        GucFlags::UNIT_S,
    );
    if pg::shmem::can_be_had() {
        GucRegistry::define_int_guc(
            c"tenancy.stat_tenants",
            c"Tenants of which statistics are kept in shared memory.",
            c"The others are added up. Zero keeps none. Each takes about 450 bytes.",
            &STAT_TENANTS,
            0,
            1_048_576,
            GucContext::Postmaster,
            GucFlags::default(),
        );
        GucRegistry::define_int_guc(
            c"tenancy.usage_counters",
            c"Counters of usage that are kept in shared memory, one for each tenant and resource in use.",
            c"The one that was used longest ago gives way to a new one. Each takes about 600 bytes.",
            &USAGE_COUNTERS,
            8,
            16_777_216,
            GucContext::Postmaster,
            GucFlags::default(),
        );
    }
    pg::guc::define_user_id(
        c"tenancy.user_id",
        c"User on whose behalf the session runs its statements.",
        c"The application's user, not the database role. Empty means unknown.",
        &USER_ID,
        GucFlags::REPORT,
    );
    pg::guc::reserve_prefix(c"tenancy");
}

fn text(setting: &GucSetting<Option<CString>>) -> Option<Text> {
    let value = setting.get()?;
    (!value.is_empty()).then(|| Text::of(value.to_bytes()))
}

pub fn audit_refusals() -> bool {
    AUDIT_REFUSALS.get()
}

pub fn bypass_guard() -> BypassGuard {
    BYPASS_GUARD.get()
}

pub fn default_tenant() -> Option<Text> {
    text(&DEFAULT_TENANT)
}

pub fn index_pushdown() -> Indexes {
    INDEX_PUSHDOWN.get()
}

pub fn max_failed_sign_ins() -> i32 {
    MAX_FAILED_SIGN_INS.get()
}

pub fn missing_tenant() -> MissingTenant {
    MISSING_TENANT.get()
}

pub fn mode() -> Mode {
    MODE.get()
}

/// In seconds.
pub fn password_token_lifetime() -> i64 {
    PASSWORD_TOKEN_LIFETIME.get().into()
}

pub fn require_membership() -> bool {
    REQUIRE_MEMBERSHIP.get()
}

pub fn restoring() -> bool {
    RESTORING.get()
}

pub fn seal() -> Seal {
    SEAL.get()
}

pub fn session_context() -> SessionContext {
    SESSION_CONTEXT.get()
}

/// In seconds.
pub fn token_clock_skew() -> i64 {
    TOKEN_CLOCK_SKEW.get().into()
}

/// In seconds; none where there is no limit.
pub fn token_max_lifetime() -> Option<i64> {
    Some(TOKEN_MAX_LIFETIME.get().into()).filter(|most| *most > 0)
}

pub fn stat_tenants() -> usize {
    STAT_TENANTS.get().unsigned_abs() as usize
}

pub fn usage_counters() -> usize {
    usize::try_from(USAGE_COUNTERS.get()).unwrap_or(0)
}

pub fn user_id() -> Option<Text> {
    text(&USER_ID)
}
