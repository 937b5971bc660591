//! The run of a plan in which conditions have reached an index before the policies.
//!
//! There, operators are called on rows that a policy hides, so whatever comes out of a scan besides its rows must be the same whether there
//! are any. An operator that found the stack too small would raise an error, so each scan checks first that it is deep enough for all that
//! are trusted. The values of a second index are computed where the first has found a row, so those of all are computed before. A limit on
//! what a GIN index returns would take rows of the tenant where there are many of others, so there is none. And what PostgreSQL reports
//! of a row, as a notice or at the levels of debugging, goes to the server's log and not to the client.

use std::ffi::{CStr, c_char, c_int, c_void};

use pgrx::{pg_sys, prelude::*};

use super::{index_pushdown, planner, xact};

pub(super) mod raw {
    use super::*;
    pub use crate::pg::raw::set_config_option;
    unsafe extern "C-unwind" {
        // A macro of this name calls the function of the other since 16; pgrx has no binding for that.
        #[cfg_attr(not(feature = "pg15"), link_name = "planstate_tree_walker_impl")]
        pub fn planstate_tree_walker(
            state: *mut pg_sys::PlanState,
            walker: unsafe extern "C-unwind" fn(*mut pg_sys::PlanState, *mut c_void) -> bool,
            context: *mut c_void,
        ) -> bool;
        pub fn set_stack_base() -> *mut c_char;
        pub fn restore_stack_base(base: *mut c_char);
        pub fn ExecReScan(state: *mut pg_sys::PlanState);
        pub fn NewGUCNestLevel() -> c_int;
        pub fn AtEOXact_GUC(is_commit: bool, level: c_int);
    }
}

/// What the operators that are trusted need at most, with arguments of the size that is accepted: MatchText calls itself for each `%`.
const STACK_NEEDED: usize = 512 * 1024;

static mut PREVIOUS: pg_sys::emit_log_hook_type = None;
/// A scan of a tagged plan is running.
static mut IS_SCANNING: bool = false;
/// What `log_min_messages` is where it has been lowered, so that the hook is asked about what a client would be sent.
static mut LOG_LEVEL: Option<c_int> = None;
/// Where the stack begins.
static mut STACK_BASE: usize = 0;

/// Called once, when the library is loaded.
pub fn init() {
    // SAFETY: a backend is single-threaded.
    unsafe {
        PREVIOUS = pg_sys::emit_log_hook;
        pg_sys::emit_log_hook = Some(emit_log);
    }
    xact::listen(|event| {
        if event.is_end() {
            // SAFETY: backend-local. An error that is caught leaves the mark: the scan that it has ended may be inside another.
            unsafe {
                IS_SCANNING = false;
                restore_log_level();
            }
        }
    });
}

/// Whether the stack may be so deep that what operators need can be kept free for them: if not, every scan would be one too deep.
pub fn can_keep_stack() -> bool {
    stack_limit() >= 2 * STACK_NEEDED
}

/// Bytes that the stack may have.
fn stack_limit() -> usize {
    // SAFETY: a plain read of a backend-local integer, which is not negative.
    unsafe { pg_sys::max_stack_depth as usize * 1024 }
}

/// Whether the stack has what the operators need.
#[inline]
pub unsafe fn has_stack() -> bool {
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
        // A worker is not given the mark with its part of the plan.
        let is_pushed = planner::is_pushed((*query).plannedstmt)
            || super::in_parallel_worker() && index_pushdown::is_on() && can_keep_stack();
        if is_pushed && !(*query).planstate.is_null() {
            watch((*query).planstate, std::ptr::null_mut());
        }
    }
}

unsafe extern "C-unwind" fn watch(state: *mut pg_sys::PlanState, none: *mut c_void) -> bool {
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
            _ => return raw::planstate_tree_walker(state, watch, none),
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
        raw::planstate_tree_walker(state, watch, none)
    }
}

#[inline]
unsafe fn scan(state: *mut pg_sys::PlanState, kept: Option<Scan>) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: the function that was there before; an error leaves the marks until the transaction ends.
    unsafe {
        if !has_stack() {
            too_deep();
        }
        let outer = IS_SCANNING;
        IS_SCANNING = true;
        lower_log_level();
        let slot = match kept {
            Some(kept) => kept(state),
            None => std::ptr::null_mut(),
        };
        IS_SCANNING = outer;
        if !outer {
            restore_log_level();
        }
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
    // SAFETY: PostgreSQL's own argument. A change of a parameter ends here, or with the transaction that an error ends.
    unsafe {
        if (*state.cast::<pg_sys::BitmapHeapScanState>()).initialized {
            return scan(state, BITMAP_SCAN);
        }
        if pg_sys::GinFuzzySearchLimit == 0 {
            return scan(state, Some(first_bitmap_scan));
        }
        let level = raw::NewGUCNestLevel();
        raw::set_config_option(
            c"gin_fuzzy_search_limit".as_ptr(),
            c"0".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
        let slot = scan(state, Some(first_bitmap_scan));
        raw::AtEOXact_GUC(false, level);
        slot
    }
}

/// The call that makes the bitmap.
unsafe extern "C-unwind" fn first_bitmap_scan(state: *mut pg_sys::PlanState) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: PostgreSQL's own argument; the plan below a scan of a bitmap makes one.
    unsafe {
        compute_keys((*state).lefttree);
        BITMAP_SCAN.map_or(std::ptr::null_mut(), |its| its(state))
    }
}

