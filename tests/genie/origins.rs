//! Pages in browsers, extensions and apps: who may call, and what a refusal says.

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;

use crate::test_genie::TestGenie;

const LISTED: &str = "HTTPS://App.Example.com:443/, http://localhost:3000 https://b\u{fc}cher.example,\
    chrome-extension://abcdefghijklmnopabcdefghijklmnop, moz-extension://*, safari-web-extension://E3449EA7-EC06,\
    capacitor://localhost, tauri://localhost, http://tauri.localhost, ionic://localhost:8100, http://[0:0::1]:80";

/// An origin as a browser sends it, and whether it is listed.
const ORIGINS: [(&str, bool); 26] = [
    ("https://app.example.com", true),
    ("https://app.example.com:443", true),
    ("http://localhost:3000", true),
    ("https://xn--bcher-kva.example", true),
    ("chrome-extension://abcdefghijklmnopabcdefghijklmnop", true),
    ("moz-extension://0f1e2d3c-0000-4000-8000-000000000001", true),
    ("moz-extension://0f1e2d3c-0000-4000-8000-000000000002", true),
    ("safari-web-extension://e3449ea7-ec06", true),
    ("capacitor://localhost", true),
    ("tauri://localhost", true),
    ("http://tauri.localhost", true),
    ("ionic://localhost:8100", true),
    ("http://[::1]", true),
    ("http://app.example.com", false),
    ("https://app.example.com:8443", false),
    ("https://app.example.com.evil.example", false),
    ("https://evil.example", false),
    ("http://localhost", false),
    ("chrome-extension://ponmlkjihgfedcbaponmlkjihgfedcba", false),
    ("moz-extension://", false),
    ("capacitor://evil", false),
    ("tauri://localhost:1", false),
    ("ionic://localhost", false),
    ("file://", false),
    ("null", false),
    ("canary", false),
];

both_stores!(
    what_is_listed_may_call_and_what_is_not_is_told_so,
    async |store: TestStore| {
        let origins = [("CORS_ORIGINS", LISTED.to_owned())];
        let genie = TestGenie::start_with(store, &origins).await;
        for (origin, is_listed) in ORIGINS {
            let preflight = [
                ("Origin", origin.to_owned()),
                ("Access-Control-Request-Method", "POST".to_owned()),
                (
                    "Access-Control-Request-Headers",
                    "authorization,content-type".to_owned(),
                ),
            ];
            let answer = genie
                .send(Method::OPTIONS, "/api/queue/media", &preflight, None)
                .await;
            let call = genie
                .send(Method::GET, "/api/queue/stats", &preflight[..1], None)
                .await;
            for headers in [&answer.headers, &call.headers] {
                let told = headers.get("Access-Control-Allow-Origin");
                let expected = is_listed.then_some(origin);
                assert_eq!(
                    told.map(|told| told.to_str().unwrap()),
                    expected,
                    "{origin}"
                );
            }
            call.ok();
            if is_listed {
                assert_eq!(answer.status, 200, "{origin}");
            } else {
                let refused = answer.refused(403, "origin_not_allowed");
                let sentence = refused["error"].as_str().unwrap();
                assert!(sentence.contains("CORS_ORIGINS"), "{sentence}");
                assert!(!sentence.contains("canary"), "{sentence}");
            }
        }
        let unknown_method = [
            ("Origin", "https://app.example.com".to_owned()),
            ("Access-Control-Request-Method", "CANARY".to_owned()),
        ];
        let answer = genie
            .send(Method::OPTIONS, "/api/queue/media", &unknown_method, None)
            .await;
        let refused = answer.refused(400, "invalid_field");
        let sentence = refused["error"].as_str().unwrap();
        assert!(
            sentence.contains("Access-Control-Request-Method") && !sentence.contains("CANARY"),
            "{sentence}"
        );
    }
);
