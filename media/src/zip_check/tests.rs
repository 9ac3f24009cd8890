use std::io::Write;

use flate2::{Compression, write::DeflateEncoder};
use rawzip::{ZipArchiveWriter, path::EntryPath};

use proptest::prelude::*;

use super::*;

/// An archive of these names and contents, deflated. A name that ends with `/` is a folder.
fn zip(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut archive = ZipArchiveWriter::new(Vec::new());
    for (name, bytes) in entries {
        let path = EntryPath::verbatim(name.as_bytes().to_vec());
        let (mut entry, config) = archive
            .new_file(path)
            .compression_method(CompressionMethod::DEFLATE)
            .start()
            .unwrap();
        let mut packed = config.wrap(DeflateEncoder::new(&mut entry, Compression::best()));
        packed.write_all(bytes).unwrap();
        let (packed, said) = packed.finish().unwrap();
        packed.finish().unwrap();
        entry.finish(said).unwrap();
    }
    archive.finish().unwrap()
}

fn judged(archive: &[u8]) -> Result<(), BadZip> {
    check(archive, archive.len() as u64).map(drop)
}

/// The offsets of the directory's records.
fn records(archive: &[u8]) -> Vec<usize> {
    (0..archive.len() - 4)
        .filter(|at| archive[*at..].starts_with(b"PK\x01\x02"))
        .collect()
}

fn set<const N: usize>(archive: &mut [u8], at: usize, value: [u8; N]) {
    archive[at..at + N].copy_from_slice(&value);
}

#[test]
fn a_usual_archive_is_accepted() {
    let diary = "dear diary, ".repeat(1000);
    assert_eq!(
        judged(&zip(&[
            ("posts/", b""),
            ("posts/1.json", diary.as_bytes()),
            ("./a..b", b"x"),
            ("empty", b"")
        ])),
        Ok(())
    );
    assert_eq!(judged(&zip(&[("only/", b"")])), Err(BadZip::Empty));
}

/// What unzip takes without a loss.
#[test]
fn archives_of_macs_and_of_old_tools_are_taken() {
    let mac = zip(&[
        ("Photos/", b""),
        ("Photos/Icon\r", b"icon"),
        ("Photos/cafe\u{301}.json", b"{}"),
        ("__MACOSX/Photos/._Icon\r", b"\0\x05\x16\x07"),
        ("__MACOSX/._Photos", b"x"),
    ]);
    let windows = zip(&[
        ("posts\\", b""),
        ("posts\\2019\\1.json", b"{}"),
        ("a\nb\x7f", b"x"),
    ]);
    for archive in [&mac, &windows] {
        assert_eq!(judged(archive), Ok(()));
        // A comment, and bytes that a server or a mail program put behind the end.
        let mut commented = archive.clone();
        let length = commented.len();
        set(&mut commented, length - 2, 9_u16.to_le_bytes());
        commented.extend_from_slice(b"a comment");
        assert_eq!(judged(&commented), Ok(()), "a comment");
        for behind in [&b"\r\n"[..], &[0; 512], b"</html>"] {
            let longer = [archive, behind].concat();
            assert_eq!(judged(&longer), Ok(()), "{behind:?}");
        }
    }
    // A folder whose mode says file.
    let mut folder = zip(&[("a/", b""), ("a/b", b"x")]);
    let record = records(&folder)[0];
    folder[record + 5] = 3; // made on Unix
    set(
        &mut folder,
        record + 38,
        (0o100_755_u32 << 16).to_le_bytes(),
    );
    assert_eq!(judged(&folder), Ok(()));
    assert_eq!(judged(&zip(&[("only\\", b"")])), Err(BadZip::Empty));
}

