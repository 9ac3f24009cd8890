//! Files and cookies from browsers and other people's tools: what common readers take is taken and
//! comes back the same; what is refused names its place and never its content.

use genie_log::testing::{TestStore, both_stores};
use serde_json::{Value, json};

use crate::test_genie::TestGenie;

const HEADER: &str = "# Netscape HTTP Cookie File\n";

/// Lines of cookie files, with the words of the refusal if there is one.
const LINES: [(&str, Option<&str>); 21] = [
    (".x.com\tTRUE\t/\tTRUE\t1893456000.25\ta\tcanary", None),
    (".x.com\tTRUE\t/\tTRUE\t\ta\tcanary", None),
    (".x.com\tTRUE\t/\tTRUE\t0.0\ta\tcanary", None),
    ("#HttpOnly_.x.com\tTRUE\t/\tTRUE\t\ta\tcanary", None),
    ("x.com\tfalse\tno-slash\tyes\t0\ta\tcanary", None),
    ("x.com\tFALSE\t/\tFALSE\t0\t\tcanary\u{1}\u{200b} ", None),
    ("# canary\u{1b}[31m\u{0}", None),
    ("x.com\tFALSE\t/\tFALSE\t0\ta\tcan\u{0}ary", None),
    ("#canary\tTRUE", None),
    (" \t ", None),
    ("x.com\tFALSE\t/\tFALSE\t0\ta\tcanary\r", None),
    (".x.com\tTRUE\t/\tTRUE\t-1\ta\tcanary", Some("fifth field")),
    (".x.com\tTRUE\t/\tTRUE\t1e9\ta\tcanary", Some("fifth field")),
    (
        ".x.com\tTRUE\t/\tTRUE\t2030-01-01\ta\tcanary",
        Some("fifth field"),
    ),
    (".x.com\tTRUE\t/\tTRUE\t0\tcanary", Some("seven fields")),
    (".x.com TRUE / TRUE 0 a canary", Some("seven fields")),
    ("canary=canary; path=/", Some("seven fields")),
    (
        ".canary.com\tFALSE\t/\tTRUE\t0\ta\tcanary",
        Some("second field"),
    ),
    (
        ".canary.com\ttrue\t/\tTRUE\t0\ta\tcanary",
        Some("second field"),
    ),
    (
        "$canary.com\tFALSE\t/\tTRUE\t0\ta\tcanary",
        Some("a domain"),
    ),
    ("\tFALSE\t/\tTRUE\t0\ta\tcanary", Some("a domain")),
];

both_stores!(
    a_cookie_file_is_taken_as_its_readers_take_it,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let put = async |cookies: &str| {
            let body = json!({"platform": "x", "kind": "cookies", "cookies": cookies});
            ada.post(&genie, "/api/credentials/download-cred", body)
                .await
        };
        let kept = async || {
            let asked = json!({"userId": ada.id, "platform": "x", "kind": "cookies"});
            let shown = genie
                .server("/api/credentials/reveal-download-cred", asked)
                .await;
            shown.ok()["cookies"].as_str().unwrap().to_owned()
        };
        let good = "x.com\tFALSE\t/\tFALSE\t0\tgood\tgood";
        for (line, refusal) in LINES {
            let file = format!("{HEADER}{good}\n{line}\n");
            match refusal {
                None => {
                    put(&file).await.ok();
                    assert_eq!(kept().await, file, "{line:?}");
                }
                Some(reason) => {
                    let refused = put(&file).await.refused(400, "invalid_field");
                    let sentence = refused["error"].as_str().unwrap();
                    assert!(
                        sentence.contains("line 3 ") && sentence.contains(reason),
                        "{line:?}: {sentence}"
                    );
                    assert!(!sentence.contains("canary"), "{sentence}");
                }
            }
        }
        for (file, expected) in [
            (format!("\u{feff}{HEADER}{good}"), format!("{HEADER}{good}")),
            (good.to_owned(), format!("{HEADER}{good}")),
            (
                format!("{HEADER}{good}").replace('\n', "\r\n"),
                format!("{HEADER}{good}").replace('\n', "\r\n"),
            ),
            (
                format!("{HEADER}{good}\n").replace('\n', "\r"),
                format!("{HEADER}{good}\n").replace('\n', "\r"),
            ),
        ] {
            put(&file).await.ok();
            assert_eq!(kept().await, expected);
        }
        let refused = put("[{\"name\": \"canary\"}]")
            .await
            .refused(400, "invalid_field");
        assert!(refused["error"].as_str().unwrap().contains("is JSON"));
    }
);

