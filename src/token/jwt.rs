//! Is a JSON Web Token good?
//!
//! Guarantees: `Claims` exist only of a token that a key of the given `Keys` signed, by the algorithm of that
//! key. The token chooses among the keys by `kid`, never what a key is or how it is used; so `none`, an RSA key
//! taken as a secret, and a key within the token itself get nowhere. What two readers could read in two ways is
//! refused: a member name twice, a NUL, base64url with bits left over.
//! Does not know the time, nor whom a token is for: see `Claims::expires` and `Claims::audience`.
//! Pure: no PostgreSQL call, so that it is tested and fuzzed without a server.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use jsonwebtoken::crypto::rust_crypto::DEFAULT_PROVIDER as CRYPTO;
use jsonwebtoken::{DecodingKey, EncodingKey};
use serde_json::{Map, Value};

use super::strict::{self, Unread};

/// The longest token, in bytes.
pub const MAX_LEN: usize = 8192;

/// The most keys of a JWKS document.
const MAX_KEYS: usize = 100;

/// Seconds beyond this are no longer exact in JSON.
const MAX_DATE: i64 = 1 << 53;

/// Why a token is not accepted. Never says anything of what the token has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Malformed,
    TooLong,
    /// A member name is there twice.
    Duplicate,
    /// It is none, or not one of the four, or not that of the key.
    Algorithm,
    /// The header has extensions that have to be understood.
    Critical,
    /// There is no key of that `kid`, or none is named and several could be meant.
    Key,
    Signature,
    /// A registered claim is missing or of the wrong type.
    Claim(&'static str),
}

impl Fault {
    pub fn reason(self) -> &'static str {
        match self {
            Fault::Malformed => "it is malformed",
            Fault::TooLong => "it is longer than 8192 bytes",
            Fault::Duplicate => "it has a member name twice",
            Fault::Algorithm => "its algorithm is not that of the key, or not accepted",
            Fault::Critical => "it has critical header parameters",
            Fault::Key => "it does not name a key of its issuer",
            Fault::Signature => "its signature is not of that key",
            Fault::Claim("iss") => "its claim \"iss\" is missing or no text",
            Fault::Claim("exp") => "its claim \"exp\" is missing or no time",
            Fault::Claim("nbf") => "its claim \"nbf\" is no time",
            Fault::Claim("iat") => "its claim \"iat\" is no time",
            Fault::Claim("aud") => "its claim \"aud\" is neither a text nor an array of texts",
            Fault::Claim("jti") => "its claim \"jti\" is no text",
            Fault::Claim(_) => "a claim is missing or of the wrong type",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Algorithm {
    EdDsa,
    Es256,
    Rs256,
    Hs256,
}

impl Algorithm {
    const ALL: [Algorithm; 4] = [Algorithm::EdDsa, Algorithm::Es256, Algorithm::Rs256, Algorithm::Hs256];

    fn name(self) -> &'static str {
        match self {
            Algorithm::EdDsa => "EdDSA",
            Algorithm::Es256 => "ES256",
            Algorithm::Rs256 => "RS256",
            Algorithm::Hs256 => "HS256",
        }
    }

    fn of_name(name: &Value) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|algorithm| name.as_str() == Some(algorithm.name()))
    }

    /// The algorithm of a key's type: each of the types has one.
    fn of_type(jwk: &Map<String, Value>) -> Option<Algorithm> {
        let member = |name| jwk.get(name).and_then(Value::as_str);
        match (member("kty")?, member("crv")) {
            ("OKP", Some("Ed25519")) => Some(Algorithm::EdDsa),
            ("EC", Some("P-256")) => Some(Algorithm::Es256),
            ("RSA", _) => Some(Algorithm::Rs256),
            ("oct", _) => Some(Algorithm::Hs256),
            _ => None,
        }
    }

    fn theirs(self) -> jsonwebtoken::Algorithm {
        match self {
            Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
            Algorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
        }
    }
}

