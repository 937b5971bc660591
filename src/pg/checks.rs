//! What is asked of a row that a query writes, once and in one call.
//!
//! PostgreSQL asks the policies of INSERT, of UPDATE and of SELECT, of each what is permissive and what is restrictive, as a check of its own: an upsert of
//! a protected table has ten, of which seven ask nothing or what another one asks. Each is planned, prepared for the run, and evaluated for each row
//! for itself. So before a query is planned, those of the tenant are left out that hold wherever another one of the same kind does, with those that are
//! true; and what is left, `<column> = current_tenant() OR deny_write()`, becomes one function that says the same. Where the plan runs once, for a
//! tenant that is known (`fixed`), what the query itself says may be answer enough.

use std::ffi::{CStr, c_void};

use pgrx::{pg_sys, prelude::*};

use super::{
    accessor::{Form, Known},
    leakproof, raw, rewrite, scope,
    statement::entries,
};

pub mod proof;

/// A comparison of a column with the current tenant: its operator, the function that returns the tenant, and the one that takes the place of both.
#[derive(Clone, Copy)]
struct Comparison {
    operator: u32,
    tenant: pg_sys::Oid,
    form: Form,
    is_own: pg_sys::Oid,
}

/// The functions of the extension, which are looked up once more when any function has changed.
struct Functions {
    changes: Option<u64>,
    denies: pg_sys::Oid,
    comparisons: [Comparison; 4],
}

const NONE: Comparison =
    Comparison { operator: 0, tenant: pg_sys::InvalidOid, form: Form::Text, is_own: pg_sys::InvalidOid };
static mut FUNCTIONS: Functions =
    Functions { changes: None, denies: pg_sys::InvalidOid, comparisons: [NONE; 4] };

/// Leaves out the checks of a query, and of those in its WITH, that say nothing new, and shortens the others. Where the tenant is known, it leaves out those
/// that are proven as well, and returns of what rows (`fixed::proven`).
pub unsafe fn simplify(query: *mut pg_sys::Query, tenant: Option<&Known>) -> u32 {
    // SAFETY: a query that PostgreSQL lets its planner change. Frames of plain data, which an error may skip.
    unsafe {
        let mut proven = 0;
        if !(*query).withCheckOptions.is_null() {
            look_up_if_changed();
            // What is written by the way is looked at when it is written.
            if let Some(tenant) = tenant.filter(|_| !(*query).hasModifyingCTE) {
                proven = proof::leave_out_proven(query, tenant);
            }
            let kept = needed((*query).withCheckOptions);
            shorten(kept);
            (*query).withCheckOptions = kept;
        }
        if (*query).hasModifyingCTE {
            for cell in entries((*query).cteList) {
                let inner = (*cell.ptr_value.cast::<pg_sys::CommonTableExpr>()).ctequery;
                if (*inner).type_ == pg_sys::NodeTag::T_Query {
                    simplify(inner.cast(), None);
                }
            }
        }
        proven
    }
}

unsafe fn look_up_if_changed() {
    // SAFETY: a backend is single-threaded.
    unsafe {
        if FUNCTIONS.changes != Some(leakproof::changes()) {
            look_up();
        }
    }
}

/// In which form a function returns the current tenant, if it is one that does.
pub unsafe fn form_of(function: pg_sys::Oid) -> Option<Form> {
    // SAFETY: as above.
    unsafe {
        look_up_if_changed();
        let comparisons = FUNCTIONS.comparisons;
        let is_it = |its: &Comparison| its.tenant != pg_sys::InvalidOid && its.tenant == function;
        comparisons.iter().find(|its| is_it(its)).map(|its| its.form)
    }
}

unsafe fn needed(checks: *mut pg_sys::List) -> *mut pg_sys::List {
    // SAFETY: a list of checks.
    unsafe {
        let mut kept = std::ptr::null_mut();
        for cell in entries(checks) {
            let mut check = cell.ptr_value.cast::<pg_sys::WithCheckOption>();
            // That of a view is not a policy's.
            if (*check).kind != pg_sys::WCOKind::WCO_VIEW_CHECK {
                if is_true((*check).qual) {
                    continue;
                }
                // In its place, so that what others ask is asked of the tenant's own rows only, as before.
                check = stands_for(check, checks);
            }
            if !raw::list_member_ptr(kept, check.cast()) {
                kept = raw::lappend(kept, check.cast());
            }
        }
        kept
    }
}

