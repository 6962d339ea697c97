//! The monthly budget of the seeder: slows seeding down before the budget is used up, and pauses it then.

use super::{
    limits::{SeedThrottle, seed_throttle},
    seeding::Seeding,
};
use crate::{
    calendar::Utc, config::CloudBudget, engine::usage::priced_usage, error::Result, events::Event,
    units::ByteSize,
};

impl Seeding {
    /// Slows down or stops seeding according to the monthly budget.
    pub(super) async fn apply_budget(&mut self) -> Result<()> {
        let Some(budget) = self.cloud_budget() else { return Ok(()) };
        let now = Utc::now();
        let (mut fetched, mut dollars) = (0, 0.0);
        let used = self.engine.catalog.usage_by_storage(Some(&now.year_month())).await?;
        for (storage, usage) in used {
            // A storage that is no longer configured counts as remote.
            let is_local =
                self.engine.storage(&storage).await.is_ok_and(|p| !p.backend.is_remote());
            if !is_local {
                fetched += usage.all_fetched();
                dollars +=
                    priced_usage(&self.engine.config, &storage, &usage).dollars.unwrap_or(0.0);
            }
        }
        let throttle = seed_throttle(budget, fetched, dollars, now.seconds_to_next_month());
        if std::mem::replace(&mut self.throttle, throttle) == throttle {
            return Ok(());
        }
        let used = match budget {
            CloudBudget::Bytes(_) => CloudBudget::Bytes(ByteSize(fetched)),
            CloudBudget::Dollars(_) => CloudBudget::Dollars(dollars),
        };
        let text = throttle_text(throttle, used, budget);
        tracing::warn!("{text}");
        self.engine.events.send(Event::Notice { id: None, text });
        self.torrents.set_budget_limit(match throttle {
            SeedThrottle::Limited(rate) => Some(rate),
            SeedThrottle::Unlimited | SeedThrottle::Paused => None,
        })?;
        self.active.values().for_each(|import| {
            if throttle == SeedThrottle::Paused { import.pause() } else { import.resume() }
        });
        Ok(())
    }
}

fn throttle_text(throttle: SeedThrottle, used: CloudBudget, budget: CloudBudget) -> String {
    match throttle {
        SeedThrottle::Unlimited => {
            "new month: the cloud budget is available, seeding at full speed".to_owned()
        }
        SeedThrottle::Limited(rate) => format!(
            "{used} of this month's cloud budget of {budget} are used: seeding is limited to {}/s",
            ByteSize(rate)
        ),
        SeedThrottle::Paused => format!(
            "this month's cloud budget of {budget} is used up: seeding is paused until next month"
        ),
    }
}
