//! Readers of the feed, live or in pages. They change servers, and resume at their cursor after every break.

use std::{sync::Arc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use reqwest::{Method, header::ACCEPT};
use serde_json::Value;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, timeout_at},
};

use crate::{
    client::{Arena, By},
    feed_notes::{FeedFilter, FeedNotes, event_hash},
    position,
    stream::EventStream,
};

/// The time limit for the last events, once the last position is known.
const LAST_EVENTS: Duration = Duration::from_secs(30);
/// How long a live reader stays with one server.
const STAYS_MS: std::ops::Range<u64> = 500..5000;
/// How long a page, or the beginning of a live feed, may take.
const REQUEST: Duration = Duration::from_secs(10);
/// Pause of a reader of pages between two looks, and of every reader after a failure.
const PAUSE: Duration = Duration::from_millis(100);

/// Starts four readers: of everything, live and in pages; of jobs, live; of half the slices, in
/// pages. They stop at the last position, once it is known.
pub fn start(
    arena: &Arc<Arena>,
    last: &watch::Receiver<Option<u64>>,
    chance: &mut StdRng,
) -> Vec<JoinHandle<FeedNotes>> {
    let readers = [
        (FeedFilter::Everything, true),
        (FeedFilter::Everything, false),
        (FeedFilter::Jobs, true),
        (FeedFilter::HalfTheSlices, false),
    ];
    let start = |(wanted, live): (FeedFilter, bool)| {
        let name = format!(
            "{} feed of {}",
            if live { "the live" } else { "the paged" },
            wanted.as_str()
        );
        let notes = FeedNotes::new(name, wanted);
        let chance = StdRng::seed_from_u64(chance.random());
        let arena = Arc::clone(arena);
        let last = last.clone();
        tokio::spawn(
            Subscriber {
                arena,
                notes,
                query: wanted.query(),
                live,
                chance,
                last,
            }
            .read(),
        )
    };
    readers.into_iter().map(start).collect()
}

struct Subscriber {
    arena: Arc<Arena>,
    notes: FeedNotes,
    query: &'static str,
    live: bool,
    chance: StdRng,
    last: watch::Receiver<Option<u64>>,
}

impl Subscriber {
    /// Reads until the last position is behind it, or for so long after that is known.
    async fn read(mut self) -> FeedNotes {
        let mut deadline = None;
        loop {
            if let Some(last) = *self.last.borrow() {
                let deadline = *deadline.get_or_insert_with(|| Instant::now() + LAST_EVENTS);
                if self.notes.cursor >= last || Instant::now() >= deadline {
                    return self.notes;
                }
            }
            // At the end all read pages, because a live feed shows only now and then how far it has
            // passed over events.
            if self.live && deadline.is_none() {
                self.follow().await;
            } else {
                self.page().await;
            }
        }
    }

    async fn follow(&mut self) {
        let stay = Instant::now() + Duration::from_millis(self.chance.random_range(STAYS_MS));
        let Some((_, base)) = self.arena.any_node(&mut self.chance) else {
            return tokio::time::sleep(PAUSE).await;
        };
        let path = format!("/api/events?{}", self.query);
        let mut request = self
            .arena
            .request(Method::GET, &base, &path, By::Secret)
            .header(ACCEPT, "text/event-stream");
        if self.notes.cursor > 0 {
            request = request.header("Last-Event-ID", position::opaque(self.notes.cursor));
        }
        let opened = tokio::time::timeout(REQUEST, request.send()).await;
        let Ok(Ok(response)) = opened else {
            return tokio::time::sleep(PAUSE).await;
        };
        if response.status() != 200 {
            return tokio::time::sleep(PAUSE).await;
        }
        self.notes.resumed += 1;
        let mut stream = EventStream::of(response);
        while let Ok(Some(event)) = timeout_at(stay, stream.next()).await {
            let place = event.id.as_deref().and_then(position::parse);
            match (&event.data, place) {
                (Some(data), _) => self.take(data),
                (None, Some(place)) => self.notes.passed(place),
                (None, None) => {}
            }
        }
    }

    async fn page(&mut self) {
        let page = self.ask_for_page().await;
        let Some(page) = page else {
            return tokio::time::sleep(PAUSE).await;
        };
        self.notes.resumed += 1;
        let events = page["data"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        events.iter().for_each(|event| self.take(event));
        if let Some(next) = page["next_cursor"].as_str().and_then(position::parse) {
            self.notes.passed(next);
        }
        if events.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn ask_for_page(&mut self) -> Option<Value> {
        let (_, base) = self.arena.any_node(&mut self.chance)?;
        let after = match self.notes.cursor {
            0 => String::new(),
            cursor => position::opaque(cursor),
        };
        let path = format!("/api/events?limit=500&after={after}&{}", self.query);
        let request = self
            .arena
            .request(Method::GET, &base, &path, By::Secret)
            .timeout(REQUEST);
        let response = request.send().await.ok()?;
        (response.status() == 200).then_some(())?;
        response.json().await.ok()
    }

    fn take(&mut self, event: &Value) {
        let text = |name: &str| event[name].as_str().unwrap_or_default();
        let Some(position) = position::parse(text("cursor")) else {
            return self.notes.saw(0, 1);
        };
        let sequence = text("sequence").parse().unwrap_or(0);
        self.notes.saw(
            position,
            event_hash(
                position,
                text("id"),
                text("type"),
                text("subject"),
                sequence,
            ),
        );
    }
}
