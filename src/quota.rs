//! How much may a tenant use, and is that respected?
//!
//! Guarantees: a tenant's own quota goes before that of its plan, which goes before the default, for each period by itself;
//! a change is in force at the next statement of every backend (relcache invalidation, as in `registry`).
//! Reads `_tenancy.quotas` directly (`pg::scan`), so its columns have fixed places; a test checks it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{Hash, Hasher};

use pgrx::{JsonB, prelude::*};
use serde_json::Value;

use crate::context;
use crate::error::{Error, Quota, warn_of_quota};
use crate::period::{PERIODS, Period};
use crate::pg;
use crate::registry;
use crate::resource::Resource;
use crate::tenant::TenantId;
use crate::usage::{self, Key, Levels, Note, Refused};

/// A limit over a period.
#[derive(Clone, Copy, Default)]
struct Limit {
    maximum: Option<i64>,
    soft: Option<i64>,
}

/// The limits over each of `PERIODS`.
type Limits = [Limit; 4];

// The columns of _tenancy.quotas.
const PERIOD: i32 = 4;
const MAX_AMOUNT: i32 = 5;
const SOFT_LIMIT: i32 = 6;

/// Limits kept per backend; past this it starts afresh.
const CACHED: usize = 16_384;
/// Where those who listen learn that a soft limit was passed.
const CHANNEL: &str = "tenancy_quota";
const NOTICE: &str = "{\"code\":\"QUOTA_SOFT_LIMIT\"}";

#[derive(Clone, Copy)]
struct Relations {
    table: pg::Oid,
    key: pg::Oid,
}

/// Whose limits, and of what.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Name(TenantId, Resource);

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_bytes().hash(state);
        self.1.as_bytes().hash(state);
    }
}

/// Limits as they were at a generation of the quotas and one of the registry.
#[derive(Clone, Copy)]
struct Known {
    generations: (u64, u64),
    limits: Limits,
}

thread_local! {
    static LIMITS: RefCell<HashMap<Name, Known>> = RefCell::new(HashMap::new());
    /// The one that was asked for last.
    static LAST: Cell<Option<(Name, Known)>> = const { Cell::new(None) };
    static RELATIONS: Cell<Option<Relations>> = const { Cell::new(None) };
    static GENERATION: Cell<u64> = const { Cell::new(1) };
}

pub fn init() {
    pg::inval::listen(|changed| {
        if RELATIONS.get().is_none_or(|known| changed.is_none_or(|oid| oid == known.table)) {
            GENERATION.set(GENERATION.get() + 1);
            RELATIONS.set(None);
        }
    });
}

fn relations() -> Relations {
    RELATIONS.get().unwrap_or_else(|| {
        let found = pg::scan::relation(c"_tenancy", c"quotas")
            .zip(pg::scan::relation(c"_tenancy", c"quotas_pkey"))
            .map(|(table, key)| Relations { table, key });
        RELATIONS.set(found);
        found.unwrap_or_else(|| Error::NotInstalled.raise())
    })
}

/// The limits that apply to a tenant.
fn limits(tenant: &TenantId, resource: &Resource) -> Limits {
    let name = Name(*tenant, *resource);
    let generations = (GENERATION.get(), registry::generation());
    if let Some((last, known)) = LAST.get()
        && known.generations == generations
        && last == name
    {
        return known.limits;
    }
    let known = LIMITS.with_borrow(|limits| limits.get(&name).copied());
    let known = known.filter(|known| known.generations == generations).unwrap_or_else(|| {
        // As of the generations before the read: what arrives during it makes this answer outdated at once.
        let known = Known { generations, limits: read_limits(tenant, resource) };
        LIMITS.with_borrow_mut(|limits| {
            if limits.len() >= CACHED {
                limits.clear();
            }
            limits.insert(name, known);
        });
        known
    });
    LAST.set(Some((name, known)));
    known.limits
}

fn read_limits(tenant: &TenantId, resource: &Resource) -> Limits {
    let relations = relations();
    let mut limits: [Option<Limit>; 4] = [None; 4];
    let mut add = |scope: &str, name: &str| {
        pg::scan::rows(relations.table, relations.key, &[scope, name, resource.as_str()], |row| {
            let period = row.text(PERIOD).as_deref().and_then(Period::parse);
            // A period that this library does not know must not pass for no limit.
            let Some(period) = period else { Error::Internal("quota with an unknown period").raise() };
            limits[period as usize]
                .get_or_insert(Limit { maximum: row.bigint(MAX_AMOUNT), soft: row.bigint(SOFT_LIMIT) });
        });
    };
    add("tenant", tenant.as_str());
    if let Some(plan) = registry::plan(tenant) {
        add("plan", &plan);
    }
    add("default", "");
    limits.map(Option::unwrap_or_default)
}

/// The tenant, where the caller may learn of it: a tenant's own context, or none.
fn visible(tenant: &TenantId) -> Option<TenantId> {
    let context = pg::guc::assigned().map(|assigned| assigned.id);
    context.is_none_or(|id| id == *tenant).then_some(*tenant)
}

