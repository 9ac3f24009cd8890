//! Inputs as the world sends them: numbers, nulls and half characters in every spelling, repeated keys, requests that are sent again in
//! other words, old and small clients.

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    raw_connection::RawConnection,
    test_genie::{Answer, SECRET, TestGenie, TestUser, answer},
    until::moment_after,
};

/// Sends a body whose bytes the test writes itself.
async fn send_text(genie: &TestGenie, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let mut request = genie
        .http
        .post(format!("{}{path}", genie.base))
        .header("Content-Type", "application/json")
        .body(body.to_owned());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    answer(request).await
}

async fn send_of(genie: &TestGenie, user: &TestUser, path: &str, body: &str) -> Answer {
    let token = format!("Bearer {}", user.token);
    send_text(genie, path, &[("Authorization", &token)], body).await
}

async fn send_of_server(genie: &TestGenie, path: &str, body: &str) -> Answer {
    send_text(genie, path, &[("X-RBAC-SYNC-SECRET", SECRET)], body).await
}

#[track_caller]
fn refused_with(refused: Answer, code: &str, sentence: &str) {
    assert_eq!(refused.refused(400, code)["error"], sentence);
}

both_stores!(
    numbers_and_nothing_are_taken_in_every_spelling,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        for body in [
            r#"{"operation": "thumbnail", "input_url": "http://a/b", "priority": 10.0, "max_attempts": 2e0}"#,
            r#"{"operation": "thumbnail", "input_url": "http://a/b", "priority": null, "params": null, "jobId": null, "run_at": null}"#,
            r#"{"operation": "thumbnail", "input_url": "http://a/b", "jobId": 77.0}"#,
            "\u{feff}{\"operation\": \"scrape_profile\"}",
        ] {
            send_of(&genie, &ada, "/api/queue/media", body).await.ok();
        }
        genie.settle().await;
        ada.get(&genie, "/api/jobs/77").await.ok();
        for query in [
            "limit=",
            "limit=2&cursor=",
            "limit=500&status=&queue=&unknown=1",
        ] {
            ada.get(&genie, &format!("/api/jobs?{query}")).await.ok();
        }
        for (query, sentence) in [
            ("limit=abc", "`limit` must be a whole number"),
            ("limit=1.5", "`limit` must be a whole number"),
            ("limit=-1", "`limit` must be 1 to 500"),
            ("limit=1&limit=2", "`limit` is there twice; send it once"),
        ] {
            let refused = ada.get(&genie, &format!("/api/jobs?{query}")).await;
            refused_with(refused, "invalid_field", sentence);
        }
        let worker =
            json!({"queues": ["media-jobs"], "worker_id": "w", "max": 1.0, "wait_ms": null});
        let claimed = genie.server("/api/worker/claim", worker).await.ok();
        let (job, lease) = (&claimed["jobs"][0]["jobId"], &claimed["jobs"][0]["lease"]);
        let (job, lease) = (job.as_str().unwrap(), lease.as_str().unwrap());
        let report = async |what: &str, rest: &str| {
            let body = format!(r#"{{"lease": "{lease}"{rest}}}"#);
            send_of_server(&genie, &format!("/api/worker/jobs/{job}/{what}"), &body).await
        };
        for progress in ["41.7", "-3", "1e9", "\"57 %\"", "null", "\"half\"", "[1]"] {
            report("heartbeat", &format!(r#", "progress": {progress}"#))
                .await
                .ok();
        }
        report("complete", r#", "result": null, "outputs": null"#)
            .await
            .ok();

        let worker = json!({"queues": ["media-jobs"], "worker_id": "w"});
        let claimed = genie.server("/api/worker/claim", worker).await.ok();
        let job = claimed["jobs"][0]["jobId"].as_str().unwrap().to_owned();
        let long = format!("first{}last", "ü".repeat(9_000));
        let failed =
            json!({"lease": claimed["jobs"][0]["lease"], "error": long, "retryable": false});
        genie
            .server(&format!("/api/worker/jobs/{job}/fail"), failed)
            .await
            .ok();
        genie.settle().await;
        let shown = ada.get(&genie, &format!("/api/jobs/{job}")).await.ok();
        let error = shown["error"].as_str().unwrap();
        assert!(error.starts_with("firstü") && error.ends_with("ülast") && error.contains("[...]"));
        assert!(error.len() <= 10_000, "{}", error.len());
    }
);

both_stores!(
    a_refused_body_is_told_its_true_fault,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let before = genie.readiness().await.ok()["log"]["head"].clone();
        for (body, code, sentence) in [
            (
                r#"{"operation": "thumbnail", "operation": "transcode"}"#.to_owned(),
                "invalid_field",
                "`operation` is there twice; send it once",
            ),
            (
                r#"{"operation": "thumbnail", "input_url": "http://a/b", "params": {"a": [{"b": 1, "b": 1}]}}"#.into(),
                "invalid_field",
                "`params.a[0].b` is there twice; send it once",
            ),
            (
                r#"{"operation": "thumbnail", "input_url": "http://a/b", "priority": "10"}"#.into(),
                "invalid_field",
                "`priority` must be a whole number",
            ),
            (
                r#"{"operation": "thumbnail", "input_url": "http://a/b", "priority": 10.5}"#.into(),
                "invalid_field",
                "`priority` must be a whole number",
            ),
            (
                r#"{"operation": "thumbnail", "input_url": "http://a/b", "params": "canary"}"#.into(),
                "invalid_field",
                "`params` must be an object",
            ),
            (
                r#"{"operation": "thumbnail", "input_url": "http://a/b", "jobId": -1}"#.into(),
                "invalid_field",
                "`jobId` must be a string or a whole number from 0",
            ),
            (
                r#"{"operation": "thumbnail", "input_url": "http://a/b", "jobId": [1]}"#.into(),
                "invalid_field",
                "`jobId` must be a string or a whole number from 0",
            ),
            (
                r#"{"operation": 7}"#.into(),
                "invalid_field",
                "`operation` must be a string",
            ),
            (
                r#"{"operation": null}"#.into(),
                "invalid_field",
                "`operation` is missing",
            ),
            (
                format!(
                    r#"{{"operation": "thumbnail", "input_url": "http://a/b", "params": {{"a": {}}}}}"#,
                    nested(127)
                ),
                "invalid_field",
                "`params.a[0][0][0][0][0][0]...` is nested too deep; at most 100 levels of lists and objects are read",
            ),
            (
                "{\"operation\": \"thumbnail\"".into(),
                "malformed_json",
                "The body is not valid JSON, at line 1 column 25",
            ),
            (
                "{\"params\": 1e999}".into(),
                "malformed_json",
                "The body has a number that is too large, at line 1 column 16",
            ),
            (
                String::new(),
                "malformed_json",
                "The body is empty; it must be JSON",
            ),
        ] {
            let refused = send_of(&genie, &ada, "/api/queue/media", &body).await;
            refused_with(refused, code, sentence);
        }
        assert_eq!(
            genie.readiness().await.ok()["log"]["head"],
            before,
            "nothing changed"
        );
        let deep = format!(
            r#"{{"operation": "thumbnail", "input_url": "http://a/b", "params": {{"a": {}}}}}"#,
            nested(98)
        );
        send_of(&genie, &ada, "/api/queue/media", &deep).await.ok();
    }
);

both_stores!(
    half_characters_are_replaced_but_in_secrets,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let body = r#"{"operation": "thumbnail", "input_url": "http://a/b", "jobId": "cut", "params": {"title": "so happy \ud83d", "whole": "\ud83d\ude00"}}"#;
        send_of(&genie, &ada, "/api/queue/media", body).await.ok();
        let claimed = genie.claim().await;
        assert_eq!(
            claimed["params"],
            json!({"title": "so happy \u{fffd}", "whole": "😀"})
        );
        let whole = "must be whole: half of a character in it was cut off, as in \\ud83d without its other half";
        for (path, body, field) in [
            (
                "/api/credentials/create-profile",
                r#"{"platform": "x", "credentials": {"password": "a\ud83d"}}"#,
                "credentials",
            ),
            (
                "/api/credentials/create-profile",
                r#"{"platform": "x", "credentials": {"\ude00": "a"}}"#,
                "credentials",
            ),
            (
                "/api/credentials/download-cred",
                r#"{"platform": "x", "kind": "password", "username": "a", "password": "\ud83d"}"#,
                "password",
            ),
        ] {
            let refused = send_of(&genie, &ada, path, body).await;
            refused_with(refused, "invalid_field", &format!("`{field}` {whole}"));
        }
        let login = r#"{"email": "ada@example.com", "password": "\ud83d"}"#;
        let refused = send_text(&genie, "/auth/login", &[], login).await;
        refused.refused_by_identity(400, "INVALID_PAYLOAD");
    }
);

both_stores!(
    a_request_that_is_sent_again_in_other_words_is_the_same,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let token = format!("Bearer {}", ada.token);
        let send = async |key: &str, body: &str| {
            let headers = [("Authorization", token.as_str()), ("Idempotency-Key", key)];
            send_text(&genie, "/api/queue/media", &headers, body).await
        };
        let first = r#"{"operation": "scrape_profile", "priority": 10, "params": {"title": "é", "width": 5}}"#;
        let job = send("k", first).await.ok()["id"].clone();
        for same in [
            r#"{"params":{"width":5.0,"title":"\u00e9"},"operation":"scrape_profile","priority":1e1}"#,
            r#" { "priority": 10, "run_at": null, "operation": "scr\u0061pe_profile", "params": {"width": 5, "title": "é"} } "#,
        ] {
            assert_eq!(send("k", same).await.ok()["id"], job, "{same}");
        }
        for other in [
            r#"{"operation": "scrape_profile", "priority": 11, "params": {"title": "é", "width": 5}}"#,
            r#"{"operation": "scrape_profile", "priority": 10, "params": {"title": "e", "width": 5}}"#,
            r#"{"operation": "scrape_profile", "priority": 10, "params": {"title": "é", "width": "5"}}"#,
            r#"{"operation": "scrape_profile", "priority": 10, "params": {"title": "é"}}"#,
        ] {
            send("k", other)
                .await
                .refused(422, "idempotency_key_reused");
        }
    }
);

