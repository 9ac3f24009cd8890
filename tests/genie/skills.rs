//! Skills, from the folder to the answers.

use genie_log::testing::{TestStore, both_stores};
use serde_json::{Value, json};

use crate::test_genie::TestGenie;

const HOOKS: &str = "---\nname: Hook writer\ndescription: Writes first lines that stop the thumb\n\
                     category: writing\ntags: [hooks, captions]\n---\n# Hooks\nBegin with a question.\n";
const PRICES: &str =
    "---\ndescription: Sets prices\ncategory: money\ntags: captions, prices\n---\nAsk less.\n";

async fn with_skills(store: TestStore) -> TestGenie {
    let folder = store.folder().join("skills");
    std::fs::create_dir(&folder).unwrap();
    for (name, text) in [
        ("hooks.md", HOOKS),
        ("prices.md", PRICES),
        ("notes.md", "none"),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let setting = ("GENIE_SKILLS_DIR", folder.to_str().unwrap().to_owned());
    TestGenie::start_with(store, &[setting]).await
}

fn ids(list: &Value) -> Vec<&str> {
    let skills = list["data"].as_array().unwrap();
    skills
        .iter()
        .map(|skill| skill["id"].as_str().unwrap())
        .collect()
}

both_stores!(
    skills_are_listed_found_and_chosen_for_a_task,
    async |store: TestStore| {
        let mut genie = with_skills(store).await;
        let ada = genie.user("ada").await;
        let list = ada.get(&genie, "/api/skills?sort=-name").await.ok();
        assert_eq!(ids(&list), ["prices", "hooks"]);
        assert_eq!(list["meta"], json!({"total_count": 2, "filter_count": 2}));
        assert_eq!(list["success"], true);
        let hooks = &list["data"][1];
        assert_eq!(hooks["content"], "# Hooks\nBegin with a question.");
        assert_eq!(
            (
                &hooks["category"],
                &hooks["tags"],
                &hooks["activation_score"]
            ),
            (
                &json!("writing"),
                &json!(["hooks", "captions"]),
                &Value::Null
            )
        );
        for (query, found) in [
            ("category=money", vec!["prices"]),
            ("tags=captions,hooks", vec!["hooks"]),
            ("limit=1", vec!["hooks"]),
            ("limit=1&offset=1", vec!["prices"]),
            ("offset=7", vec![]),
        ] {
            let list = ada.get(&genie, &format!("/api/skills?{query}")).await.ok();
            assert_eq!(ids(&list), found, "{query}");
        }
        for wrong in ["limit=0", "limit=501", "sort=content", "offset=-1"] {
            let refused = ada.get(&genie, &format!("/api/skills?{wrong}")).await;
            assert_eq!(refused.status, 400, "{wrong}");
        }

        let one = ada.get(&genie, "/api/skills/Hook%20writer").await.ok();
        assert_eq!(one["data"]["id"], "hooks");
        let related = ada.get(&genie, "/api/skills/hooks/related").await.ok();
        assert_eq!(ids(&related), ["prices"]);
        assert_eq!(ada.get(&genie, "/api/skills/none").await.status, 404);

        let post = async |path: &str, body: Value| ada.post(&genie, path, body).await;
        let found = post("/api/skills/search", json!({"query": "prices"}))
            .await
            .ok();
        assert_eq!(ids(&found), ["prices"]);
        assert_eq!(found["data"][0]["activation_score"], 1.0);
        let task = json!({"task": "captions with hooks", "max_results": 1});
        let active = post("/api/skills/activate", task).await.ok();
        assert_eq!(ids(&active), ["hooks"]);
        assert_eq!(active["meta"]["filter_count"], 2);
        for (path, body) in [
            ("/api/skills/search", json!({"query": " "})),
            (
                "/api/skills/activate",
                json!({"task": "x", "max_results": 0}),
            ),
        ] {
            assert_eq!(post(path, body).await.status, 400, "{path}");
        }
    }
);

both_stores!(
    a_server_without_a_folder_has_no_skills,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let list = ada.get(&genie, "/api/skills").await.ok();
        assert_eq!(
            (&list["data"], &list["meta"]["total_count"]),
            (&json!([]), &json!(0))
        );
    }
);
