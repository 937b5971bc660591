//! Is this the password?
//!
//! Argon2id (RFC 9106), by the crate `argon2`, with the least parameters that OWASP's Password Storage Cheat Sheet gives, which are the crate's
//! own. A hash names its parameters, so that later ones may be stronger.
//! Pure: no PostgreSQL call.

use argon2::{Argon2, PasswordHasher, PasswordVerifier, password_hash::Error};

/// The longest password, in bytes.
pub const LONGEST: usize = 1024;

/// Of no password: what a user that is not there is compared with, for as long as it would take otherwise.
const NOBODY: &str =
    "$argon2id$v=19$m=19456,t=2,p=1$dGVuYW5jeTpub2JvZHkxMQ$kz0tQIBvvfTNXyZvZcQjXQpYzjtJb2mYyQBqjqkqB9w";

/// The hash of a password, with a salt of 16 random bytes.
pub fn hash(password: &[u8], salt: &[u8; 16]) -> Result<String, Error> {
    Ok(Argon2::default().hash_password_with_salt(password, salt)?.to_string())
}

/// Whether the hash is the password's. It takes as long where there is none, and where the password is too long to be one.
pub fn is_of(hash: Option<&str>, password: &[u8]) -> Result<bool, Error> {
    let is_known = hash.is_some() && (1..=LONGEST).contains(&password.len());
    let password = if password.len() <= LONGEST { password } else { b"" };
    // It takes the parameters of the hash, and compares in constant time.
    match Argon2::default().verify_password(password, hash.unwrap_or(NOBODY)) {
        Ok(()) => Ok(is_known),
        Err(Error::PasswordInvalid) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_of_one_password() {
        let made = hash(b"correct horse", &[7; 16]).expect("a hash");
        assert!(made.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{made}");
        assert_eq!(is_of(Some(&made), b"correct horse"), Ok(true));
        for wrong in [&b"correct hors"[..], b"correct horse ", b"Correct horse", b"", b"correct horse\0"] {
            assert_eq!(is_of(Some(&made), wrong), Ok(false));
        }
        assert!(made != hash(b"correct horse", &[8; 16]).expect("a hash"));
    }

    #[test]
    fn a_hash_of_other_parameters_is_good_too() {
        // The first test vector of the reference implementation for Argon2id: password and somesalt, 64 MB.
        let other = "$argon2id$v=19$m=65536,t=2,p=1$c29tZXNhbHQ$CTFhFdXPJO1aFaMaO6Mm5c8y7cJHAph8ArZWb2GRPPc";
        assert_eq!(is_of(Some(other), b"password"), Ok(true));
        assert_eq!(is_of(Some(other), b"passwore"), Ok(false));
    }

    #[test]
    fn nobody_has_no_password() {
        // It is compared with: a malformed one would be an error, and take no time.
        for password in [&b""[..], b"x", &[b'x'; LONGEST + 1]] {
            assert_eq!(is_of(None, password), Ok(false));
        }
        let of_nothing = hash(b"", &[7; 16]).expect("a hash");
        for password in [&b""[..], &[b'x'; LONGEST + 1]] {
            assert_eq!(is_of(Some(&of_nothing), password), Ok(false));
        }
    }

    #[test]
    fn what_is_no_hash_is_an_error() {
        for broken in
            ["", "x", "$argon2id$", "$argon2id$v=19$m=1,t=0,p=1$c29tZXNhbHQ$CTFhFdXPJO1", "$1$abc$def"]
        {
            assert!(is_of(Some(broken), b"x") != Ok(true), "{broken}");
        }
    }
}