both_stores!(
    head_is_answered_wherever_get_is,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        for path in [
            "/healthz",
            "/readyz",
            "/",
            "/api/openapi.json",
            "/api/usage",
            "/users/me",
            "/api/jobs?limit=1",
            "/api/jobs/nonsense",
            "/api/nonsense",
        ] {
            let ask = async |method: Method| {
                let request = genie.http.request(method, format!("{}{path}", genie.base));
                let response = request.bearer_auth(&ada.token).send().await.unwrap();
                let length = response.headers()["content-length"]
                    .to_str()
                    .unwrap()
                    .to_owned();
                let kind = response.headers().get("content-type").cloned();
                let status = response.status();
                (status, kind, length, response.bytes().await.unwrap())
            };
            let (status, kind, _, body) = ask(Method::HEAD).await;
            let (got_status, got_kind, length, got) = ask(Method::GET).await;
            assert_eq!((status, kind), (got_status, got_kind), "{path}");
            assert!(body.is_empty() && length == got.len().to_string(), "{path}");
        }
        // The head of a stream that would never end.
        let stream = genie.http.head(format!("{}/api/me/events", genie.base));
        let stream = stream
            .bearer_auth(&ada.token)
            .header("Accept", "text/event-stream");
        let response = stream.send().await.unwrap();
        assert_eq!(
            (
                response.status().as_u16(),
                &response.headers()["content-type"]
            ),
            (200, &"text/event-stream".parse().unwrap())
        );
        assert!(response.bytes().await.unwrap().is_empty());
        // What has no GET has no HEAD.
        let refused = genie.http.head(format!("{}/api/queue/media", genie.base));
        assert_eq!(
            refused
                .bearer_auth(&ada.token)
                .send()
                .await
                .unwrap()
                .status(),
            404
        );
    }
);

