//! What policies ask of a row, in a scope of several tenants.
//!
//! A policy says that the row is the current tenant's. In a scope there is no such tenant, so before a query is planned, each
//! `<row> = current_tenant()` in its policies becomes `<row> = ANY (<the tenants of the scope>) AND in_scope(<its number>)`: an array that the
//! planner knows, so that indexes, estimates and partitions are what they are for a query that names them, and a function that holds
//! the plan to the scope that it was made for. Anything else that asks for the current tenant raises an error.
//!
//! PostgreSQL takes functions in SQL that return rows apart while it plans, after that; so in a scope it does not (`needs_fmgr_hook`).

use std::ffi::{CStr, c_char, c_int, c_void};

use pgrx::{pg_sys, prelude::*};

use super::{planner, running, scope};

mod raw {
    use super::*;
    pub use crate::pg::raw::{get_commutator, get_opcode, lappend, palloc0};
    pub type Mutator = unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> *mut pg_sys::Node;
    // A macro of this name calls the function of the other since 16; pgrx has no binding for that.
    unsafe extern "C-unwind" {
        #[cfg_attr(not(feature = "pg15"), link_name = "expression_tree_mutator_impl")]
        pub fn expression_tree_mutator(
            node: *mut pg_sys::Node,
            mutator: Mutator,
            context: *mut c_void,
        ) -> *mut pg_sys::Node;
        pub fn make_andclause(clauses: *mut pg_sys::List) -> *mut pg_sys::Expr;
        pub fn copyObjectImpl(from: *const c_void) -> *mut c_void;
    }
}

/// The tenants of a scope, in the forms that columns hold.
pub struct Tenants {
    pub number: i64,
    pub texts: Vec<Vec<u8>>,
    pub uuids: Vec<[u8; 16]>,
    pub bigints: Vec<i64>,
}

/// The nodes that take the place of others; plain data, because an error skips the frames of the mutator.
struct Nodes {
    /// A function that returns the current tenant, and the array that takes its place.
    arrays: [(pg_sys::Oid, *mut pg_sys::Const); 3],
    in_scope: *mut pg_sys::FuncExpr,
}

/// Says what the tenants of the scope are; raises where it is none.
type Source = fn() -> Tenants;

static mut SOURCE: Option<Source> = None;
static mut PREVIOUS: pg_sys::needs_fmgr_hook_type = None;

/// Called once, when the library is loaded.
pub fn init(source: Source) {
    // SAFETY: a backend is single-threaded.
    unsafe {
        SOURCE = Some(source);
        PREVIOUS = pg_sys::needs_fmgr_hook;
        pg_sys::needs_fmgr_hook = Some(keeps_whole);
    }
}

/// Whether PostgreSQL must call a function as it is: one in whose place it would put its query.
unsafe extern "C-unwind" fn keeps_whole(function: pg_sys::Oid) -> bool {
    // SAFETY: PostgreSQL's own argument, passed on; frames of plain data, which an error may skip.
    unsafe {
        PREVIOUS.is_some_and(|previous| previous(function))
            || scope::is_given() && running::is_planning() && returns_rows(function)
    }
}

unsafe fn returns_rows(function: pg_sys::Oid) -> bool {
    unsafe extern "C-unwind" {
        fn get_func_retset(function: pg_sys::Oid) -> bool;
    }
    // SAFETY: a function that PostgreSQL is about to look at.
    unsafe { get_func_retset(function) }
}

/// Has the policies of a query that is about to be planned ask for the tenants of the scope.
#[pg_guard]
pub unsafe extern "C-unwind" fn to_scope(query: *mut pg_sys::Query) {
    // SAFETY: a query that PostgreSQL lets its planner change; SOURCE is written once, at load.
    unsafe {
        let Some(source) = SOURCE else { return };
        let policies = planner::policies(query);
        if policies.is_empty() {
            return;
        }
        let mut nodes = nodes(&source());
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            for policy in policies {
                *policy = replace(*policy, std::ptr::from_mut(&mut nodes).cast());
            }
        });
    }
}

unsafe fn nodes(tenants: &Tenants) -> Nodes {
    let texts = tenants.texts.iter().map(|text| {
        // SAFETY: as many bytes as it says.
        pg_sys::Datum::from(unsafe {
            pg_sys::cstring_to_text_with_len(text.as_ptr().cast::<c_char>(), text.len() as c_int)
        })
    });
    // They live until the nodes are made, which copy them.
    let uuids = tenants.uuids.iter().map(|uuid| pg_sys::Datum::from(uuid.as_ptr()));
    let bigints = tenants.bigints.iter().map(|number| pg_sys::Datum::from(*number));
    // SAFETY: datums of the types that are said, in memory that lives while they are copied.
    unsafe {
        Nodes {
            arrays: [
                (
                    function(c"tenancy", c"current_tenant", &[]),
                    array(texts.collect(), pg_sys::TEXTOID, pg_sys::TEXTARRAYOID),
                ),
                (
                    function(c"tenancy", c"current_tenant_uuid", &[]),
                    array(uuids.collect(), pg_sys::UUIDOID, pg_sys::UUIDARRAYOID),
                ),
                (
                    function(c"tenancy", c"current_tenant_bigint", &[]),
                    array(bigints.collect(), pg_sys::INT8OID, pg_sys::INT8ARRAYOID),
                ),
            ],
            in_scope: {
                let number = pg_sys::makeConst(
                    pg_sys::INT8OID,
                    -1,
                    pg_sys::InvalidOid,
                    size_of::<i64>() as c_int,
                    tenants.number.into(),
                    false,
                    true,
                );
                pg_sys::makeFuncExpr(
                    function(c"_tenancy", c"in_scope", &[pg_sys::INT8OID]),
                    pg_sys::BOOLOID,
                    pg_sys::lappend(std::ptr::null_mut(), number.cast()),
                    pg_sys::InvalidOid,
                    pg_sys::InvalidOid,
                    pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
                )
            },
        }
    }
}

