//! Long pages are made a few at a time, and apart from the threads that serve connections and own the store's.
//! Opening and writing up to a mebibyte takes a core for milliseconds. When hundreds are asked for at once, short
//! answers would wait for all of them. What a worker claims may be a long page, too.

use std::{future::Future, panic, pin::pin, sync::LazyLock, thread};

use async_stream::stream;
use futures_util::{Stream, StreamExt};
use tokio::{
    runtime::{self, Runtime},
    sync::{Semaphore, mpsc},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{Instrument, warn};

/// A page of at most so many rows is short.
pub const SHORT: i64 = 50;
/// The niceness of the threads: where cores are short, one of them gets a tenth of what another thread gets.
const NICE: i32 = 10;

/// As many as there are cores, and one beside another that waits for the store.
static TURNS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(cores().max(2)));

/// One runtime for all servers of the process. `None` when it can't be started.
static MAKERS: LazyLock<Option<Runtime>> = LazyLock::new(|| {
    let started = runtime::Builder::new_multi_thread()
        .worker_threads((cores() / 2).max(1))
        .thread_name("genie-pages")
        .on_thread_start(give_way)
        .enable_all()
        .build();
    started
        .inspect_err(|error| warn!(%error, "long pages: no threads of their own; the server's threads make them"))
        .ok()
});

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// Lets other threads go before the present one.
fn give_way() {
    // On Linux this is a setting of the thread.
    if let Err(error) = rustix::process::setpriority_process(None, NICE) {
        warn!(%error, "long pages: they have the priority of short answers");
    }
}

/// Makes a page when its turn has come. A client that goes away ends it.
pub async fn make<T: Send + 'static>(page: impl Future<Output = T> + Send + 'static) -> T {
    let _turn = TURNS.acquire().await.expect("nobody closes it");
    let Some(makers) = &*MAKERS else {
        return page.await;
    };
    let making = AbortOnDropHandle::new(makers.spawn(page.in_current_span()));
    match making.await {
        Ok(page) => page,
        // It is aborted only when nobody waits for it, so it panicked.
        Err(stopped) => panic::resume_unwind(stopped.into_panic()),
    }
}

/// Makes a long answer part by part on the same threads, at most one part ahead of its reader. A client that goes
/// away ends it.
pub fn stream<T: Send + 'static>(
    parts: impl Stream<Item = T> + Send + 'static,
) -> impl Stream<Item = T> {
    stream! {
        let (send, mut made) = mpsc::channel(1);
        let making = async move {
            let mut parts = pin!(parts);
            while let Some(part) = parts.next().await {
                if send.send(part).await.is_err() {
                    return;
                }
            }
        };
        let making = making.in_current_span();
        let mut making = AbortOnDropHandle::new(match &*MAKERS {
            Some(makers) => makers.spawn(making),
            None => tokio::spawn(making),
        });
        while let Some(part) = made.recv().await {
            yield part;
        }
        if let Err(stopped) = (&mut making).await {
            // It is aborted only when the stream is dropped, so it panicked.
            panic::resume_unwind(stopped.into_panic());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering::SeqCst},
        },
        time::Duration,
    };

    use futures_util::future::join_all;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn long_pages_are_made_a_few_at_a_time_by_threads_that_give_way() {
        let present = thread::current().id();
        let making = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let pages = (0..20).map(|_| {
            let (making, most) = (Arc::clone(&making), Arc::clone(&most));
            make(async move {
                most.fetch_max(making.fetch_add(1, SeqCst) + 1, SeqCst);
                thread::sleep(Duration::from_millis(2)); // a page that never yields
                making.fetch_sub(1, SeqCst);
                let niceness = rustix::process::getpriority_process(None);
                (niceness, thread::current().id())
            })
        });
        for (niceness, thread) in join_all(pages).await {
            assert_eq!(niceness, Ok(NICE));
            assert_ne!(thread, present);
        }
        assert_eq!(rustix::process::getpriority_process(None), Ok(0));
        assert!(most.load(SeqCst) <= cores().max(2), "{most:?} at once");
    }

    #[tokio::test]
    async fn a_long_answer_is_made_in_order_by_threads_that_give_way() {
        let making = Arc::new(AtomicUsize::new(0));
        let made = Arc::clone(&making);
        let parts = stream(futures_util::stream::iter(0..100).map(move |part| {
            made.fetch_add(1, SeqCst);
            (part, rustix::process::getpriority_process(None))
        }));
        let mut parts = pin!(parts);
        for part in 0..100 {
            assert_eq!(parts.next().await, Some((part, Ok(NICE))));
            // Its reader has one, one waits in the channel, and one waits to be sent.
            assert!(making.load(SeqCst) <= part + 3);
        }
        assert_eq!(parts.next().await, None);
    }

    #[tokio::test]
    async fn a_long_answer_whose_client_has_gone_ends() {
        let (end, ended) = oneshot::channel::<()>();
        let mut answer = Box::pin(stream(stream! {
            let _end = end;
            yield 1;
            std::future::pending::<()>().await;
        }));
        assert_eq!(answer.next().await, Some(1));
        drop(answer);
        assert!(ended.await.is_err(), "it was dropped");
    }

    #[tokio::test]
    async fn a_page_whose_client_has_gone_ends() {
        let (end, ended) = oneshot::channel::<()>();
        let (begin, begun) = oneshot::channel::<()>();
        let page = tokio::spawn(make(async move {
            let _end = end;
            let _ = begin.send(());
            std::future::pending::<()>().await;
        }));
        begun.await.unwrap();
        page.abort();
        assert!(ended.await.is_err(), "it was dropped");
    }
}
