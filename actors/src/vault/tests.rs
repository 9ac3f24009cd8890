use genie_events::{Metadata, user::reveal::Right};
use genie_log::{
    Opened,
    testing::{TestStore, both_stores},
};
use uuid::Uuid;

use super::*;
use crate::{Caller, users::tests::node};

fn holding(kind: CredentialKind) -> Holding {
    Holding { kind, platform: "x".into(), platform_username: None, expires_at: None }
}

fn secret(text: &str) -> Plaintext {
    Plaintext::of("credentials", &json!({"password": text}), MAX_SECRET_BYTES).unwrap()
}

fn refused(error: WriteError) -> &'static str {
    let WriteError::Refused(refusal) = error else { panic!("{error:?}") };
    refusal.code
}

both_stores!(a_credential_that_is_brought_in_keeps_its_id_and_is_never_another_user_s, async |store: TestStore| {
    let Opened { log, vault } = store.open().await;
    let (ada, bob) = (store.register(&log, "ada").await, store.register(&log, "bob").await);
    let (users, vault) = (node(&log), Vault::new(log, vault));
    let id = CredentialId(Uuid::from_u128(42));
    let put = async |user, target, text: &str| vault.store(&users, user, Metadata::system(), target, secret(text)).await;
    let imported = |kind| Target::Imported(id, holding(kind));
    let first = put(ada, imported(CredentialKind::Profile), "one").await.unwrap();
    assert_eq!((first.id, first.updated), (id, false));
    let again = put(ada, Target::For(holding(CredentialKind::Profile)), "two").await.unwrap();
    assert_eq!((again.id, again.updated), (id, true));
    for kind in [CredentialKind::Profile, CredentialKind::Cookies] {
        assert_eq!(refused(put(ada, imported(kind), "three").await.unwrap_err()), "not_imported");
    }
    assert_eq!(refused(put(bob, imported(CredentialKind::Profile), "three").await.unwrap_err()), "credential_exists");

    let named = Named::Id(id);
    let ask = Ask { named, kinds: &[CredentialKind::Profile], right: Right::Every, purpose: None };
    let shown = vault.reveal(&users, &Caller::shared_secret("r"), ask).await.unwrap();
    assert_eq!(shown.plaintext.expose(), br#"{"password":"two"}"#);
});

#[test]
fn a_secret_is_as_large_as_it_may_be_and_no_larger() {
    let of = |bytes: usize| Plaintext::of("credentials", &"a".repeat(bytes), 100);
    assert_eq!(of(98).unwrap().expose().len(), 100);
    let refused = of(99).unwrap_err();
    assert!(refused.sentence.contains("`credentials`") && refused.sentence.contains("100 bytes"), "{}", refused.sentence);
}
