//! The first bytes of a connection: they tell HTTP/2 from HTTP/1.1, and are read again by whoever speaks it.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

/// What every HTTP/2 client says first (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// Reads until it is clear what is spoken. None if the client has gone without a word.
pub(super) async fn read<IO: AsyncRead + Unpin>(mut io: IO) -> io::Result<Option<(Version, Rewound<IO>)>> {
    let mut bytes = [0; PREFACE.len()];
    let mut length = 0;
    let version = loop {
        let count = io.read(&mut bytes[length..]).await?;
        length += count;
        if length == 0 {
            return Ok(None);
        }
        if count == 0 || bytes[..length] != PREFACE[..length] {
            break Version::Http1;
        }
        if length == PREFACE.len() {
            break Version::Http2;
        }
    };
    Ok(Some((version, Rewound { first: Bytes::copy_from_slice(&bytes[..length]), io })))
}

/// A connection of which some has been read, and is read again.
pub(super) struct Rewound<IO> {
    first: Bytes,
    io: IO,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Rewound<IO> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.io).poll_read(cx, buffer);
        }
        let length = self.first.len().min(buffer.remaining());
        buffer.put_slice(&self.first[..length]);
        self.first.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Rewound<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of these pieces, and what is read after it.
    async fn told(pieces: &[&[u8]]) -> Option<(Version, Vec<u8>)> {
        let mut io = in_pieces(pieces);
        let (version, mut rewound) = read(&mut io).await.expect("it can be read")?;
        let mut all = Vec::new();
        rewound.read_to_end(&mut all).await.expect("it can be read");
        Some((version, all))
    }

    /// Yields one piece a read.
    fn in_pieces(pieces: &[&[u8]]) -> impl AsyncRead + Unpin {
        let pieces: Vec<_> = pieces.iter().map(|piece| io::Result::Ok(Bytes::copy_from_slice(piece))).collect();
        tokio_util::io::StreamReader::new(tokio_stream::iter(pieces))
    }

    #[tokio::test]
    async fn the_preface_tells_the_version_however_it_is_cut_and_nothing_is_lost() {
        let rest = b"and what follows";
        for cut in 1..PREFACE.len() {
            let (first, second) = PREFACE.split_at(cut);
            let (version, all) = told(&[first, second, rest]).await.expect("something was said");
            assert_eq!((version, all), (Version::Http2, [PREFACE.as_slice(), rest].concat()), "{cut}");
        }
        for other in ["GET / HTTP/1.1\r\n\r\n", "P", "PRI * HTTP/1.1\r\n\r\n", "\u{16}\u{3}\u{1}"] {
            let (version, all) = told(&[other.as_bytes()]).await.expect("something was said");
            assert_eq!((version, all.as_slice()), (Version::Http1, other.as_bytes()), "{other:?}");
        }
        assert_eq!(told(&[]).await, None);
    }
}
