//! Which statements of this backend are running, from the client's own to the innermost, and whether rows of the tenant have been
//! read or written since the client's own began.
//!
//! PostgreSQL calls a hook where a run begins, and nobody where an error ends it; but an error ends a transaction or a
//! subtransaction as well, and what was begun in that is forgotten with it.

use std::ptr::addr_of_mut;

use pgrx::{pg_sys, prelude::*};

use super::xact::{self, Event};

/// A run of a query; null for a utility command, which runs queries of PostgreSQL's own.
struct Run {
    query: *const pg_sys::QueryDesc,
    level: i32,
}

struct Running {
    runs: Vec<Run>,
    /// A statement inside the outermost one, which may have ended, has read or written protected tables.
    has_touched: bool,
    /// Whether the innermost does is not known yet: it is asked when it uses the current tenant.
    is_unknown: bool,
    /// The tenant has changed after that.
    is_changed: bool,
    /// What the outermost run returns is kept past the end of the transaction.
    is_kept: bool,
}

static mut RUNNING: Running =
    Running { runs: Vec::new(), has_touched: false, is_unknown: false, is_changed: false, is_kept: false };

/// The state, which is backend-local; nothing that holds on to it calls PostgreSQL.
fn running() -> &'static mut Running {
    // SAFETY: a backend is single-threaded, and each caller in this file is done with it before another gets it.
    unsafe { &mut *addr_of_mut!(RUNNING) }
}

/// Called once, when the library is loaded.
pub fn init() {
    xact::listen(|event| match event {
        Event::SubAborted(level) => {
            let runs = &running().runs;
            let kept = runs.iter().rposition(|run| run.level < level).map_or(0, |last| last + 1);
            leave(kept);
        }
        event if event.is_end() => leave(0),
        _ => {}
    });
}

/// Notes that a run begins; the result is for `leave`.
pub fn enter(query: *const pg_sys::QueryDesc) -> usize {
    // SAFETY: reads PostgreSQL's own pointer to the portal that is being run.
    let is_kept = || unsafe { pg_sys::ActivePortal.as_ref() }.is_some_and(is_held);
    let running = running();
    let depth = running.runs.len();
    if depth == 0 {
        (running.has_touched, running.is_changed, running.is_kept) = (false, false, is_kept());
    }
    running.runs.push(Run { query, level: xact::level() });
    running.is_unknown = depth > 0 && !running.has_touched;
    depth
}

/// Notes that it has ended, and what began inside it.
pub fn leave(depth: usize) {
    let running = running();
    running.runs.truncate(depth);
    running.is_unknown = depth > 1 && !running.has_touched;
}

/// Whether a cursor was declared WITH HOLD.
pub fn is_held(portal: &pg_sys::PortalData) -> bool {
    portal.cursorOptions as u32 & pg_sys::CURSOR_OPT_HOLD != 0
}

/// Whether any statement is running.
pub fn is_any() -> bool {
    !running().runs.is_empty()
}

/// Whether a utility command that runs queries of its own is among them.
pub fn is_in_utility() -> bool {
    running().runs.iter().any(|run| run.query.is_null())
}

/// Notes that the current tenant was asked for. Policies do so for each row.
#[inline(always)]
pub fn note_use() {
    // SAFETY: reads a backend-local byte; called by PostgreSQL's executor.
    unsafe {
        if (*addr_of_mut!(RUNNING)).is_unknown {
            look();
        }
    }
}

#[cold]
#[pg_guard]
unsafe extern "C-unwind" fn look() {
    let innermost = running().runs.last().map(|run| run.query);
    running().is_unknown = false;
    if innermost.is_some_and(|query| !query.is_null() && super::hook::touches_ours(query)) {
        running().has_touched = true;
    }
}

/// Whether a statement inside the client's own, which is running, has read or written protected tables.
pub fn has_touched() -> bool {
    is_any() && running().has_touched
}

/// Notes that the tenant has changed.
pub fn note_change() {
    if has_touched() {
        running().is_changed = true;
    }
}

/// Whether it has after rows were read or written for another.
pub fn is_changed() -> bool {
    is_any() && running().is_changed
}

/// Whether what the outermost statement returns is kept past the end of the transaction.
pub fn is_kept() -> bool {
    is_any() && running().is_kept
}

/// From here on the outermost statement counts as one that has just begun.
pub fn begin_anew() {
    let running = running();
    (running.has_touched, running.is_changed) = (false, false);
}

/// The queries that run.
pub fn queries() -> impl Iterator<Item = *const pg_sys::QueryDesc> {
    running().runs.iter().map(|run| run.query).filter(|query| !query.is_null())
}
