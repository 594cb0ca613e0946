//! Searches for a path that can be read in two ways: a canonical path must be a fixed point and hold nothing ambiguous.
#![no_main]

use daypass::web::path::CanonicalPath;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|raw: &[u8]| {
    let Ok(path) = CanonicalPath::parse(raw) else {
        return;
    };
    let text = path.as_str();
    assert!(text.starts_with('/') && text.is_ascii() && !text.contains("//"));
    assert!(
        !text
            .bytes()
            .any(|byte| byte.is_ascii_control() || b" \\?#\"<>".contains(&byte))
    );
    let lower = text.to_ascii_lowercase();
    for bad in ["%2f", "%5c", "%2e", "%00", "%0a", "%0d", "%7f"] {
        assert!(!lower.contains(bad), "{text} holds {bad}");
    }
    for segment in text.split('/') {
        // As servers see it that cut parameters, also escaped ones.
        let plain = segment.replace("%3B", ";");
        let name = plain.split(';').next().unwrap_or_default();
        assert!(name != "." && name != "..", "{text}");
    }
    let again = CanonicalPath::parse(text.as_bytes()).expect("canonical paths parse");
    assert_eq!(again.as_str(), text);
    // A WHATWG parser must find nothing to resolve either.
    let url = url::Url::parse(&format!("http://h{text}")).expect("canonical paths stand in URLs");
    assert_eq!(
        (url.path(), url.query(), url.fragment()),
        (text, None, None)
    );
});
