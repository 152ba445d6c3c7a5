//! Words between connections: a frame that is sent and awaited as a whole.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frame::{HEADER_LEN, Kind, Nonsense, header, parse_header};

/// A word over a link.
pub(super) async fn send(link: &mut (impl AsyncWrite + Unpin), kind: Kind, bytes: &[u8]) -> io::Result<()> {
    link.write_all(&[&header(kind, bytes.len())[..], bytes].concat()).await?;
    link.flush().await
}

/// The next word, but for what is left of a connection that is over.
pub(super) async fn receive(link: &mut (impl AsyncRead + Unpin)) -> io::Result<(Kind, Vec<u8>)> {
    loop {
        let mut head = [0; HEADER_LEN];
        link.read_exact(&mut head).await?;
        match parse_header(head).map_err(invalid)? {
            (Kind::Reset, _) => {}
            (Kind::Data | Kind::End, _) => return Err(invalid(Nonsense::Turn)),
            (kind, len) => {
                let mut bytes = vec![0; len];
                link.read_exact(&mut bytes).await?;
                return Ok((kind, bytes));
            }
        }
    }
}

/// Somebody has not kept to the rules.
pub(super) fn invalid(nonsense: Nonsense) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, nonsense)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn between_connections_only_what_is_left_of_one_is_passed_over() {
        let mut link = &[5, 0, 0, 5, 0, 0, 0, 0, 2, 7, 8][..];
        assert_eq!(receive(&mut link).await.unwrap(), (Kind::Open, vec![7, 8]));
        for mut link in [&[3, 0, 1, 7][..], &[4, 0, 0], &[6, 0, 0], &[0, 0, 0]] {
            let error = receive(&mut link).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{link:?}");
        }
    }
}
