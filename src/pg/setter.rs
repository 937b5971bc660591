//! `set_tenant()` and `clear_tenant()`: raw version-1 functions, because what PostgreSQL says of a refused parameter
//! must arrive whole, and pgrx's guard would add a backtrace to its DETAIL where `RUST_BACKTRACE` is set.
//!
//! The frames around the raw call own only plain values, so an error that passes through them skips nothing.

use std::ffi::{CStr, CString, c_char, c_int};

use pgrx::{FromDatum, pg_sys, prelude::*};

use crate::tenant::{MAX_LEN, TenantId};

mod raw {
    use super::*;
    unsafe extern "C-unwind" {
        pub fn superuser() -> bool;
        pub fn set_config_option(
            name: *const c_char,
            value: *const c_char,
            context: pg_sys::GucContext::Type,
            source: pg_sys::GucSource::Type,
            action: pg_sys::GucAction::Type,
            change: bool,
            level: c_int,
            is_reload: bool,
        ) -> c_int;
    }
}

const TENANT_ID: &CStr = c"tenancy.tenant_id";

/// A value for the parameter, as a C string.
pub struct Request {
    pub value: [u8; MAX_LEN + 1],
    pub is_local: bool,
}

/// Judges the arguments of `set_tenant`; raises where they are not good.
type Judge = fn(Option<&[u8]>, Option<bool>) -> Request;

static mut JUDGE: Option<Judge> = None;
/// Raises where the tenant cannot be cleared.
static mut JUDGE_CLEARING: Option<fn()> = None;

/// Sets the judges of the arguments, and of who clears the tenant.
pub fn init(judge: Judge, clearing: fn()) {
    // SAFETY: a backend is single-threaded; this runs once, when the library is loaded.
    unsafe {
        JUDGE = Some(judge);
        JUDGE_CLEARING = Some(clearing);
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn judge(fcinfo: pg_sys::FunctionCallInfo, request: *mut Request) {
    // SAFETY: PostgreSQL passes two arguments, text and boolean; `request` points into the caller's frame.
    unsafe {
        let arguments = (*fcinfo).args.as_slice(2);
        let text = <&[u8]>::from_datum(arguments[0].value, arguments[0].isnull);
        let is_local = bool::from_datum(arguments[1].value, arguments[1].isnull);
        if let Some(judge) = JUDGE {
            request.write(judge(text, is_local));
        }
    }
}

/// `SET` or `SET LOCAL`.
fn action(is_local: bool) -> pg_sys::GucAction::Type {
    if is_local { pg_sys::GucAction::GUC_ACTION_LOCAL } else { pg_sys::GucAction::GUC_ACTION_SET }
}

#[pg_guard]
unsafe extern "C-unwind" fn judge_clearing() {
    // SAFETY: written once, at load.
    if let Some(judge) = unsafe { JUDGE_CLEARING } {
        judge();
    }
}

/// Sets a parameter with the rights of the current role.
pub(super) unsafe fn set(name: &CStr, value: *const c_char, action: pg_sys::GucAction::Type) {
    use pg_sys::{GucContext::*, GucSource::PGC_S_SESSION};
    // SAFETY: C strings that live through the call; PostgreSQL copies the value.
    unsafe {
        raw::set_config_option(
            name.as_ptr(),
            value,
            if raw::superuser() { PGC_SUSET } else { PGC_USERSET },
            PGC_S_SESSION,
            action,
            true,
            0,
            false,
        );
    }
}

/// Sets `tenancy.token` to what has been judged before. Called inside a guard.
pub fn set_token(text: &[u8], is_local: bool) {
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: a C string, which PostgreSQL copies.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| set(c"tenancy.token", text.as_ptr(), action(is_local))) }
}

/// Sets `tenancy.tenant_id` until what was pinned last is let go. Called inside a guard.
pub fn set_for_now(tenant: &TenantId) {
    let id = tenant.as_c_str();
    let save = pg_sys::GucAction::GUC_ACTION_SAVE;
    // SAFETY: a C string, which PostgreSQL copies.
    unsafe { pg_sys::ffi::pg_guard_ffi_boundary(|| set(TENANT_ID, id.as_ptr().cast(), save)) }
}

/// Sets `tenancy.cross_tenant`, as the scope that is being begun. Called inside a guard.
pub fn set_cross_tenant(text: &str, is_local: bool) {
    let text = CString::new(text).unwrap_or_default();
    // SAFETY: a C string, which PostgreSQL copies.
    unsafe {
        pg_sys::ffi::pg_guard_ffi_boundary(|| set(c"tenancy.cross_tenant", text.as_ptr(), action(is_local)))
    }
}

// SAFETY (of the names): no other library exports symbols with the prefix `tenancy_`.
/// Called by PostgreSQL with a valid call frame and two arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn tenancy_set_tenant(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    let mut request = Request { value: [0; MAX_LEN + 1], is_local: true };
    // SAFETY: PostgreSQL's call frame, passed on; `request` is plain data of this frame.
    unsafe {
        judge(fcinfo, &mut request);
        set(TENANT_ID, request.value.as_ptr().cast(), action(request.is_local));
        super::accessor::tenancy_current_tenant(fcinfo)
    }
}

/// Called by PostgreSQL with a valid call frame.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn tenancy_clear_tenant(_fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: C strings that live for good.
    unsafe {
        judge_clearing();
        set(TENANT_ID, c"".as_ptr(), action(false));
    }
    pg_sys::Datum::from(0)
}

super::version_1!(pg_finfo_tenancy_set_tenant);
super::version_1!(pg_finfo_tenancy_clear_tenant);
