//! Reads a stream of any form that passes the model's tokens on, and takes their times.

use std::time::Duration;

use genie_log::Clock;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use super::model::TOKENS;
use crate::setup::Measured;

/// The last bytes of a body in chunks.
const END: &[u8] = b"\r\n0\r\n\r\n";
/// The most bytes of a token's time, with its two marks, that may be cut between two reads; and of [`END`].
const CUT: usize = 24;

/// What one stream has heard.
#[derive(Debug, Default)]
pub struct HeardAnswer {
    /// From before the connection to the first token.
    pub first: Duration,
    /// For each token, how long after it was written it came.
    pub lags: Vec<Duration>,
}

/// Sends a request over a connection of its own and reads its stream to the end. Every token must come, once and in order.
pub async fn listen(address: &str, request: &[u8]) -> Measured<HeardAnswer> {
    let began = Instant::now();
    let mut server = TcpStream::connect(address).await?;
    server.set_nodelay(true)?;
    server.write_all(request).await?;
    let mut heard = HeardAnswer::default();
    let mut received = Vec::with_capacity(16 * 1024);
    let mut is_good = false;
    let mut last_written = 0;
    loop {
        if server.read_buf(&mut received).await? == 0 {
            return Err(format!("the stream broke off after {} tokens", heard.lags.len()).into());
        }
        let now = Clock::system().now().0;
        if !is_good && received.len() > 12 {
            if &received[8..12] != b" 200" {
                return Err(String::from_utf8_lossy(&received).into_owned().into());
            }
            is_good = true;
        }
        for written in take_times(&mut received) {
            if written <= last_written {
                return Err("a token came twice, or out of order".into());
            }
            last_written = written;
            if heard.lags.is_empty() {
                heard.first = began.elapsed();
            }
            let lag = u64::try_from(now - written).unwrap_or(0);
            heard.lags.push(Duration::from_micros(lag));
        }
        if received.ends_with(END) {
            break;
        }
    }
    if heard.lags.len() != TOKENS as usize {
        return Err(format!("{} of {TOKENS} tokens came", heard.lags.len()).into());
    }
    Ok(heard)
}

/// The times in what was received, which is dropped but for what may be the beginning of another.
fn take_times(received: &mut Vec<u8>) -> Vec<i64> {
    let mut times = Vec::new();
    let mut from = 0;
    while let Some(mark) = received[from..].iter().position(|byte| *byte == b'@') {
        let begin = from + mark + 1;
        let Some(length) = received[begin..]
            .iter()
            .position(|byte| !byte.is_ascii_digit())
        else {
            break;
        };
        let end = begin + length;
        if received[end] == b'@' && length > 0 {
            let digits = received[begin..end].iter();
            times.push(digits.fold(0, |time, digit| time * 10 + i64::from(digit - b'0')));
            from = end + 1;
        } else {
            from = begin;
        }
    }
    let dropped = from.max(received.len().saturating_sub(CUT));
    // The end of the stream can stand right behind the last time.
    received.drain(..dropped.min(received.len()));
    times
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_wherever_the_stream_is_cut() {
        let stream = b"HTTP/1.1 200 OK\r\n\r\n5\r\n\"a@b\"@1700000000000001@@1700000000000002@\"}\r\n0\r\n\r\n";
        for cut in 0..stream.len() {
            let mut received = stream[..cut].to_vec();
            let mut times = take_times(&mut received);
            received.extend_from_slice(&stream[cut..]);
            times.extend(take_times(&mut received));
            assert_eq!(
                times,
                [1_700_000_000_000_001, 1_700_000_000_000_002],
                "{cut}"
            );
            assert!(received.ends_with(END), "{cut}");
        }
    }
}
