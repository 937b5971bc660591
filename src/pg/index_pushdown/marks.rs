//! Which conditions are marked as leakproof while the paths of a table are made, and how the marks are taken back.

use std::ffi::{CStr, c_void};

use pgrx::{pg_sys, prelude::*};

use super::{
    Judges,
    indexes::{Indexes, usable_indexes},
};
use crate::pg::{
    leakproof::{As, holds},
    planner, policies, pushed_scan, raw,
    statement::{entries, has_policy},
    statistics,
};

pub struct Marked {
    /// The conditions that are marked.
    pub trusted: *mut pg_sys::List,
    /// Those from which PostgreSQL's own mark is taken: what they call could tell of a row that the others have led to.
    others: *mut pg_sys::List,
    /// Conditions with alternatives of which one is such, and those alternatives: PostgreSQL 18 gathers them anew.
    hidden: *mut pg_sys::List,
    alternatives: *mut pg_sys::List,
    pub indexes: *mut pg_sys::List,
    /// Those of them that can return rows in the order of an operator.
    pub ordered: *mut pg_sys::List,
    /// Whether columns may be looked up that are equal to those of other tables.
    pub has_joins: bool,
}

impl Marked {
    /// Whether PostgreSQL may make all paths of the table while its conditions are marked: each that it would make without is among them.
    pub unsafe fn is_enough(&self, root: *const pg_sys::PlannerInfo, rel: *const pg_sys::RelOptInfo) -> bool {
        // SAFETY: the table that is being planned.
        unsafe {
            self.others.is_null()
                && entries(self.indexes).len() == entries((*rel).indexlist).len()
                && (self.ordered.is_null() || (*root).query_pathkeys.is_null())
                && (self.has_joins || !(*rel).has_eclass_joins)
        }
    }
}

/// Takes back what was marked.
pub unsafe fn put_back(marked: &Marked) {
    // SAFETY: conditions of a table whose paths have been made; both lists of alternatives have the same length.
    unsafe {
        for cell in entries(marked.trusted) {
            (*cell.ptr_value.cast::<pg_sys::RestrictInfo>()).leakproof = false;
        }
        for cell in entries(marked.others) {
            (*cell.ptr_value.cast::<pg_sys::RestrictInfo>()).leakproof = true;
        }
        for (condition, alternatives) in entries(marked.hidden).iter().zip(entries(marked.alternatives)) {
            (*condition.ptr_value.cast::<pg_sys::RestrictInfo>()).orclause = alternatives.ptr_value.cast();
        }
    }
}

/// Marks the conditions of a protected table that are trusted, where some wait for the policies; null where there is none.
#[pg_guard]
pub unsafe extern "C-unwind" fn mark(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    judges: &Judges,
) -> *mut Marked {
    // SAFETY: as above; what is returned is in the memory of the planner.
    unsafe {
        let none = std::ptr::null_mut();
        let which = (judges.indexes)();
        // The parameter is the superuser's.
        if which == Indexes::None || !pushed_scan::can_keep_stack() {
            return none;
        }
        let all = [(*rel).baserestrictinfo, (*rel).joininfo];
        if !is_protected(root, rel, judges.policy) || !is_first(root, rel) || !has_quiet_joins(root, rel) {
            return none;
        }
        let indexes = usable_indexes(rel, which);
        if indexes.is_null() {
            return none;
        }
        let mut ordered = std::ptr::null_mut();
        for cell in entries(indexes) {
            if (*cell.ptr_value.cast::<pg_sys::IndexOptInfo>()).amcanorderbyop {
                ordered = raw::lappend(ordered, cell.ptr_value);
            }
        }
        let mut marked = Marked {
            trusted: std::ptr::null_mut(),
            others: std::ptr::null_mut(),
            hidden: std::ptr::null_mut(),
            alternatives: std::ptr::null_mut(),
            indexes,
            ordered,
            has_joins: are_plain(root, rel),
        };
        for list in all {
            for cell in entries(list) {
                mark_condition(rel, cell.ptr_value.cast(), &mut marked);
            }
        }
        if marked.trusted.is_null() {
            put_back(&marked);
            return none;
        }
        let kept = raw::palloc0(size_of::<Marked>()).cast::<Marked>();
        *kept = marked;
        kept
    }
}

