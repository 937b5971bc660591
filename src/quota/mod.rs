//! How much may a tenant use, and is that respected?
//!
//! Guarantees: a tenant's own quota goes before that of its plan, which goes before the default, for each period by itself;
//! a change is in force at the next statement of every backend (relcache invalidation, as in `registry`).

use std::ffi::CString;

use pgrx::prelude::*;

mod limits;

use crate::context;
use crate::error::{Error, Quota, warn_of_quota};
use crate::period::{PERIODS, Span};
use crate::pg::{self, text::Text};
use crate::resource::Resource;
use crate::tenant::TenantId;
use crate::usage::{self, Charged, Intervals, Key, Note, Refused};
use limits::Limits;

/// Where those who listen learn that a soft limit was passed.
const CHANNEL: &str = "tenancy_quota";
const NOTICE: &str = "{\"code\":\"QUOTA_SOFT_LIMIT\"}";

pub fn init() {
    limits::init();
}

/// The intervals over which resources are counted, for every tenant.
pub const INTERVALS: Intervals = Intervals {
    of: |resource| limits::others(resource).iter().map(|other| other.interval).collect(),
    generation: limits::generation,
};

/// The tenant, where the caller may learn of it: a tenant's own context, or none.
fn visible(tenant: &TenantId) -> Option<TenantId> {
    let context = pg::guc::assigned().map(|assigned| assigned.id);
    context.is_none_or(|id| id == *tenant).then_some(*tenant)
}

fn refuse(key: &Key, limits: &Limits, refused: Refused, requested: i64) -> ! {
    Error::QuotaExceeded(&Quota {
        tenant: visible(key.tenant()),
        resource: key.resource().as_str(),
        period: limits.period(refused.place),
        current: refused.current,
        limit: refused.maximum,
        requested,
    })
    .raise()
}

/// Says so where a soft limit was passed: once per transaction to the client, and to those who listen when it is crossed.
fn warn(key: &Key, limits: &Limits, charged: &Charged, requested: i64) {
    for (place, level) in charged.standard.iter().chain(&charged.others).enumerate() {
        let Some(soft) = limits.soft(place).filter(|soft| level.after > *soft) else { continue };
        let is_crossed = level.before <= soft;
        if usage::warn_once(key) || is_crossed {
            warn_of_quota(&Quota {
                tenant: visible(key.tenant()),
                resource: key.resource().as_str(),
                period: limits.period(place),
                current: level.after,
                limit: soft,
                requested,
            });
            // Anybody can listen, so it says that something happened and not to whom. PostgreSQL prepares no transaction that
            // notifies, and a soft limit refuses nothing.
            if is_crossed && !pg::xact::may_be_prepared() {
                pg::notify::notify(CHANNEL, NOTICE);
            }
        }
    }
}

/// Charges a tenant; raises `QUOTA_EXCEEDED` where that would pass a limit.
pub fn charge(tenant: &TenantId, resource: &Resource, amount: i64, note: Note) {
    if amount == 0 && matches!(note, Note::Merged) {
        return;
    }
    let limits = limits::of(tenant, resource);
    let key = usage::key(tenant, resource);
    match usage::charge(&key, amount, &limits.maximums, note) {
        Ok(charged) if amount > 0 => warn(&key, &limits, &charged, amount),
        Ok(_) => {}
        Err(refused) => refuse(&key, &limits, refused, amount),
    }
}

/// The resource of that name, or an error.
pub fn resource(name: &Text) -> Resource {
    Resource::parse(name.as_bytes()).unwrap_or_else(|| {
        Error::Argument("resource", "must have 1 to 63 letters, digits or characters of . _ : / -").raise()
    })
}

fn positive(amount: i64) -> i64 {
    if amount < 0 {
        Error::Argument("amount", "must not be negative").raise()
    }
    amount
}

/// Returns whether the current tenant could use an amount of a resource now. What others have reserved counts. Errors: those of
/// `current_tenant()`, 22023 (`PARAMETER_INVALID`). Volatile. PUBLIC may call it.
#[pg_extern(schema = "tenancy", volatile)]
pub fn check_quota(resource: Text, amount: default!(i64, 1)) -> bool {
    let (tenant, resource, amount) = (context::required(), self::resource(&resource), positive(amount));
    let limits = limits::of(&tenant, &resource);
    // Nothing has to be counted where nothing is limited.
    limits.maximums.is_unlimited()
        || usage::has_room(&usage::key(&tenant, &resource), amount, &limits.maximums)
}

