//! The S3 endpoint from the variables of the AWS tools, for S3 storages that set none.
//!
//! Only the endpoint is taken, since it identifies the storage. The region and the credentials are looked up when the
//! storage is opened, in the same sources as in AWS tools. Some providers have a fixed region, whatever `AWS_REGION`
//! says for AWS.

use super::{env::Env, settings::ProfileSettings};

/// An endpoint and the variable that it comes from.
#[derive(Debug, Clone, Default)]
pub(super) struct AwsEndpoint(Option<(&'static str, String)>);

impl AwsEndpoint {
    pub(super) fn of(env: &Env) -> Self {
        let found = |name: &&'static str| Some((*name, env.get(name)?.to_owned()));
        Self(["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"].iter().find_map(found))
    }

    pub(super) fn url(&self) -> Option<&str> {
        self.0.as_ref().map(|(_, url)| url.as_str())
    }

    /// Sets the endpoint of an S3 storage that has none in `settings`.
    pub(super) fn fill_endpoint(&self, settings: &mut ProfileSettings) {
        if let Some((variable, url)) = &self.0 {
            settings.set_default("endpoint", url, variable);
        }
    }
}
