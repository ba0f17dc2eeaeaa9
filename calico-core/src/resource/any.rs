//! A resource of any kind, and the way from documents to typed resources.

use serde_json::{Map, Value};

use super::field::describe;
use super::nearest::nearest;
use super::*;
use crate::key::Key;
use crate::kind::{API_VERSION, Kind};

/// How unknown fields are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Input from people: an unknown field is an error.
    Strict,
    /// Input from people that is to be stored: as [`Strict`](Self::Strict), and with its
    /// defaults it must pass [`AnyResource::validate`]. All of it is reported at once.
    Valid,
    /// Data from stores: unknown fields are kept.
    Tolerant,
}

/// Runs `$body` with `$spec` standing for the spec type of `$kind`.
macro_rules! with_spec {
    ($kind:expr, $spec:ident => $body:expr) => {{
        macro_rules! arm {
            ($ty:ty) => {{
                type $spec = $ty;
                $body
            }};
        }
        match $kind {
            Kind::BgpConfiguration => arm!(BgpConfigurationSpec),
            Kind::BgpFilter => arm!(BgpFilterSpec),
            Kind::BgpPeer => arm!(BgpPeerSpec),
            Kind::BlockAffinity => arm!(BlockAffinitySpec),
            Kind::CalicoNodeStatus => arm!(CalicoNodeStatusSpec),
            Kind::ClusterInformation => arm!(ClusterInformationSpec),
            Kind::FelixConfiguration => arm!(FelixConfigurationSpec),
            Kind::GlobalNetworkPolicy => arm!(GlobalNetworkPolicySpec),
            Kind::GlobalNetworkSet => arm!(GlobalNetworkSetSpec),
            Kind::HostEndpoint => arm!(HostEndpointSpec),
            Kind::IpamBlock => arm!(IpamBlockSpec),
            Kind::IpamConfiguration => arm!(IpamConfigurationSpec),
            Kind::IpamHandle => arm!(IpamHandleSpec),
            Kind::IpPool => arm!(IpPoolSpec),
            Kind::IpReservation => arm!(IpReservationSpec),
            Kind::KubeControllersConfiguration => arm!(KubeControllersConfigurationSpec),
            Kind::KubernetesEndpointSlice => arm!(KubernetesEndpointSliceSpec),
            Kind::KubernetesService => arm!(KubernetesServiceSpec),
            Kind::LiveMigration => arm!(LiveMigrationSpec),
            Kind::NetworkPolicy => arm!(NetworkPolicySpec),
            Kind::NetworkSet => arm!(NetworkSetSpec),
            Kind::Node => arm!(NodeSpec),
            Kind::Profile => arm!(ProfileSpec),
            Kind::StagedGlobalNetworkPolicy => arm!(StagedGlobalNetworkPolicySpec),
            Kind::StagedKubernetesNetworkPolicy => arm!(StagedKubernetesNetworkPolicySpec),
            Kind::StagedNetworkPolicy => arm!(StagedNetworkPolicySpec),
            Kind::Tier => arm!(TierSpec),
            Kind::WorkloadEndpoint => arm!(WorkloadEndpointSpec),
        }
    }};
}

pub(super) use with_spec;

/// A resource whose kind is known at run time only.
#[derive(Debug, Clone, PartialEq)]
pub struct AnyResource {
    /// Its kind.
    pub kind: Kind,
    /// Name, labels and bookkeeping.
    pub metadata: ObjectMeta,
    /// `spec`, `status` and whatever else there is, as written.
    pub fields: Map<String, Value>,
}

impl AnyResource {
    /// Reads one document.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its path.
    pub fn from_value(value: Value, mode: Mode) -> Result<Self, Vec<FieldError>> {
        let one = |path: &str, message: String| vec![FieldError::new(path, message)];
        let Value::Object(mut fields) = value else {
            let found = describe(&value);
            return Err(one(
                "document",
                format!("expected a map with kind and metadata, found {found}"),
            ));
        };
        match super::object::take(&mut fields, "apiVersion") {
            Some(Value::String(version)) if version == API_VERSION => {}
            None if mode == Mode::Tolerant => {}
            None => return Err(one("apiVersion", format!("missing; write {API_VERSION}"))),
            Some(other) => {
                return Err(one("apiVersion", format!("is {other}, expected {API_VERSION}")));
            }
        }
        let kind = match super::object::take(&mut fields, "kind") {
            Some(Value::String(name)) => exact_kind(&name).map_err(|error| vec![error])?,
            Some(other) => {
                let found = describe(&other);
                return Err(one("kind", format!("expected a name, found {found}")));
            }
            None => return Err(one("kind", "missing; write the kind, such as IPPool".to_owned())),
        };
        let metadata =
            super::object::take(&mut fields, "metadata").filter(|value| !value.is_null());
        if mode != Mode::Tolerant {
            let mut errors = Errors::default();
            if let Some(metadata) = &metadata {
                ObjectMeta::check(metadata, &Path::Root.key("metadata"), &mut errors);
            }
            with_spec!(kind, S => check_fields::<S>(&fields, &mut errors));
            if let Err(mut found) = errors.into_result() {
                if mode == Mode::Valid {
                    let rest = rest::mistakes(kind, metadata, fields, &found);
                    found.extend(rest);
                }
                return Err(found);
            }
        }
        let metadata = match metadata {
            Some(value) => {
                serde_json::from_value(value).map_err(|error| one("metadata", error.to_string()))?
            }
            None => ObjectMeta::default(),
        };
        let any = Self { kind, metadata, fields };
        if mode != Mode::Tolerant {
            // Whatever the walk accepts must be readable.
            let mut complete = any.normalised().map_err(|error| vec![error])?;
            if mode == Mode::Valid {
                complete.apply_defaults().map_err(|error| vec![error])?;
                complete.validate()?;
            }
        }
        Ok(any)
    }

