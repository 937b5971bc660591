//! The hooks of the executor, and of COPY and ALTER TABLE.
//!
//! A guarded Rust frame around a statement would strip an application's error of its constraint name,
//! position and context. So the entry is unguarded, owns only plain values (a longjmp through it skips
//! nothing), and calls PostgreSQL's own functions by raw declarations.
//!
//! That of the executor comes before each run of a query, which is each FETCH of a cursor as well as each statement.

use std::ffi::{CStr, c_char, c_int};

use pgrx::{pg_sys, prelude::*};

use super::running;
use crate::tenant::TenantId;

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

/// A statement that is about to run.
pub struct Statement {
    plan: *const pg_sys::PlannedStmt,
    /// As which its tables are accessed where a view names no other.
    role: pg_sys::Oid,
    began: Began,
    is_kept: bool,
}

/// What judges statements.
#[derive(Clone, Copy)]
pub struct Judges {
    /// Judges a statement that runs while the current tenant is not known, or in parts. Raises where it must not run; returns
    /// whether parallel workers may run it.
    pub statement: fn(&Statement) -> bool,
    /// Whether statements are to be judged that PostgreSQL exempts from policies.
    pub is_guarding: fn() -> bool,
    /// Judges one that reads or writes a table of that number without the policies that it has; and whether that must not be, as
    /// inside the check of a foreign key.
    pub bypass: fn(pg_sys::Oid, bool),
    /// The policy by which a table is known.
    pub policy: &'static CStr,
}

static mut JUDGES: Option<Judges> = None;
static mut PREVIOUS_START: pg_sys::ExecutorStart_hook_type = None;
static mut PREVIOUS: pg_sys::ExecutorRun_hook_type = None;
static mut PREVIOUS_UTILITY: pg_sys::ProcessUtility_hook_type = None;

/// Installs the hooks.
pub fn init(judges: Judges) {
    running::init();
    // SAFETY: a backend is single-threaded; this runs once, when the library is loaded.
    unsafe {
        JUDGES = Some(judges);
        PREVIOUS_START = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(executor_start);
        PREVIOUS = pg_sys::ExecutorRun_hook;
        pg_sys::ExecutorRun_hook = Some(executor_run);
        PREVIOUS_UTILITY = pg_sys::ProcessUtility_hook;
        pg_sys::ProcessUtility_hook = Some(process_utility);
    }
}

