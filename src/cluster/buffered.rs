//! A connection that is read in large pieces: TLS asks for 4 KiB at a time, and each would be a call of the kernel.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use hyper::rt::{Read, ReadBuf, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection};

/// What is read at once, in bytes.
const PIECE: usize = 64 << 10;

/// A stream with a buffer in front of its reading half.
#[derive(Debug)]
pub(super) struct Buffered<S> {
    stream: S,
    buffer: Box<[u8]>,
    /// What of the buffer is still to be read.
    unread: std::ops::Range<usize>,
}

impl<S> Buffered<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, buffer: vec![0; PIECE].into(), unread: 0..0 }
    }
}

impl<S: Read + Unpin> Read for Buffered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut into: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { stream, buffer, unread } = &mut *self;
        if unread.start == unread.end {
            if into.remaining() >= PIECE {
                return Pin::new(stream).poll_read(cx, into);
            }
            let mut piece = ReadBuf::new(buffer);
            ready!(Pin::new(stream).poll_read(cx, piece.unfilled()))?;
            *unread = 0..piece.filled().len();
        }
        let length = unread.len().min(into.remaining());
        into.put_slice(&buffer[unread.start..unread.start + length]);
        unread.start += length;
        Poll::Ready(Ok(()))
    }
}

impl<S: Write + Unpin> Write for Buffered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }
}

impl<S: Connection> Connection for Buffered<S> {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives these pieces, one at a time, and counts how often it is asked.
    struct Pieces(Vec<Vec<u8>>, usize);

    impl Read for Pieces {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            mut into: ReadBufCursor<'_>,
        ) -> Poll<io::Result<()>> {
            self.1 += 1;
            if !self.0.is_empty() {
                into.put_slice(&self.0.remove(0));
            }
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn what_is_read_in_small_parts_is_asked_for_in_large_ones() {
        let sent: Vec<u8> = (0..50_000_u32).map(|number| number.to_le_bytes()[0]).collect();
        let pieces = vec![sent[..30_000].to_vec(), sent[30_000..30_001].to_vec(), sent[30_001..].to_vec()];
        let mut stream = Buffered::new(Pieces(pieces, 0));
        let mut read = Vec::new();
        loop {
            let mut part = [0; 4096];
            let mut into = ReadBuf::new(&mut part);
            std::future::poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, into.unfilled())).await.unwrap();
            if into.filled().is_empty() {
                break;
            }
            read.extend_from_slice(into.filled());
        }
        // The last of them found the end.
        assert!(read == sent && stream.stream.1 == 4, "{}", stream.stream.1);
    }
}