/// A token whose signature has not been looked at.
pub struct Token<'a> {
    message: &'a [u8],
    signature: Vec<u8>,
    algorithm: Algorithm,
    kid: Option<String>,
    issuer: String,
    claims: Map<String, Value>,
}

/// Reads a token in compact serialisation; whose it is, its signature has yet to say.
pub fn parse(text: &[u8]) -> Result<Token<'_>, Fault> {
    if text.len() > MAX_LEN {
        return Err(Fault::TooLong);
    }
    let mut parts = text.split(|byte| *byte == b'.');
    let (Some(header), Some(claims), Some(signature), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Fault::Malformed);
    };
    let message = text.get(..header.len() + 1 + claims.len()).ok_or(Fault::Malformed)?;
    let header = object(header)?;
    let algorithm = header.get("alg").and_then(Algorithm::of_name).ok_or(Fault::Algorithm)?;
    if header.contains_key("crit") || header.contains_key("b64") {
        return Err(Fault::Critical);
    }
    // A token made for another use, such as `dpop+jwt` or `logout+jwt`, is no access token.
    let is_access =
        |typ: &str| ["JWT", "at+jwt", "application/at+jwt"].iter().any(|good| typ.eq_ignore_ascii_case(good));
    if text_member(&header, "typ").map_err(|()| Fault::Malformed)?.is_some_and(|typ| !is_access(typ)) {
        return Err(Fault::Malformed);
    }
    let kid = text_member(&header, "kid").map_err(|()| Fault::Malformed)?.map(str::to_owned);
    let signature = BASE64URL.decode(signature).map_err(|_| Fault::Malformed)?;
    if signature.is_empty() {
        return Err(Fault::Signature);
    }
    let claims = object(claims)?;
    let issuer = claims.get("iss").and_then(Value::as_str).filter(|issuer| !issuer.is_empty());
    let issuer = issuer.ok_or(Fault::Claim("iss"))?.to_owned();
    Ok(Token { message, signature, algorithm, kid, issuer, claims })
}

impl Token<'_> {
    /// The `iss` claim: whose keys to use. Not verified yet.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Verifies the signature by the key that the header names; returns the claims.
    pub fn verified(&self, keys: &Keys) -> Result<Claims, Fault> {
        let key = keys.find(self.kid.as_deref(), self.algorithm)?;
        if !key.signed(self.message, &self.signature) {
            return Err(Fault::Signature);
        }
        let all = self.claims.clone();
        let audience = match all.get("aud") {
            None => Some(Vec::new()),
            Some(Value::Array(all)) => all.iter().map(|one| one.as_str().map(str::to_owned)).collect(),
            Some(one) => one.as_str().map(|one| vec![one.to_owned()]),
        };
        Ok(Claims {
            audience: audience.ok_or(Fault::Claim("aud"))?,
            expires: date(&all, "exp")?.ok_or(Fault::Claim("exp"))?,
            not_before: date(&all, "nbf")?,
            issued_at: date(&all, "iat")?,
            id: text_member(&all, "jti").map_err(|()| Fault::Claim("jti"))?.map(str::to_owned),
            all,
        })
    }
}

/// The claims of a token that is verified.
pub struct Claims {
    audience: Vec<String>,
    expires: i64,
    not_before: Option<i64>,
    issued_at: Option<i64>,
    id: Option<String>,
    all: Map<String, Value>,
}

impl Claims {
    /// Whom the token is for, `aud`. None where the token says nothing.
    pub fn audience(&self) -> impl Iterator<Item = &str> {
        self.audience.iter().map(String::as_str)
    }

    /// When the token ceases to be good, `exp`, in seconds since 1970.
    pub fn expires(&self) -> i64 {
        self.expires
    }

    /// When the token begins to be good, `nbf`.
    pub fn not_before(&self) -> Option<i64> {
        self.not_before
    }

    /// When the token was issued, `iat`.
    pub fn issued_at(&self) -> Option<i64> {
        self.issued_at
    }

