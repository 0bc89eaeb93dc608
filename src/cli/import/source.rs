//! What is imported: a file, or standard input.

use std::collections::VecDeque;
use std::io::SeekFrom;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame};
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncSeekExt, Stdin};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// What is read, and sent, at a time.
const BLOCK_BYTES: usize = 128 * 1024;

/// Blocks between the reader and the connection.
const BLOCKS_AHEAD: usize = 4;

/// The beginning of a file, which tells it from others.
const HEAD_BYTES: usize = 64 * 1024;

/// Hexadecimal digits of a default id: 64 bits tell a company's files apart, and every line's key has them.
const ID_DIGITS: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Source {
    input: Input,
    /// Name without the directory; of a file.
    name: Option<String>,
    len: Option<u64>,
    head: Bytes,
    csv: bool,
    /// What was read from standard input and not acknowledged, and where it begins.
    kept: VecDeque<Bytes>,
    kept_from: u64,
}

#[derive(Debug, Default)]
enum Input {
    #[default]
    Nothing,
    File(File),
    Stdin(Stdin),
}

impl Source {
    pub(super) async fn open(path: Option<&Path>, csv: bool) -> anyhow::Result<Source> {
        let mut source = Source { csv, ..Source::default() };
        match path {
            Some(path) => {
                let cannot = || format!("cannot read {}", path.display());
                let mut file = File::open(path).await.with_context(cannot)?;
                let metadata = file.metadata().await.with_context(cannot)?;
                source.len = metadata.is_file().then_some(metadata.len());
                source.name = path.file_name().map(|name| name.to_string_lossy().into_owned());
                source.head = block(&mut file, HEAD_BYTES).await.with_context(cannot)?;
                source.input = Input::File(file);
            }
            None => {
                let mut stdin = tokio::io::stdin();
                source.head = block(&mut stdin, HEAD_BYTES).await.context("cannot read standard input")?;
                source.kept.push_back(source.head.clone());
                source.input = Input::Stdin(stdin);
            }
        }
        Ok(source)
    }

    pub(super) fn len(&self) -> Option<u64> {
        self.len
    }

    /// An id that stays the same when the file is moved or grows; none for standard input.
    pub(super) fn default_id(&self) -> Option<String> {
        let name = self.name.as_ref()?;
        let mut hash = Sha256::new();
        hash.update((name.len() as u64).to_be_bytes());
        hash.update(name);
        hash.update(&self.head);
        Some(hex(&hash.finalize())[..ID_DIGITS].to_owned())
    }

    /// Tells whether it is the file of which a state speaks.
    pub(super) fn head_hash(&self) -> String {
        hex(&Sha256::digest(&self.head))[..ID_DIGITS].to_owned()
    }

    /// The first line of a CSV file, with its line break.
    pub(super) fn header(&self) -> Vec<u8> {
        let end = self.head.iter().position(|byte| *byte == b'\n').filter(|_| self.csv);
        end.map(|end| self.head[..=end].to_vec()).unwrap_or_default()
    }

