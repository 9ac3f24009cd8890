#![allow(clippy::too_many_lines)] // a story is read from its beginning to its end

use cqrs_es::test::TestFramework;

use super::*;
use crate::ids::InviteId;

type Given = TestFramework<Account>;

fn ada() -> Registration {
    Registration {
        email: "ada@example.com".into(),
        email_id: EmailId(uuid::Uuid::from_u128(1)),
        first_name: None,
        invite: InviteId(uuid::Uuid::from_u128(1)),
        tier: Tier::Starter,
        role: "creator".into(),
        admin: false,
    }
}
fn advance(to: Onboarding, privileged: bool) -> AccountCommand {
    ProfileCommand::AdvanceOnboarding { to, privileged }.into()
}

#[test]
fn somebody_registers_once() {
    let registered = AccountEvent::Registered(ada());
    Given::with(())
        .given_no_previous_events()
        .when(LifecycleCommand::Register(ada()).into())
        .then_expect_events(vec![registered.clone()]);
    let again = Given::with(())
        .given(vec![registered])
        .when(LifecycleCommand::Register(ada()).into())
        .inspect_result();
    assert_eq!(again.unwrap_err().code, "already_registered");
}

#[test]
fn onboarding_goes_one_step_forward_and_only_genie_completes_it() {
    let registered = AccountEvent::Registered(ada());
    Given::with(())
        .given(vec![registered.clone()])
        .when(advance(Onboarding::DataCollection, false))
        .then_expect_events(vec![AccountEvent::OnboardingAdvanced {
            to: Onboarding::DataCollection,
        }]);
    let jump = Given::with(())
        .given(vec![registered.clone()])
        .when(advance(Onboarding::Complete, false))
        .inspect_result();
    assert_eq!(jump.unwrap_err().code, "onboarding_order");
    let processing = vec![
        registered,
        AccountEvent::OnboardingAdvanced {
            to: Onboarding::Processing,
        },
    ];
    let user = Given::with(())
        .given(processing.clone())
        .when(advance(Onboarding::Complete, false))
        .inspect_result();
    assert_eq!(user.unwrap_err().code, "onboarding_order");
    Given::with(())
        .given(processing)
        .when(advance(Onboarding::Complete, true))
        .then_expect_events(vec![AccountEvent::OnboardingAdvanced {
            to: Onboarding::Complete,
        }]);
}

#[test]
fn a_suspended_user_may_not_act() {
    let given = vec![AccountEvent::Registered(ada()), AccountEvent::Suspended];
    let refused = Given::with(())
        .given(given)
        .when(ProfileCommand::SignIn.into())
        .inspect_result();
    assert_eq!(refused.unwrap_err().code, "suspended");
}

fn given(events: Vec<AccountEvent>) -> Account {
    let mut account = Account::Absent;
    events.into_iter().for_each(|event| account.evolve(event));
    account
}

fn registered(later: Vec<AccountEvent>) -> Account {
    given([vec![AccountEvent::Registered(ada())], later].concat())
}

#[test]
fn another_systems_account_data_is_accepted_in_any_status_and_once() {
    let wanted = AccountSync {
        role: Some("editor".into()),
        tier: Some(Tier::Pro),
        active: Some(false),
        ..AccountSync::default()
    };
    let mut account = registered(vec![]);
    let events = account
        .decide(LifecycleCommand::Sync(wanted.clone()))
        .unwrap();
    let expected = vec![
        AccountEvent::RoleChanged {
            role: "editor".into(),
            admin: false,
        },
        AccountEvent::TierChanged { tier: Tier::Pro },
        AccountEvent::Suspended,
    ];
    assert_eq!(events, expected);
    events.into_iter().for_each(|event| account.evolve(event));
    assert_eq!(
        account.decide(LifecycleCommand::Sync(wanted)),
        Ok(vec![]),
        "a repeat changes nothing"
    );
    let back = AccountSync {
        admin: Some(true),
        active: Some(true),
        ..AccountSync::default()
    };
    let expected = vec![
        AccountEvent::RoleChanged {
            role: "editor".into(),
            admin: true,
        },
        AccountEvent::Reactivated,
    ];
    assert_eq!(
        account.decide(LifecycleCommand::Sync(back.clone())),
        Ok(expected)
    );
    assert_eq!(
        Account::Absent
            .decide(LifecycleCommand::Sync(back))
            .unwrap_err()
            .code,
        "not_found"
    );
}

