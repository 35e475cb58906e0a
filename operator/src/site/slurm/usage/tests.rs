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
