//! News of changed relations.
//!
//! PostgreSQL delivers an invalidation inside almost any catalog access, so what is called back may only set
//! flags (`inval.c`).

use std::ptr::{addr_of, addr_of_mut};

use pgrx::{pg_sys, prelude::*};

/// Is given the relation that changed, or none where any may have. Must not raise.
type Listener = fn(Option<pg_sys::Oid>);

static mut LISTENERS: Vec<Listener> = Vec::new();

/// Tells the listener of each relation that changes.
pub fn listen(listener: Listener) {
    // SAFETY: a backend is single-threaded; this runs when the library is loaded.
    unsafe {
        let listeners = &mut *addr_of_mut!(LISTENERS);
        if listeners.is_empty() {
            pg_sys::CacheRegisterRelcacheCallback(Some(callback), pg_sys::Datum::from(0));
        }
        listeners.push(listener);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn callback(_arg: pg_sys::Datum, relation: pg_sys::Oid) {
    let changed = (relation != pg_sys::InvalidOid).then_some(relation);
    // SAFETY: backend-local, and written only at load.
    let listeners = unsafe { &*addr_of!(LISTENERS) };
    listeners.iter().for_each(|listener| listener(changed));
}

/// Takes note of what other backends have sent. Queries do so as they take locks; what runs without one, as PL/pgSQL does where it evaluates
/// an expression, hears of nothing.
pub fn accept() {
    // SAFETY: called inside a transaction, where a lock could be taken.
    unsafe { pg_sys::AcceptInvalidationMessages() }
}

/// Tells every backend, at commit, that the relation changed.
pub fn announce(relation: pg_sys::Oid) {
    // SAFETY: called inside a transaction, on a relation that a trigger was fired for and so exists.
    unsafe { pg_sys::CacheInvalidateRelcacheByRelid(relation) }
}
