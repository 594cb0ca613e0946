//! Searches for a configuration file that crashes the reader.
#![no_main]

use daypass::config::{Environment, NoFiles, check_text};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &[u8]| {
    // No variables and no files: only what stands in the text is read.
    let _ = check_text("daypass.yaml", text, &Environment::default(), &NoFiles);
});
