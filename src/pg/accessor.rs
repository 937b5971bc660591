//! `current_tenant()`, `current_tenant_uuid()`, `current_tenant_bigint()`: the functions that policies call
//! for each row, so they are raw version-1 functions without pgrx's guard; the fast path is one comparison.
//!
//! The value is a cache of what `tenancy.tenant_id` says and the registry confirmed. It is forgotten whenever
//! the parameter changes, the transaction ends, or the registry is invalidated, and is then resolved anew.
//!
//! A `text` result is a pointer, and the executor may keep it until the query ends. So it points at a
//! `Forms` that lives until no query can be running (`xact::nothing_is_running`), or is a copy.

use std::{
    ptr::addr_of_mut,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use pgrx::{pg_sys, prelude::*};

/// A tenant id in the forms that columns hold, laid out as PostgreSQL's datums.
pub struct Forms {
    /// A `text` datum with a four-byte header; `u32` for its alignment.
    text: Box<[u32]>,
    uuid: Option<[u8; 16]>,
    bigint: Option<i64>,
    /// No others have it.
    number: u32,
}

impl Forms {
    pub fn new(id: &str, uuid: Option<[u8; 16]>, bigint: Option<i64>) -> Forms {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let size = size_of::<u32>() + id.len();
        let mut text = vec![0u32; size.div_ceil(size_of::<u32>())].into_boxed_slice();
        // SAFETY: the buffer has `size` bytes or more: a four-byte header, then the id.
        unsafe {
            let start = text.as_mut_ptr();
            pgrx::varlena::set_varsize_4b(start.cast(), size as i32);
            std::ptr::copy_nonoverlapping(id.as_ptr(), start.add(1).cast(), id.len());
        }
        Forms { text, uuid, bigint, number: NUMBER.fetch_add(1, Relaxed) }
    }
}

/// What the accessors return until they are told to forget it.
#[derive(Clone, Copy)]
struct Current {
    /// Null where it has to be resolved first.
    text: *const u32,
    uuid: *const [u8; 16],
    bigint: Option<i64>,
    number: u32,
}

/// How often it was forgotten: what is found meanwhile may be found for the last time.
static mut FORGOTTEN: u32 = 0;

const UNRESOLVED: Current =
    Current { text: std::ptr::null(), uuid: std::ptr::null(), bigint: None, number: 0 };
static mut CURRENT: Current = UNRESOLVED;

/// What resolving gave: the tenant's forms, and whether they live until the transaction ends.
pub enum Resolved {
    /// The forms stay where they are until nothing is running.
    Kept(*const Forms),
    /// The forms may move before that, so each call returns a copy.
    Passing(*const Forms),
    /// No tenant, and `tenancy.missing_tenant = 'empty'`.
    None,
}

/// Which form a caller asked for; the resolver raises where the tenant has none.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub enum Form {
    Text,
    Uuid,
    Bigint,
}

type Resolver = fn(Form) -> Resolved;

fn no_resolver(_: Form) -> Resolved {
    Resolved::None
}

fn no_denier() -> bool {
    false
}

/// Resolves the current tenant, where there is one and nothing refuses it.
type Finder = fn() -> Resolved;

static mut RESOLVER: Resolver = no_resolver;
static mut FINDER: Finder = || Resolved::None;
static mut USER: fn() = || ();
static mut DENIER: fn() -> bool = no_denier;

/// Sets the function that resolves the current tenant, which raises an error where there is none to be had; the one that does so where there is
/// one, and is not told that it is used, and the one that is; and the one that raises where a row is not the current tenant's.
pub fn init(resolver: Resolver, finder: Finder, user: fn(), denier: fn() -> bool) {
    // SAFETY: a backend is single-threaded, and this runs once, when the library is loaded.
    unsafe {
        RESOLVER = resolver;
        FINDER = finder;
        USER = user;
        DENIER = denier;
    }
}

/// The current tenant, for what runs at once.
pub struct Known {
    current: Current,
    /// Whether it can be remembered, and since when.
    is_kept: bool,
    forgotten: u32,
}

impl Known {
    /// Notes that it is used, as by a call that returns it. To be called before anything can change the tenant.
    pub fn note_use(&self) {
        // SAFETY: a backend is single-threaded; USER is only written at load.
        unsafe {
            if !is_resolved() {
                USER();
                if self.is_kept && self.forgotten == FORGOTTEN {
                    *addr_of_mut!(CURRENT) = self.current;
                }
            }
        }
    }

    /// What tells it from others, as long as a transaction does not use very many.
    pub fn number(&self) -> u32 {
        self.current.number
    }