    /// Sends `header` and everything from `offset` on. Ends when all is sent, or nobody wants more.
    pub(super) async fn send(
        &mut self,
        header: Vec<u8>,
        mut offset: u64,
        acknowledged: &AtomicU64,
        rate: Option<u32>,
        sender: mpsc::Sender<Bytes>,
    ) -> anyhow::Result<()> {
        let mut pace = rate.map(Pace::new);
        if !header.is_empty() && sender.send(header.into()).await.is_err() {
            return Ok(());
        }
        if let Input::File(file) = &mut self.input {
            file.seek(SeekFrom::Start(offset)).await.context("the file cannot be read from where it was left")?;
        }
        loop {
            let block = self.block_at(offset, acknowledged).await?;
            if block.is_empty() {
                return Ok(());
            }
            offset += block.len() as u64;
            match &mut pace {
                None => {
                    if sender.send(block).await.is_err() {
                        return Ok(());
                    }
                }
                Some(pace) => {
                    for piece in pace.pieces(&block) {
                        pace.wait(&piece).await;
                        if sender.send(piece).await.is_err() {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    /// What follows on `offset`; empty at the end.
    async fn block_at(&mut self, offset: u64, acknowledged: &AtomicU64) -> anyhow::Result<Bytes> {
        let stdin = match &mut self.input {
            Input::Nothing => return Ok(Bytes::new()),
            Input::File(file) => return block(file, BLOCK_BYTES).await.context("the file cannot be read on"),
            Input::Stdin(stdin) => stdin,
        };
        let done = acknowledged.load(Ordering::Relaxed);
        while let Some(first) = self.kept.front()
            && self.kept_from + first.len() as u64 <= done
        {
            self.kept_from += first.len() as u64;
            self.kept.pop_front();
        }
        let mut begins = self.kept_from;
        for kept in &self.kept {
            let ends = begins + kept.len() as u64;
            if offset < ends {
                return Ok(kept.slice((offset - begins) as usize..));
            }
            begins = ends;
        }
        let read = block(stdin, BLOCK_BYTES).await.context("standard input cannot be read on")?;
        if !read.is_empty() {
            self.kept.push_back(read.clone());
        }
        Ok(read)
    }
}

/// Up to so many bytes; fewer only at the end of the input.
async fn block(input: &mut (impl AsyncRead + Unpin), bytes: usize) -> std::io::Result<Bytes> {
    let mut read = BytesMut::with_capacity(bytes);
    let mut input = input.take(bytes as u64);
    while input.read_buf(&mut read).await? > 0 {}
    Ok(read.freeze())
}

/// Holds lines back to a rate.
#[derive(Debug)]
struct Pace {
    rate: u32,
    begun: Instant,
    lines: u64,
}

impl Pace {
    fn new(rate: u32) -> Pace {
        Pace { rate, begun: Instant::now(), lines: 0 }
    }

    /// A block in pieces of a tenth of a second.
    fn pieces(&self, block: &Bytes) -> Vec<Bytes> {
        let lines_max = (self.rate as usize).div_ceil(10);
        let mut pieces = Vec::new();
        let (mut from, mut lines) = (0, 0);
        for (at, _) in block.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
            lines += 1;
            if lines == lines_max {
                pieces.push(block.slice(from..=at));
                (from, lines) = (at + 1, 0);
            }
        }
        if from < block.len() {
            pieces.push(block.slice(from..));
        }
        pieces
    }

    /// Waits until it is the turn of these lines.
    async fn wait(&mut self, piece: &Bytes) {
        tokio::time::sleep_until(self.begun + Duration::from_secs_f64(self.lines as f64 / f64::from(self.rate))).await;
        self.lines += piece.iter().filter(|byte| **byte == b'\n').count() as u64;
    }
}

/// A request body that is fed through a channel.
pub(super) fn body() -> (mpsc::Sender<Bytes>, reqwest::Body) {
    let (sender, receiver) = mpsc::channel(BLOCKS_AHEAD);
    (sender, reqwest::Body::wrap(FromChannel(receiver)))
}

struct FromChannel(mpsc::Receiver<Bytes>);

impl Body for FromChannel {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_id_stays_when_a_file_is_moved_or_grows() {
        let dir = tempfile::tempdir().unwrap();
        let id = async |path: &Path| Source::open(Some(path), false).await.unwrap().default_id().unwrap();
        let (first, moved) = (dir.path().join("a.ndjson"), dir.path().join("b/a.ndjson"));
        let long = "x".repeat(HEAD_BYTES);
        std::fs::write(&first, &long).unwrap();
        std::fs::create_dir(dir.path().join("b")).unwrap();
        std::fs::write(&moved, format!("{long}and more")).unwrap();
        assert_eq!(id(&first).await, id(&moved).await);
        let renamed = dir.path().join("c.ndjson");
        std::fs::write(&renamed, &long).unwrap();
        assert_ne!(id(&first).await, id(&renamed).await);
    }

    #[test]
    fn a_pace_cuts_blocks_at_lines() {
        let block = Bytes::from_static(b"a\nb\nc\nd");
        let pieces = |rate| Pace::new(rate).pieces(&block);
        assert_eq!(pieces(10), ["a\n", "b\n", "c\n", "d"]);
        assert_eq!(pieces(20), ["a\nb\n", "c\nd"]);
        assert_eq!(pieces(1_000), ["a\nb\nc\nd"]);
    }
}