    /// The token's own name, `jti`.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The text, or the integer in its usual spelling, at a path such as `app_metadata.tenant_id`.
    pub fn text(&self, path: &str) -> Option<String> {
        // A name such as `https://example.com/tenant` is one member, in spite of its dots.
        let whole = self.all.get(path);
        let nested = || {
            let mut names = path.split('.');
            let first = self.all.get(names.next()?)?;
            names.try_fold(first, |value, name| value.as_object()?.get(name))
        };
        let found = match (whole, nested().filter(|_| path.contains('.'))) {
            (Some(found), None) | (None, Some(found)) => found,
            _ => return None,
        };
        match found {
            Value::String(text) => Some(text.clone()),
            Value::Number(number) if number.is_i64() || number.is_u64() => Some(number.to_string()),
            _ => None,
        }
    }
}

/// A numeric date, in whole seconds.
fn date(claims: &Map<String, Value>, name: &'static str) -> Result<Option<i64>, Fault> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let good = |seconds: &i64| (-MAX_DATE..=MAX_DATE).contains(seconds);
    // The cast saturates, and what saturates is not in the range.
    let seconds =
        value.as_i64().or_else(|| value.as_f64().map(|seconds| seconds.floor() as i64)).filter(good);
    seconds.map(Some).ok_or(Fault::Claim(name))
}

fn text_member<'a>(of: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, ()> {
    of.get(name).map(|value| value.as_str().ok_or(())).transpose()
}

/// The keys of an issuer.
#[derive(Debug)]
pub struct Keys(Vec<Key>);

#[derive(Debug)]
struct Key {
    kid: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl Keys {
    /// From a JWKS document, or the reason why it is not a good one.
    pub fn parse(document: &Value) -> Result<Keys, &'static str> {
        let all = document.get("keys").and_then(Value::as_array);
        let all = all.filter(|all| (1..=MAX_KEYS).contains(&all.len()));
        let mut keys: Vec<Key> = Vec::new();
        for jwk in all.ok_or("has no array \"keys\" of 1 to 100 keys")? {
            let Some(key) = Key::parse(jwk.as_object().ok_or("has a key that is no object")?)? else {
                continue;
            };
            if key.kid.is_some() && keys.iter().any(|k| k.kid == key.kid && k.algorithm == key.algorithm) {
                return Err("has two keys of the same \"kid\" and algorithm");
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err("has no key that is of use here: to verify EdDSA (Ed25519), ES256, RS256 or HS256");
        }
        Ok(Keys(keys))
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The one key that a header means.
    fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&Key, Fault> {
        let mut fit = self.0.iter().filter(|key| key.algorithm == algorithm);
        let Some(kid) = kid else {
            let only = fit.next().ok_or(Fault::Key)?;
            return if fit.next().is_none() { Ok(only) } else { Err(Fault::Key) };
        };
        let named = |key: &&Key| key.kid.as_deref() == Some(kid);
        let other = if self.0.iter().any(|key| named(&key)) { Fault::Algorithm } else { Fault::Key };
        fit.find(named).ok_or(other)
    }
}

impl Key {
    /// None where the key is for something else, such as encryption or another algorithm.
    fn parse(jwk: &Map<String, Value>) -> Result<Option<Key>, &'static str> {
        let kty = jwk.get("kty").and_then(Value::as_str).ok_or("has a key without a \"kty\"")?;
        let kid = text_member(jwk, "kid").map_err(|()| "has a \"kid\" that is no text")?.map(str::to_owned);
        let private = ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"];
        if kty != "oct" && private.iter().any(|name| jwk.contains_key(*name)) {
            return Err("has a private key: keep that where tokens are signed");
        }
        if !is_for(jwk, "verify") {
            return Ok(None);
        }
        let Some(algorithm) = algorithm_of(jwk).map_err(|()| "has a key whose \"alg\" is not of its type")?
        else {
            return Ok(None);
        };
        let part = |name| bytes(jwk, name).ok_or("has a key with a part that is missing or not base64url");
        let key = match algorithm {
            Algorithm::EdDsa => ed25519(&part("x")?),
            Algorithm::Es256 => p256(&part("x")?, &part("y")?),
            Algorithm::Rs256 => rsa(&part("n")?, &part("e")?),
            Algorithm::Hs256 => secret(&part("k")?),
        }?;
        Ok(Some(Key { kid, algorithm, key }))
    }

    fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        // What the strict verification of RFC 8032 adds; jsonwebtoken's is not strict.
        if self.algorithm == Algorithm::EdDsa && signature.get(..32).is_none_or(is_weak_point) {
            return false;
        }
        let verifier = (CRYPTO.verifier_factory)(&self.algorithm.theirs(), &self.key);
        verifier.is_ok_and(|verifier| verifier.verify(message, &signature.to_vec()).is_ok())
    }
}

