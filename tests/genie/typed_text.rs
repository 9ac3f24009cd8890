//! Text that people type, or paste from pages and other screens: what looks the same is the same,
//! and what can't be meant is refused before anything is spent.

use genie_log::testing::{TestStore, both_stores};
use reqwest::Method;
use serde_json::{Value, json};
use totp_rs::{Builder, Secret};

use crate::{
    fake_ollama::Step,
    test_genie::{Answer, FIRST_INVITE, TestGenie, password},
};

/// An address as somebody registers with it, and other spellings of it.
const ADDRESSES: [(&str, &[&str]); 4] = [
    (
        // With the marks that messengers put around an address.
        "\u{feff}\u{202a}Grace@Example.com\u{202c}\n",
        &[
            "grace@example.com",
            " GRACE@EXAMPLE.COM ",
            "gra\u{200b}ce@example.com",
            "grace@exam\u{ad}ple.com",
            "gr\u{2060}ace@example.com\u{200f}",
            "grace\u{fe0f}@example.com\u{3164}",
            "mailto:grace@example.com",
            "<grace@example.com>",
            "grace@example.com.",
            "\u{ff47}race\u{ff20}example\u{ff0e}com",
        ],
    ),
    (
        // A Mac's file names and forms have accents apart from their letters.
        "jose\u{301}@example.com",
        &[
            "jos\u{e9}@example.com",
            "JOS\u{c9}@example.com",
            "JOSE\u{301}@example.com",
        ],
    ),
    (
        "eve@b\u{fc}cher.example",
        &[
            "eve@xn--bcher-kva.example",
            "eve@XN--BCHER-KVA.EXAMPLE",
            "eve@bu\u{308}cher.example",
            "eve@B\u{dc}CHER.example",
            "eve@b\u{fc}cher\u{3002}example",
        ],
    ),
    (
        "kim@xn--r8jz45g.jp",
        &[
            "kim@\u{4f8b}\u{3048}.jp",
            "kim@\u{4f8b}\u{3048}\u{ff0e}jp",
            "kim@\u{4f8b}\u{200b}\u{3048}.jp",
        ],
    ),
];

/// Text that is no address, with the words of the refusal.
const NO_ADDRESSES: [(&str, &str); 8] = [
    ("", "such as name@example.com"),
    ("canary", "such as name@example.com"),
    ("\u{200b}@canary.com", "such as name@example.com"),
    ("canary\u{a0}one@example.com", "white space"),
    ("canary@exam\u{2800}ple.com", "white space"),
    ("Canary <canary@example.com>", "white space"),
    ("canary@example.com;b@example.com", "one e-mail address"),
    ("canary@-example.com", "domain"),
];

async fn register(genie: &TestGenie, email: &str, code: &str) -> Answer {
    let body = json!({"email": email, "password": password("x"), "inviteCode": code, "firstName": "\u{202e}Zoe\u{308} "});
    genie
        .send(Method::POST, "/api/register", &[], Some(body))
        .await
}

async fn log_in(genie: &TestGenie, login: Value) -> Answer {
    genie
        .send(Method::POST, "/auth/login", &[], Some(login))
        .await
}

both_stores!(
    an_address_is_one_account_however_it_is_spelled,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let invites = ada
            .post(
                &genie,
                "/api/admin/invites",
                json!({"count": ADDRESSES.len() + 1}),
            )
            .await
            .ok();
        let code = |n: usize| invites["data"][n]["code"].as_str().unwrap().to_owned();
        for (n, (written, spellings)) in ADDRESSES.into_iter().enumerate() {
            register(&genie, written, &code(n)).await.ok();
            for spelling in spellings.iter().chain([&written]) {
                let login = json!({"email": spelling, "password": password("x")});
                let answer = log_in(&genie, login).await;
                assert_eq!(answer.status, 200, "{spelling:?}: {:?}", answer.json);
                register(&genie, spelling, &code(ADDRESSES.len()))
                    .await
                    .refused(409, "email_taken");
            }
        }
        for (text, reason) in NO_ADDRESSES {
            let refused = register(&genie, text, &code(ADDRESSES.len()))
                .await
                .refused(400, "invalid_field");
            let sentence = refused["error"].as_str().unwrap();
            assert!(
                sentence.starts_with("`email` ") && sentence.contains(reason),
                "{text:?}: {sentence}"
            );
            assert!(!sentence.to_lowercase().contains("canary"), "{sentence}");
            let login = json!({"email": text, "password": password("x")});
            log_in(&genie, login)
                .await
                .refused_by_identity(401, "INVALID_CREDENTIALS");
        }
        // No refusal spent the invite. What is shown is what was typed, without what nobody sees.
        register(
            &genie,
            " Zo\u{eb}@Example.com\u{200e}",
            &code(ADDRESSES.len()),
        )
        .await
        .ok();
        let login = json!({"email": "zo\u{eb}@example.com", "password": password("x")});
        let logged_in = log_in(&genie, login).await.json;
        let token = logged_in["data"]["access_token"].as_str().unwrap();
        let bearer = [("Authorization", format!("Bearer {token}"))];
        let me = genie
            .send(Method::GET, "/users/me", &bearer, None)
            .await
            .json;
        assert_eq!(
            (&me["data"]["email"], &me["data"]["first_name"]),
            (&json!("Zo\u{eb}@Example.com"), &json!("Zo\u{eb}"))
        );
        // A new address is read the same way.
        let change = json!({"email": "eve@bu\u{308}cher.example", "old_password": password("x")});
        let taken = genie
            .send(Method::PATCH, "/users/me", &bearer, Some(change))
            .await;
        taken.refused_by_identity(400, "RECORD_NOT_UNIQUE");
    }
);

