//! Members whom the sites can not give access, and services that no site offers: status names them, and nobody else is delayed.

use aifactory_api::AccessGrant;
use aifactory_tests::run;
use serde_json::json;

use crate::fixture::{NAMESPACE, grant};
use crate::{at_site, has_condition, message, shared, until};

#[test]
fn a_grant_names_the_members_without_access() {
    run(async {
        let world = shared().await;
        let mut wanted = grant("outsiders");
        let unknown = json!({"id": "p-7", "role": "Member", "slurm": {"user": "u7"}});
        let foreign = json!({"id": "p-8", "role": "Lead", "kubernetes": {"kind": "User", "name": "ldap:8"}});
        wanted["spec"]["members"] = json!([unknown, foreign]);
        wanted["spec"]["network"] = json!({"egress": [{"service": "s3"}, {"service": "mirror"}]});
        world.apply(wanted).await;
        let found = world.ready::<AccessGrant>("outsiders").await;
        assert!(has_condition(&found, "Usable", "False", "MembersWaiting"), "{}", message(&found, "Usable"));
        for site in ["bissen", "bettembourg"] {
            let (phase, text) = at_site(&found, site);
            assert_eq!(phase, "Bound");
            assert!(text.contains("MembersWaiting: members p-7, p-8 wait") && text.contains("policy.subjectPrefixes"), "{text}");
            assert!(text.contains("service \"mirror\": the site names none such") && !text.contains("s3"), "{text}");
        }

        let known = json!({"id": "p-9", "role": "Lead", "kubernetes": {"kind": "User", "name": "oidc:9"}});
        world.patch_grant("outsiders", json!({"spec": {"members": [unknown, foreign, known]}})).await;
        let found = until::<AccessGrant>(&world, NAMESPACE, "outsiders", "one of them can work", |found| {
            has_condition(found, "Usable", "True", "AsSpecified")
        })
        .await;
        assert!(message(&found, "Usable").starts_with("members can start work at "), "{}", message(&found, "Usable"));
        until::<AccessGrant>(&world, NAMESPACE, "outsiders", "the others still wait", |found| {
            at_site(found, "bissen").1.contains("members p-7, p-8 wait") && at_site(found, "bettembourg").1.contains("members p-7, p-8 wait")
        })
        .await;
        world.delete_grant("outsiders").await;
        world.gone::<AccessGrant>("outsiders").await;
    });
}
