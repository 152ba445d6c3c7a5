//! Both ends of a link in memory, with a party at each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use super::*;
use crate::mesh::words::{receive, send};

/// Bytes that wait in the link, and at each party: less than a frame.
const ROOM: usize = 8 << 10;
const BULK: usize = 1 << 20;

pub(in crate::mesh) struct Cable {
    pub(in crate::mesh) stream: DuplexStream,
    broken: Arc<AtomicBool>,
    given_up: Arc<AtomicBool>,
}

struct Person {
    stream: DuplexStream,
    fails: Arc<AtomicBool>,
    finished: Arc<AtomicBool>,
}

impl Cable {
    pub(in crate::mesh) fn pair() -> (Self, Self) {
        let (one, other) = duplex(ROOM);
        let flag = Arc::<AtomicBool>::default;
        let cable = |stream| Self { stream, broken: flag(), given_up: flag() };
        (cable(one), cable(other))
    }
}

impl Person {
    /// Who is carried for, and the far end of it.
    fn pair() -> (Self, DuplexStream) {
        let (stream, far) = duplex(ROOM);
        let flag = Arc::<AtomicBool>::default;
        (Self { stream, fails: flag(), finished: flag() }, far)
    }
}

impl Wire for Cable {
    type Stream = DuplexStream;

    fn stream(&mut self) -> &mut DuplexStream {
        &mut self.stream
    }

    fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
    }
}

impl Party for Person {
    type Stream = DuplexStream;

    fn stream(&mut self) -> &mut DuplexStream {
        &mut self.stream
    }

    fn judge(&self, read: io::Result<usize>) -> io::Result<usize> {
        if self.is_gone() { Err(io::ErrorKind::ConnectionReset.into()) } else { read }
    }

    fn finish(&mut self) {
        self.finished.store(true, Ordering::Relaxed);
    }

    fn is_gone(&self) -> bool {
        self.fails.load(Ordering::Relaxed)
    }
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| random.u8(..)).collect()
}

