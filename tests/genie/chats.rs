//! Chat: streams with every kind of end, readers that leave and come back, turns that are stopped,
//! and a server that dies.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use genie_log::testing::{Kind, TestStore, both_stores};
use serde_json::json;

use crate::{
    fake_ollama::{FakeOllama, Step},
    test_genie::{Events, TestGenie, TestUser, outcome, text_of},
    until::until,
};

async fn start(store: TestStore) -> (TestGenie, TestUser) {
    let mut genie = TestGenie::start(store).await;
    let ada = genie.user("ada").await;
    (genie, ada)
}

/// Starts a process, for tests that kill it.
async fn start_process(store: TestStore) -> (TestGenie, TestUser) {
    let mut genie = TestGenie::start_process(store).await;
    let ada = genie.user("ada").await;
    (genie, ada)
}

async fn resume(genie: &TestGenie, user: &TestUser, turn: &str, after: u64) -> Events {
    Events::open(resuming(genie, user, turn, after)).await
}

/// Resumes on a node that did not take the question and therefore needs its position.
async fn resume_elsewhere(genie: &TestGenie, user: &TestUser, asked: &Events) -> Events {
    Events::open(
        resuming(genie, user, &asked.turn, 0).header("Genie-Min-Position", &asked.position),
    )
    .await
}

fn resuming(genie: &TestGenie, user: &TestUser, turn: &str, after: u64) -> reqwest::RequestBuilder {
    let url = format!("{}/api/genie/turns/{turn}/stream?after={after}", genie.base);
    genie.http.get(url).bearer_auth(&user.token)
}

both_stores!(
    a_client_that_leaves_does_not_stop_the_turn,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        genie.ollama.script(
            "long",
            &[Step::Say("one"), Step::Hold, Step::Say(" two"), Step::Done],
        );
        let mut events = ada.ask(&genie, "s", "a long one").await;
        let turn = events.turn.clone();
        let first = events.text().await;
        assert_eq!(
            (first.data["textResponse"].as_str(), first.id),
            (Some("one"), format!("{turn}:3"))
        );
        drop(events);
        genie.ollama.go_on();
        // Another device resumes at the place where the first one left.
        let rest = resume(&genie, &ada, &turn, 3).await.rest().await;
        assert_eq!(
            (text_of(&rest).as_str(), outcome(&rest).as_str()),
            (" two", "completed")
        );
        genie.settle().await;
        // After its end a stream can be read from any place, even inside a word. After the last
        // event there is nothing.
        let again = resume(&genie, &ada, &turn, 1).await.rest().await;
        assert_eq!(
            (text_of(&again).as_str(), outcome(&again).as_str()),
            ("ne two", "completed")
        );
        let last: u64 = again
            .last()
            .unwrap()
            .id
            .rsplit(':')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let after_the_end = ada
            .get(
                &genie,
                &format!("/api/genie/turns/{turn}/stream?after={last}"),
            )
            .await;
        assert_eq!(after_the_end.status, 204);
        let end_only = resume(&genie, &ada, &turn, last - 1).await.rest().await;
        assert_eq!(
            (end_only.len(), outcome(&end_only).as_str()),
            (1, "completed")
        );
    }
);

both_stores!(
    stopping_a_turn_closes_the_connection_to_the_model,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        genie.ollama.script(
            "long",
            &[Step::Say("one"), Step::Hold, Step::Say(" two"), Step::Done],
        );
        let mut events = ada.ask(&genie, "s", "a long one").await;
        events.text().await;
        let turn = events.turn.clone();
        ada.delete(&genie, &format!("/api/genie/turns/{turn}"))
            .await
            .ok();
        genie.ollama.cancelled().await;
        let rest = events.rest().await;
        assert_eq!(outcome(&rest), "stopped");
        assert_eq!(
            ada.messages(&genie, "s").await[1],
            ("assistant".into(), "one".into()),
            "the text that was shown is kept"
        );
        ada.delete(&genie, &format!("/api/genie/turns/{turn}"))
            .await
            .ok(); // a second stop is no error
        let next = ada.ask(&genie, "s", "hello").await.rest().await;
        assert_eq!(text_of(&next), "Hello there", "the model's slot is free");
    }
);