/// Raises 53400 (`QUOTA_EXCEEDED`) unless the current tenant can use an amount of a resource, and keeps the room until the
/// transaction ends. Other errors: those of `check_quota`. Volatile. PUBLIC may call it.
#[pg_extern(schema = "tenancy", volatile)]
pub fn enforce_quota(resource: Text, amount: default!(i64, 1)) {
    let (tenant, resource, amount) = (context::required(), self::resource(&resource), positive(amount));
    let limits = limits::of(&tenant, &resource);
    if limits.maximums.is_unlimited() {
        return;
    }
    let key = usage::key(&tenant, &resource);
    match usage::keep_room(&key, amount, &limits.maximums) {
        Ok(charged) => warn(&key, &limits, &charged, amount),
        Err(refused) => refuse(&key, &limits, refused, amount),
    }
}

/// Records that the current tenant uses an amount of a resource, with what the application wants to keep with it: the text of a
/// JSON object. Raises 53400 (`QUOTA_EXCEEDED`) where that would pass a limit. For `tenancy.track_usage`, which has looked at the
/// arguments.
#[pg_extern(schema = "_tenancy", volatile)]
pub fn track(resource: Text, amount: i64, metadata: Text) {
    // The lines of our own PL/pgSQL would say nothing to its user.
    pg::forget_error_context();
    let (tenant, resource, amount) = (context::required(), self::resource(&resource), positive(amount));
    pg::refuse_read_only(c"track_usage");
    usage::refuse_too_many(&tenant, &resource);
    // A text of PostgreSQL's has no NUL.
    let note = if metadata.as_bytes() == b"{}" {
        Note::Merged
    } else {
        Note::Metadata(CString::new(metadata.as_bytes()).unwrap_or_default())
    };
    charge(&tenant, &resource, amount, note);
}

/// Waits for another transaction that settles the ledger, and keeps the next from doing so until this one ends. Volatile. For
/// `tenancy.settle_usage`.
#[pg_extern(schema = "_tenancy", volatile)]
pub fn lock_settling() {
    usage::lock_settling();
}

/// Returns whether the caller sees the figures of all tenants: a superuser, a role with BYPASSRLS or one that inherits
/// `pg_monitor`, where no tenant is set. Stable. For the views of usage and quotas.
#[pg_extern(schema = "_tenancy", stable, parallel_restricted)]
pub fn sees_all_tenants() -> bool {
    pg::user::may_monitor() && context::is_unset()
}

/// Returns what a tenant uses of a resource: used and reserved, for good, in the current hour, day and month, and in each other
/// period that a quota of the resource asks for. Raises 42501
/// (`TENANT_ACCESS_DENIED`) for another tenant than that of the context. Volatile. For `tenancy.quota_status`.
#[pg_extern(schema = "_tenancy", volatile)]
#[allow(clippy::type_complexity)]
pub fn usage_of(
    tenant_id: Text,
    resource: Text,
) -> TableIterator<'static, (name!(period, String), name!(used, i64), name!(reserved, i64))> {
    let tenant = TenantId::parse(tenant_id.as_bytes()).unwrap_or_else(|why| Error::IdInvalid(why).raise());
    // The views that call it run with the rights of their callers, who could call it themselves.
    if !sees_all_tenants() && tenant != context::required() {
        Error::OfAnotherTenant("usage").raise()
    }
    let resource = self::resource(&resource);
    let key = usage::key(&tenant, &resource);
    let standard = PERIODS.iter().map(|period| period.as_str().to_owned()).zip(usage::amounts(&key));
    let others = limits::others(&resource);
    let others = others.iter().map(|other| (other.period.clone(), usage::amount_over(&key, other.interval)));
    let all = standard.chain(others).map(|(period, amount)| (period, amount.used, amount.reserved));
    TableIterator::new(all.collect::<Vec<_>>())
}

/// Returns when the period of a length began that holds a moment: `span` in microseconds, or in months where it is negative; both
/// moments in microseconds since 2000-01-01 UTC. Immutable. For `tenancy.drop_usage`.
#[pg_extern(schema = "_tenancy", immutable, strict, parallel_safe)]
pub fn span_start(span: i64, at: i64) -> i64 {
    Span::new(span).map_or(at, |span| span.start(at))
}