/// Whether a condition must wait for the policies, unless it is leakproof.
pub unsafe fn is_late(rel: *const pg_sys::RelOptInfo, condition: *const pg_sys::RestrictInfo) -> bool {
    // SAFETY: a condition of the table.
    unsafe { (*condition).security_level > (*rel).baserestrict_min_security }
}

/// Whether there is a condition that waits for the policies: as a rule there is none, and nothing to mark.
pub unsafe fn waits_any(rel: *const pg_sys::RelOptInfo) -> bool {
    // SAFETY: conditions of the table.
    unsafe {
        [(*rel).baserestrictinfo, (*rel).joininfo]
            .iter()
            .any(|list| entries(*list).iter().any(|cell| waits(rel, cell.ptr_value.cast())))
    }
}

/// Whether a condition waits for the policies.
unsafe fn waits(rel: *const pg_sys::RelOptInfo, condition: *const pg_sys::RestrictInfo) -> bool {
    // SAFETY: a condition of the table.
    unsafe { !(*condition).leakproof && is_late(rel, condition) }
}

/// Marks a condition that is trusted; of one that is made of alternatives, those that are. Takes the mark from one that is not.
unsafe fn mark_condition(
    rel: *const pg_sys::RelOptInfo,
    condition: *mut pg_sys::RestrictInfo,
    marked: &mut Marked,
) {
    // SAFETY: a condition of the table; alternatives are a tree of AND and OR over conditions.
    unsafe {
        if is_late(rel, condition) {
            let is_trusted = holds((*condition).clause.cast(), As::Condition);
            if is_trusted && !(*condition).leakproof {
                marked.trusted = raw::lappend(marked.trusted, condition.cast());
            } else if !is_trusted && (*condition).leakproof {
                marked.others = raw::lappend(marked.others, condition.cast());
            }
            (*condition).leakproof = is_trusted;
        }
        let alternatives = (*condition).orclause;
        if !alternatives.is_null() {
            let before = entries(marked.others).len();
            mark_alternatives(rel, alternatives.cast(), marked);
            if entries(marked.others).len() > before {
                marked.hidden = raw::lappend(marked.hidden, condition.cast());
                marked.alternatives = raw::lappend(marked.alternatives, alternatives.cast());
                (*condition).orclause = std::ptr::null_mut();
            }
        }
    }
}

unsafe fn mark_alternatives(rel: *const pg_sys::RelOptInfo, node: *mut pg_sys::Node, marked: &mut Marked) {
    // SAFETY: as above.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_BoolExpr => {
                for cell in entries((*node.cast::<pg_sys::BoolExpr>()).args) {
                    mark_alternatives(rel, cell.ptr_value.cast(), marked);
                }
            }
            pg_sys::NodeTag::T_RestrictInfo => mark_condition(rel, node.cast(), marked),
            _ => {}
        }
    }
}

/// Whether the policy that asks for the tenant, of the tenant column and no other, comes before all that could tell of a row: others come first by their names.
unsafe fn is_first(root: *mut pg_sys::PlannerInfo, rel: *mut pg_sys::RelOptInfo) -> bool {
    unsafe extern "C-unwind" fn is_ours(number: pg_sys::Oid, _: *mut c_void) -> bool {
        policies::is_tenant(number)
    }
    // SAFETY: conditions of the table.
    unsafe {
        let conditions = || {
            entries((*rel).baserestrictinfo).iter().map(|cell| cell.ptr_value.cast::<pg_sys::RestrictInfo>())
        };
        let entry = *(*root).simple_rte_array.add((*rel).relid as usize);
        let Some(column) = statistics::tenant_column((*entry).relid) else { return false };
        let mut ours = pg_sys::Index::MAX;
        for condition in conditions() {
            let clause = (*condition).clause;
            // As a rule the first is it, and the others need no look.
            if (*condition).security_level < ours
                && (policies::is_settled(root, rel, clause) || planner::calls(clause.cast(), is_ours))
                && is_of_column(clause, (*rel).relid, column)
            {
                ours = (*condition).security_level;
            }
        }
        ours != pg_sys::Index::MAX
            && conditions()
                .filter(|condition| (**condition).security_level <= ours)
                .all(|condition| holds((*condition).clause.cast(), As::Condition))
    }
}

