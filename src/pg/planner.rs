//! Functions that PostgreSQL calls while it plans.
//!
//! One that is declared IMMUTABLE is called then wherever its arguments are known, and what it returned becomes a constant of the
//! plan. Where it reads rows of a tenant, the plan is marked: whoever runs it touches rows of that tenant, and no other may run it. One
//! that is STABLE is called for estimates only.

use std::ffi::{c_char, c_int, c_void};

use pgrx::pg_sys;

use super::running::Tenant;
use crate::tenant::TenantId;

mod raw {
    use super::*;
    pub use crate::pg::raw::{ReleaseSysCache, get_func_leakproof, lappend, palloc0};
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
        pub fn get_func_nargs(function: pg_sys::Oid) -> c_int;
        pub fn SysCacheGetAttr(
            cache: c_int,
            tuple: pg_sys::HeapTuple,
            column: pg_sys::AttrNumber,
            is_null: *mut bool,
        ) -> pg_sys::Datum;
        pub fn text_to_cstring(text: *const pg_sys::text) -> *mut c_char;
        pub fn SearchSysCache1(cache: c_int, key: pg_sys::Datum) -> pg_sys::HeapTuple;
        pub fn ResetPlanCache();
    }
}

/// The numbers of the languages in pg_language.dat.
const INTERNAL: u32 = 12;
const C: u32 = 13;
const SQL: u32 = 14;

/// Whether what a function has read while the query is planned may become part of the plan: the query calls a function of a user's own
/// that is declared IMMUTABLE, or one that is taken apart, so that others come to light.
pub fn may_fold(query: *const pg_sys::Query) -> bool {
    // SAFETY: a query that is being planned, which is only read; errors are caught at the boundary.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            raw::query_tree_walker(query.cast_mut(), look_at, std::ptr::null_mut(), 0)
        })
    }
}

/// Whether the query reads no table, as an expression of PL/pgSQL, which is evaluated without the executor.
pub fn is_expression(query: *const pg_sys::Query) -> bool {
    // SAFETY: a query that is being planned.
    unsafe { (*query).rtable.is_null() }
}

/// The policies of a query, of those in it, and of what they write, each where it stands in its tree.
pub fn policies(query: *mut pg_sys::Query) -> Vec<*mut *mut pg_sys::Node> {
    let mut found: Vec<*mut *mut pg_sys::Node> = Vec::new();
    let context = std::ptr::from_mut(&mut found).cast();
    // SAFETY: a query that is being planned; `found` is there while the walker notes places.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            raw::query_tree_walker(query, note_policies, context, pg_sys::QTW_EXAMINE_RTES_BEFORE as c_int)
        });
    }
    found
}

unsafe extern "C-unwind" fn note_policies(node: *mut pg_sys::Node, found: *mut c_void) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: PostgreSQL passes nodes of the tree, or null; the tag of a node tells its type. `found` is the caller's.
    unsafe {
        if node.is_null() {
            return false;
        }
        let places = &mut *found.cast::<Vec<*mut *mut pg_sys::Node>>();
        match (*node).type_ {
            T_Query => {
                let flags = pg_sys::QTW_EXAMINE_RTES_BEFORE as c_int;
                return raw::query_tree_walker(node.cast(), note_policies, found, flags);
            }
            T_RangeTblEntry => {
                let entry = node.cast::<pg_sys::RangeTblEntry>();
                if !(*entry).securityQuals.is_null() {
                    places.push(std::ptr::addr_of_mut!((*entry).securityQuals).cast());
                }
                // What is in it is walked by whoever has called.
                return false;
            }
            T_WithCheckOption => {
                let check = node.cast::<pg_sys::WithCheckOption>();
                places.push(std::ptr::addr_of_mut!((*check).qual));
            }
            _ => {}
        }
        raw::expression_tree_walker(node, note_policies, found)
    }
}

/// Whether plan_cache_mode is force_generic_plan.
pub fn keeps_generic_plans() -> bool {
    // SAFETY: a plain read of a backend-local integer.
    unsafe { pg_sys::plan_cache_mode as u32 == pg_sys::PlanCacheMode::PLAN_CACHE_MODE_FORCE_GENERIC_PLAN }
}

