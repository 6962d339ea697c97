//! The tokens, and their files.

use std::{
    fmt, fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    constant_time::verify_slices_are_equal,
    digest::{SHA256, digest},
};
use parking_lot::RwLock;

use super::Role;
use crate::error::{Error, Kind, Result};

/// File names in the data folder.
const ADMIN_FILE: &str = "api-token";
const READER_FILE: &str = "api-token-read-only";
/// Random bytes in a token.
const RANDOM_BYTES: usize = 24;
/// Shortest token that the owner may write into the file.
const MIN_LEN: usize = 16;

/// The two tokens.
pub struct Tokens {
    data_dir: PathBuf,
    current: RwLock<Current>,
    is_new: bool,
}

struct Current {
    admin: String,
    reader: String,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tokens(…)")
    }
}

impl Tokens {
    /// Reads the tokens, and makes those that do not exist.
    pub(super) fn open(data_dir: &Path) -> Result<Self> {
        let (admin, is_new) = read_or_make(&data_dir.join(ADMIN_FILE))?;
        let (reader, _) = read_or_make(&data_dir.join(READER_FILE))?;
        let current = RwLock::new(Current { admin, reader });
        Ok(Self { data_dir: data_dir.to_owned(), current, is_new })
    }

    /// The token in a data folder, for its owner.
    ///
    /// # Errors
    /// `NotFound` before the first start of a daemon.
    pub fn stored(data_dir: &Path, read_only: bool) -> Result<String> {
        let path = data_dir.join(if read_only { READER_FILE } else { ADMIN_FILE });
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.trim().to_owned()),
            Err(e) => Err(Error::io(format!("token file {}", path.display()), e)
                .hint("the first start of the daemon makes it")),
        }
    }

    /// Replaces the tokens in a data folder that no daemon holds.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn replace(data_dir: &Path) -> Result<()> {
        Self::open(data_dir)?.rotate()
    }

    /// The token for everything, when this process made it: it is shown once.
    #[must_use]
    pub fn new_admin_token(&self) -> Option<String> {
        self.is_new.then(|| self.admin())
    }

    /// The token for everything. Only for its owner.
    #[must_use]
    pub fn admin(&self) -> String {
        self.current.read().admin.clone()
    }

    /// The token for reading. Only for its owner.
    #[must_use]
    pub fn reader(&self) -> String {
        self.current.read().reader.clone()
    }

    pub(super) fn rotate(&self) -> Result<()> {
        let admin = make(&self.data_dir.join(ADMIN_FILE))?;
        let reader = make(&self.data_dir.join(READER_FILE))?;
        *self.current.write() = Current { admin, reader };
        Ok(())
    }

    /// Takes the same time for all texts of a length, so that it does not reveal how much of a token is right.
    pub(super) fn role_of(&self, text: &str) -> Option<Role> {
        let current = self.current.read();
        let given = digest(&SHA256, text.as_bytes());
        let is_token = |token: &str| {
            let token = digest(&SHA256, token.as_bytes());
            verify_slices_are_equal(token.as_ref(), given.as_ref()).is_ok()
        };
        let (is_admin, is_reader) = (is_token(&current.admin), is_token(&current.reader));
        match (is_admin, is_reader) {
            (true, _) => Some(Role::Admin),
            (false, true) => Some(Role::Reader),
            (false, false) => None,
        }
    }
}

fn read_or_make(path: &Path) -> Result<(String, bool)> {
    let context = || format!("token file {}", path.display());
    match fs::read_to_string(path) {
        Ok(text) => {
            let token = text.trim();
            if token.len() < MIN_LEN || !token.bytes().all(|b| b.is_ascii_graphic()) {
                let text = format!("{}: not a token of {MIN_LEN} characters or more", context());
                return Err(Error::new(Kind::InvalidInput, text)
                    .hint("remove the file, and the next start makes another"));
            }
            Ok((token.to_owned(), false))
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok((make(path)?, true)),
        Err(e) => Err(Error::io(context(), e)),
    }
}

/// Writes a random token, readable by its owner only from the first moment.
fn make(path: &Path) -> Result<String> {
    let mut bytes = [0; RANDOM_BYTES];
    getrandom::fill(&mut bytes)
        .map_err(|e| Error::new(Kind::Internal, format!("no randomness: {e}")))?;
    let token = crate::catalog::hex(&bytes);
    let temp = path.with_extension("new");
    let write = || {
        let _ = fs::remove_file(&temp);
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temp)?;
        file.write_all(format!("{token}\n").as_bytes())?;
        file.sync_all()?;
        fs::rename(&temp, path)
    };
    write().map_err(|e| Error::io(format!("token file {}", path.display()), e))?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn tokens_are_made_once_private_and_replaced_by_a_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(dir.path()).unwrap();
        let shown = tokens.new_admin_token().unwrap();
        assert_eq!(tokens.role_of(&shown), Some(Role::Admin));
        assert_eq!(tokens.role_of(&tokens.reader()), Some(Role::Reader));
        assert_eq!((tokens.role_of(""), tokens.role_of("x")), (None, None));
        let mode = fs::metadata(dir.path().join(ADMIN_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let again = Tokens::open(dir.path()).unwrap();
        assert_eq!((again.new_admin_token(), again.admin()), (None, shown.clone()));
        again.rotate().unwrap();
        assert_eq!(again.role_of(&shown), None);
        assert_eq!(Tokens::open(dir.path()).unwrap().admin(), again.admin());
        assert!(!format!("{again:?}").contains(&again.admin()));
    }

    #[test]
    fn a_short_token_in_the_file_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(ADMIN_FILE), "admin\n").unwrap();
        assert_eq!(Tokens::open(dir.path()).unwrap_err().kind(), Kind::InvalidInput);
    }
}
