//! Which refusals are put on record?
//!
//! Those that tell of an attack, or of an application that has lost its way: an entry each, which stays when the transaction that was
//! refused is rolled back. So many in a minute and session, or whoever provokes them could fill the disk; the next entry tells how many were
//! left out. Where nothing can be written, on a standby and in parallel workers, the server's log has the error alone.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use serde_json::{Value, json};

use super::{Record, record_to_stay};
use crate::guc;
use crate::pg::{
    self,
    text::{Text, reportable},
    xact,
};
use crate::tenant::TenantId;

/// Codes of what is put on record. Of what signing in refuses, `refused_sign_in` tells.
const RECORDED: [&str; 9] = [
    "INVITATION_INVALID",
    "TENANT_ACCESS_DENIED",
    "TENANT_NOT_FOUND",
    "TENANT_SUSPENDED",
    "TOKEN_INVALID",
    "TOKEN_EXPIRED",
    "QUOTA_EXCEEDED",
    "PROTECTION_WEAKENED",
    "ISOLATION_BYPASSED",
];
/// As many in a minute, of a session and tenant.
const MOST: u32 = 100;
/// Tenants that are kept count of; past this it starts afresh.
const TENANTS: usize = 1024;
const MINUTE: i64 = 60_000_000;
/// The longest detail, in bytes: an entry that stays must be short.
const LONGEST: usize = 1000;

/// What has been put on record since when, and what has not.
#[derive(Clone, Copy)]
struct Lately {
    since: i64,
    recorded: u32,
    left_out: u32,
}

thread_local! {
    /// For each tenant: behind a pooler, a session serves many.
    static LATELY: RefCell<HashMap<Option<TenantId>, Lately>> = RefCell::new(HashMap::new());
    /// An entry is being written: what fails meanwhile is not put on record.
    static IS_WRITING: Cell<bool> = const { Cell::new(false) };
}

/// Until dropped, by an error as well.
struct Writing;

impl Drop for Writing {
    fn drop(&mut self) {
        IS_WRITING.set(false);
    }
}

/// Puts a refusal on record, where it is one of those, in the trail of the context's tenant.
pub fn refused(code: &'static str, detail: &str) {
    crate::stat_tenants::refused(code);
    if guc::audit_refusals() && RECORDED.contains(&code) {
        // Of a tenant that is not registered there is no trail.
        let named = pg::guc::assigned().map(|assigned| assigned.id).filter(|id| !id.is_scope());
        let tenant = named.filter(|_| code != "TENANT_NOT_FOUND");
        write(tenant, detail.to_owned());
    }
}

/// Puts on record how often a table that is to be protected was read or written without a tenant, by this session since the last time.
pub fn observed(relation: &Text, application: &Text, accesses: i64) {
    let detail = json!({"application": application.to_utf8(), "accesses": accesses});
    put("OBSERVED", None, Some(relation), detail.to_string());
}

/// Puts an attempt to sign in on record, in the trail of the tenant, if there is such a one.
pub fn refused_sign_in(code: &'static str, tenant: Option<TenantId>, user: &str) {
    let user: String = user.chars().take(255).collect();
    write(tenant, json!({"code": code, "user": user}).to_string());
}

fn note(tenant: Option<TenantId>, so_far: Lately) {
    LATELY.with_borrow_mut(|lately| {
        if lately.len() >= TENANTS {
            lately.clear();
        }
        lately.insert(tenant, so_far);
    });
}

fn write(tenant: Option<TenantId>, detail: String) {
    put("REFUSED", tenant, None, detail);
}

fn put(operation: &str, tenant: Option<TenantId>, relation: Option<&Text>, mut detail: String) {
    let can_write = || {
        xact::in_transaction()
            && !xact::in_recovery()
            && !pg::is_in_parallel_mode()
            && !pg::in_parallel_worker()
            && pg::scan::table(c"audit_heads").is_some()
    };
    if IS_WRITING.get() || !can_write() {
        return;
    }
    if operation == "OBSERVED" {
        // As seldom as it is counted.
        record(operation, tenant, relation, detail);
        return;
    }
    let now = xact::now();
    let known = LATELY.with_borrow(|lately| lately.get(&tenant).copied());
    let mut lately = known.unwrap_or(Lately { since: 0, recorded: 0, left_out: 0 });
    if now - lately.since >= MINUTE {
        lately = Lately { since: now, recorded: 0, ..lately };
    }
    if lately.recorded >= MOST {
        note(tenant, Lately { left_out: lately.left_out.saturating_add(1), ..lately });
        return;
    }
    if lately.left_out > 0
        && let Ok(Value::Object(mut fields)) = serde_json::from_str(&detail)
    {
        fields.insert("left_out".to_owned(), json!(lately.left_out));
        detail = Value::Object(fields).to_string();
    }
    note(tenant, Lately { recorded: lately.recorded + 1, left_out: 0, ..lately });
    record(operation, tenant, relation, detail);
}

fn record(operation: &str, tenant: Option<TenantId>, relation: Option<&Text>, mut detail: String) {
    detail = reportable(detail);
    if detail.len() > LONGEST {
        let begin: String = detail.chars().take(LONGEST / 8).collect();
        detail = reportable(json!({"shortened": begin}).to_string());
    }
    let _writing = Writing;
    IS_WRITING.set(true);
    record_to_stay(&Record {
        tenant,
        operation,
        relation: relation.map(Text::as_bytes),
        detail: Some(detail.as_bytes()),
        ..Record::default()
    });
}
