//! Several servers on one Postgres. It makes no difference which server answers, and losing a
//! server costs seconds, not facts.

use std::time::{Duration, Instant};

use genie_log::testing::{Kind, TestStore};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, PgConnection, Row};

use crate::{
    fake_ollama::Step,
    story,
    test_genie::{Answer, Events, Node, TestGenie, TestUser, outcome, text_of},
    until::until,
};

/// The longest time without a leader after the leader is lost.
const IN_TIME: Duration = Duration::from_secs(5);

/// Two servers of which the first is the leader, a user, and a connection to the store.
struct Two {
    genie: TestGenie,
    ada: TestUser,
    first: String,
    second: Node,
    inside: PgConnection,
}

impl Two {
    async fn start() -> Self {
        for _ in 0..5 {
            let two = Self::start_once().await;
            if elected(&two.genie).await["here"] == true {
                return two;
            }
        }
        panic!("the first server never led long enough for the second to start");
    }

    async fn start_once() -> Self {
        let store = TestStore::new(Kind::Postgres).await;
        let inside = PgConnection::connect(&store.database_url().unwrap())
            .await
            .unwrap();
        let mut genie = TestGenie::start_process(store).await;
        until_elected(&genie).await;
        let second = genie.another_node().await;
        let ada = genie.user("ada").await;
        genie.settle().await;
        Self {
            ada,
            first: genie.base.clone(),
            second,
            inside,
            genie,
        }
    }

    /// Sends all further requests to the second server.
    fn turn_to_the_second(&mut self) {
        self.genie.base = self.second.base.clone();
    }

    /// Queues a job and reads it back at the position of the write.
    async fn a_job_is_seen(&self) {
        let queued = self
            .ada
            .post(
                &self.genie,
                "/api/queue/media",
                json!({"operation": "thumbnail", "input_url": "http://a/b"}),
            )
            .await;
        let position = queued.headers["Genie-Position"]
            .to_str()
            .unwrap()
            .to_owned();
        let job = queued.ok()["jobId"].as_str().unwrap().to_owned();
        let read = self.read_at(&format!("/api/jobs/{job}"), position).await;
        assert_eq!(read.ok()["status"], "queued");
    }

    async fn read_at(&self, path: &str, position: String) -> Answer {
        let [token] = self.ada.headers();
        self.genie
            .send(
                Method::GET,
                path,
                &[token, ("Genie-Min-Position", position)],
                None,
            )
            .await
    }
}

/// The leader, as the addressed server names it.
async fn elected(genie: &TestGenie) -> Value {
    genie.readiness().await.json["elected"].take()
}

