//! Searches for a return target that leaves our origins when a browser resolves it.
#![no_main]

use std::sync::LazyLock;

use daypass::config::model::Origin;
use daypass::web::redirect::ReturnTo;
use libfuzzer_sys::fuzz_target;
use url::Url;

static OURS: LazyLock<[Origin; 2]> = LazyLock::new(|| {
    let origin = |secure, host: &str, port, text: &str| Origin {
        secure,
        host: host.into(),
        port,
        text: text.into(),
    };
    [
        origin(true, "shop.example.com", 443, "https://shop.example.com"),
        origin(false, "localhost", 8080, "http://localhost:8080"),
    ]
});

fuzz_target!(|candidate: &str| {
    let parse = |candidate: &str| ReturnTo::parse(candidate, &OURS[0], &*OURS, "/oauth2");
    let Some(kept) = parse(candidate) else {
        return;
    };
    let text = kept.as_str();
    assert!(
        text.bytes()
            .all(|byte| byte.is_ascii_graphic() && byte != b'\\')
    );
    assert!(!text.starts_with("//"));
    let base = Url::parse("https://shop.example.com/oauth2/callback").expect("a URL");
    let url = base.join(text).expect("what is kept resolves");
    let origin = url.origin().ascii_serialization();
    assert!(
        OURS.iter().any(|ours| *ours.text == *origin),
        "{candidate:?} led to {url}"
    );
    assert!(url.username().is_empty() && url.password().is_none());
    assert!(!url.path().starts_with("/oauth2/") && url.path() != "/oauth2");
    assert_eq!(
        parse(text).as_ref(),
        Some(&kept),
        "what is kept is kept again"
    );
});
