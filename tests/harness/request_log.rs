//! The HTTP requests that passed a proxy: method and path of each, read from the bytes without changing them.

use std::sync::{Arc, Mutex, PoisonError};

/// What a client asked, in order.
#[derive(Debug, Default)]
pub struct RequestLog {
    requests: Mutex<Vec<(String, String)>>,
}

impl RequestLog {
    /// Method and path of every request until now.
    pub fn requests(&self) -> Vec<(String, String)> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The requests that are no `GET`.
    pub fn writes(&self) -> Vec<(String, String)> {
        self.requests().into_iter().filter(|(method, _)| method != "GET").collect()
    }

    /// Forgets all.
    pub fn clear(&self) {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn add(&self, method: &str, path: &str) {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push((method.to_owned(), path.to_owned()));
    }
}

/// Where a connection stands.
#[derive(Debug)]
enum Expects {
    Head(Vec<u8>),
    Body(usize),
    /// The end of the last chunk, searched in what was read last.
    Chunks(Vec<u8>),
}

/// Reads the requests of one connection.
#[derive(Debug)]
pub(crate) struct Reader {
    log: Arc<RequestLog>,
    expects: Expects,
}

const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
const HEAD_END: &[u8] = b"\r\n\r\n";

impl Reader {
    pub(crate) fn new(log: Arc<RequestLog>) -> Self {
        Self { log, expects: Expects::Head(Vec::new()) }
    }

    pub(crate) fn read(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let next = match &mut self.expects {
                Expects::Head(head) => {
                    head.push(*byte);
                    if head.ends_with(HEAD_END) { Some(after_head(&self.log, &String::from_utf8_lossy(head))) } else { None }
                }
                Expects::Body(left) => {
                    *left = left.saturating_sub(1);
                    (*left == 0).then(|| Expects::Head(Vec::new()))
                }
                Expects::Chunks(last) => {
                    last.push(*byte);
                    if last.len() > LAST_CHUNK.len() {
                        last.remove(0);
                    }
                    last.ends_with(LAST_CHUNK).then(|| Expects::Head(Vec::new()))
                }
            };
            if let Some(next) = next {
                self.expects = next;
            }
        }
    }
}

fn after_head(log: &RequestLog, head: &str) -> Expects {
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or_default().split(' ');
    log.add(words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut length = 0;
    for line in lines {
        let (name, value) = line.split_once(':').unwrap_or_default();
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().unwrap_or_default();
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Expects::Chunks(Vec::new());
        }
    }
    if length == 0 { Expects::Head(Vec::new()) } else { Expects::Body(length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_separated_however_the_bytes_come() {
        let bytes = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nPOST /b HTTP/1.1\r\ncontent-length: 5\r\n\r\nGET /DELETE /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\nGET /d HTTP/1.0\r\n\r\n";
        for size in [1, 3, 1000] {
            let log = Arc::new(RequestLog::default());
            let mut reader = Reader::new(Arc::clone(&log));
            bytes.chunks(size).for_each(|part| reader.read(part));
            let seen: Vec<_> = log.requests().into_iter().map(|(method, path)| format!("{method} {path}")).collect();
            assert_eq!(seen, ["GET /a", "POST /b", "DELETE /c", "GET /d"]);
            assert_eq!(log.writes().len(), 2);
        }
    }
}
