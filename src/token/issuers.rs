//! Whose tokens are trusted, by which keys, and for which tenants?
//!
//! Guarantees: an answer is never older than the last invalidation that this backend has received; a change to `_tenancy.issuers`
//! sends one to every backend.
//! Reads the table directly (`pg::scan`), so its columns have fixed places; a test checks it.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

use super::jwt::Keys;
use crate::error::Error;
use crate::pg::{self, scan::Cached, text::Text};
use crate::tenant::TenantId;

// The columns of _tenancy.issuers.
const TENANT_ID: i32 = 2;
const JWKS: i32 = 3;
const AUDIENCE: i32 = 4;
const TENANT_CLAIM: i32 = 5;
const USER_CLAIM: i32 = 6;
const SINGLE_USE: i32 = 7;

/// What is known of an issuer, for one tenant or for all.
pub struct Issuer {
    /// The only one that it is trusted for.
    pub tenant: Option<TenantId>,
    pub keys: Keys,
    pub audience: Option<Vec<String>>,
    pub tenant_claim: Option<String>,
    pub user_claim: Option<String>,
    pub is_single_use: bool,
}

type Entries = Rc<[Issuer]>;
/// What was read, and in which generation.
type Read = (u64, Entries);

/// Issuers kept per backend; past this it starts afresh.
const CACHED: usize = 1024;

thread_local! {
    static ISSUERS: RefCell<HashMap<Box<[u8]>, Read>> = RefCell::new(HashMap::new());
    static TABLE: Cached = const { Cached::new(c"issuers", c"issuers_pkey") };
}

pub fn init() {
    pg::inval::listen(|changed| {
        if TABLE.with(|table| table.note(changed)) {
            pg::accessor::forget();
        }
    });
}

/// Changes whenever any issuer may have.
pub fn generation() -> u64 {
    TABLE.with(Cached::generation)
}

/// What is known of the issuer of that name.
pub fn of(name: &Text) -> Result<Entries, Error<'static>> {
    let generation = generation();
    let is_current = |(of, _): &&Read| *of == generation;
    let known = ISSUERS
        .with_borrow(|all| all.get(name.as_bytes()).filter(is_current).map(|(_, entries)| entries.clone()));
    if let Some(entries) = known {
        return Ok(entries);
    }
    let relations = TABLE.with(Cached::relations).ok_or(Error::NotInstalled)?;
    let generation = self::generation();
    let rows = pg::scan::rows(relations, &[name.as_bytes()], read);
    let entries: Entries = rows.into_iter().collect::<Result<Vec<_>, _>>()?.into();
    ISSUERS.with_borrow_mut(|all| {
        if all.len() >= CACHED {
            all.clear();
        }
        // Names that are not known are anybody's to make up.
        if !entries.is_empty() {
            all.insert(name.as_bytes().into(), (generation, entries.clone()));
        }
    });
    Ok(entries)
}

fn read(row: &pg::scan::Row) -> Result<Issuer, Error<'static>> {
    let broken = || Error::Internal("an issuer of tokens that is not well-formed");
    let text = |column| row.text(column).map(|text| text.to_utf8().into_owned());
    let tenant = row.text(TENANT_ID).ok_or_else(broken)?;
    let tenant = match tenant.as_bytes() {
        b"" => None,
        id => Some(TenantId::parse(id).map_err(|_| broken())?),
    };
    let document = row.json(JWKS).ok_or_else(broken)?;
    let audience = match row.json(AUDIENCE) {
        None => None,
        Some(list) => Some(serde_json::from_value(list).map_err(|_| broken())?),
    };
    Ok(Issuer {
        tenant,
        keys: Keys::parse(&document).map_err(|_| broken())?,
        audience,
        tenant_claim: text(TENANT_CLAIM),
        user_claim: text(USER_CLAIM),
        is_single_use: row.boolean(SINGLE_USE).ok_or_else(broken)?,
    })
}