#[test]
fn a_user_who_is_met_is_what_the_other_system_says() {
    let acquaintance = ExternalAccount {
        email: Some("ada@example.com".into()),
        email_id: None,
        first_name: None,
        tier: Tier::Creator,
        role: "editor".into(),
        admin: true,
        onboarding: Onboarding::Complete,
        active: false,
    };
    let met = given(
        Account::Absent
            .decide(LifecycleCommand::Meet(acquaintance.clone()))
            .unwrap(),
    );
    let Account::Suspended(profile) = &met else {
        panic!("{met:?}")
    };
    assert_eq!(
        (profile.tier, profile.admin, profile.onboarding),
        (Tier::Creator, true, Onboarding::Complete)
    );
    assert_eq!(
        met.decide(LifecycleCommand::Meet(acquaintance))
            .unwrap_err()
            .code,
        "already_registered"
    );
}

#[test]
fn a_password_that_was_changed_after_it_was_checked_opens_nothing() {
    let mut account = registered(vec![]);
    let sign_in = |password| ProfileCommand::SignInByPassword {
        password,
        code: None,
    };
    assert_eq!(account.decide(sign_in(1)), Ok(vec![AccountEvent::SignedIn]));
    let changed = account
        .decide(ProfileCommand::ChangePassword { from: 1 })
        .unwrap();
    assert_eq!(changed, vec![AccountEvent::PasswordChanged { version: 2 }]);
    changed.into_iter().for_each(|event| account.evolve(event));
    assert_eq!(
        account.decide(sign_in(1)).unwrap_err().code,
        "wrong_password"
    );
    assert_eq!(
        account
            .decide(ProfileCommand::ChangePassword { from: 1 })
            .unwrap_err()
            .code,
        "wrong_password"
    );
    assert!(account.decide(sign_in(2)).is_ok());
}

#[test]
fn a_reset_link_works_once_in_its_time_and_until_another_is_given_out() {
    let link = |hash: &str| ResetLink {
        token_hash: hash.into(),
        expires_at: Timestamp(10),
    };
    let reset = |hash: &str, now| ProfileCommand::ResetPassword {
        token_hash: hash.into(),
        now: Timestamp(now),
    };
    let mut account = registered(vec![AccountEvent::PasswordResetOffered(link("a"))]);
    assert!(
        account
            .decide(reset("a", 10))
            .unwrap_err()
            .sentence
            .contains("expired")
    );
    assert!(account.decide(reset("b", 9)).is_err());
    account.evolve(AccountEvent::PasswordResetOffered(link("b")));
    assert!(account.decide(reset("a", 9)).is_err());
    let done = account.decide(reset("b", 9)).unwrap();
    assert_eq!(done, vec![AccountEvent::PasswordReset { version: 2 }]);
    done.into_iter().for_each(|event| account.evolve(event));
    assert!(account.decide(reset("b", 9)).is_err());
}

#[test]
fn a_request_for_a_password_stays_open_until_its_link_was_sent_or_used() {
    let at = |seconds| Timestamp(0).plus_seconds(seconds);
    let request = |seconds| ProfileCommand::RequestPasswordReset {
        now: at(seconds),
        reset_url: Some("https://app.example/reset".into()),
    };
    let link = ResetLink {
        token_hash: "a".into(),
        expires_at: at(9000),
    };
    let mail = ProfileCommand::MailPasswordReset(link.clone());
    let offered = AccountEvent::PasswordResetOffered(link.clone());
    let answered = |by| AccountEvent::PasswordRequestAnswered { by };

    let mut account = registered(vec![]);
    assert_eq!(
        account.decide(mail.clone()).unwrap(),
        vec![],
        "nobody asked"
    );
    assert_eq!(
        account
            .decide(ProfileCommand::NotePasswordMailSent)
            .unwrap(),
        vec![]
    );
    let requested = account.decide(request(0)).unwrap();
    assert_eq!(requested.len(), 1);
    requested
        .into_iter()
        .for_each(|event| account.evolve(event));
    assert_eq!(account.decide(request(REQUEST_EVERY - 1)).unwrap(), vec![]);
    assert_eq!(account.decide(request(REQUEST_EVERY)).unwrap().len(), 1);

    // The offer alone does not answer it: the mail may not have been sent.
    assert_eq!(account.decide(mail.clone()).unwrap(), vec![offered.clone()]);
    account.evolve(offered.clone());
    assert_eq!(account.decide(mail.clone()).unwrap(), vec![offered.clone()]);
    assert_eq!(
        account
            .decide(ProfileCommand::NotePasswordMailSent)
            .unwrap(),
        vec![answered(RequestAnsweredBy::Mail)]
    );
    assert_eq!(
        account
            .decide(ProfileCommand::OfferPasswordReset(link.clone()))
            .unwrap(),
        vec![offered, answered(RequestAnsweredBy::Administrator)]
    );
    let mut changed = account.clone();
    changed.evolve(AccountEvent::PasswordReset { version: 2 });
    account.evolve(answered(RequestAnsweredBy::Mail));
    for account in [account, changed] {
        assert_eq!(account.decide(mail.clone()).unwrap(), vec![]);
        assert_eq!(account.decide(request(1)).unwrap().len(), 1);
    }
    let suspended = registered(vec![AccountEvent::Suspended]);
    assert!(suspended.decide(request(0)).is_err());
}

