//! What users see when something is refused.
//!
//! Guarantees: every error has a code from one catalogue, that code's SQLSTATE, and a DETAIL that is one JSON
//! object beginning with the code. PL/pgSQL raises through the same catalogue (`_tenancy.raise`).
//! A message never shows an id or data of another tenant than the caller's own.
//! PostgreSQL's own SQLSTATEs only: pgrx cannot carry others.

use std::sync::OnceLock;

use pgrx::{PgSqlErrorCode as S, prelude::*};
use serde_json::{Map, Value, json};

use crate::pg::ErrorReport;
use crate::pg::text::{Json, Text, reportable};
use crate::resource::Resource;
use crate::tenant::{Malformed, TenantId};

mod catalogue;
#[cfg(test)]
mod tests;
mod wording;
pub use catalogue::CATALOGUE;

fn sqlstate(code: &str) -> S {
    CATALOGUE.iter().find(|entry| entry.0 == code).map_or(S::ERRCODE_INTERNAL_ERROR, |entry| entry.1)
}

/// Is told of what is refused: the code, and the object of its DETAIL.
type Witness = fn(&'static str, &str);

static WITNESS: OnceLock<Witness> = OnceLock::new();

/// Sets who is told of what is refused.
pub fn init(witness: Witness) {
    // Once, when the library is loaded.
    WITNESS.get_or_init(|| witness);
}

fn tell(code: &'static str, detail: &Value) {
    if let Some(witness) = WITNESS.get() {
        witness(code, &detail_text(code, detail));
    }
}

/// The errors that Rust raises; what PL/pgSQL raises is worded where it happens.
#[must_use = "an error that is not raised fails open"]
#[derive(Clone, Copy)]
pub enum Error<'a> {
    /// No tenant is set.
    ContextMissing,
    /// `tenancy.session_context = 'refuse'`, and the context was set in an earlier transaction.
    ContextStale,
    /// Other servers that have the rows of a statement were not told of the tenant.
    NodesNotTold,
    /// A function was to change the tenant in a session of another server.
    ChangedOnNode,
    /// A table whose policies do not isolate on other servers.
    OpenOnNodes(&'a str),
    /// The transaction is sealed to another tenant.
    Sealed(TenantId),
    /// `tenancy.seal` is on, but the library was loaded after the transaction had begun.
    Unsealable(TenantId),
    /// The start-up packet named a parameter that the role may not set, before the library could refuse it.
    Overridden,
    /// A cursor goes on after the transaction went to another tenant.
    CursorOfAnother,
    /// The tenant was to change, or has changed, in a statement that reads or writes protected tables.
    ChangedInStatement,
    /// A statement was planned before the library was loaded.
    PlannedEarly,
    /// A cursor WITH HOLD on a protected table.
    KeptCursor,
    /// A statement on a table that goes round its isolation.
    Bypassed(&'a str),
    /// TRUNCATE of a protected table, for a tenant.
    TruncatedFor(TenantId, &'a str),
    /// A row that is not of the context's tenant was to be written.
    WriteAcrossTenants(TenantId),
    NotFound(TenantId),
    NotActive(TenantId, &'static str),
    IdInvalid(Malformed),
    /// The tenant's id has no form of the type that a table holds.
    NoForm(TenantId, &'static str),
    /// A protected table, and what it would lose.
    Weakened(&'a str, &'a str),
    /// A table that was made unprotected in a schema whose tables are to be protected.
    MadeUnprotected(&'a str),
    /// What is protected has changed since the transaction's snapshot.
    ProtectionChanged,
    /// Rows that a statement may read have been moved to another partition since its snapshot.
    Moved,
    /// A transaction that lets changes of a table's protection through is about to end.
    ChangeNotEnded(&'a str),
    /// A function that changes the registry or the protection, called for a tenant.
    InContext(TenantId, &'a str),
    /// A change of a table of kind `system`, for a tenant.
    SystemTable(TenantId, &'a str),
    /// A change of a table of kind `audit`.
    AuditTable(&'a str),
    /// A charge that would pass a limit.
    QuotaExceeded(&'a Quota<'a>),
    /// A table is not metered for the resource.
    NotMetered(Resource),
    /// A table is metered for the resource already.
    AlreadyMetered(Resource),
    /// The resource is one that is tracked.
    Tracked(Resource),
    /// The caller does not own the table.
    NotOwned,
    /// A view, a temporary table, or something else that cannot be protected.
    NotPermanent,
    /// The trigger of audited tables, on a table that is none, or another trigger that calls the same function.
    NotAudited(&'a str),
    /// A table that is to be metered is not protected.
    NotProtected,
    /// Something of another tenant than the context's was asked for.
    OfAnotherTenant(&'static str),
    /// The context's user is no active member of the tenant.
    NotMember(TenantId),
    /// More prepared transactions than a counter keeps.
    TooManyPrepared(Resource),
    /// An argument that has no good value: what it must be, and its name.
    Argument(&'static str, &'static str),
    /// A column that a meter looks at is gone.
    MeteredColumn(&'a str),
    /// A row of a metered table has a tenant id that cannot be registered.
    MeteredTenant(Malformed),
    /// An index of the ledger that is no B-tree on columns, or is unique or partial.
    LedgerIndex(&'a str),
    /// A token that is not accepted, and why: nothing that it says itself.
    TokenInvalid(&'static str),
    TokenExpired,
    /// The token and `tenancy.tenant_id` name two tenants.
    TokenOfAnother,
    /// A token that is to be kept with a role, a database or a function.
    TokenKept,
    /// A key, and what is wrong with it: the name of the argument, and what it has.
    KeyInvalid(&'static str, &'static str),
    /// Whatever is wrong with a tenant, user and password.
    CredentialsInvalid,
    /// Too many of such failures lately.
    TooManyFailures,
    /// A failure that is a defect of the extension.
    Internal(&'a str),
    /// What is asked for is one tenant's, in a scope of several.
    SeveralTenants,
    /// The tenant was to be set in a scope of several.
    SetInScope,
    /// A scope that is good no more, or not here: why.
    ScopeOver(&'static str),
    /// A scope is to be begun in another.
    ScopeInScope,
    /// `tenancy.cross_tenant` was to be set by hand.
    ScopeByHand,
    /// The role was not granted to cross to the tenant.
    NotGranted(TenantId),
    /// The role was not granted to cross to any tenant.
    NothingGranted,
    /// A row of a tenant outside of the scope was to be written.
    WriteOutOfScope,
    /// What runs for each tenant has set another.
    TenantLeft,
    /// What isolation would not hold for, because the role is exempt from it.
    Exempt(&'a str),
    /// A scope was to be begun where another than the client's role is in force, or in a statement that writes.
    ScopeInside,
    /// An argument that must not be null.
    NullArgument(&'static str),
    NotInstalled,
    /// DROP EXTENSION, while so many tables need it.
    ExtensionInUse(usize),
    /// DROP EXTENSION CASCADE, where this table has policies of the user's own.
    WouldBeOpen(&'a str),
}

/// What was refused, and by which limit.
#[derive(Clone, Copy)]
pub struct Quota<'a> {
    /// None where the charge is not the context's own: nobody learns of another tenant.
    pub tenant: Option<TenantId>,
    pub resource: &'a str,
    /// None for good.
    pub period: Option<&'a str>,
    pub current: i64,
    pub limit: i64,
    pub requested: i64,
}

impl Quota<'_> {
    /// The object of its DETAIL.
    pub fn detail(&self) -> Value {
        let mut detail = json!({});
        if let Some(tenant) = self.tenant {
            detail["tenant_id"] = json!(tenant.as_str());
        }
        detail["resource"] = json!(self.resource);
        if let Some(period) = self.period {
            detail["period"] = json!(period);
        }
        if self.tenant.is_some() {
            detail["current"] = json!(self.current);
            detail["limit"] = json!(self.limit);
            detail["requested"] = json!(self.requested);
        }
        detail
    }
}

struct Wording {
    code: &'static str,
    message: String,
    detail: Value,
    hint: &'static str,
}

impl Error<'_> {
    pub fn code(&self) -> &'static str {
        self.wording().code
    }

    pub fn sqlstate(&self) -> S {
        sqlstate(self.code())
    }

    /// Message, DETAIL and HINT as text, for the places that cannot raise (a parameter's check hook).
    pub fn texts(&self) -> (String, String, &'static str) {
        let w = self.wording();
        tell(w.code, &w.detail);
        (w.message, detail_text(w.code, &w.detail), w.hint)
    }

    pub fn raise(self) -> ! {
        let w = self.wording();
        tell(w.code, &w.detail);
        report(w.code, w.message, &w.detail, Some(w.hint.to_owned()))
    }
}

/// Raises what a query of the extension's own, or a library, came to: a defect.
pub fn internal(error: impl std::fmt::Display) -> ! {
    Error::Internal(&error.to_string()).raise()
}

/// One JSON object that begins with the code.
fn detail_text(code: &str, detail: &Value) -> String {
    let mut object = Map::new();
    object.insert("code".to_owned(), json!(code));
    if let Value::Object(fields) = detail {
        object.extend(fields.clone());
        // Whatever the fields say; it keeps its place.
        object.insert("code".to_owned(), json!(code));
    }
    Value::Object(object).to_string()
}

fn report(code: &str, message: String, detail: &Value, hint: Option<String>) -> ! {
    let mut error = ErrorReport::new(sqlstate(code), reportable(message), "tenancy")
        .set_detail(reportable(detail_text(code, detail)));
    if let Some(hint) = hint {
        error = error.set_hint(reportable(hint));
    }
    error.report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

/// Writes to the server's log that a statement goes round the isolation of a table, with the tenant and the user of the context.
pub fn log_bypass(table: &str, tenant: Option<TenantId>, user: Option<&Text>) {
    let mut detail = json!({"relation": table});
    tell("ISOLATION_BYPASSED", &detail);
    if let Some(tenant) = tenant {
        detail["tenant_id"] = json!(tenant.as_str());
    }
    if let Some(user) = user {
        detail["user_id"] = json!(user.to_utf8());
    }
    let detail = detail_text("ISOLATION_BYPASSED", &detail);
    let message = format!("isolation of table \"{table}\" is bypassed");
    ErrorReport::new(S::ERRCODE_SUCCESSFUL_COMPLETION, reportable(message), "tenancy")
        .set_detail(reportable(detail))
        .report(PgLogLevel::LOG);
}

/// Says that a scope of a transaction ends with the statement that has begun it.
pub fn warn_no_block() {
    let message = "begin_cross_tenant() without a duration has no effect outside of a transaction block";
    ErrorReport::new(S::ERRCODE_NO_ACTIVE_SQL_TRANSACTION, message, "tenancy")
        .set_hint("Begin the transaction first: BEGIN; or say how long: SELECT tenancy.begin_cross_tenant(..., '10 minutes');")
        .report(PgLogLevel::WARNING);
}

/// As many names are told.
const MOST_NAMES: usize = 100;

/// Says which tables are closed, as they keep row-level security and lose their policies.
pub fn warn_of_closed(tables: &[String]) {
    let named = &tables[..tables.len().min(MOST_NAMES)];
    let detail = detail_text("TABLES_CLOSED", &json!({"tables": tables.len(), "relations": named}));
    let count = if tables.len() == 1 { "1 table".to_owned() } else { format!("{} tables", tables.len()) };
    let message =
        format!("row-level security stays enabled on {count} without the policies of the extension");
    ErrorReport::new(S::ERRCODE_WARNING, reportable(message), "tenancy")
        .set_detail(reportable(detail))
        .set_hint("Without others, only superusers and roles with BYPASSRLS see rows. To show them to all who have privileges on a table: ALTER TABLE <table> NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY;")
        .report(PgLogLevel::WARNING);
}

/// Says that a charge has passed a soft limit: a NOTICE whose DETAIL is like that of the error of a hard one.
pub fn warn_of_quota(quota: &Quota) {
    let detail = detail_text("QUOTA_SOFT_LIMIT", &quota.detail());
    let whose = quota.tenant.map(|tenant| format!(" of tenant \"{}\"", tenant.as_str())).unwrap_or_default();
    let message = format!("soft limit{whose} for \"{}\" passed", quota.resource);
    ErrorReport::new(S::ERRCODE_SUCCESSFUL_COMPLETION, reportable(message), "tenancy")
        .set_detail(reportable(detail))
        .report(PgLogLevel::NOTICE);
}

/// Raises an error of the catalogue from PL/pgSQL.
///
/// `code` is the catalogue's code, which decides the SQLSTATE; `detail` are the fields of the JSON object in
/// DETAIL besides the code. Never returns. Volatile. For the extension's own functions.
#[pg_extern(schema = "_tenancy", volatile, parallel_safe)]
pub fn raise(
    code: Text,
    message: Text,
    detail: default!(Json, "'{}'"),
    hint: default!(Option<Text>, "NULL"),
) {
    // The lines of the extension's own PL/pgSQL would say nothing to its user; message, DETAIL and HINT say it all.
    crate::pg::forget_error_context();
    let (code, hint) = (code.to_utf8(), hint.map(|hint| hint.to_utf8().into_owned()));
    if !CATALOGUE.iter().any(|entry| entry.0 == code) {
        report("INTERNAL_ERROR", format!("unknown error code \"{code}\""), &json!({}), None);
    }
    // A detail that is more than that is left out, not the error.
    let detail = detail.value().unwrap_or_default();
    if let Some(entry) = CATALOGUE.iter().find(|entry| entry.0 == code) {
        tell(entry.0, &detail);
    }
    report(&code, message.to_utf8().into_owned(), &detail, hint)
}

/// The catalogue of errors: the code in DETAIL, its SQLSTATE, the status an HTTP layer answers with, and when.
/// Immutable. PUBLIC may call it.
#[pg_extern(schema = "tenancy", immutable, parallel_safe)]
#[allow(clippy::type_complexity)]
pub fn error_codes() -> TableIterator<
    'static,
    (
        name!(code, &'static str),
        name!(sqlstate, String),
        name!(http_status, i32),
        name!(meaning, &'static str),
    ),
> {
    TableIterator::new(
        CATALOGUE
            .iter()
            .map(|&(code, state, http, meaning)| (code, crate::pg::sqlstate_text(state), http, meaning)),
    )
}
