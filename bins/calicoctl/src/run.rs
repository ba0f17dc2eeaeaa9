//! From the command line to work.

use std::cell::RefCell;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use calico_core::Datastore;
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{AnyResource, GoDuration, Mode, ObjectMeta, UnknownWord};
use calico_datastore::DatastoreConfig;
use serde_json::Map;

use crate::change::{self, Verb};
use crate::cli::{
    Cli, ClusterCommand, Command, DatastoreCommand, DryArgs, EndpointCommand, InputArgs,
    IpamCommand, MigrateCommand, NodeCommand, SelectArgs, StoreArgs,
};
use crate::cluster::Cluster;
use crate::dry_run::DryRun;
use crate::failure::Failure;
use crate::get::{self, Format, Query};
use crate::label::{self, Change};
use crate::output::colour::Colour;
use crate::stored::{Stamp, place};
use crate::{
    bgp, cascade, cluster_diags, datastore, diff, endpoint, input, ipam, node, patch, policy,
    settings, shell, version,
};

/// What a command has to say.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) out: String,
    /// For the standard error, although nothing failed.
    pub(crate) warnings: Vec<String>,
}

impl From<String> for Said {
    fn from(out: String) -> Self {
        Self { out, warnings: Vec::new() }
    }
}

/// Time for the question which version the cluster has.
const VERSION_PATIENCE: Duration = Duration::from_secs(2);

/// Carries out a command.
pub(crate) async fn run(cli: Cli, stdin: &mut dyn Read) -> Result<Said, Failure> {
    // Opened when first used, and once: an embedded store lets nobody in twice.
    let opened = RefCell::new(None);
    let store = || {
        if let Some(store) = &*opened.borrow() {
            return Ok(Arc::clone(store));
        }
        let store = open(&cli.store)?;
        *opened.borrow_mut() = Some(Arc::clone(&store));
        Ok(store)
    };
    if !cli.store.allow_version_mismatch && uses_datastore(&cli.command) {
        check_version(&store).await?;
    }
    let said = match cli.command {
        Command::Create { input, skip_exists, dry } => {
            let verb = Verb::Create { skip_exists };
            return write(&store, verb, &input, dry, stdin).await;
        }
        Command::Apply { input, dry } => {
            return write(&store, Verb::Apply, &input, dry, stdin).await;
        }
        Command::Replace { input, dry } => {
            return write(&store, Verb::Replace, &input, dry, stdin).await;
        }
        Command::Diff { input } => {
            let resources = of_input(&input, stdin)?;
            let items = change::prepare(Verb::Apply, resources, input.namespace.as_deref())?;
            let (stamp, colour) = (Stamp::of_system(), Colour::of_stdout());
            let text = diff::of(&*store()?, &items, &stamp, colour).await?;
            if !text.is_empty() {
                return Err(Failure::Differs(text));
            }
            text
        }
        Command::Patch { kind, name, patch, how, namespace, dry } => {
            let kind: Kind = kind.parse()?;
            refuse_namespace(kind, namespace.as_deref())?;
            let patch = patch::parse(&patch)?;
            let key = Key::resource(kind, namespace.as_deref(), &name);
            let store = dry.wrap(store()?);
            let said = patch::carry_out(&*store, &key, how, &patch, &Stamp::of_system()).await?;
            dry.line(said)
        }
        Command::Delete { select, skip_empty, skip_not_exists, dry } => {
            let verb = Verb::Delete { skip_missing: skip_not_exists };
            delete(&store, verb, &select, skip_empty, dry, stdin).await?
        }
        Command::Get { select, all_namespaces, output, export } => {
            return show(&store, &select, all_namespaces, &output, export, stdin).await;
        }
        Command::Label { kind, name, label, overwrite, remove, namespace, dry } => {
            let kind: Kind = kind.parse()?;
            refuse_namespace(kind, namespace.as_deref())?;
            let change = Change::parse(&label, remove, overwrite)?;
            let key = Key::resource(kind, namespace.as_deref(), &name);
            let store = dry.wrap(store()?);
            dry.line(label::carry_out(&*store, &key, &change).await?)
        }
        Command::Validate { input } => return validate(&input, stdin),
        Command::Ipam { command } => ipam(&store, command).await?,
        Command::Policy { command } => return policy::run(&store, command, stdin).await,
        Command::Endpoint { command } => endpoint(&store, command).await?,
        Command::Bgp { command } => bgp::run(command).await?,
        Command::Cluster { command: ClusterCommand::Diags(args) } => {
            cluster_diags::collect(&*store()?, &args, SystemTime::now()).await?
        }
        Command::Node { command } => node(&cli.store, command).await?,
        Command::Datastore { command: DatastoreCommand::Migrate { command } } => match command {
            MigrateCommand::Export { kubernetes } => {
                datastore::export(&*store()?, kubernetes).await?
            }
            MigrateCommand::Import { filename } => {
                let views = settings::datastore(&cli.store, |name| std::env::var(name).ok())
                    .is_ok_and(|config| matches!(config, DatastoreConfig::Kubernetes(_)));
                datastore::import(&*store()?, &filename, views).await?
            }
            MigrateCommand::Lock => datastore::lock(&*store()?).await?,
            MigrateCommand::Unlock => datastore::unlock(&*store()?).await?,
        },
        Command::Version { client: true, .. } => version::client(),
        Command::Version { client: false, poll } => {
            let cluster = loop {
                match (version::cluster(&*store()?).await, poll) {
                    (Err(_), Some(seconds)) => {
                        tokio::time::sleep(Duration::from_secs(seconds)).await
                    }
                    (Err(error), None) => {
                        let (out, source) = (version::client(), Box::new(error));
                        return Err(Failure::Rest { out, source });
                    }
                    (Ok(cluster), _) => break cluster,
                }
            };
            format!("{}{cluster}", version::client())
        }
        Command::Completion { shell } => shell::completion(shell),
        Command::Man { directory } => shell::manual(&directory)?,
    };
    Ok(said.into())
}

