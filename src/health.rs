//! Is a tenant well, and the extension itself? What SQL (`sql/api/health.sql`) cannot ask.

use pgrx::prelude::*;

use crate::{context, pg, usage};

/// Returns whether the client, and not only the owner of the function that asks, may see all tenants: a superuser, a role with
/// BYPASSRLS or a member of `pg_monitor`, where no tenant is set. Volatile. For the health functions, which have their owner's rights.
#[pg_extern(schema = "_tenancy", volatile, parallel_restricted)]
pub fn client_sees_all_tenants() -> bool {
    pg::user::client_may_monitor() && context::is_unset()
}

/// Returns the version of the library that is loaded, which is another than the extension's where one was updated without the other.
/// Stable. For `tenancy.extension_health`.
#[pg_extern(schema = "_tenancy", stable, parallel_safe)]
pub fn library_version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Returns whether the library was loaded when the server started. Stable. For `tenancy.extension_health`.
#[pg_extern(schema = "_tenancy", stable, parallel_safe)]
pub fn is_preloaded() -> bool {
    usage::is_preloaded()
}
