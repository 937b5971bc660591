//! May this user sign in to that tenant with that password?
//!
//! Guarantees: whatever is wrong, the answer and about the time that it takes are the same: one lookup of a user, one of a membership
//! and one hash. Failures are counted for each tenant and user, whether they exist or not, and stay when their transaction is rolled
//! back; attempts for one of them take turns, so that no guess goes uncounted.
//! Does not set the context: what is returned is a token, which `token` verifies like any other.

use pgrx::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

mod password;

use crate::error::{Error, internal};
use crate::guc;
use crate::pg::{
    self,
    insert::{Table, Value as Column},
    lock::{self, Mode},
    text::{Json, Text},
};
use crate::tenant::TenantId;
use crate::token::{self, PASSWORD_CLAIM, PASSWORD_ISSUER};
use crate::{
    audit::{self, Record},
    member, registry,
};

/// How long a failure counts, in microseconds.
const WINDOW: i64 = 15 * 60 * 1_000_000;

/// Who wants to sign in, and how it is looked up.
struct Credentials {
    tenant: String,
    user: String,
    is_email: bool,
    password: String,
}

impl Credentials {
    fn parse(value: &Value) -> Option<Credentials> {
        let text = |name| value.get(name).and_then(Value::as_str).map(str::to_owned);
        let (user, is_email) = match (text("user_id"), text("email")) {
            (Some(id), None) => (id, false),
            (None, Some(email)) => (email, true),
            _ => return None,
        };
        Some(Credentials { tenant: text("tenant_id")?, user, is_email, password: text("password")? })
    }

    /// The user's id and hash, as far as there are, and the name by which it was looked for.
    fn find(&self, passwords: pg::Oid) -> Found {
        let query = if self.is_email {
            "SELECT lower($1), u.id, p.hash FROM (SELECT) AS one LEFT JOIN _tenancy.users u ON lower(u.email) = lower($1)
             LEFT JOIN _tenancy.passwords p ON p.user_id = u.id"
        } else {
            "SELECT $1, u.id, p.hash FROM (SELECT) AS one LEFT JOIN _tenancy.users u ON u.id = $1
             LEFT JOIN _tenancy.passwords p ON p.user_id = u.id"
        };
        // What the database's encoding has no letters for is nobody's.
        let mut found = Found { name: self.user.clone().into_bytes(), id: None, hash: None };
        let Some(user) = Text::exactly(&self.user) else { return found };
        pg::query::latest_planned(passwords, query, &[user.argument()], |row| {
            let name = row.get::<Text>(1)?.map_or_else(Vec::new, |name| name.as_bytes().to_vec());
            found = Found { name, id: row.get::<Text>(2)?, hash: row.get::<String>(3)? };
            Ok(())
        })
        .unwrap_or_else(|error| internal(error));
        found
    }

    /// What failures are counted by. The name that was given, and not whose it is: that would tell who is there.
    fn key(&self, tenant: &str, name: &[u8]) -> [u8; 32] {
        let kind = if self.is_email { b"\0email\0" } else { b"\0user_\0" };
        Sha256::new().chain_update(tenant).chain_update(kind).chain_update(name).finalize().into()
    }
}

/// What there is of a user.
struct Found {
    name: Vec<u8>,
    id: Option<Text>,
    hash: Option<String>,
}

/// A lock that is held until it is dropped, or an error ends the transaction.
struct Held(u64);

impl Held {
    fn take(key: &[u8; 32]) -> Held {
        let mut number = [0; 8];
        number.copy_from_slice(&key[..8]);
        let number = u64::from_be_bytes(number);
        lock::take(number, Mode::Exclusive);
        Held(number)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            lock::release(self.0, Mode::Exclusive);
        }
    }
}

/// Returns a token for whoever the credentials are of. Raises 28P01 (`CREDENTIALS_INVALID`), 53400 (`TOO_MANY_FAILURES`), 22023
/// (`PARAMETER_INVALID`), 25006 where nothing can be written. Volatile. For `tenancy.authenticate`.
#[pg_extern(schema = "_tenancy", volatile, strict)]
pub fn sign_in(credentials: Json) -> String {
    pg::forget_error_context();
    let Some(credentials) = credentials.value().as_ref().and_then(Credentials::parse) else {
        Error::Argument("credentials", "must have tenant_id, user_id or email, and password, each a text")
            .raise()
    };
    pg::refuse_read_only(c"authenticate");
    let tables = || Some((pg::scan::table(c"passwords")?, pg::scan::table(c"failed_sign_ins")?));
    let Some((passwords, failures)) = tables() else { Error::NotInstalled.raise() };
    let Found { name, id: user, hash } = credentials.find(passwords);
    let tenant = TenantId::parse(credentials.tenant.as_bytes()).ok();
    let key = credentials.key(tenant.as_ref().map_or(&credentials.tenant, |id| id.as_str()), &name);
    let turn = Held::take(&key);
    let now = pg::xact::now();
    if count(failures, &key, now) >= i64::from(guc::max_failed_sign_ins()) {
        audit::refused_sign_in("TOO_MANY_FAILURES", registered(&tenant), &credentials.user);
        Error::TooManyFailures.raise()
    }
    let fail = || Table::open(failures).insert_to_stay([Column::Bytes(&key), Column::Timestamp(now)]);
    // Such a transaction may be refused at its next write. Before the comparison, that tells nothing of the password; success forgets it.
    let counted = if pg::xact::is_serializable() { fail() } else { None };
    let is_password = password::is_of(hash.as_deref(), credentials.password.as_bytes());
    // A hash takes 19 MB.
    pg::give_memory_back();
    let is_password = is_password.unwrap_or_else(|error| Error::Internal(&error.to_string()).raise());
    let member = match (&tenant, &user) {
        (Some(tenant), Some(user)) => may_enter(tenant, user).then_some((tenant, user)),
        _ => None,
    };
    let Some((tenant, user)) = member.filter(|_| is_password) else {
        if counted.is_none() {
            fail();
        }
        audit::refused_sign_in("CREDENTIALS_INVALID", registered(&tenant), &credentials.user);
        Error::CredentialsInvalid.raise()
    };
    if let Some(place) = counted {
        Table::open(failures).remove(place);
    }
    forgive(failures, &key, now);
    drop(turn);
    let detail = pg::text::reportable(json!({"user": user.to_utf8()}).to_string());
    audit::record(&Record {
        tenant: Some(*tenant),
        operation: "SIGN_IN",
        detail: Some(detail.as_bytes()),
        ..Record::default()
    });
    token(passwords, tenant, user)
}

