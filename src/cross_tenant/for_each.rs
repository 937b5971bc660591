//! A statement in the context of each tenant.

use serde_json::json;

use super::{log, registered, tenants};
use crate::context;
use crate::error::Error;
use crate::pg::{
    self,
    each::{Arguments, Visits},
};
use crate::registry::{self, Status};
use crate::scope;

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
    let all = |name: Option<&[u8]>| name == Some(scope::ALL);
    let visited = match &arguments.tenants {
        Some(named) if !named.iter().any(all) => {
            let named = tenants(Some(named));
            for tenant in &named {
                if let Err(error) = registry::standing(tenant) {
                    error.raise()
                }
            }
            named
        }
        _ => {
            let is_active = |id: &_| registry::standing(id).is_ok_and(|of| of.status == Status::Active);
            registered().into_iter().filter(is_active).collect()
        }
    };
    log::statement("FOR_EACH_TENANT", json!({"tenants": visited.len()}), &sql.to_utf8());
    Visits { sql: sql.clone(), tenants: visited, role }
}
