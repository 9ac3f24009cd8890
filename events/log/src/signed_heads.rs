//! Signed heads: the number of facts in the log and the root of the tree over them, as a C2SP
//! checkpoint (tlog-checkpoint) in a C2SP signed note. The Ed25519 key is derived from the system's
//! data key.

use std::{
    fmt,
    io::{BufRead, ErrorKind},
};

use ed25519_dalek::{Signer as _, SigningKey, ed25519::signature};
use signed_note::{Note, Signer, StandardVerifier, VerifierList};
use sqlx::{Row, any::AnyRow};
use tlog_tiles::Checkpoint;
use uuid::Uuid;

use crate::{
    LogError, Proofs,
    keys::{DataKey, log_name},
    merkle_tree::Hash,
    store::Store,
};

/// A signed note has a few hundred bytes; a longer text is not a note of this log.
pub const MAX_NOTE_BYTES: usize = 4096;

/// The log as it was when it was signed.
#[derive(Debug, Clone, PartialEq)]
pub struct SignedHead {
    /// The number of facts.
    pub size: u64,
    /// The root of the tree over these facts.
    pub root: Hash,
    /// The signed note, as it is published.
    pub note: String,
}

/// Why a note is not a head of this log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadHead {
    #[error("it is not a signed checkpoint")]
    Form,
    /// The note belongs to another log, or another key signed it.
    #[error("it is of another log, or signed with another key")]
    OtherKey,
    /// The text of the note is not the text that was signed.
    #[error("its signature does not match: it was forged or changed")]
    Forged,
}

/// The key that signs heads. It never prints itself.
pub struct HeadKey {
    origin: String,
    id: u32,
    key: SigningKey,
}

impl fmt::Debug for HeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeadKey({})", self.origin)
    }
}

impl HeadKey {
    /// The log's name and the key are derived from the system's data key.
    pub(crate) fn of(system: &DataKey) -> Self {
        let origin = log_name(system);
        let key = SigningKey::from_bytes(&system.part("heads"));
        Self {
            id: signed_note::key_id(&origin, &encoded(&key)),
            origin,
            key,
        }
    }

    pub fn sign(&self, size: u64, root: Hash) -> Result<SignedHead, BadHead> {
        let text = Checkpoint::new(&self.origin, size, root, "").map_err(|_| BadHead::Form)?;
        let mut note = Note::new(&text.to_bytes(), &[]).map_err(|_| BadHead::Form)?;
        note.add_sigs(&[self]).map_err(|_| BadHead::Form)?;
        let note = String::from_utf8(note.to_bytes()).map_err(|_| BadHead::Form)?;
        Ok(SignedHead { size, root, note })
    }

    /// Signs any other text, as a signed note. Invariant: no such text can be taken for a head,
    /// because its second line is not a number.
    pub fn sign_text(&self, text: &str) -> Result<String, BadHead> {
        let mut note = Note::new(text.as_bytes(), &[]).map_err(|_| BadHead::Form)?;
        note.add_sigs(&[self]).map_err(|_| BadHead::Form)?;
        String::from_utf8(note.to_bytes()).map_err(|_| BadHead::Form)
    }

    pub fn name(&self) -> &str {
        &self.origin
    }

    /// The key that others verify heads with.
    pub fn public(&self) -> PublicHeadKey {
        let vkey = signed_note::new_ed25519_verifier_key(&self.origin, &self.key.verifying_key());
        PublicHeadKey::parse(&vkey).expect("a key that was just written can be read")
    }
}

/// The public key after the byte that names its algorithm, Ed25519.
fn encoded(key: &SigningKey) -> Vec<u8> {
    [&[1], key.verifying_key().as_bytes().as_slice()].concat()
}

impl Signer for HeadKey {
    fn name(&self) -> &str {
        &self.origin
    }

    fn key_id(&self) -> u32 {
        self.id
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, signature::Error> {
        Ok(self.key.try_sign(message)?.to_vec())
    }
}

#[derive(Clone)]
pub struct PublicHeadKey {
    text: String,
    key: StandardVerifier,
}

impl fmt::Debug for PublicHeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A C2SP verifier key: `<origin>+<id>+<base64>`.
impl fmt::Display for PublicHeadKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PublicHeadKey {
    /// Reads the form that [`PublicHeadKey`] displays.
    pub fn parse(text: &str) -> Result<Self, BadHead> {
        let key = StandardVerifier::new(text).map_err(|_| BadHead::Form)?;
        Ok(Self {
            text: text.to_owned(),
            key,
        })
    }

    /// Reads a signed note and checks that this key signed it; answers its text.
    pub fn open_text(&self, text: &str) -> Result<Vec<u8>, BadHead> {
        if text.len() > MAX_NOTE_BYTES {
            return Err(BadHead::Form);
        }
        let note = Note::from_bytes(text.as_bytes()).map_err(|_| BadHead::Form)?;
        let known = VerifierList::new(vec![Box::new(self.key.clone())]);
        note.verify(&known).map_err(|error| match error {
            signed_note::NoteError::UnverifiedNote => BadHead::OtherKey,
            _ => BadHead::Forged,
        })?;
        Ok(note.text().to_vec())
    }