#[test]
fn a_name_must_stay_in_its_folder_on_any_system() {
    for bad in [
        "..\\..\\x",
        "a\\..\\..\\x",
        "\\\\server\\x",
        "C:\\x",
        "../x",
        "a/../../x",
        "a/..",
        "/etc/passwd",
        "C:/x",
        "c:x",
        "..\\x",
        "\\x",
        "a\0b",
        "",
    ] {
        let told = judged(&zip(&[("good", b"x"), (bad, b"x")]));
        let Err(BadZip::Entry {
            entry: 2,
            why: BadEntry::Name(_),
        }) = told
        else {
            panic!("{bad:?}: {told:?}");
        };
        let sentence = told.unwrap_err().to_string();
        assert!(sentence.starts_with("Entry 2 of the ZIP archive has a name that "));
    }
    assert!(judged(&zip(&[(&"a".repeat(1025), b"x")])).is_err());
}

#[test]
fn equal_names_and_archives_inside_are_taken() {
    for (name, again) in [("a", "a"), ("a/b", "a\\b"), ("a", "A"), ("a/", "a")] {
        let twice = zip(&[(name, b""), ("c", b"x"), (again, b"y")]);
        assert_eq!(judged(&twice), Ok(()), "{name} and {again}");
    }
    let inside = zip(&[("photo.jpg", b"x")]);
    for name in ["more.ZIP", "more.zip", "a/more.cbz"] {
        assert_eq!(judged(&zip(&[("a", b"x"), (name, &inside)])), Ok(()));
    }
}

/// The archive with its only entry said to be packed by another method.
fn with_method(mut archive: Vec<u8>, method: u16) -> Vec<u8> {
    let record = records(&archive)[0];
    set(&mut archive, record + 10, method.to_le_bytes());
    set(&mut archive, 8, method.to_le_bytes());
    archive
}

#[test]
fn deflate64_is_unpacked_and_other_methods_are_refused_by_number() {
    // Without a run of 258 bytes and more, Deflate64 is written as Deflate is.
    let text = "dear diary, today I saw a gnu".repeat(3);
    let good = with_method(zip(&[("a", text.as_bytes())]), 9);
    assert_eq!(judged(&good), Ok(()));
    let mut damaged = good.clone();
    damaged[40] ^= 1;
    assert_eq!(judged(&damaged), Err(BadEntry::Damaged.at(1)));
    let mut bomb = good;
    let record = records(&bomb)[0];
    set(&mut bomb, record + 24, 20_u32.to_le_bytes());
    assert_eq!(
        judged(&bomb),
        Err(BadEntry::Damaged.at(1)),
        "it states less"
    );
    // Shrunk, imploded, bzip2, LZMA, Zstandard.
    for method in [1, 6, 12, 14, 93] {
        let other = with_method(zip(&[("a", b"x")]), method);
        assert_eq!(judged(&other), Err(BadEntry::Method.at(1)), "{method}");
    }
}

#[test]
fn a_file_that_is_not_an_archive_is_refused_as_such() {
    for bad in [
        &b""[..],
        b"PK",
        b"%PDF-1.7",
        b"PK\x03\x04 and nothing of the kind",
        b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    ] {
        assert_eq!(judged(bad), Err(BadZip::NotZip), "{bad:?}");
    }
}

#[test]
fn a_cut_archive_is_refused_and_no_changed_bit_breaks_the_check() {
    let whole = zip(&[
        ("a/", b""),
        ("a/b", b"some text, some text"),
        ("c", b"more"),
    ]);
    for length in 0..whole.len() {
        assert!(
            judged(&whole[..length]).is_err(),
            "{length} of {}",
            whole.len()
        );
    }
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut changed = whole.clone();
            changed[at] ^= 1 << bit;
            let _ = judged(&changed); // some bytes, such as those of times, may be anything
        }
    }
}

