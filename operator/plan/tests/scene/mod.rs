//! Random but legal surroundings: a factory with two sites and two grants that want everything.

mod text;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use aifactory_api::factory::{Dns, NetworkPort, NetworkService, Protocol};
use aifactory_api::grant::{AfterRetention, RunningWork};
use aifactory_api::name::tenant_namespace;
use aifactory_api::reference::{Kind, OwnerRef};
use aifactory_plan::engine::network::{self, Rendered};
use aifactory_plan::model::id::{HubId, TenantNamespace};
use aifactory_plan::model::intent::{CrossSiteIntent, Desired, EgressIntent, End, GrantIntent, SiteIntent};
use aifactory_plan::model::object::Ownership;
use proptest::prelude::*;

use crate::evaluator::{Cluster, Labels, Pod, Range, Traffic};
pub use text::range_text;

pub const HUB: &str = "hub-1";
pub const SITES: [&str; 2] = ["bissen", "bettembourg"];

/// One site's ranges.
#[derive(Clone, Debug)]
pub struct Layout {
    pub pods: Vec<String>,
    pub others: Vec<String>,
    pub node_local: Vec<String>,
    pub services: Vec<NetworkService>,
}

/// What a grant asks for.
#[derive(Clone, Debug)]
pub struct Wish {
    pub name: &'static str,
    pub egress: Vec<EgressIntent>,
    /// Addresses by site, in the order of [`SITES`].
    pub cross_site: Option<[Vec<String>; 2]>,
    pub pod_labels: Vec<Labels>,
}

/// The factory and its two grants, the older one first.
#[derive(Clone, Debug)]
pub struct Scene {
    pub layouts: [Layout; 2],
    pub linked: bool,
    pub wishes: [Wish; 2],
}

impl Scene {
    /// The ranges of the whole factory.
    pub fn protected(&self) -> Vec<String> {
        let all: BTreeSet<&String> = self.layouts.iter().flat_map(|layout| layout.pods.iter().chain(&layout.others)).collect();
        all.into_iter().cloned().collect()
    }

    pub fn site(&self, site: usize) -> SiteIntent {
        let layout = &self.layouts[site];
        let dns = Dns { node_local_cidrs: layout.node_local.clone(), ..Dns::default() };
        site_intent(SITES[site], self.protected(), dns, layout.services.clone())
    }

    /// A grant's addresses at a site, less those that an older grant names: the hub's check.
    pub fn addresses(&self, grant: usize, site: usize) -> Vec<String> {
        let older: Vec<&String> = self.wishes[..grant].iter().flat_map(|wish| wish.cross_site.iter().flatten().flatten()).collect();
        let asked = self.wishes[grant].cross_site.iter().flat_map(|sites| &sites[site]);
        asked.filter(|cidr| !older.iter().any(|other| network::overlaps(cidr, other))).cloned().collect()
    }

    /// Those of them that can be a grant's own.
    pub fn own(&self, grant: usize, site: usize) -> Vec<Range> {
        let protected = self.protected();
        self.addresses(grant, site).iter().filter_map(|cidr| network::own_address(&protected, cidr).ok()).map(|cidr| Range::parse(&cidr)).collect()
    }

    pub fn grant(&self, grant: usize, site: usize) -> GrantIntent {
        let wish = &self.wishes[grant];
        let peer = 1 - site;
        let cross_site = wish.cross_site.as_ref().map(|_| CrossSiteIntent {
            own: self.addresses(grant, site),
            peers: if self.linked { [(SITES[peer].to_owned(), self.addresses(grant, peer))].into() } else { BTreeMap::new() },
        });
        grant_intent(wish.egress.clone(), cross_site)
    }

    pub fn owner(&self, grant: usize) -> OwnerRef {
        OwnerRef::new(Kind::AccessGrant, "example", self.wishes[grant].name)
    }

    pub fn namespace(&self, grant: usize) -> String {
        tenant_namespace(HUB, &self.owner(grant))
    }

