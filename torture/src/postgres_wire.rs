//! Reads what a server sends to Postgres, to know when a commit was requested (PostgreSQL's frontend/backend protocol 3, chapter
//! "Message Formats"). The bytes come in pieces of any size; only the beginning of a message is kept.

use std::collections::HashSet;

/// How much of a message's body is looked at: a statement's name, and the beginning of its text.
const LOOKED_AT: usize = 2048;
/// Codes that stand where a start-up message has its version.
const ASKS_FOR_ENCRYPTION: [u32; 2] = [80_877_103, 80_877_104];

/// A request that was just completed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireRequest {
    /// A call of the function `append` was sent to its end (its `Bind`, then `Sync`): whether it commits is now up to Postgres.
    Append,
    /// `COMMIT` was sent, of a transaction on working or read tables.
    Commit,
}

/// Follows one connection.
#[derive(Debug, Default)]
pub struct Listener {
    /// Start-up messages have no type byte.
    started: bool,
    /// The header of the message that is being read, and the beginning of its body.
    header: Vec<u8>,
    body: Vec<u8>,
    /// Bytes of the body that are still to come; `None` while the header is incomplete.
    left: Option<usize>,
    /// Prepared statements that call `append`.
    appends: HashSet<Vec<u8>>,
    /// One of them was bound since the last `Sync`.
    bound: bool,
}

impl Listener {
    /// Takes the next bytes, and returns the requests that they completed.
    pub fn hear(&mut self, mut bytes: &[u8]) -> Vec<WireRequest> {
        let mut said = Vec::new();
        while !bytes.is_empty() {
            match self.left {
                None => {
                    let wanted = if self.started { 5 } else { 8 };
                    let take = bytes.len().min(wanted - self.header.len());
                    self.header.extend_from_slice(&bytes[..take]);
                    bytes = &bytes[take..];
                    if self.header.len() == wanted {
                        let length = &self.header[usize::from(self.started)..][..4];
                        let length =
                            u32::from_be_bytes([length[0], length[1], length[2], length[3]])
                                as usize;
                        let behind_length = wanted - usize::from(self.started);
                        self.left = Some(length.saturating_sub(behind_length));
                    }
                }
                Some(left) => {
                    let take = bytes.len().min(left);
                    let kept = take.min(LOOKED_AT.saturating_sub(self.body.len()));
                    self.body.extend_from_slice(&bytes[..kept]);
                    bytes = &bytes[take..];
                    self.left = Some(left - take);
                }
            }
            if self.left == Some(0) {
                said.extend(self.finish());
            }
        }
        said
    }

    fn finish(&mut self) -> Option<WireRequest> {
        let header = std::mem::take(&mut self.header);
        let body = std::mem::take(&mut self.body);
        self.left = None;
        if !self.started {
            let code = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            self.started = !ASKS_FOR_ENCRYPTION.contains(&code);
            return None;
        }
        let (first, rest) = split_at_nul(&body);
        match header[0] {
            // Parse: the statement's name, its text.
            b'P' => {
                if calls_append(split_at_nul(rest).0) {
                    self.appends.insert(first.to_vec());
                } else {
                    self.appends.remove(first);
                }
            }
            // Bind: the portal, the statement's name.
            b'B' => self.bound |= self.appends.contains(split_at_nul(rest).0),
            b'S' => return std::mem::take(&mut self.bound).then_some(WireRequest::Append),
            // Query: its text.
            b'Q' if calls_append(first) => return Some(WireRequest::Append),
            b'Q' if first.trim_ascii().eq_ignore_ascii_case(b"commit") => {
                return Some(WireRequest::Commit);
            }
            _ => {}
        }
        None
    }
}

/// True when Postgres' bytes so far end with `ReadyForQuery`, which it says once everything before
/// is done and committed.
pub fn ends_ready(said: &[u8]) -> bool {
    matches!(said, [.., b'Z', 0, 0, 0, 5, b'I' | b'T' | b'E'])
}

fn split_at_nul(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|byte| *byte == 0) {
        Some(nul) => (&bytes[..nul], &bytes[nul + 1..]),
        None => (bytes, &[]),
    }
}

fn calls_append(sql: &[u8]) -> bool {
    let at_a_word =
        |at: usize| at == 0 || !(sql[at - 1].is_ascii_alphanumeric() || sql[at - 1] == b'_');
    sql.windows(7)
        .enumerate()
        .any(|(at, window)| window.eq_ignore_ascii_case(b"append(") && at_a_word(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut message = vec![kind];
        message.extend((body.len() as u32 + 4).to_be_bytes());
        message.extend(body);
        message
    }

    fn start_up() -> Vec<u8> {
        let encryption = [0, 0, 0, 8, 4, 210, 22, 47];
        let start = [&[0, 0, 0, 18, 0, 3, 0, 0][..], b"user\0ada\0\0"].concat();
        [&encryption[..], &start].concat()
    }

    fn a_talk() -> Vec<u8> {
        [
            start_up(),
            message(b'P', b"s1\0SELECT x FROM append($1, $2)\0\0\0"),
            message(b'P', b"s2\0SELECT work_of_append($1)\0\0\0"),
            message(b'B', b"\0s1\0\0\0"),
            message(b'E', b"\0\0\0\0\0"),
            message(b'S', b""),
            message(b'B', b"\0s2\0\0\0"),
            message(b'S', b""),
            message(b'Q', b"COMMIT\0"),
            message(b'Q', b"SELECT 1\0"),
            message(b'B', &[&b"\0s1\0"[..], &vec![b'S'; 10_000]].concat()),
            message(b'S', b""),
        ]
        .concat()
    }

    #[test]
    fn appends_and_commits_are_recognised_in_pieces_of_any_size() {
        for size in [1, 2, 3, 7, 100, 100_000] {
            let mut listener = Listener::default();
            let said: Vec<WireRequest> = a_talk()
                .chunks(size)
                .flat_map(|piece| listener.hear(piece))
                .collect();
            assert_eq!(
                said,
                [
                    WireRequest::Append,
                    WireRequest::Commit,
                    WireRequest::Append
                ],
                "pieces of {size}"
            );
        }
    }

    #[test]
    fn a_statement_is_known_by_its_latest_text() {
        let mut listener = Listener::default();
        listener.hear(&start_up());
        listener.hear(&message(b'P', b"\0SELECT append($1)\0\0\0"));
        listener.hear(&message(b'P', b"\0SELECT 1\0\0\0"));
        listener.hear(&message(b'B', b"\0\0\0\0"));
        assert_eq!(listener.hear(&message(b'S', b"")), []);
    }

    #[test]
    fn ready_is_the_end_of_an_answer() {
        assert!(ends_ready(b"C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I"));
        assert!(!ends_ready(b"Z\0\0\0\x05IC"));
    }
}
