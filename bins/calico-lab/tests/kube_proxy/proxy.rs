//! kube-proxy on the nodes of a lab, and the services that it makes reachable.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use calico_lab::Lab;
use calico_test_servers::ADMIN;
use calico_test_servers::api::Api;
use calico_test_servers::programs;
use serde_json::{Value, json};

/// A kube-proxy of a node. It ends with this; what it made in the kernel stays.
pub(crate) struct Proxy {
    child: Child,
    log: PathBuf,
}

impl Proxy {
    /// Starts it in a mode, `nftables` or `iptables`.
    pub(crate) fn start(lab: &Lab, node: &str, mode: &str) -> Self {
        let program = programs::find_proxy(|what| println!("{what}")).unwrap();
        let directory = lab.run_dir(node);
        let server = lab.store_addresses()[0].addr();
        let ca = lab.run_dir("store").join("ca.pem");
        let api = Api { url: format!("https://{server}:6443"), ca, token: ADMIN.to_owned() };
        let kubeconfig = directory.join("proxy.kubeconfig");
        fs::write(&kubeconfig, api.kubeconfig()).unwrap();
        let log = directory.join("kube-proxy.log");
        let output = File::options().create(true).append(true).open(&log).unwrap();
        let child = Command::new("ip")
            .args(["netns", "exec", &lab.namespace(node), "setpriv", "--pdeathsig", "KILL"])
            .arg(program)
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--hostname-override={node}"))
            .arg(format!("--proxy-mode={mode}"))
            .args([
                "--cluster-cidr=10.244.0.0/16",
                "--detect-local-mode=ClusterCIDR",
                "--iptables-min-sync-period=100ms",
                // The machine's settings of connection tracking are not this namespace's to change.
                "--conntrack-max-per-core=0",
                "--conntrack-min=0",
                "--conntrack-tcp-timeout-established=0",
                "--conntrack-tcp-timeout-close-wait=0",
            ])
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(&self.log).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            println!("{}:", self.log.display());
            lines[lines.len().saturating_sub(15)..].iter().for_each(|line| println!("{line}"));
        }
    }
}

/// A service of one pod, on ports that are the same inside and outside.
pub(crate) struct Service<'a> {
    pub(crate) name: &'a str,
    /// Its address.
    pub(crate) address: &'a str,
    /// The port that nodes listen on for its port 80; 0: none.
    pub(crate) node_port: u16,
    /// `Cluster` or `Local`.
    pub(crate) external: &'a str,
    pub(crate) tcp: &'a [u16],
    /// The pod behind it; none: nobody.
    pub(crate) pod: Option<&'a str>,
}

impl Service<'_> {
    /// What the users and the controllers of a cluster write.
    pub(crate) fn apply(&self, lab: &Lab) {
        let Self { name, address, node_port, external, tcp, pod } = self;
        let port = |port: &u16| {
            let mut value = json!({"name": format!("tcp-{port}"), "port": port, "protocol": "TCP"});
            if *node_port != 0 && *port == 80 {
                value["nodePort"] = json!(node_port);
            }
            value
        };
        let ports: Vec<Value> = tcp.iter().map(port).collect();
        let mut spec = json!({"clusterIP": address, "ports": ports});
        if *node_port != 0 {
            spec["type"] = json!("NodePort");
            spec["externalTrafficPolicy"] = json!(external);
        }
        let service = json!({"apiVersion": "v1", "kind": "Service", "spec": spec,
            "metadata": {"name": name, "namespace": "default"}});
        apply(lab, &service);
        let endpoints: Vec<Value> = pod
            .iter()
            .map(|pod| {
                let running = lab.pod(pod).unwrap();
                json!({"addresses": [running.address(false).unwrap()],
                    "conditions": {"ready": true}, "nodeName": running.pod.node})
            })
            .collect();
        let ports: Vec<Value> = tcp
            .iter()
            .map(|port| json!({"name": format!("tcp-{port}"), "port": port, "protocol": "TCP"}))
            .collect();
        apply(
            lab,
            &json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {"name": name, "namespace": "default",
                    "labels": {"kubernetes.io/service-name": name}},
                "addressType": "IPv4", "endpoints": endpoints, "ports": ports}),
        );
    }
}

fn apply(lab: &Lab, object: &Value) {
    lab.kubectl_apply(&object.to_string()).unwrap();
}
