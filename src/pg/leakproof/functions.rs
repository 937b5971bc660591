//! What is known of functions, so that nothing has to be looked up for each condition of each query.

use std::cell::RefCell;
use std::ffi::{c_char, c_int};

use pgrx::{FromDatum, pg_sys, prelude::*};
use rustc_hash::FxHashMap;

use super::Check;
use crate::pg::text::Text;

/// Says on what condition a function is trusted, if it is: by its library, empty for the server itself, and the symbol in it.
pub type Trust = fn(&[u8], &[u8]) -> Option<Check>;

/// What is known of a function, by what cannot be copied under another name: only a superuser makes one in C. Plain data.
#[derive(Clone, Copy)]
pub struct Function {
    number: pg_sys::Oid,
    pub returns: pg_sys::Oid,
    pub is_in_c: bool,
    pub is_leakproof: bool,
    pub is_immutable: bool,
    /// On what condition it is trusted, if it is; none as long as nobody has asked, because that may wait for a table.
    check: Option<Option<Check>>,
    /// One of those that take any value (`TAKE_ANY`), of those that are `FLAT`, of those that make queries (`MAKE_QUERIES`), and of those
    /// by which policies ask for the tenant (`TENANT`).
    pub takes_any: bool,
    pub is_flat: bool,
    pub makes_queries: bool,
    pub is_tenant: bool,
}

/// Functions of such types that do not: they go through a value from one end to the other.
const FLAT: [&str; 2] = ["jsonb_to_tsvector_byid", "jsonb_string_to_tsvector_byid"];

/// Functions of PostgreSQL's own that take any value, besides those that are LEAKPROOF: an index that is partial may have them in its key,
/// for what it does not hold is looked at as well.
const TAKE_ANY: [&str; 8] = [
    "lower",
    "upper",
    "jsonb_object_field",
    "jsonb_object_field_text",
    "jsonb_array_element",
    "jsonb_array_element_text",
    "jsonb_extract_path",
    "jsonb_extract_path_text",
];

/// Functions that make a text search query of a text; with the configuration of the session they are not immutable.
const MAKE_QUERIES: [&str; 4] = ["to_tsquery", "plainto_tsquery", "phraseto_tsquery", "websearch_to_tsquery"];

/// Functions of the extension by which policies ask for the tenant.
const TENANT: [&str; 4] = [
    "tenancy_current_tenant",
    "tenancy_current_tenant_uuid",
    "tenancy_current_tenant_bigint",
    "tenancy_in_scope",
];

/// Functions that were asked for, until any function changes.
#[derive(Default)]
struct Known {
    functions: FxHashMap<pg_sys::Oid, Function>,
    changes: u64,
    /// How often it has changed which are trusted.
    trusts: u64,
}

/// As many functions are known at a time.
const MOST_KNOWN: usize = 4096;

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::new(Known::default());
}
static mut TRUST: Trust = |_, _| None;

/// Called once, when the library is loaded.
pub fn init(trust: Trust) {
    // SAFETY: what is called clears a map.
    unsafe {
        TRUST = trust;
        let cache = pg_sys::SysCacheIdentifier::PROCOID as c_int;
        pg_sys::CacheRegisterSyscacheCallback(cache, Some(forget), pg_sys::Datum::from(0));
    }
}

/// To be called when it may have changed which functions are trusted, or when that is rolled back.
pub fn forget_trust() {
    KNOWN.with_borrow_mut(|known| {
        known.functions.values_mut().for_each(|function| function.check = None);
        known.trusts += 1;
    });
}

#[pg_guard]
unsafe extern "C-unwind" fn forget(_arg: pg_sys::Datum, _cache: c_int, _hash: u32) {
    KNOWN.with_borrow_mut(|known| {
        known.functions.clear();
        known.changes += 1;
    });
}

/// How often functions have changed.
pub fn changes() -> u64 {
    KNOWN.with_borrow(|known| known.changes)
}

/// What is known of a function; none where there is none.
#[inline]
pub fn function(number: pg_sys::Oid) -> Option<Function> {
    KNOWN.with_borrow(|known| known.functions.get(&number).copied()).or_else(|| get_to_know(number))
}

/// Behind a guard of its own, because PostgreSQL's walkers call what asks: what raises an error there must not unwind through them.
#[cold]
fn get_to_know(number: pg_sys::Oid) -> Option<Function> {
    #[pg_guard]
    unsafe extern "C-unwind" fn find(number: pg_sys::Oid, found: *mut Option<Function>) {
        let changes = changes();
        let function = look_up(number);
        KNOWN.with_borrow_mut(|known| {
            if known.functions.len() >= MOST_KNOWN {
                known.functions.clear();
            }
            // What has changed meanwhile is looked up again.
            if let Some(function) = function
                && known.changes == changes
            {
                known.functions.insert(number, function);
            }
        });
        // SAFETY: of the caller's frame.
        unsafe { *found = function }
    }
    let mut found = None;
    // SAFETY: a frame of plain data, which an error may skip.
    unsafe { find(number, &mut found) }
    found
}

