//! A query that was planned before the library was there to uphold policies (`policies`).
//!
//! Where the library is not preloaded, the first function of ours that a session calls loads it. As a rule that is while a query is planned,
//! which estimates how many rows the tenant has. Where the column is compared with another value instead, it is when the plan is
//! started, and that plan is as PostgreSQL makes it: the tenant is compared with that value once, before the first row.

use std::ffi::c_void;

use pgrx::{pg_guard, pg_sys};

use super::{planner, policies, statement::entries, xact};

/// The memory of what was being done when the library was loaded: that of a query, if one was being started.
static mut STARTING: pg_sys::MemoryContext = std::ptr::null_mut();

/// To be called when the library is loaded.
pub(super) fn init() {
    if xact::in_transaction() {
        // SAFETY: a backend is single-threaded.
        unsafe { STARTING = pg_sys::CurrentMemoryContext }
        // What was prepared before is planned anew.
        planner::drop_plans();
    }
}

/// A query is started by way of the library: if in that memory, then that has been used again.
#[inline]
pub(super) unsafe fn starts(query: *const pg_sys::QueryDesc) {
    // SAFETY: a query that has been started.
    unsafe {
        if !STARTING.is_null() && (*(*query).estate).es_query_cxt == STARTING {
            STARTING = std::ptr::null_mut();
        }
    }
}

/// Whether a query that is about to run was planned before, in a way in which it could go round a policy.
#[inline]
pub(super) unsafe fn is_unsafe(query: *const pg_sys::QueryDesc) -> bool {
    // SAFETY: a query that has been started.
    unsafe {
        !STARTING.is_null() && (*(*query).estate).es_query_cxt == STARTING && judge((*query).plannedstmt)
    }
}

/// Whether a plan compares the tenant before the first row, and calls what is not LEAKPROOF.
#[cold]
#[pg_guard]
unsafe extern "C-unwind" fn judge(plan: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: a valid plan; subplans that are not used are null.
    unsafe {
        let mut found = Found { is_gated: false, is_quiet: true };
        look((*plan).planTree, &mut found);
        for cell in entries((*plan).subplans) {
            look(cell.ptr_value.cast(), &mut found);
        }
        found.is_gated && !found.is_quiet
    }
}

struct Found {
    is_gated: bool,
    is_quiet: bool,
}

unsafe fn look(plan: *mut pg_sys::Plan, found: &mut Found) {
    use pg_sys::NodeTag::*;
    unsafe extern "C-unwind" fn is_ours(number: pg_sys::Oid, _: *mut c_void) -> bool {
        policies::is_tenant(number)
    }
    // SAFETY: a node of a plan, whose tag tells its type, or null.
    unsafe {
        if plan.is_null() {
            return;
        }
        let (conditions, inside) = match (*plan).type_ {
            T_Result => {
                let once = (*plan.cast::<pg_sys::Result>()).resconstantqual;
                found.is_gated |= planner::calls(once, is_ours);
                (once, std::ptr::null_mut())
            }
            T_Append => (std::ptr::null_mut(), (*plan.cast::<pg_sys::Append>()).appendplans),
            T_MergeAppend => (std::ptr::null_mut(), (*plan.cast::<pg_sys::MergeAppend>()).mergeplans),
            T_CustomScan => (std::ptr::null_mut(), (*plan.cast::<pg_sys::CustomScan>()).custom_plans),
            T_SubqueryScan => {
                look((*plan.cast::<pg_sys::SubqueryScan>()).subplan, found);
                (std::ptr::null_mut(), std::ptr::null_mut())
            }
            T_IndexScan => ((*plan.cast::<pg_sys::IndexScan>()).indexqualorig.cast(), std::ptr::null_mut()),
            T_BitmapHeapScan => {
                ((*plan.cast::<pg_sys::BitmapHeapScan>()).bitmapqualorig.cast(), std::ptr::null_mut())
            }
            _ => (std::ptr::null_mut(), std::ptr::null_mut()),
        };
        found.is_quiet &= planner::is_quiet(conditions) && planner::is_quiet((*plan).qual.cast());
        for cell in entries(inside) {
            look(cell.ptr_value.cast(), found);
        }
        look((*plan).lefttree, found);
        look((*plan).righttree, found);
    }
}
