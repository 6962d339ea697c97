//! Changes that clients request. Each is committed, for all of its downloads or none, before it returns.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    Queue,
    add::{check_name, check_settings},
    categories::unknown,
    download::{Download, DownloadId, Priority, RateLimits, SeedLimits},
    service::{not_found, record},
    state::{Seeding, State},
};
use crate::error::{Error, Kind, Result};

/// A change of settings. `None` leaves a setting as it is.
#[derive(Debug, Clone, Default)]
pub struct Change {
    pub name: Option<String>,
    /// `Some(None)` removes the category. A new one does not move data to another storage.
    pub category: Option<Option<String>>,
    pub add_tags: BTreeSet<String>,
    pub remove_tags: BTreeSet<String>,
    pub priority: Option<Priority>,
    pub limits: Option<RateLimits>,
    pub seed_limits: Option<SeedLimits>,
    pub start_after: Option<Option<u64>>,
    pub forced: Option<bool>,
    pub sequential: Option<bool>,
    /// Takes effect at the next start of the download.
    pub select: Option<Option<String>>,
    /// Sets values of an API; an empty value removes one.
    pub extra: std::collections::BTreeMap<String, String>,
}

/// Where to move a download in the order of its priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    First,
    Last,
    Earlier,
    Later,
    /// To this index, from 0.
    To(usize),
}

impl Change {
    fn apply(&self, download: &mut Download) {
        let settings = &mut download.settings;
        if let Some(name) = &self.name {
            download.name.clone_from(name);
        }
        if let Some(category) = &self.category {
            settings.category.clone_from(category);
        }
        settings.tags.extend(self.add_tags.iter().cloned());
        settings.tags.retain(|tag| !self.remove_tags.contains(tag));
        settings.priority = self.priority.unwrap_or(settings.priority);
        settings.limits = self.limits.unwrap_or(settings.limits);
        settings.seed_limits = self.seed_limits.unwrap_or(settings.seed_limits);
        settings.start_after = self.start_after.unwrap_or(settings.start_after);
        settings.forced = self.forced.unwrap_or(settings.forced);
        settings.sequential = self.sequential.unwrap_or(settings.sequential);
        if let Some(select) = &self.select {
            settings.select.clone_from(select);
        }
        for (name, value) in &self.extra {
            match value.is_empty() {
                true => drop(settings.extra.remove(name)),
                false => drop(settings.extra.insert(name.clone(), value.clone())),
            }
        }
    }
}

impl Queue {
    /// Changes settings of downloads. Limits take effect at once.
    ///
    /// # Errors
    /// `NotFound` when a download or the category does not exist; `InvalidInput` for a value that is not usable.
    pub async fn update(&self, ids: &[DownloadId], change: &Change) -> Result<()> {
        if let Some(Some(name)) = &change.category
            && self.category(name).is_none()
        {
            return Err(unknown(name));
        }
        change.name.as_ref().map_or(Ok(()), |name| check_name(name))?;
        self.change(ids, |download| {
            change.apply(download);
            check_settings(&download.settings)
        })
        .await?;
        ids.iter().for_each(|id| self.apply_settings(id));
        Ok(())
    }

