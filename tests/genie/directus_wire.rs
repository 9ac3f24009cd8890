//! What clients of Directus send, answered by the built-in identity as Directus answers it.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use genie_log::{both_stores, testing::TestStore};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use reqwest::Method;
use serde_json::{Value, json};

use crate::test_genie::{TestGenie, TestUser, password};

/// The fields of a user in Directus 11 and 12.
const DIRECTUS_FIELDS: [&str; 28] = [
    "appearance",
    "auth_data",
    "avatar",
    "description",
    "email",
    "email_notifications",
    "external_identifier",
    "first_name",
    "id",
    "language",
    "last_access",
    "last_name",
    "last_page",
    "location",
    "password",
    "policies",
    "provider",
    "role",
    "status",
    "tags",
    "text_direction",
    "tfa_secret",
    "theme_dark",
    "theme_dark_overrides",
    "theme_light",
    "theme_light_overrides",
    "title",
    "token",
];

both_stores!(
    a_query_of_a_directus_client_chooses_the_fields_that_it_would_get_there,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let me = async |query: &str| {
            let answer = ada.get(&genie, &format!("/users/me{query}")).await;
            assert_eq!(answer.status, 200, "{query}: {:?}", answer.json);
            answer.json["data"].clone()
        };
        let all = me("").await;
        for field in DIRECTUS_FIELDS {
            assert!(all.get(field).is_some(), "{field}");
        }
        assert_eq!(all["role"], "administrator");
        assert_eq!(all["password"], "**********");
        let role = json!({
            "id": "administrator", "name": "administrator", "icon": "supervised_user_circle", "description": null,
            "parent": null, "children": [], "users": [ada.id],
        });
        let id = json!({"id": ada.id});
        let mut with_role = all.clone();
        with_role["role"] = role.clone();
        let name = json!({"role": {"name": "administrator"}});
        let table = [
            ("fields=*", all.clone()),
            ("fields=", all.clone()),
            ("fields=,,", all.clone()),
            ("fields=*.*", with_role.clone()),
            ("fields=*,role.*", with_role.clone()),
            ("fields=role.*,*", with_role.clone()),
            ("fields=*.*.*", with_role.clone()),
            ("fields=role", json!({"role": "administrator"})),
            ("fields=role.name", name.clone()),
            ("fields=%20role.name%20", name.clone()),
            ("fields=role,role.name", name.clone()),
            ("fields[]=role.name&fields[]=role.nonsense", name.clone()),
            (
                "fields[0]=role.id&fields[1]=role.name",
                json!({"role": {"id": "administrator", "name": "administrator"}}),
            ),
            ("fields=role.*", json!({"role": role})),
            (
                "fields=role.users.email",
                json!({"role": {"users": [ada.id]}}),
            ),
            (
                "fields=id,role.name,first_name",
                json!({"id": ada.id, "role": {"name": "administrator"}, "first_name": "ada"}),
            ),
            (
                "fields=id&fields=status",
                json!({"id": ada.id, "status": "active"}),
            ),
            // Without a known field there is the id.
            ("fields=nonsense", id.clone()),
            ("fields=role.nonsense", id.clone()),
            ("fields=role.policies.*", id.clone()),
            ("fields=email.x", id.clone()),
            ("fields=ROLE", id.clone()),
            ("fields=.", id.clone()),
            ("fields=role.", id.clone()),
            ("fields=a.b.c.d.e.f.g.h.i.j.k.l.m", id.clone()),
            ("fields=[\"id\",\"email\"]", id.clone()),
            ("fields=$FOLLOW(x,y).*", id.clone()),
            // The other parameters are for many users.
            ("filter[email][_eq]=x", all.clone()),
            ("filter={bad", all.clone()),
            ("deep={\"role\":{\"_limit\":1}}", all.clone()),
            ("sort=nonsense", all.clone()),
            ("meta=*&limit=x&page=-1&offset=1&search=x", all.clone()),
            ("alias[foo]=email", all.clone()),
            (
                "fields=id&filter={}&deep[role][_sort]=x&export=json&version=x",
                id.clone(),
            ),
            ("fieldset=id", all.clone()),
            ("fields[x]=id", all.clone()),
        ];
        for (query, wanted) in table {
            assert_eq!(me(&format!("?{query}")).await, wanted, "{query}");
        }
    }
);

both_stores!(only_the_mode_json_is_offered, async |store: TestStore| {
    let mut genie = TestGenie::start(store).await;
    let ada = genie.user("ada").await;
    let login = |mode: Value| json!({"email": "ada@example.com", "password": password("ada"), "mode": mode});
    let token = |mode: Value| json!({"refresh_token": ada.refresh, "mode": mode});
    for mode in ["cookie", "session", "JSON", "carrier pigeon"] {
        for (route, body) in [
            ("/auth/login", login(mode.into())),
            ("/auth/refresh", token(mode.into())),
            ("/auth/logout", token(mode.into())),
        ] {
            let refused = genie.send(Method::POST, route, &[], Some(body)).await;
            assert!(refused.headers.get("set-cookie").is_none());
            let sentence = refused.json["errors"][0]["message"]
                .as_str()
                .unwrap()
                .to_owned();
            refused.refused_by_identity(400, "INVALID_PAYLOAD");
            assert!(sentence.contains("`json`"), "{sentence}");
            assert!(!sentence.contains("carrier"), "{sentence}");
        }
    }
    for mode in [json!("json"), Value::Null] {
        let opened = genie
            .send(Method::POST, "/auth/login", &[], Some(login(mode)))
            .await;
        assert_eq!(opened.status, 200, "{:?}", opened.json);
    }
});

