//! Draws the provider's own pages: sign-in and signed-out.

/// Text made safe for HTML content and quoted attributes.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('\'', "&#39;")
}

/// The sign-in page: one button a user; `parameters` of the authorization request travel in hidden fields.
pub(crate) fn sign_in(
    client: &str,
    users: &[(String, String)],
    parameters: &[(String, String)],
) -> String {
    let hidden: Vec<String> = parameters
        .iter()
        .filter(|(name, _)| name != "username")
        .map(|(name, value)| {
            format!(
                "<input type=\"hidden\" name=\"{}\" value=\"{}\">",
                escape(name),
                escape(value)
            )
        })
        .collect();
    let buttons: Vec<String> = users
        .iter()
        .map(|(user, name)| {
            format!(
                "<button name=\"username\" value=\"{0}\"><b aria-hidden=\"true\">{1}</b>\
                 <span>{2}<small>{0}</small></span></button>",
                escape(user),
                escape(&name.chars().take(1).collect::<String>()),
                escape(name)
            )
        })
        .collect();
    page(
        "Sign in",
        &format!(
            "<h1>Who are you today?</h1><p><em>{}</em> would like to know who you are. \
             This is a demo provider: no password is asked for.</p>\
             <form method=\"post\" action=\"/authorize\">{}{}</form>",
            escape(client),
            hidden.concat(),
            buttons.concat()
        ),
    )
}

/// What is shown after a logout that names no way back.
pub(crate) fn signed_out() -> String {
    page(
        "Signed out",
        "<h1>Signed out</h1><p>Your session at the demo provider is over.</p>",
    )
}

/// A request the provider cannot send back to the client.
pub(crate) fn refused(why: &str) -> String {
    page(
        "Request refused",
        &format!("<h1>Request refused</h1><p>{}</p>", escape(why)),
    )
}

fn page(title: &str, main: &str) -> String {
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title} · Demo provider</title>\
         <style>{STYLE}</style></head><body><main><p class=\"mark\">Demo provider</p>{main}</main></body></html>"
    )
}

const STYLE: &str = ":root{color-scheme:light dark;--line:#d5d9e2;--ground:#f4f6fa;--card:#fff;--soft:#f4f6fa;--dim:#566072;--hue:#3451b2}\
@media(prefers-color-scheme:dark){:root{--line:#353b48;--ground:#13161b;--card:#1b1f26;--soft:#252a34;--dim:#a4aec0;--hue:#93a8f4}}\
*{box-sizing:border-box}body{margin:0;min-height:100vh;display:grid;place-items:center;\
font:16px/1.5 system-ui,sans-serif;background:var(--ground)}\
main{width:min(24rem,92vw);padding:2rem;background:var(--card);border:1px solid var(--line);border-radius:14px}\
.mark{margin:0;color:var(--dim);font-size:.85rem;letter-spacing:.03em}h1{margin:.2rem 0 .6rem;font-size:1.45rem;line-height:1.25}\
p{color:var(--dim)}em{font-style:normal;font-weight:600;color:CanvasText}form{display:grid;gap:.6rem;margin-top:1.4rem}\
button{display:flex;gap:.9rem;align-items:center;padding:.7rem .9rem;font:inherit;text-align:left;color:CanvasText;\
background:var(--soft);border:1px solid var(--line);border-radius:10px;cursor:pointer}\
button:hover,button:focus-visible{border-color:var(--hue);outline:2px solid var(--hue);outline-offset:1px}\
b{display:grid;place-items:center;width:2.4rem;height:2.4rem;border-radius:50%;background:var(--hue);color:Canvas}\
small{display:block;color:var(--dim)}";