/// Whether the command reads or writes the datastore for more than its version.
const fn uses_datastore(command: &Command) -> bool {
    !matches!(
        command,
        Command::Validate { .. }
            | Command::Policy { .. }
            | Command::Endpoint { .. }
            | Command::Bgp { .. }
            | Command::Node { .. }
            | Command::Version { .. }
            | Command::Completion { .. }
            | Command::Man { .. }
    )
}

/// A cluster that cannot be asked is no other version: the command itself says what is wrong.
async fn check_version(store: Open<'_>) -> Result<(), Failure> {
    let Ok(store) = store() else { return Ok(()) };
    let answer = tokio::time::timeout(VERSION_PATIENCE, Cluster::read(&*store)).await;
    match answer {
        Ok(Ok(Some(cluster))) => version::check(&cluster.information.spec.calico_version),
        _ => Ok(()),
    }
}

impl DryArgs {
    fn wrap(self, store: Arc<dyn Datastore>) -> Arc<dyn Datastore> {
        if self.dry_run { Arc::new(DryRun::new(store)) } else { store }
    }

    fn line(self, text: String) -> String {
        line(if self.dry_run { format!("{text} (dry run)") } else { text })
    }
}

async fn ipam(store: Open<'_>, command: IpamCommand) -> Result<String, Failure> {
    const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));
    match command {
        IpamCommand::Show { ip, show_blocks, show_borrowed, show_configuration } => {
            match (ip, show_borrowed, show_configuration) {
                (Some(ip), ..) => ipam::address(store()?, ip).await,
                (None, true, _) => ipam::borrowed(store()?).await,
                (None, false, true) => ipam::configuration(store()?).await,
                (None, false, false) => ipam::pools(store()?, show_blocks).await,
            }
        }
        IpamCommand::Check { show_all_ips, show_problem_ips, output, .. } => {
            let request = ipam::check::Request {
                all: show_all_ips,
                problems: show_problem_ips,
                output: output.as_deref(),
            };
            ipam::check::run(store()?, VERSION, request).await
        }
        IpamCommand::Release { ip: Some(ip), .. } => ipam::release::address(store()?, ip).await,
        IpamCommand::Release { ip: None, from_report, force } => {
            ipam::release::from_reports(store()?, VERSION, &from_report, force).await
        }
        IpamCommand::Gc { dry_run, grace } => {
            let grace: GoDuration = grace
                .parse()
                .map_err(|error| Failure::Usage(format!("--grace {grace}: {error}")))?;
            let request = ipam::gc::Request { dry_run, grace: grace.0 };
            ipam::gc::run(store()?, request, &mut |text| eprintln!("{text}")).await
        }
        IpamCommand::Split { number, cidr, name } => {
            let which = match (cidr, name) {
                (Some(cidr), _) => ipam::split::Which::Cidr(cidr),
                (None, name) => ipam::split::Which::Name(name.unwrap_or_default()),
            };
            ipam::split::run(store()?, number, &which, &Stamp::of_system()).await
        }
        IpamCommand::Configure {
            strictaffinity,
            max_blocks_per_host,
            kubevirt_ip_persistence,
            ip_cooldown_seconds,
        } => {
            let persistence = kubevirt_ip_persistence.map(|text| text.parse()).transpose();
            let persistence = persistence.map_err(|error: UnknownWord| {
                Failure::Usage(format!("--kubevirt-ip-persistence: {error}"))
            })?;
            // Upstream's default, -1, leaves it as it is.
            let cooldown = ip_cooldown_seconds.filter(|seconds| *seconds != -1);
            let cooldown = cooldown
                .map(u32::try_from)
                .transpose()
                .map_err(|error| Failure::Usage(format!("--ip-cooldown-seconds: {error}")))?;
            let settings = ipam::configure::Settings {
                strict_affinity: strictaffinity,
                max_blocks_per_host,
                persistence,
                cooldown_seconds: cooldown,
            };
            ipam::configure::run(&*store()?, settings).await
        }
    }
}

