//! Arguments of `queue`.

use clap::{Args, Subcommand, ValueEnum, ValueHint, builder::BoolishValueParser};

use super::{Layout, source};
use crate::queue::{Move, Priority};

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum QueueCommand {
    /// Add downloads
    Add(QueueAddArgs),
    /// List downloads in their order
    List,
    /// Stop downloads, and keep what is stored
    Pause(QueueSelection),
    /// Continue paused downloads
    Resume(QueueSelection),
    /// Try failed downloads again
    Retry(QueueSelection),
    /// Change the place of a download among those of its priority
    Move(QueueMoveArgs),
    /// Remove downloads from the queue
    Remove(QueueRemoveArgs),
    /// Remove finished downloads from the queue; imports stay
    Clear(QueueClearArgs),
    /// List feeds: their last and next request, and errors
    Feeds,
    /// Try out and refresh feeds
    #[command(subcommand)]
    Feed(FeedCommand),
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum FeedCommand {
    /// Show which items would be added, and why others are not; adds nothing
    Test(FeedTestArgs),
    /// Request a feed now and add its new items
    Refresh(FeedRefreshArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct FeedTestArgs {
    /// Name of a feed in the config file, or the URL of any feed
    #[arg(value_name = "NAME|URL", value_parser = source())]
    pub(in crate::cli) feed: String,
    /// Words that a title must contain, for a URL; may be repeated: one must match
    #[arg(long, env = "BAE_INCLUDE", value_name = "WORDS")]
    pub(in crate::cli) include: Vec<String>,
    /// Words of titles that are left out, for a URL; may be repeated
    #[arg(long, env = "BAE_EXCLUDE", value_name = "WORDS")]
    pub(in crate::cli) exclude: Vec<String>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct FeedRefreshArgs {
    /// Name of a feed in the config file
    #[arg(value_name = "NAME")]
    pub(in crate::cli) feed: String,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct QueueAddArgs {
    /// .torrent file (- for standard input), magnet link, info-hash, or URL
    #[arg(required = true, value_name = "TORRENT|MAGNET|URL", value_hint = ValueHint::FilePath, value_parser = source())]
    pub(in crate::cli) sources: Vec<String>,
    /// Target storage: a name from `bae storage list` [default: that of the category or of the queue]
    #[arg(long, env = "BAE_STORAGE", value_name = "NAME")]
    pub(in crate::cli) storage: Option<String>,
    /// Layout of the stored objects [default: that of the category or of the queue]
    #[arg(long, env = "BAE_LAYOUT", value_enum)]
    pub(in crate::cli) layout: Option<Layout>,
    /// Category, which gives the storage, the layout and the seed goals
    #[arg(long, env = "BAE_CATEGORY", value_name = "NAME")]
    pub(in crate::cli) category: Option<String>,
    /// Tag; may be repeated
    #[arg(long, env = "BAE_TAG", value_name = "TAG", value_delimiter = ',')]
    pub(in crate::cli) tag: Vec<String>,
    /// Priority
    #[arg(long, env = "BAE_PRIORITY", value_enum, default_value_t = QueuePriority::Normal)]
    pub(in crate::cli) priority: QueuePriority,
    /// Import only these files: numbers and ranges (1,3-5), file and folder paths, or a glob (*.flac)
    #[arg(long, env = "BAE_SELECT", value_name = "1,3-5|GLOB")]
    pub(in crate::cli) select: Option<String>,
    /// Add without starting
    #[arg(long, env = "BAE_PAUSED", value_parser = BoolishValueParser::new())]
    pub(in crate::cli) paused: bool,
    /// Add before all others of the same priority
    #[arg(long, env = "BAE_FIRST", value_parser = BoolishValueParser::new())]
    pub(in crate::cli) first: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum QueuePriority {
    High,
    Normal,
    Low,
}

impl From<QueuePriority> for Priority {
    fn from(priority: QueuePriority) -> Self {
        match priority {
            QueuePriority::High => Self::High,
            QueuePriority::Normal => Self::Normal,
            QueuePriority::Low => Self::Low,
        }
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct QueueSelection {
    /// Ids, numbers, names, or info-hashes
    #[arg(required_unless_present = "all", value_name = "DOWNLOAD")]
    pub(in crate::cli) downloads: Vec<String>,
    /// All downloads
    #[arg(long, env = "BAE_ALL", value_parser = BoolishValueParser::new(), conflicts_with = "downloads")]
    pub(in crate::cli) all: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct QueueMoveArgs {
    /// Id, number, name, or info-hash
    #[arg(value_name = "DOWNLOAD")]
    pub(in crate::cli) download: String,
    /// first, last, earlier, later, or a place from 1
    #[arg(value_name = "PLACE", value_parser = place)]
    pub(in crate::cli) to: Move,
}

fn place(text: &str) -> Result<Move, String> {
    match text {
        "first" => Ok(Move::First),
        "last" => Ok(Move::Last),
        "earlier" => Ok(Move::Earlier),
        "later" => Ok(Move::Later),
        _ => match text.parse::<usize>() {
            Ok(place) if place > 0 => Ok(Move::To(place - 1)),
            _ => Err("one of first, last, earlier, later, or a number from 1".to_owned()),
        },
    }
}

#[derive(Debug, Args)]
pub(in crate::cli) struct QueueRemoveArgs {
    /// Ids, numbers, names, or info-hashes
    #[arg(required = true, value_name = "DOWNLOAD")]
    pub(in crate::cli) downloads: Vec<String>,
    /// Also remove their imports with the stored objects
    #[arg(long, env = "BAE_DATA", value_parser = BoolishValueParser::new())]
    pub(in crate::cli) data: bool,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct QueueClearArgs {
    /// Also remove failed downloads
    #[arg(long, env = "BAE_FAILED", value_parser = BoolishValueParser::new())]
    pub(in crate::cli) failed: bool,
}
