//! How PostgreSQL is called: the only home of `unsafe`, of `pg_sys` and of version differences.
//!
//! What leaves this module is plain data. Each file begins with the PostgreSQL rules that shaped it.

pub mod accessor;
pub mod guc;
pub mod hook;
pub mod inval;
pub mod scan;
pub mod user;
pub mod xact;

use pgrx::{PgSqlErrorCode, pg_sys};

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
