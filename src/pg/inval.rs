//! News of changed relations.
//!
//! PostgreSQL delivers an invalidation inside almost any catalog access, so what is called back may only set
//! flags (`inval.c`).

use pgrx::{pg_sys, prelude::*};

type Changed = fn(Option<pg_sys::Oid>);
fn nothing(_: Option<pg_sys::Oid>) {}

static mut CHANGED: Changed = nothing;

/// Calls `changed` with each relation that changed, or none where any may have. It must not raise.
pub fn init(changed: Changed) {
    // SAFETY: a backend is single-threaded; this runs once, when the library is loaded.
    unsafe {
        CHANGED = changed;
        pg_sys::CacheRegisterRelcacheCallback(Some(callback), pg_sys::Datum::from(0));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn callback(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    // SAFETY: CHANGED is only written at load.
    unsafe { CHANGED((relation != pg_sys::InvalidOid).then_some(relation)) }
}

/// Tells every backend, at commit, that the relation changed.
pub fn announce(relation: pg_sys::Oid) {
    // SAFETY: called inside a transaction, on a relation that a trigger was fired for and so exists.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(relation) }
}