async fn endpoint(store: Open<'_>, command: EndpointCommand) -> Result<String, Failure> {
    let EndpointCommand::Wait { names, namespace, timeout, quiet, agent, .. } = command;
    let patience: GoDuration =
        timeout.parse().map_err(|error| Failure::Usage(format!("--timeout {timeout}: {error}")))?;
    let wait = endpoint::Wait {
        names,
        namespace: namespace.unwrap_or_else(|| "default".to_owned()),
        patience: patience.0,
        socket: agent.control_socket,
    };
    let mut say = |text: &str| {
        if !quiet {
            eprintln!("{text}");
        }
    };
    endpoint::wait(store, &wait, &mut say).await
}

async fn node(store: &StoreArgs, command: NodeCommand) -> Result<String, Failure> {
    match command {
        NodeCommand::Run(args) => {
            let store = settings::datastore(store, |name| std::env::var(name).ok())?;
            node::run::run(&args, &store)
        }
        NodeCommand::Status { agent } => {
            node::status(&agent.control_socket, SystemTime::now()).await
        }
        NodeCommand::Checksystem { kernel_config } => {
            match node::system::check(&node::system::Kernel::running(kernel_config)?)? {
                (text, true) => Ok(text),
                (text, false) => Err(Failure::Agent(text.trim_end().to_owned())),
            }
        }
        NodeCommand::Diags { log_dir, output_dir } => {
            let now = SystemTime::now();
            let status = node::status(Path::new(node::CONTROL_SOCKET), now).await;
            let status = status.unwrap_or_else(|error| format!("{error}\n"));
            let into = output_dir.unwrap_or_else(std::env::temp_dir);
            node::diags::collect(&log_dir, &into, &status, now)
        }
    }
}

pub(crate) type Open<'a> = &'a dyn Fn() -> Result<Arc<dyn Datastore>, Failure>;

fn open(args: &StoreArgs) -> Result<Arc<dyn Datastore>, Failure> {
    let config = settings::datastore(args, |name| std::env::var(name).ok())?;
    Ok(calico_datastore::open(&config)?)
}

async fn write(
    store: Open<'_>,
    verb: Verb,
    args: &InputArgs,
    dry: DryArgs,
    stdin: &mut dyn Read,
) -> Result<Said, Failure> {
    let resources = of_input(args, stdin)?;
    let warnings = change::doubts(&resources, args.namespace.as_deref());
    let items = change::prepare(verb, resources, args.namespace.as_deref())?;
    let store = dry.wrap(store()?);
    let said = change::carry_out(&*store, verb, &items, &Stamp::of_system()).await?;
    Ok(Said { out: dry.line(said), warnings })
}

fn of_input(args: &InputArgs, stdin: &mut dyn Read) -> Result<Vec<AnyResource>, Failure> {
    input::read(&args.filename, args.recursive, args.skip_empty, Mode::Valid, stdin)
}