fn look_up(number: pg_sys::Oid) -> Option<Function> {
    let cache = pg_sys::SysCacheIdentifier::PROCOID as c_int;
    // SAFETY: the entry of the cache is held while it is read; its fixed part has these fields, and texts are copied.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(number));
        if tuple.is_null() {
            return None;
        }
        let row = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>();
        let (returns, is_leakproof, volatility) =
            ((*row).prorettype, (*row).proleakproof, (*row).provolatile);
        let symbol = symbol(tuple, (*row).prolang);
        pg_sys::ReleaseSysCache(tuple);
        let its = symbol.as_ref().map(|(library, symbol)| (library.as_bytes(), symbol.as_bytes()));
        let is_one_of = |library: &str, symbols: &[&str]| {
            its.is_some_and(|(its_library, its)| {
                its_library == library.as_bytes() && symbols.iter().any(|symbol| its == symbol.as_bytes())
            })
        };
        let is_built_in = number.to_u32() < pg_sys::FirstNormalObjectId;
        Some(Function {
            number,
            returns,
            is_in_c: its.is_some(),
            is_leakproof,
            is_immutable: volatility == pg_sys::PROVOLATILE_IMMUTABLE as c_char,
            check: None,
            takes_any: is_built_in && is_one_of("", &TAKE_ANY),
            is_flat: is_built_in && is_one_of("", &FLAT),
            makes_queries: is_built_in && is_one_of("", &MAKE_QUERIES),
            is_tenant: is_one_of("tenancy", &TENANT),
        })
    }
}

/// The library of a function in C, and the symbol in it.
unsafe fn symbol(tuple: pg_sys::HeapTuple, language: pg_sys::Oid) -> Option<(Text, Text)> {
    const INTERNAL: u32 = 12;
    const C: u32 = 13;
    // SAFETY: an entry of the cache of functions, which is held.
    unsafe {
        let text = |column: u32| {
            let cache = pg_sys::SysCacheIdentifier::PROCOID as c_int;
            let mut is_null = false;
            let datum = pg_sys::SysCacheGetAttr(cache, tuple, column as pg_sys::AttrNumber, &mut is_null);
            Text::from_datum(datum, is_null)
        };
        let library = match language.to_u32() {
            INTERNAL => Text::of(b""),
            C => {
                let path = text(pg_sys::Anum_pg_proc_probin)?;
                Text::of(path.as_bytes().strip_prefix(b"$libdir/").unwrap_or(path.as_bytes()))
            }
            _ => return None,
        };
        Some((library, text(pg_sys::Anum_pg_proc_prosrc)?))
    }
}

/// The library of a function in C, and the symbol in it, by its number.
fn symbol_of(number: pg_sys::Oid) -> Option<(Text, Text)> {
    // SAFETY: the entry of the cache is held while it is read.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::PROCOID as c_int;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(number));
        if tuple.is_null() {
            return None;
        }
        let language = (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>()).prolang;
        let found = symbol(tuple, language);
        pg_sys::ReleaseSysCache(tuple);
        found
    }
}

/// Whether a function is the one of that symbol in the library of that name.
pub fn is_symbol(number: pg_sys::Oid, library: &[u8], name: &[u8]) -> bool {
    symbol_of(number).is_some_and(|(its, symbol)| its.as_bytes() == library && symbol.as_bytes() == name)
}

impl Function {
    /// One of PostgreSQL's own, in C.
    pub fn is_built_in(&self) -> bool {
        self.is_in_c && self.number.to_u32() < pg_sys::FirstNormalObjectId
    }

    /// Whether it is trusted with any arguments.
    pub fn is_plain(&self) -> bool {
        self.is_leakproof || self.check() == Some(Check::Nothing)
    }

    /// On what condition it is trusted, if it is.
    #[inline]
    pub fn check(&self) -> Option<Check> {
        self.check.unwrap_or_else(|| self.ask())
    }

    /// Reads a table, which may be locked; behind a guard of its own, as `get_to_know`.
    #[cold]
    fn ask(&self) -> Option<Check> {
        #[pg_guard]
        unsafe extern "C-unwind" fn find(number: pg_sys::Oid, found: *mut Option<Check>) {
            let trusts = KNOWN.with_borrow(|known| known.trusts);
            // SAFETY: written once, when the library is loaded.
            let trust = unsafe { TRUST };
            let check =
                symbol_of(number).and_then(|(library, symbol)| trust(library.as_bytes(), symbol.as_bytes()));
            KNOWN.with_borrow_mut(|known| {
                // What has changed meanwhile is asked again.
                if known.trusts == trusts
                    && let Some(kept) = known.functions.get_mut(&number)
                {
                    kept.check = Some(check);
                }
            });
            // SAFETY: of the caller's frame.
            unsafe { *found = check }
        }
        let mut found = None;
        // SAFETY: a frame of plain data, which an error may skip.
        unsafe { find(self.number, &mut found) }
        found
    }
}
