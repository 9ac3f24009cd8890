//! The page `docs/operating/configuration.md`: a table of all settings.

use super::settings::{SETTINGS, Setting};

const HEAD: &str = "\
# Configuration

**What to do.** A first start needs nothing. For a server that others depend on, set at least `DATABASE_URL`,
`RBAC_SYNC_WEBHOOK_SECRET`, `CORS_ORIGINS`, `TRUSTED_PROXIES` and `GENIE_FORGOTTEN_FILE`, and `HOST` if the proxy is on another machine.
Then run `genie config`: it prints what is in force, with secrets masked.

- Settings come from the environment. A file `.env` in the working directory fills in what the environment lacks.
- An empty value counts as absent.
- A value that cannot be understood stops the start, and every such value is named at once.
- An unknown name that begins with `GENIE_` is ignored. The server and `genie config` warn of it and name the nearest setting.
- With `GENIE_BLOBS_URL` the variables of the AWS tools (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_REGION`,
  `AWS_ENDPOINT_URL` and others that begin with `AWS_`) are handed to the bucket's client.
- Changes take effect at the next start. The file of master keys is the exception: it is read again within five seconds.

This page is printed by `genie config --markdown`, and a test compares the two.

| name | default | value | secret | what it is for |
|---|---|---|---|---|
";

pub fn page() -> String {
    SETTINGS
        .iter()
        .fold(HEAD.to_owned(), |page, setting| page + &row(setting))
}

fn row(setting: &Setting) -> String {
    let default = match setting.default {
        "" => String::new(),
        default => format!("`{default}`"),
    };
    let secret = if setting.is_secret() { "yes" } else { "" };
    let name = setting.name;
    let value = setting.form_in_words();
    let about = setting.about;
    format!("| `{name}` | {default} | {value} | {secret} | {about} |\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_in_the_documents_equals_the_printed_page() {
        assert!(
            include_str!("../../docs/operating/configuration.md") == page(),
            "write it anew: genie config --markdown > docs/operating/configuration.md"
        );
    }
}
