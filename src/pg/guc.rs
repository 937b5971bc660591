//! Parameters whose values are judged: check and assign hooks.
//!
//! PostgreSQL's rules (`src/backend/utils/misc/README`): a check hook may run outside a transaction and must
//! return false rather than raise; an assign hook must not fail and also runs at rollback, with the `extra`
//! that the check hook made. So nothing here reads the registry: that waits for the first use.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_void},
    ptr::addr_of_mut,
};

use pgrx::{
    guc::{GucContext, GucEnum, GucFlags, GucRegistry, GucSetting},
    pg_sys,
    prelude::*,
};

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Source {
    /// No value was given.
    Default,
    /// Configuration file, command line, `ALTER DATABASE … SET`.
    Server,
    /// `ALTER ROLE … SET`.
    Role,
    /// A start-up option of the connection.
    Client,
    /// `SET`, `SET LOCAL`, `set_config`, a function's SET clause.
    Session,
}

/// A value of `tenancy.tenant_id` as its hooks keep it; plain bytes, because PostgreSQL copies and frees it.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Assigned {
    pub id: crate::tenant::TenantId,
    pub source: Source,
    /// The transaction in which the value was given, see `xact::number`.
    pub transaction: u64,
}

/// Why a value is refused, in the words that the client sees.
pub struct Refusal {
    pub sqlstate: PgSqlErrorCode,
    pub message: String,
    pub detail: String,
    pub hint: &'static str,
}

/// Judges a value that is not empty, and says what is to be kept of it. The third argument is false where the value is only tried
/// (`ALTER ROLE … SET`, `CREATE FUNCTION … SET`).
pub type Judge<T> = fn(&[u8], Source, bool) -> Result<T, Refusal>;
pub type Check = Judge<Assigned>;
/// Is told of the tenant that the parameters name, whenever one of them is given a value.
pub type Assign = fn(Option<&Assigned>);

fn no_assign(_: Option<&Assigned>) {}

/// Judges a user id that is not empty.
pub type CheckUser = fn(&[u8]) -> Result<(), Refusal>;

static mut CHECK: Option<Check> = None;
static mut CHECK_USER: Option<CheckUser> = None;
static mut ASSIGN: Assign = no_assign;
static mut ASSIGNED: Option<Assigned> = None;

/// Registers the judges of the context. Called before it is defined.
pub fn init(check: Check, check_user: CheckUser, assign: Assign) {
    // SAFETY: a backend is single-threaded; this runs once, when the library is loaded.
    unsafe {
        CHECK = Some(check);
        CHECK_USER = Some(check_user);
        ASSIGN = assign;
    }
}

/// The tenant that the parameters name: by `tenancy.token`, or by `tenancy.tenant_id`; before them, the scope of several that the session is
/// in. None where all are empty.
pub fn assigned() -> Option<Assigned> {
    super::scope::assigned().or_else(super::token::assigned).or_else(by_id)
}

/// Whether they name that tenant: the same, without a copy.
pub fn names(id: &crate::tenant::TenantId) -> bool {
    if super::scope::is_given() || super::token::is_given() {
        return assigned().is_some_and(|assigned| assigned.id == *id);
    }
    // SAFETY: backend-local plain data, which nobody changes meanwhile.
    unsafe { (*addr_of_mut!(ASSIGNED)).as_ref() }.is_some_and(|assigned| assigned.id == *id)
}

/// The value of `tenancy.tenant_id`, or none where it is empty.
pub fn by_id() -> Option<Assigned> {
    // SAFETY: a copy of backend-local plain data.
    unsafe { *addr_of_mut!(ASSIGNED) }
}

/// Defines a text parameter judged as a tenant id. With `is_context`, it is `tenancy.tenant_id` itself.
pub fn define_tenant_id(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
    flags: GucFlags,
    is_context: bool,
) {
    // SAFETY: the hooks have the signatures PostgreSQL asks for and raise no error.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name,
            short,
            long,
            setting,
            GucContext::Suset,
            flags,
            Some(if is_context { check_context } else { check_tenant_id }),
            if is_context { Some(assign_context) } else { Some(assign_text) },
            if is_context { Some(show_tenant_id) } else { None },
        );
        if is_context {
            TENANT_ID = find(name);
        }
    }
}

