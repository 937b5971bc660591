//! May the protection of a table be changed now? For the event triggers of `sql/api/guard.sql`, which decide what a change is.
//!
//! Guarantees: only what owns a table can have its own changes let through, and only until the transaction, or a
//! subtransaction in it, ends otherwise than well.

use std::cell::RefCell;

use pgrx::{PgRelation, prelude::*};

use crate::error::Error;
use crate::pg::{
    self,
    xact::{self, Event},
};

thread_local! {
    /// Tables that `protect`, `unprotect` or a meter is changing.
    static CHANGING: RefCell<Vec<pg::Oid>> = const { RefCell::new(Vec::new()) };
}

pub fn init() {
    xact::listen(|event| {
        if event.is_end() || matches!(event, Event::SubAborted(_)) {
            CHANGING.with_borrow_mut(Vec::clear);
        }
    });
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
        && crate::registry::is_protected(relation.oid())
    {
        Error::InContext(assigned.id, "protect").raise()
    }
    CHANGING.with_borrow_mut(|changing| changing.push(relation.oid()));
}

/// Ends what `begin_change` began. Volatile. For the extension's own functions.
#[pg_extern(schema = "_tenancy", volatile)]
pub fn end_change(relation: pg::Oid) {
    CHANGING.with_borrow_mut(|changing| {
        if let Some(place) = changing.iter().rposition(|oid| *oid == relation) {
            changing.remove(place);
        }
    });
}

/// Returns whether the extension itself is changing a table. Volatile. For the event triggers.
#[pg_extern(schema = "_tenancy", volatile)]
pub fn is_changing(relation: pg::Oid) -> bool {
    CHANGING.with_borrow(|changing| changing.contains(&relation))
}

/// Returns whether a dump is restored: `tenancy.restoring` is on, or a role that is exempt from row-level security has
/// `row_security` off, as pg_restore and the scripts of pg_dump have. Volatile. For the event triggers.
#[pg_extern(schema = "_tenancy", volatile)]
pub fn is_restoring() -> bool {
    crate::guc::restoring() || pg::user::means_all_rows()
}

/// Waits until nobody is making anything in a schema, and keeps it so until the transaction ends. Volatile. For the extension's own
/// functions; granted to nobody.
#[pg_extern(schema = "_tenancy", volatile, strict)]
pub fn lock_schema(schema: pg::Oid) {
    pg::lock::schema(schema);
}
