//! What the policy of a protected table asks of a row is asked, and before anything that could tell of the row.
//!
//! PostgreSQL alone sees to neither where a query goes about it:
//!
//! - Where a condition equals the tenant column to what a function returns, three values are equal for the planner: the column, the current
//!   tenant, and the function's. It compares the column with the function's, and the two others with each other, once, before the first row
//!   (`generate_base_implied_equalities_const`). A function that is declared STABLE and is not, or `current_setting()` of a parameter that the
//!   query sets, is the current tenant then, and any other after.
//! - A condition in which no column is given to a function that is not LEAKPROOF counts as leakproof, whatever else it calls, and comes before
//!   the policies if it is cheap (`order_qual_clauses`). What it calls is called because there is a row, and because the cheaper conditions
//!   before it hold of that row, whose-ever it is.
//!
//! So the policy's own comparison is added to the conditions of the table in the first case, and the mark is taken from conditions
//! in the second: they come after the policies then.

use std::ffi::CStr;

use pgrx::{pg_sys, prelude::*};

use super::{
    index_pushdown::marks::{is_late, is_protected},
    leakproof::function,
    planner,
    statement::entries,
};

mod raw {
    use super::*;
    unsafe extern "C-unwind" {
        #[cfg(feature = "pg15")]
        pub fn adjust_appendrel_attrs_multilevel(
            root: *mut pg_sys::PlannerInfo,
            node: *mut pg_sys::Node,
            child: pg_sys::Relids,
            parent: pg_sys::Relids,
        ) -> *mut pg_sys::Node;
        #[cfg(not(feature = "pg15"))]
        pub fn adjust_appendrel_attrs_multilevel(
            root: *mut pg_sys::PlannerInfo,
            node: *mut pg_sys::Node,
            child: *mut pg_sys::RelOptInfo,
            parent: *mut pg_sys::RelOptInfo,
        ) -> *mut pg_sys::Node;
    }
}

/// To be called when PostgreSQL has made the paths of a table of a query with policies.
pub unsafe fn uphold(root: *mut pg_sys::PlannerInfo, rel: *mut pg_sys::RelOptInfo, policy: &CStr) {
    // SAFETY: the planner's own.
    unsafe {
        if (*rel).rtekind != pg_sys::RTEKind::RTE_RELATION {
            return;
        }
        let is_replaceable = classes(root, rel).any(|class| has_unsure(class));
        let is_loud = conditions(rel).any(|condition| is_loud(rel, condition));
        if (is_replaceable || is_loud) && is_protected(root, rel, policy) {
            if is_replaceable {
                keep(root, rel);
            }
            if is_loud {
                come_first(rel);
            }
        }
    }
}

/// The number of the table that the policies name: of a partition or child, that of its first parent.
unsafe fn named(rel: *const pg_sys::RelOptInfo) -> pg_sys::Relids {
    // SAFETY: the planner's own.
    unsafe { if (*rel).top_parent_relids.is_null() { (*rel).relids } else { (*rel).top_parent_relids } }
}

/// What is equal to columns of a table and to a value that is the same for all rows.
unsafe fn classes(
    root: *const pg_sys::PlannerInfo,
    rel: *const pg_sys::RelOptInfo,
) -> impl Iterator<Item = *mut pg_sys::EquivalenceClass> {
    // SAFETY: the planner's own list, which is only read.
    unsafe {
        let table = named(rel);
        entries((*root).eq_classes)
            .iter()
            .map(|cell| cell.ptr_value.cast::<pg_sys::EquivalenceClass>())
            .filter(move |class| (**class).ec_has_const && pg_sys::bms_is_subset(table, (**class).ec_relids))
    }
}

/// Whether a value of a class is neither known nor the tenant's.
unsafe fn has_unsure(class: *const pg_sys::EquivalenceClass) -> bool {
    // SAFETY: members are expressions.
    unsafe {
        entries((*class).ec_members).iter().any(|cell| {
            let member = cell.ptr_value.cast::<pg_sys::EquivalenceMember>();
            (*member).em_is_const && !is_sure((*member).em_expr.cast())
        })
    }
}