unsafe fn shorten(checks: *mut pg_sys::List) {
    // SAFETY: a list of checks.
    unsafe {
        // In a scope of several tenants, policies ask for something else (`rewrite`).
        for cell in entries(checks).iter().filter(|_| !scope::is_given()) {
            let check = cell.ptr_value.cast::<pg_sys::WithCheckOption>();
            let short = shortened((*check).qual);
            if !short.is_null() {
                (*check).qual = short;
            }
        }
    }
}

/// The check that holds only where this one does: one that raises an error elsewhere, or else the first that is the same. Only of what asks for the
/// tenant: other conditions may do something whenever they are asked.
unsafe fn stands_for(
    check: *mut pg_sys::WithCheckOption,
    all: *mut pg_sys::List,
) -> *mut pg_sys::WithCheckOption {
    // SAFETY: checks in the list.
    unsafe {
        if !is_of_tenant((*check).qual) {
            return check;
        }
        let same_kind = || {
            let each = entries(all).iter().map(|cell| cell.ptr_value.cast::<pg_sys::WithCheckOption>());
            each.filter(|other| (**other).kind == (*check).kind)
        };
        let its = (*check).qual.cast::<c_void>();
        same_kind()
            .find(|other| raw::equal(unless_it_raises((**other).qual).cast(), its))
            .or_else(|| same_kind().find(|other| raw::equal((**other).qual.cast(), its)))
            .unwrap_or(check)
    }
}

/// Whether an expression is a comparison with the current tenant, or has that beside an IS NULL.
unsafe fn is_of_tenant(node: *mut pg_sys::Node) -> bool {
    // SAFETY: null or a node, whose tag tells its type.
    unsafe {
        if node.is_null() {
            return false;
        }
        match (*node).type_ {
            pg_sys::NodeTag::T_OpExpr => comparison(node.cast()).is_some(),
            pg_sys::NodeTag::T_BoolExpr => {
                let either = node.cast::<pg_sys::BoolExpr>();
                let [first, last] = entries((*either).args) else { return false };
                (*either).boolop == pg_sys::BoolExprType::OR_EXPR
                    && is_null_test(first.ptr_value.cast())
                    && (*last.ptr_value.cast::<pg_sys::Node>()).type_ == pg_sys::NodeTag::T_OpExpr
                    && comparison(last.ptr_value.cast()).is_some()
            }
            _ => false,
        }
    }
}

/// Whether a condition is that a column is NULL, or is not.
unsafe fn is_null_test(node: *const pg_sys::Node) -> bool {
    // SAFETY: a node, whose tag tells its type.
    unsafe {
        (*node).type_ == pg_sys::NodeTag::T_NullTest
            && is_column((*node.cast::<pg_sys::NullTest>()).arg.cast())
    }
}

/// Which comparison of a column with the current tenant an operation is, if it is one; and of what.
unsafe fn comparison(operation: *const pg_sys::OpExpr) -> Option<(Comparison, *mut c_void)> {
    // SAFETY: a node of that type, whose arguments are nodes.
    unsafe {
        let [value, tenant] = entries((*operation).args) else { return None };
        let tenant = tenant.ptr_value.cast::<pg_sys::FuncExpr>();
        if (*tenant).xpr.type_ != pg_sys::NodeTag::T_FuncExpr {
            return None;
        }
        let comparisons = FUNCTIONS.comparisons;
        let found = comparisons.into_iter().find(|its| {
            its.tenant != pg_sys::InvalidOid
                && its.operator == (*operation).opno.to_u32()
                && its.tenant == (*tenant).funcid
        })?;
        is_column(value.ptr_value.cast()).then_some((found, value.ptr_value))
    }
}

/// Whether an expression is a column, whatever its type is taken for.
unsafe fn is_column(mut node: *const pg_sys::Node) -> bool {
    // SAFETY: as above.
    unsafe {
        while (*node).type_ == pg_sys::NodeTag::T_RelabelType {
            node = (*node.cast::<pg_sys::RelabelType>()).arg.cast();
        }
        (*node).type_ == pg_sys::NodeTag::T_Var
    }
}

unsafe fn is_true(node: *const pg_sys::Node) -> bool {
    // SAFETY: null or a node, whose tag tells its type.
    unsafe {
        let constant = node.cast::<pg_sys::Const>();
        !node.is_null()
            && (*node).type_ == pg_sys::NodeTag::T_Const
            && !(*constant).constisnull
            && (*constant).constvalue.value() != 0
    }
}

