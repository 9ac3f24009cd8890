//! Secrets and their keys: reveals while many callers ask at once, sealing and opening on one core,
//! and wrapping all data keys by another master key.

use std::sync::Arc;

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305,
    aead::{Aead, Payload},
};
use futures_util::future::try_join_all;
use genie_actors::{
    Caller,
    credentials::{
        CredentialDetails, CredentialRef, Credentials, MAX_SECRET_BYTES, Plaintext, SecretRequest,
        StoreTarget,
    },
};
use genie_events::{
    CredentialId, Metadata, PlatformName, UserId, credential::CredentialKind,
    user::reveal::RevealRight,
};
use genie_log::{
    MasterKeys,
    clock::random_bytes,
    encryption::{self, SealingKey},
    keys::rotation::RotationCursor,
};
use serde_json::json;
use tokio::time::{Duration, Instant};

use crate::{
    bare::Bare,
    commands,
    setup::{Creator, EVENT_BYTES, Ground, Measured, Node, name_on},
    statistics::{median, millis, percentile},
    table::{Bound, Row},
};

/// The names of the figures, the first as a whole.
pub const SEAL: &str = "credentials.seal_open_per_s_core";
pub const REVEAL: &str = "reveal_p99_vs_bare_commits_at_once";
pub const ROTATE: &str = "rotate_users_per_s";
/// Callers at once. Each reveals another user's credential, again as soon as it is answered.
const CALLERS: usize = 64;
/// Reveals, and bare commits, of each caller in one turn.
const REVEALS: usize = 40;
/// Bare commits of one caller alone, for orientation.
const COMMITS: usize = 100;
/// Turns of both sides. The first one warms up and does not count.
const TURNS: usize = 9;
/// Pairs of sealing and opening in one turn.
const SEALS: usize = 50_000;
/// Users whose keys are wrapped by another master key.
const USERS: usize = 50_000;
/// Rounds, each with another master key.
const ROTATIONS: usize = 3;

/// Seals and opens the bytes of one event, on one core. Needs no store.
pub fn seal_and_open() -> Vec<Row> {
    let root = random_bytes::<32>();
    let text = random_bytes::<EVENT_BYTES>();
    let key = SealingKey::derive(uuid::Uuid::nil(), &root, "bench");
    let place = encryption::Place::new(&["bench", "a", "1"]);
    let cipher = XChaCha20Poly1305::new(&root.into());
    let mut ours = Vec::new();
    let mut bare = Vec::new();
    for _ in 0..TURNS {
        ours.push(per_second(|| {
            key.open(&key.seal(&text, &place), &place)
                .is_ok_and(|opened| opened.as_slice() == text)
        }));
        bare.push(per_second(|| {
            let nonce = random_bytes::<24>().into();
            let sealed = cipher.encrypt(
                &nonce,
                Payload {
                    msg: &text,
                    aad: b"bench",
                },
            );
            let opened = sealed.and_then(|sealed| {
                cipher.decrypt(
                    &nonce,
                    Payload {
                        msg: &sealed,
                        aad: b"bench",
                    },
                )
            });
            opened.is_ok_and(|opened| opened == text)
        }));
    }
    eprintln!(
        "sealed and opened {:.0}/s, by the bare cipher {:.0}/s",
        median(&ours),
        median(&bare)
    );
    vec![Row::new(
        SEAL.into(),
        median(&ours),
        "pairs/s",
        Bound::AtLeast(180_000.0),
    )]
}

/// Successes per second on this thread; 0 when one fails.
fn per_second(mut work: impl FnMut() -> bool) -> f64 {
    let began = Instant::now();
    if (0..SEALS).all(|_| work()) {
        SEALS as f64 / began.elapsed().as_secs_f64()
    } else {
        0.0
    }
}

