//! Reads what the provider sent to the callback, and refuses what can be read in two ways.

use crate::secret::AuthorizationCode;

/// The parameters of an authorization response (RFC 6749 §4.1.2, RFC 9207 §2).
#[derive(Debug)]
pub(super) struct Answer {
    /// `state`; never empty.
    pub(super) state: String,
    /// `iss`.
    pub(super) iss: Option<String>,
    /// What it says.
    pub(super) outcome: Outcome,
}

/// What an authorization response says.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Yes.
    Code(AuthorizationCode),
    /// No; the `error` code, cleaned.
    Error(String),
    /// Nothing.
    Neither,
}

impl Answer {
    /// From a raw query or form body.
    ///
    /// # Errors
    /// A fixed text: `state` is missing, or a parameter is repeated (FLOW-12).
    pub(super) fn parse(query: &str) -> Result<Self, &'static str> {
        let (mut state, mut iss, mut code, mut error) = (None, None, None, None);
        let mut described = None;
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let slot = match &*name {
                "state" => &mut state,
                "iss" => &mut iss,
                "code" => &mut code,
                "error" => &mut error,
                "error_description" => &mut described,
                _ => continue,
            };
            if slot.replace(value.into_owned()).is_some() {
                return Err("a parameter is repeated");
            }
        }
        let Some(state) = state.filter(|text| !text.is_empty()) else {
            return Err("state is missing");
        };
        let outcome = match (error, code.filter(|text| !text.is_empty())) {
            (Some(error), _) => Outcome::Error(clean(&error)),
            (None, Some(code)) => Outcome::Code(AuthorizationCode::new(code)),
            (None, None) => Outcome::Neither,
        };
        Ok(Self {
            state,
            iss,
            outcome,
        })
    }
}

/// An `error` code fit for logs and pages: characters of RFC 6749 §4.1.2.1, 64 of them.
fn clean(code: &str) -> String {
    let code: String = code
        .chars()
        .filter(|c| matches!(c, '\x20'..='\x21' | '\x23'..='\x5b' | '\x5d'..='\x7e'))
        .take(64)
        .collect();
    if code.is_empty() {
        "unnamed error".to_owned()
    } else {
        code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FLOW-12
    #[test]
    fn a_repeated_parameter_is_refused_whatever_its_values() {
        for query in [
            "state=a&code=b&code=c",
            "state=a&code=b&code=b",
            "state=a&state=a&code=b",
            "state=a&code=b&iss=c&iss=d",
            "state=a&error=b&error=c",
            "state=a&error=b&error_description=c&error_description=d",
            "state=a&code=b&%63ode=c",
        ] {
            assert_eq!(
                Answer::parse(query).unwrap_err(),
                "a parameter is repeated",
                "{query}"
            );
        }
        assert!(Answer::parse("state=a&code=b&session_state=c&session_state=d").is_ok());
    }

    #[test]
    fn an_answer_without_state_is_refused() {
        for query in ["", "code=a", "state=&code=a", "error=access_denied"] {
            assert_eq!(
                Answer::parse(query).unwrap_err(),
                "state is missing",
                "{query}"
            );
        }
    }

    #[test]
    fn an_error_wins_over_a_code() {
        let answer =
            Answer::parse("state=a&code=b&error=access_denied&iss=https%3A%2F%2Fi").unwrap();
        assert!(matches!(answer.outcome, Outcome::Error(code) if code == "access_denied"));
        assert_eq!(answer.iss.as_deref(), Some("https://i"));
        let answer = Answer::parse("state=a&code=").unwrap();
        assert!(matches!(answer.outcome, Outcome::Neither));
    }

    /// FLOW-19
    #[test]
    fn an_error_code_is_cut_to_what_a_log_may_hold() {
        assert_eq!(clean("access_denied"), "access_denied");
        assert_eq!(clean("a\r\nb\"c\\dé\u{202e}"), "abcd");
        assert_eq!(clean(&"x".repeat(500)).len(), 64);
        assert_eq!(clean("\n"), "unnamed error");
    }
}
