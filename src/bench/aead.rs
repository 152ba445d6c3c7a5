//! AES-256-GCM as sealed networks use it: sealing and opening datagrams in place.
//!
//! Times are the median batch's, as those of [`super::memory`].

use std::time::{Duration, Instant};

use serde::Serialize;

use super::BenchError;
use super::cpu::{gbit_s, median};
use crate::crypto::envelope::{HEADER_LEN, OVERHEAD, SessionId};
use crate::crypto::key::{KEY_LEN, Key};
use crate::crypto::open::Opener;
use crate::crypto::seal::Sealer;

/// Bytes of plaintext of a datagram: about what a full inner frame comes to on an underlay of 1500 bytes.
pub const PLAINTEXT: usize = 1420;
/// Datagrams of a batch, as many as of a run: they stay in the cache.
const BATCH: usize = 44;
/// Batches that are timed at most, so that far fewer datagrams are sealed than a key is good for.
const SAMPLES_MAX: usize = 1_000_000;

/// What one core seals and opens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AeadFigures {
    /// Bytes of plaintext of each datagram.
    pub datagram_bytes: usize,
    /// 10^9 bytes of plaintext that one core seals in a second.
    pub seal_gb_s: f64,
    /// The same for opening, the replay window included.
    pub open_gb_s: f64,
}

/// Measures for about `each`.
///
/// # Errors
/// If what was sealed can't be opened.
pub fn measure(each: Duration) -> Result<AeadFigures, BenchError> {
    // Nothing of it leaves this function.
    let key = Key::new(&[0x5a; KEY_LEN]);
    let session = SessionId::new(1).expect("24 bits");
    let (sealer, opener) = (Sealer::new(&key, session), Opener::new(&key, session));
    let mut datagrams = vec![[0x5a; PLAINTEXT + OVERHEAD]; BATCH];
    let (mut sealing, mut opening) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while sealing.is_empty() || (start.elapsed() < each && sealing.len() < SAMPLES_MAX) {
        let begun = Instant::now();
        let sealed = datagrams.iter_mut().all(|datagram| sealer.seal(datagram).is_ok());
        sealing.push(begun.elapsed());
        let begun = Instant::now();
        let opened = datagrams.iter_mut().all(|datagram| opener.open(datagram).is_ok());
        opening.push(begun.elapsed());
        if !(sealed && opened && datagrams[0][HEADER_LEN] == 0x5a) {
            return Err(BenchError::Nothing("sealing and opening"));
        }
    }
    let gb_s = |samples| gbit_s((PLAINTEXT * BATCH) as u64, median(samples)) / 8.0;
    Ok(AeadFigures { datagram_bytes: PLAINTEXT, seal_gb_s: gb_s(sealing), open_gb_s: gb_s(opening) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_is_opened() {
        let figures = measure(Duration::from_millis(2)).unwrap();
        assert!(figures.seal_gb_s > 0.0 && figures.open_gb_s > 0.0, "{figures:?}");
    }
}
