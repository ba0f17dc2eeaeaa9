//! From the command line to work.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use calico_core::Datastore;
use calico_core::key::Key;
use calico_core::kind::Kind;
use calico_core::resource::{AnyResource, ObjectMeta};
use serde_json::Map;

use crate::change::{self, Verb};
use crate::cli::{Cli, Command, InputArgs, IpamCommand, NodeCommand, SelectArgs, StoreArgs};
use crate::failure::Failure;
use crate::get::{self, Format, Query};
use crate::label::{self, Change};
use crate::stored::{Stamp, place};
use crate::{cascade, input, ipam, node, policy, settings, version};

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

/// Carries out a command.
pub(crate) async fn run(cli: Cli, stdin: &mut dyn Read) -> Result<Said, Failure> {
    let store = || open(&cli.store);
    let said = match cli.command {
        Command::Create { input, skip_exists } => {
            let verb = Verb::Create { skip_exists };
            write(&store, verb, &input, stdin).await?
        }
        Command::Apply { input } => write(&store, Verb::Apply, &input, stdin).await?,
        Command::Replace { input } => write(&store, Verb::Replace, &input, stdin).await?,
        Command::Delete { select, skip_empty, skip_not_exists } => {
            let verb = Verb::Delete { skip_missing: skip_not_exists };
            delete(&store, verb, &select, skip_empty, stdin).await?
        }
        Command::Get { select, all_namespaces, output, export } => {
            return show(&store, &select, all_namespaces, &output, export, stdin).await;
        }
        Command::Label { kind, name, label, overwrite, remove, namespace } => {
            let kind: Kind = kind.parse()?;
            refuse_namespace(kind, namespace.as_deref())?;
            let change = Change::parse(&label, remove, overwrite)?;
            let key = Key::resource(kind, namespace.as_deref(), &name);
            label::carry_out(&*store()?, &key, &change).await.map(line)?
        }
        Command::Validate { input } => validate(&input, stdin)?,
        Command::Ipam { command } => {
            let IpamCommand::Show { ip, show_blocks, show_borrowed, show_configuration } = command;
            match (ip, show_borrowed, show_configuration) {
                (Some(ip), ..) => ipam::address(store()?, ip).await?,
                (None, true, _) => ipam::borrowed(store()?).await?,
                (None, false, true) => ipam::configuration(store()?).await?,
                (None, false, false) => ipam::pools(store()?, show_blocks).await?,
            }
        }
        Command::Policy { command } => return policy::run(&store, command, stdin).await,
        Command::Node { command: NodeCommand::Status { control_socket } } => {
            node::status(&control_socket, SystemTime::now()).await?
        }
        Command::Version { client: true } => version::client(),
        Command::Version { client: false } => {
            format!("{}{}", version::client(), version::cluster(&*store()?).await?)
        }
    };
    Ok(said.into())
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
    stdin: &mut dyn Read,
) -> Result<String, Failure> {
    let resources = input::read(&args.filename, args.recursive, args.skip_empty, stdin)?;
    let items = change::prepare(verb, resources, args.namespace.as_deref())?;
    change::carry_out(&*store()?, verb, &items, &Stamp::of_system()).await.map(line)
}

async fn delete(
    store: Open<'_>,
    verb: Verb,
    args: &SelectArgs,
    skip_empty: bool,
    stdin: &mut dyn Read,
) -> Result<String, Failure> {
    let resources = match &args.filename {
        Some(path) => input::read(path, args.recursive, skip_empty, stdin)?,
        None => named(args)?,
    };
    if resources.is_empty() && !skip_empty {
        return Err(Failure::Usage("give the names of the resources to delete".to_owned()));
    }
    let items = change::prepare(verb, resources, args.namespace.as_deref())?;
    let store = store()?;
    for item in items.iter().filter(|item| item.resource.kind == Kind::Node) {
        if store.find(&item.key).await?.is_some() {
            cascade::of_node(&store, item.resource.name()).await?;
        }
    }
    change::carry_out(&*store, verb, &items, &Stamp::of_system()).await.map(line)
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
    let needs_as = format == Format::Wide && found.resources.iter().any(|r| r.kind == Kind::Node);
    let context = get::context(&*store, needs_as).await?;
    let with_namespace = all_namespaces || args.namespace.is_some();
    let out = get::print(&found, format, with_namespace, &context);
    let warnings = found.bad.iter().map(|error| format!("left out: {error}")).collect();
    Ok(Said { out, warnings })
}

fn query(args: &SelectArgs, all: bool, stdin: &mut dyn Read) -> Result<Query, Failure> {
    let namespace = args.namespace.as_deref();
    if let Some(path) = &args.filename {
        let mut keys = Vec::new();
        for mut resource in input::read(path, args.recursive, false, stdin)? {
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

fn validate(args: &InputArgs, stdin: &mut dyn Read) -> Result<String, Failure> {
    let resources = input::read(&args.filename, args.recursive, args.skip_empty, stdin)?;
    let items = change::prepare(Verb::Replace, resources, args.namespace.as_deref())?;
    let source = if args.filename == Path::new("-") {
        "standard input".into()
    } else {
        args.filename.to_string_lossy()
    };
    Ok(line(format!("{} resource(s) in {source} are valid", items.len())))
}

fn line(text: String) -> String {
    text + "\n"
}