both_stores!(
    old_clients_get_a_body_that_ends_with_the_connection,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let export = async |version: &str, headers: &str| {
            let mut connection = RawConnection::open(&genie).await;
            let request = format!(
                "GET /api/me/export {version}\r\nHost: genie\r\nAuthorization: Bearer {}\r\n{headers}\r\n",
                ada.token
            );
            connection.send(&request).await;
            connection.rest().await
        };
        for headers in ["", "Connection: keep-alive\r\n"] {
            let answer = export("HTTP/1.0", headers).await;
            let (head, body) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with("HTTP/1.0 200 OK"), "{head}");
            assert!(
                !head.to_ascii_lowercase().contains("transfer-encoding"),
                "{head}"
            );
            serde_json::from_str::<Value>(body).unwrap();
        }
        let answer = export("HTTP/1.1", "Connection: close\r\n").await;
        assert!(
            answer
                .to_ascii_lowercase()
                .contains("transfer-encoding: chunked"),
            "{answer}"
        );
    }
);

both_stores!(
    a_slow_sender_reads_why_its_body_is_refused,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let mut connection = RawConnection::open(&genie).await;
        let head = format!(
            "POST /api/queue/media HTTP/1.1\r\nHost: genie\r\nAuthorization: Bearer {}\r\n\
             Content-Type: application/json\r\nContent-Length: 20000000\r\n\r\n",
            ada.token
        );
        connection.send(&head).await;
        // It reads only after it has sent for a while.
        for _ in 0..30 {
            connection.send(&"x".repeat(100_000)).await;
            moment_after(50).await;
        }
        let mut answer = connection.head().await;
        if !answer.ends_with('}') {
            answer += &connection.rest().await;
        }
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
        assert!(answer.contains("body_too_large"), "{answer}");
    }
);

both_stores!(
    an_empty_last_event_id_means_none,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let turn = ada.ask(&genie, "s", "hello").await.rest().await;
        let turn = turn[0].id.split_once(':').unwrap().0.to_owned();
        let path = format!("{}/api/genie/turns/{turn}/stream", genie.base);
        let whole = |last: Option<&'static str>| {
            let request = genie.http.get(&path).bearer_auth(&ada.token);
            match last {
                Some(last) => request.header("Last-Event-ID", last),
                None => request,
            }
        };
        let plain = whole(None).send().await.unwrap().text().await.unwrap();
        let empty = whole(Some("")).send().await.unwrap().text().await.unwrap();
        assert!(plain.contains("finalizeResponseStream"));
        assert_eq!(plain, empty);
    }
);
