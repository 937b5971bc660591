//! Functions that PostgreSQL calls while it plans.
//!
//! One that is declared IMMUTABLE is called then wherever its arguments are known, and what it returned becomes a constant of the
//! plan, which may be kept and run for other tenants. One that is STABLE is called for estimates only.

use std::ffi::{c_int, c_void};

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
        pub fn func_volatile(function: pg_sys::Oid) -> std::ffi::c_char;
    }
}

/// A function of a user's own that is declared IMMUTABLE, and called in the query with arguments that are known while it is planned.
pub fn folded(query: *const pg_sys::Query) -> Option<String> {
    let mut found = pg_sys::InvalidOid;
    // SAFETY: a query that is being planned, which is only read; errors are caught at the boundary.
    unsafe {
        let is_found = pg_sys::ffi::pg_guard_ffi_boundary(|| {
            raw::query_tree_walker(query.cast_mut(), look_at, (&raw mut found).cast(), 0)
        });
        if !is_found {
            return None;
        }
        let name = pg_sys::format_procedure(found);
        Some(std::ffi::CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

unsafe extern "C-unwind" fn look_at(node: *mut pg_sys::Node, found: *mut c_void) -> bool {
    // SAFETY: PostgreSQL passes nodes of the tree, or null; `found` is an Oid of the caller's.
    unsafe {
        if node.is_null() {
            return false;
        }
        if (*node).type_ == pg_sys::NodeTag::T_Query {
            return raw::query_tree_walker(node.cast(), look_at, found, 0);
        }
        // A column's value is not known; but one of the arguments may be another such call.
        (raw::check_functions_in_node(node, is_folded, found) && !raw::contain_var_clause(node))
            || raw::expression_tree_walker(node, look_at, found)
    }
}

unsafe extern "C-unwind" fn is_folded(function: pg_sys::Oid, found: *mut c_void) -> bool {
    // SAFETY: a function that exists.
    unsafe {
        let is = function.to_u32() >= pg_sys::FirstNormalObjectId
            && raw::func_volatile(function) == pg_sys::PROVOLATILE_IMMUTABLE as std::ffi::c_char;
        if is {
            *found.cast::<pg_sys::Oid>() = function;
        }
        is
    }
}
