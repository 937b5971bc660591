//! When transactions end.
//!
//! PostgreSQL calls back before it restores parameters (`CallXactCallbacks` precedes `AtEOXact_GUC`), so an
//! assign hook that runs after the callback belongs to the transaction that has ended.

use std::ptr::addr_of_mut;

use pgrx::{pg_sys, prelude::*};

type AtEnd = fn();
fn nothing() {}

static mut NUMBER: u64 = 1;
static mut AT_END: AtEnd = nothing;

/// Calls `at_end` at the end of every transaction, committed or not. `at_end` must not raise.
pub fn init(at_end: AtEnd) {
    // SAFETY: a backend is single-threaded; this runs once, when the library is loaded.
    unsafe {
        AT_END = at_end;
        pg_sys::RegisterXactCallback(Some(callback), std::ptr::null_mut());
    }
}

/// A number that is this transaction's own within this backend.
pub fn number() -> u64 {
    // SAFETY: a plain read of a backend-local integer.
    unsafe { NUMBER }
}

/// Whether a transaction is running.
pub fn in_transaction() -> bool {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::IsTransactionState() }
}

/// Whether no query, cursor or procedure of this backend can hold a datum any more.
///
/// True at the end of a transaction that no running portal (a procedure that commits) and no SPI caller
/// (the same, in a background worker) has ended.
pub fn nothing_is_running() -> bool {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::ActivePortal.is_null() && !pg_sys::SPI_inside_nonatomic_context() }
}

#[pg_guard]
unsafe extern "C-unwind" fn callback(event: pg_sys::XactEvent::Type, _arg: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::*;
    let ended = matches!(
        event,
        XACT_EVENT_COMMIT
            | XACT_EVENT_PARALLEL_COMMIT
            | XACT_EVENT_ABORT
            | XACT_EVENT_PARALLEL_ABORT
            | XACT_EVENT_PREPARE
    );
    if ended {
        // SAFETY: backend-local state of a single-threaded process; AT_END is a plain function.
        unsafe {
            *addr_of_mut!(NUMBER) += 1;
            AT_END();
        }
    }
}
