//! The current tenant as a constant of a plan that runs once, at once.
//!
//! `tenant_id = current_tenant()` takes PostgreSQL longer than `tenant_id = 'acme'`: it looks up the function, whether it may be called, and what
//! it costs, prepares the call, calls it, and leaves out partitions when the plan is started, and not before it has planned for all of them. So where a client
//! sends a statement by itself, or binds values to one, and the plan is for that run only, the id takes the place of the call in the policies. A plan that
//! is kept asks the function, and so does what EXPLAIN shows.
//!
//! The plan is marked with the tenant, and runs for no other.

use std::ffi::{CStr, c_char};

use pgrx::{pg_sys, prelude::*};

use super::{
    accessor::{self, Form, Known},
    checks, hook, planner, running, scope,
    statement::{entries, entries_mut, look_for_policy},
};
use crate::error::Error;

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
        /// What the client has sent.
        pub static debug_query_string: *const c_char;
    }
}

/// The tenant that is a constant of the plan that is about to be made, if it is to be one. Frames of plain data, which an error may skip.
#[inline]
pub unsafe fn tenant_of(
    query: *const pg_sys::Query,
    text: *const c_char,
    parameters: pg_sys::ParamListInfo,
    depth: usize,
) -> Option<Known> {
    // SAFETY: a query that is about to be planned.
    unsafe {
        let is_bound = !parameters.is_null();
        if depth == 0
            && (*query).hasRowSecurity
            && !scope::is_given()
            && runs_once(text, is_bound)
            && may_be_fixed(query, is_bound)
        {
            accessor::known()
        } else {
            None
        }
    }
}