/// Defines `tenancy.user_id`.
pub fn define_user_id(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<Option<CString>>,
    flags: GucFlags,
) {
    // SAFETY: the hooks have the signatures PostgreSQL asks for and raise no error.
    unsafe {
        GucRegistry::define_string_guc_with_hooks(
            name,
            short,
            long,
            setting,
            GucContext::Suset,
            flags,
            Some(check_user_id),
            Some(assign_user_id),
            Some(show_user_id),
        );
        USER_ID = find(name);
    }
}

/// Defines an enum parameter on which the current tenant depends.
pub fn define_enum<T: GucEnum>(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<T>,
    context: GucContext,
) {
    // SAFETY: the hook has the signature PostgreSQL asks for and raises no error.
    unsafe {
        GucRegistry::define_enum_guc_with_hooks(
            name,
            short,
            long,
            setting,
            context,
            GucFlags::default(),
            None,
            Some(assign_enum),
            None,
        );
    }
}

/// Defines an enum parameter on which plans depend, for superusers.
pub fn define_plan_enum<T: GucEnum>(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<T>,
) {
    unsafe extern "C-unwind" fn assign(_value: c_int, _extra: *mut c_void) {
        super::planner::drop_plans();
    }
    // SAFETY: the hook has the signature PostgreSQL asks for and raises no error.
    unsafe {
        GucRegistry::define_enum_guc_with_hooks(
            name,
            short,
            long,
            setting,
            GucContext::Suset,
            GucFlags::default(),
            None,
            Some(assign),
            None,
        );
    }
}

/// Defines a boolean parameter on which the current tenant depends.
pub fn define_bool(
    name: &'static CStr,
    short: &'static CStr,
    long: &'static CStr,
    setting: &'static GucSetting<bool>,
    context: GucContext,
) {
    // SAFETY: the hook has the signature PostgreSQL asks for and raises no error.
    unsafe {
        GucRegistry::define_bool_guc_with_hooks(
            name,
            short,
            long,
            setting,
            context,
            GucFlags::default(),
            None,
            Some(assign_bool),
            None,
        );
    }
}

/// Makes `SET tenancy.<unknown>` an error.
pub fn reserve_prefix(prefix: &'static CStr) {
    // SAFETY: a static C string; called after every parameter is defined.
    unsafe { pg_sys::MarkGUCPrefixReserved(prefix.as_ptr()) }
}

/// The reported parameters among PostgreSQL's own.
static mut TENANT_ID: Option<*mut pg_sys::config_generic> = None;
static mut USER_ID: Option<*mut pg_sys::config_generic> = None;

#[pg_guard]
unsafe extern "C-unwind" fn show_tenant_id() -> *const c_char {
    // SAFETY: written once, at load.
    unsafe { show(TENANT_ID) }
}

#[pg_guard]
unsafe extern "C-unwind" fn show_user_id() -> *const c_char {
    // SAFETY: written once, at load.
    unsafe { show(USER_ID) }
}

/// What `SHOW` shows, and what PostgreSQL reports to the client between two commands.
///
/// What is reported is for a pooler, which restores it on another connection; what lasts until the transaction ends is
/// not to be restored. So that is not reported, and a transaction with SET LOCAL costs no two messages.
pub(super) unsafe fn show(parameter: Option<*mut pg_sys::config_generic>) -> *const c_char {
    // SAFETY: the entry lives as long as the backend, and is a string parameter. Its values and its stack are
    // PostgreSQL's own, read in the process that writes them.
    unsafe {
        let Some(entry) = parameter else { return c"".as_ptr() };
        let current = *(*entry.cast::<pg_sys::config_string>()).variable;
        let value = if between_commands() { after_commit(&*entry, current) } else { current };
        if value.is_null() { c"".as_ptr() } else { value }
    }
}

