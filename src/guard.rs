//! May the protection of a table be changed now? For the event triggers of `sql/api/guard.sql`, which decide what a change is.
//!
//! Guarantees: only what owns a table can have its own changes let through, and only until the transaction, or a
//! subtransaction in it, ends otherwise than well; and they leave the table as protected as they found it, whoever calls for them.

use std::cell::{Cell, RefCell};

use pgrx::{PgRelation, prelude::*};

use crate::error::Error;
use crate::pg::{
    self,
    xact::{self, Event},
};
use crate::registry;
use crate::tenant::TenantId;

/// A table that `protect`, `unprotect` or a meter is changing.
#[derive(Clone, Copy)]
struct Change {
    relation: pg::Oid,
    /// Something of its protection was lost before.
    was_weak: bool,
    /// The nesting level at which it was begun, and at which it was ended: a rollback to a savepoint takes either back.
    begun: i32,
    ended: Option<i32>,
}

thread_local! {
    /// The tenant whose rows go, or come.
    static LEAVING: Cell<Option<TenantId>> = const { Cell::new(None) };
    static CHANGING: RefCell<Vec<Change>> = const { RefCell::new(Vec::new()) };
}

pub fn init() {
    xact::listen(|event| match event {
        Event::SubAborted(level) => CHANGING.with_borrow_mut(|changing| {
            changing.retain(|change| change.begun < level);
            changing.iter_mut().for_each(|change| change.ended = change.ended.filter(|ended| *ended < level));
        }),
        Event::SubCommitted(level) => CHANGING.with_borrow_mut(|changing| {
            for change in changing.iter_mut() {
                change.begun = change.begun.min(level - 1);
                change.ended = change.ended.map(|ended| ended.min(level - 1));
            }
            changing.retain(|change| change.ended.is_none_or(|ended| ended > change.begun));
        }),
        // Ours are ended where they began.
        Event::BeforeCommit | Event::BeforePrepare => {
            let open = CHANGING
                .with_borrow(|changing| changing.iter().find(|change| change.ended.is_none()).copied());
            if let Some(change) = open
                && !is_restoring()
            {
                Error::ChangeNotEnded(&pg::relation_name(change.relation)).raise()
            }
        }
        _ if event.is_end() => CHANGING.with_borrow_mut(Vec::clear),
        _ => {}
    });
}

/// Until dropped, by an error as well.
struct Leaving;

impl Drop for Leaving {
    fn drop(&mut self) {
        LEAVING.set(None);
    }
}

/// Calls `work`, which removes a tenant's rows, or inserts them, for that tenant: whatever its status, and from tables of kind `audit` as
/// well.
pub fn while_tenant_moves<R>(tenant: TenantId, work: impl FnOnce() -> R) -> R {
    let _until_dropped = Leaving;
    LEAVING.set(Some(tenant));
    work()
}

/// Whether that is so of the tenant, or (none) of any.
pub fn is_moving(tenant: Option<&TenantId>) -> bool {
    LEAVING.get().is_some_and(|moving| tenant.is_none_or(|tenant| *tenant == moving))
}

/// Lets changes of a table's protection through until `end_change`. Raises 42501 (`RELATION_NOT_OWNED`) unless the caller owns the
/// table. Volatile. For the extension's own functions.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn begin_change(relation: PgRelation) {
    if !pg::user::owns_relation(relation.oid()) {
        Error::NotOwned.raise()
    }
    // What a tenant runs may add protection, and not take any.
    if let Some(assigned) = pg::guc::assigned()
        && !pg::user::bypasses()
        && registry::is_protected(relation.oid())
    {
        Error::InContext(assigned.id, "protect").raise()
    }
    let relation = relation.oid();
    registry::refuse_old_snapshot(vec![relation], None);
    let was_weak = is_changing(relation) || registry::weakness(relation).is_some();
    let change = Change { relation, was_weak, begun: xact::level(), ended: None };
    CHANGING.with_borrow_mut(|changing| changing.push(change));
}

/// Ends what `begin_change` began. Raises 55000 (`PROTECTION_WEAKENED`) where the table is protected and has lost something
/// meanwhile. Volatile. For the extension's own functions.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn end_change(relation: pg::Oid) {
    let level = xact::level();
    let ended = CHANGING.with_borrow_mut(|changing| {
        let place =
            changing.iter().rposition(|change| change.relation == relation && change.ended.is_none())?;
        changing[place].ended = Some(level);
        let change = changing[place];
        if change.begun == level {
            changing.remove(place);
        }
        Some(change)
    });
    if ended.is_some_and(|change| !change.was_weak)
        && let Some(problem) = registry::weakness(relation)
        && !is_restoring()
    {
        Error::Weakened(&pg::relation_name(relation), &problem.to_utf8()).raise()
    }
}

/// Returns whether the extension itself is changing a table. Volatile. For the event triggers.
#[pg_extern(schema = "_tenancy", volatile)]
pub fn is_changing(relation: pg::Oid) -> bool {
    CHANGING.with_borrow(|changing| {
        changing.iter().any(|change| change.relation == relation && change.ended.is_none())
    })
}

/// Returns whether a dump is restored: `tenancy.restoring` is on, or a role that is exempt from row-level security has
/// `row_security` off, as pg_restore and the scripts of pg_dump have. Volatile. For the event triggers.
#[pg_extern(schema = "_tenancy", volatile)]
pub fn is_restoring() -> bool {
    crate::guc::restoring() || pg::user::says_all_rows()
}

/// Raises 40001 (`PROTECTION_CHANGED`) where the transaction's snapshot is older than a change of what concerns the protection of tables
/// (or composite types), or of a schema (NULL: of none). Volatile. For the event triggers and the extension's own functions.
#[pg_extern(schema = "_tenancy", volatile)]
#[search_path(pg_catalog, pg_temp)]
pub fn refuse_old_snapshot(relations: Vec<pg::Oid>, schema: Option<pg::Oid>) {
    registry::refuse_old_snapshot(relations, schema);
}

/// Waits until nobody is making anything in a schema, and keeps it so until the transaction ends. Volatile. For the extension's own
/// functions; granted to nobody.
#[pg_extern(schema = "_tenancy", volatile, strict)]
pub fn lock_schema(schema: pg::Oid) {
    pg::lock::schema(schema);
}
