//! IPAM's data as custom resources.

use calico_core::key::{Family, Key, OwnerType};
use calico_core::kind::Kind;
use calico_core::resource::{
    AffinityState, AffinityType, AllocationBlock, BlockAffinitySpec, BlockAffinityValue,
    IpamBlockSpec, IpamConfig, IpamConfigurationSpec, IpamHandle, IpamHandleSpec,
};
use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sha3::Sha3_256;

use super::custom::ApiGroup;

/// The longest name of an object in Kubernetes.
const LONGEST_NAME: usize = 253;
/// Digits of the digest that a longer one ends with.
const DIGEST_DIGITS: usize = 11;

const HOST_LABEL: &str = "projectcalico.org/hostname-hash";
const TYPE_LABEL: &str = "projectcalico.org/affinity-type";
const VERSION_LABEL: &str = "projectcalico.org/ip-version";

/// What a custom resource of IPAM says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpamObject {
    /// Its name in a datastore.
    pub key: Key,
    /// Its JSON text there.
    pub value: String,
    /// Whether its deletion has begun: to readers it is gone, and whoever finds it finishes that.
    pub deleted: bool,
}

/// The kind of resource that holds `key`, if it is IPAM's.
#[must_use]
pub const fn kind_of(key: &Key) -> Option<Kind> {
    match key {
        Key::Block(_) => Some(Kind::IpamBlock),
        Key::Affinity { .. } => Some(Kind::BlockAffinity),
        Key::Handle(_) => Some(Kind::IpamHandle),
        Key::IpamConfig => Some(Kind::IpamConfiguration),
        _ => None,
    }
}

/// The name of the custom resource that holds `key`, if it is IPAM's.
#[must_use]
pub fn name_of(key: &Key) -> Option<String> {
    match key {
        Key::Block(block) => Some(cidr_name(block)),
        Key::Affinity { owner, block, .. } => Some(affinity_name(owner, block)),
        Key::Handle(id) => Some(id.to_lowercase()),
        Key::IpamConfig => Some("default".to_owned()),
        _ => None,
    }
}

fn cidr_name(net: &IpNet) -> String {
    format!("{net}").replace(['.', ':', '/'], "-")
}

fn affinity_name(owner: &str, block: &IpNet) -> String {
    let name = format!("{owner}-{}", cidr_name(block));
    if name.len() < LONGEST_NAME {
        return name;
    }
    let digest: String = Sha256::digest(&name).iter().map(|byte| format!("{byte:02x}")).collect();
    let mut end = LONGEST_NAME - 1 - DIGEST_DIGITS;
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}-{}", &name[..end], &digest[..DIGEST_DIGITS])
}

/// The custom resource that holds the JSON text of `key`.
///
/// # Errors
///
/// The text is not of the form that `key` promises, or `key` is not IPAM's.
pub fn to_custom(group: ApiGroup, key: &Key, value: &str) -> Result<Value, String> {
    let (Some(kind), Some(name)) = (kind_of(key), name_of(key)) else {
        return Err(format!("{key} is not kept as a custom resource"));
    };
    let mut metadata = json!({"name": name});
    let spec = match key {
        Key::Affinity { owner_type, owner, block } => {
            metadata["labels"] = affinity_labels(*owner_type, owner, block);
            let value = BlockAffinityValue::from_stored(value.as_bytes());
            affinity(group, *owner_type, owner, block, value.map_err(|e| e.to_string())?)
        }
        Key::Handle(id) => {
            let IpamHandle { block, deleted, unknown } = read(value)?;
            let spec = IpamHandleSpec { handle_id: id.clone(), block, deleted, unknown };
            written(&spec)
        }
        Key::Block(_) => written(&block_spec(read(value)?)),
        _ => written(&IpamConfigurationSpec::from(&read::<IpamConfig>(value)?)),
    };
    Ok(json!({
        "apiVersion": group.api_version(),
        "kind": group.kind(kind),
        "metadata": metadata,
        "spec": spec,
    }))
}

fn affinity_labels(owner_type: OwnerType, owner: &str, block: &IpNet) -> Value {
    let version = match Family::of_net(block) {
        Family::V4 => "4",
        Family::V6 => "6",
    };
    json!({
        HOST_LABEL: base32(&Sha3_256::digest(owner)),
        TYPE_LABEL: owner_type.as_str(),
        VERSION_LABEL: version,
    })
}

fn affinity(
    group: ApiGroup,
    owner_type: OwnerType,
    owner: &str,
    block: &IpNet,
    value: BlockAffinityValue,
) -> Value {
    let deleted = match group {
        ApiGroup::Crd => Value::from(value.deleted.to_string()),
        ApiGroup::V3 => value.deleted.into(),
    };
    let state = value.state.map_or("", AffinityState::as_str);
    json!({
        "cidr": block.to_string(),
        "deleted": deleted,
        "node": owner,
        "state": state,
        "type": owner_type.as_str(),
    })
}

