//! Which tenants keep this server busy?
//!
//! Guarantees: what statements of clients took is counted once, when their transaction has ended, for the tenant that they ran for. In
//! shared memory, bounded: where there is no place for another tenant, the one that took the least time among some gives way, and what was
//! counted for it is added to that of the rest, so that nothing is lost from the totals. A tenant sees its own figures only.

use std::cell::RefCell;

use pgrx::datum::TimestampWithTimeZone;
use pgrx::prelude::*;
use serde_json::{Map, Value};

use crate::context;
use crate::error::Error;
use crate::pg::{
    self,
    activity::{self, Judges, Measures},
    shmem::{Slot, Table, WAYS},
    text::{Json, Text},
    xact::{self, Event},
};
use crate::quota;
use crate::registry;
use crate::tenant::TenantId;

/// For whom something is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    /// Nobody: the slot is free.
    Free,
    Tenant,
    /// No tenant, or none that is known.
    None,
    /// Tenants that gave way.
    Rest,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Free => "",
            Kind::Tenant => "tenant",
            Kind::None => "none",
            Kind::Rest => "rest",
        }
    }
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Kept {
    kind: Kind,
    database: u32,
    tenant: TenantId,
    since: i64,
    measures: Measures,
}

impl Slot for Kept {
    const FREE: Kept =
        Kept { kind: Kind::Free, database: 0, tenant: TenantId::NONE, since: 0, measures: Measures::EMPTY };
}

static TABLE: Table<Kept> = Table::new(c"tenancy statistics");

thread_local! {
    /// The tenants that this transaction has deleted, each with the nesting level that has.
    static DELETED: RefCell<Vec<(i32, TenantId)>> = const { RefCell::new(Vec::new()) };
}

/// Asks for room for so many tenants when the server starts.
pub fn init(count: fn() -> usize) {
    TABLE.init(count);
    activity::init(Judges { is_on: || TABLE.is_there(), whose, take });
    xact::listen(ended);
}

/// For whom a statement runs: whom the context names, if that is a tenant that this backend has met.
fn whose(last: Option<&TenantId>) -> Option<TenantId> {
    let id = context::named_tenant()?;
    (last == Some(&id) || registry::is_known(&id)).then_some(id)
}

fn take(tenant: Option<&TenantId>, measures: &Measures) {
    let (kind, id) = tenant.map_or((Kind::None, TenantId::NONE), |id| (Kind::Tenant, *id));
    let database = pg::database().to_u32();
    let new = Kept { kind, database, tenant: id, since: xact::now(), measures: *measures };
    if let Some(gone) = add(new) {
        add_to_rest(gone);
    }
}

fn add_to_rest(gone: Kept) {
    let mut next = Some(gone);
    // The rest may make a tenant give way as well, the first time.
    while let Some(kept) = next {
        next = add(Kept { kind: Kind::Rest, tenant: TenantId::NONE, ..kept });
    }
}

/// A tenant that was deleted gives way, and not before that is committed, or as good as.
fn ended(event: Event) {
    DELETED.with_borrow_mut(|deleted| match event {
        Event::Committed | Event::Prepared => {
            for (_, tenant) in deleted.drain(..) {
                give_way(tenant);
            }
        }
        Event::Aborted => deleted.clear(),
        Event::SubCommitted(level) => {
            deleted.iter_mut().filter(|(of, _)| *of >= level).for_each(|(of, _)| *of = level - 1);
        }
        Event::SubAborted(level) => deleted.retain(|(of, _)| *of < level),
        Event::BeforeCommit | Event::BeforePrepare => {}
    });
}

fn give_way(tenant: TenantId) {
    let its = Kept { kind: Kind::Tenant, database: pg::database().to_u32(), tenant, ..Kept::FREE };
    let gone = TABLE.with_set(hash(&its), |_, slots: &mut [Kept]| {
        let is = |slot: &&mut Kept| {
            (slot.kind, slot.database, slot.tenant) == (its.kind, its.database, its.tenant)
        };
        slots.iter_mut().find(is).map(|slot| std::mem::replace(slot, Kept::FREE))
    });
    if let Some(gone) = gone.flatten() {
        add_to_rest(gone);
    }
}

/// Adds what was counted for a tenant to that of the rest when the transaction commits. Volatile. Granted to nobody.
#[pg_extern(schema = "_tenancy", volatile)]
fn stat_tenants_forget(tenant_id: Text) {
    if let Ok(tenant) = TenantId::parse(tenant_id.as_bytes()) {
        DELETED.with_borrow_mut(|deleted| deleted.push((xact::level(), tenant)));
    }
}

