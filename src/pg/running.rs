//! Which steps of statements this backend is at, from the client's own to the innermost, and of which tenant rows have been read or
//! written since the client's own statement began.
//!
//! A statement is planned, started, run, and finished (its AFTER triggers), and each of these steps may call functions that run
//! statements of their own. DO and CALL are no steps: what they run are statements of the client's.
//!
//! PostgreSQL calls a hook where a step begins, and nobody where an error ends it; but an error ends a transaction or a
//! subtransaction as well, and what was begun in that is forgotten with it.
//!
//! Whether a query touches protected tables costs a look into the catalogs, so it is asked late: a nested one when it uses the current
//! tenant, the outermost one when the tenant is to change.

use std::ptr::addr_of_mut;

use pgrx::{pg_sys, prelude::*};

use super::{
    part, planner, portal, raw,
    xact::{self, Event},
};
use crate::{error::Error, tenant::TenantId};

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
    /// It is on record that it runs in a scope of several tenants, and with it what runs inside it.
    is_told: bool,
    /// What is touched inside it matters later: for its next part, for what its portal keeps, for the plan.
    is_watched: bool,
    /// Something inside it has touched.
    has_touched: bool,
}

/// Whose rows: of a tenant, or what is there for none.
pub type Tenant = Option<TenantId>;

struct Running {
    runs: Vec<Run>,
    /// The query that was started or run last as the client's own.
    latest: *const pg_sys::QueryDesc,
    /// When the client sent its statement, in PostgreSQL's clock; and in which transaction.
    sent: (i64, u64),
    /// Whose rows the statement has read or written, in steps that have ended or that were asked.
    touched: Option<Tenant>,
    /// The same before what is planned now.
    aside: Option<Tenant>,
    /// Whose rows may have become constants of what the step at a place plans.
    folded: Vec<(usize, Tenant)>,
    /// PostgreSQL may keep a plan with rows of the current tenant; and such a plan that it runs without a step.
    keeps_plan: bool,
    keeps_expression: bool,
    /// How many steps are watched: a query inside one is asked in any case.
    watched: usize,
    /// Whether the innermost step touches is not known yet: it is asked when it uses the current tenant.
    is_unknown: bool,
    /// How many steps had begun when the tenant changed without anybody being asked (a rollback, RESET); and from whom.
    unchecked: usize,
    before: Tenant,
    /// What the outermost step returns is kept past the end of the transaction.
    is_kept: bool,
    /// How often a query has been planned, or its planner goes on after another.
    plans: u64,
    /// How often the tenant has changed.
    changes: u64,
}

static mut RUNNING: Running = Running {
    runs: Vec::new(),
    latest: std::ptr::null(),
    sent: (0, 0),
    touched: None,
    aside: None,
    folded: Vec::new(),
    keeps_plan: false,
    keeps_expression: false,
    watched: 0,
    is_unknown: false,
    unchecked: 0,
    before: None,
    is_kept: false,
    plans: 0,
    changes: 0,
};

/// The state, which is backend-local; nothing that holds on to it calls PostgreSQL.
fn running() -> &'static mut Running {
    // SAFETY: a backend is single-threaded, and each caller in this file is done with it before another gets it.
    unsafe { &mut *addr_of_mut!(RUNNING) }
}

fn current() -> Tenant {
    super::guc::assigned().map(|assigned| assigned.id)
}

impl Running {
    fn begin(&mut self) {
        if self.touched.is_some() {
            self.touched = None;
        }
        (self.unchecked, self.is_kept) = (0, false);
        self.sent = (xact::sent(), xact::number());
    }

    fn folded_at(&self, depth: usize) -> Option<Tenant> {
        self.folded.iter().find(|(place, _)| *place == depth).map(|(_, tenant)| *tenant)
    }

    fn is_to_be_asked(&self) -> bool {
        self.runs.len() > 1 && (self.touched.is_none() || self.watched > 0)
    }

    #[inline]
    fn push(&mut self, step: Step, level: i32) -> usize {
        let depth = self.runs.len();
        // SAFETY: reads backend-local state.
        let (role, is_check) = unsafe { (raw::GetUserId(), raw::InNoForceRLSOperation()) };
        let run = Run { step, level, role, is_check, is_watched: false, has_touched: false, is_told: false };
        self.runs.push(run);
        self.is_unknown = self.is_to_be_asked();
        depth
    }
}

