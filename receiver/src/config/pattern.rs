//! Patterns for names of network interfaces: `*` stands for any text, `?` for one character.

use std::fmt;

/// A pattern such as `lo`, `veth*` or `eth?`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern(String);

impl Pattern {
    /// None when the text can match no interface: names are 1 to 15 bytes without blanks and slashes
    /// (`dev_valid_name` in net/core/dev.c).
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let shortest = text.bytes().filter(|byte| *byte != b'*').count();
        let refused = |c: char| c.is_whitespace() || c == '/' || c == ':';
        let valid = !text.is_empty() && shortest <= 15 && !text.contains(refused);
        valid.then(|| Self(text.to_owned()))
    }

    /// Whether the whole name matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        matches(self.0.as_bytes(), name.as_bytes())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Greedy with one point to go back to: the latest star takes one byte more each time the rest does not match, so
/// the time is bounded by the product of both lengths.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, n));
            p += 1;
        } else if pattern.get(p).is_some_and(|byte| *byte == b'?' || *byte == name[n]) {
            (p, n) = (p + 1, n + 1);
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (p, n) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(pattern: &str, name: &str) -> bool {
        Pattern::new(pattern).unwrap().matches(name)
    }

    #[test]
    fn a_plain_name_matches_only_itself() {
        assert!(hit("lo", "lo"));
        assert!(!hit("lo", "lo0"));
        assert!(!hit("lo", "l"));
    }

    #[test]
    fn stars_stand_for_any_text_and_question_marks_for_one_character() {
        assert!(hit("veth*", "veth12ab"));
        assert!(hit("*", "eth0"));
        assert!(hit("e*h?", "eth0"));
        assert!(hit("*a*b", "xaabab"));
        assert!(!hit("eth?", "eth"));
        assert!(!hit("*.100", "eth0.10"));
    }

    #[test]
    fn a_pattern_that_no_interface_can_match_is_refused() {
        for text in ["", "a b", "a/b", "a:b", "sixteen-letters-"] {
            assert_eq!(Pattern::new(text), None, "{text:?}");
        }
    }
}
