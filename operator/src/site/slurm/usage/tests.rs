use aifactory_plan::engine::slurm_accounts::usage::{RunRecord, RunState};
use serde_json::{Value, json};

use super::*;

fn job(id: i64, state: &[&str], gpus: Value) -> Value {
    json!({
        "account": "grant-a", "cluster": "c", "job_id": id, "qos": "grant-a-h", "user": "alice", "steps": [{"deep": [[{"er": "}]\""}]]}],
        "state": {"current": state, "reason": "None"},
        "time": {"elapsed": 21, "eligible": 100, "start": 100, "end": 121, "submission": 99, "suspended": 4,
            "limit": {"set": true, "infinite": false, "number": 5}},
        "tres": {"allocated": gpus, "requested": []},
    })
}

fn decoded(text: String, piece: usize) -> (Vec<RunRecord>, Result<(), SlurmError>) {
    let (feed, reader) = decode::channel();
    let feeding = std::thread::spawn(move || {
        for piece in text.as_bytes().chunks(piece) {
            if feed.blocking_send(bytes::Bytes::copy_from_slice(piece)).is_err() {
                return;
            }
        }
    });
    let mut records = Vec::new();
    let result = decode::records(reader, |record| records.push(record));
    feeding.join().unwrap();
    (records, result)
}

fn gpus() -> Value {
    json!([{"type": "energy", "name": "", "id": 3, "count": -2}, {"type": "gres", "name": "gpu", "id": 1001, "count": 2},
        {"type": "gres", "name": "gpu:h100", "id": 1003, "count": 2}])
}

#[test]
fn records_come_whole_from_pieces_of_any_size() {
    let answer = json!({"jobs": [job(1, &["COMPLETED"], gpus()), job(2, &["PENDING", "REQUEUED"], gpus()), job(3, &["RUNNING"], json!([]))],
        "meta": {"x": []}, "errors": [], "warnings": []});
    for piece in [1, 7, 1_000, 1_000_000] {
        let (records, result) = decoded(answer.to_string(), piece);
        assert_eq!(result, Ok(()));
        let seen: Vec<_> = records.iter().map(|record| (record.key.job, record.gpus, record.state, record.elapsed, record.limit)).collect();
        assert_eq!(seen, [(1, 2, RunState::Over, 21, Some(300)), (2, 2, RunState::Over, 21, Some(300)), (3, 0, RunState::Running, 21, Some(300))]);
    }
}

#[test]
fn an_answer_that_is_not_whole_is_an_error() {
    let whole = json!({"jobs": [job(1, &["COMPLETED"], gpus())], "errors": []}).to_string();
    for length in [0, 1, whole.len() / 2, whole.len() - 1] {
        assert!(decoded(whole[..length].to_owned(), 100).1.is_err(), "{length}");
    }
    assert!(decoded(json!({"errors": []}).to_string(), 100).1.is_err());
    assert!(decoded(json!({"jobs": null}).to_string(), 100).1.is_err());
    for number in [7000, 111] {
        let refused = json!({"jobs": [job(1, &["COMPLETED"], gpus())], "errors": [{"error_number": number, "error": "x", "description": "y"}]});
        assert_eq!(decoded(refused.to_string(), 100).1, Err(SlurmError::DatabaseDown));
    }
}

#[test]
fn windows_follow_the_length_of_answers() {
    assert_eq!(next_span(3600, (0, 0)), 7200);
    assert_eq!(next_span(SPAN.0, (0, 0)), SPAN.0);
    assert_eq!(next_span(3600, (1_000, 5 << 20)), 3600);
    assert_eq!(next_span(3600, (1_501, 0)), 1800);
    assert_eq!(next_span(3600, (0, 9 << 20)), 1800);
    assert_eq!(next_span(SPAN.1, (5_000, 0)), SPAN.1);
}

/// Puts values of other types, deep ones and large ones, in the place of each field of a job.
fn spoiled() -> Vec<(String, String)> {
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let values = ["null", "7", "-1", "18446744073709551615", "1e300", "true", "\"text\"", "[]", "{}", "[7]", "{\"a\": 7}", deep.as_str()];
    let paths = [
        "",
        "/account",
        "/cluster",
        "/job_id",
        "/qos",
        "/user",
        "/state",
        "/state/current",
        "/state/current/0",
        "/time",
        "/time/elapsed",
        "/time/limit",
        "/time/limit/number",
        "/tres",
        "/tres/allocated",
        "/tres/allocated/0",
        "/tres/allocated/1/count",
    ];
    let mut found = Vec::new();
    for path in paths {
        for value in values {
            let mut spoiled = job(2, &["COMPLETED"], gpus());
            *spoiled.pointer_mut(path).unwrap() = json!("@here@");
            let shown: String = value.chars().take(20).collect();
            found.push((format!("{path} = {shown}"), spoiled.to_string().replace("\"@here@\"", value)));
        }
    }
    found
}

#[test]
fn one_job_that_can_not_be_read_hides_no_other() {
    let (first, last) = (job(1, &["COMPLETED"], gpus()).to_string(), job(3, &["RUNNING"], gpus()).to_string());
    for (what, spoiled) in spoiled() {
        let (records, result) = decoded(format!(r#"{{"jobs": [{first}, {spoiled}, {last}], "errors": []}}"#), 10_000);
        assert_eq!(result, Ok(()), "{what}");
        let seen: Vec<i64> = records.iter().map(|record| record.key.job).filter(|id| [1, 3].contains(id)).collect();
        assert_eq!(seen, [1, 3], "{what}");
    }
}

#[test]
fn a_job_name_that_is_no_text_hides_nothing() {
    let mut answer = format!(r#"{{"jobs": [{}, {{"name": "?"}}], "errors": []}}"#, job(1, &["COMPLETED"], gpus())).into_bytes();
    let at = answer.iter().position(|byte| *byte == b'?').unwrap();
    answer[at] = 0xff;
    let mut records = Vec::new();
    assert_eq!(decode::records(answer.as_slice(), |record| records.push(record)), Ok(()));
    assert_eq!(records.len(), 1);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300), at in 0..400_usize) {
        let _ = decode::records(bytes.as_slice(), |_| {});
        let mut whole = json!({"jobs": [job(1, &["COMPLETED"], gpus())], "errors": []}).to_string().into_bytes();
        let place = at.min(whole.len());
        whole.splice(place..place, bytes);
        let _ = decode::records(whole.as_slice(), |_| {});
    }
}
