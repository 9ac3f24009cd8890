//! `POST /auth/refresh`. Directus takes a refresh token once, but several browser tabs send it
//! together. So all servers together make one request for each token, and for `GRACE` every sender
//! of the token gets the newest pair that follows from it: a tab that lags would otherwise be left
//! with a token that another tab has used.
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
use serde::{Deserialize, Serialize};
use tracing::{Instrument, warn};
use zeroize::Zeroizing;

use super::upstream::{DirectusTrouble, Upstream, UpstreamRequest, WHOLE};

/// How long a used token still gets its successor (docs/api.md, Identity).
const GRACE: Duration = Duration::from_secs(10);
/// How long a node may hold the turn: longer than a request to Directus takes.
const TURN: Duration = Duration::from_secs(WHOLE.as_secs() + 5);
/// How often a node checks whether another node has its answer.
const LOOK: Duration = Duration::from_millis(50);
/// The most steps from a token to the newest pair. A client that refreshes more often is broken.
const MOST_STEPS: usize = 32;
/// The pairs that are kept in memory.
const MOST: u64 = 10_000;

/// Directus' answer, wiped from memory when it is dropped.
pub type TokenPair = Arc<Zeroizing<Vec<u8>>>;

/// The body of a refresh, and of a log-out.
#[derive(Serialize)]
pub struct RefreshBody<'a> {
    refresh_token: &'a str,
    mode: &'static str,
}

impl<'a> RefreshBody<'a> {
    pub fn of(token: &'a SecretString) -> Self {
        Self {
            refresh_token: token.expose_secret(),
            mode: "json",
        }
    }
}

/// The part of a pair that leads to the next.
#[derive(Deserialize)]
struct PairBody {
    data: PairTokens,
}

#[derive(Deserialize)]
struct PairTokens {
    refresh_token: SecretString,
}

/// The refresh token in an answer with a new pair.
pub fn refresh_token(pair: &[u8]) -> Option<SecretString> {
    let body = serde_json::from_slice::<PairBody>(pair).ok()?;
    Some(body.data.refresh_token)
}

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
            let entry = this.pairs.entry(name);
            let pair = entry
                .or_try_insert_with(this.in_turn(&refreshing, &token, address))
                .await
                .map_err(|no| (*no).clone())?;
            let is_new = pair.is_fresh();
            let pair = pair.into_value();
            if is_new {
                Ok(pair)
            } else {
                this.newest(pair).await
            }
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
                Turn::Answered(pair) => return self.newest(Arc::new(pair)).await,
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

    /// The newest of the pairs that follow from this one, each within the grace of the token before.
    async fn newest(&self, mut pair: TokenPair) -> Result<TokenPair, NoPair> {
        for _ in 0..MOST_STEPS {
            let Some(token) = refresh_token(&pair) else {
                break;
            };
            let refreshing = Refreshing::new(token.expose_secret());
            let next = match self.pairs.get(refreshing.name()).await {
                Some(next) => Some(next),
                None => {
                    let now = self.log.clock().now();
                    let kept = self.log.directus_refreshes().answer(&refreshing, now).await;
                    kept.map_err(NoPair::Store)?.map(Arc::new)
                }
            };
            match next {
                Some(next) => pair = next,
                None => break,
            }
        }
        Ok(pair)
    }

    async fn ask(
        &self,
        token: &SecretString,
        address: Option<IpAddr>,
    ) -> Result<TokenPair, NoPair> {
        let asking = UpstreamRequest::new(Method::POST, "/auth/refresh")
            .of(address)
            .json(&RefreshBody::of(token));
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
