-- Whether a login asks for a one-time code.
ALTER TABLE accounts ADD COLUMN two_factor INTEGER NOT NULL DEFAULT 0;
