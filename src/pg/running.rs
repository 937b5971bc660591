//! Which statements of this backend are running, from the client's own to the innermost, and whether rows of the tenant have been
//! read or written since the client's own began.
//!
//! PostgreSQL calls a hook where a step begins, and nobody where an error ends it; but an error ends a transaction or a
//! subtransaction as well, and what was begun in that is forgotten with it.
//!
//! A statement is planned, started, run, and finished (its AFTER triggers), and each of these steps may call functions that run
//! statements of their own. DO and CALL are no steps: what they run are statements of the client's.

use std::ptr::addr_of_mut;

use pgrx::{pg_sys, prelude::*};

use super::{
    part, planner, portal,
    xact::{self, Event},
};
use crate::error::Error;

/// What a step is about.
#[derive(Clone, Copy)]
pub enum Step {
    /// Starts, runs, or finishes a query.
    Query(*const pg_sys::QueryDesc),
    Plan(*const pg_sys::Query),
    /// ALTER TABLE, which runs queries of PostgreSQL's own.
    Alter,
    Utility,
    /// The library was loaded in the middle of it, so that nothing is known of it.
    Unknown,
}

#[derive(Clone, Copy)]
struct Run {
    step: Step,
    level: i32,
    /// The role whose rights it was planned with: a function of another's may be in force when it is asked about.
    role: pg_sys::Oid,
    /// PostgreSQL's own check of a foreign key, which sees all rows; and what runs inside one.
    is_check: bool,
}

struct Running {
    runs: Vec<Run>,
    /// The query that was started or run last as the client's own.
    latest: *const pg_sys::QueryDesc,
    /// A statement inside the outermost one, which may have ended, has read or written protected tables.
    has_touched: bool,
    /// How many steps plan; a statement inside one is asked in any case.
    planning: usize,
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
    latest: std::ptr::null(),
    has_touched: false,
    planning: 0,
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

    fn is_to_be_asked(&self) -> bool {
        self.runs.len() > 1 && (!self.has_touched || self.planning > 0)
    }

    fn push(&mut self, step: Step, level: i32) -> usize {
        let depth = self.runs.len();
        // SAFETY: reads backend-local state.
        let (role, is_check) = unsafe { (pg_sys::GetUserId(), pg_sys::InNoForceRLSOperation()) };
        self.runs.push(Run { step, level, role, is_check });
        self.planning += usize::from(matches!(step, Step::Plan(_)));
        self.is_unknown = self.is_to_be_asked();
        depth
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
    if let Some(portal) = portal::active().filter(|portal| !portal::is_procedural(portal)) {
        let step = if portal.queryDesc.is_null() { Step::Unknown } else { Step::Query(portal.queryDesc) };
        // No subtransaction of it ends it.
        running().push(step, 0);
        running().is_unknown = matches!(step, Step::Unknown);
        // SAFETY: the memory of a portal goes when its statement has ended.
        unsafe { part::when_gone(portal.portalContext, ended, std::ptr::null_mut()) };
    }
}

unsafe extern "C-unwind" fn ended(_: *mut std::ffi::c_void) {
    leave(0);
}

/// Notes that a step begins; the result is for `leave`.
#[inline]
pub fn enter(step: Step) -> usize {
    let running = running();
    if running.runs.is_empty() {
        running.latest = std::ptr::null();
        running.begin();
    }
    running.push(step, xact::level())
}

/// The same for the start of a query.
#[inline]
pub fn enter_start(query: *const pg_sys::QueryDesc) -> usize {
    let running = running();
    if running.runs.is_empty() {
        running.latest = query;
        // Of a rule's commands, the first is the statement's beginning.
        if !is_later_command(query) {
            running.begin();
        }
    }
    running.push(Step::Query(query), xact::level())
}

/// The same for a run of it.
#[inline]
pub fn enter_run(query: *const pg_sys::QueryDesc) -> usize {
    let running = running();
    if running.runs.is_empty() {
        running.is_kept = portal::active().is_some_and(portal::is_held);
        if running.latest != query {
            running.latest = query;
            running.begin();
        }
    }
    running.push(Step::Query(query), xact::level())
}

/// The same for its end, which belongs to what was run last.
#[inline]
pub fn enter_finish(query: *const pg_sys::QueryDesc) -> usize {
    running().push(Step::Query(query), xact::level())
}

/// Whether the query is one that a rule has added to the client's statement.
fn is_later_command(query: *const pg_sys::QueryDesc) -> bool {
    // SAFETY: a query that is about to be started or run.
    let plan = unsafe { (*query).plannedstmt };
    portal::active().is_some_and(|portal| portal::commands(portal).skip(1).any(|command| command == plan))
}

/// Notes that it has ended, and what began inside it.
#[inline]
pub fn leave(depth: usize) {
    let running = running();
    if running.planning > 0 {
        let ended = running.runs.iter().skip(depth);
        running.planning -= ended.filter(|run| matches!(run.step, Step::Plan(_))).count();
    }
    running.runs.truncate(depth);
    running.is_unknown = running.is_to_be_asked();
}

/// Whether anything is running.
pub fn is_any() -> bool {
    !running().runs.is_empty()
}

/// Whether a query is.
pub fn is_any_query() -> bool {
    running().runs.iter().any(|run| matches!(run.step, Step::Query(_)))
}

/// Whether a utility command that runs queries of its own is among them.
pub fn is_in_utility() -> bool {
    running().runs.iter().any(|run| matches!(run.step, Step::Alter))
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
/// tenant, and nobody here does. Raises an error where what it reads would be kept in a plan.
pub fn look_now() {
    let running = running();
    if !std::mem::take(&mut running.is_unknown) {
        return;
    }
    let Some(innermost) = running.runs.last().copied() else { return };
    let planning = running.runs.iter().rev().find_map(|run| match run.step {
        Step::Plan(query) => Some(query),
        _ => None,
    });
    if innermost.touches() || matches!(innermost.step, Step::Unknown) {
        note_touch();
        if let Some(function) = planning.and_then(planner::folded) {
            Error::Folded(&function).raise()
        }
    }
}

impl Run {
    fn touches(&self) -> bool {
        matches!(self.step, Step::Query(query) if super::hook::touches_ours(query, self.role))
    }
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

/// The same when it has just ended, until the next begins.
pub fn has_touched_last() -> bool {
    running().has_touched
}

/// Whether one that runs does.
pub fn any_touches() -> bool {
    let runs = running().runs.clone();
    runs.iter().any(Run::touches)
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
    let runs: Vec<_> = running.runs.iter().take(count).copied().collect();
    let is_changed = runs.iter().any(Run::touches);
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
