//! When transactions and their subtransactions end.
//!
//! PostgreSQL calls back before it restores parameters (`CallXactCallbacks` precedes `AtEOXact_GUC`), so an
//! assign hook that runs after the callback belongs to the transaction that has ended. It calls back for a commit after the
//! transaction has become visible to others (`ProcArrayEndTransaction`).

use std::ptr::{addr_of, addr_of_mut};

use pgrx::{datum::datetime_support::ToIsoString, pg_sys, prelude::*};

/// Reads of backend-local state, which raise nothing and so need no guard; some are asked for with each charge.
mod raw {
    unsafe extern "C-unwind" {
        pub fn GetCurrentTransactionNestLevel() -> std::ffi::c_int;
        pub fn GetCurrentStatementStartTimestamp() -> i64;
        pub fn IsTransactionState() -> bool;
        pub fn RecoveryInProgress() -> bool;
    }
}

/// What happens to the transaction, or to a subtransaction at a nesting level (the outermost transaction is at 1).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// About to commit: whoever is told may still write, and raise.
    BeforeCommit,
    /// About to be prepared for a commit in two phases: likewise.
    BeforePrepare,
    Committed,
    Prepared,
    Aborted,
    SubCommitted(i32),
    SubAborted(i32),
}

impl Event {
    /// Whether the transaction is over for this backend.
    pub fn is_end(self) -> bool {
        matches!(self, Event::Committed | Event::Prepared | Event::Aborted)
    }
}

/// Must not raise, but for the events before a commit.
type Listener = fn(Event);

static mut NUMBER: u64 = 1;
static mut LISTENERS: Vec<Listener> = Vec::new();

/// Tells the listener of every event. In the order of registration.
pub fn listen(listener: Listener) {
    // SAFETY: a backend is single-threaded; this runs when the library is loaded.
    unsafe {
        let listeners = &mut *addr_of_mut!(LISTENERS);
        if listeners.is_empty() {
            pg_sys::RegisterXactCallback(Some(transaction), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(subtransaction), std::ptr::null_mut());
        }
        listeners.push(listener);
    }
}

/// A number that is this transaction's own within this backend.
pub fn number() -> u64 {
    // SAFETY: a plain read of a backend-local integer.
    unsafe { NUMBER }
}

/// When the client sent what is running, in PostgreSQL's clock.
pub fn sent() -> i64 {
    // SAFETY: a plain read of a backend-local integer.
    unsafe { raw::GetCurrentStatementStartTimestamp() }
}

/// Whether all statements of the transaction read the state of its first.
pub fn keeps_snapshot() -> bool {
    // SAFETY: a plain read of a backend-local integer.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// Whether a transaction is running.
pub fn in_transaction() -> bool {
    // SAFETY: reads backend-local state.
    unsafe { raw::IsTransactionState() }
}

/// Whether the transaction goes on after the client's statement.
pub fn is_in_block() -> bool {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::IsTransactionBlock() }
}

/// How deep the current subtransaction is nested; 1 outside of any.
pub fn level() -> i32 {
    // SAFETY: reads backend-local state.
    unsafe { raw::GetCurrentTransactionNestLevel() }
}

/// Whether this server is a standby, where nothing can be written.
pub fn in_recovery() -> bool {
    // SAFETY: reads shared state of one word.
    unsafe { raw::RecoveryInProgress() }
}

/// The number that this transaction has in the database; it gets one if it has none.
pub fn id() -> u32 {
    // SAFETY: called inside a transaction that may write.
    unsafe { pg_sys::GetTopTransactionId() }.into_inner()
}

/// The same as a number that never comes again.
pub fn full_id() -> i64 {
    // SAFETY: as above.
    unsafe { pg_sys::GetTopFullTransactionId() }.value as i64
}

/// The number that the next transaction gets, likewise.
pub fn next_id() -> i64 {
    // SAFETY: reads shared state under its lock; raises nothing.
    unsafe { pg_sys::ReadNextFullTransactionId() }.value as i64
}