both_stores!(a_password_stays_byte_for_byte, async |store: TestStore| {
    let mut genie = TestGenie::start(store).await;
    let ada = genie.user("ada").await;
    let invites = ada.post(&genie, "/api/admin/invites", json!({})).await.ok();
    let given = " pa\u{200b}sse\u{301} \u{feff}";
    let body = json!({
        "email": "grace@example.com", "password": given, "inviteCode": invites["data"][0]["code"],
    });
    genie
        .send(Method::POST, "/api/register", &[], Some(body))
        .await
        .ok();
    for (tried, is_right) in [
        (given, true),
        (given.trim(), false),
        ("pass\u{e9}", false),
        (" pa\u{200b}ss\u{e9} \u{feff}", false),
        (" passe\u{301} \u{feff}", false),
    ] {
        let login = json!({"email": "grace@example.com", "password": tried});
        let status = log_in(&genie, login).await.status;
        assert_eq!(status == 200, is_right, "{tried:?}");
    }
});

both_stores!(
    codes_are_taken_as_screens_show_them_and_keyboards_type_them,
    async |store: TestStore| {
        let genie = TestGenie::start(store).await;
        let typed = FIRST_INVITE.to_uppercase().replace('-', "\u{2011} ");
        let ada = genie.register("ada", &format!("\u{feff}{typed}\n")).await;
        let invites = ada
            .post(&genie, "/api/admin/invites", json!({"count": 5}))
            .await
            .ok();
        for (n, spelled) in [
            (|code: &str| code.to_uppercase()) as fn(&str) -> String,
            |code| format!(" {}-{} ", &code[..10], &code[10..]),
            |code| format!("{}\u{2013}{}\u{a0}{}", &code[..4], &code[4..8], &code[8..]),
            |code| code.chars().map(|c| format!("{c}\u{200b}")).collect(),
        ]
        .into_iter()
        .enumerate()
        {
            let code = spelled(invites["data"][n]["code"].as_str().unwrap());
            register(&genie, &format!("user{n}@example.com"), &code)
                .await
                .ok();
        }
        for none in ["", " - ", "\u{200b}", "no-such-code"] {
            let refused = register(&genie, "zoe@example.com", none)
                .await
                .refused(400, "invalid_field");
            assert!(
                refused["error"].as_str().unwrap().contains("invite"),
                "{none:?}"
            );
        }
        let last = invites["data"][4]["code"].as_str().unwrap().to_uppercase();
        let path = format!("/api/admin/invites/{}%20{}", &last[..10], &last[10..]);
        ada.delete(&genie, &path).await.ok();
        register(&genie, "zoe@example.com", &last)
            .await
            .refused(400, "invalid_field");

        let tfa = async |route: &str, body: Value| {
            ada.post(&genie, &format!("/users/me/tfa/{route}"), body)
                .await
        };
        let made = tfa("generate", json!({"password": password("ada")}))
            .await
            .json;
        let secret = made["data"]["secret"].as_str().unwrap().to_owned();
        let totp = Builder::new()
            .with_secret(Secret::try_from_base32(&secret).unwrap())
            .build()
            .unwrap();
        let code = || {
            let now = genie.clock.now().unix_seconds();
            totp.generate(u64::try_from(now).unwrap()).to_string()
        };
        let shown: Vec<&str> = (0..8).map(|n| &secret[4 * n..4 * n + 4]).collect();
        let typed = format!("{}====", shown.join(" ").to_lowercase());
        let now = code();
        let enabled = tfa(
            "enable",
            json!({"secret": typed, "otp": format!(" {} {}", &now[..3], &now[3..])}),
        )
        .await;
        assert_eq!(enabled.status, 204, "{:?}", enabled.json);
        for spelled in [
            (|code: &str| format!("{}-{}\n", &code[..3], &code[3..])) as fn(&str) -> String,
            |code| format!("{}\u{202f}{}", &code[..3], &code[3..]),
            |code| code.chars().map(arabic).collect(),
            |code| format!("\u{200e}{code}\u{200e}"),
        ] {
            genie.clock.advance_millis(30_000);
            let login = json!({
                "email": "ada@example.com", "password": password("ada"), "otp": spelled(&code()),
            });
            let answer = log_in(&genie, login).await;
            assert_eq!(answer.status, 200, "{:?}", answer.json);
        }
        genie.clock.advance_millis(30_000);
        let login = json!({"email": "ada@example.com", "password": password("ada"), "otp": format!("{}.", code())});
        log_in(&genie, login)
            .await
            .refused_by_identity(401, "INVALID_OTP");

        let path = format!("/api/admin/users/{}/password-reset", ada.id);
        let offered = ada.post(&genie, &path, json!({})).await.ok();
        let token = offered["token"].as_str().unwrap();
        // A mail program broke the line.
        let pasted = format!(" {}\r\n {}\u{200b}\n", &token[..30], &token[30..]);
        let reset = json!({"token": pasted, "password": "another password"});
        let answer = genie
            .send(Method::POST, "/auth/password/reset", &[], Some(reset))
            .await;
        assert_eq!(answer.status, 204, "{:?}", answer.json);
    }
);

