use std::sync::LazyLock;

use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::*;

const RSA_N: &str = "\
    vUOu9a904zW1XKsOfbGI__q40bpale5rM5-t_TQTxWIaIj3r32eBziK3LEXRxZ0EJKdeGABMdW_uqZ1h-ILkbyZX0UOytlu_Yww4\
    bQfWxBbJmhDqd28HBy9AoZx2EvUchl5qvvPVqKDOzfcZJmo486lgNctZJSiOorplTplskvBylRS8g-MJNIjs09Pl90Ojp15vNdZa\
    tut1RkwFzozmvgIRBehHRrOn1FYwzCuS1AghzZyk77o1dXzbVHoD0pLXW-aG7pMf3KGIAhgm2Jzwg5qGsV8NKHFIpUYDDy14lQe1\
    hCImYUwFEG2JwxorCkHeeniq75kJNXiEgdMCY8M_4Q";
const RSA_PRIVATE: &str = "\
    MIIEpQIBAAKCAQEAvUOu9a904zW1XKsOfbGI__q40bpale5rM5-t_TQTxWIaIj3r32eBziK3LEXRxZ0EJKdeGABMdW_uqZ1h-ILk\
    byZX0UOytlu_Yww4bQfWxBbJmhDqd28HBy9AoZx2EvUchl5qvvPVqKDOzfcZJmo486lgNctZJSiOorplTplskvBylRS8g-MJNIjs\
    09Pl90Ojp15vNdZatut1RkwFzozmvgIRBehHRrOn1FYwzCuS1AghzZyk77o1dXzbVHoD0pLXW-aG7pMf3KGIAhgm2Jzwg5qGsV8N\
    KHFIpUYDDy14lQe1hCImYUwFEG2JwxorCkHeeniq75kJNXiEgdMCY8M_4QIDAQABAoIBAFQ09XaFMo3WuxL4XnGpGCm__RP_BEe5\
    9MNas7g4v-UtoTAD-dqDfHrg8juF8u-nzQyb1J78HwiPHRIlHk5JumYDmsXWB4DgMDZa3Q4Rk0naU6czCIbMBMX7DZf5-4SyvpbA\
    EmFULocgyPJVksCHOUCb5tz4VPjV4yRepy1B0M9M27jCHMzbDqSmgeGjItRxTbdd_G4HSRdu_fywZshFLjDPTKB1xnxQ7-w8LrSL\
    8dDxDS7XSiQaD1lFVGE1X8MrJrhLaPRM6YvEiPOpw-2pmObh6umbpG1vjpUiJzCFyKO2j1tYDAj8qGlvBpgpVEpVuKfksVrW4JRH\
    CFmaDluw_RsCgYEA9ahCwRMq85DCxB2CZRe8ECXEhGLPaAJnvdf1rCiPZZAfJtZaNnvjiFSSqYQhVpZ1yUiBIcltFa0U3ksYFVUt\
    s9Rt81eBAb7ZB2xGjjdpFnNwLMMjefZFlztSrW3NoAttmSwPce7-2_mAMdiaIinas4roY32ccDZkrihJPX011PcCgYEAxTucHmsk\
    EboC73-m66HmZzzuCDNj4QwkmnlrC0D7NGbW-Z9WcoImN9WpmBIEjT37J9Moiph9y1eVFoGFN5IjPFYfxed3fP7z81rV4T31LHW6\
    vO78vlM4vCZPdvym2XWazb7ZEV6W6hhZl11TJ13fRvI0BDcWMx3V-aEguvf8U-cCgYEAuKcHtnWf_YE8xYmg8DhNBp48_33-hSH5\
    tPvWENhUIXWZ1Ome2gF54IohzAYjwSBL3UcAudLcikSVwRoVOkPSnK_7DcUilZtNK4U568C-3z9afGsaCZ0SZkETPoWg4MJ2WYKD\
    AZMyQ0tiDxXPlgp7-CVb1R0gMEDSoQ5rLyslAbUCgYEAiU4OST7dRVnxYTnEwpVbCNPqAduE1M7XTJLqalM6jihp0C2UyPLCGGyu\
    PCeO86UKi5b8yj-Ok1jNeXWBgEZEMWTjiaqyDFqRCgFalAvF-sWa0pytZvIYtSMWfwc0QH8W3dTW2Li45w88j5twoB9BqOpEPAr9\
    cWh75eS-HGs3RlECgYEAtZXKqr5Zg7W5SSIHshxOae5PgEsegcPjRJ9Vjm2cKxjBpaJmCVHIuCKnu7PCQh3RpH8koSpwV_WGRaQv\
    I1jz3HgHnneHqglTipaHIcnifosAzcaGkYtjAHzgJ5dgqI0W3ijijGZTTPpSVVqs3FYKRlY_bc4H0UPd8CdDSkGyRbQ";
