//! The data folder, which only its owner may enter.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use genie_log::testing::{TestStore, both_stores};

use crate::test_genie::TestGenie;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Everything in the folder that others may read, enter or change.
fn open_to_others(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if mode(&path) & 0o077 != 0 {
            found.push(format!("{} {:o}", path.display(), mode(&path)));
        }
        if path.is_dir() {
            found.extend(open_to_others(&path));
        }
    }
    found
}

both_stores!(
    others_may_neither_enter_the_data_folder_nor_read_its_files,
    async |store: TestStore| {
        let folder = store.folder().to_owned();
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        let mut genie = TestGenie::start_process(store).await;
        let ada = genie.user("ada").await;
        ada.submit_job(&genie).await;
        assert_eq!(mode(&folder), 0o700);
        assert_eq!(open_to_others(&folder), [""; 0]);

        // As an earlier release left it.
        genie.kill().await;
        let file = folder.join("genie.lock");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        genie.launch_again().await;
        assert_eq!(open_to_others(&folder), [""; 0]);
    }
);