/// Whether an expression without columns has one value for as long as a plan runs.
unsafe fn is_sure(expression: *const pg_sys::Node) -> bool {
    // SAFETY: an expression; the tag of a node tells its type.
    unsafe {
        match (*expression).type_ {
            pg_sys::NodeTag::T_Const | pg_sys::NodeTag::T_Param => true,
            pg_sys::NodeTag::T_RelabelType => {
                is_sure((*expression.cast::<pg_sys::RelabelType>()).arg.cast_const().cast())
            }
            pg_sys::NodeTag::T_FuncExpr => is_tenant((*expression.cast::<pg_sys::FuncExpr>()).funcid),
            _ => false,
        }
    }
}

/// Whether a function is one by which policies ask for the tenant.
pub fn is_tenant(number: pg_sys::Oid) -> bool {
    const SYMBOLS: [&[u8]; 4] = [
        b"tenancy_current_tenant",
        b"tenancy_current_tenant_uuid",
        b"tenancy_current_tenant_bigint",
        b"tenancy_in_scope",
    ];
    number.to_u32() >= pg_sys::FirstNormalObjectId
        && function(number)
            .is_some_and(|function| SYMBOLS.iter().any(|symbol| function.is(b"tenancy", symbol)))
}

/// Adds to the conditions of a table what policies compare with values that are the same for all rows, where that is not among them;
/// and has what has taken its place come after the policies.
#[pg_guard]
unsafe extern "C-unwind" fn keep(root: *mut pg_sys::PlannerInfo, rel: *mut pg_sys::RelOptInfo) {
    // SAFETY: the planner's own; a condition is copied for a partition.
    unsafe {
        let (table, after_policies) = (named(rel), (*root).qual_security_level);
        for class in classes(root, rel).filter(|class| has_unsure(*class)) {
            let mut policies = std::ptr::null_mut();
            for cell in entries((*class).ec_sources) {
                let mut source = cell.ptr_value.cast::<pg_sys::RestrictInfo>();
                if (*source).security_level >= after_policies
                    || !pg_sys::bms_equal((*source).clause_relids, table)
                {
                    continue;
                }
                if !(*rel).top_parent_relids.is_null() {
                    source = translated(root, source, rel);
                }
                policies = pg_sys::lappend(policies, (*source).clause.cast());
                if !conditions(rel).any(|condition| is_equal((*condition).clause, (*source).clause)) {
                    add(rel, source);
                }
            }
            for condition in conditions(rel).collect::<Vec<_>>() {
                if !entries(policies).iter().any(|cell| is_equal(cell.ptr_value.cast(), (*condition).clause))
                    && compares_unsure(condition, class)
                {
                    (*condition).security_level = after_policies;
                    (*condition).leakproof = false;
                }
            }
        }
    }
}

unsafe fn is_equal(one: *const pg_sys::Expr, other: *const pg_sys::Expr) -> bool {
    // SAFETY: expressions.
    unsafe { pg_sys::equal(one.cast(), other.cast()) }
}

/// Whether a condition compares with a value of a class that is neither known nor the tenant's.
unsafe fn compares_unsure(
    condition: *const pg_sys::RestrictInfo,
    class: *const pg_sys::EquivalenceClass,
) -> bool {
    // SAFETY: the tag of a node tells its type; members are expressions.
    unsafe {
        let clause = (*condition).clause;
        (*clause.cast::<pg_sys::Node>()).type_ == pg_sys::NodeTag::T_OpExpr
            && entries((*clause.cast::<pg_sys::OpExpr>()).args).iter().any(|argument| {
                entries((*class).ec_members).iter().any(|cell| {
                    let member = cell.ptr_value.cast::<pg_sys::EquivalenceMember>();
                    (*member).em_is_const
                        && !is_sure((*member).em_expr.cast())
                        && is_equal(argument.ptr_value.cast(), (*member).em_expr)
                })
            })
    }
}

/// A condition of a table, for a partition or child of it.
unsafe fn translated(
    root: *mut pg_sys::PlannerInfo,
    condition: *mut pg_sys::RestrictInfo,
    rel: *mut pg_sys::RelOptInfo,
) -> *mut pg_sys::RestrictInfo {
    // SAFETY: a table that has parents.
    unsafe {
        #[cfg(feature = "pg15")]
        let (child, parent) = ((*rel).relids, (*rel).top_parent_relids);
        #[cfg(not(feature = "pg15"))]
        let (child, parent) = (rel, (*rel).top_parent);
        pg_sys::ffi::pg_guard_ffi_boundary(|| {
            raw::adjust_appendrel_attrs_multilevel(root, condition.cast(), child, parent)
        })
        .cast()
    }
}