#[test]
fn a_code_counts_once_and_only_while_the_second_factor_is_on() {
    let code = |version, step| OneTimeCode { version, step };
    let sign_in = |code| ProfileCommand::SignInByPassword { password: 1, code };
    let mut account = registered(vec![]);
    assert!(
        account
            .decide(ProfileCommand::DisableTwoFactor(code(0, 5)))
            .is_err()
    );
    let enabled = account
        .decide(ProfileCommand::EnableTwoFactor { step: 5 })
        .unwrap();
    assert_eq!(
        enabled,
        vec![AccountEvent::TwoFactorEnabled {
            version: 1,
            step: 5
        }]
    );
    enabled.into_iter().for_each(|event| account.evolve(event));
    assert_eq!(
        account
            .decide(ProfileCommand::EnableTwoFactor { step: 6 })
            .unwrap_err()
            .code,
        "two_factor_on"
    );
    for wrong in [None, Some(code(1, 4)), Some(code(1, 5)), Some(code(2, 6))] {
        assert_eq!(
            account.decide(sign_in(wrong)).unwrap_err().code,
            "invalid_otp",
            "{wrong:?}"
        );
    }
    let signed_in = account.decide(sign_in(Some(code(1, 6)))).unwrap();
    assert_eq!(
        signed_in,
        vec![
            AccountEvent::TwoFactorUsed { step: 6 },
            AccountEvent::SignedIn
        ]
    );
    signed_in
        .into_iter()
        .for_each(|event| account.evolve(event));
    assert!(
        account.decide(sign_in(Some(code(1, 6)))).is_err(),
        "replayed"
    );
    assert!(
        account
            .decide(ProfileCommand::DisableTwoFactor(code(1, 6)))
            .is_err(),
        "replayed"
    );
    let removed = vec![AccountEvent::TwoFactorDisabled { step: 6 }];
    assert_eq!(
        account.decide(ProfileCommand::RemoveTwoFactor),
        Ok(removed.clone())
    );
    removed.into_iter().for_each(|event| account.evolve(event));
    assert_eq!(account.decide(ProfileCommand::RemoveTwoFactor), Ok(vec![]));
    assert!(account.decide(sign_in(None)).is_ok());
}

#[test]
fn a_family_with_a_returned_old_token_is_recorded_once() {
    let note = |family: &str| ProfileCommand::NoteReuse {
        family: family.into(),
    };
    let detected = AccountEvent::SessionReuseDetected { family: "f".into() };
    assert_eq!(
        registered(vec![]).decide(note("f")),
        Ok(vec![detected.clone()])
    );
    assert_eq!(
        registered(vec![detected.clone()]).decide(note("f")),
        Ok(vec![])
    );
    assert_eq!(
        registered(vec![detected]).decide(note("g")).unwrap().len(),
        1
    );
}

#[test]
fn nobody_impersonates_an_administrator_or_a_suspended_user() {
    let (by, impersonation) = (UserId(uuid::Uuid::from_u128(1)), Uuid::from_u128(2));
    let start = ProfileCommand::StartImpersonation { by, impersonation };
    let started = AccountEvent::ImpersonationStarted { by, impersonation };
    assert_eq!(registered(vec![]).decide(start.clone()), Ok(vec![started]));
    let promoted = AccountEvent::RoleChanged {
        role: "administrator".into(),
        admin: true,
    };
    assert_eq!(
        registered(vec![promoted])
            .decide(start.clone())
            .unwrap_err()
            .code,
        "forbidden"
    );
    assert_eq!(
        registered(vec![AccountEvent::Suspended])
            .decide(start.clone())
            .unwrap_err()
            .code,
        "suspended"
    );
    assert_eq!(Account::Absent.decide(start).unwrap_err().code, "not_found");
}