/// Says whether a function is such a one.
pub type Is = unsafe extern "C-unwind" fn(pg_sys::Oid, *mut c_void) -> bool;

/// Whether an expression calls such a function.
pub unsafe fn calls(node: *mut pg_sys::Node, is: Is) -> bool {
    unsafe extern "C-unwind" fn look(node: *mut pg_sys::Node, is: *mut c_void) -> bool {
        // SAFETY: PostgreSQL passes nodes of the tree, or null; the context is the caller's.
        unsafe {
            !node.is_null()
                && (raw::check_functions_in_node(node, *is.cast::<Is>(), std::ptr::null_mut())
                    || raw::expression_tree_walker(node, look, is))
        }
    }
    let mut is = is;
    let context = std::ptr::from_mut(&mut is).cast();
    // SAFETY: the caller passes an expression; errors are caught at the boundary.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| look(node, context)) }
}

/// Tells of each function that an expression calls.
pub unsafe fn each_call(node: *mut pg_sys::Node, tell: &mut dyn FnMut(pg_sys::Oid)) {
    type Tell<'a> = &'a mut dyn FnMut(pg_sys::Oid);
    unsafe extern "C-unwind" fn note(number: pg_sys::Oid, tell: *mut c_void) -> bool {
        // SAFETY: the context is the caller's.
        unsafe { (*tell.cast::<Tell>())(number) }
        false
    }
    unsafe extern "C-unwind" fn look(node: *mut pg_sys::Node, tell: *mut c_void) -> bool {
        // SAFETY: PostgreSQL passes nodes of the tree, or null.
        unsafe {
            !node.is_null()
                && (raw::check_functions_in_node(node, note, tell)
                    || raw::expression_tree_walker(node, look, tell))
        }
    }
    let mut tell = tell;
    let context = std::ptr::from_mut(&mut tell).cast();
    // SAFETY: the caller passes an expression; errors are caught at the boundary.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| look(node, context));
    }
}

/// Whether an expression calls LEAKPROOF functions only, of those that ask for the tenant no others than these, is of nodes that raise no error
/// themselves, and waits for no result of another query, which runs when it is first asked for.
pub unsafe fn is_quiet(node: *mut pg_sys::Node, tenants: &[pg_sys::Oid]) -> bool {
    unsafe extern "C-unwind" fn tells(number: pg_sys::Oid, tenants: *mut c_void) -> bool {
        // SAFETY: called inside a transaction; the context is the caller's.
        unsafe {
            !raw::get_func_leakproof(number)
                || super::policies::is_tenant(number)
                    && !(*tenants.cast::<&[pg_sys::Oid]>()).contains(&number)
        }
    }
    unsafe extern "C-unwind" fn look(node: *mut pg_sys::Node, tenants: *mut c_void) -> bool {
        use pg_sys::NodeTag::*;
        // SAFETY: PostgreSQL passes nodes of the tree, or null; the tag of a node tells its type.
        unsafe {
            if node.is_null() {
                return false;
            }
            let is_plain = match (*node).type_ {
                T_Var | T_Const | T_List | T_RestrictInfo | T_BoolExpr | T_NullTest | T_BooleanTest
                | T_RelabelType | T_CaseExpr | T_CaseWhen | T_CaseTestExpr | T_CoalesceExpr | T_RowExpr
                | T_FuncExpr | T_OpExpr | T_DistinctExpr | T_NullIfExpr | T_ScalarArrayOpExpr
                | T_RowCompareExpr | T_CoerceViaIO | T_ArrayCoerceExpr | T_ConvertRowtypeExpr
                | T_PlaceHolderVar | T_SQLValueFunction | T_CurrentOfExpr => true,
                T_Param => (*node.cast::<pg_sys::Param>()).paramkind == pg_sys::ParamKind::PARAM_EXTERN,
                T_ArrayExpr => !(*node.cast::<pg_sys::ArrayExpr>()).multidims,
                _ => false,
            };
            !is_plain
                || lacks_collation(node)
                || raw::check_functions_in_node(node, tells, tenants)
                || raw::expression_tree_walker(node, look, tenants)
        }
    }
    let mut tenants = tenants;
    let context = std::ptr::from_mut(&mut tenants).cast();
    // SAFETY: the caller passes an expression; errors are caught at the boundary.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| !look(node, context)) }
}