/// Whether no command of the client runs, so that whoever asks for a value is the one that reports it.
pub(super) unsafe fn between_commands() -> bool {
    // SAFETY: reads backend-local state.
    unsafe {
        pg_sys::whereToSendOutput == pg_sys::CommandDest::DestRemote
            && pg_sys::ActivePortal.is_null()
            && !pg_sys::ActiveSnapshotSet()
    }
}

/// The value that a parameter will have if the transaction commits now, as `AtEOXact_GUC` has it.
unsafe fn after_commit(entry: &pg_sys::config_generic, current: *mut c_char) -> *mut c_char {
    use pg_sys::GucStackState::*;
    let mut value = current;
    // SAFETY: walks PostgreSQL's stack of earlier values, of which those of a string parameter are strings.
    unsafe {
        let mut level = entry.stack;
        while let Some(earlier) = level.as_ref() {
            match earlier.state {
                GUC_SET => return value,
                GUC_SET_LOCAL => return earlier.masked.val.stringval,
                _ => value = earlier.prior.val.stringval,
            }
            level = earlier.prev;
        }
    }
    value
}

/// Whether the tenant that the parameters name may be another when the transaction has committed.
pub fn ends_with_transaction() -> bool {
    // SAFETY: written once, at load.
    unsafe {
        is_restored(TENANT_ID)
            || super::token::ends_with_transaction()
            || super::scope::ends_with_transaction()
    }
}

/// Whether `tenancy.tenant_id` has a value from the server, the database or the role, which other servers may have as well.
pub(super) fn is_preset() -> bool {
    // SAFETY: written once, at load; the entry is a string parameter, whose value is a C string or null.
    unsafe {
        TENANT_ID.is_some_and(|entry| {
            let value = (*entry.cast::<pg_sys::config_string>()).reset_val;
            let is_empty = value.is_null() || CStr::from_ptr(value).is_empty();
            !is_empty && source_of((*entry).reset_source) != Source::Client
        })
    }
}

/// Whether a parameter gets an earlier value back when the transaction commits.
pub(super) unsafe fn is_restored(parameter: Option<*mut pg_sys::config_generic>) -> bool {
    // SAFETY: as in `show`; both values are C strings or null, and the same one where nothing is restored.
    unsafe {
        parameter.is_some_and(|entry| {
            let current = *(*entry.cast::<pg_sys::config_string>()).variable;
            after_commit(&*entry, current) != current
        })
    }
}

/// Takes the mark of a reported parameter off while its value is of `SET LOCAL` only.
///
/// Where a reported parameter has changed, PostgreSQL 15 looks through all parameters there are, and would twice for
/// each transaction with SET LOCAL; later ones keep a list. The mark stays where a report is due, which `show` then words.
pub(super) unsafe fn mark_reported(parameter: Option<*mut pg_sys::config_generic>) {
    // SAFETY: PostgreSQL's own entry, changed in the process that it belongs to, between two reads of the mark.
    unsafe {
        let Some(entry) = parameter.and_then(|entry| entry.as_mut()) else { return };
        let is_due = entry.status & pg_sys::GUC_NEEDS_REPORT as c_int != 0;
        if !is_due && is_all_local(entry) {
            entry.flags &= !(pg_sys::GUC_REPORT as c_int);
        } else {
            entry.flags |= pg_sys::GUC_REPORT as c_int;
        }
    }
}

/// Whether a parameter was changed in the running transaction, and only by `SET LOCAL` or a function's SET clause.
unsafe fn is_all_local(entry: &pg_sys::config_generic) -> bool {
    use pg_sys::GucStackState::*;
    // SAFETY: walks PostgreSQL's stack of earlier values.
    unsafe {
        let mut level = entry.stack;
        while let Some(earlier) = level.as_ref() {
            if !matches!(earlier.state, GUC_LOCAL | GUC_SAVE) {
                return false;
            }
            level = earlier.prev;
        }
        !entry.stack.is_null()
    }
}