/// Whether what is planned now, as the outermost step, is what a client has sent by itself, or has bound values to. Elsewhere it is planned inside a portal,
/// in the memory of what calls it, or has another text; and whoever binds has made the portal before, also where there are no values and the plan is kept.
unsafe fn runs_once(text: *const c_char, is_bound: bool) -> bool {
    // SAFETY: PostgreSQL's own pointers; a context has a parent or null.
    unsafe {
        let message = pg_sys::MessageContext;
        let current = pg_sys::CurrentMemoryContext;
        pg_sys::ActivePortal.is_null()
            && !message.is_null()
            && std::ptr::eq(text, raw::debug_query_string)
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

/// Whether PostgreSQL finds a plan that is kept as good, where it makes plans for values until it knows: not of a partitioned table, of which that leaves
/// out partitions only when it starts.
unsafe fn may_be_fixed(query: *const pg_sys::Query, is_bound: bool) -> bool {
    // SAFETY: a query that is about to be planned.
    unsafe {
        let is_parent = |cell: &pg_sys::ListCell| {
            (*cell.ptr_value.cast::<pg_sys::RangeTblEntry>()).relkind as u8
                == pg_sys::RELKIND_PARTITIONED_TABLE
        };
        !is_bound || !entries((*query).rtable).iter().any(is_parent)
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
            if !(*entry).securityQuals.is_null() && is_protected(entry) {
                for cell in entries((*entry).securityQuals) {
                    is_any |= settle(cell.ptr_value.cast(), tenant);
                }
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

/// Whether an entry is a protected table.
pub unsafe fn is_protected(entry: *const pg_sys::RangeTblEntry) -> bool {
    // SAFETY: an entry; a table that a query names is locked.
    unsafe {
        (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION
            && hook::judges().is_some_and(|judges| look_for_policy((*entry).relid, judges.policy))
    }
}

/// The place in the query's text that a comparison says it is from, which copies of it say as well, where it was one with a call.
const SETTLED: i32 = -7_251;

/// Whether a condition is of a policy, and has the tenant as a constant.
pub unsafe fn is_settled(node: *const pg_sys::Node) -> bool {
    // SAFETY: a node, whose tag tells its type.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_OpExpr => (*node.cast::<pg_sys::OpExpr>()).location == SETTLED,
            pg_sys::NodeTag::T_BoolExpr => entries((*node.cast::<pg_sys::BoolExpr>()).args)
                .iter()
                .any(|cell| is_settled(cell.ptr_value.cast())),
            _ => false,
        }
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
        for cell in entries_mut(list) {
            if is_operation {
                if let Some(constant) = constant(cell.ptr_value.cast(), tenant) {
                    cell.ptr_value = constant.cast();
                    (*node.cast::<pg_sys::OpExpr>()).location = SETTLED;
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
/// The number under which a plan tells what was proven of its rows (`proven`).
const PROVEN: i32 = -7_252;

/// Rows that are written as the statement says, so that they need no check.
pub mod proven {
    pub const INSERTS: u32 = 1;
    pub const UPDATES: u32 = 2;
    /// Rows that are in the way of those that are inserted.
    pub const CONFLICTS: u32 = 4;
    /// Rows that PostgreSQL may not write: another extension has made the plan, as Citus does of a table whose rows are on other servers.
    pub const ELSEWHERE: u32 = 8;
}

/// Refuses a query whose table has changed while it was planned.
#[cold]
#[pg_guard]
pub unsafe extern "C-unwind" fn refuse_changed() {
    Error::ProtectionChanged.raise()
}

/// Marks a plan as one that was made for a tenant. A frame of plain data, which an error may skip.
pub unsafe fn tag(plan: *mut pg_sys::PlannedStmt, number: u32, rows: u32) {
    // SAFETY: a plan that was made just now.
    unsafe {
        planner::push_item(&mut (*plan).invalItems, FIXED, number);
        if rows != 0 {
            planner::push_item(&mut (*plan).invalItems, PROVEN, rows);
        }
    }
}

/// To be called before a plan runs: it must not be for another tenant than the current one. What runs inside a statement is noted as one that touches, for it asks
/// nobody who would.
#[inline]
pub unsafe fn runs(plan: *const pg_sys::PlannedStmt) {
    #[pg_guard]
    unsafe extern "C-unwind" fn confirm(number: u32) {
        if is_of_another(number) {
            Error::ChangedInStatement.raise()
        }
        running::look_now();
    }
    // SAFETY: a valid plan.
    unsafe {
        if let Some(number) = planner::item((*plan).invalItems, FIXED) {
            confirm(number);
        }
    }
}

/// To be called when a plan has run, and the tenant has changed meanwhile.
#[cold]
#[pg_guard]
pub unsafe extern "C-unwind" fn changed(plan: *const pg_sys::PlannedStmt) {
    // SAFETY: a valid plan.
    let number = unsafe { planner::item((*plan).invalItems, FIXED) };
    if number.is_some_and(is_of_another) {
        Error::ChangedInStatement.raise()
    }
}

fn is_of_another(number: u32) -> bool {
    accessor::known().is_none_or(|known| known.number() != number)
}

/// To be called when a query has been started: what was proven of its rows must hold still. Whoever owns the table may have changed it while the plan was made.
#[inline]
pub unsafe fn starts(query: *const pg_sys::QueryDesc) {
    #[pg_guard]
    unsafe extern "C-unwind" fn confirm(rows: u32, tables: *mut pg_sys::List) {
        // SAFETY: tables that a query writes, which are open.
        unsafe {
            if rows & proven::ELSEWHERE != 0 && tables.is_null() {
                return;
            }
            let [table] = entries(tables) else { Error::ProtectionChanged.raise() };
            let table = table.ptr_value.cast::<pg_sys::ResultRelInfo>();
            // The indexes by which conflicts are found are not known of such a plan.
            const UNKNOWN: u32 = proven::ELSEWHERE | proven::CONFLICTS;
            let is_changed = rows & UNKNOWN == UNKNOWN
                || (*table).ri_TrigDesc.as_ref().is_some_and(|triggers| {
                    rows & proven::INSERTS != 0 && triggers.trig_insert_before_row
                        || rows & proven::UPDATES != 0 && triggers.trig_update_before_row
                });
            if is_changed {
                Error::ProtectionChanged.raise()
            }
        }
    }
    // SAFETY: a query that has been started.
    unsafe {
        if let Some(rows) = planner::item((*(*query).plannedstmt).invalItems, PROVEN) {
            confirm(rows, (*(*query).estate).es_opened_result_relations);
        }
    }
}