/// Waits until the addressed server is the leader. Returns its term.
async fn until_elected(genie: &TestGenie) -> i64 {
    until("the server to be elected", async || {
        let elected = elected(genie).await;
        elected["epoch"]
            .as_i64()
            .filter(|_| elected["here"] == true)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_whole_story_on_two_nodes_that_answer_in_turn() {
    let mut genie = TestGenie::start_process(TestStore::new(Kind::Postgres).await).await;
    genie.launch_beside().await;
    story::tell(genie, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_of_the_elected_node_costs_seconds() {
    let mut two = Two::start().await;
    let before = until_elected(&two.genie).await;
    two.genie.kill().await;
    let killed = Instant::now();
    two.turn_to_the_second();
    assert!(until_elected(&two.genie).await > before);
    let taken = killed.elapsed();
    assert!(taken < IN_TIME, "{taken:?}");
    two.a_job_is_seen().await;
    eprintln!(
        "elected {taken:?} after kill -9, and a job seen {:?} after",
        killed.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_node_is_deposed_in_seconds_and_goes_on_as_one_of_the_others() {
    stop_and_go_on(Two::start().await, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_stopped_in_the_middle_of_a_transaction_is_deposed_too() {
    stop_and_go_on(Two::start().await, true).await;
}

async fn stop_and_go_on(mut two: Two, in_the_middle: bool) {
    let before = until_elected(&two.genie).await;
    if in_the_middle {
        // A projection's transaction waits for the locked table. The process is stopped before the
        // transaction gets the lock.
        sqlx::raw_sql("BEGIN; LOCK TABLE jobs IN ACCESS EXCLUSIVE MODE")
            .execute(&mut two.inside)
            .await
            .unwrap();
        two.ada.submit_job(&two.genie).await;
        let waits = "SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'jobs'::regclass AND NOT granted)";
        until("a projection to wait for the lock", async || {
            let waits = sqlx::query_scalar::<_, bool>(waits).fetch_one(&mut two.inside);
            waits.await.unwrap().then_some(())
        })
        .await;
    }
    two.genie.signal("STOP").await;
    let stopped = Instant::now();
    if in_the_middle {
        sqlx::raw_sql("ROLLBACK")
            .execute(&mut two.inside)
            .await
            .unwrap();
        let open = "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database()";
        until("the stopped server's transaction to be idle", async || {
            let open = sqlx::query_scalar::<_, i64>(open).fetch_one(&mut two.inside);
            (open.await.unwrap() > 0).then_some(())
        })
        .await;
    }
    two.turn_to_the_second();
    let epoch = until_elected(&two.genie).await;
    let taken = stopped.elapsed();
    assert!(
        epoch > before && taken < IN_TIME,
        "{before} {epoch} {taken:?}"
    );
    two.a_job_is_seen().await;
    eprintln!(
        "elected {taken:?} after it was stopped, and a job seen {:?} after",
        stopped.elapsed()
    );
    let as_the_second_says = elected(&two.genie).await;

    two.genie.signal("CONT").await;
    two.genie.base = two.first.clone();
    let as_the_first_says = elected(&two.genie).await;
    assert_eq!(
        (&as_the_first_says["here"], &as_the_first_says["epoch"]),
        (&json!(false), &json!(epoch))
    );
    assert_eq!(as_the_first_says["node"], as_the_second_says["node"]);
    two.a_job_is_seen().await;
    assert_eq!(elected(&two.genie).await, as_the_first_says);
    two.genie.settle().await;
    let moved = sqlx::query("SELECT name, epoch FROM checkpoints")
        .fetch_all(&mut two.inside)
        .await
        .unwrap();
    assert!(moved.len() > 1);
    for row in moved {
        let (name, moved_in): (String, i64) = (row.get("name"), row.get("epoch"));
        assert!(moved_in > before, "the deposed node moved {name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_deposed_without_knowing_it_is_elected_again() {
    let mut two = Two::start().await;
    two.genie.signal("STOP").await; // so that the term is raised between two heartbeats
    sqlx::query("UPDATE elections SET epoch = epoch + 1, node = 'nobody'")
        .execute(&mut two.inside)
        .await
        .unwrap();
    two.genie.signal("CONT").await;
    for _ in 0..3 {
        two.a_job_is_seen().await;
    }
    assert_ne!(elected(&two.genie).await["node"], "nobody");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_node_reports_a_stopped_projection_and_the_next_leader_retries_it() {
    let mut two = Two::start().await;
    sqlx::raw_sql("ALTER TABLE jobs RENAME COLUMN priority TO away")
        .execute(&mut two.inside)
        .await
        .unwrap();
    two.ada.submit_job(&two.genie).await;
    for base in [two.first.clone(), two.second.base.clone()] {
        two.genie.base = base;
        let ready = until("the projection of jobs to stop", async || {
            let ready = two.genie.readiness().await;
            (ready.json["projections"]["jobs"]["state"] == "stopped").then_some(ready)
        })
        .await;
        assert_eq!(ready.status, 503);
        assert_eq!(ready.json["projections"]["usage"]["state"], "following");
    }
    sqlx::raw_sql("ALTER TABLE jobs RENAME COLUMN away TO priority")
        .execute(&mut two.inside)
        .await
        .unwrap();
    two.genie.kill().await;
    two.a_job_is_seen().await;
    assert_eq!(two.genie.readiness().await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_story_goes_on_when_the_elected_node_dies_in_the_middle() {
    die_in_the_middle(Two::start().await, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_story_goes_on_when_the_other_node_dies_in_the_middle() {
    die_in_the_middle(Two::start().await, false).await;
}

/// One node hands out a job and takes a question, and one of the two nodes dies. The other node
/// ends both.
async fn die_in_the_middle(mut two: Two, the_elected: bool) {
    let survivor = if the_elected {
        two.second.base.clone()
    } else {
        two.first.clone()
    };
    if !the_elected {
        two.turn_to_the_second();
    }
    let job = two.ada.submit_job(&two.genie).await;
    let claimed = two.genie.claim().await;
    assert_eq!(claimed["jobId"].as_str(), Some(job.as_str()));
    two.genie.ollama.script(
        "long",
        &[Step::Say("one"), Step::Hold, Step::Say(" two"), Step::Done],
    );
    let mut asked = two.ada.ask(&two.genie, "s", "a long one").await;
    asked.text().await;
    if the_elected {
        two.genie.kill().await;
    } else {
        two.second.kill().await;
    }
    two.genie.base = survivor;

    // The worker goes on with its lease and ends the job.
    let genie = &two.genie;
    genie
        .server(
            &format!("/api/worker/jobs/{job}/heartbeat"),
            json!({"lease": claimed["lease"]}),
        )
        .await
        .ok();
    let done = json!({"lease": claimed["lease"], "result": {"width": 100}});
    let done = genie
        .server(&format!("/api/worker/jobs/{job}/complete"), done)
        .await;
    let position = done.headers["Genie-Position"].to_str().unwrap().to_owned();
    done.ok();
    assert_eq!(
        two.read_at(&format!("/api/jobs/{job}"), position)
            .await
            .ok()["status"],
        "completed"
    );

    // The reader resumes and learns how the turn ended. The next turn is answered.
    let url = format!("{}/api/genie/turns/{}/stream", genie.base, asked.turn);
    let again = genie
        .http
        .get(url)
        .bearer_auth(&two.ada.token)
        .header("Genie-Min-Position", &asked.position);
    let rest = Events::open(again).await.rest().await;
    assert_eq!(
        (text_of(&rest).as_str(), outcome(&rest).as_str()),
        ("one", "interrupted")
    );
    assert_eq!(
        text_of(&two.ada.ask(genie, "s", "hello").await.rest().await),
        "Hello there"
    );
    let kept = two.ada.messages(genie, "s").await;
    let kept: Vec<&str> = kept.iter().map(|(_, text)| text.as_str()).collect();
    assert_eq!(kept, ["a long one", "one", "hello", "Hello there"]);

    // A caption still counts once. Everything happened once and in order.
    let caption = two
        .ada
        .post(genie, "/api/captions/generate", json!({"platform": "x"}))
        .await;
    let position = caption.headers["Genie-Position"]
        .to_str()
        .unwrap()
        .to_owned();
    caption.ok();
    assert_eq!(
        two.read_at("/api/usage", position.clone()).await.ok()["usage"]["posts_ai_assisted"],
        1
    );
    let facts = two.read_at("/api/me/events", position).await.ok();
    let facts: Vec<&str> = facts["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fact| fact["type"].as_str().unwrap())
        .collect();
    let expected = [
        "account.registered",
        "account.signed_in",
        "job.submitted",
        "job.claimed",
        "chat.asked",
        "job.completed",
        "chat.answered",
        "chat.asked",
        "chat.answered",
        "usage.counted",
        "caption.requested",
        "caption.completed",
    ];
    assert_eq!(facts, expected);
    until_elected(genie).await;
}

/// Each node has its own copy of the user's state, and both count the same facts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_users_day_is_full_on_both_nodes() {
    let settings = [("FACTS_PER_USER_DAY", "20".to_owned())];
    let store = TestStore::new(Kind::Postgres).await;
    let mut genie = TestGenie::start_with(store, &settings).await;
    let noon = 12 * 3600;
    let until_noon = (noon - genie.clock.now().unix_seconds()).rem_euclid(86_400);
    genie.clock.advance_millis(until_noon * 1000);
    let ada = genie.user("ada").await;
    genie.launch_beside().await;
    let job =
        json!({"operation": "resize_image", "input_url": "http://a/b", "params": {"width": 1}}); // one fact each, since no tier counts it
    let mut refused = 0;
    for _ in 0..26 {
        let answer = ada.post(&genie, "/api/queue/media", job.clone()).await;
        match answer.status.as_u16() {
            200 => assert_eq!(refused, 0, "one node still takes what the other refused"),
            _ => {
                answer.refused(429, "too_many_facts");
                refused += 1;
            }
        }
    }
    let facts = ada.get(&genie, "/api/me/events?limit=500").await.ok()["data"].take();
    let own = |fact: &&Value| fact["callerid"] == ada.id;
    assert_eq!(facts.as_array().unwrap().iter().filter(own).count(), 20);
}