fn refuse(key: &Key, refused: Refused, requested: i64) -> ! {
    Error::QuotaExceeded(&Quota {
        tenant: visible(key.tenant()),
        resource: key.resource().as_str(),
        period: refused.period,
        current: refused.current,
        limit: refused.maximum,
        requested,
    })
    .raise()
}

/// Says so where a soft limit was passed: once per transaction to the client, and to those who listen when it is crossed.
fn warn(key: &Key, limits: &Limits, levels: &Levels, requested: i64) {
    for period in PERIODS {
        let (before, after) = (levels.before[period as usize], levels.after[period as usize]);
        let Some(soft) = limits[period as usize].soft.filter(|soft| after > *soft) else { continue };
        if usage::warn_once(key) || before <= soft {
            warn_of_quota(&Quota {
                tenant: visible(key.tenant()),
                resource: key.resource().as_str(),
                period,
                current: after,
                limit: soft,
                requested,
            });
            // Anybody can listen, so it says that something happened and not to whom. PostgreSQL prepares no transaction that
            // notifies, and a soft limit refuses nothing.
            if before <= soft && !pg::xact::may_be_prepared() {
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
    let limits = limits(tenant, resource);
    let key = usage::key(tenant, resource);
    match usage::charge(&key, amount, &limits.map(|limit| limit.maximum), note) {
        Ok(levels) if amount > 0 => warn(&key, &limits, &levels, amount),
        Ok(_) => {}
        Err(refused) => refuse(&key, refused, amount),
    }
}

/// The resource of that name, or an error.
pub fn resource(name: &str) -> Resource {
    Resource::parse(name).unwrap_or_else(|| {
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
pub fn check_quota(resource: &str, amount: default!(i64, 1)) -> bool {
    let (tenant, resource, amount) = (context::required(), self::resource(resource), positive(amount));
    let maximums = limits(&tenant, &resource).map(|limit| limit.maximum);
    // Nothing has to be counted where nothing is limited.
    maximums.iter().all(Option::is_none)
        || usage::has_room(&usage::key(&tenant, &resource), amount, &maximums).is_ok()
}

/// Raises 53400 (`QUOTA_EXCEEDED`) unless the current tenant can use an amount of a resource, and keeps the room until the
/// transaction ends. Other errors: those of `check_quota`. Volatile. PUBLIC may call it.
#[pg_extern(schema = "tenancy", volatile)]
pub fn enforce_quota(resource: &str, amount: default!(i64, 1)) {
    let (tenant, resource, amount) = (context::required(), self::resource(resource), positive(amount));
    let limits = limits(&tenant, &resource);
    let maximums = limits.map(|limit| limit.maximum);
    if maximums.iter().all(Option::is_none) {
        return;
    }
    let key = usage::key(&tenant, &resource);
    match usage::keep_room(&key, amount, &maximums) {
        Ok(levels) => warn(&key, &limits, &levels, amount),
        Err(refused) => refuse(&key, refused, amount),
    }
}

/// Records that the current tenant uses an amount of a resource, with what the application wants to keep with it. Raises 53400
/// (`QUOTA_EXCEEDED`) where that would pass a limit. For `tenancy.track_usage`, which has looked at the arguments.
#[pg_extern(schema = "_tenancy", volatile)]
pub fn track(resource: &str, amount: i64, metadata: JsonB) {
    // The lines of our own PL/pgSQL would say nothing to its user.
    pg::forget_error_context();
    let (tenant, resource, amount) = (context::required(), self::resource(resource), positive(amount));
    pg::refuse_read_only(c"track_usage");
    usage::refuse_too_many(&tenant, &resource);
    let is_empty = metadata.0 == Value::Object(Default::default());
    charge(&tenant, &resource, amount, if is_empty { Note::Merged } else { Note::Metadata(metadata.0) });
}

/// Returns whether the caller sees the figures of all tenants: a superuser, a role with BYPASSRLS or one that inherits
/// `pg_monitor`, where no tenant is set. Stable. For the views of usage and quotas.
#[pg_extern(schema = "_tenancy", stable, parallel_restricted)]
pub fn sees_all_tenants() -> bool {
    pg::guc::assigned().is_none() && pg::user::may_monitor()
}

/// Returns what a tenant uses of a resource: used and reserved, for good and in the current hour, day and month. Raises 42501
/// (`TENANT_ACCESS_DENIED`) for another tenant than that of the context. Volatile. For `tenancy.quota_status`.
#[pg_extern(schema = "_tenancy", volatile)]
#[allow(clippy::type_complexity)]
pub fn usage_of(
    tenant_id: &str,
    resource: &str,
) -> TableIterator<'static, (name!(period, &'static str), name!(used, i64), name!(reserved, i64))> {
    let tenant = TenantId::parse(tenant_id.as_bytes()).unwrap_or_else(|why| Error::IdInvalid(why).raise());
    // The views that call it run with the rights of their callers, who could call it themselves.
    if !sees_all_tenants() && tenant != context::required() {
        Error::OfAnotherTenant.raise()
    }
    let amounts = usage::amounts(&usage::key(&tenant, &self::resource(resource)));
    TableIterator::new(
        PERIODS
            .into_iter()
            .zip(amounts)
            .map(|(period, amount)| (period.as_str(), amount.used, amount.reserved)),
    )
}
