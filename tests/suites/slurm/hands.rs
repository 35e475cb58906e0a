//! What people do by sacctmgr comes back; what is theirs is left alone.

use aifactory_api::AccessGrant;
use aifactory_tests::run_beside;

use crate::fixture::POOL;
use crate::scene::{CYCLE, Scene, grant, until};

#[test]
fn edits_come_back_and_what_is_foreign_stays() {
    run_beside(async {
        let scene = Scene::start("slurm-hands").await;
        let slurm = &scene.slurm[0];
        // Before the grant bob has a national project, and alice gets one later.
        slurm.sacctmgr(&["add", "account", "national"]).await.unwrap();
        slurm.sacctmgr(&["add", "user", "bob", "account=national"]).await.unwrap();
        scene.world.apply(grant("vision", 20)).await;
        let bound: AccessGrant = scene.world.ready("vision").await;
        let (account, qos) = (scene.account(&bound, slurm), scene.qos(&bound, slurm));
        slurm.sacctmgr(&["add", "user", "alice", "account=national"]).await.unwrap();
        let national = async || {
            slurm.sacctmgr(&["-nP", "show", "association", "account=national", "format=account,user,partition,qos,defaultqos"]).await.unwrap()
        };
        let (before, elsewhere) = (Scene::picture(slurm).await, national().await);

        let edits: [&[&str]; 4] = [
            &["modify", "qos", &qos, "set", "GrpTRESMins=gres/gpu=999999"],
            &["modify", "qos", &qos, "set", "Flags-=NoDecay"],
            &["modify", "account", &account, "set", "parent=root"],
            &["modify", "user", "alice", "where", &format!("account={account}"), "set", "qos+=normal"],
        ];
        for edit in edits {
            slurm.sacctmgr(edit).await.unwrap();
            assert_ne!(Scene::picture(slurm).await, before, "{edit:?} did nothing");
        }
        until("all of it comes back", CYCLE, async || {
            let now = Scene::picture(slurm).await;
            if now == before { Ok(()) } else { Err(format!("{now:#?}").into()) }
        })
        .await;
        // sacctmgr does not delete a QOS in use. The REST does, and leaves associations on `normal`.
        slurm.rest("DELETE", &format!("/slurmdb/v0.0.44/qos/{qos}"), None).await.unwrap();
        until("the QOS is made anew", CYCLE, async || {
            let now = Scene::picture(slurm).await;
            if now == before { Ok(()) } else { Err(format!("{now:#?}").into()) }
        })
        .await;
        assert_eq!(national().await, elsewhere);

        // The end: default accounts are moved, and nothing of others goes.
        let mut gone = grant("vision", 20);
        gone["spec"]["expiry"] = serde_json::json!({"retention": "0s", "afterRetention": "Delete"});
        gone["spec"]["state"] = serde_json::json!("Revoked");
        scene.world.apply(gone).await;
        until("account and QOS are deleted", CYCLE, async || {
            let now = Scene::picture(slurm).await;
            if now.is_empty() { Ok(()) } else { Err(format!("{now:#?}").into()) }
        })
        .await;
        assert_eq!(national().await, elsewhere);
        assert_eq!(POOL, "h100");
    });
}

#[test]
fn a_foreign_account_of_our_name_is_named_and_untouched() {
    run_beside(async {
        let scene = Scene::start("slurm-foreign").await;
        let slurm = &scene.slurm[0];
        scene.world.apply(grant("vision", 20)).await;
        let bound: AccessGrant = scene.world.ready("vision").await;
        let account = scene.account(&bound, slurm);
        scene.world.delete_grant("vision").await;
        scene.world.gone::<AccessGrant>("vision").await;
        slurm.sacctmgr(&["delete", "account", &account]).await.unwrap();
        slurm.sacctmgr(&["add", "account", &account, "description=mine"]).await.unwrap();
        scene.world.apply(grant("vision", 20)).await;
        let refused = until("the account is named", CYCLE, async || {
            let grant: AccessGrant = scene.world.api().get("vision").await.unwrap();
            let message = grant
                .status
                .clone()
                .unwrap_or_default()
                .sites
                .into_iter()
                .find(|site| site.name == "bissen")
                .and_then(|site| site.message)
                .unwrap_or_default();
            if message.contains("ForeignObject") && message.contains(&account) { Ok(message) } else { Err(message.into()) }
        })
        .await;
        eprintln!("{refused}");
        let text = slurm.sacctmgr(&["-nP", "show", "account", &account, "format=descr"]).await.unwrap();
        assert_eq!(text.trim(), "mine");
    });
}
