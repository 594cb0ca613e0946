//! Writes problem documents for programs (RFC 9457).

use http::StatusCode;
use serde_json::{Map, Value};

/// A problem document, `application/problem+json`. `reason` is the stable word programs branch on; `type` names it as a
/// URI (RESP-07). `request_id` may be empty.
pub fn problem(
    status: StatusCode,
    reason: &str,
    title: &str,
    detail: &str,
    login_url: Option<&str>,
    request_id: &str,
) -> String {
    let mut members = Map::new();
    let mut put = |name: &str, value: Value| {
        members.insert(name.to_owned(), value);
    };
    put("type", format!("urn:daypass:problem:{reason}").into());
    put("title", title.into());
    put("status", status.as_u16().into());
    put("detail", detail.into());
    put("reason", reason.into());
    if let Some(url) = login_url {
        put("login_url", url.into());
    }
    if !request_id.is_empty() {
        put("request_id", request_id.into());
    }
    Value::Object(members).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RESP-07
    #[test]
    fn a_problem_names_its_reason_and_escapes_what_it_is_given() {
        let text = problem(
            StatusCode::UNAUTHORIZED,
            "no_session",
            "Please sign in",
            "say \"please\"\n</script>",
            Some("/oauth2/login?redirect=%2F"),
            "r-1",
        );
        let parsed: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            parsed,
            serde_json::json!({
                "type": "urn:daypass:problem:no_session",
                "title": "Please sign in",
                "status": 401,
                "detail": "say \"please\"\n</script>",
                "reason": "no_session",
                "login_url": "/oauth2/login?redirect=%2F",
                "request_id": "r-1",
            })
        );
        let text = problem(StatusCode::NOT_FOUND, "no_route", "t", "d", None, "");
        assert!(!text.contains("login_url") && !text.contains("request_id"));
    }
}