/// Whether a condition is about a column of a table and no other.
unsafe fn is_of_column(clause: *mut pg_sys::Expr, table: pg_sys::Index, column: i16) -> bool {
    // SAFETY: an expression.
    unsafe {
        let mut columns = std::ptr::null_mut();
        raw::pull_varattnos(clause.cast(), table, &mut columns);
        let mut only = 0;
        raw::bms_get_singleton_member(columns, &mut only)
            && only == i32::from(column) - pg_sys::FirstLowInvalidHeapAttributeNumber
    }
}

/// Whether what the columns of a table are equal to calls only what is trusted.
unsafe fn are_plain(root: *const pg_sys::PlannerInfo, rel: *const pg_sys::RelOptInfo) -> bool {
    // SAFETY: expressions of the query.
    unsafe { all_equal(root, rel, |expression| is_column(expression) || holds(expression, As::Key)) }
}

/// Whether nothing is called for a value that columns are equal to in a condition that PostgreSQL takes for leakproof: it makes such
/// conditions where a path asks for them, and a cheap one comes before the policies.
unsafe fn has_quiet_joins(root: *const pg_sys::PlannerInfo, rel: *const pg_sys::RelOptInfo) -> bool {
    // SAFETY: expressions of the query.
    unsafe {
        all_equal(root, rel, |expression| {
            is_column(expression)
                || planner::is_quiet(expression, &[])
                || raw::contain_leaked_vars(expression)
        })
    }
}

unsafe fn is_column(node: *const pg_sys::Node) -> bool {
    // SAFETY: a node.
    unsafe { (*node).type_ == pg_sys::NodeTag::T_Var }
}

/// Whether `test` holds for all that the columns of a table are equal to.
unsafe fn all_equal(
    root: *const pg_sys::PlannerInfo,
    rel: *const pg_sys::RelOptInfo,
    test: impl Fn(*mut pg_sys::Node) -> bool,
) -> bool {
    // SAFETY: the table's numbers are of classes of the query; each has a list of members.
    unsafe {
        entries((*root).eq_classes)
            .iter()
            .map(|cell| cell.ptr_value.cast::<pg_sys::EquivalenceClass>())
            .filter(|class| {
                // One with a constant is a condition of each table.
                !(**class).ec_has_const
                    && (!(*rel).top_parent_relids.is_null()
                        || raw::bms_overlap((**class).ec_relids, (*rel).relids))
            })
            .flat_map(|class| entries((*class).ec_members))
            .map(|cell| cell.ptr_value.cast::<pg_sys::EquivalenceMember>())
            .all(|member| test((*member).em_expr.cast()))
    }
}

/// Whether a table, or one that it is a partition or child of, is known by the policy.
pub unsafe fn is_protected(
    root: *const pg_sys::PlannerInfo,
    rel: *const pg_sys::RelOptInfo,
    policy: &CStr,
) -> bool {
    // SAFETY: the arrays of the planner have an entry for each number of a table; the relations are locked.
    unsafe {
        let mut number = (*rel).relid as usize;
        loop {
            let entry = *(*root).simple_rte_array.add(number);
            if (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION && has_policy((*entry).relid, policy) {
                return true;
            }
            let parents = (*root).append_rel_array;
            let parent = if parents.is_null() { std::ptr::null_mut() } else { *parents.add(number) };
            match parent.as_ref() {
                Some(parent) => number = parent.parent_relid as usize,
                None => return false,
            }
        }
    }
}
