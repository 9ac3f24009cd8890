-- When a browser's session ends.
ALTER TABLE credentials ADD COLUMN expires_at INTEGER;
