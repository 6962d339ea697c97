//! Reads the tags of an album while it is imported: each file's head and tail, by ranges, as soon as they are there.
//!
//! ```sh
//! cargo run --release --example media_importer -- album.torrent
//! ```

#![allow(clippy::print_stdout, reason = "the output of an example")]

use std::io::SeekFrom;

use bae::{Bae, Event};
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let source = std::env::args().nth(1).ok_or("usage: media_importer SOURCE")?;
    let bae = Bae::builder("bae-data").open().await?;
    let import = bae.import(&source).files().start().await?;
    let mut events = import.all_events();

    loop {
        // An error means that this reader was too slow and missed events.
        let Ok(logged) = events.next().await else { continue };
        match &*logged.event {
            // The files are known. Reads wait for bytes that are still missing, and these are requested first.
            Event::Started(started) => {
                for file in bae.info(&started.id).await?.files {
                    println!("{}: {}", file.path, tags(&bae, &started.id, &file.path).await?);
                }
            }
            Event::Progress(progress) => println!("{} of {}", progress.stored, progress.bytes),
            Event::Imported(_) | Event::Failed(_) => break,
            _ => {}
        }
    }
    println!("{} is stored", import.wait().await?.name);
    bae.close().await?;
    Ok(())
}

/// The container of a file, and the title in its ID3v1 tag.
async fn tags(bae: &Bae, id: &str, path: &str) -> Result<String, Box<dyn std::error::Error>> {
    let mut file = bae.open(id, path).await?;
    let mut head = [0; 12];
    let len = file.read(&mut head).await?;
    let container = match &head[..len] {
        [b'f', b'L', b'a', b'C', ..] => "FLAC",
        [b'O', b'g', b'g', b'S', ..] => "Ogg",
        [b'I', b'D', b'3', ..] | [0xff, 0xe0..=0xff, ..] => "MP3",
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => "MP4",
        _ => return Ok("no audio".into()),
    };
    if file.len() < 128 {
        return Ok(container.into());
    }
    let mut tag = [0; 128];
    file.seek(SeekFrom::End(-128)).await?;
    file.read_exact(&mut tag).await?;
    let title =
        tag.strip_prefix(b"TAG").map(|tag| String::from_utf8_lossy(&tag[..30]).into_owned());
    Ok(format!("{container} {}", title.unwrap_or_default().trim_end_matches('\0')))
}
