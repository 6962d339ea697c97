//! Hints: what the user can do about an error.
//!
//! A hint is text in which settings and operations are typed values. A surface walks through [`Hint::parts`] and writes
//! each value by its name there: the command line as a flag or command, an API as a field or call. `Display` writes
//! neutral names, like `the setting "memory"`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What the user can do about an error. Built by the macro `hint!`, by [`Hint::then`], or from a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hint(Vec<HintPart>);

/// A part of a hint.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HintPart {
    Text(String),
    /// A setting of bae, and the value to give it.
    Setting {
        setting: Setting,
        value: Option<String>,
    },
    /// An operation of bae, and the import or storage to call it for.
    Operation {
        operation: Operation,
        target: Option<String>,
    },
}

/// A hint of several parts: texts, settings, operations and other hints.
macro_rules! hint {
    ($($part:expr),+ $(,)?) => {
        $crate::hints::Hint::default()$(.then($part))+
    };
}
pub(crate) use hint;

/// An enum with the neutral name of each variant, and a list of all variants.
macro_rules! named {
    ($(#[$doc:meta])* $enum:ident { $($(#[$variant_doc:meta])* $variant:ident = $name:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $enum {
            $($(#[$variant_doc])* $variant,)+
        }

        impl $enum {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The neutral name.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)+
                }
            }
        }
    };
}

named! {
    /// A setting that a hint can name.
    Setting {
        /// Fingerprint of the SSH host key to accept.
        AcceptHostKey = "accept_host_key",
        /// The header `Authorization` of each request, with a reference to a secret.
        AuthorizationHeader = "header Authorization",
        /// Certificates to trust in addition to the system's.
        CaCertificates = "cacert",
        ConfigFile = "config",
        /// Resume a download without proof of the same version if the length matches.
        ContinueByLength = "continue",
        DataDir = "data_dir",
        /// Folder on Google Drive.
        DriveFolder = "drive_folder",
        /// Access token for Google Drive.
        DriveToken = "drive_token",
        DryRun = "dry_run",
        /// Start over, without the partial data.
        Fresh = "fresh",
        FtpActive = "ftp_active",
        /// Private key for SSH.
        Identity = "identity",
        /// An IPFS gateway to fetch from.
        IpfsGateway = "ipfs_gateway",
        /// A server that knows which gateways have a block.
        IpfsRouter = "ipfs_router",
        /// Name of one of several downloaded files.
        ItemName = "out",
        Memory = "memory",
        /// Keep the list and segments of a stream as files.
        MirrorStream = "mirror",
        Netrc = "netrc",
        /// Folder of downloaded files.
        OutFolder = "dir",
        /// Name of the downloaded file.
        OutName = "out",
        Overwrite = "overwrite",
        Password = "password",
        /// A peer to connect to.
        Peer = "peer",
        Proxy = "proxy",
        /// User and password of the proxy.
        ProxyLogin = "proxy",
        /// Last byte to download.
        RangeEnd = "range_end",
        /// Replace the storage of the same name.
        ReplaceStorage = "force",
        Seed = "seed",
        /// The files to import.
        Select = "select",
        Storage = "storage",
        /// Language of the subtitles to fetch.
        Subtitles = "subtitles",
        Timeout = "timeout",
        /// User of a login.
        User = "user",
        /// Log each request.
        VerboseLog = "verbose",
        /// Maximum connections to one server.
        Workers = "workers",
    }
}

named! {
    /// An operation that a hint can name.
    Operation {
        AddStorage = "add a storage",
        AnswerPrompt = "answer a prompt",
        AttachStorage = "attach",
        CheckStorage = "storage check",
        /// Find leftovers in storage.
        FindLeftovers = "gc",
        Get = "get",
        Import = "import",
        /// Import, and serve the files to players meanwhile.
        ImportAndStream = "import with stream",
        ImportInfo = "import info",
        ListImports = "list of imports",
        Publish = "publish",
        RemoveImport = "remove import",
        /// Remove leftovers in storage.
        RemoveLeftovers = "gc with removal",
        /// Fetch damaged pieces again.
        Repair = "repair",
        /// The operation that failed.
        Same = "same",
        /// Sign in to the storage.
        StorageLogin = "storage login",
    }
}