/// Says that, ends, and gives what the other has said.
async fn exchange(far: DuplexStream, bytes: &[u8]) -> Vec<u8> {
    let (mut read, mut write) = tokio::io::split(far);
    let mut all = Vec::new();
    let say = async {
        write.write_all(bytes).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let ((), heard) = tokio::join!(say, read.read_to_end(&mut all));
    heard.unwrap();
    all
}

#[tokio::test]
async fn streams_go_both_ways_and_the_link_takes_the_next() {
    let (mut one, mut other) = Cable::pair();
    for round in 0..3 {
        let ((mut client, asks), (mut task, answers)) = (Person::pair(), Person::pair());
        let (question, answer) = (pattern(BULK, round), pattern(BULK / 2, round + 100));
        let done = [Arc::clone(&client.finished), Arc::clone(&task.finished)];
        let (left, right, heard_answer, heard_question) = tokio::join!(
            async {
                let left = pump(&mut one, &mut client, b"ahead").await;
                drop(client);
                left
            },
            async {
                let left = pump(&mut other, &mut task, &[]).await;
                drop(task);
                left
            },
            exchange(asks, &question),
            exchange(answers, &answer),
        );
        assert_eq!((left, right), (Left::Link, Left::Link));
        assert!(heard_answer == answer && heard_question == [&b"ahead"[..], &question].concat());
        assert!(done.iter().all(|done| done.load(Ordering::Relaxed)));
    }
}

#[tokio::test]
async fn who_has_ended_still_hears() {
    let (mut one, mut other) = Cable::pair();
    let ((mut client, mut asks), (mut task, mut answers)) = (Person::pair(), Person::pair());
    let carried = async { tokio::join!(pump(&mut one, &mut client, &[]), pump(&mut other, &mut task, &[])) };
    let talk = async {
        asks.write_all(b"question").await.unwrap();
        asks.shutdown().await.unwrap();
        let mut question = Vec::new();
        answers.read_to_end(&mut question).await.unwrap();
        answers.write_all(&question.repeat(1_000)).await.unwrap();
        answers.shutdown().await.unwrap();
        let mut answer = vec![0; 8_000];
        asks.read_exact(&mut answer).await.unwrap();
        answer
    };
    let (left, answer) = tokio::join!(carried, talk);
    assert_eq!((left, answer), ((Left::Link, Left::Link), b"question".repeat(1_000)));
}

#[tokio::test]
async fn a_reset_is_passed_on_and_the_link_takes_the_next() {
    let (mut one, mut other) = Cable::pair();
    for by_client in [true, false] {
        let ((mut client, mut asks), (mut task, answers)) = (Person::pair(), Person::pair());
        asks.write_all(&pattern(ROOM, 1)).await.unwrap();
        let fails = if by_client { Arc::clone(&client.fails) } else { Arc::clone(&task.fails) };
        let done = [Arc::clone(&client.finished), Arc::clone(&task.finished)];
        let reset = async {
            fails.store(true, Ordering::Relaxed);
            // Wakes it.
            let far = if by_client { &mut asks } else { &mut Box::leak(Box::new(answers)) };
            far.shutdown().await.unwrap();
        };
        let (left, right, ()) =
            tokio::join!(pump(&mut one, &mut client, &[]), pump(&mut other, &mut task, &[]), reset);
        assert_eq!((left, right), (Left::Link, Left::Link));
        assert!(done.iter().all(|done| !done.load(Ordering::Relaxed)), "neither has ended in order");
    }
    send(&mut one.stream, Kind::Opened, &[]).await.unwrap();
    assert_eq!(receive(&mut other.stream).await.unwrap().0, Kind::Opened, "nothing is left between");
}

#[tokio::test]
async fn a_link_that_ends_ends_the_connection() {
    let (mut one, other) = Cable::pair();
    let (mut client, _asks) = Person::pair();
    drop(other);
    assert_eq!(pump(&mut one, &mut client, &[]).await, Left::Nothing);
    assert!(!client.finished.load(Ordering::Relaxed) && one.given_up.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn a_link_is_looked_at_while_a_task_takes_nothing() {
    let (mut one, mut other) = Cable::pair();
    let (mut task, _answers) = Person::pair();
    let broken = Arc::clone(&one.broken);
    let mut frame = header(Kind::Data, DATA_MAX).to_vec();
    frame.extend(pattern(DATA_MAX, 1));
    let say = async {
        let frames = frame.repeat(2);
        let sent = other.stream.write_all(&frames);
        assert!(timeout(Duration::from_secs(5), sent).await.is_err(), "it is taken though nobody reads");
        broken.store(true, Ordering::Relaxed);
    };
    let (left, ()) = tokio::join!(pump(&mut one, &mut task, &[]), say);
    assert_eq!(left, Left::Nothing);
    assert!(!task.finished.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn a_task_is_looked_at_while_the_other_node_reads_nothing() {
    let (mut one, other) = Cable::pair();
    let (mut task, mut answers) = Person::pair();
    let fails = Arc::clone(&task.fails);
    let say = async {
        let bulk = pattern(BULK, 1);
        let sent = answers.write_all(&bulk);
        assert!(timeout(Duration::from_secs(5), sent).await.is_err(), "it is taken though nobody reads");
        fails.store(true, Ordering::Relaxed);
    };
    let carried =
        timeout(Duration::from_secs(60), async { tokio::join!(pump(&mut one, &mut task, &[]), say) });
    assert_eq!(carried.await.expect("it does not wait for good").0, Left::Nothing);
    assert!(one.given_up.load(Ordering::Relaxed) && !task.finished.load(Ordering::Relaxed));
    drop(other);
}

#[tokio::test(start_paused = true)]
async fn who_has_ended_and_is_cut_off_later_is_noticed() {
    let (mut one, mut other) = Cable::pair();
    for by_client in [true, false] {
        let ((mut client, mut asks), (mut task, mut answers)) = (Person::pair(), Person::pair());
        let (far, near) = if by_client { (&mut asks, &client) } else { (&mut answers, &task) };
        let (fails, done) =
            (Arc::clone(&near.fails), [Arc::clone(&client.finished), Arc::clone(&task.finished)]);
        let reset = async {
            far.write_all(b"question").await.unwrap();
            far.shutdown().await.unwrap();
            tokio::time::sleep(Duration::from_secs(5)).await;
            // Nothing wakes anybody.
            fails.store(true, Ordering::Relaxed);
        };
        let carried =
            async { tokio::join!(pump(&mut one, &mut client, &[]), pump(&mut other, &mut task, &[]), reset) };
        let ended = timeout(Duration::from_secs(60), carried).await.expect("it does not wait for good");
        assert_eq!(ended, (Left::Link, Left::Link, ()));
        assert!(done.iter().all(|done| !done.load(Ordering::Relaxed)), "neither has ended in order");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_cuts_a_connection_off_and_reads_nothing_loses_its_link() {
    let (mut one, mut other) = Cable::pair();
    let (mut task, mut answers) = Person::pair();
    let say = async {
        let bulk = pattern(BULK, 1);
        let sent = answers.write_all(&bulk);
        assert!(timeout(Duration::from_secs(5), sent).await.is_err(), "it is taken though nobody reads");
        other.stream.write_all(&header(Kind::Reset, 0)).await.unwrap();
    };
    let carried =
        timeout(Duration::from_secs(60), async { tokio::join!(pump(&mut one, &mut task, &[]), say) });
    assert_eq!(carried.await.expect("it does not wait for good").0, Left::Nothing);
    assert!(one.given_up.load(Ordering::Relaxed));
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_agree_that_it_is_over_loses_its_link() {
    let (mut one, _other) = Cable::pair();
    let (mut client, asks) = Person::pair();
    client.fails.store(true, Ordering::Relaxed);
    drop(asks);
    assert_eq!(pump(&mut one, &mut client, &[]).await, Left::Nothing);
    assert!(one.given_up.load(Ordering::Relaxed));
}

#[tokio::test]
async fn words_out_of_turn_end_the_link() {
    for bytes in [
        &[0, 0, 1, 7][..],
        &[1, 0, 0],
        &[2, 0, 0],
        &[9, 0, 0],
        &[3, 0, 0],
        &[3, 0xff, 0xff],
        &[4, 0, 0, 3, 0, 1, 7],
        &[4, 0, 0, 4, 0, 0],
        &[5, 0, 1, 7],
    ] {
        let (mut one, mut other) = Cable::pair();
        let (mut client, _asks) = Person::pair();
        other.stream.write_all(bytes).await.unwrap();
        assert_eq!(pump(&mut one, &mut client, &[]).await, Left::Nothing, "{bytes:?}");
    }
}