both_stores!(
    a_model_that_fails_is_502_or_an_error_event_and_the_question_is_kept,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        // On a busy machine the stream opens before the model has failed; then the failure is an event.
        let asked = AtomicUsize::new(0);
        let ask = async |message: &str| {
            until("the model to fail before the stream opens", async || {
                asked.fetch_add(1, Ordering::SeqCst);
                let body = json!({"message": message, "sessionId": "a"});
                let answer = ada.post(&genie, "/api/genie/stream-chat", body).await;
                (answer.status != 200).then_some(answer)
            })
            .await
        };
        genie.ollama.script(
            "broken",
            &[Step::Refuse(500, "model runner has unexpectedly stopped")],
        );
        let refused = ask("broken").await;
        assert!(refused.headers.contains_key("Genie-Turn"));
        refused.refused(502, "ollama_failed");
        genie
            .ollama
            .script("missing", &[Step::Refuse(404, "model 'x' not found")]);
        let sentence = ask("missing").await.refused(502, "ollama_model_missing");
        assert!(
            sentence["error"].as_str().unwrap().contains("ollama pull"),
            "the sentence must say what to do: {sentence}"
        );
        genie
            .ollama
            .script("busy", &[Step::Refuse(503, "server busy")]);
        ask("busy").await.refused(502, "ollama_busy");
        genie.settle().await;
        let kept = ada.messages(&genie, "a").await;
        assert_eq!(
            kept.iter().filter(|(role, _)| role == "user").count(),
            asked.load(Ordering::SeqCst),
            "{kept:?}"
        );

        for (session, end, code) in [
            ("b", Step::ErrorLine("boom"), "ollama_failed"),
            ("c", Step::EndWithoutDone, "ollama_incomplete"),
            ("d", Step::Break, "ollama_failed"),
        ] {
            genie
                .ollama
                .script("half", &[Step::Say("half"), Step::Pause(300), end]);
            let events = ada.ask(&genie, session, "half").await.rest().await;
            assert_eq!(outcome(&events), "failed");
            assert!(
                events
                    .iter()
                    .any(|event| event.data["type"] == "error" && event.data["code"] == code),
                "{events:?}"
            );
            assert_eq!(
                ada.messages(&genie, session).await[1].1,
                "half",
                "the text that arrived is kept"
            );
        }
    }
);

both_stores!(
    an_answer_that_ends_for_want_of_tokens_says_so,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        let steps = [
            Step::Think("hm"),
            Step::Say("half a"),
            Step::DoneBecause("length"),
        ];
        genie.ollama.script("long", &steps);
        let events = ada.ask(&genie, "s", "a long one").await.rest().await;
        assert_eq!(outcome(&events), "completed");
        assert_eq!(text_of(&events), "half a");
        let end = &events.last().unwrap().data;
        assert_eq!(end["metrics"]["finish_reason"], "length", "{end}");
        let asked = &genie.ollama.requests()[0];
        assert_eq!(
            asked["options"],
            json!({"num_ctx": 4096 + 1024, "num_predict": 1024})
        );
    }
);

both_stores!(
    thoughts_without_an_answer_are_a_failure,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        genie
            .ollama
            .script("think", &[Step::Think("hm"), Step::DoneBecause("length")]);
        let question = json!({"message": "think", "sessionId": "s"});
        let answer = ada.post(&genie, "/api/genie/stream-chat", question).await;
        let told = answer.refused(502, "ollama_empty");
        assert!(
            told["error"].as_str().unwrap().contains("thought"),
            "{told}"
        );
    }
);