impl Setting {
    /// The setting with a value.
    #[must_use]
    pub fn with(self, value: impl fmt::Display) -> HintPart {
        HintPart::Setting { setting: self, value: Some(value.to_string()) }
    }
}

impl Operation {
    /// The operation on an import or a storage.
    #[must_use]
    pub fn on(self, target: impl fmt::Display) -> HintPart {
        HintPart::Operation { operation: self, target: Some(target.to_string()) }
    }
}

impl Hint {
    /// Appends a text, a setting, an operation, or the parts of another hint.
    #[must_use]
    pub fn then(mut self, more: impl Into<Self>) -> Self {
        self.0.extend(more.into().0);
        self
    }

    #[must_use]
    pub fn parts(&self) -> &[HintPart] {
        &self.0
    }

    /// Whether the hint names this setting.
    #[must_use]
    pub fn names_setting(&self, setting: Setting) -> bool {
        let is_it =
            |part: &HintPart| matches!(part, HintPart::Setting { setting: s, .. } if *s == setting);
        self.0.iter().any(is_it)
    }

    /// Whether the hint names this operation.
    #[must_use]
    pub fn names_operation(&self, operation: Operation) -> bool {
        let is_it = |part: &HintPart| matches!(part, HintPart::Operation { operation: o, .. } if *o == operation);
        self.0.iter().any(is_it)
    }
}

impl From<HintPart> for Hint {
    fn from(part: HintPart) -> Self {
        Self(vec![part])
    }
}

impl From<&str> for Hint {
    fn from(text: &str) -> Self {
        HintPart::Text(text.to_owned()).into()
    }
}

impl From<String> for Hint {
    fn from(text: String) -> Self {
        HintPart::Text(text).into()
    }
}

impl From<Setting> for Hint {
    fn from(setting: Setting) -> Self {
        HintPart::Setting { setting, value: None }.into()
    }
}

impl From<Operation> for Hint {
    fn from(operation: Operation) -> Self {
        HintPart::Operation { operation, target: None }.into()
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the setting {:?}", self.name())
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => f.write_str("the same operation"),
            Self::AnswerPrompt => f.write_str(self.name()),
            _ => write!(f, "the operation {:?}", self.name()),
        }
    }
}

impl fmt::Display for HintPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Setting { setting, value: None } => write!(f, "{setting}"),
            Self::Setting { setting, value: Some(value) } => write!(f, "{setting} = {value}"),
            Self::Operation { operation, target: None } => write!(f, "{operation}"),
            Self::Operation { operation, target: Some(target) } => {
                write!(f, "{operation} of {target}")
            }
        }
    }
}

impl fmt::Display for Hint {
    /// The hint in neutral words.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| write!(f, "{part}"))
    }
}

impl Serialize for Hint {
    /// Serialises the text with neutral names. The command line inserts its names before.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_hint_has_neutral_words_for_settings_and_operations() {
        let raise = hint!["raise it with ", Setting::Memory.with("256MiB")];
        assert_eq!(raise.to_string(), "raise it with the setting \"memory\" = 256MiB");
        let list = hint![Operation::ImportInfo.on("9c4e"), " lists them"];
        assert_eq!(list.to_string(), "the operation \"import info\" of 9c4e lists them");
        let again = hint!["run ", Operation::Same, " again"];
        assert_eq!(hint![again, "; ", list].parts().len(), 6);
    }

    #[test]
    fn a_hint_knows_the_settings_and_operations_that_it_names() {
        let hint = hint!["use ", Setting::Select, ", or ", Operation::Import];
        assert!(hint.names_setting(Setting::Select) && !hint.names_setting(Setting::Seed));
        assert!(hint.names_operation(Operation::Import) && !hint.names_operation(Operation::Get));
    }

    #[test]
    fn json_has_the_text_of_a_hint() {
        let hint = hint!["leave out ", Setting::Seed];
        let json = serde_json::to_string(&hint).unwrap();
        assert_eq!(json, r#""leave out the setting \"seed\"""#);
        let read: Hint = serde_json::from_str(&json).unwrap();
        assert_eq!(read.to_string(), hint.to_string());
    }

    #[test]
    fn operations_have_names_of_their_own() {
        let names: HashSet<_> = Operation::ALL.iter().map(|operation| operation.name()).collect();
        assert_eq!(names.len(), Operation::ALL.len());
    }
}
