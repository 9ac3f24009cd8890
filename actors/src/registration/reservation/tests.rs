use genie_events::tier::Tier;
use genie_log::{
    Log,
    testing::{TestStore, both_stores},
};

use super::*;
use crate::vault::Vault;

const ADDRESS: &str = "Ada@Example.com";

fn address(text: &str) -> EmailAddress {
    EmailAddress::read(text).unwrap()
}

async fn register(store: &TestStore) -> (Log, Registrar, InviteCode) {
    let opened = store.open().await;
    let register = Registrar::new(opened.append, Vault::new(opened.vault));
    let grant = Grant {
        tier: Tier::Pro,
        role: "creator".into(),
        admin: false,
        expires_at: None,
    };
    let code = register
        .invites()
        .make(1, grant, Metadata::system())
        .await
        .unwrap()
        .codes
        .remove(0);
    (opened.log, register, code)
}

fn ada() -> ProvidedUser {
    ProvidedUser {
        email: ADDRESS.into(),
        first_name: Some("Ada".into()),
        role: "creator".into(),
    }
}

async fn code_of<T: std::fmt::Debug>(refused: Result<T, WriteError>) -> &'static str {
    match refused.unwrap_err() {
        WriteError::Refused(refusal) => refusal.code,
        other => panic!("{other}"),
    }
}

both_stores!(
    a_reservation_is_spent_once_and_by_its_user,
    async |store: TestStore| {
        let (log, register, code) = register(&store).await;
        let reserved = register
            .reserve(&address(ADDRESS), &code, 600, Metadata::system())
            .await
            .unwrap();
        let again = register
            .reserve(&address("ada@example.com "), &code, 600, Metadata::system())
            .await;
        assert_eq!(code_of(again).await, "registration_under_way");
        assert_eq!(
            code_of(register.invites().grant(&code).await).await,
            "registration_under_way"
        );
        assert_eq!(
            register.reserved(0).await.unwrap(),
            std::slice::from_ref(&reserved)
        );
        assert_eq!(register.reserved(reserved.position).await.unwrap(), []);
        let user = reserved.reservation.user;
        assert!(
            register
                .reserved_for(user, &address(ADDRESS))
                .await
                .unwrap()
                .is_some()
        );

        let spent = register
            .spend(&reserved, &ada(), Metadata::system())
            .await
            .unwrap();
        let facts = log.reader().head();
        let twice = register
            .spend(&reserved, &ada(), Metadata::system())
            .await
            .unwrap();
        assert_eq!(
            (spent.user, twice.user, log.reader().head()),
            (user, user, facts)
        );
        register
            .release(&reserved, Metadata::system())
            .await
            .unwrap();
        assert_eq!(
            log.reader().head(),
            facts,
            "what is spent is not given back"
        );
        assert_eq!(
            register.emails().holder(&address(ADDRESS)).await.unwrap(),
            Some(user)
        );
        assert_eq!(register.reserved(0).await.unwrap(), []);
    }
);

both_stores!(
    a_released_reservation_may_be_made_again_and_not_spent,
    async |store: TestStore| {
        let (_, register, code) = register(&store).await;
        let first = register
            .reserve(&address(ADDRESS), &code, 600, Metadata::system())
            .await
            .unwrap();
        register.release(&first, Metadata::system()).await.unwrap();
        let late = register.spend(&first, &ada(), Metadata::system()).await;
        assert_eq!(code_of(late).await, "reservation_gone");
        let second = register
            .reserve(&address(ADDRESS), &code, 600, Metadata::system())
            .await
            .unwrap();
        register.release(&first, Metadata::system()).await.unwrap();
        assert_eq!(
            register.reserved(0).await.unwrap().len(),
            1,
            "one that is gone can't give back another's"
        );
        register
            .spend(&second, &ada(), Metadata::system())
            .await
            .unwrap();
    }
);

both_stores!(
    somebody_met_meanwhile_keeps_the_account_they_have,
    async |store: TestStore| {
        let (log, register, code) = register(&store).await;
        let reserved = register
            .reserve(&address(ADDRESS), &code, 600, Metadata::system())
            .await
            .unwrap();
        let user = reserved.reservation.user;
        let who = genie_events::account::ExternalAccount {
            email: None,
            email_id: None,
            first_name: None,
            tier: Tier::Starter,
            role: "creator".into(),
            admin: false,
            onboarding: Default::default(),
            active: true,
        };
        register
            .register_external(user, who, Metadata::system())
            .await
            .unwrap();
        register
            .spend(&reserved, &ada(), Metadata::system())
            .await
            .unwrap();
        assert_eq!(log.reader().user_seq(user).await.unwrap(), 1);
        assert_eq!(
            register.emails().holder(&address(ADDRESS)).await.unwrap(),
            Some(user)
        );
    }
);

both_stores!(
    one_of_many_with_the_same_invite_registers,
    async |store: TestStore| {
        let (_, register, code) = register(&store).await;
        let mut tries = tokio::task::JoinSet::new();
        for n in 0..8 {
            let register = register.clone();
            let code = code.clone();
            tries.spawn(async move {
                let reserved = register
                    .reserve(
                        &address(&format!("user{n}@example.com")),
                        &code,
                        600,
                        Metadata::system(),
                    )
                    .await;
                reserved.is_ok()
            });
        }
        assert_eq!(
            tries
                .join_all()
                .await
                .into_iter()
                .filter(|got| *got)
                .count(),
            1
        );
        assert_eq!(register.reserved(0).await.unwrap().len(), 1);
    }
);

both_stores!(
    an_address_that_was_changed_elsewhere_is_followed_and_the_former_one_free,
    async |store: TestStore| {
        let (log, register, code) = register(&store).await;
        let reserved = register
            .reserve(&address(ADDRESS), &code, 600, Metadata::system())
            .await
            .unwrap();
        let user = reserved.reservation.user;
        register
            .spend(&reserved, &ada(), Metadata::system())
            .await
            .unwrap();
        for _ in 0..2 {
            register
                .emails()
                .change(user, &address("ada@elsewhere.example"), Metadata::system())
                .await
                .unwrap();
            assert_eq!(log.reader().user_seq(user).await.unwrap(), 2);
        }
        assert_eq!(
            register.emails().holder(&address(ADDRESS)).await.unwrap(),
            None
        );
        assert_eq!(
            register
                .emails()
                .holder(&address("ADA@elsewhere.example"))
                .await
                .unwrap(),
            Some(user)
        );
        let other = store.register(&log, "bob").await;
        let taken = register
            .emails()
            .change(other, &address("ada@elsewhere.example"), Metadata::system())
            .await;
        assert_eq!(code_of(taken).await, "email_taken");
        // The address is freed by its holder only, and once.
        for (holder, left) in [(other, Some(user)), (user, None), (user, None)] {
            register
                .emails()
                .release(
                    &address("Ada@elsewhere.example"),
                    holder,
                    Metadata::system(),
                )
                .await
                .unwrap();
            assert_eq!(
                register
                    .emails()
                    .holder(&address("ada@elsewhere.example"))
                    .await
                    .unwrap(),
                left
            );
        }
        assert!(
            matches!(register.reserve(&address("ada@elsewhere.example"), &code, 600, Metadata::system()).await,
        Err(WriteError::Refused(refusal)) if refusal.code != "email_taken"),
            "the invite is spent, the address free"
        );
    }
);
