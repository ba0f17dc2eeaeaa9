//! Owners of a virtual machine's address.

use super::*;

#[tokio::test]
async fn an_address_moves_with_its_virtual_machine() {
    let cluster = Cluster::with(&[("p", r#"{"cidr":"10.0.0.0/28","blockSize":28}"#)]).await;
    cluster.config(r#"{"ipCooldownSeconds":30}"#).await;
    let ipam = cluster.ipam();
    let on = |pod: &str, node: &str| -> OwnerAttributes {
        labels(&[("pod", pod), ("namespace", "default"), ("node", node)])
    };
    let named =
        |pod: &str| -> OwnerAttributes { labels(&[("pod", pod), ("namespace", "default")]) };
    let vm = "k8s-pod-network.vmi.default.vm1";
    let mut wish = request(("n1", &[], 1, 0), vm);
    wish.attributes = on("source", "n1");
    let ip = assign(&ipam, wish).await.unwrap()[0];
    let owners = async || {
        let found = ipam.lookup(ip).await.unwrap().unwrap().attributes;
        (found.secondary, found.alternate_owner_attrs)
    };
    let nobody = OwnerAttributes::new();

    // The target prepares, the machine arrives, the source leaves; each step may be repeated.
    for _ in 0..2 {
        ipam.add_owner(ip, vm, &on("target", "n2")).await.unwrap();
        assert_eq!(owners().await, (on("source", "n1"), on("target", "n2")));
    }
    let refused = ipam.add_owner(ip, vm, &on("third", "n3")).await.unwrap_err().to_string();
    assert!(refused.contains("pod=target"), "{refused}");
    for _ in 0..2 {
        ipam.hand_over(ip, vm, &named("target")).await.unwrap();
        assert_eq!(owners().await, (on("target", "n2"), on("source", "n1")));
    }
    assert_eq!(ipam.drop_owner(ip, vm, &named("source")).await.unwrap(), Left::ToTheOther);
    assert_eq!(owners().await, (on("target", "n2"), nobody.clone()));
    assert_eq!(ipam.drop_owner(ip, vm, &named("source")).await.unwrap(), Left::NoOwner);

    // A move that fails: the target goes, the machine stays where it is.
    ipam.add_owner(ip, vm, &on("third", "n3")).await.unwrap();
    assert_eq!(ipam.drop_owner(ip, vm, &named("third")).await.unwrap(), Left::ToTheOther);
    // A source that dies during the move leaves the address to the target.
    ipam.add_owner(ip, vm, &on("third", "n3")).await.unwrap();
    assert_eq!(ipam.drop_owner(ip, vm, &named("target")).await.unwrap(), Left::ToTheOther);
    assert_eq!(owners().await, (on("third", "n3"), nobody));

    // Not to whoever has another handle, is not an owner, or says nothing.
    for (handle, who) in [("other", named("third")), (vm, named("source")), (vm, labels(&[]))] {
        assert!(ipam.hand_over(ip, handle, &who).await.is_err(), "{handle} {who:?}");
    }
    // The machine is stopped, and starts again elsewhere with its address.
    assert_eq!(ipam.suspend_owner(ip, vm, &named("third")).await.unwrap(), Left::ToNobody);
    assert_eq!(ipam.addresses_by_handle(vm).await.unwrap(), [ip]);
    ipam.add_owner(ip, vm, &on("fourth", "n4")).await.unwrap();
    assert_eq!(owners().await, (on("fourth", "n4"), labels(&[])));

    // Both at once, under conditions; upstream's `SetOwnerAttributes`.
    let nobody = || Some(labels(&[]));
    for (first, second, if_first, if_second, allowed) in [
        (None, Some(on("fifth", "n5")), Some(named("other")), None, false),
        (None, Some(on("fifth", "n5")), None, Some(named("other")), false),
        (None, Some(on("fifth", "n5")), Some(named("fourth")), nobody(), true),
        (None, nobody(), None, nobody(), false),
        (nobody(), None, Some(named("fourth")), Some(named("fifth")), true),
        (Some(on("fifth", "n5")), nobody(), nobody(), Some(named("fifth")), true),
        (Some(on("third", "n3")), None, Some(named("fifth")), nobody(), true),
    ] {
        let before = owners().await;
        let change = OwnerChange { first, second, if_first, if_second };
        assert_eq!(ipam.set_owners(ip, vm, &change).await.is_ok(), allowed, "{change:?}");
        let now = owners().await;
        let unless = |new: &Option<OwnerAttributes>, old| new.clone().unwrap_or(old);
        let after =
            (unless(&change.first, before.0.clone()), unless(&change.second, before.1.clone()));
        assert_eq!(now, if allowed { after } else { before }, "{change:?}");
    }
    assert!(ipam.set_owners(ip, "other", &OwnerChange::default()).await.is_err());

    assert_eq!(ipam.check().await.unwrap(), []);
    assert_eq!(ipam.drop_owner(ip, vm, &named("third")).await.unwrap(), Left::Released);
    assert!(cluster.paths(&Scope::Handles).await.is_empty());
    assert_eq!(cluster.assigned().await, []);
    assert!(ipam.lookup(ip).await.unwrap().unwrap().attributes.released_at.is_some(), "it rests");
}