    /// The document: kind, apiVersion, metadata, then the rest.
    #[must_use]
    pub fn to_value(&self) -> Value {
        let mut out = Map::new();
        out.insert("kind".to_owned(), self.kind.as_str().into());
        out.insert("apiVersion".to_owned(), API_VERSION.into());
        out.insert("metadata".to_owned(), to_json(&self.metadata));
        out.extend(self.fields.iter().map(|(key, value)| (key.clone(), value.clone())));
        Value::Object(out)
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.metadata.name
    }

    /// The namespace; empty for cluster-wide kinds.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.metadata.namespace
    }

    /// Its name in a datastore.
    #[must_use]
    pub fn key(&self) -> Key {
        Key::resource(self.kind, Some(self.namespace()), self.name())
    }

    /// Its text in a datastore; see [`Resource::to_json`].
    #[must_use]
    pub fn to_json(&self) -> Arc<str> {
        self.to_value().to_string().into()
    }

    /// The typed resource; unknown fields come along.
    ///
    /// # Errors
    /// Another kind, or the first value that the type cannot hold, with its path.
    pub fn typed<S: Spec>(&self) -> Result<Resource<S>, FieldError> {
        if self.kind != S::KIND {
            return Err(FieldError::new("kind", format!("is {}, not {}", self.kind, S::KIND)));
        }
        let mut resource = Resource::from_fields(&self.fields)?;
        resource.metadata = self.metadata.clone();
        Ok(resource)
    }

    /// The text of a document that was read already, in canonical order and spelling; see
    /// [`Resource::to_json`].
    ///
    /// # Errors
    /// Another kind, or the first value that the type cannot hold.
    pub fn canonical_json(
        kind: Kind,
        document: &Map<String, Value>,
    ) -> Result<Arc<str>, FieldError> {
        with_spec!(kind, S => Resource::<S>::from_fields(document).map(|found| found.to_json()))
    }

    /// The same resource after a round through its type: canonical order and spelling.
    ///
    /// # Errors
    /// The first value that the type cannot hold.
    pub fn normalised(&self) -> Result<Self, FieldError> {
        with_spec!(self.kind, S => self.typed::<S>().map(Self::from))
    }

    /// Writes upstream's defaults into fields that are unset.
    ///
    /// # Errors
    /// The first value that the type cannot hold.
    pub fn apply_defaults(&mut self) -> Result<(), FieldError> {
        *self = with_spec!(self.kind, S => {
            let mut typed = self.typed::<S>()?;
            typed.apply_defaults();
            Self::from(typed)
        });
        Ok(())
    }

    /// Checks everything that upstream's validation checks.
    ///
    /// # Errors
    /// Everything that is wrong, each with its path.
    pub fn validate(&self) -> Result<(), Vec<FieldError>> {
        with_spec!(self.kind, S => self.typed::<S>().map_err(|error| vec![error])?.validate())
    }
}

impl<S: Spec> From<Resource<S>> for AnyResource {
    fn from(resource: Resource<S>) -> Self {
        let mut fields = Map::new();
        fields.insert("spec".to_owned(), to_json(&resource.spec));
        if let Some(status) = &resource.status {
            fields.insert("status".to_owned(), to_json(status));
        }
        for (key, value) in resource.unknown.iter() {
            fields.insert(key.clone(), value.clone());
        }
        Self { kind: S::KIND, metadata: resource.metadata, fields }
    }
}

impl Serialize for AnyResource {
    fn serialize<Z: Serializer>(&self, serializer: Z) -> Result<Z::Ok, Z::Error> {
        self.to_value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for AnyResource {
    /// Tolerant.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_value(value, Mode::Tolerant).map_err(|errors| {
            let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
            D::Error::custom(texts.join("; "))
        })
    }
}

/// Strict walk over what stands next to `kind` and `metadata`.
fn check_fields<S: Spec>(fields: &Map<String, Value>, errors: &mut Errors) {
    for (key, value) in fields {
        let at = Path::Root.key(key);
        match key.as_str() {
            _ if value.is_null() => {}
            "spec" => S::check(value, &at, errors),
            "status" => S::Status::check(value, &at, errors),
            _ => {
                let known = ["kind", "apiVersion", "metadata", "spec", "status"];
                errors.push(&at, super::nearest::unknown_field(key, known.into_iter()));
            }
        }
    }
    if fields.get("spec").is_none_or(Value::is_null) {
        // Required fields of the spec are missing, too.
        S::check(&Value::Object(Map::new()), &Path::Root.key("spec"), errors);
    }
}

/// The kind of a document: spelt exactly, unlike on a command line.
fn exact_kind(name: &str) -> Result<Kind, FieldError> {
    let kind = Kind::ALL.iter().copied().find(|kind| kind.as_str() == name);
    kind.ok_or_else(|| {
        let guess = nearest(name, Kind::ALL.iter().map(|kind| kind.as_str()));
        let hint = guess.map_or_else(String::new, |guess| format!("; did you mean {guess}?"));
        FieldError::new("kind", format!("{name:?} is no kind of {API_VERSION}{hint}"))
    })
}

/// Values of the model are maps, lists and scalars, which JSON always holds.
fn to_json(value: &impl Serialize) -> Value {
    serde_json::to_value(value).expect("resource types serialise to JSON")
}