/// The 99th percentile of a reveal through the vault and the users' actors: the fact durable, then
/// the secret read and opened. Compared with the 99th percentile of bare rows that as many callers make
/// durable at once.
pub async fn reveal(ground: &Ground) -> Measured<Row> {
    let (node, vault) = ground.node_with_vault().await?;
    let creators = ground.creators(&node, CALLERS).await?;
    commands::rate(&node, &creators).await?; // makes rows to copy and warms everything up
    let bare = Arc::new(Bare::beside(ground, &node.log).await?);
    let mut credentials = Vec::with_capacity(CALLERS);
    for user in ground.register(&node.log, CALLERS).await {
        credentials.push(store(&vault, user).await?);
    }
    let mut ratios = Vec::new();
    let mut all_ours = Vec::new();
    let mut all_bare = Vec::new();
    let mut alone = Vec::new();
    let mut all_commands = Vec::new();
    for turn in 0..TURNS {
        for _ in 0..COMMITS {
            alone.push(bare.single().await?);
        }
        let theirs = bare.singles_at_once(CALLERS, REVEALS).await?;
        let ours = times(
            credentials
                .iter()
                .map(|credential| reveals(vault.clone(), *credential)),
        )
        .await?;
        let commands = times(creators.iter().map(|creator| asks(node.clone(), *creator))).await?;
        if turn > 0 {
            ratios
                .push(percentile(&ours, 99).as_secs_f64() / percentile(&theirs, 99).as_secs_f64());
            all_ours.extend(ours);
            all_bare.extend(theirs);
            all_commands.extend(commands);
        }
    }
    let said = |times: &[Duration]| {
        format!(
            "p50 {:.2} ms, p99 {:.2} ms",
            millis(percentile(times, 50)),
            millis(percentile(times, 99))
        )
    };
    eprintln!(
        "at {CALLERS} callers a reveal {}, the same fact without a secret {}",
        said(&all_ours),
        said(&all_commands)
    );
    eprintln!(
        "{CALLERS} bare commits at once {}, one alone {}",
        said(&all_bare),
        said(&alone)
    );
    let name = name_on("credentials", ground.store.kind, REVEAL);
    Ok(Row::new(name, median(&ratios), "x", Bound::AtMost(3.0)))
}

/// The times of all calls of many callers at once.
async fn times<F>(callers: impl Iterator<Item = F>) -> Measured<Vec<Duration>>
where
    F: Future<Output = Measured<Vec<Duration>>> + Send + 'static,
{
    let all = try_join_all(callers.map(tokio::spawn)).await?;
    Ok(all.into_iter().collect::<Measured<Vec<_>>>()?.concat())
}

/// The times of one caller's commands that write a fact of the same kind and open nothing.
async fn asks(node: Node, creator: Creator) -> Measured<Vec<Duration>> {
    let mut times = Vec::with_capacity(REVEALS);
    for _ in 0..REVEALS {
        let began = Instant::now();
        creator.ask(&node).await?;
        times.push(began.elapsed());
    }
    Ok(times)
}

async fn store(vault: &Credentials, user: UserId) -> Measured<CredentialId> {
    let fields = json!({"username": "creator", "password": "x".repeat(EVENT_BYTES)});
    let secret = Plaintext::of("credentials", &fields, MAX_SECRET_BYTES)
        .map_err(|refusal| format!("{refusal:?}"))?;
    let kind = CredentialKind::Profile;
    let platform = PlatformName::read("onlyfans")?;
    let target = StoreTarget::For(CredentialDetails {
        kind,
        platform,
        platform_username: None,
        expires_at: None,
    });
    Ok(vault
        .store(user, Metadata::system(), target, secret)
        .await?
        .id)
}

/// The times of one caller's reveals.
async fn reveals(vault: Credentials, credential: CredentialId) -> Measured<Vec<Duration>> {
    let caller = Caller::shared_secret("bench");
    let mut times = Vec::with_capacity(REVEALS);
    for _ in 0..REVEALS {
        let named = CredentialRef::Id(credential);
        let purpose = Some("publishing the planned post".to_owned());
        let ask = SecretRequest {
            named,
            kinds: &[CredentialKind::Profile],
            right: RevealRight::Every,
            purpose,
        };
        let began = Instant::now();
        let revealed = vault.reveal(&caller, ask).await?;
        times.push(began.elapsed());
        if revealed.plaintext.expose().len() < EVENT_BYTES {
            return Err("a reveal did not give the secret".into());
        }
    }
    Ok(times)
}

/// Users per second whose data keys are wrapped by another master key.
pub async fn rotate(ground: &Ground) -> Measured<Row> {
    let log = ground.log().await?;
    ground.register(&log, USERS).await;
    let mut ring = ground.masters.clone();
    let mut rates = Vec::new();
    for n in 0..ROTATIONS {
        ring = format!("{},{ring}", *MasterKeys::new_entry(&format!("r{n}")));
        log.keys().rings().take(MasterKeys::parse(&ring)?).await?;
        let began = Instant::now();
        let to = log.keys().rotation().begin().await?;
        let mut wrapped = 0;
        let mut from = Some(RotationCursor::default());
        while let Some(place) = from {
            let step = log.keys().rotation().rotate(&to, place).await?;
            wrapped += step.wrapped;
            from = step.next;
        }
        rates.push(wrapped as f64 / began.elapsed().as_secs_f64());
        if (wrapped as usize) < USERS {
            return Err(
                format!("{wrapped} keys were wrapped anew, where there are {USERS} users").into(),
            );
        }
    }
    eprintln!("users a second in each rotation: {rates:.0?}");
    let name = name_on("credentials", ground.store.kind, ROTATE);
    Ok(Row::new(
        name,
        median(&rates),
        "users/s",
        Bound::AtLeast(20_000.0),
    ))
}
