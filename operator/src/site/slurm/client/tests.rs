#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use super::*;

fn answer(status: u16, body: &str) -> Result<Value, SlurmError> {
    judge(Api::Slurmdb, StatusCode::from_u16(status).unwrap(), body.as_bytes())
}

fn error(number: i64, text: &str) -> String {
    serde_json::json!({"errors": [{"error_number": number, "error": text, "description": "while testing"}]}).to_string()
}

#[test]
fn nothing_to_do_is_no_error() {
    assert_eq!(answer(304, ""), Ok(Value::Null));
    assert!(answer(200, r#"{"errors": [], "warnings": []}"#).is_ok());
}

#[test]
fn a_good_status_may_carry_errors() {
    assert_eq!(answer(200, &error(2066, "Invalid qos")), Err(SlurmError::Refused { number: 2066, text: "Invalid qos: while testing".into() }));
    assert!(matches!(answer(200, "no JSON"), Err(SlurmError::Refused { .. })));
}

#[test]
fn each_failure_is_told_apart() {
    assert_eq!(answer(401, ""), Err(SlurmError::TokenRefused));
    assert_eq!(answer(511, &error(1007, "auth")), Err(SlurmError::TokenRefused));
    assert_eq!(answer(502, &error(7000, "Unable to connect to database")), Err(SlurmError::DatabaseDown));
    assert_eq!(answer(500, &error(111, "Connection refused")), Err(SlurmError::DatabaseDown));
    // The daemon's paths ask the database as well.
    let of_daemon = |words: &str| {
        let body = serde_json::json!({"errors": [{"error_number": 111, "error": "Connection refused", "description": words}]}).to_string();
        judge(Api::Slurm, StatusCode::INTERNAL_SERVER_ERROR, body.as_bytes())
    };
    assert_eq!(of_daemon("Slurmdb query failed"), Err(SlurmError::DatabaseDown));
    assert!(matches!(of_daemon("something else"), Err(SlurmError::Refused { number: 111, .. })));
    assert_eq!(answer(502, &error(1800, "Unable to contact slurm controller")), Err(SlurmError::ControllerDown));
    assert_eq!(answer(422, &error(2002, "Access denied")), Err(SlurmError::Forbidden));
    assert_eq!(answer(422, &error(7001, "Job(s) active")), Err(SlurmError::JobsActive));
    assert_eq!(answer(422, &error(7009, "default account")), Err(SlurmError::DefaultAccount));
    assert!(matches!(answer(404, "not found"), Err(SlurmError::UnknownVersion(_))));
    let down = [SlurmError::TokenRefused, SlurmError::DatabaseDown, SlurmError::ControllerDown, SlurmError::NoAnswer(String::new())];
    assert!(down.iter().all(SlurmError::is_transport));
    assert!(!SlurmError::JobsActive.is_transport() && !SlurmError::DefaultAccount.is_transport());
}

#[test]
fn queries_are_encoded_and_paths_take_our_names_only() {
    assert_eq!(uri(Api::Slurmdb, "associations/", &[("account", "a,b"), ("user", "x y")]), "/slurmdb/v0.0.44/associations/?account=a%2Cb&user=x%20y");
    assert!(named("grant-vision-0123456789").is_ok());
    // Slurm reads these as other things, or ends itself.
    for name in ["yes", "007", "null", "~", "grant-x/../y", "grant-A", "", "1e5"] {
        assert!(named(name).is_err(), "{name}");
    }
}
