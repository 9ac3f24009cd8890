//! Statements that a server sends by itself, whether or not anybody asks it for anything. They are
//! left out of an operation's cost.

/// The beginning of each. On Postgres a transaction is left out when all its statements are here.
const BACKGROUND: [&str; 15] = [
    // The first statements of each connection.
    "PRAGMA ",
    "SET ",
    // The head of the log, several times a second. On SQLite an append begins with it, too.
    "SELECT coalesce(max(position), 0) FROM events",
    // The clock that leases are judged by.
    "SELECT (extract(epoch FROM clock_timestamp())",
    // Leases that lapsed.
    "SELECT id, user_id, stream_id, holder, expires_at, cancelled, progress, message FROM leases WHERE kind = $1 AND expires_at <= $2",
    // Leases of running turns are renewed.
    "UPDATE leases SET expires_at = $2 WHERE holder = $1",
    // Users who are to be forgotten.
    "SELECT user_id, state, due, position, forgotten_at, erased_at, certificate FROM forgettings WHERE state <> 'closed' AND due <= $1",
    // Jobs that came due.
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM jobs WHERE status = 'queued' AND run_at >",
    // Whether this server still leads: alone when nothing is to be done, else in the transaction of
    // a projection.
    "SELECT 1 FROM elections WHERE name = 'genie' AND epoch = $1",
    "SELECT in_office($1)",
    "SELECT p.name, p.position, p.stopped, c.position AS checkpoint",
    // The leader says that it is there, and each server says which master keys it has.
    "UPDATE elections SET renewed_at",
    "INSERT INTO rings",
    "DELETE FROM rings",
    "SELECT master_id FROM user_keys WHERE user_id = $1",
];

pub fn is_background(sql: &str) -> bool {
    sql == "SELECT 1" || BACKGROUND.iter().any(|start| sql.starts_with(start))
}
