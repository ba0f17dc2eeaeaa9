//! `node run`: the agent of this host in the foreground, told by upstream's flags.
//!
//! Upstream starts a container with docker. The agent needs none: what the flags say becomes its
//! environment, with the names of the variables that upstream's container has.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use calico_datastore::DatastoreConfig;
use calico_datastore::config::Pem;
use clap::{Args, ValueEnum};

use crate::failure::Failure;

/// The agent's program.
const AGENT: &str = "calico-agent";

/// Flags of `node run`.
#[derive(Debug, Default, Args)]
pub(crate) struct RunArgs {
    /// IPv4 address of this node: an address, CIDR, `autodetect` or `none`
    #[arg(long, value_name = "IP")]
    ip: Option<String>,
    /// IPv6 address of this node, likewise
    #[arg(long, value_name = "IP")]
    ip6: Option<String>,
    /// AS number of this node, if it is not the cluster's
    #[arg(long = "as", value_name = "NUMBER")]
    as_number: Option<u32>,
    /// Name of this node [default: the host's name]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// first-found, can-reach=HOST, interface=EXPRESSIONS, skip-interface=EXPRESSIONS, cidr=CIDRS
    #[arg(long, value_name = "METHOD")]
    ip_autodetection_method: Option<String>,
    /// Likewise, for IPv6
    #[arg(long, value_name = "METHOD")]
    ip6_autodetection_method: Option<String>,
    /// Networking between nodes
    #[arg(long, value_enum, default_value = "bird")]
    backend: Backend,
    /// Do not make the first pools of a new cluster
    #[arg(long, alias = "no-default-ipv4-pool")]
    no_default_ippools: bool,
    /// File with parameters of FelixConfiguration for this host
    #[arg(long, value_name = "FILE")]
    felix_config: Option<PathBuf>,
    /// Print what would be run, and stop
    #[arg(long)]
    dryrun: bool,
    /// Print a unit for systemd that does the same, and stop
    #[arg(long)]
    init_system: bool,
    /// Refused: the agent writes its log to the standard error
    #[arg(long, hide = true, value_name = "DIR")]
    log_dir: Option<PathBuf>,
    /// Refused: there is no container
    #[arg(long, hide = true, value_name = "IMAGE")]
    node_image: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, ValueEnum)]
enum Backend {
    /// BGP
    #[default]
    Bird,
    /// Routes are somebody else's business
    None,
}

/// Becomes the agent, or says what it would do.
pub(crate) fn run(args: &RunArgs, store: &DatastoreConfig) -> Result<String, Failure> {
    refuse(args)?;
    let environment = environment(args, store)?;
    let agent = beside_this().unwrap_or_else(|| AGENT.into());
    if args.init_system {
        return Ok(unit(&environment, &agent));
    }
    if args.dryrun {
        let words = environment.iter().map(|(name, value)| format!("{name}={} \\\n", quote(value)));
        return Ok(format!("{}  {}\n", words.collect::<String>(), quote(&agent.to_string_lossy())));
    }
    const FILE: &str = "/etc/calico/agent.toml";
    if Path::new(FILE).exists() {
        return Err(Failure::Usage(format!(
            "{FILE} says how the agent of this host runs, and would win over these flags; start \
             {AGENT} itself, or move the file away"
        )));
    }
    let failure = Command::new(&agent).envs(environment).exec();
    Err(Failure::Agent(format!(
        "cannot run {}: {failure}; install it beside calicoctl or into the PATH",
        agent.display()
    )))
}

/// Flags that have no meaning without docker; silence would mislead.
fn refuse(args: &RunArgs) -> Result<(), Failure> {
    let reason = if args.node_image.is_some() {
        "--node-image: the agent is a program of this host, not a container; leave the flag out, \
         and run the DaemonSet of deploy/kubernetes where containers are wanted"
    } else if args.log_dir.is_some() {
        "--log-dir: the agent writes its log to the standard error; redirect that, or let systemd \
         keep it (--init-system prints a unit)"
    } else {
        return Ok(());
    };
    Err(Failure::Usage(reason.to_owned()))
}

fn environment(
    args: &RunArgs,
    store: &DatastoreConfig,
) -> Result<Vec<(&'static str, String)>, Failure> {
    let mut all = of_store(store)?;
    let texts = [
        ("NODENAME", &args.name),
        ("IP", &args.ip),
        ("IP6", &args.ip6),
        ("IP_AUTODETECTION_METHOD", &args.ip_autodetection_method),
        ("IP6_AUTODETECTION_METHOD", &args.ip6_autodetection_method),
    ];
    all.extend(texts.into_iter().filter_map(|(name, text)| Some((name, text.clone()?))));
    if let Some(number) = args.as_number {
        all.push(("AS", number.to_string()));
    }
    if args.no_default_ippools {
        all.push(("NO_DEFAULT_POOLS", "true".to_owned()));
    }
    let backend = match args.backend {
        Backend::Bird => "bird",
        Backend::None => "none",
    };
    all.push(("CALICO_NETWORKING_BACKEND", backend.to_owned()));
    if let Some(path) = &args.felix_config {
        const FILE: &str = "/etc/calico/felix.cfg";
        if path != Path::new(FILE) {
            return Err(Failure::Usage(format!(
                "--felix-config: the agent reads {FILE}; put the file there, or name another one \
                 in /etc/calico/agent.toml (felix_config)"
            )));
        }
        let readable = fs::File::open(path).map(drop);
        readable.map_err(|source| Failure::Read { path: path.clone(), source })?;
    }
    Ok(all)
}

