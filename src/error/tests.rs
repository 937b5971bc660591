//! Every error has a code of the catalogue, a DETAIL and a HINT in PostgreSQL's style.

use super::*;

#[test]
fn every_error_is_whole() {
    let id = TenantId::parse(b"acme").expect("well-formed");
    let all = [
        Error::ContextMissing,
        Error::ContextStale,
        Error::Sealed(id),
        Error::Unsealable(id),
        Error::Overridden,
        Error::CursorOfAnother,
        Error::ChangedInStatement,
        Error::PlannedEarly,
        Error::KeptCursor,
        Error::Bypassed("orders"),
        Error::TruncatedFor(id, "orders"),
        Error::WriteAcrossTenants(id),
        Error::NotFound(id),
        Error::NotActive(id, "suspended"),
        Error::IdInvalid(Malformed::Character),
        Error::NoForm(id, "uuid"),
        Error::InContext(id, "protect"),
        Error::SystemTable(id, "airports"),
        Error::AuditTable("journal"),
        Error::NullArgument("tenant_id"),
        Error::NullArgument("is_local"),
        Error::QuotaExceeded(&Quota {
            tenant: Some(id),
            resource: "orders",
            period: Some("day"),
            current: 10,
            limit: 10,
            requested: 1,
        }),
        Error::NotMetered(Resource::parse(b"orders").expect("well-formed")),
        Error::AlreadyMetered(Resource::parse(b"orders").expect("well-formed")),
        Error::Tracked(Resource::parse(b"orders").expect("well-formed")),
        Error::NotOwned,
        Error::NotPermanent,
        Error::NotProtected,
        Error::OfAnotherTenant("usage"),
        Error::NotMember(id),
        Error::TooManyPrepared(Resource::parse(b"orders").expect("well-formed")),
        Error::Argument("amount", "must not be negative"),
        Error::NotAudited("mine"),
        Error::MeteredColumn("tenant_id"),
        Error::MeteredTenant(Malformed::Character),
        Error::LedgerIndex("by_name"),
        Error::TokenInvalid("it is malformed"),
        Error::TokenExpired,
        Error::TokenOfAnother,
        Error::TokenKept,
        Error::KeyInvalid("jwks", "has no key"),
        Error::CredentialsInvalid,
        Error::TooManyFailures,
        Error::Internal("none"),
        Error::Sealed(TenantId::scope(1)),
        Error::TruncatedFor(TenantId::scope(1), "orders"),
        Error::InContext(TenantId::scope(1), "protect"),
        Error::SystemTable(TenantId::scope(1), "airports"),
        Error::NullArgument("reason"),
        Error::SeveralTenants,
        Error::SetInScope,
        Error::ScopeOver("revoked"),
        Error::ScopeInScope,
        Error::ScopeByHand,
        Error::NotGranted(id),
        Error::NothingGranted,
        Error::WriteOutOfScope,
        Error::TenantLeft,
        Error::Exempt("tenancy.for_each_tenant()"),
        Error::ScopeInside,
        Error::NotInstalled,
        Error::ExtensionInUse(2),
        Error::WouldBeOpen("orders"),
    ];
    for error in all {
        let (message, detail, hint) = error.texts();
        assert!(CATALOGUE.iter().any(|entry| entry.0 == error.code()), "{}", error.code());
        assert!(detail.starts_with("{\"code\":\""), "{detail}");
        assert!(!message.ends_with('.') && !message.starts_with(char::is_uppercase), "{message}");
        assert!(hint.ends_with(['.', ';', '-']), "{hint}");
    }
}