/// The token with another head, other claims and another signature.
fn tampered(
    user: &TestUser,
    head: Option<Value>,
    change: &dyn Fn(&mut Value),
    key: &[u8],
) -> String {
    let payload = user.token.split('.').nth(1).unwrap();
    let mut claims: Value = serde_json::from_slice(&BASE64.decode(payload).unwrap()).unwrap();
    change(&mut claims);
    match head {
        Some(head) => format!(
            "{}.{}.",
            BASE64.encode(head.to_string()),
            BASE64.encode(claims.to_string())
        ),
        None => encode(
            &Header::new(Algorithm::HS256),
            &claims,
            &EncodingKey::from_secret(key),
        )
        .unwrap(),
    }
}

both_stores!(
    a_forged_token_has_its_own_code_on_the_routes_of_directus,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let (head, rest) = ada.token.split_once('.').unwrap();
        let payload = rest.split('.').next().unwrap();
        let stranger = b"another key";
        let unchanged = |_: &mut Value| {};
        let forged = [
            tampered(&ada, None, &unchanged, stranger),
            tampered(&ada, None, &|claims| claims["exp"] = json!(1), stranger),
            tampered(
                &ada,
                None,
                &|claims| claims["nbf"] = json!(i32::MAX),
                stranger,
            ),
            tampered(
                &ada,
                Some(json!({"alg": "none", "typ": "JWT"})),
                &unchanged,
                stranger,
            ),
            format!("{head}.{payload}.{}", "A".repeat(43)),
            format!("{head}.{payload}.x"),
        ];
        let no_token = [
            tampered(
                &ada,
                None,
                &|claims| claims["iss"] = json!("somebody"),
                stranger,
            ),
            format!("{head}.{payload}"),
            "nonsense".to_owned(),
            "a.b.c".to_owned(),
        ];
        let change = json!({"first_name": "Eve"});
        for (tokens, status, code) in [
            (&forged[..], 403, "INVALID_TOKEN"),
            (&no_token[..], 401, "INVALID_CREDENTIALS"),
        ] {
            for token in tokens {
                let bearer = [("Authorization", format!("Bearer {token}"))];
                for (method, path, body) in [
                    (Method::GET, "/users/me", None),
                    (Method::PATCH, "/users/me", Some(change.clone())),
                    (
                        Method::POST,
                        "/users/me/tfa/generate",
                        Some(json!({"password": "x"})),
                    ),
                ] {
                    genie
                        .send(method, path, &bearer, body)
                        .await
                        .refused_by_identity(status, code);
                }
                genie
                    .send(Method::GET, "/api/usage", &bearer, None)
                    .await
                    .refused(401, "invalid_token");
            }
        }
    }
);

both_stores!(
    unknown_routes_answer_in_the_shape_of_the_routes_beside_them,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        for (method, path) in [
            (Method::GET, "/auth/nonsense"),
            (Method::GET, "/auth/login"),
            (Method::DELETE, "/auth/login"),
            (Method::POST, "/auth/login/google"),
            (Method::GET, "/auth/"),
            (Method::GET, "/users"),
            (Method::POST, "/users/register"),
            (Method::POST, "/users/invite"),
            (Method::DELETE, "/users/me/tfa/enable"),
            (Method::POST, "/users/me/nonsense"),
            (Method::GET, "/users/0192d4e0-7f3a-7c3b-8f4e-0123456789ab"),
        ] {
            let body = (method != Method::GET).then(|| json!({}));
            genie
                .send(method, path, &ada.headers(), body)
                .await
                .refused_by_identity(404, "ROUTE_NOT_FOUND");
        }
        for path in ["/authority", "/usersx/me", "/api/users/me", "/items/x", "/"] {
            genie
                .send(Method::DELETE, path, &ada.headers(), None)
                .await
                .refused(404, "no_such_route");
        }
        let providers = genie.send(Method::GET, "/auth", &[], None).await;
        assert_eq!(providers.json, json!({"data": [], "disableDefault": false}));
    }
);

both_stores!(
    the_taxonomy_cache_is_emptied_by_administrators_and_servers,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let admin = genie.user("admin").await;
        let ada = genie.user("ada").await;
        let path = "/api/queue/taxonomy/invalidate";
        let stats = genie
            .send(Method::GET, "/api/queue/stats", &[], None)
            .await
            .ok();
        assert_eq!(stats["taxonomy_cache"]["size"], 0);
        for cleared in [
            genie.server(path, json!({})).await.ok(),
            genie
                .server(path, json!({"reason": "new terms"}))
                .await
                .ok(),
            admin.post(&genie, path, json!({})).await.ok(),
            genie
                .send(Method::POST, path, &admin.headers(), None)
                .await
                .ok(),
        ] {
            assert_eq!(cleared["cleared"], 0);
        }
        ada.post(&genie, path, json!({}))
            .await
            .refused(403, "forbidden");
        genie
            .send(Method::POST, path, &[], None)
            .await
            .refused(401, "invalid_token");
        let wrong = [("X-RBAC-SYNC-SECRET", "wrong".to_owned())];
        genie
            .send(Method::POST, path, &wrong, None)
            .await
            .refused(401, "invalid_token");
    }
);
