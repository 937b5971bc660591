//! Whose token is this, and is it good now?
//!
//! Guarantees: a token is good only by a key that `_tenancy.issuers` holds now; a change there counts from the next statement of every
//! backend (relcache invalidation, as in `registry`), and so does the token's expiry. Verified once in a backend: later uses cost a
//! comparison, or a look into a hash table where several tokens take turns.
//! Does not decide what a token is good for: `context` does.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

pub mod api;
mod issuers;
mod jwt;
mod strict;

use crate::error::Error;
use crate::guc;
use crate::pg::{self, text::Text, xact::Event};
use crate::tenant::TenantId;
use issuers::Issuer;
use jwt::{Claims, Fault};

pub use jwt::sign;

/// In whose name this database signs tokens for those who sign in with a password.
pub const PASSWORD_ISSUER: &str = "tenancy:password";
/// The claim that says for which password.
pub const PASSWORD_CLAIM: &str = "stamp";

/// Whom a token speaks for.
#[derive(Clone)]
pub struct Identity {
    pub tenant: TenantId,
    pub user: Option<Text>,
    pub issuer: Text,
    /// Of the token itself, where it has one.
    pub id: Option<Text>,
    /// Seconds since 1970.
    pub expires: i64,
    not_before: Option<i64>,
    issued_at: Option<i64>,
    pub is_single_use: bool,
    /// Its issuer is trusted for this tenant only.
    pub is_of_own_issuer: bool,
    /// Where it was given for a password: which one it was.
    pub password: Option<String>,
}

impl Identity {
    /// Whether it was given for a password: then the user must be a member.
    pub fn is_for_password(&self) -> bool {
        self.issuer.as_bytes() == PASSWORD_ISSUER.as_bytes()
    }
}

struct Known {
    text: Rc<[u8]>,
    /// That of the issuers when it was verified.
    generation: u64,
    identity: Rc<Identity>,
}

/// Tokens kept per backend, each with some hundred bytes; past this it starts afresh.
const CACHED: usize = 1024;
/// The longest id of a token that is good for one use, in bytes: it is kept.
const LONGEST_ID: usize = 255;
/// From 1970 to 2000, where PostgreSQL's clock begins, in seconds.
const EPOCH: i64 = 946_684_800;

thread_local! {
    static KNOWN: RefCell<HashMap<Rc<[u8]>, Rc<Known>>> = RefCell::new(HashMap::new());
    /// The one that was asked for last.
    static LAST: RefCell<Option<Rc<Known>>> = const { RefCell::new(None) };
}

thread_local! {
    /// A token that is good for one use was used up in this transaction.
    static HAS_USED: Cell<bool> = const { Cell::new(false) };
}

pub fn init() {
    issuers::init();
    pg::xact::listen(|event| match event {
        // The session would keep the token, and the transaction that used it up be rolled back later.
        Event::BeforePrepare if HAS_USED.get() => {
            Error::TokenInvalid("it is good for one use only, in a transaction that is not prepared").raise()
        }
        event if event.is_end() => HAS_USED.set(false),
        _ => {}
    });
}

/// Notes that a token that is good for one use is used up.
fn note_use() {
    HAS_USED.set(true);
}

/// Seconds since 1970, of a time of PostgreSQL's clock.
pub fn seconds(time: i64) -> i64 {
    EPOCH + time.div_euclid(1_000_000)
}

/// Whom a token speaks for, if it is good now.
pub fn verified(text: &[u8]) -> Result<Rc<Identity>, Error<'static>> {
    let identity = identity(text)?;
    // A worker goes by its leader's statement. A procedure may run for long, and so may a statement of several commands.
    let now = if pg::in_parallel_worker() { pg::xact::statement_began() } else { pg::xact::now() };
    let (now, skew) = (seconds(now), guc::token_clock_skew());
    if now >= identity.expires.saturating_add(skew) {
        return Err(Error::TokenExpired);
    }
    if identity.not_before.is_some_and(|start| now < start.saturating_sub(skew)) {
        return Err(Error::TokenInvalid("it is not good yet"));
    }
    if identity.issued_at.is_some_and(|issued| now < issued.saturating_sub(skew)) {
        return Err(Error::TokenInvalid("it has not been issued yet"));
    }
    let is_too_long = |most: i64| identity.expires > now.saturating_add(most).saturating_add(skew);
    if guc::token_max_lifetime().is_some_and(is_too_long) {
        return Err(Error::TokenInvalid("it is good for longer than tenancy.token_max_lifetime"));
    }
    Ok(identity)
}

