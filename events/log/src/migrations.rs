//! The migrations, compiled in. They are listed by hand, because the macro `sqlx::migrate!`
//! compiles sqlx, rustls and tokio a second time, for the machine that builds.

use std::{borrow::Cow, future::Future, pin::Pin};

use sqlx::{
    error::BoxDynError,
    migrate::{Migration, MigrationSource, MigrationType},
};

/// The migrations of one store, in the order in which they run: file name and text.
///
/// Invariant: both stores have the same names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Migrations(&'static [(&'static str, &'static str)]);

macro_rules! migrations {
    ($store:literal) => {
        Migrations(migrations!(
            $store,
            "0001_log.sql",
            "0002_keys.sql",
            "0003_secrets.sql",
            "0004_elections.sql",
            "0005_tree.sql",
            "0006_idempotency.sql",
            "0007_snapshots.sql",
            "0008_leases.sql",
            "0009_unfinished.sql",
            "0010_sessions.sql",
            "0011_directus.sql",
            "0012_blobs.sql",
            "0013_forgetting.sql",
            "0014_read_tables.sql",
        ))
    };
    ($store:literal, $($file:literal),+ $(,)?) => {
        &[$(($file, include_str!(concat!("../../../migrations/", $store, "/", $file)))),+]
    };
}

pub(crate) const POSTGRES: Migrations = migrations!("postgres");
pub(crate) const SQLITE: Migrations = migrations!("sqlite");

impl MigrationSource<'static> for Migrations {
    fn resolve(
        self,
    ) -> Pin<Box<dyn Future<Output = Result<Vec<Migration>, BoxDynError>> + Send + 'static>> {
        let migrations = self.0.iter().map(|(file, sql)| migration(file, sql));
        Box::pin(std::future::ready(migrations.collect()))
    }
}

/// Reads number and description from the name, as sqlx does: `0014_read_tables.sql` is 14,
/// "read tables".
fn migration(file: &'static str, sql: &'static str) -> Result<Migration, BoxDynError> {
    let name = file.trim_end_matches(".sql");
    let (number, description) = name.split_once('_').ok_or("no number before `_`")?;
    Ok(Migration::new(
        number.parse()?,
        Cow::Owned(description.replace('_', " ")),
        MigrationType::Simple,
        Cow::Borrowed(sql),
        false,
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sqlx::migrate::Migrator;

    use super::*;

    /// Compares with sqlx's own reading of the folder: every file, with number, description and
    /// checksum.
    async fn assert_is_folder(listed: Migrations, store: &str) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../migrations")
            .join(store);
        let listed = Migrator::new(listed).await.unwrap();
        let folder = Migrator::new(folder.as_path()).await.unwrap();
        let seen = |migrator: &Migrator| -> Vec<_> {
            migrator
                .iter()
                .map(|one| (one.version, one.description.clone(), one.checksum.clone()))
                .collect()
        };
        assert_eq!(seen(&listed), seen(&folder), "{store}");
        assert!(folder.iter().all(|one| !one.no_tx));
    }

    #[tokio::test]
    async fn every_file_is_listed() {
        assert_is_folder(POSTGRES, "postgres").await;
        assert_is_folder(SQLITE, "sqlite").await;
    }

    #[test]
    fn both_stores_have_the_same_names() {
        let names = |migrations: Migrations| migrations.0.iter().map(|(file, _)| *file);
        assert!(names(POSTGRES).eq(names(SQLITE)));
    }

    #[test]
    fn numbers_have_no_gap() {
        for (at, (file, sql)) in POSTGRES.0.iter().enumerate() {
            let number = migration(file, sql).unwrap().version;
            assert_eq!(number, i64::try_from(at + 1).unwrap(), "{file}");
        }
    }
}