/// Computes what indexes are asked for, as PostgreSQL does when it comes to each.
unsafe fn compute_keys(state: *mut pg_sys::PlanState) {
    // SAFETY: the tag of a node tells its type; it has as many plans as it says.
    unsafe {
        if !(*state).chgParam.is_null() {
            raw::ExecReScan(state);
        }
        let each = |plans: *mut *mut pg_sys::PlanState, count: c_int| {
            for place in 0..count as usize {
                compute_keys(*plans.add(place));
            }
        };
        match (*state).type_ {
            pg_sys::NodeTag::T_BitmapAndState => {
                let state = state.cast::<pg_sys::BitmapAndState>();
                each((*state).bitmapplans, (*state).nplans);
            }
            pg_sys::NodeTag::T_BitmapOrState => {
                let state = state.cast::<pg_sys::BitmapOrState>();
                each((*state).bitmapplans, (*state).nplans);
            }
            pg_sys::NodeTag::T_BitmapIndexScanState => {
                let scan = state.cast::<pg_sys::BitmapIndexScanState>();
                let count = (*scan).biss_NumRuntimeKeys + (*scan).biss_NumArrayKeys;
                if count > 0 && !(*scan).biss_RuntimeKeysReady {
                    raw::ExecReScan(state);
                }
            }
            _ => {}
        }
    }
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

/// What PostgreSQL says of a value that is looked at, or when a value first asks for something.
const TOLD: [&CStr; 6] = [
    c"word is too long to be indexed",
    c"text-search query contains only stop words or doesn't contain lexemes, ignored",
    c"text-search query doesn't contain lexemes: \"%s\"",
    c"collation \"%s\" has version mismatch",
    c"ambiguous hstore value resolved as hstore-new",
    c"ambiguous hstore value resolved as hstore-old",
];

/// Whether a scan may say that of a row. What a function of a user's own raises, it does where a row has passed the policies.
unsafe fn is_told(report: *const pg_sys::ErrorData) -> bool {
    // SAFETY: a report whose texts are C strings or null.
    unsafe {
        let id = (*report).message_id;
        let id = if id.is_null() { c"" } else { CStr::from_ptr(id) };
        match (*report).elevel {
            level if level <= PgLogLevel::LOG_SERVER_ONLY as c_int => id != c"%s",
            level => level < PgLogLevel::ERROR as c_int && TOLD.contains(&id),
        }
    }
}

/// PostgreSQL asks this hook about what goes to the log only.
unsafe extern "C-unwind" fn emit_log(report: *mut pg_sys::ErrorData) {
    // SAFETY: a report that PostgreSQL is about to send.
    unsafe {
        if IS_SCANNING && is_told(report) {
            (*report).output_to_client = false;
        }
        if LOG_LEVEL.is_some_and(|level| !is_logged((*report).elevel, level)) {
            (*report).output_to_server = false;
        } else if let Some(previous) = PREVIOUS {
            previous(report);
        }
    }
}

/// Whether a message goes to the log: as `is_log_level_output` has it, for which LOG is above WARNING.
fn is_logged(level: c_int, least: c_int) -> bool {
    let [log, to_log_only, error, fatal] =
        [PgLogLevel::LOG, PgLogLevel::LOG_SERVER_ONLY, PgLogLevel::ERROR, PgLogLevel::FATAL]
            .map(|level| level as c_int);
    if level == log || level == to_log_only {
        least == log || least <= error
    } else if least == log {
        level >= fatal
    } else {
        level >= least
    }
}

/// Lowers `log_min_messages`, so that all messages come to the hook: what the client is sent may change while the scan goes on.
unsafe fn lower_log_level() {
    // SAFETY: backend-local integers.
    unsafe {
        let wanted = PgLogLevel::DEBUG5 as c_int;
        if !is_logged(wanted, pg_sys::log_min_messages) {
            // It may be lowered already, by a scan that an error has ended.
            LOG_LEVEL = LOG_LEVEL.or(Some(pg_sys::log_min_messages));
            pg_sys::log_min_messages = wanted;
        }
    }
}

/// Puts it back.
unsafe fn restore_log_level() {
    // SAFETY: as above.
    unsafe {
        if let Some(level) = LOG_LEVEL {
            LOG_LEVEL = None;
            pg_sys::log_min_messages = level;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logged_as_postgresql_does() {
        let [debug, log, notice, warning, error, fatal] = [
            PgLogLevel::DEBUG1,
            PgLogLevel::LOG,
            PgLogLevel::NOTICE,
            PgLogLevel::WARNING,
            PgLogLevel::ERROR,
            PgLogLevel::FATAL,
        ]
        .map(|level| level as c_int);
        assert!(is_logged(log, warning) && is_logged(log, error) && !is_logged(log, fatal));
        assert!(is_logged(fatal, log) && !is_logged(error, log));
        assert!(is_logged(warning, warning) && !is_logged(notice, warning) && is_logged(notice, debug));
    }
}