both_stores!(
    odd_frames_are_read_and_an_emoji_in_two_halves_is_whole,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        let steps = [
            Step::Raw(
                r#"{"message":{"role":"assistant","content":"a\ud83d","thinking":null},"done":null}"#,
            ),
            Step::Raw(
                r#"{"message":{"content":"\ude00b"},"done":false,"eval_count":null,"logprobs":[]}"#,
            ),
            Step::Raw(
                r#"{"message":null,"done":true,"eval_count":3.0,"total_duration":2e9,"load_duration":-1}"#,
            ),
        ];
        genie.ollama.script("odd", &steps);
        let events = ada.ask(&genie, "s", "odd").await.rest().await;
        assert_eq!(outcome(&events), "completed");
        assert_eq!(text_of(&events), "a😀b");
        let metrics = &events.last().unwrap().data["metrics"];
        assert_eq!(
            *metrics,
            json!({"answer_tokens": 3, "total_ms": 2000, "finish_reason": "stop"})
        );
    }
);

both_stores!(
    a_kept_connection_that_died_is_no_failure,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        let steps = [Step::BreakOnce, Step::Say("here"), Step::Done];
        genie.ollama.script("again", &steps);
        let events = ada.ask(&genie, "s", "again").await.rest().await;
        assert_eq!(outcome(&events), "completed");
        assert_eq!(text_of(&events), "here");
        assert_eq!(genie.ollama.requests().len(), 2);
    }
);

both_stores!(
    a_question_that_is_sent_again_is_asked_once,
    async |store: TestStore| {
        let (mut genie, ada) = start(store).await;
        let bob = genie.user("bob").await;
        let steps = [Step::Say("one"), Step::Hold, Step::Say(" two"), Step::Done];
        genie.ollama.script("long", &steps);
        let ask = |header: &'static str, value: &str| {
            let url = format!("{}/api/genie/stream-chat", genie.base);
            let question = json!({"message": "a long one", "sessionId": "s"});
            let asking = genie.http.post(url).bearer_auth(&ada.token).json(&question);
            Events::open(asking.header(header, value))
        };
        let mut first = ask("Idempotency-Key", "k").await;
        let seen = first.text().await;
        assert_eq!(seen.data["textResponse"], "one");
        let again = ask("Idempotency-Key", "k").await;
        assert_eq!(again.turn, first.turn);
        let resumed = ask("Last-Event-ID", &seen.id).await;
        assert_eq!(resumed.turn, first.turn);
        drop(first);
        genie.ollama.go_on();
        let (again, resumed) = (again.rest().await, resumed.rest().await);
        assert_eq!(text_of(&again), "one two");
        assert_eq!(text_of(&resumed), " two");
        assert_eq!(outcome(&resumed), "completed");

        // After the end, too.
        let again = ask("Idempotency-Key", "k").await.rest().await;
        assert_eq!(text_of(&again), "one two");
        let resumed = ask("Last-Event-ID", &seen.id).await.rest().await;
        assert_eq!(text_of(&resumed), " two");
        assert_eq!(genie.ollama.requests().len(), 1);

        // Nobody else's turn, and none at all, is a question.
        let url = format!("{}/api/genie/stream-chat", genie.base);
        let asking = genie.http.post(url).bearer_auth(&bob.token);
        let asking = asking.json(&json!({"message": "hello"}));
        let bobs = Events::open(asking.header("Last-Event-ID", &seen.id)).await;
        assert_ne!(bobs.turn, turn_of(&seen.id));
        let answer = bobs.rest().await; // what to do before the first question
        assert_eq!(answer[0].data["type"], "textResponse", "{answer:?}");
        let asked = ask("Last-Event-ID", "x").await;
        assert_ne!(asked.turn, turn_of(&seen.id));
    }
);

/// The turn of an event's id.
fn turn_of(event: &str) -> &str {
    event.split_once(':').unwrap().0
}

both_stores!(
    another_model_server_answers_when_one_is_away,
    async |store: TestStore| {
        let second = FakeOllama::start().await;
        let urls = format!("http://127.0.0.1:9, {}", second.url);
        let mut genie = TestGenie::start_with(store, &[("OLLAMA_URL", urls)]).await;
        let ada = genie.user("ada").await;
        for n in 0..3 {
            let events = ada
                .ask(&genie, &format!("s{n}"), "hello")
                .await
                .rest()
                .await;
            assert_eq!(outcome(&events), "completed");
            assert_eq!(text_of(&events), "Hello there");
        }
        second.script("gone", &[Step::Refuse(500, "out of memory")]);
        let question = json!({"message": "gone", "sessionId": "t"});
        let answer = ada.post(&genie, "/api/genie/stream-chat", question).await;
        answer.refused(502, "ollama_failed");
        let readiness = genie.readiness().await.ok();
        assert_eq!(readiness["ollama"], "ok");
        let models = json!({"qwen2.5:latest": "loaded", "dolphin-mistral:7b": "missing"});
        assert_eq!(readiness["models"], models);
    }
);

