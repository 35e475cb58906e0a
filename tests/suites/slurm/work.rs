//! Members submit at both sites; what is not theirs is refused by Slurm; hours are counted.

use std::time::{Duration, Instant};

use aifactory_api::AccessGrant;
use aifactory_tests::run_beside;
use aifactory_tests::slurm::JobSpec;

use crate::fixture::{POOL, condition};
use crate::scene::{CYCLE, Scene, Work, access, grant, job, until, used};

#[test]
fn a_grant_over_two_sites() {
    run_beside(async {
        let scene = Scene::start("slurm-work").await;
        let begun = Instant::now();
        scene.world.apply(grant("vision", 2)).await;
        let bound: AccessGrant = scene.world.ready("vision").await;
        eprintln!("bound at two clusters after {:?}", begun.elapsed());
        assert!(condition(&bound.status.as_ref().unwrap().conditions, "Usable").status == "True");
        for slurm in &scene.slurm {
            let (name, account, qos) = (slurm.cluster_name(), scene.account(&bound, slurm), scene.qos(&bound, slurm));
            let named = account.starts_with(&format!("grant-vision-{name}-")) && qos.starts_with(&format!("grant-vision-h100-{name}-"));
            assert!(named, "{account} {qos}");
            let access = access(&bound, name);
            assert_eq!((access.cluster.as_str(), access.partitions.as_slice()), (name, ["h100".to_owned()].as_slice()));
        }

        // One GPU for a while at each site, by both members.
        let mut jobs = Vec::new();
        for slurm in &scene.slurm {
            let account = scene.account(&bound, slurm);
            for user in ["alice", "bob"] {
                jobs.push((slurm, slurm.takes(user, &JobSpec { seconds: 4, ..job(&account, 2) }).await));
            }
        }
        for (slurm, id) in &jobs {
            slurm.wait_job(*id, "COMPLETED", CYCLE).await.unwrap();
        }
        let ended = Instant::now();
        let seen = until("hours are in status", Duration::from_secs(60), async || {
            let grant: AccessGrant = scene.world.api().get("vision").await.unwrap();
            let mut seconds = 0;
            for (slurm, id) in &jobs {
                seconds += 2 * slurm.elapsed(*id).await;
            }
            let wanted = seconds as f64 / 3600.0;
            match used(&grant) {
                // Four decimals of an hour are shown: 0.36 s.
                Some(used) if (used - wanted).abs() < 0.0002 => Ok(grant),
                other => Err(format!("{other:?} of {wanted}").into()),
            }
        })
        .await;
        eprintln!("hours in status after {:?}", ended.elapsed());
        assert!(ended.elapsed() < Duration::from_secs(45));
        assert_eq!(seen.status.as_ref().unwrap().pools[0].gpu_hours.granted, "2");

        for slurm in &scene.slurm {
            let account = scene.account(&bound, slurm);
            let refused = async |user: &str, spec: JobSpec, code: i64| {
                assert_eq!(slurm.refuses(user, &spec).await, code, "{user} {spec:?}");
            };
            let mine = || job(&account, 1);
            refused("erin", mine(), 2045).await;
            refused("alice", JobSpec { partition: Some("a100".into()), ..mine() }, 2045).await;
            refused("alice", JobSpec { qos: Some("normal".into()), ..mine() }, 2066).await;
            refused("alice", JobSpec { gpus: 0, ..mine() }, 2050).await;
            // 8 GPUs and 60 device-minutes a site.
            refused("alice", JobSpec { minutes: 40, ..job(&account, 2) }, 2050).await;
            refused("alice", JobSpec { cpus: Some(9), ..mine() }, 2050).await;
        }
        scene.at_rest(Duration::from_secs(32)).await;
        assert_eq!(POOL, "h100");
    });
}