/// What an expression is wherever it raises no error: the first of two alternatives, of which the last never returns. Else null.
unsafe fn unless_it_raises(node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: as above; the arguments of an expression are nodes.
    unsafe {
        let none = std::ptr::null_mut();
        let either = node.cast::<pg_sys::BoolExpr>();
        if node.is_null()
            || (*node).type_ != pg_sys::NodeTag::T_BoolExpr
            || (*either).boolop != pg_sys::BoolExprType::OR_EXPR
        {
            return none;
        }
        let [first, last] = entries((*either).args) else { return none };
        let call = last.ptr_value.cast::<pg_sys::FuncExpr>();
        let is_call = (*call).xpr.type_ == pg_sys::NodeTag::T_FuncExpr;
        let denies = FUNCTIONS.denies;
        if is_call && denies != pg_sys::InvalidOid && (*call).funcid == denies {
            first.ptr_value.cast()
        } else {
            none
        }
    }
}

/// The one function that says what a check says; null where there is none.
unsafe fn shortened(check: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: as above; what is made is in the memory that the planner works in.
    unsafe {
        let none = std::ptr::null_mut();
        let operation = unless_it_raises(check).cast::<pg_sys::OpExpr>();
        if operation.is_null() || (*operation).xpr.type_ != pg_sys::NodeTag::T_OpExpr {
            return none;
        }
        let Some((found, value)) = comparison(operation) else { return none };
        // Where equal is not the same bytes, a collation has to be asked.
        let collation = (*operation).inputcollid.to_u32();
        let is_plain = if found.operator == pg_sys::TextEqualOperator {
            collation == pg_sys::DEFAULT_COLLATION_OID.to_u32()
                || collation == pg_sys::C_COLLATION_OID.to_u32()
        } else {
            true
        };
        if found.is_own == pg_sys::InvalidOid || !is_plain {
            return none;
        }
        raw::makeFuncExpr(
            found.is_own,
            pg_sys::BOOLOID,
            raw::lappend(std::ptr::null_mut(), value),
            pg_sys::InvalidOid,
            (*operation).inputcollid,
            pg_sys::CoercionForm::COERCE_EXPLICIT_CALL,
        )
        .cast()
    }
}

/// Looks for the functions, each by its name and its symbol in the library: what is not the extension's says what it says.
#[cold]
#[pg_guard]
unsafe extern "C-unwind" fn look_up() {
    const TENANTS: [(&CStr, &[u8], Form); 3] = [
        (c"current_tenant", b"tenancy_current_tenant", Form::Text),
        (c"current_tenant_uuid", b"tenancy_current_tenant_uuid", Form::Uuid),
        (c"current_tenant_bigint", b"tenancy_current_tenant_bigint", Form::Bigint),
    ];
    let ours = |schema, name, arguments: &[pg_sys::Oid], symbol: &[u8]| {
        let number = rewrite::find(schema, name, arguments);
        if leakproof::is_symbol(number, b"tenancy", symbol) { number } else { pg_sys::InvalidOid }
    };
    // The operator, what the column is, and which of the functions it is compared with.
    let comparison = |operator, kind, tenant: usize, symbol: &[u8]| {
        let (name, its, form) = TENANTS[tenant];
        Comparison {
            operator,
            tenant: ours(c"tenancy", name, &[], its),
            form,
            is_own: ours(c"_tenancy", c"is_own", &[kind], symbol),
        }
    };
    // What is invalidated meanwhile is looked up again.
    let changes = leakproof::changes();
    let functions = Functions {
        changes: Some(changes),
        denies: ours(c"tenancy", c"deny_write", &[], b"deny_write_wrapper"),
        comparisons: [
            comparison(pg_sys::TextEqualOperator, pg_sys::TEXTOID, 0, b"tenancy_is_own_text"),
            comparison(UUID_EQUAL, pg_sys::UUIDOID, 1, b"tenancy_is_own_uuid"),
            comparison(INT8_EQUAL, pg_sys::INT8OID, 2, b"tenancy_is_own_bigint"),
            comparison(INT48_EQUAL, pg_sys::INT4OID, 2, b"tenancy_is_own_integer"),
        ],
    };
    // SAFETY: a backend is single-threaded.
    unsafe { FUNCTIONS = functions }
}

// Operators of pg_operator.dat that have no name there: bigint = bigint, uuid = uuid, integer = bigint.
const INT8_EQUAL: u32 = 410;
const UUID_EQUAL: u32 = 2972;
const INT48_EQUAL: u32 = 15;