fn registered(tenant: &Option<TenantId>) -> Option<TenantId> {
    tenant.filter(|id| registry::standing(id).is_ok())
}

/// Whether a user who knows its password may sign in to a tenant with it.
fn may_enter(tenant: &TenantId, user: &Text) -> bool {
    let is_member = member::role(tenant, user).unwrap_or_else(|error| error.raise()).is_some();
    // One that is not there has no members either.
    let accepts = registry::standing(tenant).is_ok_and(|standing| !standing.sso_required);
    is_member && accepts
}

/// The failures that count. REINDEX CONCURRENTLY takes rows that stay for older ones, and may find one twice.
fn count(failures: pg::Oid, key: &[u8; 32], now: i64) -> i64 {
    let mut count = 0;
    let query =
        "SELECT count(DISTINCT f.ctid) FROM _tenancy.failed_sign_ins f WHERE f.key = $1 AND f.failed_at > $2";
    let arguments = [key.as_slice().into(), pg::query::timestamp(now - WINDOW)];
    pg::query::latest_planned(failures, query, &arguments, |row| {
        count = row.get::<i64>(1)?.unwrap_or(0);
        Ok(())
    })
    .unwrap_or_else(|error| internal(error));
    count
}

/// Forgets the failures of whoever has signed in, and on the way some that count no more.
fn forgive(failures: pg::Oid, key: &[u8; 32], now: i64) {
    if pg::xact::keeps_snapshot() {
        // In an older snapshot, what another session has removed could not be removed.
        return;
    }
    let command = "DELETE FROM _tenancy.failed_sign_ins f WHERE f.ctid = ANY (ARRAY(
                       SELECT o.ctid FROM _tenancy.failed_sign_ins o WHERE o.key = $1 FOR UPDATE SKIP LOCKED)
                       || ARRAY(SELECT o.ctid FROM _tenancy.failed_sign_ins o WHERE o.failed_at < $2 ORDER BY o.failed_at LIMIT 100
                                FOR UPDATE SKIP LOCKED))";
    let arguments = [key.as_slice().into(), pg::query::timestamp(now - WINDOW)];
    pg::query::run(failures, command, &arguments).unwrap_or_else(|error| internal(error));
}

/// A token of this database's own for a user of a tenant.
fn token(passwords: pg::Oid, tenant: &TenantId, user: &Text) -> String {
    let now = token::seconds(pg::xact::now());
    let claims = json!({
        "iss": PASSWORD_ISSUER,
        "tenant_id": tenant.as_str(),
        "sub": user.to_utf8(),
        PASSWORD_CLAIM: member::password_stamp(user).unwrap_or_else(|error| error.raise()),
        "iat": now,
        "exp": now + guc::password_token_lifetime(),
        // So that no two are the same.
        "jti": pg::random::<16>().map(|byte| format!("{byte:02x}")).concat(),
    });
    let mut key = None;
    let query = "SELECT k.key FROM _tenancy.signing_keys k WHERE k.issuer = $1";
    let issuer = Text::of(PASSWORD_ISSUER.as_bytes());
    pg::query::latest_planned(passwords, query, &[issuer.argument()], |row| {
        key = row.get::<Json>(1)?.and_then(|key| key.value());
        Ok(())
    })
    .unwrap_or_else(|error| internal(error));
    let signed = key.ok_or("is missing").and_then(|key| token::sign(&claims, &key));
    signed.unwrap_or_else(|reason| Error::KeyInvalid("key of tenancy:password", reason).raise())
}

/// Returns the hash of a password, as `_tenancy.passwords` keeps it. Raises 22023 (`PARAMETER_INVALID`). Volatile. For
/// `tenancy.set_password`.
#[pg_extern(schema = "_tenancy", volatile, strict)]
pub fn hash_password(password: Text) -> String {
    pg::forget_error_context();
    let text = password.to_utf8();
    if !(1..=password::LONGEST).contains(&text.len()) || Text::exactly(&text).as_ref() != Some(&password) {
        Error::Argument("password", "must have 1 to 1024 bytes of text").raise()
    }
    let hash = password::hash(text.as_bytes(), &pg::random());
    pg::give_memory_back();
    hash.unwrap_or_else(|error| Error::Internal(&error.to_string()).raise())
}