fn block_spec(block: AllocationBlock) -> IpamBlockSpec {
    IpamBlockSpec {
        affinity: block.owner(),
        cidr: block.cidr,
        affinity_claim_time: block.affinity_claim_time,
        allocations: block.allocations,
        unallocated: block.unallocated,
        attributes: block.attributes,
        sequence_number: block.sequence_number,
        sequence_number_for_allocation: block.sequence_number_for_allocation,
        deleted: block.deleted,
        strict_affinity: false,
        unknown: block.unknown,
    }
}

/// What a custom resource of `kind` says.
///
/// # Errors
///
/// What is wrong with it.
pub fn from_custom(kind: Kind, object: &Value) -> Result<IpamObject, String> {
    let spec = &object["spec"];
    match kind {
        Kind::IpamBlock => {
            let spec: IpamBlockSpec = of(spec)?;
            let (key, deleted) = (Key::Block(spec.cidr), spec.deleted);
            let block = AllocationBlock {
                cidr: spec.cidr,
                affinity: spec.affinity.filter(|owner| !owner.is_empty()),
                affinity_claim_time: spec.affinity_claim_time,
                allocations: spec.allocations,
                unallocated: spec.unallocated,
                attributes: spec.attributes,
                sequence_number: spec.sequence_number,
                sequence_number_for_allocation: spec.sequence_number_for_allocation,
                deleted,
                host_affinity: None,
                unknown: spec.unknown,
            };
            Ok(IpamObject { key, value: written(&block).to_string(), deleted })
        }
        Kind::BlockAffinity => {
            let mut spec = spec.clone();
            if let Some(word) = spec.get("deleted").and_then(Value::as_str) {
                spec["deleted"] = (word == "true").into();
            }
            let spec: BlockAffinitySpec = of(&spec)?;
            let owner_type = match spec.affinity_type {
                Some(AffinityType::Virtual) => OwnerType::Virtual,
                _ => OwnerType::Host,
            };
            let key = Key::Affinity { owner_type, owner: spec.node, block: spec.cidr };
            let value = BlockAffinityValue {
                state: spec.state,
                deleted: spec.deleted,
                ..BlockAffinityValue::default()
            };
            Ok(IpamObject { key, value: written(&value).to_string(), deleted: spec.deleted })
        }
        Kind::IpamHandle => {
            let IpamHandleSpec { handle_id, block, deleted, unknown } = of(spec)?;
            let value = IpamHandle { block, deleted, unknown };
            let key = Key::Handle(handle_id);
            Ok(IpamObject { key, value: written(&value).to_string(), deleted })
        }
        Kind::IpamConfiguration => {
            let spec: IpamConfigurationSpec = of(spec)?;
            let value = written(&IpamConfig::from(&spec)).to_string();
            Ok(IpamObject { key: Key::IpamConfig, value, deleted: false })
        }
        other => Err(format!("{other} is not IPAM's")),
    }
}

fn read<T: DeserializeOwned>(value: &str) -> Result<T, String> {
    serde_json::from_str(value).map_err(|error| error.to_string())
}

fn of<T: DeserializeOwned>(spec: &Value) -> Result<T, String> {
    T::deserialize(spec).map_err(|error| format!("spec: {error}"))
}

fn written(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).expect("resource types serialise to JSON")
}

