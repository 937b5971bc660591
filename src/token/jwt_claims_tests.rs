//! What the claims of a good token say.

use super::*;

#[test]
fn claims_of_the_wrong_type() {
    let others = ["null", "true", "[]", "{}", "[1]"];
    for value in others.iter().chain(&["1", "\"\"", "[\"a\"]"]) {
        claims_refused(format!(r#"{{"iss":{value},"exp":1}}"#), Fault::Claim("iss"));
    }
    claims_refused("{}", Fault::Claim("iss"));
    claims_refused(r#"{"iss":"a"}"#, Fault::Claim("exp"));
    let wrong_time =
        ["\"1\"", "\"\"", "9007199254740993", "-9007199254740993", "1e300", "-1e300", "18446744073709551615"];
    for name in ["exp", "nbf", "iat"] {
        for value in others.iter().chain(&wrong_time) {
            let exp = if name == "exp" { "" } else { r#","exp":1"# };
            claims_refused(format!(r#"{{"iss":"a"{exp},"{name}":{value}}}"#), Fault::Claim(name));
        }
    }
    for value in ["null", "1", "true", "{}", "[1]", "[null]", "[\"a\",[\"b\"]]", "[\"a\",1]"] {
        claims_refused(format!(r#"{{"iss":"a","exp":1,"aud":{value}}}"#), Fault::Claim("aud"));
    }
    for value in ["null", "1", "[]", "{}"] {
        claims_refused(format!(r#"{{"iss":"a","exp":1,"jti":{value}}}"#), Fault::Claim("jti"));
    }
    for claim in ["iss", "exp", "nbf", "iat", "aud", "jti"] {
        assert!(Fault::Claim(claim).reason().contains(claim));
    }
}

#[test]
fn claims_are_read() {
    let of = |rest: &str| claims(&format!(r#"{{"iss":"a",{rest}}}"#));
    for (text, seconds) in [
        ("1700000000.5", 1_700_000_000),
        ("1.7e9", 1_700_000_000),
        ("-1", -1),
        ("-0.5", -1),
        ("-0", 0),
        ("0", 0),
        ("9007199254740992", 1 << 53),
        ("-9007199254740992", -(1 << 53)),
    ] {
        let claims = of(&format!(r#""exp":{text},"nbf":{text},"iat":{text}"#));
        assert_eq!(
            (claims.expires(), claims.not_before(), claims.issued_at()),
            (seconds, Some(seconds), Some(seconds))
        );
    }
    let few = of(r#""exp":1"#);
    assert_eq!((few.audience().count(), few.not_before(), few.issued_at(), few.id()), (0, None, None, None));
    assert_eq!(of(r#""exp":1,"aud":"x","jti":"j""#).audience().collect::<Vec<_>>(), ["x"]);
    assert_eq!(of(r#""exp":1,"aud":["x","y"]"#).audience().collect::<Vec<_>>(), ["x", "y"]);
    assert_eq!(of(r#""exp":1,"jti":"j""#).id(), Some("j"));

    let claims = of(
        r#""exp":1,"https://e.example/t":"whole","app":{"t":"in","n":-42,"deep":{"t":"er"}},"":{"":"no name"},
           "a.b":5,"a":{"b":"other"},"g.h":"flat","c.d":null,"c":{"d":"x"},"f":1.0,"e":1e3,"z":-0,"big":18446744073709551615,
           "bigger":18446744073709551616,"l":["x"],"yes":true,"empty":"","0":"zero""#,
    );
    for (path, text) in [
        ("https://e.example/t", Some("whole")),
        ("g.h", Some("flat")),
        ("app.t", Some("in")),
        ("app.n", Some("-42")),
        ("app.deep.t", Some("er")),
        (".", Some("no name")),
        // At two places, of which another reader may take the other.
        ("a.b", None),
        ("big", Some("18446744073709551615")),
        ("empty", Some("")),
        ("0", Some("zero")),
        ("c.d", None),
        ("f", None),
        ("e", None),
        ("z", None),
        ("bigger", None),
        ("l", None),
        ("l.0", None),
        ("yes", None),
        ("app", None),
        ("app.", None),
        (".app", None),
        ("app..t", None),
        ("app.t.t", None),
        ("App.t", None),
        ("", None),
        ("..", None),
        ("nothing", None),
    ] {
        assert_eq!(claims.text(path).as_deref(), text, "{path}");
    }
}