/// The digit that an Arabic keyboard types.
fn arabic(digit: char) -> char {
    char::from_u32(u32::from(digit) - u32::from('0') + 0x660).unwrap()
}

both_stores!(
    a_platform_and_a_name_on_it_are_one_however_they_are_spelled,
    async |store: TestStore| {
        let mut genie = TestGenie::start(store).await;
        let ada = genie.user("ada").await;
        let store_profile = async |platform: &str, name: &str| {
            let body = json!({"platform": platform, "platform_username": name, "credentials": {"password": " \u{200b}p"}});
            ada.post(&genie, "/api/credentials/create-profile", body)
                .await
        };
        for (platform, name, others) in [
            (
                "\u{feff}OnlyFans",
                "Jose\u{301}",
                [
                    ("onlyfans\u{200b}", "Jos\u{e9}"),
                    (" ONLYFANS\u{a0}", "\u{202a}Jos\u{e9}\u{202c}"),
                    ("only\u{ad}fans", "Jos\u{e9}\u{2800}"),
                ],
            ),
            (
                "caf\u{e9} noir",
                "ada  b",
                [
                    ("CAFE\u{301} NOIR", "ada b"),
                    ("caf\u{e9}\u{a0}noir", "ada\u{3000}b"),
                    ("caf\u{e9}\u{2003}noir", "ada\u{200d} b"),
                ],
            ),
            (
                "x",
                "",
                [
                    ("X", "\u{200b}"),
                    ("x", " \u{3164}"),
                    ("x\u{fe0f}", "\u{2800}"),
                ],
            ),
        ] {
            let stored = store_profile(platform, name).await.ok();
            assert_eq!(stored["updated"], false);
            for (platform, name) in others {
                let again = store_profile(platform, name).await.ok();
                assert_eq!(
                    (&again["id"], &again["updated"]),
                    (&stored["id"], &json!(true)),
                    "{platform:?} {name:?}"
                );
            }
        }
        // Joiners that are seen stay: an emoji of several, and a Persian word.
        for name in [
            "\u{1f469}\u{200d}\u{1f4bb}",
            "\u{645}\u{6cc}\u{200c}\u{62e}\u{648}\u{627}\u{647}\u{645}",
        ] {
            let stored = store_profile("fansly", name).await.ok();
            let path = format!("/api/credentials/{}", stored["id"].as_str().unwrap());
            genie.settle().await;
            assert_eq!(ada.get(&genie, &path).await.ok()["platform_username"], name);
        }
        for (platform, name, field) in [
            ("", "canary", "platform"),
            (" \u{200b}\u{2800}", "canary", "platform"),
            ("canary\u{1}", "a", "platform"),
            (&"canary".repeat(11), "a", "platform"),
            ("x", "canary\u{1b}[31m", "platform_username"),
            ("x", &"canary".repeat(34), "platform_username"),
        ] {
            let refused = store_profile(platform, name)
                .await
                .refused(400, "invalid_field");
            let sentence = refused["error"].as_str().unwrap();
            assert!(sentence.starts_with(&format!("`{field}` ")), "{sentence}");
            assert!(!sentence.contains("canary"), "{sentence}");
        }
        // A worker asks with its own spelling. The secret itself is as it was given.
        let login = json!({
            "platform": "YouTube", "kind": "password", "username": "ada\u{200b} ", "password": " \u{200b}p",
        });
        ada.post(&genie, "/api/credentials/download-cred", login)
            .await
            .ok();
        let asked = json!({"userId": ada.id, "platform": " you\u{200b}tube"});
        let shown = genie
            .server("/api/credentials/reveal-download-cred", asked)
            .await
            .ok();
        assert_eq!(
            (&shown["username"], &shown["password"], &shown["platform"]),
            (&json!("ada"), &json!(" \u{200b}p"), &json!("youtube"))
        );
        // A caption's platform and a chat's session are compared, too.
        genie.ollama.script("hi", &[Step::Say("hello"), Step::Done]);
        ada.ask(&genie, "cafe\u{301} ", "hi").await.rest().await;
        genie.settle().await;
        assert_eq!(ada.messages(&genie, "caf%C3%A9").await.len(), 2);
    }
);

