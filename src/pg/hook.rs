//! The hooks of the planner, the executor, and utility commands.
//!
//! A guarded Rust frame around a statement would strip an application's error of its constraint name,
//! position and context. So the entry is unguarded, owns only plain values (a longjmp through it skips
//! nothing), and calls PostgreSQL's own functions by raw declarations.
//!
//! That of a run comes before each FETCH of a cursor as well as before each statement.

use std::ffi::{CStr, c_char, c_int};

use pgrx::{pg_sys, prelude::*};

use super::{
    activity, bypass_guard, checks, default, distribute, dropping, fixed, late, moved,
    part::Part,
    planner, portal, pushed_scan, rewrite,
    running::{self, Step, Tenant},
    scope, setter,
    statement::{Statement, entries, named},
    unfired,
};

mod raw {
    use super::*;
    unsafe extern "C-unwind" {
        #[cfg(not(feature = "pg18"))]
        pub fn standard_ExecutorRun(
            query: *mut pg_sys::QueryDesc,
            direction: pg_sys::ScanDirection::Type,
            count: u64,
            once: bool,
        );
        #[cfg(feature = "pg18")]
        pub fn standard_ExecutorRun(
            query: *mut pg_sys::QueryDesc,
            direction: pg_sys::ScanDirection::Type,
            count: u64,
        );
        pub fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: c_int);
        pub fn standard_ExecutorFinish(query: *mut pg_sys::QueryDesc);
        pub fn standard_planner(
            query: *mut pg_sys::Query,
            text: *const c_char,
            options: c_int,
            parameters: pg_sys::ParamListInfo,
        ) -> *mut pg_sys::PlannedStmt;
        pub fn standard_ProcessUtility(
            statement: *mut pg_sys::PlannedStmt,
            text: *const c_char,
            is_read_only: bool,
            context: pg_sys::ProcessUtilityContext::Type,
            parameters: pg_sys::ParamListInfo,
            environment: *mut pg_sys::QueryEnvironment,
            to: *mut pg_sys::DestReceiver,
            completion: *mut pg_sys::QueryCompletion,
        );
        pub fn AcceptInvalidationMessages();
    }
}

/// What judges statements.
#[derive(Clone, Copy)]
pub struct Judges {
    /// Judges a statement that runs while the current tenant is not known, or in parts. Raises where it must not run; returns
    /// whether parallel workers may run it.
    pub statement: fn(&Statement) -> bool,
    /// Notes that the statement that is running is about rows of that tenant. Raises where it is about another's.
    pub touch: fn(Tenant),
    /// Whether statements are to be judged that PostgreSQL exempts from policies.
    pub is_guarding: fn() -> bool,
    /// Judges one that reads or writes a table of that number without the policies that it has; and whether that must not be, as
    /// inside the check of a foreign key.
    pub bypass: fn(pg_sys::Oid, bool),
    /// Raises for one that is older than a move of rows to a partition that it reads.
    pub older: fn(),
    /// Raises for one that was planned before the library was loaded, in a way that could go round a policy.
    pub late: fn(),
    /// The policy by which a table is known.
    pub policy: &'static CStr,
}

/// What counts accesses to tables.
#[derive(Clone, Copy)]
pub struct Observer {
    /// Whether anything is to be told; nothing in it raises.
    pub is_on: fn() -> bool,
    /// Is told which tables a statement names.
    pub observe: fn(&[pg_sys::Oid]),
}

static mut JUDGES: Option<Judges> = None;
static mut OBSERVER: Option<Observer> = None;
static mut PREVIOUS_START: pg_sys::ExecutorStart_hook_type = None;
static mut PREVIOUS: pg_sys::ExecutorRun_hook_type = None;
static mut PREVIOUS_FINISH: pg_sys::ExecutorFinish_hook_type = None;
static mut PREVIOUS_PLANNER: pg_sys::planner_hook_type = None;
static mut PREVIOUS_UTILITY: pg_sys::ProcessUtility_hook_type = None;

