//! Finds forms in pages, so that a client without a browser can fill them in.

use url::Url;

use super::Response;

/// The first form of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Form {
    /// Where it is sent.
    pub action: Url,
    /// Whether it is posted.
    pub post: bool,
    /// Its inputs and buttons, in order, with the values they have.
    pub fields: Vec<(String, String)>,
}

impl Form {
    /// Reads the first form of `page`; `None` if it has none.
    pub fn first(page: &Response) -> Option<Self> {
        Self::read(&page.text(), &page.url)
    }

    /// Fills in a field, adding it if need be.
    #[must_use]
    pub fn fill(mut self, name: &str, value: &str) -> Self {
        match self.fields.iter_mut().find(|(key, _)| key == name) {
            Some(field) => value.clone_into(&mut field.1),
            None => self.fields.push((name.to_owned(), value.to_owned())),
        }
        self
    }

    fn read(html: &str, base: &Url) -> Option<Self> {
        let form = &html[html.find("<form")?..];
        let form = &form[..form.find("</form>").unwrap_or(form.len())];
        let (open, inside) = form.split_once('>')?;
        let action = attribute(open, "action").unwrap_or_default();
        // Fields that stand elsewhere and name the form in `form=` belong to it, too.
        let outside = attribute(open, "id").map_or(Vec::new(), |id| {
            let mine = format!("form=\"{id}\"");
            html.split('<').filter(|tag| tag.contains(&mine)).collect()
        });
        let tags = inside.split('<').chain(outside);
        let fields = tags
            .filter(|tag| tag.starts_with("input") || tag.starts_with("button"))
            .filter_map(|tag| {
                let tag = tag.split_once('>').map_or(tag, |(tag, _)| tag);
                Some((
                    attribute(tag, "name")?,
                    attribute(tag, "value").unwrap_or_default(),
                ))
            });
        Some(Self {
            action: base.join(&action).ok()?,
            post: attribute(open, "method")
                .is_some_and(|method| method.eq_ignore_ascii_case("post")),
            fields: fields.collect(),
        })
    }
}

fn attribute(tag: &str, name: &str) -> Option<String> {
    let start = tag.find(&format!(" {name}=\""))? + name.len() + 3;
    let value = tag[start..].split('"').next()?;
    let plain = value
        .replace("&quot;", "\"")
        .replace("&#39;", "'")
        .replace("&lt;", "<");
    Some(
        plain
            .replace("&gt;", ">")
            .replace("&#x2F;", "/")
            .replace("&amp;", "&"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_read_with_its_hidden_fields_and_buttons() {
        let html = "<p>x<form id=\"f\" action=\"/go?a=1&amp;b=2\" method=\"post\"><input type=\"hidden\" name=\"xsrf\" \
                    value=\"t\"/><input name=\"login\"></form><button name=\"logout\" value=\"yes\" form=\"f\">Yes</button>";
        let base = Url::parse("http://127.0.0.1:1/page").expect("a URL");
        let form = Form::read(html, &base)
            .expect("a form")
            .fill("login", "jane");
        let fields: Vec<_> = form
            .fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        assert_eq!(form.action.as_str(), "http://127.0.0.1:1/go?a=1&b=2");
        assert!(form.post);
        assert_eq!(
            fields,
            [("xsrf", "t"), ("login", "jane"), ("logout", "yes")]
        );
    }
}
