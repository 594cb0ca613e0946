//! Shows which changes of the configuration lead to other servers.

use super::*;

#[test]
fn another_address_takes_a_restart_and_the_order_of_urls_does_not() {
    let urls = |all: &[&str]| all.iter().map(|&url| url.to_owned()).collect::<Vec<_>>();
    let sentinel = |name: &str| model::RedisMode::Sentinel {
        master: name.into(),
        username: None,
        password: None,
    };
    let (redis, _) = open_store(&store(
        &urls(&["redis://a/1", "redis://b/1"]),
        sentinel("m"),
    ));
    for (name, config, good) in [
        (
            "the same",
            store(&urls(&["redis://a/1", "redis://b:26379/1"]), sentinel("m")),
            true,
        ),
        (
            "another order",
            store(&urls(&["redis://b/1", "redis://a/1"]), sentinel("m")),
            true,
        ),
        (
            "another master",
            store(&urls(&["redis://a/1", "redis://b/1"]), sentinel("n")),
            false,
        ),
        (
            "another mode",
            store(
                &urls(&["redis://a", "redis://b"]),
                model::RedisMode::Cluster,
            ),
            false,
        ),
        (
            "another database",
            store(&urls(&["redis://a/2", "redis://b/2"]), sentinel("m")),
            false,
        ),
        (
            "one less",
            store(&urls(&["redis://a/1"]), sentinel("m")),
            false,
        ),
        (
            "with TLS",
            store(&urls(&["rediss://a/1", "rediss://b/1"]), sentinel("m")),
            false,
        ),
    ] {
        assert_eq!(redis.reconfigure(&config).is_ok(), good, "{name}");
    }
}
