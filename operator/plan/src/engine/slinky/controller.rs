//! Whether a Controller that the site runs is configured so that a budget works.

use std::collections::BTreeMap;

use aifactory_api::slurm::Slinky;
use serde_json::Value;

/// A Controller's namespace and name.
pub type ControllerKey = (String, String);

/// The Controllers of a site.
pub type Controllers = BTreeMap<ControllerKey, ControllerView>;

/// A Controller, reduced to what decides whether Slurm enforces budgets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ControllerView {
    /// Its slurmctld runs elsewhere, where its configuration can not be read.
    pub external: bool,
    /// It names an Accounting.
    pub accounting: bool,
    /// A changed configuration is read without a restart.
    pub in_place: bool,
    /// Values in slurm.conf by lower-case name, the last first.
    settings: BTreeMap<String, String>,
}

impl ControllerView {
    /// Reduces a Controller.
    pub fn from_json(controller: &Value) -> Self {
        let flag = |path: &str| controller.pointer(path).and_then(Value::as_bool).unwrap_or_default();
        let text = |path: &str| controller.pointer(path).and_then(Value::as_str).unwrap_or_default();
        Self {
            external: flag("/spec/external"),
            accounting: !text("/spec/accountingRef/name").is_empty(),
            in_place: flag("/spec/inplaceReconfigure"),
            settings: settings(text("/spec/extraConf")),
        }
    }

    fn has(&self, setting: &str, wanted: &[&str]) -> bool {
        let value = self.settings.get(setting).map(String::as_str).unwrap_or_default();
        value.split(',').any(|word| wanted.iter().any(|wanted| word.trim().eq_ignore_ascii_case(wanted)))
    }

    /// What has to be changed, in literal form: lines of slurm.conf, and fields of the Controller.
    fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        if !self.external {
            if !self.has("grestypes", &["gpu"]) {
                missing.push("GresTypes=gpu".to_owned());
            }
            if !self.has("accountingstoragetres", &["gres/gpu"]) {
                missing.push("AccountingStorageTRES=gres/gpu".to_owned());
            }
            // As Slurm reads them: safe means limits, and each of these means associations.
            let enforced = |words: &[&str]| self.has("accountingstorageenforce", words);
            if !(enforced(&["safe", "all"]) && enforced(&["qos", "all"])) {
                missing.push("AccountingStorageEnforce=associations,limits,qos,safe".to_owned());
            }
            if !self.in_place {
                missing.push("inplaceReconfigure: true (without it every change of a partition restarts slurmctld)".to_owned());
            }
        }
        if !self.accounting {
            missing.push("accountingRef: {name: <Accounting>} (without accounting Slurm has no budgets)".to_owned());
        }
        missing
    }
}

/// What the Controller of a site lacks for budgets to work; `None`: nothing.
pub fn configuration(slinky: &Slinky, controllers: &Controllers) -> Option<String> {
    let (namespace, name) = (&slinky.namespace, slinky.controller());
    let Some(controller) = controllers.get(&(namespace.clone(), name.to_owned())) else {
        return Some(match slinky.managed {
            Some(_) => format!("Controller {namespace}/{name}, which slurm.slinky.managed asks for, is not there yet"),
            None => format!("there is no Controller {namespace}/{name}, which slurm.slinky.controllerRef names"),
        });
    };
    let missing = controller.missing();
    (!missing.is_empty()).then(|| {
        format!(
            "Controller {namespace}/{name} does not let Slurm keep budgets; whoever administers the site adds to its spec (slurm.conf lines to \
             spec.extraConf): {}",
            missing.join("; ")
        )
    })
}

/// The settings of a piece of slurm.conf: names are read whatever their case, of a repeated one the last counts, `#` begins a comment.
fn settings(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .flat_map(|line| line.split('#').next().unwrap_or_default().split_whitespace())
        .filter_map(|token| token.split_once('='))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

    use serde_json::json;

    use super::*;

    fn missing(spec: Value) -> Vec<String> {
        ControllerView::from_json(&json!({"spec": spec})).missing()
    }

    #[test]
    fn each_missing_line_is_named() {
        let all = missing(json!({}));
        let wanted =
            ["GresTypes=gpu", "AccountingStorageTRES=gres/gpu", "AccountingStorageEnforce=associations,limits,qos,safe", "inplaceReconfigure: true"];
        for wanted in wanted {
            assert!(all.iter().any(|line| line.starts_with(wanted)), "{wanted} in {all:?}");
        }
        assert_eq!(all.len(), 5);
        let rest = json!({"inplaceReconfigure": true, "accountingRef": {"name": "a"}});
        let with = |conf: &str| {
            let mut spec = rest.clone();
            spec["extraConf"] = json!(conf);
            missing(spec)
        };
        let good =
            "grestypes=GPU\n# AccountingStorageTRES=no\nAccountingStorageTRES=billing,gres/gpu,gres/gpu:h100 AccountingStorageEnforce=qos,safe # all";
        assert_eq!(with(good), [] as [String; 0]);
        assert_eq!(with(&format!("{good}\nAccountingStorageEnforce=limits,qos")), ["AccountingStorageEnforce=associations,limits,qos,safe"]);
        // A typed limit is not the untyped one that budgets are counted in.
        assert_eq!(with(&format!("{good}\nAccountingStorageTRES=gres/gpu:h100")), ["AccountingStorageTRES=gres/gpu"]);
        assert_eq!(with(&format!("#{good}")).first().map(String::as_str), Some("GresTypes=gpu"));
        assert_eq!(missing(json!({"external": true, "accountingRef": {"name": "a"}})), [] as [String; 0]);
    }
}