/// Whether `use` and `key_ops`, where a key has them, are of signatures.
fn is_for(jwk: &Map<String, Value>, operation: &str) -> bool {
    let is = |name: &str, good: &dyn Fn(&Value) -> bool| jwk.get(name).is_none_or(good);
    is("use", &|value| value == "sig")
        && is("key_ops", &|value| value.as_array().is_some_and(|all| all.iter().any(|one| one == operation)))
}

/// The algorithm of a key: None where it is not one of the four, an error where `alg` and the type disagree.
fn algorithm_of(jwk: &Map<String, Value>) -> Result<Option<Algorithm>, ()> {
    let of_type = Algorithm::of_type(jwk);
    match jwk.get("alg").map(Algorithm::of_name) {
        None => Ok(of_type),
        Some(None) => Ok(None),
        Some(named) if named == of_type => Ok(named),
        Some(_) => Err(()),
    }
}

fn bytes(jwk: &Map<String, Value>, name: &str) -> Option<Vec<u8>> {
    jwk.get(name).and_then(Value::as_str).and_then(|text| BASE64URL.decode(text).ok())
}

fn secret(k: &[u8]) -> Result<DecodingKey, &'static str> {
    match k.len() {
        32.. => Ok(DecodingKey::from_secret(k)),
        _ => Err("has a symmetric key that is shorter than 32 bytes"),
    }
}

fn rsa(n: &[u8], e: &[u8]) -> Result<DecodingKey, &'static str> {
    let number = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
    let (n, e) = (number(n), number(e));
    let bits = 8 * n.len() - n.first().map_or(0, |first| first.leading_zeros() as usize);
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    // Beyond 4096 bits and 33 bits the crate `rsa` verifies nothing.
    if !(2048..=4096).contains(&bits) || !is_odd(&n) {
        return Err("has an RSA key whose modulus is not an odd number of 2048 to 4096 bits");
    }
    let exponent = e.iter().fold(0u64, |sum, byte| sum.saturating_mul(256).saturating_add(u64::from(*byte)));
    if !(3..1 << 33).contains(&exponent) || !is_odd(&e) {
        return Err("has an RSA key whose exponent is not an odd number of 3 to 2^33");
    }
    Ok(DecodingKey::from_rsa_raw_components(&n, &e))
}

fn p256(x: &[u8], y: &[u8]) -> Result<DecodingKey, &'static str> {
    if x.len() != 32 || y.len() != 32 {
        return Err(NO_POINT);
    }
    point(Algorithm::Es256, DecodingKey::from_ec_der(&[&[4], x, y].concat()))
}

fn ed25519(x: &[u8]) -> Result<DecodingKey, &'static str> {
    // jsonwebtoken panics on fewer bytes and disregards more.
    if x.len() != 32 || is_weak_point(x) {
        return Err(NO_POINT);
    }
    point(Algorithm::EdDsa, DecodingKey::from_ed_der(x))
}

const NO_POINT: &str = "has a key that is not a good point of its curve";

fn point(algorithm: Algorithm, key: DecodingKey) -> Result<DecodingKey, &'static str> {
    (CRYPTO.verifier_factory)(&algorithm.theirs(), &key).map_err(|_| NO_POINT)?;
    Ok(key)
}

