//! The keys of issuers, signing, and tokens that are nearly good.

use proptest::prelude::*;

use super::*;

#[track_caller]
fn bad_key(key: Value, reason: &str) {
    let found = Keys::parse(&json!({"keys": [ed(), with(key, "kid", "other")]})).err();
    assert!(found.is_some_and(|found| found.contains(reason)), "{found:?}");
}

#[test]
fn keys_that_are_refused() {
    for text in ["null", "{}", "[]", r#"{"keys":[]}"#, r#"{"keys":{}}"#, r#"{"keys":null}"#, "\"keys\"", "1"]
    {
        let document: Value = serde_json::from_str(text).unwrap();
        assert!(Keys::parse(&document).is_err_and(|reason| reason.contains("no array")), "{text}");
    }
    let many = |n: usize| {
        Keys::parse(&json!({"keys": (0..n).map(|i| with(hs(), "kid", i.to_string())).collect::<Vec<_>>()}))
    };
    assert_eq!(many(100).unwrap().count(), 100);
    assert!(many(101).is_err());
    for entry in [json!(null), json!("a"), json!([]), json!(1)] {
        assert!(
            Keys::parse(&json!({"keys": [ed(), entry]})).is_err_and(|reason| reason.contains("no object"))
        );
    }
    bad_key(without(ed(), "kty"), "without a \"kty\"");
    bad_key(with(ed(), "kty", 1), "without a \"kty\"");
    for kid in [json!(null), json!(1), json!(["a"])] {
        let reason = Keys::parse(&json!({"keys": [with(ed(), "kid", kid)]})).err();
        assert!(reason.is_some_and(|reason| reason.contains("\"kid\"")));
    }
    assert!(
        Keys::parse(&json!({"keys": [hs(), with(hs(), "k", b64([7; 32]))]}))
            .is_err_and(|r| r.contains("two keys"))
    );

    for weak in [&[0u8; 31][..], b"secret", b""] {
        bad_key(with(hs(), "k", b64(weak)), "shorter than 32 bytes");
    }
    let n = |bytes: &[u8]| with(rsa_key(), "n", b64(bytes));
    let (whole, odd) = (unb64(RSA_N), |len: usize, first: u8| [&[first][..], &vec![0xff; len - 1]].concat());
    for bad in [
        &whole[..255],
        &whole[128..],
        &[&[0], &whole[1..]].concat(),
        &odd(256, 0x7f),
        &odd(513, 1),
        &odd(1024, 255),
    ] {
        bad_key(n(bad), "modulus");
    }
    bad_key(n(&[&whole[..255], &[0xe0]].concat()), "modulus");
    bad_key(n(&[0; 256]), "modulus");
    bad_key(n(&[]), "modulus");
    for e in [&[][..], &[0], &[1], &[2], &[0, 1], &[1, 0, 0], &[2, 0, 0, 0, 1], &[255; 9], &[255; 300]] {
        bad_key(with(rsa_key(), "e", b64(e)), "exponent");
    }
    for name in ["x", "y"] {
        for bad in [
            vec![0; 32],
            vec![255; 32],
            unb64(EC_X)[..31].to_vec(),
            [&[0], &unb64(EC_X)[..]].concat(),
            vec![],
        ] {
            bad_key(with(ec(), name, b64(bad)), "point");
        }
    }
    bad_key(with(with(ec(), "x", EC_Y), "y", EC_X), "point");
    for bad in [
        vec![2; 32],
        unb64(ED_X)[..31].to_vec(),
        [&unb64(ED_X)[..], &[0]].concat(),
        vec![],
        vec![1],
        vec![0; 64],
    ] {
        bad_key(with(ed(), "x", b64(bad)), "point");
    }
    for key in [ed(), ec(), rsa_key(), hs()] {
        for name in ["x", "y", "n", "e", "k"].into_iter().filter(|name| key.get(name).is_some()) {
            let text = key[name].as_str().unwrap().to_owned();
            for bad in
                [format!("{text}="), format!("{text} "), format!("+{}", &text[1..]), format!("{text}\n")]
            {
                bad_key(with(key.clone(), name, bad), "not base64url");
            }
            bad_key(without(key.clone(), name), "missing");
            bad_key(with(key.clone(), name, 1), "missing");
        }
        let is_secret = key["kty"] == "oct";
        for name in ["d", "p", "q", "dp", "dq", "qi", "oth", "k", "priv"].into_iter().filter(|_| !is_secret) {
            bad_key(with(key.clone(), name, "AA"), "private");
            bad_key(with(with(key.clone(), name, json!(null)), "use", "enc"), "private");
        }
    }
    for (key, alg) in
        [(rsa_key(), "HS256"), (hs(), "RS256"), (ec(), "EdDSA"), (ed(), "ES256"), (rsa_key(), "ES256")]
    {
        bad_key(with(key, "alg", alg), "not of its type");
    }
    bad_key(with(with(ec(), "crv", "P-384"), "alg", "ES256"), "not of its type");
}

/// A key of small order would have signed whatever anyone likes; jsonwebtoken alone believes it.
#[test]
fn weak_points_are_refused() {
    let mut low = [0, 0, 0xff, 0xff, 0xff].map(|byte| vec![byte; 32]).to_vec();
    low[1][0] = 1;
    for (point, first) in low[2..].iter_mut().zip([0xec, 0xed, 0xee]) {
        (point[0], point[31]) = (first, 0x7f);
    }
    low.push(unb64("JuiVj8KyJ7BFw_SJ8u-Y8NXfrAXTxjM5sTgCiG1T_AU"));
    low.push(unb64("xxdqcD1N2E-6PAt2DRBnDyogU_osOczGTsf9d5KsA3o"));
    let mut believed = 0;
    for point in low {
        for sign in [0, 0x80] {
            let mut point = point.clone();
            point[31] ^= sign;
            let reason = Keys::parse(&json!({"keys": [with(ed(), "x", b64(&point))]})).err();
            assert_eq!(reason, Some(NO_POINT), "{point:?}");
            let key = Key { kid: None, algorithm: Algorithm::EdDsa, key: DecodingKey::from_ed_der(&point) };
            for number in 0..16u8 {
                let forged = [&[1][..], &[0; 63]].concat();
                assert!(!key.signed(&[number], &forged));
                let theirs = jsonwebtoken::crypto::verify(
                    &b64(&forged),
                    &[number],
                    &key.key,
                    Algorithm::EdDsa.theirs(),
                );
                believed += u32::from(theirs.unwrap_or(false));
            }
        }
    }
    println!("jsonwebtoken alone believes {believed} of them");
}

#[test]
fn keys_that_are_skipped() {
    let other = [
        with(rsa_key(), "use", "enc"),
        with(rsa_key(), "use", json!(null)),
        with(rsa_key(), "key_ops", json!(["encrypt"])),
        with(rsa_key(), "key_ops", json!([])),
        with(rsa_key(), "key_ops", "verify"),
        with(rsa_key(), "alg", "RSA-OAEP"),
        with(rsa_key(), "alg", "PS256"),
        with(rsa_key(), "alg", "rs256"),
        with(hs(), "alg", "HS512"),
        with(with(hs(), "k", "AA"), "use", "enc"),
        with(hs(), "alg", "A128KW"),
        with(ec(), "crv", "P-384"),
        with(ec(), "crv", "secp256k1"),
        with(ec(), "crv", json!(null)),
        with(ed(), "crv", "X25519"),
        with(ed(), "crv", "Ed448"),
        with(ed(), "kty", "EC"),
        json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AA"}),
        json!({"kty": "rsa"}),
    ];
    for key in &other {
        assert!(
            Keys::parse(&json!({"keys": [key]}))
                .is_err_and(|reason| reason.contains("no key that is of use")),
            "{key}"
        );
    }
    let some = keys(&[&other[..], &[with(rsa_key(), "use", "sig")]].concat());
    assert_eq!(some.count(), 1);
    assert!(check(token(r#"{"alg":"RS256"}"#, CLAIMS, "rsa"), &some).is_ok());
    assert_eq!(check(good("hs"), &some).err(), Some(Fault::Key));
    // Whatever else a key says, and a modulus with a zero in front as some write it.
    let n = b64([&[0], &unb64(RSA_N)[..]].concat());
    let more = json!({"kty": "RSA", "alg": "RS256", "n": n, "e": "AAEAAQ", "x5c": ["AA"], "x5t": 1, "key_ops": ["verify"]});
    assert!(check(token(r#"{"alg":"RS256"}"#, CLAIMS, "rsa"), &keys(&[more])).is_ok());
    // The largest modulus.
    assert_eq!(keys(&[with(rsa_key(), "n", RSA_4096_N)]).count(), 1);
}

#[test]
fn signing_is_refused() {
    let claims = json!({"iss": "a"});
    let private = || with(ed(), "d", ED_D);
    for (key, reason) in [
        (json!([]), "no object"),
        (json!({}), "not a key of"),
        (ed(), "missing"),
        (ec(), "missing"),
        (hs(), ""),
        (with(hs(), "k", "AA"), "shorter than 32"),
        (with(rsa_key(), "d", "AA"), "is an RSA key, with which nothing is signed here"),
        (with(private(), "d", EC_D), "together with its public key"),
        (with(private(), "d", "AA"), "together with its public key"),
        (with(private(), "d", b64([0; 33])), "together with its public key"),
        (with(ec(), "d", ED_D), "together with its public key"),
        (with(ec(), "d", b64([0; 32])), "together with its public key"),
        (with(ec(), "d", b64([255; 32])), "together with its public key"),
        (with(private(), "use", "enc"), "not a key to sign with"),
        (with(private(), "key_ops", json!(["verify"])), "not a key to sign with"),
        (with(private(), "alg", "ES256"), "not of its type"),
        (with(private(), "alg", "none"), "not a key of"),
        (with(private(), "kid", 1), "\"kid\""),
    ] {
        match sign(&claims, &key) {
            Ok(_) => assert!(reason.is_empty(), "{key}"),
            Err(found) => assert!(!reason.is_empty() && found.contains(reason), "{key}: {found}"),
        }
    }
    for claims in [json!(null), json!([]), json!("a")] {
        assert!(sign(&claims, &private()).is_err());
    }
}

/// What is nearly a good token; TENANCY_TOKENS says how many. Base64url has one spelling here, so that what is
/// accepted has to be, byte for byte, a token that was signed.
#[test]
fn mutated_tokens() {
    let few = if cfg!(debug_assertions) { 20_000 } else { 10_000_000 };
    let cases: usize = std::env::var("TENANCY_TOKENS").map_or(few, |text| text.parse().expect("a number"));
    let more = [
        token(r#"{"alg":"HS256"}"#, r#"{"iss":"b","exp":1,"aud":["x"],"app":{"tenant":"acme"}}"#, "hs"),
        token(
            r#"{"alg":"HS256","kid":"hs","jwk":{"kty":"oct","k":"AA"}}"#,
            r#"{"iss":"c","exp":2.5,"tid":7}"#,
            "hs",
        ),
    ];
    let seeds: Vec<String> = more.into_iter().chain(["hs", "ed", "ec", "rsa"].map(good)).collect();
    let edits = [
        ("HS256", "none"),
        ("HS256", "RS256"),
        ("EdDSA", "HS256"),
        ("ES256", "HS256"),
        ("RS256", "HS256"),
        ("\"kid\":\"hs\"", "\"kid\":\"rsa\""),
        ("\"kid\":\"", "\"kid\":\"hs\",\"x\":\""),
        ("{", "{\"crit\":[],"),
        ("{", "{\"alg\":\"none\","),
        ("{", "{ "),
        ("\"exp\":2", "\"exp\":3"),
        ("\"exp\":", "\"exp\":1e9,\"x\":"),
        ("\"iss\":\"", "\"iss\":\"e"),
        ("acme", "evil"),
        ("tid\":7", "tid\":8"),
        ("}", "}}"),
        ("\"u\"", "\"admin\""),
    ];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let (mut accepted, mut unsigned) = (0, 0);
    let start = std::time::Instant::now();
    for _ in 0..cases {
        // An RSA signature takes a hundred times as long as an HMAC.
        let seed = match random(100) {
            at @ 0..3 => 3 + at,
            at => at % 3,
        };
        let mut text = seeds[seed].clone().into_bytes();
        for _ in 0..1 + random(3) {
            let at = random(text.len() + 1);
            match random(9) {
                0 => text.insert(at, random(256) as u8),
                1 => text.insert(at, b"ABab01-_.=+/ "[random(13)]),
                2 if at < text.len() => text[at] ^= 1 << random(8),
                3 if at < text.len() => {
                    text[at] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdef0123456789-_."[random(45)]
                }
                4 if at < text.len() => drop(text.remove(at)),
                5 if at > 100 => text.truncate(at),
                6 => {
                    // A part of another token.
                    let other: Vec<&[u8]> = seeds[random(3)].as_bytes().split(|byte| *byte == b'.').collect();
                    let mut parts: Vec<&[u8]> = text.split(|byte| *byte == b'.').collect();
                    let (part, from) = (random(parts.len()), random(3));
                    parts[part] = other[from];
                    text = parts.join(&b'.');
                }
                _ => {
                    // The text within, so that what it says is wrong and not how it is written.
                    let mut parts: Vec<Vec<u8>> =
                        text.split(|byte| *byte == b'.').map(<[u8]>::to_vec).collect();
                    let part = random(parts.len().min(2));
                    if let Some(inner) =
                        BASE64URL.decode(&parts[part]).ok().and_then(|t| String::from_utf8(t).ok())
                    {
                        let (from, to) = edits[random(edits.len())];
                        parts[part] = b64(inner.replacen(from, to, 1)).into_bytes();
                    }
                    text = parts.join(&b'.');
                }
            }
        }
        match check(&text, &ALL) {
            Ok(_) => {
                assert!(
                    seeds.iter().any(|seed| seed.as_bytes() == text),
                    "{}",
                    String::from_utf8_lossy(&text)
                );
                accepted += 1;
            }
            Err(Fault::Signature) => unsigned += 1,
            Err(fault) => assert!(!fault.reason().is_empty()),
        }
    }
    println!(
        "{accepted} of {cases} are as signed, {unsigned} got as far as the signature, {:?}",
        start.elapsed()
    );
    assert!(unsigned * 10 > cases, "hardly any was tried");
}

proptest! {
    #[test]
    fn never_panics(text: Vec<u8>, claims in "\\PC{0,60}", header in "[{}\\[\\]:,\"a-z0-9\\\\.]{0,40}") {
        prop_assert!(check(&text, &ALL).is_err());
        let tokens = [token(&header, CLAIMS, "hs"), token(r#"{"alg":"HS256"}"#, &claims, "hs")];
        prop_assert!(tokens.iter().all(|token| check(token, &ALL).is_err()));
    }

    #[test]
    fn texts_and_numbers_round_trip(text in "[^\0]{0,40}", number: i64) {
        let token = sign(&json!({"iss": "a", "exp": 1, "t": text, "n": {"n": number}}), &hs()).unwrap();
        let claims = check(&token, &ALL).ok().unwrap();
        prop_assert_eq!(claims.text("t"), Some(text));
        prop_assert_eq!(claims.text("n.n"), Some(number.to_string()));
    }

    #[test]
    fn keys_never_panic(x: Vec<u8>, y in prop::collection::vec(0u8.., 32), name in "x|y|n|e|k|kty|crv|alg|kid|use|d") {
        for key in [ed(), ec(), rsa_key(), hs()] {
            for value in [json!(b64(&x)), json!(b64(&y)), json!(x), json!(null)] {
                let key = with(key.clone(), &name, value);
                let _ = (Keys::parse(&json!({"keys": [key]})), sign(&json!({}), &with(key, "d", b64(&y))));
            }
        }
    }
}