unsafe fn array(mut elements: Vec<pg_sys::Datum>, of: pg_sys::Oid, array: pg_sys::Oid) -> *mut pg_sys::Const {
    // SAFETY: datums of a type that PostgreSQL has.
    unsafe {
        let (mut length, mut by_value, mut align) = (0, false, 0);
        pg_sys::get_typlenbyvalalign(of, &mut length, &mut by_value, &mut align);
        let count = elements.len() as c_int;
        let value = pg_sys::construct_array(elements.as_mut_ptr(), count, of, length.into(), by_value, align);
        let collation = pg_sys::get_typcollation(array);
        pg_sys::makeConst(array, -1, collation, -1, value.into(), false, false)
    }
}

/// The extension's function of that name; raises where there is none.
fn function(schema: &CStr, name: &CStr, arguments: &[pg_sys::Oid]) -> pg_sys::Oid {
    let found = find(schema, name, arguments);
    if found == pg_sys::InvalidOid {
        crate::error::Error::NotInstalled.raise()
    }
    found
}

/// The function of that name, or no valid number.
pub fn find(schema: &CStr, name: &CStr, arguments: &[pg_sys::Oid]) -> pg_sys::Oid {
    // SAFETY: called inside a transaction; the keys are of the types that the cache has.
    unsafe {
        let vector = pg_sys::buildoidvector(arguments.as_ptr(), arguments.len() as c_int);
        pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as c_int,
            pg_sys::Anum_pg_proc_oid as pg_sys::AttrNumber,
            name.as_ptr().into(),
            vector.into(),
            pg_sys::get_namespace_oid(schema.as_ptr(), true).into(),
            pg_sys::Datum::from(0),
        )
    }
}

/// Called inside a guard; only with functions that an error may leave.
unsafe extern "C-unwind" fn replace(node: *mut pg_sys::Node, context: *mut c_void) -> *mut pg_sys::Node {
    // SAFETY: PostgreSQL passes nodes of the tree, or null; the tag of a node tells its type. `context` is the caller's.
    unsafe {
        if node.is_null() {
            return node;
        }
        match (*node).type_ {
            // A query inside a policy is its author's, and says what it means.
            pg_sys::NodeTag::T_Query => node,
            pg_sys::NodeTag::T_OpExpr => {
                let changed = comparison(node.cast(), &*context.cast::<Nodes>());
                match changed.is_null() {
                    true => raw::expression_tree_mutator(node, replace, context),
                    false => changed.cast(),
                }
            }
            _ => raw::expression_tree_mutator(node, replace, context),
        }
    }
}

/// What takes the place of an operation; null where it stays.
unsafe fn comparison(operation: *mut pg_sys::OpExpr, nodes: &Nodes) -> *mut pg_sys::Expr {
    const EQUALITIES: [u32; 4] = [pg_sys::F_TEXTEQ, pg_sys::F_UUID_EQ, pg_sys::F_INT8EQ, pg_sys::F_INT48EQ];
    // SAFETY: a node of that type, whose arguments are nodes; new ones in the memory that the planner works in.
    unsafe {
        let [left, right] = super::statement::entries((*operation).args) else { return std::ptr::null_mut() };
        let array_for = |cell: &pg_sys::ListCell| {
            let call = cell.ptr_value.cast::<pg_sys::FuncExpr>();
            let is_call = (*call).xpr.type_ == pg_sys::NodeTag::T_FuncExpr;
            nodes.arrays.iter().find(|(function, _)| is_call && *function == (*call).funcid)
        };
        // However it is written. The node itself stays as it is, where it is not that.
        let (other, array, operator) = match (array_for(right), array_for(left)) {
            (Some((_, array)), _) => (left, array, (*operation).opno),
            (None, Some((_, array))) => (right, array, raw::get_commutator((*operation).opno)),
            (None, None) => return std::ptr::null_mut(),
        };
        if operator == pg_sys::InvalidOid {
            return std::ptr::null_mut();
        }
        let function = raw::get_opcode(operator);
        if !EQUALITIES.contains(&function.to_u32()) {
            return std::ptr::null_mut();
        }
        let copy = |node: *const c_void| raw::copyObjectImpl(node);
        let any = raw::palloc0(size_of::<pg_sys::ScalarArrayOpExpr>()).cast::<pg_sys::ScalarArrayOpExpr>();
        (*any).xpr.type_ = pg_sys::NodeTag::T_ScalarArrayOpExpr;
        (*any).opno = operator;
        (*any).opfuncid = function;
        (*any).useOr = true;
        (*any).inputcollid = (*operation).inputcollid;
        (*any).args = raw::lappend(std::ptr::null_mut(), copy(other.ptr_value));
        (*any).args = raw::lappend((*any).args, copy(array.cast_const().cast()));
        (*any).location = -1;
        let both = raw::lappend(std::ptr::null_mut(), any.cast());
        raw::make_andclause(raw::lappend(both, copy(nodes.in_scope.cast_const().cast())))
    }
}
