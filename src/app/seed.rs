//! `seed`: stored imports given to the swarm, from the catalog alone: nothing is hashed or read at the start.

use std::{collections::HashSet, sync::Arc};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{App, SESSION_END, fill::started, plan::Plan};
use crate::{
    catalog::{ImportRow, ImportState},
    config::NetworkOptions,
    error::{Error, Kind, Result},
    events::EventSink,
    torrents::{Download, Goal, Origin, Start, Torrents},
};

impl App {
    /// Seeds the imports named (all that are imported, when none is) until cancelled.
    ///
    /// # Errors
    /// `NotFound` when there is nothing to seed; what libtorrent said when a torrent failed.
    pub async fn seed(
        &self,
        needles: Vec<String>,
        network: NetworkOptions,
        events: EventSink,
        cancel: CancellationToken,
    ) -> Result<()> {
        let rows = self.rows_to_seed(&needles)?;
        let torrents = Torrents::start(&network, Arc::clone(&self.pressure), self.pool.clone())?;
        let done = self.seed_rows(&torrents, rows, &events, &cancel).await;
        torrents.stop(SESSION_END).await;
        done
    }

    fn rows_to_seed(&self, needles: &[String]) -> Result<Vec<ImportRow>> {
        let rows: Vec<ImportRow> = if needles.is_empty() {
            let mut rows = self.catalog.list()?;
            rows.retain(|row| row.state == ImportState::Imported);
            // What came from a URL has no swarm.
            let mut torrents = Vec::with_capacity(rows.len());
            for row in rows {
                if self.is_torrent(&row)? {
                    torrents.push(row);
                }
            }
            torrents
        } else {
            needles.iter().map(|n| self.torrent_to_seed(n)).collect::<Result<_>>()?
        };
        // A torrent kept in two storages is one to the swarm.
        let mut seen = HashSet::new();
        let rows: Vec<_> = rows.into_iter().filter(|row| seen.insert(row.info_hash())).collect();
        if rows.is_empty() {
            let text = "there is nothing to seed: no import is complete";
            return Err(Error::new(Kind::NotFound, text).hint("`bae ls` shows what there is"));
        }
        Ok(rows)
    }

    fn torrent_to_seed(&self, needle: &str) -> Result<ImportRow> {
        let row = self.catalog.find(needle)?;
        if self.is_torrent(&row)? {
            return Ok(row);
        }
        let text =
            format!("import {} ({}) came from a URL: there is no swarm for it", row.id, row.name);
        Err(Error::new(Kind::InvalidInput, text).hint("leave it out"))
    }

    async fn seed_rows(
        &self,
        torrents: &Arc<Torrents>,
        rows: Vec<ImportRow>,
        events: &EventSink,
        cancel: &CancellationToken,
    ) -> Result<()> {
        let mut running = JoinSet::new();
        for row in rows {
            let mut download = self.seeding(torrents, &row, events).await?;
            let cancel = cancel.clone();
            running.spawn(async move { download.seed(&cancel).await });
        }
        while let Some(ended) = running.join_next().await {
            ended
                .map_err(|e| Error::new(Kind::Internal, "a seeding task panicked").because(e))??;
        }
        Ok(())
    }

    async fn seeding(
        &self,
        torrents: &Arc<Torrents>,
        row: &ImportRow,
        events: &EventSink,
    ) -> Result<Download> {
        let place = self.place_of(row).await?;
        let store = self.open_store(row, &place)?;
        let (metainfo, meta) = self.metainfo_of(row)?;
        let mut plan = Plan::new(&meta, row.selected.as_deref(), &store);
        // What is in a file that is not uploaded to its end can be given to nobody.
        for (piece, have) in (0u32..).zip(&mut plan.have) {
            *have &= store.readable(meta.piece_range(piece));
        }
        let stored = store.stored_bytes(&plan.wanted);
        // Only what is here is wanted: seeding fetches nothing.
        let start = Start {
            origin: Origin::File(metainfo),
            wanted: plan.have.clone(),
            have: plan.have.clone(),
            private: meta.private,
        };
        let torrent = torrents.add(start).await?;
        torrent.attach(&meta, Arc::clone(&store), self.reader(&store), None);
        started(torrents, row, &meta, plan.wanted.len(), stored, events).await;
        let goal = Goal {
            id: row.id.to_string(),
            wanted: plan.wanted,
            missing: vec![],
            stored,
            lead: 0,
            in_order: false,
        };
        let (_, nothing_written) = mpsc::unbounded_channel();
        Ok(Download::new(torrent, &meta, store, goal, nothing_written, events.clone(), None))
    }
}
