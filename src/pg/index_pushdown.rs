//! Conditions of a query as index conditions, behind the policies of a protected table.
//!
//! PostgreSQL evaluates a condition of the query before a policy only where each function in it is LEAKPROOF
//! (`restriction_is_securely_promotable`), and so for most operators reads all rows of the tenant. When it has made the paths of a table,
//! `set_rel_pathlist_hook` lets it make those by index once more, with the conditions marked as leakproof that the judge trusts, and
//! takes the mark away: filters keep the order that PostgreSQL gives them, after the policies.
//!
//! What an operator tells of a row besides its result is what must not get out; nor may anything else be called on a row, or because there
//! is one, that could tell. So conditions, indexes and policies that PostgreSQL itself would use are left out where they call what is not
//! trusted, and a plan that was made with such a condition is tagged: `pushed_scan` watches over its run.

use std::ffi::{CStr, c_void};

use pgrx::{guc::GucEnum, pg_sys, prelude::*};

use super::{
    leakproof::{As, Trust, function, holds},
    planner, pushed_scan,
    statement::{entries, has_policy},
    statistics,
};

mod raw {
    use super::*;
    unsafe extern "C-unwind" {
        pub fn create_index_paths(root: *mut pg_sys::PlannerInfo, rel: *mut pg_sys::RelOptInfo);
    }
}

/// Which indexes conditions are given to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Indexes {
    None,
    /// Those with the tenant column: they lead to rows of the tenant only.
    OfTenant,
    All,
}

const NAMES: [(&CStr, Indexes); 9] = [
    (c"off", Indexes::None),
    (c"tenant_indexes", Indexes::OfTenant),
    (c"on", Indexes::All),
    // The other words for a boolean, which are taken and not shown.
    (c"false", Indexes::None),
    (c"no", Indexes::None),
    (c"0", Indexes::None),
    (c"true", Indexes::All),
    (c"yes", Indexes::All),
    (c"1", Indexes::All),
];

static ENTRIES: Entries = {
    let none = pg_sys::config_enum_entry { name: std::ptr::null(), val: 0, hidden: false };
    let mut entries = [none; NAMES.len() + 1];
    let mut at = 0;
    while at < NAMES.len() {
        let (name, value) = NAMES[at];
        entries[at] = pg_sys::config_enum_entry { name: name.as_ptr(), val: value as i32, hidden: at > 2 };
        at += 1;
    }
    Entries(entries)
};

struct Entries([pg_sys::config_enum_entry; NAMES.len() + 1]);
// SAFETY: pointers to texts that live for good, which nobody writes.
unsafe impl Sync for Entries {}

// SAFETY: entries that live for good, and end with one without a name.
unsafe impl GucEnum for Indexes {
    fn from_ordinal(ordinal: i32) -> Indexes {
        let named = NAMES.iter().find(|(_, value)| *value as i32 == ordinal);
        named.map_or(Indexes::None, |(_, value)| *value)
    }

    fn to_ordinal(&self) -> i32 {
        *self as i32
    }

    const CONFIG_ENUM_ENTRY: *const pg_sys::config_enum_entry = ENTRIES.0.as_ptr();
}

#[derive(Clone, Copy)]
pub struct Judges {
    pub indexes: fn() -> Indexes,
    /// On what condition the function of an operator may be evaluated on rows that a policy hides, if on any.
    pub trust: Trust,
    /// The policy by which a table is known.
    pub policy: &'static CStr,
}

static mut JUDGES: Option<Judges> = None;
static mut PREVIOUS: pg_sys::set_rel_pathlist_hook_type = None;
/// The plan that is being made has been given a condition.
static mut HAS_PUSHED: bool = false;

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

/// Begins a plan; returns what `ends_plan` wants.
pub fn begins_plan() -> bool {
    // SAFETY: backend-local.
    unsafe { std::mem::replace(&mut *std::ptr::addr_of_mut!(HAS_PUSHED), false) }
}