    /// A datum of a form, where it has that; not a copy.
    pub fn datum(&self, form: Form) -> Option<pg_sys::Datum> {
        let Current { text, uuid, bigint, .. } = self.current;
        match form {
            Form::Text => Some(pg_sys::Datum::from(text)),
            Form::Uuid => (!uuid.is_null()).then(|| pg_sys::Datum::from(uuid)),
            Form::Bigint => bigint.map(pg_sys::Datum::from),
        }
    }
}

/// The current tenant, where there is one and nothing refuses it.
#[inline]
pub fn known() -> Option<Known> {
    static mut FOUND: Known = Known { current: UNRESOLVED, is_kept: false, forgotten: 0 };
    #[pg_guard]
    unsafe extern "C-unwind" fn find() {
        // SAFETY: FINDER is only written at load; the pointers it returns are to live `Forms`.
        unsafe {
            let forgotten = FORGOTTEN;
            let (current, is_kept) = match FINDER() {
                Resolved::Kept(forms) => (of(&*forms), true),
                Resolved::Passing(forms) => (of(&*forms), false),
                Resolved::None => (UNRESOLVED, false),
            };
            FOUND = Known { current, is_kept, forgotten };
        }
    }
    // SAFETY: reads backend-local state by value.
    unsafe {
        if is_resolved() {
            return Some(Known { current: *addr_of_mut!(CURRENT), is_kept: true, forgotten: FORGOTTEN });
        }
        find();
        let Known { current, is_kept, forgotten } = FOUND;
        (!current.text.is_null()).then_some(Known { current, is_kept, forgotten })
    }
}

fn of(forms: &Forms) -> Current {
    Current {
        text: forms.text.as_ptr(),
        uuid: forms.uuid.as_ref().map_or(std::ptr::null(), |uuid| uuid),
        bigint: forms.bigint,
        number: forms.number,
    }
}

/// Makes the next call resolve the tenant anew. Safe anywhere: no allocation, no error.
pub fn forget() {
    super::member::forget();
    super::scope::forget();
    // SAFETY: a backend is single-threaded, and no reference to CURRENT outlives a statement of this file.
    unsafe {
        *addr_of_mut!(CURRENT) = UNRESOLVED;
        FORGOTTEN = FORGOTTEN.wrapping_add(1);
    }
}

/// Whether the current tenant is known, so that nothing has to be asked.
pub fn is_resolved() -> bool {
    // SAFETY: reads a pointer of backend-local state.
    unsafe { !(*addr_of_mut!(CURRENT)).text.is_null() }
}

/// Resolves, remembers what may be remembered, and returns the datum, or none for SQL NULL.
#[pg_guard]
unsafe extern "C-unwind" fn resolve(form: Form, is_null: *mut bool) -> pg_sys::Datum {
    // SAFETY: RESOLVER is only written at load; the pointers it returns are to live `Forms` (see `Resolved`).
    unsafe {
        let (resolver, forgotten) = (RESOLVER, FORGOTTEN);
        let (forms, kept) = match resolver(form) {
            Resolved::Kept(forms) => (&*forms, true),
            Resolved::Passing(forms) => (&*forms, false),
            Resolved::None => {
                *is_null = true;
                return pg_sys::Datum::from(0);
            }
        };
        *is_null = false;
        if kept && forgotten == FORGOTTEN {
            *addr_of_mut!(CURRENT) = of(forms);
        }
        let copy = |from: *const u8, size: usize| {
            let to = pg_sys::palloc(size).cast::<u8>();
            std::ptr::copy_nonoverlapping(from, to, size);
            pg_sys::Datum::from(to)
        };
        match (form, forms.uuid.as_ref(), forms.bigint) {
            (Form::Text, _, _) if kept => pg_sys::Datum::from(forms.text.as_ptr()),
            (Form::Text, _, _) => copy(forms.text.as_ptr().cast(), size_of_val(&*forms.text)),
            (Form::Uuid, Some(uuid), _) if kept => pg_sys::Datum::from(uuid.as_ptr()),
            (Form::Uuid, Some(uuid), _) => copy(uuid.as_ptr(), uuid.len()),
            (Form::Bigint, _, Some(bigint)) => pg_sys::Datum::from(bigint),
            // The resolver raises before this; NULL shows no row and lets no write through.
            (Form::Uuid, None, _) | (Form::Bigint, _, None) => {
                *is_null = true;
                pg_sys::Datum::from(0)
            }
        }
    }
}

