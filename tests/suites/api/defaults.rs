//! What the API server writes by itself.

use aifactory_api::AccessGrant;
use aifactory_tests::run;
use serde_json::{Value, json};

use super::Outcome;
use super::mistake::Base;
use super::scene::scene;

/// Nobody has looked at it: kstatus, and with it Argo CD and Flux, takes it for in progress and not for finished.
fn assert_unseen(object: &Value) {
    let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let status = |type_: &str| conditions.iter().find(|condition| condition["type"] == type_).map(|condition| condition["status"].clone());
    assert_eq!(status("Ready"), Some(json!("Unknown")), "{object}");
    assert_eq!(status("Reconciling"), Some(json!("True")), "{object}");
}

#[test]
fn an_object_that_nobody_looked_at_is_not_finished() -> Outcome {
    run(async {
        let scene = scene().await?;
        for base in [Base::Factory, Base::Pool, Base::Grant] {
            let mut object = base.object();
            object["metadata"]["name"] = json!("unseen");
            scene.create(&object, false).await?;
            assert_unseen(&scene.get(&object).await?);
            scene.patch_status(&object, json!({"observedGeneration": 1, "conditions": []})).await?;
            assert_eq!(scene.get(&object).await?["status"]["observedGeneration"], 1);
            // As a backup without status restores it.
            scene.patch_status(&object, Value::Null).await?;
            assert_unseen(&scene.get(&object).await?);
        }
        Ok(())
    })
}

#[test]
fn what_is_left_out_is_filled_in() -> Outcome {
    run(async {
        let scene = scene().await?;
        let made = scene.create(&Base::Grant.object(), true).await?;
        for (pointer, value) in [
            ("/spec/state", json!("Active")),
            ("/spec/earlyAccess", json!(false)),
            ("/spec/expiry", json!({"runningWork": "Finish", "gracePeriod": "1h", "retention": "4320h", "afterRetention": "Retain"})),
            ("/spec/storage/quota", json!("100Gi")),
        ] {
            assert_eq!(made.pointer(pointer), Some(&value), "{pointer}");
        }
        // What the server fills in is what the types fill in. Entries of lists are left as they are, and filled in by the types alone.
        let read = |object: &Value| serde_json::from_value::<AccessGrant>(object.clone()).map(|grant| grant.spec);
        assert_eq!(read(&made)?, read(&Base::Grant.object())?);
        for pointer in ["/spec/members", "/spec/pools", "/spec/network/egress"] {
            assert_eq!(made.pointer(pointer), Base::Grant.object().pointer(pointer), "{pointer}");
        }
        let made = scene.create(&Base::Factory.object(), true).await?;
        assert_eq!(made.pointer("/spec/policy"), Some(&json!({"podSecurity": "restricted", "orphans": "Report"})));
        assert_eq!(made.pointer("/spec/sites"), Base::Factory.object().pointer("/spec/sites"));
        let made = scene.create(&Base::Pool.object(), true).await?;
        assert_eq!(made.pointer("/spec/stage"), Some(&json!("Production")));
        assert_eq!(made.pointer("/spec/sites"), Base::Pool.object().pointer("/spec/sites"));
        Ok(())
    })
}
