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
    /// The role whose rights it was planned with: a function of another's may be in force when it is asked about.
    role: pg_sys::Oid,
    /// PostgreSQL's own check of a foreign key, which sees all rows; and what runs inside one.
    is_check: bool,
}

struct Running {
    runs: Vec<Run>,
    /// A statement inside the outermost one, which may have ended, has read or written protected tables.
    has_touched: bool,
    /// Whether the innermost does is not known yet: it is asked when it uses the current tenant.
    is_unknown: bool,
    /// The runs that had begun when the tenant changed without anybody being asked (a rollback, RESET), and whether rows had been
    /// read or written by then.
    unchecked: usize,
    was_touched: bool,
    /// What the outermost run returns is kept past the end of the transaction.
    is_kept: bool,
}

static mut RUNNING: Running = Running {
    runs: Vec::new(),
    has_touched: false,
    is_unknown: false,
    unchecked: 0,
    was_touched: false,
    is_kept: false,
};

/// The state, which is backend-local; nothing that holds on to it calls PostgreSQL.
fn running() -> &'static mut Running {
    // SAFETY: a backend is single-threaded, and each caller in this file is done with it before another gets it.
    unsafe { &mut *addr_of_mut!(RUNNING) }
}

impl Running {
    fn begin(&mut self) {
        (self.has_touched, self.unchecked, self.was_touched) = (false, 0, false);
    }
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
        running.begin();
        running.is_kept = is_kept();
    }
    // SAFETY: reads backend-local state.
    let (role, is_check) = unsafe { (pg_sys::GetUserId(), pg_sys::InNoForceRLSOperation()) };
    running.runs.push(Run { query, level: xact::level(), role, is_check });
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
    look_now();
}

/// Asks whether the innermost statement reads or writes protected tables. For one that parallel workers run for it: they use the
/// tenant, and nobody here does.
pub fn look_now() {
    let running = running();
    if std::mem::take(&mut running.is_unknown) {
        let innermost = running.runs.last().map(|run| (run.query, run.role));
        if innermost.is_some_and(touches) {
            note_touch();
        }
    }
}

fn touches((query, role): (*const pg_sys::QueryDesc, pg_sys::Oid)) -> bool {
    !query.is_null() && super::hook::touches_ours(query, role)
}

/// Notes that rows of the tenant were read or written in the outermost statement.
pub fn note_touch() {
    running().has_touched = true;
    running().is_unknown = false;
}

/// Whether a statement inside the client's own, which is running, has read or written protected tables.
pub fn has_touched() -> bool {
    is_any() && running().has_touched
}

/// Whether one that runs does.
pub fn any_touches() -> bool {
    let runs: Vec<_> = running().runs.iter().map(|run| (run.query, run.role)).collect();
    runs.into_iter().any(touches)
}

/// Notes that the tenant has changed and nobody was asked whether it may. Looks at no catalog: a rollback is no time for it.
pub fn note_change() {
    let running = running();
    if !running.runs.is_empty() {
        running.unchecked = running.unchecked.max(running.runs.len());
        running.was_touched |= running.has_touched;
    }
}

/// Whether that was while a statement that still runs was about rows of the tenant before.
pub fn is_changed() -> bool {
    let running = running();
    let count = running.unchecked.min(running.runs.len());
    if count == 0 || running.was_touched {
        return count > 0;
    }
    let runs: Vec<_> = running.runs.iter().take(count).map(|run| (run.query, run.role)).collect();
    let is_changed = runs.into_iter().any(touches);
    let running = self::running();
    (running.unchecked, running.was_touched) = if is_changed { (count, true) } else { (0, false) };
    is_changed
}

/// Whether the innermost run is code of a user's inside PostgreSQL's own check of a foreign key: a trigger, a cast. PostgreSQL
/// leaves out the policies of the owner there as well.
pub fn is_inside_check() -> bool {
    matches!(running().runs.as_slice(), [.., outer, inner] if outer.is_check && inner.is_check)
}

/// Whether it is such a check.
pub fn is_check() -> bool {
    running().runs.last().is_some_and(|run| run.is_check)
}

/// Whether what the outermost statement returns is kept past the end of the transaction.
pub fn is_kept() -> bool {
    is_any() && running().is_kept
}

/// From here on the outermost statement counts as one that has just begun.
pub fn begin_anew() {
    running().begin();
}
