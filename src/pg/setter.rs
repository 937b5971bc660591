//! `set_tenant()` and `clear_tenant()`: raw version-1 functions, because what PostgreSQL says of a refused parameter
//! must arrive whole, and pgrx's guard would add a backtrace to its DETAIL where `RUST_BACKTRACE` is set.
//!
//! The frames around the raw call own only plain values, so an error that passes through them skips nothing.

use std::ffi::{c_char, c_int};

use pgrx::{FromDatum, pg_sys, prelude::*};

use crate::tenant::MAX_LEN;

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

/// A value for the parameter, as a C string.
pub struct Request {
    pub value: [u8; MAX_LEN + 1],
    pub is_local: bool,
}

/// Judges the arguments of `set_tenant`; raises where they are not good.
type Judge = fn(Option<&[u8]>, Option<bool>) -> Request;

static mut JUDGE: Option<Judge> = None;

/// Sets the judge of the arguments.
pub fn init(judge: Judge) {
    // SAFETY: a backend is single-threaded; this runs once, when the library is loaded.
    unsafe { JUDGE = Some(judge) }
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

/// `SET` or `SET LOCAL tenancy.tenant_id`, with the rights of the current role.
unsafe fn set(request: &Request) {
    use pg_sys::{GucAction::*, GucContext::*, GucSource::PGC_S_SESSION};
    // SAFETY: C strings that live through the call; PostgreSQL copies the value.
    unsafe {
        raw::set_config_option(
            c"tenancy.tenant_id".as_ptr(),
            request.value.as_ptr().cast(),
            if raw::superuser() { PGC_SUSET } else { PGC_USERSET },
            PGC_S_SESSION,
            if request.is_local { GUC_ACTION_LOCAL } else { GUC_ACTION_SET },
            true,
            0,
            false,
        );
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
        set(&request);
        super::accessor::tenancy_current_tenant(fcinfo)
    }
}

/// Called by PostgreSQL with a valid call frame.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn tenancy_clear_tenant(_fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: a request of this frame.
    unsafe { set(&Request { value: [0; MAX_LEN + 1], is_local: false }) };
    pg_sys::Datum::from(0)
}

super::version_1!(pg_finfo_tenancy_set_tenant);
super::version_1!(pg_finfo_tenancy_clear_tenant);
