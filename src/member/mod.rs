//! Is this user a member of that tenant, and in which role?
//!
//! Guarantees: an answer is never older than the last invalidation that this backend has received; a change to `_tenancy.members`
//! sends one to every backend. Costs one index lookup per tenant, user and backend, whatever the number of members.
//! Does not decide who the user is: `context` does.
//!
//! Reads the table directly (`pg::scan`), so its columns have fixed places; a test checks it.

use std::cell::RefCell;
use std::collections::HashMap;

pub mod api;

use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::pg::{self, scan::Cached, text::Text};
use crate::tenant::TenantId;

// The columns of _tenancy.members.
const ROLE: i32 = 3;
const STATUS: i32 = 4;
// And of _tenancy.passwords.
const HASH: i32 = 2;

/// Members kept per backend; past this it starts afresh.
const CACHED: usize = 16_384;

/// The tenant's id, a NUL, the user's.
type Key = Box<[u8]>;

thread_local! {
    static TABLE: Cached = const { Cached::new(c"members", c"members_pkey") };
    static PASSWORDS: Cached = const { Cached::new(c"passwords", c"passwords_pkey") };
    /// Whose password was asked for last, in which generation, and what came of it.
    static STAMP: RefCell<Option<(u64, Text, Option<String>)>> = const { RefCell::new(None) };
    /// Roles of active members, and in which generation they were read.
    static ROLES: RefCell<HashMap<Key, (u64, Text)>> = RefCell::new(HashMap::new());
}

pub fn init() {
    pg::inval::listen(|changed| {
        if TABLE.with(|table| table.note(changed)) | PASSWORDS.with(|table| table.note(changed)) {
            pg::accessor::forget();
        }
    });
}

/// What tells the user's password from an earlier one, and nothing of what it is; none where it has none.
pub fn password_stamp(user: &Text) -> Result<Option<String>, Error<'static>> {
    let generation = PASSWORDS.with(Cached::generation);
    let known = STAMP.with_borrow(|stamp| match stamp {
        Some((of, whose, stamp)) if *of == generation && whose == user => Some(stamp.clone()),
        _ => None,
    });
    if let Some(known) = known {
        return Ok(known);
    }
    let relations = PASSWORDS.with(Cached::relations).ok_or(Error::NotInstalled)?;
    let generation = PASSWORDS.with(Cached::generation);
    let hash = pg::scan::rows(relations, &[user.as_bytes()], |row| row.text(HASH)).pop().flatten();
    let stamp = hash.map(|hash| {
        let digest = Sha256::digest(hash.as_bytes());
        digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect::<String>()
    });
    STAMP.set(Some((generation, user.clone(), stamp.clone())));
    Ok(stamp)
}

/// The user's role in the tenant; none where it is no active member.
pub fn role(tenant: &TenantId, user: &Text) -> Result<Option<Text>, Error<'static>> {
    let key: Key = [tenant.as_bytes(), b"\0", user.as_bytes()].concat().into();
    let generation = TABLE.with(Cached::generation);
    let known = ROLES.with_borrow(|roles| {
        roles.get(&key).filter(|known| known.0 == generation).map(|(_, role)| role.clone())
    });
    if known.is_some() {
        return Ok(known);
    }
    let relations = TABLE.with(Cached::relations).ok_or(Error::NotInstalled)?;
    let generation = TABLE.with(Cached::generation);
    let read = |row: &pg::scan::Row| {
        row.text(STATUS)
            .is_some_and(|status| status.as_bytes() == b"active")
            .then(|| row.text(ROLE))
            .flatten()
    };
    let role = pg::scan::rows(relations, &[tenant.as_bytes(), user.as_bytes()], read).pop().flatten();
    ROLES.with_borrow_mut(|roles| {
        if roles.len() >= CACHED {
            roles.clear();
        }
        // Who is no member is not remembered: names are anybody's to make up.
        match &role {
            Some(role) => drop(roles.insert(key, (generation, role.clone()))),
            None => drop(roles.remove(&key)),
        }
    });
    Ok(role)
}
