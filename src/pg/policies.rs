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
//! So the policy's own comparison is added to the conditions of the table in the first case, and in both what could tell of a row comes after the policies.
//! Paths by an index that call what a user has written for each row that they find are not taken.

use std::cell::OnceCell;
use std::ffi::{c_int, c_void};

use pgrx::{pg_sys, prelude::*};

use super::{
    fixed,
    index_pushdown::{Judges, marks::is_protected},
    leakproof::function,
    planner::{self, is_quiet},
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
        pub fn bms_is_member(number: c_int, set: pg_sys::Relids) -> bool;
    }
}

/// To be called when PostgreSQL has made the paths of a table of a query with policies.
#[pg_guard]
pub unsafe extern "C-unwind" fn uphold(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    judges: &Judges,
) {
    // SAFETY: the planner's own.
    unsafe {
        if (*rel).rtekind == pg_sys::RTEKind::RTE_RELATION {
            look_after(root, rel, judges);
        }
        // What the paths of a parent, or of a UNION ALL, apply to its children may have been made just now.
        let is_parent = (**(*root).simple_rte_array.add((*rel).relid as usize)).inh;
        if is_parent && (*rel).top_parent_relids.is_null() {
            for number in 1..(*root).simple_rel_array_size as usize {
                let child = *(*root).simple_rel_array.add(number);
                if !child.is_null()
                    && (*child).rtekind == pg_sys::RTEKind::RTE_RELATION
                    && pg_sys::bms_equal((*child).top_parent_relids, (*rel).relids)
                {
                    look_after(root, child, judges);
                }
            }
        }
    }
}

unsafe fn look_after(root: *mut pg_sys::PlannerInfo, rel: *mut pg_sys::RelOptInfo, judges: &Judges) {
    // SAFETY: the planner's own.
    unsafe {
        let table = Table { root, rel, owner: owner(root, rel), tenants: OnceCell::new() };
        if table.needs_care() && is_protected(root, rel, judges.policy) {
            settle(&table);
        }
    }
}

/// The number of the table whose policies apply: of a partition or child, the parent that the query names; itself, where it has its own, as in a UNION ALL.
unsafe fn owner(root: *const pg_sys::PlannerInfo, rel: *const pg_sys::RelOptInfo) -> pg_sys::Index {
    // SAFETY: the arrays of the planner have an entry for each number of a table.
    unsafe {
        let mut number = (*rel).relid;
        loop {
            let entry = *(*root).simple_rte_array.add(number as usize);
            let parents = (*root).append_rel_array;
            if !(*entry).securityQuals.is_null() || parents.is_null() {
                return number;
            }
            match (*parents.add(number as usize)).as_ref() {
                Some(parent) => number = parent.parent_relid,
                None => return number,
            }
        }
    }
}

/// A table of a query that is being planned.
struct Table {
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    /// Whose policies apply.
    owner: pg_sys::Index,
    /// The functions by which its policies ask for the tenant, once somebody wants to know.
    tenants: OnceCell<Vec<pg_sys::Oid>>,
}

/// What is equal to columns of a table and to a value that is the same for all rows.
unsafe fn classes(
    root: *const pg_sys::PlannerInfo,
    table: pg_sys::Index,
) -> impl Iterator<Item = *mut pg_sys::EquivalenceClass> {
    // SAFETY: the planner's own list, which is only read.
    unsafe {
        entries((*root).eq_classes)
            .iter()
            .map(|cell| cell.ptr_value.cast::<pg_sys::EquivalenceClass>())
            .filter(move |class| {
                (**class).ec_has_const && raw::bms_is_member(table as c_int, (**class).ec_relids)
            })
    }
}

/// Whether a value of a class is neither known nor the tenant's.
#[inline(never)]
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
pub unsafe fn is_sure(expression: *const pg_sys::Node) -> bool {
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
    number.to_u32() >= pg_sys::FirstNormalObjectId
        && function(number).is_some_and(|function| function.is_tenant)
}

