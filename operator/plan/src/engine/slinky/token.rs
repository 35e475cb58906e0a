//! What may be written into slurm.conf and NodeSets: each a type of its own that only legal text becomes, never spliced text.

use std::fmt;

use aifactory_api::pool::Preemption;

use crate::engine::nodes::is_label_value;

/// Text that must not be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {value:?}: {rule}")]
pub struct IllegalToken {
    what: &'static str,
    value: String,
    rule: &'static str,
}

macro_rules! tokens {
    ($($(#[doc = $doc:literal])+ $name:ident, $what:literal, $rule:literal, $legal:expr;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name(String);

        impl $name {
            /// The token, if the text is legal.
            pub fn parse(text: &str) -> Result<Self, IllegalToken> {
                let legal: fn(&str) -> bool = $legal;
                if legal(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(IllegalToken { what: $what, value: text.chars().take(80).collect(), rule: $rule })
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )+};
}

tokens! {
    /// Name of a partition, which is the NodeSet's too. `default` is Slurm's word for defaults, and `all` as a list of nodes means every node.
    Partition, "partition", "write 1 to 40 lower case letters, digits and inner '-', such as h100; not default or all",
        |text| is_dns_label(text, 40) && !["default", "all"].contains(&text);
    /// Type of a GPU in `Gres=gpu:<type>:<count>`. Digits alone would be read as the count.
    GresType, "GRES type", "the accelerator's model starts with letters and digits, such as H100-SXM5-80GB",
        |text| is_plain(text, 40) && !text.chars().all(|c| c.is_ascii_digit());
    /// An image.
    Image, "image", "write at most 255 lower case letters, digits and inner . - / : _ @, such as ghcr.io/slinkyproject/slurmd:26.05-ubuntu26.04",
        |text| text.len() <= 255
            && text.starts_with(is_lower)
            && text.ends_with(is_lower)
            && text.chars().all(|c| is_lower(c) || matches!(c, '-' | '.' | '/' | ':' | '_' | '@'));
    /// Name of a pool, as the value of a node label.
    Pool, "pool", "write at most 63 letters, digits and inner '-', '_' and '.', such as h100", is_label_value;
    /// The extended resource of an accelerator, which is the key of the pool's taint.
    Resource, "accelerator", "write one of those that spec.accelerator.resourceName takes, such as nvidia.com/gpu", crate::engine::nodes::is_accelerator;
    /// A namespace.
    Namespace, "namespace", "write 1 to 63 lower case letters, digits and inner '-', such as slurm", |text| is_dns_label(text, 63);
    /// Name of a Controller.
    Controller, "controllerRef.name", "write 1 to 63 lower case letters, digits and inner '-' and '.', such as slurm",
        |text| is_dns_label(&text.replace('.', "-"), 63);
    /// Slurm's ClusterName.
    Cluster, "slurm.clusterName", "write 1 to 40 lower case letters, digits and inner '-' and '_', such as bissen",
        |text| is_dns_label(&text.replace('_', "-"), 40);
    /// Address of a database.
    Host, "managed.accounting.host", "write a host name or an IPv4 address, such as mariadb.slurm.svc", |text| is_dns_name(text);
    /// Name of a database, or of a user in one.
    DatabaseName, "managed.accounting", "write lower case letters, digits, '_' and inner '-', such as slurm_acct_db",
        |text| (1..=64).contains(&text.len())
            && text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && text.chars().all(|c| is_lower(c) || matches!(c, '_' | '-'));
    /// Name of a Secret which the site has made for this.
    SecretName, "managed.accounting.passwordSecretRef.name", "write a name that begins with aifactory-, such as aifactory-slurm-db",
        |text| text.starts_with("aifactory-") && is_dns_name(text);
    /// Key in a Secret.
    SecretKey, "managed.accounting.passwordSecretRef.key", "write letters, digits, '-', '_' and '.', such as password",
        |text| (1..=253).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    /// Size of a volume.
    Size, "managed.storage.size", "write a whole number of Mi, Gi or Ti, such as 10Gi",
        |text| ["Mi", "Gi", "Ti"].iter().filter_map(|unit| text.strip_suffix(unit)).any(|number| {
            (1..=6).contains(&number.len()) && !number.starts_with('0') && number.chars().all(|c| c.is_ascii_digit())
        });
    /// Class of a volume.
    StorageClass, "managed.storage.storageClassName", "write a name of lower case letters, digits and inner '-' and '.', such as fast", |text| is_dns_name(text);
    /// A longest run time, as Slurm writes it.
    WallTime, "MaxTime", "write UNLIMITED or [days-]hours:minutes:seconds", is_wall_time;
    /// Which partitions go first.
    PriorityTier, "priorityTier", "write a number from 0 to 65533, such as 10",
        |text| text.parse::<u32>().is_ok_and(|tier| tier <= 65533 && tier.to_string() == text);
    /// What jobs must bear when a higher tier needs their nodes.
    PreemptMode, "preemption", "write Off, Requeue, Cancel or Suspend", |text| ["OFF", "REQUEUE", "CANCEL", "SUSPEND"].contains(&text);
}

impl GresType {
    /// The first part of the model, in lower case: `H100-SXM5-80GB` is `h100`.
    pub fn of_model(model: &str) -> Result<Self, IllegalToken> {
        Self::parse(&model.split(['-', '_', '.']).next().unwrap_or_default().to_ascii_lowercase())
    }
}

impl PreemptMode {
    /// As Slurm writes it.
    pub fn of(preemption: Preemption) -> Self {
        let word = match preemption {
            Preemption::Off => "OFF",
            Preemption::Requeue => "REQUEUE",
            Preemption::Cancel => "CANCEL",
            Preemption::Suspend => "SUSPEND",
        };
        Self(word.to_owned())
    }
}

impl WallTime {
    /// So many minutes; `None`: no limit. Zero minutes would let no job run.
    pub fn of_minutes(minutes: Option<u32>) -> Result<Self, IllegalToken> {
        let text = match minutes {
            None => UNLIMITED.to_owned(),
            Some(0) => "0".to_owned(),
            Some(minutes) => {
                let (days, hours, minutes) = (minutes / 1440, minutes / 60 % 24, minutes % 60);
                if days == 0 { format!("{hours:02}:{minutes:02}:00") } else { format!("{days}-{hours:02}:{minutes:02}:00") }
            }
        };
        Self::parse(&text)
    }
}

const UNLIMITED: &str = "UNLIMITED";

fn is_wall_time(text: &str) -> bool {
    if text == UNLIMITED {
        return true;
    }
    let digits = |text: &str, length| !text.is_empty() && text.len() <= length && text.chars().all(|c| c.is_ascii_digit());
    let clock = match text.split_once('-') {
        Some((days, clock)) if digits(days, 7) => clock,
        Some(_) => return false,
        None => text,
    };
    clock.len() == 8 && clock.split(':').count() == 3 && clock.split(':').all(|part| part.len() == 2 && digits(part, 2))
}

fn is_lower(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

fn is_plain(text: &str, length: usize) -> bool {
    (1..=length).contains(&text.len()) && text.chars().all(is_lower)
}

fn is_dns_name(text: &str) -> bool {
    is_dns_label(&text.replace('.', "-"), 253)
}

fn is_dns_label(text: &str, length: usize) -> bool {
    (1..=length).contains(&text.len()) && text.starts_with(is_lower) && text.ends_with(is_lower) && text.chars().all(|c| is_lower(c) || c == '-')
}