    pub fn render(&self, grant: usize, site: usize) -> Rendered {
        let ownership = Ownership::new(&HubId::new(HUB), &self.owner(grant), "uid");
        network::policies(&self.site(site), &self.grant(grant, site), &TenantNamespace::new(self.namespace(grant)), &ownership)
    }

    /// A site with both grants' policies.
    pub fn cluster(&self, site: usize) -> Cluster {
        let name = |namespace: String| {
            let labels = [("kubernetes.io/metadata.name".to_owned(), namespace.clone()), ("aifactory.dev/tenant".to_owned(), "true".to_owned())];
            (namespace, labels.into())
        };
        let system = [("kubernetes.io/metadata.name".to_owned(), "kube-system".to_owned())].into();
        let namespaces = [0, 1].map(|grant| name(self.namespace(grant))).into_iter().chain([("kube-system".to_owned(), system)]).collect();
        let policies = [0, 1].into_iter().flat_map(|grant| decoded(&self.render(grant, site))).collect();
        Cluster { namespaces, policies }
    }

    pub fn pods(&self, grant: usize) -> Vec<Pod> {
        let namespace = self.namespace(grant);
        let pod = |labels: &Labels| Pod { namespace: namespace.clone(), labels: labels.clone(), named_ports: BTreeMap::new() };
        self.wishes[grant].pod_labels.iter().map(pod).collect()
    }

    /// Addresses by which others may see a grant's Pods: those of Pods, those of nodes by translation, and the grant's own.
    pub fn seen_as(&self, grant: usize, site: usize) -> Vec<IpAddr> {
        let layout = &self.layouts[site];
        let ranges = layout.pods.iter().chain(&layout.others).map(|cidr| Range::parse(cidr)).chain(self.own(grant, site));
        ranges
            .flat_map(|range| [range.address(range.first), range.address(range.first + (range.last - range.first) / 2), range.address(range.last)])
            .collect()
    }

    /// Traffic at the edges of every port that anybody names.
    pub fn traffic(&self) -> Vec<Traffic> {
        let named = self.wishes.iter().flat_map(|wish| &wish.egress).flat_map(|entry| match entry {
            EgressIntent::Range { ports, .. } => ports.clone(),
            EgressIntent::Service(_) => Vec::new(),
        });
        let named: Vec<NetworkPort> =
            named.chain(self.layouts.iter().flat_map(|layout| &layout.services).flat_map(|service| service.ports.clone())).collect();
        traffic(&named)
    }
}

/// Traffic at the edges of these ports, on name resolution's, and on two more.
pub fn traffic(ports: &[NetworkPort]) -> Vec<Traffic> {
    let edges = ports.iter().flat_map(|port| [port.port - 1, port.port, port.end_port.unwrap_or(port.port), port.end_port.unwrap_or(port.port) + 1]);
    let numbers: BTreeSet<u16> = edges.filter_map(|port| u16::try_from(port).ok()).chain([1, 53, 65535]).filter(|port| *port > 0).collect();
    numbers.into_iter().flat_map(|port| ["TCP", "UDP", "SCTP"].map(|protocol| Traffic { protocol, port })).collect()
}

/// The policies as an API server would read them.
pub fn decoded(rendered: &Rendered) -> Vec<k8s_openapi::api::networking::v1::NetworkPolicy> {
    rendered.objects.iter().map(|object| serde_json::from_value(object.content.clone()).expect("a NetworkPolicy")).collect()
}

pub fn site_intent(name: &str, protected: Vec<String>, dns: Dns, services: Vec<NetworkService>) -> SiteIntent {
    SiteIntent { protected, dns, services, ..SiteIntent::bare(HUB, OwnerRef::new(Kind::AIFactory, "example", "example"), "uid", name) }
}

pub fn grant_intent(egress: Vec<EgressIntent>, cross_site: Option<CrossSiteIntent>) -> GrantIntent {
    GrantIntent {
        code: "EHPC-AIF-2026PG99-001".to_owned(),
        organisation: "Example SARL".to_owned(),
        desired: Desired::Bound,
        only_if_held: None,
        keep: false,
        barred: Vec::new(),
        members: Vec::new(),
        pools: Vec::new(),
        caps: aifactory_plan::model::intent::MemberCaps::default(),
        end: End { running_work: RunningWork::Finish, grace_seconds: 0, retention_seconds: 0, after_retention: AfterRetention::Retain },
        not_after: jiff::Timestamp::UNIX_EPOCH,
        storage: "0".to_owned(),
        egress,
        cross_site,
        adopt_previous: false,
    }
}

