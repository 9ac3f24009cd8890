-- When a session is over.
ALTER TABLE credentials ADD COLUMN expires_at INTEGER;

-- To whom an owner's credentials were shown or refused, for the owner's page of it.
CREATE INDEX events_credential_shown ON events (user_id, user_seq)
    WHERE event_type IN ('credential.revealed', 'credential.refused');
