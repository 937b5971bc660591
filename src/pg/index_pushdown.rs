//! Conditions of a query as index conditions, behind the policies of a protected table.
//!
//! PostgreSQL evaluates a condition of the query before a policy only where each function in it is LEAKPROOF
//! (`restriction_is_securely_promotable`), and so for most operators reads all rows of the tenant. While it makes the paths of a table, the
//! conditions that the judge trusts are marked as leakproof; then `set_rel_pathlist_hook` takes the mark away, so filters keep the order
//! that PostgreSQL gives them, after the policies.
//!
//! They are marked when PostgreSQL first estimates one of them, as a rule. Where some paths are to be made without the marks, or where
//! conditions are other tables' as well, PostgreSQL makes the paths by index once more when it has made all, with the marks.
//!
//! What an operator tells of a row besides its result is what must not get out; nor may anything else be called on a row, or because there
//! is one, that could tell. So conditions, indexes and policies that PostgreSQL itself would use are left out where they call what is not
//! trusted, and a plan that was made with such a condition is tagged: `pushed_scan` watches over its run.

use std::ffi::{CStr, c_int};

use pgrx::{pg_sys, prelude::*};

use super::{leakproof, planner, policies, pushed_scan, raw, statement::entries, statistics};
pub use indexes::Indexes;
use marks::{Marked, mark, put_back};

mod indexes;
pub(super) mod marks;

#[derive(Clone, Copy)]
pub struct Judges {
    pub indexes: fn() -> Indexes,
    /// The policy by which a table is known.
    pub policy: &'static CStr,
}

static mut JUDGES: Option<Judges> = None;
static mut PREVIOUS: pg_sys::set_rel_pathlist_hook_type = None;

/// Called once, when the library is loaded.
pub fn init(judges: Judges) {
    // SAFETY: a backend is single-threaded.
    unsafe {
        JUDGES = Some(judges);
        PREVIOUS = pg_sys::set_rel_pathlist_hook;
        pg_sys::set_rel_pathlist_hook = Some(add_paths);
    }
    pushed_scan::init();
}

/// Whether conditions are given to any index.
pub fn is_on() -> bool {
    // SAFETY: written once, when the library is loaded.
    unsafe { JUDGES.is_some_and(|judges| (judges.indexes)() != Indexes::None) }
}

/// The number under which what has been marked is noted with the plan that is being made, so that it goes with it.
const NOTE: c_int = -7_301;

/// What has been marked before the paths of a table are made.
#[repr(C)]
struct Note {
    item: pg_sys::PlanInvalItem,
    rel: *const pg_sys::RelOptInfo,
    /// Null where nothing is marked.
    marked: *mut Marked,
    /// There is something to mark when the paths have been made.
    is_for_later: bool,
    /// The condition that PostgreSQL was estimating, where it is trusted: until it is done, statistics are lent.
    current: *const pg_sys::RestrictInfo,
}

/// What has been noted of a table, or null.
unsafe fn note_of(root: *const pg_sys::PlannerInfo, rel: *const pg_sys::RelOptInfo) -> *mut Note {
    // SAFETY: the list has items, of which those with that number are ours.
    unsafe {
        entries((*(*root).glob).invalItems)
            .iter()
            .map(|cell| cell.ptr_value.cast::<Note>())
            .find(|note| (**note).item.cacheId == NOTE && std::ptr::eq((**note).rel, rel))
            .unwrap_or(std::ptr::null_mut())
    }
}