impl Table {
    /// What the policies ask, as they name the table that they are of, each with its level: after them comes what a view asks that is
    /// written through. A join of a table with itself by its key may have been reduced to this one (since 18), and asks what both asked.
    unsafe fn policies(&self) -> impl Iterator<Item = (*mut pg_sys::Expr, pg_sys::Index)> {
        // SAFETY: lists of lists of expressions; the array of the planner has a place for each table of the query.
        unsafe {
            let own = *(*self.root).simple_rte_array.add(self.owner as usize);
            let removed = entries((*(*self.root).parse).rtable)
                .iter()
                .zip(1..)
                .map(|(cell, number)| (cell.ptr_value.cast::<pg_sys::RangeTblEntry>(), number))
                .filter(move |(other, number)| {
                    *number != self.owner as usize
                        && (**other).relid == (*own).relid
                        && (*(*self.root).simple_rel_array.add(*number)).is_null()
                })
                .map(|(other, _)| other);
            std::iter::once(own).chain(removed).flat_map(|entry| {
                entries((*entry).securityQuals).iter().zip(0..).flat_map(|(cell, level)| {
                    entries(cell.ptr_value.cast()).iter().map(move |cell| (cell.ptr_value.cast(), level))
                })
            })
        }
    }

    /// The functions by which the first that does asks for the tenant.
    unsafe fn functions(&self) -> Vec<pg_sys::Oid> {
        // SAFETY: expressions.
        unsafe {
            let mut found = Vec::new();
            for (policy, _) in self.policies() {
                planner::each_call(policy.cast(), &mut |number| {
                    if is_tenant(number) && !found.contains(&number) {
                        found.push(number);
                    }
                });
                if !found.is_empty() {
                    break;
                }
            }
            found
        }
    }

    /// Whether a policy's comparison may have been displaced, or something that could tell come before it.
    unsafe fn needs_care(&self) -> bool {
        // SAFETY: the planner's own.
        unsafe {
            classes(self.root, self.owner).any(|class| has_unsure(class))
                // The lists of `conditions`, which is a chain of iterators: this is asked for each table of each query.
                || self.may_tell((*self.rel).baserestrictinfo)
                || self.may_tell((*self.rel).joininfo)
                || entries((*self.rel).ppilist)
                    .iter()
                    .any(|cell| self.may_tell((*cell.ptr_value.cast::<pg_sys::ParamPathInfo>()).ppi_clauses))
                || are_loud((*self.rel).pathlist)
                || are_loud((*self.rel).partial_pathlist)
        }
    }

    /// Whether one of these conditions could tell, and come before the policies.
    unsafe fn may_tell(&self, conditions: *mut pg_sys::List) -> bool {
        // SAFETY: conditions of the table.
        unsafe {
            entries(conditions).iter().any(|cell| {
                let condition = cell.ptr_value.cast::<pg_sys::RestrictInfo>();
                let may_lead = (*condition).leakproof || !(*condition).orclause.is_null();
                may_lead
                    && !planner::is_plain_comparison((*condition).clause.cast())
                    && self.is_loud(condition)
            })
        }
    }

    /// Whether a condition could tell, besides its result. What asks for the tenant as a policy does raises the errors that the policy raises.
    #[inline(never)]
    unsafe fn is_loud(&self, condition: *const pg_sys::RestrictInfo) -> bool {
        // SAFETY: a condition of the table.
        unsafe {
            let clause = (*condition).clause;
            // As a rule none but the policies asks for the tenant.
            !is_quiet(clause.cast(), &[]) && {
                let known = self.tenants.get_or_init(|| self.functions());
                known.is_empty() || !is_quiet(clause.cast(), known)
            }
        }
    }

    /// For a partition or child, an expression of the table that the policies are of.
    unsafe fn translated(&self, node: *mut pg_sys::Node) -> *mut pg_sys::Node {
        // SAFETY: the planner's own; conditions as well as expressions are copied.
        unsafe {
            let rel = self.rel;
            if (*rel).relid == self.owner {
                return node;
            }
            let parent = *(*self.root).simple_rel_array.add(self.owner as usize);
            #[cfg(feature = "pg15")]
            let (rel, parent) = ((*rel).relids, (*parent).relids);
            pg_sys::ffi::pg_guard_ffi_boundary(|| {
                raw::adjust_appendrel_attrs_multilevel(self.root, node, rel, parent)
            })
        }
    }
}