both_stores!(
    without_a_model_server_chat_and_captions_say_what_to_do,
    async |store: TestStore| {
        let nowhere = [("OLLAMA_URL", "http://127.0.0.1:9".to_owned())];
        let mut genie = TestGenie::start_with(store, &nowhere).await;
        let ada = genie.user("ada").await;
        let answer = ada
            .post(
                &genie,
                "/api/genie/stream-chat",
                json!({"message": "hello", "sessionId": "s"}),
            )
            .await;
        let told = answer.refused(502, "ollama_unreachable");
        assert!(
            told["error"].as_str().unwrap().contains("OLLAMA_URL"),
            "{told}"
        );
        genie.settle().await;
        assert_eq!(
            ada.messages(&genie, "s").await[0],
            ("user".into(), "hello".into())
        );
        ada.post(&genie, "/api/captions/generate", json!({}))
            .await
            .refused(502, "ollama_unreachable");
        genie.settle().await;
        assert_eq!(
            ada.get(&genie, "/api/usage").await.ok()["usage"]["posts_ai_assisted"],
            0,
            "the unit is given back"
        );
        ada.submit_job(&genie).await; // everything but chat works
    }
);

both_stores!(
    a_session_runs_one_turn_at_a_time_and_the_model_queue_tells_places,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        genie
            .ollama
            .script("long", &[Step::Say("one"), Step::Hold, Step::Done]);
        let mut first = ada.ask(&genie, "s", "a long one").await;
        first.text().await;
        let second = ada
            .post(
                &genie,
                "/api/genie/stream-chat",
                json!({"message": "too soon", "sessionId": "s"}),
            )
            .await;
        let refused = second.refused(409, "turn_running");
        assert_eq!(refused["turnId"].as_str(), Some(first.turn.as_str()));

        // Another session waits for the model's one slot and learns its place in the model queue.
        let mut waiting = ada.ask(&genie, "other", "hello").await;
        let placed = loop {
            let event = waiting.next().await.expect("a place in the model queue");
            if event.data["queue_position"].is_number() {
                break event;
            }
        };
        assert_eq!(placed.data["queue_position"], 1);
        genie.ollama.go_on();
        assert_eq!(outcome(&first.rest().await), "completed");
        assert_eq!(text_of(&waiting.rest().await), "Hello there");
    }
);

both_stores!(
    a_full_model_queue_is_429_and_nothing_is_kept,
    async |store: TestStore| {
        let mut genie =
            TestGenie::start_with(store, &[("GENIE_MODEL_QUEUE", "0".to_owned())]).await;
        let ada = genie.user("ada").await;
        genie
            .ollama
            .script("long", &[Step::Say("one"), Step::Hold, Step::Done]);
        let mut first = ada.ask(&genie, "s", "a long one").await;
        first.text().await;
        let refused = ada
            .post(
                &genie,
                "/api/genie/stream-chat",
                json!({"message": "hello", "sessionId": "other"}),
            )
            .await;
        assert!(refused.headers.contains_key("Retry-After"));
        refused.refused(429, "model_queue_full");
        genie.settle().await;
        ada.get(&genie, "/api/genie/sessions/other/messages")
            .await
            .refused(404, "not_found");
        genie.ollama.go_on();
        assert_eq!(outcome(&first.rest().await), "completed");
    }
);

