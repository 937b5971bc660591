//! Conditions of a query as index conditions, behind the policies of a protected table.
//!
//! PostgreSQL evaluates a condition of the query before a policy only where each function in it is LEAKPROOF
//! (`restriction_is_securely_promotable`), and so for most operators reads all rows of the tenant. When it has made the paths of a table,
//! `set_rel_pathlist_hook` lets it make those by index once more, with the conditions marked as leakproof that the judge trusts, and
//! takes the mark away: filters keep the order that PostgreSQL gives them, after the policies.
//!
//! What an operator tells of a row besides its result is what must not get out. So a plan that was made with such a condition is tagged, and
//! where it runs, each scan of an index checks first that the stack is deep enough for any of the operators that are trusted: one that found
//! it too small would raise an error, and only where there is a row.

use std::ffi::{CStr, c_char, c_int, c_void};

use pgrx::{guc::GucEnum, pg_sys, prelude::*};

use super::{
    leakproof::{Trust, is_trusted},
    planner,
    statement::{entries, has_policy},
    xact,
};

mod raw {
    use super::*;
    unsafe extern "C-unwind" {
        pub fn create_index_paths(root: *mut pg_sys::PlannerInfo, rel: *mut pg_sys::RelOptInfo);
        // A macro of this name calls the function of the other since 16; pgrx has no binding for that.
        #[cfg_attr(not(feature = "pg15"), link_name = "planstate_tree_walker_impl")]
        pub fn planstate_tree_walker(
            state: *mut pg_sys::PlanState,
            walker: unsafe extern "C-unwind" fn(*mut pg_sys::PlanState, *mut c_void) -> bool,
            context: *mut c_void,
        ) -> bool;
        pub fn set_stack_base() -> *mut c_char;
        pub fn restore_stack_base(base: *mut c_char);
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

/// What the operators that are trusted need at most, with arguments of the size that is accepted: MatchText calls itself for each `%`.
const STACK_NEEDED: usize = 512 * 1024;

static mut JUDGES: Option<Judges> = None;
static mut PREVIOUS: pg_sys::set_rel_pathlist_hook_type = None;
static mut PREVIOUS_LOG: pg_sys::emit_log_hook_type = None;
/// The plan that is being made has been given a condition.
static mut HAS_PUSHED: bool = false;
/// A scan of a tagged plan is running.
static mut IS_SCANNING: bool = false;
/// Where the stack begins.
static mut STACK_BASE: usize = 0;

/// Called once, when the library is loaded.
pub fn init(judges: Judges) {
    // SAFETY: a backend is single-threaded.
    unsafe {
        JUDGES = Some(judges);
        PREVIOUS = pg_sys::set_rel_pathlist_hook;
        pg_sys::set_rel_pathlist_hook = Some(add_paths);
        PREVIOUS_LOG = pg_sys::emit_log_hook;
        pg_sys::emit_log_hook = Some(emit_log);
    }
    xact::listen(|event| {
        if event.is_end() {
            // SAFETY: backend-local. An error that is caught leaves the mark: the scan that it has ended may be inside another.
            unsafe { IS_SCANNING = false }
        }
    });
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

unsafe extern "C-unwind" fn add_paths(
    root: *mut pg_sys::PlannerInfo,
    rel: *mut pg_sys::RelOptInfo,
    number: pg_sys::Index,
    entry: *mut pg_sys::RangeTblEntry,
) {
    // SAFETY: PostgreSQL's own arguments. Frames of plain data, which an error may skip: what it leaves marked is never planned.
    unsafe {
        let may = (*root).qual_security_level > 0
            && (*entry).rtekind == pg_sys::RTEKind::RTE_RELATION
            && !(*rel).indexlist.is_null();
        let marked = if may { mark(root, rel) } else { std::ptr::null_mut() };
        if !marked.is_null() {
            let all = (*rel).indexlist;
            (*rel).indexlist = (*marked).indexes;
            raw::create_index_paths(root, rel);
            (*rel).indexlist = all;
            for cell in entries((*marked).conditions) {
                (*cell.ptr_value.cast::<pg_sys::RestrictInfo>()).leakproof = false;
            }
            HAS_PUSHED = true;
        }
        if let Some(previous) = PREVIOUS {
            previous(root, rel, number, entry);
        }
    }
}

struct Marked {
    conditions: *mut pg_sys::List,
    indexes: *mut pg_sys::List,
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
        // The parameter is the superuser's; and a stack that is too small for the check below would be one for all.
        if which == Indexes::None || stack_limit() < 2 * STACK_NEEDED {
            return none;
        }
        let all = [(*rel).baserestrictinfo, (*rel).joininfo];
        let waits =
            all.iter().any(|list| entries(*list).iter().any(|cell| waits(rel, cell.ptr_value.cast())));
        if !waits || !is_protected(root, rel, judges.policy) {
            return none;
        }
        let indexes = if which == Indexes::OfTenant { indexes_of_tenant(rel) } else { (*rel).indexlist };
        if indexes.is_null() {
            return none;
        }
        let mut conditions = std::ptr::null_mut();
        for list in all {
            for cell in entries(list) {
                mark_condition(rel, cell.ptr_value.cast(), judges.trust, &mut conditions);
            }
        }
        if conditions.is_null() {
            return none;
        }
        let marked = pg_sys::palloc0(size_of::<Marked>()).cast::<Marked>();
        *marked = Marked { conditions, indexes };
        marked
    }
}

/// Whether a condition must wait for the policies.
unsafe fn waits(rel: *const pg_sys::RelOptInfo, condition: *const pg_sys::RestrictInfo) -> bool {
    // SAFETY: a condition of the table.
    unsafe { !(*condition).leakproof && (*condition).security_level > (*rel).baserestrict_min_security }
}

/// Marks a condition that is trusted; of one that is made of alternatives, those that are.
unsafe fn mark_condition(
    rel: *const pg_sys::RelOptInfo,
    condition: *mut pg_sys::RestrictInfo,
    trust: Trust,
    marked: &mut *mut pg_sys::List,
) {
    // SAFETY: a condition of the table; alternatives are a tree of AND and OR over conditions.
    unsafe {
        if waits(rel, condition) && is_trusted((*condition).clause.cast(), trust) {
            (*condition).leakproof = true;
            *marked = pg_sys::lappend(*marked, condition.cast());
        }
        if !(*condition).orclause.is_null() {
            mark_alternatives(rel, (*condition).orclause.cast(), trust, marked);
        }
    }
}

unsafe fn mark_alternatives(
    rel: *const pg_sys::RelOptInfo,
    node: *mut pg_sys::Node,
    trust: Trust,
    marked: &mut *mut pg_sys::List,
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

/// The indexes that the policy's own condition leads to.
unsafe fn indexes_of_tenant(rel: *const pg_sys::RelOptInfo) -> *mut pg_sys::List {
    // SAFETY: conditions and indexes of the table; an index has as many keys as it says.
    unsafe {
        let mut columns = std::ptr::null_mut();
        for cell in entries((*rel).baserestrictinfo) {
            let condition = cell.ptr_value.cast::<pg_sys::RestrictInfo>();
            if (*condition).security_level == (*rel).baserestrict_min_security {
                pg_sys::pull_varattnos((*condition).clause.cast(), (*rel).relid, &mut columns);
            }
        }
        let mut found = std::ptr::null_mut();
        for cell in entries((*rel).indexlist) {
            let index = cell.ptr_value.cast::<pg_sys::IndexOptInfo>();
            let keys = std::slice::from_raw_parts((*index).indexkeys, (*index).nkeycolumns as usize);
            // A B-tree is entered by its first key; those that have no order, by any.
            let is_ordered = (*index).relam.to_u32() == pg_sys::BTREE_AM_OID.to_u32();
            let leads = keys.iter().take(if is_ordered { 1 } else { keys.len() }).any(|key| {
                *key != 0 && pg_sys::bms_is_member(*key - pg_sys::FirstLowInvalidHeapAttributeNumber, columns)
            });
            if leads {
                found = pg_sys::lappend(found, index.cast());
            }
        }
        found
    }
}

/// Bytes that the stack may have.
fn stack_limit() -> usize {
    // SAFETY: a plain read of a backend-local integer, which is not negative.
    unsafe { pg_sys::max_stack_depth as usize * 1024 }
}

/// Whether the stack has what the operators need.
#[inline]
unsafe fn has_stack() -> bool {
    // SAFETY: PostgreSQL's base is put back at once; a backend has one stack.
    unsafe {
        if STACK_BASE == 0 {
            let base = raw::set_stack_base();
            raw::restore_stack_base(base);
            STACK_BASE = base as usize;
        }
        let here = 0u8;
        STACK_BASE.abs_diff(std::ptr::addr_of!(here) as usize) + STACK_NEEDED <= stack_limit()
    }
}

/// A scan of an index, as PostgreSQL has it.
type Scan = unsafe extern "C-unwind" fn(*mut pg_sys::PlanState) -> *mut pg_sys::TupleTableSlot;
static mut INDEX_SCAN: Option<Scan> = None;
static mut INDEX_ONLY_SCAN: Option<Scan> = None;
static mut BITMAP_SCAN: Option<Scan> = None;

/// Prepares the scans of a tagged plan that is about to run.
pub unsafe fn starts(query: *mut pg_sys::QueryDesc) {
    // SAFETY: a query that has been started. Its subplans are reached from the nodes that call them.
    unsafe {
        if planner::is_pushed((*query).plannedstmt) && !(*query).planstate.is_null() {
            check_scans((*query).planstate, std::ptr::null_mut());
        }
    }
}

unsafe extern "C-unwind" fn check_scans(state: *mut pg_sys::PlanState, none: *mut c_void) -> bool {
    // SAFETY: PostgreSQL passes valid nodes; each kind has one function, which is kept and called by ours.
    unsafe {
        if state.is_null() {
            return false;
        }
        let (kept, ours): (*mut Option<Scan>, Scan) = match (*state).type_ {
            pg_sys::NodeTag::T_IndexScanState => (std::ptr::addr_of_mut!(INDEX_SCAN), index_scan),
            pg_sys::NodeTag::T_IndexOnlyScanState => {
                (std::ptr::addr_of_mut!(INDEX_ONLY_SCAN), index_only_scan)
            }
            pg_sys::NodeTag::T_BitmapHeapScanState => (std::ptr::addr_of_mut!(BITMAP_SCAN), bitmap_scan),
            _ => return raw::planstate_tree_walker(state, check_scans, none),
        };
        let its = (*state).ExecProcNodeReal;
        if its.is_some_and(|its| its as usize != ours as usize) {
            *kept = its;
            (*state).ExecProcNodeReal = Some(ours);
            // What PostgreSQL calls first, it lets find the real one.
            if (*state).ExecProcNode.map(|first| first as usize) == its.map(|its| its as usize) {
                (*state).ExecProcNode = Some(ours);
            }
        }
        raw::planstate_tree_walker(state, check_scans, none)
    }
}

#[inline]
unsafe fn scan(state: *mut pg_sys::PlanState, kept: Option<Scan>) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: the function that was there before; an error leaves the mark until the transaction ends.
    unsafe {
        if !has_stack() {
            too_deep();
        }
        let outer = IS_SCANNING;
        IS_SCANNING = true;
        let slot = match kept {
            Some(kept) => kept(state),
            None => std::ptr::null_mut(),
        };
        IS_SCANNING = outer;
        slot
    }
}

unsafe extern "C-unwind" fn index_scan(state: *mut pg_sys::PlanState) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: PostgreSQL's own argument.
    unsafe { scan(state, INDEX_SCAN) }
}

unsafe extern "C-unwind" fn index_only_scan(state: *mut pg_sys::PlanState) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: PostgreSQL's own argument.
    unsafe { scan(state, INDEX_ONLY_SCAN) }
}