/// Ends the plan, inside another or not; returns whether it was given a condition.
pub fn ends_plan(outer: bool) -> bool {
    // SAFETY: backend-local.
    unsafe { std::mem::replace(&mut *std::ptr::addr_of_mut!(HAS_PUSHED), outer) }
}

/// Whether conditions are given to any index.
pub fn is_on() -> bool {
    // SAFETY: written once, when the library is loaded.
    unsafe { JUDGES.is_some_and(|judges| (judges.indexes)() != Indexes::None) }
}

unsafe extern "C-unwind" fn add_paths(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    number: pg_sys::Index,
    entry: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: PostgreSQL's own arguments. Frames of plain data, which an error may skip: what it leaves marked is never planned.
    unsafe {
        let may = (*root).qual_security_level > 0
            && !may_be_run_again(root)
            && (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION
            // Where PostgreSQL makes such paths: not for a parent, whose indexes have no rows, nor for a sample, which an index does not know.
            && !(*entry).inh
            && (*entry).tablesample.is_null()
            // Nor for one in which there can be no row: what a path by an index applies to the rows has not been worked out
            // (`check_index_predicates`), and it would return all there are.
            && !pg_sys::is_dummy_rel(rel)
            && !(*rel).indexlist.is_null();
        let marked = if may { mark(root, rel) } else { std::ptr::null_mut() };
        if !marked.is_null() {
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
            put_back(rel, &*marked);
            HAS_PUSHED = true;
        }
        if let Some(previous) = PREVIOUS {
            previous(root, rel, number, entry);
        }
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

struct Marked {
    /// The conditions that are marked.
    trusted: *mut pg_sys::List,
    /// Those from which PostgreSQL's own mark is taken: what they call could tell of a row that the others have led to.
    others: *mut pg_sys::List,
    /// Conditions with alternatives of which one is such, and those alternatives: PostgreSQL 18 gathers them anew.
    hidden: *mut pg_sys::List,
    alternatives: *mut pg_sys::List,
    indexes: *mut pg_sys::List,
    /// Those of them that can return rows in the order of an operator.
    ordered: *mut pg_sys::List,
    /// Whether columns may be looked up that are equal to those of other tables.
    has_joins: bool,
}

/// Takes back what was marked.
unsafe fn put_back(rel: *const pg_sys::RelOptInfo, marked: &Marked) {
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
        // A filter that is leakproof and cheap would come before the policies (`order_qual_clauses`), and so on the rows that the others have
        // led to, with all that it computes a value by.
        let lists = if marked.trusted.is_null() {
            [std::ptr::null_mut(); 2]
        } else {
            [(*rel).baserestrictinfo, (*rel).joininfo]
        };
        for cell in lists.into_iter().flat_map(|list| entries(list)) {
            let condition = cell.ptr_value.cast::<pg_sys::RestrictInfo>();
            if is_late(rel, condition) && !planner::is_quiet((*condition).clause.cast()) {
                (*condition).leakproof = false;
            }
        }
    }
}

/// Marks the conditions of a protected table that are trusted; null where there is none.
#[pg_guard]
unsafe extern "C-unwind" fn mark(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
) -> *mut Marked {
    // SAFETY: as above; what is returned is in the memory of the planner.
    unsafe {
        let none = std::ptr::null_mut();
        let Some(judges) = JUDGES else { return none };
        let which = (judges.indexes)();
        // The parameter is the superuser's.
        if which == Indexes::None || !pushed_scan::can_keep_stack() {
            return none;
        }
        let all = [(*rel).baserestrictinfo, (*rel).joininfo];
        let waits =
            all.iter().any(|list| entries(*list).iter().any(|cell| waits(rel, cell.ptr_value.cast())));
        if !waits
            || !is_protected(root, rel, judges.policy)
            || !is_first(rel, judges.trust)
            || !has_quiet_joins(root, rel)
        {
            return none;
        }
        let indexes = usable_indexes(rel, which, judges.trust);
        if indexes.is_null() {
            return none;
        }
        let mut ordered = std::ptr::null_mut();
        for cell in entries(indexes) {
            if (*cell.ptr_value.cast::<pg_sys::IndexOptInfo>()).amcanorderbyop {
                ordered = pg_sys::lappend(ordered, cell.ptr_value);
            }
        }
        let mut marked = Marked {
            trusted: std::ptr::null_mut(),
            others: std::ptr::null_mut(),
            hidden: std::ptr::null_mut(),
            alternatives: std::ptr::null_mut(),
            indexes,
            ordered,
            has_joins: are_plain(root, rel, judges.trust),
        };
        for list in all {
            for cell in entries(list) {
                mark_condition(rel, cell.ptr_value.cast(), judges.trust, &mut marked);
            }
        }
        if marked.trusted.is_null() {
            put_back(rel, &marked);
            return none;
        }
        // What is expected of all tenants' rows tells of them as counters do.
        if which == Indexes::All {
            estimate(root, rel, marked.trusted);
        }
        let kept = pg_sys::palloc0(size_of::<Marked>()).cast::<Marked>();
        *kept = marked;
        kept
    }
}

/// Estimates conditions that are trusted once more, with the statistics that PostgreSQL has not shown to their operators.
unsafe fn estimate(root: *mut pg_sys::PlannerInfo, rel: *mut pg_sys::RelOptInfo, trusted: *mut pg_sys::List) {
    // SAFETY: conditions of the table, of which the planner keeps the estimates.
    unsafe {
        let lent = statistics::lend();
        for cell in entries(trusted) {
            let condition = cell.ptr_value.cast::<pg_sys::RestrictInfo>();
            if pg_sys::bms_membership((*condition).clause_relids) == pg_sys::BMS_Membership::BMS_SINGLETON {
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
        drop(lent);
        // The rows of a parent are known by now, from those of its children.
        if (*rel).reloptkind == pg_sys::RelOptKind::RELOPT_BASEREL {
            let before = (*rel).rows;
            pg_sys::set_baserel_size_estimates(root, rel);
            for cell in
                [(*rel).pathlist, (*rel).partial_pathlist].into_iter().flat_map(|paths| entries(paths))
            {
                let path = cell.ptr_value.cast::<pg_sys::Path>();
                if (*path).param_info.is_null() && (*path).rows == before {
                    (*path).rows = (*rel).rows;
                }
            }
        }
    }
}

/// Whether a condition must wait for the policies, unless it is leakproof.
unsafe fn is_late(rel: *const pg_sys::RelOptInfo, condition: *const pg_sys::RestrictInfo) -> bool {
    // SAFETY: a condition of the table.
    unsafe { (*condition).security_level > (*rel).baserestrict_min_security }
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
    trust: Trust,
    marked: &mut Marked,
) {
    // SAFETY: a condition of the table; alternatives are a tree of AND and OR over conditions.
    unsafe {
        if is_late(rel, condition) {
            let is_trusted = holds((*condition).clause.cast(), trust, As::Condition);
            if is_trusted && !(*condition).leakproof {
                marked.trusted = pg_sys::lappend(marked.trusted, condition.cast());
            } else if !is_trusted && (*condition).leakproof {
                marked.others = pg_sys::lappend(marked.others, condition.cast());
            }
            (*condition).leakproof = is_trusted;
        }
        let alternatives = (*condition).orclause;
        if !alternatives.is_null() {
            let before = entries(marked.others).len();
            mark_alternatives(rel, alternatives.cast(), trust, marked);
            if entries(marked.others).len() > before {
                marked.hidden = pg_sys::lappend(marked.hidden, condition.cast());
                marked.alternatives = pg_sys::lappend(marked.alternatives, alternatives.cast());
                (*condition).orclause = std::ptr::null_mut();
            }
        }
    }
}

unsafe fn mark_alternatives(
    rel: *const pg_sys::RelOptInfo,
    node: *mut pg_sys::Node,
    trust: Trust,
    marked: &mut Marked,
) {
    // SAFETY: as above.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_BoolExpr => {
                for cell in entries((*node.cast::<pg_sys::BoolExpr>()).args) {
                    mark_alternatives(rel, cell.ptr_value.cast(), trust, marked);
                }
            }
            pg_sys::NodeTag::T_RestrictInfo => mark_condition(rel, node.cast(), trust, marked),
            _ => {}
        }
    }
}

/// Whether the policy that asks for the tenant comes before all that could tell of a row: others come first by their names.
unsafe fn is_first(rel: *const pg_sys::RelOptInfo, trust: Trust) -> bool {
    unsafe extern "C-unwind" fn is_ours(number: pg_sys::Oid, _: *mut c_void) -> bool {
        function(number).is_some_and(|function| function.is_in(b"tenancy"))
    }
    // SAFETY: conditions of the table.
    unsafe {
        let conditions = || {
            entries((*rel).baserestrictinfo).iter().map(|cell| cell.ptr_value.cast::<pg_sys::RestrictInfo>())
        };
        let ours = conditions()
            .filter(|condition| planner::calls((**condition).clause.cast(), is_ours))
            .map(|condition| (*condition).security_level)
            .min();
        ours.is_some_and(|ours| {
            conditions()
                .filter(|condition| (**condition).security_level <= ours)
                .all(|condition| holds((*condition).clause.cast(), trust, As::Condition))
        })
    }
}

/// Whether what the columns of a table are equal to calls only what is trusted.
unsafe fn are_plain(root: *const pg_sys::PlannerInfo, rel: *const pg_sys::RelOptInfo, trust: Trust) -> bool {
    // SAFETY: expressions of the query.
    unsafe { all_equal(root, rel, |expression| holds(expression, trust, As::Key)) }
}

/// Whether nothing is called for a value that columns are equal to in a condition that PostgreSQL takes for leakproof: it makes such
/// conditions where a path asks for them, and a cheap one comes before the policies.
unsafe fn has_quiet_joins(root: *const pg_sys::PlannerInfo, rel: *const pg_sys::RelOptInfo) -> bool {
    // SAFETY: expressions of the query.
    unsafe {
        all_equal(root, rel, |expression| {
            planner::is_quiet(expression) || pg_sys::contain_leaked_vars(expression)
        })
    }
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
                        || pg_sys::bms_overlap((**class).ec_relids, (*rel).relids))
            })
            .flat_map(|class| entries((*class).ec_members))
            .map(|cell| cell.ptr_value.cast::<pg_sys::EquivalenceMember>())
            .all(|member| test((*member).em_expr.cast()))
    }
}