both_stores!(
    callers_who_are_refused_or_leave_keep_no_place_in_the_model_queue,
    async |store: TestStore| {
        let mut genie =
            TestGenie::start_with(store, &[("GENIE_MODEL_QUEUE", "1".to_owned())]).await;
        let ada = genie.user("ada").await;
        genie
            .ollama
            .script("long", &[Step::Say("one"), Step::Hold, Step::Done]);
        let mut first = ada.ask(&genie, "s", "a long one").await;
        first.text().await;
        let ask = || {
            let body = json!({"message": "too soon", "sessionId": "s"});
            genie
                .http
                .post(format!("{}/api/genie/stream-chat", genie.base))
                .bearer_auth(&ada.token)
                .json(&body)
        };
        for millis in 0..20 {
            let _ = ask().timeout(Duration::from_millis(millis)).send().await; // leaves in the middle or is refused
            // The request that left may still be undecided and hold its place until then. A leaked
            // place would never become free.
            let started = std::time::Instant::now();
            while ask().send().await.unwrap().status() != 409 {
                assert!(
                    started.elapsed() < Duration::from_secs(10),
                    "the place was not given back"
                );
            }
        }
        genie.ollama.go_on();
        assert_eq!(outcome(&first.rest().await), "completed");
        assert_eq!(
            text_of(&ada.ask(&genie, "s", "hello").await.rest().await),
            "Hello there"
        );
    }
);

both_stores!(
    a_server_that_dies_during_an_answer_keeps_the_text_already_shown,
    async |store: TestStore| {
        let (mut genie, ada) = start_process(store).await;
        genie.ollama.script(
            "long",
            &[Step::Say("one"), Step::Say(" two"), Step::Hold, Step::Done],
        );
        let mut events = ada.ask(&genie, "s", "a long one").await;
        let turn = events.turn.clone();
        let mut shown = String::new();
        while shown != "one two" {
            shown.push_str(events.text().await.data["textResponse"].as_str().unwrap());
        }
        genie.restart().await;
        assert!(events.rest().await.is_empty(), "the stream broke off");
        // The reader resumes at its place and learns how the turn ended. On Postgres the dead
        // node's lease has to lapse first.
        let rest = resume(&genie, &ada, &turn, 7).await.rest().await;
        assert_eq!(
            (text_of(&rest).as_str(), outcome(&rest).as_str()),
            ("", "interrupted")
        );
        assert_eq!(
            ada.messages(&genie, "s").await[1],
            ("assistant".into(), "one two".into())
        );
        let next = ada.ask(&genie, "s", "hello").await.rest().await;
        assert_eq!(text_of(&next), "Hello there", "the session goes on");
    }
);

both_stores!(
    a_server_that_dies_before_the_first_token_answers_after_its_restart,
    async |store: TestStore| {
        let (mut genie, ada) = start_process(store).await;
        genie
            .ollama
            .script("slow", &[Step::Hold, Step::Say("late"), Step::Done]);
        let events = ada.ask(&genie, "s", "a slow one").await;
        let turn = events.turn.clone();
        genie.ollama.asked().await;
        genie.restart().await;
        genie.ollama.asked().await; // the new process asks the model again
        genie.ollama.go_on();
        let rest = resume(&genie, &ada, &turn, 0).await.rest().await;
        assert_eq!(
            (text_of(&rest).as_str(), outcome(&rest).as_str()),
            ("late", "completed")
        );
    }
);

both_stores!(
    a_caption_lost_with_its_server_gives_its_unit_back,
    async |store: TestStore| {
        let (mut genie, ada) = start(store).await;
        genie.ollama.script(
            "Write one caption",
            &[Step::Hold, Step::Say("late"), Step::Done],
        );
        let asking = {
            let http = genie.http.clone();
            let base = genie.base.clone();
            let token = ada.token.clone();
            tokio::spawn(async move {
                http.post(format!("{base}/api/captions/generate"))
                    .bearer_auth(token)
                    .json(&json!({}))
                    .send()
                    .await
            })
        };
        genie.ollama.asked().await;
        genie.restart().await;
        assert!(asking.await.unwrap().is_err());
        until("the caption to end", async || {
            genie.settle().await;
            let captions = ada.get(&genie, "/api/captions").await.ok();
            (captions["data"][0]["status"] == "failed").then_some(())
        })
        .await;
        let usage = ada.get(&genie, "/api/usage").await.ok();
        assert_eq!(usage["usage"]["posts_ai_assisted"], 0);
    }
);