    /// Reads a head and checks that this key signed it.
    pub fn open(&self, text: &str) -> Result<SignedHead, BadHead> {
        use signed_note::Verifier;
        let head = Checkpoint::from_bytes(&self.open_text(text)?).map_err(|_| BadHead::Form)?;
        if head.origin() != self.key.name() {
            return Err(BadHead::OtherKey);
        }
        Ok(SignedHead {
            size: head.size(),
            root: *head.hash(),
            note: text.to_owned(),
        })
    }
}

/// The notes of a file, each followed by an empty line.
pub struct Notes<R>(R);

impl<R: BufRead> Notes<R> {
    pub fn new(reader: R) -> Self {
        Self(reader)
    }
}

impl<R: BufRead> Iterator for Notes<R> {
    type Item = std::io::Result<String>;

    /// The next note, from its first line to the line break of its last signature. A note that
    /// breaks off is an error of kind `UnexpectedEof`, a note that is too long one of kind
    /// `InvalidData`.
    fn next(&mut self) -> Option<Self::Item> {
        let broken = |kind, reason: &str| Some(Err(std::io::Error::new(kind, reason)));
        let mut note = Vec::new();
        let mut empty_lines = 0;
        while empty_lines < 2 {
            let begin = note.len();
            // One byte more than a note: the line that ends it.
            let left = (MAX_NOTE_BYTES + 1 - begin) as u64;
            if let Err(error) = std::io::Read::take(&mut self.0, left).read_until(b'\n', &mut note)
            {
                return Some(Err(error));
            }
            match &note[begin..] {
                [] if begin == 0 => return None,
                // The first empty line stands between text and signatures, the second ends the
                // note.
                b"\n" => empty_lines += 1,
                [.., b'\n'] => {}
                _ if note.len() > MAX_NOTE_BYTES => {
                    return broken(ErrorKind::InvalidData, "it is too long for a signed head");
                }
                _ => {
                    return broken(
                        ErrorKind::UnexpectedEof,
                        "it breaks off in the middle of a signed head",
                    );
                }
            }
        }
        note.pop(); // Drops the empty line that ends the note.
        match String::from_utf8(note) {
            Ok(note) => Some(Ok(note)),
            Err(_) => broken(ErrorKind::InvalidData, "it is not UTF-8 text"),
        }
    }
}

impl Proofs {
    /// The key that signs this log's heads.
    pub async fn head_key(&self) -> Result<HeadKey, LogError> {
        Ok(HeadKey::of(&self.log().keys().data_key(Uuid::nil()).await?))
    }

    /// The note of the newest head, whoever signed it.
    pub async fn newest_note(&self) -> Result<Option<String>, LogError> {
        let read = async |store: Store| {
            let row = sqlx::query(NEWEST).fetch_optional(store.reads()).await?;
            Ok(row.as_ref().map(stored_note).transpose()?)
        };
        self.log().store().run(read).await
    }
}

pub(crate) const NEWEST: &str = "SELECT note FROM tree_heads ORDER BY size DESC LIMIT 1";

pub(crate) fn stored_note(row: &AnyRow) -> Result<String, sqlx::Error> {
    row.try_get("note")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MasterKeys;

    fn key() -> HeadKey {
        let ring = MasterKeys::parse(&MasterKeys::generate()).unwrap();
        HeadKey::of(&ring.new_data_key(Uuid::nil(), Uuid::nil()).0)
    }

    #[test]
    fn a_head_opens_with_its_own_public_key_only_and_any_flipped_bit_is_noticed() {
        let mine = key();
        let head = mine
            .sign(7, crate::merkle_tree::leaf_hash(b"root"))
            .unwrap();
        let public = PublicHeadKey::parse(&mine.public().to_string()).unwrap();
        assert_eq!(public.open(&head.note), Ok(head.clone()));
        assert_eq!(key().public().open(&head.note), Err(BadHead::OtherKey));
        assert_eq!(
            public.open(&head.note.replacen("\n7\n", "\n8\n", 1)),
            Err(BadHead::Forged)
        );
        for bit in 0..head.note.len() * 8 {
            let mut bytes = head.note.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let changed = String::from_utf8(bytes).is_ok_and(|text| public.open(&text).is_ok());
            assert!(!changed, "bit {bit}");
        }
    }

    #[test]
    fn the_key_does_not_print_itself() {
        let key = key();
        assert_eq!(format!("{key:?}"), format!("HeadKey({})", key.origin));
    }

    #[test]
    fn a_file_of_notes_is_read_one_by_one_and_a_broken_end_is_reported() {
        let key = key();
        let notes: Vec<String> = (1..4)
            .map(|n| {
                key.sign(n, crate::merkle_tree::leaf_hash(&[n as u8]))
                    .unwrap()
                    .note
            })
            .collect();
        let file: String = notes.iter().map(|note| format!("{note}\n")).collect();
        let read = |text: &str| Notes::new(text.as_bytes()).collect::<std::io::Result<Vec<_>>>();
        assert_eq!(read(&file).unwrap(), notes);
        assert_eq!(read("").unwrap(), [""; 0]);
        for end in file.len() - notes[2].len()..file.len() {
            let read = Notes::new(&file.as_bytes()[..end]).collect::<std::io::Result<Vec<_>>>();
            assert_eq!(
                read.err().map(|error| error.kind()),
                Some(std::io::ErrorKind::UnexpectedEof),
                "{end}"
            );
        }
        let endless = "x".repeat(3 * MAX_NOTE_BYTES);
        assert_eq!(
            read(&endless).unwrap_err().kind(),
            std::io::ErrorKind::InvalidData
        );
    }
}
