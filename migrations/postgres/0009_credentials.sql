-- The owner's list of the callers that a credential was shown to or refused to.
CREATE INDEX events_credential_shown ON events (user_id, user_seq)
    WHERE event_type IN ('credential.revealed', 'credential.refused');