both_stores!(
    an_endless_answer_is_cut_off_and_the_session_goes_on,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        // A line feed takes two bytes in JSON, so this one frame is larger than a fact may be.
        let blank: &'static str = Box::leak("\n".repeat(700_000).into_boxed_str());
        let endless: &'static str = Box::leak(format!("a{blank}").into_boxed_str());
        genie
            .ollama
            .script("endless", &[Step::Say(endless), Step::Hold, Step::Done]);
        let events = ada.ask(&genie, "s", "endless").await.rest().await;
        assert_eq!(outcome(&events), "failed");
        assert!(
            events
                .iter()
                .any(|event| event.data["code"] == "answer_too_long")
        );
        assert_eq!(text_of(&events).len(), 256 * 1024);
        genie.ollama.script(
            "Write one caption",
            &[Step::Say(blank), Step::Say("end"), Step::Done],
        );
        ada.post(
            &genie,
            "/api/captions/generate",
            json!({"platform": "reddit"}),
        )
        .await
        .refused(502, "ollama_failed");
        assert_eq!(
            text_of(&ada.ask(&genie, "s", "hello").await.rest().await),
            "Hello there"
        );
    }
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_node_on_one_postgres_serves_any_user_and_outlives_the_other() {
    let (mut genie, ada) = start(TestStore::new(Kind::Postgres).await).await;
    let first = genie.base.clone();
    let second = genie.another_node().await;

    // A job is submitted on one node, claimed on the other, and completed on the first.
    let job = ada.submit_job(&genie).await;
    genie.base = second.base.clone();
    let claimed = genie.claim().await;
    assert_eq!(claimed["jobId"].as_str(), Some(job.as_str()));
    genie.base = first.clone();
    let done = json!({"lease": claimed["lease"], "result": {}});
    genie
        .server(&format!("/api/worker/jobs/{job}/complete"), done)
        .await
        .ok();

    // A chat asked on one node is read on the other while it runs.
    genie.ollama.script(
        "long",
        &[Step::Say("one"), Step::Hold, Step::Say(" two"), Step::Done],
    );
    let mut here = ada.ask(&genie, "s", "a long one").await;
    here.text().await;
    genie.base = second.base.clone();
    let mut there = resume_elsewhere(&genie, &ada, &here).await;
    assert_eq!(there.text().await.data["textResponse"], "one");
    genie.ollama.go_on();
    assert_eq!(
        (
            outcome(&there.rest().await).as_str(),
            outcome(&here.rest().await).as_str()
        ),
        ("completed", "completed")
    );

    // The node that took the question dies. The other node ends the turn with the text that was
    // shown, although its own actor of the user was warm.
    ada.post(
        &genie,
        "/api/queue/media",
        json!({"operation": "thumbnail", "input_url": "http://a/b"}),
    )
    .await
    .ok();
    genie.base = first;
    let mut here = ada.ask(&genie, "s", "another long one").await;
    here.text().await;
    genie.kill().await;
    genie.base = second.base.clone();
    let rest = resume_elsewhere(&genie, &ada, &here).await.rest().await;
    assert_eq!(
        (text_of(&rest).as_str(), outcome(&rest).as_str()),
        ("one", "interrupted")
    );
    assert_eq!(
        text_of(&ada.ask(&genie, "s", "hello").await.rest().await),
        "Hello there"
    );
}

both_stores!(
    the_model_is_given_the_conversation_and_nothing_about_the_caller,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        ada.ask(&genie, "s", "first").await.rest().await;
        ada.ask(&genie, "s", "second").await.rest().await;
        ada.ask(&genie, "another", "third").await.rest().await;
        let requests = genie.ollama.requests();
        let contents = |n: usize| -> Vec<String> {
            let messages = requests[n]["messages"].as_array().unwrap();
            messages
                .iter()
                .skip(1)
                .map(|message| message["content"].as_str().unwrap().to_owned())
                .collect()
        };
        assert_eq!(contents(1), ["first", "Hello there", "second"]);
        assert_eq!(contents(2), ["third"]);
        assert_eq!(requests[0]["messages"][0]["role"], "system");
        let headers = genie.ollama.headers().join("\n");
        assert!(
            !headers.contains("authorization") && !headers.contains("origin"),
            "{headers}"
        );
    }
);

