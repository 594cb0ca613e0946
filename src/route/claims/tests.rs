//! Shows that claims are compared whole and never guessed: OIDC-18, OIDC-20, REG-05.

use serde_json::json;

use super::*;

fn path(text: &str) -> ClaimPath {
    ClaimPath {
        text: text.into(),
        segments: text.split('.').map(Into::into).collect(),
    }
}

fn object(value: Value) -> Claims {
    match value {
        Value::Object(map) => map.into(),
        other => panic!("{other}"),
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn claims_are_compared_whole() {
    for (name, claims, at, allowed, want) in [
        (
            "element of a list",
            json!({"groups": ["dev", "admin"]}),
            "groups",
            json!(["admin"]),
            true,
        ),
        (
            "any of several",
            json!({"groups": ["ops"]}),
            "groups",
            json!(["admin", "ops"]),
            true,
        ),
        (
            "no element",
            json!({"groups": ["dev"]}),
            "groups",
            json!(["admin"]),
            false,
        ),
        (
            "substring of an element (OIDC-20)",
            json!({"groups": ["admins"]}),
            "groups",
            json!(["admin"]),
            false,
        ),
        (
            "superstring (OIDC-20)",
            json!({"groups": ["adm"]}),
            "groups",
            json!(["admin"]),
            false,
        ),
        (
            "text is one value (OIDC-20)",
            json!({"groups": "dev admin"}),
            "groups",
            json!(["admin"]),
            false,
        ),
        (
            "text with commas",
            json!({"groups": "dev,admin"}),
            "groups",
            json!(["admin"]),
            false,
        ),
        (
            "text",
            json!({"groups": "admin"}),
            "groups",
            json!(["admin"]),
            true,
        ),
        (
            "case counts",
            json!({"groups": ["Admin"]}),
            "groups",
            json!(["admin"]),
            false,
        ),
        (
            "bool",
            json!({"email_verified": true}),
            "email_verified",
            json!([true]),
            true,
        ),
        (
            "text is no bool",
            json!({"email_verified": "true"}),
            "email_verified",
            json!([true]),
            false,
        ),
        (
            "false is no true",
            json!({"email_verified": false}),
            "email_verified",
            json!([true]),
            false,
        ),
        ("number", json!({"level": 2}), "level", json!([2]), true),
        (
            "number, other notation",
            json!({"level": 2.0}),
            "level",
            json!([2]),
            true,
        ),
        (
            "large numbers are not rounded together",
            json!({"id": 9_007_199_254_740_993_u64}),
            "id",
            json!([9_007_199_254_740_992_u64]),
            false,
        ),
        ("absent", json!({}), "groups", json!(["admin"]), false),
        (
            "null is absent (OIDC-18)",
            json!({"groups": null}),
            "groups",
            json!([null]),
            false,
        ),
        (
            "null element (OIDC-18)",
            json!({"groups": [null]}),
            "groups",
            json!([null]),
            false,
        ),
        (
            "empty list",
            json!({"groups": []}),
            "groups",
            json!(["admin"]),
            false,
        ),
        (
            "nothing allowed",
            json!({"groups": ["admin"]}),
            "groups",
            json!([]),
            false,
        ),
        (
            "nested",
            json!({"realm_access": {"roles": ["admin"]}}),
            "realm_access.roles",
            json!(["admin"]),
            true,
        ),
        (
            "whole key first",
            json!({"a.b": "x", "a": {"b": "y"}}),
            "a.b",
            json!(["x"]),
            true,
        ),
        (
            "whole key hides the nested one",
            json!({"a.b": "x", "a": {"b": "y"}}),
            "a.b",
            json!(["y"]),
            false,
        ),
        (
            "key with dots",
            json!({"https://example.com/roles": ["admin"]}),
            "https://example.com/roles",
            json!(["admin"]),
            true,
        ),
        (
            "key with dots in the middle",
            json!({"resource_access": {"my.shop": {"roles": ["admin"]}}}),
            "resource_access.my.shop.roles",
            json!(["admin"]),
            true,
        ),
        (
            "path through a text",
            json!({"a": "b"}),
            "a.b",
            json!(["b"]),
            false,
        ),
        ("object", json!({"a": {"b": "x"}}), "a", json!(["x"]), false),
        (
            "two addresses in one (REG-05)",
            json!({"email": "a@evil.com@corp.com"}),
            "email",
            json!(["a@corp.com"]),
            false,
        ),
    ] {
        let require = Require {
            scopes: vec![],
            claims: vec![(path(at), allowed.as_array().unwrap().clone())],
        };
        let got = claims_match(&require, &object(claims), &[]);
        let want = if want {
            Ok(())
        } else {
            Err(Denied::Claim(at.to_owned()))
        };
        assert_eq!(got, want, "{name}");
    }
}

#[test]
fn every_scope_and_every_claim_is_needed() {
    let require = Require {
        scopes: vec!["orders.read".into(), "orders.write".into()],
        claims: vec![(path("a"), vec![json!(1)]), (path("b"), vec![json!(2)])],
    };
    let scopes = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let all = object(json!({"a": 1, "b": 2}));
    let half = object(json!({"a": 1}));
    for (name, claims, granted, want) in [
        ("all", &all, "orders.write openid orders.read", Ok(())),
        (
            "one scope",
            &all,
            "orders.read",
            Err(Denied::Scope("orders.write".into())),
        ),
        (
            "scope as part of another",
            &all,
            "orders.read orders.write.own",
            Err(Denied::Scope("orders.write".into())),
        ),
        (
            "one claim",
            &half,
            "orders.read orders.write",
            Err(Denied::Claim("b".into())),
        ),
    ] {
        assert_eq!(
            claims_match(&require, claims, &scopes(granted)),
            want,
            "{name}"
        );
    }
    assert_eq!(claims_match(&Require::default(), &half, &[]), Ok(()));
}