impl Run {
    fn touches(&self) -> bool {
        matches!(self.step, Step::Query(query) if super::hook::touches_ours(query, self.role))
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
        // A command like VACUUM goes on in its next transaction.
        Event::Committed => {
            let runs = &running().runs;
            let ours = runs.iter().position(|run| !matches!(run.step, Step::Utility | Step::Alter));
            leave(ours.unwrap_or(runs.len()));
        }
        event if event.is_end() => leave(0),
        _ => {}
    });
    let is_running = |portal: &&pg_sys::PortalData| {
        portal.status == pg_sys::PortalStatus::PORTAL_ACTIVE && !portal::is_procedural(portal)
    };
    if let Some(portal) = portal::active().filter(is_running) {
        let step = if portal.queryDesc.is_null() { Step::Unknown } else { Step::Query(portal.queryDesc) };
        running().begin();
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

/// Notes that a statement of the client's begins, unless it has begun already: with an earlier command of a rule, or of a
/// function that was called by the protocol, or of what COMMIT runs. Neither of these two has a portal.
#[inline]
fn begin_unless_begun(command: *const pg_sys::PlannedStmt) {
    let has_begun = match portal::active() {
        Some(portal) => portal::commands(portal).skip(1).any(|later| later.cast_const() == command),
        None => has_begun_without_portal(),
    };
    if has_begun {
        return;
    }
    running().begin();
    if std::mem::take(&mut running().keeps_expression) {
        planner::drop_plans();
    }
    if portal::keeps_any() {
        portal::close_others(current().as_ref());
        // It may read what a cursor keeps, and nobody is told.
        // SAFETY: the command that is about to run.
        if portal::keeps_any_open() && !unsafe { sets_parameter(command) } {
            running().touched = Some(current());
        }
    }
}

/// Whether a command is SET or RESET, which reads nothing.
unsafe fn sets_parameter(command: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: a valid statement, whose `utilityStmt` is null or a node.
    unsafe {
        (*command).utilityStmt.as_ref().is_some_and(|node| node.type_ == pg_sys::NodeTag::T_VariableSetStmt)
    }
}

fn has_begun_without_portal() -> bool {
    super::has_client() && running().sent == (xact::sent(), xact::number()) && portal::active().is_none()
}

/// Notes that a utility command begins; the result is for `leave`.
#[inline]
pub fn enter(step: Step, command: *const pg_sys::PlannedStmt) -> usize {
    if running().runs.is_empty() {
        running().latest = std::ptr::null();
        begin_unless_begun(command);
    }
    running().push(step, xact::level())
}

/// The same for the start of a query.
#[inline]
pub fn enter_start(query: *const pg_sys::QueryDesc) -> usize {
    if running().runs.is_empty() {
        running().latest = query;
        // SAFETY: a query that is about to be started.
        begin_unless_begun(unsafe { (*query).plannedstmt });
    }
    running().push(Step::Query(query), xact::level())
}

/// The same for a run of it.
#[inline]
pub fn enter_run(query: *const pg_sys::QueryDesc) -> usize {
    if running().runs.is_empty() {
        if running().latest != query {
            running().latest = query;
            // SAFETY: a query that is about to be run.
            begin_unless_begun(unsafe { (*query).plannedstmt });
        }
        running().is_kept = portal::active().is_some_and(portal::is_held);
    }
    running().push(Step::Query(query), xact::level())
}

/// The same for its end, which belongs to what was run last.
#[inline]
pub fn enter_finish(query: *const pg_sys::QueryDesc) -> usize {
    running().push(Step::Query(query), xact::level())
}

/// Notes that a step has ended, and what began inside it.
#[inline]
pub fn leave(depth: usize) {
    let running = running();
    if running.watched > 0 {
        running.watched -= running.runs.iter().skip(depth).filter(|run| run.is_watched).count();
    }
    running.runs.truncate(depth);
    if !running.folded.is_empty() {
        running.folded.retain(|(place, _)| *place < depth);
    }
    // A nested step was asked when it used the tenant.
    running.unchecked = running.unchecked.min(depth);
    running.is_unknown = running.is_to_be_asked();
}

/// Notes that a query is planned. If it is the client's own, its statement has not begun.
#[inline]
pub fn enter_plan(query: *const pg_sys::Query) -> usize {
    let running = running();
    if running.runs.is_empty() {
        running.latest = std::ptr::null();
        running.unchecked = 0;
        // Most often there is nothing to move, and a tenant's id is long.
        if running.touched.is_some() || running.aside.is_some() {
            running.aside = running.touched.take();
        }
    }
    running.plans += 1;
    let depth = running.push(Step::Plan(query), xact::level());
    watch();
    depth
}

/// Notes that it has been planned. Whose rows may have become constants of the plan.
#[inline]
pub fn leave_plan(depth: usize) -> Option<Tenant> {
    let running = running();
    running.plans += 1;
    if depth == 0 && (running.touched.is_some() || running.aside.is_some()) {
        running.touched = running.aside.take();
    }
    let folded = if running.folded.is_empty() { None } else { running.folded_at(depth) };
    leave(depth);
    folded
}

/// From here on, what is touched inside the innermost step is noted there.
#[inline]
pub fn watch() {
    let running = running();
    if let Some(run) = running.runs.last_mut()
        && !run.is_watched
    {
        run.is_watched = true;
        running.watched += 1;
    }
}

/// Whether a query is running.
pub fn is_any_query() -> bool {
    running().runs.iter().any(|run| matches!(run.step, Step::Query(_)))
}

/// Another number whenever the tenant has changed.
#[inline]
pub fn changes() -> u64 {
    running().changes
}

/// Another number while each query is planned.
#[inline]
pub fn plans() -> u64 {
    running().plans
}

/// Whether what runs now is planned.
pub fn is_planning() -> bool {
    running().runs.last().is_some_and(|run| matches!(run.step, Step::Plan(_)))
}

/// Notes that the step at that depth is on record, and with it what runs inside it.
pub fn note_told(depth: usize) {
    if let Some(run) = running().runs.get_mut(depth) {
        run.is_told = true;
    }
}

/// Whether a step at that depth is part of a query that is on record. What is not: a query of the client's own; one of a function that
/// is called while a query is planned, which may never run; one of a query that began before its scope did.
pub fn is_inside_told(depth: usize) -> bool {
    running().runs.iter().take(depth).any(|run| run.is_told)
}

/// Whether nothing runs but the client's own query.
pub fn is_client_select() -> bool {
    let is_alone = matches!(running().runs.as_slice(), [run] if matches!(run.step, Step::Query(_)));
    is_alone && !portal::active().is_some_and(portal::is_procedural)
}

/// Whether a utility command has begun before that depth.
pub fn is_in_command(depth: usize) -> bool {
    running().runs.iter().take(depth).any(|run| matches!(run.step, Step::Utility | Step::Alter))
}

/// Whether all that runs does no more than read: nothing that it reads is written by it.
pub fn only_reads() -> bool {
    running().runs.iter().all(|run| match run.step {
        Step::Query(query) => reads_only(query),
        Step::Plan(_) => true,
        Step::Alter | Step::Utility | Step::Unknown => false,
    })
}

fn reads_only(query: *const pg_sys::QueryDesc) -> bool {
    const KEEPING: [pg_sys::CommandDest::Type; 2] =
        [pg_sys::CommandDest::DestIntoRel, pg_sys::CommandDest::DestTransientRel];
    // SAFETY: a query that is running has a plan; where its rows go is null or a receiver.
    unsafe {
        let plan = (*query).plannedstmt;
        let to = (*query).dest.as_ref().map(|receiver| receiver.mydest);
        (*query).operation == pg_sys::CmdType::CMD_SELECT
            && !(*plan).hasModifyingCTE
            && !to.is_some_and(|to| KEEPING.contains(&to))
    }
}

/// Whether a utility command that runs queries of its own is among the steps.
pub fn is_in_utility() -> bool {
    running().runs.iter().any(|run| matches!(run.step, Step::Alter))
}

/// Whether the statement that `touched` tells of is the one that is running.
fn is_any() -> bool {
    let running = running();
    !running.runs.is_empty() || has_begun_without_portal()
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

/// Asks whether the innermost step reads or writes protected tables. For one that parallel workers run for it: they use the
/// tenant, and nobody here does.
pub fn look_now() {
    let running = running();
    if !std::mem::take(&mut running.is_unknown) {
        return;
    }
    let Some(innermost) = running.runs.last().copied() else { return };
    if innermost.touches() || matches!(innermost.step, Step::Unknown) {
        note_touch();
    }
}

/// Whose rows the innermost step, a query that is watched and about to end, or something inside it, has read or written.
pub fn touched_last() -> Option<Tenant> {
    let innermost = running().runs.last().copied()?;
    if !innermost.has_touched {
        if innermost.is_check || !innermost.touches() {
            // It may have read what a cursor keeps.
            return portal::keeps_any_open().then(current);
        }
        note_touch();
    }
    touched()
}

/// Notes that rows of the current tenant are read or written. Raises an error where a plan would hold rows of two.
fn note_touch() {
    settle();
    note_touch_of(current());
    let plans = running().runs.iter().enumerate();
    let plans: Vec<_> = plans
        .filter_map(|(depth, run)| match run.step {
            Step::Plan(query) => Some((depth, query)),
            _ => None,
        })
        .collect();
    for (depth, query) in plans.into_iter().filter(|(_, query)| planner::may_fold(*query)) {
        let running = running();
        running.keeps_plan = true;
        running.keeps_expression |= planner::is_expression(query);
        let tenant = current();
        match running.folded_at(depth) {
            None => running.folded.push((depth, tenant)),
            Some(first) if first == tenant => {}
            Some(_) => Error::ChangedInStatement.raise(),
        }
    }
}

/// The same for rows of a tenant; returns whether they are of the one whose rows the statement was about before.
pub fn note_touch_of(tenant: Tenant) -> bool {
    let running = running();
    running.is_unknown = false;
    running.runs.iter_mut().for_each(|run| run.has_touched = true);
    *running.touched.get_or_insert(tenant) == tenant
}

/// Whether one of the outermost steps, so many of them, touches.
fn any_touches(count: usize) -> bool {
    (0..count).any(|place| running().runs.get(place).copied().is_some_and(|run| run.touches()))
}

/// Asks those that had begun when the tenant changed and nobody was asked.
fn settle() {
    let running = running();
    let count = std::mem::take(&mut running.unchecked).min(running.runs.len());
    if count > 0 && running.touched.is_none() {
        let before = running.before;
        if any_touches(count) {
            self::running().touched.get_or_insert(before);
        }
    }
}

/// Whose rows the statement has read or written, in steps that have ended or were asked.
pub fn touched() -> Option<Tenant> {
    settle();
    running().touched.filter(|_| is_any())
}

/// Whether the tenant may not become this one now: the client's statement that is running is about another's rows, or a cursor that it
/// may read keeps some.
#[inline(never)]
pub fn refuses(tenant: &TenantId) -> bool {
    settle();
    if running().touched.is_none() {
        if !any_touches(running().runs.len()) {
            return false;
        }
        // What runs has read or may read rows of the current tenant.
        running().touched = Some(current());
    }
    is_any() && running().touched.as_ref().is_some_and(|of| of.as_ref() != Some(tenant))
}

/// Notes that the tenant has changed, and whether anybody was asked. Looks at no catalog: a rollback is no time for it.
pub fn note_change(from: Option<&TenantId>, to: Option<&TenantId>, was_asked: bool) {
    portal::close_others(to);
    let running = running();
    running.changes += 1;
    if std::mem::take(&mut running.keeps_plan) {
        running.keeps_expression = false;
        planner::drop_plans();
    }
    if !was_asked && !running.runs.is_empty() {
        if running.unchecked == 0 {
            running.before = from.copied();
        }
        running.unchecked = running.unchecked.max(running.runs.len());
    }
}

/// Whether the statement that runs is about the rows of another tenant.
pub fn is_changed() -> bool {
    touched().is_some_and(|of| of != current())
}

/// Whether the innermost run is code of a user's inside PostgreSQL's own check of a foreign key: a trigger, a cast. PostgreSQL
/// leaves out the policies of the owner there as well. What ALTER TABLE asks for itself is not.
pub fn is_inside_check() -> bool {
    let is_query = |run: &Run| run.is_check && !matches!(run.step, Step::Alter);
    matches!(running().runs.as_slice(), [outer @ .., inner] if inner.is_check && outer.iter().any(is_query))
}

/// Whether it is such a check.
pub fn is_check() -> bool {
    running().runs.last().is_some_and(|run| run.is_check)
}

/// Whether it is a command of several, or has no portal: what it touches matters to those that follow.
#[inline]
pub fn has_followers() -> bool {
    running().runs.len() == 1
        && match portal::active() {
            Some(portal) => portal::commands(portal).nth(1).is_some(),
            None => super::has_client(),
        }
}

/// Whether what the outermost statement returns is kept past the end of the transaction.
pub fn is_kept() -> bool {
    running().is_kept && !running().runs.is_empty()
}

/// From here on the outermost statement counts as one that has just begun.
pub fn begin_anew() {
    let is_kept = running().is_kept;
    running().begin();
    running().is_kept = is_kept;
}