async fn delete(
    store: Open<'_>,
    verb: Verb,
    args: &SelectArgs,
    skip_empty: bool,
    dry: DryArgs,
    stdin: &mut dyn Read,
) -> Result<String, Failure> {
    let resources = match &args.filename {
        // What is invalid by now, or by another version's rules, can go all the same.
        Some(path) => input::read(path, args.recursive, skip_empty, Mode::Strict, stdin)?,
        None => named(args)?,
    };
    if resources.is_empty() && !skip_empty {
        return Err(Failure::Usage("give the names of the resources to delete".to_owned()));
    }
    let items = change::prepare(verb, resources, args.namespace.as_deref())?;
    let store = dry.wrap(store()?);
    for item in &items {
        match item.resource.kind {
            Kind::Node if store.find(&item.key).await?.is_some() => {
                cascade::of_node(&store, item.resource.name()).await?;
            }
            Kind::IpPool => cascade::of_pool(&store, item.resource.name()).await?,
            _ => {}
        }
    }
    let said = change::carry_out(&*store, verb, &items, &Stamp::of_system()).await?;
    Ok(dry.line(said))
}

async fn show(
    store: Open<'_>,
    args: &SelectArgs,
    all_namespaces: bool,
    output: &str,
    export: bool,
    stdin: &mut dyn Read,
) -> Result<Said, Failure> {
    let format = Format::parse(output)?;
    let query = query(args, all_namespaces, stdin)?;
    let store = store()?;
    let mut found = get::find(&*store, &query).await?;
    if export && found.list.is_none() {
        get::export(&mut found.resources);
    }
    let needs_as = format.needs_context();
    let context = get::context(&*store, needs_as).await?;
    let with_namespace = all_namespaces || args.namespace.is_some();
    let out = get::print(&found, &format, with_namespace, &context)?;
    let warnings = found.bad.iter().map(|error| format!("left out: {error}")).collect();
    Ok(Said { out, warnings })
}

fn query(args: &SelectArgs, all: bool, stdin: &mut dyn Read) -> Result<Query, Failure> {
    let namespace = args.namespace.as_deref();
    if let Some(path) = &args.filename {
        let mut keys = Vec::new();
        for mut resource in input::read(path, args.recursive, false, Mode::Strict, stdin)? {
            keys.push(place(&mut resource, namespace)?);
        }
        return Ok(Query::Named(keys));
    }
    let kind: Kind = args.kind.as_deref().unwrap_or_default().parse()?;
    refuse_namespace(kind, namespace)?;
    if args.names.is_empty() {
        let namespace =
            (kind.is_namespaced() && !all).then(|| namespace.unwrap_or("default").to_owned());
        return Ok(Query::List { kind, namespace });
    }
    if all {
        return Err(Failure::Usage("names are looked for in one namespace: use -n, not -A".into()));
    }
    Ok(Query::Named(args.names.iter().map(|name| Key::resource(kind, namespace, name)).collect()))
}

fn named(args: &SelectArgs) -> Result<Vec<AnyResource>, Failure> {
    let kind: Kind = args.kind.as_deref().unwrap_or_default().parse()?;
    refuse_namespace(kind, args.namespace.as_deref())?;
    let resource = |name: &String| AnyResource {
        kind,
        metadata: ObjectMeta::named(name.as_str()),
        fields: Map::new(),
    };
    Ok(args.names.iter().map(resource).collect())
}

fn refuse_namespace(kind: Kind, namespace: Option<&str>) -> Result<(), Failure> {
    match namespace {
        Some(_) if !kind.is_namespaced() => {
            Err(Failure::Usage(format!("a {kind} has no namespace; leave out -n")))
        }
        _ => Ok(()),
    }
}

fn validate(args: &InputArgs, stdin: &mut dyn Read) -> Result<Said, Failure> {
    let resources = of_input(args, stdin)?;
    let warnings = change::doubts(&resources, args.namespace.as_deref());
    let items = change::prepare(Verb::Replace, resources, args.namespace.as_deref())?;
    let source = if args.filename == Path::new("-") {
        "standard input".into()
    } else {
        args.filename.to_string_lossy()
    };
    let out = line(format!("{} resource(s) in {source} are valid", items.len()));
    Ok(Said { out, warnings })
}

fn line(text: String) -> String {
    text + "\n"
}
