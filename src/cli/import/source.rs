//! What is imported: a file, or standard input.

use std::collections::VecDeque;
use std::io::SeekFrom;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame};
use serde::{Deserialize, Serialize};
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
    /// Of the bytes of the file up to where the next request begins; it has been read again up to there.
    hash: Option<Sha256>,
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

/// How a file begins: the hash of its first bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Prefix {
    bytes: u64,
    sha256: String,
}

/// What the sending half and the reading half of a request tell each other.
#[derive(Debug, Clone, Default)]
pub(super) struct Sent(Arc<Mutex<SentInner>>);

#[derive(Debug, Default)]
struct SentInner {
    acknowledged: u64,
    /// What the file was up to the end of each block that was sent and not acknowledged as a whole.
    prefixes: VecDeque<Prefix>,
}

impl Sent {
    /// Goes on where a run before ended.
    pub(super) fn after(acknowledged: u64, prefix: Option<Prefix>) -> Sent {
        Sent(Arc::new(Mutex::new(SentInner { acknowledged, prefixes: prefix.into_iter().collect() })))
    }

    fn with<T>(&self, what: impl FnOnce(&mut SentInner) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn acknowledge(&self, offset: u64) {
        self.with(|inner| {
            inner.acknowledged = offset;
            while inner.prefixes.front().is_some_and(|prefix| prefix.bytes < offset) {
                inner.prefixes.pop_front();
            }
        });
    }

    /// What the file was up to all that is acknowledged; at most a block more.
    pub(super) fn prefix(&self) -> Option<Prefix> {
        self.with(|inner| inner.prefixes.front().cloned())
    }

    /// Before everything that is not acknowledged is sent again.
    pub(super) fn rewind(&self) {
        self.with(|inner| inner.prefixes.truncate(usize::from(inner.acknowledged > 0)));
    }

    fn push(&self, prefix: Prefix) {
        self.with(|inner| inner.prefixes.push_back(prefix));
    }
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

    pub(super) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Whether the file still begins as it did. It is read up to there, and `moved` is told how far that is.
    /// The next request begins at `offset`, which is not behind the prefix.
    pub(super) async fn begins_with(
        &mut self,
        prefix: &Prefix,
        offset: u64,
        moved: impl Fn(u64),
    ) -> anyhow::Result<bool> {
        // What cannot be read twice is not sent twice either: going back in it fails.
        let Input::File(file) = &mut self.input else { return Ok(true) };
        let cannot = "the file cannot be read from its beginning";
        file.seek(SeekFrom::Start(0)).await.context(cannot)?;
        let (mut hash, mut read) = (Sha256::new(), 0);
        for end in [offset, prefix.bytes] {
            while read < end {
                let block = block(file, BLOCK_BYTES.min((end - read) as usize)).await.context(cannot)?;
                if block.is_empty() {
                    return Ok(false);
                }
                hash.update(&block);
                read += block.len() as u64;
                moved(read);
            }
            if end == offset {
                self.hash = Some(hash.clone());
            }
        }
        Ok(hex(&hash.finalize()) == prefix.sha256)
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
        sent: &Sent,
        rate: Option<u32>,
        sender: mpsc::Sender<Bytes>,
    ) -> anyhow::Result<()> {
        let mut hash = self.hash.take().unwrap_or_default();
        let mut pace = rate.map(Pace::new);
        if !header.is_empty() && sender.send(header.into()).await.is_err() {
            return Ok(());
        }
        if let Input::File(file) = &mut self.input {
            file.seek(SeekFrom::Start(offset)).await.context("the file cannot be read from where it was left")?;
        }
        loop {
            let block = self.block_at(offset, sent).await?;
            if block.is_empty() {
                return Ok(());
            }
            offset += block.len() as u64;
            if matches!(self.input, Input::File(_)) {
                hash.update(&block);
                // Before it is sent, so that it is there when it is acknowledged.
                sent.push(Prefix { bytes: offset, sha256: hex(&hash.clone().finalize()) });
            }
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
    async fn block_at(&mut self, offset: u64, sent: &Sent) -> anyhow::Result<Bytes> {
        let stdin = match &mut self.input {
            Input::Nothing => return Ok(Bytes::new()),
            Input::File(file) => return block(file, BLOCK_BYTES).await.context("the file cannot be read on"),
            Input::Stdin(stdin) => stdin,
        };
        let done = sent.with(|inner| inner.acknowledged);
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

    #[tokio::test]
    async fn a_file_begins_as_it_did_until_it_is_edited() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.ndjson");
        let text = "0123456789".repeat(BLOCK_BYTES / 4);
        std::fs::write(&path, &text).unwrap();
        let sent = Sent::default();
        let (sender, mut receiver) = mpsc::channel(100);
        Source::open(Some(&path), false).await.unwrap().send(Vec::new(), 0, &sent, None, sender).await.unwrap();
        let mut bytes = 0;
        while let Some(block) = receiver.recv().await {
            bytes += block.len();
        }
        assert_eq!(bytes, text.len());
        let offset = BLOCK_BYTES as u64 + 1;
        sent.acknowledge(offset);
        let prefix = sent.prefix().unwrap();
        assert_eq!(prefix.bytes, 2 * BLOCK_BYTES as u64);
        let check = async |text: &str, expected: bool| {
            std::fs::write(&path, text).unwrap();
            let mut source = Source::open(Some(&path), false).await.unwrap();
            assert_eq!(source.begins_with(&prefix, offset, |_| ()).await.unwrap(), expected);
            // What is sent from there on goes on with the same hash.
            let again = Sent::after(offset, Some(prefix.clone()));
            let (sender, _receiver) = mpsc::channel(100);
            source.send(Vec::new(), offset, &again, None, sender).await.unwrap();
            (again, source)
        };
        check(&text, true).await;
        let (again, mut source) = check(&format!("{text}more"), true).await;
        again.acknowledge(text.len() as u64 + 4);
        let (whole, end) = (again.prefix().unwrap(), text.len() as u64 + 4);
        assert!(source.begins_with(&whole, end, |_| ()).await.unwrap());
        check(&text[..BLOCK_BYTES], false).await;
        check(&text.replacen('0', "x", 1), false).await;
        check(&text[1..], false).await;
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
