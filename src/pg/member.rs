//! `has_role()` and `current_user_id()`: what users' own policies call, which may be for each row, so they are raw version-1
//! functions without pgrx's guard; the fast path is a comparison of bytes.
//!
//! What they answer is kept until the context may be another (see `accessor::forget`).

use std::ffi::{c_char, c_int};
use std::ptr::addr_of_mut;

use pgrx::{Array, FromDatum, pg_sys, prelude::*};

use super::text::Text;

/// Says who the current user is, and whether it has one of some roles in the current tenant; both raise an error where the context
/// is refused.
#[derive(Clone, Copy)]
pub struct Resolver {
    pub user: fn() -> Option<Text>,
    pub has_role: fn(&[&[u8]]) -> bool,
}

static mut RESOLVER: Option<Resolver> = None;

/// Sets what the functions ask.
pub fn init(resolver: Resolver) {
    // SAFETY: a backend is single-threaded, and this runs once, when the library is loaded.
    unsafe { RESOLVER = Some(resolver) }
}

/// The longest array that is kept, in bytes.
const LONGEST: usize = 1024;
/// Arguments and what was answered: a policy, or some of one query, ask for some roles.
const KEPT: usize = 8;

struct Answers {
    /// Whether what is kept may be used.
    are_current: bool,
    /// When the client's statement began in which they were given: the next one asks anew.
    statement: i64,
    /// Arrays as they were passed.
    roles: Vec<(Box<[u8]>, bool)>,
    /// The user as a `text` datum.
    user: Option<Option<Box<[u8]>>>,
}

static mut ANSWERS: Answers = Answers { are_current: false, statement: 0, roles: Vec::new(), user: None };

/// Makes the next calls ask anew. Safe anywhere: no allocation, no error.
pub(super) fn forget() {
    // SAFETY: a backend is single-threaded, and no reference to ANSWERS outlives a statement of this file.
    unsafe { (*addr_of_mut!(ANSWERS)).are_current = false }
}

/// The answers that are kept, where any are.
unsafe fn kept() -> Option<&'static Answers> {
    // SAFETY: the caller keeps the reference for no longer than it calls nothing that could forget.
    let answers = unsafe { &*addr_of_mut!(ANSWERS) };
    (answers.are_current && answers.statement == super::xact::statement_began()).then_some(answers)
}

/// Keeps something. What was forgotten while it was asked for must not be kept: so the caller marks the start with `begin`.
unsafe fn keep(with: impl FnOnce(&mut Answers)) {
    // SAFETY: backend-local.
    let answers = unsafe { &mut *addr_of_mut!(ANSWERS) };
    if answers.are_current {
        with(answers);
    }
}

/// Begins to ask: what is forgotten from here on is not kept.
unsafe fn begin() {
    // SAFETY: backend-local.
    if unsafe { kept() }.is_none() {
        super::inval::accept();
        // SAFETY: backend-local.
        let answers = unsafe { &mut *addr_of_mut!(ANSWERS) };
        answers.roles.clear();
        answers.user = None;
        answers.statement = super::xact::statement_began();
        answers.are_current = true;
    }
}

/// The bytes of a varlena that is neither compressed nor short nor elsewhere; none of another.
unsafe fn plain<'a>(datum: pg_sys::Datum) -> Option<&'a [u8]> {
    let value = datum.cast_mut_ptr::<pg_sys::varlena>();
    // SAFETY: a varlena, which PostgreSQL passes and which lives through the call.
    unsafe {
        pgrx::varlena::varatt_is_4b_u(value)
            .then(|| std::slice::from_raw_parts(value.cast::<u8>(), pgrx::varlena::varsize_4b(value)))
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn ask_has_role(argument: pg_sys::Datum) -> bool {
    // SAFETY: an array of texts, which lives through the call.
    unsafe {
        let Some(resolver) = RESOLVER else { return false };
        begin();
        let answer = match Array::<&[u8]>::from_datum(argument, false) {
            Some(array) => (resolver.has_role)(&array.iter().flatten().collect::<Vec<_>>()),
            None => false,
        };
        if let Some(bytes) = plain(argument).filter(|bytes| bytes.len() <= LONGEST) {
            keep(|answers| {
                if answers.roles.len() == KEPT {
                    answers.roles.clear();
                }
                answers.roles.push((bytes.into(), answer));
            });
        }
        answer
    }
}

/// Asks, and returns a copy in the caller's memory, as `copy` does.
#[pg_guard]
unsafe extern "C-unwind" fn ask_user(is_null: *mut bool) -> pg_sys::Datum {
    // SAFETY: RESOLVER is written once, at load; `is_null` is of the caller's frame.
    unsafe {
        let Some(resolver) = RESOLVER else { return copy(None, is_null) };
        begin();
        let user = (resolver.user)();
        let user = user.as_ref().map(Text::as_bytes);
        keep(|answers| answers.user = Some(user.map(Box::from)));
        copy(user, is_null)
    }
}

/// A `text` in the caller's memory, or null.
unsafe fn copy(user: Option<&[u8]>, is_null: *mut bool) -> pg_sys::Datum {
    unsafe extern "C-unwind" {
        fn cstring_to_text_with_len(text: *const c_char, length: c_int) -> *mut pg_sys::text;
    }
    // SAFETY: `is_null` is of the caller's frame; the bytes live through the call.
    unsafe {
        is_null.write(user.is_none());
        user.map_or(pg_sys::Datum::from(0), |user| {
            cstring_to_text_with_len(user.as_ptr().cast(), user.len() as c_int).into()
        })
    }
}

// SAFETY (of the names): no other library exports symbols with the prefix `tenancy_`.
/// Called by PostgreSQL with a valid call frame and an array that is not null.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn tenancy_has_role(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: the function is strict and has one argument.
    unsafe {
        super::running::note_use();
        let argument = (*fcinfo).args.as_slice(1)[0].value;
        let known = || {
            let (answers, bytes) = (kept()?, plain(argument)?);
            answers.roles.iter().find(|(asked, _)| **asked == *bytes).map(|(_, answer)| *answer)
        };
        pg_sys::Datum::from(known().unwrap_or_else(|| ask_has_role(argument)))
    }
}

/// Called by PostgreSQL with a valid call frame; it takes no arguments.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn tenancy_current_user_id(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
    // SAFETY: PostgreSQL passes a valid `fcinfo`.
    unsafe {
        super::running::note_use();
        let is_null = &mut (*fcinfo).isnull;
        match kept().and_then(|answers| answers.user.as_ref()) {
            Some(user) => copy(user.as_deref(), is_null),
            None => ask_user(is_null),
        }
    }
}

super::version_1!(pg_finfo_tenancy_has_role);
super::version_1!(pg_finfo_tenancy_current_user_id);
