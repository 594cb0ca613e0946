//! Draws what arrived as a web page, for people and for browser tests; a token is shown as a fingerprint only.

use serde_json::Value;

use super::Request;
use crate::provider::{claims, escape, sha256, unix_now};

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

/// The page. Elements that tests read have ids: `method`, `path`, `fingerprint`, `expires`, and `h-NAME` for headers.
pub(super) fn echo(request: &Request) -> String {
    let path = request.target.split('?').next().unwrap_or_default();
    let name = ["x-name", "x-user"]
        .iter()
        .find_map(|name| request.header(name));
    let greeting = match (request.bearer(), name) {
        (Some(_), Some(name)) => format!("Hello, {}", escape(name)),
        (Some(_), None) => "Hello, whoever you are".to_owned(),
        (None, _) => "Hello, stranger".to_owned(),
    };
    // What daypass added comes first: it is what one looks for.
    let (ours, theirs): (Vec<_>, Vec<_>) = request
        .headers
        .iter()
        .partition(|(name, _)| added_on_the_way(name));
    let row = |class: &str, (name, value): &(String, String)| {
        let secret = matches!(name.as_str(), "authorization" | "cookie");
        let shown = if secret {
            format!("(sha-256 {})", fingerprint(value))
        } else {
            value.clone()
        };
        format!(
            "<tr{class}><th>{0}</th><td id=\"h-{0}\">{1}</td></tr>",
            escape(name),
            escape(&shown)
        )
    };
    let rows: String = (ours.iter().map(|line| row(" class=\"ours\"", line)))
        .chain(theirs.iter().map(|line| row("", line)))
        .collect();
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\
         <title>Echo upstream</title><style>{STYLE}</style></head><body><header><p>Echo upstream · \
         what the application behind daypass sees</p><h1>{greeting}</h1><nav><a href=\"/\">Private page</a>\
         <a href=\"/public\">Public page</a><a href=\"/admin\">Admins only</a><a href=\"/oauth2/session\">Session (JSON)</a>\
         <a href=\"/oauth2/logout\" class=\"out\">Sign out</a></nav></header><main>\
         <section><h2>Request</h2><p><code><span id=\"method\">{}</span> <span id=\"path\">{}</span></code> over {}</p></section>\
         {}<section><h2>Headers</h2><div class=\"wide\"><table>{rows}</table></div></section></main>{SCRIPT}</body></html>",
        escape(&request.method),
        escape(path),
        escape(&request.version),
        token(request),
    )
}

fn added_on_the_way(name: &str) -> bool {
    matches!(name, "authorization" | "traceparent") || name.starts_with("x-")
}

fn token(request: &Request) -> String {
    let Some(authorization) = request.header("authorization") else {
        return "<section><h2>Access token</h2><p id=\"fingerprint\">none</p>\
                <p class=\"dim\">Nobody is signed in here, or this route shows no token.</p></section>"
            .to_owned();
    };
    let decoded = request.bearer().and_then(claims);
    let left = decoded
        .as_ref()
        .and_then(|claims| Some(claims["exp"].as_i64()? - unix_now()));
    let clock = left.map_or_else(
        || "<p class=\"dim\">An opaque token: only its issuer knows when it expires.</p>".to_owned(),
        |left| {
            format!(
                "<p>Expires in <b id=\"expires\" data-left=\"{left}\">{left}</b> s. Reload after that: \
                 the fingerprint changes, and nobody asked you to sign in again.</p>"
            )
        },
    );
    let claims = decoded.map_or_else(String::new, |claims| {
        let text =
            serde_json::to_string_pretty(&claims).unwrap_or_else(|_| Value::Null.to_string());
        format!(
            "<details open><summary>Claims</summary><pre>{}</pre></details>",
            escape(&text)
        )
    });
    format!(
        "<section><h2>Access token</h2><p>Fingerprint <code id=\"fingerprint\">{}</code></p>{clock}{claims}</section>",
        fingerprint(authorization)
    )
}

/// Enough of the hash to see whether two values are the same.
fn fingerprint(value: &str) -> String {
    hex(&sha256(value.as_bytes())[..8])
}

const SCRIPT: &str = "<script>const e=document.getElementById('expires');if(e){const end=Date.now()+e.dataset.left*1000;\
setInterval(()=>{e.textContent=Math.max(0,Math.round((end-Date.now())/1000))},500)}</script>";

const STYLE: &str = ":root{color-scheme:light dark;--line:#d9dde5;--soft:#f4f6fa;--dim:#566072;--hue:#0b6e4f}\
@media(prefers-color-scheme:dark){:root{--line:#353b48;--soft:#1a1e26;--dim:#a4aec0;--hue:#6fd3ae}}\
*{box-sizing:border-box}body{margin:0;font:16px/1.5 system-ui,sans-serif;background:Canvas;color:CanvasText}\
header,main{max-width:56rem;margin:0 auto;padding:1.5rem 1.2rem}header{padding-bottom:0}\
header p,.dim{color:var(--dim);margin:0}h1{margin:.1rem 0 1rem;font-size:1.9rem}h2{font-size:1rem;margin:0 0 .4rem}\
nav{display:flex;flex-wrap:wrap;gap:.5rem}nav a{padding:.35rem .8rem;border:1px solid var(--line);border-radius:99px;\
color:inherit;text-decoration:none}nav a:hover,nav a:focus-visible{border-color:var(--hue);color:var(--hue)}\
nav .out{margin-left:auto}section{border:1px solid var(--line);border-radius:12px;padding:1rem 1.2rem;margin-bottom:1rem}\
section p{margin:.2rem 0}code,pre,td{font-family:ui-monospace,monospace;font-size:.88rem}pre{overflow:auto;background:var(--soft);\
padding:.8rem;border-radius:8px}summary{cursor:pointer;margin-top:.5rem}.wide{overflow-x:auto}table{border-collapse:collapse;width:100%}\
th{font-weight:500;text-align:left;color:var(--dim);padding-right:1rem;white-space:nowrap}\
td,th{padding:.25rem .6rem .25rem 0;border-top:1px solid var(--line);vertical-align:top}td{word-break:break-word}\
.ours th{color:var(--hue);font-weight:600}#fingerprint{color:var(--hue);font-weight:600}";
