//! `transfer/…`: rates and limits of all downloads together.

use super::{
    Dialect,
    answer::{Answer, Refusal, done, json, text},
    params::Params,
    server_state::sums,
};
use crate::queue::RateLimits;

impl Dialect {
    pub(super) fn transfer_info(&self) -> Answer {
        let mut state = self.transfer_state(&sums(&self.downloads()));
        for (name, value) in [
            ("queueing", true.into()),
            ("use_alt_speed_limits", false.into()),
            ("refresh_interval", 1500.into()),
        ] {
            state.insert(name.to_owned(), value);
        }
        Ok(json(&state))
    }

    /// The limit of all downloads together in bytes per second; 0 is none.
    pub(super) fn rate_limit(&self, is_upload: bool) -> Answer {
        let rates = self.queue().rates();
        let rate = if is_upload { rates.upload } else { rates.download };
        Ok(text(rate.unwrap_or(0).to_string()))
    }

    pub(super) async fn set_rate_limit(&self, params: &Params, is_upload: bool) -> Answer {
        let limit =
            params.int("limit")?.ok_or_else(|| Refusal::bad("the parameter limit is missing"))?;
        let rate = u64::try_from(limit).ok().filter(|limit| *limit > 0);
        let rates = self.queue().rates();
        let rates = match is_upload {
            true => RateLimits { upload: rate, ..rates },
            false => RateLimits { download: rate, ..rates },
        };
        self.queue().set_rates(rates).await?;
        Ok(done())
    }
}