unsafe extern "C-unwind" fn bitmap_scan(state: *mut pg_sys::PlanState) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: PostgreSQL's own argument.
    unsafe { scan(state, BITMAP_SCAN) }
}

/// As PostgreSQL says it.
#[cold]
#[pg_guard]
unsafe extern "C-unwind" fn too_deep() {
    ereport!(
        ERROR,
        PgSqlErrorCode::ERRCODE_STATEMENT_TOO_COMPLEX,
        "stack depth limit exceeded",
        "An index scan with tenancy.index_pushdown keeps 512 kB free for its operators. Call fewer functions inside each other, or increase the configuration parameter \"max_stack_depth\"."
    );
}

/// What a function says of a value that it parses, a client should hear of its own rows only.
const TOLD: [&CStr; 1] = [c"word is too long to be indexed"];

unsafe extern "C-unwind" fn emit_log(report: *mut pg_sys::ErrorData) {
    // SAFETY: a report that PostgreSQL is about to send, whose texts are C strings or null.
    unsafe {
        if IS_SCANNING && (*report).elevel < PgLogLevel::ERROR as c_int {
            let id = (*report).message_id;
            if !id.is_null() && TOLD.contains(&CStr::from_ptr(id)) {
                (*report).output_to_client = false;
            }
        }
        if let Some(previous) = PREVIOUS_LOG {
            previous(report);
        }
    }
}
