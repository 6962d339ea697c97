//! Methods that change downloads.

use std::{slice, sync::Arc};

use serde_json::Value;

use super::{
    Aria2, MAX_REMOVED,
    envelope::{RpcError, RpcResult},
    options,
    params::Params,
    status::Status,
};
use crate::{
    daemon::folders::Folders,
    queue::{Change, Download, DownloadId, Filter, Move, Order, Page},
};

impl Aria2 {
    /// The download of a GID, or of the unique start of one.
    pub(super) fn find(&self, params: &Params) -> RpcResult<Arc<Download>> {
        let gid = parse_gid(params.text(0)?)?;
        let queue = self.state().queue();
        if let Ok(id) = gid.parse::<DownloadId>() {
            return queue.get(&id).map_err(|_| not_found(&gid));
        }
        let all = queue.list(&Filter::default(), Page::default()).downloads;
        let mut found = all.into_iter().filter(|d| d.id.as_str().starts_with(&gid));
        match (found.next(), found.next()) {
            (Some(one), None) => Ok(one),
            (None, _) => Err(not_found(&gid)),
            (Some(_), Some(_)) => Err(RpcError::new(format!("GID {gid} is not unique"))),
        }
    }

    /// As [`Aria2::find`], or a removed download.
    pub(super) fn find_any(&self, params: &Params) -> RpcResult<(Arc<Download>, Status)> {
        let gid = parse_gid(params.text(0)?)?;
        let removed = self.0.removed.lock();
        let removed = removed.iter().find(|download| download.id.as_str() == gid).cloned();
        match removed {
            Some(removed) => Ok((removed, Status::Removed)),
            None => {
                let download = self.find(params)?;
                let status = Status::of(&download);
                Ok((download, status))
            }
        }
    }

    /// Removes the download from the queue. What is stored stays.
    pub(super) async fn remove(&self, params: &Params) -> RpcResult {
        let download = self.find(params)?;
        if Status::of(&download).is_stopped() {
            return Err(RpcError::new(format!(
                "Active Download not found for GID#{}",
                download.id
            )));
        }
        self.state().queue().remove(slice::from_ref(&download.id), false).await?;
        let mut removed = self.0.removed.lock();
        if removed.len() == MAX_REMOVED {
            removed.pop_front();
        }
        let gid = download.id.to_string();
        removed.push_back(download);
        Ok(Value::String(gid))
    }

    /// Removes a stopped download from the queue. What is stored stays.
    pub(super) async fn remove_result(&self, params: &Params) -> RpcResult {
        let (download, status) = self.find_any(params)?;
        match status {
            Status::Removed => self.0.removed.lock().retain(|d| d.id != download.id),
            status if status.is_stopped() => {
                self.state().queue().remove(slice::from_ref(&download.id), false).await?;
            }
            _ => {
                let gid = &download.id;
                let text = format!("Could not remove download result of GID#{gid}");
                return Err(RpcError::new(text));
            }
        }
        Ok("OK".into())
    }

    pub(super) async fn purge_results(&self) -> RpcResult {
        let ids = self.ids_where(|download| Status::of(download).is_stopped());
        self.state().queue().remove(&ids, false).await?;
        self.0.removed.lock().clear();
        Ok("OK".into())
    }

    fn ids_where(&self, wanted: impl Fn(&Download) -> bool) -> Vec<DownloadId> {
        let all = self.state().queue().list(&Filter::default(), Page::default()).downloads;
        all.iter().filter(|download| wanted(download)).map(|d| d.id.clone()).collect()
    }

    pub(super) async fn pause(&self, params: &Params) -> RpcResult {
        let download = self.find(params)?;
        if !matches!(Status::of(&download), Status::Active | Status::Waiting) {
            return Err(RpcError::new(format!("GID#{} cannot be paused now", download.id)));
        }
        self.state().queue().pause(slice::from_ref(&download.id)).await?;
        Ok(Value::String(download.id.to_string()))
    }

    pub(super) async fn unpause(&self, params: &Params) -> RpcResult {
        let download = self.find(params)?;
        if Status::of(&download) != Status::Paused {
            return Err(RpcError::new(format!("GID#{} cannot be unpaused now", download.id)));
        }
        self.state().queue().resume(slice::from_ref(&download.id)).await?;
        Ok(Value::String(download.id.to_string()))
    }

    pub(super) async fn pause_all(&self) -> RpcResult {
        let runs =
            |download: &Download| matches!(Status::of(download), Status::Active | Status::Waiting);
        self.state().queue().pause(&self.ids_where(runs)).await?;
        Ok("OK".into())
    }

    pub(super) async fn unpause_all(&self) -> RpcResult {
        let ids = self.ids_where(|download| Status::of(download) == Status::Paused);
        self.state().queue().resume(&ids).await?;
        Ok("OK".into())
    }