#[test]
fn an_impersonation_of_a_user_suspended_meanwhile_can_be_ended() {
    let (by, impersonation) = (UserId(uuid::Uuid::from_u128(1)), Uuid::from_u128(2));
    let end = LifecycleCommand::EndImpersonation { by, impersonation };
    let ended = AccountEvent::ImpersonationEnded { by, impersonation };
    assert_eq!(
        registered(vec![AccountEvent::Suspended]).decide(end.clone()),
        Ok(vec![ended])
    );
    assert_eq!(Account::Absent.decide(end).unwrap_err().code, "not_found");
}

#[test]
fn a_user_who_asks_to_be_forgotten_may_not_act_and_can_cancel_until_it_is_done() {
    let asked = AccountEvent::ForgetRequested { due: Timestamp(7) };
    let active = given(vec![AccountEvent::Registered(ada())]);
    assert_eq!(
        active.decide(LifecycleCommand::RequestForget { due: Timestamp(7) }),
        Ok(vec![asked.clone()])
    );
    let leaving = given(vec![AccountEvent::Registered(ada()), asked]);
    assert_eq!(leaving.active().unwrap_err().code, "leaving");
    assert_eq!(
        leaving.decide(LifecycleCommand::RequestForget { due: Timestamp(9) }),
        Ok(vec![]),
        "the first request stands"
    );
    let active_again = LifecycleCommand::Sync(AccountSync {
        active: Some(true),
        ..AccountSync::default()
    });
    assert_eq!(
        leaving.decide(active_again),
        Ok(vec![]),
        "only a cancellation brings the user back"
    );

    assert_eq!(
        leaving.decide(LifecycleCommand::ForgetWhenDue { now: Timestamp(6) }),
        Ok(vec![])
    );
    let forgotten = AccountEvent::Forgotten {
        by: ForgottenBy::User,
    };
    assert_eq!(
        leaving.decide(LifecycleCommand::ForgetWhenDue { now: Timestamp(7) }),
        Ok(vec![forgotten])
    );

    let withdrawn = leaving.decide(LifecycleCommand::WithdrawForget).unwrap();
    assert_eq!(withdrawn, [AccountEvent::ForgetWithdrawn { active: true }]);
    let mut back = leaving.clone();
    withdrawn.into_iter().for_each(|event| back.evolve(event));
    assert_eq!(back, active);
    assert_eq!(
        back.decide(LifecycleCommand::WithdrawForget),
        Ok(vec![]),
        "nothing is left to cancel"
    );
    assert_eq!(
        back.decide(LifecycleCommand::ForgetWhenDue { now: Timestamp(7) }),
        Ok(vec![]),
        "a late timer does nothing"
    );
}

#[test]
fn a_user_suspended_while_leaving_stays_suspended_after_a_cancellation() {
    let mut account = given(vec![
        AccountEvent::Registered(ada()),
        AccountEvent::ForgetRequested { due: Timestamp(7) },
    ]);
    let suspend = LifecycleCommand::Sync(AccountSync {
        active: Some(false),
        ..AccountSync::default()
    });
    let suspended = account.decide(suspend.clone()).unwrap();
    assert_eq!(suspended, [AccountEvent::Suspended]);
    suspended
        .into_iter()
        .for_each(|event| account.evolve(event));
    assert_eq!(account.decide(suspend), Ok(vec![]));
    assert_eq!(
        account.decide(LifecycleCommand::WithdrawForget),
        Ok(vec![AccountEvent::ForgetWithdrawn { active: false }])
    );
}

#[test]
fn every_present_user_can_be_forgotten_and_nobody_twice() {
    let forget = LifecycleCommand::Forget(ForgottenBy::Administrator);
    let forgotten = AccountEvent::Forgotten {
        by: ForgottenBy::Administrator,
    };
    assert_eq!(forgotten.type_name(), FORGOTTEN);
    for before in [
        vec![],
        vec![AccountEvent::Suspended],
        vec![AccountEvent::ForgetRequested { due: Timestamp(7) }],
    ] {
        let account = given([vec![AccountEvent::Registered(ada())], before].concat());
        assert_eq!(account.decide(forget.clone()), Ok(vec![forgotten.clone()]));
    }
    for nobody in [
        Account::Absent,
        given(vec![AccountEvent::Registered(ada()), forgotten]),
    ] {
        for asked in [
            forget.clone(),
            LifecycleCommand::WithdrawForget,
            LifecycleCommand::ForgetWhenDue { now: Timestamp(7) },
        ] {
            assert_eq!(nobody.decide(asked).unwrap_err().code, "not_found");
        }
    }
}
