#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use aifactory_plan::engine::slurm_accounts::Stage;

use super::*;

#[test]
fn a_qos_names_untyped_gpus_sends_its_flags_whole_and_clears_by_name() {
    let call = Call::Qos {
        stage: Stage::Qos,
        name: QosName::new("grant-vision-h100-0123456789"),
        description: "ours".into(),
        flags: ["NO_DECAY".to_owned(), "DENY_LIMIT".to_owned()].into(),
        limits: [(Limit::GpuMinutes, Some(60)), (Limit::Gpus, None), (Limit::SubmittedJobs, Some(0)), (Limit::RunningJobs, None)].into(),
    };
    assert_eq!(
        qos(&call).unwrap(),
        json!({
            "name": "grant-vision-h100-0123456789", "description": "ours", "flags": ["DENY_LIMIT", "NO_DECAY"],
            "limits": {"max": {
                "tres": {"minutes": {"total": [{"type": "gres", "name": "gpu", "count": 60}]}, "total": [{"type": "gres", "name": "gpu", "count": -1}]},
                "jobs": {"count": {"set": true, "infinite": false, "number": 0}},
                "active_jobs": {"count": {"set": true, "infinite": true, "number": 0}},
            }},
        })
    );
}

#[test]
fn an_association_is_locked_by_numbers_and_never_without_a_qos() {
    let call = |qos: &[&str], locked| Call::Row {
        stage: Stage::Rows,
        key: RowKey { account: AccountName::new("grant-a"), user: UserName::new("alice"), partition: PartitionName::new("h100") },
        qos: qos.iter().map(|name| QosName::new(*name)).collect(),
        default_qos: QosName::new("grant-q"),
        parent: None,
        locked,
        comment: String::new(),
    };
    let cluster = ClusterName::new("bissen");
    assert_eq!(row(&cluster, &call(&["grant-q"], true)).unwrap()["max"]["jobs"]["total"]["number"], 0);
    assert_eq!(row(&cluster, &call(&["grant-q"], false)).unwrap()["max"]["jobs"]["active"]["infinite"], true);
    // slurmrestd ends itself on these.
    assert!(row(&cluster, &call(&[], false)).is_none() && row(&cluster, &call(&[""], false)).is_none());
}

#[test]
fn jobs_that_are_over_have_ended() {
    let status = |code: i64| json!({"status": [{"error": {"code": 0}}, {"error": {"code": code}}]});
    assert!(ended(&status(2021)).is_ok() && ended(&status(2017)).is_ok());
    assert_eq!(ended(&status(2002)), Err(SlurmError::Forbidden));
}
