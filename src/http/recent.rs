//! Answers that everybody may share for a moment. They cost the store and other servers something,
//! and anybody may ask for them as often as they like.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Mutex, time::Instant};

/// One answer for all who ask within a while of it. While it is made, the others wait for it.
pub struct Recent<T> {
    age: Duration,
    kept: Arc<Mutex<Option<KeptAnswer<T>>>>,
}

struct KeptAnswer<T> {
    answer: T,
    made: Instant,
    /// The position that the answer covers.
    position: u64,
}

impl<T> Clone for Recent<T> {
    fn clone(&self) -> Self {
        Self {
            age: self.age,
            kept: Arc::clone(&self.kept),
        }
    }
}

impl<T: Clone> Recent<T> {
    pub fn new(age: Duration) -> Self {
        Self {
            age,
            kept: Arc::default(),
        }
    }

    /// The kept answer, if it is recent and covers this position, or a new one. A maker that goes
    /// away leaves the next to make it.
    pub async fn get<E>(
        &self,
        position: u64,
        make: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let mut kept = self.kept.lock().await;
        if let Some(kept) = &*kept
            && kept.made.elapsed() < self.age
            && kept.position >= position
        {
            return Ok(kept.answer.clone());
        }
        let answer = make.await?;
        *kept = Some(KeptAnswer {
            answer: answer.clone(),
            made: Instant::now(),
            position,
        });
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, convert::Infallible};

    use super::*;

    #[tokio::test]
    async fn many_who_ask_at_once_get_one_answer_unless_they_know_of_something_newer() {
        let recent = Recent::new(Duration::from_secs(3600));
        let made = Cell::new(0);
        let make = async || {
            made.set(made.get() + 1);
            tokio::task::yield_now().await;
            Ok::<_, Infallible>(made.get())
        };
        let (Ok(one), Ok(two)) = tokio::join!(recent.get(0, make()), recent.get(0, make()));
        assert_eq!((one, two), (1, 1));
        assert_eq!(recent.get(7, make()).await, Ok(2));
        assert_eq!(recent.get(6, make()).await, Ok(2));
    }

    #[tokio::test]
    async fn an_old_answer_and_a_failure_are_not_kept() {
        let recent = Recent::new(Duration::ZERO);
        assert_eq!(recent.get(0, async { Ok::<_, ()>(1) }).await, Ok(1));
        assert_eq!(recent.get(0, async { Ok::<_, ()>(2) }).await, Ok(2));
        let recent = Recent::<u8>::new(Duration::from_secs(3600));
        assert_eq!(recent.get(0, async { Err(()) }).await, Err(()));
        assert_eq!(recent.get(0, async { Ok::<_, ()>(3) }).await, Ok(3));
    }
}