/// Whether a condition of a table is its policy, with the tenant as a constant. A frame of plain data, which an error may skip.
pub unsafe fn is_settled(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    condition: *const pg_sys::Expr,
) -> bool {
    // SAFETY: the planner's own; lists of lists of expressions.
    unsafe {
        let table = Table { root, rel, owner: owner(root, rel), tenants: OnceCell::new() };
        let is_same = |policy: *mut pg_sys::Expr| super::raw::equal(policy.cast(), condition.cast());
        // As a rule the table is the one that the policies are of, and they need no translation.
        let own = *(*root).simple_rte_array.add(table.owner as usize);
        if (*rel).relid == table.owner {
            for cell in entries((*own).securityQuals) {
                for cell in entries(cell.ptr_value.cast()) {
                    if fixed::is_settled(cell.ptr_value.cast()) && is_same(cell.ptr_value.cast()) {
                        return true;
                    }
                }
            }
        }
        table
            .policies()
            .filter(|(policy, _)| fixed::is_settled(policy.cast()))
            .any(|(policy, _)| is_same(table.translated(policy.cast()).cast()))
    }
}

/// Has the policies of a table asked, and before anything that could tell.
#[cold]
unsafe fn settle(table: &Table) {
    // SAFETY: the planner's own.
    unsafe {
        let (root, rel) = (table.root, table.rel);
        let named: Vec<_> = table.policies().collect();
        let policies: Vec<_> =
            named.iter().map(|(policy, level)| (table.translated(policy.cast()).cast(), *level)).collect();
        for class in classes(root, table.owner).filter(|class| has_unsure(*class)) {
            for cell in entries((*class).ec_sources) {
                let source = cell.ptr_value.cast::<pg_sys::RestrictInfo>();
                if is_of((*source).clause_relids, table.owner) && level_of((*source).clause, &named).is_some()
                {
                    let source = table.translated(source.cast()).cast::<pg_sys::RestrictInfo>();
                    let is_there =
                        conditions(rel).any(|condition| is_equal((*condition).clause, (*source).clause));
                    if !is_there {
                        add(rel, source);
                    }
                }
            }
        }
        // Conditions are still as they were when the paths were made.
        drop_paths(root, rel);
        for condition in conditions(rel).collect::<Vec<_>>() {
            if classes(root, table.owner).any(|class| compares_unsure(condition, class)) {
                let level = level_of((*condition).clause, &policies);
                (*condition).security_level = level.unwrap_or((*root).qual_security_level);
                (*condition).leakproof = false;
            } else if (*condition).leakproof && table.is_loud(condition) {
                (*condition).leakproof = false;
            }
        }
    }
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

unsafe fn is_of(relids: pg_sys::Relids, table: pg_sys::Index) -> bool {
    // SAFETY: a set of numbers.
    unsafe {
        let mut only = 0;
        pg_sys::bms_get_singleton_member(relids, &mut only) && only == table as c_int
    }
}

/// The level of a clause, where it is one of these.
unsafe fn level_of(
    clause: *const pg_sys::Expr,
    all: &[(*mut pg_sys::Expr, pg_sys::Index)],
) -> Option<pg_sys::Index> {
    // SAFETY: expressions.
    unsafe { all.iter().find(|(other, _)| is_equal(clause, *other)).map(|(_, level)| *level) }
}

pub unsafe fn is_equal(one: *const pg_sys::Expr, other: *const pg_sys::Expr) -> bool {
    // SAFETY: expressions.
    unsafe { pg_sys::equal(one.cast(), other.cast()) }
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

/// Leaves out the paths that call what could tell for each row that an index finds, before the policies. What is computed once for a
/// scan of an index has no part in that, so such paths are made in their place.
unsafe fn drop_paths(root: *mut pg_sys::PlannerInfo, rel: *mut pg_sys::RelOptInfo) {
    // SAFETY: the planner's own.
    unsafe {
        let mut has_dropped = false;
        for list in [&mut (*rel).pathlist, &mut (*rel).partial_pathlist] {
            for cell in entries(*list).to_vec() {
                if is_loud(cell.ptr_value.cast()) {
                    *list = pg_sys::list_delete_ptr(*list, cell.ptr_value);
                    has_dropped = true;
                }
            }
        }
        if !has_dropped {
            return;
        }
        // Those were not kept, because they cost more.
        pg_sys::add_path(rel, pg_sys::create_seqscan_path(root, rel, (*rel).lateral_relids, 0));
        let indexes: Vec<*mut pg_sys::IndexOptInfo> =
            entries((*rel).indexlist).iter().map(|cell| cell.ptr_value.cast()).collect();
        let before: Vec<_> =
            indexes.iter().map(|index| ((**index).amhasgetbitmap, (**index).amhasgettuple)).collect();
        for index in &indexes {
            (**index).amhasgetbitmap = false;
            (**index).amhasgettuple &= (**index).relam.to_u32() == BTREE;
        }
        pg_sys::ffi::pg_guard_ffi_boundary(|| super::raw::create_index_paths(root, rel));
        for (index, (bitmap, tuple)) in indexes.iter().zip(before) {
            (**index).amhasgetbitmap = bitmap;
            (**index).amhasgettuple = tuple;
        }
    }
}

const BTREE: u32 = 403;

unsafe fn are_loud(paths: *mut pg_sys::List) -> bool {
    // SAFETY: paths of the table.
    unsafe { entries(paths).iter().any(|cell| is_loud(cell.ptr_value.cast())) }
}

/// Whether a path calls what could tell for each row that an index finds.
unsafe fn is_loud(path: *const pg_sys::Path) -> bool {
    // SAFETY: a path of the table; the tag of a node tells its type.
    unsafe {
        match (*path).type_ {
            pg_sys::NodeTag::T_BitmapHeapPath => {
                recheck_is_loud((*path.cast::<pg_sys::BitmapHeapPath>()).bitmapqual)
            }
            pg_sys::NodeTag::T_IndexPath => {
                let scan = path.cast::<pg_sys::IndexPath>();
                (*(*scan).indexinfo).relam.to_u32() != BTREE && recheck_is_loud(path)
                    || entries((*scan).indexorderbys)
                        .iter()
                        .any(|cell| planner::calls(cell.ptr_value.cast(), is_written))
            }
            _ => false,
        }
    }
}

unsafe fn recheck_is_loud(path: *const pg_sys::Path) -> bool {
    // SAFETY: as above.
    unsafe {
        let any = |list| entries(list).iter().any(|cell| recheck_is_loud(cell.ptr_value.cast()));
        match (*path).type_ {
            pg_sys::NodeTag::T_BitmapAndPath => any((*path.cast::<pg_sys::BitmapAndPath>()).bitmapquals),
            pg_sys::NodeTag::T_BitmapOrPath => any((*path.cast::<pg_sys::BitmapOrPath>()).bitmapquals),
            pg_sys::NodeTag::T_IndexPath => {
                entries((*path.cast::<pg_sys::IndexPath>()).indexclauses).iter().any(|cell| {
                    let condition = (*cell.ptr_value.cast::<pg_sys::IndexClause>()).rinfo;
                    planner::calls((*condition).clause.cast(), is_written)
                })
            }
            _ => false,
        }
    }
}

/// Whether a function is neither one in C, which only superusers make, nor LEAKPROOF.
pub unsafe extern "C-unwind" fn is_written(number: pg_sys::Oid, _: *mut c_void) -> bool {
    number.to_u32() >= pg_sys::FirstNormalObjectId
        && function(number).is_none_or(|function| !function.is_in_c && !function.is_leakproof)
}