/// Whether a table, or one that it is a partition or child of, is known by the policy.
unsafe fn is_protected(
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

/// The indexes that conditions are given to.
unsafe fn usable_indexes(rel: *const pg_sys::RelOptInfo, which: Indexes, trust: Trust) -> *mut pg_sys::List {
    // SAFETY: indexes of the table, which is locked.
    unsafe {
        let of_tenant =
            if which == Indexes::OfTenant { columns_of_tenant(rel) } else { std::ptr::null_mut() };
        let mut found = std::ptr::null_mut();
        for cell in entries((*rel).indexlist) {
            let index = cell.ptr_value.cast::<pg_sys::IndexOptInfo>();
            // All that is asked of the rows: the policies are among it.
            if (*index).indrestrictinfo.is_null() {
                continue;
            }
            if is_calm(index, trust) && (which == Indexes::All || leads_to(index, of_tenant)) {
                found = pg_sys::lappend(found, index.cast());
            }
        }
        found
    }
}

/// SP-GiST's operator family for network addresses: an index in which both IPv4 and IPv6 are loses rows (`inet_spg_picksplit` looks at as many
/// addresses as it takes to see that they have no bits in common), and which, depends on those of others.
const NETWORK_SPGIST_FAMILY: u32 = 3794;

/// Whether nothing is called because of an index that could tell of a row: not its access method, nor the functions of its operator
/// classes, nor its predicate. Where a page is looked at as a whole, the key of a partial index is computed of rows that it does not hold.
unsafe fn is_calm(index: *const pg_sys::IndexOptInfo, trust: Trust) -> bool {
    let is_built_in = |number: pg_sys::Oid| number.to_u32() < pg_sys::FirstNormalObjectId;
    // SAFETY: an index has as many keys as it says.
    unsafe {
        let keys = (*index).nkeycolumns as usize;
        let of = |numbers: *const pg_sys::Oid| std::slice::from_raw_parts(numbers, keys).iter().copied();
        is_built_in((*index).relam)
            && of((*index).opfamily).all(|family| family.to_u32() != NETWORK_SPGIST_FAMILY)
            && (of((*index).opfamily).chain(of((*index).opcintype)).all(is_built_in)
                || is_in_c((*index).indexoid))
            && ((*index).indpred.is_null()
                || holds((*index).indpred.cast(), trust, As::Key)
                    && holds((*index).indexprs.cast(), trust, As::AnyRow))
    }
}

/// Whether the functions of the operator classes of an index are in C, as a superuser's own may be no less than what is trusted.
unsafe fn is_in_c(index: pg_sys::Oid) -> bool {
    // SAFETY: the planner has the index locked; its relation has as many functions as its access method says for each key.
    unsafe {
        let relation = pg_sys::index_open(index, pg_sys::NoLock as pg_sys::LOCKMODE);
        let each = (*(*relation).rd_indam).amsupport as usize;
        let count = (*(*relation).rd_index).indnkeyatts as usize * each;
        let functions = std::slice::from_raw_parts((*relation).rd_support, count);
        let found = functions
            .iter()
            .filter(|number| **number != pg_sys::InvalidOid)
            .all(|number| function(*number).is_some_and(|function| function.symbol.is_some()));
        pg_sys::index_close(relation, pg_sys::NoLock as pg_sys::LOCKMODE);
        found
    }
}

/// The columns that the policy's own condition is about.
unsafe fn columns_of_tenant(rel: *const pg_sys::RelOptInfo) -> *mut pg_sys::Bitmapset {
    // SAFETY: conditions of the table.
    unsafe {
        let mut columns = std::ptr::null_mut();
        for cell in entries((*rel).baserestrictinfo) {
            let condition = cell.ptr_value.cast::<pg_sys::RestrictInfo>();
            if !is_late(rel, condition) {
                pg_sys::pull_varattnos((*condition).clause.cast(), (*rel).relid, &mut columns);
            }
        }
        columns
    }
}

/// Whether an index leads to rows with certain values of columns.
unsafe fn leads_to(index: *const pg_sys::IndexOptInfo, columns: *const pg_sys::Bitmapset) -> bool {
    // SAFETY: an index has as many keys as it says.
    unsafe {
        let keys = std::slice::from_raw_parts((*index).indexkeys, (*index).nkeycolumns as usize);
        // A B-tree is entered by its first key; those that have no order, by any.
        let is_ordered = (*index).relam.to_u32() == pg_sys::BTREE_AM_OID.to_u32();
        // It leads to ranges of pages, whatever rows these have.
        if (*index).relam.to_u32() == pg_sys::BRIN_AM_OID.to_u32() {
            return false;
        }
        keys.iter().take(if is_ordered { 1 } else { keys.len() }).any(|key| {
            *key != 0 && pg_sys::bms_is_member(*key - pg_sys::FirstLowInvalidHeapAttributeNumber, columns)
        })
    }
}