/// Whether `SET` in an earlier transaction left a value in a parameter that is not defined yet: until it is, its value
/// stands in a placeholder, which has a stack entry where the transaction that is running changed it.
pub fn is_left_over(name: &CStr) -> bool {
    // SAFETY: looks into PostgreSQL's own table of parameters, whose entries live as long as the backend.
    unsafe {
        find(name).is_some_and(|variable| {
            (*variable).source == pg_sys::GucSource::PGC_S_SESSION && (*variable).stack.is_null()
        })
    }
}

/// Whether the parameter's value was given by the start-up packet of the connection.
///
/// Before a parameter is defined, anybody may give it so, in place of the role's or the database's own value. When it
/// is defined, PostgreSQL refuses what the role may not set, and falls back to the default: the other value is lost.
pub fn is_from_client(name: &CStr) -> bool {
    // SAFETY: as in `is_left_over`.
    unsafe { find(name).is_some_and(|variable| (*variable).source == pg_sys::GucSource::PGC_S_CLIENT) }
}

#[cfg(feature = "pg15")]
pub(super) unsafe fn find(name: &CStr) -> Option<*mut pg_sys::config_generic> {
    // SAFETY: the table has as many entries as PostgreSQL says, each with a name.
    unsafe {
        let variables = pg_sys::get_guc_variables();
        let count = usize::try_from(pg_sys::GetNumConfigOptions()).unwrap_or(0);
        (0..count).map(|i| *variables.add(i)).find(|v| CStr::from_ptr((**v).name) == name)
    }
}

#[cfg(not(feature = "pg15"))]
pub(super) unsafe fn find(name: &CStr) -> Option<*mut pg_sys::config_generic> {
    // SAFETY: a lookup that neither creates nor raises, level below ERROR.
    let found = unsafe { pg_sys::find_option(name.as_ptr(), false, true, pg_sys::DEBUG1 as c_int) };
    (!found.is_null()).then_some(found)
}

fn source_of(source: pg_sys::GucSource::Type) -> Source {
    use pg_sys::GucSource::*;
    match source {
        PGC_S_DEFAULT | PGC_S_DYNAMIC_DEFAULT => Source::Default,
        PGC_S_USER | PGC_S_DATABASE_USER => Source::Role,
        PGC_S_CLIENT => Source::Client,
        PGC_S_OVERRIDE | PGC_S_INTERACTIVE | PGC_S_TEST | PGC_S_SESSION => Source::Session,
        _ => Source::Server,
    }
}

/// Memory for `extra`, which PostgreSQL frees: with `free` up to 15, with `guc_free` since 16.
#[cfg(feature = "pg15")]
unsafe fn allocate(size: usize) -> *mut c_void {
    unsafe extern "C" {
        fn malloc(size: usize) -> *mut c_void;
    }
    // SAFETY: any size may be asked for; the result is checked for null.
    unsafe { malloc(size) }
}

#[cfg(not(feature = "pg15"))]
unsafe fn allocate(size: usize) -> *mut c_void {
    unsafe extern "C-unwind" {
        fn guc_malloc(level: c_int, size: usize) -> *mut c_void;
    }
    // SAFETY: any size may be asked for; below ERROR it returns null rather than raise.
    unsafe { guc_malloc(pg_sys::LOG as c_int, size) }
}

unsafe fn refuse(refusal: &Refusal) -> bool {
    let text = |text: &str| {
        let text = CString::new(text).unwrap_or_default();
        // SAFETY: PostgreSQL's own place for these texts (`GUC_check_errmsg`), reset when the error is out.
        unsafe { pg_sys::MemoryContextStrdup(pg_sys::ErrorContext, text.as_ptr()) }
    };
    // SAFETY: these are the variables that PostgreSQL reads after a check hook has returned false.
    unsafe {
        pg_sys::GUC_check_errcode(refusal.sqlstate as c_int);
        pg_sys::GUC_check_errmsg_string = text(&refusal.message);
        pg_sys::GUC_check_errdetail_string = text(&refusal.detail);
        pg_sys::GUC_check_errhint_string = text(refusal.hint);
    }
    false
}

