//! `set_tenant()` and `clear_tenant()`: raw version-1 functions, because what PostgreSQL says of a refused parameter
//! must arrive whole, and pgrx's guard would add a backtrace to its DETAIL where `RUST_BACKTRACE` is set.
//!
//! The frames around the raw call own only plain values, so an error that passes through them skips nothing.
//!
//! And `SET tenancy.tenant_id = '…'`, which most transactions begin with. For that PostgreSQL makes a state of the parser, a list of the
//! one value, and looks up the privilege to set the parameter in the catalogs each time. Here that is remembered for the role, until
//! one of those catalogs changes.

use std::ffi::{CStr, CString, c_char, c_int};

use pgrx::{FromDatum, pg_sys, prelude::*};

use super::statement::entries;
use crate::tenant::{MAX_LEN, TenantId};

mod raw {
    use super::*;
    pub use crate::pg::raw::{GetUserId, set_config_option};
    unsafe extern "C-unwind" {
        pub fn superuser() -> bool;
        pub fn WarnNoTransactionBlock(is_top_level: bool, statement: *const c_char);
        pub fn pg_parameter_aclcheck(
            name: *const c_char,
            role: pg_sys::Oid,
            mode: pg_sys::AclMode,
        ) -> pg_sys::AclResult::Type;
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
        use pg_sys::SysCacheIdentifier::*;
        // What the privilege depends on: that of the parameter, what roles there are, who is in which, and who owns the database.
        for cache in [PARAMETERACLNAME, AUTHOID, AUTHMEMROLEMEM, DATABASEOID] {
            pg_sys::CacheRegisterSyscacheCallback(cache as c_int, Some(forget), pg_sys::Datum::from(0));
        }
    }
}

/// A role that may set `tenancy.tenant_id`, until something changes that it depends on; and how often that has been.
static mut ALLOWED: (pg_sys::Oid, u64) = (pg_sys::InvalidOid, 0);

unsafe extern "C-unwind" fn forget(_arg: pg_sys::Datum, _cache: c_int, _hash: u32) {
    // SAFETY: a backend is single-threaded.
    unsafe { ALLOWED = (pg_sys::InvalidOid, ALLOWED.1 + 1) }
}

/// Whether the current role may set `tenancy.tenant_id`.
unsafe fn is_allowed() -> bool {
    // SAFETY: called inside a transaction, with a C string.
    unsafe {
        let role = raw::GetUserId();
        let (allowed, changes) = ALLOWED;
        if allowed == role && role != pg_sys::InvalidOid {
            return true;
        }
        // Wider since 16.
        #[allow(clippy::useless_conversion)]
        let mode = pg_sys::AclMode::from(pg_sys::ACL_SET);
        let answer = raw::pg_parameter_aclcheck(TENANT_ID.as_ptr(), role, mode);
        let is_good = answer == pg_sys::AclResult::ACLCHECK_OK;
        // What has changed meanwhile is looked up again.
        if is_good && ALLOWED.1 == changes {
            ALLOWED.0 = role;
        }
        is_good
    }
}

/// Runs a command if it is a plain `SET [LOCAL] tenancy.tenant_id = '…'` of a role that may do so; PostgreSQL runs any other. As `ExecSetVariableStmt`.
#[inline]
pub unsafe fn has_run(command: *const pg_sys::Node, is_top_level: bool) -> bool {
    // SAFETY: a command that is about to run; the tag of a node tells its type.
    unsafe {
        if (*command).type_ != pg_sys::NodeTag::T_VariableSetStmt {
            return false;
        }
        let command = &*command.cast::<pg_sys::VariableSetStmt>();
        let value = value_of(command);
        let told = pg_sys::object_access_hook_str;
        // What is told of a change of a parameter, as sepgsql is, is told by PostgreSQL.
        if value.is_null() || super::is_in_parallel_mode() || told.is_some() || !is_allowed() {
            return false;
        }
        if command.is_local {
            raw::WarnNoTransactionBlock(is_top_level, c"SET LOCAL".as_ptr());
        }
        set_as(TENANT_ID, value, action(command.is_local), pg_sys::GucContext::PGC_SUSET);
        true
    }
}

/// The value that `tenancy.tenant_id` is set to; null where that is none in quotes.
unsafe fn value_of(command: &pg_sys::VariableSetStmt) -> *const c_char {
    // SAFETY: the name of a parameter, and the list of its values.
    unsafe {
        let none = std::ptr::null();
        let is_ours = command.kind == pg_sys::VariableSetKind::VAR_SET_VALUE
            && CStr::from_ptr(command.name) == TENANT_ID;
        match entries(command.args) {
            [value] if is_ours => {
                let value = value.ptr_value.cast::<pg_sys::A_Const>();
                if (*value).type_ != pg_sys::NodeTag::T_A_Const || (*value).isnull {
                    return none;
                }
                let text = std::ptr::addr_of!((*value).val.sval);
                if (*text).type_ == pg_sys::NodeTag::T_String { (*text).sval } else { none }
            }
            _ => none,
        }
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
    use pg_sys::GucContext::{PGC_SUSET, PGC_USERSET};
    // SAFETY: C strings that live through the call.
    unsafe { set_as(name, value, action, if raw::superuser() { PGC_SUSET } else { PGC_USERSET }) }
}

/// Sets a parameter as somebody who has these rights.
unsafe fn set_as(
    name: &CStr,
    value: *const c_char,
    action: pg_sys::GucAction::Type,
    rights: pg_sys::GucContext::Type,
) {
    // SAFETY: C strings that live through the call; PostgreSQL copies the value.
    unsafe {
        raw::set_config_option(
            name.as_ptr(),
            value,
            rights,
            pg_sys::GucSource::PGC_S_SESSION,
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
