//! The endpoint that the variables of the AWS tools name, for S3 storages that name none themselves.
//!
//! Only the endpoint, since it says which place is meant. The region and the credentials are looked for where AWS tools
//! look for them when the place is opened: some places fix their region, whatever `AWS_REGION` says for AWS.

use super::{env::Env, settings::Settings};

/// An endpoint, with the variable it is from.
#[derive(Debug, Clone, Default)]
pub(super) struct AwsEnv(Option<(&'static str, String)>);

impl AwsEnv {
    pub(super) fn of(env: &Env) -> Self {
        let found = |name: &&'static str| Some((*name, env.get(name)?.to_owned()));
        Self(["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].iter().find_map(found))
    }

    pub(super) fn endpoint(&self) -> Option<&str> {
        self.0.as_ref().map(|(_, url)| url.as_str())
    }

    /// Fills in what `settings`, of an S3 storage, leave open.
    pub(super) fn complete(&self, settings: &mut Settings) {
        if let Some((variable, url)) = &self.0 {
            settings.set_default("endpoint", url, variable);
        }
    }
}