/// Installs the hooks.
pub fn init(judges: Judges) {
    running::init();
    late::init();
    default::init();
    distribute::init();
    // SAFETY: a backend is single-threaded; this runs once, when the library is loaded.
    unsafe {
        JUDGES = Some(judges);
        PREVIOUS_START = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(executor_start);
        PREVIOUS = pg_sys::ExecutorRun_hook;
        pg_sys::ExecutorRun_hook = Some(executor_run);
        PREVIOUS_FINISH = pg_sys::ExecutorFinish_hook;
        pg_sys::ExecutorFinish_hook = Some(executor_finish);
        PREVIOUS_PLANNER = pg_sys::planner_hook;
        pg_sys::planner_hook = Some(plan);
        PREVIOUS_UTILITY = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
}

/// Has statements told to an observer. To be called when the library is loaded.
pub fn observe_by(observer: Observer) {
    // SAFETY: a backend is single-threaded.
    unsafe { OBSERVER = Some(observer) }
}

/// How often the tenant has changed before.
///
/// Absorbs the news of other backends: PostgreSQL does so only where it takes a new lock, and a suspended tenant
/// must be out at its next statement even inside a long transaction. Then asks, if there is anything to ask.
unsafe fn before_run(query: *mut pg_sys::QueryDesc, count: u64) -> u64 {
    // SAFETY: PostgreSQL passes a valid query; these frames hold only pointers and integers.
    unsafe {
        raw::AcceptInvalidationMessages();
        if super::in_parallel_worker() {
            return running::changes();
        }
        if late::is_unsafe(query) {
            refuse_late();
        }
        if (*(*query).plannedstmt).parallelModeNeeded {
            look(query);
        }
        if portal::active().is_some_and(portal::is_keeping) || running::has_followers() {
            running::watch();
        }
        let is_scrollable = portal::active().is_some_and(portal::is_scrollable);
        let in_parts = count != 0 || (*query).already_executed || is_scrollable;
        let has_part = in_parts || Part::of((*(*query).estate).es_query_cxt).is_some();
        // A token may have expired since it was asked for.
        if has_part || running::is_kept() || !super::accessor::is_resolved() || super::token::is_given() {
            ask(query, in_parts);
        }
        fixed::runs((*query).plannedstmt);
        distribute::runs(query);
        if bypass_guard::is_on() || running::is_inside_check() {
            bypass_guard::guard(query);
        }
        if moved::may_be_older(query) {
            refuse_older(query);
        }
        if !(*query).already_executed && OBSERVER.is_some_and(|observer| (observer.is_on)()) {
            observe(query);
        }
        running::changes()
    }
}

/// Tells of the tables that a statement of a client names, itself or by a view.
#[pg_guard]
unsafe extern "C-unwind" fn observe(query: *const pg_sys::QueryDesc) {
    // SAFETY: a valid query; OBSERVER is only written at load.
    unsafe {
        if let Some(observer) = OBSERVER
            && !running::is_check()
            && !super::user::means_all_rows()
        {
            let plan = (*query).plannedstmt;
            let tables = entries((*plan).rtable).iter().filter_map(|cell| named(plan, cell.ptr_value.cast()));
            (observer.observe)(&tables.collect::<Vec<_>>());
        }
    }
}

/// Judges a query that may be older than a move of rows to a partition that it reads.
#[pg_guard]
unsafe extern "C-unwind" fn refuse_older(query: *const pg_sys::QueryDesc) {
    if moved::is_older(query) {
        // SAFETY: JUDGES is only written at load.
        unsafe {
            if let Some(judges) = JUDGES {
                (judges.older)();
            }
        }
    }
}

/// Refuses a query that was planned before the library was loaded.
#[cold]
#[pg_guard]
unsafe extern "C-unwind" fn refuse_late() {
    // SAFETY: JUDGES is only written at load.
    unsafe {
        if let Some(judges) = JUDGES {
            (judges.late)();
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn look(_query: *const pg_sys::QueryDesc) {
    running::look_now();
}

/// What comes after a run: it may go on later, or have left rows that are read later, or be followed by another of the same statement.
unsafe fn after_run(query: *mut pg_sys::QueryDesc, depth: usize, changes: u64) {
    // SAFETY: the execution of the query has not ended, so its memory is there.
    unsafe {
        // A worker's only query is its leader's, who has its tables locked.
        if !super::in_parallel_worker() {
            // It has asked nobody.
            if running::changes() != changes {
                fixed::changed((*query).plannedstmt);
            }
            let is_keeping = portal::active().is_some_and(portal::is_keeping);
            if is_keeping || running::has_followers() || Part::of((*(*query).estate).es_query_cxt).is_some() {
                note_rows(query);
            }
        }
        running::leave(depth);
    }
}

/// Notes whose rows a query has read or written, for what comes later.
#[pg_guard]
unsafe extern "C-unwind" fn note_rows(query: *mut pg_sys::QueryDesc) {
    let touched = running::touched_last();
    // SAFETY: as above.
    unsafe {
        if let Some(part) = Part::of((*(*query).estate).es_query_cxt)
            && touched.is_some()
        {
            (*part).touched = touched;
        }
    }
    note_kept(touched);
}

/// Notes whose rows the portal that is being run keeps, if it does.
fn note_kept(touched: Option<Tenant>) {
    if let (Some(portal), Some(tenant)) =
        (portal::active().filter(|portal| portal::is_keeping(portal)), touched)
    {
        portal::note(portal, tenant);
    }
}

/// The same after a command that is no query. It may have read what another portal keeps.
#[pg_guard]
unsafe extern "C-unwind" fn note_kept_by_utility() {
    let kept = || portal::keeps_any().then(|| super::guc::assigned().map(|assigned| assigned.id));
    note_kept(running::touched().or_else(kept));
}

unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: PostgreSQL's own arguments, passed on.
    unsafe {
        scope::keep_from_writing();
        scope::forget_query(query);
        // DECLARE ... WITH HOLD.
        if portal::active().is_some_and(portal::is_held) && !running::is_any_query() {
            refuse_kept(query);
        }
        let depth = running::enter_start(query);
        // Before it can fail. What a command starts is told of as that command, and when it runs.
        if scope::is_given() && !running::is_in_command(depth) {
            scope::query_begins(query, depth);
        }
        // What it reads is part of the statement; which tenant that is for may not be known before it runs.
        activity::Step::begin(depth);
        match PREVIOUS_START {
            Some(previous) => previous(query, flags),
            None => raw::standard_ExecutorStart(query, flags),
        }
        if planner::is_tagged((*query).plannedstmt) {
            start_tagged(query);
        }
        pushed_scan::starts(query);
        fixed::starts(query);
        running::leave(depth);
    }
}

/// Notes whose rows the plan of a query holds, for the statement and for all parts of its run.
#[pg_guard]
unsafe extern "C-unwind" fn start_tagged(query: *mut pg_sys::QueryDesc) {
    // SAFETY: a query that has been started.
    unsafe {
        let tenant = planner::tagged((*query).plannedstmt);
        (*Part::at((*(*query).estate).es_query_cxt)).touched = Some(tenant);
        if let Some(judges) = JUDGES {
            (judges.touch)(tenant);
        }
    }
}

#[cfg(not(feature = "pg18"))]
unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    once: bool,
) {
    // SAFETY: PostgreSQL's own arguments, passed on.
    unsafe {
        let depth = running::enter_run(query);
        let step = activity::Step::begin(depth);
        let changes = before_run(query, count);
        let is_told = scope::is_given() && scope::query_runs(query, depth);
        match PREVIOUS {
            Some(previous) => previous(query, direction, count, once),
            None => raw::standard_ExecutorRun(query, direction, count, once),
        }
        if is_told {
            scope::query_ended(query);
        }
        step.end_run(query, (*(*query).estate).es_processed);
        after_run(query, depth, changes);
    }
}

#[cfg(feature = "pg18")]
unsafe extern "C-unwind" fn executor_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
) {
    // SAFETY: PostgreSQL's own arguments, passed on.
    unsafe {
        let depth = running::enter_run(query);
        let step = activity::Step::begin(depth);
        let changes = before_run(query, count);
        let is_told = scope::is_given() && scope::query_runs(query, depth);
        match PREVIOUS {
            Some(previous) => previous(query, direction, count),
            None => raw::standard_ExecutorRun(query, direction, count),
        }
        if is_told {
            scope::query_ended(query);
        }
        step.end_run(query, (*(*query).estate).es_processed);
        after_run(query, depth, changes);
    }
}

unsafe extern "C-unwind" fn executor_finish(query: *mut pg_sys::QueryDesc) {
    // SAFETY: PostgreSQL's own arguments, passed on.
    unsafe {
        let depth = running::enter_finish(query);
        let step = activity::Step::begin(depth);
        // Its triggers, and the checks of its foreign keys: a query that writes was told of, because no scope begins inside one.
        if scope::is_given() {
            running::note_told(depth);
        }
        match PREVIOUS_FINISH {
            Some(previous) => previous(query),
            None => raw::standard_ExecutorFinish(query),
        }
        step.end_query(query);
        running::leave(depth);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn tag(plan: *mut pg_sys::PlannedStmt, tenant: *const Tenant) {
    // SAFETY: the caller's own.
    planner::tag(plan, unsafe { *tenant });
}

unsafe extern "C-unwind" fn plan(
    query: *mut pg_sys::Query,
    text: *const c_char,
    options: c_int,
    parameters: pg_sys::ParamListInfo,
) -> *mut pg_sys::PlannedStmt {
    // SAFETY: PostgreSQL's own arguments, passed on.
    unsafe {
        let depth = running::enter_plan(query);
        let tenant = fixed::tenant_of(query, text, parameters, depth);
        let proven = checks::simplify(query, tenant.as_ref());
        let is_fixed = tenant.as_ref().is_some_and(|tenant| fixed::fix(query, tenant, !parameters.is_null()));
        if scope::is_given() {
            rewrite::to_scope(query);
        }
        let tenant = tenant.filter(|_| is_fixed || proven != 0);
        if let Some(tenant) = &tenant {
            tenant.note_use();
        }
        let planner = PREVIOUS_PLANNER.unwrap_or(raw::standard_planner);
        let plan = planner(query, text, options, parameters);
        late::planned(plan);
        if let Some(tenant) = tenant {
            let proven = if proven == 0 { 0 } else { checks::proof::kept_by(plan, proven) };
            fixed::tag(plan, tenant.number(), proven);
        }
        if let Some(tenant) = running::leave_plan(depth) {
            tag(plan, &tenant);
        }
        plan
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn ask(query: *mut pg_sys::QueryDesc, in_parts: bool) {
    // SAFETY: a valid query; JUDGES is only written at load. The plan may be a cached one, so it is not changed: the
    // query is given a copy of its top node, in the memory context of its execution, which lives as long as it.
    unsafe {
        let Some(judges) = JUDGES else { return };
        let plan = (*query).plannedstmt;
        let context = (*(*query).estate).es_query_cxt;
        let part = if in_parts { Some(Part::at(context)) } else { Part::of(context) };
        if in_parts {
            running::watch();
        }
        let began = part.and_then(|part| (*part).touched);
        let (role, is_kept) = (pg_sys::GetUserId(), running::is_kept() || is_persisted(query));
        let may_be_parallel = (judges.statement)(&Statement { plan, role, began, is_kept });
        if (*plan).parallelModeNeeded && !may_be_parallel {
            let size = size_of::<pg_sys::PlannedStmt>();
            let copy = pg_sys::MemoryContextAlloc(context, size);
            let copy = copy.cast::<pg_sys::PlannedStmt>();
            std::ptr::copy_nonoverlapping(plan, copy, 1);
            (*copy).parallelModeNeeded = false;
            (*query).plannedstmt = copy;
        }
    }
}

/// Whether the rest of a cursor is read because its transaction is about to commit, which the loop of a procedure outlives.
fn is_persisted(query: *const pg_sys::QueryDesc) -> bool {
    portal::active()
        .is_some_and(|portal| portal.queryDesc.cast_const() == query && !portal.holdStore.is_null())
        && super::guc::ends_with_transaction()
}

/// Judges a cursor that is declared WITH HOLD.
#[pg_guard]
unsafe extern "C-unwind" fn refuse_kept(query: *const pg_sys::QueryDesc) {
    // SAFETY: a valid query; JUDGES is only written at load.
    unsafe {
        if let Some(judges) = JUDGES {
            let (plan, role) = ((*query).plannedstmt, pg_sys::GetUserId());
            (judges.statement)(&Statement { plan, role, began: None, is_kept: true });
        }
    }
}

/// Tells of the table that COPY reads or writes without a query.
#[pg_guard]
unsafe extern "C-unwind" fn observe_copy(statement: *const pg_sys::CopyStmt) {
    // SAFETY: as above; OBSERVER is only written at load.
    unsafe {
        // Whoever will be refused has no access.
        let right = if (*statement).is_from { pg_sys::ACL_INSERT } else { pg_sys::ACL_SELECT };
        if let Some(observer) = OBSERVER
            && let Some(table) = bypass_guard::copied(statement)
            && super::user::has_right(table, right as _)
        {
            (observer.observe)(&[table]);
        }
    }
}

#[allow(clippy::too_many_arguments)]
unsafe extern "C-unwind" fn process_utility(
    statement: *mut pg_sys::PlannedStmt,
    text: *const c_char,
    is_read_only: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    to: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: PostgreSQL's own arguments, passed on; the tag of a node tells its type.
    unsafe {
        let command = (*statement).utilityStmt;
        let is_copy = (*command).type_ == pg_sys::NodeTag::T_CopyStmt;
        if is_copy && (bypass_guard::is_on() || running::is_check()) {
            bypass_guard::guard_copy(command.cast());
        }
        scope::keep_from_writing();
        if scope::is_given() {
            scope::command_begins(statement, text);
        }
        let step = match (*command).type_ {
            // Its own queries (is there a row without a parent?) are not the user's.
            pg_sys::NodeTag::T_AlterTableStmt => Some(Step::Alter),
            tag if portal::is_procedure(tag) => None,
            _ => Some(Step::Utility),
        };
        let depth = step.map(|step| running::enter(step, statement));
        let measured = depth.filter(|_| activity::counts(command)).map(activity::Step::begin);
        let drops_us = dropping::drops_us(command);
        if let Some(is_cascade) = drops_us {
            dropping::begins(is_cascade);
        }
        if (*command).type_ == pg_sys::NodeTag::T_ReassignOwnedStmt {
            unfired::reassigns(command.cast());
        }
        let made = unfired::makes(command);
        if is_copy && OBSERVER.is_some_and(|observer| (observer.is_on)()) {
            observe_copy(command.cast());
        }
        let previous = PREVIOUS_UTILITY;
        if is_copy && previous.is_some() {
            bypass_guard::refuse_copy(command.cast());
        }
        let is_top_level = context == pg_sys::ProcessUtilityContext::PROCESS_UTILITY_TOPLEVEL;
        let sets = distribute::sets(command);
        if distribute::has_told() {
            distribute::judge_command(command);
        }
        let (to_run, text) = if sets { distribute::to_send(statement, text) } else { (statement, text) };
        // Whoever comes after us is told of each command.
        if previous.is_some() || !setter::has_run(command, is_top_level) {
            let call = previous.unwrap_or(raw::standard_ProcessUtility);
            call(to_run, text, is_read_only, context, parameters, environment, to, completion);
        }
        if sets {
            distribute::ended(statement);
        }
        if drops_us.is_some() {
            dropping::ended();
        }
        if !made.is_null() {
            unfired::made(made);
        }
        if let Some(measured) = measured {
            measured.end_command(activity::rows_of(completion));
        }
        match depth {
            Some(depth) => {
                if portal::active().is_some_and(portal::is_keeping) {
                    note_kept_by_utility();
                }
                running::leave(depth);
            }
            None => note_called(),
        }
    }
}

/// Notes that a portal keeps what CALL returns, which may be rows of the current tenant.
#[pg_guard]
unsafe extern "C-unwind" fn note_called() {
    let tenant = super::guc::assigned().map(|assigned| assigned.id);
    if let Some(portal) = portal::active().filter(|portal| tenant.is_some() && !portal.holdStore.is_null()) {
        portal::note(portal, tenant);
    }
}

/// What judges statements, once the hooks are there.
pub fn judges() -> Option<Judges> {
    // SAFETY: only written at load.
    unsafe { JUDGES }
}

/// Whether a query reads or writes protected tables, with the policies that apply to it.
pub fn touches_ours(query: *const pg_sys::QueryDesc, role: pg_sys::Oid) -> bool {
    // SAFETY: JUDGES is only written at load; a query that is running has a plan.
    unsafe {
        let statement = Statement { plan: (*query).plannedstmt, role, began: None, is_kept: false };
        JUDGES.is_some_and(|judges| statement.touches(judges.policy))
    }
}
