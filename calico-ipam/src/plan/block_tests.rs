use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use calico_core::datastore::Revision;

use super::*;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn of(handle: &str) -> AllocationAttribute {
    AllocationAttribute { handle_id: Some(handle.to_owned()), ..AllocationAttribute::default() }
}

fn block(cidr: &str) -> Block {
    Block::new(cidr.parse().unwrap(), Some(&Owner::host("n1")), at(1)).unwrap()
}

fn ips(allocations: &[Allocation]) -> Vec<String> {
    allocations.iter().map(|a| a.address.to_string()).collect()
}

fn entry(json: &str) -> Entry {
    let cidr = serde_json::from_str::<serde_json::Value>(json).unwrap()["cidr"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    Entry { key: Key::Block(cidr), value: Arc::from(json), revision: Revision(1) }
}

#[test]
fn addresses_come_in_order_and_return_to_the_end() {
    let mut block = block("10.0.0.0/30");
    let none = Reserved::default();
    let taken = block.assign(3, &of("a"), &none);
    assert_eq!(ips(&taken), ["10.0.0.0", "10.0.0.1", "10.0.0.2"]);
    let free = ReleaseCheck::default();
    block.release("10.0.0.1".parse().unwrap(), &free, Cooldown::default(), at(2)).unwrap();
    assert_eq!(ips(&block.assign(9, &of("b"), &none)), ["10.0.0.3", "10.0.0.1"]);
    assert_eq!(block.free(), 0);
    assert!(block.assign(1, &of("c"), &none).is_empty());
}

#[test]
fn reserved_addresses_are_skipped_by_automatic_assignment_only() {
    let mut block = block("10.0.0.0/30");
    let reserved = Reserved::new(["10.0.0.0/31".parse().unwrap()]);
    assert_eq!(ips(&block.assign(4, &of("a"), &reserved)), ["10.0.0.2", "10.0.0.3"]);
    assert!(block.assign_ip("10.0.0.0".parse().unwrap(), &of("b")).is_ok());
    let owner = block.assign_ip("10.0.0.0".parse().unwrap(), &of("c")).unwrap_err();
    assert_eq!(owner.handle_id.as_deref(), Some("b"));
}

#[test]
fn a_release_compares_handle_and_sequence() {
    let mut block = block("10.0.0.0/30");
    let ip: IpAddr = "10.0.0.0".parse().unwrap();
    let first = block.assign(1, &of("a"), &Reserved::default()).remove(0);
    let mut release = |handle: Option<&str>, sequence| {
        let check = ReleaseCheck { handle: handle.map(str::to_owned), sequence };
        block.release(ip, &check, Cooldown::default(), at(2)).map(|_| ())
    };
    assert_eq!(release(Some("b"), None), Err(NotReleased::OtherHandle(Some("a".into()))));
    assert_eq!(release(None, Some(1)), Err(NotReleased::Reassigned(first.sequence)));
    assert_eq!(release(Some("a"), first.sequence), Ok(()));
    assert_eq!(release(None, None), Err(NotReleased::Unassigned));
}

#[test]
fn equal_attributes_share_an_entry_and_unused_ones_go() {
    let mut block = block("10.0.0.0/29");
    let none = Reserved::default();
    for handle in ["a", "b", "a", "c"] {
        block.assign(1, &of(handle), &none);
    }
    assert_eq!(block.data().attributes.len(), 3);
    assert_eq!(block.release_handle("a", Cooldown::default(), at(2)).len(), 2);
    assert_eq!(block.data().attributes, [of("b"), of("c")]);
    assert_eq!(block.of_handle("b"), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
    assert_eq!(block.of_handle("c"), ["10.0.0.3".parse::<IpAddr>().unwrap()]);
    assert_eq!(block.in_use(), 2);
}

#[test]
fn a_released_address_rests_and_the_one_released_first_returns_first() {
    let mut block = block("10.0.0.0/30");
    let none = Reserved::default();
    let rest = Cooldown { rest: Duration::from_secs(10) };
    for handle in ["a", "b", "c", "d"] {
        block.assign(1, &of(handle), &none);
    }
    block.release_handle("c", rest, at(100));
    block.release_handle("a", rest, at(101));
    assert_eq!((block.free(), block.in_use(), block.is_empty()), (0, 2, false));
    assert_eq!(block.thaw(rest, at(109)), 0);
    assert_eq!(block.thaw(rest, at(111)), 2);
    assert_eq!(ips(&block.assign(2, &of("e"), &none)), ["10.0.0.2", "10.0.0.0"]);
}

#[test]
fn the_json_is_upstreams() {
    let mut block = block("10.0.0.0/30");
    let to = AllocationAttribute {
        handle_id: Some("net.abc".into()),
        secondary: BTreeMap::from([("node".to_owned(), "n1".to_owned())]),
        ..AllocationAttribute::default()
    };
    block.assign(1, &to, &Reserved::default());
    assert_eq!(
        block.next_write(),
        r#"{"cidr":"10.0.0.0/30","affinity":"host:n1","affinity_claim_time":"1970-01-01T00:00:01Z","#
            .to_owned()
            + r#""allocations":[0,null,null,null],"unallocated":[1,2,3],"#
            + r#""attributes":[{"handle_id":"net.abc","secondary":{"node":"n1"}}],"#
            + r#""sequenceNumber":1000000001,"sequenceNumberForAllocation":{"0":1000000000},"#
            + r#""deleted":false}"#
    );
}

#[test]
fn stored_blocks_are_checked_and_their_free_list_repaired() {
    let base = r#"{"cidr":"10.0.0.0/30","allocations":[0,null,null,null],"attributes":[{}]"#;
    let read = |rest: &str| Block::read(&entry(&format!("{base}{rest}}}")));
    // Ordinal 0 is assigned, 9 lies outside, 2 comes twice, 1 is missing.
    let block = read(r#","unallocated":[2,0,9,2,3],"hostAffinity":"n7""#).unwrap();
    assert_eq!(block.data().unallocated, [2, 3, 1]);
    assert_eq!(block.owner(), Some(Owner::host("n7")));
    for bad in [
        r#"{"cidr":"10.0.0.0/30","allocations":[0,null,null,null],"attributes":[]}"#,
        r#"{"cidr":"10.0.0.0/30","allocations":[null],"attributes":[]}"#,
        r#"{"cidr":"10.0.0.0/8","allocations":[],"attributes":[]}"#,
    ] {
        assert!(Block::read(&entry(bad)).is_err(), "{bad}");
    }
}
