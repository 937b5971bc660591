//! The unit tests of tokens once more, optimised: ten million mutated tokens, of which none is accepted.

#[path = "../../../src/token/jwt.rs"]
#[allow(dead_code)] // What only the extension calls.
mod jwt;
#[path = "../../../src/token/strict.rs"]
mod strict;