both_stores!(
    roles_and_names_of_service_keys_are_read_as_they_look,
    async |store: TestStore| {
        let roles = "Cre\u{301}atrice, VIP club";
        let mut genie = TestGenie::start_with(store, &[("GENIE_ROLES", roles.to_owned())]).await;
        let (admin, ada) = (genie.user("root").await, genie.user("ada").await);
        for (sent, role) in [
            ("creator", Some("creator")),
            (" creator\n", Some("creator")),
            ("\u{feff}cre\u{200b}ator\u{ad}", Some("creator")),
            ("\u{202a}administrator\u{202c}", Some("administrator")),
            // As the operator spelled it.
            ("Cr\u{e9}atrice", Some("Cre\u{301}atrice")),
            ("Cre\u{301}atrice ", Some("Cre\u{301}atrice")),
            ("VIP\u{a0}\u{2003}club", Some("VIP club")),
            ("VIPclub", None),
            ("vip club", None),
            ("Creatrice", None),
            ("cre\u{7}ator", None),
            ("\u{200b}", None),
            ("", None),
        ] {
            let sync = json!({"userId": ada.id, "role": sent});
            let synced = genie.server("/api/rbac-sync", sync).await;
            let invite = json!({"role": sent});
            let invite = admin.post(&genie, "/api/admin/invites", invite).await;
            let Some(role) = role else {
                synced.refused(400, "invalid_field");
                invite.refused(400, "invalid_field");
                continue;
            };
            synced.ok();
            assert_eq!(invite.ok()["data"][0]["role"], role, "{sent:?}");
            genie.settle().await;
            let me = ada.get(&genie, "/users/me?fields=role").await.json;
            assert_eq!(me["data"]["role"], role, "{sent:?}");
        }

        let long = "n".repeat(101);
        for (sent, name) in [
            ("dashboard", Some("dashboard")),
            (" \u{feff}dash\u{200b}board \n", Some("dashboard")),
            ("Jose\u{301}'s\u{a0}\u{2003}key", Some("Jos\u{e9}'s key")),
            (
                "\u{1f469}\u{200d}\u{1f4bb}",
                Some("\u{1f469}\u{200d}\u{1f4bb}"),
            ),
            ("two\nlines", None),
            ("\u{3164}\u{2800}", None),
            ("", None),
            (long.as_str(), None),
        ] {
            let key = json!({"name": sent, "scopes": ["audit:read"]});
            let made = admin.post(&genie, "/api/admin/service-keys", key).await;
            match name {
                Some(name) => assert_eq!(made.ok()["name"], name, "{sent:?}"),
                None => drop(made.refused(400, "invalid_field")),
            }
        }
        let listed = admin.get(&genie, "/api/admin/service-keys").await.ok();
        let names = listed["data"].as_array().unwrap().iter();
        let names: Vec<_> = names.map(|key| key["name"].clone()).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(names.contains(&json!("Jos\u{e9}'s key")), "{names:?}");
    }
);