#[test]
fn a_bomb_is_found_by_its_stated_or_its_real_size() {
    let zeros = vec![0; 64 << 20];
    let mut bomb = zip(&[("zeros", &zeros)]);
    assert!(bomb.len() < 100_000);
    assert_eq!(judged(&bomb), Err(BadZip::Bomb));
    let record = records(&bomb)[0];
    set(&mut bomb, record + 24, 1000_u32.to_le_bytes());
    assert_eq!(
        judged(&bomb),
        Err(BadEntry::Damaged.at(1)),
        "it states a small size"
    );
    set(&mut bomb, record + 24, u32::MAX.to_le_bytes());
    assert_eq!(judged(&bomb), Err(BadZip::Bomb), "it states a huge size");

    let mut archive = ZipArchiveWriter::new(Vec::new());
    for n in 0..=MAX_ENTRIES {
        archive.new_dir(format!("{n}/")).create().unwrap();
    }
    assert_eq!(judged(&archive.finish().unwrap()), Err(BadZip::TooMany));
}

#[test]
fn entries_that_share_bytes_are_refused() {
    let mut archive = zip(&[("a", b"the same heap"), ("b", b"the same heap")]);
    let second = records(&archive)[1];
    set(&mut archive, second + 42, 0_u32.to_le_bytes());
    assert!(
        matches!(
            judged(&archive),
            Err(BadZip::Entry {
                why: BadEntry::Contradiction,
                ..
            })
        ),
        "{:?}",
        judged(&archive)
    );
}

#[test]
fn the_directory_and_an_entrys_own_header_must_agree() {
    let good = zip(&[("safe.txt", b"text")]);
    let mut renamed = good.clone();
    set(&mut renamed, 30, *b"../e.txt");
    assert_eq!(judged(&renamed), Err(BadEntry::Contradiction.at(1)));
    let record = records(&good)[0];
    let mut longer = good.clone();
    set(&mut longer, record + 20, 4000_u32.to_le_bytes());
    assert_eq!(
        judged(&longer),
        Err(BadEntry::Contradiction.at(1)),
        "its bytes would reach into the directory"
    );
}

#[test]
fn only_plain_unencrypted_files_are_accepted() {
    let good = zip(&[("a", b"text")]);
    let record = records(&good)[0];
    let changed = |at: usize, value: [u8; 2]| {
        let mut archive = good.clone();
        set(&mut archive, record + at, value);
        judged(&archive)
    };
    assert_eq!(
        changed(8, 1_u16.to_le_bytes()),
        Err(BadEntry::Encrypted.at(1))
    );
    assert_eq!(
        changed(10, 12_u16.to_le_bytes()),
        Err(BadEntry::Method.at(1))
    );
    let mut link = good.clone();
    link[record + 5] = 3; // made on Unix
    set(&mut link, record + 38, (0o120_777_u32 << 16).to_le_bytes());
    assert_eq!(judged(&link), Err(BadEntry::Special.at(1)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A directory of any bytes is judged, and an accepted archive stays within its folder.
    #[test]
    fn any_directory_is_judged(
        names in prop::collection::vec("[a./\\\\:\r]{0,8}", 1..5),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let entries: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &b""[..])).collect();
        let whole = zip(&entries);
        if judged(&whole).is_ok() {
            for name in &names {
                let mut parts = name.split(['/', '\\']);
                prop_assert!(!name.is_empty() && !name.starts_with(['/', '\\']) && parts.all(|part| part != ".."));
            }
        }
        let mut changed = whole.clone();
        for (at, byte) in changes {
            let at = at.index(changed.len());
            changed[at] = byte;
        }
        let _ = judged(&changed);
    }
}

#[test]
fn the_contents_are_counted_by_kind() {
    let archive = zip(&[
        ("posts/", b""),
        ("posts/1.JSON", b"{}"),
        ("media/a.b.jpg", b"12345"),
        ("media/._a.jpg", b"x"),
        ("media\\film.mp4", b"123"),
        ("README", b"1"),
    ]);
    let contents = check(&archive[..], archive.len() as u64).unwrap();
    assert_eq!(
        serde_json::to_value(&contents).unwrap(),
        serde_json::json!({"files": 5, "folders": 1, "bytes": 12, "kinds": {
            "data": {"files": 1, "bytes": 2},
            "films": {"files": 1, "bytes": 3},
            "other": {"files": 2, "bytes": 2},
            "pictures": {"files": 1, "bytes": 5},
        }})
    );
}
