//! The current tenant as a constant of a plan that runs once, at once.
//!
//! `tenant_id = current_tenant()` takes PostgreSQL longer than `tenant_id = 'acme'`: it looks up the function, whether it may be called, and what
//! it costs, prepares the call, calls it, and leaves out partitions when the plan is started, and not before it has planned for all of them. So where a client
//! sends a statement by itself, or binds values to one, and the plan is for that run only, the id takes the place of the call in the policies. A plan that
//! is kept asks the function, and so does what EXPLAIN shows.
//!
//! The plan is marked with the tenant, and runs for no other.

use std::ffi::CStr;

use pgrx::{pg_sys, prelude::*};

use super::{
    accessor::{self, Form, Known},
    checks, planner, scope,
    statement::entries,
};

mod raw {
    use super::*;
    unsafe extern "C-unwind" {
        pub fn makeConst(
            kind: pg_sys::Oid,
            modifier: i32,
            collation: pg_sys::Oid,
            length: i32,
            value: pg_sys::Datum,
            is_null: bool,
            by_value: bool,
        ) -> *mut pg_sys::Const;
        pub fn datumCopy(value: pg_sys::Datum, by_value: bool, length: i32) -> pg_sys::Datum;
    }
}

/// The tenant that is a constant of the plan that is about to be made, if it is to be one. Frames of plain data, which an error may skip.
#[inline]
pub unsafe fn tenant_of(
    query: *const pg_sys::Query,
    parameters: pg_sys::ParamListInfo,
    depth: usize,
) -> Option<Known> {
    // SAFETY: a query that is about to be planned.
    unsafe {
        let is_bound = !parameters.is_null();
        if depth == 0 && (*query).hasRowSecurity && !scope::is_given() && runs_once(is_bound) {
            accessor::known()
        } else {
            None
        }
    }
}

/// Whether what is planned now, as the outermost step, is what a client has sent by itself, or has bound values to. Elsewhere it is planned inside a portal,
/// or in the memory of what calls it; and whoever binds has made the portal before, also where there are no values and the plan is kept.
unsafe fn runs_once(is_bound: bool) -> bool {
    // SAFETY: PostgreSQL's own pointers; a context has a parent or null.
    unsafe {
        let message = pg_sys::MessageContext;
        let current = pg_sys::CurrentMemoryContext;
        pg_sys::ActivePortal.is_null()
            && !message.is_null()
            // Of several statements in a message each but the last has a part of its memory.
            && (current == message || (*current).parent == message)
            && (is_bound || !is_any_portal())
    }
}

/// Whether there is a portal, one that is being made as well.
unsafe fn is_any_portal() -> bool {
    static mut PORTALS: pg_sys::MemoryContext = std::ptr::null_mut();
    // SAFETY: the tree of contexts, each with a name; that of the portals is made before the first statement, and stays.
    unsafe {
        if PORTALS.is_null() {
            let mut child = (*pg_sys::TopMemoryContext).firstchild;
            while !child.is_null() && CStr::from_ptr((*child).name) != c"TopPortalContext" {
                child = (*child).nextchild;
            }
            PORTALS = child;
        }
        PORTALS.is_null() || !(*PORTALS).firstchild.is_null()
    }
}

/// Has the policies of a query compare with the tenant instead of asking for it; whether any does.
pub unsafe fn fix(query: *mut pg_sys::Query, tenant: &Known, is_bound: bool) -> bool {
    // SAFETY: a query that PostgreSQL lets its planner change: its policies are copies of those of the tables.
    unsafe {
        let tables = entries((*query).rtable);
        // Of a partitioned table PostgreSQL would not find that a plan that is kept, and leaves out partitions when it starts, is as good.
        let is_parent = |cell: &pg_sys::ListCell| {
            (*cell.ptr_value.cast::<pg_sys::RangeTblEntry>()).relkind as u8
                == pg_sys::RELKIND_PARTITIONED_TABLE
        };
        if is_bound && tables.iter().any(is_parent) {
            return false;
        }
        let mut is_any = false;
        for cell in tables {
            let entry = cell.ptr_value.cast::<pg_sys::RangeTblEntry>();
            for cell in entries((*entry).securityQuals) {
                is_any |= settle(cell.ptr_value.cast(), tenant);
            }
            if (*entry).rtekind == pg_sys::RTEKind::RTE_SUBQUERY && !(*entry).subquery.is_null() {
                is_any |= fix((*entry).subquery, tenant, is_bound);
            }
        }
        for cell in entries((*query).cteList) {
            let inner = (*cell.ptr_value.cast::<pg_sys::CommonTableExpr>()).ctequery;
            if (*inner).type_ == pg_sys::NodeTag::T_Query {
                is_any |= fix(inner.cast(), tenant, is_bound);
            }
        }
        // What says the same beside a policy would stay a condition of its own.
        if is_any && !(*query).jointree.is_null() {
            let conditions = (*(*query).jointree).quals;
            if !conditions.is_null() {
                settle(conditions, tenant);
            }
        }
        is_any
    }
}

/// The same for a condition, and for what it joins by AND and OR.
unsafe fn settle(node: *mut pg_sys::Node, tenant: &Known) -> bool {
    // SAFETY: a node, whose tag tells its type.
    unsafe {
        let (list, is_operation) = match (*node).type_ {
            pg_sys::NodeTag::T_OpExpr => ((*node.cast::<pg_sys::OpExpr>()).args, true),
            pg_sys::NodeTag::T_BoolExpr => ((*node.cast::<pg_sys::BoolExpr>()).args, false),
            pg_sys::NodeTag::T_List => (node.cast(), false),
            _ => return false,
        };
        let mut is_any = false;
        for cell in super::statement::entries_mut(list) {
            if is_operation {
                if let Some(constant) = constant(cell.ptr_value.cast(), tenant) {
                    cell.ptr_value = constant.cast();
                    is_any = true;
                }
            } else if !cell.ptr_value.is_null() {
                is_any |= settle(cell.ptr_value.cast(), tenant);
            }
        }
        is_any
    }
}

/// What a call that asks for the current tenant returns; none for any other node.
pub unsafe fn constant(node: *const pg_sys::Node, tenant: &Known) -> Option<*mut pg_sys::Const> {
    // SAFETY: a node, whose tag tells its type; what is made is in the memory that the planner works in.
    unsafe {
        if (*node).type_ != pg_sys::NodeTag::T_FuncExpr {
            return None;
        }
        let call = node.cast::<pg_sys::FuncExpr>();
        let form = checks::form_of((*call).funcid)?;
        let value = tenant.datum(form)?;
        let (length, by_value) = match form {
            Form::Text => (-1, false),
            Form::Uuid => (16, false),
            Form::Bigint => (8, true),
        };
        let value = raw::datumCopy(value, by_value, length);
        Some(raw::makeConst((*call).funcresulttype, -1, (*call).funccollid, length, value, false, by_value))
    }
}

/// The number under which a plan tells that it was made for one tenant.
const FIXED: i32 = -7_250;

/// Marks a plan as one that was made for a tenant.
#[pg_guard]
pub unsafe extern "C-unwind" fn tag(plan: *mut pg_sys::PlannedStmt, number: u32) {
    // SAFETY: a plan that was made just now.
    unsafe { planner::push_item(&mut (*plan).invalItems, FIXED, number) }
}

/// Whether a plan was made for another tenant than the current one, which is known or can be found.
#[inline]
pub unsafe fn is_of_another(plan: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: a valid plan.
    unsafe {
        planner::item((*plan).invalItems, FIXED)
            .is_some_and(|number| accessor::known().is_none_or(|known| known.number() != number))
    }
}