/// Whether an expression compares columns and what is known by one of the functions that most conditions call: it is quiet, at a glance.
pub unsafe fn is_plain_comparison(node: *const pg_sys::Node) -> bool {
    use pg_sys::NodeTag::*;
    // Of types without a collation.
    const COMPARISONS: [u32; 9] = [
        pg_sys::F_INT4EQ,
        pg_sys::F_INT8EQ,
        pg_sys::F_UUID_EQ,
        pg_sys::F_TIMESTAMPTZ_LT,
        pg_sys::F_TIMESTAMPTZ_GE,
        pg_sys::F_INT48EQ,
        pg_sys::F_INT84EQ,
        pg_sys::F_DATE_EQ,
        pg_sys::F_BOOLEQ,
    ];
    // SAFETY: the tag of a node tells its type.
    unsafe {
        if (*node).type_ != T_OpExpr {
            return false;
        }
        let operation = node.cast::<pg_sys::OpExpr>();
        let function = (*operation).opfuncid.to_u32();
        let is_text = function == pg_sys::F_TEXTEQ && (*operation).inputcollid != pg_sys::InvalidOid;
        (is_text || COMPARISONS.contains(&function))
            && super::statement::entries((*operation).args).iter().all(|cell| {
                let argument = cell.ptr_value.cast::<pg_sys::Node>();
                match (*argument).type_ {
                    T_Var | T_Const => true,
                    T_Param => {
                        (*argument.cast::<pg_sys::Param>()).paramkind == pg_sys::ParamKind::PARAM_EXTERN
                    }
                    _ => false,
                }
            })
    }
}

/// Whether functions of texts are called without a collation, because those of their arguments differ: that is an error when they are called.
unsafe fn lacks_collation(node: *const pg_sys::Node) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: the tag of a node tells its type.
    unsafe {
        let (collation, arguments) = match (*node).type_ {
            T_FuncExpr => {
                let call = node.cast::<pg_sys::FuncExpr>();
                ((*call).inputcollid, (*call).args)
            }
            // The three have one form.
            T_OpExpr | T_DistinctExpr | T_NullIfExpr => {
                let operation = node.cast::<pg_sys::OpExpr>();
                ((*operation).inputcollid, (*operation).args)
            }
            T_ScalarArrayOpExpr => {
                let operation = node.cast::<pg_sys::ScalarArrayOpExpr>();
                ((*operation).inputcollid, (*operation).args)
            }
            // Of several columns, each has its own.
            T_RowCompareExpr => {
                let row = node.cast::<pg_sys::RowCompareExpr>();
                let pairs = super::statement::entries((*row).inputcollids)
                    .iter()
                    .zip(super::statement::entries((*row).largs));
                return pairs.into_iter().any(|(collation, argument)| {
                    collation.oid_value == pg_sys::InvalidOid && has_collation(argument.ptr_value.cast())
                });
            }
            _ => return false,
        };
        collation == pg_sys::InvalidOid
            && super::statement::entries(arguments).iter().any(|cell| has_collation(cell.ptr_value.cast()))
    }
}

/// Whether an expression is of a type that has collations.
unsafe fn has_collation(node: *const pg_sys::Node) -> bool {
    // SAFETY: an expression.
    unsafe {
        let kind = pg_sys::exprType(node);
        !matches!(
            kind,
            pg_sys::INT4OID | pg_sys::INT8OID | pg_sys::UUIDOID | pg_sys::BOOLOID | pg_sys::TIMESTAMPTZOID
        ) && pg_sys::type_is_collatable(kind)
    }
}