const RSA_4096_N: &str = "\
    o_Xv6YftbPyqgjWdp3km5khK8VPXqZU5b20anUC38Fa3j6uv9HG5sW0u_FIzkWC4JyT4WBTdOQVX_VYv9JEpWV5ae7TY3xDAT9Yb\
    3bHbCzcRY_z73hnvwyJGFnK5lCj5XgVBQN4KCWYUcaREdJl7Mxc3NfpzVsndjbM9JxH9q5IPmeiW2wTH5QNWq7bQ67mu5-iRz0Wx\
    q2kftlocZQIjF_l2R6HHQUdkbdwnjtpG2l0h3JRzEJwrfVazAn9GHCNXH7gpOWBUH4I0FyIcx_RiUh_gwjiXFuCpayWGP54HM7yN\
    dM7CGBrNsn84v6hl_mxKe4nhT3xrUaMHfpjQFbQj4sPQdHHqokGARVLSI27eFtVFUyVqFFFv0nuc1OukgxX3Z2X1EWGyZX12ogP6\
    HhL_536BFnx7eWPFLSNBW6S4mhuvR2vfzvIqL0wBANT-cvuwdk_GwFfCQePC7FKzhNoZFBCgeFhgEcfBrpdEcHA6uvQDM-oBQfnQ\
    WwUt56CvX5m56WQJa5Slqx731kZ1ZSoJfRsfiCJ_7hlII5IMAW7QwmpnS9wSh5tLLQTsKusC6Acjw8f-XoeGqFy_91iZMBrXqK9k\
    YVLpdBiozZvDmczjnUbn_H2ii10XYHQa63YMW2qzPPInCAfW29jISxGXw3vnaZCUdw4gTLZ9phTU0djOXGk";
const RFC_7515_N: &str = "\
    ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yR\
    T-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXB\
    dQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9ia\
    GNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
const RFC_7515_RS256: &str = "\
    cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9\
    uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB\
    _eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rq\
    Vt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";

const ED_D: &str = "yjWg4ZpP1veoQR7yvPIzG--kZ_bttP77Eqlks8UQxiA";
const ED_X: &str = "gfDMmkmWZey1skq11NUoAugZXH5W3FYAi5jwdyThCKU";
const EC_D: &str = "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI";
const EC_X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
const EC_Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
const HS_K: &str = "958HrgEqU0crHpnms71MFqwLGIU00hw_ruvzIKqEPpU";
const CLAIMS: &str = r#"{"iss":"https://a.example","exp":2000000000,"sub":"u"}"#;

fn ed() -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": ED_X})
}
fn ec() -> Value {
    json!({"kty": "EC", "crv": "P-256", "kid": "ec", "x": EC_X, "y": EC_Y})
}
fn rsa_key() -> Value {
    json!({"kty": "RSA", "kid": "rsa", "n": RSA_N, "e": "AQAB"})
}
fn hs() -> Value {
    json!({"kty": "oct", "kid": "hs", "k": HS_K})
}
fn with(mut of: Value, name: &str, value: impl Into<Value>) -> Value {
    of[name] = value.into();
    of
}
fn without(mut of: Value, name: &str) -> Value {
    of.as_object_mut().unwrap().remove(name);
    of
}
fn keys(all: &[Value]) -> Keys {
    Keys::parse(&json!({ "keys": all })).unwrap()
}
static ALL: LazyLock<Keys> = LazyLock::new(|| keys(&[ed(), ec(), rsa_key(), hs()]));
static PUBLIC: LazyLock<Keys> = LazyLock::new(|| keys(&[ed(), ec(), rsa_key()]));

