//! In which words an error is told: message, DETAIL and HINT, in PostgreSQL's style.

use serde_json::json;

use super::{Error, Wording};

const SET_LINE: &str = "Set the tenant in the transaction that uses it: BEGIN; SET LOCAL tenancy.tenant_id = '<tenant>'; ... COMMIT;";
const END_LINE: &str = "End the scope first: SELECT tenancy.end_cross_tenant();";

impl Error<'_> {
    pub(super) fn wording(&self) -> Wording {
        let (code, message, detail, hint) = match self {
            Error::ContextMissing => {
                ("TENANT_CONTEXT_MISSING", "no tenant is set".to_owned(), json!({}), SET_LINE)
            }
            // Whose it was is nothing for whoever got the connection next.
            Error::ContextStale => (
                "TENANT_CONTEXT_MISSING",
                "tenant context was set in an earlier transaction".to_owned(),
                json!({"session_context": "refuse"}),
                match crate::pg::scope::is_given() {
                    true => "End the scope, and begin it without a duration in each transaction: SELECT tenancy.end_cross_tenant();",
                    false => SET_LINE,
                },
            ),
            Error::NodesNotTold => (
                "TENANT_CONTEXT_MISSING",
                "nodes of Citus were not told of the tenant".to_owned(),
                json!({"citus.propagate_set_commands": "local"}),
                "They are told by one command alone, outside savepoints: BEGIN; SET LOCAL tenancy.tenant_id = '<tenant>'; ... COMMIT;",
            ),
            Error::ChangedOnNode => (
                "TENANT_ACCESS_DENIED",
                "tenant cannot change in a session that Citus has on a node".to_owned(),
                json!({}),
                "Set it in the session of the client, in a statement that reads no distributed table.",
            ),
            Error::OpenOnNodes(table) => (
                "PROTECTION_WEAKENED",
                format!("table \"{table}\" is not isolated on the nodes of Citus"),
                json!({"relation": table, "problem": "policies that are permissive there"}),
                "Its owner has them isolate, each by itself: SELECT tenancy.distribute('<table>');",
            ),
            // What stands for the tenants of a scope is no tenant's id.
            Error::Sealed(id) if id.is_scope() => (
                "TENANT_ACCESS_DENIED",
                "transaction is sealed to a cross-tenant scope".to_owned(),
                json!({"cross_tenant": true, "sealed": true}),
                "Use one transaction for each tenant or scope.",
            ),
            Error::Sealed(id) => (
                "TENANT_ACCESS_DENIED",
                format!("transaction is sealed to tenant \"{}\"", id.as_str()),
                json!({"tenant_id": id.as_str(), "sealed": true}),
                "Use one transaction for each tenant.",
            ),
            Error::Unsealable(id) => (
                "TENANT_ACCESS_DENIED",
                "transaction began before it could be sealed".to_owned(),
                json!({"tenant_id": id.as_str(), "sealed": false}),
                "tenancy.seal needs the library from the start of a connection: add tenancy to shared_preload_libraries or session_preload_libraries.",
            ),
            Error::Overridden => (
                "TENANT_ACCESS_DENIED",
                "connection was started with a tenancy parameter that its role must not set".to_owned(),
                json!({}),
                "Connect without it, or have the role granted SET on the parameter.",
            ),
            Error::CursorOfAnother => (
                "TENANT_ACCESS_DENIED",
                "cursor was opened for another tenant".to_owned(),
                json!({}),
                "Open it again for the current tenant.",
            ),
            Error::ChangedInStatement => (
                "TENANT_ACCESS_DENIED",
                "tenant cannot change while a statement reads or writes its rows".to_owned(),
                json!({}),
                "Set the tenant in a statement of its own. What visits several tenants is a procedure: CALL, or DO.",
            ),
            Error::PlannedEarly => (
                "TENANT_ACCESS_DENIED",
                "statement was planned before library \"tenancy\" was loaded".to_owned(),
                json!({}),
                "Run it again. To have the library loaded in time, add tenancy to session_preload_libraries or shared_preload_libraries.",
            ),
            Error::KeptCursor => (
                "TENANT_ACCESS_DENIED",
                "cursor on a protected table cannot outlive its transaction".to_owned(),
                json!({}),
                "Declare it without WITH HOLD, and fetch its rows in the transaction that set the tenant.",
            ),
            Error::Bypassed(table) => (
                "TENANT_ACCESS_DENIED",
                format!("isolation of table \"{table}\" is bypassed"),
                json!({"relation": table, "bypass_guard": "refuse"}),
                "Use a role under row-level security, or say that the rows of all tenants are meant: SET LOCAL row_security = off;",
            ),
            Error::TruncatedFor(id, table) if id.is_scope() => (
                "TENANT_ACCESS_DENIED",
                format!("table \"{table}\" cannot be truncated in a cross-tenant scope"),
                json!({"cross_tenant": true, "relation": table}),
                "TRUNCATE would remove the rows of all tenants: use DELETE.",
            ),
            Error::TruncatedFor(id, table) => (
                "TENANT_ACCESS_DENIED",
                format!("table \"{table}\" cannot be truncated in the context of a tenant"),
                json!({"tenant_id": id.as_str(), "relation": table}),
                "TRUNCATE would remove the rows of all tenants: use DELETE.",
            ),
            Error::WriteAcrossTenants(id) => (
                "TENANT_ACCESS_DENIED",
                format!("row does not belong to tenant \"{}\"", id.as_str()),
                json!({"tenant_id": id.as_str()}),
                "Leave the tenant column out: its default is the current tenant.",
            ),
            Error::NotFound(id) => (
                "TENANT_NOT_FOUND",
                format!("tenant \"{}\" does not exist", id.as_str()),
                json!({"tenant_id": id.as_str()}),
                "An administrator registers it with: SELECT tenancy.create_tenant('<tenant>');",
            ),
            Error::NotActive(id, status) => (
                "TENANT_SUSPENDED",
                format!("tenant \"{}\" is {status}", id.as_str()),
                json!({"tenant_id": id.as_str(), "status": status}),
                "An administrator lets it in again with: SELECT tenancy.resume_tenant('<tenant>');",
            ),
            Error::IdInvalid(malformed) => (
                "TENANT_ID_INVALID",
                "malformed tenant id".to_owned(),
                json!({"reason": malformed.reason()}),
                "A tenant id has 1 to 128 letters, digits or characters of . _ : @ + -",
            ),
            Error::NoForm(id, form) => (
                "TENANT_ID_INVALID",
                format!("tenant id \"{}\" is not a {form}", id.as_str()),
                json!({"tenant_id": id.as_str(), "type": form}),
                "The table's tenant column and the tenant's id must be of the same form.",
            ),
            Error::Weakened(table, problem) => (
                "PROTECTION_WEAKENED",
                format!("protected table \"{table}\" would lose its isolation"),
                json!({"relation": table, "problem": problem}),
                "To give its protection up: SELECT tenancy.unprotect('<table>');",
            ),
            Error::MadeUnprotected(table) => (
                "PROTECTION_WEAKENED",
                format!("table \"{table}\" would not be protected, as its schema asks for"),
                json!({"relation": table, "problem": "EXPLAIN ANALYZE fires no event trigger"}),
                "Make the table without EXPLAIN ANALYZE, and explain the query alone.",
            ),
            Error::ProtectionChanged => (
                "PROTECTION_CHANGED",
                "could not serialize access: what is protected has changed".to_owned(),
                json!({}),
                "Try the transaction again, or change tables at READ COMMITTED.",
            ),
            Error::Moved => (
                "PROTECTION_CHANGED",
                "could not serialize access: rows were moved to another partition".to_owned(),
                json!({}),
                "Try the transaction again.",
            ),
            Error::ChangeNotEnded(table) => (
                "PROTECTION_WEAKENED",
                format!("change of the protection of table \"{table}\" was not ended"),
                json!({"relation": table}),
                "Change it by tenancy.protect and tenancy.unprotect only.",
            ),
            Error::InContext(id, what) if id.is_scope() => (
                "TENANT_ACCESS_DENIED",
                format!("{what} cannot be called in a cross-tenant scope"),
                json!({"cross_tenant": true}),
                END_LINE,
            ),
            Error::InContext(id, what) => (
                "TENANT_ACCESS_DENIED",
                format!("{what} cannot be called in the context of a tenant"),
                json!({"tenant_id": id.as_str()}),
                "Call it in a session without a tenant: RESET tenancy.tenant_id;",
            ),
            Error::SystemTable(id, table) if id.is_scope() => (
                "TENANT_ACCESS_DENIED",
                format!("system table {table} cannot be changed in a cross-tenant scope"),
                json!({"cross_tenant": true, "kind": "system"}),
                END_LINE,
            ),
            Error::SystemTable(id, table) => (
                "TENANT_ACCESS_DENIED",
                format!("system table {table} cannot be changed in the context of a tenant"),
                json!({"tenant_id": id.as_str(), "kind": "system"}),
                "Change it in a session without a tenant: RESET tenancy.tenant_id;",
            ),
            Error::AuditTable(table) => (
                "TENANT_ACCESS_DENIED",
                format!("rows of audit table {table} cannot be changed"),
                json!({"kind": "audit"}),
                "An audit table takes INSERT and SELECT only.",
            ),
            Error::QuotaExceeded(quota) => (
                "QUOTA_EXCEEDED",
                match quota.tenant {
                    Some(tenant) => {
                        format!("quota of tenant \"{}\" for \"{}\" exceeded", tenant.as_str(), quota.resource)
                    }
                    None => format!("quota for \"{}\" exceeded", quota.resource),
                },
                quota.detail(),
                "Free some of the resource, or have an administrator raise the limit with tenancy.set_quota.",
            ),
            Error::NotMetered(resource) => (
                "RELATION_NOT_METERED",
                format!("table is not metered for \"{}\"", resource.as_str()),
                json!({"resource": resource.as_str()}),
                "Meter it with: SELECT tenancy.meter('<table>', '<resource>');",
            ),
            Error::AlreadyMetered(resource) => (
                "PARAMETER_INVALID",
                format!("table is already metered for \"{}\"", resource.as_str()),
                json!({"resource": resource.as_str()}),
                "Take the meter away first: SELECT tenancy.unmeter('<table>', '<resource>');",
            ),
            Error::Tracked(resource) => (
                "PARAMETER_INVALID",
                format!("resource \"{}\" has usage that was tracked", resource.as_str()),
                json!({"resource": resource.as_str()}),
                "Meter the table for another resource.",
            ),
            Error::NotOwned => (
                "RELATION_NOT_OWNED",
                "must be owner of the table".to_owned(),
                json!({}),
                "Call it as the owner of the table, or as a superuser.",
            ),
            Error::NotPermanent => (
                "RELATION_NOT_SUPPORTED",
                "not a permanent table".to_owned(),
                json!({}),
                "Tables and partitioned tables that are not temporary can be protected.",
            ),
            Error::NotProtected => (
                "RELATION_NOT_PROTECTED",
                "table is not protected".to_owned(),
                json!({}),
                "Only rows that have a tenant can be counted for it: SELECT tenancy.protect('<table>');",
            ),
            Error::OfAnotherTenant(what) => (
                "TENANT_ACCESS_DENIED",
                format!("{what} of another tenant cannot be seen"),
                json!({}),
                "Members of pg_monitor see those of all tenants where no tenant is set.",
            ),
            Error::NotMember(id) => (
                "TENANT_ACCESS_DENIED",
                format!("user is not an active member of tenant \"{}\"", id.as_str()),
                json!({"tenant_id": id.as_str()}),
                "An administrator adds it with: SELECT tenancy.add_member('<tenant>', '<user>', '<role>');",
            ),
            Error::TooManyPrepared(resource) => (
                "TOO_MANY_PREPARED",
                format!("too many prepared transactions use \"{}\" of one tenant", resource.as_str()),
                json!({"resource": resource.as_str()}),
                "End some of them with COMMIT PREPARED or ROLLBACK PREPARED: SELECT gid FROM pg_prepared_xacts;",
            ),
            Error::Argument(name, rule) => (
                "PARAMETER_INVALID",
                format!("{name} {rule}"),
                json!({"argument": name}),
                "The function's description tells more: \\df+ tenancy.*;",
            ),
            Error::NotAudited(trigger) => (
                "RELATION_NOT_AUDITED",
                format!("trigger \"{trigger}\" is not that of an audited table"),
                json!({"trigger": trigger}),
                "Drop the trigger. tenancy.audit makes those of audited tables.",
            ),
            Error::MeteredColumn(name) => (
                "TENANT_COLUMN_NOT_FOUND",
                format!("column \"{name}\" of a metered table is missing or of another type"),
                json!({"column": name}),
                "Meter the table again: tenancy.unmeter, then tenancy.meter.",
            ),
            Error::MeteredTenant(malformed) => (
                "TENANT_ID_INVALID",
                "malformed tenant id in a row of a metered table".to_owned(),
                json!({"reason": malformed.reason()}),
                "Register the tenant first, with: SELECT tenancy.create_tenant('<tenant>');",
            ),
            Error::LedgerIndex(name) => (
                "RELATION_NOT_SUPPORTED",
                format!("index \"{name}\" of the ledger of usage is not supported"),
                json!({"index": name}),
                "Drop it: the open part of the ledger takes B-tree indexes on columns, neither unique nor partial.",
            ),
            Error::TokenInvalid(reason) => (
                "TOKEN_INVALID",
                "token is not accepted".to_owned(),
                json!({"reason": reason}),
                "Ask its issuer for another one.",
            ),
            Error::TokenExpired => (
                "TOKEN_EXPIRED",
                "token has expired".to_owned(),
                json!({}),
                "Ask its issuer for another one.",
            ),
            Error::TokenOfAnother => (
                "TENANT_ACCESS_DENIED",
                "token is for another tenant than tenancy.tenant_id".to_owned(),
                json!({}),
                "Use one of both: RESET tenancy.tenant_id; or RESET tenancy.token;",
            ),
            Error::TokenKept => (
                "PARAMETER_INVALID",
                "token cannot be kept with a role, a database or a function".to_owned(),
                json!({"argument": "tenancy.token"}),
                "Set it where it is used: SELECT tenancy.authenticate($1);",
            ),
            Error::KeyInvalid(argument, reason) => (
                "KEY_INVALID",
                format!("{argument} {reason}"),
                json!({"argument": argument}),
                "Keys are JSON Web Keys: RSA, EC P-256, OKP Ed25519 or oct; a set of them is an object with the array keys.",
            ),
            Error::CredentialsInvalid => (
                "CREDENTIALS_INVALID",
                "credentials are not accepted".to_owned(),
                json!({}),
                "Tenant, user or password may be wrong, or the tenant may ask for its own identity provider.",
            ),
            Error::TooManyFailures => (
                "TOO_MANY_FAILURES",
                "too many failed attempts to sign in".to_owned(),
                json!({}),
                "Try it again in a quarter of an hour.",
            ),
            Error::Internal(message) => (
                "INTERNAL_ERROR",
                format!("internal error: {message}"),
                json!({}),
                "Report it to the maintainers of the extension tenancy.",
            ),
            Error::SeveralTenants => (
                "TENANT_CONTEXT_MISSING",
                "there is no current tenant in a cross-tenant scope".to_owned(),
                json!({"cross_tenant": true}),
                "Name one of the scope's tenants in the tenant column, or end the scope first: SELECT tenancy.end_cross_tenant();",
            ),
            Error::SetInScope => (
                "TENANT_ACCESS_DENIED",
                "tenant cannot be set in a cross-tenant scope".to_owned(),
                json!({"cross_tenant": true}),
                END_LINE,
            ),
            Error::ScopeOver(why) => (
                "TENANT_ACCESS_DENIED",
                match *why {
                    "of another role" => "cross-tenant scope was begun by another role".to_owned(),
                    "revoked" => "cross-tenant scope is no longer granted".to_owned(),
                    "expired" => "cross-tenant scope has expired".to_owned(),
                    _ => "cross-tenant scope has ended".to_owned(),
                },
                json!({"cross_tenant": why}),
                "End it, and begin another one: SELECT tenancy.end_cross_tenant();",
            ),
            Error::ScopeInScope => (
                "TENANT_ACCESS_DENIED",
                "session is already in a cross-tenant scope".to_owned(),
                json!({"cross_tenant": true}),
                END_LINE,
            ),
            Error::ScopeByHand => (
                "TENANT_ACCESS_DENIED",
                "parameter \"tenancy.cross_tenant\" cannot be set".to_owned(),
                json!({"cross_tenant": false}),
                "Begin a scope with: SELECT tenancy.begin_cross_tenant('{<tenant>}', '<reason>');",
            ),
            Error::NotGranted(id) => (
                "TENANT_ACCESS_DENIED",
                format!("permission denied to cross to tenant \"{}\"", id.as_str()),
                json!({"tenant_id": id.as_str()}),
                "An administrator grants it with: SELECT tenancy.grant_cross_tenant('<role>', '{<tenant>}', now() + '1 hour');",
            ),
            Error::NothingGranted => (
                "TENANT_ACCESS_DENIED",
                "permission denied to cross to other tenants".to_owned(),
                json!({"cross_tenant": false}),
                "An administrator grants it with: SELECT tenancy.grant_cross_tenant('<role>', '{<tenant>}', now() + '1 hour');",
            ),
            Error::WriteOutOfScope => (
                "TENANT_ACCESS_DENIED",
                "row does not belong to a tenant of the cross-tenant scope".to_owned(),
                json!({"cross_tenant": true}),
                "Name one of its tenants in the tenant column.",
            ),
            Error::TenantLeft => (
                "TENANT_ACCESS_DENIED",
                "statement that runs for each tenant has set another tenant".to_owned(),
                json!({}),
                "Leave it to tenancy.for_each_tenant() to set the tenant.",
            ),
            Error::Exempt(what) => (
                "TENANT_ACCESS_DENIED",
                format!("{what} cannot isolate a role that is exempt from row-level security"),
                json!({"function": what}),
                "Use a role that is not a superuser and does not have BYPASSRLS: by SET ROLE, or as the argument role of tenancy.for_each_tenant().",
            ),
            Error::ScopeInside => (
                "TENANT_ACCESS_DENIED",
                "cross-tenant scope cannot be begun in a statement that does more than read, or in a SECURITY DEFINER function".to_owned(),
                json!({"cross_tenant": false}),
                "Begin it in a statement of its own: SELECT tenancy.begin_cross_tenant('{<tenant>}', '<reason>');",
            ),
            Error::NullArgument("tenant_id") => (
                "TENANT_ID_INVALID",
                "tenant id must not be null".to_owned(),
                json!({}),
                "To leave the tenant: SELECT tenancy.clear_tenant();",
            ),
            // These have no default.
            Error::NullArgument(name @ ("reason" | "sql" | "tenants")) => (
                "PARAMETER_INVALID",
                format!("{name} must not be null"),
                json!({"argument": name}),
                "The function's description tells more: \\df+ tenancy.*;",
            ),
            Error::NullArgument(name) => (
                "PARAMETER_INVALID",
                format!("{name} must not be null"),
                json!({"argument": name}),
                "Leave it out to use its default.",
            ),
            Error::NotInstalled => (
                "EXTENSION_NOT_INSTALLED",
                "extension \"tenancy\" is not installed in this database".to_owned(),
                json!({}),
                "Install it with: CREATE EXTENSION tenancy;",
            ),
            Error::WouldBeOpen(table) => (
                "EXTENSION_IN_USE",
                format!("cannot drop extension \"tenancy\" because policies of table \"{table}\" would show rows of all tenants"),
                json!({"relation": table}),
                "Without the policies of the extension, its permissive policies are all there is: drop them, or give the table back first: SELECT tenancy.unprotect('<table>');",
            ),
            Error::ExtensionInUse(tables) => (
                "EXTENSION_IN_USE",
                "cannot drop extension \"tenancy\" because tables are protected, metered, audited, watched or migrated by it".to_owned(),
                json!({"tables": tables}),
                "Give them back as they were first: SELECT tenancy.unprotect_all(); with CASCADE, their rows stay hidden from all but superusers and roles with BYPASSRLS.",
            ),
        };
        Wording { code, message, detail, hint }
    }
}