both_stores!(
    a_user_who_is_not_onboarded_is_told_what_to_do_and_the_model_is_not_asked,
    async |store: TestStore| {
        let (mut genie, _admin) = start(store).await;
        let bob = genie.user("bob").await;
        let events = bob.ask(&genie, "s", "hello").await.rest().await;
        assert_eq!(events[0].data["type"], "textResponse");
        assert!(
            events[0].data["textResponse"]
                .as_str()
                .unwrap()
                .contains("extension")
        );
        assert_eq!(
            (outcome(&events).as_str(), genie.ollama.requests().len()),
            ("completed", 0)
        );
        let step = |state: &str| json!({"state": state});
        let patch = async |state: &str| {
            genie
                .send(
                    reqwest::Method::PATCH,
                    "/api/onboarding/state",
                    &bob.headers(),
                    Some(step(state)),
                )
                .await
        };
        patch("COMPLETE").await.refused(409, "onboarding_order");
        patch("NONSENSE").await.refused(400, "invalid_field");
        patch("DATA_COLLECTION").await.ok();
        patch("PROCESSING").await.ok();
        assert_eq!(
            bob.get(&genie, "/api/onboarding/state").await.ok()["state"],
            "PROCESSING"
        );
        assert_eq!(
            text_of(&bob.ask(&genie, "s", "hello").await.rest().await),
            "Hello there"
        );
    }
);

both_stores!(
    a_chat_that_cannot_be_read_holds_no_place_at_the_model,
    async |store: TestStore| {
        let (mut genie, ada) = start(store).await;
        let bob = genie.user("bob").await;
        for state in ["DATA_COLLECTION", "PROCESSING"] {
            let step = json!({"state": state});
            bob.patch(&genie, "/api/onboarding/state", step).await.ok();
        }
        ada.ask(&genie, "s", "first").await.rest().await;
        genie.settle().await;
        let question = "DELETE FROM events WHERE position = (SELECT max(position) - 1 FROM events)";
        genie.store.tamper(question).await;
        genie
            .ollama
            .script("long", &[Step::Say("one"), Step::Hold, Step::Done]);
        let mut held = bob.ask(&genie, "s", "a long one").await;
        held.text().await;
        // The model's only place is taken. The chat that lacks a message ends without waiting for it.
        let body = json!({"message": "second", "sessionId": "s"});
        let refused = ada.post(&genie, "/api/genie/stream-chat", body).await;
        refused.refused(500, "history_unreadable");
        genie.ollama.go_on();
        assert_eq!(outcome(&held.rest().await), "completed");
        let elsewhere = ada.ask(&genie, "other", "hello").await.rest().await;
        assert_eq!(text_of(&elsewhere), "Hello there");
    }
);

both_stores!(
    a_page_of_messages_ends_at_a_mebibyte_and_goes_on,
    async |store: TestStore| {
        let (genie, ada) = start(store).await;
        let long = "x".repeat(99_000);
        for n in 0..13 {
            let question = format!("{n} {long}");
            ada.ask(&genie, "s", &question).await.rest().await;
        }
        genie.settle().await;
        let mut messages = 0;
        let mut pages = 0;
        let mut path = "/api/genie/sessions/s/messages?limit=500".to_owned();
        loop {
            let page = ada.get(&genie, &path).await.ok();
            let data = page["data"].as_array().unwrap();
            assert!(!data.is_empty() && page["data"].to_string().len() <= (1 << 20) + 1000);
            messages += data.len();
            pages += 1;
            assert_eq!(page["has_more"], page["next_cursor"].is_string());
            let Some(next) = page["next_cursor"].as_str() else {
                break;
            };
            path = format!("/api/genie/sessions/s/messages?limit=500&cursor={next}");
        }
        assert_eq!((messages, pages), (26, 2));
        let exact = ada.get(&genie, "/api/genie/sessions?limit=1").await.ok();
        assert_eq!(exact["has_more"], false, "the last page says so");
    }
);