    /// Stops downloads and keeps them. What is durable stays. A finished torrent stops seeding.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn pause(&self, ids: &[DownloadId]) -> Result<()> {
        self.change(ids, |download| {
            match download.state {
                State::Done => {
                    if matches!(download.seeding, Seeding::Waiting | Seeding::Active) {
                        download.seeding = Seeding::Paused;
                    }
                }
                // The bytes are stored already.
                State::Exporting => {}
                _ => download.state = State::Paused,
            }
            Ok(())
        })
        .await?;
        ids.iter().for_each(|id| self.stop_run(id));
        Ok(())
    }

    /// Lets paused downloads go on, when there is a slot. A paused torrent is seeded again.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn resume(&self, ids: &[DownloadId]) -> Result<()> {
        self.change(ids, |download| {
            match (&download.state, download.seeding) {
                (State::Paused, _) => download.state = State::Queued,
                (State::Done, Seeding::Paused | Seeding::GoalReached) => {
                    download.seeding = Seeding::Waiting;
                }
                _ => {}
            }
            Ok(())
        })
        .await
        .map(drop)
    }

    /// Tries failed downloads again, and those that wait for their next try. A finished one is checked again for bytes
    /// that are missing.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn retry(&self, ids: &[DownloadId]) -> Result<()> {
        self.change(ids, |download| {
            match download.state {
                State::Failed { .. } | State::Retrying { .. } | State::Done => {
                    download.state = State::Queued;
                    download.tries = 0;
                }
                _ => {}
            }
            Ok(())
        })
        .await?;
        // A seeded import has a writer; it is seeded again when it is complete.
        ids.iter().for_each(|id| self.stop_seeding_of(id));
        Ok(())
    }

    /// Moves downloads in the order of their priority. Several keep their order among themselves.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn move_to(&self, ids: &[DownloadId], to: Move) -> Result<()> {
        let changes = self.0.changes.lock().await;
        let mut moved = Vec::new();
        for id in ids {
            moved.push(self.get(id)?);
        }
        let mut changed = Vec::new();
        for priority in [Priority::High, Priority::Normal, Priority::Low] {
            let order = self.0.store.read().in_order(priority);
            let wanted = |d: &Arc<Download>| moved.iter().any(|moved| moved.number == d.number);
            let slots: Vec<i64> = order.iter().map(|download| download.position).collect();
            let is_moved: Vec<bool> = order.iter().map(wanted).collect();
            let after = reordered(&is_moved, to);
            let after = after.into_iter().map(|index| &order[index]);
            // Equal positions would leave the order to the numbers: they become strictly increasing.
            let mut previous = i64::MIN;
            for (download, slot) in after.zip(slots) {
                let position = slot.max(previous.saturating_add(1));
                previous = position;
                if position != download.position {
                    changed.push(Download { position, ..Download::clone(download) });
                }
            }
        }
        self.commit(changed).await?;
        drop(changes);
        self.0.wake.notify_one();
        Ok(())
    }

    /// Removes downloads from the queue, running or not. `with_data` also removes their imports with the stored
    /// objects, in the background; the removal goes on after a restart. Without it, the import stays.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn remove(&self, ids: &[DownloadId], with_data: bool) -> Result<()> {
        let changes = self.0.changes.lock().await;
        let mut removed = Vec::new();
        for id in ids.iter().collect::<BTreeSet<_>>() {
            let download = Download::clone(&*self.get(id)?);
            removed.push(Download { removing: Some(with_data), ..download });
        }
        let records = removed.iter().map(|d| Ok((d.number, record(d)?)));
        self.catalog().update_downloads(records.collect::<Result<_>>()?).await?;
        for download in &removed {
            self.0.runs.removals.lock().begin(download);
            let mut store = self.0.store.write();
            store.remove(download.number);
            self.0.revision.send_replace(store.revision());
            drop(store);
            self.report(download, "removed", Some(download));
        }
        drop(changes);
        removed.into_iter().for_each(|download| self.spawn_removal(download));
        self.0.wake.notify_one();
        Ok(())
    }

    /// Changes downloads, all or none.
    pub(super) async fn change(
        &self,
        ids: &[DownloadId],
        mut change: impl FnMut(&mut Download) -> Result<()>,
    ) -> Result<Vec<Arc<Download>>> {
        let changes = self.0.changes.lock().await;
        let mut changed = Vec::new();
        for id in ids {
            let known = self.get(id)?;
            let mut download = Download::clone(&known);
            change(&mut download)?;
            if download != *known {
                changed.push(download);
            }
        }
        let changed = self.commit(changed).await?;
        drop(changes);
        self.0.wake.notify_one();
        Ok(changed)
    }

    /// Commits and publishes changed downloads. Called with `changes` held.
    async fn commit(&self, changed: Vec<Download>) -> Result<Vec<Arc<Download>>> {
        if changed.is_empty() {
            return Ok(Vec::new());
        }
        let records = changed.iter().map(|download| Ok((download.number, record(download)?)));
        self.catalog().update_downloads(records.collect::<Result<_>>()?).await?;
        let publish = |mut download: Download| {
            let known = self.by_number(download.number);
            if download.state.name() != super::StateName::Downloading {
                download.progress.settle_unless(download.seeding == Seeding::Active);
            }
            self.publish(download, known.as_deref())
        };
        Ok(changed.into_iter().map(publish).collect())
    }

    /// As [`Queue::commit`], for one. Called with `changes` held.
    pub(super) async fn commit_one(&self, download: Download) -> Result<Arc<Download>> {
        let committed = self.commit(vec![download]).await?;
        self.0.wake.notify_one();
        let gone = || Error::new(Kind::Internal, "a committed download is gone");
        committed.into_iter().next().ok_or_else(gone)
    }

    /// Checks that all downloads exist.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn check_ids(&self, ids: &[DownloadId]) -> Result<()> {
        let store = self.0.store.read();
        match ids.iter().find(|id| store.by_id(id).is_none()) {
            Some(id) => Err(not_found(id)),
            None => Ok(()),
        }
    }
}

/// The new order, as old indices.
fn reordered(is_moved: &[bool], to: Move) -> Vec<usize> {
    let (moved, mut others): (Vec<_>, Vec<_>) = (0..is_moved.len()).partition(|at| is_moved[*at]);
    let insert = match to {
        Move::First => 0,
        Move::Last => others.len(),
        Move::To(index) => index.min(others.len()),
        Move::Earlier | Move::Later => return shifted(is_moved, to == Move::Earlier),
    };
    others.splice(insert..insert, moved);
    others
}

/// Moves each marked entry by one, except where a marked one is in the way.
fn shifted(is_moved: &[bool], earlier: bool) -> Vec<usize> {
    let mut order: Vec<usize> = (0..is_moved.len()).collect();
    let mut swap = |a: usize, b: usize| {
        if is_moved[order[a]] && !is_moved[order[b]] {
            order.swap(a, b);
        }
    };
    match earlier {
        true => (1..is_moved.len()).for_each(|at| swap(at, at - 1)),
        false => (1..is_moved.len()).rev().for_each(|at| swap(at - 1, at)),
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moved_downloads_keep_their_order() {
        let moved = [false, true, false, true, false];
        assert_eq!(reordered(&moved, Move::First), [1, 3, 0, 2, 4]);
        assert_eq!(reordered(&moved, Move::Last), [0, 2, 4, 1, 3]);
        assert_eq!(reordered(&moved, Move::To(1)), [0, 1, 3, 2, 4]);
        assert_eq!(reordered(&moved, Move::To(99)), [0, 2, 4, 1, 3]);
        assert_eq!(reordered(&moved, Move::Earlier), [1, 0, 3, 2, 4]);
        assert_eq!(reordered(&moved, Move::Later), [0, 2, 1, 4, 3]);
        assert_eq!(reordered(&[true, true, false], Move::Earlier), [0, 1, 2]);
        assert!(reordered(&[], Move::Later).is_empty());
    }
}
