//! What SQL calls: who the current user is, which role it has, and whether somebody is a member.

use pgrx::prelude::*;

use super::role;
use crate::context;
use crate::error::Error;
use crate::pg::{self, member::Resolver, text::Text};
use crate::tenant::TenantId;

pub fn init() {
    pg::member::init(Resolver {
        user: context::confirmed_user,
        has_role: |roles| {
            current_role().is_some_and(|role| roles.iter().any(|wanted| *wanted == role.as_bytes()))
        },
    });
}

/// The role of the context's user in the context's tenant; none where it is no active member, or no user is known.
fn current_role() -> Option<Text> {
    // Who crosses to several is a member of none.
    if context::is_crossing() {
        return None;
    }
    let tenant = context::current()?;
    let user = context::user_id()?;
    role(&tenant, &user).unwrap_or_else(|error| error.raise())
}

/// Returns whether a user is an active member of a tenant. In the context of a tenant, about that tenant only; without one, for a role
/// that may set any tenant, is exempt from row-level security, or inherits `pg_monitor`. Raises 42501 (`TENANT_ACCESS_DENIED`), 22023
/// (`TENANT_ID_INVALID`), the errors of `current_tenant()`. Stable. PUBLIC may call it.
#[pg_extern(schema = "tenancy", stable, strict, parallel_safe)]
pub fn is_member(user_id: Text, tenant_id: Text) -> bool {
    let tenant = match TenantId::parse(tenant_id.as_bytes()) {
        Ok(id) => id,
        Err(malformed) => Error::IdInvalid(malformed).raise(),
    };
    pg::inval::accept();
    let is_free = (pg::user::may_set(c"tenancy.tenant_id") || pg::user::may_monitor()) && context::is_unset();
    if !is_free && context::required() != tenant {
        Error::OfAnotherTenant("members").raise()
    }
    role(&tenant, &user_id).unwrap_or_else(|error| error.raise()).is_some()
}
