//! Statements that read partitions as they were before rows came to them from other partitions.
//!
//! A partition is known to everybody as soon as it is attached, whatever snapshot a statement has; its rows are not. A statement with an older
//! snapshot (of a transaction that keeps its first, of COPY or CREATE TABLE AS that has waited for a lock) would look for rows where it
//! does not see them yet, and not where it still does, because PostgreSQL leaves out the partitions that cannot have them now.

use std::ptr::{addr_of, addr_of_mut};

use pgrx::pg_sys;

use super::{statement::entries, xact};

/// A partition that rows have come to, and the transaction that has brought them.
#[derive(Clone, Copy)]
pub struct Move {
    pub partition: pg_sys::Oid,
    pub by: pg_sys::TransactionId,
    /// Its number that never comes again.
    pub by_full: i64,
}

/// A move that is so many transactions ago is older than any snapshot that a server lets live, and its short number is not compared.
pub const LONG_AGO: i64 = 1 << 30;

/// Reads which there are.
type Reader = fn() -> Vec<Move>;

struct Moves {
    reader: Option<Reader>,
    /// Whether what was read is so still.
    is_current: bool,
    all: Vec<Move>,
    latest: Option<pg_sys::TransactionId>,
}

static mut MOVES: Moves = Moves { reader: None, is_current: false, all: Vec::new(), latest: None };

pub fn init(reader: Reader) {
    // SAFETY: a backend is single-threaded; this runs once, when the library is loaded.
    unsafe { (*addr_of_mut!(MOVES)).reader = Some(reader) }
}

/// What was read may not be so any more.
pub fn forget() {
    // SAFETY: a backend-local byte.
    unsafe { (*addr_of_mut!(MOVES)).is_current = false }
}

/// Of two normal numbers of transactions.
fn precedes(one: pg_sys::TransactionId, other: pg_sys::TransactionId) -> bool {
    (one.into_inner().wrapping_sub(other.into_inner()) as i32) < 0
}

/// Whether a query may be older than a move. Calls nothing of PostgreSQL's.
#[inline]
pub unsafe fn may_be_older(query: *const pg_sys::QueryDesc) -> bool {
    // SAFETY: a query that is about to run, whose snapshot is null or valid; backend-local state.
    unsafe {
        let moves = addr_of!(MOVES);
        let is_before = |latest| (*query).snapshot.as_ref().is_some_and(|one| !precedes(latest, one.xmin));
        !(*moves).is_current || (*moves).latest.is_some_and(is_before)
    }
}

/// What is not read to the end.
struct Unread;

impl Drop for Unread {
    fn drop(&mut self) {
        forget();
    }
}

fn read() {
    // SAFETY: backend-local; nobody holds on to it while the reader, which is written at load, calls PostgreSQL.
    unsafe {
        // Before: what arrives meanwhile makes what was read outdated at once; as does an error.
        (*addr_of_mut!(MOVES)).is_current = true;
        let unread = Unread;
        let all = (*addr_of!(MOVES)).reader.map_or_else(Vec::new, |reader| reader());
        std::mem::forget(unread);
        let moves = addr_of_mut!(MOVES);
        (*moves).latest =
            all.iter().map(|one| one.by).reduce(|one, other| if precedes(one, other) { other } else { one });
        (*moves).all = all;
    }
}

/// Whether a query is older than a move to a partition that it may read.
pub fn is_older(query: *const pg_sys::QueryDesc) -> bool {
    // SAFETY: a query that is about to run, with a snapshot of its own; what is looked at is a copy.
    unsafe {
        let moves = addr_of!(MOVES);
        // A session may live longer than short numbers can be compared.
        let is_long_ago = |one: &Move| xact::next_id() - one.by_full >= LONG_AGO;
        if !(*moves).is_current || (*moves).all.iter().any(is_long_ago) {
            read();
        }
        if !may_be_older(query) {
            return false;
        }
        let snapshot = (*query).snapshot;
        let mut unseen = (*moves).all.clone();
        unseen.retain(|one| {
            !precedes(one.by, (*snapshot).xmin)
                && !pg_sys::TransactionIdIsCurrentTransactionId(one.by)
                && pg_sys::XidInMVCCSnapshot(one.by, snapshot)
        });
        !unseen.is_empty()
            && entries((*(*query).plannedstmt).rtable).iter().any(|cell| {
                let entry = cell.ptr_value.cast::<pg_sys::RangeTblEntry>();
                (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION
                    && unseen.iter().any(|one| one.partition == (*entry).relid)
            })
    }
}
