//! An upload to a local folder: each part is written at its offset in one temp file.

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom, Write},
    ops::Range,
    os::unix::fs::FileExt,
    sync::{Arc, atomic::AtomicBool},
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    blocking,
    files::{LocalFiles, TempFile},
};
use crate::{
    backends::{
        Key, MultipartUpload, Payload, UploadLayout,
        memory::{object_not_found, wrong_object_length},
    },
    error::{Error, Kind, Result},
};

/// Starts from nothing each time: temp files of earlier runs are not resumed.
#[derive(Debug)]
pub(super) struct LocalUpload {
    inner: Arc<Inner>,
}

struct Inner {
    files: Arc<LocalFiles>,
    key: Key,
    layout: UploadLayout,
    temp: TempFile,
    file: File,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("key", &self.key).field("shape", &self.layout).finish()
    }
}

impl LocalUpload {
    pub(super) fn begin(files: Arc<LocalFiles>, key: Key, layout: UploadLayout) -> Result<Self> {
        let (temp, file) = files.create_temp().map_err(|e| files.error("begin", &key, e))?;
        Ok(Self { inner: Arc::new(Inner { files, key, layout, temp, file }) })
    }

    async fn run(
        &self,
        what: &'static str,
        work: impl FnOnce(&Inner) -> io::Result<()> + Send + 'static,
    ) -> Result<()> {
        let inner = Arc::clone(&self.inner);
        blocking(move || work(&inner).map_err(|e| inner.files.error(what, &inner.key, e))).await
    }
}

impl Inner {
    fn write(&self, part: u64, buffers: &[Bytes]) -> io::Result<()> {
        let mut at = self.layout.part_range(part).start;
        for bytes in buffers {
            self.file.write_all_at(bytes, at)?;
            at += bytes.len() as u64;
        }
        Ok(())
    }

    fn copy(&self, part: u64, mut from: File, range: &Range<u64>) -> io::Result<()> {
        from.seek(SeekFrom::Start(range.start))?;
        // A separate handle, so that its file position is not shared.
        let mut to = File::options().write(true).open(&self.temp.0)?;
        to.seek(SeekFrom::Start(self.layout.part_range(part).start))?;
        // Within one file system the kernel copies the bytes, or shares the extents.
        let len = range.end - range.start;
        let copied = io::copy(&mut from.take(len), &mut to)?;
        to.flush()?;
        if copied == len { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

#[async_trait]
impl MultipartUpload for LocalUpload {
    fn stored_parts(&self) -> &[u64] {
        &[]
    }

    async fn put_part(&self, part: u64, payload: Payload) -> Result<()> {
        self.run("write a part of", move |inner| inner.write(part, payload.buffers())).await
    }

    async fn copy_part(&self, part: u64, from: &Key, range: Range<u64>) -> Result<()> {
        let source = match File::open(self.inner.files.path(from)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(object_not_found(from)),
            source => source.map_err(|e| self.inner.files.error("copy from", from, e))?,
        };
        self.run("copy a part of", move |inner| inner.copy(part, source, &range)).await
    }

    async fn finish(&self) -> Result<()> {
        let inner = &self.inner;
        let len = match std::fs::metadata(&inner.temp.0) {
            Ok(found) => found.len(),
            // The answer to an earlier finish was lost: the file was already renamed.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(inner.files.error("finish", &inner.key, e)),
        };
        if len != inner.layout.len {
            return Err(wrong_object_length(&inner.key, len, inner.layout.len));
        }
        let never = AtomicBool::new(false);
        self.run("finish", move |i| i.files.commit_temp(&i.temp, &i.file, &i.key, &never)).await
    }

    async fn abort(&self) -> Result<()> {
        match std::fs::remove_file(&self.inner.temp.0) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(Error::new(Kind::Unavailable, "cannot delete a temp file").because(e))
            }
            _ => Ok(()),
        }
    }
}
