//! What the operator relies on in the API server so that a late write lands on nothing else than it was meant for.

use aifactory_tests::run;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use super::Outcome;
use super::scene::{TEAM, scene};

fn conflict<T: std::fmt::Debug>(answer: Result<T, kube::Error>) -> bool {
    matches!(answer, Err(kube::Error::Api(status)) if status.is_conflict())
}

#[test]
fn an_apply_with_a_uid_creates_nothing() -> Outcome {
    run(async {
        let client: Client = scene().await?.client();
        let api: Api<Namespace> = Api::all(client);
        let params = PatchParams::apply("test").force();
        let with = |uid: &str, note: &str| json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "late", "uid": uid, "annotations": {"note": note}}});
        assert!(conflict(api.patch("late", &params, &Patch::Apply(with("0c5f", "one"))).await));
        assert!(api.get_opt("late").await?.is_none());
        let plain = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "late"}});
        let uid = api.patch("late", &params, &Patch::Apply(plain)).await?.metadata.uid.unwrap_or_default();
        let other = api.patch("late", &params, &Patch::Apply(with("0c5f", "two"))).await;
        assert!(matches!(&other, Err(kube::Error::Api(status)) if status.code == 422 && status.message.contains("metadata.uid:")), "{other:?}");
        let found = api.patch("late", &params, &Patch::Apply(with(&uid, "three"))).await?;
        assert_eq!(found.metadata.annotations.unwrap_or_default()["note"], "three");
        Ok(())
    })
}

#[test]
fn a_status_for_another_version_is_refused() -> Outcome {
    run(async {
        let client = scene().await?.client();
        let api: Api<aifactory_api::AIFactory> = Api::namespaced(client, TEAM);
        let params = PatchParams::apply("test").force();
        let made = json!({"apiVersion": "aifactory.dev/v1alpha1", "kind": "AIFactory", "metadata": {"name": "late"},
            "spec": {"type": "Antenna", "sites": []}});
        let first = api.patch("late", &params, &Patch::Apply(made)).await?.metadata.resource_version;
        let status = |version: &Option<String>, grants: i32| {
            Patch::Apply(json!({"apiVersion": "aifactory.dev/v1alpha1", "kind": "AIFactory",
                "metadata": {"name": "late", "resourceVersion": version}, "status": {"livingGrants": grants}}))
        };
        let second = api.patch_status("late", &params, &status(&first, 1)).await?.metadata.resource_version;
        assert!(conflict(api.patch_status("late", &params, &status(&first, 0)).await));
        api.patch_status("late", &params, &status(&second, 2)).await?;
        Ok(())
    })
}