/// Whether an expression waits for a result of another query.
pub unsafe fn waits(node: *mut pg_sys::Node) -> bool {
    unsafe extern "C-unwind" fn look(node: *mut pg_sys::Node, none: *mut c_void) -> bool {
        // SAFETY: PostgreSQL passes nodes of the tree, or null; the tag of a node tells its type.
        unsafe {
            !node.is_null()
                && ((*node).type_ == pg_sys::NodeTag::T_Param
                    && (*node.cast::<pg_sys::Param>()).paramkind == pg_sys::ParamKind::PARAM_EXEC
                    || raw::expression_tree_walker(node, look, none))
        }
    }
    // SAFETY: the caller passes an expression; errors are caught at the boundary.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| look(node, std::ptr::null_mut())) }
}

/// Makes PostgreSQL plan anew what it has planned.
pub fn drop_plans() {
    // SAFETY: marks what is in memory; raises nothing. Plans that are in use stay until they are not.
    unsafe { raw::ResetPlanCache() }
}

unsafe extern "C-unwind" fn look_at(node: *mut pg_sys::Node, none: *mut c_void) -> bool {
    // SAFETY: PostgreSQL passes nodes of the tree, or null; the tag of a node tells its type.
    unsafe {
        if node.is_null() {
            return false;
        }
        if (*node).type_ == pg_sys::NodeTag::T_Query {
            return raw::query_tree_walker(node.cast(), look_at, none, 0);
        }
        let has_defaults = || {
            (*node).type_ == pg_sys::NodeTag::T_FuncExpr && {
                let call = node.cast::<pg_sys::FuncExpr>();
                let given = (*call).args.as_ref().map_or(0, |list| list.length);
                let wanted = raw::get_func_nargs((*call).funcid);
                given < wanted && (*call).funcid.to_u32() >= pg_sys::FirstNormalObjectId
            }
        };
        raw::check_functions_in_node(node, is_suspect, none)
            || has_defaults()
            || raw::expression_tree_walker(node, look_at, none)
    }
}

/// Whether a function's result, or what it is made of, may become part of a plan, and be what it has read.
unsafe extern "C-unwind" fn is_suspect(function: pg_sys::Oid, _: *mut c_void) -> bool {
    if function.to_u32() < pg_sys::FirstNormalObjectId {
        return false;
    }
    // SAFETY: the entry of the cache is held while it is read; its fixed part has these fields, and the text follows.
    unsafe {
        let number = pg_sys::Datum::from(function);
        let cache = pg_sys::SysCacheIdentifier::PROCOID as c_int;
        let tuple = raw::SearchSysCache1(cache, number);
        if tuple.is_null() {
            return false;
        }
        let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>();
        let is_immutable = (*row).provolatile == pg_sys::PROVOLATILE_IMMUTABLE as c_char;
        let is = match (*row).prolang.to_u32() {
            INTERNAL | C => false,
            SQL => is_immutable || may_be_inlined(cache, tuple),
            _ => is_immutable,
        };
        raw::ReleaseSysCache(tuple);
        is
    }
}

/// Whether the body of a function in SQL may take its place: PostgreSQL does so where it reads no table.
unsafe fn may_be_inlined(cache: c_int, tuple: pg_sys::HeapTuple) -> bool {
    // SAFETY: the entry is held; a body that is text is copied, and freed with the memory of what is planned.
    unsafe {
        let mut is_null = false;
        let column = pg_sys::Anum_pg_proc_prosrc as pg_sys::AttrNumber;
        let body = raw::SysCacheGetAttr(cache, tuple, column, &mut is_null);
        if is_null {
            return true;
        }
        let body = std::ffi::CStr::from_ptr(raw::text_to_cstring(body.cast_mut_ptr()));
        // One that was written as SQL and not as text has an empty one.
        !body.to_bytes().windows(4).any(|word| word.eq_ignore_ascii_case(b"from"))
    }
}

/// The numbers of caches that PostgreSQL does not have, under which a plan tells whose rows it may hold: their entries are copied with
/// the plan, and looked up by nobody.
const TAG: c_int = -7_400;

/// The number under which a plan tells that an index was given a condition of the query.
const PUSHED: c_int = -7_300;

/// Marks the plan that is being made as one in which a condition of the query may reach an index before the policies.
pub unsafe fn tag_pushed(plan: *mut pg_sys::PlannerGlobal) {
    // SAFETY: the planner's own, from which the plan takes its items.
    unsafe {
        if !has_item((*plan).invalItems, PUSHED) {
            push_item(&mut (*plan).invalItems, PUSHED, 0);
        }
    }
}

