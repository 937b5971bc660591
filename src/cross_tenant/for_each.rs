//! A statement in the context of each tenant.

use serde_json::json;

use super::{log, tenants};
use crate::context;
use crate::error::Error;
use crate::pg::{
    self,
    each::{Arguments, Visits},
};
use crate::registry::{self, Status};

pub fn init() {
    pg::each::init(visits);
}

/// Whom a call of `tenancy.for_each_tenant` visits; raises where it must not.
fn visits(arguments: &Arguments) -> Visits {
    let Some(sql) = &arguments.sql else { Error::NullArgument("sql").raise() };
    context::refuse_in_context("for_each_tenant");
    pg::refuse_on_standby(c"tenancy.for_each_tenant()");
    let role = arguments.role.as_ref().map(|name| match pg::user::named(name) {
        Some(role) if pg::user::may_become(role) => role,
        _ => Error::Argument("role", "must be a role that the caller may SET ROLE to").raise(),
    });
    if pg::user::is_exempt_role(role) {
        Error::Exempt("tenancy.for_each_tenant()").raise()
    }
    let is_active = |id: &_| registry::standing(id).is_ok_and(|of| of.status == Status::Active);
    let active = || registry::registered().into_iter().filter(is_active).collect::<Vec<_>>();
    let visited = match &arguments.tenants {
        None => active(),
        Some(named) => tenants(Some(named), active),
    };
    // Before the first of them is visited.
    for tenant in &visited {
        match registry::standing(tenant) {
            Ok(standing) if standing.status == Status::Active => {}
            Ok(standing) => Error::NotActive(*tenant, standing.status.as_str()).raise(),
            Err(error) => error.raise(),
        }
    }
    let name = arguments.role.as_ref().map(|name| name.to_utf8());
    log::statement("FOR_EACH_TENANT", json!({"tenants": visited.len(), "role": name}), &sql.to_utf8());
    pg::insert::flush();
    Visits { sql: sql.clone(), tenants: visited, role }
}
