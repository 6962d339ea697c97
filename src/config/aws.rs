//! What the variables of the AWS tools say of a place, for S3 storages that do not say it themselves.

use super::{env::Env, settings::Settings};

/// An endpoint and a region, each with the variable it is from.
#[derive(Debug, Clone, Default)]
pub(super) struct AwsEnv {
    endpoint: Option<(&'static str, String)>,
    region: Option<(&'static str, String)>,
}

impl AwsEnv {
    pub(super) fn of(env: &Env) -> Self {
        let first = |names: [&'static str; 2]| {
            names.into_iter().find_map(|name| Some((name, env.get(name)?.to_owned())))
        };
        Self {
            endpoint: first(["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]),
            region: first(["AWS_REGION", "AWS_DEFAULT_REGION"]),
        }
    }

    pub(super) fn endpoint(&self) -> Option<&str> {
        self.endpoint.as_ref().map(|(_, url)| url.as_str())
    }

    /// Fills in what `settings`, of an S3 storage, leave open.
    pub(super) fn complete(&self, settings: &mut Settings) {
        for (key, found) in [("endpoint", &self.endpoint), ("region", &self.region)] {
            if let Some((variable, value)) = found {
                settings.set_default(key, value, variable);
            }
        }
    }
}
