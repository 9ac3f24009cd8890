//! Drives a connection, and bounds what it costs. It ends when its client does nothing for too long
//! where it should: it reads nothing though an answer waits, or does not finish the head of a
//! request. And when it wakes itself again and again without moving a byte, it is polled ever more
//! rarely: actix-http does so, for as long as its buffer of pipelined requests is full and the
//! answer to the first can't be written.

use std::{
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep, sleep_until};

use super::{activity::Activity, is_over, self_wakes::SelfWakes};

/// This often in a row a connection may wake itself without moving a byte, as tasks do that make way
/// for others.
const WAKES_IN_VAIN: u32 = 64;
/// The first pause of a connection that goes on so. Each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
/// Pauses are doubled this often: to half a second.
const DOUBLINGS: u32 = 9;

pub struct Watched<F> {
    connection: Pin<Box<F>>,
    activity: Rc<Activity>,
    stall: Duration,
    wakes: Arc<SelfWakes>,
    waker: Waker,
    in_vain: u32,
    pause: Option<Pin<Box<Sleep>>>,
    /// Invariant: due no later than the activity says, as long as that says anything.
    timer: Option<Pin<Box<Sleep>>>,
}

/// The connection was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stalled;

impl<F: Future> Watched<F> {
    pub fn new(connection: F, activity: Rc<Activity>, stall: Duration) -> Self {
        let wakes = SelfWakes::new();
        Self {
            connection: Box::pin(connection),
            activity,
            stall,
            waker: Waker::from(Arc::clone(&wakes)),
            wakes,
            in_vain: 0,
            pause: None,
            timer: None,
        }
    }

    /// Passes the connection's own wake on: at once, or after a pause when its wakes came to
    /// nothing.
    fn pass_on(&mut self, cx: &mut Context<'_>) {
        if self.in_vain <= WAKES_IN_VAIN {
            cx.waker().wake_by_ref();
            return;
        }
        let doublings = (self.in_vain - WAKES_IN_VAIN - 1).min(DOUBLINGS);
        self.pause = Some(Box::pin(sleep(FIRST_PAUSE * 2_u32.pow(doublings))));
        if is_over(&mut self.pause, cx) {
            cx.waker().wake_by_ref();
        }
    }

    fn is_stalled(&mut self, cx: &mut Context<'_>) -> bool {
        while let Some(due) = self.activity.due(self.stall) {
            self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            if !is_over(&mut self.timer, cx) {
                return false;
            }
            if due <= Instant::now() {
                return true;
            }
            self.timer = None; // it was set for something that is done
        }
        false
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = Result<F::Output, Stalled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let moved = this.activity.moved();
        this.wakes.begin_poll(cx.waker());
        let polled = this
            .connection
            .as_mut()
            .poll(&mut Context::from_waker(&this.waker));
        let woke_itself = this.wakes.end_poll();
        if let Poll::Ready(output) = polled {
            return Poll::Ready(Ok(output));
        }
        this.pause = None;
        if this.activity.moved() != moved {
            this.in_vain = 0;
        }
        if woke_itself {
            this.in_vain = this.in_vain.saturating_add(1);
            this.pass_on(cx);
        }
        if this.is_stalled(cx) {
            return Poll::Ready(Err(Stalled));
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        time::timeout,
    };

    use super::*;
    use crate::connections::stream::WatchedStream;

    const STALL: Duration = Duration::from_millis(100);
    /// Longer than any test takes on a busy machine.
    const LIMIT: Duration = Duration::from_secs(20);

    /// A connection that answers with 48 bytes over a pipe that holds 16.
    async fn answering(server: DuplexStream) -> Result<(), Stalled> {
        let mut stream = WatchedStream::new(server);
        let activity = Rc::clone(&stream.activity);
        let answered = activity.begin_request();
        let connection = async move {
            stream.write_all(&[1; 48]).await.unwrap();
            drop(answered);
        };
        Watched::new(connection, activity, STALL).await
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_cut_off_and_one_that_reads_is_not() {
        let started = Instant::now();
        let (server, _deaf) = duplex(16);
        assert_eq!(answering(server).await, Err(Stalled));
        assert!(started.elapsed() >= STALL);
        let (server, mut client) = duplex(16);
        let mut read = [0; 48];
        let (ended, _) = tokio::join!(answering(server), client.read_exact(&mut read));
        assert_eq!(ended, Ok(()));
    }

    #[tokio::test]
    async fn a_client_that_never_finishes_a_head_is_cut_off() {
        let (server, mut client) = duplex(16);
        let mut stream = WatchedStream::new(server);
        let activity = Rc::clone(&stream.activity);
        let connection = async move { stream.read_to_end(&mut Vec::new()).await };
        let drips = async {
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(STALL / 10).await;
            }
        };
        let watched = Watched::new(connection, activity, STALL);
        let (ended, ()) = tokio::join!(watched, drips);
        assert_eq!(ended.unwrap_err(), Stalled);
    }

    #[tokio::test]
    async fn a_client_may_wait_for_its_answer_as_long_as_it_takes() {
        let activity = Activity::new();
        let answered = activity.begin_request();
        let answer = async move {
            tokio::time::sleep(STALL * 3).await;
            drop(answered);
        };
        assert!(Watched::new(answer, activity, STALL).await.is_ok());
    }

    #[tokio::test]
    async fn a_connection_that_only_wakes_itself_is_polled_ever_more_rarely() {
        let mut polls = 0;
        let activity = Activity::new();
        let spinning = poll_fn(|cx| {
            polls += 1;
            assert!(polls < 1000, "it spins");
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        });
        let ended = Watched::new(spinning, activity, STALL).await;
        assert_eq!(ended, Err(Stalled));
        assert!(polls > WAKES_IN_VAIN, "{polls}");
    }

    #[tokio::test]
    async fn a_connection_that_others_wake_is_polled_at_once() {
        const OFTEN: usize = 1000; // with pauses it would take minutes
        let (bell, mut rung) = tokio::sync::mpsc::unbounded_channel();
        let activity = Activity::new();
        let answered = activity.begin_request();
        let waiting = async move {
            for _ in 0..OFTEN {
                rung.recv().await;
            }
            drop(answered);
        };
        let ringing = async {
            for _ in 0..OFTEN {
                bell.send(()).unwrap();
                tokio::task::yield_now().await;
            }
        };
        let watched = Watched::new(waiting, activity, STALL);
        let both = timeout(LIMIT, async { tokio::join!(watched, ringing) });
        assert_eq!(both.await.unwrap().0, Ok(()));
    }
}