/// Whether conditions of a table may be given to its indexes.
unsafe fn may_push(root: *const pg_sys::PlannerInfo, rel: *mut pg_sys::RelOptInfo) -> bool {
    // SAFETY: the planner's own; a table of the query has an entry.
    unsafe {
        let is_table = || {
            let entry = *(*root).simple_rte_array.add((*rel).relid as usize);
            (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION
                // Where PostgreSQL makes such paths: not for a parent, whose indexes have no rows, nor for a sample, which an index does not know.
                && !(*entry).inh
                && (*entry).tablesample.is_null()
        };
        (*root).qual_security_level > 0
            && !(*rel).indexlist.is_null()
            && is_table()
            && !may_be_run_again(root)
            // Nor for one in which there can be no row: what a path by an index applies to the rows has not been worked out
            // (`check_index_predicates`), and it would return all there are.
            && !raw::is_dummy_rel(rel)
    }
}

/// Called where a condition is estimated by statistics of a table: marks the conditions before the first, and says whether statistics are
/// lent to the one that is estimated.
#[inline]
pub unsafe fn estimates(root: *mut pg_sys::PlannerInfo, rel: *mut pg_sys::RelOptInfo) -> bool {
    // SAFETY: the planner's own; `rel` may be null.
    unsafe {
        if rel.is_null() {
            return false;
        }
        match note_of(root, rel).as_ref() {
            Some(note) => !note.current.is_null() && (*note.current).norm_selec < 0.0,
            None => marks::waits_any(rel) && is_first(root, rel) && mark_early(root, rel),
        }
    }
}

/// Whether PostgreSQL is about to estimate the conditions of a table, one after the other, and all of them are the table's alone.
unsafe fn is_first(root: *const pg_sys::PlannerInfo, rel: *mut pg_sys::RelOptInfo) -> bool {
    // SAFETY: as above.
    unsafe {
        (*rel).rows == 0.0
            && (*rel).pathlist.is_null()
            && (*rel).joininfo.is_null()
            // Of several columns: not one after the other.
            && (*rel).statlist.is_null()
            // `check_index_predicates` comes just before.
            && entries((*rel).indexlist)
                .iter()
                .any(|cell| !(*cell.ptr_value.cast::<pg_sys::IndexOptInfo>()).indrestrictinfo.is_null())
            && may_push(root, rel)
    }
}

/// Marks conditions where that is enough for all paths, and estimates those that are trusted.
#[pg_guard]
unsafe extern "C-unwind" fn mark_early(root: *mut pg_sys::PlannerInfo, rel: *mut pg_sys::RelOptInfo) -> bool {
    // SAFETY: the planner's own; what is noted is in its memory.
    unsafe {
        let Some(judges) = JUDGES else { return false };
        let outer = pg_sys::MemoryContextSwitchTo((*root).planner_cxt);
        let note = raw::palloc0(size_of::<Note>()).cast::<Note>();
        (*note).item.type_ = pg_sys::NodeTag::T_PlanInvalItem;
        (*note).item.cacheId = NOTE;
        (*note).rel = rel;
        (*(*root).glob).invalItems = raw::lappend((*(*root).glob).invalItems, note.cast());
        let current = entries((*rel).baserestrictinfo)
            .iter()
            .map(|cell| cell.ptr_value.cast::<pg_sys::RestrictInfo>())
            .find(|condition| !(**condition).pseudoconstant && (**condition).norm_selec < 0.0);
        let marked = mark(root, rel, &judges);
        if !marked.is_null() && !(*marked).is_enough(root, rel) {
            put_back(&*marked);
            (*note).is_for_later = true;
        } else if !marked.is_null() {
            (*note).marked = marked;
            if (judges.indexes)() == Indexes::All {
                let shown = shown_to((*marked).trusted);
                // PostgreSQL goes on with the current one.
                (*note).current = current
                    .filter(|current| raw::list_member_ptr(shown, current.cast()))
                    .unwrap_or(std::ptr::null_mut());
                estimate(root, shown, (*note).current);
            }
        }
        pg_sys::MemoryContextSwitchTo(outer);
        !(*note).current.is_null()
    }
}

unsafe extern "C-unwind" fn add_paths(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    number: pg_sys::Index,
    entry: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: PostgreSQL's own arguments. Frames of plain data, which an error may skip: what it leaves marked is never planned.
    unsafe {
        if (*root).qual_security_level > 0 {
            let note = note_of(root, rel);
            if !note.is_null() && !(*note).marked.is_null() {
                put_back(&*(*note).marked);
                planner::tag_pushed((*root).glob);
            } else if note.as_ref().is_none_or(|note| note.is_for_later)
                && marks::waits_any(rel)
                && may_push(root, rel)
            {
                make_paths_again(root, rel);
            }
            if !note.is_null() {
                (*(*root).glob).invalItems = raw::list_delete_ptr((*(*root).glob).invalItems, note.cast());
            }
            if let Some(judges) = JUDGES {
                policies::uphold(root, rel, &judges);
            }
        }
        if let Some(previous) = PREVIOUS {
            previous(root, rel, number, entry);
        }
    }
}

/// Makes the paths by index, in addition to those that there are, while conditions are marked.
unsafe fn make_paths_again(root: *mut pg_sys::PlannerInfo, rel: *mut pg_sys::RelOptInfo) {
    // SAFETY: the planner's own.
    unsafe {
        let Some(judges) = JUDGES else { return };
        let marked = mark(root, rel, &judges);
        if marked.is_null() {
            return;
        }
        // What is expected of all tenants' rows tells of them as counters do.
        if (judges.indexes)() == Indexes::All {
            estimate(root, shown_to((*marked).trusted), std::ptr::null());
            set_rows(root, rel);
        }
        let (all, has_joins) = ((*rel).indexlist, (*rel).has_eclass_joins);
        (*rel).indexlist = (*marked).indexes;
        (*rel).has_eclass_joins = has_joins && (*marked).has_joins;
        // By a distance: its operator would be called on the rows that a condition has led to.
        let ordered = (*marked).ordered;
        set_ordered(ordered, false);
        raw::create_index_paths(root, rel);
        set_ordered(ordered, true);
        (*rel).indexlist = all;
        (*rel).has_eclass_joins = has_joins;
        put_back(&*marked);
        planner::tag_pushed((*root).glob);
    }
}

/// Whether the plan is of a query inside one that locks rows: PostgreSQL runs it once more where a row has changed meanwhile, as a plan that
/// nobody is told of (`EvalPlanQualStart`).
unsafe fn may_be_run_again(root: *const pg_sys::PlannerInfo) -> bool {
    use pg_sys::CmdType::*;
    // SAFETY: the planner's own chain of queries.
    unsafe {
        let mut outer = (*root).parent_root;
        while let Some(query) = outer.as_ref() {
            let changes = matches!((*query.parse).commandType, CMD_UPDATE | CMD_DELETE | CMD_MERGE);
            if changes || !(*query.parse).rowMarks.is_null() {
                return true;
            }
            outer = query.parent_root;
        }
        false
    }
}

unsafe fn set_ordered(indexes: *mut pg_sys::List, is_ordered: bool) {
    // SAFETY: indexes of the table that is being planned.
    unsafe {
        for cell in entries(indexes) {
            (*cell.ptr_value.cast::<pg_sys::IndexOptInfo>()).amcanorderbyop = is_ordered;
        }
    }
}

/// The conditions that statistics may be shown to. To none where an operator could find the stack too small, which would tell of a value.
unsafe fn shown_to(trusted: *mut pg_sys::List) -> *mut pg_sys::List {
    // SAFETY: conditions of the table that is being planned.
    unsafe {
        let mut shown = std::ptr::null_mut();
        if pushed_scan::has_stack() {
            for cell in entries(trusted) {
                if leakproof::may_see_values(cell.ptr_value.cast()) {
                    shown = raw::lappend(shown, cell.ptr_value);
                }
            }
        }
        shown
    }
}

/// Estimates conditions, but for one, with the statistics that PostgreSQL does not show to their operators.
#[pg_guard]
unsafe extern "C-unwind" fn estimate(
    root: *mut pg_sys::PlannerInfo,
    shown: *mut pg_sys::List,
    but: *const pg_sys::RestrictInfo,
) {
    // SAFETY: conditions of the table, of which the planner keeps the estimates.
    unsafe {
        let _lent = statistics::lend(root);
        for cell in entries(shown) {
            let condition = cell.ptr_value.cast::<pg_sys::RestrictInfo>();
            if !std::ptr::eq(condition, but)
                && pg_sys::bms_membership((*condition).clause_relids) == pg_sys::BMS_Membership::BMS_SINGLETON
            {
                (*condition).norm_selec = -1.0;
                pg_sys::clause_selectivity(
                    root,
                    condition.cast(),
                    0,
                    pg_sys::JoinType::JOIN_INNER,
                    std::ptr::null_mut(),
                );
            }
        }
    }
}

/// Expects as many rows of a table as the estimates of its conditions tell now.
unsafe fn set_rows(root: *mut pg_sys::PlannerInfo, rel: *mut pg_sys::RelOptInfo) {
    // SAFETY: the planner's own.
    unsafe {
        // The rows of a parent are known by now, from those of its children.
        if (*rel).reloptkind != pg_sys::RelOptKind::RELOPT_BASEREL {
            return;
        }
        let before = (*rel).rows;
        pg_sys::set_baserel_size_estimates(root, rel);
        for cell in [(*rel).pathlist, (*rel).partial_pathlist].into_iter().flat_map(|paths| entries(paths)) {
            let path = cell.ptr_value.cast::<pg_sys::Path>();
            if (*path).param_info.is_null() && (*path).rows == before {
                (*path).rows = (*rel).rows;
            }
        }
    }
}