/// RFC 4648 section 6, without padding.
fn base32(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let (mut out, mut buffer, mut bits) = (String::new(), 0_u32, 0);
    let mut push = |five: u32| out.push(char::from(ALPHABET[(five & 31) as usize]));
    for byte in bytes {
        buffer = (buffer << 8) | u32::from(*byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            push(buffer >> bits);
        }
    }
    if bits > 0 {
        push(buffer << (5 - bits));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn affinity_key(owner: &str, block: &str) -> Key {
        let owner_type = OwnerType::Host;
        Key::Affinity { owner_type, owner: owner.to_owned(), block: block.parse().unwrap() }
    }

    #[test]
    fn names_are_upstreams() {
        let check = |key: Key, name: &str| assert_eq!(name_of(&key).unwrap(), name);
        check(Key::Block("10.65.0.64/26".parse().unwrap()), "10-65-0-64-26");
        check(Key::Block("fd00:65::40/122".parse().unwrap()), "fd00-65--40-122");
        check(affinity_key("n1", "10.65.0.64/26"), "n1-10-65-0-64-26");
        check(Key::Handle("k8s-pod-network.AbC".to_owned()), "k8s-pod-network.abc");
        check(Key::IpamConfig, "default");
        let long = name_of(&affinity_key(&"n".repeat(250), "10.65.0.64/26")).unwrap();
        assert_eq!(long.len(), LONGEST_NAME);
        let other = name_of(&affinity_key(&"n".repeat(250), "10.65.0.128/26")).unwrap();
        assert_ne!(long, other);
        assert_eq!(name_of(&Key::IpamHost("n1".to_owned())), None);
    }

    #[test]
    fn base32_is_rfc_4648s() {
        for (bytes, text) in
            [("", ""), ("f", "MY"), ("fooba", "MZXW6YTB"), ("foobar", "MZXW6YTBOI")]
        {
            assert_eq!(base32(bytes.as_bytes()), text);
        }
    }

    #[track_caller]
    fn check(group: ApiGroup, key: Key, value: &str, expected: Value) {
        let mut object = to_custom(group, &key, value).unwrap();
        let found = from_custom(kind_of(&key).unwrap(), &object).unwrap();
        assert_eq!((found.key, &*found.value), (key, value));
        assert_eq!(object["apiVersion"], group.api_version());
        object.as_object_mut().unwrap().retain(|field, _| field != "apiVersion");
        assert_eq!(object, expected);
    }

    #[test]
    fn a_block_has_the_shape_of_its_custom_resource() {
        let block = concat!(
            r#"{"cidr":"10.0.0.0/30","affinity":"host:n","affinity_claim_time":"2026-01-01T00:00:00Z","#,
            r#""allocations":[0,null,null,null],"unallocated":[1,2,3],"#,
            r#""attributes":[{"handle_id":"h","secondary":{"node":"n"}}],"#,
            r#""sequenceNumber":1700000000000000001,"#,
            r#""sequenceNumberForAllocation":{"0":1700000000000000000},"deleted":false}"#,
        );
        let expected = json!({
            "kind": "IPAMBlock",
            "metadata": {"name": "10-0-0-0-30"},
            "spec": {
                "cidr": "10.0.0.0/30", "affinity": "host:n",
                "affinityClaimTime": "2026-01-01T00:00:00Z",
                "allocations": [0, null, null, null], "unallocated": [1, 2, 3],
                "attributes": [{"handle_id": "h", "secondary": {"node": "n"}}],
                "sequenceNumber": 1_700_000_000_000_000_001_u64,
                "sequenceNumberForAllocation": {"0": 1_700_000_000_000_000_000_u64},
                "strictAffinity": false,
            },
        });
        for group in ApiGroup::ALL {
            check(group, Key::Block("10.0.0.0/30".parse().unwrap()), block, expected.clone());
        }
    }

    #[test]
    fn an_affinity_has_labels_and_in_the_older_group_a_word() {
        let expected = |deleted: Value| {
            json!({
                "kind": "BlockAffinity",
                "metadata": {"name": "n1-10-0-0-0-26", "labels": {
                    // printf n1 | openssl dgst -sha3-256 -binary | base32 | tr -d =
                    "projectcalico.org/hostname-hash": "DM7EHBDU4L3ELKRER4A46T6QMKAGARQI4CVWBO26S4I2IDAAW6CA",
                    "projectcalico.org/affinity-type": "host",
                    "projectcalico.org/ip-version": "4"}},
                "spec": {"cidr": "10.0.0.0/26", "deleted": deleted, "node": "n1",
                    "state": "confirmed", "type": "host"},
            })
        };
        let value = r#"{"state":"confirmed","deleted":false}"#;
        let key = || affinity_key("n1", "10.0.0.0/26");
        check(ApiGroup::Crd, key(), value, expected("false".into()));
        check(ApiGroup::V3, key(), value, expected(false.into()));
    }

    #[test]
    fn a_handle_keeps_its_own_spelling_inside() {
        let expected = json!({"kind": "IPAMHandle", "metadata": {"name": "net.abc"},
            "spec": {"handleID": "net.ABC", "block": {"10.0.0.0/26": 2}}});
        let value = r#"{"block":{"10.0.0.0/26":2},"deleted":false}"#;
        for group in ApiGroup::ALL {
            check(group, Key::Handle("net.ABC".to_owned()), value, expected.clone());
        }
    }

    #[test]
    fn settings_have_another_kind_in_the_older_group() {
        let value = r#"{"strict_affinity":true,"auto_allocate_blocks":false,"maxBlocksPerHost":3}"#;
        let expected = |kind: &str| {
            json!({"kind": kind, "metadata": {"name": "default"},
                "spec": {"strictAffinity": true, "maxBlocksPerHost": 3, "autoAllocateBlocks": false}})
        };
        check(ApiGroup::Crd, Key::IpamConfig, value, expected("IPAMConfig"));
        check(ApiGroup::V3, Key::IpamConfig, value, expected("IPAMConfiguration"));
    }

    #[test]
    fn a_deletion_that_has_begun_is_seen() {
        let object = json!({"spec": {"cidr": "10.0.0.0/26", "deleted": "true", "node": "n", "state": "pendingDeletion"}});
        assert!(from_custom(Kind::BlockAffinity, &object).unwrap().deleted);
        assert!(from_custom(Kind::IpamBlock, &json!({"spec": {"cidr": "x"}})).is_err());
    }
}
