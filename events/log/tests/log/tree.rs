//! The tree over the log, its signed heads, proofs and verification, on both stores: tampering is
//! found at its position.

use std::time::Duration;

use genie_events::{
    Event, Metadata, StreamId, StreamKind, UserId, email::EmailEvent, ids::EmailId,
};
use genie_log::{
    AppendRequest, Group, Log, StoredRow,
    head_signer::{self, HeadSignerState, Sealing},
    merkle_proof::CantProve,
    merkle_tree,
    signed_heads::SignedHead,
    testing::{Kind, TestStore, both_stores},
    verify::{CantVerify, Verified},
};
use sqlx::{Connection, PgConnection};
use tokio::runtime::{self, Runtime};

const SOON: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_secs(30);

/// A node that seals, on its own runtime as another process would be. When dropped it stops at no
/// particular moment, in the middle of its work.
struct Node {
    log: Log,
    sealing: Sealing,
    runtime: Option<Runtime>,
}

impl Drop for Node {
    fn drop(&mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Node {
    async fn start(store: &TestStore) -> Self {
        let runtime = runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let settings = store.settings();
        let start = async move {
            let log = Log::open(settings).await.unwrap().log;
            let election = log.elections().stand("this node").await.unwrap();
            let sealing = head_signer::start(&log, election, SOON).await.unwrap();
            (log, sealing)
        };
        let (log, sealing) = runtime.spawn(start).await.unwrap();
        Self {
            log,
            sealing,
            runtime: Some(runtime),
        }
    }

    /// Waits for the head over the whole log.
    async fn signed(&mut self, size: u64) -> SignedHead {
        let heads = self
            .sealing
            .heads
            .wait_for(|head| head.as_ref().is_some_and(|head| head.size >= size));
        let head = tokio::time::timeout(LONG, heads)
            .await
            .expect("a head is signed")
            .unwrap()
            .clone()
            .unwrap();
        assert_eq!(head.size, size);
        head
    }

    /// Waits until the head signer stopped, and answers the reason.
    async fn stopped(&mut self) -> String {
        let status = self
            .sealing
            .status
            .wait_for(|status| matches!(status.state, HeadSignerState::Stopped(_)));
        match tokio::time::timeout(LONG, status)
            .await
            .expect("the head signer stops")
            .unwrap()
            .state
            .clone()
        {
            HeadSignerState::Stopped(reason) => reason,
            state => panic!("{state:?}"),
        }
    }
}

/// Appends `count` facts of the system's streams at once.
async fn facts(log: &Log, count: usize) {
    let groups = (0..count).map(|_| {
        let stream = StreamId::new(StreamKind::Email, EmailId(log.clock().new_uuid()));
        Group::of_system(
            &stream,
            0,
            vec![Event::Email(EmailEvent::Claimed {
                user: UserId(log.clock().new_uuid()),
            })],
        )
    });
    genie_log::testing::append(
        log,
        AppendRequest {
            groups: groups.collect(),
            work: vec![],
            metadata: Metadata::system(),
            remember: None,
        },
    )
    .await
    .unwrap();
}

async fn verify(log: &Log, pinned: &[&SignedHead]) -> Result<Verified, CantVerify> {
    log.proofs()
        .verify(pinned.iter().map(|head| Ok(head.note.clone())))
        .await
}

/// The range of the first bad position, and the sentence.
async fn found(log: &Log, pinned: &[&SignedHead]) -> (u64, u64, String) {
    match verify(log, pinned).await {
        Err(CantVerify::Found(finding)) => (finding.first, finding.last, finding.to_string()),
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn is_at(position: u64, (first, last, sentence): (u64, u64, String)) {
    assert_eq!((first, last), (position, position), "{sentence}");
    assert!(
        sentence.starts_with(&format!("position {position}: ")),
        "{sentence}"
    );
}

fn bytes(kind: Kind, bytes: &[u8]) -> String {
    let hex = hex::encode(bytes);
    match kind {
        Kind::Sqlite => format!("X'{hex}'"),
        Kind::Postgres => format!("'\\x{hex}'::bytea"),
    }
}

async fn row_at(log: &Log, position: u64) -> StoredRow {
    log.reader().rows(position - 1, 1).await.unwrap().remove(0)
}

async fn set_leaf(store: &TestStore, position: u64, leaf: &[u8]) {
    let index = merkle_tree::first_index(position);
    let leaf = bytes(store.kind, leaf);
    store
        .tamper(&format!(
            "UPDATE tree_hashes SET hash = {leaf} WHERE hash_index = {index}"
        ))
        .await;
}

/// Changes a row and its digest so that they match.
async fn change_with_digest(store: &TestStore, log: &Log, position: u64) -> StoredRow {
    let mut row = row_at(log, position).await;
    row.recorded_at.0 += 1;
    row.digest = row.computed_digest().to_vec();
    let at = row.recorded_at.0;
    let digest = bytes(store.kind, &row.digest);
    store
        .tamper(&format!(
            "UPDATE events SET recorded_at = {at}, digest = {digest} WHERE position = {position}"
        ))
        .await;
    row
}

both_stores!(
    all_facts_are_sealed_proved_and_verified,
    async |store: TestStore| {
        let mut node = Node::start(&store).await;
        let log = node.log.clone();
        facts(&log, 700).await; // More than one batch.
        facts(&log, 600).await;
        let first = node.signed(1300).await;
        facts(&log, 3).await;
        let head = node.signed(1303).await;
        assert_ne!(first.root, head.root);

        let public = log.proofs().head_key().await.unwrap().public();
        for position in [1, 2, 511, 512, 513, 1299, 1300, 1303] {
            let proof = log
                .proofs()
                .prove(position, Some(first.size))
                .await
                .unwrap();
            assert_eq!(
                (&public.open(&proof.head.note).unwrap(), proof.position),
                (&head, position)
            );
            assert_eq!(proof.digest, row_at(&log, position).await.computed_digest());
            assert!(merkle_tree::is_included(
                &proof.path,
                head.size,
                head.root,
                position,
                &proof.digest
            ));
            let growth = proof.growth.unwrap();
            assert_eq!(growth.root, first.root);
            assert!(merkle_tree::is_consistent(
                &growth.proof,
                (first.size, first.root),
                (head.size, head.root)
            ));
        }
        assert!(matches!(
            log.proofs().prove(0, None).await,
            Err(CantProve::NotThere { .. })
        ));
        assert!(matches!(
            log.proofs().prove(1304, None).await,
            Err(CantProve::NotThere {
                position: 1304,
                facts: 1303
            })
        ));
        assert!(matches!(
            log.proofs().prove(1, Some(1304)).await,
            Err(CantProve::NoSuchSize { signed: 1303 })
        ));
        let verified = verify(&log, &[&first, &head, &head]).await.unwrap();
        assert_eq!(
            (
                verified.facts,
                verified.pinned,
                verified.covered,
                verified.uncounted
            ),
            (1303, 3, 1303, 0)
        );
        assert!(verified.heads >= 2, "{verified:?}");
    }
);

both_stores!(
    a_fact_that_no_head_covers_yet_cannot_be_proved,
    async |store: TestStore| {
        let log = store.open().await.log;
        assert_eq!(
            verify(&log, &[]).await.unwrap(),
            Verified::default(),
            "an empty log verifies"
        );
        facts(&log, 3).await;
        assert!(matches!(
            log.proofs().prove(2, None).await,
            Err(CantProve::NotSealed {
                position: 2,
                signed: 0
            })
        ));
        let verified = verify(&log, &[]).await.unwrap();
        assert_eq!(
            (verified.facts, verified.heads, verified.covered),
            (3, 0, 0)
        );
    }
);

both_stores!(
    a_head_signer_that_is_dropped_anywhere_continues,
    async |store: TestStore| {
        let mut size = 0;
        let mut heads = Vec::new();
        for _ in 0..5 {
            let mut node = Node::start(&store).await;
            facts(&node.log, 900).await;
            size += 900;
            let at_least = size - 500; // This falls in the middle of this round's facts.
            let reached = node
                .sealing
                .status
                .wait_for(|status| status.sealed >= at_least);
            tokio::time::timeout(LONG, reached)
                .await
                .expect("the head signer seals")
                .unwrap();
            heads.extend(node.sealing.heads.borrow().clone());
            drop(node);
        }
        let mut node = Node::start(&store).await;
        heads.push(node.signed(size).await);
        let verified = verify(&node.log, &heads.iter().collect::<Vec<_>>())
            .await
            .unwrap();
        assert_eq!((verified.facts, verified.covered), (size, size));
    }
);

both_stores!(
    a_deposed_head_signer_writes_nothing,
    async |store: TestStore| {
        let log = store.open().await.log;
        facts(&log, 3).await;
        let mut election = log.elections().stand("slow").await.unwrap();
        election.elected().await;
        // On Postgres the next candidate gets the lock as soon as the deposed node notices, and keeps
        // it.
        let next = store.database_url().map(|url| {
            tokio::spawn(async move {
                let mut connection = PgConnection::connect(&url).await.unwrap();
                sqlx::query("SELECT pg_advisory_lock(7340992)")
                    .execute(&mut connection)
                    .await
                    .unwrap();
                std::future::pending::<()>().await
            })
        });
        store
            .try_sql("UPDATE elections SET epoch = epoch + 1")
            .await
            .unwrap(); // Stands for the election of another node.
        let mut slow = head_signer::start(&log, election, SOON).await.unwrap();
        tokio::time::timeout(LONG, slow.status.changed())
            .await
            .expect("the head signer learns that it was deposed")
            .unwrap();
        assert_eq!(
            slow.status.borrow_and_update().state,
            HeadSignerState::Waiting
        );
        let verified = verify(&log, &[]).await.unwrap();
        assert_eq!((verified.facts, verified.heads), (3, 0));
        let stored = store.try_sql("DELETE FROM tree_hashes").await.unwrap()
            + store.try_sql("DELETE FROM tree_heads").await.unwrap();
        assert_eq!(stored, 0, "the head signer wrote nothing");
        drop(next);
    }
);

both_stores!(
    two_head_signers_in_turn_make_one_tree,
    async |store: TestStore| {
        let mut first = Node::start(&store).await;
        facts(&first.log, 5).await;
        let old = first.signed(5).await;
        drop(first);
        let mut second = Node::start(&store).await;
        facts(&second.log, 5).await;
        let new = second.signed(10).await;
        let verified = verify(&second.log, &[&old, &new]).await.unwrap();
        assert_eq!(
            (verified.facts, verified.heads, verified.pinned),
            (10, 2, 2)
        );
    }
);

both_stores!(
    a_changed_fact_stops_the_head_signer_with_its_position,
    async |store: TestStore| {
        facts(&store.open().await.log, 5).await;
        store
            .tamper("UPDATE events SET metadata = '{}' WHERE position = 4")
            .await;
        let mut node = Node::start(&store).await;
        let reason = node.stopped().await;
        let stream = row_at(&node.log, 4).await.stream_id().unwrap().to_string();
        assert!(
            reason.contains("position 4") && reason.contains(&stream) && reason.contains("digest"),
            "{reason}"
        );
        assert_eq!(
            *node.sealing.heads.borrow(),
            None,
            "nothing of the batch was signed"
        );
    }
);

both_stores!(
    a_log_that_was_cut_off_or_replaced_is_not_sealed_over,
    async |store: TestStore| {
        let mut node = Node::start(&store).await;
        facts(&node.log, 5).await;
        node.signed(5).await;
        drop(node);
        store.tamper("DELETE FROM events WHERE position = 5").await;
        let mut node = Node::start(&store).await;
        assert!(
            node.stopped()
                .await
                .contains("position 5 was sealed and is gone")
        );
        is_at(5, found(&node.log, &[]).await);
        facts(&node.log, 2).await; // One of them takes position 5 again.
        drop(node);
        let mut node = Node::start(&store).await;
        let reason = node.stopped().await;
        assert!(
            reason.contains("position 5") && reason.contains("not the one that was sealed"),
            "{reason}"
        );
        is_at(5, found(&node.log, &[]).await);
    }
);

both_stores!(
    a_head_that_does_not_grow_out_of_the_last_is_not_signed,
    async |store: TestStore| {
        let mut node = Node::start(&store).await;
        let log = node.log.clone();
        facts(&log, 6).await;
        let head = node.signed(6).await;

        // Somebody who knows how makes the whole tree anew over changed facts, but the old head
        // stays.
        change_with_digest(&store, &log, 2).await;
        let mut frontier = merkle_tree::Frontier::default();
        for position in 1..=6 {
            let hashes =
                frontier.push(merkle_tree::leaf_hash(&row_at(&log, position).await.digest));
            for (index, hash) in (merkle_tree::first_index(position)..).zip(hashes) {
                let hash = bytes(store.kind, &hash.0);
                store
                    .tamper(&format!(
                        "UPDATE tree_hashes SET hash = {hash} WHERE hash_index = {index}"
                    ))
                    .await;
            }
        }
        drop(node);
        let mut node = Node::start(&store).await;
        let log = node.log.clone();
        facts(&log, 1).await;
        assert!(
            node.stopped()
                .await
                .contains("did not grow out of the signed head over 6")
        );
        let (first, last, sentence) = found(&log, &[]).await;
        assert!(
            (first, last) == (1, 6) && sentence.starts_with("between positions 1 and 6"),
            "{sentence}"
        );

        // Somebody with the master key also signs the head anew: only the head kept outside shows
        // it.
        let forged = log
            .proofs()
            .head_key()
            .await
            .unwrap()
            .sign(6, frontier.root())
            .unwrap();
        store
            .tamper(&format!(
                "UPDATE tree_heads SET note = '{}' WHERE size = 6",
                forged.note
            ))
            .await;
        assert_eq!(
            verify(&log, &[]).await.unwrap().heads,
            1,
            "nothing in the store shows it"
        );
        let (first, last, sentence) = found(&log, &[&head]).await;
        assert!(
            (first, last) == (1, 6) && sentence.contains("kept outside"),
            "{sentence}"
        );
    }
);

both_stores!(
    a_head_that_the_store_deleted_is_still_proven,
    async |store: TestStore| {
        let mut node = Node::start(&store).await;
        let log = node.log.clone();
        facts(&log, 300).await;
        let early = node.signed(300).await;
        facts(&log, 200).await;
        let newest = node.signed(500).await;
        let epoch = log.elections().elected().await.unwrap().unwrap().epoch;
        let in_two_days = store.clock.now().plus_seconds(2 * 86_400);
        log.retention()
            .thin_heads(epoch, in_two_days)
            .await
            .unwrap();
        assert_eq!(
            store
                .try_sql("UPDATE tree_heads SET signed_at = signed_at")
                .await
                .unwrap(),
            1,
            "both were signed in the same hour, and the later one is left"
        );

        let verified = verify(&log, &[&early, &newest]).await.unwrap();
        assert_eq!(
            (verified.facts, verified.pinned, verified.heads),
            (500, 2, 1)
        );
        let proof = log.proofs().prove(10, Some(early.size)).await.unwrap();
        let growth = proof.growth.unwrap();
        assert_eq!((growth.root, proof.head.size), (early.root, 500));
        assert!(merkle_tree::is_consistent(
            &growth.proof,
            (early.size, early.root),
            (newest.size, newest.root),
        ));
        // Other facts under the deleted head would show.
        store
            .tamper("UPDATE events SET recorded_at = 1 WHERE position = 200")
            .await;
        is_at(200, found(&log, &[&early]).await);
        // The next head grows out of the one that is left.
        facts(&log, 1).await;
        node.signed(501).await;
    }
);

both_stores!(
    tampering_is_found_at_its_position,
    async |store: TestStore| {
        let mut node = Node::start(&store).await;
        let log = node.log.clone();
        facts(&log, 300).await;
        let early = node.signed(300).await;
        facts(&log, 200).await;
        let head = node.signed(500).await;
        let pinned = [&early, &head];
        let untouched = verify(&log, &pinned).await.unwrap();
        assert_eq!((untouched.facts, untouched.pinned), (500, 2));

        // Rewritten hashes of the tree: a leaf, then one above; then a missing one.
        let leaf = merkle_tree::leaf_hash(&row_at(&log, 490).await.digest);
        set_leaf(&store, 490, &[7; 32]).await;
        is_at(490, found(&log, &pinned).await);
        set_leaf(&store, 490, &leaf.0).await;
        assert!(verify(&log, &pinned).await.is_ok());
        let above = merkle_tree::first_index(480) + 2; // The hash over 477 to 480.
        store
            .tamper(&format!(
                "UPDATE tree_hashes SET hash = {} WHERE hash_index = {above}",
                bytes(store.kind, &[7; 32])
            ))
            .await;
        let (first, last, sentence) = found(&log, &pinned).await;
        assert_eq!((first, last), (477, 480), "{sentence}");
        store
            .tamper(&format!(
                "DELETE FROM tree_hashes WHERE hash_index = {}",
                merkle_tree::first_index(470)
            ))
            .await;
        is_at(470, found(&log, &pinned).await);

        // Heads: one over other facts than it says, a forged one, an older one, and one signed by
        // another log.
        let place_of = async |note: &str| {
            store
                .tamper(&format!(
                    "UPDATE tree_heads SET note = '{note}' WHERE size = 300"
                ))
                .await;
            match verify(&log, &[]).await {
                Err(CantVerify::Head { place, reason }) => format!("{place}: {reason}"),
                other => panic!("{other:?}"),
            }
        };
        assert!(
            place_of(&head.note)
                .await
                .contains("the signed head over 300 facts: it is over 500")
        );
        let forged = early.note.replacen("\n300\n", "\n301\n", 1);
        assert!(
            place_of(&forged)
                .await
                .contains("the signed head over 300 facts: its signature does not match")
        );
        let other_store = TestStore::new(store.kind).await;
        let other_log = other_store.open().await.log;
        let alien = other_log
            .proofs()
            .head_key()
            .await
            .unwrap()
            .sign(300, early.root)
            .unwrap();
        assert!(place_of(&alien.note).await.contains("of another log"));
        store
            .tamper(&format!(
                "UPDATE tree_heads SET note = '{}' WHERE size = 300",
                early.note
            ))
            .await;
        assert!(
            matches!(verify(&log, &[&alien]).await, Err(CantVerify::Head { place, .. }) if place == "pinned head 1")
        );
        let ahead = log
            .proofs()
            .head_key()
            .await
            .unwrap()
            .sign(501, head.root)
            .unwrap();
        is_at(470, found(&log, &[&early, &head, &ahead]).await);

        // Facts, from the last to the first, so that each tampered fact is the first bad one.
        change_with_digest(&store, &log, 460).await;
        is_at(460, found(&log, &pinned).await);
        for (from, to) in [(450, 9000), (455, 450), (9000, 455)] {
            store
                .tamper(&format!(
                    "UPDATE events SET position = {to} WHERE position = {from}"
                ))
                .await;
        }
        is_at(450, found(&log, &pinned).await);
        store
            .tamper("DELETE FROM events WHERE position = 430")
            .await;
        is_at(430, found(&log, &pinned).await);
        store
            .tamper("UPDATE events SET payload = digest WHERE position = 420")
            .await;
        is_at(420, found(&log, &pinned).await);
        let changed = change_with_digest(&store, &log, 410).await;
        set_leaf(&store, 410, &merkle_tree::leaf_hash(&changed.digest).0).await;
        let (first, last, sentence) = found(&log, &pinned).await;
        assert_eq!(
            (first, last),
            (409, 410),
            "only the hash above the leaf shows it: {sentence}"
        );
        store
            .tamper("UPDATE events SET position = 0 WHERE position = 500")
            .await;
        is_at(0, found(&log, &pinned).await);
    }
);

both_stores!(
    a_log_that_was_cut_off_does_not_verify,
    async |store: TestStore| {
        let mut node = Node::start(&store).await;
        let log = node.log.clone();
        facts(&log, 5).await;
        let head = node.signed(5).await;
        store.tamper("DELETE FROM events WHERE position >= 4").await;
        is_at(4, found(&log, &[]).await);
        store.tamper("DELETE FROM tree_heads").await;
        store.tamper("DELETE FROM tree_hashes").await;
        store.tamper("DELETE FROM checkpoints").await;
        assert!(
            verify(&log, &[]).await.is_ok(),
            "nothing in the store shows it"
        );
        is_at(4, found(&log, &[&head]).await);
    }
);

both_stores!(
    facts_and_heads_that_appear_meanwhile_are_no_finding,
    async |store: TestStore| {
        let mut node = Node::start(&store).await;
        let log = node.log.clone();
        facts(&log, 3).await;
        let first = node.signed(3).await;
        // The file of heads seems at its end, but has another head when it is read again after the
        // last row.
        let mut asked = 0;
        let growing = std::iter::from_fn(|| {
            asked += 1;
            let more = async {
                facts(&node.log.clone(), 4).await;
                node.signed(7).await
            };
            match asked {
                1 => Some(Ok(first.note.clone())),
                3 => Some(Ok(tokio::task::block_in_place(|| {
                    runtime::Handle::current().block_on(more)
                })
                .note)),
                _ => None,
            }
        });
        let verified = log.proofs().verify(growing).await.unwrap();
        assert_eq!(
            (verified.facts, verified.pinned, verified.covered),
            (7, 2, 7)
        );
        assert!(asked > 3);
    }
);

both_stores!(
    a_gap_in_an_owners_counter_is_found,
    async |store: TestStore| {
        let log = store.open().await.log;
        facts(&log, 5).await;
        let mut row = row_at(&log, 3).await;
        row.owner_seq = 2;
        let digest = bytes(store.kind, &row.computed_digest());
        store
            .tamper(&format!(
                "UPDATE events SET owner_seq = 2, digest = {digest} WHERE position = 3"
            ))
            .await;
        is_at(3, found(&log, &[]).await);
    }
);

both_stores!(
    a_log_whose_users_were_forgotten_still_verifies,
    async |store: TestStore| {
        let mut node = Node::start(&store).await;
        let log = node.log.clone();
        store.register(&log, "ada").await;
        let head = node.signed(1).await;
        store
        .tamper(
            "UPDATE user_keys SET wrapped = NULL, state = 'destroyed' WHERE user_id <> '00000000-0000-0000-0000-000000000000'",
        )
        .await;
        drop(node);
        let log = store.open_to_read().await;
        assert_eq!(verify(&log, &[&head]).await.unwrap().facts, 1);
        assert!(log.proofs().prove(1, None).await.is_ok());
    }
);

both_stores!(
    a_head_key_belongs_to_its_log_and_survives_reopening,
    async |store: TestStore| {
        let (first, again) = (store.open().await.log, store.open().await.log);
        let key = first
            .proofs()
            .head_key()
            .await
            .unwrap()
            .public()
            .to_string();
        assert_eq!(
            again
                .proofs()
                .head_key()
                .await
                .unwrap()
                .public()
                .to_string(),
            key
        );
        let other_store = TestStore::new(store.kind).await;
        let other = other_store.open().await.log;
        assert_ne!(
            other
                .proofs()
                .head_key()
                .await
                .unwrap()
                .public()
                .to_string(),
            key
        );
    }
);