/// The bytes of a parameter's value; none where it is null. The caller sees to it that the value lives.
pub(super) unsafe fn bytes_of<'a>(value: *const c_char) -> &'a [u8] {
    // SAFETY: null or a C string, by the caller.
    if value.is_null() { b"" } else { unsafe { CStr::from_ptr(value) }.to_bytes() }
}

/// Keeps what a check hook has found out for the assign hook; false where there is no memory for it.
unsafe fn keep<T: Copy>(extra: *mut *mut c_void, found: T) -> bool {
    // SAFETY: PostgreSQL's place for it, and memory of that size.
    unsafe {
        let memory = allocate(size_of::<T>());
        if memory.is_null() {
            return false;
        }
        memory.cast::<T>().write(found);
        *extra = memory;
    }
    true
}

/// Judges a value that takes effect unless it is only tried, and keeps in `extra` what was found out; of an empty one, nothing.
pub(super) unsafe fn judge<T: Copy>(
    value: *mut *mut c_char,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
    check: Option<Judge<T>>,
) -> bool {
    // SAFETY: PostgreSQL passes valid pointers; the value is null or a C string.
    unsafe {
        let text = bytes_of(*value);
        let Some(check) = check else { return false };
        if text.is_empty() {
            return true;
        }
        match check(text, source_of(source), source != pg_sys::GucSource::PGC_S_TEST) {
            Ok(found) => keep(extra, found),
            Err(refusal) => refuse(&refusal),
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_context(
    value: *mut *mut c_char,
    extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: PostgreSQL's arguments, passed on; CHECK is written once, at load.
    unsafe { judge(value, extra, source, CHECK) }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_tenant_id(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: PostgreSQL passes valid pointers; the value is null or a C string. CHECK is written once, at load.
    unsafe {
        let text = bytes_of(*value);
        let Some(check) = CHECK else { return false };
        let refused = if text.is_empty() { None } else { check(text, source_of(source), false).err() };
        refused.is_none_or(|refusal| refuse(&refusal))
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn check_user_id(
    value: *mut *mut c_char,
    _extra: *mut *mut c_void,
    _source: pg_sys::GucSource::Type,
) -> bool {
    // SAFETY: the value is null or a C string.
    unsafe {
        let refused = CHECK_USER.and_then(|check| check(bytes_of(*value)).err());
        refused.is_none_or(|refusal| refuse(&refusal))
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn assign_context(_value: *const c_char, extra: *mut c_void) {
    // SAFETY: `extra` is null or what `check` wrote; it is copied, because PostgreSQL frees it.
    unsafe {
        let value = extra.cast::<Assigned>().as_ref().copied();
        *addr_of_mut!(ASSIGNED) = value;
        mark_reported(TENANT_ID);
        tell_assigned();
    }
}

/// Tells who is told of each value.
pub(super) fn tell_assigned() {
    super::accessor::forget();
    super::distribute::changed();
    // SAFETY: written once, at load.
    unsafe { ASSIGN(assigned().as_ref()) }
}

#[pg_guard]
unsafe extern "C-unwind" fn assign_user_id(_value: *const c_char, _extra: *mut c_void) {
    super::accessor::forget();
    // SAFETY: written once, at load.
    unsafe { mark_reported(USER_ID) }
}

#[pg_guard]
unsafe extern "C-unwind" fn assign_text(_value: *const c_char, _extra: *mut c_void) {
    super::accessor::forget();
}

#[pg_guard]
unsafe extern "C-unwind" fn assign_enum(_value: c_int, _extra: *mut c_void) {
    super::accessor::forget();
}

#[pg_guard]
unsafe extern "C-unwind" fn assign_bool(_value: bool, _extra: *mut c_void) {
    super::accessor::forget();
}
