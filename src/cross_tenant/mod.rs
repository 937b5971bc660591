//! Who works for several tenants at once, why, and what was done?
//!
//! Guarantees: a scope is begun by a role that was granted all of its tenants, with a reason, for a transaction or for a time (`scope`); that it
//! was begun is in each tenant's audit trail before its first statement runs, and each statement with its rows is in the trail of the
//! administrators, whether the transaction is committed or not. Where nothing can be written, on a standby, no scope is begun.

use std::cell::{Cell, RefCell};

use pgrx::datum::{Array, Interval, TimestampWithTimeZone};
use pgrx::prelude::*;

mod for_each;
mod log;

use crate::context;
use crate::error::Error;
use crate::pg::{self, running, text::Text, xact};
use crate::registry;
use crate::scope::{self, Scope};
use crate::tenant::TenantId;

/// The longest reason, in bytes: an entry of the audit trail that stays must be short.
const LONGEST_REASON: usize = 255;

/// Scopes that a session remembers having begun.
const KEPT: usize = 64;

/// A scope that this session has begun.
#[derive(Clone)]
struct Begun {
    number: i64,
    reason: String,
    is_local: bool,
    /// How many statements it has had.
    statements: u64,
}

thread_local! {
    /// The latest, of which a rollback may bring back one that was ended.
    static BEGUN: RefCell<Vec<Begun>> = const { RefCell::new(Vec::new()) };
    /// The statement whose rows are to be told of.
    static TOLD: Cell<Option<(i64, u64)>> = const { Cell::new(None) };
}

pub fn init() {
    log::init();
    for_each::init();
    xact::listen(|event| {
        if event.is_end() {
            TOLD.set(None);
        }
    });
}

/// The scope that the session is in.
fn begun() -> Option<Begun> {
    let number = pg::scope::given()?.number;
    BEGUN.with_borrow(|begun| begun.iter().find(|one| one.number == number).cloned())
}

/// The tenants that a function's argument names, each once, in their order; `all` are those that `*` stands for.
fn tenants(named: Option<&Array<&[u8]>>, all: impl Fn() -> Vec<TenantId>) -> Vec<TenantId> {
    let Some(named) = named else { Error::NullArgument("tenants").raise() };
    let mut tenants = Vec::with_capacity(named.len());
    for name in named.iter() {
        match name {
            None => Error::Argument("tenants", "must not have a null element").raise(),
            Some(scope::ALL) => tenants.extend(all()),
            Some(text) => {
                tenants.push(TenantId::parse(text).unwrap_or_else(|why| Error::IdInvalid(why).raise()))
            }
        }
    }
    if named.is_empty() {
        Error::Argument("tenants", "must have an element").raise()
    }
    tenants.sort_unstable_by(|one, other| one.as_bytes().cmp(other.as_bytes()));
    tenants.dedup();
    tenants
}

/// Begins a scope: until the transaction ends, or for `duration`, statements are about the rows of all of `tenants`, and of no other.
///
/// `tenants`: ids, or `*` for all that were granted, of those that are registered now. `reason`: why, up to 255 bytes, for the audit trail. `duration`: null for the
/// rest of the transaction. Returns when the scope ends at the latest. Raises 42501 (`TENANT_ACCESS_DENIED`) where the role was not
/// granted one of the tenants, is exempt from row-level security, or where a scope or a statement that writes is on; 42704
/// (`TENANT_NOT_FOUND`), 22023 (`TENANT_ID_INVALID`, `PARAMETER_INVALID`). Volatile. PUBLIC may call it.
#[pg_extern(sql = false)]
pub fn begin_cross_tenant(
    tenants: Option<Array<&[u8]>>,
    reason: Option<Text>,
    duration: Option<Interval>,
) -> Option<TimestampWithTimeZone> {
    pg::refuse_on_standby(c"tenancy.begin_cross_tenant()");
    let Some(reason) = reason else { Error::NullArgument("reason").raise() };
    let text = reason.to_utf8().trim().to_owned();
    if text.is_empty() || reason.as_bytes().len() > LONGEST_REASON {
        Error::Argument("reason", "must have 1 to 255 bytes, and not blanks alone").raise()
    }
    let duration = duration.map(|interval| {
        let micros = interval.as_micros();
        i64::try_from(micros).unwrap_or(if micros < 0 { i64::MIN } else { i64::MAX })
    });
    if duration.is_some_and(|micros| micros <= 0) {
        Error::Argument("duration", "must be positive").raise()
    }
    if pg::user::is_inside_definer() || !running::only_reads() {
        Error::ScopeInside.raise()
    }
    let role = pg::user::role();
    if pg::user::bypasses() {
        Error::Exempt("tenancy.begin_cross_tenant()").raise()
    }
    pg::inval::accept();
    if !context::abandons_scope() {
        Error::ScopeInScope.raise()
    }
    // Who was granted some crosses to those, and learns of no other.
    let all = || match scope::is_granted_all(role) {
        true => registry::registered(),
        false => scope::granted_by_name(role),
    };
    let tenants = self::tenants(tenants.as_ref(), all);
    if tenants.is_empty() {
        Error::NothingGranted.raise()
    }
    let granted = match scope::granted(role, &tenants) {
        Ok(granted) => granted,
        Err(Some(tenant)) => Error::NotGranted(tenant).raise(),
        Err(None) => Error::NotInstalled.raise(),
    };
    for tenant in &tenants {
        // Whatever its status is: that it is suspended may be why somebody looks at it.
        if let Err(error) = registry::standing(tenant) {
            error.raise()
        }
    }
    let until = duration.map_or(i64::MAX, |micros| xact::now().saturating_add(micros)).min(granted.until);
    let scope = Scope {
        // Positive, so that it is easy to type, and never zero.
        number: (i64::from_be_bytes(pg::random()) & i64::MAX).max(1),
        role,
        until,
        is_read_only: granted.is_read_only,
        tenants,
    };
    let begun = Begun { number: scope.number, reason: text, is_local: duration.is_none(), statements: 0 };
    log::begin(&scope, &begun);
    BEGUN.with_borrow_mut(|all| {
        if all.len() >= KEPT {
            all.remove(0);
        }
        all.push(begun);
    });
    scope::enter(&scope, duration.is_none());
    pg::scope::keep_from_writing();
    if duration.is_none() && !xact::is_in_block() && running::is_client_select() {
        crate::error::warn_no_block();
    }
    (until < i64::MAX).then(|| TimestampWithTimeZone::try_from(until).ok()).flatten()
}

/// Ends the scope that the session is in; returns whether it was in one. A transaction that was read-only in it stays so. Volatile. PUBLIC may
/// call it.
#[pg_extern(sql = false)]
pub fn end_cross_tenant() -> bool {
    if !context::is_crossing() {
        return false;
    }
    let begun = begun();
    if let Some(begun) = &begun {
        log::end(begun);
    }
    scope::leave(begun.is_none_or(|begun| begun.is_local));
    true
}