/// The same, whether or not its time has come or gone.
pub fn identity(text: &[u8]) -> Result<Rc<Identity>, Error<'static>> {
    let is_current = |known: &Rc<Known>| known.generation == issuers::generation();
    let last =
        LAST.with_borrow(|last| last.clone().filter(|known| is_current(known) && *known.text == *text));
    if let Some(known) = last {
        return Ok(known.identity.clone());
    }
    let known = KNOWN.with_borrow(|all| all.get(text).filter(|known| is_current(known)).cloned());
    let known = match known {
        Some(known) => known,
        None => {
            // As of the generation before the read: what arrives during it makes this answer outdated at once.
            let generation = issuers::generation();
            let identity = Rc::new(read(text)?);
            let text: Rc<[u8]> = text.into();
            let known = Rc::new(Known { text: text.clone(), generation, identity });
            KNOWN.with_borrow_mut(|all| {
                if all.len() >= CACHED {
                    all.clear();
                }
                all.insert(text, known.clone());
            });
            known
        }
    };
    LAST.set(Some(known.clone()));
    Ok(known.identity.clone())
}

fn invalid(fault: Fault) -> Error<'static> {
    Error::TokenInvalid(fault.reason())
}

fn read(text: &[u8]) -> Result<Identity, Error<'static>> {
    let token = jwt::parse(text).map_err(invalid)?;
    let name = exactly(token.issuer())?;
    let entries = issuers::of(&name)?;
    if entries.is_empty() {
        return Err(Error::TokenInvalid("its issuer is not known"));
    }
    // Providers that serve many customers sign for all of them in one name: then its entries differ in audience or tenant. Which one
    // is meant must be beyond doubt; what is wrong is told of the entry that came furthest.
    let mut fault = Error::TokenInvalid(Fault::Key.reason());
    let mut found: Option<Identity> = None;
    for issuer in entries.iter() {
        let claims = match token.verified(&issuer.keys) {
            Ok(claims) => claims,
            Err(reason) => {
                if entries.len() == 1 || reason != Fault::Key {
                    fault = invalid(reason);
                }
                continue;
            }
        };
        match identify(&claims, issuer, &name) {
            Ok(identity) => {
                if found.replace(identity).is_some() {
                    return Err(Error::TokenInvalid("its issuer is known for several tenants"));
                }
            }
            Err(reason) => fault = reason,
        }
    }
    found.ok_or(fault)
}

/// A text that the database's encoding has all letters of: others would make one of two users, or of two tokens.
fn exactly(text: &str) -> Result<Text, Error<'static>> {
    Text::exactly(text).ok_or(Error::TokenInvalid("it has letters that the database's encoding has not"))
}

/// Whom the claims of an issuer's token speak for.
fn identify(claims: &Claims, issuer: &Issuer, name: &Text) -> Result<Identity, Error<'static>> {
    let mut audience = claims.audience().peekable();
    let is_meant = match &issuer.audience {
        // RFC 7519, 4.1.3: who is not meant must not accept it.
        None => audience.peek().is_none(),
        Some(expected) => audience.any(|one| expected.iter().any(|other| other == one)),
    };
    if !is_meant {
        return Err(Error::TokenInvalid("it is meant for another audience"));
    }
    let claimed = match &issuer.tenant_claim {
        Some(path) => claims.text(path),
        None => None,
    };
    let parse = |text: &str| TenantId::parse(text.as_bytes());
    let tenant = match (&issuer.tenant, claimed) {
        (None, None) => return Err(Error::TokenInvalid("it names no tenant")),
        (None, Some(claimed)) => parse(&claimed).map_err(|_| Error::TokenInvalid("it names no tenant"))?,
        // At a provider that signs for many, a token without the claim is somebody's.
        (Some(_), None) if issuer.tenant_claim.is_some() => {
            return Err(Error::TokenInvalid("it names no tenant"));
        }
        (Some(only), None) => *only,
        (Some(only), Some(claimed)) if parse(&claimed) == Ok(*only) => *only,
        (Some(_), Some(_)) => return Err(Error::TokenInvalid("its issuer is not trusted for that tenant")),
    };
    if issuer.is_single_use && claims.id().is_none_or(|id| id.len() > LONGEST_ID) {
        return Err(Error::TokenInvalid("it has no id of up to 255 bytes, and is good for one use only"));
    }
    let user = issuer.user_claim.as_ref().and_then(|path| claims.text(path)).filter(|user| !user.is_empty());
    Ok(Identity {
        tenant,
        user: user.map(|user| exactly(&user)).transpose()?,
        issuer: name.clone(),
        id: claims.id().map(exactly).transpose()?,
        expires: claims.expires(),
        not_before: claims.not_before(),
        issued_at: claims.issued_at(),
        is_single_use: issuer.is_single_use,
        is_of_own_issuer: issuer.tenant.is_some(),
        password: claims.text(PASSWORD_CLAIM).map(|stamp| stamp.to_string()),
    })
}
