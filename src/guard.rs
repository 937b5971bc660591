//! May the protection of a table be changed now? For the event triggers of `sql/api/guard.sql`, which decide what a change is.
//!
//! Guarantees: only what owns a table can have its own changes let through, and only until the transaction, or a
//! subtransaction in it, ends otherwise than well; and they leave the table as protected as they found it, whoever calls for them.

use std::cell::{Cell, RefCell};

use pgrx::{PgRelation, prelude::*};

use crate::error::Error;
use crate::pg::{
    self,
    unfired::{self, Listener},
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
    /// It was not protected, and a partition or child of a table that is.
    was_open: bool,
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
    unfired::listen(Listener { reassigns, made });
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

/// REASSIGN OWNED to a role that policies do not bind weakens what it gives away, as ALTER TABLE ... OWNER TO does.
fn reassigns(from: &[pg::Oid], to: pg::Oid) {
    let Some(protected) = pg::scan::table(c"protected").filter(|_| !is_restoring()) else { return };
    let query = "SELECT c.relname::text FROM _tenancy.protected p JOIN pg_class c ON c.oid = p.relation
             JOIN pg_roles f ON f.oid = c.relowner AND NOT (f.rolsuper OR f.rolbypassrls)
             JOIN pg_roles t ON t.oid = $2 AND (t.rolsuper OR t.rolbypassrls)
             WHERE f.oid = ANY ($1) ORDER BY 1 LIMIT 1";
    if let Some(table) = registry::names(protected, query, &[from.to_vec().into(), to.into()]).first() {
        Error::Weakened(table, "its owner would be exempt from row-level security").raise()
    }
}

/// EXPLAIN ANALYZE of CREATE TABLE AS: a table that would be protected had it been made in another way is not to be there without.
fn made(table: pg::Oid) {
    let Some(protected) = pg::scan::table(c"protected").filter(|_| !is_restoring()) else { return };
    let query = "SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
             JOIN _tenancy.protected_schemas s ON s.schema = n.nspname
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = s.tenant_column
             WHERE c.oid = $1 AND c.relkind = 'r' AND NOT EXISTS (SELECT FROM _tenancy.protected p WHERE p.relation = c.oid)";
    if let Some(table) = registry::names(protected, query, &[table.into()]).first() {
        Error::MadeUnprotected(table).raise()
    }
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
    let was_open = registry::protected_parent(relation).is_some();
    let change = Change { relation, was_weak, was_open, begun: xact::level(), ended: None };
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
    let Some(change) = ended.filter(|_| !is_restoring()) else { return };
    if !change.was_weak
        && let Some(problem) = registry::weakness(relation)
    {
        Error::Weakened(&pg::relation_name(relation), &problem).raise()
    }
    // One that has come to a protected table meanwhile, which the event trigger has left to who makes the change.
    if !change.was_open
        && let Some(parent) = registry::protected_parent(relation)
    {
        let problem = format!("its parent {parent} is protected, and it is not");
        Error::Weakened(&pg::relation_name(relation), &problem).raise()
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
