//! nginx, from a configuration that needs nothing of the system's.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// Writes a configuration with that server in it into a directory, where nginx also keeps what it needs; gives the file.
/// It stays in the foreground.
pub(super) fn configure(directory: &Path, server: &str) -> Result<PathBuf> {
    let at = directory.display();
    let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let folders: String = folders.iter().map(|kind| format!("{kind}_temp_path {at}/{kind};\n")).collect();
    let file = directory.join("nginx.conf");
    fs::write(
        &file,
        format!(
            "daemon off;\npid {at}/nginx.pid;\nerror_log stderr;\nevents {{}}\n\
             http {{\n{folders}access_log off;\nserver {{ {server} }}\n}}\n"
        ),
    )?;
    Ok(file)
}