/// Ports; some that no API server would take.
pub fn ports() -> impl Strategy<Value = Vec<NetworkPort>> {
    let protocol = prop_oneof![Just(Protocol::TCP), Just(Protocol::UDP), Just(Protocol::SCTP)];
    let number = prop_oneof![8 => 1..=65535i32, 2 => Just(53), 2 => Just(443), 1 => Just(0), 1 => Just(70000), 1 => Just(-1)];
    let port = (number.clone(), proptest::option::weighted(0.3, number), protocol).prop_map(|(port, end_port, protocol)| NetworkPort {
        port,
        end_port,
        protocol,
    });
    proptest::collection::vec(port, 0..4)
}

/// Any scene.
pub fn scene() -> impl Strategy<Value = Scene> {
    let protected = proptest::collection::vec(text::private_range(), 1..4);
    protected.prop_flat_map(|known| {
        let layout = || layout(known.clone());
        let wish = |name| wish(name, known.clone());
        (layout(), layout(), prop::bool::weighted(0.8), wish("alpha"), wish("beta")).prop_map(|(one, two, linked, older, younger)| Scene {
            layouts: [one, two],
            linked,
            wishes: [older, younger],
        })
    })
}

fn layout(known: Vec<String>) -> impl Strategy<Value = Layout> {
    let node_local = prop_oneof![Just("169.254.20.10/32".to_owned()), Just("fd00::10/128".to_owned()), Just("169.254.0.0/16".to_owned())];
    let service = (ports(), proptest::collection::vec(range_text(), 1..3));
    let pick = proptest::sample::select(known.clone());
    let more = || proptest::collection::vec(text::private_range(), 0..3);
    (pick, more(), more(), proptest::collection::vec(node_local, 0..2), proptest::collection::vec(service, 0..3)).prop_map(
        move |(first, mut pods, others, node_local, services)| {
            pods.insert(0, first);
            let names = ["s3", "nfs", "licences"];
            let services = names.into_iter().zip(services).map(|(name, (ports, cidrs))| NetworkService {
                name: name.to_owned(),
                cidrs: cidrs.iter().map(|cidr| cidr.near(&known)).collect(),
                ports,
            });
            let services = services.collect();
            Layout { pods, others, node_local, services }
        },
    )
}

fn wish(name: &'static str, known: Vec<String>) -> impl Strategy<Value = Wish> {
    let service = proptest::sample::select(vec!["s3", "nfs", "licences", "unknown"]).prop_map(|name| EgressIntent::Service(name.to_owned()));
    let near = known.clone();
    let range = (range_text(), ports()).prop_map(move |(cidr, ports)| EgressIntent::Range { cidr: cidr.near(&near), ports });
    let egress = proptest::collection::vec(prop_oneof![1 => service, 3 => range], 0..6);
    let addresses = || {
        let known = known.clone();
        proptest::collection::vec(prop_oneof![2 => text::routed_range(), 1 => range_text()].prop_map(move |cidr| cidr.near(&known)), 1..4)
    };
    let cross_site = proptest::option::weighted(0.7, (addresses(), addresses()).prop_map(|(one, two)| [one, two]));
    let labels = prop_oneof![
        Just(Labels::new()),
        Just([("k8s-app".to_owned(), "kube-dns".to_owned())].into()),
        Just([("kubernetes.io/metadata.name".to_owned(), "kube-system".to_owned())].into()),
        Just([("app".to_owned(), "train".to_owned())].into()),
    ];
    let pod_labels = proptest::collection::vec(labels, 1..3);
    (egress, cross_site, pod_labels).prop_map(move |(egress, cross_site, pod_labels)| Wish { name, egress, cross_site, pod_labels })
}
