//! What is wrong with a configuration: all of it at once, each with where it stands and what would be allowed.

use std::fmt;

/// Every problem of a configuration; never empty.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{}", lines(.problems))]
pub struct ConfigError {
    /// In the order of the settings, unknown keys last.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it stands: a file, an environment variable or a flag.
    pub origin: String,
    /// The setting, as `a.b[0].c`; empty when the whole origin is meant.
    pub key: String,
    /// What stands there; None when nothing does, or when it may be a secret.
    pub value: Option<String>,
    /// Why that will not do and what is allowed.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}", self.key)?;
            if let Some(value) = &self.value {
                write!(f, " = {value}")?;
            }
            write!(f, ": ")?;
        }
        f.write_str(&self.reason)
    }
}

fn lines(problems: &[Problem]) -> String {
    let count = match problems.len() {
        1 => "1 problem".to_owned(),
        n => format!("{n} problems"),
    };
    let each: String = problems.iter().map(|problem| format!("\n  {problem}")).collect();
    format!("configuration invalid, {count}:{each}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_problem_is_printed_with_origin_key_value_and_reason() {
        let first = Problem {
            origin: "file a.yaml".into(),
            key: "interval".into(),
            value: Some("5".into()),
            reason: "allowed: a duration".into(),
        };
        let second =
            Problem { key: String::new(), value: None, reason: "does not exist".into(), ..first.clone() };
        let error = ConfigError { problems: vec![first, second] };
        assert_eq!(
            error.to_string(),
            "configuration invalid, 2 problems:\n  file a.yaml: interval = 5: allowed: a duration\n  file a.yaml: does not exist"
        );
    }
}
