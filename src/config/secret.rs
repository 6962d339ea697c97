//! A secret: its text, or where to read it. It is never displayed.

use std::{fmt, process::Command};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};

use crate::error::{Error, Kind, Result};

/// A secret in a profile. `Debug` shows the variant, never the secret.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The secret itself.
    Text(String),
    /// The name of the environment variable that holds it.
    Env(String),
    /// A command for `sh -c` that prints it.
    Command(String),
}

impl Secret {
    /// The secret without surrounding white space, which commands, editors and files add. Runs the command, and blocks
    /// until it ends.
    ///
    /// # Errors
    /// `Unauthenticated` when the variable is not set, or the command fails or prints nothing.
    pub fn reveal(&self) -> Result<String> {
        let missing = |why: String| Error::new(Kind::Unauthenticated, why);
        let found = match self {
            Self::Text(text) => text.clone(),
            Self::Env(name) => std::env::var(name).map_err(|e| {
                missing(format!("cannot read the secret in the environment variable {name}"))
                    .because(e)
            })?,
            Self::Command(command) => {
                let output = Command::new("sh").args(["-c", command]).output();
                let output = output.map_err(|e| {
                    missing("cannot run the command for a secret".into()).because(e)
                })?;
                if !output.status.success() {
                    return Err(missing(format!(
                        "the command for a secret failed: {}",
                        output.status
                    )));
                }
                String::from_utf8(output.stdout)
                    .map_err(|_| missing("the command for a secret printed invalid UTF-8".into()))?
            }
        };
        let found = found.trim();
        if found.is_empty() {
            return Err(missing(format!("{self:?} is empty")));
        }
        Ok(found.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(_) => f.write_str("a secret"),
            Self::Env(name) => write!(f, "a secret in ${name}"),
            // The command itself may contain the secret.
            Self::Command(_) => f.write_str("a secret from a command"),
        }
    }
}

/// A value of a profile, as in the config file.
#[derive(Clone)]
pub(super) enum SettingValue {
    Text(String),
    /// `{ env = … }` or `{ command = … }`.
    Secret(Secret),
}

impl<'de> Deserialize<'de> for SettingValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = SettingValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text, a number, true or false, { env = \"VAR\" } or { command = \"…\" }")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<SettingValue, E> {
        Ok(SettingValue::Text(text.to_owned()))
    }

    fn visit_bool<E: de::Error>(self, flag: bool) -> Result<SettingValue, E> {
        Ok(SettingValue::Text(flag.to_string()))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<SettingValue, E> {
        Ok(SettingValue::Text(number.to_string()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<SettingValue, A::Error> {
        let invalid = || de::Error::custom("a secret is { env = \"VAR\" } or { command = \"…\" }");
        let (key, value) = map.next_entry::<String, String>()?.ok_or_else(invalid)?;
        let secret = match key.as_str() {
            "env" => Secret::Env(value),
            "command" => Secret::Command(value),
            _ => return Err(invalid()),
        };
        if map.next_key::<String>()?.is_some() {
            return Err(invalid());
        }
        Ok(SettingValue::Secret(secret))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_never_shows_a_secret() {
        let shown = format!(
            "{:?} {:?} {:?}",
            Secret::Text("hunter2".into()),
            Secret::Env("KEY".into()),
            Secret::Command("echo hunter2".into())
        );
        assert_eq!(shown, "a secret a secret in $KEY a secret from a command");
    }

    #[test]
    fn a_command_returns_its_output() {
        assert_eq!(Secret::Command("echo s3cr3t".into()).reveal().unwrap(), "s3cr3t");
        assert_eq!(Secret::Text(" s3cr3t\r\n".into()).reveal().unwrap(), "s3cr3t");
        for bad in [Secret::Command("exit 3".into()), Secret::Command("true".into())] {
            assert_eq!(bad.reveal().unwrap_err().kind(), Kind::Unauthenticated);
        }
        assert!(Secret::Env("BAE_NO_SUCH_VARIABLE".into()).reveal().is_err());
    }
}