unsafe fn add(rel: *mut pg_sys::RelOptInfo, condition: *mut pg_sys::RestrictInfo) {
    // SAFETY: lists of conditions; those of most indexes are the table's own list.
    unsafe {
        let before = (*rel).baserestrictinfo;
        (*rel).baserestrictinfo = pg_sys::lappend(before, condition.cast());
        for cell in entries((*rel).indexlist) {
            let index = cell.ptr_value.cast::<pg_sys::IndexOptInfo>();
            (*index).indrestrictinfo = if (*index).indrestrictinfo == before {
                (*rel).baserestrictinfo
            } else {
                pg_sys::lappend((*index).indrestrictinfo, condition.cast())
            };
        }
    }
}

/// The conditions of a table, and those that a path with values of other tables applies to it.
unsafe fn conditions(rel: *const pg_sys::RelOptInfo) -> impl Iterator<Item = *mut pg_sys::RestrictInfo> {
    // SAFETY: lists of the planner's.
    unsafe {
        let with_others = entries((*rel).ppilist)
            .iter()
            .map(|cell| (*cell.ptr_value.cast::<pg_sys::ParamPathInfo>()).ppi_clauses);
        [(*rel).baserestrictinfo, (*rel).joininfo]
            .into_iter()
            .chain(with_others)
            .flat_map(|list| entries(list))
            .map(|cell| cell.ptr_value.cast())
    }
}

/// Whether a condition would come before the policies with something that could tell.
unsafe fn is_loud(rel: *const pg_sys::RelOptInfo, condition: *const pg_sys::RestrictInfo) -> bool {
    // SAFETY: a condition of the table.
    unsafe {
        (*condition).leakproof && is_late(rel, condition) && !planner::is_quiet((*condition).clause.cast())
    }
}

/// Has conditions that could tell come after the policies. An index for which one is computed once has no part in that, but one that
/// computes it again for each row that it finds has.
#[pg_guard]
unsafe extern "C-unwind" fn come_first(rel: *mut pg_sys::RelOptInfo) {
    // SAFETY: the planner's own; a table that has paths by index has one without.
    unsafe {
        for list in [&mut (*rel).pathlist, &mut (*rel).partial_pathlist] {
            for cell in entries(*list).to_vec() {
                if rechecks_loudly(rel, cell.ptr_value.cast()) {
                    *list = pg_sys::list_delete_ptr(*list, cell.ptr_value);
                }
            }
        }
        for condition in conditions(rel) {
            if is_loud(rel, condition) {
                (*condition).leakproof = false;
            }
        }
    }
}

/// Whether a path calls a function of a user's own for rows that an index has found, before the policies.
unsafe fn rechecks_loudly(rel: *const pg_sys::RelOptInfo, path: *const pg_sys::Path) -> bool {
    // SAFETY: a path of the table; the tag of a node tells its type.
    unsafe {
        match (*path).type_ {
            pg_sys::NodeTag::T_BitmapHeapPath => {
                rechecks_loudly(rel, (*path.cast::<pg_sys::BitmapHeapPath>()).bitmapqual)
            }
            pg_sys::NodeTag::T_BitmapAndPath => {
                let all = entries((*path.cast::<pg_sys::BitmapAndPath>()).bitmapquals);
                all.iter().any(|cell| rechecks_loudly(rel, cell.ptr_value.cast()))
            }
            pg_sys::NodeTag::T_BitmapOrPath => {
                let all = entries((*path.cast::<pg_sys::BitmapOrPath>()).bitmapquals);
                all.iter().any(|cell| rechecks_loudly(rel, cell.ptr_value.cast()))
            }
            pg_sys::NodeTag::T_IndexPath => {
                let all = entries((*path.cast::<pg_sys::IndexPath>()).indexclauses);
                all.iter().any(|cell| {
                    let condition = (*cell.ptr_value.cast::<pg_sys::IndexClause>()).rinfo;
                    is_loud(rel, condition) && planner::calls((*condition).clause.cast(), is_users)
                })
            }
            _ => false,
        }
    }
}

unsafe extern "C-unwind" fn is_users(number: pg_sys::Oid, _: *mut std::ffi::c_void) -> bool {
    number.to_u32() >= pg_sys::FirstNormalObjectId
        && function(number).is_none_or(|function| !function.is_leakproof)
}
