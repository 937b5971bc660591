//! How PostgreSQL is called: the only home of `unsafe`, of `pg_sys` and of version differences.
//!
//! What leaves this module is plain data. Each file begins with the PostgreSQL rules that shaped it.

/// Tells PostgreSQL that the function of that name uses the version-1 calling convention.
macro_rules! version_1 {
    ($info:ident) => {
        // SAFETY (of the name): PostgreSQL looks it up beside the function; no other library exports it.
        #[doc(hidden)]
        #[unsafe(no_mangle)]
        pub extern "C" fn $info() -> &'static pgrx::pg_sys::Pg_finfo_record {
            static V1: pgrx::pg_sys::Pg_finfo_record = pgrx::pg_sys::Pg_finfo_record { api_version: 1 };
            &V1
        }
    };
}
use version_1;

pub mod accessor;
pub mod activity;
mod bypass_guard;
mod checks;
pub mod command;
mod default;
pub mod distribute;
pub mod dropping;
pub mod each;
mod fixed;
pub mod guc;
pub mod hook;
pub mod index_pushdown;
pub mod insert;
pub mod inval;
mod late;
pub mod leakproof;
pub mod lock;
pub mod member;
pub mod moved;
pub mod moving;
pub mod notify;
pub mod part;
pub mod planner;
pub mod policies;
pub mod portal;
pub mod pushed_scan;
pub mod query;
mod raw;
pub mod rewrite;
pub mod row_trigger;
pub mod running;
pub mod scan;
pub mod scope;
pub mod setter;
pub mod shmem;
pub mod statement;
pub mod statistics;
pub mod text;
pub mod token;
pub mod transition;
pub mod unfired;
pub mod user;
pub mod xact;

use pgrx::{PgSqlErrorCode, pg_sys};

pub use pgrx::pg_sys::{Oid, panic::ErrorReport};

/// The five characters of a SQLSTATE.
pub fn sqlstate_text(state: PgSqlErrorCode) -> String {
    let mut code = state as i32;
    let mut text = String::new();
    for _ in 0..5 {
        // PGUNSIXBIT of elog.h.
        text.push(char::from(((code & 0x3F) as u8).wrapping_add(b'0')));
        code >>= 6;
    }
    text
}

/// Whether a query is running in parallel, here or in the leader: what its workers read, no other of them knows.
pub fn is_in_parallel_mode() -> bool {
    unsafe extern "C-unwind" {
        fn IsInParallelMode() -> bool;
    }
    // SAFETY: reads backend-local state, and raises nothing.
    unsafe { IsInParallelMode() }
}

/// Whether this process serves a client: it is no background process, nor a parallel worker, whose messages go to its leader.
pub fn has_client() -> bool {
    // SAFETY: a plain read of a backend-local value.
    unsafe { pg_sys::whereToSendOutput == pg_sys::CommandDest::DestRemote && !in_parallel_worker() }
}

/// The database that this process is connected to.
pub fn database() -> Oid {
    // SAFETY: a plain read of a backend-local value.
    unsafe { pg_sys::MyDatabaseId }
}

/// The name of a relation, without its schema; empty where it is gone.
pub fn relation_name(relation: Oid) -> String {
    // SAFETY: called inside a transaction; a copy of the name, or null.
    unsafe { text::of_c_string(pg_sys::get_rel_name(relation)).to_utf8().into_owned() }
}

/// The name of a relation with its schema, quoted where needed; raises where it is gone.
pub fn qualified_name(relation: Oid) -> text::Text {
    // SAFETY: called inside a transaction; the names are C strings or null, which is no relation's.
    unsafe {
        let schema = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(relation));
        let name = pg_sys::get_rel_name(relation);
        if schema.is_null() || name.is_null() {
            crate::error::Error::Internal("there is no such relation").raise()
        }
        text::of_c_string(pg_sys::quote_qualified_identifier(schema, name))
    }
}

/// What the client calls itself.
pub fn application_name() -> text::Text {
    unsafe extern "C" {
        static application_name: *const std::ffi::c_char;
    }
    // SAFETY: a parameter's variable, which holds a C string.
    unsafe { text::of_c_string(application_name) }
}

/// The number of this process.
pub fn process() -> i32 {
    // SAFETY: a plain read of a backend-local integer.
    unsafe { pg_sys::MyProcPid }
}

/// The name of the session, as `%c` of `log_line_prefix` has it.
pub fn session_name() -> text::Text {
    // SAFETY: plain reads of backend-local values.
    let (started, process) = unsafe { (pg_sys::MyStartTime, pg_sys::MyProcPid) };
    text::Text::of(format!("{started:x}.{process:x}").as_bytes())
}

/// Gives memory back to the system that was used once: the C library would keep it, for as long as the backend lives.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    {
        unsafe extern "C" {
            fn malloc_trim(keep: usize) -> std::ffi::c_int;
        }
        // SAFETY: frees nothing that is in use.
        unsafe {
            malloc_trim(0);
        }
    }
}

/// Random bytes, of which nobody can tell the next from those before.
pub fn random<const LENGTH: usize>() -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    // SAFETY: as many bytes as it says.
    if !unsafe { pg_sys::pg_strong_random(bytes.as_mut_ptr().cast(), LENGTH) } {
        crate::error::Error::Internal("no random numbers to be had").raise()
    }
    bytes
}

/// Raises 25006 in a transaction that must not write, as the command of that name does.
pub fn refuse_read_only(command: &'static std::ffi::CStr) {
    // SAFETY: C strings that live for good.
    unsafe {
        pg_sys::PreventCommandIfReadOnly(command.as_ptr());
        pg_sys::PreventCommandIfParallelMode(command.as_ptr());
    }
}

/// Raises 25006 on a standby, as the command of that name does.
pub fn refuse_on_standby(command: &'static std::ffi::CStr) {
    // SAFETY: a C string that lives for good.
    unsafe { pg_sys::PreventCommandDuringRecovery(command.as_ptr()) }
}

/// Raises an error where the client has asked for the end of what is running.
pub fn check_for_interrupts() {
    pgrx::check_for_interrupts!();
}

/// Whether this process is a parallel worker, whose parameters were copied from its leader.
pub fn in_parallel_worker() -> bool {
    // SAFETY: a plain read of a backend-local integer.
    unsafe { pg_sys::ParallelWorkerNumber >= 0 }
}

/// Drops the CONTEXT lines of what is raised from here on, until the function that called this one returns.
pub fn forget_error_context() {
    // SAFETY: whoever put a line there restores what was before it, when it returns and when it catches an error.
    unsafe { pg_sys::error_context_stack = std::ptr::null_mut() }
}