fn unb64(text: &str) -> Vec<u8> {
    BASE64URL.decode(text).unwrap()
}
fn b64(bytes: impl AsRef<[u8]>) -> String {
    BASE64URL.encode(bytes)
}
/// The signature of a key, or of a secret.
fn signature(message: &str, by: &str) -> String {
    let (key, algorithm) = match by {
        "ed" => (
            EncodingKey::from_ed_der(&[ED25519_PRIVATE, &unb64(ED_D), ED25519_PUBLIC, &unb64(ED_X)].concat()),
            Algorithm::EdDsa,
        ),
        "ec" => (
            EncodingKey::from_ec_der(
                &[P256_PRIVATE, &unb64(EC_D), P256_PUBLIC, &unb64(EC_X), &unb64(EC_Y)].concat(),
            ),
            Algorithm::Es256,
        ),
        "rsa" => (EncodingKey::from_rsa_der(&unb64(RSA_PRIVATE)), Algorithm::Rs256),
        _ => return hmac(message, &unb64(HS_K)),
    };
    jsonwebtoken::crypto::sign(message.as_bytes(), &key, algorithm.theirs()).unwrap()
}
fn hmac(message: &str, secret: &[u8]) -> String {
    let key = EncodingKey::from_secret(secret);
    jsonwebtoken::crypto::sign(message.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).unwrap()
}
fn message(header: impl AsRef<[u8]>, claims: impl AsRef<[u8]>) -> String {
    format!("{}.{}", b64(header), b64(claims))
}
fn token(header: impl AsRef<[u8]>, claims: impl AsRef<[u8]>, by: &str) -> String {
    let message = message(header, claims);
    format!("{message}.{}", signature(&message, by))
}
fn good(by: &str) -> String {
    let alg = match by {
        "ed" => "EdDSA",
        "ec" => "ES256",
        "rsa" => "RS256",
        _ => "HS256",
    };
    token(format!(r#"{{"alg":"{alg}","typ":"JWT","kid":"{by}"}}"#), CLAIMS, by)
}
fn check(token: impl AsRef<[u8]>, keys: &Keys) -> Result<Claims, Fault> {
    parse(token.as_ref())?.verified(keys)
}
#[track_caller]
fn refused(token: impl AsRef<[u8]>, fault: Fault) {
    let text = String::from_utf8_lossy(token.as_ref()).into_owned();
    assert_eq!(check(&token, &ALL).err(), Some(fault), "{text}");
}
/// With a signature that is good, so that nothing but the header is wrong.
#[track_caller]
fn header_refused(header: &str, fault: Fault) {
    refused(token(header, CLAIMS, "hs"), fault);
}
#[track_caller]
fn claims_refused(claims: impl AsRef<[u8]>, fault: Fault) {
    refused(token(r#"{"alg":"HS256","kid":"hs"}"#, claims, "hs"), fault);
}
fn claims(text: &str) -> Claims {
    check(token(r#"{"alg":"HS256"}"#, text, "hs"), &ALL).ok().unwrap()
}

#[test]
fn good_tokens_of_each_algorithm() {
    for by in ["ed", "ec", "rsa", "hs"] {
        let token = good(by);
        assert_eq!(parse(token.as_bytes()).ok().unwrap().issuer(), "https://a.example");
        assert_eq!(check(&token, &ALL).ok().unwrap().expires(), 2_000_000_000, "{by}");
    }
    for typ in [r#""jwt""#, r#""at+JWT""#, r#""application/at+jwt""#] {
        let header = format!(r#"{{"alg":"HS256","typ":{typ}}}"#);
        assert!(check(token(header, CLAIMS, "hs"), &ALL).is_ok(), "{typ}");
    }
    // What is signed here is good here.
    let body = json!({"iss": "a", "exp": 1, "é\"\\": "\u{1F600}"});
    for (private, header) in [
        (with(ed(), "d", ED_D), r#"{"alg":"EdDSA","typ":"JWT","kid":"ed"}"#),
        (with(ec(), "d", EC_D), r#"{"alg":"ES256","typ":"JWT","kid":"ec"}"#),
        (without(hs(), "kid"), r#"{"alg":"HS256","typ":"JWT"}"#),
    ] {
        let token = sign(&body, &private).unwrap();
        assert_eq!(unb64(token.split('.').next().unwrap()), header.as_bytes());
        assert_eq!(check(&token, &ALL).ok().unwrap().text("é\"\\").as_deref(), Some("\u{1F600}"));
    }
}

/// RFC 7515, appendix A.1 to A.3, and RFC 8037, appendix A.4, which signs no claims.
#[test]
fn examples_of_the_standards() {
    let body =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let k = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let es256 = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
    let all = keys(&[with(hs(), "k", k), with(rsa_key(), "n", RFC_7515_N), ec()]);
    for token in [
        format!(
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{body}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
        ),
        format!("eyJhbGciOiJSUzI1NiJ9.{body}.{RFC_7515_RS256}"),
        format!("eyJhbGciOiJFUzI1NiJ9.{body}.{es256}"),
    ] {
        let claims = check(&token, &all).ok().unwrap();
        assert_eq!((claims.text("iss").as_deref(), claims.expires()), (Some("joe"), 1_300_819_380));
        assert_eq!(claims.text("http://example.com/is_root"), None);
        assert!(check(&token, &ALL).is_err() || token.ends_with(es256), "by another key");
    }
    let no_claims = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
    refused(
        format!(
            "{no_claims}.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
        ),
        Fault::Malformed,
    );
}

#[test]
fn no_algorithm_and_other_algorithms() {
    for alg in [
        "none", "None", "NONE", "nOnE", "", " ", "hs256", "HS256 ", "HS384", "HS512", "PS256", "ES384",
        "ES256K",
    ] {
        header_refused(&format!(r#"{{"alg":"{alg}"}}"#), Fault::Algorithm);
        let stripped = message(format!(r#"{{"alg":"{alg}","kid":"hs"}}"#), CLAIMS);
        refused(format!("{stripped}.AA"), Fault::Algorithm);
        assert!(check(format!("{stripped}."), &ALL).is_err());
    }
    for alg in ["null", "0", "true", "[\"HS256\"]", "{}"] {
        header_refused(&format!(r#"{{"alg":{alg}}}"#), Fault::Algorithm);
    }
    header_refused(r#"{"typ":"JWT"}"#, Fault::Algorithm);
    header_refused(r#"{"Alg":"HS256"}"#, Fault::Algorithm);
    header_refused("{\"alg\":\"HS256\u{200b}\"}", Fault::Algorithm);
}

/// A public key, in each form that it is published in, taken as the secret of an HMAC.
#[test]
fn a_public_key_is_no_secret() {
    let hex = |text: &str| -> Vec<u8> {
        (0..text.len()).step_by(2).map(|i| u8::from_str_radix(&text[i..i + 2], 16).unwrap()).collect()
    };
    let pkcs1 = [hex("3082010a0282010100"), unb64(RSA_N), hex("0203010001")].concat();
    let spki = [
        [hex("30820122300d06092a864886f70d01010105000382010f00"), pkcs1.clone()].concat(),
        [hex("3059301306072a8648ce3d020106082a8648ce3d03010703420004"), unb64(EC_X), unb64(EC_Y)].concat(),
        [hex("302a300506032b6570032100"), unb64(ED_X)].concat(),
    ];
    let mut secrets = vec![pkcs1, unb64(RSA_N), unb64(EC_X), unb64(ED_X), Vec::new(), vec![0; 32]];
    secrets.extend([RSA_N, EC_X, ED_X, "secret", "AQAB"].map(|text| text.as_bytes().to_vec()));
    secrets.push([vec![4], unb64(EC_X), unb64(EC_Y)].concat());
    secrets.extend([ed(), ec(), rsa_key()].map(|jwk| jwk.to_string().into_bytes()));
    for der in &spki {
        let lines: Vec<String> = STANDARD
            .encode(der)
            .as_bytes()
            .chunks(64)
            .map(|l| String::from_utf8(l.to_vec()).unwrap())
            .collect();
        let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", lines.join("\n"));
        secrets.extend([der.clone(), pem.clone().into_bytes(), format!("{pem}\n").into_bytes()]);
        secrets.push(format!("{pem}\n").replace('\n', "\r\n").into_bytes());
    }
    for secret in secrets {
        for (kid, fault) in [
            ("rsa", Fault::Algorithm),
            ("ec", Fault::Algorithm),
            ("ed", Fault::Algorithm),
            ("hs", Fault::Key),
        ] {
            let message = message(format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#), CLAIMS);
            let token = format!("{message}.{}", hmac(&message, &secret));
            assert_eq!(check(&token, &PUBLIC).err(), Some(fault));
            refused(token, if kid == "hs" { Fault::Signature } else { fault });
        }
        let message = message(r#"{"alg":"HS256"}"#, CLAIMS);
        let token = format!("{message}.{}", hmac(&message, &secret));
        assert_eq!(check(&token, &PUBLIC).err(), Some(Fault::Key));
        refused(token, Fault::Signature);
    }
}

#[test]
fn the_key_is_the_one_that_is_named() {
    for kid in [
        "../../dev/null",
        "' UNION SELECT 'AA' --",
        "",
        "HS",
        "hs ",
        "hs|id",
        "%68%73",
        "https://evil.example/k",
    ] {
        header_refused(&format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#), Fault::Key);
    }
    for kid in ["null", "0", "[\"hs\"]", "{\"hs\":1}", "true"] {
        header_refused(&format!(r#"{{"alg":"HS256","kid":{kid}}}"#), Fault::Malformed);
    }
    header_refused(r#"{"alg":"HS256","kid":"ed"}"#, Fault::Algorithm);
    refused(token(r#"{"alg":"EdDSA","kid":"ec"}"#, CLAIMS, "ed"), Fault::Algorithm);
    // Two of the algorithm: a token has to say which.
    let two = keys(&[hs(), json!({"kty": "oct", "k": b64([7; 32])}), ed()]);
    let (none, named) = (token(r#"{"alg":"HS256"}"#, CLAIMS, "hs"), good("hs"));
    assert_eq!(check(&none, &two).err(), Some(Fault::Key));
    assert!(check(&named, &two).is_ok() && check(&none, &ALL).is_ok());
    assert_eq!(check(good("rsa"), &two).err(), Some(Fault::Key));
    // Two without a name are none that a token can say.
    let unnamed = keys(&[without(hs(), "kid"), json!({"kty": "oct", "k": b64([7; 32])})]);
    assert!([&none, &named].iter().all(|token| check(token, &unnamed).err() == Some(Fault::Key)));
    // The same name for another algorithm's key, and the same name at another issuer.
    let same = keys(&[with(ed(), "kid", "k"), with(hs(), "kid", "k")]);
    assert!(check(token(r#"{"alg":"HS256","kid":"k"}"#, CLAIMS, "hs"), &same).is_ok());
    assert!(check(token(r#"{"alg":"EdDSA","kid":"k"}"#, CLAIMS, "ed"), &same).is_ok());
    assert_eq!(
        check(token(r#"{"alg":"EdDSA","kid":"k"}"#, CLAIMS, "hs"), &same).err(),
        Some(Fault::Signature)
    );
    let other = keys(&[with(hs(), "k", b64([7; 32]))]);
    assert_eq!(check(&named, &other).err(), Some(Fault::Signature));
}

/// The attacker's own key, by value and by address, is there and disregarded.
#[test]
fn the_header_brings_no_key() {
    let own = r#"{"kty":"oct","k":"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc","kid":"hs"}"#;
    for extra in [
        format!(r#""jwk":{own}"#),
        r#""jku":"https://evil.example/jwks","x5u":"https://evil.example/x""#.to_owned(),
        r#""x5c":["AAAA"],"x5t":"AA""#.to_owned(),
    ] {
        for kid in ["", r#","kid":"hs""#] {
            let header = format!(r#"{{"alg":"HS256",{extra}{kid}}}"#);
            let message = message(&header, CLAIMS);
            refused(format!("{message}.{}", hmac(&message, &[7; 32])), Fault::Signature);
            assert!(check(token(&header, CLAIMS, "hs"), &ALL).is_ok());
        }
    }
    for critical in [r#""crit":["exp"]"#, r#""crit":[]"#, r#""crit":null"#, r#""b64":false"#, r#""b64":true"#]
    {
        header_refused(&format!(r#"{{"alg":"HS256",{critical}}}"#), Fault::Critical);
    }
    for typ in
        [r#""JWE""#, r#""dpop+jwt""#, r#""logout+jwt""#, r#""""#, "null", "1", r#"["JWT"]"#, r#""JWT ""#]
    {
        header_refused(&format!(r#"{{"alg":"HS256","typ":{typ}}}"#), Fault::Malformed);
    }
}

#[test]
fn signatures_that_are_none() {
    for by in ["ed", "ec", "rsa", "hs"] {
        let token = good(by);
        let (message, signature) = token.rsplit_once('.').unwrap();
        let bytes = unb64(signature);
        let mut bad = vec![vec![0; bytes.len()], vec![255; bytes.len()], vec![0], vec![0; 64], vec![0; 256]];
        bad.push(bytes[..bytes.len() - 1].to_vec());
        bad.push(bytes[1..].to_vec());
        bad.extend([[&bytes[..], &[0]].concat(), [&[0], &bytes[..]].concat(), bytes.repeat(2)]);
        bad.extend((0..bytes.len()).step_by(7).map(|at| {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            flipped
        }));
        bad.push([&bytes[bytes.len() / 2..], &bytes[..bytes.len() / 2]].concat());
        if by == "ec" {
            // As DER, and with r = s = 1, and with one of both zero.
            let (r, s) = bytes.split_at(32);
            let integer = |n: &[u8]| [&[2, 33, 0][..], n].concat();
            bad.push([&[0x30, 70][..], &integer(r), &integer(s)].concat());
            bad.extend([[r, &[0; 32]].concat(), [&[0; 32], s].concat()]);
            let one = [vec![0; 31], vec![1]].concat();
            bad.push(one.repeat(2));
        }
        for bytes in bad {
            refused(format!("{message}.{}", b64(bytes)), Fault::Signature);
        }
        refused(format!("{message}."), Fault::Signature);
        refused(message, Fault::Malformed);
        // The claims of another token, and of none.
        let (header, _) = message.split_once('.').unwrap();
        let other = b64(CLAIMS.replace("\"u\"", "\"admin\""));
        refused(format!("{header}.{other}.{signature}"), Fault::Signature);
        for from in ["ed", "ec", "rsa", "hs"].iter().filter(|from| **from != by) {
            refused(format!("{message}.{}", super::tests::signature(message, from)), Fault::Signature);
        }
    }
}

/// An ES256 signature has a second spelling that is as good, so a token's text does not identify it: `jti` does.
#[test]
fn a_token_is_not_its_text() {
    let order = unb64("_____wAAAAD__________7zm-q2nF56E87nKwvxjJVE");
    let token = good("ec");
    let (message, signature) = token.rsplit_once('.').unwrap();
    let mut bytes = unb64(signature);
    let mut borrow = 0;
    for (digit, order) in bytes[32..].iter_mut().zip(order).rev() {
        let difference = i32::from(order) - i32::from(*digit) - borrow;
        (*digit, borrow) = (difference.rem_euclid(256) as u8, i32::from(difference < 0));
    }
    assert!(check(format!("{message}.{}", b64(bytes)), &ALL).is_ok());
}

#[test]
fn parts_and_their_encoding() {
    let token = good("hs");
    let parts: Vec<&str> = token.split('.').collect();
    for bad in ["", ".", "..", "...", "a", "a.b.c", "....", "\0", "Bearer"] {
        refused(bad, Fault::Malformed);
    }
    refused(parts[..2].join("."), Fault::Malformed);
    refused([&parts[..], &["AA"]].concat().join("."), Fault::Malformed);
    refused([&parts[..], &["AA", "AA"]].concat().join("."), Fault::Malformed);
    refused([&parts[..], &[""]].concat().join("."), Fault::Malformed);
    refused(format!(".{token}"), Fault::Malformed);
    refused(format!("Bearer {token}"), Fault::Malformed);
    // Padding and blanks, before and after each of the parts.
    for at in 0..3 {
        for extra in [" ", "\n", "=", "==", "\0", "%3D", "\u{feff}"] {
            for edited in [format!("{}{extra}", parts[at]), format!("{extra}{}", parts[at])] {
                let mut parts = parts.clone();
                parts[at] = &edited;
                refused(parts.join("."), Fault::Malformed);
            }
        }
    }
    // 32 bytes leave two bits over; the other alphabet; letters that are none.
    let (rest, last) = parts[2].split_at(parts[2].len() - 1);
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let at = alphabet.find(last).unwrap();
    for beyond in 1..4 {
        refused(
            format!("{}.{}.{rest}{}", parts[0], parts[1], &alphabet[at + beyond..=at + beyond]),
            Fault::Malformed,
        );
    }
    for other in ["+", "/", "é", "*"] {
        refused(format!("{}.{}.{other}{}", parts[0], parts[1], &parts[2][1..]), Fault::Malformed);
    }
    refused([token.as_bytes(), b"\xff"].concat(), Fault::Malformed);
    // The longest, and one more.
    let long = |fill: usize| {
        let claims = format!("{}{}", CLAIMS, " ".repeat(fill));
        self::token(r#"{"alg":"HS256"}"#, claims, "hs")
    };
    let fill = (0..MAX_LEN).rfind(|fill| long(*fill).len() <= MAX_LEN).unwrap();
    assert!(long(fill).len() > MAX_LEN - 3 && check(long(fill), &ALL).is_ok());
    refused(long(fill + 3), Fault::TooLong);
    refused("a".repeat(MAX_LEN + 1), Fault::TooLong);
    refused(".".repeat(1 << 24), Fault::TooLong);
}

#[test]
fn json_that_can_be_read_in_one_way() {
    let inside = |extra: &str| format!(r#"{{"iss":"a","exp":1,{extra}}}"#);
    for twice in [
        r#""iss":"b""#,
        r#""\u0069ss":"b""#,
        r#""exp":1"#,
        r#""a":{"b":1,"b":1}"#,
        r#""a":[[{"b":{},"\u0062":null}]]"#,
        r#""":1,"":2"#,
    ] {
        claims_refused(inside(twice), Fault::Duplicate);
    }
    header_refused(r#"{"alg":"none","alg":"HS256"}"#, Fault::Duplicate);
    header_refused(r#"{"alg":"HS256","\u0061lg":"HS256"}"#, Fault::Duplicate);
    header_refused(r#"{"alg":"HS256","kid":"x","kid":"hs"}"#, Fault::Duplicate);
    header_refused(r#"{"alg":"HS256","jwk":{"k":1,"k":1}}"#, Fault::Duplicate);
    for bad in [
        r#""a":1e400"#,
        r#""a":-1e400"#,
        r#""a":NaN"#,
        r#""a":Infinity"#,
        r#""a":01"#,
        r#""a":+1"#,
        r#""a":0x1"#,
        r#""a":1."#,
        r#""a":"\ud800""#,
        r#""a":"\udc00\ud800""#,
        r#""\ud800":1"#,
        r#""a":"\u0000""#,
        r#""a\u0000":1"#,
        r#""a":["x\u0000y"]"#,
        "\"a\":\"\0\"",
        "\"a\":\"\n\"",
        r#""a":'x'"#,
        r#""a":1,"#,
        r#"/**/"a":1"#,
        r#"a:1"#,
        r#""a":"\x41""#,
        r#""a":undefined"#,
    ] {
        claims_refused(inside(bad), Fault::Malformed);
    }
    for bad in [
        "",
        "null",
        "1",
        "\"{}\"",
        "[]",
        "[{}]",
        "{",
        "}",
        "{}{}",
        "{},",
        "{}\0",
        "\u{feff}{}",
        "true",
        "{}x",
    ] {
        claims_refused(bad, Fault::Malformed);
        header_refused(bad, Fault::Malformed);
        claims_refused(bad.replace("{}", CLAIMS), Fault::Malformed);
    }
    for bad in [
        &b"{\"iss\":\"\xff\",\"exp\":1}"[..],
        b"{\"iss\":\"\xc0\xaf\",\"exp\":1}",
        b"{\"iss\":\"\xed\xa0\x80\",\"exp\":1}",
    ] {
        claims_refused(bad, Fault::Malformed);
    }
    let utf16: Vec<u8> = CLAIMS.encode_utf16().flat_map(u16::to_le_bytes).collect();
    claims_refused(utf16, Fault::Malformed);
    // A token as the claims of a token.
    claims_refused(good("hs"), Fault::Malformed);
    claims_refused(format!("\"{}\"", good("hs")), Fault::Malformed);
    // 32 levels, the outermost among them; far too many do not end the stack.
    let nested = |n: usize| inside(&format!(r#""a":{}{}"#, "[".repeat(n), "]".repeat(n)));
    assert!(check(token(r#"{"alg":"HS256"}"#, nested(31), "hs"), &ALL).is_ok());
    for n in [32, 100, 2500] {
        claims_refused(nested(n), Fault::Malformed);
        header_refused(&nested(n), Fault::Malformed);
    }
    claims_refused(inside(&format!(r#""a":{}"#, r#"{"a":"#.repeat(1000))), Fault::Malformed);
}

#[path = "jwt_claims_tests.rs"]
mod of_claims;
#[path = "jwt_keys_tests.rs"]
mod of_keys;
