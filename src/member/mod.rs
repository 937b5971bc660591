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

use crate::error::Error;
use crate::pg::{self, scan::Cached, text::Text};
use crate::tenant::TenantId;

// The columns of _tenancy.members.
const ROLE: i32 = 3;
const STATUS: i32 = 4;

/// Members kept per backend; past this it starts afresh.
const CACHED: usize = 16_384;

/// The tenant's id, a NUL, the user's.
type Key = Box<[u8]>;

thread_local! {
    static TABLE: Cached = const { Cached::new(c"members", c"members_pkey") };
    /// Roles of active members, and in which generation they were read.
    static ROLES: RefCell<HashMap<Key, (u64, Text)>> = RefCell::new(HashMap::new());
}

pub fn init() {
    pg::inval::listen(|changed| {
        if TABLE.with(|table| table.note(changed)) {
            pg::accessor::forget();
        }
    });
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