fn of_store(store: &DatastoreConfig) -> Result<Vec<(&'static str, String)>, Failure> {
    let path = |path: &Path| path.display().to_string();
    match store {
        DatastoreConfig::Etcd(etcd) => {
            let mut all = vec![("DATASTORE_TYPE", "etcdv3".to_owned())];
            all.push(match &etcd.discovery_srv {
                Some(domain) => ("ETCD_DISCOVERY_SRV", domain.clone()),
                None => ("ETCD_ENDPOINTS", etcd.endpoints.join(",")),
            });
            let files = [
                ("ETCD_CA_CERT_FILE", &etcd.ca),
                ("ETCD_CERT_FILE", &etcd.certificate),
                ("ETCD_KEY_FILE", &etcd.key),
            ];
            for (name, pem) in files {
                match pem {
                    Some(Pem::File(file)) => all.push((name, path(file))),
                    None => {}
                    Some(_) => {
                        return Err(Failure::Usage(format!(
                            "the settings have a certificate or key in themselves; the agent takes \
                             them from files ({name})"
                        )));
                    }
                }
            }
            all.extend(etcd.username.clone().map(|name| ("ETCD_USERNAME", name)));
            let password = etcd.password.as_ref().map(|it| it.reveal().to_owned());
            all.extend(password.map(|password| ("ETCD_PASSWORD", password)));
            Ok(all)
        }
        DatastoreConfig::Kubernetes(kubernetes) => {
            let mut all = vec![("DATASTORE_TYPE", "kubernetes".to_owned())];
            all.extend(kubernetes.kubeconfig.clone().map(|file| ("KUBECONFIG", file)));
            all.extend(kubernetes.endpoint.clone().map(|url| ("K8S_API_ENDPOINT", url)));
            all.extend(kubernetes.ca.as_ref().map(|file| ("K8S_CA_FILE", path(file))));
            all.extend(kubernetes.certificate.as_ref().map(|it| ("K8S_CERT_FILE", path(it))));
            all.extend(kubernetes.key.as_ref().map(|file| ("K8S_KEY_FILE", path(file))));
            Ok(all)
        }
        _ => Err(Failure::Usage(
            "node run needs the cluster's datastore: set ETCD_ENDPOINTS, or DATASTORE_TYPE=kubernetes \
             and KUBECONFIG, or name a file with --config. An agent with a datastore of its own is \
             run with a file (calico-agent --config FILE)"
                .to_owned(),
        )),
    }
}

/// The agent in the directory of this program.
fn beside_this() -> Option<PathBuf> {
    let agent = std::env::current_exe().ok()?.parent()?.join(AGENT);
    agent.is_file().then_some(agent)
}

fn unit(environment: &[(&str, String)], agent: &Path) -> String {
    let variables = environment.iter().map(|(name, value)| {
        let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%");
        format!("Environment=\"{name}={value}\"\n")
    });
    let variables: String = variables.collect();
    format!(
        "[Unit]\nDescription=Calico node agent\nAfter=network-online.target\n\
         Wants=network-online.target\n\n[Service]\n{variables}ExecStart={}\nRestart=always\n\
         RestartSec=2\n\n[Install]\nWantedBy=multi-user.target\n",
        agent.display()
    )
}

/// For a shell.
fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=@%+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use calico_datastore::config::EtcdConfig;

    use super::*;

    fn etcd() -> DatastoreConfig {
        let mut etcd = EtcdConfig::new(["http://a:1", "http://b:1"]);
        etcd.ca = Some(Pem::File("/ca.pem".into()));
        DatastoreConfig::Etcd(etcd)
    }

    #[test]
    fn flags_become_the_agents_environment() {
        let args = RunArgs {
            ip: Some("autodetect".into()),
            as_number: Some(65001),
            ip_autodetection_method: Some("interface=eth.*|ens.*".into()),
            no_default_ippools: true,
            dryrun: true,
            ..RunArgs::default()
        };
        let text = run(&args, &etcd()).unwrap();
        for part in [
            "DATASTORE_TYPE=etcdv3 \\\n",
            "ETCD_ENDPOINTS=http://a:1,http://b:1 \\\n",
            "ETCD_CA_CERT_FILE=/ca.pem",
            "IP=autodetect",
            "AS=65001",
            "IP_AUTODETECTION_METHOD='interface=eth.*|ens.*'",
            "NO_DEFAULT_POOLS=true",
            "CALICO_NETWORKING_BACKEND=bird",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let mut discovered = EtcdConfig::new(Vec::<String>::new());
        discovered.discovery_srv = Some("etcd.example".to_owned());
        let text = run(&args, &DatastoreConfig::Etcd(discovered)).unwrap();
        assert!(text.contains("ETCD_DISCOVERY_SRV=etcd.example \\\n"), "{text}");
        let text = run(&RunArgs { init_system: true, ..args }, &etcd()).unwrap();
        assert!(
            text.contains("Environment=\"AS=65001\"\n") && text.contains("ExecStart="),
            "{text}"
        );
    }

    #[test]
    fn what_means_nothing_is_refused_with_what_does() {
        let refused = |args: RunArgs, store: &DatastoreConfig| {
            run(&RunArgs { dryrun: true, ..args }, store).unwrap_err().to_string()
        };
        let image = RunArgs { node_image: Some("x".into()), ..RunArgs::default() };
        assert!(refused(image, &etcd()).contains("not a container"));
        let log = RunArgs { log_dir: Some("/x".into()), ..RunArgs::default() };
        assert!(refused(log, &etcd()).contains("standard error"));
        let remote = DatastoreConfig::default();
        assert!(refused(RunArgs::default(), &remote).contains("ETCD_ENDPOINTS"));
        let felix = RunArgs { felix_config: Some("/x".into()), ..RunArgs::default() };
        assert!(refused(felix, &etcd()).contains("/etc/calico/felix.cfg"));
    }
}