macro_rules! accessor {
    ($name:ident, $info:ident, $form:expr, $fast:expr) => {
        // SAFETY (of the name): no other library exports a symbol with the prefix `tenancy_`.
        /// Called by PostgreSQL with a valid call frame; it takes no arguments.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
            // SAFETY: PostgreSQL passes a valid `fcinfo`; CURRENT is backend-local and read by value.
            unsafe {
                super::running::note_use();
                let fast: fn(&Current) -> Option<pg_sys::Datum> = $fast;
                if let Some(datum) = fast(&*addr_of_mut!(CURRENT)) {
                    return datum;
                }
                resolve($form, &mut (*fcinfo).isnull)
            }
        }

        super::version_1!($info);
    };
}

accessor!(tenancy_current_tenant, pg_finfo_tenancy_current_tenant, Form::Text, |current| {
    (!current.text.is_null()).then(|| pg_sys::Datum::from(current.text))
});
accessor!(tenancy_current_tenant_uuid, pg_finfo_tenancy_current_tenant_uuid, Form::Uuid, |current| {
    (!current.uuid.is_null()).then(|| pg_sys::Datum::from(current.uuid))
});
accessor!(tenancy_current_tenant_bigint, pg_finfo_tenancy_current_tenant_bigint, Form::Bigint, |current| {
    current.bigint.map(pg_sys::Datum::from)
});

/// Where a row is written: whether the value of its tenant column is the current tenant, or an error. `$same` compares what is not null, inside `unsafe`.
macro_rules! check {
    ($name:ident, $info:ident, $form:expr, $same:expr) => {
        // SAFETY (of the name): no other library exports a symbol with the prefix `tenancy_`.
        /// Called by PostgreSQL with a valid call frame; it takes one argument of the type that its declaration has.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $name(fcinfo: pg_sys::FunctionCallInfo) -> pg_sys::Datum {
            // SAFETY: PostgreSQL passes a valid `fcinfo` with one argument; CURRENT is backend-local. An error skips plain data.
            unsafe {
                super::running::note_use();
                let value = *(*fcinfo).args.as_ptr();
                let same: unsafe fn(pg_sys::Datum, &Current) -> bool = $same;
                let is_own = |current: &Current| !value.isnull && same(value.value, current);
                // A copy: to read a value may take a lock, and with it the news that the tenant is to be asked for anew.
                let current = *addr_of_mut!(CURRENT);
                if is_own(&current) {
                    return true.into();
                }
                (resolved($form).is_some_and(|current| is_own(&current)) || deny()).into()
            }
        }

        super::version_1!($info);
    };
}

/// Resolves the current tenant, in one form; none for SQL NULL.
unsafe fn resolved(form: Form) -> Option<Current> {
    let mut is_null = false;
    // SAFETY: raises where there is no tenant; the datum is of the type of the form.
    let datum = unsafe { resolve(form, &mut is_null) };
    (!is_null).then(|| match form {
        Form::Text => Current { text: datum.cast_mut_ptr(), ..UNRESOLVED },
        Form::Uuid => Current { uuid: datum.cast_mut_ptr(), ..UNRESOLVED },
        Form::Bigint => Current { bigint: Some(datum.value() as i64), ..UNRESOLVED },
    })
}

/// Raises an error.
#[cold]
#[pg_guard]
unsafe extern "C-unwind" fn deny() -> bool {
    // SAFETY: written once, at load.
    unsafe { DENIER() }
}

mod raw {
    use super::*;
    unsafe extern "C-unwind" {
        pub fn pg_detoast_datum_packed(datum: *mut pg_sys::varlena) -> *mut pg_sys::varlena;
    }
}

check!(tenancy_is_own_text, pg_finfo_tenancy_is_own_text, Form::Text, |value, current| {
    let bytes = |text: *mut pg_sys::varlena| {
        // However it is stored; a copy lives until the row is written.
        let text = raw::pg_detoast_datum_packed(text);
        let start = pgrx::varlena::vardata_any(text).cast::<u8>();
        std::slice::from_raw_parts(start, pgrx::varlena::varsize_any_exhdr(text))
    };
    !current.text.is_null() && bytes(value.cast_mut_ptr()) == bytes(current.text.cast_mut().cast())
});
check!(tenancy_is_own_uuid, pg_finfo_tenancy_is_own_uuid, Form::Uuid, |value, current| {
    !current.uuid.is_null() && *value.cast_mut_ptr::<[u8; 16]>() == *current.uuid
});
check!(tenancy_is_own_bigint, pg_finfo_tenancy_is_own_bigint, Form::Bigint, |value, current| {
    current.bigint == Some(value.value() as i64)
});
check!(tenancy_is_own_integer, pg_finfo_tenancy_is_own_integer, Form::Bigint, |value, current| {
    current.bigint == Some(i64::from(value.value() as i32))
});
