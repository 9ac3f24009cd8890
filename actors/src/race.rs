//! Appends of several owners' facts that are decided outside a user's actor. When another writer comes first, the
//! fence refuses the append, and the caller decides again on the new state.

use std::time::Duration;

use genie_log::{Append, AppendError, AppendRequest, Appended, clock};

use crate::WriteError;

/// The tries of one command. After the last, its caller is told to come back.
const TRIES: u32 = 8;
/// The longest pause between two tries; chance decides how much of it.
const PAUSE: Duration = Duration::from_millis(20);

/// The tries of one command.
#[derive(Debug)]
pub(crate) struct Race {
    left: u32,
}

impl Race {
    pub fn new() -> Self {
        Self { left: TRIES }
    }

    pub fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Appends. `None` means that another writer came first: decide again. After the last try that is an error.
    pub async fn append(
        &mut self,
        append: &Append,
        request: AppendRequest,
    ) -> Result<Option<Appended>, WriteError> {
        self.left = self.left.saturating_sub(1);
        match append.append(request).await {
            Ok(at) => Ok(Some(at)),
            Err(AppendError::Stale | AppendError::KeyUsed) if !self.is_over() => {
                tokio::time::sleep(PAUSE.mul_f64(clock::chance())).await;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }
}
