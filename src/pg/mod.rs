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
pub mod guc;
pub mod hook;
pub mod inval;
pub mod scan;
pub mod setter;
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

/// Whether this process is a parallel worker, whose parameters were copied from its leader.
pub fn in_parallel_worker() -> bool {
    // SAFETY: a plain read of a backend-local integer.
    unsafe { pg_sys::ParallelWorkerNumber >= 0 }
}

/// Drops the CONTEXT lines of the error that is about to be raised.
pub fn forget_error_context() {
    // SAFETY: the error unwinds past every frame that put a line there; whoever catches it restores its own.
    unsafe { pg_sys::error_context_stack = std::ptr::null_mut() }
}