/// Adds to what is counted, in a place of its own; returns what has given way.
fn add(new: Kept) -> Option<Kept> {
    let hash = hash(&new);
    // What is of no tenant gives way to nobody in its database, so it may find its own set full.
    let sets = if new.kind == Kind::Tenant { 1 } else { TABLE.sets() as u64 };
    for probe in 0..sets {
        let put = TABLE.with_set(hash.wrapping_add(probe), |_, slots: &mut [Kept]| {
            let is =
                |slot: &Kept| (slot.kind, slot.database, slot.tenant) == (new.kind, new.database, new.tenant);
            if let Some(slot) = slots.iter_mut().find(|slot| is(slot)) {
                slot.measures.add(&new.measures);
                slot.since = slot.since.min(new.since);
                return Some(None);
            }
            if let Some(slot) = slots.iter_mut().find(|slot| slot.kind == Kind::Free) {
                *slot = new;
                return Some(None);
            }
            // A tenant; else what another database has, which may be gone.
            let may_go = |slot: &&mut Kept| slot.kind == Kind::Tenant || slot.database != new.database;
            let least = slots
                .iter_mut()
                .filter(may_go)
                .min_by_key(|slot| (slot.kind != Kind::Tenant, slot.measures.time))?;
            let gone = std::mem::replace(least, new);
            Some((gone.kind == Kind::Tenant).then_some(gone))
        })?;
        if let Some(gone) = put {
            return gone;
        }
    }
    None
}

fn hash(of: &Kept) -> u64 {
    // FNV-1a: http://www.isthe.com/chongo/tech/comp/fnv/
    let mut hash = 0xCBF2_9CE4_8422_2325_u64 ^ u64::from(of.database) ^ ((of.kind as u64) << 40);
    for byte in of.tenant.as_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01B3);
    }
    hash ^ (hash >> 32)
}

/// Notes what the extension has refused.
pub fn refused(code: &str) {
    match code {
        "QUOTA_EXCEEDED" => activity::note_refusal(true),
        "TENANT_CONTEXT_MISSING"
        | "TENANT_ACCESS_DENIED"
        | "TENANT_NOT_FOUND"
        | "TENANT_SUSPENDED"
        | "TOKEN_INVALID"
        | "TOKEN_EXPIRED" => activity::note_refusal(false),
        _ => {}
    }
}

/// Returns what statements took for each tenant of this database: of all for whoever sees all tenants, else of the current one. No row
/// where the server keeps none. Errors: those of `current_tenant()`. Volatile. For `tenancy.stat_tenants`.
#[pg_extern(schema = "_tenancy", volatile, parallel_restricted)]
#[allow(clippy::type_complexity)]
pub fn measured() -> TableIterator<
    'static,
    (
        name!(tenant_id, Option<String>),
        name!(kind, &'static str),
        name!(statements, i64),
        name!(rows, i64),
        name!(exec_time, f64),
        name!(committed, i64),
        name!(rolled_back, i64),
        name!(blocks_hit, i64),
        name!(blocks_read, i64),
        name!(wal_bytes, i64),
        name!(errors, i64),
        name!(errors_by_class, Json),
        name!(quota_refusals, i64),
        name!(refused_contexts, i64),
        name!(since, Option<TimestampWithTimeZone>),
    ),
> {
    let only = if quota::sees_all_tenants() { None } else { Some(context::required()) };
    let database = pg::database().to_u32();
    let mut found = Vec::new();
    for set in 0..TABLE.sets() as u64 {
        // Copied, because nothing is allocated under the lock.
        let copied = TABLE.with_set(set, |_, slots: &mut [Kept]| <[Kept; WAYS]>::try_from(&*slots).ok());
        let ours = copied.flatten().into_iter().flatten();
        let ours = ours.filter(|slot| slot.kind != Kind::Free && slot.database == database);
        found
            .extend(ours.filter(|slot| only.is_none_or(|id| slot.kind == Kind::Tenant && slot.tenant == id)));
    }
    TableIterator::new(found.into_iter().map(|Kept { kind, tenant, since, measures, .. }| {
        let mut classes: Map<String, Value> =
            measures.errors.classes().map(|(class, count)| (class.to_owned(), count.into())).collect();
        if measures.errors.others > 0 {
            classes.insert("other".to_owned(), measures.errors.others.into());
        }
        (
            (kind == Kind::Tenant).then(|| tenant.as_str().to_owned()),
            kind.as_str(),
            measures.statements,
            measures.rows,
            measures.time as f64 / 1000.0,
            measures.committed,
            measures.rolled_back,
            measures.blocks_hit,
            measures.blocks_read,
            measures.wal_bytes,
            measures.errors.total(),
            Json::from(&Value::Object(classes)),
            measures.quota_refusals,
            measures.refused_contexts,
            TimestampWithTimeZone::try_from(since).ok(),
        )
    }))
}

/// Begins to count anew for a tenant of this database, or (NULL) for all and none. Raises 22023 (`TENANT_ID_INVALID`). Volatile. Granted
/// to nobody.
#[pg_extern(schema = "tenancy", volatile)]
pub fn stat_tenants_reset(tenant_id: default!(Option<Text>, "NULL")) {
    context::refuse_in_context("stat_tenants_reset");
    let only = tenant_id.map(|id| {
        TenantId::parse(id.as_bytes()).unwrap_or_else(|malformed| Error::IdInvalid(malformed).raise())
    });
    let database = pg::database().to_u32();
    for set in 0..TABLE.sets() as u64 {
        TABLE.with_set(set, |_, slots: &mut [Kept]| {
            for slot in slots.iter_mut().filter(|slot| slot.database == database) {
                if only.is_none_or(|id| slot.kind == Kind::Tenant && slot.tenant == id) {
                    *slot = Kept::FREE;
                }
            }
        });
    }
}