/// Absorbs the news of other backends: PostgreSQL does so only where it takes a new lock, and a suspended tenant
/// must be out at its next statement even inside a long transaction. Then asks, if there is anything to ask.
unsafe fn before_run(query: *mut pg_sys::QueryDesc, count: u64) {
    // SAFETY: PostgreSQL passes a valid query; these frames hold only pointers and integers.
    unsafe {
        raw::AcceptInvalidationMessages();
        if super::in_parallel_worker() {
            return;
        }
        if (*(*query).plannedstmt).parallelModeNeeded {
            look(query);
        }
        let in_parts = count != 0 || (*query).already_executed || is_scrollable();
        if in_parts || running::is_kept() || !super::accessor::is_resolved() {
            ask(query, in_parts);
        }
        if is_guarding() || running::is_inside_check() {
            guard(query);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn look(_query: *const pg_sys::QueryDesc) {
    running::look_now();
}

/// Whether the cursor that is being run can be read again from its start.
unsafe fn is_scrollable() -> bool {
    // SAFETY: PostgreSQL's own pointer to the portal that is being run, or null.
    unsafe {
        pg_sys::ActivePortal
            .as_ref()
            .is_some_and(|portal| portal.cursorOptions as u32 & pg_sys::CURSOR_OPT_SCROLL != 0)
    }
}

/// Reads a parameter; nothing in it raises.
unsafe fn is_guarding() -> bool {
    // SAFETY: JUDGES is only written at load.
    unsafe { JUDGES.is_some_and(|judges| (judges.is_guarding)()) }
}

/// What comes after a run that may go on later.
unsafe fn after_run(query: *mut pg_sys::QueryDesc, depth: usize) {
    if running::has_touched() {
        // SAFETY: the execution of the query has not ended, so its memory is there.
        unsafe {
            if let Some(began) = Part::of((*(*query).estate).es_query_cxt) {
                (*began).began.has_touched = true;
            }
        }
    }
    running::leave(depth);
}

unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: PostgreSQL's own arguments, passed on.
    unsafe {
        // DECLARE ... WITH HOLD.
        if pg_sys::ActivePortal.as_ref().is_some_and(running::is_held) && !running::is_any() {
            refuse_kept(query);
        }
        match PREVIOUS_START {
            Some(previous) => previous(query, flags),
            None => raw::standard_ExecutorStart(query, flags),
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
        let depth = running::enter(query);
        before_run(query, count);
        match PREVIOUS {
            Some(previous) => previous(query, direction, count, once),
            None => raw::standard_ExecutorRun(query, direction, count, once),
        }
        after_run(query, depth);
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
        let depth = running::enter(query);
        before_run(query, count);
        match PREVIOUS {
            Some(previous) => previous(query, direction, count),
            None => raw::standard_ExecutorRun(query, direction, count),
        }
        after_run(query, depth);
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
        let began = Part::note(context, in_parts);
        if began.has_touched {
            running::note_touch();
        }
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
unsafe fn is_persisted(query: *const pg_sys::QueryDesc) -> bool {
    // SAFETY: PostgreSQL's own pointer to the portal that is being run, or null.
    unsafe {
        let portal = pg_sys::ActivePortal.as_ref();
        portal.is_some_and(|p| p.queryDesc.cast_const() == query && !p.holdStore.is_null())
            && super::guc::ends_with_transaction()
    }
}

/// Judges a cursor that is declared WITH HOLD.
#[pg_guard]
unsafe extern "C-unwind" fn refuse_kept(query: *const pg_sys::QueryDesc) {
    // SAFETY: a valid query; JUDGES is only written at load.
    unsafe {
        if let Some(judges) = JUDGES {
            let (plan, role) = ((*query).plannedstmt, pg_sys::GetUserId());
            (judges.statement)(&Statement { plan, role, began: NO_PART, is_kept: true });
        }
    }
}

/// Judges the tables that a statement reads or writes without their policies.
#[pg_guard]
unsafe extern "C-unwind" fn guard(query: *const pg_sys::QueryDesc) {
    // SAFETY: a valid query; JUDGES is only written at load.
    unsafe {
        // PostgreSQL's own checks of foreign keys see all rows by design.
        // But not what runs inside one: whoever deletes a row does not mean what a trigger of another table does with all rows.
        let is_inside = running::is_inside_check();
        if let Some(judges) = JUDGES
            && (is_inside || !running::is_check())
            && !super::user::means_all_rows()
            && !super::user::alters_all_rows()
        {
            let plan = (*query).plannedstmt;
            for cell in entries((*plan).rtable) {
                if let Some(table) = bypassed(plan, cell.ptr_value.cast(), judges.policy) {
                    (judges.bypass)(table, is_inside);
                }
            }
        }
    }
}

/// The same for COPY of a table, which reads or writes it without a query where no policy applies.
#[pg_guard]
unsafe extern "C-unwind" fn guard_copy(statement: *const pg_sys::CopyStmt) {
    // SAFETY: a valid statement, of which `relation` is null or names a table.
    unsafe {
        let Some(judges) = JUDGES else { return };
        let name = (*statement).relation;
        if name.is_null() || super::user::means_all_rows() {
            return;
        }
        let flags = pg_sys::RVROption::RVR_MISSING_OK;
        let lock = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let table = pg_sys::RangeVarGetRelidExtended(name, lock, flags, None, std::ptr::null_mut());
        if table != pg_sys::InvalidOid
            && is_exempt(table, pg_sys::InvalidOid)
            && has_policy(table, judges.policy)
        {
            (judges.bypass)(table, false);
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
        if (*command).type_ == pg_sys::NodeTag::T_CopyStmt && is_guarding() {
            guard_copy(command.cast());
        }
        // Its own queries (is there a row without a parent?) are not the user's.
        let is_alter = (*command).type_ == pg_sys::NodeTag::T_AlterTableStmt;
        let depth = is_alter.then(|| running::enter(std::ptr::null()));
        let call = PREVIOUS_UTILITY.unwrap_or(raw::standard_ProcessUtility);
        call(statement, text, is_read_only, context, parameters, environment, to, completion);
        if let Some(depth) = depth {
            running::leave(depth);
        }
    }
}

/// What is known of the earlier parts of a run.
#[derive(Clone, Copy)]
struct Began {
    tenant: Option<TenantId>,
    /// A statement inside one of them has read or written protected tables.
    has_touched: bool,
    /// They were for another tenant.
    is_another: bool,
}

const NO_PART: Began = Began { tenant: None, has_touched: false, is_another: false };

/// What the first part of a run leaves for the next: a callback on the memory of the execution, which does nothing
/// but live as long as it.
#[repr(C)]
struct Part {
    callback: pg_sys::MemoryContextCallback,
    began: Began,
}

unsafe extern "C-unwind" fn ended(_part: *mut std::ffi::c_void) {}

impl Part {
    /// What was left in a memory context.
    unsafe fn of(context: pg_sys::MemoryContext) -> Option<*mut Part> {
        let ours = ended as *const () as usize;
        // SAFETY: walks PostgreSQL's list of callbacks on a live memory context; those with our function are `Part`,
        // of which the callback is the first field.
        unsafe {
            let mut callback = (*context).reset_cbs;
            while let Some(found) = callback.as_ref() {
                if found.func.is_some_and(|function| function as *const () as usize == ours) {
                    return Some(callback.cast());
                }
                callback = found.next;
            }
        }
        None
    }

    /// What the earlier parts of this run were for. Notes the tenant at the first part.
    unsafe fn note(context: pg_sys::MemoryContext, in_parts: bool) -> Began {
        let tenant = super::guc::assigned().map(|assigned| assigned.id);
        let began = Began { tenant, ..NO_PART };
        // SAFETY: as above; memory that lives as long as the context.
        unsafe {
            if let Some(part) = Part::of(context) {
                let began = (*part).began;
                return Began { is_another: began.tenant != tenant, ..began };
            }
            if in_parts {
                let part = pg_sys::MemoryContextAllocZero(context, size_of::<Part>()).cast::<Part>();
                (*part).callback.func = Some(ended);
                std::ptr::addr_of_mut!((*part).began).write(began);
                pg_sys::MemoryContextRegisterResetCallback(context, part.cast());
            }
        }
        began
    }
}

/// Whether a query reads or writes protected tables, with the policies that apply to it.
pub fn touches_ours(query: *const pg_sys::QueryDesc, role: pg_sys::Oid) -> bool {
    // SAFETY: JUDGES is only written at load; a query that is running has a plan.
    unsafe {
        let statement = Statement { plan: (*query).plannedstmt, role, began: NO_PART, is_kept: false };
        JUDGES.is_some_and(|judges| statement.touches(judges.policy))
    }
}

/// The table of an entry, where the role that it is accessed as is exempt from the policies that it has.
unsafe fn bypassed(
    plan: *const pg_sys::PlannedStmt,
    entry: *const pg_sys::RangeTblEntry,
    policy: &CStr,
) -> Option<pg_sys::Oid> {
    // SAFETY: a valid entry of the plan, whose relation the statement has locked.
    unsafe {
        let is_table = (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION;
        let role = accessed_as(plan, entry).filter(|_| is_table)?;
        let table = (*entry).relid;
        (is_exempt(table, role) && has_policy(table, policy)).then_some(table)
    }
}

/// Whether the role (none for the current one) is exempt from a table's policies.
unsafe fn is_exempt(table: pg_sys::Oid, role: pg_sys::Oid) -> bool {
    // SAFETY: a relation that exists.
    unsafe {
        pg_sys::check_enable_rls(table, role, true) != pg_sys::CheckEnableRlsResult::RLS_ENABLED as c_int
    }
}

/// The role that a view names for its tables (zero for the current role); none for a partition or child, which is accessed as
/// its parent.
#[cfg(feature = "pg15")]
unsafe fn accessed_as(
    _plan: *const pg_sys::PlannedStmt,
    entry: *const pg_sys::RangeTblEntry,
) -> Option<pg_sys::Oid> {
    // SAFETY: a valid entry.
    unsafe { ((*entry).requiredPerms != 0).then_some((*entry).checkAsUser) }
}

#[cfg(not(feature = "pg15"))]
unsafe fn accessed_as(
    plan: *const pg_sys::PlannedStmt,
    entry: *const pg_sys::RangeTblEntry,
) -> Option<pg_sys::Oid> {
    // SAFETY: a valid entry of the plan, whose `perminfoindex` is zero or counts the entries of `permInfos` from one.
    unsafe {
        let index = ((*entry).perminfoindex as usize).checked_sub(1)?;
        let info = entries((*plan).permInfos).get(index)?.ptr_value.cast::<pg_sys::RTEPermissionInfo>();
        Some((*info).checkAsUser)
    }
}

impl Statement {
    /// Whether it goes on with a run that an earlier part began for another tenant.
    pub fn began_for_another(&self) -> bool {
        self.began.is_another
    }

    /// Whether a function that an earlier part called has read or written protected tables.
    pub fn has_touched(&self) -> bool {
        self.began.has_touched
    }

    /// Whether its rows are kept past the end of the transaction, and of the context.
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Whether it reads or writes a table with a policy of that name that applies.
    pub fn touches(&self, policy: &CStr) -> bool {
        // SAFETY: `self.plan` is a valid plan, of which `rtable` is a list of range table entries.
        unsafe {
            let tables = entries((*self.plan).rtable);
            tables.iter().any(|cell| self.is_under(cell.ptr_value.cast(), policy))
        }
    }

    /// Whether it writes to a table with a policy of that name that applies.
    pub fn writes(&self, policy: &CStr) -> bool {
        // SAFETY: as above; `resultRelations` counts the entries of `rtable` from one.
        unsafe {
            let tables = entries((*self.plan).rtable);
            entries((*self.plan).resultRelations).iter().any(|cell| {
                let table = tables.get(cell.int_value as usize - 1);
                table.is_some_and(|cell| self.is_under(cell.ptr_value.cast(), policy))
            })
        }
    }

    /// Whether the entry is a table with a policy of that name that applies to the role it is accessed as.
    unsafe fn is_under(&self, entry: *const pg_sys::RangeTblEntry, policy: &CStr) -> bool {
        // SAFETY: a valid entry, whose relation the statement has locked.
        unsafe {
            (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION
                && pg_sys::check_enable_rls(
                    (*entry).relid,
                    accessed_as(self.plan, entry)
                        .filter(|role| *role != pg_sys::InvalidOid)
                        .unwrap_or(self.role),
                    true,
                ) == pg_sys::CheckEnableRlsResult::RLS_ENABLED as c_int
                && has_policy((*entry).relid, policy)
        }
    }
}

/// Whether the relation has a policy of that name, as the relation cache knows it: other tables under row-level
/// security are asked about as well, and should not pay a scan of the catalog for it.
unsafe fn has_policy(relation: pg_sys::Oid, name: &CStr) -> bool {
    // SAFETY: a locked relation, whose cache entry stays while it is open; policies have names.
    unsafe {
        let table = pg_sys::relation_open(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        let found = (*table).rd_rsdesc.as_ref().is_some_and(|security| {
            entries(security.policies).iter().any(|cell| {
                let policy = cell.ptr_value.cast::<pg_sys::RowSecurityPolicy>();
                CStr::from_ptr((*policy).policy_name) == name
            })
        });
        pg_sys::relation_close(table, pg_sys::NoLock as pg_sys::LOCKMODE);
        found
    }
}

/// The cells of a list that outlives its use.
unsafe fn entries<'a>(list: *mut pg_sys::List) -> &'a [pg_sys::ListCell] {
    // SAFETY: a list is null or has `length` cells.
    unsafe {
        list.as_ref().map_or(&[], |list| std::slice::from_raw_parts(list.elements, list.length as usize))
    }
}
