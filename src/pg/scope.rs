//! `tenancy.cross_tenant`: its hooks, and `in_scope()`, which stands in the plans of what runs in a scope.
//!
//! A parameter, because PostgreSQL rolls parameters back with savepoints and gives them to parallel workers. Nobody sets this one but the
//! functions of the extension; RESET, DISCARD ALL and the end of a transaction leave the scope as they leave a tenant.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::addr_of_mut;

use pgrx::{
    guc::{GucContext, GucFlags, GucRegistry, GucSetting},
    pg_sys,
    prelude::*,
};

use super::guc::{self, Assigned};
use super::{planner, running, xact};

/// A value as its hooks keep it; plain bytes, because PostgreSQL frees it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Given {
    /// As a tenant would be assigned; its id is the scope's.
    pub assigned: Assigned,
    pub number: i64,
    pub is_read_only: bool,
}

/// Judges a value that is not empty; the third argument is false where it is only tried.
pub type Check = guc::Judge<Given>;
/// Raises unless the session is in the scope of that number.
pub type Confirm = fn(i64);

static mut CHECK: Option<Check> = None;
static mut CONFIRM: Option<Confirm> = None;
static mut GIVEN: Option<Given> = None;
static mut TEXT: Option<*mut pg_sys::config_generic> = None;
/// The scope that was confirmed, until something may have changed; zero where none was.
static mut CONFIRMED: i64 = 0;

/// Registers the judges. Called before the parameter is defined.
pub fn init(check: Check, confirm: Confirm) {
    // SAFETY: a backend is single-threaded; this runs once, when the library is loaded.
    unsafe {
        CHECK = Some(check);
        CONFIRM = Some(confirm);
    }
}

/// The scope that the session is in, if it is in one.
pub fn given() -> Option<Given> {
    // SAFETY: a copy of backend-local plain data.
    unsafe { *addr_of_mut!(GIVEN) }
}

/// Whether it is in one.
#[inline]
pub fn is_given() -> bool {
    // SAFETY: reads backend-local plain data.
    unsafe { (*addr_of_mut!(GIVEN)).is_some() }
}

pub(super) fn assigned() -> Option<Assigned> {
    given().map(|given| given.assigned)
}

/// Makes the next use ask anew. Safe anywhere: no allocation, no error.
pub(super) fn forget() {
    // SAFETY: backend-local.
    unsafe { *addr_of_mut!(CONFIRMED) = 0 }
}

/// Calls `with` on what the parameter says.
pub fn with_text<T>(with: impl FnOnce(&[u8]) -> T) -> T {
    // SAFETY: the entry lives as long as the backend; its value stays as it is while `with`, which sets nothing, runs.
    unsafe {
        let value =
            TEXT.map_or(std::ptr::null_mut(), |entry| *(*entry.cast::<pg_sys::config_string>()).variable);
        with(guc::bytes_of(value))
    }
}

/// Whether another scope, or none, is in force when the transaction has committed.
pub(super) fn ends_with_transaction() -> bool {
    // SAFETY: written once, at load.
    unsafe { guc::is_restored(TEXT) }
}

/// The transaction that was last in a scope for reading only.
static mut READING: u64 = 0;

/// In a scope that is for reading only, makes the transaction read-only until it ends, by PostgreSQL's own means: what was read in the
/// scope is written nowhere but to temporary tables, after it neither. Raises nothing.
#[inline]
pub fn keep_from_writing() {
    // SAFETY: backend-local; `StartTransaction` sets it so for the next transaction, and the end of a subtransaction to what it was
    // when that began: so it is set again.
    unsafe {
        if (*addr_of_mut!(GIVEN)).is_some_and(|given| given.is_read_only) {
            READING = xact::number();
        }
        if READING == xact::number() {
            pg_sys::XactReadOnly = true;
        }
    }
}

/// Is told of what the client runs in a scope.
#[derive(Clone, Copy)]
pub struct Listener {
    /// Of the text of a statement that is about to run.
    pub began: fn(&[u8]),
    /// How many rows it was.
    pub ended: fn(u64),
}

static mut LISTENER: Option<Listener> = None;
/// The query that was told of last.
static mut TOLD: *const pg_sys::QueryDesc = std::ptr::null();

/// Sets who is told.
pub fn listen(listener: Listener) {
    // SAFETY: a backend is single-threaded; this runs once, when the library is loaded.
    unsafe { LISTENER = Some(listener) }
}

/// Tells of a query that is about to be started, or to run, in a scope.
#[pg_guard]
pub(super) unsafe extern "C-unwind" fn query_begins(query: *const pg_sys::QueryDesc, depth: usize) -> bool {
    if super::in_parallel_worker() || running::is_inside_told(depth) {
        return false;
    }
    running::note_told(depth);
    // SAFETY: a query that is about to be started or run. LISTENER is only written at load.
    unsafe {
        TOLD = query;
        LISTENER.is_some_and(|listener| {
            (listener.began)(own_text((*query).plannedstmt, (*query).sourceText));
            true
        })
    }
}

