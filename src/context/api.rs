//! What SQL calls: what the context is, what it refuses, and the triggers of protected tables.

use pgrx::{AllocatedByPostgres, prelude::*};
use serde_json::json;

use super::{
    FIRST, SEALED, bypassed, confirm, is_crossing, is_sealed, named, refuse_in_context, required,
    set_by_parameter, user_id,
};
use crate::error::Error;
use crate::guard;
use crate::guc::{self, Mode};
use crate::pg::{
    self,
    guc::Source,
    running,
    text::{Json, Text},
};
use crate::registry;
use crate::scope;
use crate::tenant::TenantId;

/// Never returns: raises 42501 (`TENANT_ACCESS_DENIED`), or the error of a missing tenant. Policies call it
/// where a row that is to be written is not the current tenant's. Volatile. PUBLIC may call it.
#[pg_extern(schema = "tenancy", volatile, parallel_safe)]
pub fn deny_write() -> bool {
    if is_crossing() {
        Error::WriteOutOfScope.raise()
    }
    Error::WriteAcrossTenants(required()).raise()
}

/// Seals the transaction: until it ends, no other tenant can be set or used, as with
/// `tenancy.seal = 'transaction'`. Errors: those of `current_tenant()`. Volatile. PUBLIC may call it.
#[pg_extern(schema = "tenancy", volatile)]
pub fn seal() {
    // To the tenant it is called in, which need not be the first that the transaction has been in.
    FIRST.set(Some(required()));
    SEALED.set(true);
}

/// Describes the context as one object: tenant, its status, user, where the tenant came from, whether the
/// transaction is sealed, and the error that a protected table would raise, if any. Raises nothing itself.
/// Stable. PUBLIC may call it.
#[pg_extern(schema = "tenancy", stable, parallel_restricted)]
pub fn context() -> Json {
    let error = match confirm() {
        Err(error) => Some(error.code()),
        Ok(None) => Some(Error::ContextMissing.code()),
        Ok(Some(_)) => None,
    };
    let named = named().ok().flatten().filter(|id| *id != TenantId::NONE && !id.is_scope());
    let source = match pg::guc::assigned().map(|assigned| assigned.source) {
        None if named.is_some() => "default_tenant",
        None => "none",
        Some(_) if is_crossing() => "cross_tenant",
        Some(_) if pg::token::is_given() => "token",
        Some(Source::Default | Source::Server) => "server",
        Some(Source::Role) => "role",
        Some(Source::Client) => "client",
        Some(Source::Session) => "session",
    };
    let mut described = json!({
        "tenant_id": named.map(|id| id.as_str().to_owned()),
        "status": named.and_then(|id| registry::standing(&id).ok()).map(|standing| standing.status.as_str()),
        "user_id": user_id().map(|user| user.to_utf8().into_owned()),
        "source": source,
        "mode": if guc::mode() == Mode::Single { "single" } else { "multi" },
        "sealed": is_sealed() && FIRST.get().is_some(),
        "error": error,
    });
    if let Some(scope) = scope::current() {
        described["cross_tenant"] = scope.describe();
    }
    Json::from(&described)
}

/// Raises 42501 (`TENANT_ACCESS_DENIED`) where a tenant is set: what a tenant runs must not reach the registry or the
/// protection, whatever was granted. `what` is called so. Stable. For the functions of the extension.
#[pg_extern(schema = "_tenancy", name = "refuse_in_context", stable, parallel_restricted)]
pub fn refuse_in_context_sql(what: Text) {
    refuse_in_context(&what.to_utf8());
}

/// Trigger on protected tables: raises 42501 (`TENANT_ACCESS_DENIED`) where a tenant is set. No policy applies to TRUNCATE, so
/// `tenancy.bypass_guard` has to be asked as well.
#[pg_trigger(sql = false)]
pub fn deny_truncate<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, impl WhoAllocated>>, PgTriggerError> {
    if let Some(id) = set_by_parameter() {
        Error::TruncatedFor(id, &trigger.table_name()?).raise()
    }
    if !pg::user::means_all_rows() {
        bypassed(&trigger.table_name()?);
    }
    Ok(trigger.old())
}

/// Lets the client's statement that is running go on for another tenant, as if it had just begun. For the extension's own
/// functions that visit tenants; raises 42501 (`TENANT_ACCESS_DENIED`) for a role that is under row-level security.
#[pg_extern(schema = "_tenancy", volatile)]
pub fn begin_anew() {
    if !pg::user::bypasses() {
        Error::ChangedInStatement.raise()
    }
    running::begin_anew();
}

/// Trigger on tables of kind `system`: raises 42501 (`TENANT_ACCESS_DENIED`) where a tenant is set.
#[pg_trigger(sql = false)]
pub fn deny_system_write<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, impl WhoAllocated>>, PgTriggerError> {
    if let Some(id) = set_by_parameter() {
        Error::SystemTable(id, &trigger.table_name()?).raise()
    }
    Ok(trigger.old())
}

/// Trigger on tables of kind `audit`: raises 42501 (`TENANT_ACCESS_DENIED`) on any change but an insertion.
#[pg_trigger(sql = false)]
pub fn deny_audit_change<'a>(
    trigger: &'a PgTrigger<'a>,
) -> Result<Option<PgHeapTuple<'a, AllocatedByPostgres>>, PgTriggerError> {
    if !guard::is_moving(None) {
        Error::AuditTable(&trigger.table_name()?).raise()
    }
    Ok(trigger.old())
}
