//! The main job on a real local federation: a hub, two sites and, where it can be, a real Slurm as a third; left running until `demo stop`.

#![allow(clippy::print_stdout)]

mod slurm;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use aifactory_api::{AIFactory, AccessGrant, GPUPool};
use aifactory_tests::{Cut, Federation, Operator, OperatorOptions, Proxy, SlinkyStandIn, eventually, examples, layout, two_sites_nodes};
use kube::api::ListParams;
use kube::{Api, ResourceExt};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const NAMESPACE: &str = "ardenne";
/// The site's own policy: which images may run as privileged slurmd.
const SITE_POLICY: &str = "
apiVersion: v1
kind: ConfigMap
metadata: {name: aifactory-site-policy, namespace: aifactory-system}
data: {imagePrefixes: ghcr.io/slinkyproject/slurmd}
";
const SITES: [&str; 2] = ["bissen", "bettembourg"];
/// Written by the serving process when the federation is up.
const UP: &str = "The demo is up.";
/// And when it could not be brought up.
const DOWN: &str = "The demo failed: ";

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["start"] => start().await,
        ["serve"] => serve().await,
        ["stop"] => send_command("stop").await,
        ["cut", site] => send_command(&format!("cut {site}")).await,
        ["restore", site] => send_command(&format!("restore {site}")).await,
        _ => Err("usage: demo start | stop | cut SITE | restore SITE".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn directory() -> PathBuf {
    layout::root().join("target/demo")
}

fn socket() -> PathBuf {
    directory().join("control.sock")
}

/// Starts the serving process, which goes on by itself, and shows what it does.
async fn start() -> Result<(), Failure> {
    if UnixStream::connect(socket()).await.is_ok() {
        return Err("a demo runs already; stop it with: make demo-stop".into());
    }
    let _ = std::fs::remove_dir_all(directory());
    std::fs::create_dir_all(directory())?;
    let log = directory().join("demo.log");
    let file = std::fs::File::create(&log)?;
    let mut child =
        Command::new("setsid").arg(std::env::current_exe()?).arg("serve").stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?;
    let mut shown = 0;
    loop {
        let text = std::fs::read_to_string(&log)?;
        print!("{}", text.get(shown..).unwrap_or_default());
        std::io::stdout().flush()?;
        shown = text.len();
        if text.contains(UP) {
            break;
        }
        if let Some(line) = text.lines().find(|line| line.starts_with(DOWN)) {
            return Err(line.into());
        }
        if child.try_wait()?.is_some_and(|status| !status.success()) {
            return Err(format!("the demo ended; see {}", relative(&log)).into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    show()?;
    print_next();
    Ok(())
}

/// Holds the federation until told to stop.
async fn serve() -> Result<(), Failure> {
    let listener = UnixListener::bind(socket())?;
    match bring_up().await {
        Ok(demo) => {
            println!("{UP}");
            control(listener, &demo).await;
            let _ = demo.operator.terminate(Duration::from_secs(10)).await;
            Ok(())
        }
        Err(error) => {
            println!("{DOWN}{error}");
            Err(error)
        }
    }
}

/// What runs. Its end is the end of all.
struct Demo {
    operator: Operator,
    slurm: Option<slurm::Cluster>,
    federation: Federation,
    _stand_ins: Vec<SlinkyStandIn>,
}

impl Demo {
    /// The way to a site.
    fn line(&self, site: &str) -> Option<&Proxy> {
        let slurm = self.slurm.as_ref().filter(|_| site == slurm::SITE).map(slurm::Cluster::proxy);
        slurm.or_else(|| self.federation.site(site).ok().map(aifactory_tests::Cluster::proxy))
    }

    fn sites(&self) -> Vec<&str> {
        SITES.into_iter().chain(self.slurm.as_ref().map(|_| slurm::SITE)).collect()
    }
}

async fn bring_up() -> Result<Demo, Failure> {
    let started = Instant::now();
    let print = |text: &str| println!("{:6.1} s  {text}", started.elapsed().as_secs_f64());
    let federation = Federation::builder()
        .name("demo")
        .directory(directory().join("federation"))
        .sites(SITES)
        .progress(move |progress| println!("{:6.1} s  {}", progress.elapsed.as_secs_f64(), progress.step))
        .start()
        .await?;
    let mut stand_ins = Vec::new();
    for site in federation.sites() {
        for node in two_sites_nodes(site.name()) {
            site.add_node(node).await?;
        }
        site.ensure_namespace("aifactory-system").await?;
        site.apply(SITE_POLICY).await?;
        stand_ins.push(SlinkyStandIn::install(site, "slurm", &format!("slurm-{}", site.name())).await?);
        site.admin_kubeconfig().write(&directory().join(format!("{}.kubeconfig", site.name())))?;
    }
    federation.hub().admin_kubeconfig().write(&directory().join("hub.kubeconfig"))?;
    print("nodes with GPUs (KWOK) and a stand-in for slurm-operator are at both sites");
    federation.install([NAMESPACE]).await?;
    print("CRDs, roles and admission policies are installed; sites' credentials are Secrets on the hub");
    let operator = Operator::start(&federation, OperatorOptions::new()).await?;
    operator.await_ready(Duration::from_secs(60)).await?;
    print("the operator runs, with the rights of its roles only");
    for folder in ["two-sites", "antenna"] {
        examples(&layout::root().join("examples").join(folder))?.apply(&federation.hub().admin(), "demo").await?;
        print(&format!("examples/{folder} is applied"));
    }
    let slurm = slurm::start(print).await?;
    if let Some(cluster) = &slurm {
        slurm::apply(&federation, cluster).await?;
        print("examples/slurm is applied, with the address of this Slurm");
    }
    await_ready(&federation).await?;
    print("all is Ready");
    if let Some(cluster) = &slurm {
        slurm::show(&federation, cluster, print).await?;
        cluster.write_shell(&directory().join(slurm::SHELL))?;
    }
    slurm::explain(slurm.is_some());
    Ok(Demo { operator, slurm, federation, _stand_ins: stand_ins })
}

async fn await_ready(federation: &Federation) -> Result<(), Failure> {
    let client = federation.hub().admin();
    let factories: Api<AIFactory> = Api::all(client.clone());
    let pools: Api<GPUPool> = Api::all(client.clone());
    let grants: Api<AccessGrant> = Api::all(client);
    eventually(Duration::from_secs(120), "every resource is Ready", async || {
        let mut open = Vec::new();
        let mut check = |name: String, conditions: Option<&[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]>| {
            let ready = conditions.unwrap_or_default().iter().find(|condition| condition.type_ == "Ready");
            if ready.is_none_or(|ready| ready.status != "True") {
                open.push(format!("{name}: {}", ready.map(|ready| ready.message.clone()).unwrap_or_default()));
            }
        };
        for factory in factories.list(&ListParams::default()).await? {
            check(factory.name_any(), factory.status.as_ref().map(|status| status.conditions.as_slice()));
        }
        for pool in pools.list(&ListParams::default()).await? {
            check(pool.name_any(), pool.status.as_ref().map(|status| status.conditions.as_slice()));
        }
        for grant in grants.list(&ListParams::default()).await? {
            check(grant.name_any(), grant.status.as_ref().map(|status| status.conditions.as_slice()));
        }
        if open.is_empty() { Ok(()) } else { Err(open.join("; ").into()) }
    })
    .await?;
    Ok(())
}

/// Obeys `stop`, `cut SITE` and `restore SITE`.
async fn control(listener: UnixListener, demo: &Demo) {
    while let Ok((stream, _)) = listener.accept().await {
        let (reader, mut writer) = stream.into_split();
        let line = BufReader::new(reader).lines().next_line().await.ok().flatten().unwrap_or_default();
        let answer = match line.split_once(' ').unwrap_or((line.as_str(), "")) {
            ("stop", _) => "stopped".to_owned(),
            (verb @ ("cut" | "restore"), name) => match demo.line(name) {
                Some(line) if verb == "cut" => {
                    line.cut(Cut::Refuse).await;
                    format!("{name} is cut off; put it back with: make demo-restore SITE={name}")
                }
                Some(line) => {
                    line.restore().await;
                    format!("{name} is back")
                }
                None => format!("there is no site {name:?}; there are {}", demo.sites().join(", ")),
            },
            _ => "not understood".to_owned(),
        };
        let _ = writer.write_all(format!("{answer}\n").as_bytes()).await;
        if line == "stop" {
            return;
        }
    }
}

async fn send_command(line: &str) -> Result<(), Failure> {
    let Ok(mut stream) = UnixStream::connect(socket()).await else {
        return if line == "stop" { Ok(()) } else { Err("no demo runs; start it with: make demo".into()) };
    };
    stream.write_all(format!("{line}\n").as_bytes()).await?;
    let answer = BufReader::new(stream).lines().next_line().await?.unwrap_or_default();
    println!("{answer}");
    Ok(())
}

/// What arose, as a person would look at it.
fn show() -> Result<(), Failure> {
    kubectl("hub", &["get", "aifactories,gpupools,accessgrants", "-A"])?;
    for site in SITES {
        kubectl(site, &["get", "nodes", "-L", "aifactory.dev/pool"])?;
        kubectl(site, &["get", "namespaces", "-l", "aifactory.dev/tenant=true", "-L", "aifactory.dev/state"])?;
        kubectl(site, &["get", "networkpolicies", "-A", "-l", "aifactory.dev/managed=true"])?;
        kubectl(site, &["get", "nodesets.slinky.slurm.net", "-A"])?;
    }
    Ok(())
}

fn kubectl(cluster: &str, arguments: &[&str]) -> Result<(), Failure> {
    let kubeconfig = directory().join(format!("{cluster}.kubeconfig"));
    println!("\n[{cluster}] $ kubectl {}", arguments.join(" "));
    Command::new(layout::control_plane("kubectl")?).arg("--kubeconfig").arg(kubeconfig).args(arguments).status()?;
    Ok(())
}

fn print_next() {
    let kubectl = relative(&layout::root().join("target/control-plane/bin/kubectl"));
    println!(
        "
The federation goes on running. To look around:

  alias kubectl={kubectl}
  export KUBECONFIG=target/demo/hub.kubeconfig            # the hub; target/demo/bissen.kubeconfig is a site
  kubectl get aifactories,gpupools,accessgrants -A

Four things to try:

  1. Delete a network policy at a site, and see it return:
     kubectl --kubeconfig target/demo/bissen.kubeconfig delete networkpolicy aif-default-deny -n $(kubectl get grant voxelia-playground -n {NAMESPACE} -o jsonpath='{{.status.sites[?(@.name==\"bissen\")].access.kubernetes.namespace}}')
  2. Cut a site off and see what status says; then put it back:
     make demo-cut SITE=bissen          make demo-restore SITE=bissen
  3. Revoke a grant:
     kubectl patch grant voxelia-playground -n {NAMESPACE} --type=merge -p '{{\"spec\":{{\"state\":\"Revoked\"}}}}'
  4. Delete a grant by mistake, and be refused:
     kubectl delete grant course-deep-learning -n {NAMESPACE}

Stop it all with: make demo-stop"
    );
}

fn relative(path: &Path) -> String {
    path.strip_prefix(layout::root()).unwrap_or(path).display().to_string()
}
