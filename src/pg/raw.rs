//! Functions of PostgreSQL without pgrx's guard, which is as much code at each place that calls them as some of them are.
//!
//! An error goes from them straight to PostgreSQL's handler, past the frames of Rust in between. So they are called by frames of plain data: with
//! nothing to drop, and no cell borrowed.

use std::ffi::{c_char, c_int, c_void};

use pgrx::pg_sys::{
    AttrNumber, Bitmapset, CoercionForm, Datum, Expr, FuncExpr, GucAction, GucContext, GucSource, HeapTuple,
    Index, LOCKMODE, List, Node, Oid, PlannerInfo, RelOptInfo, Relation, TargetEntry,
};

unsafe extern "C-unwind" {
    pub fn lappend(list: *mut List, item: *mut c_void) -> *mut List;
    pub fn list_member_ptr(list: *const List, item: *const c_void) -> bool;
    pub fn list_delete_ptr(list: *mut List, item: *mut c_void) -> *mut List;
    pub fn palloc0(size: usize) -> *mut c_void;
    pub fn bms_overlap(one: *const Bitmapset, other: *const Bitmapset) -> bool;
    pub fn bms_get_singleton_member(set: *const Bitmapset, member: *mut c_int) -> bool;
    pub fn equal(one: *const c_void, other: *const c_void) -> bool;
    pub fn exprType(node: *const Node) -> Oid;
    pub fn contain_var_clause(node: *mut Node) -> bool;
    pub fn contain_leaked_vars(node: *mut Node) -> bool;
    pub fn pull_varattnos(node: *mut Node, table: Index, columns: *mut *mut Bitmapset);
    pub fn is_dummy_rel(rel: *mut RelOptInfo) -> bool;
    pub fn create_index_paths(root: *mut PlannerInfo, rel: *mut RelOptInfo);
    pub fn get_opcode(operator: Oid) -> Oid;
    pub fn get_negator(operator: Oid) -> Oid;
    pub fn get_commutator(operator: Oid) -> Oid;
    pub fn get_func_leakproof(function: Oid) -> bool;
    pub fn type_is_range(kind: Oid) -> bool;
    pub fn type_is_multirange(kind: Oid) -> bool;
    pub fn get_collation_isdeterministic(collation: Oid) -> bool;
    pub fn pg_newlocale_from_collation(collation: Oid) -> *const c_void;
    pub fn index_open(index: Oid, lock: LOCKMODE) -> Relation;
    pub fn index_close(index: Relation, lock: LOCKMODE);
    pub fn SearchSysCache3(cache: c_int, one: Datum, two: Datum, three: Datum) -> HeapTuple;
    pub fn ReleaseSysCache(tuple: HeapTuple);
    pub fn makeFuncExpr(
        function: Oid,
        returns: Oid,
        arguments: *mut List,
        collation: Oid,
        input_collation: Oid,
        form: CoercionForm::Type,
    ) -> *mut FuncExpr;
    pub fn makeTargetEntry(
        expression: *mut Expr,
        column: AttrNumber,
        name: *mut c_char,
        is_junk: bool,
    ) -> *mut TargetEntry;
    pub fn get_attname(table: Oid, column: AttrNumber, is_missing_ok: bool) -> *mut c_char;
    pub fn set_config_option(
        name: *const c_char,
        value: *const c_char,
        context: GucContext::Type,
        source: GucSource::Type,
        action: GucAction::Type,
        change: bool,
        level: c_int,
        is_reload: bool,
    ) -> c_int;
    pub fn GetUserId() -> Oid;
    pub fn InNoForceRLSOperation() -> bool;
    pub fn GetCurrentTimestamp() -> i64;
}
