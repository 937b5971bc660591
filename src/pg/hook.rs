//! The executor hook.
//!
//! A guarded Rust frame around a statement would strip an application's error of its constraint name,
//! position and context. So the entry is unguarded, owns only plain values (a longjmp through it skips
//! nothing), and calls PostgreSQL's own functions by raw declarations.

use std::ffi::{CStr, c_char, c_int};

use pgrx::{pg_sys, prelude::*};

mod raw {
    use super::*;
    unsafe extern "C-unwind" {
        pub fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: c_int);
        pub fn AcceptInvalidationMessages();
        pub fn get_relation_policy_oid(
            relation: pg_sys::Oid,
            policy: *const c_char,
            missing_ok: bool,
        ) -> pg_sys::Oid;
    }
}

/// Tells whether the statement writes to a table with the policy of that name that applies to the current role.
pub type WritesUnder<'a> = &'a dyn Fn(&CStr) -> bool;

/// What is asked before a statement starts.
#[derive(Clone, Copy)]
pub struct Questions {
    /// May parallel workers run it? If not, its leader runs all of it. Must not raise.
    pub parallel: fn() -> bool,
    /// May it write? Raises if not.
    pub write: fn(WritesUnder),
}

static mut PREVIOUS: pg_sys::ExecutorStart_hook_type = None;
static mut QUESTIONS: Option<Questions> = None;

/// Installs the hook.
pub fn init(questions: Questions) {
    // SAFETY: a backend is single-threaded; this runs once, when the library is loaded.
    unsafe {
        QUESTIONS = Some(questions);
        PREVIOUS = pg_sys::ExecutorStart_hook;
        pg_sys::ExecutorStart_hook = Some(executor_start);
    }
}

/// At the start of each statement, absorbs the news of other backends: PostgreSQL does so only where it takes
/// a new lock, and a suspended tenant must be out at its next statement even inside a long transaction.
unsafe extern "C-unwind" fn executor_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: PostgreSQL passes a valid query; this frame holds only pointers and integers.
    unsafe {
        raw::AcceptInvalidationMessages();
        let plan = (*query).plannedstmt;
        if ((*plan).parallelModeNeeded || !(*plan).resultRelations.is_null()) && !super::in_parallel_worker()
        {
            ask(query);
        }
        match PREVIOUS {
            Some(previous) => previous(query, flags),
            None => raw::standard_ExecutorStart(query, flags),
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn ask(query: *mut pg_sys::QueryDesc) {
    // SAFETY: a valid query, whose plan's `resultRelations` count the entries of `rtable` from one; QUESTIONS is
    // only written at load. The plan may be a cached one, so it is not changed: the query is given a copy of its
    // top node, in the memory context that the query itself was made in.
    unsafe {
        let Some(questions) = QUESTIONS else { return };
        let plan = (*query).plannedstmt;
        if (*plan).parallelModeNeeded && !(questions.parallel)() {
            let copy = pg_sys::palloc(size_of::<pg_sys::PlannedStmt>()).cast::<pg_sys::PlannedStmt>();
            std::ptr::copy_nonoverlapping(plan, copy, 1);
            (*copy).parallelModeNeeded = false;
            (*query).plannedstmt = copy;
        }
        if !(*plan).resultRelations.is_null() {
            let tables = entries((*plan).rtable);
            (questions.write)(&|policy| {
                entries((*plan).resultRelations).iter().any(|cell| {
                    let table = tables.get(cell.int_value as usize - 1);
                    table.is_some_and(|cell| is_under(cell.ptr_value.cast(), policy))
                })
            });
        }
    }
}

/// The cells of a list that outlives its use.
unsafe fn entries<'a>(list: *mut pg_sys::List) -> &'a [pg_sys::ListCell] {
    // SAFETY: a list is null or has `length` cells.
    unsafe {
        list.as_ref().map_or(&[], |list| std::slice::from_raw_parts(list.elements, list.length as usize))
    }
}

/// Whether the entry is a table with a policy of that name that applies to the current role.
unsafe fn is_under(entry: *mut pg_sys::RangeTblEntry, policy: &CStr) -> bool {
    // SAFETY: a valid entry. The lookup is declared raw, so the guard is put around it here; no value that needs
    // dropping is alive meanwhile.
    unsafe {
        (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION
            && pg_sys::check_enable_rls((*entry).relid, pg_sys::InvalidOid, true)
                == pg_sys::CheckEnableRlsResult::RLS_ENABLED as c_int
            && pg_sys::ffi::pg_guard_ffi_boundary(|| {
                raw::get_relation_policy_oid((*entry).relid, policy.as_ptr(), true)
            }) != pg_sys::InvalidOid
    }
}
