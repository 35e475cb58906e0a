//! Mistakes as rows: what a user wrote, what was meant, and the words that lead from one to the other.

use serde_json::{Value, json};

use super::Outcome;
use super::scene::{Scene, TEAM, complaints, scene};

/// What rows start from. Each is accepted as it stands.
#[derive(Clone, Copy, Debug)]
pub enum Base {
    Factory,
    Pool,
    SlurmPool,
    Grant,
}

/// One mistake.
#[derive(Clone, Debug)]
pub struct Mistake {
    name: &'static str,
    base: Base,
    stored: Option<Value>,
    status: Option<Value>,
    wrong: Value,
    right: Value,
    errors: Vec<&'static [&'static str]>,
}

impl Mistake {
    /// A mistake in a new object.
    pub fn new(name: &'static str, base: Base) -> Self {
        let object = base.object();
        Self { name, base, stored: None, status: None, wrong: object.clone(), right: object, errors: Vec::new() }
    }

    /// A mistake in a change of an object that is there.
    pub fn update(name: &'static str, base: Base) -> Self {
        Self { stored: Some(base.object()), ..Self::new(name, base) }
    }

    /// The status of the stored object.
    pub fn found(mut self, status: Value) -> Self {
        self.status = Some(status);
        self
    }

    /// What all versions of the object have in common. Comes first.
    pub fn given(mut self, pointer: &str, value: Value) -> Self {
        for object in self.stored.iter_mut().chain([&mut self.wrong, &mut self.right]) {
            set(object, pointer, value.clone());
        }
        self
    }

    /// What was written at a JSON pointer; a null takes it away.
    pub fn wrote(mut self, pointer: &str, value: Value) -> Self {
        set(&mut self.wrong, pointer, value);
        self
    }

    /// What was meant there; a null takes it away.
    pub fn meant(mut self, pointer: &str, value: Value) -> Self {
        set(&mut self.right, pointer, value);
        self
    }

    /// A key with nothing after it, which YAML reads as a null.
    pub fn left_empty(mut self, pointer: &str, key: &str) -> Self {
        if let Some(parent) = self.wrong.pointer_mut(pointer).and_then(Value::as_object_mut) {
            parent.insert(key.to_owned(), Value::Null);
        }
        self
    }

    /// Parts of one error message. There must be as many errors as these, so that no row passes by another one.
    pub fn error(mut self, words: &'static [&'static str]) -> Self {
        self.errors.push(words);
        self
    }

    async fn check(&self, scene: &Scene, number: usize) -> Result<(), String> {
        let name = format!("{:?}-{number}", self.base).to_lowercase();
        let named = |object: &Value| {
            let mut object = object.clone();
            object["metadata"]["name"] = json!(name);
            object
        };
        let (mut wrong, mut right) = (named(&self.wrong), named(&self.right));
        let fail = |what: &str, object: &Value, error: &kube::Error| format!("{what} is refused: {}\n{object}", complaints(error).join("\n"));
        if let Some(stored) = &self.stored {
            let stored = named(stored);
            let mut made = scene.create(&stored, false).await.map_err(|error| fail("what is there", &stored, &error))?;
            if let Some(status) = &self.status {
                made = scene.patch_status(&stored, status.clone()).await.map_err(|error| fail("its status", status, &error))?;
            }
            for object in [&mut wrong, &mut right] {
                object["metadata"] = made["metadata"].clone();
            }
        }
        let send = async |object: &Value| match self.stored {
            Some(_) => scene.replace(object, true).await,
            None => scene.create(object, true).await,
        };
        send(&right).await.map_err(|error| fail("what was meant", &right, &error))?;
        let Err(error) = send(&wrong).await else { return Err("what was written passes".to_owned()) };
        let mut found = complaints(&error);
        if found.len() != self.errors.len() {
            return Err(format!("{} complaints instead of {}:\n{}", found.len(), self.errors.len(), found.join("\n")));
        }
        for words in &self.errors {
            let Some(place) = found.iter().position(|line| words.iter().all(|word| line.contains(word))) else {
                return Err(format!("nothing says {words:?}:\n{}", found.join("\n")));
            };
            found.remove(place);
        }
        Ok(())
    }
}

