//! Queries that were planned, or begun to be planned, before the library was there to uphold policies (`policies`).
//!
//! Where the library is not preloaded, the first function of ours that a session calls loads it: while a query is planned, which estimates how many
//! rows the tenant has, or when a plan is started. What was planned before is as PostgreSQL makes it: where a query says what the tenant
//! column is equal to, the tenant is compared with that once, before the first row.

use std::ffi::c_void;

use pgrx::{pg_guard, pg_sys};

use super::{planner, policies, statement::entries, xact};

/// Whether a query may have been planned before the library was loaded.
static mut IS_LATE: bool = false;

/// To be called when the library is loaded.
pub(super) fn init() {
    if xact::in_transaction() {
        // SAFETY: a backend is single-threaded.
        unsafe { IS_LATE = true }
        // What was prepared before is planned anew.
        planner::drop_plans();
    }
}

/// Notes that a plan was made with the library.
#[inline]
pub(super) unsafe fn planned(plan: *mut pg_sys::PlannedStmt) {
    #[cold]
    #[pg_guard]
    unsafe extern "C-unwind" fn note(plan: *mut pg_sys::PlannedStmt) {
        // SAFETY: a plan that was made just now.
        unsafe { planner::tag_upheld(plan) }
    }
    // SAFETY: as above.
    unsafe {
        if IS_LATE {
            note(plan);
        }
    }
}

/// Whether a query that is about to run was planned before, in a way in which it could go round a policy.
#[inline]
pub(super) unsafe fn is_unsafe(query: *const pg_sys::QueryDesc) -> bool {
    // SAFETY: a query that has been started.
    unsafe { IS_LATE && !planner::is_upheld((*query).plannedstmt) && judge((*query).plannedstmt) }
}

/// Whether a plan compares the tenant with something before the first row: with what may change, or beside what could tell of a row.
#[cold]
#[pg_guard]
unsafe extern "C-unwind" fn judge(plan: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: a valid plan; subplans that are not used are null.
    unsafe {
        let mut found = Found::default();
        look((*plan).planTree, &mut found);
        for cell in entries((*plan).subplans) {
            look(cell.ptr_value.cast(), &mut found);
        }
        let is_loud = found.is_loud || found.waits && found.has_queries;
        found.is_unsure || found.is_gated && is_loud
    }
}

#[derive(Default)]
struct Found {
    is_gated: bool,
    is_unsure: bool,
    is_loud: bool,
    /// For a value that is computed elsewhere: by another table of the query, or where there are queries inside, by one of these.
    waits: bool,
    has_queries: bool,
}

impl Found {
    /// What is asked once, before the first row.
    unsafe fn gate(&mut self, conditions: *mut pg_sys::List) {
        unsafe extern "C-unwind" fn is_ours(number: pg_sys::Oid, _: *mut c_void) -> bool {
            policies::is_tenant(number)
        }
        // SAFETY: a list of expressions; the tag of a node tells its type.
        unsafe {
            for cell in entries(conditions) {
                let condition = cell.ptr_value.cast::<pg_sys::Node>();
                if planner::calls(condition, is_ours) {
                    self.is_gated = true;
                    self.is_unsure |= (*condition).type_ != pg_sys::NodeTag::T_OpExpr
                        || entries((*condition.cast::<pg_sys::OpExpr>()).args)
                            .iter()
                            .any(|cell| !policies::is_sure(cell.ptr_value.cast()));
                }
            }
        }
    }

    /// What is asked of rows.
    unsafe fn conditions(&mut self, conditions: *mut pg_sys::List) {
        // SAFETY: a list of expressions.
        unsafe {
            for cell in entries(conditions) {
                let condition = cell.ptr_value.cast();
                // PostgreSQL itself has these come after the policies.
                if pg_sys::contain_leaked_vars(condition) {
                    continue;
                }
                self.is_loud |= pg_sys::contain_volatile_functions(condition)
                    || planner::calls(condition, policies::is_written);
                self.waits |= planner::waits(condition);
            }
        }
    }
}

unsafe fn look(plan: *mut pg_sys::Plan, found: &mut Found) {
    use pg_sys::NodeTag::*;
    // SAFETY: a node of a plan, whose tag tells its type, or null.
    unsafe {
        if plan.is_null() {
            return;
        }
        let mut inside = std::ptr::null_mut();
        match (*plan).type_ {
            T_Result => found.gate((*plan.cast::<pg_sys::Result>()).resconstantqual.cast()),
            T_Append => inside = (*plan.cast::<pg_sys::Append>()).appendplans,
            T_MergeAppend => inside = (*plan.cast::<pg_sys::MergeAppend>()).mergeplans,
            T_BitmapAnd => inside = (*plan.cast::<pg_sys::BitmapAnd>()).bitmapplans,
            T_BitmapOr => inside = (*plan.cast::<pg_sys::BitmapOr>()).bitmapplans,
            T_CustomScan => inside = (*plan.cast::<pg_sys::CustomScan>()).custom_plans,
            T_SubqueryScan => look((*plan.cast::<pg_sys::SubqueryScan>()).subplan, found),
            T_IndexScan => found.conditions((*plan.cast::<pg_sys::IndexScan>()).indexqualorig),
            T_IndexOnlyScan => found.conditions((*plan.cast::<pg_sys::IndexOnlyScan>()).recheckqual),
            T_BitmapIndexScan => found.conditions((*plan.cast::<pg_sys::BitmapIndexScan>()).indexqualorig),
            T_BitmapHeapScan => found.conditions((*plan.cast::<pg_sys::BitmapHeapScan>()).bitmapqualorig),
            T_TidScan => found.conditions((*plan.cast::<pg_sys::TidScan>()).tidquals),
            T_TidRangeScan => found.conditions((*plan.cast::<pg_sys::TidRangeScan>()).tidrangequals),
            _ => {}
        }
        found.conditions((*plan).qual);
        found.has_queries |= entries((*plan).initPlan).iter().any(|cell| {
            let query = cell.ptr_value.cast::<pg_sys::SubPlan>();
            (*query).subLinkType != pg_sys::SubLinkType::CTE_SUBLINK
        });
        for cell in entries(inside) {
            look(cell.ptr_value.cast(), found);
        }
        look((*plan).lefttree, found);
        look((*plan).righttree, found);
    }
}
