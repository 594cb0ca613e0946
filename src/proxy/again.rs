//! Writes links to our `login` that ask for what was asked for already.

use crate::config::model::Config;
use crate::login::Wanted;

/// Path of our `login`, returning to `return_to` afterwards.
pub(super) fn login(config: &Config, return_to: Option<&str>) -> String {
    link(config, return_to, &[], None)
}

/// The login that was `wanted`, once more; with the `provider` that is chosen, else the user is asked (again) which.
///
/// Without `prompt=none`: it forbids the provider to ask, which is all that is left to try.
pub(super) fn wanted(config: &Config, wanted: &Wanted, provider: Option<&str>) -> String {
    let extra: Vec<_> = wanted
        .extra
        .iter()
        .filter(|(name, value)| name != "prompt" || value != "none")
        .cloned()
        .collect();
    link(config, Some(&wanted.return_to), &extra, provider)
}

fn link(
    config: &Config,
    return_to: Option<&str>,
    extra: &[(String, String)],
    provider: Option<&str>,
) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    let named = [("redirect", return_to), ("provider", provider)];
    for (name, value) in named {
        if let Some(value) = value {
            query.append_pair(name, value);
        }
    }
    query.extend_pairs(extra);
    let query = query.finish();
    let mark = if query.is_empty() { "" } else { "?" };
    format!("{}/login{mark}{query}", config.base_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_carries_what_was_asked_for_and_escapes_it() {
        let config = crate::rp::fakes::config(Vec::new());
        let wish = |extra: &[(&str, &str)]| Wanted {
            return_to: "/a?b=c&d".into(),
            extra: extra
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        };
        assert_eq!(login(&config, None), "/oauth2/login");
        assert_eq!(
            login(&config, Some("/a?b=c&d")),
            "/oauth2/login?redirect=%2Fa%3Fb%3Dc%26d"
        );
        for (name, extra, provider, want) in [
            ("nothing more", &[][..], None, ""),
            ("a provider", &[], Some("acme"), "&provider=acme"),
            (
                "parameters",
                &[("prompt", "login"), ("login_hint", "a&b=<\"c d\">")],
                Some("acme"),
                "&provider=acme&prompt=login&login_hint=a%26b%3D%3C%22c+d%22%3E",
            ),
            (
                "the provider may ask now",
                &[("prompt", "none"), ("max_age", "60")],
                None,
                "&max_age=60",
            ),
        ] {
            assert_eq!(
                wanted(&config, &wish(extra), provider),
                format!("/oauth2/login?redirect=%2Fa%3Fb%3Dc%26d{want}"),
                "{name}"
            );
        }
    }
}
