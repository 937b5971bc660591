//! NOTIFY.

use std::ffi::{CString, c_char};

use pgrx::pg_sys;

mod raw {
    use super::*;
    unsafe extern "C-unwind" {
        pub fn Async_Notify(channel: *const c_char, payload: *const c_char);
    }
}

/// Notifies whoever listens on the channel, when the transaction commits.
pub fn notify(channel: &str, payload: &str) {
    // Neither text of ours holds a NUL; an empty one is better than none.
    let channel = CString::new(channel).unwrap_or_default();
    let payload = CString::new(payload).unwrap_or_default();
    // SAFETY: called inside a transaction, with C strings that live through the call. It is declared raw, so the guard is
    // put around it here.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| raw::Async_Notify(channel.as_ptr(), payload.as_ptr()));
    }
}