/// Whether a point of edwards25519 has a small order or more than one spelling. Such a key would have signed
/// almost everything.
fn is_weak_point(point: &[u8]) -> bool {
    const ORDER_8: [u8; 32] = [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5,
        0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
    ];
    const ORDER_8_TOO: [u8; 32] = [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a,
        0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
    ];
    let Ok(mut y) = <[u8; 32]>::try_from(point) else { return true };
    y[31] &= 0x7f;
    let ends = |fill: u8, last: u8| y[1..31].iter().all(|byte| *byte == fill) && y[31] == last;
    // The numbers 0 and 1; p - 1, and p and all beyond it, which are others once more.
    let is_edge = (y[0] <= 1 && ends(0, 0)) || (y[0] >= 0xec && ends(0xff, 0x7f));
    is_edge || y == ORDER_8 || y == ORDER_8_TOO
}

/// Signs claims with a private JWK. The header has the algorithm, the type and the key's `kid`.
pub fn sign(claims: &Value, key: &Value) -> Result<String, &'static str> {
    let jwk = key.as_object().ok_or("is no object")?;
    if !claims.is_object() {
        return Err("signs nothing but a JSON object");
    }
    if !is_for(jwk, "sign") {
        return Err("is not a key to sign with");
    }
    let algorithm = algorithm_of(jwk).map_err(|()| "has an \"alg\" that is not of its type")?;
    let algorithm = algorithm.ok_or("is not a key of EdDSA (Ed25519), ES256 or HS256")?;
    let part = |name| bytes(jwk, name).ok_or("has a part that is missing or not base64url");
    let point = |name| part(name).and_then(|bytes| if bytes.len() == 32 { Ok(bytes) } else { Err(NO_PAIR) });
    let key = match algorithm {
        Algorithm::EdDsa => {
            EncodingKey::from_ed_der(&[ED25519_PRIVATE, &point("d")?, ED25519_PUBLIC, &point("x")?].concat())
        }
        Algorithm::Es256 => EncodingKey::from_ec_der(
            &[P256_PRIVATE, &point("d")?, P256_PUBLIC, &point("x")?, &point("y")?].concat(),
        ),
        Algorithm::Rs256 => return Err("is an RSA key, with which nothing is signed here"),
        Algorithm::Hs256 => match part("k")? {
            k if k.len() < 32 => return Err("is shorter than 32 bytes"),
            k => EncodingKey::from_secret(&k),
        },
    };
    let kid = text_member(jwk, "kid").map_err(|()| "has a \"kid\" that is no text")?;
    let header = [("alg", Some(algorithm.name())), ("typ", Some("JWT")), ("kid", kid)];
    let header = header.into_iter().filter_map(|(name, text)| Some((name.to_owned(), Value::from(text?))));
    let header = Value::Object(header.collect());
    let message =
        format!("{}.{}", BASE64URL.encode(header.to_string()), BASE64URL.encode(claims.to_string()));
    // Where the public part is not that of the private one, there is no signer.
    let signer = (CRYPTO.signer_factory)(&algorithm.theirs(), &key).map_err(|_| NO_PAIR)?;
    let signature = signer.try_sign(message.as_bytes()).map_err(|_| NO_PAIR)?;
    Ok(format!("{message}.{}", BASE64URL.encode(signature)))
}

const NO_PAIR: &str = "is not a private key together with its public key";

// PKCS #8 of RFC 5958, around the parts of a private key.
const ED25519_PRIVATE: &[u8] = b"\x30\x51\x02\x01\x01\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20";
const ED25519_PUBLIC: &[u8] = b"\x81\x21\x00";
const P256_PRIVATE: &[u8] = b"\x30\x81\x87\x02\x01\x00\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\
    \x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x04\x6d\x30\x6b\x02\x01\x01\x04\x20";
const P256_PUBLIC: &[u8] = b"\xa1\x44\x03\x42\x00\x04";

/// The JSON object that a part of a token is.
fn object(part: &[u8]) -> Result<Map<String, Value>, Fault> {
    let text = BASE64URL.decode(part).map_err(|_| Fault::Malformed)?;
    strict::object(&text).map_err(|unread| match unread {
        Unread::Malformed => Fault::Malformed,
        Unread::Duplicate => Fault::Duplicate,
    })
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;