/// The same where it is about to run, unless it was told of when it was started; returns whether its rows are to be told of.
pub(super) unsafe fn query_runs(query: *const pg_sys::QueryDesc, depth: usize) -> bool {
    // SAFETY: as above.
    unsafe {
        if TOLD == query {
            running::note_told(depth);
            return true;
        }
        query_begins(query, depth)
    }
}

/// Forgets the query that was told of last where another one takes its place in memory: it was never run, or an error ended it.
#[inline]
pub(super) fn forget_query(query: *const pg_sys::QueryDesc) {
    // SAFETY: backend-local; the pointers are only compared.
    unsafe {
        if TOLD == query {
            TOLD = std::ptr::null();
        }
    }
}

/// Tells how many rows it has returned or written in this run.
#[pg_guard]
pub(super) unsafe extern "C-unwind" fn query_ended(query: *const pg_sys::QueryDesc) {
    // SAFETY: a query whose execution has not ended. LISTENER is only written at load.
    unsafe {
        TOLD = std::ptr::null();
        if let Some(listener) = LISTENER {
            (listener.ended)((*(*query).estate).es_processed);
        }
    }
}

/// Tells of a command that is no query. What ends or begins transactions, sets or shows parameters, reads and writes nothing.
#[pg_guard]
pub(super) unsafe extern "C-unwind" fn command_begins(
    statement: *const pg_sys::PlannedStmt,
    text: *const c_char,
) {
    use pg_sys::NodeTag::*;
    // SAFETY: a valid statement, and the text that it is part of. LISTENER is only written at load.
    unsafe {
        let tag = (*(*statement).utilityStmt).type_;
        let is_idle =
            matches!(tag, T_TransactionStmt | T_VariableSetStmt | T_VariableShowStmt | T_DiscardStmt);
        if let Some(listener) = LISTENER
            && !is_idle
            && !running::is_inside_told(usize::MAX)
        {
            (listener.began)(own_text(statement, text));
        }
    }
}

/// The part of a text that is the statement's own.
unsafe fn own_text<'a>(statement: *const pg_sys::PlannedStmt, text: *const c_char) -> &'a [u8] {
    // SAFETY: a valid statement; the text lives as long as it runs.
    let (whole, from, length) =
        unsafe { (super::guc::bytes_of(text), (*statement).stmt_location, (*statement).stmt_len) };
    let part = usize::try_from(from).ok().and_then(|from| whole.get(from..)).unwrap_or(whole);
    let length = usize::try_from(length).ok().filter(|length| *length > 0);
    length.and_then(|length| part.get(..length)).unwrap_or(part)
}

/// Defines the parameter.
pub fn define(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
) {
    let flags = GucFlags::NO_SHOW_ALL | GucFlags::DISALLOW_IN_FILE;
    // SAFETY: the hooks have the signatures PostgreSQL asks for.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name,
            short,
            long,
            setting,
            GucContext::Userset,
            flags,
            Some(check),
            Some(assign),
            None,
        );
        TEXT = guc::find(name);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn check(
    value: *mut *mut c_char,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: PostgreSQL's arguments, passed on; CHECK is written once, at load.
    unsafe { guc::judge(value, extra, source, CHECK) }
}

#[pg_guard]
unsafe extern "C-unwind" fn assign(_value: *const c_char, extra: *mut c_void) {
    // SAFETY: `extra` is null or what `check` wrote; it is copied, because PostgreSQL frees it.
    unsafe {
        let given = extra.cast::<Given>().as_ref().copied();
        let is_change = given.is_some() || is_given();
        *addr_of_mut!(GIVEN) = given;
        guc::tell_assigned();
        if is_change {
            // What was planned for a tenant says so, and what was planned for a scope names its tenants.
            planner::drop_plans();
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn confirm(number: i64) {
    // SAFETY: backend-local; CONFIRM is written once, at load.
    unsafe {
        if let Some(confirm) = CONFIRM {
            confirm(number);
            *addr_of_mut!(CONFIRMED) = number;
        }
    }
}

// SAFETY (of the name): no other library exports symbols with the prefix `tenancy_`.
/// Called by PostgreSQL with a valid call frame and a number that is not null.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn tenancy_in_scope(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the function is strict and has one argument.
    unsafe {
        running::note_use();
        let number = (*fcinfo).args.as_slice(1)[0].value.value() as i64;
        if *addr_of_mut!(CONFIRMED) != number {
            confirm(number);
        }
        pg_sys::Datum::from(*addr_of_mut!(CONFIRMED) == number)
    }
}

super::version_1!(pg_finfo_tenancy_in_scope);
