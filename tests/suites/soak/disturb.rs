//! Time, cuts, kills and set-backs.

use std::time::Duration;

use aifactory_tests::Cut;
use jiff::Timestamp;
use kube::Api;

use aifactory_api::AccessGrant;

use crate::cast;
use crate::clock::Ms;
use crate::ops::Op;
use crate::stage::Soak;

/// The longest that real time is waited for at once: what takes longer is the simulation's.
const LONGEST: Ms = 3000;

async fn pass(span: Ms) {
    tokio::time::sleep(Duration::from_millis(u64::try_from(span.clamp(0, LONGEST)).unwrap_or_default())).await;
}

impl Soak {
    pub async fn apply(&self, op: Op) {
        let known = self.edit_grant(op).await.unwrap() || self.edit_others(op).await.unwrap() || self.lay_hands(op).await;
        if !known {
            self.disturb(op).await;
        }
    }

    async fn disturb(&self, op: Op) {
        match op {
            Op::Wait(span) => pass(span).await,
            Op::Sleep(span) => {
                self.world.operator.freeze().unwrap();
                pass(span).await;
                self.world.operator.thaw().unwrap();
            }
            Op::Edge(grant, end, offset) => {
                let owner = cast::grant(grant);
                let api: Api<AccessGrant> = Api::namespaced(self.world.hub().admin(), &owner.namespace);
                if let Ok(Some(found)) = api.get_opt(&owner.name).await {
                    let edge = if end { found.spec.not_after.0 } else { found.spec.not_before.0 };
                    pass(edge.as_millisecond() + offset - Timestamp::now().as_millisecond()).await;
                }
            }
            Op::Cut(site) => self.site(site).proxy().cut(Cut::Silent).await,
            Op::Mute(site) => self.site(site).proxy().cut(Cut::Refuse).await,
            Op::Heal(site) => {
                self.site(site).proxy().restore().await;
                self.site(site).proxy().delay(Duration::ZERO);
            }
            Op::Lag(site, span, _) | Op::Slow(site, span) => {
                self.site(site).proxy().delay(Duration::from_millis(u64::try_from(span.min(500)).unwrap_or_default()));
            }
            Op::Restart(pause) => {
                self.world.operator.kill();
                pass(pause).await;
                self.world.operator.restart().await.unwrap();
            }
            Op::SaveSite(site) => {
                let snapshot = self.site(site).snapshot().unwrap();
                self.saved.lock().unwrap().insert(site, snapshot);
            }
            Op::RestoreSite(site) => {
                let saved = self.saved.lock().unwrap().remove(&site);
                if let Some(saved) = saved {
                    self.site(site).restore(&saved).await.unwrap();
                }
            }
            // What only virtual time or a Slurm can show.
            _ => {}
        }
    }
}