/// The number that rows have of a transaction, from its full one.
pub fn short_id(id: i64) -> pg_sys::TransactionId {
    // Its last 32 bits.
    pg_sys::TransactionId::from(id as u32)
}

/// Whether this transaction has a number, as every one that has written has.
pub fn has_id() -> bool {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId }
}

/// Whether the transaction is SERIALIZABLE: then anything that it does may turn out to have come too late.
pub fn is_serializable() -> bool {
    // SAFETY: a plain read of a backend-local integer.
    unsafe { pg_sys::XactIsoLevel == pg_sys::XACT_SERIALIZABLE as i32 }
}

/// Whether the transaction of that number was committed; none while it runs or is prepared.
pub fn outcome(id: u32) -> Option<bool> {
    let id = pg_sys::TransactionId::from(id);
    // SAFETY: looks a number up that some transaction was given. First whether it runs, as PostgreSQL asks for: a commit is
    // on record before the transaction ceases to run.
    unsafe { (!pg_sys::TransactionIdIsInProgress(id)).then(|| pg_sys::TransactionIdDidCommit(id)) }
}

/// Whether this server allows prepared transactions.
pub fn may_be_prepared() -> bool {
    unsafe extern "C" {
        static max_prepared_xacts: std::ffi::c_int;
    }
    // SAFETY: a setting of the server's start, which nobody writes after.
    unsafe { max_prepared_xacts > 0 }
}

/// When the client's statement began, in microseconds since 2000-01-01 UTC.
pub fn statement_began() -> i64 {
    // SAFETY: reads backend-local state.
    unsafe { raw::GetCurrentStatementStartTimestamp() }
}

/// The time now, likewise.
pub fn now() -> i64 {
    // SAFETY: reads the clock.
    unsafe { super::raw::GetCurrentTimestamp() }
}

/// A moment as ISO 8601 writes it, in UTC; none for infinity.
pub fn to_text(at: i64) -> Option<String> {
    TimestampWithTimeZone::try_from(at).ok()?.to_iso_string_with_timezone("UTC").ok()
}

/// Whether no query, cursor or procedure of this backend can hold a datum any more.
///
/// True at the end of a transaction that no running portal (a procedure that commits) and no SPI caller
/// (the same, in a background worker) has ended.
pub fn nothing_is_running() -> bool {
    // SAFETY: reads backend-local state.
    unsafe { pg_sys::ActivePortal.is_null() && !pg_sys::SPI_inside_nonatomic_context() }
}

fn tell(event: Event) {
    // SAFETY: backend-local, and written only at load.
    let listeners = unsafe { &*addr_of!(LISTENERS) };
    listeners.iter().for_each(|listener| listener(event));
}

#[pg_guard]
unsafe extern "C-unwind" fn transaction(event: pg_sys::XactEvent::Type, _arg: *mut std::ffi::c_void) {
    use pg_sys::XactEvent::*;
    let event = match event {
        XACT_EVENT_PRE_COMMIT => Event::BeforeCommit,
        XACT_EVENT_PRE_PREPARE => Event::BeforePrepare,
        XACT_EVENT_COMMIT | XACT_EVENT_PARALLEL_COMMIT => Event::Committed,
        XACT_EVENT_PREPARE => Event::Prepared,
        XACT_EVENT_ABORT | XACT_EVENT_PARALLEL_ABORT => Event::Aborted,
        _ => return,
    };
    if event.is_end() {
        // SAFETY: backend-local state of a single-threaded process.
        unsafe { *addr_of_mut!(NUMBER) += 1 }
    }
    tell(event);
}

#[pg_guard]
unsafe extern "C-unwind" fn subtransaction(
    event: pg_sys::SubXactEvent::Type,
    _own: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut std::ffi::c_void,
) {
    match event {
        pg_sys::SubXactEvent::SUBXACT_EVENT_COMMIT_SUB => tell(Event::SubCommitted(level())),
        pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB => tell(Event::SubAborted(level())),
        _ => {}
    }
}
