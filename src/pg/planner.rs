//! Functions that PostgreSQL calls while it plans.
//!
//! One that is declared IMMUTABLE is called then wherever its arguments are known, and what it returned becomes a constant of the
//! plan. Where it reads rows of a tenant, the plan must not outlive the statement that it was made for, nor that go on to another
//! tenant. One that is STABLE is called for estimates only.

use std::ffi::{c_char, c_int, c_void};

use pgrx::pg_sys;

mod raw {
    use super::*;
    /// A walker returns true to stop.
    pub type Walker = unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> bool;
    // Macros of these names call functions of others since 16; pgrx has no binding for 15.
    unsafe extern "C-unwind" {
        #[cfg_attr(not(feature = "pg15"), link_name = "query_tree_walker_impl")]
        pub fn query_tree_walker(
            query: *mut pg_sys::Query,
            walker: Walker,
            context: *mut c_void,
            flags: c_int,
        ) -> bool;
        #[cfg_attr(not(feature = "pg15"), link_name = "expression_tree_walker_impl")]
        pub fn expression_tree_walker(node: *mut pg_sys::Node, walker: Walker, context: *mut c_void) -> bool;
        pub fn check_functions_in_node(
            node: *mut pg_sys::Node,
            checker: unsafe extern "C-unwind" fn(pg_sys::Oid, *mut c_void) -> bool,
            context: *mut c_void,
        ) -> bool;
        pub fn contain_var_clause(node: *mut pg_sys::Node) -> bool;
        pub fn func_volatile(function: pg_sys::Oid) -> c_char;
        pub fn SearchSysCache1(cache: c_int, key: pg_sys::Datum) -> pg_sys::HeapTuple;
        pub fn ReleaseSysCache(tuple: pg_sys::HeapTuple);
        pub fn ResetPlanCache();
    }
}

/// The number of the language SQL (pg_language.dat).
const SQL: pg_sys::Oid = pg_sys::Oid::from_u32(14);

/// Whether what a function has read while the query is planned may become part of the plan: the query calls a function of a user's own
/// that is declared IMMUTABLE with arguments that are known; or one that is taken apart, so that others come to light.
pub fn may_fold(query: *const pg_sys::Query) -> bool {
    // SAFETY: a query that is being planned, which is only read; errors are caught at the boundary.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            raw::query_tree_walker(query.cast_mut(), look_at, std::ptr::null_mut(), 0)
        })
    }
}

/// Makes PostgreSQL plan anew what it has planned.
pub fn drop_plans() {
    // SAFETY: marks what is in memory; raises nothing. Plans that are in use stay until they are not.
    unsafe { raw::ResetPlanCache() }
}

unsafe extern "C-unwind" fn look_at(node: *mut pg_sys::Node, none: *mut c_void) -> bool {
    // SAFETY: PostgreSQL passes nodes of the tree, or null.
    unsafe {
        if node.is_null() {
            return false;
        }
        if (*node).type_ == pg_sys::NodeTag::T_Query {
            return raw::query_tree_walker(node.cast(), look_at, none, 0);
        }
        // A column's value is not known; but one of the arguments may be another such call.
        raw::check_functions_in_node(node, is_taken_apart, none)
            || raw::check_functions_in_node(node, is_folded, none) && !raw::contain_var_clause(node)
            || raw::expression_tree_walker(node, look_at, none)
    }
}

unsafe extern "C-unwind" fn is_folded(function: pg_sys::Oid, _: *mut c_void) -> bool {
    // SAFETY: a function that exists.
    unsafe {
        function.to_u32() >= pg_sys::FirstNormalObjectId
            && raw::func_volatile(function) == pg_sys::PROVOLATILE_IMMUTABLE as c_char
    }
}

/// In SQL, so that its body may take its place; or with defaults for arguments.
unsafe extern "C-unwind" fn is_taken_apart(function: pg_sys::Oid, _: *mut c_void) -> bool {
    if function.to_u32() < pg_sys::FirstNormalObjectId {
        return false;
    }
    // SAFETY: a copy of nothing: the entry of the cache is held while it is read.
    unsafe {
        let number = pg_sys::Datum::from(function);
        let tuple = raw::SearchSysCache1(pg_sys::SysCacheIdentifier::PROCOID as c_int, number);
        if tuple.is_null() {
            return false;
        }
        let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>();
        let is = (*row).prolang == SQL || (*row).pronargdefaults > 0;
        raw::ReleaseSysCache(tuple);
        is
    }
}