    pub(super) async fn change_option(&self, params: &Params) -> RpcResult {
        let download = self.find(params)?;
        let given = params.options(1)?;
        let folders = Folders::of(self.state());
        let options = options::parse(&given, &folders)?;
        let settings = &download.settings;
        let fixed = ["header", "referer", "user-agent", "checksum", "max-connection-per-server"];
        let is_fixed = |name: &&String| fixed.contains(&name.as_str());
        if let Some(name) = given.keys().find(is_fixed) {
            let text = format!("The option {name:?} of a download that was added cannot change.");
            return Err(RpcError::new(text));
        }
        let moves = given.contains_key("dir");
        if moves && folders.storage_of(&options.target) != settings.storage {
            return Err(RpcError::new("The bytes of a download stay in its storage."));
        }
        let change = Change {
            name: options.name.clone(),
            category: options.target.category.clone().map(Some),
            limits: Some(options.limits(settings.limits)),
            seed_limits: Some(options.seed_limits(settings.seed_limits)),
            select: given.contains_key("select-file").then(|| options.select.clone()),
            ..Change::default()
        };
        let queue = self.state().queue();
        queue.update(slice::from_ref(&download.id), &change).await?;
        if given.contains_key("pause") {
            match options.paused {
                true => queue.pause(slice::from_ref(&download.id)).await?,
                false => queue.resume(slice::from_ref(&download.id)).await?,
            }
        }
        Ok("OK".into())
    }

    /// Moves a waiting download among those of its priority. Returns its new position.
    pub(super) async fn change_position(&self, params: &Params) -> RpcResult {
        let download = self.find(params)?;
        let (offset, how) = (params.int(1)?, params.text(2)?);
        let is_waiting = |d: &Download| matches!(Status::of(d), Status::Waiting | Status::Paused);
        let gid = &download.id;
        let not_waiting = || RpcError::new(format!("GID#{gid} not found in the waiting queue."));
        let queue = self.state().queue();
        let page = Page { order: Order::Queue, ..Page::default() };
        let all = queue.list(&Filter::default(), page).downloads;
        let waiting: Vec<_> = all.iter().filter(|d| is_waiting(d)).collect();
        let now = waiting.iter().position(|d| d.id == *gid).ok_or_else(not_waiting)?;
        let wanted = new_position(now, waiting.len(), offset, how)?;
        let same =
            |d: &&Arc<Download>| d.settings.priority == download.settings.priority && d.id != *gid;
        let others: Vec<_> = all.iter().filter(same).collect();
        // The waiting download that will be behind this one, if there is one of the same priority.
        let mut without = waiting.iter().filter(|d| d.id != *gid).skip(wanted);
        let next = without.next().and_then(|next| others.iter().position(|d| d.id == next.id));
        let to = match (next, wanted) {
            (_, 0) => Move::First,
            (Some(index), _) => Move::To(index),
            (None, _) => Move::Last,
        };
        queue.move_to(slice::from_ref(gid), to).await?;
        let all = queue.list(&Filter::default(), page).downloads;
        let position = all.iter().filter(|d| is_waiting(d)).position(|d| d.id == *gid);
        Ok(position.unwrap_or(wanted).into())
    }
}

/// A GID, or the start of one, in lower case.
fn parse_gid(text: &str) -> RpcResult<String> {
    let is_gid = (1..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    let invalid = || {
        let shown: String = text.chars().take(32).collect();
        RpcError::new(format!("Invalid GID {shown}"))
    };
    is_gid.then(|| text.to_ascii_lowercase()).ok_or_else(invalid)
}

fn not_found(gid: &str) -> RpcError {
    RpcError::new(format!("GID {gid} is not found"))
}

fn new_position(now: usize, count: usize, offset: i64, how: &str) -> RpcResult<usize> {
    let signed = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    let last = signed(count) - 1;
    let wanted = match how {
        "POS_SET" => offset,
        "POS_CUR" => signed(now).saturating_add(offset),
        "POS_END" => last.saturating_add(offset),
        _ => return Err(RpcError::new("Illegal argument.")),
    };
    Ok(usize::try_from(wanted.clamp(0, last.max(0))).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gid_is_up_to_16_hexadecimal_digits() {
        assert_eq!(parse_gid("ABC").unwrap(), "abc");
        for bad in ["", "zz", "0123456789abcdef0", "é", "../x"] {
            assert!(parse_gid(bad).unwrap_err().message.starts_with("Invalid GID"), "{bad}");
        }
    }

    #[test]
    fn positions_stay_within_the_list() {
        for (offset, how, expected) in [
            (0, "POS_SET", 0),
            (9, "POS_SET", 3),
            (-1, "POS_SET", 0),
            (-1, "POS_CUR", 1),
            (i64::MIN, "POS_CUR", 0),
            (i64::MAX, "POS_CUR", 3),
            (0, "POS_END", 3),
            (-2, "POS_END", 1),
        ] {
            assert_eq!(new_position(2, 4, offset, how).unwrap(), expected, "{offset} {how}");
        }
        assert!(new_position(0, 1, 0, "POS").is_err());
        assert_eq!(new_position(0, 0, 5, "POS_SET").unwrap(), 0);
    }
}
