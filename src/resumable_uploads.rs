//! The resumable uploads that this server receives at the moment: one request each. A newer request ends an older one,
//! which may hang for as long as its connection does.

use std::{collections::HashMap, sync::Arc, time::Duration};

use genie_events::BlobId;
use parking_lot::Mutex;
use tokio::{sync::watch, time::timeout};

/// The longest wait for an older request to end: it may be writing a part.
const LONGEST: Duration = Duration::from_secs(20);

#[derive(Clone, Default)]
pub struct ResumableUploads(Arc<Mutex<HashMap<BlobId, RunningRequest>>>);

struct RunningRequest {
    /// True: end.
    stop: watch::Sender<bool>,
    /// Closed when it has ended.
    ended: watch::Receiver<()>,
}

/// The only request of an upload on this server. Dropping it lets the next one begin.
pub struct UploadTurn {
    uploads: ResumableUploads,
    upload: BlobId,
    stop: watch::Receiver<bool>,
    _ended: watch::Sender<()>,
}

/// The older request did not end in time.
#[derive(Debug, thiserror::Error)]
#[error("an earlier request for this upload is still running")]
pub struct StillRunning;

impl ResumableUploads {
    /// Ends the request that runs, and waits for its end.
    pub async fn take_over(&self, upload: BlobId) -> Result<UploadTurn, StillRunning> {
        let waiting = async {
            loop {
                let mut ended = match self.begin(upload) {
                    Ok(turn) => return turn,
                    Err(ended) => ended,
                };
                while ended.changed().await.is_ok() {}
            }
        };
        timeout(LONGEST, waiting).await.map_err(|_| StillRunning)
    }

    fn begin(&self, upload: BlobId) -> Result<UploadTurn, watch::Receiver<()>> {
        let mut running = self.0.lock();
        if let Some(older) = running.get(&upload) {
            older.stop.send_replace(true);
            return Err(older.ended.clone());
        }
        let (stop, stopped) = watch::channel(false);
        let (end, ended) = watch::channel(());
        running.insert(upload, RunningRequest { stop, ended });
        Ok(UploadTurn {
            uploads: self.clone(),
            upload,
            stop: stopped,
            _ended: end,
        })
    }
}

impl UploadTurn {
    /// Answers when a newer request wants the turn.
    pub async fn stopped(&mut self) {
        // The sender lives as long as this turn.
        let _ = self.stop.wait_for(|stop| *stop).await;
    }
}

impl Drop for UploadTurn {
    fn drop(&mut self) {
        self.uploads.0.lock().remove(&self.upload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newer_request_waits_for_the_end_of_the_older_one() {
        let uploads = ResumableUploads::default();
        let upload = BlobId(uuid::Uuid::from_u128(1));
        let other = BlobId(uuid::Uuid::from_u128(2));
        let mut first = uploads.take_over(upload).await.unwrap();
        let _of_another = uploads.take_over(other).await.unwrap();
        let newer = tokio::spawn({
            let uploads = uploads.clone();
            async move { uploads.take_over(upload).await.map(drop) }
        });
        first.stopped().await;
        assert!(!newer.is_finished());
        drop(first);
        newer.await.unwrap().unwrap();
        assert_eq!(uploads.0.lock().len(), 1, "the other one");
    }
}