impl Base {
    pub fn object(self) -> Value {
        let (kind, spec) = match self {
            Base::Factory => ("AIFactory", factory()),
            Base::Pool => ("GPUPool", pool(json!({ "kubernetes": {} }))),
            Base::SlurmPool => ("GPUPool", pool(json!({"slurm": {"partition": "h100"}}))),
            Base::Grant => ("AccessGrant", grant()),
        };
        json!({"apiVersion": "aifactory.dev/v1alpha1", "kind": kind, "metadata": {"name": "base", "namespace": TEAM}, "spec": spec})
    }
}

/// Checks rows, and names all that do not hold.
pub async fn check(rows: Vec<Mistake>, least: usize) -> Outcome {
    let scene = scene().await?;
    assert!(rows.len() >= least, "{} rows", rows.len());
    let mut failures = Vec::new();
    for (number, row) in rows.iter().enumerate() {
        // Rows of one base must not meet: updates are stored.
        let number = number
            + if row.status.is_some() {
                2000
            } else if row.stored.is_some() {
                1000
            } else {
                0
            };
        if let Err(failure) = row.check(scene, number).await {
            failures.push(format!("{}: {failure}", row.name));
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(failures.join("\n\n").into()) }
}

/// Writes a value at a JSON pointer; a null takes away what is there, and `-` is the place after the last of a list.
fn set(object: &mut Value, pointer: &str, value: Value) {
    let Some((parent, key)) = pointer.rsplit_once('/') else { return };
    match object.pointer_mut(parent) {
        Some(Value::Object(fields)) if value.is_null() => assert!(fields.remove(key).is_some(), "nothing at {pointer}"),
        Some(Value::Object(fields)) => drop(fields.insert(key.to_owned(), value)),
        Some(Value::Array(entries)) if key == "-" => entries.push(value),
        Some(Value::Array(entries)) => match key.parse::<usize>() {
            Ok(index) if value.is_null() => drop(entries.remove(index)),
            Ok(index) => entries[index] = value,
            Err(_) => panic!("no index in {pointer}"),
        },
        _ => panic!("nothing at {parent}"),
    }
}

fn factory() -> Value {
    let site = |name: &str| {
        json!({
            "name": name, "country": "LU", "stage": "Production",
            "kubernetes": {"push": {"kubeconfigSecretRef": {"name": format!("{name}-kubeconfig")}}},
            "network": {"podCIDRs": ["10.42.0.0/16"], "services": [{"name": "s3", "cidrs": ["192.0.2.0/28"], "ports": [{"port": 443}]}]},
        })
    };
    json!({"type": "Factory", "sites": [site("bissen"), site("bettembourg")], "links": [{"between": ["bissen", "bettembourg"]}]})
}

fn pool(how: Value) -> Value {
    let mut spec = json!({
        "factoryRef": {"name": "example"},
        "accelerator": {"vendor": "nvidia", "model": "H100-SXM5-80GB", "resourceName": "nvidia.com/gpu", "perNode": 4},
        "perGPU": {"cpus": 16, "memoryGiB": 120},
        "sites": [{"name": "bissen", "count": 16}, {"name": "bettembourg", "state": "Draining"}],
        "nodes": {"adopt": {"selector": {"matchLabels": {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}}}},
        "consumers": [{"name": "antenna-ie", "namespaces": {"names": ["antenna-ie"]}, "gpuHours": 200000, "maxGPUs": 64}],
    });
    for (key, value) in how.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    spec
}

fn grant() -> Value {
    json!({
        "factoryRef": {"name": "example"},
        "organisation": {"name": "Example SARL", "country": "FR", "category": "SME"},
        "code": "EHPC-AIF-2026PG99-001", "accessMode": "Playground",
        "decision": {"reference": "AIF-2026-11/17", "revision": 2, "date": "2026-11-17"},
        "members": [{"id": "p-4711", "role": "Lead", "kubernetes": {"name": "oidc:4711"}}],
        "pools": [{"name": "h100", "poolRef": {"name": "h100"}, "gpuHours": 5000, "maxGPUs": 16, "sites": [{"name": "bissen", "maxGPUs": 12}]}],
        "notBefore": "2026-12-01T00:00:00Z", "notAfter": "2027-03-01T00:00:00Z",
        "network": {"egress": [{"cidr": "203.0.113.0/24", "ports": [{"port": 443}]}, {"service": "s3"}]},
    })
}
