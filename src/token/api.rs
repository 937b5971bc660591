//! What SQL calls: judging keys, signing tokens, and using them.

use pgrx::prelude::*;
use serde_json::json;

use super::{jwt, verified};
use crate::error::{Error, internal};
use crate::pg::{
    self,
    text::{Json, Text},
};

/// Raises 22023 (`KEY_INVALID`) unless the document has keys by which tokens can be verified. Immutable. For
/// `tenancy.set_issuer`.
#[pg_extern(schema = "_tenancy", immutable, strict, parallel_safe)]
pub fn check_keys(jwks: Json) {
    // The lines of our own PL/pgSQL, which calls this, would say nothing to its user.
    pg::forget_error_context();
    let document = jwks.value().unwrap_or_default();
    if let Err(reason) = jwt::Keys::parse(&document) {
        Error::KeyInvalid("jwks", reason).raise()
    }
}

/// Returns a token with these claims, signed by a private key. Raises 22023 (`KEY_INVALID`). Volatile. For `tenancy.sign_token`.
#[pg_extern(schema = "_tenancy", volatile, strict)]
pub fn sign(claims: Json, key: Json) -> String {
    pg::forget_error_context();
    let (claims, key) = (claims.value().unwrap_or_default(), key.value().unwrap_or_default());
    jwt::sign(&claims, &key).unwrap_or_else(|reason| Error::KeyInvalid("key", reason).raise())
}

/// Sets `tenancy.token`, as SET LOCAL or SET does, and uses the token up where it is good for one use only. Returns whom it speaks
/// for. Raises 28000 (`TOKEN_INVALID`, `TOKEN_EXPIRED`), the errors of `current_tenant()`. Volatile. For `tenancy.authenticate`.
#[pg_extern(schema = "_tenancy", volatile, strict)]
pub fn use_token(token: Text, is_local: bool) -> Json {
    pg::forget_error_context();
    let identity = verified(token.as_bytes()).unwrap_or_else(|error| error.raise());
    if identity.is_single_use {
        pg::refuse_read_only(c"authenticate");
        super::note_use();
        let Some(table) = pg::scan::table(c"used_tokens") else { Error::NotInstalled.raise() };
        let arguments = [
            identity.issuer.argument(),
            Text::of(identity.tenant.as_bytes()).argument(),
            pg::text::nullable(identity.id.clone()),
            identity.expires.into(),
        ];
        let mut is_new = false;
        pg::query::write(table, "SELECT _tenancy.note_use($1, $2, $3, $4)", &arguments, |row| {
            is_new = row.get::<bool>(1)?.unwrap_or(false);
            Ok(())
        })
        .unwrap_or_else(|error| internal(error));
        if !is_new {
            Error::TokenInvalid("it was used before").raise()
        }
    }
    crate::context::set_token(token.as_bytes(), is_local, identity.is_single_use);
    let tenant = crate::context::required();
    let role = identity
        .user
        .as_ref()
        .and_then(|user| crate::member::role(&tenant, user).unwrap_or_else(|error| error.raise()));
    Json::from(&json!({
        "tenant_id": tenant.as_str(),
        "user_id": identity.user.as_ref().map(|user| user.to_utf8()),
        "role": role.as_ref().map(|role| role.to_utf8()),
        "issuer": identity.issuer.to_utf8(),
        "expires_at": identity.expires,
    }))
}
