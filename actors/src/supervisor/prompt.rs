//! The words at the head of each conversation: the deployment's, and what the user told the model about themselves.

use genie_events::UserId;
use genie_log::LogError;

use super::Supervisor;
use crate::{WriteError, accounts::persona};

impl Supervisor {
    /// The system prompt of a user's conversations. It fails as reading from the log does: the persona is the user's
    /// state.
    pub async fn system_prompt(&self, user: UserId) -> Result<String, LogError> {
        let prompt = &self.0.settings.system_prompt;
        match persona(&self.0.users, user).await {
            Ok(None) => Ok(prompt.clone()),
            Ok(Some(persona)) => Ok(format!(
                "{prompt}\n\nThe user says about themselves:\n{persona}"
            )),
            Err(WriteError::Forgotten) => Err(LogError::Forgotten {
                owner: user.to_string(),
            }),
            Err(WriteError::Away(reason)) => Err(LogError::Away(reason)),
            Err(WriteError::Busy) => Err(LogError::Away("the user is busy".into())),
            Err(error) => Err(LogError::Statement(error.to_string())),
        }
    }
}
