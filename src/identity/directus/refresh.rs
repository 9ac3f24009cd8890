//! `POST /auth/refresh`. Directus takes a refresh token once, but several browser tabs send it
//! together. So all servers together make one request for each token, and for `GRACE` every sender
//! of the token gets the same new pair.
//!
//! When the process dies between Directus' answer and the store, the new pair is lost and the user
//! logs in again: Directus offers no way to ask for it a second time.

use std::{net::IpAddr, sync::Arc, time::Duration};

use genie_log::{
    Log, LogError,
    directus_refresh::{Refreshing, Turn},
};
use moka::future::Cache;
use reqwest::Method;
use secrecy::{ExposeSecret, SecretString};
use serde_json::json;
use tracing::{Instrument, warn};
use zeroize::Zeroizing;

use super::upstream::{DirectusTrouble, Upstream, UpstreamRequest, WHOLE};

/// How long a used token still gets its successor (docs/api.md, Identity).
const GRACE: Duration = Duration::from_secs(10);
/// How long a node may hold the turn: longer than a request to Directus takes.
const TURN: Duration = Duration::from_secs(WHOLE.as_secs() + 5);
/// How often a node checks whether another node has its answer.
const LOOK: Duration = Duration::from_millis(50);
/// The pairs that are kept in memory.
const MOST: u64 = 10_000;

/// Directus' answer, wiped from memory when it is dropped.
pub type TokenPair = Arc<Zeroizing<Vec<u8>>>;

#[derive(Debug, Clone)]
pub enum NoPair {
    Refused {
        status: u16,
        code: String,
    },
    /// Directus did not answer the question.
    Trouble(DirectusTrouble),
    /// The store is away.
    Store(LogError),
}

#[derive(Clone)]
pub struct Refreshes {
    upstream: Arc<Upstream>,
    log: Log,
    pairs: Cache<String, TokenPair>,
}

impl Refreshes {
    pub fn new(upstream: Arc<Upstream>, log: Log) -> Self {
        Self {
            upstream,
            log,
            pairs: Cache::builder()
                .max_capacity(MOST)
                .time_to_live(GRACE)
                .build(),
        }
    }

    /// A new pair for this token: Directus' answer, unchanged.
    pub async fn refresh(
        &self,
        token: SecretString,
        address: Option<IpAddr>,
    ) -> Result<TokenPair, NoPair> {
        let refreshing = Refreshing::new(token.expose_secret());
        let this = self.clone();
        let name = refreshing.name().to_owned();
        // It runs to its end even when this client goes away: Directus may have taken the token by
        // then, and others wait.
        let asking = async move {
            let pair = this
                .pairs
                .try_get_with(name, this.in_turn(&refreshing, &token, address));
            pair.await.map_err(|no| (*no).clone())
        };
        let asking = self.log.store().io().spawn(asking.in_current_span());
        asking
            .await
            .unwrap_or(Err(NoPair::Trouble(DirectusTrouble::Failed(
                "the request broke off",
            ))))
    }

    async fn in_turn(
        &self,
        refreshing: &Refreshing,
        token: &SecretString,
        address: Option<IpAddr>,
    ) -> Result<TokenPair, NoPair> {
        loop {
            let now = self.log.clock().now();
            let turn = self
                .log
                .directus_refreshes()
                .take_turn(refreshing, now, now.plus_seconds(TURN.as_secs() as i64))
                .await;
            match turn.map_err(NoPair::Store)? {
                Turn::Answered(pair) => return Ok(Arc::new(pair)),
                // The loop ends: a turn that is not given back lapses.
                Turn::Theirs => tokio::time::sleep(LOOK).await,
                Turn::Yours => break,
            }
        }
        let asked = self.ask(token, address).await;
        let kept = match &asked {
            Ok(pair) => {
                let until = self.log.clock().now().plus_seconds(GRACE.as_secs() as i64);
                self.log
                    .directus_refreshes()
                    .keep(refreshing, pair, until)
                    .await
            }
            Err(_) => self.log.directus_refreshes().give_up(refreshing).await,
        };
        if let Err(error) = kept {
            warn!(%error, "Directus: sharing a refreshed token with other servers failed; a retry there may be refused");
        }
        asked
    }

    async fn ask(
        &self,
        token: &SecretString,
        address: Option<IpAddr>,
    ) -> Result<TokenPair, NoPair> {
        let body = json!({"refresh_token": token.expose_secret(), "mode": "json"});
        let body = Zeroizing::new(serde_json::to_vec(&body).expect("a JSON value serializes"));
        let asking = UpstreamRequest::new(Method::POST, "/auth/refresh")
            .of(address)
            .body(body);
        let reply = self.upstream.ask(asking).await.map_err(NoPair::Trouble)?;
        if reply.is_ok() {
            Ok(Arc::new(reply.body))
        } else {
            Err(NoPair::Refused {
                status: reply.status,
                code: reply.code(),
            })
        }
    }
}
