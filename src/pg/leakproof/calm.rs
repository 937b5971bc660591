//! Patterns and paths that are matched against any value without an error.
//!
//! What is in doubt is not calm.

/// The bytes that a pattern may have, and a value that is searched for.
pub const LONGEST: usize = 1000;
/// The states that the automaton of a regular expression may have, about. PostgreSQL makes room for states times characters when it
/// first matches a value, and says so where there is none. It calls itself for each of them where a plan has outlived the compiled form.
const MOST_STATES: usize = 1000;
/// Groups inside each other: PostgreSQL calls itself for each.
const MOST_GROUPS: usize = 50;

/// Whether LIKE takes a pattern whatever it is compared with: it complains of an escape character at the end, when it comes there.
pub fn is_calm_like(pattern: &[u8]) -> bool {
    let escapes = pattern.iter().rev().take_while(|byte| **byte == b'\\').count();
    pattern.len() <= LONGEST && escapes % 2 == 0
}

/// Whether a regular expression is matched by a small automaton alone: without references back and lookaround, for which PostgreSQL
/// calls itself. What could be one counts as one.
pub fn is_calm_regex(pattern: &[u8]) -> bool {
    let refers_back = pattern.windows(2).any(|pair| pair[0] == b'\\' && pair[1].is_ascii_digit());
    let has_option =
        pattern.windows(2).enumerate().any(|(at, pair)| pair == b"(?" && pattern.get(at + 2) != Some(&b':'));
    pattern.len() <= LONGEST
        && !refers_back
        && !has_option
        && !pattern.starts_with(b"***")
        && states(pattern).is_some_and(|states| states <= MOST_STATES)
}

/// How many states the automaton of a regular expression has, about: one for each character, as often as braces say. None where the
/// parts of the expression cannot be told.
fn states(pattern: &[u8]) -> Option<usize> {
    // Of each group that is open: the states of its items but the last, and those of the last.
    let mut groups = vec![(0usize, 0usize)];
    let mut rest = pattern;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let size = match byte {
            b'(' if groups.len() > MOST_GROUPS => return None,
            b'(' => {
                groups.push((0, 0));
                continue;
            }
            b'{' if rest.first().is_some_and(u8::is_ascii_digit) => {
                let end = rest.iter().position(|byte| *byte == b'}')?;
                let bounds = std::str::from_utf8(&rest[..end]).ok()?;
                let most: usize = bounds.rsplit(',').find(|bound| !bound.is_empty())?.parse().ok()?;
                rest = &rest[end + 1..];
                let (_, last) = groups.last_mut()?;
                *last = last.checked_mul(most.max(1))?;
                continue;
            }
            b')' => {
                let (others, last) = groups.pop()?;
                others.checked_add(last)?
            }
            b'[' => {
                rest = after_bracket(rest)?;
                1
            }
            b'\\' => {
                rest = rest.get(1..)?;
                1
            }
            _ => 1,
        };
        let (others, last) = groups.last_mut()?;
        *others = others.checked_add(std::mem::replace(last, size))?;
    }
    match groups[..] {
        [(others, last)] => others.checked_add(last),
        _ => None,
    }
}

/// What comes after a bracket expression, whose opening bracket has been read.
fn after_bracket(inside: &[u8]) -> Option<&[u8]> {
    let mut rest = inside.strip_prefix(b"^").unwrap_or(inside);
    // First, a closing bracket stands for itself.
    rest = rest.strip_prefix(b"]").unwrap_or(rest);
    loop {
        rest = match rest {
            [b']', after @ ..] => return Some(after),
            [b'\\', _, after @ ..] => after,
            [b'[', mark @ (b':' | b'.' | b'='), after @ ..] => {
                let end = after.windows(2).position(|pair| pair == [*mark, b']'])?;
                &after[end + 2..]
            }
            [_, after @ ..] => after,
            [] => return None,
        };
    }
}

/// Whether a path, as it is printed, is walked without errors, no deeper than it is long, and with no more to remember than the document
/// has: without variables, methods, regular expressions, lists of subscripts, `**`, and the root inside a filter.
pub fn is_calm_path(path: &[u8]) -> bool {
    let has = |what: &[u8]| path.windows(what.len()).any(|part| part == what);
    let calls = path.windows(2).any(|pair| pair[0] == b'.' && pair[1].is_ascii_lowercase());
    let roots = path.iter().filter(|byte| **byte == b'$').count();
    let is_long = path.contains(&b',') || has(b"**") || (path.contains(&b'?') && roots > 1);
    !calls && !is_long && !has(b"$\"") && !has(b"like_regex")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn like_patterns() {
        for pattern in ["", "%", "a%", "a\\%", "\\\\", "100\\%_"] {
            assert!(is_calm_like(pattern.as_bytes()), "{pattern}");
        }
        for pattern in ["\\", "a\\", "\\\\\\", "%\\"] {
            assert!(!is_calm_like(pattern.as_bytes()), "{pattern}");
        }
        assert!(!is_calm_like("%".repeat(LONGEST + 1).as_bytes()));
    }

    #[test]
    fn regular_expressions() {
        let uuid = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$";
        for pattern in [
            "",
            "a.*b",
            "^(?:ab|cd)+$",
            "\\mword\\M",
            "[0-9]{2,3}",
            "(a)(b)",
            "[[:alpha:]]+",
            "[]a]",
            "[^]a]x",
            "a{",
            uuid,
        ] {
            assert!(is_calm_regex(pattern.as_bytes()), "{pattern}");
        }
        for pattern in [
            "(a)\\1",
            "a(?=b)",
            "a(?!b)",
            "(?<=a)b",
            "(?i)a",
            "***:a",
            "(?",
            "\\\\1",
            "(",
            "a)",
            "[a",
            "a{2",
            "(a{100}){100}",
            &format!("{}a{}", "(".repeat(60), ")".repeat(60)),
        ] {
            assert!(!is_calm_regex(pattern.as_bytes()), "{pattern}");
        }
    }

    #[test]
    fn states_of_an_automaton() {
        for (pattern, count) in [
            ("", 0),
            ("abc", 3),
            ("a{5}b", 6),
            ("(ab){3}", 6),
            ("(a{10}b{10}){2,10}", 200),
            ("[a-z]{3,}x", 4),
            ("\\d{3}", 3),
            ("[[:digit:]]{3}[]]{2}", 5),
            ("a{0}", 1),
            ("[\\]]{2}", 2),
        ] {
            assert_eq!(states(pattern.as_bytes()), Some(count), "{pattern}");
        }
    }

    #[test]
    fn paths() {
        for path in [
            "$.\"a\"",
            "$.\"a\"[*]?(@.\"b\" == 1)",
            "($.\"a\" > 1)",
            "$.*",
            "exists ($.\"a\")",
            "($.\"a\" == 5 && $.\"b\" > 3)",
        ] {
            assert!(is_calm_path(path.as_bytes()), "{path}");
        }
        for path in [
            "$\"x\"",
            "$.\"a\".size()",
            "$.\"a\"?(@ like_regex \"x\")",
            "$.\"a\".datetime()",
            "$.**.type()",
            "$.**",
            "$.\"a\"[0,0]",
            "$[*]?(@ == $[*])",
        ] {
            assert!(!is_calm_path(path.as_bytes()), "{path}");
        }
    }
}