/// A cookie's end and `sameSite` as tools export them, and as they are revealed.
fn exported() -> Vec<(Value, Value)> {
    let end = 1_900_000_000;
    vec![
        // Playwright, Puppeteer.
        (
            json!({"expires": -1, "sameSite": "Lax", "session": true}),
            json!({"expires": -1, "sameSite": "Lax"}),
        ),
        (
            json!({"expires": 1_900_000_000.5, "sameSite": "None"}),
            json!({"expires": 1_900_000_000.5, "sameSite": "None"}),
        ),
        // Selenium.
        (
            json!({"expiry": end, "sameSite": "Strict"}),
            json!({"expires": end, "sameSite": "Strict"}),
        ),
        (json!({"expiry": null, "sameSite": "default"}), json!({})),
        // Cookie-Editor, EditThisCookie.
        (
            json!({"expirationDate": end, "sameSite": "no_restriction", "storeId": null}),
            json!({"expires": end, "sameSite": "no_restriction"}),
        ),
        (
            json!({"expirationDate": null, "sameSite": null, "path": null, "httpOnly": null}),
            json!({}),
        ),
        (
            json!({"expirationDate": "", "sameSite": "unspecified"}),
            json!({"sameSite": "unspecified"}),
        ),
        (
            json!({"expires": end, "expirationDate": 7}),
            json!({"expires": end}),
        ),
        // Other units and spellings.
        (
            json!({"expires": 1_900_000_000_000_u64}),
            json!({"expires": 1.9e9}),
        ),
        (json!({"expires": "1900000000"}), json!({"expires": end})),
        (
            json!({"expires": "2030-03-17T17:46:40Z"}),
            json!({"expires": 1.9e9}),
        ),
        (
            json!({"expires": "Sun, 17 Mar 2030 17:46:40 GMT"}),
            json!({"expires": 1.9e9}),
        ),
        (json!({"expires": "Session", "sameSite": 7}), json!({})),
        (
            json!({"httpOnly": 1, "secure": "false"}),
            json!({"httpOnly": true, "secure": false}),
        ),
    ]
}

both_stores!(
    a_session_is_taken_as_tools_export_it,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let put = async |more: &Value| {
            let mut cookie = json!({"name": "sess", "value": "canary", "domain": ".x.com"});
            let fields = more.as_object().unwrap().clone();
            cookie.as_object_mut().unwrap().extend(fields);
            let body = json!({"platform": "x", "cookies": [cookie]});
            ada.post(&genie, "/api/credentials/platform-session", body)
                .await
        };
        for (given, kept) in exported() {
            put(&given).await.ok();
            let asked = json!({"userId": ada.id, "platform": "x"});
            let shown = genie
                .server("/api/credentials/get-platform-session", asked)
                .await
                .ok();
            let mut expected = json!({"name": "sess", "value": "canary", "domain": ".x.com"});
            let fields = kept.as_object().unwrap().clone();
            expected.as_object_mut().unwrap().extend(fields);
            assert_eq!(shown["cookies"], json!([expected]), "{given}");
        }
        for (more, field) in [
            (json!({"domain": ""}), "cookies[0].domain"),
            (
                json!({"domain": null, "url": "https://canary.com"}),
                "cookies[0].domain` is missing",
            ),
            (json!({"value": "canary\n"}), "cookies[0].value"),
            (json!({"name": "canary\u{0}"}), "cookies[0].name"),
            (json!({"name": 7}), "cookies[0].name"),
        ] {
            let refused = put(&more).await.refused(400, "invalid_field");
            let sentence = refused["error"].as_str().unwrap();
            assert!(
                sentence.contains(field) && !sentence.contains("canary"),
                "{more}: {sentence}"
            );
        }
    }
);
