//! `tenancy.token`: its hooks, and what it says as far as that is known.
//!
//! A token is verified where it is set, by what the registry holds, as PostgreSQL's own `check_role` looks into the catalogs: only
//! inside a transaction. Where there is none, and in a parallel worker, it waits for the first use.
//! Its value is not shown: who can run a query could take it elsewhere. The text of a statement that sets it is
//! PostgreSQL's to show and to log.

use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::addr_of_mut;

use pgrx::{
    guc::{GucContext, GucFlags, GucRegistry, GucSetting},
    pg_sys,
    prelude::*,
};

use super::guc::{self, Assigned, Source};
use crate::tenant::TenantId;

/// A value as its hooks keep it; plain bytes, because PostgreSQL frees it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Given {
    /// None until it is verified.
    pub tenant: Option<TenantId>,
    pub source: Source,
    /// The transaction in which the value was given, see `xact::number`.
    pub transaction: u64,
    /// `authenticate` has used it up: it may be good for one use only.
    pub is_used: bool,
}

/// Judges a value that is not empty. The third argument is false where it is to be kept with a role, a database or a function.
pub type Check = guc::Judge<Given>;

static mut CHECK: Option<Check> = None;
static mut GIVEN: Option<Given> = None;
static mut TEXT: Option<*mut pg_sys::config_generic> = None;

/// Registers the judge. Called before the parameter is defined.
pub fn init(check: Check) {
    // SAFETY: a backend is single-threaded; this runs once, when the library is loaded.
    unsafe { CHECK = Some(check) }
}

/// The value of `tenancy.token`, or none where it is empty.
pub fn given() -> Option<Given> {
    // SAFETY: a copy of backend-local plain data.
    unsafe { *addr_of_mut!(GIVEN) }
}

/// Whether it is not empty.
pub fn is_given() -> bool {
    // SAFETY: reads backend-local plain data.
    unsafe { (*addr_of_mut!(GIVEN)).is_some() }
}

/// The tenant of a token, as `tenancy.tenant_id` would name it; of one that is not verified, no tenant that there is.
pub(super) fn assigned() -> Option<Assigned> {
    given().map(|given| Assigned {
        id: given.tenant.unwrap_or(TenantId::NONE),
        source: given.source,
        transaction: given.transaction,
    })
}

/// Notes whose the token is that is given, which was not known when it was.
pub fn note_tenant(tenant: TenantId) {
    // SAFETY: backend-local plain data.
    unsafe {
        if let Some(given) = (*addr_of_mut!(GIVEN)).as_mut() {
            given.tenant = Some(tenant);
        }
    }
}

/// Calls `with` on the token that is given.
pub fn with_text<T>(with: impl FnOnce(&[u8]) -> T) -> T {
    // SAFETY: the entry lives as long as the backend; its value stays as it is while `with`, which sets nothing, runs.
    unsafe {
        let value =
            TEXT.map_or(std::ptr::null_mut(), |entry| *(*entry.cast::<pg_sys::config_string>()).variable);
        with(guc::bytes_of(value))
    }
}

/// Whether another token, or none, is in force when the transaction has committed.
pub(super) fn ends_with_transaction() -> bool {
    // SAFETY: written once, at load.
    unsafe { guc::is_restored(TEXT) }
}

/// Defines the parameter.
pub fn define(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
) {
    let flags = GucFlags::REPORT | GucFlags::NO_SHOW_ALL | GucFlags::DISALLOW_IN_FILE;
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
            Some(show),
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
        *addr_of_mut!(GIVEN) = extra.cast::<Given>().as_ref().copied();
        guc::mark_reported(TEXT);
        guc::tell_assigned();
    }
}

/// What is reported to the client, whose pooler may restore it, is the token; what is shown is not.
#[pg_guard]
unsafe extern "C-unwind" fn show() -> *const c_char {
    // SAFETY: written once, at load; both are C strings.
    unsafe {
        if guc::between_commands() && !pg_sys::am_walsender {
            guc::show(TEXT)
        } else if is_given() {
            c"********".as_ptr()
        } else {
            c"".as_ptr()
        }
    }
}
