use genie_events::{Metadata, user::reveal::RevealRight};
use genie_log::{
    Opened,
    testing::{TestStore, both_stores},
};

use super::*;
use crate::{Caller, users::tests::node};

both_stores!(
    a_stored_secret_is_shown_to_its_owner_and_to_callers_with_a_right,
    async |store: TestStore| {
        let Opened { log, append, vault } = store.open().await;
        let ada = store.register(&log, "ada").await;
        let credentials = Credentials::new(append.clone(), node(&log), Vault::new(vault));
        let put = async |text: &str| {
            let kind = CredentialKind::Session;
            let expires_at = Some(Timestamp(1));
            let holding = CredentialDetails {
                kind,
                platform: PlatformName::read("x").unwrap(),
                platform_username: None,
                expires_at,
            };
            let secret =
                Plaintext::of("cookies", &json!({"cookies": text}), MAX_COOKIE_BYTES).unwrap();
            credentials
                .store(ada, Metadata::system(), StoreTarget::For(holding), secret)
                .await
                .unwrap()
        };
        let (first, again) = (put("one").await, put("two").await);
        assert_eq!(
            (again.id, first.updated, again.updated),
            (first.id, false, true)
        );
        let ask = async |right| {
            let ask = SecretRequest {
                named: CredentialRef::Id(first.id),
                kinds: &CredentialKind::ALL,
                right,
                purpose: None,
            };
            credentials.reveal(&Caller::shared_secret("r"), ask).await
        };
        assert_eq!(
            ask(RevealRight::Own).await.unwrap().plaintext.expose(),
            br#"{"cookies":"two"}"#
        );
        for (right, code) in [
            (RevealRight::Every, "session_expired"),
            (RevealRight::None, "scope_needed"),
        ] {
            let Err(WriteError::Refused(refused)) = ask(right).await else {
                panic!("{code}")
            };
            assert_eq!(refused.code, code);
        }
    }
);

#[test]
fn a_secret_is_as_large_as_it_may_be_and_no_larger() {
    let of = |bytes: usize| Plaintext::of("credentials", &"a".repeat(bytes), 100);
    assert_eq!(of(98).unwrap().expose().len(), 100);
    let refused = of(99).unwrap_err();
    assert!(
        refused.sentence.contains("`credentials`") && refused.sentence.contains("100 bytes"),
        "{}",
        refused.sentence
    );
}
