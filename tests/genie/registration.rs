//! A registration is whole or absent, whenever the server dies: the user, the address and the
//! invite belong together.

use genie_log::testing::{Kind, TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{test_genie::TestGenie, until::moment_after};

/// The number of times that the server is killed while people register.
const KILLS: usize = 6;
/// The number of registrations under way at each kill.
const AT_ONCE: usize = 6;

/// The form of one registration.
#[derive(Clone)]
struct Form {
    email: String,
    code: String,
}

impl Form {
    fn body(&self) -> Value {
        json!({"email": self.email, "password": "long enough", "inviteCode": self.code})
    }
}

both_stores!(
    a_registration_hit_by_kill_9_is_whole_or_absent,
    async |store: TestStore| {
        let mut genie = TestGenie::start_process(store).await;
        let ada = genie.user("ada").await;
        let (mut whole, mut absent) = (0, 0);
        for round in 0..KILLS {
            let invites = ada
                .post(&genie, "/api/admin/invites", json!({"count": AT_ONCE}))
                .await
                .ok();
            let forms: Vec<Form> = (0..AT_ONCE)
                .map(|n| Form {
                    email: format!("user{n}.{round}@example.com"),
                    code: invites["data"][n]["code"].as_str().unwrap().to_owned(),
                })
                .collect();
            let asked = forms.clone().into_iter().map(|form| {
                let http = genie.http.clone();
                let url = format!("{}/api/register", genie.base);
                tokio::spawn(async move {
                    http.post(url)
                        .json(&form.body())
                        .send()
                        .await
                        .map(|answer| answer.status().as_u16())
                })
            });
            let asked: Vec<_> = asked.collect();
            // Each round dies at another moment. Hashing a password takes some 20 to 200 ms, two at
            // a time, and then comes the append.
            moment_after(40 * round as u64 + 20).await;
            genie.kill().await;
            let mut acknowledged = Vec::new();
            for answer in asked {
                acknowledged.push(matches!(answer.await.unwrap(), Ok(200)));
            }
            genie.launch_again().await;
            for (form, acknowledged) in forms.iter().zip(acknowledged) {
                let login = json!({"email": form.email, "password": "long enough"});
                let is_there = genie
                    .send(Method::POST, "/auth/login", &[], Some(login))
                    .await
                    .status
                    == 200;
                assert!(
                    is_there || !acknowledged,
                    "{} got the answer that they are registered",
                    form.email
                );
                let again = genie
                    .send(Method::POST, "/api/register", &[], Some(form.body()))
                    .await;
                if is_there {
                    // The address and the invite can't be used a second time.
                    assert!(
                        [400, 409].contains(&again.status.as_u16()),
                        "{:?}",
                        again.json
                    );
                } else {
                    // The address and the invite are still free.
                    again.ok();
                }
                whole += usize::from(is_there);
                absent += usize::from(!is_there);
            }
        }
        assert_eq!(whole + absent, KILLS * AT_ONCE);
        assert!(absent > 0, "no kill hit a registration");
    }
);

/// Only Postgres can be shared by several servers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_give_an_address_to_one_user() {
    let mut genie = TestGenie::start(TestStore::new(Kind::Postgres).await).await;
    let ada = genie.user("ada").await;
    let other = genie.another_node().await;
    let invites = ada
        .post(&genie, "/api/admin/invites", json!({"count": 8}))
        .await
        .ok();
    let asked = (0..8).map(|n| {
        let base = if n % 2 == 0 { &genie.base } else { &other.base };
        let http = genie.http.clone();
        let url = format!("{base}/api/register");
        let form = Form {
            email: "Bob@Example.com".into(),
            code: invites["data"][n]["code"].as_str().unwrap().to_owned(),
        };
        tokio::spawn(async move {
            http.post(url)
                .json(&form.body())
                .send()
                .await
                .unwrap()
                .status()
                .as_u16()
        })
    });
    let mut statuses = Vec::new();
    for answer in asked.collect::<Vec<_>>() {
        statuses.push(answer.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409, 409, 409, 409, 409, 409]);
}

both_stores!(
    made_up_invites_cost_no_hashing_and_are_counted,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        genie.user("ada").await;
        let register = async |n: usize| {
            let form = Form {
                email: format!("stranger{n}@example.com"),
                code: format!("made up {n}"),
            };
            let body = Some(form.body());
            genie.send(Method::POST, "/api/register", &[], body).await
        };
        let crowd = (0..80).map(&register); // more than may wait for a hash
        for answer in futures_util::future::join_all(crowd).await {
            assert!([400, 429].contains(&answer.status.as_u16()), "{answer:?}");
        }
        let refused = register(80).await;
        assert!(refused.headers.contains_key("Retry-After"));
        refused.refused(429, "too_many_wrong");
        assert_eq!(genie.log_in("ada", "ada's password").await.status, 200);
    }
);