/// The number under which a plan tells that the library was there when it was made.
const UPHELD: c_int = -7_200;

/// Marks a plan as one that was made with the library.
pub unsafe fn tag_upheld(plan: *mut pg_sys::PlannedStmt) {
    // SAFETY: a plan that was made just now.
    unsafe { push_item(&mut (*plan).invalItems, UPHELD, 0) }
}

/// Whether a plan is marked so.
pub fn is_upheld(plan: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: a valid plan.
    unsafe { has_item((*plan).invalItems, UPHELD) }
}

/// Whether a plan is marked so.
pub fn is_pushed(plan: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: a valid plan.
    unsafe { has_item((*plan).invalItems, PUSHED) }
}

unsafe fn has_item(items: *mut pg_sys::List, cache: c_int) -> bool {
    // SAFETY: a list of such nodes.
    unsafe { item(items, cache).is_some() }
}

/// What a plan tells under a number of ours.
pub unsafe fn item(items: *mut pg_sys::List, cache: c_int) -> Option<u32> {
    // SAFETY: a list of such nodes.
    unsafe {
        let mut items = super::statement::entries(items)
            .iter()
            .map(|cell| cell.ptr_value.cast::<pg_sys::PlanInvalItem>());
        items.find(|item| (**item).cacheId == cache).map(|item| (*item).hashValue)
    }
}

/// Has a plan tell something under a number of ours. A frame of plain data, which an error (there is no memory) may skip.
pub unsafe fn push_item(items: &mut *mut pg_sys::List, cache: c_int, value: u32) {
    // SAFETY: nodes in the memory of what is being planned, or was just now.
    unsafe {
        let item = raw::palloc0(size_of::<pg_sys::PlanInvalItem>()).cast::<pg_sys::PlanInvalItem>();
        (*item).type_ = pg_sys::NodeTag::T_PlanInvalItem;
        (*item).cacheId = cache;
        (*item).hashValue = value;
        *items = raw::lappend(*items, item.cast());
    }
}

/// Marks a plan as holding rows of a tenant. A frame of plain data, which an error may skip.
pub fn tag(plan: *mut pg_sys::PlannedStmt, tenant: Tenant) {
    let id = tenant.as_ref().map_or(&[][..], |id| id.as_bytes());
    // From the end, so that the length comes last.
    for (place, part) in id.chunks(4).enumerate().rev() {
        let word = part.iter().fold(0, |word, byte| word << 8 | u32::from(*byte));
        // SAFETY: a plan that was made just now.
        unsafe { push_item(&mut (*plan).invalItems, TAG - 1 - place as c_int, word) }
    }
    // SAFETY: as above.
    unsafe { push_item(&mut (*plan).invalItems, TAG, id.len() as u32) }
}

/// Whether a plan is marked so.
#[inline]
pub fn is_tagged(plan: *const pg_sys::PlannedStmt) -> bool {
    // SAFETY: a valid plan, of which `invalItems` is a list of such nodes.
    unsafe {
        let last = super::statement::entries((*plan).invalItems).last();
        last.is_some_and(|cell| (*cell.ptr_value.cast::<pg_sys::PlanInvalItem>()).cacheId == TAG)
    }
}

/// Whose rows a marked plan may hold.
pub fn tagged(plan: *const pg_sys::PlannedStmt) -> Tenant {
    // SAFETY: as above.
    let items = unsafe { super::statement::entries((*plan).invalItems) };
    let mut words = items.iter().rev().map(|cell| {
        // SAFETY: as above.
        unsafe { (*cell.ptr_value.cast::<pg_sys::PlanInvalItem>()).hashValue }
    });
    let length = words.next().unwrap_or(0) as usize;
    let mut id = Vec::with_capacity(length);
    while id.len() < length {
        let size = (length - id.len()).min(4);
        let Some(word) = words.next() else { break };
        id.extend_from_slice(&word.to_be_bytes()[4 - size..]);
    }
    TenantId::parse(&id).ok().or_else(|| TenantId::parse_scope(&id))
}
